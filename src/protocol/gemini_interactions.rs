//! Gemini Interactions (`/v1beta/interactions`).
//!
//! A whole answer is an interaction object; a stream ends with `interaction.completed` that carries it, then `[DONE]`.
//! Counts are `total_…`; output and thoughts are apart, tool use is beside the input as in `generateContent`.

use serde_json::json;

use super::gemini::{Modality, of_modality};
use super::json::Value;
use super::read::{
    any_output, count_at, deep, finish, get, keep, merge, presence, set, set_error, str_at, sum, text, wrapped_error,
};
use super::{Family, Interest, Seen};
use crate::call::{Reply, Usage};

const INTERESTS: &[Interest] = &[
    keep("event_type"),
    keep("interaction.id"),
    keep("interaction.model"),
    keep("interaction.agent"),
    keep("interaction.status"),
    keep("interaction.usage"),
    keep("interaction.service_tier"),
    keep("interaction.error"),
    text("delta.text"),
    text("delta.content.text"),
    text("delta.arguments"),
    deep("delta.code"),
    presence("delta.data"),
    keep("id"),
    keep("model"),
    keep("agent"),
    keep("status"),
    keep("usage"),
    keep("service_tier"),
    keep("error"),
    text("steps.*.content.*.text"),
    text("steps.*.name"),
    deep("steps.*.arguments"),
    text("outputs.*.text"),
];

/// Interactions.
#[derive(Debug, Default)]
pub(super) struct GeminiInteractions;

impl Family for GeminiInteractions {
    fn interests(&self) -> &'static [Interest] {
        INTERESTS
    }

    fn read(&mut self, event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        if wrapped_error(doc, reply) {
            return Seen::default();
        }
        if let Some(interaction) = get(doc, "interaction") {
            read_interaction(interaction, reply);
            let kind = str_at(doc, "event_type").or(event).unwrap_or_default();
            let terminal = ["interaction.complete", "interaction.failed", "interaction.cancelled"];
            return Seen { output: false, terminal: terminal.iter().any(|ending| kind.starts_with(ending)) };
        }
        if streaming {
            return Seen { output: any_output(doc.get("delta")), terminal: false };
        }
        read_interaction(doc, reply);
        Seen { output: any_output(doc.get("steps")) || any_output(doc.get("outputs")), terminal: false }
    }

    fn has_terminal_event(&self) -> bool {
        true
    }
}

fn read_interaction(interaction: &Value, reply: &mut Reply) {
    set(&mut reply.id, interaction.get("id"));
    set(&mut reply.model, get(interaction, "model").or_else(|| get(interaction, "agent")));
    set(&mut reply.service_tier, interaction.get("service_tier"));
    let status = str_at(interaction, "status").unwrap_or_default();
    match status {
        "completed" | "requires_action" | "incomplete" | "cancelled" => finish(reply, 0, status),
        "failed" => {
            finish(reply, 0, status);
            let error = get(interaction, "error").cloned().unwrap_or_else(|| json!({ "type": "failed" }).into());
            set_error(reply, &json!({ "error": error }));
        }
        _ => {}
    }
    let Some(object) = get(interaction, "usage") else { return };
    let total = |name: &str| count_at(object, &[name]);
    let (thoughts, tools) = (total("total_thought_tokens"), total("total_tool_use_tokens"));
    let by_modality = |name: &str, modality| of_modality(object.get(name), modality);
    let searches = object.get("grounding_tool_count").and_then(Value::as_array).and_then(|tools| {
        let searched = tools.iter().filter(|tool| str_at(tool, "type") == Some("google_search"));
        searched.fold(None, |all, tool| sum(all, count_at(tool, &["count"])))
    });
    let usage = Usage {
        input_tokens: sum(total("total_input_tokens"), tools),
        output_tokens: sum(total("total_output_tokens"), thoughts),
        cache_read_tokens: total("total_cached_tokens"),
        reasoning_tokens: thoughts,
        tool_input_tokens: tools,
        input_audio_tokens: by_modality("input_tokens_by_modality", Modality::Audio),
        input_image_tokens: by_modality("input_tokens_by_modality", Modality::Image),
        output_audio_tokens: by_modality("output_tokens_by_modality", Modality::Audio),
        output_image_tokens: by_modality("output_tokens_by_modality", Modality::Image),
        web_searches: searches,
        ..Usage::default()
    };
    merge(reply, usage);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{events, whole};
    use serde_json::Value;

    use super::*;
    use crate::call::Protocol;

    fn interaction(status: &str) -> Value {
        json!({ "id": "v1_1", "model": "gemini-3-flash", "status": status, "service_tier": "standard",
                "usage": { "total_input_tokens": 31, "total_output_tokens": 19, "total_thought_tokens": 111,
                           "total_tool_use_tokens": 4, "total_cached_tokens": 8, "total_tokens": 165,
                           "input_tokens_by_modality": [{ "modality": "audio", "tokens": 6 }],
                           "grounding_tool_count": [{ "type": "google_search", "count": 2 }] } })
    }

    #[test]
    fn counts_are_put_together() {
        let reply = whole(Protocol::GeminiInteractions, interaction("completed"));
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(35), Some(130)));
        assert_eq!(
            (usage.cache_read_tokens, usage.input_audio_tokens, usage.web_searches),
            (Some(8), Some(6), Some(2))
        );
        assert_eq!(reply.finish_reasons, ["completed"]);
    }

    #[test]
    fn a_stream_ends_with_the_interaction() {
        let reply = events(
            Protocol::GeminiInteractions,
            &[
                json!({ "event_type": "interaction.created", "interaction": { "id": "v1_1", "status": "in_progress" } }),
                json!({ "event_type": "step.delta", "delta": { "type": "thought_signature", "signature": "AA" } }),
                json!({ "event_type": "step.delta", "delta": { "type": "text", "text": "a" } }),
                json!({ "event_type": "step.delta", "delta": { "type": "arguments_delta", "arguments": "{" } }),
                json!({ "event_type": "interaction.completed", "interaction": interaction("completed") }),
            ],
        );
        assert!(reply.terminal);
        assert_eq!(reply.output_events, 2);
        assert_eq!(reply.usage.expect("usage").output_tokens, Some(130));
    }

    #[test]
    fn failure_is_an_error_and_waiting_is_nothing() {
        assert!(whole(Protocol::GeminiInteractions, interaction("failed")).error.is_some());
        let waiting = whole(
            Protocol::GeminiInteractions,
            json!({ "id": "v1_1", "status": "in_progress", "agent": "deep-research" }),
        );
        assert_eq!((waiting.usage, waiting.error), (None, None));
        assert_eq!(waiting.model.as_deref(), Some("deep-research"));
    }
}
