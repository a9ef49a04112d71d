//! What a span says, and which calls get one.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry::{Array, Value};

use super::super::traces::Spans;
use super::*;

fn attributes(record: &CallRecord, profile: Profile, semconv: Semconv) -> BTreeMap<String, Value> {
    let span = Spans::new(profile, semconv, false).span(record);
    let count = span.attributes.len();
    let found: BTreeMap<_, _> =
        span.attributes.into_iter().map(|pair| (pair.key.as_str().to_owned(), pair.value)).collect();
    assert_eq!(found.len(), count, "no name twice");
    found
}

fn latest(record: &CallRecord) -> BTreeMap<String, Value> {
    attributes(record, Profile::Full, Semconv::Latest)
}

fn kind(value: &Value) -> Kind {
    match value {
        Value::Bool(_) => Kind::Bool,
        Value::I64(_) => Kind::Int,
        Value::F64(_) => Kind::Double,
        Value::String(_) => Kind::String,
        Value::Array(Array::String(_)) => Kind::Strings,
        other => panic!("no such type in the list: {other:?}"),
    }
}

fn texts(list: &[&'static str]) -> Value {
    Value::Array(Array::String(list.iter().map(|text| (*text).into()).collect()))
}

#[test]
fn a_good_streamed_call() {
    let expected: BTreeMap<&str, Value> = [
        ("gen_ai.operation.name", "chat".into()),
        ("gen_ai.provider.name", "openai".into()),
        ("gen_ai.request.model", "gpt-5".into()),
        ("gen_ai.response.model", "gpt-5-2025-08-07".into()),
        ("gen_ai.request.stream", true.into()),
        ("gen_ai.request.max_tokens", 4_096.into()),
        ("gen_ai.request.choice.count", 2.into()),
        ("gen_ai.request.temperature", 0.5.into()),
        ("gen_ai.request.top_p", 0.9.into()),
        ("gen_ai.request.reasoning.level", "high".into()),
        ("gen_ai.response.id", "chatcmpl-made-up".into()),
        ("gen_ai.response.finish_reasons", texts(&["stop"])),
        ("gen_ai.response.time_to_first_chunk", 0.5.into()),
        ("gen_ai.usage.input_tokens", 1_200.into()),
        ("gen_ai.usage.output_tokens", 340.into()),
        ("gen_ai.usage.cache_read.input_tokens", 1_000.into()),
        ("gen_ai.usage.cache_write.input_tokens", 100.into()),
        ("gen_ai.usage.reasoning.output_tokens", 300.into()),
        ("gen_ai.usage.audio.input_tokens", 11.into()),
        ("gen_ai.usage.audio.output_tokens", 12.into()),
        ("gen_ai.usage.image.input_tokens", 13.into()),
        ("gen_ai.usage.image.output_tokens", 14.into()),
        ("gen_ai.usage.cost.amount", 0.003775.into()),
        ("gen_ai.usage.cost.currency", "USD".into()),
        ("gen_ai.usage.cost.source", "local".into()),
        ("gen_ai.conversation.id", "conv_made_up".into()),
        ("openai.request.service_tier", "auto".into()),
        ("openai.response.service_tier", "default".into()),
        ("server.address", "api.openai.com".into()),
        ("server.port", 443.into()),
        ("url.full", "https://api.openai.com/v1/chat/completions".into()),
        ("http.request.method", "POST".into()),
        ("http.response.status_code", 200.into()),
        ("keytally.outcome", "ok".into()),
        ("keytally.fault", "none".into()),
        ("keytally.key", "search-prod".into()),
        ("keytally.key.fingerprint", "openai:3f9a0c41b2d7".into()),
        ("keytally.key.team", "search".into()),
        ("keytally.key.env", "prod".into()),
        ("keytally.account", "0c41b2d7".into()),
        ("keytally.client", "search-api".into()),
        ("keytally.labels.region", "eu".into()),
        ("keytally.cost.usd", 0.003775.into()),
        ("keytally.usage_source", "reported".into()),
        ("keytally.stream.end", "complete".into()),
        ("keytally.overhead_seconds", 0.0002.into()),
        ("keytally.upstream_connect_seconds", 0.035.into()),
        ("keytally.ratelimit.requests.remaining", 499.into()),
        ("keytally.provider_request_id", "req_made_up".into()),
        ("keytally.call_id", "01942f6e5a2b7c3d8e4f5061728394a5".into()),
        ("keytally.way", "base_url".into()),
        ("keytally.retry_count", 2.into()),
        ("keytally.findings", texts(&["org_header_set", "shared_key"])),
    ]
    .into();
    let found = latest(&full());
    let found: BTreeMap<&str, Value> = found.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    assert_eq!(found, expected);

    let span = Spans::new(Profile::Full, Semconv::Latest, false).span(&full());
    assert_eq!((span.name.as_ref(), span.span_kind, &span.status), ("chat gpt-5", SpanKind::Client, &Status::Unset));
    assert_eq!(span.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span.span_context.span_id().to_string(), "1122334455667788");
    assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
    assert!(span.parent_span_is_remote && span.span_context.is_sampled());
    assert_eq!(span.span_context.trace_state().header(), "vendor=opaque");
    assert_eq!(span.start_time, full().time);
    assert_eq!(span.end_time, full().time + Duration::from_micros(12_345_678));
    assert_eq!(span.instrumentation_scope.name(), "keytally");
    let event = &span.events[0];
    assert_eq!((span.events.len(), event.name.as_ref(), event.timestamp), (1, STALLED_EVENT, span.end_time));
    assert_eq!(event.attributes[0].value, Value::F64(11.0));
}

#[test]
fn a_call_without_an_answer_says_only_what_is_known() {
    let found = latest(&bare());
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    let expected = [
        "error.type",
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "http.request.method",
        "keytally.call_id",
        "keytally.fault",
        "keytally.outcome",
        "keytally.overhead_seconds",
        "keytally.usage_source",
        "keytally.way",
        "server.address",
        "server.port",
    ];
    assert_eq!(names, expected);
    let span = Spans::new(Profile::Full, Semconv::Latest, false).span(&bare());
    assert_eq!(span.name, "chat");
    assert_eq!(span.status, Status::error(""));
    assert!(span.events.is_empty() && !span.parent_span_is_remote);
    assert_eq!(span.parent_span_id, opentelemetry::trace::SpanId::INVALID);
}

#[test]
fn a_refused_call() {
    let found = latest(&refused());
    for (name, value) in [
        ("error.type", Value::from("rate_limit_tokens")),
        ("keytally.first_fix", "rate_limit_tokens".into()),
        ("keytally.error.code", "rate_limit_exceeded".into()),
        ("keytally.error.provider_type", "tokens".into()),
        ("keytally.ratelimit.tokens.remaining", 0.into()),
        ("keytally.ratelimit.retry_after_seconds", 8.64.into()),
        ("keytally.unpriced_reason", "no_usage".into()),
        ("http.response.status_code", 429.into()),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name}");
    }
}

