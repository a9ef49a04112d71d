//! Whole bodies in every framing, cut everywhere, through one small family.

use serde_json::{Value, json};

use super::super::eventstream::message;
use super::super::eventstream::tests::chunk;
use super::super::random::Random;
use super::super::{Interest, Take};
use super::*;
use crate::call::Usage;

/// (event, streaming, document) as a family got it.
type Read = (Option<String>, bool, Value);

/// Enough of a protocol to see what the decoder hands over.
#[derive(Default)]
struct Probe {
    read: std::sync::Arc<std::sync::Mutex<Vec<Read>>>,
    no_terminal: bool,
}

static PROBE: [Interest; 7] = [
    Interest { path: "id", take: Take::Keep },
    Interest { path: "text", take: Take::Text },
    Interest { path: "usage", take: Take::Keep },
    Interest { path: "finish", take: Take::Keep },
    Interest { path: "done", take: Take::Keep },
    Interest { path: "error", take: Take::Keep },
    Interest { path: "message", take: Take::Keep },
];

impl Family for Probe {
    fn interests(&self) -> &'static [Interest] {
        &PROBE
    }

    fn read(
        &mut self,
        event: Option<&str>,
        streaming: bool,
        doc: &super::super::json::Value,
        reply: &mut Reply,
    ) -> Seen {
        let doc = &Value::from(doc);
        self.read.lock().unwrap().push((event.map(str::to_owned), streaming, doc.clone()));
        if let Some(tokens) = doc.get("usage").and_then(Value::as_u64) {
            reply.usage = Some(Usage { input_tokens: Some(tokens), ..Usage::default() });
        }
        if let Some(reason) = doc.get("finish").and_then(Value::as_str) {
            reply.finish_reasons = vec![reason.to_owned()];
        }
        if let Some(error) = doc.get("error").filter(|error| !error.is_null()) {
            set_error(reply, &json!({ "error": error }));
        }
        Seen { output: doc.get("text").is_some(), terminal: doc.get("done").is_some() }
    }

    fn has_terminal_event(&self) -> bool {
        !self.no_terminal
    }
}

#[derive(Debug, PartialEq)]
struct Got {
    reply: Reply,
    seen: Seen,
    documents: Vec<Read>,
}

struct Body<'a> {
    status: u16,
    content_type: Option<&'a str>,
    protocol: Protocol,
    clean_end: bool,
    no_terminal: bool,
}

const JSON: Body<'static> = Body {
    status: 200,
    content_type: Some("application/json; charset=utf-8"),
    protocol: Protocol::OpenaiChat,
    clean_end: true,
    no_terminal: false,
};
const SSE: Body<'static> = Body { content_type: Some("text/event-stream"), ..JSON };

impl Body<'_> {
    fn pieces<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Got {
        let probe = Probe { no_terminal: self.no_terminal, ..Probe::default() };
        let read = probe.read.clone();
        let hint = ReplyHint { status: self.status, content_type: self.content_type, protocol: self.protocol };
        let mut decoder = Decoder::new(Box::new(probe), hint);
        let mut seen = Seen::default();
        for piece in pieces {
            seen = seen.or(decoder.feed(piece));
        }
        let reply = decoder.finish(self.clean_end);
        let documents = std::mem::take(&mut *read.lock().unwrap());
        Got { reply, seen, documents }
    }

    /// Reads `body` whole, cut at every byte, byte by byte and at random; all must agree.
    fn read(&self, body: impl AsRef<[u8]>) -> Got {
        let body = body.as_ref();
        let expected = self.pieces([body]);
        for at in 0..=body.len() {
            assert_eq!(self.pieces([&body[..at], &body[at..]]), expected, "cut at {at}");
        }
        assert_eq!(self.pieces(body.chunks(1)), expected);
        let mut random = Random(body.len() as u64);
        for _ in 0..10 {
            assert_eq!(self.pieces(random.cut(body)), expected);
        }
        expected
    }
}

fn error(reply: &Reply) -> Value {
    let error = reply.error.as_ref().expect("an error");
    serde_json::from_slice(&error.body).expect("JSON")
}

const ANSWER: &str = "\n {\"id\":\"a\",\"text\":\"hi\",\"usage\":7,\"finish\":\"stop\"} ";
const STREAM: &str =
    "data: {\"id\":\"a\",\"text\":\"hé\"}\n\ndata: {\"finish\":\"stop\"}\n\ndata: {\"usage\":7}\n\ndata: [DONE]\n\n";

