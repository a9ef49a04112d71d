//! Reads one answer's body, whatever its framing: decoded bytes in, one [`Reply`] out.
//!
//! The framing is what the first bytes show, with the content type as a hint only: recorded answers have server-sent
//! events as `application/json` and without any type, JSON arrays sent piecewise, errors as `application/octet-stream`,
//! and web pages where an API should be. Documents are pruned as they pass and handed to the protocol's [`Family`].
//!
//! Bounds: one pruner's (two or three in streams), and [`MAX_ERROR`] of an error answer. Never fails: what cannot be read
//! is marked in [`Reply::unreadable`] and the rest skipped.

#[cfg(test)]
mod tests;

use serde_json::json;

use super::eventstream::{EventStream, Message};
use super::json::{Pruned, Pruner};
use super::sse::{Item, Sse};
use super::{Family, Seen};
use crate::call::{ErrorFacts, Protocol, Reply, Unreadable};

/// Most kept of an error, bytes: the promise of [`ErrorFacts`].
pub const MAX_ERROR: usize = 16 * 1024;

/// What is known of an answer before its body.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHint<'a> {
    /// HTTP status.
    pub status: u16,
    /// `content-type`, with or without parameters.
    pub content_type: Option<&'a str>,
    /// The format that was asked for.
    pub protocol: Protocol,
}

/// Reader of one answer's body. Feed it the body with its content encoding undone.
pub struct Decoder {
    framing: Framing,
    kind: Kind,
    /// Beginning of a body of an error status.
    error: Vec<u8>,
    reading: Reading,
}

/// What both the bytes and the documents need.
struct Reading {
    family: Box<dyn Family>,
    protocol: Protocol,
    is_error: bool,
    reply: Reply,
    terminal: bool,
    /// The last document, coming again with another text, would change nothing but the text and the count of events.
    may_repeat: bool,
}

/// What the content type promises.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Json,
    /// One JSON document a line.
    Lines,
    Sse,
    EventStream,
    Html,
    /// Sound and pictures.
    Media,
    Other,
    Unknown,
}

#[derive(Debug)]
enum Framing {
    /// Not known yet; the first bytes that are no white space.
    Sniff(Vec<u8>),
    Documents(Box<Documents>),
    Sse(Box<Sse>),
    EventStream(Box<EventStream>),
    /// Nothing that could be read.
    Skip,
}

/// JSON documents: one, several one after another, or the elements of an array.
#[derive(Debug)]
struct Documents {
    pruner: Pruner,
    /// The first document, as long as it is not known whether others follow.
    first: Option<Pruned>,
    shape: Shape,
    /// Documents that have ended.
    count: u64,
    /// No JSON from here on, or to the end of this line in [`Shape::Lines`].
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    /// One document so far.
    Single,
    /// An opening bracket: of a document, or of an array of them.
    Bracket,
    /// Elements of an array, each read as a document.
    Array { closed: bool },
    /// A stream of documents.
    Lines,
}

impl Decoder {
    /// A decoder for one answer.
    pub fn new(family: Box<dyn Family>, hint: ReplyHint<'_>) -> Self {
        let kind = Kind::of(hint.content_type);
        Self {
            framing: if kind == Kind::Media { Framing::Skip } else { Framing::Sniff(Vec::new()) },
            kind,
            error: Vec::new(),
            reading: Reading {
                family,
                protocol: hint.protocol,
                is_error: hint.status >= 400,
                reply: Reply::default(),
                terminal: false,
                may_repeat: false,
            },
        }
    }

    /// Reads on. Tells what ended in these bytes: generated output, the terminal event.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Seen {
        if self.reading.is_error {
            let room = MAX_ERROR.saturating_sub(self.error.len());
            self.error.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        if let Framing::Sniff(head) = &mut self.framing {
            if head.is_empty() {
                let is_space = |b: &u8| b.is_ascii_whitespace() || matches!(b, 0xEF | 0xBB | 0xBF);
                let start = bytes.iter().position(|b| !is_space(b)).unwrap_or(bytes.len());
                bytes = &bytes[start..];
            }
            // No more than decides is held back: the rest of these bytes is read from where it is.
            let held = head.len();
            let more = bytes.len().min(LONGEST_HEAD.saturating_sub(held));
            head.extend_from_slice(&bytes[..more]);
            let Some(framing) = self.reading.sniff(head, self.kind) else { return Seen::default() };
            let head = std::mem::take(head);
            self.framing = framing;
            let seen = self.frames(&head[..held]);
            return seen.or(self.frames(bytes));
        }
        self.frames(bytes)
    }

