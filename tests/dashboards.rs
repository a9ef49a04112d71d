//! The shipped dashboards: what `dashboards/generate.py` writes, importable as they are, true to the metrics' list.
//!
//! In: `dashboards/*.json`, `dashboards/panels.yml`, the metrics' list, the rules.

pub mod pictures;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use keytally::call::Finding;
use serde::Deserialize;
use serde_json::Value;

use crate::support::{skip, tool};

/// One panel as `panels.yml` lists it.
#[derive(Debug, Deserialize)]
pub struct Listed {
    /// Its dashboard's uid.
    pub dashboard: String,
    /// Its id there.
    pub id: u64,
    /// Its title.
    pub title: String,
    /// The question that it helps to answer.
    pub row: String,
    /// Why it may be empty.
    pub quiet: Option<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The dashboards by file name without ending.
fn dashboards() -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(root().join("dashboards")).expect("dashboards/");
    files
        .map(|file| file.expect("directory entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .map(|path| {
            let name = path.file_stem().expect("file name").to_string_lossy().into_owned();
            (name, serde_json::from_str(&read(path)).expect("JSON"))
        })
        .collect()
}

fn listed() -> BTreeMap<String, Listed> {
    #[derive(Deserialize)]
    struct File {
        panels: BTreeMap<String, Listed>,
    }
    serde_saphyr::from_str::<File>(&read("dashboards/panels.yml")).expect("panels.yml").panels
}

/// All panels but rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().expect("panels").iter().filter(|panel| panel["type"] != "row").collect()
}

fn expressions(dashboard: &Value) -> Vec<&str> {
    let targets = panels(dashboard).into_iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("expr")).collect()
}

/// Every string in a document.
fn strings<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(all) => all.iter().for_each(|one| strings(one, found)),
        Value::Object(all) => all.values().for_each(|one| strings(one, found)),
        _ => {}
    }
}

/// Names of metrics in an expression: ours, the process's, and recorded ones with their colons.
fn metrics(expression: &str) -> BTreeSet<String> {
    let names =
        regex::Regex::new(r"\b(?:[a-z_]+:)?(?:keytally|process)_[a-z0-9_]+(?::[a-z0-9_]+)?\b").expect("pattern");
    names.find_iter(expression).map(|name| name.as_str().to_owned()).collect()
}

/// Family of a name as it is queried: without what histograms add.
fn family(name: &str) -> &str {
    ["_bucket", "_count", "_sum"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

fn families() -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct List {
        metrics: Vec<Family>,
    }
    #[derive(Deserialize)]
    struct Family {
        name: String,
    }
    let list: List = serde_saphyr::from_str(keytally::export::metrics::LIST).expect("metrics.yaml");
    list.metrics.into_iter().map(|family| family.name).collect()
}

/// The rule files, empty where there are none yet.
fn rules() -> Vec<String> {
    let Ok(files) = std::fs::read_dir(root().join("deploy/prometheus/rules")) else { return Vec::new() };
    files.map(|file| read(file.expect("directory entry").path())).collect()
}

#[test]
fn the_files_are_what_the_generator_writes() {
    let Some(python) = tool("venv/bin/python") else { return skip("the Python tools") };
    let checked =
        Command::new(python).arg(root().join("dashboards/generate.py")).arg("--check").output().expect("python");
    assert!(checked.status.success(), "run dashboards/generate.py: {}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn they_can_be_imported_without_questions() {
    let all = dashboards();
    let expected = ["keytally-keys", "keytally-latency", "keytally-overview", "keytally-sidecar", "keytally-spend"];
    assert_eq!(all.keys().collect::<Vec<_>>(), expected, "links and alerts point at these");
    for (name, dashboard) in &all {
        assert_eq!(dashboard["uid"], name.as_str());
        assert!(dashboard.get("__inputs").is_none() && dashboard.get("id").is_none(), "{name}: only for one Grafana");
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            assert!(ids.insert(panel["id"].as_u64().expect("id")), "{name}: two panels {}", panel["id"]);
        }
        for panel in panels(dashboard) {
            let place = format!("{name}: {}", panel["title"]);
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{place}");
            assert!(
                panel["description"].as_str().is_some_and(|text| text.len() > 20),
                "{place}: says nothing of itself"
            );
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string() || panel["type"] == "table",
                "{place}: no unit"
            );
            for target in panel["targets"].as_array().expect("targets") {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{place}");
            }
        }
        let mut texts = Vec::new();
        strings(dashboard, &mut texts);
        assert!(texts.iter().all(|text| !text.contains("${DS_")), "{name}: resolved by the import dialog only");
        assert!(dashboard["links"].as_array().is_some_and(|links| links.len() >= 2), "{name}: no way to the others");
    }
}

