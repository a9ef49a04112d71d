//! `deploy/compose`: the file by its schema, every path that it mounts, and the demo as it runs there, without the containers.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{check, demo_config, documents, image_name, read, repository, run};
use crate::support::{Sidecar, skip, tool};

const FOLDER: &str = "deploy/compose";

fn compose() -> Value {
    documents(&read("deploy/compose/compose.yaml")).swap_remove(0)
}

#[test]
fn the_compose_file_is_one() {
    let Some(validate) = tool("venv/bin/check-jsonschema") else { return skip("check-jsonschema") };
    let file = repository("deploy/compose/compose.yaml");
    run(Command::new(&validate).args(["--builtin-schema", "vendor.compose-spec"]).arg(&file));
    let broken = tempfile::NamedTempFile::with_suffix(".yaml").expect("temporary file");
    std::fs::write(broken.path(), read("deploy/compose/compose.yaml").replace("read_only", "readonly")).unwrap();
    let refused = Command::new(&validate).args(["--builtin-schema", "vendor.compose-spec"]).arg(broken.path()).output();
    assert!(!refused.expect("it runs").status.success(), "a wrong key must be noticed");
}

#[test]
fn what_is_mounted_is_there_and_what_runs_is_pinned() {
    let compose = compose();
    let volumes = compose["volumes"].as_object().expect("volumes");
    let mut mounted = 0;
    for (service, what) in compose["services"].as_object().expect("services") {
        let image = what["image"].as_str().expect("an image");
        let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
        assert!(tag.contains(|c: char| c.is_ascii_digit()), "{service}: {image}: pin a version");
        assert!(!image.contains("keytally") || image == image_name(), "{service}: {image}");
        for volume in what["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().and_then(|text| text.split(':').next()).expect("source:target");
            if source.starts_with('.') {
                let path = repository(FOLDER).join(source);
                assert!(path.exists(), "{service} mounts {source}, which is not there");
                mounted += 1;
            } else {
                assert!(volumes.contains_key(source), "{service}: no volume {source}");
            }
        }
        for port in what["ports"].as_array().into_iter().flatten() {
            assert!(
                port.as_str().is_some_and(|port| port.starts_with("127.0.0.1:")),
                "{service}: {port}: loopback only"
            );
        }
    }
    assert!(mounted >= 6, "only {mounted} paths");
}

#[test]
fn calls_stay_on_the_loopback_of_one_namespace() {
    let services = &compose()["services"];
    let sidecar = &services["keytally"];
    assert!(sidecar["environment"].get("KEYTALLY_LISTEN").is_none(), "the proxy port must not leave loopback");
    assert_eq!(sidecar["environment"]["KEYTALLY_ADMIN"], "0.0.0.0:4140");
    assert_eq!(services["app"]["network_mode"], "service:keytally");
    assert_eq!(services["app"]["depends_on"]["keytally"]["condition"], "service_healthy");
    let flags = services["prometheus"]["command"].to_string();
    for flag in ["--enable-feature=exemplar-storage", "--storage.tsdb.retention.time=32d"] {
        assert!(flags.contains(flag), "{flag}");
    }
    assert!(read("deploy/compose/prometheus.yml").contains("keytally:4140"));
}

#[test]
fn prometheus_reads_its_configuration_and_the_rules() {
    if super::program("promtool").is_none() {
        return skip("promtool");
    }
    let folder = tempfile::tempdir().expect("temporary directory");
    let rules = repository("deploy/prometheus/rules");
    let text = read("deploy/compose/prometheus.yml").replace("/etc/prometheus/rules", rules.to_str().expect("a path"));
    std::fs::write(folder.path().join("prometheus.yml"), text).expect("written");
    run(Command::new("promtool").args(["check", "config", "--lint=none", "prometheus.yml"]).current_dir(folder.path()));
}

/// Explore, where the dashboards' links to traces lead, is open to editors only. Nobody else reaches this port.
#[test]
fn links_to_traces_open() {
    let dashboard = read("dashboards/keytally-overview.json");
    assert!(dashboard.contains("\"/explore?"), "no link leads to Explore any more: Viewer would do");
    let grafana = &compose()["services"]["grafana"];
    assert_eq!(grafana["environment"]["GF_AUTH_ANONYMOUS_ENABLED"], "true");
    assert_eq!(grafana["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"], "Editor");
}

/// The applications of the demo; ended when dropped.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_demo_calls_through_a_sidecar_of_its_own_process() {
    let config = read("deploy/compose/keytally/keytally.yaml");
    assert!(config.contains(&demo_config()), "keep what `keytally demo --print-config` prints in it");
    check(&config);
    let sidecar = Sidecar::start(&config);
    let child = Command::new(env!("CARGO_BIN_EXE_keytally"))
        .args(["demo", "--minute", "2500ms", "--sidecar", &format!("http://{}", sidecar.proxy)])
        .stdout(Stdio::piped())
        .spawn();
    let mut demo = Demo(child.expect("the binary is there"));
    let mut lines = BufReader::new(demo.0.stdout.take().expect("piped")).lines();
    assert!(lines.next().is_some_and(|line| line.is_ok_and(|line| line.starts_with("keytally demo: "))));

    // A revoked key, a limit and a good call of a key by its name: the providers answer as their script says.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let metrics = sidecar.metrics().await;
        let seen = |key: &str, outcome: &str| {
            metrics.sum("keytally_requests_total", &[("key", key), ("outcome", outcome)]).is_some()
        };
        let wanted = [
            ("search-prod", "ok"),
            ("chat-prod", "ok"),
            ("laptop-ana", "auth_invalid"),
            ("search-prod", "rate_limit_tokens"),
        ];
        let missing: Vec<_> = wanted.iter().filter(|(key, outcome)| !seen(key, outcome)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "never seen: {missing:?}; log:\n{}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(Command::new("kill").args(["-TERM", &demo.0.id().to_string()]).status().expect("kill runs").success());
    let status = demo.0.wait().expect("it ends");
    assert!(status.success(), "{status}");
}
