//! Rules with all their times divided by [`SCALE`], so that a day's trouble fits into minutes.
//!
//! Divided: ranges, offsets, `for`, `keep_firing_for`, intervals, and the seconds that stand as plain numbers in an expression.
//! The calendar runs as many times faster: `hour()`, `month()` and their kin are asked for the time of a clock that stood at
//! [`CLOCK_START`] when the day began. Not divided: thresholds in dollars, calls, tokens and shares; latencies; the age of the
//! price book. promtool's tests (`deploy/prometheus/tests`) keep the true times.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// One hour takes a minute.
pub const SCALE: u64 = 60;

/// What the clock of the day shows when it begins: Thursday, 12 November 2026, 09:00 UTC. The month has 11 days of history.
pub const CLOCK_START: u64 = 1_794_474_000;

/// Translates expressions and rule files.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Real time, seconds since the epoch, at which the clock shows [`CLOCK_START`].
    pub start: u64,
}

/// Plain numbers of seconds, as they stand in rules.
const SECONDS: &[(&str, &str)] = &[("< 900", "< 15"), ("> 7 * 86400", "> 7 * 1440"), (":rate5m * 300", ":rate5m * 5")];

/// Calendar functions, as they stand in rules.
const CALENDAR: &[(&str, &str)] = &[
    ("vector(time() - 1)", "vector(CLOCK - 1)"),
    ("timestamp(keytally:now @ end())", "(timestamp(keytally:now @ end()) * SCALE - SHIFT)"),
    ("days_in_month()", "days_in_month(vector(CLOCK))"),
    ("day_of_month()", "day_of_month(vector(CLOCK))"),
    ("hour()", "hour(vector(CLOCK))"),
    ("minute()", "minute(vector(CLOCK))"),
];

impl Scale {
    /// An expression with its times divided. Texts in quotes stay as they are.
    #[track_caller]
    pub fn expression(self, expression: &str) -> String {
        static DURATION: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r#""[^"]*"|\b(?:\d+(?:ms|[smhdwy]))+\b"#).expect("a fixed pattern"));
        let scaled = DURATION.replace_all(expression, |found: &Captures<'_>| match found[0].starts_with('"') {
            true => found[0].to_owned(),
            false => duration(&found[0]),
        });
        let mut scaled = scaled.into_owned();
        for (from, to) in SECONDS.iter().chain(CALENDAR) {
            scaled = scaled.replace(from, to);
        }
        let shift = i128::from(self.start) * i128::from(SCALE) - i128::from(CLOCK_START);
        let clock = format!("(time() * {SCALE} - {shift})");
        scaled =
            scaled.replace("CLOCK", &clock).replace("SCALE", &SCALE.to_string()).replace("SHIFT", &shift.to_string());
        for function in ["hour()", "minute()", "month()", "day_of_month()", "vector(time() - "] {
            assert!(!scaled.contains(function), "{function} has no time of its own in {expression}");
        }
        scaled
    }

    /// A rule file, text to text: only expressions and times change.
    #[track_caller]
    pub fn rule_file(self, text: &str) -> String {
        let mut out = String::new();
        let mut block = None;
        for line in text.lines() {
            let indent = line.len() - line.trim_start().len();
            let plain = line.trim_start();
            if block.is_some_and(|at| !plain.is_empty() && indent <= at) {
                block = None;
            }
            let new = if block.is_some() {
                self.expression(line)
            } else if plain == "expr: |" {
                block = Some(indent);
                line.to_owned()
            } else if let Some((head, expression)) = line.split_once("expr: ") {
                format!("{head}expr: {}", self.expression(expression))
            } else if let Some((name, value)) = ["for: ", "keep_firing_for: ", "interval: "]
                .iter()
                .find_map(|name| Some((*name, plain.strip_prefix(name)?)))
            {
                format!("{}{name}{}", &line[..indent], duration(value))
            } else {
                line.to_owned()
            };
            out.push_str(&new);
            out.push('\n');
        }
        out
    }

    /// The Alertmanager's file: its times divided, every receiver a webhook at `url`/NAME.
    pub fn alertmanager_file(self, text: &str, url: &str) -> String {
        static TIME: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"(?m)^(\s*(?:group_wait|group_interval|repeat_interval): )(\S+)$").expect("a fixed pattern")
        });
        static RECEIVER: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"(?m)^- name: (\S+)$").expect("a fixed pattern"));
        let (routes, receivers) = text.split_once("\nreceivers:\n").expect("receivers come last");
        let routes = TIME.replace_all(routes, |found: &Captures<'_>| format!("{}{}", &found[1], duration(&found[2])));
        let hooks = RECEIVER.captures_iter(receivers).map(|found| {
            let name = &found[1];
            format!("- name: {name}\n  webhook_configs:\n  - {{url: \"{url}/{name}\", send_resolved: true}}\n")
        });
        format!("{routes}\nreceivers:\n{}", hooks.collect::<String>())
    }
}

