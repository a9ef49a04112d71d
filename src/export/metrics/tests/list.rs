//! What is shown against the published list, both ways.

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    metrics: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    unit: String,
    stability: String,
    #[serde(default)]
    start: bool,
    #[serde(default)]
    buckets: Vec<f64>,
    #[serde(default)]
    labels: serde_json::Map<String, serde_json::Value>,
}

impl Listed {
    /// `None` for an open set.
    fn values(&self, label: &str) -> Option<BTreeSet<String>> {
        let values = match &self.labels[label] {
            serde_json::Value::Array(values) => values,
            open => {
                assert_eq!(open, "open", "{}: {label}", self.name);
                return None;
            }
        };
        Some(values.iter().map(|value| value.as_str().expect("label values are strings").to_owned()).collect())
    }
}

fn list() -> BTreeMap<String, Listed> {
    let list: List = serde_saphyr::from_str(LIST).unwrap();
    list.metrics.into_iter().map(|listed| (listed.name.clone(), listed)).collect()
}

#[test]
fn families_are_the_list_both_ways() {
    let list = list();
    let names: BTreeSet<_> = FAMILIES.iter().map(|family| family.name.to_owned()).collect();
    assert_eq!(names.len(), FAMILIES.len(), "a name twice");
    assert_eq!(names, list.keys().cloned().collect());
    for family in FAMILIES {
        let listed = &list[family.name];
        assert_eq!(family.kind.as_str(), listed.kind, "{}", family.name);
        assert_eq!(family.unit, listed.unit, "{}", family.name);
        assert_eq!(family.stability.as_str(), listed.stability, "{}", family.name);
        let labels: Vec<_> = listed.labels.keys().map(String::as_str).collect();
        assert_eq!(family.labels, labels, "{}", family.name);
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        assert!(family.base_name().ends_with(family.unit), "OpenMetrics: {} must end in its unit", family.name);
        assert!(family.help.ends_with('.'), "{}", family.name);
    }
}

#[test]
fn buckets_are_the_list() {
    let list = list();
    for (name, bounds, scale) in [
        ("keytally_request_duration_seconds", &families::DURATION_BUCKETS[..], 1e9),
        ("keytally_time_to_first_token_seconds", &families::FIRST_TOKEN_BUCKETS, 1e9),
        ("keytally_time_per_output_token_seconds", &families::PER_TOKEN_BUCKETS, 1e9),
        ("keytally_request_tokens", &families::SIZE_BUCKETS, 1.0),
        ("keytally_overhead_seconds", &families::OVERHEAD_BUCKETS, 1e9),
    ] {
        let written: Vec<f64> = bounds.iter().map(|bound| bound.le.parse().unwrap()).collect();
        assert_eq!(written, list[name].buckets, "{name}");
        for bound in bounds {
            assert_eq!((bound.le.parse::<f64>().unwrap() * scale).round() as u64, bound.at, "{name} {}", bound.le);
            // The canonical numbers of OpenMetrics: a point or an exponent, exponents of two digits.
            let (mantissa, exponent) = bound.le.split_once('e').unwrap_or((bound.le, "+00"));
            assert!(mantissa.contains('.') || bound.le.contains('e'), "{}", bound.le);
            assert_eq!(exponent.len(), 3, "{}", bound.le);
        }
        assert!(bounds.is_sorted_by(|a, b| a.at < b.at), "{name}");
    }
    let with_buckets = list.values().filter(|listed| !listed.buckets.is_empty()).count();
    assert_eq!(with_buckets, list.values().filter(|listed| listed.kind == "histogram").count());
}

