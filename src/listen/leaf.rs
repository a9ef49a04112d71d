//! Certificates for single hosts, made when they are asked for, checked as a client would check them, and kept for a while.
//!
//! In: a host name. Out: what a TLS server shows for it, or why the authority may not vouch for it. A leaf lives a day, and
//! is replaced after half of one. Bounds: [`MAX_LEAVES`] are kept, the oldest goes first. One is made at a time, so that
//! many connections to one host cost one signature.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::ProducesTickets;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use super::ca::{Authority, set_life};

/// Hosts whose certificate is kept. An application calls a handful; a wildcard of the catalogue may be asked for many.
pub const MAX_LEAVES: usize = 500;
/// How long a leaf is valid.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long it is shown: connections made with it still have half of its life.
const SHOWN: Duration = Duration::from_secs(12 * 3600);

/// Makes and keeps leaves.
pub struct Mint {
    authority: Authority,
    /// Checks as clients do.
    verifier: Arc<WebPkiServerVerifier>,
    /// Lets clients come back without a new handshake; holds no state.
    tickets: Arc<dyn ProducesTickets>,
    leaves: Mutex<HashMap<Arc<str>, Leaf>>,
}

struct Leaf {
    made: SystemTime,
    /// An authority that may not vouch for the host is not asked again either.
    config: Result<Arc<ServerConfig>, Arc<str>>,
}

impl Mint {
    /// Signs with `authority`.
    ///
    /// # Errors
    /// An authority that no client could trust.
    pub fn new(authority: Authority) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).context("the CA's certificate cannot be used")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        let tickets = rustls::crypto::ring::Ticketer::new()?;
        Ok(Self { authority, verifier, tickets, leaves: Mutex::default() })
    }

    /// Who signs.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What a server shows for `host` (lower case), speaking HTTP/2 or HTTP/1.1 as the client chooses.
    ///
    /// # Errors
    /// Why the authority may not vouch for the host.
    pub fn server(&self, host: &str, now: SystemTime) -> Result<Arc<ServerConfig>, Arc<str>> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |leaf: &&Leaf| now.duration_since(leaf.made).is_ok_and(|age| age < SHOWN);
        if let Some(leaf) = leaves.get(host).filter(fresh) {
            return leaf.config.clone();
        }
        let config = self.make(host, now).map(Arc::new).map_err(|error| Arc::from(format!("{error:#}")));
        if leaves.len() >= MAX_LEAVES && !leaves.contains_key(host) {
            let oldest = leaves.iter().min_by_key(|(_, leaf)| leaf.made).map(|(host, _)| Arc::clone(host));
            oldest.and_then(|host| leaves.remove(&host));
        }
        leaves.insert(Arc::from(host), Leaf { made: now, config: config.clone() });
        config
    }

    fn make(&self, host: &str, now: SystemTime) -> anyhow::Result<ServerConfig> {
        let (chain, key) = self.sign(host, now)?;
        self.check(host, &chain, now)?;
        let provider = rustls::crypto::ring::default_provider();
        let key = provider.key_provider.load_private_key(key.into())?;
        let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = Arc::clone(&self.tickets);
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(config)
    }

    fn sign(
        &self,
        host: &str,
        now: SystemTime,
    ) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivatePkcs8KeyDer<'static>)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Longer names are in the alternative name only: the standard ends at 64 characters.
        let common_name = if host.len() <= 64 { host } else { "keytally" };
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = vec![SanType::DnsName(host.try_into()?)];
        // Python's strict verification asks for both key identifiers.
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_life(&mut params, now, LIFE);
        let mut chain = vec![self.authority.sign(&params, &key)?];
        chain.extend(self.authority.intermediates().cloned());
        Ok((chain, PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    fn check(&self, host: &str, chain: &[CertificateDer<'static>], now: SystemTime) -> anyhow::Result<()> {
        let facts = self.authority.facts();
        // A trust anchor's own end is not looked at by the verifier.
        anyhow::ensure!(facts.not_after > now, "the CA \"{}\" has ended; rotate it", facts.subject);
        let name = ServerName::try_from(host).context("not a host name")?;
        let since = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let checked = self.verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], since);
        checked.map(drop).with_context(|| {
            format!("the CA \"{}\" may not vouch for {host}; run keytally ca rotate to permit it", facts.subject)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mint(dir: &std::path::Path, names: &[&str]) -> Mint {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Mint::new(Authority::load_or_make(dir, &names).expect("an authority").0).expect("a mint")
    }

    #[test]
    fn only_what_the_authority_may_vouch_for() {
        let dir = tempfile::tempdir().expect("directory");
        let mint = mint(dir.path(), &["api.openai.com", "openai.azure.com"]);
        let now = SystemTime::now();
        for host in ["api.openai.com", "eu.api.openai.com", "mine.openai.azure.com"] {
            assert!(mint.server(host, now).is_ok(), "{host}");
        }
        for host in ["openai.com", "xapi.openai.com", "bank.example", "127.0.0.1", "not a name"] {
            let error = mint.server(host, now).expect_err(host);
            assert!(error.contains("may not vouch for") || error.contains("not a host name"), "{error}");
        }
        let late = now + Duration::from_secs(6 * 365 * 86_400);
        assert!(mint.server("api.openai.com", late).expect_err("ended").contains("has ended"));
    }

    #[test]
    fn one_leaf_a_host_and_a_new_one_after_half_its_life() {
        let dir = tempfile::tempdir().expect("directory");
        let mint = mint(dir.path(), &["example.com"]);
        let now = SystemTime::now();
        let first = mint.server("a.example.com", now).expect("a leaf");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(Arc::ptr_eq(&first, &mint.server("a.example.com", now).expect("a leaf"))));
            }
        });
        let soon = mint.server("a.example.com", now + SHOWN - Duration::from_secs(1)).expect("a leaf");
        assert!(Arc::ptr_eq(&first, &soon));
        assert!(!Arc::ptr_eq(&first, &mint.server("a.example.com", now + SHOWN).expect("a leaf")));
        for n in 0..MAX_LEAVES + 20 {
            let _ = mint.server(&format!("h{n}.example.com"), now + Duration::from_secs(n as u64));
        }
        assert_eq!(mint.leaves.lock().expect("lock").len(), MAX_LEAVES);
    }
}
