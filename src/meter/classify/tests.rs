//! Classification against recorded and documented errors, the user's rules, and hostile input.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::*;
use crate::meter::RuleEntry;

/// Error answers as they were recorded (keys and ids made up), with their outcome.
const RECORDED: &str = include_str!("../../../tests/fixtures/errors/recorded.jsonl");
/// Error answers as documentation and public issue threads show them.
const DOCUMENTED: &str = include_str!("../../../tests/fixtures/errors/documented.jsonl");

#[derive(Deserialize)]
struct Case {
    id: String,
    provider: String,
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: String,
    #[serde(alias = "class")]
    outcome: Outcome,
    /// A second right answer.
    #[serde(alias = "alt_class")]
    or: Option<Outcome>,
    retry: Option<Retry>,
    #[serde(default)]
    in_stream: bool,
    #[serde(default)]
    no_credential: bool,
}

fn cases(text: &str) -> Vec<Case> {
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn verdict(rules: &Rules, case: &Case) -> Verdict {
    let headers: Vec<KeptHeader> =
        case.headers.iter().map(|(name, value)| (name.to_lowercase().into(), value.as_str().into())).collect();
    rules.classify(&Evidence {
        provider: &case.provider,
        status: Some(case.status),
        headers: &headers,
        error_body: Some(case.body.as_bytes()),
        in_stream: case.in_stream,
        end: if case.in_stream { End::ErrorEvent } else { End::Complete },
        credential_present: !case.no_credential,
        ..Evidence::default()
    })
}

/// Every case that gets neither of its outcomes, or another retry advice than it names.
fn assert_all(text: &str, at_least: usize) {
    let rules = Rules::embedded();
    let cases = cases(text);
    assert!(cases.len() >= at_least, "{} cases only", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let verdict = verdict(&rules, case);
        let right = verdict.outcome == case.outcome || Some(verdict.outcome) == case.or;
        if !right || case.retry.is_some_and(|retry| retry != verdict.retry) {
            wrong.push(format!(
                "{}: {} ({}) by {}, expected {} {:?}",
                case.id, verdict.outcome, verdict.retry, verdict.rule, case.outcome, case.or
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn answer<'a>(provider: &'a str, status: u16, body: &'a str) -> Evidence<'a> {
    Evidence { provider, status: Some(status), error_body: Some(body.as_bytes()), ..Evidence::default() }
}

#[test]
fn recorded_errors() {
    assert_all(RECORDED, 200);
}

#[test]
fn documented_errors() {
    assert_all(DOCUMENTED, 500);
}

/// The whole catalogue with its own headers, where it is at hand.
#[test]
fn shared_catalogue() {
    let root = std::env::var_os("KEYTALLY_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    match std::fs::read_to_string(root.join("errors/catalogue.jsonl")) {
        Ok(text) => assert_all(&text, 200),
        Err(_) => println!("skipped: errors/catalogue.jsonl is not here; set KEYTALLY_SHARED"),
    }
}

/// What stands in other envelopes is the same error.
#[test]
fn wrapped_errors_keep_their_outcome() {
    let rules = Rules::embedded();
    let inner = r#"{"error":{"message":"Your credit balance is too low to access the API","type":"x","code":null}}"#;
    let text = serde_json::to_string(inner).expect("string");
    for body in [
        inner.to_string(),
        format!("[{inner}]"),
        format!("\u{feff}  {inner}\n\n"),
        format!("{inner}data: {{\"choices\":[]}}\n\n"),
        format!(r#"{{"error":{inner}}}"#),
        format!(r#"{{"detail":{inner}}}"#),
        format!(r#"{{"errors":[{inner}]}}"#),
        format!(r#"{{"error":{{"message":{text},"code":400}}}}"#),
        format!(r#"{{"error":{{"message":"Provider says","metadata":{{"raw":{text}}}}}}}"#),
        format!(r#"{{"error":{text}}}"#),
        text.clone(),
        format!("{{\"a\":{{\"b\":1}},{}", &inner[1..inner.len() - 4]),
        format!("data: {inner}\r\n\r\ndata: [DONE]\r\n\r\n"),
        format!("event: error\ndata: {inner}\n\n"),
        format!(": comment\n\ndata: {{\"choices\":[]}}\n\n{inner}"),
        format!("{{\"done\":false}}\n{inner}\n"),
        "Error code: 400 - {'error': {'message': 'Your credit balance is too low', 'type': 'x'}}".into(),
    ] {
        let verdict = rules.classify(&answer("some-gateway", 400, &body));
        assert_eq!(verdict.outcome, Outcome::CreditExhausted, "{body}");
    }
}

#[test]
fn an_ordinary_answer_is_no_error() {
    let rules = Rules::embedded();
    for body in [
        r#"{"choices":[{"message":{"content":"invalid api key, rate limit, insufficient balance"}}],"usage":{}}"#,
        r#"{"id":"x","error":null,"base_resp":{"status_code":0,"status_msg":"success"},"choices":[]}"#,
        r#"{"promptFeedback":{"blockReason":"SAFETY"}}"#,
        "data: {\"choices\":[{\"delta\":{\"content\":\"error\"}}]}\n\ndata: [DONE]\n\n",
        "",
    ] {
        assert_eq!(rules.classify(&answer("openai", 200, body)).outcome, Outcome::Ok, "{body}");
    }
}

#[test]
fn endings_without_a_body() {
    let rules = Rules::embedded();
    let whole = Evidence { status: Some(200), ..Evidence::default() };
    for (evidence, outcome, fix) in [
        (whole, Outcome::Ok, "ok"),
        (Evidence { status: Some(101), ..whole }, Outcome::Ok, "ok"),
        (Evidence { blocked: true, ..whole }, Outcome::ContentBlocked, "content_blocked"),
        (Evidence { end: End::ClientCancelled, ..whole }, Outcome::ClientCancelled, "client_cancelled"),
        (Evidence { end: End::Truncated, ..whole }, Outcome::StreamTruncated, "stream_truncated"),
        (Evidence { end: End::IdleTimeout, ..whole }, Outcome::StreamTruncated, "stream_truncated"),
        (Evidence { end: End::BodyError, ..whole }, Outcome::NetworkError, "network_error"),
        (Evidence { end: End::NoAnswer, status: None, ..whole }, Outcome::NetworkError, "network_error"),
        (Evidence { end: End::IdleTimeout, status: None, ..whole }, Outcome::NetworkError, "network_error"),
        // The provider had already refused when the application left.
        (Evidence { end: End::ClientCancelled, status: Some(401), ..whole }, Outcome::AuthInvalid, "auth_invalid"),
        (Evidence { status: Some(503), ..whole }, Outcome::ProviderOverloaded, "provider_overloaded"),
        (
            Evidence { generated: Some(GeneratedError::Tls), status: Some(502), end: End::NoAnswer, ..whole },
            Outcome::NetworkError,
            "tls",
        ),
        (
            Evidence { generated: Some(GeneratedError::UnknownPrefix), status: Some(404), end: End::Refused, ..whole },
            Outcome::NotFound,
            "unknown_prefix",
        ),
    ] {
        let verdict = rules.classify(&evidence);
        assert_eq!((verdict.outcome, &*verdict.first_fix), (outcome, fix), "{evidence:?}");
    }
}

#[test]
fn the_request_tells_missing_from_wrong() {
    let rules = Rules::embedded();
    let text = r#"{"error":{"message":"Missing Authentication header","code":401}}"#;
    let sent = answer("openrouter", 401, text);
    assert_eq!(rules.classify(&sent).outcome, Outcome::AuthInvalid);
    assert_eq!(rules.classify(&Evidence { credential_present: false, ..sent }).outcome, Outcome::AuthMissing);
    let bare = Evidence { credential_present: false, ..answer("x", 403, r#"{"message":"Forbidden"}"#) };
    assert_eq!(rules.classify(&bare).outcome, Outcome::AuthMissing);
}

#[test]
fn retry_advice() {
    let rules = Rules::embedded();
    let limited = r#"{"error":{"message":"Rate limit reached on requests per min","code":"rate_limit_exceeded"}}"#;
    let header = |value: &str| -> Vec<KeptHeader> { vec![("x-should-retry".into(), value.into())] };
    let (no, yes) = (header("false"), header("true"));
    let plain = rules.classify(&answer("openai", 429, limited));
    assert_eq!(
        (plain.outcome, plain.retry, plain.fault),
        (Outcome::RateLimitRequests, Retry::AfterHint, Fault::Traffic)
    );
    let refused = rules.classify(&Evidence { headers: &no, ..answer("openai", 429, limited) });
    assert_eq!((refused.outcome, refused.retry), (Outcome::RateLimitRequests, Retry::Never));
    let allowed = rules.classify(&Evidence { headers: &yes, ..answer("openai", 400, "{}") });
    assert_eq!((allowed.outcome, allowed.retry), (Outcome::InvalidRequest, Retry::Backoff));
    for (text, retry) in [
        ("tokens per min (TPM): Limit 30000, Requested 30601.", Retry::Never),
        ("tokens per min (TPM): Limit 30000, Used 29000, Requested 1601.", Retry::AfterHint),
        ("tokens per min (TPM): Limit 30,000, Requested 10.", Retry::AfterHint),
    ] {
        let body = serde_json::json!({"error": {"message": text}}).to_string();
        let verdict = rules.classify(&answer("x", 429, &body));
        assert_eq!((verdict.outcome, verdict.retry), (Outcome::RateLimitTokens, retry), "{text}");
    }
}

#[test]
fn headers_name_the_dimension_when_the_text_does_not() {
    let rules = Rules::embedded();
    let body = r#"{"error":{"code":"429","message":"Rate limit is exceeded. Try again in 2 seconds."}}"#;
    for (name, value, outcome) in [
        ("x-ratelimit-remaining-tokens", "0", Outcome::RateLimitTokens),
        ("x-ratelimit-remaining-requests", "0", Outcome::RateLimitRequests),
        ("anthropic-ratelimit-input-tokens-remaining", "0", Outcome::RateLimitTokens),
        ("x-ratelimit-remaining-requests-day", "0", Outcome::RateLimitDaily),
        ("x-ratelimit-remaining-tokens", "-1", Outcome::RateLimitOther),
        ("x-ratelimit-remaining-tokens", "12", Outcome::RateLimitOther),
    ] {
        let headers = [(name.into(), value.into())];
        let verdict = rules.classify(&Evidence { headers: &headers, ..answer("azure_openai", 429, body) });
        assert_eq!(verdict.outcome, outcome, "{name}: {value}");
    }
}

#[test]
fn codes_are_shown_redacted_and_short() {
    let rules = Rules::embedded();
    let key = "sk-proj-madeupMADEUP0123456789madeupMADEUP0123456789";
    let body = serde_json::json!({"error": {
        "message": format!("Incorrect API key provided: {key}"),
        "code": format!("bad_key:{key}"),
        "type": "t".repeat(100),
    }})
    .to_string();
    let evidence = answer("openai", 401, &body);
    let verdict = rules.classify(&evidence);
    assert_eq!(verdict.outcome, Outcome::AuthInvalid);
    assert_eq!(verdict.error_type.as_deref().map(str::len), Some(64));
    for shown in [format!("{verdict:?}"), format!("{evidence:?}"), format!("{rules:?}")] {
        assert!(!shown.contains("madeup"), "{shown}");
    }
}

#[test]
fn unknown_texts_are_counted_by_shape() {
    let rules = Rules::embedded();
    let shape = |text: &str| {
        let body = serde_json::json!({"error": {"message": text}}).to_string();
        let verdict = rules.classify(&answer("x", 418, &body));
        assert_eq!((verdict.outcome, verdict.confidence), (Outcome::UnknownError, Confidence::Low));
        verdict.shape_hash.expect("a text has a shape")
    };
    assert_eq!(shape("teapot 17 is `short`"), shape("teapot 4 is `stout`"));
    assert_ne!(shape("teapot is short"), shape("kettle is short"));
    let known = rules.classify(&answer("x", 401, r#"{"error":{"message":"Invalid API key"}}"#));
    assert_eq!(known.shape_hash, None);
}

fn entry(id: &str) -> RuleEntry {
    RuleEntry {
        id: id.into(),
        providers: vec![],
        statuses: vec![],
        codes: vec![],
        messages: vec![],
        outcome: Outcome::ProviderOverloaded,
        fault: None,
        retry: None,
        first_fix: None,
    }
}

#[test]
fn user_rules_come_first_and_all_their_conditions_hold() {
    let rules = Rules::build(&[RuleEntry {
        providers: vec!["mine".into()],
        statuses: vec![401],
        codes: vec!["E-7".into()],
        messages: vec![r"node \d+ is FULL".into()],
        fault: Some(Fault::Config),
        first_fix: Some("add a node".into()),
        ..entry("full")
    }])
    .expect("valid");
    let body = r#"{"error":{"code":"e-7","message":"Node 12 is full"}}"#;
    let verdict = rules.classify(&answer("mine", 401, body));
    assert_eq!((verdict.outcome, &*verdict.rule, verdict.fault), (Outcome::ProviderOverloaded, "full", Fault::Config));
    assert_eq!(verdict.retry, Retry::Backoff, "the outcome's usual advice");
    assert_eq!(rules.fix(&verdict.first_fix), Some("add a node"));
    for other in [
        answer("other", 401, body),
        answer("mine", 403, body),
        answer("mine", 401, r#"{"error":{"code":"e7","message":"Node 12 is full"}}"#),
        answer("mine", 401, r#"{"error":{"code":"e-7","message":"Node is full"}}"#),
    ] {
        assert_ne!(&*rules.classify(&other).rule, "full");
    }
}

#[test]
fn wrong_user_rules_are_all_reported() {
    let with = |message: &str| RuleEntry { messages: vec![message.into()], ..entry(message) };
    let errors = Rules::build(&[
        entry("no condition"),
        with("(unclosed"),
        with("a|"),
        with(r"(\w{100}){100}"),
        with("fine"),
        with("fine"),
        RuleEntry { id: " ".into(), statuses: vec![200], ..entry("x") },
        with("a)(b"),
    ])
    .expect_err("all but one are wrong");
    let found: Vec<_> = errors.iter().map(|error| (error.index, error.field)).collect();
    let expected = [
        (0, "statuses"),
        (1, "messages"),
        (2, "messages"),
        (3, "messages"),
        (5, "id"),
        (6, "id"),
        (6, "statuses"),
        (7, "messages"),
    ];
    assert_eq!(found, expected, "{errors:#?}");
    assert!(errors[0].to_string().starts_with("rules[0].statuses: no condition"), "{}", errors[0]);
    assert!(errors.iter().all(|error| error.problem.len() < 300), "{errors:#?}");
}

#[test]
fn every_outcome_and_rule_has_a_fix_and_every_pattern_compiles() {
    let rules = Rules::embedded();
    for outcome in Outcome::ALL {
        assert!(rules.fix(outcome.as_str()).is_some_and(|fix| !fix.is_empty()), "{outcome}");
    }
    for finding in crate::call::Finding::ALL {
        assert!(rules.fix(finding.as_str()).is_some_and(|fix| !fix.is_empty()), "{finding}");
    }
    assert_eq!(rules.fixes_missing(), Vec::<String>::new());
    assert_eq!(rules.broken_patterns(), Vec::<&str>::new());
    assert_eq!(rules.fix("no such id"), None);
    let mut ids = rules.ids();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "rule ids are unique");
}

/// No bytes may panic, hang or be slow; each body is also cut at every length.
#[test]
fn hostile_bodies() {
    let rules = Rules::embedded();
    let long: Vec<String> = vec![
        "[".repeat(100_000),
        r#"{"error":"#.repeat(20_000),
        "data: {\n".repeat(3_000),
        "data: x\n[1\n{\n".repeat(3_000),
        "{\"error\":{\"message\":\"rate limit model token limit\"}}\n".repeat(500),
        "<".repeat(40_000),
        "<script".repeat(4_000),
        "'message':\"".repeat(4_000),
        "limit model rate token request error ".repeat(1_000),
        format!("{{\"error\":{}}}", "\"{".repeat(5_000)),
        "\u{feff}".repeat(5_000),
        "İ".repeat(5_000),
    ];
    let started = std::time::Instant::now();
    for body in &long {
        for status in [200, 500] {
            rules.classify(&answer("x", status, body));
        }
    }
    // Some 10 ms each without optimization; a quadratic or exponential scan takes minutes.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    let mut cut = cases(RECORDED);
    cut.truncate(24);
    for case in &cut {
        for end in 0..case.body.len().min(160) {
            let body = Some(&case.body.as_bytes()[..end]);
            rules.classify(&Evidence { error_body: body, ..answer(&case.provider, case.status, "") });
        }
    }
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000).collect();
    for start in 0..256 {
        rules.classify(&Evidence { error_body: Some(&bytes[start..]), ..answer("x", 500, "") });
    }
}

#[test]
fn facts_become_evidence() {
    use crate::call::{ErrorFacts, Reply, ResponseFacts};
    let response = ResponseFacts { status: 200, headers: vec![("retry-after".into(), "1".into())], bytes: 9 };
    let error = ErrorFacts { body: b"{\"error\":{\"type\":\"overloaded_error\"}}".to_vec(), in_stream: true };
    let facts = CallFacts {
        call_id: crate::call::CallId(1),
        started: std::time::SystemTime::UNIX_EPOCH,
        trace: Default::default(),
        way: crate::call::Way::BaseUrl,
        provider: "anthropic".into(),
        price_as: None,
        local: false,
        billed: false,
        operation: crate::call::Operation::Messages,
        protocol: crate::call::Protocol::AnthropicMessages,
        server_address: "127.0.0.1".into(),
        server_port: 1,
        client: None,
        caller: None,
        key: Default::default(),
        request: Default::default(),
        response: Some(response),
        reply: Reply { error: Some(error), ..Reply::default() },
        end: End::ErrorEvent,
        generated: None,
        timing: Default::default(),
    };
    let evidence = Evidence::from(&facts);
    assert_eq!((evidence.status, evidence.headers.len(), evidence.credential_present), (Some(200), 1, false));
    let verdict = Rules::embedded().classify(&evidence);
    assert_eq!(verdict.outcome, Outcome::ProviderOverloaded);
    assert_eq!(verdict.error_type.as_deref(), Some("overloaded_error"));
}
