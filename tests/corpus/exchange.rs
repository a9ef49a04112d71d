//! Recorded exchanges, and what each of them must be to the sidecar.

use std::io::BufRead;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

/// One recorded exchange: request, answer, and what a reference made of it.
#[derive(Deserialize)]
pub(crate) struct Exchange {
    pub(crate) id: String,
    pub(crate) provider: String,
    pub(crate) endpoint: String,
    pub(crate) class: String,
    pub(crate) method: String,
    path: String,
    pub(crate) request_headers: Map<String, Value>,
    request_body: Option<String>,
    #[serde(default)]
    request_body_base64: bool,
    pub(crate) status: u16,
    pub(crate) response_headers: Map<String, Value>,
    response_body: Option<String>,
    #[serde(default)]
    response_body_base64: bool,
    pub(crate) stream: bool,
    pub(crate) stream_format: Option<String>,
    pub(crate) stream_requested: Option<bool>,
    pub(crate) wire_encoding: Option<String>,
    pub(crate) error_code: Option<String>,
    pub(crate) model: Models,
    #[serde(rename = "ref")]
    reference: Value,
}

/// The model that each part of an exchange names.
#[derive(Deserialize)]
pub(crate) struct Models {
    pub(crate) request: Option<String>,
    pub(crate) url: Option<String>,
    pub(crate) response: Option<String>,
}

/// Every exchange under `shared`, in a fixed order.
pub(crate) fn read_all(shared: &Path) -> Vec<Exchange> {
    let dir = std::fs::read_dir(shared.join("corpus")).expect("recordings");
    let mut files: Vec<_> = dir.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(".jsonl.gz"));
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let file = std::fs::File::open(file).expect("a readable recording");
        for line in std::io::BufReader::new(flate2::read::MultiGzDecoder::new(file)).lines() {
            all.push(serde_json::from_str(&line.expect("text")).expect("one exchange a line"));
        }
    }
    all
}

impl Exchange {
    /// The request's bytes.
    pub(crate) fn request(&self) -> Bytes {
        bytes(self.request_body.as_deref(), self.request_body_base64)
    }

    /// The answer's bytes, not encoded.
    pub(crate) fn response(&self) -> Bytes {
        bytes(self.response_body.as_deref(), self.response_body_base64)
    }

    /// Usage as the provider wrote it, with the reference's notes on it; null when there is none.
    pub(crate) fn native(&self) -> &Value {
        &self.reference["native"]
    }

    /// What the reference price library made of the usage.
    pub(crate) fn book(&self) -> &Value {
        &self.reference["genai_prices"]
    }

    /// Runs a model; otherwise it lists, counts, stores or fetches.
    pub(crate) fn is_inference(&self) -> bool {
        self.class == "inference"
    }

    /// The provider answered with what was asked for.
    pub(crate) fn succeeded(&self) -> bool {
        (200..300).contains(&self.status) && self.error_code.is_none()
    }

    /// Path and query as they reach the provider.
    pub(crate) fn target(&self) -> &str {
        // The gateway's address has this path itself, and the base URL of the test does not.
        match self.provider.as_str() {
            "pydantic_gateway" => self.path.strip_prefix("/proxy").unwrap_or(&self.path),
            _ => &self.path,
        }
    }

    /// The sidecar's provider, and its prefix in the base URL.
    pub(crate) fn sidecar_provider(&self) -> (&'static str, &'static str) {
        match self.provider.as_str() {
            "aleph_alpha" => ("aleph_alpha", "aleph-alpha"),
            "anthropic" => ("anthropic", "anthropic"),
            "azure" => ("azure_openai", "azure"),
            "bedrock" => ("bedrock", "bedrock"),
            "bedrock_mantle" => ("bedrock_mantle", "bedrock-mantle"),
            "cerebras" => ("cerebras", "cerebras"),
            "chatgpt" => ("chatgpt", "chatgpt"),
            "cohere" => ("cohere", "cohere"),
            "copilot" => ("github-copilot", "github-copilot"),
            "crusoe" => ("crusoe", "crusoe"),
            "deepseek" => ("deepseek", "deepseek"),
            "doubleword" => ("doubleword", "doubleword"),
            "google" => ("gemini", "gemini"),
            "groq" => ("groq", "groq"),
            "heroku" => ("heroku", "heroku"),
            "huggingface" => ("huggingface", "huggingface"),
            "llamacpp" => ("llamacpp", "llamacpp"),
            // Some OpenAI-compatible server: three lines of configuration.
            "local" => ("my-server", "my-server"),
            "mistral" => ("mistral", "mistral"),
            "mistralrs" => ("mistralrs", "mistralrs"),
            "ollama" => ("ollama", "ollama"),
            "openai" => ("openai", "openai"),
            "openrouter" => ("openrouter", "openrouter"),
            "perplexity" => ("perplexity", "perplexity"),
            "portkey" => ("portkey", "portkey"),
            "pydantic_gateway" => ("pydantic_gateway", "pydantic-gateway"),
            "replicate" => ("replicate", "replicate"),
            "sagemaker" => ("sagemaker", "sagemaker"),
            "together" => ("together", "together"),
            "venice" => ("venice", "venice"),
            "vertex" => ("vertex", "vertex"),
            "voyageai" => ("voyageai", "voyageai"),
            "watsonx" => ("watsonx", "watsonx"),
            "writer" => ("writer", "writer"),
            "xai" => ("xai", "xai"),
            "zai" => ("zhipu", "zhipu"),
            other => panic!("{}: a new provider \"{other}\"", self.id),
        }
    }

    /// What the call asks for, as a record says it.
    pub(crate) fn operation(&self) -> &'static str {
        let provider = self.provider.as_str();
        match self.endpoint.as_str() {
            "chat" | "cohere_chat" | "ollama_chat" => "chat",
            "bedrock_converse" | "bedrock_converse_stream" | "bedrock_agent" | "bedrock_invoke_stream" => "chat",
            "bedrock_invoke" if self.path.contains("embed") => "embeddings",
            "bedrock_invoke" => "chat",
            // A gateway's stored prompt makes a chat completion.
            "completions" if provider == "portkey" => "chat",
            "completions" | "anthropic_complete" | "cohere_generate" | "ollama_generate" | "text_generation" => {
                "text_completion"
            }
            "responses" | "responses_compact" | "response_get" => "responses",
            "messages" => "messages",
            "generate_content" | "generate_content_stream" | "gemini_interactions" => "generate_content",
            "embeddings" | "gemini_embed" | "vertex_predict" => "embeddings",
            "rerank" => "rerank",
            "image" => "image",
            "audio_speech" => "speech",
            "audio_transcription" => "transcription",
            "count_tokens" => "count_tokens",
            "models" => "models",
            "files" => "files",
            "realtime_session" => "realtime",
            "other" if provider == "anthropic" => "files",
            "other" if matches!(self.path.as_str(), "/available-models" | "/api/show") => "models",
            "assistants" | "assistant_run" | "bedrock_guardrail" | "cached_content" | "conversations" | "threads"
            | "traces" | "vector_stores" | "prediction" | "sagemaker_invoke" | "other" => "other",
            other => panic!("{}: a new endpoint \"{other}\"", self.id),
        }
    }
}

fn bytes(text: Option<&str>, base64: bool) -> Bytes {
    let text = text.unwrap_or_default();
    if base64 { STANDARD.decode(text).expect("base64").into() } else { Bytes::copy_from_slice(text.as_bytes()) }
}
