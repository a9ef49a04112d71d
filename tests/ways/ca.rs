//! The local authority: its files, what it may vouch for as five verifiers see it, rotation, bundle, a company's own.

use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, RootCertStore};

use super::internet::{Internet, OPENAI, Trust, call, chat, connected, tls, tunnels, was_opened};
use crate::support::wire::PATIENCE;
use crate::support::{Sidecar, skip, tool};

/// `keytally ca …` with its state in `home`.
fn ca(home: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keytally"));
    command.arg("ca").args(args).env_clear().env("HOME", home).env("RUST_LOG", "trace");
    command.output().unwrap()
}

/// Standard output of a command that succeeds, without its line end.
#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().trim_end().to_owned()
}

#[test]
fn it_is_made_once_and_its_key_is_its_owner_s() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(".local/state/keytally/ca");
    let first = ca(home.path(), &["init"]);
    assert_eq!(said(&first), dir.join("ca.pem").display().to_string());
    assert!(String::from_utf8_lossy(&first.stderr).starts_with("made: CN=keytally local CA "), "{first:?}");
    let pem = std::fs::read_to_string(dir.join("ca.pem")).unwrap();
    let key_file = dir.join("ca-key.pem");
    let inode = std::fs::metadata(&key_file).unwrap().ino();
    let again = ca(home.path(), &["init"]);
    assert!(String::from_utf8_lossy(&again.stderr).starts_with("there already: "), "{again:?}");
    assert_eq!(said(&ca(home.path(), &["path"])), said(&first));
    assert_eq!(said(&ca(home.path(), &["print"])), pem.trim_end());
    assert_eq!(std::fs::metadata(&key_file).unwrap().ino(), inode);
    assert_eq!(std::fs::read_to_string(dir.join("ca.pem")).unwrap(), pem);
    let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca-key.pem"), mode("ca.pem")), (0o600, 0o644));

    // A lost certificate comes back from the key's file.
    std::fs::remove_file(dir.join("ca.pem")).unwrap();
    said(&ca(home.path(), &["path"]));
    assert_eq!(std::fs::read_to_string(dir.join("ca.pem")).unwrap(), pem);
}

#[test]
fn of_many_at_once_one_makes_it() {
    let home = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..12)
        .map(|_| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_keytally"));
            command.args(["ca", "print"]).env_clear().env("HOME", home.path());
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let printed: Vec<_> = children.into_iter().map(|child| said(&child.wait_with_output().unwrap())).collect();
    assert!(printed.iter().all(|pem| pem == &printed[0]));
    let dir = home.path().join(".local/state/keytally/ca");
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["ca-key.pem", "ca.pem"], "nothing is left beside them");
}

