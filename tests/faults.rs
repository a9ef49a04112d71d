//! Faults around the sidecar, while calls go on. Whatever happens: no call fails that would not have failed without the
//! sidecar, no record is lost without being counted, nothing hangs, and memory and descriptors come back
//! (`tests/support/at_rest.rs`). Losses of the ledger's disk are also in `tests/ledger/`, kills in `tests/ledger/crash.rs`,
//! hostile bytes in `tests/bad_input.rs`.

mod clock;
mod collector;
mod config;
mod connections;
mod disk;
mod drain;
mod link;
mod resets;
mod scrapes;
mod vanished;

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::Sidecar;
use crate::support::load::{Kind, Load, Pace};

const CHAT: &str = "/openai/v1/chat/completions";
const KEY: &str = "sk-made-up-key-for-faults";
const ASK: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}"#;

/// What may stay with a debug build after a load: allocator caches, and tables that were empty before.
const GROWTH_BYTES: u64 = 24 << 20;

/// Counters show at once, and unused connections close soon, so that a sidecar at rest holds none.
const AT_ONCE: &str = "metrics: { birth_hold: 0s }\nupstream: { pool_idle_timeout: 1s }\n";

/// Eight applications that ask without pause to think.
const BUSY: Pace = Pace { workers: 8, kinds: &Kind::ORDINARY, every: Duration::from_millis(10) };

/// A configuration with this provider.
fn config(provider: SocketAddr, more: &str) -> String {
    format!("providers: {{ openai: {{ base_url: \"http://{provider}\" }} }}\n{AT_ONCE}{more}\n")
}

/// What is loaded once is loaded by this: price book, tokenizer for answers that break off, runtime threads. How many calls
/// that took.
async fn warm(sidecar: &Sidecar, provider: SocketAddr) -> u64 {
    let kinds = &[Kind::Plain, Kind::Stream, Kind::Plain, Kind::Left];
    let mut load = Load::start(sidecar.proxy, provider, Pace { kinds, ..BUSY });
    load.goes_on(100).await;
    load.stop().await
}

/// Lines of the call log so far.
fn lines(sidecar: &Sidecar) -> u64 {
    let text = std::fs::read(sidecar.dir().join("calls.jsonl")).unwrap_or_default();
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}
