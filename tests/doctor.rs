//! `keytally doctor`, the real program, beside a real sidecar whose provider is set up with one cause after the other: it
//! names the planted cause, and nothing else, first.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use keytally::call::{Finding, Outcome};
use keytally::demo::simulator::{Answer, AnswerEnd, Received, Simulator};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::clock::Clock;
use crate::support::{Sidecar, send, wire};

const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;
const OK: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
const REFUSED: &str = r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
const NO_CREDIT: &str = r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;
const NO_KEY: &str =
    r#"{"error":{"message":"You didn't provide an API key.","type":"invalid_request_error","param":null,"code":null}}"#;
const CHAT: &str = "/openai/v1/chat/completions";

/// Providers that answer each call as the call's plant says, and a sidecar before them.
struct Stage {
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    _simulators: Vec<Simulator>,
    sidecar: Sidecar,
    calls: usize,
}

/// One call to be made.
struct Plant<'a> {
    path: &'a str,
    headers: Vec<(&'a str, Vec<u8>)>,
    answer: Answer,
    times: usize,
}

fn bearer(key: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![("authorization", format!("Bearer {key}").into_bytes())]
}

fn json(status: u16, body: &str) -> Answer {
    Answer::new(status, "application/json", Bytes::from(body.to_owned()))
}

impl Stage {
    async fn new(more: &str, adjust: impl FnOnce(&mut Command)) -> Self {
        let answers: Arc<Mutex<HashMap<String, Answer>>> = Arc::default();
        let mut config = String::from("providers:\n");
        let mut simulators = Vec::new();
        for id in ["openai", "anthropic", "gemini", "groq", "mistral"] {
            let script = Arc::clone(&answers);
            let simulator = Simulator::start(move |received: Received| {
                let plant = received.head.headers.get("x-plant").and_then(|value| value.to_str().ok());
                let answer = plant.and_then(|plant| script.lock().unwrap().get(plant).cloned());
                answer.unwrap_or_else(|| json(401, NO_KEY))
            });
            let simulator = simulator.await.expect("a free port");
            let at = simulator.address();
            // Declared to be the provider itself, so that what is said of cloud providers' keys holds.
            config += &format!("  {id}: {{ base_url: \"http://{at}\", hosts: [\"{at}\"] }}\n");
            simulators.push(simulator);
        }
        config += "  dead: { protocol: openai-chat, base_url: \"http://127.0.0.1:1\" }\n";
        config += "metrics: { birth_hold: 0s }\nupstream: { proxy: off }\n";
        config += more;
        let sidecar = Sidecar::start_with(&config, adjust);
        Self { answers, _simulators: simulators, sidecar, calls: 0 }
    }

    /// Makes the calls; gives back the record of the last one.
    async fn call(&mut self, name: &str, plant: Plant<'_>) -> Value {
        self.answers.lock().unwrap().insert(name.to_owned(), plant.answer);
        for _ in 0..plant.times {
            let mut request =
                Request::post(plant.path).header("content-type", "application/json").header("x-plant", name);
            for (name, value) in &plant.headers {
                request = request.header(*name, HeaderValue::from_bytes(value).expect("a header value"));
            }
            let request = request.body(Full::new(Bytes::from_static(ASK.as_bytes()))).expect("a request");
            send(self.sidecar.proxy, request).await;
            self.calls += 1;
            self.sidecar.wait_for_records(self.calls).await;
        }
        self.sidecar.records().pop().expect("a record")
    }

