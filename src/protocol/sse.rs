//! Server-sent events and JSON lines, cut anywhere: bytes in, pruned documents out, one at a time.
//!
//! Data goes straight into the pruner; no event's text is built, so that one of 50 MB costs nothing. Reads LF, CRLF and
//! CR, comments, a byte order mark, data over several lines, and what providers send besides the standard
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>):
//! - `error: {…}`, a field of that name (llama.cpp): read as the document `{"error": {…}}` of an event `error`;
//! - JSON outside of any field (Gemini's errors behind the last event, JSON lines): [`Item::Bare`];
//! - whole documents on `data:` lines that no empty line separates: one event each;
//! - a last event without its empty line: given by [`Sse::finish`] when its document is whole.
//!
//! An event like the one before but for its text is not read again where the caller says that nothing else would come of it
//! ([`Sse::learn`], [`Sse::again`]).
//!
//! Bounds: two pruners and a shape, [`MAX_NAME`] and [`MAX_PLAIN`] bytes.

use memchr::{memchr, memchr2};

use super::Interest;
use super::json::{NoText, Pruned, Pruner, Shape, TextSink};

/// Longest event name kept, bytes; the longest known has 49.
const MAX_NAME: usize = 96;
/// Most kept of data that is no JSON: enough for the message of a plain-text error.
const MAX_PLAIN: usize = 1024;
/// Shapes that may be learnt in vain.
const PATIENCE: u8 = 8;
/// Longest field name known.
const MAX_FIELD: usize = 5;
/// What OpenAI-format streams end with.
const DONE: &[u8] = b"[DONE]";

/// One thing that a stream carried.
#[derive(Debug, PartialEq)]
pub(super) enum Item {
    /// An event's data; its name is [`Sse::name`].
    Event(Pruned),
    /// JSON outside of any field.
    Bare(Pruned),
    /// `data: [DONE]`.
    Done,
    /// Data that is no JSON; its beginning is [`Sse::plain`], the event's name [`Sse::name`].
    Plain,
}

/// Line state machine; see the file's head.
#[derive(Debug)]
pub(super) struct Sse {
    document: Pruner,
    /// For events named `error`: keeps all of them. Most streams have none.
    error: Option<Box<Pruner>>,
    line: Line,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    field: [u8; MAX_FIELD],
    field_len: usize,
    name: Vec<u8>,
    /// The name was given out with an item and is forgotten before the next.
    name_used: bool,
    data: Data,
    /// The data is the value of an `error:` line.
    wrapped: bool,
    plain: Vec<u8>,
    /// What events have looked like lately.
    shape: Option<Box<Shape>>,
    /// Shapes that may still be learnt before one is found again.
    patience: u8,
}

/// Where in a line.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Line {
    Start,
    /// In a field's name.
    Name,
    /// Behind the colon: one space may be left out.
    Colon(Field),
    Value(Field),
    /// In JSON outside of any field, over any number of lines.
    Bare,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    Data,
    Event,
    /// llama.cpp's own.
    Error,
    Other,
}

/// What the event's data has been so far.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Data {
    None,
    /// Nothing but spaces, or this many bytes of [`DONE`].
    Open(usize),
    Json {
        error: bool,
    },
    Plain,
}

impl Sse {
    pub(super) fn new(interests: &'static [Interest]) -> Self {
        Self {
            document: Pruner::new(interests),
            error: None,
            line: Line::Start,
            after_cr: false,
            field: [0; MAX_FIELD],
            field_len: 0,
            name: Vec::new(),
            name_used: false,
            data: Data::None,
            wrapped: false,
            plain: Vec::new(),
            shape: None,
            patience: PATIENCE,
        }
    }

    /// Name of the event that [`Sse::next`] gave last.
    pub(super) fn name(&self) -> Option<&str> {
        let name = match std::str::from_utf8(&self.name) {
            Ok(name) => name,
            Err(error) => std::str::from_utf8(&self.name[..error.valid_up_to()]).unwrap_or(""),
        };
        (!name.is_empty()).then_some(name)
    }

    /// Beginning of the data that [`Sse::next`] gave as [`Item::Plain`].
    pub(super) fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// Nothing of an event has come yet.
    pub(super) fn is_between(&self) -> bool {
        self.line == Line::Start
            && self.data == Data::None
            && !self.after_cr
            && (self.name.is_empty() || self.name_used)
    }

