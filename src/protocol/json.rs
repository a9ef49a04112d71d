//! Push parser for JSON that keeps the few parts a caller is interested in and skips the rest without storing it.
//!
//! In: bytes cut anywhere and a table of [`Interest`]s. Out: one small [`Value`] a document ([`Pruned`]), text on the way.
//!
//! How a document is pruned:
//! - Of two paths that match, the deeper decides for what it names: below `Keep`, `Text` and `Presence` still hold.
//! - Objects and arrays on the way to an interest stay, even empty. Inside arrays those without anything of interest are
//!   left out, with `null` in their place when a later element stays ([`MAX_PLACES`] at most).
//! - `Text` on an object or array only lets deeper paths match. `Presence` on one with deeper paths gives what those
//!   kept, or `true`. Below `DeepText` nothing is kept; a `Presence` there names a part that is not text.
//! - `null` under `Text`, `DeepText` and `Keep` stays `null`; under `Presence` and elsewhere it is left out.
//!
//! Bounds: [`MAX_KEPT`] a document, [`MAX_STRING`] a kept string, [`MAX_DEPTH`] for kept parts (skipped parts may nest
//! without end in no memory). It never fails on foreign bytes: a document that cannot be read gives what was whole
//! among its top-level members and says so. Lenient where nothing depends on it: skipped parts are only scanned for
//! strings and brackets, trailing commas pass, numbers JSON does not have (`NaN`) become `null`.

mod paths;
#[cfg(any(test, fuzzing))]
pub(crate) mod reference;
mod scan;
mod shape;
#[cfg(test)]
mod tests;
mod text;
mod value;

use std::sync::Arc;

use compact_str::CompactString;
use memchr::memchr2;

use self::paths::{NOWHERE, Paths, ROOT};
use self::scan::{end_of_scalar, plain_bytes, plain_string, structural};
pub(super) use self::shape::Shape;
pub use self::text::{NoText, TextSink};
use self::text::{TextOnly, Unescape};
pub use self::value::{Members, Value};
use super::{Interest, Take};
use crate::call::Unreadable;

/// Most that is kept of one document, bytes, each value counted as [`VALUE_COST`] and its strings. A usage object
/// has under 2 KiB; what does not fit is left out and the document marked [`Unreadable::EventLimit`].
pub const MAX_KEPT: usize = 64 * 1024;
/// Part of [`MAX_KEPT`] that only values outside of arrays may use: usage stands after long lists and must find room.
const RESERVED: usize = 16 * 1024;
/// What any kept value counts against [`MAX_KEPT`].
const VALUE_COST: usize = 32;
/// Longest string under [`Take::Keep`], bytes; longer ones are cut at a character.
pub const MAX_STRING: usize = 1024;
/// The same in documents that are known to be errors: their messages are what explains a call.
const MAX_ERROR_STRING: usize = 4 * 1024;
/// Longest object key, bytes; no protocol has one of a quarter of this. Longer ones are cut, and match nothing.
pub const MAX_KEY: usize = 256;
/// Deepest kept or deep-read part; what is deeper is skipped.
pub const MAX_DEPTH: usize = 96;
/// Elements whose place is held by `null` when something behind them is kept: choices and outputs are told apart by
/// place where they have no index, and there are at most 128 of them.
const MAX_PLACES: usize = 256;
/// Longest number or word.
const MAX_SCALAR: usize = 128;

/// What was kept of one document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pruned {
    /// The kept parts; `Null` when the document is no object or array, or could not be read at all.
    pub value: Value,
    /// The document ended where JSON ends.
    pub complete: bool,
    /// [`Unreadable::DecodeError`]: no JSON (from somewhere on). [`Unreadable::EventLimit`]: not all of it fitted.
    pub unreadable: Option<Unreadable>,
}

