//! Connections to providers, kept for the next request. In: a request with an absolute address. Out: the answer, whose body
//! gives its connection back when it has been read.
//!
//! HTTP/1.1: the connection that came back last goes out first. HTTP/2: a connection carries several requests, see
//! [`CALLS`]; the oldest with room is taken. A request that finds none makes one. What has not been used for the idle
//! timeout is closed, after one and a half of it at the latest. A request is sent again only when a connection that was
//! used before had closed without taking any of it.
//!
//! Bounds: as many connections as requests at a time, and those that are idle; hosts without any are forgotten.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::Connector;
use super::{UpstreamError, UpstreamSettings};

/// Calls that share an HTTP/2 connection; fewer if the provider allows fewer. hyper keeps a call that is one too many
/// until another has ended, so it must be below what providers allow: 100 and more (RFC 9113, section 6.5.2).
const CALLS: u32 = 32;

/// What a call's answer may be ahead of its reader. A connection may be ahead by as much for each of its calls, so that
/// answers nobody reads do not hold up the others.
const STREAM_WINDOW: u32 = 1 << 20;

/// Stands for "not said yet" where h2 tells how many streams a provider allows; the largest `usize` stands for any number.
const UNSAID: usize = usize::MAX - 1;

/// A pool; see the file's head.
pub(super) struct Pool<B>(Arc<Shared<B>>);

struct Shared<B> {
    connector: Connector,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    idle_timeout: Duration,
    kept: Mutex<Kept<B>>,
}

struct Kept<B> {
    hosts: HashMap<Host, Connections<B>>,
    /// A task closes what has been idle for too long; it ends when nothing is kept.
    swept: bool,
}

/// What a connection was made to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Host {
    scheme: Scheme,
    authority: Authority,
}

struct Connections<B> {
    /// Idle ones and when they came back, the latest last.
    http1: Vec<(Http1<B>, Instant)>,
    /// The oldest first.
    http2: Vec<Http2<B>>,
}

struct Http1<B> {
    sender: http1::SendRequest<B>,
    /// Requests go to a proxy, in absolute form.
    proxied: bool,
}

struct Http2<B> {
    sender: http2::SendRequest<B>,
    load: Arc<Mutex<Load>>,
}

/// The use of an HTTP/2 connection.
struct Load {
    calls: u32,
    /// Calls that it takes; `None` before the provider has said what it allows: then it has the one that it was made for.
    room: Option<u32>,
    /// When a call last ended.
    used: Instant,
    /// While `room` is not known: wakes the connection's task to look again, as nothing else does when it is said.
    task: Option<Waker>,
}

/// A call on an HTTP/2 connection.
struct Call(Arc<Mutex<Load>>);

enum Sender<B> {
    Http1(Http1<B>),
    Http2(http2::SendRequest<B>, Call),
}

/// An answer, and how long its connection took to be made, if it was made for it.
pub type Answer<B> = (Response<Received<B>>, Option<Duration>);

/// The body of an answer.
pub struct Received<B: Send + 'static> {
    // First: a connection whose answer has not been read whole must not look as if it had been.
    body: Incoming,
    _lease: Option<Lease<B>>,
    _call: Option<Call>,
}

/// A connection that goes back to its pool.
struct Lease<B: Send + 'static> {
    back: Option<(Host, Http1<B>)>,
    pool: Weak<Shared<B>>,
}

