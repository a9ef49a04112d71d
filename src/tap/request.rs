//! Reads what a meter needs from a request's body as it passes: bytes as the application sent them in, the body's part
//! of [`RequestFacts`] out.
//!
//! JSON and `multipart/form-data` are read, under any content encoding that answers may have too; everything else is
//! counted and hashed only. Names of the same thing in different protocols do not collide, so that one table serves all.
//!
//! Bounds: those of the JSON pruner, [`MAX_FIELD`](multipart::MAX_FIELD) for each form field that matters, 256 bytes a
//! text. Files in forms and images in JSON are stepped over.

mod multipart;

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use self::multipart::Multipart;
use super::decompress::Decompressor;
use crate::call::{Protocol, RequestFacts, TextSample, Unreadable};
use crate::protocol::json::{Members, Pruner, Value};
use crate::protocol::{Interest, Take};

/// Longest text of [`RequestFacts`], bytes.
const MAX_TEXT: usize = 256;

/// Reader of one request's body.
pub struct RequestTap {
    decompressor: Decompressor,
    body: Body,
    hash: XxHash3_64,
    bytes: u64,
    prompt: TextSample,
}

enum Body {
    /// White space only, so far. `is_json`: the content type says so.
    Unknown {
        is_json: bool,
    },
    Json(Box<Pruner>),
    Form(Box<Multipart>),
    /// Nothing that could be read.
    Other(Option<Unreadable>),
}

impl RequestTap {
    /// A tap for one body, by its `content-type` and `content-encoding`.
    pub fn new(protocol: Protocol, content_type: Option<&str>, content_encoding: Option<&str>) -> Self {
        let content_type = content_type.unwrap_or_default().trim();
        let name = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let body = if name == "multipart/form-data" {
            match multipart::boundary(content_type) {
                Some(boundary) => Body::Form(Box::new(Multipart::new(boundary))),
                None => Body::Other(Some(Unreadable::DecodeError)),
            }
        } else if protocol == Protocol::Opaque {
            Body::Other(None)
        } else {
            Body::Unknown { is_json: name.ends_with("json") }
        };
        Self {
            decompressor: Decompressor::new(content_encoding),
            body,
            hash: XxHash3_64::with_seed(0),
            bytes: 0,
            prompt: TextSample::default(),
        }
    }

    /// Reads on.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.write(bytes);
        let Self { decompressor, body, prompt, .. } = self;
        if decompressor.is_identity() {
            body.feed(bytes, prompt);
        } else {
            decompressor.feed(bytes, &mut |plain| body.feed(plain, prompt));
        }
    }

    /// The body ended or will not go on: what was seen of it. Fields that the body does not tell keep their defaults,
    /// and [`RequestFacts::hash`] is that of the body alone.
    pub fn finish(self) -> RequestFacts {
        let mut facts = RequestFacts { hash: self.hash.finish(), bytes: self.bytes, ..RequestFacts::default() };
        facts.prompt = self.prompt;
        facts.unreadable = self.decompressor.unreadable();
        match self.body {
            Body::Json(mut pruner) => {
                let document = pruner.take();
                facts.unreadable = facts.unreadable.or(document.unreadable);
                read(&document.value, &mut facts);
            }
            Body::Form(form) => {
                let mut document = Members::default();
                for (name, bytes) in form.finish() {
                    let text = String::from_utf8_lossy(&bytes);
                    match name {
                        "prompt" | "input" => facts.prompt.push(&text),
                        // Numbers and flags travel as text here.
                        "model" => document.insert(name.into(), Value::from(&*text)),
                        _ => {
                            let value = serde_json::from_str::<serde_json::Value>(&text);
                            document.insert(name.into(), value.map_or_else(|_| Value::from(&*text), Value::from));
                        }
                    }
                }
                read(&Value::Object(document), &mut facts);
            }
            Body::Other(why) => facts.unreadable = facts.unreadable.or(why),
            Body::Unknown { .. } => {}
        }
        facts
    }
}

