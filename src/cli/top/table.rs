//! The views as tables: columns, rows, an order for each column. The screen and the snapshot draw the same ones.
//!
//! Texts that came from applications or providers lose their control and direction characters here.

use crate::admin::overview::{Health, KeyRow, Overview};
use crate::admin::text::{ago, duration, grouped, short, usd, usd_f64};
use crate::call::Money;
use crate::export::live::SumRow;

/// What can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Models,
    Outcomes,
    Findings,
    Calls,
    Clients,
}

/// Rows of one view.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Numbers stand to the right.
    pub(super) right: bool,
    /// Least width.
    pub(super) width: u16,
    /// Takes its share of what is left.
    pub(super) grows: bool,
    /// Shown from this width of the screen on.
    pub(super) from: u16,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) cells: Vec<Cell>,
    /// The key and provider whose detail it leads to.
    pub(super) key: Option<(String, String)>,
}

#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
    /// By which numbers are sorted, largest first; texts are sorted by themselves.
    order: Option<f64>,
}

/// How a cell is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
    Soft,
}

// === impl View ===

impl View {
    pub(super) const ALL: [View; 6] =
        [View::Keys, View::Models, View::Outcomes, View::Findings, View::Calls, View::Clients];

    pub(super) fn title(self) -> &'static str {
        match self {
            View::Keys => "Keys",
            View::Models => "Models",
            View::Outcomes => "Outcomes",
            View::Findings => "Findings",
            View::Calls => "Calls",
            View::Clients => "Clients",
        }
    }

    /// The column that says what is most worth seeing.
    pub(super) fn usual_sort(self) -> usize {
        match self {
            View::Keys => 2,
            View::Models | View::Clients => 6,
            View::Outcomes | View::Findings => 1,
            View::Calls => 0,
        }
    }
}

// === impl Table ===

impl Table {
    pub(super) fn of(view: View, overview: &Overview) -> Self {
        match view {
            View::Keys => keys(overview),
            View::Models => models(overview),
            View::Outcomes => outcomes(overview),
            View::Findings => findings(overview),
            View::Calls => calls(overview),
            View::Clients => clients(overview),
        }
    }

    /// Keeps rows with `text` in them, whatever its case.
    pub(super) fn filter(&mut self, text: &str) {
        let text = text.trim().to_lowercase();
        if !text.is_empty() {
            self.rows.retain(|row| row.cells.iter().any(|cell| cell.text.to_lowercase().contains(&text)));
        }
    }

    /// Numbers by size, the largest first, texts by letters; equal rows stay as they are.
    pub(super) fn sort(&mut self, column: usize, reversed: bool) {
        self.rows.sort_by(|a, b| {
            let (Some(a), Some(b)) = (a.cells.get(column), b.cells.get(column)) else {
                return std::cmp::Ordering::Equal;
            };
            let order = match (a.order, b.order) {
                (Some(a), Some(b)) => b.total_cmp(&a),
                (a, b) if a.is_some() != b.is_some() => b.is_some().cmp(&a.is_some()),
                _ => a.text.cmp(&b.text),
            };
            if reversed { order.reverse() } else { order }
        });
    }
}

// === impl Column, Cell ===

const fn text(title: &'static str, width: u16, grows: bool, from: u16) -> Column {
    Column { title, right: false, width, grows, from }
}

const fn number(title: &'static str, width: u16, from: u16) -> Column {
    Column { title, right: true, width, grows: false, from }
}

impl Cell {
    fn plain(text: &str) -> Self {
        Self { text: printable(text), tone: Tone::Plain, order: None }
    }

    fn toned(text: &str, tone: Tone) -> Self {
        Self { tone, ..Self::plain(text) }
    }

    fn ordered(text: String, order: f64) -> Self {
        let tone = if order == 0.0 { Tone::Soft } else { Tone::Plain };
        Self { text, tone, order: Some(order) }
    }

    fn count(count: u64) -> Self {
        Self::ordered(grouped(count), count as f64)
    }

    fn failures(count: u64) -> Self {
        let tone = if count > 0 { Tone::Bad } else { Tone::Soft };
        Self { tone, ..Self::count(count) }
    }

