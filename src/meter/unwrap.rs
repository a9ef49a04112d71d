//! Reads an error body, whatever its wrapping, into the few strings that rules look at.
//!
//! In: the first bytes of an error answer (at most 16 KiB are looked at): JSON, JSON with a tail, JSON cut in the middle,
//! JSON inside a string, raw SSE or NDJSON text, HTML, XML, plain text. The content type is not asked: JSON comes as
//! octet-stream and HTML as 200. Out: [`Unwrapped`]: one text of all messages (lower case, at most 4 KiB, one message a
//! line), every code, and the status that the body itself names. At most 6 levels and 512 values are visited. Never fails.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// Most bytes of a body that are looked at.
const BODY_BYTES: usize = 16 * 1024;
/// Most bytes of text that rules see.
const TEXT_BYTES: usize = 4 * 1024;
/// Most levels of wrapping.
const LEVELS: u8 = 6;
/// Most JSON values visited.
const VALUES: u16 = 512;
/// Most codes kept, and the longest that is one.
const CODES: usize = 64;
const CODE_BYTES: usize = 128;

/// What kind of body it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    #[default]
    Empty,
    Structured,
    Html,
    Text,
}

/// The strings of an error body. Unredacted: never to be shown.
#[derive(Default)]
pub(super) struct Unwrapped {
    pub kind: Kind,
    /// The body says that something failed (else it is an ordinary answer).
    pub is_error: bool,
    /// All messages, lower case, white space collapsed, one a line.
    pub text: String,
    /// Every code, type, status and reason as it came.
    pub codes: Vec<String>,
    /// The first type-like and the first code-like string.
    pub error_type: Option<String>,
    pub error_code: Option<String>,
    /// 400 to 599, as the body says.
    pub status: Option<u16>,
}

/// Keys whose string is a message.
const MESSAGE_KEYS: &[&str] = &[
    "message",
    "msg",
    "error",
    "detail",
    "details",
    "error_description",
    "error_message",
    "errormessage",
    "error_msg",
    "status_msg",
    "faultstring",
    "title",
    "description",
    "raw",
    "hint",
    "cause",
    "reason",
    "failure_reason",
    "info",
];
/// Keys whose value is a code.
const CODE_KEYS: &[&str] = &[
    "code",
    "type",
    "status",
    "reason",
    "__type",
    "error_type",
    "errortype",
    "error_code",
    "errorcode",
    "status_code",
    "statuscode",
    "internalcode",
    "name",
    "faultcode",
    "quotaid",
    "quota_limit",
    "quotametric",
    "rate_limit_type",
    "limit_type",
];
/// Keys below which the error goes on.
const NESTED_KEYS: &[&str] = &[
    "error",
    "errors",
    "detail",
    "details",
    "message",
    "base_resp",
    "metadata",
    "innererror",
    "inner_error",
    "fault",
    "violations",
    "raw",
    "cause",
    "upstream_error",
    "provider_error",
    "original_error",
    "data",
    "body",
];
/// Marks inside Cloudflare's pages that no visible text carries (recorded pages).
const PAGE_MARKS: &[&str] = &["cf-error-details", "challenge-platform", "cf-browser-verification", "cf_chl_opt"];

static PAIRS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?s)["']\s*(message|msg|error|detail|code|type|status|reason|error_code|error_type|quotaId)\\*["']\s*:\s*(?:\\*"((?:[^"\\]|\\[^"])*)|\\*'([^']*)|(-?\d{1,9}))"#,
    )
    .expect("built-in pattern, compiled in tests")
});

/// Reads `body`. `assume_error`: the answer is known to have failed, so that even unknown JSON is an error.
pub(super) fn unwrap(body: &[u8], assume_error: bool) -> Unwrapped {
    let text = String::from_utf8_lossy(&body[..body.len().min(BODY_BYTES)]);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}' || c == '\0');
    let mut reader = Reader { out: Unwrapped::default(), left: VALUES };
    reader.body(text, assume_error);
    reader.out.is_error |= assume_error;
    if reader.out.text.is_empty() {
        // Only prose where others have a code (xAI).
        let prose: Vec<String> = reader.out.codes.iter().filter(|code| !is_token(code)).cloned().collect();
        prose.iter().for_each(|code| reader.push_text(code));
    }
    reader.out
}

