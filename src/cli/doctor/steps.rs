//! The steps themselves: facts in, [`Report`] out. Pure but for the probe of the network, which is asked for only when no
//! earlier step explains the error.
//!
//! Each outcome and each finding lives at one step ([`of_outcome`], [`of_finding`]). A finding on the failed call that explains
//! its outcome is the cause; else the outcome is. Without an error, the first finding is worth knowing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::environment::{AddressVariable, Variables};
use super::probe::Probe;
use super::report::{Cause, CauseKind, Report, Status, Step, StepReport};
use super::seen::{Call, Key, Seen};
use super::trust::Trust;
use crate::call::{Fault, Finding, KeyPlace, Outcome};
use crate::cli::explain::meaning;
use crate::meter::Rules;
use crate::provider::Provider;

/// A failure that ended this long before the last success is past.
const PAST: Duration = Duration::from_secs(15 * 60);
/// Clocks that differ by more make signatures and certificates fail: AWS allows five minutes.
const CLOCK_FAILS: i64 = 300;
const CLOCK_WARNS: i64 = 60;
/// A request of this size takes many tokens, whatever its words.
const LARGE_REQUEST: u64 = 1 << 20;

/// All that a diagnosis rests on.
pub(super) struct Facts<'a> {
    /// What a sidecar tells.
    pub seen: Option<&'a Seen>,
    /// The key in question, as seen.
    pub key: Option<&'a Key>,
    /// A live request that was made.
    pub live: Option<Call>,
    pub provider: Option<&'a Arc<Provider>>,
    pub variables: Option<&'a Variables>,
    /// The local authority's file, and which variables bring it to a runtime; `None` when no call is opened with it.
    pub trust: Option<&'a (PathBuf, Vec<Trust>)>,
    /// Who told, or why nobody did.
    pub source: String,
    pub rules: &'a Rules,
    /// Asks the provider; `None` when that was not wanted.
    pub probe: Option<Box<dyn FnOnce() -> anyhow::Result<Probe> + 'a>>,
    pub now: SystemTime,
}

/// Where an outcome lives.
pub(super) fn of_outcome(outcome: Outcome) -> Option<Step> {
    Some(match outcome {
        Outcome::Ok => return None,
        Outcome::UnknownError => Step::LastError,
        Outcome::AuthMissing | Outcome::AuthInvalid | Outcome::AuthRevoked => Step::Key,
        Outcome::NotFound => Step::Header,
        Outcome::OrgProjectMismatch | Outcome::PermissionDenied | Outcome::ModelUnavailable => Step::Organization,
        Outcome::CreditExhausted
        | Outcome::SpendLimitReached
        | Outcome::RateLimitRequests
        | Outcome::RateLimitTokens
        | Outcome::RateLimitDaily
        | Outcome::RateLimitOther => Step::Billing,
        Outcome::InputTooLarge | Outcome::InvalidRequest | Outcome::ContentBlocked => Step::Request,
        Outcome::ClientCancelled => Step::Retries,
        Outcome::IpNotAllowed
        | Outcome::RegionUnsupported
        | Outcome::EdgeBlocked
        | Outcome::NetworkError
        | Outcome::GatewayError
        | Outcome::StreamTruncated
        | Outcome::ProviderOverloaded
        | Outcome::ProviderError => Step::Network,
    })
}

/// Where a finding lives.
pub(super) fn of_finding(finding: Finding) -> Step {
    match finding {
        Finding::KeyWhitespace
        | Finding::KeyHiddenUnicode
        | Finding::KeyQuoted
        | Finding::KeyEmpty
        | Finding::KeyMissing
        | Finding::KeyLiteralNull
        | Finding::KeyUnexpanded
        | Finding::KeyPlaceholder
        | Finding::KeyDoubleScheme
        | Finding::KeyIsUrlOrProse
        | Finding::KeyWrongProvider
        | Finding::KeyTruncated
        | Finding::AdminKeyOnDataPath
        | Finding::StaleKey
        | Finding::OldKeyStillUsed
        | Finding::IdleKey => Step::Key,
        Finding::KeyWrongPlace | Finding::KeyInUrl | Finding::KeyInBrowser | Finding::BothAuthHeaders => Step::Header,
        Finding::OrgHeaderSet => Step::Organization,
        Finding::QuantisedBurst | Finding::SharedKey => Step::Request,
        Finding::RetryStorm => Step::Retries,
    }
}

