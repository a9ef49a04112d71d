//! Which provider a pasted error is of, when nobody says: from hosts and links in the text, headers, the body's shape, the
//! SDK that raised it. Out: a [`Guess`] with its reason, so that it can be doubted; `None` rather than a long shot. A
//! guess only lets rules of one provider apply; most rules are the same for all.

use std::sync::LazyLock;

use http::Method;
use regex::Regex;
use serde_json::Value;

use super::paste::Pasted;
use crate::provider::Catalog;

/// A provider and why it is thought to be that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guess {
    /// Catalogue id.
    pub provider: String,
    /// For people: `the link to console.groq.com`.
    pub why: String,
}

static HOST: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)[a-z0-9][a-z0-9-]{0,62}(?:\.[a-z0-9-]{1,63}){1,6}").expect("built-in pattern, compiled in tests")
});

/// Sites of providers that their errors link to, beside the API hosts of the catalogue.
const SITES: &[(&str, &str)] = &[
    ("platform.openai.com", "openai"),
    ("help.openai.com", "openai"),
    ("chat.openai.com", "openai"),
    ("console.anthropic.com", "anthropic"),
    ("docs.anthropic.com", "anthropic"),
    ("docs.claude.com", "anthropic"),
    ("platform.claude.com", "anthropic"),
    ("support.anthropic.com", "anthropic"),
    ("ai.google.dev", "gemini"),
    ("ai.dev", "gemini"),
    ("aistudio.google.com", "gemini"),
    ("generativelanguage.googleapis.com", "gemini"),
    ("aiplatform.googleapis.com", "vertex"),
    ("cognitive.microsoft.com", "azure_openai"),
    ("aka.ms", "azure_openai"),
    ("console.groq.com", "groq"),
    ("console.x.ai", "xai"),
    ("docs.x.ai", "xai"),
    ("openrouter.ai", "openrouter"),
    ("console.mistral.ai", "mistral"),
    ("docs.mistral.ai", "mistral"),
    ("dashboard.cohere.com", "cohere"),
    ("docs.cohere.com", "cohere"),
    ("api.together.ai", "together"),
    ("docs.together.ai", "together"),
    ("fireworks.ai", "fireworks"),
    ("platform.deepseek.com", "deepseek"),
    ("api-docs.deepseek.com", "deepseek"),
    ("help.aliyun.com", "dashscope"),
    ("bailian.console.aliyun.com", "dashscope"),
    ("platform.moonshot.ai", "moonshot"),
    ("platform.moonshot.cn", "moonshot"),
    ("platform.minimax.io", "minimax"),
    ("open.bigmodel.cn", "zhipu"),
    ("z.ai", "zhipu"),
    ("cloud.cerebras.ai", "cerebras"),
    ("docs.perplexity.ai", "perplexity"),
    ("huggingface.co", "huggingface"),
    ("docs.aws.amazon.com", "bedrock"),
];

/// Headers that one provider alone sends; those that end in `-` are beginnings.
const HEADERS: &[(&str, &str)] = &[
    ("anthropic-", "anthropic"),
    ("openai-", "openai"),
    ("x-amzn-", "bedrock"),
    ("apim-request-id", "azure_openai"),
    ("azureml-", "azure_openai"),
    ("x-ms-", "azure_openai"),
    ("x-groq-", "groq"),
    ("x-ppl-", "perplexity"),
    ("x-ds-trace-id", "deepseek"),
    ("mistral-correlation-id", "mistral"),
    ("msh-", "moonshot"),
    ("x-litellm-", "litellm"),
    ("x-dashscope-", "dashscope"),
    ("x-fireworks-", "fireworks"),
    ("x-together-", "together"),
    ("x-gemini-", "gemini"),
];

/// Words of an exception's class or wrapper that name an SDK.
const SDKS: &[(&str, &str)] = &[
    ("anthropic", "anthropic"),
    ("groq", "groq"),
    ("mistralai", "mistral"),
    ("cohere", "cohere"),
    ("together", "together"),
    ("cerebras", "cerebras"),
    ("google.genai", "gemini"),
    ("google.api_core", "gemini"),
    ("GoogleGenerativeAI", "gemini"),
    ("botocore", "bedrock"),
    ("'$fault'", "bedrock"),
    ("'$metadata'", "bedrock"),
    ("huggingface_hub", "huggingface"),
    ("ollama", "ollama"),
    ("OpenAIException", "openai"),
    ("AnthropicException", "anthropic"),
    ("AzureException", "azure_openai"),
    ("VertexAIException", "vertex"),
    ("VertexAIError", "vertex"),
    ("GeminiException", "gemini"),
    ("BedrockException", "bedrock"),
    ("GroqException", "groq"),
    ("MistralException", "mistral"),
    ("CohereException", "cohere"),
    ("OpenrouterException", "openrouter"),
    ("DeepseekException", "deepseek"),
    ("XaiException", "xai"),
    ("Together_aiException", "together"),
    ("Fireworks_aiException", "fireworks"),
];

