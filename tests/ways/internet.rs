//! Providers under their real names on loopback: the sidecar reaches them through a forward proxy that knows where each
//! name is, and checks their certificates against an authority of the test's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keytally::demo::simulator::{Answer, Received, Simulator};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::support::client::Whole;
use crate::support::wire::{Authority, read_head, serve_raw};
use crate::support::{Samples, Sidecar};

pub const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;
pub const ANSWER: &str = r#"{"id":"1","model":"gpt-4o-mini-2024-07-18","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
pub const KEY: &str = "sk-made-up-key-for-tests";
pub const OPENAI: &str = "api.openai.com";

/// Names and who answers there.
pub struct Internet {
    authority: Authority,
    places: Arc<Mutex<HashMap<String, SocketAddr>>>,
    /// `CONNECT` lines that the proxy was sent.
    pub asked: Arc<Mutex<Vec<String>>>,
    proxy: SocketAddr,
    /// Files of the test's.
    pub dir: tempfile::TempDir,
    _providers: Vec<Simulator>,
}

impl Internet {
    /// With OpenAI in it, which answers every call alike.
    pub async fn new() -> Self {
        let places: Arc<Mutex<HashMap<String, SocketAddr>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (known, log) = (Arc::clone(&places), Arc::clone(&asked));
        let proxy = serve_raw(move |mut stream| {
            let (known, log) = (Arc::clone(&known), Arc::clone(&log));
            async move {
                let head = read_head(&mut stream).await;
                let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
                log.lock().unwrap().push(target.to_owned());
                let place = known.lock().unwrap().get(target).copied();
                let Some(place) = place else {
                    let _ = stream.write_all(b"HTTP/1.1 404 No such host\r\ncontent-length: 0\r\n\r\n").await;
                    return;
                };
                let mut onward = TcpStream::connect(place).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
            }
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let mut internet = Self { authority: Authority::new(), places, asked, proxy, dir, _providers: Vec::new() };
        std::fs::write(internet.dir.path().join("internet.pem"), &internet.authority.pem).unwrap();
        internet.provider(OPENAI, OPENAI, false, |_| Answer::new(200, "application/json", ANSWER)).await;
        internet
    }

    /// A provider at `host`, whose certificate is for `certified`.
    pub async fn provider(
        &mut self,
        host: &str,
        certified: &str,
        expired: bool,
        script: impl Fn(Received) -> Answer + Send + Sync + 'static,
    ) {
        let provider = Simulator::start(script).await.unwrap();
        let place = self.behind_tls(certified, expired, provider.address()).await;
        self.place(&format!("{host}:443"), place);
        self._providers.push(provider);
    }

    /// A port that speaks TLS for `certified` and passes on to `plain`.
    pub async fn behind_tls(&self, certified: &str, expired: bool, plain: SocketAddr) -> SocketAddr {
        let acceptor = self.authority.acceptor(certified, &["h2", "http/1.1"], expired);
        serve_raw(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut onward = TcpStream::connect(plain).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
            }
        })
        .await
    }

    /// `target` (host:port) is at `address`.
    pub fn place(&self, target: &str, address: SocketAddr) {
        self.places.lock().unwrap().insert(target.to_owned(), address);
    }

    /// The certificate of the internet's own authority, PEM.
    pub fn pem(&self) -> &str {
        &self.authority.pem
    }

