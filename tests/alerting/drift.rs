//! Nothing names what does not exist: metrics, labels and label values in rules, dashboards and documents are those of
//! `src/export/metrics/metrics.yaml` or recorded by a rule; and every exported family is used, or says why not.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::promql::{self, Matcher};
use super::{files, read, rules};

#[derive(Deserialize)]
struct List {
    metrics: Vec<Metric>,
}

#[derive(Deserialize)]
struct Metric {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    labels: BTreeMap<String, Value>,
}

/// Labels that Prometheus adds, or that a rule makes for itself.
const FOREIGN: &[&str] = &[
    "job",
    "instance",
    "le",
    "lookback",
    "bound",
    "alertname",
    "alertstate",
    "severity",
    "namespace",
    "pod",
    "runbook",
];
/// Series that others make.
const OTHERS: &[&str] = &["up", "ALERTS", "ALERTS_FOR_STATE", "scrape_duration_seconds", "scrape_samples_scraped"];

/// Everything that may be named.
struct Known {
    families: BTreeMap<String, Metric>,
    recorded: BTreeSet<String>,
}

impl Known {
    fn new() -> Self {
        let list: List =
            serde_saphyr::from_str(&read("src/export/metrics/metrics.yaml")).expect("metrics.yaml is YAML");
        let families = list.metrics.into_iter().map(|metric| (metric.name.clone(), metric)).collect();
        Self { families, recorded: rules::recorded().into_iter().collect() }
    }

    /// The family of a series name.
    fn family(&self, name: &str) -> Option<&Metric> {
        self.families.get(name).filter(|metric| metric.kind != "histogram").or_else(|| {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
            self.families.get(base).filter(|metric| metric.kind == "histogram")
        })
    }

    /// Any label at all.
    fn is_label(&self, label: &str) -> bool {
        FOREIGN.contains(&label)
            || label == "fault"
            || self.families.values().any(|metric| metric.labels.contains_key(label))
    }

    /// What is wrong with an expression, and the families that it uses.
    fn check(&self, expression: &str, used: &mut BTreeSet<String>) -> Vec<String> {
        let named = promql::named(expression);
        let mut problems = Vec::new();
        for label in &named.labels {
            if !self.is_label(label) {
                problems.push(format!("no metric has a label {label}"));
            }
        }
        for (name, matchers) in &named.selectors {
            if name.is_empty() {
                for matcher in matchers.iter().filter(|matcher| matcher.label == "__name__") {
                    problems.extend(self.wrong_names(&matcher.value, used));
                }
                continue;
            }
            match self.family(name) {
                Some(metric) => {
                    used.insert(metric.name.clone());
                    problems.extend(matchers.iter().filter_map(|matcher| wrong_match(metric, matcher)));
                }
                None if self.recorded.contains(name) => {
                    used.insert(name.clone());
                    problems.extend(self.wrong_in_recorded(name, matchers));
                }
                None if OTHERS.contains(&name.as_str()) => {}
                None => problems.push(format!("no metric is called {name}")),
            }
        }
        problems
    }

    /// Metrics matched by a pattern: each alternative must be one.
    fn wrong_names(&self, pattern: &str, used: &mut BTreeSet<String>) -> Vec<String> {
        let (exist, dead): (Vec<_>, Vec<_>) =
            alternatives(pattern).into_iter().partition(|name| self.families.contains_key(name));
        used.extend(exist);
        dead.into_iter().map(|name| format!("no metric is called {name}")).collect()
    }

    fn wrong_in_recorded(&self, name: &str, matchers: &[Matcher]) -> Vec<String> {
        // Values are those of whichever metric the label comes from.
        let check = |matcher: &Matcher| {
            if !self.is_label(&matcher.label) {
                return Some(format!("{name} has no label {}", matcher.label));
            }
            let mut owners =
                self.families.values().filter(|metric| metric.labels.contains_key(&matcher.label)).peekable();
            let first = *owners.peek()?;
            owners.all(|metric| wrong_match(metric, matcher).is_some()).then(|| wrong_match(first, matcher)).flatten()
        };
        matchers.iter().filter_map(check).collect()
    }
}

