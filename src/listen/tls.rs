//! TLS with applications: whether a connection is opened or passed unread, and the handshake of one that is opened.
//!
//! In: what a connection begins with and whom it wants. Out: a certificate to show, or why the connection passes unread. A
//! client that refuses our certificate is remembered for a while and then passed unread, so that its next attempt works.
//! Bounds: a hello within [`PATIENCE`], a handshake within [`PATIENCE`]; [`MAX_REFUSALS`] clients are remembered.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use bytes::{Buf, Bytes, BytesMut};
use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::ca::{Authority, Facts};
use super::client_hello::{self, ClientHello, Opening};
use super::leaf::Mint;
use super::permitted;
use crate::call::Unread;
use crate::config::{InterceptMode, TlsSettings};
use crate::provider::Catalog;

/// Longest wait for a hello, and for a handshake: as long as connecting upstream may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Clients that refused, and lines that were logged, of which note is taken.
const MAX_REFUSALS: usize = 1024;
/// How long a client that refused is passed unread. Then its trust may have been put right.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Refusals without a word that make one: libraries that look at certificates after the handshake (Node.js) just hang up,
/// and so does an application that opened a connection too many.
const SILENT_REFUSALS: u32 = 2;
/// How often the directory is looked into for an authority that was not there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What becomes of a connection.
pub enum Decision {
    /// It is opened with this certificate.
    Open(Arc<ServerConfig>),
    /// It passes unread. The text says more, where there is more to say.
    Pass(Unread, String),
}

/// Who refuses whom: the client's address and TLS library, and the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refuser {
    /// The client.
    pub client: IpAddr,
    /// Its library, see [`ClientHello::fingerprint`].
    pub library: u64,
    /// The host that it wanted.
    pub host: Arc<str>,
}

/// Everything that opening connections needs; one for each configuration.
pub struct Interception {
    mode: InterceptMode,
    source: Source,
    /// What the authority is to vouch for.
    names: Vec<String>,
    mint: ArcSwapOption<Mint>,
    began: Instant,
    /// Milliseconds after `began` when the directory was last looked into.
    looked: AtomicU64,
    refusals: Recent<Refuser, u32>,
    told: Recent<(Unread, Arc<str>), ()>,
}

enum Source {
    Directory(PathBuf),
    /// Certificate and key.
    Files(PathBuf, PathBuf),
}

impl Source {
    fn load(&self) -> anyhow::Result<Option<Authority>> {
        match self {
            Self::Directory(dir) => Authority::load(dir).context("tls.ca_dir"),
            Self::Files(certificate, key) => {
                Authority::from_files(certificate, key).map(Some).context("tls.ca_certificate")
            }
        }
    }
}

// === impl Interception ===

impl Interception {
    /// Takes the authority up that the settings name; makes one where `tls.intercept: on` or `needed` (a TLS port) ask for
    /// it.
    ///
    /// # Errors
    /// An authority that is asked for and cannot be used.
    pub fn new(settings: &TlsSettings, catalog: &Catalog, needed: bool) -> anyhow::Result<Self> {
        let names = permitted::subtrees(catalog);
        let source = match &settings.own_ca {
            Some((certificate, key)) => Source::Files(certificate.clone(), key.clone()),
            None => Source::Directory(settings.ca_dir.clone()),
        };
        let authority = match (&source, settings.intercept) {
            (Source::Directory(dir), mode) if mode == InterceptMode::On || needed => {
                let (authority, made) = Authority::load_or_make(dir, &names).context("tls.ca_dir")?;
                if made {
                    let path = super::ca::trust_file(dir);
                    tracing::info!(path = %path.display(), "made a local CA; applications are to trust this file");
                }
                Some(authority)
            }
            (Source::Directory(_), InterceptMode::Auto) => source.load().unwrap_or_else(|error| {
                tracing::warn!(error = format!("{error:#}"), "the local CA cannot be used: connections pass unread");
                None
            }),
            (Source::Files(..), mode) if mode != InterceptMode::Off || needed => source.load()?,
            (Source::Directory(_) | Source::Files(..), _) => None,
        };
        let mint = authority.map(Mint::new).transpose()?.map(Arc::new);
        if let Some(mint) = &mint {
            tell_doubts(mint.authority(), &names);
        }
        Ok(Self {
            mode: settings.intercept,
            source,
            names,
            mint: ArcSwapOption::new(mint),
            began: Instant::now(),
            looked: AtomicU64::new(0),
            refusals: Recent::default(),
            told: Recent::default(),
        })
    }

