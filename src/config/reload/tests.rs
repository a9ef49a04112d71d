//! Real files and real changes: what reaches the handle, and what must not.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::super::{Environment, SHUTDOWN_DRAIN, file};
use super::*;

/// Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration that can be told from others by its drain time.
fn text(seconds: u64) -> String {
    format!("shutdown: {{ drain: {seconds}s }}\n")
}

fn start(path: &Path) -> ConfigHandle {
    let source = Source { path: Some(path.to_owned()), env: Environment::of(&[]), ..Source::default() };
    ConfigHandle::start(source).unwrap().0
}

fn drain(handle: &ConfigHandle) -> u64 {
    handle.current().shutdown.drain.as_secs()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A directory, a file in it, and a handle that watches it.
fn watched() -> (TempDir, PathBuf, ConfigHandle, Watch) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keytally.yaml");
    fs::write(&path, text(1)).unwrap();
    let handle = start(&path);
    let watch = handle.watch().unwrap().unwrap();
    (directory, path, handle, watch)
}

#[test]
fn a_file_written_in_place_is_seen() {
    let (_directory, path, handle, _watch) = watched();
    let before = handle.current();
    fs::write(&path, text(2)).unwrap();
    until("the new content", || drain(&handle) == 2);
    assert_eq!(before.shutdown.drain.as_secs(), 1, "who holds a configuration keeps it");
    let status = handle.status();
    assert_eq!((status.successful, status.generation, status.failures), (true, 2, 0));
    assert_eq!(handle.subscribe().borrow().shutdown.drain.as_secs(), 2);
}

#[test]
fn a_file_renamed_over_it_is_seen_again_and_again() {
    let (directory, path, handle, _watch) = watched();
    for n in 2..6 {
        let new = directory.path().join(".keytally.yaml.swp");
        fs::write(&new, text(n)).unwrap();
        fs::rename(&new, &path).unwrap();
        until("the renamed file", || drain(&handle) == n);
    }
}

#[test]
fn a_bad_file_changes_nothing_and_is_counted_once() {
    let (_directory, path, handle, _watch) = watched();
    let before = handle.status();
    for bad in ["shutdown: { drain: soon }\n", "shutdown: [", "", "\u{0}\u{1}"] {
        let failures = handle.status().failures;
        fs::write(&path, bad).unwrap();
        until("a failure", || handle.status().failures > failures);
        assert_eq!(drain(&handle), 1, "{bad:?}");
        assert!(!handle.status().successful);
    }
    let failed = handle.status();
    assert_eq!((failed.generation, failed.last_success), (before.generation, before.last_success));
    assert_eq!(failed.failures, 4);
    // Touched, but the same: not read again.
    fs::write(&path, "\u{0}\u{1}").unwrap();
    std::thread::sleep(QUIET * 4);
    assert_eq!(handle.status().failures, 4);
    // Back to what runs: right again, and still the same generation.
    fs::write(&path, text(1)).unwrap();
    until("success", || handle.status().successful);
    assert_eq!(handle.status().generation, before.generation);
}

#[test]
fn a_file_that_is_deleted_and_made_again_is_seen() {
    let (_directory, path, handle, _watch) = watched();
    fs::remove_file(&path).unwrap();
    until("the loss", || !handle.status().successful);
    assert_eq!(drain(&handle), 1);
    fs::write(&path, text(3)).unwrap();
    until("the new file", || drain(&handle) == 3 && handle.status().successful);
}

#[test]
fn a_directory_that_is_deleted_and_made_again_is_seen() {
    let outer = tempfile::tempdir().unwrap();
    let directory = outer.path().join("a").join("b");
    let path = directory.join("keytally.yaml");
    fs::create_dir_all(&directory).unwrap();
    fs::write(&path, text(1)).unwrap();
    let handle = start(&path);
    let _watch = handle.watch().unwrap().unwrap();
    fs::remove_dir_all(outer.path().join("a")).unwrap();
    until("the loss", || !handle.status().successful);
    fs::create_dir_all(&directory).unwrap();
    fs::write(&path, text(4)).unwrap();
    until("the new directory", || drain(&handle) == 4);
    fs::write(&path, text(5)).unwrap();
    until("a change in it", || drain(&handle) == 5);
}

