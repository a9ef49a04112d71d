//! One call in, one record out.

use super::fixture::facts;
use super::*;
use crate::call::*;

/// Stands for the rules: tells by the status alone.
struct ByStatus;

impl Classify for ByStatus {
    fn judge(&self, facts: &CallFacts, worked: Option<Duration>) -> Judgement {
        let (outcome, fault, retry) = match facts.response.as_ref().map(|response| response.status) {
            Some(200..300) => (Outcome::Ok, Fault::None, Retry::NotNeeded),
            Some(401) => (Outcome::AuthInvalid, Fault::Key, Retry::Never),
            Some(_) => (Outcome::ProviderError, Fault::Provider, Retry::Backoff),
            None => (Outcome::NetworkError, Fault::Network, Retry::Backoff),
        };
        let error_code = worked.map(|worked| format!("worked {} s ago", worked.as_secs()));
        Judgement { outcome, fault, retry, first_fix: None, error_type: None, error_code }
    }

    fn fix(&self, _: &str, _: Option<Duration>) -> Option<String> {
        None
    }
}

fn config() -> MeterConfig {
    MeterConfig {
        keys: Vec::new(),
        prices: Arc::new(PriceBook::bundled(Vec::new())),
        rules: Arc::new(ByStatus),
        estimate: true,
        labels: Arc::from([("app".to_owned(), "search".to_owned())]),
        client: Some("search".into()),
        accounts: AccountNames::default(),
        max_models: 200,
    }
}

fn finish(meter: &Meter, facts: CallFacts) -> Arc<CallRecord> {
    let now = facts.started + Duration::from_secs(2);
    meter.finish(facts, Limits::default(), now)
}

fn cost(text: &str) -> Option<Money> {
    Some(Money::parse(text).unwrap())
}

fn key_entry(name: &str) -> KeyEntry {
    KeyEntry {
        fingerprint: "openai:3f9a0c41b2d7".parse().unwrap(),
        name: name.into(),
        team: Some("search".into()),
        env: Some("prod".into()),
        anomaly_ratio: 3.0,
        anomaly_min_usd_per_hour: 1.0,
        new_key_usd_per_hour: 5.0,
        budget_usd_day: None,
        budget_usd_month: None,
        pool: false,
    }
}

#[test]
fn a_plain_call() {
    let meter = Meter::new(MeterConfig { keys: vec![key_entry("search-prod")], ..config() });
    let record = finish(&meter, facts());
    assert_eq!((record.outcome, record.cost, record.unpriced_reason), (Outcome::Ok, cost("0.15"), None));
    assert_eq!(record.usage_source, UsageSource::Reported);
    assert_eq!((record.priced_model.as_deref(), &*record.model_label), (Some("gpt-4o-mini"), "gpt-4o-mini"));
    assert_eq!(record.response_model.as_deref(), Some("gpt-4o-mini-2024-07-18"));
    assert_eq!(
        (record.key_label(), record.team.as_deref(), record.env.as_deref()),
        ("search-prod", Some("search"), Some("prod"))
    );
    assert_eq!((record.client.as_deref(), record.labels.len()), (Some("search"), 1));
    assert_eq!(record.findings, []);
}

#[test]
fn reload_replaces_config_and_keeps_memory() {
    let meter = Meter::new(config());
    assert_eq!(finish(&meter, facts()).key_label(), "openai:3f9a0c41b2d7");
    let mut rate = PriceOverride {
        provider: None,
        model: "gpt-4o-mini*".into(),
        input_per_mtok: Money::parse("3").unwrap(),
        output_per_mtok: Money::ZERO,
        cache_read_per_mtok: None,
        cache_write_per_mtok: None,
        per_request: None,
    };
    rate.provider = Some("openai".into());
    let prices = Arc::new(meter.prices().with_overrides(vec![rate]));
    meter.reload(MeterConfig { keys: vec![key_entry("named")], prices, max_models: 0, ..config() });
    let mut next = facts();
    next.reply.id = Some("chatcmpl-made-up-0002".into());
    let record = finish(&meter, next);
    assert_eq!((record.key_label(), record.cost), ("named", cost("3")));
    assert_eq!(&*record.model_label, "gpt-4o-mini", "labels outlive a reload");
    let history = meter.key_history(record.key.as_ref().unwrap()).unwrap();
    assert_eq!(history.successes, 2);
    assert_eq!(meter.key_histories().len(), 1);
    assert_eq!(meter.model_overflow(), 0);
}

