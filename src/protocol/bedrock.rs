//! AWS Bedrock: Converse, InvokeModel in the models' own formats, agents and knowledge bases.
//!
//! Event-stream payloads arrive here as JSON documents; for InvokeModel streams the driver has already taken the model's
//! document out of the `chunk` event's base64 `bytes`. Converse counts exclude the cache. InvokeModel usage is, in this
//! order: what the model's own format says, `amazon-bedrock-invocationMetrics` in the last chunk, response headers
//! ([`usage_from_headers`]).

use std::sync::LazyLock;

use super::anthropic::{self, AnthropicMessages};
use super::json::Value;
use super::openai_chat::{self, OpenaiChat};
use super::openai_usage;
use super::read::{
    add, any_output, at, clip, count_at, deep, exception, finish, get, keep, merge, presence, set, str_at, sum, text,
    wrapped_error,
};
use super::{Family, Interest, Seen};
use crate::call::{Reply, ResponseFacts, Usage, UsagePart};

/// Usage that Bedrock's InvokeModel answers state in their headers only (embeddings, Mistral, Cohere, AI21; recorded
/// answers). As in Converse, the input excludes the cache.
pub fn usage_from_headers(head: &ResponseFacts) -> Option<Usage> {
    let count = |name: &str| head.header(name).and_then(|text| text.trim().parse::<u64>().ok());
    let input = count("x-amzn-bedrock-input-token-count");
    let cache_read = count("x-amzn-bedrock-cache-read-input-token-count");
    let cache_write = count("x-amzn-bedrock-cache-write-input-token-count");
    let usage = Usage {
        input_tokens: with_cache(input, cache_read, cache_write),
        output_tokens: count("x-amzn-bedrock-output-token-count"),
        cache_read_tokens: cache_read,
        cache_write_tokens: cache_write,
        ..Usage::default()
    };
    (!usage.is_empty()).then_some(usage)
}

fn with_cache(input: Option<u64>, cache_read: Option<u64>, cache_write: Option<u64>) -> Option<u64> {
    input.map(|input| input.saturating_add(cache_read.unwrap_or(0)).saturating_add(cache_write.unwrap_or(0)))
}

/// Paths of Converse answers and of the contents of its events.
const CONVERSE: &[Interest] = &[
    keep("usage"),
    keep("stopReason"),
    keep("serviceTier"),
    keep("trace.promptRouter.invokedModelId"),
    text("output.message.content.*.text"),
    text("output.message.content.*.toolUse.name"),
    deep("output.message.content.*.toolUse.input"),
    text("output.message.content.*.reasoningContent.reasoningText.text"),
    text("delta.text"),
    text("delta.toolUse.input"),
    text("delta.reasoningContent.text"),
    presence("delta.reasoningContent.redactedContent"),
    text("start.toolUse.name"),
    keep("message"),
    keep("Message"),
    keep("error"),
];

/// Converse and ConverseStream.
#[derive(Debug, Default)]
pub(super) struct BedrockConverse;

impl Family for BedrockConverse {
    fn interests(&self) -> &'static [Interest] {
        CONVERSE
    }

    fn read(&mut self, event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        if exception(event, doc, reply) || wrapped_error(doc, reply) {
            return Seen::default();
        }
        if let Some(object) = get(doc, "usage") {
            merge(reply, converse_usage(object));
            reply.stated_cost = openai_usage::stated_cost(object).or(reply.stated_cost);
        }
        if let Some(reason) = str_at(doc, "stopReason") {
            finish(reply, 0, reason);
        }
        set(&mut reply.service_tier, at(doc, &["serviceTier", "type"]));
        set(&mut reply.model, at(doc, &["trace", "promptRouter", "invokedModelId"]));
        let output = any_output(doc.get("delta")) || any_output(doc.get("start")) || any_output(doc.get("output"));
        // `metadata` with the usage follows `messageStop`; the answer is whole with either.
        Seen { output, terminal: streaming && matches!(event, Some("messageStop" | "metadata")) }
    }

    fn has_terminal_event(&self) -> bool {
        true
    }
}

