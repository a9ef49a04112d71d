//! The promises on totals, ceilings and births; the published list and the formats have files of their own.

mod formats;
mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::call::{
    CallId, End, Fault, Finding, LimitResource, Money, Operation, Outcome, Protocol, RateLimit, Timing, TraceContext,
    UnpricedReason, Usage, UsageSource, Way,
};

// === a scrape, read ===

type LabelSet = BTreeMap<String, String>;
type Scrape = BTreeMap<(String, LabelSet), f64>;

const TEXT: Option<&str> = None;
/// No series.
const NONE: [f64; 0] = [];
const OPEN: Option<&str> = Some("application/openmetrics-text");

fn scrape_text(metrics: &Metrics, accept: Option<&str>) -> String {
    String::from_utf8(metrics.encode(accept).1).unwrap()
}

/// Reads either format; panics on what neither allows. Exemplars are cut off.
fn read(text: &str) -> Scrape {
    let mut scrape = Scrape::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let line = line.split_once(" # ").map_or(line, |(sample, _)| sample);
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let (name, mut rest) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels = LabelSet::new();
        while rest != "}" {
            let (label, quoted) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            let mut end = 0;
            while quoted.as_bytes()[end] != b'"' {
                end += if quoted.as_bytes()[end] == b'\\' { 2 } else { 1 };
            }
            let old = labels.insert(label.into(), quoted[..end].into());
            assert!(old.is_none(), "label twice: {line}");
            rest = quoted[end + 1..].trim_start_matches(',');
        }
        assert!(scrape.insert((name.into(), labels), value).is_none(), "series twice: {line}");
    }
    scrape
}

fn scrape(metrics: &Metrics) -> Scrape {
    read(&scrape_text(metrics, TEXT))
}

fn pick(scrape: &Scrape, name: &str, wanted: &[(&str, &str)]) -> Vec<f64> {
    let of_name = scrape.iter().filter(|((found, _), _)| found == name);
    let matching =
        of_name.filter(|((_, labels), _)| wanted.iter().all(|(l, v)| labels.get(*l).is_some_and(|found| found == v)));
    matching.map(|(_, value)| *value).collect()
}

fn sum(scrape: &Scrape, name: &str, wanted: &[(&str, &str)]) -> f64 {
    pick(scrape, name, wanted).iter().sum()
}

// === calls ===

fn config() -> MetricsConfig {
    MetricsConfig { birth_hold: Duration::ZERO, revision: String::from("0123abc"), ..MetricsConfig::default() }
}

