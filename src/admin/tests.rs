//! The admin port over real sockets.

use std::io::Read;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::export::metrics::MetricsConfig;

struct Rooms(Result<(), String>);

impl StatusSource for Rooms {
    fn ready(&self) -> Result<(), String> {
        self.0.clone()
    }

    fn fix(&self, _: &str, _: Option<Duration>) -> Option<String> {
        None
    }

    fn status(&self) -> RoomStatus {
        RoomStatus {
            config_path: Some(String::from("/etc/keytally.yaml")),
            listeners: vec![ListenerStatus { name: String::from("proxy"), address: ([127, 0, 0, 1], 4141).into() }],
            exporters: vec![ExporterStatus { name: String::from("traces"), healthy: true, detail: None }],
            ..RoomStatus::default()
        }
    }
}

fn admin(ready: Result<(), String>) -> Admin {
    let metrics = Metrics::new(MetricsConfig::default());
    metrics.config_reloaded(true, SystemTime::now());
    metrics.dropped(Signal::Traces, DropReason::ExportFailed, 2);
    Admin::new(
        metrics,
        Arc::new(Live::new(SystemTime::now())),
        Arc::new(Rooms(ready)),
        vec![String::from("Metrics.Example.org.")],
    )
}

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn start(admin: Admin) -> Running {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(admin.serve(listener, async move {
        let _ = stopped.await;
    }));
    Running { address, stop, task }
}

/// Sends bytes and reads until the other side closes.
async fn exchange(address: SocketAddr, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good as a close.
    let _ = stream.read_to_end(&mut answer).await;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    (String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase(), answer[end..].to_vec())
}

async fn ask(address: SocketAddr, method: &str, path: &str, more: &str) -> (u16, String, Vec<u8>) {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{more}\r\n");
    let (head, body) = exchange(address, &request).await;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    (status, head, body)
}

