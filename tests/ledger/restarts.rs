//! Invoice and trend: the ledger and Prometheus agree over restarts of the sidecar.

use std::collections::BTreeMap;
use std::process::Child;

use keytally::ledger::{Dimension, Query};

use super::*;
use crate::support::skip;

/// Prometheus; killed with the test.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Scrapes, once a second, whatever [`Prometheus::scrape`] names last, as one instance.
    async fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs:\n  - job_name: keytally\n    file_sd_configs: [{{ files: [\"{}\"], refresh_interval: 1s }}]\n    \
             relabel_configs: [{{ target_label: instance, replacement: sidecar }}]\n",
            dir.path().join("targets.json").display()
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        std::fs::write(dir.path().join("targets.json"), "[]").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .ok()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let prometheus = Self { child, address, dir };
        wait_until("Prometheus listens", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        wait_until("Prometheus is ready", async || get(address, "/-/ready").await.head.status == 200).await;
        Some(prometheus)
    }

    async fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = get(self.address, &format!("/api/v1/query?query={encoded}")).await.json();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().expect("a result").clone()
    }

    /// Scrapes this sidecar from now on; returns once it has.
    async fn scrape(&self, sidecar: &Sidecar) {
        let targets = format!("[{{\"targets\": [\"{}\"]}}]", sidecar.admin);
        let new = self.dir.path().join("new.json");
        std::fs::write(&new, targets).unwrap();
        std::fs::rename(&new, self.dir.path().join("targets.json")).unwrap();
        let started = sidecar.metrics().await.all("process_start_time_seconds").next().expect("a start").1;
        wait_until("it is scraped", async || {
            let seen = self.query("process_start_time_seconds").await;
            seen.iter().any(|series| (value(&series["value"]) - started).abs() < 0.05)
        })
        .await;
    }

    /// All that a counter gained by key, over all restarts: the sum of its steps, where a step down is a new start at 0.
    /// This is what `increase()` adds up, without the extrapolation to the edges of its window.
    async fn gained(&self, counter: &str) -> BTreeMap<String, f64> {
        let mut gained: BTreeMap<String, f64> = BTreeMap::new();
        for series in self.query(&format!("{counter}[1h]")).await {
            let samples: Vec<f64> = series["values"].as_array().expect("samples").iter().map(value).collect();
            let steps = samples.windows(2).map(|pair| if pair[1] < pair[0] { pair[1] } else { pair[1] - pair[0] });
            let key = series["metric"]["key"].as_str().expect("a key").to_owned();
            *gained.entry(key).or_default() += samples[0] + steps.sum::<f64>();
        }
        gained
    }
}

/// The number of a sample.
fn value(sample: &Value) -> f64 {
    sample[1].as_str().and_then(|text| text.parse().ok()).expect("a number as text")
}

#[tokio::test]
async fn ledger_and_prometheus_agree_over_restarts() {
    let Some(prometheus) = Prometheus::start().await else { return skip("prometheus") };
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.db");
    let provider = provider().await;
    // Births are held and the last state stays up for longer than a scrape takes, as they do with the usual intervals.
    let more = "metrics: { birth_hold: 4s }\nshutdown: { linger: 6s }";
    for life in 0..3 {
        let mut sidecar = Sidecar::start(&config(provider.address(), &ledger, more));
        prometheus.scrape(&sidecar).await;
        for number in 0..40 {
            let model = if (life + number) % 2 == 0 { "gpt-4o" } else { "gpt-4o-mini" };
            call(&sidecar, KEYS[number % 3], model).await;
        }
        // A shutdown ends the hold at once. What begins and ends between two scrapes is the ledger's alone: here each of the
        // six series (three keys, two models) must have been seen to begin again at 0.
        let began = format!("count(resets(keytally_requests_total[1h]) >= {life})");
        wait_until("every series is seen to begin", async || {
            prometheus.query(&began).await.iter().any(|series| value(&series["value"]) >= 6.0)
        })
        .await;
        assert_eq!(sidecar.stop().code(), Some(0));
    }
    let groups = Reader::open(&ledger).unwrap().totals(&Query::default(), &[Dimension::Key]).unwrap();
    let of_ledger = |pick: fn(&keytally::ledger::Totals) -> f64| -> BTreeMap<String, f64> {
        groups.iter().map(|group| (group.values[0].to_string(), pick(&group.totals))).collect()
    };
    let cases = [
        ("keytally_requests_total", of_ledger(|totals| totals.calls as f64)),
        ("keytally_spend_usd_total", of_ledger(|totals| totals.cost.as_f64())),
        ("keytally_tokens_total", of_ledger(|totals| (totals.input_tokens + totals.output_tokens) as f64)),
    ];
    assert_eq!(cases[0].1.values().sum::<f64>(), 120.0, "every call is in the ledger");
    for (counter, expected) in cases {
        let gained = prometheus.gained(counter).await;
        println!("{counter}: Prometheus {gained:?}, ledger {expected:?}");
        for (key, expected) in expected {
            let gained = gained.get(&key).copied().unwrap_or(0.0);
            assert!(
                (gained - expected).abs() <= expected * 0.01,
                "{counter} {key}: {gained}, {expected} in the ledger"
            );
        }
    }
}