/// Metrics with a clock that the test moves, in milliseconds.
fn with_clock(config: MetricsConfig) -> (Metrics, Arc<AtomicU64>) {
    let millis = Arc::new(AtomicU64::new(0));
    let clock = millis.clone();
    (Metrics::with_clock(config, Arc::new(move || Duration::from_millis(clock.load(Ordering::Relaxed)))), millis)
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn call(key: &str, model: &str) -> CallRecord {
    CallRecord {
        time: at(0),
        call_id: CallId(1),
        trace: TraceContext { trace_id: 0xabc, span_id: 0xdef, ..TraceContext::default() },
        way: Way::BaseUrl,
        provider: "openai".into(),
        operation: Operation::Chat,
        protocol: Protocol::OpenaiChat,
        server_address: "api.openai.com".into(),
        server_port: 443,
        method: "POST".into(),
        request_model: Some(model.into()),
        response_model: Some(model.into()),
        priced_model: Some(model.into()),
        model_label: model.into(),
        key: Some("openai:3f9a0c41b2d7".parse().unwrap()),
        key_name: Some(key.into()),
        status: Some(200),
        outcome: Outcome::Ok,
        fault: Fault::None,
        retryable: false,
        end: End::Complete,
        usage: Usage { input_tokens: Some(100), output_tokens: Some(20), ..Usage::default() },
        usage_source: UsageSource::Reported,
        cost: Some(Money::from_femto(1_500_000_000_000)),
        timing: Timing {
            total: Duration::from_millis(700),
            head: Some(Duration::from_millis(300)),
            ..Timing::default()
        },
        request_bytes: 1_000,
        response_bytes: 2_000,
        ..crate::export::tests::bare()
    }
}

fn stream(key: &str, model: &str) -> CallRecord {
    let mut record = call(key, model);
    record.stream = true;
    record.timing.first_output = Some(Duration::from_millis(200));
    record.timing.last_output = Some(Duration::from_millis(580));
    record
}

fn failed(key: &str, model: &str, outcome: Outcome, fault: Fault) -> CallRecord {
    CallRecord {
        status: Some(429),
        outcome,
        fault,
        usage: Usage::default(),
        usage_source: UsageSource::None,
        cost: None,
        unpriced_reason: Some(UnpricedReason::NoUsage),
        ..call(key, model)
    }
}

fn entry(name: &str) -> KeyEntry {
    KeyEntry {
        fingerprint: "openai:3f9a0c41b2d7".parse().unwrap(),
        name: name.into(),
        team: None,
        env: None,
        anomaly_ratio: 3.0,
        anomaly_min_usd_per_hour: 1.0,
        new_key_usd_per_hour: 5.0,
        budget_usd_day: None,
        budget_usd_month: None,
        pool: false,
    }
}

fn limit(resource: LimitResource, limit: f64, remaining: f64, reset: u64) -> RateLimit {
    RateLimit { resource, limit: Some(limit), remaining: Some(remaining), reset: Some(Duration::from_secs(reset)) }
}

/// Same numbers on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// Traffic in which every value of every closed set occurs.
fn everything(metrics: &Metrics) {
    metrics.set_key_thresholds(
        &[KeyEntry { budget_usd_day: Some(10.0), budget_usd_month: Some(200.0), ..entry("search-prod") }],
        Thresholds::default(),
    );
    for &outcome in Outcome::ALL {
        metrics.observe(&failed("search-prod", "gpt-4o", outcome, Fault::Unknown), true);
    }
    for &fault in Fault::ALL {
        metrics.observe(&failed("search-prod", "gpt-4o", Outcome::ProviderError, fault), true);
    }
    for &operation in Operation::ALL {
        metrics.observe(&CallRecord { operation, ..stream("search-prod", "gpt-4o") }, true);
    }
    for &usage_source in UsageSource::ALL {
        metrics.observe(&CallRecord { usage_source, ..call("search-prod", "gpt-4o") }, true);
    }
    metrics.observe(&CallRecord { findings: Finding::ALL.to_vec(), ..call("search-prod", "gpt-4o") }, true);
    metrics.observe(&CallRecord { client: Some("python3.11".into()), ..call("search-prod", "gpt-4o") }, true);
    metrics.tunnel(Unread::UnknownHost, "other").bytes(1, 2);
    let n = Some(3);
    let usage = Usage {
        input_tokens: Some(1_000),
        output_tokens: Some(1_000),
        cache_read_tokens: n,
        cache_write_tokens: n,
        input_audio_tokens: n,
        input_image_tokens: n,
        reasoning_tokens: n,
        output_audio_tokens: n,
        output_image_tokens: n,
        web_searches: n,
        file_searches: n,
        search_units: n,
        images: n,
        input_audio_millis: Some(2_500),
        input_characters: n,
        pages: n,
        ..Usage::default()
    };
    metrics.observe(&CallRecord { usage, ..call("search-prod", "gpt-4o") }, true);
    metrics.observe(&CallRecord { usage: Usage::default(), ..call("search-prod", "gpt-4o") }, true);
    metrics.observe(&CallRecord { partly_priced: true, ..call("search-prod", "gpt-4o") }, true);
    for reason in [UnpricedReason::UnknownModel, UnpricedReason::Free] {
        let record = CallRecord { cost: None, unpriced_reason: Some(reason), ..call("search-prod", "new \"1\"\\\n") };
        metrics.observe(&record, true);
    }
    for &resource in LimitResource::ALL {
        let mut record = call("search-prod", "gpt-4o");
        record.account = Some("0a1b2c3d".into());
        record.limits.limits.push(limit(resource, 100.0, 40.0, 60));
        metrics.observe(&record, true);
    }
    let fingerprint_only = CallRecord {
        key: Some("openai:aaaaaaaaaaaa".parse().unwrap()),
        key_name: None,
        status: None,
        ..call("", "gpt-4o")
    };
    metrics.observe(&fingerprint_only, true);
    for &reason in Unreadable::ALL {
        metrics.observe(&CallRecord { unreadable: Some(reason), ..call("search-prod", "gpt-4o") }, true);
    }
    drop(metrics.in_flight("openai"));
    metrics.config_reloaded(true, at(1));
    metrics.price_book(at(2));
}

// === totals ===

#[test]
fn a_call_is_counted_everywhere_once() {
    let (metrics, _) = with_clock(config());
    let mut record = stream("search-prod", "gpt-4o");
    record.timing.overhead_request = Duration::from_micros(60);
    record.timing.overhead_response = Duration::from_micros(100);
    record.findings = vec![Finding::KeyInUrl, Finding::KeyInUrl];
    metrics.observe(&record, false);
    let scrape = scrape(&metrics);
    let one = |name: &str, labels: &[(&str, &str)]| {
        let found = pick(&scrape, name, labels);
        assert_eq!(found.len(), 1, "{name} {labels:?}");
        found[0]
    };
    let by_key = [("key", "search-prod"), ("provider", "openai"), ("model", "gpt-4o")];
    assert_eq!(one("keytally_requests_total", &by_key), 1.0);
    assert_eq!(one("keytally_tokens_total", &[("type", "input_uncached")]), 100.0);
    assert_eq!(one("keytally_tokens_total", &[("type", "output_text")]), 20.0);
    assert_eq!(one("keytally_spend_usd_total", &by_key), 0.0015);
    assert_eq!(one("keytally_usage_records_total", &[("usage_source", "reported")]), 1.0);
    assert_eq!(one("keytally_pricing_lookups_total", &[]), 1.0);
    assert_eq!(one("keytally_http_responses_total", &[("code", "200")]), 1.0);
    assert_eq!(one("keytally_body_bytes_total", &[("direction", "request")]), 1_000.0);
    assert_eq!(one("keytally_body_bytes_total", &[("direction", "response")]), 2_000.0);
    assert_eq!(one("keytally_key_findings_total", &[("finding", "key_in_url")]), 1.0, "a finding counts once a call");
    assert_eq!(one("keytally_request_duration_seconds_sum", &[("result", "ok")]), 0.7);
    assert_eq!(one("keytally_request_duration_seconds_bucket", &[("le", "0.6")]), 0.0);
    assert_eq!(one("keytally_request_duration_seconds_bucket", &[("le", "1.0")]), 1.0);
    assert_eq!(one("keytally_request_duration_seconds_bucket", &[("le", "+Inf")]), 1.0);
    assert_eq!(one("keytally_time_to_first_token_seconds_bucket", &[("le", "0.1")]), 0.0);
    assert_eq!(one("keytally_time_to_first_token_seconds_bucket", &[("le", "0.2")]), 1.0, "a bound is inclusive");
    assert_eq!(one("keytally_time_per_output_token_seconds_sum", &[]), 0.02, "380 ms over 19 gaps");
    assert_eq!(one("keytally_request_tokens_sum", &[("direction", "input")]), 100.0);
    assert_eq!(one("keytally_overhead_seconds_bucket", &[("phase", "request"), ("le", "5e-05")]), 0.0);
    assert_eq!(one("keytally_overhead_seconds_bucket", &[("phase", "response"), ("le", "0.0001")]), 1.0);
}

#[test]
fn a_failure_is_neither_priced_nor_unpriced() {
    let (metrics, _) = with_clock(config());
    let mut unknown = failed("k", "m", Outcome::AuthInvalid, Fault::Key);
    unknown.unpriced_reason = Some(UnpricedReason::UnknownModel);
    metrics.observe(&unknown, false);
    assert_eq!(pick(&scrape(&metrics), "keytally_pricing_lookups_total", &[]), NONE);
    let paid = CallRecord { cost: None, unpriced_reason: Some(UnpricedReason::UnknownModel), ..call("k", "m") };
    metrics.observe(&paid, false);
    let seen = scrape(&metrics);
    assert_eq!(sum(&seen, "keytally_pricing_lookups_total", &[("status", "unpriced")]), 1.0);
    assert_eq!(sum(&seen, "keytally_unpriced_tokens_total", &[]), 120.0);
    assert_eq!(pick(&seen, "keytally_spend_usd_total", &[]), NONE, "unknown is not $0");
}

#[test]
fn usage_seen_before_is_not_counted_again() {
    let (metrics, _) = with_clock(config());
    let again = CallRecord { cost: None, unpriced_reason: Some(UnpricedReason::RepeatedUsage), ..call("k", "m") };
    metrics.observe(&again, false);
    let seen = scrape(&metrics);
    assert_eq!(pick(&seen, "keytally_tokens_total", &[]), NONE);
    assert_eq!(pick(&seen, "keytally_unpriced_tokens_total", &[]), NONE);
    assert_eq!(sum(&seen, "keytally_requests_total", &[]), 1.0);
}

#[test]
fn absurd_numbers_stay_numbers() {
    let (metrics, _) = with_clock(config());
    for _ in 0..3 {
        let mut record = stream("k", "m");
        record.usage = Usage {
            input_tokens: Some(u64::MAX),
            output_tokens: Some(u64::MAX),
            input_audio_millis: Some(u64::MAX),
            images: Some(u64::MAX),
            ..Usage::default()
        };
        record.cost = Some(Money::from_femto(i128::MAX));
        record.timing.total = Duration::MAX;
        record.timing.first_output = Some(Duration::from_secs(9));
        record.timing.last_output = Some(Duration::from_secs(1));
        record.timing.overhead_request = Duration::from_secs(u64::MAX / 4);
        record.request_bytes = u64::MAX;
        record.status = Some(7);
        record.limits.limits.push(limit(LimitResource::Tokens, 1e300, 1e300, u64::MAX));
        metrics.observe(&record, true);
        metrics.observe(&CallRecord { cost: Some(Money::from_femto(-5)), ..call("k", "m") }, true);
    }
    let seen = scrape(&metrics); // Reading it fails on anything that is not finite and positive.
    assert_eq!(sum(&seen, "keytally_tokens_total", &[("type", "input_uncached")]), 3.0 * u64::MAX as f64);
    assert_eq!(sum(&seen, "keytally_http_responses_total", &[("code", "none")]), 3.0);
    assert_eq!(pick(&seen, "keytally_time_per_output_token_seconds_count", &[]), NONE, "last output before the first");
    read(&scrape_text(&metrics, OPEN));
}

fn mixed_calls(n: usize) -> Vec<CallRecord> {
    let mut dice = Dice(7);
    let outcomes = [Outcome::Ok, Outcome::RateLimitTokens, Outcome::ProviderError];
    (0..n)
        .map(|i| {
            let mut record = stream(["a", "b", "c"][dice.roll(3)], ["m1", "m2"][dice.roll(2)]);
            record.time = at(i as u64);
            record.outcome = outcomes[dice.roll(3)];
            record.usage.input_tokens = Some(dice.roll(100_000) as u64);
            record.cost = Some(Money::from_femto(dice.roll(1_000_000_007) as i128 * 1_000_003));
            record.timing.total = Duration::from_nanos(600_000_000 + dice.roll(2_000_000_000) as u64);
            record.findings = if dice.roll(4) == 0 { vec![Finding::SharedKey] } else { vec![] };
            record
        })
        .collect()
}

/// Counter, histogram and key series as text, without what depends on the process and on times of birth.
fn totals(metrics: &Metrics) -> String {
    let lines = scrape_text(metrics, TEXT);
    let own = |line: &&str| line.starts_with("keytally_");
    lines.lines().filter(own).fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "{line}");
        all
    })
}

