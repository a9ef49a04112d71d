//! The load generator: closed loop (each connection sends as soon as it has its answer) or at a fixed rate (each call has
//! the time at which it was due, and its latency counts from then).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How to reach a proxy and what to ask it for.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// Request line and headers, without `content-length`; the body is added.
    pub head: String,
    /// Speak CONNECT to this port of the provider's first, then TLS with these roots.
    pub through: Option<(u16, Arc<rustls::ClientConfig>)>,
    /// Ask for a stream.
    pub stream: bool,
}

impl Target {
    /// The same proxy, asked for something else.
    pub fn asking(&self, path: &str, stream: bool) -> Self {
        Self { head: self.head.replace("{path}", path), stream, ..self.clone() }
    }
}

/// What a window of load saw.
#[derive(Default)]
pub struct Window {
    pub calls: u64,
    pub failed: u64,
    pub seconds: f64,
    /// Per call, nanoseconds; sorted.
    pub latencies: Vec<u64>,
    /// To the first byte of the answer, nanoseconds; sorted.
    pub first_bytes: Vec<u64>,
    /// From the provider's write to our read of each event, nanoseconds; sorted.
    pub transits: Vec<u64>,
    pub bytes: u64,
}

impl Window {
    fn add(&mut self, other: Window) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.latencies.extend(other.latencies);
        self.first_bytes.extend(other.first_bytes);
        self.transits.extend(other.transits);
        self.bytes += other.bytes;
    }
}

/// The value below which `share` of a sorted list lies, in milliseconds.
pub fn quantile(sorted: &[u64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |nanos| *nanos as f64 / 1e6)
}

/// As many calls as `connections` manage in `time`.
pub async fn closed(target: &Target, connections: usize, time: Duration) -> Window {
    let until = Instant::now() + time;
    run(target, connections, time, move |_, _| {
        let now = Instant::now();
        (now < until).then_some(now)
    })
    .await
}

/// `rate` calls a second over `connections`.
pub async fn fixed(target: &Target, connections: usize, rate: u64, time: Duration) -> Window {
    let start = Instant::now();
    let step = Duration::from_nanos(1_000_000_000 / rate);
    let total = (time.as_nanos() / step.as_nanos()) as u64;
    let next = Arc::new(AtomicU64::new(0));
    run(target, connections, time, move |_, _| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        (number < total).then(|| start + step * number as u32)
    })
    .await
}

/// One call on each of `connections`, all at once.
pub async fn once_each(target: &Target, connections: usize, time: Duration) -> Window {
    run(target, connections, time, |_, done| (done == 0).then(Instant::now)).await
}

/// `due` tells when the next call of a connection is to start, or that there is none.
async fn run<D>(target: &Target, connections: usize, time: Duration, due: D) -> Window
where
    D: Fn(usize, u64) -> Option<Instant> + Clone + Send + Sync + 'static,
{
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..connections {
        let (target, due) = (target.clone(), due.clone());
        tasks.spawn(async move {
            let mut seen = Window::default();
            while let Some(result) = connection(&target, number, &due, &mut seen).await {
                seen.failed += u64::from(!result);
                if !result && seen.failed > 100 {
                    break;
                }
            }
            seen
        });
    }
    let mut all = Window::default();
    let limit = time * 4 + Duration::from_secs(30);
    while let Ok(Some(Ok(seen))) = tokio::time::timeout(limit, tasks.join_next()).await {
        all.add(seen);
    }
    all.failed += tasks.len() as u64;
    all.seconds = started.elapsed().as_secs_f64();
    all.latencies.sort_unstable();
    all.first_bytes.sort_unstable();
    all.transits.sort_unstable();
    all
}

