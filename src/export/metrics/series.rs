//! What series are made of: counts with a birth time, integer histograms, exemplars, the series budget, bounded label
//! sets and a sharded map that finds a known label set without allocating.
//!
//! Everything adds up in integers, so that any order of calls gives the same totals.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use foldhash::quality::RandomState;
use foldhash::{HashMap, HashMapExt, HashSet};

use super::families::Bound;

/// Label value that takes what is over a ceiling.
pub const OTHER: &str = "other";

/// A label value longer than this is folded into `other`, bytes.
const LABEL_MAX_BYTES: usize = 256;

/// Locks; a panic elsewhere leaves counts usable, so poison is ignored.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nanoseconds, at most 584 years.
pub fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Points from a number to a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// Trace of the call's span.
    pub trace_id: u128,
    /// The call's span.
    pub span_id: u64,
    /// The call's own value.
    pub value: f64,
    /// When the call ended, since the Unix epoch.
    pub at: Duration,
}

/// One counter series. `value` is in the family's integer unit.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// Total since birth.
    pub value: u128,
    /// Nanoseconds on the process's own clock.
    pub born: u64,
}

impl Count {
    /// A series that starts now.
    pub fn born(now: u64) -> Self {
        Self { value: 0, born: now }
    }

    /// Adds; saturates after 10³⁸ units.
    pub fn add(&mut self, n: u128) {
        self.value = self.value.saturating_add(n);
    }
}

/// One histogram series: per-bucket counts (not cumulative), the last for everything above the last bound.
#[derive(Clone, Debug)]
pub struct Hist {
    /// Bucket bounds.
    pub bounds: &'static [Bound],
    /// One more than `bounds`.
    pub counts: Box<[u64]>,
    /// Sum in the unit of the bounds.
    pub sum: u128,
    /// See [`Count::born`].
    pub born: u64,
    /// One slot a bucket once there is an exemplar.
    pub exemplars: Option<Box<[Option<Exemplar>]>>,
}

impl Hist {
    /// An empty histogram.
    pub fn born(bounds: &'static [Bound], now: u64) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1].into(), sum: 0, born: now, exemplars: None }
    }

    /// Series that a histogram over `bounds` is: its buckets, `+Inf`, sum and count.
    pub fn series(bounds: &[Bound]) -> usize {
        bounds.len() + 3
    }

    /// Adds one value.
    pub fn observe(&mut self, value: u64, exemplar: Option<Exemplar>) {
        let bucket = self.bounds.partition_point(|bound| bound.at < value);
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(u128::from(value));
        if exemplar.is_some() {
            self.exemplars.get_or_insert_with(|| vec![None; self.counts.len()].into())[bucket] = exemplar;
        }
    }
}

/// How specific a label set is: what is over one tier's share of the budget goes to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// As the call names it.
    Exact,
    /// All keys and models of one provider.
    Provider,
    /// Everything; always admitted, and bounded because all its labels are closed sets.
    Sink,
}

/// The ceiling on all series.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    exact: usize,
    provider: usize,
}

impl Budget {
    /// More than the sink can grow to: 27 outcomes × 9 faults, 22 token, spend, usage and unit series, 99 of one model,
    /// 901 status codes, 2 directions, 24 findings, 2 gauges.
    pub const SINK: usize = 1_300;
    /// Smaller ceilings are raised to this.
    pub const LEAST: usize = 2_000;

    /// A budget of `max` series, at least [`Budget::LEAST`].
    pub fn new(max: usize) -> Self {
        let provider = max.max(Self::LEAST) - Self::SINK;
        Self { used: AtomicUsize::new(0), exact: provider / 8 * 7, provider }
    }