/// Converse `usage`; older answers call the cache counts `…TokenCount` (recorded answers).
fn converse_usage(object: &Value) -> Usage {
    let count = |names: &[&str]| names.iter().find_map(|name| count_at(object, &[name]));
    let cache_read = count(&["cacheReadInputTokens", "cacheReadInputTokenCount"]);
    let cache_write = count(&["cacheWriteInputTokens", "cacheWriteInputTokenCount"]);
    let hour = object.get("cacheDetails").and_then(Value::as_array).and_then(|details| {
        let hours = details.iter().filter(|detail| str_at(detail, "ttl") == Some("1h"));
        hours.fold(None, |total, detail| sum(total, count_at(detail, &["inputTokens"])))
    });
    Usage {
        input_tokens: with_cache(count(&["inputTokens"]), cache_read, cache_write),
        output_tokens: count(&["outputTokens"]),
        cache_read_tokens: cache_read,
        cache_write_tokens: cache_write,
        cache_write_1h_tokens: hour,
        ..Usage::default()
    }
}

/// Paths of the formats that only Bedrock serves like this; the rest are those of the families that it embeds.
const INVOKE: &[Interest] = &[
    keep("amazon-bedrock-invocationMetrics"),
    keep("amazon-bedrock-guardrailAction"),
    // Nova: Converse events as keys.
    text("contentBlockDelta.delta.text"),
    text("contentBlockDelta.delta.toolUse.input"),
    text("contentBlockDelta.delta.reasoningContent.text"),
    text("contentBlockStart.start.toolUse.name"),
    keep("messageStop.stopReason"),
    keep("metadata.usage"),
    // Titan.
    keep("inputTextTokenCount"),
    keep("totalOutputTextTokenCount"),
    keep("completionReason"),
    text("outputText"),
    keep("results.*.tokenCount"),
    keep("results.*.completionReason"),
    text("results.*.outputText"),
    // Llama.
    keep("prompt_token_count"),
    keep("generation_token_count"),
    text("generation"),
    // Mistral.
    text("outputs.*.text"),
    keep("outputs.*.stop_reason"),
    // Cohere.
    text("generations.*.text"),
    keep("generations.*.finish_reason"),
    text("text"),
    keep("finish_reason"),
    keep("generation_id"),
    // AI21.
    text("completions.*.data.text"),
    // Stability, Titan Image.
    presence("images.*"),
];

static INVOKE_ALL: LazyLock<Vec<Interest>> = LazyLock::new(|| {
    let mut all: Vec<Interest> = Vec::new();
    let lists = [INVOKE, anthropic::INTERESTS, CONVERSE, openai_chat::INTERESTS];
    for interest in lists.into_iter().flatten() {
        if !all.iter().any(|known| known.path == interest.path) {
            all.push(*interest);
        }
    }
    all
});

/// InvokeModel and InvokeModelWithResponseStream.
#[derive(Debug, Default)]
pub(super) struct BedrockInvoke {
    anthropic: AnthropicMessages,
    converse: BedrockConverse,
    chat: OpenaiChat,
    is_chat: bool,
    metrics: Option<Usage>,
}

