//! keytally: a sidecar between an application and the LLM APIs that it calls.
//!
//! The life of one call, in reading order:
//! 1. [`listen`] accepts it; 2. [`provider`] recognises whose call it is and reads the key; 3. [`tap`] watches the
//!    request pass; 4. [`upstream`] sends it on; 5. [`tap`] and [`protocol`] watch the answer pass; 6. [`meter`] turns
//!    what was seen into one [`call::CallRecord`]; 7. [`export`] and [`admin`] show it.
//!
//! [`proxy`] is the spine that joins stages 2 to 5; [`app`] builds every room once and drains them on shutdown.

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod call;
pub mod cli;
pub mod config;
pub mod demo;
pub mod export;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod ledger;
pub mod listen;
pub mod meter;
pub mod protocol;
pub mod provider;
pub mod proxy;
mod recent;
pub mod tap;
mod terminal;
pub mod upstream;

/// Git revision of this build; `unknown` when the build did not set `KEYTALLY_REVISION`.
pub const REVISION: &str = match option_env!("KEYTALLY_REVISION") {
    Some(revision) if !revision.is_empty() => revision,
    _ => "unknown",
};
