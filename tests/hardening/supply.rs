//! What is in the binary, and where it comes from: the bill of materials against Cargo's own tree of dependencies.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{skip, tool};

const TARGET: &str = "x86_64-unknown-linux-musl";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Names and versions of the crates that dependencies of this kind lead to.
fn tree(edges: &str) -> BTreeSet<(String, String)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["tree", "--locked", "--offline", "--prefix", "none", "--target", TARGET, "--edges", edges]);
    let text = run(&mut command);
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
    });
    lines.filter(|(name, _)| name != env!("CARGO_PKG_NAME")).collect()
}

#[test]
fn the_bill_of_materials_is_what_is_in_the_binary() {
    if tool("bin/cargo-cyclonedx").is_none() {
        return skip("cargo-cyclonedx");
    }
    let said = run(Command::new(root().join("deploy/image/sbom.sh")).arg(TARGET));
    let file = root().join(said.trim());
    let text = std::fs::read_to_string(&file).expect("the file that it names");
    let bill: Value = serde_json::from_str(&text).expect("JSON");
    let components = bill["components"].as_array().expect("components");
    for component in components {
        let name = &component["name"];
        let hash = component["hashes"][0]["content"].as_str().unwrap_or_default();
        assert_eq!((hash.len(), &component["hashes"][0]["alg"]), (64, &"SHA-256".into()), "{name}");
        assert!(component["licenses"][0]["expression"].is_string(), "{name} has no license");
        let url = component["purl"].as_str().unwrap_or_default();
        assert!(url.starts_with("pkg:cargo/") && !url.contains('?'), "{name} comes from elsewhere: {url}");
    }
    let text_of = |component: &Value, field: &str| component[field].as_str().unwrap_or_default().to_owned();
    let listed: BTreeSet<_> =
        components.iter().map(|component| (text_of(component, "name"), text_of(component, "version"))).collect();
    let built = tree("normal");
    let missing: Vec<_> = built.difference(&listed).collect();
    assert!(built.len() > 200 && missing.is_empty(), "in the binary and not in the bill: {missing:?}");
    // The tool does not look at each crate's features, and lists a few optional ones that are off.
    let more: BTreeSet<_> = listed.difference(&built).collect();
    assert!(more.len() <= 20, "in the bill and not in the binary: {more:?}");
    let tested: BTreeSet<_> = tree("normal,dev").difference(&tree("normal")).cloned().collect();
    assert!(tested.iter().any(|(name, _)| name == "boon"), "{tested:?}");
    let only_tested: Vec<_> = tested.intersection(&listed).filter(|one| !more.contains(one)).collect();
    assert!(only_tested.is_empty() && !listed.iter().any(|(name, _)| name == "boon"), "only tests use {only_tested:?}");
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "where it was built is nobody's business");

    let Some(python) = tool("venv/bin/python") else { return skip("Python") };
    run(Command::new(python).arg(root().join("tests/hardening/sbom.py")).arg(file));
}
