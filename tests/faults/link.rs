//! The network between application, sidecar and provider, in a namespace of the test's own: name service gone and back; lost
//! packets, resets and a slow link. Packets out of order cannot be had here (no netem in the kernel); TCP hides them anyway.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use keytally::demo::simulator::{Answer, Simulator};
use tokio::net::UdpSocket;

use super::*;
use crate::support::at_rest::AtRest;
use crate::support::load::{provider, relay};
use crate::support::netns::Namespace;
use crate::support::{client, post_json};

/// A name server that gives every name one address, as long as it is told to answer.
async fn name_server(at: Ipv4Addr, address: Ipv4Addr) -> Arc<AtomicBool> {
    let socket = UdpSocket::bind((at, 53)).await.expect("an address of this test's own");
    let answers = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&answers);
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            // RFC 1035: twelve bytes of header, the name, type and class; an OPT record after that is left out.
            let Some(name) = query[12..length].iter().position(|byte| *byte == 0) else { continue };
            let question = &query[12..12 + name + 5];
            let wants_v4 = question[name + 1..name + 3] == [0, 1];
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_v4), 0, 0, 0, 0]);
            answer.extend(question);
            if wants_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(address.octets());
            }
            if told.load(Ordering::Relaxed) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn name_service_gone_and_back() {
    let Some(namespace) = Namespace::new(1) else { return };
    let provider = provider().await;
    let upstream = relay(IpAddr::from(namespace.outside), provider.address()).await;
    let answers = name_server(namespace.outside, namespace.outside).await;
    namespace.resolver(namespace.outside.into());
    let config = format!(
        "providers:\n  openai: {{ base_url: \"http://one.example:{0}\" }}\n  other: {{ protocol: openai-chat, base_url: \"http://two.example:{0}\" }}\n\
         metrics: {{ birth_hold: 0s }}\nupstream: {{ pool_idle_timeout: 20s, connect_timeout: 3s }}\n",
        upstream.port()
    );
    let sidecar = Sidecar::start_at(namespace.inside, &namespace.prefix(None), &config, |command| {
        command.env("RES_OPTIONS", "timeout:1 attempts:2");
    });
    // More connections than the load will need, so that it needs no new one.
    let many = Pace { workers: 24, kinds: &Kind::ORDINARY, every: Duration::ZERO };
    let mut load = Load::start(sidecar.proxy, upstream, many);
    load.goes_on(400).await;
    let mut made = load.stop().await;
    let threads = async || sidecar.metrics().await.sum("process_threads", &[]).expect("on Linux");
    let (threads_before, resident) = (threads().await, sidecar.resident_bytes());

    let mut load = Load::start(sidecar.proxy, upstream, Pace { workers: 4, ..BUSY });
    load.goes_on(20).await;
    answers.store(false, Ordering::Relaxed);
    let gone = Instant::now();
    let proxy = sidecar.proxy;
    let mut failing = tokio::task::JoinSet::new();
    for _ in 0..40 {
        failing.spawn(async move { post_json(proxy, "/other/v1/chat/completions", KEY, ASK).await });
    }
    made += 40;
    for answer in failing.join_all().await {
        let why = answer.head.headers["x-keytally-error"].to_str().unwrap();
        assert!(matches!(why, "dns" | "connect_timeout"), "{why}");
    }
    println!("forty calls failed within {:?}, with {} threads", gone.elapsed(), threads().await);
    assert!(gone.elapsed() < Duration::from_secs(40), "{:?}", gone.elapsed());
    // What is connected goes on.
    load.goes_on(100).await;

    answers.store(true, Ordering::Relaxed);
    let back = Instant::now();
    loop {
        made += 1;
        if post_json(sidecar.proxy, "/other/v1/chat/completions", KEY, ASK).await.head.status == 200 {
            break;
        }
        assert!(back.elapsed() < Duration::from_secs(30), "still no name; log:\n{}", sidecar.log());
    }
    made += load.stop().await;
    AtRest::before_all_calls().account(&sidecar, made, &[("logs", &|| lines(&sidecar))]).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while threads().await > threads_before + 2.0 || sidecar.resident_bytes() > resident + GROWTH_BYTES {
        assert!(Instant::now() < deadline, "{} threads, {} bytes", threads().await, sidecar.resident_bytes());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_packets_and_a_slow_link() {
    let Some(namespace) = Namespace::new(2) else { return };
    let provider = provider().await;
    let upstream = relay(IpAddr::from(namespace.outside), provider.address()).await;
    let sidecar = Sidecar::start_at(namespace.inside, &namespace.prefix(None), &config(upstream, ""), |_| ());
    let warmed = warm(&sidecar, upstream).await;
    let before = AtRest::of(&sidecar, warmed).await;

    let lose = |hook: &str, dev: &str| {
        format!(
            "chain {hook} {{ type filter hook {hook} priority 0; {dev} != \"lo\" numgen random mod 100 < 8 drop; }};"
        )
    };
    namespace.nft(&format!("table inet faults {{ {} {} }}", lose("input", "iifname"), lose("output", "oifname")));
    let mut load = Load::start(sidecar.proxy, upstream, BUSY);
    load.goes_on(150).await;
    let mut made = load.stop().await;
    namespace.nft("delete table inet faults");

    // 4 Mbit/s, with a queue of up to a second.
    namespace.shape("tbf rate 4mbit burst 16kb latency 1s");
    let pace =
        Pace { workers: 4, kinds: &[Kind::Plain, Kind::Stream, Kind::Plain, Kind::Large], every: Duration::ZERO };
    let mut load = Load::start(sidecar.proxy, upstream, pace);
    load.goes_on(12).await;
    made += load.stop().await;
    namespace.unshape();
    before.check(&sidecar, made, &[("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_the_provider_that_break_at_random() {
    const CALLS: usize = 200;
    let Some(namespace) = Namespace::new(3) else { return };
    let body = format!(r#"{{"model":"gpt-4o-mini","choices":[],"padding":"{}"}}"#, "x".repeat(60_000));
    let text = Bytes::from(body);
    let answered = text.clone();
    let provider = Simulator::start(move |_| {
        let mut answer = Answer::new(200, "application/json", "");
        let half = text.len() / 2;
        answer.pieces = vec![(Duration::ZERO, text.slice(..half)), (Duration::from_millis(5), text.slice(half..))];
        answer
    })
    .await
    .unwrap();
    let upstream = relay(IpAddr::from(namespace.outside), provider.address()).await;
    let sidecar = Sidecar::start_at(namespace.inside, &namespace.prefix(None), &config(upstream, ""), |_| ());
    // An answer that is not read to its end is estimated: what that takes is loaded once.
    let request = Request::post(CHAT).header("authorization", format!("Bearer {KEY}"));
    client::leave(sidecar.proxy, request.body(Full::new(Bytes::from(ASK))).unwrap(), 1).await;
    let before = AtRest::of(&sidecar, 1).await;
    let port = upstream.port();
    namespace.nft(&format!(
        "table inet faults {{ chain output {{ type filter hook output priority 0; tcp dport {port} numgen random mod 100 < 4 reject with tcp reset; }}; }}"
    ));
    let mut ends = [0; 3];
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..CALLS {
        let proxy = sidecar.proxy;
        calls.spawn(async move {
            tokio::time::sleep(Duration::from_millis(number as u64 * 10)).await;
            let request = Request::post(CHAT).header("authorization", format!("Bearer {KEY}"));
            let answer = client::open(proxy, request.body(Full::new(Bytes::from(ASK))).unwrap()).await;
            let answer = answer.expect("the sidecar always answers");
            let (head, body) = answer.into_parts();
            (head, body.collect().await.map(|body| body.to_bytes()))
        });
    }
    for (head, body) in calls.join_all().await {
        match (head.status.as_u16(), body) {
            (200, Ok(body)) => {
                assert_eq!(body, answered, "what looks whole is whole");
                ends[0] += 1;
            }
            (200, Err(_)) => ends[1] += 1,
            (status, body) => {
                let why = head.headers.get("x-keytally-error").map(|why| why.to_str().unwrap().to_owned());
                assert!(matches!(why.as_deref(), Some("connect" | "reset")), "{status} {why:?} {body:?}");
                ends[2] += 1;
            }
        }
    }
    println!("{} whole, {} broken off, {} without an answer", ends[0], ends[1], ends[2]);
    assert!(ends[0] > 0 && ends[1] + ends[2] > 0, "{ends:?}: nothing was tested");
    namespace.nft("delete table inet faults");
    before.check(&sidecar, CALLS as u64, &[("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
}
