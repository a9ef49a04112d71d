//! What a user writes: one structure, from which parsing, documentation and JSON Schema are made.
//!
//! The doc comment of a field is its documentation, its default stands in the `Default` of its section. Settings marked
//! `x-restart` are only read at start, those marked `writeOnly` may be secrets and are not repeated in messages, and
//! `x-env` names the variables that say the same. Unknown names are errors.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::value::{
    Address, ByteSize, Code, EnvName, FilePath, HeaderText, Host, KeyPrint, Link, Model, Name, Pattern, PriceId, Proxy,
    Segment, Semconv, Span, Switch, Text, Usd,
};
use super::{
    ANOMALY_MIN_USD_PER_HOUR, ANOMALY_RATIO, BIRTH_HOLD, CONNECT_TIMEOUT, HEADER_BYTES, IDLE_TIMEOUT, InterceptMode,
    LEDGER_BYTES, LEDGER_RETENTION, LIMIT_ACCOUNTS, LIMIT_CONNECTIONS, LIMIT_KEYS, LIMIT_MODELS, LISTEN_ADMIN,
    LISTEN_PROXY, LogFormat, LogLevel, MAX_SERIES, NEW_KEY_USD_PER_HOUR, OTLP_TIMEOUT, OtlpCompression, OtlpProtocol,
    POOL_IDLE_TIMEOUT, SHUTDOWN_DRAIN, TRACE_KEEP_SECONDS, TRACE_KEEP_USD, TRACE_SAMPLE, TraceProfile, Tunnels,
};
use crate::call::{Fault, KeyPlace, Outcome, Protocol, Retry};

/// Schema of closed sets: a text that is one of their values.
macro_rules! closed_sets {
    ($($name:ident),+) => { $(
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let values: Vec<&str> = $name::ALL.iter().map(|v| v.as_str()).collect();
                schemars::json_schema!({ "type": "string", "enum": values })
            }
        }
    )+ };
}
closed_sets!(
    Fault,
    InterceptMode,
    KeyPlace,
    LogFormat,
    LogLevel,
    OtlpCompression,
    OtlpProtocol,
    Outcome,
    Protocol,
    Retry,
    TraceProfile,
    Tunnels
);

/// The whole file. Every section may be left out.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "keytally configuration")]
pub struct File {
    /// Listening addresses.
    #[schemars(extend("x-restart" = true))]
    pub listen: ListenFile,
    /// Providers that differ from the catalogue or are new, by id.
    #[schemars(extend("propertyNames" = {"format": "id", "pattern": "^[a-z0-9][a-z0-9_-]{0,31}$"}))]
    pub providers: BTreeMap<String, ProviderFile>,
    /// Names, owners, thresholds and budgets of keys.
    pub keys: Vec<KeyFile>,
    /// Thresholds of keys that say nothing else, and of keys that `keys` does not name.
    pub key_defaults: KeyDefaultsFile,
    /// Prices of your own.
    pub prices: PricesFile,
    /// Outcome rules of your own, tried in this order before the built-in ones.
    pub rules: Vec<RuleFile>,
    /// Names of accounts, by the 8 hex digits that the label `account` shows.
    #[schemars(extend("propertyNames" = {"format": "account-hash", "pattern": "^[0-9a-f]{8}$"}))]
    pub accounts: BTreeMap<String, Name>,
    /// How keys become fingerprints.
    #[schemars(extend("x-restart" = true))]
    pub fingerprint: FingerprintFile,
    /// Constant labels on every span and call record, at most 16. `app` is the application's name.
    #[schemars(extend(
        "x-env" = "KEYTALLY_LABELS",
        "propertyNames" = {"format": "label-name", "pattern": "^[a-z_][a-z0-9_]{0,63}$"}
    ))]
    pub labels: BTreeMap<String, Name>,
    /// How usage is found.
    pub usage: UsageFile,
    /// Where records and spans go.
    #[schemars(extend("x-restart" = true))]
    pub export: ExportFile,
    /// The ledger: one row a call in an SQLite file, which `usage`, `log` and `statement` read.
    pub ledger: LedgerFile,
    /// What spans are made and what they hold.
    pub trace: TraceFile,
    /// What the metrics endpoint shows.
    #[schemars(extend("x-restart" = true))]
    pub metrics: MetricsFile,
    /// Ceilings of memory and cardinality.
    #[schemars(extend("x-restart" = true))]
    pub limits: LimitsFile,
    /// Connections to providers.
    #[schemars(extend("x-restart" = true))]
    pub upstream: UpstreamFile,
    /// TLS with applications: which connections to providers are opened, and by which certificate authority.
    pub tls: TlsFile,
    /// The forward proxy, for applications with `HTTPS_PROXY`.
    pub forward: ForwardFile,
    /// How the process ends.
    pub shutdown: ShutdownFile,
    /// Logs, on standard error.
    #[schemars(extend("x-restart" = true))]
    pub log: LogFile,
}

