//! Half-open connections: an application, and then a provider, vanishes without a word. Packets to and from it are dropped in
//! a network namespace of the test's own.

use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use keytally::demo::simulator::{Answer, AnswerEnd, Simulator};
use tokio::net::TcpStream;

use super::*;
use crate::support::at_rest::AtRest;
use crate::support::load::relay;
use crate::support::netns::Namespace;
use crate::support::{client, post_json};

/// Answers at once, or streams for ever, or says nothing, as the path has it.
async fn provider() -> Simulator {
    let event = Bytes::from("data: {\"choices\":[{\"delta\":{\"content\":\"more\"}}]}\n\n");
    Simulator::start(move |received| {
        let mut answer = Answer::new(200, "text/event-stream", "");
        match received.head.headers.get("x-answer").map(|value| value.as_bytes()) {
            Some(b"stream") => answer.pieces = vec![(Duration::from_millis(20), event.clone()); 20_000],
            Some(b"silence") => answer.delay = Duration::from_secs(600),
            Some(b"pause") => {
                answer.pieces = vec![(Duration::ZERO, event.clone())];
                answer.end = AnswerEnd::Silent;
            }
            _ => return Answer::new(200, "application/json", r#"{"choices":[]}"#),
        }
        answer
    })
    .await
    .unwrap()
}

fn request(kind: &str) -> Request<Full<Bytes>> {
    let request = Request::post(CHAT).header("authorization", format!("Bearer {KEY}")).header("x-answer", kind);
    request.body(Full::new(Bytes::from(ASK))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_side_says_good_bye() {
    let Some(namespace) = Namespace::new(0) else { return };
    let provider = provider().await;
    let upstream = relay(IpAddr::from(namespace.outside), provider.address()).await;
    let sidecar = Sidecar::start_at(
        namespace.inside,
        &namespace.prefix(None),
        &format!(
            "providers: {{ openai: {{ base_url: \"http://{upstream}\" }} }}\nmetrics: {{ birth_hold: 0s }}\n\
             upstream: {{ pool_idle_timeout: 1s, idle_timeout: 100s }}\n"
        ),
        |_| (),
    );
    let drop_port = |port: u16| {
        let rule = |way: &str| {
            format!(
                "chain {way} {{ type filter hook {way} priority 0; tcp sport {port} drop; tcp dport {port} drop; }};"
            )
        };
        namespace.nft(&format!("table inet faults {{ {} {} }}", rule("input"), rule("output")));
    };
    // How often the kernel repeats what is not acknowledged: seconds instead of its quarter of an hour.
    let shorter = namespace.run(&["sh", "-c", "echo 4 >/proc/sys/net/ipv4/tcp_retries2"]);
    assert!(shorter.status.success(), "{}", String::from_utf8_lossy(&shorter.stderr));
    post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    sidecar.wait_for_records(1).await;

    // The application vanishes: with a connection that it never used, one on which it waits, one on which it reads.
    let never_used = TcpStream::connect(sidecar.proxy).await.unwrap();
    let waits = tokio::spawn(client::open(sidecar.proxy, request("silence")));
    let mut reads = client::open(sidecar.proxy, request("stream")).await.unwrap();
    reads.body_mut().frame().await.unwrap().unwrap();
    let open = async || {
        let metrics = sidecar.metrics().await;
        let calls = metrics.sum("keytally_requests_in_flight", &[]).unwrap();
        (metrics.sum("keytally_connections", &[("side", "client")]).unwrap(), calls)
    };
    until("three connections, two calls", async || open().await == (3.0, 2.0)).await;
    drop_port(sidecar.proxy.port());
    let vanished = Instant::now();
    until("all of them are found out", async || open().await == (0.0, 0.0)).await;
    println!("found out after {:?}", vanished.elapsed());
    assert_eq!(provider.answering(), 0, "the provider's connections are closed");
    namespace.nft("delete table inet faults");
    drop((never_used, reads));
    waits.abort();

    // The provider vanishes: with a call that waits, one that reads, and a kept connection.
    let records = sidecar.wait_for_records(3).await;
    for record in &records[1..] {
        assert_eq!(record["end"], "client_cancelled", "{record}");
    }
    drop(sidecar);
    let sidecar = Sidecar::start_at(
        namespace.inside,
        &namespace.prefix(None),
        &format!(
            "providers: {{ openai: {{ base_url: \"http://{upstream}\" }} }}\nmetrics: {{ birth_hold: 0s }}\n\
             upstream: {{ pool_idle_timeout: 10s, idle_timeout: 2s, connect_timeout: 2s }}\n"
        ),
        |_| (),
    );
    // An answer that is not read to its end is estimated: what that takes is loaded once.
    client::leave(sidecar.proxy, request("stream"), 1).await;
    let before = AtRest::of(&sidecar, 1).await;
    let waits = tokio::spawn(client::open(sidecar.proxy, request("silence")));
    let reads = client::open(sidecar.proxy, request("pause")).await.unwrap();
    post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    drop_port(upstream.port());
    let asked = Instant::now();
    let kept = post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    let new = post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    assert_eq!((kept.head.status.as_u16(), new.head.status.as_u16()), (504, 504));
    assert_eq!(waits.await.unwrap().unwrap().status(), 504);
    assert!(reads.into_body().collect().await.is_err(), "a stream that stops must not look whole");
    println!("given up after {:?}", asked.elapsed());
    namespace.nft("delete table inet faults");
    let mut calls = 5;
    until("calls get through again", async || {
        calls += 1;
        post_json(sidecar.proxy, CHAT, KEY, ASK).await.head.status == 200
    })
    .await;
    before.check(&sidecar, calls, &[("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(150);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
