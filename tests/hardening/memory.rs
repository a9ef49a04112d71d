//! The memory of a sidecar after calls with a key: how often the key's bytes are still there, once its calls have ended and
//! their connections are closed.
//!
//! keytally's own copies are wiped (`call::ApiKey`). What is left are the buffers in which the HTTP implementation had the
//! request's head, on either side: they are given back to the allocator as they are, and are there until they are used again.

use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use keytally::demo::simulator::{Answer, Simulator};

use crate::support::{Sidecar, post_json, skip};

const CHAT: &str = "/openai/v1/chat/completions";
const OK: &str = r#"{"object":"chat.completion","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;

/// How often `wanted` stands in writable memory of the process.
fn places(pid: u32, wanted: &str) -> std::io::Result<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut found = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let Some((start, end)) = range.split_once('-').filter(|_| rights.starts_with("rw")) else { continue };
        let number = |text| u64::from_str_radix(text, 16).expect("an address");
        let (start, end) = (number(start), number(end));
        let mut bytes = vec![0; (end - start) as usize];
        memory.seek(SeekFrom::Start(start))?;
        // A mapping may have gone meanwhile.
        if memory.read_exact(&mut bytes).is_ok() {
            found += memchr::memmem::find_iter(&bytes, wanted).count();
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn few_copies_of_a_key_outlive_its_calls_and_other_calls_wipe_them() {
    if !rustix::process::geteuid().is_root() {
        return skip("root");
    }
    let provider = Simulator::start(|_| Answer::new(200, "application/json", OK)).await.expect("it starts");
    let config = format!("providers: {{ openai: {{ base_url: \"http://{}\" }} }}", provider.address());
    let sidecar = Sidecar::start(&config);
    let key = "sk-made-up-canary-in-memory-0123456789abcdef";
    for _ in 0..50 {
        post_json(sidecar.proxy, CHAT, key, "{}").await;
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    while sidecar.records().len() < 50 {
        assert!(Instant::now() < deadline, "{} of 50 records", sidecar.records().len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = places(sidecar.pid(), key).expect("root may");
    eprintln!("{after} copies after 50 calls, each on a connection of its own");
    assert!(after <= 20, "{after} copies of a key after 50 calls: something keeps them");

    let deadline = Instant::now() + Duration::from_secs(120);
    let mut others = 0;
    let left = loop {
        for _ in 0..100 {
            post_json(sidecar.proxy, CHAT, "sk-made-up-other-key-00000000000000000000000", "{}").await;
        }
        others += 100;
        let left = places(sidecar.pid(), key).expect("root may");
        if left <= 1 || Instant::now() > deadline {
            break left;
        }
    };
    eprintln!("{left} copies after {others} calls with another key");
    assert!(left <= 1, "{left} copies are still there after {others} calls with another key");
}
