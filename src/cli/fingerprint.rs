//! `keytally fingerprint`: from a key to the name it has in metrics, without the key being shown or passed as argument.
//!
//! The key comes from standard input (unseen, when that is a terminal) or from a variable. The fingerprint is of the
//! trimmed key, as the sidecar makes it; quotes and the like are kept and warned of, since the provider would see them.
//! Bounds: 64 KiB of input, of which the first line is the key.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use clap::Args;
use zeroize::Zeroizing;

use super::{ConfigArgs, Exit, complain, fail, print};
use crate::app::catalog;
use crate::call::{ApiKey, Fingerprint};
use crate::config::{ConfigError, Environment, Secret};
use crate::files;
use crate::provider::{Catalog, key_family};

/// Longest input that is read; keys have some 200 bytes, tokens a few thousand.
const INPUT_BYTES: u64 = 64 * 1024;

/// Flags of `fingerprint`.
#[derive(Args, Debug)]
pub(super) struct FingerprintArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Take the key from this variable instead of standard input
    #[arg(long, value_name = "VARIABLE")]
    env: Option<String>,
    /// Provider whose key it is, where its form does not tell
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// Variable that holds the salt, instead of the configured one
    #[arg(long, value_name = "VARIABLE", conflicts_with = "salt_file")]
    salt_env: Option<String>,
    /// File that holds the salt, instead of the configured one
    #[arg(long, value_name = "FILE")]
    salt_file: Option<PathBuf>,
}

/// Prints the fingerprint, and warnings on standard error.
pub(super) fn run(args: FingerprintArgs) -> Exit {
    let fingerprint = match fingerprint(&args) {
        Ok(fingerprint) => fingerprint,
        Err(error) => return fail(&error),
    };
    print(&format!("{fingerprint}\n"))
}

fn fingerprint(args: &FingerprintArgs) -> anyhow::Result<Fingerprint> {
    let config =
        super::source(args.config.clone(), None, None).load().map_err(anyhow::Error::new::<ConfigError>)?.config;
    let salt = salt(args)?.unwrap_or_else(|| config.fingerprint_salt.clone());
    let key = match &args.env {
        Some(name) => from_env(name)?,
        None => from_input()?,
    };
    let trimmed = key.trim_ascii();
    ensure!(!trimmed.is_empty(), "no key was given; pipe it in, or name its variable with --env");
    for warning in doubts(&key, args.env.is_some()) {
        complain(&format!("warning: {warning}"));
    }
    let catalog = catalog(&config)?;
    let family = family(trimmed, args, &catalog)?;
    Ok(ApiKey::new(trimmed).fingerprint(&family, salt.expose().as_bytes()))
}

/// The salt that is named, instead of the one that the sidecar would use.
fn salt(args: &FingerprintArgs) -> anyhow::Result<Option<Secret>> {
    let named = match (&args.salt_env, &args.salt_file) {
        (Some(name), _) => Some(Zeroizing::new(variable(name)?)),
        (None, Some(path)) => {
            let shown = || format!("--salt-file {}", path.display());
            let bytes = files::read_any(path, INPUT_BYTES).with_context(shown)?;
            let text = str::from_utf8(&bytes).with_context(shown)?;
            Some(Zeroizing::new(text.to_owned()))
        }
        (None, None) => None,
    };
    match named {
        Some(text) if text.trim().is_empty() => bail!("the salt is empty; leave the flag out for no salt"),
        named => Ok(named.map(|text| Secret::new(text.trim()))),
    }
}

fn variable(name: &str) -> anyhow::Result<String> {
    match Environment::default().get(name) {
        Ok(Some(value)) => Ok(value),
        // Whoever writes the key instead of the variable's name should not see it again in a log.
        Ok(None) if name.parse::<crate::config::value::EnvName>().is_err() => {
            bail!("not the name of a variable; write its name, not its value")
        }
        Ok(None) => bail!("the variable {name} is not set or empty"),
        Err(text) => bail!("{text}"),
    }
}

fn from_env(name: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    variable(name).map(|value| Zeroizing::new(value.into_bytes()))
}

/// The first line of standard input, without its line end.
fn from_input() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let key = rpassword::prompt_password("key (not shown): ").context("the terminal")?;
        return Ok(Zeroizing::new(key.into_bytes()));
    }
    let mut input = Zeroizing::new(Vec::with_capacity(INPUT_BYTES as usize + 1));
    stdin.lock().take(INPUT_BYTES + 1).read_to_end(&mut input).context("standard input")?;
    if input.len() as u64 > INPUT_BYTES {
        bail!("more than 64 KiB on standard input; a key has one line");
    }
    Ok(input)
}

