//! The live view as plain data: what `/status/live` says in JSON, the status page in HTML, and `keytally top` on a
//! terminal.
//!
//! Out: copies, made under one lock, sorted by what costs most. No content, no key: names, fingerprints and labels. Texts that
//! came from applications or providers (model names, error codes) are as they came, at most 256 bytes each; whoever
//! shows them must escape them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::ring::{Ring, Slot};
use super::{Live, MINUTES, Moment, Period, Row, Seeded, start_of_day, start_of_month};
use crate::call::{CallRecord, Money};
use crate::export::metrics::rfc3339;

/// Label values: closed sets here, any text where an answer of another version is read.
type Label = Cow<'static, str>;

/// Which keys, models, outcomes, clients and calls to show; an empty filter shows all. Sums over everything stay what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Label or fingerprint of a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Provider id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Model label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Outcome; `failed` is any failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LiveView {
    /// When it was taken, RFC 3339 in UTC.
    pub time: String,
    /// What `today` and `month` stand for.
    pub periods: Periods,
    /// All calls since start.
    pub total: SumRow,
    /// The last 60 seconds.
    pub last_minute: MinuteRow,
    /// The last 60 minutes, oldest first; the last one is still running.
    pub minutes: Vec<MinuteRow>,
    /// By key and provider, the dearest of this month first.
    pub keys: Vec<KeyLive>,
    /// By provider and model, the dearest first.
    pub models: Vec<ModelRow>,
    /// By client, the dearest first.
    pub clients: Vec<ClientRow>,
    /// By outcome, the most frequent first.
    pub outcomes: Vec<OutcomeRow>,
    /// By finding, the most frequent first.
    pub findings: Vec<FindingRow>,
    /// The last calls, newest first: the last ones of all kinds, and the last failures.
    pub calls: Vec<CallRow>,
}

/// From when on sums of a period are complete.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Periods {
    /// Calls since then are in `today_usd`.
    pub today_since: String,
    /// That is the beginning of the day (UTC).
    pub today_complete: bool,
    /// Calls since then are in `month_usd`.
    pub month_since: String,
    /// That is the beginning of the month (UTC).
    pub month_complete: bool,
}

/// Sums.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SumRow {
    /// Calls since start.
    pub calls: u64,
    /// Failed ones.
    pub failures: u64,
    /// Tokens in since start.
    pub input_tokens: u64,
    /// Tokens out since start.
    pub output_tokens: u64,
    /// Spend since start.
    pub spend_usd: Money,
    /// Part of it that rests on estimated tokens.
    pub estimated_usd: Money,
    /// Calls that should cost something and have no price.
    pub unpriced_calls: u64,
    /// Spend of today, see [`Periods`].
    pub today_usd: Money,
    /// Calls of today.
    pub today_calls: u64,
    /// Spend of this month, see [`Periods`].
    pub month_usd: Money,
    /// Calls of this month.
    pub month_calls: u64,
}

/// Calls, failures and spend of a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MinuteRow {
    /// Calls that ended.
    pub calls: u32,
    /// Failed ones.
    pub failures: u32,
    /// Spend, dollars.
    pub usd: f64,
}

/// One key at one provider.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KeyLive {
    /// Name, fingerprint or `none`.
    pub key: Arc<str>,
    /// Catalogue id.
    pub provider: Arc<str>,
    /// Sums.
    #[serde(flatten)]
    pub sum: SumRow,
    /// The last 60 seconds.
    pub last_minute: MinuteRow,
    /// The last ten minutes.
    pub last_10_minutes: MinuteRow,
    /// The last hour.
    pub last_hour: MinuteRow,
    /// Spend of the last 60 minutes, dollars, oldest first; empty without any.
    pub minutes_usd: Vec<f64>,
    /// By outcome, the most frequent first.
    pub outcomes: Vec<OutcomeCount>,
    /// By model, the dearest first.
    pub models: Vec<ModelShare>,
}

/// How often a key met an outcome.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutcomeCount {
    /// Which.
    pub outcome: Label,
    /// Calls since start.
    pub calls: u64,
}

/// What a key spent with a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelShare {
    /// Label.
    pub model: Arc<str>,
    /// Calls since start.
    pub calls: u64,
    /// Spend since start.
    pub spend_usd: Money,
}

/// One model at one provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelRow {
    /// Catalogue id.
    pub provider: Arc<str>,
    /// Label.
    pub model: Arc<str>,
    /// Sums.
    #[serde(flatten)]
    pub sum: SumRow,
}

/// One client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientRow {
    /// Name, or `none`.
    pub client: Arc<str>,
    /// Sums.
    #[serde(flatten)]
    pub sum: SumRow,
}

/// One outcome.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutcomeRow {
    /// Which.
    pub outcome: Label,
    /// Whose side must act, by the last call.
    pub fault: Label,
    /// It is a failure.
    pub failure: bool,
    /// Calls since start.
    pub calls: u64,
    /// Calls of the last hour.
    pub last_hour: u32,
    /// When the last one began.
    pub last_time: String,
    /// Its key.
    pub last_key: String,
    /// Id of its first fix.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_fix: Option<Arc<str>>,
    /// Its text, once who knows the rules has put it in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fix: Option<String>,
}