    /// Takes `n` series for `tier`, or takes nothing and says false.
    pub fn take(&self, n: usize, tier: Tier) -> bool {
        let limit = match tier {
            Tier::Exact => self.exact,
            Tier::Provider => self.provider,
            Tier::Sink => usize::MAX,
        };
        let add = |used: usize| used.checked_add(n).filter(|&used| used <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    /// Takes a histogram's series. At the exact tier the last quarter is for counters alone: who spends what matters
    /// more than how fast one more model answers.
    pub fn take_histogram(&self, bounds: &[Bound], tier: Tier) -> bool {
        let scarce = tier == Tier::Exact && self.used.load(Ordering::Relaxed) > self.exact / 4 * 3;
        !scarce && self.take(Hist::series(bounds), tier)
    }

    /// Gives back what was taken.
    pub fn give(&self, n: usize) {
        self.used.fetch_sub(n, Ordering::Relaxed);
    }

    /// A first series of this tier would be admitted.
    pub fn has_room(&self, tier: Tier) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        match tier {
            Tier::Exact => used < self.exact,
            Tier::Provider => used < self.provider,
            Tier::Sink => true,
        }
    }
}

/// The values that one label may take: the first `max` that come, places for configured ones kept free.
#[derive(Debug)]
pub struct Labels {
    max: usize,
    fixed: &'static [&'static str],
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    values: HashSet<Arc<str>>,
    reserved: HashSet<Arc<str>>,
    strangers: usize,
}

impl Labels {
    /// `fixed` values are always admitted and take no place.
    pub fn new(max: usize, fixed: &'static [&'static str]) -> Self {
        let values = fixed.iter().map(|&value| value.into()).collect();
        Self { max, fixed, known: RwLock::new(Known { values, ..Known::default() }) }
    }

    /// Keeps places for these; they are admitted whenever they come. At most `max` of them.
    pub fn reserve(&self, names: impl Iterator<Item = Arc<str>>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.reserved = names.take(self.max).collect();
        known.strangers =
            known.values.iter().filter(|v| !self.fixed.contains(&&***v) && !known.reserved.contains(*v)).count();
    }

    /// The value to use as a label; `None` when it must be folded into `other`.
    pub fn admit(&self, value: &str) -> Option<Arc<str>> {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).values.get(value) {
            return Some(known.clone());
        }
        if value.len() > LABEL_MAX_BYTES {
            return None;
        }
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.strangers + known.reserved.len() >= self.max && !known.reserved.contains(value) {
                return None;
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.values.get(value) {
            return Some(known.clone());
        }
        if !known.reserved.contains(value) {
            if known.strangers + known.reserved.len() >= self.max {
                return None;
            }
            known.strangers += 1;
        }
        let value: Arc<str> = value.into();
        known.values.insert(value.clone());
        Some(value)
    }
}

const SHARDS: usize = 16;

type Shard<T> = RwLock<HashMap<u64, Vec<Arc<T>>>>;

/// Finds entries by label values without building a key. The caller bounds how many it inserts.
#[derive(Debug)]
pub struct ShardMap<T> {
    hasher: RandomState,
    shards: [Shard<T>; SHARDS],
}

impl<T> ShardMap<T> {
    /// Empty.
    pub fn new() -> Self {
        Self { hasher: RandomState::default(), shards: std::array::from_fn(|_| RwLock::new(HashMap::new())) }
    }

    /// Hash of label values, for the calls below.
    pub fn hash(&self, parts: &[&str]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        parts.iter().for_each(|part| part.hash(&mut hasher));
        hasher.finish()
    }

    fn shard(&self, hash: u64) -> &Shard<T> {
        &self.shards[hash as usize % SHARDS]
    }

    /// The entry that `is` accepts.
    pub fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let shard = self.shard(hash).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&hash)?.iter().find(|entry| is(entry)).cloned()
    }

    /// The entry that `is` accepts, else the one that `make` makes; `None` when `make` declines.
    pub fn find_or(&self, hash: u64, is: impl Fn(&T) -> bool, make: impl FnOnce() -> Option<Arc<T>>) -> Option<Arc<T>> {
        if let Some(entry) = self.find(hash, &is) {
            return Some(entry);
        }
        let mut shard = self.shard(hash).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = shard.get(&hash).and_then(|entries| entries.iter().find(|entry| is(entry))) {
            return Some(entry.clone());
        }
        let entry = make()?;
        shard.entry(hash).or_default().push(entry.clone());
        Some(entry)
    }

    /// Every entry; each shard is locked only while its pointers are copied.
    pub fn all(&self) -> Vec<Arc<T>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.read().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned());
        }
        all
    }

    /// Drops the entries that `keep` declines.
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, entries| {
                entries.retain(|entry| keep(entry));
                !entries.is_empty()
            });
        }
    }
}
