//! From call records to metrics, spans, the call log and live views.
//!
//! [`Exports::record`] is called once a call, on the task that served it: metrics are added in place; span, log line and
//! ledger row go over bounded queues to exporters of their own. It never waits; what does not fit is counted with its reason.

mod ledger;
pub mod live;
mod log;
pub mod metrics;
pub mod notices;
mod otlp;
mod queue;
mod settings;
mod trace_context;
mod traces;

#[cfg(test)]
pub(crate) mod tests;

pub use ledger::LedgerSettings;
pub use log::{FIELDS, LogTarget, to_json};
pub use queue::{DropReason, Drops, Signal};
pub use settings::{OtlpError, OtlpHeaders, OtlpProtocol, OtlpSettings, TraceSettings};
pub use trace_context::{Propagation, read as read_trace_context};
pub use traces::{ATTRIBUTES, Kind, Profile, SCOPE, STALLED_EVENT, Sampling, Semconv};

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::call::CallRecord;
use crate::ledger::LedgerError;
use ledger::Ledger;
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
    /// The ledger.
    pub ledger: Option<LedgerSettings>,
}

/// Why exporters cannot start.
#[derive(Debug, Error)]
pub enum ExportError {
    /// Traces.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// The ledger: another process writes the same file.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
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
    ledger: ArcSwapOption<Ledger>,
    drops: Arc<dyn Drops>,
    subscribers: ArcSwap<Vec<mpsc::Sender<Arc<CallRecord>>>>,
}

struct Traces {
    /// Which calls get a span; `None`: none does.
    sampling: ArcSwapOption<Sampling>,
    spans: Arc<ArcSwap<Spans>>,
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
        if self.traces.otlp.endpoint.is_some() {
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
    /// When an endpoint, header or certificate cannot be used, or another process writes the ledger. A collector that is
    /// down, or a file that cannot be written, is no error: both may come right later.
    pub fn start(settings: &ExportSettings, observe: Observe, drops: Arc<dyn Drops>) -> Result<Self, ExportError> {
        let traces = &settings.traces;
        let traces = if traces.otlp.endpoint.is_some() {
            let exporter = Exporter::new(traces)?;
            let (queue, intake) = queue(Signal::Traces, traces.max_queue.max(1), drops.clone());
            let (stop, stopped) = watch::channel(None);
            let spans = Arc::new(ArcSwap::from_pointee(traces.spans()));
            let batcher = Batcher {
                intake,
                exporter,
                spans: Arc::clone(&spans),
                max_batch: traces.max_batch.clamp(1, traces.max_queue.max(1)),
                delay: traces.delay,
                batch_timeout: traces.batch_timeout,
                stop: stopped,
            };
            let task = Mutex::new(Some(tokio::spawn(batcher.run())));
            Some(Traces { sampling: ArcSwapOption::new(traces.sampling()), spans, queue, stop, task })
        } else {
            None
        };
        let log = settings.log.clone().map(|target| Log::start(target, drops.clone()));
        let log = log.transpose().map_err(ExportError::Thread)?;
        let ledger = settings.ledger.clone().map(|ledger| Ledger::start(ledger, drops.clone())).transpose()?;
        let ledger = ArcSwapOption::from_pointee(ledger);
        Ok(Self { observe, traces, log, ledger, drops, subscribers: ArcSwap::default() })
    }

    /// Takes one finished call. Never waits.
    pub fn record(&self, record: Arc<CallRecord>) {
        let keeps = |traces: &&Traces| traces.sampling.load().as_ref().is_some_and(|sampling| sampling.keeps(&record));
        let traces = self.traces.as_ref().filter(keeps);
        let is_exported = traces.is_some_and(|traces| traces.queue.push(record.clone()));
        (self.observe)(&record, is_exported);
        if let Some(log) = &self.log {
            log.queue.push(record.clone());
        }
        if let Some(ledger) = &*self.ledger.load() {
            ledger.queue.push(record.clone());
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

    /// Goes on with another sampling, profile and form of spans; where they go stays. Calls that wait get the new form.
    pub fn change_traces(&self, settings: &TraceSettings) {
        if let Some(traces) = &self.traces {
            traces.sampling.store(settings.sampling());
            traces.spans.store(Arc::new(settings.spans()));
        }
    }

    /// Goes on with another ledger file or retention, begins one, or ends it. Rows taken so far go to the file that was set
    /// before. A ledger that is begun and that another process writes is tried again, as one that cannot be written.
    ///
    /// # Errors
    /// The thread of a ledger that is begun cannot be started; there is none then.
    pub fn change_ledger(&self, settings: Option<LedgerSettings>) -> Result<(), LedgerError> {
        match (self.ledger.load_full(), settings) {
            (Some(ledger), Some(settings)) => ledger.change(settings),
            (Some(ledger), None) => {
                self.ledger.store(None);
                ledger.queue.close();
            }
            (None, Some(settings)) => {
                self.ledger.store(Some(Arc::new(Ledger::begin(settings, self.drops.clone())?)));
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Why the last attempt to export spans failed; `None` when it went well, or there are none.
    pub fn traces_problem(&self) -> Option<String> {
        self.traces.as_ref().and_then(|traces| traces.queue.problem())
    }

    /// Why the last line of the call log could not be written; `None` when it was, or there is no log.
    pub fn log_problem(&self) -> Option<String> {
        self.log.as_ref().and_then(|log| log.queue.problem())
    }

    /// Where the ledger is, and why it cannot be written, as long as it cannot; `None` without a ledger.
    pub fn ledger_health(&self) -> Option<(PathBuf, Option<String>)> {
        self.ledger.load().as_ref().map(|ledger| ledger.health())
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
        let ledger = self.ledger.load_full();
        if let Some(ledger) = &ledger {
            ledger.queue.close();
        }
        if let Some(log) = &self.log {
            log.queue.close();
            let _ = tokio::time::timeout_at(until, log.finished()).await;
        }
        if let Some(ledger) = &ledger {
            let _ = tokio::time::timeout_at(until, ledger.finished()).await;
        }
        if let Some(mut task) = tasks
            && tokio::time::timeout_at(until + GRACE, &mut task).await.is_err()
        {
            task.abort();
        }
        self.subscribers.store(Arc::default());
        let left = self.traces.as_ref().map_or(0, |traces| traces.queue.abandon());
        let left = left + self.log.as_ref().map_or(0, |log| log.queue.abandon());
        left + ledger.map_or(0, |ledger| ledger.queue.abandon())
    }
}
