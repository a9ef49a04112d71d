//! Reads what an answer says of limits and waits, in every spelling that providers have. Absent means unknown: values that
//! are negative, unreadable or without a stated unit are dropped, never guessed.
//!
//! In: kept headers, the error's text, the time of the answer. Out: [`Limits`]. At most the first 16 KiB of the text count.

use std::cell::LazyCell;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use regex::Regex;
use serde::Deserialize;

use crate::call::{KeptHeader, LimitResource, Limits, RateLimit};

/// A wait or reset further away than this is not believed: 400 days, more than a year's window.
const LONGEST: Duration = Duration::from_secs(400 * 86_400);
/// Text of an error that is searched, bytes.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// How a provider states its limits: a row of the catalogue.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitStyle {
    /// What the reset values are.
    #[serde(default)]
    reset: ResetUnit,
    /// Resource and header name, where `?` stands for `limit`, `remaining` or `reset`; the first that is there counts.
    #[serde(default)]
    headers: Vec<HeaderNames>,
    /// The error's JSON repeats the headers (OpenRouter `error.metadata.headers`).
    #[serde(default)]
    in_body: bool,
    /// Requests are a day's when the error's text has this.
    day_if_body_has: Option<Box<str>>,
    /// This many seconds are a quirk, not a wait (Azure answers 86400 for limits of a minute).
    not_a_wait_secs: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ResetUnit {
    /// A number whose unit nobody states.
    #[default]
    UnitUnknown,
    /// `6m0s`, `12ms`, `2m59.56s`.
    Duration,
    /// RFC 3339.
    Timestamp,
    /// Seconds from now, whole or not.
    Seconds,
    /// Milliseconds since 1970.
    EpochMillis,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "(LimitResource, String)")]
struct HeaderNames {
    resource: LimitResource,
    limit: Box<str>,
    remaining: Box<str>,
    reset: Box<str>,
}

impl TryFrom<(LimitResource, String)> for HeaderNames {
    type Error = String;

    fn try_from((resource, pattern): (LimitResource, String)) -> Result<Self, String> {
        if pattern.matches('?').count() != 1 {
            return Err(format!("\"{pattern}\": write one ? where limit, remaining and reset stand"));
        }
        let name = |word| pattern.replace('?', word).into();
        Ok(Self { resource, limit: name("limit"), remaining: name("remaining"), reset: name("reset") })
    }
}

/// What an answer says of limits and waits.
///
/// `kept` are the headers of [`super::keep_response_headers`]; `error_text` is the decoded error body, if the call failed;
/// `now` is when the answer came, used for timestamps when it has no `date` header of its own.
pub fn read_limits(style: &LimitStyle, kept: &[KeptHeader], error_text: Option<&str>, now: SystemTime) -> Limits {
    let text = error_text.map(|text| &text[..text.floor_char_boundary(MAX_BODY_BYTES)]).unwrap_or("");
    // Most names that are asked for are not there: bit `length.min(63)` tells that some header's name has this length.
    let bit = |name: &str| 1_u64 << name.len().min(63);
    let lengths = kept.iter().fold(0, |lengths, (name, _)| lengths | bit(name));
    let header = |name: &str| {
        let found = (lengths & bit(name) != 0).then(|| kept.iter().find(|(own, _)| **own == *name));
        found.flatten().map(|(_, value)| value.trim())
    };
    // The provider's own clock is the one that its timestamps are told in.
    let now = LazyCell::new(|| {
        header("date").and_then(http_date).or_else(|| Timestamp::try_from(now).ok()).unwrap_or_default()
    });
    let value = |name: &str| match header(name) {
        None if style.in_body && !text.is_empty() => in_json(text, name),
        found => found,
    };
    let mut limits: Vec<RateLimit> = Vec::new();
    for names in &style.headers {
        let per_day = style.day_if_body_has.as_deref().is_some_and(|words| text.contains(words));
        let resource = match names.resource {
            LimitResource::Requests if per_day => LimitResource::RequestsDay,
            resource => resource,
        };
        if limits.iter().any(|own| own.resource == resource) {
            continue;
        }
        let found = RateLimit {
            resource,
            limit: value(&names.limit).and_then(number),
            remaining: value(&names.remaining).and_then(number),
            reset: value(&names.reset).and_then(|text| reset(style.reset, text, *now)),
        };
        if found.limit.is_some() || found.remaining.is_some() || found.reset.is_some() {
            limits.push(found);
        }
    }
    let quirk = |wait: &Duration| style.not_a_wait_secs.is_some_and(|secs| wait.as_secs() == secs);
    let retry_after = header("retry-after-ms")
        .and_then(|text| number(text).and_then(|millis| seconds(millis / 1e3)))
        .filter(|wait| !wait.is_zero())
        .or_else(|| header("retry-after").and_then(|text| retry_after(text, *now)))
        .filter(|wait| !quirk(wait))
        .or_else(|| if text.is_empty() { None } else { wait_in_text(text, *now).filter(|wait| !quirk(wait)) });
    Limits { limits, retry_after }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)
}

