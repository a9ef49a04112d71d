//! The call log: what a line says, and what happens to the file under it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn start(path: &Path) -> (Exports, Arc<Counted>) {
    let counted = Arc::new(Counted::default());
    let settings = ExportSettings { log: Some(LogTarget::from(path)), ..ExportSettings::default() };
    (Exports::start(&settings, Box::new(|_, _| ()), counted.clone()).unwrap(), counted)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn failed(counted: &Counted) -> u64 {
    counted.get(Signal::Logs, DropReason::ExportFailed)
}

#[test]
fn a_whole_line() {
    let expected = json!({
        "time": "2026-01-02T03:04:05.678Z",
        "call_id": "01942f6e5a2b7c3d8e4f5061728394a5",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "1122334455667788",
        "parent_span_id": "b7ad6b7169203331",
        "way": "base_url",
        "provider": "openai",
        "operation": "chat",
        "protocol": "openai-chat",
        "request_model": "gpt-5",
        "response_model": "gpt-5-2025-08-07",
        "priced_model": "gpt-5",
        "key": "openai:3f9a0c41b2d7",
        "key_name": "search-prod",
        "team": "search",
        "env": "prod",
        "client": "search-api",
        "labels": { "region": "eu" },
        "status": 200,
        "outcome": "ok",
        "fault": "none",
        "retryable": false,
        "provider_request_id": "req_made_up",
        "stream": true,
        "end": "complete",
        "usage": {
            "input_tokens": 1200,
            "output_tokens": 340,
            "cache_read_tokens": 1000,
            "cache_write_tokens": 100,
            "reasoning_tokens": 300,
            "input_audio_tokens": 11,
            "output_audio_tokens": 12,
            "input_image_tokens": 13,
            "output_image_tokens": 14
        },
        "usage_source": "reported",
        "cost_usd": "0.003775",
        "service_tier": "default",
        "duration_seconds": 12.345678,
        "time_to_first_token_seconds": 0.75,
        "upstream_connect_seconds": 0.035,
        "overhead_seconds": 0.0002,
        "request_bytes": 210,
        "response_bytes": 9876,
        "retry_count": 2,
        "findings": ["org_header_set", "shared_key"]
    });
    // As text, so that the order counts.
    assert_eq!(to_json(&full()).to_string(), expected.to_string());
    let bare = json!({
        "time": "2026-01-02T03:04:05.678Z",
        "call_id": "01942f6e5a2b7c3d8e4f5061728394a5",
        "trace_id": "0000000000000000000000000000abcd",
        "span_id": "0000000000001234",
        "way": "base_url",
        "provider": "openai",
        "operation": "chat",
        "protocol": "openai-chat",
        "outcome": "network_error",
        "fault": "network",
        "retryable": true,
        "stream": false,
        "end": "no_answer",
        "usage_source": "none",
        "duration_seconds": 1.5,
        "overhead_seconds": 0.0,
        "request_bytes": 210,
        "response_bytes": 0,
        "retry_count": 0
    });
    assert_eq!(to_json(&super::bare()).to_string(), bare.to_string());
}

/// Both ways: no field outside the list, none in it that no call can have; the order; and the same list in the document.
#[test]
fn the_list_the_code_and_the_document_agree() {
    let mut whole = full();
    whole.unpriced_tokens = 1;
    let usage = &mut whole.usage;
    for part in [
        &mut usage.cache_write_1h_tokens,
        &mut usage.cache_audio_read_tokens,
        &mut usage.tool_input_tokens,
        &mut usage.web_searches,
        &mut usage.file_searches,
        &mut usage.search_units,
        &mut usage.images,
        &mut usage.input_audio_millis,
        &mut usage.input_characters,
        &mut usage.pages,
    ] {
        *part = Some(1);
    }
    let mut seen = BTreeSet::new();
    for record in [whole, refused(), bare()] {
        let mut places = Vec::new();
        for (name, value) in to_json(&record).as_object().unwrap() {
            places.push(name.clone());
            if name == "usage" {
                places.extend(value.as_object().unwrap().keys().map(|part| format!("usage.{part}")));
            }
        }
        let order: Vec<_> = places.iter().map(|name| FIELDS.iter().position(|field| field == name)).collect();
        assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{places:?}");
        seen.extend(places);
    }
    let listed: BTreeSet<String> = FIELDS.iter().map(|field| (*field).to_owned()).collect();
    assert_eq!(seen, listed);
    let documented: Vec<String> =
        documented(include_str!("../../../docs/call-record.md")).into_iter().map(|(name, _)| name).collect();
    assert_eq!(documented, FIELDS, "docs/call-record.md against FIELDS, in order");
}

#[tokio::test]
async fn lines_are_appended_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("calls.jsonl");
    fs::write(&path, "{\"an\":\"older line\"}\n{\"cut\":").unwrap();
    let (exports, counted) = start(&path);
    for _ in 0..50 {
        exports.record(Arc::new(full()));
    }
    assert_eq!(exports.flush(Duration::from_secs(10)).await, 0);
    let text = fs::read_to_string(&path).unwrap();
    let rest =
        text.strip_prefix("{\"an\":\"older line\"}\n{\"cut\":\n").expect("a cut line is closed, then lines follow");
    let expected = to_json(&full()).to_string();
    assert_eq!(rest.lines().filter(|line| *line == expected).count(), 50);
    assert_eq!((rest.lines().count(), counted.total(Signal::Logs)), (50, 0));
    exports.record(Arc::new(full()));
    assert_eq!(counted.get(Signal::Logs, DropReason::Shutdown), 1, "after shutdown nothing is taken");
}

