//! Stage 1: accepts connections on the proxy port and serves HTTP/1.1 and HTTP/2 (prior knowledge) on them.
//!
//! Bounds: at most `connections` at a time (a further one waits in the kernel's queue), head of a request at most
//! `header_bytes` (a longer one is answered with 431). One bad connection never ends the loop. On shutdown the socket
//! stops accepting, idle connections close, calls in flight end by themselves.

mod caller;
mod client_io;
mod inherited;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

pub use caller::{Answer, Callers};
pub use client_io::{Answering, ClientIo, ClientState, Ends};
pub use inherited::Inherited;

/// Bounds of the proxy port.
#[derive(Clone)]
pub struct ListenSettings {
    /// Connections served at a time.
    pub connections: usize,
    /// Most bytes of a request's head.
    pub header_bytes: usize,
    /// Finds out which processes call; `None` when nobody wants to know.
    pub callers: Option<Callers>,
}

/// What the port is asked to do; only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accept and serve.
    Serving,
    /// Accept no more; calls in flight end by themselves.
    Draining,
    /// Calls in flight end now.
    CutOff,
}

/// What is known of the connection that a request came on.
#[derive(Clone)]
pub struct Peer {
    /// The application's end.
    pub address: SocketAddr,
    /// Tells the connection when a call on it waits for its answer.
    pub client: Arc<ClientState>,
    /// For what goes on after HTTP has ended on the connection.
    pub hold: Hold,
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

/// Serves `listener` until `phases` says otherwise, then until the last connection (upgraded ones too) has ended.
///
/// `handle` answers one request; it is called once a request and may run many times at once. `opened` makes a guard that
/// lives as long as a connection.
pub async fn serve<H, F, B, G>(
    listener: TcpListener,
    settings: &ListenSettings,
    mut phases: watch::Receiver<Phase>,
    opened: impl Fn() -> G,
    handle: H,
) where
    H: Fn(Request<Incoming>, Peer) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    G: Send + 'static,
{
    let permits = Arc::new(Semaphore::new(settings.connections));
    let builder = Arc::new(server(settings));
    let (all_closed_tx, mut all_closed) = tokio::sync::mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            biased;
            () = reached(&mut phases, Phase::Draining) => break,
            accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, listener.accept().await)
            } => accepted,
        };
        let (permit, (stream, address)) = match accepted {
            (Ok(permit), Ok(accepted)) => (permit, accepted),
            (Err(_), _) => break,
            (_, Err(error)) => {
                accept_failed(&error).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        // A connection that is gone already has no local address any more.
        let Ok(local) = stream.local_addr() else { continue };
        let ends = Ends { peer: address, local };
        let callers = settings.callers.as_ref().filter(|_| ends.is_local());
        let caller = callers.map(|callers| callers.ask(ends));
        let (io, client) = ClientIo::new(stream, ends, caller);
        // A mutex only because the guard need not be `Sync`.
        let counted = Arc::new(Mutex::new((permit, opened(), all_closed_tx.clone())));
        let hold = Hold { phases: phases.clone(), _counted: counted };
        let peer = Peer { address, client: Arc::clone(&client), hold: hold.clone() };
        let (handle, builder, mut phases) = (handle.clone(), Arc::clone(&builder), phases.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = handle(request, peer.clone());
                async move { Ok::<_, Infallible>(answer.await) }
            });
            if let Err(error) = serve_connection(&builder, io, service, &client, &mut phases).await {
                tracing::debug!(%address, error = %crate::upstream::chain(&*error), "connection ended early");
            }
            // Only now: the calls on the connection have ended with it.
            drop(hold);
        });
    }
    drop(listener);
    drop(all_closed_tx);
    let _ = all_closed.recv().await;
}

/// Serves one connection to its end, or until calls are cut off.
async fn serve_connection<S, B>(
    builder: &auto::Builder<TokioExecutor>,
    io: ClientIo,
    service: S,
    client: &ClientState,
    phases: &mut watch::Receiver<Phase>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
    tokio::select! {
        served = connection.as_mut() => return served,
        () = reached(phases, Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        served = connection.as_mut() => served,
        () = reached(phases, Phase::CutOff) => {
            // The calls on it are dropped with it, and must not be taken for cancelled ones.
            client.cut_off();
            Ok(())
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
        .max_headers(256)
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

/// Errors of a single connection are passed over; when the process is out of descriptors or memory, waits a little.
async fn accept_failed(error: &io::Error) {
    let of_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    );
    if !of_one_connection {
        tracing::warn!(%error, "cannot accept a connection; waiting 100 ms");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
