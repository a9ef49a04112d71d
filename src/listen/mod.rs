//! Stage 1: accepts connections, and serves HTTP/1.1 and HTTP/2 (prior knowledge, or as TLS agreed) on them.
//!
//! Beside it: what a connection begins with ([`client_hello`]), the local authority and its certificates ([`ca`],
//! [`permitted`], [`leaf`]), TLS with applications ([`tls`]) and blind tunnels ([`tunnel`]).
//!
//! Bounds: connections as [`room`] has it (a further one waits in the kernel's queue), head of a request at most
//! `header_bytes` (a longer one is answered with 431). One bad connection never ends the loop. On shutdown the socket
//! stops accepting, idle connections close, calls in flight end by themselves.

pub mod ca;
mod caller;
pub mod client_hello;
mod client_io;
mod data_thread;
mod inherited;
pub mod leaf;
pub mod permitted;
pub mod redirect;
pub mod room;
pub mod tls;
pub mod tunnel;

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::call::Way;
#[cfg(all(target_os = "linux", any(test, fuzzing)))]
pub(crate) use caller::socket::read_any as read_any_socket;
pub use caller::{Answer, Callers};
pub use client_io::{Answering, ClientIo, ClientState, Ends};
pub use data_thread::{DataThread, give_back_by};
pub use inherited::Inherited;
use room::Room;

/// Bounds of a port.
#[derive(Clone)]
pub struct ListenSettings {
    /// Connections served at a time, by all ports together.
    pub room: Arc<Room>,
    /// Most bytes of a request's head.
    pub header_bytes: usize,
    /// Finds out which processes call; `None` when nobody wants to know.
    pub callers: Option<Callers>,
}

/// What the ports are asked to do; only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accept and serve.
    Serving,
    /// Accept no more; calls in flight end by themselves.
    Draining,
    /// Calls in flight end now.
    CutOff,
}

/// An accepted connection.
#[derive(Clone)]
pub struct Arrival {
    /// The addresses of its socket.
    pub ends: Ends,
    /// Which process it comes from, if that is being found out.
    pub caller: Option<Answer>,
    /// For as long as something goes on over it.
    pub hold: Hold,
}

/// What is known of the connection that a request came on.
#[derive(Clone)]
pub struct Peer {
    /// The connection.
    pub arrival: Arrival,
    /// Tells the connection when a call on it waits for its answer.
    pub client: Arc<ClientState>,
    /// Where its requests go, when the connection itself tells; `None` on the base-URL port, where each request does.
    pub origin: Option<Origin>,
}

/// The server that an application means to speak to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Plain or TLS, as the application speaks.
    pub scheme: Scheme,
    /// Lower case.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// How the connection came.
    pub way: Way,
}

/// Counts its connection as open for as long as one clone lives, and tells when it is to end at once.
#[derive(Clone)]
pub struct Hold {
    phases: watch::Receiver<Phase>,
    _counted: Arc<dyn Send + Sync>,
}

impl Hold {
    /// Waits until calls in flight are cut off.
    pub async fn cut_off(&mut self) {
        reached(&mut self.phases, Phase::CutOff).await;
    }
}

