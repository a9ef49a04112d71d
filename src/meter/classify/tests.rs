//! Classification against recorded and documented errors, and against hostile input.

use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Case {
    id: String,
    provider: String,
    status: u16,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    body: String,
    class: Outcome,
    alt_class: Option<Outcome>,
    retry: Option<String>,
    #[serde(default)]
    in_stream: bool,
    #[serde(default)]
    no_credential: bool,
}

fn cases(text: &str) -> Vec<Case> {
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn verdict(rules: &Rules, case: &Case) -> Verdict {
    let headers: Vec<(Box<str>, Box<str>)> =
        case.headers.iter().map(|(name, value)| (name.to_lowercase().into(), value.as_str().into())).collect();
    rules.classify(&Evidence {
        provider: &case.provider,
        status: Some(case.status),
        headers: &headers,
        error_body: Some(case.body.as_bytes()),
        in_stream: case.in_stream,
        end: if case.in_stream { End::ErrorEvent } else { End::Complete },
        credential_present: !case.no_credential,
        ..Evidence::default()
    })
}

/// Every case that is neither its class nor its second answer, or whose never-retry exception is not seen.
fn wrong(text: &str) -> Vec<String> {
    let rules = Rules::embedded();
    let cases = cases(text);
    assert!(cases.len() > 100, "{} cases only", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let verdict = verdict(&rules, case);
        let class = verdict.outcome == case.class || Some(verdict.outcome) == case.alt_class;
        if !class || (case.retry.as_deref() == Some("never") && verdict.retry != Retry::Never) {
            wrong.push(format!(
                "{}: {} ({:?}) by {}, expected {} {:?}",
                case.id, verdict.outcome, verdict.retry, verdict.rule, case.class, case.alt_class
            ));
        }
    }
    wrong
}

fn shared(file: &str) -> Option<String> {
    let root = std::env::var_os("KEYTALLY_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    std::fs::read_to_string(root.join(file)).ok()
}

#[test]
fn catalogue() {
    let Some(text) = shared("errors/catalogue.jsonl") else {
        println!("skipped: errors/catalogue.jsonl is not here; set KEYTALLY_SHARED");
        return;
    };
    let wrong = wrong(&text);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn documented_errors() {
    let wrong = wrong(include_str!("../../../tests/fixtures/errors/extra.jsonl"));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn speed() {
    let started = Instant::now();
    let rules = Rules::embedded();
    println!("build {:?}", started.elapsed());
    let cases = cases(include_str!("../../../tests/fixtures/errors/extra.jsonl"));
    for round in 0..3 {
        let started = Instant::now();
        for case in &cases {
            std::hint::black_box(verdict(&rules, case));
        }
        println!("round {round}: {:?} each", started.elapsed() / cases.len() as u32);
    }
    let ok = Evidence { provider: "openai", status: Some(200), ..Evidence::default() };
    let started = Instant::now();
    for _ in 0..100_000 {
        std::hint::black_box(rules.classify(&ok));
    }
    println!("ok: {:?} each", started.elapsed() / 100_000);
}