#[test]
fn a_whole_answer() {
    for content_type in
        [JSON.content_type, None, Some("text/plain"), SSE.content_type, Some("application/octet-stream")]
    {
        let got = Body { content_type, ..JSON }.read(ANSWER);
        assert_eq!(got.documents, [(None, false, json!({"id":"a","text":2,"usage":7,"finish":"stop"}))]);
        assert!(got.reply.terminal && !got.reply.stream && got.reply.error.is_none());
        assert_eq!((got.reply.unreadable, got.reply.output_events), (None, 1));
        assert_eq!(got.reply.output.kept(), "hi");
    }
}

#[test]
fn an_answer_that_broke_off() {
    let cut = &ANSWER[..ANSWER.len() - 10];
    let got = Body { clean_end: false, ..JSON }.read(cut);
    assert!(!got.reply.terminal);
    assert_eq!(got.reply.unreadable, None);
    assert_eq!(got.reply.usage.map(|u| u.input_tokens), Some(Some(7)));
    assert_eq!(JSON.read(cut).reply.unreadable, Some(Unreadable::DecodeError));
    assert!(!JSON.read(cut).reply.terminal);
    let broken = JSON.read("{\"usage\":7,\"id\" nonsense}{\"usage\":8}");
    assert_eq!(broken.documents, [(None, false, json!({"usage":7}))]);
    assert_eq!(broken.reply.unreadable, Some(Unreadable::DecodeError));
}

#[test]
fn events_under_any_content_type() {
    for content_type in [SSE.content_type, JSON.content_type, None, Some("application/octet-stream")] {
        for body in [STREAM.to_owned(), STREAM.replace('\n', "\r\n"), format!(": hello\n\n{STREAM}")] {
            let got = Body { content_type, ..SSE }.read(&body);
            assert_eq!(got.documents.len(), 3, "{content_type:?}");
            assert!(got.reply.stream && got.reply.terminal);
            assert!(got.seen.output && got.seen.terminal);
            assert_eq!((got.reply.output_events, got.reply.unreadable), (1, None));
            assert_eq!(got.reply.output.kept(), "hé");
        }
    }
}

#[test]
fn the_end_of_a_stream() {
    let (cut, _) = STREAM.split_once("data: [DONE]").unwrap();
    let (start, _) = STREAM.split_once("data: {\"finish").unwrap();
    let terminal = |body: Body<'_>, text: &str| body.read(text).reply.terminal;
    assert!(terminal(SSE, cut), "Perplexity ends so");
    assert!(!terminal(Body { clean_end: false, ..SSE }, cut), "usage may have been on its way");
    assert!(!terminal(SSE, start));
    assert!(!terminal(SSE, ""));
    assert!(terminal(Body { clean_end: false, ..SSE }, STREAM), "nothing comes after [DONE]");
    let messages = Body { protocol: Protocol::AnthropicMessages, ..SSE };
    assert!(!terminal(messages, cut), "a finish reason is no end there");
    assert!(terminal(Body { protocol: Protocol::Gemini, ..SSE }, "data: {\"done\":1}\n\n"));
    let without = Body { protocol: Protocol::GeminiInteractions, no_terminal: true, ..SSE };
    assert!(terminal(without, start));
    let without = Body { protocol: Protocol::GeminiInteractions, no_terminal: true, clean_end: false, ..SSE };
    assert!(!terminal(without, start));
    assert!(SSE.read("").reply.stream, "an empty stream is one");
    assert!(JSON.read("").reply.terminal && !JSON.read("").reply.stream);
}

#[test]
fn errors_inside_of_streams() {
    let wanted = json!({"error":{"code":503,"message":"busy"}});
    for tail in [
        "data: {\"error\":{\"code\":503,\"message\":\"busy\"},\"usage\":9}\n\n",
        "event: error\ndata: {\"error\":{\"code\":503,\"message\":\"busy\"},\"usage\":9}\n\n",
        "error: {\"code\":503,\"message\":\"busy\"}\n\n",
        "{\n \"error\": {\n \"code\": 503,\n \"message\": \"busy\"\n },\n\"usage\":9}\n",
        "[{\"error\":{\"code\":503,\"message\":\"busy\"},\"usage\":9}\n]\n",
    ] {
        let got = SSE.read(format!("data: {{\"text\":\"x\",\"usage\":9}}\n\n{tail}"));
        assert_eq!(error(&got.reply), wanted, "{tail}");
        assert!(got.reply.error.as_ref().is_some_and(|e| e.in_stream));
        assert!(!got.reply.terminal);
        assert_eq!(got.reply.usage.and_then(|u| u.input_tokens), Some(9), "{tail}");
    }
    let flat = SSE.read("event: error\ndata: {\"type\":\"error\",\"code\":\"x\",\"detail\":[1]}\n\n");
    assert_eq!(error(&flat.reply), json!({"type":"error","code":"x","detail":[1]}), "kept whole, whatever its shape");
    let plain = SSE.read("event: error\ndata: upstream gone\n\n");
    assert_eq!(error(&plain.reply), json!({"error":{"message":"upstream gone"}}));
    let whole = JSON.read("{\"error\":{\"code\":1}}");
    assert!(whole.reply.error.as_ref().is_some_and(|e| e.in_stream), "a 200 that is none");
}