/// What would make a provider refuse the key although it looks right. Never repeats it.
fn doubts(key: &[u8], from_env: bool) -> Vec<&'static str> {
    let mut found = Vec::new();
    // Programs that print a key end it with a line end; a variable should not hold one.
    let line = if from_env { key } else { key.strip_suffix(b"\n").map_or(key, |k| k.strip_suffix(b"\r").unwrap_or(k)) };
    let trimmed = line.trim_ascii();
    if trimmed.len() != line.len() {
        found.push(
            "white space around the key; the fingerprint is of the key without it, but remove it where it is set",
        );
    }
    if trimmed.iter().any(u8::is_ascii_whitespace) {
        found.push("white space inside the key; a key is one word");
    }
    let quoted = |quote: u8| trimmed.len() > 1 && trimmed.starts_with(&[quote]) && trimmed.ends_with(&[quote]);
    if quoted(b'"') || quoted(b'\'') || quoted(b'`') {
        found.push("quotes around the key; the provider takes them for part of it, and so does the fingerprint");
    }
    if !trimmed.is_ascii() {
        found.push("characters that are not ASCII, perhaps invisible ones; copy the key again");
    }
    if trimmed.to_ascii_lowercase().starts_with(b"bearer ") {
        found.push("begins with \"Bearer\"; give the key alone");
    }
    if trimmed.starts_with(b"$") || trimmed.starts_with(b"{{") {
        found.push("looks like a variable that was not expanded");
    }
    found
}

/// Family of a key, as the sidecar finds it: by the key's own form, else by the provider that it is for, which `--provider`
/// names or the variable that the provider's SDK reads.
fn family(key: &[u8], args: &FingerprintArgs, catalog: &Catalog) -> anyhow::Result<Arc<str>> {
    let named = match &args.provider {
        Some(id) => {
            let known = catalog.provider(id);
            let known = known.with_context(|| {
                let shown: String = id.chars().filter(|c| !c.is_control()).take(40).collect();
                format!("--provider \"{shown}\": no such provider; write its id, as the label `provider` of the metrics has it")
            })?;
            Some(known)
        }
        None => args.env.as_deref().and_then(|variable| catalog.provider_of_variable(variable)),
    };
    match (key_family(key), named) {
        (Some(family), _) => Ok(family.into()),
        (None, Some(provider)) => Ok(Arc::clone(&provider.family)),
        (None, None) => {
            bail!(
                "the key's form does not tell whose it is, and its fingerprint depends on that; name the provider: --provider openai"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_is_the_one_that_the_sidecar_finds() {
        let catalog = Catalog::build(&[]).unwrap();
        let args = |provider: Option<&str>, env: Option<&str>| FingerprintArgs {
            config: ConfigArgs::default(),
            env: env.map(str::to_owned),
            provider: provider.map(str::to_owned),
            salt_env: None,
            salt_file: None,
        };
        let mut compared = 0;
        for provider in catalog.providers() {
            for key in [
                "made-up-0123456789",
                "sk-made-up",
                "AIzaMadeUp",
                "AKIAMADEUP",
                "gsk_made_up",
                "sk-ant-made-up",
                "r8_made_up",
            ] {
                let Some(seen) = catalog.check_key(provider, key.as_bytes(), b"").fingerprint else { continue };
                let told = family(key.as_bytes(), &args(Some(&provider.id), None), &catalog).unwrap();
                assert!(seen.as_str().starts_with(&format!("{told}:")), "{}: {seen}, {told}", provider.id);
                compared += 1;
            }
        }
        assert!(compared > 200, "{compared}");
        let of =
            |key: &str, provider, env| family(key.as_bytes(), &args(provider, env), &catalog).map(|f| f.to_string());
        assert_eq!(of("made-up", None, Some("AZURE_OPENAI_API_KEY")).unwrap(), "azure");
        assert_eq!(of("AIzaMadeUp", None, None).unwrap(), "google");
        assert!(of("sk-made-up", None, Some("MY_KEY")).unwrap_err().to_string().contains("--provider"));
        assert!(
            of("sk-made-up", Some("nobody"), None).unwrap_err().to_string().contains("\"nobody\": no such provider")
        );
    }

    #[test]
    fn doubts_are_told_and_the_key_is_not() {
        let count = |key: &[u8]| doubts(key, false).len();
        assert_eq!(count(b"sk-made-up\n"), 0);
        assert_eq!(count(b"sk-made-up\r\n"), 0);
        assert_eq!(doubts(b"sk-made-up\n", true).len(), 1);
        for key in [
            &b" sk-made-up\n"[..],
            b"\"sk-made-up\"",
            b"'sk-made-up'\n",
            b"sk-made\xe2\x80\x8b-up",
            b"${OPENAI_API_KEY}",
        ] {
            assert_eq!(count(key), 1, "{key:?}");
            assert!(doubts(key, false).iter().all(|d| !d.contains("made")));
        }
        assert_eq!(count(b"Bearer sk-made-up"), 2);
    }
}
