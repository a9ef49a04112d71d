//! Tables of the ledger, and the steps from each schema version to the next.
//!
//! A released step is never changed: a file of any earlier version becomes what a new file is, inside one transaction.
//! The version stands in `PRAGMA user_version`, and `PRAGMA application_id` tells a ledger from other SQLite files.

use rusqlite::{Connection, Transaction, TransactionBehavior};

/// `ktly` in ASCII.
pub(super) const APPLICATION_ID: i64 = 0x6b74_6c79;

/// The schema that this build writes and reads.
pub const VERSION: i64 = STEPS.len() as i64;

/// Step `n` takes a file from version `n` to version `n + 1`.
const STEPS: &[&str] = &[include_str!("schema/v1.sql")];

/// What a file is, before it is used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing is in it.
    Empty,
    /// A ledger of this version.
    Version(i64),
    /// Tables of something else.
    Foreign,
}

/// Looks at a file without changing it.
pub(super) fn kind(connection: &Connection) -> rusqlite::Result<Kind> {
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let version = number("PRAGMA user_version")?;
    Ok(match number("PRAGMA application_id")? {
        APPLICATION_ID => Kind::Version(version),
        0 if number("SELECT count(*) FROM sqlite_schema")? == 0 && version == 0 => Kind::Empty,
        _ => Kind::Foreign,
    })
}

/// Brings an empty file or one of an older version up to date. A version above [`VERSION`] is the caller's to refuse.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    migrate_by(connection, STEPS)
}

pub(super) fn migrate_by(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    let transaction: Transaction<'_> = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Read inside the transaction: another process may have migrated meanwhile.
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for step in steps.iter().skip(usize::try_from(version).unwrap_or(0)) {
        transaction.execute_batch(step)?;
    }
    if (version as usize) < steps.len() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", steps.len() as i64)?;
    }
    transaction.commit()
}
