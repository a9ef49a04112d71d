//! Reads a ledger, also while a sidecar writes it: each answer is of one moment.
//!
//! Key names: a key goes by the newest name that the ledger, or [`Reader::name_keys`], knows for its fingerprint, so that
//! calls from before it was named are found under it. Memory does not grow with the number of calls.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OpenFlags, Row};

use super::LedgerError;
use super::dictionary::Table;
use super::query::{Dimension, Query};
use super::row::{self, CALLERS, Caller, Found, REST, RESULTS, SUMMED, Summed, TARGETS, Target};
use super::schema::{self, Kind, VERSION};
use super::totals::{Group, Sums, Totals};
use crate::call::{CallRecord, Fingerprint};

/// How long a reader waits for a file that is being recovered.
const BUSY: Duration = Duration::from_secs(5);
const HOUR_MILLIS: i64 = 3_600_000;

/// A ledger that is read.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
    names: HashMap<Fingerprint, Named>,
}

/// What a key is called elsewhere.
#[derive(Clone, Debug)]
struct Named {
    name: Arc<str>,
    team: Option<Arc<str>>,
}

/// How much a ledger holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Rows.
    pub calls: u64,
    /// Start of the oldest and of the newest call; `None` when there is none.
    pub times: Option<(SystemTime, SystemTime)>,
}

/// Dictionaries of one moment.
struct Words {
    callers: HashMap<i64, (Caller, Arc<str>)>,
    targets: HashMap<i64, Target>,
    results: HashMap<i64, Found>,
}

impl Reader {
    /// Opens the ledger. It is never changed.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        match std::fs::metadata(path) {
            Ok(about) if about.is_file() => {}
            Ok(_) => return Err(LedgerError::Foreign(path.to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(LedgerError::Missing(path.to_owned()));
            }
            Err(error) => return Err(LedgerError::io(path, error)),
        }
        let (connection, kind) = connect(path).map_err(|error| LedgerError::sqlite(path, error))?;
        match kind {
            Kind::Version(VERSION) => Ok(Self { connection, path: path.to_owned(), names: HashMap::new() }),
            Kind::Version(found) if found > VERSION => Err(LedgerError::Newer { path: path.to_owned(), found }),
            Kind::Version(found) => Err(LedgerError::Older { path: path.to_owned(), found }),
            Kind::Empty | Kind::Foreign => Err(LedgerError::Foreign(path.to_owned())),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and teams that keys have in a configuration. The name goes before those in the ledger; the team is that of
    /// calls that have none.
    pub fn name_keys(&mut self, keys: impl IntoIterator<Item = (Fingerprint, Arc<str>, Option<Arc<str>>)>) {
        self.names.extend(keys.into_iter().map(|(key, name, team)| (key, Named { name, team })));
    }

    /// How much there is.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn extent(&self) -> Result<Extent, LedgerError> {
        let sql = "SELECT (SELECT count(*) FROM calls), (SELECT min(time) FROM calls), (SELECT max(time) FROM calls)";
        self.explain(self.connection.query_row(sql, [], |row| {
            let times: (Option<i64>, Option<i64>) = (row.get(1)?, row.get(2)?);
            Ok(Extent {
                calls: row.get::<_, u32>(0)?.into(),
                times: times.0.zip(times.1).map(|(a, b)| (row::time(a), row::time(b))),
            })
        }))
    }

