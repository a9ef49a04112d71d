//! SIGTERM in the middle of five hundred streams.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use keytally::demo::simulator::{Answer, AnswerEnd, Simulator};

use super::*;
use crate::support::client;

const STREAMS: usize = 500;

/// Streams with a pause before each event after the first; they end, or go silent.
async fn slow_provider(pause: Duration, end: AnswerEnd) -> Simulator {
    Simulator::start(move |_| {
        let event =
            |text: &str| Bytes::from(format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"));
        let mut answer = Answer::new(200, "text/event-stream", event("first"));
        answer.pieces.extend((0..3).map(|_| (pause, event("more"))));
        if end == AnswerEnd::Clean {
            answer.pieces.push((pause, Bytes::from_static(b"data: [DONE]\n\n")));
        }
        answer.end = end;
        answer
    })
    .await
    .unwrap()
}

fn request(number: usize) -> Request<Full<Bytes>> {
    let message = format!(r#"[{{"role":"user","content":"{number}"}}]"#);
    let body = format!(r#"{{"model":"gpt-4o-mini","stream":true,"messages":{message}}}"#);
    let request = Request::post(CHAT).header("authorization", format!("Bearer {KEY}"));
    request.body(Full::new(Bytes::from(body))).unwrap()
}

/// Opens them all, and reads the first event of each.
async fn open(sidecar: &Sidecar) -> Vec<hyper::body::Incoming> {
    // What a first record needs is loaded once; the time of the drain is not to be the time of that.
    client::leave(sidecar.proxy, request(STREAMS), 1).await;
    sidecar.wait_for_records(1).await;
    let mut streams = tokio::task::JoinSet::new();
    for number in 0..STREAMS {
        let opening = client::open(sidecar.proxy, request(number));
        streams.spawn(async move {
            let mut body = opening.await.expect("an answer").into_body();
            body.frame().await.expect("a first event").expect("it comes whole");
            body
        });
    }
    streams.join_all().await
}

/// Records by how they ended; without the first, which was for warmth.
fn ends(sidecar: &Sidecar) -> Vec<(String, usize)> {
    let mut ends = std::collections::BTreeMap::<String, usize>::new();
    let mut ids = std::collections::BTreeSet::new();
    for record in &sidecar.records()[1..] {
        assert!(ids.insert(record["call_id"].to_string()), "a call has two records");
        *ends.entry(record["end"].as_str().expect("an end").to_owned()).or_default() += 1;
    }
    ends.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_streams_end_within_the_drain_time() {
    let provider = slow_provider(Duration::from_secs(2), AnswerEnd::Clean).await;
    let mut sidecar = Sidecar::start(&config(provider.address(), "shutdown: { drain: 120s, linger: 0s }"));
    let streams = open(&sidecar).await;
    sidecar.signal("TERM");
    sidecar.wait_for_log("stopping");
    for stream in streams {
        let rest = stream.collect().await.expect("a stream that is let finish").to_bytes();
        assert!(rest.ends_with(b"data: [DONE]\n\n"), "{rest:?}");
    }
    assert_eq!(sidecar.wait(Duration::from_secs(60)).code(), Some(0));
    assert_eq!(ends(&sidecar), [("complete".to_owned(), STREAMS)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_outlast_the_drain_time_have_a_record_each() {
    let provider = slow_provider(Duration::from_millis(10), AnswerEnd::Silent).await;
    let mut sidecar = Sidecar::start(&config(provider.address(), "shutdown: { drain: 2s, linger: 0s }"));
    let streams = open(&sidecar).await;
    sidecar.signal("TERM");
    for stream in streams {
        assert!(stream.collect().await.is_err(), "a stream that is cut off must not look whole");
    }
    assert_eq!(sidecar.wait(Duration::from_secs(60)).code(), Some(0));
    assert_eq!(ends(&sidecar), [("truncated".to_owned(), STREAMS)]);
}
