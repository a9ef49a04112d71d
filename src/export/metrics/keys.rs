//! What is known of one key at one provider: verdict, last use, findings, accounts, and the row of the status page.
//!
//! Bounded by the ceilings on keys and series; holds fingerprints and names only.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::series::{Budget, Count, Tier, lock};
use crate::call::{CallRecord, Caller, Fault, Finding, Fingerprint, Money, Outcome};

/// Gauges that a key may have without its further accounts: info, up, two times, three thresholds, two budgets.
const KEY_SERIES: usize = 9;

/// Clients that are told apart for one key; the one not seen for longest makes room.
const MAX_CLIENTS: usize = 16;

/// Account label until an answer tells.
pub const UNKNOWN: &str = "unknown";

/// Series of one key at one provider.
#[derive(Debug)]
pub struct Key {
    /// Label `key`.
    pub key: Arc<str>,
    /// Label `provider`.
    pub provider: Arc<str>,
    /// How specific it is.
    pub tier: Tier,
    /// A real key, or `none`; not `other`, whose gauges would mix many keys.
    pub single: bool,
    /// Its gauges are within the series budget.
    pub gauges: bool,
    /// What changes.
    pub state: Mutex<KeyState>,
}

/// See [`Key`].
#[derive(Clone, Debug, Default)]
pub struct KeyState {
    /// Calls seen.
    pub calls: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Absent for a missing credential and for `other`.
    pub fingerprint: Option<Fingerprint>,
    /// It has a configured name.
    pub named: bool,
    /// Configured team.
    pub team: Option<Arc<str>>,
    /// Configured environment.
    pub env: Option<Arc<str>>,
    /// Accounts seen, in the order seen, as labels.
    pub accounts: Vec<Arc<str>>,
    /// Last definite verdict and the end of the call that gave it.
    pub up: Option<(bool, SystemTime)>,
    /// Start of the latest call.
    pub last_used: Option<SystemTime>,
    /// Start of the latest call with outcome `ok`.
    pub last_success: Option<SystemTime>,
    /// The latest call: its end, outcome, fault, first fix.
    pub last: Option<(SystemTime, Outcome, Fault, Option<Arc<str>>)>,
    /// The latest failure, likewise.
    pub last_failure: Option<(SystemTime, Outcome, Fault, Option<Arc<str>>)>,
    /// By [`Finding`].
    pub findings: [Option<Count>; Finding::ALL.len()],
    /// Priced spend.
    pub spend: Money,
    /// Who uses it, at most [`MAX_CLIENTS`].
    pub clients: Vec<ClientOfKey>,
}

/// What one client did with a key.
#[derive(Clone, Debug)]
pub struct ClientOfKey {
    /// Label `client`.
    pub client: Arc<str>,
    /// Its latest process, where the kernel told.
    pub caller: Option<Arc<Caller>>,
    /// Start of its first call.
    pub first_used: SystemTime,
    /// Start of its latest call.
    pub last_used: SystemTime,
    /// Calls.
    pub calls: u64,
    /// Priced spend.
    pub spend: Money,
    /// Its gauge is within the series budget.
    pub gauge: bool,
}

impl Key {
    /// A key that was just seen; takes its gauges' series from the budget if there is room.
    pub fn new(key: Arc<str>, provider: Arc<str>, tier: Tier, single: bool, budget: &Budget) -> Self {
        let gauges = if single { budget.take(KEY_SERIES, tier) } else { budget.take(1, tier) };
        Self { key, provider, tier, single, gauges, state: Mutex::default() }
    }

