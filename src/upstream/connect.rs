//! Makes one upstream connection: DNS, TCP (directly or through an HTTP proxy), TLS. Says which of them failed.
//!
//! Bounds: the whole takes at most the connect timeout; addresses of both families are raced (RFC 8305).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::reach::{Forbidden, Reach};
use super::{UpstreamSettings, chain, find_source};
use crate::call::GeneratedError;
use crate::config::UpstreamProxy;
use crate::files;

/// Roots of trust for upstream TLS: the system's, or the bundled Mozilla set where the system has none, plus files.
pub struct Roots(RootCertStore);

impl Roots {
    /// Loads them once.
    ///
    /// # Errors
    /// A `ca_file` that cannot be read or holds no certificate.
    pub fn load(ca_files: &[std::path::PathBuf]) -> anyhow::Result<Self> {
        let mut store = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(system.certs);
        let bundled = store.is_empty();
        if bundled {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        tracing::debug!(bundled, roots = store.len(), "certificate authorities");
        for path in ca_files {
            add_file(&mut store, path)?;
        }
        Ok(Self(store))
    }

    /// Whether a `ca_file` can be used.
    ///
    /// # Errors
    /// As [`Roots::load`].
    pub fn check(ca_file: &std::path::Path) -> anyhow::Result<()> {
        add_file(&mut RootCertStore::empty(), ca_file)
    }
}

fn add_file(store: &mut RootCertStore, path: &std::path::Path) -> anyhow::Result<()> {
    let shown = path.display();
    let mut added = 0;
    let bytes = files::read(path, files::MAX_CERTIFICATE_BYTES).with_context(|| shown.to_string())?;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.with_context(|| format!("{shown}: not PEM"))?;
        store.add(certificate).with_context(|| format!("{shown}: not a certificate authority"))?;
        added += 1;
    }
    anyhow::ensure!(added > 0, "{shown}: no certificate in it; give a PEM file with CERTIFICATE blocks");
    Ok(())
}

/// Which step of connecting failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct ConnectError {
    /// The step.
    pub kind: GeneratedError,
    /// Host, port and cause in one line.
    pub detail: String,
}

/// Makes the guard that counts a connection as open.
pub type Opened = Arc<dyn Fn() -> Box<dyn Send> + Send + Sync>;

/// The connector of both pools.
#[derive(Clone)]
pub struct Connector {
    opened: Opened,
    tcp: HttpConnector<Resolver>,
    tls: TlsConnector,
    proxies: Arc<Matcher>,
    timeout: Duration,
    /// Checks addresses before they are connected to; `None` where the configuration names the host.
    reach: Option<Arc<Reach>>,
}

