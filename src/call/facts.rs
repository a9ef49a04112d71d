//! What the data plane saw of one call. Observed, not interpreted; handed to `meter` once, when the call has ended.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use compact_str::CompactString;

use super::{Caller, End, Finding, Fingerprint, KeyPlace, Money, Operation, Protocol, Usage, Way, label_enum};

/// Identity of a call in every sink: 32 hex digits, time-ordered (UUID version 7 without dashes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub u128);

impl CallId {
    /// A new id: milliseconds since the epoch in the first 48 bits, the rest random (RFC 9562 section 5.7).
    pub fn new(now: SystemTime) -> Self {
        let millis = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis()) & 0xffff_ffff_ffff;
        let random = (fastrand::u128(..1 << 12) << 64) | fastrand::u128(..1 << 62);
        Self(millis << 80 | 0x7 << 76 | 0b10 << 62 | random)
    }
}

impl std::fmt::Display for CallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The span that this call will be, and its parent (W3C Trace Context).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// Never zero once set.
    pub trace_id: u128,
    /// Never zero once set.
    pub span_id: u64,
    /// The caller's span, when a valid `traceparent` arrived.
    pub parent_span_id: Option<u64>,
    /// The caller's sampling decision; `None` for a root.
    pub parent_sampled: Option<bool>,
    /// `tracestate` as it arrived, at most 512 bytes.
    pub trace_state: Option<String>,
    /// A `traceparent` arrived that could not be read.
    pub malformed: bool,
}

/// Everything seen of one call.
#[derive(Clone, Debug)]
pub struct CallFacts {
    /// See [`CallId`].
    pub call_id: CallId,
    /// When the request head had been read.
    pub started: SystemTime,
    /// The span to be.
    pub trace: TraceContext,
    /// How it came in.
    pub way: Way,
    /// Catalogue id, or `other`.
    pub provider: Arc<str>,
    /// Provider id in the price book; `None` when nothing there can price it.
    pub price_as: Option<Arc<str>>,
    /// The provider runs on the owner's own machines: no key is needed and calls are free.
    pub local: bool,
    /// The provider charges for what this route does.
    pub billed: bool,
    /// What the call asks for.
    pub operation: Operation,
    /// Its body's format.
    pub protocol: Protocol,
    /// The provider's host.
    pub server_address: Arc<str>,
    /// The provider's port.
    pub server_port: u16,
    /// The configured name of the application.
    pub client: Option<Arc<str>>,
    /// The process that calls, where it is on this machine and may be looked at.
    pub caller: Option<Arc<Caller>>,
    /// What was seen of the credential.
    pub key: KeyFacts,
    /// What was seen of the request.
    pub request: RequestFacts,
    /// What was seen of the answer's head; `None` when no HTTP answer came.
    pub response: Option<ResponseFacts>,
    /// What the protocol decoder understood of the answer's body.
    pub reply: Reply,
    /// How it ended.
    pub end: End,
    /// Set when keytally answered itself instead of the provider.
    pub generated: Option<GeneratedError>,
    /// Durations.
    pub timing: Timing,
}

/// What was seen of a credential; the key itself stays in the file that read it.
#[derive(Clone, Debug, Default)]
pub struct KeyFacts {
    /// `None` when no credential arrived.
    pub fingerprint: Option<Fingerprint>,
    /// Its length in bytes without white space around it.
    pub length: usize,
    /// Fingerprints and lengths of further credentials that arrived, and of a key that an account stands for; at most
    /// [`KeyFacts::MAX_OTHERS`]. Only for telling them from names.
    pub others: Vec<(Fingerprint, usize)>,
    /// Where it travelled.
    pub place: Option<KeyPlace>,
    /// Request-side findings that need no state.
    pub findings: Vec<Finding>,
    /// A short-lived token (OAuth, STS): its fingerprint is no lasting identity.
    pub short_lived: bool,
    /// Organization, project, resource or account as the request names it (header, path or host).
    pub account: Option<String>,
    /// `OpenAI-Organization` of the request, when it is an id (`org-…`).
    pub organization: Option<String>,
    /// `OpenAI-Project` of the request, when it is an id (`proj_…`).
    pub project: Option<String>,
}

