//! OpenAI Responses, also as xAI, OpenRouter, Azure, Bedrock and others serve it.
//!
//! A whole answer is a response object; a stream ends with `response.completed`, `.incomplete` or `.failed`, which carry
//! that object with the only usage of the stream. Events in between repeat texts (`….done`): only deltas are read.

use serde_json::json;

use super::json::Value;
use super::openai_usage::{self, Context};
use super::read::{any_output, at, count_at, deep, finish, get, keep, merge, presence, set, set_error, str_at, text};
use super::{Family, Interest, Seen};
use crate::call::{Reply, Usage, UsagePart};

const INTERESTS: &[Interest] = &[
    keep("type"),
    deep("delta"),
    presence("partial_image_b64"),
    keep("item.type"),
    text("item.name"),
    keep("response.id"),
    keep("response.model"),
    keep("response.status"),
    keep("response.usage"),
    keep("response.tool_usage"),
    keep("response.error"),
    keep("response.incomplete_details"),
    keep("response.service_tier"),
    keep("response.conversation"),
    keep("response.output.*.type"),
    keep("response.output.*.action.type"),
    keep("response.tools.*.type"),
    keep("response.tools.*.model"),
    keep("id"),
    keep("object"),
    keep("model"),
    keep("status"),
    keep("usage"),
    keep("tool_usage"),
    keep("error"),
    keep("incomplete_details"),
    keep("service_tier"),
    keep("conversation"),
    keep("output.*.type"),
    keep("output.*.action.type"),
    text("output.*.content.*.text"),
    text("output.*.content.*.refusal"),
    text("output.*.summary.*.text"),
    text("output.*.name"),
    text("output.*.arguments"),
    text("output.*.input"),
    text("output.*.code"),
    presence("output.*.result"),
    keep("tools.*.type"),
    keep("tools.*.model"),
    keep("code"),
    keep("message"),
    keep("param"),
];

/// Responses.
#[derive(Debug, Default)]
pub(super) struct OpenaiResponses;

impl Family for OpenaiResponses {
    fn interests(&self) -> &'static [Interest] {
        INTERESTS
    }

    fn read(&mut self, event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        let kind = str_at(doc, "type").or(event).unwrap_or_default();
        if kind.ends_with(".delta") {
            reply.blocked |= kind == "response.refusal.delta";
            return Seen { output: any_output(doc.get("delta")) || kind.contains("audio"), terminal: false };
        }
        if let Some(response) = get(doc, "response") {
            read_response(response, reply);
            let terminal =
                matches!(kind, "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled");
            if kind == "response.failed" && reply.error.is_none() {
                set_error(reply, &json!({ "error": { "type": "response.failed" } }));
            }
            return Seen { output: false, terminal };
        }
        match kind {
            // Some calls come whole, without deltas (tool search, recorded answers).
            "response.output_item.added" => {
                let item = doc.get("item").unwrap_or(&Value::Null);
                let call = str_at(item, "type").is_some_and(|kind| kind.ends_with("_call"));
                Seen { output: call || any_output(item.get("name")), terminal: false }
            }
            "response.image_generation_call.partial_image" => {
                Seen { output: doc.get("partial_image_b64").is_some(), terminal: false }
            }
            // `{"type": "error", "error": {…}}`, or the flat form with code and message on the event itself.
            "error" => {
                match get(doc, "error") {
                    Some(error) => set_error(reply, &json!({ "error": error })),
                    None => set_error(reply, &doc.into()),
                }
                Seen::default()
            }
            _ if streaming => {
                // A server that answers errors outside of its event format.
                if let Some(error) = get(doc, "error") {
                    set_error(reply, &json!({ "error": error }));
                }
                Seen::default()
            }
            _ => {
                read_response(doc, reply);
                Seen { output: any_output(doc.get("output")), terminal: false }
            }
        }
    }

    fn may_repeat(&self, doc: &Value) -> bool {
        str_at(doc, "type").is_some_and(|kind| kind.ends_with(".delta"))
    }

    fn has_terminal_event(&self) -> bool {
        true
    }
}

