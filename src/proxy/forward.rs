//! The forward proxy: requests in absolute form, and CONNECT.
//!
//! A provider's host is served as by base URL, but for the way's name. Every other host is passed on unread: its bytes are
//! counted, no call is recorded. Refused, each with what and why: clients that do not know the password, targets that
//! [`Reach`] forbids, hosts that are no provider's where `forward.tunnels` says so.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade;

use super::intercept::Target;
use super::{Course, GENERATED_HEADER, Proxy, Snapshot};
use crate::call::{CallFacts, ForwardRefusal, GeneratedError, Unread, Way};
use crate::config::Tunnels;
use crate::listen::tunnel::{self, Count};
use crate::listen::{Answer, Arrival, ClientIo, Peer, Stream};
use crate::provider::Provider;
use crate::tap::{AnswerBody, Sink};
use crate::upstream::{ConnectError, Reach};

/// What a client must send to be served.
pub struct ProxyPassword(HeaderValue);

impl ProxyPassword {
    /// `Basic`, RFC 7617.
    ///
    /// # Errors
    /// Never for what [`crate::config`] lets through.
    pub fn new(user: &str, password: &str) -> anyhow::Result<Self> {
        let encoded = STANDARD.encode(format!("{user}:{password}"));
        let mut value = HeaderValue::try_from(format!("Basic {encoded}"))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// Compared without telling by its duration how much was right. The scheme's name has no case.
    fn is(&self, sent: &HeaderValue) -> bool {
        let sent = sent.as_bytes();
        let Some((scheme, sent)) = sent.split_first_chunk::<6>() else { return false };
        let own = &self.0.as_bytes()[6..];
        let sent = sent.trim_ascii();
        let differs = own.iter().zip(sent).fold(0, |differs, (a, b)| differs | (a ^ b));
        scheme.eq_ignore_ascii_case(b"basic ") && own.len() == sent.len() && differs == 0
    }
}

/// Counts an exchange that was passed on unread, and records nothing.
struct Unmetered(Arc<dyn Count>);

impl Sink for Unmetered {
    fn finish(&self, facts: CallFacts, _: Option<Arc<Provider>>, _: Option<&Answer>) {
        self.0.bytes(facts.request.bytes, facts.response.map_or(0, |response| response.bytes));
    }
}

impl Proxy {
    /// `GET http://host/path`, as clients ask a proxy.
    pub(super) async fn absolute_form(
        &self,
        snapshot: &Snapshot,
        mut request: Request<Incoming>,
        peer: Peer,
        started: Instant,
    ) -> Response<AnswerBody> {
        let uri = request.uri();
        let target = uri.authority().filter(|authority| !authority.as_str().contains('@')).and_then(|authority| {
            let default = match uri.scheme_str() {
                Some("http") => 80,
                Some("https") => 443,
                _ => return None,
            };
            let port = if authority.port().is_some() { authority.port_u16()? } else { default };
            Some((uri.scheme().cloned()?, Arc::<str>::from(authority.host().to_ascii_lowercase()), port))
        });
        let Some((scheme, host, port)) = target else {
            return self.refuse_forward(
                ForwardRefusal::BadRequest,
                "write http://host/path or https://host/path, without user and password",
            );
        };
        let known = snapshot.catalog.of_host(&host, port).is_some();
        if let Some(refused) = self.refusal(snapshot, &request, &peer.arrival, (&host, port), known) {
            return refused;
        }
        request.headers_mut().remove(PROXY_AUTHORIZATION);
        let path = request.uri().path_and_query().map_or("/", |target| target.as_str());
        if let Some(mut found) = snapshot.catalog.recognize_host(&host, port, request.method(), path) {
            found.scheme = scheme;
            let course = Course::of_provider(self, found, Way::Forward, snapshot);
            return self.forward(snapshot, course, request, peer, started).await;
        }
        let found = snapshot.catalog.other((scheme, host, port), path);
        let count = self.watch.unread(Unread::UnknownHost, &found.provider.id);
        let is_local = peer.arrival.ends.is_local();
        let course = Course {
            upstream: if is_local { &snapshot.upstream.local } else { &snapshot.upstream.remote },
            sink: Arc::new(Unmetered(Arc::clone(&count))),
            guard: Box::new(count),
            way: Way::Forward,
            metered: false,
            found,
        };
        self.forward(snapshot, course, request, peer, started).await
    }