#[test]
fn any_order_of_calls_gives_the_same_totals() {
    let mut calls = mixed_calls(300);
    let (first, _) = with_clock(config());
    calls.iter().for_each(|record| first.observe(record, false));
    let expected: BTreeSet<_> = totals(&first).lines().map(str::to_owned).collect();
    for seed in 0..20 {
        let mut dice = Dice(seed);
        for i in (1..calls.len()).rev() {
            calls.swap(i, dice.roll(i + 1));
        }
        let (metrics, _) = with_clock(config());
        calls.iter().for_each(|record| metrics.observe(record, false));
        let shuffled: BTreeSet<_> = totals(&metrics).lines().map(str::to_owned).collect();
        assert_eq!(shuffled, expected, "seed {seed}");
    }
}

#[test]
fn threads_and_scrapes_lose_nothing() {
    const THREADS: usize = 8;
    const EACH: usize = 1_500;
    let metrics = Metrics::new(config());
    let calls = mixed_calls(EACH);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for record in &calls {
                    let _open = metrics.in_flight("openai");
                    metrics.observe(record, true);
                }
            });
        }
        scope.spawn(|| {
            let mut last = Scrape::new();
            for _ in 0..10 {
                let seen = scrape(&metrics);
                assert_never_falls(&last, &seen);
                last = seen;
            }
        });
    });
    let seen = scrape(&metrics);
    let tokens: u64 = calls.iter().map(|c| c.usage.input_tokens.unwrap() + c.usage.output_tokens.unwrap()).sum();
    let spend: Money = calls.iter().map(|c| c.cost.unwrap()).sum();
    let all = (THREADS * EACH) as f64;
    assert_eq!(sum(&seen, "keytally_requests_total", &[]), all);
    assert_eq!(sum(&seen, "keytally_request_duration_seconds_count", &[]), all);
    assert_eq!(sum(&seen, "keytally_tokens_total", &[]), tokens as f64 * THREADS as f64);
    let (seen_spend, spend) = (sum(&seen, "keytally_spend_usd_total", &[]), spend.as_f64() * THREADS as f64);
    assert!((seen_spend / spend - 1.0).abs() < 1e-12, "{seen_spend} {spend}");
    assert_eq!(pick(&seen, "keytally_requests_in_flight", &[]), [0.0]);
}

