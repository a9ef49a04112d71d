//! Ollama's own API: chat, generate, embed. Streams are NDJSON; the object with `done: true` has the counts.
//!
//! `prompt_eval_count` is missing when the prompt was cached whole (recorded answers): then the input is not known.

use super::json::Value;
use super::read::{any_output, count_at, deep, finish, keep, merge, set, str_at, text, wrapped_error};
use super::{Family, Interest, Seen};
use crate::call::{Reply, Usage};

/// Ollama.
#[derive(Debug, Default)]
pub(super) struct Ollama;

const OLLAMA: &[Interest] = &[
    keep("model"),
    keep("done"),
    keep("done_reason"),
    keep("prompt_eval_count"),
    keep("eval_count"),
    text("message.content"),
    text("message.thinking"),
    text("message.tool_calls.*.function.name"),
    deep("message.tool_calls.*.function.arguments"),
    text("response"),
    text("thinking"),
    keep("error"),
];

impl Family for Ollama {
    fn interests(&self) -> &'static [Interest] {
        OLLAMA
    }

    fn read(&mut self, _event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        wrapped_error(doc, reply);
        set(&mut reply.model, doc.get("model"));
        let usage = Usage {
            input_tokens: count_at(doc, &["prompt_eval_count"]),
            output_tokens: count_at(doc, &["eval_count"]),
            ..Usage::default()
        };
        merge(reply, usage);
        if let Some(reason) = str_at(doc, "done_reason") {
            finish(reply, 0, reason);
        }
        let output = ["message", "response", "thinking"].iter().any(|key| any_output(doc.get(key)));
        Seen { output, terminal: streaming && doc.get("done") == Some(&Value::Bool(true)) }
    }

    fn has_terminal_event(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{events, whole};
    use crate::call::Protocol;

    #[test]
    fn the_last_line_has_the_counts() {
        let reply = events(
            Protocol::Ollama,
            &[
                json!({ "model": "gemma", "message": { "role": "assistant", "content": "", "thinking": "a" }, "done": false }),
                json!({ "model": "gemma", "message": { "content": "", "tool_calls": [{ "function": { "name": "f", "arguments": {} } }] }, "done": false }),
                json!({ "model": "gemma", "message": { "content": "" }, "done_reason": "stop", "done": true, "prompt_eval_count": 25, "eval_count": 9 }),
            ],
        );
        assert!(reply.terminal);
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens, reply.output_events), (Some(25), Some(9), 2));
        let cached =
            whole(Protocol::Ollama, json!({ "response": "a", "done": true, "eval_count": 9 })).usage.expect("usage");
        assert_eq!((cached.input_tokens, cached.output_tokens), (None, Some(9)));
    }

    #[test]
    fn an_error_line_is_an_error() {
        let reply = events(Protocol::Ollama, &[json!({ "error": "model 'x' not found, try pulling it first" })]);
        assert!(reply.error.is_some() && !reply.terminal);
    }
}