    /// `CONNECT host:port`.
    pub(super) async fn connect(
        self: Arc<Self>,
        snapshot: &Snapshot,
        mut request: Request<Incoming>,
        peer: Peer,
    ) -> Response<AnswerBody> {
        let target = request.uri().authority().filter(|authority| !authority.as_str().contains('@'));
        let target = target.and_then(|authority| Some((authority.host().to_ascii_lowercase(), authority.port_u16()?)));
        let Some((host, port)) = target.filter(|(host, port)| !host.is_empty() && *port != 0) else {
            return self.refuse_forward(ForwardRefusal::BadRequest, "write CONNECT host:port");
        };
        let host: Arc<str> = host.trim_end_matches('.').into();
        let provider = snapshot.catalog.of_host(&host, port).map(|provider| Arc::clone(&provider.id));
        if let Some(refused) = self.refusal(snapshot, &request, &peer.arrival, (&host, port), provider.is_some()) {
            return refused;
        }
        // A client that resolves names itself asks for an address; whom it means is in its hello.
        let is_address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        let may_open = provider.is_some() || (is_address && port == 443);
        let tunnel = match (may_open, snapshot.intercept.is_off()) {
            (true, false) if snapshot.intercept.mint().is_some() => None,
            (true, false) if provider.is_some() => Some(Unread::NoCa),
            (true, true) if provider.is_some() => Some(Unread::InterceptOff),
            _ => Some(Unread::UnknownHost),
        };
        let application = hyper::upgrade::on(&mut request);
        let arrival = peer.arrival;
        let Some(why) = tunnel else {
            tokio::spawn(async move {
                let Ok(upgraded) = application.await else { return };
                let target = Target::Name { host, port };
                match upgrade::downcast::<TokioIo<ClientIo<Stream>>>(upgraded) {
                    Ok(parts) => {
                        let stream = parts.io.into_inner().into_inner();
                        self.take(stream, parts.read_buf, target, Way::Forward, arrival).await;
                    }
                    // HTTP/2, or TLS with the proxy itself.
                    Err(upgraded) => {
                        self.take(Box::new(TokioIo::new(upgraded)), Bytes::new(), target, Way::Forward, arrival).await;
                    }
                }
            });
            return connected();
        };
        snapshot.intercept.tell_unread(&host, why, "");
        let reach = self.reach(&arrival, provider.is_some(), Way::Forward);
        let (server, open) = match snapshot.upstream.shared.raw(&host, port, &reach).await {
            Ok(server) => server,
            Err(error) => return self.unreachable(&error),
        };
        let count = self.watch.unread(why, provider.as_deref().unwrap_or("other"));
        let idle = snapshot.idle_timeout;
        tokio::spawn(async move {
            let _open = open;
            let mut hold = arrival.hold;
            let copied = async {
                let Ok(upgraded) = application.await else { return };
                let ended = match upgrade::downcast::<TokioIo<ClientIo<Stream>>>(upgraded) {
                    Ok(parts) => {
                        let stream = parts.io.into_inner().into_inner();
                        let stream = crate::listen::tls::Prefixed::new(parts.read_buf, stream);
                        tunnel::copy(stream, server, idle, &*count).await
                    }
                    Err(upgraded) => tunnel::copy(TokioIo::new(upgraded), server, idle, &*count).await,
                };
                if let Err(error) = ended {
                    tracing::debug!(%host, port, %error, "tunnel ended early");
                }
            };
            tokio::select! {
                () = copied => {}
                // Both connections are dropped, as when a proxy goes away.
                () = hold.cut_off() => {}
            }
        });
        connected()
    }

