//! Spans to an OTLP collector, in batches, over HTTP or gRPC.
//!
//! One task owns the connection: it takes records off the bounded queue, makes spans, sends one batch at a time, and counts
//! what the collector does not take. Each batch has a deadline, retries included; a collector that is dead, slow or answers
//! nonsense costs its batch and nothing else. The proxy variables are not used here: collectors are local or in the cluster.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::KeyValue;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{
    Compression, Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::SpanExporter as _;
use prost::Message as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;

use super::queue::{DropReason, Intake};
use super::settings::{OtlpError, OtlpProtocol, OtlpSettings, TraceSettings};
use super::trace_context;
use super::traces::{SCHEMA_URL_1_41, Spans};
use crate::call::CallRecord;
use crate::files;

/// Longest wait for a TCP connection to the collector.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits of 0.25, 0.5, 1, 2 and 4 s fill the default request timeout of 10 s, which ends them in any case: a collector that
/// restarts within it costs no span.
fn retries() -> RetryPolicy {
    let policy = RetryPolicy::recommended().with_max_retries(6);
    policy.with_initial_delay(Duration::from_millis(250)).with_max_delay(Duration::from_secs(4))
}

type Connector = HttpsConnector<HttpConnector>;

/// Sends batches of spans; one batch at a time.
pub(super) struct Exporter {
    inner: SpanExporter,
    seen: Arc<Seen>,
}

/// What the HTTP client saw and the exporter's own result does not say.
#[derive(Debug, Default)]
struct Seen {
    /// Spans in accepted batches that the collector says it threw away.
    rejected: AtomicU64,
    /// The last transport error.
    error: Mutex<Option<String>>,
}

impl Exporter {
    /// Checks all settings and prepares the connection; nothing is sent yet. Needs a Tokio runtime.
    pub fn new(settings: &TraceSettings) -> Result<Self, OtlpError> {
        let otlp = &settings.otlp;
        let url = otlp.url()?;
        let headers = headers(otlp)?;
        let seen = Arc::new(Seen::default());
        let refused = |error: &dyn std::fmt::Display| OtlpError::Exporter(error.to_string());
        let mut inner = match otlp.protocol {
            OtlpProtocol::HttpProtobuf => {
                let client = Client {
                    inner: HyperClient::new(connector(otlp, url, false)?, otlp.timeout, None),
                    headers,
                    seen: seen.clone(),
                };
                let mut builder = SpanExporter::builder()
                    .with_http()
                    .with_protocol(Protocol::HttpBinary)
                    .with_endpoint(url.as_str())
                    .with_timeout(otlp.timeout)
                    .with_retry_policy(retries())
                    .with_http_client(client);
                if otlp.gzip {
                    builder = builder.with_compression(Compression::Gzip);
                }
                builder.build().map_err(|error| refused(&error))?
            }
            OtlpProtocol::Grpc => {
                let endpoint = Endpoint::from_shared(url.to_string()).map_err(|error| refused(&error))?;
                let channel = endpoint.timeout(otlp.timeout).connect_with_connector_lazy(connector(otlp, url, true)?);
                let mut builder = SpanExporter::builder()
                    .with_tonic()
                    .with_timeout(otlp.timeout)
                    .with_retry_policy(retries())
                    .with_interceptor(move |mut request: tonic::Request<()>| {
                        let mut all = std::mem::take(request.metadata_mut()).into_headers();
                        all.extend(headers.clone());
                        *request.metadata_mut() = MetadataMap::from_headers(all);
                        Ok(request)
                    })
                    .with_channel(channel);
                if otlp.gzip {
                    builder = builder.with_compression(Compression::Gzip);
                }
                builder.build().map_err(|error| refused(&error))?
            }
        };
        inner.set_resource(&resource(settings));
        Ok(Self { inner, seen })
    }
}

/// The HTTP client of the exporter; keeps what it sees.
struct Client {
    inner: HyperClient<Connector>,
    /// Put on each request here: the exporter crate by itself would let the environment override the settings.
    headers: HeaderMap,
    seen: Arc<Seen>,
}

/// Header values are often secrets.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        mut request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        Box::pin(async move {
            let result = self.inner.send_bytes(request).await;
            match &result {
                Ok(response) if response.status().is_success() => {
                    let partial = ExportTraceServiceResponse::decode(&**response.body()).ok();
                    let rejected = partial.and_then(|body| body.partial_success).map_or(0, |part| part.rejected_spans);
                    self.seen.rejected.fetch_add(u64::try_from(rejected).unwrap_or(0), Ordering::Relaxed);
                }
                Ok(_) => {}
                Err(error) => {
                    let mut text = error.to_string();
                    let mut cause = error.source();
                    while let Some(error) = cause {
                        text = format!("{text}: {error}");
                        cause = error.source();
                    }
                    *self.seen.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
                }
            }
            result
        })
    }
}

