//! Recorded exchanges with real providers, read by the families and compared with the provider's own counts.
//!
//! Looks for the recordings in `$KEYTALLY_SHARED/corpus` or `../shared/corpus` and says "skipped" where there are none.
//! Framing here is as simple as can be; the real one has tests of its own. Every difference must have a cause that
//! [`explain`] knows, and every cause must still occur.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::testing::Driver;
use super::usage_from_headers;
use crate::call::{Money, Protocol, Reply, ResponseFacts, Usage};

pub(crate) fn corpus() -> Option<Vec<Value>> {
    let shared = std::env::var_os("KEYTALLY_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let mut files: Vec<_> = std::fs::read_dir(shared.join("corpus"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".jsonl.gz"))
        .collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let open = std::fs::File::open(&file).expect("readable recording");
        for line in std::io::BufReader::new(flate2::read::MultiGzDecoder::new(open)).lines() {
            all.push(serde_json::from_str(&line.expect("text")).expect("one exchange a line"));
        }
    }
    Some(all)
}

fn text<'a>(exchange: &'a Value, key: &str) -> &'a str {
    exchange[key].as_str().unwrap_or_default()
}

/// As the provider catalogue would tell it by host and path.
pub(crate) fn protocol(exchange: &Value) -> Protocol {
    let path = text(exchange, "path");
    match text(exchange, "endpoint") {
        "chat" | "assistant_run" => Protocol::OpenaiChat,
        "completions" => Protocol::OpenaiCompletions,
        "responses" | "responses_compact" | "response_get" => Protocol::OpenaiResponses,
        "messages" => Protocol::AnthropicMessages,
        "anthropic_complete" => Protocol::AnthropicComplete,
        "generate_content" | "generate_content_stream" | "gemini_embed" | "cached_content" => Protocol::Gemini,
        "gemini_interactions" => Protocol::GeminiInteractions,
        "vertex_predict" => Protocol::VertexPredict,
        "bedrock_converse" | "bedrock_converse_stream" => Protocol::BedrockConverse,
        "bedrock_invoke" | "bedrock_invoke_stream" => Protocol::BedrockInvoke,
        "bedrock_agent" => Protocol::BedrockAgent,
        "cohere_chat" if path.starts_with("/v1") => Protocol::CohereV1,
        "cohere_chat" => Protocol::CohereV2,
        "cohere_generate" => Protocol::CohereV1,
        "ollama_chat" | "ollama_generate" => Protocol::Ollama,
        "embeddings" | "rerank" => match text(exchange, "provider") {
            "cohere" => Protocol::CohereV2,
            "ollama" => Protocol::Ollama,
            _ => Protocol::OpenaiEmbeddings,
        },
        "image" => Protocol::OpenaiImages,
        "audio_speech" | "audio_transcription" => Protocol::OpenaiAudio,
        "text_generation" if matches!(text(exchange, "provider"), "watsonx" | "aleph_alpha") => Protocol::Watsonx,
        _ => Protocol::Opaque,
    }
}

/// Reads a recorded answer as the data plane would; also whether its stream had to have a terminal event.
fn read(exchange: &Value) -> (Reply, bool) {
    let mut driver = Driver::new(protocol(exchange));
    let body = text(exchange, "response_body");
    match text(exchange, "stream_format") {
        "sse" => sse(body, &mut driver),
        "ndjson" => {
            for line in body.lines().filter(|line| !line.trim().is_empty()) {
                driver.document(None, true, &serde_json::from_str(line).expect("JSON line"));
            }
        }
        "json-array" => {
            for doc in serde_json::from_str::<Vec<Value>>(body).expect("JSON array") {
                driver.document(None, true, &doc);
            }
        }
        "aws-eventstream" => {
            for (event, payload) in event_stream(&STANDARD.decode(body).expect("base64")) {
                let doc: Value = serde_json::from_slice(&payload).expect("JSON payload");
                let inner =
                    doc.get("bytes").and_then(Value::as_str).filter(|_| protocol(exchange) == Protocol::BedrockInvoke);
                let inner = inner.map(|bytes| STANDARD.decode(bytes).expect("base64"));
                let doc = inner.map_or(doc, |inner| serde_json::from_slice(&inner).expect("JSON inside"));
                driver.document(Some(&event), true, &doc);
            }
        }
        _ => {
            if let Ok(doc) = serde_json::from_str::<Value>(body) {
                driver.document(None, false, &doc);
            }
        }
    }
    let needs_end = driver.family.has_terminal_event();
    let mut reply = driver.finish();
    if reply.usage.is_none() {
        let headers = exchange["response_headers"].as_object().into_iter().flatten();
        let headers = headers.filter_map(|(name, value)| Some((name.as_str().into(), value.as_str()?.into())));
        reply.usage = usage_from_headers(&ResponseFacts { headers: headers.collect(), ..ResponseFacts::default() });
    }
    (reply, needs_end)
}

