//! What a scrape costs when every table is full: `cargo bench --bench scrape`.

// A benchmark that cannot go on has nobody to tell but its reader.
#![allow(missing_docs)]

mod record;

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keytally::call::Outcome;
use keytally::export::metrics::{Metrics, MetricsConfig};

const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";

/// Metrics that have seen more keys and models than they have room for.
fn full() -> Metrics {
    let metrics = Metrics::new(MetricsConfig { birth_hold: Duration::ZERO, ..MetricsConfig::default() });
    for n in 0..100_000 {
        let mut call = record::call(n, SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000 + n));
        call.key_name = None;
        call.key = format!("openai:{:012x}", n % 1_000).parse().ok();
        call.model_label = format!("a-model-with-a-name-{}", n % 997).into();
        call.outcome = Outcome::ALL[n as usize % Outcome::ALL.len()];
        metrics.observe(&call, true);
    }
    metrics
}

fn scrape(criterion: &mut Criterion) {
    let metrics = full();
    let mut group = criterion.benchmark_group("scrape");
    for (name, accept) in [("text", None), ("OpenMetrics", Some(OPEN_METRICS))] {
        let (_, text) = metrics.encode(accept);
        let series = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && line[0] != b'#').count();
        println!("{name}: {series} lines, {} bytes", text.len());
        group.throughput(Throughput::Elements(series as u64));
        group.bench_function(name, |bencher| bencher.iter(|| black_box(metrics.encode(accept))));
    }
    group.finish();
}

criterion_group!(benches, scrape);
criterion_main!(benches);
