//! The bytes that the application sends and gets are those that it would have sent and got without the sidecar.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keytally::demo::simulator::{Answer, AnswerEnd, Received, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Sidecar, client, get, post_json, send};

const CHAT: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;
const KEY: &str = "sk-made-up-key-for-tests";

fn config(upstream: SocketAddr) -> String {
    format!("providers: {{ openai: {{ base_url: \"http://{upstream}\" }} }}")
}

/// A provider of one script, and a sidecar in front of it.
async fn pair(script: impl Fn(Received) -> Answer + Send + Sync + 'static) -> (Simulator, Sidecar) {
    let provider = Simulator::start(script).await.unwrap();
    let sidecar = Sidecar::start(&config(provider.address()));
    (provider, sidecar)
}

/// A provider that speaks raw bytes: `talk` gets each connection.
async fn raw_provider<F, T>(talk: T) -> SocketAddr
where
    T: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream));
        }
    });
    address
}

/// Reads until `mark` has come; returns everything read.
async fn read_until(stream: &mut TcpStream, mark: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&text).contains(mark) {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await;
        let read = read.unwrap_or_else(|_| panic!("no {mark:?} in {:?}", String::from_utf8_lossy(&text))).unwrap();
        assert!(read > 0, "end of input before {mark:?}: {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_call_arrives_as_it_was_sent_and_is_metered() {
    let seen = Arc::new(Mutex::new(None));
    let copy = Arc::clone(&seen);
    let (provider, sidecar) = pair(move |received| {
        *copy.lock().unwrap() = Some(received);
        Answer::new(200, "application/json", CHAT).header("x-request-id", "req_1").header("X-Odd-Case", "kept")
    })
    .await;
    let request = Request::post("/openai/v1/chat/completions?a=%2F&b=c%20d")
        .header("Authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .header("x-custom", "1")
        .header("x-custom", "2")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "stays here")
        .body(Full::new(Bytes::from(ASK)))
        .unwrap();
    let answer = send(sidecar.proxy, request).await;
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.body, CHAT);
    assert_eq!(answer.head.headers["x-odd-case"], "kept");
    assert!(!answer.head.headers.contains_key("date"), "nothing is added: {:?}", answer.head.headers);
    let received = seen.lock().unwrap().clone().expect("the provider was asked");
    assert_eq!(received.body, ASK);
    assert_eq!(received.head.uri, "/v1/chat/completions?a=%2F&b=c%20d");
    let names: Vec<&str> = received.head.headers.keys().map(|name| name.as_str()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["authorization", "content-length", "content-type", "host", "x-custom"]);
    assert_eq!(received.head.headers["host"], provider.address().to_string());
    assert_eq!(received.head.headers.get_all("x-custom").iter().collect::<Vec<_>>(), ["1", "2"]);

    let records = sidecar.wait_for_records(1).await;
    let record = &records[0];
    assert_eq!(record["provider"], "openai");
    assert_eq!(record["operation"], "chat");
    assert_eq!(record["outcome"], "ok");
    assert_eq!(record["end"], "complete");
    assert_eq!(record["usage"]["input_tokens"], 9);
    assert_eq!(record["usage"]["output_tokens"], 2);
    assert_eq!(record["provider_request_id"], "req_1");
    // gpt-4o-mini: 0.15 and 0.60 dollars per million tokens.
    assert_eq!(record["cost_usd"], "0.00000255");
}

