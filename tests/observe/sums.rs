//! Counters, histograms and spans of a mixed run add up to its call records; promtool and Prometheus read them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::{Command, Stdio};

use http::Request;
use http_body_util::Full;
use serde_json::Value;

use super::mixed::{Mixed, NAMED};
use super::{Killed, free_port, program, wait_until};
use crate::support::collector::{Collector, Span};
use crate::support::{Samples, Sidecar, get, send, skip};

/// Name of a series without its labels, then its labels and values in the order of their names.
type Series = (String, BTreeMap<String, String>);
type Sums = BTreeMap<Series, f64>;

/// Adds up what the metrics must be, by nothing but the call records and `docs/metrics.md`.
fn sums_of(records: &[Value]) -> Sums {
    let models = listed_models(records);
    let mut sums = Sums::new();
    for record in records {
        let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        let provider = text("provider");
        let key = ["key_name", "key"].into_iter().find_map(|name| record[name].as_str()).unwrap_or("none").to_owned();
        let model = model_label(record, &models);
        let mut add = |name: &str, labels: &[(&str, &str)], value: f64| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            *sums.entry((name.to_owned(), labels)).or_default() += value;
        };
        let usage = |name: &str| record["usage"][name].as_u64().unwrap_or(0);
        let of_key = [("key", key.as_str()), ("provider", provider.as_str()), ("model", model.as_str())];
        let of_model = &of_key[1..];
        let with = |labels: &[(&'static str, &str)], name: &'static str, value: &str| {
            let mut all: Vec<(&str, String)> = labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
            all.push((name, value.to_owned()));
            all
        };
        let mut put = |name: &str, labels: Vec<(&str, String)>, value: f64| {
            let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
            add(name, &labels, value);
        };

        let mut labels = with(&of_key, "operation", &text("operation"));
        labels.push(("outcome", text("outcome")));
        labels.push(("fault", text("fault")));
        put("keytally_requests_total", labels, 1.0);
        put("keytally_usage_records_total", with(&of_key, "usage_source", &text("usage_source")), 1.0);
        for (kind, tokens) in split(&usage) {
            put("keytally_tokens_total", with(&of_key, "type", kind), tokens as f64);
        }
        let cost = record["cost_usd"].as_str().map(|cost| cost.parse::<f64>().expect("a decimal"));
        if let Some(cost) = cost {
            let source = text("usage_source");
            let source = if source == "none" { "reported".to_owned() } else { source };
            put("keytally_spend_usd_total", with(&of_key, "usage_source", &source), cost);
        }
        let has_usage = record.get("usage").is_some();
        let half = record["unpriced_tokens"].as_u64();
        let status = match (cost, record["unpriced_reason"].as_str()) {
            (Some(_), _) if half.is_some() => Some("partial"),
            (Some(_), _) => Some("priced"),
            (None, Some("free")) => Some("free"),
            (None, Some("no_model" | "unknown_model" | "unknown_provider" | "no_rate"))
                if has_usage || text("outcome") == "ok" =>
            {
                Some("unpriced")
            }
            _ => None,
        };
        if let Some(status) = status {
            put("keytally_pricing_lookups_total", with(of_model, "status", status), 1.0);
        }
        let all = usage("input_tokens") + usage("output_tokens");
        let unpriced = if status == Some("unpriced") { all } else { half.unwrap_or(0) };
        if unpriced > 0 {
            put("keytally_unpriced_tokens_total", with(&of_model[..1], "model", &model), unpriced as f64);
        }
        let searches = usage("web_searches") + usage("file_searches") + usage("search_units");
        for (unit, count) in [
            ("image", usage("images") as f64),
            ("audio_second", usage("input_audio_millis") as f64 / 1e3),
            ("character", usage("input_characters") as f64),
            ("page", usage("pages") as f64),
            ("search", searches as f64),
            ("request", f64::from(u8::from(!has_usage && cost.is_some_and(|cost| cost > 0.0)))),
        ] {
            if count > 0.0 {
                put("keytally_billed_units_total", with(&of_key, "unit", unit), count);
            }
        }
        let code = record["status"].as_u64().map_or("none".to_owned(), |code| code.to_string());
        put("keytally_http_responses_total", with(&of_model[..1], "code", &code), 1.0);
        for (direction, field) in [("request", "request_bytes"), ("response", "response_bytes")] {
            let bytes = record[field].as_u64().expect("bytes") as f64;
            if bytes > 0.0 {
                put("keytally_body_bytes_total", with(&of_model[..1], "direction", direction), bytes);
            }
        }
        for finding in record["findings"].as_array().into_iter().flatten() {
            put("keytally_key_findings_total", with(&of_key[..2], "finding", finding.as_str().expect("a word")), 1.0);
        }

        let mut histogram = |name: &str, labels: Vec<(&str, String)>, value: f64| {
            put(&format!("{name}_count"), labels.clone(), 1.0);
            put(&format!("{name}_sum"), labels, value);
        };
        let result = if text("outcome") == "ok" { "ok" } else { "error" };
        let duration = record["duration_seconds"].as_f64().expect("a duration");
        histogram("keytally_request_duration_seconds", with(of_model, "result", result), duration);
        if let Some(first) = record["time_to_first_token_seconds"].as_f64() {
            histogram("keytally_time_to_first_token_seconds", with(&of_model[..1], "model", &model), first);
        }
        for (direction, field) in [("input", "input_tokens"), ("output", "output_tokens")] {
            if let Some(tokens) = record["usage"][field].as_u64() {
                histogram("keytally_request_tokens", with(of_model, "direction", direction), tokens as f64);
            }
        }
        let visible = usage("output_tokens").saturating_sub(usage("reasoning_tokens"));
        let counted = record["usage_source"] == "reported" || record["usage_source"] == "injected";
        if record["time_to_first_token_seconds"].is_number() && counted && visible >= 2 {
            put("keytally_time_per_output_token_seconds_count", with(&of_model[..1], "model", &model), 1.0);
        }
        put("keytally_overhead_seconds_count", vec![("phase", "request".to_owned())], 1.0);
        if record["status"].is_number() {
            put("keytally_overhead_seconds_count", vec![("phase", "response".to_owned())], 1.0);
        }
    }
    sums
}

/// `docs/metrics.md`, `model`. What the price book lists is known by what was priced.
fn model_label(record: &Value, listed: &HashMap<(String, String), String>) -> String {
    let Some(name) = name_of(record) else { return "none".to_owned() };
    if let Some(priced) = record["priced_model"].as_str().filter(|_| name != "house-model") {
        return priced.to_owned();
    }
    let provider = record["provider"].as_str().expect("a provider").to_owned();
    match listed.get(&(provider, name.to_owned())) {
        Some(id) => id.clone(),
        None if record["status"].as_u64().is_some_and(|status| (200..300).contains(&status)) => {
            name.to_ascii_lowercase()
        }
        None => "unconfirmed".to_owned(),
    }
}

fn name_of(record: &Value) -> Option<&str> {
    record["response_model"].as_str().or(record["request_model"].as_str()).filter(|name| !name.is_empty())
}

fn listed_models(records: &[Value]) -> HashMap<(String, String), String> {
    // No call to these is priced in the run.
    let known =
        [("azure_openai", "gpt-4o-mini", "gpt-4o-mini"), ("vertex", "gemini-2.0-flash-001", "gemini-2.0-flash")];
    let mut listed: HashMap<_, _> =
        known.map(|(provider, name, id)| ((provider.to_owned(), name.to_owned()), id.to_owned())).into();
    for record in records {
        // A rate of the configuration is not in the book.
        let priced = record["priced_model"].as_str().filter(|id| *id != "house-model");
        let provider = record["provider"].as_str().expect("a provider");
        for name in ["response_model", "request_model"].into_iter().filter_map(|name| record[name].as_str()) {
            if let Some(id) = priced {
                listed.insert((provider.to_owned(), name.to_owned()), id.to_owned());
            }
        }
    }
    listed
}

/// Each token in exactly one type: `docs/metrics.md`, `keytally_tokens_total`.
fn split(usage: &dyn Fn(&str) -> u64) -> Vec<(&'static str, u64)> {
    let mut split = Vec::new();
    let mut share = |left: &mut u64, kind, wanted: u64| {
        let part = wanted.min(*left);
        *left -= part;
        split.push((kind, part));
    };
    let mut input = usage("input_tokens");
    share(&mut input, "input_cache_read", usage("cache_read_tokens"));
    share(&mut input, "input_cache_write", usage("cache_write_tokens"));
    let audio = usage("input_audio_tokens").saturating_sub(usage("cache_audio_read_tokens"));
    share(&mut input, "input_audio", audio);
    share(&mut input, "input_image", usage("input_image_tokens"));
    let mut output = usage("output_tokens");
    share(&mut output, "output_reasoning", usage("reasoning_tokens"));
    share(&mut output, "output_audio", usage("output_audio_tokens"));
    share(&mut output, "output_image", usage("output_image_tokens"));
    split.extend([("input_uncached", input), ("output_text", output)]);
    split.retain(|(_, tokens)| *tokens > 0);
    split
}

/// The families that the records add up to, as the metrics show them.
const COUNTERS: [&str; 10] = [
    "keytally_requests_total",
    "keytally_usage_records_total",
    "keytally_tokens_total",
    "keytally_spend_usd_total",
    "keytally_pricing_lookups_total",
    "keytally_unpriced_tokens_total",
    "keytally_billed_units_total",
    "keytally_http_responses_total",
    "keytally_body_bytes_total",
    "keytally_key_findings_total",
];
const HISTOGRAMS: [&str; 8] = [
    "keytally_request_duration_seconds_count",
    "keytally_request_duration_seconds_sum",
    "keytally_time_to_first_token_seconds_count",
    "keytally_time_to_first_token_seconds_sum",
    "keytally_request_tokens_count",
    "keytally_request_tokens_sum",
    "keytally_time_per_output_token_seconds_count",
    "keytally_overhead_seconds_count",
];

/// Both ways: nothing is missing, nothing is there that no record accounts for.
#[track_caller]
fn assert_same(what: &str, expected: &Sums, found: &Sums) {
    let mut wrong = Vec::new();
    let all: BTreeSet<&Series> = expected.keys().chain(found.keys()).collect();
    for series in all {
        let (Some(want), Some(have)) = (expected.get(series), found.get(series)) else {
            wrong.push(format!("{series:?}: {:?} by the records, {:?} found", expected.get(series), found.get(series)));
            continue;
        };
        // Records round times to the microsecond.
        let slack = if series.0.ends_with("seconds_sum") { 1e-6 * 3_000.0 } else { 1e-9 * want.abs().max(1e-3) };
        if (want - have).abs() > slack {
            wrong.push(format!("{series:?}: {want} by the records, {have} found"));
        }
    }
    assert!(wrong.is_empty(), "{what}: {} of {} differ:\n{}", wrong.len(), expected.len(), wrong.join("\n"));
}

fn found_in(samples: &Samples) -> Sums {
    let families = COUNTERS.iter().chain(&HISTOGRAMS);
    let all = families.flat_map(|name| samples.all(name).map(|(labels, value)| ((*name).to_owned(), labels, value)));
    all.map(|(name, labels, value)| ((name, labels.clone()), value)).collect()
}

async fn scrape(sidecar: &Sidecar, accept: &str) -> String {
    let request = Request::get("/metrics").header("accept", accept).body(Full::default()).unwrap();
    let answer = send(sidecar.admin, request).await;
    let kind = answer.head.headers["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with(accept), "asked for {accept}, got {kind}");
    String::from_utf8(answer.body.to_vec()).expect("UTF-8")
}

/// Samples of OpenMetrics without their exemplars.
fn open_metrics(text: &str) -> Samples {
    let lines: Vec<&str> = text.lines().map(|line| line.split(" # {").next().unwrap_or(line)).collect();
    Samples::parse(&lines.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_run_adds_up_everywhere() {
    let collector = Collector::start().await;
    let mixed = Mixed::ready().await;
    let mut config = mixed.config();
    config.push_str("metrics: { birth_hold: 0s }\n");
    let sidecar = Sidecar::start_with(&config, |command| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address));
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50").env("OTEL_BSP_MAX_QUEUE_SIZE", "10000");
    });
    let expected = mixed.run(sidecar.proxy).await;
    assert!(expected.calls >= 2_000, "{} calls only", expected.calls);
    let records = sidecar.wait_for_records(expected.calls).await;
    assert_eq!(records.len(), expected.calls, "one record a call");
    is_mixed(&records, &expected);

    // Nothing moves any more: both formats and Prometheus read the same.
    let sums = sums_of(&records);
    let text = scrape(&sidecar, "text/plain").await;
    assert_same("text format", &sums, &found_in(&Samples::parse(&text)));
    let open = scrape(&sidecar, "application/openmetrics-text").await;
    assert_same("OpenMetrics", &sums, &found_in(&open_metrics(&open)));

    let samples = Samples::parse(&text);
    // Each part of the overhead is rounded by itself in the records' sum.
    let overhead: f64 = records.iter().map(|record| record["overhead_seconds"].as_f64().expect("a number")).sum();
    let counted = samples.sum("keytally_overhead_seconds_sum", &[]).expect("a sum");
    assert!((overhead - counted).abs() < 2e-6 * records.len() as f64, "{overhead} and {counted}");
    assert_eq!(samples.sum("keytally_label_overflow_total", &[]), Some(0.0), "nothing was folded");
    assert_eq!(samples.sum("keytally_requests_in_flight", &[]), Some(0.0), "all calls have ended");
    assert_eq!(samples.sum("keytally_telemetry_dropped_total", &[]), Some(0.0));
    for (labels, tunnelled) in samples.all("keytally_tunnelled_connections_total") {
        assert_eq!(tunnelled, 0.0, "{labels:?}");
    }
    assert_eq!(samples.all("keytally_tunnelled_connections_total").count(), 8);
    last_used(&records, &samples);

    let spans = collector.wait_for(records.len()).await;
    spans_agree(&records, &spans);
    exemplars_lead_to_spans(&open, &spans);
    promtool_has_nothing_to_say(&text);
    prometheus_agrees(&sidecar, &sums).await;
}

/// What the run was meant to hold is in it: else the sums prove little.
fn is_mixed(records: &[Value], expected: &super::mixed::Expected) {
    let count = |field: &str, value: &str| records.iter().filter(|record| record[field] == value).count();
    let outcomes: BTreeSet<&str> = records.iter().filter_map(|record| record["outcome"].as_str()).collect();
    assert!(outcomes.len() >= 24, "{outcomes:?}");
    let unknown = records.iter().filter(|record| record["end"] == "refused").count();
    assert_eq!(unknown, expected.unknown);
    let dead = records.iter().filter(|record| record["provider"] == "dead" && record["end"] == "no_answer").count();
    assert_eq!(dead, expected.dead);
    assert_eq!(count("end", "client_cancelled"), expected.left);
    let cut = count("end", "truncated") + count("end", "body_error");
    assert!(cut >= expected.cut, "{cut} of {}", expected.cut);
    for (name, _, _) in NAMED {
        assert!(count("key_name", name) >= 50, "{name}");
    }
    for (field, values) in [
        ("usage_source", &["reported", "estimated", "none"][..]),
        ("unpriced_reason", &["free", "unknown_model", "repeated_usage", "not_billed", "no_usage"]),
    ] {
        for value in values {
            assert!(count(field, value) >= 10, "{field} {value}: {}", count(field, value));
        }
    }
    assert!(records.iter().filter(|record| record["cost_usd"].is_string()).count() >= 500);
    let partly = records.iter().filter(|record| record["unpriced_tokens"].as_u64() > Some(0)).count();
    let images = records.iter().filter(|record| record["usage"]["images"] == 2).count();
    assert!(partly >= 10 && images >= 10, "{partly} partly priced, {images} with images");
    assert!(records.iter().any(|record| record["retry_count"].as_u64() > Some(1)));
    let findings: BTreeSet<&str> = records
        .iter()
        .flat_map(|record| record["findings"].as_array().into_iter().flatten().filter_map(Value::as_str))
        .collect();
    assert!(findings.len() >= 4, "{findings:?}");
}

/// Gauges of keys: the start of the latest call, and of the latest that went well.
fn last_used(records: &[Value], samples: &Samples) {
    let seconds = |record: &Value| {
        let time: jiff::Timestamp = record["time"].as_str().expect("a time").parse().expect("RFC 3339");
        time.as_millisecond() as f64 / 1e3
    };
    for (name, only_ok) in
        [("keytally_key_last_used_timestamp_seconds", false), ("keytally_key_last_success_timestamp_seconds", true)]
    {
        let mut latest: BTreeMap<(String, String), f64> = BTreeMap::new();
        for record in records.iter().filter(|record| !only_ok || record["outcome"] == "ok") {
            let key = ["key_name", "key"].into_iter().find_map(|name| record[name].as_str()).unwrap_or("none");
            let of = (key.to_owned(), record["provider"].as_str().expect("a provider").to_owned());
            let entry = latest.entry(of).or_default();
            *entry = entry.max(seconds(record));
        }
        assert_eq!(samples.all(name).count(), latest.len(), "{name}");
        for (labels, value) in samples.all(name) {
            let expected = latest[&(labels["key"].clone(), labels["provider"].clone())];
            assert!((value - expected).abs() < 0.002, "{name} {labels:?}: {value}, {expected} by the records");
        }
    }
}

/// One span a call, with the same ids and figures.
fn spans_agree(records: &[Value], spans: &[Span]) {
    assert_eq!(spans.len(), records.len());
    let by_call: HashMap<&str, &Span> =
        spans.iter().filter_map(|span| Some((span.attributes["keytally.call_id"].as_str()?, span))).collect();
    assert_eq!(by_call.len(), records.len(), "each span is of another call");
    for record in records {
        let span = by_call[record["call_id"].as_str().expect("an id")];
        assert_eq!(
            (span.trace_id.as_str(), span.span_id.as_str()),
            (text(record, "trace_id"), text(record, "span_id"))
        );
        for (attribute, field) in [
            ("keytally.outcome", &record["outcome"]),
            ("keytally.fault", &record["fault"]),
            ("http.response.status_code", &record["status"]),
            ("gen_ai.request.model", &record["request_model"]),
            ("gen_ai.response.model", &record["response_model"]),
            ("gen_ai.usage.input_tokens", &record["usage"]["input_tokens"]),
            ("gen_ai.usage.output_tokens", &record["usage"]["output_tokens"]),
            ("keytally.key.fingerprint", &record["key"]),
            ("keytally.usage_source", &record["usage_source"]),
            ("keytally.unpriced_reason", &record["unpriced_reason"]),
            ("keytally.findings", &record["findings"]),
            ("keytally.way", &record["way"]),
        ] {
            assert_eq!(span.attributes.get(attribute).unwrap_or(&Value::Null), field, "{attribute} of {record}");
        }
        let cost = record["cost_usd"].as_str().map(|cost| cost.parse::<f64>().expect("a decimal"));
        assert_eq!(span.attributes.get("keytally.cost.usd").and_then(Value::as_f64), cost, "{record}");
        // A fix for everything that is not `ok`.
        let fix = span.attributes.get("keytally.first_fix");
        assert_eq!(fix.is_some(), record["outcome"] != "ok", "{record}");
        let duration = record["duration_seconds"].as_f64().expect("a duration");
        assert!((span.nanos as f64 / 1e9 - duration).abs() <= 1e-6, "{record}");
    }
}

fn text<'a>(record: &'a Value, name: &str) -> &'a str {
    record[name].as_str().unwrap_or_default()
}

