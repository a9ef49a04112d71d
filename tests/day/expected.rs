//! Which alerts the day must raise, by when, and that it raises no others.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Day;
use super::scale::{SCALE, milliseconds};
use super::story::{self, Trouble};
use crate::alerting::rules;

/// An alert that must fire.
struct Expected {
    alert: &'static str,
    /// Labels that tell it from others of its name.
    labels: Vec<(&'static str, String)>,
    /// What raises it; `None`: it is there from the start.
    cause: Option<Trouble>,
    /// Minutes of the day until the expression holds, counted from the cause: the window that must fill.
    window: u64,
    /// Kept quiet in the Alertmanager by another one.
    inhibited: bool,
}

/// Evaluations, scrapes and delivery: minutes of the day on top of window and `for`. One for the scrape, two for a record of a
/// slow group, one for the alert, half for `group_wait`.
const OVERHEAD_MINUTES: u64 = 5;
/// May fire, for they are true of a busy machine: a build without optimization takes 10 ms there, and streams that are slow by
/// the script become slower still.
const OF_THE_MACHINE: [&str; 3] =
    ["KeytallyOverheadHigh", "KeytallyLatencyRegression", "KeytallyOutputSpeedRegression"];
/// Real seconds that a busy machine may add.
const SLACK: f64 = 15.0;

fn expected() -> Vec<Expected> {
    use Trouble::*;
    let one = |alert, labels: &[(&'static str, &str)], cause, window| Expected {
        alert,
        labels: labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        cause: Some(cause),
        window,
        inhibited: false,
    };
    let quiet = |alert, labels: &[(&'static str, &str)], cause, window| Expected {
        inhibited: true,
        ..one(alert, labels, cause, window)
    };
    let from_start = |alert, labels: &[(&'static str, &str)]| Expected { cause: None, ..one(alert, labels, Spike, 3) };
    let batch = [("key", "batch-nightly"), ("team", "search"), ("env", "prod")];
    let stranger = story::stranger();
    vec![
        one("SpendSurge", &batch, Spike, 10),
        quiet("SpendAnomaly", &batch, Spike, 60),
        quiet("DailySpendRecord", &batch, Spike, 60),
        one("BudgetBurnFast", &[("key", "batch-nightly"), ("window", "1h")], Spike, 60),
        one("BudgetBurnFast", &[("key", "batch-nightly"), ("window", "6h")], Spike, 120),
        one("KeyRejected", &[("key", "mail-prod"), ("team", "chat")], Revoked, 1),
        quiet("KeyOnlyErrors", &[("key", "mail-prod")], Revoked, 10),
        from_start("KeyRejected", &[("key", story::OLD)]),
        one("OldKeyStillUsed", &[("key", story::OLD), ("finding", "stale_key"), ("team", "search")], Stale, 1),
        one("QuotaExhausted", &[("outcome", "credit_exhausted"), ("provider", "openai"), ("team", "agents")], Quota, 1),
        one("KeyOnlyErrors", &[("key", "agent-prod")], Quota, 10),
        one("RateLimited", &[("key", "chat-prod")], Bursts, 10),
        one("BurstThrottled", &[("provider", "openai"), ("team", "chat")], Bursts, 10),
        one("ProviderOutage", &[("provider", "groq")], Outage, 5),
        one("StreamTruncated", &[("provider", "deepseek"), ("model", "deepseek-chat")], Truncated, 15),
        one("TTFTRegression", &[("provider", "deepseek"), ("model", "deepseek-chat")], Slow, 30),
        one("UnpricedModel", &[("model", story::UNPRICED), ("status", "unpriced")], Unpriced, 4),
        one("UnnamedKey", &[("key", &stranger)], Stranger, 1),
        one("NewKeySpend", &[("key", &stranger)], Stranger, 30),
        one("KeyInBrowser", &[("key", "search-prod"), ("team", "search")], Browser, 2),
        one("Restarting", &[("instance", "app-2")], Restarts, 30),
        one("ConfigReloadFailed", &[("instance", "app-2")], BadConfig, 5),
        one("Down", &[("instance", "app-3")], Gone, 1),
        from_start("KeyIdle", &[("key", story::IDLE)]),
    ]
}

fn label<'a>(labels: &'a Value, name: &str) -> &'a str {
    labels[name].as_str().unwrap_or_default()
}

impl Expected {
    fn is(&self, labels: &Value) -> bool {
        label(labels, "alertname").strip_prefix("Keytally") == Some(self.alert)
            && self.labels.iter().all(|(name, value)| label(labels, name) == value)
    }

    fn name(&self) -> String {
        format!("{} {:?}", self.alert, self.labels.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>())
    }

    /// Real seconds after the cause by which the webhook must have it.
    fn promised(&self) -> f64 {
        let rules = rules::alerts();
        let own = |rule: &&rules::Rule| {
            rule.alert.as_deref().and_then(|name| name.strip_prefix("Keytally")) == Some(self.alert)
                && self.labels.iter().all(|(name, value)| rule.labels.get(*name).is_none_or(|own| own == value))
        };
        let rule = rules.iter().find(own).expect("the alert exists");
        let pending = rule.pending.as_deref().map_or(0, milliseconds);
        (self.window + OVERHEAD_MINUTES) as f64 * 60.0 / SCALE as f64 + pending as f64 / 1e3 / SCALE as f64
    }
}

/// Everything that is wrong; prints the table.
pub async fn check(day: &Day) -> Vec<String> {
    let mut problems = Vec::new();
    let fired = day.stack.query_range("ALERTS{alertstate=\"firing\"}", day.started, day.ended, 1.0).await;
    let delivered = day.stack.delivered();
    let all = expected();
    let mut table = BTreeMap::new();
    for expected in &all {
        let onset = expected.cause.map_or(day.started, |cause| day.started + story::onset(cause) as f64);
        let promised = expected.promised();
        let first_fired = fired
            .iter()
            .filter(|series| expected.is(&series["metric"]))
            .filter_map(|series| series["values"][0][0].as_f64());
        let Some(first_fired) = first_fired.min_by(f64::total_cmp) else {
            problems.push(format!("{} did not fire", expected.name()));
            continue;
        };
        let arrivals =
            delivered.iter().filter(|one| one.alert["status"] == "firing" && expected.is(&one.alert["labels"]));
        let arrived = arrivals.clone().map(|one| one.at).min_by(f64::total_cmp);
        if first_fired < onset - 2.0 {
            problems.push(format!("{} fired {:.0} s before its cause", expected.name(), onset - first_fired));
        }
        match arrived {
            Some(_) if expected.inhibited => problems.push(format!("{} should have been inhibited", expected.name())),
            None if !expected.inhibited => problems.push(format!("{} did not reach the webhook", expected.name())),
            _ => {}
        }
        let seen = arrived.unwrap_or(first_fired);
        if seen > onset + promised + SLACK {
            problems.push(format!("{} came after {:.1} s, promised in {promised:.1} s", expected.name(), seen - onset));
        }
        for one in arrivals.clone() {
            problems.extend(wrong_texts(&one.alert));
        }
        let summary = arrivals.clone().next().map_or("(inhibited)", |one| label(&one.alert["annotations"], "summary"));
        let receivers: std::collections::BTreeSet<_> =
            delivered.iter().filter(|one| expected.is(&one.alert["labels"])).map(|one| one.receiver.clone()).collect();
        table.insert(
            format!("{:9.1} {}", onset - day.started, expected.name()),
            format!(
                "fired after {:5.1} s, arrived {:?} s, promised {promised:.1} s, at {receivers:?}: {summary}",
                first_fired - onset,
                arrived.map(|at| ((at - onset) * 10.0).round() / 10.0)
            ),
        );
    }
    for (name, row) in &table {
        eprintln!("{name}: {row}");
    }
    for series in &fired {
        if OF_THE_MACHINE.contains(&label(&series["metric"], "alertname")) {
            continue;
        }
        if !all.iter().any(|expected| expected.is(&series["metric"])) {
            let at = series["values"][0][0].as_f64().unwrap_or_default() - day.started;
            problems.push(format!("fired, but should not have, after {at:.0} s: {}", series["metric"]));
        }
    }
    problems
}

/// A message with a hole in it, or with links that lead nowhere.
fn wrong_texts(alert: &Value) -> Vec<String> {
    let name = label(&alert["labels"], "alertname").to_owned();
    let mut problems = Vec::new();
    for annotation in ["summary", "description", "first_fix", "runbook_url", "dashboard_url"] {
        let text = label(&alert["annotations"], annotation);
        if text.is_empty()
            || ["<no value>", "error expanding", "NaN", "()", "{{", "var-key=&"].iter().any(|bad| text.contains(bad))
        {
            problems.push(format!("{name}: {annotation} is {text:?}"));
        }
    }
    problems
}
