//! Cohere v1 and v2: chat, generate, embed, rerank.
//!
//! Cohere bills `billed_units`, which leave out its own templates: 10 billed against 505 real tokens (recorded answers).
//! [`Usage`] is what is billed. Cached tokens are counted within the real ones, so that they have no place beside it.

use serde_json::json;

use super::json::Value;
use super::read::{
    any_output, at, count_at, deep, finish, get, keep, merge, presence, set, set_error, str_at, sum, text,
    wrapped_error,
};
use super::{Family, Interest, Seen};
use crate::call::{Reply, Usage};

const INTERESTS: &[Interest] = &[
    keep("id"),
    keep("response_id"),
    keep("generation_id"),
    keep("error"),
    // v2
    keep("type"),
    keep("finish_reason"),
    keep("usage"),
    text("message.content.*.text"),
    text("message.content.*.thinking"),
    text("message.tool_plan"),
    text("message.tool_calls.*.function.name"),
    text("message.tool_calls.*.function.arguments"),
    text("delta.message.content.text"),
    text("delta.message.content.thinking"),
    text("delta.message.tool_plan"),
    text("delta.message.tool_calls.function.name"),
    text("delta.message.tool_calls.function.arguments"),
    keep("delta.finish_reason"),
    keep("delta.usage"),
    keep("delta.error"),
    // v1
    keep("event_type"),
    text("text"),
    text("generations.*.text"),
    keep("generations.*.finish_reason"),
    text("tool_calls.*.name"),
    deep("tool_calls.*.parameters"),
    text("tool_call_delta.parameters"),
    presence("tool_call_delta.name"),
    keep("meta.billed_units"),
    keep("meta.tokens"),
    keep("response.response_id"),
    keep("response.finish_reason"),
    keep("response.meta.billed_units"),
    keep("response.meta.tokens"),
];

/// Both versions.
#[derive(Debug, Default)]
pub(super) struct Cohere;

impl Family for Cohere {
    fn interests(&self) -> &'static [Interest] {
        INTERESTS
    }

    fn read(&mut self, _event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        wrapped_error(doc, reply);
        let ids =
            [at(doc, &["response", "response_id"]), get(doc, "response_id"), get(doc, "id"), get(doc, "generation_id")];
        set(&mut reply.id, ids.into_iter().flatten().next());
        let kind = str_at(doc, "type").or(str_at(doc, "event_type")).unwrap_or_default();
        let usages =
            [at(doc, &["delta", "usage"]), get(doc, "usage"), at(doc, &["response", "meta"]), get(doc, "meta")];
        for object in usages.into_iter().flatten() {
            merge(reply, billed(object));
        }
        for reason in
            [at(doc, &["delta", "finish_reason"]), at(doc, &["response", "finish_reason"]), get(doc, "finish_reason")]
        {
            if let Some(reason) = reason.and_then(Value::as_str) {
                finish(reply, 0, reason);
                if reason.starts_with("ERROR") && !reply.blocked {
                    let cause = at(doc, &["delta", "error"]);
                    set_error(reply, &json!({ "error": { "type": reason, "message": cause } }));
                }
            }
        }
        for (index, one) in doc.get("generations").and_then(Value::as_array).into_iter().flatten().enumerate() {
            if let Some(reason) = str_at(one, "finish_reason") {
                finish(reply, index, reason);
            }
        }
        let generated = doc.get("generations").and_then(Value::as_array);
        let output = any_output(at(doc, &["delta", "message"]))
            || any_output(doc.get("message"))
            || any_output(doc.get("text"))
            || any_output(doc.get("tool_call_delta"))
            || any_output(doc.get("tool_calls"))
            || generated.is_some_and(|all| all.iter().any(|one| any_output(one.get("text"))));
        Seen { output, terminal: streaming && matches!(kind, "message-end" | "stream-end") }
    }

    fn has_terminal_event(&self) -> bool {
        true
    }
}

