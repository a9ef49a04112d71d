//! What the table shows, gathered from the sidecar's call records and from nothing else.
//!
//! In: each [`CallRecord`] once. Out: plain numbers and texts for [`super::render`]. Bounds: [`MAX_KEYS`] keys (later ones
//! are counted in the totals only), the last [`LATEST`] calls, the last [`RECENT`] outcomes and [`SPENT`] costs of a key.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::call::{CallRecord, Fault, Finding, Money, Outcome, UnpricedReason, UsageSource};

use super::story::Scene;

/// Most keys in the table.
pub const MAX_KEYS: usize = 40;
/// Calls in the list of the latest, when it has room for them.
pub const LATEST: usize = 12;
/// Outcomes in a key's strip.
pub const RECENT: usize = 12;
/// Costs that a key's rate is made of, at most.
const SPENT: usize = 1_000;
/// Spend this many times the usual is shown as unusual, from [`WORTH_SAYING`] dollars an hour on.
const UNUSUAL: f64 = 6.0;
const WORTH_SAYING: f64 = 1.0;

/// Everything on the screen.
#[derive(Debug)]
pub struct View {
    /// Where the sidecar takes calls.
    pub proxy: SocketAddr,
    /// Where it shows its metrics.
    pub admin: SocketAddr,
    /// When the demo began.
    pub began: SystemTime,
    /// How long it runs.
    pub elapsed: Duration,
    /// How long a spend rate looks back, and how long a problem stays on the screen after its last failure.
    pub window: Duration,
    /// The script's words.
    pub scene: Scene,
    /// One row a key, by team and name.
    pub keys: Vec<KeyRow>,
    /// The latest calls, oldest first.
    pub latest: VecDeque<CallRow>,
    /// Sums.
    pub totals: Totals,
}

/// One key.
#[derive(Clone, Debug, Default)]
pub struct KeyRow {
    /// Its name, else its fingerprint.
    pub key: String,
    /// Its team.
    pub team: String,
    /// Providers that it was sent to.
    pub providers: Vec<String>,
    /// Calls that ended.
    pub calls: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Tokens in.
    pub input_tokens: u64,
    /// Tokens out.
    pub output_tokens: u64,
    /// Money spent.
    pub spend: Money,
    /// How the last calls ended, oldest first.
    pub recent: VecDeque<Outcome>,
    /// What the last call's record says of the key itself.
    pub findings: Vec<Finding>,
    /// The last failure.
    pub problem: Option<Problem>,
    /// When its first call ended.
    first: Duration,
    /// When its last call ended.
    pub last: Duration,
    spent: VecDeque<(Duration, Money)>,
    /// Spend of the window that runs now, and when it began.
    open: (Duration, Money),
    /// Spend of earlier windows with any, and how long those were together.
    closed: (Duration, Money),
}

/// A failure, as the record tells it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What it was.
    pub outcome: Outcome,
    /// Whose side must act.
    pub fault: Fault,
    /// HTTP status.
    pub status: Option<u16>,
    /// The provider's code or type.
    pub code: Option<String>,
    /// Whom the call went to.
    pub provider: String,
    /// Which model it asked for.
    pub model: String,
    /// What else is known of the key.
    pub findings: Vec<Finding>,
    /// What to do first.
    pub fix: Option<String>,
    /// When this kind of failure was first seen in a row of such.
    pub since: Duration,
    /// When it was last seen.
    pub last: Duration,
    /// How often.
    pub count: u64,
}

/// One call.
#[derive(Clone, Debug)]
pub struct CallRow {
    /// When it started, from the start of the demo.
    pub at: Duration,
    /// Name or fingerprint of its key.
    pub key: String,
    /// Whom it went to.
    pub provider: String,
    /// What it asked for.
    pub operation: &'static str,
    /// The model that answered, else the one asked for.
    pub model: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Tokens in.
    pub input_tokens: Option<u64>,
    /// Tokens out.
    pub output_tokens: Option<u64>,
    /// The tokens are keytally's estimate.
    pub estimated: bool,
    /// Money; `None` when it has no price.
    pub cost: Option<Money>,
    /// Local models cost nothing.
    pub free: bool,
    /// To the first output of a stream.
    pub first_output: Option<Duration>,
    /// To the end.
    pub total: Duration,
}

/// How fast a key spends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Dollars an hour at the pace of the last window.
    pub now: f64,
    /// How many times its usual rate this is, when that is worth saying.
    pub unusual: Option<f64>,
}

