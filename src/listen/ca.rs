//! The local certificate authority: made once, kept in a directory, limited by X.509 itself to the hosts of providers.
//!
//! `ca-key.pem` holds private key and certificate, mode 0600: one file, so that the two cannot come apart. `ca.pem` holds
//! what applications are to trust: the certificate, and after a rotation those before it. Files appear whole or not at
//! all (written beside, synced, then linked or renamed); of two processes that make one at the same time, one wins and
//! both use it. A company's own authority is read from two files and never written.
//!
//! The certificate has critical name constraints (RFC 5280 section 4.2.1.10): the permitted names, and no IP address at
//! all; path length 0; server authentication only. Keys are never printed: no type here that holds one has `Debug`.

use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// Private key and certificate.
const KEY_FILE: &str = "ca-key.pem";
/// What applications trust.
const TRUST_FILE: &str = "ca.pem";
/// System roots and [`TRUST_FILE`].
const BUNDLE_FILE: &str = "bundle.pem";
/// Begins the name of every certificate that is made here.
const COMMON_NAME: &str = "keytally local CA";
/// How long an authority lives. A machine or a volume seldom lives longer, and a rotation is one command.
const CA_LIFE: Duration = Duration::from_secs(5 * 365 * 86_400);
/// Clocks of containers and virtual machines differ.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// Certificates of rotated authorities that stay trusted.
const PREVIOUS: usize = 2;
/// No key or certificate file is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// From here on a certificate that ends is told of.
const ENDS_SOON: Duration = Duration::from_secs(30 * 86_400);

/// An authority that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate first, then those between it and its root.
    chain: Vec<CertificateDer<'static>>,
    facts: Facts,
}

/// What a certificate of an authority says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Subject, for people.
    pub subject: String,
    /// SHA-256 of the certificate, lower-case hex.
    pub sha256: String,
    /// End of its life.
    pub not_after: SystemTime,
    /// Permitted names; `None`: it may vouch for any host.
    pub permitted: Option<Vec<String>>,
    /// It is its own issuer: clients that trust it need not be sent it.
    pub is_root: bool,
}

/// The file that applications are to trust.
pub fn trust_file(dir: &Path) -> PathBuf {
    dir.join(TRUST_FILE)
}

// === impl Authority ===