fn assert_never_falls(before: &Scrape, after: &Scrape) {
    for (series, value) in before {
        let counts = ["_total", "_bucket", "_sum", "_count"].iter().any(|suffix| series.0.ends_with(suffix));
        if counts && series.0.starts_with("keytally_") {
            let now = after.get(series).unwrap_or_else(|| panic!("{series:?} is gone"));
            assert!(now >= value, "{series:?} fell from {value} to {now}");
        }
    }
}

// === births ===

#[test]
fn a_counter_is_born_at_zero_and_held_there() {
    let (metrics, clock) = with_clock(MetricsConfig { birth_hold: Duration::from_secs(75), ..config() });
    clock.store(1_000_000, Ordering::Relaxed);
    let mut record = stream("k", "m");
    record.findings = vec![Finding::KeyInUrl];
    record.timing.overhead_request = Duration::from_millis(1);
    metrics.observe(&record, true);
    metrics.observe(&record, true);
    let counters = |seen: &Scrape| {
        let mut counters = seen.clone();
        counters.retain(|(name, labels), _| {
            let counts = name.ends_with("_total") || name.ends_with("_count") || name.ends_with("_sum");
            counts && (labels.contains_key("key") || labels.contains_key("model") || labels.contains_key("provider"))
        });
        counters
    };
    let held = counters(&scrape(&metrics));
    assert!(held.len() > 15, "{held:?}");
    assert!(held.values().all(|&value| value == 0.0), "{held:?}");
    assert_eq!(sum(&scrape(&metrics), "keytally_key_up", &[]), 1.0, "gauges are not held");
    assert_eq!(sum(&scrape(&metrics), "keytally_overhead_seconds_count", &[("phase", "request")]), 2.0);

    clock.store(1_074_999, Ordering::Relaxed);
    assert!(counters(&scrape(&metrics)).values().all(|&value| value == 0.0));
    // A series born later is held on its own.
    metrics.observe(&call("late", "m"), true);
    clock.store(1_075_000, Ordering::Relaxed);
    let seen = scrape(&metrics);
    assert_eq!(sum(&seen, "keytally_requests_total", &[("key", "k")]), 2.0);
    assert_eq!(sum(&seen, "keytally_requests_total", &[("key", "late")]), 0.0);
    assert_eq!(sum(&seen, "keytally_request_duration_seconds_count", &[]), 3.0);
    metrics.release_birth_hold();
    assert_eq!(sum(&scrape(&metrics), "keytally_requests_total", &[("key", "late")]), 1.0);
}