/// Calls on one connection until there are no more (`None`) or one failed (`Some(false)`).
async fn connection<D>(target: &Target, number: usize, due: &D, seen: &mut Window) -> Option<bool>
where
    D: Fn(usize, u64) -> Option<Instant>,
{
    let mut first = due(number, seen.calls)?;
    let Ok(mut stream) = TcpStream::connect(target.address).await else { return Some(false) };
    let _ = stream.set_nodelay(true);
    let Some((port, tls)) = &target.through else {
        return calls(&mut stream, target, number, due, &mut first, seen).await;
    };
    let connect = format!("CONNECT localhost:{port} HTTP/1.1\r\nhost: localhost:{port}\r\n\r\n");
    let mut buffer = Vec::with_capacity(4096);
    if stream.write_all(connect.as_bytes()).await.is_err() {
        return Some(false);
    }
    while memchr::memmem::find(&buffer, b"\r\n\r\n").is_none() {
        if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            return Some(false);
        }
    }
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    match tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, stream).await {
        Ok(mut stream) => calls(&mut stream, target, number, due, &mut first, seen).await,
        Err(_) => Some(false),
    }
}

async fn calls<D>(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    target: &Target,
    number: usize,
    due: &D,
    next: &mut Instant,
    seen: &mut Window,
) -> Option<bool>
where
    D: Fn(usize, u64) -> Option<Instant>,
{
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        let started = *next;
        tokio::time::sleep_until(started.into()).await;
        let body = format!(
            r#"{{"model":"gpt-4o-mini","messages":[{{"role":"system","content":"You are a benchmark."}},{{"role":"user","content":"Call {number:06} {:010}: {}"}}],"max_tokens":200,"temperature":0.2{}}}"#,
            seen.calls,
            "say something of usual length, please. ".repeat(12),
            if target.stream { r#","stream":true,"stream_options":{"include_usage":true}"# } else { "" }
        );
        let request = format!("{}content-length: {}\r\n\r\n{body}", target.head, body.len());
        let sent = stream.write_all(request.as_bytes()).await.is_ok() && stream.flush().await.is_ok();
        if !sent || !answer(stream, &mut buffer, started, seen).await {
            return Some(false);
        }
        seen.calls += 1;
        seen.latencies.push(started.elapsed().as_nanos() as u64);
        *next = due(number, seen.calls)?;
    }
}

/// Reads one answer whole; false if it is not a complete 200.
async fn answer(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    started: Instant,
    seen: &mut Window,
) -> bool {
    buffer.clear();
    let head_end = loop {
        let first = buffer.is_empty();
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return false;
        }
        if first {
            seen.first_bytes.push(started.elapsed().as_nanos() as u64);
        }
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
    };
    if !buffer.starts_with(b"HTTP/1.1 200") {
        return false;
    }
    let head = String::from_utf8_lossy(&buffer[..head_end]).to_ascii_lowercase();
    buffer.drain(..head_end);
    if let Some(length) = head.split("\r\ncontent-length: ").nth(1) {
        let length: usize = length.split("\r\n").next().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let mut got = buffer.len();
        while got < length {
            buffer.clear();
            match stream.read_buf(buffer).await {
                Ok(read) if read > 0 => got += read,
                _ => return false,
            }
        }
        seen.bytes += length as u64;
        return got == length;
    }
    // Chunked: the events carry the time at which they left.
    let mut looked_at = 0;
    loop {
        while let Some(at) = memchr::memmem::find(&buffer[looked_at..], b"\"sent\":\"") {
            let digits = looked_at + at + 8;
            let Some(text) = buffer.get(digits..digits + 20) else { break };
            let left: u64 = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            seen.transits.push(crate::now_nanos().saturating_sub(left));
            looked_at = digits + 20;
        }
        if buffer.ends_with(b"0\r\n\r\n") {
            seen.bytes += buffer.len() as u64;
            return true;
        }
        // What has been looked at is not needed any more; an event that is cut stays.
        let keep = looked_at.max(buffer.len().saturating_sub(1024));
        seen.bytes += keep as u64;
        buffer.drain(..keep);
        looked_at = 0;
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return false;
        }
    }
}
