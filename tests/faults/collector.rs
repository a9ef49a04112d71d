//! An OTLP collector that is down, takes connections and never answers, or answers garbage.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::support::at_rest::AtRest;
use crate::support::load::provider;
use crate::support::wire::{closed_port, read_head, serve_raw};

/// Calls under a sick collector: all get their answers, and every span is counted as lost.
async fn calls_go_on(what: &str, collector: SocketAddr, protocol: &str) {
    let provider = provider().await;
    let dir = tempfile::tempdir().unwrap();
    let calls = dir.path().join("calls.jsonl");
    let export = format!(
        "export: {{ calls: {{ path: \"{}\" }}, otlp: {{ endpoint: \"http://{collector}\", protocol: {protocol}, timeout: 300ms }} }}",
        calls.display()
    );
    let sidecar = Sidecar::start_with(&config(provider.address(), &export), |command| {
        // A queue that this load fills, and no long patience with a batch.
        command.env("OTEL_BSP_MAX_QUEUE_SIZE", "256").env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64");
        command.env("OTEL_BSP_SCHEDULE_DELAY", "100").env("OTEL_BSP_EXPORT_TIMEOUT", "1000");
    });
    let warmed = warm(&sidecar, provider.address()).await;
    let before = AtRest::of(&sidecar, warmed).await;
    let mut load = Load::start(sidecar.proxy, provider.address(), BUSY);
    load.goes_on(600).await;
    let made = load.stop().await;
    println!("{what}, {protocol}:");
    let written = || std::fs::read_to_string(&calls).unwrap().lines().count() as u64;
    before.check(&sidecar, made, &[("traces", &|| 0), ("logs", &written)], GROWTH_BYTES).await;
    assert!(sidecar.log().contains("\"sink\":\"otlp traces\""), "{what}: nothing in the log:\n{}", sidecar.log());
    let complaints = sidecar.log().matches("export failed").count();
    assert!(complaints <= 3, "{what}: {complaints} complaints of the same in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down() {
    let (_held, nobody) = closed_port();
    calls_go_on("down", nobody, "http/protobuf").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers() {
    let silent = serve_raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    calls_go_on("silent", silent, "http/protobuf").await;
    calls_go_on("silent", silent, "grpc").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_answers_garbage() {
    let noise = serve_raw(|mut stream| async move {
        let _ = stream.write_all(b"\x00\x17SSH-2.0-\xff\xfe made up \r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    calls_go_on("noise", noise, "http/protobuf").await;
    calls_go_on("noise", noise, "grpc").await;
    // An error page without an end, as fast as it is read.
    let endless = serve_raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\n\r\n").await;
        while stream.write_all(&[b'<'; 16 << 10]).await.is_ok() {}
    })
    .await;
    calls_go_on("an endless page", endless, "http/protobuf").await;
}
