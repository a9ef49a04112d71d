//! The command line: flags, sub-commands, exit codes. Each sub-command is a function that answers with an [`Exit`].
//!
//! Results go to standard output, everything else to standard error. A reader of standard output that went away is a
//! normal end. Keys are never taken from the command line, where every user of the machine could read them.

mod ca;
mod calls;
mod completions;
mod confine;
mod demo;
mod doctor;
pub mod explain;
mod fingerprint;
mod health;
mod ledger;
pub mod log;
mod prices;
mod redirect;
mod run;
mod sheet;
mod statement;
mod top;
mod usage;

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use url::Url;

use crate::config::value::{Address, Span};
use crate::config::{Config, ConfigError, ConfigHandle, Environment, Loaded, Source, file};

use confine::{Confined, confine};
#[cfg(all(target_os = "linux", any(test, fuzzing)))]
pub(crate) use redirect::acknowledged;

/// How the process ends. Scripts may rely on these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked; `serve` was told to stop and has.
    Ok = 0,
    /// It could not: a port is taken, no key was given, the sidecar is not alive.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// `doctor`: a cause was found that makes calls fail.
    CauseFound = 3,
    /// `run`: the command is there and cannot be executed (as shells have it).
    NotExecutable = 126,
    /// `run`: there is no such command (as shells have it).
    NotFound = 127,
    /// The configuration is wrong (`EX_CONFIG` of sysexits.h).
    Config = 78,
}

impl Exit {
    /// Every code with its meaning, as the documentation lists them.
    pub const ALL: &'static [(Exit, &'static str)] = &[
        (Exit::Ok, "done; for `serve`: told to stop, and stopped in order"),
        (Exit::Failure, "could not be done: port taken, no key given, sidecar not alive"),
        (Exit::Usage, "the command line is wrong"),
        (Exit::CauseFound, "`doctor`: a cause was found that makes calls fail"),
        (Exit::Config, "the configuration is wrong; every problem is on standard error"),
        (Exit::NotExecutable, "`run`: the command cannot be executed"),
        (Exit::NotFound, "`run`: there is no such command"),
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A sidecar that tells why an LLM API key fails, what each key costs and when its spend goes wrong.
///
/// Without a command it serves: point an application's base URL at `http://127.0.0.1:4141/<provider>`.
#[derive(Debug, Parser)]
#[command(name = "keytally", args_conflicts_with_subcommands = true, disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
    /// Print version and revision
    #[arg(short = 'V', long)]
    version: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar (the default)
    Serve(ServeArgs),
    /// Check the configuration as `serve` would, and print what it amounts to or all that is wrong
    Check(ConfigArgs),
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Run a command with a sidecar of its own, and tell at its end what it spent and what failed
    Run(run::RunArgs),
    /// Find out, step by step, why calls with a key fail; exit code 3 when a cause is found
    Doctor(doctor::DoctorArgs),
    /// Tell what an error of a provider means, whose fault it is, and what to do first: paste it
    Explain(explain::ExplainArgs),
    /// Add up what calls came to, by key, model, team, day and more, from the ledger
    Usage(usage::UsageArgs),
    /// Show single calls from the ledger, newest first, as they come, or one in full
    Log(calls::LogArgs),
    /// Write a month's account by team and key, against the month before, from the ledger
    Statement(statement::StatementArgs),
    /// Firewall rules that send outgoing connections to the sidecar, for applications that cannot be changed (Linux)
    #[command(subcommand)]
    Redirect(redirect::RedirectCommand),
    /// Print the fingerprint of a key, which is read from standard input or a variable and never shown
    Fingerprint(fingerprint::FingerprintArgs),
    /// Make, show or rotate the certificate authority that opens TLS to providers
    Ca(ca::CaArgs),
    /// Show what keytally does, with a simulated provider and simulated traffic, without any account
    Demo(DemoArgs),
    /// Ask a running sidecar whether it is alive: exit code 0 or 1
    Health(HealthArgs),
    /// Watch a running sidecar on a terminal: spend by the minute, keys, models, outcomes, findings
    Top(top::TopArgs),
    /// What a model costs at each provider that serves it, and what one's own traffic would cost there
    Prices(prices::PricesArgs),
    /// Print the completion script of a shell: source it, or put it where the shell looks
    Completions(completions::CompletionsArgs),
    /// Print the manual page: `keytally man | man -l -`
    Man(completions::ManArgs),
}

