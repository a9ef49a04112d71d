//! Calls that share HTTP/2 connections to a provider: none waits for another one, whatever the provider allows on a
//! connection and however slowly answers are read.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::support::wire::{Authority, read_head, serve_raw};
use crate::support::{Sidecar, client};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

const PIECE: &[u8] = &[b'a'; 16 << 10];

/// A provider that speaks HTTP/2 alone. It answers `…/short` with one piece, `…/silent` with one piece and the end when it is
/// told, `…/slow` with nothing until it is told, and `…/large` with 64 MiB.
#[derive(Clone)]
struct Provider {
    /// Calls that have come.
    asked: Arc<AtomicUsize>,
    /// Pieces that were sent.
    sent: Arc<AtomicUsize>,
    /// Connections that are open.
    open: Arc<AtomicUsize>,
    /// Ends what is silent or slow.
    end: watch::Sender<bool>,
    /// Tells all connections to take no further calls.
    retire: watch::Sender<()>,
}

struct Pieces {
    left: usize,
    sent: Arc<AtomicUsize>,
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Provider {
    /// Starts one that allows `streams` calls on a connection, and a sidecar whose OpenAI it is; `more` is further YAML of
    /// `upstream`.
    async fn start(streams: u32, more: &str) -> (Self, Sidecar) {
        let authority = Authority::new();
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, &authority.pem).unwrap();
        let acceptor = authority.acceptor("localhost", &["h2"], false);
        let provider = Self {
            asked: Arc::default(),
            sent: Arc::default(),
            open: Arc::default(),
            end: watch::Sender::new(false),
            retire: watch::Sender::new(()),
        };
        let one = provider.clone();
        let address = serve_raw(move |stream| {
            let (one, acceptor) = (one.clone(), acceptor.clone());
            async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                one.open.fetch_add(1, Ordering::SeqCst);
                let mut retire = one.retire.subscribe();
                let service = hyper::service::service_fn(|request| one.clone().answer(request));
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(streams);
                let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
                tokio::select! {
                    _ = &mut connection => {}
                    _ = retire.changed() => {
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.await;
                    }
                }
                one.open.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .await;
        let sidecar = Sidecar::start(&format!(
            "providers: {{ openai: {{ base_url: \"https://localhost:{}\" }} }}\nupstream: {{ ca_file: \"{}\"{more} }}",
            address.port(),
            ca.display()
        ));
        (provider, sidecar)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Pieces>, Infallible> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let kind = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let mut told = self.end.subscribe();
        let mut end: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = Some(Box::pin(async move {
            let _ = told.wait_for(|end| *end).await;
        }));
        if kind == "slow" {
            end.take().unwrap().await;
        }
        let left = if kind == "large" { (64 << 20) / PIECE.len() } else { 1 };
        Ok(Response::new(Pieces { left, sent: self.sent, end: end.filter(|_| kind == "silent") }))
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.sent.fetch_add(1, Ordering::SeqCst);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(PIECE)))));
        }
        match &mut self.end {
            Some(end) => end.as_mut().poll(cx).map(|()| None),
            None => Poll::Ready(None),
        }
    }
}

/// Asks for an answer of this kind; its head has come.
async fn open(sidecar: SocketAddr, kind: &str) -> Response<Incoming> {
    let request = Request::get(format!("/openai/v1/models/{kind}")).body(Full::default()).unwrap();
    let answer = tokio::time::timeout(PATIENCE, client::open(sidecar, request)).await;
    let answer = answer.unwrap_or_else(|_| panic!("no answer to {kind}")).unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

async fn whole(answer: Response<Incoming>) {
    let body = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await.expect("it ends").unwrap();
    assert_eq!(body.to_bytes().len(), PIECE.len());
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As many connections are open, by the provider's count and by the sidecar's.
async fn until_open(provider: &Provider, sidecar: &Sidecar, count: usize) {
    until(&format!("{count} open connections"), async || {
        let metrics = sidecar.metrics().await;
        let counted = metrics.sum("keytally_connections", &[("side", "upstream")]);
        provider.open() == count && counted == Some(count as f64)
    })
    .await;
}

#[tokio::test]
async fn calls_beyond_what_a_connection_takes_go_to_another() {
    for (streams, calls, connections) in [(8, 20, 3), (100, 40, 2), (1, 4, 4)] {
        let (provider, sidecar) = Provider::start(streams, ", pool_idle_timeout: 300ms").await;
        let mut answers = Vec::new();
        for _ in 0..calls {
            answers.push(open(sidecar.proxy, "silent").await);
        }
        // Longer than the idle timeout: what is in use stays.
        tokio::time::sleep(Duration::from_secs(1)).await;
        until_open(&provider, &sidecar, connections).await;
        provider.end.send_replace(true);
        for answer in answers {
            whole(answer).await;
        }
        until_open(&provider, &sidecar, 0).await;
    }
}

#[tokio::test]
async fn calls_at_once_reach_the_provider_at_once() {
    for first in [false, true] {
        let (provider, sidecar) = Provider::start(8, "").await;
        if first {
            whole(open(sidecar.proxy, "short").await).await;
        }
        let asked = usize::from(first) + 20;
        let proxy = sidecar.proxy;
        let calls: Vec<_> = (0..20).map(|_| tokio::spawn(async move { open(proxy, "slow").await })).collect();
        until("all are there", async || provider.asked.load(Ordering::SeqCst) == asked).await;
        provider.end.send_replace(true);
        for call in calls {
            whole(call.await.unwrap()).await;
        }
        // All have room on what is there.
        let before = provider.open();
        for _ in 0..20 {
            whole(open(proxy, "short").await).await;
        }
        assert!(provider.open() <= before);
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_hold_up_others() {
    let (provider, sidecar) = Provider::start(100, "").await;
    whole(open(sidecar.proxy, "short").await).await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream: TcpStream = socket.connect(sidecar.proxy).await.unwrap();
        stream.write_all(b"GET /openai/v1/models/large HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        read_head(&mut stream).await;
        unread.push(stream);
    }
    // Until no window has room left.
    until("the provider has to stop", async || {
        let before = provider.sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
        provider.sent.load(Ordering::SeqCst) == before
    })
    .await;
    let sent = provider.sent.load(Ordering::SeqCst) * PIECE.len();
    assert!(sent > 16 << 20, "{sent} bytes fill no window");
    assert_eq!(provider.open(), 1, "they share a connection");
    whole(open(sidecar.proxy, "short").await).await;
    assert_eq!(provider.open(), 1);
}

#[tokio::test]
async fn a_connection_that_takes_no_further_calls_is_left_alone() {
    let (provider, sidecar) = Provider::start(100, "").await;
    let answer = open(sidecar.proxy, "silent").await;
    provider.retire.send_replace(());
    for _ in 0..3 {
        whole(open(sidecar.proxy, "short").await).await;
    }
    until_open(&provider, &sidecar, 2).await;
    provider.end.send_replace(true);
    whole(answer).await;
    until_open(&provider, &sidecar, 1).await;
}
