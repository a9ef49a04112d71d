//! The real programs around the sidecars: Prometheus with scaled rules and twelve days of history, Alertmanager, a webhook.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use keytally::demo::simulator::{Answer, Simulator};
use serde_json::Value;

use super::history::{DAYS, STEP};
use super::scale::{SCALE, Scale};
use crate::alerting::{self, rules};
use crate::support;

/// A child process that ends with the day.
pub struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What reached the webhook: when, which receiver, and one alert of the message.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Seconds since the epoch.
    pub at: f64,
    /// Receiver.
    pub receiver: String,
    /// `status`, `labels`, `annotations`.
    pub alert: Value,
}

/// All of it, running.
pub struct Stack {
    /// Prometheus' address.
    pub prometheus: SocketAddr,
    /// Alertmanager's address.
    pub alertmanager: SocketAddr,
    /// Where files and data are.
    pub dir: tempfile::TempDir,
    delivered: Arc<Mutex<Vec<Delivered>>>,
    _webhook: Simulator,
    processes: Vec<Killed>,
}

/// Seconds since the epoch.
pub fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn program(name: &str, arguments: &[String], log: &Path) -> Killed {
    let log = std::fs::File::create(log).expect("a log file");
    let child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    Killed(child)
}

/// Runs a tool to its end; what it said if it failed.
#[track_caller]
fn tool(name: &str, arguments: &[String]) {
    let done = Command::new(name).args(arguments).output().unwrap_or_else(|error| panic!("{name}: {error}"));
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{name} {arguments:?}: {said}");
}

