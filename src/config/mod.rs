//! Configuration: [`Config`] holds checked values in real types; [`Source::load`] reads it from file and environment.
//!
//! Precedence, per setting: command line, `KEYTALLY_*` variables, file, `OTEL_*` variables, default. Without any of them
//! [`Config::default`] is what runs. Reading is file → tree ([`yaml`]) → checked against the schema of what a user may
//! write ([`mod@file`], [`walk`]) → converted ([`check`]); all problems are reported at once, each with its place.

mod check;
mod env;
pub mod file;
mod problem;
pub mod reload;
pub mod value;
mod walk;
mod yaml;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;
use zeroize::Zeroizing;

use crate::call::{Money, label_enum};
use crate::files;
use crate::meter::{KeyEntry, PriceOverride, RuleEntry};
use crate::provider::ProviderOverride;

pub use crate::export::{OtlpProtocol, Profile as TraceProfile, Propagation, Semconv};
pub use env::Environment;
pub use problem::{ConfigError, Problem};
pub use reload::{ConfigHandle, ReloadStatus};
pub use walk::Step;

/// Where applications reach the sidecar: loopback, since the keys on this hop travel unencrypted.
pub const LISTEN_PROXY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4141));
/// Where metrics and health are: next to the proxy port.
pub const LISTEN_ADMIN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4140));
/// Where redirected connections come in, when `listen.redirect` is set: next to the proxy port.
pub const LISTEN_REDIRECT_PORT: u16 = 4142;
/// Ratio to the usual spend that is an anomaly; the alert rules assume the same when the gauge is missing.
pub const ANOMALY_RATIO: f64 = 3.0;
/// Spend under a dollar an hour is never worth a page.
pub const ANOMALY_MIN_USD_PER_HOUR: f64 = 1.0;
/// What a key without history may spend before somebody should look.
pub const NEW_KEY_USD_PER_HOUR: f64 = 5.0;
/// All root spans: one sidecar makes few, and the backend can still drop.
pub const TRACE_SAMPLE: f64 = 1.0;
/// A call of half a dollar is rare and worth a span.
pub const TRACE_KEEP_USD: Money = Money::from_femto(500_000_000_000_000);
/// A call of a minute is worth a span.
pub const TRACE_KEEP_SECONDS: f64 = 60.0;
/// Every scraper with an interval of up to 60 s sees a new series' zero.
pub const BIRTH_HOLD: Duration = Duration::from_secs(75);
/// Above what 50 keys on 10 models at 3 providers can produce with every label value in use (14,500).
pub const MAX_SERIES: u32 = 20_000;
/// Key labels of one process; one application uses a handful.
pub const LIMIT_KEYS: u32 = 200;
/// Model labels of one process.
pub const LIMIT_MODELS: u32 = 200;
/// Account labels of one process: one or two a key.
pub const LIMIT_ACCOUNTS: u32 = 50;
/// Open connections of applications: below the usual limits of file descriptors, two of which one call needs.
pub const LIMIT_CONNECTIONS: u32 = 20_000;
/// Head of a request or answer: more than any provider takes (Cloudflare, before several of them: 128 KiB), so that the sidecar
/// is never the one that refuses. Each connection that is not read may hold some five times this.
pub const HEADER_BYTES: u64 = 256 << 10;
/// DNS, TCP and TLS: three lost SYNs (1 + 2 + 4 s) are still survived.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence of a provider: longer than the SDKs' own timeouts (10 minutes), so that the application gives up first.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Unused upstream connections close before the 60 s at which common load balancers close them.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Calls in flight may take this long after SIGTERM: with 5 s to spare of the 30 s that Kubernetes allows.
pub const SHUTDOWN_DRAIN: Duration = Duration::from_secs(25);
/// In Kubernetes metrics stay up for one common scrape interval after the drain; elsewhere nobody waits for them.
pub const SHUTDOWN_LINGER_KUBERNETES: Duration = Duration::from_secs(30);
/// OTLP export of one batch, as the OpenTelemetry specification has it.
pub const OTLP_TIMEOUT: Duration = Duration::from_secs(10);
/// One batch with all its retries, as the OpenTelemetry specification has it.
pub const OTLP_BATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Spans that wait for export, as the OpenTelemetry specification has it.
pub const OTLP_QUEUE_SPANS: usize = 2048;
/// Spans of one export, as the OpenTelemetry specification has it.
pub const OTLP_BATCH_SPANS: usize = 512;
/// Longest wait of a span for its batch, as the OpenTelemetry specification has it.
pub const OTLP_BATCH_DELAY: Duration = Duration::from_secs(5);

