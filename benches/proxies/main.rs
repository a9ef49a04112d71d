//! What a call through keytally costs beside what it costs through other proxies, on one machine in one run.
//!
//! `make bench`, or `cargo bench --bench proxies -- [--seconds N] [--rounds N] [--only SCENARIO] [--proxies a,b]`.
//! Everything runs on loopback: a mock provider, one proxy at a time, a load generator. The provider and the plain
//! hyper proxy (the *floor*: what forwarding costs without looking) are this same program, started again in another
//! role. nginx, HAProxy, mitmproxy, LiteLLM and Portkey take part where they are installed.
//!
//! The processor time of a proxy is that of its whole process tree, from `/proc`; the load generator and the provider
//! share the machine and are not counted. Proxies take turns, round by round; the median round is quoted. A window with a
//! failed call is thrown away and said so.

// A benchmark that cannot go on has nobody to tell but its reader.
#![allow(clippy::unwrap_used, missing_docs)]

mod floor;
mod load;
mod process;
mod proxies;
mod report;
mod scenarios;
mod upstream;

use std::time::Duration;

/// What was asked for on the command line.
pub struct Asked {
    pub seconds: u64,
    pub rounds: usize,
    pub only: Option<Vec<String>>,
    pub proxies: Option<Vec<String>>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("role:upstream") => upstream::run(&args[1..]),
        Some("role:floor") => floor::run(&args[1..]),
        _ => scenarios::run(&asked(&args)),
    }
}

fn asked(args: &[String]) -> Asked {
    let mut asked = Asked { seconds: 5, rounds: 3, only: None, proxies: None };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{flag} needs a value"));
        let list = || Some(value.split(',').map(str::to_owned).collect());
        match flag.as_str() {
            "--seconds" => asked.seconds = value.parse().expect("--seconds takes a number"),
            "--rounds" => asked.rounds = value.parse().expect("--rounds takes a number"),
            "--only" => asked.only = list(),
            "--proxies" => asked.proxies = list(),
            other => panic!("{other} is not a flag; there are --seconds, --rounds, --only and --proxies"),
        }
    }
    asked
}

/// Two workers, as a small pod has processors.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Nanoseconds of a clock that all processes of this machine share.
fn now_nanos() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos() as u64
}