fn sse(body: &str, driver: &mut Driver) {
    let body = body.replace("\r\n", "\n");
    for block in body.split("\n\n") {
        let (mut event, mut data) = (None, String::new());
        for line in block.lines() {
            if let Some(name) = line.strip_prefix("event:") {
                event = Some(name.trim());
            } else if let Some(part) = line.strip_prefix("data:") {
                data.push_str(part.trim());
            } else if let Some(error) = line.strip_prefix("error:") {
                event = Some("error");
                data.push_str(
                    &json!({ "error": serde_json::from_str::<Value>(error).expect("JSON error") }).to_string(),
                );
            }
        }
        match data.as_str() {
            "" => {}
            "[DONE]" => driver.reply.terminal = true,
            data => match serde_json::from_str(data) {
                Ok(doc) => driver.document(event, true, &doc),
                // Replicate streams plain text.
                Err(_) => assert_eq!(event, Some("output"), "an event that is no JSON"),
            },
        }
    }
}

/// Events of an AWS event stream, names with payloads; checksums are not looked at.
fn event_stream(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
    let mut events = Vec::new();
    while bytes.len() >= 16 {
        let (total, headers) = (number(bytes), number(&bytes[4..]));
        let (mut head, payload) = (&bytes[12..12 + headers], &bytes[12 + headers..total - 4]);
        let mut name = String::new();
        while !head.is_empty() {
            let key_len = head[0] as usize;
            let key = &head[1..1 + key_len];
            assert_eq!(head[1 + key_len], 7, "a string header");
            let len = usize::from(u16::from_be_bytes([head[2 + key_len], head[3 + key_len]]));
            let value = &head[4 + key_len..4 + key_len + len];
            if matches!(key, b":event-type" | b":exception-type") {
                name = String::from_utf8(value.to_vec()).expect("text");
            }
            head = &head[4 + key_len + len..];
        }
        events.push((name, payload.to_vec()));
        bytes = &bytes[total..];
    }
    events
}