#[test]
fn error_answers_are_kept_as_they_came() {
    for (body, content_type) in [
        ("{\"error\":{\"message\":\"no\"},\"usage\":3}", Some("application/json")),
        ("<html><h1>502</h1>", Some("text/html")),
        ("data: {\"error\":1}\n\n", Some("text/event-stream")),
        ("[{\"error\":1}]", Some("application/octet-stream")),
        ("  no JSON", Some("application/json")),
        ("\x00\x01", None),
    ] {
        let got = Body { status: 502, content_type, protocol: Protocol::Gemini, ..JSON }.read(body);
        assert_eq!(got.reply.error, Some(ErrorFacts { body: body.into(), in_stream: false }));
        assert_eq!(got.reply.unreadable, None);
        assert!(got.reply.terminal);
    }
    let got = Body { status: 400, ..JSON }.pieces([format!("{{\"x\":\"{}\"", "y".repeat(100_000)).as_bytes()]);
    assert_eq!(got.reply.error.map(|e| e.body.len()), Some(MAX_ERROR));
    assert_eq!(Body { status: 401, ..JSON }.read("").reply.error, None);
}

#[test]
fn json_lines() {
    let body = "{\"text\":\"a\"}\r\n\n{\"text\":\"b\"}{\"done\":true,\"usage\":4}\n";
    for content_type in [Some("application/x-ndjson"), Some("application/stream+json"), Some("application/json"), None]
    {
        let got = Body { content_type, protocol: Protocol::Ollama, ..JSON }.read(body);
        assert_eq!(got.documents.len(), 3);
        assert!(got.documents.iter().all(|(_, streaming, _)| *streaming), "{content_type:?}");
        assert!(got.reply.stream && got.reply.terminal);
        assert_eq!(got.reply.output_events, 2);
    }
    let lines = Body { content_type: Some("application/x-ndjson"), protocol: Protocol::Ollama, ..JSON };
    let broken = lines.read("{\"text\":\"a\"}\n{\"text\" oops}\n{\"done\":true,\"usage\":4}\n");
    assert_eq!((broken.documents.len(), broken.reply.terminal), (2, true));
    assert_eq!(broken.reply.unreadable, Some(Unreadable::DecodeError));
    let cut = lines.read("{\"text\":\"a\"}\n{\"text\":\"b\",\"do");
    assert!(cut.reply.stream && !cut.reply.terminal);
    let one = lines.read("{\"error\":\"model not found\"}");
    assert!(one.reply.stream && !one.reply.terminal && one.reply.error.is_some());
}

#[test]
fn arrays_of_chunks() {
    let gemini = Body { protocol: Protocol::Gemini, ..JSON };
    let got = gemini.read("[{\"text\":\"a\"}\n,\r\n{\"text\":\"b\",\"usage\":2}\n]\n");
    assert_eq!(got.documents.len(), 2);
    assert!(got.reply.stream && got.reply.terminal);
    let cut = gemini.read("[{\"text\":\"a\"}\n,\r\n{\"text\":\"b\"");
    assert_eq!((cut.documents.len(), cut.reply.stream, cut.reply.terminal), (1, true, false));
    let embeddings = JSON.read("[[0.25,-1e-3],[1,2]]");
    assert_eq!(embeddings.documents, [(None, false, json!([]))]);
    assert!(embeddings.reply.terminal && !embeddings.reply.stream);
    let objects = JSON.read("[{\"text\":\"a\"},{\"id\":\"b\"}]");
    assert_eq!((objects.documents.len(), objects.reply.stream, objects.reply.terminal), (2, false, true));
    assert!(JSON.read("[ ]").reply.terminal);
    assert!(!JSON.read("[").reply.terminal);
}

