//! What goes on now: sums by key, model, client and outcome, spend by the minute, today's and this month's, the last calls.
//!
//! In: each [`CallRecord`] once, on the task that settles the call; from the ledger, once, what today and this month had
//! come to before this process ([`Live::seed`]). Out: a [`LiveView`], for the status page and `keytally top`. Days and
//! months are UTC, as the providers bill them. A clock that goes back adds to the period that is open.
//!
//! Adding a call takes one short lock and a few integer additions; the last calls share their records. Bounds:
//! [`MAX_KEYS`], [`MAX_MODELS`] and [`MAX_CLIENTS`] rows (keys that configuration names always have one at each provider where
//! they are used), what is over them is added up under `other`; [`LAST_CALLS`] and [`LAST_FAILURES`] records. Worst case some
//! 2 MiB, and under 3 KiB for each row of a key with a configured name.

mod ring;
mod view;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use foldhash::HashMap;

use crate::call::{CallRecord, Finding, Money, Outcome, UnpricedReason, UsageSource};
use ring::Ring;

pub use view::{
    CallRow, ClientRow, Filter, FindingRow, KeyLive, LiveView, MinuteRow, ModelRow, ModelShare, OutcomeCount,
    OutcomeRow, Periods, SumRow,
};

/// Rows of keys without a configured name; a key has one at each provider where it is used.
pub const MAX_KEYS: usize = 300;
/// Rows of models.
pub const MAX_MODELS: usize = 300;
/// Rows of clients.
pub const MAX_CLIENTS: usize = 100;
/// Models that are told apart for one key.
const MODELS_OF_KEY: usize = 16;
/// Calls that are kept.
pub const LAST_CALLS: usize = 200;
/// Failures that are kept beyond that, so that busy keys do not push the trouble of a quiet one out.
pub const LAST_FAILURES: usize = 100;
/// Minutes of spend.
pub const MINUTES: usize = 60;
/// The last minute, in slots of [`SLOT_SECONDS`].
const SLOTS: usize = 12;
const SLOT_SECONDS: u64 = 5;

const OTHER: &str = "other";

/// What one key spent at one provider in a period before this process started.
#[derive(Clone, Debug)]
pub struct Before {
    /// Name, else fingerprint, else `none`.
    pub key: String,
    /// The key had a configured name.
    pub named: bool,
    /// Catalogue id.
    pub provider: Arc<str>,
    /// Calls.
    pub calls: u64,
    /// Priced spend.
    pub spend: Money,
}

/// The live view. Shared by all calls.
#[derive(Debug)]
pub struct Live {
    started: SystemTime,
    none: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    total: Row,
    seconds: Ring<SLOTS>,
    minutes: Ring<MINUTES>,
    /// By label; a key is mostly used at one provider.
    keys: HashMap<Arc<str>, Vec<(Arc<str>, KeyState)>>,
    /// Rows that count against [`MAX_KEYS`].
    unnamed: usize,
    models: HashMap<(Arc<str>, Arc<str>), Row>,
    clients: HashMap<Arc<str>, Row>,
    outcomes: HashMap<Outcome, OutcomeState>,
    findings: HashMap<Finding, FindingState>,
    calls: VecDeque<Arc<CallRecord>>,
    failures: VecDeque<Arc<CallRecord>>,
    seeded: Seeded,
}

/// For which periods the ledger said what came before.
#[derive(Clone, Copy, Debug, Default)]
struct Seeded {
    day: Option<i64>,
    month: Option<i64>,
    /// Its oldest call.
    from: Option<SystemTime>,
}

/// Sums since start, and of the running day and month.
#[derive(Clone, Debug, Default)]
struct Row {
    calls: u64,
    failures: u64,
    input_tokens: u64,
    output_tokens: u64,
    spend: Money,
    estimated: Money,
    unpriced: u64,
    day: Period,
    month: Period,
}

/// Calls and spend of one day or month, by its number; a later one begins at 0.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    number: i64,
    calls: u64,
    spend: Money,
}

#[derive(Debug, Default)]
struct KeyState {
    row: Row,
    seconds: Ring<SLOTS>,
    minutes: Ring<MINUTES>,
    outcomes: HashMap<Outcome, u64>,
    models: Vec<(Arc<str>, u64, Money)>,
}

#[derive(Debug, Default)]
struct OutcomeState {
    calls: u64,
    minutes: Ring<MINUTES>,
    last: Option<Arc<CallRecord>>,
}

