//! Every query of rules and dashboards, run against the day's data.

use serde_json::Value;

use super::Day;
use crate::alerting::{self, rules};

/// Variables of dashboards and Grafana's own, as the day has them.
fn filled(expression: &str) -> String {
    let mut text = expression.to_owned();
    for (name, value) in
        [("$__rate_interval", "4m"), ("$__interval", "1m"), ("$__range", "4h"), ("$__range_s", "14400")]
    {
        text = text.replace(name, value).replace(&format!("${{{}}}", &name[1..]), value);
    }
    let variable = regex::Regex::new(r"\$\{?([a-z_]+)(?::[a-z]+)?\}?").expect("a fixed pattern");
    variable.replace_all(&text, ".*").into_owned()
}

/// What is wrong: a query that Prometheus refuses, a panel without data that should have some.
pub async fn check(day: &Day) -> Vec<String> {
    let mut problems = Vec::new();
    for (_, group) in rules::groups() {
        for rule in group.rules {
            day.stack.query(&day.scale.expression(&rule.expr), day.ended).await;
        }
    }
    let failing = day.stack.query("prometheus_rule_evaluation_failures_total", day.ended).await;
    assert!(failing.is_empty(), "Prometheus does not scrape itself here");
    problems.extend(rule_errors(day).await);

    let reasons = quiet();
    for file in alerting::files("dashboards", ".json") {
        let dashboard: Value =
            serde_json::from_str(&alerting::read(&format!("dashboards/{file}"))).expect("a dashboard is JSON");
        let uid = dashboard["uid"].as_str().unwrap_or_default().to_owned();
        let mut panels = Vec::new();
        collect(&dashboard["panels"], &mut panels);
        for panel in panels {
            let (id, title) = (panel["id"].as_u64().unwrap_or_default(), panel["title"].as_str().unwrap_or_default());
            let mut data = false;
            for target in panel["targets"].as_array().into_iter().flatten() {
                let Some(expression) = target["expr"].as_str() else { continue };
                let expression = day.scale.expression(&filled(expression));
                let from = day.started + 60.0;
                data |= match target["instant"].as_bool() {
                    Some(true) => !day.stack.query(&expression, day.ended - 60.0).await.is_empty(),
                    _ => !day.stack.query_range(&expression, from, day.ended, 5.0).await.is_empty(),
                };
            }
            let targets = panel["targets"]
                .as_array()
                .is_some_and(|targets| targets.iter().any(|target| target["expr"].is_string()));
            if targets && !data {
                match reasons.iter().find(|(own, panel, _)| *own == uid && *panel == id) {
                    Some((.., reason)) => eprintln!("empty: {uid} {id} {title}: {reason}"),
                    None => problems.push(format!("{uid}: panel {id}, {title:?}, has no data on the day of trouble")),
                }
            }
        }
    }
    problems
}

/// Panels that may be empty, and why: `quiet` in `dashboards/panels.yml`.
fn quiet() -> Vec<(String, u64, String)> {
    let Ok(text) = std::fs::read_to_string(alerting::repository("dashboards/panels.yml")) else { return Vec::new() };
    let list: Value = serde_saphyr::from_str(&text).expect("panels.yml is YAML");
    let panels = list["panels"].as_object().into_iter().flatten();
    panels
        .filter_map(|(_, panel)| {
            Some((panel["dashboard"].as_str()?.to_owned(), panel["id"].as_u64()?, panel["quiet"].as_str()?.to_owned()))
        })
        .collect()
}

fn collect<'a>(panels: &'a Value, into: &mut Vec<&'a Value>) {
    for panel in panels.as_array().into_iter().flatten() {
        into.push(panel);
        collect(&panel["panels"], into);
    }
}

/// Rules that Prometheus could not evaluate when it last tried.
async fn rule_errors(day: &Day) -> Vec<String> {
    let answer = crate::support::get(day.stack.prometheus, "/api/v1/rules").await.json();
    let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
    assert!(!groups.is_empty(), "Prometheus has the rules");
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten());
    let bad = rules.filter(|rule| rule["health"] != "ok");
    bad.map(|rule| format!("{}: {}", rule["name"], rule["lastError"])).collect()
}