    /// Adds a call; gives back the findings (as bits) that found no room for a series. `account` is a bounded label.
    pub fn observe(&self, record: &CallRecord, account: Option<Arc<str>>, now: u64, budget: &Budget) -> u32 {
        let ended = record.time.checked_add(record.timing.total).unwrap_or(record.time);
        let mut state = lock(&self.state);
        let state = &mut *state;
        state.calls += 1;
        state.failures += u64::from(record.outcome.is_failure());
        if let Some(cost) = record.cost {
            state.spend += cost;
        }
        if self.single {
            if state.fingerprint.is_none() || state.last.as_ref().is_none_or(|last| last.0 <= ended) {
                state.fingerprint.clone_from(&record.key);
                state.named = record.key_name.is_some();
                state.team.clone_from(&record.team);
                state.env.clone_from(&record.env);
            }
            let verdict = match record.outcome {
                Outcome::Ok => Some(true),
                outcome if outcome.is_auth() => Some(false),
                _ => None,
            };
            if let Some(verdict) = verdict
                && state.up.is_none_or(|(_, at)| at <= ended)
            {
                state.up = Some((verdict, ended));
            }
            if let Some(account) = account
                && !state.accounts.contains(&account)
                && (state.accounts.is_empty() || budget.take(1, self.tier))
            {
                state.accounts.push(account);
            }
        }
        if let Some(client) = &record.client {
            state.client(client, record, || budget.take(1, self.tier));
        }
        state.last_used = state.last_used.max(Some(record.time));
        if record.outcome == Outcome::Ok {
            state.last_success = state.last_success.max(Some(record.time));
        }
        if state.last.as_ref().is_none_or(|last| last.0 <= ended) {
            state.last = Some((ended, record.outcome, record.fault, record.first_fix.clone()));
        }
        if record.outcome.is_failure() && state.last_failure.as_ref().is_none_or(|last| last.0 <= ended) {
            state.last_failure = Some((ended, record.outcome, record.fault, record.first_fix.clone()));
        }
        let held = record.findings.iter().fold(0, |bits: u32, &finding| bits | 1 << finding as u32);
        drop_counted(state, held, now, self.tier, budget)
    }

    /// Counts findings given as bits; gives back those without room.
    pub fn count_findings(&self, findings: u32, now: u64, budget: &Budget) -> u32 {
        drop_counted(&mut lock(&self.state), findings, now, self.tier, budget)
    }
}

impl KeyState {
    /// Adds a call to its client's; `take` asks for room for one more gauge.
    fn client(&mut self, client: &Arc<str>, record: &CallRecord, take: impl FnOnce() -> bool) {
        let at = match self.clients.iter().position(|known| known.client == *client) {
            Some(at) => at,
            None => {
                let oldest = (0..self.clients.len()).min_by_key(|&at| self.clients[at].last_used);
                let gauge = match oldest.filter(|_| self.clients.len() >= MAX_CLIENTS) {
                    Some(oldest) => self.clients.swap_remove(oldest).gauge,
                    None => take(),
                };
                self.clients.push(ClientOfKey {
                    client: client.clone(),
                    caller: None,
                    first_used: record.time,
                    last_used: record.time,
                    calls: 0,
                    spend: Money::default(),
                    gauge,
                });
                self.clients.len() - 1
            }
        };
        let known = &mut self.clients[at];
        known.calls += 1;
        if let Some(cost) = record.cost {
            known.spend += cost;
        }
        known.first_used = known.first_used.min(record.time);
        if record.time >= known.last_used {
            known.last_used = record.time;
            known.caller = record.caller.clone().or(known.caller.take());
        }
    }
}

fn drop_counted(state: &mut KeyState, findings: u32, now: u64, tier: Tier, budget: &Budget) -> u32 {
    let mut left = findings;
    for (bit, slot) in state.findings.iter_mut().enumerate() {
        if findings & 1 << bit != 0 && (slot.is_some() || budget.take(1, tier)) {
            slot.get_or_insert_with(|| Count::born(now)).add(1);
            left &= !(1 << bit);
        }
    }
    left
}

