//! `keytally usage`: what calls came to, added up by key, model, team, day and more, from the ledger.
//!
//! In: the ledger, also while a sidecar writes it. Out: a table, JSON or CSV on standard output; times are in UTC, sums are
//! exact, and what rests on estimates or has no price is told apart.

use std::cmp::Reverse;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::ledger::{FilterArgs, Format, Heading, LedgerArgs, minute, plain, rfc3339, screen, styled, table};
use super::sheet::Sheet;
use super::{Exit, fail, print};
use crate::call::Money;
use crate::ledger::{Dimension, Extent, Group, Query, Totals};
use crate::terminal::{Cell, Screen, Style, decimals, dollars, grouped, percent, seconds, share, shown_key};

/// Flags of `usage`.
#[derive(Args, Clone, Debug)]
pub(super) struct UsageArgs {
    /// What is told apart: key, model, provider, team, client, operation, outcome, day, hour
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "key", value_parser = dimension)]
    by: Vec<Dimension>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Order of the rows [default: time where rows are days or hours, else spend]
    #[arg(long, value_enum, value_name = "ORDER")]
    sort: Option<Order>,
    /// Most rows; the total is always that of all
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Form of the answer
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    ledger: LedgerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Most expensive first
    Spend,
    /// Most calls first
    Calls,
    /// Most failures first
    Failed,
    /// Most tokens first
    Tokens,
    /// By name or time
    Name,
}

fn dimension(text: &str) -> Result<Dimension, String> {
    text.parse()
}

/// Everything that is shown.
struct Report {
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    extent: Extent,
    by: Vec<Dimension>,
    groups: Vec<Group>,
    /// Rows that the limit leaves out.
    hidden: usize,
    total: Totals,
}

pub(super) fn run(args: UsageArgs) -> Exit {
    let format = args.format;
    match report(args) {
        Err(error) => fail(&error),
        Ok(report) => match format {
            Format::Table => print(&report.table(screen())),
            Format::Json => print(&format!("{:#}\n", report.json())),
            Format::Csv => match report.csv() {
                Ok(text) => print(&text),
                Err(error) => fail(&error),
            },
        },
    }
}

fn report(args: UsageArgs) -> anyhow::Result<Report> {
    let query: Query = args.filter.query(SystemTime::now());
    let mut by = args.by;
    by.dedup();
    let (reader, _) = args.ledger.open()?;
    let extent = reader.extent()?;
    let mut groups = reader.totals(&query, &by)?;
    let mut total = Totals::default();
    groups.iter().for_each(|group| total.add(&group.totals));
    let by_time = matches!(by.first(), Some(Dimension::Day | Dimension::Hour));
    match args.sort.unwrap_or(if by_time { Order::Name } else { Order::Spend }) {
        // They come by their names.
        Order::Name => {}
        Order::Spend => groups.sort_by_key(|group| (Reverse(group.totals.cost), Reverse(group.totals.calls))),
        Order::Calls => groups.sort_by_key(|group| Reverse(group.totals.calls)),
        Order::Failed => groups.sort_by_key(|group| (Reverse(group.totals.failed), Reverse(group.totals.calls))),
        Order::Tokens => {
            groups.sort_by_key(|group| Reverse(group.totals.input_tokens.saturating_add(group.totals.output_tokens)));
        }
    }
    let hidden = groups.len().saturating_sub(args.limit.unwrap_or(usize::MAX));
    groups.truncate(groups.len() - hidden);
    Ok(Report { since: query.since, until: query.until, extent, by, groups, hidden, total })
}