#[test]
fn no_counter_ever_falls() {
    let (metrics, clock) = with_clock(MetricsConfig { birth_hold: Duration::from_secs(75), ..config() });
    let mut last = Scrape::new();
    for (i, record) in mixed_calls(200).iter().enumerate() {
        clock.store(i as u64 * 1_700, Ordering::Relaxed);
        metrics.observe(record, true);
        let seen = scrape(&metrics);
        assert_never_falls(&last, &seen);
        last = seen;
    }
    assert!(sum(&last, "keytally_requests_total", &[]) > 100.0);
}

// === ceilings ===

#[test]
fn ten_thousand_keys_and_models_keep_exact_totals_under_every_ceiling() {
    for max_series in [20_000, 2_000] {
        let (metrics, _) = with_clock(MetricsConfig { max_series, ..config() });
        metrics.set_key_thresholds(&[entry("configured")], Thresholds::default());
        let (mut cost, n) = (Money::ZERO, 10_000);
        let mut after_half = 0;
        for i in 0..n {
            let mut record = stream("", &format!("model-{i}"));
            record.key_name = None;
            record.key = Some(format!("openai:{i:012x}").parse().unwrap());
            record.provider = ["openai", "anthropic", "gemini"][i % 3].into();
            record.outcome = Outcome::ALL[i % Outcome::ALL.len()];
            record.account = Some(format!("{i:08x}").into());
            record.cost = Some(Money::from_femto(i as i128 * 1_000_000_007));
            record.findings = vec![Finding::ALL[i % Finding::ALL.len()]];
            record.limits.limits.push(limit(LimitResource::Requests, 10.0, 5.0, 60));
            cost += record.cost.unwrap();
            metrics.observe(&record, true);
            if i == n / 2 {
                after_half = scrape(&metrics).len();
            }
        }
        metrics.observe(&CallRecord { cost: None, ..call("configured", "model-1") }, false);
        let seen = scrape(&metrics);
        let n = n as f64;
        assert_eq!(sum(&seen, "keytally_requests_total", &[]), n + 1.0, "{max_series}");
        assert_eq!(sum(&seen, "keytally_usage_records_total", &[]), n + 1.0);
        assert_eq!(sum(&seen, "keytally_tokens_total", &[]), (n + 1.0) * 120.0);
        assert_eq!(sum(&seen, "keytally_request_duration_seconds_count", &[]), n + 1.0);
        assert_eq!(sum(&seen, "keytally_request_tokens_sum", &[]), (n + 1.0) * 120.0);
        assert_eq!(sum(&seen, "keytally_http_responses_total", &[]), n + 1.0);
        assert_eq!(sum(&seen, "keytally_key_findings_total", &[]), n);
        let spend = sum(&seen, "keytally_spend_usd_total", &[]);
        assert!((spend / cost.as_f64() - 1.0).abs() < 1e-12, "{spend} {cost}");
        for &outcome in Outcome::ALL {
            let calls = (0..10_000).filter(|i| Outcome::ALL[i % Outcome::ALL.len()] == outcome).count();
            let more = usize::from(outcome == Outcome::Ok);
            let counted = sum(&seen, "keytally_requests_total", &[("outcome", outcome.as_str())]);
            assert_eq!(counted, (calls + more) as f64, "{outcome}");
        }
        assert!(seen.len() <= max_series, "{} series of {max_series}", seen.len());
        assert_eq!(sum(&seen, "keytally_series", &[]), seen.len() as f64);
        assert!(seen.len() <= after_half + 100, "grew from {after_half} to {}", seen.len());
        let values = |label: &str| -> BTreeSet<_> { seen.keys().filter_map(|(_, l)| l.get(label)).collect() };
        assert!(values("key").len() <= 202 && values("model").len() <= 204 && values("account").len() <= 52);
        for label in ["key", "model", "account"] {
            assert!(sum(&seen, "keytally_label_overflow_total", &[("label", label)]) > 9_000.0, "{label}");
        }
        if max_series == 20_000 {
            assert_eq!(values("key").len(), 201, "200 and other");
            assert_eq!(sum(&seen, "keytally_requests_total", &[("key", "configured")]), 1.0, "its place was kept");
            let by_provider = sum(&seen, "keytally_requests_total", &[("provider", "gemini")]);
            assert_eq!(by_provider, 3_333.0);
        } else {
            assert!(sum(&seen, "keytally_label_overflow_total", &[("label", "series")]) > 1_000.0);
        }
        assert!(pick(&seen, "keytally_key_up", &[("key", "other")]).is_empty());
    }
}