/// Push parser and filter; see the file's head.
#[derive(Debug)]
pub struct Pruner {
    paths: Arc<Paths>,
    max_string: usize,
    state: State,
    stack: Vec<Frame>,
    /// Where the value that comes next stands.
    slot: Slot,
    /// Key of that value, when it may be kept.
    key: CompactString,
    /// Key or kept string that is being read.
    text: String,
    /// Its length so far, `text` being cut.
    text_len: usize,
    unescape: Unescape,
    text_only: TextOnly,
    /// Bytes of the text value that is being read, or of all strings below a `DeepText`.
    text_bytes: u64,
    scalar: Vec<u8>,
    root: Value,
    kept: usize,
    /// Open arrays in `stack`.
    arrays: usize,
    limit_hit: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// A value, or the end of an array.
    Value,
    /// A key, or the end of an object.
    Key,
    Colon,
    /// A comma, or the end of the object or array.
    Comma,
    Text(Role),
    Scalar {
        keep: bool,
    },
    /// Inside of a skipped string, object or array; `depth` counts the open brackets.
    Skip {
        depth: u64,
        string: bool,
        escaped: bool,
    },
    Done,
    Failed,
}

/// What becomes of the string that is being read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Key,
    Keep,
    Sample,
    Deep,
}

/// Where a value stands.
#[derive(Clone, Copy, Debug)]
struct Slot {
    node: u16,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// Only what interests name is of interest.
    Path,
    /// Everything is kept unless an interest says otherwise.
    Keep,
    /// Every string is text.
    Deep,
    /// Nothing is of interest.
    Skip,
}

/// An open object or array.
#[derive(Debug)]
struct Frame {
    slot: Slot,
    key: CompactString,
    kind: Kind,
    /// `true` stands in for it when nothing was kept inside.
    presence: bool,
}

#[derive(Debug)]
enum Kind {
    Object(Members),
    /// What was kept, and how many elements have begun.
    Array(Vec<Value>, usize),
}

impl Pruner {
    /// A pruner for `interests`.
    pub fn new(interests: &'static [Interest]) -> Self {
        Self::with_paths(Paths::of(interests), MAX_STRING)
    }

    /// A pruner that keeps everything within its bounds: for documents that are known to be errors.
    pub fn keep_all() -> Self {
        static ALL: [Interest; 1] = [Interest { path: "", take: Take::Keep }];
        Self::with_paths(Paths::of(&ALL), MAX_ERROR_STRING)
    }

    fn with_paths(paths: Arc<Paths>, max_string: usize) -> Self {
        Self {
            paths,
            max_string,
            state: State::Value,
            stack: Vec::new(),
            slot: Slot { node: ROOT, mode: Mode::Path },
            key: CompactString::default(),
            text: String::new(),
            text_len: 0,
            unescape: Unescape::default(),
            text_only: TextOnly::default(),
            text_bytes: 0,
            scalar: Vec::new(),
            root: Value::Null,
            kept: 0,
            arrays: 0,
            limit_hit: false,
        }
    }