/// What is billed; where nothing is said of that, what was counted.
fn billed(object: &Value) -> Usage {
    let unit = |name: &str| count_at(object, &["billed_units", name]);
    let token = |name: &str| count_at(object, &["tokens", name]);
    if object.get("billed_units").is_none_or(Value::is_null) {
        return Usage {
            input_tokens: token("input_tokens"),
            output_tokens: token("output_tokens"),
            ..Usage::default()
        };
    }
    let (input, images, output) = (unit("input_tokens"), unit("image_tokens"), unit("output_tokens"));
    Usage {
        // Embedded pictures are billed by `image_tokens` beside the text.
        input_tokens: sum(input, images),
        input_image_tokens: images,
        output_tokens: output,
        reasoning_tokens: token("reasoning_tokens").map(|reasoning| reasoning.min(output.unwrap_or(reasoning))),
        search_units: unit("search_units"),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{events, whole};
    use super::*;
    use crate::call::Protocol;

    #[test]
    fn billed_units_are_the_usage() {
        let reply = whole(
            Protocol::CohereV2,
            json!({ "id": "c", "finish_reason": "COMPLETE", "message": { "content": [{ "type": "text", "text": "a" }] },
                    "usage": { "billed_units": { "input_tokens": 10, "output_tokens": 1 }, "cached_tokens": 448,
                               "tokens": { "input_tokens": 505, "output_tokens": 9, "reasoning_tokens": 5 } } }),
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(10), Some(1)));
        assert_eq!((usage.cache_read_tokens, usage.reasoning_tokens), (None, Some(1)));
        let unbilled =
            whole(Protocol::CohereV2, json!({ "usage": { "tokens": { "input_tokens": 5, "output_tokens": 9 } } }));
        assert_eq!(unbilled.usage.expect("usage").input_tokens, Some(5));
    }

    #[test]
    fn both_streams_end_with_their_usage() {
        let v2 = events(
            Protocol::CohereV2,
            &[
                json!({ "type": "message-start", "id": "c", "delta": { "message": { "role": "assistant", "tool_plan": "" } } }),
                json!({ "type": "content-start", "delta": { "message": { "content": { "type": "text", "text": "" } } } }),
                json!({ "type": "content-delta", "delta": { "message": { "content": { "thinking": "a" } } } }),
                json!({ "type": "tool-plan-delta", "delta": { "message": { "tool_plan": "a" } } }),
                json!({ "type": "tool-call-start", "delta": { "message": { "tool_calls": { "function": { "name": "f", "arguments": "" } } } } }),
                json!({ "type": "message-end", "delta": { "finish_reason": "TOOL_CALL", "usage": { "billed_units": { "input_tokens": 7, "output_tokens": 2 } } } }),
            ],
        );
        assert!(v2.terminal);
        assert_eq!((v2.output_events, v2.usage.expect("usage").input_tokens), (3, Some(7)));
        assert_eq!((v2.id.as_deref(), v2.finish_reasons), (Some("c"), vec!["TOOL_CALL".to_owned()]));
        let v1 = events(
            Protocol::CohereV1,
            &[
                json!({ "event_type": "stream-start", "generation_id": "g", "is_finished": false }),
                json!({ "event_type": "text-generation", "text": "a", "is_finished": false }),
                json!({ "event_type": "stream-end", "finish_reason": "COMPLETE", "is_finished": true,
                        "response": { "response_id": "r", "text": "a", "finish_reason": "COMPLETE",
                                      "meta": { "billed_units": { "input_tokens": 7, "output_tokens": 1 }, "tokens": { "input_tokens": 70, "output_tokens": 1 } } } }),
            ],
        );
        assert!(v1.terminal);
        assert_eq!((v1.output_events, v1.usage.expect("usage").input_tokens), (1, Some(7)));
    }

    #[test]
    fn rerank_and_embed() {
        let rerank = whole(
            Protocol::CohereV2,
            json!({ "id": "r", "results": [], "meta": { "billed_units": { "search_units": 2 } } }),
        );
        let usage = rerank.usage.expect("usage");
        assert_eq!((usage.search_units, usage.input_tokens), (Some(2), None));
        let embed = whole(
            Protocol::CohereV2,
            json!({ "embeddings": {}, "meta": { "billed_units": { "input_tokens": 4, "image_tokens": 258, "images": 1 } } }),
        );
        let usage = embed.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.input_image_tokens, usage.images), (Some(262), Some(258), None));
    }

    #[test]
    fn a_failed_generation_is_an_error_and_a_toxic_one_is_blocked() {
        let failed = events(
            Protocol::CohereV2,
            &[json!({ "type": "message-end", "delta": { "finish_reason": "ERROR", "error": "boom" } })],
        );
        assert!(failed.error.is_some());
        let toxic = whole(Protocol::CohereV1, json!({ "finish_reason": "ERROR_TOXIC" }));
        assert!(toxic.blocked && toxic.error.is_none());
    }
}
