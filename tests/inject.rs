//! `usage.inject`: requests that are read whole before they are sent.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use keytally::demo::simulator::{Answer, Received, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::wire::read_head;
use crate::support::{Sidecar, post_json};

const CHAT: &str = "/openai/v1/chat/completions";
const ASK: &str = r#"{"model":"gpt-4o-mini","stream":true,"messages":[]}"#;

/// A provider that keeps the requests that it gets, and a sidecar that asks it for usage.
async fn pair(more: &str) -> (Simulator, Arc<Mutex<Vec<Bytes>>>, Sidecar) {
    let asked: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let keep = Arc::clone(&asked);
    let provider = Simulator::start(move |received: Received| {
        keep.lock().unwrap().push(received.body);
        Answer::new(200, "text/event-stream", "data: [DONE]\n\n")
    })
    .await
    .expect("a free port");
    let sidecar = Sidecar::start(&format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nusage: {{ inject: true }}\n{more}\n",
        provider.address()
    ));
    (provider, asked, sidecar)
}

/// A call whose body is this long and does not come.
async fn begin(sidecar: &Sidecar, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.proxy).await.unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn wait_for_open(sidecar: &Sidecar, count: f64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while sidecar.metrics().await.sum("keytally_requests_in_flight", &[]).unwrap_or(0.0) != count {
        assert!(Instant::now() < deadline, "never {count} calls are open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_request_that_is_cut_off_while_it_is_read_has_a_record() {
    let (_provider, _asked, mut sidecar) = pair("shutdown: { drain: 300ms, linger: 0s }").await;
    let _stream = begin(&sidecar, 1_000).await;
    wait_for_open(&sidecar, 1.0).await;
    assert_eq!(sidecar.stop().code(), Some(0));
    let records = sidecar.records();
    assert_eq!(records.len(), 1);
    assert_eq!((&records[0]["provider"], &records[0]["end"]), (&"openai".into(), &"no_answer".into()), "{records:?}");
}

#[tokio::test]
async fn a_request_that_stops_coming_is_not_waited_for() {
    let (_provider, _asked, sidecar) = pair("upstream: { idle_timeout: 300ms }").await;
    let mut stream = begin(&sidecar, 1_000).await;
    let head = tokio::time::timeout(Duration::from_secs(20), read_head(&mut stream)).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 504") && head.contains("x-keytally-error: read_timeout"), "{head}");
    let records = sidecar.wait_for_records(1).await;
    assert_eq!(records[0]["end"], "no_answer", "{records:?}");
}

#[tokio::test]
async fn requests_beyond_the_room_pass_unchanged() {
    let (_provider, asked, sidecar) = pair("").await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(begin(&sidecar, 8 << 20).await);
    }
    wait_for_open(&sidecar, 8.0).await;
    assert_eq!(post_json(sidecar.proxy, CHAT, "sk-made-up", ASK).await.head.status, 200);
    assert_eq!(asked.lock().unwrap().pop().expect("a request"), ASK);

    // What was held ends: there is room again.
    for mut stream in held {
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    wait_for_open(&sidecar, 0.0).await;
    assert_eq!(post_json(sidecar.proxy, CHAT, "sk-made-up", ASK).await.head.status, 200);
    let changed = asked.lock().unwrap().pop().expect("a request");
    assert!(changed.starts_with(br#"{"stream_options":{"include_usage":true},"#), "{changed:?}");
}
