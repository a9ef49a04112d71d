//! `keytally explain`, the real program: every known error, pasted as an HTTP answer, gets its outcome and a fix.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::shared;

fn keytally(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keytally"))
        .arg("explain")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A program that refuses its arguments reads nothing.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// One entry of a catalogue as somebody would paste it: `curl -i`, or `curl -v` where the request matters.
fn pasted(entry: &Value) -> String {
    let mut text = String::new();
    let mark = if entry["no_credential"] == true { "< " } else { "" };
    if !mark.is_empty() {
        text += "> POST /v1/chat/completions HTTP/1.1\n> Host: api.example.com\n> Accept: */*\n>\n";
    }
    text += &format!("{mark}HTTP/1.1 {} Made Up\r\n", entry["status"]);
    for (name, value) in entry["headers"].as_object().into_iter().flatten() {
        text += &format!("{mark}{name}: {}\r\n", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    text + mark.trim_end() + "\r\n" + entry["body"].as_str().expect("a body")
}

/// A configuration with the providers that a catalogue of errors names and ours does not have.
fn config_with(providers: impl Iterator<Item = String>) -> String {
    let known = keytally::provider::Catalog::embedded();
    let new = providers.filter(|id| !id.is_empty() && known.provider(id).is_none());
    let rows: String =
        new.map(|id| format!("  {id}: {{ protocol: openai-chat, base_url: \"http://{id}.example\" }}\n")).collect();
    format!("providers:\n  openai: {{}}\n{rows}")
}

/// Runs one process a provider over all of its entries; gives back what is wrong, and how many were asked for.
fn judge(catalogue: &str, give_provider: bool) -> (usize, Vec<String>) {
    let mut by_provider: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in catalogue.lines().filter(|line| !line.trim().is_empty()) {
        let entry: Value = serde_json::from_str(line).expect("one JSON object a line");
        let provider =
            if give_provider { entry["provider"].as_str().expect("a provider").to_owned() } else { String::new() };
        by_provider.entry(provider).or_default().push(entry);
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut count, mut wrong) = (0, Vec::new());
    let config = dir.path().join("keytally.yaml");
    std::fs::write(&config, config_with(by_provider.keys().cloned())).expect("written");
    for (provider, entries) in by_provider {
        let files: Vec<_> = (0..entries.len()).map(|index| dir.path().join(format!("{index}.txt"))).collect();
        for (file, entry) in files.iter().zip(&entries) {
            std::fs::write(file, pasted(entry)).expect("written");
        }
        let mut args = vec!["--format", "json", "--config", config.to_str().expect("a path")];
        if !provider.is_empty() {
            args.extend(["--provider", &provider]);
        }
        args.extend(files.iter().map(|file| file.to_str().expect("a path")));
        let out = stdout(&keytally(&args, ""));
        let answers: Vec<Value> =
            serde_json::Deserializer::from_str(&out).into_iter().collect::<Result<_, _>>().expect("JSON");
        assert_eq!(answers.len(), entries.len());
        for (entry, answer) in entries.iter().zip(&answers) {
            count += 1;
            let of = |one: &str, other: &str| entry.get(one).or(entry.get(other)).cloned().unwrap_or(Value::Null);
            let (expected, or) = (of("class", "outcome"), of("alt_class", "or"));
            let outcome = &answer["outcome"];
            let has_fix = answer["first_fix"]["text"].as_str().is_some_and(|text| text.len() > 5);
            let has_reasons = answer["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty());
            if !(*outcome == expected || *outcome == or) || !has_fix || !has_reasons {
                wrong.push(format!(
                    "{} ({}): {outcome} by {}, expected {expected}; {}",
                    entry["id"], entry["provider"], answer["rule"], answer["provider"]
                ));
            }
        }
    }
    (count, wrong)
}

#[track_caller]
fn assert_all(catalogue: &str, at_least: usize) {
    let (count, wrong) = judge(catalogue, true);
    assert!(count >= at_least, "{count} entries only");
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_error_of_our_own_gets_its_outcome_and_a_fix() {
    let files = [
        include_str!("fixtures/errors/recorded.jsonl"),
        include_str!("fixtures/errors/documented.jsonl"),
        include_str!("fixtures/errors/extra.jsonl"),
    ];
    assert_all(&files.concat(), 1000);
}

#[test]
fn every_error_of_the_catalogue_gets_its_class_and_a_fix() {
    let Some(path) = shared().map(|dir| dir.join("errors/catalogue.jsonl")).filter(|path| path.exists()) else {
        eprintln!("skipped: errors/catalogue.jsonl is not here; set KEYTALLY_SHARED");
        return;
    };
    assert_all(&std::fs::read_to_string(path).expect("readable"), 200);
}

/// Whoever pastes an error need not know whose it is: most of it is told all the same.
#[test]
fn without_a_provider_almost_all_are_still_told_right() {
    let (count, wrong) = judge(include_str!("fixtures/errors/recorded.jsonl"), false);
    assert!(wrong.len() * 100 <= count * 4, "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn text_says_it_all() {
    let error = r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;
    let text = stdout(&keytally(&["--status", "429"], error));
    for part in [
        "outcome     credit_exhausted: no money",
        "fault       the account's",
        "first fix   either no credit is left or the monthly limit is reached",
        "retry       no",
        "how sure    high, by rule credit-openai-quota",
        "code: insufficient_quota",
        "or else     spend_limit_reached: raise the cap",
        "provider    openai, guessed from the host platform.openai.com in it",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn headers_come_from_a_file_and_mistakes_are_said() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let headers = dir.path().join("headers.txt");
    std::fs::write(
        &headers,
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\nx-ratelimit-remaining-requests: 0\r\n",
    )
    .expect("written");
    let headers = headers.to_str().expect("a path");
    let out = stdout(&keytally(&["--headers", headers, "--format", "json", "-"], "{}"));
    let answer: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&answer["outcome"], &answer["retry_after_seconds"]), (&"rate_limit_requests".into(), &3.0.into()));

    let missing = Path::new("/nowhere/error.txt").to_str().expect("a path");
    for (args, input, code, says) in [
        (&[missing][..], "", 1, "/nowhere/error.txt"),
        (&["--provider", "nobody"], "{}", 1, "not in the catalogue"),
        (&["--status", "42"], "{}", 2, "42"),
        (&[], "  \n", 1, "nothing in it"),
    ] {
        let output = keytally(args, input);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(says), "{args:?}: {error}");
    }
}
