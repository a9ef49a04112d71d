//! Every Prometheus series: call records and a few facts of the process in, `/metrics` text out.
//!
//! [`Metrics::observe`] is the only way in for what calls did. Counters add up in integers and become floats when they
//! are written. A series that is born while running shows 0 for the birth hold, since PromQL's `increase()` ignores the
//! value with which a series appears. Keys, models, accounts and series have ceilings; what is over them is counted
//! under `other`, so that sums stay exact. Knows label values only: no header, body or key reaches this room.
//!
//! Adding to a known label set takes short locks and does not allocate but for the split of the tokens; a scrape copies
//! entry by entry and writes text while nothing is locked.

mod call;
mod collect;
mod encode;
mod families;
mod keys;
mod limits;
mod series;
#[cfg(test)]
mod tests;
mod tunnels;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use collect::{HistView, Visitor};
pub use encode::Format;
pub use families::{
    ALL as FAMILIES, AcceptPause, BilledUnit, BodyDirection, Bound, BudgetPeriod, CallResult, DropReason, Family,
    ForwardRefusal, HandshakeEnd, Kind, OverflowLabel, Phase, PricingStatus, Side, Signal, Stability, TokenDirection,
    Unread,
};
pub use keys::{KeyStatus, Verdict, rfc3339};
pub use series::Exemplar;
pub use tunnels::Tunnel;

use crate::call::{CallRecord, Fingerprint, Unreadable};
use crate::meter::KeyEntry;
use call::{KeyModel, KeyModelDelta, Provider, ProviderDelta, ProviderModel, ProviderModelDelta};
use families::OVERHEAD_BUCKETS;
use keys::Key;
use limits::Limits;
use series::{Budget, Hist, Labels, OTHER, ShardMap, Tier, as_nanos, lock};
use tunnels::Tunnels;

/// The published list of metrics: name, type, unit, labels and their values, stability.
pub const LIST: &str = include_str!("metrics/metrics.yaml");

/// Label values that always have a place: no credential, no model, a model that no answer has confirmed.
const FIXED_KEYS: &[&str] = &["none", OTHER];
const FIXED_MODELS: &[&str] = &["none", "unknown", "unconfirmed", OTHER];
const FIXED_ACCOUNTS: &[&str] = &[keys::UNKNOWN, OTHER];
/// Providers are rows of the catalogue and of the configuration; this only backs that.
const MAX_PROVIDERS: usize = 250;
/// Series that exist from the start.
const OWN_SERIES: usize = 82;
/// Expired limits are looked for at most this often outside of scrapes.
const SWEEP_EVERY: u64 = 10_000_000_000;

/// Settings.
#[derive(Clone, Debug)]
pub struct MetricsConfig {
    /// A new counter series shows 0 this long: more than a scrape interval.
    pub birth_hold: Duration,
    /// Histograms by model; the sidecar's own overhead is always there.
    pub histograms: bool,
    /// Ceiling on all series, at least 2,000.
    pub max_series: usize,
    /// Ceiling on values of `key`.
    pub max_keys: usize,
    /// Ceiling on values of `model`.
    pub max_models: usize,
    /// Ceiling on values of `account`.
    pub max_accounts: usize,
    /// Exemplars in OpenMetrics.
    pub exemplars: bool,
    /// Version of the build.
    pub version: String,
    /// Source revision of the build.
    pub revision: String,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            birth_hold: Duration::from_secs(75),
            histograms: true,
            max_series: 20_000,
            max_keys: 200,
            max_models: 200,
            max_accounts: 50,
            exemplars: true,
            version: env!("CARGO_PKG_VERSION").into(),
            revision: String::from("unknown"),
        }
    }
}

/// Time since the start, never going back. Injected by tests.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// All series. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    config: MetricsConfig,
    clock: Clock,
    started: SystemTime,
    hold: u64,
    released: AtomicBool,
    budget: Budget,
    keys: Labels,
    models: Labels,
    accounts: Labels,
    provider_names: Labels,
    other: Arc<str>,
    unknown: Arc<str>,
    key_models: ShardMap<KeyModel>,
    provider_models: ShardMap<ProviderModel>,
    providers: ShardMap<Provider>,
    keys_seen: ShardMap<Key>,
    limits: Limits,
    last_sweep: AtomicU64,
    configured: RwLock<Arc<Configured>>,
    own: Own,
    last_size: AtomicUsize,
    #[cfg(target_os = "linux")]
    process: prometheus::process_collector::ProcessCollector,
}

