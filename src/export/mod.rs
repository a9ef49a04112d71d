//! From call records to metrics, spans, the call log and live views.
//!
//! [`Exports::record`] is called once a call, on the task that served it: metrics are added in place; span and log line go
//! over bounded queues to exporters of their own. It never waits; what does not fit is counted with its reason.

mod log;
pub mod metrics;
mod otlp;
mod queue;
mod settings;
mod trace_context;
mod traces;

#[cfg(test)]
mod tests;

pub use log::{FIELDS, LogTarget, to_json};
pub use queue::{DropReason, Drops, Signal};
pub use settings::{OtlpError, OtlpHeaders, OtlpProtocol, OtlpSettings, TraceSettings};
pub use trace_context::{Propagation, read as read_trace_context};
pub use traces::{ATTRIBUTES, Kind, Profile, SCOPE, STALLED_EVENT, Sampling, Semconv};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::call::CallRecord;
use log::Log;
use otlp::{Batcher, Exporter};
use queue::{Queue, queue};
use traces::Spans;

/// Live views at one time; further ones get a receiver that ends at once.
const MAX_SUBSCRIBERS: usize = 64;
/// What an exporter may need beyond the deadline to notice it.
const GRACE: Duration = Duration::from_millis(100);

/// What is exported, and where to. The default exports nothing but metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportSettings {
    /// The call log.
    pub log: Option<LogTarget>,
    /// OTLP traces.
    pub traces: TraceSettings,
}

/// Why exporters cannot start.
#[derive(Debug, Error)]
pub enum ExportError {
    /// Traces.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// The call log's thread.
    #[error("call log: cannot start its thread: {0}; raise the limit of threads of this process")]
    Thread(#[source] std::io::Error),
}

/// Adds a record to the metrics; the flag says that the call's span is exported, so that exemplars never lead nowhere.
pub type Observe = Box<dyn Fn(&CallRecord, bool) + Send + Sync>;

/// All exporters. Shared by all calls.
pub struct Exports {
    observe: Observe,
    traces: Option<Traces>,
    log: Option<Log>,
    subscribers: ArcSwap<Vec<mpsc::Sender<Arc<CallRecord>>>>,
}

struct Traces {
    sampling: Sampling,
    queue: Queue<Arc<CallRecord>>,
    stop: watch::Sender<Option<Instant>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl ExportSettings {
    /// Checks everything that can be checked without sending.
    ///
    /// # Errors
    /// As [`Exports::start`]. Needs a Tokio runtime.
    pub fn check(&self) -> Result<(), ExportError> {
        if self.traces.enabled() {
            Exporter::new(&self.traces)?;
        }
        Ok(())
    }
}

impl Exports {
    /// Starts what the settings ask for. Needs a Tokio runtime. Without an endpoint there is no queue and no task for
    /// traces, without a path none for the log.
    ///
    /// # Errors
    /// When an endpoint, header or certificate cannot be used. A collector that is down, or a log file that cannot be
    /// opened, is no error: both may come later.
    pub fn start(settings: &ExportSettings, observe: Observe, drops: Arc<dyn Drops>) -> Result<Self, ExportError> {
        let traces = &settings.traces;
        let traces = if traces.enabled() {
            let exporter = Exporter::new(traces)?;
            let (queue, intake) = queue(Signal::Traces, traces.max_queue.max(1), drops.clone());
            let (stop, stopped) = watch::channel(None);
            let batcher = Batcher {
                intake,
                exporter,
                spans: Spans::new(traces.profile, traces.semconv, traces.server_span),
                max_batch: traces.max_batch.clamp(1, traces.max_queue.max(1)),
                delay: traces.delay,
                batch_timeout: traces.batch_timeout,
                stop: stopped,
            };
            let task = Mutex::new(Some(tokio::spawn(batcher.run())));
            Some(Traces { sampling: traces.sampling.clone(), queue, stop, task })
        } else {
            None
        };
        let log = settings.log.clone().map(|target| Log::start(target, drops));
        let log = log.transpose().map_err(ExportError::Thread)?;
        Ok(Self { observe, traces, log, subscribers: ArcSwap::default() })
    }

    /// Takes one finished call. Never waits.
    pub fn record(&self, record: Arc<CallRecord>) {
        let span = self.traces.as_ref().filter(|traces| traces.sampling.keeps(&record));
        let span = span.and_then(|traces| traces.queue.reserve());
        (self.observe)(&record, span.is_some());
        if let Some(place) = span {
            place.send(record.clone());
        }
        if let Some(place) = self.log.as_ref().and_then(|log| log.queue.reserve()) {
            place.send(record.clone());
        }
        for subscriber in self.subscribers.load().iter() {
            let _ = subscriber.try_send(record.clone());
        }
    }

    /// Records as they come, for live views. At most `capacity` wait; a view that is slower misses some.
    pub fn subscribe(&self, capacity: usize) -> mpsc::Receiver<Arc<CallRecord>> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        self.subscribers.rcu(|known| {
            let mut open: Vec<_> = known.iter().filter(|sender| !sender.is_closed()).cloned().collect();
            if open.len() < MAX_SUBSCRIBERS {
                open.push(sender.clone());
            }
            open
        });
        receiver
    }

    /// Opens the call log's file anew before its next line (SIGHUP after a rotation).
    pub fn reopen(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// Shutdown: takes no more records, exports what waits, and returns after at most `deadline` (and a moment). What is
    /// left then is counted as lost to shutdown and returned.
    pub async fn flush(&self, deadline: Duration) -> usize {
        let until = Instant::now() + deadline;
        let mut tasks = None;
        if let Some(traces) = &self.traces {
            traces.stop.send_replace(Some(until));
            traces.queue.close();
            tasks = traces.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        if let Some(log) = &self.log {
            log.queue.close();
            let _ = tokio::time::timeout_at(until, log.finished()).await;
        }
        if let Some(mut task) = tasks
            && tokio::time::timeout_at(until + GRACE, &mut task).await.is_err()
        {
            task.abort();
        }
        self.subscribers.store(Arc::default());
        let left = self.traces.as_ref().map_or(0, |traces| traces.queue.abandon());
        left + self.log.as_ref().map_or(0, |log| log.queue.abandon())
    }
}
