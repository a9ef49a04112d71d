//! `keytally explain`: what an error of a provider means, whose fault it is, and what to do first.
//!
//! In: a pasted error, from a file or standard input ([`paste`]), or the id of a call in the ledger. Out: the verdict of the
//! rules by which the sidecar itself judges calls ([`Rules::explain`]), with their reasons. Needs no sidecar and sends nothing. What is shown of the
//! input is redacted: people paste keys. At most 1 MiB of each input is read.

mod guess;
mod literal;
mod paste;

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, finish, print};
use crate::call::{CallRecord, End, Fault, Outcome, Retry};
use crate::ledger::Reader;
use crate::meter::{Confidence, Evidence, Explained, Reason, Rules};
use crate::provider::{Catalog, read_limits};
use crate::terminal::clean;

/// Longest input.
const INPUT_BYTES: u64 = 1 << 20;
/// Width of the first column.
const COLUMN: usize = 12;

/// Flags of `explain`.
#[derive(Args, Clone, Debug)]
pub(super) struct ExplainArgs {
    /// Files with one error each, `-` for standard input (the default), or ids of calls in the ledger (call_id, or the
    /// provider's own request id)
    #[arg(value_name = "FILE|ID")]
    inputs: Vec<String>,
    /// Provider that answered, where the text does not tell (an id of the catalogue, for instance openai)
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// HTTP status of the answer, where the text does not tell
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u16).range(100..600))]
    status: Option<u16>,
    /// File with the answer's headers, one a line
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// Ledger to find calls in, instead of the configured one
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// How to tell it
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object an input
    Json,
}

/// What is known besides the text.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Catalogue id.
    pub provider: Option<String>,
    /// HTTP status.
    pub status: Option<u16>,
    /// Headers of the answer, as text.
    pub headers: Option<String>,
}

/// An explained error, fit to be shown.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Verdict and reasons.
    pub explained: Explained,
    /// Text of the first fix.
    pub fix: String,
    /// Other meanings: outcome, text of its first fix, the rule that says so.
    pub alternatives: Vec<(Outcome, String, Option<String>)>,
    /// What it was made from.
    pub given: Given,
}

/// What an explanation was made from.
#[derive(Clone, Debug)]
pub struct Given {
    /// Catalogue id.
    pub provider: Option<String>,
    /// Why it is thought to be that one, when it was guessed.
    pub guessed: Option<String>,
    /// HTTP status, as told or as the text says.
    pub status: Option<u16>,
    /// The wait that the answer asks for.
    pub retry_after: Option<Duration>,
    /// How the text was read.
    pub form: &'static str,
    /// The provider's page about its errors.
    pub docs: Option<String>,
    /// The call, where it is one of the ledger's.
    pub call: Option<String>,
}

/// Explains each input.
pub(super) fn run(args: ExplainArgs) -> Exit {
    match tell(&args) {
        Ok(text) => print(&text),
        Err(error) => finish(Err(error)),
    }
}

fn tell(args: &ExplainArgs) -> anyhow::Result<String> {
    let config = super::source(args.config.clone(), None, None).load()?.config;
    let catalog = Catalog::build(&config.providers).map_err(|errors| anyhow::anyhow!("{}", errors[0]))?;
    let rules = Rules::build(&config.rules).map_err(|errors| anyhow::anyhow!("{}", errors[0]))?;
    if let Some(id) = args.provider.as_deref()
        && catalog.provider(id).is_none()
    {
        bail!(
            "--provider {}: not in the catalogue; write an id such as openai, or add it under providers: in config",
            short(id)
        );
    }
    let headers = args.headers.as_deref().map(from_file).transpose()?;
    let known = Known { provider: args.provider.clone(), status: args.status, headers };
    let standard = [String::from("-")];
    let inputs = if args.inputs.is_empty() { &standard[..] } else { &args.inputs };
    let mut out = String::new();
    let add = |out: &mut String, explanation: Explanation, index: usize, input: &str| match args.format {
        Format::Json => *out += &format!("{:#}\n", explanation.json()),
        Format::Text => {
            if inputs.len() > 1 {
                *out += &format!("{}== {input}\n", if index == 0 { "" } else { "\n" });
            }
            *out += &explanation.text();
        }
    };
    for (index, input) in inputs.iter().enumerate() {
        let id = (input != "-" && !Path::new(input).exists()).then_some(input.as_str());
        let ledger = args.ledger.as_deref().or(config.ledger.as_ref().map(|ledger| ledger.path.as_path()));
        if let (Some(id), Some(path)) = (id.filter(|id| is_id(id)), ledger) {
            let found = Reader::open(path)?.find(id, 1)?;
            let Some(record) = found.first() else {
                bail!("{id}: neither a file nor a call in the ledger {}", path.display());
            };
            add(&mut out, of_record(record, &catalog, &rules), index, input);
            continue;
        }
        let text = if input == "-" { from_input()? } else { from_file(Path::new(input))? };
        if text.trim().is_empty() && known.status.is_none() && known.headers.is_none() {
            bail!(
                "{}: nothing in it; paste the error that the provider or the SDK gave",
                if input == "-" { "standard input" } else { input }
            );
        }
        add(&mut out, explain(&text, &known, &catalog, &rules), index, input);
    }
    Ok(out)
}

