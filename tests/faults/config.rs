//! The configuration file is rewritten a hundred times a second, right, wrong and cut off, while calls go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::support::at_rest::AtRest;
use crate::support::load::provider;
use crate::support::post_json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rewrites_a_second() {
    let provider = provider().await;
    let sidecar = Sidecar::start(&config(provider.address(), ""));
    let warmed = warm(&sidecar, provider.address()).await;
    let before = AtRest::of(&sidecar, warmed).await;
    let file = sidecar.config_file();
    let good = std::fs::read_to_string(&file).unwrap();
    let mut load = Load::start(sidecar.proxy, provider.address(), BUSY);
    let stop = Arc::<AtomicBool>::default();
    let stopped = Arc::clone(&stop);
    let (path, text) = (file.clone(), good.clone());
    let writer = std::thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(7);
        let beside = path.with_extension("new");
        for number in 0_usize.. {
            if stopped.load(Ordering::Relaxed) {
                return number;
            }
            let right = format!("{text}labels: {{ round: \"{number}\" }}\n");
            let content = match number % 4 {
                0 => right.clone().into_bytes(),
                // As somebody sees it who reads while it is written.
                1 => right.as_bytes()[..random.usize(..right.len())].to_vec(),
                2 => format!("{right}providers: {{ no such thing\n").into_bytes(),
                _ => (0..200).map(|_| random.u8(..)).collect(),
            };
            // In place, and as tools do that write beside and rename.
            if number.is_multiple_of(3) {
                std::fs::write(&beside, content).and_then(|()| std::fs::rename(&beside, &path)).unwrap();
            } else {
                std::fs::write(&path, content).unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        unreachable!("the writer counts until it is told to stop")
    });
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while std::time::Instant::now() < until {
        load.goes_on(10).await;
    }
    stop.store(true, Ordering::Relaxed);
    let rewrites = writer.join().unwrap();
    println!("{rewrites} rewrites");
    assert!(rewrites > 300, "{rewrites} rewrites in 10 s");

    // The last word holds, whatever was read before.
    std::fs::write(
        &file,
        good.replace("  openai:", "openai:").replacen(
            "openai:",
            "late: { protocol: openai-chat, base_url: \"http://127.0.0.1:1\" }, openai:",
            1,
        ),
    )
    .unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let mut extra = 0;
    loop {
        extra += 1;
        let status = post_json(sidecar.proxy, "/late/v1/chat/completions", KEY, ASK).await.head.status;
        if status == 502 {
            break;
        }
        assert_eq!(status, 404);
        assert!(std::time::Instant::now() < deadline, "the last content is not taken; log:\n{}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(sidecar.metrics().await.sum("keytally_config_last_reload_successful", &[]), Some(1.0));
    load.goes_on(100).await;
    let made = load.stop().await + extra;
    before.check(&sidecar, made, &[("logs", &|| lines(&sidecar))], GROWTH_BYTES).await;
}
