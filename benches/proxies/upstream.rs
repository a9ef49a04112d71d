//! The mock provider: as little work as possible for a request, so that what is measured is the proxy.
//!
//! A chat gets about 1 KB of JSON with usage, with `?kind=stream&chunks=N&pause=MS` server-sent events, each with the time at
//! which it left; an embedding is 1 MB. As a collector it takes spans and says so. Every answer has an id of its own: one that was seen before
//! would not be paid again. `role:upstream PORT [CERT KEY]`; with a certificate it speaks TLS.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

static IDS: AtomicU64 = AtomicU64::new(0);

pub fn run(args: &[String]) {
    let port: u16 = args[0].parse().unwrap();
    let tls = args.get(1).map(|cert| acceptor(cert, &args[2]));
    crate::runtime().block_on(async move {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => serve(stream).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream).await;
                        }
                    }
                }
            });
        }
    });
}

fn acceptor(cert: &str, key: &str) -> tokio_rustls::TlsAcceptor {
    let chain = rustls_pki_types::CertificateDer::pem_file_iter(cert).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_file(key).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut out = Vec::with_capacity(2048);
    let large = large_answer();
    loop {
        let head_end = loop {
            if let Some(end) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
        let length = header(&head, "content-length").and_then(|value| value.parse::<usize>().ok()).unwrap_or(0);
        while buffer.len() < head_end + length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        buffer.drain(..head_end + length);
        let path = head.split(' ').nth(1).unwrap_or("/");
        out.clear();
        let sent = if path.contains("/embeddings") {
            stream.write_all(&large).await
        } else if path.contains("kind=stream") {
            events(&mut stream, path).await
        } else if path.contains("/v1/traces") {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
                .await
        } else {
            plain_answer(&mut out);
            stream.write_all(&out).await
        };
        if sent.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn next_id() -> u64 {
    IDS.fetch_add(1, Ordering::Relaxed)
}

fn plain_answer(out: &mut Vec<u8>) {
    let text = "All work and no play makes a dull benchmark. ".repeat(12);
    let body = format!(
        r#"{{"id":"chatcmpl-bench-{:016}","object":"chat.completion","created":1760000000,"model":"gpt-4o-mini-2024-07-18","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":120,"completion_tokens":140,"total_tokens":260,"prompt_tokens_details":{{"cached_tokens":0,"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}},"service_tier":"default","system_fingerprint":"fp_bench"}}"#,
        next_id()
    );
    let _ = write!(
        out,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nopenai-organization: bench\r\nopenai-processing-ms: 5\r\nx-request-id: req_bench\r\nx-ratelimit-limit-requests: 10000\r\nx-ratelimit-remaining-requests: 9999\r\nx-ratelimit-limit-tokens: 200000\r\nx-ratelimit-remaining-tokens: 199000\r\nx-ratelimit-reset-requests: 6ms\r\nx-ratelimit-reset-tokens: 0s\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// An embedding answer of 1 MB.
fn large_answer() -> Vec<u8> {
    let mut numbers = String::from("0.012345678");
    while numbers.len() < 1_000_000 {
        numbers.push_str(",-0.012345678");
    }
    let body = format!(
        r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":[{numbers}]}}],"model":"text-embedding-3-large","usage":{{"prompt_tokens":8,"total_tokens":8}}}}"#
    );
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

async fn events(stream: &mut (impl AsyncWrite + Unpin), path: &str) -> std::io::Result<()> {
    let number = |name: &str| {
        let value = path.split(['?', '&']).find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(1)
    };
    let (chunks, pause) = (number("chunks"), Duration::from_millis(number("pause")));
    let id = next_id();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut next = tokio::time::Instant::now();
    for _ in 0..chunks {
        let event = format!(
            "data: {{\"id\":\"chatcmpl-bench-{id:016}\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word\"}},\"finish_reason\":null}}],\"sent\":\"{:020}\"}}\n\n",
            crate::now_nanos()
        );
        send_chunk(stream, &event).await?;
        next += pause;
        tokio::time::sleep_until(next).await;
    }
    let last = format!(
        "data: {{\"id\":\"chatcmpl-bench-{id:016}\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[],\"usage\":{{\"prompt_tokens\":120,\"completion_tokens\":{chunks},\"total_tokens\":{}}}}}\n\ndata: [DONE]\n\n",
        120 + chunks
    );
    send_chunk(stream, &last).await?;
    stream.write_all(b"0\r\n\r\n").await
}

async fn send_chunk(stream: &mut (impl AsyncWrite + Unpin), data: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{data}\r\n", data.len()).as_bytes()).await?;
    stream.flush().await
}