    fn money(money: Money) -> Self {
        Self::ordered(usd(money), money.as_f64())
    }

    fn time(time: Option<&str>, now: &str) -> Self {
        let seconds = |text: &str| text.parse::<jiff::Timestamp>().map_or(0.0, |time| time.as_millisecond() as f64);
        match time {
            Some(time) => Self { tone: Tone::Plain, ..Self::ordered(ago(time, now), seconds(time)) },
            None => Self::ordered("–".to_owned(), 0.0),
        }
    }
}

/// Without what a terminal acts on or what turns the direction of text.
pub(super) fn printable(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if acts(c) { '\u{fffd}' } else { c }).collect()
}

fn keys(overview: &Overview) -> Table {
    let periods = &overview.live.periods;
    let columns = vec![
        text("KEY", 18, true, 0),
        text("PROVIDER", 11, false, 0),
        text("HEALTH", 9, false, 0),
        number("LAST MIN", 9, 0),
        number(if periods.today_complete { "TODAY" } else { "TODAY*" }, 10, 0),
        number(if periods.month_complete { "MONTH" } else { "MONTH*" }, 10, 0),
        number("CALLS", 8, 90),
        number("FAILED", 7, 98),
        text("LAST FAILURE", 22, false, 122),
        text("TEAM", 12, false, 136),
        number("USED", 11, 150),
    ];
    let row = |row: &KeyRow| {
        let (live, failure) = (&row.live, row.last_failure.as_ref());
        let failing = matches!(row.health, Health::Failing | Health::Degraded);
        Row {
            cells: vec![
                Cell::plain(&live.key),
                Cell::toned(&live.provider, Tone::Soft),
                Cell { order: Some(-(row.health as u8 as f64)), ..Cell::toned(row.health.as_str(), tone(row.health)) },
                Cell::ordered(usd_f64(live.last_minute.usd), live.last_minute.usd),
                Cell::money(live.sum.today_usd),
                Cell::money(live.sum.month_usd),
                Cell::count(live.sum.calls),
                Cell::failures(live.sum.failures),
                Cell::toned(
                    failure.map_or("–", |failure| &failure.outcome),
                    if failing { tone(row.health) } else { Tone::Soft },
                ),
                Cell::plain(row.team.as_deref().unwrap_or("")),
                Cell::time(row.last_used.as_deref(), &overview.live.time),
            ],
            key: Some((live.key.to_string(), live.provider.to_string())),
        }
    };
    Table { columns, rows: overview.keys.iter().map(row).collect() }
}

/// The color of a health.
pub(super) fn tone(health: Health) -> Tone {
    match health {
        Health::Failing => Tone::Bad,
        Health::Degraded => Tone::Warn,
        Health::Ok => Tone::Good,
        Health::Quiet => Tone::Soft,
    }
}

fn sums(sum: &SumRow) -> [Cell; 5] {
    [
        Cell::count(sum.calls),
        Cell::failures(sum.failures),
        Cell::ordered(short(sum.input_tokens), sum.input_tokens as f64),
        Cell::ordered(short(sum.output_tokens), sum.output_tokens as f64),
        Cell::money(sum.spend_usd),
    ]
}

fn sum_columns(first: Column, second: Column) -> Vec<Column> {
    vec![
        first,
        second,
        number("CALLS", 8, 0),
        number("FAILED", 7, 0),
        number("IN", 7, 70),
        number("OUT", 7, 70),
        number("SPEND", 11, 0),
        number("UNPRICED", 9, 100),
    ]
}

fn models(overview: &Overview) -> Table {
    let rows = overview.live.models.iter().map(|row| {
        let mut cells = vec![Cell::plain(&row.model), Cell::toned(&row.provider, Tone::Soft)];
        cells.extend(sums(&row.sum));
        cells.push(Cell::count(row.sum.unpriced_calls));
        Row { cells, key: None }
    });
    Table { columns: sum_columns(text("MODEL", 18, true, 0), text("PROVIDER", 11, false, 0)), rows: rows.collect() }
}

