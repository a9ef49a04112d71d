//! What real providers answered, as the simulated one repeats it: `recordings.jsonl` (answers) and `errors.jsonl`.
//!
//! In: one JSON object a line, each with the public project that recorded it. Out: [`Recording`]s, bodies cut into the
//! pieces that a stream arrives in. [`Recording::repeat`] changes three things, so that calls differ as real ones do: the
//! model becomes the one asked for, ids get a new end (one id twice is one answer fetched twice, which costs nothing), and
//! every token count is multiplied by one whole number, which keeps all sums right.

use std::sync::LazyLock;

use base64::Engine;
use bytes::Bytes;
use regex::bytes::{Captures, Regex};
use serde::Deserialize;

/// Answers and errors, read once.
pub static LIBRARY: LazyLock<Library> = LazyLock::new(|| Library {
    answers: read(include_str!("recordings.jsonl")).into_iter().map(Recording::new).collect(),
    errors: read(include_str!("errors.jsonl")),
});

fn read<T: serde::de::DeserializeOwned>(lines: &str) -> Vec<T> {
    lines.lines().map(|line| serde_json::from_str(line).expect("the embedded recordings are valid; tested")).collect()
}

/// Everything recorded.
#[derive(Debug)]
pub struct Library {
    answers: Vec<Recording>,
    errors: Vec<RecordedError>,
}

#[derive(Debug, Deserialize)]
struct RawRecording {
    provider: String,
    path: String,
    case: String,
    model: String,
    status: u16,
    headers: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    body: String,
    body_base64: Option<String>,
}

/// One recorded answer.
#[derive(Debug)]
pub struct Recording {
    /// Who gave it.
    pub provider: String,
    /// The last part of its path: what was asked for.
    pub verb: String,
    /// The model that was asked for.
    pub model: String,
    /// It came as a stream.
    pub stream: bool,
    /// It calls a tool.
    pub tools: bool,
    /// HTTP status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The answer's own id, as often as it is in the body.
    id: Option<String>,
    /// The body, in the pieces that its events make.
    pieces: Vec<Bytes>,
    /// The body may not be changed: its frames carry checksums.
    sealed: bool,
}

/// One recorded error. `{model}`, `{key}` and `{path}` in its body stand for what the request says.
#[derive(Debug, Deserialize)]
pub struct RecordedError {
    /// What went wrong, in this file's own words.
    pub kind: String,
    /// Who gave it.
    pub provider: String,
    /// HTTP status.
    pub status: u16,
    headers: serde_json::Map<String, serde_json::Value>,
    /// The body.
    pub body: String,
}

/// What a path asks for: what follows the last colon of its last segment, else that segment.
pub fn verb(path: &str) -> &str {
    let last = path.rsplit('/').next().unwrap_or(path);
    last.rsplit(':').next().unwrap_or(last)
}

// === impl Library ===

impl Library {
    /// The answer that fits best: same provider and verb, then stream, then tools. `None` for an unknown verb.
    pub fn answer(&self, provider: &str, path: &str, stream: bool, tools: bool) -> Option<&Recording> {
        let verb = verb(path);
        // xAI speaks OpenAI's format; nothing of its own was recorded.
        let provider = if provider == "xai" { "openai" } else { provider };
        let fits = self.answers.iter().filter(|one| one.provider == provider && one.verb == verb);
        fits.max_by_key(|one| (one.stream == stream, one.tools == tools))
    }

    /// An error of this kind, the provider's own when there is one, else OpenAI's, which most vendors copy.
    pub fn error(&self, kind: &str, provider: &str) -> Option<&RecordedError> {
        let of = |provider: &str| self.errors.iter().find(|one| one.kind == kind && one.provider == provider);
        of(provider).or_else(|| of("openai"))
    }
}

// === impl Recording ===

impl Recording {
    fn new(raw: RawRecording) -> Self {
        let sealed = raw.body_base64.is_some();
        let body = match raw.body_base64 {
            Some(text) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .expect("the embedded recordings are valid; tested"),
            None => raw.body.into_bytes(),
        };
        let headers = pairs(&raw.headers);
        let id = answer_id(&body);
        let pieces = pieces(&headers, Bytes::from(body));
        Self {
            verb: verb(&raw.path).to_owned(),
            stream: raw.case.ends_with("stream"),
            tools: raw.case.starts_with("tool"),
            provider: raw.provider,
            model: raw.model,
            status: raw.status,
            headers,
            id,
            pieces,
            sealed,
        }
    }