impl Report {
    fn table(&self, screen: Screen) -> String {
        let begin = self.since.or(self.extent.times.map(|(oldest, _)| oldest)).map_or("-".to_owned(), minute);
        let end = self.until.map_or("now".to_owned(), minute);
        let mut text = format!(" {begin} to {end} (UTC)\n");
        if self.total.calls == 0 {
            return text + " no calls\n";
        }
        let left = |title, spare| Heading { title, right: false, spare };
        let right = |title, spare| Heading { title, right: true, spare };
        let mut headings: Vec<_> = self.by.iter().map(|dimension| left(dimension.as_str(), 0)).collect();
        headings.extend([
            right("calls", 0),
            right("failed", 2),
            right("ok", 5),
            right("tokens in", 3),
            right("cached", 6),
            right("tokens out", 3),
            right("spend", 0),
            right("share", 7),
            right("estimated", 4),
            right("unpriced", 1),
            right("mean time", 8),
        ]);
        let decimals = decimals(self.groups.iter().map(|group| group.totals.cost));
        let mut rows: Vec<Vec<Cell>> =
            self.groups.iter().map(|group| self.row(group, decimals, Style::Plain)).collect();
        if self.groups.len() + self.hidden > 1 && !self.by.is_empty() {
            let mut values = vec![std::sync::Arc::from("total")];
            values.resize(self.by.len(), std::sync::Arc::from(""));
            rows.push(self.row(&Group { values, totals: self.total.clone() }, decimals, Style::Bold));
        }
        text += &table(&headings, rows, screen);
        if self.hidden > 0 {
            text += &format!(" and {} more rows; --limit shows them\n", grouped(self.hidden as u64));
        }
        if self.total.unpriced_calls > 0 {
            text += &format!(
                " unpriced: calls whose price nobody knows, with {} tokens; they are not in the spend\n",
                grouped(self.total.unpriced_tokens)
            );
        }
        text
    }

    fn row(&self, group: &Group, decimals: usize, style: Style) -> Vec<Cell> {
        let totals = &group.totals;
        let some =
            |number: u64, style| if number == 0 { styled("-", Style::Dim) } else { styled(grouped(number), style) };
        let part = |part: Money| {
            if part > Money::ZERO { styled(share(part, totals.cost), Style::Warn) } else { styled("-", Style::Dim) }
        };
        let cached = match totals.cache_read_tokens {
            0 => styled("-", Style::Dim),
            read => plain(format!("{:.0}%", read as f64 / totals.input_tokens.max(1) as f64 * 100.0)),
        };
        let named = group.values.iter().zip(&self.by).map(|(value, dimension)| match dimension {
            Dimension::Key => styled(shown_key(value), style),
            _ => styled(&**value, style),
        });
        named
            .chain([
                styled(grouped(totals.calls), style),
                some(totals.failed, Style::Bad),
                styled(
                    percent(totals.calls, totals.failed),
                    if totals.failed == 0 { Style::Good } else { Style::Warn },
                ),
                styled(grouped(totals.input_tokens), style),
                cached,
                styled(grouped(totals.output_tokens), style),
                styled(dollars(totals.cost, decimals), style),
                styled(share(totals.cost, self.total.cost), Style::Dim),
                part(totals.estimated_cost),
                some(totals.unpriced_calls, Style::Warn),
                styled(totals.mean_duration().map_or("-".to_owned(), seconds), Style::Dim),
            ])
            .collect()
    }

    fn json(&self) -> Value {
        let groups = self.groups.iter().map(|group| {
            let named = self.by.iter().zip(&group.values);
            let mut row: Map<_, _> = named.map(|(by, value)| (by.as_str().to_owned(), json!(&**value))).collect();
            row.extend(fields(&group.totals));
            Value::Object(row)
        });
        json!({
            "since": self.since.or(self.extent.times.map(|(oldest, _)| oldest)).map(rfc3339),
            "until": self.until.map(rfc3339),
            "by": self.by,
            "groups": groups.collect::<Vec<_>>(),
            "groups_left_out": self.hidden,
            "total": fields(&self.total),
        })
    }

    fn csv(&self) -> anyhow::Result<String> {
        let names = fields(&self.total);
        let mut sheet = Sheet::new(self.by.iter().map(|by| by.as_str()).chain(names.keys().map(String::as_str)))?;
        for group in &self.groups {
            let numbers = fields(&group.totals);
            let numbers = numbers.values().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            sheet.row(group.values.iter().map(|value| value.to_string()).chain(numbers))?;
        }
        sheet.finish()
    }
}

/// Names and values for programs: the same in JSON and CSV, and in the statement.
pub(super) fn fields(totals: &Totals) -> Map<String, Value> {
    let mean = totals.mean_duration().map_or(0.0, |mean| mean.as_micros() as f64 / 1e6);
    let fields = json!({
        "calls": totals.calls,
        "failed_calls": totals.failed,
        "retry_calls": totals.retried,
        "input_tokens": totals.input_tokens,
        "cache_read_tokens": totals.cache_read_tokens,
        "output_tokens": totals.output_tokens,
        "cost_usd": totals.cost,
        "estimated_cost_usd": totals.estimated_cost,
        "failed_cost_usd": totals.failed_cost,
        "unpriced_calls": totals.unpriced_calls,
        "unpriced_tokens": totals.unpriced_tokens,
        "mean_duration_seconds": mean,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