#[derive(Debug, Default)]
struct FindingState {
    calls: u64,
    last: Option<Arc<CallRecord>>,
}

/// Where a call falls in time.
#[derive(Clone, Copy, Debug)]
struct Moment {
    seconds: u64,
    day: i64,
    month: i64,
}

// === impl Live ===

impl Live {
    /// Nothing seen yet.
    pub fn new(started: SystemTime) -> Self {
        Self { started, none: "none".into(), state: Mutex::default() }
    }

    /// Adds a call that ended at `now`.
    pub fn observe(&self, record: &Arc<CallRecord>, now: SystemTime) {
        let moment = Moment::of(now);
        let slot = (record.outcome.is_failure(), record.cost.unwrap_or(Money::ZERO));
        let mut state = self.lock();
        let state = &mut *state;
        state.total.add(record, moment);
        state.seconds.add(moment.slot(), slot);
        state.minutes.add(moment.minute(), slot);

        let key = state.key(record.key_label(), &record.provider, record.key_name.is_some());
        key.row.add(record, moment);
        key.seconds.add(moment.slot(), slot);
        key.minutes.add(moment.minute(), slot);
        *key.outcomes.entry(record.outcome).or_default() += 1;
        key.add_model(record);

        let model = (record.provider.clone(), record.model_label.clone());
        row(&mut state.models, model, MAX_MODELS, |(provider, _)| (provider.clone(), OTHER.into())).add(record, moment);
        let client = record.client.as_ref().unwrap_or(&self.none).clone();
        row(&mut state.clients, client, MAX_CLIENTS, |_| OTHER.into()).add(record, moment);

        let outcome = state.outcomes.entry(record.outcome).or_default();
        outcome.calls += 1;
        outcome.minutes.add(moment.minute(), slot);
        outcome.last = Some(record.clone());
        for finding in &record.findings {
            let state = state.findings.entry(*finding).or_default();
            state.calls += 1;
            state.last = Some(record.clone());
        }
        push(&mut state.calls, record, LAST_CALLS);
        if record.outcome.is_failure() {
            push(&mut state.failures, record, LAST_FAILURES);
        }
    }

    /// Adds what the running day and month had come to before this process started. To be called once, with what was
    /// read of the ledger at `at`, which knows of calls from `from` on; of a period that has ended meanwhile nothing is
    /// added.
    pub fn seed(&self, day: &[Before], month: &[Before], from: SystemTime, at: SystemTime) {
        let (asked, now) = (Moment::of(at), Moment::of(SystemTime::now()));
        let mut state = self.lock();
        state.seeded.from.get_or_insert(from);
        if asked.day == now.day && state.seeded.day.is_none() {
            state.seeded.day = Some(asked.day);
            state.add_before(day, asked.day, |row| &mut row.day);
        }
        if asked.month == now.month && state.seeded.month.is_none() {
            state.seeded.month = Some(asked.month);
            state.add_before(month, asked.month, |row| &mut row.month);
        }
    }

