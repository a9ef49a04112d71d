//! The SDKs that people use, unchanged: each makes of an answer through the sidecar what it makes of it without, and the
//! call record says what the SDK saw. Against recorded answers, and against a mock LLM server that is not ours.

mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keytally::demo::simulator::{Answer, AnswerEnd, Received, Simulator};
use serde_json::{Value, json};

use crate::support::{Sidecar, get, post_json, recorded, skip, tool};

/// Provider, and the operation of its recordings.
const PROVIDERS: [(&str, &str); 6] = [
    ("openai", "chat"),
    ("anthropic", "messages"),
    ("gemini", "generate"),
    ("mistral", "chat"),
    ("cohere", "chat"),
    ("groq", "chat"),
];

/// What a record of an SDK's call says of provider, operation, protocol.
fn described(sdk: &str) -> (&str, &str, &str) {
    match sdk {
        "openai" | "openai-retrying" | "litellm" | "langchain-openai" | "ai" => ("openai", "chat", "openai-chat"),
        "openai-responses" => ("openai", "responses", "openai-responses"),
        "anthropic" | "anthropic-retrying" => ("anthropic", "messages", "anthropic-messages"),
        "google-genai" => ("gemini", "generate_content", "gemini"),
        "mistralai" => ("mistral", "chat", "openai-chat"),
        "cohere" => ("cohere", "chat", "cohere-v2"),
        "groq" => ("groq", "chat", "openai-chat"),
        other => panic!("{other} is not described"),
    }
}

const PYTHON: [&str; 9] = [
    "openai",
    "openai-responses",
    "anthropic",
    "google-genai",
    "mistralai",
    "cohere",
    "groq",
    "litellm",
    "langchain-openai",
];
const NODE: [&str; 5] = ["openai", "openai-responses", "anthropic", "google-genai", "ai"];
const CASES: [&str; 5] = ["plain", "stream", "tool", "error", "cancel"];
const FAULTS: [&str; 4] = ["limit", "truncate", "disconnect", "malformed"];

// === the simulated providers ===

/// What providers answer to a key that is not one; bodies as recorded.
fn refusal(provider: &str) -> Answer {
    let (status, body) = match provider {
        "anthropic" => (
            401,
            r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"},"request_id":"req_1"}"#,
        ),
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
    Answer::new(status, "application/json", body).header("x-request-id", "req_1").header("request-id", "req_1")
}

/// 429 with a short wait.
fn rate_limit(provider: &str) -> Answer {
    let body = match provider {
        "anthropic" => {
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"Number of request tokens has exceeded your per-minute rate limit"}}"#
        }
        _ => {
            r#"{"error":{"message":"Rate limit reached for requests","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#
        }
    };
    Answer::new(429, "application/json", body).header("retry-after", "1").header("retry-after-ms", "20")
}

