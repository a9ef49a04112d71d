//! `run --intercept`: which proxy and certificate variables a command gets, and the files that they name.
//!
//! In: the environment, and the CA that `keytally ca` has made or that the configuration names; without one, one is made in a
//! private temporary directory and removed with it at the end. Out: variables. A value of the user's is followed: a proxy
//! becomes the one behind the sidecar, certificates are added to. What cannot be followed is left as it is and said. Values
//! are never shown.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::variables::no_proxy;
use crate::app::catalog;
use crate::config::{Config, Environment, InterceptMode};
use crate::listen::ca::{self, Authority};
use crate::listen::permitted;

/// Both spellings: programs differ in which they read, and in which wins.
const PROXIES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
/// Certificates that are trusted in place of the system's. OpenSSL and httpx; requests; boto3; curl.
const STORES: [&str; 4] = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE"];
/// Certificates that are trusted on top of the built-in ones.
const NODE_EXTRA: &str = "NODE_EXTRA_CA_CERTS";
/// Has Node.js (22.21 and later) use the proxy at all.
const NODE_PROXY: &str = "NODE_USE_ENV_PROXY";

/// What a command is started with, and the files behind it: they are removed when this is dropped.
pub(super) struct Intercepting {
    files: Vec<(&'static str, PathBuf)>,
    plain: Vec<(&'static str, String)>,
    /// What the user should know, one line each.
    pub(super) notes: Vec<String>,
    _directory: Directory,
}

/// A directory that only its owner can read, for as long as this lives.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // Left-over certificates are no secret, and nobody is there any more to be told.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Directory {
    fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("keytally-run-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        // Fails where something of that name is there already.
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("{}: cannot be made", path.display()))?;
        Ok(Self(path))
    }
}

impl Intercepting {
    /// Decides on the CA, and writes the files; changes the configuration to open connections.
    ///
    /// # Errors
    /// A CA that cannot be used or made; a temporary directory that cannot be written; a system without certificates.
    pub(super) fn prepare(environment: &Environment, config: &mut Config, replace: bool) -> anyhow::Result<Self> {
        let directory = Directory::make()?;
        let trust = authority(config, &directory.0)?;
        if config.tls.intercept == InterceptMode::Off {
            config.tls.intercept = InterceptMode::Auto;
        }
        let own = ca::trusted(&trust)?;
        let bundle = directory.0.join("bundle.pem");
        std::fs::write(&bundle, ca::bundle(&own)?).context("the certificates cannot be written")?;

        let mut this = Self { files: Vec::new(), plain: Vec::new(), notes: Vec::new(), _directory: directory };
        let set = |name: &str| if replace { None } else { environment.get(name).ok().flatten() };
        for name in STORES {
            match set(name) {
                // The bundle's system part is what this names already.
                None => this.files.push((name, bundle.clone())),
                Some(theirs) => this.add_to(name, Path::new(&theirs), &trust)?,
            }
        }
        match set(NODE_EXTRA) {
            None => this.files.push((NODE_EXTRA, trust.clone())),
            Some(theirs) => this.add_to(NODE_EXTRA, Path::new(&theirs), &trust)?,
        }
        match set(NODE_PROXY) {
            None => this.plain.push((NODE_PROXY, "1".to_owned())),
            Some(theirs) if theirs == "1" => {}
            Some(_) => this.notes.push(format!("{NODE_PROXY} is set by you: Node.js uses the proxy only if it is 1")),
        }
        if let Some(name) = PROXIES.into_iter().find(|name| set(name).is_some()) {
            this.notes.push(format!("{name} is set by you: calls go through that proxy once keytally has seen them"));
        }
        let exceptions = if replace { no_proxy(&Environment::from_fn(|_| None)) } else { no_proxy(environment) };
        if exceptions.iter().any(|(_, hosts)| hosts == "*") {
            this.notes
                .push("NO_PROXY is set by you to *: no call is seen; unset it, or run with --override".to_owned());
        } else if ["NO_PROXY", "no_proxy"].into_iter().any(|name| set(name).is_some()) {
            this.notes.push("NO_PROXY is set by you: calls to what it names are not seen".to_owned());
        }
        this.plain.extend(exceptions);
        Ok(this)
    }

    /// The user's certificates and ours in one file.
    fn add_to(&mut self, name: &'static str, theirs: &Path, trust: &Path) -> anyhow::Result<()> {
        let Ok(text) = std::fs::read(theirs) else {
            self.notes.push(format!(
                "{name} is set by you to what is no readable file: programs that read it do not trust keytally's CA, and \
                 their calls are not seen; unset it, or run with --override"
            ));
            return Ok(());
        };
        let mut both = text;
        both.push(b'\n');
        both.extend(std::fs::read(trust).with_context(|| trust.display().to_string())?);
        let path = self._directory.0.join(format!("{name}.pem"));
        std::fs::write(&path, both).context("the certificates cannot be written")?;
        self.notes.push(format!("{name} is set by you: the command gets its certificates and keytally's"));
        self.files.push((name, path));
        Ok(())
    }

    /// All variables, for a sidecar at `url`.
    pub(super) fn variables(&self, url: &str) -> Vec<(&'static str, std::ffi::OsString)> {
        let proxies = PROXIES.map(|name| (name, url.into()));
        let files = self.files.iter().map(|(name, path)| (*name, path.into()));
        let plain = self.plain.iter().map(|(name, value)| (*name, value.into()));
        proxies.into_iter().chain(files).chain(plain).collect()
    }
}

/// The file of certificates that the command is to trust: of the CA that is there, or of one that is made in `directory`.
fn authority(config: &mut Config, directory: &Path) -> anyhow::Result<PathBuf> {
    if let Some((certificate, _)) = &config.tls.own_ca {
        return Ok(certificate.clone());
    }
    if Authority::load(&config.tls.ca_dir)?.is_none() {
        let catalog = catalog(config)?;
        let own = directory.join("ca");
        DirBuilder::new().mode(0o700).create(&own).with_context(|| format!("{}: cannot be made", own.display()))?;
        Authority::load_or_make(&own, &permitted::subtrees(&catalog))?;
        config.tls.ca_dir = own;
    }
    Ok(ca::trust_file(&config.tls.ca_dir))
}
