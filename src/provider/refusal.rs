//! Bodies of the answers that keytally makes itself when a provider gave none: JSON in the shape that the application's SDK
//! expects from this provider, saying that keytally made it, why, and what to do.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Provider;
use crate::call::{GeneratedError, Protocol};

/// Longest detail that is shown, bytes.
const MAX_DETAIL_BYTES: usize = 512;

/// How error bodies look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorShape {
    /// `{"error":{"message","type","param","code"}}`
    #[default]
    Openai,
    /// `{"type":"error","error":{"type","message"}}`
    Anthropic,
    /// `{"error":{"code","message","status","details"}}`
    Gemini,
    /// `{"__type","message"}`
    Bedrock,
    /// `{"message"}` (Cohere)
    Message,
    /// `{"error":"text"}` (Ollama, Hugging Face)
    Text,
    /// `{"object":"error","message","type","param","code"}` (Mistral, Cerebras)
    Flat,
    /// `{"code","error":"text"}` (xAI)
    CodeError,
    /// `{"code","message","request_id"}` (DashScope native)
    CodeMessage,
    /// `{"detail":"text"}` (Voyage AI, Replicate, FastAPI)
    Detail,
    /// `{"errors":[{"code","message"}],"status_code"}` (watsonx)
    Errors,
}

// === impl ErrorShape ===

impl ErrorShape {
    /// The shape that a format prescribes whoever speaks it; `None` leaves it to the provider.
    pub(super) fn of_protocol(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::AnthropicMessages | Protocol::AnthropicComplete => Some(Self::Anthropic),
            Protocol::Gemini | Protocol::GeminiInteractions | Protocol::VertexPredict => Some(Self::Gemini),
            Protocol::BedrockConverse | Protocol::BedrockInvoke | Protocol::BedrockAgent => Some(Self::Bedrock),
            Protocol::CohereV1 | Protocol::CohereV2 => Some(Self::Message),
            Protocol::Ollama => Some(Self::Text),
            Protocol::DashscopeNative => Some(Self::CodeMessage),
            Protocol::Watsonx => Some(Self::Errors),
            Protocol::OpenaiChat
            | Protocol::OpenaiResponses
            | Protocol::OpenaiCompletions
            | Protocol::OpenaiEmbeddings
            | Protocol::OpenaiImages
            | Protocol::OpenaiAudio
            | Protocol::OpenaiRealtime
            | Protocol::Opaque => None,
        }
    }

    /// The shape of an OpenAI-compatible path: the provider's own where that is a variant of OpenAI's, else OpenAI's.
    fn for_openai_path(self) -> Self {
        match self {
            Self::Openai | Self::Flat | Self::CodeError | Self::Detail | Self::Text | Self::Errors => self,
            _ => Self::Openai,
        }
    }
}

/// Status and body of an answer in the provider's place.
///
/// `detail` says what exactly happened (host, error of the system); it must hold no secret and is cut at 512 bytes.
pub fn generated_error(
    provider: Option<&Provider>,
    protocol: Protocol,
    why: GeneratedError,
    detail: &str,
) -> (StatusCode, Vec<u8>) {
    let own = provider.map_or(ErrorShape::Openai, |p| p.error_shape);
    let shape = match (ErrorShape::of_protocol(protocol), protocol) {
        (Some(shape), _) => shape,
        (None, Protocol::Opaque) => own,
        (None, _) => own.for_openai_path(),
    };
    let status = status_of(why);
    let detail = detail[..detail.floor_char_boundary(MAX_DETAIL_BYTES)].trim();
    let (what, fix) = explain(why);
    let name = provider.map_or("the provider", |p| &*p.name);
    let colon = if detail.is_empty() { "" } else { ": " };
    let message = format!("keytally made this answer, not {name}: {what}{colon}{detail}; {fix}");
    let reason = why.as_str();
    let mut body = match shape {
        ErrorShape::Openai => {
            json!({ "error": { "message": message, "type": "keytally_error", "param": null, "code": reason } })
        }
        ErrorShape::Anthropic => {
            json!({ "type": "error", "error": { "type": anthropic_type(status), "message": message } })
        }
        ErrorShape::Gemini => json!({ "error": {
            "code": status.as_u16(), "message": message, "status": google_status(status),
            "details": [{
                "@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "keytally",
                "reason": reason.to_ascii_uppercase(),
            }],
        } }),
        ErrorShape::Bedrock => json!({ "__type": aws_type(status), "message": message }),
        ErrorShape::Message => json!({ "message": message }),
        ErrorShape::Text => json!({ "error": message }),
        ErrorShape::Flat => json!({
            "object": "error", "message": message, "type": "keytally_error", "param": null, "code": reason,
        }),
        ErrorShape::CodeError => json!({ "code": reason, "error": message }),
        ErrorShape::CodeMessage => json!({ "code": reason, "message": message, "request_id": "" }),
        ErrorShape::Detail => json!({ "detail": message }),
        ErrorShape::Errors => {
            json!({ "errors": [{ "code": reason, "message": message }], "status_code": status.as_u16() })
        }
    };
    if let Value::Object(members) = &mut body {
        members.insert("keytally".to_owned(), json!({ "generated": true, "reason": reason }));
    }
    (status, body.to_string().into_bytes())
}