/// Milliseconds of a duration as Prometheus writes it.
#[track_caller]
pub fn milliseconds(text: &str) -> u64 {
    let mut total = 0;
    let mut number = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c.is_ascii_digit() {
            number.push(c);
            rest = &rest[1..];
            continue;
        }
        let (unit, length) = match rest.as_bytes() {
            [b'm', b's', ..] => (1, 2),
            [b's', ..] => (1_000, 1),
            [b'm', ..] => (60_000, 1),
            [b'h', ..] => (3_600_000, 1),
            [b'd', ..] => (86_400_000, 1),
            [b'w', ..] => (604_800_000, 1),
            _ => panic!("not a duration: {text}"),
        };
        total += number.parse::<u64>().expect("digits") * unit;
        number.clear();
        rest = &rest[length..];
    }
    total
}

fn duration(text: &str) -> String {
    let scaled = milliseconds(text) / SCALE;
    if scaled.is_multiple_of(1_000) { format!("{}s", scaled / 1_000) } else { format!("{scaled}ms") }
}

#[test]
fn times_are_divided_and_nothing_else() {
    let scale = Scale { start: 1_800_000_000 };
    assert_eq!(
        scale.expression(r#"max_over_time(key:x:increase1h[1h] offset 23h30m) or label_replace(y{window="1h"}, "l", "1d", "", "") > 14.4 * 720"#),
        r#"max_over_time(key:x:increase1h[60s] offset 1410s) or label_replace(y{window="1h"}, "l", "1d", "", "") > 14.4 * 720"#
    );
    assert_eq!(scale.expression("time() - a < 900"), "time() - a < 15");
    assert_eq!(scale.expression("sum_over_time(x[31d:1h])"), "sum_over_time(x[44640s:60s])");
    let shift = 1_800_000_000_i128 * 60 - i128::from(CLOCK_START);
    assert_eq!(scale.expression("24 - hour()"), format!("24 - hour(vector((time() * 60 - {shift})))"));
    assert_eq!(
        scale.rule_file("  - record: a\n    expr: rate(b[15s])\n    for: 15m\n"),
        "  - record: a\n    expr: rate(b[250ms])\n    for: 15s\n"
    );
}

/// Every number of a rule that could be a time is either divided or known not to be one.
#[test]
fn no_time_in_a_rule_is_overlooked() {
    static NUMBER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?:^|[ (*/<>=+-])(\d{2,})(?:$|[ ),])").expect("a fixed pattern"));
    // Calls, dollars, tokens; hours, ten minutes and so on of a month, which are shares of a whole that is divided as well.
    let no_times =
        ["10", "20", "30", "50", "100", "120", "720", "4320", "100000", "24", "60", "90", "86400", "1440", "15"];
    for (_, group) in crate::alerting::rules::groups() {
        for rule in group.rules {
            let scaled = Scale { start: CLOCK_START }.expression(&rule.expr);
            for found in NUMBER.captures_iter(&scaled) {
                let number = &found[1];
                assert!(no_times.contains(&number) || scaled.contains("time() * 60"), "{number} in {}", rule.expr);
            }
            assert!(!scaled.contains("86400") || rule.expr.contains("price_table"), "{}", rule.expr);
        }
    }
}
