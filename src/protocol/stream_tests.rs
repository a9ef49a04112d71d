//! A stream says the same of usage as the answer that was not streamed, in every format that streams.
//!
//! No provider gives one answer twice, so both are built here: any usage, written as the whole answer and as the events
//! that providers send (shapes as in the recorded answers), with events of text before, between and after.

use serde_json::{Map, Value, json};

use super::eventstream::message;
use super::eventstream::tests::chunk;
use super::random::Random;
use super::{Decoder, ReplyHint, family};
use crate::call::{Protocol, Reply};

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";
const EVENTS: &str = "application/vnd.amazon.eventstream";

/// How the documents of a stream are sent.
enum Framing {
    /// `data:` lines, with the event's name before them where it has one.
    Sse,
    Lines,
    Array,
    /// AWS event stream; `true`: each document is wrapped in a `chunk`.
    Events(bool),
}

/// One answer, written both ways.
struct Pair {
    whole: Value,
    framing: Framing,
    /// Names and documents.
    events: Vec<(Option<&'static str>, Value)>,
    /// Ends with `data: [DONE]`.
    done: bool,
}

type Builder = fn(&mut Random) -> Pair;

fn read(protocol: Protocol, content_type: &str, body: &[u8]) -> Reply {
    let mut decoder =
        Decoder::new(family(protocol), ReplyHint { status: 200, content_type: Some(content_type), protocol });
    decoder.feed(body);
    decoder.finish(true)
}

impl Pair {
    fn stream(&self, random: &mut Random) -> (&'static str, Vec<u8>) {
        let mut out = Vec::new();
        for (i, (name, document)) in self.events.iter().enumerate() {
            let text = document.to_string();
            match self.framing {
                Framing::Sse => {
                    let end = *random.pick(&[&"\n", &"\r\n"]);
                    if let Some(name) = name {
                        out.extend(format!("event: {name}{end}").bytes());
                    }
                    out.extend(format!("data: {text}{end}{end}").bytes());
                    if random.below(4) == 0 {
                        out.extend_from_slice(b": ping\n\n");
                    }
                }
                Framing::Lines => out.extend(format!("{text}\n").bytes()),
                Framing::Array => out.extend(format!("{}{text}\n", if i == 0 { "[" } else { "," }).bytes()),
                Framing::Events(true) => out.extend(chunk(&text)),
                Framing::Events(false) => {
                    let headers = [(":event-type", name.expect("named")), (":message-type", "event")];
                    out.extend(message(&headers, text.as_bytes()));
                }
            }
        }
        if self.done {
            out.extend_from_slice(b"data: [DONE]\n\n");
        }
        let content_type = match self.framing {
            Framing::Sse => SSE,
            Framing::Lines => LINES,
            Framing::Array => {
                out.push(b']');
                JSON
            }
            Framing::Events(_) => EVENTS,
        };
        (content_type, out)
    }
}

/// Counts under some of `names`, `a.b` for one inside of another object; at least under the first two.
fn counts(random: &mut Random, names: &[&str]) -> Value {
    let mut usage = Map::new();
    for (i, name) in names.iter().enumerate() {
        if i >= 2 && random.below(2) == 0 {
            continue;
        }
        let count = Value::from(random.next() >> (14 + random.below(50)));
        match name.split_once('.') {
            Some((outer, inner)) => {
                let outer = usage.entry(outer).or_insert_with(|| json!({}));
                outer[inner] = count;
            }
            None => drop(usage.insert((*name).to_owned(), count)),
        }
    }
    usage.into()
}

const CHAT: &[&str] = &[
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_details.cached_tokens",
    "prompt_tokens_details.audio_tokens",
    "completion_tokens_details.reasoning_tokens",
    "completion_tokens_details.audio_tokens",
    "total_tokens",
];

fn openai_chat(random: &mut Random) -> Pair {
    let usage = counts(random, CHAT);
    let head = json!({ "id": "chatcmpl-1", "model": "gpt-4o-mini", "service_tier": "default" });
    let with = |more: Value| {
        let mut document = head.clone();
        document.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        document
    };
    let mut events = vec![
        (None, with(json!({ "choices": [{ "index": 0, "delta": { "content": "made" } }], "usage": null }))),
        (None, with(json!({ "choices": [{ "index": 0, "delta": { "content": " up" } }] }))),
        (None, with(json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }))),
    ];
    // At the end in a chunk of its own, with the last choice (Groq, Mistral), or in every chunk, growing (Perplexity).
    match random.below(3) {
        0 => events.push((None, with(json!({ "choices": [], "usage": usage })))),
        1 => events[2].1["usage"] = usage.clone(),
        _ => {
            events[0].1["usage"] = json!({ "prompt_tokens": 1, "completion_tokens": 0 });
            events[2].1["usage"] = usage.clone();
        }
    }
    let message = json!({ "index": 0, "message": { "content": "made up" }, "finish_reason": "stop" });
    Pair { whole: with(json!({ "choices": [message], "usage": usage })), framing: Framing::Sse, events, done: true }
}

