//! What can be said of a key from how it was used before: its life story, and the findings that need one.
//!
//! In: one finished call at a time ([`Observed`]), times as arguments. Out: the findings that hold on this call.
//! Findings that one request shows by itself come from `provider`; these here need memory, or the outcome:
//! `stale_key`, `old_key_still_used`, `shared_key`, `quantised_burst`, `retry_storm`, `idle_key`, `org_header_set`.
//!
//! Everything is bounded, the least recently used is forgotten first, and what is forgotten raises no finding. Worst
//! case, about 3 MiB: 1,024 keys of 1.4 KiB (mostly arrivals), 256 applications of 16 keys, 1,024 storms.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::quality::RandomState;

use crate::call::{Finding, Fingerprint, LimitResource, Limits, Outcome, Retry};
use crate::recent::Recent;

/// Keys whose story is kept: five times as many as may be labels, so that a flood of made-up keys does not push out the
/// real ones at once.
pub const MAX_KEYS: usize = 1024;
/// Pairs of application and host. One pod has a handful.
const MAX_PAIRS: usize = 256;
/// Keys of one pair: a rotation has two.
const MAX_KEYS_OF_PAIR: usize = 16;
/// Applications that are told apart for one key; three make a finding.
const MAX_CLIENTS: usize = 16;
/// Requests that were refused for good and may come again.
const MAX_STORMS: usize = 1024;

/// Two keys that both worked within this time are used in turn: no rotation.
const ROUND_ROBIN: Duration = Duration::from_secs(10 * 60);
/// An old key may live on for a day after its successor worked.
const OLD_KEY_GRACE: Duration = Duration::from_secs(24 * 3600);
/// Applications share a key when three of them used it within this time …
const SHARED_WITHIN: Duration = Duration::from_secs(3600);
/// … and at the same time for this long; in a rolling deployment old and new ones meet for less.
const SHARED_OVERLAP: Duration = Duration::from_secs(15 * 60);
const SHARED_CLIENTS: usize = 3;
/// A storm is this many calls within [`STORM_WITHIN`] after the refusal. SDKs try again two to four times.
const STORM_CALLS: usize = 5;
const STORM_WITHIN: Duration = Duration::from_secs(60);
/// Hosts at which one key is known to have worked.
const MAX_HOSTS: usize = 4;
/// A named key that rested for this long is idle.
pub const IDLE: Duration = Duration::from_secs(30 * 24 * 3600);

/// What one finished call says of its key.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The key.
    pub key: &'a Fingerprint,
    /// It is a short-lived token: those rotate by design.
    pub short_lived: bool,
    /// It has a name in config.
    pub named: bool,
    /// It belongs to a pool of keys that are used in turn.
    pub pool: bool,
    /// The provider's host.
    pub host: &'a str,
    /// The application, where known.
    pub client: Option<&'a Arc<str>>,
    /// Organization that pays, hashed or named, where the answer told.
    pub account: Option<&'a Arc<str>>,
    /// Hash of the request; 0 if unknown.
    pub request_hash: u64,
    /// When the call began.
    pub started: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether it may be sent again.
    pub retry: Retry,
    /// What the answer said of limits.
    pub limits: &'a Limits,
    /// Ids in the request's organization and project headers, and in the answer's.
    pub organization: OrgIds<'a>,
}

/// Organization and project, as the request asks for them and as the answer names them.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrgIds<'a> {
    /// `OpenAI-Organization` and `OpenAI-Project` of the request.
    pub asked: (Option<&'a str>, Option<&'a str>),
    /// `openai-organization` and `openai-project` of the answer.
    pub answered: (Option<&'a str>, Option<&'a str>),
}

/// The life story of a key since the process started.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyHistory {
    /// First call.
    pub first_seen: SystemTime,
    /// Last call.
    pub last_used: SystemTime,
    /// Last call that went well.
    pub last_success: Option<SystemTime>,
    /// The same by the provider's host, for the last [`MAX_HOSTS`] of them: a key that works at one provider says nothing
    /// about its refusal by another.
    pub last_success_at: Vec<(Box<str>, SystemTime)>,
    /// Last call that failed, and how.
    pub last_failure: Option<(SystemTime, Outcome)>,
    /// Calls that went well.
    pub successes: u64,
    /// Who pays, as far as an answer told.
    pub account: Option<Arc<str>>,
}

