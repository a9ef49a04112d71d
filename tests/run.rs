//! `keytally run`: the command's environment, streams, signals and exit code are its own; its calls are told at the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use keytally::demo::simulator::{Answer, Simulator};
use serde_json::Value;

use crate::support::{recorded, skip, tool};

const KEY: &str = "sk-made-up-for-the-tests-of-run-00000000";

/// `keytally run`, in an empty directory and without base-URL variables of the tests' own.
struct Run {
    command: Command,
    dir: tempfile::TempDir,
}

impl Run {
    fn new(config: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("keytally.yaml");
        std::fs::write(&file, config).expect("config written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_keytally"));
        command.env_clear().current_dir(dir.path());
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.arg("run").args(["--config".as_ref(), file.as_os_str()]).args(flags).arg("--");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, dir }
    }

    fn shell(config: &str, flags: &[&str], script: &str) -> Self {
        let mut run = Self::new(config, flags);
        run.command.args(["sh", "-c", script]);
        run
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.dir.path().join(name), text).expect("file written");
        self
    }

    fn output(mut self) -> Told {
        Told::of(self.command.output().expect("the binary runs"))
    }

    /// In a task of its own, so that a simulator in this one can answer.
    async fn output_beside(self) -> Told {
        tokio::task::spawn_blocking(|| self.output()).await.expect("the command ran")
    }

    fn spawn(&mut self) -> Child {
        self.command.spawn().expect("the binary starts")
    }
}

