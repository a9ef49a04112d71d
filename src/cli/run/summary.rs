//! What a command's calls came to: spend by key and model, what failed and the first fix, as text or JSON.
//!
//! In: each [`CallRecord`] once, as it comes. Bounds: [`MAX_ROWS`] rows, failures and findings each; what is beyond is
//! added up under `other`. Nothing of a request, an answer or a key is in a record, so nothing of them is shown; the
//! provider's and the application's words in it are stripped of control characters.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::call::{CallRecord, Finding, Money, UnpricedReason, UsageSource};
use crate::meter::Rules;

/// Different rows that are told apart; a command that has more is no longer read line by line.
const MAX_ROWS: usize = 500;
/// Rows of a kind in the text; the JSON has all.
const SHOWN: usize = 20;
/// Longest model name in the text.
const MODEL_CHARS: usize = 48;
const OTHER: &str = "other";

/// Sums of one key, provider and model, or of all.
#[derive(Clone, Debug, Default)]
struct Sum {
    calls: u64,
    failed: u64,
    input_tokens: u64,
    output_tokens: u64,
    spend: Money,
    /// Part of `spend` that rests on estimated tokens.
    estimated: Money,
    /// Calls with tokens that should cost something and have no price.
    unpriced: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    key: String,
    provider: String,
    model: String,
}

/// Failures that have one fix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FailureKey {
    outcome: &'static str,
    fault: &'static str,
    key: String,
    provider: String,
    status: Option<u16>,
    code: String,
    fix: String,
    retryable: bool,
}

