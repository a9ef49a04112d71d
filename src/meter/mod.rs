//! From what was seen to what it means: usage, price, outcome, findings, one [`CallRecord`].
//!
//! In: the [`CallFacts`] of one call, once, when it has ended, with the time. Out: exactly one record, whatever the
//! facts. Synchronous, no I/O, no clock. What comes from config ([`MeterConfig`]) can be replaced while calls run;
//! what is remembered (labels, keys, retries, billed answers) outlives that. All memory is bounded; the ceilings are in
//! the files that own it.

mod account;
mod billing;
mod classify;
mod estimate;
mod finding;
mod model;
mod price;
mod redact;
mod retry;
mod shape;
mod unwrap;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;

pub use account::AccountNames;
pub use classify::{Alternative, Confidence, Evidence, Explained, Reason, RuleError, Rules, Verdict};
pub use finding::{Findings, KeyHistory, MAX_KEYS, Observed, OrgIds};
pub use model::{BoundedNames, MAX_LABEL_BYTES, ModelLabels};
pub use price::{ListedFamily, Offer, PriceBook, PriceBookError, PriceInput, Priced, RateCard, RateKind, Tier, family};
pub use redact::redact;
use redact::{printable, redact_name};
pub use retry::Retries;
pub use shape::{KeyEntry, PriceOverride, RuleEntry};

use crate::call::{CallFacts, CallRecord, Fault, Fingerprint, Limits, Outcome, Retry, Usage, UsageSource};
use billing::Billed;

/// What the rules say of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// What became of it.
    pub outcome: Outcome,
    /// Whose side must act.
    pub fault: Fault,
    /// Whether it may be sent again.
    pub retry: Retry,
    /// Id of the first fix; `None` when nothing is to be fixed.
    pub first_fix: Option<Arc<str>>,
    /// The provider's own error type, redacted, at most 64 characters.
    pub error_type: Option<String>,
    /// The provider's own error code, redacted, at most 64 characters.
    pub error_code: Option<String>,
}

/// The rules by which a call gets its outcome.
pub trait Classify: Send + Sync {
    /// Decides; always answers. `worked` is how long ago the same key last worked at this provider, if it did: a refusal of a key that
    /// worked minutes ago is another story than that of one that never did.
    fn judge(&self, facts: &CallFacts, worked: Option<Duration>) -> Judgement;

    /// Text of a first fix. `worked` is as for [`Classify::judge`].
    fn fix(&self, id: &str, worked: Option<Duration>) -> Option<String>;
}

impl Classify for Rules {
    fn judge(&self, facts: &CallFacts, worked: Option<Duration>) -> Judgement {
        let mut verdict = self.classify(&Evidence::from(facts));
        if worked.is_some()
            && verdict.outcome == Outcome::AuthInvalid
            && FIXES_OF_NEW_KEYS.contains(&&*verdict.first_fix)
        {
            verdict.first_fix = Arc::from(KEY_WORKED_BEFORE);
        }
        Judgement {
            outcome: verdict.outcome,
            fault: verdict.fault,
            retry: verdict.retry,
            first_fix: Some(verdict.first_fix).filter(|_| verdict.outcome != Outcome::Ok),
            error_type: verdict.error_type,
            error_code: verdict.error_code,
        }
    }

    fn fix(&self, id: &str, worked: Option<Duration>) -> Option<String> {
        let text = Rules::fix(self, id)?;
        Some(match worked {
            Some(worked) if id == KEY_WORKED_BEFORE => {
                text.replacen("worked before", &format!("worked {}", ago(worked)), 1)
            }
            _ => text.to_owned(),
        })
    }
}