    /// Reads on and returns how many bytes it took; text goes to `sink`.
    ///
    /// All of them while the document goes on; it stops behind the document's end, and where it is no JSON any more.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut dyn TextSink) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::Skip { .. } => at += self.skip(&bytes[at..]),
                State::Text(role) => at += self.text(role, &bytes[at..], sink),
                State::Scalar { keep } => at += self.scalar(keep, &bytes[at..]),
                State::Done | State::Failed => return at,
                _ if matches!(bytes[at], b' ' | b'\n' | b'\r' | b'\t') => at += 1,
                State::Value => at += self.value(&bytes[at..], sink),
                State::Key => match bytes[at] {
                    b'"' => at = self.members(bytes, at, sink),
                    b'}' => {
                        self.close(b'}');
                        at += 1;
                    }
                    b',' => at += 1,
                    _ => self.state = State::Failed,
                },
                State::Colon => {
                    self.state = if bytes[at] == b':' { State::Value } else { State::Failed };
                    at += 1;
                }
                State::Comma => {
                    match bytes[at] {
                        b',' => self.next_member(),
                        close @ (b'}' | b']') => self.close(close),
                        _ => self.state = State::Failed,
                    }
                    at += 1;
                }
            }
        }
        at
    }

    /// The [`Shape`] of an event whose document this pruner has read.
    pub(super) fn shape_of(&self, event: &[u8]) -> Option<Shape> {
        Shape::of(&self.paths, event)
    }

    /// The document has ended; more bytes belong to something else.
    pub fn is_complete(&self) -> bool {
        self.state == State::Done
    }

    /// These bytes are no JSON.
    pub fn has_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Anything but white space has come.
    pub fn has_started(&self) -> bool {
        self.state != State::Value || !self.stack.is_empty()
    }

    /// Ends the document here and gives what was kept; the pruner is ready for the next one.
    ///
    /// Of a document that broke off, its whole top-level members are given.
    pub fn take(&mut self) -> Pruned {
        if let (State::Scalar { keep }, true) = (self.state, self.stack.is_empty()) {
            self.end_scalar(keep);
        }
        let complete = self.state == State::Done;
        let unreadable = match self.state {
            State::Failed => Some(Unreadable::DecodeError),
            _ if self.limit_hit => Some(Unreadable::EventLimit),
            _ => None,
        };
        self.stack.truncate(1);
        let value = match self.stack.pop() {
            Some(Frame { kind: Kind::Object(map), .. }) => Value::Object(map),
            Some(Frame { kind: Kind::Array(list, _), .. }) => Value::Array(list),
            None => std::mem::take(&mut self.root),
        };
        self.reset();
        Pruned { value, complete, unreadable }
    }

    fn reset(&mut self) {
        self.state = State::Value;
        self.stack.clear();
        self.slot = Slot { node: ROOT, mode: Mode::Path };
        self.key.clear();
        self.text.clear();
        self.text_len = 0;
        self.unescape = Unescape::default();
        self.text_only = TextOnly::default();
        self.text_bytes = 0;
        self.scalar.clear();
        self.root = Value::Null;
        self.kept = 0;
        self.arrays = 0;
        self.limit_hit = false;
    }

    /// What is to be done with the value at `slot`.
    fn take_at(&self, slot: Slot) -> Option<Take> {
        match slot.mode {
            Mode::Path => self.paths.take(slot.node),
            Mode::Keep => self.paths.take(slot.node).or(Some(Take::Keep)),
            Mode::Deep => Some(Take::DeepText),
            Mode::Skip => None,
        }
    }

    /// Where a member of `parent` stands that its key or place leads to `node`.
    fn slot_below(&self, parent: Mode, node: u16) -> Slot {
        let mode = match parent {
            Mode::Path if node == NOWHERE => Mode::Skip,
            Mode::Deep if self.paths.take(node) == Some(Take::Presence) => Mode::Skip,
            mode => mode,
        };
        Slot { node, mode }
    }

    /// After a comma or an opening bracket.
    fn next_member(&mut self) {
        match self.stack.last_mut() {
            Some(Frame { slot, kind: Kind::Array(_, begun), .. }) => {
                *begun += 1;
                let slot = *slot;
                self.slot = self.slot_below(slot.mode, self.paths.element(slot.node));
                self.key.clear();
                self.state = State::Value;
            }
            Some(_) => self.state = State::Key,
            None => self.state = State::Failed,
        }
    }

    /// After a value.
    fn after_value(&mut self) {
        self.state = if self.stack.is_empty() { State::Done } else { State::Comma };
    }

    /// The first byte of a value. Returns the bytes taken.
    fn value(&mut self, bytes: &[u8], sink: &mut dyn TextSink) -> usize {
        let take = self.take_at(self.slot);
        match bytes[0] {
            b'"' => {
                let role = match take {
                    Some(Take::Keep) => Role::Keep,
                    Some(Take::Text) => Role::Sample,
                    Some(Take::DeepText) => Role::Deep,
                    Some(Take::Presence) | None => {
                        if take.is_some() {
                            self.put_here(Value::Bool(true));
                        }
                        self.state = State::Skip { depth: 0, string: true, escaped: false };
                        return 1 + self.skip(&bytes[1..]);
                    }
                };
                if self.slot.mode != Mode::Deep {
                    self.text_bytes = 0;
                }
                self.state = State::Text(role);
                // Most strings are short, whole and without escapes.
                if role != Role::Deep
                    && let Some(text) = plain_string(&bytes[1..])
                {
                    match role {
                        Role::Keep => self.put_here(cut(text, self.max_string).into()),
                        _ => {
                            sink.text(text);
                            self.put_here(Value::from(text.len()));
                        }
                    }
                    self.after_value();
                    return text.len() + 2;
                }
                1 + self.text(role, &bytes[1..], sink)
            }
            b'{' | b'[' => {
                self.open(bytes[0] == b'[', take);
                1
            }
            b']' if matches!(self.stack.last(), Some(Frame { kind: Kind::Array(..), .. })) => {
                self.close(b']');
                1
            }
            b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' if !self.stack.is_empty() || is_word(bytes[0]) => {
                let keep = match take {
                    Some(Take::Presence) => {
                        if bytes[0] != b'n' {
                            self.put_here(Value::Bool(true));
                        }
                        false
                    }
                    // A bare number below `DeepText` is no text.
                    Some(_) => self.slot.mode != Mode::Deep,
                    None => false,
                };
                self.state = State::Scalar { keep };
                self.scalar(keep, bytes)
            }
            _ => {
                self.state = State::Failed;
                0
            }
        }
    }

    /// An opening bracket.
    fn open(&mut self, array: bool, take: Option<Take>) {
        let is_root = self.stack.is_empty();
        let leads_on = self.paths.leads_on(self.slot.node);
        let mode = match (self.slot.mode, take) {
            (Mode::Deep, _) => Mode::Deep,
            (Mode::Skip, _) => Mode::Skip,
            (_, Some(Take::DeepText)) => Mode::Deep,
            (_, Some(Take::Keep)) => Mode::Keep,
            _ if leads_on || is_root => Mode::Path,
            (_, Some(Take::Presence)) => {
                self.put_here(Value::Bool(true));
                Mode::Skip
            }
            _ => Mode::Skip,
        };
        if mode == Mode::Skip || self.stack.len() >= MAX_DEPTH {
            self.limit_hit |= mode != Mode::Skip && mode != Mode::Path;
            self.state = State::Skip { depth: 1, string: false, escaped: false };
            return;
        }
        if mode == Mode::Deep && self.slot.mode != Mode::Deep {
            self.text_bytes = 0;
        }
        let kind = match array {
            true => Kind::Array(Vec::new(), 0),
            // Most documents keep four to eight members: room for them at once.
            false => Kind::Object(Members::with_capacity(if is_root { 8 } else { 0 })),
        };
        self.arrays += usize::from(array);
        self.stack.push(Frame {
            slot: Slot { node: self.slot.node, mode },
            key: std::mem::take(&mut self.key),
            kind,
            presence: take == Some(Take::Presence),
        });
        self.next_member();
    }

    /// A closing bracket.
    fn close(&mut self, bracket: u8) {
        let Some(frame) = self.stack.pop() else {
            self.state = State::Failed;
            return;
        };
        let is_root = self.stack.is_empty();
        let (value, empty) = match frame.kind {
            Kind::Object(map) if bracket == b'}' => {
                let empty = map.is_empty();
                (Value::Object(map), empty)
            }
            Kind::Array(list, _) if bracket == b']' => {
                self.arrays -= 1;
                let empty = list.is_empty();
                (Value::Array(list), empty)
            }
            kind => {
                // The wrong bracket: the document is read no further, but what was whole in it stays.
                self.stack.push(Frame { kind, ..frame });
                self.state = State::Failed;
                return;
            }
        };
        match frame.slot.mode {
            Mode::Deep if self.stack.last().is_none_or(|parent| parent.slot.mode != Mode::Deep) => {
                self.put(frame.key, Value::from(self.text_bytes));
            }
            Mode::Deep => {}
            Mode::Keep => self.put(frame.key, value),
            _ if frame.presence && empty => self.put(frame.key, Value::Bool(true)),
            _ if is_root || !empty || self.arrays == 0 => self.put(frame.key, value),
            _ => {}
        }
        self.after_value();
    }

    /// Keeps `value` under the key that was read last.
    fn put_here(&mut self, value: Value) {
        let key = std::mem::take(&mut self.key);
        self.put(key, value);
    }

    /// Keeps `value` if it fits.
    fn put(&mut self, key: CompactString, value: Value) {
        let text = match &value {
            Value::String(text) => text.len(),
            _ => 0,
        };
        self.kept += VALUE_COST + key.len() + text;
        let limit = if self.arrays > 0 { MAX_KEPT - RESERVED } else { MAX_KEPT };
        match self.stack.last_mut() {
            None => self.root = value,
            Some(_) if self.kept > limit => {
                self.kept -= VALUE_COST + key.len() + text;
                self.limit_hit = true;
            }
            Some(Frame { kind: Kind::Object(map), .. }) => {
                map.insert(key, value);
            }
            Some(Frame { kind: Kind::Array(list, begun), .. }) => {
                while list.len() + 1 < *begun && list.len() < MAX_PLACES {
                    self.kept += VALUE_COST;
                    list.push(Value::Null);
                }
                list.push(value);
            }
        }
    }

    /// Members of an object, from the opening quote of a key at `at`, as long as they are as most are: the whole of one
    /// after the other is read without a turn through the states. Returns how far it came; the state says where that is.
    fn members(&mut self, bytes: &[u8], mut at: usize, sink: &mut dyn TextSink) -> usize {
        loop {
            at += 1;
            match plain_bytes(&bytes[at..]) {
                Some(key) if key.len() <= MAX_KEY && self.end_key(key) => at += key.len() + 1,
                _ => {
                    self.text.clear();
                    self.state = State::Text(Role::Key);
                    return at;
                }
            }
            if bytes.get(at) != Some(&b':') {
                return at;
            }
            at += if bytes.get(at + 1) == Some(&b' ') { 2 } else { 1 };
            self.state = State::Value;
            match bytes.get(at) {
                None | Some(b' ' | b'\n' | b'\r' | b'\t') => return at,
                Some(_) => at += self.value(&bytes[at..], sink),
            }
            if self.state != State::Comma || bytes.get(at) != Some(&b',') {
                return at;
            }
            at += if bytes.get(at + 1) == Some(&b' ') { 2 } else { 1 };
            self.state = State::Key;
            if bytes.get(at) != Some(&b'"') {
                return at;
            }
        }
    }

    /// The key has been read; false, and nothing done, if it would be kept and is no UTF-8.
    fn end_key(&mut self, key: &[u8]) -> bool {
        let Some(frame) = self.stack.last() else { return false };
        let parent = frame.slot;
        let (node, name) = match key.len() > MAX_KEY {
            true => (NOWHERE, None),
            false => self.paths.member(parent.node, key),
        };
        let slot = self.slot_below(parent.mode, node);
        if matches!(slot.mode, Mode::Path | Mode::Keep) {
            self.key = match name {
                Some(name) => name.clone(),
                None => match std::str::from_utf8(key) {
                    Ok(key) => cut(key, MAX_KEY).into(),
                    Err(_) => return false,
                },
            };
        } else {
            self.key.clear();
        }
        self.slot = slot;
        self.state = State::Colon;
        true
    }

    /// On inside a string. Returns the bytes taken.
    fn text(&mut self, role: Role, bytes: &[u8], sink: &mut dyn TextSink) -> usize {
        let Self { unescape, text, text_len, text_only, text_bytes, max_string, .. } = self;
        let (taken, ended) = match role {
            // One byte more than allowed is kept, so that the end can tell that it was too long.
            Role::Key => unescape.feed(bytes, &mut |piece| push_cut(text, text_len, piece, MAX_KEY + 1)),
            Role::Keep => unescape.feed(bytes, &mut |piece| push_cut(text, text_len, piece, *max_string)),
            Role::Sample => unescape.feed(bytes, &mut |piece| {
                *text_bytes += piece.len() as u64;
                sink.text(piece);
            }),
            Role::Deep => unescape.feed(bytes, &mut |piece| text_only.push(piece, sink)),
        };
        if ended {
            self.text_len = 0;
            match role {
                Role::Key => {
                    let key = std::mem::take(&mut self.text);
                    self.end_key(key.as_bytes());
                    self.text = key;
                    self.text.clear();
                    return taken;
                }
                Role::Keep => {
                    let value = self.text.as_str().into();
                    self.text.clear();
                    self.put_here(value);
                }
                Role::Sample => self.put_here(Value::from(self.text_bytes)),
                Role::Deep => {
                    self.text_bytes += self.text_only.end(sink);
                    if self.slot.mode != Mode::Deep {
                        self.put_here(Value::from(self.text_bytes));
                    }
                }
            }
            self.after_value();
        }
        taken
    }

    /// On inside a number or word. Returns the bytes taken.
    fn scalar(&mut self, keep: bool, bytes: &[u8]) -> usize {
        let end = end_of_scalar(bytes).unwrap_or(bytes.len());
        if keep && self.scalar.is_empty() && end < bytes.len() {
            self.put_here(scalar_value(&bytes[..end]));
            self.after_value();
            return end;
        }
        if keep {
            let room = (MAX_SCALAR + 1).saturating_sub(self.scalar.len());
            self.scalar.extend_from_slice(&bytes[..end.min(room)]);
        }
        if end < bytes.len() {
            self.end_scalar(keep);
        }
        end
    }

    fn end_scalar(&mut self, keep: bool) {
        if keep {
            let value = scalar_value(&self.scalar);
            self.scalar.clear();
            self.put_here(value);
        }
        self.after_value();
    }

    /// On inside something skipped. Returns the bytes taken.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        let State::Skip { mut depth, mut string, mut escaped } = self.state else { return 0 };
        let mut at = 0;
        loop {
            if string {
                if escaped && at < bytes.len() {
                    at += 1;
                    escaped = false;
                }
                match bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
                    Some(found) if bytes[at + found] == b'"' => {
                        at += found + 1;
                        string = false;
                    }
                    Some(found) => {
                        at += found + 1;
                        escaped = true;
                        if at < bytes.len() {
                            continue;
                        }
                    }
                    None => at = bytes.len(),
                }
            }
            if !string {
                if depth == 0 {
                    self.after_value();
                    return at;
                }
                match structural(&bytes[at..]) {
                    Some(found) => {
                        at += found + 1;
                        match bytes[at - 1] {
                            b'"' => string = true,
                            b'{' | b'[' => depth += 1,
                            _ => depth -= 1,
                        }
                    }
                    None => at = bytes.len(),
                }
                if depth == 0 {
                    continue;
                }
            }
            if at >= bytes.len() {
                self.state = State::Skip { depth, string, escaped };
                return at;
            }
        }
    }
}

