//! Anthropic Messages, and the older text completions, wherever they are served (Anthropic, Bedrock, Vertex, Foundry,
//! OpenRouter and the Anthropic-compatible endpoints of others).
//!
//! `input_tokens` excludes the cache: the prompt is input + cache reads + cache writes. In a stream `message_start` has
//! the first counts and `message_delta` overrides them field by field, with larger inputs after server tools.
//! `usage.iterations` lists the calls behind one answer; compaction and advisor calls are billed on top of the top-level
//! counts (<https://platform.claude.com/docs/en/build-with-claude/compaction>, and recorded answers).

use super::json::Value;
use super::openai_usage;
use super::read::{
    any_output, at, clip, count_at, deep, exception, finish, get, keep, merge, presence, set, set_error, str_at, sum,
    text, wrapped_error,
};
use super::{Family, Interest, Seen};
use crate::call::{Reply, Usage, UsagePart};

/// Most iterations that become parts of their own.
const PARTS: usize = 64;

/// Paths of Messages and of completions.
pub(super) const INTERESTS: &[Interest] = &[
    keep("type"),
    keep("id"),
    keep("model"),
    keep("usage"),
    keep("stop_reason"),
    keep("error"),
    keep("message.id"),
    keep("message.model"),
    keep("message.usage"),
    text("delta.text"),
    text("delta.thinking"),
    text("delta.partial_json"),
    text("delta.content"),
    keep("delta.stop_reason"),
    keep("content_block.type"),
    text("content_block.name"),
    text("content_block.text"),
    text("content.*.text"),
    text("content.*.thinking"),
    text("content.*.name"),
    deep("content.*.input"),
    presence("content.*.data"),
    text("completion"),
];

/// Messages.
#[derive(Debug, Default)]
pub(super) struct AnthropicMessages {
    raw: Raw,
}

/// The top-level counts as Anthropic writes them, merged over a stream.
#[derive(Debug, Default)]
struct Raw {
    input: Option<u64>,
    output: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    cache_write_5m: Option<u64>,
    cache_write_1h: Option<u64>,
    thinking: Option<u64>,
    web_searches: Option<u64>,
}

impl Raw {
    fn merge(&mut self, object: &Value) {
        let take = |slot: &mut Option<u64>, path: &[&str]| *slot = count_at(object, path).or(*slot);
        take(&mut self.input, &["input_tokens"]);
        take(&mut self.output, &["output_tokens"]);
        take(&mut self.cache_read, &["cache_read_input_tokens"]);
        take(&mut self.cache_write, &["cache_creation_input_tokens"]);
        take(&mut self.cache_write_5m, &["cache_creation", "ephemeral_5m_input_tokens"]);
        take(&mut self.cache_write_1h, &["cache_creation", "ephemeral_1h_input_tokens"]);
        take(&mut self.thinking, &["output_tokens_details", "thinking_tokens"]);
        take(&mut self.web_searches, &["server_tool_use", "web_search_requests"]);
    }

    fn usage(&self) -> Usage {
        let cache_write = self.cache_write.or(sum(self.cache_write_5m, self.cache_write_1h));
        Usage {
            input_tokens: self.input.map(|input| {
                input.saturating_add(self.cache_read.unwrap_or(0)).saturating_add(cache_write.unwrap_or(0))
            }),
            output_tokens: self.output,
            cache_read_tokens: self.cache_read,
            cache_write_tokens: cache_write,
            cache_write_1h_tokens: self.cache_write_1h,
            reasoning_tokens: self.thinking,
            web_searches: self.web_searches,
            ..Usage::default()
        }
    }
}

