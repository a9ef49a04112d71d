//! AWS event streams (`application/vnd.amazon.eventstream`), cut anywhere: bytes in, pruned payloads out.
//!
//! A message is: total and header length and a CRC of both; headers; payload; CRC of all of it, numbers big-endian
//! (<https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream>). A message
//! whose own CRC is wrong is given as [`Message::Damaged`]; after a wrong prelude nothing is read any more, since no
//! later message could be found.
//!
//! Payloads go straight into a pruner. Bedrock wraps a model's own stream as `chunk` events `{"bytes": "<base64>"}`
//! (recorded answers): with `unwrap` that JSON is decoded on the fly and pruned in their place.
//!
//! Bounds: three pruners and [`MAX_HEADERS`]; a payload of any length costs nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use crc32fast::Hasher;

use super::json::{NoText, Pruned, Pruner, TextSink};
use super::{Interest, Take};

/// Bytes of a message before its headers.
const PRELUDE: usize = 12;
/// CRC behind the payload.
const TRAILER: usize = 4;
/// Most of a message's headers that is looked at; recorded ones have about 100 bytes.
const MAX_HEADERS: usize = 4096;
/// Longest header value kept, bytes.
const MAX_VALUE: usize = 256;

/// One message.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// Its payload; [`EventStream::name`] tells what it is.
    Event(Pruned),
    /// `:message-type` is `exception` or `error`.
    Exception(Pruned),
    /// The CRC does not fit.
    Damaged,
}

/// Push parser; see the file's head.
#[derive(Debug)]
pub(super) struct EventStream {
    document: Pruner,
    /// For exceptions: keeps all of them.
    error: Pruner,
    /// For the envelope of `chunk` events.
    envelope: Pruner,
    base64: Base64,
    unwrap: bool,
    part: Part,
    /// Bytes left of this part.
    left: usize,
    payload_len: usize,
    /// What has come of the prelude, the headers or the trailer.
    buffer: Vec<u8>,
    crc: Hasher,
    headers: Headers,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Prelude,
    Headers,
    Payload,
    Trailer,
    /// Not an event stream (any more).
    Lost,
}

/// The headers that matter.
#[derive(Debug, Default)]
struct Headers {
    /// `:event-type`, `:exception-type` or `:error-code`.
    name: Option<String>,
    /// `:error-message`.
    message: Option<String>,
    is_exception: bool,
}

impl EventStream {
    /// `unwrap`: `chunk` events carry a model's own JSON in base64.
    pub(super) fn new(interests: &'static [Interest], unwrap: bool) -> Self {
        static ENVELOPE: [Interest; 1] = [Interest { path: "bytes", take: Take::Text }];
        Self {
            document: Pruner::new(interests),
            error: Pruner::keep_all(),
            envelope: Pruner::new(&ENVELOPE),
            base64: Base64::default(),
            unwrap,
            part: Part::Prelude,
            left: PRELUDE,
            payload_len: 0,
            buffer: Vec::new(),
            crc: Hasher::new(),
            headers: Headers::default(),
        }
    }

    /// `:event-type`, `:exception-type` or `:error-code` of the message that [`EventStream::next`] gave last.
    pub(super) fn name(&self) -> Option<&str> {
        self.headers.name.as_deref()
    }

    /// `:error-message` of that message.
    pub(super) fn error_message(&self) -> Option<&str> {
        self.headers.message.as_deref()
    }

    /// These bytes are no event stream; the rest is not read.
    pub(super) fn is_lost(&self) -> bool {
        self.part == Part::Lost
    }

    /// The bytes so far end where a message ends.
    pub(super) fn is_between(&self) -> bool {
        self.part == Part::Prelude && self.left == PRELUDE
    }

    /// Reads on in `bytes`, up to the end of the next message; `None` when they are used up.
    pub(super) fn next(&mut self, bytes: &mut &[u8], sink: &mut dyn TextSink) -> Option<Message> {
        loop {
            if self.part == Part::Lost {
                *bytes = &[];
                return None;
            }
            // An empty part (no headers, no payload) ends without a byte.
            if bytes.is_empty() && self.left > 0 {
                return None;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(self.left));
            *bytes = rest;
            self.left -= part.len();
            match self.part {
                Part::Prelude => {
                    self.buffer.extend_from_slice(part);
                    if self.left == 0 {
                        self.prelude();
                    }
                }
                Part::Headers => {
                    self.crc.update(part);
                    let room = MAX_HEADERS.saturating_sub(self.buffer.len());
                    self.buffer.extend_from_slice(&part[..part.len().min(room)]);
                    if self.left == 0 {
                        self.headers = Headers::read(&self.buffer);
                        self.buffer.clear();
                        self.part = Part::Payload;
                        self.left = self.payload_len;
                    }
                }
                Part::Payload => {
                    self.crc.update(part);
                    self.payload(part, sink);
                    if self.left == 0 {
                        self.part = Part::Trailer;
                        self.left = TRAILER;
                    }
                }
                Part::Trailer => {
                    self.buffer.extend_from_slice(part);
                    if self.left == 0 {
                        return Some(self.end());
                    }
                }
                Part::Lost => return None,
            }
        }
    }

