//! Calls, failures and spend of the last so many equal spans of time.
//!
//! In: the number of the span a call falls in. Out: the last `N` spans, oldest first. A clock that goes back adds to old
//! spans while they are there; one that goes back further begins anew, since nothing would be added until it has caught up.

use crate::call::Money;

/// The last `N` spans.
#[derive(Clone, Debug)]
pub(super) struct Ring<const N: usize> {
    /// Number of the newest span.
    newest: u64,
    slots: [Slot; N],
}

/// One span. Money in nano-dollars: a sum for the eye; exact sums are kept elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) calls: u32,
    pub(super) failures: u32,
    pub(super) nanos: u64,
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self { newest: 0, slots: [Slot::default(); N] }
    }
}

impl<const N: usize> Ring<N> {
    /// Adds one call.
    pub(super) fn add(&mut self, span: u64, (failed, cost): (bool, Money)) {
        if span > self.newest {
            let passed = (span - self.newest).min(N as u64);
            for step in 0..passed {
                self.slots[((span - step) % N as u64) as usize] = Slot::default();
            }
            self.newest = span;
        } else if self.newest - span >= N as u64 {
            *self = Self { newest: span, ..Self::default() };
        }
        let slot = &mut self.slots[(span % N as u64) as usize];
        slot.calls = slot.calls.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(failed));
        slot.nanos = slot.nanos.saturating_add(u64::try_from(cost.femto() / 1_000_000).unwrap_or(0));
    }

    /// The spans that end with `now`, oldest first.
    pub(super) fn last(&self, now: u64) -> impl Iterator<Item = Slot> {
        (0..N as u64).rev().map(move |back| {
            let known = now.checked_sub(back).filter(|&span| span <= self.newest && self.newest - span < N as u64);
            known.map_or(Slot::default(), |span| self.slots[(span % N as u64) as usize])
        })
    }

    /// The sum of [`Ring::last`].
    pub(super) fn sum(&self, now: u64) -> Slot {
        self.sum_of(N, now)
    }

    /// The sum of the last `count` spans.
    pub(super) fn sum_of(&self, count: usize, now: u64) -> Slot {
        self.last(now).skip(N.saturating_sub(count)).fold(Slot::default(), |sum, slot| Slot {
            calls: sum.calls.saturating_add(slot.calls),
            failures: sum.failures.saturating_add(slot.failures),
            nanos: sum.nanos.saturating_add(slot.nanos),
        })
    }
}

impl Slot {
    /// Dollars.
    pub(super) fn usd(self) -> f64 {
        self.nanos as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(femto: i128) -> (bool, Money) {
        (false, Money::from_femto(femto))
    }

    #[test]
    fn old_spans_make_room() {
        let mut ring = Ring::<3>::default();
        for span in [10, 10, 11, 12] {
            ring.add(span, call(2_000_000));
        }
        let calls = |ring: &Ring<3>, now| ring.last(now).map(|slot| slot.calls).collect::<Vec<_>>();
        assert_eq!(calls(&ring, 12), [2, 1, 1]);
        assert_eq!(calls(&ring, 13), [1, 1, 0], "time passes without calls");
        assert_eq!(calls(&ring, 99), [0, 0, 0]);
        ring.add(14, call(0));
        assert_eq!(calls(&ring, 14), [1, 0, 1]);
        ring.add(13, (true, Money::ZERO));
        assert_eq!(calls(&ring, 14), [1, 1, 1], "late is added");
        assert_eq!(ring.sum_of(1, 14), Slot { calls: 1, failures: 0, nanos: 0 });
        assert_eq!(ring.sum(14), Slot { calls: 3, failures: 1, nanos: 2 });
        ring.add(1_000_000, call(0));
        assert_eq!(calls(&ring, 1_000_000), [0, 0, 1]);
        assert_eq!(calls(&ring, 1), [0, 0, 0]);
        ring.add(20, call(0));
        ring.add(21, call(0));
        assert_eq!(calls(&ring, 21), [0, 1, 1], "the clock went back: what was is forgotten");
    }
}
