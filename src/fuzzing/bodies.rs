//! Bodies as they pass: answers, requests, and what they are wrapped in.

use serde_json::{Value, json};

use super::{Input, cuts};
use crate::call::{Protocol, Reply, RequestFacts, TextSample, Unreadable};
use crate::protocol::json::{MAX_DEPTH, MAX_KEPT, MAX_KEY, MAX_STRING, Pruned, Pruner, reference::prune_value};
use crate::protocol::{Decoder, Interest, ReplyHint, Take, decoder, family, message};
use crate::tap::decompress::{FREE_OUTPUT, MAX_OUTPUT, MAX_RATIO};
use crate::tap::inject::{HideUsage, ask_for_usage};
use crate::tap::{Decompressor, Frames, RequestTap};

pub(super) const CONTENT_TYPES: [Option<&str>; 10] = [
    Some("application/json"),
    Some("text/event-stream; charset=utf-8"),
    Some("application/vnd.amazon.eventstream"),
    Some("application/x-ndjson"),
    Some("application/stream+json"),
    Some("application/json-seq"),
    Some("text/html"),
    Some("audio/mpeg"),
    Some("application/octet-stream"),
    None,
];
pub(super) const STATUSES: [u16; 4] = [200, 429, 500, 206];
pub(super) const ENCODINGS: [&str; 8] =
    ["identity", "gzip", "deflate", "br", "zstd", "gzip, br", "br, zstd", "gzip, zstd, deflate"];
pub(super) const REQUEST_TYPES: [Option<&str>; 6] = [
    Some("application/json"),
    Some("multipart/form-data; boundary=cut"),
    Some("multipart/form-data; boundary=\"----a b\""),
    Some("multipart/form-data"),
    Some("text/plain"),
    None,
];

/// Protocol, content type, status, clean end, cuts; then the body.
pub(super) fn answer(data: &[u8]) {
    let mut input = Input(data);
    let protocol = input.pick(Protocol::ALL);
    let hint = ReplyHint { content_type: input.pick(&CONTENT_TYPES), status: input.pick(&STATUSES), protocol };
    let (clean, seed) = (!input.flag(), input.word());
    let body = input.rest();
    one_reply(hint, clean, seed, body);
}

/// Reads a body whole and cut.
fn one_reply(hint: ReplyHint<'_>, clean: bool, seed: u16, body: &[u8]) -> Reply {
    let read = |pieces: &[&[u8]]| {
        let mut decoder = Decoder::new(family(hint.protocol), hint);
        let (mut output, mut terminal) = (false, false);
        for piece in pieces {
            let seen = decoder.feed(piece);
            output |= seen.output;
            terminal |= seen.terminal;
        }
        (decoder.finish(clean), output, terminal)
    };
    let whole = read(&[body]);
    for pieces in cuts(seed, body) {
        assert_eq!(read(&pieces), whole, "cut: {:?}", pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>());
    }
    let reply = whole.0;
    let texts = [&reply.model, &reply.id, &reply.conversation_id, &reply.service_tier];
    let words = texts.into_iter().flatten().chain(&reply.finish_reasons);
    words.for_each(|word| assert!(word.len() <= 4 * MAX_STRING, "{} bytes", word.len()));
    assert!(reply.finish_reasons.len() <= 16);
    assert!(reply.error.as_ref().is_none_or(|error| error.body.len() <= decoder::MAX_ERROR));
    // A byte that is no UTF-8 becomes a character of three.
    assert!(reply.output.kept().len() <= TextSample::CAPACITY && reply.output.total_bytes() <= 3 * body.len() as u64);
    assert!(reply.parts.len() * 8 <= MAX_KEPT.max(body.len()));
    if let Some(usage) = &reply.usage {
        let sum: u128 = usage.split().iter().map(|(_, tokens)| u128::from(*tokens)).sum();
        let stated = u128::from(usage.input_tokens.unwrap_or(0)) + u128::from(usage.output_tokens.unwrap_or(0));
        assert_eq!(sum, stated, "{usage:?}");
    }
    reply
}

