//! What became of a call: evidence in, [`Verdict`] out.
//!
//! The first rule that matches wins: the user's rules, then the built-in ones of `outcomes.json`, which are kept as data
//! with their precedence (capacity before money, caps before credit, money before rate limits, message before status).
//! [`Rules::classify`] decides; `classify/rules.rs` reads and compiles rules; `unwrap.rs` reads error bodies.
//! Pure: no clock, no I/O. A call without an error costs two comparisons; an error costs some ten microseconds.

mod explain;
mod patterns;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::call::{CallFacts, End, Fault, GeneratedError, KeptHeader, Outcome, Retry};

use super::redact::{printable, redact};
use super::unwrap::{Unwrapped, unwrap};

pub use explain::{Alternative, Explained, Reason};
use rules::Rule;
pub use rules::{RuleError, Rules};

/// Longest error code and error type in a verdict, characters.
const CODE_CHARS: usize = 64;

/// What is known of a finished call. Plain inputs, so that a pasted error body can be classified without a call.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    /// Catalogue id, or anything else for an unknown host.
    pub provider: &'a str,
    /// HTTP status; `None` when no answer came.
    pub status: Option<u16>,
    /// Kept response headers, names in lower case.
    pub headers: &'a [KeptHeader],
    /// The error body, decoded; `None` when there was none.
    pub error_body: Option<&'a [u8]>,
    /// The error came inside a 2xx answer.
    pub in_stream: bool,
    /// How the call ended.
    pub end: End,
    /// keytally answered itself.
    pub generated: Option<GeneratedError>,
    /// The answer was refused or cut for policy.
    pub blocked: bool,
    /// The request carried a credential.
    pub credential_present: bool,
    /// The provider runs on the owner's own machines.
    pub local: bool,
    /// The answer's body could not be read.
    pub unreadable: bool,
}

/// A whole answer with a credential and nothing else known.
impl Default for Evidence<'_> {
    fn default() -> Self {
        Self {
            provider: "",
            status: None,
            headers: &[],
            error_body: None,
            in_stream: false,
            end: End::Complete,
            generated: None,
            blocked: false,
            credential_present: true,
            local: false,
            unreadable: false,
        }
    }
}

/// Shows no header value and no body: both may hold keys.
impl std::fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence")
            .field("provider", &self.provider)
            .field("status", &self.status)
            .field("end", &self.end)
            .field("error_body_bytes", &self.error_body.map(<[u8]>::len))
            .finish_non_exhaustive()
    }
}

impl<'a> From<&'a CallFacts> for Evidence<'a> {
    fn from(facts: &'a CallFacts) -> Self {
        let error = facts.reply.error.as_ref();
        Self {
            provider: &facts.provider,
            status: facts.response.as_ref().map(|response| response.status),
            headers: facts.response.as_ref().map_or(&[], |response| &response.headers),
            error_body: error.map(|error| &*error.body),
            in_stream: error.is_some_and(|error| error.in_stream),
            end: facts.end,
            generated: facts.generated,
            blocked: facts.reply.blocked,
            credential_present: facts.key.place.is_some() || facts.key.fingerprint.is_some(),
            local: facts.local,
            unreadable: facts.reply.unreadable.is_some(),
        }
    }
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// From the status alone.
    Low,
    /// From words that may mean something else.
    Medium,
    /// From a code or words with one meaning.
    High,
}

impl Confidence {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// What became of a call and what to do about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The outcome.
    pub outcome: Outcome,
    /// Whose side must act.
    pub fault: Fault,
    /// Whether the same request can be sent again.
    pub retry: Retry,
    /// Id of the first fix; [`Rules::fix`] has its text.
    pub first_fix: Arc<str>,
    /// Which rule said so.
    pub rule: Arc<str>,
    /// The provider's own error type, redacted.
    pub error_type: Option<String>,
    /// The provider's own error code, redacted.
    pub error_code: Option<String>,
    /// Hash of the message without digits and quoted parts, when no rule knew the message: counts new kinds.
    pub shape_hash: Option<u64>,
    /// How sure.
    pub confidence: Confidence,
    /// What else it may be.
    pub also_possible: Vec<Outcome>,
}

impl Rules {
    /// Decides what became of a call. Always answers.
    pub fn classify(&self, evidence: &Evidence) -> Verdict {
        match read(evidence) {
            Read::Ending(ending) => self.verdict(self.ending(ending), evidence),
            Read::Error(body) => self.error(evidence, body),
        }
    }

    fn error(&self, evidence: &Evidence, body: Unwrapped) -> Verdict {
        let scope = self.scope(evidence, &body);
        let rule = self.first_match(&scope);
        let mut verdict = self.verdict(rule, evidence);
        verdict.retry = match header(evidence, "x-should-retry") {
            Some("false") => Retry::Never,
            Some("true") if !verdict.retry.is_retryable() => Retry::Backoff,
            _ if asks_beyond_limit(&body.text) && verdict.retry == Retry::AfterHint => Retry::Never,
            _ => verdict.retry,
        };
        if rule.by_status_only() || verdict.outcome == Outcome::UnknownError {
            verdict.shape_hash = (!body.text.is_empty()).then(|| shape_hash(&body.text));
        }
        verdict.error_type = body.error_type.map(shown);
        verdict.error_code = body.error_code.map(shown);
        verdict
    }