#[tokio::test]
async fn a_stream_arrives_piece_by_piece() {
    let pause = Duration::from_millis(400);
    let (_provider, sidecar) = pair(move |_| {
        let mut answer = Answer::new(200, "text/event-stream", "");
        let event = |text: &str| {
            Bytes::from(format!(
                "data: {{\"model\":\"gpt-4o-mini\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
            ))
        };
        answer.pieces = vec![
            (Duration::ZERO, event("one")),
            (pause, event("two")),
            (pause, Bytes::from("data: [DONE]\n\n")),
        ];
        answer
    })
    .await;
    let request = Request::post("/openai/v1/chat/completions")
        .body(Full::new(Bytes::from(r#"{"model":"gpt-4o-mini","stream":true,"messages":[]}"#)))
        .unwrap();
    let mut body = client::open(sidecar.proxy, request).await.unwrap().into_body();
    let mut arrivals = Vec::new();
    while let Some(frame) = body.frame().await {
        arrivals.push((Instant::now(), frame.unwrap().into_data().unwrap()));
    }
    assert_eq!(arrivals.len(), 3, "pieces are not joined: {arrivals:?}");
    assert!(arrivals[1].0 - arrivals[0].0 > pause / 2, "the first piece was held back");
    assert!(arrivals[2].0 - arrivals[1].0 > pause / 2, "the second piece was held back");
    let record = &sidecar.wait_for_records(1).await[0];
    assert_eq!(record["stream"], true);
    assert_eq!(record["end"], "complete");
    assert_eq!(record["usage_source"], "estimated", "the stream carried no usage: {record}");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (_provider, sidecar) = pair(|received| {
        let mut answer = Answer::new(200, "application/json", CHAT).header("trailer", "x-checksum");
        answer.trailers = vec![("x-checksum".into(), received.head.headers["te"].to_str().unwrap().into())];
        answer
    })
    .await;
    let request = Request::get("/openai/v1/models").header("te", "trailers").header("connection", "te");
    let answer = send(sidecar.proxy, request.body(Full::default()).unwrap()).await;
    assert_eq!(answer.trailers.expect("trailers")["x-checksum"], "trailers");
}

#[tokio::test]
async fn answers_without_a_body() {
    let (_provider, sidecar) = pair(|received| match received.head.uri.path() {
        "/v1/head" => Answer::new(200, "application/json", "").header("content-length", "1234"),
        "/v1/204" => Answer::new(204, "application/json", ""),
        _ => Answer::new(304, "application/json", "").header("etag", "\"x\""),
    })
    .await;
    let head = send(sidecar.proxy, Request::head("/openai/v1/head").body(Full::default()).unwrap()).await;
    assert_eq!((head.head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.head.headers["content-length"], "1234");
    assert_eq!(get(sidecar.proxy, "/openai/v1/204").await.head.status, 204);
    let not_modified = get(sidecar.proxy, "/openai/v1/304").await;
    assert_eq!(not_modified.head.status, 304);
    assert_eq!(not_modified.head.headers["etag"], "\"x\"");
    for record in sidecar.wait_for_records(3).await {
        assert_eq!(record["end"], "complete", "{record}");
    }
}

#[tokio::test]
async fn expect_continue_is_the_provider_s_to_answer() {
    let asks = raw_provider(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let body = read_until(&mut stream, "{}").await;
        assert_eq!(body, "{}");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK").await.unwrap();
    })
    .await;
    let refuses = raw_provider(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nNO").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "the body was sent although it was refused");
    })
    .await;
    let head = "POST /openai/v1/x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";

    let sidecar = Sidecar::start(&config(asks));
    let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
    app.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut app, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    app.write_all(b"{}").await.unwrap();
    assert!(read_until(&mut app, "\r\n\r\nOK").await.starts_with("HTTP/1.1 200 OK"));

    let sidecar = Sidecar::start(&config(refuses));
    let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
    app.write_all(head.as_bytes()).await.unwrap();
    assert!(read_until(&mut app, "NO").await.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_ended() {
    let provider = raw_provider(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await.unwrap();
        // Takes no more of the body.
        tokio::time::sleep(Duration::from_secs(5)).await;
    })
    .await;
    let sidecar = Sidecar::start(&config(provider));
    let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
    app.write_all(b"POST /openai/v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nfirst").await.unwrap();
    assert!(read_until(&mut app, "big").await.starts_with("HTTP/1.1 413"));
    let record = &sidecar.wait_for_records(1).await[0];
    assert_eq!(record["status"], 413);
    assert_eq!(record["outcome"], "input_too_large");
}

#[tokio::test]
async fn a_half_closed_application_still_gets_its_answer() {
    let (_provider, sidecar) = pair(|_| {
        let mut answer = Answer::new(200, "application/json", CHAT);
        answer.delay = Duration::from_millis(300);
        answer
    })
    .await;
    let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
    app.write_all(b"GET /openai/v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    app.shutdown().await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(5), app.read_to_string(&mut text))
        .await
        .expect("closed after it")
        .unwrap();
    assert!(text.ends_with(CHAT), "{text}");
    assert_eq!(sidecar.wait_for_records(1).await[0]["outcome"], "ok");
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_upstream_before_and_after_the_head() {
    let (closed, mut closures) = tokio::sync::mpsc::unbounded_channel();
    let provider = raw_provider(move |mut stream| {
        let closed = closed.clone();
        async move {
            let request = read_until(&mut stream, "\r\n\r\n").await;
            if request.contains("/after") {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n8\r\n: hello\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
            }
            let mut rest = [0; 16];
            let read = stream.read(&mut rest).await;
            let _ = closed.send(matches!(read, Ok(0) | Err(_)));
        }
    })
    .await;
    let sidecar = Sidecar::start(&config(provider));
    for path in ["/openai/v1/before", "/openai/v1/after"] {
        let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
        app.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        if path.ends_with("after") {
            read_until(&mut app, ": hello").await;
        } else {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        drop(app);
        let closed = tokio::time::timeout(Duration::from_secs(5), closures.recv()).await;
        assert_eq!(closed.expect("the provider's connection closes"), Some(true));
    }
    for record in sidecar.wait_for_records(2).await {
        assert_eq!(record["outcome"], "client_cancelled", "{record}");
        assert_eq!(record["end"], "client_cancelled", "{record}");
    }
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let (_provider, sidecar) = pair(|received| {
        assert_eq!(received.head.version, Version::HTTP_11);
        Answer::new(200, "application/json", CHAT)
    })
    .await;
    let stream = TcpStream::connect(sidecar.proxy).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::post(format!("http://{}/openai/v1/chat/completions", sidecar.proxy))
            .header("authorization", format!("Bearer {KEY}"))
            .body(Full::new(Bytes::from(ASK)))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.version(), Version::HTTP_2);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), CHAT);
    }
    assert_eq!(sidecar.wait_for_records(3).await.len(), 3);
}

#[tokio::test]
async fn connections_are_kept_and_reused() {
    let connections = Arc::new(Mutex::new(0));
    let copy = Arc::clone(&connections);
    let provider = raw_provider(move |mut stream| {
        *copy.lock().unwrap() += 1;
        async move {
            for _ in 0..5 {
                read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK").await.unwrap();
            }
        }
    })
    .await;
    let sidecar = Sidecar::start(&config(provider));
    let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
    for _ in 0..5 {
        app.write_all(b"GET /openai/v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        read_until(&mut app, "\r\n\r\nOK").await;
    }
    assert_eq!(*connections.lock().unwrap(), 1, "upstream connections");
}

#[tokio::test]
async fn an_upgrade_passes_through_and_realtime_usage_is_metered() {
    let provider = raw_provider(|mut stream| async move {
        let request = read_until(&mut stream, "\r\n\r\n").await.to_lowercase();
        assert!(request.contains("connection: upgrade") && request.contains("upgrade: websocket"), "{request}");
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
        let event = br#"{"type":"response.done","response":{"id":"resp_1","status":"completed","usage":{"total_tokens":30,"input_tokens":20,"output_tokens":10}}}"#;
        let mut frame = vec![0x81, 126];
        frame.extend((event.len() as u16).to_be_bytes());
        frame.extend(event);
        frame.extend([0x88, 0]);
        stream.write_all(&frame).await.unwrap();
        let _ = stream.shutdown().await;
    })
    .await;
    let sidecar = Sidecar::start(&config(provider));
    let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
    let head = format!(
        "GET /openai/v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nauthorization: Bearer {KEY}\r\n\r\n"
    );
    app.write_all(head.as_bytes()).await.unwrap();
    assert!(read_until(&mut app, "\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    app.write_all(b"hello").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), app.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.windows(13).any(|window| window == b"response.done"));
    drop(app);
    let record = &sidecar.wait_for_records(1).await[0];
    assert_eq!(record["operation"], "realtime", "{record}");
    assert_eq!(record["usage"]["input_tokens"], 20, "{record}");
    assert_eq!(record["outcome"], "ok", "{record}");
    assert_eq!(record["request_model"], "gpt-realtime", "{record}");
}

#[tokio::test]
async fn a_broken_stream_breaks_for_the_application_too() {
    let (_provider, sidecar) = pair(|_| {
        let mut answer =
            Answer::new(200, "text/event-stream", "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n");
        answer.end = AnswerEnd::Broken;
        answer.pieces.push((Duration::from_millis(50), Bytes::from("data: {\"cho")));
        answer
    })
    .await;
    let request = Request::post("/openai/v1/chat/completions").body(Full::new(Bytes::from(ASK))).unwrap();
    let body = client::open(sidecar.proxy, request).await.unwrap().into_body();
    assert!(body.collect().await.is_err(), "a cut stream must not look whole");
    let record = &sidecar.wait_for_records(1).await[0];
    assert_eq!(record["outcome"], "stream_truncated", "{record}");
    assert_eq!(record["end"], "truncated", "{record}");
}

#[tokio::test]
async fn what_came_before_a_break_still_arrives() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    // Fits into the buffers between, and does not: the application reads only after the break.
    for size in [12, 3_000_000] {
        let provider = raw_provider(move |mut stream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            let last = format!("{HEAD}4\r\n: a\n\r\n{size:x}\r\n{}\r\n", "z".repeat(size));
            stream.write_all(last.as_bytes()).await.unwrap();
        })
        .await;
        let sidecar = Sidecar::start(&config(provider));
        for _ in 0..20 {
            let mut app = TcpStream::connect(sidecar.proxy).await.unwrap();
            app.write_all(b"GET /openai/v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            if size > 1000 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let mut bytes = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(10), app.read_to_end(&mut bytes)).await.expect("an end");
            let arrived = bytes.iter().filter(|byte| **byte == b'z').count();
            assert_eq!(arrived, size, "of the bytes that the provider sent before it broke off");
            assert!(!bytes.ends_with(b"0\r\n\r\n"), "a cut stream must not look whole");
        }
    }
}

#[tokio::test]
async fn what_came_before_a_break_still_arrives_by_http2() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    for pause in [Duration::ZERO, Duration::from_millis(100)] {
        let provider = raw_provider(move |mut stream| async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(format!("{HEAD}4\r\nlast\r\n").as_bytes()).await.unwrap();
            tokio::time::sleep(pause).await;
        })
        .await;
        let sidecar = Sidecar::start(&config(provider));
        let stream = TcpStream::connect(sidecar.proxy).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(format!("http://{}/openai/v1/models", sidecar.proxy));
        let answer = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        let mut body = answer.into_body();
        let next = async |body: &mut hyper::body::Incoming| {
            tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("a part or the break")
        };
        assert_eq!(next(&mut body).await.unwrap().unwrap().into_data().unwrap(), "last", "{pause:?}");
        assert!(next(&mut body).await.expect("no clean end").is_err(), "a cut stream must not look whole");
    }
}

#[tokio::test]
async fn an_unknown_prefix_is_told_the_known_ones() {
    let sidecar = Sidecar::start("");
    let answer = post_json(sidecar.proxy, "/opnai/v1/chat/completions", KEY, ASK).await;
    assert_eq!(answer.head.status, 404);
    assert_eq!(answer.head.headers["x-keytally-error"], "unknown_prefix");
    let text = answer.json().to_string();
    assert!(text.contains("openai") && text.contains("anthropic"), "{text}");
    let record = &sidecar.wait_for_records(1).await[0];
    assert_eq!((&record["provider"], &record["outcome"]), (&"other".into(), &"not_found".into()));
}
