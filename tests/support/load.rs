//! An application and a provider that keep each other busy: every answer is known beforehand, so that one wrong byte shows.
//!
//! The provider answers by the headers `x-kind` and `x-number`, the application compares what it gets. A call that does not
//! get its answer whole ends the test, with what went wrong.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keytally::demo::simulator::{Answer, AnswerEnd, Received, Simulator};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

const CHAT: &str = "/openai/v1/chat/completions";
/// No call of these takes long: one that does hangs.
const LONGEST: Duration = Duration::from_secs(60);
/// Pause between the events of a stream.
const PAUSE: Duration = Duration::from_millis(5);

/// Made once: putting a megabyte into JSON takes a debug build longer than the call.
static LARGE: LazyLock<Answer> = LazyLock::new(|| {
    let text = "large and larger ".repeat(62_000);
    let usage = r#"{"prompt_tokens":9,"completion_tokens":250000,"total_tokens":250009}"#;
    let message = format!(r#"{{"role":"assistant","content":"{text}"}}"#);
    let choice = format!(r#"{{"index":0,"message":{message},"finish_reason":"stop"}}"#);
    let body = format!(r#"{{"model":"gpt-4o-mini-2024-07-18","choices":[{choice}],"usage":{usage}}}"#);
    Answer::new(200, "application/json", body)
});

/// What a call is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JSON.
    Plain,
    /// Server-sent events.
    Stream,
    /// A megabyte of JSON.
    Large,
    /// The provider refuses it: 400, 401, 429 or 503.
    Failed,
    /// Refused with 503, asked again as an SDK does, then answered: two calls.
    Retried,
    /// A stream that the application leaves after its first event.
    Left,
    /// A key and a model that nobody would choose, others each time.
    Hostile,
    /// A stream over HTTP/2 with prior knowledge.
    Multiplexed,
    /// JSON by the forward proxy.
    Proxied,
}

impl Kind {
    /// Nothing out of the ordinary.
    pub const ORDINARY: [Self; 4] = [Self::Plain, Self::Plain, Self::Plain, Self::Stream];
    /// Everything.
    pub const ALL: [Self; 9] = [
        Self::Plain,
        Self::Stream,
        Self::Large,
        Self::Failed,
        Self::Retried,
        Self::Left,
        Self::Hostile,
        Self::Multiplexed,
        Self::Proxied,
    ];

    fn name(self) -> String {
        format!("{self:?}")
    }

    fn of(name: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or(Self::Plain)
    }
}

/// A provider for [`Load`].
pub async fn provider() -> Simulator {
    Simulator::start(|received| respond(&received)).await.expect("a free port")
}

fn respond(received: &Received) -> Answer {
    let header = |name: &str| received.head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let again = header("x-stainless-retry-count") == "1";
    answer(Kind::of(header("x-kind")), header("x-number").parse().unwrap_or(0), again)
}

/// What the provider answers.
fn answer(kind: Kind, number: u64, again: bool) -> Answer {
    let refused = |status: u16, code: &str| {
        let body = json!({"error": {"message": format!("refused {number}"), "type": "made_up", "code": code}});
        Answer::new(status, "application/json", body.to_string())
    };
    let whole = |model: &str, text: &str| {
        let body = json!({
            "id": format!("chatcmpl-made-up-{number:012}"), "object": "chat.completion", "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
        });
        Answer::new(200, "application/json", body.to_string())
    };
    match kind {
        Kind::Plain | Kind::Proxied => whole("gpt-4o-mini-2024-07-18", "Hello"),
        Kind::Retried if again => whole("gpt-4o-mini-2024-07-18", "Hello at last"),
        Kind::Retried => refused(503, "overloaded"),
        Kind::Hostile => whole(&hostile(number), "Hello"),
        Kind::Large => LARGE.clone(),
        Kind::Failed => match number % 4 {
            0 => refused(400, "invalid_request"),
            1 => refused(401, "invalid_api_key"),
            2 => refused(429, "rate_limit_exceeded"),
            _ => refused(503, "overloaded"),
        },
        Kind::Stream | Kind::Multiplexed | Kind::Left => {
            let event = |delta: &str, rest: serde_json::Value| {
                let mut event = json!({
                    "id": format!("chatcmpl-made-up-{number:012}"), "object": "chat.completion.chunk",
                    "model": "gpt-4o-mini-2024-07-18", "choices": [{"index": 0, "delta": {"content": delta}}],
                });
                if !rest.is_null() {
                    event["choices"] = json!([]);
                    event["usage"] = rest;
                }
                Bytes::from(format!("data: {event}\n\n"))
            };
            let usage = json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12});
            let mut pieces: Vec<_> =
                ["one", " two", " three"].iter().map(|text| (PAUSE, event(text, json!(null)))).collect();
            pieces.push((PAUSE, event("", usage)));
            pieces.push((Duration::ZERO, Bytes::from_static(b"data: [DONE]\n\n")));
            let mut answer = Answer::new(200, "text/event-stream", "");
            answer.pieces = pieces;
            if kind == Kind::Left {
                answer.pieces.truncate(2);
                answer.end = AnswerEnd::Silent;
            }
            answer
        }
    }
}

