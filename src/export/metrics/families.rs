//! Every Prometheus family: name, type, unit, labels, buckets, help text. Data only.
//!
//! `metrics.yaml` beside this file is the published list; a test holds the two together. A name, type, unit or label of
//! a stable family changes only in a major version.

pub use crate::call::{AcceptPause, ForwardRefusal, HandshakeEnd, Unread};
pub use crate::export::{DropReason, Signal};

use crate::call::label_enum;

label_enum! {
    /// Prometheus type of a family.
    Kind { Counter = "counter", Gauge = "gauge", Histogram = "histogram" }
}

label_enum! {
    /// Whether a family is part of the stable interface.
    Stability {
        /// Name, type, unit, labels and meaning stay until the next major version.
        Stable = "stable",
        /// May change in a minor version.
        Experimental = "experimental",
    }
}

/// One family. The order of `labels` is the order in which values are given.
#[derive(Debug)]
pub struct Family {
    /// Name as in text format 0.0.4: counters end in `_total`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Unit, always the end of the name without `_total`; empty when there is none.
    pub unit: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
    /// See [`Stability`].
    pub stability: Stability,
    /// Help text.
    pub help: &'static str,
}

impl Family {
    /// The name without a counter's `_total`, as OpenMetrics names a family.
    pub fn base_name(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }
}

/// Upper bound of a bucket: `le` as text, and as an integer in the histogram's own unit (nanoseconds or tokens).
///
/// The text is the OpenMetrics canonical number, which Prometheus 3 stores whatever it scrapes; both formats carry it,
/// so that they name the same series.
#[derive(Debug, PartialEq, Eq)]
pub struct Bound {
    /// Label value.
    pub le: &'static str,
    /// The same number.
    pub at: u64,
}

const fn nanos(le: &'static str, at: u64) -> Bound {
    Bound { le, at }
}

const MS: u64 = 1_000_000;

/// Request duration, seconds. Neighbours differ by at most 2, closer where most calls land; reasoning calls take minutes.
pub static DURATION_BUCKETS: [Bound; 14] = [
    nanos("0.1", 100 * MS),
    nanos("0.2", 200 * MS),
    nanos("0.35", 350 * MS),
    nanos("0.6", 600 * MS),
    nanos("1.0", 1_000 * MS),
    nanos("2.0", 2_000 * MS),
    nanos("4.0", 4_000 * MS),
    nanos("8.0", 8_000 * MS),
    nanos("15.0", 15_000 * MS),
    nanos("30.0", 30_000 * MS),
    nanos("60.0", 60_000 * MS),
    nanos("120.0", 120_000 * MS),
    nanos("240.0", 240_000 * MS),
    nanos("480.0", 480_000 * MS),
];

/// Time to first token, seconds.
pub static FIRST_TOKEN_BUCKETS: [Bound; 16] = [
    nanos("0.05", 50 * MS),
    nanos("0.1", 100 * MS),
    nanos("0.2", 200 * MS),
    nanos("0.3", 300 * MS),
    nanos("0.5", 500 * MS),
    nanos("0.75", 750 * MS),
    nanos("1.0", 1_000 * MS),
    nanos("1.5", 1_500 * MS),
    nanos("2.0", 2_000 * MS),
    nanos("3.0", 3_000 * MS),
    nanos("5.0", 5_000 * MS),
    nanos("8.0", 8_000 * MS),
    nanos("13.0", 13_000 * MS),
    nanos("20.0", 20_000 * MS),
    nanos("30.0", 30_000 * MS),
    nanos("60.0", 60_000 * MS),
];

/// Time between output tokens, seconds. Starts at 500 tokens a second.
pub static PER_TOKEN_BUCKETS: [Bound; 14] = [
    nanos("0.002", 2 * MS),
    nanos("0.004", 4 * MS),
    nanos("0.007", 7 * MS),
    nanos("0.01", 10 * MS),
    nanos("0.015", 15 * MS),
    nanos("0.02", 20 * MS),
    nanos("0.03", 30 * MS),
    nanos("0.04", 40 * MS),
    nanos("0.06", 60 * MS),
    nanos("0.08", 80 * MS),
    nanos("0.12", 120 * MS),
    nanos("0.2", 200 * MS),
    nanos("0.4", 400 * MS),
    nanos("0.8", 800 * MS),
];

