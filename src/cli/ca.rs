//! `keytally ca`: makes, shows and rotates the local certificate authority, and writes what applications are to trust.
//!
//! Works on files alone; a sidecar that runs takes a first authority up by itself and a rotated one on SIGHUP, a change of
//! its configuration, or restart. Private keys are never printed.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::{ConfigArgs, Exit, complain, fail, print};
use crate::app::catalog;
use crate::config::{Config, ConfigError};
use crate::export::metrics::rfc3339;
use crate::listen::ca::{self, Authority, Facts};
use crate::listen::{permitted, tls};

/// Flags of `ca`.
#[derive(Args, Debug)]
pub(super) struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Make the CA, unless there is one
    Init(ConfigArgs),
    /// Print the path of the certificate that applications are to trust; makes the CA if there is none
    Path(ConfigArgs),
    /// Print the certificate as PEM, what it may vouch for and how long it lives on standard error
    Print(ConfigArgs),
    /// Make another CA in place of this one, for the hosts of the present configuration
    Rotate(RotateArgs),
    /// Write the system's certificates and this CA's as one file, for variables that replace a trust store, and print its
    /// path
    Bundle(BundleArgs),
}

#[derive(Args, Debug)]
struct RotateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The old CA's key was stolen: its certificate is no longer to be trusted
    #[arg(long)]
    forget: bool,
}

#[derive(Args, Debug)]
struct BundleArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the bundle itself instead
    #[arg(long)]
    print: bool,
}

/// Does what was asked.
pub(super) fn run(args: CaArgs) -> Exit {
    match answer(args.command) {
        Ok(text) => print(&text),
        Err(error) => fail(&error),
    }
}

fn answer(command: CaCommand) -> anyhow::Result<String> {
    match command {
        CaCommand::Init(args) => {
            let (config, names) = load(args)?;
            let (authority, path) = made(&config, &names, true)?;
            tell_missing(authority.facts(), &names);
            Ok(format!("{}\n", path.display()))
        }
        CaCommand::Path(args) => {
            let (config, names) = load(args)?;
            Ok(format!("{}\n", made(&config, &names, false)?.1.display()))
        }
        CaCommand::Print(args) => {
            let (config, names) = load(args)?;
            let (authority, _) = made(&config, &names, false)?;
            complain(&about(authority.facts()));
            authority.doubts(SystemTime::now()).iter().for_each(|doubt| complain(&format!("warning: {doubt}")));
            tell_missing(authority.facts(), &names);
            Ok(authority.pem())
        }
        CaCommand::Rotate(args) => {
            let (config, names) = load(args.config)?;
            if config.tls.own_ca.is_some() {
                bail!("tls.ca_certificate names a CA of your own; rotate it where it was made");
            }
            let authority = Authority::rotate(&config.tls.ca_dir, &names, args.forget)?;
            complain(&about(authority.facts()));
            complain(match args.forget {
                true => "only this one is trusted from now on",
                false => "the file of trusted certificates holds this one and those before it",
            });
            complain(
                "send SIGHUP to running sidecars, or restart them, once applications have read that file; write a bundle \
                 again if you use one",
            );
            Ok(format!("{}\n", ca::trust_file(&config.tls.ca_dir).display()))
        }
        CaCommand::Bundle(args) => {
            let (config, names) = load(args.config)?;
            let (authority, path) = made(&config, &names, false)?;
            if args.print {
                return ca::bundle(&ca::trusted(&path)?);
            }
            let _ = authority;
            Ok(format!("{}\n", ca::write_bundle(&config.tls.ca_dir, &path)?.display()))
        }
    }
}

/// The configuration, and the names that its providers have.
fn load(args: ConfigArgs) -> anyhow::Result<(Config, Vec<String>)> {
    let config = super::source(args, None, None).load().map_err(anyhow::Error::new::<ConfigError>)?.config;
    let catalog = catalog(&config)?;
    let names = permitted::subtrees(&catalog);
    Ok((config, names))
}

/// The authority, made if need be, and the file that applications are to trust.
fn made(config: &Config, names: &[String], always_tell: bool) -> anyhow::Result<(Authority, PathBuf)> {
    if let Some((certificate, key)) = &config.tls.own_ca {
        return Ok((Authority::from_files(certificate, key).context("tls.ca_certificate")?, certificate.clone()));
    }
    let dir: &Path = &config.tls.ca_dir;
    let (authority, made) = Authority::load_or_make(dir, names)?;
    if made || always_tell {
        let what = if made { "made" } else { "there already" };
        complain(&format!("{what}: {}", about(authority.facts())));
    }
    Ok((authority, ca::trust_file(dir)))
}

fn about(facts: &Facts) -> String {
    let days = facts.not_after.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO).as_secs() / 86_400;
    let scope = match &facts.permitted {
        Some(names) => format!("may vouch for {} names and what is below them, and for no IP address", names.len()),
        None => "may vouch for any host: it has no name constraints".to_owned(),
    };
    format!(
        "{}, valid until {} ({days} days)\n  {scope}\n  SHA-256 {}",
        facts.subject,
        rfc3339(facts.not_after),
        facts.sha256
    )
}

fn tell_missing(facts: &Facts, names: &[String]) {
    let missing = tls::not_permitted(facts, names);
    if !missing.is_empty() {
        let hosts: Vec<&str> = missing.iter().map(|name| name.as_str()).collect();
        complain(&format!(
            "warning: it may not vouch for {}; connections to them pass unread until `keytally ca rotate`",
            hosts.join(", ")
        ));
    }
}
