//! The provider's own counts in the record's normal form, worked out from its usage object alone.

use std::collections::BTreeMap;

use serde_json::Value;

/// Field of the record → tokens; zero is left out.
pub(super) type Counts = BTreeMap<String, u64>;

/// Builds [`Counts`].
#[derive(Default)]
struct Form(Counts);

impl Form {
    fn add(&mut self, field: &str, count: u64) -> &mut Self {
        if count > 0 {
            *self.0.entry(field.to_owned()).or_default() += count;
        }
        self
    }
}

/// A count by JSON pointer; absent and null are 0. Titan writes `28.0`.
fn at(usage: &Value, pointer: &str) -> u64 {
    let value = usage.pointer(pointer).unwrap_or(&Value::Null);
    value.as_u64().or_else(|| value.as_f64().map(|count| count as u64)).unwrap_or(0)
}

/// Tokens of one modality in a list of `{modality, tokenCount}`; a Go client asks for the modality as a number.
fn modality(usage: &Value, lists: &[&str], name: &str, number: u64) -> u64 {
    let entries = lists.iter().filter_map(|list| usage[*list].as_array()).flatten();
    let of = entries.filter(|entry| {
        entry["modality"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(name)) || entry["modality"] == number
    });
    of.map(|entry| at(entry, "/tokenCount").max(at(entry, "/tokens"))).sum()
}

/// `native` is the reference's note of a usage object: `{shape, usage}`.
pub(super) fn normal_form(native: &Value) -> Counts {
    let usage = &native["usage"];
    let n = |pointer: &str| at(usage, pointer);
    let first = |pointers: &[&str]| pointers.iter().map(|pointer| n(pointer)).find(|count| *count > 0).unwrap_or(0);
    let mut form = Form::default();
    match native["shape"].as_str().unwrap_or_default() {
        // Cached and reasoning parts stand inside of the totals.
        "openai_chat" => {
            // Rerankers say a total alone.
            let input = if usage.get("prompt_tokens").is_some() { n("/prompt_tokens") } else { n("/total_tokens") };
            form.add("input_tokens", input)
                .add("output_tokens", n("/completion_tokens"))
                .add(
                    "cache_read_tokens",
                    first(&[
                        "/prompt_tokens_details/cached_tokens",
                        "/prompt_token_details/cached_tokens",
                        "/prompt_cache_hit_tokens",
                        "/cached_tokens",
                        "/cache_read_input_tokens",
                    ]),
                )
                .add(
                    "cache_write_tokens",
                    first(&["/prompt_tokens_details/cache_write_tokens", "/cache_creation_input_tokens"]),
                )
                .add("reasoning_tokens", first(&["/completion_tokens_details/reasoning_tokens", "/reasoning_tokens"]))
                .add("input_audio_tokens", n("/prompt_tokens_details/audio_tokens"))
                .add("output_audio_tokens", n("/completion_tokens_details/audio_tokens"))
                .add("output_image_tokens", n("/completion_tokens_details/image_tokens"));
        }
        "openai_responses" => {
            form.add("input_tokens", n("/input_tokens"))
                .add("output_tokens", n("/output_tokens"))
                .add("cache_read_tokens", n("/input_tokens_details/cached_tokens"))
                .add("cache_write_tokens", n("/input_tokens_details/cache_write_tokens"))
                .add("reasoning_tokens", n("/output_tokens_details/reasoning_tokens"));
        }
        "openai_embeddings" => {
            form.add("input_tokens", n("/total_tokens")).add("output_tokens", n("/completion_tokens"));
        }
        "openai_images" | "openai_transcription" => {
            form.add("input_tokens", n("/input_tokens"))
                .add("output_tokens", n("/output_tokens"))
                .add("input_image_tokens", n("/input_tokens_details/image_tokens"))
                .add("output_image_tokens", n("/output_tokens_details/image_tokens"))
                .add("input_audio_tokens", n("/input_token_details/audio_tokens"));
        }
        // Cached parts stand beside `input_tokens`; iterations other than the message's own stand beside all of it.
        "anthropic" => {
            let iterations = usage["iterations"].as_array().into_iter().flatten();
            for part in std::iter::once(usage).chain(iterations.filter(|one| one["type"] != "message")) {
                let (read, write) = (at(part, "/cache_read_input_tokens"), at(part, "/cache_creation_input_tokens"));
                form.add("input_tokens", at(part, "/input_tokens") + read + write)
                    .add("output_tokens", at(part, "/output_tokens"))
                    .add("cache_read_tokens", read)
                    .add("cache_write_tokens", write)
                    .add("cache_write_1h_tokens", at(part, "/cache_creation/ephemeral_1h_input_tokens"))
                    .add("reasoning_tokens", at(part, "/output_tokens_details/thinking_tokens"));
            }
        }
        // Thoughts stand beside the candidates, tools beside the prompt.
        "gemini" => {
            let prompt = ["promptTokensDetails", "promptTokenDetails"];
            form.add("input_tokens", n("/promptTokenCount") + n("/toolUsePromptTokenCount"))
                .add("tool_input_tokens", n("/toolUsePromptTokenCount"))
                .add("output_tokens", n("/candidatesTokenCount") + n("/thoughtsTokenCount"))
                .add("reasoning_tokens", n("/thoughtsTokenCount"))
                .add("cache_read_tokens", n("/cachedContentTokenCount"))
                .add("cache_audio_read_tokens", modality(usage, &["cacheTokensDetails"], "AUDIO", 4))
                .add("input_audio_tokens", modality(usage, &prompt, "AUDIO", 4))
                .add("input_image_tokens", modality(usage, &prompt, "IMAGE", 2))
                .add("output_audio_tokens", modality(usage, &["candidatesTokensDetails"], "AUDIO", 4))
                .add("output_image_tokens", modality(usage, &["candidatesTokensDetails"], "IMAGE", 2));
        }
        "gemini_interactions" => {
            form.add("input_tokens", n("/total_input_tokens") + n("/total_tool_use_tokens"))
                .add("tool_input_tokens", n("/total_tool_use_tokens"))
                .add("output_tokens", n("/total_output_tokens") + n("/total_thought_tokens"))
                .add("reasoning_tokens", n("/total_thought_tokens"))
                .add("cache_read_tokens", n("/total_cached_tokens"))
                .add("input_image_tokens", modality(usage, &["input_tokens_by_modality"], "image", 2));
        }
        "converse" | "bedrock_agent_trace" | "bedrock_headers" | "bedrock_metrics" => {
            let read = first(&["/cacheReadInputTokens", "/cacheReadInputTokenCount"]);
            let write = first(&["/cacheWriteInputTokens", "/cacheWriteInputTokenCount"]);
            form.add("input_tokens", n("/inputTokens") + read + write)
                .add("output_tokens", n("/outputTokens"))
                .add("cache_read_tokens", read)
                .add("cache_write_tokens", write);
        }
        "titan" => {
            form.add("input_tokens", n("/inputTextTokenCount")).add("output_tokens", n("/outputTextTokenCount"));
        }
        "llama_bedrock" => {
            form.add("input_tokens", n("/prompt_token_count")).add("output_tokens", n("/generation_token_count"));
        }
        // What Cohere bills, not what its tokenizer counted.
        "cohere_v2" | "cohere_meta" => {
            form.add("input_tokens", n("/billed_units/input_tokens") + n("/billed_units/image_tokens"))
                .add("output_tokens", n("/billed_units/output_tokens"))
                .add("reasoning_tokens", n("/tokens/reasoning_tokens"));
        }
        "ollama" => {
            form.add("input_tokens", n("/prompt_eval_count")).add("output_tokens", n("/eval_count"));
        }
        "vertex_embed" => {
            form.add("input_tokens", n("/token_count"));
        }
        "watsonx" => {
            form.add("input_tokens", n("/input_token_count")).add("output_tokens", n("/generated_token_count"));
        }
        "aleph_alpha" => {
            form.add("input_tokens", n("/num_tokens_prompt_total")).add("output_tokens", n("/num_tokens_generated"));
        }
        // Replicate's predictions and the like: no tokens.
        "unknown" | "" => {}
        other => panic!("usage of a new shape \"{other}\""),
    }
    form.0
}