fn exemplars_lead_to_spans(open: &str, spans: &[Span]) {
    let known: BTreeSet<(&str, &str)> =
        spans.iter().map(|span| (span.trace_id.as_str(), span.span_id.as_str())).collect();
    let mut families: BTreeMap<&str, usize> = BTreeMap::new();
    for (series, exemplar) in open.lines().filter_map(|line| line.split_once(" # {")) {
        let label =
            |name: &str| exemplar.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
        let ids = (label("trace_id").expect("a trace"), label("span_id").expect("a span"));
        assert!(known.contains(&ids), "no span {ids:?} arrived");
        *families.entry(series.split('{').next().unwrap_or_default()).or_default() += 1;
    }
    for family in [
        "keytally_request_duration_seconds_bucket",
        "keytally_time_to_first_token_seconds_bucket",
        "keytally_requests_total",
        "keytally_spend_usd_total",
    ] {
        assert!(families.get(family).is_some_and(|count| *count > 5), "{family}: {families:?}");
    }
    assert_eq!(families.len(), 4, "{families:?}");
}

fn promtool_has_nothing_to_say(text: &str) {
    let Some(promtool) = program("promtool") else { return skip("promtool") };
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.success(), said.as_str()), (true, ""));
}

async fn prometheus_agrees(sidecar: &Sidecar, sums: &Sums) {
    let Some(prometheus) = program("prometheus") else { return skip("prometheus") };
    let directory = tempfile::tempdir().unwrap();
    let config = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs: [{{ job_name: keytally, static_configs: [{{ targets: [\"{}\"] }}] }}]\n",
        sidecar.admin
    );
    std::fs::write(directory.path().join("prometheus.yml"), config).unwrap();
    let port = free_port();
    let log = std::fs::File::create(directory.path().join("log")).unwrap();
    let _prometheus = Killed(
        Command::new(prometheus)
            .arg(format!("--config.file={}", directory.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--enable-feature=exemplar-storage")
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let query = async |query: &str| -> Vec<Value> {
        let encoded: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = get(address, &format!("/api/v1/query?query={encoded}")).await.json();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().expect("a vector").clone()
    };
    wait_until("Prometheus listens", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
    wait_until("Prometheus is ready", async || get(address, "/-/ready").await.head.status == 200).await;
    wait_until("it has scraped", async || {
        query("up").await.iter().any(|up| up["value"][1] == "1") && !query("keytally_build_info").await.is_empty()
    })
    .await;

    let mut found = Sums::new();
    for family in COUNTERS.iter().chain(&HISTOGRAMS) {
        for series in query(family).await {
            let mut labels: BTreeMap<String, String> =
                serde_json::from_value(series["metric"].clone()).expect("labels are texts");
            for own in ["__name__", "job", "instance"] {
                labels.remove(own);
            }
            let value = series["value"][1].as_str().expect("a number as text").parse().expect("a number");
            found.insert(((*family).to_owned(), labels), value);
        }
    }
    assert_same("Prometheus", sums, &found);
    // As a person asks: by key, summed there.
    let by_key = query("sum by (key) (keytally_spend_usd_total)").await;
    let mut expected: BTreeMap<&str, f64> = BTreeMap::new();
    for ((name, labels), value) in sums {
        if name == "keytally_spend_usd_total" {
            *expected.entry(labels["key"].as_str()).or_default() += value;
        }
    }
    assert_eq!(by_key.len(), expected.len());
    for series in by_key {
        let key = series["metric"]["key"].as_str().expect("a key");
        let value: f64 = series["value"][1].as_str().expect("text").parse().expect("a number");
        assert!((value - expected[key]).abs() <= 1e-9 * expected[key].max(1e-3), "{key}: {value}, {}", expected[key]);
    }
    let now = jiff::Timestamp::now().as_second();
    let answer = get(
        address,
        &format!(
            "/api/v1/query_exemplars?query=keytally_request_duration_seconds_bucket&start={}&end={}",
            now - 600,
            now + 60
        ),
    )
    .await
    .json();
    assert!(answer["data"].as_array().is_some_and(|series| !series.is_empty()), "no exemplars: {answer}");
}