/// `12 seconds ago`, in the largest unit that fits.
pub fn ago(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// First fix of a key that worked and is refused now.
const KEY_WORKED_BEFORE: &str = "key_worked_before";
/// Fixes that only make sense for a key that never worked; others know more than that it worked (an expired token, a
/// clock that is wrong).
const FIXES_OF_NEW_KEYS: [&str; 3] = ["auth_invalid", "mistral_unauthorized", "azure_key_or_endpoint"];

/// What config says to the meter.
#[derive(Clone)]
pub struct MeterConfig {
    /// `keys:`.
    pub keys: Vec<KeyEntry>,
    /// Rates.
    pub prices: Arc<PriceBook>,
    /// Outcomes.
    pub rules: Arc<dyn Classify>,
    /// Estimate usage where the provider states none.
    pub estimate: bool,
    /// Constant labels of every record.
    pub labels: Arc<[(String, String)]>,
    /// Name of the application, for calls that bring none of their own.
    pub client: Option<Arc<str>>,
    /// How accounts are shown.
    pub accounts: AccountNames,
    /// Most different values of the model label.
    pub max_models: usize,
}

/// Turns facts into records. Shared by all calls.
pub struct Meter {
    config: ArcSwap<Snapshot>,
    models: ModelLabels,
    state: Mutex<State>,
}

/// One state of the configuration: a call sees one from beginning to end.
struct Snapshot {
    config: MeterConfig,
    keys: HashMap<Fingerprint, KeyEntry>,
    accounts: account::ShownAccounts,
}

/// What is remembered from call to call.
#[derive(Debug, Default)]
struct State {
    findings: Findings,
    retries: Retries,
    billed: Billed,
}

impl From<MeterConfig> for Snapshot {
    fn from(config: MeterConfig) -> Self {
        let keys = config.keys.iter().map(|key| (key.fingerprint.clone(), key.clone())).collect();
        Self { config, keys, accounts: account::ShownAccounts::default() }
    }
}

// === impl Meter ===

impl Meter {
    /// A meter that remembers nothing yet.
    pub fn new(config: MeterConfig) -> Self {
        Self {
            models: ModelLabels::new(config.max_models),
            config: ArcSwap::from_pointee(Snapshot::from(config)),
            state: Mutex::default(),
        }
    }

    /// Finishing this call may do what is done once: decode the prices of a provider (up to 15 ms) or load the estimates'
    /// vocabulary (some 10 ms). Such a call is better finished where blocking is allowed.
    pub fn may_block(&self, facts: &CallFacts) -> bool {
        // Without a model nothing is looked up.
        let named = facts.request.model.is_some() || facts.request.url_model.is_some() || facts.reply.model.is_some();
        let unread = || self.config.load().config.prices.may_load(&facts.provider, facts.price_as.as_deref());
        named && unread() || estimate::may_load(facts)
    }

    /// Replaces the configuration; calls that finish from now on see the new one.
    pub fn reload(&self, config: MeterConfig) {
        self.models.names().set_cap(config.max_models);
        self.config.store(Arc::new(Snapshot::from(config)));
    }

    /// The price book in use.
    pub fn prices(&self) -> Arc<PriceBook> {
        self.config.load().config.prices.clone()
    }

    /// Text of a first fix by the rules in use.
    pub fn fix(&self, id: &str, worked: Option<Duration>) -> Option<String> {
        self.config.load().config.rules.fix(id, worked)
    }

    /// How often a model name became `other`.
    pub fn model_overflow(&self) -> u64 {
        self.models.names().overflow()
    }

    /// The story of a key since the process started, if it was seen and not forgotten.
    pub fn key_history(&self, key: &Fingerprint) -> Option<KeyHistory> {
        self.lock().findings.history(key).cloned()
    }

    /// The stories of all keys that were seen, in no order; at most [`MAX_KEYS`].
    pub fn key_histories(&self) -> Vec<(Fingerprint, KeyHistory)> {
        self.lock().findings.histories().map(|(key, history)| (key.clone(), history.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the record of a call that ended at `now`. `limits` is what its answer said of limits.
    pub fn finish(&self, mut facts: CallFacts, limits: Limits, now: SystemTime) -> Arc<CallRecord> {
        let snapshot = self.config.load();
        let config = &snapshot.config;
        // Lengths first: a hash for each part of each name would cost more than the rest of the record.
        let is_key = |part: &str| {
            let length = part.trim_ascii().len();
            let own = facts.key.fingerprint.iter().map(|key| (key, facts.key.length));
            let mut keys = own.chain(facts.key.others.iter().map(|(key, length)| (key, *length)));
            keys.any(|(key, known)| known == length && key.is_of(part, &config.accounts.salt))
        };
        // People paste keys where models belong; from here on the name is shown.
        for name in [&mut facts.request.model, &mut facts.request.url_model, &mut facts.reply.model] {
            if let Some(masked) = name.as_deref().and_then(|name| redact_name(name, is_key)) {
                *name = Some(masked);
            }
        }
        // Other people's words, which end in logs, spreadsheets and on terminals.
        let words = [
            &mut facts.request.model,
            &mut facts.request.url_model,
            &mut facts.request.url,
            &mut facts.request.service_tier,
            &mut facts.request.reasoning_effort,
            &mut facts.reply.model,
            &mut facts.reply.service_tier,
            &mut facts.reply.id,
            &mut facts.reply.conversation_id,
        ];
        for word in words.into_iter().flatten().chain(&mut facts.reply.finish_reasons) {
            if let Some(shown) = printable(word) {
                *word = shown;
            }
        }
        let entry = facts.key.fingerprint.as_ref().and_then(|key| snapshot.keys.get(key));
        let worked = facts.key.fingerprint.as_ref().and_then(|key| {
            let last_success = self.lock().findings.history(key)?.last_success_at(&facts.server_address)?;
            now.duration_since(last_success).ok()
        });
        let judged = config.rules.judge(&facts, worked);

        let status = facts.response.as_ref().map(|response| response.status);
        let confirmed = status.is_some_and(|status| (200..300).contains(&status));
        let header = |name: &str| facts.response.as_ref().and_then(|response| response.header(name));
        let answering = facts.reply.model.as_deref().or_else(|| header("x-ms-served-model"));
        let (body_model, url_model) = (facts.request.model.as_deref(), facts.request.url_model.as_deref());
        let models = model::candidates(answering, body_model, url_model);
        let served_tier = facts.reply.service_tier.as_deref().or_else(|| account::served_tier(&facts));
        let tier = served_tier.or(facts.request.service_tier.as_deref());

        let repeated = self.lock().billed.repeats(&facts, confirmed);
        let (usage, parts, usage_source) = match billing::usage_counts(&facts, repeated) {
            false => (Usage::default(), &[][..], UsageSource::None),
            true => match config.estimate.then(|| estimate::estimate(&facts)).flatten() {
                Some(estimated) => (estimated, &facts.reply.parts[..], UsageSource::Estimated),
                None => {
                    let stated = facts.reply.usage.clone().unwrap_or_default();
                    let source = match () {
                        () if stated.is_empty() && facts.reply.parts.is_empty() => UsageSource::None,
                        () if facts.reply.injected => UsageSource::Injected,
                        () => UsageSource::Reported,
                    };
                    (stated, &facts.reply.parts[..], source)
                }
            },
        };
        let priced = match billing::why_not_billed(&facts, repeated, &usage, parts) {
            Some(reason) => Priced::unpriced(reason),
            None => config.prices.price(&PriceInput {
                provider: &facts.provider,
                price_as: facts.price_as.as_deref(),
                local: facts.local,
                models: &models,
                usage: &usage,
                parts,
                service_tier: tier,
                batch: facts.operation == crate::call::Operation::Batch,
                time: facts.started,
                stated_cost: facts.reply.stated_cost,
            }),
        };
        let listed = config.prices.listed(&facts.provider, facts.price_as.as_deref(), &models);
        let model_label = self.models.label(&models, listed.as_deref(), confirmed);
        let mut usage = usage;
        parts.iter().for_each(|part| usage.add(&part.usage));

        let mut account = account::account(&facts).map(|id| snapshot.accounts.show(&config.accounts, &id));
        let of_process = || facts.caller.as_ref().map(|caller| Arc::clone(&caller.name));
        let client = facts.client.clone().or_else(|| config.client.clone()).or_else(of_process);
        let mut findings = facts.key.findings.clone();
        let failed = judged.outcome != Outcome::Ok;
        let seen_retries = {
            let mut state = self.lock();
            if let Some(key) = &facts.key.fingerprint {
                state.findings.observe(
                    &Observed {
                        key,
                        short_lived: facts.key.short_lived,
                        named: entry.is_some(),
                        pool: entry.is_some_and(|entry| entry.pool),
                        host: &facts.server_address,
                        client: client.as_ref(),
                        account: account.as_ref(),
                        request_hash: facts.request.hash,
                        started: facts.started,
                        ended: now,
                        outcome: judged.outcome,
                        retry: judged.retry,
                        limits: &limits,
                        organization: OrgIds {
                            asked: (facts.key.organization.as_deref(), facts.key.project.as_deref()),
                            answered: (header("openai-organization"), header("openai-project")),
                        },
                    },
                    &mut findings,
                );
                // A refusal does not say who pays; earlier answers to the same key did.
                account = account.or_else(|| state.findings.history(key)?.account.clone());
            }
            state.retries.observe(facts.request.hash, facts.started, now, failed)
        };

        let without_key = |text: String| redact_name(&text, is_key).unwrap_or(text);
        let response_bytes = facts.response.as_ref().map_or(0, |response| response.bytes);
        Arc::new(CallRecord {
            time: facts.started,
            call_id: facts.call_id,
            way: facts.way,
            operation: facts.operation,
            protocol: facts.protocol,
            server_port: facts.server_port,
            request_model: body_model.or(url_model).map(str::to_owned),
            response_model: answering.map(str::to_owned),
            priced_model: priced.model_id.as_deref().map(str::to_owned),
            model_label,
            key_name: entry.map(|entry| entry.name.clone()),
            team: entry.and_then(|entry| entry.team.clone()),
            env: entry.and_then(|entry| entry.env.clone()),
            client,
            caller: facts.caller.clone(),
            labels: config.labels.clone(),
            account,
            status,
            outcome: judged.outcome,
            fault: judged.fault,
            retryable: judged.retry.is_retryable(),
            first_fix: judged.first_fix,
            error_type: judged.error_type.map(without_key),
            error_code: judged.error_code.map(without_key),
            provider_request_id: account::request_id(&facts)
                .map(|id| without_key(printable(id).unwrap_or_else(|| id.to_owned()))),
            stream: facts.reply.stream || facts.request.stream == Some(true),
            end: facts.end,
            usage,
            usage_source,
            cost: priced.cost,
            cost_stated: priced.stated,
            partly_priced: priced.partial,
            unpriced_tokens: priced.unpriced_tokens,
            unpriced_reason: priced.reason,
            service_tier: tier.map(str::to_owned),
            max_tokens: facts.request.max_tokens,
            temperature: facts.request.temperature,
            top_p: facts.request.top_p,
            choice_count: facts.request.choice_count,
            request_bytes: facts.request.bytes,
            response_bytes,
            retry_count: seen_retries.max(facts.request.sdk_retry_count.unwrap_or(0)),
            findings,
            limits,
            unreadable: facts.reply.unreadable.or(facts.request.unreadable),
            // What is only moved stands last: everything above borrows from `facts`.
            trace: facts.trace,
            provider: facts.provider,
            server_address: facts.server_address,
            method: facts.request.method,
            url: facts.request.url,
            key: facts.key.fingerprint,
            response_id: facts.reply.id,
            conversation_id: facts.reply.conversation_id,
            finish_reasons: facts.reply.finish_reasons,
            request_service_tier: facts.request.service_tier,
            reasoning_effort: facts.request.reasoning_effort,
            timing: facts.timing,
        })
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("models", &self.models).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
