//! Mixed traffic with all telemetry on: memory, descriptors and threads stay flat, and every call is accounted for.
//!
//! `make test` runs a minute and a half of it. `make soak` runs an hour of it against the release build
//! (`make soak SECONDS=600 RATE=100` for another time, in seconds, and other calls a second), prints a line a minute, and at
//! the end the slopes by least squares; what the run leaves behind is removed. Application, provider and collector are this
//! process, so that the sidecar's figures are its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use keytally::ledger::Reader;

use crate::support::at_rest::AtRest;
use crate::support::collector::Counter;
use crate::support::load::{Kind, Load, Pace, provider};
use crate::support::{Sidecar, client};

/// Calls at a time.
const WORKERS: u32 = 16;
/// What of the run is not measured: until then caches fill.
const WARM: f64 = 0.2;

/// How long, how fast, and what may grow.
struct Plan {
    time: Duration,
    calls_a_second: u32,
    /// Calls with names of their own, made before anything is measured, so that tables of names are full.
    names: u64,
    /// From one line to the next.
    sample: Duration,
    /// Growth over the measured time that fails the run: bytes, descriptors, threads.
    most: [f64; 3],
}

/// One figure of a sample.
type Reading = fn(&Sample) -> f64;

/// What is seen of the sidecar at one moment.
struct Sample {
    at: f64,
    calls: f64,
    lost: f64,
    /// The median since the sample before: an answer of a megabyte on its way, or a scrape, comes and goes.
    resident_bytes: f64,
    descriptors: f64,
    threads: f64,
    ledger_bytes: u64,
    series: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_and_a_half() {
    let time = Duration::from_secs(90);
    run(Plan { time, calls_a_second: 40, names: 3_000, sample: Duration::from_secs(2), most: [8e6, 8.0, 4.0] }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "an hour; make soak"]
async fn for_as_long_as_asked() {
    let asked = |name: &str, default: u32| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: write a whole number")),
        Err(_) => default,
    };
    let time = Duration::from_secs(asked("KEYTALLY_SOAK_SECONDS", 3_600).into());
    let calls_a_second = asked("KEYTALLY_SOAK_RATE", 300);
    // Two megabytes an hour are a gigabyte in three weeks; what a short run shows is mostly noise.
    let bytes = 2e6 * (time.as_secs_f64() / 3_600.0).max(1.0);
    let sample = Duration::from_secs(60).min(time / 30);
    // The ledger's dictionaries are the largest: 14,000 entries each. A sixth of the names are cut to the same.
    run(Plan { time, calls_a_second, names: 25_000, sample, most: [bytes, 8.0, 4.0] }).await;
}

async fn run(plan: Plan) {
    let provider = provider().await;
    let collector = Counter::start().await;
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.db");
    let sidecar = Arc::new(Sidecar::start(&format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nmetrics: {{ birth_hold: 0s }}\n\
         upstream: {{ pool_idle_timeout: 1s }}\nledger: {{ path: \"{}\" }}\n\
         export: {{ calls: {{ path: /dev/null }}, otlp: {{ endpoint: \"http://{}\" }} }}\n",
        provider.address(),
        ledger.display(),
        collector.address
    )));
    let load = |kinds, every| {
        let pace = Pace { workers: WORKERS, kinds, every };
        Load::start(sidecar.proxy, provider.address(), pace)
    };
    let mut names = load(&[Kind::Hostile], Duration::ZERO);
    names.goes_on(plan.names).await;
    let named = names.stop().await;
    let mut mixed = load(&Kind::ALL, Duration::from_secs(1) * WORKERS / plan.calls_a_second);
    mixed.goes_on(500).await;
    let scraper = tokio::spawn(scrape(Arc::clone(&sidecar)));

    println!(" minutes     calls  calls/s  lost  resident KiB  descriptors  threads  ledger KiB  series");
    let started = Instant::now();
    let mut samples = Vec::<Sample>::new();
    while started.elapsed() < plan.time {
        let next = started + plan.sample * (samples.len() as u32 + 1);
        let mut resident = vec![sidecar.resident_bytes()];
        while Instant::now() < next {
            mixed.goes_on(0).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            resident.push(sidecar.resident_bytes());
        }
        let sample = Sample::take(&sidecar, &ledger, started, resident).await;
        let before = samples.last().map_or((0.0, 0.0), |before| (before.at, before.calls));
        let rate = if samples.is_empty() { f64::NAN } else { (sample.calls - before.1) / (sample.at - before.0) };
        println!(
            "{:>8.1}  {:>8}  {:>7.0}  {:>4}  {:>12.0}  {:>11}  {:>7}  {:>10}  {:>6}",
            sample.at / 60.0,
            sample.calls,
            rate,
            sample.lost,
            sample.resident_bytes / 1024.0,
            sample.descriptors,
            sample.threads,
            sample.ledger_bytes / 1024,
            sample.series
        );
        samples.push(sample);
    }
    scraper.abort();
    let calls = named + mixed.stop().await;

    let from = plan.time.as_secs_f64() * WARM;
    let measured: Vec<&Sample> = samples.iter().filter(|sample| sample.at >= from).collect();
    let span = measured[measured.len() - 1].at - measured[0].at;
    let what: [(&str, Reading); 3] = [
        ("resident bytes", |sample| sample.resident_bytes),
        ("descriptors", |sample| sample.descriptors),
        ("threads", |sample| sample.threads),
    ];
    let mut grown = Vec::new();
    for ((name, value), most) in what.into_iter().zip(plan.most) {
        let slope = slope(measured.iter().map(|sample| (sample.at, value(sample))));
        let growth = slope * span;
        println!(
            "{name}: {:+.1} an hour, {growth:+.1} over the {:.1} minutes measured, at most {most:+.1}",
            slope * 3_600.0,
            span / 60.0
        );
        if growth > most {
            grown.push(format!("{name} grew by {growth:.0}, which is more than {most:.0}"));
        }
    }
    // Nothing else has called: what was before the load is nothing.
    let at_rest = AtRest::before_all_calls();
    let rows = || Reader::open(&ledger).and_then(|reader| reader.extent()).map_or(0, |extent| extent.calls);
    at_rest.account(&sidecar, calls, &[("ledger", &rows), ("traces", &|| collector.spans())]).await;
    assert!(grown.is_empty(), "{}", grown.join("; "));
}

/// As Prometheus does, once a second in turn by text and by compressed OpenMetrics.
async fn scrape(sidecar: Arc<Sidecar>) {
    for number in 0_u32.. {
        let accept = if number.is_multiple_of(2) { "text/plain" } else { "application/openmetrics-text;version=1.0.0" };
        let request = Request::get("/metrics").header("accept", accept).header("accept-encoding", "gzip");
        let answer = client::send(sidecar.admin, request.body(Full::<Bytes>::default()).unwrap()).await;
        assert_eq!(answer.head.status, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Sample {
    async fn take(sidecar: &Sidecar, ledger: &Path, started: Instant, mut resident: Vec<u64>) -> Self {
        let middle = resident.len() / 2;
        let metrics = sidecar.metrics().await;
        let bytes = |path: PathBuf| std::fs::metadata(path).map_or(0, |about| about.len());
        Self {
            at: started.elapsed().as_secs_f64(),
            calls: metrics.sum("keytally_requests_total", &[]).unwrap_or(0.0),
            lost: metrics.sum("keytally_telemetry_dropped_total", &[]).unwrap_or(0.0),
            resident_bytes: *resident.select_nth_unstable(middle).1 as f64,
            descriptors: sidecar.descriptors() as f64,
            threads: metrics.sum("process_threads", &[]).unwrap_or(0.0),
            ledger_bytes: bytes(ledger.to_owned()) + bytes(ledger.with_extension("db-wal")),
            series: metrics.len(),
        }
    }
}

/// By least squares.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count() as f64;
    let (x, y) = points.clone().fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x / count, sum.1 + y / count));
    let (above, below) =
        points.fold((0.0, 0.0), |sum, (at, value)| (sum.0 + (at - x) * (value - y), sum.1 + (at - x) * (at - x)));
    above / below
}
