//! Spans as collectors read them: two that are not ours, and one in this process that shows every attribute.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;
use keytally::call::ApiKey;
use keytally::demo::simulator::{Answer, AnswerEnd, Simulator};
use serde_json::{Value, json};

use super::{Killed, free_port, wait_until};
use crate::support::collector::{Collector, Span};
use crate::support::{Sidecar, client, send, skip, tool};

const KEY: &str = "sk-made-up-key-of-search";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Attributes whose value no test can know.
const ANY: &str = "<any>";

fn answer(wanted: &str) -> Answer {
    let event = |delta: Value, reason: Value| {
        let event = json!({"id": "chatcmpl-made-up-stream", "object": "chat.completion.chunk", "model": "gpt-4o-mini-2024-07-18", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
        (Duration::from_millis(5), Bytes::from(format!("data: {event}\n\n")))
    };
    let mut stream = Answer::new(200, "text/event-stream", "");
    stream.pieces = vec![
        event(json!({"role": "assistant", "content": "Hello"}), Value::Null),
        event(json!({"content": " there"}), Value::Null),
    ];
    match wanted {
        "refused" => Answer::new(
            429,
            "application/json",
            r#"{"error":{"message":"Rate limit reached for gpt-4o-mini in organization org-made-up on tokens per min (TPM): Limit 200000, Used 199000, Requested 3000. Please try again in 600ms.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
        )
        .header("retry-after", "20")
        .header("x-ratelimit-limit-tokens", "200000")
        .header("x-ratelimit-remaining-tokens", "1000")
        .header("x-request-id", "req_made_up_refused"),
        "stream" => {
            stream.pieces.push(event(json!({}), json!("stop")));
            let usage = json!({"id": "chatcmpl-made-up-stream", "object": "chat.completion.chunk", "model": "gpt-4o-mini-2024-07-18", "choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}});
            stream.pieces.push((Duration::ZERO, Bytes::from(format!("data: {usage}\n\ndata: [DONE]\n\n"))));
            stream
        }
        "left" => Answer { end: AnswerEnd::Silent, ..stream },
        _ => Answer::new(
            200,
            "application/json",
            r#"{"id":"chatcmpl-made-up-plain","object":"chat.completion","model":"gpt-4o-mini-2024-07-18","service_tier":"default","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"},{"index":1,"message":{"role":"assistant","content":"Hi"},"finish_reason":"length"}],"usage":{"prompt_tokens":1200,"completion_tokens":340,"total_tokens":1540,"prompt_tokens_details":{"cached_tokens":1000},"completion_tokens_details":{"reasoning_tokens":300}}}"#,
        )
        .header("x-request-id", "req_made_up_plain")
        .header("x-ratelimit-limit-requests", "500")
        .header("x-ratelimit-remaining-requests", "499"),
    }
}

/// A provider, and the headers of the last request that it got.
async fn provider() -> (Simulator, Arc<Mutex<HeaderMap>>) {
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let copy = Arc::clone(&seen);
    let simulator = Simulator::start(move |received| {
        *copy.lock().unwrap() = received.head.headers.clone();
        let wanted = received.head.headers.get("x-answer").map_or("", |wanted| wanted.to_str().expect("ASCII"));
        answer(wanted)
    });
    (simulator.await.expect("a free port"), seen)
}

fn config(provider: &Simulator) -> String {
    let fingerprint = ApiKey::new(KEY).fingerprint("openai", b"");
    format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\n\
         keys: [{{ fingerprint: \"{fingerprint}\", name: search-prod, team: search, env: prod }}]\n\
         labels: {{ app: search-api, region: eu }}\nmetrics: {{ birth_hold: 0s }}\n",
        provider.address()
    )
}

fn start(config: &str, variables: &[(&str, &str)]) -> Sidecar {
    Sidecar::start_with(config, |command| {
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50").envs(variables.iter().copied());
    })
}

fn request(wanted: &str, headers: &[(&str, &str)], body: &Value) -> Request<Full<Bytes>> {
    let mut request = Request::post("/openai/v1/chat/completions")
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .header("x-answer", wanted);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from(body.to_string()))).expect("a request")
}

fn ask(text: &str) -> Value {
    json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]})
}

/// An ok call with all parameters and a parent, an error, a stream, and a stream that the application leaves.
async fn four_calls(sidecar: &Sidecar) -> Vec<Value> {
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let mut full = ask("canary-prompt");
    for (name, value) in [("max_tokens", json!(4096)), ("temperature", json!(0.5)), ("top_p", json!(0.9))] {
        full[name] = value;
    }
    full["n"] = json!(2);
    full["reasoning_effort"] = json!("low");
    full["service_tier"] = json!("auto");
    send(sidecar.proxy, request("plain", &[("traceparent", &parent), ("tracestate", "vendor=opaque")], &full)).await;
    sidecar.wait_for_records(1).await;
    send(sidecar.proxy, request("refused", &[], &ask("two"))).await;
    sidecar.wait_for_records(2).await;
    let mut stream = ask("three");
    stream["stream"] = json!(true);
    stream["stream_options"] = json!({"include_usage": true});
    send(sidecar.proxy, request("stream", &[], &stream)).await;
    sidecar.wait_for_records(3).await;
    let mut left = ask("four");
    left["stream"] = json!(true);
    client::leave(sidecar.proxy, request("left", &[], &left), 2).await;
    sidecar.wait_for_records(4).await
}

/// Attributes of the four spans, all of them, as `docs/spans.md` has them.
fn expected(provider: &Simulator) -> [(&'static str, i32, BTreeMap<String, Value>); 4] {
    let fingerprint = ApiKey::new(KEY).fingerprint("openai", b"").to_string();
    let common = json!({
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o-mini",
        "server.address": "127.0.0.1", "server.port": provider.address().port(), "http.request.method": "POST",
        "keytally.key": "search-prod", "keytally.key.fingerprint": fingerprint, "keytally.key.team": "search",
        "keytally.key.env": "prod", "keytally.client": "search-api", "keytally.labels.app": "search-api",
        "keytally.labels.region": "eu", "keytally.overhead_seconds": ANY, "keytally.call_id": ANY,
        "keytally.way": "base_url",
    });
    let with = |more: Value| {
        let both = [&common, &more].map(|part| part.as_object().expect("an object").clone());
        both.into_iter().flatten().collect::<BTreeMap<_, _>>()
    };
    // gpt-4o-mini: 0.15, cached 0.075, output 0.60 dollars per million tokens.
    let plain = (200.0 * 0.15 + 1000.0 * 0.075 + 340.0 * 0.6) / 1e6;
    let stream = (11.0 * 0.15 + 2.0 * 0.6) / 1e6;
    [
        (
            "chat gpt-4o-mini",
            0,
            with(json!({
                "gen_ai.request.max_tokens": 4096, "gen_ai.request.temperature": 0.5, "gen_ai.request.top_p": 0.9,
                "gen_ai.request.choice.count": 2, "gen_ai.request.reasoning.level": "low",
                "gen_ai.response.model": "gpt-4o-mini-2024-07-18", "gen_ai.response.id": "chatcmpl-made-up-plain",
                "gen_ai.response.finish_reasons": ["stop", "length"], "gen_ai.usage.input_tokens": 1200,
                "gen_ai.usage.output_tokens": 340, "gen_ai.usage.cache_read.input_tokens": 1000,
                "gen_ai.usage.reasoning.output_tokens": 300, "gen_ai.usage.cost.amount": plain,
                "gen_ai.usage.cost.currency": "USD", "gen_ai.usage.cost.source": "local", "keytally.cost.usd": plain,
                "openai.request.service_tier": "auto", "openai.response.service_tier": "default",
                "http.response.status_code": 200, "keytally.outcome": "ok", "keytally.fault": "none",
                "keytally.usage_source": "reported", "keytally.provider_request_id": "req_made_up_plain",
                "keytally.ratelimit.requests.remaining": 499, "keytally.upstream_connect_seconds": ANY,
            })),
        ),
        (
            "chat gpt-4o-mini",
            2,
            with(json!({
                "http.response.status_code": 429, "error.type": "rate_limit_tokens",
                "keytally.outcome": "rate_limit_tokens", "keytally.fault": "traffic",
                "keytally.error.code": "rate_limit_exceeded", "keytally.error.provider_type": "tokens",
                "keytally.first_fix": "rate_limit_tokens", "keytally.usage_source": "none",
                "keytally.unpriced_reason": "not_billed", "keytally.provider_request_id": "req_made_up_refused",
                "keytally.ratelimit.tokens.remaining": 1000, "keytally.ratelimit.retry_after_seconds": 20.0,
            })),
        ),
        (
            "chat gpt-4o-mini",
            0,
            with(json!({
                "gen_ai.request.stream": true, "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
                "gen_ai.response.id": "chatcmpl-made-up-stream", "gen_ai.response.finish_reasons": ["stop"],
                "gen_ai.response.time_to_first_chunk": ANY, "gen_ai.usage.input_tokens": 11,
                "gen_ai.usage.output_tokens": 2, "gen_ai.usage.cost.amount": stream,
                "gen_ai.usage.cost.currency": "USD", "gen_ai.usage.cost.source": "local", "keytally.cost.usd": stream,
                "http.response.status_code": 200, "keytally.outcome": "ok", "keytally.fault": "none",
                "keytally.usage_source": "reported", "keytally.stream.end": "complete",
            })),
        ),
        // Cut off by the application: the provider bills it all the same, so usage is estimated.
        (
            "chat gpt-4o-mini",
            0,
            with(json!({
                "gen_ai.request.stream": true, "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
                "gen_ai.response.id": "chatcmpl-made-up-stream", "gen_ai.response.finish_reasons": ["error"],
                "gen_ai.response.time_to_first_chunk": ANY, "gen_ai.usage.input_tokens": ANY,
                "gen_ai.usage.output_tokens": ANY, "gen_ai.usage.cost.amount": ANY,
                "gen_ai.usage.cost.currency": "USD", "gen_ai.usage.cost.source": "local", "keytally.cost.usd": ANY,
                "http.response.status_code": 200, "keytally.outcome": "client_cancelled", "keytally.fault": "client",
                "keytally.first_fix": "client_cancelled", "keytally.usage_source": "estimated",
                "keytally.stream.end": "client_cancelled",
            })),
        ),
    ]
}

/// The spans are those of the calls: ids as in the records, the parent's where there is one, attributes to the last one.
#[track_caller]
fn assert_four(spans: &[Span], records: &[Value], provider: &Simulator) {
    assert_eq!((spans.len(), records.len()), (4, 4));
    for (record, (name, status, attributes)) in records.iter().zip(expected(provider)) {
        let span = spans.iter().find(|span| record["span_id"] == *span.span_id).expect("a span of the record");
        assert_eq!((span.name.as_str(), span.kind, span.status), (name, 3, status));
        assert_eq!((span.status_message.as_str(), record["trace_id"].as_str()), ("", Some(span.trace_id.as_str())));
        assert_eq!(span.parent_span_id, record["parent_span_id"].as_str().unwrap_or_default());
        let names = |attributes: &BTreeMap<String, Value>| -> BTreeSet<String> {
            // A connection may be reused or not: the provider closes those of calls that are cut off.
            attributes.keys().filter(|name| *name != "keytally.upstream_connect_seconds").cloned().collect()
        };
        assert_eq!(names(&span.attributes), names(&attributes), "{}", record["outcome"]);
        for (name, want) in &attributes {
            let have = &span.attributes[name];
            let close = matches!((want.as_f64(), have.as_f64()), (Some(a), Some(b)) if (a - b).abs() <= 1e-12);
            assert!(want == ANY || have == want || close, "{name}: {have}, expected {want}");
        }
    }
    let first = spans.iter().find(|span| span.trace_id == TRACE).expect("the caller's trace");
    assert_eq!(first.parent_span_id, PARENT);
    let text = format!("{spans:?}");
    assert!(!text.contains("canary-prompt") && !text.contains(KEY), "no prompt and no key");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attribute_of_four_calls() {
    let (provider, _) = provider().await;
    let collector = Collector::start().await;
    let sidecar = start(
        &config(&provider),
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}/base", collector.address)),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20made-up,x-scope=a"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_SERVICE_NAME", "llm-sidecar"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=not-this,k8s.pod.name=pod-1"),
        ],
    );
    let records = four_calls(&sidecar).await;
    let spans = collector.wait_for(4).await;
    assert_four(&spans, &records, &provider);
    let first = spans.iter().find(|span| span.trace_id == TRACE).expect("the caller's trace");
    assert_eq!((first.trace_state.as_str(), first.scope.as_str()), ("vendor=opaque", "keytally"));
    let resource = |name: &str| first.resource.get(name).and_then(Value::as_str);
    assert_eq!((resource("service.name"), resource("k8s.pod.name")), (Some("llm-sidecar"), Some("pod-1")));
    assert_eq!(resource("service.version"), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(resource("service.instance.id").map(str::len), Some(36));
    let (path, headers) = &collector.requests()[0];
    assert_eq!((path.as_str(), headers["x-scope"].as_bytes()), ("/base/v1/traces", &b"a"[..]));
    assert_eq!(
        (&headers["authorization"], &headers["content-encoding"]),
        (&"Basic made-up".parse().unwrap(), &"gzip".parse().unwrap())
    );
}

/// rotel prints what it took by gRPC and by HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn rotel_reads_them_back() {
    let agent = tool("venv/lib").and_then(|lib| {
        let versions = std::fs::read_dir(lib).ok()?;
        versions
            .filter_map(|entry| Some(entry.ok()?.path().join("site-packages/rotel/rotel-agent")))
            .find(|a| a.is_file())
    });
    let Some(agent) = agent else { return skip("rotel") };
    for protocol in ["grpc", "http/protobuf"] {
        let directory = tempfile::tempdir().unwrap();
        let printed = directory.path().join("printed");
        let (grpc, http) = (free_port(), free_port());
        let output = std::fs::File::create(&printed).unwrap();
        let _agent = Killed(
            Command::new(&agent)
                .args([
                    "start",
                    "--exporter",
                    "blackhole",
                    "--debug-log",
                    "traces",
                    "--debug-log-verbosity",
                    "detailed",
                ])
                .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
                .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
                .stdin(Stdio::null())
                .stdout(output.try_clone().unwrap())
                .stderr(output)
                .spawn()
                .unwrap(),
        );
        let port = if protocol == "grpc" { grpc } else { http };
        listens(port).await;
        let (provider, _) = provider().await;
        // Without a scheme, as gRPC endpoints may be.
        let endpoint =
            if protocol == "grpc" { format!("127.0.0.1:{port}") } else { format!("http://127.0.0.1:{port}") };
        let sidecar = start(
            &config(&provider),
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
            ],
        );
        let records = four_calls(&sidecar).await;
        let read = || std::fs::read_to_string(&printed).unwrap_or_default();
        wait_until("rotel printed four spans", async || read().matches("keytally.way").count() >= 4).await;
        assert_four(&of_rotel(&read()), &records, &provider);
    }
}