fn headers(otlp: &OtlpSettings) -> Result<HeaderMap, OtlpError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &otlp.headers.0 {
        let wrong = || OtlpError::Header { name: name.clone() };
        let parsed = name.parse::<HeaderName>().map_err(|_| wrong())?;
        headers.insert(parsed, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    Ok(headers)
}

/// Plain TCP for `http`, TLS for `https`; ALPN for HTTP/2 when gRPC needs it.
fn connector(otlp: &OtlpSettings, url: &url::Url, http2: bool) -> Result<Connector, OtlpError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    // Roots are only loaded when they are needed.
    let roots = if url.scheme() == "https" { roots(otlp)? } else { rustls::RootCertStore::empty() };
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| OtlpError::Exporter(error.to_string()))?
        .with_root_certificates(roots);
    let tls = match (&otlp.client_certificate, &otlp.client_key) {
        (Some(chain), Some(key)) => {
            let wrong = |reason: String| OtlpError::Certificate { path: key.clone(), reason };
            let bytes = files::read(key, files::MAX_CERTIFICATE_BYTES).map_err(|error| wrong(error.to_string()))?;
            let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
            tls.with_client_auth_cert(certificates(chain)?, key)
                .map_err(|error| OtlpError::Exporter(format!("client certificate: {error}")))?
        }
        (None, None) => tls.with_no_client_auth(),
        _ => {
            let reason = "client certificate and client key go together; set both or none";
            return Err(OtlpError::Exporter(reason.to_owned()));
        }
    };
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    Ok(if http2 { builder.enable_http2().wrap_connector(tcp) } else { builder.enable_http1().wrap_connector(tcp) })
}

/// The system's authorities, else Mozilla's; on top the given ones.
fn roots(otlp: &OtlpSettings) -> Result<rustls::RootCertStore, OtlpError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = &otlp.ca_file {
        for certificate in certificates(path)? {
            let wrong = |error: rustls::Error| OtlpError::Certificate { path: path.clone(), reason: error.to_string() };
            roots.add(certificate).map_err(wrong)?;
        }
    }
    Ok(roots)
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, OtlpError> {
    let wrong = |reason: String| OtlpError::Certificate { path: path.to_owned(), reason };
    let bytes = files::read(path, files::MAX_CERTIFICATE_BYTES).map_err(|error| wrong(error.to_string()))?;
    let list = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let list = list.map_err(|error| wrong(error.to_string()))?;
    if list.is_empty() {
        Err(wrong("no certificate in it; give a PEM file with CERTIFICATE blocks".to_owned()))
    } else {
        Ok(list)
    }
}

/// Who sends: this sidecar, never the application beside it. Settings win over what is known here.
fn resource(settings: &TraceSettings) -> Resource {
    let id = uuid(trace_context::new_trace_id());
    let own = [
        KeyValue::new("service.name", "keytally"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", id),
    ];
    let set = settings.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    let name = settings.service_name.iter().map(|name| KeyValue::new("service.name", name.clone()));
    Resource::builder_empty()
        .with_schema_url(own, SCHEMA_URL_1_41)
        .with_attributes(set)
        .with_attributes(name)
        .with_detector(Box::new(TelemetryResourceDetector))
        .build()
}

/// Random bits as a version 4 UUID, the form that the conventions recommend for `service.instance.id`.
fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0b11 << 62) | (0x4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Takes records off the queue until it is closed and empty, or until the moment in `stop` has passed.
pub(super) struct Batcher {
    pub intake: Intake<Arc<CallRecord>>,
    pub exporter: Exporter,
    /// Makes spans; another one after a reload.
    pub spans: Arc<ArcSwap<Spans>>,
    pub max_batch: usize,
    pub delay: Duration,
    pub batch_timeout: Duration,
    /// Set once, at shutdown: the moment after which nothing is sent any more.
    pub stop: watch::Receiver<Option<Instant>>,
}

impl Batcher {
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        while self.intake.take(&mut batch, self.max_batch, 1).await > 0 {
            let room = self.max_batch - batch.len();
            if room > 0 {
                let more = self.intake.take(&mut batch, room, room);
                if tokio::time::timeout(self.delay, more).await.is_err() {
                    self.intake.take_waiting(&mut batch, room);
                }
            }
            self.export(&mut batch).await;
        }
    }

    async fn export(&mut self, batch: &mut Vec<Arc<CallRecord>>) {
        let count = batch.len();
        let spans = self.spans.load_full();
        let spans = batch.drain(..).flat_map(|record| spans.of(&record)).collect();
        let limit = tokio::time::sleep(self.batch_timeout);
        tokio::pin!(limit);
        let export = self.exporter.inner.export(spans);
        tokio::pin!(export);
        let result = loop {
            let stop = *self.stop.borrow_and_update();
            // Dropping `export` gives the batch up: it is counted below.
            tokio::select! {
                result = &mut export => break result.map_err(|error| (DropReason::ExportFailed, error.to_string())),
                () = &mut limit => {
                    let error = format!("no answer within {:?}", self.batch_timeout);
                    break Err((DropReason::ExportFailed, error));
                }
                () = tokio::time::sleep_until(stop.unwrap_or_else(Instant::now)), if stop.is_some() => {
                    break Err((DropReason::Shutdown, "the process ends".to_owned()));
                }
                changed = self.stop.changed(), if stop.is_none() => if changed.is_err() {
                    break Err((DropReason::Shutdown, "the process ends".to_owned()));
                },
            }
        };
        let detail = self.exporter.seen.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let rejected = self.exporter.seen.rejected.swap(0, Ordering::Relaxed).min(count as u64);
        match result {
            Ok(()) => {
                self.intake.exported(count);
                if rejected > 0 {
                    self.intake.rejected(rejected as usize);
                    self.intake
                        .failed(rejected as usize, &"the collector took the batch and rejected some of its spans");
                } else {
                    self.intake.worked();
                }
            }
            Err((reason, error)) => {
                self.intake.lost(count, reason);
                let error = detail.map_or(error.clone(), |detail| format!("{error}: {detail}"));
                self.intake.failed(count, &error);
            }
        }
    }
}
