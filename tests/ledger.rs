//! The ledger of real sidecars: what the commands say of it, and what becomes of it when the process, the disk or the file
//! goes wrong.

mod commands;
mod crash;
mod disk;
mod restarts;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keytally::demo::simulator::{Answer, Simulator};
use keytally::ledger::Reader;
use serde_json::Value;

use crate::support::{Sidecar, get, post_json};

const CHAT: &str = "/openai/v1/chat/completions";
const KEYS: [&str; 3] =
    ["sk-made-up-key-for-search", "sk-made-up-key-for-support", "sk-made-up-key-that-was-revoked-long-ago"];

/// A provider that knows every key but the last of [`KEYS`], and gives each answer an id of its own.
async fn provider() -> Simulator {
    let count = AtomicU64::new(0);
    Simulator::start(move |received| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let key = received.head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let asked: Value = serde_json::from_slice(&received.body).unwrap_or_default();
        let answer = if key.ends_with(KEYS[2]) {
            let error = r#"{"error":{"message":"Incorrect API key provided.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
            Answer::new(401, "application/json", error)
        } else {
            let usage = format!(r#"{{"prompt_tokens":{},"completion_tokens":20,"total_tokens":0}}"#, 100 + number);
            let model = asked["model"].as_str().unwrap_or("gpt-4o-mini");
            Answer::new(
                200,
                "application/json",
                format!(r#"{{"id":"made-up-{number}","model":"{model}","choices":[],"usage":{usage}}}"#),
            )
        };
        answer.header("x-request-id", &format!("req_made_up_{number}"))
    })
    .await
    .unwrap()
}

/// A configuration with this provider and ledger.
fn config(provider: SocketAddr, ledger: &Path, more: &str) -> String {
    format!(
        "providers: {{ openai: {{ base_url: \"http://{provider}\" }} }}\nledger: {{ path: \"{}\" }}\n{more}\n",
        ledger.display()
    )
}

fn ask(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Hi"}}]}}"#)
}

async fn call(sidecar: &Sidecar, key: &str, model: &str) -> u16 {
    post_json(sidecar.proxy, CHAT, key, ask(model)).await.head.status.as_u16()
}

/// Waits until the ledger holds this many calls.
async fn wait_for_rows(ledger: &Path, count: u64) {
    wait_until(&format!("{count} rows"), async || {
        Reader::open(ledger).is_ok_and(|reader| reader.extent().unwrap().calls >= count)
    })
    .await;
}

async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(40);
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What `/status` says of the ledger: whether it is healthy, and the detail.
async fn health(sidecar: &Sidecar) -> (bool, String) {
    let status = get(sidecar.admin, "/status").await.json();
    let exporters = status["exporters"].as_array().expect("exporters").clone();
    let ledger = exporters.iter().find(|exporter| exporter["name"] == "ledger").expect("a ledger");
    (ledger["healthy"].as_bool().expect("a flag"), ledger["detail"].as_str().expect("a detail").to_owned())
}

/// Rows that were counted as lost.
async fn dropped(sidecar: &Sidecar) -> f64 {
    let samples = sidecar.metrics().await;
    let ledger = samples.all("keytally_telemetry_dropped_total").filter(|(labels, _)| labels["signal"] == "ledger");
    ledger.map(|(_, value)| value).sum()
}

/// The binary with these arguments, without any configuration of the environment.
fn keytally(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keytally"));
    command.args(args).stdin(Stdio::null()).env_remove("KEYTALLY_CONFIG").env_remove("KEYTALLY_LEDGER");
    command
}

/// Exit code, standard output, standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = keytally(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("not killed"), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn ok(args: &[&str]) -> String {
    let (code, out, err) = run(args);
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    out
}
