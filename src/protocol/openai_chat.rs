//! OpenAI Chat Completions, completions and Assistants runs, and every server that speaks their format.
//!
//! Usage comes at the top level of the last chunk or of several (the last one wins), in `choices[].usage` (Moonshot), in
//! `x_groq.usage` (Groq, beside or instead of the top level: never both added), or as llama.cpp `timings`.
//! The driver sees `[DONE]`; servers that do not send it (Perplexity, Writer) are complete when every choice has ended.

use serde_json::json;

use super::json::Value;
use super::openai_usage::{self, Context};
use super::read::{
    any_output, at, count, count_at, dollars, finish, get, keep, merge, presence, set, set_error, str_at, sum, text,
    wrapped_error,
};
use super::{Family, Interest, Seen};
use crate::call::{Reply, Usage};

/// Paths of chat and completion answers.
pub(super) const INTERESTS: &[Interest] = &[
    keep("id"),
    keep("object"),
    keep("model"),
    keep("service_tier"),
    keep("usage"),
    keep("choices.*.index"),
    keep("choices.*.finish_reason"),
    keep("choices.*.usage"),
    text("choices.*.text"),
    text("choices.*.delta.content"),
    text("choices.*.delta.content.*.text"),
    text("choices.*.delta.content.*.thinking"),
    text("choices.*.delta.content.*.thinking.*.text"),
    text("choices.*.delta.reasoning"),
    text("choices.*.delta.reasoning_content"),
    text("choices.*.delta.refusal"),
    text("choices.*.delta.function_call.name"),
    text("choices.*.delta.function_call.arguments"),
    text("choices.*.delta.tool_calls.*.function.name"),
    text("choices.*.delta.tool_calls.*.function.arguments"),
    text("choices.*.delta.tool_calls.*.custom.input"),
    text("choices.*.delta.audio.transcript"),
    presence("choices.*.delta.audio.data"),
    presence("choices.*.delta.images"),
    text("choices.*.message.content"),
    text("choices.*.message.content.*.text"),
    text("choices.*.message.content.*.thinking"),
    text("choices.*.message.content.*.thinking.*.text"),
    text("choices.*.message.reasoning"),
    text("choices.*.message.reasoning_content"),
    text("choices.*.message.refusal"),
    text("choices.*.message.function_call.name"),
    text("choices.*.message.function_call.arguments"),
    text("choices.*.message.tool_calls.*.function.name"),
    text("choices.*.message.tool_calls.*.function.arguments"),
    text("choices.*.message.tool_calls.*.custom.input"),
    text("choices.*.message.audio.transcript"),
    presence("choices.*.message.audio.data"),
    presence("choices.*.message.images"),
    keep("x_groq.usage"),
    keep("x_groq.error"),
    keep("cost.usd"),
    keep("timings.cache_n"),
    keep("timings.prompt_n"),
    keep("timings.predicted_n"),
    keep("error"),
    keep("base_resp"),
    keep("input_sensitive"),
    keep("output_sensitive"),
    keep("type"),
    keep("code"),
    keep("message"),
    keep("msg"),
    keep("detail"),
    keep("success"),
    keep("status"),
    keep("thread_id"),
    keep("last_error"),
    text("delta.content.*.text.value"),
    text("value"),
];

/// Chat Completions, completions, Assistants.
#[derive(Debug, Default)]
pub(super) struct OpenaiChat {
    /// Choices that were seen and that have ended, one bit each for the first 64.
    seen: u64,
    ended: u64,
    /// Usage of an Assistants run's finished steps, until the run itself says it.
    steps: Option<Usage>,
    /// Events are `{"value": "text"}` and nothing else: Writer's completions (recorded answers) just stop.
    bare: bool,
}

