//! The series that a finished call adds to, by key and model, by model, and by provider.
//!
//! A call becomes a delta on the stack; [`KeyModel::apply`] and [`ProviderModel::apply`] add what has a series or may
//! get one and leave the rest in the delta, which the caller then applies to the next less specific entry. So totals
//! stay exact whatever ceiling is reached.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use super::families::{
    BilledUnit, BodyDirection, CallResult, DURATION_BUCKETS, FIRST_TOKEN_BUCKETS, PER_TOKEN_BUCKETS, PricingStatus,
    SIZE_BUCKETS, TokenDirection,
};
use super::keys::Key;
use super::series::{Budget, Count, Exemplar, Hist, Tier, as_nanos, lock};
use crate::call::{CallRecord, Fault, Operation, Outcome, TokenType, UnpricedReason, UsageSource};

/// The dearest call is remembered this long, in nanoseconds.
const SPEND_WINDOW: u64 = 60_000_000_000;

/// Series of one key and model.
#[derive(Debug)]
pub struct KeyModel {
    /// Label `key`.
    pub key: Arc<str>,
    /// Label `provider`.
    pub provider: Arc<str>,
    /// Label `model`.
    pub model: Arc<str>,
    /// How specific it is.
    pub tier: Tier,
    /// Series of the same provider and model.
    pub of_model: Arc<ProviderModel>,
    /// Series of the same provider.
    pub of_provider: Arc<Provider>,
    /// Series of the same key.
    pub of_key: Arc<Key>,
    /// The counters.
    pub state: Mutex<KeyModelState>,
}

/// See [`KeyModel`].
#[derive(Clone, Debug, Default)]
pub struct KeyModelState {
    /// Finished calls.
    pub requests: Vec<RequestCount>,
    /// By [`TokenType`].
    pub tokens: [Option<Count>; TokenType::ALL.len()],
    /// By [`UsageSource`] except `none`; femto-dollars.
    pub spend: [Option<SpendCount>; 3],
    /// By [`UsageSource`].
    pub usage: [Option<Count>; UsageSource::ALL.len()],
    /// By [`BilledUnit`]; thousandths.
    pub units: [Option<Count>; BilledUnit::ALL.len()],
}

/// Finished calls of one kind.
#[derive(Clone, Debug)]
pub struct RequestCount {
    /// Its labels.
    pub kind: (Operation, Outcome, Fault),
    /// How many.
    pub count: Count,
    /// The last failed one.
    pub exemplar: Option<Exemplar>,
}

/// Money and the dearest call of the last minute.
#[derive(Clone, Debug)]
pub struct SpendCount {
    /// Femto-dollars.
    pub count: Count,
    /// The dearest call.
    pub exemplar: Option<Exemplar>,
    /// When it was first the dearest.
    window_from: u64,
}

/// What a call adds by key and model.
#[derive(Debug, Default)]
pub struct KeyModelDelta {
    request: Option<(Operation, Outcome, Fault)>,
    request_exemplar: Option<Exemplar>,
    tokens: [u64; TokenType::ALL.len()],
    spend: Option<(UsageSource, u128)>,
    spend_exemplar: Option<Exemplar>,
    usage: Option<UsageSource>,
    units: [u64; BilledUnit::ALL.len()],
}

