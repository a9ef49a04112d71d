//! Each finding holds when its rule says so, and its guard holds it back.

use super::*;
use crate::call::RateLimit;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + secs)
}

/// A scripted process: each `call` is one finished call of one second.
struct Script {
    findings: Findings,
    limits: Limits,
    retry: Retry,
    hash: u64,
    client: Option<Arc<str>>,
    short_lived: bool,
    pool: bool,
    named: bool,
    organization: OrgIds<'static>,
}

impl Script {
    fn new() -> Self {
        Self {
            findings: Findings::default(),
            limits: Limits::default(),
            retry: Retry::NotNeeded,
            hash: 0,
            client: None,
            short_lived: false,
            pool: false,
            named: false,
            organization: OrgIds::default(),
        }
    }

    fn call_at(&mut self, started: SystemTime, key: &str, outcome: Outcome) -> Vec<Finding> {
        let key: Fingerprint = format!("openai:{key:0>12}").parse().unwrap();
        let mut found = Vec::new();
        let observed = Observed {
            key: &key,
            short_lived: self.short_lived,
            named: self.named,
            pool: self.pool,
            host: "api.example",
            client: self.client.as_ref(),
            account: None,
            request_hash: self.hash,
            started,
            ended: started + Duration::from_secs(1),
            outcome,
            retry: self.retry,
            limits: &self.limits,
            organization: self.organization,
        };
        self.findings.observe(&observed, &mut found);
        found
    }

    fn call(&mut self, secs: u64, key: &str, outcome: Outcome) -> Vec<Finding> {
        self.call_at(at(secs), key, outcome)
    }
}

#[test]
fn stale_key() {
    let mut script = Script::new();
    script.call(0, "a", Outcome::Ok);
    script.call(60 * MINUTE, "b", Outcome::Ok);
    assert_eq!(script.call(61 * MINUTE, "a", Outcome::AuthInvalid), [], "the new key worked only once");
    script.call(62 * MINUTE, "b", Outcome::Ok);
    assert_eq!(script.call(63 * MINUTE, "a", Outcome::AuthInvalid), [Finding::StaleKey]);
    assert_eq!(script.call(64 * MINUTE, "a", Outcome::AuthRevoked), [Finding::StaleKey]);
    assert_eq!(script.call(64 * MINUTE, "a", Outcome::RateLimitTokens), []);
    assert_eq!(script.call(65 * MINUTE, "b", Outcome::AuthInvalid), [], "the newer key is not stale");
    assert_eq!(script.call(66 * MINUTE, "c", Outcome::AuthInvalid), [], "never seen before the newer one");
}

#[test]
fn keys_in_turn_and_short_lived_ones_are_not_stale() {
    let mut script = Script::new();
    for minute in 0..6 {
        script.call(2 * minute * MINUTE, "a", Outcome::Ok);
        script.call((2 * minute + 1) * MINUTE, "b", Outcome::Ok);
    }
    assert_eq!(script.call(12 * MINUTE, "a", Outcome::AuthInvalid), [], "both worked within ten minutes");
    let mut tokens = Script::new();
    tokens.short_lived = true;
    tokens.call(0, "a", Outcome::Ok);
    tokens.call(HOUR, "b", Outcome::Ok);
    tokens.call(HOUR + 1, "b", Outcome::Ok);
    assert_eq!(tokens.call(2 * HOUR, "a", Outcome::AuthInvalid), []);
    let mut other_client = Script::new();
    other_client.call(0, "a", Outcome::Ok);
    other_client.client = Some("other".into());
    other_client.call(HOUR, "b", Outcome::Ok);
    other_client.call(HOUR + 1, "b", Outcome::Ok);
    other_client.client = None;
    assert_eq!(other_client.call(2 * HOUR, "a", Outcome::AuthInvalid), [], "another application's rotation");
}

#[test]
fn old_key_still_used() {
    let mut script = Script::new();
    script.call(0, "a", Outcome::Ok);
    script.call(HOUR, "b", Outcome::Ok);
    script.call(HOUR + 1, "b", Outcome::Ok);
    assert_eq!(script.call(24 * HOUR, "a", Outcome::Ok), [], "within a day");
    assert_eq!(script.call(25 * HOUR + 10, "a", Outcome::Ok), [Finding::OldKeyStillUsed]);
    assert_eq!(script.call(26 * HOUR, "b", Outcome::Ok), [], "the newer key");
    script.pool = true;
    assert_eq!(script.call(27 * HOUR, "a", Outcome::Ok), [], "a pool");
}

#[test]
fn shared_key() {
    let use_by = |script: &mut Script, client: &str, minute: u64| {
        script.client = Some(client.into());
        script.call(minute * MINUTE, "a", Outcome::Ok)
    };
    let mut script = Script::new();
    for minute in [0, 5, 10] {
        for client in ["x", "y", "z"] {
            assert_eq!(use_by(&mut script, client, minute), [], "minute {minute}");
        }
    }
    assert_eq!(use_by(&mut script, "x", 20), []);
    assert_eq!(use_by(&mut script, "y", 20), []);
    assert_eq!(use_by(&mut script, "z", 20), [Finding::SharedKey]);
    // One goes away: after an hour two are left.
    assert_eq!(use_by(&mut script, "x", 85), []);
    assert_eq!(use_by(&mut script, "y", 85), []);

    // A rolling deployment: each pod meets the next for five minutes.
    let mut rolling = Script::new();
    for pod in 0..20 {
        for minute in [0, 10, 20] {
            assert_eq!(use_by(&mut rolling, &format!("pod-{pod}"), pod * 15 + minute), [], "pod {pod}");
        }
    }
}

