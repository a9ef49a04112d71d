//! A million calls in a ledger: how long the usual questions take, and how much a call takes on disk.
//!
//! `cargo bench --bench ledger` fills a file in a temporary directory (calls of 40 days by 40 keys on 12 models at 4
//! providers, one in 50 failed) and prints the best and the worst time of five, and the processor's time of the best, which
//! other work on the machine stretches less. `docs/ledger.md` states the numbers.

mod record;

use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime};

use keytally::call::{CallRecord, Money, Outcome};
use keytally::ledger::{Dimension, Query, Reader, Store};

const CALLS: u64 = 1_000_000;
const DAYS: u64 = 40;
const BATCH: u64 = 500;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("ledger.db");
    let now = SystemTime::now();
    let begin = now - Duration::from_secs(DAYS * 86_400);
    let started = Instant::now();
    let mut store = Store::open(&path).expect("a new ledger");
    let mut id = String::new();
    for batch in 0..CALLS / BATCH {
        let calls: Vec<_> = (batch * BATCH..(batch + 1) * BATCH)
            .map(|n| record::call(n, begin + Duration::from_millis(n * DAYS * 86_400_000 / CALLS)))
            .collect();
        if batch == CALLS / BATCH / 2 {
            id = calls[0].call_id.to_string();
        }
        store.write(&calls, false).expect("written");
    }
    let rate = CALLS as f64 / started.elapsed().as_secs_f64();
    println!("write, {BATCH} rows a commit          {rate:>8.0} rows/s");
    drop(store);
    let bytes = std::fs::metadata(&path).expect("the file").len();
    println!("bytes a row, indexes included    {:>8.0}", bytes as f64 / CALLS as f64);

    let since = |days: u64| Query { since: Some(now - Duration::from_secs(days * 86_400)), ..Query::default() };
    let totals = |query: &Query, by: &[Dimension]| {
        Reader::open(&path).expect("the ledger").totals(query, by).expect("totals").len()
    };
    measure("usage --since 30d --by key", || totals(&since(30), &[Dimension::Key]));
    measure("usage --by key (all)", || totals(&Query::default(), &[Dimension::Key]));
    measure("usage --since 24h --by key", || totals(&since(1), &[Dimension::Key]));
    measure("usage --since 30d --by day,model", || totals(&since(30), &[Dimension::Day, Dimension::Model]));
    let failures = Query { outcomes: vec![Outcome::AuthInvalid], ..since(30) };
    measure("usage --since 30d --outcome auth_invalid", || totals(&failures, &[Dimension::Key]));
    let list = |query: &Query| {
        let mut left = 20;
        let reader = Reader::open(&path).expect("the ledger");
        let enough = |_: CallRecord| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        reader.calls(query, enough).expect("calls");
        20 - left
    };
    measure("log", || list(&Query::default()));
    let never = Query { costlier_than: Money::parse("1000"), ..Query::default() };
    measure("log --costlier-than 1000 (none is)", || list(&never));
    let find = |id: &str| Reader::open(&path).expect("the ledger").find(id, 10).expect("calls").len();
    measure("log CALL-ID", || find(&id));
    measure("log PROVIDER-REQUEST-ID (none is)", || find("req_none"));
}

fn measure(what: &str, run: impl Fn() -> usize) {
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            let (started, processor) = (Instant::now(), processor_time());
            let found = run();
            (started.elapsed(), processor_time() - processor, found)
        })
        .collect();
    times.sort();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let (best, worst) = (times[0], times[4]);
    let [best_millis, worst_millis, processor] = [best.0, worst.0, best.1].map(millis);
    println!(
        "{what:<42} {best_millis:>7.1} to {worst_millis:>7.1} ms, processor {processor:>7.1} ms, {} found",
        best.2
    );
}

/// What this thread has had of a processor; 0 where the system does not tell.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}