/// All calls of one command.
#[derive(Debug, Default)]
pub(super) struct Tally {
    total: Sum,
    rows: BTreeMap<RowKey, Sum>,
    failures: BTreeMap<FailureKey, u64>,
    findings: BTreeMap<(&'static str, String), u64>,
}

/// What is known of the command beside its calls.
#[derive(Debug)]
pub(super) struct Ran<'r> {
    /// Its exit code.
    pub(super) code: u8,
    /// How long it ran.
    pub(super) took: Duration,
    /// Variables whose calls are not seen.
    pub(super) unseen: &'r [&'static str],
    /// The command's variables name a proxy, not base URLs.
    pub(super) intercepting: bool,
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, record: &CallRecord) {
        let cost = record.cost.unwrap_or(Money::ZERO);
        self.calls += 1;
        self.failed += u64::from(record.outcome.is_failure());
        self.input_tokens += record.usage.input_tokens.unwrap_or(0);
        self.output_tokens += record.usage.output_tokens.unwrap_or(0);
        self.spend += cost;
        if record.usage_source == UsageSource::Estimated {
            self.estimated += cost;
        }
        self.unpriced += u64::from(lacks_price(record));
    }

    fn json(&self) -> Value {
        json!({
            "calls": self.calls,
            "failed": self.failed,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": self.spend,
            "estimated_cost_usd": self.estimated,
            "unpriced_calls": self.unpriced,
        })
    }

    /// `$0.0123`, `~$0.0123` when estimated in part, `unpriced`, or both.
    fn spend(&self) -> String {
        let unpriced = match (self.unpriced, self.spend == Money::ZERO) {
            (0, _) => return self.money(),
            (_, true) => return "unpriced".to_owned(),
            (n, false) => format!(" + {n} unpriced"),
        };
        self.money() + &unpriced
    }

    fn money(&self) -> String {
        let mark = if self.estimated > Money::ZERO { "~" } else { "" };
        match self.spend.as_f64() {
            // Something is not nothing.
            some if some > 0.0 && some < 0.0001 => format!("{mark}<$0.0001"),
            some if some >= 100.0 => format!("{mark}${some:.2}"),
            some => format!("{mark}${some:.4}"),
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Adds one call.
    pub(super) fn add(&mut self, record: &CallRecord) {
        self.total.add(record);
        let key = record.key_label().to_owned();
        let row = RowKey { key: key.clone(), provider: record.provider.to_string(), model: model(record) };
        bounded(&mut self.rows, row, RowKey { key: OTHER.into(), provider: OTHER.into(), model: OTHER.into() })
            .add(record);
        for finding in &record.findings {
            let rest = ("finding", OTHER.to_owned());
            *bounded(&mut self.findings, (Finding::as_str(*finding), key.clone()), rest) += 1;
        }
        if record.outcome.is_failure() {
            let code = record.error_code.as_deref().or(record.error_type.as_deref());
            let failure = FailureKey {
                outcome: record.outcome.as_str(),
                fault: record.fault.as_str(),
                key,
                provider: record.provider.to_string(),
                status: record.status,
                code: plain(code.unwrap_or_default()),
                fix: record.first_fix.as_deref().unwrap_or_default().to_owned(),
                retryable: record.retryable,
            };
            let rest = FailureKey { key: OTHER.into(), provider: OTHER.into(), code: String::new(), ..failure.clone() };
            *bounded(&mut self.failures, failure, rest) += 1;
        }
    }

    /// No call was seen.
    pub(super) fn is_empty(&self) -> bool {
        self.total.calls == 0
    }

    /// For people.
    pub(super) fn text(&self, ran: &Ran<'_>, rules: &Rules) -> String {
        let total = &self.total;
        let mut text = format!(
            "keytally: {}, {} spent, {} failed, in {:.1} s\n",
            plural(total.calls, "call"),
            total.spend(),
            total.failed,
            ran.took.as_secs_f64()
        );
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(_, sum)| (std::cmp::Reverse(sum.spend), std::cmp::Reverse(sum.calls)));
        let mut table = vec![["key", "provider", "model", "calls", "failed", "in", "out", "spend"].map(str::to_owned)];
        table.extend(rows.iter().take(SHOWN).map(|(row, sum)| {
            [
                row.key.clone(),
                row.provider.clone(),
                row.model.chars().take(MODEL_CHARS).collect(),
                sum.calls.to_string(),
                sum.failed.to_string(),
                sum.input_tokens.to_string(),
                sum.output_tokens.to_string(),
                sum.spend(),
            ]
        }));
        text += &columns(&table);
        more(&mut text, rows.len());
        if total.estimated > Money::ZERO {
            text += "  ~ in part of estimated tokens: the provider reported none\n";
        }
        let mut failures: Vec<_> = self.failures.iter().collect();
        failures.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (failure, count) in failures.iter().take(SHOWN) {
            let status = failure.status.map_or_else(|| "no answer".to_owned(), |status| format!("HTTP {status}"));
            let code = if failure.code.is_empty() { String::new() } else { format!(" {}", failure.code) };
            let _ = writeln!(
                text,
                "  {count} x {}: {} at {}, {status}{code}",
                failure.outcome, failure.key, failure.provider
            );
            if let Some(fix) = rules.fix(&failure.fix) {
                let _ = writeln!(text, "      first fix: {fix}");
            }
        }
        more(&mut text, failures.len());
        for ((finding, key), count) in self.findings.iter().take(SHOWN) {
            let _ = writeln!(text, "  noticed {finding}: {key}, {}", plural(*count, "call"));
        }
        more(&mut text, self.findings.len());
        text
    }

    /// For programs: one line.
    pub(super) fn json(&self, ran: &Ran<'_>, rules: &Rules) -> String {
        let mut all = json!({ "exit_code": ran.code, "duration_seconds": ran.took.as_secs_f64() });
        let sum = |name: &[(&str, Value)], sum: &Sum| {
            let mut row: serde_json::Map<_, _> = name.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
            if let Value::Object(sums) = sum.json() {
                row.extend(sums);
            }
            Value::Object(row)
        };
        if let (Value::Object(all), Value::Object(total)) = (&mut all, self.total.json()) {
            all.extend(total);
        }
        all["models"] = self
            .rows
            .iter()
            .map(|(row, of)| {
                sum(&[("key", json!(row.key)), ("provider", json!(row.provider)), ("model", json!(row.model))], of)
            })
            .collect();
        all["failures"] = self
            .failures
            .iter()
            .map(|(failure, count)| {
                json!({
                    "outcome": failure.outcome,
                    "fault": failure.fault,
                    "key": failure.key,
                    "provider": failure.provider,
                    "status": failure.status,
                    "error_code": (!failure.code.is_empty()).then_some(&failure.code),
                    "retryable": failure.retryable,
                    "count": count,
                    "first_fix": rules.fix(&failure.fix),
                })
            })
            .collect();
        all["findings"] = self
            .findings
            .iter()
            .map(|((finding, key), count)| json!({ "finding": finding, "key": key, "count": count }))
            .collect();
        all["unseen_variables"] = json!(ran.unseen);
        format!("{all}\n")
    }
}

