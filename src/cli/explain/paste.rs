//! Reads what people paste when they ask why a call failed. In: any text. Out: [`Pasted`], the answer inside it as the
//! rules want it: status, headers, body, or the reason why there was no answer.
//!
//! Understood: HTTP answers with their head (`curl -i`, `curl -v`, a raw dump), bodies alone (JSON, streams, web pages), what
//! SDKs raise (Python tracebacks with `repr` dictionaries, Node's dumps, LangChain's and LiteLLM's wrappers), and network
//! errors. Nothing is judged here: that is the rules' work. Looks at the first [`TEXT_BYTES`]; never fails.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::literal;
use crate::call::{GeneratedError, KeptHeader};

/// Most bytes of text that are looked at.
pub(super) const TEXT_BYTES: usize = 256 * 1024;
/// Places at which a value is looked for.
const TRIES: usize = 200;
/// Headers that are kept, and their longest value, bytes.
const HEADERS: usize = 64;
const VALUE_BYTES: usize = 256;

/// Names in lower case, and values.
type Headers = Vec<KeptHeader>;

/// The answer inside a text.
#[derive(Default)]
pub(super) struct Pasted {
    /// HTTP status, where it is told.
    pub status: Option<u16>,
    /// Of the answer.
    pub headers: Headers,
    /// The body as it would have come from the provider.
    pub body: Vec<u8>,
    /// No answer came at all, for this reason.
    pub unanswered: Option<GeneratedError>,
    /// The answer broke off.
    pub truncated: bool,
    /// The request is there, and no credential in it.
    pub without_credential: bool,
    /// Class name of an exception, with its module, where there is one.
    pub origin: String,
    /// How it was read, for people.
    pub form: &'static str,
}

/// Request headers that carry credentials.
const KEY_HEADERS: &[&str] =
    &["authorization", "x-api-key", "api-key", "x-goog-api-key", "ocp-apim-subscription-key", "x-amz-security-token"];

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("built-in pattern, compiled in tests")
}

/// A status line, alone or after curl's `<`.
static HEAD: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"(?m)^[ \t]*(?:< ?)?HTTP/(?:1\.[01]|2|3)(?:\.0)?[ \t]+([1-5]\d\d)\b[^\n]*\n?"));

/// Colors of terminals.
static ANSI: LazyLock<Regex> = LazyLock::new(|| compiled("\u{1b}\\[[0-9;?]*[A-Za-z]"));

/// The class of an exception at the beginning of a line.
static CLASS: LazyLock<Regex> = LazyLock::new(|| {
    compiled(
        r"(?m)^[ \t]*(?:Uncaught |Unhandled |error: |Error: )?((?:[A-Za-z_][\w]*\.)*[A-Z]\w*(?:Error|Exception|Timeout|Interrupt|Warning|Denied|NotFound|Exhausted))\b(?: \[[\w ]+\])?:?[ \t]*",
    )
});

/// Statuses as SDKs and tools write them, the surest first.
static STATUSES: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        r"(?i)\berror code:? (\d{3})\b",
        r#"(?i)["']?\bhttp_?status_?code["']?\s?[:=]\s?"?(\d{3})\b"#,
        r#"(?i)["']?\bstatus_?code["']?\s?[:=]\s?"?(\d{3})\b"#,
        r"(?i)\bapi error occurred: status (\d{3})\b",
        r"\[(\d{3}) [A-Z][A-Za-z ]+\]",
        r"(?m)(?:Error|Exception)(?: calling model \S+(?: \(\w+\))?)?: (\d{3})\b[ .:]",
        r"(?i)\b(\d{3}) (?:client|server) error\b",
        r"(?i)\bHTTP(?: status| error| code)?:? (\d{3})\b",
        r"(?i)\bstatus(?: code)?:? (\d{3})\b",
        r"(?i)\breturned error: (\d{3})\b",
        r"(?i)\b(\d{3}) (?:too many requests|unauthorized|forbidden|not found|bad request|payment required|internal server error|bad gateway|service unavailable|gateway timeout|RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|NOT_FOUND|UNAVAILABLE)\b",
        r"(?m)^(\d{3}) \{",
    ]
    .into_iter()
    .map(compiled)
    .collect()
});