    /// Headers and body for a call that asked for `model`, its token counts times `factor`.
    pub fn repeat(&self, model: Option<&str>, factor: u64) -> (Vec<(String, String)>, Vec<Bytes>) {
        let ending = format!("{:08x}", fastrand::u32(..));
        let is_id = |name: &str| ["request-id", "requestid", "correlation-id"].iter().any(|end| name.ends_with(end));
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), if is_id(name) { with_ending(value, &ending) } else { value.clone() }));
        if self.sealed {
            return (headers.collect(), self.pieces.clone());
        }
        let model = model.filter(|model| *model != self.model);
        let id = self.id.as_ref().map(|id| (id.as_str(), with_ending(id, &ending)));
        let pieces = self.pieces.iter().map(|piece| rewrite(piece, model, factor, id.as_ref()));
        (headers.collect(), pieces.collect())
    }
}

/// An id whose last characters are others.
fn with_ending(id: &str, ending: &str) -> String {
    let kept = id.len().saturating_sub(ending.len());
    format!("{}{ending}", id.get(..kept).unwrap_or(""))
}

/// The answer's own id, where its format has one: in the body, or in a stream's first event.
fn answer_id(body: &[u8]) -> Option<String> {
    let start = memchr::memchr(b'{', body)?;
    let first = serde_json::Deserializer::from_slice(&body[start..]).into_iter::<serde_json::Value>().next()?.ok()?;
    let found = ["/id", "/responseId", "/message/id", "/response/id"].iter().find_map(|place| first.pointer(place));
    found?.as_str().map(str::to_owned)
}

