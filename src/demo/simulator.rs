//! A simulated provider: answers on loopback with whatever a script says, in pieces and at a pace. The demo and the tests
//! use it; nothing else does.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Sleep;

/// What the simulated provider received.
#[derive(Clone, Debug)]
pub struct Received {
    /// Method, URI, version and headers as they arrived.
    pub head: Arc<http::request::Parts>,
    /// The body, whole.
    pub body: Bytes,
}

/// What it answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers as they are sent; a `content-length` must be right.
    pub headers: Vec<(String, String)>,
    /// The body: each piece is sent by itself after its pause.
    pub pieces: Vec<(Duration, Bytes)>,
    /// Trailers after the body.
    pub trailers: Vec<(String, String)>,
    /// What comes after the last piece.
    pub end: AnswerEnd,
    /// Wait before the head.
    pub delay: Duration,
}

/// How an [`Answer`] ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerEnd {
    /// As HTTP asks for.
    Clean,
    /// The connection breaks.
    Broken,
    /// Nothing more comes, and the connection stays.
    Silent,
}

impl Answer {
    /// A whole answer of one piece.
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            pieces: vec![(Duration::ZERO, body.into())],
            trailers: Vec::new(),
            end: AnswerEnd::Clean,
            delay: Duration::ZERO,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running simulated provider; it stops when this is dropped.
pub struct Simulator {
    address: SocketAddr,
    /// Held by every answer until its end.
    underway: Arc<()>,
    task: JoinHandle<()>,
}

impl Simulator {
    /// Listens on a free loopback port and answers as `script` says.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start<S>(script: S) -> io::Result<Self>
    where
        S: Fn(Received) -> Answer + Send + Sync + 'static,
    {
        Self::start_on(0, script).await
    }

    /// As [`Simulator::start`], on this loopback port.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub async fn start_on<S>(port: u16, script: S) -> io::Result<Self>
    where
        S: Fn(Received) -> Answer + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let script = Arc::new(script);
        let underway = Arc::new(());
        let count = Arc::downgrade(&underway);
        let task = tokio::spawn(async move {
            // Owned by this task: dropping the simulator closes its connections as well.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                while connections.try_join_next().is_some() {}
                let (script, count) = (Arc::clone(&script), count.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| respond(Arc::clone(&script), request, count.upgrade()));
                    let mut server = auto::Builder::new(TokioExecutor::new());
                    server.http1().auto_date_header(false).max_headers(512).max_buf_size(2 << 20);
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, underway, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers underway: those with parts still to come whose reader has not left.
    pub fn answering(&self) -> usize {
        Arc::strong_count(&self.underway) - 1
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond<S>(
    script: Arc<S>,
    request: Request<Incoming>,
    underway: Option<Arc<()>>,
) -> Result<Response<Pieces>, Infallible>
where
    S: Fn(Received) -> Answer + Send + Sync + 'static,
{
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let answer = script(Received { head: Arc::new(head), body });
    tokio::time::sleep(answer.delay).await;
    let mut response = Response::new(Pieces {
        left: answer.pieces.into_iter().filter(|(_, piece)| !piece.is_empty()).collect::<Vec<_>>().into_iter(),
        next: None,
        wait: None,
        trailers: header_map(&answer.trailers),
        end: answer.end,
        _underway: underway,
    });
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = header_map(&answer.headers);
    Ok(response)
}

fn header_map(pairs: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            map.append(name, value);
        }
    }
    map
}

/// The body of an [`Answer`].
struct Pieces {
    left: std::vec::IntoIter<(Duration, Bytes)>,
    next: Option<Bytes>,
    wait: Option<Pin<Box<Sleep>>>,
    trailers: HeaderMap,
    end: AnswerEnd,
    _underway: Option<Arc<()>>,
}

impl Pieces {
    fn known_length(&self) -> bool {
        self.end == AnswerEnd::Clean && self.trailers.is_empty()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.next.is_none() {
            if let Some((pause, piece)) = self.left.next() {
                self.next = Some(piece);
                self.wait = (!pause.is_zero()).then(|| Box::pin(tokio::time::sleep(pause)));
            } else if !self.trailers.is_empty() {
                return Poll::Ready(Some(Ok(Frame::trailers(std::mem::take(&mut self.trailers)))));
            }
        }
        if let Some(wait) = &mut self.wait {
            std::task::ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        match (self.next.take(), self.end) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, AnswerEnd::Clean) => Poll::Ready(None),
            (None, AnswerEnd::Broken) => Poll::Ready(Some(Err(io::Error::other("broken off as the script says")))),
            (None, AnswerEnd::Silent) => Poll::Pending,
        }
    }

    /// Known for an answer of one piece, which is then sent with its length.
    fn size_hint(&self) -> SizeHint {
        match self.left.as_slice() {
            [] if self.next.is_none() && self.known_length() => SizeHint::with_exact(0),
            [(_, piece)] if self.next.is_none() && self.known_length() => SizeHint::with_exact(piece.len() as u64),
            _ => SizeHint::default(),
        }
    }
}
