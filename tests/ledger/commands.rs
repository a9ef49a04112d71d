//! `usage`, `log` and `statement` on the ledger of a sidecar that writes it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::*;

/// Three keys on two models, one key without a name and one that is refused.
async fn filled(dir: &Path) -> (Simulator, Sidecar, std::path::PathBuf) {
    let ledger = dir.join("deep/down/ledger.db");
    let provider = provider().await;
    let print = ok_with_input(&["fingerprint", "--provider", "openai"], KEYS[0]);
    let print = print.split_whitespace().find(|word| word.starts_with("openai:")).expect("a fingerprint").to_owned();
    let names =
        format!("keys: [{{ fingerprint: \"{print}\", name: search-prod, team: search }}]\nlabels: {{ app: shop }}");
    let sidecar = Sidecar::start(&config(provider.address(), &ledger, &names));
    for number in 0..12 {
        let model = if number % 3 == 0 { "gpt-4o" } else { "gpt-4o-mini" };
        let status = call(&sidecar, KEYS[number % 3], model).await;
        assert_eq!(status, if number % 3 == 2 { 401 } else { 200 });
    }
    sidecar.wait_for_records(12).await;
    wait_for_rows(&ledger, 12).await;
    (provider, sidecar, ledger)
}

fn ok_with_input(args: &[&str], input: &str) -> String {
    use std::io::Write;
    let mut child = keytally(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&ok(args)).unwrap()
}

/// Decimal dollars as an integer of femto-dollars: sums of texts without rounding.
fn femto(value: &Value) -> i128 {
    keytally::call::Money::parse(value.as_str().unwrap_or("0")).expect("a decimal").femto()
}

