//! A call record as rows, and rows as a call record: the one place where columns and fields meet.
//!
//! Everything that `docs/call-record.md` lists comes back as it was; times to the millisecond, durations to the microsecond.
//! What only spans show (server, request parameters, limits, finish reasons, further ids) is not kept.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::types::{Type, ValueRef};
use rusqlite::{Row, params};
use serde_json::{Map, Value};

use super::dictionary::{Cell, Table};
use crate::call::{
    CallId, CallRecord, End, Fault, Finding, Fingerprint, Limits, Money, Operation, Outcome, Protocol, Timing,
    TraceContext, UnpricedReason, Usage, UsageSource, Way,
};

/// Femto-dollars of a nano-dollar.
const FEMTO: i128 = 1_000_000;

pub(super) const CALLERS: Table =
    Table { name: "callers", columns: &["key", "key_name", "team", "env", "client", "labels", "account"] };

pub(super) const TARGETS: Table = Table {
    name: "targets",
    columns: &[
        "way",
        "provider",
        "operation",
        "protocol",
        "model",
        "request_model",
        "response_model",
        "priced_model",
        "service_tier",
    ],
};

pub(super) const RESULTS: Table = Table {
    name: "results",
    columns: &[
        "status",
        "outcome",
        "fault",
        "retryable",
        "first_fix",
        "error_type",
        "error_code",
        "stream",
        "end",
        "usage_source",
        "unpriced_reason",
        "cost_stated",
        "partly_priced",
        "findings",
    ],
};

/// Columns of `calls` that hold what is not summed up, after those that are.
pub(super) const REST: &str = "cache_write_tokens, reasoning_tokens, first_token_us, connect_us, \
    overhead_us, request_bytes, response_bytes, call_id, trace_id, span_id, parent_span_id, provider_request_id, more_usage";

/// Who called.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub key: Option<Fingerprint>,
    pub key_name: Option<Arc<str>>,
    pub team: Option<Arc<str>>,
    pub env: Option<Arc<str>>,
    pub client: Option<Arc<str>>,
    pub labels: Arc<[(String, String)]>,
    pub account: Option<Arc<str>>,
}

/// What was called.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub way: Way,
    pub provider: Arc<str>,
    pub operation: Operation,
    pub protocol: Protocol,
    /// The name that totals go by.
    pub model: Option<Arc<str>>,
    pub request_model: Option<String>,
    pub response_model: Option<String>,
    pub priced_model: Option<String>,
    pub service_tier: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub status: Option<u16>,
    pub outcome: Outcome,
    pub fault: Fault,
    pub retryable: bool,
    pub first_fix: Option<Arc<str>>,
    pub error_type: Option<String>,
    pub error_code: Option<String>,
    pub stream: bool,
    pub end: End,
    pub usage_source: UsageSource,
    pub unpriced_reason: Option<UnpricedReason>,
    pub cost_stated: bool,
    pub partly_priced: bool,
    pub findings: Vec<Finding>,
}

// === to rows ===

pub(super) fn caller_cells(record: &CallRecord) -> [Cell<'_>; 7] {
    let labels = (!record.labels.is_empty()).then(|| {
        let labels: Map<_, _> =
            record.labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        Value::Object(labels).to_string()
    });
    [
        record.key.as_ref().map(Fingerprint::as_str).into(),
        record.key_name.as_deref().into(),
        record.team.as_deref().into(),
        record.env.as_deref().into(),
        record.client.as_deref().into(),
        labels.into(),
        record.account.as_deref().into(),
    ]
}

pub(super) fn target_cells(record: &CallRecord) -> [Cell<'_>; 9] {
    [
        record.way.as_str().into(),
        (&*record.provider).into(),
        record.operation.as_str().into(),
        record.protocol.as_str().into(),
        record.model().into(),
        record.request_model.as_deref().into(),
        record.response_model.as_deref().into(),
        record.priced_model.as_deref().into(),
        record.service_tier.as_deref().into(),
    ]
}

pub(super) fn result_cells(record: &CallRecord) -> [Cell<'_>; 14] {
    let findings: Vec<&str> = record.findings.iter().map(|finding| finding.as_str()).collect();
    [
        record.status.into(),
        record.outcome.as_str().into(),
        record.fault.as_str().into(),
        record.retryable.into(),
        record.first_fix.as_deref().into(),
        record.error_type.as_deref().into(),
        record.error_code.as_deref().into(),
        record.stream.into(),
        record.end.as_str().into(),
        record.usage_source.as_str().into(),
        record.unpriced_reason.map(|reason| reason.as_str()).into(),
        record.cost_stated.into(),
        record.partly_priced.into(),
        (!findings.is_empty()).then(|| findings.join(" ")).into(),
    ]
}