/// Listening addresses.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenFile {
    /// Applications send their calls here. On an address that is not loopback, keys cross the network unencrypted.
    #[schemars(extend("x-env" = "KEYTALLY_LISTEN"))]
    pub proxy: Address,
    /// The same over TLS, for SDKs that refuse `http://`: `https://localhost:<port>/<provider>`, with a certificate of the
    /// local CA. By name only, since the CA may not vouch for addresses.
    pub proxy_tls: Option<Address>,
    /// Metrics, health and status. Prometheus in another pod needs an address that it can reach.
    #[schemars(extend("x-env" = "KEYTALLY_ADMIN"))]
    pub admin: Address,
    /// Names, without port, under which the admin port may be asked for besides addresses, `localhost` and names without a dot.
    /// Other names are refused, so that a web page cannot read it by DNS rebinding.
    pub admin_hosts: Vec<Host>,
    /// Connections that the firewall redirects come in here, on loopback and usually at port 4142; for none if left out.
    /// See `keytally redirect`.
    pub redirect: Option<Address>,
    /// Find out which process on this machine makes a call: its executable, container, pod or service, as far as the
    /// sidecar may see them. The record's `client`, unless the label `app` names it.
    pub callers: Switch,
}

impl Default for ListenFile {
    fn default() -> Self {
        Self {
            proxy: Address(LISTEN_PROXY),
            proxy_tls: None,
            admin: Address(LISTEN_ADMIN),
            admin_hosts: Vec::new(),
            redirect: None,
            callers: Switch(true),
        }
    }
}

/// One provider.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderFile {
    /// Scheme, host, optional port and path of the provider. A provider that the catalogue does not know needs it.
    pub base_url: Option<Link>,
    /// First path segment on the proxy port; the id if left out.
    pub prefix: Option<Segment>,
    /// Format of its bodies; `openai-chat` stands for the whole OpenAI-compatible API.
    pub protocol: Option<Protocol>,
    /// Where its key travels, the usual place first.
    pub auth: Option<Vec<KeyPlace>>,
    /// Its id in the price book, or `none` when its calls are free.
    pub price_as: Option<PriceId>,
    /// Further hosts that are this provider; with a port, only that one is.
    pub hosts: Vec<Host>,
    /// Certificate authorities of this provider, on top of the other roots. The file is watched.
    pub ca_file: Option<FilePath>,
}

/// One key.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// Place in the list, set while reading.
    #[serde(rename = "@at", default)]
    #[schemars(skip)]
    pub at: usize,
    /// Which key: what `keytally fingerprint` prints for it, never the key itself.
    pub fingerprint: KeyPrint,
    /// Name that metrics, spans and records show instead of the fingerprint.
    pub name: Name,
    /// Team that owns it.
    #[serde(default)]
    pub team: Option<Name>,
    /// Environment that it is for, such as prod.
    #[serde(default)]
    pub env: Option<Name>,
    /// Spend of this many times the usual is an anomaly.
    #[serde(default)]
    #[schemars(range(min = 1.0, max = 1_000_000.0))]
    pub anomaly_ratio: Option<f64>,
    /// Spend below this, in dollars per hour, is never an anomaly.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1_000_000_000.0))]
    pub anomaly_min_usd_per_hour: Option<f64>,
    /// While it is new, the key may spend this much, in dollars per hour.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1_000_000_000.0))]
    pub new_key_usd_per_hour: Option<f64>,
    /// Budget of a day, in dollars.
    #[serde(default)]
    #[schemars(range(min = 0.01, max = 1_000_000_000.0))]
    pub budget_usd_day: Option<f64>,
    /// Budget of a month, in dollars.
    #[serde(default)]
    #[schemars(range(min = 0.01, max = 1_000_000_000.0))]
    pub budget_usd_month: Option<f64>,
    /// It is one of several keys that are used in turn: no findings about rotation.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub pool: Option<Switch>,
}

