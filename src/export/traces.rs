//! Call record to OpenTelemetry span: which calls get one, and every attribute that it can carry.
//!
//! Names are those of the GenAI semantic conventions and of `docs/spans.md`; [`ATTRIBUTES`] is the whole list, and nothing
//! outside it is written. A span is made when its call has ended, so that sampling can see the outcome. No header, body or
//! key comes here; texts are cut at 256 characters.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::call::{CallRecord, End, LimitResource, Money, Operation, Outcome, UsageSource, label_enum};

/// Instrumentation scope of every span; backends can drop by it.
pub const SCOPE: &str = "keytally";

/// Schema of the last GenAI conventions in the main OpenTelemetry repository.
pub(super) const SCHEMA_URL_1_41: &str = "https://opentelemetry.io/schemas/1.41.0";

/// Longest text in an attribute, characters: ids and model names are far shorter.
const MAX_TEXT_CHARS: usize = 256;

/// Type of an attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    String,
    /// A list of texts.
    Strings,
    /// A signed 64-bit integer.
    Int,
    /// A 64-bit float.
    Double,
    /// A truth value.
    Bool,
}

impl Kind {
    /// As `docs/spans.md` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Strings => "string[]",
            Kind::Int => "int",
            Kind::Double => "double",
            Kind::Bool => "bool",
        }
    }
}

macro_rules! attributes {
    ($($ident:ident: $kind:ident = $name:literal),+ $(,)?) => {
        $(const $ident: &str = $name;)+

        /// Every attribute that a span or its event can carry, with its type. A name that ends in `.*` stands for the
        /// names that the configuration's `labels` make.
        pub const ATTRIBUTES: &[(&str, Kind)] = &[$(($name, Kind::$kind)),+];
    };
}

attributes! {
    OPERATION: String = "gen_ai.operation.name",
    PROVIDER: String = "gen_ai.provider.name",
    REQUEST_MODEL: String = "gen_ai.request.model",
    RESPONSE_MODEL: String = "gen_ai.response.model",
    REQUEST_STREAM: Bool = "gen_ai.request.stream",
    REQUEST_MAX_TOKENS: Int = "gen_ai.request.max_tokens",
    REQUEST_CHOICE_COUNT: Int = "gen_ai.request.choice.count",
    REQUEST_TEMPERATURE: Double = "gen_ai.request.temperature",
    REQUEST_TOP_P: Double = "gen_ai.request.top_p",
    REQUEST_REASONING_LEVEL: String = "gen_ai.request.reasoning.level",
    RESPONSE_ID: String = "gen_ai.response.id",
    RESPONSE_FINISH_REASONS: Strings = "gen_ai.response.finish_reasons",
    RESPONSE_FIRST_CHUNK: Double = "gen_ai.response.time_to_first_chunk",
    USAGE_INPUT: Int = "gen_ai.usage.input_tokens",
    USAGE_OUTPUT: Int = "gen_ai.usage.output_tokens",
    USAGE_CACHE_READ: Int = "gen_ai.usage.cache_read.input_tokens",
    USAGE_CACHE_WRITE: Int = "gen_ai.usage.cache_write.input_tokens",
    USAGE_CACHE_CREATION: Int = "gen_ai.usage.cache_creation.input_tokens",
    USAGE_REASONING: Int = "gen_ai.usage.reasoning.output_tokens",
    USAGE_AUDIO_INPUT: Int = "gen_ai.usage.audio.input_tokens",
    USAGE_AUDIO_OUTPUT: Int = "gen_ai.usage.audio.output_tokens",
    USAGE_IMAGE_INPUT: Int = "gen_ai.usage.image.input_tokens",
    USAGE_IMAGE_OUTPUT: Int = "gen_ai.usage.image.output_tokens",
    USAGE_COST_AMOUNT: Double = "gen_ai.usage.cost.amount",
    USAGE_COST_CURRENCY: String = "gen_ai.usage.cost.currency",
    USAGE_COST_SOURCE: String = "gen_ai.usage.cost.source",
    CONVERSATION_ID: String = "gen_ai.conversation.id",
    OPENAI_REQUEST_TIER: String = "openai.request.service_tier",
    OPENAI_RESPONSE_TIER: String = "openai.response.service_tier",
    SERVER_ADDRESS: String = "server.address",
    SERVER_PORT: Int = "server.port",
    HTTP_METHOD: String = "http.request.method",
    HTTP_STATUS: Int = "http.response.status_code",
    URL_FULL: String = "url.full",
    ERROR_TYPE: String = "error.type",
    OUTCOME: String = "keytally.outcome",
    FAULT: String = "keytally.fault",
    ERROR_CODE: String = "keytally.error.code",
    ERROR_PROVIDER_TYPE: String = "keytally.error.provider_type",
    FIRST_FIX: String = "keytally.first_fix",
    KEY: String = "keytally.key",
    KEY_FINGERPRINT: String = "keytally.key.fingerprint",
    KEY_TEAM: String = "keytally.key.team",
    KEY_ENV: String = "keytally.key.env",
    ACCOUNT: String = "keytally.account",
    CLIENT: String = "keytally.client",
    LABELS: String = "keytally.labels.*",
    COST_USD: Double = "keytally.cost.usd",
    USAGE_SOURCE: String = "keytally.usage_source",
    UNPRICED_REASON: String = "keytally.unpriced_reason",
    STREAM_END: String = "keytally.stream.end",
    OVERHEAD: Double = "keytally.overhead_seconds",
    CONNECT: Double = "keytally.upstream_connect_seconds",
    RATELIMIT_REQUESTS: Int = "keytally.ratelimit.requests.remaining",
    RATELIMIT_TOKENS: Int = "keytally.ratelimit.tokens.remaining",
    RETRY_AFTER: Double = "keytally.ratelimit.retry_after_seconds",
    PROVIDER_REQUEST_ID: String = "keytally.provider_request_id",
    CALL_ID: String = "keytally.call_id",
    WAY: String = "keytally.way",
    RETRY_COUNT: Int = "keytally.retry_count",
    FINDINGS: Strings = "keytally.findings",
    STALLED_SECONDS: Double = "keytally.stream.stalled_seconds",
}