impl Family for BedrockInvoke {
    fn interests(&self) -> &'static [Interest] {
        INVOKE_ALL.as_slice()
    }

    fn read(&mut self, event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        if exception(event, doc, reply) {
            return Seen::default();
        }
        let mut seen = self.read_model(streaming, doc, reply);
        if let Some(metrics) = get(doc, "amazon-bedrock-invocationMetrics") {
            let count = |name: &str| count_at(metrics, &[name]);
            let cache_read = count("cacheReadInputTokenCount");
            let cache_write = count("cacheWriteInputTokenCount");
            self.metrics = Some(Usage {
                input_tokens: with_cache(count("inputTokenCount"), cache_read, cache_write),
                output_tokens: count("outputTokenCount"),
                cache_read_tokens: cache_read,
                cache_write_tokens: cache_write,
                ..Usage::default()
            });
            // Only the last chunk of a stream has them.
            seen.terminal = streaming;
        }
        reply.blocked |= str_at(doc, "amazon-bedrock-guardrailAction") == Some("INTERVENED");
        seen
    }

    fn has_terminal_event(&self) -> bool {
        true
    }

    fn end(&mut self, reply: &mut Reply) {
        if self.is_chat {
            self.chat.end(reply);
        }
        if let Some(mut metrics) = self.metrics.take() {
            if let Some(own) = &reply.usage {
                metrics.merge_later(own);
            }
            reply.usage = Some(metrics);
        }
    }
}

impl BedrockInvoke {
    /// Reads the document in the format that it turns out to have.
    fn read_model(&mut self, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        // The chunk with an OpenAI stream's usage has no choices.
        if self.is_chat || doc.get("choices").is_some() || at(doc, &["usage", "prompt_tokens"]).is_some() {
            self.is_chat = true;
            return self.chat.read(None, streaming, doc, reply);
        }
        for event in ["contentBlockDelta", "contentBlockStart", "messageStop", "metadata"] {
            if let Some(inner) = get(doc, event) {
                return self.converse.read(Some(event), streaming, inner, reply);
            }
        }
        if get(doc, "stopReason").is_some() || at(doc, &["output", "message"]).is_some() {
            return self.converse.read(None, streaming, doc, reply);
        }
        // Cohere's `stream-end` has a `type`-like `event_type`, not a `type`; Cohere embeddings a `response_type`.
        let is_anthropic = str_at(doc, "type").is_some() || doc.get("completion").is_some();
        if is_anthropic || at(doc, &["usage", "input_tokens"]).is_some() {
            return self.anthropic.read(None, streaming, doc, reply);
        }
        set(&mut reply.id, doc.get("id").or(doc.get("generation_id")));
        let results = list(doc, "results");
        let of_results = results.iter().fold(None, |total, one| sum(total, count_at(one, &["tokenCount"])));
        let output_tokens = count_at(doc, &["totalOutputTextTokenCount"])
            .or(of_results)
            .or_else(|| count_at(doc, &["generation_token_count"]));
        let input_tokens = count_at(doc, &["inputTextTokenCount"]).or_else(|| count_at(doc, &["prompt_token_count"]));
        let images = Some(list(doc, "images").len() as u64).filter(|n| *n > 0);
        merge(reply, Usage { input_tokens, output_tokens, images, ..Usage::default() });
        // A guardrail's answer has no reason to end, but the total.
        let mut ended = get(doc, "totalOutputTextTokenCount").is_some();
        for key in ["completionReason", "stop_reason", "finish_reason"] {
            if let Some(reason) = str_at(doc, key) {
                finish(reply, 0, reason);
                ended = true;
            }
        }
        for (key, reason) in
            [("results", "completionReason"), ("outputs", "stop_reason"), ("generations", "finish_reason")]
        {
            for (index, one) in list(doc, key).iter().enumerate() {
                if let Some(reason) = str_at(one, reason) {
                    finish(reply, index, reason);
                }
            }
        }
        wrapped_error(doc, reply);
        let said = ["outputText", "results", "generation", "outputs", "generations", "text", "completions", "images"];
        let output = said.iter().any(|key| match doc.get(key) {
            Some(Value::Array(items)) => items.iter().any(|item| {
                ["outputText", "text", "data"].iter().any(|key| any_output(item.get(key))) || item == &Value::Bool(true)
            }),
            value => any_output(value),
        });
        Seen { output, terminal: streaming && ended }
    }
}

fn list<'a>(doc: &'a Value, key: &str) -> &'a [Value] {
    doc.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Agents, flows of collaborators and knowledge bases: usage is in the trace, one for each step, and adds up.
