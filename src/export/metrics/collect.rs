//! A walk over every series as it is to be seen now: birth hold, ceilings and expiry applied, integers made numbers.
//!
//! Each entry is copied under its own short lock; nothing is locked while text is written.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::call::{KeyModel, KeyModelState, ProviderModel, ProviderModelState};
use super::families::{self as f, Bound, Family};
use super::keys::UNKNOWN;
use super::series::{Count, Exemplar, Hist, lock};
use super::{Inner, wall};
use crate::call::{Finding, TokenType, Unreadable, UsageSource};

/// Femto-dollars in a dollar.
const FEMTO: f64 = 1e15;
const NANO: f64 = 1e9;
/// Billed units are counted in thousandths.
const MILLI: f64 = 1e3;

/// Takes one series after the other; a family's series come together, in the order of [`families::ALL`](f::ALL).
pub trait Visitor {
    /// A counter.
    fn counter(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        value: f64,
        created: Option<Duration>,
        exemplar: Option<&Exemplar>,
    );
    /// A gauge.
    fn gauge(&mut self, family: &'static Family, labels: &[&str], value: f64);
    /// A histogram.
    fn histogram(&mut self, family: &'static Family, labels: &[&str], hist: &HistView<'_>);
}

/// A histogram as it is to be seen.
pub struct HistView<'a> {
    /// Bounds below `+Inf`.
    pub bounds: &'static [Bound],
    /// Per-bucket counts, one more than bounds; `None` while held at zero.
    pub counts: Option<&'a [u64]>,
    /// Sum in the family's unit.
    pub sum: f64,
    /// When it was born, since the Unix epoch.
    pub created: Duration,
    /// One slot a bucket.
    pub exemplars: Option<&'a [Option<Exemplar>]>,
}

struct Walk<'a> {
    visitor: &'a mut dyn Visitor,
    now: u64,
    hold: u64,
    start: Duration,
    series: usize,
}

impl Walk<'_> {
    fn held(&self, born: u64) -> bool {
        self.now.saturating_sub(born) < self.hold
    }

    fn count(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        count: &Count,
        scale: f64,
        exemplar: Option<&Exemplar>,
    ) {
        let value = if self.held(count.born) { 0.0 } else { count.value as f64 / scale };
        self.series += 1;
        self.visitor.counter(family, labels, value, Some(self.start + Duration::from_nanos(count.born)), exemplar);
    }

    fn fixed(&mut self, family: &'static Family, labels: &[&str], value: u64) {
        self.count(family, labels, &Count { value: value.into(), born: 0 }, 1.0, None);
    }

    fn gauge(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        if value.is_finite() {
            self.series += 1;
            self.visitor.gauge(family, labels, value);
        }
    }

    fn time(&mut self, family: &'static Family, labels: &[&str], time: Option<SystemTime>) {
        if let Some(time) = time {
            self.gauge(family, labels, wall(time).as_millis() as f64 / 1e3);
        }
    }

    fn hist(&mut self, family: &'static Family, labels: &[&str], hist: Option<&Hist>, scale: f64) {
        let Some(hist) = hist else { return };
        self.series += Hist::series(hist.bounds);
        let held = self.held(hist.born);
        let view = HistView {
            bounds: hist.bounds,
            counts: (!held).then_some(&*hist.counts),
            sum: if held { 0.0 } else { hist.sum as f64 / scale },
            created: self.start + Duration::from_nanos(hist.born),
            // A held bucket is shown empty, so it cannot hold an example yet.
            exemplars: hist.exemplars.as_deref().filter(|_| !held),
        };
        self.visitor.histogram(family, labels, &view);
    }
}

