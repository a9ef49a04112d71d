//! Stage 4: the pooled client to the real provider. Sends what it is given, once; never retries a request that may
//! have been seen by the provider; tells why when nobody could be reached.
//!
//! Two pools share one connector: one that lets TLS choose HTTP/2 or HTTP/1.1, and one of HTTP/1.1 only, for upgrades
//! (WebSocket), which HTTP/2 connections cannot carry.

mod connect;
mod pool;
mod reach;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Body;
use tokio::net::TcpStream;

use crate::call::GeneratedError;
use crate::config::UpstreamProxy;
pub use connect::{ConnectError, Connector, Opened, Roots};
use pool::Pool;
pub use pool::{Answer, Received};
pub use reach::{Forbidden, Reach};

/// How upstream connections are made; see `docs/configuration.md`, `upstream`.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// DNS, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// An idle connection is closed after this long, before providers close it themselves (60 s and more are seen).
    pub pool_idle_timeout: Duration,
    /// Offer HTTP/2 in TLS.
    pub http2: bool,
    /// Further certificate authorities, PEM, on top of the system's (or bundled) roots.
    pub ca_files: Vec<std::path::PathBuf>,
    /// Forward proxy.
    pub proxy: UpstreamProxy,
    /// Most bytes of an answer's head.
    pub header_bytes: usize,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            pool_idle_timeout: Duration::from_secs(30),
            http2: true,
            ca_files: Vec::new(),
            proxy: UpstreamProxy::Environment,
            header_bytes: 1 << 20,
        }
    }
}

/// The pooled client.
pub struct Upstream<B> {
    settings: UpstreamSettings,
    connectors: [Connector; 2],
    any: Pool<B>,
    http1: Pool<B>,
}

/// Why no answer came.
#[derive(Debug)]
pub struct UpstreamError {
    /// The class of the failure.
    pub kind: GeneratedError,
    /// One line without secrets: host, port and the operating system's or TLS library's words.
    pub detail: String,
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Send + 'static + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Builds both pools. `opened` makes a guard for each connection, which lives as long as it does.
    ///
    /// # Errors
    /// A certificate file that cannot be read, or a proxy URL that cannot be used.
    pub fn new(settings: &UpstreamSettings, opened: &Opened) -> anyhow::Result<Self> {
        let roots = Roots::load(&settings.ca_files)?;
        let any = Connector::new(settings, &roots, settings.http2, opened)?;
        let http1 = Connector::new(settings, &roots, false, opened)?;
        Ok(Self::pooled(settings.clone(), [any, http1]))
    }

    /// One with pools of its own that connects only to what `reach` allows.
    pub fn within(&self, reach: &Arc<Reach>) -> Self {
        let connectors = self.connectors.each_ref().map(|connector| connector.within(Arc::clone(reach)));
        Self::pooled(self.settings.clone(), connectors)
    }

    fn pooled(settings: UpstreamSettings, connectors: [Connector; 2]) -> Self {
        let [any, http1] = connectors.each_ref().map(|connector| Pool::new(connector.clone(), &settings));
        Self { settings, connectors, any, http1 }
    }

    /// A connection of its own for a blind tunnel, and what counts it as open.
    ///
    /// # Errors
    /// Which step of connecting failed, or why `reach` does not allow it.
    pub async fn raw(
        &self,
        host: &str,
        port: u16,
        reach: &Arc<Reach>,
    ) -> Result<(TcpStream, Box<dyn Send>), ConnectError> {
        self.connectors[1].within(Arc::clone(reach)).raw(host, port).await
    }

    /// Sends one request and waits for the head of its answer. Dropping the future cancels the call upstream: HTTP/1
    /// closes the connection, HTTP/2 resets the stream.
    ///
    /// # Errors
    /// See [`UpstreamError`]; a request is only ever sent again when its connection had closed before taking any of it.
    pub async fn send(&self, request: Request<B>, upgrade: bool) -> Result<Answer<B>, UpstreamError> {
        let pool = if upgrade { &self.http1 } else { &self.any };
        pool.send(request).await
    }
}

impl UpstreamError {
    /// The connection broke off before the answer's head.
    fn broken(error: &hyper::Error) -> Self {
        Self { kind: GeneratedError::Reset, detail: chain(error) }
    }

    /// The request itself cannot be sent.
    fn unfit(detail: &str) -> Self {
        Self { kind: GeneratedError::BadRequest, detail: detail.to_owned() }
    }
}

impl From<ConnectError> for UpstreamError {
    fn from(error: ConnectError) -> Self {
        Self { kind: error.kind, detail: error.detail }
    }
}

/// The first error of type `T` in the chain of sources.
pub fn find_source<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref() {
            return Some(found);
        }
        // An `io::Error` made from another error hides it from `source`.
        if let Some(inner) = current.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()) {
            next = Some(inner);
            continue;
        }
        next = current.source();
    }
    None
}

/// The words of an error and of its causes on one line, at most 300 bytes.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    if text.len() > 300 {
        let end = (0..=300).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
