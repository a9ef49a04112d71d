//! Files and answers of the machine: configuration, price book, certificates, the kernel's tables.

use std::time::SystemTime;

use super::Input;
use crate::cli::acknowledged;
use crate::config::{Environment, Source};
use crate::listen::{Ends, ca, read_any_socket};
use crate::meter::{PriceBook, Rules};
use crate::provider::Catalog;

pub(super) const VARIABLES: [&str; 10] = [
    "KEYTALLY_LISTEN",
    "KEYTALLY_ADMIN",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_PROPAGATORS",
    "MADE_UP",
    "KEYTALLY_LOG",
];

/// Variables; then the file.
pub(super) fn config(data: &[u8]) {
    let mut input = Input(data);
    let mut variables = Vec::new();
    for _ in 0..input.byte() % 4 {
        variables.push((input.pick(&VARIABLES), String::from_utf8_lossy(input.short()).into_owned()));
    }
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    let source = Source { env: Environment::of(&variables), ..Source::default() };
    match source.check(text) {
        Ok(loaded) => {
            let again = source.check(text).expect("read before");
            assert!(loaded.config == again.config && loaded.warnings == again.warnings);
            // What the rooms refuse is refused with a reason.
            if !loaded.config.providers.is_empty()
                && let Err(errors) = Catalog::build(&loaded.config.providers)
            {
                assert!(errors.iter().all(|error| !error.message.is_empty()));
            }
            if !loaded.config.rules.is_empty()
                && let Err(errors) = Rules::build(&loaded.config.rules)
            {
                assert!(errors.iter().all(|error| !error.problem.is_empty()));
            }
            fit(&format!("{:?}", loaded.warnings));
        }
        Err(error) => {
            let shown = error.to_string();
            assert!(!shown.is_empty());
            fit(&shown);
        }
    }
}

/// Nothing that a terminal would obey.
#[track_caller]
fn fit(shown: &str) {
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
}

/// Which; then the file.
pub(super) fn file(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 2 {
        0 => {
            if let Err(error) = PriceBook::from_json(input.rest(), None, Vec::new()) {
                assert!(!error.to_string().is_empty());
            }
        }
        _ => {
            let certificates = input.long();
            if let Ok(authority) = ca::Authority::from_pem(certificates, input.rest()) {
                let _ = (authority.pem(), authority.doubts(SystemTime::now()), authority.facts().subject.len());
            }
            ca::inspect_all(certificates);
        }
    }
}

/// The connection; then the answer of sock_diag(7), of nf_tables, the table of proc_net_tcp(5).
pub(super) fn kernel(data: &[u8]) {
    let mut input = Input(data);
    let mut address = || {
        let port = input.word();
        let ip: [u8; 4] = std::array::from_fn(|_| input.byte());
        std::net::SocketAddr::from((ip, port))
    };
    let ends = Ends { peer: address(), local: address(), redirected: false };
    let bytes = input.rest();
    read_any_socket(bytes, ends);
    if let Ok(count) = acknowledged(bytes) {
        assert!(count as usize <= bytes.len() / 16);
    }
}
