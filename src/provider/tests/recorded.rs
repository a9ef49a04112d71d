//! Recorded traffic of all providers: each exchange is recognized by host and by base URL, and its limit headers are read.
//! Skipped where the recordings are absent.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::SystemTime;

use http::{HeaderMap, Method};
use serde::Deserialize;

use super::*;
use crate::call::LimitResource;

#[derive(Deserialize)]
struct Exchange {
    id: String,
    provider: String,
    endpoint: String,
    class: String,
    host: String,
    method: String,
    path: String,
    response_headers: HashMap<String, String>,
    model: Model,
    stream_format: Option<String>,
}

#[derive(Deserialize)]
struct Model {
    url: Option<String>,
}

/// Every exchange, or `None` where the recordings are not on this machine.
fn exchanges() -> Option<&'static [Exchange]> {
    static ALL: OnceLock<Option<Vec<Exchange>>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let shared = std::env::var_os("KEYTALLY_SHARED")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
        let files = std::fs::read_dir(shared.join("corpus")).ok()?;
        let mut all = Vec::new();
        for file in files.flatten().filter(|f| f.path().extension().is_some_and(|e| e == "gz")) {
            let file = std::fs::File::open(file.path()).expect("a readable recording");
            let lines = std::io::BufReader::new(flate2::read::MultiGzDecoder::new(file)).lines();
            all.extend(lines.map(|line| serde_json::from_str(&line.expect("text")).expect("an exchange")));
        }
        Some(all)
    });
    if all.is_none() {
        println!("skipped: no recordings; set KEYTALLY_SHARED to the directory that holds corpus/");
    }
    all.as_deref()
}

/// Our provider, and the base URL's path for this host.
fn expected_provider(exchange: &Exchange) -> (&'static str, String) {
    let (host, label) = (exchange.host.as_str(), |n: usize| exchange.host.split('.').nth(n).unwrap_or("").to_owned());
    match exchange.provider.as_str() {
        "aleph_alpha" => ("aleph_alpha", "/aleph-alpha".into()),
        "anthropic" => ("anthropic", "/anthropic".into()),
        "azure" => ("azure_openai", format!("/azure/{}", label(0))),
        "bedrock" if host.starts_with("bedrock-agent") => ("bedrock", format!("/bedrock-agent/{}", label(1))),
        "bedrock" => ("bedrock", format!("/bedrock/{}", label(1))),
        "bedrock_mantle" => ("bedrock_mantle", format!("/bedrock_mantle/{}", label(1))),
        "cerebras" => ("cerebras", "/cerebras".into()),
        "chatgpt" => ("chatgpt", "/chatgpt".into()),
        "cohere" => ("cohere", "/cohere".into()),
        "copilot" => ("github-copilot", "/github-copilot".into()),
        "crusoe" => ("crusoe", "/crusoe".into()),
        "deepseek" => ("deepseek", "/deepseek".into()),
        "doubleword" => ("doubleword", "/doubleword".into()),
        "google" => ("gemini", "/google".into()),
        "groq" => ("groq", "/groq".into()),
        "heroku" => ("heroku", "/heroku".into()),
        "huggingface" if host.starts_with("router.") => ("huggingface", "/huggingface".into()),
        "huggingface" => ("huggingface", "/huggingface-api".into()),
        "llamacpp" => ("llamacpp", "/llamacpp".into()),
        "local" => ("vllm", "/vllm".into()),
        "mistral" => ("mistral", "/mistral".into()),
        "mistralrs" => ("mistralrs", "/mistralrs".into()),
        "ollama" if host == "ollama.com" => ("ollama-cloud", "/ollama-cloud".into()),
        "ollama" => ("ollama", "/ollama".into()),
        "openai" => ("openai", "/openai".into()),
        "openrouter" => ("openrouter", "/openrouter".into()),
        "perplexity" => ("perplexity", "/perplexity".into()),
        "portkey" => ("portkey", "/portkey".into()),
        "pydantic_gateway" => ("pydantic_gateway", "/pydantic-gateway".into()),
        "replicate" => ("replicate", "/replicate".into()),
        "sagemaker" => ("sagemaker", format!("/sagemaker/{}", label(2))),
        "together" => ("together", "/together".into()),
        "venice" => ("venice", "/venice".into()),
        "vertex" if host == "aiplatform.googleapis.com" => ("vertex", "/vertex/global".into()),
        "vertex" => ("vertex", format!("/vertex/{}", label(0).replace("-aiplatform", ""))),
        "voyageai" => ("voyageai", "/voyage".into()),
        "watsonx" => ("watsonx", format!("/watsonx/{}", label(0))),
        "writer" => ("writer", "/writer".into()),
        "xai" => ("xai", "/xai".into()),
        "zai" => ("zhipu", "/zai".into()),
        other => panic!("{}: a new provider \"{other}\"", exchange.id),
    }
}

