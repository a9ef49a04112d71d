//! `keytally doctor`: why calls with a key fail, step by step, until one cause explains the rest.
//!
//! In: what a running sidecar has seen ([`seen`]), else what its ledger tells ([`mod@ledger`]), what is set in this shell ([`environment`]), and one request to the provider
//! ([`probe`]). Out: a [`report::Report`] of [`steps`], which stops at the first cause. Keys are looked at and never shown. Without
//! a sidecar what stands here is checked. Nothing is changed; nothing is sent but the probe, which costs nothing.

mod environment;
mod ledger;
mod probe;
mod report;
mod seen;
mod steps;
mod trust;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use clap::Args;

use super::{ConfigArgs, Exit, fail, print};
use crate::call::{Fault, Outcome};
use crate::meter::Rules;
use crate::provider::{Catalog, Provider};

use environment::Surroundings;
use report::{Report, Status};
use seen::Call;
use steps::Facts;

/// Flags of `doctor`.
#[derive(Args, Clone, Debug)]
pub(super) struct DoctorArgs {
    /// Look at calls to this provider (an id of the catalogue, for instance openai)
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// Variable that holds the key, where it is not the one that the SDK reads
    #[arg(long, value_name = "VARIABLE")]
    env: Option<String>,
    /// Look at this key, by its configured name or its fingerprint; else at the one that failed last
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Make one real request with the key of the variable: the list of models, which costs nothing
    #[arg(long, conflicts_with = "offline")]
    live: bool,
    /// Do not connect to the provider
    #[arg(long)]
    offline: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Admin address of the sidecar, instead of the configured one (variable: KEYTALLY_ADMIN)
    #[arg(long, value_name = "ADDRESS", value_parser = super::address)]
    admin: Option<SocketAddr>,
    /// Ledger to read when no sidecar answers, instead of the configured one
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Longest time to wait for the sidecar, and for the provider
    #[arg(long, value_name = "DURATION", value_parser = super::span, default_value = "5s")]
    timeout: Duration,
    /// File of variables that the application reads
    #[arg(long, value_name = "FILE", default_value = ".env")]
    dotenv: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Looks, tells, and says by the exit code whether a cause was found.
pub(super) fn run(args: DoctorArgs) -> Exit {
    let report = match examine(&args) {
        Ok(report) => report,
        Err(error) => return fail(&error),
    };
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = match args.json {
        true => serde_json::to_string_pretty(&report).map_or_else(|error| error.to_string(), |text| text + "\n"),
        false => report.text(color),
    };
    match print(&text) {
        Exit::Ok if report.cause.is_some_and(|cause| cause.severity == Status::Fail) => Exit::CauseFound,
        exit => exit,
    }
}

fn examine(args: &DoctorArgs) -> anyhow::Result<Report> {
    let config = super::source(args.config.clone(), None, args.admin).load()?.config;
    let catalog = Catalog::build(&config.providers).map_err(|errors| anyhow::anyhow!("{}", errors[0]))?;
    let rules = Rules::build(&config.rules).map_err(|errors| anyhow::anyhow!("{}", errors[0]))?;
    let named = match args.provider.as_deref() {
        Some(id) => match catalog.provider(id) {
            Some(provider) => Some(provider),
            None => bail!(
                "--provider: no such id in the catalogue; write one such as openai, or add it under providers: in config"
            ),
        },
        None => args.env.as_deref().and_then(|name| catalog.provider_of_variable(name)),
    };
    if let Some(name) = args.env.as_deref()
        && name.parse::<crate::config::value::EnvName>().is_err()
    {
        bail!("--env: not the name of a variable; write its name, not its value");
    }

    let (seen, mut source) = match seen::ask(config.listen.admin, args.timeout) {
        Ok(seen) => (Some(seen), format!("the sidecar at {}", config.listen.admin)),
        Err(error) if args.admin.is_some() => return Err(error.context("--admin")),
        Err(_) => match args.ledger.as_deref().or(config.ledger.as_ref().map(|own| own.path.as_path())) {
            Some(path) => {
                let names = config.keys.iter().map(|key| (key.fingerprint.clone(), key.name.clone(), key.team.clone()));
                let seen = ledger::read(path, names, named.map(|provider| &*provider.id), &rules)?;
                (Some(seen), format!("the ledger {} (no sidecar answers at {})", path.display(), config.listen.admin))
            }
            None => (None, format!("nobody (no sidecar answers at {}; --admin names another)", config.listen.admin)),
        },
    };
    let surroundings = Surroundings::read(&args.dotenv);
    let salt = config.fingerprint_salt.expose().as_bytes();
    let key = seen.as_ref().and_then(|seen| {
        // A key that is named by its variable is the one to look at, if it was seen.
        let own = named.zip(args.env.as_deref()).and_then(|(provider, variable)| {
            let variables = surroundings.of(provider, &catalog, Some(variable), salt);
            let fingerprint = variables.keys.first()?.fingerprint.clone()?;
            seen.pick(Some(&provider.id), Some(fingerprint.as_str()))
        });
        own.or_else(|| seen.pick(named.map(|provider| &*provider.id), args.key.as_deref()))
    });
    if let (Some(wanted), None, Some(_)) = (&args.key, key, &seen) {
        bail!(
            "--key: the sidecar has seen no such key{}; see /status for those it has",
            if wanted.contains(':') { "" } else { " name" }
        );
    }
    let provider = named
        .or_else(|| key.and_then(|key| catalog.provider(&key.provider)))
        .or_else(|| surroundings.provider_with_key(&catalog));
    let variables = provider.map(|provider| surroundings.of(provider, &catalog, args.env.as_deref(), salt));

    let ask = |provider: &Arc<Provider>, key: Option<&str>| {
        probe::probe(provider, &catalog, &config, &rules, key, args.timeout)
    };
    let live = match (args.live, provider, &variables) {
        (false, ..) => None,
        (true, Some(provider), Some(variables)) => {
            let Some(own) = variables.keys.first().filter(|own| !own.value.trim().is_empty()) else {
                bail!(
                    "--live: no key is set here; set {} or name another variable with --env",
                    variables.wanted.join(" or ")
                );
            };
            let asked = ask(provider, Some(&own.value))?;
            source = format!("a live request (GET {} at {}), and {source}", asked.path, asked.target);
            let findings = own.findings.clone();
            Some(live(asked, &rules, findings))
        }
        (true, ..) => bail!("--live: no provider is known; name one with --provider"),
    };
    let trust = trust::look(&config, &surroundings);
    let probe = provider.filter(|_| !args.offline);
    let facts = Facts {
        seen: seen.as_ref(),
        key,
        live,
        provider,
        variables: variables.as_ref(),
        trust: trust.as_ref(),
        source,
        rules: &rules,
        probe: probe.map(|provider| Box::new(move || ask(provider, None)) as Box<dyn FnOnce() -> _>),
        now: SystemTime::now(),
    };
    Ok(steps::diagnose(facts))
}

/// The live request as a call like any other.
fn live(probe: probe::Probe, rules: &Rules, findings: Vec<crate::call::Finding>) -> Call {
    let now = jiff::Timestamp::now().to_string();
    let call = |status, outcome, fault, retryable, fix: String| Call {
        time: now,
        call_id: String::new(),
        operation: "models".to_owned(),
        model: String::new(),
        status,
        outcome,
        fault,
        retryable,
        error_type: None,
        error_code: None,
        retry_count: 0,
        request_bytes: 0,
        retry_after_seconds: None,
        fix: Some(fix),
        findings,
    };
    match probe.answer {
        Ok(answer) => {
            let verdict = answer.verdict;
            let fix = rules.fix(&verdict.first_fix).unwrap_or_default().to_owned();
            let call = call(Some(answer.status), verdict.outcome, verdict.fault, verdict.retry.is_retryable(), fix);
            Call { error_type: verdict.error_type, error_code: verdict.error_code, ..call }
        }
        Err(error) => {
            let fix = rules.generated_fix(error.kind).to_owned();
            call(None, Outcome::NetworkError, Fault::Network, true, fix)
        }
    }
}
