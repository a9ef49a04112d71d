//! The short version of the simulation in `deploy/prometheus/simulation`: two weeks of four keys against the spend rules.

use std::process::Command;

use super::{promql, repository};
use crate::support::skip;

#[test]
fn two_weeks_of_four_keys_have_no_false_alarm_and_show_what_stands_out() {
    for name in ["promtool", "prometheus", "python3"] {
        if promql::program(name).is_none() {
            return skip(name);
        }
    }
    let mut command = Command::new("python3");
    let done = command.arg(repository("deploy/prometheus/simulation/simulate.py")).arg("--short").output();
    let done = done.expect("python3 runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
}