/// Protocol, cuts; then messages: kind, payload. Framed with right lengths and sums, which a fuzzer does not find.
pub(super) fn event_stream(data: &[u8]) {
    let mut input = Input(data);
    let protocol =
        input.pick(&[Protocol::BedrockInvoke, Protocol::BedrockConverse, Protocol::BedrockAgent, Protocol::OpenaiChat]);
    let (clean, seed) = (!input.flag(), input.word());
    let mut wire = Vec::new();
    let mut bare = Vec::new();
    // What begins otherwise may be an answer of another kind under the wrong content type, and is read as that.
    let begins_framed = input.0.first() != Some(&0xff);
    while !input.0.is_empty() {
        let kind = input.byte();
        let payload = input.long();
        if kind == 0xff {
            // Bytes without a frame: the rest cannot be read.
            wire.extend_from_slice(payload);
            continue;
        }
        let (message_type, name_header, name) = EVENTS[usize::from(kind) % EVENTS.len()];
        let payload = match name {
            "chunk" if kind & 0x80 == 0 => envelope(payload),
            _ => payload.to_vec(),
        };
        wire.extend(message(&[(name_header, name), (":message-type", message_type)], &payload));
        bare.push((name, payload));
    }
    let hint = ReplyHint { status: 200, content_type: Some("application/vnd.amazon.eventstream"), protocol };
    let reply = one_reply(hint, clean, seed, &wire);
    assert!(reply.stream || !begins_framed);
}

const EVENTS: [(&str, &str, &str); 9] = [
    ("event", ":event-type", "chunk"),
    ("event", ":event-type", "metadata"),
    ("event", ":event-type", "contentBlockDelta"),
    ("event", ":event-type", "messageStop"),
    ("event", ":event-type", "trace"),
    ("exception", ":exception-type", "throttlingException"),
    ("exception", ":exception-type", "modelStreamErrorException"),
    ("error", ":error-code", "InternalFailure"),
    ("event", ":event-type", "initial-response"),
];

fn envelope(payload: &[u8]) -> Vec<u8> {
    use base64::Engine;
    json!({ "bytes": base64::engine::general_purpose::STANDARD.encode(payload), "p": "abcd" }).to_string().into_bytes()
}

const fn interest(path: &'static str, take: Take) -> Interest {
    Interest { path, take }
}

static TABLES: [&[Interest]; 3] = [
    &[
        interest("a", Take::Keep),
        interest("a.*.b", Take::Text),
        interest("b", Take::DeepText),
        interest("b.*.c", Take::Presence),
        interest("*.d", Take::Keep),
        interest("c", Take::Presence),
        interest("c.a", Take::Keep),
    ],
    &[interest("*", Take::Keep), interest("*.a", Take::Presence), interest("a.b.c", Take::Text)],
    &[interest("*.*", Take::Text), interest("a", Take::Text), interest("b.c", Take::DeepText)],
];

/// Table, cuts; then the document.
pub(super) fn json(data: &[u8]) {
    let mut input = Input(data);
    let choice = usize::from(input.byte()) % (TABLES.len() + Protocol::ALL.len());
    let table = match TABLES.get(choice) {
        Some(table) => table,
        None => family(Protocol::ALL[choice - TABLES.len()]).interests(),
    };
    let seed = input.word();
    let text = input.rest();
    let mut pruner = Pruner::new(table);
    let mut read = |pieces: &[&[u8]]| -> (Pruned, TextSample, usize) {
        let (mut sample, mut taken) = (TextSample::default(), 0);
        for piece in pieces {
            let here = pruner.feed(piece, &mut sample);
            taken += here;
            if here < piece.len() {
                assert!(pruner.is_complete() || pruner.has_failed());
                break;
            }
        }
        (pruner.take(), sample, taken)
    };
    let whole = read(&[text]);
    for pieces in cuts(seed, text) {
        assert_eq!(read(&pieces), whole);
    }
    // Nested deeper than serde_json goes, or of members of one name: nothing to compare with.
    let Ok(document) = serde_json::from_slice::<Value>(text) else { return };
    let (pruned, sample, taken) = whole;
    assert!(pruned.complete, "serde_json reads it");
    assert!(text[taken..].iter().all(u8::is_ascii_whitespace));
    if pruned.unreadable == Some(Unreadable::EventLimit)
        || has_twins(text)
        || has_long_scalar(text)
        || has_long_key(&document)
        || depth(&document) > MAX_DEPTH
    {
        return;
    }
    assert_eq!(pruned.unreadable, None);
    let mut expected = TextSample::default();
    assert_eq!(pruned.value, prune_value(&document, table, &mut expected));
    assert_eq!(sample, expected);
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A key that is cut, and matches nothing: the comparison knows only whole ones.
fn has_long_key(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_long_key),
        Value::Object(fields) => fields.iter().any(|(key, value)| key.len() > MAX_KEY || has_long_key(value)),
        _ => false,
    }
}

