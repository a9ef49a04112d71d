//! Whether what runs in this shell would trust the local certificate authority, where calls are opened with it.
//!
//! In: the authority's certificate and the variables that each runtime takes further certificates from. Out: one line a
//! variable. Files are read, nothing else: no runtime is started. At most 8 MiB of a file.

use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;

use super::environment::Surroundings;
use crate::config::{Config, InterceptMode};
use crate::listen::ca;

/// Longest bundle that is read, bytes.
const BUNDLE_BYTES: u64 = 8 << 20;

/// Variables with a file of certificates, and who reads them. Sources: the runtimes' documentation, 2026.
const VARIABLES: &[(&str, &str)] = &[
    ("SSL_CERT_FILE", "Python's openai, anthropic, google-genai (httpx), Go, curl"),
    ("REQUESTS_CA_BUNDLE", "Python's requests"),
    ("NODE_EXTRA_CA_CERTS", "Node"),
    ("AWS_CA_BUNDLE", "boto3"),
    ("CURL_CA_BUNDLE", "curl"),
];

/// One variable.
pub(super) struct Trust {
    pub name: &'static str,
    pub read_by: &'static str,
    /// `None`: not set. Else whether the authority is in it, or why that cannot be told.
    pub trusts: Option<Result<bool, String>>,
}

/// The authority that calls would be opened with, and who trusts it. `None`: none is, or there is no authority yet.
pub(super) fn look(config: &Config, surroundings: &Surroundings) -> Option<(PathBuf, Vec<Trust>)> {
    if config.tls.intercept == InterceptMode::Off {
        return None;
    }
    let path = match &config.tls.own_ca {
        Some((certificate, _)) => certificate.clone(),
        None => ca::trust_file(&config.tls.ca_dir),
    };
    let own = ca::trusted(&path).ok().filter(|own| !own.is_empty())?;
    let of = |(name, read_by): &(&'static str, &'static str)| {
        let file = surroundings.path(name);
        Trust { name, read_by, trusts: file.map(|file| holds(&file, &own)) }
    };
    Some((path, VARIABLES.iter().map(of).collect()))
}

/// Whether one of `own` is in the file.
fn holds(file: &Path, own: &[CertificateDer<'_>]) -> Result<bool, String> {
    let shown = file.display();
    match std::fs::metadata(file) {
        Ok(about) if about.len() > BUNDLE_BYTES => return Err(format!("{shown}: too large for certificates")),
        Ok(_) => {}
        Err(error) => return Err(format!("{shown}: {error}")),
    }
    let there = ca::trusted(file).map_err(|error| format!("{error:#}"))?;
    Ok(there.iter().any(|certificate| own.contains(certificate)))
}