/// `litellm.RateLimitError: RateLimitError: OpenAIException - …`, LangChain's and others' prefixes of a message.
static WRAPPERS: LazyLock<Regex> = LazyLock::new(|| {
    compiled(
        r"^(?:(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception)(?: - |: ?)|Error code:? \d{3} - |\d{3} |API error occurred: Status \d{3}[.:]? ?)+",
    )
});

/// What exceptions are raised for, where neither status nor body is told.
const CLASSES: &[(&str, u16)] = &[
    ("RateLimitError", 429),
    ("AuthenticationError", 401),
    ("UnauthorizedError", 401),
    ("PermissionDeniedError", 403),
    ("ForbiddenError", 403),
    ("NotFoundError", 404),
    ("BadRequestError", 400),
    ("UnprocessableEntityError", 422),
    ("InternalServerError", 500),
    ("ServiceUnavailableError", 503),
    ("OverloadedError", 529),
    ("TooManyRequestsError", 429),
];

/// Words of those who got no answer. The first that is there counts, so the narrow ones stand before the wide ones.
const UNANSWERED: &[(GeneratedError, &[&str])] = &[
    (
        GeneratedError::Tls,
        &[
            "certificate_verify_failed",
            "certificate verify failed",
            "self signed certificate",
            "self-signed certificate",
            "unable to get local issuer",
            "unable to verify the first certificate",
            "unable_to_verify_leaf_signature",
            "depth_zero_self_signed_cert",
            "cert_has_expired",
            "certificate has expired",
            "unknown issuer",
            "unknownissuer",
            "x509: certificate",
            "ssl: wrong_version_number",
            "wrong version number",
            "sslerror",
            "tls handshake",
            "ssl handshake",
            "ssl certificate problem",
            "invalid peer certificate",
            "err_tls_cert",
        ],
    ),
    (
        GeneratedError::Proxy,
        &[
            "proxyerror",
            "tunnel connection failed",
            "cannot connect to proxy",
            "unable to connect to proxy",
            "response 407 from proxy",
            "proxy connect",
        ],
    ),
    (
        GeneratedError::Dns,
        &[
            "enotfound",
            "eai_again",
            "getaddrinfo",
            "name or service not known",
            "nodename nor servname",
            "name resolution",
            "could not resolve host",
            "no such host",
            "failed to resolve",
            "nameresolutionerror",
            "dns error",
            "no address associated with hostname",
        ],
    ),
    (
        GeneratedError::ConnectTimeout,
        &[
            "connecttimeout",
            "connect timeout",
            "und_err_connect_timeout",
            "etimedout",
            "connection timed out",
            "connection attempt failed",
        ],
    ),
    (
        GeneratedError::Connect,
        &[
            "econnrefused",
            "connection refused",
            "actively refused",
            "ehostunreach",
            "enetunreach",
            "no route to host",
            "network is unreachable",
            "failed to connect",
            "couldn't connect",
            "all connection attempts failed",
        ],
    ),
    (
        GeneratedError::ReadTimeout,
        &[
            "readtimeout",
            "read timed out",
            "read timeout",
            "request timed out",
            "apitimeouterror",
            "apiconnectiontimeouterror",
            "und_err_headers_timeout",
            "operation timed out",
            "timeout of ",
            "timed out",
        ],
    ),
    (
        GeneratedError::Reset,
        &[
            "econnreset",
            "connection reset",
            "socket hang up",
            "remote end closed connection",
            "remotedisconnected",
            "connection aborted",
            "broken pipe",
            "epipe",
            "server disconnected",
            "other side closed",
            "und_err_socket",
            "empty reply from server",
            "connection closed before",
            "remoteprotocolerror",
        ],
    ),
    (
        GeneratedError::Connect,
        &["apiconnectionerror", "connection error", "connecterror", "fetch failed", "api connection error"],
    ),
];

