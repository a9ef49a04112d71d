//! Canaries in every place of a call that holds something private, then a search of everything that leaves the process:
//! call log, standard output, logs, metrics in both formats, status, status page, ledger, spans on the wire, generated answers. Also in the
//! forms that a careless program would give them: percent-encoded, base64, hexadecimal, and cut to twelve characters.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use keytally::demo::simulator::{Answer, AnswerEnd, Received, Simulator};
use keytally::ledger::Reader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::wire::{closed_port, read_head};
use crate::support::{Sidecar, client, get, send};

/// Length of the pieces that are searched for.
const PIECE: usize = 12;

/// Made-up secrets of every kind; no two share a piece, and none shares one with ordinary words.
const KEYS: [&str; 10] = [
    "sk-proj-CanaryBearerQ8w3Zx7Lk2Vb9Nm4Jh6Tr1",
    "sk-ant-api03-CanaryXapiU5y2Wq8Er3Ty6Ui1Op7",
    "canaryazure9f8e7d6c5b4a3210fedcba98765432",
    "AIzaCanaryGoogleHeaderK3j9Dm2Xs8Fv5Bn1Qz",
    "AIzaCanaryQueryParamP7r4Gt6Hy2Ju8Ki3Lo9M",
    "canary-user-9Zk3:canary-password-Vq7Wd2Rm",
    "sk-CanaryWebsocketA1s5Df9Gh3Jk7Lz2Xc6Vb0",
    "AKIACANARYSIGV4QZ7X9",
    "PlainCanaryWithoutPrefixMnbVcxzLkjhGfdsa",
    "sk-CanaryUnknownPrefixT4g8Bn2Wd6Yh1Uj5Ik",
];
const PROMPT: &str = "canary-prompt-zebra-lighthouse-quartz-umbrella";
const SYSTEM: &str = "canary-system-violet-tractor-eleven-marmalade";
const ANSWER: &str = "canary-answer-copper-daffodil-ninety-glacier";
const TOOL: &str = "canary-toolarg-hazel-submarine-forty-lantern";
const ECHO: &str = "canary-echo-message-walnut-pelican-sixteen";

fn canaries() -> Vec<&'static str> {
    let mut all = KEYS.to_vec();
    all.extend([PROMPT, SYSTEM, ANSWER, TOOL, ECHO]);
    // Both halves of basic credentials are found by themselves.
    all.extend(["canary-user-9Zk3", "canary-password-Vq7Wd2Rm"]);
    all
}

/// Every piece of the text, in every form.
fn forms(canary: &str) -> Vec<Vec<u8>> {
    let mut texts = vec![canary.to_owned()];
    texts.push(percent_encoding::utf8_percent_encode(canary, percent_encoding::NON_ALPHANUMERIC).to_string());
    texts.push(canary.bytes().map(|byte| format!("{byte:02x}")).collect());
    // Base64 has three alignments; the bytes at the edges depend on neighbors and are left out.
    for shift in 0..3 {
        let padded = [vec![b'x'; shift], canary.as_bytes().to_vec()].concat();
        for engine in [base64::engine::general_purpose::STANDARD, base64::engine::general_purpose::URL_SAFE] {
            let encoded = engine.encode(&padded);
            texts.push(encoded[4..encoded.len() - 4].to_owned());
        }
    }
    let pieces = |text: String| text.as_bytes().windows(PIECE).map(<[u8]>::to_vec).collect::<Vec<_>>();
    texts.into_iter().flat_map(pieces).filter(|piece| !common(piece)).collect()
}

/// Pieces that the product may rightly say: beginnings shared by every key of a family.
fn common(piece: &[u8]) -> bool {
    piece.starts_with(b"sk-ant-api03") || piece.iter().all(|byte| byte.is_ascii_digit())
}

/// All pieces at once, and the canary that each is of.
static SEARCH: LazyLock<(aho_corasick::AhoCorasick, Vec<&'static str>)> = LazyLock::new(|| {
    let pieces: Vec<_> =
        canaries().into_iter().flat_map(|canary| forms(canary).into_iter().map(move |piece| (piece, canary))).collect();
    let search = aho_corasick::AhoCorasick::new(pieces.iter().map(|(piece, _)| piece)).expect("a search");
    (search, pieces.into_iter().map(|(_, canary)| canary).collect())
});