/// One finding.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FindingRow {
    /// Which.
    pub finding: Label,
    /// Calls since start on which it held.
    pub calls: u64,
    /// When the last one began.
    pub last_time: String,
    /// Its key.
    pub last_key: String,
    /// Its provider.
    pub last_provider: Arc<str>,
    /// What to do about it, once who knows has put it in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fix: Option<String>,
}

/// One call: no content, ever.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallRow {
    /// When it began.
    pub time: String,
    /// Its id in every sink.
    pub call_id: String,
    /// Name or fingerprint of its key, or `none`.
    pub key: String,
    /// Catalogue id.
    pub provider: Arc<str>,
    /// What was asked for.
    pub operation: Label,
    /// Model that answered, else the one asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// The model's label.
    pub model_label: Arc<str>,
    /// Who called.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client: Option<Arc<str>>,
    /// HTTP status.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<u16>,
    /// What became of it.
    pub outcome: Label,
    /// It is a failure.
    pub failure: bool,
    /// The provider's own code or type.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// Tokens in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub input_tokens: Option<u64>,
    /// Tokens out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output_tokens: Option<u64>,
    /// Where the tokens come from.
    pub usage_source: Label,
    /// Spend.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cost_usd: Option<Money>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unpriced_reason: Option<Label>,
    /// To the first output of a stream.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_output_seconds: Option<f64>,
    /// To the end.
    pub duration_seconds: f64,
    /// What can be said of its key.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub findings: Vec<Label>,
}

// === impl Filter ===

impl Filter {
    /// Shows everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn keeps(&self, record: &CallRecord) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        let outcome = self.outcome.as_deref().is_none_or(|wanted| match wanted {
            "failed" => record.outcome.is_failure(),
            wanted => wanted == record.outcome.as_str(),
        });
        let fingerprint = record.key.as_ref().is_some_and(|key| self.key.as_deref() == Some(key.as_str()));
        (is(&self.key, record.key_label()) || fingerprint)
            && is(&self.provider, &record.provider)
            && is(&self.model, &record.model_label)
            && is(&self.client, record.client.as_deref().unwrap_or("none"))
            && outcome
    }
}

// === impl Live ===

impl Live {
    /// What there is at `now`. The filter holds for the list of calls; rows are all there, for their reader to choose from.
    pub fn view(&self, filter: &Filter, now: SystemTime) -> LiveView {
        let moment = Moment::of(now);
        let (calls, view) = {
            let state = self.lock();
            let mut view = LiveView {
                time: rfc3339(now),
                periods: self.periods(state.seeded, moment),
                total: sum(&state.total, moment),
                last_minute: state.seconds.sum(moment.slot()).into(),
                minutes: state.minutes.last(moment.minute()).map(MinuteRow::from).collect(),
                ..LiveView::default()
            };
            view.keys.extend(state.keys.iter().flat_map(|(key, providers)| {
                providers.iter().map(move |(provider, state)| state.view(key, provider, moment))
            }));
            view.models.extend(state.models.iter().map(|((provider, model), row)| ModelRow {
                provider: provider.clone(),
                model: model.clone(),
                sum: sum(row, moment),
            }));
            view.clients.extend(
                state.clients.iter().map(|(client, row)| ClientRow { client: client.clone(), sum: sum(row, moment) }),
            );
            view.outcomes.extend(state.outcomes.iter().filter_map(|(outcome, state)| {
                let last = state.last.as_ref()?;
                Some(OutcomeRow {
                    outcome: outcome.as_str().into(),
                    fault: last.fault.as_str().into(),
                    failure: outcome.is_failure(),
                    calls: state.calls,
                    last_hour: state.minutes.sum(moment.minute()).calls,
                    last_time: rfc3339(last.time),
                    last_key: last.key_label().to_owned(),
                    first_fix: last.first_fix.clone(),
                    fix: None,
                })
            }));
            view.findings.extend(state.findings.iter().filter_map(|(finding, state)| {
                let last = state.last.as_ref()?;
                Some(FindingRow {
                    finding: finding.as_str().into(),
                    calls: state.calls,
                    last_time: rfc3339(last.time),
                    last_key: last.key_label().to_owned(),
                    last_provider: last.provider.clone(),
                    fix: None,
                })
            }));
            let calls: Vec<_> = state.calls.iter().chain(&state.failures).cloned().collect();
            (calls, view)
        };
        let mut view = view;
        view.calls = call_rows(calls, filter);
        view.keys.sort_by(|a, b| {
            (b.sum.month_usd, b.sum.calls, &a.key, &a.provider).cmp(&(
                a.sum.month_usd,
                a.sum.calls,
                &b.key,
                &b.provider,
            ))
        });
        view.models
            .sort_by(|a, b| (b.sum.spend_usd, b.sum.calls, &a.model).cmp(&(a.sum.spend_usd, a.sum.calls, &b.model)));
        view.clients
            .sort_by(|a, b| (b.sum.spend_usd, b.sum.calls, &a.client).cmp(&(a.sum.spend_usd, a.sum.calls, &b.client)));
        view.outcomes.sort_by(|a, b| (b.calls, &a.outcome).cmp(&(a.calls, &b.outcome)));
        view.findings.sort_by(|a, b| (b.calls, &a.finding).cmp(&(a.calls, &b.finding)));
        view
    }

