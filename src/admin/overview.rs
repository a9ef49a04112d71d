//! What is wrong, what is spent and what is going on, as one value: `/status/live` writes it as JSON, the status page as
//! HTML, `keytally top` on a terminal.
//!
//! In: the live view, the keys' verdicts from the metrics, what the rooms say of themselves. Out: [`Overview`], the
//! most urgent first. Texts that applications and providers chose are in it as they came.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{ExporterStatus, ListenerStatus, RoomStatus, StatusSource};
use crate::call::{Fault, label_enum};
use crate::export::live::{Filter, KeyLive, Live, LiveView};
use crate::export::metrics::{DropReason, KeyStatus, Metrics, Signal, Verdict, rfc3339};

/// A key of whose calls of the last ten minutes at least this share failed is degraded.
const DEGRADED_SHARE: f64 = 0.1;
/// A price book older than this may have missed a change of prices.
const OLD_BOOK: Duration = Duration::from_secs(90 * 86_400);

label_enum! {
    /// How a key does.
    Health {
        /// Its last call failed for a reason that somebody must remove: key, configuration or account.
        Failing = "failing",
        /// A tenth of its calls of the last ten minutes failed, or its last one did.
        Degraded = "degraded",
        Ok = "ok",
        /// No call since start.
        Quiet = "quiet",
    }
}

label_enum! {
    /// How soon somebody should look.
    Severity { Critical = "critical", Warning = "warning" }
}

/// The state of the sidecar and of what passes through it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overview {
    /// Version of the build.
    pub version: String,
    /// Source revision of the build.
    pub revision: String,
    /// When the process started.
    pub started: String,
    /// How long ago that was.
    pub uptime_seconds: u64,
    /// It takes calls.
    pub ready: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready_reason: Option<String>,
    /// What wants attention, the most urgent first.
    pub attention: Vec<Attention>,
    /// Keys, the failing ones first, then by spend of the month.
    pub keys: Vec<KeyRow>,
    /// What goes on; its own list of keys is empty, [`Overview::keys`] has them.
    pub live: LiveView,
    /// The configuration.
    pub config: ConfigState,
    /// Date of the price book.
    pub price_book_date: Option<String>,
    /// Open listeners.
    pub listeners: Vec<ListenerStatus>,
    /// Exporters and how they fare.
    pub exporters: Vec<ExporterStatus>,
    /// Telemetry lost since start, by signal.
    pub telemetry_dropped: Vec<(String, u64)>,
}

/// Something that wants attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// How soon.
    pub severity: Severity,
    /// The key, or the part of the sidecar.
    pub subject: String,
    /// The subject is a key of this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Arc<str>>,
    /// What became of its calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What is wrong.
    pub text: String,
    /// What to do first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// When it was last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// The configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConfigState {
    /// Its file; `None` when there is none.
    pub path: Option<String>,
    /// The last reload went well.
    pub last_reload_successful: Option<bool>,
    /// When it was loaded.
    pub loaded: Option<String>,
    /// Why the last reload was refused.
    pub error: Option<String>,
}

/// One key at one provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRow {
    /// How it does.
    pub health: Health,
    /// What goes on with it.
    #[serde(flatten)]
    pub live: KeyLive,
    /// Its fingerprint, when there was a credential.
    pub fingerprint: Option<String>,
    /// Its team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Arc<str>>,
    /// Its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Arc<str>>,
    /// Accounts that the provider named for it.
    pub accounts: Vec<Arc<str>>,
    /// Start of its latest call.
    pub last_used: Option<String>,
    /// Start of its latest successful call.
    pub last_success: Option<String>,
    /// Its latest failure.
    pub last_failure: Option<Failure>,
    /// Findings and on how many calls each held.
    pub findings: Vec<(String, u64)>,
}

/// A failed call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// When it ended.
    pub time: String,
    /// What became of it.
    pub outcome: String,
    /// Whose side must act.
    pub fault: String,
    /// Id of the first fix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_fix: Option<Arc<str>>,
    /// Its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// What there is at `now`. The filter holds for the list of calls.