/// The provider's own counts in normal form, worked out apart from the families: name → tokens, absent is 0.
fn own_counts(native: &Value) -> BTreeMap<&'static str, u64> {
    let usage = &native["usage"];
    let n = |path: &str| {
        let value = usage.pointer(path).unwrap_or(&Value::Null);
        value.as_u64().or_else(|| value.as_f64().map(|n| n as u64)).unwrap_or(0)
    };
    let modality = |list: &str, name: &str, number: u64| -> u64 {
        let entries = usage[list].as_array().into_iter().flatten();
        let of = entries.filter(|e| e["modality"] == name || e["modality"] == number);
        of.map(|e| e["tokenCount"].as_u64().or(e["tokens"].as_u64()).unwrap_or(0)).sum()
    };
    let counts: Vec<(&'static str, u64)> = match native["shape"].as_str().expect("shape") {
        "openai_chat" => {
            // A lone total (Voyage rerank) is all input.
            let prompt = if usage.get("prompt_tokens").is_some() { n("/prompt_tokens") } else { n("/total_tokens") };
            vec![
                ("input", prompt),
                ("output", n("/completion_tokens")),
                (
                    "cache_read",
                    [
                        "/prompt_tokens_details/cached_tokens",
                        "/prompt_token_details/cached_tokens",
                        "/prompt_cache_hit_tokens",
                        "/cached_tokens",
                        "/cache_read_input_tokens",
                    ]
                    .map(n)
                    .into_iter()
                    .max()
                    .unwrap_or(0),
                ),
                ("cache_write", n("/prompt_tokens_details/cache_write_tokens").max(n("/cache_creation_input_tokens"))),
                ("input_audio", n("/prompt_tokens_details/audio_tokens")),
                ("output_audio", n("/completion_tokens_details/audio_tokens")),
                ("reasoning", n("/completion_tokens_details/reasoning_tokens").max(n("/reasoning_tokens"))),
                ("output_image", n("/completion_tokens_details/image_tokens")),
                ("web_searches", n("/server_tool_use_details/web_search_requests")),
            ]
        }
        "openai_responses" => vec![
            ("input", n("/input_tokens")),
            ("output", n("/output_tokens")),
            ("cache_read", n("/input_tokens_details/cached_tokens")),
            ("cache_write", n("/input_tokens_details/cache_write_tokens")),
            ("reasoning", n("/output_tokens_details/reasoning_tokens")),
        ],
        "openai_embeddings" => vec![("input", n("/total_tokens")), ("output", n("/completion_tokens"))],
        "openai_images" => vec![
            ("input", n("/input_tokens")),
            ("output", n("/output_tokens")),
            ("input_image", n("/input_tokens_details/image_tokens")),
            ("output_image", n("/output_tokens_details/image_tokens")),
        ],
        "openai_transcription" => vec![
            ("input", n("/input_tokens")),
            ("output", n("/output_tokens")),
            ("input_audio", n("/input_token_details/audio_tokens")),
            ("input_audio_millis", n("/seconds") * 1000),
        ],
        "anthropic" => {
            let top = [
                ("input", n("/input_tokens") + n("/cache_creation_input_tokens") + n("/cache_read_input_tokens")),
                ("output", n("/output_tokens")),
                ("cache_read", n("/cache_read_input_tokens")),
                ("cache_write", n("/cache_creation_input_tokens")),
                ("cache_write_1h", n("/cache_creation/ephemeral_1h_input_tokens")),
                ("reasoning", n("/output_tokens_details/thinking_tokens")),
                ("web_searches", n("/server_tool_use/web_search_requests")),
            ];
            let mut more = [0; 3];
            for one in usage["iterations"].as_array().into_iter().flatten().filter(|one| one["type"] != "message") {
                let n = |key: &str| one[key].as_u64().unwrap_or(0);
                more[0] += n("input_tokens") + n("cache_creation_input_tokens") + n("cache_read_input_tokens");
                more[1] += n("output_tokens");
                more[2] += n("cache_read_input_tokens");
            }
            let parts = [("part_input", more[0]), ("part_output", more[1]), ("part_cache_read", more[2])];
            top.into_iter().chain(parts).collect()
        }
        "gemini" => {
            let embed = modality("promptTokenDetails", "AUDIO", 4);
            vec![
                ("input", n("/promptTokenCount") + n("/toolUsePromptTokenCount")),
                ("output", n("/candidatesTokenCount") + n("/thoughtsTokenCount")),
                ("cache_read", n("/cachedContentTokenCount")),
                ("reasoning", n("/thoughtsTokenCount")),
                ("tool_input", n("/toolUsePromptTokenCount")),
                ("input_audio", modality("promptTokensDetails", "AUDIO", 4) + embed),
                ("input_image", modality("promptTokensDetails", "IMAGE", 2)),
                ("output_image", modality("candidatesTokensDetails", "IMAGE", 2)),
                ("output_audio", modality("candidatesTokensDetails", "AUDIO", 4)),
                ("cache_audio", modality("cacheTokensDetails", "AUDIO", 4)),
            ]
        }
        "gemini_interactions" => vec![
            ("input", n("/total_input_tokens") + n("/total_tool_use_tokens")),
            ("output", n("/total_output_tokens") + n("/total_thought_tokens")),
            ("cache_read", n("/total_cached_tokens")),
            ("reasoning", n("/total_thought_tokens")),
            ("web_searches", usage["grounding_tool_count"][0]["count"].as_u64().unwrap_or(0)),
            ("input_image", modality("input_tokens_by_modality", "image", 2)),
        ],
        "converse" | "bedrock_agent_trace" | "bedrock_headers" | "bedrock_metrics" => {
            let read = n("/cacheReadInputTokens").max(n("/cacheReadInputTokenCount"));
            let write = n("/cacheWriteInputTokens").max(n("/cacheWriteInputTokenCount"));
            vec![
                ("input", n("/inputTokens") + read + write),
                ("output", n("/outputTokens")),
                ("cache_read", read),
                ("cache_write", write),
            ]
        }
        "titan" => vec![("input", n("/inputTextTokenCount")), ("output", n("/outputTextTokenCount"))],
        "llama_bedrock" => vec![("input", n("/prompt_token_count")), ("output", n("/generation_token_count"))],
        "cohere_v2" | "cohere_meta" => vec![
            ("input", n("/billed_units/input_tokens") + n("/billed_units/image_tokens")),
            ("output", n("/billed_units/output_tokens")),
            ("search_units", n("/billed_units/search_units")),
            ("reasoning", n("/tokens/reasoning_tokens")),
        ],
        "ollama" => vec![("input", n("/prompt_eval_count")), ("output", n("/eval_count"))],
        "vertex_embed" => vec![("input", n("/token_count"))],
        "watsonx" => vec![("input", n("/input_token_count")), ("output", n("/generated_token_count"))],
        "aleph_alpha" => vec![("input", n("/num_tokens_prompt_total")), ("output", n("/num_tokens_generated"))],
        "unknown" => vec![],
        other => panic!("usage of shape {other}"),
    };
    counts.into_iter().filter(|(_, n)| *n > 0).collect()
}