/// The entry of `key`, or of `rest` when there is no room for another.
fn bounded<K: Ord, V: Default>(map: &mut BTreeMap<K, V>, key: K, rest: K) -> &mut V {
    let has_room = map.len() < MAX_ROWS || map.contains_key(&key);
    map.entry(if has_room { key } else { rest }).or_default()
}

/// The bounded label of metrics; where that says nothing, what was asked for.
fn model(record: &CallRecord) -> String {
    match (&*record.model_label, record.request_model.as_deref()) {
        ("" | "other" | "unconfirmed" | "none", Some(asked)) => plain(asked),
        (label, _) => label.to_owned(),
    }
}

/// Tokens were used, nobody knows what they cost, and it is not known to be nothing.
fn lacks_price(record: &CallRecord) -> bool {
    use UnpricedReason::{Free, NotBilled, RepeatedUsage};
    record.cost.is_none()
        && !record.usage.is_empty()
        && !matches!(record.unpriced_reason, Some(Free | NotBilled | RepeatedUsage))
}

/// Foreign text as it may stand on a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn more(text: &mut String, all: usize) {
    if all > SHOWN {
        let _ = writeln!(text, "  … and {} more; --summary json has all", all - SHOWN);
    }
}

/// Columns as wide as their widest cell, names to the left and numbers to the right.
fn columns(table: &[[String; 8]]) -> String {
    use unicode_width::UnicodeWidthStr;
    let mut text = String::new();
    let mut widths = [0; 8];
    for row in table {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    for row in table {
        let mut line = String::from(" ");
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let pad = " ".repeat(width - cell.width());
            line += &if column < 3 { format!(" {cell}{pad}") } else { format!("  {pad}{cell}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tally_is_bounded() {
        let mut map = BTreeMap::new();
        for n in 0..10_000 {
            *bounded::<String, u64>(&mut map, format!("{n:05}"), OTHER.into()) += 1;
        }
        assert_eq!(map.len(), MAX_ROWS + 1);
        assert_eq!(map[OTHER], 10_000 - MAX_ROWS as u64);
    }

    #[test]
    fn spend_says_what_is_missing() {
        let sum = |spend: &str, estimated: &str, unpriced| {
            let money = |text| Money::parse(text).unwrap();
            Sum { spend: money(spend), estimated: money(estimated), unpriced, ..Sum::default() }.spend()
        };
        assert_eq!(sum("0", "0", 0), "$0.0000");
        assert_eq!(sum("0.01234", "0", 0), "$0.0123");
        assert_eq!(sum("0.00001", "0.00001", 0), "~<$0.0001");
        assert_eq!(sum("1234.5", "0", 2), "$1234.50 + 2 unpriced");
        assert_eq!(sum("0", "0", 2), "unpriced");
    }

    #[test]
    fn foreign_words_cannot_write_on_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a[2Jbc");
        assert_eq!(plain(&"x".repeat(1000)).len(), 128);
    }
}