fn rewrite(piece: &Bytes, model: Option<&str>, factor: u64, id: Option<&(&str, String)>) -> Bytes {
    static COUNT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r#""((?:prompt|completion|input|output|cached|reasoning|thinking|cache_creation_input|cache_read_input|prompt_cache_hit|prompt_cache_miss|ephemeral_5m_input|ephemeral_1h_input)_tokens|(?:prompt|candidates|total|thoughts|toolUsePrompt|cachedContent)TokenCount|tokenCount|(?:input|output|total)Tokens|total_tokens|(?:prompt_)?eval_count)"(\s*:\s*)(\d{1,9})"#,
        )
        .expect("a fixed pattern")
    });
    static MODEL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#""(model|modelVersion)"(\s*:\s*)"[^"\\]*""#).expect("a fixed pattern"));
    let counted = COUNT.replace_all(piece, |found: &Captures<'_>| {
        let count = std::str::from_utf8(&found[3]).ok().and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(0);
        let mut text = [b"\"".as_slice(), &found[1], b"\"", &found[2]].concat();
        text.extend_from_slice(count.saturating_mul(factor).to_string().as_bytes());
        text
    });
    let mut text = counted.into_owned();
    if let Some(model) = model {
        let name = serde_json::Value::from(model).to_string();
        let named = MODEL.replace_all(&text, |found: &Captures<'_>| {
            [b"\"".as_slice(), &found[1], b"\"", &found[2], name.as_bytes()].concat()
        });
        text = named.into_owned();
    }
    if let Some((old, new)) = id.filter(|(old, new)| old.len() == new.len()) {
        let found: Vec<_> = memchr::memmem::find_iter(&text, old.as_bytes()).collect();
        for at in found {
            text[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
    }
    Bytes::from(text)
}

// === impl RecordedError ===

impl RecordedError {
    /// Headers as they are sent.
    pub fn headers(&self) -> Vec<(String, String)> {
        pairs(&self.headers)
    }
}

fn pairs(map: &serde_json::Map<String, serde_json::Value>) -> Vec<(String, String)> {
    map.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// Cuts a body where its events end; a body that is no stream stays whole.
fn pieces(headers: &[(String, String)], body: Bytes) -> Vec<Bytes> {
    let kind = headers.iter().find(|(name, _)| name == "content-type").map_or("", |(_, value)| value);
    let end_of_event: fn(&[u8]) -> Option<usize> = if kind.starts_with("text/event-stream") {
        |rest| {
            let ends = [&b"\n\n"[..], &b"\r\n\r\n"[..]];
            ends.iter().filter_map(|end| Some(memchr::memmem::find(rest, end)? + end.len())).min()
        }
    } else if kind.starts_with("application/x-ndjson") {
        |rest| Some(memchr::memchr(b'\n', rest)? + 1)
    } else if kind.starts_with("application/vnd.amazon.eventstream") {
        // A frame opens with its whole length (AWS event stream encoding).
        |rest| Some(u32::from_be_bytes(*rest.first_chunk()?) as usize)
    } else {
        |_| None
    };
    let mut rest = body;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let end = end_of_event(&rest).filter(|end| (1..=rest.len()).contains(end)).unwrap_or(rest.len());
        pieces.push(rest.split_to(end));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::super::story::ACTORS;
    use super::*;

    #[test]
    fn every_call_of_the_story_has_a_recording_of_its_kind() {
        for actor in ACTORS {
            for call in actor.calls {
                let path = super::super::traffic::path(actor.provider, call);
                let path = path.split('?').next().unwrap_or_default();
                let found = LIBRARY.answer(actor.provider, path, call.stream, call.tools);
                let found = found.unwrap_or_else(|| panic!("{} {path}: nothing recorded", actor.name));
                assert_eq!((found.stream, found.tools), (call.stream, call.tools), "{} {path}", actor.name);
            }
        }
    }

    #[test]
    fn pieces_put_together_are_the_recording() {
        for one in &LIBRARY.answers {
            assert!(!one.pieces.is_empty(), "{} {}", one.provider, one.verb);
            assert_eq!(
                one.stream,
                one.pieces.len() > 1,
                "{} {} in {} pieces",
                one.provider,
                one.verb,
                one.pieces.len()
            );
            let (_, repeated) = one.repeat(None, 1);
            assert_eq!(repeated.concat().len(), one.pieces.concat().len());
            let id = one.id.as_deref().unwrap_or("there is none");
            let again = |pieces: &[Bytes]| memchr::memmem::find(&pieces.concat(), id.as_bytes()).is_some();
            assert!(one.id.is_none() || (again(&one.pieces) && !again(&repeated)), "{} {id}", one.provider);
            assert!(
                one.id.is_some()
                    || matches!(one.provider.as_str(), "bedrock" | "ollama" | "gemini")
                    || one.verb == "embeddings"
            );
        }
    }

    #[test]
    fn counts_are_multiplied_and_the_model_is_renamed() {
        let body = Bytes::from_static(
            br#"{"model":"gpt-5-2025","usage":{"prompt_tokens": 12,"completion_tokens":3,"total_tokens":15},"max_tokens":9}"#,
        );
        assert_eq!(
            rewrite(&body, Some("gpt-4.1"), 4, None),
            &br#"{"model":"gpt-4.1","usage":{"prompt_tokens": 48,"completion_tokens":12,"total_tokens":60},"max_tokens":9}"#[..]
        );
        assert_eq!(rewrite(&body, None, 1, None), body);
    }

    #[test]
    fn nothing_recorded_looks_like_a_key() {
        let all = [include_str!("recordings.jsonl"), include_str!("errors.jsonl")].concat();
        let key =
            regex::Regex::new(r"sk-[A-Za-z0-9_-]{12,}|AIza[A-Za-z0-9_-]{30,}|gsk_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}");
        let found = key.expect("a fixed pattern").find(&all).map(|found| found.start());
        assert_eq!(found, None, "byte offset of something like a key");
    }

    #[test]
    fn the_providers_own_error_comes_first() {
        let own = LIBRARY.error("key-refused", "mistral").map(|error| error.provider.as_str());
        let copied = LIBRARY.error("key-refused", "groq").map(|error| error.provider.as_str());
        assert_eq!((own, copied), (Some("mistral"), Some("openai")));
        assert!(LIBRARY.error("no such kind", "openai").is_none());
    }
}
