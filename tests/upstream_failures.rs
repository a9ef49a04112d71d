//! Providers that cannot be reached, or that stop in the middle: the application gets an answer in the provider's own error
//! shape that says who made it and why, and the record says the same. And the ways to a provider that do work: own
//! certificate authorities, HTTP/2 by ALPN, forward proxies.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use keytally::demo::simulator::{Answer, AnswerEnd, Simulator};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client::Whole;
use crate::support::wire::{Authority, closed_port, read_head, serve_raw, serve_tls};
use crate::support::{Sidecar, client, post_json};

const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;
const KEY: &str = "sk-made-up-key-for-tests";
const CHAT: &str = "/openai/v1/chat/completions";

/// A sidecar whose OpenAI is at `base_url`; `more` is further YAML.
fn sidecar(base_url: &str, more: &str) -> Sidecar {
    Sidecar::start(&config(base_url, more))
}

fn config(base_url: &str, more: &str) -> String {
    format!("providers: {{ openai: {{ base_url: \"{base_url}\" }} }}\n{more}")
}

/// The answer was made by keytally for this reason; returns its message.
#[track_caller]
fn assert_generated(answer: &Whole, status: u16, reason: &str) -> String {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.head.status, status, "{text}");
    assert_eq!(answer.head.headers["x-keytally-error"], reason, "{text}");
    assert_eq!(answer.head.headers["content-type"], "application/json");
    let body = answer.json();
    assert_eq!(body["keytally"]["reason"], reason, "{text}");
    let message = body["error"]["message"].as_str().unwrap_or_else(|| panic!("no message: {text}")).to_owned();
    assert!(message.starts_with("keytally made this answer, not "), "{message}");
    assert!(!text.contains(KEY), "{text}");
    message
}

/// One call to a sidecar that cannot reach its provider: the answer's message, and the record.
async fn failed_call(sidecar: &Sidecar, status: u16, reason: &str) -> (String, Value) {
    let answer = post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    let message = assert_generated(&answer, status, reason);
    assert_eq!(answer.json()["error"]["code"], reason);
    let record = sidecar.wait_for_records(1).await.remove(0);
    assert_eq!(record["outcome"], "network_error", "{record}");
    assert_eq!(record["end"], "no_answer", "{record}");
    assert!(record.get("status").is_none(), "no status came from the provider: {record}");
    assert!(!sidecar.log().contains(KEY));
    (message, record)
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let sidecar = sidecar("http://no-such-host.invalid", "");
    let (message, _) = failed_call(&sidecar, 502, "dns").await;
    assert!(message.contains("no-such-host.invalid:80"), "{message}");
}

#[tokio::test]
async fn a_refused_connection() {
    let (_held, address) = closed_port();
    let sidecar = sidecar(&format!("http://{address}"), "");
    let (message, _) = failed_call(&sidecar, 502, "connect").await;
    assert!(message.contains(&address.to_string()) && message.to_lowercase().contains("refused"), "{message}");
}

#[tokio::test]
async fn a_connection_that_nobody_accepts() {
    // A full backlog: the kernel leaves further SYNs without an answer.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 100, "the backlog does not fill");
    }
    let sidecar = sidecar(&format!("http://{address}"), "upstream: { connect_timeout: 400ms }");
    let started = Instant::now();
    let (message, _) = failed_call(&sidecar, 504, "connect_timeout").await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(message.contains("0.4 s"), "{message}");
}

#[tokio::test]
async fn a_peer_that_is_silent_before_tls() {
    let address = serve_raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let sidecar = sidecar(&format!("https://{address}"), "upstream: { connect_timeout: 400ms }");
    failed_call(&sidecar, 504, "connect_timeout").await;
}

#[tokio::test]
async fn tls_that_cannot_be_trusted() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let trusted = format!("upstream: {{ ca_file: \"{}\" }}", ca.display());
    let cases = [
        ("untrusted", stranger.acceptor("localhost", &[], false), "unknown"),
        ("wrong host", authority.acceptor("example.test", &[], false), "not valid for name"),
        ("expired", authority.acceptor("localhost", &[], true), "expired"),
    ];
    for (case, acceptor, words) in cases {
        let port = serve_tls(acceptor).await.port();
        let sidecar = sidecar(&format!("https://localhost:{port}"), &trusted);
        let (message, _) = failed_call(&sidecar, 502, "tls").await;
        assert!(message.to_lowercase().contains(words), "{case}: {message}");
    }
}