/// What the families read, under the same names.
fn our_counts(exchange: &Value, reply: &Reply) -> BTreeMap<&'static str, u64> {
    let name = |usage: &Usage| {
        [
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cache_read", usage.cache_read_tokens),
            ("cache_write", usage.cache_write_tokens),
            ("cache_write_1h", usage.cache_write_1h_tokens),
            ("reasoning", usage.reasoning_tokens),
            ("input_audio", usage.input_audio_tokens),
            ("cache_audio", usage.cache_audio_read_tokens),
            ("output_audio", usage.output_audio_tokens),
            ("input_image", usage.input_image_tokens),
            ("output_image", usage.output_image_tokens),
            ("tool_input", usage.tool_input_tokens),
            ("web_searches", usage.web_searches),
            ("search_units", usage.search_units),
            ("input_audio_millis", usage.input_audio_millis),
        ]
    };
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for (name, n) in reply.usage.iter().flat_map(name) {
        *counts.entry(name).or_default() += n.unwrap_or(0);
    }
    let mut parts = Usage::default();
    reply.parts.iter().for_each(|part| parts.add(&part.usage));
    if exchange["ref"]["native"]["shape"] == "bedrock_agent_trace" {
        // The reference is the sum over all models; ours are told apart.
        let all = [("input", parts.input_tokens.take()), ("output", parts.output_tokens.take())];
        all.into_iter().for_each(|(name, n)| *counts.entry(name).or_default() += n.unwrap_or(0));
    }
    for (name, n) in [
        ("part_input", parts.input_tokens),
        ("part_output", parts.output_tokens),
        ("part_cache_read", parts.cache_read_tokens),
    ] {
        *counts.entry(name).or_default() += n.unwrap_or(0);
    }
    counts.retain(|_, n| *n > 0);
    counts
}