impl Connector {
    pub(super) fn new(
        settings: &UpstreamSettings,
        roots: &Roots,
        http2: bool,
        opened: &Opened,
    ) -> anyhow::Result<Self> {
        let mut tcp = HttpConnector::new_with_resolver(Resolver(None));
        set_up(&mut tcp);
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_root_certificates(roots.0.clone())
            .with_no_client_auth();
        if http2 {
            tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        } else {
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        let proxies = match &settings.proxy {
            UpstreamProxy::Environment => Matcher::from_env(),
            UpstreamProxy::Off => Matcher::builder().build(),
            UpstreamProxy::Through(proxy) => {
                let except = ["NO_PROXY", "no_proxy"].iter().find_map(|name| std::env::var(name).ok());
                Matcher::builder().all(proxy.as_str()).no(except.unwrap_or_default()).build()
            }
        };
        let (tls, proxies, timeout) = (Arc::new(tls).into(), Arc::new(proxies), settings.connect_timeout);
        Ok(Self { opened: Arc::clone(opened), tcp, tls, proxies, timeout, reach: None })
    }

    /// The same, which connects only to what `reach` allows.
    pub(super) fn within(&self, reach: Arc<Reach>) -> Self {
        Self { reach: Some(reach), ..self.clone() }
    }

    /// A connection that nothing is sent over yet, through the proxy on the way if there is one; and what counts it as
    /// open.
    pub(super) async fn raw(self, host: &str, port: u16) -> Result<(TcpStream, Box<dyn Send>), ConnectError> {
        let target = format!("{host}:{port}");
        let uri = Uri::builder().scheme("https").authority(target.as_str()).path_and_query("/").build();
        let uri = uri.map_err(|error| ConnectError { kind: GeneratedError::BadRequest, detail: error.to_string() })?;
        let opened = Arc::clone(&self.opened);
        let (stream, _) = in_time(self.timeout, &target, self.clone().reach_host(&uri, &target, true)).await?;
        Ok((stream, opened()))
    }

    /// A connection that requests can be sent over.
    pub(super) async fn connect(self, uri: Uri) -> Result<UpstreamIo, ConnectError> {
        let opened = Arc::clone(&self.opened);
        let target = format!("{}:{}", uri.host().unwrap_or("?"), port(&uri));
        let outcome = in_time(self.timeout, &target, self.connect_steps(uri, &target)).await;
        outcome.map(|(stream, proxied)| UpstreamIo { stream, proxied, _open: opened() })
    }

    /// DNS and TCP, directly or through a proxy; `tunnel`: the proxy is asked to pass bytes on. The second part says that
    /// requests go to a proxy, in absolute form.
    async fn reach_host(mut self, uri: &Uri, target: &str, tunnel: bool) -> Result<(TcpStream, bool), ConnectError> {
        let forbidden = |error: &Forbidden| ConnectError { kind: GeneratedError::Forbidden, detail: error.to_string() };
        if let Some(reach) = self.reach.take() {
            reach.host(uri.host().unwrap_or_default(), port(uri)).map_err(|error| forbidden(&error))?;
            self.tcp = HttpConnector::new_with_resolver(Resolver(Some((reach, port(uri)))));
            set_up(&mut self.tcp);
        }
        let Some(proxy) = self.proxies.intercept(uri) else {
            let connected = self.tcp.call(uri.clone()).await;
            let tcp = connected.map_err(|error| match find_source::<Forbidden>(&error) {
                Some(error) => forbidden(error),
                None => tcp_error(target, &error),
            })?;
            return Ok((tcp.into_inner(), false));
        };
        // The proxy may well be on this machine: what is checked is where it is asked to connect.
        let mut tcp = HttpConnector::new_with_resolver(Resolver(None));
        set_up(&mut tcp);
        let proxy_target = format!("{}:{}", proxy.uri().host().unwrap_or("?"), port(proxy.uri()));
        let fail = |error: &(dyn std::error::Error + 'static)| ConnectError {
            kind: GeneratedError::Proxy,
            detail: format!("{target} through proxy {proxy_target}: {}", chain(error)),
        };
        if !tunnel {
            let tcp = tcp.call(proxy.uri().clone()).await.map_err(|error| fail(&error))?;
            return Ok((tcp.into_inner(), true));
        }
        let mut through = Tunnel::new(proxy.uri().clone(), tcp);
        if let Some(auth) = proxy.basic_auth() {
            through = through.with_auth(auth.clone());
        }
        let tcp = through.call(uri.clone()).await.map_err(|error| fail(&error))?;
        Ok((tcp.into_inner(), false))
    }

    async fn connect_steps(self, uri: Uri, target: &str) -> Result<(UpstreamStream, bool), ConnectError> {
        let https = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let tls = self.tls.clone();
        let (tcp, absolute_form) = self.reach_host(&uri, target, https).await?;
        if !https {
            return Ok((UpstreamStream::Plain { io: TokioIo::new(tcp) }, absolute_form));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls_error =
            |detail: String| ConnectError { kind: GeneratedError::Tls, detail: format!("{target}: {detail}") };
        let name = ServerName::try_from(host).map_err(|_| tls_error("not a host name that TLS can check".into()))?;
        let tls = tls.connect(name, tcp).await.map_err(|error| tls_error(chain(&error)))?;
        Ok((UpstreamStream::Tls { io: TokioIo::new(Box::new(tls)) }, absolute_form))
    }
}

fn set_up(tcp: &mut HttpConnector<Resolver>) {
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_secs(60)));
}