/// What the ledger keeps: a quarter of a year, so that a month and the one before it are whole.
pub const LEDGER_RETENTION: Duration = Duration::from_secs(90 * 24 * 3600);
/// What the ledger may take on disk: some five million calls.
pub const LEDGER_BYTES: u64 = 1 << 30;

/// Everything that can be set. Made by [`Source::load`] or [`Config::default`]; never changed afterwards.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Addresses.
    pub listen: Listen,
    /// What differs from the catalogue, in the order of the ids.
    pub providers: Vec<ProviderOverride>,
    /// Named keys; fingerprints and names are unique.
    pub keys: Vec<KeyEntry>,
    /// Thresholds of keys that `keys` does not name.
    pub key_defaults: KeyDefaults,
    /// Own prices.
    pub prices: Vec<PriceOverride>,
    /// A price book that replaces the embedded one.
    pub price_book: Option<PathBuf>,
    /// Own outcome rules, tried first, in this order.
    pub rules: Vec<RuleEntry>,
    /// Names of accounts by their hash (8 hex digits).
    pub accounts: BTreeMap<String, Arc<str>>,
    /// Salt of fingerprints; empty by default.
    pub fingerprint_salt: Secret,
    /// Constant labels of every span and record, in the order of their names.
    pub labels: Arc<[(String, String)]>,
    /// How usage is found.
    pub usage: UsageSettings,
    /// Where call records are written; `None` for nowhere.
    pub calls: Option<CallsSink>,
    /// Where spans go; `None` for nowhere.
    pub otlp: Option<OtlpSettings>,
    /// The ledger; `None` for none.
    pub ledger: Option<LedgerSettings>,
    /// What spans are made and what they hold.
    pub trace: TraceSettings,
    /// What the metrics endpoint shows.
    pub metrics: MetricsSettings,
    /// Ceilings.
    pub limits: LimitSettings,
    /// Connections to providers.
    pub upstream: UpstreamSettings,
    /// TLS with applications.
    pub tls: TlsSettings,
    /// The forward proxy.
    pub forward: ForwardSettings,
    /// How the process ends.
    pub shutdown: ShutdownSettings,
    /// Logs.
    pub log: LogSettings,
}

impl Config {
    /// The application's name, from the label `app`: `keytally.client` of spans.
    pub fn app(&self) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == "app").map(|(_, value)| value.as_str())
    }

    /// The files that are read again when they change.
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let of_providers = self.providers.iter().filter_map(|provider| provider.ca_file.as_ref());
        self.price_book.iter().chain(&self.upstream.ca_file).chain(of_providers)
    }
}

/// Files and the digests of what they hold; `None` for one that cannot be read.
type Contents = BTreeMap<PathBuf, Option<[u8; 32]>>;

fn contents<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Contents {
    paths.into_iter().map(|path| (path.clone(), files::digest(path))).collect()
}

/// What runs without file, environment and flags.
impl Default for Config {
    fn default() -> Self {
        let source = Source { env: Environment::of(&[]), ..Source::default() };
        source.load().map(|loaded| loaded.config).expect("the defaults are valid; a test loads them")
    }
}

/// Listening addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// Calls come in here.
    pub proxy: SocketAddr,
    /// The same over TLS; `None` for nowhere.
    pub proxy_tls: Option<SocketAddr>,
    /// Metrics, health and status.
    pub admin: SocketAddr,
    /// Names, without port, by which the admin port may be asked for, on top of those that nobody can own.
    pub admin_hosts: Vec<String>,
    /// Connections that the firewall redirects come in here, if anywhere; on loopback.
    pub redirect: Option<SocketAddr>,
    /// Find out which process on this machine makes a call.
    pub callers: bool,
}

/// Thresholds of a key that says nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyDefaults {
    /// Ratio to the usual spend.
    pub anomaly_ratio: f64,
    /// Floor of an anomaly, dollars per hour.
    pub anomaly_min_usd_per_hour: f64,
    /// What a new key may spend, dollars per hour.
    pub new_key_usd_per_hour: f64,
}

