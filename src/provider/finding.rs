//! What can be said of a credential from the request alone. Each finding has its rule and, beside it, the guard that keeps
//! it from crying wolf. Findings that need memory (stale, shared, idle keys) or the answer are `meter`'s.

use http::{HeaderMap, Method};

use super::Match;
use super::key::{Credential, Family};
use crate::call::{Finding, KeyPlace, Operation, Protocol};

/// What is looked at.
pub(super) struct Request<'r> {
    pub(super) found: &'r Match,
    pub(super) method: &'r Method,
    pub(super) headers: &'r HeaderMap,
    /// The provider's own places first.
    pub(super) credentials: &'r [Credential],
}

/// Words that are written where a key should be. The last five are right for local servers.
const PLACEHOLDERS: &[&str] = &[
    "changeme",
    "change-me",
    "change_me",
    "replaceme",
    "replace-me",
    "replace_me",
    "test",
    "dummy",
    "fake",
    "foo",
    "xxx",
    "api-key",
    "api_key",
    "apikey",
    "insert-key-here",
    "empty",
    "none",
    "not-needed",
    "lm-studio",
    "ollama",
];

/// Values that a program prints for "nothing".
const NOTHING: &[&str] = &["undefined", "null", "none", "nil", "nan", "true", "false", "[object object]"];

/// Every finding that holds, each once, in declaration order.
pub(super) fn findings(request: &Request<'_>) -> Vec<Finding> {
    let mut all = Vec::new();
    let provider = &request.found.provider;
    match request.credentials.iter().find(|c| !c.key.bytes().trim_ascii().is_empty()) {
        // Local servers take none, and so may whatever config put in a catalogued provider's place.
        None if !provider.cloud || provider.local => {}
        None if !request.credentials.is_empty() => all.push(Finding::KeyEmpty),
        None => {
            let asks = !matches!(*request.method, Method::OPTIONS | Method::HEAD);
            if request.found.billed && asks {
                all.push(Finding::KeyMissing);
            }
        }
        Some(credential) => {
            all.extend(of_value(credential, request));
            all.extend(of_kind(credential, request));
        }
    }
    all.extend(of_way(request));
    all.sort_unstable();
    all.dedup();
    all
}

/// What the characters of a key say.
fn of_value(credential: &Credential, request: &Request<'_>) -> Vec<Finding> {
    let mut all = Vec::new();
    let raw = credential.key.bytes();
    if matches!(credential.place, KeyPlace::SigV4 | KeyPlace::PresignedQuery) {
        return all; // an access key id between `Credential=` and `/`: nothing of this applies
    }
    let key = raw.trim_ascii();
    if raw.len() != key.len() {
        all.push(Finding::KeyWhitespace);
    }
    if !key.is_ascii() {
        all.push(Finding::KeyHiddenUnicode);
    }
    if is_quoted(key) {
        all.push(Finding::KeyQuoted);
    }
    let provider = &request.found.provider;
    let cloud = provider.cloud && !provider.local;
    let lower = key.to_ascii_lowercase();
    let is = |words: &[&str]| words.iter().any(|word| lower == word.as_bytes());
    // One of these explains blanks inside, so blanks alone are told only when none holds.
    if is_unexpanded(key) {
        all.push(Finding::KeyUnexpanded);
    } else if starts_with_scheme(&lower) {
        all.push(Finding::KeyDoubleScheme);
    } else if is(NOTHING) {
        if cloud || lower != b"none" {
            all.push(Finding::KeyLiteralNull);
        }
    } else if is_placeholder(key, &lower, credential.kind) {
        if cloud {
            all.push(Finding::KeyPlaceholder);
        }
    } else if is_url_or_prose(key) {
        all.push(Finding::KeyIsUrlOrProse);
    } else if key.iter().any(u8::is_ascii_whitespace) {
        all.push(Finding::KeyWhitespace);
    }
    all
}

/// What the kind of key says about this provider, path and place.
fn of_kind(credential: &Credential, request: &Request<'_>) -> Vec<Finding> {
    let mut all = Vec::new();
    let (found, provider) = (request.found, &request.found.provider);
    let key = credential.key.bytes().trim_ascii();
    if let Some(kind) = credential.kind {
        // Keys of gateways and of servers that config brought in may look like anything.
        if kind.unique && provider.cloud && !provider.local && !provider.gateway && *kind.family != *provider.family {
            all.push(Finding::KeyWrongProvider);
        }
        let is_short = kind.unique && kind.length.is_some_and(|length| key.len() * 10 < length * 6);
        if is_short && !is_placeholder(key, &key.to_ascii_lowercase(), credential.kind) {
            all.push(Finding::KeyTruncated);
        }
        if kind.admin && found.billed {
            all.push(Finding::AdminKeyOnDataPath);
        }
    }
    if is_wrong_place(credential.place, key, found) {
        all.push(Finding::KeyWrongPlace);
    }
    all
}

/// A place that this kind of key does not work in. OpenAI-compatible paths of Anthropic, Google and Azure do take Bearer.
fn is_wrong_place(place: KeyPlace, key: &[u8], found: &Match) -> bool {
    let (family, bearer) = (&*found.provider.family, place == KeyPlace::Bearer);
    let native_anthropic =
        matches!(found.protocol, Protocol::AnthropicMessages | Protocol::AnthropicComplete) && family == "anthropic";
    let native_gemini = matches!(found.protocol, Protocol::Gemini | Protocol::GeminiInteractions) && family == "google";
    let azure_deployment = family == "azure" && found.url_model.is_some();
    let azure_key =
        matches!(key.len(), 32 | 84) && key.iter().all(u8::is_ascii_alphanumeric) && !key.starts_with(b"eyJ");
    (place == KeyPlace::XApiKey && family == "anthropic" && key.starts_with(b"sk-ant-oat"))
        || (bearer && native_anthropic && key.starts_with(b"sk-ant-api"))
        || (bearer && native_gemini && key.starts_with(b"AIza"))
        || (bearer && azure_deployment && azure_key)
}