/// Thresholds.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeyDefaultsFile {
    /// Spend of this many times the usual is an anomaly.
    #[schemars(range(min = 1.0, max = 1_000_000.0))]
    pub anomaly_ratio: f64,
    /// Spend below this, in dollars per hour, is never an anomaly.
    #[schemars(range(min = 0.0, max = 1_000_000_000.0))]
    pub anomaly_min_usd_per_hour: f64,
    /// A key that is new may spend this much, in dollars per hour.
    #[schemars(range(min = 0.0, max = 1_000_000_000.0))]
    pub new_key_usd_per_hour: f64,
}

impl Default for KeyDefaultsFile {
    fn default() -> Self {
        Self {
            anomaly_ratio: ANOMALY_RATIO,
            anomaly_min_usd_per_hour: ANOMALY_MIN_USD_PER_HOUR,
            new_key_usd_per_hour: NEW_KEY_USD_PER_HOUR,
        }
    }
}

/// Prices.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PricesFile {
    /// A price book file that replaces the embedded one. It is watched.
    pub book: Option<FilePath>,
    /// Rates that replace the book's, one model each.
    pub overrides: Vec<PriceFile>,
}

/// Rates of one model, in dollars per million tokens.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceFile {
    /// Place in the list, set while reading.
    #[serde(rename = "@at", default)]
    #[schemars(skip)]
    pub at: usize,
    /// Id of the provider; any if left out.
    #[serde(default)]
    pub provider: Option<super::value::Id>,
    /// Model as asked for or as answered; `*` at the end matches any rest.
    pub model: Model,
    /// Input.
    pub input: Usd,
    /// Output.
    pub output: Usd,
    /// Input read from a cache; as `input` if left out.
    #[serde(default)]
    pub cache_read: Option<Usd>,
    /// Input written to a cache; as `input` if left out.
    #[serde(default)]
    pub cache_write: Option<Usd>,
    /// Each call, on top, in dollars.
    #[serde(default)]
    pub per_request: Option<Usd>,
}

/// One outcome rule: all conditions that are given must hold, and at least one must be given.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    /// Place in the list, set while reading.
    #[serde(rename = "@at", default)]
    #[schemars(skip)]
    pub at: usize,
    /// Name of the rule, unique.
    pub id: super::value::Id,
    /// Ids of providers.
    #[serde(default)]
    pub providers: Vec<super::value::Id>,
    /// HTTP statuses.
    #[serde(default)]
    #[schemars(inner(range(min = 100, max = 599)))]
    pub statuses: Vec<u16>,
    /// One of the error's codes, types or statuses is one of these, whatever its case.
    #[serde(default)]
    pub codes: Vec<Code>,
    /// The error's text matches one of these regular expressions, whatever its case.
    #[serde(default)]
    pub messages: Vec<Pattern>,
    /// What it is.
    pub outcome: Outcome,
    /// Whose side must act; the outcome's usual one if left out.
    #[serde(default)]
    pub fault: Option<Fault>,
    /// Whether to retry; the outcome's usual advice if left out.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// What to do first; the outcome's usual fix if left out.
    #[serde(default)]
    pub first_fix: Option<Text>,
}

/// Fingerprints.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FingerprintFile {
    /// A salt of at least 8 characters that goes before the key, the same in every sidecar that should show the same
    /// fingerprints. Never written here: name the variable or the file that holds it.
    pub salt: Option<ReferenceFile>,
}