    fn prelude(&mut self) {
        let number =
            |at: usize| self.buffer.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let (total, headers, crc) = (number(0) as usize, number(4) as usize, number(8));
        let payload = total.checked_sub(PRELUDE + TRAILER).and_then(|rest| rest.checked_sub(headers));
        match payload {
            Some(payload) if crc32fast::hash(&self.buffer[..8]) == crc => {
                self.crc = Hasher::new();
                self.crc.update(&self.buffer);
                self.payload_len = payload;
                self.left = headers;
                self.part = Part::Headers;
            }
            _ => self.part = Part::Lost,
        }
        self.buffer.clear();
    }

    fn is_chunk(&self) -> bool {
        self.unwrap && !self.headers.is_exception && self.headers.name.as_deref() == Some("chunk")
    }

    fn payload(&mut self, bytes: &[u8], sink: &mut dyn TextSink) {
        if self.is_chunk() {
            let mut inner = Inner { base64: &mut self.base64, document: &mut self.document, sink };
            self.envelope.feed(bytes, &mut inner);
        } else if self.headers.is_exception {
            self.error.feed(bytes, sink);
        } else {
            self.document.feed(bytes, sink);
        }
    }

    fn end(&mut self) -> Message {
        let crc = self.buffer.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
        let intact = std::mem::take(&mut self.crc).finalize() == crc;
        if self.is_chunk() {
            let mut inner = Inner { base64: &mut self.base64, document: &mut self.document, sink: &mut NoText };
            inner.flush();
        }
        self.base64 = Base64::default();
        self.envelope.take();
        let (document, error) = (self.document.take(), self.error.take());
        self.buffer.clear();
        self.part = Part::Prelude;
        self.left = PRELUDE;
        match (intact, self.headers.is_exception) {
            (false, _) => Message::Damaged,
            (true, true) => Message::Exception(error),
            (true, false) => Message::Event(document),
        }
    }
}

impl Headers {
    /// Reads a block of headers as far as it goes.
    fn read(mut block: &[u8]) -> Self {
        let mut headers = Headers::default();
        while let Some((name, value, rest)) = header(block) {
            block = rest;
            let text = || {
                let value = &value[..value.len().min(MAX_VALUE)];
                Some(String::from_utf8_lossy(value).into_owned())
            };
            match name {
                b":event-type" | b":exception-type" | b":error-code" => headers.name = text(),
                b":error-message" => headers.message = text(),
                b":message-type" => headers.is_exception = matches!(value, b"exception" | b"error"),
                _ => {}
            }
        }
        headers
    }
}

/// The first header of a block: its name, its value's bytes, and what follows.
fn header(block: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&name_len, rest) = block.split_first()?;
    let (name, rest) = rest.split_at_checked(name_len as usize)?;
    let (&kind, rest) = rest.split_first()?;
    let (value_len, rest) = match kind {
        0 | 1 => (0, rest),
        2 => (1, rest),
        3 => (2, rest),
        4 => (4, rest),
        5 | 8 => (8, rest),
        9 => (16, rest),
        6 | 7 => {
            let (len, rest) = rest.split_first_chunk()?;
            (u16::from_be_bytes(*len) as usize, rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(value_len)?;
    Some((name, value, rest))
}

/// Carries what is left of a group of four.
#[derive(Debug, Default)]
struct Base64 {
    carry: [u8; 4],
    carry_len: usize,
    /// Something was no base64: the rest is not read.
    failed: bool,
}

/// Text of the envelope in, decoded bytes into the pruner.
struct Inner<'a> {
    base64: &'a mut Base64,
    document: &'a mut Pruner,
    sink: &'a mut dyn TextSink,
}

impl TextSink for Inner<'_> {
    fn text(&mut self, piece: &str) {
        let mut piece = piece.as_bytes();
        if self.base64.carry_len > 0 {
            while let (Some((&first, rest)), true) = (piece.split_first(), self.base64.carry_len < 4) {
                self.base64.carry[self.base64.carry_len] = first;
                self.base64.carry_len += 1;
                piece = rest;
            }
            if self.base64.carry_len < 4 {
                return;
            }
            let group = self.base64.carry;
            self.base64.carry_len = 0;
            self.decode(&group);
        }
        let (groups, rest) = piece.split_at(piece.len() - piece.len() % 4);
        self.decode(groups);
        self.base64.carry[..rest.len()].copy_from_slice(rest);
        self.base64.carry_len = rest.len();
    }
}