impl Family for OpenaiChat {
    fn interests(&self) -> &'static [Interest] {
        INTERESTS
    }

    fn read(&mut self, event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        let mut seen = Seen::default();
        if let Some(object) = str_at(doc, "object").filter(|object| object.starts_with("thread.")) {
            return self.read_run(object, streaming, doc, reply);
        }
        set(&mut reply.id, doc.get("id"));
        set(&mut reply.model, doc.get("model"));
        set(&mut reply.service_tier, doc.get("service_tier"));
        let mut of_choice = None;
        if let Some(choices) = doc.get("choices").and_then(Value::as_array) {
            for (position, choice) in choices.iter().enumerate() {
                seen.output |= self.read_choice(position, choice, reply);
                of_choice = get(choice, "usage").or(of_choice);
            }
        }
        if doc.get("choices").is_none() && any_output(doc.get("value")) {
            self.bare = true;
            seen.output = true;
        }
        if let Some(usage) = get(doc, "usage").or_else(|| at(doc, &["x_groq", "usage"])).or(of_choice) {
            let context = Context { model: reply.model.as_deref(), total_is_input: doc.get("choices").is_none() };
            if let Some(read) = openai_usage::usage(usage, context) {
                merge(reply, read);
            }
            // Groq and Mistral name the tier in here.
            set(&mut reply.service_tier, usage.get("service_tier"));
            reply.stated_cost = openai_usage::stated_cost(usage).or(reply.stated_cost);
        } else if reply.usage.is_none()
            && let Some(timings) = get(doc, "timings")
        {
            merge(reply, from_timings(timings));
        }
        // Venice states it beside the usage (recorded answers).
        reply.stated_cost = at(doc, &["cost", "usd"]).and_then(dollars).or(reply.stated_cost);
        // MiniMax (https://platform.minimax.io/docs/api-reference/text-post): the answer was cut for policy.
        reply.blocked |= ["input_sensitive", "output_sensitive"]
            .iter()
            .any(|key| doc.get(key).and_then(Value::as_bool) == Some(true));
        // The finished object of a batch: its calls' usage, billed through the batch.
        reply.repeats_usage |= str_at(doc, "object") == Some("batch");
        read_error(event, doc, reply);
        seen
    }

    fn may_repeat(&self, doc: &Value) -> bool {
        // A run's steps are added up.
        !str_at(doc, "object").is_some_and(|object| object.starts_with("thread"))
    }

    fn has_terminal_event(&self) -> bool {
        !self.bare
    }

    fn end(&mut self, reply: &mut Reply) {
        if let Some(steps) = self.steps.take() {
            merge(reply, steps);
        }
        if self.seen != 0 && self.seen == self.ended {
            reply.terminal = true;
        }
        reply.finish_reasons.retain(|reason| !reason.is_empty());
    }
}

impl OpenaiChat {
    /// Reads one choice; true if it carries output.
    fn read_choice(&mut self, position: usize, choice: &Value, reply: &mut Reply) -> bool {
        let index = get(choice, "index").and_then(count).map_or(position, |index| index.min(64) as usize);
        let bit = 1u64.checked_shl(index as u32).unwrap_or(0);
        self.seen |= bit;
        if let Some(reason) = str_at(choice, "finish_reason").filter(|reason| !reason.is_empty()) {
            self.ended |= bit;
            finish(reply, index, reason);
            // Mistral and OpenRouter end a failed generation like this; the cause, if any, came before.
            if reason == "error" {
                set_error(reply, &json!({ "error": { "type": "finish_reason", "message": "error" } }));
            }
        }
        let mut output = any_output(choice.get("text"));
        for part in ["delta", "message"] {
            if let Some(part) = get(choice, part) {
                output |= any_output(Some(part));
                // The model's own refusal, told apart from its text (structured outputs).
                reply.blocked |= any_output(part.get("refusal"));
            }
        }
        output
    }

    /// Reads an event of an Assistants run (<https://platform.openai.com/docs/api-reference/assistants-streaming>), or a
    /// run that is asked for again: its steps' usage adds up to its own, which comes last.
    fn read_run(&mut self, object: &str, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        let usage = get(doc, "usage").and_then(|usage| openai_usage::usage(usage, Context::default()));
        match object {
            "thread.run" => {
                set(&mut reply.id, doc.get("id"));
                set(&mut reply.model, doc.get("model"));
                if let Some(usage) = usage {
                    self.steps = None;
                    reply.usage = Some(usage);
                    // A run answers its creation without usage; a whole document with usage is a later look at it.
                    reply.repeats_usage |= !streaming;
                }
                if let Some(error) = get(doc, "last_error") {
                    set_error(reply, &json!({ "error": error }));
                }
                if let Some(status) = str_at(doc, "status").filter(|status| is_final(status)) {
                    finish(reply, 0, status);
                }
            }
            "thread.run.step" => {
                if let Some(usage) = usage {
                    self.steps.get_or_insert_with(Usage::default).add(&usage);
                }
            }
            _ => {}
        }
        set(&mut reply.conversation_id, doc.get("thread_id"));
        Seen { output: any_output(doc.get("delta")), terminal: false }
    }
}

fn is_final(status: &str) -> bool {
    matches!(status, "completed" | "failed" | "cancelled" | "expired" | "incomplete")
}