/// How usage is found.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageSettings {
    /// Ask for usage on the application's behalf, and hide the extra chunk.
    pub inject: bool,
    /// Estimate what the provider did not report.
    pub estimate: bool,
}

/// Where call records are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallsSink {
    /// `-`.
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

/// The ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerSettings {
    /// The file.
    pub path: PathBuf,
    /// Older calls are removed.
    pub retention: Duration,
    /// The oldest calls are removed when the file is larger than this.
    pub max_bytes: u64,
}

label_enum! {
    /// Compression of OTLP requests.
    OtlpCompression { None = "none", Gzip = "gzip" }
}

/// Everything that the span exporter needs.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpSettings {
    /// The whole address for `http/protobuf` (`…/v1/traces`), scheme, host and port for `grpc`.
    pub endpoint: Url,
    /// Transport.
    pub protocol: OtlpProtocol,
    /// Sent with every export; names in lower case and unique.
    pub headers: Vec<(String, Secret)>,
    /// Longest time of one request.
    pub timeout: Duration,
    /// Longest time of one batch, retries included.
    pub batch_timeout: Duration,
    /// How requests are compressed.
    pub compression: OtlpCompression,
    /// Certificate authority of the endpoint, on top of the other roots.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain to show to the endpoint; set together with `client_key`.
    pub client_certificate: Option<PathBuf>,
    /// Its key.
    pub client_key: Option<PathBuf>,
    /// Resource attribute `service.name`.
    pub service_name: String,
    /// Further resource attributes; never `service.name`.
    pub resource: Vec<(String, String)>,
    /// Most spans that wait; further ones are dropped and counted.
    pub queue_spans: usize,
    /// Most spans of one export; at most `queue_spans`.
    pub batch_spans: usize,
    /// Longest wait of a span for its batch.
    pub batch_delay: Duration,
}

/// What spans are made and what they hold.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// Share of root spans, 0 to 1.
    pub sample: f64,
    /// A caller's sampling decision is followed (else every span is a matter of `sample`).
    pub parent_based: bool,
    /// Failures and calls that reach a threshold below are kept whatever `sample` says.
    pub keep_notable: bool,
    /// Calls of this cost are kept whatever `sample` says.
    pub keep_usd: Money,
    /// Calls of this duration are kept whatever `sample` says.
    pub keep_duration: Duration,
    /// Failed calls are kept even under an unsampled parent.
    pub keep_unsampled_errors: bool,
    /// Trace headers of the application are not sent to providers.
    pub strip_context: bool,
    /// Which of the application's trace headers are read.
    pub propagation: Propagation,
    /// How much a span tells.
    pub profile: TraceProfile,
    /// Names of attributes.
    pub semconv: Semconv,
    /// `url.full` is set.
    pub url: bool,
    /// A server span is the parent of each client span.
    pub server_span: bool,
}

/// What the metrics endpoint shows.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsSettings {
    /// How long a new counter shows 0.
    pub birth_hold: Duration,
    /// Histograms are exported.
    pub histograms: bool,
    /// Exemplars are exported.
    pub exemplars: bool,
    /// Hard ceiling of all series.
    pub max_series: u32,
}

/// Ceilings.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitSettings {
    /// Key labels; further keys are `other`.
    pub keys: u32,
    /// Model labels; further models are `other`.
    pub models: u32,
    /// Account labels; further accounts are `other`.
    pub accounts: u32,
    /// Open connections of applications; further ones wait.
    pub connections: u32,
    /// Bytes of a request's or an answer's head.
    pub header_bytes: u64,
}

/// Which forward proxy providers are reached through.
#[derive(Clone, Debug, PartialEq)]
pub enum UpstreamProxy {
    /// As `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    Environment,
    /// None, whatever the environment says.
    Off,
    /// This one, for all hosts but those that `NO_PROXY` excepts.
    Through(Url),
}

/// Connections to providers.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Longest silence of a provider inside a call.
    pub idle_timeout: Duration,
    /// Unused connections are closed after this.
    pub pool_idle_timeout: Duration,
    /// Certificate authorities, on top of the other roots.
    pub ca_file: Option<PathBuf>,
    /// Forward proxy.
    pub proxy: UpstreamProxy,
    /// HTTP/2 is offered.
    pub http2: bool,
}