/// Both ways: nothing outside the list, nothing in the list that no call can have; and the same list in the document.
#[test]
fn the_list_the_code_and_the_document_agree() {
    let mut seen = BTreeMap::new();
    let cut_off = CallRecord { stream: true, end: End::Truncated, ..bare() };
    for record in [bare(), full(), refused(), cut_off] {
        for profile in [Profile::Full, Profile::ErrorsAndCost] {
            for semconv in [Semconv::Latest, Semconv::V1_41] {
                let span = Spans::new(profile, semconv, false).span(&record);
                let of_events = span.events.iter().flat_map(|event| event.attributes.clone());
                for pair in span.attributes.iter().cloned().chain(of_events) {
                    let name = match pair.key.as_str().strip_prefix("keytally.labels.") {
                        Some(_) => "keytally.labels.*".to_owned(),
                        None => pair.key.as_str().to_owned(),
                    };
                    seen.insert(name, kind(&pair.value));
                }
            }
        }
    }
    let listed: BTreeMap<String, Kind> = ATTRIBUTES.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    assert_eq!(listed.len(), ATTRIBUTES.len());
    assert_eq!(seen, listed);
    let documented: Vec<_> = documented(include_str!("../../../docs/spans.md"));
    let listed: BTreeSet<_> =
        ATTRIBUTES.iter().map(|(name, kind)| ((*name).to_owned(), kind.as_str().to_owned())).collect();
    assert_eq!(documented.len(), listed.len(), "docs/spans.md lists each attribute once");
    assert_eq!(documented.into_iter().collect::<BTreeSet<_>>(), listed, "docs/spans.md against ATTRIBUTES");
}

#[test]
fn older_conventions_and_smaller_profile() {
    let old = attributes(&full(), Profile::Full, Semconv::V1_41);
    assert_eq!(old.get("gen_ai.usage.cache_creation.input_tokens"), Some(&Value::I64(100)));
    for newer in ["cache_write.", "audio.", "image.", "cost.", "request.reasoning"] {
        assert!(!old.keys().any(|name| name.starts_with("gen_ai.") && name.contains(newer)), "{newer}");
    }
    let schema = Spans::new(Profile::Full, Semconv::V1_41, false).span(&full()).instrumentation_scope;
    assert_eq!(schema.schema_url(), Some("https://opentelemetry.io/schemas/1.41.0"));
    let small = attributes(&full(), Profile::ErrorsAndCost, Semconv::Latest);
    assert!(!small.keys().any(|name| name.starts_with("gen_ai.usage.")));
    assert_eq!(small.get("keytally.cost.usd"), Some(&Value::F64(0.003775)));
    let mut rest = latest(&full());
    rest.retain(|name, _| !name.starts_with("gen_ai.usage."));
    assert_eq!(small, rest, "nothing else is left out");
}