/// Where a secret is: one of the two.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("writeOnly" = true))]
pub struct ReferenceFile {
    /// Environment variable that holds it.
    #[schemars(extend("writeOnly" = true))]
    pub env: Option<EnvName>,
    /// File that holds it; white space around it is left out.
    pub file: Option<FilePath>,
}

/// Usage.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UsageFile {
    /// Ask for usage in OpenAI-format streams that do not, and remove the extra chunk again. Changes the request.
    /// Requests of more than 8 MiB pass as they are, as do those that come while 64 MiB of others are held.
    pub inject: Switch,
    /// Estimate the usage that a provider did not report, and mark it as estimated.
    pub estimate: Switch,
}

impl Default for UsageFile {
    fn default() -> Self {
        Self { inject: Switch(false), estimate: Switch(true) }
    }
}

/// Exporters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExportFile {
    /// Call records: one JSON line a call.
    pub calls: CallsFile,
    /// Spans by OTLP.
    pub otlp: OtlpFile,
}

/// Call records.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CallsFile {
    /// File that records are appended to, `-` for standard output; none are written if left out.
    pub path: Option<FilePath>,
}

/// The ledger.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerFile {
    /// The file; it is made if there is none, and there is no ledger without a path. One sidecar writes a file.
    #[schemars(extend("x-env" = "KEYTALLY_LEDGER"))]
    pub path: Option<FilePath>,
    /// Calls older than this are removed.
    pub retention: Span,
    /// The oldest calls are removed when the file grows beyond this.
    pub max_size: ByteSize,
}

impl Default for LedgerFile {
    fn default() -> Self {
        Self { path: None, retention: Span(LEDGER_RETENTION), max_size: ByteSize(LEDGER_BYTES) }
    }
}

/// OTLP. The `OTEL_*` variables of the specification fill in what is left out here.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpFile {
    /// Collector, for instance `http://127.0.0.1:4318`. `/v1/traces` is added for `http/protobuf`. No spans are exported
    /// without it.
    #[schemars(extend("x-env" = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT"))]
    pub endpoint: Option<Link>,
    /// Transport.
    #[schemars(extend("x-env" = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL", "default" = "http/protobuf"))]
    pub protocol: Option<OtlpProtocol>,
    /// Headers of every export, by name.
    #[schemars(extend(
        "writeOnly" = true,
        "x-env" = "OTEL_EXPORTER_OTLP_TRACES_HEADERS, OTEL_EXPORTER_OTLP_HEADERS",
        "propertyNames" = {"format": "header-name"}
    ))]
    pub headers: BTreeMap<String, HeaderFile>,
    /// Longest time of one request.
    #[schemars(extend("x-env" = "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT", "default" = Span(OTLP_TIMEOUT)))]
    pub timeout: Option<Span>,
    /// Certificate authorities of the collector, on top of the other roots.
    #[schemars(extend("x-env" = "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE, OTEL_EXPORTER_OTLP_CERTIFICATE"))]
    pub ca_file: Option<FilePath>,
    /// Certificate chain to show to the collector; `client_key` goes with it.
    #[schemars(extend("x-env" = "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"))]
    pub client_certificate: Option<FilePath>,
    /// Key of that certificate.
    #[schemars(extend("x-env" = "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY, OTEL_EXPORTER_OTLP_CLIENT_KEY"))]
    pub client_key: Option<FilePath>,
    /// Compression of requests.
    #[schemars(extend("x-env" = "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION, OTEL_EXPORTER_OTLP_COMPRESSION", "default" = "none"))]
    pub compression: Option<OtlpCompression>,
}

/// Value of a header: one of the three.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("writeOnly" = true))]
pub struct HeaderFile {
    /// The value itself, if it is no secret.
    #[schemars(extend("writeOnly" = true))]
    pub value: Option<HeaderText>,
    /// Environment variable that holds the value.
    #[schemars(extend("writeOnly" = true))]
    pub env: Option<EnvName>,
    /// File that holds the value; white space around it is left out.
    pub file: Option<FilePath>,
    /// Goes before the value, for instance `"Bearer "`.
    #[schemars(extend("writeOnly" = true))]
    pub prefix: Option<HeaderText>,
}

