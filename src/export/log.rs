//! The call log: one JSON line a call, to a file or to standard output. `docs/call-record.md` lists the fields.
//!
//! A thread of its own writes, one `write` a line. A file that is renamed, removed or replaced is opened anew; a write
//! error costs the line (counted), and the next line tries again, at most once a second. A reader of standard output that
//! goes away ends the log, not the process.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::queue::{DropReason, Drops, Intake, Queue, Signal, queue};
use crate::call::{CallRecord, Money, Usage};

/// Lines that wait for the disk: seconds of heavy traffic, and at 2 KiB a record at most 8 MiB.
const CAPACITY: usize = 4_096;
/// Of a new file: its group may read it, as what collects logs has to. One that is there keeps what it has.
const MODE: u32 = 0o640;
/// Lines that are taken at a time.
const LINES: usize = 64;
/// How often a file's name is looked up again, and how often a broken one is tried.
const INTERVAL: Duration = Duration::from_secs(1);

/// Every field of a line, in order. Fields inside `usage` are listed as `usage.<name>`.
pub const FIELDS: &[&str] = &[
    "time",
    "call_id",
    "trace_id",
    "span_id",
    "parent_span_id",
    "way",
    "provider",
    "operation",
    "protocol",
    "request_model",
    "response_model",
    "priced_model",
    "key",
    "key_name",
    "team",
    "env",
    "client",
    "labels",
    "status",
    "outcome",
    "fault",
    "retryable",
    "error_type",
    "error_code",
    "provider_request_id",
    "stream",
    "end",
    "usage",
    "usage.input_tokens",
    "usage.output_tokens",
    "usage.cache_read_tokens",
    "usage.cache_write_tokens",
    "usage.cache_write_1h_tokens",
    "usage.reasoning_tokens",
    "usage.input_audio_tokens",
    "usage.cache_audio_read_tokens",
    "usage.output_audio_tokens",
    "usage.input_image_tokens",
    "usage.output_image_tokens",
    "usage.tool_input_tokens",
    "usage.web_searches",
    "usage.file_searches",
    "usage.search_units",
    "usage.images",
    "usage.input_audio_millis",
    "usage.input_characters",
    "usage.pages",
    "usage_source",
    "cost_usd",
    "unpriced_reason",
    "unpriced_tokens",
    "service_tier",
    "duration_seconds",
    "time_to_first_token_seconds",
    "upstream_connect_seconds",
    "overhead_seconds",
    "request_bytes",
    "response_bytes",
    "retry_count",
    "findings",
];

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    Path(PathBuf),
}

/// `-` is standard output.
impl From<&Path> for LogTarget {
    fn from(path: &Path) -> Self {
        if path == Path::new("-") { LogTarget::Stdout } else { LogTarget::Path(path.to_owned()) }
    }
}