fn expected_call(exchange: &Exchange) -> (Operation, Protocol) {
    use {Operation as O, Protocol as P};
    let path = exchange.path.as_str();
    let cohere = if path.starts_with("/v1/") { P::CohereV1 } else { P::CohereV2 };
    let provider = exchange.provider.as_str();
    match exchange.endpoint.as_str() {
        "chat" => (O::Chat, P::OpenaiChat),
        // A stored prompt of a gateway: its answer is a chat completion.
        "completions" if provider == "portkey" => (O::Chat, P::OpenaiChat),
        "completions" => (O::TextCompletion, P::OpenaiCompletions),
        "responses" | "responses_compact" | "response_get" => (O::Responses, P::OpenaiResponses),
        "messages" => (O::Messages, P::AnthropicMessages),
        "anthropic_complete" => (O::TextCompletion, P::AnthropicComplete),
        "embeddings" if provider == "cohere" => (O::Embeddings, cohere),
        "embeddings" if path.starts_with("/api/embed") => (O::Embeddings, P::Ollama),
        "embeddings" => (O::Embeddings, P::OpenaiEmbeddings),
        "generate_content" | "generate_content_stream" => (O::GenerateContent, P::Gemini),
        "gemini_interactions" => (O::GenerateContent, P::GeminiInteractions),
        "gemini_embed" => (O::Embeddings, P::Gemini),
        "vertex_predict" => (O::Embeddings, P::VertexPredict),
        "bedrock_converse" | "bedrock_converse_stream" => (O::Chat, P::BedrockConverse),
        "bedrock_invoke" if path.contains("embed") => (O::Embeddings, P::BedrockInvoke),
        "bedrock_invoke" | "bedrock_invoke_stream" => (O::Chat, P::BedrockInvoke),
        "bedrock_agent" => (O::Chat, P::BedrockAgent),
        "cohere_chat" => (O::Chat, cohere),
        "cohere_generate" => (O::TextCompletion, cohere),
        "rerank" if provider == "cohere" => (O::Rerank, cohere),
        // The answer's usage has `total_tokens` alone, as embeddings have.
        "rerank" => (O::Rerank, P::OpenaiEmbeddings),
        "ollama_chat" => (O::Chat, P::Ollama),
        "ollama_generate" => (O::TextCompletion, P::Ollama),
        "image" => (O::Image, P::OpenaiImages),
        "audio_speech" => (O::Speech, P::OpenaiAudio),
        "audio_transcription" => (O::Transcription, P::OpenaiAudio),
        // Aleph Alpha counts as watsonx does; one family reads both.
        "text_generation" if matches!(provider, "watsonx" | "aleph_alpha") => (O::TextCompletion, P::Watsonx),
        "text_generation" => (O::TextCompletion, P::Opaque),
        "sagemaker_invoke" | "prediction" => (O::Other, P::Opaque),
        "count_tokens" => (O::CountTokens, P::Opaque),
        "models" => (O::Models, P::Opaque),
        "files" => (O::Files, P::Opaque),
        "realtime_session" => (O::Realtime, P::Opaque),
        "assistants" | "assistant_run" | "bedrock_guardrail" | "cached_content" | "conversations" | "threads"
        | "traces" | "vector_stores" => (O::Other, P::Opaque),
        "other" => match (provider, path) {
            ("anthropic", _) => (O::Files, P::Opaque),
            ("heroku", "/available-models") | ("ollama", "/api/show") => (O::Models, P::Opaque),
            // The answer repeats the usage of the agent's model calls.
            ("bedrock", "/agents/default_session_id2") => (O::Other, P::BedrockAgent),
            _ => (O::Other, P::Opaque),
        },
        other => panic!("{}: a new endpoint \"{other}\"", exchange.id),
    }
}

