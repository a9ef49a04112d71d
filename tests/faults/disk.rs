//! The ledger's disk goes away under load, by becoming read-only and by filling up, and comes back.

use keytally::ledger::Reader;

use super::*;
use crate::support::at_rest::AtRest;
use crate::support::load::provider;
use crate::support::mount::Mount;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledgers_disk_goes_and_comes_under_load() {
    let Some(disk) = Mount::new("8m") else { return };
    let ledger = disk.path().join("ledger.db");
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), &format!("ledger: {{ path: \"{}\" }}", ledger.display())));
    let warmed = warm(&sidecar, provider.address()).await;
    let before = AtRest::of(&sidecar, warmed).await;
    let mut load = Load::start(sidecar.proxy, provider.address(), BUSY);
    load.goes_on(200).await;
    // Filled to the last byte, longer than rows wait.
    let filler = disk.path().join("filler");
    let _ = std::fs::write(&filler, vec![0; 16 << 20]);
    let lost = async || {
        let metrics = sidecar.metrics().await;
        metrics.sum("keytally_telemetry_dropped_total", &[("signal", "ledger")]).unwrap_or(0.0)
    };
    while lost().await == 0.0 {
        load.goes_on(50).await;
    }
    std::fs::remove_file(&filler).unwrap();
    load.goes_on(400).await;
    let made = load.stop().await;
    let rows = || Reader::open(&ledger).and_then(|reader| reader.extent()).map_or(0, |extent| extent.calls);
    before.check(&sidecar, made, &[("ledger", &rows), ("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
    // The last rows came after the disk was back.
    let healed = rows();
    let mut load = Load::start(sidecar.proxy, provider.address(), BUSY);
    load.goes_on(50).await;
    let more = load.stop().await;
    AtRest::of(&sidecar, warmed + made + more).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while rows() < healed + more {
        assert!(std::time::Instant::now() < deadline, "{} rows of {}", rows(), healed + more);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