impl Family for AnthropicMessages {
    fn interests(&self) -> &'static [Interest] {
        INTERESTS
    }

    fn read(&mut self, event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        let kind = str_at(doc, "type").or(event).unwrap_or_default();
        match kind {
            "content_block_delta" => Seen { output: any_output(doc.get("delta")), terminal: false },
            "content_block_start" => {
                // Blocks that the model writes; results of server tools are not its output.
                let block = doc.get("content_block").unwrap_or(&Value::Null);
                let called = any_output(block.get("name")) || any_output(block.get("text"));
                Seen { output: called || str_at(block, "type") == Some("redacted_thinking"), terminal: false }
            }
            "message_start" => {
                let message = doc.get("message").unwrap_or(&Value::Null);
                set(&mut reply.id, message.get("id"));
                set(&mut reply.model, message.get("model"));
                self.read_usage(message, reply);
                Seen::default()
            }
            "message_delta" => {
                self.read_usage(doc, reply);
                if let Some(reason) = at(doc, &["delta", "stop_reason"]).and_then(Value::as_str) {
                    finish(reply, 0, reason);
                }
                Seen::default()
            }
            "message_stop" => Seen { output: false, terminal: true },
            "ping" | "content_block_stop" => Seen::default(),
            _ if exception(event, doc, reply) => Seen::default(),
            "error" => {
                if !wrapped_error(doc, reply) {
                    set_error(reply, &doc.into());
                }
                Seen::default()
            }
            _ => {
                if wrapped_error(doc, reply) {
                    return Seen::default();
                }
                set(&mut reply.id, doc.get("id"));
                set(&mut reply.model, doc.get("model"));
                self.read_usage(doc, reply);
                let reason = str_at(doc, "stop_reason");
                if let Some(reason) = reason {
                    finish(reply, 0, reason);
                }
                let output = any_output(doc.get("content")) || any_output(doc.get("completion"));
                // Text completions have no closing event: the last one says why they stopped.
                Seen { output, terminal: streaming && reason.is_some() }
            }
        }
    }

    fn may_repeat(&self, doc: &Value) -> bool {
        str_at(doc, "type") == Some("content_block_delta")
    }

    fn has_terminal_event(&self) -> bool {
        true
    }
}

impl AnthropicMessages {
    /// Reads `holder.usage` over what is known.
    fn read_usage(&mut self, holder: &Value, reply: &mut Reply) {
        let Some(object) = get(holder, "usage") else { return };
        self.raw.merge(object);
        merge(reply, self.raw.usage());
        set(&mut reply.service_tier, object.get("service_tier"));
        // Fast mode has rates of its own (https://platform.claude.com/docs/en/build-with-claude/fast-mode).
        if str_at(object, "speed") == Some("fast") {
            reply.service_tier = Some("fast".to_owned());
        }
        reply.stated_cost = openai_usage::stated_cost(object).or(reply.stated_cost);
        if let Some(iterations) = object.get("iterations").and_then(Value::as_array) {
            reply.parts = on_top(iterations, &self.raw);
        }
    }
}

