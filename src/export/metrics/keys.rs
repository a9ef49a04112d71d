//! What is known of one key at one provider: verdict, last use, findings, accounts, and the row of the status page.
//!
//! Bounded by the ceilings on keys and series; holds fingerprints and names only.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::series::{Budget, Count, Tier, lock};
use crate::call::{
    CallId, CallRecord, Caller, End, Fault, Finding, Fingerprint, LimitResource, Limits, Money, Operation, Outcome,
};

/// Calls that end at the same time may be recorded in another order, but never so much later: what is known from further in
/// the future was written before the clock went back.
const OUT_OF_ORDER: Duration = Duration::from_secs(600);

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
    /// Calls that repeated one that had failed just before.
    pub retries: u64,
    /// The call that ended last.
    pub last: Option<Arc<LastCall>>,
    /// The failure that ended last.
    pub last_failure: Option<Arc<LastCall>>,
    /// The limits that were stated last.
    pub limits: Option<(SystemTime, Limits)>,
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

/// What is kept of one call for the status page.
#[derive(Clone, Debug)]
pub struct LastCall {
    ended: SystemTime,
    call_id: CallId,
    operation: Operation,
    model: Arc<str>,
    status: Option<u16>,
    end: End,
    outcome: Outcome,
    fault: Fault,
    retryable: bool,
    first_fix: Option<Arc<str>>,
    error_type: Option<String>,
    error_code: Option<String>,
    retry_count: u32,
    request_bytes: u64,
    retry_after: Option<Duration>,
    findings: Vec<Finding>,
}

impl LastCall {
    fn new(record: &CallRecord, ended: SystemTime) -> Self {
        Self {
            ended,
            call_id: record.call_id,
            operation: record.operation,
            model: record.model_label.clone(),
            status: record.status,
            end: record.end,
            outcome: record.outcome,
            fault: record.fault,
            retryable: record.retryable,
            first_fix: record.first_fix.clone(),
            error_type: record.error_type.clone(),
            error_code: record.error_code.clone(),
            retry_count: record.retry_count,
            request_bytes: record.request_bytes,
            retry_after: record.limits.retry_after,
            findings: record.findings.clone(),
        }
    }
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
            if state.fingerprint.is_none() || state.last.as_ref().is_none_or(|last| is_later(ended, last.ended)) {
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
                && state.up.is_none_or(|(_, at)| is_later(ended, at))
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
        // A call may have begun long before another that has ended already: only its end tells of the clock.
        let clock_went_back = |known: Option<SystemTime>| known.is_some_and(|known| known > ended + OUT_OF_ORDER);
        if state.last_used < Some(record.time) || clock_went_back(state.last_used) {
            state.last_used = Some(record.time);
        }
        if record.outcome == Outcome::Ok
            && (state.last_success < Some(record.time) || clock_went_back(state.last_success))
        {
            state.last_success = Some(record.time);
        }
        state.retries += u64::from(record.retry_count > 0);
        let is_latest = |last: &Option<Arc<LastCall>>| last.as_ref().is_none_or(|last| is_later(ended, last.ended));
        let (latest, latest_failure) =
            (is_latest(&state.last), record.outcome.is_failure() && is_latest(&state.last_failure));
        if latest || latest_failure {
            let call = Arc::new(LastCall::new(record, ended));
            if latest_failure {
                state.last_failure = Some(call.clone());
            }
            if latest {
                state.last = Some(call);
            }
        }
        if !record.limits.limits.is_empty() && state.limits.as_ref().is_none_or(|(at, _)| is_later(ended, *at)) {
            state.limits = Some((ended, record.limits.clone()));
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
        let ended = record.time.checked_add(record.timing.total).unwrap_or(record.time);
        if record.time >= known.last_used || known.last_used > ended + OUT_OF_ORDER {
            known.last_used = record.time;
            known.caller = record.caller.clone().or(known.caller.take());
        }
    }
}

/// What ended at `ended` is news after what is known `of`: it ended later, or the clock has gone back since.
fn is_later(ended: SystemTime, of: SystemTime) -> bool {
    ended >= of || of > ended + OUT_OF_ORDER
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
    /// Of all calls, those that repeated one that had failed just before.
    pub retries: u64,
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
    /// Limits as an answer to this key stated them last.
    pub limits: Vec<LimitStatus>,
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

/// One limit, as stated.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LimitStatus {
    /// What it counts.
    pub resource: LimitResource,
    /// The whole allowance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// What was left of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<f64>,
    /// When it is whole again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<String>,
    /// When the answer came.
    pub time: String,
}

/// How one call went.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Verdict {
    /// When it ended.
    pub time: String,
    /// Its id in every sink.
    pub call_id: String,
    /// What was asked for.
    pub operation: Operation,
    /// Model as a bounded label.
    pub model: Arc<str>,
    /// HTTP status; `None` when no answer came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How it ended.
    pub end: End,
    /// Sending the same again can help.
    pub retryable: bool,
    /// The provider's own error type, redacted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The provider's own error code, redacted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// How often the same request had failed just before.
    pub retry_count: u32,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// The wait that the provider asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<f64>,
    /// What could be said of the key on this call.
    pub findings: Vec<Finding>,
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
        let verdict = |last: Option<Arc<LastCall>>| {
            last.map(|call| Verdict {
                time: rfc3339(call.ended),
                call_id: call.call_id.to_string(),
                operation: call.operation,
                model: call.model.clone(),
                status: call.status,
                end: call.end,
                retryable: call.retryable,
                error_type: call.error_type.clone(),
                error_code: call.error_code.clone(),
                retry_count: call.retry_count,
                request_bytes: call.request_bytes,
                retry_after_seconds: call.retry_after.map(|wait| wait.as_secs_f64()),
                findings: call.findings.clone(),
                outcome: call.outcome,
                fault: call.fault,
                first_fix: call.first_fix.clone(),
                worked_before: state.last_success.and_then(|worked| call.ended.duration_since(worked).ok()),
                fix: None,
            })
        };
        let limits = state.limits.iter().flat_map(|(at, limits)| limits.limits.iter().map(|limit| (*at, limit)));
        let limits = limits.map(|(at, limit)| LimitStatus {
            resource: limit.resource,
            limit: limit.limit,
            remaining: limit.remaining,
            reset: limit.reset.and_then(|reset| at.checked_add(reset)).map(rfc3339),
            time: rfc3339(at),
        });
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
            retries: state.retries,
            spend_usd: state.spend,
            limits: limits.collect(),
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