impl Inner<'_> {
    /// Whole groups.
    fn decode(&mut self, groups: &[u8]) {
        for block in groups.chunks(1024) {
            // Where something is no base64, what stands before it counts, however the text was cut.
            if !self.base64.failed && !self.decoded(block) {
                self.base64.failed = !block.chunks(4).all(|group| self.decoded(group));
            }
        }
    }

    /// Decodes 1,024 characters at most, all of them or nothing.
    fn decoded(&mut self, groups: &[u8]) -> bool {
        let mut out = [0; 768];
        let end = groups.iter().rposition(|b| *b != b'=').map_or(0, |last| last + 1);
        let decoded = STANDARD_NO_PAD.decode_slice(&groups[..end], &mut out);
        if let Ok(len) = decoded {
            self.document.feed(&out[..len], self.sink);
        }
        decoded.is_ok()
    }

    /// The text has ended: a last group without padding.
    fn flush(&mut self) {
        let group = self.base64.carry;
        let len = std::mem::take(&mut self.base64.carry_len);
        self.decode(&group[..len]);
    }
}

/// A message as AWS writes it; header names and values shorter than 256 and 65,536 bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(name.len() as u8);
        block.extend_from_slice(name.as_bytes());
        block.push(7);
        block.extend_from_slice(&(value.len() as u16).to_be_bytes());
        block.extend_from_slice(value.as_bytes());
    }
    let mut out = ((PRELUDE + block.len() + payload.len() + TRAILER) as u32).to_be_bytes().to_vec();
    out.extend_from_slice(&(block.len() as u32).to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out.extend_from_slice(&block);
    out.extend_from_slice(payload);
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out
}

#[cfg(test)]
pub(super) mod tests {
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::super::random::Random;
    use super::*;
    use crate::call::TextSample;

    static TABLE: [Interest; 2] =
        [Interest { path: "usage", take: Take::Keep }, Interest { path: "text", take: Take::Text }];

    pub(in super::super) fn chunk(json: &str) -> Vec<u8> {
        let payload = format!("{{\"p\":\"abc\",\"bytes\":\"{}\"}}", STANDARD.encode(json));
        message(&[(":event-type", "chunk"), (":message-type", "event")], payload.as_bytes())
    }

    fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(Option<String>, Message)>, TextSample, bool) {
        let mut stream = EventStream::new(&TABLE, true);
        let mut sample = TextSample::default();
        let mut got = Vec::new();
        for mut piece in pieces {
            while let Some(message) = stream.next(&mut piece, &mut sample) {
                got.push((stream.name().map(str::to_owned), message));
            }
            assert!(piece.is_empty());
        }
        (got, sample, stream.is_lost())
    }

    fn event(value: serde_json::Value) -> Message {
        Message::Event(Pruned { value: value.into(), complete: true, unreadable: None })
    }

    #[test]
    fn messages_cut_at_every_byte() {
        let inner = r#"{"text":"héllo","usage":{"input":3},"skip":"................."}"#;
        let mut bytes = message(
            &[(":event-type", "delta"), (":content-type", "application/json"), (":message-type", "event")],
            br#"{"text":"a","x":1}"#,
        );
        bytes.extend(message(&[], b""));
        for cut in 0..4 {
            bytes.extend(chunk(&inner[..inner.len() - 3 + cut.min(3)]));
        }
        bytes.extend(message(
            &[(":exception-type", "throttlingException"), (":message-type", "exception")],
            br#"{"message":"slow down"}"#,
        ));
        let (expected, expected_text, lost) = run([&bytes[..]]);
        assert!(!lost);
        assert_eq!(expected[0], (Some("delta".into()), event(json!({"text":1}))));
        assert!(matches!(&expected[1], (None, Message::Event(Pruned { complete: false, .. }))));
        assert_eq!(expected[5], (Some("chunk".into()), event(json!({"text":6,"usage":{"input":3}}))));
        assert!(
            matches!(&expected[6].1, Message::Exception(pruned) if pruned.value == json!({"message":"slow down"})),
            "{expected:?}"
        );
        assert!(expected_text.kept().starts_with("ahéllo"));
        for at in 0..bytes.len() {
            let (got, text, _) = run([&bytes[..at], &bytes[at..]]);
            assert_eq!((&got, text.kept()), (&expected, expected_text.kept()), "cut at {at}");
        }
        assert_eq!(run(bytes.chunks(1)).0, expected);
        let mut random = Random(3);
        for _ in 0..50 {
            assert_eq!(run(random.cut(&bytes)).0, expected);
        }
    }

    #[test]
    fn what_stands_before_damaged_base64_counts_however_it_is_cut() {
        let whole = STANDARD.encode(r#"{"text":"hello, hello","skip":1}"#);
        for (at, damage) in [(20, "\u{7f}"), (21, "!"), (24, "="), (20, "YQ=="), (22, "==")] {
            let payload = format!("{{\"bytes\":\"{}{damage}{}\"}}", &whole[..at], &whole[at..]);
            let bytes = message(&[(":event-type", "chunk"), (":message-type", "event")], payload.as_bytes());
            let expected = run([&bytes[..]]);
            assert!(!expected.1.kept().is_empty(), "{at} {damage}");
            for cut in 0..bytes.len() {
                let (first, second) = bytes.split_at(cut);
                assert_eq!(run([first, second]), expected, "{at} {damage}, cut at {cut}");
            }
            assert_eq!(run(bytes.chunks(1)), expected, "{at} {damage}");
        }
    }

    #[test]
    fn base64_of_every_length_with_and_without_padding() {
        for len in 0..40 {
            let inner = format!("{{\"usage\":\"{}\"}}", "x".repeat(len));
            let expected = event(json!({ "usage": "x".repeat(len) }));
            assert_eq!(run([&chunk(&inner)[..]]).0[0].1, expected);
            let payload = format!("{{\"bytes\":\"{}\"}}", STANDARD_NO_PAD.encode(&inner));
            assert_eq!(run([&message(&[(":event-type", "chunk")], payload.as_bytes())[..]]).0[0].1, expected);
        }
        let payload = br#"{"bytes":"eyJ1c2!!"}"#;
        let (got, _, _) = run([&message(&[(":event-type", "chunk")], payload)[..]]);
        assert!(matches!(&got[0].1, Message::Event(Pruned { complete: false, .. })), "{got:?}");
    }

    #[test]
    fn damage_is_noticed() {
        let good = message(&[(":event-type", "e")], br#"{"usage":1}"#);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            bad.extend_from_slice(&good);
            let (got, _, lost) = run([&bad[..]]);
            if at < PRELUDE {
                assert!(lost && got.is_empty(), "byte {at} of the prelude");
            } else {
                assert!(!lost);
                assert_eq!(got[0].1, Message::Damaged, "byte {at}");
                assert_eq!(got[1].1, event(json!({"usage":1})), "byte {at}");
            }
        }
        assert!(run([&b"{\"message\":\"no stream\"}"[..]]).2);
        let mut short = 8_u32.to_be_bytes().to_vec();
        short.extend_from_slice(&[0; 4]);
        short.extend_from_slice(&crc32fast::hash(&short).to_be_bytes());
        assert!(run([&short[..]]).2, "shorter than its own frame");
    }

    #[test]
    fn other_header_types_are_stepped_over() {
        let mut block = Vec::new();
        for (kind, len) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (8, 8), (9, 16)] {
            block.extend_from_slice(&[1, b'x', kind]);
            block.extend(std::iter::repeat_n(0xAA, len));
        }
        block.extend_from_slice(&[1, b'y', 6, 0, 2, 1, 2]);
        block.extend_from_slice(b"\x0b:event-type\x07\x00\x01z");
        assert_eq!(Headers::read(&block).name.as_deref(), Some("z"));
        block.extend_from_slice(&[1, b'x', 77, 0]);
        assert_eq!(Headers::read(&block).name.as_deref(), Some("z"));
        assert!(Headers::read(&[200, 1]).name.is_none());
    }

    #[test]
    fn long_headers_and_payloads_are_not_stored() {
        let long = "h".repeat(60_000);
        let payload = format!("{{\"skip\":\"{}\",\"usage\":1}}", "x".repeat(5_000_000));
        let bytes = message(&[(":event-type", "e"), ("other", &long), ("more", &long)], payload.as_bytes());
        let mut stream = EventStream::new(&TABLE, true);
        let mut got = None;
        for mut piece in bytes.chunks(16 * 1024) {
            got = got.or(stream.next(&mut piece, &mut NoText));
        }
        assert_eq!(got, Some(event(json!({"usage":1}))));
        assert_eq!(stream.name(), Some("e"));
        assert!(stream.buffer.capacity() <= 2 * MAX_HEADERS);
        assert!(stream.is_between());
    }
}