/// oteltap prints what it took as JSON.
#[tokio::test(flavor = "multi_thread")]
async fn oteltap_reads_them_back() {
    let Some(tap) = tool("venv/bin/oteltap") else { return skip("oteltap") };
    let directory = tempfile::tempdir().unwrap();
    let printed = directory.path().join("printed");
    let port = free_port();
    let _tap = Killed(
        Command::new(tap)
            .args(["--port", &port.to_string()])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&printed).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    listens(port).await;
    let (provider, _) = provider().await;
    let mut config = config(&provider);
    // By file instead of by variable; the calls' records go where the test looks for them.
    let sidecar = {
        let calls = directory.path().join("calls.jsonl");
        config.push_str(&format!(
            "export: {{ calls: {{ path: \"{}\" }}, otlp: {{ endpoint: \"http://127.0.0.1:{port}\" }} }}\n",
            calls.display()
        ));
        Sidecar::start_with(&config, |command| {
            command.env("OTEL_BSP_SCHEDULE_DELAY", "50");
        })
    };
    std::os::unix::fs::symlink(directory.path().join("calls.jsonl"), sidecar.dir().join("calls.jsonl")).unwrap();
    let records = four_calls(&sidecar).await;
    let read = || std::fs::read_to_string(&printed).unwrap_or_default();
    wait_until("oteltap printed four spans", async || read().matches("keytally.way").count() >= 4).await;
    assert_four(&of_oteltap(&read()), &records, &provider);
}

