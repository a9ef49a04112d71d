//! A full disk, a read-only one, a damaged file: calls pass, what is lost is counted, and it heals without a restart.

use super::*;
use crate::support::mount::Mount;

/// A loss shows at once, not when a scraper has seen its counter at 0.
const COUNTED: &str = "metrics: { birth_hold: 0s }";

#[tokio::test]
async fn a_full_disk_is_counted_and_heals() {
    let Some(disk) = Mount::new("1m") else { return };
    let ledger = disk.path().join("ledger.db");
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), &ledger, COUNTED));
    assert_eq!(call(&sidecar, KEYS[0], "gpt-4o").await, 200);
    wait_for_rows(&ledger, 1).await;

    let filler = disk.path().join("filler");
    let _ = std::fs::write(&filler, vec![0; 2 << 20]);
    let mut calls = 1;
    // The write-ahead log has room in its last page; then there is no more.
    wait_until("the disk is full", async || {
        assert_eq!(call(&sidecar, KEYS[0], "gpt-4o").await, 200);
        calls += 1;
        !health(&sidecar).await.0
    })
    .await;
    let (_, detail) = health(&sidecar).await;
    assert!(detail.contains("ledger.db: the disk is full; free some space"), "{detail}");
    assert_eq!(dropped(&sidecar).await, 0.0, "rows wait at first");
    wait_until("rows are given up", async || dropped(&sidecar).await > 0.0).await;
    assert_eq!(call(&sidecar, KEYS[0], "gpt-4o").await, 200, "calls pass");
    calls += 1;

    std::fs::remove_file(&filler).unwrap();
    wait_until("it heals", async || health(&sidecar).await == (true, ledger.display().to_string())).await;
    assert_eq!(call(&sidecar, KEYS[0], "gpt-4o").await, 200);
    calls += 1;
    // Every call is in the ledger, or counted.
    wait_until("all are accounted for", async || {
        let lost = dropped(&sidecar).await as u64;
        let written = Reader::open(&ledger).unwrap().extent().unwrap().calls;
        assert!(written + lost <= calls, "{written} + {lost} of {calls}");
        written + lost == calls
    })
    .await;
    assert!(sidecar.log().contains("\"sink\":\"ledger\""), "{}", sidecar.log());
}

#[tokio::test]
async fn a_short_trouble_costs_nothing() {
    let Some(disk) = Mount::new("2m") else { return };
    disk.remount("ro");
    let ledger = disk.path().join("ledger.db");
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), &ledger, COUNTED));
    assert_eq!(call(&sidecar, KEYS[0], "gpt-4o").await, 200);
    let (healthy, detail) = health(&sidecar).await;
    assert!(!healthy && detail.contains("Read-only file system"), "{detail}");
    disk.remount("rw");
    wait_until("it heals", async || health(&sidecar).await.0).await;
    wait_for_rows(&ledger, 1).await;
    assert_eq!(dropped(&sidecar).await, 0.0);
}

#[tokio::test]
async fn a_damaged_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.db");
    let garbage = b"this was a ledger once, before something else wrote over it ".repeat(100);
    std::fs::write(&ledger, &garbage).unwrap();
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), &ledger, COUNTED));
    assert_eq!(call(&sidecar, KEYS[0], "gpt-4o").await, 200);
    let (healthy, detail) = health(&sidecar).await;
    assert!(!healthy && detail.contains("the file is damaged") && detail.contains("move it away"), "{detail}");
    wait_until("the row is counted", async || dropped(&sidecar).await == 1.0).await;
    let (code, _, err) = run(&["usage", "--ledger", ledger.to_str().unwrap()]);
    assert!(code == 1 && err.contains("the file is damaged"), "{err}");
    assert_eq!(std::fs::read(&ledger).unwrap(), garbage);

    std::fs::rename(&ledger, dir.path().join("away.db")).unwrap();
    wait_until("it heals", async || health(&sidecar).await.0).await;
    assert_eq!(call(&sidecar, KEYS[0], "gpt-4o").await, 200);
    wait_for_rows(&ledger, 1).await;
}

#[tokio::test]
async fn a_removed_file_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.db");
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), &ledger, COUNTED));
    call(&sidecar, KEYS[0], "gpt-4o").await;
    wait_for_rows(&ledger, 1).await;
    std::fs::rename(&ledger, dir.path().join("away.db")).unwrap();
    sidecar.wait_for_log("the ledger was moved or removed");
    call(&sidecar, KEYS[0], "gpt-4o").await;
    wait_for_rows(&ledger, 1).await;
    assert_eq!(dropped(&sidecar).await, 0.0);
}

/// A ledger that a reload begins while somebody else writes the file: it waits for its turn, as the status says.
#[tokio::test]
async fn a_ledger_that_is_begun_waits_for_another_writer() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.db");
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), &ledger, COUNTED).replace("ledger:", "# ledger:"));
    let other = std::fs::File::create(dir.path().join("ledger.db.lock")).unwrap();
    other.lock().unwrap();
    let with_ledger = std::fs::read_to_string(sidecar.config_file()).unwrap().replace("# ledger:", "ledger:");
    std::fs::write(sidecar.config_file(), with_ledger).unwrap();
    sidecar.signal("HUP");
    wait_until("there is a ledger", async || {
        let status = get(sidecar.admin, "/status").await.json();
        status["exporters"].as_array().expect("exporters").iter().any(|exporter| exporter["name"] == "ledger")
    })
    .await;
    let (healthy, detail) = health(&sidecar).await;
    assert!(!healthy && detail.contains("writes this ledger"), "{detail}");
    assert_eq!(call(&sidecar, KEYS[0], "gpt-4o").await, 200);
    // Rows wait, and are given up at last.
    wait_until("the row is counted", async || dropped(&sidecar).await == 1.0).await;

    drop(other);
    wait_until("it heals", async || health(&sidecar).await == (true, ledger.display().to_string())).await;
    assert_eq!(call(&sidecar, KEYS[0], "gpt-4o").await, 200);
    wait_for_rows(&ledger, 1).await;
}