/// The one span event: a stream paused for more than 10 s.
pub const STALLED_EVENT: &str = "keytally.stream.stalled";

label_enum! {
    /// How much a span says.
    #[derive(Default)]
    Profile {
        /// Everything.
        #[default]
        Full = "full",
        /// No `gen_ai.usage.*`: for applications whose own spans carry the usage already.
        ErrorsAndCost = "errors_and_cost",
        /// No spans.
        Off = "off",
    }
}

label_enum! {
    /// Which version of the GenAI conventions the names follow.
    #[derive(Default)]
    Semconv {
        /// The newest draft.
        #[default]
        Latest = "latest",
        /// 1.41, the last version in the main OpenTelemetry repository.
        V1_41 = "1.41",
    }
}

/// Which calls get a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// The caller's decision comes first.
    pub parent_based: bool,
    /// Share of the others that is kept, 0 to 1, by trace id.
    pub ratio: f64,
    /// Keep a call outside the ratio when its outcome is not `ok` or a threshold below is reached.
    pub keep_notable: bool,
    /// Spend from which a call is notable.
    pub keep_cost: Money,
    /// Duration from which a call is notable.
    pub keep_duration: Duration,
    /// Keep failures although their caller decided against a span: such spans have no parent in the backend.
    pub keep_unsampled_errors: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            parent_based: true,
            ratio: 1.0,
            keep_notable: true,
            keep_cost: Money::from_femto(500_000_000_000_000),
            keep_duration: Duration::from_secs(60),
            keep_unsampled_errors: false,
        }
    }
}

impl Sampling {
    /// This call gets a span.
    pub fn keeps(&self, record: &CallRecord) -> bool {
        if self.parent_based {
            match record.trace.parent_sampled {
                Some(true) => return true,
                Some(false) => return self.keep_unsampled_errors && is_error(record),
                None => {}
            }
        }
        self.in_ratio(record.trace.trace_id)
            || self.keep_notable
                && (record.outcome != Outcome::Ok
                    || record.cost.is_some_and(|cost| cost >= self.keep_cost)
                    || record.timing.total >= self.keep_duration)
    }

    /// As the SDKs' `TraceIdRatioBased`: every process decides alike for one trace.
    fn in_ratio(&self, trace_id: u128) -> bool {
        self.ratio >= 1.0 || (trace_id as u64 >> 1) < (self.ratio.max(0.0) * (1u64 << 63) as f64) as u64
    }
}

/// A failure as seen from the client: not `ok`, not cut off by the application, not a refusal inside a good answer.
fn is_error(record: &CallRecord) -> bool {
    match record.outcome {
        Outcome::Ok | Outcome::ClientCancelled => false,
        Outcome::ContentBlocked => !record.status.is_some_and(|status| (200..300).contains(&status)),
        _ => true,
    }
}

