//! `docs/runbook.md`: one heading an alert, its name; each with meaning, how to see it, first fix, how to silence it.

use std::collections::BTreeSet;

use super::rules;

#[test]
fn every_alert_has_an_anchor_and_every_anchor_an_alert() {
    let text = super::read("docs/runbook.md");
    let names: BTreeSet<String> = rules::alerts().into_iter().filter_map(|rule| rule.alert).collect();
    let mut sections = text.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap());
    let mut anchors = BTreeSet::new();
    let mut problems = Vec::new();
    for (title, body) in &mut sections {
        if !anchors.insert(title.to_owned()) {
            problems.push(format!("{title} is there twice"));
        }
        let body = body.split("\n## ").next().unwrap();
        for part in ["**Means.**", "**See.**", "**First fix.**", "**Silence.**"] {
            if body.matches(part).count() != 1 {
                problems.push(format!("{title} has no {part}"));
            }
        }
    }
    problems.extend(names.difference(&anchors).map(|name| format!("{name} is not in docs/runbook.md")));
    problems
        .extend(anchors.difference(&names).map(|name| format!("docs/runbook.md explains {name}, which is no alert")));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
