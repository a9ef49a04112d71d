//! The Alertmanager example: valid, and every alert reaches the team and the people that it should.

use std::process::Command;

use super::{promql, repository};
use crate::support::skip;

const FILE: &str = "deploy/prometheus/alertmanager.yml";

fn amtool(arguments: &[&str]) -> Option<(bool, String)> {
    if promql::program("amtool").is_none() {
        skip("amtool");
        return None;
    }
    let done = Command::new("amtool").args(arguments).output().expect("amtool runs");
    Some((done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned()))
}

#[test]
fn the_example_is_valid() {
    let file = repository(FILE);
    let Some((good, said)) = amtool(&["check-config", file.to_str().unwrap()]) else { return };
    assert!(good, "{said}");
}

#[test]
fn alerts_go_to_the_team_of_the_key_and_to_those_whose_fault_it_is() {
    let file = format!("--config.file={}", repository(FILE).display());
    let cases: &[(&[&str], &str)] = &[
        (&["severity=warning", "fault=spend", "team=search", "env=prod"], "search"),
        (&["severity=critical", "fault=key", "team=search", "env=prod"], "search-pager"),
        (&["severity=critical", "fault=key", "team=search"], "search-pager"),
        (&["severity=critical", "fault=key", "team=search", "env=staging"], "search"),
        (&["severity=critical", "fault=key", "team=chat", "env=prod"], "chat-pager"),
        (&["severity=critical", "fault=account", "team=chat"], "billing,chat-pager"),
        (&["severity=critical", "fault=account"], "billing,platform-pager"),
        (&["severity=critical", "fault=provider"], "everybody,platform-pager"),
        (&["severity=warning", "fault=provider"], "everybody"),
        (&["severity=critical", "fault=network"], "platform-pager"),
        (&["severity=critical", "fault=sidecar"], "platform-pager"),
        (&["severity=warning", "fault=sidecar"], "platform"),
        (&["severity=warning", "fault=key"], "platform"),
        (&["severity=info", "fault=spend", "team=search", "env=prod"], "digest"),
    ];
    for (labels, receivers) in cases {
        let Some((good, said)) = amtool(&[&["config", "routes", "test", &file][..], labels].concat()) else { return };
        assert!(good && said.trim() == *receivers, "{labels:?} goes to {said}, not to {receivers}");
    }
}

/// An inhibition that names an alert which is not there, or a label which it does not have, never works.
#[test]
fn inhibitions_name_alerts_that_exist() {
    let names: Vec<String> = super::rules::alerts().into_iter().filter_map(|rule| rule.alert).collect();
    let text = super::read(FILE);
    let inhibit = text.split("inhibit_rules:").nth(1).and_then(|rest| rest.split("\nreceivers:").next()).unwrap();
    let mut seen = 0;
    for pattern in inhibit.split("alertname=").skip(1) {
        let pattern = pattern.trim_start_matches('~').split('"').nth(1).unwrap();
        for one in pattern.split('|') {
            let regex = regex::Regex::new(&format!("^(?:{one})$")).unwrap();
            assert!(names.iter().any(|name| regex.is_match(name)), "no alert is called {one}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}