/// genai-prices' counts under the same names, for the kinds that it counts.
fn book_counts(exchange: &Value) -> Option<BTreeMap<&'static str, u64>> {
    let usage = exchange["ref"]["genai_prices"]["usage"].as_object()?;
    let names = [
        ("input", "input_tokens"),
        ("output", "output_tokens"),
        ("cache_read", "cache_read_tokens"),
        ("cache_write", "cache_write_tokens"),
        ("cache_write_1h", "cache_write_1h_tokens"),
        ("input_audio", "input_audio_tokens"),
        ("output_audio", "output_audio_tokens"),
        ("cache_audio", "cache_audio_read_tokens"),
    ];
    Some(
        names
            .into_iter()
            .filter_map(|(ours, theirs)| Some((ours, usage.get(theirs)?.as_f64()? as u64)))
            .filter(|(_, n)| *n > 0)
            .collect(),
    )
}

/// Why `field` of an exchange differs, where that is known and right.
fn explain(exchange: &Value, field: &str, against: &str) -> Option<&'static str> {
    let native = &exchange["ref"]["native"];
    let shape = native["shape"].as_str().unwrap_or_default();
    let usage = &native["usage"];
    let provider = text(exchange, "provider");
    let n = |path: &str| usage.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    match (against, field) {
        (_, "output" | "reasoning") if provider == "google" && shape == "openai_chat" => {
            Some("Gemini behind OpenAI's format: thinking is in total_tokens only; it is billed as output")
        }
        ("own", "input_audio") if n("/prompt_audio_seconds") > 0 => {
            Some("Voxtral: audio tokens beside the prompt are billed by the second, kept as input_audio_millis")
        }
        ("own", "input_audio_millis") if n("/prompt_audio_seconds") > 0 => {
            Some("Voxtral: audio tokens beside the prompt are billed by the second, kept as input_audio_millis")
        }
        ("own", "web_searches") if matches!(shape, "openai_responses" | "gemini") => {
            Some("searches stand outside of the usage object: counted from the answer")
        }
        (_, "output") if shape == "titan" && n("/outputTextTokenCount") == 0 => {
            Some("the reference looked for Titan's output count in the first chunk, it is in the last")
        }
        ("own", "input_audio_millis") if provider == "venice" => Some("duration stands outside of the usage object"),
        _ => None,
    }
}

#[derive(Default)]
struct Table {
    compared: usize,
    explained: BTreeMap<&'static str, BTreeSet<String>>,
    unexplained: Vec<String>,
}

impl Table {
    fn compare(
        &mut self,
        exchange: &Value,
        against: &'static str,
        expected: &BTreeMap<&'static str, u64>,
        ours: &BTreeMap<&'static str, u64>,
    ) {
        self.compared += 1;
        let fields: BTreeSet<_> = expected.keys().chain(ours.keys()).copied().collect();
        for field in fields {
            let (expected, ours) = (expected.get(field).copied().unwrap_or(0), ours.get(field).copied().unwrap_or(0));
            if expected == ours {
                continue;
            }
            let id = text(exchange, "id").to_owned();
            match explain(exchange, field, against) {
                Some(cause) => _ = self.explained.entry(cause).or_default().insert(id),
                None => self.unexplained.push(format!("{id} {field}: {against} {expected}, read {ours}")),
            }
        }
    }

    fn report(&self, what: &str) {
        println!("{what}: {} compared, {} unexplained", self.compared, self.unexplained.len());
        for (cause, ids) in &self.explained {
            println!("  {:4}  {cause}: {}", ids.len(), ids.iter().take(3).cloned().collect::<Vec<_>>().join(" "));
        }
        for line in self.unexplained.iter().take(40) {
            println!("  ????  {line}");
        }
    }
}