/// An object names a member twice: which one counts is nobody's rule.
fn has_twins(text: &[u8]) -> bool {
    struct Members(bool);
    impl<'de> serde::Deserialize<'de> for Members {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Members;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("JSON")
                }
                fn visit_unit<E>(self) -> Result<Members, E> {
                    Ok(Members(false))
                }
                fn visit_bool<E>(self, _: bool) -> Result<Members, E> {
                    Ok(Members(false))
                }
                fn visit_i64<E>(self, _: i64) -> Result<Members, E> {
                    Ok(Members(false))
                }
                fn visit_u64<E>(self, _: u64) -> Result<Members, E> {
                    Ok(Members(false))
                }
                fn visit_f64<E>(self, _: f64) -> Result<Members, E> {
                    Ok(Members(false))
                }
                fn visit_str<E>(self, _: &str) -> Result<Members, E> {
                    Ok(Members(false))
                }
                fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Members, A::Error> {
                    let mut twins = false;
                    while let Some(Members(inner)) = items.next_element()? {
                        twins |= inner;
                    }
                    Ok(Members(twins))
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut members: A) -> Result<Members, A::Error> {
                    let (mut names, mut twins) = (std::collections::HashSet::new(), false);
                    while let Some((name, Members(inner))) = members.next_entry::<String, Members>()? {
                        twins |= inner | !names.insert(name);
                    }
                    Ok(Members(twins))
                }
            }
            deserializer.deserialize_any(Visitor)
        }
    }
    serde_json::from_slice::<Members>(text).is_ok_and(|members| members.0)
}

/// A number of more digits than the parser keeps.
fn has_long_scalar(text: &[u8]) -> bool {
    text.split(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).any(|run| run.len() > 100)
}

/// Encoding, cuts; then the body.
pub(super) fn decompress(data: &[u8]) {
    let mut input = Input(data);
    let encoding = input.pick(&ENCODINGS);
    let seed = input.word();
    let body = input.rest();
    let read = |pieces: &[&[u8]]| {
        let mut unpack = Decompressor::new(Some(encoding));
        let (mut out, mut length) = (Vec::new(), 0_u64);
        for piece in pieces {
            unpack.feed(piece, &mut |plain| {
                length += plain.len() as u64;
                // Enough to compare.
                let room = (1_usize << 20).saturating_sub(out.len());
                out.extend_from_slice(&plain[..plain.len().min(room)]);
            });
        }
        (out, length, unpack.unreadable())
    };
    let (whole, length, why) = read(&[body]);
    assert!(length <= (body.len() as u64).saturating_mul(MAX_RATIO).clamp(FREE_OUTPUT, MAX_OUTPUT));
    for pieces in cuts(seed, body) {
        let (cut, cut_length, cut_why) = read(&pieces);
        assert_eq!(cut_why, why);
        if why.is_none() {
            assert_eq!(cut_length, length);
        }
        // Of damaged bodies more or less may come before the damage is met.
        let common = cut.len().min(whole.len());
        assert!(cut[..common] == whole[..common]);
    }
}