    /// Gives each call that is meant to `take`, the latest start first, until that has enough.
    ///
    /// What only spans show is not in the ledger, so the records lack it: server, method, request parameters, limits,
    /// finish reasons, answer and conversation ids.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn calls(&self, query: &Query, mut take: impl FnMut(CallRecord) -> ControlFlow<()>) -> Result<(), LedgerError> {
        let (since, until) = query.time_range();
        let sql =
            format!("SELECT {SUMMED}, {REST} FROM calls WHERE time >= ? AND time < ? ORDER BY time DESC, id DESC");
        self.explain(self.each(query, &sql, [since, until], |_, call| take(call)))
    }

    /// As [`Reader::calls`], in the order in which calls ended, of calls that came after the row `after`; answers with the
    /// last row there is. `None` begins after it, and gives nothing.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn follow(
        &self,
        query: &Query,
        after: Option<i64>,
        mut take: impl FnMut(CallRecord) -> ControlFlow<()>,
    ) -> Result<i64, LedgerError> {
        let newest = self.connection.query_row("SELECT max(id) FROM calls", [], |row| row.get::<_, Option<i64>>(0));
        let newest = self.explain(newest)?.unwrap_or(0);
        let Some(after) = after else { return Ok(newest) };
        let (since, until) = query.time_range();
        let sql = format!("SELECT {SUMMED}, {REST} FROM calls WHERE id > ? AND id <= ? ORDER BY id");
        let meant = |call: &CallRecord| (since..until).contains(&row::millis(call.time));
        self.explain(self.each(query, &sql, [after, newest], |_, call| {
            if meant(&call) { take(call) } else { ControlFlow::Continue(()) }
        }))?;
        Ok(newest.max(after))
    }

    /// The calls, newest first and at most `limit`, whose call id begins with `text` (from 4 hex digits on) or whose
    /// provider request id is `text`. Without an index on the latter, a miss reads the whole file: about a second for a
    /// million calls.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn find(&self, text: &str, limit: usize) -> Result<Vec<CallRecord>, LedgerError> {
        let mut found = Vec::new();
        let all = Query::default();
        let mut take = |call: CallRecord| {
            found.push(call);
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        if let Some((low, high)) = id_range(text) {
            // The first 48 bits of an id are the time.
            let sql = format!(
                "SELECT {SUMMED}, {REST} FROM calls WHERE time BETWEEN ? AND ? AND call_id BETWEEN ? AND ? ORDER BY time DESC"
            );
            let millis = |id: u128| (id >> 80) as i64;
            let params = (millis(low), millis(high), low.to_be_bytes(), high.to_be_bytes());
            self.explain(self.each(&all, &sql, params, |_, call| take(call)))?;
        }
        if found.is_empty() {
            let sql = format!("SELECT {SUMMED}, {REST} FROM calls WHERE provider_request_id = ? ORDER BY id DESC");
            let mut take = |call: CallRecord| {
                found.push(call);
                if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            self.explain(self.each(&all, &sql, [text], |_, call| take(call)))?;
        }
        Ok(found)
    }

    /// Sums of the calls that are meant, one group for each combination of values of `by`, in the order of the values;
    /// one group when `by` is empty and there is a call.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn totals(&self, query: &Query, by: &[Dimension]) -> Result<Vec<Group>, LedgerError> {
        self.explain(self.sum_up(query, by))
    }

    fn sum_up(&self, query: &Query, by: &[Dimension]) -> rusqlite::Result<Vec<Group>> {
        let transaction = self.connection.unchecked_transaction()?;
        let words = self.words(&transaction)?;
        let meant = words.meant(query);
        let bucket = match (by.contains(&Dimension::Hour), by.contains(&Dimension::Day)) {
            (true, _) => HOUR_MILLIS,
            (false, true) => 24 * HOUR_MILLIS,
            (false, false) => i64::MAX,
        };
        let (since, until) = query.time_range();
        // The index on time finds where to begin; from there the table itself is read, in the order of the file.
        let range = |order: &str, condition: &str, time: i64| {
            let sql = format!("SELECT {order}(id) FROM calls WHERE time {condition} ?");
            transaction.query_row(&sql, [time], |row| row.get::<_, Option<i64>>(0))
        };
        let first = if since == i64::MIN { Some(i64::MIN) } else { range("min", ">=", since)? };
        let last = if until == i64::MAX { Some(i64::MAX) } else { range("max", "<", until)? };
        let mut sums: HashMap<[i64; 4], Sums> = HashMap::new();
        if let (Some(first), Some(last)) = (first, last) {
            let sql =
                format!("SELECT {SUMMED} FROM calls NOT INDEXED WHERE id >= ? AND id <= ? AND time >= ? AND time < ?");
            let mut statement = transaction.prepare(&sql)?;
            let mut rows = statement.query([first, last, since, until])?;
            while let Some(row) = rows.next()? {
                let call = Summed::read(row, 0)?;
                if meant.takes(&call) && query.takes(&call) {
                    let at = [call.caller, call.target, call.result, call.time.div_euclid(bucket)];
                    sums.entry(at).or_default().add(&call);
                }
            }
        }
        let mut groups: BTreeMap<Vec<Arc<str>>, Totals> = BTreeMap::new();
        for ([caller, target, result, at], sums) in &sums {
            let found = &words.results[result];
            let values = by.iter().map(|dimension| words.value(*dimension, *caller, *target, found, at * bucket));
            groups.entry(values.collect()).or_default().add(&sums.totals(found));
        }
        Ok(groups.into_iter().map(|(values, totals)| Group { values, totals }).collect())
    }

    fn each(
        &self,
        query: &Query,
        sql: &str,
        params: impl rusqlite::Params,
        mut take: impl FnMut(&Summed, CallRecord) -> ControlFlow<()>,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        let words = self.words(&transaction)?;
        let meant = words.meant(query);
        let rest = SUMMED.split(',').count();
        let mut statement = transaction.prepare(sql)?;
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            let summed = Summed::read(row, 0)?;
            if !meant.takes(&summed) || !query.takes(&summed) {
                continue;
            }
            let (Some((caller, _)), Some(target), Some(found)) = (
                words.callers.get(&summed.caller),
                words.targets.get(&summed.target),
                words.results.get(&summed.result),
            ) else {
                continue;
            };
            if take(&summed, row::record(row, rest, &summed, (caller, target, found))?).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn words(&self, connection: &Connection) -> rusqlite::Result<Words> {
        let mut callers: Vec<(i64, Caller)> = read_all(connection, &CALLERS, Caller::read)?;
        // By the last day of a call, then by age: the newest name of a key comes last.
        callers.sort_by_key(|(id, _)| *id);
        let mut names: HashMap<Fingerprint, Named> = HashMap::new();
        for (_, caller) in &callers {
            if let (Some(key), Some(name)) = (&caller.key, &caller.key_name) {
                names.insert(key.clone(), Named { name: Arc::clone(name), team: caller.team.clone() });
            }
        }
        names.extend(self.names.iter().map(|(key, named)| (key.clone(), named.clone())));
        let callers = callers.into_iter().map(|(id, mut caller)| {
            let named = caller.key.as_ref().and_then(|key| names.get(key));
            let label = named.map(|named| Arc::clone(&named.name));
            if caller.key_name.is_none() {
                caller.key_name = label.clone();
                caller.team = caller.team.take().or_else(|| named.and_then(|named| named.team.clone()));
            }
            let label = label.unwrap_or_else(|| Arc::from(caller.key.as_ref().map_or("none", Fingerprint::as_str)));
            (id, (caller, label))
        });
        Ok(Words {
            callers: callers.collect(),
            targets: read_all(connection, &TARGETS, Target::read)?,
            results: read_all(connection, &RESULTS, Found::read)?,
        })
    }

    fn explain<T>(&self, result: rusqlite::Result<T>) -> Result<T, LedgerError> {
        result.map_err(|error| LedgerError::sqlite(&self.path, error))
    }
}