/// Spans.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TraceFile {
    /// Share of root spans that are exported, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-env" = "OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG", "default" = TRACE_SAMPLE))]
    pub sample: Option<f64>,
    /// Follow the sampling decision of the application's own span.
    #[schemars(extend("x-env" = "OTEL_TRACES_SAMPLER", "default" = true))]
    pub parent_based: Option<Switch>,
    /// Calls of this cost in dollars are exported whatever `sample` says.
    pub keep_usd: Usd,
    /// Calls of this many seconds are exported whatever `sample` says.
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub keep_seconds: f64,
    /// Failed calls are exported even when the application's own span is not sampled.
    pub keep_unsampled_errors: Switch,
    /// Also read B3 headers, where no valid `traceparent` came.
    #[schemars(extend("x-env" = "OTEL_PROPAGATORS", "default" = false))]
    pub b3: Option<Switch>,
    /// Do not send the application's trace headers on to providers. Changes the request.
    pub strip_context: Switch,
    /// `errors_and_cost` leaves out usage, for applications whose own spans carry it; `off` makes no spans.
    pub profile: TraceProfile,
    /// Version of the GenAI conventions that attribute names follow: `latest` or `1.41`.
    pub semconv: Semconv,
    /// Export the URL of the call, without its query.
    pub url: Switch,
    /// Add a server span as parent of each call's span.
    pub server_span: Switch,
}

impl Default for TraceFile {
    fn default() -> Self {
        Self {
            sample: None,
            parent_based: None,
            keep_usd: Usd(TRACE_KEEP_USD),
            keep_seconds: TRACE_KEEP_SECONDS,
            keep_unsampled_errors: Switch(false),
            b3: None,
            strip_context: Switch(false),
            profile: TraceProfile::Full,
            semconv: Semconv("latest".to_owned()),
            url: Switch(false),
            server_span: Switch(false),
        }
    }
}

/// Metrics.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsFile {
    /// A new counter shows 0 for this long, so that Prometheus sees it begin. Longer than the scrape interval.
    pub birth_hold: Span,
    /// Export histograms, which are more than half of all series.
    pub histograms: Switch,
    /// Export exemplars that lead to traces.
    pub exemplars: Switch,
    /// Ceiling of all series together; what is beyond it counts in `keytally_label_overflow_total`.
    #[schemars(range(min = 500, max = 1_000_000))]
    pub max_series: u32,
}

impl Default for MetricsFile {
    fn default() -> Self {
        Self { birth_hold: Span(BIRTH_HOLD), histograms: Switch(true), exemplars: Switch(true), max_series: MAX_SERIES }
    }
}

/// Ceilings.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsFile {
    /// Keys with a label of their own; further ones are `other`.
    #[schemars(range(min = 1, max = 10_000))]
    pub keys: u32,
    /// Models with a label of their own; further ones are `other`.
    #[schemars(range(min = 1, max = 10_000))]
    pub models: u32,
    /// Accounts with a label of their own; further ones are `other`.
    #[schemars(range(min = 1, max = 10_000))]
    pub accounts: u32,
    /// Open connections of applications; further ones wait. Each needs two open files: where the process may have too few, fewer
    /// connections are served, and the log says so.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: u32,
    /// Largest head of a request or an answer.
    pub header_bytes: ByteSize,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            keys: LIMIT_KEYS,
            models: LIMIT_MODELS,
            accounts: LIMIT_ACCOUNTS,
            connections: LIMIT_CONNECTIONS,
            header_bytes: ByteSize(HEADER_BYTES),
        }
    }
}

/// Upstream connections.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamFile {
    /// Longest time for DNS, TCP and TLS together.
    pub connect_timeout: Span,
    /// Longest silence of a provider inside a call.
    pub idle_timeout: Span,
    /// Unused connections are closed after this.
    pub pool_idle_timeout: Span,
    /// Certificate authorities, on top of the system's or the bundled ones. What is in the file is watched.
    pub ca_file: Option<FilePath>,
    /// Forward proxy to providers, or `off`. If left out, the environment decides.
    #[schemars(extend("x-env" = "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY"))]
    pub proxy: Option<Proxy>,
    /// Offer HTTP/2. A connection carries up to 32 calls at a time, or as many as the provider allows if that is fewer;
    /// further calls have others.
    pub http2: Switch,
}