    /// No connection is ever opened.
    pub fn is_off(&self) -> bool {
        self.mode == InterceptMode::Off
    }

    /// Makes certificates, if there is an authority. One that was made meanwhile is taken up.
    pub fn mint(&self) -> Option<Arc<Mint>> {
        let mint = self.mint.load_full();
        let Source::Directory(dir) = &self.source else { return mint };
        if mint.is_some() {
            return mint;
        }
        let now = self.began.elapsed().as_millis() as u64;
        let looked = self.looked.load(Ordering::Relaxed);
        let due = looked == 0 || now.saturating_sub(looked) >= LOOK_EVERY.as_millis() as u64;
        if !due || self.looked.compare_exchange(looked, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return None;
        }
        // Two small files, once a second at most and only until there is one: not worth a thread.
        let mint = Authority::load(dir).ok().flatten().and_then(|authority| Mint::new(authority).ok()).map(Arc::new)?;
        tracing::info!(dir = %dir.display(), "took up the local CA");
        self.mint.store(Some(Arc::clone(&mint)));
        Some(mint)
    }

    /// Takes up what the files hold now, a rotated authority for instance, and forgets who refused.
    pub fn look_again(&self) {
        self.refusals.clear();
        if self.mint.load().is_none() && self.is_off() {
            return;
        }
        match self.source.load().and_then(|authority| authority.map(Mint::new).transpose()) {
            Ok(mint) => {
                if let Some(mint) = &mint {
                    tell_doubts(mint.authority(), &self.names);
                }
                self.mint.store(mint.map(Arc::new));
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "the CA cannot be used; the one before stays"),
        }
    }

    /// What becomes of a TLS connection to a provider's `host` (lower case).
    pub fn decide(&self, host: &str, hello: &ClientHello, refuser: &Refuser) -> Decision {
        if self.is_off() {
            return Decision::Pass(Unread::InterceptOff, String::new());
        }
        if hello.version < 0x0303 {
            return Decision::Pass(Unread::OldTls, "the client speaks no TLS 1.2".to_owned());
        }
        if !hello.alpn.takes_http() {
            return Decision::Pass(Unread::NotHttp, "the client asks for another protocol than HTTP".to_owned());
        }
        let Some(mint) = self.mint() else {
            return Decision::Pass(Unread::NoCa, String::new());
        };
        if self.mode == InterceptMode::Auto && self.refusals.get(refuser).is_some_and(|n| n >= SILENT_REFUSALS) {
            return Decision::Pass(Unread::Pinned, String::new());
        }
        match mint.server(host, SystemTime::now()) {
            Ok(config) => Decision::Open(config),
            Err(why) => Decision::Pass(Unread::NotPermitted, why.to_string()),
        }
    }

    /// A client refused our certificate: by an alert, or `silent` by hanging up.
    pub fn refused(&self, refuser: &Refuser, silent: bool) {
        let so_far = self.refusals.get(refuser).unwrap_or(0);
        let refusals = if silent { so_far + 1 } else { SILENT_REFUSALS };
        self.refusals.put(refuser.clone(), refusals);
        if refusals < SILENT_REFUSALS || so_far >= SILENT_REFUSALS {
            return;
        }
        let next = match self.mode {
            InterceptMode::Auto => "its connections pass unread for 10 minutes",
            InterceptMode::On | InterceptMode::Off => "tls.intercept is on, so its connections keep failing",
        };
        tracing::warn!(
            host = %refuser.host, client = %refuser.client,
            "an application does not trust the local CA, or pins its provider's certificate: {next}; have it trust the file \
             that keytally ca path names"
        );
    }

    /// A client sent a request over a connection that was opened: it trusts the authority.
    pub fn trusted(&self, refuser: &Refuser) {
        self.refusals.remove(refuser);
    }