    /// Why a client does not get on to a host; `None`: it does.
    fn refusal(
        &self,
        snapshot: &Snapshot,
        request: &Request<Incoming>,
        arrival: &Arrival,
        (host, port): (&str, u16),
        known: bool,
    ) -> Option<Response<AnswerBody>> {
        if let Some(password) = &snapshot.password {
            let sent = request.headers().get(PROXY_AUTHORIZATION);
            if !sent.is_some_and(|sent| password.is(sent)) {
                let what = "this proxy asks for a user and a password: HTTPS_PROXY=http://user:password@host:port";
                let mut refused = self.refuse_forward(ForwardRefusal::Auth, what);
                let challenge = HeaderValue::from_static("Basic realm=\"keytally\", charset=\"UTF-8\"");
                refused.headers_mut().insert(PROXY_AUTHENTICATE, challenge);
                return Some(refused);
            }
        }
        let may_tunnel = match snapshot.tunnels {
            Tunnels::Any => true,
            Tunnels::Loopback => arrival.ends.is_local() || snapshot.password.is_some(),
            Tunnels::Off => false,
        };
        if !known && !may_tunnel {
            let what = match snapshot.tunnels {
                Tunnels::Off => "this host is no provider's, and forward.tunnels is off",
                _ => "this host is no provider's, and forward.tunnels lets only clients on keytally's machine go there",
            };
            return Some(self.refuse_forward(ForwardRefusal::Host, what));
        }
        let checked = self.reach(arrival, known, Way::Forward).host(host, port);
        checked.err().map(|error| self.refuse_forward(ForwardRefusal::Target, &error.to_string()))
    }

    /// What a client may be connected to. A host that the catalogue or the configuration names may be on loopback.
    pub(super) fn reach(&self, arrival: &Arrival, known: bool, way: Way) -> Arc<Reach> {
        let listeners = Arc::clone(&self.listeners);
        Arc::new(match way {
            Way::Redirect => Reach::anywhere(listeners),
            Way::BaseUrl | Way::Forward => Reach::new(listeners, known || arrival.ends.is_local()),
        })
    }

    fn unreachable(&self, error: &ConnectError) -> Response<AnswerBody> {
        let why = match error.kind {
            GeneratedError::Forbidden => ForwardRefusal::Target,
            _ => ForwardRefusal::Unreachable,
        };
        let mut refused = self.refuse_forward(why, &error.detail);
        if error.kind == GeneratedError::ConnectTimeout {
            *refused.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        }
        refused
    }

    /// Answers in nobody's name; no call is recorded.
    pub(super) fn refuse_forward(&self, why: ForwardRefusal, what: &str) -> Response<AnswerBody> {
        self.watch.refused(why);
        tracing::debug!(reason = %why, what, "forward-proxy request refused");
        let status = match why {
            ForwardRefusal::Auth => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            ForwardRefusal::Host | ForwardRefusal::Target => StatusCode::FORBIDDEN,
            ForwardRefusal::Unreachable => StatusCode::BAD_GATEWAY,
            ForwardRefusal::BadRequest => StatusCode::BAD_REQUEST,
        };
        let body = serde_json::json!({
            "error": { "message": format!("keytally: {what}"), "type": "keytally_error", "code": why.as_str() },
            "keytally": { "generated": true, "reason": why.as_str() },
        });
        let mut answer = Response::new(AnswerBody::own(body.to_string().into_bytes()));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer.headers_mut().insert(GENERATED_HEADER, HeaderValue::from_static(why.as_str()));
        answer
    }
}

/// 200 without a body: from here on the connection is the client's.
fn connected() -> Response<AnswerBody> {
    Response::new(AnswerBody::own(Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_and_nothing_else() {
        let password = ProxyPassword::new("app", "made:up").expect("a header");
        let encoded = STANDARD.encode("app:made:up");
        let is = |text: &str| password.is(&HeaderValue::try_from(text).expect("a header"));
        assert!(
            is(&format!("Basic {encoded}")) && is(&format!("basic {encoded}")) && is(&format!("BASIC  {encoded} "))
        );
        for wrong in ["", "Basic", "Basic ", &encoded, &format!("Bearer {encoded}"), &format!("Basic {encoded}A")] {
            assert!(!is(wrong), "{wrong}");
        }
        assert!(!is(&format!("Basic {}", STANDARD.encode("app:made:uq"))));
        assert!(!is(&format!("Basic {}", &encoded[..encoded.len() - 1])));
    }
}