/// What llama.cpp counts when nobody asked for usage: `cache_n` and `prompt_n` are the prompt (recorded answers, where
/// both are given they agree).
fn from_timings(timings: &Value) -> Usage {
    let cached = count_at(timings, &["cache_n"]);
    Usage {
        input_tokens: sum(count_at(timings, &["prompt_n"]), cached),
        output_tokens: count_at(timings, &["predicted_n"]),
        cache_read_tokens: cached,
        ..Usage::default()
    }
}

/// Errors of this format's servers inside a 2xx answer.
pub(super) fn read_error(event: Option<&str>, doc: &Value, reply: &mut Reply) {
    if wrapped_error(doc, reply) {
        return;
    }
    if let Some(error) = at(doc, &["x_groq", "error"]) {
        return set_error(reply, &json!({ "error": error }));
    }
    // MiniMax: 0 is success.
    if let Some(base) = get(doc, "base_resp").filter(|base| count_at(base, &["status_code"]) != Some(0)) {
        if base.get("status_code").is_some() {
            set_error(reply, &json!({ "base_resp": base }));
        }
        return;
    }
    let said = ["message", "msg", "detail"].iter().any(|key| get(doc, key).is_some());
    let flat = event == Some("error")
        || str_at(doc, "type") == Some("error")
        // vLLM: `{"object": "error", "message": …, "code": 404}`.
        || str_at(doc, "object") == Some("error")
        // Zhipu's business errors: `{"code": 500, "msg": …, "success": false}`.
        || said && doc.get("success") .and_then(Value::as_bool) == Some(false)
        || said && is_error_code(doc) && doc.get("choices").is_none() && doc.get("usage").is_none();
    if flat {
        set_error(reply, &doc.into());
    }
}