pub(super) fn overview(
    metrics: &Metrics,
    live: &Live,
    source: &dyn StatusSource,
    filter: &Filter,
    now: SystemTime,
) -> Overview {
    let (config, facts, rooms, ready) = (metrics.config(), metrics.facts(), source.status(), source.ready());
    let mut view = live.view(filter, now);
    for row in &mut view.outcomes {
        row.fix = row.first_fix.as_deref().and_then(|id| source.fix(id, None));
    }
    for row in &mut view.findings {
        // A finding's own name is the id of its fix.
        row.fix = source.fix(&row.finding, None);
    }
    let keys = keys(metrics.keys(), std::mem::take(&mut view.keys), source);
    let dropped = Signal::ALL.iter().map(|&signal| {
        let sum: u64 = DropReason::ALL.iter().map(|&reason| metrics.dropped_so_far(signal, reason)).sum();
        (signal.as_str().to_owned(), sum)
    });
    let book_age = facts.price_book.and_then(|date| now.duration_since(date).ok());
    let mut overview = Overview {
        version: config.version.clone(),
        revision: config.revision.clone(),
        started: rfc3339(metrics.started()),
        uptime_seconds: metrics.uptime().as_secs(),
        ready: ready.is_ok(),
        not_ready_reason: ready.err(),
        attention: Vec::new(),
        keys,
        live: view,
        config: ConfigState {
            path: rooms.config_path.clone(),
            last_reload_successful: facts.reload_ok,
            loaded: facts.reloaded.map(rfc3339),
            error: rooms.config_error.clone(),
        },
        price_book_date: facts.price_book.map(rfc3339),
        listeners: rooms.listeners.clone(),
        exporters: rooms.exporters.clone(),
        telemetry_dropped: dropped.collect(),
    };
    overview.attention = attention(&overview, &rooms, book_age);
    overview
}

/// Verdicts and live rows of the same key and provider as one row, the most urgent first.
fn keys(verdicts: Vec<KeyStatus>, live: Vec<KeyLive>, source: &dyn StatusSource) -> Vec<KeyRow> {
    let mut order: Vec<(Arc<str>, Arc<str>)> = live.iter().map(|row| (row.key.clone(), row.provider.clone())).collect();
    let mut live: HashMap<_, _> = live.into_iter().map(|row| ((row.key.clone(), row.provider.clone()), row)).collect();
    let mut verdicts: HashMap<_, _> =
        verdicts.into_iter().map(|row| ((row.key.clone(), row.provider.clone()), row)).collect();
    order.extend(verdicts.keys().filter(|name| !live.contains_key(*name)).cloned().collect::<Vec<_>>());
    let mut rows: Vec<KeyRow> = order
        .into_iter()
        .map(|name| {
            let (key, provider) = name.clone();
            let live = live.remove(&name).unwrap_or_else(|| KeyLive { key, provider, ..KeyLive::default() });
            key_row(live, verdicts.remove(&name), source)
        })
        .collect();
    // Stable: within one health they stay in the order of their spend.
    rows.sort_by_key(|row| row.health);
    rows
}

fn key_row(live: KeyLive, status: Option<KeyStatus>, source: &dyn StatusSource) -> KeyRow {
    let health = health(&live, status.as_ref());
    let failure = |verdict: Verdict| Failure {
        fix: verdict.first_fix.as_deref().and_then(|id| source.fix(id, verdict.worked_before)),
        time: verdict.time,
        outcome: verdict.outcome.as_str().to_owned(),
        fault: verdict.fault.as_str().to_owned(),
        first_fix: verdict.first_fix,
    };
    let Some(status) = status else {
        return KeyRow {
            health,
            live,
            fingerprint: None,
            team: None,
            env: None,
            accounts: Vec::new(),
            last_used: None,
            last_success: None,
            last_failure: None,
            findings: Vec::new(),
        };
    };
    KeyRow {
        health,
        live,
        fingerprint: status.fingerprint.map(|key| key.as_str().to_owned()),
        team: status.team,
        env: status.env,
        accounts: status.accounts,
        last_used: status.last_used,
        last_success: status.last_success,
        last_failure: status.last_failure.map(failure),
        findings: status.findings.into_iter().filter_map(|(name, count)| Some((name, count.as_u64()?))).collect(),
    }
}