/// Accepts connections until `phases` says otherwise, then waits until the last one (upgraded ones too) has ended.
///
/// `serve` serves one connection, on a task of its own. `opened` makes a guard that lives as long as a connection.
pub async fn accept<S, F, G>(
    listener: TcpListener,
    settings: &ListenSettings,
    mut phases: watch::Receiver<Phase>,
    opened: impl Fn() -> G,
    serve: S,
) where
    S: Fn(TcpStream, Arrival) -> F,
    F: Future<Output = ()> + Send + 'static,
    G: Send + 'static,
{
    let (all_closed_tx, mut all_closed) = tokio::sync::mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            biased;
            () = reached(&mut phases, Phase::Draining) => break,
            accepted = async {
                let permit = settings.room.permit().await;
                (permit, listener.accept().await)
            } => accepted,
        };
        let (permit, (stream, peer)) = match accepted {
            (Some(permit), Ok(accepted)) => (permit, accepted),
            (None, _) => break,
            (_, Err(error)) => {
                settings.room.failed(&error).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        notice_silence(&stream);
        // A connection that is gone already has no local address any more.
        let Ok(local) = stream.local_addr() else { continue };
        let ends = Ends { peer, local, redirected: false };
        let callers = settings.callers.as_ref().filter(|_| ends.is_local());
        let caller = callers.map(|callers| callers.ask(ends));
        // A mutex only because the guard need not be `Sync`.
        let counted = Arc::new(Mutex::new((permit, opened(), all_closed_tx.clone())));
        let hold = Hold { phases: phases.clone(), _counted: counted };
        tokio::spawn(serve(stream, Arrival { ends, caller, hold }));
    }
    drop(listener);
    drop(all_closed_tx);
    let _ = all_closed.recv().await;
}

/// A connection with an application, whatever carries it. One type for all of them: what serves them is some hundred
/// kilobytes of code, which need not be there once for each.
pub type Stream = Box<dyn Carrier>;

/// What a [`Stream`] can be made of.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Carrier for S {}

/// One answer to be; boxed, so that a connection does not keep its room while the answer's body passes.
pub type Answered<B> = Pin<Box<dyn Future<Output = Response<B>> + Send>>;

/// Answers requests: any number of them at once.
pub type Handler<B> = Box<dyn Fn(Request<Incoming>, Peer) -> Answered<B> + Send>;

/// Serves HTTP on connections.
pub struct HttpServer(auto::Builder<TokioExecutor>);

impl HttpServer {
    /// With these bounds.
    pub fn new(settings: &ListenSettings) -> Self {
        Self(server(settings))
    }

    /// Serves one connection to its end, or until calls are cut off. `origin`: see [`Peer::origin`].
    pub async fn serve<B>(&self, stream: Stream, arrival: Arrival, origin: Option<Origin>, handle: Handler<B>)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (io, client) = ClientIo::new(stream, arrival.ends, arrival.caller.clone());
        let (address, mut phases) = (arrival.ends.peer, arrival.hold.phases.clone());
        let peer = Peer { arrival, client: Arc::clone(&client), origin };
        // Dropped last: the calls on the connection end with it.
        let _hold = peer.arrival.hold.clone();
        let service = service_fn(move |request| {
            let answer = handle(request, peer.clone());
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut connection = pin!(self.0.serve_connection_with_upgrades(TokioIo::new(io), service));
        let served = tokio::select! {
            served = connection.as_mut() => Some(served),
            () = reached(&mut phases, Phase::Draining) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    served = connection.as_mut() => Some(served),
                    () = reached(&mut phases, Phase::CutOff) => None,
                }
            }
        };
        match served {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::debug!(%address, error = %crate::upstream::chain(&*error), "connection ended early");
            }
            // The calls on it are dropped with it, and must not be taken for cancelled ones.
            None => client.cut_off(),
        }
    }
}

/// Waits until that phase or a later one has come (or its sender is gone).
async fn reached(phases: &mut watch::Receiver<Phase>, phase: Phase) {
    let _ = phases.wait_for(|now| *now >= phase).await;
}

fn server(settings: &ListenSettings) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // An idle keep-alive connection is the application's to close: closing it here makes its next call fail.
        .header_read_timeout(None)
        .auto_date_header(false)
        .preserve_header_case(true)
        // hyper asks for at least 8 KiB.
        .max_buf_size(settings.header_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(1024)
        .max_header_list_size(u32::try_from(settings.header_bytes).unwrap_or(u32::MAX));
    builder
}

/// A peer that vanished without a word is found out: probes after half a minute without a byte, given up after half a minute
/// more. The kernel's two hours would keep its connections, and with them the calls that it waited for, until then.
fn notice_silence(stream: &TcpStream) {
    use rustix::net::sockopt;
    // A socket that cannot be probed is served all the same.
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(30));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepcnt(stream, 3);
}
