//! Bounded queues between the calls and the exporters that may be slow: what does not fit is counted, never waited for.
//!
//! A [`Queue`] never blocks and never grows past its capacity. Every item that enters is settled exactly once: exported,
//! or counted as dropped with a [`DropReason`]. [`Complaint`] keeps a broken sink from flooding the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::call::label_enum;

label_enum! {
    /// What is exported; the label values of `keytally_telemetry_dropped_total`.
    Signal { Traces = "traces", Metrics = "metrics", Logs = "logs", Ledger = "ledger" }
}

label_enum! {
    /// Why a span, line or row was lost; the label values of `keytally_telemetry_dropped_total`.
    DropReason {
        /// The exporter is slower than the calls.
        QueueFull = "queue_full",
        /// The sink refused it or could not be reached in time.
        ExportFailed = "export_failed",
        /// The process ended first.
        Shutdown = "shutdown",
    }
}

/// Where losses and queue lengths are counted.
pub trait Drops: Send + Sync {
    /// `count` items of `signal` are lost.
    fn dropped(&self, signal: Signal, reason: DropReason, count: u64);

    /// `length` items of `signal` wait or are being written.
    fn queue_length(&self, signal: Signal, length: usize);
}

/// Set in [`Shared::pending`] when nobody waits for the exporter any more: what was left has been counted.
const ABANDONED: usize = 1 << (usize::BITS - 1);

struct Shared {
    signal: Signal,
    drops: Arc<dyn Drops>,
    /// Items that entered and are not settled.
    pending: AtomicUsize,
}

impl Shared {
    /// Takes `count` items off the pending ones; false if they have been counted as left behind.
    fn settle(&self, count: usize) -> bool {
        let settled = self.pending.fetch_update(Ordering::AcqRel, Ordering::Acquire, |pending| {
            (pending & ABANDONED == 0).then(|| pending.saturating_sub(count))
        });
        self.drops.queue_length(self.signal, self.length());
        settled.is_ok()
    }

    fn length(&self) -> usize {
        self.pending.load(Ordering::Acquire) & !ABANDONED
    }
}

/// The way in. Shared by all calls.
pub(super) struct Queue<T> {
    sender: ArcSwapOption<mpsc::Sender<T>>,
    shared: Arc<Shared>,
}

/// The way out. Owned by one exporter.
pub(super) struct Intake<T> {
    pub receiver: mpsc::Receiver<T>,
    shared: Arc<Shared>,
}

/// A place in a queue; leaves the queue again when dropped unused.
pub(super) struct Place<'a, T> {
    permit: mpsc::OwnedPermit<T>,
    shared: &'a Shared,
}

/// A queue of at most `capacity` waiting items.
pub(super) fn queue<T>(signal: Signal, capacity: usize, drops: Arc<dyn Drops>) -> (Queue<T>, Intake<T>) {
    let (sender, receiver) = mpsc::channel(capacity);
    let shared = Arc::new(Shared { signal, drops, pending: AtomicUsize::new(0) });
    (Queue { sender: ArcSwapOption::from_pointee(sender), shared: shared.clone() }, Intake { receiver, shared })
}

// === impl Queue ===

impl<T> Queue<T> {
    /// A place for one item, or `None` after counting the loss.
    pub fn reserve(&self) -> Option<Place<'_, T>> {
        let lost = |reason| {
            self.shared.drops.dropped(self.shared.signal, reason, 1);
            None
        };
        let Some(sender) = self.sender.load_full() else { return lost(DropReason::Shutdown) };
        match mpsc::Sender::clone(&sender).try_reserve_owned() {
            Ok(permit) => Some(Place { permit, shared: &self.shared }),
            Err(TrySendError::Full(_)) => lost(DropReason::QueueFull),
            // The exporter's task died.
            Err(TrySendError::Closed(_)) => lost(DropReason::ExportFailed),
        }
    }

    /// Takes nothing more; the exporter sees the end once it has taken what waits.
    pub fn close(&self) {
        self.sender.store(None);
    }

    /// Stops waiting for the exporter: counts what it has not settled as lost to shutdown and returns how many.
    pub fn abandon(&self) -> usize {
        let left = self.shared.pending.swap(ABANDONED, Ordering::AcqRel) & !ABANDONED;
        if left > 0 {
            self.shared.drops.dropped(self.shared.signal, DropReason::Shutdown, left as u64);
        }
        self.shared.drops.queue_length(self.shared.signal, 0);
        left
    }
}

