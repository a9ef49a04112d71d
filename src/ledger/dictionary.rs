//! Repeated texts of calls, stored once: a row of a dictionary table and its id.
//!
//! Of a row that is known, its hash is held in memory, at most [`MOST_KNOWN`] a table; those that were used longest ago
//! make room. What is not known gets a new row, whether the file has an equal one or not: readers go by what a row says,
//! never by its id, so that equal rows only cost their bytes.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, params_from_iter};

use crate::recent::Recent;

/// Rows held in memory, some 60 bytes each. Applications choose some of the texts, such as models that do not exist.
const MOST_KNOWN: usize = 14_000;

/// One value of a dictionary row.
#[derive(Debug)]
pub(super) enum Cell<'r> {
    Null,
    Int(i64),
    Text(Cow<'r, str>),
}

/// Name and columns of a dictionary table, `id` and `seen` left out.
#[derive(Debug)]
pub(super) struct Table {
    pub name: &'static str,
    pub columns: &'static [&'static str],
}

/// What is known of one table.
#[derive(Debug)]
pub(super) struct Dictionary {
    table: &'static Table,
    known: Recent<u128, Entry>,
    hashes: [RandomState; 2],
    /// The cells that are hashed; kept for its room.
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: i64,
    /// Last day of a call that refers to it, as the file has it.
    seen: i64,
}

// === impl Cell ===

impl<'r> From<&'r str> for Cell<'r> {
    fn from(text: &'r str) -> Self {
        Cell::Text(text.into())
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Cell::Text(text.into())
    }
}

impl From<bool> for Cell<'_> {
    fn from(yes: bool) -> Self {
        Cell::Int(yes.into())
    }
}

impl From<u16> for Cell<'_> {
    fn from(number: u16) -> Self {
        Cell::Int(number.into())
    }
}

impl<'r, T: Into<Cell<'r>>> From<Option<T>> for Cell<'r> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}

impl From<Value> for Cell<'_> {
    fn from(value: Value) -> Self {
        match value {
            Value::Integer(number) => Cell::Int(number),
            Value::Text(text) => Cell::Text(text.into()),
            // The tables are strict and have no other columns.
            Value::Null | Value::Real(_) | Value::Blob(_) => Cell::Null,
        }
    }
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Cell::Null => ValueRef::Null,
            Cell::Int(number) => ValueRef::Integer(*number),
            Cell::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

// === impl Dictionary ===

impl Dictionary {
    /// Reads the newest rows of the table.
    pub fn load(connection: &Connection, table: &'static Table) -> rusqlite::Result<Self> {
        let mut loaded = Self { table, known: Recent::new(MOST_KNOWN), hashes: Default::default(), bytes: Vec::new() };
        let (name, columns) = (table.name, table.columns.join(", "));
        // Turned round here: SQLite would sort in a file, for which an image from scratch has no place.
        let newest = format!("SELECT id, seen, {columns} FROM {name} ORDER BY id DESC LIMIT {MOST_KNOWN}");
        let mut statement = connection.prepare(&newest)?;
        let mut rows = statement.query([])?;
        let (mut found, mut cells) = (Vec::new(), Vec::with_capacity(table.columns.len()));
        while let Some(row) = rows.next()? {
            cells.clear();
            for column in 0..table.columns.len() {
                cells.push(Cell::from(row.get::<_, Value>(column + 2)?));
            }
            found.push((loaded.hash(&cells), Entry { id: row.get(0)?, seen: row.get(1)? }));
        }
        for (hash, entry) in found.into_iter().rev() {
            loaded.known.put(hash, entry);
        }
        Ok(loaded)
    }

    /// With keys that nobody knows, and long enough that no two rows of a lifetime have the same. In one piece: cell by
    /// cell it takes three times as long.
    fn hash(&mut self, cells: &[Cell<'_>]) -> u128 {
        let bytes = &mut self.bytes;
        bytes.clear();
        for cell in cells {
            match cell {
                Cell::Null => bytes.push(0),
                Cell::Int(number) => {
                    bytes.push(1);
                    bytes.extend(number.to_le_bytes());
                }
                Cell::Text(text) => {
                    bytes.push(2);
                    bytes.extend(text.len().to_le_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        let [high, low] = self.hashes.each_ref().map(|hash| u128::from(hash.hash_one(&**bytes)));
        high << 64 | low
    }

    /// The id of these cells, which a call of `day` refers to. To be called inside the transaction that writes the call;
    /// when that fails, what is known here is wrong and the dictionary must be loaded anew.
    pub fn id(&mut self, connection: &Connection, cells: &[Cell<'_>], day: i64) -> rusqlite::Result<i64> {
        let name = self.table.name;
        let hash = self.hash(cells);
        if let Some(entry) = self.known.get(&hash) {
            if entry.seen < day {
                connection.execute(&format!("UPDATE {name} SET seen = ? WHERE id = ?"), [day, entry.id])?;
                entry.seen = day;
            }
            return Ok(entry.id);
        }
        let (columns, places) = (self.table.columns.join(", "), ", ?".repeat(cells.len()));
        let sql = format!("INSERT INTO {name} (seen, {columns}) VALUES (?{places})");
        let day_cell = Cell::Int(day);
        connection.execute(&sql, params_from_iter(std::iter::once(&day_cell).chain(cells)))?;
        let id = connection.last_insert_rowid();
        self.known.put(hash, Entry { id, seen: day });
        Ok(id)
    }

    /// Removes rows whose last call is older than every call in the file.
    pub fn prune(&mut self, connection: &Connection, oldest_day: i64) -> rusqlite::Result<()> {
        connection.execute(&format!("DELETE FROM {} WHERE seen < ?", self.table.name), [oldest_day])?;
        self.known.retain(|entry| entry.seen >= oldest_day);
        Ok(())
    }
}
