//! The same script of SDKs by every way in, inside a network namespace of its own: below `keytally run`, below `keytally run
//! --intercept`, and redirected by a real firewall to a sidecar of another user. Providers have their real names, and TLS
//! with certificates that the sidecar checks. What the calls come to is the same by every way, but for the way's name.

use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keytally::demo::simulator::{AnswerEnd, Simulator};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{NODE, PROVIDERS, PYTHON, RETRYING, expected, script, script_path};
use crate::support::netns::Namespace;
use crate::support::sidecar::readable_by_all;
use crate::support::wire::{Authority, serve_names};
use crate::support::{Sidecar, recorded, skip, tool};

/// The user of a sidecar as in its image; the script's is another one.
const SIDECAR: u32 = 65532;
const HOSTS: [(&str, &str); 6] = [
    ("openai", "api.openai.com"),
    ("anthropic", "api.anthropic.com"),
    ("gemini", "generativelanguage.googleapis.com"),
    ("mistral", "api.mistral.ai"),
    ("cohere", "api.cohere.com"),
    ("groq", "api.groq.com"),
];
/// Reached over IPv6.
const OVER_IPV6: &str = "api.groq.com";

/// A namespace with the simulated providers outside.
struct World {
    namespace: Namespace,
    dir: tempfile::TempDir,
    _simulators: Vec<Simulator>,
}

impl World {
    async fn new(tag: u8) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        let namespace = Namespace::new(tag)?;
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("readable by all");
        let authority = Arc::new(Authority::new());
        std::fs::write(dir.path().join("providers.pem"), &authority.pem).expect("written");
        let (mut places, mut simulators) = (Vec::new(), Vec::new());
        for ((provider, operation), (_, host)) in PROVIDERS.into_iter().zip(HOSTS) {
            let simulator = Simulator::start(script(provider, operation)).await.expect("a free port");
            places.push((host, simulator.address()));
            simulators.push(simulator);
        }
        for address in [IpAddr::from(namespace.outside), namespace.outside6.into()] {
            let listener = TcpListener::bind((address, 443)).await.expect("an address of this test's own");
            tokio::spawn(serve_names(listener, Arc::clone(&authority), places.clone()));
        }
        let hosts = HOSTS.map(|(_, host)| {
            (host, if host == OVER_IPV6 { namespace.outside6.into() } else { IpAddr::from(namespace.outside) })
        });
        namespace.hosts(&hosts);
        Some(Self { namespace, dir, _simulators: simulators })
    }

    /// A configuration whose calls go to the file of this name.
    fn config(&self, way: &str) -> String {
        format!(
            "upstream: {{ ca_file: \"{0}/providers.pem\" }}\nlabels: {{ app: sdks }}\ntls: {{ ca_dir: \"{0}/ca\" }}\n\
             export: {{ calls: {{ path: \"{0}/{way}.jsonl\" }} }}\n",
            self.dir.path().display()
        )
    }

    /// A script below `keytally run`.
    fn below_run(&self, way: &str, flags: &[&str], words: &[String]) -> Vec<Value> {
        let config = self.dir.path().join(format!("{way}.yaml"));
        std::fs::write(&config, self.config(way)).expect("written");
        let mut command = self.namespace.command(None, env!("CARGO_BIN_EXE_keytally"));
        command.args(["run", "--summary", "none", "--config"]).arg(&config).args(flags).arg("--").args(words);
        call(command, self.dir.path());
        self.records(way, 0)
    }

    /// A script whose connections the firewall redirects to a sidecar.
    fn redirected(&self, words: &[String], count: usize) -> Vec<Value> {
        let ca = self.dir.path().join("ca");
        std::fs::create_dir_all(&ca).expect("made");
        std::os::unix::fs::chown(&ca, Some(SIDECAR), Some(SIDECAR)).expect("root may");
        let calls = self.dir.path().join("redirect.jsonl");
        std::fs::write(&calls, "").expect("written");
        std::os::unix::fs::chown(&calls, Some(SIDECAR), Some(SIDECAR)).expect("root may");
        let config = self.config("redirect").replace("ca\" }", "ca\", intercept: on }")
            + "listen: { redirect: \"127.0.0.1:4142\" }\n";
        let prefix = self.namespace.prefix(Some(SIDECAR));
        let mut sidecar = Sidecar::start_under(&prefix, &config, readable_by_all);
        self.namespace.keytally(&["redirect", "install"]);

        let bundle = self.bundle();
        let mut command = self.namespace.command(None, &words[0]);
        command.args(&words[1..]).env("SSL_CERT_FILE", &bundle).env("NODE_EXTRA_CA_CERTS", &bundle);
        call(command, self.dir.path());
        let records = self.records("redirect", count);
        assert_eq!(sidecar.stop().code(), Some(0));
        self.namespace.keytally(&["redirect", "remove"]);
        let rules = self.namespace.run(&["nft", "list", "ruleset"]);
        assert_eq!(String::from_utf8_lossy(&rules.stdout), "", "nothing is left");
        records
    }

    /// What applications are to trust.
    fn bundle(&self) -> String {
        let config = self.dir.path().join("bundle.yaml");
        std::fs::write(&config, self.config("bundle")).expect("written");
        let config = config.to_str().expect("UTF-8");
        self.namespace.keytally(&["ca", "bundle", "--config", config]).trim().to_owned()
    }

    /// The records of a way, `count` at least.
    fn records(&self, way: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let text = std::fs::read_to_string(self.dir.path().join(format!("{way}.jsonl"))).unwrap_or_default();
            if text.lines().count() >= count && (text.is_empty() || text.ends_with('\n')) {
                return text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            }
            assert!(Instant::now() < deadline, "{} of {count} records", text.lines().count());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Runs a script to its end: it waits for its input's after its last call.
fn call(mut command: Command, dir: &Path) {
    let errors = dir.join("errors.txt");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&errors).expect("made"))
        .spawn()
        .expect("the script runs");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("stdout is piped"));
    out.read_line(&mut line).expect("a line");
    drop(child.stdin.take());
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    let status = child.wait().expect("it ends");
    let said = std::fs::read_to_string(&errors).unwrap_or_default();
    assert!(status.success() && !line.is_empty(), "{status}: {said}");
    let results: Value = serde_json::from_str(&line).expect("results");
    for (sdk, cases) in results["by"].as_object().expect("results") {
        for case in ["plain", "stream", "tool", "cancel"] {
            let result = cases.get(case).unwrap_or(&Value::Null);
            assert!(result["error"].is_null(), "{sdk}, {case}: {}\n{said}", result["error"]);
        }
    }
}

