//! The spine: one request, from left to right. Recognize, read the key, tap the request, send it on, tap the answer.
//!
//! Changes nothing but `Host` and the headers of this hop. Answers itself only when nobody else can: an unknown prefix,
//! a provider that cannot be reached; such an answer says so in `x-keytally-error` and in its body. [`forward`] and
//! [`intercept`] are the other ways in.

pub mod forward;
mod headers;
pub mod intercept;
mod redirect;
mod repeated;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderValue, USER_AGENT};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;

use crate::call::{
    CallFacts, CallId, End, ForwardRefusal, GeneratedError, HandshakeEnd, KeyFacts, Operation, Protocol, Reply,
    RequestFacts, ResponseFacts, Timing, Unread, Way,
};
use crate::config::Tunnels;
use crate::export::{Propagation, read_trace_context};
use crate::listen::tls::Interception;
use crate::listen::tunnel::Count;
use crate::listen::{ClientState, HttpServer, Origin, Peer};
use crate::protocol::{Decoder, ReplyHint, family};
use crate::provider::{Catalog, Match, UsageInStream, generated_error, keep_response_headers, read_key};
use crate::tap::inject::{self, HideUsage, Room};
use crate::tap::{
    AnswerBody, Broken, CancelGuard, ContinueGate, Decompressor, OpenCall, RequestBody, RequestTap, Sink, read_whole,
    tunnel,
};
use crate::upstream::{Answer, Upstream, UpstreamError};
use forward::ProxyPassword;
pub use intercept::Target;
use repeated::Repeated;

/// Header on answers that keytally made itself; its value is the reason.
pub const GENERATED_HEADER: &str = "x-keytally-error";

/// Longest name of a client's product, bytes.
const MAX_PRODUCT: usize = 64;

/// W3C Trace Context and Baggage, and both forms of B3.
const TRACE_HEADERS: [&str; 9] = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// What one call sees of the configuration, from its first to its last byte.
pub struct Snapshot {
    /// Providers.
    pub catalog: Catalog,
    /// Client for upstream connections, by provider id where one has its own certificate authority.
    pub upstream: Upstreams,
    /// Longest silence of a provider.
    pub idle_timeout: Duration,
    /// Salt of fingerprints.
    pub salt: Vec<u8>,
    /// `labels.app`: who calls.
    pub client: Option<Arc<str>>,
    /// `usage.inject`: ask for usage on the application's behalf.
    pub inject_usage: bool,
    /// Which trace headers of the application are read.
    pub propagation: Propagation,
    /// Remove trace headers and `baggage` before a request leaves.
    pub strip_context: bool,
    /// `trace.url`: keep the address of a call, without its query.
    pub keep_url: bool,
    /// Which connections are opened.
    pub intercept: Arc<Interception>,
    /// Who may go through to hosts that are no provider's.
    pub tunnels: Tunnels,
    /// What forward-proxy clients must know.
    pub password: Option<ProxyPassword>,
}

/// Upstream clients: one for all providers, and one for each that names its own certificate authority.
pub struct Upstreams {
    /// For all others.
    pub shared: Arc<Upstream<RequestBody>>,
    /// By provider id.
    pub own: Vec<(Arc<str>, Arc<Upstream<RequestBody>>)>,
    /// For hosts that are no provider's, asked for by clients on this machine.
    pub local: Upstream<RequestBody>,
    /// The same for other clients.
    pub remote: Upstream<RequestBody>,
}

/// Takes note of what no call record tells.
pub trait Watch: Send + Sync {
    /// A call at the provider of this id is open for as long as what is returned lives.
    fn in_flight(&self, provider: &Arc<str>) -> Box<dyn Send>;
    /// A connection to this provider, or to `other`, passes unread for as long as what is returned lives.
    fn unread(&self, why: Unread, provider: &str) -> Arc<dyn Count>;
    /// A forward-proxy request was refused.
    fn refused(&self, why: ForwardRefusal);
    /// A TLS handshake with an application has ended.
    fn handshake(&self, end: HandshakeEnd);
}