// === impl Place ===

impl<T> Place<'_, T> {
    /// Puts the item in.
    pub fn send(self, item: T) {
        let admitted = self.shared.pending.fetch_update(Ordering::AcqRel, Ordering::Acquire, |pending| {
            (pending & ABANDONED == 0).then_some(pending + 1)
        });
        if admitted.is_err() {
            return self.shared.drops.dropped(self.shared.signal, DropReason::Shutdown, 1);
        }
        self.permit.send(item);
        self.shared.drops.queue_length(self.shared.signal, self.shared.length());
    }
}

// === impl Intake ===

impl<T> Intake<T> {
    /// `count` items reached their sink.
    pub fn exported(&self, count: usize) {
        self.shared.settle(count);
    }

    /// `count` items did not.
    pub fn lost(&self, count: usize, reason: DropReason) {
        if self.shared.settle(count) {
            self.shared.drops.dropped(self.shared.signal, reason, count as u64);
        }
    }

    /// A sink that took a batch threw `count` of it away.
    pub fn rejected(&self, count: u64) {
        self.shared.drops.dropped(self.shared.signal, DropReason::ExportFailed, count);
    }
}

/// Tells of a broken sink once, then at most once a minute, and once when it works again.
pub(super) struct Complaint {
    what: &'static str,
    told: Option<Instant>,
    lost: u64,
}

impl Complaint {
    const INTERVAL: Duration = Duration::from_secs(60);

    pub fn new(what: &'static str) -> Self {
        Self { what, told: None, lost: 0 }
    }

    /// `count` items were lost because of `error`.
    pub fn failed(&mut self, count: u64, error: &dyn std::fmt::Display) {
        self.lost += count;
        if self.told.is_none_or(|told| told.elapsed() >= Self::INTERVAL) {
            self.told = Some(Instant::now());
            tracing::warn!(sink = self.what, lost = self.lost, %error, "export failed");
        }
    }

    /// It works.
    pub fn worked(&mut self) {
        if self.told.take().is_some() {
            tracing::info!(sink = self.what, lost = self.lost, "export works again");
            self.lost = 0;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;

    /// Keeps all counts.
    #[derive(Default)]
    pub struct Counted(Mutex<BTreeMap<(Signal, DropReason), u64>>);

    impl Counted {
        pub fn get(&self, signal: Signal, reason: DropReason) -> u64 {
            self.0.lock().unwrap().get(&(signal, reason)).copied().unwrap_or(0)
        }

        pub fn total(&self, signal: Signal) -> u64 {
            DropReason::ALL.iter().map(|reason| self.get(signal, *reason)).sum()
        }
    }

    impl Drops for Counted {
        fn dropped(&self, signal: Signal, reason: DropReason, count: u64) {
            *self.0.lock().unwrap().entry((signal, reason)).or_default() += count;
        }

        fn queue_length(&self, _: Signal, _: usize) {}
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let counted = Arc::new(Counted::default());
        let (queue, mut intake) = queue(Signal::Traces, 3, counted.clone());
        for n in 0..5 {
            if let Some(place) = queue.reserve() {
                place.send(n);
            }
        }
        assert_eq!(counted.get(Signal::Traces, DropReason::QueueFull), 2);
        assert_eq!(intake.receiver.try_recv(), Ok(0));
        intake.exported(1);
        intake.receiver.try_recv().unwrap();
        intake.lost(1, DropReason::ExportFailed);
        assert_eq!(counted.get(Signal::Traces, DropReason::ExportFailed), 1);
        queue.close();
        assert!(queue.reserve().is_none());
        assert_eq!(counted.get(Signal::Traces, DropReason::Shutdown), 1);
        assert_eq!(queue.abandon(), 1);
        assert_eq!(counted.get(Signal::Traces, DropReason::Shutdown), 2);
        intake.lost(1, DropReason::ExportFailed);
        assert_eq!(counted.total(Signal::Traces), 5, "what was left behind is not counted twice");
    }

    #[test]
    fn a_dead_exporter_is_an_export_failure() {
        let counted = Arc::new(Counted::default());
        let (queue, intake) = queue::<u8>(Signal::Logs, 3, counted.clone());
        drop(intake);
        assert!(queue.reserve().is_none());
        assert_eq!(counted.get(Signal::Logs, DropReason::ExportFailed), 1);
    }
}