/// The recording with ids that belong to `model` alone: an answer that comes again is not billed again.
fn with_own_ids(recording: &Value, model: &str) -> Value {
    let mut body = String::from_utf8(recorded::body(recording)).expect("text");
    let mark = model.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let mut ids = BTreeSet::new();
    for name in ["\"id\":\"", "\"id\": \"", "\"responseId\":\"", "\"responseId\": \""] {
        ids.extend(body.split(name).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    for id in ids.iter().filter(|id| id.len() > 8) {
        body = body.replace(id.as_str(), &format!("{}{mark:08x}", &id[..id.len() - 8]));
    }
    let mut recording = recording.clone();
    recording["body"] = body.into();
    recording
}

/// Answers by the model's name, in the body or in the path.
fn script(provider: &'static str, operation: &'static str) -> impl Fn(Received) -> Answer + Send + Sync + 'static {
    let all = recorded::all();
    move |received| {
        let path = received.head.uri.path().to_owned();
        let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
        let wanted = body["model"].as_str().unwrap_or(&path).to_owned();
        let operation = if path.ends_with("/responses") { "responses" } else { operation };
        let answer = |case: &str, pause: Duration, end: AnswerEnd| {
            // OpenAI's recorded one has the old `function_call`, which newer SDKs no longer show.
            let old = (provider, operation, case) == ("openai", "chat", "tool-plain");
            let provider = if old { "groq" } else { provider };
            let find = |case: &str| {
                all.iter()
                    .find(|row| row["provider"] == provider && row["operation"] == operation && row["case"] == case)
            };
            // Cohere's recorded stream ends in a tool call.
            let row = find(case).or_else(|| find(&format!("tool-{case}")));
            let row = row.unwrap_or_else(|| panic!("no recording: {provider} {operation} {case}"));
            recorded::answer(&with_own_ids(row, &wanted), pause, end)
        };
        match wanted {
            _ if wanted.contains("case-stream") => answer("stream", Duration::ZERO, AnswerEnd::Clean),
            _ if wanted.contains("case-tool") => answer("tool-plain", Duration::ZERO, AnswerEnd::Clean),
            _ if wanted.contains("case-plain") => answer("plain", Duration::ZERO, AnswerEnd::Clean),
            _ if wanted.contains("case-error") => refusal(provider),
            _ if wanted.contains("case-retry") => rate_limit(provider),
            _ if wanted.contains("case-cancel") => {
                // Gemini's other stream is too short to be left halfway.
                let case = if provider == "gemini" { "tool-stream" } else { "stream" };
                let mut answer = answer(case, Duration::from_millis(10), AnswerEnd::Silent);
                // The terminal event never comes: only leaving ends the call.
                answer.pieces.truncate(answer.pieces.len().div_ceil(2).max(3));
                answer
            }
            _ => panic!("no case: {wanted}"),
        }
    }
}

// === the foreign mock ===

/// A running llmock.
struct Mock {
    child: Child,
    base: String,
}

impl Mock {
    async fn start(program: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program)
            .args(["serve", "--host", "127.0.0.1", "--log-level", "error", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("llmock starts");
        let mock = Self { child, base: format!("127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(60);
        while tokio::net::TcpStream::connect(&mock.base).await.is_err() {
            assert!(Instant::now() < deadline, "llmock does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let fault = |kind: &str, case: &str, after: u32| {
            json!({ "type": "stream_fault", "kind": kind, "after_chunks": after, "stall_seconds": 60, "times": null,
                    "match": { "model": format!("*case-{case}*") } })
        };
        let fail = |status: u16, wait: Option<f64>, case: &str| {
            json!({ "type": "fail", "status": status, "retry_after": wait, "times": null,
                    "match": { "model": format!("*case-{case}*") } })
        };
        let behaviors = json!({ "behaviors": [
            fail(401, None, "error"),
            fail(429, Some(2.0), "limit"),
            fail(429, Some(0.02), "retry"),
            fault("truncate", "truncate", 2),
            fault("disconnect", "disconnect", 2),
            fault("malformed", "malformed", 2),
            fault("stall", "cancel", 3),
        ]});
        let answer = post_json(mock.address(), "/_llmock/scenario", "none", behaviors.to_string()).await;
        assert_eq!(answer.head.status, 201, "{:?}", answer.body);
        mock
    }

    fn address(&self) -> std::net::SocketAddr {
        self.base.parse().unwrap()
    }

    /// Every request that it served, as it tells.
    async fn requests(&self) -> Vec<Value> {
        let answer = get(self.address(), "/_llmock/requests").await;
        answer.json()["requests"].as_array().expect("requests").clone()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes out what the mock makes up anew for every answer: ids of eight and more hexadecimal digits, times.
/// Nothing is left out: a field that is missing on one side is still a difference.
fn without_ids(value: &mut Value) {
    match value {
        Value::String(text) => {
            let mut out = String::new();
            for run in text.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
                let digits = run.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
                out.push_str(if digits.len() >= 8 { "#" } else { digits });
                out.push_str(&run[digits.len()..]);
            }
            // A header inside an error's message.
            while let Some(at) = out.find(" GMT") {
                out.replace_range(at.saturating_sub("Mon, 23 Nov 2026 20:31:37".len())..at + " GMT".len(), "#");
            }
            *text = out;
        }
        Value::Number(number) if number.as_f64() > Some(1e9) => *value = Value::Null,
        Value::Array(items) => items.iter_mut().for_each(without_ids),
        Value::Object(fields) => fields.values_mut().for_each(without_ids),
        _ => {}
    }
}

// === running ===

/// A script of SDKs that has done its calls and stays, its clients open, until this is dropped.
struct Script {
    child: Child,
    _stdin: ChildStdin,
    /// Run, SDK, case, result.
    results: Value,
}

impl Script {
    fn run(mut command: Command, plan: &Value) -> Self {
        let errors = tempfile::NamedTempFile::new().expect("temporary file");
        let mut child = command
            .arg(plan.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.reopen().expect("temporary file"))
            .spawn()
            .expect("the SDK script runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("a line");
        let results = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{error}: {}", std::fs::read_to_string(errors.path()).unwrap()));
        let stdin = child.stdin.take().expect("stdin is piped");
        Self { child, _stdin: stdin, results }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn python() -> Option<Command> {
    let mut command = Command::new(tool("venv/bin/python")?);
    command.arg(script_path("python_sdks.py"));
    Some(command)
}

fn node() -> Option<Command> {
    let directory = tool("node")?;
    tool("node/node_modules/openai")?;
    let mut command = Command::new("node");
    command.current_dir(directory).arg(script_path("node_sdks.mjs"));
    Some(command)
}

fn script_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name)
}

/// Straight and through, in one process; the results are the same. Returns them, and every SDK and case once.
async fn run(command: Command, straight: &Value, sidecar: &Sidecar, faults: bool) -> (Script, Vec<(String, String)>) {
    let mut through = straight.clone();
    for (provider, _) in PROVIDERS {
        through[provider] = sidecar.url(provider).into();
    }
    let plan = json!({ "faults": faults, "variables": faults, "runs": { "straight": straight, "through": through } });
    let script = tokio::task::spawn_blocking(move || Script::run(command, &plan)).await.unwrap();
    let mut cases = Vec::new();
    for (sdk, results) in script.results["straight"].as_object().expect("results") {
        cases.extend(results.as_object().expect("cases").keys().map(|case| (sdk.clone(), case.clone())));
    }
    cases.sort();
    (script, cases)
}

/// What the script must have done: each SDK each case.
fn expected(sdks: &[&str], faults: bool, retrying: &[&str]) -> Vec<(String, String)> {
    let cases = CASES.into_iter().chain(FAULTS.into_iter().filter(|_| faults));
    let mut all: Vec<_> =
        cases.flat_map(|case| sdks.iter().map(move |sdk| (sdk.to_string(), case.to_owned()))).collect();
    all.extend(retrying.iter().map(|sdk| (sdk.to_string(), "retry".to_owned())));
    all.sort();
    all
}

/// Holds the records against what the SDKs saw; returns them by SDK and case.
fn check_records(
    mut records: Vec<Value>,
    script: &Script,
    cases: &[(String, String)],
) -> BTreeMap<(String, String), Vec<Value>> {
    // Two that end close together may be written in either order.
    records.sort_by_key(|record| record["time"].as_str().map(str::to_owned));
    let mut by_case: BTreeMap<(String, String), Vec<Value>> = BTreeMap::new();
    for record in records {
        let model = record["request_model"].as_str().unwrap_or_else(|| panic!("no model: {record}"));
        let (sdk, case) = model.rsplit_once(".case-").unwrap_or_else(|| panic!("{model}"));
        by_case.entry((sdk.to_owned(), case.to_owned())).or_default().push(record);
    }
    assert_eq!(by_case.keys().cloned().collect::<Vec<_>>(), cases, "records of each call, and of none else");
    let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
    for ((sdk, case), records) in &by_case {
        let result = &script.results["through"][sdk][case];
        let expected = if case == "retry" { 3 } else { 1 };
        assert_eq!(records.len() as u64, expected, "{sdk}, {case}: one record a request");
        let (provider, operation, protocol) = described(sdk);
        let retries: Vec<_> = records.iter().map(|record| record["retry_count"].as_u64()).collect();
        assert_eq!(retries, (0..expected).map(Some).collect::<Vec<_>>(), "{sdk}, {case}: {records:?}");
        for record in records {
            let is = |field: &str, value: &Value| assert_eq!(&record[field], value, "{sdk}, {case}: {record}");
            is("provider", &provider.into());
            is("operation", &operation.into());
            is("protocol", &protocol.into());
            let streams = matches!(&**case, "stream" | "cancel" | "truncate" | "disconnect" | "malformed");
            is("stream", &streams.into());
            let key = record["key"].as_str().unwrap_or_else(|| panic!("{sdk}, {case}: no key: {record}"));
            assert_eq!(keys.entry(provider).or_insert(key), &key, "{provider}: one key, one fingerprint");
            match &**case {
                "plain" | "tool" | "stream" => {
                    is("outcome", &"ok".into());
                    is("end", &"complete".into());
                    is("status", &200.into());
                }
                "cancel" => {
                    is("outcome", &"client_cancelled".into());
                    is("end", &"client_cancelled".into());
                    is("status", &200.into());
                    assert_ne!(record["usage_source"], "none", "{sdk}, {case}: the provider bills it: {record}");
                    assert!(record["usage"]["output_tokens"].is_u64(), "{sdk}, {case}: {record}");
                    assert!(record["usage"]["input_tokens"].as_u64() > Some(0), "{sdk}, {case}: {record}");
                    assert!(record["duration_seconds"].as_f64() < Some(5.0), "{sdk}, {case}: {record}");
                }
                "error" => {
                    is("outcome", &"auth_invalid".into());
                    is("fault", &"key".into());
                    is("retryable", &false.into());
                    is("end", &"complete".into());
                    is("usage_source", &"none".into());
                }
                "limit" | "retry" => {
                    let outcome = record["outcome"].as_str().unwrap_or_default();
                    assert!(outcome.starts_with("rate_limit_"), "{sdk}, {case}: {record}");
                    is("retryable", &true.into());
                    is("status", &429.into());
                    // An SDK that will try again may leave the body unread.
                    let left = case == "retry" && record["end"] == "client_cancelled";
                    assert!(left || record["end"] == "complete", "{sdk}, {case}: {record}");
                }
                "truncate" | "disconnect" => {
                    is("outcome", &"stream_truncated".into());
                    is("end", &"truncated".into());
                    is("status", &200.into());
                }
                "malformed" => {
                    // SDKs that choke on the event leave; the rest of the answer may have passed before that.
                    let outcome = record["outcome"].as_str().unwrap_or_default();
                    let left = !result["error"].is_null();
                    assert!(outcome == "ok" || left && outcome == "client_cancelled", "{sdk}, {case}: {record}");
                }
                other => panic!("{other}"),
            }
            if matches!(&**case, "error" | "limit" | "retry") {
                is("status", &result["error"]["status"]);
            }
            if matches!(&**case, "plain" | "tool" | "stream") {
                match &result["tokens"] {
                    Value::Null => {
                        is("usage_source", &"estimated".into());
                        assert!(record["usage"]["output_tokens"].as_u64() > Some(0), "{sdk}, {case}: {record}");
                    }
                    tokens => {
                        is("usage_source", &"reported".into());
                        assert_eq!(record["usage"]["input_tokens"], tokens[0], "{sdk}, {case}: {record}");
                        assert_eq!(record["usage"]["output_tokens"], tokens[1], "{sdk}, {case}: {record}");
                    }
                }
            }
        }
    }
    let hashes: Vec<_> = keys.values().map(|key| key.rsplit(':').next()).collect();
    assert!(hashes.windows(2).all(|two| two[0] == two[1]), "one key: {keys:?}");
    by_case
}

/// A tool call in any SDK's form is somewhere in an answer.
fn calls_a_tool(answer: &Value) -> bool {
    match answer {
        Value::Array(items) => items.iter().any(calls_a_tool),
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let kind = value.as_str().unwrap_or_default();
            let call = value.as_array().is_some_and(|calls| !calls.is_empty()) || value.is_object();
            (name == "type" && ["tool_use", "function_call", "tool-call"].contains(&kind))
                || (["tool_calls", "toolCalls", "function_call", "functionCall"].contains(&&**name) && call)
                || calls_a_tool(value)
        }),
        _ => false,
    }
}

/// Each result is the one without the sidecar, and is what the case asks for.
fn check_results(script: &Script, adjust: impl Fn(&mut Value)) {
    for (sdk, results) in script.results["straight"].as_object().unwrap() {
        for (case, result) in results.as_object().unwrap() {
            let (mut straight, mut through) = (result.clone(), script.results["through"][sdk][case].clone());
            adjust(&mut straight);
            adjust(&mut through);
            assert_eq!(straight, through, "{sdk}, {case}: through the sidecar it is another");
            let failed = !result["error"].is_null();
            match &**case {
                "plain" | "tool" | "stream" | "cancel" => assert!(!failed, "{sdk}, {case}: {result}"),
                "error" | "limit" | "retry" | "disconnect" => assert!(failed, "{sdk}, {case}: {result}"),
                // What an SDK makes of a stream that just stops or of a broken event is its own affair.
                _ => {}
            }
            let events = result["events"].as_array().map_or(0, Vec::len);
            let headers = result["headers"].as_array().map_or(0, Vec::len);
            match &**case {
                "stream" | "cancel" => assert!(events > 1, "{sdk}, {case}: {result}"),
                "tool" => assert!(calls_a_tool(&result["answer"]), "{sdk}: {result}"),
                // The other two show none.
                "plain" => {
                    assert!(headers > 0 || ["mistralai", "langchain-openai"].contains(&&**sdk), "{sdk}: {result}")
                }
                _ => {}
            }
        }
    }
}

async fn against_recordings(command: Command, sdks: &[&str], retrying: &[&str]) {
    let mut simulators = Vec::new();
    let mut straight = json!({});
    let mut config = "providers:\n".to_owned();
    for (provider, operation) in PROVIDERS {
        let simulator = Simulator::start(script(provider, operation)).await.unwrap();
        let base = format!("http://{}", simulator.address());
        config.push_str(&format!("  {provider}: {{ base_url: \"{base}\" }}\n"));
        straight[provider] = base.into();
        simulators.push(simulator);
    }
    let sidecar = Sidecar::start(&config);
    let (script, cases) = run(command, &straight, &sidecar, false).await;
    assert_eq!(cases, expected(sdks, false, retrying));
    check_results(&script, |_| ());
    // The SDKs' process is still there: what ended the cancelled streams upstream was their leaving.
    let deadline = Instant::now() + Duration::from_secs(5);
    while simulators.iter().any(|simulator| simulator.answering() > 0) {
        assert!(Instant::now() < deadline, "a provider still answers a call that was cancelled");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let records = sidecar.wait_for_records(cases.len() + 2 * retrying.len()).await;
    check_records(records, &script, &cases);
}

async fn against_a_mock(command: Command, sdks: &[&str], retrying: &[&str]) {
    let Some(llmock) = tool("venv/bin/llmock") else { return skip("llmock") };
    let mock = Mock::start(&llmock).await;
    let mut straight = json!({ "gemini version": "v1beta" });
    let mut config = "providers:\n".to_owned();
    for (provider, _) in PROVIDERS {
        let path = if provider == "openai" { String::new() } else { format!("/{provider}") };
        let base = format!("http://{}{path}", mock.base);
        config.push_str(&format!("  {provider}: {{ base_url: \"{base}\" }}\n"));
        straight[provider] = base.into();
    }
    let sidecar = Sidecar::start(&config);
    let (script, cases) = run(command, &straight, &sidecar, true).await;
    assert_eq!(cases, expected(sdks, true, retrying));
    check_results(&script, without_ids);
    let records = sidecar.wait_for_records(cases.len() + 2 * retrying.len()).await;
    check_records(records, &script, &cases);
    // The mock saw each cancelled call end while it paused, without and with the sidecar.
    let requests = mock.requests().await;
    let cancelled: Vec<_> = requests
        .iter()
        .filter(|request| request["model"].as_str().is_some_and(|model| model.contains("case-cancel")))
        .collect();
    assert_eq!(cancelled.len(), 2 * sdks.len());
    for request in cancelled {
        assert_eq!(request["completed"], false, "{request}");
        assert!(request["stall_waited"].as_f64().is_none_or(|waited| waited < 10.0), "{request}");
    }
}

const RETRYING: [&str; 2] = ["anthropic-retrying", "openai-retrying"];

#[tokio::test(flavor = "multi_thread")]
async fn python_sdks_see_no_difference() {
    let Some(command) = python() else { return skip("the Python SDKs") };
    against_recordings(command, &PYTHON, &RETRYING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_sdks_see_no_difference() {
    let Some(command) = node() else { return skip("the Node SDKs") };
    against_recordings(command, &NODE, &RETRYING[1..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sdks_see_no_difference_of_a_foreign_mock() {
    let Some(command) = python() else { return skip("the Python SDKs") };
    against_a_mock(command, &PYTHON, &RETRYING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_sdks_see_no_difference_of_a_foreign_mock() {
    let Some(command) = node() else { return skip("the Node SDKs") };
    against_a_mock(command, &NODE, &RETRYING[1..]).await;
}

/// The `ai` SDK's anthropic provider leaves `/v1` out where a base URL is given by variable.
#[tokio::test]
async fn anthropic_without_its_version_in_the_path() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let paths = std::sync::Arc::clone(&seen);
    let provider = Simulator::start(move |received| {
        paths.lock().unwrap().push(received.head.uri.to_string());
        recorded::answer(&recorded::find("anthropic", "messages", "plain"), Duration::ZERO, AnswerEnd::Clean)
    })
    .await
    .unwrap();
    let sidecar =
        Sidecar::start(&format!("providers: {{ anthropic: {{ base_url: \"http://{}\" }} }}", provider.address()));
    let ask = r#"{"model":"claude-3-5-haiku-20241022","max_tokens":100,"messages":[]}"#;
    for path in ["/anthropic/messages", "/anthropic/v1/messages"] {
        assert_eq!(post_json(sidecar.proxy, path, "sk-ant-made-up", ask).await.head.status, 200);
    }
    assert_eq!(*seen.lock().unwrap(), ["/v1/messages", "/v1/messages"]);
    for record in sidecar.wait_for_records(2).await {
        assert_eq!((&record["operation"], &record["outcome"]), (&"messages".into(), &"ok".into()), "{record}");
    }
}

/// Node's AWS SDK speaks HTTP/2 with prior knowledge to a plain endpoint, and says itself which attempt it is.
#[tokio::test]
async fn bedrock_by_http2_with_prior_knowledge() {
    let recording = recorded::find("bedrock", "converse", "stream");
    let body = recorded::body(&recording);
    let answer = recorded::answer(&recording, Duration::ZERO, AnswerEnd::Clean);
    let provider = Simulator::start(move |_| answer.clone()).await.unwrap();
    let sidecar =
        Sidecar::start(&format!("providers: {{ bedrock: {{ base_url: \"http://{}\" }} }}", provider.address()));
    let stream = tokio::net::TcpStream::connect(sidecar.proxy).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let url = format!("http://{}/bedrock/model/amazon.titan-text-express-v1/converse-stream", sidecar.proxy);
    let request = Request::post(url)
        .header("content-type", "application/json")
        .header("amz-sdk-request", "attempt=2; max=3")
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AKIAMADEUPMADEUPMADE/20260101/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=0",
        )
        .body(Full::new(Bytes::from_static(br#"{"messages":[]}"#)));
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/vnd.amazon.eventstream");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), body);
    let record = &sidecar.wait_for_records(1).await[0];
    for (field, value) in [
        ("provider", json!("bedrock")),
        ("protocol", json!("bedrock-converse")),
        ("request_model", json!("amazon.titan-text-express-v1")),
        ("outcome", json!("ok")),
        ("stream", json!(true)),
        ("usage_source", json!("reported")),
        ("retry_count", json!(1)),
    ] {
        assert_eq!(record[field], value, "{record}");
    }
    assert!(record["key"].as_str().is_some_and(|key| key.starts_with("aws:")), "{record}");
}