/// What came out.
struct Told {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Told {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let told = Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!format!("{}{}", told.out, told.err).contains(KEY), "a key is shown:\n{}\n{}", told.out, told.err);
        told
    }

    /// A variable that the command printed with `env`.
    fn variable(&self, name: &str) -> Option<&str> {
        self.out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

fn python() -> Option<PathBuf> {
    let python = tool("venv/bin/python");
    if python.is_none() {
        skip("the Python SDKs");
    }
    python
}

fn plain_body() -> Vec<u8> {
    recorded::body(&recorded::find("openai", "chat", "plain"))
}

async fn openai() -> (Simulator, String) {
    let count = AtomicU64::new(0);
    let simulator = Simulator::start(move |received| {
        let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
        match body["model"].as_str() {
            Some("case-error") => Answer::new(
                401,
                "application/json",
                r#"{"error":{"message":"Incorrect API key provided: sk-made-***********ests.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
            ),
            _ => {
                // An answer that was seen before is not paid again: each has its own id.
                let mut body: Value = serde_json::from_slice(&plain_body()).expect("JSON");
                body["id"] = format!("chatcmpl-made-up-{}", count.fetch_add(1, Ordering::Relaxed)).into();
                Answer::new(200, "application/json", body.to_string())
            }
        }
    })
    .await
    .expect("simulator");
    let config = format!("providers: {{ openai: {{ base_url: \"http://{}\" }} }}\n", simulator.address());
    (simulator, config)
}

/// Two good calls and a refused one, through the SDK as anybody writes it.
const SCRIPT: &str = r#"
from openai import OpenAI, AuthenticationError
client = OpenAI(max_retries=0)
ask = lambda model: client.chat.completions.create(model=model, messages=[{"role": "user", "content": "a-made-up-prompt"}])
print(ask("gpt-4o-mini").choices[0].message.role)
ask("gpt-4o-mini")
try:
    ask("case-error")
except AuthenticationError as error:
    print(error.status_code)
"#;

#[test]
fn the_exit_code_is_the_command_s() {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
    {
        assert_eq!(Run::shell("", &["--summary", "none"], script).output().code, Some(code), "{script}");
    }
}

#[test]
fn a_command_that_cannot_start_is_told_apart() {
    let mut missing = Run::new("", &[]);
    missing.command.arg("no-such-command-anywhere");
    let told = missing.output();
    assert_eq!(told.code, Some(127));
    assert!(told.err.contains("no-such-command-anywhere: no such command"), "{}", told.err);
    assert!(!told.err.contains("no call was seen"), "{}", told.err);

    let mut plain = Run::new("", &[]).file("plain.txt", "text");
    plain.command.arg("./plain.txt");
    let told = plain.output();
    assert_eq!(told.code, Some(126));
    assert!(told.err.contains("./plain.txt: not executable"), "{}", told.err);
}

#[test]
fn a_wrong_configuration_starts_nothing() {
    let told = Run::shell("nonsense: true\n", &[], "echo ran").output();
    assert_eq!((told.code, told.out.as_str()), (Some(78), ""));
    assert!(told.err.contains("nonsense"), "{}", told.err);
}

#[test]
fn standard_input_and_output_are_the_command_s() {
    // Call records on standard output would be between the command's own bytes.
    let config = "export: { calls: { path: \"-\" } }\n";
    let mut run = Run::shell(config, &[], "cat; echo to stderr >&2");
    run.command.stdin(Stdio::piped());
    let mut child = run.spawn();
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let mut stdin = child.stdin.take().expect("stdin");
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let output = child.wait_with_output().expect("output");
    writer.join().expect("writer").expect("written");
    assert_eq!(output.stdout, bytes);
    let err = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(err.contains("to stderr\n") && err.contains("call records are not written to it"), "{err}");
}

#[test]
fn the_command_gets_the_variables() {
    let told = Run::shell("", &[], "env").env("NO_PROXY", "internal.example").output();
    let url = told.variable("KEYTALLY_URL").expect("KEYTALLY_URL").to_owned();
    assert!(url.starts_with("http://127.0.0.1:") && !url.ends_with(":4141"), "{url}");
    for (name, path) in [
        ("OPENAI_BASE_URL", "/openai/v1"),
        ("OPENAI_API_BASE", "/openai/v1"),
        ("ANTHROPIC_BASE_URL", "/anthropic"),
        ("GOOGLE_GEMINI_BASE_URL", "/gemini"),
        ("GROQ_BASE_URL", "/groq"),
        ("CO_API_URL", "/cohere"),
    ] {
        assert_eq!(told.variable(name), Some(&*format!("{url}{path}")), "{name}");
    }
    for name in ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL", "OLLAMA_HOST", "AZURE_OPENAI_ENDPOINT"] {
        assert_eq!(told.variable(name), None, "{name}");
    }
    for name in ["NO_PROXY", "no_proxy"] {
        assert_eq!(told.variable(name), Some("internal.example,127.0.0.1,localhost"), "{name}");
    }
    assert!(told.err.starts_with("keytally: no call was seen: ") && told.err.lines().count() == 1, "{}", told.err);
}

#[test]
fn variables_of_the_user_s_are_respected() {
    let run = |flags: &[&str]| {
        Run::shell("", flags, "env")
            .env("OPENAI_BASE_URL", "https://api.deepseek.com/v1")
            .env("ANTHROPIC_BASE_URL", "not a url, and made-up-secret")
            .file(".env", "GROQ_BASE_URL=https://gateway.example/groq\n")
            .output()
    };
    let told = run(&[]);
    let url = told.variable("KEYTALLY_URL").expect("KEYTALLY_URL").to_owned();
    assert_eq!(told.variable("OPENAI_BASE_URL"), Some(&*format!("{url}/deepseek/v1")));
    assert_eq!(told.variable("GROQ_BASE_URL"), Some(&*format!("{url}/gateway-example")));
    assert_eq!(told.variable("ANTHROPIC_BASE_URL"), Some("not a url, and made-up-secret"));
    assert!(told.err.contains("OPENAI_BASE_URL is set by you: its calls go where it says"), "{}", told.err);
    assert!(told.err.contains("ANTHROPIC_BASE_URL is set by you and is no http:// or https:// URL"), "{}", told.err);
    assert!(told.err.contains("or to what ANTHROPIC_BASE_URL says"), "{}", told.err);
    assert!(!told.err.contains("made-up-secret"), "{}", told.err);

    let told = run(&["--override"]);
    let url = told.variable("KEYTALLY_URL").expect("KEYTALLY_URL").to_owned();
    for (name, path) in
        [("OPENAI_BASE_URL", "/openai/v1"), ("ANTHROPIC_BASE_URL", "/anthropic"), ("GROQ_BASE_URL", "/groq")]
    {
        assert_eq!(told.variable(name), Some(&*format!("{url}{path}")), "{name}");
    }
    assert!(!told.err.contains("set by you"), "{}", told.err);
}

