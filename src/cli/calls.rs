//! `keytally log`: single calls from the ledger, newest first, as they come, or one in full.
//!
//! In: the ledger, also while a sidecar writes it. Out: a table or call records (docs/call-record.md) on standard output.
//! Neither prompt nor completion is in the ledger, so none is shown. `--follow` looks for new calls every [`POLL`] and ends
//! with Ctrl-C, or with the next call when nobody reads its output any more.

use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::ledger::{FilterArgs, LedgerArgs, screen, styled, usd};
use super::{Exit, complain, fail, span};
use crate::call::{CallRecord, Money, UnpricedReason, UsageSource};
use crate::config::Config;
use crate::export::to_json;
use crate::ledger::{Query, Reader};
use crate::meter::Rules;
use crate::terminal::{
    Cell, Column, Screen, Style, cells, clean, count, dollars, fit, head, seconds, shown_key, style_of,
};

/// How often the ledger is looked at; the sidecar writes ten times a second.
const POLL: Duration = Duration::from_millis(500);
/// Calls that one id may stand for are listed up to this many.
const MATCHES: usize = 10;
/// Digits of the call id in the table: enough to name one call.
const ID_DIGITS: usize = 18;

/// Flags of `log`.
#[derive(Args, Clone, Debug)]
pub(super) struct LogArgs {
    /// One call in full: its call id or the beginning of it, or the provider's request id
    #[arg(value_name = "ID", conflicts_with_all = ["follow", "limit"])]
    id: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Calls that took longer, for instance 30s
    #[arg(long, value_name = "DURATION", value_parser = span)]
    slower_than: Option<Duration>,
    /// Calls that cost more, in dollars
    #[arg(long, value_name = "DOLLARS", value_parser = usd)]
    costlier_than: Option<Money>,
    /// Most calls; 0 for all
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
    /// Show the latest calls, oldest first, and then every further one as it ends
    #[arg(long, short)]
    follow: bool,
    /// Form of the answer
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Table)]
    format: Form,
    #[command(flatten)]
    ledger: LedgerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// Call records, one JSON object a line
    Json,
}

pub(super) fn run(args: LogArgs) -> Exit {
    match show(args) {
        Ok(exit) => exit,
        Err(error) => fail(&error),
    }
}

fn show(args: LogArgs) -> anyhow::Result<Exit> {
    let mut query = args.filter.query(SystemTime::now());
    (query.slower_than, query.costlier_than) = (args.slower_than, args.costlier_than);
    let (reader, config) = args.ledger.open()?;
    if let Some(id) = &args.id {
        return one(&reader, &config, id, args.format);
    }
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    let mut out = Out::new(args.format);
    if args.follow {
        follow(reader, &query, limit, &mut out)?
    } else {
        list(&reader, &query, limit, &mut out)?
    }
    Ok(Exit::Ok)
}