/// Sums over all calls.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Calls that ended.
    pub calls: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Tokens in.
    pub input_tokens: u64,
    /// Tokens out.
    pub output_tokens: u64,
    /// Money.
    pub spend: Money,
    /// Part of it that rests on estimated tokens.
    pub estimated: Money,
    /// Calls with tokens that should cost something and have no price.
    pub unpriced: u64,
}

// === impl View ===

impl View {
    /// An empty screen.
    pub fn new(proxy: SocketAddr, admin: SocketAddr, began: SystemTime, scene: Scene, window: Duration) -> Self {
        Self {
            proxy,
            admin,
            began,
            elapsed: Duration::ZERO,
            window,
            scene,
            keys: Vec::new(),
            latest: VecDeque::with_capacity(LATEST),
            totals: Totals::default(),
        }
    }

    /// Adds one call that has ended now. `fix` is the text of the record's first fix.
    pub fn observe(&mut self, record: &CallRecord, fix: Option<String>) {
        let now = self.elapsed;
        let failed = record.outcome.is_failure();
        let usage = &record.usage;
        let (input, output) = (usage.input_tokens.unwrap_or(0), usage.output_tokens.unwrap_or(0));
        let cost = record.cost.unwrap_or(Money::ZERO);
        let estimated = record.usage_source == UsageSource::Estimated;

        let totals = &mut self.totals;
        totals.calls += 1;
        totals.failures += u64::from(failed);
        totals.input_tokens += input;
        totals.output_tokens += output;
        totals.spend += cost;
        if estimated {
            totals.estimated += cost;
        }
        totals.unpriced += u64::from(lacks_price(record));

        let model = record.response_model.as_deref().or(record.request_model.as_deref()).unwrap_or("");
        if self.latest.len() == LATEST {
            self.latest.pop_front();
        }
        self.latest.push_back(CallRow {
            at: record.time.duration_since(self.began).unwrap_or_default(),
            key: record.key_label().to_owned(),
            provider: record.provider.to_string(),
            operation: record.operation.as_str(),
            model: model.to_owned(),
            outcome: record.outcome,
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            estimated,
            cost: record.cost,
            free: record.unpriced_reason == Some(UnpricedReason::Free),
            first_output: record.timing.first_output,
            total: record.timing.total,
        });

        let Some(row) = self.row(record) else { return };
        row.calls += 1;
        row.failures += u64::from(failed);
        row.input_tokens += input;
        row.output_tokens += output;
        row.spend += cost;
        push(&mut row.recent, record.outcome, RECENT);
        push(&mut row.spent, (now, cost), SPENT);
        row.open.1 += cost;
        row.last = now;
        row.findings.clone_from(&record.findings);
        if !row.providers.iter().any(|provider| **provider == *record.provider) {
            row.providers.push(record.provider.to_string());
        }
        if failed {
            let again = row.problem.as_ref().filter(|p| p.outcome == record.outcome && *p.provider == *record.provider);
            let (since, count) = again.map_or((now, 0), |problem| (problem.since, problem.count));
            row.problem = Some(Problem {
                outcome: record.outcome,
                fault: record.fault,
                status: record.status,
                code: record.error_code.clone().or_else(|| record.error_type.clone()),
                provider: record.provider.to_string(),
                model: record.request_model.clone().unwrap_or_default(),
                findings: record.findings.clone(),
                fix,
                since,
                last: now,
                count: count + 1,
            });
        }
    }

    /// Moves the clock and forgets problems that are over.
    pub fn tick(&mut self, elapsed: Duration, scene: Scene) {
        self.elapsed = elapsed;
        self.scene = scene;
        for row in &mut self.keys {
            if elapsed.saturating_sub(row.open.0) >= self.window {
                if row.open.1 > Money::ZERO {
                    row.closed = (row.closed.0 + elapsed.saturating_sub(row.open.0), row.closed.1 + row.open.1);
                }
                row.open = (elapsed, Money::ZERO);
            }
            row.problem.take_if(|problem| elapsed.saturating_sub(problem.last) > self.window);
            while row.spent.front().is_some_and(|(at, _)| elapsed.saturating_sub(*at) > self.window) {
                row.spent.pop_front();
            }
        }
    }

    /// What is wrong now, newest first.
    pub fn problems(&self) -> Vec<(&KeyRow, &Problem)> {
        let mut all: Vec<_> = self.keys.iter().filter_map(|row| Some((row, row.problem.as_ref()?))).collect();
        all.sort_by_key(|(_, problem)| std::cmp::Reverse(problem.since));
        all
    }