#[test]
fn the_same_answer_is_billed_once() {
    let meter = Meter::new(config());
    assert_eq!(finish(&meter, facts()).cost, cost("0.15"));
    let again = finish(&meter, facts());
    assert_eq!((again.cost, again.unpriced_reason), (None, Some(UnpricedReason::RepeatedUsage)));
    assert!(again.usage.is_empty(), "its tokens are not counted again: {:?}", again.usage);
    let mut fetched = facts();
    fetched.request.method = "GET".into();
    fetched.reply.repeats_usage = true;
    fetched.reply.id = Some("resp-made-up-never-seen".into());
    assert_eq!(finish(&meter, fetched).unpriced_reason, Some(UnpricedReason::RepeatedUsage));
    // Some servers give every answer the same id.
    let mut other = facts();
    other.reply.usage = Some(Usage { input_tokens: Some(2_000_000), ..Usage::default() });
    assert_eq!(finish(&meter, other).cost, cost("0.3"));
    let mut short = facts();
    short.reply.id = Some("chatcmpl-123".into());
    assert_eq!(finish(&meter, short.clone()).cost, cost("0.15"));
    assert_eq!(finish(&meter, short).cost, cost("0.15"));
}

#[test]
fn a_background_answer_is_billed_when_its_usage_comes() {
    let meter = Meter::new(config());
    let mut queued = facts();
    queued.operation = Operation::Responses;
    queued.protocol = Protocol::OpenaiResponses;
    queued.reply.usage = None;
    queued.reply.id = Some("resp_made_up_0001".into());
    let mut polled = queued.clone();
    let record = finish(&meter, queued);
    assert_eq!((record.cost, record.unpriced_reason), (None, Some(UnpricedReason::NoUsage)));
    assert_eq!(record.usage_source, UsageSource::None);
    polled.request.method = "GET".into();
    polled.reply.repeats_usage = true;
    assert_eq!(finish(&meter, polled.clone()).unpriced_reason, Some(UnpricedReason::RepeatedUsage), "still queued");
    polled.reply.usage = facts().reply.usage;
    assert_eq!(finish(&meter, polled.clone()).cost, cost("0.15"));
    assert_eq!(finish(&meter, polled).unpriced_reason, Some(UnpricedReason::RepeatedUsage));
}

#[test]
fn what_is_not_billed() {
    let meter = Meter::new(config());
    let reason = |change: &dyn Fn(&mut CallFacts)| {
        let mut facts = facts();
        facts.reply.id = None;
        change(&mut facts);
        let record = finish(&meter, facts);
        assert!(record.cost.is_none() && record.usage_source == UsageSource::None || record.unpriced_reason.is_none());
        record.unpriced_reason
    };
    let status = |facts: &mut CallFacts, status: u16| facts.response.as_mut().unwrap().status = status;
    assert_eq!(reason(&|f| f.operation = Operation::CountTokens), Some(UnpricedReason::NotBilled));
    assert_eq!(reason(&|f| f.operation = Operation::Models), Some(UnpricedReason::NotBilled));
    assert_eq!(
        reason(&|f| {
            status(f, 401);
            f.reply = Reply::default();
        }),
        Some(UnpricedReason::NotBilled)
    );
    assert_eq!(reason(&|f| status(f, 500)), None, "an error that states usage is billed");
    assert_eq!(reason(&|f| f.reply.usage = None), Some(UnpricedReason::NoUsage));
    let session = |stream: Option<bool>| {
        reason(&|f| {
            (f.operation, f.protocol) = (Operation::Realtime, Protocol::Opaque);
            f.request.method = if stream.is_some() { "GET" } else { "POST" }.into();
            f.request.stream = stream;
            f.reply.usage = None;
        })
    };
    assert_eq!(session(None), Some(UnpricedReason::NotBilled), "a session is made, nothing is said in it");
    assert_eq!(session(Some(true)), Some(UnpricedReason::NoUsage), "a session in a format that is not read");
    let other = |method: &str, operation, billed| {
        reason(&|f| {
            (f.operation, f.billed, f.request.method, f.reply.usage) = (operation, billed, method.into(), None);
        })
    };
    assert_eq!(other("POST", Operation::Other, false), Some(UnpricedReason::NotBilled), "a file is uploaded");
    assert_eq!(other("POST", Operation::Other, true), Some(UnpricedReason::NoUsage), "a video is made");
    assert_eq!(other("GET", Operation::Other, true), Some(UnpricedReason::NotBilled), "and looked for");
    assert_eq!(other("POST", Operation::Batch, false), Some(UnpricedReason::NotBilled));
    assert_eq!(
        reason(&|f| {
            f.response = None;
            f.reply = Reply::default();
            f.end = End::NoAnswer;
            f.generated = Some(GeneratedError::Dns);
        }),
        Some(UnpricedReason::NotBilled)
    );
    assert_eq!(
        reason(&|f| {
            f.response = None;
            f.reply = Reply::default();
            f.end = End::NoAnswer;
            f.generated = Some(GeneratedError::ReadTimeout);
        }),
        Some(UnpricedReason::NoUsage),
        "the provider may have answered into the void"
    );
}

