//! What can be set of traces. `config` reads it from file and environment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use url::Url;

use super::traces::{Profile, Sampling, Semconv, Spans};
use crate::call::label_enum;

/// Spans that wait for their batch. More are dropped and counted: at 2 KiB a record this bounds the queue to 4 MiB.
const MAX_QUEUE: usize = 2_048;
/// Spans sent in one request: the SDKs' default.
const MAX_BATCH: usize = 512;
/// Longest wait for a batch to fill: the SDKs' default.
const DELAY: Duration = Duration::from_secs(5);
/// Longest time for one batch, retries included: the SDKs' default.
const BATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for one request: the specification's default.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

label_enum! {
    /// Encoding and transport of OTLP.
    #[derive(Default)]
    OtlpProtocol {
        /// Protobuf over HTTP/1.1.
        #[default]
        HttpProtobuf = "http/protobuf",
        /// gRPC.
        Grpc = "grpc",
    }
}

/// Request headers. Values are often secrets: `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OtlpHeaders(pub Vec<(String, String)>);

impl std::fmt::Debug for OtlpHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Where spans go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSettings {
    /// The whole address for HTTP (`…/v1/traces`); scheme, host and port for gRPC.
    pub endpoint: Option<Url>,
    /// How.
    pub protocol: OtlpProtocol,
    /// Sent with each request.
    pub headers: OtlpHeaders,
    /// For one request.
    pub timeout: Duration,
    /// Compress requests by gzip.
    pub gzip: bool,
    /// Certificate authorities (PEM) on top of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain (PEM) to show to the collector.
    pub client_certificate: Option<PathBuf>,
    /// Its key (PEM).
    pub client_key: Option<PathBuf>,
}

impl Default for OtlpSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: OtlpProtocol::default(),
            headers: OtlpHeaders::default(),
            timeout: REQUEST_TIMEOUT,
            gzip: false,
            ca_file: None,
            client_certificate: None,
            client_key: None,
        }
    }
}

/// Everything that can be set of traces. The default has no endpoint: traces are off.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// Where spans go.
    pub otlp: OtlpSettings,
    /// How much a span says.
    pub profile: Profile,
    /// Which names it says it in.
    pub semconv: Semconv,
    /// A `SERVER` span, for the hop from the application, is the parent of each call's span.
    pub server_span: bool,
    /// Which calls get a span.
    pub sampling: Sampling,
    /// `service.name`; `keytally` by default.
    pub service_name: Option<String>,
    /// Further resource attributes.
    pub resource: Vec<(String, String)>,
    /// Spans that may wait.
    pub max_queue: usize,
    /// Spans in one request.
    pub max_batch: usize,
    /// Longest wait for a batch to fill.
    pub delay: Duration,
    /// Longest time for one batch, retries included.
    pub batch_timeout: Duration,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self {
            otlp: OtlpSettings::default(),
            profile: Profile::default(),
            semconv: Semconv::default(),
            server_span: false,
            sampling: Sampling::default(),
            service_name: None,
            resource: Vec::new(),
            max_queue: MAX_QUEUE,
            max_batch: MAX_BATCH,
            delay: DELAY,
            batch_timeout: BATCH_TIMEOUT,
        }
    }
}

/// Why traces cannot be exported as they are set.
#[derive(Debug, Error)]
pub enum OtlpError {
    /// Not an address.
    #[error("otlp endpoint \"{endpoint}\": {reason}; write for instance http://127.0.0.1:4318")]
    Endpoint {
        /// As given, without user and password.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// A header that HTTP does not allow.
    #[error("otlp header \"{name}\": not allowed in HTTP; names are letters, digits and dashes, values visible ASCII")]
    Header {
        /// Its name; the value may be a secret.
        name: String,
    },
    /// A certificate or key file.
    #[error("{}: {reason}", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not fit, or the exporter refused its settings.
    #[error("otlp exporter: {0}")]
    Exporter(String),
}

impl OtlpSettings {
    /// Where requests go.
    ///
    /// # Errors
    /// When no endpoint is set or it is not an `http` or `https` address without user and password.
    pub fn url(&self) -> Result<&Url, OtlpError> {
        let shown = |url: &Url| format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        let wrong = |endpoint: String, reason: &str| OtlpError::Endpoint { endpoint, reason: reason.to_owned() };
        let url = self.endpoint.as_ref().ok_or_else(|| wrong(String::new(), "no address"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong(shown(url), "not an http or https address"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(shown(url), "user and password are not sent; use an authorization header"));
        }
        Ok(url)
    }
}

impl TraceSettings {
    /// Which calls get a span; `None`: none does.
    pub(super) fn sampling(&self) -> Option<Arc<Sampling>> {
        (self.profile != Profile::Off).then(|| Arc::new(self.sampling.clone()))
    }

    pub(super) fn spans(&self) -> Spans {
        Spans::new(self.profile, self.semconv, self.server_span)
    }
}