struct Reader {
    out: Unwrapped,
    left: u16,
}

impl Reader {
    fn body(&mut self, text: &str, assume_error: bool) {
        let Some(first) = text.bytes().next() else { return };
        self.out.kind = Kind::Structured;
        match first {
            b'{' | b'[' | b'"' => self.json(text, assume_error),
            _ if is_stream(text) => self.stream(text),
            b'<' => self.markup(text),
            _ => self.plain(text),
        }
    }

    /// One JSON value after another (NDJSON); what follows the last one may be SSE text or rubbish.
    fn json(&mut self, text: &str, assume_error: bool) {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let mut first = None;
        let mut end = 0;
        for _ in 0..VALUES {
            let Some(Ok(value)) = values.next() else { break };
            end = values.byte_offset();
            if looks_like_error(&value, LEVELS) {
                self.out.is_error = true;
                self.value(&value, LEVELS);
            } else if first.is_none() {
                first = Some(value);
            }
        }
        let tail = text.get(end..).unwrap_or_default().trim();
        if !self.out.is_error && is_stream(tail) {
            self.stream(tail);
        }
        match first {
            _ if self.out.is_error => {}
            Some(value) if assume_error || value.is_string() => self.value(&value, LEVELS),
            Some(_) if tail.is_empty() => {}
            // Cut in the middle, or nested deeper than the parser goes.
            _ if self.pairs(tail) => self.out.is_error |= assume_error || tail.contains("\"error\""),
            _ => self.plain(text),
        }
    }

    /// Raw SSE text: only the events that tell of an error count. An error may also follow the events as bare JSON.
    fn stream(&mut self, text: &str) {
        self.out.kind = Kind::Structured;
        let mut event = "";
        let mut rest = text;
        let mut tries = 64;
        while let Some(line) = rest.lines().next() {
            let after = rest.get(line.len()..).unwrap_or_default().trim_start_matches(['\r', '\n']);
            let trimmed = line.trim();
            if let Some(name) = trimmed.strip_prefix("event:") {
                event = name.trim();
            } else if let Some(data) = trimmed.strip_prefix("data:") {
                let named = event.contains("error") || event.contains("exception") || event.ends_with("failed");
                self.event(data.trim(), named);
                event = "";
            } else if let Some(data) = trimmed.strip_prefix("error:") {
                // llama.cpp reports a failure inside a stream as a field of that name (recorded answer).
                self.event(data.trim(), true);
            } else if trimmed.starts_with(['{', '[']) && tries > 0 {
                tries -= 1;
                if let Some(value) = first_value(rest).filter(|value| looks_like_error(value, LEVELS)) {
                    self.out.is_error = true;
                    self.value(&value, LEVELS);
                    return;
                }
            }
            rest = after;
        }
    }

    fn event(&mut self, data: &str, named: bool) {
        match first_value(data) {
            Some(value) if named || looks_like_error(&value, LEVELS) => {
                self.out.is_error = true;
                self.value(&value, LEVELS);
            }
            None if named && !data.is_empty() => {
                self.out.is_error = true;
                if !self.pairs(data) {
                    self.message(data, LEVELS);
                }
            }
            _ => {}
        }
    }

