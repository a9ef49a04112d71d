//! Every promise over its seeds and over mutations of them, the same each time; `make fuzz` goes on from there.

use std::path::PathBuf;

use super::*;

/// Longest mutation; longer inputs are left to the fuzzer.
const LONGEST: usize = 6 * 1024;

/// Which part of the seeds is tried (1 in n), and how many mutations of all of them: two or three seconds each in a debug build.
fn effort(name: &str) -> (usize, usize) {
    match name {
        // All rules over each answer. The recorded errors have tests of their own.
        "rules" | "explain" | "answer_head" => (8, 100),
        "config" | "inject" => (1, 200),
        "request_head" | "decompress" | "event_stream" | "answer" => (1, 800),
        _ => (1, 2000),
    }
}

/// What fuzzers put in: the marks of the formats, and numbers at the edges.
const TOKENS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"\\u",
    b"\\ud83d",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"\r\n",
    b"\n\n",
    b"data:",
    b"event: error\n",
    b"data: [DONE]\n\n",
    b"error:",
    b"retry:",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\0",
    b"\xe2\x82",
    b"18446744073709551615",
    b"\"usage\":{",
    b"\"error\":",
    b"--cut",
    b"<html>",
    b"{key}",
    b"%00",
    b": ",
    b"\t",
    b"&a ",
    b"*a",
    b"!!int ",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80",
    b"\x1b[31m",
];

fn mutated(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(24)).min(bytes.len());
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].repeat(1 + random.below(40));
                bytes.splice(at..at, copy);
            }
            4 => bytes.truncate(at),
            5 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            6 if at < bytes.len() => {
                let token = TOKENS[random.below(TOKENS.len())];
                bytes.splice(at..end, token.iter().copied());
            }
            _ => {
                let token = TOKENS[random.below(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// The input that broke the promise, as a test can hold it.
fn run(target: &Target, data: &[u8]) {
    struct OnPanic<'a>(&'a str, &'a [u8]);
    impl Drop for OnPanic<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{}: b\"{}\"", self.0, self.1.escape_ascii());
            }
        }
    }
    let _shown = OnPanic(target.name, data);
    (target.check)(data);
}

fn holds(name: &str) {
    let target = target(name);
    let seeds = seeds::of(name);
    assert!(!seeds.is_empty());
    run(target, &[]);
    let (stride, mutations) = effort(name);
    seeds.iter().filter(|seed| seed.len() <= 4 * LONGEST).step_by(stride).for_each(|seed| run(target, seed));
    let short: Vec<Vec<u8>> = seeds.into_iter().filter(|seed| seed.len() <= LONGEST).collect();
    let mut random = Random(name.len() as u64);
    for _ in 0..mutations {
        let data = mutated(&mut random, &short);
        run(target, &data);
    }
}

macro_rules! promises {
    ($($name:ident),+ $(,)?) => {
        $(#[test] fn $name() { holds(stringify!($name)); })+

        #[test]
        fn every_target_is_tried() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),+]);
        }
    };
}

promises!(
    answer,
    event_stream,
    json,
    decompress,
    request,
    websocket,
    inject,
    client_hello,
    request_head,
    answer_head,
    rules,
    explain,
    price,
    config,
    file,
    kernel,
);

#[test]
fn every_target_has_its_fuzz_target() {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for target in TARGETS {
        assert!(manifest.contains(&format!("name = \"{}\"\n", target.name)), "{}", target.name);
        let file =
            std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{}.rs", target.name))).expect("a fuzz target");
        assert!(file.contains(&format!("target!(\"{}\")", target.name)), "{file}");
    }
}

/// With `KEYTALLY_WRITE_SEEDS=<directory>` writes every seed to a file below `<directory>/<target>/`, for `make fuzz`.
#[test]
fn seeds_are_written_when_asked_for() {
    let Some(corpus) = std::env::var_os("KEYTALLY_WRITE_SEEDS").map(PathBuf::from) else { return };
    for target in TARGETS {
        let directory = corpus.join(target.name);
        std::fs::create_dir_all(&directory).expect("a directory for seeds");
        let seeds = [seeds::of(target.name), seeds::of_the_collection(target.name)].concat();
        for (i, seed) in seeds.iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{i}")), seed).expect("a seed is written");
        }
        println!("{} seeds of {}", seeds.len(), target.name);
    }
}