/// Ids of dictionary rows whose calls are meant.
struct Meant {
    callers: Vec<bool>,
    targets: Vec<bool>,
    results: Vec<bool>,
}

impl Meant {
    fn takes(&self, call: &Summed) -> bool {
        let is_in =
            |ids: &[bool], id: i64| usize::try_from(id).ok().and_then(|id| ids.get(id)).copied().unwrap_or(false);
        is_in(&self.callers, call.caller) && is_in(&self.targets, call.target) && is_in(&self.results, call.result)
    }
}

impl Words {
    fn meant(&self, query: &Query) -> Meant {
        Meant {
            callers: marked(&self.callers, |(caller, label)| query.takes_caller(caller, label)),
            targets: marked(&self.targets, |target| query.takes_target(target)),
            results: marked(&self.results, |found| query.takes_result(found)),
        }
    }

    fn value(&self, dimension: Dimension, caller: i64, target: i64, found: &Found, time: i64) -> Arc<str> {
        let none = || Arc::from("none");
        let (who, label) = &self.callers[&caller];
        let target = &self.targets[&target];
        match dimension {
            Dimension::Key => Arc::clone(label),
            Dimension::Team => who.team.clone().unwrap_or_else(none),
            Dimension::Client => who.client.clone().unwrap_or_else(none),
            Dimension::Model => target.model.clone().unwrap_or_else(none),
            Dimension::Provider => Arc::clone(&target.provider),
            Dimension::Operation => target.operation.as_str().into(),
            Dimension::Outcome => found.outcome.as_str().into(),
            Dimension::Day => moment(time)[..10].into(),
            Dimension::Hour => moment(time).replace('T', " ")[..16].into(),
        }
    }
}

fn moment(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).unwrap_or_default().to_string()
}

/// Rows whose id is not in the answer's range have been made up by somebody: they are left out.
fn marked<T>(words: &HashMap<i64, T>, takes: impl Fn(&T) -> bool) -> Vec<bool> {
    let mut ids = Vec::new();
    for (id, word) in words {
        if let Ok(id) = usize::try_from(*id)
            && takes(word)
        {
            if ids.len() <= id {
                ids.resize(id + 1, false);
            }
            ids[id] = true;
        }
    }
    ids
}

fn read_all<T, C: FromIterator<(i64, T)>>(
    connection: &Connection,
    table: &Table,
    read: fn(&Row<'_>, usize) -> rusqlite::Result<T>,
) -> rusqlite::Result<C> {
    let sql = format!("SELECT id, {} FROM {}", table.columns.join(", "), table.name);
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, read(row, 1)?)))?;
    rows.collect()
}

/// Ids that begin with these hex digits.
fn id_range(text: &str) -> Option<(u128, u128)> {
    let is_id = (4..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let start = u128::from_str_radix(text, 16).ok().filter(|_| is_id)?;
    let open = 128 - 4 * text.len() as u32;
    let low = start.checked_shl(open).unwrap_or(0);
    Some((low, low | 1u128.checked_shl(open).unwrap_or(0).wrapping_sub(1)))
}

fn connect(path: &Path) -> rusqlite::Result<(Connection, Kind)> {
    let open = |immutable: bool| -> rusqlite::Result<(Connection, Kind)> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = if immutable {
            let mut uri = url::Url::from_file_path(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
                .map_err(|()| rusqlite::Error::InvalidPath(path.to_owned()))?;
            uri.set_query(Some("immutable=1"));
            Connection::open_with_flags(uri.as_str(), flags | OpenFlags::SQLITE_OPEN_URI)?
        } else {
            Connection::open_with_flags(path, flags)?
        };
        connection.busy_timeout(BUSY)?;
        let kind = schema::kind(&connection)?;
        Ok((connection, kind))
    };
    open(false).or_else(|error| {
        // A copy in a place where SQLite cannot put its files beside it, and which nobody writes.
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let alone = std::fs::metadata(wal).map_or(true, |wal| wal.len() == 0);
        if alone { open(true).map_err(|_| error) } else { Err(error) }
    })
}