    fn frames(&mut self, mut bytes: &[u8]) -> Seen {
        let mut seen = Seen::default();
        let reading = &mut self.reading;
        match &mut self.framing {
            Framing::Documents(documents) => seen = documents.feed(bytes, reading),
            Framing::Sse(sse) => loop {
                while sse.again(&mut bytes, &mut reading.reply.output) {
                    reading.reply.output_events += 1;
                    seen.output = true;
                }
                let (from, whole) = (bytes, sse.is_between());
                let Some(item) = sse.next(&mut bytes, &mut reading.reply.output) else { break };
                seen = seen.or(reading.sse(item, sse));
                let again = std::mem::take(&mut reading.may_repeat) && whole;
                sse.learn(again.then(|| &from[..from.len() - bytes.len()]));
            },
            Framing::EventStream(stream) => {
                while let Some(message) = stream.next(&mut bytes, &mut reading.reply.output) {
                    seen = seen.or(reading.message(message, stream));
                }
                if stream.is_lost() {
                    reading.note(Unreadable::DecodeError);
                }
            }
            Framing::Sniff(_) | Framing::Skip => {}
        }
        seen
    }

    /// What is understood so far.
    pub fn reply(&self) -> &Reply {
        &self.reading.reply
    }

    /// The body ended. `clean_end`: as HTTP says that it should, all of it arrived.
    pub fn finish(mut self, clean_end: bool) -> Reply {
        let reading = &mut self.reading;
        let mut whole = clean_end;
        let mut ended = None;
        match &mut self.framing {
            Framing::Documents(documents) => {
                whole &= documents.finish(clean_end, reading);
                if let Shape::Array { closed } = documents.shape {
                    ended = Some(closed);
                }
            }
            Framing::Sse(sse) => {
                reading.reply.stream = true;
                if let Some(item) = sse.finish() {
                    reading.sse(item, sse);
                }
            }
            Framing::EventStream(stream) => {
                reading.reply.stream = true;
                whole &= stream.is_between();
            }
            // An empty stream is a stream: it lacks its end.
            Framing::Sniff(_) => {
                reading.reply.stream = matches!(self.kind, Kind::Sse | Kind::EventStream | Kind::Lines);
            }
            Framing::Skip => {}
        }
        reading.family.end(&mut reading.reply);
        let mut reply = std::mem::take(&mut reading.reply);
        reply.terminal = if reading.is_error || !reply.stream {
            whole
        } else {
            reading.terminal
                || ended.unwrap_or_else(|| match reading.protocol {
                    // Perplexity, Writer and Groq end some streams after the finish reason, without `[DONE]`.
                    Protocol::OpenaiChat | Protocol::OpenaiCompletions => {
                        whole
                            && (reply.finish_reasons.iter().any(|reason| !reason.is_empty())
                                || !reading.family.has_terminal_event())
                    }
                    _ => whole && !reading.family.has_terminal_event(),
                })
        };
        if reading.is_error {
            reply.unreadable = None;
            let body = std::mem::take(&mut self.error);
            reply.error = (!body.is_empty()).then_some(ErrorFacts { body, in_stream: false });
        }
        reply
    }
}

/// Longest beginning that is needed to tell the framing: the longest field name with its colon.
const LONGEST_HEAD: usize = 6;

impl Kind {
    fn of(content_type: Option<&str>) -> Self {
        let Some(content_type) = content_type else { return Kind::Unknown };
        let name = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match name.as_str() {
            "" => Kind::Unknown,
            "text/event-stream" => Kind::Sse,
            "application/vnd.amazon.eventstream" => Kind::EventStream,
            "text/html" | "application/xhtml+xml" => Kind::Html,
            // Cohere's v1 streams are `application/stream+json`.
            _ if ["ndjson", "jsonl", "jsonlines", "stream+json", "json-seq"].iter().any(|n| name.ends_with(n)) => {
                Kind::Lines
            }
            _ if name.ends_with("json") => Kind::Json,
            _ if ["audio/", "image/", "video/"].iter().any(|n| name.starts_with(n)) => Kind::Media,
            _ => Kind::Other,
        }
    }
}