/// Writes the call's own row.
pub(super) fn insert(
    statement: &mut rusqlite::Statement<'_>,
    record: &CallRecord,
    [caller, target, result]: [i64; 3],
) -> rusqlite::Result<()> {
    let usage = &record.usage;
    let femto = record.cost.map(Money::femto);
    statement.execute(params![
        millis(record.time),
        caller,
        target,
        result,
        usage.input_tokens.map(int),
        usage.output_tokens.map(int),
        femto.map(|femto| i64::try_from(femto.div_euclid(FEMTO)).unwrap_or(i64::MAX)),
        femto.map(|femto| femto.rem_euclid(FEMTO) as i64),
        int(record.unpriced_tokens),
        record.retry_count,
        micros(record.timing.total),
        usage.cache_read_tokens.map(int),
        usage.cache_write_tokens.map(int),
        usage.reasoning_tokens.map(int),
        record.timing.first_output.filter(|_| record.stream).map(micros),
        record.timing.connect.map(micros),
        micros(record.overhead()),
        int(record.request_bytes),
        int(record.response_bytes),
        record.call_id.0.to_be_bytes(),
        (record.trace.trace_id != 0).then(|| record.trace.trace_id.to_be_bytes()),
        (record.trace.span_id != 0).then(|| record.trace.span_id.to_be_bytes()),
        record.trace.parent_span_id.map(u64::to_be_bytes),
        record.provider_request_id,
        more_usage(usage),
    ])?;
    Ok(())
}

/// `INSERT` for [`insert`].
pub(super) fn insert_sql() -> String {
    let columns = format!("{SUMMED}, {REST}");
    let places = vec!["?"; columns.split(',').count()].join(", ");
    format!("INSERT INTO calls ({columns}) VALUES ({places})")
}

/// Columns of `calls` that totals need, in the order of [`Summed`].
pub(super) const SUMMED: &str = "time, caller, target, result, input_tokens, output_tokens, cost_nano, cost_femto, \
    unpriced_tokens, retry_count, duration_us, cache_read_tokens";

pub(super) fn millis(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

pub(super) fn time(millis: i64) -> SystemTime {
    let distance = Duration::from_millis(millis.unsigned_abs());
    let there = if millis < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    there.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The parts of usage that have no column.
fn more_usage(usage: &Usage) -> Option<String> {
    let more = Usage {
        input_tokens: None,
        output_tokens: None,
        cache_read_tokens: None,
        cache_write_tokens: None,
        reasoning_tokens: None,
        ..usage.clone()
    };
    // Plain numbers only: this cannot fail.
    (!more.is_empty()).then(|| serde_json::to_string(&more).unwrap_or_default())
}

// === from rows ===

/// What of a call is summed up; the columns of [`SUMMED`] from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summed {
    pub time: i64,
    pub caller: i64,
    pub target: i64,
    pub result: i64,
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    pub cost: Option<Money>,
    pub unpriced_tokens: u64,
    pub retry_count: u32,
    pub duration_us: u64,
    pub cache_read_tokens: Option<u64>,
}

impl Summed {
    pub fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let number = |column: usize| optional(row, first + column);
        let count = |column: usize| number(column).map(|value| value.map(uint));
        Ok(Self {
            time: row.get(first)?,
            caller: row.get(first + 1)?,
            target: row.get(first + 2)?,
            result: row.get(first + 3)?,
            input_tokens: count(4)?,
            output_tokens: count(5)?,
            cost: number(6)?
                .map(|nano| -> rusqlite::Result<Money> {
                    Ok(Money::from_femto(i128::from(nano) * FEMTO + i128::from(number(7)?.unwrap_or(0))))
                })
                .transpose()?,
            unpriced_tokens: count(8)?.unwrap_or(0),
            retry_count: number(9)?.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
            duration_us: count(10)?.unwrap_or(0),
            cache_read_tokens: count(11)?,
        })
    }
}

impl Caller {
    /// The columns of [`CALLERS`] from `first` on.
    pub fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let labels: Option<String> = row.get(first + 5)?;
        let labels = match labels.as_deref().map(serde_json::from_str::<Map<String, Value>>) {
            None => Arc::from([]),
            Some(Ok(labels)) => {
                labels.into_iter().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned())).collect()
            }
            Some(Err(error)) => return Err(wrong(first + 5, error)),
        };
        Ok(Self {
            key: word(row, first)?,
            key_name: shared(row, first + 1)?,
            team: shared(row, first + 2)?,
            env: shared(row, first + 3)?,
            client: shared(row, first + 4)?,
            labels,
            account: shared(row, first + 6)?,
        })
    }
}

impl Target {
    /// The columns of [`TARGETS`] from `first` on.
    pub fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        Ok(Self {
            way: must(row, first)?,
            provider: shared(row, first + 1)?.unwrap_or_default(),
            operation: must(row, first + 2)?,
            protocol: must(row, first + 3)?,
            model: shared(row, first + 4)?,
            request_model: row.get(first + 5)?,
            response_model: row.get(first + 6)?,
            priced_model: row.get(first + 7)?,
            service_tier: row.get(first + 8)?,
        })
    }
}

