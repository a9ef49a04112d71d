//! How the process starts, reloads and ends: signals, drain, exit codes, files that change under it.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use keytally::demo::simulator::{Answer, AnswerEnd, Simulator};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::wire::{read_head, serve_raw};
use crate::support::{Sidecar, client, get, post_json};

const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;
const STREAM: &str = r#"{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Hi"}]}"#;
const ANSWER: &str = r#"{"id":"1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
const KEY: &str = "sk-made-up-key-for-tests";
const CHAT: &str = "/openai/v1/chat/completions";

fn at(provider: SocketAddr, more: &str) -> String {
    format!("providers: {{ openai: {{ base_url: \"http://{provider}\" }} }}\n{more}")
}

fn event(text: &str) -> Bytes {
    Bytes::from(format!(
        "data: {{\"model\":\"gpt-4o-mini\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    ))
}

/// A provider whose streams run for `pause` × 4, and then end as told; other calls are answered at once.
async fn slow_provider(pause: Duration, end: AnswerEnd) -> Simulator {
    Simulator::start(move |received| {
        if !received.body.windows(8).any(|window| window == b"\"stream\"") {
            return Answer::new(200, "application/json", ANSWER);
        }
        let mut answer = Answer::new(200, "text/event-stream", event("one"));
        answer.pieces.push((pause, event("two")));
        answer.pieces.push((pause, event("three")));
        if end == AnswerEnd::Clean {
            let usage = "data: {\"model\":\"gpt-4o-mini\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"total_tokens\":12}}\n\n";
            answer.pieces.push((pause, Bytes::from(usage)));
            answer.pieces.push((pause, Bytes::from("data: [DONE]\n\n")));
        }
        answer.end = end;
        answer
    })
    .await
    .unwrap()
}

/// Opens a stream and reads its first piece.
async fn open_stream(sidecar: &Sidecar) -> hyper::body::Incoming {
    let request = Request::post(CHAT)
        .header("authorization", format!("Bearer {KEY}"))
        .body(Full::new(Bytes::from(STREAM)))
        .unwrap();
    let mut body = client::open(sidecar.proxy, request).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), event("one"));
    body
}