/// The iterations that the top-level counts leave out.
///
/// `message` iterations make up the top level; anything else (`compaction`, `advisor_message`) is on top of it, unless
/// the top level is already the sum of them all.
fn on_top(iterations: &[Value], top: &Raw) -> Vec<UsagePart> {
    let total = |key: &str| iterations.iter().filter_map(|one| count_at(one, &[key])).fold(0u64, u64::saturating_add);
    if Some(total("input_tokens")) == top.input && Some(total("output_tokens")) == top.output {
        return Vec::new();
    }
    let others = iterations.iter().filter(|one| str_at(one, "type").is_some_and(|kind| kind != "message"));
    let parts = others.take(PARTS).map(|one| {
        let mut raw = Raw::default();
        raw.merge(one);
        UsagePart { model: str_at(one, "model").map(|model| clip(model).to_owned()), usage: raw.usage() }
    });
    parts.filter(|part| !part.usage.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{events, named, whole};
    use crate::call::Protocol;

    #[test]
    fn the_prompt_is_input_and_cache() {
        let reply = whole(
            Protocol::AnthropicMessages,
            json!({ "type": "message", "id": "msg_1", "model": "m", "stop_reason": "end_turn",
                    "content": [{ "type": "text", "text": "hi" }],
                    "usage": { "input_tokens": 3, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 1000,
                               "cache_creation": { "ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40 },
                               "output_tokens": 7, "output_tokens_details": { "thinking_tokens": 2 },
                               "server_tool_use": { "web_search_requests": 2 }, "service_tier": "priority" } }),
        );
        let usage = reply.usage.expect("usage");
        assert_eq!(usage.input_tokens, Some(1103));
        assert_eq!(
            (usage.cache_read_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens),
            (Some(1000), Some(100), Some(40))
        );
        assert_eq!((usage.reasoning_tokens, usage.web_searches), (Some(2), Some(2)));
        assert_eq!(reply.service_tier.as_deref(), Some("priority"));
        assert_eq!(reply.output_events, 1);
    }

    #[test]
    fn the_delta_overrides_the_start() {
        let start = json!({ "type": "message_start", "message": { "id": "msg_1", "model": "m",
            "usage": { "input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 0, "output_tokens": 1 } } });
        let stop = json!({ "type": "message_stop" });
        let short = json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": 25 } });
        let reply = events(Protocol::AnthropicMessages, &[start.clone(), short, stop.clone()]);
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(15), Some(25)));
        assert!(reply.terminal);
        assert_eq!(reply.finish_reasons, ["end_turn"]);
        let full = json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" },
            "usage": { "input_tokens": 9000, "cache_read_input_tokens": 5, "cache_creation_input_tokens": null, "output_tokens": 25 } });
        let reply = events(Protocol::AnthropicMessages, &[start, full, stop]);
        assert_eq!(reply.usage.expect("usage").input_tokens, Some(9005));
    }

    #[test]
    fn other_models_calls_are_on_top() {
        let iteration = |kind: &str, input: u64, output: u64| json!({ "type": kind, "input_tokens": input, "output_tokens": output });
        let mut advisor = iteration("advisor_message", 2529, 38);
        advisor["model"] = json!("opus");
        let with = |top: (u64, u64), iterations: Value| {
            whole(
                Protocol::AnthropicMessages,
                json!({ "type": "message", "model": "sonnet", "content": [],
                "usage": { "input_tokens": top.0, "output_tokens": top.1, "iterations": iterations } }),
            )
        };
        let reply =
            with((2417, 133), json!([iteration("message", 1128, 121), advisor, iteration("message", 1289, 12)]));
        assert_eq!(reply.usage.expect("usage").input_tokens, Some(2417));
        assert_eq!(reply.parts.len(), 1);
        assert_eq!(reply.parts[0].model.as_deref(), Some("opus"));
        assert_eq!(reply.parts[0].usage.input_tokens, Some(2529));

        let mut compaction = iteration("compaction", 100, 83);
        compaction["cache_read_input_tokens"] = json!(55_096);
        let reply = with((181, 8), json!([compaction, iteration("message", 181, 8)]));
        assert_eq!((reply.parts[0].model.clone(), reply.parts[0].usage.input_tokens), (None, Some(55_196)));

        let all_in = with((281, 91), json!([iteration("compaction", 100, 83), iteration("message", 181, 8)]));
        assert_eq!(all_in.parts, []);
        let plain = with((181, 8), json!([iteration("message", 181, 8)]));
        assert_eq!(plain.parts, []);
    }

    #[test]
    fn errors_end_a_stream() {
        let reply = named(
            Protocol::AnthropicMessages,
            &[("error", json!({ "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" } }))],
        );
        let error = reply.error.expect("error");
        assert!(error.in_stream && String::from_utf8_lossy(&error.body).contains("overloaded_error"));
        assert!(!reply.terminal);
    }

    #[test]
    fn output_is_what_the_model_writes() {
        for (event, output) in [
            (json!({ "type": "content_block_delta", "delta": { "type": "text_delta", "text": "a" } }), 1),
            (json!({ "type": "content_block_delta", "delta": { "type": "thinking_delta", "thinking": "a" } }), 1),
            (json!({ "type": "content_block_delta", "delta": { "type": "input_json_delta", "partial_json": "{" } }), 1),
            (json!({ "type": "content_block_delta", "delta": { "type": "input_json_delta", "partial_json": "" } }), 0),
            (json!({ "type": "content_block_delta", "delta": { "type": "signature_delta", "signature": "AA" } }), 0),
            (
                json!({ "type": "content_block_start", "content_block": { "type": "tool_use", "name": "f", "input": {} } }),
                1,
            ),
            (
                json!({ "type": "content_block_start", "content_block": { "type": "redacted_thinking", "data": "AA" } }),
                1,
            ),
            (json!({ "type": "content_block_start", "content_block": { "type": "text", "text": "" } }), 0),
            (
                json!({ "type": "content_block_start", "content_block": { "type": "web_search_tool_result", "content": [{ "text": "a" }] } }),
                0,
            ),
            (json!({ "type": "ping" }), 0),
        ] {
            assert_eq!(
                events(Protocol::AnthropicMessages, std::slice::from_ref(&event)).output_events,
                output,
                "{event}"
            );
        }
    }

    #[test]
    fn refusals_are_blocked_and_old_completions_read() {
        let refusal =
            whole(Protocol::AnthropicMessages, json!({ "type": "message", "stop_reason": "refusal", "content": [] }));
        assert!(refusal.blocked);
        let old = events(
            Protocol::AnthropicComplete,
            &[
                json!({ "type": "completion", "completion": " Light", "stop_reason": null, "model": "claude-2.1" }),
                json!({ "type": "completion", "completion": "", "stop_reason": "stop_sequence", "model": "claude-2.1" }),
            ],
        );
        assert!(old.terminal);
        assert_eq!((old.usage, old.output_events, old.model.as_deref()), (None, 1, Some("claude-2.1")));
    }
}
