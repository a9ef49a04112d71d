//! The exporter of the ledger: takes records off a bounded queue and writes them to the file in batches.
//!
//! A thread of its own writes. A row waits at most [`INTERVAL`] for its commit, so that a kill loses no more than that. When
//! the file cannot be written, rows wait as far as the queue has room, and at most [`PATIENCE`]; after that they are counted
//! as lost until writing works again, which is tried again and again without a restart. Calls never wait for any of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::queue::{DropReason, Drops, Intake, Queue, Signal, queue};
use crate::call::CallRecord;
use crate::ledger::{LedgerError, Retention, Store};

/// Rows that wait for the disk: seconds of heavy traffic, and at 2 KiB a record at most 8 MiB.
const CAPACITY: usize = 4_096;
/// Rows of one commit.
const MOST_ROWS: usize = 1_024;
/// Longest wait of a row for its commit: with the time that a commit takes, less than 250 ms.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long rows wait for a file that cannot be written before they are given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between attempts: doubled from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How often old rows are looked for, and whether the file is still the one that its name stands for.
const UPKEEP: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1));

/// Where the ledger is, and what it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerSettings {
    /// The file.
    pub path: PathBuf,
    /// What is kept.
    pub retention: Retention,
}

/// The ledger's handle: rows go in, a thread writes them.
pub(super) struct Ledger {
    pub queue: Queue<Arc<CallRecord>>,
    settings: watch::Sender<LedgerSettings>,
    done: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Ledger {
    /// Opens the file and starts the thread. Of what may be wrong with the file only another writer is an error: everything
    /// else may come right later, and is told and tried again.
    pub fn start(settings: LedgerSettings, drops: Arc<dyn Drops>) -> Result<Self, LedgerError> {
        match Store::open(&settings.path) {
            Err(error @ LedgerError::InUse { .. }) => Err(error),
            opened => Self::write_to(opened, settings, drops),
        }
    }

    /// As [`Ledger::start`] in a process that has calls: another writer, which may be the thread of a ledger that was ended
    /// just now, is waited for as well.
    pub fn begin(settings: LedgerSettings, drops: Arc<dyn Drops>) -> Result<Self, LedgerError> {
        Self::write_to(Store::open(&settings.path), settings, drops)
    }

    fn write_to(
        opened: Result<Store, LedgerError>,
        settings: LedgerSettings,
        drops: Arc<dyn Drops>,
    ) -> Result<Self, LedgerError> {
        let (store, failed) = match opened {
            Ok(store) => (Some(store), None),
            Err(error) => (None, Some(error)),
        };
        let path = settings.path.clone();
        let (queue, intake) = queue(Signal::Ledger, CAPACITY, drops);
        let (settings, changes) = watch::channel(settings);
        let mut writer = Writer {
            intake,
            settings: changes,
            store,
            batch: Vec::with_capacity(MOST_ROWS),
            oldest: None,
            again: false,
            failing: None,
            next_look: Instant::now(),
            next_tidy: Instant::now(),
        };
        if let Some(error) = failed {
            writer.failed(&error);
        }
        let (finished, done) = oneshot::channel();
        // Only its clock is used: the file is written without any runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let thread = runtime.and_then(|runtime| {
            std::thread::Builder::new().name("ledger".to_owned()).spawn(move || {
                runtime.block_on(writer.run());
                let _ = finished.send(());
            })
        });
        thread.map_err(|source| LedgerError::Io { path, source })?;
        Ok(Self { queue, settings, done: Mutex::new(Some(done)) })
    }

    /// Goes on with other settings; rows taken so far go to the file that was set before.
    pub fn change(&self, settings: LedgerSettings) {
        self.settings.send_if_modified(|current| {
            let differs = *current != settings;
            *current = settings;
            differs
        });
    }

    /// Where rows go, and why they cannot be written, as long as they cannot.
    pub fn health(&self) -> (PathBuf, Option<String>) {
        (self.settings.borrow().path.clone(), self.queue.problem())
    }

    /// Ends when the thread has written everything that waited; to be called once, after the queue was closed.
    pub async fn finished(&self) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(done) = done {
            let _ = done.await;
        }
    }
}

/// Attempts to write that fail.
struct Failing {
    since: Instant,
    pause: Duration,
    next_try: Instant,
}

struct Writer {
    intake: Intake<Arc<CallRecord>>,
    settings: watch::Receiver<LedgerSettings>,
    store: Option<Store>,
    batch: Vec<Arc<CallRecord>>,
    /// When the oldest row of the batch came.
    oldest: Option<Instant>,
    /// An attempt to write the batch failed.
    again: bool,
    failing: Option<Failing>,
    next_look: Instant,
    next_tidy: Instant,
}

