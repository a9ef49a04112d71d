//! The wall clock jumps by an hour and by a day, forwards and backwards, while calls go on.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::SystemTime;

use keytally::ledger::{Query, Reader};

use super::*;
use crate::support::at_rest::AtRest;
use crate::support::clock::Clock;
use crate::support::get;
use crate::support::load::provider;

const STEPS: [&str; 7] = ["+1h", "+0s", "+1d", "+0s", "-1h", "-1d", "+0s"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_jumps_by_an_hour_and_by_a_day() {
    let Some(clock) = Clock::new() else { return };
    let provider = provider().await;
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.db");
    let config = config(provider.address(), &format!("ledger: {{ path: \"{}\" }}", ledger.display()));
    let sidecar = Sidecar::start_with(&config, |command| clock.rule(command));
    let warmed = warm(&sidecar, provider.address()).await;
    let before = AtRest::of(&sidecar, warmed).await;
    let mut load = Load::start(sidecar.proxy, provider.address(), BUSY);
    for step in STEPS {
        load.goes_on(20).await;
        clock.set(step);
        load.goes_on(60).await;
        let metrics = sidecar.metrics().await;
        for (name, labels, value) in metrics.iter() {
            assert!(value.is_finite() && value >= 0.0, "{step}: {name}{labels:?} is {value}");
        }
        for path in ["/status", "/status/live"] {
            assert!(get(sidecar.admin, path).await.json().is_object(), "{step}: {path}");
        }
    }
    // Back at the true time, gauges of times tell it again.
    load.goes_on(50).await;
    let made = load.stop().await;
    let rows = || Reader::open(&ledger).and_then(|reader| reader.extent()).map_or(0, |extent| extent.calls);
    before.check(&sidecar, made, &[("ledger", &rows), ("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let metrics = sidecar.metrics().await;
    for name in ["keytally_key_last_used_timestamp_seconds", "keytally_key_last_success_timestamp_seconds"] {
        for (labels, value) in metrics.all(name) {
            assert!((value - now).abs() < 120.0, "{name}{labels:?} is {} s off", value - now);
        }
    }

    let mut ids = BTreeSet::new();
    for record in sidecar.records() {
        for (name, value) in record.as_object().unwrap() {
            if name.ends_with("_seconds") {
                let seconds = value.as_f64().unwrap();
                assert!((0.0..60.0).contains(&seconds), "{name} is {seconds}: {record}");
            }
        }
        let time: jiff::Timestamp = record["time"].as_str().unwrap().parse().expect("RFC 3339");
        assert!((time.as_second() as f64 - now).abs() < 86_400.0 + 600.0, "{record}");
        assert!(ids.insert(record["call_id"].as_str().unwrap().to_owned()), "an id comes twice: {record}");
    }
    assert_eq!(ids.len() as u64, warmed + made);
    // The ledger has them in the order of the clock, whatever it said.
    let (mut count, mut last) = (0, None);
    let take = |call: keytally::call::CallRecord| {
        assert!(last.is_none_or(|last| call.time <= last), "calls are not in order");
        assert!(call.timing.total < Duration::from_secs(60), "{:?}", call.timing);
        (count, last) = (count + 1, Some(call.time));
        ControlFlow::Continue(())
    };
    Reader::open(&ledger).unwrap().calls(&Query::default(), take).unwrap();
    assert_eq!(count, warmed + made);
}