#[test]
fn local_calls_are_free_and_still_counted() {
    let meter = Meter::new(config());
    let mut local = facts();
    local.local = true;
    let record = finish(&meter, local);
    assert_eq!((record.cost, record.unpriced_reason), (None, Some(UnpricedReason::Free)));
    assert_eq!(record.usage.input_tokens, Some(1_000_000));
}

#[test]
fn cut_off_streams_are_estimated_unless_switched_off() {
    let cut = || {
        let mut facts = facts();
        facts.reply.stream = true;
        facts.reply.terminal = false;
        facts.reply.usage = None;
        facts.reply.output.push("hello world");
        facts.reply.output_events = 2;
        facts.request.prompt.push("hello world");
        facts.end = End::ClientCancelled;
        facts
    };
    let record = finish(&Meter::new(config()), cut());
    assert_eq!(record.usage_source, UsageSource::Estimated);
    assert_eq!((record.usage.input_tokens, record.usage.output_tokens), (Some(9), Some(2)));
    // 9 × $0.15 and 2 × $0.60 per million.
    assert_eq!(record.cost, cost("0.00000255"));
    let record = finish(&Meter::new(MeterConfig { estimate: false, ..config() }), cut());
    assert_eq!((record.usage_source, record.cost), (UsageSource::None, None));
    assert_eq!(record.unpriced_reason, Some(UnpricedReason::NoUsage));
}

#[test]
fn parts_are_added_and_priced() {
    let meter = Meter::new(config());
    let mut facts = facts();
    facts.reply.parts = vec![UsagePart {
        model: Some("o3".into()),
        usage: Usage { input_tokens: Some(1_000_000), ..Usage::default() },
    }];
    let record = finish(&meter, facts);
    assert_eq!((record.cost, record.usage.input_tokens), (cost("2.15"), Some(2_000_000)));
}

#[test]
fn stated_cost_wins_and_says_so() {
    let meter = Meter::new(config());
    let mut facts = facts();
    facts.reply.stated_cost = cost("0.5");
    facts.reply.injected = true;
    let record = finish(&meter, facts);
    assert_eq!((record.cost, record.cost_stated, record.usage_source), (cost("0.5"), true, UsageSource::Injected));
}