    /// What this key spends.
    pub fn rate(&self, row: &KeyRow) -> Rate {
        let window = self.window.min(self.elapsed.saturating_sub(row.first));
        let spent: Money = row.spent.iter().map(|(_, cost)| *cost).sum();
        let now = hourly(spent, window);
        // What it spent while it spent anything: a key that was broken for a while is not a spender afterwards.
        let usual =
            Some(row.closed).filter(|(time, _)| *time >= 2 * self.window).map(|(time, money)| hourly(money, time));
        let times = usual.filter(|usual| *usual > 0.0).map(|usual| now / usual);
        Rate { now, unusual: times.filter(|times| *times >= UNUSUAL && now >= WORTH_SAYING) }
    }

    /// Whether this key has not been used for a while.
    pub fn is_idle(&self, row: &KeyRow) -> bool {
        self.elapsed.saturating_sub(row.last) > self.window
    }

    /// The row of a record's key: named keys come first, by name of team and key; the others in the order of arrival.
    fn row(&mut self, record: &CallRecord) -> Option<&mut KeyRow> {
        let key = record.key_label();
        if let Some(index) = self.keys.iter().position(|row| row.key == key) {
            return self.keys.get_mut(index);
        }
        if self.keys.len() == MAX_KEYS {
            return None;
        }
        let row = KeyRow {
            key: key.to_owned(),
            team: record.team.as_deref().unwrap_or("").to_owned(),
            first: self.elapsed,
            open: (self.elapsed, Money::ZERO),
            ..KeyRow::default()
        };
        let rank = |row: &KeyRow| (row.team.is_empty(), row.team.clone(), row.key.clone());
        let index = if row.team.is_empty() {
            self.keys.len()
        } else {
            self.keys.partition_point(|other| rank(other) < rank(&row))
        };
        self.keys.insert(index, row);
        self.keys.get_mut(index)
    }
}

/// A rate over less than a second would be noise.
fn hourly(money: Money, time: Duration) -> f64 {
    money.as_f64() * 3_600.0 / time.as_secs_f64().max(1.0)
}

fn push<T>(queue: &mut VecDeque<T>, value: T, capacity: usize) {
    if queue.len() == capacity {
        queue.pop_front();
    }
    queue.push_back(value);
}

/// Tokens were used, nobody knows what they cost, and it is not known to be nothing.
fn lacks_price(record: &CallRecord) -> bool {
    use UnpricedReason::{Free, NotBilled, RepeatedUsage};
    record.cost.is_none()
        && !record.usage.is_empty()
        && !matches!(record.unpriced_reason, Some(Free | NotBilled | RepeatedUsage))
}

#[cfg(test)]
pub(super) mod tests {

    use super::*;
    use crate::call::*;
    use crate::demo::story::Story;

    /// A call that went well, of a key in a team.
    pub(in crate::demo) fn record(key: &str, outcome: Outcome) -> CallRecord {
        CallRecord {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
            server_address: "127.0.0.1".into(),
            server_port: 1,
            request_model: Some("gpt-4.1".to_owned()),
            model_label: "gpt-4.1".into(),
            key_name: Some(key.into()),
            team: Some("search".into()),
            status: Some(200),
            outcome,
            fault: Fault::None,
            retryable: false,
            end: End::Complete,
            usage: Usage { input_tokens: Some(1_000), output_tokens: Some(200), ..Usage::default() },
            usage_source: UsageSource::Reported,
            cost: Money::parse("0.0036"),
            timing: Timing { total: Duration::from_millis(640), ..Timing::default() },
            request_bytes: 10,
            response_bytes: 10,
            ..crate::export::tests::bare()
        }
    }

    pub(in crate::demo) fn view() -> View {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let story = Story { minute: Duration::from_secs(60) };
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(90);
        View::new(address(4141), address(4140), began, story.at(Duration::ZERO), Duration::from_secs(20))
    }

    fn tick(view: &mut View, secs: u64) {
        let elapsed = Duration::from_secs(secs);
        view.tick(elapsed, Story { minute: Duration::from_secs(60) }.at(elapsed));
    }