    /// Runs the doctor on the key of a record.
    fn doctor(&self, record: &Value, more: &[&str]) -> (Option<i32>, Value) {
        let key = record["key"].as_str().unwrap_or("none");
        let provider = record["provider"].as_str().expect("a provider");
        let admin = self.sidecar.admin.to_string();
        let mut args = vec!["--json", "--admin", &admin, "--key", key];
        if provider != "other" {
            args.extend(["--provider", provider]);
        }
        args.extend(more);
        let output = doctor(&args, &self.sidecar.config_file(), self.sidecar.dir(), &[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = serde_json::from_str(&text).unwrap_or_else(|wrong| panic!("{wrong}: {text}{error}"));
        (output.status.code(), report)
    }
}

fn doctor(args: &[&str], config: &Path, dir: &Path, env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keytally"));
    command.arg("doctor").args(args).arg("--config").arg(config).current_dir(dir).env_clear();
    command.envs(env.iter().copied()).output().expect("the binary runs")
}

/// What stays when the sidecar is gone: its ledger.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_tells_when_no_sidecar_does() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("ledger.db");
    let mut stage = Stage::new(&format!("ledger: {{ path: \"{}\" }}\n", path.display()), |_| ()).await;
    let plant = |key: &str, status, body: &str| Plant {
        path: CHAT,
        headers: bearer(key),
        answer: json(status, body),
        times: 2,
    };
    stage.call("fine", plant("sk-made-up-fine", 200, OK)).await;
    let limited = json(429, NO_CREDIT).header("x-request-id", "req_made_up_1");
    stage.call("poor", Plant { answer: limited, ..plant("sk-made-up-poor", 429, NO_CREDIT) }).await;
    let record = stage.call("quoted", plant("'sk-made-up-quoted'", 401, REFUSED)).await;
    let config = stage.sidecar.config_file();
    stage.sidecar.stop();
    let (_socket, closed) = wire::closed_port();
    let nobody = closed.to_string();
    let output = doctor(&["--json", "--offline"], &config, dir.path(), &[("KEYTALLY_ADMIN", &nobody)]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(wrong("key_quoted", &(output.status.code(), report.clone())), None);
    assert!(report["source"].as_str().is_some_and(|source| source.contains("ledger.db")), "{report:#}");

    // One call in full, by either of its ids.
    let explain = |id: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keytally"));
        command.args(["explain", "--format", "json", id, "--config"]).arg(&config).env("KEYTALLY_ADMIN", &nobody);
        let output = command.output().expect("the binary runs");
        (String::from_utf8_lossy(&output.stderr).into_owned(), serde_json::from_slice::<Value>(&output.stdout).ok())
    };
    let (_, told) = explain("req_made_up_1");
    let told = told.expect("JSON");
    assert_eq!(
        (&told["outcome"], &told["first_fix"]["id"], &told["provider"]),
        (&"credit_exhausted".into(), &"openai_quota".into(), &"openai".into())
    );
    let (_, told) = explain(record["call_id"].as_str().expect("an id"));
    assert_eq!(told.expect("JSON")["outcome"], "auth_invalid");
    let (error, told) = explain("req_of_nobody");
    assert!(told.is_none() && error.contains("req_of_nobody") && error.contains("ledger.db"), "{error}");
}

/// What is wrong with a report, if anything: the cause is first and alone, what comes after is not looked at.
fn wrong(planted: &str, (code, report): &(Option<i32>, Value)) -> Option<String> {
    let cause = &report["cause"];
    let steps = report["steps"].as_array().expect("steps");
    let is_failure = cause["severity"] == "fail";
    let number = cause["number"].as_u64().unwrap_or(0) as usize;
    let failed: Vec<_> = steps.iter().filter(|step| step["status"] == "fail").map(|step| &step["number"]).collect();
    let problem = if cause["id"] != planted {
        format!("named {}", cause["id"])
    } else if *code != Some(if is_failure { 3 } else { 0 }) {
        format!("exit code {code:?}")
    } else if is_failure && failed != [&Value::from(number)] {
        format!("failing steps {failed:?}")
    } else if is_failure && steps[number..].iter().any(|step| step["status"] != "skip") {
        "went on after the cause".to_owned()
    } else if cause["fix"].as_str().is_none_or(|fix| fix.len() < 10) {
        "no fix".to_owned()
    } else if steps.len() != 9 || steps.iter().any(|step| step["evidence"].as_array().is_none_or(Vec::is_empty)) {
        "a step without evidence".to_owned()
    } else {
        return None;
    };
    Some(format!("{planted}: {problem}\n{report:#}"))
}

/// As long as real keys of this family are, and made up.
fn long(prefix: &str, length: usize) -> String {
    let filler = "made-up-";
    let rest = filler.repeat(length / filler.len() + 1);
    format!("{prefix}{}", &rest[..length - prefix.len()])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_finding_is_named_first() {
    let mut stage = Stage::new("", |_| ()).await;
    let refused = || json(401, REFUSED);
    let mismatch = r#"{"error":{"message":"OpenAI-Organization header should match organization for API key","type":"invalid_request_error","param":null,"code":"mismatched_organization"}}"#;
    let invalid = r#"{"error":{"message":"Unknown parameter: 'made_up'.","type":"invalid_request_error","param":"made_up","code":"unknown_parameter"}}"#;
    let limited = r#"{"error":{"message":"Rate limit reached for gpt-4o-mini in organization org-made-up on requests per min (RPM): Limit 6, Used 1, Requested 1.","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
    let with = |key: &str, name: &'static str, value: &str| {
        let mut headers = bearer(key);
        headers.push((name, value.as_bytes().to_vec()));
        headers
    };
    let plain = |headers: Vec<(&'static str, Vec<u8>)>| Plant { path: CHAT, headers, answer: refused(), times: 1 };
    let mut plants: Vec<(&str, Plant<'_>)> = vec![
        ("key_whitespace", plain(bearer(" sk-made-up-blank"))),
        ("key_hidden_unicode", plain(bearer("sk-made-up\u{200b}-hidden"))),
        ("key_quoted", plain(bearer("\"sk-made-up-quoted\""))),
        ("key_empty", plain(vec![("authorization", b"Bearer".to_vec())])),
        ("key_missing", Plant { path: "/groq/openai/v1/chat/completions", ..plain(Vec::new()) }),
        ("key_literal_null", plain(bearer("undefined"))),
        ("key_unexpanded", plain(bearer("${OPENAI_API_KEY}"))),
        ("key_placeholder", plain(bearer("your-api-key-here"))),
        ("key_double_scheme", plain(bearer("Bearer sk-made-up-double"))),
        ("key_is_url_or_prose", plain(bearer("https://made-up.example/key"))),
        ("key_truncated", plain(bearer("sk-proj-made-up-cut"))),
        ("key_in_url", Plant { path: "/openai/v1/chat/completions?api_key=sk-made-up-in-url", ..plain(Vec::new()) }),
        ("key_in_browser", plain(with("sk-made-up-browser", "origin", "https://shop.example"))),
        ("both_auth_headers", plain(with("sk-made-up-first", "x-api-key", "sk-made-up-second"))),
    ];
    let (foreign, admin, anthropic) = (long("gsk_", 56), long("sk-admin-", 133), long("sk-ant-api03-", 108));
    plants.push(("key_wrong_provider", plain(bearer(&foreign))));
    plants.push(("admin_key_on_data_path", plain(bearer(&admin))));
    plants.push(("key_wrong_place", Plant { path: "/anthropic/v1/messages", ..plain(bearer(&anthropic)) }));
    let named = with("sk-made-up-of-another", "openai-organization", "org-made-up");
    plants.push(("org_header_set", Plant { answer: json(401, mismatch), ..plain(named) }));
    let burst = json(429, limited).header("x-ratelimit-limit-requests", "6");
    plants.push(("quantised_burst", Plant { answer: burst, ..plain(bearer("sk-made-up-burst")) }));
    let storm = Plant { answer: json(400, invalid), times: 7, ..plain(bearer("sk-made-up-storm")) };
    plants.push(("retry_storm", storm));

    let mut problems = Vec::new();
    let mut seen = Vec::new();
    for (finding, plant) in plants {
        let record = stage.call(finding, plant).await;
        problems.extend(wrong(finding, &stage.doctor(&record, &[])));
        seen.push(finding);
    }

    // A key that is replaced by a newer one, and comes back.
    let of = |key: &str, status| Plant {
        path: "/mistral/v1/chat/completions",
        headers: bearer(key),
        answer: json(status, if status == 200 { OK } else { REFUSED }),
        times: if status == 200 { 2 } else { 1 },
    };
    stage.call("old", of("made-up-old-key", 401)).await;
    stage.call("new", of("made-up-new-key", 200)).await;
    let record = stage.call("old again", of("made-up-old-key", 401)).await;
    problems.extend(wrong("stale_key", &stage.doctor(&record, &[])));
    seen.push("stale_key");

    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let in_time = ["old_key_still_used", "shared_key", "idle_key"];
    let all: Vec<_> =
        Finding::ALL.iter().map(|finding| finding.as_str()).filter(|name| !in_time.contains(name)).collect();
    assert!(all.iter().all(|name| seen.contains(name)), "a finding is not planted: {all:?}");
}

/// Three findings need hours or days: the sidecar's clock is moved for them.
#[tokio::test(flavor = "multi_thread")]
async fn findings_that_take_days_are_named_first() {
    let Some(clock) = Clock::new() else { return };
    let set = |offset: &str| clock.set(offset);
    let named = keytally::call::ApiKey::new(*b"made-up-idle-key").fingerprint("groq", b"");
    let more = format!("keys:\n  - {{ fingerprint: \"{named}\", name: rarely-used }}\n");
    let mut stage = Stage::new(&more, |command| {
        clock.rule(command);
    })
    .await;
    let good =
        |path: &'static str, key: &str, times| Plant { path, headers: bearer(key), answer: json(200, OK), times };
    let (groq, mistral) = ("/groq/openai/v1/chat/completions", "/mistral/v1/chat/completions");
    let mut problems = Vec::new();

    // Three applications with one key, side by side for a quarter of an hour: each sidecar serves one, so that here it
    // takes the name of one after the other.
    let config = std::fs::read_to_string(stage.sidecar.config_file()).expect("readable");
    let mut record = Value::Null;
    let mut reloads = 0;
    for minutes in [0, 20] {
        set(&format!("+{minutes}m"));
        for app in ["shop", "search", "mail"] {
            std::fs::write(stage.sidecar.config_file(), format!("{config}labels: {{ app: {app} }}\n"))
                .expect("written");
            stage.sidecar.signal("HUP");
            reloads += 1;
            wait_for_reload(&stage.sidecar, reloads).await;
            // The rooms take the new configuration over a moment after it is read.
            record = Value::Null;
            for _ in 0..100 {
                record = stage.call("shared", good(CHAT, "sk-made-up-shared", 1)).await;
                if record["client"] == app {
                    break;
                }
            }
            assert_eq!(record["client"], app);
        }
    }
    problems.extend(wrong("shared_key", &stage.doctor(&record, &[])));

    // All providers here have one host, so a key that is new there makes each other one an old one: one after the other.
    stage.call("idle", good(groq, "made-up-idle-key", 1)).await;
    set("+40d");
    let record = stage.call("idle", good(groq, "made-up-idle-key", 1)).await;
    problems.extend(wrong("idle_key", &stage.doctor(&record, &[])));
    stage.call("old", good(mistral, "made-up-old-key", 1)).await;
    stage.call("new", good(mistral, "made-up-new-key", 2)).await;
    set("+42d");
    let record = stage.call("old", good(mistral, "made-up-old-key", 1)).await;
    problems.extend(wrong("old_key_still_used", &stage.doctor(&record, &[])));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

async fn wait_for_reload(sidecar: &Sidecar, count: usize) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while sidecar.log().matches("configuration reloaded").count() < count {
        assert!(std::time::Instant::now() < deadline, "no reload {count}:\n{}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A recorded or documented error with this outcome, of a provider on the stage.
fn recorded(outcome: Outcome) -> Option<(&'static str, Value)> {
    let files = [include_str!("fixtures/errors/recorded.jsonl"), include_str!("fixtures/errors/documented.jsonl")];
    let entries =
        || files.iter().flat_map(|text| text.lines()).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    ["openai", "anthropic", "gemini"].into_iter().find_map(|provider| {
        let is_it = |entry: &Value| {
            entry["provider"] == provider
                && entry["outcome"] == outcome.as_str()
                && entry["status"].as_u64().is_some_and(|status| status >= 400)
                && entry.get("or").is_none()
        };
        entries().find(is_it).map(|entry| (provider, entry))
    })
}

fn repeated(entry: &Value) -> Answer {
    let status = entry["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
    let mut answer = json(status, entry["body"].as_str().expect("a body"));
    for (name, value) in entry["headers"].as_object().into_iter().flatten() {
        if name != "content-type" && name != "content-length" {
            answer = answer.header(name, value.as_str().unwrap_or_default());
        }
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn every_outcome_is_named_first() {
    let mut stage = Stage::new("", |_| ()).await;
    let mut problems = Vec::new();
    for &outcome in Outcome::ALL {
        let key = format!("sk-made-up-for-{outcome}");
        let plain = |answer: Answer| Plant { path: CHAT, headers: bearer(&key), answer, times: 1 };
        let name = outcome.as_str();
        let record = match outcome {
            Outcome::Ok => stage.call(name, plain(json(200, OK))).await,
            Outcome::ContentBlocked => {
                stage.call(name, plain(json(200, &OK.replace("\"stop\"", "\"content_filter\"")))).await
            }
            Outcome::UnknownError => stage.call(name, plain(json(418, "{\"error\":{\"message\":\"a teapot\"}}"))).await,
            Outcome::NetworkError => {
                stage.call(name, Plant { path: "/dead/v1/chat/completions", ..plain(json(200, OK)) }).await
            }
            Outcome::StreamTruncated => {
                let event =
                    "data: {\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"He\"}}]}\n\n";
                stage.call(name, plain(Answer::new(200, "text/event-stream", event))).await
            }
            Outcome::ClientCancelled => {
                let mut answer = Answer::new(200, "text/event-stream", ": open\n\n");
                // Of two pieces, so that its length is not known beforehand.
                answer.pieces.push((Duration::ZERO, Bytes::from_static(b": more\n\n")));
                answer.end = AnswerEnd::Silent;
                stage.answers.lock().unwrap().insert(name.to_owned(), answer);
                let mut stream = TcpStream::connect(stage.sidecar.proxy).await.expect("connect");
                let head = format!(
                    "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nx-plant: {name}\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{ASK}",
                    ASK.len()
                );
                stream.write_all(head.as_bytes()).await.expect("write");
                wire::read_until(&mut stream, ": open").await;
                drop(stream);
                stage.calls += 1;
                stage.sidecar.wait_for_records(stage.calls).await.pop().expect("a record")
            }
            _ => {
                let (provider, entry) = recorded(outcome).unwrap_or_else(|| panic!("no recorded {outcome}"));
                let (path, headers) = match provider {
                    "openai" => (CHAT, bearer(&key)),
                    "anthropic" => ("/anthropic/v1/messages", vec![("x-api-key", key.clone().into_bytes())]),
                    _ => (
                        "/gemini/v1beta/models/made-up:generateContent",
                        vec![("x-goog-api-key", key.clone().into_bytes())],
                    ),
                };
                stage.call(name, Plant { path, headers, answer: repeated(&entry), times: 1 }).await
            }
        };
        assert_eq!(record["outcome"], name, "the plant itself: {record}");
        let told = stage.doctor(&record, &[]);
        if outcome == Outcome::Ok {
            assert!(told.0 == Some(0) && told.1["cause"].is_null(), "{:#}", told.1);
        } else {
            problems.extend(wrong(name, &told));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sidecar_the_shell_is_looked_at() {
    let stage = Stage::new("", |_| ()).await;
    let (config, dir) = (stage.sidecar.config_file(), stage.sidecar.dir().to_owned());
    let (_socket, closed) = wire::closed_port();
    let nobody = closed.to_string();
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let mut all = vec!["--json"];
        all.extend(args);
        let env: Vec<_> = env.iter().copied().chain([("KEYTALLY_ADMIN", nobody.as_str())]).collect();
        let output = doctor(&all, &config, &dir, &env);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("made-up"), "a key or a password is shown: {text}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_str::<Value>(&text).unwrap_or_else(|_| panic!("{text}{error}")))
    };
    for (args, env, cause, code) in [
        (&["--provider", "openai"][..], &[("OPENAI_API_KEY", "sk-made-up-key")][..], Value::Null, 0),
        (&["--provider", "openai"], &[], "key_missing".into(), 3),
        (&["--provider", "openai"], &[("OPENAI_KEY", "sk-made-up-key")], "key_missing".into(), 3),
        (&["--provider", "openai"], &[("OPENAI_API_KEY", " sk-made-up-key")], "key_whitespace".into(), 3),
        (&["--env", "MY_KEY", "--provider", "groq"], &[("MY_KEY", "'made-up-key'")], "key_quoted".into(), 3),
        (&[], &[("ANTHROPIC_API_KEY", "<made-up>")], "key_unexpanded".into(), 3),
        (&["--provider", "dead"], &[], "network_error".into(), 3),
    ] {
        let (exit, report) = run(args, env);
        assert_eq!((&report["cause"]["id"], exit), (&cause, Some(code)), "{args:?}: {report:#}");
    }
    // A file of variables counts as set.
    std::fs::write(dir.join(".env"), "OPENAI_API_KEY=\"sk-made-up-in-file \"\n").expect("written");
    let (_, report) = run(&["--provider", "openai"], &[]);
    assert_eq!(report["cause"]["id"], "key_whitespace", "{report:#}");
    // A live request is one call, and judged as any other.
    stage.answers.lock().unwrap().clear();
    let (exit, report) = run(&["--provider", "openai", "--live"], &[("OPENAI_API_KEY", "sk-made-up-key")]);
    assert_eq!((exit, &report["cause"]["id"]), (Some(3), &"auth_missing".into()), "{report:#}");
    assert!(report["source"].as_str().is_some_and(|source| source.contains("GET /v1/models")), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_through_the_sidecar_is_looked_at() {
    let mut stage = Stage::new("", |_| ()).await;
    let plant = Plant { path: CHAT, headers: bearer("sk-made-up-key"), answer: json(200, OK), times: 1 };
    stage.call("fine", plant).await;
    let admin = stage.sidecar.admin.to_string();
    let run = |env: &[(&str, &str)]| {
        let args = ["--json", "--admin", &admin, "--provider", "openai"];
        let output = doctor(&args, &stage.sidecar.config_file(), stage.sidecar.dir(), env);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    let url = stage.sidecar.url("openai/v1");
    let led = run(&[("OPENAI_BASE_URL", &url), ("OPENAI_API_KEY", "sk-made-up-key")]);
    assert!(led["cause"].is_null() && led["steps"][8]["status"] == "pass", "{led:#}");
    let past = run(&[("OPENAI_BASE_URL", "https://user:made-up-password@api.openai.com/v1")]);
    assert_eq!(past["cause"]["id"], "not_through_keytally", "{past:#}");
    assert!(!past.to_string().contains("made-up-password"), "{past:#}");
    let proxied = run(&[("OPENAI_BASE_URL", &url), ("HTTPS_PROXY", "http://proxy.example:3128")]);
    assert_eq!(proxied["cause"]["id"], "proxy_in_the_way", "{proxied:#}");
}

/// Who sends calls through the forward proxy must trust its authority, or its runtime refuses them.
#[tokio::test(flavor = "multi_thread")]
async fn trust_in_the_local_authority_is_looked_at() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let stage = Stage::new(&format!("tls: {{ intercept: on, ca_dir: \"{}\" }}\n", dir.path().display()), |_| ()).await;
    let config = stage.sidecar.config_file();
    let ca = |what: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_keytally")).args(["ca", what, "--config"]).arg(&config).output();
        String::from_utf8(output.expect("the binary runs").stdout).expect("UTF-8").trim().to_owned()
    };
    let (path, bundle) = (ca("path"), ca("bundle"));
    let other = dir.path().join("other.pem");
    std::fs::write(&other, wire::Authority::new().pem).expect("written");
    let (admin, proxy) = (stage.sidecar.admin.to_string(), format!("http://{}", stage.sidecar.proxy));
    let cause = |env: &[(&str, &str)]| {
        let env: Vec<_> = env.iter().copied().chain([("HTTPS_PROXY", &*proxy)]).collect();
        let args = ["--json", "--offline", "--admin", &admin, "--provider", "openai", "--env", "MY_KEY"];
        let env: Vec<_> = env.into_iter().chain([("MY_KEY", "sk-made-up-key")]).collect();
        let output = doctor(&args, &config, stage.sidecar.dir(), &env);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report["cause"]["id"].as_str().map(str::to_owned)
    };
    let other = other.to_str().expect("a path");
    for (env, expected) in [
        (&[][..], Some("ca_not_trusted")),
        (&[("SSL_CERT_FILE", other)], Some("ca_not_trusted")),
        (&[("SSL_CERT_FILE", "/nowhere/made-up.pem")], Some("ca_not_trusted")),
        (&[("SSL_CERT_FILE", &*bundle)], None),
        (&[("NODE_EXTRA_CA_CERTS", &*path)], None),
        (&[("NODE_EXTRA_CA_CERTS", &*path), ("REQUESTS_CA_BUNDLE", other)], Some("ca_not_trusted")),
    ] {
        assert_eq!(cause(env).as_deref(), expected, "{env:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_can_read_it() {
    let mut stage = Stage::new("", |_| ()).await;
    let plant = Plant { path: CHAT, headers: bearer("\"sk-made-up-quoted\""), answer: json(401, REFUSED), times: 3 };
    stage.call("quoted", plant).await;
    let admin = stage.sidecar.admin.to_string();
    let output = doctor(&["--admin", &admin], &stage.sidecar.config_file(), stage.sidecar.dir(), &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    for part in [
        "1 WARN last error",
        "auth_invalid (status 401, type invalid_request_error, code",
        "3 of 3 calls failed, as far as they are known",
        "2 FAIL key",
        "key_quoted on 3 of 3 calls; it explains auth_invalid",
        "3 skip header and address",
        "not needed: step 2 explains the error",
        "cause: key_quoted (step 2)\nfirst fix: remove the quotes",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(!text.contains("made-up") && !text.contains('\u{1b}'), "{text}");

    for (args, code, says) in [
        (&["--admin", "127.0.0.1:1"][..], 1, "--admin"),
        (&["--provider", "nobody"], 1, "--provider"),
        (&["--env", "sk-made-up-key"], 1, "--env"),
        (&["--live", "--offline"], 2, "--offline"),
    ] {
        let output = doctor(args, &stage.sidecar.config_file(), stage.sidecar.dir(), &[]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(says) && !error.contains("made-up"), "{args:?}: {error}");
    }
}
