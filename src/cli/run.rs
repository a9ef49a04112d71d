//! `keytally run -- COMMAND`: a sidecar of its own for one command, on free ports, for as long as the command runs.
//!
//! In: a command and its arguments. It gets base-URL variables that lead to the sidecar ([`variables`]), or proxy and
//! certificate variables ([`intercept`]), keytally's own
//! standard streams and its signals ([`child`]); keytally ends with its exit code. Out, on standard error or in a file:
//! what the calls came to ([`summary`]). Standard output is the command's alone: call records for `-` are not written.
//! `RUST_LOG` is taken to be the command's. Nothing of the sidecar's is logged below `warn`.

mod child;
mod intercept;
mod summary;
pub(super) mod variables;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio::sync::mpsc;

use super::{ConfigArgs, Exit, bad_config, complain, fail, log, source};
use crate::app::{App, catalog};
use crate::call::CallRecord;
use crate::config::{CallsSink, Config, ConfigHandle, Environment, LogFormat, LogLevel};
use crate::ledger::{LedgerError, Lock};
use crate::meter::Rules;

use intercept::Intercepting;
use summary::{Ran, Tally};
use variables::{OWN_URL, Plan};

/// Any port, for this machine only.
const FREE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Records that wait to be added up, at most: adding takes far less time than a call, and room is taken only when used.
const RECORDS: usize = 1 << 20;
/// Calls of processes that the command left behind may end within this time.
const DRAIN: Duration = Duration::from_secs(2);
/// Calls that have ended are added up within this time: on a busy machine reading the price book can take seconds.
const SETTLE: Duration = Duration::from_secs(60);

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = variables::help())]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// What is told at the end
    #[arg(long, value_enum, value_name = "FORM", default_value_t = SummaryForm::Text)]
    summary: SummaryForm,
    /// Write it to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    summary_file: Option<PathBuf>,
    /// Replace variables that you have set, instead of following them
    #[arg(long = "override")]
    replace: bool,
    /// Set proxy and certificate variables instead of base URLs, and open the TLS of calls to providers with a CA that is
    /// made for this run, or with that of `keytally ca` if there is one
    #[arg(long)]
    intercept: bool,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SummaryForm {
    /// A table, failures and their first fixes
    Text,
    /// One JSON object
    Json,
    /// Nothing
    None,
}

/// Runs the command; answers with its exit code.
pub(super) fn run(args: RunArgs) -> ExitCode {
    // Ports of a sidecar that serves others are not this one's.
    let (handle, warnings) = match ConfigHandle::start(source(args.config.clone(), Some(FREE), Some(FREE))) {
        Ok(started) => started,
        Err(error) => return bad_config(&error).into(),
    };
    let mut config = Config::clone(&handle.current());
    if config.log.format == LogFormat::Auto {
        config.log.format = LogFormat::Text;
    }
    config.log.level = if config.log.level == LogLevel::Error { LogLevel::Error } else { LogLevel::Warn };
    log::init_without_variable(&config.log);
    for warning in warnings {
        tracing::warn!(warning, "configuration");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the runtime")).into(),
    };
    let code = runtime.block_on(with_sidecar(args, config));
    // A name look-up that hangs must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code.unwrap_or_else(|error| fail(&error).into())
}

