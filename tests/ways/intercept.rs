//! Opened TLS as applications see it, and what becomes of every connection that cannot be opened: it passes as it is, or
//! fails as it would without the sidecar, with a line that says why.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use keytally::demo::simulator::{Answer, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::{self, ClientConfig, ProtocolVersion};

use super::internet::{
    ANSWER, Internet, KEY, OPENAI, Trust, call, chat, connect, connected, count, rest, tls, tunnels, until, was_opened,
};
use crate::support::Sidecar;
use crate::support::wire::{PATIENCE, read_until, serve_raw};

const HTTP1: &[&str] = &["http/1.1"];

/// One call as a client with this trust makes it: whether the connection was opened, and the status.
async fn attempt(internet: &Internet, sidecar: &Sidecar, trust: Trust) -> std::io::Result<(bool, u16)> {
    let stream = connected(sidecar.proxy, OPENAI).await;
    let stream = tls(internet.client(trust, HTTP1), OPENAI, stream).await?;
    let opened = was_opened(&stream);
    Ok((opened, call(stream, false, chat(OPENAI, false)).await.head.status.as_u16()))
}

#[tokio::test]
async fn a_websocket_over_opened_tls_is_metered() {
    let internet = Internet::new().await;
    let provider = serve_raw(|mut stream| async move {
        let request = read_until(&mut stream, "\r\n\r\n").await.to_lowercase();
        assert!(request.contains("host: api.openai.com\r\n") && request.contains("upgrade: websocket"), "{request}");
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.unwrap();
        let event = br#"{"type":"response.done","response":{"id":"resp_1","status":"completed","usage":{"total_tokens":30,"input_tokens":20,"output_tokens":10}}}"#;
        let mut frame = vec![0x81, 126];
        frame.extend((event.len() as u16).to_be_bytes());
        frame.extend(event);
        frame.extend([0x88, 0]);
        stream.write_all(&frame).await.unwrap();
        let _ = stream.shutdown().await;
    })
    .await;
    internet.place("api.openai.com:443", internet.behind_tls(OPENAI, false, provider).await);
    let sidecar = internet.sidecar("");
    let stream = connected(sidecar.proxy, OPENAI).await;
    let mut app = tls(internet.client(Trust::Sidecar, HTTP1), OPENAI, stream).await.unwrap();
    let head = format!(
        "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: {OPENAI}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nauthorization: Bearer {KEY}\r\n\r\n"
    );
    app.write_all(head.as_bytes()).await.unwrap();
    assert!(read_until(&mut app, "\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    app.write_all(b"hello").await.unwrap();
    read_until(&mut app, "response.done").await;
    app.shutdown().await.unwrap();
    rest(&mut app).await;
    let record = sidecar.wait_for_records(1).await.remove(0);
    assert_eq!((record["way"].as_str(), record["operation"].as_str()), (Some("forward"), Some("realtime")), "{record}");
    assert_eq!(
        (record["usage"]["input_tokens"].as_u64(), record["outcome"].as_str()),
        (Some(20), Some("ok")),
        "{record}"
    );
}

#[tokio::test]
async fn a_client_that_pins_is_passed_unread_from_its_second_attempt_on() {
    let internet = Internet::new().await;
    internet.make_ca();
    let sidecar = Sidecar::start(&internet.config("", ""));
    let refused = attempt(&internet, &sidecar, Trust::Internet).await.unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    sidecar.wait_for_log("does not trust the local CA");
    for _ in 0..2 {
        assert_eq!(attempt(&internet, &sidecar, Trust::Internet).await.unwrap(), (false, 200));
    }
    assert_eq!(tunnels(&sidecar, "pinned").await, 2.0);
    let metrics = sidecar.metrics().await;
    assert_eq!(count(&metrics, "keytally_tls_handshakes_total", &[("result", "refused")]), 1.0);
    assert!(count(&metrics, "keytally_tunnel_bytes_total", &[("provider", "openai"), ("direction", "response")]) > 0.0);
    assert_eq!(sidecar.records().len(), 0);
    // Another library on the same machine is not taken for this one.
    let stream = connected(sidecar.proxy, OPENAI).await;
    let stream = tls(internet.client(Trust::Sidecar, &["h2", "http/1.1"]), OPENAI, stream).await.unwrap();
    assert!(was_opened(&stream));
    sidecar.wait_for_log("keytally ca path");
}

/// Libraries that look at the certificate only after the handshake hang up without a word.
#[tokio::test]
async fn a_client_that_hangs_up_without_a_word_is_passed_unread_from_its_third_attempt_on() {
    let internet = Internet::new().await;
    internet.make_ca();
    let sidecar = Sidecar::start(&internet.config("", ""));
    for attempt in 1..=2 {
        let stream = connected(sidecar.proxy, OPENAI).await;
        drop(tls(internet.client(Trust::Sidecar, HTTP1), OPENAI, stream).await.unwrap());
        until(&sidecar, "the connection ends", |samples| {
            count(samples, "keytally_tls_handshakes_total", &[("result", "done")]) == f64::from(attempt)
                && count(samples, "keytally_connections", &[("side", "client")]) == 0.0
        })
        .await;
    }
    sidecar.wait_for_log("does not trust the local CA");
    assert_eq!(attempt(&internet, &sidecar, Trust::Internet).await.unwrap(), (false, 200));
    assert_eq!(tunnels(&sidecar, "pinned").await, 1.0);
}

#[tokio::test]
async fn with_intercept_on_a_client_that_pins_keeps_failing() {
    let internet = Internet::new().await;
    let sidecar = internet.sidecar("");
    for _ in 0..3 {
        assert!(attempt(&internet, &sidecar, Trust::Internet).await.is_err());
    }
    sidecar.wait_for_log("its connections keep failing");
    assert_eq!(tunnels(&sidecar, "pinned").await, 0.0);
    assert_eq!(attempt(&internet, &sidecar, Trust::Sidecar).await.unwrap(), (true, 200));
}

#[tokio::test]
async fn intercept_off() {
    let internet = Internet::new().await;
    internet.make_ca();
    let sidecar = Sidecar::start(&internet.config(", intercept: off", ""));
    assert_eq!(attempt(&internet, &sidecar, Trust::Internet).await.unwrap(), (false, 200));
    assert_eq!(tunnels(&sidecar, "intercept_off").await, 1.0);
    assert_eq!(sidecar.records().len(), 0);
}

#[tokio::test]
async fn without_a_ca_connections_pass_until_there_is_one() {
    let internet = Internet::new().await;
    let sidecar = Sidecar::start(&internet.config("", ""));
    assert_eq!(attempt(&internet, &sidecar, Trust::Internet).await.unwrap(), (false, 200));
    assert_eq!(tunnels(&sidecar, "no_ca").await, 1.0);
    sidecar.wait_for_log("keytally ca init");
    internet.make_ca();
    let deadline = std::time::Instant::now() + PATIENCE;
    while attempt(&internet, &sidecar, Trust::Sidecar).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the CA is not taken up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sidecar.wait_for_log("took up the local CA");
    assert_eq!(sidecar.wait_for_records(1).await[0]["way"], "forward");
}

/// The bytes of a hello as rustls would send it.
fn hello(name: Option<&'static str>, alpn: &[&str]) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.enable_sni = name.is_some();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = name.unwrap_or("any.example").try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// A hello written by hand: version, server name, an encrypted hello beside it.
fn hello_by_hand(version: u16, name: &str, encrypted: bool) -> Vec<u8> {
    let mut extensions = Vec::new();
    let length = name.len() as u16;
    extensions.extend([0, 0]);
    for part in [length + 5, length + 3] {
        extensions.extend(part.to_be_bytes());
    }
    extensions.push(0);
    extensions.extend(length.to_be_bytes());
    extensions.extend(name.as_bytes());
    if encrypted {
        extensions.extend([0xfe, 0x0d, 0, 6, 0, 0, 1, 0, 1, 7]);
    }
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut bytes = vec![22, 3, 1];
    bytes.extend((body.len() as u16 + 4).to_be_bytes());
    bytes.extend([1, 0]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Whatever cannot be opened arrives at the host that was asked for, byte for byte.
#[tokio::test]
async fn what_cannot_be_opened_passes_byte_for_byte() {
    let internet = Internet::new().await;
    let echo = serve_raw(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    for target in ["api.openai.com:443", "192.0.2.7:443", "example.com:443"] {
        internet.place(target, echo);
    }
    let sidecar = internet.sidecar("");
    let tls13 = 0x0303;
    for (case, target, bytes, reason) in [
        ("another server name", "api.openai.com:443", hello(Some("other.example"), HTTP1), "unknown_host"),
        ("no host of ours", "example.com:443", hello(Some("example.com"), HTTP1), "unknown_host"),
        ("an address, no name", "192.0.2.7:443", hello(None, HTTP1), "unknown_host"),
        ("an address, another name", "192.0.2.7:443", hello(Some("example.com"), HTTP1), "unknown_host"),
        ("ECH behind a front", "api.openai.com:443", hello_by_hand(tls13, "front.example", true), "encrypted_hello"),
        ("TLS 1.0", "api.openai.com:443", hello_by_hand(0x0301, "api.openai.com", false), "old_tls"),
        ("another protocol inside", "api.openai.com:443", hello(Some(OPENAI), &["acme-tls/1"]), "not_http"),
        ("no TLS", "api.openai.com:443", b"SSH-2.0-made-up\r\n".to_vec(), "not_http"),
        ("broken TLS", "api.openai.com:443", b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00".to_vec(), "not_http"),
    ] {
        let before = tunnels(&sidecar, reason).await;
        let (head, mut stream) = connect(sidecar.proxy, target, "").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{case}: {head}");
        // In two parts, as slow networks bring them.
        stream.write_all(&bytes[..3]).await.unwrap();
        stream.flush().await.unwrap();
        stream.write_all(&bytes[3..]).await.unwrap();
        let mut got = vec![0; bytes.len()];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut got)).await;
        read.unwrap_or_else(|_| panic!("{case}: silence")).unwrap();
        assert!(got == bytes, "{case}");
        assert_eq!(tunnels(&sidecar, reason).await, before + 1.0, "{case}");
    }
    let log = sidecar.log();
    for reason in ["encrypted_hello", "old_tls", "not_http"] {
        assert!(log.contains(&format!("\"reason\":\"{reason}\"")), "no line about {reason}: {log}");
    }
}

/// A client that closes at once, or says half a hello and goes, costs nothing and hangs nothing.
#[tokio::test]
async fn half_a_hello() {
    let internet = Internet::new().await;
    let sidecar = internet.sidecar("");
    let whole = hello(Some(OPENAI), HTTP1);
    for end in [0, 1, 5, 40, whole.len() - 1] {
        let mut stream = connected(sidecar.proxy, OPENAI).await;
        stream.write_all(&whole[..end]).await.unwrap();
        stream.shutdown().await.unwrap();
        rest(&mut stream).await;
    }
    until(&sidecar, "all are closed", |samples| count(samples, "keytally_connections", &[]) == 0.0).await;
}

#[tokio::test]
async fn odd_clients_that_can_be_served() {
    let internet = Internet::new().await;
    let sidecar = internet.sidecar("");
    // No server name: the name in CONNECT is what the client checks.
    let mut config = internet.client(Trust::Sidecar, HTTP1);
    config.enable_sni = false;
    let stream = tls(config, OPENAI, connected(sidecar.proxy, OPENAI).await).await.unwrap();
    assert!(was_opened(&stream));
    assert_eq!(call(stream, false, chat(OPENAI, false)).await.head.status, 200);
    // An address in CONNECT, the name in TLS.
    let (head, stream) = connect(sidecar.proxy, "192.0.2.7:443", "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let stream = tls(internet.client(Trust::Sidecar, HTTP1), OPENAI, stream).await.unwrap();
    assert_eq!(call(stream, false, chat(OPENAI, false)).await.head.status, 200);
    // TLS 1.2 and no ALPN.
    let config = internet.client_of(Trust::Sidecar, &[], &[&rustls::version::TLS12]);
    let stream = tls(config, OPENAI, connected(sidecar.proxy, OPENAI).await).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert!(was_opened(&stream) && stream.get_ref().1.alpn_protocol().is_none());
    assert_eq!(call(stream, false, chat(OPENAI, false)).await.head.status, 200);
    assert_eq!(sidecar.wait_for_records(3).await.len(), 3);
}

/// Plain HTTP after CONNECT is served by the host's name.
#[tokio::test]
async fn plain_http_after_connect() {
    let provider = Simulator::start(|_| Answer::new(200, "application/json", ANSWER)).await.unwrap();
    let internet = Internet::new().await;
    let config = format!(
        "providers: {{ mine: {{ base_url: \"http://localhost:{}\" }} }}\ntls: {{ ca_dir: \"{}\", intercept: on }}\n",
        provider.address().port(),
        internet.ca_dir().display()
    );
    let sidecar = Sidecar::start(&config);
    let host = format!("localhost:{}", provider.address().port());
    let (head, stream) = connect(sidecar.proxy, &host, "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(call(stream, false, chat(&host, false)).await.body, ANSWER);
    let record = sidecar.wait_for_records(1).await.remove(0);
    assert_eq!((record["way"].as_str(), record["provider"].as_str()), (Some("forward"), Some("mine")), "{record}");
}

/// The application must not get what looks like an answer of a provider whose certificate is wrong.
#[tokio::test]
async fn a_provider_whose_certificate_is_wrong() {
    let mut internet = Internet::new().await;
    let answer = |_| Answer::new(200, "application/json", ANSWER);
    internet.provider("api.mistral.ai", "api.mistral.ai", true, answer).await;
    internet.provider("api.groq.com", "another.example", false, answer).await;
    let sidecar = internet.sidecar("");
    for (n, (host, words)) in
        [("api.mistral.ai", "expired"), ("api.groq.com", "not valid for name")].into_iter().enumerate()
    {
        let stream = connected(sidecar.proxy, host).await;
        let stream = tls(internet.client(Trust::Sidecar, HTTP1), host, stream).await.unwrap();
        let answer = call(stream, false, chat(host, false)).await;
        assert_eq!(answer.head.status, 502, "{:?}", answer.body);
        assert_eq!(answer.head.headers["x-keytally-error"], "tls");
        let text = String::from_utf8_lossy(&answer.body).to_lowercase();
        assert!(text.contains("keytally made this answer") && text.contains(words) && text.contains(host), "{text}");
        let record = sidecar.wait_for_records(n + 1).await.remove(n);
        assert_eq!((record["outcome"].as_str(), record["end"].as_str()), (Some("network_error"), Some("no_answer")));
        assert_eq!(record["way"], "forward");
    }
    sidecar.wait_for_log("no answer from the provider");
}

#[tokio::test]
async fn a_request_for_another_host_than_the_connection_s() {
    let internet = Internet::new().await;
    let sidecar = internet.sidecar("");
    let stream = connected(sidecar.proxy, OPENAI).await;
    let stream = tls(internet.client(Trust::Sidecar, HTTP1), OPENAI, stream).await.unwrap();
    let answer = call(stream, false, chat("api.anthropic.com", false)).await;
    assert_eq!(answer.head.status, 421);
    assert_eq!(answer.head.headers["x-keytally-error"], "bad_request");
    assert_eq!(internet.asked.lock().unwrap().len(), 0, "nobody was asked");
}

#[tokio::test]
async fn a_host_that_is_configured_after_the_ca_was_made() {
    const HOST: &str = "llm.corp.example";
    let mut internet = Internet::new().await;
    internet.provider(HOST, HOST, false, |_| Answer::new(200, "application/json", ANSWER)).await;
    internet.make_ca();
    let providers = format!("providers: {{ mine: {{ base_url: \"https://{HOST}\" }} }}");
    let sidecar = Sidecar::start(&internet.config("", &providers));
    sidecar.wait_for_log("may not vouch for all providers");
    assert!(sidecar.log().contains(HOST), "{}", sidecar.log());
    let stream = connected(sidecar.proxy, HOST).await;
    let stream = tls(internet.client(Trust::Internet, HTTP1), HOST, stream).await.unwrap();
    assert!(!was_opened(&stream));
    assert_eq!(call(stream, false, chat(HOST, false)).await.head.status, 200);
    assert_eq!(tunnels(&sidecar, "not_permitted").await, 1.0);
    sidecar.wait_for_log("run keytally ca rotate to permit it");

    let rotated = std::process::Command::new(env!("CARGO_BIN_EXE_keytally"))
        .args(["ca", "rotate", "--config"])
        .arg(internet.config_file(&providers))
        .output()
        .unwrap();
    assert!(rotated.status.success(), "{rotated:?}");
    sidecar.signal("HUP");
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let stream = connected(sidecar.proxy, HOST).await;
        if let Ok(stream) = tls(internet.client(Trust::Sidecar, HTTP1), HOST, stream).await {
            assert!(was_opened(&stream));
            assert_eq!(call(stream, false, chat(HOST, false)).await.head.status, 200);
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(sidecar.wait_for_records(1).await[0]["provider"], "mine");
}

/// A drain lets an opened connection's call end, and does not wait for connections on which nothing goes on.
#[tokio::test]
async fn calls_on_opened_connections_end_in_a_drain() {
    let mut internet = Internet::new().await;
    internet
        .provider(OPENAI, OPENAI, false, |_| {
            let mut answer = Answer::new(200, "application/json", ANSWER);
            answer.delay = Duration::from_millis(700);
            answer
        })
        .await;
    let mut sidecar = internet.sidecar("shutdown: { drain: 20s }");
    let open = async || {
        let stream = connected(sidecar.proxy, OPENAI).await;
        tls(internet.client(Trust::Sidecar, HTTP1), OPENAI, stream).await.unwrap()
    };
    let (mut idle, busy) = (open().await, open().await);
    let asked = tokio::spawn(call(busy, false, chat(OPENAI, false)));
    until(&sidecar, "the call is open", |samples| {
        samples.sum("keytally_requests_in_flight", &[("provider", "openai")]) == Some(1.0)
    })
    .await;
    sidecar.signal("TERM");
    rest(&mut idle).await;
    assert_eq!(asked.await.unwrap().body, ANSWER);
    assert_eq!(sidecar.wait(Duration::from_secs(15)).code(), Some(0), "it did not wait for 20 s");
    assert_eq!(sidecar.records()[0]["end"], "complete");
}

/// Bytes of a large answer and of a large request pass opened TLS unchanged, in both versions of HTTP.
#[tokio::test]
async fn large_bodies_pass_unchanged() {
    let mut internet = Internet::new().await;
    internet
        .provider(OPENAI, OPENAI, false, |received| Answer::new(200, "application/octet-stream", received.body))
        .await;
    let sidecar = internet.sidecar("");
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for h2 in [false, true] {
        let stream = connected(sidecar.proxy, OPENAI).await;
        let alpn: &[&str] = if h2 { &["h2"] } else { HTTP1 };
        let stream = tls(internet.client(Trust::Sidecar, alpn), OPENAI, stream).await.unwrap();
        let (head, _) = chat(OPENAI, h2).into_parts();
        let request = http::Request::from_parts(head, Full::from(body.clone()));
        let answer = call(stream, h2, request).await;
        assert!(answer.body == body, "HTTP/2 {h2}: {} of {} bytes", answer.body.len(), body.len());
    }
}
