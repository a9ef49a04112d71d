//! What is made from the rule files: Grafana-managed alerts and a `PrometheusRule`. Never edited by hand;
//! `KEYTALLY_WRITE_DOCS=1 cargo test docum` writes both.
//!
//! Grafana gets the alerts only: recording rules stay where the data is. One shape serves all: A is the expression, B is 1 for
//! every series that A gives back, whatever its value. In a provisioned file `$` starts a variable, so annotations have `$$`;
//! queries are taken as they stand. Grafana's `$value` is a text, so the number of A is named instead.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use super::rules::{self, Rule};

const GRAFANA: &str = "deploy/grafana/provisioning/alerting/keytally.yml";
const KUBERNETES: &str = "deploy/kubernetes/monitoring/prometheus-rule.yaml";
const MADE: &str = "# Made from deploy/prometheus/rules; `KEYTALLY_WRITE_DOCS=1 cargo test docum` writes it.\n";

#[test]
fn documents_made_from_the_rules_are_fresh() {
    for (path, made) in [(GRAFANA, grafana()), (KUBERNETES, kubernetes())] {
        let file = super::repository(path);
        if std::env::var_os("KEYTALLY_WRITE_DOCS").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, made).unwrap();
        } else {
            let old = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(old == made, "{path} is stale: run KEYTALLY_WRITE_DOCS=1 cargo test docum");
        }
    }
}

/// `keytally-` and the name in small letters, words joined by hyphens; at most 40 characters.
fn uid(rule: &Rule) -> String {
    let name = rule.alert.as_deref().unwrap().strip_prefix("Keytally").expect("names begin with Keytally");
    let mut uid = "keytally".to_owned();
    let mut before_small = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && before_small || uid == "keytally" {
            uid.push('-');
        }
        before_small = c.is_ascii_lowercase();
        uid.push(c.to_ascii_lowercase());
    }
    let variant = rule.variant();
    if variant.is_empty() { uid } else { format!("{uid}-{variant}") }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// As Grafana expands it back: `$$` is `$`.
fn for_grafana(annotation: &str) -> String {
    annotation.replace("$value", "$values.A.Value").replace('$', "$$")
}

fn grafana() -> String {
    let mut out = format!(
        "{MADE}# The data source is the Prometheus with uid `prometheus`, which has the recording rules loaded.\n\
         apiVersion: 1\ngroups:\n"
    );
    for (_, group) in rules::groups() {
        let alerts: Vec<_> = group.rules.iter().filter(|rule| rule.alert.is_some()).collect();
        if alerts.is_empty() {
            continue;
        }
        let _ = write!(
            out,
            "  - orgId: 1\n    name: {}\n    folder: keytally\n    interval: {}\n    rules:\n",
            group.name, group.interval
        );
        for rule in alerts {
            grafana_rule(&mut out, rule);
        }
    }
    out
}

fn grafana_rule(out: &mut String, rule: &Rule) {
    let name = rule.alert.as_deref().unwrap();
    // Titles are unique in a folder, alerts of one name and several windows are not: the label has the name.
    let variant = rule.variant();
    let title = if variant.is_empty() { name.to_owned() } else { format!("{name} ({})", variant.replace('-', ", ")) };
    let _ = write!(out, "      - uid: {}\n        title: {title}\n        condition: B\n        data:\n", uid(rule));
    out.push_str("          - refId: A\n            relativeTimeRange: {from: 600, to: 0}\n            datasourceUid: prometheus\n");
    out.push_str(
        "            model:\n              refId: A\n              instant: true\n              range: false\n",
    );
    out.push_str("              expr: |-\n");
    for line in rule.expr.trim_end().lines() {
        let _ = writeln!(out, "                {line}");
    }
    out.push_str("          - refId: B\n            relativeTimeRange: {from: 600, to: 0}\n            datasourceUid: __expr__\n");
    out.push_str("            model: {refId: B, type: math, expression: is_number($A)}\n");
    // No series means that nothing is wrong. KeytallyAbsent is built on absent(), which has a series when others have none.
    out.push_str("        noDataState: OK\n        execErrState: Error\n        missing_series_evals_to_resolve: 3\n");
    let _ = writeln!(out, "        for: {}", rule.pending.as_deref().unwrap_or("0s"));
    if let Some(keep) = &rule.keep_firing_for {
        let _ = writeln!(out, "        keepFiringFor: {keep}");
    }
    let url = &rule.annotations["dashboard_url"];
    let dashboard = url.trim_start_matches("/d/").split('?').next().unwrap();
    let _ = writeln!(out, "        dashboardUid: {dashboard}");
    if let Some(panel) = url.split("viewPanel=panel-").nth(1) {
        let _ = writeln!(out, "        panelId: {panel}");
    }
    out.push_str("        labels:\n");
    for (label, value) in &rule.labels {
        let _ = writeln!(out, "          {label}: {}", quoted(value));
    }
    out.push_str("        annotations:\n");
    for (annotation, text) in &rule.annotations {
        let _ = writeln!(out, "          {annotation}: {}", quoted(&for_grafana(text)));
    }
}