/// A flat `code` that is not one of the ways to write "fine".
fn is_error_code(doc: &Value) -> bool {
    get(doc, "code").is_some_and(|code| !matches!(count(code), Some(0 | 200)))
        && doc.get("success").and_then(Value::as_bool) != Some(true)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{events, whole};
    use super::*;
    use crate::call::{Money, Protocol};

    #[test]
    fn the_last_usage_wins_and_is_never_added() {
        let reply = events(
            Protocol::OpenaiChat,
            &[
                json!({ "model": "m", "choices": [{ "index": 0, "delta": { "content": "a" } }],
                        "usage": { "prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6 } }),
                json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }], "usage": null,
                        "x_groq": { "usage": { "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7 } } }),
                json!({ "choices": [], "usage": { "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7 },
                        "x_groq": { "usage": { "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7 } } }),
            ],
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(5), Some(2)));
        assert_eq!(reply.finish_reasons, ["stop"]);
        assert_eq!(reply.output_events, 1);
        assert!(reply.terminal, "every choice has ended");
    }

    #[test]
    fn usage_inside_a_choice_is_read() {
        let reply = events(
            Protocol::OpenaiChat,
            &[json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop",
                "usage": { "prompt_tokens": 19, "completion_tokens": 13, "total_tokens": 32, "cached_tokens": 12 } }] })],
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.cache_read_tokens), (Some(19), Some(12)));
    }

    #[test]
    fn a_choice_that_has_not_ended_is_not_complete() {
        let reply = events(
            Protocol::OpenaiChat,
            &[
                json!({ "choices": [{ "index": 1, "delta": { "content": "b" } }] }),
                json!({ "choices": [{ "index": 0, "delta": { "content": "a" }, "finish_reason": "stop" }] }),
            ],
        );
        assert!(!reply.terminal);
        assert_eq!(reply.finish_reasons, ["stop"]);
        let other = events(Protocol::OpenaiChat, &[json!({ "choices": [{ "index": 4_000_000_000u64 }] })]);
        assert!(!other.terminal);
    }

    #[test]
    fn every_kind_of_output_is_noticed() {
        for delta in [
            json!({ "content": "a" }),
            json!({ "content": [{ "type": "thinking", "thinking": [{ "type": "text", "text": "a" }] }] }),
            json!({ "reasoning_content": "a" }),
            json!({ "reasoning": "a" }),
            json!({ "refusal": "no" }),
            json!({ "tool_calls": [{ "index": 0, "id": "x", "function": { "name": "f", "arguments": "" } }] }),
            json!({ "tool_calls": [{ "index": 0, "function": { "arguments": "{" } }] }),
            json!({ "function_call": { "arguments": "{" } }),
            json!({ "audio": { "data": "AAAA" } }),
        ] {
            let reply = events(Protocol::OpenaiChat, &[json!({ "choices": [{ "index": 0, "delta": delta }] })]);
            assert_eq!(reply.output_events, 1, "{delta}");
        }
        for delta in [json!({ "role": "assistant", "content": "" }), json!({ "content": null }), json!({})] {
            let reply = events(Protocol::OpenaiChat, &[json!({ "choices": [{ "index": 0, "delta": delta }] })]);
            assert_eq!(reply.output_events, 0, "{delta}");
        }
    }

    #[test]
    fn errors_inside_a_success_are_found() {
        for doc in [
            json!({ "error": { "code": 429, "message": "slow down" }, "user_id": "u" }),
            json!({ "error": { "code": 1113, "message": "no balance" } }),
            json!({ "error": "out of memory" }),
            json!({ "base_resp": { "status_code": 1004, "status_msg": "log in" } }),
            json!({ "object": "error", "message": "no such model", "code": 404 }),
            json!({ "code": 500, "msg": "404 NOT_FOUND", "success": false }),
            json!({ "code": "InvalidApiKey", "message": "no", "request_id": "r" }),
            json!({ "choices": [{ "index": 0, "finish_reason": "error" }] }),
        ] {
            assert!(whole(Protocol::OpenaiChat, doc.clone()).error.is_some(), "{doc}");
        }
        for doc in [
            json!({ "base_resp": { "status_code": 0, "status_msg": "" }, "choices": [] }),
            json!({ "error": null, "choices": [], "code": 0, "message": "" }),
            json!({ "id": "x", "object": "chat.completion" }),
        ] {
            assert_eq!(whole(Protocol::OpenaiChat, doc.clone()).error, None, "{doc}");
        }
    }

    #[test]
    fn an_error_keeps_the_usage_of_its_chunk() {
        let reply = events(
            Protocol::OpenaiChat,
            &[json!({ "error": { "code": 400, "message": "Token limit reached" }, "model": "m",
                      "choices": [{ "index": 0, "delta": { "content": "" }, "finish_reason": null }],
                      "usage": { "prompt_tokens": 43, "completion_tokens": 10, "cost": 0 } })],
        );
        assert!(reply.error.is_some());
        assert_eq!(reply.usage.expect("usage").input_tokens, Some(43));
        assert_eq!(reply.stated_cost, Some(Money::ZERO));
    }

    #[test]
    fn policy_is_told_from_success() {
        for doc in [
            json!({ "choices": [{ "finish_reason": "content_filter", "message": { "content": "" } }] }),
            json!({ "choices": [{ "finish_reason": "stop", "message": { "refusal": "I can't" } }] }),
            json!({ "choices": [{ "finish_reason": "sensitive" }] }),
            json!({ "error": { "code": "content_filter", "message": "filtered" } }),
            json!({ "output_sensitive": true, "choices": [] }),
        ] {
            assert!(whole(Protocol::OpenaiChat, doc.clone()).blocked, "{doc}");
        }
        let fine = json!({ "choices": [{ "finish_reason": "stop", "message": { "content": "a", "refusal": null } }] });
        assert!(!whole(Protocol::OpenaiChat, fine).blocked);
    }

    #[test]
    fn a_run_counts_once() {
        let step =
            |n: u64| json!({ "object": "thread.run.step", "usage": { "prompt_tokens": n, "completion_tokens": 1 } });
        let run = json!({ "object": "thread.run", "id": "run_1", "thread_id": "thread_1", "model": "m",
                          "status": "completed", "usage": { "prompt_tokens": 30, "completion_tokens": 2 } });
        let reply = events(Protocol::OpenaiChat, &[step(10), step(20), run.clone()]);
        assert_eq!(reply.usage.expect("usage").input_tokens, Some(30));
        assert_eq!(reply.conversation_id.as_deref(), Some("thread_1"));
        assert!(!reply.repeats_usage);
        let cut = events(Protocol::OpenaiChat, &[step(10), step(20)]);
        assert_eq!(cut.usage.expect("usage").input_tokens, Some(30), "a cut run is the sum of its steps");
        assert!(whole(Protocol::OpenaiChat, run).repeats_usage);
    }

    #[test]
    fn a_stream_of_bare_values_needs_no_end() {
        let mut driver = super::super::testing::Driver::new(Protocol::OpenaiCompletions);
        driver.document(None, true, &json!({ "value": "Te" }));
        assert!(!driver.family.has_terminal_event());
        assert_eq!(driver.finish().output_events, 1);
    }

    #[test]
    fn llama_cpp_timings_stand_in_for_usage() {
        let timings = json!({ "cache_n": 20, "prompt_n": 5, "predicted_n": 7 });
        let reply = whole(Protocol::OpenaiChat, json!({ "choices": [], "timings": timings }));
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.cache_read_tokens), (Some(25), Some(7), Some(20)));
    }
}