    #[test]
    fn rows_add_up_to_the_totals() {
        let mut view = view();
        for (key, outcome) in [("b", Outcome::Ok), ("a", Outcome::Ok), ("b", Outcome::AuthInvalid)] {
            view.observe(&record(key, outcome), None);
        }
        let names: Vec<_> = view.keys.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(view.keys.iter().map(|row| row.calls).sum::<u64>(), view.totals.calls);
        assert_eq!(view.keys.iter().map(|row| row.spend).sum::<Money>(), view.totals.spend);
        assert_eq!((view.totals.failures, view.keys[1].failures), (1, 1));
        assert_eq!(view.totals.spend, Money::parse("0.0108").expect("a number"));
    }

    #[test]
    fn a_problem_is_counted_and_forgotten_when_it_is_over() {
        let mut view = view();
        tick(&mut view, 5);
        view.observe(&record("a", Outcome::AuthInvalid), Some("put a live key in place".to_owned()));
        tick(&mut view, 9);
        view.observe(&record("a", Outcome::AuthInvalid), Some("put a live key in place".to_owned()));
        view.observe(&record("a", Outcome::Ok), None);
        let (row, problem) = view.problems()[0];
        assert_eq!((row.key.as_str(), problem.count, problem.since), ("a", 2, Duration::from_secs(5)));
        assert_eq!(problem.fix.as_deref(), Some("put a live key in place"));
        tick(&mut view, 30);
        assert!(view.problems().is_empty());
    }

    #[test]
    fn cancelled_calls_are_no_failures_and_free_ones_not_unpriced() {
        let mut view = view();
        let mut free = record("a", Outcome::ClientCancelled);
        (free.cost, free.unpriced_reason) = (None, Some(UnpricedReason::Free));
        view.observe(&free, None);
        assert_eq!((view.totals.failures, view.totals.unpriced), (0, 0));
        free.unpriced_reason = Some(UnpricedReason::UnknownModel);
        view.observe(&free, None);
        assert_eq!(view.totals.unpriced, 1);
        free.usage = Usage::default();
        view.observe(&free, None);
        assert_eq!(view.totals.unpriced, 1, "a call without tokens lacks no price");
    }

    #[test]
    fn only_estimated_spend_is_in_the_estimated_share() {
        let mut view = view();
        view.observe(&record("a", Outcome::Ok), None);
        let mut estimated = record("a", Outcome::ClientCancelled);
        estimated.usage_source = UsageSource::Estimated;
        view.observe(&estimated, None);
        assert_eq!(view.totals.estimated, Money::parse("0.0036").expect("a number"));
        assert_eq!(view.totals.spend, Money::parse("0.0072").expect("a number"));
    }

    #[test]
    fn a_spend_rate_far_above_the_usual_is_unusual() {
        let mut view = view();
        for second in 0..120 {
            tick(&mut view, second);
            view.observe(&record("a", Outcome::Ok), None);
        }
        let rate = view.rate(&view.keys[0]);
        assert!(
            (12.0..15.0).contains(&rate.now) && rate.unusual.is_none(),
            "{rate:?}: $0.0036 a second, $12.96 an hour"
        );
        for second in 120..130 {
            tick(&mut view, second);
            for _ in 0..20 {
                view.observe(&record("a", Outcome::Ok), None);
            }
        }
        let rate = view.rate(&view.keys[0]);
        assert!(rate.now > 60.0 && rate.unusual.is_some_and(|times| (6.0..20.0).contains(&times)), "{rate:?}");
    }

    #[test]
    fn a_key_that_works_again_is_no_big_spender() {
        let mut view = view();
        for second in 0..300 {
            tick(&mut view, second);
            let mut one = record("a", Outcome::AuthInvalid);
            if (60..260).contains(&second) {
                one.cost = None;
            }
            view.observe(&one, None);
        }
        assert_eq!(view.rate(&view.keys[0]).unusual, None);
    }

    #[test]
    fn a_key_that_nobody_uses_is_idle() {
        let mut view = view();
        view.observe(&record("a", Outcome::Ok), None);
        tick(&mut view, 19);
        assert!(!view.is_idle(&view.keys[0]));
        tick(&mut view, 21);
        assert!(view.is_idle(&view.keys[0]));
    }

    #[test]
    fn nothing_grows_without_end() {
        let mut view = view();
        for number in 0..3_000 {
            view.observe(&record(&format!("key-{}", number % 100), Outcome::Ok), None);
        }
        assert_eq!((view.keys.len(), view.latest.len(), view.totals.calls), (MAX_KEYS, LATEST, 3_000));
        assert!(view.keys.iter().all(|row| row.recent.len() <= RECENT && row.spent.len() <= SPENT));
    }
}
