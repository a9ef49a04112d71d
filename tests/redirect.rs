//! Redirected connections inside a network namespace: the rules themselves, connections that are passed on unread, plain
//! HTTP, and everything that would make a loop.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keytally::demo::simulator::{Answer, Simulator};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::netns::Namespace;
use crate::support::sidecar::readable_by_all;
use crate::support::wire::{Authority, serve_names};
use crate::support::{Samples, Sidecar};

const SIDECAR: u32 = 65532;
const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;
const OK: &str = r#"{"object":"chat.completion","model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
/// A host that nobody knows, and where it is for those who ask for it there.
const UNKNOWN: &str = "unknown.example";
const PLAIN: &str = "llm.example";

struct World {
    namespace: Namespace,
    dir: tempfile::TempDir,
    _provider: Simulator,
    _plain: tokio::task::JoinHandle<()>,
}

impl World {
    async fn new(tag: u8) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        let namespace = Namespace::new(tag)?;
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("readable by all");
        let authority = Arc::new(Authority::new());
        std::fs::write(dir.path().join("providers.pem"), &authority.pem).expect("written");
        let provider = Simulator::start(|_| Answer::new(200, "application/json", OK)).await.expect("a free port");
        let places = vec![("api.openai.com", provider.address()), (UNKNOWN, provider.address())];
        for address in [IpAddr::from(namespace.outside), namespace.outside6.into()] {
            let listener = TcpListener::bind((address, 443)).await.expect("an address of this test's own");
            tokio::spawn(serve_names(listener, Arc::clone(&authority), places.clone()));
        }
        let listener = TcpListener::bind((namespace.outside, 80)).await.expect("an address of this test's own");
        let place = provider.address();
        let plain = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut server) = tokio::net::TcpStream::connect(place).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
        let outside = IpAddr::from(namespace.outside);
        // The sidecar cannot find the unknown one: it must go where the connection went.
        namespace.hosts(&[("api.openai.com", outside), (PLAIN, outside)]);
        Some(Self { namespace, dir, _provider: provider, _plain: plain })
    }

    fn sidecar(&self) -> Sidecar {
        use std::os::unix::fs::chown;
        let path = self.dir.path();
        let ca = path.join("ca");
        std::fs::create_dir_all(&ca).expect("made");
        let calls = path.join("calls.jsonl");
        std::fs::write(&calls, "").expect("written");
        for mine in [&ca, &calls] {
            chown(mine, Some(SIDECAR), Some(SIDECAR)).expect("root may");
        }
        let config = format!(
            "upstream: {{ ca_file: \"{0}/providers.pem\" }}\ntls: {{ ca_dir: \"{0}/ca\", intercept: on }}\n\
             providers: {{ local: {{ protocol: openai-chat, base_url: \"http://{PLAIN}\" }} }}\n\
             metrics: {{ birth_hold: 0s }}\nlisten: {{ redirect: \"127.0.0.1:4142\" }}\nexport: {{ calls: {{ path: \"{0}/calls.jsonl\" }} }}\n",
            path.display()
        );
        Sidecar::start_under(&self.namespace.prefix(Some(SIDECAR)), &config, readable_by_all)
    }

    /// curl in the namespace: exit code, status and body.
    fn curl(&self, trust: &str, arguments: &[&str]) -> (i32, String, String) {
        let trust = format!("{}/{trust}", self.dir.path().display());
        let mut all = vec!["curl", "--silent", "--max-time", "30", "--cacert", &trust, "--write-out", "\n%{http_code}"];
        all.extend(arguments);
        let output = self.namespace.run(&all);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (output.status.code().expect("a code"), status.to_owned(), body.to_owned())
    }

    fn ask(&self, trust: &str, url: &str) -> (i32, String, String) {
        self.curl(trust, &["--header", "authorization: Bearer sk-made-up-redirect", "--json", ASK, url])
    }

    fn records(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(self.dir.path().join("calls.jsonl")).expect("a file");
            if text.lines().count() >= count && (text.is_empty() || text.ends_with('\n')) {
                return text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            }
            assert!(Instant::now() < deadline, "{} of {count} records", text.lines().count());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn metrics(&self, sidecar: &Sidecar) -> Samples {
        let url = format!("http://{}/metrics", sidecar.admin);
        let output = self.namespace.run(&["curl", "--silent", "--fail", &url]);
        Samples::parse(&String::from_utf8(output.stdout).expect("UTF-8"))
    }

    fn ruleset(&self) -> String {
        let output = self.namespace.run(&["nft", "list", "ruleset"]);
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

const CHAT: &str = "https://api.openai.com/v1/chat/completions";

#[tokio::test(flavor = "multi_thread")]
async fn opened_passed_on_and_plain() {
    let Some(world) = World::new(1).await else { return };
    tokio::task::spawn_blocking(move || {
        let sidecar = world.sidecar();
        world.namespace.keytally(&["redirect", "install", "--port", "443", "--port", "80"]);

        let (code, status, body) = world.ask("ca/ca.pem", CHAT);
        assert_eq!((code, &*status, &*body), (0, "200", OK), "{}", sidecar.log());
        let record = &world.records(1)[0];
        assert_eq!(
            (&record["way"], &record["provider"], &record["outcome"]),
            (&"redirect".into(), &"openai".into(), &"ok".into())
        );
        // An application that does not trust the local CA is not deceived.
        assert_eq!(world.ask("providers.pem", CHAT).0, 60, "curl: not the provider's certificate");

        // A host that is no provider's: the server's own certificate, at the address that was connected to.
        for address in [world.namespace.outside.to_string(), format!("[{}]", world.namespace.outside6)] {
            let resolve = format!("{UNKNOWN}:443:{address}");
            let url = format!("https://{UNKNOWN}/v1/chat/completions");
            let (code, status, body) = world.curl("providers.pem", &["--resolve", &resolve, "--json", ASK, &url]);
            assert_eq!((code, &*status, &*body), (0, "200", OK), "{address}: {}", sidecar.log());
        }
        let passed = world.metrics(&sidecar).sum("keytally_tunnelled_connections_total", &[("reason", "unknown_host")]);
        assert_eq!(passed, Some(2.0));

        let (code, status, _) = world.ask("ca/ca.pem", &format!("http://{PLAIN}/v1/chat/completions"));
        assert_eq!((code, &*status), (0, "200"), "{}", sidecar.log());
        let records = world.records(2);
        assert_eq!((&records[1]["way"], &records[1]["provider"]), (&"redirect".into(), &"local".into()));

        // The sidecar's own user is left alone.
        let prefix = world.namespace.prefix(Some(SIDECAR));
        let trust = format!("{}/providers.pem", world.dir.path().display());
        let own = std::process::Command::new(&prefix[0])
            .args(&prefix[1..])
            .args(["curl", "--silent", "--cacert", &trust, "--json", ASK, CHAT])
            .output()
            .expect("curl runs");
        assert_eq!(String::from_utf8_lossy(&own.stdout), OK);
        assert_eq!(world.records(2).len(), 2);
    })
    .await
    .expect("as documented");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_back_to_the_sidecar() {
    let Some(world) = World::new(2).await else { return };
    tokio::task::spawn_blocking(move || {
        let sidecar = world.sidecar();
        // Straight to the port: no firewall was in between.
        for address in ["127.0.0.1:4142", "[::1]:4142"] {
            let (code, ..) = world.curl("ca/ca.pem", &["--insecure", &format!("https://{address}/")]);
            assert!([35, 52, 56].contains(&code), "{address}: curl exits with {code}");
        }
        // Rules that exempt somebody else: the sidecar's own connections are redirected to itself, and closed.
        world.namespace.keytally(&["redirect", "install", "--uid", "12345"]);
        let (code, status, body) = world.ask("ca/ca.pem", CHAT);
        assert_eq!((code, &*status), (0, "502"), "{body}");
        sidecar.wait_for_log("the firewall redirects keytally's own connections");
        assert!(sidecar.log().contains("keytally redirect install --uid 65532"), "{}", sidecar.log());
        assert_eq!(world.records(1)[0]["outcome"], "network_error");
        let open = world.metrics(&sidecar).sum("keytally_connections", &[("side", "client")]);
        assert!(open <= Some(2.0), "{open:?} connections are open");

        world.namespace.keytally(&["redirect", "install"]);
        assert_eq!(world.ask("ca/ca.pem", CHAT).1, "200");
    })
    .await
    .expect("as documented");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_replace_themselves_and_leave_others_alone() {
    let Some(world) = World::new(3).await else { return };
    let namespace = &world.namespace;
    let other =
        "table inet other {\n\tchain output {\n\t\ttype filter hook output priority 0; policy accept;\n\t}\n}\n";
    let load = |text: &str| {
        let file = world.dir.path().join("rules.nft");
        std::fs::write(&file, text).expect("written");
        let loaded = namespace.run(&["nft", "-f", file.to_str().expect("UTF-8")]);
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    };
    namespace.keytally(&["redirect", "remove"]);
    load(other);
    let before = world.ruleset();
    namespace.keytally(&["redirect", "install", "--uid", "nobody", "--uid", "7"]);
    namespace.keytally(&["redirect", "install", "--to", "5000", "--backend", "nftables"]);
    let once = world.ruleset();
    assert_eq!(once.matches("table inet keytally").count(), 1, "{once}");
    assert!(once.contains("redirect to :5000") && once.contains("skuid 65532 return"), "{once}");
    namespace.keytally(&["redirect", "remove"]);
    assert_eq!(world.ruleset(), before);
    namespace.keytally(&["redirect", "remove"]);

    // What is printed is what is installed.
    load(&namespace.keytally(&["redirect", "print", "--to", "5000"]));
    assert_eq!(world.ruleset(), once);
    namespace.keytally(&["redirect", "remove"]);

    if std::process::Command::new("iptables").arg("--version").output().is_err() {
        return crate::support::skip("iptables");
    }
    let saved = || {
        ["iptables-save", "ip6tables-save"]
            .map(|program| String::from_utf8(namespace.run(&[program, "-t", "nat"]).stdout).expect("UTF-8"))
            .concat()
    };
    for _ in 0..2 {
        namespace.keytally(&["redirect", "install", "--backend", "iptables"]);
        assert_eq!(saved().matches("-A OUTPUT -p tcp -j KEYTALLY").count(), 2, "{}", saved());
        assert_eq!(saved().matches("--dport 443 -j REDIRECT --to-ports 4142").count(), 2, "{}", saved());
    }
    namespace.keytally(&["redirect", "remove"]);
    assert!(!saved().contains("KEYTALLY"), "{}", saved());

    // Without the capability it says what is missing.
    let output =
        namespace.command(Some(SIDECAR), env!("CARGO_BIN_EXE_keytally")).args(["redirect", "install"]).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("NET_ADMIN"), "{said}");
}
