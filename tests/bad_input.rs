//! Hostile, broken and huge input from the application, from the provider and from the owner of the configuration: nothing
//! falls over, memory stays flat, what can be passed on is passed on byte for byte.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use keytally::demo::simulator::{Answer, AnswerEnd, Received, Simulator};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::wire::{exchange, read_head, read_until, serve_raw};
use crate::support::{Sidecar, client, get, post_json, send};

const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;
const ANSWER: &str = r#"{"id":"1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
const KEY: &str = "sk-made-up-key-for-tests";
const CHAT: &str = "/openai/v1/chat/completions";
const MIB: u64 = 1 << 20;

fn at(provider: SocketAddr) -> String {
    format!("providers: {{ openai: {{ base_url: \"http://{provider}\" }} }}\nmetrics: {{ birth_hold: 0s }}\n")
}

async fn pair(script: impl Fn(Received) -> Answer + Send + Sync + 'static) -> (Simulator, Sidecar) {
    let provider = Simulator::start(script).await.unwrap();
    let sidecar = Sidecar::start(&at(provider.address()));
    (provider, sidecar)
}

/// Resident memory after a first call has loaded what is loaded once (prices, tokenizer, TLS roots).
async fn warm(sidecar: &Sidecar) -> u64 {
    post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    sidecar.wait_for_records(1).await;
    sidecar.resident_bytes()
}

#[track_caller]
fn assert_flat(sidecar: &Sidecar, before: u64, allowed: u64) {
    let now = sidecar.resident_bytes();
    assert!(now < before + allowed, "{} MiB more, {} allowed", now.saturating_sub(before) / MIB, allowed / MIB);
}

// === configuration ===