    /// Says that a provider's host is passed unread, once in a while for each host and reason.
    pub fn tell_unread(&self, host: &Arc<str>, why: Unread, detail: &str) {
        let usual = match why {
            Unread::UnknownHost | Unread::InterceptOff => return,
            Unread::NoCa => "there is no CA; make one with keytally ca init and have applications trust it",
            Unread::Pinned => {
                "the application refused our certificate; have it trust the file that keytally ca path names"
            }
            Unread::NotPermitted | Unread::EncryptedHello | Unread::OldTls | Unread::NotHttp => "",
        };
        if self.told.get(&(why, Arc::clone(host))).is_none() {
            self.told.put((why, Arc::clone(host)), ());
            let detail = if detail.is_empty() { usual } else { detail };
            tracing::warn!(%host, reason = %why, detail, "a provider's connections pass unread: their calls are not metered");
        }
    }
}

/// What the authority's owner should know.
fn tell_doubts(authority: &Authority, wanted: &[String]) {
    for doubt in authority.doubts(SystemTime::now()) {
        tracing::warn!(doubt, "the local CA");
    }
    let missing = not_permitted(authority.facts(), wanted);
    if !missing.is_empty() {
        let hosts = missing.iter().take(5).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            hosts,
            count = missing.len(),
            "the local CA may not vouch for all providers; connections to the others pass unread until keytally ca rotate"
        );
    }
}

/// Those of `wanted` that the authority may not vouch for.
pub fn not_permitted<'w>(facts: &Facts, wanted: &'w [String]) -> Vec<&'w String> {
    let Some(permitted) = &facts.permitted else { return Vec::new() };
    let below = |name: &str, tree: &String| {
        name.strip_suffix(tree.trim_start_matches('.')).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    wanted.iter().filter(|name| !permitted.iter().any(|tree| below(name, tree))).collect()
}

// === connections ===

/// Reads what a connection begins with: its bytes so far, and what they are. Silence, or an end, is [`Opening::Other`].
///
/// # Errors
/// A connection that breaks.
pub async fn opening<S: AsyncRead + Unpin>(stream: &mut S, first: Bytes) -> io::Result<(Bytes, Opening)> {
    let mut bytes = BytesMut::from(first);
    let read = async {
        loop {
            match client_hello::read(&bytes) {
                Opening::Incomplete => {}
                told => return Ok::<_, io::Error>(told),
            }
            bytes.reserve(2048);
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(Opening::Other);
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, read).await.unwrap_or(Ok(Opening::Other))?;
    Ok((bytes.freeze(), told))
}

/// Why there is no TLS with an application.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It does not accept our certificate.
    #[error("the client refused our certificate ({0:?})")]
    Refused(AlertDescription),
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

/// Shakes hands with an application.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn handshake<S>(config: Arc<ServerConfig>, stream: S) -> Result<TlsStream<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    use AlertDescription as A;
    match tokio::time::timeout(PATIENCE, TlsAcceptor::from(config).accept(stream)).await {
        Err(_) => Err(HandshakeError::Failed(format!("not done within {} s", PATIENCE.as_secs()))),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match crate::upstream::find_source::<rustls::Error>(&error) {
            Some(rustls::Error::AlertReceived(
                alert @ (A::UnknownCA
                | A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateExpired
                | A::CertificateUnknown
                | A::AccessDenied
                | A::EncryptedClientHelloRequired),
            )) => HandshakeError::Refused(*alert),
            _ => HandshakeError::Failed(crate::upstream::chain(&error)),
        }),
    }
}

/// A connection whose first bytes were read already.
pub struct Prefixed<S> {
    before: Bytes,
    stream: S,
}

impl<S> Prefixed<S> {
    /// `before` comes first.
    pub fn new(before: Bytes, stream: S) -> Self {
        // An empty piece may hold on to the buffer that it was cut from.
        let before = if before.is_empty() { Bytes::new() } else { before };
        Self { before, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.before.len().min(buf.remaining());
        buf.put_slice(&self.before[..length]);
        self.before.advance(length);
        if self.before.is_empty() {
            self.before = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// What was noted in the last [`REMEMBERED`], at most [`MAX_REFUSALS`] entries.
struct Recent<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.get(key).filter(|(at, _)| at.elapsed() < REMEMBERED).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= MAX_REFUSALS {
            noted.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        }
        if noted.len() >= MAX_REFUSALS
            && let Some(oldest) = noted.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone())
        {
            noted.remove(&oldest);
        }
        noted.insert(key, (Instant::now(), value));
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn remove(&self, key: &K) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}