async fn ready(address: SocketAddr, path: &str, log: &Path) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        if tokio::net::TcpStream::connect(address).await.is_ok() && support::get(address, path).await.head.status == 200
        {
            return;
        }
        let said = std::fs::read_to_string(log).unwrap_or_default();
        assert!(tokio::time::Instant::now() < deadline, "{address} is not ready:\n{said}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl Stack {
    /// Makes the history that ends at `scale.start`, then starts everything. `targets.json` is for the caller to write.
    pub async fn start(scale: Scale) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| dir.path().join(name);
        let text = |name: &str| path(name).to_str().expect("UTF-8").to_owned();
        std::fs::create_dir_all(path("rules")).unwrap();
        for file in alerting::files(rules::DIRECTORY, ".yml") {
            let scaled = scale.rule_file(&alerting::read(&format!("{}/{file}", rules::DIRECTORY)));
            std::fs::write(path("rules").join(file), scaled).unwrap();
        }
        std::fs::write(path("targets.json"), "[]").unwrap();
        history(scale, dir.path()).await;

        let delivered: Arc<Mutex<Vec<Delivered>>> = Arc::default();
        let seen = Arc::clone(&delivered);
        let webhook = Simulator::start(move |received| {
            let message: Value = serde_json::from_slice(&received.body).unwrap_or_default();
            let receiver = received.head.uri.path().trim_start_matches('/').to_owned();
            let alerts = message["alerts"].as_array().cloned().unwrap_or_default();
            let alerts = alerts.into_iter().map(|alert| Delivered { at: now(), receiver: receiver.clone(), alert });
            seen.lock().unwrap().extend(alerts);
            Answer::new(200, "text/plain", "")
        });
        let webhook = webhook.await.expect("a free port");

        let alertmanager = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let file = alerting::read("deploy/prometheus/alertmanager.yml");
        let file = scale.alertmanager_file(&file, &format!("http://{}", webhook.address()));
        // The digest waits for hours by design; what is tried here is that it gets its alerts at all.
        let file =
            file.replace("group_wait: 10s\n      group_interval: 240s", "group_wait: 1s\n      group_interval: 5s");
        let file =
            file.replace("    group_wait: 10s\n    group_interval: 240s", "    group_wait: 1s\n    group_interval: 5s");
        assert!(!file.contains("group_interval: 240s"), "{file}");
        std::fs::write(path("alertmanager.yml"), file).unwrap();
        let processes = vec![program(
            "prometheus-alertmanager",
            &[
                format!("--config.file={}", text("alertmanager.yml")),
                format!("--storage.path={}", text("alertmanager")),
                format!("--web.listen-address={alertmanager}"),
                "--cluster.listen-address=".to_owned(),
            ],
            &path("alertmanager.log"),
        )];
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [{}/*.yml]\n\
             alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: [\"{alertmanager}\"] }}] }}] }}\n\
             scrape_configs:\n- job_name: keytally\n  file_sd_configs: [{{ files: [{}], refresh_interval: 1s }}]\n",
            text("rules"),
            text("targets.json")
        );
        std::fs::write(path("prometheus.yml"), config).unwrap();
        let prometheus = SocketAddr::from(([127, 0, 0, 1], free_port()));
        ready(alertmanager, "/-/ready", &path("alertmanager.log")).await;
        Self { prometheus, alertmanager, dir, delivered, _webhook: webhook, processes }
    }

    /// Starts Prometheus, at the end of the history: it takes no sample that is older than a block that it has.
    pub async fn watch(&mut self, scale: Scale) {
        let left = scale.start as f64 - now();
        tokio::time::sleep(Duration::from_secs_f64(left.max(0.0))).await;
        let path = |name: &str| self.dir.path().join(name);
        let log = path("prometheus.log");
        self.processes.push(prometheus_on(self.prometheus, &path("prometheus.yml"), &path("data"), &log));
        ready(self.prometheus, "/-/ready", &log).await;
    }

    /// Says which sidecars to scrape: name and admin port.
    pub fn targets(&self, targets: &[(&str, SocketAddr)]) {
        let list = targets
            .iter()
            .map(|(name, address)| serde_json::json!({"targets": [address.to_string()], "labels": {"instance": name}}));
        let new = self.dir.path().join("targets.new");
        std::fs::write(&new, Value::from_iter(list).to_string()).unwrap();
        std::fs::rename(new, self.dir.path().join("targets.json")).unwrap();
    }

    /// Everything that reached the webhook so far.
    pub fn delivered(&self) -> Vec<Delivered> {
        self.delivered.lock().unwrap().clone()
    }

    /// An instant query; panics with what Prometheus says if it refuses.
    pub async fn query(&self, expression: &str, at: f64) -> Vec<Value> {
        let target = format!("/api/v1/query?time={at}&query={}", encoded(expression));
        self.result(&target, expression).await
    }

    /// A query over a range.
    pub async fn query_range(&self, expression: &str, from: f64, to: f64, step: f64) -> Vec<Value> {
        let target = format!("/api/v1/query_range?start={from}&end={to}&step={step}&query={}", encoded(expression));
        self.result(&target, expression).await
    }

    async fn result(&self, target: &str, expression: &str) -> Vec<Value> {
        let answer = support::get(self.prometheus, target).await.json();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        match &answer["data"]["result"] {
            Value::Array(list) if answer["data"]["resultType"] != "scalar" => list.clone(),
            scalar => vec![serde_json::json!({"metric": {}, "value": scalar})],
        }
    }
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn prometheus_on(address: SocketAddr, config: &Path, data: &Path, log: &Path) -> Killed {
    program(
        "prometheus",
        &[
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", data.display()),
            format!("--web.listen-address={address}"),
            "--storage.tsdb.retention.time=1d".to_owned(),
            "--enable-feature=exemplar-storage".to_owned(),
            // Five minutes of the day would be 5 s; a busy machine is given a little more.
            "--query.lookback-delta=15s".to_owned(),
            "--rules.alert.resend-delay=2s".to_owned(),
            "--log.level=warn".to_owned(),
        ],
        log,
    )
}

/// Blocks of the twelve days: raw counters, then what the rules that read nothing but raw counters record of them. Rules that
/// read other rules need no history of their own, since they look back into these.
async fn history(scale: Scale, dir: &Path) {
    let data = dir.join("data");
    let text = dir.join("history.om");
    std::fs::write(&text, super::history::openmetrics(scale.start)).unwrap();
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    tool("promtool", &["tsdb".into(), "create-blocks-from".into(), "openmetrics".into(), path(&text), path(&data)]);
    std::fs::remove_file(&text).unwrap();

    let mut selected = String::from("groups:\n- name: history\n  rules:\n");
    for (_, group) in rules::groups() {
        for rule in group.rules {
            let Some(record) = rule.record else { continue };
            let raw = |name: &str| name.starts_with("keytally_") && !name.contains(':');
            let named = alerting::promql::named(&rule.expr);
            let only_raw = named.selectors.iter().all(|(name, _)| raw(name));
            // Who owns a key is asked only of now.
            if only_raw && !named.selectors.is_empty() && !record.ends_with(":info") && !rule.expr.contains("findings")
            {
                selected.push_str(&format!("  - record: {record}\n    expr: |\n"));
                for line in scale.expression(&rule.expr).lines() {
                    selected.push_str(&format!("      {line}\n"));
                }
            }
        }
    }
    let file = dir.join("history.yml");
    std::fs::write(&file, selected).unwrap();
    let config = dir.join("empty.yml");
    std::fs::write(&config, "global: {}\n").unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let running = prometheus_on(address, &config, &data, &dir.join("history.log"));
    ready(address, "/-/ready", &dir.join("history.log")).await;
    let recorded = dir.join("recorded");
    tool(
        "promtool",
        &[
            "tsdb".into(),
            "create-blocks-from".into(),
            "rules".into(),
            format!("--start={}", scale.start - DAYS * 24 * 3600 / SCALE),
            format!("--end={}", scale.start),
            format!("--url=http://{address}"),
            format!("--output-dir={}", path(&recorded)),
            format!("--eval-interval={STEP}s"),
            path(&file),
        ],
    );
    drop(running);
    let _ = std::fs::remove_file(data.join("lock"));
    for block in std::fs::read_dir(&recorded).unwrap() {
        let block = block.unwrap();
        std::fs::rename(block.path(), data.join(block.file_name())).unwrap();
    }
}