// === impl Pool ===

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + 'static + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(connector: Connector, settings: &UpstreamSettings) -> Self {
        let mut http1 = http1::Builder::new();
        // hyper asks for at least 8 KiB.
        http1.preserve_header_case(true).max_buf_size(settings.header_bytes.max(8192));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .initial_max_send_streams(UNSAID)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CALLS * STREAM_WINDOW)
            .max_header_list_size(u32::try_from(settings.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let kept = Mutex::new(Kept { hosts: HashMap::new(), swept: false });
        Self(Arc::new(Shared { connector, http1, http2, idle_timeout: settings.pool_idle_timeout, kept }))
    }

    /// Sends one request and waits for the head of its answer.
    pub(super) async fn send(&self, mut request: Request<B>) -> Result<Answer<B>, UpstreamError> {
        let host = Host::of(request.uri())?;
        let address = request.uri().clone();
        loop {
            let (sender, fresh, made_in) = match self.0.take(&host) {
                Some(sender) => (sender, false, None),
                None => {
                    let started = Instant::now();
                    let (sender, fresh) = Box::pin(self.connect(&host)).await?;
                    (sender, fresh, Some(started.elapsed()))
                }
            };
            let (sent, http1, call) = match sender {
                Sender::Http1(mut http1) => {
                    set_host(&mut request);
                    if !http1.proxied {
                        *request.uri_mut() = origin_form(&address);
                    }
                    (http1.sender.try_send_request(request).await, Some(http1), None)
                }
                Sender::Http2(mut sender, call) => (sender.try_send_request(request).await, None, Some(call)),
            };
            match sent {
                Ok(answer) => {
                    if let Some(call) = &call {
                        // By now it is said how many calls the connection takes.
                        locked(&call.0).look();
                    }
                    let pool = Arc::downgrade(&self.0);
                    let lease = http1.map(|http1| Lease { back: Some((host, http1)), pool });
                    return Ok((answer.map(|body| Received { body, _lease: lease, _call: call }), made_in));
                }
                Err(mut refused) => match refused.take_message() {
                    // Closed by the other side while it was idle: no byte of the request has left.
                    Some(unsent) if !fresh => {
                        request = unsent;
                        *request.uri_mut() = address.clone();
                    }
                    _ => return Err(UpstreamError::broken(refused.error())),
                },
            }
        }
    }

    /// A connection, and whether nothing else has used it.
    async fn connect(&self, host: &Host) -> Result<(Sender<B>, bool), UpstreamError> {
        let pool = &self.0;
        let io = pool.connector.clone().connect(host.as_uri()?).await?;
        let broken = |error: hyper::Error| UpstreamError::broken(&error);
        if !io.is_http2() {
            let proxied = io.is_proxied();
            let (sender, connection) = pool.http1.handshake(io).await.map_err(broken)?;
            tokio::spawn(ended(connection.with_upgrades()));
            return Ok((Sender::Http1(Http1 { sender, proxied }), true));
        }
        // Another request may have been faster.
        if let Some(sender) = pool.kept().shared(host) {
            return Ok((sender, false));
        }
        let (sender, mut connection) = pool.http2.handshake(io).await.map_err(broken)?;
        let load = Arc::new(Mutex::new(Load { calls: 1, room: None, used: Instant::now(), task: None }));
        let (call, watched) = (Call(Arc::clone(&load)), Arc::clone(&load));
        tokio::spawn(ended(poll_fn(move |cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            locked(&watched).allow(connection.current_max_send_streams(), cx.waker());
            polled
        })));
        let mut kept = pool.kept();
        kept.hosts.entry(host.clone()).or_default().http2.push(Http2 { sender: sender.clone(), load });
        kept.sweep(pool);
        Ok((Sender::Http2(sender, call), true))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves a connection until it closes.
async fn ended(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!(error = %super::chain(&error), "a connection to a provider broke");
    }
}

impl<B> Shared<B> {
    fn kept(&self) -> MutexGuard<'_, Kept<B>> {
        locked(&self.kept)
    }
}

impl<B: Send + 'static> Shared<B> {
    /// A connection that is there already.
    fn take(&self, host: &Host) -> Option<Sender<B>> {
        let mut kept = self.kept();
        if let Some(sender) = kept.shared(host) {
            return Some(sender);
        }
        let idle = &mut kept.hosts.get_mut(host)?.http1;
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let (http1, since) = &idle[at];
            if http1.sender.is_closed() || since.elapsed() > self.idle_timeout {
                idle.swap_remove(at);
            } else if http1.sender.is_ready() {
                return Some(Sender::Http1(idle.remove(at).0));
            }
        }
        None
    }

    fn put(self: &Arc<Self>, host: Host, http1: Http1<B>) {
        let mut kept = self.kept();
        kept.hosts.entry(host).or_default().http1.push((http1, Instant::now()));
        kept.sweep(self);
    }
}

impl<B> Kept<B> {
    /// An HTTP/2 connection of a host that has room.
    fn shared(&mut self, host: &Host) -> Option<Sender<B>> {
        let connections = &mut self.hosts.get_mut(host)?.http2;
        connections.retain(|http2| !http2.sender.is_closed());
        connections.iter().find_map(Http2::take)
    }
}

