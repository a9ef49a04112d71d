//! Provider limits from answers, as gauges that vanish five minutes after the reset they speak of.
//!
//! Values that are negative or not finite are not kept. An answer's limits count from the moment its head came, so that
//! a long stream does not overwrite what later answers said.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::series::{Budget, ShardMap, Tier, as_nanos, lock};
use crate::call::{LimitResource, RateLimit};

const SECOND: u64 = 1_000_000_000;
/// Series of one limit.
const LIMIT_SERIES: usize = 3;
/// Assumed when the answer names no reset: most plain limits speak of a minute.
const UNSTATED_RESET: Duration = Duration::from_secs(60);
/// Longer resets are not believed.
const LONGEST_RESET: Duration = Duration::from_secs(32 * 24 * 3600);
/// How long the gauges stay after the reset.
const AFTER_RESET: u64 = 300 * SECOND;
/// Steps in which the last 60 s are kept.
const STEP: u64 = 5 * SECOND;
const STEPS: usize = 12;

/// Gauges of one limit.
#[derive(Debug)]
pub struct Limit {
    /// Label `provider`.
    pub provider: Arc<str>,
    /// Label `account`.
    pub account: Arc<str>,
    /// Label `model`.
    pub model: Arc<str>,
    /// Label `resource`.
    pub resource: LimitResource,
    state: Mutex<LimitState>,
}

#[derive(Debug, Default)]
struct LimitState {
    seen: u64,
    reset: u64,
    limit: Option<f64>,
    remaining: Option<f64>,
    /// Lowest ratio of a 5-second step, and the step's number.
    lows: [Option<(u64, f64)>; STEPS],
}

/// What the gauges show now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LimitView {
    /// As stated.
    pub limit: Option<f64>,
    /// As last stated.
    pub remaining: Option<f64>,
    /// Lowest of the last 60 s; without an answer in that time the last one until its reset.
    pub headroom: Option<f64>,
}

/// Every limit known.
#[derive(Debug)]
pub struct Limits(ShardMap<Limit>);

fn usable(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite() && *value >= 0.0).map(|value| value + 0.0)
}

impl Limits {
    /// None known.
    pub fn new() -> Self {
        Self(ShardMap::new())
    }

    /// Takes in what an answer stated at `seen`; false when there was no room for its series.
    pub fn observe(
        &self,
        (provider, account, model): (&Arc<str>, &Arc<str>, &Arc<str>),
        stated: &RateLimit,
        seen: u64,
        now: u64,
        budget: &Budget,
    ) -> bool {
        let (limit, remaining) = (usable(stated.limit), usable(stated.remaining));
        let reset = seen.saturating_add(as_nanos(stated.reset.unwrap_or(UNSTATED_RESET).min(LONGEST_RESET)));
        if (limit.is_none() && remaining.is_none()) || reset.saturating_add(AFTER_RESET) <= now {
            return true;
        }
        let hash = self.0.hash(&[provider, account, model, stated.resource.as_str()]);
        let is = |known: &Limit| {
            known.resource == stated.resource
                && known.provider == *provider
                && known.account == *account
                && known.model == *model
        };
        let make = || {
            budget.take(LIMIT_SERIES, Tier::Exact).then(|| {
                Arc::new(Limit {
                    provider: provider.clone(),
                    account: account.clone(),
                    model: model.clone(),
                    resource: stated.resource,
                    state: Mutex::default(),
                })
            })
        };
        let Some(entry) = self.0.find_or(hash, is, make) else { return false };
        let mut state = lock(&entry.state);
        if seen >= state.seen {
            state.seen = seen;
            state.reset = reset;
            state.limit = limit.or(state.limit);
            state.remaining = remaining;
        }
        if let (Some(limit), Some(remaining)) = (limit.or(state.limit), remaining)
            && limit > 0.0
        {
            let (step, ratio) = (seen / STEP, (remaining / limit).min(1.0));
            let slot = &mut state.lows[step as usize % STEPS];
            match slot {
                Some((at, low)) if *at == step => *low = low.min(ratio),
                Some((at, _)) if *at > step => {}
                _ => *slot = Some((step, ratio)),
            }
        }
        true
    }

    /// Forgets what has expired and gives its series back.
    pub fn sweep(&self, now: u64, budget: &Budget) {
        self.0.retain(|limit| {
            let keep = !lock(&limit.state).expired(now);
            if !keep {
                budget.give(LIMIT_SERIES);
            }
            keep
        });
    }

    /// Every limit with what it shows now.
    pub fn all(&self, now: u64) -> Vec<(Arc<Limit>, LimitView)> {
        let all = self.0.all().into_iter();
        let view = |limit: Arc<Limit>| {
            let view = lock(&limit.state).view(now);
            (limit, view)
        };
        all.map(view).collect()
    }
}

impl LimitState {
    fn expired(&self, now: u64) -> bool {
        self.reset.saturating_add(AFTER_RESET) <= now
    }

    fn view(&self, now: u64) -> LimitView {
        if self.expired(now) {
            return LimitView::default();
        }
        let recent = now / STEP;
        let lows = self.lows.iter().flatten().filter(|(step, _)| recent.saturating_sub(*step) < STEPS as u64);
        let lowest = lows.map(|(_, ratio)| *ratio).reduce(f64::min);
        let last = || {
            let (limit, remaining) = (self.limit.filter(|limit| *limit > 0.0)?, self.remaining?);
            (now < self.reset).then(|| (remaining / limit).min(1.0))
        };
        LimitView { limit: self.limit, remaining: self.remaining, headroom: lowest.or_else(last) }
    }
}