/// The call as the log writes it: only what applies, in the order of [`FIELDS`].
pub fn to_json(record: &CallRecord) -> Value {
    let mut line = Line(Map::with_capacity(40));
    line.put("time", time(record.time));
    line.put("call_id", record.call_id.to_string());
    line.some("trace_id", (record.trace.trace_id != 0).then(|| format!("{:032x}", record.trace.trace_id)));
    line.some("span_id", (record.trace.span_id != 0).then(|| format!("{:016x}", record.trace.span_id)));
    line.some("parent_span_id", record.trace.parent_span_id.map(|id| format!("{id:016x}")));
    line.put("way", record.way.as_str());
    line.put("provider", &*record.provider);
    line.put("operation", record.operation.as_str());
    line.put("protocol", record.protocol.as_str());
    line.some("request_model", record.request_model.as_deref());
    line.some("response_model", record.response_model.as_deref());
    line.some("priced_model", record.priced_model.as_deref());
    line.some("key", record.key.as_ref().map(|key| key.as_str()));
    line.some("key_name", record.key_name.as_deref());
    line.some("team", record.team.as_deref());
    line.some("env", record.env.as_deref());
    line.some("client", record.client.as_deref());
    if !record.labels.is_empty() {
        let labels = record.labels.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        line.put("labels", labels.collect::<Map<_, _>>());
    }
    line.some("status", record.status);
    line.put("outcome", record.outcome.as_str());
    line.put("fault", record.fault.as_str());
    line.put("retryable", record.retryable);
    line.some("error_type", record.error_type.as_deref());
    line.some("error_code", record.error_code.as_deref());
    line.some("provider_request_id", record.provider_request_id.as_deref());
    line.put("stream", record.stream);
    line.put("end", record.end.as_str());
    if !record.usage.is_empty() {
        line.put("usage", usage(&record.usage));
    }
    line.put("usage_source", record.usage_source.as_str());
    match record.cost {
        Some(cost) => line.put("cost_usd", Money::to_string(&cost)),
        None => line.some("unpriced_reason", record.unpriced_reason.map(|reason| reason.as_str())),
    }
    line.some("unpriced_tokens", (record.unpriced_tokens > 0).then_some(record.unpriced_tokens));
    line.some("service_tier", record.service_tier.as_deref());
    line.put("duration_seconds", seconds(record.timing.total));
    line.some("time_to_first_token_seconds", record.timing.first_output.filter(|_| record.stream).map(seconds));
    line.some("upstream_connect_seconds", record.timing.connect.map(seconds));
    line.put("overhead_seconds", seconds(record.overhead()));
    line.put("request_bytes", record.request_bytes);
    line.put("response_bytes", record.response_bytes);
    line.put("retry_count", record.retry_count);
    if !record.findings.is_empty() {
        line.put("findings", record.findings.iter().map(|finding| Value::from(finding.as_str())).collect::<Vec<_>>());
    }
    Value::Object(line.0)
}

struct Line(Map<String, Value>);

impl Line {
    fn put(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn some<T: Into<Value>>(&mut self, name: &'static str, value: Option<T>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }
}

fn usage(usage: &Usage) -> Value {
    // Plain numbers only: this cannot fail.
    serde_json::to_value(usage).unwrap_or_default()
}

/// To the microsecond: more digits are noise.
fn seconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}

/// RFC 3339 in UTC, to the millisecond.
fn time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

/// The log's handle: lines go in, a thread writes them.
pub(super) struct Log {
    pub queue: Queue<Arc<CallRecord>>,
    reopen: Arc<AtomicBool>,
    done: std::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl Log {
    /// Starts the thread. A file that cannot be opened is told, and tried again with each line.
    pub fn start(target: LogTarget, drops: Arc<dyn Drops>) -> io::Result<Self> {
        let (queue, intake) = queue(Signal::Logs, CAPACITY, drops);
        let reopen = Arc::new(AtomicBool::new(false));
        let sink = Sink::new(target, reopen.clone());
        let (finished, done) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        std::thread::Builder::new().name("call-log".to_owned()).spawn(move || {
            runtime.block_on(write_all(intake, sink));
            let _ = finished.send(());
        })?;
        Ok(Self { queue, reopen, done: std::sync::Mutex::new(Some(done)) })
    }

    /// Opens the file anew before the next line.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    /// Ends when the thread has written everything that waited; to be called once, after the queue was closed.
    pub async fn finished(&self) {
        let done = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(done) = done {
            let _ = done.await;
        }
    }
}

async fn write_all(mut intake: Intake<Arc<CallRecord>>, mut sink: Sink) {
    let mut line = Vec::with_capacity(2_048);
    let mut records = Vec::new();
    if let Err(error) = sink.ready() {
        intake.failed(0, &error);
    }
    while intake.take(&mut records, LINES, 1).await > 0 {
        for record in records.drain(..) {
            line.clear();
            let written = serde_json::to_writer(&mut line, &to_json(&record)).map_err(io::Error::from).and_then(|()| {
                line.push(b'\n');
                sink.write(&line)
            });
            match written {
                Ok(()) => {
                    intake.exported(1);
                    intake.worked();
                }
                Err(error) => {
                    intake.lost(1, DropReason::ExportFailed);
                    intake.failed(1, &error);
                }
            }
        }
    }
}

/// An open file, or the attempt to have one.
struct Sink {
    target: LogTarget,
    file: Option<File>,
    reopen: Arc<AtomicBool>,
    /// The last line was cut: the next one starts on a fresh line.
    torn: bool,
    /// When the name is looked up again.
    next_check: Instant,
    /// When a broken sink is tried again, and what is wrong with it.
    next_try: Option<(Instant, String)>,
    /// Standard output has no reader any more.
    ended: bool,
}

impl Sink {
    fn new(target: LogTarget, reopen: Arc<AtomicBool>) -> Self {
        Self { target, file: None, reopen, torn: false, next_check: Instant::now(), next_try: None, ended: false }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let torn = self.torn;
        let file = self.ready()?;
        let result = if torn { put(file, &[b"\n", line].concat()) } else { put(file, line) };
        match result {
            Ok(()) => {
                self.torn = false;
                Ok(())
            }
            Err((written, error)) => {
                self.torn |= written > 0;
                self.ended = self.target == LogTarget::Stdout && error.kind() == ErrorKind::BrokenPipe;
                Err(self.broken(error))
            }
        }
    }