    fn value(&mut self, value: &Value, level: u8) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        match value {
            Value::String(text) => self.message(text, level),
            Value::Array(items) if level > 0 => items.iter().take(8).for_each(|item| self.value(item, level - 1)),
            Value::Object(map) => self.object(map, level),
            _ => {}
        }
    }

    fn object(&mut self, map: &Map<String, Value>, level: u8) {
        for (key, value) in map {
            let key = key.to_ascii_lowercase();
            let key = key.as_str();
            if CODE_KEYS.contains(&key) {
                self.code(key, value);
            } else if key.ends_with("exception") && value.is_object() {
                self.push_code(key, "type");
                self.value(value, level.saturating_sub(1));
            }
            match value {
                Value::String(text) if MESSAGE_KEYS.contains(&key) => {
                    if key == "error" && is_token(text) {
                        self.push_code(text, "code");
                    }
                    if key != "reason" || !is_token(text) {
                        self.message(text, level);
                    }
                }
                Value::Array(_) | Value::Object(_) if level > 0 && NESTED_KEYS.contains(&key) => {
                    self.value(value, level - 1);
                }
                // Only what failed inside an answer, not the answer itself.
                Value::Object(response) if key == "response" => {
                    if let Some(error) = response.get("error") {
                        self.value(error, level.saturating_sub(1));
                    }
                }
                Value::Array(choices) if key == "choices" => {
                    for error in choices.iter().take(8).filter_map(|choice| choice.get("error")) {
                        self.value(error, level.saturating_sub(1));
                    }
                }
                _ => {}
            }
        }
    }

    fn code(&mut self, key: &str, value: &Value) {
        match value {
            Value::String(text) => {
                let text = text.trim();
                if text.len() <= CODE_BYTES {
                    self.push_code(text, key);
                }
                // Quota names say which window is meant.
                if key.starts_with("quota") {
                    self.push_text(text);
                }
            }
            Value::Number(number) => self.push_code(&number.to_string(), key),
            _ => {}
        }
    }

    fn push_code(&mut self, code: &str, key: &str) {
        // AWS: `Name:http://…` in a header, `com.amazon…#Name` in a body.
        let code = code.rsplit_once('#').map_or(code, |(_, name)| name);
        let code = code.split_once(":http").map_or(code, |(name, _)| name).trim();
        if code.is_empty() || self.out.codes.len() >= CODES {
            return;
        }
        let number = code.parse::<u16>().ok();
        if let Some(status @ 400..=599) = number {
            self.out.status.get_or_insert(status);
        }
        let is_type = key.ends_with("type") || key == "status" || key == "name";
        let slot = if is_type { &mut self.out.error_type } else { &mut self.out.error_code };
        let generic = code == "error" || key.starts_with("quota") || code.starts_with("response.");
        if !generic && (slot.is_none() || (number.is_none() && slot.as_ref().is_some_and(|s| s.parse::<i64>().is_ok())))
        {
            *slot = Some(code.to_string());
        }
        if !self.out.codes.iter().any(|known| known == code) {
            self.out.codes.push(code.to_string());
        }
    }

    /// A message, and whatever JSON is hidden in it.
    fn message(&mut self, text: &str, level: u8) {
        let whole = text.trim_start().starts_with(['{', '[']);
        let start = if whole { Some(text.len() - text.trim_start().len()) } else { text.find('{') };
        if let (Some(start), true) = (start, level > 0) {
            let inner = &text[start..];
            match first_value(inner) {
                Some(value @ (Value::Object(_) | Value::Array(_))) => {
                    self.value(&value, level - 1);
                    if whole {
                        return;
                    }
                }
                _ => {
                    self.pairs(inner);
                }
            }
        }
        self.push_text(text);
    }

    fn push_text(&mut self, text: &str) {
        if !self.out.text.is_empty() {
            self.out.text.push('\n');
        }
        for word in text.split_whitespace() {
            if self.out.text.len() + word.len() >= TEXT_BYTES {
                return;
            }
            if !self.out.text.is_empty() && !self.out.text.ends_with('\n') {
                self.out.text.push(' ');
            }
            let lowered = word.chars().flat_map(char::to_lowercase);
            self.out.text.extend(lowered.map(|c| if c == '’' || c == '‘' { '\'' } else { c }));
        }
    }

    /// Picks `"key": "value"` pairs out of what is no whole JSON: cut bodies, Python's `{'code': …}`.
    fn pairs(&mut self, text: &str) -> bool {
        let mut any = false;
        for found in PAIRS.captures_iter(text).take(CODES) {
            let Some(value) = found.get(2).or(found.get(3)).or(found.get(4)) else { continue };
            let (key, value) = (found[1].to_ascii_lowercase(), value.as_str().trim());
            any = true;
            if CODE_KEYS.contains(&key.as_str()) && value.len() <= CODE_BYTES {
                self.push_code(value, &key);
            }
            if MESSAGE_KEYS.contains(&key.as_str()) && !is_token(value) {
                self.push_text(value);
            }
        }
        any
    }

    fn plain(&mut self, text: &str) {
        self.out.kind = Kind::Text;
        let codes = self.out.codes.len();
        self.message(text, LEVELS);
        if self.out.codes.len() > codes {
            self.out.kind = Kind::Structured;
        }
    }

    /// HTML pages become their visible text; XML errors (`<Error><Code>…`) become code and message.
    fn markup(&mut self, text: &str) {
        let lower = text.to_ascii_lowercase();
        if let Some(code) = element(text, &lower, "code") {
            self.push_code(code, "code");
            element(text, &lower, "message").iter().for_each(|message| self.message(message, 1));
            return;
        }
        self.out.kind = Kind::Html;
        for mark in PAGE_MARKS.iter().filter(|mark| lower.contains(*mark)) {
            self.push_code(mark, "page");
        }
        self.out.error_code = None;
        let mut visible = String::new();
        let mut rest = 0;
        while let Some(open) = text[rest..].find('<') {
            visible.push_str(&text[rest..rest + open]);
            visible.push(' ');
            let tag = &lower[rest + open..];
            let close = ["script", "style"].iter().find(|name| tag[1..].starts_with(**name)).and_then(|name| {
                let end = format!("</{name}");
                tag.find(&end).map(|at| at + end.len())
            });
            match tag[close.unwrap_or(0)..].find('>') {
                Some(end) => rest += open + close.unwrap_or(0) + end + 1,
                None => {
                    rest = text.len();
                    break;
                }
            }
        }
        visible.push_str(&text[rest..]);
        self.push_text(&visible.replace("&nbsp;", " ").replace("&#39;", "'").replace("&amp;", "&"));
    }
}

