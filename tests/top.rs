//! `keytally top` in a real terminal (tmux): it shows, obeys keys, and gives the terminal back; and its snapshot.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use keytally::demo::simulator::{Answer, Received, Simulator};

use crate::support::{Sidecar, post_json, skip};

const REFUSED: &str = r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[]}"#;
/// Longest wait for something on the screen.
const PATIENCE: Duration = Duration::from_secs(30);

fn keytally(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keytally")).args(args).env_remove("NO_COLOR").output().expect("it runs")
}

/// A sidecar whose only key was refused.
async fn sidecar() -> (Simulator, Sidecar) {
    let provider = Simulator::start(|_: Received| Answer::new(401, "application/json", REFUSED)).await.expect("a port");
    let key = keytally::call::ApiKey::new("sk-made-up-mail-prod").fingerprint("openai", b"");
    let config = format!(
        "providers: {{ openai: {{ base_url: \"http://{}\" }} }}\nkeys:\n  - {{ fingerprint: \"{key}\", name: mail-prod }}\n",
        provider.address()
    );
    let sidecar = Sidecar::start(&config);
    post_json(sidecar.proxy, "/openai/v1/chat/completions", "sk-made-up-mail-prod", ASK).await;
    sidecar.wait_for_records(1).await;
    (provider, sidecar)
}

/// A terminal of 80 × 24 with a shell command in it; ends with the test.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn start(dir: &Path, command: &str) -> Self {
        let terminal = Self { socket: dir.join("tmux").display().to_string() };
        let started =
            terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh", "-c", command]);
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        terminal
    }

    fn tmux(&self, args: &[&str]) -> Output {
        Command::new("tmux")
            .args(["-S", &self.socket])
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .output()
            .expect("tmux runs")
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        let sent = self.tmux(&[&["send-keys"], keys].concat());
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    }

    fn wait_for(&self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            assert!(began.elapsed() < PATIENCE, "never on the screen: {text}\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The screen that programs take for themselves is gone, and lines are read and shown by the terminal again.
    fn assert_given_back(&self, screen: &str) {
        let alternate = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert_eq!(String::from_utf8_lossy(&alternate.stdout).trim(), "0 1", "{screen}");
        for mode in ["icanon", "echo", "isig"] {
            assert!(screen.split_whitespace().any(|word| word == mode), "{mode}\n{screen}");
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

fn has_tmux() -> bool {
    Command::new("tmux").arg("-V").output().is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_it_and_is_given_back_on_quit_and_on_signals() {
    if !has_tmux() {
        return skip("tmux");
    }
    let (_provider, sidecar) = sidecar().await;
    for end in ["q", "C-c", "TERM", "HUP"] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pid = dir.path().join("pid");
        // The shell of the pane tells when it is over, and in what state the terminal is then.
        let command = format!(
            "sh -c 'echo $$ >{pid}; exec {program} top --admin {admin} --interval 200ms'; echo ended=$?; stty -a; sleep 600",
            pid = pid.display(),
            program = env!("CARGO_BIN_EXE_keytally"),
            admin = sidecar.admin,
        );
        let terminal = Terminal::start(dir.path(), &command);
        let screen = terminal.wait_for("first fix: ");
        for wanted in ["keytally top", "critical mail-prod at openai auth_invalid", "1 Keys", "100.0 % failed"] {
            assert!(screen.contains(wanted), "{wanted}\n{screen}");
        }
        terminal.keys(&["3"]);
        terminal.wait_for("FIRST FIX");
        terminal.keys(&["1", "Enter"]);
        terminal.wait_for("fingerprint   openai:");
        terminal.keys(&["?"]);
        terminal.wait_for("any key closes this");
        terminal.keys(&["x"]);
        match end {
            "q" | "C-c" => terminal.keys(&[end]),
            signal => {
                let pid = std::fs::read_to_string(&pid).expect("the shell wrote it");
                let sent = Command::new("kill").args([&format!("-{signal}"), pid.trim()]).status();
                assert!(sent.expect("kill runs").success());
            }
        }
        terminal.wait_for("ended=0");
        // The last word of `stty -a`.
        let screen = terminal.wait_for("extproc");
        terminal.assert_given_back(&screen);
        assert!(!screen.contains("critical mail-prod"), "what was there before is there again\n{screen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_it_is_one_snapshot_and_nobody_there_is_a_failure() {
    let (_provider, sidecar) = sidecar().await;
    let admin = sidecar.admin.to_string();
    for args in [&["top", "--admin", &admin][..], &["top", "--once", "--admin", &admin, "--filter", "mail"]] {
        let shown = keytally(args);
        let text = String::from_utf8_lossy(&shown.stdout);
        assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
        assert!(
            text.contains("critical: mail-prod at openai auth_invalid: 1 of 1 calls of the last 10 minutes failed"),
            "{text}"
        );
        assert!(text.contains("\nKEY ") && text.contains("failing") && !text.contains('\u{1b}'), "{text}");
        assert!(!text.contains("sk-made-up"), "{text}");
    }
    drop(sidecar);
    let nobody = keytally(&["top", "--once", "--admin", &admin]);
    let error = String::from_utf8_lossy(&nobody.stderr);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(error.contains(&format!("http://{admin}/status/live: no answer; is a sidecar running")), "{error}");
}

/// What the shell is given works in the shell.
#[test]
fn bash_can_source_its_completions_and_completes_with_them() {
    let script = keytally(&["completions", "bash"]);
    assert!(script.status.success());
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("keytally.bash");
    std::fs::write(&file, &script.stdout).expect("written");
    let ask = "source \"$1\"; COMP_WORDS=(keytally fing); COMP_CWORD=1; _keytally keytally fing keytally; echo \"${COMPREPLY[@]}\"; \
               COMP_WORDS=(keytally top --adm); COMP_CWORD=2; _keytally keytally --adm top; echo \"${COMPREPLY[@]}\"";
    let told = Command::new("bash").args(["--norc", "-euc", ask, "bash"]).arg(&file).output().expect("bash runs");
    let text = String::from_utf8_lossy(&told.stdout);
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        ["fingerprint", "--admin"],
        "{}",
        String::from_utf8_lossy(&told.stderr)
    );
    for shell in ["zsh", "fish"] {
        assert!(String::from_utf8_lossy(&keytally(&["completions", shell]).stdout).contains("fingerprint"), "{shell}");
    }
    assert_eq!(keytally(&["completions", "csh"]).status.code(), Some(2));
    let page = keytally(&["man", "top"]);
    assert!(String::from_utf8_lossy(&page.stdout).contains(".SH OPTIONS"));
}