/// Fails if `haystack` holds a piece of a canary.
#[track_caller]
fn assert_clean(sink: &str, haystack: &[u8]) {
    let (search, canaries) = &*SEARCH;
    if let Some(found) = search.find(haystack) {
        let canary = canaries[found.pattern().as_usize()];
        let around = &haystack[found.start().saturating_sub(120)..(found.end() + 80).min(haystack.len())];
        panic!("{canary} in {sink}: …{}…", String::from_utf8_lossy(around));
    }
}

/// The search finds what it must find.
#[test]
fn the_search_finds_what_is_hidden() {
    for canary in canaries() {
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("a{canary}b"));
        let texts = [format!("x{canary}y"), format!("..{}..", &canary[3..3 + PIECE]), encoded];
        for text in texts {
            let caught = std::panic::catch_unwind(|| assert_clean("a test", text.as_bytes()));
            assert!(caught.is_err(), "{text} is not found");
        }
    }
    assert_clean("a clean text", b"openai:3f9a0c1d2e4b gpt-4o-mini insufficient_quota");
}

/// Answers with private text in every place; the path's last part says which.
fn provider(received: Received) -> Answer {
    let path = received.head.uri.path().to_owned();
    // The key as the request had it, to be echoed.
    let header = |name: &str| received.head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let key = header("authorization")
        .map(|value| value.trim_start_matches("Bearer ").to_owned())
        .or_else(|| header("x-api-key"))
        .or_else(|| header("x-goog-api-key"))
        .or_else(|| header("api-key"))
        .unwrap_or_else(|| KEYS[4].to_owned());
    let asks = |word: &str| memchr::memmem::find(&received.body, word.as_bytes()).is_some();
    if asks("echo-in-message") {
        let body = format!(
            r#"{{"error":{{"message":"Incorrect API key provided: {key}. {ECHO}","type":"invalid_request_error","code":"invalid_api_key"}}}}"#
        );
        return Answer::new(401, "application/json", body);
    }
    if asks("echo-in-code") {
        let body = format!(
            r#"{{"error":{{"message":"no","type":"{key}","code":"{key}","status":"{key}"}},"code":"{key}","__type":"{key}"}}"#
        );
        return Answer::new(403, "application/json", body).header("x-request-id", &format!("req-{key}"));
    }
    if asks("echo-in-stream") {
        let body = format!(
            "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"{key}\",\"code\":\"{key}\",\"message\":\"{key} {ECHO}\"}}}}\n\n"
        );
        return Answer::new(200, "text/event-stream", body);
    }
    if asks("echo-as-html") {
        return Answer::new(502, "text/html", format!("<html>{key} {ECHO}</html>"));
    }
    if asks("echo-in-headers") {
        return Answer::new(
            429,
            "application/json",
            r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#,
        )
        .header("x-ratelimit-limit-requests", &key)
        .header("retry-after", &key)
        .header("openai-organization", &key)
        .header("x-request-id", &key);
    }
    if asks("\"stream\":true") {
        let body = format!(
            "data: {{\"model\":\"gpt-4o-mini\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{ANSWER}\"}}}}]}}\n\ndata: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":0,\"function\":{{\"name\":\"f\",\"arguments\":\"{TOOL}\"}}}}]}}}}]}}\n\ndata: [DONE]\n\n"
        );
        let mut answer = Answer::new(200, "text/event-stream", body);
        if asks("cut-off") {
            answer.end = AnswerEnd::Broken;
        }
        return answer;
    }
    let body = match path.as_str() {
        path if path.ends_with("/messages") => format!(
            r#"{{"id":"m","type":"message","model":"claude-sonnet-4-5","content":[{{"type":"text","text":"{ANSWER}"}},{{"type":"tool_use","name":"f","input":{{"a":"{TOOL}"}}}}],"usage":{{"input_tokens":5,"output_tokens":5}}}}"#
        ),
        path if path.contains(":generateContent") => format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{ANSWER}"}}]}}}}],"usageMetadata":{{"promptTokenCount":5,"candidatesTokenCount":5,"totalTokenCount":10}},"modelVersion":"gemini-2.5-flash"}}"#
        ),
        _ => format!(
            r#"{{"id":"c","model":"gpt-4o-mini","choices":[{{"message":{{"content":"{ANSWER}","tool_calls":[{{"function":{{"arguments":"{TOOL}"}}}}]}}}}],"usage":{{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10}}}}"#
        ),
    };
    Answer::new(200, "application/json", body)
}