impl KeyModelDelta {
    /// Reads a record.
    pub fn of(record: &CallRecord, exemplar: Option<Exemplar>) -> Self {
        let mut delta = Self {
            request: Some((record.operation, record.outcome, record.fault)),
            request_exemplar: exemplar
                .filter(|_| record.outcome != Outcome::Ok)
                .map(|exemplar| Exemplar { value: 1.0, ..exemplar }),
            usage: Some(record.usage_source),
            ..Self::default()
        };
        // What was billed with an earlier call was also counted with it.
        if record.unpriced_reason == Some(UnpricedReason::RepeatedUsage) {
            return delta;
        }
        for (kind, n) in record.usage.split() {
            delta.tokens[kind as usize] = n;
        }
        let cost = record.cost.map(|cost| (u128::try_from(cost.femto()).unwrap_or(0), cost.as_f64()));
        if let Some((femto, usd)) = cost {
            // A price without usage is the provider's own statement, or else a guess.
            let source = match record.usage_source {
                UsageSource::None if record.cost_stated => UsageSource::Reported,
                UsageSource::None => UsageSource::Estimated,
                source => source,
            };
            delta.spend = Some((source, femto));
            delta.spend_exemplar = exemplar.map(|exemplar| Exemplar { value: usd.max(0.0), ..exemplar });
        }
        let usage = &record.usage;
        let whole = |n: Option<u64>| n.unwrap_or(0).saturating_mul(1_000);
        let searches = [usage.web_searches, usage.file_searches, usage.search_units];
        let unit = &mut delta.units;
        unit[BilledUnit::Image as usize] = whole(usage.images);
        unit[BilledUnit::AudioSecond as usize] = usage.input_audio_millis.unwrap_or(0);
        unit[BilledUnit::Character as usize] = whole(usage.input_characters);
        unit[BilledUnit::Page as usize] = whole(usage.pages);
        unit[BilledUnit::Search as usize] = searches.into_iter().fold(0, |sum: u64, n| sum.saturating_add(whole(n)));
        if usage.is_empty() && cost.is_some_and(|(femto, _)| femto > 0) {
            unit[BilledUnit::Request as usize] = 1_000;
        }
        delta
    }

    /// Nothing is left to add.
    pub fn is_done(&self) -> bool {
        self.request.is_none()
            && self.usage.is_none()
            && self.spend.is_none()
            && self.tokens.iter().chain(&self.units).all(|&n| n == 0)
    }
}

fn add(slot: &mut Option<Count>, n: u128, now: u64, tier: Tier, budget: &Budget) -> bool {
    if slot.is_none() && !budget.take(1, tier) {
        return false;
    }
    slot.get_or_insert_with(|| Count::born(now)).add(n);
    true
}

impl KeyModel {
    /// Adds what fits and takes it out of `delta`.
    pub fn apply(&self, delta: &mut KeyModelDelta, now: u64, budget: &Budget) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if let Some(mut kind) = delta.request {
            if self.tier == Tier::Sink {
                kind.0 = Operation::Other;
            }
            let known = state.requests.iter().position(|request| request.kind == kind);
            let at = known.or_else(|| {
                budget.take(1, self.tier).then(|| {
                    state.requests.push(RequestCount { kind, count: Count::born(now), exemplar: None });
                    state.requests.len() - 1
                })
            });
            if let Some(at) = at {
                let request = &mut state.requests[at];
                request.count.add(1);
                request.exemplar = delta.request_exemplar.or(request.exemplar);
                delta.request = None;
            }
        }
        for (slot, n) in state.tokens.iter_mut().zip(&mut delta.tokens) {
            if *n > 0 && add(slot, u128::from(*n), now, self.tier, budget) {
                *n = 0;
            }
        }
        for (slot, n) in state.units.iter_mut().zip(&mut delta.units) {
            if *n > 0 && add(slot, u128::from(*n), now, self.tier, budget) {
                *n = 0;
            }
        }
        if let Some(source) = delta.usage
            && add(&mut state.usage[source as usize], 1, now, self.tier, budget)
        {
            delta.usage = None;
        }
        if let Some((source, femto)) = delta.spend {
            let slot = &mut state.spend[source as usize];
            if slot.is_some() || budget.take(1, self.tier) {
                let spend =
                    slot.get_or_insert(SpendCount { count: Count::born(now), exemplar: None, window_from: now });
                spend.count.add(femto);
                if let Some(exemplar) = delta.spend_exemplar
                    && spend.exemplar.is_none_or(|dearest| {
                        exemplar.value > dearest.value || now.saturating_sub(spend.window_from) >= SPEND_WINDOW
                    })
                {
                    spend.exemplar = Some(exemplar);
                    spend.window_from = now;
                }
                delta.spend = None;
            }
        }
    }
}