fn openai_completions(random: &mut Random) -> Pair {
    let usage = counts(random, &["prompt_tokens", "completion_tokens", "total_tokens"]);
    let document = |text: &str, reason: Value, usage: Value| {
        json!({ "id": "cmpl-1", "model": "davinci-002",
            "choices": [{ "index": 0, "text": text, "finish_reason": reason }], "usage": usage })
    };
    let events = vec![
        (None, document("made", Value::Null, Value::Null)),
        (None, document(" up", "stop".into(), Value::Null)),
        (None, json!({ "id": "cmpl-1", "model": "davinci-002", "choices": [], "usage": usage })),
    ];
    Pair { whole: document("made up", "stop".into(), usage), framing: Framing::Sse, events, done: true }
}

fn openai_responses(random: &mut Random) -> Pair {
    let usage = counts(
        random,
        &[
            "input_tokens",
            "output_tokens",
            "input_tokens_details.cached_tokens",
            "output_tokens_details.reasoning_tokens",
            "total_tokens",
        ],
    );
    let response = json!({ "id": "resp_1", "object": "response", "model": "gpt-5", "status": "completed",
        "service_tier": "default", "usage": usage, "tools": [{ "type": "web_search" }], "output": [
            { "type": "web_search_call", "action": { "type": "search" } },
            { "type": "message", "content": [{ "type": "output_text", "text": "made up" }] }] });
    let mut begun = response.clone();
    begun["status"] = "in_progress".into();
    begun["usage"] = Value::Null;
    begun["output"] = json!([]);
    let events = vec![
        (Some("response.created"), json!({ "type": "response.created", "response": begun })),
        (Some("response.output_text.delta"), json!({ "type": "response.output_text.delta", "delta": "made up" })),
        (Some("response.completed"), json!({ "type": "response.completed", "response": response })),
    ];
    Pair { whole: response, framing: Framing::Sse, events, done: false }
}

const ANTHROPIC: &[&str] = &[
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation.ephemeral_1h_input_tokens",
    "server_tool_use.web_search_requests",
    "output_tokens_details.thinking_tokens",
];

/// The events of Messages, without names.
fn anthropic_events(random: &mut Random, usage: &Value) -> Vec<Value> {
    // The first counts are lower and the last ones complete, as after server tools; or the last are the output alone.
    let (mut first, mut last) = (usage.clone(), usage.clone());
    first["output_tokens"] = 1.into();
    match random.below(2) {
        0 => first["input_tokens"] = 2.into(),
        _ => {
            last = json!({ "output_tokens": usage["output_tokens"], "output_tokens_details": usage["output_tokens_details"] })
        }
    }
    vec![
        json!({ "type": "message_start", "message": { "id": "msg_1", "model": "claude", "usage": first } }),
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "made up" } }),
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": last }),
        json!({ "type": "message_stop" }),
    ]
}

fn anthropic_whole(usage: &Value) -> Value {
    json!({ "type": "message", "id": "msg_1", "model": "claude", "stop_reason": "end_turn", "usage": usage,
        "content": [{ "type": "text", "text": "made up" }] })
}

fn anthropic_messages(random: &mut Random) -> Pair {
    let usage = counts(random, ANTHROPIC);
    let names = ["message_start", "content_block_delta", "message_delta", "message_stop"];
    let events = names.into_iter().map(Some).zip(anthropic_events(random, &usage)).collect();
    Pair { whole: anthropic_whole(&usage), framing: Framing::Sse, events, done: false }
}

fn bedrock_invoke(random: &mut Random) -> Pair {
    let usage = counts(random, &ANTHROPIC[..4]);
    let mut events: Vec<_> = anthropic_events(random, &usage).into_iter().map(|event| (None, event)).collect();
    events[3].1["amazon-bedrock-invocationMetrics"] = json!({
        "inputTokenCount": usage["input_tokens"], "outputTokenCount": usage["output_tokens"],
        "cacheReadInputTokenCount": usage["cache_read_input_tokens"],
        "cacheWriteInputTokenCount": usage["cache_creation_input_tokens"], "invocationLatency": 5 });
    Pair { whole: anthropic_whole(&usage), framing: Framing::Events(true), events, done: false }
}

