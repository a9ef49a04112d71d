//! Spans as receivers that are not ours read them: rotel (HTTP and gRPC) and oteltap (HTTP), both from PyPI.
//!
//! `tests/tools/install.sh` installs them; without them these tests say so and check nothing, or fail where
//! `KEYTALLY_REQUIRE_TOOLS` is set.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::*;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tool(name: &str, found: impl Fn(&Path) -> Option<PathBuf>) -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/venv");
    let found = found(&venv).filter(|path| path.is_file());
    if found.is_none() {
        let required = std::env::var_os("KEYTALLY_REQUIRE_TOOLS").is_some();
        assert!(!required, "{name} is missing; run tests/tools/install.sh");
        println!("skipped: {name} is missing; `make test` installs it");
    }
    found
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn export_to(port: u16, protocol: OtlpProtocol, records: Vec<CallRecord>) -> Arc<Counted> {
    wait_until("the receiver listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let path = if protocol == OtlpProtocol::Grpc { "" } else { "/v1/traces" };
    let endpoint = format!("http://127.0.0.1:{port}{path}").parse().ok();
    let otlp = OtlpSettings { endpoint, protocol, ..OtlpSettings::default() };
    let traces = TraceSettings { otlp, ..TraceSettings::default() };
    let counted = Arc::new(Counted::default());
    let settings = ExportSettings { traces, ..ExportSettings::default() };
    let exports = Exports::start(&settings, Box::new(|_, _| ()), counted.clone()).unwrap();
    for record in records {
        exports.record(Arc::new(record));
    }
    exports.flush(Duration::from_secs(10)).await;
    counted
}

#[tokio::test]
async fn rotel_reads_our_spans() {
    let agent = tool("rotel", |venv| {
        let versions = std::fs::read_dir(venv.join("lib")).ok()?;
        let agents = versions.filter_map(|entry| Some(entry.ok()?.path().join("site-packages/rotel/rotel-agent")));
        agents.into_iter().find(|agent| agent.is_file())
    });
    let Some(agent) = agent else { return };
    let directory = tempfile::tempdir().unwrap();
    let (grpc, http) = (free_port(), free_port());
    let printed = directory.path().join("printed");
    let output = std::fs::File::create(&printed).unwrap();
    let _agent = Killed(
        Command::new(agent)
            .args(["start", "--exporter", "blackhole", "--debug-log", "traces"])
            .args(["--debug-log-verbosity", "detailed"])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap(),
    );
    let printed = || std::fs::read_to_string(&printed).unwrap_or_default();
    for (port, protocol, spans) in [(http, OtlpProtocol::HttpProtobuf, 1), (grpc, OtlpProtocol::Grpc, 2)] {
        let counted = export_to(port, protocol, vec![full()]).await;
        assert_eq!(counted.total(Signal::Traces), 0, "{protocol:?}: {}", printed());
        wait_until("printed", || printed().matches("keytally.call_id").count() >= spans).await;
    }
    let text = printed();
    for part in [
        "chat gpt-5",
        "0af7651916cd43dd8448eb211c80319c",
        "1122334455667788",
        "b7ad6b7169203331",
        "vendor=opaque",
        "service.name",
        "keytally.stream.stalled",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let expected = super::super::traces::Spans::new(Profile::Full, Semconv::Latest, false).span(&full());
    for pair in expected.attributes {
        assert!(text.contains(pair.key.as_str()), "{} is not in {text}", pair.key);
    }
}

#[tokio::test]
async fn oteltap_reads_our_spans() {
    let Some(tap) = tool("oteltap", |venv| Some(venv.join("bin/oteltap"))) else { return };
    let directory = tempfile::tempdir().unwrap();
    let printed = directory.path().join("printed");
    let port = free_port();
    let mut tap = Killed(
        Command::new(tap)
            .args(["--port", &port.to_string(), "--await-span", "^chat gpt-5$"])
            .env("PYTHONUNBUFFERED", "1")
            .stdout(std::fs::File::create(&printed).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let counted = export_to(port, OtlpProtocol::HttpProtobuf, vec![refused(), full()]).await;
    assert_eq!(counted.total(Signal::Traces), 0);
    let ended = std::time::Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = tap.0.try_wait().unwrap() {
            break status;
        }
        assert!(std::time::Instant::now() < ended, "oteltap never saw the span");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(status.success(), "{status}");
    let text = std::fs::read_to_string(&printed).unwrap();
    assert!(text.contains("search-prod") && text.contains("rate_limit_tokens"), "{text}");
}
