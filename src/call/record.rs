//! The call record: the one thing that crosses from data plane to exporters. Finished once, plain data, no secrets.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{
    CallId, Caller, End, Fault, Finding, Fingerprint, Limits, Money, Operation, Outcome, Protocol, Timing,
    TraceContext, Unreadable, Usage, UsageSource, Way, label_enum,
};

label_enum! {
    /// Why a call with usage has no price.
    UnpricedReason {
        /// The answer carried no usage and none could be estimated.
        NoUsage = "no_usage",
        /// No model is known.
        NoModel = "no_model",
        /// The price book does not know the model.
        UnknownModel = "unknown_model",
        /// The price book does not know the provider.
        UnknownProvider = "unknown_provider",
        /// The book has no price for any unit that was used.
        NoRate = "no_rate",
        /// Configured as free (local models).
        Free = "free",
        /// This usage was billed with an earlier call.
        RepeatedUsage = "repeated_usage",
        /// This operation is not billed.
        NotBilled = "not_billed",
    }
}

/// One finished call, understood. `docs/call-record.md` lists the JSON fields that it is written as.
#[derive(Clone, Debug)]
pub struct CallRecord {
    /// When the request head had been read.
    pub time: SystemTime,
    /// See [`CallId`].
    pub call_id: CallId,
    /// Span identity.
    pub trace: TraceContext,
    /// How it came in.
    pub way: Way,
    /// Catalogue id, or `other`.
    pub provider: Arc<str>,
    /// What was asked for.
    pub operation: Operation,
    /// In which format.
    pub protocol: Protocol,
    /// The provider's host.
    pub server_address: Arc<str>,
    /// The provider's port.
    pub server_port: u16,
    /// HTTP method.
    pub method: String,
    /// The address that was called, without query; `None` unless it was asked for.
    pub url: Option<String>,
    /// Model asked for.
    pub request_model: Option<String>,
    /// Model that answered.
    pub response_model: Option<String>,
    /// Id in the price book that the spend was computed with.
    pub priced_model: Option<String>,
    /// Model as a bounded label: see `docs/metrics.md`.
    pub model_label: Arc<str>,
    /// The key.
    pub key: Option<Fingerprint>,
    /// Its configured name.
    pub key_name: Option<Arc<str>>,
    /// Its configured team.
    pub team: Option<Arc<str>>,
    /// Its configured environment.
    pub env: Option<Arc<str>>,
    /// Who calls: the configured name of the application, else the name of `caller`.
    pub client: Option<Arc<str>>,
    /// The process that calls.
    pub caller: Option<Arc<Caller>>,
    /// Constant labels from config.
    pub labels: Arc<[(String, String)]>,
    /// Organization, project or resource, hashed to 8 hex digits or named in config; `None` until an answer tells.
    pub account: Option<Arc<str>>,
    /// HTTP status; `None` when no answer came.
    pub status: Option<u16>,
    /// What became of it.
    pub outcome: Outcome,
    /// Whose side must act.
    pub fault: Fault,
    /// Sending the same again can help.
    pub retryable: bool,
    /// Id of the first fix; its text is in the rules.
    pub first_fix: Option<Arc<str>>,
    /// The provider's own error type, redacted, at most 64 characters.
    pub error_type: Option<String>,
    /// The provider's own error code, redacted, at most 64 characters.
    pub error_code: Option<String>,
    /// The provider's id of the exchange.
    pub provider_request_id: Option<String>,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
    /// Conversation or thread id on the wire.
    pub conversation_id: Option<String>,
    /// Finish reasons.
    pub finish_reasons: Vec<String>,
    /// The answer was (or was asked to be) a stream.
    pub stream: bool,
    /// How it ended.
    pub end: End,
    /// Usage, whole: parts of further models added.
    pub usage: Usage,
    /// Where `usage` comes from.
    pub usage_source: UsageSource,
    /// Spend; `None` when unpriced.
    pub cost: Option<Money>,
    /// The provider stated `cost` itself.
    pub cost_stated: bool,
    /// At least one kind of token had no price.
    pub partly_priced: bool,
    /// Tokens of those kinds; 0 for a call without any price, all of whose tokens are unpriced.
    pub unpriced_tokens: u64,
    /// Why there is no cost.
    pub unpriced_reason: Option<UnpricedReason>,
    /// Tier that served it (else the tier asked for).
    pub service_tier: Option<String>,
    /// Tier asked for.
    pub request_service_tier: Option<String>,
    /// Request parameters for the span.
    pub max_tokens: Option<u64>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Reasoning effort.
    pub reasoning_effort: Option<String>,
    /// Choices asked for.
    pub choice_count: Option<u64>,
    /// Durations.
    pub timing: Timing,
    /// Request body bytes.
    pub request_bytes: u64,
    /// Response body bytes.
    pub response_bytes: u64,
    /// How often this same request was seen just before.
    pub retry_count: u32,
    /// What can be said of the key.
    pub findings: Vec<Finding>,
    /// Limits that the answer stated.
    pub limits: Limits,
    /// Why a body could not be read.
    pub unreadable: Option<Unreadable>,
}

impl CallRecord {
    /// Label value of the key: configured name, else fingerprint, else `none`.
    pub fn key_label(&self) -> &str {
        self.key_name.as_deref().or(self.key.as_ref().map(Fingerprint::as_str)).unwrap_or("none")
    }

    /// Name of the model that totals go by: the bounded label of metrics; where that says nothing, what answered or was
    /// asked for.
    pub fn model(&self) -> Option<&str> {
        match &*self.model_label {
            "" | "other" | "unconfirmed" | "none" => self.response_model.as_deref().or(self.request_model.as_deref()),
            label => Some(label),
        }
    }

    /// Time added by the sidecar.
    pub fn overhead(&self) -> Duration {
        self.timing.overhead_request + self.timing.overhead_response
    }

    /// Seconds between output tokens of a stream: `None` unless usage is reported and at least two visible ones came.
    pub fn time_per_output_token(&self) -> Option<f64> {
        let (first, last) = (self.timing.first_output?, self.timing.last_output?);
        let visible = self.usage.output_tokens?.checked_sub(self.usage.reasoning_tokens.unwrap_or(0))?;
        let reported = matches!(self.usage_source, UsageSource::Reported | UsageSource::Injected);
        (self.stream && reported && visible >= 2)
            .then(|| last.saturating_sub(first).as_secs_f64() / (visible - 1) as f64)
    }
}