impl KeyFacts {
    /// Most further credentials of which anything is kept.
    pub const MAX_OTHERS: usize = 8;
}

/// What was seen of the request. Texts are at most 256 bytes each.
#[derive(Clone, Debug, Default)]
pub struct RequestFacts {
    /// HTTP method.
    pub method: String,
    /// The model that the URL names (Gemini, Bedrock, Azure deployment).
    pub url_model: Option<String>,
    /// The address that was called, without query; `None` unless it was asked for.
    pub url: Option<String>,
    /// The model that the body names.
    pub model: Option<String>,
    /// The body (or URL) asks for a stream.
    pub stream: Option<bool>,
    /// `stream_options.include_usage`.
    pub include_usage: Option<bool>,
    /// Requested service tier.
    pub service_tier: Option<String>,
    /// Output cap, whatever its name.
    pub max_tokens: Option<u64>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Reasoning effort or level.
    pub reasoning_effort: Option<String>,
    /// Choices or images asked for (`n`).
    pub choice_count: Option<u64>,
    /// Hash of method, path and body, to recognise a repeated request. Never exported.
    pub hash: u64,
    /// Body bytes that passed.
    pub bytes: u64,
    /// Sample of the prompt's text for estimates. Never exported.
    pub prompt: TextSample,
    /// Retry number that the SDK states (`x-stainless-retry-count`, `amz-sdk-request`).
    pub sdk_retry_count: Option<u32>,
    /// What kind of client it says it is: first product of `User-Agent`, at most 64 bytes.
    pub user_agent: Option<String>,
    /// Body could not be read.
    pub unreadable: Option<Unreadable>,
}

/// Name in lower case and value of a header that is kept; short ones need no memory of their own.
pub type KeptHeader = (CompactString, CompactString);

/// What was seen of the answer's head.
#[derive(Clone, Debug, Default)]
pub struct ResponseFacts {
    /// HTTP status.
    pub status: u16,
    /// Allow-listed headers in lower case: request ids, limits, accounts, error class, tier, served model. Each value is
    /// at most 256 bytes; at most 64 of them.
    pub headers: Vec<KeptHeader>,
    /// Body bytes that passed.
    pub bytes: u64,
}

impl ResponseFacts {
    /// First value of a kept header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| **n == *name).map(|(_, v)| &**v)
    }
}

/// What a protocol decoder understood of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// The last usage seen, in normal form.
    pub usage: Option<Usage>,
    /// Usage of further models inside the same answer (Anthropic `iterations`), on top of `usage`.
    pub parts: Vec<UsagePart>,
    /// `usage` came from a chunk that keytally asked for.
    pub injected: bool,
    /// The answering model.
    pub model: Option<String>,
    /// The provider's id of the answer.
    pub id: Option<String>,
    /// Conversation or thread id on the wire.
    pub conversation_id: Option<String>,
    /// The tier that served it.
    pub service_tier: Option<String>,
    /// Finish reasons, one a choice, at most 16.
    pub finish_reasons: Vec<String>,
    /// The cost that the answer itself states.
    pub stated_cost: Option<Money>,
    /// The error, as JSON or text, decoded, at most 16 KiB. Never exported as it is.
    pub error: Option<ErrorFacts>,
    /// The answer was refused or cut for policy (finish reason, block reason).
    pub blocked: bool,
    /// The answer was a stream of events.
    pub stream: bool,
    /// The protocol's terminal event was seen, or the body is not a stream and was whole.
    pub terminal: bool,
    /// This usage belongs to an earlier call (a stored answer fetched again, a batch): not spend again.
    pub repeats_usage: bool,
    /// Sample of the output's text for estimates. Never exported.
    pub output: TextSample,
    /// Events that carried generated output.
    pub output_events: u64,
    /// The body could not be read.
    pub unreadable: Option<Unreadable>,
}

