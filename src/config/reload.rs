//! Reload while running: watch → wait for quiet → read → check → swap. A bad file never replaces a good configuration.
//!
//! [`ConfigHandle`] holds what runs; [`ConfigHandle::reload`] is the one way to replace it, whether a file changed or a
//! signal came. A price book or certificate file with another content is another configuration, under the same path too.
//! [`watch`] calls back when a file may have changed: written in place, renamed over, deleted and made again, reached
//! through symbolic links that are swapped (as Kubernetes does with `..data`), or put into a directory that did not
//! exist. Where no change notifications can be had, it looks every [`TICK`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::AccessKind};
use sha2::{Digest, Sha256};

use super::{Config, ConfigError, Contents, Loaded, Source, contents};

/// A change is looked at when nothing more has happened for this long: editors write in several steps.
const QUIET: Duration = Duration::from_millis(150);

/// A file that never becomes quiet is looked at this often.
const IMPATIENT: Duration = Duration::from_secs(2);

/// The file is looked at this often without any notification: network file systems send none.
pub const TICK: Duration = Duration::from_secs(5);

/// Longest chain of symbolic links that is followed, as Linux has it.
const MAX_LINKS: usize = 40;

/// What became of the last reload, for metrics and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadStatus {
    /// What is on disk is what runs (settings apart that need a restart).
    pub successful: bool,
    /// When the configuration was last read without a problem.
    pub last_success: SystemTime,
    /// 1 at start, one more with every change.
    pub generation: u64,
    /// Reloads that failed since the start.
    pub failures: u64,
}

/// What one reload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Nothing is different.
    Unchanged,
    /// A new configuration runs.
    Changed,
    /// The old configuration runs on; these are the problems.
    Failed(ConfigError),
}

/// The configuration that runs. Clones share it.
#[derive(Clone)]
pub struct ConfigHandle(Arc<Inner>);

struct Inner {
    source: Source,
    current: ArcSwap<Config>,
    state: Mutex<State>,
    changes: tokio::sync::watch::Sender<Arc<Config>>,
    /// Told of every reload, those too that changed nothing or failed.
    reloads: tokio::sync::watch::Sender<ReloadStatus>,
}

struct State {
    status: ReloadStatus,
    /// What was last seen in place of the file: its content, or why there is none.
    seen: Result<[u8; 32], String>,
    /// What was last seen of the files that matter: those that the file names, good or bad, and those in use.
    files: Contents,
    /// What those in use held when they were taken over.
    running: Contents,
}

impl ConfigHandle {
    /// Reads the first configuration, and answers with its warnings.
    ///
    /// # Errors
    /// Every problem that was found.
    pub fn start(source: Source) -> Result<(Self, Vec<String>), ConfigError> {
        let text = source.read()?;
        let (files, loaded) = source.check_with_files(&text);
        let Loaded { config, warnings } = loaded?;
        let config = Arc::new(config);
        let status = ReloadStatus { successful: true, last_success: SystemTime::now(), generation: 1, failures: 0 };
        let inner = Inner {
            source,
            current: ArcSwap::new(config.clone()),
            reloads: tokio::sync::watch::channel(status.clone()).0,
            state: Mutex::new(State { status, seen: Ok(digest(&text)), files: files.clone(), running: files }),
            changes: tokio::sync::watch::channel(config).0,
        };
        Ok((Self(Arc::new(inner)), warnings))
    }

    /// A configuration that comes from no file and stays as it is.
    pub fn fixed(config: Config) -> Self {
        let source = Source { env: super::Environment::of(&[]), ..Source::default() };
        let config = Arc::new(config);
        let status = ReloadStatus { successful: true, last_success: SystemTime::now(), generation: 1, failures: 0 };
        let reloads = tokio::sync::watch::channel(status.clone()).0;
        let state =
            Mutex::new(State { status, seen: Ok(digest("")), files: Contents::new(), running: Contents::new() });
        let changes = tokio::sync::watch::channel(config.clone()).0;
        Self(Arc::new(Inner { source, current: ArcSwap::new(config), state, changes, reloads }))
    }

    /// What runs now. One call should load it once, so that it sees one configuration.
    pub fn current(&self) -> Arc<Config> {
        self.0.current.load_full()
    }

    /// What became of the last reload.
    pub fn status(&self) -> ReloadStatus {
        self.state().status.clone()
    }

    /// Sees every later configuration (the latest, when several came).
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<Arc<Config>> {
        self.0.changes.subscribe()
    }

    /// Sees what became of every later reload (the latest, when several came).
    pub fn subscribe_reloads(&self) -> tokio::sync::watch::Receiver<ReloadStatus> {
        self.0.reloads.subscribe()
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.0.source.path.as_deref()
    }