/// Makes spans of call records.
#[derive(Clone, Debug)]
pub(super) struct Spans {
    pub profile: Profile,
    pub semconv: Semconv,
    server_span: bool,
    scope: InstrumentationScope,
}

impl Spans {
    pub fn new(profile: Profile, semconv: Semconv, server_span: bool) -> Self {
        let scope = InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION"));
        let scope = match semconv {
            Semconv::Latest => scope,
            Semconv::V1_41 => scope.with_schema_url(SCHEMA_URL_1_41),
        };
        Self { profile, semconv, server_span, scope: scope.build() }
    }

    /// The call's span, after its parent if this process makes that too.
    pub fn of(&self, record: &CallRecord) -> impl Iterator<Item = SpanData> + use<> {
        let mut span = self.span(record);
        let server = self.server_span.then(|| self.hop(record, &mut span));
        server.into_iter().chain([span])
    }

    /// The `SERVER` span, put between the call's span and its parent.
    fn hop(&self, record: &CallRecord, span: &mut SpanData) -> SpanData {
        let context = &span.span_context;
        let id = SpanId::from(super::trace_context::new_span_id());
        let failed = record.status.is_none_or(|status| status >= 500) && record.outcome != Outcome::ClientCancelled;
        let mut attributes = Attributes(Vec::with_capacity(5));
        attributes.text(HTTP_METHOD, method(&record.method));
        attributes.some_int(HTTP_STATUS, record.status.map(u64::from));
        if failed {
            attributes.word(ERROR_TYPE, record.outcome.as_str());
        }
        attributes.word(WAY, record.way.as_str());
        attributes.put(CALL_ID, record.call_id.to_string());
        let server = SpanData {
            span_context: SpanContext::new(
                context.trace_id(),
                id,
                TraceFlags::SAMPLED,
                false,
                context.trace_state().clone(),
            ),
            span_kind: SpanKind::Server,
            name: Cow::Owned(method(&record.method).to_owned()),
            attributes: attributes.0,
            events: SpanEvents::default(),
            status: if failed { Status::error("") } else { Status::Unset },
            ..span.clone()
        };
        span.parent_span_id = id;
        span.parent_span_is_remote = false;
        server
    }