/// All that is remembered.
#[derive(Debug)]
pub struct Findings {
    keys: Recent<Fingerprint, KeyState>,
    /// By hash of host and application.
    pairs: Recent<u64, Vec<KeyOfPair>>,
    /// By hash of key and request.
    storms: Recent<u64, Storm>,
    hasher: RandomState,
}

#[derive(Debug)]
struct KeyState {
    history: KeyHistory,
    clients: Vec<ClientOfKey>,
    arrivals: Arrivals,
}

#[derive(Debug)]
struct ClientOfKey {
    client: Arc<str>,
    first: SystemTime,
    last: SystemTime,
}

#[derive(Debug)]
struct KeyOfPair {
    key: Fingerprint,
    first_seen: SystemTime,
    last_used: SystemTime,
    first_ok: Option<SystemTime>,
    last_ok: Option<SystemTime>,
    ok_count: u64,
    short_lived: bool,
    pool: bool,
}

#[derive(Debug, Default)]
struct Storm {
    /// Starts of the last calls after the refusal, the newest last.
    calls: [Option<SystemTime>; STORM_CALLS],
}

/// Calls of the last minute by second and of the last second by tenth, by when they began.
#[derive(Debug)]
struct Arrivals {
    seconds: [(u64, u32); 60],
    tenths: [(u64, u32); 10],
}

// === impl Findings ===

impl Default for Findings {
    fn default() -> Self {
        Self {
            keys: Recent::new(MAX_KEYS),
            pairs: Recent::new(MAX_PAIRS),
            storms: Recent::new(MAX_STORMS),
            hasher: RandomState::default(),
        }
    }
}

impl Findings {
    /// Takes one finished call; adds to `found` what holds on it.
    pub fn observe(&mut self, call: &Observed<'_>, found: &mut Vec<Finding>) {
        let mut add = |finding: Finding, holds: bool| {
            if holds && !found.contains(&finding) {
                found.push(finding);
            }
        };
        add(Finding::OrgHeaderSet, call.organization.disagree(call.outcome));
        add(Finding::RetryStorm, self.storm(call));
        let (stale, old) = self.rotation(call);
        add(Finding::StaleKey, stale);
        add(Finding::OldKeyStillUsed, old);

        let is_new = self.keys.peek(call.key).is_none();
        let state = self.keys.get_or_insert_with(call.key.clone(), || KeyState::new(call));
        add(Finding::IdleKey, !is_new && call.named && since(call.started, state.history.last_used) >= IDLE);
        state.arrivals.add(call.started);
        add(Finding::QuantisedBurst, state.arrivals.burst(call));
        add(Finding::SharedKey, state.shared(call));
        state.history.update(call);
    }

    /// The story of one key, if it was seen and not forgotten.
    pub fn history(&self, key: &Fingerprint) -> Option<&KeyHistory> {
        self.keys.peek(key).map(|state| &state.history)
    }

    /// All stories, in no order.
    pub fn histories(&self) -> impl Iterator<Item = (&Fingerprint, &KeyHistory)> {
        self.keys.iter().map(|(key, state)| (key, &state.history))
    }

    fn storm(&mut self, call: &Observed<'_>) -> bool {
        if call.request_hash == 0 {
            return false;
        }
        let id = self.hasher.hash_one((call.key, call.request_hash));
        let refused = call.retry == Retry::Never && call.outcome.is_failure();
        let mut holds = false;
        if let Some(storm) = self.storms.get(&id) {
            storm.calls.rotate_left(1);
            storm.calls[STORM_CALLS - 1] = Some(call.started);
            holds = storm.calls[0].is_some_and(|oldest| since(call.started, oldest) <= STORM_WITHIN);
        } else if refused {
            self.storms.get_or_insert_with(id, Storm::default);
        }
        if !call.outcome.is_failure() {
            self.storms.remove(&id);
        }
        holds
    }

