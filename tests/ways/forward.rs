//! The forward proxy as clients see it.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keytally::demo::simulator::{Answer, Simulator};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::internet::{
    ANSWER, ASK, Internet, KEY, OPENAI, Trust, call, chat, connect, connected, count, rest, tls, tunnels, until,
    was_opened,
};
use crate::support::wire::{closed_port, exchange, read_until, serve_raw};
use crate::support::{Sidecar, post_json};

const ALONE: &str = "metrics: { birth_hold: 0s }\n";

/// Echoes what it gets, then its end.
async fn echo() -> SocketAddr {
    serve_raw(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// What must be the same by every way.
fn lasting(mut record: Value) -> Value {
    let members = record.as_object_mut().unwrap();
    for name in ["time", "call_id", "trace_id", "span_id", "way"] {
        members.remove(name).unwrap_or_else(|| panic!("a record has {name}"));
    }
    members.retain(|name, _| !name.ends_with("_seconds"));
    record
}

#[tokio::test]
async fn a_call_is_the_same_by_base_url_and_by_proxy() {
    let internet = Internet::new().await;
    let sidecar = internet.sidecar("");
    assert_eq!(post_json(sidecar.proxy, "/openai/v1/chat/completions", KEY, ASK).await.body, ANSWER);
    for h2 in [false, true] {
        let stream = connected(sidecar.proxy, OPENAI).await;
        let alpn: &[&str] = if h2 { &["h2", "http/1.1"] } else { &["http/1.1"] };
        let stream = tls(internet.client(Trust::Sidecar, alpn), OPENAI, stream).await.unwrap();
        assert!(was_opened(&stream));
        assert_eq!(stream.get_ref().1.alpn_protocol().unwrap(), alpn[0].as_bytes());
        let answer = call(stream, h2, chat(OPENAI, h2)).await;
        assert_eq!((answer.head.status.as_u16(), &answer.body[..]), (200, ANSWER.as_bytes()));
    }
    let mut records = sidecar.wait_for_records(3).await;
    records.sort_by_key(|record| record["time"].to_string());
    let ways: Vec<_> = records.iter().map(|record| record["way"].as_str().unwrap()).collect();
    assert_eq!(ways, ["base_url", "forward", "forward"]);
    let expected = lasting(records[0].clone());
    assert_eq!(expected["provider"], "openai");
    assert_eq!(expected["usage"]["input_tokens"], 9);
    for record in &records[1..] {
        assert_eq!(lasting(record.clone()), expected);
    }
    let metrics = sidecar.metrics().await;
    assert_eq!(count(&metrics, "keytally_tls_handshakes_total", &[("result", "done")]), 2.0);
    assert_eq!(count(&metrics, "keytally_tunnelled_connections_total", &[]), 0.0);
    assert!(internet.asked.lock().unwrap().iter().all(|target| target == "api.openai.com:443"));
}

#[tokio::test]
async fn other_hosts_pass_unread() {
    let sidecar = Sidecar::start(ALONE);
    let server = echo().await;
    let (head, mut stream) = connect(sidecar.proxy, &server.to_string(), "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(!head.to_lowercase().contains("content-length") && !head.to_lowercase().contains("transfer-encoding"));
    let sent: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = stream.split();
    let mut got = Vec::new();
    let copy = sent.clone();
    let (written, ended) = tokio::join!(
        async {
            write.write_all(&copy).await?;
            write.shutdown().await
        },
        read.read_to_end(&mut got)
    );
    written.unwrap();
    ended.unwrap();
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    until(&sidecar, "the tunnel ends", |samples| {
        count(samples, "keytally_tunnels_open", &[("provider", "other")]) == 0.0
    })
    .await;
    let metrics = sidecar.metrics().await;
    for direction in ["request", "response"] {
        let labels = [("provider", "other"), ("direction", direction)];
        assert_eq!(count(&metrics, "keytally_tunnel_bytes_total", &labels), 2_000_000.0, "{direction}");
    }
    assert!(count(&metrics, "keytally_tunnel_seconds_total", &[("provider", "other")]) > 0.0);
    assert_eq!(tunnels(&sidecar, "unknown_host").await, 1.0);
    assert_eq!(sidecar.records().len(), 0, "no call, no record");
    assert_eq!(count(&metrics, "keytally_connections", &[]), 0.0, "both sides are closed");
}

#[tokio::test]
async fn absolute_form() {
    let provider = Simulator::start(|received| {
        assert!(!received.head.headers.contains_key("proxy-authorization") && received.head.uri.host().is_none());
        Answer::new(200, "application/json", ANSWER)
    })
    .await
    .unwrap();
    let other = Simulator::start(|_| Answer::new(200, "text/plain", "not a model").header("x-own", "1")).await.unwrap();
    let config = format!("providers: {{ mine: {{ base_url: \"http://{}\" }} }}\n{ALONE}", provider.address());
    let sidecar = Sidecar::start(&config);
    let ask = |address: SocketAddr| {
        let length = ASK.len();
        format!(
            "POST http://{address}/v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nproxy-authorization: Basic made-up\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{ASK}"
        )
    };
    let answer = exchange(sidecar.proxy, ask(provider.address())).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(ANSWER), "{answer}");
    let answer = exchange(sidecar.proxy, ask(other.address())).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("not a model"), "{answer}");
    assert!(answer.contains("x-own: 1"), "{answer}");
    let (_held, closed) = closed_port();
    let answer = exchange(sidecar.proxy, ask(closed)).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("x-keytally-error: connect"), "{answer}");

    let records = sidecar.wait_for_records(1).await;
    assert_eq!(records.len(), 1, "the other exchanges are no calls: {records:?}");
    assert_eq!((records[0]["way"].as_str(), records[0]["provider"].as_str()), (Some("forward"), Some("mine")));
    let metrics = sidecar.metrics().await;
    let bytes =
        |direction| count(&metrics, "keytally_tunnel_bytes_total", &[("provider", "other"), ("direction", direction)]);
    // Where nobody answered, nothing was sent.
    assert_eq!((bytes("request"), bytes("response")), (ASK.len() as f64, "not a model".len() as f64));
}

