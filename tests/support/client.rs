//! A plain HTTP client: one connection a request, nothing added but `Host`.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// An answer, whole.
pub struct Whole {
    /// Status, headers.
    pub head: http::response::Parts,
    /// Body.
    pub body: Bytes,
    /// Trailers.
    pub trailers: Option<http::HeaderMap>,
}

impl Whole {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// Opens a connection and sends one request; the body is still to come.
pub async fn open(address: SocketAddr, mut request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
    let stream = TcpStream::connect(address).await.expect("connect");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    if !request.headers().contains_key("host") {
        request.headers_mut().insert("host", address.to_string().parse().expect("host"));
    }
    sender.send_request(request).await
}

/// Sends one request, reads `frames` pieces of the answer's body and closes the connection. Dropping a body of [`open`]
/// is not enough for that: the HTTP client may go on reading.
pub async fn leave(address: SocketAddr, mut request: Request<Full<Bytes>>, frames: usize) {
    let stream = TcpStream::connect(address).await.expect("connect");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    let connection = tokio::spawn(connection);
    request.headers_mut().insert("host", address.to_string().parse().expect("host"));
    let mut answer = sender.send_request(request).await.expect("an answer");
    for _ in 0..frames {
        answer.body_mut().frame().await.expect("a piece").expect("it is whole");
    }
    connection.abort();
}

/// Sends one request and reads the whole answer.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Whole {
    let (head, body) = open(address, request).await.expect("an answer").into_parts();
    let collected = body.collect().await.expect("a whole body");
    let trailers = collected.trailers().cloned();
    Whole { head, body: collected.to_bytes(), trailers }
}

/// GET.
pub async fn get(address: SocketAddr, target: &str) -> Whole {
    send(address, Request::get(target).body(Full::default()).expect("request")).await
}

/// POST of JSON with a bearer key.
pub async fn post_json(address: SocketAddr, target: &str, key: &str, body: impl Into<Bytes>) -> Whole {
    let request = Request::post(target)
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .expect("request");
    send(address, request).await
}