/// The files as they are, comments included, one after the other under `spec.groups`.
fn kubernetes() -> String {
    let mut out = format!(
        "{MADE}# The operator takes it when its labels match `ruleSelector` of the Prometheus; many are installed with a `release` label.\n\
         apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: keytally\n  labels:\n    \
         app.kubernetes.io/name: keytally\nspec:\n  groups:\n"
    );
    for file in super::files(rules::DIRECTORY, ".yml") {
        let text = super::read(&format!("{}/{file}", rules::DIRECTORY));
        let (_, groups) = text.split_once("groups:\n").expect("a rule file has groups");
        for line in groups.lines() {
            let _ = if line.is_empty() { writeln!(out) } else { writeln!(out, "  {line}") };
        }
    }
    out
}

#[derive(Deserialize)]
struct Provisioned {
    groups: Vec<ProvisionedGroup>,
}

#[derive(Deserialize)]
struct ProvisionedGroup {
    name: String,
    interval: String,
    rules: Vec<ProvisionedRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProvisionedRule {
    uid: String,
    title: String,
    data: Vec<serde_json::Value>,
    #[serde(rename = "for")]
    pending: String,
    keep_firing_for: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// Read back as Grafana does, every alert says the same as in Prometheus.
#[test]
fn grafana_has_the_same_alerts() {
    let file: Provisioned = serde_saphyr::from_str(&super::read(GRAFANA)).expect("it is YAML");
    let theirs: Vec<_> =
        file.groups.iter().flat_map(|group| group.rules.iter().map(move |rule| (group, rule))).collect();
    let groups = rules::groups();
    let ours = groups.iter().flat_map(|(_, group)| group.rules.iter().map(move |rule| (group, rule)));
    let ours: Vec<_> = ours.filter(|(_, rule)| rule.alert.is_some()).collect();
    assert_eq!(ours.len(), theirs.len());
    let mut uids = std::collections::BTreeSet::new();
    let mut titles = std::collections::BTreeSet::new();
    for ((group, rule), (their_group, their)) in ours.into_iter().zip(theirs) {
        let name = rule.alert.as_deref().unwrap();
        assert_eq!((&group.name, &group.interval), (&their_group.name, &their_group.interval));
        assert!(their.title.starts_with(name), "{}", their.title);
        assert!(their.uid.len() <= 40 && uids.insert(&their.uid) && titles.insert(&their.title), "{}", their.uid);
        assert_eq!(their.data[0]["model"]["expr"].as_str(), Some(rule.expr.trim_end()), "{name}");
        assert_eq!(their.data[1]["model"]["expression"], "is_number($A)");
        assert_eq!(their.pending, rule.pending.clone().unwrap_or_else(|| "0s".to_owned()), "{name}");
        assert_eq!(their.keep_firing_for, rule.keep_firing_for, "{name}");
        assert_eq!(their.labels, rule.labels, "{name}");
        let expanded = |text: &String| text.replace("$$", "\u{0}").replace('$', "lost").replace('\u{0}', "$");
        let back: BTreeMap<_, _> = their
            .annotations
            .iter()
            .map(|(name, text)| (name.clone(), expanded(text).replace("$values.A.Value", "$value")))
            .collect();
        assert_eq!(back, rule.annotations, "{name}");
    }
}

#[derive(Deserialize)]
struct Manifest {
    kind: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    groups: Vec<rules::Group>,
}

#[test]
fn the_manifest_has_the_same_rules() {
    let manifest: Manifest = serde_saphyr::from_str(&super::read(KUBERNETES)).expect("it is YAML");
    assert_eq!(manifest.kind, "PrometheusRule");
    let ours: Vec<_> = rules::groups().into_iter().map(|(_, group)| group).collect();
    assert_eq!(format!("{:?}", manifest.spec.groups), format!("{ours:?}"));
}