fn status_of(why: GeneratedError) -> StatusCode {
    match why {
        GeneratedError::ConnectTimeout | GeneratedError::ReadTimeout => StatusCode::GATEWAY_TIMEOUT,
        GeneratedError::UnknownPrefix => StatusCode::NOT_FOUND,
        GeneratedError::Forbidden => StatusCode::FORBIDDEN,
        GeneratedError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        GeneratedError::Dns
        | GeneratedError::Connect
        | GeneratedError::Tls
        | GeneratedError::Reset
        | GeneratedError::Proxy
        | GeneratedError::BadRequest
        | GeneratedError::Internal => StatusCode::BAD_GATEWAY,
    }
}

/// What happened and what to do.
fn explain(why: GeneratedError) -> (&'static str, &'static str) {
    match why {
        GeneratedError::Dns => {
            ("the host name was not found", "check base_url and this machine's resolver, then retry")
        }
        GeneratedError::Connect => {
            ("no connection to the provider", "check firewall, HTTPS_PROXY and the provider's status page, then retry")
        }
        GeneratedError::ConnectTimeout => {
            ("connecting to the provider took too long", "check firewall and HTTPS_PROXY, then retry")
        }
        GeneratedError::Tls => (
            "the TLS handshake failed",
            "if a proxy on the way opens TLS, name its certificate authority as ca_file; check this machine's clock",
        ),
        GeneratedError::Reset => ("the connection broke before an answer came", "retry with backoff"),
        GeneratedError::ReadTimeout => ("the provider sent no answer in time", "retry, or raise the read timeout"),
        GeneratedError::Proxy => ("the proxy on the way refused", "check HTTPS_PROXY and its credentials"),
        GeneratedError::BadRequest => {
            ("the request could not be sent on", "check method, path and headers of the request")
        }
        GeneratedError::UnknownPrefix => {
            ("the path names no known provider", "write /<prefix>/<path of the provider's API>")
        }
        GeneratedError::Forbidden => {
            ("nobody is connected there through keytally", "call it directly: name it in NO_PROXY")
        }
        GeneratedError::Overloaded => ("too many calls at once", "retry with backoff, or raise limits.connections"),
        GeneratedError::Internal => ("a fault of keytally itself", "retry, and report it with keytally's log"),
    }
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::GATEWAY_TIMEOUT => "timeout_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        _ => "api_error",
    }
}

fn google_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "NOT_FOUND",
        StatusCode::GATEWAY_TIMEOUT => "DEADLINE_EXCEEDED",
        _ => "UNAVAILABLE",
    }
}

fn aws_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "ResourceNotFoundException",
        StatusCode::GATEWAY_TIMEOUT => "ModelTimeoutException",
        _ => "ServiceUnavailableException",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Catalog;

    fn body(provider: &str, protocol: Protocol, why: GeneratedError) -> (u16, Value) {
        let catalog = Catalog::embedded();
        let provider = catalog.provider(provider).map(|p| &**p);
        let (status, body) = generated_error(provider, protocol, why, "host api.example.com");
        (status.as_u16(), serde_json::from_slice(&body).expect("JSON"))
    }

    #[test]
    fn message_stands_where_each_sdk_looks() {
        use Protocol as P;
        let cases = [
            ("openai", P::OpenaiChat, "/error/message"),
            ("openai", P::Opaque, "/error/message"),
            ("azure_openai", P::OpenaiResponses, "/error/message"),
            ("anthropic", P::AnthropicMessages, "/error/message"),
            ("anthropic", P::OpenaiChat, "/error/message"),
            ("deepseek", P::AnthropicMessages, "/error/message"),
            ("gemini", P::Gemini, "/error/message"),
            ("gemini", P::OpenaiChat, "/error/message"),
            ("vertex", P::Opaque, "/error/message"),
            ("bedrock", P::BedrockConverse, "/message"),
            ("bedrock", P::OpenaiChat, "/error/message"),
            ("cohere", P::CohereV2, "/message"),
            ("cohere", P::OpenaiChat, "/error/message"),
            ("ollama", P::Ollama, "/error"),
            ("mistral", P::OpenaiChat, "/message"),
            ("xai", P::OpenaiResponses, "/error"),
            ("dashscope", P::DashscopeNative, "/message"),
            ("watsonx", P::Watsonx, "/errors/0/message"),
            ("voyageai", P::OpenaiEmbeddings, "/detail"),
            ("no such provider", P::Opaque, "/error/message"),
        ];
        for (provider, protocol, at) in cases {
            let (status, body) = body(provider, protocol, GeneratedError::Dns);
            let message = body.pointer(at).and_then(Value::as_str).unwrap_or_else(|| panic!("{provider}: {body}"));
            assert_eq!(status, 502);
            assert!(message.contains("keytally") && message.contains("api.example.com"), "{message}");
            assert_eq!(body.pointer("/keytally/reason"), Some(&json!("dns")), "{provider}");
        }
        assert_eq!(body("anthropic", P::AnthropicMessages, GeneratedError::ReadTimeout).1["type"], "error");
        assert_eq!(body("gemini", P::Gemini, GeneratedError::ReadTimeout).1["error"]["code"], 504);
    }

    #[test]
    fn statuses() {
        for why in GeneratedError::ALL {
            let (status, _) = body("openai", Protocol::OpenaiChat, *why);
            let expected = match why.as_str() {
                "connect_timeout" | "read_timeout" => 504,
                "unknown_prefix" => 404,
                "forbidden_target" => 403,
                "overloaded" => 503,
                _ => 502,
            };
            assert_eq!(status, expected, "{why}");
        }
    }

    #[test]
    fn long_details_are_cut() {
        let (_, body) = generated_error(None, Protocol::Opaque, GeneratedError::Tls, &"ä".repeat(10_000));
        assert!(body.len() < 2_000);
    }
}