/// Ids have no folder and no blank; a longer text is a file that is not there.
fn is_id(text: &str) -> bool {
    (4..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':'))
}

/// What is known of a call that was judged when it was made. Its body is not kept: what the body said is in the outcome.
fn of_record(record: &CallRecord, catalog: &Catalog, rules: &Rules) -> Explanation {
    let error = json!({ "error": { "type": record.error_type, "code": record.error_code } }).to_string();
    let told = record.error_type.is_some() || record.error_code.is_some();
    let evidence = Evidence {
        provider: &record.provider,
        status: record.status,
        error_body: Some(error.as_bytes()).filter(|_| told),
        end: record.end,
        blocked: record.outcome == Outcome::ContentBlocked,
        credential_present: record.key.is_some(),
        ..Evidence::default()
    };
    let mut explained = rules.explain(&evidence);
    let said = "its whole answer, when the call was made; of that the ledger keeps status, type and code".to_owned();
    if explained.verdict.outcome != record.outcome {
        explained.alternatives.clear();
        explained.reasons.clear();
        let verdict = &mut explained.verdict;
        verdict.retry = if record.retryable { Retry::Backoff } else { Retry::Never };
        verdict.rule = "(not kept)".into();
        verdict.confidence = Confidence::High;
    }
    explained.reasons.insert(0, Reason { kind: "judged by", found: said });
    let verdict = &mut explained.verdict;
    (verdict.outcome, verdict.fault) = (record.outcome, record.fault);
    if record.outcome == Outcome::Ok {
        verdict.retry = Retry::NotNeeded;
    }
    verdict.first_fix = record.first_fix.clone().unwrap_or_else(|| record.outcome.as_str().into());
    verdict.error_type.clone_from(&record.error_type);
    verdict.error_code.clone_from(&record.error_code);
    explained.said = None;
    let call = format!(
        "{}, {} {}, key {}, call {}",
        crate::export::metrics::rfc3339(record.time),
        record.operation,
        record.model_label,
        record.key_label(),
        record.call_id
    );
    let provider = catalog.provider(&record.provider);
    let given = Given {
        provider: Some(record.provider.to_string()),
        guessed: None,
        status: record.status,
        retry_after: None,
        form: "a call of the ledger",
        docs: provider.map(|provider| provider.docs.to_string()),
        call: Some(call),
    };
    Explanation::new(explained, given, rules)
}

/// What `text` means, by `rules`. Always answers.
pub fn explain(text: &str, known: &Known, catalog: &Catalog, rules: &Rules) -> Explanation {
    let mut pasted = paste::read(text);
    if let Some(given) = known.headers.as_deref().map(paste::read_headers) {
        pasted.status = given.status.or(pasted.status);
        pasted.headers.splice(0..0, given.headers);
    }
    pasted.status = known.status.or(pasted.status);
    let guess = match &known.provider {
        Some(_) => None,
        None => guess::guess(text, &pasted, catalog),
    };
    let provider_id = known.provider.clone().or_else(|| guess.as_ref().map(|guess| guess.provider.clone()));
    let provider = provider_id.as_deref().and_then(|id| catalog.provider(id));

    let failed = pasted.status.is_some_and(|status| status >= 400);
    let evidence = Evidence {
        provider: provider_id.as_deref().unwrap_or_default(),
        status: pasted.status,
        headers: &pasted.headers,
        error_body: Some(&pasted.body).filter(|body| failed || !body.is_empty()).map(Vec::as_slice),
        end: if pasted.truncated { End::Truncated } else { End::Complete },
        generated: pasted.unanswered,
        credential_present: !pasted.without_credential,
        local: provider.is_some_and(|provider| provider.local),
        ..Evidence::default()
    };
    let evidence = match pasted.status {
        Some(_) => evidence,
        // Without a status it may be any answer: an ordinary one is no error, all else is taken for one.
        None => {
            let as_answer = Evidence { status: Some(200), ..evidence };
            let whole = pasted.unanswered.is_some() || is_answer(&pasted.body);
            if whole { as_answer } else { Evidence { in_stream: true, end: End::ErrorEvent, ..evidence } }
        }
    };
    let explained = rules.explain(&evidence);

    let body = String::from_utf8_lossy(&pasted.body);
    let style = provider.or_else(|| catalog.provider("openai")).map(|provider| &provider.limits);
    let limits = style.map(|style| read_limits(style, &pasted.headers, Some(&body), SystemTime::now()));
    let given = Given {
        guessed: guess.map(|guess| guess.why),
        status: pasted.status,
        retry_after: limits.and_then(|limits| limits.retry_after),
        form: pasted.form,
        docs: provider.map(|provider| provider.docs.to_string()),
        provider: provider_id,
        call: None,
    };
    Explanation::new(explained, given, rules)
}