/// Words of answers that broke off after their head.
const TRUNCATED: &[&str] = &[
    "incomplete chunked read",
    "peer closed connection without sending complete message body",
    "incompleteread",
    "response ended prematurely",
    "premature close",
    "err_stream_premature_close",
    "chunkedencodingerror",
    "terminated",
    "transfer closed with",
];

/// Reads `text`.
pub(super) fn read(text: &str) -> Pasted {
    let text = &text[..text.floor_char_boundary(TEXT_BYTES)];
    let text = ANSI.replace_all(text, "");
    let text = text.trim_start_matches('\u{feff}');
    if let Some(answer) = answer(text) {
        return answer;
    }
    let trimmed = text.trim();
    let mut pasted = match trimmed.chars().next() {
        Some('{' | '[' | '"') if serde_json::from_str::<Value>(trimmed).is_ok() => whole_json(trimmed),
        Some('<') => Pasted { form: "a web page or XML", body: trimmed.into(), ..Pasted::default() },
        _ if is_stream(trimmed) => {
            Pasted { form: "a stream of events", status: Some(200), body: trimmed.into(), ..Pasted::default() }
        }
        _ => exception(trimmed),
    };
    pasted.body.truncate(TEXT_BYTES);
    pasted
}

/// Reads a file of headers: with or without status line.
pub(super) fn read_headers(text: &str) -> Pasted {
    answer(text).unwrap_or_else(|| Pasted { headers: fields(text).0, ..Pasted::default() })
}

/// An answer with its head; the last one, where interim answers, redirects or a proxy's come before it.
fn answer(text: &str) -> Option<Pasted> {
    let heads: Vec<_> = HEAD.captures_iter(text).take(32).collect();
    let last = heads.iter().rev().find(|head| !head[1].starts_with('1'))?;
    let whole = last.get(0)?;
    // A transcript (`curl -v`) marks its lines; what is not marked is the body.
    let is_transcript = whole.as_str().trim_start().starts_with('<');
    let rest = &text[whole.end()..];
    let mut without_credential = false;
    let (headers, body) = if is_transcript {
        let sent: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("> ")).collect();
        let is_key = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            line.contains("key=") || KEY_HEADERS.contains(&&*name)
        };
        without_credential = !sent.is_empty() && !sent.iter().any(is_key);
        let mark = |line: &&str| {
            line.starts_with('<') && !line.starts_with("<!") && (line.len() < 2 || line.starts_with("< "))
        };
        let head: Vec<&str> = rest.lines().take_while(mark).map(|line| line[1..].trim_start()).collect();
        let noise =
            |line: &&str| ["* ", "> ", "{ [", "} [", "< "].iter().any(|mark| line.starts_with(mark)) || *line == "<";
        let body: Vec<&str> = rest.lines().filter(|line| !noise(line)).collect();
        (fields(&head.join("\n")).0, body.join("\n"))
    } else {
        let (headers, body) = fields(rest);
        (headers, body.to_owned())
    };
    let (status, body) = (last[1].parse().ok()?, body.trim().as_bytes().to_vec());
    let form = "an HTTP answer with its head";
    Some(Pasted { status: Some(status), headers, body, without_credential, form, ..Pasted::default() })
}

/// Header fields up to the first empty line, and what follows it.
fn fields(text: &str) -> (Headers, &str) {
    let mut all = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        if line.trim().is_empty() {
            return (all, after);
        }
        match line.split_once(':') {
            Some((name, value)) if !name.is_empty() && name.trim().bytes().all(|b| b.is_ascii_graphic()) => {
                let value = value.trim();
                if all.len() < HEADERS {
                    let value = &value[..value.floor_char_boundary(VALUE_BYTES)];
                    all.push((name.trim().to_ascii_lowercase().into(), value.into()));
                }
            }
            // No empty line: the body was pasted right below.
            _ => return (all, rest),
        }
        rest = after;
    }
    (all, "")
}

fn is_stream(text: &str) -> bool {
    text.lines().take(8).any(|line| line.starts_with("data:") || line.starts_with("event:"))
}