#[derive(Args, Clone, Debug, Default)]
struct ConfigArgs {
    /// Configuration file; without one the defaults hold
    #[arg(long, value_name = "FILE", env = "KEYTALLY_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

#[derive(Args, Clone, Debug, Default)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address for applications, instead of the configured one (variable: KEYTALLY_LISTEN)
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Address for metrics and health, instead of the configured one (variable: KEYTALLY_ADMIN)
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    admin: Option<SocketAddr>,
}

/// Flags of `demo`.
#[derive(Args, Clone, Debug, Default)]
pub struct DemoArgs {
    /// End after this long, for instance 30s; until Ctrl-C if left out
    #[arg(long, value_name = "DURATION", value_parser = span)]
    pub duration: Option<Duration>,
    /// No colors
    #[arg(long)]
    pub no_color: bool,
    /// Call through this running sidecar, which was started with what --print-config prints
    #[arg(long, value_name = "URL", value_parser = sidecar, conflicts_with = "print_config")]
    pub sidecar: Option<Url>,
    /// Print the configuration file that a sidecar for --sidecar needs, and end
    #[arg(long)]
    pub print_config: bool,
    /// Length of one minute of the story
    #[arg(long, value_name = "DURATION", value_parser = span, default_value = "60s", hide = true)]
    pub minute: Duration,
}

#[derive(Args, Clone, Debug)]
struct HealthArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Admin address of the sidecar, instead of the configured one (variable: KEYTALLY_ADMIN)
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    admin: Option<SocketAddr>,
    /// Longest time to wait for the answer
    #[arg(long, value_name = "DURATION", value_parser = span, default_value = "2s")]
    timeout: Duration,
}

fn sidecar(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if url.scheme() == "http" && url.host().is_some() && url.path() == "/" => Ok(url),
        _ => Err("not the address of a sidecar; write it as http://127.0.0.1:4141".to_owned()),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse::<Address>().map(|a| a.0)
}

fn span(text: &str) -> Result<Duration, String> {
    text.parse::<Span>().map(|s| s.0)
}

fn command() -> clap::Command {
    let codes: Vec<String> =
        Exit::ALL.iter().map(|(exit, meaning)| format!("  {:3}  {meaning}", *exit as u8)).collect();
    Cli::command().after_help(format!("Exit codes, but of `run`, whose code is the command's:\n{}", codes.join("\n")))
}

/// Runs what the command line asks for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match command().try_get_matches_from(args).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help that was asked for is a result, not a mistake.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    if cli.version {
        return print(&version()).into();
    }
    let command = cli.command.unwrap_or(Command::Serve(cli.serve));
    confine(match command {
        Command::Serve(_) => Confined::Server,
        Command::Run(_) => Confined::Parent,
        _ => Confined::Tool,
    });
    let exit = match command {
        Command::Serve(args) => serve(args),
        Command::Check(args) => check(&source(args, None, None)),
        Command::Schema => schema(),
        Command::Run(args) => return run::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Usage(args) => usage::run(args),
        Command::Log(args) => calls::run(args),
        Command::Statement(args) => statement::run(args),
        Command::Redirect(command) => redirect::run(command),
        Command::Fingerprint(args) => fingerprint::run(args),
        Command::Ca(args) => ca::run(args),
        Command::Demo(args) => finish(demo::run(args)),
        Command::Health(args) => health(args),
        Command::Top(args) => {
            let admin = admin_address(args.config.clone(), args.admin);
            finish(top::run(args, admin))
        }
        Command::Prices(args) => {
            prices::run(args, SystemTime::now()).map_or_else(|error| fail(&error), |text| print(&text))
        }
        Command::Completions(args) => print(&completions::completions(&args)),
        Command::Man(args) => completions::man(&args).map_or_else(|error| fail(&error), |page| print(&page)),
    };
    exit.into()
}

/// `keytally 0.1.0 (revision)`.
fn version() -> String {
    format!("keytally {} ({})\n", env!("CARGO_PKG_VERSION"), crate::REVISION)
}

