//! `keytally statement`: one month's account by team and key, against the month before, from the ledger.
//!
//! In: the ledger. Out: Markdown, CSV or JSON on standard output. Months are those of UTC. What rests on estimates, what has no
//! price, and what was paid for calls that failed is told apart, and so is what the ledger cannot know: a month that is not
//! over, or one that began before its oldest call.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde_json::{Map, Value, json};
use unicode_width::UnicodeWidthStr;

use super::ledger::{LedgerArgs, minute, rfc3339};
use super::sheet::Sheet;
use super::usage::fields;
use super::{Exit, fail, print};
use crate::call::Money;
use crate::ledger::{Dimension, Query, Reader, Totals};
use crate::terminal::{clean, decimals, dollars, grouped, share, shown_key};

/// Flags of `statement`.
#[derive(Args, Clone, Debug)]
pub(super) struct StatementArgs {
    /// The month, for instance 2026-11 [default: the present one]
    #[arg(long, value_name = "MONTH", value_parser = month)]
    month: Option<Date>,
    /// Form of the answer
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Markdown)]
    format: Form,
    #[command(flatten)]
    ledger: LedgerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Markdown,
    /// For spreadsheets
    Csv,
    /// For programs
    Json,
}

/// Reads `2026-11` as its first day.
fn month(text: &str) -> Result<Date, String> {
    let first = (text.len() == 7).then(|| format!("{text}-01").parse::<Date>().ok()).flatten();
    first.ok_or_else(|| "not a month; write year and month, for instance 2026-11".to_owned())
}

/// Sums of two months.
#[derive(Clone, Debug, Default)]
struct Line {
    now: Totals,
    before: Totals,
}

struct Statement {
    month: Date,
    before: Date,
    now: SystemTime,
    /// Start of the oldest call in the ledger.
    oldest: Option<SystemTime>,
    teams: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Line>>,
}

pub(super) fn run(args: StatementArgs) -> Exit {
    let format = args.format;
    let made = (|| {
        let (reader, _) = args.ledger.open()?;
        let now = SystemTime::now();
        let today = Timestamp::try_from(now)?.to_zoned(TimeZone::UTC).date();
        let statement = Statement::make(&reader, args.month.unwrap_or_else(|| today.first_of_month()), now)?;
        Ok(match format {
            Form::Markdown => statement.markdown(),
            Form::Csv => statement.csv()?,
            Form::Json => format!("{:#}\n", statement.json()),
        })
    })();
    match made {
        Ok(text) => print(&text),
        Err(error) => fail(&error),
    }
}

fn start(date: Date) -> anyhow::Result<SystemTime> {
    Ok(date.to_zoned(TimeZone::UTC)?.timestamp().into())
}

fn name(date: Date) -> String {
    date.strftime("%B %Y").to_string()
}

impl Line {
    fn add(&mut self, other: &Line) {
        self.now.add(&other.now);
        self.before.add(&other.before);
    }
}

impl Statement {
    fn make(reader: &Reader, month: Date, now: SystemTime) -> anyhow::Result<Self> {
        let before = month.checked_sub(1.month())?;
        let (begin, end) = (start(month)?, start(month.checked_add(1.month())?)?);
        let sums = |since, until| {
            let query = Query { since: Some(since), until: Some(until), ..Query::default() };
            reader.totals(&query, &[Dimension::Team, Dimension::Key])
        };
        let mut teams: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Line>> = BTreeMap::new();
        for (groups, is_now) in [(sums(begin, end)?, true), (sums(start(before)?, begin)?, false)] {
            for group in groups {
                let [team, key] = group.values.as_slice() else { continue };
                let line = teams.entry(Arc::clone(team)).or_default().entry(Arc::clone(key)).or_default();
                *(if is_now { &mut line.now } else { &mut line.before }) = group.totals;
            }
        }
        let oldest = reader.extent()?.times.map(|(oldest, _)| oldest);
        Ok(Self { month, before, now, oldest, teams })
    }

    fn team(keys: &BTreeMap<Arc<str>, Line>) -> Line {
        let mut sum = Line::default();
        keys.values().for_each(|line| sum.add(line));
        sum
    }

    fn total(&self) -> Line {
        let mut sum = Line::default();
        self.teams.values().for_each(|keys| sum.add(&Self::team(keys)));
        sum
    }