#[tokio::test]
async fn the_ledger_holds_the_call_records() {
    let dir = tempfile::tempdir().unwrap();
    let (_provider, mut sidecar, ledger) = filled(dir.path()).await;
    let path = ledger.to_str().unwrap();
    let records = sidecar.records();

    // Field by field and byte for byte what the call log has, newest first.
    let mut expected: Vec<Value> = records.clone();
    expected.sort_by_key(|record| record["time"].as_str().unwrap().to_owned());
    expected.reverse();
    let logged: Vec<Value> = ok(&["log", "--ledger", path, "--format", "json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let by_id = |mut calls: Vec<Value>| {
        calls.sort_by_key(|call| call["call_id"].as_str().unwrap().to_owned());
        calls.iter().map(Value::to_string).collect::<Vec<_>>()
    };
    assert_eq!(by_id(logged.clone()), by_id(expected));
    assert!(logged.is_sorted_by_key(|call| std::cmp::Reverse(call["time"].as_str().unwrap().to_owned())));

    let usage = json(&["usage", "--ledger", path, "--by", "key,model,outcome", "--since", "1h", "--format", "json"]);
    for group in usage["groups"].as_array().unwrap() {
        let of_group: Vec<&Value> = records
            .iter()
            .filter(|record| {
                let key = record.get("key_name").unwrap_or(&record["key"]);
                (key, &record["outcome"]) == (&group["key"], &group["outcome"])
            })
            .filter(|record| record["priced_model"] == group["model"] || record["outcome"] == "auth_invalid")
            .collect();
        let sum = |field: &str| of_group.iter().filter_map(|record| record["usage"][field].as_u64()).sum::<u64>();
        assert_eq!(group["calls"], of_group.len(), "{group}");
        assert_eq!(
            (group["input_tokens"].as_u64(), group["output_tokens"].as_u64()),
            (Some(sum("input_tokens")), Some(sum("output_tokens")))
        );
        assert_eq!(femto(&group["cost_usd"]), of_group.iter().map(|record| femto(&record["cost_usd"])).sum::<i128>());
    }
    assert_eq!(usage["groups"].as_array().unwrap().len(), 3);
    assert_eq!(
        femto(&usage["total"]["cost_usd"]),
        records.iter().map(|record| femto(&record["cost_usd"])).sum::<i128>()
    );
    assert!(femto(&usage["total"]["cost_usd"]) > 0);
    assert_eq!((&usage["total"]["calls"], &usage["total"]["failed_calls"]), (&12.into(), &4.into()));

    // Kept over a restart, and rows that waited at SIGTERM are written.
    call(&sidecar, KEYS[0], "gpt-4o-mini").await;
    assert_eq!(sidecar.stop().code(), Some(0));
    assert_eq!(Reader::open(&ledger).unwrap().extent().unwrap().calls, 13);
}

#[tokio::test]
async fn answers_read_well() {
    let dir = tempfile::tempdir().unwrap();
    let (_provider, sidecar, ledger) = filled(dir.path()).await;
    let path = ledger.to_str().unwrap();
    let config = sidecar.config_file();
    // By the configuration instead of by the file.
    let text = ok(&["usage", "--config", config.to_str().unwrap(), "--by", "team,key"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with(" to now (UTC)"), "{text}");
    assert!(lines[1].starts_with(" team    key "), "{text}");
    assert!(lines[2].starts_with(" search  search-prod "), "the most expensive first: {text}");
    assert!(lines[5].starts_with(" total ") && lines[5].contains(" 12 "), "{text}");
    assert!(!text.contains('\x1b') && lines.iter().all(|line| line.trim_end() == *line), "{text}");

    let csv = ok(&["usage", "--ledger", path, "--by", "provider", "--by", "day", "--format", "csv"]);
    assert!(csv.starts_with("provider,day,calls,failed_calls,retry_calls,input_tokens,"), "{csv}");
    assert_eq!(csv.lines().nth(1).unwrap().split(',').nth(2), Some("12"), "{csv}");

    let none = ok(&["usage", "--ledger", path, "--key", "nobody"]);
    assert!(none.ends_with(" no calls\n"), "{none}");

    let failed = ok(&["log", "--ledger", path, "--outcome", "failed", "--limit", "2"]);
    assert_eq!(failed.lines().count(), 3, "{failed}");
    assert!(failed.lines().skip(1).all(|line| line.contains(" auth_invalid ") && line.contains(" 401 ")), "{failed}");
    let dear = ok(&["log", "--ledger", path, "--costlier-than", "$0.0002", "--key", "search-*", "--limit", "0"]);
    assert_eq!(dear.lines().count(), 5, "{dear}");
    let (code, out, err) = run(&["log", "--ledger", path, "--slower-than", "1h"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", "keytally: no calls\n"));

    let record = sidecar.records().into_iter().find(|record| record["outcome"] == "auth_invalid").unwrap();
    let id = record["call_id"].as_str().unwrap();
    for id in [id, &id[..20], record["provider_request_id"].as_str().unwrap()] {
        let one = ok(&["log", "--ledger", path, id]);
        assert!(
            one.contains(&format!(" call_id                     {}\n", record["call_id"].as_str().unwrap())),
            "{one}"
        );
        assert!(one.contains(" error_code                  invalid_api_key\n") && one.contains(" first fix "), "{one}");
        let line: Value = serde_json::from_str(&ok(&["log", "--ledger", path, id, "--format", "json"])).unwrap();
        assert_eq!(line.to_string(), record.to_string());
    }
    let (code, _, err) = run(&["log", "--ledger", path, "req_nobody"]);
    assert!(code == 1 && err.contains("no call with this id"), "{err}");

    let markdown = ok(&["statement", "--ledger", path]);
    assert!(markdown.starts_with("# Statement of "), "{markdown}");
    assert!(markdown.contains(" is not over: this is up to "), "{markdown}");
    assert!(markdown.contains("| **search** ") && markdown.contains("|            | search-prod "), "{markdown}");
    let widths: Vec<_> =
        markdown.lines().filter(|line| line.starts_with('|')).map(|line| line.chars().count()).collect();
    assert!(widths.len() == 8 && widths.iter().all(|width| *width == widths[0]), "{markdown}");
    let statement = json(&["statement", "--ledger", path, "--format", "json"]);
    let usage = json(&["usage", "--ledger", path, "--format", "json"]);
    for field in ["calls", "failed_calls", "cost_usd", "input_tokens", "unpriced_calls", "failed_cost_usd"] {
        assert_eq!(statement["total"][field], usage["total"][field], "{field}");
    }
    assert_eq!(statement["total"]["month_before"]["calls"], 0);
    let csv = ok(&["statement", "--ledger", path, "--format", "csv", "--month", "2001-01"]);
    assert_eq!(csv.lines().count(), 1, "a month without calls: {csv}");
}

#[tokio::test]
async fn following_shows_calls_as_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let (_provider, sidecar, ledger) = filled(dir.path()).await;
    let args = ["log", "--ledger", ledger.to_str().unwrap(), "--follow", "--limit", "3", "--format", "json"];
    let mut child = keytally(&args).stdout(Stdio::piped()).spawn().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let next = || -> Value {
        let line = lines.recv_timeout(Duration::from_secs(30)).expect("a line");
        serde_json::from_str(&line).unwrap()
    };
    let mut times: Vec<String> = Vec::new();
    for _ in 0..3 {
        times.push(next()["time"].as_str().unwrap().to_owned());
    }
    assert!(times.is_sorted(), "{times:?}");
    for number in 0..3 {
        call(&sidecar, KEYS[0], &format!("gpt-4o-made-up-{number}")).await;
        assert_eq!(next()["request_model"], format!("gpt-4o-made-up-{number}"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.db");
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), &ledger, ""));
    let serve = [
        "serve",
        "--config",
        sidecar.config_file().to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]
    .map(str::to_owned);
    let (code, _, err) = run(&serve.each_ref().map(String::as_str));
    let expected = format!("{}: another keytally (process {}) writes this ledger", ledger.display(), sidecar.pid());
    assert!(code == 1 && err.contains(&expected), "{code}: {err}");
    // A command with a sidecar of its own runs all the same.
    let (code, _, err) = run(&["run", "--config", sidecar.config_file().to_str().unwrap(), "--", "true"]);
    assert!(code == 0 && err.contains(&expected) && err.contains("are not in it"), "{code}: {err}");
    assert_eq!(health(&sidecar).await, (true, ledger.display().to_string()));
}

#[tokio::test]
async fn the_ledger_follows_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["first.db", "second.db"].map(|name| dir.path().join(name));
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), &first, ""));
    let rows = |ledger: &Path| Reader::open(ledger).map_or(0, |reader| reader.extent().unwrap().calls);
    call(&sidecar, KEYS[0], "gpt-4o").await;
    wait_for_rows(&first, 1).await;
    let change = async |ledger: Option<&Path>| {
        let text = match ledger {
            Some(ledger) => config(provider.address(), ledger, ""),
            None => format!("providers: {{ openai: {{ base_url: \"http://{}\" }} }}\n", provider.address()),
        };
        std::fs::write(sidecar.config_file(), text).unwrap();
        sidecar.signal("HUP");
    };
    change(Some(&second)).await;
    wait_until("the new file", async || second.exists()).await;
    call(&sidecar, KEYS[0], "gpt-4o").await;
    wait_for_rows(&second, 1).await;
    assert_eq!(rows(&first), 1);
    change(None).await;
    wait_until("no ledger", async || {
        let status = get(sidecar.admin, "/status").await.json();
        !status["exporters"].as_array().unwrap().iter().any(|exporter| exporter["name"] == "ledger")
    })
    .await;
    call(&sidecar, KEYS[0], "gpt-4o").await;
    change(Some(&first)).await;
    wait_until("the ledger again", async || {
        let status = get(sidecar.admin, "/status").await.json();
        status["exporters"].as_array().unwrap().iter().any(|exporter| exporter["name"] == "ledger")
    })
    .await;
    call(&sidecar, KEYS[0], "gpt-4o").await;
    wait_for_rows(&first, 2).await;
    assert_eq!((rows(&first), rows(&second)), (2, 1));
}