/// Whether a finding on a call is why it ended so.
fn explains(finding: Finding, outcome: Outcome, fault: Fault) -> bool {
    let refused = matches!(
        outcome,
        Outcome::AuthMissing
            | Outcome::AuthInvalid
            | Outcome::AuthRevoked
            | Outcome::PermissionDenied
            | Outcome::InvalidRequest
            | Outcome::UnknownError
    );
    match finding {
        Finding::StaleKey => matches!(outcome, Outcome::AuthInvalid | Outcome::AuthRevoked),
        Finding::OldKeyStillUsed | Finding::IdleKey => false,
        Finding::KeyInBrowser => refused || outcome == Outcome::EdgeBlocked,
        Finding::OrgHeaderSet => matches!(outcome, Outcome::OrgProjectMismatch | Outcome::ModelUnavailable) || refused,
        Finding::QuantisedBurst => outcome == Outcome::RateLimitRequests,
        Finding::SharedKey => matches!(
            outcome,
            Outcome::RateLimitRequests | Outcome::RateLimitTokens | Outcome::RateLimitDaily | Outcome::RateLimitOther
        ),
        // What a key, a project or an account must mend, no retry causes; what the application must, its retries multiply.
        Finding::RetryStorm => fault == Fault::Client,
        _ => refused,
    }
}

/// Runs the steps.
pub(super) fn diagnose(mut facts: Facts<'_>) -> Report {
    let probe = facts.probe.take();
    let error = facts.error();
    let mut doctor = Doctor { planned: facts.planned(error.as_ref()), facts: &facts, error, probe, cause: None };
    let mut steps = Vec::new();
    for &step in Step::ALL {
        let stopped = doctor.cause.as_ref().filter(|cause| cause.severity == Status::Fail);
        let (status, evidence, fix) = match stopped {
            Some(cause) => (Status::Skip, vec![format!("not needed: step {} explains the error", cause.number)], None),
            None => doctor.step(step),
        };
        steps.push(StepReport { number: step.number(), step, status, evidence, fix });
    }
    let cause = doctor.cause;
    let mut also: Vec<String> = facts.all_findings().into_iter().map(|finding| finding.to_string()).collect();
    also.retain(|id| cause.as_ref().is_none_or(|cause| cause.id != *id));
    Report {
        provider: facts.provider.map(|provider| provider.id.to_string()),
        key: facts.key.map(|key| key.key.clone()),
        source: facts.source.clone(),
        cause,
        also,
        steps,
    }
}

type Checked = (Status, Vec<String>, Option<String>);

struct Doctor<'a> {
    facts: &'a Facts<'a>,
    error: Option<Call>,
    /// What explains the error, decided by what was seen.
    planned: Option<Cause>,
    probe: Option<Box<dyn FnOnce() -> anyhow::Result<Probe> + 'a>>,
    cause: Option<Cause>,
}

// === impl Facts ===

