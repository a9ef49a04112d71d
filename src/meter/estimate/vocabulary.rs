//! The vocabulary `o200k_base` and the byte-pair encoding by it: the same tokens as tiktoken's `encode_ordinary`.
//!
//! In: text. Out: its tokens. Two tokens side by side become one where the vocabulary has them as a pair, the pair of
//! lowest rank first. tiktoken looks for the bytes of both together instead, in a map of 200,000 byte strings: the same,
//! because every token of the vocabulary is what the pairs before it make of its bytes, which the test that makes the
//! file sees to.
//!
//! `o200k.zst` (0.7 MB) is made from OpenAI's `o200k_base.tiktoken` as it is in the crate tiktoken-rs (MIT, see
//! `LICENSE.tiktoken`): `KEYTALLY_WRITE_VOCABULARY=1 cargo test --lib estimate` writes it again; see the tests for how.
//! Unpacked, in 7 ms, it is a table of 2 MiB, of which a pair takes 8 bytes.
//!
//! Time is bounded by n log n for any text of n bytes: long pieces, as of one letter repeated, are merged by a heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::pieces::Classes;

/// See [`Vocabulary::unpack`] for what is in it.
static PACKED: &[u8] = include_bytes!("o200k.zst");

/// Tokens of one byte; they have the lowest ranks.
pub(super) const BYTES: usize = 256;

/// Tokens of two tokens.
pub(super) const PAIRS: usize = 199_998 - BYTES;

/// Bits of a token: its rank.
const TOKEN_BITS: u32 = 18;

/// Slots of the table of pairs, 3/4 of which are taken.
const SLOT_BITS: u32 = 18;

/// Bytes of the unpacked file, with room for more changes of class than there are (3,191).
const MAX_UNPACKED: usize = BYTES + 6 * PAIRS + (64 << 10);

/// No token and no pair.
const NONE: u32 = u32::MAX;

/// A vocabulary, ready for use: 2.1 MB.
pub(super) struct Vocabulary {
    /// The token of each byte.
    bytes: [u32; BYTES],
    pairs: Pairs,
    pub(super) classes: Classes,
}

impl Vocabulary {
    /// Unpacks the file: the bytes of the tokens of one byte; of all pairs, in order of rank, the highest byte of the first
    /// token, the middle one, the lowest, and the same of the second token (bytes of one kind together pack best); the
    /// characters where the class changes ([`Classes::runs`], four bytes each, little-endian).
    pub(super) fn unpack() -> Self {
        let file = zstd::bulk::decompress(PACKED, MAX_UNPACKED).expect("the file in the binary is whole");
        let (first, rest) = file.split_at(BYTES);
        let (planes, runs) = rest.split_at(6 * PAIRS);
        let mut bytes = [NONE; BYTES];
        for (token, byte) in (0..).zip(first) {
            bytes[usize::from(*byte)] = token;
        }
        let mut pairs = Pairs::default();
        let plane = |which: usize, i: usize| u32::from(planes[which * PAIRS + i]);
        for i in 0..PAIRS {
            let token = |which| plane(which, i) << 16 | plane(which + 1, i) << 8 | plane(which + 2, i);
            pairs.insert(token(0), token(3), (BYTES + i) as u32);
        }
        let runs = runs.as_chunks().0.iter().map(|run| u32::from_le_bytes(*run)).collect();
        Self { bytes, pairs, classes: Classes::new(runs) }
    }

    /// Hands over the tokens of a text, piece by piece.
    pub(super) fn encode(&self, mut text: &str, mut each: impl FnMut(&[u32])) {
        let mut merge = Merge::default();
        while let Some((piece, rest)) = self.classes.cut(text) {
            let tokens = piece.bytes().map(|byte| self.bytes[usize::from(byte)]);
            each(merge.merge(&self.pairs, tokens));
            text = rest;
        }
    }
}

/// Pairs of tokens and what they become: a flat table, open addressing, linear probing.
pub(super) struct Pairs {
    /// First token, second token, what they become, of 18 bits each; 0 is an empty slot (token 0 is made of no pair).
    slots: Box<[u64]>,
}

impl Default for Pairs {
    fn default() -> Self {
        Self { slots: vec![0; 1 << SLOT_BITS].into_boxed_slice() }
    }
}

impl Pairs {
    /// The slot of a pair, or the empty one where it would be. There is one: the table has more slots than pairs.
    fn slot(&self, first: u32, second: u32) -> (usize, u64) {
        let key = u64::from(first) << TOKEN_BITS | u64::from(second);
        // Fibonacci hashing: the highest bits of the product depend on all bits of the key.
        let mut slot = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOT_BITS)) as usize;
        while self.slots[slot] != 0 && self.slots[slot] >> TOKEN_BITS != key {
            slot = (slot + 1) % self.slots.len();
        }
        (slot, key)
    }

    pub(super) fn insert(&mut self, first: u32, second: u32, token: u32) {
        let (slot, key) = self.slot(first, second);
        self.slots[slot] = key << TOKEN_BITS | u64::from(token);
    }

    /// What two tokens become; [`NONE`] when they stay two.
    fn get(&self, first: u32, second: u32) -> u32 {
        let found = self.slots[self.slot(first, second).0];
        if found == 0 { NONE } else { (found & ((1 << TOKEN_BITS) - 1)) as u32 }
    }
}

/// The merging of one piece after another.
#[derive(Default)]
pub(super) struct Merge {
    parts: Vec<Part>,
    /// What may be merged, lowest rank first, then from the left; with what no longer may.
    candidates: BinaryHeap<Reverse<(u32, u32)>>,
    merged: Vec<u32>,
}

/// A token of the piece, at the place of its first byte.
struct Part {
    token: u32,
    previous: u32,
    next: u32,
    /// What it becomes with the next one.
    pair: u32,
}

impl Merge {
    /// The tokens of a piece, of those of its bytes.
    pub(super) fn merge(&mut self, pairs: &Pairs, bytes: impl Iterator<Item = u32>) -> &[u32] {
        self.parts.clear();
        self.parts.extend((0u32..).zip(bytes).map(|(i, token)| Part {
            token,
            previous: i.wrapping_sub(1),
            next: i + 1,
            pair: NONE,
        }));
        for i in 1..self.parts.len() {
            self.look(pairs, i - 1);
        }
        while let Some(Reverse((token, left))) = self.candidates.pop() {
            let left = left as usize;
            if self.parts[left].pair != token {
                continue;
            }
            let right = self.parts[left].next as usize;
            let after = self.parts[right].next;
            self.parts[right].pair = NONE;
            self.parts[left].token = token;
            self.parts[left].next = after;
            if let Some(after) = self.parts.get_mut(after as usize) {
                after.previous = left as u32;
            }
            self.look(pairs, left);
            self.look(pairs, self.parts[left].previous as usize);
        }
        self.merged.clear();
        let mut i = 0;
        while let Some(part) = self.parts.get(i) {
            self.merged.push(part.token);
            i = part.next as usize;
        }
        &self.merged
    }

    /// Finds what the part there becomes with the next one, where there are both.
    fn look(&mut self, pairs: &Pairs, left: usize) {
        let Some(part) = self.parts.get(left) else { return };
        let pair = self.parts.get(part.next as usize).map_or(NONE, |next| pairs.get(part.token, next.token));
        self.parts[left].pair = pair;
        if pair != NONE {
            self.candidates.push(Reverse((pair, left as u32)));
        }
    }
}

#[cfg(test)]
#[path = "vocabulary_tests.rs"]
mod tests;
