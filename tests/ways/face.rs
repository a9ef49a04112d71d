//! The TLS face of the base-URL port.

use std::process::Command;

use http::Request;
use http_body_util::Full;
use keytally::demo::simulator::{Answer, Simulator};
use tokio::net::TcpStream;

use super::internet::{ANSWER, ASK, Internet, KEY, Trust, call, tls};
use crate::support::wire::exchange;
use crate::support::{Sidecar, skip, tool};

/// A sidecar whose face has this port, which the log tells.
async fn sidecar(internet: &Internet, providers: &str) -> (Sidecar, std::net::SocketAddr) {
    let config = format!(
        "tls: {{ ca_dir: \"{}\" }}\nlisten: {{ proxy_tls: \"127.0.0.1:0\" }}\n{providers}\n",
        internet.ca_dir().display()
    );
    let sidecar = Sidecar::start(&config);
    let log = sidecar.log();
    let ready = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let face = ready.filter_map(|line| line["proxy_tls"].as_str()?.parse().ok()).next();
    (sidecar, face.unwrap_or_else(|| panic!("no proxy_tls in the log: {log}")))
}

#[tokio::test]
async fn the_same_calls_over_tls() {
    let internet = Internet::new().await;
    let provider = Simulator::start(|_| Answer::new(200, "application/json", ANSWER)).await.unwrap();
    let providers = format!("providers: {{ openai: {{ base_url: \"http://{}\" }} }}", provider.address());
    let (sidecar, face) = sidecar(&internet, &providers).await;
    for h2 in [false, true] {
        let stream = TcpStream::connect(face).await.unwrap();
        let alpn: &[&str] = if h2 { &["h2"] } else { &["http/1.1"] };
        let stream = tls(internet.client(Trust::Sidecar, alpn), "localhost", stream).await.unwrap();
        let path = "/openai/v1/chat/completions";
        let uri = if h2 { format!("https://localhost{path}") } else { path.to_owned() };
        let request =
            Request::post(uri).header("authorization", format!("Bearer {KEY}")).body(Full::from(ASK)).unwrap();
        assert_eq!(call(stream, h2, request).await.body, ANSWER);
    }
    let records = sidecar.wait_for_records(2).await;
    assert!(records.iter().all(|record| record["way"] == "base_url" && record["outcome"] == "ok"), "{records:?}");
    let answer = exchange(face, "GET /openai/v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("this port speaks TLS"), "{answer}");
    // By address the certificate is refused: the CA may not vouch for addresses.
    let stream = TcpStream::connect(face).await.unwrap();
    assert!(tls(internet.client(Trust::Sidecar, &[]), "127.0.0.1", stream).await.is_err());
    let (head, _) = super::internet::connect(sidecar.proxy, &face.to_string(), "").await;
    assert!(head.starts_with("HTTP/1.1 403 "), "the face is keytally itself: {head}");
}

/// boto3 refuses `http://` endpoints with a bearer token.
#[tokio::test]
async fn boto3_with_a_bearer_token() {
    let Some(python) = tool("venv/bin/python") else { return skip("the Python SDKs") };
    let internet = Internet::new().await;
    let provider = Simulator::start(|received| {
        assert_eq!(received.head.headers["authorization"], "Bearer made-up-bedrock-token");
        let answer = r#"{"output":{"message":{"role":"assistant","content":[{"text":"Hi"}]}},"stopReason":"end_turn","usage":{"inputTokens":9,"outputTokens":2,"totalTokens":11},"metrics":{"latencyMs":1}}"#;
        Answer::new(200, "application/json", answer)
    })
    .await
    .unwrap();
    let providers = format!("providers: {{ bedrock: {{ base_url: \"http://{}\" }} }}", provider.address());
    let (sidecar, face) = sidecar(&internet, &providers).await;
    let script = "import boto3; client = boto3.client('bedrock-runtime', region_name='us-east-1')\n\
        answer = client.converse(modelId='amazon.nova-lite-v1:0', messages=[{'role': 'user', 'content': [{'text': 'Hi'}]}])\n\
        print(answer['output']['message']['content'][0]['text'], answer['usage']['totalTokens'])";
    let endpoint = format!("https://localhost:{}/bedrock", face.port());
    let mut command = Command::new(python);
    command.args(["-c", script]).env("AWS_BEARER_TOKEN_BEDROCK", "made-up-bedrock-token");
    command.env("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", endpoint).env("AWS_CA_BUNDLE", internet.ca_dir().join("ca.pem"));
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Hi 11\n", "{}", String::from_utf8_lossy(&output.stderr));
    let record = sidecar.wait_for_records(1).await.remove(0);
    assert_eq!(
        (record["provider"].as_str(), record["usage"]["input_tokens"].as_u64()),
        (Some("bedrock"), Some(9)),
        "{record}"
    );
}
