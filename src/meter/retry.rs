//! Retries: the same request again, shortly after it failed.
//!
//! In: request hash, start and end of a call, whether it failed. Out: how many tries of this request came just before.
//! Nothing leaves but the number. Bounded by [`MAX_REQUESTS`]; what is forgotten counts as a first try.

use std::time::{Duration, SystemTime};

use crate::recent::Recent;

/// A retry comes within this time after the failed try ended. SDKs wait 0.5 to 8 s by themselves and up to a minute when
/// the provider names a wait.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Failed requests that are remembered: at 50 failures a second still [`WINDOW`] of them, in about 200 KiB.
pub const MAX_REQUESTS: usize = 4096;

/// The last failed tries.
#[derive(Debug)]
pub struct Retries {
    failed: Recent<u64, Failed>,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    tries: u32,
    ended: SystemTime,
}

impl Default for Retries {
    fn default() -> Self {
        Self { failed: Recent::new(MAX_REQUESTS) }
    }
}

impl Retries {
    /// Takes one finished call and says how many failed tries of the same request came just before it.
    ///
    /// `hash` is of method, path, body and host; 0 means unknown. A call that began before the earlier one ended is a
    /// parallel one, not a retry.
    pub fn observe(&mut self, hash: u64, started: SystemTime, ended: SystemTime, failed: bool) -> u32 {
        if hash == 0 {
            return 0;
        }
        let before = self.failed.get(&hash).copied();
        let is_retry = |earlier: &Failed| started.duration_since(earlier.ended).is_ok_and(|pause| pause <= WINDOW);
        let tries = before.filter(is_retry).map_or(0, |earlier| earlier.tries);
        if failed {
            let entry = self.failed.get_or_insert_with(hash, || Failed { tries: 0, ended });
            entry.tries = tries.saturating_add(1);
            entry.ended = entry.ended.max(ended);
        } else if tries > 0 {
            self.failed.remove(&hash);
        }
        tries
    }

    /// How many requests are remembered.
    pub fn len(&self) -> usize {
        self.failed.len()
    }

    /// None is remembered.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + secs)
    }

    #[test]
    fn counts_tries_after_failures_only() {
        let mut retries = Retries::default();
        assert_eq!(retries.observe(7, at(0), at(1), true), 0);
        assert_eq!(retries.observe(7, at(2), at(3), true), 1);
        assert_eq!(retries.observe(8, at(2), at(3), false), 0, "another request");
        assert_eq!(retries.observe(7, at(5), at(6), false), 2);
        assert_eq!(retries.observe(7, at(7), at(8), false), 0, "asked again after success");
        assert!(retries.is_empty());
    }

    #[test]
    fn late_parallel_and_unknown_ones_are_no_retries() {
        let mut retries = Retries::default();
        retries.observe(7, at(0), at(10), true);
        assert_eq!(retries.observe(7, at(5), at(11), true), 0, "began before the first one ended");
        assert_eq!(retries.observe(7, at(11 + 61), at(80), true), 0, "too late");
        assert_eq!(retries.observe(7, at(81), at(82), true), 1);
        retries.observe(0, at(0), at(1), true);
        assert_eq!(retries.observe(0, at(2), at(3), true), 0);
    }

    #[test]
    fn stays_bounded() {
        let mut retries = Retries::default();
        for hash in 1..50_000 {
            retries.observe(hash, at(0), at(1), true);
        }
        assert!(retries.len() <= MAX_REQUESTS);
    }
}
