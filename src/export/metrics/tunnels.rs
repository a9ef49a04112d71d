//! Series of blind tunnels: by provider, `other` for hosts that are no provider's. Counted while bytes pass, since a tunnel
//! may last for days.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::call::Provider;
use super::families::BodyDirection;
use super::series::{Budget, Tier};

/// Gauge, seconds, two directions.
const SERIES: usize = 2 + BodyDirection::ALL.len();

/// Counters of one provider's tunnels.
#[derive(Debug, Default)]
pub struct Tunnels {
    /// When the first one was opened; `Some(None)` when there was no room for the series.
    born: OnceLock<Option<u64>>,
    /// Open now.
    pub open: AtomicI64,
    /// By [`BodyDirection`].
    pub bytes: [AtomicU64; BodyDirection::ALL.len()],
    /// Summed over tunnels that have ended.
    pub nanos: AtomicU64,
}

impl Tunnels {
    /// The series are there, or have room.
    pub(super) fn admit(&self, now: u64, tier: Tier, budget: &Budget) -> bool {
        self.born.get_or_init(|| budget.take(SERIES, tier).then_some(now)).is_some()
    }

    /// When the series were born, if they were.
    pub(super) fn born(&self) -> Option<u64> {
        self.born.get().copied().flatten()
    }
}

/// An open tunnel; counted until dropped.
#[must_use = "the tunnel counts as open until this is dropped"]
pub struct Tunnel {
    provider: Arc<Provider>,
    since: Instant,
}

impl Tunnel {
    pub(super) fn new(provider: Arc<Provider>) -> Self {
        provider.tunnels.open.fetch_add(1, Ordering::Relaxed);
        Self { provider, since: Instant::now() }
    }
}

impl Tunnel {
    /// Adds bytes from (`up`) and to (`down`) the application.
    pub fn bytes(&self, up: u64, down: u64) {
        let [sent, got] = &self.provider.tunnels.bytes;
        sent.fetch_add(up, Ordering::Relaxed);
        got.fetch_add(down, Ordering::Relaxed);
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let nanos = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.provider.tunnels.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.provider.tunnels.open.fetch_sub(1, Ordering::Relaxed);
    }
}
