//! Fifty scrapes a second under load, and scrapes at the ceiling of series.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::*;
use crate::support::at_rest::AtRest;
use crate::support::client;
use crate::support::load::provider;

/// In turn as Prometheus asks, old and new, compressed and not; each answer is looked at.
async fn scrape(admin: SocketAddr, number: u64) {
    let accept = if number.is_multiple_of(2) { "text/plain" } else { "application/openmetrics-text;version=1.0.0" };
    let mut request = Request::get("/metrics").header("accept", accept);
    if number.is_multiple_of(3) {
        request = request.header("accept-encoding", "gzip");
    }
    let answer = client::send(admin, request.body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!(answer.head.status, 200);
    if number.is_multiple_of(3) {
        assert_eq!(answer.head.headers["content-encoding"], "gzip");
    } else {
        assert!(answer.body.ends_with(b"\n"), "a whole answer");
        assert!(number.is_multiple_of(2) || answer.body.ends_with(b"# EOF\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_scrapes_a_second() {
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), ""));
    let warmed = warm(&sidecar, provider.address()).await;
    let before = AtRest::of(&sidecar, warmed).await;
    let mut load = Load::start(sidecar.proxy, provider.address(), BUSY);
    let mut turn = tokio::time::interval(Duration::from_millis(20));
    let mut scrapes = tokio::task::JoinSet::new();
    for number in 0..400 {
        turn.tick().await;
        scrapes.spawn(scrape(sidecar.admin, number));
    }
    load.goes_on(1).await;
    scrapes.join_all().await;
    let made = load.stop().await;
    assert!(made > 100, "hardly any load: {made}");
    before.check(&sidecar, made, &[("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
}

/// How long it takes is told in docs/faults.md; here only that nobody waits for anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_at_the_ceiling_of_series_holds_up_no_call() {
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), ""));
    let hostile = Pace { workers: 16, kinds: &[Kind::Hostile], every: Duration::ZERO };
    let mut load = Load::start(sidecar.proxy, provider.address(), hostile);
    load.goes_on(3_000).await;
    let named = load.stop().await;
    let metrics = sidecar.metrics().await;
    println!("{} series", metrics.len());
    assert!(metrics.len() <= 20_000, "{} series", metrics.len());
    for label in ["key", "model"] {
        let folded = metrics.sum("keytally_label_overflow_total", &[("label", label)]);
        assert!(folded.is_some_and(|folded| folded > 0.0), "{label}: the ceiling is not reached");
    }

    let mut load = Load::start(sidecar.proxy, provider.address(), BUSY);
    load.goes_on(50).await;
    let (longest, scrapes) = (Arc::<AtomicU64>::default(), 10);
    for number in 0..scrapes {
        let asked = Instant::now();
        scrape(sidecar.admin, number).await;
        longest.fetch_max(asked.elapsed().as_millis() as u64, Ordering::Relaxed);
        // Every worker gets further: none hangs behind the scrape.
        load.goes_on(8).await;
    }
    println!("longest of {scrapes} scrapes: {} ms", longest.load(Ordering::Relaxed));
    let made = load.stop().await;
    let metrics = sidecar.metrics().await;
    assert_eq!(metrics.sum("keytally_requests_total", &[]), Some((named + made) as f64), "sums stay exact");
}
