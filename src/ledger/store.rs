//! The one writer of a ledger file.
//!
//! A batch is one transaction: all of it is in the file or none. After an error the store is no longer to be used; a new one
//! is opened, and [`Store::write`] is told that the batch is written again, so that no call stands in the file twice.
//!
//! A kill at any moment costs what was not committed and never damages the file (WAL, `synchronous=NORMAL`). Only one
//! process writes: [`Lock`] is held for as long as the store lives and goes with the process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use super::dictionary::Dictionary;
use super::schema::{self, Kind, VERSION};
use super::{LedgerError, row};
use crate::call::CallRecord;

/// How long other connections (`sqlite3`, a backup) may hold the file before a write fails.
const BUSY: Duration = Duration::from_secs(2);
/// Rows removed at once: a few milliseconds, so that new rows do not wait.
const CHUNK: i64 = 2_000;
/// Pages given back to the file system at once, 4 KiB each.
const FREED_PAGES: i64 = 500;
/// The write-ahead log is cut back to this after a checkpoint.
const WAL_BYTES: i64 = 4 << 20;
const DAY_MILLIS: i64 = 86_400_000;
/// Of a new ledger and its lock; SQLite gives its other files the same. One that is there keeps what it has.
const MODE: u32 = 0o600;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Calls older than this are removed.
    pub age: Duration,
    /// The oldest calls are removed when the rows take more than this.
    pub max_bytes: u64,
}

/// The right to write a ledger: a lock on `<path>.lock`, which the system takes back when the process ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// An open ledger that is written to.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Device and inode, to notice that the name stands for another file.
    identity: Option<(u64, u64)>,
    callers: Dictionary,
    targets: Dictionary,
    results: Dictionary,
    insert: String,
    /// Released last.
    _lock: Lock,
}

// === impl Lock ===

impl Lock {
    /// Takes the lock of the ledger at `path`.
    ///
    /// # Errors
    /// Another process has it, or its file cannot be opened.
    pub fn take(path: &Path) -> Result<Self, LedgerError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let name = PathBuf::from(name);
        let failed = |error| LedgerError::io(&name, error);
        // Not the ledger itself: closing it here would take away SQLite's own locks on it (POSIX).
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .open(&name)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = (&mut file).take(32).read_to_string(&mut text);
                let process = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(LedgerError::InUse { path: path.to_owned(), process });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Who it is helps people and is not needed: on a full disk it is left out.
        let _ = file.rewind().and_then(|()| file.set_len(0)).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(file))
    }
}

// === impl Store ===