/// Takes spans as a collector would, and keeps the bytes.
async fn collector() -> (Simulator, Arc<Mutex<Vec<u8>>>) {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&taken);
    let server = Simulator::start(move |received: Received| {
        let mut plain = Vec::new();
        match received.head.headers.get("content-encoding").map(http::HeaderValue::as_bytes) {
            Some(b"gzip") => {
                flate2::read::GzDecoder::new(&received.body[..]).read_to_end(&mut plain).expect("gzip");
            }
            _ => plain.extend_from_slice(&received.body),
        }
        copy.lock().unwrap().extend(plain);
        Answer::new(200, "application/x-protobuf", "")
    })
    .await
    .unwrap();
    (server, taken)
}

fn body(more: &str) -> String {
    format!(
        r#"{{{more}"model":"gpt-4o-mini","user":"{SYSTEM}","messages":[{{"role":"system","content":"{SYSTEM}"}},{{"role":"user","content":"{PROMPT}"}}]}}"#
    )
}

/// One call with a header; errors are the point of some.
async fn call(address: SocketAddr, target: &str, header: (&str, &str), body: String) -> Option<client::Whole> {
    let request = Request::post(target)
        .header(header.0, header.1)
        .header("content-type", "application/json")
        .header("user-agent", format!("agent/1 ({PROMPT})"))
        .header("baggage", format!("user={PROMPT}"))
        .header("tracestate", "vendor=1")
        .header("cookie", format!("session={}", KEYS[8]))
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    match client::open(address, request).await {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.ok()?.to_bytes();
            Some(client::Whole { head, body, trailers: None })
        }
        Err(_) => None,
    }
}

/// Every kind of call once; returns the bodies of the answers that keytally made itself, and the number of calls.
async fn traffic(sidecar: &Sidecar) -> (Vec<u8>, usize) {
    let bearer = format!("Bearer {}", KEYS[0]);
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(KEYS[5]));
    let signed = format!(
        "AWS4-HMAC-SHA256 Credential={}/20260101/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature={}",
        KEYS[7], KEYS[2]
    );
    let chat = "/openai/v1/chat/completions";
    let mut calls: Vec<(String, (&str, &str), String)> = vec![
        (chat.into(), ("authorization", &bearer), body("")),
        (chat.into(), ("authorization", &bearer), body("\"stream\":true,")),
        (chat.into(), ("authorization", &bearer), body("\"stream\":true,\"x\":\"cut-off\",")),
        (chat.into(), ("authorization", &basic), body("")),
        (chat.into(), ("authorization", KEYS[8]), body("")),
        // The key where the model belongs, and the prompt there.
        (chat.into(), ("authorization", &bearer), body("").replace("gpt-4o-mini", KEYS[0])),
        (chat.into(), ("authorization", &bearer), format!("{{\"model\":\"gpt-4o-mini\",\"messages\":\"{PROMPT}")),
        (format!("/openai/v1/files/{}", KEYS[0]), ("authorization", &bearer), String::new()),
        ("/anthropic/v1/messages".into(), ("x-api-key", KEYS[1]), body("")),
        (
            format!("/azure/made-up/openai/deployments/d/chat/completions?api-version=1&q={PROMPT}"),
            ("api-key", KEYS[2]),
            body(""),
        ),
        ("/gemini/v1beta/models/gemini-2.5-flash:generateContent".into(), ("x-goog-api-key", KEYS[3]), body("")),
        (
            format!("/gemini/v1beta/models/gemini-2.5-flash:generateContent?key={}", KEYS[4]),
            ("accept", "*/*"),
            body(""),
        ),
        ("/bedrock/model/amazon.nova-lite-v1:0/converse".into(), ("authorization", &signed), body("")),
        // Nobody listens there: keytally answers itself.
        ("/mistral/v1/chat/completions".into(), ("authorization", &bearer), body("")),
        (format!("/cohere/v2/chat?key={}", KEYS[4]), ("authorization", &bearer), body("")),
        // No such provider: the whole target is a stranger's text.
        (format!("/{}/v1?key={}", KEYS[9], KEYS[4]), ("authorization", &bearer), body("")),
        (format!("/{PROMPT}"), ("authorization", &bearer), body("")),
    ];
    for word in ["echo-in-message", "echo-in-code", "echo-in-stream", "echo-as-html", "echo-in-headers"] {
        let more = format!("\"x\":\"{word}\",");
        calls.push((chat.into(), ("authorization", &bearer), body(&more)));
        calls.push((chat.into(), ("authorization", KEYS[8]), body(&more)));
        calls.push(("/anthropic/v1/messages".into(), ("x-api-key", KEYS[1]), body(&more)));
        calls.push(("/gemini/v1beta/models/g:generateContent".into(), ("x-goog-api-key", KEYS[3]), body(&more)));
        calls.push(("/azure/made-up/openai/deployments/d/chat/completions".into(), ("api-key", KEYS[2]), body(&more)));
    }
    let (mut own_answers, mut count) = (Vec::new(), calls.len());
    for (target, header, body) in calls {
        if let Some(answer) = call(sidecar.proxy, &target, header, body).await
            && answer.head.headers.contains_key("x-keytally-error")
        {
            own_answers.extend_from_slice(format!("{:?}", answer.head).as_bytes());
            own_answers.extend_from_slice(&answer.body);
        }
    }
    // Realtime from a browser has the key in the subprotocol.
    let mut socket = TcpStream::connect(sidecar.proxy).await.unwrap();
    let head = format!(
        "GET /openai/v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: realtime, openai-insecure-api-key.{}\r\n\r\n",
        KEYS[6]
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    read_head(&mut socket).await;
    count += 1;
    // Not a base URL, and not HTTP.
    for raw in [
        format!(
            "GET http://{}@api.openai.com/{} HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\nconnection: close\r\n\r\n",
            KEYS[5], KEYS[9]
        ),
        format!("CONNECT {}.example:443 HTTP/1.1\r\nhost: x\r\nproxy-authorization: {basic}\r\n\r\n", &KEYS[9][3..]),
    ] {
        let mut stream = TcpStream::connect(sidecar.proxy).await.unwrap();
        stream.write_all(raw.as_bytes()).await.unwrap();
        // No call of anybody's, so no record.
        own_answers.extend_from_slice(read_head(&mut stream).await.as_bytes());
    }
    let mut broken = TcpStream::connect(sidecar.proxy).await.unwrap();
    broken.write_all(format!("{PROMPT} {} HTTP/9\r\n\r\n", KEYS[0]).as_bytes()).await.unwrap();
    let _ = broken.read_to_end(&mut own_answers).await;
    (own_answers, count)
}