/// Answers requests on the proxy port.
pub struct Proxy {
    snapshot: ArcSwap<Snapshot>,
    sink: Arc<dyn Sink>,
    watch: Arc<dyn Watch>,
    server: Arc<HttpServer>,
    inject_room: Room,
    /// Lines of the log that would repeat.
    lines: Repeated,
    /// Our own ports: nobody is connected to them through us.
    listeners: Arc<[SocketAddr]>,
}

/// Where one request goes, and what is noted of it.
struct Course<'s> {
    found: Match,
    way: Way,
    /// Its key is read, its bodies are looked at.
    metered: bool,
    upstream: &'s Upstream<RequestBody>,
    sink: Arc<dyn Sink>,
    /// Lives as long as the call.
    guard: Box<dyn Send>,
}

impl<'s> Course<'s> {
    fn of_provider(proxy: &Proxy, found: Match, way: Way, snapshot: &'s Snapshot) -> Self {
        Self {
            way,
            metered: true,
            upstream: snapshot.upstream.of(&found.provider.id),
            sink: Arc::clone(&proxy.sink),
            guard: proxy.watch.in_flight(&found.provider.id),
            found,
        }
    }
}

impl Proxy {
    /// `listeners` are all ports of this process; `server` serves HTTP on connections that are opened.
    pub fn new(
        snapshot: Snapshot,
        sink: Arc<dyn Sink>,
        watch: Arc<dyn Watch>,
        server: Arc<HttpServer>,
        listeners: Arc<[SocketAddr]>,
    ) -> Self {
        let snapshot = ArcSwap::from_pointee(snapshot);
        let (inject_room, lines) = (Room::default(), Repeated::default());
        Self { snapshot, sink, watch, server, inject_room, lines, listeners }
    }