#[test]
fn limits_and_mask_of_the_command_are_those_of_the_caller() {
    let script = "ulimit -a; ulimit -H -c; umask";
    let plain = Command::new("sh").args(["-c", script]).output().expect("sh runs");
    let told = Run::shell("", &["--summary", "none"], script).output();
    assert_eq!(told.out, String::from_utf8(plain.stdout).expect("UTF-8"));
}

#[test]
fn two_at_a_time_do_not_meet() {
    let mut first = Run::shell("", &[], "echo $KEYTALLY_URL; read wait");
    first.command.stdin(Stdio::piped());
    let mut child = first.spawn();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("stdout")).read_line(&mut line).expect("a line");
    let second = Run::shell("", &[], "echo $KEYTALLY_URL").output();
    assert_eq!(second.code, Some(0), "{}", second.err);
    assert_ne!(line, second.out);
    drop(child.stdin.take());
    child.wait().expect("end");
}

/// Starts a command that says when it is ready, sends the signals, and answers with code and what was printed.
fn signalled(script: &str, signals: &[&str]) -> (Option<i32>, String) {
    let mut run = Run::shell("", &["--summary", "none"], script);
    let mut child = run.spawn();
    let mut out = BufReader::new(child.stdout.take().expect("stdout"));
    let mut text = String::new();
    for signal in signals {
        // One line before each signal: the command has got the one before.
        out.read_line(&mut text).expect("a line");
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
    }
    out.read_to_string(&mut text).expect("the rest");
    (child.wait().expect("end").code(), text)
}

#[test]
fn signals_reach_the_command_and_do_not_end_keytally() {
    // A trap runs between two commands of the shell: the sleeps are short.
    let wait = "while :; do sleep 0.05; done";
    let script = format!(
        "trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo hup' HUP; trap 'echo int' INT; \
         trap 'echo term; exit 5' TERM; echo ready; {wait}"
    );
    let (code, text) = signalled(&script, &["USR1", "USR2", "HUP", "INT", "TERM"]);
    assert_eq!((code, text.as_str()), (Some(5), "ready\nusr1\nusr2\nhup\nint\nterm\n"));
}

#[test]
fn a_command_that_a_signal_ends_has_its_code() {
    let script = "echo ready; exec sleep 60";
    assert_eq!(signalled(script, &["TERM"]).0, Some(143));
    assert_eq!(signalled(script, &["INT"]).0, Some(130));
    assert_eq!(signalled(script, &["HUP"]).0, Some(129));
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let mut run = Run::new("", &["--summary", "none"]);
    let keytally: Vec<_> = std::iter::once(run.command.get_program()).chain(run.command.get_args()).collect();
    let mut outer = Command::new("sh");
    outer.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).args(keytally);
    outer.args(["sh", "-c", "echo $$; read wait; echo survived"]);
    outer.current_dir(run.dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    run.command = outer;
    let mut child = run.spawn();
    let mut out = BufReader::new(child.stdout.take().expect("stdout"));
    let mut pid = String::new();
    out.read_line(&mut pid).expect("a line");
    for pid in [child.id().to_string(), pid.trim().to_owned()] {
        assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill runs").success());
    }
    drop(child.stdin.take());
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    assert_eq!((child.wait().expect("end").code(), rest.as_str()), (Some(0), "survived\n"));
}