/// Content of the first `<name>` element; `lower` is `text` in ASCII lower case, so offsets agree.
fn element<'a>(text: &'a str, lower: &str, name: &str) -> Option<&'a str> {
    let open = format!("<{name}>");
    let start = lower.find(&open)? + open.len();
    let length = lower[start..].find(&format!("</{name}>"))?;
    let xml = lower.contains("<error") || lower.contains("<?xml");
    (xml && length <= TEXT_BYTES).then(|| &text[start..start + length])
}

fn first_value(text: &str) -> Option<Value> {
    serde_json::Deserializer::from_str(text).into_iter::<Value>().next()?.ok()
}

/// One word, as codes are.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= CODE_BYTES && !text.contains(char::is_whitespace) && text.is_ascii()
}

fn is_stream(text: &str) -> bool {
    let field = |line: &str| ["data:", "event:", "error: {", "error:{"].iter().any(|name| line.starts_with(name));
    text.starts_with(": ") || text.lines().take(64).any(field)
}

/// Tells an error from an ordinary answer or event.
fn looks_like_error(value: &Value, level: u8) -> bool {
    let set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Bool(true) => true,
    };
    match value {
        Value::Array(items) => level > 0 && items.iter().take(8).any(|item| looks_like_error(item, level - 1)),
        Value::Object(map) => {
            let answer =
                ["choices", "candidates", "content", "output", "usage"].iter().any(|key| map.contains_key(*key));
            let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
            let has = |key: &str| map.get(key).is_some_and(set);
            has("error")
                || has("errors")
                || matches!(text("type"), "error" | "exception" | "response.failed" | "response.error")
                || text("object") == "error"
                || map.get("success") == Some(&Value::Bool(false))
                || map.get("base_resp").and_then(|resp| resp.get("status_code")).is_some_and(set)
                || map.get("response").and_then(|response| response.get("error")).is_some_and(set)
                || map
                    .get("choices")
                    .and_then(Value::as_array)
                    .is_some_and(|choices| choices.iter().take(8).any(|choice| choice.get("error").is_some_and(set)))
                || map.iter().any(|(key, value)| {
                    key == "__type" || (value.is_object() && key.to_ascii_lowercase().ends_with("exception"))
                })
                || (!answer && (has("error_code") || has("errorCode") || has("detail") || has("fault"))
                    || !answer && (has("message") || has("msg")) && (has("code") || has("type") || map.len() <= 2))
        }
        _ => false,
    }
}