/// Series of one provider and model.
#[derive(Debug)]
pub struct ProviderModel {
    /// Label `provider`.
    pub provider: Arc<str>,
    /// Label `model`.
    pub model: Arc<str>,
    /// How specific it is.
    pub tier: Tier,
    /// The counters and histograms.
    pub state: Mutex<ProviderModelState>,
}

/// See [`ProviderModel`].
#[derive(Clone, Debug, Default)]
pub struct ProviderModelState {
    /// By [`CallResult`].
    pub duration: [Option<Hist>; CallResult::ALL.len()],
    /// Streams.
    pub first_token: Option<Hist>,
    /// Streams.
    pub per_token: Option<Hist>,
    /// By [`TokenDirection`].
    pub tokens: [Option<Hist>; TokenDirection::ALL.len()],
    /// By [`PricingStatus`].
    pub pricing: [Option<Count>; PricingStatus::ALL.len()],
    /// Tokens without a price.
    pub unpriced: Option<Count>,
}

/// What a call adds by provider and model.
#[derive(Debug, Default)]
pub struct ProviderModelDelta {
    duration: Option<(CallResult, u64)>,
    first_token: Option<u64>,
    per_token: Option<u64>,
    tokens: [Option<u64>; TokenDirection::ALL.len()],
    pricing: Option<PricingStatus>,
    unpriced: u64,
    exemplar: Option<Exemplar>,
}

impl ProviderModelDelta {
    /// Reads a record; without `histograms` only the counters.
    pub fn of(record: &CallRecord, exemplar: Option<Exemplar>, histograms: bool) -> Self {
        let pricing = pricing_status(record);
        let mut delta = Self { pricing, exemplar, ..Self::default() };
        delta.unpriced = match pricing {
            Some(PricingStatus::Unpriced) => {
                let (input, output) = (record.usage.input_tokens, record.usage.output_tokens);
                input.unwrap_or(0).saturating_add(output.unwrap_or(0))
            }
            Some(PricingStatus::Partial) => record.unpriced_tokens,
            Some(PricingStatus::Priced | PricingStatus::Free) | None => 0,
        };
        if histograms {
            let result = if record.outcome == Outcome::Ok { CallResult::Ok } else { CallResult::Error };
            delta.duration = Some((result, as_nanos(record.timing.total)));
            delta.first_token = record.timing.first_output.filter(|_| record.stream).map(as_nanos);
            delta.per_token = per_token_nanos(record);
            if record.unpriced_reason != Some(UnpricedReason::RepeatedUsage) {
                delta.tokens = [record.usage.input_tokens, record.usage.output_tokens];
            }
        }
        delta
    }

    /// Nothing is left to add.
    pub fn is_done(&self) -> bool {
        self.duration.is_none()
            && self.first_token.is_none()
            && self.per_token.is_none()
            && self.tokens.iter().all(Option::is_none)
            && self.pricing.is_none()
            && self.unpriced == 0
    }
}

fn per_token_nanos(record: &CallRecord) -> Option<u64> {
    // Both are offsets from the same start; taken from two clocks' readings they could still be out of order.
    (record.timing.last_output? >= record.timing.first_output?).then_some(())?;
    let seconds = record.time_per_output_token().filter(|seconds| seconds.is_finite() && *seconds >= 0.0)?;
    Some((seconds * 1e9).round() as u64)
}

/// `None` when there was nothing to price: failures without usage, operations that are not billed, usage seen before.
fn pricing_status(record: &CallRecord) -> Option<PricingStatus> {
    use UnpricedReason::*;
    match (record.unpriced_reason, record.cost) {
        (Some(Free), _) => Some(PricingStatus::Free),
        (_, Some(_)) if record.partly_priced => Some(PricingStatus::Partial),
        (_, Some(_)) => Some(PricingStatus::Priced),
        (Some(NoModel | UnknownModel | UnknownProvider | NoRate), None) => {
            (record.outcome == Outcome::Ok || !record.usage.is_empty()).then_some(PricingStatus::Unpriced)
        }
        (Some(NoUsage | RepeatedUsage | NotBilled) | None, None) => None,
    }
}