#[tokio::test]
async fn a_rotated_file_is_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("calls.jsonl"), directory.path().join("calls.jsonl.1"));
    let (exports, counted) = start(&path);
    exports.record(Arc::new(full()));
    wait_until("first line", || lines(&path).len() == 1).await;

    // By signal: at once.
    fs::rename(&path, &old).unwrap();
    exports.reopen();
    exports.record(Arc::new(full()));
    wait_until("a new file", || lines(&path).len() == 1).await;
    assert_eq!(lines(&old).len(), 1);

    // Without one: within a second or so; in between lines go to the old file and are not lost. Some rotations leave the
    // name free, some put an empty file there.
    let mut kept = vec![old];
    let sent = std::sync::atomic::AtomicUsize::new(2);
    for recreated in [false, true] {
        kept.push(directory.path().join(format!("calls.jsonl.{}", kept.len() + 1)));
        fs::rename(&path, kept.last().unwrap()).unwrap();
        if recreated {
            fs::write(&path, "").unwrap();
        }
        wait_until("noticed", || {
            exports.record(Arc::new(full()));
            sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            fs::metadata(&path).is_ok_and(|file| file.len() > 0)
        })
        .await;
    }
    exports.flush(Duration::from_secs(10)).await;
    kept.push(path);
    let found: usize = kept.iter().map(|path| lines(path).len()).sum();
    assert_eq!((found, counted.total(Signal::Logs)), (sent.into_inner(), 0));
}

#[tokio::test]
async fn a_truncated_file_goes_on_from_its_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("calls.jsonl");
    let (exports, _) = start(&path);
    exports.record(Arc::new(full()));
    wait_until("first line", || lines(&path).len() == 1).await;
    fs::File::create(&path).unwrap();
    exports.record(Arc::new(refused()));
    exports.flush(Duration::from_secs(10)).await;
    let found = lines(&path);
    assert_eq!((found.len(), &found[0]["outcome"]), (1, &json!("rate_limit_tokens")));
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_counted_and_heals() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("not-there-yet").join("calls.jsonl");
    let (exports, counted) = start(&path);
    exports.record(Arc::new(full()));
    wait_until("counted", || failed(&counted) == 1).await;
    fs::create_dir(path.parent().unwrap()).unwrap();
    let mut sent = 1;
    while lines(&path).is_empty() {
        exports.record(Arc::new(full()));
        sent += 1;
        assert!(sent < 2_000, "never healed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    exports.flush(Duration::from_secs(10)).await;
    assert_eq!(lines(&path).len() as u64 + failed(&counted), sent, "each line is written or counted");
}

#[tokio::test]
async fn a_full_disk_is_counted_and_heals() {
    let full_device = Path::new("/dev/full");
    if !full_device.exists() {
        println!("skipped: no /dev/full here");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("calls.jsonl");
    std::os::unix::fs::symlink(full_device, &path).unwrap();
    let (exports, counted) = start(&path);
    for n in 1..=20 {
        exports.record(Arc::new(full()));
        wait_until("counted", || failed(&counted) == n).await;
    }
    fs::remove_file(&path).unwrap();
    exports.reopen();
    exports.record(Arc::new(full()));
    exports.flush(Duration::from_secs(10)).await;
    assert_eq!((lines(&path).len(), counted.total(Signal::Logs)), (1, 20));
}

#[tokio::test]
async fn a_stuck_disk_neither_blocks_nor_grows() {
    // A pipe that nobody reads: opened for both ends so that opening does not wait, filled up so that writing does.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: no mkfifo here");
        return;
    }
    let reader = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (exports, counted) = start(&path);
    let began = std::time::Instant::now();
    for _ in 0..10_000 {
        exports.record(Arc::new(full()));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "recording does not wait: {:?}", began.elapsed());
    assert!(counted.get(Signal::Logs, DropReason::QueueFull) > 1_000);
    let began = std::time::Instant::now();
    let left = exports.flush(Duration::from_millis(200)).await as u64;
    assert!(began.elapsed() < Duration::from_secs(2));
    assert!(left > 0);
    assert_eq!(counted.get(Signal::Logs, DropReason::Shutdown), left);
    drop(reader);
}

/// Runs itself as a child whose standard output is a pipe that is closed after the first line.
#[tokio::test]
async fn a_reader_of_standard_output_that_goes_away_ends_the_log_only() {
    const CHILD: &str = "KEYTALLY_TEST_STDOUT_CHILD";
    if let Ok(report) = std::env::var(CHILD) {
        let (exports, counted) = start(Path::new("-"));
        exports.record(Arc::new(full()));
        let go = Path::new(&report).with_extension("go");
        wait_until("the parent has closed the pipe", || go.exists()).await;
        for _ in 0..5 {
            exports.record(Arc::new(full()));
        }
        exports.flush(Duration::from_secs(10)).await;
        fs::write(report, failed(&counted).to_string()).unwrap();
        // Before the test harness prints to the closed pipe.
        std::process::exit(0);
    }
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report");
    let name = "a_reader_of_standard_output_that_goes_away_ends_the_log_only";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--nocapture", "--test-threads=1"])
        .env(CHILD, &report)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let line = {
        use std::io::BufRead as _;
        let printed = std::io::BufReader::new(child.stdout.take().unwrap());
        printed.lines().map_while(Result::ok).find(|line| line.contains("call_id")).unwrap()
    };
    assert!(line.ends_with(&to_json(&full()).to_string()), "{line}");
    fs::write(report.with_extension("go"), "").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_to_string(&report).unwrap(), "5", "all lines after the end are counted");
}