#[test]
fn accounts_are_hashed_or_named_and_remembered() {
    let accounts = AccountNames { names: [("org-made-up/proj_x".into(), "acme".into())].into(), salt: Vec::new() };
    let meter = Meter::new(MeterConfig { accounts, ..config() });
    let answer = |organization: &str| {
        let mut facts = facts();
        facts.response.as_mut().unwrap().headers =
            vec![("openai-organization".into(), organization.into()), ("openai-project".into(), "proj_x".into())];
        facts
    };
    assert_eq!(finish(&meter, answer("org-made-up")).account.as_deref(), Some("acme"));
    let mut refused = facts();
    refused.response.as_mut().unwrap().status = 401;
    assert_eq!(finish(&meter, refused).account.as_deref(), Some("acme"), "a refusal does not name it");
    let other = finish(&meter, answer("org-other"));
    let hash = other.account.as_deref().unwrap();
    assert!(hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
}

#[test]
fn rules_hear_when_the_key_last_worked() {
    let meter = Meter::new(config());
    finish(&meter, facts());
    let mut refused = facts();
    refused.started += Duration::from_secs(120);
    refused.response.as_mut().unwrap().status = 401;
    assert_eq!(finish(&meter, refused.clone()).error_code.as_deref(), Some("worked 120 s ago"));
    // That it works at one provider says nothing about another.
    refused.server_address = Arc::from("api.elsewhere.example");
    assert_eq!(finish(&meter, refused).error_code, None);
}

#[test]
fn retries_are_counted() {
    let meter = Meter::new(config());
    let call = |secs: u64, status: u16| {
        let mut facts = facts();
        facts.started += Duration::from_secs(secs);
        facts.response.as_mut().unwrap().status = status;
        facts
    };
    assert_eq!(finish(&meter, call(0, 500)).retry_count, 0);
    assert_eq!(finish(&meter, call(3, 500)).retry_count, 1);
    assert_eq!(finish(&meter, call(6, 200)).retry_count, 2);
    let mut stated = call(100, 200);
    stated.request.sdk_retry_count = Some(4);
    assert_eq!(finish(&meter, stated).retry_count, 4);
}

#[test]
fn any_facts_make_one_record() {
    let meter = Meter::new(config());
    let sizes = [None, Some(0), Some(1), Some(u64::MAX)];
    for operation in Operation::ALL {
        for end in End::ALL {
            for status in [None, Some(0), Some(200), Some(204), Some(429), Some(599), Some(u16::MAX)] {
                for (n, size) in sizes.into_iter().enumerate() {
                    let mut facts = facts();
                    facts.operation = *operation;
                    facts.end = *end;
                    facts.response = status.map(|status| ResponseFacts { status, ..ResponseFacts::default() });
                    facts.reply.terminal = n % 2 == 0;
                    facts.reply.usage = Some(Usage {
                        input_tokens: size,
                        output_tokens: sizes[(n + 1) % 4],
                        cache_read_tokens: size,
                        reasoning_tokens: size,
                        ..Usage::default()
                    });
                    facts.reply.parts = vec![UsagePart { model: None, usage: facts.reply.usage.clone().unwrap() }];
                    facts.request.model = (n > 1).then(|| "\u{0}é".repeat(100));
                    facts.reply.model = None;
                    facts.key.fingerprint = (n > 0).then(|| "openai:3f9a0c41b2d7".parse().unwrap());
                    facts.started = SystemTime::UNIX_EPOCH;
                    let now = SystemTime::UNIX_EPOCH - Duration::from_secs(n as u64);
                    let record = meter.finish(facts, Limits::default(), now);
                    assert_ne!(record.cost.is_some(), record.unpriced_reason.is_some(), "{record:?}");
                }
            }
        }
    }
}

#[test]
fn any_of_the_call_s_keys_is_masked_where_a_model_belongs() {
    let meter = Meter::new(config());
    for key in ["made-up-first-key", "made-up-second-key-of-no-family"] {
        let mut facts = facts();
        let print = |key: &str| ApiKey::new(key.as_bytes()).fingerprint("openai", &AccountNames::default().salt);
        facts.key.fingerprint = Some(print("made-up-first-key"));
        facts.key.length = "made-up-first-key".len();
        facts.key.others = vec![(print("made-up-second-key-of-no-family"), "made-up-second-key-of-no-family".len())];
        facts.request.model = Some(format!(" {key}"));
        facts.reply.model = None;
        assert_eq!(finish(&meter, facts).request_model.as_deref(), Some("***"), "{key}");
    }
}

/// The rules by their own: what is to be done first about a key that worked is not what a new key needs.
#[test]
fn a_key_that_worked_has_another_first_fix() {
    let rules = Rules::embedded();
    let refused = |provider: &str, status: u16, body: &str| {
        let mut facts = facts();
        facts.provider = provider.into();
        facts.response = Some(ResponseFacts { status, ..ResponseFacts::default() });
        facts.reply = Reply { error: Some(ErrorFacts { body: body.into(), in_stream: false }), ..Reply::default() };
        facts
    };
    let fix = |facts: &CallFacts, worked| {
        let judged = rules.judge(facts, worked);
        (judged.outcome, judged.first_fix.as_deref().unwrap_or_default().to_owned())
    };
    let before = Some(Duration::from_secs(185));
    let wrong =
        refused("openai", 401, r#"{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}"#);
    assert_eq!(fix(&wrong, None), (Outcome::AuthInvalid, "auth_invalid".to_owned()));
    assert_eq!(fix(&wrong, before), (Outcome::AuthInvalid, "key_worked_before".to_owned()));
    let mistral = refused("mistral", 401, r#"{"message":"Unauthorized"}"#);
    assert_eq!(fix(&mistral, None), (Outcome::AuthInvalid, "mistral_unauthorized".to_owned()));
    assert_eq!(fix(&mistral, before), (Outcome::AuthInvalid, "key_worked_before".to_owned()));
    let clock = refused(
        "bedrock",
        403,
        r#"{"message":"Signature expired: 20250101T000000Z is now earlier than 20250101T000500Z"}"#,
    );
    assert_eq!(fix(&clock, before), fix(&clock, None), "a clock that is wrong stays one");

    let text = |worked| Classify::fix(&rules, "key_worked_before", worked).expect("a text");
    assert!(text(None).starts_with("this key worked before: "), "{}", text(None));
    for (seconds, words) in [(1, "1 second"), (185, "3 minutes"), (7_300, "2 hours"), (90_000, "1 day")] {
        let text = text(Some(Duration::from_secs(seconds)));
        assert!(text.starts_with(&format!("this key worked {words} ago: ")), "{text}");
    }
}