/// The keytally binary with these arguments and nothing on standard input.
fn keytally(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keytally"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Exit code, standard output, standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("not killed"), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn a_stream_underway_at_sigterm_ends_by_itself() {
    let provider = slow_provider(Duration::from_millis(400), AnswerEnd::Clean).await;
    let mut sidecar = Sidecar::start(&at(provider.address(), ""));
    post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    sidecar.wait_for_records(1).await;
    let stream = open_stream(&sidecar).await;
    assert_eq!(get(sidecar.admin, "/readyz").await.head.status, 200);
    sidecar.signal("TERM");
    sidecar.wait_for_log("stopping");
    // While it drains: alive, not ready, metrics up, no new calls.
    assert_eq!(get(sidecar.admin, "/livez").await.head.status, 200);
    assert_eq!(get(sidecar.admin, "/readyz").await.head.status, 503);
    assert!(sidecar.metrics().await.len() > 0);
    let asked = Instant::now();
    while TcpStream::connect(sidecar.proxy).await.is_ok() {
        assert!(asked.elapsed() < Duration::from_millis(500), "connections are accepted after SIGTERM");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rest = stream.collect().await.expect("the stream ends whole").to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"), "{rest:?}");
    assert_eq!(sidecar.wait(Duration::from_secs(20)).code(), Some(0));
    let records = sidecar.records();
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!(records[1]["end"], "complete");
    assert_eq!(records[1]["usage"]["output_tokens"], 3);
}

#[tokio::test]
async fn calls_that_outlast_the_drain_time_are_cut_off_and_recorded_once() {
    let provider = slow_provider(Duration::from_millis(10), AnswerEnd::Silent).await;
    let silent = serve_raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let socket = serve_raw(|mut stream| async move {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut sidecar = Sidecar::start(&format!(
        "providers:\n  openai: {{ base_url: \"http://{}\" }}\n  mistral: {{ base_url: \"http://{silent}\" }}\n  xai: {{ base_url: \"http://{socket}\" }}\nshutdown: {{ drain: 500ms }}",
        provider.address()
    ));
    // The first call loads what is loaded once; the time of the drain is not to be the time of that.
    post_json(sidecar.proxy, CHAT, KEY, ASK.replacen('{', "{\"n\":1,", 1)).await;
    let stream = open_stream(&sidecar).await;
    drop(stream);
    sidecar.wait_for_records(2).await;
    let stream = open_stream(&sidecar).await;
    let waiting = tokio::spawn(client::open(
        sidecar.proxy,
        Request::post("/mistral/v1/chat/completions").body(Full::new(Bytes::from(ASK))).unwrap(),
    ));
    let mut upgraded = TcpStream::connect(sidecar.proxy).await.unwrap();
    let head = "GET /xai/v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    upgraded.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut upgraded).await.starts_with("HTTP/1.1 101"));
    while sidecar.metrics().await.sum("keytally_requests_in_flight", &[]) != Some(3.0) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let asked = Instant::now();
    sidecar.signal("TERM");
    assert!(stream.collect().await.is_err(), "a stream that was cut off must not look whole");
    assert!(waiting.await.unwrap().is_err(), "a call without answer");
    assert_eq!(sidecar.wait(Duration::from_secs(10)).code(), Some(0));
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(450) && took < Duration::from_secs(4), "{took:?}");
    let mut records: Vec<Value> = sidecar.records().split_off(2);
    records.sort_by_key(|record| record["provider"].as_str().unwrap().to_owned());
    let ends: Vec<_> = records.iter().map(|r| (r["provider"].as_str().unwrap(), r["end"].as_str().unwrap())).collect();
    assert_eq!(ends, [("mistral", "no_answer"), ("openai", "truncated"), ("xai", "truncated")], "{records:?}");
    assert!(sidecar.log().contains("cut off"), "{}", sidecar.log());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let provider = slow_provider(Duration::from_millis(10), AnswerEnd::Silent).await;
    let mut sidecar = Sidecar::start(&at(provider.address(), "shutdown: { drain: 60s }"));
    let _stream = open_stream(&sidecar).await;
    sidecar.signal("TERM");
    sidecar.wait_for_log("stopping");
    let asked = Instant::now();
    sidecar.signal("TERM");
    let status = sidecar.wait(Duration::from_secs(5));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(status.code(), Some(1), "it did not stop in order");
    assert!(sidecar.log().contains("second signal"), "{}", sidecar.log());
}

#[tokio::test]
async fn a_second_signal_ends_the_linger_in_order() {
    let provider = slow_provider(Duration::ZERO, AnswerEnd::Clean).await;
    let mut sidecar = Sidecar::start(&at(provider.address(), "shutdown: { linger: 60s }"));
    post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    sidecar.signal("INT");
    sidecar.wait_for_log("metrics stay up");
    // The last scrape sees the true values, birth hold or not.
    let samples = sidecar.metrics().await;
    assert_eq!(samples.sum("keytally_requests_total", &[("outcome", "ok")]), Some(1.0));
    sidecar.signal("INT");
    assert_eq!(sidecar.wait(Duration::from_secs(5)).code(), Some(0));
    assert_eq!(sidecar.records().len(), 1);
}

#[tokio::test]
async fn idle_connections_do_not_hold_the_process() {
    let provider = slow_provider(Duration::ZERO, AnswerEnd::Clean).await;
    // Were they waited for, it would be for ten minutes; the stop below allows twenty seconds.
    let mut sidecar = Sidecar::start(&at(provider.address(), "shutdown: { drain: 10m }"));
    let _never_used = TcpStream::connect(sidecar.proxy).await.unwrap();
    let mut used = TcpStream::connect(sidecar.proxy).await.unwrap();
    used.write_all(b"GET /openai/v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_head(&mut used).await;
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(!sidecar.log().contains("still in flight"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_around_sigterm_are_each_recorded_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let copy = Arc::clone(&count);
    let provider = Simulator::start(move |_| {
        copy.fetch_add(1, Ordering::SeqCst);
        let mut answer = Answer::new(200, "application/json", ANSWER);
        answer.delay = Duration::from_millis(30);
        answer
    })
    .await
    .unwrap();
    let mut sidecar = Sidecar::start(&at(provider.address(), ""));
    let proxy = sidecar.proxy;
    let callers: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut whole = 0;
                // Until no connection is accepted any more.
                loop {
                    let Ok(stream) = TcpStream::connect(proxy).await else { return whole };
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(io).await else {
                        return whole;
                    };
                    tokio::spawn(connection);
                    let request = Request::post(CHAT).header("host", "x").body(Full::new(Bytes::from(ASK))).unwrap();
                    let Ok(answer) = sender.send_request(request).await else { return whole };
                    if answer.into_body().collect().await.is_ok() {
                        whole += 1;
                    }
                }
            })
        })
        .collect();
    while count.load(Ordering::SeqCst) < 40 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(sidecar.stop().code(), Some(0));
    let mut whole = 0;
    for caller in callers {
        whole += caller.await.unwrap();
    }
    let records = sidecar.records();
    assert!(whole >= 40);
    assert_eq!(records.len(), whole, "records against answers");
    assert_eq!(count.load(Ordering::SeqCst), whole, "answers against calls that the provider saw");
    let ids: std::collections::HashSet<_> = records.iter().map(|record| record["call_id"].to_string()).collect();
    assert_eq!(ids.len(), whole, "each once");
}

#[tokio::test]
async fn sighup_reloads_and_reopens_the_call_log() {
    let provider = slow_provider(Duration::ZERO, AnswerEnd::Clean).await;
    let config = at(provider.address(), "");
    let sidecar = Sidecar::start(&config);
    post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    let first = sidecar.wait_for_records(1).await.remove(0);
    let print = first["key"].as_str().expect("a fingerprint").to_owned();

    let calls = sidecar.dir().join("calls.jsonl");
    std::fs::rename(&calls, sidecar.dir().join("calls.1")).unwrap();
    let own = std::fs::read_to_string(sidecar.config_file()).unwrap();
    let text = format!("{own}\nkeys: [{{ fingerprint: \"{print}\", name: named-now }}]\n");
    std::fs::write(sidecar.config_file(), text).unwrap();
    sidecar.signal("HUP");
    sidecar.wait_for_log("configuration reloaded");
    let deadline = Instant::now() + Duration::from_secs(5);
    for calls in 1.. {
        post_json(sidecar.proxy, CHAT, KEY, ASK).await;
        // In a new file of the old name: the log was opened anew.
        let record = sidecar.wait_for_records(calls).await.remove(calls - 1);
        if record["key_name"] == "named-now" {
            break;
        }
        assert!(Instant::now() < deadline, "{record}");
    }
    assert_eq!(std::fs::read_to_string(sidecar.dir().join("calls.1")).unwrap().lines().count(), 1);
}

/// Waits until calls to `prefix` are answered with `status`.
async fn wait_for_status(sidecar: &Sidecar, prefix: &str, status: u16) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = post_json(sidecar.proxy, &format!("/{prefix}/v1/chat/completions"), KEY, ASK).await;
        if answer.head.status == status {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{prefix}: {} instead of {status}; log:\n{}",
            answer.head.status,
            sidecar.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_file_is_watched_through_writes_renames_and_bad_content() {
    let provider = slow_provider(Duration::ZERO, AnswerEnd::Clean).await;
    let sidecar = Sidecar::start("");
    let base = std::fs::read_to_string(sidecar.config_file()).unwrap();
    let with = |ids: &[&str]| {
        let rows: Vec<_> =
            ids.iter().map(|id| format!("{id}: {{ base_url: \"http://{}\" }}", provider.address())).collect();
        format!("{base}\nproviders: {{ {} }}\n", rows.join(", "))
    };
    wait_for_status(&sidecar, "one", 404).await;
    std::fs::write(sidecar.config_file(), with(&["one"])).unwrap();
    wait_for_status(&sidecar, "one", 200).await;
    let beside = sidecar.dir().join("new.yaml");
    std::fs::write(&beside, with(&["one", "two"])).unwrap();
    std::fs::rename(&beside, sidecar.config_file()).unwrap();
    wait_for_status(&sidecar, "two", 200).await;
    assert_eq!(sidecar.metrics().await.sum("keytally_config_last_reload_successful", &[]), Some(1.0));

    // Wrong in the file's own terms, in the catalogue's, in a rule's and in a price book's: all of it is told, nothing of
    // it is taken, and what was good in the same file is not taken either.
    let bad = format!(
        "{}prices: {{ book: no-such-book.json }}\nlimits: {{ keys: many }}\nupstream: {{ ca_file: no-such-ca.pem }}\n",
        with(&["one", "two", "three"])
            .replace("one: {", "nobody: {}, other: { prefix: anthropic, base_url: \"http://x.invalid\" }, one: {")
    );
    std::fs::write(sidecar.config_file(), bad).unwrap();
    sidecar.wait_for_log("not reloaded");
    let deadline = Instant::now() + Duration::from_secs(5);
    while sidecar.metrics().await.sum("keytally_config_last_reload_successful", &[]) != Some(0.0) {
        assert!(Instant::now() < deadline, "the metric says that all is well:\n{}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for problem in
        ["providers.nobody.base_url", "providers.other.prefix", "limits.keys", "no-such-book.json", "no-such-ca.pem"]
    {
        sidecar.wait_for_log(problem);
    }
    wait_for_status(&sidecar, "three", 404).await;
    wait_for_status(&sidecar, "one", 200).await;
    let status: Value = get(sidecar.admin, "/status").await.json();
    assert!(status.to_string().contains("not what runs"), "{status}");

    std::fs::write(sidecar.config_file(), with(&["three"])).unwrap();
    wait_for_status(&sidecar, "three", 200).await;
    wait_for_status(&sidecar, "one", 404).await;
    assert_eq!(sidecar.metrics().await.sum("keytally_config_last_reload_successful", &[]), Some(1.0));
}

/// As Kubernetes mounts a ConfigMap: `keytally.yaml` → `..data/keytally.yaml`, `..data` → a directory that is swapped.
#[tokio::test]
async fn a_swapped_data_directory_is_a_new_file() {
    let provider = slow_provider(Duration::ZERO, AnswerEnd::Clean).await;
    let mount = tempfile::tempdir().unwrap();
    let calls = mount.path().join("calls.jsonl");
    let version = |name: &str, id: &str| {
        let dir = mount.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let text = format!(
            "providers: {{ {id}: {{ base_url: \"http://{}\" }} }}\nexport: {{ calls: {{ path: \"{}\" }} }}\n",
            provider.address(),
            calls.display()
        );
        std::fs::write(dir.join("keytally.yaml"), text).unwrap();
        let link = mount.path().join("..data_tmp");
        std::os::unix::fs::symlink(name, &link).unwrap();
        std::fs::rename(link, mount.path().join("..data")).unwrap();
    };
    version("..2026_01", "one");
    let file = mount.path().join("keytally.yaml");
    std::os::unix::fs::symlink("..data/keytally.yaml", &file).unwrap();
    let sidecar = Sidecar::start_with("", |command| {
        // The last one wins over the kit's own.
        let args: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let at = args.iter().position(|arg| arg == "--config").unwrap();
        let mut fresh = Command::new(command.get_program());
        fresh
            .args(&args[..at])
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        *command = fresh;
    });
    wait_for_status(&sidecar, "one", 200).await;
    version("..2026_02", "two");
    std::fs::remove_dir_all(mount.path().join("..2026_01")).unwrap();
    wait_for_status(&sidecar, "two", 200).await;
    wait_for_status(&sidecar, "one", 404).await;
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (args, setting) in [
        (["serve", "--listen", &address, "--admin", "127.0.0.1:0"], "listen.proxy"),
        (["serve", "--listen", "127.0.0.1:0", "--admin", &address], "listen.admin"),
    ] {
        let (code, out, err) = run(&mut keytally(&args));
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains(setting) && err.contains(&address) && err.contains("taken"), "{err}");
    }
}

fn written(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn exit_codes_of_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let good = written(dir.path(), "good.yaml", "limits: { keys: 10 }\n");
    let bad = written(dir.path(), "bad.yaml", "limits: { keys: many }\n");
    let nobody = written(dir.path(), "nobody.yaml", "providers: { nobody: {} }\n");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (args, code) in [
        (&["check", "--config", &good][..], 0),
        (&["check", "--config", &bad], 78),
        (&["check", "--config", &nobody], 78),
        (&["serve", "--config", &bad], 78),
        (&["serve", "--config", &nobody], 78),
        (&["--config", "/no/such/file.yaml"], 78),
        (&["schema"], 0),
        (&["--version"], 0),
        (&["--help"], 0),
        (&["no-such-command"], 2),
        (&["serve", "--no-such-flag"], 2),
        (&["fingerprint", "sk-on-the-command-line"], 2),
        (&["fingerprint"], 1),
        (&["fingerprint", "--env", "KEYTALLY_NO_SUCH_VARIABLE"], 1),
        (&["health", "--admin", &closed], 1),
    ] {
        let (got, _, err) = run(&mut keytally(args));
        assert_eq!(got, code, "{args:?}: {err}");
        assert!(!err.contains("panicked"), "{args:?}: {err}");
    }
}

#[test]
fn a_reader_that_goes_away_is_a_normal_end() {
    // `keytally schema | head -1`
    let mut child = keytally(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    {
        let mut out = BufReader::with_capacity(16, child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
    }
    assert_eq!(line, "{\n");
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn records_on_standard_output_and_a_reader_that_leaves() {
    let provider = slow_provider(Duration::ZERO, AnswerEnd::Clean).await;
    let (sender, receiver) = std::sync::mpsc::channel();
    let config = at(provider.address(), "metrics: { birth_hold: 0s }\nexport: { calls: { path: \"-\" } }");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut sidecar = Sidecar::start_with(&config, |command| {
        command.stdout(writer);
    });
    // `| head -1`
    let head = std::thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        sender.send(line).unwrap();
    });
    post_json(sidecar.proxy, CHAT, KEY, ASK).await;
    let line: Value = serde_json::from_str(&receiver.recv_timeout(Duration::from_secs(10)).unwrap()).unwrap();
    assert_eq!(line["outcome"], "ok");
    head.join().unwrap();
    for _ in 0..5 {
        assert_eq!(post_json(sidecar.proxy, CHAT, KEY, ASK).await.head.status, 200, "calls go on");
    }
    sidecar.wait_for_log("standard output");
    let dropped = || async {
        sidecar
            .metrics()
            .await
            .sum("keytally_telemetry_dropped_total", &[("signal", "logs"), ("reason", "export_failed")])
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while dropped().await != Some(5.0) {
        assert!(Instant::now() < deadline, "{:?} drops counted", dropped().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn a_crash_leaves_no_memory_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    // The shell lifts the limit again, as a badly set up host would.
    let crash = |program: &str| {
        let script = format!("ulimit -c unlimited; exec {program}");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Both are up when they have had time to start; the sidecar says so.
        if program.contains("keytally") {
            let mut err = BufReader::new(child.stderr.take().unwrap());
            let mut line = String::new();
            while !line.contains("ready") {
                line.clear();
                assert!(err.read_line(&mut line).unwrap() > 0, "it did not start");
            }
        } else {
            std::thread::sleep(Duration::from_millis(300));
        }
        Command::new("kill").args(["-ABRT", &child.id().to_string()]).status().unwrap();
        child.wait().unwrap()
    };
    let serve = format!("{} serve --listen 127.0.0.1:0 --admin 127.0.0.1:0", env!("CARGO_BIN_EXE_keytally"));
    let status = crash(&serve);
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a file was left");
    // Where the host cannot dump at all, the line above shows nothing, and this says so.
    if !crash("sleep 60").core_dumped() {
        eprintln!("skipped: this host dumps no cores, so that nothing was to be prevented");
    }
}