fn source(args: ConfigArgs, listen: Option<SocketAddr>, admin: Option<SocketAddr>) -> Source {
    let path = args.config.filter(|path| !path.as_os_str().is_empty());
    Source { path, env: Environment::default(), listen, admin, rooms: Some(crate::app::misfits) }
}

fn serve(args: ServeArgs) -> Exit {
    crate::listen::room::raise_descriptor_limit();
    let (handle, warnings) = match ConfigHandle::start(source(args.config, args.listen, args.admin)) {
        Ok(started) => started,
        Err(error) => return bad_config(&error),
    };
    log::init(&handle.current().log);
    for warning in warnings {
        tracing::warn!(warning, "configuration");
    }
    finish(crate::app::serve(handle))
}

fn check(source: &Source) -> Exit {
    match source.load() {
        Ok(Loaded { config, warnings }) => {
            for warning in warnings {
                complain(&format!("warning: {warning}"));
            }
            let name = source.path.as_ref().map_or_else(|| "defaults".to_owned(), |p| p.display().to_string());
            print(&format!("{name}: OK\n{}", summary(&config)))
        }
        Err(error) => bad_config(&error),
    }
}

/// What a configuration amounts to, for somebody who wants to see whether it was understood.
fn summary(config: &Config) -> String {
    let calls = match &config.calls {
        None => "none".to_owned(),
        Some(crate::config::CallsSink::Stdout) => "standard output".to_owned(),
        Some(crate::config::CallsSink::File(path)) => path.display().to_string(),
    };
    let spans = config.otlp.as_ref().map_or_else(|| "none".to_owned(), |o| format!("{} ({})", o.endpoint, o.protocol));
    let (listen, count) = (&config.listen, |n: usize| n.to_string());
    let rows = [
        ("proxy", listen.proxy.to_string()),
        ("redirect", listen.redirect.map_or_else(|| "none".to_owned(), |address| address.to_string())),
        ("proxy over TLS", listen.proxy_tls.map_or_else(|| "none".to_owned(), |address| address.to_string())),
        ("admin", listen.admin.to_string()),
        ("TLS interception", config.tls.intercept.to_string()),
        ("providers changed", count(config.providers.len())),
        ("keys named", count(config.keys.len())),
        ("prices changed", count(config.prices.len())),
        ("rules added", count(config.rules.len())),
        ("call records", calls),
        ("spans", spans),
        (
            "ledger",
            config.ledger.as_ref().map_or_else(|| "none".to_owned(), |ledger| ledger.path.display().to_string()),
        ),
    ];
    rows.iter().map(|(name, value)| format!("  {name:<18} {value}\n")).collect()
}

fn schema() -> Exit {
    match serde_json::to_string_pretty(&file::schema()) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => fail(&error.into()),
    }
}

fn health(args: HealthArgs) -> Exit {
    finish(health::ask(admin_address(args.config, args.admin), args.timeout))
}

/// Where a running sidecar's admin port is.
fn admin_address(config: ConfigArgs, admin: Option<SocketAddr>) -> SocketAddr {
    let source = source(config, None, admin);
    // A file that has gone bad meanwhile says nothing about the sidecar, which runs on with the good one.
    source.load().map(|l| l.config.listen.admin).ok().or(admin).unwrap_or(crate::config::LISTEN_ADMIN)
}

fn bad_config(error: &ConfigError) -> Exit {
    complain(&error.to_string());
    let count = error.problems.len();
    complain(&format!("{count} problem{} in the configuration", if count == 1 { "" } else { "s" }));
    Exit::Config
}

fn finish(result: anyhow::Result<()>) -> Exit {
    match result {
        Ok(()) => Exit::Ok,
        Err(error) => fail(&error),
    }
}

/// One line, the whole chain; a reader that went away is no failure, and a wrong configuration has its own code.
fn fail(error: &anyhow::Error) -> Exit {
    let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken_pipe) {
        return Exit::Ok;
    }
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return bad_config(error);
    }
    complain(&format!("keytally: {error:#}"));
    Exit::Failure
}

/// To standard output, where results go.
fn print(text: &str) -> Exit {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(error) => fail(&anyhow::Error::new(error).context("standard output")),
    }
}

/// To standard error; when that is gone there is nobody left to tell.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Standard error is a terminal that wants colors.
fn colors() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

#[cfg(test)]
mod tests;