/// What the sidecar says of itself.
struct Own {
    tunnelled: [AtomicU64; Unread::ALL.len()],
    forward_refused: [AtomicU64; ForwardRefusal::ALL.len()],
    handshakes: [AtomicU64; HandshakeEnd::ALL.len()],
    dropped: [[AtomicU64; DropReason::ALL.len()]; Signal::ALL.len()],
    queue: [AtomicU64; Signal::ALL.len()],
    tap: [AtomicU64; Unreadable::ALL.len()],
    malformed_contexts: AtomicU64,
    overflow: [AtomicU64; OverflowLabel::ALL.len()],
    connections: [AtomicI64; Side::ALL.len()],
    connections_limit: AtomicUsize,
    accept_pauses: [AtomicU64; AcceptPause::ALL.len()],
    overhead: [Mutex<Hist>; Phase::ALL.len()],
    facts: Mutex<Facts>,
}

/// What was last said of configuration and prices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The last reload was successful.
    pub reload_ok: Option<bool>,
    /// When the running configuration was loaded.
    pub reloaded: Option<SystemTime>,
    /// Date of the price book.
    pub price_book: Option<SystemTime>,
}

/// Alert thresholds and budgets of one key.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// Ratio to the usual spend.
    pub anomaly_ratio: f64,
    /// Floor of an anomaly, dollars per hour.
    pub anomaly_min_usd_per_hour: f64,
    /// What a new key may spend, dollars per hour.
    pub new_key_usd_per_hour: f64,
    /// Dollars, by [`BudgetPeriod`].
    pub budget_usd: [Option<f64>; BudgetPeriod::ALL.len()],
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            anomaly_ratio: 3.0,
            anomaly_min_usd_per_hour: 1.0,
            new_key_usd_per_hour: 5.0,
            budget_usd: [None; BudgetPeriod::ALL.len()],
        }
    }
}

/// Keys of the configuration.
#[derive(Debug, Default)]
struct Configured {
    names: HashMap<Arc<str>, Thresholds>,
    /// Of keys without a name.
    others: Thresholds,
    fingerprints: HashSet<Fingerprint>,
}

impl Configured {
    fn of(&self, name: &str) -> &Thresholds {
        self.names.get(name).unwrap_or(&self.others)
    }
}