    /// Calls that begin from now on see this snapshot.
    pub fn swap(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Answers one request.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> Response<AnswerBody> {
        let started = Instant::now();
        let snapshot = self.snapshot.load_full();
        if let Some(origin) = peer.origin.clone() {
            return Box::pin(self.at_origin(&snapshot, origin, request, peer, started)).await;
        }
        if request.method() == Method::CONNECT {
            return Box::pin(self.connect(&snapshot, request, peer)).await;
        }
        // HTTP/2 always names the host: there it is ours.
        if request.uri().host().is_some() && request.version() < Version::HTTP_2 {
            return Box::pin(self.absolute_form(&snapshot, request, peer, started)).await;
        }
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        match snapshot.catalog.recognize_base_url(request.method(), target) {
            Ok(found) => {
                let course = Course::of_provider(&self, found, Way::BaseUrl, &snapshot);
                self.forward(&snapshot, course, request, peer, started).await
            }
            Err(unknown) => {
                let refusal =
                    Refusal { status: StatusCode::NOT_FOUND, why: GeneratedError::UnknownPrefix, body: unknown.body() };
                self.refuse(&snapshot, &request, &peer, started, refusal)
            }
        }
    }

    /// A request on a connection that was made to a provider's host.
    async fn at_origin(
        &self,
        snapshot: &Snapshot,
        origin: Origin,
        request: Request<Incoming>,
        peer: Peer,
        started: Instant,
    ) -> Response<AnswerBody> {
        let header = || text(request.headers(), &HOST).and_then(|host| host.parse::<Authority>().ok());
        let asked = request.uri().authority().cloned().or_else(header);
        let is_other = |asked: &Authority| !asked.host().eq_ignore_ascii_case(&origin.host);
        if asked.as_ref().is_some_and(is_other) || request.method() == Method::CONNECT {
            return self.refuse(snapshot, &request, &peer, started, misdirected());
        }
        let path = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let found = snapshot.catalog.recognize_host(&origin.host, origin.port, request.method(), path);
        // The configuration may have forgotten it meanwhile.
        let mut found = found.unwrap_or_else(|| {
            snapshot.catalog.other((origin.scheme.clone(), Arc::clone(&origin.host), origin.port), path)
        });
        found.scheme = origin.scheme;
        let course = Course::of_provider(self, found, origin.way, snapshot);
        self.forward(snapshot, course, request, peer, started).await
    }

    async fn forward(
        &self,
        snapshot: &Snapshot,
        course: Course<'_>,
        mut request: Request<Incoming>,
        peer: Peer,
        started: Instant,
    ) -> Response<AnswerBody> {
        let Course { found, way, metered, upstream, sink, guard } = course;
        let upgrade = headers::upgrade_protocol(request.headers()).filter(|_| request.version() == Version::HTTP_11);
        let application = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let original_target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let key = match metered {
            true => read_key(&found, &parts.method, &parts.headers, original_target, &snapshot.salt),
            false => KeyFacts::default(),
        };
        let facts = open_facts(snapshot, &parts.method, &parts.headers, &found, key, way);
        let tap = metered.then(|| {
            RequestTap::new(
                found.protocol,
                text(&parts.headers, &CONTENT_TYPE),
                text(&parts.headers, &CONTENT_ENCODING),
            )
        });
        let client = Arc::clone(&peer.client);
        let provider = Some(Arc::clone(&found.provider));
        let call = OpenCall::new(facts, started, tap, provider, client, sink, guard);

        if let Err(error) = readdress(&mut parts, &found, upgrade, snapshot.strip_context) {
            return self.generated(&call, &found, GeneratedError::BadRequest, &error);
        }
        let gate = headers::has_token(&parts.headers, &EXPECT, "100-continue").then(Arc::<ContinueGate>::default);
        let is_upgrade = application.is_some();
        let cancelled = CancelGuard::new(Arc::clone(&call));
        let mut hide = None;
        let room = match metered && snapshot.inject_usage {
            true => may_ask_for_usage(&found, &parts).and_then(|bytes| self.inject_room.take(bytes)),
            false => None,
        };
        let body = if let Some(room) = room {
            let original = match read_whole(body, &room, &call, snapshot.idle_timeout).await {
                Ok(original) => original,
                Err(Broken::Silent) => {
                    let secs = snapshot.idle_timeout.as_secs_f64();
                    let detail = format!("nothing came of the request's body for {secs} s");
                    return self.generated(&call, &found, GeneratedError::ReadTimeout, &detail);
                }
                Err(Broken::Off) => {
                    call.finish(End::ClientCancelled, Reply::default(), |_| ());
                    return own_answer(StatusCode::BAD_REQUEST, GeneratedError::BadRequest, Vec::new());
                }
            };
            let changed = inject::ask_for_usage(&original);
            if let Some(changed) = &changed {
                parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(changed.len()));
                hide = Some(HideUsage::default());
            }
            RequestBody::changed(changed.unwrap_or(original), room, Arc::clone(&call), Arc::clone(&peer.client))
        } else {
            RequestBody::new(body, Arc::clone(&call), Arc::clone(&peer.client), gate.clone())
        };
        let mut request = Request::from_parts(parts, body);
        if let Some(gate) = gate {
            hyper::ext::on_informational(&mut request, move |answer| {
                if answer.status() == StatusCode::CONTINUE {
                    gate.open();
                }
            });
        }

        call.handed_over();
        let sent = send(upstream, request, is_upgrade, &call, snapshot.idle_timeout).await;
        cancelled.disarm();
        match sent {
            Ok(answer) => {
                let client = Arc::clone(&peer.client);
                pass_on(answer, call, &found, application.zip(Some(peer)), hide, snapshot.idle_timeout, client)
            }
            Err(_) if call.has_request_failed() => {
                // The application is gone or broke its request off: nobody reads this answer.
                call.finish(End::ClientCancelled, Reply::default(), |_| ());
                own_answer(StatusCode::BAD_REQUEST, GeneratedError::BadRequest, Vec::new())
            }
            Err(error) => self.generated(&call, &found, error.kind, &error.detail),
        }
    }