/// A body alone, or an exception that somebody wrote as JSON.
fn whole_json(text: &str) -> Pasted {
    let value = serde_json::from_str::<Value>(text).ok();
    match value.as_ref().and_then(dump) {
        Some(pasted) => pasted,
        None => Pasted { form: "an error body", body: text.into(), ..Pasted::default() },
    }
}

/// What an SDK or a tool printed.
fn exception(text: &str) -> Pasted {
    let mut pasted = Pasted { form: "a message", ..Pasted::default() };
    // The last exception of a chain is the one that was raised; Node names its own first.
    let classes: Vec<_> = CLASS.captures_iter(text).collect();
    let raised = if text.contains("Traceback (most recent call last)") { classes.last() } else { classes.first() };
    if let Some(class) = raised {
        pasted.origin = class[1].to_owned();
        pasted.form = if text.contains("Traceback") { "a Python traceback" } else { "an exception of an SDK" };
    }
    let message = raised.and_then(|class| Some(&text[class.get(0)?.end()..])).unwrap_or(text);
    // Wrappers tell whose error it was.
    let wrapper: String = message.chars().take(160).collect();
    pasted.origin.push(' ');
    pasted.origin.push_str(&wrapper);

    let values = values(text);
    pasted.status = STATUSES.iter().find_map(|pattern| {
        let status = pattern.captures(text)?.get(1)?.as_str().parse().ok()?;
        (100..600).contains(&status).then_some(status)
    });
    if let Some(found) = values.iter().find_map(dump) {
        pasted.status = found.status.or(pasted.status);
        pasted.headers = found.headers;
        pasted.body = found.body;
    }
    if pasted.body.is_empty()
        && let Some(body) = values.iter().filter(|value| is_error(value)).max_by_key(|value| weight(value))
    {
        pasted.body = body.to_string().into_bytes();
    }
    if pasted.body.is_empty()
        && let Some(at) = ["<!doctype", "<html", "<?xml"].iter().find_map(|mark| find_ignoring_case(text, mark))
    {
        pasted.body = text.as_bytes()[at..].to_vec();
        return pasted;
    }
    let class = pasted.origin.split(' ').next().unwrap_or_default().to_owned();
    let class = class.rsplit('.').next().unwrap_or_default().to_owned();
    if !pasted.body.is_empty() {
        return pasted;
    }
    let lower = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let by_proxy = UNANSWERED.iter().any(|(why, words)| *why == GeneratedError::Proxy && has(words));
    // The status that a proxy gave is not the provider's.
    if pasted.status.is_none() || by_proxy {
        pasted.status = None;
        pasted.truncated = has(TRUNCATED);
        let is_network = !CLASSES.iter().any(|(name, _)| class.ends_with(name));
        pasted.unanswered = UNANSWERED
            .iter()
            .find(|(_, words)| is_network && has(words))
            .map(|(why, _)| *why)
            .filter(|_| !pasted.truncated);
        if pasted.truncated {
            pasted.status = Some(200);
        }
        if pasted.truncated || pasted.unanswered.is_some() {
            return pasted;
        }
    }
    // SDKs make their messages from JSON; only the message is left of it.
    let message = message.split("\n    at ").next().unwrap_or_default().trim();
    let shown = WRAPPERS.replace(message, "");
    let named = CLASSES.iter().find(|(name, _)| text.contains(name));
    pasted.status = pasted.status.or(named.map(|(_, status)| *status));
    let aws =
        Regex::new(r"An error occurred \((\w+)\)").ok().and_then(|pattern| Some(pattern.captures(text)?[1].to_owned()));
    let kind = aws.or_else(|| {
        let telling = ["Exception", "ContextWindowExceededError", "ContentPolicyViolationError", "BudgetExceededError"];
        let name = telling
            .iter()
            .find_map(|end| text.split(|c: char| !c.is_alphanumeric()).find(|word| word.ends_with(end)))?;
        let plain = name.trim_end_matches("Error");
        // Names of wrappers (`OpenAIException`) are no codes.
        let is_wrapper = name.ends_with("Exception") && (raised.is_none() || class != name);
        (!is_wrapper).then(|| plain.to_owned())
    });
    let mut error = Map::new();
    error.insert("message".to_owned(), shown.trim().into());
    if let Some(kind) = kind {
        error.insert("type".to_owned(), kind.into());
    }
    pasted.body = if pasted.origin.trim().is_empty() && named.is_none() && pasted.status.is_none() {
        text.as_bytes().to_vec()
    } else {
        json!({ "error": error }).to_string().into_bytes()
    };
    pasted
}

