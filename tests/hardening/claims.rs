//! docs/security.md against the tests that it names.

use std::path::{Path, PathBuf};

/// Files in which a test of this path may stand: `tests/a/b.rs` or `src/a/b.rs`, or with the last modules inside a file.
fn places(modules: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    for length in (1..=modules.len()).rev() {
        let path = modules[..length].join("/");
        all.extend(["tests", "src"].map(|top| root.join(top).join(format!("{path}.rs"))));
        all.extend(["tests", "src"].map(|top| root.join(top).join(&path).join("mod.rs")));
    }
    all
}

fn is_test(name: &str) -> bool {
    let modules: Vec<_> = name.split("::").collect();
    let Some((function, modules)) = modules.split_last() else { return false };
    places(modules).iter().filter_map(|path| std::fs::read_to_string(path).ok()).any(|text| {
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let is_it = |line: &str| {
            let line = line.strip_prefix("async ").unwrap_or(line);
            line.strip_prefix("fn ")
                .and_then(|rest| rest.strip_prefix(function))
                .is_some_and(|rest| rest.starts_with('('))
        };
        let at = lines.iter().position(|line| is_it(line));
        at.is_some_and(|at| {
            lines[at.saturating_sub(4)..at].iter().any(|line| line.starts_with("#[") && line.contains("test"))
        })
    })
}

#[test]
fn every_test_that_is_named_exists() {
    let text = include_str!("../../docs/security.md");
    // A name in brackets that is no link.
    let mut named: Vec<_> = text
        .split('[')
        .skip(1)
        .filter_map(|rest| rest.split_once(']'))
        .filter(|(name, after)| !after.starts_with('(') && name.contains("::"))
        .map(|(name, _)| name)
        .collect();
    named.sort_unstable();
    named.dedup();
    assert!(named.len() > 30, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !is_test(name)).collect();
    assert!(missing.is_empty(), "docs/security.md names tests that do not exist: {missing:#?}");
    assert!(!is_test("hardening::claims::no_such_test") && !is_test("hardening::claims::is_test"));
}
