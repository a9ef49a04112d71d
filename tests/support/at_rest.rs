//! What must hold of a sidecar after any fault: every call is counted once, every record has arrived or is counted as lost,
//! nothing is under way, memory and descriptors are back where they were.

use std::time::{Duration, Instant};

use super::{Sidecar, get};

/// Longest wait for things to settle.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many records of a signal have reached their sink so far.
pub type Arrived<'a> = (&'static str, &'a dyn Fn() -> u64);

/// A sidecar that does nothing at the moment.
pub struct AtRest {
    /// Memory.
    pub resident_bytes: u64,
    descriptors: usize,
    calls: f64,
}

impl AtRest {
    /// Waits until nothing is under way and the `calls` made so far are counted; to be called once what is loaded once has
    /// been loaded. The configuration must have `metrics.birth_hold: 0s`, and a short `upstream.pool_idle_timeout`.
    pub async fn of(sidecar: &Sidecar, calls: u64) -> Self {
        let calls = counted(sidecar, calls as f64).await;
        let mut descriptors = sidecar.descriptors();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = sidecar.descriptors();
            if now == descriptors {
                return Self { resident_bytes: sidecar.resident_bytes(), descriptors, calls };
            }
            descriptors = now;
        }
    }

    /// A sidecar that has had no call yet, for [`AtRest::account`].
    pub fn before_all_calls() -> Self {
        Self { resident_bytes: 0, descriptors: 0, calls: 0.0 }
    }

    /// Checks it after `calls` further calls, of which `arrived` tells what came out. `growth_bytes`: how much memory may
    /// stay with the process.
    pub async fn check(&self, sidecar: &Sidecar, calls: u64, arrived: &[Arrived<'_>], growth_bytes: u64) {
        self.account(sidecar, calls, arrived).await;
        for path in ["/livez", "/readyz"] {
            assert_eq!(get(sidecar.admin, path).await.head.status, 200, "{path}");
        }
        self.is_back(sidecar, growth_bytes).await;
    }

    /// Every call counts once, and what was to be told of it has arrived or counts as lost.
    pub async fn account(&self, sidecar: &Sidecar, calls: u64, arrived: &[Arrived<'_>]) {
        let all = self.calls + calls as f64;
        counted(sidecar, all).await;
        for (signal, arrived) in arrived {
            let mut seen = (0, 0.0);
            let complete = settle(async || {
                let lost = sidecar.metrics().await.sum("keytally_telemetry_dropped_total", &[("signal", signal)]);
                seen = (arrived(), lost.expect("a counter from the start"));
                assert!(seen.0 as f64 + seen.1 <= all, "{signal}: {seen:?} arrived and lost, of {all}");
                seen.0 as f64 + seen.1 == all
            });
            assert!(complete.await, "{signal}: {seen:?} arrived and lost, of {all}; log:\n{}", sidecar.log());
            println!("{calls} calls; {signal}: {} arrived, {} lost and counted", seen.0, seen.1);
        }
    }

    /// Memory and descriptors are back.
    pub async fn is_back(&self, sidecar: &Sidecar, growth_bytes: u64) {
        let (mut descriptors, mut resident) = (0, 0);
        let back = settle(async || {
            (descriptors, resident) = (sidecar.descriptors(), sidecar.resident_bytes());
            descriptors <= self.descriptors && resident <= self.resident_bytes + growth_bytes
        });
        let back = back.await;
        println!(
            "{} → {descriptors} descriptors, {} → {} KiB",
            self.descriptors,
            self.resident_bytes / 1024,
            resident / 1024
        );
        assert!(
            back,
            "{} descriptors and {} bytes have become {descriptors} and {resident}",
            self.descriptors, self.resident_bytes
        );
    }
}

/// Waits until no call and no connection is open, and as many calls as `made` are counted, and no more.
async fn counted(sidecar: &Sidecar, made: f64) -> f64 {
    let (mut calls, mut open) = (0.0, [None; 3]);
    let mut look = async || {
        let metrics = sidecar.metrics().await;
        calls = metrics.sum("keytally_requests_total", &[]).unwrap_or(0.0);
        open = [
            metrics.sum("keytally_requests_in_flight", &[]).or(Some(0.0)),
            metrics.sum("keytally_connections", &[("side", "client")]),
            metrics.sum("keytally_connections", &[("side", "upstream")]),
        ];
        calls >= made && open == [Some(0.0); 3]
    };
    // A record is made after its call has ended: one too many would come a moment later.
    let quiet = settle(&mut look).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let still = look().await;
    assert!(
        quiet && still && calls == made,
        "{calls} calls are counted of {made} made; calls, client and upstream connections open: {open:?}; log:\n{}",
        sidecar.log()
    );
    calls
}

async fn settle(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}