/// Why a matcher can never do what it is there for: no such label, or a value that the closed set does not have.
fn wrong_match(metric: &Metric, matcher: &Matcher) -> Option<String> {
    let Matcher { label, op, value } = matcher;
    let Some(values) = metric.labels.get(label) else {
        return (!FOREIGN.contains(&label.as_str())).then(|| format!("{} has no label {label}", metric.name));
    };
    let values = values.as_array()?;
    if value.contains('$') || value.is_empty() {
        return None;
    }
    let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
    let alternatives = if op.ends_with('~') { alternatives(value) } else { vec![regex::escape(value)] };
    let dead: Vec<_> = alternatives
        .into_iter()
        .filter(|pattern| {
            let regex =
                regex::Regex::new(&format!("^(?:{pattern})$")).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            !values.iter().any(|value| regex.is_match(value))
        })
        .collect();
    (!dead.is_empty()).then(|| format!("{label} of {} is never {dead:?}", metric.name))
}

/// The alternatives of a pattern, one group in parentheses multiplied out.
fn alternatives(pattern: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in pattern.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    let expand = |part: String| match (part.find('('), part.find(')')) {
        (Some(open), Some(close)) if open < close => {
            let (before, inside, after) = (&part[..open], &part[open + 1..close], &part[close + 1..]);
            inside.trim_start_matches("?:").split('|').map(|one| format!("{before}{one}{after}")).collect()
        }
        _ => vec![part],
    };
    parts.into_iter().flat_map(expand).collect()
}

/// One query of a dashboard.
pub struct Query {
    /// File and panel, for messages.
    pub place: String,
    /// PromQL with variables.
    pub expression: String,
}

/// All queries of `dashboards/*.json`: targets of panels, and variables.
pub fn dashboard_queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for file in files("dashboards", ".json") {
        let Ok(dashboard) = serde_json::from_str::<Value>(&read(&format!("dashboards/{file}"))) else {
            panic!("dashboards/{file} is not JSON")
        };
        collect(&dashboard, &file, &mut queries);
    }
    queries
}