fn config(provider: SocketAddr, closed: SocketAddr, collector: SocketAddr, ledger: &Path) -> String {
    let mut text = String::from("providers:\n");
    for id in ["openai", "anthropic", "azure_openai", "gemini", "bedrock"] {
        text.push_str(&format!("  {id}: {{ base_url: \"http://{provider}\" }}\n"));
    }
    for id in ["mistral", "cohere"] {
        text.push_str(&format!("  {id}: {{ base_url: \"http://{closed}\" }}\n"));
    }
    // Without the hold every series shows what it has.
    text.push_str(&format!("metrics: {{ birth_hold: 0s }}\nexport: {{ calls: {{ path: \"-\" }}, otlp: {{ endpoint: \"http://{collector}\" }} }}\n"));
    text.push_str(&format!("ledger: {{ path: \"{}\" }}\n", ledger.display()));
    text
}

/// Runs the traffic with these variables and searches every sink; returns the logs.
async fn run(variables: &[(&str, &str)]) -> String {
    let provider = Simulator::start(provider).await.unwrap();
    let (collector, spans) = collector().await;
    let (_held, closed) = closed_port();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger.db");
    let config = config(provider.address(), closed, collector.address(), &ledger);
    let mut sidecar = Sidecar::start_with(&config, |command| {
        command.envs(variables.iter().copied()).env("RUST_BACKTRACE", "full").stdout(writer);
    });
    let stdout = std::thread::spawn(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        text
    });
    let (own_answers, calls) = traffic(&sidecar).await;
    let plain = get(sidecar.admin, "/metrics").await.body;
    let open = Request::get("/metrics").header("accept", "application/openmetrics-text; version=1.0.0");
    let open = send(sidecar.admin, open.body(Full::default()).unwrap()).await;
    assert!(open.body.ends_with(b"# EOF\n"), "OpenMetrics");
    let status = get(sidecar.admin, "/status").await.body;
    let live = get(sidecar.admin, "/status/live").await.body;
    let page =
        send(sidecar.admin, Request::get("/").header("accept", "text/html").body(Full::default()).unwrap()).await;
    assert!(page.body.starts_with(b"<!DOCTYPE html>"), "a page");
    let stranger = get(sidecar.admin, &format!("/{PROMPT}?{}", KEYS[0])).await.body;
    // Not `stop`: that would hold up the collector, which runs on this thread.
    sidecar.signal("TERM");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !sidecar.log().contains("\"stopped\"") {
        assert!(Instant::now() < deadline, "{}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sidecar.wait(Duration::from_secs(5)).code(), Some(0));
    let records = stdout.join().unwrap();
    let log = sidecar.log();
    let spans = spans.lock().unwrap().clone();

    // Every sink was used.
    assert_eq!(records.iter().filter(|byte| **byte == b'\n').count(), calls, "one record a call");
    assert!(memchr::memmem::find(&spans, b"gen_ai.operation.name").is_some(), "spans arrived");
    assert!(own_answers.len() > 500 && plain.len() > 500 && live.len() > 500);
    assert_eq!(Reader::open(&ledger).unwrap().extent().unwrap().calls, calls as u64, "a row a call");

    assert_clean("the call log", &records);
    assert_clean("the log", log.as_bytes());
    assert_clean("the spans", &spans);
    assert_clean("metrics", &plain);
    assert_clean("OpenMetrics", &open.body);
    assert_clean("status", &status);
    assert_clean("the live view", &live);
    assert_clean("the status page", &page.body);
    for file in std::fs::read_dir(directory.path()).unwrap() {
        assert_clean("the ledger", &std::fs::read(file.unwrap().path()).unwrap());
    }
    assert_clean("an admin page that is not there", &stranger);
    assert_clean("answers of keytally's own", &own_answers);
    log
}

#[tokio::test]
async fn no_canary_in_any_sink() {
    run(&[]).await;
}

#[tokio::test]
async fn no_canary_with_every_log_line_on() {
    let log = run(&[("RUST_LOG", "trace,hyper=trace,h2=trace,rustls=trace,reqwest=trace")]).await;
    assert!(log.contains("\"ready\""));
}

/// Panics whose message holds what was just read, on either side of a call: the calls go on, the records are written, and
/// the log says where, but not what.
#[cfg(debug_assertions)]
#[tokio::test]
async fn no_canary_in_panics() {
    for stage in ["request", "answer"] {
        let log = run(&[("KEYTALLY_TEST_PANIC", stage), ("RUST_LOG", "trace")]).await;
        assert!(log.contains("panicked") && log.contains("src/tap/mod.rs"), "{stage}: no panic was forced:\n{log}");
    }
}

/// A call is what it is without the sidecar, whatever reading it does to the reader.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_panic_while_reading_fails_no_call() {
    let provider = Simulator::start(provider).await.unwrap();
    for stage in ["request", "answer"] {
        let config = format!("providers: {{ openai: {{ base_url: \"http://{}\" }} }}", provider.address());
        let sidecar = Sidecar::start_with(&config, |command| {
            command.env("KEYTALLY_TEST_PANIC", stage);
        });
        for (more, end) in [("", "complete"), ("\"stream\":true,", "complete")] {
            let before = sidecar.records().len();
            let answer =
                call(sidecar.proxy, "/openai/v1/chat/completions", ("authorization", KEYS[0]), body(more)).await;
            let answer = answer.expect("a whole answer");
            assert_eq!(answer.head.status, 200);
            assert!(memchr::memmem::find(&answer.body, ANSWER.as_bytes()).is_some(), "{:?}", answer.body);
            let record = sidecar.wait_for_records(before + 1).await.remove(before);
            assert_eq!((&record["outcome"], &record["end"]), (&"ok".into(), &end.into()), "{stage}: {record}");
        }
    }
}

/// What recording a call does to the sidecar: the call has its answer, the next one too, and both are counted as lost.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_panic_while_recording_loses_no_call_uncounted() {
    let provider = Simulator::start(provider).await.unwrap();
    let config = format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nmetrics: {{ birth_hold: 0s }}",
        provider.address()
    );
    let sidecar = Sidecar::start_with(&config, |command| {
        command.env("KEYTALLY_TEST_PANIC", "meter");
    });
    for made in 1..3 {
        let answer = call(sidecar.proxy, "/openai/v1/chat/completions", ("authorization", KEYS[0]), body("")).await;
        assert_eq!(answer.expect("a whole answer").head.status, 200);
        let deadline = Instant::now() + Duration::from_secs(20);
        let lost = [("signal", "metrics"), ("reason", "internal")];
        while sidecar.metrics().await.sum("keytally_telemetry_dropped_total", &lost) != Some(f64::from(made)) {
            assert!(Instant::now() < deadline, "call {made} is not counted:\n{}", sidecar.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(sidecar.log().contains("panicked"), "{}", sidecar.log());
    assert_eq!(sidecar.records().len(), 0);
    assert_clean("the log", sidecar.log().as_bytes());
}