async fn listens(port: u16) {
    wait_until("the receiver listens", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok())
        .await;
}

fn blank() -> Span {
    Span {
        trace_id: String::new(),
        span_id: String::new(),
        parent_span_id: String::new(),
        trace_state: String::new(),
        name: String::new(),
        kind: 0,
        status: 0,
        status_message: String::new(),
        attributes: BTreeMap::new(),
        resource: BTreeMap::new(),
        scope: String::new(),
        nanos: 0,
    }
}

fn of_rotel(text: &str) -> Vec<Span> {
    let value = |text: &str| {
        let (kind, rest) = text.split_once('(').expect("a typed value");
        let rest = rest.strip_suffix(')').expect("a typed value");
        match kind {
            "Str" => json!(rest),
            "Int" | "Double" | "Bool" => rest.parse().expect("a number or a truth value"),
            // Our words have no brackets in them.
            "Slice" => {
                rest.split(')').filter_map(|item| item.split_once("Str(")).map(|(_, word)| json!(word)).collect()
            }
            other => panic!("a value of type {other}"),
        }
    };
    let blocks = text.split("\nSpan #").skip(1);
    blocks
        .map(|block| {
            let mut span = blank();
            for line in block.lines().take_while(|line| !line.starts_with("ResourceSpans #")) {
                if let Some((name, shown)) = line.strip_prefix("     -> ").and_then(|line| line.split_once(": ")) {
                    span.attributes.insert(name.to_owned(), value(shown));
                    continue;
                }
                let Some((name, shown)) = line.split_once(" : ").or_else(|| line.split_once(": ")) else { continue };
                match name.trim() {
                    "Trace ID" => span.trace_id = shown.to_owned(),
                    "ID" => span.span_id = shown.to_owned(),
                    "Parent ID" => span.parent_span_id = shown.trim().to_owned(),
                    "Name" => span.name = shown.to_owned(),
                    "Kind" => span.kind = i32::from(shown == "SPAN_KIND_CLIENT") * 3,
                    "Status code" => span.status = i32::from(shown == "STATUS_CODE_ERROR") * 2,
                    "Status message" => span.status_message = shown.trim().to_owned(),
                    _ => {}
                }
            }
            span
        })
        .collect()
}