impl Body {
    fn feed(&mut self, bytes: &[u8], prompt: &mut TextSample) {
        match self {
            Body::Unknown { is_json } => {
                let is_space = |b: &u8| b.is_ascii_whitespace() || matches!(b, 0xEF | 0xBB | 0xBF);
                let Some(start) = bytes.iter().position(|b| !is_space(b)) else { return };
                *self = match bytes[start] {
                    b'{' | b'[' => Body::Json(Box::new(Pruner::new(REQUEST))),
                    _ => Body::Other(is_json.then_some(Unreadable::DecodeError)),
                };
                self.feed(&bytes[start..], prompt);
            }
            Body::Json(pruner) => {
                pruner.feed(bytes, prompt);
            }
            Body::Form(form) => form.feed(bytes),
            Body::Other(_) => {}
        }
    }
}

const fn keep(path: &'static str) -> Interest {
    Interest { path, take: Take::Keep }
}

const fn text(path: &'static str) -> Interest {
    Interest { path, take: Take::DeepText }
}

/// Inside of text: what is none.
const fn not(path: &'static str) -> Interest {
    Interest { path, take: Take::Presence }
}

/// Everything that is read of JSON requests, all protocols together.
const REQUEST: &[Interest] = &[
    keep("model"),
    keep("model_id"),
    keep("modelId"),
    keep("stream"),
    keep("stream_options.include_usage"),
    keep("service_tier"),
    keep("serviceTier"),
    keep("max_tokens"),
    keep("max_completion_tokens"),
    keep("max_output_tokens"),
    keep("max_tokens_to_sample"),
    keep("max_new_tokens"),
    keep("max_gen_len"),
    keep("maxTokens"),
    keep("num_predict"),
    keep("generationConfig.maxOutputTokens"),
    keep("generation_config.max_output_tokens"),
    keep("inferenceConfig.maxTokens"),
    keep("inferenceConfig.max_new_tokens"),
    keep("textGenerationConfig.maxTokenCount"),
    keep("options.num_predict"),
    keep("parameters.max_tokens"),
    keep("parameters.max_new_tokens"),
    keep("parameters.maxOutputTokens"),
    keep("temperature"),
    keep("generationConfig.temperature"),
    keep("generation_config.temperature"),
    keep("inferenceConfig.temperature"),
    keep("textGenerationConfig.temperature"),
    keep("options.temperature"),
    keep("parameters.temperature"),
    keep("top_p"),
    keep("topP"),
    keep("p"),
    keep("generationConfig.topP"),
    keep("generation_config.top_p"),
    keep("inferenceConfig.topP"),
    keep("textGenerationConfig.topP"),
    keep("options.top_p"),
    keep("parameters.top_p"),
    keep("parameters.topP"),
    keep("reasoning_effort"),
    keep("reasoning.effort"),
    keep("output_config.effort"),
    keep("generationConfig.thinkingConfig.thinkingLevel"),
    keep("generation_config.thinking_level"),
    keep("think"),
    keep("n"),
    keep("num_generations"),
    keep("generationConfig.candidateCount"),
    keep("parameters.sampleCount"),
    keep("imageGenerationConfig.numberOfImages"),
    // Prompts. OpenAI chat, Anthropic, Bedrock, Ollama, Cohere v2, watsonx.
    text("messages"),
    not("messages.*.role"),
    not("messages.*.id"),
    not("messages.*.tool_call_id"),
    not("messages.*.tool_calls.*.id"),
    not("messages.*.tool_calls.*.type"),
    not("messages.*.images"),
    not("messages.*.content.*.type"),
    not("messages.*.content.*.id"),
    not("messages.*.content.*.tool_use_id"),
    not("messages.*.content.*.cache_control"),
    not("messages.*.content.*.signature"),
    not("messages.*.content.*.source"),
    not("messages.*.content.*.image_url"),
    not("messages.*.content.*.video_url"),
    not("messages.*.content.*.input_audio"),
    not("messages.*.content.*.file"),
    not("messages.*.content.*.image"),
    not("messages.*.content.*.video"),
    not("messages.*.content.*.document.source"),
    not("messages.*.content.*.toolUse.toolUseId"),
    not("messages.*.content.*.toolResult.toolUseId"),
    not("messages.*.content.*.reasoningContent.reasoningText.signature"),
    text("system"),
    not("system.*.type"),
    not("system.*.cache_control"),
    text("tools"),
    not("tools.*.type"),
    not("tools.*.cache_control"),
    text("functions"),
    text("toolConfig.tools"),
    text("response_format"),
    // Responses, embeddings, speech, DashScope.
    text("input"),
    not("input.*.type"),
    not("input.*.role"),
    not("input.*.id"),
    not("input.*.call_id"),
    not("input.*.status"),
    not("input.*.encrypted_content"),
    not("input.*.content.*.type"),
    not("input.*.content.*.image_url"),
    not("input.*.content.*.file_data"),
    not("input.*.content.*.file_id"),
    not("input.*.content.*.file_url"),
    not("input.messages.*.role"),
    text("instructions"),
    text("text.format"),
    // Gemini and Vertex.
    text("contents"),
    not("contents.role"),
    not("contents.*.role"),
    not("contents.*.parts.*.inlineData"),
    not("contents.*.parts.*.inline_data"),
    not("contents.*.parts.*.fileData"),
    not("contents.*.parts.*.file_data"),
    not("contents.*.parts.*.thoughtSignature"),
    text("systemInstruction"),
    not("systemInstruction.role"),
    text("system_instruction"),
    not("system_instruction.role"),
    text("generationConfig.responseSchema"),
    text("generationConfig.responseJsonSchema"),
    text("content"),
    not("content.role"),
    text("requests.*.content"),
    text("instances"),
    // Completions, images, Cohere v1, rerank, Titan, agents, Hugging Face.
    text("prompt"),
    text("suffix"),
    text("message"),
    text("chat_history"),
    not("chat_history.*.role"),
    text("preamble"),
    text("documents"),
    text("query"),
    text("texts"),
    text("inputs"),
    text("inputText"),
];