#[test]
fn aws_event_streams() {
    let event =
        |name: &str, payload: &str| message(&[(":event-type", name), (":message-type", "event")], payload.as_bytes());
    let body = [event("delta", "{\"text\":\"a\"}"), event("metadata", "{\"usage\":3,\"done\":1}")].concat();
    for content_type in [Some("application/vnd.amazon.eventstream"), None, Some("application/octet-stream")] {
        let converse = Body { content_type, protocol: Protocol::BedrockConverse, ..JSON };
        let got = converse.read(&body);
        assert_eq!(got.documents[1], (Some("metadata".into()), true, json!({"usage":3,"done":1})));
        assert!(got.reply.stream && got.reply.terminal && got.seen.output);
        assert!(!converse.read(&body[..body.len() - 1]).reply.terminal);
    }
    let invoke =
        Body { content_type: Some("application/vnd.amazon.eventstream"), protocol: Protocol::BedrockInvoke, ..JSON };
    let mut body = chunk("{\"text\":\"ab\",\"usage\":5}");
    assert_eq!(invoke.read(&body).documents, [(Some("chunk".into()), true, json!({"text":2,"usage":5}))]);
    body.extend(message(
        &[(":exception-type", "throttlingException"), (":message-type", "exception")],
        b"{\"message\":\"slow down\"}",
    ));
    let got = invoke.read(&body);
    assert_eq!(error(&got.reply), json!({"__type":"throttlingException","message":"slow down"}));
    assert!(!got.reply.terminal);
    let coded = message(&[(":error-code", "500"), (":error-message", "broke"), (":message-type", "error")], b"");
    assert_eq!(error(&invoke.read(coded).reply), json!({"__type":"500","message":"broke"}));
    body[5] ^= 1;
    assert_eq!(invoke.read(&body).reply.unreadable, Some(Unreadable::DecodeError));
    let whole = invoke.read("{\"message\":\"x\"}");
    assert_eq!(whole.documents.len(), 1);
}

#[test]
fn what_is_no_answer_is_left_alone() {
    let page = Body { content_type: Some("text/html"), ..JSON }.read("<!doctype html><html>");
    assert_eq!((page.reply.unreadable, page.documents.len()), (Some(Unreadable::DecodeError), 0));
    let opaque = Body { content_type: Some("text/html"), protocol: Protocol::Opaque, ..JSON }.read("<html>");
    assert_eq!(opaque.reply.unreadable, None);
    let sound = Body { content_type: Some("audio/mpeg"), ..JSON }.read("{\"usage\":1}");
    assert_eq!((sound.documents.len(), sound.reply.terminal), (0, true));
    for text in ["1\n00:00 --> 00:01\nhello", "dat", "idle talk", "error", "\u{feff}"] {
        let got = Body { content_type: Some("text/plain"), protocol: Protocol::OpenaiAudio, ..JSON }.read(text);
        assert_eq!((got.reply.unreadable, got.documents.len(), got.reply.stream), (None, 0, false), "{text}");
    }
    assert_eq!(JSON.read("\"text\"").reply.unreadable, None);
    assert_eq!(JSON.read("oh no").reply.unreadable, Some(Unreadable::DecodeError));
}

#[test]
fn a_long_list_marks_the_limit_and_keeps_the_rest() {
    let body = format!("data: {{\"error\":[{}0],\"usage\":6}}\n\ndata: [DONE]\n\n", "1,".repeat(200_000));
    let got = SSE.pieces(body.as_bytes().chunks(16_384));
    assert_eq!(got.reply.unreadable, Some(Unreadable::EventLimit));
    assert_eq!(got.reply.usage.and_then(|u| u.input_tokens), Some(6));
    assert!(got.reply.terminal);
    assert!(got.reply.error.is_some_and(|e| e.body.len() <= MAX_ERROR));
}

#[test]
fn random_bytes_end_somewhere() {
    let mut random = Random(11);
    let words: [&[u8]; 16] = [
        b"data: ",
        b"event: error\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"\n",
        b"\r\n",
        b"[DONE]",
        b",",
        b":",
        b"\\",
        b"\x00",
        b"1",
        b"\xff",
    ];
    for round in 0..3000 {
        let body: Vec<u8> = (0..random.below(40)).flat_map(|_| words[random.below(words.len())].to_vec()).collect();
        let kinds = [JSON.content_type, SSE.content_type, None, Some("application/x-ndjson")];
        let body_kind = Body { content_type: kinds[round % 4], protocol: Protocol::Gemini, ..JSON };
        let whole = body_kind.pieces([&body[..]]);
        assert_eq!(body_kind.pieces(body.chunks(1)), whole, "{:?}", String::from_utf8_lossy(&body));
    }
}

