//! The pool against servers that answer by script, over real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::{Opened, Upstream};
use super::*;
use crate::call::GeneratedError;

type Client = Upstream<Empty<Bytes>>;

const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const PART: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nok";

fn client(idle: Duration) -> (Client, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    let opened: Opened = Arc::new(move || {
        struct Open(Arc<AtomicUsize>);
        impl Drop for Open {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        count.fetch_add(1, Ordering::SeqCst);
        Box::new(Open(Arc::clone(&count)))
    });
    let settings = UpstreamSettings {
        pool_idle_timeout: idle,
        proxy: crate::config::UpstreamProxy::Off,
        ..UpstreamSettings::default()
    };
    (Client::new(&settings, &opened).unwrap(), open)
}

/// Reads one request's head; `None` at the end of input.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(bytes).unwrap())
}

/// Serves connections one after another or at once; `answers` are those of one connection, after which it closes. Gives
/// the address and what each request was, with the number of its connection.
async fn server(answers: &'static [&'static str]) -> (String, Arc<Mutex<Vec<(usize, String)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (format!("http://{}", listener.local_addr().unwrap()), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for answer in answers {
                    let Some(head) = head(&mut stream).await else { return };
                    log.lock().unwrap().push((number, head));
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                // Anything further is not answered: the connection ends here.
            });
        }
    });
    (address, seen)
}

async fn ask(client: &Client, address: &str) -> Result<Answer<Empty<Bytes>>, UpstreamError> {
    client.send(Request::get(format!("{address}/v1/models?x=1")).body(Empty::new()).unwrap(), false).await
}

/// Asks and reads all; true if a connection was made for it.
async fn read(client: &Client, address: &str) -> bool {
    let (answer, made_in) = ask(client, address).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
    made_in.is_some()
}

/// Waits until `holds`, for ten seconds at most.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within ten seconds: {what}");
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another_in_origin_form() {
    let (address, seen) = server(&[WHOLE; 3]).await;
    let (client, open) = client(Duration::from_secs(60));
    let made: Vec<bool> = vec![read(&client, &address).await, read(&client, &address).await];
    assert_eq!(made, [true, false], "the second one found it");
    let seen = seen.lock().unwrap().clone();
    let host = address.trim_start_matches("http://");
    for (connection, head) in seen {
        assert_eq!(connection, 0);
        assert!(head.starts_with("GET /v1/models?x=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {host}\r\n")), "{head}");
    }
    assert_eq!(open.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn requests_at_once_have_a_connection_each() {
    let (address, _) = server(&[WHOLE; 2]).await;
    let (client, open) = client(Duration::from_secs(60));
    let first = ask(&client, &address).await.unwrap();
    assert!(read(&client, &address).await, "the first one's is still in use");
    assert_eq!(open.load(Ordering::SeqCst), 2);
    drop(first);
}

#[tokio::test]
async fn one_that_closed_while_idle_is_not_used() {
    // Each connection ends after one answer, without saying so.
    let (address, seen) = server(&[WHOLE]).await;
    let (client, open) = client(Duration::from_secs(60));
    for _ in 0..5 {
        assert!(read(&client, &address).await);
        until("it is closed", || open.load(Ordering::SeqCst) == 0).await;
    }
    assert_eq!(seen.lock().unwrap().len(), 5, "none was sent twice");
}

#[tokio::test]
async fn an_answer_that_is_not_read_takes_its_connection_with_it() {
    let (address, seen) = server(&[PART, WHOLE]).await;
    let (client, open) = client(Duration::from_secs(60));
    drop(ask(&client, &address).await.unwrap());
    let (answer, made_in) = ask(&client, &address).await.unwrap();
    assert!(made_in.is_some());
    drop(answer);
    until("both are closed", || open.load(Ordering::SeqCst) == 0).await;
    assert!(seen.lock().unwrap().iter().map(|(connection, _)| *connection).eq([0, 1]));
}

#[tokio::test]
async fn idle_ones_are_closed_in_time() {
    let (address, _) = server(&[WHOLE; 2]).await;
    let (client, open) = client(Duration::from_millis(100));
    read(&client, &address).await;
    until("it is closed", || open.load(Ordering::SeqCst) == 0).await;
    assert!(read(&client, &address).await, "a new one");
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_is_told_and_not_tried_again() {
    let (address, seen) = server(&["HTTP/1.1 nonsense\r\n\r\n"]).await;
    let (client, _) = client(Duration::from_secs(60));
    let error = ask(&client, &address).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind, GeneratedError::Reset, "{error:?}");
    assert_eq!(seen.lock().unwrap().len(), 1);
    let error = ask(&client, "http://127.0.0.1:1").await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind, GeneratedError::Connect, "{error:?}");
}

#[tokio::test]
async fn a_dropped_request_closes_its_connection() {
    // Takes the request and says nothing.
    let (address, _) = server(&["", ""]).await;
    let (client, open) = client(Duration::from_secs(60));
    let waited = tokio::time::timeout(Duration::from_millis(200), ask(&client, &address)).await;
    assert!(waited.is_err(), "no answer comes");
    until("it is closed", || open.load(Ordering::SeqCst) == 0).await;
}