impl Inner {
    /// Shows every series to `visitor`.
    pub(super) fn visit(&self, visitor: &mut dyn Visitor) {
        let now = self.now();
        self.limits.sweep(now, &self.budget);
        let hold = if self.released.load(Ordering::Relaxed) { 0 } else { self.hold };
        let mut walk = Walk { visitor, now, hold, start: wall(self.started), series: 0 };

        let mut by_key: Vec<(_, KeyModelState)> = Vec::new();
        for entry in self.key_models.all() {
            let state = lock(&entry.state).clone();
            by_key.push((entry, state));
        }
        by_key.sort_by(|(a, _), (b, _)| (&a.key, &a.provider, &a.model).cmp(&(&b.key, &b.provider, &b.model)));
        let mut by_model: Vec<(_, ProviderModelState)> = Vec::new();
        for entry in self.provider_models.all() {
            let state = lock(&entry.state).clone();
            by_model.push((entry, state));
        }
        by_model.sort_by(|(a, _), (b, _)| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));

        self.visit_traffic(&mut walk, &by_key, &by_model);
        self.visit_usage(&mut walk, &by_key, &by_model);
        self.visit_limits(&mut walk);
        self.visit_keys(&mut walk);
        self.visit_self(&mut walk);
        self.visit_process(&mut walk);
        let series = walk.series + 1;
        walk.gauge(&f::SERIES, &[], series as f64);
    }

    fn visit_traffic(
        &self,
        walk: &mut Walk<'_>,
        by_key: &[(std::sync::Arc<KeyModel>, KeyModelState)],
        by_model: &[(std::sync::Arc<ProviderModel>, ProviderModelState)],
    ) {
        for (at, state) in by_key {
            for request in &state.requests {
                let (operation, outcome, fault) = request.kind;
                let labels =
                    [&*at.key, &*at.provider, &*at.model, operation.as_str(), outcome.as_str(), fault.as_str()];
                walk.count(&f::REQUESTS, &labels, &request.count, 1.0, request.exemplar.as_ref());
            }
        }
        let mut providers = self.providers.all();
        providers.sort_by(|a, b| a.provider.cmp(&b.provider));
        for at in &providers {
            walk.gauge(&f::IN_FLIGHT, &[&at.provider], at.in_flight.load(Ordering::Relaxed).max(0) as f64);
        }
        for (at, state) in by_model {
            for (result, hist) in f::CallResult::ALL.iter().zip(&state.duration) {
                walk.hist(&f::DURATION, &[&at.provider, &at.model, result.as_str()], hist.as_ref(), NANO);
            }
        }
        for (at, state) in by_model {
            walk.hist(&f::FIRST_TOKEN, &[&at.provider, &at.model], state.first_token.as_ref(), NANO);
        }
        for (at, state) in by_model {
            walk.hist(&f::PER_TOKEN, &[&at.provider, &at.model], state.per_token.as_ref(), NANO);
        }
        let providers: Vec<_> = providers
            .into_iter()
            .map(|at| {
                let mut state = lock(&at.state).clone();
                state.responses.sort_by_key(|(code, _)| *code);
                (at, state)
            })
            .collect();
        for (at, state) in &providers {
            for (code, count) in &state.responses {
                let code = if *code == 0 { String::from("none") } else { code.to_string() };
                walk.count(&f::HTTP_RESPONSES, &[&at.provider, &code], count, 1.0, None);
            }
        }
        for (at, state) in &providers {
            for (direction, count) in f::BodyDirection::ALL.iter().zip(&state.bytes) {
                if let Some(count) = count {
                    walk.count(&f::BODY_BYTES, &[&at.provider, direction.as_str()], count, 1.0, None);
                }
            }
        }
        for (reason, n) in f::Unread::ALL.iter().zip(&self.own.tunnelled) {
            walk.fixed(&f::TUNNELLED, &[reason.as_str()], n.load(Ordering::Relaxed));
        }
        let tunnels = || providers.iter().filter_map(|(at, _)| Some((at, at.tunnels.born()?)));
        let count = |n: &std::sync::atomic::AtomicU64, born| Count { value: n.load(Ordering::Relaxed).into(), born };
        for (at, born) in tunnels() {
            for (direction, n) in f::BodyDirection::ALL.iter().zip(&at.tunnels.bytes) {
                walk.count(&f::TUNNEL_BYTES, &[&at.provider, direction.as_str()], &count(n, born), 1.0, None);
            }
        }
        for (at, born) in tunnels() {
            walk.count(&f::TUNNEL_SECONDS, &[&at.provider], &count(&at.tunnels.nanos, born), NANO, None);
        }
        for (at, _) in tunnels() {
            walk.gauge(&f::TUNNELS_OPEN, &[&at.provider], at.tunnels.open.load(Ordering::Relaxed).max(0) as f64);
        }
        for (reason, n) in f::ForwardRefusal::ALL.iter().zip(&self.own.forward_refused) {
            walk.fixed(&f::FORWARD_REFUSED, &[reason.as_str()], n.load(Ordering::Relaxed));
        }
        for (end, n) in f::HandshakeEnd::ALL.iter().zip(&self.own.handshakes) {
            walk.fixed(&f::TLS_HANDSHAKES, &[end.as_str()], n.load(Ordering::Relaxed));
        }
    }

    fn visit_usage(
        &self,
        walk: &mut Walk<'_>,
        by_key: &[(std::sync::Arc<KeyModel>, KeyModelState)],
        by_model: &[(std::sync::Arc<ProviderModel>, ProviderModelState)],
    ) {
        for (at, state) in by_key {
            for (kind, count) in TokenType::ALL.iter().zip(&state.tokens) {
                if let Some(count) = count {
                    walk.count(&f::TOKENS, &[&at.key, &at.provider, &at.model, kind.as_str()], count, 1.0, None);
                }
            }
        }
        for (at, state) in by_model {
            for (direction, hist) in f::TokenDirection::ALL.iter().zip(&state.tokens) {
                walk.hist(&f::REQUEST_TOKENS, &[&at.provider, &at.model, direction.as_str()], hist.as_ref(), 1.0);
            }
        }
        for (at, state) in by_key {
            for (source, spend) in UsageSource::ALL.iter().zip(&state.spend) {
                if let Some(spend) = spend {
                    let labels = [&*at.key, &*at.provider, &*at.model, source.as_str()];
                    walk.count(&f::SPEND, &labels, &spend.count, FEMTO, spend.exemplar.as_ref());
                }
            }
        }
        for (at, state) in by_key {
            for (source, count) in UsageSource::ALL.iter().zip(&state.usage) {
                if let Some(count) = count {
                    let labels = [&*at.key, &*at.provider, &*at.model, source.as_str()];
                    walk.count(&f::USAGE_RECORDS, &labels, count, 1.0, None);
                }
            }
        }
        for (at, state) in by_model {
            for (status, count) in f::PricingStatus::ALL.iter().zip(&state.pricing) {
                if let Some(count) = count {
                    walk.count(&f::PRICING_LOOKUPS, &[&at.provider, &at.model, status.as_str()], count, 1.0, None);
                }
            }
        }
        for (at, state) in by_model {
            if let Some(count) = &state.unpriced {
                walk.count(&f::UNPRICED_TOKENS, &[&at.provider, &at.model], count, 1.0, None);
            }
        }
        for (at, state) in by_key {
            for (unit, count) in f::BilledUnit::ALL.iter().zip(&state.units) {
                if let Some(count) = count {
                    let labels = [&*at.key, &*at.provider, &*at.model, unit.as_str()];
                    walk.count(&f::BILLED_UNITS, &labels, count, MILLI, None);
                }
            }
        }
    }

    fn visit_limits(&self, walk: &mut Walk<'_>) {
        let mut limits = self.limits.all(walk.now);
        limits.sort_by(|(a, _), (b, _)| {
            (&a.provider, &a.account, &a.model, a.resource).cmp(&(&b.provider, &b.account, &b.model, b.resource))
        });
        let mut show = |family: &'static Family, value: fn(&super::limits::LimitView) -> Option<f64>| {
            for (at, view) in &limits {
                if let Some(value) = value(view) {
                    walk.gauge(family, &[&at.provider, &at.account, &at.model, at.resource.as_str()], value);
                }
            }
        };
        show(&f::RATELIMIT_LIMIT, |view| view.limit);
        show(&f::RATELIMIT_REMAINING, |view| view.remaining);
        show(&f::RATELIMIT_HEADROOM, |view| view.headroom);
    }

    fn visit_keys(&self, walk: &mut Walk<'_>) {
        let configured = self.configured();
        let mut keys = Vec::new();
        for key in self.keys_seen.all() {
            let state = lock(&key.state).clone();
            // Since this key was seen it got a name; its gauges go on under that name.
            let renamed =
                !state.named && state.fingerprint.as_ref().is_some_and(|print| configured.fingerprints.contains(print));
            keys.push((key, state, renamed));
        }
        keys.sort_by(|(a, ..), (b, ..)| (&a.key, &a.provider).cmp(&(&b.key, &b.provider)));
        let shown = || keys.iter().filter(|(key, _, renamed)| key.gauges && !renamed);
        // `other` joins too, so that alerts that need the account do not lose it; `none` has no account to join.
        for (key, state, _) in shown().filter(|(key, state, _)| !key.single || state.fingerprint.is_some()) {
            let unknown = [UNKNOWN.into()];
            let accounts = if state.accounts.is_empty() { &unknown[..] } else { &state.accounts };
            let fingerprint = state.fingerprint.as_ref().map_or("", |print| print.as_str());
            let (team, env) = (state.team.as_deref().unwrap_or(""), state.env.as_deref().unwrap_or(""));
            let named = if state.named { "true" } else { "false" };
            for account in accounts {
                let labels = [&*key.key, &*key.provider, fingerprint, account, team, env, named];
                walk.gauge(&f::KEY_INFO, &labels, 1.0);
            }
        }
        let single = || shown().filter(|(key, ..)| key.single);
        for (key, state, _) in single() {
            if let Some((up, _)) = state.up {
                walk.gauge(&f::KEY_UP, &[&key.key, &key.provider], f64::from(u8::from(up)));
            }
        }
        for (key, state, _) in single() {
            walk.time(&f::KEY_LAST_USED, &[&key.key, &key.provider], state.last_used);
        }
        for (key, state, _) in single() {
            walk.time(&f::KEY_LAST_SUCCESS, &[&key.key, &key.provider], state.last_success);
        }
        for (key, state, _) in single() {
            let mut clients: Vec<_> = state.clients.iter().filter(|client| client.gauge).collect();
            clients.sort_by(|a, b| a.client.cmp(&b.client));
            for client in clients {
                let labels = [&*key.key, &*key.provider, &*client.client];
                walk.time(&f::KEY_CLIENT_LAST_USED, &labels, Some(client.last_used));
            }
        }
        for (key, state, _) in &keys {
            for (finding, count) in Finding::ALL.iter().zip(&state.findings) {
                if let Some(count) = count {
                    walk.count(&f::KEY_FINDINGS, &[&key.key, &key.provider, finding.as_str()], count, 1.0, None);
                }
            }
        }
        let keyed = || single().filter(|(_, state, _)| state.fingerprint.is_some());
        let mut threshold = |family, value: fn(&super::Thresholds) -> f64| {
            for (key, ..) in keyed() {
                walk.gauge(family, &[&key.key, &key.provider], value(configured.of(&key.key)));
            }
        };
        threshold(&f::KEY_ANOMALY_RATIO, |key| key.anomaly_ratio);
        threshold(&f::KEY_ANOMALY_MIN, |key| key.anomaly_min_usd_per_hour);
        threshold(&f::KEY_NEW, |key| key.new_key_usd_per_hour);
        for (key, ..) in keyed() {
            for (period, budget) in f::BudgetPeriod::ALL.iter().zip(configured.of(&key.key).budget_usd) {
                if let Some(budget) = budget {
                    walk.gauge(&f::BUDGET, &[&key.key, &key.provider, period.as_str()], budget);
                }
            }
        }
    }

    fn visit_self(&self, walk: &mut Walk<'_>) {
        walk.gauge(&f::BUILD_INFO, &[&self.config.version, &self.config.revision], 1.0);
        for (phase, hist) in f::Phase::ALL.iter().zip(&self.own.overhead) {
            let hist = lock(hist).clone();
            walk.hist(&f::OVERHEAD, &[phase.as_str()], Some(&hist), NANO);
        }
        for (signal, reasons) in f::Signal::ALL.iter().zip(&self.own.dropped) {
            for (reason, n) in f::DropReason::ALL.iter().zip(reasons) {
                walk.fixed(&f::TELEMETRY_DROPPED, &[signal.as_str(), reason.as_str()], n.load(Ordering::Relaxed));
            }
        }
        for (signal, n) in f::Signal::ALL.iter().zip(&self.own.queue) {
            walk.gauge(&f::TELEMETRY_QUEUE, &[signal.as_str()], n.load(Ordering::Relaxed) as f64);
        }
        for (reason, n) in Unreadable::ALL.iter().zip(&self.own.tap) {
            walk.fixed(&f::TAP_OVERFLOWS, &[reason.as_str()], n.load(Ordering::Relaxed));
        }
        walk.fixed(&f::MALFORMED_CONTEXTS, &[], self.own.malformed_contexts.load(Ordering::Relaxed));
        for (label, n) in f::OverflowLabel::ALL.iter().zip(&self.own.overflow) {
            walk.fixed(&f::LABEL_OVERFLOW, &[label.as_str()], n.load(Ordering::Relaxed));
        }
        let facts = lock(&self.own.facts).clone();
        if let Some(ok) = facts.reload_ok {
            walk.gauge(&f::CONFIG_RELOAD_OK, &[], f64::from(u8::from(ok)));
        }
        walk.time(&f::CONFIG_RELOAD_TIME, &[], facts.reloaded);
        walk.time(&f::PRICE_TABLE, &[], facts.price_book);
        for (side, n) in f::Side::ALL.iter().zip(&self.own.connections) {
            walk.gauge(&f::CONNECTIONS, &[side.as_str()], n.load(Ordering::Relaxed).max(0) as f64);
        }
        walk.gauge(&f::CONNECTIONS_LIMIT, &[], self.own.connections_limit.load(Ordering::Relaxed) as f64);
        for (reason, n) in f::AcceptPause::ALL.iter().zip(&self.own.accept_pauses) {
            walk.fixed(&f::ACCEPT_PAUSES, &[reason.as_str()], n.load(Ordering::Relaxed));
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn visit_process(&self, _: &mut Walk<'_>) {}

    #[cfg(target_os = "linux")]
    fn visit_process(&self, walk: &mut Walk<'_>) {
        use prometheus::core::Collector;
        let families = self.process.collect();
        let value = |family: &Family| {
            let found = families.iter().find(|found| found.name() == family.name)?;
            let metric = found.get_metric().first()?;
            Some(match family.kind {
                f::Kind::Counter => metric.get_counter().get_value(),
                _ => metric.get_gauge().get_value(),
            })
        };
        if let Some(cpu) = value(&f::PROCESS_CPU) {
            walk.series += 1;
            walk.visitor.counter(&f::PROCESS_CPU, &[], cpu, None, None);
        }
        for family in
            [&f::PROCESS_MEMORY, &f::PROCESS_OPEN_FDS, &f::PROCESS_MAX_FDS, &f::PROCESS_START, &f::PROCESS_THREADS]
        {
            if let Some(value) = value(family) {
                walk.gauge(family, &[], value);
            }
        }
    }
}
