//! Connections whose server is known from outside (CONNECT, a redirect) and whose first bytes tell the rest: opened with
//! the local authority's certificate, served as plain HTTP, or passed on unread.
//!
//! [`Proxy::take`] is the one way in. TLS to a provider's host is opened where `tls.intercept` says so and the client takes
//! the certificate; then every request goes the way of all calls. Everything else is a blind tunnel to the target itself.
//! Nothing is answered in the name of a host that nobody may vouch for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::Request;
use http::uri::Scheme;
use hyper::body::Incoming;
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Proxy, Snapshot};
use crate::call::{HandshakeEnd, Unread, Way};
use crate::listen::client_hello::{ClientHello, Opening};
use crate::listen::tls::{self, Decision, HandshakeError, Prefixed, Refuser};
use crate::listen::{Answered, Arrival, Handler, Origin, Peer, Stream, permitted, tunnel};
use crate::tap::AnswerBody;

/// A connection that ends this soon after its handshake and without a request was refused by a client that looks at
/// certificates only then.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);

/// Where a connection was going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A host and a port, as CONNECT names them; lower case, brackets around IPv6.
    Name {
        /// Name or literal address.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// An address: that to which a redirected connection was made.
    Address(SocketAddr),
}

impl Target {
    fn port(&self) -> u16 {
        match self {
            Self::Name { port, .. } => *port,
            Self::Address(address) => address.port(),
        }
    }

    /// What a blind tunnel connects to; brackets around IPv6.
    fn host(&self) -> Arc<str> {
        match self {
            Self::Name { host, .. } => Arc::clone(host),
            Self::Address(SocketAddr::V4(address)) => address.ip().to_string().into(),
            Self::Address(SocketAddr::V6(address)) => format!("[{}]", address.ip()).into(),
        }
    }

    /// The name that the client has for its server, if it has told one.
    fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Name { host, .. } => {
                host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err().then_some(host)
            }
            Self::Address(_) => None,
        }
    }
}

/// What is done with a connection.
enum Course {
    /// Its TLS is opened.
    Open { host: Arc<str>, config: Arc<ServerConfig>, refuser: Refuser },
    /// It is plain HTTP to a provider.
    Plain { host: Arc<str> },
    /// It passes unread.
    Pass { why: Unread, detail: String, provider: Option<Arc<str>>, host: Arc<str> },
}