/// Events that come again and again with small changes: read at once, when they may be recognised, and in single bytes,
/// when they cannot be, they give the same.
#[test]
fn events_that_look_alike_are_read_as_if_each_were_the_first() {
    let chat = [
        r#"data: {"id":"1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":{"content":"WORD"},"finish_reason":null}],"usage":null,"obfuscation":"xy"}"#,
        r#"data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"WORD"}}]}}],"usage":{"prompt_tokens":7,"completion_tokens":7}}"#,
        r#"data: {"id":"7","model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"cost":0.07}}"#,
        r#"data: {"object":"thread.run.step","delta":{"content":[{"text":{"value":"WORD"}}]},"usage":{"prompt_tokens":7,"completion_tokens":1}}"#,
        r#"data: {"choices":[{"index":7,"delta":{"reasoning":"WORD"},"finish_reason":"stop"}]}"#,
    ];
    let messages = [
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":7,\"delta\":{\"type\":\"text_delta\",\"text\":\"WORD\"}}",
        "event: error\ndata: {\"type\":\"content_block_delta\",\"index\":7,\"delta\":{\"type\":\"text_delta\",\"text\":\"WORD\"}}",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":7}}",
        "event: ping\ndata: {\"type\":\"ping\"}",
    ];
    let responses = [
        r#"data: {"type":"response.output_text.delta","sequence_number":7,"item_id":"xy","delta":"WORD","logprobs":[]}"#,
        r#"data: {"type":"response.refusal.delta","sequence_number":7,"delta":"WORD"}"#,
        r#"data: {"type":"response.completed","response":{"id":"xy","usage":{"input_tokens":7,"output_tokens":7}}}"#,
    ];
    let words = ["", "word", " wörd", "a\\nb", "\\u00e9", "data:x,y", "}", "\u{fffd}"];
    let mut random = Random(1);
    let families: [(Protocol, &[&str]); 3] = [
        (Protocol::OpenaiChat, &chat),
        (Protocol::AnthropicMessages, &messages),
        (Protocol::OpenaiResponses, &responses),
    ];
    for round in 0..600 {
        let (protocol, events) = families[round / 2 % families.len()];
        let mut body = String::new();
        for _ in 0..1 + random.below(30) {
            // In every other round the first event most of the time.
            let any = random.below(events.len() * if round % 2 == 0 { 1 } else { 3 });
            let event = events.get(any).unwrap_or(&events[0]);
            let number = random.below(30).to_string();
            let number = if random.below(3) == 0 { number } else { "7".to_owned() };
            let other = random.pick(&["xy", "xy", "", "a\\\"b"]).to_owned();
            body += &event.replace("WORD", random.pick(&words)).replace('7', &number).replace("xy", &other);
            body += random.pick(&["\n\n", "\n\n", "\n\n", "\r\n\r\n", "\n", "\n\n: hello\n\n"]);
        }
        assert_recognition_changes_nothing(protocol, &body, 1 + random.below(700));
    }
}

/// Events that a reader of bytes could take for what they are not.
#[test]
fn events_that_only_seem_alike_are_told_apart() {
    let choice = |text: &str| format!(r#""choices":[{{"delta":{{"content":"{text}"}}}}]"#);
    let long = "k".repeat(257);
    for event in [
        format!("event: error\ndata: {{{},\"o\":\"a\nevent: x\ndata: b\"}}\n\n", choice("w")),
        format!(": data:{{\"a\":[\ndata: {{{}}}\n:],{}}}\n\n", choice("w"), choice("v")),
        format!(
            r#"data: {{"choices":[{{"delta":{{"images":[1],"tool_calls":{{"{long}":{{"function":{{"arguments":"w"}}}}}}}}}}]}}"#
        ) + "\n\n",
    ] {
        let error = format!("event: error\ndata: {{{},\"o\":\"z\"}}\n\n", choice("w"));
        let body = format!("{event}{event}{error}{error}");
        assert_recognition_changes_nothing(Protocol::OpenaiChat, &body, 50);
    }
}

/// One byte at a time no event is seen as a whole, so that none can be recognised.
fn assert_recognition_changes_nothing(protocol: Protocol, body: &str, cut: usize) {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let hint = ReplyHint { status: 200, content_type: Some("text/event-stream"), protocol };
        let mut decoder = Decoder::new(super::super::family(protocol), hint);
        let mut seen = Seen::default();
        for piece in pieces {
            seen = seen.or(decoder.feed(piece));
        }
        (decoder.finish(true), seen)
    };
    let single = read(&mut body.as_bytes().chunks(1));
    assert_eq!(read(&mut std::iter::once(body.as_bytes())), single, "{body}");
    assert_eq!(read(&mut body.as_bytes().chunks(cut)), single, "{body}");
}
