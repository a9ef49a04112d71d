//! Which names the local CA may vouch for: the hosts of the catalogue and of the configured providers, and `localhost`.
//!
//! X.509 knows subtrees only: a name permits itself and what is below it. A pattern that begins with `*.` is such a
//! subtree. One with a `*` inside (`bedrock-runtime.*.amazonaws.com`) is not, and permitting all of amazonaws.com would
//! let a stolen key vouch for anybody's bucket: it is written out, one name for each region of `regions.json`. A region
//! that is missing there is passed unread until `providers.<id>.hosts` names its host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::provider::{Catalog, HostPattern};

/// The name by which applications reach keytally itself over TLS.
pub const LOCALHOST: &str = "localhost";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Regions {
    #[serde(rename = "sources")]
    _sources: serde::de::IgnoredAny,
    /// What a `*` inside a pattern stands for, by what follows it.
    stars: BTreeMap<String, Vec<String>>,
}

static REGIONS: LazyLock<Regions> =
    LazyLock::new(|| serde_json::from_str(include_str!("regions.json")).expect("it loads; a unit test proves it"));

/// The permitted subtrees, sorted, none of them below another. IP addresses are left out: no certificate is made for them.
pub fn subtrees(catalog: &Catalog) -> Vec<String> {
    let mut names = BTreeSet::from([LOCALHOST.to_owned()]);
    for endpoint in catalog.providers().flat_map(|provider| &provider.endpoints) {
        for (pattern, _) in &endpoint.hosts {
            names.extend(expand(pattern));
        }
    }
    let below = |name: &str| {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if names.contains(parent) {
                return true;
            }
            rest = parent;
        }
        false
    };
    names.iter().filter(|name| !below(name)).cloned().collect()
}

fn expand(pattern: &HostPattern) -> Vec<String> {
    let text = pattern.as_str();
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        return vec![suffix.to_owned()];
    }
    let Some((before, after)) = text.split_once('*') else { return vec![text.to_owned()] };
    let regions = REGIONS.stars.get(after).map(Vec::as_slice).unwrap_or_default();
    regions.iter().map(|region| format!("{before}{region}{after}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::ProviderOverride;

    #[test]
    fn every_pattern_of_the_catalogue_is_permitted_and_nothing_wide() {
        let names = subtrees(&Catalog::embedded());
        for name in [
            "api.openai.com",
            "api.anthropic.com",
            "openai.azure.com",
            "bedrock-runtime.eu-central-1.amazonaws.com",
            "bedrock-runtime.cn-north-1.amazonaws.com.cn",
            "bedrock-mantle.us-east-1.api.aws",
            "us-central1-aiplatform.googleapis.com",
            "aiplatform.eu.rep.googleapis.com",
            LOCALHOST,
        ] {
            assert!(names.iter().any(|own| own == name), "{name}");
        }
        for wide in ["amazonaws.com", "googleapis.com", "api.aws", "com", "azure.com", "us-east-1.amazonaws.com"] {
            assert!(!names.iter().any(|own| own == wide), "{wide}");
        }
        for provider in Catalog::embedded().providers() {
            for (pattern, _) in provider.endpoints.iter().flat_map(|e| &e.hosts) {
                assert!(!expand(pattern).is_empty(), "{}: no region for {}", provider.id, pattern.as_str());
                let fits = |name: &String| pattern.matches(name) || pattern.as_str().strip_prefix("*.") == Some(name);
                assert!(expand(pattern).iter().all(fits), "{}", pattern.as_str());
            }
        }
        // Every verifier has a limit on comparisons, Go's being 250,000 for one chain.
        assert!(names.len() < 500, "{}", names.len());
    }

    #[test]
    fn configured_hosts_are_added_and_addresses_are_not() {
        let provider = |id: &str, url: &str, hosts: &[&str]| ProviderOverride {
            id: id.to_owned(),
            base_url: Some(url.parse().expect("a URL")),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..ProviderOverride::default()
        };
        let catalog = Catalog::build(&[
            provider("mine", "https://llm.corp.example:8443/v1", &["*.llm.corp.example", "other.example"]),
            provider("by-ip", "https://192.0.2.7", &[]),
        ])
        .expect("a catalogue");
        let embedded = subtrees(&Catalog::embedded());
        let added: Vec<_> = subtrees(&catalog).into_iter().filter(|name| !embedded.contains(name)).collect();
        assert_eq!(added, ["llm.corp.example", "other.example"]);
    }
}