fn collect(value: &Value, place: &str, into: &mut Vec<Query>) {
    match value {
        Value::Object(map) => {
            let title = map.get("title").and_then(Value::as_str).filter(|_| map.contains_key("targets"));
            let place = title.map_or_else(|| place.to_owned(), |title| format!("{place}: {title}"));
            for (name, inner) in map {
                match inner.as_str() {
                    Some(text) if name == "expr" || name == "query" && text.contains("keytally_") => {
                        into.push(Query { place: place.clone(), expression: text.to_owned() });
                    }
                    _ => collect(inner, &place, into),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| collect(inner, place, into)),
        _ => {}
    }
}

/// `label_values(selector, label)` of a variable, as a selector and its label.
fn variable(expression: &str) -> Option<(String, String)> {
    let inside = expression.trim().strip_prefix("label_values(")?.strip_suffix(')')?;
    let (selector, label) = inside.rsplit_once(',')?;
    Some((selector.trim().to_owned(), label.trim().to_owned()))
}

#[test]
fn rules_and_dashboards_name_only_what_exists() {
    let known = Known::new();
    let mut problems = Vec::new();
    let mut used = BTreeSet::new();
    for (file, group) in rules::groups() {
        for rule in group.rules {
            let name = rule.record.as_deref().or(rule.alert.as_deref()).unwrap_or_default();
            problems
                .extend(known.check(&rule.expr, &mut used).into_iter().map(|what| format!("{file}: {name}: {what}")));
        }
    }
    for Query { place, expression } in dashboard_queries() {
        let (selector, label) =
            variable(&expression).map_or((expression, None), |(selector, label)| (selector, Some(label)));
        problems.extend(known.check(&selector, &mut used).into_iter().map(|what| format!("{place}: {what}")));
        problems.extend(label.filter(|label| !known.is_label(label)).map(|label| format!("{place}: no label {label}")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_family_and_every_record_is_used_or_says_why_not() {
    let known = Known::new();
    let mut used = BTreeSet::new();
    for (_, group) in rules::groups() {
        for rule in group.rules {
            known.check(&rule.expr, &mut used);
        }
    }
    let queries = dashboard_queries();
    for Query { expression, .. } in &queries {
        known.check(&variable(expression).map_or_else(|| expression.clone(), |(selector, _)| selector), &mut used);
    }
    // Without dashboards only the rules can be judged.
    if queries.is_empty() {
        return;
    }
    let reasons: BTreeMap<String, String> =
        serde_saphyr::from_str(&read("dashboards/unused.yml")).expect("dashboards/unused.yml is YAML");
    let mut problems = Vec::new();
    for (name, reason) in &reasons {
        if !known.families.contains_key(name) && !known.recorded.contains(name) {
            problems.push(format!("{name} is for ad-hoc use, but does not exist"));
        }
        if reason.len() < 10 {
            problems.push(format!("{name}: say why"));
        }
        if used.contains(name) {
            problems.push(format!("{name} is said to be for ad-hoc use, but a rule or panel uses it"));
        }
    }
    for name in known.families.keys().chain(&known.recorded) {
        if !used.contains(name) && !reasons.contains_key(name) {
            problems
                .push(format!("{name} is used by no panel and no alert: use it, or list it in dashboards/unused.yml"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Names in the documents: `keytally_…` is a family, its parts, or a family's beginning with `*` or `…` after it.
#[test]
fn documents_name_only_metrics_that_exist() {
    let known = Known::new();
    let name = regex::Regex::new(r"[a-z_]*:?keytally_[a-z0-9_]+(:[a-z0-9_]+)?").unwrap();
    let mut problems = Vec::new();
    let mut seen = 0;
    let documents = files("docs", ".md").into_iter().map(|file| format!("docs/{file}")).chain(["README.md".to_owned()]);
    for document in documents {
        let text = read(&document);
        for found in name.find_iter(&text) {
            let (before, after) = (text[..found.start()].chars().next_back(), text[found.end()..].chars().next());
            // Part of a path (of a file or a test), a variable or a file name.
            if before.is_some_and(|c| matches!(c, '/' | '-' | '.' | '$' | ':'))
                || after.is_some_and(|c| matches!(c, '.' | '-' | '/'))
                    && text[found.end()..].chars().nth(1).is_some_and(char::is_alphabetic)
            {
                continue;
            }
            seen += 1;
            let word = found.as_str().trim_start_matches('_');
            let open = word.ends_with('_') || matches!(after, Some('*' | '…' | '{'));
            let exists = known.family(word).is_some()
                || known.families.contains_key(word)
                || known.recorded.contains(word)
                || open && known.families.keys().chain(&known.recorded).any(|name| name.starts_with(word));
            if !exists {
                problems.push(format!("{document}: no metric is called {word}"));
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A first fix that names a setting which is not there helps nobody.
#[test]
fn first_fixes_name_settings_that_exist() {
    let setting =
        regex::Regex::new(r"(?:^|[^./\w])((?:limits|listen|metrics|tls|forward|trace|usage|upstream)\.[a-z_]+)")
            .unwrap();
    let documented = read("docs/configuration.md");
    let rules = files(rules::DIRECTORY, ".yml").into_iter().map(|file| format!("{}/{file}", rules::DIRECTORY));
    let boards = files("dashboards", ".json").into_iter().map(|file| format!("dashboards/{file}"));
    let mut seen = 0;
    for file in rules.chain(boards).chain(["docs/runbook.md".to_owned()]) {
        let text = read(&file);
        for found in setting.captures_iter(&text) {
            seen += 1;
            assert!(documented.contains(&format!("| `{}` |", &found[1])), "{file}: no setting is called {}", &found[1]);
        }
    }
    assert!(seen > 10, "{seen}");
}

/// Where an alert leads: dashboard and panel are there once dashboards are.
#[test]
fn alerts_lead_to_panels_that_exist() {
    let mut panels: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for file in files("dashboards", ".json") {
        let dashboard: Value = serde_json::from_str(&read(&format!("dashboards/{file}"))).expect("a dashboard is JSON");
        let Some(uid) = dashboard["uid"].as_str().or_else(|| dashboard["metadata"]["name"].as_str()) else { continue };
        let ids = panels.entry(uid.to_owned()).or_default();
        panel_ids(&dashboard, ids);
    }
    if panels.is_empty() {
        return;
    }
    let mut problems = Vec::new();
    for rule in rules::alerts() {
        let (name, url) = (rule.alert.unwrap(), &rule.annotations["dashboard_url"]);
        let uid = url.strip_prefix("/d/").and_then(|rest| rest.split('?').next()).unwrap_or_default();
        let panel = url.split("viewPanel=panel-").nth(1).and_then(|id| id.parse().ok());
        match (panels.get(uid), panel) {
            (None, _) => problems.push(format!("{name}: no dashboard has the uid {uid}")),
            (Some(_), None) => problems.push(format!("{name}: its link names no panel")),
            (Some(ids), Some(panel)) if !ids.contains(&panel) => {
                problems.push(format!("{name}: {uid} has no panel {panel}"))
            }
            _ => {}
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn panel_ids(value: &Value, into: &mut BTreeSet<u64>) {
    match value {
        Value::Object(map) => {
            if let (Some(id), true) =
                (map.get("id").and_then(Value::as_u64), map.contains_key("type") || map.contains_key("vizConfig"))
            {
                into.insert(id);
            }
            map.values().for_each(|inner| panel_ids(inner, into));
        }
        Value::Array(list) => list.iter().for_each(|inner| panel_ids(inner, into)),
        _ => {}
    }
}
