//! The key as this shell has it, and the variables that lead calls elsewhere. In: the environment, a file `.env`, the
//! catalogue. Out: [`Variables`]: names, findings and fingerprints, never a value but of addresses without their secrets.
//! Nothing is sent. At most 64 KiB of `.env` are read.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use url::Url;
use zeroize::Zeroizing;

use crate::call::{Finding, Fingerprint};
use crate::config::Environment;
use crate::provider::{Catalog, Provider};

use super::super::run::variables::VARIABLES;

/// What is read of a file `.env`.
const DOTENV_BYTES: u64 = 64 * 1024;

/// Names that look right and that no SDK reads, with the one that is read.
const MISTAKEN: &[(&str, &str)] = &[
    ("OPENAI_KEY", "OPENAI_API_KEY"),
    ("OPENAI_APIKEY", "OPENAI_API_KEY"),
    ("OPENAI_API_TOKEN", "OPENAI_API_KEY"),
    ("OPENAI_SECRET_KEY", "OPENAI_API_KEY"),
    ("CLAUDE_API_KEY", "ANTHROPIC_API_KEY"),
    ("ANTHROPIC_KEY", "ANTHROPIC_API_KEY"),
    ("GOOGLE_GEMINI_API_KEY", "GEMINI_API_KEY"),
    ("MISTRAL_KEY", "MISTRAL_API_KEY"),
    ("GROQ_KEY", "GROQ_API_KEY"),
];

/// Variables by which the openai SDK names an organization or project; older SDKs read the second one.
const ORGANIZATION: &[&str] = &["OPENAI_ORG_ID", "OPENAI_ORGANIZATION", "OPENAI_PROJECT_ID"];

/// Forward proxies, as most programs read them.
const PROXIES: &[&str] = &["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// A key that is set.
pub(super) struct KeyVariable {
    /// Its variable.
    pub name: String,
    /// Set in the file `.env`, not in the environment.
    pub from_file: bool,
    /// What can be said of the value.
    pub findings: Vec<Finding>,
    /// As the sidecar names it.
    pub fingerprint: Option<Fingerprint>,
    /// For a live request. Wiped when dropped, shown nowhere.
    pub value: Zeroizing<String>,
}

/// A variable with an address, fit to be shown.
pub(super) struct AddressVariable {
    pub name: &'static str,
    /// Scheme, host, port and path: neither user, password nor query.
    pub shown: String,
    pub url: Option<Url>,
}

/// What is set.
pub(super) struct Variables {
    /// The key variables of the provider that are set, the one that wins first.
    pub keys: Vec<KeyVariable>,
    /// Names under which the key would be found.
    pub wanted: Vec<String>,
    /// Set under a name that no SDK reads: that name, and the right one.
    pub mistaken: Vec<(&'static str, &'static str)>,
    /// Organization and project variables that are set.
    pub organization: Vec<&'static str>,
    /// Base URLs of the provider that are set.
    pub base_urls: Vec<AddressVariable>,
    /// Forward proxies that are set.
    pub proxies: Vec<AddressVariable>,
    /// `NO_PROXY` or `no_proxy` keeps calls to this machine off the proxy.
    pub loopback_excepted: bool,
}

/// Environment and `.env` beside it.
pub(super) struct Surroundings {
    env: Environment,
    file: Vec<(String, Zeroizing<String>)>,
}

impl Surroundings {
    /// The process's environment and this file, if it is there.
    pub(super) fn read(dotenv: &Path) -> Self {
        let mut text = Zeroizing::new(String::new());
        if let Ok(file) = std::fs::File::open(dotenv) {
            let _ = file.take(DOTENV_BYTES).read_to_string(&mut text);
        }
        Self { env: Environment::default(), file: parse(&text) }
    }

    /// Value, and whether it comes from the file: most SDKs' helpers leave what is set alone. An empty value is a value.
    fn get(&self, name: &str) -> Option<(Zeroizing<String>, bool)> {
        match self.env.get(name) {
            Ok(Some(value)) => Some((Zeroizing::new(value), false)),
            Ok(None) if std::env::var_os(name).is_some() => Some((Zeroizing::default(), false)),
            _ => self.file.iter().find(|(own, _)| own == name).map(|(_, value)| (value.clone(), true)),
        }
    }

    /// A file that a variable names.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        let (value, _) = self.get(name).filter(|(value, _)| !value.trim().is_empty())?;
        Some(PathBuf::from(value.as_str()))
    }

    /// The provider whose key is set, the first in the catalogue's order.
    pub(super) fn provider_with_key<'c>(&self, catalog: &'c Catalog) -> Option<&'c Arc<Provider>> {
        catalog.providers().find(|provider| provider.key_variables.iter().any(|name| self.get(name).is_some()))
    }

    /// Everything that concerns calls to `provider`. `named`: the variable that holds the key, instead of the SDK's.
    pub(super) fn of(
        &self,
        provider: &Arc<Provider>,
        catalog: &Catalog,
        named: Option<&str>,
        salt: &[u8],
    ) -> Variables {
        let wanted: Vec<String> = match named {
            Some(name) => vec![name.to_owned()],
            None => provider.key_variables.iter().map(ToString::to_string).collect(),
        };
        let key = |name: &String| {
            let (value, from_file) = self.get(name)?;
            let facts = catalog.check_key(provider, value.as_bytes(), salt);
            let (findings, fingerprint) = (facts.findings, facts.fingerprint);
            Some(KeyVariable { name: name.clone(), from_file, findings, fingerprint, value })
        };
        let is_set = |name: &&str| self.get(name).is_some_and(|(value, _)| !value.trim().is_empty());
        let address = |name: &'static str| {
            let (value, _) = self.get(name).filter(|(value, _)| !value.trim().is_empty())?;
            let url = Url::parse(value.trim()).or_else(|_| Url::parse(&format!("http://{}", value.trim()))).ok();
            Some(AddressVariable { name, shown: url.as_ref().map_or_else(|| "(no URL)".to_owned(), shown), url })
        };
        let of_provider = |prefix: &str| provider.prefixes().any(|own| own == prefix);
        let excepted = ["NO_PROXY", "no_proxy"].iter().filter_map(|name| self.get(name)).any(|(value, _)| {
            value.split(',').map(str::trim).any(|part| matches!(part, "*" | "127.0.0.1" | "localhost"))
        });
        Variables {
            keys: wanted.iter().filter_map(key).collect(),
            mistaken: MISTAKEN
                .iter()
                .filter(|(wrong, right)| wanted.iter().any(|name| name == right) && is_set(wrong))
                .copied()
                .collect(),
            wanted,
            organization: if &*provider.id == "openai" {
                ORGANIZATION.iter().copied().filter(|name| is_set(name)).collect()
            } else {
                Vec::new()
            },
            base_urls: VARIABLES
                .iter()
                .filter(|own| of_provider(own.provider))
                .filter_map(|own| address(own.name))
                .collect(),
            proxies: PROXIES.iter().filter_map(|name| address(name)).collect(),
            loopback_excepted: excepted,
        }
    }
}

