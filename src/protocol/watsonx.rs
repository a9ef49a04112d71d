//! IBM watsonx text generation (`results[]`), and Aleph Alpha's completions, which count alike at the top level.
//!
//! A watsonx stream counts its input in the first event only and says 0 afterwards; its output is cumulative (recorded
//! answers). So the largest of each wins. watsonx chat is OpenAI's format and has a family of its own.

use super::json::Value;
use super::read::{any_output, count_at, finish, get, keep, set, str_at, sum, text, wrapped_error};
use super::{Family, Interest, Seen};
use crate::call::{Reply, Usage};

/// watsonx.
#[derive(Debug, Default)]
pub(super) struct Watsonx;

const WATSONX: &[Interest] = &[
    keep("model_id"),
    keep("model_version"),
    text("results.*.generated_text"),
    keep("results.*.generated_token_count"),
    keep("results.*.input_token_count"),
    keep("results.*.stop_reason"),
    text("completions.*.completion"),
    keep("completions.*.finish_reason"),
    keep("num_tokens_prompt_total"),
    keep("num_tokens_generated"),
    keep("errors"),
    keep("error"),
];

impl Family for Watsonx {
    fn interests(&self) -> &'static [Interest] {
        WATSONX
    }

    fn read(&mut self, _event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        let mut seen = Seen::default();
        set(&mut reply.model, get(doc, "model_id").or_else(|| get(doc, "model_version")));
        let mut usage = Usage {
            input_tokens: count_at(doc, &["num_tokens_prompt_total"]),
            output_tokens: count_at(doc, &["num_tokens_generated"]),
            ..Usage::default()
        };
        for (index, result) in doc.get("results").and_then(Value::as_array).into_iter().flatten().enumerate() {
            usage.input_tokens = sum(usage.input_tokens, count_at(result, &["input_token_count"]));
            usage.output_tokens = sum(usage.output_tokens, count_at(result, &["generated_token_count"]));
            seen.output |= any_output(result.get("generated_text"));
            if let Some(reason) = str_at(result, "stop_reason").filter(|reason| *reason != "not_finished") {
                finish(reply, index, reason);
                seen.terminal |= streaming;
            }
        }
        for (index, one) in doc.get("completions").and_then(Value::as_array).into_iter().flatten().enumerate() {
            seen.output |= any_output(one.get("completion"));
            if let Some(reason) = str_at(one, "finish_reason") {
                finish(reply, index, reason);
            }
        }
        if !usage.is_empty() {
            let known = reply.usage.get_or_insert_with(Usage::default);
            known.input_tokens = known.input_tokens.max(usage.input_tokens);
            known.output_tokens = known.output_tokens.max(usage.output_tokens);
        }
        if let Some(errors) = get(doc, "errors") {
            super::read::set_error(reply, &serde_json::json!({ "errors": errors }));
        }
        wrapped_error(doc, reply);
        seen
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
    fn the_input_is_in_the_first_event_only() {
        let event = |text: &str, input: u64, output: u64, reason: &str| {
            json!({ "model_id": "google/flan-ul2", "results": [{ "generated_text": text, "generated_token_count": output,
                    "input_token_count": input, "stop_reason": reason }] })
        };
        let reply = events(
            Protocol::Watsonx,
            &[event("", 8, 0, "not_finished"), event("the", 0, 1, "not_finished"), event("", 0, 2, "eos_token")],
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(8), Some(2)));
        assert!(reply.terminal);
        assert_eq!(reply.output_events, 1);
    }

    #[test]
    fn whole_answers_and_errors() {
        let aleph = whole(
            Protocol::Watsonx,
            json!({ "completions": [{ "completion": "a", "finish_reason": "maximum_tokens" }], "model_version": "2022-04",
                    "num_tokens_prompt_total": 9, "num_tokens_generated": 1000 }),
        );
        assert_eq!(aleph.usage.expect("usage").output_tokens, Some(1000));
        let error = whole(
            Protocol::Watsonx,
            json!({ "errors": [{ "code": "token_quota_reached", "message": "no" }], "status_code": 403 }),
        );
        assert!(error.error.is_some());
    }
}