fn list(reader: &Reader, query: &Query, limit: usize, out: &mut Out) -> anyhow::Result<()> {
    let (mut shown, mut result) = (0, Ok(()));
    reader.calls(query, |call| {
        result = out.call(&call);
        shown += 1;
        if result.is_err() || shown >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    result?;
    if shown == 0 {
        complain("keytally: no calls");
    } else if shown == limit {
        out.note(&format!("the latest {limit}; --limit shows more"));
    }
    out.flush()
}

/// Shows the latest calls and then each further one, for as long as somebody reads.
fn follow(mut reader: Reader, query: &Query, limit: usize, out: &mut Out) -> anyhow::Result<()> {
    // The place is taken first: calls that end in between come both ways, and are known by their ids.
    let mut last = reader.follow(query, None, |_| ControlFlow::Continue(()))?;
    let mut latest = std::collections::VecDeque::new();
    reader.calls(query, |call| {
        latest.push_front(call);
        if latest.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let mut shown: std::collections::HashSet<_> = latest.iter().map(|call| call.call_id).collect();
    for call in &latest {
        out.call(call)?;
    }
    let mut file = inode(reader.path());
    loop {
        out.flush()?;
        std::thread::sleep(POLL);
        let mut result = Ok(());
        last = reader.follow(query, Some(last), |call| {
            if !shown.remove(&call.call_id) {
                result = out.call(&call);
            }
            if result.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        result?;
        shown.clear();
        // The file was moved away and a new one begun.
        let now = inode(reader.path());
        if now.is_some()
            && now != file
            && let Ok(new) = Reader::open(reader.path())
        {
            (reader, last, file) = (new, 0, now);
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn one(reader: &Reader, config: &Config, id: &str, form: Form) -> anyhow::Result<Exit> {
    let found = reader.find(id, MATCHES)?;
    let mut out = Out::new(form);
    match found.as_slice() {
        [] => {
            complain(&format!("keytally: no call with this id in {}", reader.path().display()));
            return Ok(Exit::Failure);
        }
        [call] if form == Form::Json => out.call(call)?,
        [call] => out.write(&in_full(call, config, screen()))?,
        several => {
            for call in several {
                out.call(call)?;
            }
            out.note("several calls fit; name one by more of its call id");
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// Each field of the call record on a line of its own, and what to do first if the call failed.
fn in_full(call: &CallRecord, config: &Config, screen: Screen) -> String {
    use crate::terminal::Line;
    let mut text = String::new();
    let mut put = |name: &str, value: &str, style| {
        let mut line = Line::new(screen);
        line.put(&format!(" {name:<28}"), Style::Dim);
        line.put(value, style);
        text += line.text.trim_end();
        text.push('\n');
    };
    let record = to_json(call);
    let fields = record.as_object().into_iter().flatten();
    for (name, value) in fields {
        let style = if name == "outcome" { style_of(call.outcome) } else { Style::Plain };
        match value {
            serde_json::Value::Object(parts) => {
                for (part, value) in parts {
                    put(&format!("{name}.{part}"), &words(value), Style::Plain);
                }
            }
            value => put(name, &words(value), style),
        }
    }
    let fix = call.first_fix.as_deref().filter(|_| call.outcome.is_failure());
    let rules = fix.and_then(|_| Rules::build(&config.rules).ok());
    if let Some(fix) = fix.zip(rules.as_ref()).and_then(|(id, rules)| rules.fix(id)) {
        for (index, part) in
            crate::terminal::wrap(&clean(fix), screen.width.saturating_sub(30).max(20), 20).iter().enumerate()
        {
            put(if index == 0 { "first fix" } else { "" }, part, Style::Info);
        }
    }
    text
}

fn words(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

const COLUMNS: &[Column] = &[
    Column { title: "time (UTC)", min: 19, max: 19, right: false, spare: 0 },
    Column { title: "call id", min: ID_DIGITS, max: ID_DIGITS, right: false, spare: 4 },
    Column { title: "key", min: 13, max: 24, right: false, spare: 0 },
    Column { title: "provider", min: 9, max: 14, right: false, spare: 3 },
    Column { title: "operation", min: 9, max: 16, right: false, spare: 8 },
    Column { title: "model", min: 14, max: 34, right: false, spare: 2 },
    Column { title: "outcome", min: 13, max: 20, right: false, spare: 0 },
    Column { title: "http", min: 4, max: 4, right: true, spare: 5 },
    Column { title: "in", min: 6, max: 6, right: true, spare: 6 },
    Column { title: "out", min: 6, max: 6, right: true, spare: 6 },
    Column { title: "cost", min: 8, max: 10, right: true, spare: 0 },
    Column { title: "first", min: 5, max: 5, right: true, spare: 7 },
    Column { title: "total", min: 6, max: 6, right: true, spare: 1 },
];

/// Standard output, and what has been written to it.
struct Out {
    out: std::io::BufWriter<std::io::Stdout>,
    form: Form,
    screen: Screen,
    widths: Vec<usize>,
    begun: bool,
}

impl Out {
    fn new(form: Form) -> Self {
        let screen = screen();
        let widths = fit(COLUMNS, screen.width);
        Self { out: std::io::BufWriter::new(std::io::stdout()), form, screen, widths, begun: false }
    }

    fn call(&mut self, call: &CallRecord) -> anyhow::Result<()> {
        let text = match self.form {
            Form::Json => format!("{}\n", to_json(call)),
            Form::Table => {
                let mut text = String::new();
                if !self.begun {
                    text += head(COLUMNS, &self.widths, self.screen).text.trim_end();
                    text.push('\n');
                }
                text += cells(COLUMNS, &self.widths, row(call), self.screen).text.trim_end();
                text + "\n"
            }
        };
        self.begun = true;
        self.write(&text)
    }

    /// Something about the answer; only people want it.
    fn note(&mut self, text: &str) {
        if self.form == Form::Table {
            complain(&format!("keytally: {text}"));
        }
    }

    fn write(&mut self, text: &str) -> anyhow::Result<()> {
        self.out.write_all(text.as_bytes()).context("standard output")
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.out.flush().context("standard output")
    }
}

fn row(call: &CallRecord) -> Vec<Cell> {
    let time = jiff::Timestamp::try_from(call.time).unwrap_or_default().to_string();
    let dim = |text: String| styled(text, Style::Dim);
    let tokens = |number: Option<u64>| match number {
        Some(number) if call.usage_source == UsageSource::Estimated => {
            styled(format!("~{}", count(number)), Style::Warn)
        }
        Some(number) => styled(count(number), Style::Plain),
        None => dim("-".to_owned()),
    };
    let cost = match call.cost {
        Some(cost) => styled(dollars(cost, if cost.as_f64() >= 100.0 { 2 } else { 5 }), Style::Plain),
        None if call.unpriced_reason == Some(UnpricedReason::Free) => dim("free".to_owned()),
        None if call.usage.is_empty() => dim("-".to_owned()),
        None => styled("unpriced", Style::Warn),
    };
    vec![
        dim(time.get(..19).unwrap_or(&time).replace('T', " ")),
        dim(call.call_id.to_string()[..ID_DIGITS].to_owned()),
        styled(shown_key(call.key_label()), Style::Plain),
        styled(&*call.provider, Style::Plain),
        dim(call.operation.as_str().to_owned()),
        styled(call.model().unwrap_or("-"), Style::Plain),
        styled(call.outcome.as_str(), style_of(call.outcome)),
        dim(call.status.map_or("-".to_owned(), |status| status.to_string())),
        tokens(call.usage.input_tokens),
        tokens(call.usage.output_tokens),
        cost,
        dim(call.timing.first_output.map_or("-".to_owned(), seconds)),
        dim(seconds(call.timing.total)),
    ]
}
