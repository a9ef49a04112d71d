//! The twelve days before: raw counters in OpenMetrics, as sidecars of those days would have exported them, from which promtool
//! makes blocks. What rules would have recorded over them is recorded by Prometheus' own engine afterwards.

use std::fmt::Write as _;

use super::scale::SCALE;
use super::story::{IDLE, KEYS, KeyPlan};

/// Days of history.
pub const DAYS: u64 = 12;
/// Seconds between two samples: ten minutes of the day.
pub const STEP: u64 = 10;

/// A family, further labels, and the share of calls that are done by each bound.
type Histogram = (&'static str, &'static str, &'static [(&'static str, f64)]);

/// How much of its usual traffic a key has at this hour: a quarter at night. The day begins at 09:00.
fn share(hours_before: f64) -> f64 {
    let hour = (9.0 - hours_before).rem_euclid(24.0);
    if (7.0..20.0).contains(&hour) { 1.0 } else { 0.25 }
}

/// All of it, up to `end`.
pub fn openmetrics(end: u64) -> String {
    let start = end - DAYS * 24 * 3600 / SCALE;
    let steps = (end - start) / STEP;
    let at = |step: u64| start + step * STEP;
    // Calls of a key that is called once an hour, up to each step.
    let mut calls = Vec::with_capacity(usize::try_from(steps).expect("few"));
    let mut sum = 0.0;
    for step in 0..=steps {
        calls.push(sum);
        let hours_before = (end - at(step)) as f64 / 3600.0 * SCALE as f64;
        sum += share(hours_before) * STEP as f64 * SCALE as f64 / 3600.0;
    }
    let mut out = String::new();
    let series = |out: &mut String, name: &str, labels: &str, factor: f64| {
        for (step, calls) in calls.iter().enumerate() {
            let _ = writeln!(
                out,
                "{name}{{{labels},job=\"keytally\",instance=\"before\"}} {} {}",
                calls * factor,
                at(step as u64)
            );
        }
    };
    out.push_str("# TYPE keytally_requests counter\n");
    for key in KEYS {
        let labels = format!("{},operation=\"chat\",outcome=\"ok\",fault=\"none\"", of(key));
        series(&mut out, "keytally_requests_total", &labels, key.calls_an_hour);
    }
    out.push_str("# TYPE keytally_spend_usd counter\n");
    for key in KEYS {
        let labels = format!("{},usage_source=\"reported\"", of(key));
        series(&mut out, "keytally_spend_usd_total", &labels, key.calls_an_hour * key.usd_a_call());
    }
    out.push_str("# TYPE keytally_tokens counter\n");
    for key in KEYS {
        series(
            &mut out,
            "keytally_tokens_total",
            &format!("{},type=\"input_uncached\"", of(key)),
            key.calls_an_hour * 1_000.0,
        );
        let output = if key.stream { 10.0 } else { 40.0 };
        series(
            &mut out,
            "keytally_tokens_total",
            &format!("{},type=\"output_text\"", of(key)),
            key.calls_an_hour * output,
        );
    }
    out.push_str("# TYPE keytally_usage_records counter\n");
    for key in KEYS {
        series(
            &mut out,
            "keytally_usage_records_total",
            &format!("{},usage_source=\"reported\"", of(key)),
            key.calls_an_hour,
        );
    }
    // Streams: how many of a hundred are done by each bound.
    let streams = KEYS.iter().filter(|key| key.stream);
    for key in streams {
        let labels = format!("provider=\"{}\",model=\"{}\"", key.provider, key.model);
        let families: [Histogram; 3] = [
            (
                "keytally_time_to_first_token_seconds",
                "",
                &[("0.1", 0.0), ("0.2", 0.6), ("0.3", 0.98), ("0.5", 1.0), ("+Inf", 1.0)],
            ),
            (
                "keytally_time_per_output_token_seconds",
                "",
                &[("0.06", 0.0), ("0.08", 0.85), ("0.12", 0.99), ("0.2", 1.0), ("+Inf", 1.0)],
            ),
            (
                "keytally_request_duration_seconds",
                ",result=\"ok\"",
                &[("0.6", 0.0), ("1.0", 0.95), ("2.0", 1.0), ("+Inf", 1.0)],
            ),
        ];
        for (name, more, bounds) in families {
            let _ = writeln!(out, "# TYPE {name} histogram");
            for (bound, done) in bounds {
                series(
                    &mut out,
                    &format!("{name}_bucket"),
                    &format!("{labels}{more},le=\"{bound}\""),
                    key.calls_an_hour * done,
                );
            }
            series(&mut out, &format!("{name}_count"), &format!("{labels}{more}"), key.calls_an_hour);
        }
    }
    out.push_str("# TYPE keytally_key_info gauge\n");
    for key in KEYS {
        for step in 0..=steps {
            let _ = writeln!(
                out,
                "keytally_key_info{{key=\"{}\",provider=\"{}\",account=\"unknown\",team=\"{}\",env=\"prod\",named=\"true\",job=\"keytally\",instance=\"before\"}} 1 {}",
                key.name,
                key.provider,
                key.team,
                at(step)
            );
        }
    }
    out.push_str("# TYPE keytally_key_last_used_timestamp_seconds gauge\n");
    let last = end - 8 * 24 * 3600 / SCALE;
    for step in (0..=steps).filter(|step| at(*step) <= last) {
        let _ = writeln!(
            out,
            "keytally_key_last_used_timestamp_seconds{{key=\"{IDLE}\",provider=\"openai\",job=\"keytally\",instance=\"before\"}} {} {}",
            at(step),
            at(step)
        );
    }
    out.push_str("# EOF\n");
    out
}

fn of(key: &KeyPlan) -> String {
    format!("key=\"{}\",provider=\"{}\",model=\"{}\"", key.name, key.provider, key.model)
}