#[tokio::test]
async fn https_to_a_plain_http_port() {
    let provider = Simulator::start(|_| Answer::new(200, "application/json", "{}")).await.unwrap();
    let sidecar = sidecar(&format!("https://{}", provider.address()), "");
    failed_call(&sidecar, 502, "tls").await;
}

#[tokio::test]
async fn own_authorities_and_http2_by_alpn() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let port = serve_tls(authority.acceptor("localhost", &["h2", "http/1.1"], false)).await.port();
    let base_url = format!("https://localhost:{port}");
    let for_all = format!("upstream: {{ ca_file: \"{}\" }}", ca.display());
    let without_h2 = format!("upstream: {{ ca_file: \"{}\", http2: off }}", ca.display());
    for (config, version) in [
        (config(&base_url, &for_all), "HTTP/2.0"),
        (config(&base_url, &without_h2), "HTTP/1.1"),
        (format!("providers: {{ openai: {{ base_url: \"{base_url}\", ca_file: \"{}\" }} }}", ca.display()), "HTTP/2.0"),
    ] {
        let sidecar = Sidecar::start(&config);
        for _ in 0..2 {
            let answer = post_json(sidecar.proxy, CHAT, KEY, ASK).await;
            assert_eq!(answer.head.status, 200, "{config}: {:?}", answer.body);
            assert_eq!(answer.json(), serde_json::json!({ "version": version, "host": format!("localhost:{port}") }));
        }
        let mut records = sidecar.wait_for_records(2).await;
        records.sort_by_key(|record| record["time"].to_string());
        assert!(records[0]["upstream_connect_seconds"].is_number(), "{config}: {records:?}");
        assert!(records[1].get("upstream_connect_seconds").is_none(), "the connection is reused: {}", records[1]);
    }
}

#[tokio::test]
async fn a_provider_that_is_silent_before_its_head() {
    let address = serve_raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let sidecar = sidecar(&format!("http://{address}"), "upstream: { idle_timeout: 400ms }");
    let (message, _) = failed_call(&sidecar, 504, "read_timeout").await;
    assert!(message.contains("0.4 s"), "{message}");
}