/// A model of OpenAI's format on Bedrock: its stream ends with Bedrock's own count.
fn bedrock_chat(random: &mut Random) -> Pair {
    let mut pair = Pair { framing: Framing::Events(true), done: false, ..openai_chat(random) };
    let usage = &pair.whole["usage"];
    let metrics = json!({ "inputTokenCount": usage["prompt_tokens"], "outputTokenCount": usage["completion_tokens"] });
    pair.events.last_mut().expect("events").1["amazon-bedrock-invocationMetrics"] = metrics;
    pair
}

fn bedrock_converse(random: &mut Random) -> Pair {
    let usage = counts(
        random,
        &["inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens", "totalTokens"],
    );
    let whole = json!({ "output": { "message": { "content": [{ "text": "made up" }] } }, "stopReason": "end_turn",
        "usage": usage, "metrics": { "latencyMs": 5 } });
    let events = vec![
        (Some("messageStart"), json!({ "role": "assistant" })),
        (Some("contentBlockDelta"), json!({ "contentBlockIndex": 0, "delta": { "text": "made up" } })),
        (Some("messageStop"), json!({ "stopReason": "end_turn" })),
        (Some("metadata"), json!({ "usage": usage, "metrics": { "latencyMs": 5 } })),
    ];
    Pair { whole, framing: Framing::Events(false), events, done: false }
}

fn gemini(random: &mut Random) -> Pair {
    let mut usage = counts(
        random,
        &[
            "promptTokenCount",
            "candidatesTokenCount",
            "thoughtsTokenCount",
            "cachedContentTokenCount",
            "toolUsePromptTokenCount",
        ],
    );
    if random.below(2) == 0 {
        usage["promptTokensDetails"] =
            json!([{ "modality": "TEXT", "tokenCount": 5 }, { "modality": "AUDIO", "tokenCount": random.below(99) }]);
    }
    let document = |text: &str, reason: Value, usage: Value| {
        json!({ "responseId": "r", "modelVersion": "gemini-2.5-flash", "usageMetadata": usage,
            "candidates": [{ "index": 0, "content": { "parts": [{ "text": text }] }, "finishReason": reason }] })
    };
    // Each chunk has the counts so far.
    let events = vec![
        (
            None,
            document(
                "made",
                Value::Null,
                json!({ "promptTokenCount": usage["promptTokenCount"], "candidatesTokenCount": 1 }),
            ),
        ),
        (None, document(" up", "STOP".into(), usage.clone())),
    ];
    let framing = if random.below(2) == 0 { Framing::Sse } else { Framing::Array };
    Pair { whole: document("made up", "STOP".into(), usage), framing, events, done: false }
}

fn gemini_interactions(random: &mut Random) -> Pair {
    let usage = counts(
        random,
        &[
            "total_input_tokens",
            "total_output_tokens",
            "total_thought_tokens",
            "total_cached_tokens",
            "total_tool_use_tokens",
        ],
    );
    let whole = json!({ "id": "i", "model": "gemini-3", "status": "completed", "usage": usage,
        "outputs": [{ "type": "text", "text": "made up" }] });
    let events = vec![
        (
            Some("interaction.start"),
            json!({ "event_type": "interaction.start", "interaction": { "id": "i", "status": "in_progress" } }),
        ),
        (Some("content.delta"), json!({ "event_type": "content.delta", "delta": { "text": "made up" } })),
        (Some("interaction.complete"), json!({ "event_type": "interaction.complete", "interaction": whole })),
    ];
    Pair { whole, framing: Framing::Sse, events, done: true }
}

fn cohere_v2(random: &mut Random) -> Pair {
    let usage = counts(
        random,
        &[
            "billed_units.input_tokens",
            "billed_units.output_tokens",
            "billed_units.search_units",
            "tokens.input_tokens",
            "tokens.reasoning_tokens",
        ],
    );
    let whole = json!({ "id": "c", "finish_reason": "COMPLETE", "usage": usage,
        "message": { "content": [{ "type": "text", "text": "made up" }] } });
    let events = vec![
        (None, json!({ "type": "message-start", "id": "c", "delta": { "message": { "role": "assistant" } } })),
        (
            None,
            json!({ "type": "content-delta", "index": 0, "delta": { "message": { "content": { "text": "made up" } } } }),
        ),
        (None, json!({ "type": "message-end", "delta": { "finish_reason": "COMPLETE", "usage": usage } })),
    ];
    Pair { whole, framing: Framing::Sse, events, done: true }
}

