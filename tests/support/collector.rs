//! An OTLP collector in the test's own process: keeps every span that arrives over HTTP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A span as it arrived.
#[derive(Clone, Debug)]
pub struct Span {
    /// Lower-case hex, as are the other ids.
    pub trace_id: String,
    /// Its own id.
    pub span_id: String,
    /// Empty for a root.
    pub parent_span_id: String,
    /// `tracestate`.
    pub trace_state: String,
    /// Its name.
    pub name: String,
    /// As the protocol numbers kinds: 2 is `SERVER`, 3 is `CLIENT`.
    pub kind: i32,
    /// 0 unset, 2 error.
    pub status: i32,
    /// The status's description.
    pub status_message: String,
    /// Attributes; a list is a JSON array.
    pub attributes: BTreeMap<String, Value>,
    /// Attributes of its resource.
    pub resource: BTreeMap<String, Value>,
    /// Instrumentation scope.
    pub scope: String,
    /// End minus start, nanoseconds.
    pub nanos: u64,
}

/// Spans, and path and headers of requests.
type Received = Mutex<(Vec<Span>, Vec<(String, HeaderMap)>)>;

/// Listens on a loopback port.
pub struct Collector {
    /// Where.
    pub address: SocketAddr,
    received: Arc<Received>,
}

impl Collector {
    /// Starts it.
    pub async fn start() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts it at this address.
    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let received: Arc<Received> = Arc::default();
        let to = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let to = Arc::clone(&to);
                let service = hyper::service::service_fn(move |request| take(Arc::clone(&to), request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, received }
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Span> {
        self.received.lock().unwrap().0.clone()
    }

    /// Path and headers of every request so far.
    pub fn requests(&self) -> Vec<(String, HeaderMap)> {
        self.received.lock().unwrap().1.clone()
    }

    /// Waits until `count` spans have arrived.
    pub async fn wait_for(&self, count: usize) -> Vec<Span> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let arrived = self.received.lock().unwrap().0.len();
            if arrived >= count {
                return self.spans();
            }
            assert!(std::time::Instant::now() < deadline, "{arrived} of {count} spans");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// A collector that only counts, for loads of any size.
pub struct Counter {
    /// Where.
    pub address: SocketAddr,
    spans: Arc<AtomicU64>,
}

impl Counter {
    /// Listens on a free loopback port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let spans = Arc::<AtomicU64>::default();
        let count = Arc::clone(&spans);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let count = Arc::clone(&count);
                    async move {
                        let (head, body) = request.into_parts();
                        let spans = batch(&head, body).await.resource_spans.into_iter().flat_map(|all| all.scope_spans);
                        count.fetch_add(spans.map(|of_scope| of_scope.spans.len() as u64).sum(), Ordering::Relaxed);
                        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, spans }
    }

    /// Spans so far.
    pub fn spans(&self) -> u64 {
        self.spans.load(Ordering::Relaxed)
    }
}

/// What an exporter sends.
async fn batch(head: &http::request::Parts, body: Incoming) -> ExportTraceServiceRequest {
    let mut body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default().to_vec();
    if head.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        let mut plain = Vec::new();
        std::io::copy(&mut flate2::read::GzDecoder::new(&body[..]), &mut plain).expect("gzip");
        body = plain;
    }
    ExportTraceServiceRequest::decode(&body[..]).expect("an export request")
}

async fn take(to: Arc<Received>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let batch = batch(&head, body).await;
    let mut to = to.lock().unwrap();
    to.1.push((head.uri.path().to_owned(), head.headers));
    for of_resource in batch.resource_spans {
        let resource = attributes(&of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        for of_scope in of_resource.scope_spans {
            let scope = of_scope.scope.map(|scope| scope.name).unwrap_or_default();
            to.0.extend(of_scope.spans.into_iter().map(|span| Span {
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_span_id: hex(&span.parent_span_id),
                trace_state: span.trace_state,
                name: span.name,
                kind: span.kind,
                status: span.status.as_ref().map_or(0, |status| status.code),
                status_message: span.status.map(|status| status.message).unwrap_or_default(),
                attributes: attributes(&span.attributes),
                resource: resource.clone(),
                scope: scope.clone(),
                nanos: span.end_time_unix_nano - span.start_time_unix_nano,
            }));
        }
    }
    Ok(Response::builder().header("content-type", "application/x-protobuf").body(Full::default()).expect("a response"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, Value> {
    list.iter()
        .map(|pair| (pair.key.clone(), pair.value.clone().and_then(|value| value.value).map_or(Value::Null, plain)))
        .collect()
}

fn plain(value: any_value::Value) -> Value {
    match value {
        any_value::Value::StringValue(text) => json!(text),
        any_value::Value::BoolValue(truth) => json!(truth),
        any_value::Value::IntValue(number) => json!(number),
        any_value::Value::DoubleValue(number) => json!(number),
        any_value::Value::ArrayValue(list) => {
            list.values.into_iter().map(|value| value.value.map_or(Value::Null, plain)).collect()
        }
        other => panic!("no attribute of ours is a {other:?}"),
    }
}
