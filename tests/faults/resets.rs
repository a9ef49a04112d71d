//! The provider resets its connection, or closes it, at every phase of a call: the application sees through the sidecar what
//! it would have seen without.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::support::at_rest::AtRest;
use crate::support::wire::{closed_port, read_head, serve_raw};

/// So long that no socket buffer takes all of it.
const LONG_BODY: usize = 8 << 20;
/// For bytes to arrive before the reset: a reset may overtake what nobody has read.
const ARRIVAL: Duration = Duration::from_millis(100);
/// Calls of each phase at a time.
const AT_ONCE_CALLS: usize = 4;

const JSON: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT: &str = "data: {\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n";
const BODY: &str =
    r#"{"model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;

/// What a provider does with each connection before it resets or closes it.
#[derive(Clone)]
struct Phase {
    name: &'static str,
    /// Bytes of the request that it reads; `None` for as many as come until its end.
    reads: Option<usize>,
    /// What it answers.
    says: String,
    long_request: bool,
    /// How the record ends, by reset and by close.
    ends: [&'static str; 2],
}

fn phases() -> Vec<Phase> {
    let phase = |name, reads, says: String, ends| Phase { name, reads, says, long_request: false, ends };
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let upload =
        |name, reads| Phase { long_request: true, ..phase(name, Some(reads), String::new(), ["no_answer"; 2]) };
    let with_length = format!("{JSON}content-length: {}\r\n\r\n", BODY.len());
    vec![
        phase("after accept", Some(0), String::new(), ["no_answer"; 2]),
        upload("after the request's head", 1),
        upload("mid request body", 256 << 10),
        phase("after the whole request", None, String::new(), ["no_answer"; 2]),
        phase("after the answer's head", None, with_length.clone(), ["body_error"; 2]),
        phase("mid answer body", None, format!("{with_length}{}", &BODY[..40]), ["body_error"; 2]),
        phase("mid chunk", None, format!("{EVENTS}{:x}\r\n{}", EVENT.len(), &EVENT[..20]), ["truncated"; 2]),
        phase(
            "mid event, between chunks",
            None,
            format!("{EVENTS}{}{}", chunk(EVENT), chunk(&EVENT[..30])),
            ["truncated"; 2],
        ),
        // The protocol's own end has come: the call is complete, though HTTP's end is missing and the body is passed on broken.
        phase(
            "after the last event, without the last chunk",
            None,
            format!("{EVENTS}{}{}", chunk(EVENT), chunk("data: [DONE]\n\n")),
            ["complete"; 2],
        ),
        // Said beforehand: a kept connection may be used for the next call just when it breaks, with any client.
        phase(
            "after a whole answer",
            None,
            format!("{JSON}connection: close\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len()),
            ["complete"; 2],
        ),
        // Without a length only the connection's end tells that of the answer.
        phase("after an answer without a length", None, format!("{JSON}\r\n{BODY}"), ["body_error", "complete"]),
    ]
}

async fn provider_that(phase: &Phase, resets: bool) -> SocketAddr {
    let phase = phase.clone();
    serve_raw(move |mut stream| {
        let phase = phase.clone();
        async move {
            match phase.reads {
                None => {
                    let head = read_head(&mut stream).await;
                    let body = head.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
                    let _ = stream.read_exact(&mut vec![0; ASK.len() - body]).await;
                }
                Some(bytes) => {
                    let _ = stream.read_exact(&mut vec![0; bytes]).await;
                }
            }
            let _ = stream.write_all(phase.says.as_bytes()).await;
            tokio::time::sleep(ARRIVAL).await;
            if resets {
                stream.set_zero_linger().expect("a socket");
            }
        }
    })
    .await
}

/// Status, body so far, and whether the body came to its end; `None` without an answer.
type Seen = Option<(u16, Bytes, bool)>;

async fn ask(address: SocketAddr, target: &str, phase: &Phase) -> (Seen, Option<String>) {
    let padding = if phase.long_request { " ".repeat(LONG_BODY) } else { String::new() };
    let request = Request::post(target).header("authorization", format!("Bearer {KEY}")).header("host", "x");
    let request = request.body(Full::new(Bytes::from(format!("{ASK}{padding}")))).unwrap();
    let stream = TcpStream::connect(address).await.expect("somebody listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    // Closed with the call: the client would keep it after an answer that overtook the request.
    let _closed = Ended(tokio::spawn(connection));
    let Ok(answer) = sender.send_request(request).await else { return (None, None) };
    let own = answer.headers().get("x-keytally-error").map(|why| why.to_str().unwrap().to_owned());
    let (status, mut body) = (answer.status().as_u16(), answer.into_body());
    let mut bytes = Vec::new();
    let whole = loop {
        match body.frame().await {
            Some(Ok(frame)) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    (Some((status, bytes.into(), whole)), own)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_every_phase_the_application_sees_what_the_provider_did() {
    let mut expected = Vec::<(&str, String)>::new();
    let mut providers = Vec::new();
    let mut text = String::from("providers:\n");
    for (number, phase) in phases().into_iter().enumerate() {
        for (resets, end) in [true, false].into_iter().zip(phase.ends) {
            let address = provider_that(&phase, resets).await;
            let id = format!("phase-{number}-{}", if resets { "reset" } else { "close" });
            text.push_str(&format!("  {id}: {{ protocol: openai-chat, base_url: \"http://{address}\" }}\n"));
            expected.extend((0..AT_ONCE_CALLS).map(|_| (end, id.clone())));
            providers.push((phase.clone(), resets, address, id));
        }
    }
    let good = crate::support::load::provider().await;
    let sidecar = Sidecar::start(&format!("{text}  openai: {{ base_url: \"http://{}\" }}\n{AT_ONCE}", good.address()));
    let warmed = warm(&sidecar, good.address()).await;
    let before = AtRest::of(&sidecar, warmed).await;
    for (phase, resets, address, id) in &providers {
        let name = format!("{} {}", if *resets { "reset" } else { "close" }, phase.name);
        let (direct, _) = ask(*address, "/v1/chat/completions", phase).await;
        let target = format!("/{id}/v1/chat/completions");
        let through = (0..AT_ONCE_CALLS).map(|_| ask(sidecar.proxy, &target, phase));
        for (seen, own) in together(through).await {
            match &direct {
                // There is no answer to pass on, and an error to tell; an application still busy sending may miss it.
                None => match seen {
                    Some((status, ..)) => assert_eq!((status, own.as_deref()), (502, Some("reset")), "{name}"),
                    None => assert!(phase.long_request, "{name}: the application has no answer"),
                },
                Some(_) => assert_eq!(seen, direct, "{name}"),
            }
        }
    }
    before.check(&sidecar, expected.len() as u64, &[("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
    let mut seen: Vec<(String, String)> = sidecar.records().iter().filter(of_a_phase).map(end_and_provider).collect();
    let mut expected: Vec<_> = expected.into_iter().map(|(end, id)| (end.to_owned(), id)).collect();
    seen.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    expected.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    assert_eq!(seen, expected);
}

fn of_a_phase(record: &&Value) -> bool {
    record["provider"].as_str().is_some_and(|id| id.starts_with("phase-"))
}

fn end_and_provider(record: &Value) -> (String, String) {
    let text = |name: &str| record[name].as_str().expect("text").to_owned();
    if text("end") == "complete" {
        assert_eq!(record["outcome"], "ok", "{record}");
    } else {
        assert!(matches!(&*text("fault"), "network" | "provider"), "{record}");
    }
    (text("end"), text("provider"))
}

/// Ends a task with what it was started for.
struct Ended<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All of them at the same time.
async fn together<T: Send + 'static>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, done) in all.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            match future.as_mut().poll(cx) {
                std::task::Poll::Ready(value) => *done = Some(value),
                std::task::Poll::Pending => pending = true,
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// Before a connection is accepted: nobody listens any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_accept() {
    let (_held, nobody) = closed_port();
    let good = crate::support::load::provider().await;
    let sidecar = Sidecar::start(&format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }}, gone: {{ protocol: openai-chat, base_url: \"http://{nobody}\" }} }}\n{AT_ONCE}",
        good.address()
    ));
    let warmed = warm(&sidecar, good.address()).await;
    let before = AtRest::of(&sidecar, warmed).await;
    assert!(TcpStream::connect(nobody).await.is_err());
    for _ in 0..50 {
        let answer = crate::support::post_json(sidecar.proxy, "/gone/v1/chat/completions", KEY, ASK).await;
        assert_eq!(
            (answer.head.status.as_u16(), &answer.head.headers["x-keytally-error"]),
            (502, &"connect".parse().unwrap())
        );
    }
    before.check(&sidecar, 50, &[("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
}