#[tokio::test]
async fn a_provider_that_hangs_up_before_its_head() {
    let address = serve_raw(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let sidecar = sidecar(&format!("http://{address}"), "");
    failed_call(&sidecar, 502, "reset").await;
}

#[tokio::test]
async fn a_provider_that_does_not_speak_http() {
    let address = serve_raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2 made up\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let sidecar = sidecar(&format!("http://{address}"), "");
    failed_call(&sidecar, 502, "reset").await;
}

#[tokio::test]
async fn silence_after_the_head_breaks_the_answer_off() {
    let provider = Simulator::start(|received| {
        let is_stream = received.body.windows(8).any(|window| window == b"\"stream\"");
        let mut answer = if is_stream {
            Answer::new(200, "text/event-stream", "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n")
        } else {
            Answer::new(200, "application/json", "{\"id\":")
        };
        answer.end = AnswerEnd::Silent;
        answer
    })
    .await
    .unwrap();
    let sidecar = sidecar(&format!("http://{}", provider.address()), "upstream: { idle_timeout: 400ms }");
    for body in [ASK.to_owned(), ASK.replacen('{', "{\"stream\":true,", 1)] {
        let before = sidecar.records().len();
        let request = Request::post(CHAT).body(Full::new(Bytes::from(body))).unwrap();
        let answer = client::open(sidecar.proxy, request).await.unwrap();
        assert_eq!(answer.status(), 200, "the head is the provider's");
        let collected = tokio::time::timeout(Duration::from_secs(10), answer.into_body().collect()).await;
        assert!(collected.expect("it ends").is_err(), "an answer that was broken off must not look whole");
        let record = sidecar.wait_for_records(before + 1).await.remove(before);
        assert_eq!(record["end"], "idle_timeout", "{record}");
        assert_eq!((record["status"].as_u64(), record["fault"].as_str()), (Some(200), Some("network")), "{record}");
    }
}

/// A CONNECT proxy that passes on to where it is asked; counts what it was asked for.
async fn connect_proxy(asked: Arc<Mutex<Vec<String>>>, refuse: Option<&'static str>) -> SocketAddr {
    serve_raw(move |mut stream| {
        let asked = Arc::clone(&asked);
        async move {
            let head = read_head(&mut stream).await;
            asked.lock().unwrap().push(head.clone());
            let Some(target) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
                // Plain HTTP comes in absolute form.
                let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 19\r\n\r\n{\"by\":\"the proxy\"}\n";
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return;
            };
            if let Some(status) = refuse {
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
                return;
            }
            let mut onward = TcpStream::connect(target).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
        }
    })
    .await
}

#[tokio::test]
async fn https_through_a_proxy() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let port = serve_tls(authority.acceptor("localhost", &["h2", "http/1.1"], false)).await.port();
    let config = |more: &str| {
        config(&format!("https://localhost:{port}"), &format!("upstream: {{ ca_file: \"{}\"{more} }}", ca.display()))
    };
    let asked = Arc::new(Mutex::new(Vec::new()));
    let proxy = connect_proxy(Arc::clone(&asked), None).await;
    let with_password = format!("http://made-up-user:made-up-password@{proxy}");

    let proxied = |command: &mut std::process::Command| {
        command.env("HTTPS_PROXY", &with_password);
    };
    let by_variable = Sidecar::start_with(&config(""), proxied);
    assert_eq!(post_json(by_variable.proxy, CHAT, KEY, ASK).await.json()["version"], "HTTP/2.0");
    let seen = std::mem::take(&mut *asked.lock().unwrap());
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].starts_with(&format!("CONNECT localhost:{port} HTTP/1.1\r\n")), "{seen:?}");
    let encoded = base64::engine::general_purpose::STANDARD.encode("made-up-user:made-up-password");
    assert!(seen[0].contains(&format!("Basic {encoded}")), "{seen:?}");
    assert!(!seen[0].contains(KEY), "the key is inside the tunnel: {seen:?}");
    assert!(!by_variable.log().contains("made-up-password"));

    let excepted = Sidecar::start_with(&config(""), |command| {
        command.env("HTTPS_PROXY", &with_password).env("NO_PROXY", "localhost");
    });
    assert_eq!(post_json(excepted.proxy, CHAT, KEY, ASK).await.head.status, 200);
    assert_eq!(asked.lock().unwrap().len(), 0, "NO_PROXY names the provider");

    let by_config = Sidecar::start(&config(&format!(", proxy: \"http://{proxy}\"")));
    assert_eq!(post_json(by_config.proxy, CHAT, KEY, ASK).await.head.status, 200);
    assert_eq!(std::mem::take(&mut *asked.lock().unwrap()).len(), 1);

    let off = Sidecar::start_with(&config(", proxy: off"), proxied);
    assert_eq!(post_json(off.proxy, CHAT, KEY, ASK).await.head.status, 200);
    assert_eq!(asked.lock().unwrap().len(), 0, "`proxy: off` wins over the environment");
}

#[tokio::test]
async fn plain_http_through_a_proxy_goes_in_absolute_form() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let proxy = connect_proxy(Arc::clone(&asked), None).await;
    let sidecar = Sidecar::start_with(&config("http://provider.invalid:8080", ""), |command| {
        command.env("http_proxy", format!("http://{proxy}"));
    });
    let answer = post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    assert_eq!(answer.json()["by"], "the proxy");
    let seen = asked.lock().unwrap().clone();
    assert!(seen[0].starts_with("POST http://provider.invalid:8080/v1/chat/completions HTTP/1.1\r\n"), "{seen:?}");
}

#[tokio::test]
async fn a_proxy_that_refuses_or_is_not_there() {
    let (_held, closed) = closed_port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let forbids = connect_proxy(Arc::clone(&asked), Some("403 Forbidden")).await;
    let wants_password = connect_proxy(Arc::clone(&asked), Some("407 Proxy Authentication Required")).await;
    for proxy in [closed, forbids, wants_password] {
        let sidecar = Sidecar::start_with(&config("https://provider.invalid", ""), |command| {
            command.env("HTTPS_PROXY", format!("http://made-up-user:made-up-password@{proxy}"));
        });
        let (message, _) = failed_call(&sidecar, 502, "proxy").await;
        assert!(message.contains("provider.invalid:443") && message.contains(&proxy.to_string()), "{message}");
        assert!(!message.contains("made-up-password") && !sidecar.log().contains("made-up-password"), "{message}");
    }
}

