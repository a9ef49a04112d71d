//! Sends every exchange through a sidecar: a simulated provider answers what was recorded, and both ends look at the bytes.
//!
//! Bodies are cut at random places, the same ones in every run. A piece is a chunk of HTTP/1.1 or a DATA frame of HTTP/2,
//! so that cuts survive the way. An exchange is known again by its trace id.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use keytally::demo::simulator::{Answer, AnswerEnd, Received, Simulator};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::exchange::Exchange;
use crate::support::Sidecar;

/// Calls in flight at a time.
const IN_FLIGHT: usize = 24;
/// Pieces of one body at most, so that large ones do not take all the time.
const MAX_PIECES: usize = 150;
/// Headers of one connection; the recorded ones belong to a connection that is long gone.
const OF_THE_CONNECTION: [&str; 5] = ["connection", "content-length", "keep-alive", "transfer-encoding", "host"];

type Headers = Vec<(String, String)>;

/// What went in and what came out, on both sides of the sidecar.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Everything that was not as it should be, one line each; hashes and names, no content.
    pub(super) wrong: Vec<String>,
    /// Content encoding of the answer.
    pub(super) encoding: &'static str,
    /// Pieces in which request and answer were sent.
    pub(super) pieces: [usize; 2],
}

/// What one end must see of what the other end sent.
struct Sent {
    headers: Headers,
    body: [u8; 32],
}

/// A provider that replays what was recorded.
pub(super) struct Replay {
    exchanges: Arc<[Exchange]>,
    /// By index: the answer that was sent, and what was wrong with the request.
    answers: Arc<[OnceLock<Arrived>]>,
    provider: Simulator,
}

struct Arrived {
    wrong: Vec<String>,
    answer: Sent,
    encoding: &'static str,
    pieces: usize,
}

impl Replay {
    pub(super) async fn start(exchanges: Arc<[Exchange]>) -> Self {
        let answers: Arc<[OnceLock<Arrived>]> = exchanges.iter().map(|_| OnceLock::new()).collect();
        let (recorded, seen) = (Arc::clone(&exchanges), Arc::clone(&answers));
        let provider = Simulator::start(move |received| {
            let Some(index) = index_of(&received.head.headers).filter(|index| *index < recorded.len()) else {
                return Answer::new(500, "text/plain", "no such exchange");
            };
            let (arrived, answer) = answer(index, &recorded[index], &received);
            if seen[index].set(arrived).is_err() {
                return Answer::new(500, "text/plain", "asked twice");
            }
            answer
        });
        let provider = provider.await.expect("a port");
        Self { exchanges, answers, provider }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.provider.address()
    }

    /// Sends the exchanges at `indices` through `sidecar`; what passed is by index.
    pub(super) async fn run(&self, sidecar: &Sidecar, indices: Vec<usize>) -> HashMap<usize, Passed> {
        let http1 = Client::builder(TokioExecutor::new()).build_http::<Pieces>();
        let http2 = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Pieces>();
        let permits = Arc::new(Semaphore::new(IN_FLIGHT));
        let passed = Arc::new(Mutex::new(HashMap::new()));
        let mut calls = JoinSet::new();
        for index in indices {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("never closed");
            let client = if index.is_multiple_of(5) { http2.clone() } else { http1.clone() };
            let (exchanges, answers, passed) =
                (Arc::clone(&self.exchanges), Arc::clone(&self.answers), Arc::clone(&passed));
            let address = sidecar.proxy;
            calls.spawn(async move {
                let one = call(index, &exchanges[index], address, client, &answers[index]).await;
                passed.lock().expect("no panic inside").insert(index, one);
                drop(permit);
            });
        }
        while let Some(ended) = calls.join_next().await {
            ended.expect("a call ends");
        }
        Arc::into_inner(passed).expect("all calls have ended").into_inner().expect("no panic inside")
    }
}

/// The trace id that stands for an exchange.
pub(super) fn trace_id(index: usize) -> String {
    format!("{:032x}", index + 1)
}