/// The likeliest provider of what was pasted.
pub(super) fn guess(text: &str, pasted: &Pasted, catalog: &Catalog) -> Option<Guess> {
    let found = |provider: &str, why: String| Some(Guess { provider: provider.to_owned(), why });
    let body = serde_json::from_slice::<Value>(&pasted.body).unwrap_or(Value::Null);
    by_host(text, catalog)
        .or_else(|| {
            let mut all = pasted.headers.iter().flat_map(|(name, value)| {
                let named =
                    HEADERS.iter().find(|(own, _)| **own == **name || (own.ends_with('-') && name.starts_with(own)));
                let server = (&**name == "server" && value.contains("HTTPServer2")).then_some(&("server", "gemini"));
                named.or(server).map(|(_, provider)| (name, *provider))
            });
            all.next().and_then(|(name, provider)| found(provider, format!("the header {name}")))
        })
        .or_else(|| by_shape(&body).and_then(|(provider, shape)| found(provider, format!("the body's shape: {shape}"))))
        .or_else(|| {
            let sdk = SDKS.iter().find(|(word, _)| pasted.origin.contains(word));
            sdk.and_then(|(word, provider)| found(provider, format!("the exception's name: {word}")))
        })
        .or_else(|| {
            let error = body.get("error")?;
            let whole = ["message", "type", "param", "code"].iter().all(|key| error.get(key).is_some());
            whole.then_some(())?;
            found("openai", "the body's shape; many other servers have the same".to_owned())
        })
        .or_else(|| {
            let is_sdk = pasted.origin.starts_with("openai");
            is_sdk.then_some(())?;
            found("openai", "the openai SDK raised it; it is used with other servers, too".to_owned())
        })
}

/// Hosts in URLs and sentences: the API's own first, then sites.
fn by_host(text: &str, catalog: &Catalog) -> Option<Guess> {
    let hosts: Vec<String> = HOST.find_iter(text).take(400).map(|host| host.as_str().to_ascii_lowercase()).collect();
    let of =
        |host: &str, provider: &str| Guess { provider: provider.to_owned(), why: format!("the host {host} in it") };
    let api = hosts.iter().find_map(|host| {
        let found = catalog.recognize_host(host, 443, &Method::POST, "/")?;
        Some(of(host, &found.provider.id))
    });
    api.or_else(|| {
        hosts.iter().find_map(|host| {
            let is_at = |site: &str| host == site || host.strip_suffix(site).is_some_and(|rest| rest.ends_with('.'));
            SITES.iter().find(|(site, _)| is_at(site)).map(|(site, provider)| of(site, provider))
        })
    })
}

/// Shapes that few others have.
fn by_shape(body: &Value) -> Option<(&'static str, &'static str)> {
    let body = body.get(0).unwrap_or(body);
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let has = |pointer: &str| body.pointer(pointer).is_some_and(|value| !value.is_null());
    let starts = |pointer: &str, prefix: &str| text(pointer).starts_with(prefix);
    let google_status =
        |status: &str| !status.is_empty() && status.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    Some(match () {
        () if text("/type") == "error" && has("/error/type") => ("anthropic", "{\"type\":\"error\",\"error\":{…}}"),
        () if starts("/request_id", "req_011") => ("anthropic", "request_id req_011…"),
        () if text("/error/details/0/metadata/service").contains("aiplatform") => {
            ("vertex", "error.details of aiplatform")
        }
        () if has("/error/status") && google_status(text("/error/status")) => ("gemini", "error.status in capitals"),
        () if has("/base_resp/status_code") => ("minimax", "base_resp"),
        () if has("/error/metadata/provider_name") || (has("/user_id") && has("/error/code")) => {
            ("openrouter", "error.metadata or user_id beside the error")
        }
        () if has("/__type") || body.as_object().is_some_and(|map| map.len() <= 2 && map.contains_key("Message")) => {
            ("bedrock", "__type")
        }
        () if has("/error_type") && has("/id") && has("/message") => ("cohere", "error_type, id, message"),
        () if text("/object") == "error" && has("/message") => ("mistral", "{\"object\":\"error\",…}"),
        () if has("/raw_status_code") => ("mistral", "raw_status_code"),
        () if has("/code") && text("/error").contains(' ') && body.as_object().is_some_and(|map| map.len() == 2) => {
            ("xai", "{\"code\",\"error\"}")
        }
        () if has("/error/innererror") => ("azure_openai", "error.innererror"),
        () if starts("/error/code", "1") && text("/error/code").len() == 4 => ("zhipu", "error.code of four digits"),
        () if body.pointer("/error/code").and_then(Value::as_u64).is_some_and(|code| (1000..2000).contains(&code)) => {
            ("zhipu", "error.code of four digits")
        }
        () if has("/code") && has("/message") && has("/request_id") && !has("/type") => {
            ("dashscope", "{\"code\",\"message\",\"request_id\"}")
        }
        () => return None,
    })
}