    /// Is this key the older one of a rotation, refused (`stale_key`) or still accepted (`old_key_still_used`)?
    fn rotation(&mut self, call: &Observed<'_>) -> (bool, bool) {
        let id = self.hasher.hash_one((call.host, call.client));
        let keys = self.pairs.get_or_insert_with(id, Vec::new);
        let at = match keys.iter().position(|known| known.key == *call.key) {
            Some(at) => at,
            None => {
                if keys.len() >= MAX_KEYS_OF_PAIR
                    && let Some(oldest) = (0..keys.len()).min_by_key(|&at| keys[at].last_used)
                {
                    keys.swap_remove(oldest);
                }
                keys.push(KeyOfPair::new(call));
                keys.len() - 1
            }
        };
        let known = &mut keys[at];
        known.last_used = known.last_used.max(call.started);
        known.pool = call.pool;
        let ok = call.outcome == Outcome::Ok;
        if ok {
            known.first_ok.get_or_insert(call.ended);
            known.last_ok = Some(call.ended);
            known.ok_count += 1;
        }
        let mine = &keys[at];
        if mine.short_lived || mine.pool {
            return (false, false);
        }
        let refused = matches!(call.outcome, Outcome::AuthInvalid | Outcome::AuthRevoked);
        let mut successors = keys.iter().filter(|other| {
            other.key != mine.key
                && !other.short_lived
                && !other.pool
                && other.ok_count >= 2
                && mine.first_seen < other.first_seen
        });
        let recently = |time: Option<SystemTime>| time.is_some_and(|time| since(call.ended, time) <= ROUND_ROBIN);
        if refused {
            (successors.any(|other| !(recently(mine.last_ok) && recently(other.last_ok))), false)
        } else {
            let worked_long =
                |other: &KeyOfPair| other.first_ok.is_some_and(|first_ok| since(call.ended, first_ok) >= OLD_KEY_GRACE);
            (false, ok && successors.any(worked_long))
        }
    }
}

// === impl KeyState, KeyHistory, KeyOfPair ===

impl KeyState {
    fn new(call: &Observed<'_>) -> Self {
        let history = KeyHistory {
            first_seen: call.started,
            last_used: call.started,
            last_success: None,
            last_success_at: Vec::new(),
            last_failure: None,
            successes: 0,
            account: None,
        };
        Self { history, clients: Vec::new(), arrivals: Arrivals::default() }
    }

    /// Three applications, this one among them, used the key within an hour and side by side.
    fn shared(&mut self, call: &Observed<'_>) -> bool {
        let Some(client) = call.client else { return false };
        let at = call.started;
        match self.clients.iter_mut().find(|known| known.client == *client) {
            Some(known) => {
                if since(at, known.last) > SHARED_WITHIN {
                    known.first = at;
                }
                known.last = known.last.max(at);
            }
            None => {
                if self.clients.len() >= MAX_CLIENTS
                    && let Some(oldest) = (0..self.clients.len()).min_by_key(|&at| self.clients[at].last)
                {
                    self.clients.swap_remove(oldest);
                }
                self.clients.push(ClientOfKey { client: client.clone(), first: at, last: at });
            }
        }
        let Some(mine) = self.clients.iter().find(|known| known.client == *client) else { return false };
        let beside = self.clients.iter().filter(|other| {
            let overlap = since(mine.last.min(other.last), mine.first.max(other.first));
            since(at, other.last) <= SHARED_WITHIN && overlap >= SHARED_OVERLAP
        });
        // `mine` is beside itself once it has been there for long enough.
        beside.count() >= SHARED_CLIENTS
    }
}

impl KeyHistory {
    fn update(&mut self, call: &Observed<'_>) {
        self.first_seen = self.first_seen.min(call.started);
        self.last_used = self.last_used.max(call.started);
        if call.outcome == Outcome::Ok {
            self.last_success = self.last_success.max(Some(call.ended));
            self.successes += 1;
            self.worked_at(call.host, call.ended);
        } else if call.outcome.is_failure() {
            self.last_failure = Some((call.ended, call.outcome));
        }
        if let Some(account) = call.account {
            self.account = Some(account.clone());
        }
    }
}