fn observe(
    slot: &mut Option<Hist>,
    bounds: &'static [super::families::Bound],
    value: &mut Option<u64>,
    exemplar: Option<Exemplar>,
    (now, tier, budget): (u64, Tier, &Budget),
) {
    let Some(n) = *value else { return };
    if slot.is_none() && !budget.take_histogram(bounds, tier) {
        return;
    }
    slot.get_or_insert_with(|| Hist::born(bounds, now)).observe(n, exemplar);
    *value = None;
}

impl ProviderModel {
    /// Adds what fits and takes it out of `delta`.
    pub fn apply(&self, delta: &mut ProviderModelDelta, now: u64, budget: &Budget) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let at = (now, self.tier, budget);
        let seconds = |nanos: u64| delta.exemplar.map(|e| Exemplar { value: nanos as f64 / 1e9, ..e });
        if let Some((result, nanos)) = delta.duration {
            let mut value = Some(nanos);
            observe(&mut state.duration[result as usize], &DURATION_BUCKETS, &mut value, seconds(nanos), at);
            delta.duration = value.map(|nanos| (result, nanos));
        }
        let exemplar = delta.first_token.and_then(seconds);
        observe(&mut state.first_token, &FIRST_TOKEN_BUCKETS, &mut delta.first_token, exemplar, at);
        observe(&mut state.per_token, &PER_TOKEN_BUCKETS, &mut delta.per_token, None, at);
        for (slot, value) in state.tokens.iter_mut().zip(&mut delta.tokens) {
            observe(slot, &SIZE_BUCKETS, value, None, at);
        }
        if let Some(status) = delta.pricing
            && add(&mut state.pricing[status as usize], 1, now, self.tier, budget)
        {
            delta.pricing = None;
        }
        if delta.unpriced > 0 && add(&mut state.unpriced, u128::from(delta.unpriced), now, self.tier, budget) {
            delta.unpriced = 0;
        }
    }
}

/// Series of one provider.
#[derive(Debug)]
pub struct Provider {
    /// Label `provider`.
    pub provider: Arc<str>,
    /// How specific it is.
    pub tier: Tier,
    /// Calls open now.
    pub in_flight: AtomicI64,
    /// Connections that pass unread.
    pub tunnels: super::tunnels::Tunnels,
    /// The counters.
    pub state: Mutex<ProviderState>,
}

/// See [`Provider`].
#[derive(Clone, Debug, Default)]
pub struct ProviderState {
    /// By status code, 0 for none.
    pub responses: Vec<(u16, Count)>,
    /// By [`BodyDirection`].
    pub bytes: [Option<Count>; BodyDirection::ALL.len()],
}

/// What a call adds by provider.
#[derive(Debug)]
pub struct ProviderDelta {
    code: Option<u16>,
    bytes: [u64; BodyDirection::ALL.len()],
}

impl ProviderDelta {
    /// Reads a record.
    pub fn of(record: &CallRecord) -> Self {
        let code = record.status.filter(|code| (100..=999).contains(code)).unwrap_or(0);
        Self { code: Some(code), bytes: [record.request_bytes, record.response_bytes] }
    }

    /// Nothing is left to add.
    pub fn is_done(&self) -> bool {
        self.code.is_none() && self.bytes.iter().all(|&n| n == 0)
    }
}

impl Provider {
    /// Adds what fits and takes it out of `delta`.
    pub fn apply(&self, delta: &mut ProviderDelta, now: u64, budget: &Budget) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if let Some(code) = delta.code {
            let known = state.responses.iter_mut().find(|(known, _)| *known == code);
            if let Some((_, count)) = known {
                count.add(1);
                delta.code = None;
            } else if budget.take(1, self.tier) {
                state.responses.push((code, Count { value: 1, born: now }));
                delta.code = None;
            }
        }
        for (slot, n) in state.bytes.iter_mut().zip(&mut delta.bytes) {
            if *n > 0 && add(slot, u128::from(*n), now, self.tier, budget) {
                *n = 0;
            }
        }
    }
}