fn cohere_v1(random: &mut Random) -> Pair {
    let meta = counts(random, &["billed_units.input_tokens", "billed_units.output_tokens", "tokens.input_tokens"]);
    let whole = json!({ "response_id": "c", "text": "made up", "finish_reason": "COMPLETE", "meta": meta, "generation_id": "g" });
    let events = vec![
        (None, json!({ "event_type": "stream-start", "generation_id": "g" })),
        (None, json!({ "event_type": "text-generation", "text": "made up" })),
        (
            None,
            json!({ "event_type": "stream-end", "finish_reason": "COMPLETE",
            "response": { "response_id": "c", "meta": meta } }),
        ),
    ];
    Pair { whole, framing: Framing::Lines, events, done: false }
}

fn ollama(random: &mut Random) -> Pair {
    let usage = counts(random, &["prompt_eval_count", "eval_count"]);
    let mut whole =
        json!({ "model": "llama3", "message": { "content": "made up" }, "done": true, "done_reason": "stop" });
    whole.as_object_mut().expect("an object").extend(usage.as_object().expect("an object").clone());
    let mut end = whole.clone();
    end["message"]["content"] = "".into();
    let events =
        vec![(None, json!({ "model": "llama3", "message": { "content": "made up" }, "done": false })), (None, end)];
    Pair { whole, framing: Framing::Lines, events, done: false }
}

fn dashscope(random: &mut Random) -> Pair {
    let usage = counts(random, &["input_tokens", "output_tokens", "total_tokens"]);
    let document = |text: &str, reason: &str, usage: &Value| json!({ "request_id": "d", "output": { "text": text, "finish_reason": reason }, "usage": usage });
    let begun = json!({ "input_tokens": usage["input_tokens"], "output_tokens": 1 });
    let events = vec![(None, document("made", "null", &begun)), (None, document("made up", "stop", &usage))];
    Pair { whole: document("made up", "stop", &usage), framing: Framing::Sse, events, done: false }
}

fn watsonx(random: &mut Random) -> Pair {
    let (input, output) = (random.below(100_000), 1 + random.below(100_000));
    let document = |text: &str, reason: &str, input: usize, output: usize| {
        json!({ "model_id": "granite", "results": [{ "generated_text": text, "generated_token_count": output,
            "input_token_count": input, "stop_reason": reason }] })
    };
    // The first event alone tells the input.
    let events = vec![
        (Some("message"), document("made", "not_finished", input, 1)),
        (Some("message"), document(" up", "eos_token", 0, output)),
    ];
    Pair { whole: document("made up", "eos_token", input, output), framing: Framing::Sse, events, done: false }
}

#[test]
fn a_stream_has_the_usage_of_the_answer_that_was_not_streamed() {
    let builders: [(Protocol, Builder); 14] = [
        (Protocol::OpenaiChat, openai_chat),
        (Protocol::OpenaiCompletions, openai_completions),
        (Protocol::OpenaiResponses, openai_responses),
        (Protocol::AnthropicMessages, anthropic_messages),
        (Protocol::BedrockInvoke, bedrock_invoke),
        (Protocol::BedrockInvoke, bedrock_chat),
        (Protocol::BedrockConverse, bedrock_converse),
        (Protocol::Gemini, gemini),
        (Protocol::GeminiInteractions, gemini_interactions),
        (Protocol::CohereV2, cohere_v2),
        (Protocol::CohereV1, cohere_v1),
        (Protocol::Ollama, ollama),
        (Protocol::DashscopeNative, dashscope),
        (Protocol::Watsonx, watsonx),
    ];
    let mut random = Random(23);
    for (protocol, build) in builders {
        for round in 0..300 {
            let pair = build(&mut random);
            let whole = read(protocol, JSON, pair.whole.to_string().as_bytes());
            let (content_type, body) = pair.stream(&mut random);
            let stream = read(protocol, content_type, &body);
            let what = || format!("{protocol} round {round}: {} and {}", pair.whole, String::from_utf8_lossy(&body));
            assert!(!whole.stream && stream.stream && whole.terminal && stream.terminal, "{}", what());
            assert!(whole.usage.as_ref().is_some_and(|usage| usage.output_tokens.is_some()), "{}", what());
            assert_eq!(stream.usage, whole.usage, "{}", what());
            assert_eq!((&stream.parts, stream.stated_cost), (&whole.parts, whole.stated_cost), "{}", what());
            assert_eq!((&stream.model, &stream.id), (&whole.model, &whole.id), "{}", what());
            assert_eq!(stream.finish_reasons, whole.finish_reasons, "{}", what());
            assert_eq!(stream.service_tier, whole.service_tier, "{}", what());
            assert_eq!((&stream.error, stream.unreadable), (&None, None), "{}", what());
            assert_eq!(stream.output.total_bytes() > 0, whole.output.total_bytes() > 0, "{}", what());
        }
    }
}