fn clients(overview: &Overview) -> Table {
    let rows = overview.live.clients.iter().map(|row| {
        let mut cells = vec![Cell::plain(&row.client), Cell::plain("")];
        cells.extend(sums(&row.sum));
        cells.push(Cell::count(row.sum.unpriced_calls));
        Row { cells, key: None }
    });
    Table { columns: sum_columns(text("CLIENT", 18, true, 0), text("", 1, false, 0)), rows: rows.collect() }
}

fn outcomes(overview: &Overview) -> Table {
    let columns = vec![
        text("OUTCOME", 21, false, 0),
        number("CALLS", 8, 0),
        number("LAST HOUR", 10, 0),
        text("TO FIX", 9, false, 0),
        number("LAST", 11, 110),
        text("FIRST FIX", 20, true, 0),
    ];
    let rows = overview.live.outcomes.iter().map(|row| {
        let tone = if row.failure { Tone::Bad } else { Tone::Good };
        let nothing = if row.failure { "" } else { "–" };
        Row {
            cells: vec![
                Cell::toned(&row.outcome, tone),
                Cell::count(row.calls),
                Cell::count(row.last_hour.into()),
                Cell::plain(if row.failure { &row.fault } else { "–" }),
                Cell::time(Some(&row.last_time), &overview.live.time),
                Cell::plain(row.fix.as_deref().filter(|_| row.failure).unwrap_or(nothing)),
            ],
            key: None,
        }
    });
    Table { columns, rows: rows.collect() }
}

fn findings(overview: &Overview) -> Table {
    let columns = vec![
        text("FINDING", 23, false, 0),
        number("CALLS", 8, 0),
        text("LAST ON", 16, false, 0),
        number("LAST", 11, 100),
        text("WHAT TO DO", 20, true, 0),
    ];
    let rows = overview.live.findings.iter().map(|row| Row {
        cells: vec![
            Cell::toned(&row.finding, Tone::Warn),
            Cell::count(row.calls),
            Cell::plain(&row.last_key),
            Cell::time(Some(&row.last_time), &overview.live.time),
            Cell::plain(row.fix.as_deref().unwrap_or_default()),
        ],
        key: Some((row.last_key.clone(), row.last_provider.to_string())),
    });
    Table { columns, rows: rows.collect() }
}

fn calls(overview: &Overview) -> Table {
    let columns = vec![
        number("BEGAN", 10, 0),
        text("KEY", 14, false, 0),
        text("PROVIDER", 11, false, 96),
        text("MODEL", 18, true, 0),
        text("OUTCOME", 20, false, 0),
        number("IN", 7, 110),
        number("OUT", 7, 110),
        number("COST", 9, 0),
        number("FIRST", 8, 120),
        number("TOOK", 8, 86),
    ];
    let rows = overview.live.calls.iter().map(|call| {
        let tokens = |count: Option<u64>| match count {
            Some(count) => Cell::ordered(short(count), count as f64),
            None => Cell::ordered("–".to_owned(), 0.0),
        };
        let tone = match (call.failure, &*call.outcome) {
            (true, _) => Tone::Bad,
            (false, "ok") => Tone::Good,
            (false, _) => Tone::Warn,
        };
        let cost = call.cost_usd.map_or_else(|| Cell::ordered("–".to_owned(), 0.0), Cell::money);
        let first = call.first_output_seconds;
        let first = first.map_or_else(|| Cell::ordered("–".to_owned(), 0.0), |s| Cell::ordered(duration(s), s));
        Row {
            cells: vec![
                Cell::time(Some(&call.time), &overview.live.time),
                Cell::plain(&call.key),
                Cell::toned(&call.provider, Tone::Soft),
                Cell::plain(call.model.as_deref().unwrap_or(&call.operation)),
                Cell::toned(&call.outcome, tone),
                tokens(call.input_tokens),
                tokens(call.output_tokens),
                cost,
                first,
                Cell::ordered(duration(call.duration_seconds), call.duration_seconds),
            ],
            key: Some((call.key.clone(), call.provider.to_string())),
        }
    });
    Table { columns, rows: rows.collect() }
}