impl Reading {
    /// The framing that a body beginning with `head` has; `None` when more is needed.
    fn sniff(&mut self, head: &[u8], kind: Kind) -> Option<Framing> {
        let interests = self.family.interests();
        let bedrock =
            matches!(self.protocol, Protocol::BedrockConverse | Protocol::BedrockInvoke | Protocol::BedrockAgent);
        let documents = || {
            let shape = if kind == Kind::Lines { Shape::Lines } else { Shape::Single };
            Framing::Documents(Box::new(Documents {
                pruner: Pruner::new(interests),
                first: None,
                shape,
                count: 0,
                lost: false,
            }))
        };
        Some(match (*head.first()?, kind) {
            (b'{' | b'[', _) => documents(),
            // The record separator of `application/json-seq`.
            (0x1E, Kind::Lines) => documents(),
            (b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n', Kind::Json | Kind::Lines) => documents(),
            // Bedrock's event streams also come without a type.
            (first, _) if kind == Kind::EventStream || first == 0 && bedrock => {
                let unwrap = self.protocol == Protocol::BedrockInvoke;
                Framing::EventStream(Box::new(EventStream::new(interests, unwrap)))
            }
            (_, Kind::Sse) => Framing::Sse(Box::new(Sse::new(interests))),
            _ => {
                let fields: [&[u8]; 6] = [b"data:", b"event:", b"error:", b"retry:", b"id:", b":"];
                if fields.iter().any(|field| head.starts_with(field)) {
                    return Some(Framing::Sse(Box::new(Sse::new(interests))));
                }
                if fields.iter().any(|field| field.starts_with(head)) {
                    return None;
                }
                let foreign = matches!(kind, Kind::Json | Kind::Lines | Kind::Html);
                if foreign && self.protocol != Protocol::Opaque {
                    self.note(Unreadable::DecodeError);
                }
                Framing::Skip
            }
        })
    }

    /// Reads one document.
    fn read(&mut self, event: Option<&str>, streaming: bool, document: Pruned) -> Seen {
        if let Some(why) = document.unreadable {
            self.note(why);
        }
        let seen = self.family.read(event, streaming, &document.value, &mut self.reply);
        self.reply.stream |= streaming;
        self.reply.output_events += u64::from(seen.output);
        self.terminal |= streaming && seen.terminal;
        self.may_repeat = seen.output && !seen.terminal && self.family.may_repeat(&document.value);
        seen
    }

    /// Elements of an array are events: Gemini streams are arrays of chunks unless `alt=sse` is asked for.
    fn array_streams(&self) -> bool {
        !self.is_error && matches!(self.protocol, Protocol::Gemini | Protocol::GeminiInteractions)
    }

    /// The first reason stays.
    fn note(&mut self, why: Unreadable) {
        self.reply.unreadable.get_or_insert(why);
    }

    fn sse(&mut self, item: Item, sse: &Sse) -> Seen {
        match item {
            Item::Done => {
                self.terminal = true;
                self.reply.stream = true;
                Seen { output: false, terminal: true }
            }
            // A document that is none, or breaks off: nothing in it is trusted.
            Item::Event(document) | Item::Bare(document) if !document.complete => {
                self.note(Unreadable::DecodeError);
                Seen::default()
            }
            Item::Event(document) => {
                let is_error = sse.name() == Some("error");
                let error = is_error.then(|| serde_json::Value::from(&document.value));
                let seen = self.read(sse.name(), true, document);
                if let Some(error) = error {
                    set_error(&mut self.reply, &error);
                }
                seen
            }
            Item::Bare(document) => self.read(None, true, document),
            Item::Plain => {
                if sse.name() == Some("error") {
                    let message = String::from_utf8_lossy(sse.plain());
                    set_error(&mut self.reply, &json!({ "error": { "message": message } }));
                }
                Seen::default()
            }
        }
    }

    fn message(&mut self, message: Message, stream: &EventStream) -> Seen {
        match message {
            Message::Damaged => {
                self.note(Unreadable::DecodeError);
                Seen::default()
            }
            // No payload, or one that is no JSON: nothing to read.
            Message::Event(document) if !document.complete => {
                self.reply.stream = true;
                if document.unreadable.is_some() {
                    self.note(Unreadable::DecodeError);
                }
                Seen::default()
            }
            Message::Event(document) => self.read(stream.name(), true, document),
            Message::Exception(mut document) => {
                if !document.value.is_object() {
                    document.value = json!({ "message": stream.error_message() }).into();
                }
                document.unreadable = None;
                let error = json!({ "__type": stream.name(), "message": document.value.get("message") });
                let seen = self.read(stream.name(), true, document);
                set_error(&mut self.reply, &error);
                seen
            }
        }
    }
}

/// Notes an error that a 2xx answer carried, cut to [`MAX_ERROR`]; one that is there already stays.
pub fn set_error(reply: &mut Reply, error: &serde_json::Value) {
    if reply.error.is_none() {
        let mut body = serde_json::to_vec(error).unwrap_or_default();
        body.truncate(MAX_ERROR);
        reply.error = Some(ErrorFacts { body, in_stream: true });
    }
}

impl Documents {
    fn feed(&mut self, mut bytes: &[u8], reading: &mut Reading) -> Seen {
        let mut seen = Seen::default();
        while let Some(&byte) = bytes.first() {
            if self.lost {
                match memchr::memchr(b'\n', bytes) {
                    Some(end) if self.shape == Shape::Lines => {
                        self.lost = false;
                        bytes = &bytes[end + 1..];
                        continue;
                    }
                    _ => return seen,
                }
            }
            if !self.pruner.has_started() {
                if byte.is_ascii_whitespace() || byte == 0x1E {
                    bytes = &bytes[1..];
                    continue;
                }
                if let Some(skip) = self.start(byte, reading) {
                    bytes = &bytes[usize::from(skip)..];
                    continue;
                }
            }
            let taken = self.pruner.feed(bytes, &mut reading.reply.output);
            bytes = &bytes[taken..];
            if self.pruner.has_failed() {
                self.lost = true;
                let broken = self.pruner.take();
                reading.note(Unreadable::DecodeError);
                if self.shape == Shape::Single {
                    self.first.get_or_insert(broken);
                }
            } else if self.pruner.is_complete() {
                let document = self.pruner.take();
                seen = seen.or(self.end(document, reading));
            }
        }
        seen
    }