/// The facts that a document tells. Where two names of the same thing are there, the first one here counts.
fn read(document: &Value, facts: &mut RequestFacts) {
    let Some(top) = document.as_object() else { return };
    let inside = |name: &str| top.get(name).and_then(Value::as_object);
    let none = &Members::default();
    // Gemini's in both spellings, Bedrock's, Titan's, Ollama's, and those of Vertex, DashScope, watsonx and others.
    let generation = inside("generationConfig").unwrap_or(none);
    let snake_generation = inside("generation_config").unwrap_or(none);
    let inference = inside("inferenceConfig").unwrap_or(none);
    let titan = inside("textGenerationConfig").unwrap_or(none);
    let options = inside("options").unwrap_or(none);
    let parameters = inside("parameters").unwrap_or(none);

    facts.model = words(first(&[(top, &["model", "model_id", "modelId"])]));
    facts.stream = first(&[(top, &["stream"])]).and_then(Value::as_bool);
    let stream_options = inside("stream_options").unwrap_or(none);
    facts.include_usage = first(&[(stream_options, &["include_usage"])]).and_then(Value::as_bool);
    let tier = inside("serviceTier").unwrap_or(none);
    facts.service_tier = words(first(&[(top, &["service_tier"]), (tier, &["type"]), (top, &["serviceTier"])]));
    facts.max_tokens = count(first(&[
        (
            top,
            &[
                "max_completion_tokens",
                "max_output_tokens",
                "max_tokens",
                "max_tokens_to_sample",
                "max_new_tokens",
                "max_gen_len",
                "maxTokens",
            ],
        ),
        (generation, &["maxOutputTokens"]),
        (snake_generation, &["max_output_tokens"]),
        (inference, &["maxTokens", "max_new_tokens"]),
        (titan, &["maxTokenCount"]),
        (options, &["num_predict"]),
        (top, &["num_predict"]),
        (parameters, &["max_tokens", "max_new_tokens", "maxOutputTokens"]),
    ]));
    facts.temperature = first(&[
        (top, &["temperature"]),
        (generation, &["temperature"]),
        (snake_generation, &["temperature"]),
        (inference, &["temperature"]),
        (titan, &["temperature"]),
        (options, &["temperature"]),
        (parameters, &["temperature"]),
    ])
    .and_then(Value::as_f64);
    facts.top_p = first(&[
        (top, &["top_p", "topP"]),
        (generation, &["topP"]),
        (snake_generation, &["top_p"]),
        (inference, &["topP"]),
        (titan, &["topP"]),
        (options, &["top_p"]),
        (parameters, &["top_p", "topP"]),
        (top, &["p"]),
    ])
    .and_then(Value::as_f64);
    let within = |parent: &'static str, name: &'static str| top.get(parent).and_then(|parent| parent.get(name));
    let thinking = generation.get("thinkingConfig").and_then(|thinking| thinking.get("thinkingLevel"));
    facts.reasoning_effort = words(
        first(&[(top, &["reasoning_effort"])])
            .or_else(|| given(within("reasoning", "effort")))
            .or_else(|| given(within("output_config", "effort")))
            .or_else(|| given(thinking))
            .or_else(|| first(&[(snake_generation, &["thinking_level"]), (top, &["think"])])),
    );
    let image = inside("imageGenerationConfig").unwrap_or(none);
    facts.choice_count = count(first(&[
        (top, &["n", "num_generations"]),
        (generation, &["candidateCount"]),
        (parameters, &["sampleCount"]),
        (image, &["numberOfImages"]),
    ]));
}

