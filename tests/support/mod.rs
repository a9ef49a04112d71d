//! The kit of the tests: the real binary as a child process ([`Sidecar`]), a plain HTTP client ([`client`]), metrics read
//! by name and labels ([`metrics`]). The provider is simulated by `keytally::demo::simulator`.

pub mod at_rest;
pub mod client;
pub mod clock;
pub mod collector;
pub mod load;
pub mod metrics;
pub mod mount;
pub mod netns;
pub mod recorded;
pub mod sidecar;
pub mod wire;

pub use client::{get, post_json, send};
pub use metrics::Samples;
pub use sidecar::Sidecar;

use std::path::PathBuf;

/// Where the shared reference data is, if it is there.
pub fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("KEYTALLY_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    path.is_dir().then_some(path)
}

/// A tool that `tests/tools/install.sh` installs, by its path under `target/test-tools`.
pub fn tool(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/test-tools").join(path);
    path.exists().then_some(path)
}

/// Says why a test did not run; where `KEYTALLY_REQUIRE_TOOLS` is set (as `make test` does) that is a failure.
#[track_caller]
pub fn skip(missing: &str) {
    assert!(std::env::var_os("KEYTALLY_REQUIRE_TOOLS").is_none(), "{missing} is missing; run tests/tools/install.sh");
    eprintln!("skipped: {missing} is missing; `make test` installs it");
}