/// Gives up when connecting takes too long.
async fn in_time<T>(
    timeout: Duration,
    target: &str,
    connecting: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    tokio::time::timeout(timeout, connecting).await.unwrap_or_else(|_| {
        let detail = format!("{target}: no connection within {} s", timeout.as_secs_f64());
        Err(ConnectError { kind: GeneratedError::ConnectTimeout, detail })
    })
}

fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme() == Some(&http::uri::Scheme::HTTPS) { 443 } else { 80 })
}

fn tcp_error(target: &str, error: &(dyn std::error::Error + 'static)) -> ConnectError {
    let kind = if find_source::<DnsError>(error).is_some() { GeneratedError::Dns } else { GeneratedError::Connect };
    ConnectError { kind, detail: format!("{target}: {}", chain(error)) }
}

// === impl Resolver ===

/// With the port that will be connected to, where addresses are checked.
#[derive(Clone)]
struct Resolver(Option<(Arc<Reach>, u16)>);

#[derive(Debug, thiserror::Error)]
#[error("name does not resolve: {0}")]
struct DnsError(io::Error);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.0.clone();
        Box::pin(async move {
            let mut found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await.map_err(DnsError)?.collect();
            if let Some((reach, port)) = reach {
                let mut forbidden = None;
                found.retain(|address| {
                    let checked = reach.address(SocketAddr::new(address.ip(), port));
                    let allowed = checked.is_ok();
                    forbidden = forbidden.take().or(checked.err());
                    allowed
                });
                if let (true, Some(forbidden)) = (found.is_empty(), forbidden) {
                    return Err(forbidden.into());
                }
            }
            if found.is_empty() {
                return Err(DnsError(io::Error::new(io::ErrorKind::NotFound, "no address")).into());
            }
            Ok(found.into_iter())
        })
    }
}

// === impl UpstreamIo ===

pin_project_lite::pin_project! {
    #[project = StreamProjection]
    enum UpstreamStream {
        Plain { #[pin] io: TokioIo<TcpStream> },
        Tls { #[pin] io: TokioIo<Box<tokio_rustls::client::TlsStream<TcpStream>>> },
    }
}

pin_project_lite::pin_project! {
    /// One upstream connection.
    pub struct UpstreamIo {
        #[pin]
        stream: UpstreamStream,
        proxied: bool,
        _open: Box<dyn Send>,
    }
}

impl UpstreamIo {
    /// Requests are to be sent in absolute form.
    pub(super) fn is_proxied(&self) -> bool {
        self.proxied
    }

    /// TLS agreed on HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        match &self.stream {
            UpstreamStream::Tls { io } => io.inner().get_ref().1.alpn_protocol() == Some(b"h2"),
            UpstreamStream::Plain { .. } => false,
        }
    }
}

impl hyper::rt::Read for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.project().stream.project() {
            StreamProjection::Plain { io } => io.poll_read(cx, buf),
            StreamProjection::Tls { io } => io.poll_read(cx, buf),
        }
    }
}

impl hyper::rt::Write for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.project().stream.project() {
            StreamProjection::Plain { io } => io.poll_write(cx, buf),
            StreamProjection::Tls { io } => io.poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.project().stream.project() {
            StreamProjection::Plain { io } => io.poll_flush(cx),
            StreamProjection::Tls { io } => io.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.project().stream.project() {
            StreamProjection::Plain { io } => io.poll_shutdown(cx),
            StreamProjection::Tls { io } => io.poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            UpstreamStream::Plain { io } => io.is_write_vectored(),
            UpstreamStream::Tls { io } => io.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.project().stream.project() {
            StreamProjection::Plain { io } => io.poll_write_vectored(cx, bufs),
            StreamProjection::Tls { io } => io.poll_write_vectored(cx, bufs),
        }
    }
}