impl Default for UpstreamFile {
    fn default() -> Self {
        Self {
            connect_timeout: Span(CONNECT_TIMEOUT),
            idle_timeout: Span(IDLE_TIMEOUT),
            pool_idle_timeout: Span(POOL_IDLE_TIMEOUT),
            ca_file: None,
            proxy: None,
            http2: Switch(true),
        }
    }
}

/// TLS with applications.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsFile {
    /// Open TLS connections to providers that come through the forward proxy. `auto`: once there is a CA, and not of clients
    /// that refuse its certificate. `on`: always, and the CA is made at start. `off`: never, they pass unread.
    pub intercept: InterceptMode,
    /// Directory of the local CA. If left out: `ca` in `$STATE_DIRECTORY`, `$XDG_STATE_HOME/keytally`,
    /// `~/.local/state/keytally` or `/var/lib/keytally`, the first that is known.
    pub ca_dir: Option<FilePath>,
    /// Certificate of a CA of your own, PEM, those between it and its root after it. `ca_key` goes with it.
    pub ca_certificate: Option<FilePath>,
    /// Private key of that CA, PEM, PKCS #8.
    pub ca_key: Option<FilePath>,
}

impl Default for TlsFile {
    fn default() -> Self {
        Self { intercept: InterceptMode::Auto, ca_dir: None, ca_certificate: None, ca_key: None }
    }
}

/// The forward proxy.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardFile {
    /// Who may go through to hosts that are no provider's: clients on the same machine or pod (`loopback`, which includes
    /// those that know the password), everybody (`any`), nobody (`off`).
    pub tunnels: Tunnels,
    /// User and password that every client must send. Asked for by the forward proxy only, not on base URLs.
    pub auth: Option<ForwardAuthFile>,
}

impl Default for ForwardFile {
    fn default() -> Self {
        Self { tunnels: Tunnels::Loopback, auth: None }
    }
}

/// User and password of the forward proxy.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardAuthFile {
    /// User.
    pub user: Name,
    /// Password. Never written here: name the variable or the file that holds it.
    pub password: ReferenceFile,
}

/// Shutdown.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownFile {
    /// Calls in flight may take this long after SIGTERM.
    pub drain: Span,
    /// The admin port stays up this long after that, for a last scrape. If left out: 30s in Kubernetes, 0s elsewhere.
    pub linger: Option<Span>,
}

impl Default for ShutdownFile {
    fn default() -> Self {
        Self { drain: Span(SHUTDOWN_DRAIN), linger: None }
    }
}

/// Logs.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogFile {
    /// `auto` is text on a terminal and JSON elsewhere.
    #[schemars(extend("x-env" = "KEYTALLY_LOG_FORMAT"))]
    pub format: LogFormat,
    /// Least important line that is written. Other crates' lines are written from `warn` on, whatever this says.
    #[schemars(extend("x-env" = "RUST_LOG, KEYTALLY_LOG"))]
    pub level: LogLevel,
}

impl Default for LogFile {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: LogLevel::Info }
    }
}

/// The JSON Schema (draft 2020-12) of the file. One document without references.
pub fn schema() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<File>().to_value();
    tidy(&mut schema);
    schema
}

/// What schemars writes for `Option` and for defaults of whole sections says nothing here: a setting that is left out
/// is what its documentation says.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|v| !v.is_null());
            }
            if let Some(Value::Array(choices)) = map.get("anyOf")
                && let [Value::Object(choice), null] = choices.as_slice()
                && null["type"] == "null"
            {
                let choice = choice.clone();
                map.remove("anyOf");
                for (name, value) in choice {
                    map.entry(name).or_insert(value);
                }
            }
            if matches!(map.get("default"), Some(Value::Null | Value::Object(_) | Value::Array(_))) {
                map.remove("default");
            }
            if map.get("format").is_some_and(|f| matches!(f.as_str(), Some("double" | "uint" | "uint16" | "uint32"))) {
                map.remove("format");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}
