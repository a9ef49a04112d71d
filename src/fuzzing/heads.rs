//! Heads: the first bytes of connections, requests and answers.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

use super::Input;
use super::meaning::{self, METER};
use crate::call::*;
use crate::export::{Propagation, read_trace_context, to_json};
use crate::listen::client_hello::{self, MAX_BYTES, Opening};
use crate::meter::redact;
use crate::protocol::random::Random;
use crate::protocol::usage_from_headers;
use crate::provider::{Catalog, Match, keep_response_headers, read_key, read_limits, redact_query, request_id};

pub(super) static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::embedded);

/// The first bytes of a connection.
pub(super) fn client_hello(data: &[u8]) {
    let data = &data[..data.len().min(MAX_BYTES)];
    let whole = client_hello::read(data);
    // Every beginning waits for more or says the same.
    let step = data.len() / 64 + 1;
    for end in (0..data.len()).step_by(step).chain(data.len().saturating_sub(2)..data.len()) {
        let beginning = client_hello::read(&data[..end]);
        assert!(beginning == Opening::Incomplete || beginning == whole, "{end} bytes: {beginning:?}, all: {whole:?}");
    }
    if let Opening::Tls(hello) = &whole {
        let name = hello.name.as_deref().unwrap_or("a");
        assert!(!name.is_empty() && name.len() <= 253 && !name.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
    let mut acceptor = rustls::server::Acceptor::default();
    let mut bytes = data;
    while !bytes.is_empty() {
        if !matches!(acceptor.read_tls(&mut bytes), Ok(1..)) {
            return;
        }
        let Ok(accepted) = acceptor.accept() else { return };
        let Some(accepted) = accepted else { continue };
        let theirs = accepted.client_hello();
        let Opening::Tls(ours) = &whole else { panic!("rustls reads a hello, {whole:?}") };
        let name = theirs.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        assert_eq!(ours.name, name);
        let protocols: Vec<&[u8]> = theirs.alpn().into_iter().flatten().collect();
        assert_eq!(
            (ours.alpn.h2, ours.alpn.http1),
            (protocols.contains(&&b"h2"[..]), protocols.contains(&&b"http/1.1"[..]))
        );
        return;
    }
}

/// What keys begin with; the last are those of no known family.
pub(super) const PREFIXES: [&str; 10] =
    ["sk-proj-", "sk-ant-api03-", "AIzaSy", "gsk_", "xai-", "hf_", "nvapi-", "sk-", "", "mu"];
pub(super) const PATHS: [&str; 10] = [
    "/openai/v1/chat/completions",
    "/anthropic/v1/messages",
    "/gemini/v1beta/models/gemini-2.5-flash:generateContent",
    "/azure_openai/made-up/openai/deployments/gpt/chat/completions",
    "/bedrock/us-east-1/model/anthropic.claude/invoke",
    "/vertex/us-central1/v1/projects/made-up/locations/us-central1/publishers/google/models/g:streamGenerateContent",
    "/cohere/v2/chat",
    "/ollama/api/chat",
    "/v1/chat/completions",
    "/",
];
pub(super) const PLACES: [&str; 12] = [
    "bearer",
    "basic",
    "sigv4",
    "raw",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
    "query",
    "encoded query",
    "presigned",
    "websocket",
];

/// What names a model; `{key}`: people paste keys where models belong.
pub(super) const MODEL_NAMES: [&str; 6] = ["gpt-4o-mini", "{key}", "openai/{key}", "models/{key}", " {key}", ""];

/// A made-up key: all of it but the beginning is random.
fn secret(prefix: &str, seed: u8) -> String {
    let letters = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
    let mut random = Random(u64::from(seed) | 0x5eed_0000);
    let rest: String = (0..48).map(|_| char::from(letters[random.below(letters.len())])).collect();
    format!("{prefix}{rest}")
}

/// Key, its place, path, further query and headers, model; then the error's body, in which `{key}` stands for the key.
pub(super) fn request_head(data: &[u8]) {
    let mut input = Input(data);
    let (prefix, seed) = (input.pick(&PREFIXES), input.byte());
    let key = secret(prefix, seed);
    if [String::from_utf8_lossy(data).into_owned(), ascii(data)].iter().any(|text| text.contains(middle(&key))) {
        // A fuzzer learns what is looked for, and writes pieces of the key where no key stands.
        return;
    }
    let is_known = prefix.len() > 2;
    let place = input.pick(&PLACES);
    let path = input.pick(&PATHS);
    let way = input.byte() % 3;
    let host = String::from_utf8_lossy(input.short()).into_owned();
    let more_path = ascii(input.short());
    let mut headers = HeaderMap::new();
    for _ in 0..input.byte() % 8 {
        let (name, value) = (input.short(), input.short());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let model = match input.pick(&MODEL_NAMES) {
        // Keys of known families are seen inside of any text, others where a name ends with them.
        "" => String::from_utf8_lossy(input.short())
            .replace("{key}", &if is_known { format!(" {key} ") } else { String::new() }),
        name => name.replace("{key}", &key),
    };
    let status = input.pick(&[200, 401, 403, 429, 500]);
    let body = String::from_utf8_lossy(input.rest())
        .replace("{key}", &if is_known { format!(" {key} ") } else { key.clone() });
    let body = body.into_bytes();

    let value = |text: String| HeaderValue::from_str(&text).expect("a key is text");
    let mut target = format!("{path}{more_path}");
    let parameter = |target: &mut String, text: &str| {
        target.push(if target.contains('?') { '&' } else { '?' });
        target.push_str(text);
    };
    match place {
        "bearer" => drop(headers.insert("authorization", value(format!("Bearer {key}")))),
        "basic" => {
            drop(headers.insert("authorization", value(format!("Basic {}", STANDARD.encode(format!("user:{key}"))))))
        }
        "sigv4" => drop(headers.insert(
            "authorization",
            value(format!("AWS4-HMAC-SHA256 Credential={key}/20261127/us-east-1/bedrock/aws4_request, Signature=00")),
        )),
        "raw" => drop(headers.insert("authorization", value(key.clone()))),
        "query" => parameter(&mut target, &format!("key={key}")),
        "encoded query" => {
            let encoded: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
            parameter(&mut target, &format!("api%2Dkey={encoded}"));
        }
        "presigned" => parameter(&mut target, &format!("X-Amz-Credential={key}%2F20261127%2Fx")),
        "websocket" => {
            drop(headers.insert("sec-websocket-protocol", value(format!("realtime, openai-insecure-api-key.{key}"))));
        }
        header => drop(headers.insert(HeaderName::from_static(header), value(key.clone()))),
    }

    let method = Method::POST;
    let found = match way {
        0 => match CATALOG.recognize_base_url(&method, &target) {
            Ok(found) => found,
            Err(refused) => {
                hides(&key, &String::from_utf8_lossy(&refused.body()));
                return;
            }
        },
        1 => match CATALOG.recognize_host(&host, 443, &method, &target) {
            Some(found) => found,
            None => CATALOG.other((http::uri::Scheme::HTTPS, host.as_str().into(), 443), &target),
        },
        _ => CATALOG.other((http::uri::Scheme::HTTP, "127.0.0.1".into(), 1), &target),
    };
    let facts = read_key(&found, &method, &headers, &target, b"salt");
    assert!(facts.fingerprint.is_some() && facts.place.is_some(), "a key in {place}");
    hides(&key, &format!("{facts:?}"));
    hides(&key, &redact_query(&target));
    let trace = read_trace_context(&headers, Propagation { w3c: true, b3: true });
    assert!(trace.trace_id != 0 && trace.span_id != 0);
    assert!(trace.trace_state.as_ref().is_none_or(|state| state.len() <= 512));

    let failed = status >= 400;
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_435_200);
    let record = METER.finish(
        call(&found, facts, &target, model, status, failed.then_some(body), started),
        Limits::default(),
        started,
    );
    hides(&key, &to_json(&record).to_string());
    hides(&key, &format!("{:?}", [&record.error_type, &record.error_code, &record.url, &record.request_model]));
}

fn call(
    found: &Match,
    key: KeyFacts,
    target: &str,
    model: String,
    status: u16,
    error: Option<Vec<u8>>,
    started: SystemTime,
) -> CallFacts {
    let path = target.split('?').next().unwrap_or_default();
    CallFacts {
        call_id: CallId(1),
        started,
        trace: TraceContext::default(),
        way: Way::BaseUrl,
        provider: found.provider.id.as_ref().into(),
        price_as: found.price_as.clone(),
        local: found.provider.local,
        billed: found.billed,
        operation: found.operation,
        protocol: found.protocol,
        server_address: found.host.clone(),
        server_port: found.port,
        client: None,
        caller: None,
        key,
        request: RequestFacts {
            method: "POST".into(),
            url_model: found.url_model.clone(),
            url: Some(redact_query(path)),
            model: Some(model),
            ..RequestFacts::default()
        },
        response: Some(ResponseFacts { status, ..ResponseFacts::default() }),
        reply: Reply {
            error: error.map(|mut body| {
                body.truncate(16 * 1024);
                ErrorFacts { body, in_stream: false }
            }),
            terminal: true,
            ..Reply::default()
        },
        end: End::Complete,
        generated: None,
        timing: Timing::default(),
    }
}

/// Nothing of the key's random part is in what is shown, but for a few characters at its end.
#[track_caller]
fn hides(key: &str, shown: &str) {
    assert!(!shown.contains(middle(key)), "the key {key} is shown: {shown}");
}

fn middle(key: &str) -> &str {
    &key[key.len() - 24..key.len() - 8]
}

/// Characters that a request line may have.
fn ascii(bytes: &[u8]) -> String {
    bytes.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect()
}

/// Provider, then headers, then the error's body.
pub(super) fn answer_head(data: &[u8]) {
    let mut input = Input(data);
    let providers: Vec<_> = CATALOG.providers().collect();
    let provider = providers[usize::from(input.byte()) % providers.len()];
    let seconds = input.number();
    let mut headers = HeaderMap::new();
    for _ in 0..input.byte() {
        let (name, value) = (input.short(), input.short());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    let kept = keep_response_headers(provider, &headers);
    assert!(kept.len() <= 64 && kept.iter().all(|(_, value)| value.len() <= 256));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds >> 20);
    let limits = read_limits(&provider.limits, &kept, Some(&text), now);
    for limit in &limits.limits {
        let numbers = [limit.limit, limit.remaining];
        numbers.into_iter().flatten().for_each(|number| assert!(number.is_finite() && number >= 0.0));
    }
    let _ = request_id(provider, &kept);
    let head = ResponseFacts { status: 429, headers: kept, bytes: 0 };
    let _ = usage_from_headers(&head);
    meaning::judged(&provider.id, Some(429), &head.headers, text.as_bytes());
    let _: Value = Value::from(redact(&text).len());
}