/// A name that breaks what puts names together carelessly; no two are the same.
fn hostile(number: u64) -> String {
    match number % 6 {
        0 => format!("model\"}} {number}\n# HELP keytally_requests_total made up\nkeytally_requests_total 1"),
        1 => format!("../../{number}/etc/passwd"),
        2 => "x".repeat(8_000) + &number.to_string(),
        3 => format!("\u{202e}gpt-4o-{number}\u{0}\u{7f}\u{1b}[31m"),
        4 => format!("gpt-4o-mini-{number}"),
        _ => format!("Robert'); DROP TABLE calls; --{number}"),
    }
}

/// Calls that go on until [`Load::stop`].
pub struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    workers: JoinSet<()>,
}

/// Passes on what comes to a free port of `at`: for providers that a network namespace is to reach.
pub async fn relay(at: IpAddr, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((at, 0)).await.expect("an address of this test's own");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(to).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
            });
        }
    });
    address
}

/// How a [`Load`] calls.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Calls at a time, each worker on connections of its own that it keeps.
    pub workers: u32,
    /// Kinds in turn.
    pub kinds: &'static [Kind],
    /// Shortest time from one call of a worker to its next.
    pub every: Duration,
}

impl Load {
    /// Calls through the sidecar at `proxy`; `provider` is what the forward proxy is asked for.
    pub fn start(proxy: SocketAddr, provider: SocketAddr, pace: Pace) -> Self {
        let (stop, made) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let numbers = Arc::<AtomicU64>::default();
        let mut workers = JoinSet::new();
        for _ in 0..pace.workers {
            let (stop, numbers) = (Arc::clone(&stop), Arc::clone(&numbers));
            let mut caller = Caller { proxy, provider, http1: None, http2: None, made: Arc::clone(&made) };
            workers.spawn(async move {
                let mut turn = interval(pace.every.max(Duration::from_micros(1)));
                turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while !stop.load(Ordering::Relaxed) {
                    turn.tick().await;
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    let kind = pace.kinds[number as usize % pace.kinds.len()];
                    let made = timeout(LONGEST, caller.call(kind, number)).await;
                    made.unwrap_or_else(|_| panic!("{kind:?} {number}: hangs"))
                        .unwrap_or_else(|why| panic!("{kind:?} {number}: {why}"));
                }
            });
        }
        Self { stop, made, workers }
    }

    /// Calls made so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Waits until `more` further calls have been made.
    pub async fn goes_on(&mut self, more: u64) {
        let enough = self.made() + more;
        let deadline = std::time::Instant::now() + 2 * LONGEST;
        while self.made() < enough {
            // A worker ends before `stop` only because a call went wrong.
            if let Some(ended) = self.workers.try_join_next() {
                ended.expect("every call gets its answer");
            }
            assert!(std::time::Instant::now() < deadline, "{} of {enough} calls", self.made());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets calls under way end; how many were made.
    pub async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            ended.expect("every call gets its answer");
        }
        self.made()
    }
}