#[test]
fn quantised_burst() {
    let limit = |per_minute: f64| RateLimit {
        resource: LimitResource::Requests,
        limit: Some(per_minute),
        remaining: None,
        reset: None,
    };
    let burst = |script: &mut Script, calls: u32| {
        let mut last = Vec::new();
        for n in 0..calls {
            let started = at(1000) + Duration::from_millis(u64::from(n) * 10);
            last = script.call_at(started, "a", Outcome::RateLimitRequests);
        }
        last
    };
    let mut script = Script::new();
    script.limits.limits = vec![limit(600.0)];
    assert_eq!(burst(&mut script, 10), [], "a second's share");
    let mut script = Script::new();
    script.limits.limits = vec![limit(600.0)];
    assert_eq!(burst(&mut script, 12), [Finding::QuantisedBurst]);
    assert_eq!(script.call(1010, "a", Outcome::RateLimitRequests), [], "one alone");
    let mut unknown = Script::new();
    assert_eq!(burst(&mut unknown, 50), [], "no known limit");
    // Half of the minute's allowance is used: an honest limit.
    let mut busy = Script::new();
    busy.limits.limits = vec![limit(600.0)];
    for n in 0..300 {
        busy.call_at(at(950) + Duration::from_millis(n * 100), "a", Outcome::Ok);
    }
    assert_eq!(burst(&mut busy, 12), []);
}

#[test]
fn retry_storm() {
    let mut script = Script::new();
    script.hash = 7;
    script.retry = Retry::Never;
    for n in 0..5 {
        assert_eq!(script.call(n, "a", Outcome::AuthInvalid), [], "call {n}");
    }
    assert_eq!(script.call(5, "a", Outcome::AuthInvalid), [Finding::RetryStorm], "five after the refusal");
    assert_eq!(script.call(6, "b", Outcome::AuthInvalid), [], "another key");
    script.hash = 8;
    assert_eq!(script.call(6, "a", Outcome::AuthInvalid), [], "another request");
    script.hash = 7;
    assert_eq!(script.call(300, "a", Outcome::AuthInvalid), [], "slowly");
    let mut retryable = Script::new();
    retryable.hash = 7;
    retryable.retry = Retry::Backoff;
    for n in 0..20 {
        assert_eq!(retryable.call(n, "a", Outcome::ProviderError), []);
    }
}

#[test]
fn idle_key() {
    let mut script = Script::new();
    script.named = true;
    assert_eq!(script.call(0, "a", Outcome::Ok), [], "new is not idle");
    assert_eq!(script.call(29 * DAY, "a", Outcome::Ok), []);
    assert_eq!(script.call(60 * DAY, "a", Outcome::Ok), [Finding::IdleKey]);
    script.named = false;
    assert_eq!(script.call(120 * DAY, "a", Outcome::Ok), [], "only named keys");
}

#[test]
fn org_header_set() {
    let ids = |asked, answered| OrgIds { asked: (asked, None), answered: (answered, None) };
    assert!(ids(Some("org-a"), None).disagree(Outcome::OrgProjectMismatch));
    assert!(!ids(None, None).disagree(Outcome::OrgProjectMismatch), "no header");
    assert!(ids(Some("org-a"), Some("org-b")).disagree(Outcome::Ok));
    assert!(!ids(Some("org-a"), Some("org-a")).disagree(Outcome::Ok));
    assert!(!ids(Some("org-a"), Some("acme-inc")).disagree(Outcome::Ok), "a name, not an id");
    let mut script = Script::new();
    script.organization = OrgIds { asked: (None, Some("proj_a")), answered: (None, Some("proj_b")) };
    assert_eq!(script.call(0, "a", Outcome::Ok), [Finding::OrgHeaderSet]);
}

#[test]
fn the_story_of_a_key() {
    let mut script = Script::new();
    script.call(0, "a", Outcome::Ok);
    script.call(10, "a", Outcome::AuthInvalid);
    script.call(20, "a", Outcome::ClientCancelled);
    let key = format!("openai:{:0>12}", "a").parse().unwrap();
    let history = script.findings.history(&key).unwrap();
    assert_eq!((history.first_seen, history.last_used), (at(0), at(20)));
    assert_eq!(history.last_success, Some(at(1)));
    assert_eq!(history.last_failure, Some((at(11), Outcome::AuthInvalid)));
    assert_eq!(history.successes, 1);
}

#[test]
fn memory_stays_bounded_and_clocks_may_jump() {
    let mut script = Script::new();
    script.retry = Retry::Never;
    for n in 0..20_000u64 {
        script.hash = n + 1;
        script.client = Some(format!("client-{}", n % 1000).into());
        script.call(n * 7919 % 100_000, &format!("{n:x}"), Outcome::AuthInvalid);
    }
    assert!(script.findings.keys.len() <= MAX_KEYS);
    assert!(script.findings.pairs.len() <= MAX_PAIRS);
    assert!(script.findings.storms.len() <= MAX_STORMS);
    assert!(script.findings.pairs.iter().all(|(_, keys)| keys.len() <= MAX_KEYS_OF_PAIR));
    for n in 0..1000u64 {
        script.client = Some(format!("client-{n}").into());
        script.call(n, "a", Outcome::Ok);
    }
    assert!(script.findings.keys.iter().all(|(_, state)| state.clients.len() <= MAX_CLIENTS));
    script.call_at(SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 40), "a", Outcome::RateLimitRequests);
}