    /// Reloads whenever the file or one that it names changes, until the answer is dropped; `None` without a file. Every
    /// change and problem is logged.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn watch(&self) -> std::io::Result<Option<Watch>> {
        let Some(path) = self.path().map(Path::to_owned) else { return Ok(None) };
        let (handle, naming) = (self.clone(), self.clone());
        let paths = move || naming.state().files.keys().chain([&path]).cloned().collect();
        let watch = watch(paths, move || drop(handle.reload(false)))?;
        // What happened since the configuration was read is not the watch's to see.
        self.reload(false);
        Ok(Some(watch))
    }

    /// Reads, checks and swaps. The same content as last time is not read again unless `force` (a signal) asks for it:
    /// variables and secrets that it refers to may be others now. Blocks for the time that reading takes.
    pub fn reload(&self, force: bool) -> Reload {
        let mut state = self.state();
        let read = self.0.source.read();
        let seen = match &read {
            Ok(text) => Ok(digest(text)),
            Err(error) => Err(error.to_string()),
        };
        let mut files = contents(state.files.keys());
        if seen == state.seen && files == state.files && !force {
            return Reload::Unchanged;
        }
        state.seen = seen;
        let (named, loaded) = match (read, self.path()) {
            // A file that is being written is empty for a moment, and that would mean "all defaults".
            (Ok(text), Some(path)) if text.is_empty() => {
                let text = "empty; while running that is taken for a file that is being written. For the defaults, \
                            write {} into it";
                (Contents::new(), Err(ConfigError::of(path.display().to_string(), text)))
            }
            (Ok(text), _) => self.0.source.check_with_files(&text),
            (Err(error), _) => (Contents::new(), Err(error)),
        };
        files.retain(|path, _| state.running.contains_key(path));
        files.extend(named);
        state.files = files;
        let reload = match loaded {
            Ok(loaded) => self.accept(&mut state, loaded),
            Err(error) => {
                state.status.successful = false;
                state.status.failures += 1;
                for problem in &error.problems {
                    tracing::error!(place = problem.place, problem = problem.text, "configuration not reloaded");
                }
                Reload::Failed(error)
            }
        };
        self.0.reloads.send_replace(state.status.clone());
        reload
    }

    fn accept(&self, state: &mut State, loaded: Loaded) -> Reload {
        let Loaded { mut config, warnings } = loaded;
        let current = self.current();
        for setting in keep_fixed(&current, &mut config) {
            tracing::warn!(setting, "changed in the configuration, but only read at start: restart to use it");
        }
        for warning in warnings {
            tracing::warn!(warning, "configuration");
        }
        state.status.successful = true;
        state.status.last_success = SystemTime::now();
        let running: Contents =
            config.files().map(|path| (path.clone(), state.files.get(path).copied().flatten())).collect();
        if config == *current && running == state.running {
            return Reload::Unchanged;
        }
        state.running = running;
        state.status.generation += 1;
        let config = Arc::new(config);
        self.0.current.store(config.clone());
        self.0.changes.send_replace(config);
        tracing::info!(generation = state.status.generation, "configuration reloaded");
        Reload::Changed
    }

    /// Nothing in the critical sections can leave the state half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Puts back what is only read at start (`x-restart` in the schema), and names what would have changed.
fn keep_fixed(current: &Config, next: &mut Config) -> Vec<&'static str> {
    let mut kept = Vec::new();
    macro_rules! keep { ($($field:ident = $setting:literal),+ $(,)?) => { $(
        if next.$field != current.$field {
            next.$field = current.$field.clone();
            kept.push($setting);
        }
    )+ } }
    keep!(
        listen = "listen",
        fingerprint_salt = "fingerprint",
        calls = "export.calls",
        otlp = "export.otlp",
        metrics = "metrics",
        limits = "limits",
        upstream = "upstream",
        log = "log",
    );
    kept
}

/// Watches until it is dropped.
pub struct Watch {
    wake: SyncSender<Wake>,
    thread: Option<std::thread::JoinHandle<()>>,
}