/// What the way of sending says: URL, browser, two keys.
fn of_way(request: &Request<'_>) -> Vec<Finding> {
    let mut all = Vec::new();
    let (found, headers) = (request.found, request.headers);
    let filled = || request.credentials.iter().filter(|c| !c.key.bytes().trim_ascii().is_empty());
    // Gemini's Live WebSocket has no other way to carry the key from where headers cannot be set.
    let only_way = found.provider.query_key && found.operation == Operation::Realtime;
    if filled().any(|c| c.place == KeyPlace::Query) && !only_way {
        all.push(Finding::KeyInUrl);
    }
    // An API Management subscription key goes beside the provider's own key by design.
    let mut own = filled().filter(|c| c.place != KeyPlace::SubscriptionKey);
    if let Some(first) = own.next()
        && own.any(|other| other.key.bytes().trim_ascii() != first.key.bytes().trim_ascii())
    {
        all.push(Finding::BothAuthHeaders);
    }
    let lasting = |c: &Credential| !c.kind.is_some_and(|kind| kind.short_lived);
    let from_browser = filled().any(|c| lasting(c) && c.place == KeyPlace::WebSocketProtocol)
        || (filled().any(lasting) && (says_browser(headers) || has_foreign_origin(headers, &found.host)));
    if from_browser {
        all.push(Finding::KeyInBrowser);
    }
    all
}

fn says_browser(headers: &HeaderMap) -> bool {
    headers.get("anthropic-dangerous-direct-browser-access").is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// A page of another site sends this. Pages on the developer's own machine, extensions and desktop shells do not count,
/// nor do clients that send the target itself as origin (WebSocket libraries).
fn has_foreign_origin(headers: &HeaderMap, host: &str) -> bool {
    let Some(origin) = headers.get(http::header::ORIGIN).and_then(|v| v.to_str().ok()) else { return false };
    let Ok(origin) = url::Url::parse(origin) else { return false };
    let Some(name) = origin.host_str().filter(|_| matches!(origin.scheme(), "http" | "https")) else { return false };
    let own_machine = matches!(name, "localhost" | "127.0.0.1" | "[::1]" | "0.0.0.0") || name.ends_with(".localhost");
    !own_machine && !name.eq_ignore_ascii_case(host)
}

fn is_quoted(key: &[u8]) -> bool {
    let pairs: [(&[u8], &[u8]); 4] =
        [(b"\"", b"\""), (b"'", b"'"), (b"`", b"`"), ("\u{201c}".as_bytes(), "\u{201d}".as_bytes())];
    pairs
        .iter()
        .any(|(open, close)| key.len() >= open.len() + close.len() && key.starts_with(open) && key.ends_with(close))
}

/// The whole value is a variable or template that nobody filled in.
fn is_unexpanded(key: &[u8]) -> bool {
    let inside = |open: &[u8], close: &[u8]| key.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    let is_name = |text: &[u8]| {
        text.first().is_some_and(|b| b.is_ascii_uppercase() || *b == b'_')
            && text.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
    };
    inside(b"${", b"}").is_some()
        || inside(b"$(", b")").is_some_and(is_name)
        || key.strip_prefix(b"$").is_some_and(is_name)
        || inside(b"%", b"%").is_some_and(is_name)
        || inside(b"{{", b"}}").is_some()
        || inside(b"<", b">").is_some()
        || key.starts_with(b"process.env.")
        || key.starts_with(b"os.environ")
}

fn starts_with_scheme(lower: &[u8]) -> bool {
    [&b"bearer "[..], b"basic ", b"authorization:"].iter().any(|scheme| lower.starts_with(scheme))
}

fn is_url_or_prose(key: &[u8]) -> bool {
    let url = memchr::memmem::find(key, b"://").is_some();
    let spaces = memchr::memchr_iter(b' ', key).take(2).count() == 2;
    (url || spaces) && !key.starts_with(b"eyJ")
}

/// Written by a person for "put your key here", or a masked key as consoles show it.
fn is_placeholder(key: &[u8], lower: &[u8], kind: Option<&Family>) -> bool {
    if PLACEHOLDERS.iter().any(|word| lower == word.as_bytes()) {
        return true;
    }
    let known = kind.map_or(&b""[..], |kind| kind.prefix.as_bytes());
    let prefix = if known.is_empty() && lower.starts_with(b"sk-") { 3 } else { known.len() };
    let (rest, rest_lower) = (&key[prefix..], &lower[prefix..]);
    let yours = rest_lower.starts_with(b"your")
        && [&b"key"[..], b"token", b"secret"].iter().any(|word| memchr::memmem::find(rest_lower, word).is_some());
    let masked = prefix > 0 && (rest.starts_with(b"...") || rest.starts_with("\u{2026}".as_bytes()));
    // Random keys open with four times the same letter too rarely to matter only for letters that hex lacks.
    let first = rest_lower.first().copied().unwrap_or(0);
    let run = rest_lower.iter().take_while(|&&b| b == first).count();
    let filler = prefix > 0 && run >= 4 && (matches!(first, b'x' | b'*' | b'.') || run == rest.len());
    yours || masked || filler || (prefix == 0 && run >= 4 && run == rest.len())
}