    /// Ends the call and answers in the provider's own error shape.
    fn generated(&self, call: &OpenCall, found: &Match, why: GeneratedError, detail: &str) -> Response<AnswerBody> {
        let (status, body) = generated_error(Some(&found.provider), found.protocol, why, detail);
        call.fail(End::NoAnswer, why, None);
        let id = &found.provider.id;
        if &**id == "other" {
            tracing::debug!(reason = %why, detail, "no answer from a server");
        } else if let Some(left_out) = self.lines.tell(id, why.as_str()) {
            tracing::warn!(provider = %id, reason = %why, detail, left_out, "no answer from the provider");
        }
        own_answer(status, why, body)
    }

    fn refuse(
        &self,
        snapshot: &Snapshot,
        request: &Request<Incoming>,
        peer: &Peer,
        started: Instant,
        refusal: Refusal,
    ) -> Response<AnswerBody> {
        let facts = CallFacts {
            request: RequestFacts { method: method_name(request.method()), ..RequestFacts::default() },
            ..blank_facts(snapshot, request.headers(), peer.origin.as_ref().map_or(Way::BaseUrl, |origin| origin.way))
        };
        let call =
            OpenCall::new(facts, started, None, None, Arc::clone(&peer.client), Arc::clone(&self.sink), Box::new(()));
        call.fail(End::Refused, refusal.why, Some(refusal.status.as_u16()));
        own_answer(refusal.status, refusal.why, refusal.body)
    }
}

struct Refusal {
    status: StatusCode,
    why: GeneratedError,
    body: Vec<u8>,
}

/// Passes the answer's head on and watches its body; on 101 joins the two connections.
fn pass_on(
    (answer, connect): Answer<RequestBody>,
    call: Arc<OpenCall>,
    found: &Match,
    application: Option<(hyper::upgrade::OnUpgrade, Peer)>,
    hide: Option<HideUsage>,
    idle_timeout: Duration,
    client: Arc<ClientState>,
) -> Response<AnswerBody> {
    let (mut parts, body) = answer.into_parts();
    let kept = keep_response_headers(&found.provider, &parts.headers);
    call.head(ResponseFacts { status: parts.status.as_u16(), headers: kept, bytes: 0 }, connect);
    let upgraded =
        headers::upgrade_protocol(&parts.headers).filter(|_| parts.status == StatusCode::SWITCHING_PROTOCOLS);
    headers::strip_hop_by_hop(&mut parts.headers);
    if let (Some(protocol), Some((application, mut peer))) = (upgraded, application) {
        headers::set_upgrade(&mut parts.headers, protocol);
        let extensions =
            parts.headers.get("sec-websocket-extensions").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let provider = hyper::upgrade::on(Response::from_parts(parts.clone(), body));
        let decoder = decoder(found.protocol, 101, Some("application/x-ndjson"));
        tokio::spawn(async move {
            let joined = async {
                match tokio::try_join!(application, provider) {
                    Ok((application, provider)) => {
                        tunnel(application, provider, Arc::clone(&call), decoder, extensions.as_deref()).await
                    }
                    Err(_) => call.finish(End::ClientCancelled, Reply::default(), |_| ()),
                }
            };
            tokio::select! {
                () = joined => {}
                // What is dropped here is the tunnel, which then ends its call as cut off.
                () = async {
                    peer.arrival.hold.cut_off().await;
                    peer.client.cut_off();
                } => {}
            }
        });
        return Response::from_parts(parts, AnswerBody::own(Vec::new()));
    }
    let decoder = decoder(found.protocol, parts.status.as_u16(), text(&parts.headers, &CONTENT_TYPE));
    let unpack = Decompressor::new(text(&parts.headers, &CONTENT_ENCODING));
    // A compressed stream cannot be cut: the application sees the extra chunk.
    let hide = hide.filter(|_| parts.status.is_success() && !parts.headers.contains_key(CONTENT_ENCODING));
    if hide.is_some() {
        parts.headers.remove(CONTENT_LENGTH);
    }
    Response::from_parts(parts, AnswerBody::watched(body, call, decoder, unpack, hide, idle_timeout, client))
}