async fn with_sidecar(args: RunArgs, mut config: Config) -> anyhow::Result<ExitCode> {
    let environment = Environment::default();
    let (plan, intercepting) = match args.intercept {
        true => (Plan::default(), Some(Intercepting::prepare(&environment, &mut config, args.replace)?)),
        false => (plan(&variables::with_dotenv(Path::new(".env")), &mut config, args.replace)?, None),
    };
    if config.calls == Some(CallsSink::Stdout) {
        config.calls = None;
        complain("keytally: standard output is the command's: call records are not written to it");
    }
    // Several commands may run at once, also beside a sidecar that serves: the first one writes the ledger.
    if let Some(ledger) = &config.ledger
        && let Err(error @ LedgerError::InUse { .. }) = Lock::take(&ledger.path)
    {
        complain(&format!("keytally: {error}; the calls of this command are not in it"));
        config.ledger = None;
    }
    config.shutdown.drain = config.shutdown.drain.min(DRAIN);
    config.shutdown.linger = Duration::ZERO;
    let rules = Rules::build(&config.rules).map_err(|_| anyhow::anyhow!("the rules cannot be read"))?;

    let mut signals = child::Signals::new().context("cannot listen for signals")?;
    let app = App::start(ConfigHandle::fixed(config)).await?;
    let tally = Arc::new(Mutex::new(Tally::default()));
    let adding = tokio::spawn(add_up(app.records(RECORDS), Arc::clone(&tally)));
    for note in plan.notes.iter().chain(intercepting.iter().flat_map(|intercepting| &intercepting.notes)) {
        complain(&format!("keytally: {note}"));
    }

    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    let url = format!("http://{}", app.proxy);
    match &intercepting {
        Some(intercepting) => command.envs(intercepting.variables(&url)),
        None => command.envs(variables::no_proxy(&environment)),
    };
    command.envs(plan.paths.iter().map(|(name, path)| (name, format!("{url}{path}"))));
    command.env(OWN_URL, &url);
    let started = Instant::now();
    let mut child = match child::start(command) {
        Ok(child) => child,
        Err(error) => {
            let shown = args.command[0].to_string_lossy();
            let (exit, hint) = match error.kind() {
                ErrorKind::NotFound => (Exit::NotFound, "no such command; check its name and PATH"),
                ErrorKind::PermissionDenied => (Exit::NotExecutable, "not executable"),
                _ => (Exit::NotExecutable, "cannot be executed"),
            };
            complain(&format!("keytally: {shown}: {hint} ({error})"));
            return Ok(exit.into());
        }
    };
    let status = child::wait(&mut child, &mut signals).await.context("the command's end")?;
    let took = started.elapsed();
    // A signal now is for keytally itself: calls that have not ended stay uncounted.
    tokio::select! {
        () = async { app.stop_within(SETTLE).await; let _ = adding.await; } => {}
        _ = signals.next() => tracing::warn!("stopped at once by a signal; the summary may lack the last calls"),
    }
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
    let ran = Ran { code: child::code(status), took, unseen: &plan.unseen, intercepting: args.intercept };
    if let Err(error) = tell(&args, &tally, &ran, &rules) {
        complain(&format!("keytally: {error:#}"));
    }
    Ok(ran.code.into())
}

/// Decides on the variables, and adds the servers that they name.
fn plan(environment: &Environment, config: &mut Config, replace: bool) -> anyhow::Result<Plan> {
    let plan = Plan::new(environment, &catalog(config)?, replace);
    config.providers.extend(plan.providers.iter().cloned());
    Ok(plan)
}

/// Adds records up until the sidecar has ended.
async fn add_up(mut records: mpsc::Receiver<Arc<CallRecord>>, tally: Arc<Mutex<Tally>>) {
    while let Some(record) = records.recv().await {
        tally.lock().unwrap_or_else(PoisonError::into_inner).add(&record);
    }
}

fn tell(args: &RunArgs, tally: &Tally, ran: &Ran<'_>, rules: &Rules) -> anyhow::Result<()> {
    let text = match args.summary {
        SummaryForm::None => return Ok(()),
        SummaryForm::Json => tally.json(ran, rules),
        SummaryForm::Text if tally.is_empty() => no_calls(ran),
        SummaryForm::Text => tally.text(ran, rules),
    };
    match &args.summary_file {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("the summary was not written to {}", path.display()))
        }
        None => {
            complain(text.trim_end());
            Ok(())
        }
    }
}

fn no_calls(ran: &Ran<'_>) -> String {
    let why = match ran.unseen {
        [] if ran.intercepting => {
            "it made none, or takes no notice of HTTPS_PROXY (Node.js before 22.21, the AWS SDK for \
                                   JavaScript and aiohttp by themselves do not): see keytally redirect"
                .to_owned()
        }
        [] => "it made none, or sets its base URL in code, or its SDK reads no base-URL variable (Bedrock never \
               comes this way)"
            .to_owned(),
        unseen => format!("it made none, or to what {} says", unseen.join(", ")),
    };
    format!("keytally: no call was seen: {why}\n")
}
