//! Calls that have ended and never become records.

use super::*;
use crate::meter::fixture;

fn rooms() -> Arc<Rooms> {
    let config = Config::default();
    let metrics = Metrics::new(metrics_config(&config));
    let drops = Arc::new(metrics.clone());
    let exports = Exports::start(&export_settings(&config), Box::new(|_, _| ()), drops).unwrap();
    Arc::new(Rooms {
        meter: Meter::new(meter_config(&config).unwrap()),
        metrics,
        live: Arc::new(Live::new(SystemTime::now())),
        notices: None,
        exports,
        settling: AtomicUsize::new(0),
        settled: Notify::new(),
    })
}

#[tokio::test]
async fn calls_that_shutdown_does_not_wait_for_are_counted_and_recorded_nowhere() {
    let rooms = rooms();
    let lost = |reason| rooms.metrics.dropped_so_far(Signal::Metrics, reason);
    let mut records = rooms.exports.subscribe(8);
    let settling = || Settling::new(Arc::clone(&rooms));
    settling().unwrap().settle(fixture::facts(), None);
    let (late, broken) = (settling().unwrap(), settling().unwrap());
    assert_eq!(rooms.give_up(), 2);
    late.settle(fixture::facts(), None);
    drop(broken);
    assert!(settling().is_none(), "too late");
    assert_eq!((lost(DropReason::Shutdown), lost(DropReason::Internal)), (3, 0));
    assert!(records.try_recv().is_ok() && records.try_recv().is_err(), "each call is recorded or counted");
}