#[tokio::test]
async fn pages_answer_as_the_header_says() {
    let server = start(admin(Ok(()))).await;
    let (status, head, body) = ask(server.address, "GET", "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(head.contains("cache-control: no-store\r\n") && head.contains("nosniff"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("\nkeytally_build_info{"));

    let open = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\naccept-encoding: gzip\r\n";
    let (_, head, body) = ask(server.address, "GET", "/metrics", open).await;
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert!(text.ends_with("# EOF\n"));
    let (_, head, _) = ask(server.address, "GET", "/metrics", "accept-encoding: br, gzip;q=0\r\n").await;
    assert!(!head.contains("content-encoding"), "{head}");

    for (path, expected) in [("/livez", "ok\n"), ("/readyz", "ok\n"), ("/", INDEX)] {
        let (status, _, body) = ask(server.address, "GET", path, "").await;
        assert_eq!((status, &*String::from_utf8_lossy(&body)), (200, expected), "{path}");
    }
    let (status, head, body) =
        ask(server.address, "GET", "/?key=a&outcome=failed", "accept: text/html,*/*;q=0.8\r\n").await;
    assert_eq!(status, 200);
    for expected in [
        "content-type: text/html; charset=utf-8\r\n",
        "content-security-policy: default-src 'none'; ",
        "x-frame-options: deny\r\n",
        "referrer-policy: no-referrer\r\n",
        "vary: accept\r\n",
    ] {
        assert!(head.contains(expected), "{expected} {head}");
    }
    assert!(String::from_utf8(body).unwrap().starts_with("<!DOCTYPE html><html lang=\"en\">"));
    let (status, head, body) = ask(server.address, "GET", "/status/live?key=nobody", "").await;
    assert!(status == 200 && head.contains("content-type: application/json\r\n"), "{head}");
    let overview: overview::Overview = serde_json::from_slice(&body).unwrap();
    assert_eq!((overview.live.total.calls, overview.keys.len(), overview.live.minutes.len()), (0, 0, 60));
    let (status, head, body) = ask(server.address, "HEAD", "/livez", "").await;
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains("content-length: 3\r\n"), "{head}");
    let (status, _, body) = ask(server.address, "GET", "/v1/chat/completions", "").await;
    assert_eq!(status, 404);
    assert!(String::from_utf8_lossy(&body).contains("/metrics"), "says what there is");
    for method in ["POST", "DELETE", "CONNECT"] {
        let path = if method == "CONNECT" { "127.0.0.1:443" } else { "/metrics" };
        let (status, head, _) = ask(server.address, method, path, "").await;
        assert!(matches!((method, status), ("CONNECT", 404) | (_, 405)), "{method} {status}");
        assert!(status == 404 || head.contains("allow: get, head\r\n"), "{head}");
    }
}

#[tokio::test]
async fn status_tells_the_state() {
    let server = start(admin(Err(String::from("price book is loading")))).await;
    let (status, _, body) = ask(server.address, "GET", "/readyz", "").await;
    assert_eq!((status, &*String::from_utf8_lossy(&body)), (503, "not ready: price book is loading\n"));
    let (status, head, body) = ask(server.address, "GET", "/status", "").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json\r\n"));
    let page: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(page["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(page["ready"], false);
    assert_eq!(page["not_ready_reason"], "price book is loading");
    assert_eq!(page["config"]["path"], "/etc/keytally.yaml");
    assert_eq!(page["config"]["last_reload_successful"], true);
    assert_eq!(page["listeners"][0]["address"], "127.0.0.1:4141");
    assert_eq!(page["telemetry_dropped"]["traces"], 2);
    assert_eq!(page["exporters"][0]["healthy"], true);
    assert_eq!(page["keys"], serde_json::json!([]));
}

#[test]
fn foreign_names_are_not_served() {
    let admin = admin(Ok(()));
    for own in [
        "127.0.0.1:4140",
        "[::1]:4140",
        "10.2.3.4",
        "localhost:4140",
        "LOCALHOST",
        "app.localhost",
        "keytally:4140",
        "metrics.example.org",
        "metrics.example.org.:4140",
    ] {
        assert!(admin.is_own_host(own), "{own}");
    }
    for foreign in [
        "evil.example",
        "evil.example:4140",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "notlocalhost.example",
        "example.org",
        "",
        ":4140",
        "evil.example@127.0.0.1.nip.example",
        "user@evil.example",
        "user@127.0.0.1",
        "127.0.0.1:4140:80",
        "[::1].evil.example",
        "a b",
    ] {
        assert!(!admin.is_own_host(foreign), "{foreign}");
    }
}

#[tokio::test]
async fn host_is_checked_on_every_page() {
    let server = start(admin(Ok(()))).await;
    for path in ["/", "/?key=a", "/metrics", "/status", "/status/live", "/livez", "/nothing"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: evil.example:4140\r\nconnection: close\r\n\r\n");
        let (head, body) = exchange(server.address, &request).await;
        assert!(head.starts_with("http/1.1 421 "), "{path}: {head}");
        assert!(String::from_utf8_lossy(&body).contains("evil.example"));
    }
    for (request, expected) in [
        ("GET /livez HTTP/1.0\r\n\r\n", "200"),
        ("GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        ("GET /livez HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\nconnection: close\r\n\r\n", "400"),
        ("GET http://evil.example/livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", "421"),
    ] {
        let (head, _) = exchange(server.address, request).await;
        assert_eq!(head.split(' ').nth(1), Some(expected), "{request}");
    }
}

#[tokio::test]
async fn long_slow_and_many_are_bounded() {
    let mut admin = admin(Ok(()));
    admin.bounds =
        Bounds { connections: 2, header_timeout: Duration::from_millis(300), lifetime: Duration::from_secs(60) };
    let server = start(admin).await;
    let long = format!("x-long: {}\r\n", "a".repeat(HEADER_BYTES));
    let many = (0..=HEADER_FIELDS).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    for fields in [long, many] {
        let (status, ..) = ask(server.address, "GET", "/livez", &fields).await;
        assert_eq!(status, 431);
    }
    // Two that never finish their header take both places; they are closed in time and the third is served.
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: lo").await.unwrap();
        slow.push(stream);
    }
    let started = std::time::Instant::now();
    let (status, ..) = ask(server.address, "GET", "/livez", "").await;
    assert_eq!(status, 200);
    assert!(started.elapsed() >= Duration::from_millis(200), "it had to wait for a place");
    for mut stream in slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn shutdown_closes_the_port_and_idle_connections() {
    let server = start(admin(Ok(()))).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 1024];
    let n = idle.read(&mut answer).await.unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    server.stop.send(()).unwrap();
    tokio::time::timeout(DRAIN, server.task).await.expect("ends before the drain time").unwrap();
    assert_eq!(idle.read(&mut answer).await.unwrap_or(0), 0, "closed");
    assert!(TcpStream::connect(server.address).await.is_err());
}