impl Facts<'_> {
    /// The error to explain: a live one, else the last real one, unless all has been well for a while since.
    fn error(&self) -> Option<Call> {
        if let Some(live) = self.live.as_ref().filter(|live| live.outcome != Outcome::Ok) {
            return Some(live.clone());
        }
        let key = self.key?;
        let error = key.error()?;
        let time = |text: &str| text.parse::<jiff::Timestamp>().ok().map(SystemTime::from);
        let since = |success: &String| time(success)?.duration_since(time(&error.time)?).ok();
        let is_past = key.last_success.as_ref().and_then(since).is_some_and(|since| since > PAST);
        (!is_past).then(|| error.clone())
    }

    fn text(&self, id: &str) -> String {
        self.rules.fix(id).unwrap_or_default().to_owned()
    }

    fn cause(&self, step: Step, kind: CauseKind, id: &str, severity: Status, fix: String) -> Cause {
        Cause { number: step.number(), step, kind, id: id.to_owned(), severity, fix }
    }

    fn finding(&self, finding: Finding, severity: Status) -> Cause {
        let fix = self.text(finding.as_str());
        self.cause(of_finding(finding), CauseKind::Finding, finding.as_str(), severity, fix)
    }

    /// What explains the error; without one, what is worth knowing first.
    fn planned(&self, error: Option<&Call>) -> Option<Cause> {
        let by_step = |finding: &Finding| (of_finding(*finding), *finding);
        if let Some(error) = error {
            let explaining = error.findings.iter().copied().filter(|f| explains(*f, error.outcome, error.fault));
            if let Some(finding) = explaining.min_by_key(by_step) {
                return Some(self.finding(finding, Status::Fail));
            }
            let step = of_outcome(error.outcome)?;
            let fix = error.fix.clone().unwrap_or_else(|| self.text(error.outcome.as_str()));
            return Some(self.cause(step, CauseKind::Outcome, error.outcome.as_str(), Status::Fail, fix));
        }
        let now = self.key?.last.as_ref().map(|call| call.findings.clone()).unwrap_or_default();
        let finding = now.into_iter().min_by_key(by_step).or_else(|| self.key?.earlier().min_by_key(by_step))?;
        Some(self.finding(finding, Status::Warn))
    }

    fn all_findings(&self) -> Vec<Finding> {
        let mut all: Vec<Finding> = self.key.iter().flat_map(|key| key.earlier()).collect();
        all.extend(self.variables.iter().flat_map(|own| &own.keys).flat_map(|key| key.findings.iter().copied()));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// `held on the failed call`, `held on 3 of 12 calls`.
    fn told(&self, finding: Finding) -> String {
        let count = self.key.and_then(|key| key.findings.get(finding.as_str())?.as_u64());
        match (count, self.key) {
            (Some(count), Some(key)) => format!("{finding} on {count} of {}", calls(key.calls)),
            _ => finding.to_string(),
        }
    }
}

// === impl Doctor ===

