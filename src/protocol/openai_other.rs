//! OpenAI-style answers around chat: embeddings and rerank, images, audio.
//!
//! Vectors, pictures and sound are never looked at, only counted. Rerank servers that follow this format (Voyage,
//! llama.cpp, Jina) are read as embeddings are.

use super::json::Value;
use super::openai_chat::read_error;
use super::openai_usage::{self, Context};
use super::read::{any_output, count_at, get, keep, merge, millis, presence, set, str_at, text};
use super::{Family, Interest, Seen};
use crate::call::{Reply, Usage};

const COMMON: [Interest; 14] = [
    keep("id"),
    keep("object"),
    keep("model"),
    keep("usage"),
    keep("service_tier"),
    keep("error"),
    keep("base_resp"),
    keep("type"),
    keep("code"),
    keep("message"),
    keep("msg"),
    keep("detail"),
    keep("success"),
    keep("status"),
];

const EMBEDDINGS: [Interest; COMMON.len() + 1] = with([keep("usage_info.pages_processed")]);
const IMAGES: [Interest; COMMON.len() + 5] = with([
    presence("data.*.b64_json"),
    presence("data.*.url"),
    presence("images.*"),
    presence("b64_json"),
    presence("partial_image_b64"),
]);
const AUDIO: [Interest; COMMON.len() + 4] = with([text("delta"), text("text"), presence("audio"), keep("duration")]);

/// [`COMMON`] and `own` in one list.
const fn with<const N: usize, const M: usize>(own: [Interest; N]) -> [Interest; M] {
    let mut all = [COMMON[0]; M];
    let mut i = 0;
    while i < COMMON.len() {
        all[i] = COMMON[i];
        i += 1;
    }
    let mut j = 0;
    while j < N {
        all[i + j] = own[j];
        j += 1;
    }
    all
}

/// What all of them share: id, model, tier, usage, cost, error.
fn read_common(event: Option<&str>, doc: &Value, total_is_input: bool, reply: &mut Reply) {
    set(&mut reply.id, doc.get("id"));
    set(&mut reply.model, doc.get("model"));
    set(&mut reply.service_tier, doc.get("service_tier"));
    if let Some(object) = get(doc, "usage") {
        let context = Context { model: reply.model.as_deref(), total_is_input };
        if let Some(usage) = openai_usage::usage(object, context) {
            merge(reply, usage);
        }
        reply.stated_cost = openai_usage::stated_cost(object).or(reply.stated_cost);
    }
    read_error(event, doc, reply);
}

/// Embeddings, rerank, and Mistral's document reader (`usage_info.pages_processed`).
#[derive(Debug, Default)]
pub(super) struct OpenaiEmbeddings;

impl Family for OpenaiEmbeddings {
    fn interests(&self) -> &'static [Interest] {
        &EMBEDDINGS
    }

    fn read(&mut self, event: Option<&str>, _streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        read_common(event, doc, true, reply);
        let pages = count_at(doc, &["usage_info", "pages_processed"]);
        merge(reply, Usage { pages, ..Usage::default() });
        Seen::default()
    }

    fn has_terminal_event(&self) -> bool {
        false
    }
}

/// Image generation and edits. Streams end with `image_generation.completed` or `image_edit.completed`.
#[derive(Debug, Default)]
pub(super) struct OpenaiImages;

impl Family for OpenaiImages {
    fn interests(&self) -> &'static [Interest] {
        &IMAGES
    }

    fn read(&mut self, event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        read_common(event, doc, false, reply);
        let terminal = str_at(doc, "type").or(event).is_some_and(|kind| kind.ends_with(".completed"));
        let made = if streaming {
            terminal as u64 + reply.usage.as_ref().and_then(|usage| usage.images).unwrap_or(0)
        } else {
            let data = doc.get("data").and_then(Value::as_array);
            let data = data.map_or(0, |data| data.iter().filter(|item| any_output(Some(item))).count());
            // Venice: `{"images": ["…base64…"]}`.
            let images = doc.get("images").and_then(Value::as_array).map_or(0, Vec::len);
            (data + images) as u64
        };
        if made > 0 {
            merge(reply, Usage { images: Some(made), ..Usage::default() });
        }
        let output =
            made > 0 && !streaming || any_output(doc.get("b64_json")) || any_output(doc.get("partial_image_b64"));
        Seen { output, terminal: streaming && terminal }
    }

    fn has_terminal_event(&self) -> bool {
        true
    }
}

/// Transcription, translation, speech. Streams end with `transcript.text.done` or `speech.audio.done`.
#[derive(Debug, Default)]
pub(super) struct OpenaiAudio;