fn decoder(protocol: Protocol, status: u16, content_type: Option<&str>) -> Decoder {
    Decoder::new(family(protocol), ReplyHint { status, content_type, protocol })
}

/// Sends the request; gives up when neither side has moved for `idle_timeout`.
async fn send(
    upstream: &Upstream<RequestBody>,
    request: Request<RequestBody>,
    upgrade: bool,
    call: &OpenCall,
    idle_timeout: Duration,
) -> Result<Answer<RequestBody>, UpstreamError> {
    let mut sending = std::pin::pin!(upstream.send(request, upgrade));
    loop {
        let deadline = call.last_sent() + idle_timeout;
        if let Ok(sent) = tokio::time::timeout_at(deadline.into(), sending.as_mut()).await {
            return sent;
        }
        if call.last_sent() + idle_timeout <= Instant::now() {
            let detail = format!("the provider did not answer within {} s", idle_timeout.as_secs_f64());
            return Err(UpstreamError { kind: GeneratedError::ReadTimeout, detail });
        }
    }
}

/// Turns the request's head from ours to the provider's.
fn readdress(
    parts: &mut http::request::Parts,
    found: &Match,
    upgrade: Option<HeaderValue>,
    strip_context: bool,
) -> Result<(), String> {
    let unfit = |error: &dyn std::fmt::Display| format!("the request's path cannot be sent on: {error}");
    let mut target = http::uri::Parts::default();
    target.scheme = Some(found.scheme.clone());
    target.authority = Some(Authority::from_maybe_shared(authority_of(found)).map_err(|error| unfit(&error))?);
    let path = PathAndQuery::from_maybe_shared(found.path_and_query.clone()).map_err(|error| unfit(&error))?;
    target.path_and_query = Some(path);
    parts.uri = Uri::from_parts(target).map_err(|error| unfit(&error))?;
    parts.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut parts.headers);
    // Set from the URI by the client: a request that came by HTTP/2 has none.
    parts.headers.remove(HOST);
    if let Some(protocol) = upgrade {
        headers::set_upgrade(&mut parts.headers, protocol);
    }
    if strip_context {
        for name in TRACE_HEADERS {
            parts.headers.remove(name);
        }
    }
    Ok(())
}

/// The length of an OpenAI-format call whose provider reports a stream's usage only when asked, small enough to be read
/// whole.
fn may_ask_for_usage(found: &Match, parts: &http::request::Parts) -> Option<u32> {
    let fits = matches!(found.protocol, Protocol::OpenaiChat | Protocol::OpenaiCompletions)
        && parts.method == Method::POST
        && found.provider.usage_in_stream == UsageInStream::OnRequest
        && !parts.headers.contains_key(CONTENT_ENCODING);
    let length = text(&parts.headers, &CONTENT_LENGTH).filter(|_| fits)?.parse().ok()?;
    (length <= inject::MAX_REQUEST_BYTES).then_some(length)
}

