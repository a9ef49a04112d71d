//! DashScope's own API (`/api/v1/services/…`): text, multimodal, embeddings, images
//! (<https://help.aliyun.com/zh/model-studio/qwen-api-reference>).
//!
//! Every event of a stream carries cumulative usage; the last one wins. Without `incremental_output` the text is
//! cumulative too, which only makes an estimate too large where no usage came.

use super::json::Value;
use super::openai_chat::read_error;
use super::openai_usage::{self, Context};
use super::read::{any_output, count_at, finish, get, keep, merge, set, str_at, text};
use super::{Family, Interest, Seen};
use crate::call::{Reply, Usage};

/// DashScope.
#[derive(Debug, Default)]
pub(super) struct Dashscope;

const DASHSCOPE: &[Interest] = &[
    keep("request_id"),
    keep("usage"),
    keep("code"),
    keep("message"),
    keep("error"),
    keep("output.finish_reason"),
    text("output.text"),
    keep("output.choices.*.finish_reason"),
    text("output.choices.*.message.content"),
    text("output.choices.*.message.content.*.text"),
    text("output.choices.*.message.reasoning_content"),
    text("output.choices.*.message.tool_calls.*.function.name"),
    text("output.choices.*.message.tool_calls.*.function.arguments"),
    keep("output.code"),
    keep("output.message"),
    keep("output.task_status"),
];

impl Family for Dashscope {
    fn interests(&self) -> &'static [Interest] {
        DASHSCOPE
    }

    fn read(&mut self, event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        set(&mut reply.id, doc.get("request_id"));
        if let Some(object) = get(doc, "usage") {
            if let Some(usage) = openai_usage::usage(object, Context { model: None, total_is_input: true }) {
                merge(reply, usage);
            }
            merge(reply, Usage { images: count_at(object, &["image_count"]), ..Usage::default() });
        }
        let none = Value::Null;
        let output = doc.get("output").unwrap_or(&none);
        let mut seen = Seen { output: any_output(output.get("text")), terminal: false };
        // A stream writes `"null"` for "not yet".
        let mut ended = |index: usize, holder: &Value| {
            if let Some(reason) =
                str_at(holder, "finish_reason").filter(|reason| *reason != "null" && !reason.is_empty())
            {
                finish(reply, index, reason);
                seen.terminal |= streaming;
            }
        };
        ended(0, output);
        for (index, choice) in output.get("choices").and_then(Value::as_array).into_iter().flatten().enumerate() {
            ended(index, choice);
            seen.output |= any_output(choice.get("message"));
        }
        if get(output, "code").is_some() {
            read_error(Some("error"), output, reply);
        } else {
            read_error(event, doc, reply);
        }
        seen
    }

    fn has_terminal_event(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{events, named, whole};
    use crate::call::Protocol;

    #[test]
    fn cumulative_usage_and_the_end() {
        let event = |text: &str, output: u64, reason: &str| {
            json!({ "output": { "choices": [{ "message": { "content": text }, "finish_reason": reason }] },
                    "usage": { "input_tokens": 22, "output_tokens": output, "total_tokens": 22 + output,
                               "prompt_tokens_details": { "cached_tokens": 3 } }, "request_id": "r" })
        };
        let reply = events(Protocol::DashscopeNative, &[event("a", 1, "null"), event("b", 2, "stop")]);
        assert!(reply.terminal);
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.cache_read_tokens), (Some(22), Some(2), Some(3)));
        assert!(!events(Protocol::DashscopeNative, &[event("a", 1, "null")]).terminal);
    }

    #[test]
    fn embeddings_images_and_errors() {
        let embed = whole(
            Protocol::DashscopeNative,
            json!({ "output": { "embeddings": [] }, "usage": { "total_tokens": 12 } }),
        );
        assert_eq!(embed.usage.expect("usage").input_tokens, Some(12));
        let image = whole(
            Protocol::DashscopeNative,
            json!({ "output": { "task_status": "SUCCEEDED" }, "usage": { "image_count": 2 } }),
        );
        assert_eq!(image.usage.expect("usage").images, Some(2));
        let error = named(
            Protocol::DashscopeNative,
            &[("error", json!({ "code": "Throttling", "message": "slow", "request_id": "r" }))],
        );
        assert!(error.error.is_some());
        let task = whole(
            Protocol::DashscopeNative,
            json!({ "output": { "task_status": "FAILED", "code": "InvalidURL", "message": "no" } }),
        );
        assert!(task.error.is_some());
    }
}
