//! Usage as OpenAI writes it, with what the vendors of its format add to it or change in it.
//!
//! One `usage` object in, [`Usage`] in normal form and the cost that it states out. Names are those of Chat Completions
//! (`prompt_tokens`) or of Responses, images and audio (`input_tokens`); no server mixes the two.

use super::json::Value;
use super::read::{at, count, count_at, dollars, get, millis};
use crate::call::{Money, Usage};

/// What stands around a `usage` object and changes how it reads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context<'a> {
    /// The answering model.
    pub model: Option<&'a str>,
    /// A lone `total_tokens` is all input: embeddings, rerank (Voyage, recorded answers).
    pub total_is_input: bool,
}

/// Reads one `usage` object; `None` when it counts nothing.
pub(super) fn usage(object: &Value, context: Context<'_>) -> Option<Usage> {
    let fields = object.as_object().filter(|fields| !fields.is_empty())?;
    let first = |names: &[&str]| names.iter().find_map(|name| fields.get(name).and_then(count));
    // `…_token_details` without the plural: Mistral, Writer, OpenAI Assistants and transcriptions (recorded answers).
    let details = |names: &[&'static str]| names.iter().find_map(|name| get(object, name));
    let of_input =
        details(&["prompt_tokens_details", "input_tokens_details", "prompt_token_details", "input_token_details"]);
    let of_output = details(&[
        "completion_tokens_details",
        "output_tokens_details",
        "completion_token_details",
        "output_token_details",
    ]);
    let input_part = |name: &str| of_input.and_then(|part| count_at(part, &[name]));
    let output_part = |name: &str| of_output.and_then(|part| count_at(part, &[name]));

    let total = first(&["total_tokens"]);
    let input = first(&["prompt_tokens", "input_tokens"]);
    let output = first(&["completion_tokens", "output_tokens"]);
    let mut usage = Usage {
        input_tokens: input,
        output_tokens: output,
        // Flat names: DeepSeek `prompt_cache_hit_tokens`, Moonshot `cached_tokens`, gateways to Anthropic
        // `cache_read_input_tokens`. Mistral's `num_cached_tokens` is its server's own figure, not a billed one.
        cache_read_tokens: input_part("cached_tokens")
            .or_else(|| first(&["prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"])),
        cache_write_tokens: input_part("cache_write_tokens")
            .or_else(|| input_part("cache_creation_tokens"))
            .or_else(|| first(&["cache_creation_input_tokens"])),
        cache_write_1h_tokens: count_at(object, &["cache_creation", "ephemeral_1h_input_tokens"]),
        reasoning_tokens: output_part("reasoning_tokens")
            .or_else(|| output_part("thinking_tokens"))
            .or_else(|| first(&["reasoning_tokens"])),
        input_audio_tokens: input_part("audio_tokens"),
        cache_audio_read_tokens: of_input.and_then(|part| count_at(part, &["cached_tokens_details", "audio_tokens"])),
        output_audio_tokens: output_part("audio_tokens"),
        input_image_tokens: input_part("image_tokens"),
        output_image_tokens: output_part("image_tokens"),
        // OpenRouter, Perplexity.
        web_searches: count_at(object, &["server_tool_use_details", "web_search_requests"])
            .or_else(|| count_at(object, &["server_tool_use", "web_search_requests"]))
            .or_else(|| first(&["num_search_queries"])),
        // Transcriptions that are billed by time: `{"type": "duration", "seconds": 6}`. Mistral's Voxtral bills audio
        // by `prompt_audio_seconds`.
        input_audio_millis: get(object, "seconds").or_else(|| get(object, "prompt_audio_seconds")).and_then(millis),
        ..Usage::default()
    };
    match (input, output, total) {
        (None, None, Some(total)) if context.total_is_input => usage.input_tokens = Some(total),
        (Some(input), Some(output), Some(total)) if total > input.saturating_add(output) => {
            let rest = total - input - output;
            match usage.reasoning_tokens {
                // xAI counts reasoning in the total but not in `completion_tokens`
                // (https://docs.x.ai/docs/guides/reasoning).
                Some(reasoning) if reasoning == rest => usage.output_tokens = Some(output + rest),
                // So does Gemini behind its OpenAI endpoint, without saying how much (recorded answers).
                None | Some(0) if context.model.is_some_and(|model| model.contains("gemini")) => {
                    usage.output_tokens = Some(output + rest);
                    usage.reasoning_tokens = Some(rest);
                }
                _ => {}
            }
        }
        _ => {}
    }
    // Voxtral's audio tokens stand beside `prompt_tokens`, not in it: they are billed by the second.
    if usage.input_audio_tokens > usage.input_tokens.or(Some(u64::MAX)) {
        usage.input_audio_tokens = None;
    }
    (!usage.is_empty()).then_some(usage)
}

/// The cost that a `usage` object states, in dollars.
///
/// OpenRouter `cost`, Perplexity `cost.total_cost`, xAI `cost_in_usd_ticks` (10⁻¹⁰ dollars), Pydantic's gateway
/// `pydantic_ai_gateway.cost_estimate` (all from recorded answers).
pub(super) fn stated_cost(object: &Value) -> Option<Money> {
    if let Some(ticks) = get(object, "cost_in_usd_ticks").and_then(Value::as_i64).filter(|ticks| *ticks >= 0) {
        return Some(Money::from_ticks(ticks));
    }
    let cost = get(object, "cost");
    cost.and_then(|cost| get(cost, "total_cost"))
        .or(cost)
        .and_then(dollars)
        .or_else(|| at(object, &["pydantic_ai_gateway", "cost_estimate"]).and_then(dollars))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(object: serde_json::Value) -> Usage {
        usage(&object.into(), Context::default()).expect("usage")
    }

    #[test]
    fn reasoning_outside_of_the_completion_is_added() {
        // The shape of an xAI chat answer: 32 + 9 + 94 = 135.
        let xai = read(json!({
            "prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135,
            "completion_tokens_details": { "reasoning_tokens": 94 },
        }));
        assert_eq!((xai.output_tokens, xai.reasoning_tokens), (Some(103), Some(94)));
        let openai = read(json!({
            "prompt_tokens": 32, "completion_tokens": 103, "total_tokens": 135,
            "completion_tokens_details": { "reasoning_tokens": 94 },
        }));
        assert_eq!((openai.output_tokens, openai.reasoning_tokens), (Some(103), Some(94)));
    }

    #[test]
    fn thinking_that_only_the_total_shows_is_output_for_gemini_alone() {
        let object = json!({ "prompt_tokens": 66, "completion_tokens": 6, "total_tokens": 100 }).into();
        let gemini = usage(&object, Context { model: Some("gemini-2.5-pro"), ..Context::default() }).expect("usage");
        assert_eq!((gemini.output_tokens, gemini.reasoning_tokens), (Some(34), Some(28)));
        let other = usage(&object, Context { model: Some("other"), ..Context::default() }).expect("usage");
        assert_eq!((other.output_tokens, other.reasoning_tokens), (Some(6), None));
    }

    #[test]
    fn cached_tokens_are_found_under_every_name() {
        for object in [
            json!({ "prompt_tokens": 9, "prompt_tokens_details": { "cached_tokens": 4 } }),
            json!({ "input_tokens": 9, "input_tokens_details": { "cached_tokens": 4 } }),
            json!({ "prompt_tokens": 9, "prompt_token_details": { "cached_tokens": 4 } }),
            json!({ "prompt_tokens": 9, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5 }),
            json!({ "prompt_tokens": 9, "cached_tokens": 4 }),
            json!({ "prompt_tokens": 9, "cache_read_input_tokens": 4, "prompt_tokens_details": null }),
        ] {
            let usage = read(object.clone());
            assert_eq!((usage.input_tokens, usage.cache_read_tokens), (Some(9), Some(4)), "{object}");
        }
    }

    #[test]
    fn audio_beside_the_prompt_is_billed_by_time() {
        let voxtral = read(json!({
            "prompt_tokens": 11, "completion_tokens": 15, "total_tokens": 401, "prompt_audio_seconds": 5,
            "prompt_tokens_details": { "audio_tokens": 375, "cached_tokens": 9 },
        }));
        assert_eq!(voxtral.input_tokens, Some(11));
        assert_eq!(voxtral.input_audio_tokens, None);
        assert_eq!(voxtral.input_audio_millis, Some(5000));
    }

    #[test]
    fn nothing_counted_is_no_usage() {
        for object in [json!(null), json!({}), json!([]), json!({ "prompt_tokens": null }), json!("12")] {
            assert_eq!(usage(&object.clone().into(), Context::default()), None, "{object}");
        }
        let lone = json!({ "total_tokens": 3 }).into();
        assert_eq!(usage(&lone, Context::default()), None);
        let rerank = usage(&lone, Context { total_is_input: true, ..Context::default() }).expect("usage");
        assert_eq!(rerank.input_tokens, Some(3));
    }

    #[test]
    fn costs_are_exact() {
        for (object, cost) in [
            (json!({ "cost": 0.00341475 }), Some("0.00341475")),
            (json!({ "cost": 0 }), Some("0")),
            (json!({ "cost": { "total_cost": 0.00501, "request_cost": 0.005 } }), Some("0.00501")),
            (json!({ "cost_in_usd_ticks": 700_000_000 }), Some("0.07")),
            (json!({ "pydantic_ai_gateway": { "cost_estimate": 3.75e-06 } }), Some("0.00000375")),
            (json!({ "cost": null }), None),
            (json!({ "cost": -1 }), None),
            (json!({ "cost_in_usd_ticks": -5 }), None),
        ] {
            assert_eq!(stated_cost(&object.clone().into()), cost.and_then(Money::parse), "{object}");
        }
    }
}