    /// When this process started.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// When the day and the month of `at` began.
    pub fn period_starts(at: SystemTime) -> (SystemTime, SystemTime) {
        let moment = Moment::of(at);
        (start_of_day(moment.day), start_of_month(moment.month))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// The row of a key at a provider; one without a configured name has one only while there is room.
    fn key(&mut self, key: &str, provider: &Arc<str>, named: bool) -> &mut KeyState {
        let rows = self.keys.get(key);
        let known = rows.is_some_and(|rows| rows.iter().any(|(known, _)| known == provider));
        let (key, provider) = if known || named || self.unnamed < MAX_KEYS {
            self.unnamed += usize::from(!known && !named);
            (key, provider.clone())
        } else {
            (OTHER, OTHER.into())
        };
        if !self.keys.contains_key(key) {
            self.keys.insert(key.into(), Vec::new());
        }
        let providers = self.keys.get_mut(key).expect("it was put in if it was not there");
        let at = providers.iter().position(|(known, _)| *known == provider).unwrap_or_else(|| {
            providers.push((provider, KeyState::default()));
            providers.len() - 1
        });
        &mut providers[at].1
    }

    fn add_before(&mut self, before: &[Before], number: i64, period: fn(&mut Row) -> &mut Period) {
        for row in before {
            period(&mut self.key(&row.key, &row.provider, row.named).row).add(number, row.calls, row.spend);
            period(&mut self.total).add(number, row.calls, row.spend);
        }
    }
}

/// The row for `key`, or that of `rest` when there is no room.
fn row<K: Hash + Eq + Clone>(rows: &mut HashMap<K, Row>, key: K, max: usize, rest: impl Fn(&K) -> K) -> &mut Row {
    let key = if rows.len() < max || rows.contains_key(&key) { key } else { rest(&key) };
    rows.entry(key).or_default()
}

fn push(calls: &mut VecDeque<Arc<CallRecord>>, record: &Arc<CallRecord>, max: usize) {
    if calls.len() == max {
        calls.pop_front();
    }
    calls.push_back(record.clone());
}

// === impl Row, KeyState, Period ===

impl Row {
    fn add(&mut self, record: &CallRecord, moment: Moment) {
        let cost = record.cost.unwrap_or(Money::ZERO);
        self.calls += 1;
        self.failures += u64::from(record.outcome.is_failure());
        // What was billed with an earlier call was also counted with it.
        if record.unpriced_reason != Some(UnpricedReason::RepeatedUsage) {
            self.input_tokens = self.input_tokens.saturating_add(record.usage.input_tokens.unwrap_or(0));
            self.output_tokens = self.output_tokens.saturating_add(record.usage.output_tokens.unwrap_or(0));
        }
        self.spend += cost;
        if record.usage_source == UsageSource::Estimated {
            self.estimated += cost;
        }
        self.unpriced += u64::from(lacks_price(record));
        self.day.add(moment.day, 1, cost);
        self.month.add(moment.month, 1, cost);
    }
}

/// It should cost something, and no price is known.
fn lacks_price(record: &CallRecord) -> bool {
    use UnpricedReason::{NoModel, NoRate, UnknownModel, UnknownProvider};
    let unknown = matches!(record.unpriced_reason, Some(NoModel | UnknownModel | UnknownProvider | NoRate));
    unknown && (record.outcome == Outcome::Ok || !record.usage.is_empty())
}

impl KeyState {
    fn add_model(&mut self, record: &CallRecord) {
        let cost = record.cost.unwrap_or(Money::ZERO);
        let known = self.models.iter().position(|(model, ..)| *model == record.model_label);
        let at = known.unwrap_or_else(|| {
            if self.models.len() < MODELS_OF_KEY {
                self.models.push((record.model_label.clone(), 0, Money::ZERO));
            } else if self.models.len() == MODELS_OF_KEY {
                self.models.push((OTHER.into(), 0, Money::ZERO));
            }
            self.models.len() - 1
        });
        let (_, calls, spend) = &mut self.models[at];
        *calls += 1;
        *spend += cost;
    }
}

impl Period {
    fn add(&mut self, number: i64, calls: u64, spend: Money) {
        if number > self.number {
            *self = Self { number, ..Self::default() };
        }
        self.calls += calls;
        self.spend += spend;
    }

    /// What the period `number` came to.
    fn of(&self, number: i64) -> (u64, Money) {
        // Not equal: with a clock that went back, calls are in a period that is still to come.
        if self.number >= number { (self.calls, self.spend) } else { (0, Money::ZERO) }
    }
}

// === impl Moment ===

impl Moment {
    fn of(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let day = (seconds / 86_400).min(3_000_000) as i64;
        let date = jiff::civil::date(1970, 1, 1).saturating_add(jiff::Span::new().days(day));
        Self { seconds, day, month: i64::from(date.year()) * 12 + i64::from(date.month()) - 1 }
    }

    fn slot(self) -> u64 {
        self.seconds / SLOT_SECONDS
    }

    fn minute(self) -> u64 {
        self.seconds / 60
    }
}

fn start_of_day(day: i64) -> SystemTime {
    UNIX_EPOCH + std::time::Duration::from_secs(day.max(0) as u64 * 86_400)
}

fn start_of_month(month: i64) -> SystemTime {
    let (year, month) = (month.div_euclid(12), month.rem_euclid(12) + 1);
    let year = i16::try_from(year).unwrap_or(i16::MAX).clamp(1970, 9999);
    let first = jiff::civil::date(year, month as i8, 1);
    let days = first.since(jiff::civil::date(1970, 1, 1)).map_or(0, |span| i64::from(span.get_days()));
    start_of_day(days)
}