fn shown(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let path = crate::provider::redact_query(url.path());
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or("?"), path.trim_end_matches('/'))
}

/// `NAME=value`, with or without `export`, quotes and a comment; values with their blanks as the file has them inside
/// quotes.
fn parse(text: &str) -> Vec<(String, Zeroizing<String>)> {
    let mut values = Vec::new();
    for line in text.lines().take(1000) {
        let line = line.trim_start();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else { continue };
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.split(*quote).next());
        let value = quoted.unwrap_or_else(|| value.split(" #").next().unwrap_or_default().trim());
        values.push((name.trim().to_owned(), Zeroizing::new(value.to_owned())));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(file: &str, provider: &str, named: Option<&str>) -> Variables {
        let catalog = Catalog::embedded();
        let surroundings = Surroundings { env: Environment::of(&[]), file: parse(file) };
        surroundings.of(catalog.provider(provider).expect("known"), &catalog, named, b"")
    }

    #[test]
    fn keys_are_judged_and_the_winner_stands_first() {
        let both = with("GEMINI_API_KEY=made-up\nexport GOOGLE_API_KEY='made-up-too'\n", "gemini", None);
        let names: Vec<_> = both.keys.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(names, ["GOOGLE_API_KEY", "GEMINI_API_KEY"]);
        for (value, finding) in [
            ("\"  sk-made-up\"", Finding::KeyWhitespace),
            ("\"'sk-made-up'\"", Finding::KeyQuoted),
            ("${OPENAI_KEY}", Finding::KeyUnexpanded),
            ("your-api-key", Finding::KeyPlaceholder),
            ("sk-ant-api03-made-up", Finding::KeyWrongProvider),
            ("sk-admin-made-up", Finding::AdminKeyOnDataPath),
            ("sk-proj-made-up", Finding::KeyTruncated),
            ("Bearer sk-made-up", Finding::KeyDoubleScheme),
            ("", Finding::KeyEmpty),
        ] {
            let found = with(&format!("OPENAI_API_KEY={value}\n"), "openai", None);
            assert!(found.keys[0].findings.contains(&finding), "{value}: {:?}", found.keys[0].findings);
        }
        assert_eq!(with("OPENAI_API_KEY=sk-made-up-key\n", "openai", None).keys[0].findings, []);
        assert_eq!(with("MY_KEY=sk-made-up-key\n", "openai", Some("MY_KEY")).keys[0].name, "MY_KEY");
    }

    #[test]
    fn names_and_addresses_are_told_without_their_secrets() {
        let found = with(
            "OPENAI_KEY=x\nOPENAI_ORG_ID=org-made-up\nOPENAI_BASE_URL=https://user:made-up-password@gateway.example/v1?key=made-up\nHTTPS_PROXY=http://u:made-up-password@proxy.example:3128\nNO_PROXY=a, localhost\n",
            "openai",
            None,
        );
        assert_eq!(found.mistaken, [("OPENAI_KEY", "OPENAI_API_KEY")]);
        assert_eq!(found.organization, ["OPENAI_ORG_ID"]);
        assert_eq!(found.base_urls[0].shown, "https://gateway.example/v1");
        assert_eq!(found.proxies[0].shown, "http://proxy.example:3128");
        assert!(found.loopback_excepted);
    }
}