/// One key as the status page shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct KeyStatus {
    /// Name or fingerprint.
    pub key: Arc<str>,
    /// Its provider.
    pub provider: Arc<str>,
    /// Fingerprint, when there was a credential.
    pub fingerprint: Option<Fingerprint>,
    /// Configured team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<Arc<str>>,
    /// Configured environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Arc<str>>,
    /// Accounts that the provider named for it, as labels.
    pub accounts: Vec<Arc<str>>,
    /// Last definite verdict.
    pub up: Option<bool>,
    /// Calls since start.
    pub calls: u64,
    /// Failed calls since start.
    pub failures: u64,
    /// Spend since start, dollars as a decimal.
    pub spend_usd: Money,
    /// Start of the latest call.
    pub last_used: Option<String>,
    /// Start of the latest successful call.
    pub last_success: Option<String>,
    /// The latest call.
    pub last: Option<Verdict>,
    /// The latest failure.
    pub last_failure: Option<Verdict>,
    /// Findings and on how many calls each held.
    pub findings: serde_json::Map<String, serde_json::Value>,
    /// Who uses it, the dearest first: what stops when it is revoked.
    pub clients: Vec<ClientStatus>,
}

/// One client of a key as the status page shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ClientStatus {
    /// Its name.
    pub client: Arc<str>,
    /// Executable of its latest process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<Arc<str>>,
    /// Id of its latest process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Container that it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Arc<str>>,
    /// Kubernetes pod that it runs in, by UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Arc<str>>,
    /// systemd service that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// Calls since start.
    pub calls: u64,
    /// Spend since start, dollars as a decimal.
    pub spend_usd: Money,
    /// Start of its first call.
    pub first_used: String,
    /// Start of its latest call.
    pub last_used: String,
}

impl From<ClientOfKey> for ClientStatus {
    fn from(known: ClientOfKey) -> Self {
        let caller = known.caller.as_deref().cloned();
        Self {
            client: known.client,
            pid: caller.as_ref().map(|caller| caller.pid),
            executable: caller.as_ref().map(|caller| Arc::clone(&caller.executable)),
            container: caller.as_ref().and_then(|caller| caller.container.clone()),
            pod: caller.as_ref().and_then(|caller| caller.pod.clone()),
            service: caller.and_then(|caller| caller.service),
            calls: known.calls,
            spend_usd: known.spend,
            first_used: rfc3339(known.first_used),
            last_used: rfc3339(known.last_used),
        }
    }
}

/// How one call went.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Verdict {
    /// When it ended.
    pub time: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Whose side must act.
    pub fault: Fault,
    /// Id of the first fix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_fix: Option<Arc<str>>,
    /// How long before it the key's latest successful call had begun.
    #[serde(skip)]
    pub worked_before: Option<Duration>,
    /// Its text, once who knows the rules has put it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::from("out of range"), |time| format!("{time:.3}"))
}

impl Key {
    /// The row of the status page.
    pub fn status(&self) -> KeyStatus {
        let mut state = lock(&self.state).clone();
        state.clients.sort_by(|a, b| (b.spend, b.calls).cmp(&(a.spend, a.calls)).then(a.client.cmp(&b.client)));
        let verdict = |last: Option<(SystemTime, Outcome, Fault, Option<Arc<str>>)>| {
            last.map(|(time, outcome, fault, first_fix)| Verdict {
                time: rfc3339(time),
                outcome,
                fault,
                first_fix,
                worked_before: state.last_success.and_then(|worked| time.duration_since(worked).ok()),
                fix: None,
            })
        };
        let findings = Finding::ALL.iter().zip(&state.findings);
        KeyStatus {
            key: self.key.clone(),
            provider: self.provider.clone(),
            fingerprint: state.fingerprint,
            team: state.team,
            env: state.env,
            accounts: state.accounts,
            up: state.up.map(|(up, _)| up),
            calls: state.calls,
            failures: state.failures,
            spend_usd: state.spend,
            last_used: state.last_used.map(rfc3339),
            last_success: state.last_success.map(rfc3339),
            last: verdict(state.last),
            last_failure: verdict(state.last_failure),
            findings: findings
                .filter_map(|(finding, count)| Some((finding.as_str().into(), (count.as_ref()?.value as u64).into())))
                .collect(),
            clients: state.clients.into_iter().map(ClientStatus::from).collect(),
        }
    }
}
