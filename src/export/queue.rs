//! Bounded queues between the calls and the exporters that may be slow: what does not fit is counted, never waited for.
//!
//! A [`Queue`] never blocks and never grows past its capacity. Every item that enters is settled exactly once: exported,
//! or counted as dropped with a [`DropReason`]. An exporter says for how many items it is to be woken: waking a thread for
//! each call would cost as much as the rest of its metering. [`Intake::failed`] and [`Intake::worked`] tell how the sink
//! fares: to the log without flooding it, and to [`Queue::problem`].

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::call::label_enum;

label_enum! {
    /// What is exported; the label values of `keytally_telemetry_dropped_total`. What is lost to the metrics is lost to all.
    Signal { Traces = "traces", Metrics = "metrics", Logs = "logs", Ledger = "ledger" }
}

label_enum! {
    /// Why a span, line, row or call was lost; the label values of `keytally_telemetry_dropped_total`.
    DropReason {
        /// The exporter is slower than the calls.
        QueueFull = "queue_full",
        /// The sink refused it or could not be reached in time.
        ExportFailed = "export_failed",
        /// The process ended first.
        Shutdown = "shutdown",
        /// A fault of keytally's own, which the log tells of.
        Internal = "internal",
    }
}

/// Where losses and queue lengths are counted.
pub trait Drops: Send + Sync {
    /// `count` items of `signal` are lost.
    fn dropped(&self, signal: Signal, reason: DropReason, count: u64);

    /// `length` items of `signal` wait or are being written.
    fn queue_length(&self, signal: Signal, length: usize);
}

/// What queue and exporter share.
struct Shared<T> {
    signal: Signal,
    drops: Arc<dyn Drops>,
    capacity: usize,
    state: Mutex<State<T>>,
    enough: Notify,
}

struct State<T> {
    waiting: VecDeque<T>,
    /// Items that the exporter has taken and not settled.
    taken: usize,
    /// How many waiting items the exporter is to be woken for.
    wanted: usize,
    /// Nothing is taken any more.
    closed: bool,
    /// The exporter is gone.
    dead: bool,
    /// Nobody waits for the exporter any more: what was left has been counted.
    abandoned: bool,
    /// Why the last attempt to export failed; `None` when it went well, and before the first.
    problem: Option<String>,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dropped(&self, reason: DropReason, count: usize) {
        self.drops.dropped(self.signal, reason, count as u64);
    }

    fn tell_length(&self, length: usize) {
        self.drops.queue_length(self.signal, length);
    }

    fn close(&self) {
        self.state().closed = true;
        self.enough.notify_one();
    }

    /// Takes `count` items off the taken ones; false if they have been counted as left behind.
    fn settle(&self, count: usize) -> bool {
        let mut state = self.state();
        state.taken = state.taken.saturating_sub(count);
        let (length, settled) = (state.length(), !state.abandoned);
        drop(state);
        self.tell_length(length);
        settled
    }
}

impl<T> State<T> {
    /// Items that entered and are not settled.
    fn length(&self) -> usize {
        if self.abandoned { 0 } else { self.waiting.len() + self.taken }
    }
}

/// The way in. Shared by all calls.
pub(super) struct Queue<T>(Arc<Shared<T>>);

/// The way out. Owned by one exporter.
pub(super) struct Intake<T> {
    shared: Arc<Shared<T>>,
    complaint: Complaint,
    /// The last attempt failed.
    failing: bool,
}

/// Longest text of a problem, characters: some sinks answer with whole pages.
const MAX_PROBLEM_CHARS: usize = 300;

/// A queue of at most `capacity` waiting items.
pub(super) fn queue<T>(signal: Signal, capacity: usize, drops: Arc<dyn Drops>) -> (Queue<T>, Intake<T>) {
    let waiting = VecDeque::new();
    let state = State { waiting, taken: 0, wanted: 1, closed: false, dead: false, abandoned: false, problem: None };
    let shared = Arc::new(Shared { signal, drops, capacity, state: Mutex::new(state), enough: Notify::new() });
    let complaint = Complaint { told: None, lost: 0 };
    (Queue(Arc::clone(&shared)), Intake { shared, complaint, failing: false })
}

// === impl Queue ===

impl<T> Queue<T> {
    /// Puts an item in; false after counting the loss.
    pub fn push(&self, item: T) -> bool {
        let mut state = self.0.state();
        let lost = match () {
            () if state.closed => Some(DropReason::Shutdown),
            () if state.dead => Some(DropReason::ExportFailed),
            () if state.waiting.len() >= self.0.capacity => Some(DropReason::QueueFull),
            () => None,
        };
        if let Some(reason) = lost {
            drop(state);
            self.0.dropped(reason, 1);
            return false;
        }
        state.waiting.push_back(item);
        let (wake, length) = (state.waiting.len() == state.wanted, state.length());
        drop(state);
        if wake {
            self.0.enough.notify_one();
        }
        self.0.tell_length(length);
        true
    }

    /// Takes nothing more; the exporter sees the end once it has taken what waits.
    pub fn close(&self) {
        self.0.close();
    }

    /// Stops waiting for the exporter: counts what it has not settled as lost to shutdown and returns how many.
    pub fn abandon(&self) -> usize {
        let mut state = self.0.state();
        let left = state.length();
        (state.closed, state.abandoned) = (true, true);
        drop(state);
        if left > 0 {
            self.0.dropped(DropReason::Shutdown, left);
        }
        self.0.tell_length(0);
        left
    }

