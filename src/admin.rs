//! The admin port: what the sidecar says of itself over HTTP/1. It never proxies and changes nothing.
//!
//! | path | answer |
//! |---|---|
//! | `/` | the status page for a browser (`Accept: text/html`), one line that names the others for everybody else |
//! | `/metrics` | every series, text 0.0.4 or OpenMetrics 1.0 as `Accept` says, gzip if accepted |
//! | `/livez` | 200 while the process serves |
//! | `/readyz` | 200, or 503 with the reason |
//! | `/status` | JSON: build, configuration, listeners, exporters, and per key what it does and what to fix first |
//! | `/status/live` | JSON: what wants attention, keys with spend by minute, today and this month, models, clients, outcomes, findings, last calls |
//!
//! `/` and `/status/live` take `?key=…&outcome=…` (and `provider`, `model`, `client`): names or fingerprints, `failed` for any
//! failure. The filter holds for the last calls; the page shows the keys that fit as well.
//!
//! GET and HEAD only. Requests whose `Host` is a foreign DNS name are refused, so that a web page cannot read this port
//! by DNS rebinding. Bounds: 64 connections, 16 KiB and 64 fields of header within 10 s, 2 minutes a connection,
//! 2 encodings of the series at a time. Request bodies are not read. No key is ever shown: keys are names and
//! fingerprints here.

mod answer;
pub mod overview;
mod page;
pub mod text;

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::answer::{Answer, BodySize, accepts_gzip, html, joined, json, text, wants_html, zip};
use crate::export::live::{Filter, Live};
use crate::export::metrics::{DropReason, KeyStatus, Metrics, Signal, rfc3339};

/// Scrapers, probes and a few people; more wait in the accept queue.
const MAX_CONNECTIONS: usize = 64;
/// Each holds a copy of the series and their text.
const MAX_ENCODINGS: usize = 2;
const HEADER_BYTES: usize = 16 * 1024;
const HEADER_FIELDS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is closed after this, however slowly it reads; scrapers connect again.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(120);
/// What is in flight at shutdown may take this long.
const DRAIN: Duration = Duration::from_secs(5);
/// After an accept error, for instance too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Smaller answers are not worth compressing.
const GZIP_FROM: usize = 1024;

/// Longest value of a filter: key names, models and outcomes are shorter.
const FILTER_BYTES: usize = 256;

const INDEX: &str = "keytally admin: / (in a browser) /metrics /livez /readyz /status /status/live\n";

/// What the rest of the process tells `/readyz` and `/status`. Called on every request: keep it cheap, without I/O.
pub trait StatusSource: Send + Sync + 'static {
    /// Ready to take calls.
    ///
    /// # Errors
    /// Why not, for a person to read.
    fn ready(&self) -> Result<(), String>;

    /// Text of a first fix, by its id; `worked` is how long before the key had worked.
    fn fix(&self, id: &str, worked: Option<Duration>) -> Option<String>;

    /// The state of the rooms.
    fn status(&self) -> RoomStatus;
}

/// The state of the rooms, as `/status` shows it. No secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoomStatus {
    /// Configuration file; `None` when there is none.
    pub config_path: Option<String>,
    /// Why the last reload was refused.
    pub config_error: Option<String>,
    /// Open listeners.
    pub listeners: Vec<ListenerStatus>,
    /// Exporters and how they fare.
    pub exporters: Vec<ExporterStatus>,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// For instance `proxy`.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// An exporter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExporterStatus {
    /// For instance `traces`.
    pub name: String,
    /// Its last attempt went well.
    pub healthy: bool,
    /// The last error, or where it writes to.
    pub detail: Option<String>,
}

#[derive(Serialize)]
struct StatusPage<'a> {
    version: &'a str,
    revision: &'a str,
    started: String,
    uptime_seconds: u64,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready_reason: Option<String>,
    config: ConfigStatus,
    price_book_date: Option<String>,
    listeners: Vec<ListenerStatus>,
    exporters: Vec<ExporterStatus>,
    telemetry_dropped: serde_json::Map<String, serde_json::Value>,
    keys: Vec<KeyStatus>,
}

#[derive(Serialize)]
struct ConfigStatus {
    path: Option<String>,
    last_reload_successful: Option<bool>,
    loaded: Option<String>,
    error: Option<String>,
}