#[test]
fn recorded_answers_are_read_as_the_provider_counts() {
    let Some(corpus) = corpus() else {
        println!("skipped: no recorded exchanges found; set KEYTALLY_SHARED");
        return;
    };
    let (mut own, mut book, mut rest) = (Table::default(), Table::default(), Table::default());
    for exchange in &corpus {
        let status = exchange["status"].as_u64().unwrap_or(0);
        if !(200..300).contains(&status) {
            continue;
        }
        let id = text(exchange, "id").to_owned();
        let (reply, needs_end) = read(exchange);
        let native = &exchange["ref"]["native"];
        let inference = text(exchange, "class") == "inference";
        let ours = our_counts(exchange, &reply);
        if inference || protocol(exchange) == Protocol::OpenaiResponses {
            if native.is_null() {
                own.compare(exchange, "own", &BTreeMap::new(), &ours);
            } else {
                own.compare(exchange, "own", &own_counts(native), &ours);
                if let Some(counts) = book_counts(exchange) {
                    let known = |key: &&'static str| book_kinds().contains(key);
                    let ours = ours.iter().filter(|(key, _)| known(key)).map(|(key, n)| (*key, *n)).collect();
                    book.compare(exchange, "genai-prices", &counts, &ours);
                }
            }
        }
        // Everything else that an answer says of itself.
        let mut fail = |what: String| rest.unexplained.push(format!("{id} {what}"));
        let model = exchange["model"]["response"].as_str();
        if inference && reply.model.as_deref() != model && !(model.is_none() && reply.model.is_some()) {
            fail(format!("model: {model:?}, read {:?}", reply.model));
        }
        let stated = native["reported_cost_usd"].as_f64();
        let read_cost = reply.stated_cost.map(Money::as_f64);
        let same = match (stated, read_cost) {
            (Some(stated), Some(read)) => (stated - read).abs() <= stated.abs() * 1e-12,
            (None, read) => read.is_none() || text(exchange, "provider") == "venice",
            (Some(_), None) => false,
        };
        if inference && !same {
            fail(format!("cost: {stated:?}, read {read_cost:?}"));
        }
        let tier = native["service_tier"].as_str();
        if inference && tier.is_some() && tier != reply.service_tier.as_deref() {
            fail(format!("tier: {tier:?}, read {:?}", reply.service_tier));
        }
        if exchange["error_code"].is_string() != reply.error.is_some() {
            fail(format!(
                "error: {}, read {:?}",
                exchange["error_code"],
                reply.error.as_ref().map(|e| String::from_utf8_lossy(&e.body).into_owned())
            ));
        }
        let streamed = !exchange["stream_format"].is_null();
        if inference && streamed && needs_end && !reply.terminal && reply.error.is_none() {
            fail("no terminal event".to_owned());
        }
        let shown = ours.get("output").unwrap_or(&0)
            - ours.get("reasoning").unwrap_or(&0).min(ours.get("output").unwrap_or(&0));
        let empty = !text(exchange, "response_body").split("\"content\":\"").skip(1).any(|rest| !rest.starts_with('"'));
        if inference
            && streamed
            && reply.output_events == 0
            && shown > 1
            && !(protocol(exchange) == Protocol::OpenaiChat && empty)
        {
            fail("no output event".to_owned());
        }
        if !streamed && inference && reply.output_events > 1 {
            fail("more than one output event in a whole answer".to_owned());
        }
        rest.compared += 1;
    }
    println!("{} exchanges", corpus.len());
    own.report("against the provider's own usage");
    book.report("against genai-prices");
    rest.report("model, stated cost, error, end, output");
    assert!(corpus.len() > 7000, "the whole corpus");
    let unexplained = own.unexplained.len() + book.unexplained.len() + rest.unexplained.len();
    assert_eq!(unexplained, 0, "differences without a cause; see the table above");
    let causes: BTreeSet<_> = own.explained.keys().chain(book.explained.keys()).collect();
    assert_eq!(causes.len(), 5, "a cause that no longer occurs must go, with its line in the documentation");
}

fn book_kinds() -> &'static [&'static str] {
    &["input", "output", "cache_read", "cache_write", "cache_write_1h", "input_audio", "output_audio", "cache_audio"]
}