/// Usage of one more model inside an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct UsagePart {
    /// Its model; `None` means the answer's own.
    pub model: Option<String>,
    /// What it used.
    pub usage: Usage,
}

/// An error body as it came, decoded and cut. Provider errors echo keys: never show it unredacted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorFacts {
    /// At most 16 KiB.
    pub body: Vec<u8>,
    /// It came inside a 2xx answer.
    pub in_stream: bool,
}

/// The first bytes of a text and the length of all of it, enough to estimate tokens in bounded memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TextSample {
    kept: String,
    total_bytes: u64,
}

impl TextSample {
    /// Most text that is kept, bytes.
    pub const CAPACITY: usize = 8 * 1024;

    /// Adds text as it passes.
    pub fn push(&mut self, text: &str) {
        // Nothing follows a cut: what is kept is the beginning, however the text came in pieces.
        if self.kept.len() as u64 == self.total_bytes {
            let room = Self::CAPACITY.saturating_sub(self.kept.len());
            self.kept.push_str(&text[..text.floor_char_boundary(room)]);
        }
        self.total_bytes += text.len() as u64;
    }

    /// The kept beginning.
    pub fn kept(&self) -> &str {
        &self.kept
    }

    /// Bytes of the whole text.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

/// Shows lengths only: the text is a prompt or a completion.
impl std::fmt::Debug for TextSample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TextSample({} of {} bytes)", self.kept.len(), self.total_bytes)
    }
}

/// A limit as an answer states it.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// What it counts.
    pub resource: super::LimitResource,
    /// The whole allowance.
    pub limit: Option<f64>,
    /// What is left of it.
    pub remaining: Option<f64>,
    /// When it is whole again, from the answer on.
    pub reset: Option<Duration>,
}

/// Everything an answer says of limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// One entry a resource.
    pub limits: Vec<RateLimit>,
    /// The wait that the provider asks for.
    pub retry_after: Option<Duration>,
}

label_enum! {
    /// Why a body could not be read; the bytes passed all the same. The label values of `keytally_tap_overflows_total`.
    Unreadable {
        BodyLimit = "body_limit",
        EventLimit = "event_limit",
        DecodeError = "decode_error",
        UnsupportedEncoding = "unsupported_encoding",
    }
}

label_enum! {
    /// Why keytally answered in the provider's place, or why no answer came.
    GeneratedError {
        Dns = "dns",
        Connect = "connect",
        ConnectTimeout = "connect_timeout",
        Tls = "tls",
        Reset = "reset",
        ReadTimeout = "read_timeout",
        Proxy = "proxy",
        BadRequest = "bad_request",
        UnknownPrefix = "unknown_prefix",
        /// An address that nobody is connected to through keytally.
        Forbidden = "forbidden_target",
        Overloaded = "overloaded",
        Internal = "internal",
    }
}

/// When things happened, from the moment that the request head had been read.
#[derive(Clone, Debug, Default)]
pub struct Timing {
    /// To the last byte handed to the application, or to the end otherwise.
    pub total: Duration,
    /// To the answer's head.
    pub head: Option<Duration>,
    /// To the first event or body byte.
    pub first_byte: Option<Duration>,
    /// To the first event that carried generated output (streams).
    pub first_output: Option<Duration>,
    /// To the last event that carried generated output (streams).
    pub last_output: Option<Duration>,
    /// DNS, TCP and TLS of a connection made for this call; `None` when one was reused.
    pub connect: Option<Duration>,
    /// Added before the request was handed to the upstream connection.
    pub overhead_request: Duration,
    /// Added to the answer's head and body, summed.
    pub overhead_response: Duration,
    /// Longest pause over 10 s between two parts of a stream.
    pub stalled: Option<Duration>,
}
