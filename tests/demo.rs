//! `keytally demo` as somebody without an account runs it: the real binary, a whole loop of the story in a short time.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What the story must make visible, in records that the real sidecar made of the simulated providers' answers.
const SHOWN: &[&str] = &[
    "laptop-ana auth_invalid  HTTP 401 invalid_api_key",
    "search-prod rate_limit_tokens  HTTP 429 rate_limit_exceeded",
    "laptop-ana credit_exhausted  HTTP 429 insufficient_quota",
    "eval-ci model_unavailable  HTTP 404 model_not_found",
    "chat-prod provider_overloaded  HTTP 200 overloaded_error",
    "mail-prod stream_truncated  HTTP 200",
    "key_unexpanded",
    "chat-prod auth_invalid  HTTP 401 invalid_api_key  openai",
    "key_wrong_provider",
    "batch-nightly auth_revoked  HTTP 403",
];
/// Longest wait for all of it: three loops of the story.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn demo_shows_every_trouble_of_its_story_and_ends_on_ctrl_c() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keytally"))
        .args(["demo", "--minute", "2500ms"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is there");
    let out = child.stdout.take().expect("piped");
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let began = Instant::now();
    let mut seen = String::new();
    let mut missing = SHOWN.to_vec();
    while let Some(left) = PATIENCE.checked_sub(began.elapsed()).filter(|_| !missing.is_empty()) {
        let Ok(line) = lines.recv_timeout(left) else { break };
        missing.retain(|text| !line.contains(text));
        seen.push_str(&line);
        seen.push('\n');
    }
    let told = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(told.success());
    let ended = Instant::now();
    let status = loop {
        match child.try_wait().expect("it can be waited for") {
            Some(status) => break Some(status),
            None if ended.elapsed() > Duration::from_secs(15) => break None,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    if status.is_none() {
        let _ = child.kill();
    }
    reader.join().expect("the reader ends with the output");
    seen.extend(lines.try_iter().map(|line| line + "\n"));
    let mut complaints = String::new();
    let _ = child.stderr.take().expect("piped").read_to_string(&mut complaints);

    assert!(missing.is_empty(), "never shown: {missing:#?}\n{seen}");
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{complaints}");
    assert_eq!(seen.lines().rev().take_while(|line| line.starts_with("keytally demo: ")).count(), 2, "{seen}");
    assert!(seen.contains(" 0 calls unpriced"), "a model of the story is not in the price book\n{seen}");
    assert_eq!(complaints, "");
    assert!(!seen.contains("madeup"), "a key was shown");
}
