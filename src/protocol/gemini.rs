//! Gemini `generateContent` and its streams, embeddings, the Live API's turns, and Vertex AI `predict`.
//!
//! `promptTokenCount` includes the cache but not what tools brought in; output is candidates and thoughts. Every chunk
//! may carry cumulative usage: the last one wins. Go clients that ask for `enum-encoding=int` get numbers where others
//! get names (recorded answers).

use super::json::Value;
use super::openai_usage;
use super::read::{
    any_output, at, count, count_at, deep, finish, get, keep, merge, presence, set, sum, text, wrapped_error,
};
use super::{Family, Interest, Seen};
use crate::call::{Reply, Usage};

const INTERESTS: &[Interest] = &[
    keep("usageMetadata"),
    keep("modelVersion"),
    keep("responseId"),
    keep("candidates.*.index"),
    keep("candidates.*.finishReason"),
    text("candidates.*.content.parts.*.text"),
    text("candidates.*.content.parts.*.functionCall.name"),
    deep("candidates.*.content.parts.*.functionCall.args"),
    text("candidates.*.content.parts.*.executableCode.code"),
    presence("candidates.*.content.parts.*.inlineData"),
    presence("candidates.*.groundingMetadata.webSearchQueries.*"),
    keep("promptFeedback.blockReason"),
    text("serverContent.modelTurn.parts.*.text"),
    presence("serverContent.modelTurn.parts.*.inlineData"),
    presence("toolCall.functionCalls.*.name"),
    keep("error"),
];

/// Gemini.
#[derive(Debug, Default)]
pub(super) struct Gemini;

impl Family for Gemini {
    fn interests(&self) -> &'static [Interest] {
        INTERESTS
    }

    fn read(&mut self, _event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        let mut seen = Seen::default();
        set(&mut reply.id, doc.get("responseId"));
        set(&mut reply.model, doc.get("modelVersion"));
        let mut queries = 0;
        for (position, candidate) in doc.get("candidates").and_then(Value::as_array).into_iter().flatten().enumerate() {
            seen.output |= any_output(candidate.get("content"));
            let searched = at(candidate, &["groundingMetadata", "webSearchQueries"]).and_then(Value::as_array);
            queries += searched.map_or(0, Vec::len) as u64;
            if let Some(reason) = get(candidate, "finishReason").and_then(|reason| name(reason, FINISH)) {
                let index = get(candidate, "index").and_then(count).map_or(position, |index| index.min(64) as usize);
                finish(reply, index, &reason);
                seen.terminal |= streaming;
            }
        }
        seen.output |= any_output(doc.get("serverContent")) || any_output(doc.get("toolCall"));
        if let Some(reason) = at(doc, &["promptFeedback", "blockReason"]) {
            reply.blocked = true;
            if let Some(reason) = name(reason, &["BLOCK_REASON_UNSPECIFIED", "SAFETY"]) {
                finish(reply, 0, &reason);
            }
            seen.terminal |= streaming;
        }
        if let Some(metadata) = get(doc, "usageMetadata") {
            read_metadata(metadata, reply);
        }
        if queries > 0 {
            // Grounding is billed by the query from Gemini 3 on, by the grounded prompt before
            // (https://ai.google.dev/gemini-api/docs/google-search#pricing).
            let by_query = reply.model.as_deref().is_some_and(|model| model.contains("gemini-3"));
            merge(reply, Usage { web_searches: Some(if by_query { queries } else { 1 }), ..Usage::default() });
        }
        wrapped_error(doc, reply);
        seen
    }

    fn has_terminal_event(&self) -> bool {
        true
    }
}

