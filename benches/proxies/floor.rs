//! The floor: the least that an HTTP proxy of the same libraries does. It accepts, sends on with a pooled client,
//! passes both bodies through, and looks at nothing. `role:floor PORT UPSTREAM_URL CA THREADS`.

use std::convert::Infallible;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpListener;

pub fn run(args: &[String]) {
    let port: u16 = args[0].parse().unwrap();
    let upstream: Uri = args[1].parse().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(&args[2]).unwrap()).unwrap();
    let runtime = match args[3].as_str() {
        "1" => tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        _ => crate::runtime(),
    };
    runtime.block_on(async move {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client: Client<_, Incoming> =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        let scheme = upstream.scheme().cloned().unwrap_or(Scheme::HTTP);
        let authority = upstream.authority().cloned().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let (client, scheme, authority) = (client.clone(), scheme.clone(), authority.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let (client, scheme, authority) = (client.clone(), scheme.clone(), authority.clone());
                    async move { Ok::<_, Infallible>(pass(&client, scheme, authority, request).await) }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}

async fn pass<C>(
    client: &Client<C, Incoming>,
    scheme: Scheme,
    authority: Authority,
    mut request: Request<Incoming>,
) -> Response<Either<Incoming, Empty<Bytes>>>
where
    C: hyper_util::client::legacy::connect::Connect + Clone + Send + Sync + 'static,
{
    let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().insert(http::header::HOST, host);
    }
    *request.uri_mut() = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().unwrap();
    match client.request(request).await {
        Ok(answer) => answer.map(Either::Left),
        Err(_) => {
            let mut answer = Response::new(Either::Right(Empty::new()));
            *answer.status_mut() = http::StatusCode::BAD_GATEWAY;
            answer
        }
    }
}