enum Wake {
    Event,
    Stop,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread empties the channel at least once a tick, so this does not wait for long.
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Calls `on_change` on a thread of its own whenever one of the files at `paths` may have another content, until the
/// answer is dropped. Changes in quick succession are one; the files need not exist, and may be others after `on_change`.
/// Not called for the state at the start.
///
/// # Errors
/// No thread could be started. Without change notifications it looks every [`TICK`], and says so.
pub fn watch(
    paths: impl Fn() -> Vec<PathBuf> + Send + 'static,
    mut on_change: impl FnMut() + Send + 'static,
) -> std::io::Result<Watch> {
    // One slot: an event that finds it full has nothing to add.
    let (wake, woken) = sync_channel(1);
    let events = wake.clone();
    let notify = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let reading = |kind| matches!(kind, EventKind::Access(AccessKind::Open(_) | AccessKind::Read));
        if !event.is_ok_and(|event| reading(event.kind)) {
            let _ = events.try_send(Wake::Event);
        }
    });
    let notify = notify
        .inspect_err(
            |error| tracing::warn!(%error, "no change notifications: the configuration is looked at every {TICK:?}"),
        )
        .ok();
    let paths = move || -> Vec<_> { paths().into_iter().filter_map(|path| std::path::absolute(path).ok()).collect() };
    let mut watched = Watched { notify, directories: BTreeMap::new(), failed: false };
    let mut known = paths();
    let mut last = Some(looks(&known));
    watched.refresh(&known);
    // What happened between the look and the watch is seen at once.
    let _ = wake.try_send(Wake::Event);
    let again = wake.clone();
    let thread = std::thread::Builder::new().name("config-watch".to_owned()).spawn(move || {
        loop {
            match woken.recv_timeout(TICK) {
                Ok(Wake::Event) => {
                    let first = Instant::now();
                    while first.elapsed() < IMPATIENT {
                        match woken.recv_timeout(QUIET) {
                            Ok(Wake::Event) => {}
                            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                            Err(RecvTimeoutError::Timeout) => break,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            watched.refresh(&known);
            let now = looks(&known);
            if last.as_ref() != Some(&now) {
                on_change();
                // A file that was written just now may be written again within the same tick of the file system's
                // clock, and would look the same: it is looked at once more.
                last = now.iter().all(Look::is_settled).then_some(now);
                let named = paths();
                if named != known {
                    known = named;
                    let _ = again.try_send(Wake::Event);
                }
            }
        }
    })?;
    Ok(Watch { wake, thread: Some(thread) })
}

fn looks(paths: &[PathBuf]) -> Vec<Look> {
    paths.iter().map(|path| Look::at(path)).collect()
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    target: Option<PathBuf>,
    size: u64,
    modified: Option<SystemTime>,
    inode: (u64, u64, i64, i64),
}

impl Look {
    fn at(path: &Path) -> Self {
        let metadata = std::fs::metadata(path).ok();
        Self {
            target: std::fs::canonicalize(path).ok(),
            size: metadata.as_ref().map_or(0, std::fs::Metadata::len),
            modified: metadata.as_ref().and_then(|m| m.modified().ok()),
            inode: metadata.as_ref().map_or((0, 0, 0, 0), inode),
        }
    }

    /// It was last written long enough ago for a further write to have another time.
    fn is_settled(&self) -> bool {
        self.modified.is_none_or(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > QUIET / 2))
    }
}

/// Device, inode and time of the last change of any kind.
#[cfg(unix)]
fn inode(metadata: &std::fs::Metadata) -> (u64, u64, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> (u64, u64, i64, i64) {
    (0, 0, 0, 0)
}

/// The directories in which something can happen that changes the files.
struct Watched {
    notify: Option<RecommendedWatcher>,
    /// Each with its inode: a directory that was deleted and made again is another one.
    directories: BTreeMap<PathBuf, (u64, u64)>,
    failed: bool,
}

impl Watched {
    /// Watches the directories that matter now and no others. Done again after every event.
    fn refresh(&mut self, paths: &[PathBuf]) {
        let Some(notify) = &mut self.notify else { return };
        let mut wanted = BTreeMap::new();
        for directory in paths.iter().flat_map(|path| directories(path)) {
            if let Ok(metadata) = std::fs::metadata(&directory) {
                let (device, inode, ..) = inode(&metadata);
                // One directory by two names has one watch, which ends with either name.
                if inode == 0 || wanted.values().all(|known| *known != (device, inode)) {
                    wanted.insert(directory, (device, inode));
                }
            }
        }
        if wanted == self.directories {
            return;
        }
        for (directory, id) in &self.directories {
            if wanted.get(directory) != Some(id) {
                // It may be gone, and its watch with it.
                let _ = notify.unwatch(directory);
            }
        }
        let mut watched = BTreeMap::new();
        for (directory, id) in wanted {
            let known = self.directories.get(&directory) == Some(&id);
            match if known { Ok(()) } else { notify.watch(&directory, RecursiveMode::NonRecursive) } {
                Ok(()) => {
                    watched.insert(directory, id);
                }
                // Tried again at the next tick, said once.
                Err(error) if !self.failed => {
                    self.failed = true;
                    tracing::warn!(%error, "no change notifications: the configuration is looked at every {TICK:?}");
                }
                Err(_) => {}
            }
        }
        self.directories = watched;
    }
}

/// The directory of the file and of everything that it is reached through; of what does not exist, the nearest
/// directory above it.
fn directories(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![path.to_owned()];
    let mut links = 0;
    while let Some(path) = waiting.pop() {
        let existing = path.ancestors().skip(1).find(|above| above.is_dir()).map(Path::to_owned);
        if let Some(directory) = existing
            && !found.contains(&directory)
        {
            found.push(directory);
        }
        // Every component may be a link: in Kubernetes the last one is, and so is the `..data` that it leads through.
        for part in path.ancestors() {
            if let Ok(target) = std::fs::read_link(part)
                && let Some(directory) = part.parent()
                && links < MAX_LINKS
            {
                links += 1;
                let rest = path.strip_prefix(part).unwrap_or(Path::new(""));
                let target = directory.join(target);
                waiting.push(if rest.as_os_str().is_empty() { target } else { target.join(rest) });
                if !found.iter().any(|f| f == directory) {
                    found.push(directory.to_owned());
                }
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
