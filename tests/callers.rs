//! Who calls: the process at the other end of a connection, in records, on the status page and in metrics.

use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use keytally::demo::simulator::{Answer, Simulator};
use serde_json::Value;

use crate::support::sidecar::readable_by_all;
use crate::support::{Sidecar, get, post_json, skip};

const TARGET: &str = "/openai/v1/chat/completions";
const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;
const OK: &str = r#"{"object":"chat.completion","model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
const KEY: &str = "sk-made-up-callers";

async fn provider() -> (Simulator, String) {
    // Who is gone cannot be looked at: as with real providers there is time while the answer is awaited.
    let script = |_| Answer { delay: Duration::from_secs(1), ..Answer::new(200, "application/json", OK) };
    let provider = Simulator::start(script).await.expect("a free port");
    let config = format!("providers: {{ openai: {{ base_url: \"http://{}\" }} }}\n", provider.address());
    (provider, config)
}

/// File name of this test's own executable, as far as a name goes.
fn own_name() -> String {
    let own = std::env::current_exe().expect("a path");
    own.file_name().and_then(|name| name.to_str()).expect("a name").chars().take(48).collect()
}

/// One call by another program.
fn curl(sidecar: &Sidecar) -> bool {
    let url = format!("{}/v1/chat/completions", sidecar.url("openai"));
    let auth = format!("authorization: Bearer {KEY}");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--noproxy", "*", "--header", &auth, "--json", ASK, "--output", "/dev/null", &url]);
    match curl.status() {
        Ok(status) => {
            assert!(status.success(), "{status}");
            true
        }
        Err(_) => {
            skip("curl");
            false
        }
    }
}

async fn clients(sidecar: &Sidecar) -> Vec<Value> {
    let status = get(sidecar.admin, "/status").await.json();
    assert_eq!(status["keys"].as_array().expect("keys").len(), 1, "{status}");
    status["keys"][0]["clients"].as_array().expect("clients").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_status_and_metrics_name_the_processes_that_use_a_key() {
    let (_provider, config) = provider().await;
    let sidecar = Sidecar::start(&config);
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs_f64();
    for _ in 0..2 {
        post_json(sidecar.proxy, TARGET, KEY, ASK).await;
    }
    sidecar.wait_for_records(2).await;
    if !curl(&sidecar) {
        return;
    }
    let records = sidecar.wait_for_records(3).await;
    let named = |record: &Value| record["client"].as_str().expect("a client").split('@').next().map(str::to_owned);
    assert_eq!(records.iter().filter_map(named).collect::<Vec<_>>(), [&own_name(), &own_name(), "curl"]);

    let clients = clients(&sidecar).await;
    assert_eq!(clients.len(), 2, "{clients:?}");
    // The dearest first.
    assert_eq!((&clients[0]["executable"], &clients[0]["calls"]), (&own_name().into(), &2.into()));
    assert_eq!(clients[0]["pid"], std::process::id());
    assert_eq!((&clients[1]["executable"], &clients[1]["calls"]), (&"curl".into(), &1.into()));
    assert_eq!(clients[0]["spend_usd"], "0.0000051", "two calls of 9 + 2 tokens");

    let metrics = sidecar.metrics().await;
    let mut seen: Vec<_> = metrics.all("keytally_key_client_last_used_timestamp_seconds").collect();
    seen.sort_by_key(|(labels, _)| labels["client"] != records[0]["client"]);
    assert_eq!(seen.len(), 2);
    for ((labels, time), record) in seen.iter().zip([&records[0], &records[2]]) {
        assert_eq!((&labels["client"], &labels["key"]), (&text(&record["client"]), &text(&record["key"])));
        assert!(*time >= before.floor(), "{time} is before {before}");
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_name_wins_and_nobody_needs_to_look() {
    let (_provider, config) = provider().await;
    let named = Sidecar::start(&format!("{config}labels: {{ app: search-api }}\n"));
    post_json(named.proxy, TARGET, KEY, ASK).await;
    assert_eq!(named.wait_for_records(1).await[0]["client"], "search-api");
    let clients = clients(&named).await;
    assert_eq!((&clients[0]["client"], &clients[0]["executable"]), (&"search-api".into(), &own_name().into()));

    let off = Sidecar::start(&format!("{config}listen: {{ callers: off }}\n"));
    post_json(off.proxy, TARGET, KEY, ASK).await;
    let record = &off.wait_for_records(1).await[0];
    assert_eq!((&record["outcome"], record.get("client")), (&"ok".into(), None));
}

/// A sidecar that may not look at the caller's process: the call goes on, the record names nobody, the log is quiet.
#[tokio::test(flavor = "multi_thread")]
async fn without_permission_there_is_no_client_and_no_error() {
    if !rustix::process::geteuid().is_root() {
        return skip("root");
    }
    let (_provider, config) = provider().await;
    let calls = tempfile::tempdir().expect("temporary directory");
    std::os::unix::fs::chown(calls.path(), Some(65534), Some(65534)).expect("root may");
    let path = calls.path().join("calls.jsonl");
    let config = format!("{config}export: {{ calls: {{ path: \"{}\" }} }}\n", path.display());
    let sidecar = Sidecar::start_with(&config, |command| {
        use std::os::unix::process::CommandExt;
        readable_by_all(command);
        command.uid(65534).gid(65534);
    });
    for _ in 0..3 {
        post_json(sidecar.proxy, TARGET, KEY, ASK).await;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let records = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.lines().count() >= 3 {
            break text;
        }
        assert!(Instant::now() < deadline, "no records: {text}\n{}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for line in records.lines() {
        let record: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&record["outcome"], record.get("client")), (&"ok".into(), None), "{record}");
    }
    assert!(!sidecar.log().contains("WARN") && !sidecar.log().contains("ERROR"), "{}", sidecar.log());
}