#[test]
fn each_panel_is_listed_under_its_question() {
    let all = dashboards();
    let listed = listed();
    let mut known: BTreeSet<(String, u64)> = BTreeSet::new();
    for (slug, panel) in &listed {
        let found = panels(&all[&panel.dashboard]).into_iter().find(|one| one["id"] == panel.id);
        assert_eq!(found.unwrap_or_else(|| panic!("{slug}: not there"))["title"], panel.title.as_str());
        assert!(panel.row.ends_with('?'), "{slug}: its row asks nothing: {}", panel.row);
        known.insert((panel.dashboard.clone(), panel.id));
    }
    assert_eq!(known.len(), all.values().map(|dashboard| panels(dashboard).len()).sum::<usize>());
}

#[test]
fn they_link_to_traces_the_runbook_and_each_other() {
    for (name, dashboard) in &dashboards() {
        let mut texts = Vec::new();
        strings(dashboard, &mut texts);
        let has = |wanted: &str| texts.iter().any(|text| text.contains(wanted));
        assert!(has("${runbook}"), "{name}: no way to the runbook");
        if name != "keytally-sidecar" {
            assert!(has("/explore?schemaVersion=1"), "{name}: no way to traces");
        }
        for link in texts.iter().filter_map(|text| text.strip_prefix("/d/")) {
            let uid = link.split(['?', '/']).next().expect("uid");
            assert!(dashboards().contains_key(uid), "{name}: a link to {uid}, which is not there");
        }
        // A link is one address: variables stay, all else is encoded, and decoded it is the JSON that Explore reads.
        for link in texts.iter().filter(|text| text.starts_with("/explore")) {
            let panes = link.split_once("panes=").expect("panes").1;
            let decoded = percent_encoding::percent_decode_str(panes).decode_utf8().expect("UTF-8");
            let panes: Value = serde_json::from_str(&decoded).unwrap_or_else(|error| panic!("{error} in {decoded}"));
            assert_eq!(panes["traces"]["queries"][0]["queryType"], "traceql");
        }
    }
}

#[test]
fn first_fixes_are_the_meters_own() {
    let outcomes: Value = serde_json::from_str(&read("src/meter/outcomes.json")).expect("outcomes.json");
    let all = dashboards();
    let mut texts = Vec::new();
    strings(&all["keytally-keys"], &mut texts);
    for (outcome, entry) in outcomes["outcomes"].as_object().expect("outcomes") {
        let fix = entry["fix"].as_str().expect("fix");
        assert!(outcome == "ok" || texts.contains(&fix), "{outcome}: no {fix:?} in Key health");
    }
    let panel = panels(&all["keytally-keys"])
        .into_iter()
        .find(|panel| panel["title"].as_str().unwrap().starts_with("What can be said"));
    let text = panel.expect("the table of findings").to_string();
    for finding in Finding::ALL {
        assert!(text.contains(&format!("\"{finding}\":")), "{finding} has no first fix in the table of findings");
    }
}

#[test]
fn every_metric_in_a_panel_exists_and_every_family_is_used() {
    let families = families();
    let rules = rules();
    let recorded: BTreeSet<String> = rules
        .iter()
        .flat_map(|file| file.lines())
        .filter_map(|line| line.trim().strip_prefix("- record: ").map(str::to_owned))
        .collect();
    let mut used = BTreeSet::new();
    for (name, dashboard) in &dashboards() {
        for name_used in expressions(dashboard).into_iter().flat_map(metrics) {
            if name_used.contains(':') {
                assert!(rules.is_empty() || recorded.contains(&name_used), "{name}: no rule records {name_used}");
            } else {
                assert!(families.contains(family(&name_used)), "{name}: keytally exports no {name_used}");
                used.insert(family(&name_used).to_owned());
            }
        }
    }
    for file in &rules {
        used.extend(metrics(file).iter().map(|name| family(name).to_owned()));
    }
    let spared: BTreeMap<String, String> = serde_saphyr::from_str(&read("dashboards/unused.yml")).expect("unused.yml");
    let idle: Vec<_> = families.iter().filter(|name| !used.contains(*name) && !spared.contains_key(*name)).collect();
    assert!(idle.is_empty(), "in no panel and no rule, and without a reason in dashboards/unused.yml: {idle:?}");
    let stale: Vec<_> = spared.keys().filter(|name| used.contains(*name) || !families.contains(*name)).collect();
    assert!(stale.is_empty(), "in dashboards/unused.yml, but used or gone: {stale:?}");
}
