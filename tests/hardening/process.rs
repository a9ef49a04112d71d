//! What the process may still do, as the kernel has it; what its files let others do.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::support::{Sidecar, get, post_json, send, skip};

/// Fields of `/proc/PID/status`.
fn status(text: &str, field: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).trim().to_owned()
}

#[test]
fn serve_may_gain_nothing_and_nobody_may_look_into_it() {
    let sidecar = Sidecar::start("");
    // Of every thread: those that were started later must have it as well.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", sidecar.pid())).expect("its threads");
    let mut threads = 0;
    for task in tasks {
        let text = std::fs::read_to_string(task.expect("a thread").path().join("status")).expect("its state");
        assert_eq!(status(&text, "NoNewPrivs"), "1", "{text}");
        assert_eq!(status(&text, "Seccomp"), "2", "filtered: {text}");
        threads += 1;
    }
    assert!(threads > 1, "{threads}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", sidecar.pid())).expect("its limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
}

/// The same user, without root's rights, cannot read its memory; a process that says nothing can be read.
#[test]
fn another_process_of_the_same_user_cannot_read_its_memory() {
    if !rustix::process::geteuid().is_root() {
        return skip("root");
    }
    let user = 65534;
    let may_read = |pid: u32| {
        let script = format!("head -c 1 /proc/{pid}/environ >/dev/null 2>&1");
        let who = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", &script];
        Command::new("setpriv").args(who).status().expect("setpriv runs").success()
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    std::os::unix::fs::chown(dir.path(), Some(user), Some(user)).expect("root may");
    let config = format!("export: {{ calls: {{ path: \"{}\" }} }}", dir.path().join("calls.jsonl").display());
    let sidecar = Sidecar::start_with(&config, |command| {
        use std::os::unix::process::CommandExt;
        crate::support::sidecar::readable_by_all(command);
        command.uid(user).gid(user);
    });
    assert!(!may_read(sidecar.pid()), "memory and environment of the sidecar are open to its user");
    let mut other = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "60"])
        .spawn()
        .expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !may_read(other.id()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let read = may_read(other.id());
    let _ = other.kill();
    let _ = other.wait();
    assert!(read, "this test sees nothing: another process of the user could not be read either");
}

/// What a command that is run may do is not keytally's business.
#[test]
fn run_leaves_its_command_as_it_would_be() {
    let output = Command::new(env!("CARGO_BIN_EXE_keytally"))
        .args(["run", "--", "sh", "-c", "cat /proc/self/status; ulimit -H -c"])
        .env_remove("KEYTALLY_CONFIG")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let own = std::fs::read_to_string("/proc/self/status").expect("this process's state");
    let text = String::from_utf8_lossy(&output.stdout);
    for field in ["NoNewPrivs", "Seccomp"] {
        assert_eq!(status(&text, field), status(&own, field), "{text}");
    }
    let limit = Command::new("sh").args(["-c", "ulimit -H -c"]).output().expect("it runs").stdout;
    assert!(text.ends_with(&*String::from_utf8_lossy(&limit)), "{text}");
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[tokio::test]
async fn others_on_the_machine_cannot_read_ledger_and_call_log() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (ledger, calls) = (dir.path().join("ledger.db"), dir.path().join("calls.jsonl"));
    // Nobody answers there, which is a call as well.
    let config = format!(
        "providers: {{ openai: {{ base_url: \"http://127.0.0.1:1\" }} }}\nledger: {{ path: \"{}\" }}\n\
         export: {{ calls: {{ path: \"{}\" }} }}",
        ledger.display(),
        calls.display()
    );
    let sidecar = Sidecar::start_with(&config, |command| {
        // As most systems have it, whatever this one has.
        let program = command.get_program().to_owned();
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 022; exec \"$@\"", "sh"]).arg(program).args(command.get_args());
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        shell.env("XDG_STATE_HOME", dir.path());
        *command = shell;
    });
    post_json(sidecar.proxy, "/openai/v1/chat/completions", "sk-made-up-key", "{}").await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let beside = |more: &str| dir.path().join(format!("ledger.db{more}"));
    while !calls.exists() || !beside("-wal").exists() {
        assert!(Instant::now() < deadline, "no files: {}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for more in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&beside(more)), 0o600, "ledger.db{more}");
    }
    assert_eq!(mode(&calls), 0o640);
}

/// A page that made its own name resolve to this machine is told so; the name that the owner gave the port is served.
#[tokio::test]
async fn the_admin_port_has_the_names_that_its_owner_gave_it() {
    let sidecar = Sidecar::start("listen: { admin_hosts: [Metrics.Example.org] }");
    let ask = |host: String| {
        let request = Request::get("/metrics").header("host", host).body(Full::<Bytes>::default()).expect("request");
        let admin: SocketAddr = sidecar.admin;
        async move { send(admin, request).await.head.status.as_u16() }
    };
    let port = sidecar.admin.port();
    assert_eq!(ask(format!("metrics.example.org:{port}")).await, 200);
    assert_eq!(ask(format!("rebound.example.org:{port}")).await, 421);
    assert_eq!(get(sidecar.admin, "/metrics").await.head.status, 200);
}
