//! Searches for where something ends: strings, numbers and words, what is skipped. In: bytes; out: a place in them, or
//! `None` where it does not end within them.

use memchr::{memchr2, memchr3};

/// Bytes of numbers and words.
const IN_SCALAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let is_sign = matches!(byte as u8, b'.' | b'-' | b'+');
        table[byte] = (byte as u8).is_ascii_alphanumeric() || is_sign;
        byte += 1;
    }
    table
};

/// The inside of a string that ends within `bytes` and has no escapes.
pub(super) fn plain_bytes(bytes: &[u8]) -> Option<&[u8]> {
    // Most are shorter than what a vectorized search needs to get going: the first two words are looked at here.
    let end = match bytes.first_chunk::<16>() {
        Some(near) => {
            let near = u128::from_le_bytes(*near);
            let (low, high) = (ends(near as u64), ends((near >> 64) as u64));
            match (low, high) {
                (0, 0) => memchr2(b'"', b'\\', &bytes[16..])? + 16,
                (0, high) => 8 + high.trailing_zeros() as usize / 8,
                (low, _) => low.trailing_zeros() as usize / 8,
            }
        }
        None => bytes.iter().position(|byte| matches!(byte, b'"' | b'\\'))?,
    };
    (bytes[end] == b'"').then(|| &bytes[..end])
}

/// The inside of a string that ends within `bytes`, escapes and all.
pub(super) fn string_bytes(bytes: &[u8]) -> Option<&[u8]> {
    if let Some(plain) = plain_bytes(bytes) {
        return Some(plain);
    }
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(&bytes[..at]);
        }
        at += 2;
    }
}

/// The high bit of the first byte that is a quote or a backslash, and perhaps those of bytes behind it.
fn ends(word: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let zero = |word: u64| word.wrapping_sub(LOW) & !word & (LOW << 7);
    zero(word ^ (LOW * b'"' as u64)) | zero(word ^ (LOW * b'\\' as u64))
}

/// As [`plain_bytes`], of a string that is UTF-8.
pub(super) fn plain_string(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(plain_bytes(bytes)?).ok()
}

/// The first quote or bracket.
pub(super) fn structural(bytes: &[u8]) -> Option<usize> {
    // What a vectorized search needs to get going, and what two of them read before either may be in vain: long runs
    // are arrays of numbers.
    const NEAR: usize = 16;
    const WINDOW: usize = 512;
    let near = bytes.len().min(NEAR);
    if let Some(found) = bytes[..near].iter().position(|b| (*b == b'"') | (*b | 0x20 == b'{') | (*b | 0x20 == b'}')) {
        return Some(found);
    }
    let mut at = near;
    for window in bytes[near..].chunks(WINDOW) {
        let found = memchr3(b'"', b'[', b']', window);
        if let Some(found) = memchr2(b'{', b'}', &window[..found.unwrap_or(window.len())]).or(found) {
            return Some(at + found);
        }
        at += window.len();
    }
    None
}

/// Where a number or word ends that begins these bytes.
pub(super) fn end_of_scalar(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| !IN_SCALAR[usize::from(*byte)])
}