fn of_oteltap(text: &str) -> Vec<Span> {
    fn plain(value: &Value) -> Value {
        let (kind, value) = value.as_object().and_then(|one| one.iter().next()).expect("a typed value");
        match kind.as_str() {
            "intValue" => value.as_str().expect("a number as text").parse().expect("a number"),
            "arrayValue" => value["values"].as_array().into_iter().flatten().map(plain).collect(),
            _ => value.clone(),
        }
    }
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| {
            let read: Value = serde_json::from_str(line).expect("one JSON line a span");
            let field = |name: &str| read[name].as_str().unwrap_or_default().to_owned();
            let list = read["attributes"].as_array().expect("attributes");
            let attributes =
                list.iter().map(|pair| (pair["key"].as_str().expect("a name").to_owned(), plain(&pair["value"])));
            Span {
                trace_id: field("traceId"),
                span_id: field("spanId"),
                parent_span_id: field("parentSpanId"),
                name: field("name"),
                kind: read["kind"].as_i64().expect("a kind") as i32,
                status: read["status"]["code"].as_i64().unwrap_or(0) as i32,
                status_message: read["status"]["message"].as_str().unwrap_or_default().to_owned(),
                attributes: attributes.collect(),
                ..blank()
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_means_no_spans() {
    let (provider, _) = provider().await;
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        let mut sidecar = start(&config(&provider), &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), off]);
        send(sidecar.proxy, request("plain", &[], &ask("one"))).await;
        sidecar.wait_for_records(1).await;
        // What waits is sent at shutdown: after it nothing can come any more.
        assert!(sidecar.stop().success());
    }
    assert_eq!((collector.spans().len(), collector.requests().len()), (0, 0));
}

