//! The container image: built without a daemon by `deploy/image/build.sh`, looked into, started there, and called through.
//!
//! The binary is built in the `dev` profile here, since only `make image` needs the optimized one; everything else is the same.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keytally::demo::simulator::{AnswerEnd, Simulator};
use serde_json::Value;

use super::{program, repository, run};
use crate::support::{Samples, get, post_json, recorded, skip, tool};

const NAME: &str = "localhost/keytally:test";
const TARGET: &str = "x86_64-unknown-linux-musl";

#[test]
fn the_containerfile_is_clean() {
    let Some(hadolint) = tool("venv/bin/hadolint") else { return skip("hadolint") };
    run(Command::new(hadolint).args(["--failure-threshold", "style"]).arg(repository("deploy/image/Containerfile")));
}

/// Containers of the test's own: storage, settings.
struct Containers(tempfile::TempDir);

impl Containers {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary directory");
        // The default limits are above what this process may have, and crun needs a cgroup layout that not every machine has.
        let settings = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                        [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\n";
        std::fs::write(folder.path().join("containers.conf"), settings).expect("written");
        Self(folder)
    }

    fn podman(&self) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.0.path().join("containers.conf"));
        command.arg("--root").arg(self.0.path().join("root")).arg("--runroot").arg(self.0.path().join("run"));
        command.args(["--storage-driver", "vfs"]).stdin(Stdio::null());
        command
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let _ = self.podman().args(["rm", "--all", "--force", "--time", "0"]).output();
    }
}

/// Whether the ELF file asks for a dynamic loader (program header `PT_INTERP`; 64 bit, little endian).
fn is_static(elf: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        elf[at..at + length].iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    assert_eq!(&elf[..5], b"\x7fELF\x02");
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).all(|index| number(table + index * size, 4) != 3)
}

/// `podman run`, attached to its container; it ends with the test.
struct Attached(Child);

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Running {
    engine: Attached,
    proxy: SocketAddr,
    admin: SocketAddr,
    log: String,
}

/// Starts the image as `name` with this folder as /etc/keytally, and waits until it is ready.
fn start(containers: &Containers, name: &str, config: &Path) -> Running {
    let mount = format!("{}:/etc/keytally:ro", config.display());
    let started = containers
        .podman()
        .args(["run", "--rm", "--name", name, "--network", "host", "--read-only", "--cap-drop", "ALL"])
        .args(["--security-opt", "no-new-privileges", "--volume", &mount])
        .args(["--env", "KEYTALLY_LISTEN=127.0.0.1:0", "--env", "KEYTALLY_LOG=debug"])
        .args(["--env", &format!("KEYTALLY_ADMIN=127.0.0.1:{}", super::free_port())])
        .args([NAME, "serve", "--config", "/etc/keytally/keytally.yaml"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut engine = Attached(started.expect("podman starts"));
    let mut log = String::new();
    let mut lines = BufReader::new(engine.0.stderr.take().expect("piped")).lines();
    loop {
        let Some(Ok(line)) = lines.next() else { panic!("the container ended:\n{log}") };
        log.push_str(&line);
        log.push('\n');
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        let address = |name: &str| line[name].as_str().and_then(|text| text.parse().ok());
        if let (Some(proxy), Some(admin)) = (address("proxy"), address("admin")) {
            std::thread::spawn(move || lines.for_each(drop));
            return Running { engine, proxy, admin, log };
        }
    }
}

fn binary_of(containers: &Containers) -> (Vec<String>, PathBuf) {
    let folder = containers.0.path();
    run(containers.podman().args(["create", "--name", "looked-into", NAME]));
    let archive = folder.join("files.tar");
    run(containers.podman().arg("export").arg("--output").arg(&archive).arg("looked-into"));
    let names = run(Command::new("tar").arg("tf").arg(&archive));
    run(Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(folder).arg("keytally"));
    (names.lines().map(str::to_owned).collect(), folder.join("keytally"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_is_small_locked_down_and_carries_a_call() {
    let target = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let target = target.is_ok_and(|out| Path::new(String::from_utf8_lossy(&out.stdout).trim()).is_dir());
    if !target || ["buildah", "podman", "runc", "musl-gcc"].iter().any(|name| program(name).is_none()) {
        return skip("buildah, podman, runc, musl-tools or the Rust target x86_64-unknown-linux-musl");
    }
    let containers = Containers::new();
    let mut build = Command::new(repository("deploy/image/build.sh"));
    build.args(["--profile", "dev", "--tag", NAME, "amd64", "--containers"]).arg(containers.0.path());
    let told = run(&mut build);
    assert!(told.contains("image ") && told.contains(" MiB, compressed "), "{told}");
    assert!(told.contains("start to first answered health check: "), "{told}");

    let inspected = run(containers.podman().args(["image", "inspect", NAME]));
    let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
    let config = &inspected[0]["Config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"][0], "/keytally");
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(inspected[0]["Healthcheck"]["Test"], serde_json::json!(["CMD", "/keytally", "health"]));

    // Mount points and the like are made by the engine; the image itself has two files.
    let (names, binary) = binary_of(&containers);
    let engine = ["dev", "etc", "proc", "run", "sys"];
    let own: Vec<_> =
        names.iter().filter(|name| !engine.contains(&name.split('/').next().unwrap_or_default())).collect();
    assert_eq!(own, ["keytally", "keytally.cdx.json", "var/", "var/lib/", "var/lib/keytally/"]);
    assert!(is_static(&std::fs::read(binary).expect("it was exported")));

    let recording = recorded::find("openai", "chat", "plain");
    let provider = Simulator::start(move |_| recorded::answer(&recording, Default::default(), AnswerEnd::Clean)).await;
    let provider = provider.expect("it starts");
    let folder = tempfile::tempdir().expect("temporary directory");
    let config = format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nshutdown: {{ linger: 0s }}\n",
        provider.address()
    );
    std::fs::write(folder.path().join("keytally.yaml"), config).expect("written");
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()));
    let mut running = start(&containers, "sidecar", folder.path());
    // No root certificates come with the image: those in the binary are used.
    let bundled =
        running.log.lines().any(|line| line.contains("certificate authorities") && line.contains("\"bundled\":true"));
    assert!(bundled, "{}", running.log);

    let key = "sk-made-up-in-a-container-000000000000000";
    let question = r#"{"model":"gpt-4o-mini","messages":[]}"#;
    let answer = post_json(running.proxy, "/openai/v1/chat/completions", key, question).await;
    assert_eq!(answer.head.status, 200);
    run(containers.podman().args(["exec", "sidecar", "/keytally", "health"]));
    run(containers.podman().args(["healthcheck", "run", "sidecar"]));
    let shell = containers.podman().args(["exec", "sidecar", "/bin/sh"]).output().expect("podman runs");
    assert!(!shell.status.success(), "there must be no shell");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let metrics = get(running.admin, "/metrics").await;
        let samples = Samples::parse(std::str::from_utf8(&metrics.body).expect("text"));
        if samples.sum("keytally_requests_total", &[("provider", "openai"), ("outcome", "ok")]).is_some() {
            break;
        }
        assert!(Instant::now() < deadline, "the call is not counted: {:?}", metrics.body);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    run(containers.podman().args(["stop", "sidecar"]));
    assert_eq!(running.engine.0.wait().expect("it ends").code(), Some(0));
}