/// Every target that nobody is connected to, by CONNECT and in absolute form.
#[tokio::test]
async fn forbidden_targets() {
    let sidecar = Sidecar::start(ALONE);
    let own = format!("127.0.0.1:{}", sidecar.proxy.port());
    let admin = format!("[::ffff:127.0.0.1]:{}", sidecar.admin.port());
    let by_name = format!("localhost:{}", sidecar.admin.port());
    let unspecified = format!("0.0.0.0:{}", sidecar.proxy.port());
    for (target, words) in [
        ("169.254.169.254:80", "link-local"),
        ("[fe80::1]:80", "link-local"),
        ("metadata.google.internal:80", "metadata"),
        ("100.100.100.200:80", "metadata"),
        ("[fd00:ec2::254]:80", "metadata"),
        ("[::ffff:a9fe:a9fe]:80", "link-local"),
        (&own, "keytally itself"),
        (&admin, "keytally itself"),
        (&by_name, "keytally itself"),
        (&unspecified, "keytally itself"),
    ] {
        for request in [
            format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\r\n"),
            format!("GET http://{target}/latest/meta-data HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\r\n"),
        ] {
            let answer = exchange(sidecar.proxy, request).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{target}: {answer}");
            assert!(
                answer.contains("x-keytally-error: forbidden_target") && answer.contains(words),
                "{target}: {answer}"
            );
        }
    }
    let metrics = sidecar.metrics().await;
    assert_eq!(count(&metrics, "keytally_forward_refused_total", &[("reason", "forbidden_target")]), 20.0);
    assert_eq!(sidecar.records().len(), 0);
}