    /// What the ledger cannot know of the two months.
    fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        let is_after = |time: SystemTime, date: Date| start(date).is_ok_and(|start| time > start);
        if start(self.month).is_ok_and(|begin| self.now < begin) {
            gaps.push(format!("{} has not begun.", name(self.month)));
        } else if self.month.checked_add(1.month()).is_ok_and(|end| !is_after(self.now, end)) {
            gaps.push(format!("{} is not over: this is up to {} UTC.", name(self.month), minute(self.now)));
        }
        match self.oldest {
            None => gaps.push("The ledger is empty.".to_owned()),
            Some(oldest) => {
                for date in [self.month, self.before] {
                    if is_after(oldest, date) {
                        let begin = minute(oldest);
                        gaps.push(format!("{} may not be whole: the ledger begins {begin} UTC.", name(date)));
                    }
                }
            }
        }
        gaps
    }

    fn markdown(&self) -> String {
        let total = self.total();
        let mut text = format!("# Statement of {}\n\n", name(self.month));
        for gap in self.gaps() {
            let _ = writeln!(text, "{gap}");
        }
        let amounts = self.teams.values().flat_map(BTreeMap::values).flat_map(|line| [line.now.cost, line.before.cost]);
        let decimals = decimals(amounts);
        let before = self.before.strftime("%B").to_string();
        let _ = writeln!(
            text,
            "{}{} spent in {} calls; {} in {before} ({}).\n",
            if self.gaps().is_empty() { "" } else { "\n" },
            dollars(total.now.cost, decimals),
            grouped(total.now.calls),
            dollars(total.before.cost, decimals),
            change(&total),
        );
        let titles = [
            "team",
            "key",
            "calls",
            "failed",
            "tokens in",
            "tokens out",
            "spend",
            "estimated",
            "unpriced calls",
            "unpriced tokens",
            "retries",
            "paid for failures",
            before.as_str(),
            "change",
        ];
        let mut rows: Vec<Vec<String>> = vec![titles.map(str::to_owned).to_vec()];
        for (team, keys) in &self.teams {
            let mut keys: Vec<_> = keys.iter().collect();
            keys.sort_by_key(|(_, line)| (std::cmp::Reverse(line.now.cost), std::cmp::Reverse(line.before.cost)));
            let sum = Self::team(&self.teams[team]);
            rows.push(cells(&format!("**{}**", cell(team)), "", &sum, decimals));
            rows.extend(keys.into_iter().map(|(key, line)| cells("", &cell(&shown_key(key)), line, decimals)));
        }
        rows.push(cells("**total**", "", &total, decimals));
        text += &aligned(&rows);
        text += "\nTimes are in UTC. *estimated*: share of the spend that rests on estimated tokens. *unpriced*: calls whose \
                 price nobody knows, and their tokens; they are not in the spend. *retries*: calls that sent a request again \
                 within a minute of its failure. *paid for failures*: spend on calls that failed, such as streams that broke \
                 off; what was paid again for their retries is in the spend of those.\n";
        text
    }

    fn csv(&self) -> anyhow::Result<String> {
        let names = fields(&Totals::default());
        let head = ["month", "team", "key"].into_iter().chain(names.keys().map(String::as_str));
        let mut sheet = Sheet::new(head.chain(["cost_usd_month_before", "calls_month_before"]))?;
        let month = self.month.strftime("%Y-%m").to_string();
        for (team, keys) in &self.teams {
            for (key, line) in keys {
                let numbers = fields(&line.now);
                let numbers =
                    numbers.values().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                let named = [month.clone(), team.to_string(), key.to_string()];
                let before = [line.before.cost.to_string(), line.before.calls.to_string()];
                sheet.row(named.into_iter().chain(numbers).chain(before))?;
            }
        }
        sheet.finish()
    }

    fn json(&self) -> Value {
        let sums = |line: &Line| {
            let mut sums = fields(&line.now);
            sums.insert("month_before".to_owned(), fields(&line.before).into());
            sums
        };
        let teams = self.teams.iter().map(|(team, keys)| {
            let keys = keys.iter().map(|(key, line)| {
                let mut row = Map::from_iter([("key".to_owned(), json!(&**key))]);
                row.extend(sums(line));
                Value::Object(row)
            });
            let mut row = Map::from_iter([("team".to_owned(), json!(&**team))]);
            let keys: Vec<_> = keys.collect();
            row.extend(sums(&Self::team(&self.teams[team])));
            row.insert("keys".to_owned(), keys.into());
            Value::Object(row)
        });
        json!({
            "month": self.month.strftime("%Y-%m").to_string(),
            "month_before": self.before.strftime("%Y-%m").to_string(),
            "made": rfc3339(self.now),
            "gaps": self.gaps(),
            "teams": teams.collect::<Vec<_>>(),
            "total": sums(&self.total()),
        })
    }
}

fn cells(team: &str, key: &str, line: &Line, decimals: usize) -> Vec<String> {
    let now = &line.now;
    let some = |number: u64| if number == 0 { "-".to_owned() } else { grouped(number) };
    let money = |money: Money| if money == Money::ZERO { "-".to_owned() } else { dollars(money, decimals) };
    vec![
        team.to_owned(),
        key.to_owned(),
        grouped(now.calls),
        some(now.failed),
        grouped(now.input_tokens),
        grouped(now.output_tokens),
        dollars(now.cost, decimals),
        if now.estimated_cost > Money::ZERO { share(now.estimated_cost, now.cost) } else { "-".to_owned() },
        some(now.unpriced_calls),
        some(now.unpriced_tokens),
        some(now.retried),
        money(now.failed_cost),
        money(line.before.cost),
        change(line),
    ]
}

/// `+12%`, `-3%`, `new`, `gone`.
fn change(line: &Line) -> String {
    match (line.before.cost.as_f64(), line.now.cost.as_f64()) {
        (before, now) if before <= 0.0 => {
            if now > 0.0 {
                "new".to_owned()
            } else {
                "-".to_owned()
            }
        }
        (_, now) if now <= 0.0 => "gone".to_owned(),
        (before, now) => match (now / before - 1.0) * 100.0 {
            large if large >= 1_000.0 => format!("x{:.0}", now / before),
            percent => format!("{percent:+.0}%"),
        },
    }
}

/// Foreign text inside a Markdown table.
fn cell(text: &str) -> String {
    let mut escaped = String::new();
    for c in clean(text).chars() {
        if matches!(c, '|' | '\\' | '`' | '*' | '_' | '<' | '[') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// A Markdown table whose source lines up: the first two columns to the left, numbers to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].width()).max().unwrap_or(0).max(2)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.width());
            text += &if column < 2 { format!("| {cell}{pad} ") } else { format!("| {pad}{cell} ") };
        }
        text += "|\n";
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                text += &if column < 2 {
                    format!("| {} ", "-".repeat(*width))
                } else {
                    format!("| {}:", "-".repeat(*width))
                };
            }
            text += "|\n";
        }
    }
    text
}