#[tokio::test]
async fn the_key_is_never_shown() {
    let internet = Internet::new().await;
    let sidecar =
        Sidecar::start_with(&internet.config(", intercept: on", "listen: { proxy_tls: \"127.0.0.1:0\" }"), |command| {
            command.env("RUST_LOG", "trace");
        });
    let stream = connected(sidecar.proxy, OPENAI).await;
    let stream = tls(internet.client(Trust::Sidecar, &["http/1.1"]), OPENAI, stream).await.unwrap();
    assert_eq!(call(stream, false, chat(OPENAI, false)).await.head.status, 200);
    let key = std::fs::read_to_string(internet.ca_dir().join("ca-key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----") && secret.len() > 40);
    let file = internet.config_file("");
    let mut shown = sidecar.log();
    for args in [&["init"][..], &["path"], &["print"], &["bundle"], &["bundle", "--print"], &["rotate"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keytally"));
        let output = command.arg("ca").args(args).arg("--config").arg(&file).env("RUST_LOG", "trace").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        shown.push_str(&String::from_utf8_lossy(&output.stdout));
        shown.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    assert!(!shown.contains(secret) && !shown.contains("PRIVATE KEY"));
    let bundle = std::fs::read_to_string(internet.ca_dir().join("bundle.pem")).unwrap();
    assert!(!bundle.contains("PRIVATE KEY"));
}

// === what a stolen key can do ===

/// The authority with its key, as a thief would use them.
struct Stolen {
    issuer: Issuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

/// A chain that a thief made: its files.
struct Forged {
    chain: PathBuf,
    key: PathBuf,
    der: Vec<CertificateDer<'static>>,
}

impl Stolen {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        said(&ca(dir.path(), &["init"]));
        let pem = std::fs::read_to_string(dir.path().join(".local/state/keytally/ca/ca-key.pem")).unwrap();
        let (key, certificate) = pem.split_at(pem.find("-----BEGIN CERTIFICATE").unwrap());
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key).unwrap()).unwrap();
        Self { issuer, dir }
    }

    fn roots(&self) -> PathBuf {
        self.dir.path().join(".local/state/keytally/ca/ca.pem")
    }

    /// A certificate for these names, made with the key itself or, `between`, by an authority that the key vouched for.
    fn forge(&self, names: &[SanType], between: bool) -> Forged {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.distinguished_name.push(rcgen::DnType::CommonName, "made up");
        let key = KeyPair::generate().unwrap();
        let mut der = Vec::new();
        if between {
            let mut middle = CertificateParams::default();
            middle.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            middle.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            middle.use_authority_key_identifier_extension = true;
            middle.distinguished_name.push(rcgen::DnType::CommonName, "made up authority");
            let middle_key = KeyPair::generate().unwrap();
            let certificate = middle.signed_by(&middle_key, &self.issuer).unwrap();
            let issuer = Issuer::new(middle, middle_key);
            der.push(params.signed_by(&key, &issuer).unwrap().der().clone());
            der.push(certificate.der().clone());
        } else {
            der.push(params.signed_by(&key, &self.issuer).unwrap().der().clone());
        }
        let stem = format!("forged-{}", next_number());
        let (chain, key_file) =
            (self.dir.path().join(format!("{stem}.pem")), self.dir.path().join(format!("{stem}-key.pem")));
        std::fs::write(&chain, der.iter().map(pem).collect::<String>()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Forged { chain, key: key_file, der }
    }
}

/// Tells files apart.
fn next_number() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string()
}

fn pem(certificate: &CertificateDer<'static>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Asks one verifier: `Ok`, or what it said.
type Verifier = fn(&Stolen, &Forged, &str) -> Result<(), String>;

fn answer(output: Output) -> Result<(), String> {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(()) } else { Err(text) }
}

fn openssl(stolen: &Stolen, forged: &Forged, name: &str) -> Result<(), String> {
    let what = if name.parse::<IpAddr>().is_ok() { "-verify_ip" } else { "-verify_hostname" };
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-no-CAstore", "-CAfile"]);
    command.arg(stolen.roots()).args([what, name, "-untrusted"]).args([&forged.chain, &forged.chain]);
    answer(command.output().unwrap())
}

fn webpki(stolen: &Stolen, forged: &Forged, name: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(stolen.roots()).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let verified = verifier.verify_server_cert(&forged.der[0], &forged.der[1..], &name, &[], UnixTime::now());
    verified.map(drop).map_err(|error| error.to_string())
}

fn script(mut command: Command, stolen: &Stolen, forged: &Forged, name: &str) -> Result<(), String> {
    answer(command.arg(stolen.roots()).arg(&forged.chain).arg(&forged.key).arg(name).output().unwrap())
}

fn own_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/ways").join(name)
}

fn node(stolen: &Stolen, forged: &Forged, name: &str) -> Result<(), String> {
    let mut command = Command::new("node");
    command.arg(own_file("verify.mjs"));
    script(command, stolen, forged, name)
}

fn python(stolen: &Stolen, forged: &Forged, name: &str) -> Result<(), String> {
    let mut command = Command::new(tool("venv/bin/python").unwrap());
    command.arg(own_file("verify.py"));
    script(command, stolen, forged, name)
}