/// Other units that a usage object states, by field of the record.
pub(super) fn units(native: &Value) -> Vec<(&'static str, u64)> {
    let usage = &native["usage"];
    match native["shape"].as_str().unwrap_or_default() {
        "cohere_v2" | "cohere_meta" => vec![("search_units", at(usage, "/billed_units/search_units"))],
        "anthropic" => vec![("web_searches", at(usage, "/server_tool_use/web_search_requests"))],
        "openai_transcription" => vec![("input_audio_millis", at(usage, "/seconds") * 1000)],
        "openai_chat" => vec![
            ("web_searches", at(usage, "/server_tool_use_details/web_search_requests")),
            ("input_audio_millis", at(usage, "/prompt_audio_seconds") * 1000),
        ],
        _ => Vec::new(),
    }
}

/// The kinds of tokens that the reference library counts, where it is given the usage as it came.
pub(super) const BOOK_FIELDS: [&str; 8] = [
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "cache_audio_read_tokens",
];

/// The reference library's counts: its names are the record's.
pub(super) fn book_form(book: &Value) -> Option<Counts> {
    let usage = book["usage"].as_object()?;
    let mut form = Form::default();
    for field in BOOK_FIELDS {
        form.add(field, usage.get(field).and_then(Value::as_f64).map_or(0, |count| count as u64));
    }
    Some(form.0)
}

/// The record's own token counts.
pub(super) fn recorded(record: &Value) -> Counts {
    let fields = record["usage"].as_object().into_iter().flatten();
    let mut form = Form::default();
    for (field, count) in fields.filter(|(field, _)| field.ends_with("_tokens")) {
        form.add(field, count.as_u64().expect("a whole number"));
    }
    form.0
}