#[test]
fn the_sink_is_bounded_whatever_comes() {
    let (metrics, _) = with_clock(MetricsConfig { max_series: 2_000, max_keys: 3, max_models: 2, ..config() });
    let mut dice = Dice(3);
    for i in 0..60_000 {
        let mut record = stream(&format!("k{}", dice.roll(1_000)), &format!("m{}", dice.roll(1_000)));
        record.provider = format!("p{}", dice.roll(1_000)).into();
        record.operation = Operation::ALL[dice.roll(Operation::ALL.len())];
        record.outcome = Outcome::ALL[dice.roll(Outcome::ALL.len())];
        record.fault = Fault::ALL[dice.roll(Fault::ALL.len())];
        record.status = Some(dice.roll(1_200) as u16);
        record.usage_source = UsageSource::ALL[dice.roll(4)];
        record.findings = vec![Finding::ALL[dice.roll(24)]];
        record.usage.images = Some(i % 2);
        metrics.observe(&record, false);
        let _open = metrics.in_flight(&record.provider);
    }
    let seen = scrape(&metrics);
    assert_eq!(sum(&seen, "keytally_requests_total", &[]), 60_000.0);
    assert_eq!(sum(&seen, "keytally_http_responses_total", &[]), 60_000.0);
    assert_eq!(sum(&seen, "keytally_key_findings_total", &[]), 60_000.0);
    assert!(seen.len() <= 2_000, "{}", seen.len());
}

#[test]
fn histograms_can_be_off() {
    let (metrics, _) = with_clock(MetricsConfig { histograms: false, ..config() });
    metrics.observe(&stream("k", "m"), true);
    let seen = scrape(&metrics);
    let histograms: BTreeSet<_> =
        seen.keys().filter(|(name, _)| name.ends_with("_bucket")).map(|(n, _)| &**n).collect();
    assert_eq!(histograms, BTreeSet::from(["keytally_overhead_seconds_bucket"]));
    assert_eq!(sum(&seen, "keytally_pricing_lookups_total", &[]), 1.0);
}

// === keys and limits ===

