//! Promises about bytes from outside, one function a reader: any bytes in, a panic where a promise is broken.
//!
//! `fuzz/` runs them under a fuzzer; the tests of this room run them over [`seeds`] and over mutations of those, the same
//! each time. Compiled for these two only, so that the program and its library do not have them.
//!
//! An input is a few bytes of choices and then the bytes of the reader ([`Input`]): seeds are easy to write, and a fuzzer's
//! changes to one part leave the others as they are.

mod bodies;
mod files;
mod heads;
mod meaning;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;

use crate::protocol::random::Random;

/// A reader's promise and where its inputs come from.
pub struct Target {
    /// Name of its fuzz target, seeds and corpus.
    pub name: &'static str,
    /// Panics when the promise is broken.
    pub check: fn(&[u8]),
    /// Most bytes that may be allocated at a time beyond those that were before, for an input of 64 KiB.
    pub max_bytes: usize,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    // Answers in every protocol and framing: whatever the cuts, one reply, within its bounds.
    Target { name: "answer", check: bodies::answer, max_bytes: 4 << 20 },
    // Event streams of AWS, framed and summed right: the same reply as that of the events alone.
    Target { name: "event_stream", check: bodies::event_stream, max_bytes: 4 << 20 },
    // The push parser against serde_json and the plain form of its rules.
    Target { name: "json", check: bodies::json, max_bytes: 16 << 20 },
    // Content encodings: whatever the cuts, the same bytes; no more of them than the bounds allow.
    Target { name: "decompress", check: bodies::decompress, max_bytes: 48 << 20 },
    // Requests: JSON, forms, compressed, whatever the cuts: the same facts.
    Target { name: "request", check: bodies::request, max_bytes: 48 << 20 },
    // Frames of WebSockets, compressed ones too.
    Target { name: "websocket", check: bodies::websocket, max_bytes: 4 << 20 },
    // usage.inject: what it takes out of a stream, and nothing else; what it adds to a request.
    Target { name: "inject", check: bodies::inject, max_bytes: 4 << 20 },
    // The first bytes of a connection: a verdict is final; where rustls reads a hello, the same name.
    Target { name: "client_hello", check: heads::client_hello, max_bytes: 1 << 20 },
    // Heads of requests: provider, route, trace context; a key is seen wherever it stands and never shown.
    Target { name: "request_head", check: heads::request_head, max_bytes: 4 << 20 },
    // Heads of answers: kept headers, limits, waits.
    Target { name: "answer_head", check: heads::answer_head, max_bytes: 4 << 20 },
    // Errors of any status, headers and body: an outcome, its explanation, nothing of a key in either.
    Target { name: "rules", check: meaning::rules, max_bytes: 16 << 20 },
    // Errors that people paste into `keytally explain`.
    Target { name: "explain", check: meaning::explain, max_bytes: 32 << 20 },
    // Any usage of any model: a price or a reason.
    Target { name: "price", check: meaning::price, max_bytes: 4 << 20 },
    // Configuration files and variables: a configuration, or problems fit to be shown.
    Target { name: "config", check: files::config, max_bytes: 64 << 20 },
    // Files that configuration names: price book, certificate authority.
    Target { name: "file", check: files::file, max_bytes: 64 << 20 },
    // What the kernel tells of sockets and firewall rules.
    Target { name: "kernel", check: files::kernel, max_bytes: 1 << 20 },
];

/// The target of this name.
///
/// # Panics
/// There is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target of this name")
}

/// What is left of an input. Past its end every choice is the first one.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A number of any size: the first byte says how many bytes it has, so that small and extreme ones are frequent.
    fn number(&mut self) -> u64 {
        match self.byte() {
            0 => 0,
            0xff => u64::MAX,
            length => (0..=length % 8).fold(0, |number, _| number << 8 | u64::from(self.byte())),
        }
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    /// A field after its length in one byte.
    fn short(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (field, rest) = self.0.split_at(length);
        self.0 = rest;
        field
    }

    /// A field after its length in two bytes.
    fn long(&mut self) -> &'a [u8] {
        let length = usize::from(self.word()).min(self.0.len());
        let (field, rest) = self.0.split_at(length);
        self.0 = rest;
        field
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// The ways in which a body is cut: in pieces at random, by `seed`, and byte by byte.
fn cuts(seed: u16, body: &[u8]) -> [Vec<&[u8]>; 2] {
    [Random(seed.into()).cut(body), body.chunks(1).collect()]
}