    /// Where the sidecar's own authority is.
    pub fn ca_dir(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    /// Makes the authority, as its owner would.
    pub fn make_ca(&self) {
        let made = Command::new(env!("CARGO_BIN_EXE_keytally"))
            .args(["ca", "init", "--config"])
            .arg(self.config_file(""))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    /// YAML for a sidecar in this internet; `more` is further YAML, `tls` what follows `ca_dir`.
    pub fn config(&self, tls: &str, more: &str) -> String {
        format!(
            "upstream: {{ proxy: \"http://{}\", ca_file: \"{}\" }}\ntls: {{ ca_dir: \"{}\"{tls} }}\nmetrics: {{ birth_hold: 0s }}\n{more}\n",
            self.proxy,
            self.dir.path().join("internet.pem").display(),
            self.ca_dir().display()
        )
    }

    /// [`Internet::config`] as a file.
    pub fn config_file(&self, more: &str) -> PathBuf {
        let file = self.dir.path().join("keytally.yaml");
        std::fs::write(&file, self.config("", more)).unwrap();
        file
    }

    /// A sidecar that opens everything that it may.
    pub fn sidecar(&self, more: &str) -> Sidecar {
        Sidecar::start(&self.config(", intercept: on", more))
    }

    /// A client that trusts the sidecar's authority, or another one.
    pub fn client(&self, trust: Trust, alpn: &[&str]) -> ClientConfig {
        self.client_of(trust, alpn, rustls::DEFAULT_VERSIONS)
    }

    /// The same, with these versions of TLS.
    pub fn client_of(
        &self,
        trust: Trust,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let pem = match trust {
            Trust::Sidecar => std::fs::read(self.ca_dir().join("ca.pem")).unwrap(),
            Trust::Internet => self.pem().as_bytes().to_vec(),
        };
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

/// Whose certificates a client accepts.
#[derive(Clone, Copy, PartialEq)]
pub enum Trust {
    /// Those of the sidecar's authority: such a client sees a connection that was opened.
    Sidecar,
    /// The provider's own: such a client refuses one that was opened, as one that pins certificates does.
    Internet,
}

/// Asks a proxy for a connection; the answer's head, and the connection.
pub async fn connect(proxy: SocketAddr, target: &str, more: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    (read_head(&mut stream).await, stream)
}

/// A connection to `host:443` through the proxy that was agreed to.
pub async fn connected(proxy: SocketAddr, host: &str) -> TcpStream {
    let (head, stream) = connect(proxy, &format!("{host}:443"), "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream
}

/// TLS over a connection.
pub async fn tls(config: ClientConfig, host: &'static str, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(host).unwrap();
    tokio::time::timeout(crate::support::wire::PATIENCE, connector.connect(name, stream)).await.expect("no silence")
}

/// The common name or alternative name of the certificate that the other side showed says who made it.
pub fn was_opened(stream: &TlsStream<TcpStream>) -> bool {
    let certificate = &stream.get_ref().1.peer_certificates().expect("certificates")[0];
    certificate.windows(17).any(|part| part == b"keytally local CA")
}

/// One call over a connection of any kind, HTTP/2 if `h2`.
pub async fn call<S>(stream: S, h2: bool, request: Request<Full<Bytes>>) -> Whole
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer: Response<Incoming> = if h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let (head, body) = answer.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    Whole { head, body: collected.to_bytes(), trailers }
}

/// A chat request; `host` as HTTP/1.1 or HTTP/2 says it.
pub fn chat(host: &str, h2: bool) -> Request<Full<Bytes>> {
    let path = "/v1/chat/completions";
    let request = match h2 {
        true => Request::post(format!("https://{host}{path}")),
        false => Request::post(path).header("host", host),
    };
    request
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .body(Full::from(ASK))
        .unwrap()
}

/// Tunnels so far by reason.
pub async fn tunnels(sidecar: &Sidecar, reason: &str) -> f64 {
    count(&sidecar.metrics().await, "keytally_tunnelled_connections_total", &[("reason", reason)])
}

/// A sample that must be there.
#[track_caller]
pub fn count(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> f64 {
    samples.sum(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}"))
}

/// Waits until a condition on the metrics holds.
pub async fn until(sidecar: &Sidecar, what: &str, holds: impl Fn(&Samples) -> bool) {
    let deadline = std::time::Instant::now() + crate::support::wire::PATIENCE;
    loop {
        if holds(&sidecar.metrics().await) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "never: {what}\n{}", sidecar.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Reads to the end; an error counts as an end.
pub async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(crate::support::wire::PATIENCE, stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("it ends");
    bytes
}