fn go(stolen: &Stolen, forged: &Forged, name: &str) -> Result<(), String> {
    let mut command = Command::new(tool("bin/verify-go").unwrap());
    answer(command.arg(stolen.roots()).arg(&forged.chain).arg(name).output().unwrap())
}

#[test]
fn a_stolen_key_vouches_for_providers_only() {
    let stolen = Stolen::new();
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let ip = |text: &str| SanType::IpAddress(text.parse().unwrap());
    // What is forged, whom it is shown for, whether that may pass.
    let cases: &[(&str, Forged, &str, bool)] = &[
        ("a provider", stolen.forge(&[dns("api.openai.com")], false), "api.openai.com", true),
        (
            "a provider's region",
            stolen.forge(&[dns("bedrock-runtime.eu-west-1.amazonaws.com")], false),
            "bedrock-runtime.eu-west-1.amazonaws.com",
            true,
        ),
        (
            "a provider's customer",
            stolen.forge(&[dns("made-up.openai.azure.com")], false),
            "made-up.openai.azure.com",
            true,
        ),
        ("keytally itself", stolen.forge(&[dns("localhost")], false), "localhost", true),
        ("somebody else", stolen.forge(&[dns("bank.example")], false), "bank.example", false),
        ("above a provider", stolen.forge(&[dns("openai.com")], false), "openai.com", false),
        ("beside a provider", stolen.forge(&[dns("login.openai.com")], false), "login.openai.com", false),
        ("a name that ends alike", stolen.forge(&[dns("notapi.openai.com")], false), "notapi.openai.com", false),
        (
            "a neighbor in a cloud",
            stolen.forge(&[dns("made-up.s3.eu-west-1.amazonaws.com")], false),
            "made-up.s3.eu-west-1.amazonaws.com",
            false,
        ),
        ("a wildcard above", stolen.forge(&[dns("*.openai.com")], false), "api.openai.com", false),
        ("two names", stolen.forge(&[dns("api.openai.com"), dns("bank.example")], false), "bank.example", false),
        ("an address", stolen.forge(&[ip("127.0.0.1")], false), "127.0.0.1", false),
        (
            "an address beside a provider",
            stolen.forge(&[dns("api.openai.com"), ip("203.0.113.9")], false),
            "203.0.113.9",
            false,
        ),
        ("an authority in between", stolen.forge(&[dns("api.openai.com")], true), "api.openai.com", false),
        ("an authority in between, somebody else", stolen.forge(&[dns("bank.example")], true), "bank.example", false),
    ];
    let mut verifiers: Vec<(&str, Verifier)> = vec![("rustls", webpki), ("OpenSSL", openssl), ("Node", node)];
    match tool("venv/bin/python") {
        Some(_) => verifiers.push(("Python", python)),
        None => skip("the Python tools"),
    }
    match tool("bin/verify-go") {
        Some(_) => verifiers.push(("Go", go)),
        None => skip("Go's verifier"),
    }
    for (verifier, verify) in verifiers {
        for (case, forged, name, may_pass) in cases {
            let verified = verify(&stolen, forged, name);
            // webpki takes of a trusted root its names, not its path length: what an authority in between vouches for is
            // limited all the same.
            let may_pass = &(*may_pass || (verifier == "rustls" && *case == "an authority in between"));
            assert_eq!(verified.is_ok(), *may_pass, "{verifier}, {case}: {verified:?}");
            let words =
                ["constraint", "permitted", "path", "not authorized", "too many intermediates", "allowed", "violation"];
            if let Err(said) = verified {
                let said = said.to_lowercase();
                assert!(words.iter().any(|word| said.contains(word)), "{verifier}, {case}, for another reason: {said}");
            }
        }
    }
}