#[test]
fn conditions_one_by_one() {
    let with = |change: fn(&mut CallRecord)| {
        let mut record = full();
        change(&mut record);
        latest(&record)
    };
    assert_eq!(with(|r| r.cost_stated = true)["gen_ai.usage.cost.source"], "provider".into());
    assert!(!with(|r| r.choice_count = Some(1)).contains_key("gen_ai.request.choice.count"));
    assert!(!with(|r| r.temperature = Some(f64::NAN)).contains_key("gen_ai.request.temperature"));
    assert_eq!(with(|r| r.max_tokens = Some(u64::MAX))["gen_ai.request.max_tokens"], i64::MAX.into());
    assert_eq!(with(|r| r.key_name = None)["keytally.key"], "openai:3f9a0c41b2d7".into());
    assert_eq!(with(|r| r.method = "made-up text".to_owned())["http.request.method"], "_OTHER".into());
    assert!(!with(|r| r.retry_count = 0).contains_key("keytally.retry_count"));
    assert_eq!(with(|r| r.request_model = Some("é".repeat(300)))["gen_ai.request.model"], "é".repeat(256).into());
    let plain = with(|r| r.stream = false);
    for name in ["gen_ai.request.stream", "gen_ai.response.time_to_first_chunk", "keytally.stream.end"] {
        assert!(!plain.contains_key(name), "{name}");
    }
    let elsewhere = with(|r| r.provider = "groq".into());
    assert!(!elsewhere.keys().any(|name| name.starts_with("openai.")));
    for (end, reasons, told) in [
        (End::Truncated, vec![], Some(texts(&["error"]))),
        (End::ClientCancelled, vec![], Some(texts(&["error"]))),
        (End::ErrorEvent, vec!["length".to_owned()], Some(texts(&["length"]))),
        (End::Complete, vec![], None),
    ] {
        let found = latest(&CallRecord { end, finish_reasons: reasons, ..full() });
        assert_eq!(found.get("gen_ai.response.finish_reasons"), told.as_ref(), "{end}");
        assert_eq!(found["keytally.stream.end"], end.as_str().into());
    }
    let asked = CallRecord { end: End::NoAnswer, ..full() };
    assert!(!latest(&asked).contains_key("keytally.stream.end"), "no stream ever began");
    // An unanswered call keeps the tier that was asked for; that is not the answer's.
    let tier =
        CallRecord { service_tier: Some("flex".to_owned()), request_service_tier: Some("flex".to_owned()), ..bare() };
    assert!(!latest(&tier).contains_key("openai.response.service_tier"));
}

#[test]
fn names_of_providers_and_operations() {
    for (id, name) in [
        ("openai", "openai"),
        ("azure_openai", "azure.ai.openai"),
        ("bedrock", "aws.bedrock"),
        ("gemini", "gcp.gemini"),
        ("vertex", "gcp.vertex_ai"),
        ("mistral", "mistral_ai"),
        ("xai", "x_ai"),
        ("my-vllm", "my-vllm"),
    ] {
        let found = latest(&CallRecord { provider: id.into(), ..bare() });
        assert_eq!(found["gen_ai.provider.name"], name.to_owned().into());
    }
    for (operation, name) in [
        (Operation::Chat, "chat"),
        (Operation::Responses, "chat"),
        (Operation::Messages, "chat"),
        (Operation::GenerateContent, "generate_content"),
        (Operation::TextCompletion, "text_completion"),
        (Operation::Embeddings, "embeddings"),
        (Operation::Image, "image"),
    ] {
        let record = CallRecord { operation, request_model: Some("m".to_owned()), ..bare() };
        assert_eq!(latest(&record)["gen_ai.operation.name"], name.into());
        assert_eq!(Spans::new(Profile::Full, Semconv::Latest, false).span(&record).name, format!("{name} m"));
    }
}

#[test]
fn status_is_an_error_for_every_failure() {
    for outcome in Outcome::ALL.iter().copied() {
        for status in [None, Some(200), Some(400)] {
            let record = CallRecord { outcome, status, ..bare() };
            let span = Spans::new(Profile::Full, Semconv::Latest, false).span(&record);
            let unset = matches!(outcome, Outcome::Ok | Outcome::ClientCancelled)
                || (outcome == Outcome::ContentBlocked && status == Some(200));
            let expected = if unset { Status::Unset } else { Status::error("") };
            assert_eq!(span.status, expected, "{outcome} {status:?}");
            let told = latest(&record).get("error.type").cloned();
            assert_eq!(told, (!unset).then(|| outcome.as_str().into()), "{outcome} {status:?}");
        }
    }
}