/// Protocol, content type, encoding, cuts; then the body.
pub(super) fn request(data: &[u8]) {
    let mut input = Input(data);
    let protocol = input.pick(Protocol::ALL);
    let (kind, encoding) = (input.pick(&REQUEST_TYPES), input.pick(&ENCODINGS));
    let seed = input.word();
    let body = input.rest();
    let read = |pieces: &[&[u8]]| {
        let mut tap = RequestTap::new(protocol, kind, Some(encoding));
        pieces.iter().for_each(|piece| tap.feed(piece));
        tap.finish()
    };
    let told = |facts: &RequestFacts| (format!("{facts:?}"), facts.prompt.clone());
    let whole = read(&[body]);
    for pieces in cuts(seed, body) {
        let cut = read(&pieces);
        // Of a damaged body more or less is read before the damage is met.
        if encoding == "identity" || whole.unreadable.is_none() {
            assert_eq!(told(&cut), told(&whole));
        }
        assert_eq!((cut.hash, cut.bytes, cut.unreadable), (whole.hash, whole.bytes, whole.unreadable));
    }
    assert_eq!(whole.bytes, body.len() as u64);
    let texts = [&whole.model, &whole.service_tier, &whole.reasoning_effort];
    texts.into_iter().flatten().for_each(|text| assert!(text.len() <= 256));
}

pub(super) const EXTENSIONS: [Option<&str>; 3] =
    [None, Some("permessage-deflate"), Some("permessage-deflate; server_no_context_takeover")];

/// Extensions, cuts; then what the server sends.
pub(super) fn websocket(data: &[u8]) {
    let mut input = Input(data);
    let extensions = input.pick(&EXTENSIONS);
    let seed = input.word();
    let wire = input.rest();
    let read = |pieces: &[&[u8]]| {
        let hint = ReplyHint { status: 101, content_type: None, protocol: Protocol::OpenaiRealtime };
        let mut decoder = Decoder::new(family(Protocol::OpenaiRealtime), hint);
        let mut frames = Frames::new(extensions);
        let mut length = 0;
        for piece in pieces {
            frames.feed(piece, &mut |plain| {
                length += plain.len();
                decoder.feed(plain);
            });
        }
        (decoder.finish(true), frames.closed, frames.failed, length)
    };
    let whole = read(&[wire]);
    assert!(whole.3 as u64 <= (wire.len() as u64).saturating_mul(MAX_RATIO).max(FREE_OUTPUT) + wire.len() as u64);
    for pieces in cuts(seed, wire) {
        let cut = read(&pieces);
        assert_eq!((cut.1, cut.2), (whole.1, whole.2));
        if whole.2.is_none() {
            assert_eq!(cut, whole);
        }
    }
}

/// Cuts; then a stream of events, which is also tried as a request.
pub(super) fn inject(data: &[u8]) {
    let mut input = Input(data);
    let seed = input.word();
    let stream = input.rest();
    let read = |pieces: &[&[u8]]| {
        let mut hide = HideUsage::default();
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| out.extend_from_slice(&hide.feed(piece)));
        out.extend_from_slice(&hide.finish());
        out
    };
    let whole = read(&[stream]);
    for pieces in cuts(seed, stream) {
        assert_eq!(read(&pieces), whole);
    }
    // Whatever it does not know is what came, less some of its lines.
    let mut lines = stream.split_inclusive(|byte| *byte == b'\n');
    for line in whole.split_inclusive(|byte| *byte == b'\n') {
        assert!(lines.any(|own| own == line), "a line that never came");
    }
    if let Some(changed) = ask_for_usage(stream) {
        let before: Value = serde_json::from_slice(stream).expect("only JSON is changed");
        let mut after: Value = serde_json::from_slice(&changed).expect("still JSON");
        let asked = after.as_object_mut().expect("an object").shift_remove("stream_options");
        assert_eq!(asked, Some(json!({ "include_usage": true })));
        assert_eq!(before, after);
    }
}