    fn verdict(&self, rule: &Rule, evidence: &Evidence) -> Verdict {
        let local_gateway = rule.outcome == Outcome::GatewayError && evidence.local;
        Verdict {
            outcome: rule.outcome,
            fault: if local_gateway { Fault::Network } else { rule.fault },
            retry: rule.retry,
            first_fix: rule.fix.clone(),
            rule: rule.id.clone(),
            error_type: None,
            error_code: None,
            shape_hash: None,
            confidence: if evidence.unreadable { Confidence::Low } else { rule.confidence },
            also_possible: rule.also.clone(),
        }
    }
}

/// What there is to be decided on.
enum Read {
    /// No error body, or none that counts.
    Ending(Ending),
    /// An error, unwrapped.
    Error(Unwrapped),
}

fn read(evidence: &Evidence) -> Read {
    if let Some(generated) = evidence.generated {
        return Read::Ending(Ending::Generated(generated));
    }
    let failed = evidence.status.is_some_and(|status| status >= 400);
    if !failed && evidence.error_body.is_none() {
        return Read::Ending(Ending::of(evidence));
    }
    let mut body = unwrap(evidence.error_body.unwrap_or_default(), failed || evidence.in_stream);
    if !failed && !body.is_error && !matches!(body.kind, super::unwrap::Kind::Html) {
        return Read::Ending(Ending::of(evidence));
    }
    if let Some(named) = header(evidence, "x-amzn-errortype") {
        let name = named.split(':').next().unwrap_or(named).trim();
        body.error_type = Some(name.to_string());
        body.codes.push(name.to_string());
    }
    Read::Error(body)
}

/// Ends of a call that are told without reading a body: rule 1 of the taxonomy and the answers without an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ending {
    Ok,
    Blocked,
    Cancelled,
    Truncated,
    NoAnswer,
    /// An error event was seen, but not what it said.
    SilentError,
    Generated(GeneratedError),
}

impl Ending {
    fn of(evidence: &Evidence) -> Self {
        let answered = evidence.status.is_some();
        match evidence.end {
            End::Complete if !answered => Self::NoAnswer,
            End::Complete if evidence.blocked => Self::Blocked,
            End::Complete => Self::Ok,
            End::ClientCancelled => Self::Cancelled,
            End::Truncated => Self::Truncated,
            End::IdleTimeout if answered => Self::Truncated,
            End::IdleTimeout | End::NoAnswer | End::BodyError => Self::NoAnswer,
            End::ErrorEvent => Self::SilentError,
            End::Refused => Self::Generated(GeneratedError::Internal),
        }
    }

    /// Its rule's id in `outcomes.json`.
    pub(super) fn id(self) -> String {
        match self {
            Self::Ok => "ok".into(),
            Self::Blocked => "blocked".into(),
            Self::Cancelled => "cancelled".into(),
            Self::Truncated => "truncated".into(),
            Self::NoAnswer => "no-answer".into(),
            Self::SilentError => "silent-error".into(),
            Self::Generated(generated) => format!("sidecar-{}", generated.as_str()),
        }
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        [Self::Ok, Self::Blocked, Self::Cancelled, Self::Truncated, Self::NoAnswer, Self::SilentError]
            .into_iter()
            .chain(GeneratedError::ALL.iter().map(|generated| Self::Generated(*generated)))
    }
}

fn header<'a>(evidence: &Evidence<'a>, name: &str) -> Option<&'a str> {
    evidence.headers.iter().find(|(known, _)| &**known == name).map(|(_, value)| value.trim())
}

fn shown(code: String) -> String {
    let code = redact(&code);
    printable(&code).unwrap_or(code).chars().take(CODE_CHARS).collect()
}

/// "Limit 30000, Requested 30601" (OpenAI 429, Groq 413): no wait makes such a request fit.
fn asks_beyond_limit(text: &str) -> bool {
    let number = |word: &str| -> Option<u64> {
        let after = &text[text.find(word)? + word.len()..];
        let digits = after.trim_start_matches([':', ' ']);
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(digits.len());
        digits[..end].replace(',', "").parse().ok()
    };
    matches!((number("limit"), number("requested")), (Some(limit), Some(requested)) if limit > 0 && requested > limit)
        && !text.contains("used")
}

/// FNV-1a over the text without digits and quoted parts.
fn shape_hash(text: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut quote = None;
    for byte in text.bytes() {
        match quote {
            Some(open) if byte == open || byte == b'\n' => quote = None,
            Some(_) => continue,
            None if matches!(byte, b'"' | b'`') => quote = Some(byte),
            None if byte.is_ascii_digit() => continue,
            None => {}
        }
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