impl Proxy {
    /// Takes a connection over: `stream`, of which `first` was read already, was going to `target` and came by `way`. Ends
    /// with the connection, or when calls are cut off.
    pub async fn take(self: Arc<Self>, mut stream: Stream, first: Bytes, target: Target, way: Way, arrival: Arrival) {
        let mut hold = arrival.hold.clone();
        let served = async {
            let (bytes, opening) = match tls::opening(&mut stream, first).await {
                Ok(opened) => opened,
                Err(error) => return tracing::debug!(%error, "a connection broke before its first bytes"),
            };
            // One configuration from here to the end of the handshake; calls look for themselves.
            let snapshot = self.snapshot();
            let course = course(&snapshot, &target, &bytes, opening, &arrival);
            let stream = Prefixed::new(bytes, stream);
            match course {
                Course::Open { host, config, refuser } => {
                    let origin = Origin { scheme: Scheme::HTTPS, host, port: target.port(), way };
                    Arc::clone(&self).open(snapshot, stream, config, origin, refuser, arrival).await;
                }
                Course::Plain { host } => {
                    let origin = Origin { scheme: Scheme::HTTP, host, port: target.port(), way };
                    self.server.serve(Box::new(stream), arrival, Some(origin), self.handler()).await;
                }
                Course::Pass { why, detail, provider, host } => {
                    snapshot.intercept.tell_unread(&host, why, &detail);
                    self.pass(&snapshot, stream, &target, (why, provider), way, &arrival).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = served => {}
            // What serves calls ends them by itself; this is for handshakes and tunnels.
            () = hold.cut_off() => {}
        }
    }

    async fn open(
        self: Arc<Self>,
        snapshot: Arc<Snapshot>,
        stream: Prefixed<Stream>,
        config: Arc<ServerConfig>,
        origin: Origin,
        refuser: Refuser,
        arrival: Arrival,
    ) {
        let intercept = Arc::clone(&snapshot.intercept);
        drop(snapshot);
        let stream = match tls::handshake(config, stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(host = %origin.host, %error, "no TLS with an application");
                match error {
                    HandshakeError::Refused(_) => {
                        self.watch.handshake(HandshakeEnd::Refused);
                        intercept.refused(&refuser, false);
                    }
                    HandshakeError::Failed(_) => self.watch.handshake(HandshakeEnd::Failed),
                }
                return;
            }
        };
        self.watch.handshake(HandshakeEnd::Done);
        let (asked, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let handle: Handler<AnswerBody> = {
            let (proxy, asked, intercept) = (Arc::clone(&self), Arc::clone(&asked), Arc::clone(&intercept));
            let refuser = refuser.clone();
            Box::new(move |request, peer| {
                if !asked.swap(true, Ordering::Relaxed) {
                    intercept.trusted(&refuser);
                }
                Arc::clone(&proxy).answer(request, peer)
            })
        };
        self.server.serve(Box::new(stream), arrival, Some(origin), handle).await;
        if !asked.load(Ordering::Relaxed) && began.elapsed() < REFUSED_WITHIN {
            intercept.refused(&refuser, true);
        }
    }

    /// The TLS face of the base-URL port: as that port, behind a certificate for `localhost` (or another name that a client
    /// asks for and the authority may vouch for).
    pub async fn face(self: Arc<Self>, mut stream: TcpStream, arrival: Arrival) {
        let Ok((bytes, opening)) = tls::opening(&mut stream, Bytes::new()).await else { return };
        let hello = match opening {
            Opening::Tls(hello) => hello,
            Opening::Http => {
                let answer = b"HTTP/1.1 400 Bad Request\r\nx-keytally-error: bad_request\r\nconnection: close\r\n\r\nkeytally: this port speaks TLS; write https://\n";
                let _ = stream.write_all(answer).await;
                return;
            }
            Opening::Incomplete | Opening::Other => return,
        };
        let Some(mint) = self.snapshot().intercept.mint() else { return };
        let now = SystemTime::now();
        let asked = hello.name.as_deref().unwrap_or(permitted::LOCALHOST);
        let config = match mint.server(asked, now).or_else(|_| mint.server(permitted::LOCALHOST, now)) {
            Ok(config) => config,
            Err(error) => return tracing::warn!(%error, "no certificate for listen.proxy_tls"),
        };
        match tls::handshake(config, Prefixed::new(bytes, Box::new(stream) as Stream)).await {
            Ok(stream) => {
                self.watch.handshake(HandshakeEnd::Done);
                self.server.serve(Box::new(stream), arrival, None, self.handler()).await;
            }
            Err(error) => {
                let refused = matches!(error, HandshakeError::Refused(_));
                self.watch.handshake(if refused { HandshakeEnd::Refused } else { HandshakeEnd::Failed });
                tracing::debug!(%error, "no TLS with an application on listen.proxy_tls");
            }
        }
    }

    /// Serves a connection of the base-URL port.
    pub async fn plain(self: Arc<Self>, stream: TcpStream, arrival: Arrival) {
        self.server.serve(Box::new(stream), arrival, None, self.handler()).await;
    }

    fn handler(self: &Arc<Self>) -> Handler<AnswerBody> {
        let proxy = Arc::clone(self);
        Box::new(move |request, peer| Arc::clone(&proxy).answer(request, peer))
    }

    /// Its type is written out: the calls on a connection may themselves ask for connections.
    fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> Answered<AnswerBody> {
        Box::pin(self.handle(request, peer))
    }

    async fn pass(
        &self,
        snapshot: &Snapshot,
        stream: Prefixed<Stream>,
        target: &Target,
        (why, provider): (Unread, Option<Arc<str>>),
        way: Way,
        arrival: &Arrival,
    ) {
        let (host, port) = (target.host(), target.port());
        let reach = self.reach(arrival, provider.is_some(), way);
        let (server, _open) = match snapshot.upstream.shared.raw(&host, port, &reach).await {
            Ok(server) => server,
            // The client sees a connection that ends, as it would without the proxy.
            Err(error) => return tracing::info!(%host, port, error = error.detail, "a connection cannot be passed on"),
        };
        let count = self.watch.unread(why, provider.as_deref().unwrap_or("other"));
        if let Err(error) = tunnel::copy(stream, server, snapshot.idle_timeout, &*count).await {
            tracing::debug!(%host, port, %error, "tunnel ended early");
        }
    }
}

/// Decides by what the connection begins with.
fn course(snapshot: &Snapshot, target: &Target, bytes: &[u8], opening: Opening, arrival: &Arrival) -> Course {
    let port = target.port();
    let provider_of = |host: &str| snapshot.catalog.of_host(host, port).map(|provider| Arc::clone(&provider.id));
    let pass = |why, detail: String, host: Option<&Arc<str>>| {
        let host = host.cloned().unwrap_or_else(|| target.host());
        Course::Pass { why, detail, provider: provider_of(&host), host }
    };
    match opening {
        Opening::Tls(hello) => {
            let host = match server_name(target, &hello) {
                Ok(host) => host,
                Err(detail) if hello.encrypted_hello => return pass(Unread::EncryptedHello, detail, target.name()),
                Err(detail) => return pass(Unread::UnknownHost, detail, target.name()),
            };
            if provider_of(&host).is_none() {
                return pass(Unread::UnknownHost, String::new(), Some(&host));
            }
            let client = arrival.ends.peer.ip().to_canonical();
            let refuser = Refuser { client, library: hello.fingerprint, host: Arc::clone(&host) };
            match snapshot.intercept.decide(&host, &hello, &refuser) {
                Decision::Open(config) => Course::Open { host, config, refuser },
                Decision::Pass(why, detail) => pass(why, detail, Some(&host)),
            }
        }
        Opening::Http => {
            let named = target.name().cloned().or_else(|| host_header(bytes));
            match named.filter(|host| provider_of(host).is_some()) {
                Some(host) if !snapshot.intercept.is_off() => Course::Plain { host },
                Some(host) => pass(Unread::InterceptOff, String::new(), Some(&host)),
                None => pass(Unread::UnknownHost, String::new(), None),
            }
        }
        Opening::Incomplete | Opening::Other => match target.name().filter(|host| provider_of(host).is_some()) {
            Some(host) => pass(Unread::NotHttp, "neither TLS nor HTTP came".to_owned(), Some(host)),
            None => pass(Unread::UnknownHost, String::new(), None),
        },
    }
}

/// The host that a TLS client wants, or why that cannot be said.
fn server_name(target: &Target, hello: &ClientHello) -> Result<Arc<str>, String> {
    match (target.name(), &hello.name) {
        (Some(own), Some(name)) if **own == **name => Ok(Arc::clone(own)),
        // Asked for by one name and by no other: clients that send none check the one that they asked for.
        (Some(own), None) if !hello.encrypted_hello => Ok(Arc::clone(own)),
        (Some(_), Some(_)) => Err("the server name in TLS is not the host that was asked for".to_owned()),
        (Some(_), None) => Err("the server name is encrypted".to_owned()),
        (None, Some(name)) => Ok(name.as_str().into()),
        (None, None) => Err("TLS without a server name".to_owned()),
    }
}

/// The host of a request in plain text, as far as it has come; without its port.
fn host_header(head: &[u8]) -> Option<Arc<str>> {
    let mut lines = head.split(|byte| *byte == b'\n').skip(1);
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(5)?;
        name.eq_ignore_ascii_case(b"host:").then(|| value.trim_ascii())
    })?;
    let authority: http::uri::Authority = value.try_into().ok()?;
    Some(authority.host().to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: Option<&str>, encrypted: bool) -> ClientHello {
        ClientHello { name: name.map(str::to_owned), encrypted_hello: encrypted, ..ClientHello::default() }
    }