/// Exit code and standard error of `check` and of `serve` with this file.
fn refused(text: impl AsRef<[u8]>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keytally.yaml");
    std::fs::write(&file, text).unwrap();
    let mut told = Vec::new();
    for command in ["check", "serve"] {
        let output = Command::new(env!("CARGO_BIN_EXE_keytally"))
            .args([command, "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{command}: {err}");
        assert_eq!(output.stdout, b"", "{command}");
        told.push(err);
    }
    assert_eq!(told[0], told[1], "check says what serve says");
    told.remove(0)
}

#[test]
fn a_wrong_configuration_is_refused_with_every_problem_at_once() {
    let text = "limits:\n  keys: many\n  models: -1\nproviders:\n  nobody: {}\n  other: { prefix: anthropic, base_url: \"http://x.invalid\" }\nupstream: { connect_timeout: soon, ca_file: no-such.pem }\nrules:\n  - { id: r, messages: [\"(\"], outcome: no_such_outcome }\nunknown_section: 1\n";
    let told = refused(text);
    for (line, words) in [
        (2, "limits.keys = \"many\""),
        (3, "limits.models"),
        (5, "providers.nobody.base_url"),
        (6, "providers.other.prefix"),
        (7, "upstream.connect_timeout = \"soon\""),
        (9, "rules[0].outcome"),
        (10, "unknown_section"),
    ] {
        let found = told.lines().find(|row| row.contains(words)).unwrap_or_else(|| panic!("no {words} in:\n{told}"));
        assert!(found.contains(&format!("keytally.yaml:{line}:")), "{found}");
    }
    assert!(told.contains("no-such.pem"), "{told}");
}

#[test]
fn a_file_that_is_no_configuration() {
    assert!(refused(b"limits: { keys: \xff\xfe }").contains("not UTF-8"));
    assert!(refused("- a\n- list").contains("keytally.yaml:1:1"));
    assert!(refused("limits: { keys: [1").contains("keytally.yaml:1:"));
    assert!(refused(format!("a: {}", "[".repeat(10_000))).contains("keytally.yaml:1"));
    let pasted = refused("keys: [{ fingerprint: \"sk-made-up-0123456789abcdef0123\", name: a }]");
    assert!(!pasted.contains("0123456789abcdef"), "a pasted key is not repeated: {pasted}");
}

/// Named by mistake, read until memory ends or for ever.
#[test]
fn files_without_end_are_refused() {
    for text in [
        "prices: { book: /dev/zero }",
        "upstream: { ca_file: /dev/zero }",
        "providers: { openai: { ca_file: /dev/zero } }",
        "export: { otlp: { endpoint: \"https://localhost:1\", ca_file: /dev/zero } }",
        "tls: { ca_certificate: /dev/zero, ca_key: /dev/zero }",
        "fingerprint: { salt: { file: /dev/zero } }",
    ] {
        let told = refused(text);
        assert!(told.contains("/dev/zero") && told.contains("not a regular file"), "{text}: {told}");
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keytally.yaml");
    std::fs::write(&file, "").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_keytally")).args(["check", "--config"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

// === heads ===

#[tokio::test]
async fn a_header_of_many_kilobytes() {
    let (provider, sidecar) = pair(|received| {
        let length = received.head.headers.get("x-large").map_or(0, |value| value.len());
        Answer::new(200, "application/json", length.to_string()).header("x-large", &"b".repeat(length.min(240_000)))
    })
    .await;
    let large = "a".repeat(240_000);
    let request = Request::get("/openai/v1/models").header("x-large", &large).body(Full::<Bytes>::default()).unwrap();
    // The answer's head is as large; the test's own client takes it when told to.
    let stream = TcpStream::connect(sidecar.proxy).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(4 << 20)
        .handshake(hyper_util::rt::TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-large"].len(), 240_000);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "240000");
    // Beyond the limit the refusal is plain, and the port lives on.
    let head = format!("GET /openai/v1/models HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "a".repeat(3_000_000));
    let mut stream = TcpStream::connect(sidecar.proxy).await.unwrap();
    // The rest is not taken.
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(get(sidecar.proxy, "/openai/v1/models").await.head.status, 200);
    drop(provider);
}

/// A provider that keeps what it was sent, raw, and answers each request that it can tell apart.
async fn recorder() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&seen);
    let address = serve_raw(move |mut stream| {
        let seen = Arc::clone(&copy);
        async move {
            let mut buffer = vec![0; 65536];
            while let Ok(read) = stream.read(&mut buffer).await
                && read > 0
            {
                seen.lock().unwrap().extend_from_slice(&buffer[..read]);
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK";
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, seen)
}

#[tokio::test]
async fn requests_cannot_be_smuggled() {
    let (address, seen) = recorder().await;
    let sidecar = Sidecar::start(&at(address));
    let smuggled = "GET /v1/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    let chunked = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    // (what comes after the request line, the answer's status if the sidecar refuses)
    let cases = [
        (format!("content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n{chunked}", chunked.len()), None),
        (format!("transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n{chunked}"), None),
        ("content-length: 3\r\ncontent-length: 5\r\n\r\nabcde".to_owned(), Some(400)),
        ("content-length: 3, 5\r\n\r\nabcde".to_owned(), Some(400)),
        ("content-length: +3\r\n\r\nabc".to_owned(), Some(400)),
        ("content-length: -1\r\n\r\n".to_owned(), Some(400)),
        (format!("transfer-encoding: chunked, identity\r\n\r\n{chunked}"), Some(400)),
        (format!("transfer-encoding: xchunked\r\n\r\n{chunked}"), Some(400)),
        ("x-a: b\rc\r\ncontent-length: 0\r\n\r\n".to_owned(), Some(400)),
        ("x-a: b\0c\r\ncontent-length: 0\r\n\r\n".to_owned(), Some(400)),
        (" folded: x\r\n\r\n".to_owned(), Some(400)),
        ("x a: b\r\n\r\n".to_owned(), Some(400)),
        ("x-a : b\r\n\r\n".to_owned(), Some(400)),
        ("transfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(), None),
        ("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_owned(), None),
    ];
    for (rest, refusal) in cases {
        seen.lock().unwrap().clear();
        let mut stream = TcpStream::connect(sidecar.proxy).await.unwrap();
        stream
            .write_all(format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{rest}").as_bytes())
            .await
            .unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        // The recorder answers at the head: the rest of a chunked request may arrive after its answer.
        let arrived = || String::from_utf8_lossy(&seen.lock().unwrap()).to_lowercase();
        for _ in 0..200 {
            let got = arrived();
            if !got.contains("/v1/smuggled") || got.ends_with("0\r\n\r\n") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let got = arrived();
        // One request line at the provider, whose head frames its body in one way.
        if let Some(status) = refusal {
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{rest:?}: {answer}");
            assert_eq!(got, "", "{rest:?}");
            continue;
        }
        let head = got.split("\r\n\r\n").next().unwrap();
        assert!(!(head.contains("content-length") && head.contains("transfer-encoding")), "{rest:?}: {head}");
        assert!(head.matches("content-length").count() <= 1, "{rest:?}: {head}");
        if got.contains("/v1/smuggled") {
            // As data only: in a chunk of the first request.
            assert!(head.contains("transfer-encoding: chunked"), "{rest:?}: {got}");
            let body = &got[head.len() + 4..];
            assert!(body.starts_with(&format!("{:x}\r\nget /v1/smuggled", smuggled.len())), "{rest:?}: {got}");
            assert!(body.ends_with("0\r\n\r\n"), "{rest:?}: {got}");
        }
    }
    assert_eq!(get(sidecar.proxy, "/openai/v1/models").await.head.status, 200);
}

#[tokio::test]
async fn answers_cannot_be_smuggled() {
    let first = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    for (rest, whole) in [
        ("content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", Some("abcde")),
        ("transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", Some("abcde")),
        ("content-length: 2\r\ncontent-length: 3\r\n\r\nabcde", None),
        ("content-length: 5\r\n\r\nabcdeHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npoisoned!", Some("abcde")),
        ("transfer-encoding: chunked\r\n\r\n5\r\nabcdeXX", None),
    ] {
        let address = serve_raw(move |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(format!("{first}{rest}").as_bytes()).await;
            let mut more = [0; 4096];
            while stream.read(&mut more).await.is_ok_and(|read| read > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext").await;
            }
        })
        .await;
        let sidecar = Sidecar::start(&format!("{}upstream: {{ idle_timeout: 2s }}\n", at(address)));
        let request = Request::get("/openai/v1/models").body(Full::default()).unwrap();
        let answer = client::open(sidecar.proxy, request).await.unwrap();
        let (head, body) = answer.into_parts();
        match (whole, body.collect().await) {
            (Some(text), Ok(body)) => {
                assert_eq!((head.status.as_u16(), &*body.to_bytes()), (200, text.as_bytes()), "{rest:?}")
            }
            // Broken off, as it came.
            (None, Err(_)) => {}
            (None, Ok(body)) => assert_eq!(head.status, 502, "{rest:?}: {:?}", body.to_bytes()),
            (Some(_), Err(error)) => panic!("{rest:?}: {error}"),
        }
        // What came after the answer is not the next call's.
        let next = client::open(sidecar.proxy, Request::get("/openai/v1/models").body(Full::default()).unwrap()).await;
        if let Ok(next) = next
            && let Ok(body) = next.into_body().collect().await
        {
            assert!(!body.to_bytes().starts_with(b"poisoned"), "{rest:?}");
        }
    }
}

#[tokio::test]
async fn old_pipelined_and_odd_requests() {
    let targets = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&targets);
    let (provider, sidecar) = pair(move |received| {
        let host = received.head.headers["host"].to_str().unwrap().to_owned();
        copy.lock().unwrap().push((received.head.uri.to_string(), host));
        let mut answer = Answer::new(200, "text/plain", "one ");
        // Of a length that is not known beforehand.
        answer.pieces.push((Duration::from_millis(20), Bytes::from("two")));
        answer
    })
    .await;
    let host = provider.address().to_string();
    let take = || std::mem::take(&mut *targets.lock().unwrap());

    // HTTP/1.0 knows no chunks: the end of the connection is the end of the answer.
    let answer = exchange(sidecar.proxy, "GET /openai/v1/models HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\none two"), "{answer}");
    assert!(!answer.to_lowercase().contains("transfer-encoding"), "{answer}");
    assert_eq!(take(), [("/v1/models".to_owned(), host.clone())]);

    // Several at once are answered in their order.
    let pipelined: String = (0..3)
        .map(|n| {
            format!(
                "GET /openai/v1/models/{n} HTTP/1.1\r\nhost: x\r\n{}\r\n",
                if n == 2 { "connection: close\r\n" } else { "" }
            )
        })
        .collect();
    let answer = exchange(sidecar.proxy, pipelined).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    assert_eq!(
        take().into_iter().map(|(target, _)| target).collect::<Vec<_>>(),
        ["/v1/models/0", "/v1/models/1", "/v1/models/2"]
    );

    // The Host of the request decides nothing, and does not reach the provider.
    for sent in ["", "host: evil.example\r\n", "host: 127.0.0.1:1\r\n"] {
        let answer =
            exchange(sidecar.proxy, format!("GET /openai/v1/models HTTP/1.1\r\n{sent}connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{sent:?}: {answer}");
        assert_eq!(take(), [("/v1/models".to_owned(), host.clone())], "{sent:?}");
    }

    // Dots stay the provider's to judge, and lead to no other provider.
    for (target, sent) in [
        ("/openai/../x", "/../x"),
        ("/openai/../anthropic/v1/messages", "/../anthropic/v1/messages"),
        ("/openai/%2e%2e/x", "/%2e%2e/x"),
        ("/openai//v1//models", "//v1//models"),
        ("/openai/v1/a%00b%0d%0ac?x=%0d%0a", "/v1/a%00b%0d%0ac?x=%0d%0a"),
        ("/openai", "/"),
        ("/openai?x=1", "/?x=1"),
    ] {
        let answer =
            exchange(sidecar.proxy, format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{target}: {answer}");
        assert_eq!(take(), [(sent.to_owned(), host.clone())], "{target}");
    }
    for target in ["/", "/../openai/v1/models", "/OpenAI/v1/models", "/%6fpenai/v1/models", "*", "//openai/v1"] {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        let answer =
            exchange(sidecar.proxy, format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
                .await;
        let status: u16 = answer[9..12].parse().unwrap();
        assert!([200, 404].contains(&status), "{target}: {answer}");
        let reached = take();
        assert!(
            status == 404 || reached.iter().all(|(target, _)| target == "/v1/models" || target == "/v1"),
            "{target}: {reached:?}"
        );
    }
    // Not HTTP at all.
    for junk in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03made up client hello\r\n\r\n"[..],
        b"\r\n\r\n\r\n\r\nX\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let answer = exchange(sidecar.proxy, junk).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(take(), []);
    }
    assert_eq!(get(sidecar.proxy, "/openai/v1/models").await.head.status, 200);
}

// === bodies ===

fn deep(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test]
async fn json_that_is_none_passes_both_ways() {
    let (_provider, sidecar) = pair(|received| Answer::new(200, "application/json", received.body)).await;
    let in_usage = format!(r#"{{"model":"gpt-4o-mini","usage":{}}}"#, deep(10_000));
    let objects = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let bodies: Vec<Vec<u8>> = vec![
        b"{".to_vec(),
        b"{\"model\": nonsense}".to_vec(),
        b"{\"model\":\"gpt-4o-mini\"}}}}]]]".to_vec(),
        b"{\"model\":\"\xff\xfe\xc3\x28\",\"usage\":{\"prompt_tokens\":1}}".to_vec(),
        b"{\"model\":\"\\ud800\",\"usage\":{\"prompt_tokens\":\"x\",\"completion_tokens\":-5,\"total_tokens\":1e400}}"
            .to_vec(),
        b"{\"usage\":{\"prompt_tokens\":99999999999999999999999999,\"completion_tokens\":0.5}}".to_vec(),
        b"{\"model\":{\"model\":[]},\"usage\":[],\"error\":1}".to_vec(),
        b"\xef\xbb\xbf{\"model\":\"gpt-4o-mini\"}".to_vec(),
        vec![0; 5000],
        (0..=255).cycle().take(50_000).collect(),
        deep(10_000).into_bytes(),
        "[".repeat(10_000).into_bytes(),
        in_usage.into_bytes(),
        objects.into_bytes(),
        format!("{{\"{}\":1}}", "k".repeat(3 << 20)).into_bytes(),
        format!("{{\"model\":\"{}\"}}", "m".repeat(3 << 20)).into_bytes(),
    ];
    for (n, body) in bodies.iter().enumerate() {
        let answer = post_json(sidecar.proxy, CHAT, KEY, body.clone()).await;
        assert_eq!((answer.head.status.as_u16(), answer.body[..] == body[..]), (200, true), "body {n}");
    }
    let records = sidecar.wait_for_records(bodies.len()).await;
    for record in &records {
        assert_eq!((&record["status"], &record["end"]), (&200.into(), &"complete".into()), "{record}");
        let usage = record["usage"]["input_tokens"].as_u64().unwrap_or(0);
        assert!(usage < 1 << 50 && record.to_string().len() < 4096, "{record}");
    }
}

#[tokio::test]
async fn event_streams_that_are_none_pass_unchanged() {
    let (_provider, sidecar) = pair(|received| Answer::new(200, "text/event-stream", received.body)).await;
    let usage = "data: {\"model\":\"gpt-4o-mini\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\ndata: [DONE]\n\n";
    let bodies: Vec<(Vec<u8>, bool)> = vec![
        (b"data: {\"choi\n\ndata: ces\"\n\n".to_vec(), false),
        (b"data\ndata:\n:\n::::\nevent\n\nretry: x\nid: \0\n\n".to_vec(), false),
        (b"\r\r\r\n\n\rdata: [DONE]".to_vec(), false),
        (b"data: \xff\xfe\xfd\n\n".to_vec(), false),
        (vec![b'\n'; 100_000], false),
        (format!("data: {}\n\n", deep(10_000)).into_bytes(), false),
        // What can be read after what cannot is read.
        (format!("data: {{nonsense}}\n\ndata: \u{0}\n\n: comment\n\n{usage}").into_bytes(), true),
        (usage.replace('\n', "\r\n").into_bytes(), true),
        (usage.replace('\n', "\r").into_bytes(), true),
    ];
    for (n, (body, _)) in bodies.iter().enumerate() {
        let answer = post_json(sidecar.proxy, CHAT, KEY, body.clone()).await;
        assert_eq!((answer.head.status.as_u16(), answer.body[..] == body[..]), (200, true), "body {n}");
        let record = sidecar.wait_for_records(n + 1).await.remove(n);
        let known = record["usage"]["input_tokens"] == 7 && record["usage_source"] == "reported";
        assert_eq!(known, bodies[n].1, "body {n}: {record}");
    }
}

/// Writes `total` bytes made of `piece` in a chunked answer whose body opens with `start` and closes with `end`.
async fn large_provider(head: &'static str, start: Bytes, piece: Bytes, total: u64, end: Bytes) -> SocketAddr {
    serve_raw(move |mut stream| {
        let (start, piece, end) = (start.clone(), piece.clone(), end.clone());
        async move {
            let request = read_head(&mut stream).await;
            if request.contains("/small") || request.contains("content-length: 67\r\n") {
                let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}", ANSWER.len());
                let _ = stream.write_all(answer.as_bytes()).await;
                return;
            }
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{head}\r\n\r\n");
            if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&start).await.is_err() {
                return;
            }
            let mut left = total;
            while left > 0 {
                let take = left.min(piece.len() as u64) as usize;
                if stream.write_all(&piece[..take]).await.is_err() {
                    return;
                }
                left -= take as u64;
            }
            let _ = stream.write_all(&end).await;
        }
    })
    .await
}

/// Reads an answer to its end without keeping it; returns its length, and the highest resident memory seen meanwhile.
async fn drain(sidecar: &Sidecar, body: hyper::body::Incoming) -> (u64, u64) {
    let (mut body, mut length, mut highest, mut next) = (body, 0, 0, 0);
    while let Some(frame) = body.frame().await {
        length += frame.expect("the answer goes on").data_ref().map_or(0, |data| data.len() as u64);
        if length > next {
            highest = highest.max(sidecar.resident_bytes());
            next = length + 2 * MIB;
        }
    }
    (length, highest)
}

async fn large_answer(head: &'static str, start: &'static str, total: u64, end: &'static str) -> Value {
    let (start, end) = (Bytes::from(start), Bytes::from(end));
    let length = start.len() as u64 + total + end.len() as u64;
    let address = large_provider(head, start, Bytes::from(vec![b'x'; 1 << 16]), total, end).await;
    let sidecar = Sidecar::start(&at(address));
    let before = warm(&sidecar).await;
    let request =
        Request::post(CHAT).body(Full::new(Bytes::from("{\"model\":\"gpt-4o-mini\",\"large\":true}"))).unwrap();
    let answer = client::open(sidecar.proxy, request).await.unwrap();
    let (got, highest) = drain(&sidecar, answer.into_body()).await;
    assert_eq!(got, length);
    let more = highest.saturating_sub(before) / MIB;
    assert!(more < 16, "{more} MiB more while {} MiB passed", length / MIB);
    sidecar.wait_for_records(2).await.remove(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_100_megabytes() {
    let end = "\"}}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6,\"total_tokens\":11}}";
    let start = "{\"model\":\"gpt-4o-mini\",\"choices\":[{\"message\":{\"content\":\"";
    let record = large_answer("content-type: application/json", start, 100_000_000, end).await;
    assert_eq!(
        (&record["usage"]["input_tokens"], &record["usage_source"]),
        (&5.into(), &"reported".into()),
        "{record}"
    );
    assert_eq!(record["response_bytes"].as_u64(), Some(100_000_000 + (start.len() + end.len()) as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_50_megabytes() {
    let start = "data: {\"model\":\"gpt-4o-mini\",\"choices\":[{\"delta\":{\"content\":\"";
    let end = "\"}}]}\n\ndata: {\"model\":\"gpt-4o-mini\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6,\"total_tokens\":11}}\n\ndata: [DONE]\n\n";
    let record = large_answer("content-type: text/event-stream", start, 50_000_000, end).await;
    assert_eq!((&record["end"], &record["outcome"]), (&"complete".into(), &"ok".into()), "{record}");
    assert_eq!(
        (&record["usage"]["input_tokens"], &record["usage_source"]),
        (&5.into(), &"reported".into()),
        "{record}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_100_megabytes() {
    let address = serve_raw(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let mut got = (head.len() - head.find("\r\n\r\n").unwrap() - 4) as u64;
        let length: u64 =
            head.to_lowercase().split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
        let mut buffer = vec![0; 1 << 16];
        while got < length {
            got += stream.read(&mut buffer).await.unwrap() as u64;
        }
        let text = format!("{{\"got\":{got}}}");
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let sidecar = Sidecar::start(&at(address));
    let before = warm(&sidecar).await;
    let total: u64 = 100_000_000;
    let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
    let start = "{\"model\":\"gpt-4o-mini\",\"messages\":[{\"role\":\"user\",\"content\":\"";
    let end = "\"}],\"service_tier\":\"flex\"}";
    let length = start.len() as u64 + total + end.len() as u64;
    app.write_all(format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{start}").as_bytes())
        .await
        .unwrap();
    let piece = vec![b'x'; 100_000];
    let mut highest = 0;
    for n in 0..total / 100_000 {
        app.write_all(&piece).await.unwrap();
        if n % 20 == 0 {
            highest = highest.max(sidecar.resident_bytes());
        }
    }
    app.write_all(end.as_bytes()).await.unwrap();
    let answer = read_until(&mut app, "}").await;
    assert!(answer.contains(&format!("{{\"got\":{length}}}")), "{answer}");
    assert!(highest < before + 16 * MIB, "{} MiB more", highest.saturating_sub(before) / MIB);
    let record = sidecar.wait_for_records(2).await.remove(1);
    assert_eq!(
        (&record["request_bytes"], &record["request_model"]),
        (&length.into(), &"gpt-4o-mini".into()),
        "{record}"
    );
}

#[tokio::test]
async fn a_stream_that_never_ends_until_the_application_leaves() {
    let address = serve_raw(|mut stream| async move {
        let request = read_until(&mut stream, "}").await;
        if !request.contains("\"stream\"") {
            let answer =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{ANSWER}", ANSWER.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            return;
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let event =
            "data: {\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n"
                .repeat(200);
        let _ = stream.write_all(head.as_bytes()).await;
        while stream.write_all(event.as_bytes()).await.is_ok() {}
    })
    .await;
    let sidecar = Sidecar::start(&at(address));
    let before = warm(&sidecar).await;
    let request =
        Request::post(CHAT).body(Full::new(Bytes::from("{\"model\":\"gpt-4o-mini\",\"stream\":true}"))).unwrap();
    let mut body = client::open(sidecar.proxy, request).await.unwrap().into_body();
    let mut length = 0;
    while length < 4 * MIB {
        length += body.frame().await.unwrap().unwrap().into_data().unwrap().len() as u64;
    }
    assert_flat(&sidecar, before, 32 * MIB);
    drop(body);
    let record = sidecar.wait_for_records(2).await.remove(1);
    assert_eq!(
        (&record["outcome"], &record["end"]),
        (&"client_cancelled".into(), &"client_cancelled".into()),
        "{record}"
    );
    assert_eq!(record["usage_source"], "estimated", "{record}");
    assert!(record["usage"]["output_tokens"].as_u64().unwrap() > 30_000, "{record}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn compressed_answers_that_are_cut_or_damaged() {
    let whole = gzip(ANSWER.as_bytes());
    let mut flipped = whole.clone();
    flipped[20] ^= 0xff;
    let cases = [
        ("whole", whole.clone(), "gzip", true),
        ("truncated", whole[..whole.len() / 2].to_vec(), "gzip", false),
        ("damaged", flipped, "gzip", false),
        ("not compressed at all", ANSWER.as_bytes().to_vec(), "gzip", false),
        ("unknown encoding", whole.clone(), "made-up", false),
        ("empty", Vec::new(), "gzip", false),
    ];
    let answers = cases.clone();
    let (_provider, sidecar) = pair(move |received| {
        let n: usize = std::str::from_utf8(&received.body).unwrap().parse().unwrap();
        let (_, body, encoding, _) = &answers[n];
        Answer::new(200, "application/json", body.clone()).header("content-encoding", encoding)
    })
    .await;
    for (n, (case, body, encoding, known)) in cases.into_iter().enumerate() {
        let answer = post_json(sidecar.proxy, CHAT, KEY, n.to_string()).await;
        assert_eq!((answer.head.status.as_u16(), answer.body[..] == body[..]), (200, true), "{case}");
        assert_eq!(answer.head.headers["content-encoding"], encoding, "{case}");
        let record = sidecar.wait_for_records(n + 1).await.remove(n);
        assert_eq!(record["usage_source"] == "reported", known, "{case}: {record}");
        assert_eq!(record["end"], "complete", "{case}: {record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decompression_bomb_costs_neither_memory_nor_time() {
    // 10 MB that would be 10 GB: white space, which JSON may begin with, compressed once and repeated as members of one gzip file.
    let member = gzip(&vec![b' '; 16 << 20]);
    let count = 10_000_000 / member.len();
    let mut bomb = Vec::with_capacity(member.len() * count);
    for _ in 0..count {
        bomb.extend_from_slice(&member);
    }
    assert!(count * (16 << 20) > 9_000_000_000, "{} bytes a member", member.len());
    let bomb = Bytes::from(bomb);
    let copy = bomb.clone();
    let (_provider, sidecar) = pair(move |received| match received.body.len() {
        2 => Answer::new(200, "application/json", copy.clone()).header("content-encoding", "gzip"),
        _ => Answer::new(200, "application/json", ANSWER),
    })
    .await;
    let before = warm(&sidecar).await;
    let cpu_before = cpu_seconds(&sidecar).await;
    let answer = post_json(sidecar.proxy, CHAT, KEY, "{}").await;
    assert_eq!(answer.body, bomb, "the application gets what was sent");
    assert_flat(&sidecar, before, 24 * MIB);
    sidecar.wait_for_records(2).await;
    // 10 GB would take a minute in a build without optimization.
    let cpu = cpu_seconds(&sidecar).await - cpu_before;
    assert!(cpu < 5.0, "{cpu} s");
    let overflows = sidecar.metrics().await.sum("keytally_tap_overflows_total", &[("reason", "body_limit")]);
    assert_eq!(overflows, Some(1.0));
}

async fn cpu_seconds(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().await.sum("process_cpu_seconds_total", &[]).expect("the process's own time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_the_provider_back_not_the_memory() {
    let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let copy = Arc::clone(&sent);
    let address = serve_raw(move |mut stream| {
        let sent = Arc::clone(&copy);
        async move {
            if read_head(&mut stream).await.contains("/models") {
                let answer =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{ANSWER}", ANSWER.len());
                let _ = stream.write_all(answer.as_bytes()).await;
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await;
            let piece = vec![b'\n'; 1 << 16];
            while stream.write_all(&piece).await.is_ok() {
                sent.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed);
            }
        }
    })
    .await;
    let sidecar = Sidecar::start(&at(address));
    get(sidecar.proxy, "/openai/v1/models").await;
    let before = sidecar.resident_bytes();
    let mut readers = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(sidecar.proxy).await.unwrap();
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
        // Reads no further.
        readers.push(stream);
    }
    // Until the provider is held back: nothing more is sent.
    let (mut last, deadline) = (u64::MAX, Instant::now() + Duration::from_secs(20));
    loop {
        let now = sent.load(std::sync::atomic::Ordering::Relaxed);
        if now == last {
            break;
        }
        assert!(Instant::now() < deadline, "{} MiB sent to readers that do not read", now / MIB);
        last = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // Of each connection at most: a read buffer, what was read and waits, a write buffer, each of `limits.header_bytes`.
    assert_flat(&sidecar, before, 8 * 2 * MIB);
    assert_eq!(get(sidecar.proxy, "/openai/v1/models").await.head.status, 200, "others are served meanwhile");
    drop(readers);
    for record in sidecar.wait_for_records(10).await.iter().filter(|record| record["operation"] == "chat") {
        assert_eq!(record["end"], "client_cancelled", "{record}");
    }
}

#[tokio::test]
async fn slow_writers_on_both_sides() {
    let address = serve_raw(|mut stream| async move {
        read_until(&mut stream, "\"Hi\"}]}").await;
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
            ANSWER.len()
        );
        for byte in answer.as_bytes() {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let sidecar = Sidecar::start(&at(address));
    let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
    app.set_nodelay(true).unwrap();
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{ASK}",
        ASK.len()
    );
    for byte in request.as_bytes() {
        app.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let answer = read_until(&mut app, ANSWER).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let record = sidecar.wait_for_records(1).await.remove(0);
    assert_eq!((&record["usage"]["input_tokens"], &record["outcome"]), (&9.into(), &"ok".into()), "{record}");
}

// === cardinality ===

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_models_and_keys() {
    const CALLS: usize = 10_000;
    const CALLERS: usize = 8;
    let provider = Simulator::start(|received| {
        let model = received.head.headers["x-model"].to_str().unwrap().to_owned();
        Answer::new(
            200,
            "application/json",
            format!(r#"{{"id":"1","model":"{model}","choices":[],"usage":{{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}}}"#),
        )
        .header("openai-organization", &format!("org-{model}"))
    })
    .await
    .unwrap();
    let sidecar =
        Sidecar::start(&format!("{}limits: {{ keys: 50, models: 40, accounts: 30 }}\n", at(provider.address())));
    let call = |proxy: SocketAddr, n: usize| async move {
        let body = format!("{{\"model\":\"made-up-model-{n}\",\"messages\":[]}}");
        let request = Request::post(CHAT)
            .header("authorization", format!("Bearer sk-made-up-{n:032x}"))
            .header("x-model", format!("made-up-model-{n}"))
            .header("host", "x")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        (proxy, request)
    };
    let proxy = sidecar.proxy;
    let run = |from: usize, to: usize| async move {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                tokio::spawn(async move {
                    let stream = TcpStream::connect(proxy).await.unwrap();
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                    tokio::spawn(connection);
                    for n in (from + caller..to).step_by(CALLERS) {
                        let (_, request) = call(proxy, n).await;
                        sender.ready().await.unwrap();
                        let answer = sender.send_request(request).await.unwrap();
                        assert_eq!(answer.status(), 200);
                        answer.into_body().collect().await.unwrap();
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
    };
    run(0, 1000).await;
    let before = sidecar.resident_bytes();
    run(1000, CALLS).await;
    let records = sidecar.wait_for_records(CALLS).await;
    assert_flat(&sidecar, before, 24 * MIB);

    let samples = sidecar.metrics().await;
    let calls = CALLS as f64;
    assert_eq!(samples.sum("keytally_requests_total", &[]), Some(calls), "every call is counted");
    assert_eq!(samples.sum("keytally_requests_total", &[("outcome", "ok")]), Some(calls));
    assert_eq!(samples.sum("keytally_tokens_total", &[]), Some(calls * 5.0), "every token is counted");
    assert_eq!(samples.sum("keytally_unpriced_tokens_total", &[]), Some(calls * 5.0), "made-up models have no price");
    let values = |name: &str, label: &str| {
        samples.all(name).filter_map(|(labels, _)| labels.get(label).cloned()).collect::<std::collections::HashSet<_>>()
    };
    // The named ones and `other`.
    assert!((2..=51).contains(&values("keytally_requests_total", "key").len()));
    assert!((2..=41).contains(&values("keytally_requests_total", "model").len()));
    assert!(values("keytally_key_info", "account").len() <= 32);
    assert!(values("keytally_requests_total", "key").contains("other"));
    assert!(values("keytally_requests_total", "model").contains("other"));
    for label in ["key", "model"] {
        let folded = samples.sum("keytally_label_overflow_total", &[("label", label)]);
        assert!(folded > Some(9000.0), "{label}: {folded:?}");
    }
    assert!(samples.len() < 20_000, "{} series", samples.len());
    // The log, unlike the labels, says which call was whose.
    let keys: std::collections::HashSet<_> = records.iter().map(|record| record["key"].to_string()).collect();
    assert_eq!(keys.len(), CALLS);
    let stopped = send(sidecar.admin, Request::get("/status").body(Full::default()).unwrap()).await;
    assert!(stopped.body.len() < 1 << 20, "{} bytes of status", stopped.body.len());
}

#[tokio::test]
async fn a_body_that_ends_too_early_on_either_side() {
    let (_provider, sidecar) = pair(|_| {
        let mut answer = Answer::new(200, "application/json", &ANSWER[..20]);
        answer.pieces.push((Duration::from_millis(50), Bytes::from(&ANSWER[20..40])));
        answer.end = AnswerEnd::Broken;
        answer
    })
    .await;
    let request = Request::post(CHAT).body(Full::new(Bytes::from(ASK))).unwrap();
    let answer = client::open(sidecar.proxy, request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.is_err(), "half an answer must not look whole");
    assert_eq!(sidecar.wait_for_records(1).await[0]["end"], "body_error");

    // An application that promises more than it sends, and goes.
    let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
    app.write_all(format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{\"mod").as_bytes())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(app);
    let record = sidecar.wait_for_records(2).await.remove(1);
    assert_eq!(
        (&record["end"], &record["outcome"]),
        (&"client_cancelled".into(), &"client_cancelled".into()),
        "{record}"
    );
    assert!(!sidecar.log().contains("panicked"), "{}", sidecar.log());
}