/// What differs from the default: an address of its own for traces, the hop as a span, the URL, B3, no context upstream.
#[tokio::test(flavor = "multi_thread")]
async fn settings_of_traces() {
    let (provider, seen) = provider().await;
    let collector = Collector::start().await;
    let mut config = config(&provider);
    config.push_str(
        "trace: { server_span: true, url: true, strip_context: true, semconv: 1.41, profile: errors_and_cost }\n",
    );
    let own = format!("http://{}/own/path", collector.address);
    let sidecar = start(
        &config,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &own),
            ("OTEL_PROPAGATORS", "tracecontext,b3"),
        ],
    );
    let b3 = format!("{TRACE}-{PARENT}-1");
    let mut call = request("plain", &[("b3", &b3), ("baggage", "a=1"), ("tracestate", "a=1")], &ask("one"));
    *call.uri_mut() = "/openai/v1/chat/completions?key=canary-in-query".parse().unwrap();
    send(sidecar.proxy, call).await;
    let spans = collector.wait_for(2).await;
    assert_eq!(collector.requests()[0].0, "/own/path");
    let hop = spans.iter().find(|span| span.kind == 2).expect("a server span");
    let call = spans.iter().find(|span| span.kind == 3).expect("a client span");
    assert_eq!((hop.trace_id.as_str(), hop.parent_span_id.as_str(), hop.name.as_str()), (TRACE, PARENT, "POST"));
    assert_eq!((&call.trace_id, &call.parent_span_id), (&hop.trace_id, &hop.span_id));
    let address = format!("http://{}/v1/chat/completions", provider.address());
    assert_eq!(call.attributes["url.full"], json!(address), "without its query");
    assert!(call.attributes.contains_key("keytally.cost.usd"));
    assert!(!call.attributes.keys().any(|name| name.starts_with("gen_ai.usage.")), "{:?}", call.attributes);
    let sent = seen.lock().unwrap().clone();
    for name in ["b3", "baggage", "tracestate", "traceparent"] {
        assert!(!sent.contains_key(name), "{name} went on to the provider");
    }
    assert!(sent.contains_key("authorization") && sent.contains_key("x-answer"), "nothing else is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn context_goes_on_as_it_came_and_malformed_context_is_counted() {
    let (provider, seen) = provider().await;
    let sidecar = start(&config(&provider), &[]);
    assert_eq!(sidecar.metrics().await.sum("keytally_malformed_trace_contexts_total", &[]), Some(0.0));
    let parent = format!("00-{TRACE}-{PARENT}-01");
    for (sent, known) in [(parent.as_str(), true), ("00-made-up-nonsense-01", false)] {
        let headers = [("traceparent", sent), ("tracestate", "a=1"), ("baggage", "b=2"), ("b3", "0")];
        send(sidecar.proxy, request("plain", &headers, &ask(sent))).await;
        let arrived = seen.lock().unwrap().clone();
        for (name, value) in headers {
            assert_eq!(arrived[name].as_bytes(), value.as_bytes());
        }
        let records = sidecar.wait_for_records(if known { 1 } else { 2 }).await;
        let record = records.last().expect("a record");
        assert_eq!((record["trace_id"] == TRACE, record.get("parent_span_id").is_some()), (known, known), "{record}");
    }
    assert_eq!(sidecar.metrics().await.sum("keytally_malformed_trace_contexts_total", &[]), Some(1.0));
}
