//! Sums over calls: exact, and by the same rules as the metrics, so that the two can be compared.

use std::sync::Arc;
use std::time::Duration;

use super::row::{Found, Summed};
use crate::call::{Money, Outcome, UnpricedReason, UsageSource};

/// Sums over some calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All calls.
    pub calls: u64,
    /// Those that failed ([`Outcome::is_failure`]).
    pub failed: u64,
    /// Those that sent a request again shortly after it had failed (`retry_count` above 0).
    pub retried: u64,
    /// Tokens in, cached ones included. Usage that was billed with an earlier call is not counted again.
    pub input_tokens: u64,
    /// Tokens out.
    pub output_tokens: u64,
    /// Part of `input_tokens` read from a cache.
    pub cache_read_tokens: u64,
    /// Spend.
    pub cost: Money,
    /// Part of `cost` that rests on estimated tokens.
    pub estimated_cost: Money,
    /// Part of `cost` spent on calls that failed: paid, without a usable answer.
    pub failed_cost: Money,
    /// Calls that used tokens whose price nobody knows.
    pub unpriced_calls: u64,
    /// Tokens without a price.
    pub unpriced_tokens: u64,
    /// Durations of all calls.
    pub duration: Duration,
}

/// Totals of the calls that have the same values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// One value for each dimension that was asked for, in that order.
    pub values: Vec<Arc<str>>,
    /// Their sums.
    pub totals: Totals,
}

impl Totals {
    /// Adds `other`.
    pub fn add(&mut self, other: &Totals) {
        macro_rules! sum { ($($field:ident),+) => { $(self.$field = self.$field.saturating_add(other.$field);)+ } }
        sum!(calls, failed, retried, input_tokens, output_tokens, cache_read_tokens, unpriced_calls, unpriced_tokens);
        sum!(duration);
        self.cost += other.cost;
        self.estimated_cost += other.estimated_cost;
        self.failed_cost += other.failed_cost;
    }

    /// Mean duration of a call.
    pub fn mean_duration(&self) -> Option<Duration> {
        (self.calls > 0).then(|| Duration::from_secs_f64(self.duration.as_secs_f64() / self.calls as f64))
    }
}

/// Sums over calls of one result, before what the result means is applied to them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    calls: u64,
    retried: u64,
    input_tokens: u64,
    output_tokens: u64,
    cache_read_tokens: u64,
    cost: Money,
    /// Calls without cost, and their tokens.
    free: u64,
    free_tokens: u64,
    unpriced_tokens: u64,
    duration_us: u64,
}

impl Sums {
    pub fn add(&mut self, call: &Summed) {
        let (input, output) = (call.input_tokens.unwrap_or(0), call.output_tokens.unwrap_or(0));
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        self.calls += 1;
        self.retried += u64::from(call.retry_count > 0);
        add(&mut self.input_tokens, input);
        add(&mut self.output_tokens, output);
        add(&mut self.cache_read_tokens, call.cache_read_tokens.unwrap_or(0).min(input));
        add(&mut self.unpriced_tokens, call.unpriced_tokens);
        add(&mut self.duration_us, call.duration_us);
        match call.cost {
            Some(cost) => self.cost += cost,
            None => {
                self.free += 1;
                add(&mut self.free_tokens, input.saturating_add(output));
            }
        }
    }

    pub fn totals(&self, found: &Found) -> Totals {
        use UnpricedReason::{Free, NotBilled, RepeatedUsage};
        let repeated = found.unpriced_reason == Some(RepeatedUsage);
        let lacks_price = found.usage_source != UsageSource::None
            && !matches!(found.unpriced_reason, Some(Free | NotBilled | RepeatedUsage));
        let failed = Outcome::is_failure(found.outcome);
        // A price without usage is the provider's own statement, or else a guess.
        let estimated = match found.usage_source {
            UsageSource::Estimated => true,
            UsageSource::None => !found.cost_stated,
            UsageSource::Reported | UsageSource::Injected => false,
        };
        let some = |count: u64, when: bool| if when { count } else { 0 };
        let money = |when: bool| if when { self.cost } else { Money::ZERO };
        Totals {
            calls: self.calls,
            failed: some(self.calls, failed),
            retried: self.retried,
            input_tokens: some(self.input_tokens, !repeated),
            output_tokens: some(self.output_tokens, !repeated),
            cache_read_tokens: some(self.cache_read_tokens, !repeated),
            cost: self.cost,
            estimated_cost: money(estimated),
            failed_cost: money(failed),
            unpriced_calls: some(self.free, lacks_price),
            unpriced_tokens: some(self.free_tokens, lacks_price).saturating_add(self.unpriced_tokens),
            duration: Duration::from_micros(self.duration_us),
        }
    }
}