label_enum! {
    /// Which TLS connections to providers are opened.
    InterceptMode {
        /// Those of clients that trust the local authority, once there is one.
        Auto = "auto",
        /// All; the authority is made at start.
        On = "on",
        /// None.
        Off = "off",
    }
}

/// TLS with applications.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsSettings {
    /// Which connections are opened.
    pub intercept: InterceptMode,
    /// Where the local authority is kept.
    pub ca_dir: PathBuf,
    /// Certificate and key of an authority of the owner's, in place of the local one.
    pub own_ca: Option<(PathBuf, PathBuf)>,
}

label_enum! {
    /// Who may go through to hosts that are no provider's.
    Tunnels {
        /// Nobody.
        Off = "off",
        /// Clients on this machine, and those that know the password.
        Loopback = "loopback",
        /// Everybody.
        Any = "any",
    }
}

/// The forward proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardSettings {
    /// Who may go through to hosts that are no provider's.
    pub tunnels: Tunnels,
    /// User and password that every client must send; `None`: none is asked for.
    pub auth: Option<(String, Secret)>,
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq)]
pub struct ShutdownSettings {
    /// Calls in flight may take this long.
    pub drain: Duration,
    /// The admin port stays up this long after the drain, for a last scrape.
    pub linger: Duration,
}

label_enum! {
    /// Form of logs.
    LogFormat { Auto = "auto", Text = "text", Json = "json" }
}

label_enum! {
    /// Least important log line that is written.
    LogLevel { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace" }
}

/// Logs.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// Text on a terminal and JSON elsewhere, unless told.
    pub format: LogFormat,
    /// `RUST_LOG` wins.
    pub level: LogLevel,
}

/// A value that must not be shown: salt, header of an exporter. Wiped when dropped.
#[derive(Clone, Default, PartialEq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value. Callers must not print it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// No value is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Shows nothing but whether it is set.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_empty() { "Secret(unset)" } else { "Secret(set)" })
    }
}

/// Where a configuration comes from: a file, the environment, the command line.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file; `None` for none (`KEYTALLY_CONFIG` is the caller's to read).
    pub path: Option<PathBuf>,
    /// The environment.
    pub env: Environment,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--admin`.
    pub admin: Option<SocketAddr>,
    /// Asks the rooms that will run with it whether they can: see [`Misfit`].
    pub rooms: Option<fn(&Config) -> Vec<Misfit>>,
}

/// Something that a room cannot use although the value by itself is right: a provider without address that the catalogue
/// does not know, a file that is not a price book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The setting.
    pub path: Vec<Step>,
    /// Value, what is wrong, what would be right.
    pub text: String,
}

/// A configuration and what should be said about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What to run with.
    pub config: Config,
    /// Valid, but perhaps not meant: one sentence each.
    pub warnings: Vec<String>,
}

/// Largest file that is read: 10,000 named keys need a tenth of it.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

impl Source {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// Every problem that was found, in the order of the file.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        self.check(&self.read()?)
    }

    /// The file's text; empty when there is no file.
    ///
    /// # Errors
    /// It cannot be read, is not a file, is too large or is not UTF-8.
    pub(crate) fn read(&self) -> Result<String, ConfigError> {
        match &self.path {
            Some(path) => read_text(path).map_err(|text| ConfigError::of(path.display().to_string(), text)),
            None => Ok(String::new()),
        }
    }

    /// Checks a text as if it were the file's.
    ///
    /// # Errors
    /// Every problem that was found, in the order of the file.
    pub(crate) fn check(&self, text: &str) -> Result<Loaded, ConfigError> {
        self.check_with_files(text).1
    }

    /// As [`Source::check`], with the files that the text names as they were before the check looked into them.
    fn check_with_files(&self, text: &str) -> (Contents, Result<Loaded, ConfigError>) {
        check::check(text, self)
    }
}

/// A file of at most [`MAX_FILE_BYTES`]; the error says what is wrong, without the path.
fn read_text(path: &Path) -> Result<String, String> {
    let bytes = files::read(path, MAX_FILE_BYTES).map_err(|error| error.to_string())?;
    str::from_utf8(&bytes).map(str::to_owned).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        format!("not UTF-8 (line {line}); save it as UTF-8")
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::compare_docs;
