//! The ledger: one SQLite file, one row a call, kept over restarts. `docs/ledger.md` describes it for its readers.
//!
//! [`Store`] is the one writer of a file, [`Reader`] reads it while it is written. In: finished [`CallRecord`]s, which hold
//! no body, header or key. Nothing here has a clock or a thread of its own: `export::ledger` decides when to write.
//!
//! A file that is not a ledger, is damaged, or was written by a newer keytally is refused and left as it is.
//!
//! [`CallRecord`]: crate::call::CallRecord

mod dictionary;
mod query;
mod read;
mod row;
mod schema;
mod store;
mod totals;

#[cfg(test)]
mod tests;

pub use query::{Dimension, Query};
pub use read::{Extent, Reader};
pub use schema::VERSION;
pub use store::{Lock, Retention, Store};
pub use totals::{Group, Totals};

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use thiserror::Error;

/// Why a ledger cannot be used. Every message names the file and says what to do.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// Another process writes it.
    #[error(
        "{}: another keytally{} writes this ledger; stop it, or give each sidecar a ledger.path of its own",
        path.display(), process.map(|id| format!(" (process {id})")).unwrap_or_default()
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who it is, when the lock file says so.
        process: Option<u32>,
    },
    /// There is no such file.
    #[error("{}: no such ledger; name the file that the sidecar writes (ledger.path in its configuration)", .0.display())]
    Missing(PathBuf),
    /// A newer keytally made it.
    #[error(
        "{}: written by a newer keytally (schema {found}, this one knows up to {VERSION}); use that version, or another \
         ledger.path; the file is left as it is",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
    },
    /// An older keytally made it, and only the sidecar may bring it up to date.
    #[error(
        "{}: written by an older keytally (schema {found}, this one reads {VERSION}); start the sidecar on it once, which \
         brings it up to date",
        path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
    },
    /// A file of something else.
    #[error("{}: not a keytally ledger; choose another ledger.path; the file is left as it is", .0.display())]
    Foreign(PathBuf),
    /// SQLite finds it damaged.
    #[error(
        "{}: the file is damaged ({source}); move it away (with its -wal and -shm files) and a new ledger is begun; \
         sqlite3 FILE .recover may save its rows",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The disk is full.
    #[error("{}: the disk is full; free some space or lower ledger.retention or ledger.max_size", .0.display())]
    Full(PathBuf),
    /// Files or directories that cannot be made or opened.
    #[error("{}: {source}; check path, mode and owner", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Whatever else SQLite says.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: rusqlite::Error,
    },
}

impl LedgerError {
    fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged { path, source },
            Some(ErrorCode::DiskFull) => Self::Full(path),
            _ => Self::Sqlite { path, source },
        }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull => Self::Full(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), source },
        }
    }

    /// Trying again without somebody having acted will not help.
    pub fn needs_action(&self) -> bool {
        matches!(self, Self::Newer { .. } | Self::Older { .. } | Self::Foreign(_) | Self::Damaged { .. })
    }
}