/// Every object or list that stands in a text, outermost ones, in their order.
fn values(text: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut at = 0;
    for _ in 0..TRIES {
        let Some(found) = text[at..].find(['{', '[', '\'', '"']).map(|found| at + found) else { break };
        let opens_value = matches!(text.as_bytes()[found], b'{' | b'[');
        match opens_value.then(|| literal::read(&text[found..])).flatten() {
            Some((value, length)) => {
                at = found + length;
                all.push(value);
            }
            None => at = found + 1,
        }
    }
    all
}

/// An exception written out: status, headers and body under the names that SDKs give them.
fn dump(value: &Value) -> Option<Pasted> {
    let map = value.as_object()?;
    let get = |names: &[&str]| names.iter().find_map(|name| map.get(*name)).filter(|value| !value.is_null());
    let status = get(&["status", "statusCode", "status_code", "httpStatusCode"])
        .or_else(|| map.get("$metadata")?.get("httpStatusCode"))
        .and_then(Value::as_u64)
        .and_then(|status| u16::try_from(status).ok())
        .filter(|status| (100..600).contains(status));
    let body = match get(&["responseBody", "response_body", "body", "rawResponse"]) {
        Some(Value::String(text)) => Some(text.clone().into_bytes()),
        Some(value @ Value::Object(_)) => Some(value.to_string().into_bytes()),
        _ => match get(&["error"]) {
            Some(error @ Value::Object(inner)) if status.is_some() => {
                // Anthropic's SDK keeps the whole body under `error`, OpenAI's the inner object.
                let is_body = inner.contains_key("error");
                Some(if is_body { error.clone() } else { json!({ "error": error }) }.to_string().into_bytes())
            }
            _ => None,
        },
    };
    let headers = get(&["responseHeaders", "response_headers", "headers"]).and_then(Value::as_object);
    if status.is_none() || (body.is_none() && headers.is_none()) {
        return None;
    }
    let headers = headers.into_iter().flatten().take(HEADERS).filter_map(|(name, value)| {
        let value = value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|number| number.to_string()))?;
        Some((name.to_ascii_lowercase().into(), value[..value.floor_char_boundary(VALUE_BYTES)].into()))
    });
    let headers = headers.collect();
    let form = "an exception, written out";
    Some(Pasted { status, headers, body: body.unwrap_or_default(), form, ..Pasted::default() })
}

fn is_error(value: &Value) -> bool {
    let names = [
        "error",
        "errors",
        "message",
        "Message",
        "detail",
        "code",
        "msg",
        "base_resp",
        "__type",
        "fault",
        "error_type",
    ];
    match value {
        // An error of the operating system is no answer of anybody's.
        Value::Object(map) if map.contains_key("errno") || map.contains_key("syscall") => false,
        Value::Object(map) => names.iter().any(|name| map.contains_key(*name)),
        Value::Array(items) => items.iter().take(4).any(is_error),
        _ => false,
    }
}

/// An envelope tells more than a part of it, and more text more than less.
fn weight(value: &Value) -> (bool, usize) {
    let inner = value.get(0).unwrap_or(value);
    (inner.get("error").is_some_and(|error| !error.is_null()), value.to_string().len())
}

fn find_ignoring_case(text: &str, mark: &str) -> Option<usize> {
    text.as_bytes().windows(mark.len()).position(|part| part.eq_ignore_ascii_case(mark.as_bytes()))
}
