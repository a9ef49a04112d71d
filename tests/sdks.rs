//! The SDKs that people use, unchanged: each makes of an answer through the sidecar what it makes of it without.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keytally::demo::simulator::{Answer, AnswerEnd, Received, Simulator};
use serde_json::Value;

use crate::support::{Sidecar, recorded, skip, tool};

/// Provider, and the operation of its recordings.
const PROVIDERS: [(&str, &str); 6] = [
    ("openai", "chat"),
    ("anthropic", "messages"),
    ("gemini", "generate"),
    ("mistral", "chat"),
    ("cohere", "chat"),
    ("groq", "chat"),
];

/// What providers answer to a key that is not one; bodies as recorded.
fn refusal(provider: &str) -> Answer {
    let (status, body) = match provider {
        "anthropic" => {
            (401, r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#)
        }
        "gemini" => (
            400,
            r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}]}}"#,
        ),
        "mistral" => (401, r#"{"message":"Unauthorized","request_id":"0123"}"#),
        "cohere" => (401, r#"{"message":"invalid api token"}"#),
        "groq" => {
            (401, r#"{"error":{"message":"Invalid API Key","type":"invalid_request_error","code":"invalid_api_key"}}"#)
        }
        _ => (
            401,
            r#"{"error":{"message":"Incorrect API key provided: sk-made-***********ests.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
        ),
    };
    Answer::new(status, "application/json", body)
}

/// Answers by the model's name, in the body or in the path.
fn script(provider: &'static str, operation: &'static str) -> impl Fn(Received) -> Answer + Send + Sync + 'static {
    move |received| {
        let path = received.head.uri.path().to_owned();
        let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
        let wanted = body["model"].as_str().unwrap_or(&path).to_owned();
        let operation = if path.ends_with("/responses") { "responses" } else { operation };
        let case = |name: &str| {
            let all = recorded::all();
            let exists = |case: &str| {
                all.iter()
                    .any(|row| row["provider"] == provider && row["operation"] == operation && row["case"] == case)
            };
            // Cohere's recorded stream ends in a tool call.
            let name = if exists(name) { name.to_owned() } else { format!("tool-{name}") };
            recorded::find(provider, operation, &name)
        };
        match wanted {
            _ if wanted.contains("case-stream") => recorded::answer(&case("stream"), Duration::ZERO, AnswerEnd::Clean),
            _ if wanted.contains("case-tool") => {
                recorded::answer(&case("tool-plain"), Duration::ZERO, AnswerEnd::Clean)
            }
            _ if wanted.contains("case-error") => refusal(provider),
            _ if wanted.contains("case-cancel") => {
                let mut answer = recorded::answer(&case("stream"), Duration::from_millis(10), AnswerEnd::Silent);
                // The terminal event never comes: only leaving ends the call.
                answer.pieces.truncate(answer.pieces.len() / 2 + 1);
                answer
            }
            _ => recorded::answer(&case("plain"), Duration::ZERO, AnswerEnd::Clean),
        }
    }
}

/// Runs one script of SDKs straight and through the sidecar; returns the call records.
async fn compare(command: impl Fn(&str) -> Command + Send + 'static, calls: usize) -> Vec<Value> {
    let mut simulators = Vec::new();
    let mut straight = BTreeMap::new();
    let mut config = "providers:\n".to_owned();
    for (provider, operation) in PROVIDERS {
        let simulator = Simulator::start(script(provider, operation)).await.unwrap();
        straight.insert(provider, format!("http://{}", simulator.address()));
        config.push_str(&format!("  {provider}: {{ base_url: \"http://{}\" }}\n", simulator.address()));
        simulators.push(simulator);
    }
    let sidecar = Sidecar::start(&config);
    let through: BTreeMap<_, _> = PROVIDERS.iter().map(|(provider, _)| (*provider, sidecar.url(provider))).collect();
    let bases = [serde_json::to_string(&straight).unwrap(), serde_json::to_string(&through).unwrap()];
    let outputs = tokio::task::spawn_blocking(move || {
        bases.map(|bases| {
            let output = command(&bases).output().expect("the SDK script runs");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{errors}");
            serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
        })
    })
    .await
    .unwrap();
    let [straight, through] = outputs;
    for (sdk, cases) in straight.as_object().expect("results") {
        for (case, result) in cases.as_object().expect("cases") {
            assert_eq!(result, &through[sdk][case], "{sdk}, {case}: through the sidecar it is another");
            let failed = result.get("error").is_some_and(Value::is_string) && result.get("status").is_some();
            assert_eq!(failed, case == "error", "{sdk}, {case}: {result}");
        }
    }
    sidecar.wait_for_records(calls).await
}

fn count(records: &[Value], field: &str, value: &str) -> usize {
    records.iter().filter(|record| record[field] == value).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sdks_see_no_difference() {
    let Some(python) = tool("venv/bin/python") else { return skip("the Python SDKs") };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/python_sdks.py");
    let command = move |bases: &str| {
        let mut command = Command::new(&python);
        command.arg(&script).arg(bases);
        command
    };
    // Eight SDKs with five cases each, and two more cases of openai's Responses API.
    let records = compare(command, 42).await;
    assert_eq!(records.len(), 42);
    assert_eq!(count(&records, "outcome", "auth_invalid"), 8);
    assert_eq!(count(&records, "outcome", "client_cancelled"), 8);
    assert_eq!(count(&records, "outcome", "ok"), 26);
    for record in records.iter().filter(|record| record["outcome"] == "ok") {
        assert!(record["usage"]["output_tokens"].as_u64() > Some(0), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_sdks_see_no_difference() {
    let (Some(_), Some(node)) = (tool("node/node_modules/openai"), tool("node")) else { return skip("the Node SDKs") };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/node_sdks.mjs");
    let command = move |bases: &str| {
        let mut command = Command::new("node");
        command.current_dir(&node).arg(&script).arg(bases);
        command
    };
    let records = compare(command, 20).await;
    assert_eq!(records.len(), 20);
    assert_eq!(count(&records, "outcome", "auth_invalid"), 4);
    assert_eq!(count(&records, "outcome", "client_cancelled"), 4);
    assert_eq!(count(&records, "outcome", "ok"), 12);
}
