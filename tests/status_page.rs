//! The status page in a real browser: see `tests/browser/page.mjs` for what is looked at.

use std::process::Stdio;
use std::time::Duration;

use keytally::demo::simulator::{Answer, Received, Simulator};

use crate::support::{Sidecar, get, post_json, send, skip, tool};

const OK: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9000,"completion_tokens":2000,"total_tokens":11000}}"#;
const REFUSED: &str = r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"the prompt stays private"}]}"#;
const HOSTILE: &str = "<img src=x onerror=window.owned=1><script>window.owned=1</script>";
/// All of the browser's steps; a busy machine needs a third of it.
const PATIENCE: Duration = Duration::from_secs(180);

/// Keys whose name has `mail` in it are refused.
fn script(received: Received) -> Answer {
    let key = received.head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if key.contains("mail") {
        Answer::new(401, "application/json", REFUSED)
    } else {
        Answer::new(200, "application/json", OK)
    }
}

/// A sidecar that has seen one key work and another one refused twice, once for a model with a hostile name.
async fn sidecar() -> (Simulator, Sidecar) {
    let provider = Simulator::start(script).await.expect("a free port");
    let named = |name: &str| {
        let key = keytally::call::ApiKey::new(format!("sk-made-up-{name}"));
        format!(
            "  - {{ fingerprint: \"{}\", name: {name}, team: search, env: prod }}\n",
            key.fingerprint("openai", b"")
        )
    };
    let config = format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nkeys:\n{}{}",
        provider.address(),
        named("chat-prod"),
        named("mail-prod"),
    );
    let sidecar = Sidecar::start(&config);
    let target = "/openai/v1/chat/completions";
    post_json(sidecar.proxy, target, "sk-made-up-chat-prod", ASK).await;
    post_json(sidecar.proxy, target, "sk-made-up-mail-prod", ASK).await;
    sidecar.wait_for_records(2).await;
    let hostile = serde_json::json!({ "model": HOSTILE, "messages": [] }).to_string();
    post_json(sidecar.proxy, target, "sk-made-up-mail-prod", hostile).await;
    sidecar.wait_for_records(3).await;
    (provider, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_it_in_light_and_dark_on_desk_and_phone_with_and_without_scripts() {
    let Some(modules) = tool("node/node_modules/playwright-core") else { return skip("playwright-core") };
    if !std::path::Path::new("/usr/bin/chromium").exists() {
        return skip("chromium");
    }
    let (_provider, sidecar) = sidecar().await;
    let mut child = tokio::process::Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/page.mjs"))
        .args([format!("http://{}", sidecar.admin), format!("http://{}", sidecar.proxy)])
        .current_dir(modules)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node runs");
    let stderr = child.stderr.take().expect("piped");
    let told = async {
        let mut text = String::new();
        let _ = tokio::io::AsyncReadExt::read_to_string(&mut tokio::io::BufReader::new(stderr), &mut text).await;
        (child.wait().await, text)
    };
    let (status, text) = tokio::time::timeout(PATIENCE, told).await.expect("the browser ends");
    assert!(status.is_ok_and(|status| status.success()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_view_adds_up_and_holds_no_content() {
    let (_provider, sidecar) = sidecar().await;
    let answer = get(sidecar.admin, "/status/live").await;
    let live = answer.json();
    let text = String::from_utf8_lossy(&answer.body);
    for private in ["sk-made-up", "stays private", "Hello"] {
        assert!(!text.contains(private), "{private}");
    }
    assert_eq!((&live["live"]["total"]["calls"], &live["live"]["total"]["failures"]), (&3.into(), &2.into()));
    let records = sidecar.records();
    let ids: Vec<_> =
        live["live"]["calls"].as_array().expect("calls").iter().map(|call| call["call_id"].clone()).collect();
    assert_eq!(ids.len(), 3);
    assert!(records.iter().all(|record| ids.contains(&record["call_id"])));
    let cost = records.iter().find_map(|record| record["cost_usd"].as_str()).expect("one has a price");
    assert_eq!(live["live"]["total"]["month_usd"], cost);
    let key = &live["keys"][0];
    assert_eq!((&key["key"], &key["health"]), (&"mail-prod".into(), &"failing".into()), "the most urgent first");
    assert!(live["attention"][0]["fix"].as_str().is_some_and(|fix| fix.len() > 20), "{}", live["attention"]);
    let spent: f64 =
        live["live"]["minutes"].as_array().expect("minutes").iter().filter_map(|minute| minute["usd"].as_f64()).sum();
    assert!((spent - cost.parse::<f64>().unwrap()).abs() < 1e-8, "{spent} {cost}");
}

/// With a ledger, what was spent today and this month is there again after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn today_and_this_month_outlive_a_restart() {
    let provider = Simulator::start(script).await.expect("a free port");
    let dir = tempfile::tempdir().expect("temporary directory");
    let key = keytally::call::ApiKey::new("sk-made-up-chat-prod").fingerprint("openai", b"");
    let config = format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nkeys: [{{ fingerprint: \"{key}\", name: chat-prod }}]\n\
         ledger: {{ path: \"{}\" }}\n",
        provider.address(),
        dir.path().join("ledger.db").display()
    );
    let mut first = Sidecar::start(&config);
    post_json(first.proxy, "/openai/v1/chat/completions", "sk-made-up-chat-prod", ASK).await;
    let cost = first.wait_for_records(1).await[0]["cost_usd"].clone();
    assert!(cost.as_str().is_some_and(|cost| cost != "0"), "{cost}");
    assert!(first.stop().success());

    let second = Sidecar::start(&config);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let live = loop {
        let live = get(second.admin, "/status/live").await.json();
        if live["live"]["total"]["month_usd"] != "0" {
            break live;
        }
        assert!(std::time::Instant::now() < deadline, "{}", live["live"]["total"]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let total = &live["live"]["total"];
    assert_eq!((&total["month_usd"], &total["month_calls"], &total["calls"]), (&cost, &1.into(), &0.into()));
    let row = &live["keys"][0];
    assert_eq!((&row["key"], &row["health"], &row["month_usd"]), (&"chat-prod".into(), &"quiet".into(), &cost));
    // The ledger begins with that call, and nobody knows of the month before it.
    assert_eq!(live["live"]["periods"]["month_complete"], false);
    let since = |live: &serde_json::Value| live["live"]["periods"]["month_since"].as_str().map(str::to_owned);
    assert!(since(&live) < live["started"].as_str().map(str::to_owned), "{}", live["live"]["periods"]);
}

/// What a browser on somebody's page could do is what nobody can do: change something, or read it under another name.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_only_reads_and_only_under_its_own_name() {
    let (_provider, sidecar) = sidecar().await;
    for (method, host, expected) in [
        ("GET", "localhost", 200),
        ("POST", "localhost", 405),
        ("GET", "evil.example", 421),
        ("HEAD", "localhost", 200),
    ] {
        for path in ["/", "/?key=a", "/status/live"] {
            let request =
                http::Request::builder().method(method).uri(path).header("host", host).header("accept", "text/html");
            let answer = send(sidecar.admin, request.body(Default::default()).unwrap()).await;
            assert_eq!(answer.head.status, expected, "{method} {host}{path}");
        }
    }
}