impl KeyHistory {
    /// Last call to this host that went well.
    pub fn last_success_at(&self, host: &str) -> Option<SystemTime> {
        self.last_success_at.iter().find(|(known, _)| &**known == host).map(|(_, time)| *time)
    }

    fn worked_at(&mut self, host: &str, time: SystemTime) {
        if let Some((_, known)) = self.last_success_at.iter_mut().find(|(known, _)| &**known == host) {
            *known = time.max(*known);
            return;
        }
        if self.last_success_at.len() >= MAX_HOSTS
            && let Some(oldest) = (0..MAX_HOSTS).min_by_key(|&at| self.last_success_at[at].1)
        {
            self.last_success_at.swap_remove(oldest);
        }
        self.last_success_at.push((host.into(), time));
    }
}

impl KeyOfPair {
    fn new(call: &Observed<'_>) -> Self {
        Self {
            key: call.key.clone(),
            first_seen: call.started,
            last_used: call.started,
            first_ok: None,
            last_ok: None,
            ok_count: 0,
            short_lived: call.short_lived,
            pool: call.pool,
        }
    }
}

// === impl OrgIds ===

impl OrgIds<'_> {
    /// The provider refused the pair of key and header, or another organization answered than was asked for. Names and
    /// ids differ by design, so only ids (`org-…`, `proj_…`) are compared.
    fn disagree(&self, outcome: Outcome) -> bool {
        let set = self.asked.0.is_some() || self.asked.1.is_some();
        let differ = |asked: Option<&str>, answered: Option<&str>, prefix: &str| {
            let ids = asked.zip(answered).filter(|(a, b)| a.starts_with(prefix) && b.starts_with(prefix));
            ids.is_some_and(|(asked, answered)| asked != answered)
        };
        set && outcome == Outcome::OrgProjectMismatch
            || differ(self.asked.0, self.answered.0, "org-")
            || differ(self.asked.1, self.answered.1, "proj_")
    }
}

// === impl Arrivals ===

impl Default for Arrivals {
    fn default() -> Self {
        Self { seconds: [(0, 0); 60], tenths: [(0, 0); 10] }
    }
}

impl Arrivals {
    fn add(&mut self, at: SystemTime) {
        let tenth = tenths(at);
        bump(&mut self.seconds, tenth / 10);
        bump(&mut self.tenths, tenth);
    }

    /// Refused for requests a minute, with less than half of them used in the last minute, but more than a second's
    /// share in the last second. Calls that have not ended yet are not known here, so a burst may go unnoticed; it is
    /// never made up.
    fn burst(&self, call: &Observed<'_>) -> bool {
        if call.outcome != Outcome::RateLimitRequests {
            return false;
        }
        let of_requests = call.limits.limits.iter().find(|limit| limit.resource == LimitResource::Requests);
        let Some(per_minute) = of_requests.and_then(|limit| limit.limit).filter(|limit| *limit > 0.0) else {
            return false;
        };
        let tenth = tenths(call.started);
        let last_minute = sum(&self.seconds, tenth / 10);
        let last_second = sum(&self.tenths, tenth);
        last_minute < 0.5 * per_minute && last_second > per_minute / 60.0
    }
}

fn tenths(at: SystemTime) -> u64 {
    u64::try_from(since(at, SystemTime::UNIX_EPOCH).as_millis() / 100).unwrap_or(u64::MAX)
}

/// Counts one more in the slot of `time`; what is older than the ring is left out.
fn bump<const N: usize>(ring: &mut [(u64, u32); N], time: u64) {
    let slot = &mut ring[(time % N as u64) as usize];
    if slot.0 < time {
        *slot = (time, 0);
    }
    if slot.0 == time {
        slot.1 = slot.1.saturating_add(1);
    }
}

/// All counts of the `N` slots up to `time`.
fn sum<const N: usize>(ring: &[(u64, u32); N], time: u64) -> f64 {
    let in_window = |slot: &&(u64, u32)| slot.0 <= time && slot.0.saturating_add(N as u64) > time;
    ring.iter().filter(in_window).map(|slot| f64::from(slot.1)).sum()
}

/// Zero when `earlier` is later: clocks jump, and calls end out of order.
fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

#[cfg(test)]
#[path = "finding_tests.rs"]
mod tests;