    #[test]
    fn whom_a_client_wants() {
        let named = Target::Name { host: "api.openai.com".into(), port: 443 };
        let literal = Target::Name { host: "[2001:db8::1]".into(), port: 443 };
        let address = Target::Address("192.0.2.1:443".parse().expect("an address"));
        let is = |target: &Target, name, encrypted| server_name(target, &hello(name, encrypted)).ok();
        assert_eq!(is(&named, Some("api.openai.com"), false).as_deref(), Some("api.openai.com"));
        assert_eq!(is(&named, Some("api.openai.com"), true).as_deref(), Some("api.openai.com"), "a meaningless one");
        assert_eq!(is(&named, None, false).as_deref(), Some("api.openai.com"));
        assert_eq!(is(&named, Some("front.example"), true), None);
        assert_eq!(is(&named, Some("other.example"), false), None);
        for target in [&literal, &address] {
            assert_eq!(is(target, Some("api.openai.com"), false).as_deref(), Some("api.openai.com"));
            assert_eq!(is(target, None, false), None);
        }
        assert_eq!(&*literal.host(), "[2001:db8::1]");
    }

    #[test]
    fn the_host_of_plain_http() {
        let host = |head: &str| host_header(head.as_bytes());
        assert_eq!(host("GET / HTTP/1.1\r\nA: b\r\nHOST:  LLM.example:8080 \r\n").as_deref(), Some("llm.example"));
        assert_eq!(host("GET / HTTP/1.1\r\nx-host: a\r\n"), None);
        assert_eq!(host("GET /host: HTTP/1.1"), None);
    }
}