/// Reads a response object, finished or not.
fn read_response(response: &Value, reply: &mut Reply) {
    set(&mut reply.id, response.get("id"));
    set(&mut reply.model, response.get("model"));
    set(&mut reply.service_tier, response.get("service_tier"));
    set(&mut reply.conversation_id, at(response, &["conversation", "id"]).or(get(response, "conversation")));
    if let Some(error) = get(response, "error") {
        set_error(reply, &json!({ "error": error }));
    }
    let items = response.get("output").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    reply.blocked |= items.iter().any(|item| {
        let parts = item.get("content").and_then(Value::as_array);
        parts.is_some_and(|parts| parts.iter().any(|part| any_output(part.get("refusal"))))
    });
    match str_at(response, "status") {
        Some("incomplete") => {
            finish(
                reply,
                0,
                at(response, &["incomplete_details", "reason"]).and_then(Value::as_str).unwrap_or("incomplete"),
            );
        }
        // `complete` is what the Responses endpoint of some gateways says (recorded answers).
        Some(status @ ("completed" | "complete" | "failed" | "cancelled")) => finish(reply, 0, status),
        _ => {}
    }
    // The finished object of a batch has the usage of its calls, billed through the batch.
    reply.repeats_usage |= str_at(response, "object") == Some("batch");
    let Some(object) = get(response, "usage") else { return };
    let context = Context { model: reply.model.as_deref(), ..Context::default() };
    let Some(mut usage) = openai_usage::usage(object, context) else { return };
    reply.stated_cost = openai_usage::stated_cost(object).or(reply.stated_cost);
    let calls = |kind: &str| {
        let wanted = |item: &&Value| {
            str_at(item, "type") == Some(kind)
                // Opening a page and finding in it are not searches
                // (https://platform.openai.com/docs/guides/tools-web-search).
                && at(item, &["action", "type"]).and_then(Value::as_str).is_none_or(|action| action == "search")
        };
        Some(items.iter().filter(wanted).count() as u64).filter(|n| *n > 0)
    };
    usage.web_searches = usage
        .web_searches
        .or_else(|| count_at(response, &["tool_usage", "web_search", "num_requests"]))
        .or_else(|| calls("web_search_call"));
    usage.file_searches = calls("file_search_call");
    merge(reply, usage);
    if let Some(part) = image_generation(response) {
        reply.parts = vec![part];
    }
}

