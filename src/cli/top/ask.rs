//! One `GET /status/live` to a sidecar's admin port.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;

use super::{ANSWER_BYTES, PATIENCE};
use crate::admin::overview::Overview;

/// What the sidecar says now.
pub(super) async fn overview(admin: SocketAddr) -> anyhow::Result<Overview> {
    let url = format!("http://{admin}/status/live");
    let asked = async {
        let answer = get(admin).await.with_context(|| {
            format!(
                "{url}: no answer; is a sidecar running, and is this its admin port? `--admin ADDRESS` names another"
            )
        })?;
        serde_json::from_slice(&answer).with_context(|| {
            format!("{url}: not what this version of keytally understands; use the sidecar's own version")
        })
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => bail!("{url}: no answer within {} s", PATIENCE.as_secs()),
    }
}

async fn get(admin: SocketAddr) -> anyhow::Result<Bytes> {
    let stream = tokio::net::TcpStream::connect(admin).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get("/status/live")
        .header("host", admin.to_string())
        .header("user-agent", "keytally-top")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    if answer.status() == http::StatusCode::NOT_FOUND {
        bail!("it has no /status/live: an older version, or no keytally");
    }
    if !answer.status().is_success() {
        bail!("answered {}", answer.status());
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
    connection.abort();
    Ok(body.map_err(|error| anyhow::anyhow!(error))?.to_bytes())
}