    /// The open file, opened or opened anew where needed.
    fn ready(&mut self) -> io::Result<&mut File> {
        if self.ended {
            return Err(io::Error::new(
                ErrorKind::BrokenPipe,
                "standard output: nobody reads it; the call log has ended",
            ));
        }
        let now = Instant::now();
        let asked = self.reopen.swap(false, Ordering::AcqRel);
        if self.file.is_some() && (asked || now >= self.next_check) {
            self.next_check = now + INTERVAL;
            if asked || self.is_replaced() {
                self.open_anew()?;
            }
        }
        if self.file.is_none() {
            if let Some((_, why)) = self.next_try.as_ref().filter(|(next, _)| !asked && now < *next) {
                return Err(io::Error::other(why.clone()));
            }
            self.next_check = now + INTERVAL;
            let opened = open(&self.target);
            let (file, torn) = opened.map_err(|error| self.broken(error))?;
            self.torn = torn;
            self.file = Some(file);
            self.next_try = None;
        }
        self.file.as_mut().ok_or_else(|| io::Error::other("not open"))
    }

    /// The name stands for another file than the open one, or for none.
    fn is_replaced(&self) -> bool {
        let (LogTarget::Path(path), Some(file)) = (&self.target, &self.file) else { return false };
        match (std::fs::metadata(path), file.metadata()) {
            (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
            _ => true,
        }
    }

    /// Goes on with the old file when the new one cannot be opened and the old one still has a name.
    fn open_anew(&mut self) -> io::Result<()> {
        match open(&self.target) {
            Ok((file, torn)) => {
                self.torn = torn;
                self.file = Some(file);
                Ok(())
            }
            Err(error) => {
                let named = self.file.as_ref().and_then(|file| file.metadata().ok()).is_some_and(|old| old.nlink() > 0);
                if named {
                    return Ok(());
                }
                Err(self.broken(error))
            }
        }
    }

    /// Gives the file up until it is tried again.
    fn broken(&mut self, error: io::Error) -> io::Error {
        let why = match &self.target {
            LogTarget::Stdout => format!("standard output: {error}"),
            LogTarget::Path(path) => format!("{}: {error}", path.display()),
        };
        self.file = None;
        self.next_try = Some((Instant::now() + INTERVAL, why.clone()));
        io::Error::new(error.kind(), why)
    }
}

/// The file, and whether it ends inside a line (an earlier process died, or the disk was full).
fn open(target: &LogTarget) -> io::Result<(File, bool)> {
    match target {
        // A handle of its own: no buffer, no lock shared with other prints.
        LogTarget::Stdout => Ok((File::from(io::stdout().as_fd().try_clone_to_owned()?), false)),
        LogTarget::Path(path) => {
            let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
            let about = file.metadata()?;
            let torn = about.is_file() && about.len() > 0 && {
                let mut last = [b'\n'];
                // Not readable by us: then nothing is known.
                let read = File::open(path).and_then(|file| file.read_at(&mut last, about.len() - 1));
                read.is_ok() && last != [b'\n']
            };
            Ok((file, torn))
        }
    }
}

/// One `write`, unless the system takes only a part. The error says how much was written.
fn put(file: &mut File, line: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < line.len() {
        match file.write(&line[written..]) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}