/// What the sidecar shows passes the strictest check of a certificate.
#[tokio::test]
async fn what_the_sidecar_shows_is_well_formed() {
    let internet = Internet::new().await;
    let sidecar = internet.sidecar("");
    let stream = connected(sidecar.proxy, OPENAI).await;
    let stream = tls(internet.client(Trust::Sidecar, &["http/1.1"]), OPENAI, stream).await.unwrap();
    let shown: Vec<_> =
        stream.get_ref().1.peer_certificates().unwrap().iter().map(|c| c.clone().into_owned()).collect();
    assert_eq!(shown.len(), 1, "clients have the root");
    let file = internet.dir.path().join("leaf.pem");
    std::fs::write(&file, pem(&shown[0])).unwrap();
    let root = internet.ca_dir().join("ca.pem");
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", OPENAI, "-CAfile"]);
    let verified = command.arg(root).arg(&file).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let text = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for part in [
        "Authority Key Identifier",
        "Subject Key Identifier",
        "CA:FALSE",
        "DNS:api.openai.com",
        "TLS Web Server Authentication",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let ends =
        Command::new("openssl").args(["x509", "-noout", "-checkend", "90000", "-in"]).arg(&file).output().unwrap();
    assert!(!ends.status.success(), "it lives for a day");
}

// === rotation, bundle, own authorities ===

#[tokio::test]
async fn rotation_keeps_things_working() {
    let internet = Internet::new().await;
    internet.make_ca();
    let sidecar = Sidecar::start(&internet.config("", ""));
    let before = internet.client(Trust::Sidecar, &["http/1.1"]);
    let open = async |config| {
        let stream = connected(sidecar.proxy, OPENAI).await;
        tls(config, OPENAI, stream).await
    };
    assert!(was_opened(&open(before.clone()).await.unwrap()));
    let rotate = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keytally"));
        command.args(["ca", "rotate"]).args(args).arg("--config").arg(internet.config_file(""));
        said(&command.output().unwrap())
    };
    rotate(&[]);
    // Until it is told, the sidecar goes on with the old one; the file of trusted certificates holds both.
    let both = internet.client(Trust::Sidecar, &["http/1.1"]);
    for config in [&before, &both] {
        let stream = open(config.clone()).await.unwrap();
        assert!(was_opened(&stream));
        assert_eq!(call(stream, false, chat(OPENAI, false)).await.head.status, 200);
    }
    sidecar.signal("HUP");
    let deadline = std::time::Instant::now() + PATIENCE;
    // An application that has not read the file again refuses the new one, and is passed unread.
    loop {
        // A connection that ends without a request would count as one more that refuses.
        let Ok(stream) = open(before.clone()).await else { break };
        assert_eq!(call(stream, false, chat(OPENAI, false)).await.head.status, 200);
        assert!(std::time::Instant::now() < deadline, "the new CA is not taken up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(was_opened(&open(internet.client(Trust::Sidecar, &["h2"])).await.unwrap()), "one that has is not");
    let blind = open(internet.client(Trust::Internet, &["http/1.1"])).await.unwrap();
    assert!(!was_opened(&blind));
    assert_eq!(tunnels(&sidecar, "pinned").await, 1.0);

    let count = || CertificateDer::pem_file_iter(internet.ca_dir().join("ca.pem")).unwrap().count();
    assert_eq!(count(), 2);
    rotate(&[]);
    rotate(&[]);
    assert_eq!(count(), 3, "the last two of those before");
    rotate(&["--forget"]);
    assert_eq!(count(), 1);
}

#[test]
fn the_bundle_has_the_system_s_roots_and_ours() {
    let home = tempfile::tempdir().unwrap();
    let bundle = PathBuf::from(said(&ca(home.path(), &["bundle"])));
    let read = |path: &Path| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
    };
    let own = read(Path::new(&said(&ca(home.path(), &["path"]))));
    let all = read(&bundle);
    let system = system_roots();
    assert_eq!(all.len(), system + 1);
    assert_eq!(all[0], own[0]);
    assert_eq!(std::fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o644);
    let printed = said(&ca(home.path(), &["bundle", "--print"]));
    assert_eq!(printed, std::fs::read_to_string(&bundle).unwrap().trim_end());

    // A bundle made where SSL_CERT_FILE names an older bundle of ours has neither CA of ours twice, nor a rotated one.
    said(&ca(home.path(), &["rotate", "--forget"]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_keytally"));
    command.args(["ca", "bundle"]).env_clear().env("HOME", home.path()).env("SSL_CERT_FILE", &bundle);
    let again = read(Path::new(&said(&command.output().unwrap())));
    assert_eq!(again.len(), system + 1);
    assert!(!again.contains(&own[0]), "the forgotten one is gone");
}

/// Different certificates in the place where Debian's OpenSSL looks: the file and the directory hold the same ones.
fn system_roots() -> usize {
    let files = std::fs::read_dir("/etc/ssl/certs").expect("Debian's package ca-certificates");
    let pem = files.filter_map(|entry| std::fs::read(entry.ok()?.path()).ok());
    let found = pem.flat_map(|pem| CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect::<Vec<_>>());
    found.collect::<std::collections::HashSet<_>>().len()
}

#[tokio::test]
async fn a_company_s_own_authority() {
    let internet = Internet::new().await;
    let dir = internet.dir.path();
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let make = |parent: Option<&Issuer<'_, KeyPair>>, name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = match parent {
            Some(parent) => params.signed_by(&key, parent).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        let key_pem = key.serialize_pem();
        (certificate.pem(), key_pem, Issuer::new(params, key))
    };
    let (root, _, root_issuer) = make(None, "made-up company root");
    let (middle, middle_key, _) = make(Some(&root_issuer), "made-up company CA");
    let certificate = write("company.pem", &middle);
    let key = write("company-key.pem", &middle_key);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let files = format!(", ca_certificate: \"{}\", ca_key: \"{}\"", certificate.display(), key.display());
    let sidecar = Sidecar::start(&internet.config(&files, ""));
    sidecar.wait_for_log("has no name constraints");
    sidecar.wait_for_log("others may read the CA's private key");
    // Clients know the root alone: what is between must be sent.
    std::fs::create_dir_all(internet.ca_dir()).unwrap();
    std::fs::write(internet.ca_dir().join("ca.pem"), root).unwrap();
    let stream = connected(sidecar.proxy, OPENAI).await;
    let stream = tls(internet.client(Trust::Sidecar, &["http/1.1"]), OPENAI, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap().len(), 2);
    assert_eq!(call(stream, false, chat(OPENAI, false)).await.head.status, 200);
    assert_eq!(sidecar.wait_for_records(1).await[0]["way"], "forward");

    let leaf = {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
    };
    let (_, other_key, _) = make(None, "another");
    let cases = [
        ("no such file", dir.join("none.pem"), key.clone(), "no such file"),
        ("another's key", certificate.clone(), write("other-key.pem", &other_key), "belongs to another certificate"),
        ("no authority", write("leaf.pem", &leaf), key.clone(), "no certificate authority"),
        ("no PEM", write("none.txt", "hello"), key.clone(), "no certificate in it"),
        ("no key", certificate.clone(), certificate.clone(), "holds no private key"),
    ];
    for (case, certificate, key, words) in cases {
        let files = format!(", ca_certificate: \"{}\", ca_key: \"{}\"", certificate.display(), key.display());
        let file = write("check.yaml", &internet.config(&files, ""));
        let checked =
            Command::new(env!("CARGO_BIN_EXE_keytally")).args(["check", "--config"]).arg(file).output().unwrap();
        assert_eq!(checked.status.code(), Some(78), "{case}: {checked:?}");
        let text = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(text.contains("tls.ca_certificate") && text.contains(words), "{case}: {text}");
        assert!(!text.contains("PRIVATE KEY---"), "{case}: {text}");
    }
}
