//! The shipped alert rules: read as written ([`rules`]), tried by promtool ([`cases`]), translated for Grafana and Kubernetes
//! ([`derived`]), routed ([`routing`]), explained ([`runbook`]), and built on nothing that does not exist ([`drift`]).

mod cases;
mod derived;
mod drift;
pub mod promql;
mod routing;
pub mod rules;
mod runbook;
mod simulation;

use std::path::{Path, PathBuf};

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the repository.
#[track_caller]
pub fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names of the files in a directory of the repository with this ending, in order; none if there is no such directory.
pub fn files(directory: &str, ending: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(repository(directory)) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names
}