impl Authority {
    /// Reads the authority of a directory; `None` when there is none yet.
    ///
    /// # Errors
    /// Files that cannot be read or used.
    pub fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(KEY_FILE);
        let Some(pem) = read(&path)? else { return Ok(None) };
        warn_if_others_read(&path);
        let authority = Self::from_pem(&pem, &pem).with_context(|| path.display().to_string())?;
        authority.publish(dir, false);
        Ok(Some(authority))
    }

    /// The authority of a directory, which is made when there is none yet. The answer says whether it was.
    ///
    /// # Errors
    /// As [`Authority::load`]; a directory that cannot be written.
    pub fn load_or_make(dir: &Path, names: &[String]) -> anyhow::Result<(Self, bool)> {
        if let Some(found) = Self::load(dir)? {
            return Ok((found, false));
        }
        let made = write_new(dir, names, false)?;
        let authority = Self::load(dir)?.context("the authority vanished while it was made")?;
        authority.publish(dir, true);
        Ok((authority, made))
    }

    /// Makes another one in place of that of the directory. `forget`: the old certificates are no longer to be trusted.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn rotate(dir: &Path, names: &[String], forget: bool) -> anyhow::Result<Self> {
        write_new(dir, names, true)?;
        if forget {
            let path = trust_file(dir);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != ErrorKind::NotFound
            {
                return Err(error).with_context(|| path.display().to_string());
            }
        }
        let authority = Self::load(dir)?.context("the authority vanished while it was made")?;
        authority.publish(dir, true);
        Ok(authority)
    }

    /// Reads a company's own.
    ///
    /// # Errors
    /// Files that cannot be read, do not fit each other, or are no authority that may sign now.
    pub fn from_files(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let file =
            |path: &Path| read(path)?.with_context(|| format!("{}: no such file; check the path", path.display()));
        let (certificates, key_pem) = (file(certificate)?, file(key)?);
        warn_if_others_read(key);
        Self::from_pem(&certificates, &key_pem).with_context(|| format!("{}", certificate.display()))
    }

    pub(crate) fn from_pem(certificates: &[u8], key: &[u8]) -> anyhow::Result<Self> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(certificates).collect::<Result<_, _>>().context("not PEM")?;
        let own = chain.first().context("no certificate in it; give a PEM file with a CERTIFICATE block")?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| anyhow::anyhow!("the key file holds no private key; give a PEM file with PRIVATE KEY"))?;
        let key = KeyPair::try_from(&key).map_err(|_| {
            anyhow::anyhow!(
                "the private key cannot be used; write it as PKCS #8 (openssl pkcs8 -topk8 -nocrypt), ECDSA P-256 or \
                 P-384, Ed25519, or RSA of 2048 bits and more"
            )
        })?;
        let (facts, public_key) = inspect(own)?;
        ensure!(public_key == key.subject_public_key_info(), "the private key belongs to another certificate");
        let issuer = Issuer::from_ca_cert_der(own, key).context("the certificate cannot be used to sign")?;
        Ok(Self { issuer, chain, facts })
    }

    /// What its certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Signs a certificate.
    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        key: &KeyPair,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        params.signed_by(key, &self.issuer).map(|certificate| certificate.der().clone())
    }

    /// Its own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// What is sent after a leaf: nothing for a root, which clients have.
    pub(super) fn intermediates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.chain.iter().filter(|certificate| !inspect(certificate).is_ok_and(|(facts, _)| facts.is_root))
    }

    /// The certificate as PEM.
    pub fn pem(&self) -> String {
        pem(self.certificate())
    }

    /// Brings the file of trusted certificates up to date. Where it cannot be written somebody else keeps it; `must`: that
    /// is worth a line.
    fn publish(&self, dir: &Path, must: bool) {
        let path = trust_file(dir);
        let before = read(&path).ok().flatten().unwrap_or_default();
        let mut certificates = vec![self.certificate().clone()];
        let now = SystemTime::now();
        let previous = CertificateDer::pem_slice_iter(&before).filter_map(Result::ok).filter(|previous| {
            previous != self.certificate() && inspect(previous).is_ok_and(|(facts, _)| facts.not_after > now)
        });
        certificates.extend(previous.take(PREVIOUS));
        let text: String = certificates.iter().map(|certificate| pem(certificate)).collect();
        if text.as_bytes() == before.as_slice() {
            return;
        }
        match write_file(&path, text.as_bytes(), 0o644, true) {
            Err(error) if must => {
                tracing::warn!(error = format!("{error:#}"), "the CA's certificate was not published")
            }
            _ => {}
        }
    }

    /// Warns of what its owner should know: it ends soon, it may vouch for anything.
    pub fn doubts(&self, now: SystemTime) -> Vec<String> {
        let mut doubts = Vec::new();
        let left = self.facts.not_after.duration_since(now).unwrap_or_default();
        if left < ENDS_SOON {
            doubts.push(format!(
                "the CA \"{}\" ends in {} days; rotate it",
                self.facts.subject,
                left.as_secs() / 86_400
            ));
        }
        if self.facts.permitted.is_none() {
            doubts.push(format!(
                "the CA \"{}\" has no name constraints: whoever has its key can vouch for any host to everybody who trusts it",
                self.facts.subject
            ));
        }
        doubts
    }
}

/// The bundle for variables that replace a trust store: the system's roots and this authority's certificates.
///
/// # Errors
/// A system without roots.
pub fn bundle(trusted: &[CertificateDer<'_>]) -> anyhow::Result<String> {
    let system = rustls_native_certs::load_native_certs();
    if system.certs.is_empty() {
        bail!("this system has no root certificates; install them (Debian: ca-certificates)");
    }
    let mut seen = std::collections::HashSet::new();
    // Of an earlier bundle that SSL_CERT_FILE names, authorities of keytally's are left out: this one's are added below.
    let own = |der: &[u8]| der.windows(COMMON_NAME.len()).any(|part| part == COMMON_NAME.as_bytes());
    let system = system.certs.iter().filter(|certificate| !own(certificate));
    let all = trusted.iter().chain(system).filter(|certificate| seen.insert(certificate.as_ref().to_vec()));
    Ok(all.map(|certificate| pem(certificate)).collect())
}

/// The certificates of a file.
///
/// # Errors
/// A file that cannot be read or holds none.
pub fn trusted(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?.with_context(|| format!("{}: no such file; run keytally ca init", path.display()))?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    found.with_context(|| format!("{}: not PEM", path.display()))
}

/// Writes [`bundle`] of the certificates that `trust` holds into a directory; returns the file.
///
/// # Errors
/// As [`bundle`] and [`trusted`]; a directory that cannot be written.
pub fn write_bundle(dir: &Path, trust: &Path) -> anyhow::Result<PathBuf> {
    let text = bundle(&trusted(trust)?)?;
    make_dir(dir)?;
    let path = dir.join(BUNDLE_FILE);
    write_file(&path, text.as_bytes(), 0o644, true)?;
    Ok(path)
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("{}: cannot be made; name another directory as tls.ca_dir", dir.display()))
}