fn health(live: &KeyLive, status: Option<&KeyStatus>) -> Health {
    let Some(last) = status.and_then(|status| status.last.as_ref()) else { return Health::Quiet };
    if last.outcome.is_failure() && matches!(last.fault, Fault::Key | Fault::Config | Fault::Account) {
        return Health::Failing;
    }
    let recent = live.last_10_minutes;
    let share = f64::from(recent.failures) / f64::from(recent.calls.max(1));
    if last.outcome.is_failure() || share >= DEGRADED_SHARE { Health::Degraded } else { Health::Ok }
}

fn attention(overview: &Overview, rooms: &RoomStatus, book_age: Option<Duration>) -> Vec<Attention> {
    let own = |severity, subject: &str, text: String, fix: &str| Attention {
        severity,
        subject: subject.to_owned(),
        provider: None,
        outcome: None,
        text,
        fix: Some(fix.to_owned()),
        time: None,
    };
    let mut all = Vec::new();
    if let Some(why) = &overview.not_ready_reason {
        let fix = "calls are refused or about to be: look at the log, or wait for the restart";
        all.push(own(Severity::Critical, "sidecar", format!("not ready: {why}"), fix));
    }
    all.extend(overview.keys.iter().filter_map(of_key));
    if let Some(error) = &rooms.config_error {
        let fix = "run `keytally check --config FILE`: it names line, value and what would be right";
        all.push(own(Severity::Warning, "configuration", error.clone(), fix));
    }
    for exporter in rooms.exporters.iter().filter(|exporter| !exporter.healthy) {
        let lost = overview.telemetry_dropped.iter().find(|(signal, _)| *signal == exporter.name);
        let lost = lost.map_or(String::new(), |(_, count)| format!("; {count} lost since start"));
        let text = format!("its last attempt failed{lost}: {}", exporter.detail.as_deref().unwrap_or("see the log"));
        let fix = "calls are not affected; see that its target is reachable and writable, the log says what failed";
        all.push(own(Severity::Warning, &exporter.name, text, fix));
    }
    if let Some(age) = book_age.filter(|age| *age > OLD_BOOK) {
        let text = format!("the price book is {} days old", age.as_secs() / 86_400);
        let fix = "update keytally, or name a newer book as prices.book: newer models have no price in an old one";
        all.push(own(Severity::Warning, "prices", text, fix));
    }
    all.sort_by_key(|attention| attention.severity);
    all
}

/// A key that fails now, or did in the last hour: of older failures the table of keys tells.
fn of_key(row: &KeyRow) -> Option<Attention> {
    let recent = row.live.last_10_minutes;
    let severity = match row.health {
        Health::Failing if recent.calls > 0 => Severity::Critical,
        Health::Failing | Health::Degraded => Severity::Warning,
        Health::Ok | Health::Quiet => return None,
    };
    let failure = row.last_failure.as_ref()?;
    let worked = if row.last_success.is_some() { "" } else { "; it has not worked here since start" };
    let text = match (recent.calls, row.live.last_hour.calls) {
        (0, 0) => return None,
        (0, _) => format!("its last call failed{worked}"),
        (calls, _) => format!("{} of {calls} calls of the last 10 minutes failed{worked}", recent.failures),
    };
    Some(Attention {
        severity,
        subject: row.live.key.to_string(),
        provider: Some(row.live.provider.clone()),
        outcome: Some(failure.outcome.clone()),
        text,
        fix: failure.fix.clone(),
        time: Some(failure.time.clone()),
    })
}