///
/// Without `enableTrace` in the request there is none.
#[derive(Debug, Default)]
pub(super) struct BedrockAgent {
    /// The model of the step whose output comes next.
    step_model: Option<String>,
}

/// Most models besides the first that get parts of their own.
const STEP_MODELS: usize = 16;

const BEDROCK_AGENT: &[Interest] = &[
    keep("trace.*.modelInvocationInput.foundationModel"),
    keep("trace.*.modelInvocationOutput.metadata.usage"),
    keep("trace.guardrailTrace.action"),
    keep("sessionId"),
    presence("bytes"),
    text("text"),
    text("output.text"),
    keep("guardrailAction"),
    keep("message"),
    keep("error"),
];

impl Family for BedrockAgent {
    fn interests(&self) -> &'static [Interest] {
        BEDROCK_AGENT
    }

    fn read(&mut self, event: Option<&str>, _streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        if exception(event, doc, reply) || wrapped_error(doc, reply) {
            return Seen::default();
        }
        set(&mut reply.conversation_id, doc.get("sessionId"));
        for trace in doc.get("trace").and_then(Value::as_object).into_iter().flat_map(|trace| trace.values()) {
            if let Some(model) = at(trace, &["modelInvocationInput", "foundationModel"]).and_then(Value::as_str) {
                self.step_model = Some(clip(model).to_owned());
            }
            if let Some(object) = at(trace, &["modelInvocationOutput", "metadata", "usage"]) {
                self.add_step(&converse_usage(object), reply);
            }
        }
        reply.blocked |= at(doc, &["trace", "guardrailTrace", "action"]).and_then(Value::as_str) == Some("INTERVENED")
            || str_at(doc, "guardrailAction") == Some("INTERVENED");
        let output =
            any_output(doc.get("bytes")) || any_output(doc.get("text")) || any_output(at(doc, &["output", "text"]));
        Seen { output, terminal: false }
    }

    fn has_terminal_event(&self) -> bool {
        false
    }
}

