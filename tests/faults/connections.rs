//! Twenty thousand connections, and a limit of open files that is soon reached.

use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::support::at_rest::AtRest;
use crate::support::load::provider;
use crate::support::post_json;
use crate::support::wire::read_head;

/// A connection from one of many loopback addresses: the ports of one would not do, and other tests need theirs.
async fn connect(to: SocketAddr, number: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a descriptor");
    socket.bind(SocketAddr::from(([127, 1, 1, (number / 2_000 + 1) as u8], 0))).expect("a free port");
    socket.connect(to).await.expect("a connection")
}

async fn ask_over(stream: &mut TcpStream) -> String {
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{ASK}", ASK.len());
    stream.write_all(head.as_bytes()).await.expect("written");
    read_head(stream).await
}

async fn open_connections(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().await.sum("keytally_connections", &[("side", "client")]).expect("a gauge from the start")
}

async fn until_open(sidecar: &Sidecar, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while open_connections(sidecar).await != count as f64 {
        assert!(Instant::now() < deadline, "{} of {count} connections", open_connections(sidecar).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_connections() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("up to the hard limit");
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), ""));
    let warmed = warm(&sidecar, provider.address()).await;
    let before = AtRest::of(&sidecar, warmed).await;
    let served =
        sidecar.metrics().await.sum("keytally_connections_limit", &[]).expect("a gauge from the start") as usize;
    if served < 20_000 {
        assert!(sidecar.log().contains("raise the limit"), "it says so: {}", sidecar.log());
        println!("the hard limit of open files, {:?}, has room for {served} connections only", limit.maximum);
    }
    // This process has the same limit, and needs some for other things.
    let count = served.min(20_000) - 50;
    let idle = before.resident_bytes;
    let (mut before, mut total) = (before, warmed);
    for round in 0..2 {
        let mut streams = Vec::with_capacity(count);
        for number in 0..count {
            streams.push(connect(sidecar.proxy, number).await);
        }
        until_open(&sidecar, count).await;
        println!("{count} connections: {} bytes each", sidecar.resident_bytes().saturating_sub(idle) / count as u64);
        // Each of them works; a hundred are asked, the first and the last among them.
        let mut calls = 0;
        for number in (0..count).step_by(count / 99).chain([count - 1]) {
            assert!(ask_over(&mut streams[number]).await.starts_with("HTTP/1.1 200 "), "connection {number}");
            calls += 1;
        }
        drop(streams);
        before.account(&sidecar, calls, &[("logs", &|| lines(&sidecar))]).await;
        // What the allocator keeps of the first time serves the second.
        let growth = if round == 0 { 4_096 * count as u64 + GROWTH_BYTES } else { GROWTH_BYTES };
        before.is_back(&sidecar, growth).await;
        total += calls;
        before = AtRest::of(&sidecar, total).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_open_files_is_reached() {
    let provider = provider().await;
    let prefix = ["prlimit", "--nofile=128:128", "--"].map(str::to_owned);
    let sidecar = Sidecar::start_under(&prefix, &config(provider.address(), ""), |_| ());
    assert_eq!(post_json(sidecar.proxy, CHAT, KEY, ASK).await.head.status, 200);
    let before = AtRest::of(&sidecar, 1).await;
    let served =
        sidecar.metrics().await.sum("keytally_connections_limit", &[]).expect("a gauge from the start") as usize;
    assert!((16..64).contains(&served), "{served} connections with 128 descriptors");
    let warning = sidecar.log();
    assert!(warning.contains("raise the limit") && warning.contains("\"descriptors\":128"), "{warning}");

    // More than fit: the first are served, all at the same time; the others wait.
    let mut streams = Vec::new();
    for number in 0..served + 40 {
        streams.push(connect(sidecar.proxy, number).await);
    }
    until_open(&sidecar, served).await;
    let mut answers = tokio::task::JoinSet::new();
    for mut stream in streams.drain(..served) {
        answers.spawn(async move { (ask_over(&mut stream).await, stream) });
    }
    let answered = answers.join_all().await;
    for (head, _) in &answered {
        assert!(head.starts_with("HTTP/1.1 200 "), "an accepted call failed for want of descriptors: {head}");
    }
    let metrics = sidecar.metrics().await;
    assert!(metrics.sum("keytally_accept_pauses_total", &[("reason", "limit")]) > Some(0.0));
    assert_eq!(metrics.sum("keytally_connections", &[("side", "client")]), Some(served as f64));
    sidecar.wait_for_log("all connections are in use");
    // It waits without a loop that spins, and without a flood of log.
    let (used, lines_before) = (processor_ticks(&sidecar), sidecar.log().lines().count());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = processor_ticks(&sidecar) - used;
    assert!(used <= 50, "{used} hundredths of a second of processor time while nothing happens");
    assert!(sidecar.log().lines().count() <= lines_before + 3, "{}", sidecar.log());

    // Those that waited are served as soon as others close.
    drop(answered);
    let mut answers = tokio::task::JoinSet::new();
    for mut stream in streams {
        answers.spawn(async move { ask_over(&mut stream).await });
    }
    let late = answers.join_all().await;
    assert!(late.iter().all(|head| head.starts_with("HTTP/1.1 200 ")), "{late:?}");
    before.check(&sidecar, served as u64 + 40, &[("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
}

/// User and system time of the process, in hundredths of a second.
fn processor_ticks(sidecar: &Sidecar) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", sidecar.pid())).expect("a process of ours");
    let fields: Vec<_> = text.rsplit_once(") ").expect("a name").1.split(' ').collect();
    [11, 12].iter().map(|at| fields[*at].parse::<u64>().expect("ticks")).sum()
}

/// Where even the descriptors of the process's own are used up from outside, accepting goes on once there are some again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_descriptor_at_all() {
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), ""));
    assert_eq!(post_json(sidecar.proxy, CHAT, KEY, ASK).await.head.status, 200);
    let before = AtRest::of(&sidecar, 1).await;
    let limit = |descriptors: usize| {
        let pid = sidecar.pid().to_string();
        let set =
            std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={descriptors}:")]).status();
        assert!(set.expect("prlimit runs").success());
    };
    let open = format!("/proc/{}/fd", sidecar.pid());
    let taken = |number: &usize| std::path::Path::new(&open).join(number.to_string()).exists();
    limit((0..).find(|number| !taken(number)).expect("a number that is free"));
    let mut stream = TcpStream::connect(sidecar.proxy).await.unwrap();
    sidecar.wait_for_log("cannot accept connections");
    limit(1_000);
    let mut whole = Vec::new();
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{ASK}", ASK.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_to_end(&mut whole).await.unwrap();
    assert!(whole.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&whole));
    assert!(
        sidecar.metrics().await.sum("keytally_accept_pauses_total", &[("reason", "descriptors")]) > Some(0.0),
        "it is counted"
    );
    drop(stream);
    before.check(&sidecar, 1, &[("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
}
