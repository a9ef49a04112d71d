//! `promtool test rules` over `deploy/prometheus/tests`: every alert has a case in which it fires and one in which it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use super::{files, promql, repository, rules};
use crate::support::skip;

const DIRECTORY: &str = "deploy/prometheus/tests";

#[derive(Deserialize)]
struct File {
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    #[serde(default)]
    promql_expr_test: Vec<Expression>,
    #[serde(default)]
    alert_rule_test: Vec<Silent>,
}

#[derive(Deserialize)]
struct Expression {
    expr: String,
    exp_samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    labels: String,
}

#[derive(Deserialize)]
struct Silent {
    alertname: String,
    exp_alerts: Vec<Value>,
}

fn tests() -> Vec<Test> {
    let read = |file: &String| -> File {
        serde_saphyr::from_str(&super::read(&format!("{DIRECTORY}/{file}")))
            .unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    files(DIRECTORY, ".yml").iter().flat_map(|file| read(file).tests).collect()
}

/// Runs promtool on some of the test files, two at a time.
fn promtool(take: impl Fn(&str) -> bool) {
    if promql::program("promtool").is_none() {
        return skip("promtool");
    }
    let names: Vec<_> = files(DIRECTORY, ".yml").into_iter().filter(|name| take(name)).collect();
    assert!(!names.is_empty());
    let mut failures = String::new();
    for pair in names.chunks(2) {
        let running: Vec<_> = pair
            .iter()
            .map(|name| {
                let mut command = Command::new("promtool");
                command.args(["test", "rules", name]).current_dir(repository(DIRECTORY));
                command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
                command.spawn().expect("promtool starts")
            })
            .collect();
        for child in running {
            let done = child.wait_with_output().expect("promtool ends");
            if !done.status.success() {
                failures.push_str(&String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Ten days by five minutes: the dearest of the files.
#[test]
fn the_spend_rules_do_what_they_should() {
    promtool(|name| name == "spend.yml");
}

#[test]
fn the_other_rules_do_what_they_should() {
    promtool(|name| name != "spend.yml");
}

#[test]
fn promtool_accepts_every_rule_file() {
    if promql::program("promtool").is_none() {
        return skip("promtool");
    }
    let mut command = Command::new("promtool");
    command.args(["check", "rules", "--lint=all", "--lint-fatal"]).args(files(rules::DIRECTORY, ".yml"));
    let done = command.current_dir(repository(rules::DIRECTORY)).output().expect("promtool runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
    let mut command = Command::new("promtool");
    let done =
        command.args(["check", "config", "prometheus.yml"]).current_dir(repository("deploy/prometheus")).output();
    let done = done.expect("promtool runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
}

/// Firing cases are queries of `ALERTS`, silent ones are `alert_rule_test` without alerts or such queries without samples.
#[test]
fn every_alert_has_a_case_that_fires_and_one_that_does_not() {
    let tests = tests();
    let mut fires: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut silent: BTreeSet<String> = BTreeSet::new();
    for test in &tests {
        for case in &test.promql_expr_test {
            let Some(name) = case.expr.split("alertname=\"").nth(1).and_then(|rest| rest.split('"').next()) else {
                continue;
            };
            match case.exp_samples.is_empty() {
                true => drop(silent.insert(name.to_owned())),
                false => {
                    fires.entry(name.to_owned()).or_default().extend(case.exp_samples.iter().map(|s| s.labels.clone()))
                }
            }
        }
        for case in &test.alert_rule_test {
            assert!(case.exp_alerts.is_empty(), "{}: write what fires as a query of ALERTS", case.alertname);
            silent.insert(case.alertname.clone());
        }
    }
    let mut problems = Vec::new();
    for rule in rules::alerts() {
        let name = rule.alert.clone().unwrap();
        let own = |labels: &&String| {
            rule.labels.iter().all(|(label, value)| labels.contains(&format!("{label}=\"{value}\"")))
        };
        let cases: Vec<_> = fires.get(&name).into_iter().flatten().filter(own).collect();
        if cases.is_empty() {
            problems.push(format!("{name} {} has no case that fires", rule.variant()));
        }
        if !silent.contains(&name) {
            problems.push(format!("{name} has no case that must not fire"));
        }
        // A text that names a label which no firing case has would be sent with a hole.
        for text in rule.annotations.values() {
            for label in text.split("$labels.").skip(1) {
                let label: String = label.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if !cases.iter().any(|case| case.contains(&format!("{label}=\""))) {
                    problems.push(format!("{name}: its texts name {label}, which no firing case has"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