impl Store {
    /// Opens the ledger, and makes it (and its directory) if there is none. An older schema is brought up to date.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| LedgerError::io(parent, error))?;
        }
        let lock = Lock::take(path)?;
        let failed = |error| LedgerError::sqlite(path, error);
        // SQLite would let everybody read it. One that is there is not opened here: closing it would take away SQLite's locks.
        match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(LedgerError::io(path, error)),
            _ => {}
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        match schema::kind(&connection).map_err(failed)? {
            Kind::Foreign => return Err(LedgerError::Foreign(path.to_owned())),
            Kind::Version(found) if found > VERSION => return Err(LedgerError::Newer { path: path.to_owned(), found }),
            // Only before the first table; later it would take a VACUUM.
            Kind::Empty => connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?,
            Kind::Version(_) => {}
        }
        Self::prepare(&mut connection).map_err(failed)?;
        let dictionary = |table| Dictionary::load(&connection, table).map_err(failed);
        let (callers, targets, results) =
            (dictionary(&row::CALLERS)?, dictionary(&row::TARGETS)?, dictionary(&row::RESULTS)?);
        let identity = identity(path);
        Ok(Self {
            connection,
            path: path.to_owned(),
            identity,
            callers,
            targets,
            results,
            insert: row::insert_sql(),
            _lock: lock,
        })
    }

    fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
        schema::migrate(connection)?;
        // A read-only file or disk shows now, not with the first call.
        connection.transaction_with_behavior(TransactionBehavior::Immediate)?.commit()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all calls or none. `again`: an attempt to write them failed, and some may be in the file all the same.
    ///
    /// # Errors
    /// Nothing was written, or it is not known whether; this store is not to be used any more.
    pub fn write<'r>(
        &mut self,
        calls: impl IntoIterator<Item = &'r CallRecord>,
        again: bool,
    ) -> Result<(), LedgerError> {
        self.write_batch(calls, again).map_err(|error| LedgerError::sqlite(&self.path, error))
    }

    fn write_batch<'r>(
        &mut self,
        calls: impl IntoIterator<Item = &'r CallRecord>,
        again: bool,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut insert = transaction.prepare(&self.insert)?;
            for call in calls {
                if again && is_in(&transaction, call)? {
                    continue;
                }
                let day = row::millis(call.time).div_euclid(DAY_MILLIS);
                let ids = [
                    self.callers.id(&transaction, &row::caller_cells(call), day)?,
                    self.targets.id(&transaction, &row::target_cells(call), day)?,
                    self.results.id(&transaction, &row::result_cells(call), day)?,
                ];
                row::insert(&mut insert, call, ids)?;
            }
        }
        transaction.commit()
    }

    /// The name stands for another file than the open one, or for none: what is written is seen by nobody.
    pub fn is_replaced(&self) -> bool {
        self.identity != identity(&self.path)
    }

    /// Removes some of what is not to be kept; true if there is more of it.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn tidy(&mut self, keep: &Retention, now: SystemTime) -> Result<bool, LedgerError> {
        self.tidy_some(keep, now).map_err(|error| LedgerError::sqlite(&self.path, error))
    }

    fn tidy_some(&mut self, keep: &Retention, now: SystemTime) -> rusqlite::Result<bool> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let too_old = row::millis(now.checked_sub(keep.age).unwrap_or(SystemTime::UNIX_EPOCH));
        let oldest = "SELECT id FROM calls WHERE time < ? ORDER BY time LIMIT ?";
        let mut removed =
            transaction.execute(&format!("DELETE FROM calls WHERE id IN ({oldest})"), [too_old, CHUNK])?;
        let mut size = Size::of(&transaction)?;
        let is_large = |size: &Size| size.used() > keep.max_bytes;
        if removed < CHUNK as usize && is_large(&size) {
            removed += transaction.execute(&format!("DELETE FROM calls WHERE id IN ({oldest})"), [i64::MAX, CHUNK])?;
            size = Size::of(&transaction)?;
        }
        let more = removed >= CHUNK as usize || (removed > 0 && is_large(&size));
        if removed > 0 && !more {
            prune(&transaction, [&mut self.callers, &mut self.targets, &mut self.results])?;
        }
        transaction.commit()?;
        if size.bytes() > keep.max_bytes && size.free > 0 {
            // Its rows are empty; stepping through them is what frees pages.
            let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({FREED_PAGES})"))?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            return Ok(true);
        }
        Ok(more)
    }
}

/// Removes texts that no call refers to any more.
fn prune(transaction: &Transaction<'_>, dictionaries: [&mut Dictionary; 3]) -> rusqlite::Result<()> {
    let oldest: Option<i64> = transaction.query_row("SELECT min(time) FROM calls", [], |row| row.get(0))?;
    if let Some(oldest) = oldest {
        for dictionary in dictionaries {
            dictionary.prune(transaction, oldest.div_euclid(DAY_MILLIS))?;
        }
    }
    Ok(())
}

/// Pages of the file.
struct Size {
    pages: u64,
    free: u64,
    page_bytes: u64,
}

impl Size {
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let number = |pragma| connection.query_row(pragma, [], |row| row.get::<_, u32>(0)).map(u64::from);
        Ok(Self {
            pages: number("PRAGMA page_count")?,
            free: number("PRAGMA freelist_count")?,
            page_bytes: number("PRAGMA page_size")?,
        })
    }

    /// What the rows take.
    fn used(&self) -> u64 {
        self.pages.saturating_sub(self.free) * self.page_bytes
    }

    /// What the file takes.
    fn bytes(&self) -> u64 {
        self.pages * self.page_bytes
    }
}

fn is_in(connection: &Connection, call: &CallRecord) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM calls WHERE time = ? AND call_id = ?";
    let found = connection.query_row(sql, (row::millis(call.time), call.call_id.0.to_be_bytes()), |_| Ok(()));
    found.optional().map(|found| found.is_some())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