impl Writer {
    async fn run(mut self) {
        loop {
            let room = MOST_ROWS - self.batch.len();
            let (had, wake) = (self.batch.len(), self.wake());
            // The first row starts the clock of its commit; those after it wait in the queue.
            let wanted = if had == 0 { 1 } else { room };
            tokio::select! {
                biased;
                count = self.intake.take(&mut self.batch, room, wanted), if room > 0 => {
                    if count == 0 {
                        return self.end();
                    }
                    if had == 0 {
                        self.oldest = Some(Instant::now());
                    }
                }
                changed = self.settings.changed() => {
                    if changed.is_err() {
                        // Nobody holds the handle any more: the queue is closed, and ends by itself.
                        self.drain().await;
                        return self.end();
                    }
                    self.take_settings();
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            self.work(Instant::now());
        }
    }

    /// When something is to be done even if no row comes.
    fn wake(&self) -> Instant {
        let commit = match (&self.failing, self.oldest) {
            (Some(failing), _) => failing.next_try,
            (None, Some(oldest)) => oldest + INTERVAL,
            (None, None) => self.next_look,
        };
        commit.min(if self.failing.is_none() { self.next_look } else { commit })
    }

    fn work(&mut self, now: Instant) {
        let due = match &self.failing {
            Some(failing) => now >= failing.next_try,
            None => self.oldest.is_some_and(|oldest| now >= oldest + INTERVAL) || self.batch.len() >= MOST_ROWS,
        };
        if due {
            let room = MOST_ROWS - self.batch.len();
            self.intake.take_waiting(&mut self.batch, room);
            self.write();
        }
        if self.failing.is_none() && now >= self.next_look {
            self.next_look = now + UPKEEP.1;
            if self.store.as_ref().is_some_and(Store::is_replaced) {
                tracing::warn!(path = %self.settings.borrow().path.display(), "the ledger was moved or removed; a new one is begun");
                self.store = None;
            }
            self.tidy(now);
        }
    }

    /// Opens the file if it is not open, and writes the batch.
    fn write(&mut self) {
        let settings = self.settings.borrow().clone();
        let store = match self.store.take() {
            Some(store) => Ok(store),
            None => Store::open(&settings.path),
        };
        let written = store.and_then(|mut store| {
            if !self.batch.is_empty() {
                let rows = self.batch.iter().map(|record| &**record);
                if let Err(error) = store.write(rows, self.again) {
                    self.again = true;
                    return Err(error);
                }
            }
            Ok(store)
        });
        match written {
            Ok(store) => {
                self.store = Some(store);
                self.intake.exported(self.batch.len());
                self.clear();
                self.failing = None;
                self.intake.worked();
            }
            Err(error) => self.failed(&error),
        }
    }

    /// The batch waits, or is given up.
    fn failed(&mut self, error: &LedgerError) {
        let now = Instant::now();
        let failing = self.failing.get_or_insert(Failing { since: now, pause: RETRY.0, next_try: now });
        failing.next_try = now + failing.pause;
        failing.pause = (failing.pause * 2).min(RETRY.1);
        let lost = if error.needs_action() || now - failing.since >= PATIENCE { self.batch.len() } else { 0 };
        if lost > 0 {
            self.intake.lost(lost, DropReason::ExportFailed);
            self.clear();
        }
        self.intake.failed(lost, error);
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.oldest = None;
        self.again = false;
    }

    fn take_settings(&mut self) {
        let path = self.settings.borrow_and_update().path.clone();
        self.next_tidy = Instant::now();
        if self.store.as_ref().is_none_or(|store| store.path() == path) {
            return;
        }
        // What has been taken belongs to the old file; if that cannot be written, it goes to the new one.
        if let Some(mut store) = self.store.take()
            && store.write(self.batch.iter().map(|record| &**record), self.again).is_ok()
        {
            self.intake.exported(self.batch.len());
            self.clear();
        }
        self.again = false;
        self.write();
    }

    fn tidy(&mut self, now: Instant) {
        let Some(store) = self.store.as_mut().filter(|_| now >= self.next_tidy) else { return };
        let keep = self.settings.borrow().retention;
        match store.tidy(&keep, SystemTime::now()) {
            Ok(true) => self.next_look = now,
            Ok(false) => self.next_tidy = now + UPKEEP.0,
            Err(error) => {
                self.store = None;
                self.failed(&error);
            }
        }
    }

    /// Takes what waits in the queue of a handle that is gone.
    async fn drain(&mut self) {
        loop {
            let room = MOST_ROWS - self.batch.len();
            if room == 0 {
                self.write();
                if !self.batch.is_empty() {
                    return;
                }
            } else if self.intake.take(&mut self.batch, room, 1).await == 0 {
                return;
            }
        }
    }

    /// The queue is closed and empty.
    fn end(&mut self) {
        if !self.batch.is_empty() {
            self.write();
        }
        let left = self.batch.len();
        if left > 0 {
            self.intake.lost(left, DropReason::Shutdown);
        }
    }
}
