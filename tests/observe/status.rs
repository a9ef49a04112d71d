//! `/status` and gauges: what to do first about a key, in words, and what is open now.

use std::time::Duration;

use bytes::Bytes;
use keytally::demo::simulator::{Answer, AnswerEnd, Received, Simulator};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wait_until;
use crate::support::collector::Collector;
use crate::support::wire::closed_port;
use crate::support::{Sidecar, get, post_json};

const OK: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
const REFUSED: &str = r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;

/// Answers by the path's last word.
fn script(received: Received) -> Answer {
    match received.head.uri.query() {
        Some("refused") => Answer::new(401, "application/json", REFUSED),
        Some("open") => {
            let mut answer = Answer::new(200, "text/event-stream", "");
            answer.pieces = vec![(Duration::ZERO, Bytes::from_static(b": open\n\n"))];
            answer.end = AnswerEnd::Silent;
            answer
        }
        _ => Answer::new(200, "application/json", OK),
    }
}

async fn pair() -> (Simulator, Sidecar) {
    let provider = Simulator::start(script).await.expect("a free port");
    let config = format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }}, dead: {{ protocol: openai-chat, base_url: \"http://127.0.0.1:1\" }} }}\nmetrics: {{ birth_hold: 0s }}\n",
        provider.address()
    );
    let sidecar = Sidecar::start(&config);
    (provider, sidecar)
}

async fn keys(sidecar: &Sidecar) -> Vec<Value> {
    get(sidecar.admin, "/status").await.json()["keys"].as_array().expect("keys").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_worked_and_is_refused_says_so() {
    let (_provider, sidecar) = pair().await;
    let target = |wanted: &str| format!("/openai/v1/chat/completions?{wanted}");
    post_json(sidecar.proxy, &target("refused"), "sk-made-up-never-worked", ASK).await;
    // Calls that end at about the same time are recorded in either order.
    sidecar.wait_for_records(1).await;
    post_json(sidecar.proxy, &target("ok"), "sk-made-up-worked", ASK).await;
    sidecar.wait_for_records(2).await;
    let worked = keys(&sidecar).await.into_iter().find(|key| key["up"] == true).expect("a key that works");
    assert!(worked["last"].get("fix").is_none() && worked["last_failure"].is_null(), "{worked}");
    post_json(sidecar.proxy, &target("refused"), "sk-made-up-worked", ASK).await;
    let records = sidecar.wait_for_records(3).await;
    assert_eq!((&records[2]["outcome"], &records[2]["fault"]), (&"auth_invalid".into(), &"key".into()));

    let keys = keys(&sidecar).await;
    assert_eq!(keys.len(), 2);
    let of = |fingerprint: &Value| keys.iter().find(|key| key["fingerprint"] == *fingerprint).expect("its row");
    let (never, before) = (of(&records[0]["key"]), of(&records[2]["key"]));
    assert_eq!(
        (&never["last"]["first_fix"], &before["last"]["first_fix"]),
        (&"auth_invalid".into(), &"key_worked_before".into())
    );
    let text = |key: &Value| key["last_failure"]["fix"].as_str().expect("a text").to_owned();
    assert!(text(never).contains("live key"), "{}", text(never));
    assert!(text(before).starts_with("this key worked ") && text(before).contains(" ago: "), "{}", text(before));
    assert!(text(before).contains("revoked") && text(before).contains("plan is used up"), "{}", text(before));
    assert_eq!((&never["up"], &before["up"]), (&false.into(), &false.into()));

    // Whoever reads nothing but the log learns it as well, once a key.
    post_json(sidecar.proxy, &target("refused"), "sk-made-up-worked", ASK).await;
    sidecar.wait_for_records(4).await;
    for key in [&records[0]["key"], &records[2]["key"]] {
        sidecar.wait_for_log(key.as_str().expect("a fingerprint"));
    }
    let log = sidecar.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("calls with this key fail")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines.iter().all(|line| line.contains("auth_invalid") && line.contains("first_fix")), "{lines:?}");
}

/// Whatever keytally itself or the provider answers: a fix, and words for it.
#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_sidecar_itself_have_a_fix() {
    let (_provider, sidecar) = pair().await;
    post_json(sidecar.proxy, "/dead/v1/chat/completions", "sk-made-up-key", ASK).await;
    post_json(sidecar.proxy, "/nobody-knows-this/v1/chat/completions", "sk-made-up-key", ASK).await;
    sidecar.wait_for_records(2).await;
    for (provider, fix) in [("dead", "connect"), ("other", "unknown_prefix")] {
        let row = keys(&sidecar).await.into_iter().find(|key| key["provider"] == provider).expect("a row");
        assert_eq!(row["last"]["first_fix"], fix);
        assert!(row["last"]["fix"].as_str().is_some_and(|text| text.len() > 20), "{row}");
    }
}