    /// Between documents. `Some(true)`: the byte is none of a document's; `Some(false)`: look at it again.
    fn start(&mut self, byte: u8, reading: &mut Reading) -> Option<bool> {
        match (self.shape, byte) {
            (Shape::Single, b'[') if self.count == 0 => {
                self.shape = Shape::Bracket;
                Some(true)
            }
            (Shape::Bracket, b'{') => {
                self.shape = Shape::Array { closed: false };
                reading.reply.stream = reading.array_streams();
                None
            }
            (Shape::Bracket, _) => {
                // An array of something else is one document.
                self.shape = Shape::Single;
                self.pruner.feed(b"[", &mut reading.reply.output);
                Some(false)
            }
            (Shape::Array { .. }, b',') => Some(true),
            (Shape::Array { .. }, b']') => {
                self.shape = Shape::Array { closed: true };
                Some(true)
            }
            // A second document: these are lines after all.
            (Shape::Single, b'{') if self.count > 0 => {
                self.shape = Shape::Lines;
                if let Some(first) = self.first.take() {
                    reading.read(None, true, first);
                }
                None
            }
            (Shape::Single, _) if self.count > 0 => {
                self.lost = true;
                Some(false)
            }
            _ => None,
        }
    }

    fn end(&mut self, document: Pruned, reading: &mut Reading) -> Seen {
        self.count += 1;
        match self.shape {
            Shape::Lines => reading.read(None, true, document),
            Shape::Array { .. } => reading.read(None, reading.array_streams(), document),
            Shape::Single | Shape::Bracket => {
                self.first = Some(document);
                Seen::default()
            }
        }
    }

    /// The body ended; tells whether all of it was JSON to the end.
    fn finish(&mut self, clean_end: bool, reading: &mut Reading) -> bool {
        reading.reply.stream |= self.shape == Shape::Lines;
        let started = self.pruner.has_started();
        if started {
            let rest = self.pruner.take();
            if self.shape == Shape::Single && self.first.is_none() {
                self.first = Some(rest);
            } else if rest.complete {
                self.end(rest, reading);
            }
        }
        let cut = match self.first.take() {
            Some(first) => {
                let cut = !first.complete;
                reading.read(None, false, first);
                cut
            }
            None => started || matches!(self.shape, Shape::Bracket | Shape::Array { closed: false }),
        };
        if cut && clean_end {
            reading.note(Unreadable::DecodeError);
        }
        !cut
    }
}

impl Seen {
    /// Both.
    fn or(self, other: Seen) -> Seen {
        Seen { output: self.output | other.output, terminal: self.terminal | other.terminal }
    }
}
