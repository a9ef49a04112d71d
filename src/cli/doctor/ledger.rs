//! What the ledger tells of keys when no sidecar answers: its newest calls, added up as `/status` has them. In: a ledger, which
//! is only read. Out: [`Seen`]. At most [`CALLS`] calls are looked at.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::seen::{Call, Key, Seen};
use crate::call::{CallRecord, Fingerprint, Outcome};
use crate::ledger::{LedgerError, Query, Reader};
use crate::meter::Rules;

/// Enough to see how a key fares, and read in well under a second.
const CALLS: usize = 20_000;

/// Reads the newest calls of `provider`, or of all.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read(
    path: &Path,
    names: impl IntoIterator<Item = (Fingerprint, Arc<str>, Option<Arc<str>>)>,
    provider: Option<&str>,
    rules: &Rules,
) -> Result<Seen, LedgerError> {
    let mut reader = Reader::open(path)?;
    reader.name_keys(names);
    let query = Query { providers: provider.map(str::to_owned).into_iter().collect(), ..Query::default() };
    let mut keys: Vec<Key> = Vec::new();
    let mut count = 0;
    reader.calls(&query, |record| {
        add(&mut keys, &record, rules);
        count += 1;
        if count < CALLS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(Seen { listeners: Vec::new(), keys })
}

/// Adds a call; they come newest first.
fn add(keys: &mut Vec<Key>, record: &CallRecord, rules: &Rules) {
    let is_of = |key: &Key| key.key == record.key_label() && key.provider == *record.provider;
    let key = match keys.iter().position(is_of) {
        Some(at) => &mut keys[at],
        None => {
            let (name, provider) = (record.key_label().to_owned(), record.provider.to_string());
            keys.push(Key { key: name, provider, fingerprint: record.key.clone(), ..Key::default() });
            let last = keys.len() - 1;
            &mut keys[last]
        }
    };
    key.calls += 1;
    key.failures += u64::from(record.outcome.is_failure());
    key.retries += u64::from(record.retry_count > 0);
    if let Some(account) = record.account.as_deref().filter(|account| !key.accounts.iter().any(|own| own == account)) {
        key.accounts.push(account.to_owned());
    }
    for finding in &record.findings {
        let count = key.findings.get(finding.as_str()).and_then(serde_json::Value::as_u64).unwrap_or(0);
        key.findings.insert(finding.as_str().to_owned(), (count + 1).into());
    }
    let ended = record.time.checked_add(record.timing.total).unwrap_or(record.time);
    let time = crate::export::metrics::rfc3339(ended);
    if record.outcome == Outcome::Ok && key.last_success.is_none() {
        key.last_success = Some(time.clone());
    }
    let is_last_failure = record.outcome.is_failure() && key.last_failure.is_none();
    if key.last.is_none() || is_last_failure {
        let call = call(record, time, rules);
        if is_last_failure {
            key.last_failure = Some(call.clone());
        }
        key.last.get_or_insert(call);
    }
}

fn call(record: &CallRecord, time: String, rules: &Rules) -> Call {
    Call {
        time,
        call_id: record.call_id.to_string(),
        operation: record.operation.to_string(),
        model: record.model_label.to_string(),
        status: record.status,
        outcome: record.outcome,
        fault: record.fault,
        retryable: record.retryable,
        error_type: record.error_type.clone(),
        error_code: record.error_code.clone(),
        retry_count: record.retry_count,
        request_bytes: record.request_bytes,
        retry_after_seconds: None,
        fix: record.first_fix.as_deref().and_then(|id| rules.fix(id)).map(str::to_owned),
        findings: record.findings.clone(),
    }
}