/// The recordings' local servers ran on other ports than their usual ones; a user would say so in config.
fn catalog() -> Catalog {
    let at = |id: &str, hosts: &[&str]| ProviderOverride {
        id: id.into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..ProviderOverride::default()
    };
    let overrides = [
        at("llamacpp", &["localhost:8081"]),
        at("vllm", &["localhost:5002"]),
        at("pydantic_gateway", &["localhost:8787"]),
    ];
    Catalog::build(&overrides).expect("valid")
}

fn host_and_port(host: &str) -> (&str, u16) {
    host.rsplit_once(':').map_or((host, 443), |(host, port)| (host, port.parse().expect("a port")))
}

#[test]
fn every_exchange_is_recognized() {
    let Some(exchanges) = exchanges() else { return };
    let catalog = catalog();
    let mut wrong = Vec::new();
    let mut check = |ok: bool, what: &dyn Fn() -> String| {
        if !ok {
            wrong.push(what());
        }
    };
    for exchange in exchanges {
        let (id, base_path) = expected_provider(exchange);
        let expected = expected_call(exchange);
        let method: Method = exchange.method.parse().expect("method");
        let (host, port) = host_and_port(&exchange.host);
        let by_host = catalog.recognize_host(host, port, &method, &exchange.path);
        let by_host = by_host.unwrap_or_else(|| panic!("{}: host {} unknown", exchange.id, exchange.host));
        // The gateway's own address has a path; the recordings on localhost do not.
        let path = match exchange.path.strip_prefix("/proxy") {
            Some(path) if id == "pydantic_gateway" => path,
            _ => &exchange.path,
        };
        let by_base = base(&catalog, method, &format!("{base_path}{path}"));
        for (way, found) in [("host", &by_host), ("base", &by_base)] {
            let name = std::fmt::from_fn(|f| {
                write!(f, "{} {way} {} {}", exchange.id, exchange.method, redact_query(&exchange.path))
            });
            let seen = (found.operation, found.protocol);
            check(seen == expected, &|| format!("{name}: {seen:?}, expected {expected:?}"));
            // mistral.rs and LM Studio have the same default port.
            let same_port = id == "mistralrs" && way == "host";
            check(*found.provider.id == *id || same_port, &|| format!("{name}: {}, expected {id}", found.provider.id));
            // A WebSocket that was refused: whoever recorded it counts it as no inference.
            let websocket = exchange.path == "/v1/responses" && exchange.method == "GET";
            check(found.billed == (exchange.class == "inference") || websocket, &|| {
                format!("{name}: billed {}", found.billed)
            });
            check(!(found.billed && found.repeats_usage), &|| format!("{name}: billed twice"));
            if let (Some(model), Some(seen)) = (&exchange.model.url, &found.url_model) {
                check(model == seen, &|| format!("{name}: url model {seen}, expected {model}"));
            }
            check(exchange.model.url.is_none() || found.url_model.is_some(), &|| format!("{name}: no url model"));
            if let Some(stream) = found.stream.filter(|_| exchange.stream_format.is_some()) {
                // Recorded JSON arrays of single answers are no streams.
                check(stream || exchange.stream_format.as_deref() == Some("json-array"), &|| format!("{name}: stream"));
            }
        }
        check(by_host.path_and_query == exchange.path, &|| format!("{}: path changed", exchange.id));
        let prefix = if id == "pydantic_gateway" { "/proxy" } else { "" };
        check(by_base.path_and_query == format!("{prefix}{path}"), &|| format!("{}: base path", exchange.id));
        // Where the path names the host, it is the recorded one.
        if base_path.matches('/').count() == 2 {
            check(*by_base.host == *host, &|| format!("{}: {} for {host}", exchange.id, by_base.host));
        }
    }
    println!("{} exchanges", exchanges.len());
    assert!(exchanges.len() > 6000);
    assert!(wrong.is_empty(), "{} wrong, first: {:#?}", wrong.len(), &wrong[..wrong.len().min(40)]);
}

