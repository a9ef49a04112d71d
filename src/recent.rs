//! A map that remembers the most recently used entries and forgets the rest.
//!
//! Holds at most its capacity. When full, the least recently used eighth is forgotten at once: one scan pays for many
//! inserts, so an insert costs O(1) on average, and at most an eighth of the room stands empty. All of them stand in one
//! table: entries that come and go leave no holes in the heap.

use std::borrow::Borrow;
use std::hash::Hash;

use foldhash::{HashMap, HashMapExt};

/// See the file's header.
#[derive(Debug)]
pub struct Recent<K, V> {
    entries: HashMap<K, Slot<V>>,
    capacity: usize,
    clock: u64,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    used: u64,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    /// Room for `capacity` entries, at least one. Memory is taken as entries come.
    pub fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity: capacity.max(1), clock: 0 }
    }

    /// How many entries are held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Looks without counting as a use.
    pub fn peek<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|slot| &slot.value)
    }

    /// Finds an entry and marks it as used.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.clock += 1;
        let slot = self.entries.get_mut(key)?;
        slot.used = self.clock;
        Some(&mut slot.value)
    }

    /// Finds an entry or makes it, and marks it as used.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let clock = self.room_for(&key);
        let slot = self.entries.entry(key).or_insert_with(|| Slot { value: make(), used: clock });
        slot.used = clock;
        &mut slot.value
    }

    /// Sets an entry and marks it as used.
    pub fn put(&mut self, key: K, value: V) {
        let used = self.room_for(&key);
        self.entries.insert(key, Slot { value, used });
    }

    /// Forgets one entry.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.entries.remove(key).map(|slot| slot.value)
    }

    /// Forgets what is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        self.keep(|slot| keep(&slot.value));
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, slot)| (key, &slot.value))
    }

    /// Makes room for an entry that is used now, and says when that is.
    fn room_for(&mut self, key: &K) -> u64 {
        self.clock += 1;
        if self.entries.len() >= self.capacity && !self.entries.contains_key(key) {
            self.forget_oldest();
        }
        self.clock
    }

    fn forget_oldest(&mut self) {
        let mut ages: Vec<u64> = self.entries.values().map(|slot| slot.used).collect();
        let forget = (self.capacity / 8).clamp(1, ages.len().max(1));
        if let Some(last_forgotten) = ages.len().checked_sub(1).map(|last| forget.min(last + 1) - 1) {
            let (_, &mut limit, _) = ages.select_nth_unstable(last_forgotten);
            self.keep(|slot| slot.used > limit);
        }
    }

    /// The table is filled anew: entries taken out of it one by one leave marks, for which it would double.
    fn keep(&mut self, mut keep: impl FnMut(&Slot<V>) -> bool) {
        let kept: Vec<_> = self.entries.drain().filter(|(_, slot)| keep(slot)).collect();
        self.entries.extend(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_least_recently_used_and_stays_bounded() {
        let mut recent = Recent::new(16);
        for n in 0..16 {
            recent.get_or_insert_with(n, || n);
        }
        assert_eq!(recent.get(&0), Some(&mut 0));
        recent.get_or_insert_with(16, || 16);
        assert!(recent.peek(&0).is_some(), "just used");
        assert!(recent.peek(&1).is_none(), "oldest");
        for n in 17..100_000 {
            recent.get_or_insert_with(n, || n);
            assert!(recent.len() <= 16);
        }
        assert!(recent.peek(&99_999).is_some());
        recent.retain(|n| n % 2 == 1);
        assert!(recent.peek(&99_998).is_none() && recent.peek(&99_999).is_some());
        let mut one = Recent::new(0);
        one.get_or_insert_with("a", || 1);
        one.get_or_insert_with("b", || 2);
        assert_eq!((one.len(), one.peek("b")), (1, Some(&2)));
    }

    #[test]
    fn the_table_does_not_grow_by_what_comes_and_goes() {
        let mut recent = Recent::new(14_000);
        for n in 0..14_000_u64 {
            recent.put(n, n);
        }
        let room = recent.entries.capacity();
        for n in 14_000..200_000 {
            recent.put(n, n);
        }
        assert_eq!(recent.entries.capacity(), room);
    }
}