/// A ConfigMap volume: the file is a link through `..data`, which is renamed over to point at a new directory.
/// Source: Kubernetes, pkg/volume/util/atomic_writer.go.
#[cfg(unix)]
#[test]
fn kubernetes_swaps_are_seen() {
    use std::os::unix::fs::symlink;
    let volume = tempfile::tempdir().unwrap();
    let at = |name: &str| volume.path().join(name);
    let put = |name: &str, seconds: u64| {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("keytally.yaml"), text(seconds)).unwrap();
        symlink(name, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    put("..2026_01", 1);
    symlink("..data/keytally.yaml", at("keytally.yaml")).unwrap();
    let handle = start(&at("keytally.yaml"));
    let _watch = handle.watch().unwrap().unwrap();
    for n in 2..6 {
        put(&format!("..2026_0{n}"), n);
        fs::remove_dir_all(at(&format!("..2026_0{}", n - 1))).unwrap();
        until("the swap", || drain(&handle) == n);
    }
    assert_eq!((handle.status().failures, handle.status().generation), (0, 5));
}

#[cfg(unix)]
#[test]
fn a_link_to_a_file_elsewhere_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let (path, target) = (directory.path().join("keytally.yaml"), elsewhere.path().join("real.yaml"));
    fs::write(&target, text(1)).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    let handle = start(&path);
    let _watch = handle.watch().unwrap().unwrap();
    fs::write(&target, text(2)).unwrap();
    until("the change behind the link", || drain(&handle) == 2);
}

#[test]
fn a_hundred_rewrites_end_with_the_last() {
    let (directory, path, handle, _watch) = watched();
    for n in 2..=101 {
        if n % 2 == 0 {
            fs::write(&path, text(n)).unwrap();
        } else {
            let new = directory.path().join("new");
            fs::write(&new, text(n)).unwrap();
            fs::rename(&new, &path).unwrap();
        }
    }
    until("the last rewrite", || drain(&handle) == 101);
    let status = handle.status();
    assert_eq!((status.successful, status.failures), (true, 0));
    assert!(status.generation < 30, "{} reloads for one burst", status.generation);
}

/// Changes that come without a pause are looked at all the same.
#[test]
fn a_directory_that_is_never_quiet_does_not_hide_a_change() {
    let (directory, path, handle, _watch) = watched();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (noise, stopped) = (directory.path().join("log"), stop.clone());
    let writer = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            fs::write(&noise, "x").unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    fs::write(&path, text(7)).unwrap();
    until("the change", || drain(&handle) == 7);
    assert_eq!(handle.status().generation, 2, "the noise is no change");
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

#[test]
fn a_watch_waits_for_a_directory_that_is_not_there_yet() {
    let outer = tempfile::tempdir().unwrap();
    let path = outer.path().join("later").join("deep").join("keytally.yaml");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let watched = path.clone();
    let watch = watch(
        move || vec![watched.clone()],
        move || {
            counted.fetch_add(1, Ordering::Relaxed);
        },
    )
    .unwrap();
    std::thread::sleep(QUIET * 2);
    assert_eq!(calls.load(Ordering::Relaxed), 0, "nothing has happened");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "x").unwrap();
    until("a call", || calls.load(Ordering::Relaxed) > 0);
    drop(watch);
    let after = calls.load(Ordering::Relaxed);
    fs::write(&path, "y").unwrap();
    std::thread::sleep(QUIET * 3);
    assert_eq!(calls.load(Ordering::Relaxed), after, "a dropped watch is silent");
}

/// As on a file system that reports nothing.
#[test]
fn without_notifications_the_file_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    fs::write(&path, "a").unwrap();
    let mut silent = Watched { notify: None, directories: BTreeMap::new(), failed: false };
    silent.refresh(std::slice::from_ref(&path));
    assert!(silent.directories.is_empty());
    let first = Look::at(&path);
    assert_eq!(first, Look::at(&path));
    std::thread::sleep(Duration::from_millis(30));
    fs::write(&path, "b").unwrap();
    let second = Look::at(&path);
    assert_ne!(first, second, "same size, other time");
    assert!(!second.is_settled());
    until("the file to settle", || Look::at(&path).is_settled());
    fs::remove_file(&path).unwrap();
    assert_ne!(second, Look::at(&path));
}