#[test]
fn the_documentation_is_the_list() {
    let text = include_str!("../../../../docs/metrics.md");
    let mut documented = BTreeSet::new();
    let list = list();
    let word = |cell: &str| cell.trim().trim_matches('`').to_owned();
    for line in text.lines().filter(|line| line.starts_with("| `keytally_") || line.starts_with("| `process_")) {
        let cells: Vec<_> = line.split(" | ").collect();
        if cells.len() < 4 {
            continue; // The table of buckets.
        }
        let (name, mark) = cells[0].trim_start_matches("| ").rsplit_once(' ').unwrap();
        let listed = list.get(&word(name)).unwrap_or_else(|| panic!("not in the list: {name}"));
        assert!(documented.insert(word(name)), "twice: {name}");
        assert_eq!(mark, if listed.stability == "stable" { "S" } else { "E" }, "{name}");
        assert_eq!(cells[1].split(',').next().unwrap(), listed.kind, "{name}");
        let labels: Vec<_> = cells[2].split(',').map(word).filter(|label| label != "–").collect();
        assert_eq!(labels, listed.labels.keys().cloned().collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(documented, list.keys().cloned().collect());
    for listed in list.values() {
        for label in listed.labels.keys() {
            let row = text.lines().filter(|line| line.starts_with(&format!("| `{label}`")));
            let Some(values) = listed.values(label) else {
                assert!(
                    text.contains(&format!("- `{label}`"))
                        || ["fingerprint", "team", "env", "version", "revision"].contains(&&**label),
                    "label {label} is not explained"
                );
                continue;
            };
            let sets: Vec<BTreeSet<String>> = row
                .map(|line| line.split(" | ").nth(1).unwrap().trim_end_matches(" |").split(", ").map(word).collect())
                .collect();
            assert!(sets.contains(&values), "{}: values of {label}: {sets:?}", listed.name);
        }
    }
}

/// Series name without a histogram's suffix.
fn family_of<'a>(list: &'a BTreeMap<String, Listed>, name: &str) -> &'a Listed {
    let stem = || ["_bucket", "_sum", "_count"].iter().find_map(|suffix| list.get(name.strip_suffix(suffix)?));
    list.get(name).or_else(stem).unwrap_or_else(|| panic!("not in the list: {name}"))
}

#[test]
fn what_is_shown_is_listed_and_what_is_listed_is_shown() {
    let list = list();
    let (metrics, _) = with_clock(config());
    everything(&metrics);
    let mut shown: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let mut families = BTreeSet::new();
    for ((name, mut labels), _) in scrape(&metrics) {
        let listed = family_of(&list, &name);
        families.insert(listed.name.clone());
        if name.ends_with("_bucket") {
            let le = labels.remove("le").unwrap();
            assert!(le == "+Inf" || listed.buckets.contains(&le.parse().unwrap()), "{name} {le}");
        }
        let names: Vec<_> = labels.keys().cloned().collect();
        let mut expected: Vec<_> = listed.labels.keys().cloned().collect();
        expected.sort();
        assert_eq!(names, expected, "{name}");
        for (label, value) in labels {
            shown.entry((listed.name.clone(), label)).or_default().insert(value);
        }
    }
    let mut expected: BTreeSet<_> = list.keys().cloned().collect();
    if !cfg!(target_os = "linux") {
        expected.retain(|name| !name.starts_with("process_"));
    }
    assert_eq!(families, expected, "families shown, families listed");
    for ((name, label), values) in shown {
        if let Some(listed) = list[&name].values(&label) {
            assert_eq!(values, listed, "{name}: values of {label}");
        }
    }
}

#[test]
fn closed_sets_are_there_from_the_start() {
    let list = list();
    let (metrics, _) = with_clock(config());
    let scrape = scrape(&metrics);
    let shown: BTreeSet<_> = scrape.keys().map(|(name, _)| family_of(&list, name).name.clone()).collect();
    let mut expected: BTreeSet<_> = list.values().filter(|l| l.start).map(|l| l.name.clone()).collect();
    if !cfg!(target_os = "linux") {
        expected.retain(|name| !name.starts_with("process_"));
    }
    assert_eq!(shown, expected);
    for name in expected.iter().filter(|name| list[*name].kind == "counter" && !name.starts_with("process_")) {
        let combinations: usize =
            list[name].labels.keys().map(|label| list[name].values(label).unwrap().len()).product();
        assert_eq!(pick(&scrape, name, &[]), vec![0.0; combinations], "{name}");
    }
}