/// A document that is no object, array or string starts with one of these; plain text mostly does not.
fn is_word(byte: u8) -> bool {
    matches!(byte, b'-' | b'0'..=b'9' | b't' | b'f' | b'n' | b'N' | b'I')
}

/// A number or word as a value; `null` for what JSON does not have.
fn scalar_value(bytes: &[u8]) -> Value {
    match bytes {
        b"true" => Value::Bool(true),
        b"false" => Value::Bool(false),
        b"null" => Value::Null,
        // A whole number that no 64 bits are too few for: all that most documents have.
        [b'1'..=b'9', rest @ ..] if rest.len() < 18 && rest.iter().all(u8::is_ascii_digit) => {
            Value::from(bytes.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0')))
        }
        b"0" => Value::from(0_u64),
        _ if bytes.len() > MAX_SCALAR => Value::Null,
        _ => serde_json::from_slice(bytes).map_or(Value::Null, Value::Number),
    }
}

/// Appends as much of `piece` as keeps `text` within `max` bytes and whole characters; `len` counts all of it.
fn push_cut(text: &mut String, len: &mut usize, piece: &str, max: usize) {
    if text.len() == *len {
        text.push_str(cut(piece, max - text.len()));
    }
    *len += piece.len();
}

/// The longest beginning of `text` of at most `max` bytes.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
