//! A collector in this process: OTLP over HTTP and gRPC, plain and TLS, well-behaved and not.

use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    Good,
    /// Takes the batch but throws this many spans away.
    Rejects(i64),
    Status(u16),
    /// `200 OK` with a body that is not OTLP.
    Nonsense,
    /// Reads and never answers.
    Silent,
    /// Bytes that are not HTTP.
    Noise,
}

#[derive(Default)]
pub struct Received {
    pub requests: Vec<(String, HeaderMap)>,
    pub batches: Vec<ExportTraceServiceRequest>,
}

pub struct Collector {
    pub address: SocketAddr,
    pub received: Arc<Mutex<Received>>,
    pub answer: Arc<Mutex<Answer>>,
}

impl Collector {
    pub async fn start(answer: Answer) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer, None)
    }

    pub async fn at(address: SocketAddr) -> Self {
        Self::listen(TcpListener::bind(address).await.unwrap(), Answer::Good, None)
    }

    pub async fn with_tls(config: rustls::ServerConfig) -> Self {
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        Self::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), Answer::Good, Some(tls))
    }

    fn listen(listener: TcpListener, answer: Answer, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Received::default()));
        let answer = Arc::new(Mutex::new(answer));
        let (kept, behaviour) = (received.clone(), answer.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (kept, behaviour, tls) = (kept.clone(), behaviour.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(socket, kept, behaviour).await,
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                serve(socket, kept, behaviour).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, received, answer }
    }

    pub fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let scopes = received.batches.iter().flat_map(|batch| &batch.resource_spans).flat_map(|of| &of.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

async fn serve<S>(mut socket: S, kept: Arc<Mutex<Received>>, answer: Arc<Mutex<Answer>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if *answer.lock().unwrap() == Answer::Noise {
        let mut some = [0; 1024];
        let _ = socket.read(&mut some).await;
        let _ = socket.write_all(&[0xff; 4096]).await;
        return;
    }
    let service = hyper::service::service_fn(move |request| respond(request, kept.clone(), answer.clone()));
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(socket), service).await;
}

/// A body of ready frames.
struct Frames(std::vec::IntoIter<Frame<Bytes>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

async fn respond(
    request: Request<Incoming>,
    kept: Arc<Mutex<Received>>,
    answer: Arc<Mutex<Answer>>,
) -> Result<Response<Frames>, Infallible> {
    let (head, body) = request.into_parts();
    let mut body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let grpc = head.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let gzip = if grpc {
        let frame = body.split_to(5);
        frame[0] == 1
    } else {
        header("content-encoding") == "gzip"
    };
    let mut plain = body.to_vec();
    if gzip {
        plain.clear();
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).unwrap();
    }
    kept.lock().unwrap().requests.push((head.uri.path().to_owned(), head.headers));
    let answer = *answer.lock().unwrap();
    let mut response = ExportTraceServiceResponse::default();
    match answer {
        Answer::Good | Answer::Nonsense | Answer::Noise => {}
        Answer::Rejects(rejected_spans) => {
            let error_message = "made up".to_owned();
            response.partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message });
        }
        Answer::Status(status) => {
            let empty = Frames(Vec::new().into_iter());
            return Ok(Response::builder().status(StatusCode::from_u16(status).unwrap()).body(empty).unwrap());
        }
        Answer::Silent => std::future::pending().await,
    }
    kept.lock().unwrap().batches.push(ExportTraceServiceRequest::decode(&*plain).unwrap());
    let mut message = response.encode_to_vec();
    if answer == Answer::Nonsense {
        message = b"<html>not a collector</html>".to_vec();
    }
    let mut frames = Vec::new();
    let kind = if grpc {
        let mut framed = vec![0];
        framed.extend((message.len() as u32).to_be_bytes());
        framed.extend(message);
        frames.push(Frame::data(Bytes::from(framed)));
        frames.push(Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])));
        "application/grpc"
    } else {
        frames.push(Frame::data(Bytes::from(message)));
        "application/x-protobuf"
    };
    let body = Frames(frames.into_iter());
    Ok(Response::builder().header("content-type", kind).body(body).unwrap())
}

pub fn string(list: &[KeyValue], name: &str) -> Option<String> {
    let found = list.iter().find(|pair| pair.key == name)?;
    match &found.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text.clone()),
        other => panic!("{name} is {other:?}"),
    }
}