/// An ordinary answer of one of the formats.
fn is_answer(body: &[u8]) -> bool {
    let value = serde_json::from_slice::<Value>(body).unwrap_or(Value::Null);
    let has = |key: &str| value.get(key).is_some_and(|part| !part.is_null());
    !has("error") && ["choices", "candidates", "content", "output", "usage", "embeddings"].iter().any(|key| has(key))
}

// === impl Explanation ===

impl Explanation {
    fn new(explained: Explained, given: Given, rules: &Rules) -> Self {
        let text_of = |id: &str| rules.fix(id).unwrap_or_default().to_owned();
        let alternatives = explained
            .alternatives
            .iter()
            .map(|other| (other.outcome, text_of(&other.first_fix), other.rule.as_deref().map(str::to_owned)));
        let alternatives = alternatives.collect();
        Self { fix: text_of(&explained.verdict.first_fix), alternatives, explained, given }
    }

    /// For programs. Names are stable.
    pub fn json(&self) -> Value {
        let verdict = &self.explained.verdict;
        let alternatives = self
            .alternatives
            .iter()
            .map(|(outcome, fix, rule)| json!({ "outcome": outcome, "first_fix": fix, "rule": rule }));
        json!({
            "outcome": verdict.outcome,
            "fault": verdict.fault,
            "retry": verdict.retry,
            "retryable": verdict.retry.is_retryable(),
            "retry_after_seconds": self.given.retry_after.map(|wait| wait.as_secs_f64()),
            "first_fix": { "id": &*verdict.first_fix, "text": self.fix },
            "confidence": verdict.confidence.as_str(),
            "rule": &*verdict.rule,
            "reasons": self.explained.reasons,
            "alternatives": alternatives.collect::<Vec<_>>(),
            "provider": self.given.provider,
            "provider_guessed_from": self.given.guessed,
            "status": self.given.status,
            "error_type": verdict.error_type,
            "error_code": verdict.error_code,
            "provider_says": self.explained.said,
            "read_as": self.given.form,
            "call": self.given.call,
            "docs": self.given.docs,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let verdict = &self.explained.verdict;
        let mut text = String::new();
        let mut row = |name: &str, value: &str| text += &wrapped(name, value);
        row("outcome", &format!("{}: {}", verdict.outcome, meaning(verdict.outcome)));
        row("fault", whose(verdict.fault));
        row("first fix", &self.fix);
        row("retry", &self.retry());
        row("how sure", &format!("{}, by rule {}", verdict.confidence.as_str(), verdict.rule));
        for reason in &self.explained.reasons {
            row("", &format!("{}: {}", reason.kind, reason.found));
        }
        for (index, (outcome, fix, rule)) in self.alternatives.iter().enumerate() {
            let rule = rule.as_ref().map_or(String::new(), |rule| format!(" (rule {rule} holds as well)"));
            row(if index == 0 { "or else" } else { "" }, &format!("{outcome}: {fix}{rule}"));
        }
        let is_shown = |said: &&String| self.explained.reasons.iter().any(|reason| reason.found == **said);
        if let Some(said) = self.explained.said.as_ref().filter(|said| !is_shown(said)) {
            row("it says", said);
        }
        let provider = match (&self.given.provider, &self.given.guessed) {
            (None, _) => "unknown; --provider names it".to_owned(),
            (Some(id), None) => id.clone(),
            (Some(id), Some(why)) => format!("{id}, guessed from {why}"),
        };
        row("provider", &provider);
        if let Some(docs) = &self.given.docs {
            row("", docs);
        }
        if let Some(call) = &self.given.call {
            row("call", call);
        }
        let status = self.given.status.map_or("without a status".to_owned(), |status| format!("status {status}"));
        row("read as", &format!("{}, {status}", self.given.form));
        text
    }

    fn retry(&self) -> String {
        let wait = self.given.retry_after.map(|wait| format!("{} s", wait.as_secs_f64()));
        match self.explained.verdict.retry {
            Retry::NotNeeded => "not needed".to_owned(),
            Retry::Never => "no: the same request will fail again".to_owned(),
            Retry::Once => "once".to_owned(),
            Retry::Backoff => match wait {
                Some(wait) => format!("yes, after {wait} at least, with backoff"),
                None => "yes, with exponential backoff and jitter".to_owned(),
            },
            Retry::AfterHint => match wait {
                Some(wait) => format!("yes, after {wait}, as the answer says"),
                None => {
                    "yes, after the wait that retry-after names, else with exponential backoff and jitter".to_owned()
                }
            },
        }
    }
}

/// One row, folded to the width of a page.
fn wrapped(name: &str, value: &str) -> String {
    const WIDTH: usize = 100;
    let mut out = format!("{name:<COLUMN$}");
    let mut used = COLUMN;
    // Parts of it are the provider's own words.
    let words = value.split_whitespace().map(clean).filter(|word| !word.is_empty());
    for (index, word) in words.enumerate() {
        let length = word.chars().count();
        if index > 0 && used + 1 + length > WIDTH {
            out += &format!("\n{:COLUMN$}", "");
            used = COLUMN;
        } else if index > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(&word);
        used += length;
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// What an outcome is, in a few words.
pub(super) fn meaning(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "a complete answer",
        Outcome::ContentBlocked => "the provider refused prompt or answer for its policy",
        Outcome::AuthMissing => "no credential arrived",
        Outcome::AuthInvalid => "the credential was not accepted",
        Outcome::AuthRevoked => "the credential was good once: expired, leaked, blocked, or its account disabled",
        Outcome::OrgProjectMismatch => "the key does not belong to the organization or project that is named",
        Outcome::IpNotAllowed => "an allow-list refuses the address that the call came from",
        Outcome::RegionUnsupported => "the provider does not serve the country that the call came from",
        Outcome::PermissionDenied => "the key works, but lacks a scope, role, API or verification",
        Outcome::ModelUnavailable => "the model is unknown, retired, or not open to this key",
        Outcome::NotFound => "path, route or object does not exist",
        Outcome::RateLimitRequests => "too many requests for the limit of a minute or second",
        Outcome::RateLimitTokens => "too many tokens for the limit of a minute",
        Outcome::RateLimitDaily => "the allowance of a day, month or plan window is used up",
        Outcome::RateLimitOther => "a limit of parallel calls, or one that is not named",
        Outcome::CreditExhausted => "no money: balance empty, billing inactive, or bill overdue",
        Outcome::SpendLimitReached => "a spending cap is reached, though there may be money left",
        Outcome::InputTooLarge => "prompt or body is over the limit",
        Outcome::InvalidRequest => "the request itself is wrong",
        Outcome::ProviderOverloaded => "the provider has no capacity; not a limit of this key",
        Outcome::ProviderError => "a fault of the provider",
        Outcome::GatewayError => "a proxy or load balancer answered instead of the API",
        Outcome::EdgeBlocked => "a firewall or proxy refused before the API saw the key",
        Outcome::StreamTruncated => "the answer began and broke off",
        Outcome::NetworkError => "no HTTP answer came",
        Outcome::ClientCancelled => "the application went away first",
        Outcome::UnknownError => "an error that no rule knows",
    }
}

fn whose(fault: Fault) -> &'static str {
    match fault {
        Fault::None => "nobody's",
        Fault::Key => "the key's: whoever issued or deployed it must act",
        Fault::Config => "the configuration's: whoever set up the application or the project must act",
        Fault::Traffic => "the traffic's: more is sent than the limit allows",
        Fault::Account => "the account's: whoever pays or administers it must act",
        Fault::Provider => "the provider's",
        Fault::Network => "the network's: something between application and provider",
        Fault::Client => "the application's: what it sends or how it waits",
        Fault::Unknown => "unknown",
    }
}

// === input ===

fn from_file(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let file = std::fs::File::open(path)
        .with_context(|| format!("{shown}: cannot be opened; name a file, or - for standard input"))?;
    limited(file, &shown.to_string())
}

fn from_input() -> anyhow::Result<String> {
    let input = std::io::stdin();
    if input.is_terminal() {
        super::complain("paste the error, then press Ctrl-D on a line of its own:");
    }
    limited(input.lock(), "standard input")
}

fn limited(from: impl Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(INPUT_BYTES).read_to_end(&mut bytes).with_context(|| name.to_owned())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn short(text: &str) -> String {
    crate::meter::redact(&text.chars().take(40).collect::<String>())
}

#[cfg(test)]
mod tests;