/// Tokens of the image generation tool, which an image model of its own used on top of `usage`.
fn image_generation(response: &Value) -> Option<UsagePart> {
    let object = at(response, &["tool_usage", "image_gen"])?;
    let usage = openai_usage::usage(object, Context::default())
        .filter(|usage: &Usage| usage.input_tokens.or(usage.output_tokens).is_some_and(|n| n > 0))?;
    let tools = response.get("tools").and_then(Value::as_array);
    let model = tools
        .and_then(|tools| tools.iter().find(|tool| str_at(tool, "type") == Some("image_generation")))
        .and_then(|tool| str_at(tool, "model"))
        .unwrap_or("gpt-image-1");
    Some(UsagePart { model: Some(super::read::clip(model).to_owned()), usage })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{events, whole};
    use serde_json::Value;

    use super::*;
    use crate::call::Protocol;

    fn response(status: &str, usage: Value) -> Value {
        json!({ "id": "resp_1", "object": "response", "model": "m-2026-01-01", "status": status, "usage": usage,
                "service_tier": "flex", "conversation": { "id": "conv_1" }, "output": [] })
    }

    #[test]
    fn a_stream_has_its_usage_in_the_last_event() {
        let reply = events(
            Protocol::OpenaiResponses,
            &[
                json!({ "type": "response.created", "response": response("in_progress", json!(null)) }),
                json!({ "type": "response.output_item.added", "item": { "type": "function_call", "name": "f" } }),
                json!({ "type": "response.function_call_arguments.delta", "delta": "{}" }),
                json!({ "type": "response.output_text.delta", "delta": "hello" }),
                json!({ "type": "response.output_text.done", "text": "hello" }),
                json!({ "type": "response.completed", "response": response("completed", json!({
                    "input_tokens": 15, "input_tokens_details": { "cached_tokens": 5, "cache_write_tokens": 2 },
                    "output_tokens": 9, "output_tokens_details": { "reasoning_tokens": 4 }, "total_tokens": 24 })) }),
            ],
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(15), Some(9)));
        assert_eq!(
            (usage.cache_read_tokens, usage.cache_write_tokens, usage.reasoning_tokens),
            (Some(5), Some(2), Some(4))
        );
        assert_eq!(reply.output_events, 3);
        assert_eq!(reply.output.kept(), "f{}hello");
        assert!(reply.terminal);
        assert_eq!(reply.service_tier.as_deref(), Some("flex"));
        assert_eq!(reply.conversation_id.as_deref(), Some("conv_1"));
        assert_eq!(reply.finish_reasons, ["completed"]);
    }

    #[test]
    fn failures_are_errors_in_all_their_shapes() {
        for event in [
            json!({ "type": "error", "sequence_number": 2, "error": { "code": "insufficient_quota", "message": "m" } }),
            json!({ "type": "error", "code": "rate_limit_exceeded", "message": "Rate limit reached", "param": null }),
            json!({ "type": "response.failed", "response": { "error": { "code": "server_error", "message": "m" }, "usage": null } }),
            json!({ "type": "response.failed", "response": { "error": null, "usage": null } }),
        ] {
            let reply = events(Protocol::OpenaiResponses, std::slice::from_ref(&event));
            assert!(reply.error.is_some(), "{event}");
            assert_eq!(reply.usage, None);
        }
    }

    #[test]
    fn queued_is_no_usage_and_no_end() {
        let reply = whole(Protocol::OpenaiResponses, response("queued", json!(null)));
        assert_eq!((reply.usage, reply.finish_reasons.len(), reply.error), (None, 0, None));
    }

    #[test]
    fn policy_is_told_from_length() {
        let mut doc = response("incomplete", json!({ "input_tokens": 1, "output_tokens": 1 }));
        doc["incomplete_details"] = json!({ "reason": "content_filter" });
        assert!(whole(Protocol::OpenaiResponses, doc.clone()).blocked);
        doc["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        let long = whole(Protocol::OpenaiResponses, doc);
        assert!(!long.blocked);
        assert_eq!(long.finish_reasons, ["max_output_tokens"]);
        let mut refused = response("completed", json!(null));
        refused["output"] = json!([{ "type": "message", "content": [{ "type": "refusal", "refusal": "no" }] }]);
        assert!(whole(Protocol::OpenaiResponses, refused).blocked);
    }

    #[test]
    fn hosted_tools_are_counted() {
        let mut doc = response("completed", json!({ "input_tokens": 1, "output_tokens": 1 }));
        doc["output"] = json!([
            { "type": "web_search_call", "action": { "type": "search" } },
            { "type": "web_search_call", "action": { "type": "open_page" } },
            { "type": "file_search_call" },
        ]);
        let usage = whole(Protocol::OpenaiResponses, doc.clone()).usage.expect("usage");
        assert_eq!((usage.web_searches, usage.file_searches), (Some(1), Some(1)));
        doc["tool_usage"] = json!({ "web_search": { "num_requests": 3 },
            "image_gen": { "input_tokens": 10, "output_tokens": 272, "output_tokens_details": { "image_tokens": 272 } } });
        doc["tools"] = json!([{ "type": "image_generation", "model": "gpt-image-1-mini" }]);
        let reply = whole(Protocol::OpenaiResponses, doc);
        assert_eq!(reply.usage.expect("usage").web_searches, Some(3));
        assert_eq!(reply.parts.len(), 1);
        assert_eq!(reply.parts[0].model.as_deref(), Some("gpt-image-1-mini"));
        assert_eq!(reply.parts[0].usage.output_image_tokens, Some(272));
    }

    #[test]
    fn nothing_is_output_but_output() {
        for event in [
            json!({ "type": "response.output_item.added", "item": { "type": "message" } }),
            json!({ "type": "response.output_item.added", "item": { "type": "reasoning", "summary": [] } }),
            json!({ "type": "response.output_item.done", "item": { "type": "function_call", "name": "f" } }),
            json!({ "type": "response.output_text.delta", "delta": "" }),
            json!({ "type": "response.in_progress", "response": response("in_progress", json!(null)) }),
        ] {
            assert_eq!(events(Protocol::OpenaiResponses, std::slice::from_ref(&event)).output_events, 0, "{event}");
        }
    }
}