impl BedrockAgent {
    fn add_step(&mut self, usage: &Usage, reply: &mut Reply) {
        let model = self.step_model.take();
        if reply.model.is_none() {
            reply.model.clone_from(&model);
        }
        if model.is_none() || model == reply.model {
            return add(reply, usage);
        }
        match reply.parts.iter().position(|part| part.model == model) {
            Some(known) => reply.parts[known].usage.add(usage),
            None if reply.parts.len() < STEP_MODELS => reply.parts.push(UsagePart { model, usage: usage.clone() }),
            None => add(reply, usage),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{events, named, whole};
    use super::*;
    use crate::call::Protocol;

    #[test]
    fn converse_input_excludes_the_cache() {
        let reply = whole(
            Protocol::BedrockConverse,
            json!({ "output": { "message": { "content": [{ "text": "a" }] } }, "stopReason": "end_turn", "serviceTier": { "type": "flex" },
                    "usage": { "inputTokens": 3, "outputTokens": 227, "cacheReadInputTokens": 0, "cacheReadInputTokenCount": 0,
                               "cacheWriteInputTokens": 1712, "cacheWriteInputTokenCount": 1712, "totalTokens": 1942,
                               "cacheDetails": [{ "inputTokens": 1700, "ttl": "5m" }, { "inputTokens": 12, "ttl": "1h" }] } }),
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(1715), Some(227)));
        assert_eq!((usage.cache_write_tokens, usage.cache_write_1h_tokens), (Some(1712), Some(12)));
        assert_eq!(reply.service_tier.as_deref(), Some("flex"));
    }

    #[test]
    fn a_converse_stream_and_its_exceptions() {
        let reply = named(
            Protocol::BedrockConverse,
            &[
                ("messageStart", json!({ "role": "assistant", "p": "abc" })),
                ("contentBlockStart", json!({ "start": { "toolUse": { "name": "f", "toolUseId": "t" } } })),
                ("contentBlockDelta", json!({ "delta": { "text": "a" } })),
                ("contentBlockStop", json!({ "contentBlockIndex": 0 })),
                ("messageStop", json!({ "stopReason": "guardrail_intervened" })),
                (
                    "metadata",
                    json!({ "usage": { "inputTokens": 7, "outputTokens": 2 }, "trace": { "promptRouter": { "invokedModelId": "arn:m" } } }),
                ),
            ],
        );
        assert!(reply.terminal && reply.blocked);
        assert_eq!((reply.output_events, reply.usage.expect("usage").input_tokens), (2, Some(7)));
        assert_eq!(reply.model.as_deref(), Some("arn:m"));
        for protocol in
            [Protocol::BedrockConverse, Protocol::BedrockInvoke, Protocol::BedrockAgent, Protocol::AnthropicMessages]
        {
            let reply = named(protocol, &[("throttlingException", json!({ "message": "Too many tokens" }))]);
            assert!(!reply.terminal);
            let body = String::from_utf8(reply.error.expect("error").body).expect("text");
            assert!(body.contains("throttlingException"), "{protocol}: {body}");
        }
    }

    #[test]
    fn invoke_reads_each_model_in_its_own_format() {
        let read = |doc: Value| {
            let reply = whole(Protocol::BedrockInvoke, doc);
            let usage = reply.usage.clone().unwrap_or_default();
            (usage.input_tokens, usage.output_tokens, reply.finish_reasons, reply.output_events)
        };
        let stop = |reason: &str| vec![reason.to_owned()];
        let titan = json!({ "inputTextTokenCount": 6.0, "results": [{ "tokenCount": 26, "outputText": "hey", "completionReason": "FINISH" }] });
        assert_eq!(read(titan), (Some(6), Some(26), stop("FINISH"), 1));
        let embedding = json!({ "embedding": [0.1], "inputTextTokenCount": 12 });
        assert_eq!(read(embedding), (Some(12), None, vec![], 0));
        let llama =
            json!({ "generation": "hi", "prompt_token_count": 9, "generation_token_count": 2, "stop_reason": "stop" });
        assert_eq!(read(llama), (Some(9), Some(2), stop("stop"), 1));
        let claude = json!({ "type": "message", "content": [{ "type": "text", "text": "a" }], "stop_reason": "end_turn", "usage": { "input_tokens": 3, "cache_read_input_tokens": 10, "output_tokens": 4 } });
        assert_eq!(read(claude), (Some(13), Some(4), stop("end_turn"), 1));
        let old_claude = json!({ "completion": "a", "stop_reason": "stop_sequence", "usage": { "input_tokens": 3, "output_tokens": 4 } });
        assert_eq!(read(old_claude), (Some(3), Some(4), stop("stop_sequence"), 1));
        let nova = json!({ "output": { "message": { "content": [{ "text": "a" }] } }, "stopReason": "end_turn", "usage": { "inputTokens": 3, "cacheReadInputTokenCount": 4, "outputTokens": 1 } });
        assert_eq!(read(nova), (Some(7), Some(1), stop("end_turn"), 1));
        let gpt = json!({ "choices": [{ "index": 0, "message": { "content": "a" }, "finish_reason": "stop" }], "usage": { "prompt_tokens": 5, "completion_tokens": 1 } });
        assert_eq!(read(gpt), (Some(5), Some(1), stop("stop"), 1));
        let mistral = json!({ "outputs": [{ "text": "a", "stop_reason": "length" }] });
        assert_eq!(read(mistral), (None, None, stop("length"), 1));
        let cohere = json!({ "generations": [{ "text": "a", "finish_reason": "COMPLETE" }] });
        assert_eq!(read(cohere), (None, None, stop("COMPLETE"), 1));
    }

    #[test]
    fn metrics_fill_what_the_format_leaves_out() {
        let metrics = json!({ "inputTokenCount": 13, "outputTokenCount": 100, "cacheReadInputTokenCount": 2 });
        let titan = events(
            Protocol::BedrockInvoke,
            &[
                json!({ "outputText": "a", "inputTextTokenCount": 13, "totalOutputTextTokenCount": null }),
                json!({ "outputText": "b", "inputTextTokenCount": null, "totalOutputTextTokenCount": 90, "completionReason": "LENGTH", "amazon-bedrock-invocationMetrics": metrics }),
            ],
        );
        assert!(titan.terminal);
        let usage = titan.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(13), Some(90)), "the format's own wins");
        let mistral = events(
            Protocol::BedrockInvoke,
            &[
                json!({ "outputs": [{ "text": "a", "stop_reason": null }] }),
                json!({ "outputs": [{ "text": "b", "stop_reason": "length" }], "amazon-bedrock-invocationMetrics": metrics }),
            ],
        );
        assert_eq!(mistral.output_events, 2);
        let usage = mistral.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.cache_read_tokens), (Some(15), Some(100), Some(2)));
        let cut = events(Protocol::BedrockInvoke, &[json!({ "outputs": [{ "text": "a", "stop_reason": null }] })]);
        assert_eq!((cut.terminal, cut.usage), (false, None));
    }

    #[test]
    fn a_nova_stream_has_events_as_keys() {
        let reply = events(
            Protocol::BedrockInvoke,
            &[
                json!({ "messageStart": { "role": "assistant" } }),
                json!({ "contentBlockDelta": { "delta": { "text": "a" }, "contentBlockIndex": 0 } }),
                json!({ "messageStop": { "stopReason": "end_turn" } }),
                json!({ "metadata": { "usage": { "inputTokens": 5, "outputTokens": 3, "cacheReadInputTokenCount": 1 } } }),
            ],
        );
        assert_eq!((reply.output_events, reply.usage.expect("usage").input_tokens), (1, Some(6)));
        assert!(reply.terminal);
    }

    #[test]
    fn agent_steps_add_up_by_model() {
        let input = |model: &str| json!({ "sessionId": "s", "trace": { "orchestrationTrace": { "modelInvocationInput": { "foundationModel": model } } } });
        let output = |n: u64| json!({ "trace": { "orchestrationTrace": { "modelInvocationOutput": { "metadata": { "usage": { "inputTokens": n, "outputTokens": 1 } } } } } });
        let reply = named(
            Protocol::BedrockAgent,
            &[
                ("trace", input("claude")),
                ("trace", output(10)),
                ("trace", output(20)),
                ("trace", input("nova")),
                ("trace", output(5)),
                ("chunk", json!({ "bytes": "YQ==" })),
            ],
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(30), Some(2)));
        assert_eq!(reply.parts.len(), 1);
        assert_eq!((reply.parts[0].model.as_deref(), reply.parts[0].usage.input_tokens), (Some("nova"), Some(5)));
        assert_eq!((reply.output_events, reply.conversation_id.as_deref()), (1, Some("s")));
    }

    #[test]
    fn headers_are_the_last_resort() {
        let head = |pairs: &[(&str, &str)]| ResponseFacts {
            headers: pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..ResponseFacts::default()
        };
        let usage = usage_from_headers(&head(&[
            ("x-amzn-bedrock-input-token-count", "3"),
            ("x-amzn-bedrock-cache-read-input-token-count", "9511"),
            ("x-amzn-bedrock-cache-write-input-token-count", "0"),
            ("x-amzn-bedrock-output-token-count", "44"),
        ]))
        .expect("usage");
        assert_eq!(
            (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens),
            (Some(9514), Some(44), Some(9511))
        );
        assert_eq!(usage_from_headers(&head(&[("x-amzn-bedrock-input-token-count", "many")])), None);
        assert_eq!(usage_from_headers(&head(&[])), None);
    }
}
