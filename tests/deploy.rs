//! What is in `deploy/`: each manifest is read by the tool that users will read it with, and what can be run here is run.
//!
//! [`image`] builds, starts and asks the container image; [`compose`], [`kubernetes`] and [`systemd`] validate theirs and hold
//! them against the code: mounted paths, addresses, variables, configuration.

mod compose;
mod image;
mod kubernetes;
mod systemd;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A path of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the repository.
#[track_caller]
fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs it; its output when it succeeded.
#[track_caller]
fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// A program of the system, if it is installed.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Every document of a YAML text.
#[track_caller]
fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The document of this kind and, unless it is empty, name.
#[track_caller]
fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    documents
        .iter()
        .find(|document| document["kind"] == kind && (name.is_empty() || document["metadata"]["name"] == name))
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// `keytally check` must accept this configuration.
#[track_caller]
fn check(config: &str) {
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = folder.path().join("keytally.yaml");
    std::fs::write(&file, config).expect("written");
    run(Command::new(env!("CARGO_BIN_EXE_keytally")).arg("check").arg("--config").arg(&file));
}

/// What `keytally demo --print-config` prints.
fn demo_config() -> String {
    run(Command::new(env!("CARGO_BIN_EXE_keytally")).args(["demo", "--print-config"]))
}

/// The name of the image in every manifest: this version of it.
fn image_name() -> String {
    format!("localhost/keytally:{}", env!("CARGO_PKG_VERSION"))
}

/// A port that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port()
}