impl Doctor<'_> {
    fn step(&mut self, step: Step) -> Checked {
        let mut checked = match step {
            Step::LastError => self.last_error(),
            Step::Key => self.key(),
            Step::Header => self.header(),
            Step::Organization => self.organization(),
            Step::Billing => self.billing(),
            Step::Request => self.request(),
            Step::Retries => self.retries(),
            Step::Network => self.network(),
            Step::Path => self.path(),
        };
        // What was found on the call and explains nothing is still worth knowing.
        let call = self.error.as_ref().or(self.facts.key.and_then(|key| key.last.as_ref()));
        for finding in call.iter().flat_map(|call| &call.findings).filter(|finding| of_finding(**finding) == step) {
            if self.planned.as_ref().is_none_or(|cause| cause.id != finding.as_str()) {
                checked.1.push(format!("also {}: {}", self.facts.told(*finding), self.facts.text(finding.as_str())));
                checked.0 = if checked.0 == Status::Fail { Status::Fail } else { Status::Warn };
            }
        }
        let here = self.planned.as_ref().filter(|cause| cause.step == step).cloned();
        if let Some(cause) = here.filter(|cause| self.cause.is_none() || cause.severity == Status::Fail) {
            checked.0 = cause.severity;
            checked.1.insert(0, self.because(&cause));
            checked.2 = Some(cause.fix.clone());
            self.cause = Some(cause);
        } else if let Some(error) = self.error.as_ref().filter(|error| of_outcome(error.outcome) == Some(step))
            && let Some(later) = self.planned.as_ref().filter(|cause| cause.step > step)
        {
            checked.0 = Status::Warn;
            checked.1.insert(0, format!("{}, for a reason of step {}", error.outcome, later.number));
        }
        checked
    }

    /// A cause in words.
    fn because(&self, cause: &Cause) -> String {
        match (cause.kind, &self.error) {
            (CauseKind::Outcome, Some(error)) => format!("{}: {}", error.outcome, meaning(error.outcome)),
            (CauseKind::Finding, Some(error)) => {
                let finding = cause.id.parse().map_or_else(|_| cause.id.clone(), |finding| self.facts.told(finding));
                format!("{finding}; it explains {}", error.outcome)
            }
            _ => cause.id.parse().map_or_else(|_| cause.id.clone(), |finding| self.facts.told(finding)),
        }
    }

    /// A cause that a check found by itself. The first one counts, and one that fails counts more than one that warns.
    fn found(&mut self, step: Step, id: &str, severity: Status, fix: &str) {
        let kind = if id.parse::<Finding>().is_ok() {
            CauseKind::Finding
        } else if id.parse::<Outcome>().is_ok() {
            CauseKind::Outcome
        } else {
            CauseKind::Check
        };
        let is_first = self.cause.as_ref().is_none_or(|own| own.severity == Status::Warn && severity == Status::Fail);
        // What was seen to fail decides, wherever it stands; what is only worth knowing waits for its step.
        let waits =
            self.planned.as_ref().is_some_and(|planned| planned.severity == Status::Fail || planned.step <= step);
        if is_first && (!waits || (severity == Status::Fail && self.error.is_none())) {
            self.cause = Some(self.facts.cause(step, kind, id, severity, fix.to_owned()));
        }
    }

    fn last_error(&mut self) -> Checked {
        let mut evidence = Vec::new();
        if let Some(live) = &self.facts.live {
            evidence.push(match live.outcome {
                Outcome::Ok => "the live request was answered: the key works".to_owned(),
                outcome => format!("the live request: {}", described(live, outcome)),
            });
        }
        let Some(key) = self.facts.key else {
            if evidence.is_empty() {
                return (
                    Status::Skip,
                    vec!["no call was seen; only what stands here can be looked at".to_owned()],
                    None,
                );
            }
            let status = if self.error.is_some() { Status::Warn } else { Status::Pass };
            return (status, evidence, None);
        };
        match key.error() {
            Some(error) => {
                let when = ago(&error.time, self.facts.now);
                evidence.push(format!("{when}: {}", described(error, error.outcome)));
                if !error.call_id.is_empty() {
                    evidence.push(format!("call {}, {} {}", error.call_id, error.operation, error.model));
                }
            }
            None => evidence.push("no call has failed".to_owned()),
        }
        let good = key
            .last_success
            .as_deref()
            .map_or("none went well yet".to_owned(), |time| format!("the last good one {}", ago(time, self.facts.now)));
        evidence.push(format!("{} of {} failed, as far as they are known; {good}", key.failures, calls(key.calls)));
        if self.error.is_none() && key.error().is_some() {
            evidence.push("calls have gone well for a while since: the error is past".to_owned());
        }
        (if self.error.is_some() { Status::Warn } else { Status::Pass }, evidence, None)
    }

    fn key(&mut self) -> Checked {
        let (mut status, mut evidence, mut fix) = (Status::Pass, Vec::new(), None);
        let mut known = false;
        if let Some(key) = self.facts.key {
            known = true;
            evidence.push(match &key.fingerprint {
                Some(fingerprint) if fingerprint.as_str() == key.key => format!("{fingerprint} arrives"),
                Some(fingerprint) => format!("{} ({fingerprint}) arrives", key.key),
                None => "calls arrive without a key".to_owned(),
            });
        }
        let Some(variables) = self.facts.variables else {
            return if known {
                (status, evidence, fix)
            } else {
                (Status::Skip, vec!["no provider is known; --provider names one".to_owned()], None)
            };
        };
        let is_refusal =
            self.error.as_ref().is_none_or(|error| explains(Finding::KeyQuoted, error.outcome, error.fault));
        match variables.keys.split_first() {
            None => {
                let names = variables.wanted.join(", ");
                if names.is_empty() {
                    evidence.push("no SDK of this provider reads its key from a variable that is known".to_owned());
                } else {
                    evidence.push(format!(
                        "{names}: not set here{}",
                        if known { "; where the application runs it may be" } else { "" }
                    ));
                }
                for (wrong, right) in &variables.mistaken {
                    evidence.push(format!("{wrong} is set, which no SDK reads: {right} is the name"));
                    status = Status::Warn;
                }
                if !known && !names.is_empty() {
                    let text = self.facts.text(Finding::KeyMissing.as_str());
                    status = Status::Fail;
                    self.found(Step::Key, Finding::KeyMissing.as_str(), Status::Fail, &text);
                    fix = Some(text);
                }
            }
            Some((first, others)) => {
                let place = if first.from_file { " (in .env)" } else { "" };
                evidence.push(format!(
                    "{}{place} is set{}",
                    first.name,
                    first.fingerprint.as_ref().map_or(String::new(), |own| format!(": {own}"))
                ));
                for other in others.iter().filter(|other| *other.value != *first.value) {
                    evidence.push(format!("{} is set to another key; {} wins", other.name, first.name));
                }
                let seen = self.facts.key.and_then(|key| key.fingerprint.as_ref());
                let is_other = seen.is_some() && first.fingerprint.is_some() && seen != first.fingerprint.as_ref();
                if is_other {
                    evidence.push("it is not the key that arrives: the application has it from elsewhere".to_owned());
                }
                let worst = first.findings.iter().copied().min_by_key(|finding| (of_finding(*finding), *finding));
                if let Some(finding) = worst {
                    let list: Vec<_> = first.findings.iter().map(|finding| finding.as_str()).collect();
                    evidence.push(format!("what it holds: {}", list.join(", ")));
                    let text = self.facts.text(finding.as_str());
                    let severity = if is_refusal && !is_other { Status::Fail } else { Status::Warn };
                    status = severity;
                    self.found(Step::Key, finding.as_str(), severity, &text);
                    fix = Some(text);
                } else if !is_other {
                    evidence.push("it is clean: no blanks, quotes, placeholder or foreign prefix".to_owned());
                }
            }
        }
        (status, evidence, fix)
    }

    fn header(&mut self) -> Checked {
        let Some(provider) = self.facts.provider else { return skip("no provider is known") };
        let places: Vec<_> = provider.auth.iter().map(|place| header_form(*place)).collect();
        let mut evidence = vec![format!("{} takes {}", provider.name, places.join(", or "))];
        if provider.local {
            evidence = vec![format!("{} needs no key", provider.name)];
        }
        (Status::Pass, evidence, None)
    }

    fn organization(&mut self) -> Checked {
        let (mut status, mut evidence) = (Status::Pass, Vec::new());
        if let Some(variables) = self.facts.variables.filter(|variables| !variables.organization.is_empty()) {
            evidence.push(format!("{} set here: the key must belong to it", variables.organization.join(" and ")));
            if variables.organization.contains(&"OPENAI_ORGANIZATION") {
                evidence.push("OPENAI_ORGANIZATION is read by old SDKs only; new ones read OPENAI_ORG_ID".to_owned());
                status = Status::Warn;
            }
        }
        if let Some(key) = self.facts.key.filter(|key| !key.accounts.is_empty()) {
            evidence.push(format!("answers name the account {}", key.accounts.join(", ")));
        }
        if evidence.is_empty() {
            evidence.push("no organization or project is named".to_owned());
        }
        (status, evidence, None)
    }

    fn billing(&mut self) -> Checked {
        let Some(key) = self.facts.key else { return skip("no answer was seen") };
        let mut status = Status::Pass;
        let mut evidence: Vec<String> = Vec::new();
        for limit in &key.limits {
            let number = |value: Option<f64>| value.map_or("?".to_owned(), |value| value.to_string());
            let reset = limit.reset.as_ref().map_or(String::new(), |reset| format!(", whole again at {reset}"));
            evidence.push(format!(
                "{}: {} of {} left{reset}",
                limit.resource,
                number(limit.remaining),
                number(limit.limit)
            ));
            if limit.remaining.is_some_and(|left| left <= 0.0) {
                status = Status::Warn;
            }
        }
        if let Some(wait) = self.error.as_ref().and_then(|error| error.retry_after_seconds) {
            evidence.push(format!("the provider asked to wait {wait} s"));
        }
        if evidence.is_empty() {
            evidence.push("no answer stated a limit, none spoke of money".to_owned());
        }
        (status, evidence, None)
    }

    fn request(&mut self) -> Checked {
        let Some(call) = self.error.as_ref().or(self.facts.key.and_then(|key| key.last.as_ref())) else {
            return skip("no call was seen");
        };
        let mut evidence = vec![format!("body of {} bytes", call.request_bytes)];
        if let Some(key) = self.facts.key.filter(|key| key.clients.len() > 1) {
            let names: Vec<_> = key.clients.iter().take(4).map(|client| client.client.as_str()).collect();
            let more = if key.clients.len() > names.len() { ", …" } else { "" };
            evidence.push(format!("{} applications use this key: {}{more}", key.clients.len(), names.join(", ")));
        }
        let status = if call.request_bytes >= LARGE_REQUEST {
            evidence.push("that is large: images and files inside a request count as tokens, too".to_owned());
            Status::Warn
        } else {
            Status::Pass
        };
        (status, evidence, None)
    }

    fn retries(&mut self) -> Checked {
        let Some(key) = self.facts.key else { return skip("no call was seen") };
        let mut evidence = vec![match key.retries {
            0 => "none seen".to_owned(),
            count => format!("{count} of {} repeated one that had just failed", calls(key.calls)),
        }];
        if let Some(error) = &self.error {
            if error.retry_count > 0 {
                evidence.push(format!("the failed call was try {} of the same request", error.retry_count + 1));
            }
            let advice =
                if error.retryable { "may be sent again, with backoff" } else { "must not be sent again unchanged" };
            evidence.push(format!("a call that ends with {} {advice}", error.outcome));
        }
        (Status::Pass, evidence, None)
    }

    fn network(&mut self) -> Checked {
        let Some(probe) = self.probe.take() else { return skip("not asked for") };
        let probe = match probe() {
            Ok(probe) => probe,
            Err(error) => return (Status::Skip, vec![format!("{error:#}")], None),
        };
        let (mut status, mut evidence, mut fix) = (Status::Pass, Vec::new(), None);
        if let Some(proxy) = &probe.proxy {
            evidence.push(format!("through the proxy {proxy}"));
        }
        match &probe.addresses {
            Some(Ok(addresses)) => {
                let shown: Vec<_> = addresses.iter().take(3).map(ToString::to_string).collect();
                evidence.push(format!("{} is {}", probe.target, shown.join(", ")));
            }
            Some(Err(error)) => evidence.push(format!("{}: {error}", probe.target)),
            None => evidence.push(format!("{}: its name is the proxy's matter", probe.target)),
        }
        let millis = probe.took.as_millis();
        match &probe.answer {
            Err(error) => {
                let text = self.facts.rules.generated_fix(error.kind).to_owned();
                evidence.push(format!("no answer ({}): {}", error.kind, error.detail));
                (status, fix) = (Status::Fail, Some(text.clone()));
                self.found(Step::Network, Outcome::NetworkError.as_str(), Status::Fail, &text);
            }
            Ok(answer) => {
                let steps = if probe.https { "TCP, TLS and HTTP" } else { "TCP and HTTP" };
                let server = answer.server.as_ref().map_or(String::new(), |server| format!(" by {server}"));
                evidence.push(format!(
                    "{steps} work: GET {} was answered {}{server} in {millis} ms",
                    probe.path, answer.status
                ));
                let verdict = &answer.verdict;
                if of_outcome(verdict.outcome) == Some(Step::Network) {
                    let text = self.facts.text(&verdict.first_fix);
                    evidence.push(format!("{}: {}", verdict.outcome, meaning(verdict.outcome)));
                    (status, fix) = (Status::Fail, Some(text.clone()));
                    self.found(Step::Network, verdict.outcome.as_str(), Status::Fail, &text);
                }
                match answer.clock_ahead {
                    Some(ahead) if ahead.abs() > CLOCK_WARNS => {
                        let severity = if ahead.abs() > CLOCK_FAILS { Status::Fail } else { Status::Warn };
                        let text = "set this machine's clock (NTP): signatures and certificates depend on it";
                        let way = if ahead > 0 { "ahead of" } else { "behind" };
                        evidence.push(format!("this clock is {} s {way} the provider's", ahead.abs()));
                        if status != Status::Fail {
                            (status, fix) = (severity, Some(text.to_owned()));
                            self.found(Step::Network, "clock", severity, text);
                        }
                    }
                    Some(_) => evidence.push("the clocks agree".to_owned()),
                    None => evidence.push("the answer has no Date to compare the clock with".to_owned()),
                }
            }
        }
        (status, evidence, fix)
    }

    /// Calls that pass as through a proxy are opened with the local authority: who does not trust it?
    fn distrust(&self, evidence: &mut Vec<String>) -> Option<(&'static str, String)> {
        let Some((path, trusts)) = self.facts.trust else {
            evidence.push(
                "calls through it are not opened: there is no local certificate authority, or it is off".to_owned(),
            );
            return None;
        };
        let mut is_known = false;
        for trust in trusts {
            match &trust.trusts {
                Some(Ok(true)) => {
                    is_known = true;
                    evidence.push(format!("{} brings the local CA to {}", trust.name, trust.read_by));
                }
                Some(Ok(false)) => {
                    evidence.push(format!("{}: the local CA is not in it ({})", trust.name, trust.read_by))
                }
                Some(Err(error)) => evidence.push(format!("{}: {error}", trust.name)),
                None => {}
            }
        }
        let is_wrong = trusts.iter().any(|trust| matches!(trust.trusts, Some(Ok(false) | Err(_))));
        if is_known && !is_wrong {
            return None;
        }
        if !is_known {
            evidence.push(format!("no variable here brings the local CA ({}) to a runtime", path.display()));
        }
        let fix = "set NODE_EXTRA_CA_CERTS to what keytally ca path prints, SSL_CERT_FILE and REQUESTS_CA_BUNDLE to what \
                   keytally ca bundle prints, or start the application with keytally run";
        Some(("ca_not_trusted", fix.to_owned()))
    }

    fn path(&mut self) -> Checked {
        let Some(proxy) = self.facts.seen.and_then(Seen::proxy) else {
            return skip("no sidecar was asked");
        };
        let (mut status, mut evidence, mut fix) = (Status::Pass, Vec::new(), None);
        let count = self.facts.key.map_or(0, |key| key.calls);
        if count > 0 {
            evidence.push(format!("{} of this key came through the sidecar on {proxy}", calls(count)));
        }
        let prefix = self.facts.provider.and_then(|provider| provider.prefixes().next()).unwrap_or("openai");
        let variables = self.facts.variables;
        for own in variables.iter().flat_map(|variables| &variables.base_urls) {
            let leads = leads_to(own, proxy);
            if leads {
                evidence.push(format!("{} leads to the sidecar", own.name));
                continue;
            }
            let text = format!(
                "set {}=http://{proxy}/{prefix}…, see docs/sdks.md, or start the application with keytally run",
                own.name
            );
            evidence.push(format!("{} leads to {}: such calls are not seen", own.name, own.shown));
            status = Status::Warn;
            self.found(Step::Path, "not_through_keytally", Status::Warn, &text);
            fix = Some(text);
        }
        let through = variables.and_then(|own| own.proxies.iter().find(|own| leads_to(own, proxy)));
        if let Some(own) = through {
            evidence.push(format!("{} leads to the sidecar", own.name));
            if let Some((problem, text)) = self.distrust(&mut evidence) {
                status = Status::Warn;
                self.found(Step::Path, problem, Status::Warn, &text);
                fix = Some(text);
            }
        } else if let Some(own) = variables.and_then(|own| own.proxies.first().filter(|_| !own.loopback_excepted)) {
            let text = "set NO_PROXY=127.0.0.1,localhost, so that calls reach the sidecar";
            evidence.push(format!("{} is {}, and NO_PROXY does not except this machine", own.name, own.shown));
            status = Status::Warn;
            self.found(Step::Path, "proxy_in_the_way", Status::Warn, text);
            fix.get_or_insert_with(|| text.to_owned());
        }
        if evidence.is_empty() {
            let text = format!(
                "set the SDK's base URL to http://{proxy}/{prefix}…, see docs/sdks.md, or start the application with keytally run"
            );
            evidence.push("no call came through the sidecar, and no base-URL variable is set here".to_owned());
            status = Status::Warn;
            self.found(Step::Path, "not_through_keytally", Status::Warn, &text);
            fix = Some(text);
        }
        (status, evidence, fix)
    }
}

