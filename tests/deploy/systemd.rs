//! `deploy/systemd`: the units by systemd's own checks, and the real binary on sockets that systemd's tool hands over.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keytally::demo::simulator::{Answer, Simulator};

use super::{free_port, program, read, run};
use crate::support::{get, post_json, skip};

/// Exposure, in tenths, above which `systemd-analyze security` must fail: 1.3 is what there is, and 9.6 a unit without hardening.
const THRESHOLD: &str = "--threshold=15";

/// The units in a folder, with the drop-in of the documentation, starting the binary under test.
fn units() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary directory");
    let write = |path: &str, text: &str| {
        let text = text.replace("/usr/local/bin/keytally", env!("CARGO_BIN_EXE_keytally"));
        std::fs::write(folder.path().join(path), text).expect("written");
    };
    for unit in ["keytally.service", "keytally.socket"] {
        write(unit, &read(&format!("deploy/systemd/{unit}")));
    }
    let guide = read("docs/deploy.md");
    let drop_in = guide.split("```").find_map(|block| block.strip_prefix("ini\n")).expect("the drop-in");
    std::fs::create_dir(folder.path().join("keytally.service.d")).expect("made");
    write("keytally.service.d/redirect.conf", drop_in);
    folder
}

/// What the service's unit says for this name.
#[track_caller]
fn setting(name: &str) -> String {
    let unit = read("deploy/systemd/keytally.service");
    let line = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {name}")).to_owned()
}

#[test]
fn systemd_takes_the_units_and_finds_little_exposed() {
    if program("systemd-analyze").is_none() {
        return skip("systemd-analyze");
    }
    let folder = units();
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "keytally.service", "keytally.socket"])
        .current_dir(folder.path())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success() && !said.contains("keytally."), "{said}");
    let security = ["security", "--offline=true", "--no-pager", THRESHOLD, "keytally.service"];
    let shown = run(Command::new("systemd-analyze").args(security).current_dir(folder.path()));
    assert!(shown.contains("Overall exposure level"), "{shown}");
}

#[test]
fn the_unit_leaves_time_to_drain() {
    assert_eq!(setting("TimeoutStopSec"), "40s");
    assert!(read("docs/configuration.md").contains("| `shutdown.drain` | duration | `25s` |"));
    assert_eq!(setting("ExecReload"), "/bin/kill -HUP $MAINPID");
    assert_eq!(setting("LimitCORE"), "0");
}

/// By default systemd leaves a service down after five failures within ten seconds.
#[test]
fn the_unit_is_started_again_without_end() {
    assert_eq!(setting("StartLimitIntervalSec"), "0");
    assert_eq!(setting("Restart"), "on-failure");
    assert_eq!(setting("RestartSec"), "2s");
}

/// `keytally redirect --uid` looks users up in /etc/passwd, where a dynamic one never stands.
#[test]
fn the_user_of_the_service_is_one_of_the_machine() {
    let user = setting("User");
    assert!(read("docs/deploy.md").contains(&format!("redirect install --uid {user}\n")));
    if program("systemd-sysusers").is_none() {
        return skip("systemd-sysusers");
    }
    let root = tempfile::tempdir().expect("temporary directory");
    let folder = root.path().join("etc/sysusers.d");
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join("keytally.conf"), read("deploy/systemd/sysusers.conf")).expect("written");
    run(Command::new("systemd-sysusers").arg(format!("--root={}", root.path().display())));
    let users = std::fs::read_to_string(root.path().join("etc/passwd")).expect("it made the user");
    assert!(users.lines().any(|line| line.starts_with(&format!("{user}:"))), "{users}");
}

/// In directories as systemd makes them for the unit, and under its mask, everybody may read the certificates, and nobody
/// else the key or what stands beside.
#[cfg(unix)]
#[test]
fn applications_may_read_the_certificates_and_nothing_else() {
    use std::os::unix::fs::PermissionsExt;

    assert_eq!(setting("StateDirectory"), "keytally keytally/ca");
    let mode = u32::from_str_radix(&setting("StateDirectoryMode"), 8).expect("octal");
    assert_eq!(mode & 0o077, 0o011, "passed through, not listed");
    let folder = tempfile::tempdir().expect("temporary directory");
    let ca = folder.path().join("ca");
    std::fs::create_dir(&ca).expect("made");
    std::fs::set_permissions(&ca, PermissionsExt::from_mode(mode)).expect("its mode");
    let config = folder.path().join("keytally.yaml");
    std::fs::write(&config, format!("tls: {{ ca_dir: {} }}\n", ca.display())).expect("written");
    let script = format!("umask {}; exec \"$0\" ca bundle --config \"$1\"", setting("UMask"));
    let said = run(Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_keytally")]).arg(&config));
    assert_eq!(said.trim(), ca.join("bundle.pem").to_str().expect("a path"));
    let modes = std::fs::read_dir(&ca).expect("it is there").map(|entry| {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("its mode").permissions().mode() & 0o777;
        (entry.file_name().into_string().expect("a name"), mode)
    });
    let modes: std::collections::BTreeMap<_, _> = modes.collect();
    let wanted = [("bundle.pem", 0o644), ("ca-key.pem", 0o600), ("ca.pem", 0o644)];
    assert_eq!(modes, wanted.map(|(name, mode)| (name.to_owned(), mode)).into());
}

#[tokio::test]
async fn sockets_that_are_handed_over_are_served() {
    if program("systemd-socket-activate").is_none() {
        return skip("systemd-socket-activate");
    }
    let provider = Simulator::start(|_| Answer::new(200, "application/json", "{}")).await.expect("it starts");
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = folder.path().join("keytally.yaml");
    let (proxy, admin) = (free_port(), free_port());
    let address = |port: u16| format!("127.0.0.1:{port}");
    let config = |proxy: String| {
        format!(
            "listen: {{ proxy: \"{proxy}\", admin: \"{}\" }}\nproviders: {{ openai: {{ base_url: \"http://{}\" }} }}\n",
            address(admin),
            provider.address()
        )
    };
    std::fs::write(&file, config(address(proxy))).expect("written");
    let activate = |log: Stdio| {
        let mut command = Command::new("systemd-socket-activate");
        command.args(["-l", &address(proxy), "-l", &address(admin), env!("CARGO_BIN_EXE_keytally")]);
        command.arg("serve").arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts")
    };

    // The tool becomes the sidecar with the first connection, which waits until it is answered.
    let mut child = activate(Stdio::null());
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", proxy)).is_err() {
        assert!(Instant::now() < deadline, "nobody listens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let to = |port: u16| address(port).parse().expect("an address");
    let answer = post_json(to(proxy), "/openai/v1/chat/completions", "sk-made-up-handed-over-0000", "{}").await;
    assert_eq!(answer.head.status, 200);
    assert_eq!(get(to(admin), "/readyz").await.head.status, 200);
    let _ = child.kill();
    let _ = child.wait();

    // A socket that nobody would answer on.
    std::fs::write(&file, config("127.0.0.1:0".to_owned())).expect("written");
    let mut child = activate(Stdio::piped());
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", proxy)).is_err() {
        assert!(Instant::now() < deadline, "nobody listens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + Duration::from_secs(20);
        while child.try_wait().expect("wait").is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.wait_with_output().expect("its output")
    })
    .await
    .expect("it was waited for");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("a socket on {} was handed over", address(proxy))), "{said}");
}