impl Found {
    /// The columns of [`RESULTS`] from `first` on.
    pub fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let findings: Option<String> = row.get(first + 13)?;
        let findings = findings.unwrap_or_default();
        Ok(Self {
            status: row.get(first)?,
            outcome: must(row, first + 1)?,
            fault: must(row, first + 2)?,
            retryable: row.get(first + 3)?,
            first_fix: shared(row, first + 4)?,
            error_type: row.get(first + 5)?,
            error_code: row.get(first + 6)?,
            stream: row.get(first + 7)?,
            end: must(row, first + 8)?,
            usage_source: must(row, first + 9)?,
            unpriced_reason: word(row, first + 10)?,
            cost_stated: row.get(first + 11)?,
            partly_priced: row.get(first + 12)?,
            findings: findings
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, String>>()
                .map_err(|error| wrong(first + 13, Unknown(error)))?,
        })
    }
}

/// The whole record: `summed`, its three dictionary rows, and the columns of [`REST`] from `first` on.
pub(super) fn record(
    row: &Row<'_>,
    first: usize,
    summed: &Summed,
    (caller, target, found): (&Caller, &Target, &Found),
) -> rusqlite::Result<CallRecord> {
    let number = |column: usize| optional(row, first + column);
    let count = |column: usize| number(column).map(|value| value.map(uint));
    let span = |column: usize| count(column).map(|value| value.map(Duration::from_micros));
    let more: Option<String> = row.get(first + 12)?;
    let usage = Usage {
        input_tokens: summed.input_tokens,
        output_tokens: summed.output_tokens,
        cache_read_tokens: summed.cache_read_tokens,
        cache_write_tokens: count(0)?,
        reasoning_tokens: count(1)?,
        ..more.as_deref().map_or_else(|| Ok(Usage::default()), read_more).map_err(|error| wrong(first + 12, error))?
    };
    Ok(CallRecord {
        time: time(summed.time),
        call_id: CallId(u128::from_be_bytes(row.get(first + 7)?)),
        trace: TraceContext {
            trace_id: row.get::<_, Option<[u8; 16]>>(first + 8)?.map_or(0, u128::from_be_bytes),
            span_id: row.get::<_, Option<[u8; 8]>>(first + 9)?.map_or(0, u64::from_be_bytes),
            parent_span_id: row.get::<_, Option<[u8; 8]>>(first + 10)?.map(u64::from_be_bytes),
            ..TraceContext::default()
        },
        way: target.way,
        provider: Arc::clone(&target.provider),
        operation: target.operation,
        protocol: target.protocol,
        server_address: Arc::from(""),
        server_port: 0,
        method: String::new(),
        url: None,
        request_model: target.request_model.clone(),
        response_model: target.response_model.clone(),
        priced_model: target.priced_model.clone(),
        model_label: target.model.clone().unwrap_or_default(),
        key: caller.key.clone(),
        key_name: caller.key_name.clone(),
        team: caller.team.clone(),
        env: caller.env.clone(),
        client: caller.client.clone(),
        caller: None,
        labels: Arc::clone(&caller.labels),
        account: caller.account.clone(),
        status: found.status,
        outcome: found.outcome,
        fault: found.fault,
        retryable: found.retryable,
        first_fix: found.first_fix.clone(),
        error_type: found.error_type.clone(),
        error_code: found.error_code.clone(),
        provider_request_id: row.get(first + 11)?,
        response_id: None,
        conversation_id: None,
        finish_reasons: Vec::new(),
        stream: found.stream,
        end: found.end,
        usage,
        usage_source: found.usage_source,
        cost: summed.cost,
        cost_stated: found.cost_stated,
        partly_priced: found.partly_priced,
        unpriced_tokens: summed.unpriced_tokens,
        unpriced_reason: found.unpriced_reason,
        service_tier: target.service_tier.clone(),
        request_service_tier: None,
        max_tokens: None,
        temperature: None,
        top_p: None,
        reasoning_effort: None,
        choice_count: None,
        timing: Timing {
            total: Duration::from_micros(summed.duration_us),
            first_output: span(2)?,
            connect: span(3)?,
            overhead_request: span(4)?.unwrap_or_default(),
            ..Timing::default()
        },
        request_bytes: count(5)?.unwrap_or(0),
        response_bytes: count(6)?.unwrap_or(0),
        retry_count: summed.retry_count,
        findings: found.findings.clone(),
        limits: Limits::default(),
        unreadable: None,
    })
}

/// What [`more_usage`] wrote.
fn read_more(text: &str) -> serde_json::Result<Usage> {
    serde_json::from_str(text)
}

fn uint(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn optional(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<i64>> {
    match row.get_ref(column)? {
        ValueRef::Integer(number) => Ok(Some(number)),
        _ => Ok(None),
    }
}

fn shared(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Arc<str>>> {
    Ok(row.get_ref(column)?.as_str_or_null()?.map(Arc::from))
}

/// A value of a closed set.
fn word<T: FromStr<Err = String>>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let text = row.get_ref(column)?.as_str_or_null()?;
    text.map(str::parse).transpose().map_err(|error| wrong(column, Unknown(error)))
}

fn must<T: FromStr<Err = String>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    word(row, column)?.ok_or_else(|| wrong(column, Unknown("empty".to_owned())))
}

/// A word that this build does not know: a newer one wrote it without a change of the schema.
#[derive(Debug, thiserror::Error)]
#[error("{0} (written by a newer keytally?)")]
struct Unknown(String);

fn wrong(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