/// What happened between the first reading and the watch is not lost.
#[test]
fn a_change_before_the_watch_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keytally.yaml");
    fs::write(&path, text(1)).unwrap();
    let handle = start(&path);
    fs::write(&path, text(2)).unwrap();
    let _watch = handle.watch().unwrap().unwrap();
    assert_eq!(drain(&handle), 2);
}

#[test]
fn a_signal_reads_references_again_and_a_watch_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keytally.yaml");
    fs::write(&path, text(1)).unwrap();
    let variable = Arc::new(Mutex::new("a".to_owned()));
    let seen = variable.clone();
    let env = Environment::from_fn(move |name| {
        (name == "KEYTALLY_LABELS").then(|| format!("app={}", seen.lock().unwrap()).into())
    });
    let source = Source { path: Some(path), env, ..Source::default() };
    let (handle, _) = ConfigHandle::start(source).unwrap();
    *variable.lock().unwrap() = "b".to_owned();
    assert_eq!(handle.reload(false), Reload::Unchanged);
    assert_eq!(handle.current().app(), Some("a"));
    assert_eq!(handle.reload(true), Reload::Changed);
    assert_eq!(handle.current().app(), Some("b"));
    assert_eq!(handle.reload(true), Reload::Unchanged);
    assert_eq!(handle.status().generation, 2);
}

#[test]
fn without_a_file_there_is_nothing_to_watch() {
    let source = Source { env: Environment::of(&[]), ..Source::default() };
    let (handle, _) = ConfigHandle::start(source).unwrap();
    assert!(handle.watch().unwrap().is_none());
    assert_eq!(handle.current().shutdown.drain, SHUTDOWN_DRAIN);
    assert_eq!(handle.reload(true), Reload::Unchanged);
}

/// What the schema calls "read at start" is kept, everything else is replaced.
#[test]
fn settings_that_need_a_restart_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keytally.yaml");
    let schema = file::schema();
    let changes = [
        ("listen", "{ admin: '127.0.0.1:9' }"),
        ("providers", "{ x: { base_url: 'http://x' } }"),
        ("keys", "[{ fingerprint: 'a:0123456789ab', name: a }]"),
        ("key_defaults", "{ anomaly_ratio: 9 }"),
        ("prices", "{ book: /b }"),
        ("rules", "[{ id: a, outcome: ok, statuses: [418] }]"),
        ("accounts", "{ 01234567: a }"),
        ("fingerprint", "{ salt: { file: SALT } }"),
        ("labels", "{ app: a }"),
        ("usage", "{ inject: true }"),
        ("export", "{ calls: { path: '-' }, otlp: { endpoint: 'http://o' } }"),
        ("ledger", "{ path: ledger.db }"),
        ("trace", "{ sample: 0.5 }"),
        ("metrics", "{ max_series: 999 }"),
        ("limits", "{ keys: 9 }"),
        ("upstream", "{ http2: false }"),
        ("tls", "{ intercept: off }"),
        ("forward", "{ tunnels: off }"),
        ("shutdown", "{ drain: 9s }"),
        ("log", "{ level: error }"),
    ];
    let sections: Vec<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(sections, changes.map(|(name, _)| name), "a section without a change in this test");
    let salt = directory.path().join("salt");
    fs::write(&salt, "made-up-salt").unwrap();
    for (section, value) in changes {
        fs::write(&path, "# none\n").unwrap();
        let handle = start(&path);
        let before = handle.current();
        fs::write(&path, format!("{section}: {}\n", value.replace("SALT", &salt.display().to_string()))).unwrap();
        let restart = schema["properties"][section]["x-restart"] == true;
        let expected = if restart { Reload::Unchanged } else { Reload::Changed };
        assert_eq!(handle.reload(false), expected, "{section}");
        assert_eq!(*handle.current() == *before, restart, "{section}");
        assert!(handle.status().successful);
    }
}
