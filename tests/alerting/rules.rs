//! The rule files of `deploy/prometheus/rules`, as Prometheus reads them.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Where they are.
pub const DIRECTORY: &str = "deploy/prometheus/rules";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    groups: Vec<Group>,
}

/// Rules that are evaluated one after the other.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Unique over all files.
    pub name: String,
    /// Duration between two evaluations.
    pub interval: String,
    /// In order.
    pub rules: Vec<Rule>,
}

/// A recording rule or an alert.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name of the recorded series.
    pub record: Option<String>,
    /// Name of the alert.
    pub alert: Option<String>,
    /// PromQL.
    pub expr: String,
    /// How long the expression must hold before it fires.
    #[serde(rename = "for")]
    pub pending: Option<String>,
    /// How long it goes on after the expression held last.
    pub keep_firing_for: Option<String>,
    /// Labels besides those of the expression.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Texts.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Rule {
    /// What tells alerts of one name apart, for instance `1h` or `month-100`; empty for most.
    pub fn variant(&self) -> String {
        let parts = ["window", "period", "threshold"].into_iter().filter_map(|name| self.labels.get(name));
        parts.map(String::as_str).collect::<Vec<_>>().join("-")
    }
}

/// All groups, with the file that they are in.
#[track_caller]
pub fn groups() -> Vec<(String, Group)> {
    let mut groups = Vec::new();
    for file in super::files(DIRECTORY, ".yml") {
        let text = super::read(&format!("{DIRECTORY}/{file}"));
        let parsed: File = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        groups.extend(parsed.groups.into_iter().map(|group| (file.clone(), group)));
    }
    assert!(groups.len() >= 10, "the rule files are there");
    groups
}

/// All alerts, in order of the files.
#[track_caller]
pub fn alerts() -> Vec<Rule> {
    groups().into_iter().flat_map(|(_, group)| group.rules).filter(|rule| rule.alert.is_some()).collect()
}

/// Names of all recorded series.
#[track_caller]
pub fn recorded() -> Vec<String> {
    groups().into_iter().flat_map(|(_, group)| group.rules).filter_map(|rule| rule.record).collect()
}

#[test]
fn every_alert_says_what_is_wrong_and_what_to_do() {
    let mut problems = Vec::new();
    for rule in alerts() {
        let name = rule.alert.unwrap();
        let mut expect = |holds: bool, what: &str| {
            if !holds {
                problems.push(format!("{name}: {what}"));
            }
        };
        let severity = rule.labels.get("severity").map(String::as_str);
        expect(matches!(severity, Some("critical" | "warning" | "info")), "severity is critical, warning or info");
        let faults =
            ["key", "config", "traffic", "account", "provider", "network", "client", "unknown", "spend", "sidecar"];
        expect(rule.labels.get("fault").is_some_and(|fault| faults.contains(&fault.as_str())), "fault is a known one");
        let keys: Vec<&str> = rule.annotations.keys().map(String::as_str).collect();
        expect(
            keys == ["dashboard_url", "description", "first_fix", "runbook_url", "summary"],
            "has the five annotations",
        );
        let text = |name: &str| rule.annotations.get(name).map_or("", String::as_str);
        expect(
            text("runbook_url").ends_with(&format!("docs/runbook.md#{}", name.to_lowercase())),
            "runbook_url is its anchor",
        );
        expect(!text("summary").contains('\n') && text("summary").len() < 200, "summary is one line");
        expect(text("first_fix").ends_with(['.', '?']) && !text("first_fix").contains("{{"), "first_fix is a sentence");
        expect(
            !rule.expr.contains("(team, env) key:keytally_key_owner:info") || text("summary").contains("$labels.key"),
            "summary names the key",
        );
        expect(!rule.labels.values().any(|value| value.contains('$')), "labels are fixed");
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