fn seconds(secs: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(secs).ok().filter(|d| *d <= LONGEST)
}

fn reset(unit: ResetUnit, text: &str, now: Timestamp) -> Option<Duration> {
    match unit {
        ResetUnit::UnitUnknown => None,
        ResetUnit::Duration => duration(text),
        ResetUnit::Timestamp => text.parse().ok().and_then(|then| until(then, now)),
        ResetUnit::Seconds => number(text.strip_suffix('s').unwrap_or(text)).and_then(seconds),
        ResetUnit::EpochMillis => {
            let then = Timestamp::from_millisecond(text.parse().ok()?).ok()?;
            // Smaller numbers are something else than a time of this century.
            (then.as_second() > 1_000_000_000).then(|| until(then, now)).flatten()
        }
    }
}

/// Time from `now` to `then`; zero when it has passed.
fn until(then: Timestamp, now: Timestamp) -> Option<Duration> {
    let wait = Duration::try_from(then.duration_since(now)).unwrap_or_default();
    Some(wait).filter(|wait| *wait <= LONGEST)
}

/// Seconds, or an HTTP date.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    match number(text) {
        Some(secs) => seconds(secs),
        None => duration(text).or_else(|| http_date(text).and_then(|then| until(then, now))),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

/// A duration in Go's spelling: numbers, each with its unit. A number without a unit is none.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        total += number(digits)? * unit_secs(unit)?;
        rest = tail;
    }
    seconds(total)
}

fn unit_secs(unit: &str) -> Option<f64> {
    Some(match unit.trim() {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" | "millisecond" | "milliseconds" => 1e-3,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        _ => return None,
    })
}

/// Value of a member of a JSON text, by its name without regard to case. Digits only.
fn in_json<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let lower = text.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let start = from + lower.get(from..)?.find(name)?;
        let end = start + name.len();
        let rest = text.get(end..)?;
        // Quotes may be escaped: the body can be JSON inside a string.
        let is_name = lower[..start].ends_with('"') && rest.starts_with(['"', '\\']);
        let value = rest.trim_start_matches(|c: char| matches!(c, '"' | '\\' | ':') || c.is_whitespace());
        let len = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
        if is_name && len > 0 {
            return Some(&value[..len]);
        }
        from = end;
    }
}

/// The wait that an error's text asks for.
fn wait_in_text(text: &str, now: Timestamp) -> Option<Duration> {
    /// protobuf `RetryInfo` (Gemini, Vertex).
    static RETRY_DELAY: LazyLock<Regex> = LazyLock::new(|| compile(r#"retryDelay\\?"\s*:\s*\\?"(\d+(?:\.\d+)?)s"#));
    /// "try again in 9m38.016s", "Please retry in 48.9s", "Please wait 57829 seconds", "try again after 1 seconds".
    static PROSE: LazyLock<Regex> = LazyLock::new(|| {
        compile(
            r"(?i)\b(?:try again|retry|wait)(?: (?:in|after|for))? ((?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+|\d+(?:\.\d+)? ?(?:milliseconds?|seconds?|secs?|minutes?|mins?|hours?|days?))\b",
        )
    });
    /// "regain access on 2026-04-01 at 00:00 UTC".
    static REGAIN: LazyLock<Regex> = LazyLock::new(|| {
        compile(r"(?i)\b(?:on|at) (\d{4}-\d\d-\d\d)(?: at |T| )(\d\d:\d\d(?::\d\d)?)(?:\.\d+)? ?(?:UTC|Z)")
    });
    /// "Resets at 10:00 UTC": the next one.
    static CLOCK: LazyLock<Regex> = LazyLock::new(|| compile(r"(?i)\bresets? at (\d\d):(\d\d) UTC"));

    if let Some(found) = RETRY_DELAY.captures(text) {
        return number(&found[1]).and_then(seconds);
    }
    if let Some(found) = PROSE.captures(text) {
        return duration(&found[1].to_ascii_lowercase());
    }
    if let Some(found) = REGAIN.captures(text) {
        let clock = if found[2].len() == 5 { format!("{}:00", &found[2]) } else { found[2].to_owned() };
        return format!("{}T{clock}Z", &found[1]).parse().ok().and_then(|then| until(then, now));
    }
    if let Some(found) = CLOCK.captures(text) {
        let (hour, minute) = (found[1].parse::<i64>().ok()?, found[2].parse::<i64>().ok()?);
        let of_day = now.as_second().rem_euclid(86_400);
        let wait = (hour * 3600 + minute * 60 - of_day).rem_euclid(86_400);
        return (hour < 24 && minute < 60).then(|| Duration::from_secs(wait.unsigned_abs()));
    }
    None
}

fn compile(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern; a unit test uses each")
}
