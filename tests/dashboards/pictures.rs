//! Pictures of the shipped dashboards under a scripted day's data, drawn by Grafana's own panel components in Chromium, and a look
//! at what was drawn.
//!
//! The day runs faster than the clock. Its samples are read from its Prometheus, set on the day's own clock and given to a second
//! Prometheus, so that the dashboards run as they are shipped: true windows, true rates, hours on the axis. Out: `target/dashboards/`,
//! and with `KEYTALLY_WRITE_DOCS=1` the pictures in `docs/dashboards/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{listed, root};
use crate::support::{self, skip, tool};

/// What the day's clock shows, and how fast it runs.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Real time at which the day began, seconds since the epoch.
    pub start: f64,
    /// What its clock showed then.
    pub shows: f64,
    /// Seconds of the day in one real second.
    pub speed: f64,
}

impl Clock {
    fn at(self, real: f64) -> f64 {
        self.shows + (real - self.start) * self.speed
    }
}

/// Is a sample's value a time of the day? That of the price book is a date of the calendar.
fn is_time(name: &str) -> bool {
    let said = name.contains("_timestamp_seconds") && name != "keytally_price_table_timestamp_seconds";
    said || ["ALERTS_FOR_STATE", "keytally:now", "process_start_time_seconds"].contains(&name)
}

/// More than the days of history that a scripted day has before it.
const HISTORY: &str = "12h";

/// Ends with the pictures.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Draws every dashboard from what this Prometheus holds at `ended`, and says what is wrong with the pictures.
pub async fn check(prometheus: SocketAddr, clock: Clock, ended: f64) -> Vec<String> {
    if tool("dashboards/node_modules/@grafana/ui").is_none() || !Path::new("/usr/bin/chromium").exists() {
        skip("Chromium or Grafana's panel components");
        return Vec::new();
    }
    // It stays, for who wants to look: prometheus --config.file=…/day/prometheus.yml --storage.tsdb.path=…/day/data
    let dir = root().join("target/dashboards/day");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory");
    let named = set_on_the_days_clock(prometheus, clock, ended, &dir.join("day.om")).await;
    let (_second, address) = serve(&dir).await;
    let end = clock.at(ended).floor();
    let hours = (ended - clock.start) * clock.speed / 3_600.0;
    let drawn = draw(address, end, hours);
    let problems = look(&drawn, &named);
    if std::env::var_os("KEYTALLY_WRITE_DOCS").is_some() {
        keep();
    }
    problems
}

/// Writes all samples as OpenMetrics on the day's clock. Returns the fingerprints of keys that have names.
async fn set_on_the_days_clock(prometheus: SocketAddr, clock: Clock, ended: f64, to: &Path) -> BTreeSet<String> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(to).expect("a file"));
    let mut fingerprints = BTreeSet::new();
    let names = support::get(prometheus, "/api/v1/label/__name__/values").await.json();
    for name in names["data"].as_array().expect("names").iter().filter_map(Value::as_str) {
        let query = percent_encode(&format!("{{__name__=\"{name}\"}}[{HISTORY}]"));
        let answer = support::get(prometheus, &format!("/api/v1/query?time={ended}&query={query}")).await.json();
        writeln!(file, "# TYPE {name} unknown").expect("written");
        for series in answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{name}: {answer}")) {
            let labels = series["metric"].as_object().expect("labels");
            if labels.get("named").is_some_and(|named| named == "true") {
                fingerprints.extend(labels.get("fingerprint").and_then(Value::as_str).map(str::to_owned));
            }
            let mut head = String::from(name);
            let labels = labels.iter().filter(|(label, _)| *label != "__name__");
            let labels: Vec<_> = labels.map(|(label, value)| format!("{label}={value}")).collect();
            write!(head, "{{{}}}", labels.join(",")).expect("a string");
            for sample in series["values"].as_array().expect("samples") {
                let at = clock.at(sample[0].as_f64().expect("a time"));
                let value = sample[1].as_str().expect("a value");
                let number = || value.parse::<f64>().expect("a number");
                if is_time(name) {
                    writeln!(file, "{head} {} {at:.3}", clock.at(number())).expect("written");
                } else if name == "process_cpu_seconds_total" {
                    // The processor ran on the real clock.
                    writeln!(file, "{head} {} {at:.3}", number() * clock.speed).expect("written");
                } else {
                    writeln!(file, "{head} {value} {at:.3}").expect("written");
                }
            }
        }
    }
    writeln!(file, "# EOF").and_then(|()| file.flush()).expect("written");
    fingerprints
}