/// What is the same by every way: all but times, ids, and the way's name.
fn comparable(records: Vec<Value>, way: &str) -> Vec<String> {
    let mut all: Vec<String> = records
        .into_iter()
        .map(|mut record| {
            assert_eq!(record["way"], way, "{record}");
            let fields = record.as_object_mut().expect("an object");
            let cut_off = fields["end"] == "client_cancelled";
            for name in [
                "way",
                "time",
                "call_id",
                "trace_id",
                "span_id",
                "duration_seconds",
                "time_to_first_token_seconds",
                "upstream_connect_seconds",
                "overhead_seconds",
            ] {
                fields.remove(name);
            }
            // An SDK that will try again may leave the body of a refusal unread.
            let retried = fields["request_model"].as_str().is_some_and(|model| model.ends_with("case-retry"));
            if cut_off || retried {
                // How much came before the script left is a matter of time.
                for name in ["response_bytes", "usage", "cost_usd", "end", "outcome", "response_model", "priced_model"]
                {
                    fields.remove(name);
                }
            }
            record.to_string()
        })
        .collect();
    all.sort();
    all
}

async fn by_every_way(tag: u8, words: Vec<String>, sdks: &'static [&str], retrying: &'static [&str], proxied: bool) {
    let Some(world) = World::new(tag).await else { return };
    let mut words = words;
    words.push(json!({ "faults": false, "variables": false, "runs": { "by": {} } }).to_string());
    let count = expected(sdks, false, retrying).len() + 2 * retrying.len();
    tokio::task::spawn_blocking(move || {
        let base_url = comparable(world.below_run("base_url", &[], &words), "base_url");
        assert_eq!(base_url.len(), count);
        if proxied {
            let forward = comparable(world.below_run("forward", &["--intercept"], &words), "forward");
            assert_eq!(forward, base_url, "below run --intercept");
        }
        let redirect = comparable(world.redirected(&words, count), "redirect");
        assert_eq!(redirect, base_url, "redirected");
    })
    .await
    .expect("the ways agree");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sdks_come_to_the_same_by_every_way() {
    let Some(python) = tool("venv/bin/python") else { return skip("the Python SDKs") };
    let words = [python, script_path("python_sdks.py")].map(|path| path.to_str().expect("UTF-8").to_owned());
    by_every_way(1, words.into(), &PYTHON, &RETRYING, true).await;
}

/// Node.js before 22.21 takes no notice of `HTTPS_PROXY`: it comes by base URL and by redirect.
#[tokio::test(flavor = "multi_thread")]
async fn node_sdks_come_to_the_same_by_every_way() {
    let Some(directory) = tool("node").filter(|_| tool("node/node_modules/openai").is_some()) else {
        return skip("the Node SDKs");
    };
    let version = Command::new("node").arg("--version").output().expect("node runs");
    let version = String::from_utf8(version.stdout).expect("UTF-8");
    let mut numbers = version.trim().trim_start_matches('v').split('.').filter_map(|number| number.parse::<u32>().ok());
    let proxied = (numbers.next(), numbers.next()) >= (Some(22), Some(21));
    let shell = format!("cd {} && exec node \"$@\"", directory.display());
    let script = script_path("node_sdks.mjs").to_str().expect("UTF-8").to_owned();
    let words = ["sh", "-c", &shell, "sh", &script].map(str::to_owned);
    by_every_way(2, words.into(), &NODE, &RETRYING[1..], proxied).await;
}

/// A signed request cannot be sent to another host, so Bedrock with access keys takes no base URL: its TLS is opened, and
/// the signature arrives as it was made.
#[tokio::test(flavor = "multi_thread")]
async fn bedrock_signed_by_boto3_is_seen_below_run_intercept() {
    const HOST: &str = "bedrock-runtime.us-east-1.amazonaws.com";
    let Some(python) = tool("venv/bin/python") else { return skip("the Python SDKs") };
    let Some(namespace) = Namespace::new(3) else { return };
    let dir = tempfile::tempdir().expect("temporary directory");
    let authority = Arc::new(Authority::new());
    std::fs::write(dir.path().join("providers.pem"), &authority.pem).expect("written");
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heads = Arc::clone(&seen);
    let answer = recorded::answer(&recorded::find("bedrock", "converse", "plain"), Duration::ZERO, AnswerEnd::Clean);
    let simulator = Simulator::start(move |received| {
        heads.lock().unwrap().push(received.head);
        answer.clone()
    })
    .await
    .expect("a free port");
    let listener = TcpListener::bind((namespace.outside, 443)).await.expect("an address of this test's own");
    tokio::spawn(serve_names(listener, authority, vec![(HOST, simulator.address())]));
    namespace.hosts(&[(HOST, namespace.outside.into())]);
    let config = dir.path().join("keytally.yaml");
    let calls = dir.path().join("calls.jsonl");
    let text = format!(
        "upstream: {{ ca_file: \"{0}/providers.pem\" }}\ntls: {{ ca_dir: \"{0}/ca\" }}\nexport: {{ calls: {{ path: \"{1}\" }} }}\n",
        dir.path().display(),
        calls.display()
    );
    std::fs::write(&config, text).expect("written");
    let mut command = namespace.command(None, env!("CARGO_BIN_EXE_keytally"));
    command.args(["run", "--intercept", "--config"]).arg(&config).arg("--").arg(python);
    command.arg(script_path("bedrock_boto3.py")).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("what boto3 made of the answer");

    let heads = seen.lock().unwrap();
    assert_eq!(heads.len(), 1);
    let header = |name: &str| heads[0].headers[name].to_str().expect("text").to_owned();
    assert_eq!(header("host"), HOST, "the signature covers it");
    let signed = header("authorization");
    assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=AKIAMADEUPMADEUPMADE/"), "{signed}");
    assert!(signed.contains("SignedHeaders=") && signed.contains("host;"), "{signed}");
    let record: Value = serde_json::from_str(&std::fs::read_to_string(&calls).expect("a record")).expect("one line");
    let is = |field: &str, value: &str| assert_eq!(record[field], value, "{record}");
    is("way", "forward");
    is("provider", "bedrock");
    is("protocol", "bedrock-converse");
    is("outcome", "ok");
    assert!(record["key"].as_str().is_some_and(|key| key.starts_with("aws:")), "{record}");
    assert_eq!(record["usage"]["input_tokens"], shown["usage"]["inputTokens"], "{record}");
    assert!(said.contains("bedrock"), "the summary names it: {said}");
}