fn index_of(headers: &HeaderMap) -> Option<usize> {
    let id = headers.get("traceparent")?.to_str().ok()?.split('-').nth(1)?;
    usize::from_str_radix(id, 16).ok()?.checked_sub(1)
}

/// The application's side.
async fn call<C>(
    index: usize,
    exchange: &Exchange,
    sidecar: SocketAddr,
    client: Client<C, Pieces>,
    arrived: &OnceLock<Arrived>,
) -> Passed
where
    C: hyper_util::client::legacy::connect::Connect + Clone + Send + Sync + 'static,
{
    let (_, prefix) = exchange.sidecar_provider();
    let mut random = Random::new(index, "request");
    let pieces = random.cut(exchange.request());
    let mut passed = Passed { pieces: [pieces.len(), 0], ..Passed::default() };
    let mut request = Request::builder()
        .method(exchange.method.as_str())
        .uri(format!("http://{sidecar}/{prefix}{}", exchange.target()));
    for (name, value) in request_headers(index, exchange) {
        request = request.header(name, value);
    }
    // Half of the bodies tell their length, as most applications do; the others come in chunks.
    let body = Pieces::new(pieces, index.is_multiple_of(2));
    let answer = client.request(request.body(body).expect("a valid request")).await;
    let (head, body) = match answer {
        Ok(answer) => answer.into_parts(),
        Err(error) => {
            passed.wrong.push(format!("no answer: {error}"));
            return passed;
        }
    };
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            passed.wrong.push(format!("the answer broke off: {error}"));
            return passed;
        }
    };
    let Some(arrived) = arrived.get() else {
        passed.wrong.push(format!("the request did not arrive: {}", head.status));
        return passed;
    };
    passed.wrong.extend(arrived.wrong.iter().cloned());
    passed.pieces[1] = arrived.pieces;
    passed.encoding = arrived.encoding;
    if head.status.as_u16() != exchange.status {
        passed.wrong.push(format!("status {}, recorded {}", head.status, exchange.status));
    }
    compare("answer", &arrived.answer, &head.headers, &body, &mut passed.wrong);
    passed
}

/// Recorded headers but for those of the connection; the trace context is the test's own.
fn request_headers(index: usize, exchange: &Exchange) -> Headers {
    let mut headers = end_to_end(&exchange.request_headers);
    headers.retain(|(name, _)| name != "traceparent");
    headers.push(("traceparent".to_owned(), format!("00-{}-00000000000000aa-01", trace_id(index))));
    let encoding = encoding(index, exchange);
    if encoding != "identity" {
        headers.retain(|(name, _)| name != "accept-encoding");
        headers.push(("accept-encoding".to_owned(), encoding.to_owned()));
    }
    headers
}

fn end_to_end(recorded: &Map<String, Value>) -> Headers {
    let headers = recorded.iter().filter(|(name, _)| !OF_THE_CONNECTION.contains(&name.as_str()));
    headers.map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned())).collect()
}

/// The provider's side: checks the request, makes the answer.
fn answer(index: usize, exchange: &Exchange, received: &Received) -> (Arrived, Answer) {
    let mut wrong = Vec::new();
    let request = Sent { headers: request_headers(index, exchange), body: Sha256::digest(exchange.request()).into() };
    compare("request", &request, &received.head.headers, &received.body, &mut wrong);
    let target = received.head.uri.path_and_query().map_or("", |target| target.as_str());
    if target != exchange.target() {
        wrong.push("the path is another one".to_owned());
    }
    if received.head.method != exchange.method.as_str() {
        wrong.push(format!("method {}", received.head.method));
    }
    if received.head.version != Version::HTTP_11 {
        wrong.push(format!("{:?} to the provider", received.head.version));
    }

    let mut headers = end_to_end(&exchange.response_headers);
    headers.retain(|(name, _)| name != "content-encoding");
    let encoding = encoding(index, exchange);
    let body = encode(encoding, &exchange.response());
    if encoding != "identity" {
        headers.push(("content-encoding".to_owned(), encoding.to_owned()));
    }
    let sha = Sha256::digest(&body).into();
    let pieces = Random::new(index, "answer").cut(body);
    let arrived =
        Arrived { wrong, answer: Sent { headers: headers.clone(), body: sha }, encoding, pieces: pieces.len() };
    let answer = Answer {
        status: exchange.status,
        headers,
        pieces: pieces.into_iter().map(|piece| (Duration::ZERO, piece)).collect(),
        trailers: Vec::new(),
        end: AnswerEnd::Clean,
        delay: Duration::ZERO,
    };
    (arrived, answer)
}