fn percent_encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A Prometheus over `day.om` that scrapes nothing.
async fn serve(dir: &Path) -> (Killed, SocketAddr) {
    let path = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    let made = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=744h", "--quiet"])
        .args([path("day.om"), path("data")])
        .output()
        .expect("promtool");
    assert!(
        made.status.success(),
        "{}{}",
        String::from_utf8_lossy(&made.stdout),
        String::from_utf8_lossy(&made.stderr)
    );
    std::fs::write(path("prometheus.yml"), "global: { scrape_interval: 1m }\n").expect("written");
    let address = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a free port");
    let log = std::fs::File::create(path("prometheus.log")).expect("a log file");
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", path("prometheus.yml")))
        .arg(format!("--storage.tsdb.path={}", path("data")))
        .args(["--storage.tsdb.retention.time=100y", &format!("--web.listen-address={address}")])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("prometheus");
    let child = Killed(child);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while tokio::net::TcpStream::connect(address).await.is_err()
        || support::get(address, "/-/ready").await.head.status != 200
    {
        let said = std::fs::read_to_string(path("prometheus.log")).unwrap_or_default();
        assert!(tokio::time::Instant::now() < deadline, "Prometheus is not ready:\n{said}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    (child, address)
}

/// Draws, and returns the report by dashboard.
fn draw(prometheus: SocketAddr, end: f64, hours: f64) -> BTreeMap<String, Value> {
    // The page is built where its packages are.
    let place = tool("dashboards").expect("checked before");
    std::fs::create_dir_all(place.join("page")).expect("a directory");
    for file in ["render.mjs", "package.json"] {
        std::fs::copy(root().join("tests/dashboards").join(file), place.join(file)).expect("copied");
    }
    for file in std::fs::read_dir(root().join("tests/dashboards/page")).expect("the page") {
        let file = file.expect("directory entry");
        std::fs::copy(file.path(), place.join("page").join(file.file_name())).expect("copied");
    }
    let out = root().join("target/dashboards");
    let done = Command::new("node")
        .arg(place.join("render.mjs"))
        .args([
            "--prometheus",
            &format!("http://{prometheus}"),
            "--to",
            &end.to_string(),
            "--hours",
            &hours.to_string(),
        ])
        .args(["--scrape", "60", "--dashboards"])
        .arg(root().join("dashboards"))
        .arg("--out")
        .arg(&out)
        .output()
        .expect("node");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_str(&std::fs::read_to_string(out.join("report.json")).expect("a report")).expect("JSON")
}

/// What one would not ship.
fn look(drawn: &BTreeMap<String, Value>, named: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut shown = BTreeSet::new();
    let listed = listed();
    let quiet =
        |uid: &str, id: u64| listed.values().any(|one| one.dashboard == uid && one.id == id && one.quiet.is_some());
    for (uid, report) in drawn {
        let errors = report["problems"].as_array().expect("problems").iter().filter_map(Value::as_str);
        problems.extend(errors.filter(|error| error.starts_with("page:")).map(|error| format!("{uid}: {error}")));
        let seen: BTreeMap<&str, &Value> = report["seen"]
            .as_array()
            .expect("what is seen")
            .iter()
            .filter_map(|panel| Some((panel["key"].as_str()?, panel)))
            .collect();
        for panel in report["panels"].as_array().expect("panels") {
            let key = panel["key"].as_str().expect("key");
            let id = key.split('-').nth(1).and_then(|id| id.parse().ok()).expect("panel-<id>");
            shown.insert((uid.clone(), id));
            let mut say = |what: String| problems.push(format!("{uid}, panel {id}, {}: {what}", panel["title"]));
            if panel["state"] != "Done" || panel["errors"].as_array().is_some_and(|errors| !errors.is_empty()) {
                say(format!("not drawn: {} {}", panel["state"], panel["errors"]));
            }
            if panel["numbers"] == 0 && !quiet(uid, id) {
                say("empty, and panels.yml gives no reason".to_owned());
            }
            let Some(seen) = seen.get(key) else {
                say("not on the page".to_owned());
                continue;
            };
            if seen["titleCut"] == true {
                say("its title is cut".to_owned());
            }
            if seen["legendOverlaps"] != 0 {
                say("its legend lies over itself or the graph".to_owned());
            }
            if seen["columnsCut"].as_array().is_some_and(|cut| !cut.is_empty()) {
                say(format!("columns are too narrow for their heads: {}", seen["columnsCut"]));
            }
            if seen["wide"] == true {
                say("is wider than its place".to_owned());
            }
            if seen["plotShare"].as_f64().is_some_and(|share| share < 0.3) {
                say("its legend leaves too little to the graph".to_owned());
            }
            if seen["error"].is_string() {
                say(format!("shows an error: {}", seen["error"]));
            }
            if panel["type"] == "timeseries" && panel["numbers"].as_u64() > Some(1) {
                if seen["ink"] == 0 && panel["positive"] != 0 {
                    say("has data and draws no line".to_owned());
                }
                if seen["legendItems"] == 0 {
                    say("has no legend".to_owned());
                }
            }
            let text = seen["text"].as_str().unwrap_or_default();
            if let Some(raw) = named.iter().find(|fingerprint| text.contains(fingerprint.as_str())) {
                say(format!("shows {raw}, which has a name"));
            }
        }
    }
    for (slug, panel) in &listed {
        if !shown.contains(&(panel.dashboard.clone(), panel.id)) {
            problems.push(format!("{slug} was not drawn"));
        }
    }
    problems
}

/// Puts the pictures into the documentation, small.
fn keep() {
    let docs = root().join("docs/dashboards");
    std::fs::create_dir_all(&docs).expect("docs/dashboards");
    for uid in super::dashboards().keys() {
        let from = root().join(format!("target/dashboards/{uid}.png"));
        let to = docs.join(format!("{uid}.png"));
        let done = Command::new("pngquant")
            .args(["--force", "--speed", "1", "--output"])
            .arg(&to)
            .arg("96")
            .arg(&from)
            .status();
        assert!(done.expect("pngquant (a Debian package) makes them small").success());
        let bytes = std::fs::metadata(&to).expect("a picture").len();
        assert!(bytes <= 300_000, "{}: {bytes} bytes", to.display());
    }
}