/// A call in flight; counted until dropped.
#[must_use = "the call counts as open until this is dropped"]
pub struct InFlight(Arc<Provider>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open connection; counted until dropped.
#[must_use = "the connection counts as open until this is dropped"]
pub struct OpenConnection(Arc<Inner>, Side);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.own.connections[self.1 as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Metrics ===

impl Metrics {
    /// No calls yet; every closed set of series is there with 0.
    pub fn new(config: MetricsConfig) -> Self {
        let start = Instant::now();
        Self::with_clock(config, Arc::new(move || start.elapsed()))
    }

    /// As [`Metrics::new`], with a clock of the caller's.
    pub fn with_clock(config: MetricsConfig, clock: Clock) -> Self {
        let inner = Inner {
            hold: as_nanos(config.birth_hold),
            budget: Budget::new(config.max_series),
            keys: Labels::new(config.max_keys, FIXED_KEYS),
            models: Labels::new(config.max_models, FIXED_MODELS),
            accounts: Labels::new(config.max_accounts, FIXED_ACCOUNTS),
            config,
            clock,
            started: SystemTime::now(),
            released: AtomicBool::new(false),
            provider_names: Labels::new(MAX_PROVIDERS, &[OTHER]),
            other: OTHER.into(),
            unknown: keys::UNKNOWN.into(),
            key_models: ShardMap::new(),
            provider_models: ShardMap::new(),
            providers: ShardMap::new(),
            keys_seen: ShardMap::new(),
            limits: Limits::new(),
            last_sweep: AtomicU64::new(0),
            configured: RwLock::default(),
            own: Own {
                tunnelled: Default::default(),
                forward_refused: Default::default(),
                handshakes: Default::default(),
                dropped: Default::default(),
                queue: Default::default(),
                tap: Default::default(),
                malformed_contexts: AtomicU64::new(0),
                overflow: Default::default(),
                connections: Default::default(),
                connections_limit: AtomicUsize::new(0),
                accept_pauses: Default::default(),
                overhead: std::array::from_fn(|_| Mutex::new(Hist::born(&OVERHEAD_BUCKETS, 0))),
                facts: Mutex::default(),
            },
            last_size: AtomicUsize::new(0),
            #[cfg(target_os = "linux")]
            process: prometheus::process_collector::ProcessCollector::for_self(),
        };
        inner.budget.take(OWN_SERIES, Tier::Sink);
        Self(Arc::new(inner))
    }

    /// Adds a finished call. `exemplar_exported` says that its span goes out, so that an exemplar may point to it.
    pub fn observe(&self, record: &CallRecord, exemplar_exported: bool) {
        let inner = &*self.0;
        let now = inner.now();
        let exemplar = inner.exemplar(record, exemplar_exported);
        let (entry, key) = inner.entry(record);

        let mut delta = KeyModelDelta::of(record, exemplar);
        let mut at = entry.clone();
        loop {
            at.apply(&mut delta, now, &inner.budget);
            if delta.is_done() {
                break;
            }
            inner.overflow(OverflowLabel::Series);
            let Some(next) = inner.less_specific(&at) else { break };
            at = next;
        }

        let mut delta = ProviderModelDelta::of(record, exemplar, inner.config.histograms);
        let mut at = entry.of_model.clone();
        loop {
            at.apply(&mut delta, now, &inner.budget);
            if delta.is_done() {
                break;
            }
            inner.overflow(OverflowLabel::Series);
            at = match at.tier {
                Tier::Exact => inner.provider_model(&at.provider, &inner.other),
                Tier::Provider => inner.provider_model(&inner.other, &inner.other),
                Tier::Sink => break,
            };
        }

        let mut delta = ProviderDelta::of(record);
        entry.of_provider.apply(&mut delta, now, &inner.budget);
        if !delta.is_done() {
            inner.overflow(OverflowLabel::Series);
            inner.provider(&inner.other).apply(&mut delta, now, &inner.budget);
        }

        let account = record.account.as_deref().filter(|account| !account.is_empty()).map(|account| {
            inner.accounts.admit(account).unwrap_or_else(|| {
                inner.overflow(OverflowLabel::Account);
                inner.other.clone()
            })
        });
        let mut findings = key.observe(record, account.clone(), now, &inner.budget);
        let mut at = key;
        while findings != 0 {
            inner.overflow(OverflowLabel::Series);
            at = match at.tier {
                Tier::Exact => inner.key(&inner.other, &at.provider),
                Tier::Provider => inner.key(&inner.other, &inner.other),
                Tier::Sink => break,
            };
            findings = at.count_findings(findings, now, &inner.budget);
        }

        inner.observe_limits(record, &entry, account, now);
        inner.observe_own(record);
    }

    /// Counts a call as open until the guard is dropped.
    pub fn in_flight(&self, provider: &str) -> InFlight {
        let provider = self.0.provider(&self.0.provider_name(provider));
        provider.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(provider)
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn connection(&self, side: Side) -> OpenConnection {
        self.0.own.connections[side as usize].fetch_add(1, Ordering::Relaxed);
        OpenConnection(self.0.clone(), side)
    }

    /// Connections of applications that are served at a time.
    pub fn connections_limit(&self, most: usize) {
        self.0.own.connections_limit.store(most, Ordering::Relaxed);
    }

    /// Counts a time that accepting connections had to wait.
    pub fn accept_paused(&self, reason: AcceptPause) {
        self.0.own.accept_pauses[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts lost telemetry.
    pub fn dropped(&self, signal: Signal, reason: DropReason, n: u64) {
        self.0.own.dropped[signal as usize][reason as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Telemetry items lost since start, one row a signal, one column a reason.
    pub fn dropped_so_far(&self, signal: Signal, reason: DropReason) -> u64 {
        self.0.own.dropped[signal as usize][reason as usize].load(Ordering::Relaxed)
    }

    /// Tells how many items wait for export.
    pub fn queue_length(&self, signal: Signal, n: usize) {
        self.0.own.queue[signal as usize].store(n as u64, Ordering::Relaxed);
    }

    /// Counts a connection to this provider, or to `other`, that passes unread; it is open until the guard is dropped.
    pub fn tunnel(&self, reason: Unread, provider: &str) -> Tunnel {
        let inner = &*self.0;
        inner.own.tunnelled[reason as usize].fetch_add(1, Ordering::Relaxed);
        let mut entry = inner.provider(&inner.provider_name(provider));
        if !entry.tunnels.admit(inner.now(), entry.tier, &inner.budget) {
            inner.overflow(OverflowLabel::Series);
            entry = inner.provider(&inner.other);
            entry.tunnels.admit(inner.now(), entry.tier, &inner.budget);
        }
        Tunnel::new(entry)
    }

    /// Counts a forward-proxy request that was refused.
    pub fn forward_refused(&self, reason: ForwardRefusal) {
        self.0.own.forward_refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a TLS handshake with an application.
    pub fn handshake(&self, end: HandshakeEnd) {
        self.0.own.handshakes[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call whose usage could not be read and that makes no record; [`Metrics::observe`] counts the others.
    pub fn tap_overflow(&self, reason: Unreadable) {
        self.0.own.tap[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Tells of an attempt to load the configuration; the first one is that at start.
    pub fn config_reloaded(&self, ok: bool, time: SystemTime) {
        let mut facts = lock(&self.0.own.facts);
        facts.reload_ok = Some(ok);
        if ok {
            facts.reloaded = Some(time);
        }
    }

    /// Tells the date of the price book in use.
    pub fn price_book(&self, time: SystemTime) {
        lock(&self.0.own.facts).price_book = Some(time);
    }

    /// What was last told of configuration and prices.
    pub fn facts(&self) -> Facts {
        lock(&self.0.own.facts).clone()
    }

    /// Takes over thresholds, budgets and names of the configured keys, which keep a place under the ceiling on keys, and
    /// the thresholds of all others.
    pub fn set_key_thresholds(&self, keys: &[KeyEntry], others: Thresholds) {
        let usable = |value: f64| value.is_finite() && value >= 0.0;
        let mut configured = Configured { others, ..Configured::default() };
        for key in keys {
            let or = |value, fallback| if usable(value) { value } else { fallback };
            let thresholds = Thresholds {
                anomaly_ratio: or(key.anomaly_ratio, others.anomaly_ratio),
                anomaly_min_usd_per_hour: or(key.anomaly_min_usd_per_hour, others.anomaly_min_usd_per_hour),
                new_key_usd_per_hour: or(key.new_key_usd_per_hour, others.new_key_usd_per_hour),
                budget_usd: [key.budget_usd_day, key.budget_usd_month].map(|budget| budget.filter(|b| usable(*b))),
            };
            configured.names.insert(key.name.clone(), thresholds);
            configured.fingerprints.insert(key.fingerprint.clone());
        }
        self.0.keys.reserve(keys.iter().map(|key| key.name.clone()));
        *self.0.configured.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(configured);
    }

    /// Ends the birth hold of every series: before the process ends, so that the last scrape sees what there is.
    pub fn release_birth_hold(&self) {
        self.0.released.store(true, Ordering::Relaxed);
    }

    /// Every series as text in the format that an `Accept` header asks for, and its content type.
    ///
    /// Takes tens of milliseconds with many series: call it off the event loop.
    pub fn encode(&self, accept: Option<&str>) -> (&'static str, Vec<u8>) {
        let format = Format::negotiate(accept);
        let guess = self.0.last_size.load(Ordering::Relaxed);
        let mut encoder = encode::Encoder::new(format, guess + guess / 8);
        self.0.visit(&mut encoder);
        let text = encoder.finish();
        self.0.last_size.store(text.len(), Ordering::Relaxed);
        (format.content_type(), text)
    }

    /// Shows every series to `visitor`, for other encodings.
    pub fn visit(&self, visitor: &mut dyn Visitor) {
        self.0.visit(visitor);
    }

    /// The keys seen since start, by name, for the status page.
    pub fn keys(&self) -> Vec<KeyStatus> {
        let mut keys: Vec<_> = self.0.keys_seen.all().iter().map(|key| key.status()).filter(|k| k.calls > 0).collect();
        keys.sort_by(|a, b| (&a.key, &a.provider).cmp(&(&b.key, &b.provider)));
        keys
    }

    /// Time since start.
    pub fn uptime(&self) -> Duration {
        (self.0.clock)()
    }

    /// When it was started.
    pub fn started(&self) -> SystemTime {
        self.0.started
    }

    /// The settings in use.
    pub fn config(&self) -> &MetricsConfig {
        &self.0.config
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("config", &self.0.config).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn now(&self) -> u64 {
        as_nanos((self.clock)())
    }

    fn overflow(&self, label: OverflowLabel) {
        self.own.overflow[label as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn configured(&self) -> Arc<Configured> {
        self.configured.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn exemplar(&self, record: &CallRecord, exported: bool) -> Option<Exemplar> {
        let trace = &record.trace;
        let wanted = exported && self.config.exemplars && trace.trace_id != 0 && trace.span_id != 0;
        wanted.then(|| Exemplar {
            trace_id: trace.trace_id,
            span_id: trace.span_id,
            value: 0.0,
            at: wall(record.time).saturating_add(record.timing.total),
        })
    }

    /// The most specific entry for a call, and its key.
    fn entry(&self, record: &CallRecord) -> (Arc<KeyModel>, Arc<Key>) {
        let (key, model) = (record.key_label(), &*record.model_label);
        let model = if model.is_empty() { "none" } else { model };
        if model == OTHER {
            // Folded by the meter already.
            self.overflow(OverflowLabel::Model);
        }
        if let Some(entry) = self.find_key_model(key, &record.provider, model) {
            let key = entry.of_key.clone();
            return (entry, key);
        }
        let provider = self.provider_name(&record.provider);
        let key = self.keys.admit(key).unwrap_or_else(|| {
            self.overflow(OverflowLabel::Key);
            self.other.clone()
        });
        let model = self.models.admit(model).unwrap_or_else(|| {
            self.overflow(OverflowLabel::Model);
            self.other.clone()
        });
        let of_key = self.key(&key, &provider);
        let entry = self.key_model(&key, &provider, &model).unwrap_or_else(|| {
            self.overflow(OverflowLabel::Series);
            self.rest_of(&provider)
        });
        (entry, of_key)
    }

    fn find_key_model(&self, key: &str, provider: &str, model: &str) -> Option<Arc<KeyModel>> {
        let hash = self.key_models.hash(&[key, provider, model]);
        self.key_models.find(hash, |entry| *entry.key == *key && *entry.provider == *provider && *entry.model == *model)
    }

    /// The entry of these labels; `None` when the series budget has no room for its tier.
    fn key_model(&self, key: &Arc<str>, provider: &Arc<str>, model: &Arc<str>) -> Option<Arc<KeyModel>> {
        let hash = self.key_models.hash(&[key, provider, model]);
        let is = |entry: &KeyModel| entry.key == *key && entry.provider == *provider && entry.model == *model;
        self.key_models.find_or(hash, is, || {
            let tier = tier_of(&[key, model], provider);
            self.budget.has_room(tier).then(|| {
                Arc::new(KeyModel {
                    key: key.clone(),
                    provider: provider.clone(),
                    model: model.clone(),
                    tier,
                    of_model: self.provider_model(provider, model),
                    of_provider: self.provider(provider),
                    of_key: self.key(key, provider),
                    state: Mutex::default(),
                })
            })
        })
    }

    /// Where all keys and models of a provider go that have no series of their own.
    fn rest_of(&self, provider: &Arc<str>) -> Arc<KeyModel> {
        self.key_model(&self.other, provider, &self.other).unwrap_or_else(|| self.sink())
    }

    fn sink(&self) -> Arc<KeyModel> {
        self.key_model(&self.other, &self.other, &self.other).expect("the sink's tier always has room")
    }

    fn less_specific(&self, entry: &KeyModel) -> Option<Arc<KeyModel>> {
        match entry.tier {
            Tier::Exact => Some(self.rest_of(&entry.provider)),
            Tier::Provider => Some(self.sink()),
            Tier::Sink => None,
        }
    }

    fn provider_model(&self, provider: &Arc<str>, model: &Arc<str>) -> Arc<ProviderModel> {
        let hash = self.provider_models.hash(&[provider, model]);
        let is = |entry: &ProviderModel| entry.provider == *provider && entry.model == *model;
        let make = || {
            Some(Arc::new(ProviderModel {
                provider: provider.clone(),
                model: model.clone(),
                tier: tier_of(&[model], provider),
                state: Mutex::default(),
            }))
        };
        self.provider_models.find_or(hash, is, make).expect("it is always made")
    }

    fn provider_name(&self, provider: &str) -> Arc<str> {
        let provider = if provider.is_empty() { OTHER } else { provider };
        self.provider_names.admit(provider).unwrap_or_else(|| {
            self.overflow(OverflowLabel::Series);
            self.other.clone()
        })
    }

    fn provider(&self, provider: &Arc<str>) -> Arc<Provider> {
        let tier = if **provider == *OTHER { Tier::Sink } else { Tier::Provider };
        let hash = self.providers.hash(&[provider]);
        let made = self.providers.find_or(
            hash,
            |entry| entry.provider == *provider,
            || {
                self.budget.take(1, tier).then(|| {
                    Arc::new(Provider {
                        provider: provider.clone(),
                        tier,
                        in_flight: AtomicI64::new(0),
                        tunnels: Tunnels::default(),
                        state: Mutex::default(),
                    })
                })
            },
        );
        made.unwrap_or_else(|| {
            self.overflow(OverflowLabel::Series);
            self.provider(&self.other)
        })
    }

    /// What is known of a key; of all others of its provider when its gauges find no room.
    fn key(&self, key: &Arc<str>, provider: &Arc<str>) -> Arc<Key> {
        let tier = tier_of(&[key], provider);
        let hash = self.keys_seen.hash(&[key, provider]);
        let is = |entry: &Key| entry.key == *key && entry.provider == *provider;
        let make = || {
            let entry = Key::new(key.clone(), provider.clone(), tier, **key != *OTHER, &self.budget);
            (entry.gauges || tier != Tier::Exact).then(|| Arc::new(entry))
        };
        self.keys_seen.find_or(hash, is, make).unwrap_or_else(|| {
            self.overflow(OverflowLabel::Series);
            self.key(&self.other, provider)
        })
    }

    fn observe_limits(&self, record: &CallRecord, entry: &KeyModel, account: Option<Arc<str>>, now: u64) {
        if record.limits.limits.is_empty() {
            return;
        }
        let account = account.unwrap_or_else(|| self.unknown.clone());
        // `other` would show the limits of several accounts or models in turn.
        if *account == *OTHER || *entry.model == *OTHER {
            return;
        }
        let age = record.timing.total.saturating_sub(record.timing.head.unwrap_or(record.timing.total));
        let seen = now.saturating_sub(as_nanos(age));
        for stated in &record.limits.limits {
            let at = (&entry.provider, &account, &entry.model);
            if !self.limits.observe(at, stated, seen, now, &self.budget) {
                self.overflow(OverflowLabel::Series);
                let last = self.last_sweep.load(Ordering::Relaxed);
                let due = now.saturating_sub(last) >= SWEEP_EVERY;
                if due && self.last_sweep.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    self.limits.sweep(now, &self.budget);
                }
            }
        }
    }

    fn observe_own(&self, record: &CallRecord) {
        lock(&self.own.overhead[Phase::Request as usize]).observe(as_nanos(record.timing.overhead_request), None);
        if record.status.is_some() {
            lock(&self.own.overhead[Phase::Response as usize]).observe(as_nanos(record.timing.overhead_response), None);
        }
        self.own.malformed_contexts.fetch_add(u64::from(record.trace.malformed), Ordering::Relaxed);
        if let Some(reason) = record.unreadable {
            self.own.tap[reason as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All of `labels` folded makes it the provider's rest, a folded provider on top of that the sink.
fn tier_of(labels: &[&Arc<str>], provider: &Arc<str>) -> Tier {
    match (labels.iter().all(|label| ***label == *OTHER), **provider == *OTHER) {
        (true, true) => Tier::Sink,
        (true, false) => Tier::Provider,
        (false, _) => Tier::Exact,
    }
}

/// Since the Unix epoch; 0 for times before it.
fn wall(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl super::Drops for Metrics {
    fn dropped(&self, signal: Signal, reason: DropReason, count: u64) {
        Metrics::dropped(self, signal, reason, count);
    }

    fn queue_length(&self, signal: Signal, length: usize) {
        Metrics::queue_length(self, signal, length);
    }
}