/// Counts interrupts for a second. The sleep is in the background, where it is not interrupted, and the shell runs its
/// trap as soon as a signal comes, so that two do not look like one.
const INTERRUPTED: &str =
    "trap 'echo [int]' INT; sleep 1 & echo [ready]; while kill -0 $! 2>/dev/null; do wait $!; done; echo [end]";

#[test]
fn the_terminal_s_interrupt_comes_once() {
    // `script` gives the command a terminal, on which the byte 3 is Ctrl-C: it goes to the whole group.
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("script (util-linux)");
    }
    let run = Run::shell("", &["--summary", "none"], INTERRUPTED);
    let quoted: Vec<_> = std::iter::once(run.command.get_program())
        .chain(run.command.get_args())
        .map(|word| format!("'{}'", word.to_str().expect("UTF-8").replace('\'', r"'\''")))
        .collect();
    let mut outer = Command::new("script");
    outer.args(["--quiet", "--return", "--command", &format!("exec {}", quoted.join(" ")), "/dev/null"]);
    outer.current_dir(run.dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = outer.spawn().expect("script starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let mut out = BufReader::new(child.stdout.take().expect("stdout"));
    let mut text = String::new();
    out.read_line(&mut text).expect("a line");
    assert!(text.contains("[ready]"), "{text}");
    stdin.write_all(&[3]).expect("written");
    out.read_to_string(&mut text).expect("the rest");
    let status = child.wait().expect("end");
    drop(stdin);
    assert_eq!(text.matches("[int]").count(), 1, "{text}");
    assert!(text.contains("[end]") && status.code() == Some(0), "{text} {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_tells_spend_failures_and_the_first_fix() {
    let Some(python) = python() else { return };
    let (_simulator, config) = openai().await;
    let run = |flags: &[&str]| {
        let mut run = Run::new(&config, flags).env("OPENAI_API_KEY", KEY);
        run.command.arg(&python).args(["-c", SCRIPT]);
        run
    };

    let json = run(&["--summary", "json", "--summary-file", "summary.json"]);
    let file = json.dir.path().join("summary.json");
    let mut json = json;
    let told = tokio::task::spawn_blocking(move || {
        let told = Told::of(json.command.output().expect("the binary runs"));
        (told, std::fs::read_to_string(file).expect("the summary"))
    });
    let (told, summary) = told.await.expect("ran");
    assert_eq!((told.code, told.out.as_str(), told.err.as_str()), (Some(0), "assistant\n401\n", ""));
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    let usage = &serde_json::from_slice::<Value>(&plain_body()).unwrap()["usage"];
    let twice = |field: &str| 2 * usage[field].as_u64().expect(field);
    assert_eq!(summary["exit_code"], 0);
    assert_eq!((&summary["calls"], &summary["failed"]), (&Value::from(3), &Value::from(1)));
    assert_eq!(summary["input_tokens"], twice("prompt_tokens"));
    assert_eq!(summary["output_tokens"], twice("completion_tokens"));
    assert_eq!(summary["unpriced_calls"], 0);
    let cost: f64 = summary["cost_usd"].as_str().expect("a decimal").parse().expect("a number");
    assert!(cost > 0.0, "{summary}");
    let models = summary["models"].as_array().expect("models");
    let fingerprint = models[0]["key"].as_str().expect("a key");
    assert!(fingerprint.starts_with("openai:") && fingerprint.len() == "openai:".len() + 12, "{fingerprint}");
    let good: Vec<_> = models.iter().filter(|row| row["failed"] == 0).collect();
    assert_eq!((good.len(), &good[0]["calls"], &good[0]["cost_usd"]), (1, &Value::from(2), &summary["cost_usd"]));
    let failure = &summary["failures"][0];
    assert_eq!((&failure["outcome"], &failure["status"]), (&Value::from("auth_invalid"), &Value::from(401)));
    assert_eq!((&failure["error_code"], &failure["count"]), (&Value::from("invalid_api_key"), &Value::from(1)));
    let fix = failure["first_fix"].as_str().expect("a fix").to_owned();

    let told = run(&[]).output_beside().await;
    assert_eq!((told.code, told.out.as_str()), (Some(0), "assistant\n401\n"));
    assert!(told.err.starts_with("keytally: 3 calls, "), "{}", told.err);
    for part in [
        " spent, 1 failed, in ",
        fingerprint,
        good[0]["model"].as_str().expect("a model"),
        &format!("1 x auth_invalid: {fingerprint} at openai, HTTP 401 invalid_api_key"),
        &format!("first fix: {fix}"),
    ] {
        assert!(told.err.contains(part), "no {part:?} in\n{}", told.err);
    }
    assert!(!told.err.contains("a-made-up-prompt"), "{}", told.err);

    let told = run(&["--summary", "none"]).output_beside().await;
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_user_s_is_called_and_metered() {
    let Some(python) = python() else { return };
    let (simulator, _) = openai().await;
    // Nothing in the configuration: only the user's variable names the server.
    let mut run = Run::new("", &["--summary", "json"])
        .env("OPENAI_API_KEY", KEY)
        .env("OPENAI_BASE_URL", &format!("http://{}/any/path", simulator.address()))
        // A proxy that nobody answers at: the sidecar's address must be excepted for the command.
        .env("HTTP_PROXY", "http://127.0.0.1:9")
        .env("NO_PROXY", &format!("{}", simulator.address().ip()));
    run.command.arg(&python).args(["-c", SCRIPT]);
    let told = run.output_beside().await;
    assert_eq!((told.code, told.out.as_str()), (Some(0), "assistant\n401\n"), "{}", told.err);
    let summary: Value = serde_json::from_str(told.err.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&summary["calls"], &summary["failed"]), (&Value::from(3), &Value::from(1)), "{summary}");
    assert_eq!(summary["models"][0]["provider"], format!("127-0-0-1-{}", simulator.address().port()));
    assert!(summary["input_tokens"].as_u64() > Some(0), "{summary}");
    // Whose prices hold there nobody knows.
    assert_eq!((&summary["cost_usd"], &summary["unpriced_calls"]), (&Value::from("0"), &Value::from(2)), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_killed_command_are_told() {
    let Some(python) = python() else { return };
    let (_simulator, config) = openai().await;
    let mut run = Run::new(&config, &["--summary", "json"]).env("OPENAI_API_KEY", KEY);
    let script = format!("{SCRIPT}\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)");
    run.command.arg(&python).args(["-c", &script]);
    let told = run.output_beside().await;
    let summary: Value = serde_json::from_str(told.err.lines().last().expect("a line")).expect("JSON");
    assert_eq!(told.code, Some(137));
    assert_eq!((&summary["exit_code"], &summary["calls"]), (&Value::from(137), &Value::from(3)), "{summary}");
}

/// What `env` prints below `run --intercept`, with what the files hold that it names.
fn intercepted(env: &[(&str, &str)], flags: &[&str]) -> Told {
    let show = "env; for file in \"$SSL_CERT_FILE\" \"$AWS_CA_BUNDLE\" \"$NODE_EXTRA_CA_CERTS\"; do \
                echo \"$file $(grep -c BEGIN \"$file\") $(grep -c made-up-line \"$file\")\"; done; \
                stat -c 'mode %a' \"$(dirname \"$SSL_CERT_FILE\")\"";
    let mut all = vec!["--intercept"];
    all.extend(flags);
    let mut run = Run::shell("tls: { ca_dir: no-such-directory }\n", &all, show);
    for (name, value) in env {
        run = run.env(name, value);
    }
    let told = run.output();
    assert_eq!(told.code, Some(0), "{}", told.err);
    told
}

#[test]
fn intercept_sets_proxy_and_certificate_variables() {
    let told = intercepted(&[], &[]);
    let proxy = told.variable("HTTPS_PROXY").expect("a proxy").to_owned();
    assert!(proxy.starts_with("http://127.0.0.1:"), "{proxy}");
    for name in ["https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        assert_eq!(told.variable(name), Some(&*proxy), "{name}");
    }
    assert_eq!(told.variable("NO_PROXY"), Some("127.0.0.1,localhost"));
    assert_eq!(told.variable("NODE_USE_ENV_PROXY"), Some("1"));
    assert_eq!(told.variable("OPENAI_BASE_URL"), None, "no base URLs");
    let bundle = told.variable("SSL_CERT_FILE").expect("a file").to_owned();
    for name in ["REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        assert_eq!(told.variable(name), Some(&*bundle), "{name}");
    }
    let own = told.variable("NODE_EXTRA_CA_CERTS").expect("a file").to_owned();
    let count = |file: &str| {
        let line = told.out.lines().find_map(|line| line.strip_prefix(&format!("{file} ")));
        line.and_then(|line| line.split(' ').next()?.parse::<u32>().ok()).expect("a number of certificates")
    };
    assert_eq!(count(&own), 1, "Node.js adds it to its own");
    assert!(count(&bundle) > 20, "the system's, and one more: {}", count(&bundle));
    assert!(told.out.contains("mode 700"), "{}", told.out);
    // Made for this run, and gone with it.
    assert!(!Path::new(&bundle).exists() && !Path::new(&own).exists(), "{bundle} is left");
    assert!(told.err.contains("takes no notice of HTTPS_PROXY"), "{}", told.err);
}

#[test]
fn intercept_follows_what_the_user_has_set_and_says_so() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let theirs = dir.path().join("theirs.pem");
    std::fs::write(&theirs, "made-up-line\n").expect("written");
    let theirs = theirs.to_str().expect("UTF-8");
    let env = [
        ("AWS_CA_BUNDLE", theirs),
        ("NODE_EXTRA_CA_CERTS", theirs),
        ("CURL_CA_BUNDLE", "/no/such/file"),
        ("HTTPS_PROXY", "http://user:made-up-password@proxy.example:3128"),
        ("NO_PROXY", "intranet.example"),
        ("NODE_USE_ENV_PROXY", "0"),
    ];
    let told = intercepted(&env, &[]);
    for name in ["AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
        let file = told.variable(name).expect("a file");
        assert!(file.ends_with(&format!("{name}.pem")), "{file}");
        assert!(told.out.contains(&format!("{file} 1 1")), "theirs and ours: {}", told.out);
        assert!(told.err.contains(&format!("{name} is set by you: the command gets its certificates")), "{}", told.err);
    }
    assert_eq!(told.variable("CURL_CA_BUNDLE"), Some("/no/such/file"));
    assert_eq!(told.variable("NO_PROXY"), Some("intranet.example,127.0.0.1,localhost"));
    assert_eq!(told.variable("NODE_USE_ENV_PROXY"), Some("0"));
    assert!(told.variable("HTTPS_PROXY").is_some_and(|proxy| proxy.starts_with("http://127.0.0.1:")));
    for said in [
        "CURL_CA_BUNDLE is set by you to what",
        "HTTPS_PROXY is set by you",
        "NO_PROXY is set by you",
        "NODE_USE_ENV_PROXY is set by you",
    ] {
        assert!(told.err.contains(said), "{said}: {}", told.err);
    }
    assert!(!told.err.contains("made-up-password"), "{}", told.err);
    let replaced = intercepted(&env, &["--override"]);
    assert!(!replaced.err.contains("is set by you"), "{}", replaced.err);
    assert_eq!(replaced.variable("AWS_CA_BUNDLE"), replaced.variable("SSL_CERT_FILE"));
    assert_eq!(replaced.variable("NO_PROXY"), Some("127.0.0.1,localhost"));
}