fn compare(what: &str, sent: &Sent, headers: &HeaderMap, body: &[u8], wrong: &mut Vec<String>) {
    let hash: [u8; 32] = Sha256::digest(body).into();
    if hash != sent.body {
        wrong.push(format!("the {what}'s body is another one, {} bytes of it", body.len()));
    }
    let of_the_connection = |name: &str| OF_THE_CONNECTION.contains(&name);
    let mut got: Headers = headers
        .iter()
        .filter(|(name, _)| !of_the_connection(name.as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let mut wanted = sent.headers.clone();
    got.sort();
    wanted.sort();
    if got != wanted {
        let names = |of: &Headers, than: &Headers| -> Vec<String> {
            of.iter().filter(|header| !than.contains(header)).map(|(name, _)| name.clone()).collect()
        };
        wrong.push(format!("the {what}'s headers: {:?} became {:?}", names(&wanted, &got), names(&got, &wanted)));
    }
}

/// As recorded; of the others, half are encoded in one of four ways.
fn encoding(index: usize, exchange: &Exchange) -> &'static str {
    if exchange.response().is_empty() {
        return "identity";
    }
    match (exchange.wire_encoding.as_deref(), index % 8) {
        (Some("gzip"), _) | (None, 0) => "gzip",
        (Some("br"), _) | (None, 1) => "br",
        (None, 2) => "zstd",
        (None, 3) => "deflate",
        (None, _) => "identity",
        (Some(other), _) => panic!("{}: recorded as {other}", exchange.id),
    }
}

fn encode(encoding: &str, body: &Bytes) -> Bytes {
    let level = flate2::Compression::fast();
    let written = match encoding {
        "identity" => return body.clone(),
        "gzip" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            out.write_all(body).and_then(|()| out.finish())
        }
        "deflate" => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), level);
            out.write_all(body).and_then(|()| out.finish())
        }
        "zstd" => zstd::stream::encode_all(&body[..], 1),
        "br" => {
            let mut out = brotli::CompressorWriter::new(Vec::new(), 4096, 1, 20);
            out.write_all(body).map(|()| out.into_inner())
        }
        other => panic!("{other}: no such encoding"),
    };
    written.expect("memory takes it").into()
}

/// SplitMix64, seeded by exchange and side.
struct Random(u64);

impl Random {
    fn new(index: usize, side: &str) -> Self {
        Self(index as u64 * 2 + u64::from(side == "answer"))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// `body` in pieces of random lengths; one in eight is left whole.
    fn cut(&mut self, mut body: Bytes) -> Vec<Bytes> {
        let longest = match self.below(8) {
            0 => return vec![body],
            1 => 3,
            2 => 17,
            3 | 4 => 90,
            5 | 6 => 700,
            _ => 4000,
        };
        let longest = longest.min(body.len() / 2).max(2 * body.len() / MAX_PIECES).max(1);
        let mut pieces = Vec::new();
        while !body.is_empty() {
            pieces.push(body.split_to(body.len().min(1 + self.below(longest))));
        }
        pieces
    }
}

/// A body that is sent in these pieces.
pub(super) struct Pieces {
    left: VecDeque<Bytes>,
    length: Option<u64>,
}

impl Pieces {
    fn new(pieces: Vec<Bytes>, with_length: bool) -> Self {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        Self { left: pieces.into(), length: (with_length || length == 0).then_some(length as u64) }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(_) => SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum()),
            None => SizeHint::default(),
        }
    }
}
