//! The real binary, started on free ports with a config of the test's own.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A running sidecar; killed when it is dropped.
pub struct Sidecar {
    child: Child,
    /// The proxy port.
    pub proxy: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
    dir: tempfile::TempDir,
    log: Arc<(Mutex<String>, Condvar)>,
}

impl Sidecar {
    /// Starts it with this YAML; call records go to a file of the test's unless the YAML has an `export` section.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, |_| ())
    }

    /// As [`Sidecar::start`], with further arguments or variables.
    pub fn start_with(config: &str, adjust: impl FnOnce(&mut Command)) -> Self {
        Self::start_under(&[], config, adjust)
    }

    /// As [`Sidecar::start_with`], run by another program that becomes it (`ip netns exec`, `setpriv`).
    pub fn start_under(prefix: &[String], config: &str, adjust: impl FnOnce(&mut Command)) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, prefix, config, adjust)
    }

    /// As [`Sidecar::start_under`], listening on another address.
    pub fn start_at(address: Ipv4Addr, prefix: &[String], config: &str, adjust: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let calls = dir.path().join("calls.jsonl");
        let mut text = config.to_owned();
        if !config.contains("export:") {
            text.push_str(&format!("\nexport: {{ calls: {{ path: \"{}\" }} }}\n", calls.display()));
        }
        let file = dir.path().join("keytally.yaml");
        std::fs::write(&file, text).expect("config written");
        // `make soak` runs the release build.
        let binary = std::env::var("KEYTALLY_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_keytally").to_owned());
        let words = prefix.iter().chain([&binary]).collect::<Vec<_>>();
        let mut command = Command::new(words[0]);
        let free = format!("{address}:0");
        command
            .args(&words[1..])
            .args(["serve", "--listen", &free, "--admin", &free, "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        // A CA of the machine's own user is no part of a test.
        command.env("XDG_STATE_HOME", dir.path()).env_remove("STATE_DIRECTORY");
        adjust(&mut command);
        let mut child = command.spawn().expect("the binary starts");
        let log = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let copy = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut text = copy.0.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
                copy.1.notify_all();
            }
        });
        let (proxy, admin) = addresses(&log, &mut child);
        Self { child, proxy, admin, dir, log }
    }

    /// Base URL for a provider prefix, for instance `http://127.0.0.1:40111/openai`.
    pub fn url(&self, prefix: &str) -> String {
        format!("http://{}/{prefix}", self.proxy)
    }

    /// The test's own directory, for files beside the config.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The config file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("keytally.yaml")
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().clone()
    }

    /// Waits until the log holds `text`.
    pub fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut log = self.log.0.lock().unwrap();
        while !log.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {text:?} in the log:\n{log}");
            log = self.log.1.wait_timeout(log, left).unwrap().0;
        }
    }

    /// Call records written so far.
    pub fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("calls.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("a call record is one JSON line")).collect()
    }

    /// Waits until `count` records have been written.
    pub async fn wait_for_records(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let records = self.records();
            if records.len() >= count {
                return records;
            }
            assert!(Instant::now() < deadline, "{} of {count} records; log:\n{}", records.len(), self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `/metrics` as samples.
    pub async fn metrics(&self) -> super::Samples {
        let answer = super::get(self.admin, "/metrics").await;
        super::Samples::parse(std::str::from_utf8(&answer.body).expect("metrics are UTF-8"))
    }

    /// Sends a signal by name (`TERM`, `HUP`).
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {limit:?}; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, then the exit status.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait(Duration::from_secs(20))
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a process of ours").count()
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("process status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("VmRSS in kB") * 1024
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets a sidecar of another user read its configuration: for [`Sidecar::start_under`].
pub fn readable_by_all(command: &mut Command) {
    use std::os::unix::fs::PermissionsExt;
    let file = PathBuf::from(command.get_args().last().expect("the configuration's path"));
    let directory = file.parent().expect("a directory");
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).expect("readable by all");
}

/// Reads the two addresses from the log line that says that the sidecar is ready.
fn addresses(log: &(Mutex<String>, Condvar), child: &mut Child) -> (SocketAddr, SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut text = log.0.lock().unwrap();
    loop {
        let ready = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|line| {
            let field = |name: &str| line.pointer(&format!("/{name}"))?.as_str()?.parse().ok();
            Some((field("proxy")?, field("admin")?))
        });
        // Or, with `log: { format: text }`, among its words.
        let ready = ready.or_else(|| {
            let line = text.lines().find(|line| line.contains(" ready proxy="))?;
            let word = |name: &str| line.split_once(name)?.1.split(' ').next()?.parse().ok();
            Some((word(" proxy=")?, word(" admin=")?))
        });
        if let Some(ready) = ready {
            return ready;
        }
        let ended = child.try_wait().expect("wait");
        assert!(ended.is_none() && Instant::now() < deadline, "the sidecar did not start ({ended:?}):\n{text}");
        text = log.1.wait_timeout(text, Duration::from_millis(100)).unwrap().0;
    }
}
