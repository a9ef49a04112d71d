//! Text and OpenMetrics, exemplars, and what promtool says of both.

use super::*;

#[test]
fn both_formats_show_the_same_series() {
    let (metrics, _) = with_clock(config());
    everything(&metrics);
    let process_may_differ = |mut seen: Scrape| {
        seen.retain(|(name, _), _| !name.starts_with("process_") && !name.ends_with("_created"));
        seen
    };
    let text = process_may_differ(scrape(&metrics));
    let open = process_may_differ(read(&scrape_text(&metrics, OPEN)));
    assert_eq!(text, open);
    assert_eq!(metrics.encode(TEXT).0, "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(metrics.encode(OPEN).0, "application/openmetrics-text; version=1.0.0; charset=utf-8");
}

#[test]
fn openmetrics_has_units_births_and_an_end() {
    let (metrics, _) = with_clock(config());
    everything(&metrics);
    let open = scrape_text(&metrics, OPEN);
    assert!(open.ends_with("\n# EOF\n"));
    assert_eq!(open.matches("# EOF").count(), 1);
    assert!(!open.contains("_total_total") && !open.contains("_total_created"));
    assert!(open.contains("# TYPE keytally_spend_usd counter\n# UNIT keytally_spend_usd usd\n"));
    let created = open.lines().find(|line| line.starts_with("keytally_requests_created{")).unwrap();
    let born: f64 = created.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!((born - wall(metrics.started()).as_secs_f64()).abs() < 1.0, "{created}");
    let text = scrape_text(&metrics, TEXT);
    assert!(text.contains("# TYPE keytally_spend_usd_total counter\n"));
    for only_open in ["_created", "# UNIT", "# EOF", "trace_id"] {
        assert!(!text.contains(only_open), "{only_open}");
    }
    assert!(text.contains(r#"model="new \"1\"\\\n""#));
    for text in [&open, &text] {
        let mut families = BTreeSet::new();
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
            assert!(families.insert(name), "family twice: {name}");
        }
    }
}

#[test]
fn exemplars_point_to_exported_spans_only() {
    let (metrics, clock) = with_clock(config());
    let traced = |trace_id, mut record: CallRecord| {
        record.trace.trace_id = trace_id;
        record
    };
    let cost = |usd: i128| Some(Money::from_femto(usd * 1_000_000_000_000_000));
    metrics.observe(&traced(0x1, CallRecord { cost: cost(2), ..stream("k", "m") }), true);
    metrics.observe(&traced(0x2, CallRecord { cost: cost(9), ..stream("k", "m") }), false);
    metrics.observe(&traced(0x0, CallRecord { cost: cost(8), ..stream("k", "m") }), true);
    metrics.observe(&traced(0x3, CallRecord { cost: cost(1), ..stream("k", "m") }), true);
    metrics.observe(&traced(0x4, failed("k", "m", Outcome::ProviderError, Fault::Provider)), true);
    let open = scrape_text(&metrics, OPEN);
    let exemplars = |open: &str, name: &str| -> Vec<String> {
        let lines = open.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| Some(line.split_once(" # ")?.1.to_owned())).collect()
    };
    let id = |n: u32| format!("{{trace_id=\"{n:032x}\",span_id=\"0000000000000def\"}}");
    assert_eq!(exemplars(&open, "keytally_spend_usd_total"), [format!("{} 2 1700000000.700", id(1))]);
    assert_eq!(exemplars(&open, "keytally_requests_total"), [format!("{} 1 1700000000.700", id(4))]);
    assert!(open.lines().any(|line| line.contains("outcome=\"ok\"") && !line.contains(" # ")));
    let durations = exemplars(&open, "keytally_request_duration_seconds_bucket");
    assert_eq!(durations, [format!("{} 0.7 1700000000.700", id(3)), format!("{} 0.7 1700000000.700", id(4))]);
    let first_tokens = exemplars(&open, "keytally_time_to_first_token_seconds_bucket");
    assert_eq!(first_tokens, [format!("{} 0.2 1700000000.700", id(3))]);
    let every: Vec<_> = open.lines().filter_map(|line| line.split_once(" # ")).collect();
    assert_eq!(every.len(), 5, "nowhere else");
    for (_, exemplar) in every {
        let labels = exemplar[1..].split_once('}').unwrap().0;
        let chars = labels.replace(['=', '"', ','], "").chars().count();
        assert_eq!(chars, 63);
    }
    // A minute later a cheaper call is the dearest again.
    clock.store(60_000, Ordering::Relaxed);
    metrics.observe(&traced(0x5, CallRecord { cost: cost(1), ..stream("k", "m") }), true);
    assert!(exemplars(&scrape_text(&metrics, OPEN), "keytally_spend_usd_total")[0].starts_with(&id(5)));

    let (off, _) = with_clock(MetricsConfig { exemplars: false, ..config() });
    everything(&off);
    assert!(!scrape_text(&off, OPEN).contains("trace_id"));
}

#[test]
fn promtool_has_nothing_to_say() {
    let (metrics, _) = with_clock(config());
    everything(&metrics);
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        println!("skipped: promtool is not installed (apt-get install prometheus)");
        return;
    };
    child.stdin.take().unwrap().write_all(&metrics.encode(TEXT).1).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
