//! Raw sockets: providers and applications that do what no HTTP library would do, and TLS made for the test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Longest wait for anything on a socket.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server that speaks raw bytes: `talk` gets each connection.
pub async fn serve_raw<F, T>(talk: T) -> SocketAddr
where
    T: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(talk(stream));
        }
    });
    address
}

/// A port on which nobody listens and which nobody else gets while the answer lives.
pub fn closed_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind("127.0.0.1:0".parse().expect("address")).expect("a free port");
    let address = socket.local_addr().expect("address");
    (socket, address)
}

/// Reads up to the end of a head.
pub async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    read_until(stream, "\r\n\r\n").await
}

/// Reads until `mark` has come; returns everything read.
pub async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin), mark: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await;
        let read =
            read.unwrap_or_else(|_| panic!("no {mark:?} in {:?}", String::from_utf8_lossy(&text))).expect("read");
        text.extend_from_slice(&buffer[..read]);
        let shown = String::from_utf8_lossy(&text);
        if shown.contains(mark) {
            return shown.into_owned();
        }
        assert!(read > 0, "end of input before {mark:?}: {shown:?}");
    }
}

/// Sends raw bytes and reads until the other side closes.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(bytes.as_ref()).await.expect("write");
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await;
    // A reset after the answer ends it as well.
    let _ = read.unwrap_or_else(|_| panic!("not closed after {:?}", String::from_utf8_lossy(&all)));
    String::from_utf8_lossy(&all).into_owned()
}

/// A certificate authority of the test's own.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    /// Its certificate, PEM.
    pub pem: String,
}

impl Authority {
    /// Makes one.
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("key");
        // Authorities are told apart by their names.
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("made up {}", rand_suffix(&key)));
        let pem = params.self_signed(&key).expect("certificate").pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// TLS with a certificate for `host`, offering `alpn`; `expired`: it ended in 2001.
    pub fn acceptor(&self, host: &str, alpn: &[&str], expired: bool) -> TlsAcceptor {
        let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).expect("parameters");
        if expired {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("key");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate that fits its key");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Providers under their real names: TLS at `listener`, with a certificate of `authority` for the name that a client asks
/// for, and behind it the plain server that `places` has for that name. Other names are refused.
pub async fn serve_names(listener: TcpListener, authority: Arc<Authority>, places: Vec<(&'static str, SocketAddr)>) {
    let acceptors: Vec<_> =
        places.iter().map(|(name, place)| (*name, *place, authority.acceptor(name, &["http/1.1"], false))).collect();
    let acceptors = Arc::new(acceptors);
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        let acceptors = Arc::clone(&acceptors);
        tokio::spawn(async move {
            let hello = tokio_rustls::LazyConfigAcceptor::new(Default::default(), stream).await;
            let Ok(hello) = hello else { return };
            let wanted = hello.client_hello().server_name().map(str::to_owned);
            let found = acceptors.iter().find(|(name, ..)| wanted.as_deref() == Some(*name));
            let Some((_, place, acceptor)) = found else { return };
            let Ok(mut client) = hello.into_stream(Arc::clone(acceptor.config())).await else { return };
            let Ok(mut server) = TcpStream::connect(place).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

fn rand_suffix(key: &rcgen::KeyPair) -> String {
    use rcgen::PublicKeyData;
    key.der_bytes().iter().rev().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// A provider behind TLS that answers every call with 200, the HTTP version that it was asked by, and the `host` that it was
/// asked for, over HTTP/1.1 or HTTP/2.
pub async fn serve_tls(acceptor: TlsAcceptor) -> SocketAddr {
    serve_raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let authority = request.uri().authority().map(ToString::to_string);
                let host = request.headers().get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
                let text =
                    serde_json::json!({ "version": format!("{:?}", request.version()), "host": authority.or(host) });
                let body = http_body_util::Full::new(bytes::Bytes::from(text.to_string()));
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            });
            let _ = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new())
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}