/// The admin port's routes and what they show.
pub struct Admin {
    metrics: Metrics,
    live: Arc<Live>,
    source: Arc<dyn StatusSource>,
    hosts: Vec<String>,
    encodings: Semaphore,
    bounds: Bounds,
}

/// A value, so that tests need not wait.
struct Bounds {
    connections: usize,
    header_timeout: Duration,
    lifetime: Duration,
}

impl Admin {
    /// `hosts` are DNS names, without port, by which this port may be asked for on top of addresses, `localhost` and
    /// names without a dot.
    pub fn new(metrics: Metrics, live: Arc<Live>, source: Arc<dyn StatusSource>, hosts: Vec<String>) -> Self {
        let hosts = hosts.into_iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase()).collect();
        let bounds =
            Bounds { connections: MAX_CONNECTIONS, header_timeout: HEADER_TIMEOUT, lifetime: CONNECTION_LIFETIME };
        Self { metrics, live, source, hosts, encodings: Semaphore::new(MAX_ENCODINGS), bounds }
    }

    /// Serves until `shutdown` ends, then lets what is in flight end within 5 s.
    ///
    /// Dropping the returned future closes the listener at once; connections already accepted end on their own.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let admin = Arc::new(self);
        let graceful = GracefulShutdown::new();
        let permits = Arc::new(Semaphore::new(admin.bounds.connections));
        let mut shutdown = pin!(shutdown);
        loop {
            // Nothing is lost when the other branch wins: a permit not used is given back, accept is cancel safe.
            let (stream, permit) = tokio::select! {
                biased;
                () = &mut shutdown => break,
                (stream, permit) = accept(&listener, &permits) => (stream, permit),
            };
            let (header_timeout, lifetime) = (admin.bounds.header_timeout, admin.bounds.lifetime);
            let admin = admin.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let admin = admin.clone();
                async move { Ok::<_, Infallible>(admin.respond(&request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(header_timeout)
                .max_headers(HEADER_FIELDS)
                .max_buf_size(HEADER_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // Errors here are the peer's: it went away, sent no HTTP, or was too slow.
                let _ = tokio::time::timeout(lifetime, connection).await;
                drop(permit);
            });
        }
        drop(listener);
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!(seconds = DRAIN.as_secs(), "admin connections did not end in time");
        }
    }

    /// Answers one request.
    async fn respond<B>(&self, request: &Request<B>) -> Answer {
        let mut answer = self.route(request).await;
        if request.method() == Method::HEAD {
            let length = answer.body_mut().size();
            *answer.body_mut() = Full::default();
            answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        answer
    }

    async fn route<B>(&self, request: &Request<B>) -> Answer {
        if let Some(refusal) = self.refuse_host(request) {
            return refusal;
        }
        let path = request.uri().path();
        if !matches!(path, "/" | "/metrics" | "/livez" | "/readyz" | "/status" | "/status/live") {
            return text(StatusCode::NOT_FOUND, format!("no such page; {INDEX}"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer =
                text(StatusCode::METHOD_NOT_ALLOWED, String::from("method not allowed; use GET or HEAD\n"));
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path {
            "/metrics" => self.metrics(request.headers()).await,
            "/livez" => text(StatusCode::OK, String::from("ok\n")),
            "/readyz" => match self.source.ready() {
                Ok(()) => text(StatusCode::OK, String::from("ok\n")),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
            },
            "/status" => self.status(),
            "/status/live" => json(&self.overview(&filter(request.uri().query()))),
            _ if wants_html(request.headers()) => {
                let filter = filter(request.uri().query());
                html(page::render(&self.overview(&filter), &filter))
            }
            _ => {
                let mut answer = text(StatusCode::OK, String::from(INDEX));
                answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
                answer
            }
        }
    }

    async fn metrics(&self, headers: &HeaderMap) -> Answer {
        let accept = joined(headers, header::ACCEPT);
        let gzip = joined(headers, header::ACCEPT_ENCODING).is_some_and(|accepted| accepts_gzip(&accepted));
        // Never closed.
        let _permit = self.encodings.acquire().await;
        let metrics = self.metrics.clone();
        let encoded = tokio::task::spawn_blocking(move || {
            let (content_type, text) = metrics.encode(accept.as_deref());
            let zipped = (gzip && text.len() >= GZIP_FROM).then(|| zip(&text)).flatten();
            (content_type, zipped.is_some(), zipped.unwrap_or(text))
        });
        let Ok((content_type, zipped, body)) = encoded.await else {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                String::from("metrics could not be written; see the log\n"),
            );
        };
        let mut answer = Response::new(Full::from(body));
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
        if zipped {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }

    fn status(&self) -> Answer {
        let (config, facts, rooms) = (self.metrics.config(), self.metrics.facts(), self.source.status());
        let ready = self.source.ready();
        let dropped = Signal::ALL.iter().map(|&signal| {
            let sum: u64 = DropReason::ALL.iter().map(|&reason| self.metrics.dropped_so_far(signal, reason)).sum();
            (signal.as_str().into(), sum.into())
        });
        let mut keys = self.metrics.keys();
        for verdict in keys.iter_mut().flat_map(|key| [&mut key.last, &mut key.last_failure]).flatten() {
            verdict.fix = verdict.first_fix.as_deref().and_then(|id| self.source.fix(id, verdict.worked_before));
        }
        let page = StatusPage {
            version: &config.version,
            revision: &config.revision,
            started: rfc3339(self.metrics.started()),
            uptime_seconds: self.metrics.uptime().as_secs(),
            ready: ready.is_ok(),
            not_ready_reason: ready.err(),
            config: ConfigStatus {
                path: rooms.config_path,
                last_reload_successful: facts.reload_ok,
                loaded: facts.reloaded.map(rfc3339),
                error: rooms.config_error,
            },
            price_book_date: facts.price_book.map(rfc3339),
            listeners: rooms.listeners,
            exporters: rooms.exporters,
            telemetry_dropped: dropped.collect(),
            keys,
        };
        json(&page)
    }

    fn overview(&self, filter: &Filter) -> overview::Overview {
        overview::overview(&self.metrics, &self.live, &*self.source, filter, SystemTime::now())
    }

    /// A page in a browser can make its own name resolve to this address, but it cannot change the `Host` it sends.
    fn refuse_host<B>(&self, request: &Request<B>) -> Option<Answer> {
        let mut given = request.headers().get_all(header::HOST).iter();
        let (host, second) = (given.next(), given.next());
        let named = request.uri().authority().map(|authority| authority.as_str().to_owned());
        let stated = match (host.map(HeaderValue::to_str), second) {
            (Some(Ok(host)), None) => Some(host.to_owned()),
            // HTTP/1.0 probes send none; browsers always do.
            (None, None) if request.version() == http::Version::HTTP_10 => None,
            _ => return Some(text(StatusCode::BAD_REQUEST, String::from("send exactly one readable Host header\n"))),
        };
        for host in stated.into_iter().chain(named) {
            if !self.is_own_host(&host) {
                let host: String = host.chars().take(100).filter(|c| c.is_ascii_graphic()).collect();
                let why = format!(
                    "host \"{host}\" is not served here; use an IP address or localhost, or add the name to \
                     listen.admin_hosts\n"
                );
                return Some(text(StatusCode::MISDIRECTED_REQUEST, why));
            }
        }
        None
    }

    fn is_own_host(&self, authority: &str) -> bool {
        let Ok(parsed) = authority.parse::<http::uri::Authority>() else { return false };
        // Host and port and nothing else: no user, no text after an address in brackets.
        let port = authority.strip_prefix(parsed.host());
        if !port.is_some_and(|port| port.is_empty() || port.strip_prefix(':').is_some_and(|n| n.parse::<u16>().is_ok()))
        {
            return false;
        }
        let host = parsed.host().trim_end_matches('.').to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        // A name without a dot (a container's or a service's) is nobody's domain, so no page can be served under it.
        address.parse::<IpAddr>().is_ok()
            || host.ends_with(".localhost")
            || (!host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
            || self.hosts.contains(&host)
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (tokio::net::TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
    // Never closed, so this is `None` never; permit first, so that the queue is the kernel's.
    let permit = permits.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!(%error, "admin port could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What a query asks for; empty values, as an untouched form sends them, and names that are no filter say nothing.
fn filter(query: Option<&str>) -> Filter {
    let mut filter = Filter::default();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let place = match &*name {
            "key" => &mut filter.key,
            "provider" => &mut filter.provider,
            "model" => &mut filter.model,
            "outcome" => &mut filter.outcome,
            "client" => &mut filter.client,
            _ => continue,
        };
        if !value.is_empty() && value.len() <= FILTER_BYTES {
            *place = Some(value.into_owned());
        }
    }
    filter
}

#[cfg(test)]
mod tests;