    /// `event`, all bytes of the event that [`Sse::next`] just gave, may come again with another text and other ids;
    /// `None`: it may not.
    pub(super) fn learn(&mut self, event: Option<&[u8]>) {
        self.shape = None;
        if let Some(event) = event
            && self.patience > 0
            && self.is_between()
            && self.name() != Some("error")
        {
            self.patience -= 1;
            self.shape = self.document.shape_of(event).map(Box::new);
        }
    }

    /// Takes an event off `bytes` that is like the learnt one; its text goes to `sink`.
    pub(super) fn again(&mut self, bytes: &mut &[u8], sink: &mut dyn TextSink) -> bool {
        let found = match &self.shape {
            Some(shape) if self.is_between() => shape.find(bytes, sink),
            _ => None,
        };
        let Some(length) = found else { return false };
        *bytes = &bytes[length..];
        self.patience = PATIENCE;
        true
    }

    /// Reads on in `bytes`, up to the end of the next item; `None` when they are used up.
    pub(super) fn next(&mut self, bytes: &mut &[u8], sink: &mut dyn TextSink) -> Option<Item> {
        if self.name_used {
            self.name.clear();
            self.plain.clear();
            self.name_used = false;
        }
        while let Some(&byte) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                *bytes = &bytes[1..];
                continue;
            }
            match self.line {
                Line::Start => match byte {
                    b'\n' | b'\r' => {
                        self.line_end(byte);
                        *bytes = &bytes[1..];
                        if let Some(item) = self.dispatch() {
                            return Some(item);
                        }
                    }
                    b'{' => {
                        if let Some(item) = self.dispatch() {
                            return Some(item);
                        }
                        self.line = Line::Bare;
                    }
                    // A byte order mark; the frame of a JSON array whose elements are read as bare documents; indents.
                    0xEF | 0xBB | 0xBF | b'[' | b']' | b',' | b' ' | b'\t' => *bytes = &bytes[1..],
                    _ => {
                        self.field_len = 0;
                        self.line = Line::Name;
                        if let Some(rest) = bytes.strip_prefix(b"data:") {
                            self.line = Line::Colon(Field::Data);
                            *bytes = rest;
                        }
                    }
                },
                Line::Name => self.field_name(byte, bytes),
                Line::Colon(field) => {
                    // A second document without an empty line between: the first one is an event of its own.
                    if (field == Field::Error || field == Field::Data && self.is_whole())
                        && let Some(item) = self.dispatch()
                    {
                        return Some(item);
                    }
                    if byte == b' ' {
                        *bytes = &bytes[1..];
                    }
                    match field {
                        Field::Data => match self.data {
                            Data::None => self.data = Data::Open(0),
                            Data::Open(0) => {}
                            _ => self.data(b"\n", sink),
                        },
                        Field::Event => self.name.clear(),
                        Field::Error => {
                            self.name = b"error".to_vec();
                            self.data = Data::Open(0);
                            self.wrapped = true;
                        }
                        Field::Other => {}
                    }
                    self.line = Line::Value(field);
                }
                Line::Value(field) => {
                    let end = memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
                    let (value, rest) = bytes.split_at(end);
                    match field {
                        Field::Data | Field::Error => self.data(value, sink),
                        Field::Event => {
                            let room = MAX_NAME.saturating_sub(self.name.len());
                            self.name.extend_from_slice(&value[..value.len().min(room)]);
                        }
                        Field::Other => {}
                    }
                    *bytes = rest;
                    if let Some(&end) = rest.first() {
                        self.line_end(end);
                        *bytes = &rest[1..];
                        if field == Field::Error
                            && let Some(item) = self.dispatch()
                        {
                            return Some(item);
                        }
                    }
                }
                Line::Bare => {
                    if self.document.has_failed() {
                        // Read on at the next line.
                        let Some(end) = memchr(b'\n', bytes) else {
                            *bytes = &[];
                            return None;
                        };
                        *bytes = &bytes[end + 1..];
                        self.line = Line::Start;
                        return Some(Item::Bare(self.document.take()));
                    }
                    let taken = self.document.feed(bytes, sink);
                    *bytes = &bytes[taken..];
                    if self.document.is_complete() {
                        self.line = Line::Start;
                        return Some(Item::Bare(self.document.take()));
                    }
                }
            }
        }
        None
    }

    /// No more bytes come: the last item, if it was whole. Cut ones are dropped.
    pub(super) fn finish(&mut self) -> Option<Item> {
        if self.name_used {
            self.name.clear();
            self.plain.clear();
        }
        let is_error_text = self.data == Data::Plain && self.name() == Some("error");
        if !(self.is_whole() || self.wrapped || is_error_text) {
            return None;
        }
        self.dispatch().filter(|item| !matches!(item, Item::Event(Pruned { complete: false, .. })))
    }

    /// The event's data has ended as far as it can be known.
    fn is_whole(&self) -> bool {
        match self.data {
            Data::Json { error: true } => self.error.as_ref().is_some_and(|error| error.is_complete()),
            Data::Json { error: false } => self.document.is_complete(),
            Data::Open(matched) => matched == DONE.len(),
            Data::Plain | Data::None => false,
        }
    }

    fn error(&mut self) -> &mut Pruner {
        self.error.get_or_insert_with(|| Box::new(Pruner::keep_all()))
    }

    /// A byte of a field's name.
    fn field_name(&mut self, byte: u8, bytes: &mut &[u8]) {
        match byte {
            b':' => {
                self.line = Line::Colon(match &self.field[..self.field_len.min(MAX_FIELD)] {
                    _ if self.field_len > MAX_FIELD => Field::Other,
                    b"data" => Field::Data,
                    b"event" => Field::Event,
                    b"error" => Field::Error,
                    _ => Field::Other,
                });
            }
            // A field without a value means nothing to anyone here.
            b'\n' | b'\r' => self.line_end(byte),
            _ => {
                if let Some(slot) = self.field.get_mut(self.field_len) {
                    *slot = byte;
                }
                self.field_len = self.field_len.saturating_add(1);
            }
        }
        *bytes = &bytes[1..];
    }

    fn line_end(&mut self, byte: u8) {
        self.after_cr = byte == b'\r';
        self.line = Line::Start;
    }

    /// A part of the event's data.
    fn data(&mut self, mut bytes: &[u8], sink: &mut dyn TextSink) {
        while let Data::Open(matched) = self.data {
            let Some(&byte) = bytes.first() else { return };
            if byte.is_ascii_whitespace() && (matched == 0 || matched == DONE.len()) {
                bytes = &bytes[1..];
            } else if DONE.get(matched) == Some(&byte) {
                self.data = Data::Open(matched + 1);
                bytes = &bytes[1..];
            } else {
                self.settle(DONE.get(..matched).unwrap_or(DONE), byte, sink);
            }
        }
        match self.data {
            Data::Json { error: true } => {
                self.error().feed(bytes, sink);
            }
            Data::Json { error: false } => {
                self.document.feed(bytes, sink);
            }
            _ => {
                let room = MAX_PLAIN.saturating_sub(self.plain.len());
                self.plain.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        };
    }

    /// The data is not `[DONE]`: says what it is by its first byte and reads `seen`, which looked like it, again.
    fn settle(&mut self, seen: &[u8], next: u8, sink: &mut dyn TextSink) {
        self.data = match seen.first().unwrap_or(&next) {
            // A bare string is as good as text: Replicate streams words, quotes and all.
            b'{' | b'[' => Data::Json { error: self.name() == Some("error") },
            _ => Data::Plain,
        };
        if self.wrapped && self.data != Data::Plain {
            self.error().feed(b"{\"error\":", sink);
        }
        self.data(seen, sink);
    }

    /// The event ends here: gives it if there was one.
    fn dispatch(&mut self) -> Option<Item> {
        if std::mem::take(&mut self.wrapped) && matches!(self.data, Data::Json { .. }) {
            self.error().feed(b"}", &mut NoText);
        }
        let item = match std::mem::replace(&mut self.data, Data::None) {
            Data::None | Data::Open(0) => {
                self.name.clear();
                return None;
            }
            Data::Open(matched) if matched == DONE.len() => Item::Done,
            Data::Open(_) | Data::Plain => Item::Plain,
            Data::Json { error: true } => Item::Event(self.error().take()),
            Data::Json { error: false } => Item::Event(self.document.take()),
        };
        self.name_used = true;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Take;
    use super::super::random::Random;
    use super::*;
    use crate::call::TextSample;

    static TABLE: [Interest; 3] = [
        Interest { path: "n", take: Take::Keep },
        Interest { path: "text", take: Take::Text },
        Interest { path: "error", take: Take::Keep },
    ];

    /// Every item as (name, value).
    fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(String, Value)>, TextSample) {
        let mut sse = Sse::new(&TABLE);
        let mut sample = TextSample::default();
        let mut items = Vec::new();
        let show = |sse: &Sse, item: Item| {
            let value = match item {
                Item::Event(pruned) => match pruned.unreadable {
                    Some(why) => json!([why, pruned.value]),
                    None => Value::from(&pruned.value),
                },
                Item::Bare(pruned) => json!({ "bare": pruned.value, "whole": pruned.complete }),
                Item::Done => json!("DONE"),
                Item::Plain => String::from_utf8_lossy(sse.plain()).into(),
            };
            (sse.name().unwrap_or("-").to_owned(), value)
        };
        for mut piece in pieces {
            while let Some(item) = sse.next(&mut piece, &mut sample) {
                items.push(show(&sse, item));
            }
            assert!(piece.is_empty());
        }
        if let Some(item) = sse.finish() {
            items.push(show(&sse, item));
        }
        (items, sample)
    }

    /// Runs `text` whole, cut at every byte, in single bytes and cut at random; all must agree.
    fn items(text: &str) -> Vec<(String, Value)> {
        let (expected, expected_text) = run([text.as_bytes()]);
        for at in 0..text.len() {
            let (first, second) = text.as_bytes().split_at(at);
            let (cut, cut_text) = run([first, second]);
            assert_eq!((&cut, cut_text.kept()), (&expected, expected_text.kept()), "cut at {at}");
        }
        assert_eq!(run(text.as_bytes().chunks(1)).0, expected);
        let mut random = Random(text.len() as u64);
        for _ in 0..20 {
            assert_eq!(run(random.cut(text.as_bytes())).0, expected);
        }
        expected
    }

    fn event(name: &str, value: Value) -> (String, Value) {
        (name.to_owned(), value)
    }

    #[test]
    fn reads_the_standard() {
        let text = "\u{feff}: comment\nid: 7\nretry: 100\nevent: delta\ndata: {\"n\":1,\ndata: \"text\":\ndata:\"hi\"}\n\n\
            data:{\"n\":2}\nevent:late\n\nevent: nothing\n\ndata\n\ndata: {\"n\":3}\n\n\n\ndata: [DONE]\n\n";
        let expected = vec![
            event("delta", json!({"n":1,"text":2})),
            event("late", json!({"n":2})),
            event("-", json!({"n":3})),
            event("-", json!("DONE")),
        ];
        assert_eq!(items(text), expected);
        assert_eq!(items(&text.replace('\n', "\r\n")), expected);
        assert_eq!(items(&text.replace('\n', "\r")), expected);
    }

    #[test]
    fn data_that_only_begins_like_done() {
        assert_eq!(items("data: [DO\n\n"), vec![event("-", json!(""))]);
        let failed = json!(["decode_error", []]);
        assert_eq!(items("data: [DONE}\n\ndata:  [DONE]  \n\n"), vec![event("-", failed), event("-", json!("DONE"))]);
        assert_eq!(items("data: [DONE]x\n\n"), vec![event("-", json!([]))], "an array of something skipped");
        assert_eq!(items("data: [1]\n\n"), vec![event("-", json!([]))]);
        assert_eq!(
            items("data: [DONE]\ndata: {\"n\":1}\n\n"),
            vec![event("-", json!("DONE")), event("-", json!({"n":1}))]
        );
    }

    #[test]
    fn documents_without_an_empty_line_between() {
        let expected = vec![event("-", json!({"n":1})), event("-", json!({"n":2}))];
        assert_eq!(items("data: {\"n\":1}\ndata: {\"n\":2}\n"), expected);
    }

    #[test]
    fn the_last_event_counts_only_when_it_is_whole() {
        assert_eq!(items("data: {\"n\":1}\n\ndata: {\"n\":2}").len(), 2);
        assert_eq!(items("data: {\"n\":1}\n\ndata: {\"n\":2").len(), 1);
        assert_eq!(items("data: {\"n\":1}\n\ndata: [DONE]").len(), 2);
        assert_eq!(items("data: {\"n\":1}\n\ndata: [DONE").len(), 1);
        assert_eq!(items("data: {\"n\":1}\n\n{\"n\":2").len(), 1);
    }

    #[test]
    fn errors_in_every_form() {
        assert_eq!(
            items("event: error\ndata: {\"type\":\"error\",\"x\":{\"y\":1}}\n\n"),
            vec![event("error", json!({"type":"error","x":{"y":1}}))]
        );
        assert_eq!(
            items("data: {\"n\":1}\n\nerror: {\"code\":500,\"message\":\"decode failed\"}\n\n"),
            vec![event("-", json!({"n":1})), event("error", json!({"error":{"code":500,"message":"decode failed"}}))]
        );
        assert_eq!(items("error: {\"code\":5}"), vec![event("error", json!({"error":{"code":5}}))]);
        assert_eq!(items("error: {\"code\":5"), vec![]);
        assert_eq!(items("error: out of memory\n"), vec![event("error", json!("out of memory"))]);
        assert_eq!(items("event: error\ndata: upstream gone\n\n"), vec![event("error", json!("upstream gone"))]);
        assert_eq!(items("event: error\ndata: upstream gone"), vec![event("error", json!("upstream gone"))]);
        let tail = "data: {\"n\":1}\r\n\r\n[{\n  \"error\": {\n    \"code\": 503\n  }\n}\n]\n";
        let bare = json!({"bare":{"error":{"code":503}},"whole":true});
        assert_eq!(items(tail), vec![event("-", json!({"n":1})), event("-", bare.clone())]);
        assert_eq!(
            items("data: {\"n\":1}\n{\"error\":{\"code\":503}}"),
            vec![event("-", json!({"n":1})), event("-", bare)],
            "no empty line before it"
        );
    }

    #[test]
    fn json_lines_mixed_in() {
        let expected = vec![
            event("-", json!({"bare":{"n":1},"whole":true})),
            event("-", json!({"bare":{},"whole":false})),
            event("-", json!({"bare":{"n":2},"whole":true})),
            event("-", json!({"n":3})),
        ];
        assert_eq!(items("{\"n\":1}\n{\"n\" no}\n{\"n\":2}\ndata: {\"n\":3}\n\n"), expected);
    }

    #[test]
    fn a_huge_event_is_not_stored() {
        let mut sse = Sse::new(&TABLE);
        let mut sample = TextSample::default();
        let block = "x".repeat(64 * 1024);
        let mut parts = vec!["event: big\ndata: {\"skip\":\""];
        parts.extend([block.as_str()].repeat(400));
        parts.extend(["\",\"text\":\""]);
        parts.extend([block.as_str()].repeat(400));
        parts.extend(["\",\"n\":1}\n\n"]);
        let mut got = Vec::new();
        for part in parts {
            let mut bytes = part.as_bytes();
            while let Some(Item::Event(pruned)) = sse.next(&mut bytes, &mut sample) {
                got.push(pruned.value);
            }
        }
        assert_eq!(got, vec![json!({"text":400 * 64 * 1024,"n":1})]);
        assert_eq!(sample.kept().len(), TextSample::CAPACITY);
        assert!(sse.name.capacity() + sse.plain.capacity() < 1024);
    }

    #[test]
    fn names_and_plain_data_are_cut() {
        let long = "y".repeat(100_000);
        let (items, _) = run([format!("event: {long}\ndata: {long}\n\n{long}: x\n\ndata: {{}}\n\n").as_bytes()]);
        assert_eq!((items[0].0.len(), items[0].1.as_str().map(str::len)), (MAX_NAME, Some(MAX_PLAIN)));
        assert_eq!(items[1], event("-", json!({})));
    }

    #[test]
    fn any_changed_byte_is_survived_and_cuts_agree() {
        let text = "event: a\ndata: {\"n\":1,\"text\":\"x\"}\n\n: c\r\n{\"n\":2}\nerror: {\"c\":1}\ndata: [DONE]\n\n";
        for at in 0..text.len() {
            for byte in *b"\n\r:{}[]\"\\ de\xff" {
                let mut changed = text.as_bytes().to_vec();
                changed[at] = byte;
                let whole = run([&changed[..]]).0;
                assert_eq!(run(changed.chunks(1)).0, whole, "byte {at} = {byte}");
            }
        }
    }
}