fn open_facts(
    snapshot: &Snapshot,
    method: &Method,
    headers: &HeaderMap,
    found: &Match,
    key: KeyFacts,
    way: Way,
) -> CallFacts {
    let provider = &found.provider;
    CallFacts {
        provider: Arc::clone(&provider.id),
        price_as: found.price_as.clone(),
        local: provider.local,
        billed: found.billed,
        operation: found.operation,
        protocol: found.protocol,
        server_address: Arc::clone(&found.host),
        server_port: found.port,
        key,
        request: RequestFacts {
            method: method_name(method),
            url_model: found.url_model.clone(),
            url: snapshot.keep_url.then(|| address_of(found)),
            stream: found.stream,
            hash: target_hash(method, &found.path_and_query),
            sdk_retry_count: sdk_retry_count(headers),
            user_agent: text(headers, &USER_AGENT)
                .map(|agent| agent.split([' ', '(']).next().unwrap_or_default())
                .map(|product| product[..product.floor_char_boundary(MAX_PRODUCT)].to_owned()),
            ..RequestFacts::default()
        },
        reply: Reply { repeats_usage: found.repeats_usage, ..Reply::default() },
        ..blank_facts(snapshot, headers, way)
    }
}

fn blank_facts(snapshot: &Snapshot, headers: &HeaderMap, way: Way) -> CallFacts {
    let now = SystemTime::now();
    CallFacts {
        call_id: CallId::new(now),
        started: now,
        trace: read_trace_context(headers, snapshot.propagation),
        way,
        provider: Arc::from("other"),
        price_as: None,
        local: false,
        billed: false,
        operation: Operation::Other,
        protocol: Protocol::Opaque,
        server_address: Arc::from(""),
        server_port: 0,
        client: snapshot.client.clone(),
        caller: None,
        key: KeyFacts::default(),
        request: RequestFacts::default(),
        response: None,
        reply: Reply::default(),
        end: End::Refused,
        generated: None,
        timing: Timing::default(),
    }
}

/// Where the call goes, without its query: some providers take the key there.
fn address_of(found: &Match) -> String {
    let path = found.path_and_query.split('?').next().unwrap_or_default();
    format!("{}://{}{path}", found.scheme, authority_of(found)).chars().take(256).collect()
}

fn authority_of(found: &Match) -> String {
    let default_port = if found.scheme == http::uri::Scheme::HTTPS { 443 } else { 80 };
    if found.port == default_port { found.host.to_string() } else { format!("{}:{}", found.host, found.port) }
}

/// The method where it is a known one; anything else is client text.
fn method_name(method: &Method) -> String {
    let known = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::TRACE,
        Method::CONNECT,
    ];
    if known.contains(method) { method.to_string() } else { "_OTHER".to_owned() }
}

/// FNV-1a over method and target: joined with the body's hash to recognise a repeated request.
fn target_hash(method: &Method, target: &str) -> u64 {
    method
        .as_str()
        .bytes()
        .chain(target.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// `x-stainless-retry-count: 2` (OpenAI and Anthropic SDKs), `amz-sdk-request: attempt=3; max=4` (AWS SDKs).
fn sdk_retry_count(headers: &HeaderMap) -> Option<u32> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(count) = value("x-stainless-retry-count") {
        return count.trim().parse().ok();
    }
    let attempt = value("amz-sdk-request")?.split(';').find_map(|part| part.trim().strip_prefix("attempt="))?;
    attempt.trim().parse::<u32>().ok()?.checked_sub(1)
}

fn text<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn own_answer(status: StatusCode, why: GeneratedError, body: Vec<u8>) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::own(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(GENERATED_HEADER, HeaderValue::from_static(why.as_str()));
    answer
}

/// A request for another host than the one that the connection was made to (RFC 9110 section 15.5.20).
fn misdirected() -> Refusal {
    let body = br#"{"error":{"type":"keytally_error","code":"bad_request","message":"keytally: the request is for another host than the connection; open a connection to that host"},"keytally":{"generated":true,"reason":"bad_request"}}"#;
    Refusal { status: StatusCode::MISDIRECTED_REQUEST, why: GeneratedError::BadRequest, body: body.to_vec() }
}

impl Upstreams {
    fn of(&self, provider: &Arc<str>) -> &Upstream<RequestBody> {
        self.own.iter().find(|(id, _)| id == provider).map_or(&self.shared, |(_, upstream)| upstream)
    }
}