/// Where a body must hold the message that keytally made it, by provider.
#[tokio::test]
async fn every_provider_s_own_error_shape() {
    let (_held, address) = closed_port();
    let cases = [
        (
            "openai",
            "/v1/chat/completions",
            "/error/message",
            &[("/error/type", "keytally_error"), ("/error/code", "connect")][..],
        ),
        ("openai", "/v1/responses", "/error/message", &[("/error/code", "connect")]),
        ("anthropic", "/v1/messages", "/error/message", &[("/type", "error"), ("/error/type", "api_error")]),
        (
            "gemini",
            "/v1beta/models/gemini-2.5-flash:generateContent",
            "/error/message",
            &[("/error/status", "UNAVAILABLE")],
        ),
        ("bedrock", "/model/amazon.nova-lite-v1:0/converse", "/message", &[]),
        ("cohere", "/v2/chat", "/message", &[]),
        ("mistral", "/v1/chat/completions", "/message", &[("/object", "error")]),
        ("xai", "/v1/chat/completions", "/error", &[("/code", "connect")]),
        ("ollama", "/api/chat", "/error", &[]),
        ("watsonx", "/ml/v1/text/chat", "/errors/0/message", &[("/errors/0/code", "connect")]),
        ("voyageai", "/v1/embeddings", "/detail", &[]),
        ("my-server", "/v1/chat/completions", "/error/message", &[("/error/code", "connect")]),
    ];
    let mut config = String::from("providers:\n");
    for (id, ..) in cases {
        if !config.contains(&format!("  {id}:")) {
            config.push_str(&format!("  {id}: {{ base_url: \"http://{address}\" }}\n"));
        }
    }
    let sidecar = Sidecar::start(&config);
    for (id, path, message, more) in cases {
        let answer = post_json(sidecar.proxy, &format!("/{id}{path}"), KEY, "{}").await;
        let body = answer.json();
        assert_eq!(answer.head.status, 502, "{id}: {body}");
        assert_eq!(answer.head.headers["x-keytally-error"], "connect", "{id}");
        let text = body
            .pointer(message)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("{id}{path}: no {message} in {body}"));
        assert!(
            text.starts_with("keytally made this answer, not ") && text.contains(&address.to_string()),
            "{id}: {text}"
        );
        for (pointer, want) in more {
            assert_eq!(body.pointer(pointer).and_then(Value::as_str), Some(*want), "{id}{path} {pointer}: {body}");
        }
        assert_eq!(body["keytally"]["generated"], true, "{id}: {body}");
    }
    assert_eq!(sidecar.wait_for_records(cases.len()).await.len(), cases.len());
}

#[tokio::test]
async fn a_large_upload_still_gets_the_answer() {
    let (_held, address) = closed_port();
    let sidecar = sidecar(&format!("http://{address}"), "");
    // Written without looking whether an answer has come, as simple HTTP clients do.
    let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
    let body = vec![b' '; 8 << 20];
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    app.write_all(head.as_bytes()).await.unwrap();
    app.write_all(&body).await.expect("the whole body can be sent");
    let answer = read_head(&mut app).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test]
async fn a_call_is_never_sent_twice() {
    let count = Arc::new(AtomicUsize::new(0));
    let copy = Arc::clone(&count);
    let address = serve_raw(move |mut stream| {
        let count = Arc::clone(&copy);
        async move {
            // The second call on a kept connection is taken and then dropped, as by a provider that crashes.
            read_head(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            read_head(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let sidecar = sidecar(&format!("http://{address}"), "");
    assert_eq!(post_json(sidecar.proxy, CHAT, KEY, ASK).await.head.status, 200);
    assert_generated(&post_json(sidecar.proxy, CHAT, KEY, ASK).await, 502, "reset");
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

/// A provider that is down fails every call; the log tells of it once a minute.
#[tokio::test]
async fn calls_that_fail_alike_do_not_flood_the_log() {
    let (_held, closed) = closed_port();
    let sidecar = sidecar(&format!("http://{closed}"), "");
    let started = Instant::now();
    for _ in 0..50 {
        assert_generated(&post_json(sidecar.proxy, CHAT, KEY, ASK).await, 502, "connect");
    }
    assert_eq!(sidecar.wait_for_records(50).await.len(), 50, "each call has its record");
    let lines = sidecar.log().matches("no answer from the provider").count() as u64;
    let most = 1 + started.elapsed().as_secs() / 60;
    assert!((1..=most).contains(&lines), "{lines} lines");
}