/// Tokens of one call, factors of 4 of 1024.
pub static SIZE_BUCKETS: [Bound; 9] = [
    nanos("16.0", 16),
    nanos("64.0", 64),
    nanos("256.0", 256),
    nanos("1024.0", 1 << 10),
    nanos("4096.0", 4 << 10),
    nanos("16384.0", 16 << 10),
    nanos("65536.0", 64 << 10),
    nanos("262144.0", 256 << 10),
    nanos("1.048576e+06", 1 << 20),
];

/// Time that the sidecar adds, seconds.
pub static OVERHEAD_BUCKETS: [Bound; 10] = [
    nanos("5e-05", 50_000),
    nanos("0.0001", 100_000),
    nanos("0.00025", 250_000),
    nanos("0.0005", 500_000),
    nanos("0.001", MS),
    nanos("0.0025", 2_500_000),
    nanos("0.005", 5 * MS),
    nanos("0.01", 10 * MS),
    nanos("0.025", 25 * MS),
    nanos("0.1", 100 * MS),
];

macro_rules! families {
    ($($id:ident = $kind:ident $stability:ident $name:literal, $unit:literal, [$($label:literal),*], $help:literal;)+) => {
        $(#[doc = concat!("`", $name, "`")]
        pub static $id: Family = Family {
            name: $name,
            kind: Kind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            stability: Stability::$stability,
            help: $help,
        };)+

        /// Every family, in the order in which they are written.
        pub static ALL: &[&Family] = &[$(&$id),+];
    };
}