#[test]
fn recorded_limits_are_read_whole() {
    let Some(exchanges) = exchanges() else { return };
    let catalog = catalog();
    let mut read = BTreeMap::<&str, usize>::new();
    for exchange in exchanges {
        let (id, _) = expected_provider(exchange);
        let provider = catalog.provider(id).expect(id);
        let mut headers = HeaderMap::new();
        for (name, value) in &exchange.response_headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            if let Ok(value) = http::HeaderValue::from_str(value) {
                headers.append(name, value);
            }
        }
        let kept = keep_response_headers(provider, &headers);
        assert!(kept.len() <= 64 && kept.iter().all(|(name, _)| !name.contains("cookie")), "{}", exchange.id);
        let limits = read_limits(&provider.limits, &kept, None, SystemTime::UNIX_EPOCH);
        // Some recorders redacted values, or glued the next header to them.
        let plain = |v: &&String| !v.contains("XXX") && (v.ends_with("GMT") || !v.contains(','));
        let text = |name: &str| exchange.response_headers.get(name).filter(plain);
        // Main limits by name, read here in the plainest way.
        let names = match id {
            "openai" | "azure_openai" => [("requests", LimitResource::Requests), ("tokens", LimitResource::Tokens)],
            "groq" => [("requests", LimitResource::RequestsDay), ("tokens", LimitResource::Tokens)],
            "anthropic" => [("input-tokens", LimitResource::InputTokens), ("tokens", LimitResource::Tokens)],
            _ => continue,
        };
        for (word, resource) in names {
            let name = |part: &str| match id {
                "anthropic" => format!("anthropic-ratelimit-{word}-{part}"),
                _ => format!("x-ratelimit-{part}-{word}"),
            };
            let Some(limit) = text(&name("limit")) else { continue };
            let found = limits.limits.iter().find(|l| l.resource == resource);
            let found = found.unwrap_or_else(|| panic!("{}: no {resource}", exchange.id));
            let number = limit.parse::<f64>().ok().filter(|n| *n >= 0.0);
            assert_eq!(found.limit, number, "{}", exchange.id);
            let number = text(&name("remaining")).and_then(|t| t.parse::<f64>().ok()).filter(|n| *n >= 0.0);
            assert_eq!(found.remaining, number, "{}", exchange.id);
            let reset = text(&name("reset")).is_some() && id != "azure_openai";
            // Timestamps need the answer's own date: without it the clock of this test is far off.
            let dated = id != "anthropic" || text("date").is_some();
            assert!(found.reset.is_some() == reset || !dated, "{}: reset {:?}", exchange.id, text(&name("reset")));
            assert!(
                found.reset.is_none_or(|reset| reset.as_secs() < 30 * 86_400),
                "{}: {:?}",
                exchange.id,
                found.reset
            );
            *read.entry(id).or_default() += 1;
        }
        if id == "openai" && text("x-request-id").is_some() {
            assert_eq!(request_id(provider, &kept), text("x-request-id").map(String::as_str), "{}", exchange.id);
        }
    }
    println!("{read:?}");
    assert!(read.values().sum::<usize>() > 2000, "{read:?}");
}