#[test]
fn the_hop_from_the_application_by_option() {
    let spans: Vec<_> = Spans::new(Profile::Full, Semconv::Latest, true).of(&full()).collect();
    let [hop, call] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!((hop.span_kind.clone(), hop.name.as_ref(), &hop.status), (SpanKind::Server, "POST", &Status::Unset));
    assert_eq!(hop.span_context.trace_id(), call.span_context.trace_id());
    assert_eq!(hop.parent_span_id.to_string(), "b7ad6b7169203331");
    assert!(hop.parent_span_is_remote && !call.parent_span_is_remote && hop.events.is_empty());
    assert_eq!(call.parent_span_id, hop.span_context.span_id());
    assert_eq!(call.span_context.span_id().to_string(), "1122334455667788", "ids in the record stay the call's");
    assert!(hop.attributes.iter().all(|pair| ATTRIBUTES.iter().any(|(name, _)| *name == pair.key.as_str())));
    let failed = |outcome, status| {
        let spans = Spans::new(Profile::Full, Semconv::Latest, true).of(&CallRecord { outcome, status, ..bare() });
        spans.map(|span| span.status == Status::error("")).collect::<Vec<_>>()
    };
    assert_eq!(failed(Outcome::NetworkError, None), [true, true]);
    assert_eq!(failed(Outcome::AuthInvalid, Some(401)), [false, true], "4xx is no failure of a server");
    assert_eq!(failed(Outcome::ProviderError, Some(500)), [true, true]);
    assert_eq!(failed(Outcome::ClientCancelled, None), [false, false]);
    assert_eq!(Spans::new(Profile::Full, Semconv::Latest, false).of(&full()).count(), 1);
}

#[test]
fn sampling() {
    let call = |parent: Option<bool>, outcome, cost: &str, seconds| {
        let mut record = CallRecord { outcome, cost: Money::parse(cost), ..full() };
        record.trace.parent_sampled = parent;
        record.timing.total = Duration::from_secs(seconds);
        record
    };
    let (all, none) = (Sampling::default(), Sampling { ratio: 0.0, ..Sampling::default() });
    let orphans = Sampling { keep_unsampled_errors: true, ..none.clone() };
    let alone = Sampling { parent_based: false, ..none.clone() };
    let strict = Sampling { keep_notable: false, ..none.clone() };
    let failed = Outcome::RateLimitTokens;
    // parent, outcome, dollars, seconds → all, none, orphans, alone, strict
    for (parent, outcome, cost, seconds, kept) in [
        (None, Outcome::Ok, "0.1", 1, [true, false, false, false, false]),
        (None, failed, "0", 1, [true, true, true, true, false]),
        (None, Outcome::ClientCancelled, "0", 1, [true, true, true, true, false]),
        (None, Outcome::Ok, "0.5", 1, [true, true, true, true, false]),
        (None, Outcome::Ok, "0.499999", 59, [true, false, false, false, false]),
        (None, Outcome::Ok, "0", 60, [true, true, true, true, false]),
        (Some(true), Outcome::Ok, "0", 1, [true, true, true, false, true]),
        (Some(true), failed, "0", 1, [true, true, true, true, true]),
        (Some(false), Outcome::Ok, "9", 99, [false, false, false, true, false]),
        (Some(false), failed, "0", 1, [false, false, true, true, false]),
        (Some(false), Outcome::ClientCancelled, "0", 1, [false, false, false, true, false]),
    ] {
        let record = call(parent, outcome, cost, seconds);
        let decided = [&all, &none, &orphans, &alone, &strict].map(|sampling| sampling.keeps(&record));
        assert_eq!(decided, kept, "{parent:?} {outcome} ${cost} {seconds} s");
    }
}

/// The ratio is by trace id, so that all processes agree; the bounds are those of the SDKs' sampler.
#[test]
fn sampling_ratio() {
    let quarter = Sampling { ratio: 0.25, keep_notable: false, ..Sampling::default() };
    let keeps = |trace_id: u128| {
        quarter.keeps(&CallRecord { trace: TraceContext { trace_id, ..TraceContext::default() }, ..bare() })
    };
    assert!(keeps(0xffff_ffff_ffff_ffff_3fff_ffff_ffff_ffff));
    assert!(!keeps(0x0000_0000_0000_0001_4000_0000_0000_0000));
    let kept = (0..10_000).filter(|_| keeps(super::super::trace_context::new_trace_id())).count();
    assert!((2_250..2_750).contains(&kept), "{kept} of 10,000");
}