families! {
    REQUESTS = Counter Stable "keytally_requests_total", "",
        ["key", "provider", "model", "operation", "outcome", "fault"],
        "Finished calls, counted when their end is known: an error event inside a 200 stream is an error.";
    IN_FLIGHT = Gauge Stable "keytally_requests_in_flight", "", ["provider"], "Calls open now.";
    DURATION = Histogram Stable "keytally_request_duration_seconds", "seconds", ["provider", "model", "result"],
        "From the request head read to the last byte handed to the application.";
    FIRST_TOKEN = Histogram Stable "keytally_time_to_first_token_seconds", "seconds", ["provider", "model"],
        "Streams: from the request head read to the first event with generated output of any kind.";
    PER_TOKEN = Histogram Stable "keytally_time_per_output_token_seconds", "seconds", ["provider", "model"],
        "Streams with reported usage and two or more visible output tokens: (last output event - first) / (tokens - 1).";
    HTTP_RESPONSES = Counter Stable "keytally_http_responses_total", "", ["provider", "code"],
        "Calls by raw HTTP status code, none when no answer came.";
    BODY_BYTES = Counter Stable "keytally_body_bytes_total", "bytes", ["provider", "direction"],
        "Body bytes on the wire.";
    TUNNELLED = Counter Experimental "keytally_tunnelled_connections_total", "", ["reason"],
        "Connections that passed unread.";
    TUNNEL_BYTES = Counter Experimental "keytally_tunnel_bytes_total", "bytes", ["provider", "direction"],
        "Bytes of connections that passed unread.";
    TUNNEL_SECONDS = Counter Experimental "keytally_tunnel_seconds_total", "seconds", ["provider"],
        "Time for which connections that passed unread were open, added when they end.";
    TUNNELS_OPEN = Gauge Experimental "keytally_tunnels_open", "", ["provider"],
        "Connections that pass unread now.";
    FORWARD_REFUSED = Counter Experimental "keytally_forward_refused_total", "", ["reason"],
        "Forward-proxy requests that were refused, or whose target could not be reached.";
    TLS_HANDSHAKES = Counter Experimental "keytally_tls_handshakes_total", "", ["result"],
        "TLS handshakes with applications; refused means that the application does not accept the local CA.";
    TOKENS = Counter Stable "keytally_tokens_total", "", ["key", "provider", "model", "type"],
        "Tokens; every token is in exactly one type.";
    REQUEST_TOKENS = Histogram Experimental "keytally_request_tokens", "", ["provider", "model", "direction"],
        "Tokens of one call, for percentiles; for totals use keytally_tokens_total.";
    SPEND = Counter Stable "keytally_spend_usd_total", "usd", ["key", "provider", "model", "usage_source"],
        "Spend in US dollars at the price in force at the time of the call, billed failures included.";
    USAGE_RECORDS = Counter Stable "keytally_usage_records_total", "", ["key", "provider", "model", "usage_source"],
        "Finished calls by where their token counts come from.";
    PRICING_LOOKUPS = Counter Stable "keytally_pricing_lookups_total", "", ["provider", "model", "status"],
        "Calls with something to price; partial means that at least one token type had no price.";
    UNPRICED_TOKENS = Counter Stable "keytally_unpriced_tokens_total", "", ["provider", "model"],
        "Tokens that added nothing to spend because no price was known.";
    BILLED_UNITS = Counter Experimental "keytally_billed_units_total", "", ["key", "provider", "model", "unit"],
        "What is billed by something else than tokens.";
    RATELIMIT_LIMIT = Gauge Stable "keytally_ratelimit_limit", "", ["provider", "account", "model", "resource"],
        "Limit as the provider last stated it.";
    RATELIMIT_REMAINING = Gauge Stable "keytally_ratelimit_remaining", "", ["provider", "account", "model", "resource"],
        "What was left of the limit, as last stated.";
    RATELIMIT_HEADROOM = Gauge Stable "keytally_ratelimit_headroom_ratio", "ratio",
        ["provider", "account", "model", "resource"],
        "Lowest remaining / limit of the last 60 seconds.";
    KEY_INFO = Gauge Stable "keytally_key_info", "",
        ["key", "provider", "fingerprint", "account", "team", "env", "named"],
        "Always 1; joins a key to its account, team and environment.";
    KEY_UP = Gauge Stable "keytally_key_up", "", ["key", "provider"],
        "Last definite verdict: 1 after ok, 0 after auth_missing, auth_invalid or auth_revoked; absent before the first.";
    KEY_LAST_USED = Gauge Stable "keytally_key_last_used_timestamp_seconds", "seconds", ["key", "provider"],
        "Start of the last call with this key.";
    KEY_LAST_SUCCESS = Gauge Stable "keytally_key_last_success_timestamp_seconds", "seconds", ["key", "provider"],
        "Start of the last call with this key whose outcome was ok; absent if there was none.";
    KEY_CLIENT_LAST_USED = Gauge Experimental "keytally_key_client_last_used_timestamp_seconds", "seconds",
        ["key", "provider", "client"],
        "Start of the last call of this client with this key: what stops when the key is revoked; at most 16 clients a key.";
    KEY_FINDINGS = Counter Stable "keytally_key_findings_total", "", ["key", "provider", "finding"],
        "Calls on which the finding held.";
    KEY_ANOMALY_RATIO = Gauge Experimental "keytally_key_anomaly_ratio", "ratio", ["key", "provider"],
        "Configured alert threshold: spend over this many times the usual is an anomaly.";
    KEY_ANOMALY_MIN = Gauge Experimental "keytally_key_anomaly_min_usd_per_hour", "usd_per_hour", ["key", "provider"],
        "Configured alert threshold: spend below this is never an anomaly.";
    KEY_NEW = Gauge Experimental "keytally_key_new_key_usd_per_hour", "usd_per_hour", ["key", "provider"],
        "Configured alert threshold: what a new key may spend.";
    BUDGET = Gauge Stable "keytally_budget_usd", "usd", ["key", "provider", "period"],
        "Configured budget; absent when none is set.";
    BUILD_INFO = Gauge Stable "keytally_build_info", "", ["version", "revision"], "Always 1; the running build.";
    OVERHEAD = Histogram Stable "keytally_overhead_seconds", "seconds", ["phase"],
        "Time added by keytally to one call, upstream excluded.";
    TELEMETRY_DROPPED = Counter Stable "keytally_telemetry_dropped_total", "", ["signal", "reason"],
        "Telemetry items that were lost; calls are never affected.";
    TELEMETRY_QUEUE = Gauge Experimental "keytally_telemetry_queue_length", "", ["signal"],
        "Telemetry items waiting for export.";
    TAP_OVERFLOWS = Counter Stable "keytally_tap_overflows_total", "", ["reason"],
        "Calls with a body that could not be read; its bytes passed untouched.";
    MALFORMED_CONTEXTS = Counter Experimental "keytally_malformed_trace_contexts_total", "", [],
        "Calls whose trace context could not be read; their spans are roots.";
    LABEL_OVERFLOW = Counter Stable "keytally_label_overflow_total", "", ["label"],
        "How often a label value was folded into other because a ceiling was reached.";
    CONFIG_RELOAD_OK = Gauge Stable "keytally_config_last_reload_successful", "", [],
        "0 when the configuration on disk is not what runs.";
    CONFIG_RELOAD_TIME = Gauge Stable "keytally_config_last_reload_success_timestamp_seconds", "seconds", [],
        "When the running configuration was loaded.";
    PRICE_TABLE = Gauge Stable "keytally_price_table_timestamp_seconds", "seconds", [],
        "Date of the price book in use.";
    CONNECTIONS = Gauge Experimental "keytally_connections", "", ["side"], "Open connections.";
    CONNECTIONS_LIMIT = Gauge Experimental "keytally_connections_limit", "", [],
        "Connections of applications served at a time; further ones wait.";
    ACCEPT_PAUSES = Counter Experimental "keytally_accept_pauses_total", "", ["reason"],
        "How often accepting connections had to wait.";
    PROCESS_CPU = Counter Stable "process_cpu_seconds_total", "seconds", [],
        "Total user and system CPU time spent in seconds.";
    PROCESS_MEMORY = Gauge Stable "process_resident_memory_bytes", "bytes", [], "Resident memory size in bytes.";
    PROCESS_OPEN_FDS = Gauge Stable "process_open_fds", "", [], "Number of open file descriptors.";
    PROCESS_MAX_FDS = Gauge Stable "process_max_fds", "", [], "Maximum number of open file descriptors.";
    PROCESS_START = Gauge Stable "process_start_time_seconds", "seconds", [],
        "Start time of the process since unix epoch in seconds.";
    PROCESS_THREADS = Gauge Stable "process_threads", "", [], "Number of OS threads in the process.";
    SERIES = Gauge Experimental "keytally_series", "", [], "Series exported now, this one included.";
}

label_enum! {
    /// Label `result` of the request duration.
    CallResult { Ok = "ok", Error = "error" }
}

label_enum! {
    /// What came of the search for a price.
    PricingStatus { Priced = "priced", Partial = "partial", Unpriced = "unpriced", Free = "free" }
}

label_enum! {
    /// What is billed by something else than tokens.
    BilledUnit {
        Image = "image",
        AudioSecond = "audio_second",
        Character = "character",
        Page = "page",
        Search = "search",
        Request = "request",
    }
}

label_enum! {
    /// Which ceiling folded a label value into `other`.
    OverflowLabel { Key = "key", Model = "model", Account = "account", Series = "series" }
}

label_enum! {
    /// Side of a connection.
    Side { Client = "client", Upstream = "upstream" }
}

label_enum! {
    /// Direction of bytes.
    BodyDirection { Request = "request", Response = "response" }
}

label_enum! {
    /// Direction of tokens.
    TokenDirection { Input = "input", Output = "output" }
}

label_enum! {
    /// Where the sidecar adds time.
    Phase { Request = "request", Response = "response" }
}

label_enum! {
    /// Period of a budget.
    BudgetPeriod { Day = "day", Month = "month" }
}