    fn periods(&self, seeded: Seeded, now: Moment) -> Periods {
        let of = |seeded_for: Option<i64>, number: i64, start: SystemTime| {
            // What came before this process is known as far back as the ledger goes.
            let before = seeded.from.filter(|_| seeded_for == Some(number));
            let from = before.map_or(self.started, |from| from.min(self.started));
            (rfc3339(from.max(start)), from <= start)
        };
        let (today_since, today_complete) = of(seeded.day, now.day, start_of_day(now.day));
        let (month_since, month_complete) = of(seeded.month, now.month, start_of_month(now.month));
        Periods { today_since, today_complete, month_since, month_complete }
    }
}

/// Newest first, each once.
fn call_rows(mut calls: Vec<Arc<CallRecord>>, filter: &Filter) -> Vec<CallRow> {
    let mut seen = HashSet::with_capacity(calls.len());
    calls.retain(|record| filter.keeps(record) && seen.insert(record.call_id));
    calls.sort_by_key(|record| std::cmp::Reverse((record.time, record.call_id.0)));
    calls.iter().map(|record| CallRow::of(record)).collect()
}

fn sum(row: &Row, moment: Moment) -> SumRow {
    let of = |period: &Period, number| period.of(number);
    let ((today_calls, today_usd), (month_calls, month_usd)) = (of(&row.day, moment.day), of(&row.month, moment.month));
    SumRow {
        calls: row.calls,
        failures: row.failures,
        input_tokens: row.input_tokens,
        output_tokens: row.output_tokens,
        spend_usd: row.spend,
        estimated_usd: row.estimated,
        unpriced_calls: row.unpriced,
        today_usd,
        today_calls,
        month_usd,
        month_calls,
    }
}

impl super::KeyState {
    fn view(&self, key: &Arc<str>, provider: &Arc<str>, moment: Moment) -> KeyLive {
        let minutes = |ring: &Ring<MINUTES>| {
            let usd: Vec<f64> = ring.last(moment.minute()).map(Slot::usd).collect();
            if usd.iter().any(|usd| *usd > 0.0) { usd } else { Vec::new() }
        };
        let mut outcomes: Vec<_> = self
            .outcomes
            .iter()
            .map(|(outcome, calls)| OutcomeCount { outcome: outcome.as_str().into(), calls: *calls })
            .collect();
        outcomes.sort_by(|a, b| (b.calls, &a.outcome).cmp(&(a.calls, &b.outcome)));
        let mut models: Vec<_> = self
            .models
            .iter()
            .map(|(model, calls, spend)| ModelShare { model: model.clone(), calls: *calls, spend_usd: *spend })
            .collect();
        models.sort_by(|a, b| (b.spend_usd, b.calls, &a.model).cmp(&(a.spend_usd, a.calls, &b.model)));
        KeyLive {
            key: key.clone(),
            provider: provider.clone(),
            sum: sum(&self.row, moment),
            last_minute: self.seconds.sum(moment.slot()).into(),
            last_10_minutes: self.minutes.sum_of(10, moment.minute()).into(),
            last_hour: self.minutes.sum(moment.minute()).into(),
            minutes_usd: minutes(&self.minutes),
            outcomes,
            models,
        }
    }
}

impl CallRow {
    fn of(record: &CallRecord) -> Self {
        let label = |text: &'static str| Label::Borrowed(text);
        Self {
            time: rfc3339(record.time),
            call_id: record.call_id.to_string(),
            key: record.key_label().to_owned(),
            provider: record.provider.clone(),
            operation: label(record.operation.as_str()),
            model: record.response_model.clone().or_else(|| record.request_model.clone()),
            model_label: record.model_label.clone(),
            client: record.client.clone(),
            status: record.status,
            outcome: label(record.outcome.as_str()),
            failure: record.outcome.is_failure(),
            error: record.error_code.clone().or_else(|| record.error_type.clone()),
            input_tokens: record.usage.input_tokens,
            output_tokens: record.usage.output_tokens,
            usage_source: label(record.usage_source.as_str()),
            cost_usd: record.cost,
            unpriced_reason: record.unpriced_reason.map(|reason| label(reason.as_str())),
            first_output_seconds: record.timing.first_output.filter(|_| record.stream).map(|time| time.as_secs_f64()),
            duration_seconds: record.timing.total.as_secs_f64(),
            findings: record.findings.iter().map(|finding| label(finding.as_str())).collect(),
        }
    }
}

impl From<Slot> for MinuteRow {
    fn from(slot: Slot) -> Self {
        Self { calls: slot.calls, failures: slot.failures, usd: slot.usd() }
    }
}