fn read_metadata(metadata: &Value, reply: &mut Reply) {
    let candidates =
        count_at(metadata, &["candidatesTokenCount"]).or_else(|| count_at(metadata, &["responseTokenCount"]));
    let thoughts = count_at(metadata, &["thoughtsTokenCount"]);
    let tools = count_at(metadata, &["toolUsePromptTokenCount"]);
    let parts = |keys: &[&str], modality: Modality| {
        keys.iter().fold(None, |total, key| sum(total, of_modality(metadata.get(key), modality)))
    };
    // Embeddings call it `promptTokenDetails`, Live answers `responseTokensDetails`.
    const PROMPT: &[&str] = &["promptTokensDetails", "promptTokenDetails", "toolUsePromptTokensDetails"];
    const OUTPUT: &[&str] = &["candidatesTokensDetails", "responseTokensDetails"];
    let usage = Usage {
        input_tokens: sum(count_at(metadata, &["promptTokenCount"]), tools),
        output_tokens: sum(candidates, thoughts),
        cache_read_tokens: count_at(metadata, &["cachedContentTokenCount"]),
        reasoning_tokens: thoughts,
        input_audio_tokens: parts(PROMPT, Modality::Audio),
        cache_audio_read_tokens: parts(&["cacheTokensDetails"], Modality::Audio),
        output_audio_tokens: parts(OUTPUT, Modality::Audio),
        input_image_tokens: parts(PROMPT, Modality::Image),
        output_image_tokens: parts(OUTPUT, Modality::Image),
        tool_input_tokens: tools,
        ..Usage::default()
    };
    merge(reply, usage);
    reply.stated_cost = openai_usage::stated_cost(metadata).or(reply.stated_cost);
    // Gemini names a tier, Vertex a kind of traffic.
    let tier = get(metadata, "serviceTier").or_else(|| get(metadata, "trafficType"));
    if let Some(tier) =
        tier.and_then(|tier| name(tier, TRAFFIC)).filter(|tier| reply.service_tier.as_ref() != Some(tier))
    {
        reply.service_tier = Some(tier);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Modality {
    Image,
    Audio,
}

/// Tokens of one modality in a list of `{modality, tokenCount}` (Interactions: `tokens`).
///
/// Numbers as in google.ai.generativelanguage.v1beta `Modality`: TEXT 1, IMAGE 2, VIDEO 3, AUDIO 4, DOCUMENT 5.
pub(super) fn of_modality(details: Option<&Value>, modality: Modality) -> Option<u64> {
    let (word, number) = match modality {
        Modality::Image => ("image", 2),
        Modality::Audio => ("audio", 4),
    };
    let entries = details.and_then(Value::as_array)?.iter().filter(|entry| match entry.get("modality") {
        Some(Value::String(text)) => text.eq_ignore_ascii_case(word),
        Some(value) => value.as_u64() == Some(number),
        None => false,
    });
    entries.fold(None, |total, entry| {
        sum(total, count_at(entry, &["tokenCount"]).or_else(|| count_at(entry, &["tokens"])))
    })
}

/// The first values of `FinishReason`, which the Gemini API and Vertex AI agree on; later numbers differ.
const FINISH: &[&str] = &["FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER"];
/// Vertex AI `TrafficType`.
const TRAFFIC: &[&str] = &["TRAFFIC_TYPE_UNSPECIFIED", "ON_DEMAND", "PROVISIONED_THROUGHPUT"];

/// An enum value by its name, also when it came as a number; a number that `names` does not know stays a number.
fn name(value: &Value, names: &[&str]) -> Option<String> {
    match value {
        Value::String(text) => Some(super::read::clip(text).to_owned()),
        Value::Number(number) => {
            let known = number.as_u64().and_then(|n| names.get(usize::try_from(n).ok()?));
            Some(known.map_or_else(|| number.to_string(), |name| (*name).to_owned()))
        }
        _ => None,
    }
}

/// Vertex AI `predict`: embeddings (`statistics.token_count` of each prediction) and Imagen.
#[derive(Debug, Default)]
pub(super) struct VertexPredict;

const VERTEX_PREDICT: &[Interest] = &[
    keep("predictions.*.embeddings.statistics.token_count"),
    presence("predictions.*.bytesBase64Encoded"),
    presence("predictions.*.raiFilteredReason"),
    keep("metadata.billableCharacterCount"),
    keep("modelDisplayName"),
    keep("error"),
];

impl Family for VertexPredict {
    fn interests(&self) -> &'static [Interest] {
        VERTEX_PREDICT
    }

    fn read(&mut self, _event: Option<&str>, _streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        let predictions = doc.get("predictions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let tokens = predictions.iter().fold(None, |total, prediction| {
            sum(total, count_at(prediction, &["embeddings", "statistics", "token_count"]))
        });
        let images = predictions.iter().filter(|one| any_output(one.get("bytesBase64Encoded"))).count() as u64;
        let usage = Usage {
            input_tokens: tokens,
            input_characters: count_at(doc, &["metadata", "billableCharacterCount"]),
            images: Some(images).filter(|n| *n > 0),
            ..Usage::default()
        };
        merge(reply, usage);
        set(&mut reply.model, doc.get("modelDisplayName"));
        reply.blocked |= predictions.iter().any(|one| any_output(one.get("raiFilteredReason")));
        wrapped_error(doc, reply);
        Seen { output: images > 0, terminal: false }
    }

    fn has_terminal_event(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{events, whole};
    use crate::call::Protocol;

    #[test]
    fn parts_are_summed_into_the_normal_form() {
        let reply = whole(
            Protocol::Gemini,
            json!({ "modelVersion": "gemini-2.5-flash", "responseId": "r", "candidates": [{ "content": { "parts": [{ "text": "a" }] }, "finishReason": "STOP" }],
                "usageMetadata": { "promptTokenCount": 1107, "toolUsePromptTokenCount": 1171, "cachedContentTokenCount": 1081,
                    "candidatesTokenCount": 21, "thoughtsTokenCount": 41, "totalTokenCount": 2340, "serviceTier": "flex",
                    "promptTokensDetails": [{ "modality": "TEXT", "tokenCount": 1000 }, { "modality": "AUDIO", "tokenCount": 107 }],
                    "cacheTokensDetails": [{ "modality": "AUDIO", "tokenCount": 81 }],
                    "candidatesTokensDetails": [{ "modality": "IMAGE", "tokenCount": 20 }] } }),
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(2278), Some(62)));
        assert_eq!(
            (usage.tool_input_tokens, usage.reasoning_tokens, usage.cache_read_tokens),
            (Some(1171), Some(41), Some(1081))
        );
        assert_eq!(
            (usage.input_audio_tokens, usage.cache_audio_read_tokens, usage.output_image_tokens),
            (Some(107), Some(81), Some(20))
        );
        assert_eq!(reply.service_tier.as_deref(), Some("flex"));
    }

    #[test]
    fn numbers_stand_for_names() {
        let reply = whole(
            Protocol::Gemini,
            json!({ "candidates": [{ "finishReason": 3 }], "usageMetadata": { "promptTokenCount": 5, "trafficType": 1,
                "promptTokensDetails": [{ "modality": 1, "tokenCount": 2 }, { "modality": 4, "tokenCount": 3 }] } }),
        );
        assert_eq!(reply.usage.expect("usage").input_audio_tokens, Some(3));
        assert_eq!(reply.service_tier.as_deref(), Some("ON_DEMAND"));
        assert_eq!(reply.finish_reasons, ["SAFETY"]);
        assert!(reply.blocked);
        let later = whole(Protocol::Gemini, json!({ "candidates": [{ "finishReason": 77 }] }));
        assert_eq!((later.finish_reasons, later.blocked), (vec!["77".to_owned()], false));
    }

    #[test]
    fn the_last_chunk_wins_and_ends_the_stream() {
        let chunk = |text: &str, output: u64, reason: Value| {
            json!({ "candidates": [{ "content": { "parts": [{ "text": text }] }, "finishReason": reason, "index": 0 }],
                    "usageMetadata": { "promptTokenCount": 4, "candidatesTokenCount": output } })
        };
        let first = chunk("a", 1, json!(null));
        let reply = events(Protocol::Gemini, &[first.clone(), chunk("b", 2, json!("STOP"))]);
        assert!(reply.terminal);
        assert_eq!((reply.usage.expect("usage").output_tokens, reply.output_events), (Some(2), 2));
        assert!(!events(Protocol::Gemini, &[first]).terminal);
    }

    #[test]
    fn a_blocked_prompt_is_blocked_and_complete() {
        let doc = json!({ "promptFeedback": { "blockReason": "MODEL_ARMOR" }, "usageMetadata": { "trafficType": "ON_DEMAND" } });
        let reply = events(Protocol::Gemini, &[doc]);
        assert!(reply.blocked && reply.terminal);
        assert_eq!(reply.usage, None);
    }

    #[test]
    fn cached_contents_are_no_usage() {
        let reply = whole(
            Protocol::Gemini,
            json!({ "name": "cachedContents/x", "usageMetadata": { "totalTokenCount": 2162 } }),
        );
        assert_eq!(reply.usage, None);
    }

    #[test]
    fn grounding_counts_prompts_before_gemini_3_and_queries_after() {
        let doc = |model: &str| {
            json!({ "modelVersion": model, "usageMetadata": { "promptTokenCount": 1 },
            "candidates": [{ "finishReason": "STOP", "groundingMetadata": { "webSearchQueries": ["a", "b"] } }] })
        };
        let searches = |model| whole(Protocol::Gemini, doc(model)).usage.expect("usage").web_searches;
        assert_eq!((searches("gemini-2.5-pro"), searches("gemini-3-pro")), (Some(1), Some(2)));
    }

    #[test]
    fn predictions_are_summed() {
        let one = |n: u64| json!({ "embeddings": { "statistics": { "token_count": n, "truncated": false }, "values": [0.1] } });
        let reply = whole(
            Protocol::VertexPredict,
            json!({ "predictions": [one(7), one(5)], "metadata": { "billableCharacterCount": 40 } }),
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.input_characters, usage.output_tokens), (Some(12), Some(40), None));
        let images = whole(
            Protocol::VertexPredict,
            json!({ "predictions": [{ "bytesBase64Encoded": "AA" }, { "raiFilteredReason": "x" }] }),
        );
        assert_eq!((images.usage.expect("usage").images, images.blocked), (Some(1), true));
    }

    #[test]
    fn an_error_between_chunks_is_found() {
        let doc = json!({ "error": { "code": 503, "message": "overloaded", "status": "UNAVAILABLE" } });
        assert!(events(Protocol::Gemini, &[doc]).error.is_some());
    }
}