/// An exporter is as healthy as its last attempt: what was lost before stays a number beside it.
#[tokio::test(flavor = "multi_thread")]
async fn exporters_are_healthy_again_when_they_work_again() {
    let provider = Simulator::start(script).await.expect("a free port");
    let (held, collector) = closed_port();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("later/calls.jsonl");
    let config = format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nexport: {{ calls: {{ path: \"{}\" }}, otlp: {{ endpoint: \"http://{collector}\", protocol: http/protobuf, timeout: 300ms }} }}\n",
        provider.address(),
        log.display()
    );
    let sidecar = Sidecar::start_with(&config, |command| {
        command.env("OTEL_BSP_SCHEDULE_DELAY", "20").env("OTEL_BSP_EXPORT_TIMEOUT", "1000");
    });
    let exporter = async |name: &str| {
        let status = get(sidecar.admin, "/status").await.json();
        let all = status["exporters"].as_array().expect("exporters");
        let row = all.iter().find(|row| row["name"] == name).expect("its row");
        let lost = status["telemetry_dropped"][name].as_u64().expect("a number");
        (row["healthy"] == true, row["detail"].as_str().expect("a detail").to_owned(), lost)
    };
    let warnings = async || {
        let overview = get(sidecar.admin, "/status/live").await.json();
        overview["attention"].as_array().expect("a list").iter().map(|row| row["subject"].clone()).collect::<Vec<_>>()
    };
    let call = async || post_json(sidecar.proxy, "/openai/v1/chat/completions", "sk-made-up-key", ASK).await;

    assert_eq!(exporter("traces").await, (true, "http/protobuf 127.0.0.1".to_owned(), 0), "nothing was tried");
    // The log's file is opened at start: it has lost nothing so far.
    wait_until("the log's file cannot be opened", async || !exporter("logs").await.0).await;
    assert_eq!(exporter("logs").await.2, 0);
    for _ in 0..2 {
        call().await;
    }
    wait_until("spans are lost", async || exporter("traces").await.2 == 2).await;
    wait_until("lines are lost", async || exporter("logs").await.2 == 2).await;
    let ((traces, why_traces, _), (logs, why_logs, _)) = (exporter("traces").await, exporter("logs").await);
    assert!(!traces && why_traces.contains("refused"), "{why_traces}");
    assert!(!logs && why_logs.contains("later/calls.jsonl: No such file"), "{why_logs}");
    let all = warnings().await;
    assert!(all.contains(&"traces".into()) && all.contains(&"logs".into()), "{all:?}");

    drop(held);
    let back = Collector::at(collector).await;
    std::fs::create_dir(log.parent().unwrap()).unwrap();
    wait_until("both work", async || {
        call().await;
        exporter("traces").await.0 && exporter("logs").await.0
    })
    .await;
    back.wait_for(1).await;
    assert_eq!(exporter("traces").await, (true, "http/protobuf 127.0.0.1".to_owned(), 2));
    assert_eq!(exporter("logs").await.1, log.display().to_string());
    let all = warnings().await;
    assert!(!all.contains(&"traces".into()) && !all.contains(&"logs".into()), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_calls_and_connections_on_both_sides() {
    let (_provider, sidecar) = pair().await;
    let gauges = async || {
        let samples = sidecar.metrics().await;
        let side = |side| samples.sum("keytally_connections", &[("side", side)]).expect("it is there from the start");
        (side("client"), side("upstream"), samples.sum("keytally_requests_in_flight", &[("provider", "openai")]))
    };
    assert_eq!(gauges().await, (0.0, 0.0, None));
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(sidecar.proxy).await.unwrap();
        let head = format!(
            "POST /openai/v1/chat/completions?open HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{ASK}",
            ASK.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(": open") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "the answer broke off: {seen:?}");
        }
        open.push(stream);
    }
    assert_eq!(gauges().await, (3.0, 3.0, Some(3.0)));
    drop(open);
    // Cancelled calls close their connections, in HTTP/1.1 on both sides.
    wait_until("all are closed", async || gauges().await == (0.0, 0.0, Some(0.0))).await;
    // A whole answer leaves its upstream connection open for the next call.
    for _ in 0..2 {
        post_json(sidecar.proxy, "/openai/v1/chat/completions", "sk-made-up-key", ASK).await;
    }
    wait_until("one is kept", async || gauges().await == (0.0, 1.0, Some(0.0))).await;

    // A call is recorded a moment after its end.
    sidecar.wait_for_records(5).await;
    let samples = sidecar.metrics().await;
    let overhead = |name: &str, phase| samples.sum(&format!("keytally_overhead_seconds_{name}"), &[("phase", phase)]);
    for phase in ["request", "response"] {
        let (count, sum) = (overhead("count", phase).unwrap(), overhead("sum", phase).unwrap());
        assert_eq!(count, 5.0, "{phase}");
        // More than nothing, and far less than the calls took: what the provider needed is not in it.
        assert!(sum > 0.0 && sum / count < 0.1, "{phase}: {sum} s in {count} calls");
    }
}