#[test]
fn clients_of_a_key_are_bounded_and_the_latest_stay() {
    let (metrics, _) = with_clock(config());
    let used_by = |client: usize, after: u64| CallRecord {
        client: Some(format!("client-{client}").into()),
        time: UNIX_EPOCH + Duration::from_secs(1_700_000_000 + after),
        ..call("search-prod", "gpt-4o")
    };
    for client in 0..100 {
        metrics.observe(&used_by(client, client as u64), true);
    }
    metrics.observe(&used_by(90, 500), true);
    let name = "keytally_key_client_last_used_timestamp_seconds";
    let shown: BTreeMap<_, _> = scrape(&metrics)
        .into_iter()
        .filter(|((n, _), _)| n == name)
        .map(|((_, l), v)| (l["client"].clone(), v))
        .collect();
    let expected: BTreeSet<_> = (84..100).map(|client| format!("client-{client}")).collect();
    assert_eq!(shown.keys().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!((shown["client-99"], shown["client-90"]), (1_700_000_099.0, 1_700_000_500.0));
    let status = metrics.keys();
    let dearest = &status[0].clients[0];
    assert_eq!((&*dearest.client, dearest.calls, status[0].clients.len()), ("client-90", 2, 16));
}

#[test]
fn a_key_is_up_or_down_by_definite_verdicts_only() {
    let (metrics, _) = with_clock(config());
    let up = || pick(&scrape(&metrics), "keytally_key_up", &[("key", "k")]);
    let see = |seconds, outcome| {
        metrics.observe(&CallRecord { time: at(seconds), ..failed("k", "m", outcome, Fault::Key) }, false);
    };
    see(1, Outcome::RateLimitRequests);
    see(2, Outcome::CreditExhausted);
    assert_eq!(up(), NONE, "no verdict yet");
    see(3, Outcome::AuthInvalid);
    assert_eq!(up(), [0.0]);
    see(4, Outcome::ProviderError);
    see(5, Outcome::PermissionDenied);
    assert_eq!(up(), [0.0]);
    assert_eq!(pick(&scrape(&metrics), "keytally_key_last_success_timestamp_seconds", &[]), NONE);
    metrics.observe(&CallRecord { time: at(6), ..call("k", "m") }, false);
    assert_eq!(up(), [1.0]);
    see(2, Outcome::AuthRevoked);
    assert_eq!(up(), [1.0], "an older call that was recorded later");
    let seen = scrape(&metrics);
    assert_eq!(sum(&seen, "keytally_key_last_used_timestamp_seconds", &[]), 1_700_000_006.0);
    assert_eq!(sum(&seen, "keytally_key_last_success_timestamp_seconds", &[]), 1_700_000_006.0);
}

#[test]
fn key_info_joins_and_follows_the_configuration() {
    let (metrics, _) = with_clock(config());
    let bare = || CallRecord { key_name: None, ..call("", "m") };
    metrics.observe(&bare(), false);
    let info = |labels: &[(&str, &str)]| pick(&scrape(&metrics), "keytally_key_info", labels).len();
    assert_eq!(info(&[("key", "openai:3f9a0c41b2d7"), ("named", "false"), ("account", "unknown"), ("team", "")]), 1);
    for account in ["aaaaaaaa", "bbbbbbbb", "aaaaaaaa"] {
        metrics.observe(&CallRecord { account: Some(account.into()), ..bare() }, false);
    }
    assert_eq!(info(&[]), 2, "one a key and account, unknown no more");
    assert_eq!(info(&[("account", "unknown")]), 0);
    let thresholds = KeyEntry {
        anomaly_ratio: 4.5,
        budget_usd_month: Some(500.0),
        budget_usd_day: Some(f64::NAN),
        ..entry("search")
    };
    metrics.set_key_thresholds(&[thresholds], Thresholds::default());
    assert_eq!(info(&[]), 0, "it has a name now, which was not seen yet");
    metrics.observe(&CallRecord { team: Some("t1".into()), env: Some("prod".into()), ..call("search", "m") }, false);
    assert_eq!(info(&[("key", "search"), ("named", "true"), ("team", "t1"), ("env", "prod")]), 1);
    assert_eq!(info(&[]), 1);
    let seen = scrape(&metrics);
    assert_eq!(pick(&seen, "keytally_key_anomaly_ratio", &[]), [4.5]);
    assert_eq!(pick(&seen, "keytally_key_anomaly_min_usd_per_hour", &[]), [1.0]);
    assert_eq!(pick(&seen, "keytally_key_new_key_usd_per_hour", &[]), [5.0]);
    assert_eq!(
        pick(&seen, "keytally_budget_usd", &[]),
        [500.0],
        "only the month's: a budget that is no number is none"
    );
    assert_eq!(sum(&seen, "keytally_requests_total", &[]), 5.0, "counters of the old label stay");
    let none = CallRecord { key: None, ..bare() };
    metrics.observe(&none, false);
    assert_eq!(info(&[("key", "none")]), 0, "no credential, nothing to join");
    assert_eq!(sum(&scrape(&metrics), "keytally_requests_total", &[("key", "none")]), 1.0);
}

#[test]
fn limits_show_their_lowest_and_vanish() {
    let (metrics, clock) = with_clock(config());
    let see = |seconds: u64, stated: RateLimit| {
        clock.store(seconds * 1_000, Ordering::Relaxed);
        let mut record = CallRecord { account: Some("acct".into()), ..call("k", "m") };
        record.timing.head = Some(record.timing.total);
        record.limits.limits.push(stated);
        metrics.observe(&record, false);
    };
    let show = |seconds: u64| {
        clock.store(seconds * 1_000, Ordering::Relaxed);
        let seen = scrape(&metrics);
        let get = |name| pick(&seen, name, &[("account", "acct"), ("resource", "requests")]).first().copied();
        (get("keytally_ratelimit_limit"), get("keytally_ratelimit_remaining"), get("keytally_ratelimit_headroom_ratio"))
    };
    see(100, limit(LimitResource::Requests, 200.0, 10.0, 60));
    see(130, limit(LimitResource::Requests, 200.0, 150.0, 60));
    assert_eq!(show(131), (Some(200.0), Some(150.0), Some(0.05)), "the lowest of the last minute");
    assert_eq!(show(165), (Some(200.0), Some(150.0), Some(0.75)), "10 of 200 is more than a minute old");
    assert_eq!(show(189).2, Some(0.75));
    assert_eq!(show(195), (Some(200.0), Some(150.0), None), "reset, and nothing heard since");
    assert_eq!(show(489).0, Some(200.0));
    assert_eq!(show(490), (None, None, None), "five minutes after the reset at 190");
    let before = metrics.0.budget.has_room(Tier::Exact);
    assert!(before);
    for broken in [-1.0, f64::NAN, f64::INFINITY] {
        see(500, limit(LimitResource::Requests, broken, broken, 60));
    }
    assert_eq!(show(501), (None, None, None));
    see(510, limit(LimitResource::Requests, 0.0, 0.0, 60));
    assert_eq!(show(511), (Some(0.0), Some(0.0), None), "no share of nothing");
    see(520, limit(LimitResource::Requests, 100.0, 250.0, 60));
    assert_eq!(show(521).2, Some(1.0));
    // The head of a long stream came before the answer at 520: it must not overwrite what that said.
    clock.store(530_000, Ordering::Relaxed);
    let mut old = CallRecord { account: Some("acct".into()), ..call("k", "m") };
    old.timing = Timing { total: Duration::from_secs(25), head: Some(Duration::from_secs(1)), ..Timing::default() };
    old.limits.limits.push(limit(LimitResource::Requests, 100.0, 1.0, 60));
    metrics.observe(&old, false);
    assert_eq!(show(531), (Some(100.0), Some(250.0), Some(0.01)), "but it was the lowest of the minute");
}

#[test]
fn expired_limits_give_their_series_back() {
    let (metrics, clock) = with_clock(config());
    metrics.observe(&call("k", "m"), false);
    let series = |metrics: &Metrics| sum(&scrape(metrics), "keytally_series", &[]);
    let before = (series(&metrics), format!("{:?}", metrics.0.budget));
    for (i, &resource) in LimitResource::ALL.iter().enumerate() {
        let mut record = CallRecord { account: Some("acct".into()), ..call("k", "m") };
        record.limits.limits.push(limit(resource, 10.0, i as f64, 1));
        metrics.observe(&record, false);
    }
    assert_eq!(series(&metrics), before.0 + 3.0 * LimitResource::ALL.len() as f64);
    clock.store(400_000, Ordering::Relaxed);
    assert_eq!(series(&metrics), before.0);
    assert_eq!(format!("{:?}", metrics.0.budget), before.1);
}

#[test]
fn the_status_row_tells_what_to_do_and_no_secret() {
    let (metrics, _) = with_clock(config());
    metrics.observe(&CallRecord { time: at(1), ..call("search", "m") }, false);
    let mut refused = failed("search", "m", Outcome::AuthRevoked, Fault::Key);
    refused.time = at(60);
    refused.first_fix = Some("auth_revoked".into());
    refused.findings = vec![Finding::KeyInUrl];
    metrics.observe(&refused, false);
    let rows = metrics.keys();
    assert_eq!(rows.len(), 1);
    let row = serde_json::to_value(&rows[0]).unwrap();
    assert_eq!(row["key"], "search");
    assert_eq!(row["fingerprint"], "openai:3f9a0c41b2d7");
    assert_eq!(row["up"], false);
    assert_eq!(row["calls"], 2);
    assert_eq!(row["failures"], 1);
    assert_eq!(row["spend_usd"], "0.0015");
    assert_eq!(row["last_success"], "2023-11-14T22:13:21.000Z");
    assert_eq!(row["last"]["outcome"], "auth_revoked");
    assert_eq!(row["last"]["first_fix"], "auth_revoked");
    assert_eq!(row["findings"]["key_in_url"], 1);
}

#[test]
fn guards_count_what_is_open() {
    let (metrics, _) = with_clock(config());
    let open = (metrics.in_flight("openai"), metrics.in_flight("openai"), metrics.connection(Side::Upstream));
    let seen = scrape(&metrics);
    assert_eq!(sum(&seen, "keytally_requests_in_flight", &[("provider", "openai")]), 2.0);
    assert_eq!(sum(&seen, "keytally_connections", &[("side", "upstream")]), 1.0);
    assert_eq!(sum(&seen, "keytally_connections", &[("side", "client")]), 0.0);
    drop(open);
    let seen = scrape(&metrics);
    assert_eq!(sum(&seen, "keytally_requests_in_flight", &[]), 0.0);
    assert_eq!(sum(&seen, "keytally_connections", &[]), 0.0);
}

#[test]
fn the_sidecar_tells_of_itself() {
    let (metrics, _) = with_clock(config());
    metrics.dropped(Signal::Traces, DropReason::QueueFull, 3);
    metrics.queue_length(Signal::Ledger, 17);
    drop(metrics.tunnel(Unread::Pinned, "openai"));
    metrics.tap_overflow(Unreadable::EventLimit);
    metrics.config_reloaded(true, at(10));
    metrics.config_reloaded(false, at(20));
    metrics.price_book(at(30));
    let seen = scrape(&metrics);
    let dropped = [("signal", "traces"), ("reason", "queue_full")];
    assert_eq!(sum(&seen, "keytally_telemetry_dropped_total", &dropped), 3.0);
    assert_eq!(sum(&seen, "keytally_telemetry_dropped_total", &[]), 3.0);
    assert_eq!(sum(&seen, "keytally_telemetry_queue_length", &[("signal", "ledger")]), 17.0);
    assert_eq!(sum(&seen, "keytally_tunnelled_connections_total", &[("reason", "pinned")]), 1.0);
    assert_eq!(sum(&seen, "keytally_tap_overflows_total", &[("reason", "event_limit")]), 1.0);
    assert_eq!(pick(&seen, "keytally_config_last_reload_successful", &[]), [0.0]);
    assert_eq!(pick(&seen, "keytally_config_last_reload_success_timestamp_seconds", &[]), [1_700_000_010.0]);
    assert_eq!(pick(&seen, "keytally_price_table_timestamp_seconds", &[]), [1_700_000_030.0]);
    assert_eq!(pick(&seen, "keytally_build_info", &[("revision", "0123abc")]), [1.0]);
}