impl<B: Send + 'static> Kept<B> {
    /// Sees to it that idle connections end.
    fn sweep(&mut self, pool: &Arc<Shared<B>>) {
        if self.swept {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.swept = true;
        let (pool, timeout) = (Arc::downgrade(pool), pool.idle_timeout);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep((timeout / 2).max(Duration::from_millis(10))).await;
                let Some(pool) = pool.upgrade() else { return };
                let mut kept = pool.kept();
                kept.hosts.retain(|_, connections| connections.keep(timeout));
                if kept.hosts.is_empty() {
                    kept.hosts.shrink_to_fit();
                    kept.swept = false;
                    return;
                }
            }
        });
    }
}

impl<B> Connections<B> {
    /// Drops what has closed or been idle for too long; false if nothing is left.
    fn keep(&mut self, timeout: Duration) -> bool {
        self.http1.retain(|(http1, since)| !http1.sender.is_closed() && since.elapsed() < timeout);
        self.http1.shrink_to(self.http1.len() * 2);
        self.http2.retain(|http2| !http2.sender.is_closed() && !http2.is_idle_for(timeout));
        self.http2.shrink_to(self.http2.len() * 2);
        !self.http1.is_empty() || !self.http2.is_empty()
    }
}

impl<B> Default for Connections<B> {
    fn default() -> Self {
        Self { http1: Vec::new(), http2: Vec::new() }
    }
}

// === impl Http2 ===

impl<B> Http2<B> {
    fn take(&self) -> Option<Sender<B>> {
        let mut load = locked(&self.load);
        if load.calls < load.room.unwrap_or(1) {
            load.calls += 1;
            return Some(Sender::Http2(self.sender.clone(), Call(Arc::clone(&self.load))));
        }
        load.look();
        None
    }

    fn is_idle_for(&self, timeout: Duration) -> bool {
        let load = locked(&self.load);
        load.calls == 0 && load.used.elapsed() >= timeout
    }
}

impl Load {
    /// Takes over how many streams the provider allows; `task` is the connection's.
    fn allow(&mut self, streams: usize, task: &Waker) {
        self.room = (streams != UNSAID).then(|| u32::try_from(streams).map_or(CALLS, |streams| streams.min(CALLS)));
        self.task = self.room.is_none().then(|| task.clone());
    }

    /// Has the connection's task look how many streams the provider allows, if that is not known.
    fn look(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut load = locked(&self.0);
        load.calls -= 1;
        load.used = Instant::now();
    }
}

// === impl Host ===

impl Host {
    fn of(address: &Uri) -> Result<Self, UpstreamError> {
        match (address.scheme(), address.authority()) {
            (Some(scheme), Some(authority)) => Ok(Self { scheme: scheme.clone(), authority: authority.clone() }),
            _ => Err(UpstreamError::unfit(&format!("{address} is no absolute address"))),
        }
    }

    fn as_uri(&self) -> Result<Uri, UpstreamError> {
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query("/");
        uri.build().map_err(|error| UpstreamError::unfit(&error.to_string()))
    }
}

/// Path and query alone, as servers are asked.
fn origin_form(address: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = address.path_and_query().cloned();
    Uri::from_parts(parts).unwrap_or_default()
}

/// `Host` as the address has it, if the request has none of its own.
fn set_host<B>(request: &mut Request<B>) {
    if request.headers().contains_key(HOST) {
        return;
    }
    let Some(authority) = request.uri().authority() else { return };
    let default = if request.uri().scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let name = match authority.port_u16() {
        Some(port) if port != default => format!("{}:{port}", authority.host()),
        _ => authority.host().to_owned(),
    };
    if let Ok(name) = HeaderValue::from_maybe_shared(Bytes::from(name)) {
        request.headers_mut().insert(HOST, name);
    }
}

// === impl Received ===

impl<B: Send + 'static> Body for Received<B> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Nothing in it is pinned.
impl<B: Send + 'static> Unpin for Received<B> {}

impl<B: Send + 'static> Drop for Lease<B> {
    fn drop(&mut self) {
        if let (Some((host, http1)), Some(pool)) = (self.back.take(), self.pool.upgrade())
            && !http1.sender.is_closed()
        {
            pool.put(host, http1);
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