    pub fn span(&self, record: &CallRecord) -> SpanData {
        let operation = operation(record.operation);
        let name = match &record.request_model {
            Some(model) => Cow::Owned(format!("{operation} {}", cut(model))),
            None => Cow::Borrowed(operation),
        };
        let end_time = record.time.checked_add(record.timing.total).unwrap_or(record.time);
        let mut events = SpanEvents::default();
        if let Some(stalled) = record.timing.stalled {
            let seconds = KeyValue::new(STALLED_SECONDS, stalled.as_secs_f64());
            // When the pause was is not recorded; the end of the span is the moment from which it is known.
            events.events.push(Event::new(STALLED_EVENT, end_time, vec![seconds], 0));
        }
        let trace_state = record.trace.trace_state.as_deref().and_then(|state| state.parse::<TraceState>().ok());
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(record.trace.trace_id),
                SpanId::from(record.trace.span_id),
                TraceFlags::SAMPLED,
                false,
                trace_state.unwrap_or_default(),
            ),
            parent_span_id: record.trace.parent_span_id.map_or(SpanId::INVALID, SpanId::from),
            parent_span_is_remote: record.trace.parent_span_id.is_some(),
            span_kind: SpanKind::Client,
            name,
            start_time: record.time,
            end_time,
            attributes: self.attributes(record, operation),
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            // No description: `error.type` says it, and providers' messages echo keys.
            status: if is_error(record) { Status::error("") } else { Status::Unset },
            instrumentation_scope: self.scope.clone(),
        }
    }

    fn attributes(&self, record: &CallRecord, operation: &'static str) -> Vec<KeyValue> {
        let mut to = Attributes(Vec::with_capacity(40));
        to.word(OPERATION, operation);
        to.text(PROVIDER, provider(&record.provider));
        to.some_text(REQUEST_MODEL, record.request_model.as_deref());
        to.text(SERVER_ADDRESS, &record.server_address);
        to.int(SERVER_PORT, u64::from(record.server_port));

        to.some_text(RESPONSE_MODEL, record.response_model.as_deref());
        if record.stream {
            to.put(REQUEST_STREAM, true);
        }
        to.some_int(REQUEST_MAX_TOKENS, record.max_tokens);
        to.some_int(REQUEST_CHOICE_COUNT, record.choice_count.filter(|count| *count != 1));
        to.some_double(REQUEST_TEMPERATURE, record.temperature);
        to.some_double(REQUEST_TOP_P, record.top_p);
        if self.semconv == Semconv::Latest {
            to.some_text(REQUEST_REASONING_LEVEL, record.reasoning_effort.as_deref());
        }
        to.some_text(RESPONSE_ID, record.response_id.as_deref());
        let unfinished = record.stream
            && matches!(record.end, End::Truncated | End::ClientCancelled | End::ErrorEvent | End::IdleTimeout);
        if record.finish_reasons.is_empty() && unfinished {
            to.texts(RESPONSE_FINISH_REASONS, ["error"].into_iter());
        } else {
            to.texts(RESPONSE_FINISH_REASONS, record.finish_reasons.iter().map(String::as_str));
        }
        if record.stream {
            to.some_double(RESPONSE_FIRST_CHUNK, record.timing.first_byte.as_ref().map(Duration::as_secs_f64));
        }
        if self.profile == Profile::Full {
            self.usage(record, &mut to);
        }
        to.some_text(CONVERSATION_ID, record.conversation_id.as_deref());
        if matches!(&*record.provider, "openai" | "azure_openai") {
            to.some_text(OPENAI_REQUEST_TIER, record.request_service_tier.as_deref());
            // An answer that names no tier leaves the requested one in the record.
            let answered = record.usage_source == UsageSource::Reported
                || record.service_tier.as_ref() != record.request_service_tier.as_ref();
            to.some_text(OPENAI_RESPONSE_TIER, record.service_tier.as_deref().filter(|_| answered));
        }
        to.text(HTTP_METHOD, method(&record.method));
        to.some_int(HTTP_STATUS, record.status.map(u64::from));
        to.some_text(URL_FULL, record.url.as_deref());

        if is_error(record) {
            to.word(ERROR_TYPE, record.outcome.as_str());
        }
        to.word(OUTCOME, record.outcome.as_str());
        to.word(FAULT, record.fault.as_str());
        if record.outcome != Outcome::Ok {
            to.some_text(FIRST_FIX, record.first_fix.as_deref());
        }
        to.some_text(ERROR_CODE, record.error_code.as_deref());
        to.some_text(ERROR_PROVIDER_TYPE, record.error_type.as_deref());
        if record.key_name.is_some() || record.key.is_some() {
            to.text(KEY, record.key_label());
        }
        to.some_text(KEY_FINGERPRINT, record.key.as_ref().map(|key| key.as_str()));
        to.some_text(KEY_TEAM, record.team.as_deref());
        to.some_text(KEY_ENV, record.env.as_deref());
        to.some_text(ACCOUNT, record.account.as_deref());
        to.some_text(CLIENT, record.client.as_deref());
        for (name, value) in record.labels.iter() {
            let prefix = LABELS.trim_end_matches('*');
            to.put(format!("{prefix}{}", cut(name)), Value::from(cut(value).to_owned()));
        }
        to.some_double(COST_USD, record.cost.map(Money::as_f64));
        to.word(USAGE_SOURCE, record.usage_source.as_str());
        if let Some(reason) = record.unpriced_reason.filter(|_| record.cost.is_none()) {
            to.word(UNPRICED_REASON, reason.as_str());
        }
        if record.stream && (unfinished || record.end == End::Complete) {
            to.word(STREAM_END, record.end.as_str());
        }
        to.some_double(OVERHEAD, Some(record.overhead().as_secs_f64()));
        to.some_double(CONNECT, record.timing.connect.as_ref().map(Duration::as_secs_f64));
        for (name, resource) in
            [(RATELIMIT_REQUESTS, LimitResource::Requests), (RATELIMIT_TOKENS, LimitResource::Tokens)]
        {
            let limit = record.limits.limits.iter().find(|limit| limit.resource == resource);
            // Negative "remaining" has been seen; it says nothing.
            let remaining = limit.and_then(|limit| limit.remaining).filter(|left| left.is_finite() && *left >= 0.0);
            to.some_int(name, remaining.map(|left| left as u64));
        }
        to.some_double(RETRY_AFTER, record.limits.retry_after.as_ref().map(Duration::as_secs_f64));
        to.some_text(PROVIDER_REQUEST_ID, record.provider_request_id.as_deref());
        to.put(CALL_ID, record.call_id.to_string());
        to.word(WAY, record.way.as_str());
        to.some_int(RETRY_COUNT, (record.retry_count > 0).then_some(u64::from(record.retry_count)));
        to.texts(FINDINGS, record.findings.iter().map(|finding| finding.as_str()));
        to.0
    }

    /// Totals include cache and reasoning, as the conventions have it; parts only where they are known.
    fn usage(&self, record: &CallRecord, to: &mut Attributes) {
        let usage = &record.usage;
        to.some_int(USAGE_INPUT, usage.input_tokens);
        to.some_int(USAGE_OUTPUT, usage.output_tokens);
        to.some_int(USAGE_CACHE_READ, usage.cache_read_tokens);
        to.some_int(USAGE_REASONING, usage.reasoning_tokens);
        match self.semconv {
            Semconv::V1_41 => to.some_int(USAGE_CACHE_CREATION, usage.cache_write_tokens),
            Semconv::Latest => {
                to.some_int(USAGE_CACHE_WRITE, usage.cache_write_tokens);
                to.some_int(USAGE_AUDIO_INPUT, usage.input_audio_tokens);
                to.some_int(USAGE_AUDIO_OUTPUT, usage.output_audio_tokens);
                to.some_int(USAGE_IMAGE_INPUT, usage.input_image_tokens);
                to.some_int(USAGE_IMAGE_OUTPUT, usage.output_image_tokens);
                if let Some(cost) = record.cost {
                    to.some_double(USAGE_COST_AMOUNT, Some(cost.as_f64()));
                    to.word(USAGE_COST_CURRENCY, "USD");
                    to.word(USAGE_COST_SOURCE, if record.cost_stated { "provider" } else { "local" });
                }
            }
        }
    }
}