    /// Why the last attempt to export failed, or that there will be no more; `None` when it went well.
    pub fn problem(&self) -> Option<String> {
        let state = self.0.state();
        if state.dead && !state.closed {
            return Some("it broke down and exports nothing until a restart; see the log".to_owned());
        }
        state.problem.clone()
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

// === impl Intake ===

impl<T> Intake<T> {
    /// Waits until `wanted` items wait, or the queue is closed, and moves at most `most` of them to `items`. Returns how
    /// many; 0 is the end. Dropping the future loses nothing.
    pub async fn take(&mut self, items: &mut Vec<T>, most: usize, wanted: usize) -> usize {
        let wanted = wanted.clamp(1, self.shared.capacity.max(1));
        loop {
            let enough = {
                let mut state = self.shared.state();
                state.wanted = wanted;
                state.closed || state.waiting.len() >= wanted
            };
            if enough {
                return self.take_waiting(items, most);
            }
            self.shared.enough.notified().await;
        }
    }

    /// Moves at most `most` of the items that wait by now.
    pub fn take_waiting(&mut self, items: &mut Vec<T>, most: usize) -> usize {
        let mut state = self.shared.state();
        let count = state.waiting.len().min(most);
        items.extend(state.waiting.drain(..count));
        state.taken += count;
        count
    }

    /// `count` items reached their sink.
    pub fn exported(&self, count: usize) {
        self.shared.settle(count);
    }

    /// `count` items did not.
    pub fn lost(&self, count: usize, reason: DropReason) {
        if self.shared.settle(count) {
            self.shared.dropped(reason, count);
        }
    }

    /// A sink that took a batch threw `count` of it away.
    pub fn rejected(&self, count: usize) {
        self.shared.dropped(DropReason::ExportFailed, count);
    }

    /// An attempt to export failed because of `error`, and cost `count` items.
    pub fn failed(&mut self, count: usize, error: &dyn Display) {
        self.failing = true;
        self.shared.state().problem = Some(error.to_string().chars().take(MAX_PROBLEM_CHARS).collect());
        self.complaint.failed(self.shared.signal, count as u64, error);
    }

    /// An attempt to export went well.
    pub fn worked(&mut self) {
        // Mostly there is nothing to take back, and no lock is taken for it.
        if std::mem::take(&mut self.failing) {
            self.shared.state().problem = None;
            self.complaint.worked(self.shared.signal);
        }
    }
}

impl<T> Drop for Intake<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.dead = true;
        // They stay unsettled: lost to whatever ended the exporter.
        state.taken += state.waiting.len();
        state.waiting = VecDeque::new();
    }
}

/// Tells of a broken sink once, then at most once a minute, and once when it works again.
struct Complaint {
    told: Option<Instant>,
    lost: u64,
}

impl Complaint {
    const INTERVAL: Duration = Duration::from_secs(60);

    fn failed(&mut self, signal: Signal, count: u64, error: &dyn Display) {
        self.lost += count;
        if self.told.is_none_or(|told| told.elapsed() >= Self::INTERVAL) {
            self.told = Some(Instant::now());
            tracing::warn!(sink = sink(signal), lost = self.lost, %error, "export failed");
        }
    }

    fn worked(&mut self, signal: Signal) {
        if self.told.take().is_some() {
            tracing::info!(sink = sink(signal), lost = self.lost, "export works again");
            self.lost = 0;
        }
    }
}

/// As the log names it.
fn sink(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "otlp traces",
        Signal::Logs => "call log",
        Signal::Metrics | Signal::Ledger => signal.as_str(),
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
            queue.push(n);
        }
        assert_eq!(counted.get(Signal::Traces, DropReason::QueueFull), 2);
        let mut items = Vec::new();
        assert_eq!(intake.take_waiting(&mut items, 1), 1);
        intake.exported(1);
        assert_eq!(intake.take_waiting(&mut items, 1), 1);
        assert_eq!(items, [0, 1]);
        intake.lost(1, DropReason::ExportFailed);
        assert_eq!(counted.get(Signal::Traces, DropReason::ExportFailed), 1);
        queue.close();
        assert!(!queue.push(5));
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
        assert!(!queue.push(0));
        assert_eq!(counted.get(Signal::Logs, DropReason::ExportFailed), 1);
        assert!(queue.problem().is_some_and(|problem| problem.contains("broke down")));
    }

    #[tokio::test]
    async fn an_exporter_is_woken_for_as_many_as_it_wants() {
        let (queue, mut intake) = queue(Signal::Ledger, 8, Arc::new(Counted::default()));
        let mut items = Vec::new();
        queue.push(0);
        assert_eq!(intake.take(&mut items, 8, 1).await, 1);
        for n in 1..3 {
            queue.push(n);
        }
        let early = tokio::time::timeout(Duration::from_millis(50), intake.take(&mut items, 8, 3)).await;
        assert!(early.is_err(), "two of three wait");
        let (taken, ()) = tokio::join!(intake.take(&mut items, 8, 3), async {
            tokio::task::yield_now().await;
            queue.push(3);
        });
        assert_eq!((taken, &items[..]), (3, &[0, 1, 2, 3][..]));
        queue.push(4);
        drop(queue);
        assert_eq!(intake.take(&mut items, 8, 3).await, 1, "what waits is taken at the end");
        assert_eq!(intake.take(&mut items, 8, 3).await, 0);
    }
}