/// The address is the sidecar's proxy port.
fn leads_to(own: &AddressVariable, proxy: SocketAddr) -> bool {
    own.url.as_ref().is_some_and(|url| {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = matches!(host, "localhost" | "127.0.0.1" | "::1") || host == proxy.ip().to_string();
        is_here && url.port_or_known_default() == Some(proxy.port())
    })
}

fn skip(why: &str) -> Checked {
    (Status::Skip, vec![why.to_owned()], None)
}

fn described(call: &Call, outcome: Outcome) -> String {
    let mut parts = Vec::new();
    parts.extend(call.status.map(|status| format!("status {status}")));
    parts.extend(call.error_type.as_ref().map(|name| format!("type {name}")));
    parts.extend(call.error_code.as_ref().map(|code| format!("code {code}")));
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    format!("{outcome}{parts}: {}", meaning(outcome))
}

fn calls(count: u64) -> String {
    format!("{count} call{}", if count == 1 { "" } else { "s" })
}

/// Time since, in the largest unit that fits.
fn ago(time: &str, now: SystemTime) -> String {
    let then = time.parse::<jiff::Timestamp>().ok().map(SystemTime::from);
    match then.and_then(|then| now.duration_since(then).ok()) {
        Some(since) => crate::meter::ago(since),
        None => time.to_owned(),
    }
}

fn header_form(place: KeyPlace) -> &'static str {
    match place {
        KeyPlace::Bearer => "\"Authorization: Bearer KEY\"",
        KeyPlace::Basic => "HTTP basic authentication",
        KeyPlace::SigV4 => "an AWS signature (SigV4)",
        KeyPlace::RawAuthorization => "\"Authorization: KEY\"",
        KeyPlace::XApiKey => "\"x-api-key: KEY\"",
        KeyPlace::ApiKey => "\"api-key: KEY\"",
        KeyPlace::XGoogApiKey => "\"x-goog-api-key: KEY\"",
        KeyPlace::SubscriptionKey => "\"ocp-apim-subscription-key: KEY\"",
        KeyPlace::Query => "\"?key=KEY\" in the address",
        KeyPlace::PresignedQuery => "a presigned AWS address",
        KeyPlace::WebSocketProtocol => "a WebSocket protocol that holds it",
    }
}

#[cfg(test)]
mod tests;