/// The first of these members that is there; `null` is absent.
fn first<'v>(places: &[(&'v Members, &[&str])]) -> Option<&'v Value> {
    places.iter().find_map(|(members, names)| {
        let members = Some(*members).filter(|members| !members.is_empty())?;
        names.iter().find_map(|name| given(members.get(name)))
    })
}

fn given(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

fn words(value: Option<&Value>) -> Option<String> {
    let word = value?.as_str()?;
    Some(word[..word.floor_char_boundary(MAX_TEXT)].to_owned())
}

/// Some clients write whole numbers as `1024.0`.
fn count(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    value.as_u64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..1e15).contains(n)).map(|n| n as u64))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::decompress::tests::pack;
    use super::*;
    use crate::protocol::random::Random;

    const FORM: &str = "multipart/form-data; boundary=\"x-bound\"";

    fn tap(content_type: &str, encoding: Option<&str>, pieces: &[&[u8]]) -> RequestFacts {
        let mut tap = RequestTap::new(Protocol::OpenaiChat, Some(content_type), encoding);
        for piece in pieces {
            tap.feed(piece);
        }
        tap.finish()
    }

    /// Comparable, the prompt's text included.
    fn shown(facts: &RequestFacts) -> String {
        format!("{facts:?} {}", facts.prompt.kept())
    }

    /// Reads whole, cut at every byte, at random, and compressed four ways; all must agree.
    fn facts(content_type: &str, body: impl AsRef<[u8]>) -> RequestFacts {
        let body = body.as_ref();
        let expected = tap(content_type, None, &[body]);
        for at in 0..=body.len() {
            let cut = tap(content_type, None, &[&body[..at], &body[at..]]);
            assert_eq!(shown(&cut), shown(&expected), "cut at {at}");
        }
        let single: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(shown(&tap(content_type, None, &single)), shown(&expected));
        let mut random = Random(body.len() as u64);
        for encoding in ["gzip", "deflate", "br", "zstd"] {
            let packed = pack(encoding, body);
            let mut got = tap(content_type, Some(encoding), &random.cut(&packed));
            assert_eq!(got.bytes, packed.len() as u64);
            (got.bytes, got.hash) = (expected.bytes, expected.hash);
            assert_eq!(shown(&got), shown(&expected), "{encoding}");
        }
        expected
    }

    fn of_json(value: Value) -> RequestFacts {
        facts("application/json", value.to_string())
    }

    #[test]
    fn a_chat_request() {
        let got = of_json(json!({
            "model": "gpt-x", "stream": true, "stream_options": {"include_usage": true}, "service_tier": "flex",
            "max_completion_tokens": 100, "temperature": 0.5, "top_p": 1, "reasoning_effort": "low", "n": 2,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": " Look:"},
                    {"type": "image_url", "image_url": {"url": "https://example.test/picture"}}]},
                {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function",
                    "function": {"name": " f", "arguments": " {}"}}]},
            ],
            "tools": [{"type": "function", "function": {"name": " g", "description": " does"}}],
        }));
        assert_eq!(got.model.as_deref(), Some("gpt-x"));
        assert_eq!((got.stream, got.include_usage), (Some(true), Some(true)));
        assert_eq!((got.service_tier.as_deref(), got.reasoning_effort.as_deref()), (Some("flex"), Some("low")));
        assert_eq!(
            (got.max_tokens, got.temperature, got.top_p, got.choice_count),
            (Some(100), Some(0.5), Some(1.0), Some(2))
        );
        assert_eq!(got.prompt.kept(), "Be brief. Look: f {} g does");
        assert_eq!(got.unreadable, None);
    }

    #[test]
    fn caps_and_prompts_of_the_other_protocols() {
        for (body, max_tokens, prompt) in [
            (
                json!({"max_tokens": 1, "system": [{"type":"text","text":"s"}], "messages": [{"role":"user","content":"u"}]}),
                1,
                "su",
            ),
            (
                json!({"max_output_tokens": 2, "instructions": "i", "input": [{"type":"message","role":"user",
                "content":[{"type":"input_text","text":"t"}]}]}),
                2,
                "it",
            ),
            (
                json!({"contents": [{"role":"user","parts":[{"text":"c"},{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}],
                "systemInstruction": {"parts":[{"text":"s"}]}, "generationConfig": {"maxOutputTokens": 3}}),
                3,
                "cs",
            ),
            (
                json!({"messages": [{"role":"user","content":[{"text":"b"},{"image":{"format":"png","source":{"bytes":"AAAA"}}}]}],
                "inferenceConfig": {"maxTokens": 4}}),
                4,
                "b",
            ),
            (json!({"prompt": "\n\nHuman:", "max_tokens_to_sample": 5.0}), 5, "\n\nHuman:"),
            (
                json!({"messages": [{"role":"user","content":"o","images":["AAAA"]}], "options": {"num_predict": 6}}),
                6,
                "o",
            ),
            (json!({"message": "m", "chat_history": [{"role":"USER","message":"h"}], "max_tokens": 7}), 7, "mh"),
            (json!({"input": {"messages":[{"role":"user","content":"d"}]}, "parameters": {"max_tokens": 8}}), 8, "d"),
            (json!({"inputText": "t", "textGenerationConfig": {"maxTokenCount": 9}}), 9, "t"),
        ] {
            let got = of_json(body.clone());
            assert_eq!((got.max_tokens, got.prompt.kept()), (Some(max_tokens), prompt), "{body}");
        }
        let tiers = of_json(json!({"serviceTier": {"type": "priority"}, "think": "high", "model_id": "m"}));
        assert_eq!(
            (tiers.service_tier.as_deref(), tiers.reasoning_effort.as_deref(), tiers.model.as_deref()),
            (Some("priority"), Some("high"), Some("m"))
        );
        let odd = of_json(json!({"model": 5, "stream": "yes", "max_tokens": -1, "n": "two", "think": true}));
        assert_eq!(
            (odd.model, odd.stream, odd.max_tokens, odd.choice_count, odd.reasoning_effort),
            (None, None, None, None, None)
        );
    }

    #[test]
    fn images_are_neither_kept_nor_counted() {
        let image = "iVBORw0KGgo4".repeat(400_000);
        let body = json!({"model": "m", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{image}")}},
            {"type": "new_kind", "payload": image}, {"type": "text", "text": "what is it"}]}], "max_tokens": 5});
        let body = body.to_string();
        let pieces: Vec<&[u8]> = body.as_bytes().chunks(16_384).collect();
        let got = tap("application/json", None, &pieces);
        assert_eq!((got.prompt.kept(), got.prompt.total_bytes()), ("what is it", 10));
        assert_eq!((got.max_tokens, got.bytes, got.unreadable), (Some(5), body.len() as u64, None));
    }

    #[test]
    fn texts_are_bounded() {
        let got = of_json(json!({"model": "é".repeat(200)}));
        assert_eq!(got.model.map(|model| model.len()), Some(256));
    }

    #[test]
    fn hashes_tell_bodies_apart() {
        let hash = |pieces: &[&[u8]]| tap("text/plain", None, pieces).hash;
        assert_eq!(hash(&[b"one body"]), hash(&[b"one", b" ", b"body"]));
        assert_ne!(hash(&[b"one body"]), hash(&[b"one bodz"]));
    }

    #[test]
    fn a_form() {
        let body = "preamble\r\n--x-bound\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--x-bound\r\n\
            content-type: audio/mpeg\r\ncontent-disposition: form-data; filename=\"a;name=\\\"model\\\".mp3\"; name=\"file\"\r\n\r\n\
            \r\n--x-boun\r\r\n--\r\n--x-bounx\r\n--x-bound  \r\nContent-Disposition: form-data; name=stream\r\n\r\ntrue\r\n--x-bound\r\n\
            Content-Disposition: form-data; name=\"prompt\"\r\nContent-Type: text/plain\r\n\r\nline\r\nt\u{fc}r\r\n--x-bound\r\n\
            Content-Disposition: form-data; name=\"n\"\r\n\r\n3\r\n--x-bound\r\n\
            Content-Disposition: form-data; name=\"other\"\r\n\r\n\r\n--x-bound--\r\nmodel=after\r\n--x-bound\r\n";
        let got = facts(FORM, body);
        assert_eq!((got.model.as_deref(), got.stream, got.choice_count), (Some("whisper-1"), Some(true), Some(3)));
        assert_eq!(got.prompt.kept(), "line\r\ntür");
        let starts = facts(FORM, "--x-bound\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n5\r\n--x-bound--");
        assert_eq!(starts.model.as_deref(), Some("5"));
        let cut = facts(FORM, "--x-bound\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper");
        assert_eq!(cut.model, None, "a field that broke off");
        assert_eq!(tap("multipart/form-data", None, &[b"x"]).unreadable, Some(Unreadable::DecodeError));
    }

    #[test]
    fn a_large_file_is_not_stored() {
        let mut random = Random(4);
        let file: Vec<u8> = (0..300_000).map(|_| b"\r\n-x-bound"[random.below(10)]).collect();
        let head = b"--x-bound\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
        let tail = b"\r\n--x-bound\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--x-bound--\r\n";
        let long =
            [b"--x-bound\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n".to_vec(), b"y".repeat(300_000)];
        let body = [&head[..], &file, tail].concat();
        for _ in 0..5 {
            assert_eq!(tap(FORM, None, &random.cut(&body)).model.as_deref(), Some("m"));
        }
        let body = [&long.concat()[..], tail].concat();
        let got = tap(FORM, None, &[&body]);
        assert_eq!((got.model.as_deref(), got.prompt.kept().len()), (Some("m"), TextSample::CAPACITY));
    }

    #[test]
    fn what_is_neither_is_only_counted() {
        for (content_type, body, why) in [
            ("application/json", "model=x", Some(Unreadable::DecodeError)),
            ("application/json", "{\"model\":\"m\" oops", Some(Unreadable::DecodeError)),
            ("application/x-www-form-urlencoded", "model=x", None),
            ("audio/wav", "RIFF", None),
            ("application/json", "", None),
            ("", "  ", None),
        ] {
            let got = facts(content_type, body);
            assert_eq!((got.unreadable, got.bytes), (why, body.len() as u64), "{content_type} {body}");
        }
        let untyped = facts("", "{\"model\":\"m\"}");
        assert_eq!(untyped.model.as_deref(), Some("m"));
        let odd = tap("application/json", Some("snappy"), &[b"xx"]);
        assert_eq!((odd.unreadable, odd.bytes), (Some(Unreadable::UnsupportedEncoding), 2));
        assert_eq!(RequestTap::new(Protocol::Opaque, Some("application/json"), None).finish().unreadable, None);
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut random = Random(6);
        let words: [&[u8]; 10] = [
            b"--x-bound",
            b"\r\n",
            b"--",
            b"Content-Disposition: form-data; name=",
            b"\"model\"",
            b";",
            b"\r",
            b"\n",
            b"v",
            b"=",
        ];
        for _ in 0..2000 {
            let body: Vec<u8> = (0..random.below(40)).flat_map(|_| words[random.below(10)].to_vec()).collect();
            let single: Vec<&[u8]> = body.chunks(1).collect();
            assert_eq!(shown(&tap(FORM, None, &single)), shown(&tap(FORM, None, &[&body])));
        }
    }
}