/// `forced`: replaces what is there. `false`: somebody else's was there first.
fn write_new(dir: &Path, names: &[String], forced: bool) -> anyhow::Result<bool> {
    make_dir(dir)?;
    let (key, certificate) = make(names)?;
    let text = Zeroizing::new(format!("{}{}", key.as_str(), pem(&certificate)));
    write_file(&dir.join(KEY_FILE), text.as_bytes(), 0o600, forced)
}

/// A new key and its certificate, self-signed. Key and certificate are told apart from others by a random name.
fn make(names: &[String]) -> anyhow::Result<(Zeroizing<String>, CertificateDer<'static>)> {
    let key = KeyPair::generate().context("no key can be made")?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{COMMON_NAME} {:08x}", fastrand::u32(..)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: names.iter().map(|name| GeneralSubtree::DnsName(name.clone())).collect(),
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(IpAddr::from([0_u8; 4]), 0)),
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(IpAddr::from([0_u8; 16]), 0)),
        ],
    });
    set_life(&mut params, SystemTime::now(), CA_LIFE);
    let certificate = params.self_signed(&key).context("the certificate cannot be made")?;
    Ok((Zeroizing::new(key.serialize_pem()), certificate.der().clone()))
}

/// From a little before `now`, for clocks that are behind, to `life` after it.
pub(super) fn set_life(params: &mut CertificateParams, now: SystemTime, life: Duration) {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let whole = |time: Duration| Duration::from_secs(time.as_secs());
    params.not_before = epoch + whole(now.saturating_sub(CLOCK_SKEW));
    params.not_after = epoch + whole(now + life);
}

/// Facts and public key (SPKI) of a certificate that may sign others now.
fn inspect(certificate: &CertificateDer<'_>) -> anyhow::Result<(Facts, Vec<u8>)> {
    let (_, x509) = X509Certificate::from_der(certificate).context("not a certificate")?;
    let subject = x509.subject().to_string();
    ensure!(x509.is_ca(), "\"{subject}\" is no certificate authority; give one with basicConstraints CA:TRUE");
    if let Some(usage) = x509.key_usage().context("key usage")? {
        ensure!(usage.value.key_cert_sign(), "\"{subject}\" may not sign certificates (keyUsage without keyCertSign)");
    }
    let not_after = u64::try_from(x509.validity().not_after.timestamp()).unwrap_or_default();
    let not_after = UNIX_EPOCH + Duration::from_secs(not_after);
    let permitted = x509.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::NameConstraints(constraints) => constraints.permitted_subtrees.as_ref(),
        _ => None,
    });
    let permitted = permitted.map(|subtrees| {
        let dns = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        };
        subtrees.iter().filter_map(|subtree| dns(&subtree.base)).collect::<Vec<_>>()
    });
    let facts = Facts {
        sha256: hex(certificate),
        not_after,
        permitted: permitted.filter(|names| !names.is_empty()),
        is_root: x509.subject() == x509.issuer(),
        subject,
    };
    Ok((facts, x509.public_key().raw.to_vec()))
}

/// Whatever the certificates of a file say of themselves, with any key.
#[cfg(any(test, fuzzing))]
pub(crate) fn inspect_all(certificates: &[u8]) {
    for certificate in CertificateDer::pem_slice_iter(certificates).flatten() {
        let _ = (inspect(&certificate), pem(&certificate));
    }
}

fn hex(certificate: &CertificateDer<'_>) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(certificate.as_ref()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let encoded = STANDARD.encode(certificate);
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// A file's bytes; `None` when there is no such file.
fn read(path: &Path) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
    match files::read(path, MAX_FILE_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FileError::Missing) => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

#[cfg(unix)]
fn warn_if_others_read(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(mode) = std::fs::metadata(path).map(|metadata| metadata.permissions().mode()) else { return };
    if mode & 0o077 != 0 {
        let mode = format!("{:03o}", mode & 0o777);
        tracing::warn!(path = %path.display(), mode, "others may read the CA's private key; set its mode to 600");
    }
}

#[cfg(not(unix))]
fn warn_if_others_read(_: &Path) {}

/// Writes a file whole: beside its place, synced, then moved there. Not `forced`: `false` when one is there already.
fn write_file(path: &Path, bytes: &[u8], mode: u32, forced: bool) -> anyhow::Result<bool> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("ca");
    let beside = path.with_file_name(format!(".{name}.{}.{:08x}", std::process::id(), fastrand::u32(..)));
    let write = || -> std::io::Result<bool> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        let mut file = options.open(&beside)?;
        file.write_all(bytes)?;
        // The mask of the process must not hide a certificate from the applications that are to trust it.
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.sync_all()?;
        if forced {
            std::fs::rename(&beside, path)?;
            return Ok(true);
        }
        match std::fs::hard_link(&beside, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    };
    let written = write();
    let _ = std::fs::remove_file(&beside);
    written.with_context(|| format!("{}: cannot be written; check mode and owner of the directory", path.display()))
}