/// One worker.
struct Caller {
    proxy: SocketAddr,
    provider: SocketAddr,
    http1: Option<http1::SendRequest<Full<Bytes>>>,
    http2: Option<http2::SendRequest<Full<Bytes>>>,
    made: Arc<AtomicU64>,
}

impl Caller {
    async fn call(&mut self, kind: Kind, number: u64) -> Result<(), String> {
        if kind == Kind::Left {
            self.made.fetch_add(1, Ordering::Relaxed);
            super::client::leave(self.proxy, self.request(kind, number, false), 1).await;
            return Ok(());
        }
        self.exchange(kind, number, false).await?;
        if kind == Kind::Retried { self.exchange(kind, number, true).await } else { Ok(()) }
    }

    fn request(&self, kind: Kind, number: u64, again: bool) -> Request<Full<Bytes>> {
        let (target, host) = match kind {
            Kind::Proxied => (format!("http://{}/v1/chat/completions", self.provider), self.provider),
            Kind::Multiplexed => (format!("http://{}{CHAT}", self.proxy), self.proxy),
            _ => (CHAT.to_owned(), self.proxy),
        };
        let (key, model) = match kind {
            Kind::Hostile => (format!("sk-made-up-{number}-\"}} {{"), hostile(number)),
            _ => ("sk-made-up-key-of-a-load".to_owned(), "gpt-4o-mini".to_owned()),
        };
        let streams = matches!(kind, Kind::Stream | Kind::Multiplexed | Kind::Left);
        let text = format!("Question {number}");
        let body = json!({"model": model, "stream": streams, "messages": [{"role": "user", "content": text}]});
        let mut request = Request::post(target)
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .header("x-kind", kind.name())
            .header("x-number", number.to_string());
        if kind != Kind::Multiplexed {
            request = request.header("host", host.to_string());
        }
        if again {
            request = request.header("x-stainless-retry-count", "1");
        }
        request.body(Full::new(Bytes::from(body.to_string()))).expect("a request")
    }

    async fn exchange(&mut self, kind: Kind, number: u64, again: bool) -> Result<(), String> {
        let request = self.request(kind, number, again);
        let said = |what: &'static str| move |error: hyper::Error| format!("{what}: {error:?}");
        // Connected before it counts as made: what never left the application is no call.
        let response = if kind == Kind::Multiplexed {
            let mut sender = match self.http2.clone().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender,
                None => {
                    let io = TokioIo::new(self.connect().await?);
                    let (sender, connection) =
                        http2::handshake(TokioExecutor::new(), io).await.map_err(said("HTTP/2"))?;
                    tokio::spawn(connection);
                    self.http2.insert(sender).clone()
                }
            };
            self.made.fetch_add(1, Ordering::Relaxed);
            sender.send_request(request).await
        } else {
            let mut sender = match self.http1.take() {
                Some(sender) => sender,
                None => {
                    let io = TokioIo::new(self.connect().await?);
                    let (sender, connection) = http1::handshake(io).await.map_err(said("HTTP/1.1"))?;
                    tokio::spawn(connection);
                    sender
                }
            };
            // A connection that the sidecar closes between two calls is found out here, and fails the call.
            sender.ready().await.map_err(said("a kept connection"))?;
            self.made.fetch_add(1, Ordering::Relaxed);
            let response = sender.send_request(request).await;
            self.http1 = Some(sender);
            response
        };
        let (head, body) = response.map_err(said("no answer"))?.into_parts();
        let body = body.collect().await.map_err(said("the answer breaks off"))?.to_bytes();
        let expected = answer(kind, number, again);
        let bytes: Vec<u8> = expected.pieces.iter().flat_map(|(_, piece)| piece.iter().copied()).collect();
        if head.status.as_u16() != expected.status {
            return Err(format!("{} instead of {}: {}", head.status, expected.status, String::from_utf8_lossy(&body)));
        }
        if body != bytes {
            return Err(format!("{} bytes that differ from the {} sent", body.len(), bytes.len()));
        }
        Ok(())
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect(self.proxy).await.map_err(|error| format!("no connection: {error}"))?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}