#[tokio::test]
async fn what_cannot_be_served_says_why() {
    let sidecar = Sidecar::start(ALONE);
    let (_held, closed) = closed_port();
    for (line, status, reason, words) in [
        ("CONNECT example.com HTTP/1.1", 400, "bad_request", "write connect host:port"),
        ("CONNECT user:made-up@example.com:443 HTTP/1.1", 400, "bad_request", "write connect host:port"),
        ("GET http://user:made-up@example.com/ HTTP/1.1", 400, "bad_request", "without user and password"),
        ("GET ftp://example.com/ HTTP/1.1", 400, "bad_request", "http://host/path"),
        ("CONNECT no-such-host.invalid:443 HTTP/1.1", 502, "unreachable", "no-such-host.invalid:443"),
        (&format!("CONNECT {closed} HTTP/1.1"), 502, "unreachable", "refused"),
    ] {
        let answer = exchange(sidecar.proxy, format!("{line}\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        assert!(answer.contains(&format!("x-keytally-error: {reason}")), "{line}: {answer}");
        assert!(answer.to_lowercase().contains(words) && !answer.contains("made-up"), "{line}: {answer}");
    }
    assert!(!sidecar.log().contains("made-up"));
}

#[tokio::test]
async fn a_password_is_asked_for_and_not_passed_on() {
    let provider = Simulator::start(|received| {
        assert!(!received.head.headers.contains_key("proxy-authorization"));
        Answer::new(200, "application/json", ANSWER)
    })
    .await
    .unwrap();
    let config = format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nforward: {{ auth: {{ user: app, password: {{ env: MADE_UP_PASSWORD }} }} }}\n{ALONE}",
        provider.address()
    );
    let sidecar = Sidecar::start_with(&config, |command| {
        command.env("MADE_UP_PASSWORD", "made:up password");
    });
    let server = echo().await;
    let right = format!("proxy-authorization: Basic {}\r\n", STANDARD.encode("app:made:up password"));
    for wrong in ["", "proxy-authorization: Basic bWFkZTp1cA==\r\n", "proxy-authorization: Bearer x\r\n"] {
        let (head, _) = connect(sidecar.proxy, &server.to_string(), wrong).await;
        assert!(head.starts_with("HTTP/1.1 407 "), "{head}");
        assert!(head.contains("proxy-authenticate: Basic realm=\"keytally\""), "{head}");
        assert!(head.contains("x-keytally-error: proxy_auth"), "{head}");
    }
    let (head, mut stream) = connect(sidecar.proxy, &server.to_string(), &right).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream.write_all(b"hello").await.unwrap();
    read_until(&mut stream, "hello").await;
    let address = provider.address();
    let request =
        format!("GET http://{address}/v1/models HTTP/1.1\r\nhost: {address}\r\n{right}connection: close\r\n\r\n");
    assert!(exchange(sidecar.proxy, request).await.starts_with("HTTP/1.1 200 "));
    let by_base_url = post_json(sidecar.proxy, "/openai/v1/chat/completions", KEY, ASK).await;
    assert_eq!(by_base_url.head.status, 200, "a base URL asks for no password");
    let metrics = sidecar.metrics().await;
    assert_eq!(count(&metrics, "keytally_forward_refused_total", &[("reason", "proxy_auth")]), 3.0);
    assert!(!sidecar.log().contains("made:up"));
}

#[tokio::test]
async fn tunnels_can_be_turned_off() {
    let internet = Internet::new().await;
    let sidecar = internet.sidecar("forward: { tunnels: off }");
    let server = echo().await;
    let request = format!("CONNECT {server} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = exchange(sidecar.proxy, request).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("x-keytally-error: host_not_allowed"), "{answer}");
    assert!(answer.contains("forward.tunnels is off"), "{answer}");
    let stream = connected(sidecar.proxy, OPENAI).await;
    let stream = tls(internet.client(Trust::Sidecar, &["http/1.1"]), OPENAI, stream).await.unwrap();
    assert_eq!(call(stream, false, chat(OPENAI, false)).await.head.status, 200);
}

#[tokio::test]
async fn keytally_itself_by_the_address_of_an_interface() {
    let Some(own) = own_address() else { return crate::support::skip("a network interface besides loopback") };
    let sidecar = Sidecar::start(ALONE);
    let (head, _) = connect(sidecar.proxy, &format!("{own}:{}", sidecar.proxy.port()), "").await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}

/// An address of this machine that is not loopback.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[tokio::test]
async fn silence_and_shutdown_end_tunnels() {
    let server = echo().await;
    let config = format!("{ALONE}upstream: {{ idle_timeout: 1s }}\nshutdown: {{ drain: 300ms }}\n");
    let mut sidecar = Sidecar::start(&config);
    let (_, mut idle) = connect(sidecar.proxy, &server.to_string(), "").await;
    idle.write_all(b"hello").await.unwrap();
    read_until(&mut idle, "hello").await;
    assert_eq!(rest(&mut idle).await, b"", "closed after a second of silence");

    let (_, mut busy) = connect(sidecar.proxy, &server.to_string(), "").await;
    busy.write_all(b"hello").await.unwrap();
    read_until(&mut busy, "hello").await;
    sidecar.signal("TERM");
    // Bytes keep it alive until the drain time is over.
    let ended = tokio::time::timeout(Duration::from_secs(15), async {
        let mut buffer = [0; 16];
        while busy.write_all(b"x").await.is_ok() && busy.read(&mut buffer).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    ended.await.expect("it is cut off");
    assert_eq!(sidecar.wait(Duration::from_secs(15)).code(), Some(0));
}

#[tokio::test]
async fn connect_over_http2() {
    let sidecar = Sidecar::start(ALONE);
    let server = echo().await;
    let stream = TcpStream::connect(sidecar.proxy).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<&[u8]>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let request = Request::connect(server.to_string()).body(Empty::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut tunnel = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        tunnel.write_all(b"by stream").await.unwrap();
        read_until(&mut tunnel, "by stream").await;
    }
    assert_eq!(tunnels(&sidecar, "unknown_host").await, 2.0);
    let request = Request::connect("169.254.169.254:80").body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 403);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("link-local"));
}

/// Most tunnels wait: they must cost next to nothing.
#[tokio::test]
async fn a_waiting_tunnel_is_small() {
    let server = echo().await;
    let sidecar = Sidecar::start(ALONE);
    let mut open = Vec::new();
    let mut tunnel = async || {
        let (head, mut stream) = connect(sidecar.proxy, &server.to_string(), "").await;
        assert!(head.starts_with("HTTP/1.1 200 "));
        stream.write_all(b"hello").await.unwrap();
        read_until(&mut stream, "hello").await;
        open.push(stream);
    };
    for _ in 0..50 {
        tunnel().await;
    }
    let before = sidecar.resident_bytes();
    for _ in 0..300 {
        tunnel().await;
    }
    let each = sidecar.resident_bytes().saturating_sub(before) / 300;
    assert!(each < 12 * 1024, "{each} bytes a tunnel");
}
