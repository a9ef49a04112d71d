//! Repeated texts of calls, stored once: a row of a dictionary table and its id.
//!
//! What is known is held in memory, at most [`MOST_KNOWN`] rows a table. What is not known gets a new row, whether the file
//! has an equal one or not: readers go by what a row says, never by its id, so that equal rows only cost their bytes.

use std::collections::HashMap;

use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, params_from_iter};

/// Rows held in memory. Applications choose some of the texts, such as models that do not exist.
const MOST_KNOWN: usize = 20_000;

/// One value of a dictionary row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cell {
    Null,
    Int(i64),
    Text(Box<str>),
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
    known: HashMap<Box<[Cell]>, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: i64,
    /// Last day of a call that refers to it, as the file has it.
    seen: i64,
}

// === impl Cell ===

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.into())
    }
}

impl From<bool> for Cell {
    fn from(yes: bool) -> Self {
        Cell::Int(yes.into())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}

impl From<Value> for Cell {
    fn from(value: Value) -> Self {
        match value {
            Value::Integer(number) => Cell::Int(number),
            Value::Text(text) => Cell::Text(text.into()),
            // The tables are strict and have no other columns.
            Value::Null | Value::Real(_) | Value::Blob(_) => Cell::Null,
        }
    }
}

impl ToSql for Cell {
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
        let (name, columns) = (table.name, table.columns.join(", "));
        let sql = format!("SELECT id, seen, {columns} FROM {name} ORDER BY id DESC LIMIT {MOST_KNOWN}");
        let mut known = HashMap::new();
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let cells = (0..table.columns.len()).map(|column| row.get::<_, Value>(column + 2).map(Cell::from));
            known
                .entry(cells.collect::<rusqlite::Result<_>>()?)
                .or_insert(Entry { id: row.get(0)?, seen: row.get(1)? });
        }
        Ok(Self { table, known })
    }

    /// The id of these cells, which a call of `day` refers to. To be called inside the transaction that writes the call;
    /// when that fails, what is known here is wrong and the dictionary must be loaded anew.
    pub fn id(&mut self, connection: &Connection, cells: Vec<Cell>, day: i64) -> rusqlite::Result<i64> {
        let name = self.table.name;
        if let Some(entry) = self.known.get_mut(cells.as_slice()) {
            if entry.seen < day {
                connection.execute(&format!("UPDATE {name} SET seen = ? WHERE id = ?"), [day, entry.id])?;
                entry.seen = day;
            }
            return Ok(entry.id);
        }
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        let (columns, places) = (self.table.columns.join(", "), ", ?".repeat(cells.len()));
        let sql = format!("INSERT INTO {name} (seen, {columns}) VALUES (?{places})");
        let day_cell = Cell::Int(day);
        connection.execute(&sql, params_from_iter(std::iter::once(&day_cell).chain(&cells)))?;
        let id = connection.last_insert_rowid();
        self.known.insert(cells.into(), Entry { id, seen: day });
        Ok(id)
    }

    /// Removes rows whose last call is older than every call in the file.
    pub fn prune(&mut self, connection: &Connection, oldest_day: i64) -> rusqlite::Result<()> {
        connection.execute(&format!("DELETE FROM {} WHERE seen < ?", self.table.name), [oldest_day])?;
        self.known.retain(|_, entry| entry.seen >= oldest_day);
        Ok(())
    }
}
