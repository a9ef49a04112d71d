//! `keytally fingerprint`: from a key to the name it has in metrics, without the key being shown or passed as argument.
//!
//! The key comes from standard input (unseen, when that is a terminal) or from a variable. The fingerprint is of the
//! trimmed key, as the sidecar makes it; quotes and the like are kept and warned of, since the provider would see them.
//! Bounds: 64 KiB of input, of which the first line is the key.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use zeroize::Zeroizing;

use super::{ConfigArgs, Exit, complain, fail, finish, print};
use crate::call::ApiKey;
use crate::config::{ConfigError, Environment, Secret};
use crate::files;

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
    let read = || -> anyhow::Result<(Secret, Zeroizing<Vec<u8>>)> {
        let salt = salt(&args)?;
        let key = match &args.env {
            Some(name) => from_env(name)?,
            None => from_input()?,
        };
        Ok((salt, key))
    };
    let (salt, key) = match read() {
        Ok(read) => read,
        Err(error) => return fail(&error),
    };
    let trimmed = key.trim_ascii();
    if trimmed.is_empty() {
        return finish(Err(anyhow::anyhow!("no key was given; pipe it in, or name its variable with --env")));
    }
    if let Some(id) = args.provider.as_deref()
        && let Err(why) = id.parse::<crate::config::value::Id>()
    {
        return finish(Err(anyhow::anyhow!("--provider: {why}")));
    }
    for warning in doubts(&key, args.env.is_some()) {
        complain(&format!("warning: {warning}"));
    }
    let family = family(trimmed, args.provider.as_deref());
    let fingerprint = ApiKey::new(trimmed).fingerprint(&family, salt.expose().as_bytes());
    print(&format!("{fingerprint}\n"))
}

/// The salt that the sidecar would use, or the one that is named.
fn salt(args: &FingerprintArgs) -> anyhow::Result<Secret> {
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
        Some(text) => Ok(Secret::new(text.trim())),
        None => {
            let loaded =
                super::source(args.config.clone(), None, None).load().map_err(anyhow::Error::new::<ConfigError>)?;
            Ok(loaded.config.fingerprint_salt)
        }
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

/// Beginnings that only one provider's keys have, longest first where one begins another.
///
/// Source: the providers' published key formats. `sk-` alone is shared by OpenAI's old keys, DeepSeek, DashScope and
/// others, and tells nothing.
const FAMILIES: &[(&str, &str)] = &[
    ("sk-ant-", "anthropic"),
    ("sk-or-", "openrouter"),
    ("sk-proj-", "openai"),
    ("sk-svcacct-", "openai"),
    ("sk-admin-", "openai"),
    ("ek_", "openai"),
    ("AIza", "gemini"),
    ("AKIA", "bedrock"),
    ("ASIA", "bedrock"),
    ("ABSK", "bedrock"),
    ("bedrock-api-key-", "bedrock"),
    ("gsk_", "groq"),
    ("xai-", "xai"),
    ("pplx-", "perplexity"),
    ("csk-", "cerebras"),
    ("fw_", "fireworks"),
    ("tgp_v1_", "together"),
    ("hf_", "huggingface"),
    ("ghp_", "github-models"),
    ("gho_", "github-models"),
    ("ghs_", "github-models"),
    ("github_pat_", "github-models"),
];

/// Family of a key: by its beginning where that is unique, else the provider it is for, else `key`.
pub fn family(key: &[u8], provider: Option<&str>) -> String {
    let by_form =
        FAMILIES.iter().find(|(beginning, _)| key.starts_with(beginning.as_bytes())).map(|(_, family)| *family);
    by_form.or(provider).unwrap_or("key").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_tells_the_family_and_else_the_provider() {
        assert_eq!(family(b"sk-ant-api03-made-up", Some("openai")), "anthropic");
        assert_eq!(family(b"sk-made-up", Some("deepseek")), "deepseek");
        assert_eq!(family(b"sk-made-up", None), "key");
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