/// Attributes of one span. A value that is not known writes nothing.
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn put(&mut self, name: impl Into<opentelemetry::Key>, value: impl Into<Value>) {
        self.0.push(KeyValue::new(name, value));
    }

    /// A text of the program's own, which need not be copied.
    fn word(&mut self, name: &'static str, word: &'static str) {
        self.put(name, word);
    }

    fn text(&mut self, name: &'static str, text: &str) {
        self.put(name, cut(text).to_owned());
    }

    fn some_text(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn texts<'a>(&mut self, name: &'static str, texts: impl Iterator<Item = &'a str>) {
        let texts: Vec<StringValue> = texts.map(|text| cut(text).to_owned().into()).collect();
        if !texts.is_empty() {
            self.put(name, Value::Array(Array::String(texts)));
        }
    }

    fn int(&mut self, name: &'static str, number: u64) {
        self.put(name, i64::try_from(number).unwrap_or(i64::MAX));
    }

    fn some_int(&mut self, name: &'static str, number: Option<u64>) {
        if let Some(number) = number {
            self.int(name, number);
        }
    }

    fn some_double(&mut self, name: &'static str, number: Option<f64>) {
        if let Some(number) = number.filter(|number| number.is_finite()) {
            self.put(name, number);
        }
    }
}

fn cut(text: &str) -> &str {
    // A character takes at least a byte.
    if text.len() <= MAX_TEXT_CHARS {
        return text;
    }
    text.char_indices().nth(MAX_TEXT_CHARS).map_or(text, |(end, _)| &text[..end])
}

/// `gen_ai.operation.name`: the conventions' word where there is one.
fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Chat | Operation::Responses | Operation::Messages => "chat",
        other => other.as_str(),
    }
}

/// `gen_ai.provider.name`: the conventions' well-known value, else the catalogue id
/// (<https://github.com/open-telemetry/semantic-conventions-genai>, registry, read 2026-09).
fn provider(id: &str) -> &str {
    match id {
        "azure_openai" => "azure.ai.openai",
        "bedrock" => "aws.bedrock",
        "gemini" => "gcp.gemini",
        "vertex" => "gcp.vertex_ai",
        "watsonx" => "ibm.watsonx.ai",
        "mistral" => "mistral_ai",
        "moonshot" => "moonshot_ai",
        "xai" => "x_ai",
        other => other,
    }
}

/// `http.request.method`: a method that HTTP does not know is the client's own text, so it becomes `_OTHER`.
fn method(method: &str) -> &str {
    match method {
        "GET" | "POST" | "PUT" | "DELETE" | "PATCH" | "HEAD" | "OPTIONS" | "CONNECT" | "TRACE" | "QUERY" => method,
        _ => "_OTHER",
    }
}