impl Family for OpenaiAudio {
    fn interests(&self) -> &'static [Interest] {
        &AUDIO
    }

    fn read(&mut self, event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        read_common(event, doc, false, reply);
        // `verbose_json` says how long the sound was; what is billed, where it is said, is `usage.seconds`.
        let known = reply.usage.as_ref().is_some_and(|usage| usage.input_tokens.or(usage.input_audio_millis).is_some());
        if !known && let Some(millis) = get(doc, "duration").and_then(millis) {
            merge(reply, Usage { input_audio_millis: Some(millis), ..Usage::default() });
        }
        let done = matches!(str_at(doc, "type").or(event), Some("transcript.text.done" | "speech.audio.done"));
        let output =
            any_output(doc.get("delta")) || any_output(doc.get("audio")) || !streaming && any_output(doc.get("text"));
        Seen { output, terminal: streaming && done }
    }

    fn has_terminal_event(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{events, whole};
    use crate::call::{Money, Protocol};

    #[test]
    fn embeddings_and_rerank() {
        let usage = |doc| whole(Protocol::OpenaiEmbeddings, doc).usage.expect("usage");
        let openai = usage(json!({ "object": "list", "data": [{ "embedding": [0.1] }], "model": "m",
                                   "usage": { "prompt_tokens": 8, "total_tokens": 8 } }));
        assert_eq!((openai.input_tokens, openai.output_tokens), (Some(8), None));
        let voyage =
            usage(json!({ "data": [{ "relevance_score": 0.7, "index": 0 }], "usage": { "total_tokens": 43 } }));
        assert_eq!(voyage.input_tokens, Some(43));
        let pages = usage(json!({ "pages": [], "model": "ocr", "usage_info": { "pages_processed": 4 } }));
        assert_eq!(pages.pages, Some(4));
    }

    #[test]
    fn images_are_counted_and_their_tokens_read() {
        let reply = whole(
            Protocol::OpenaiImages,
            json!({ "created": 0, "data": [{ "b64_json": "AA" }, { "url": "https://i" }],
                    "usage": { "input_tokens": 14, "input_tokens_details": { "image_tokens": 3, "text_tokens": 11 },
                               "output_tokens": 272, "output_tokens_details": { "image_tokens": 272 }, "total_tokens": 286 } }),
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.images, usage.input_image_tokens, usage.output_image_tokens), (Some(2), Some(3), Some(272)));
        let xai = whole(
            Protocol::OpenaiImages,
            json!({ "data": [{ "b64_json": "AA" }], "usage": { "cost_in_usd_ticks": 700000000u64 } }),
        );
        assert_eq!(xai.stated_cost, Money::parse("0.07"));
        assert_eq!(xai.usage.expect("usage").images, Some(1));
        let stream = events(
            Protocol::OpenaiImages,
            &[
                json!({ "type": "image_generation.partial_image", "b64_json": "AA" }),
                json!({ "type": "image_generation.completed", "b64_json": "AA", "usage": { "input_tokens": 1, "output_tokens": 2, "total_tokens": 3 } }),
            ],
        );
        assert!(stream.terminal);
        assert_eq!((stream.output_events, stream.usage.expect("usage").images), (2, Some(1)));
    }

    #[test]
    fn transcriptions_are_billed_by_tokens_or_by_time() {
        let usage = |doc| whole(Protocol::OpenaiAudio, doc).usage.expect("usage");
        let tokens = usage(json!({ "text": "a", "usage": { "type": "tokens", "input_tokens": 54,
            "input_token_details": { "audio_tokens": 54, "text_tokens": 0 }, "output_tokens": 16, "total_tokens": 70 } }));
        assert_eq!(
            (tokens.input_tokens, tokens.input_audio_tokens, tokens.output_tokens),
            (Some(54), Some(54), Some(16))
        );
        let time = usage(json!({ "text": "a", "duration": 5.49, "usage": { "type": "duration", "seconds": 6 } }));
        assert_eq!((time.input_audio_millis, time.input_tokens), (Some(6000), None));
        let unsaid = usage(json!({ "text": "a", "duration": 5.5 }));
        assert_eq!(unsaid.input_audio_millis, Some(5500));
        let stream = events(
            Protocol::OpenaiAudio,
            &[
                json!({ "type": "transcript.text.delta", "delta": "a" }),
                json!({ "type": "transcript.text.done", "text": "a", "usage": { "type": "tokens", "input_tokens": 1, "output_tokens": 5 } }),
            ],
        );
        assert!(stream.terminal);
        assert_eq!((stream.output_events, stream.usage.expect("usage").output_tokens), (1, Some(5)));
    }
}
