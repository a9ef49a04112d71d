//! What is written comes back; who may write; what is kept; what is refused.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use super::*;
use crate::call::{CallId, CallRecord, Money, Outcome, UnpricedReason, Usage, UsageSource};
use crate::export::tests::{bare, full, refused};
use crate::export::to_json;
use crate::protocol::random::Random;

const KEEP: Retention = Retention { age: Duration::from_secs(90 * 86_400), max_bytes: 1 << 30 };

fn file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    (dir, path)
}

/// A call of that time, with an id of its own.
fn at(record: CallRecord, time: SystemTime) -> CallRecord {
    CallRecord { time, call_id: CallId::new(time), ..record }
}

fn start() -> SystemTime {
    // 2026-03-01T00:00:00Z
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_323_200)
}

fn write(path: &std::path::Path, calls: &[CallRecord]) {
    Store::open(path).unwrap().write(calls, false).unwrap();
}

fn all(reader: &Reader, query: &Query) -> Vec<CallRecord> {
    let mut calls = Vec::new();
    let take = |call| {
        calls.push(call);
        ControlFlow::Continue(())
    };
    reader.calls(query, take).unwrap();
    calls
}

#[test]
fn every_field_of_the_call_record_comes_back() {
    let (_dir, path) = file();
    let mut whole = full();
    let usage = &mut whole.usage;
    for (number, part) in [
        &mut usage.cache_write_1h_tokens,
        &mut usage.cache_audio_read_tokens,
        &mut usage.tool_input_tokens,
        &mut usage.web_searches,
        &mut usage.file_searches,
        &mut usage.search_units,
        &mut usage.images,
        &mut usage.input_audio_millis,
        &mut usage.input_characters,
        &mut usage.pages,
    ]
    .into_iter()
    .enumerate()
    {
        *part = Some(number as u64);
    }
    (whole.unpriced_tokens, whole.partly_priced, whole.cost_stated) = (7, true, true);
    whole.cost = Some(Money::parse("12345.678901234567891").unwrap());
    let zero = CallRecord {
        usage: Usage { input_tokens: Some(0), output_tokens: Some(0), ..Usage::default() },
        cost: Some(Money::ZERO),
        ..bare()
    };
    let calls: Vec<_> = [bare(), whole, refused(), zero]
        .into_iter()
        .enumerate()
        .map(|(n, call)| at(call, start() + Duration::from_secs(n as u64)))
        .collect();
    write(&path, &calls);
    let read = all(&Reader::open(&path).unwrap(), &Query::default());
    let lines = |calls: &[CallRecord]| calls.iter().map(|call| to_json(call).to_string()).collect::<Vec<_>>();
    let mut expected = lines(&calls);
    expected.reverse();
    assert_eq!(lines(&read), expected, "newest first");
    let whole = &read[2];
    assert_eq!((whole.cost_stated, whole.partly_priced, whole.account.as_deref()), (true, true, Some("0c41b2d7")));
    assert_eq!(read[1].first_fix.as_deref(), Some("rate_limit_tokens"));
}

#[test]
fn texts_that_repeat_are_stored_once() {
    let (_dir, path) = file();
    for _ in 0..2 {
        let calls: Vec<_> = (0..100).map(|n| at(full(), start() + Duration::from_secs(n))).collect();
        write(&path, &calls);
    }
    let connection = Connection::open(&path).unwrap();
    let count = |table: &str| {
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, u32>(0)).unwrap()
    };
    assert_eq!(["calls", "records", "callers", "targets", "results"].map(count), [200, 200, 1, 1, 1]);
}

#[test]
fn a_text_in_use_is_not_forgotten_for_those_that_come_once() {
    let (_dir, path) = file();
    let model = |name: String| CallRecord { request_model: Some(name), ..bare() };
    let mut store = Store::open(&path).unwrap();
    // More than are remembered.
    for batch in 0..25 {
        let once = (0..1_000).map(|n| model(format!("once-{batch}-{n}")));
        let calls: Vec<_> = once.chain([model("again".to_owned())]).map(|call| at(call, start())).collect();
        store.write(&calls, false).unwrap();
    }
    // And the first of them comes back after all.
    store.write(&[at(model("once-0-0".to_owned()), start())], false).unwrap();
    let connection = Connection::open(&path).unwrap();
    let rows = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
    assert_eq!(rows("SELECT count(*) FROM targets WHERE request_model = 'again'"), 1);
    assert_eq!(rows("SELECT count(*) FROM targets WHERE request_model = 'once-0-0'"), 2);
    assert_eq!(rows("SELECT count(*) FROM targets"), 25_002);
    // Opened again, the newest are known.
    drop(store);
    let newest = ["again", "once-0-0", "once-24-999", "once-20-0"].map(|name| at(model(name.to_owned()), start()));
    write(&path, &newest);
    assert_eq!(rows("SELECT count(*) FROM targets WHERE request_model = 'once-0-0'"), 2);
    assert_eq!(rows("SELECT count(*) FROM targets WHERE request_model = 'once-24-999'"), 1);
    assert_eq!(rows("SELECT count(*) FROM targets WHERE request_model = 'once-20-0'"), 1);
    assert_eq!(rows("SELECT count(*) FROM targets WHERE request_model = 'again'"), 2, "the oldest of all rows");
    assert_eq!(all(&Reader::open(&path).unwrap(), &Query::default()).len(), 25_030);
}

#[test]
fn one_process_writes_and_others_read() {
    let (_dir, path) = file();
    let mut store = Store::open(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, LedgerError::InUse { process: Some(_), .. }), "{error:?}");
    let said = format!("another keytally (process {}) writes this ledger", std::process::id());
    assert!(error.to_string().contains(&said), "{error}");
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.extent().unwrap(), Extent { calls: 0, times: None });
    store.write([&at(full(), start())], false).unwrap();
    assert_eq!(reader.extent().unwrap(), Extent { calls: 1, times: Some((start(), start())) });
    drop(store);
    Store::open(&path).unwrap();
}

#[test]
fn a_batch_written_again_is_in_the_file_once() {
    let (_dir, path) = file();
    let calls: Vec<_> = (0..10).map(|n| at(full(), start() + Duration::from_millis(n))).collect();
    write(&path, &calls[..5]);
    let mut store = Store::open(&path).unwrap();
    store.write(&calls, true).unwrap();
    assert_eq!(all(&Reader::open(&path).unwrap(), &Query::default()).len(), 10);
}

#[test]
fn totals_are_exact_and_told_apart() {
    let (_dir, path) = file();
    let cheap = Money::from_femto(1);
    let dear = Money::parse("100000000").unwrap();
    let mut calls = Vec::new();
    for n in 0..30u64 {
        let mut call = at(full(), start() + Duration::from_secs(n * 3_600));
        call.cost = Some(if n % 2 == 0 { cheap } else { dear });
        call.usage_source = if n < 10 { UsageSource::Estimated } else { UsageSource::Reported };
        call.retry_count = u32::from(n == 3);
        calls.push(call);
    }
    let unknown = CallRecord { cost: None, unpriced_reason: Some(UnpricedReason::UnknownModel), ..full() };
    calls.push(at(unknown, start()));
    let repeated = CallRecord { cost: None, unpriced_reason: Some(UnpricedReason::RepeatedUsage), ..full() };
    calls.push(at(repeated, start()));
    calls.push(at(refused(), start()));
    write(&path, &calls);
    let reader = Reader::open(&path).unwrap();
    let groups = reader.totals(&Query::default(), &[]).unwrap();
    let [Group { values, totals }] = groups.as_slice() else { panic!("{groups:?}") };
    assert!(values.is_empty());
    assert_eq!((totals.calls, totals.failed, totals.retried), (33, 1, 3), "the others are retries by their fixture");
    // More than an i64 of femto-dollars, and still exact to the last one.
    assert_eq!(totals.cost.femto(), 15 + 15 * 100_000_000 * 1_000_000_000_000_000i128);
    assert_eq!(totals.estimated_cost.femto(), 5 + 5 * 100_000_000 * 1_000_000_000_000_000i128);
    assert_eq!((totals.input_tokens, totals.output_tokens), (31 * 1_200, 31 * 340));
    assert_eq!((totals.unpriced_calls, totals.unpriced_tokens), (1, 1_540));

    let by_day = reader.totals(&Query::default(), &[Dimension::Day, Dimension::Outcome]).unwrap();
    let days: Vec<_> = by_day.iter().map(|group| (group.values.join(" "), group.totals.calls)).collect();
    assert_eq!(
        days,
        [
            ("2026-03-01 ok".to_owned(), 26),
            ("2026-03-01 rate_limit_tokens".to_owned(), 1),
            ("2026-03-02 ok".to_owned(), 6)
        ]
    );
    let hours = reader.totals(&Query::default(), &[Dimension::Hour]).unwrap();
    assert_eq!((hours.len(), &*hours[1].values[0]), (30, "2026-03-01 01:00"));
    let mut sum = Totals::default();
    by_day.iter().for_each(|group| sum.add(&group.totals));
    assert_eq!(&sum, totals);
    // SQL can add it up as well.
    let connection = Connection::open(&path).unwrap();
    let (nano, femto): (i64, i64) =
        connection.query_row("SELECT sum(cost_nano), sum(cost_femto) FROM records", [], |row| row.try_into()).unwrap();
    assert_eq!(i128::from(nano) * 1_000_000 + i128::from(femto), totals.cost.femto());
}

#[test]
fn queries_choose() {
    let (_dir, path) = file();
    let mut other = at(refused(), start() + Duration::from_secs(60));
    (other.provider, other.request_model) = ("anthropic".into(), Some("claude-sonnet-5".to_owned()));
    other.timing.total = Duration::from_secs(30);
    write(&path, &[at(full(), start()), other]);
    let reader = Reader::open(&path).unwrap();
    let one = |text: &str| vec![text.to_owned()];
    let base = Query::default;
    let cases: Vec<(&str, Query, [usize; 2])> = vec![
        ("all", base(), [1, 1]),
        ("since", Query { since: Some(start() + Duration::from_secs(1)), ..base() }, [0, 1]),
        ("until", Query { until: Some(start() + Duration::from_secs(60)), ..base() }, [1, 0]),
        ("name", Query { keys: one("search-prod"), ..base() }, [1, 0]),
        ("fingerprint", Query { keys: one("openai:3f9a0c41b2d7"), ..base() }, [1, 0]),
        ("start of a name", Query { keys: one("search*"), ..base() }, [1, 0]),
        ("no key", Query { keys: one("none"), ..base() }, [0, 1]),
        ("model", Query { models: one("gpt-5"), ..base() }, [1, 0]),
        ("models", Query { models: vec!["gpt-5*".to_owned(), "claude-*".to_owned()], ..base() }, [1, 1]),
        ("provider", Query { providers: one("anthropic"), ..base() }, [0, 1]),
        ("team", Query { teams: one("search"), ..base() }, [1, 0]),
        ("client", Query { clients: one("none"), ..base() }, [0, 1]),
        ("outcome", Query { outcomes: vec![Outcome::RateLimitTokens], ..base() }, [0, 1]),
        ("failures", Query { failures: true, ..base() }, [0, 1]),
        ("slow", Query { slower_than: Some(Duration::from_secs(20)), ..base() }, [0, 1]),
        ("dear", Query { costlier_than: Some(Money::parse("0.003").unwrap()), ..base() }, [1, 0]),
        ("both", Query { keys: one("search-prod"), failures: true, ..base() }, [0, 0]),
    ];
    for (name, query, expected) in cases {
        let found = all(&reader, &query);
        let count = |provider: &str| found.iter().filter(|call| &*call.provider == provider).count();
        assert_eq!([count("openai"), count("anthropic")], expected, "{name}");
        let totals = reader.totals(&query, &[Dimension::Provider]).unwrap();
        let sums: BTreeMap<_, _> =
            totals.iter().map(|group| (&*group.values[0], group.totals.calls as usize)).collect();
        let sum = |provider| sums.get(provider).copied().unwrap_or(0);
        assert_eq!([sum("openai"), sum("anthropic")], expected, "{name}");
    }
}

#[test]
fn one_call_is_found_by_either_id() {
    let (_dir, path) = file();
    let calls: Vec<_> = (0..20).map(|n| at(full(), start() + Duration::from_secs(n))).collect();
    let mut with_id = at(refused(), start());
    with_id.provider_request_id = Some("abcdef".to_owned());
    write(&path, &calls);
    write(&path, &[with_id.clone()]);
    let reader = Reader::open(&path).unwrap();
    for call in &calls {
        let id = call.call_id.to_string();
        for text in [&id[..], &id[..24], &id[..14].to_uppercase()] {
            let found = reader.find(text, 5).unwrap();
            assert!(found.iter().any(|found| found.call_id == call.call_id), "{text}: {found:?}");
        }
    }
    assert_eq!(reader.find(&calls[0].call_id.to_string()[..6], 3).unwrap().len(), 3, "a short beginning fits several");
    let found = reader.find("abcdef", 5).unwrap();
    assert_eq!(found.iter().map(|call| call.call_id).collect::<Vec<_>>(), [with_id.call_id], "hex, and no call id");
    assert_eq!(reader.find("req_made_up", 2).unwrap().len(), 2);
    for nothing in ["", "zz", "ffffffffffffffffffffffffffffffff", "req_other", "'; DROP TABLE calls; --"] {
        assert!(reader.find(nothing, 5).unwrap().is_empty(), "{nothing}");
    }
}

#[test]
fn following_gives_each_call_once_in_the_order_of_their_ends() {
    let (_dir, path) = file();
    let mut store = Store::open(&path).unwrap();
    store.write([&at(full(), start())], false).unwrap();
    let reader = Reader::open(&path).unwrap();
    let mut seen = Vec::new();
    let last = reader.follow(&Query::default(), None, |_| panic!("nothing came since")).unwrap();
    // A long call that began before everything else ends now.
    let late = at(full(), start() - Duration::from_secs(3_600));
    store.write([&at(refused(), start()), &late], false).unwrap();
    let take = |call: CallRecord| {
        seen.push(call.call_id);
        ControlFlow::Continue(())
    };
    let last = reader.follow(&Query::default(), Some(last), take).unwrap();
    assert_eq!((seen.len(), seen[1]), (2, late.call_id));
    assert_eq!(reader.follow(&Query::default(), Some(last), |_| panic!("nothing came since")).unwrap(), last);
}

#[test]
fn a_key_goes_by_its_newest_name() {
    let (_dir, path) = file();
    let nameless = CallRecord { key_name: None, team: None, ..full() };
    let renamed = CallRecord { key_name: Some("search-eu".into()), ..full() };
    write(&path, &[at(nameless, start()), at(full(), start()), at(renamed, start())]);
    let mut reader = Reader::open(&path).unwrap();
    let by = |reader: &Reader| {
        let groups = reader.totals(&Query::default(), &[Dimension::Key, Dimension::Team]).unwrap();
        groups.iter().map(|group| (group.values.join(" "), group.totals.calls)).collect::<Vec<_>>()
    };
    assert_eq!(by(&reader), [("search-eu search".to_owned(), 3)]);
    let named =
        |reader: &Reader, name: &str| all(reader, &Query { keys: vec![name.to_owned()], ..Query::default() }).len();
    assert_eq!((named(&reader, "search-eu"), named(&reader, "search-prod")), (3, 1));
    reader.name_keys([("openai:3f9a0c41b2d7".parse().unwrap(), "new-name".into(), Some("core".into()))]);
    assert_eq!(by(&reader), [("new-name core".to_owned(), 1), ("new-name search".to_owned(), 2)]);
}

#[test]
fn old_calls_and_their_texts_go() {
    let (_dir, path) = file();
    let mut store = Store::open(&path).unwrap();
    let now = start() + Duration::from_secs(100 * 86_400);
    let old = CallRecord { team: Some("gone".into()), ..full() };
    let calls: Vec<_> = (0..5_000).map(|n| at(old.clone(), start() + Duration::from_secs(n))).collect();
    store.write(&calls, false).unwrap();
    store.write([&at(full(), now - Duration::from_secs(86_400))], false).unwrap();
    let mut steps = 0;
    while store.tidy(&KEEP, now).unwrap() {
        steps += 1;
    }
    assert!(steps > 1, "rows go in steps, so that new ones do not wait");
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.extent().unwrap().calls, 1);
    let connection = Connection::open(&path).unwrap();
    let teams: Vec<String> = connection
        .prepare("SELECT team FROM callers")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(teams, ["search"]);
    // Its texts are known to be gone.
    store.write([&at(old, now)], false).unwrap();
    assert_eq!(all(&reader, &Query { teams: vec!["gone".to_owned()], ..Query::default() }).len(), 1);
}

#[test]
fn the_file_stays_within_its_size() {
    let (_dir, path) = file();
    let mut store = Store::open(&path).unwrap();
    let keep = Retention { max_bytes: 1 << 20, ..KEEP };
    let last = start() + Duration::from_secs(19 * 1_000 + 999);
    for batch in 0..20 {
        let calls: Vec<_> = (0..1_000).map(|n| at(full(), start() + Duration::from_secs(batch * 1_000 + n))).collect();
        store.write(&calls, false).unwrap();
        while store.tidy(&keep, last).unwrap() {}
    }
    let extent = Reader::open(&path).unwrap().extent().unwrap();
    assert_eq!(extent.times.unwrap().1, last, "the newest stay");
    assert!((2_000..8_000).contains(&extent.calls), "{extent:?}");
    drop(store);
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes <= keep.max_bytes, "{bytes}");
}

/// What docs/ledger.md says of a row's size.
#[test]
fn a_row_takes_less_than_300_bytes() {
    let (_dir, path) = file();
    let mut store = Store::open(&path).unwrap();
    let calls = (0..20_000u64).map(|n| {
        let mut call = at(full(), start() + Duration::from_millis(n * 731));
        call.trace.trace_id = call.call_id.0.rotate_left(32);
        call.provider_request_id = Some(format!("req_{:032x}", call.call_id.0));
        call.usage = Usage {
            input_tokens: Some(900 + n % 7_000),
            output_tokens: Some(n % 900),
            cache_read_tokens: Some(n % 800),
            ..Usage::default()
        };
        call.cost = Some(Money::from_femto(i128::from(n) * 137_500_000_000));
        call
    });
    let calls: Vec<_> = calls.collect();
    store.write(&calls, false).unwrap();
    drop(store);
    let bytes = std::fs::metadata(&path).unwrap().len() as f64 / 20_000.0;
    println!("{bytes:.0} bytes a row");
    assert!(bytes < 300.0, "{bytes}");
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let (_dir, path) = file();
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)").unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, LedgerError::Foreign(_)) && error.needs_action(), "{error}");
    assert!(matches!(Reader::open(&path).unwrap_err(), LedgerError::Foreign(_)));
    assert_eq!(std::fs::read(&path).unwrap(), before);

    std::fs::write(&path, "not a database at all, but long enough to be looked at").unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, LedgerError::Damaged { .. }) && error.to_string().contains("move it away"), "{error}");
    assert!(matches!(Reader::open(&path).unwrap_err(), LedgerError::Damaged { .. }));
    assert!(matches!(Reader::open(&path.with_extension("no")).unwrap_err(), LedgerError::Missing(_)));
}

#[test]
fn a_newer_schema_is_refused() {
    let (_dir, path) = file();
    write(&path, &[at(full(), start())]);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
    for error in [Store::open(&path).unwrap_err(), Reader::open(&path).unwrap_err()] {
        assert!(matches!(error, LedgerError::Newer { found, .. } if found == VERSION + 1), "{error}");
        assert!(
            error.to_string().contains("written by a newer keytally (schema 2, this one knows up to 1)"),
            "{error}"
        );
    }
}

/// A ledger of the first released schema opens, answers, and is written on.
#[test]
fn the_first_released_schema_still_opens() {
    let (_dir, path) = file();
    Connection::open(&path).unwrap().execute_batch(include_str!("../../tests/fixtures/ledger/v1.sql")).unwrap();
    let mut store = Store::open(&path).unwrap();
    let reader = Reader::open(&path).unwrap();
    let totals = |by: Dimension| {
        let groups = reader.totals(&Query::default(), &[by]).unwrap();
        groups
            .iter()
            .map(|group| format!("{} {} ${}", group.values[0], group.totals.calls, group.totals.cost))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        totals(Dimension::Key),
        ["anthropic:00aa11bb22cc 1 $0", "none 1 $0", "search-prod 3 $0.003775000123456"]
    );
    assert_eq!(totals(Dimension::Day), ["2026-03-01 3 $0.003775000123456", "2026-03-02 2 $0"]);
    let calls = all(&reader, &Query::default());
    assert_eq!(
        to_json(&calls[3]).to_string(),
        r#"{"time":"2026-03-01T01:00:00.000Z","call_id":"019ca6e8ca807002800000000025ad0e","trace_id":"0000000000000000000000000000abc2","span_id":"0000000000001235","way":"base_url","provider":"openai","operation":"chat","protocol":"openai-chat","request_model":"gpt-5","response_model":"gpt-5-2025-08-07","priced_model":"gpt-5","key":"openai:3f9a0c41b2d7","key_name":"search-prod","team":"search","env":"prod","client":"shop","labels":{"app":"shop","region":"eu"},"status":200,"outcome":"ok","fault":"none","retryable":false,"provider_request_id":"req_made_up_2","stream":true,"end":"complete","usage":{"input_tokens":100,"output_tokens":20,"cache_write_tokens":50,"web_searches":1,"images":2},"usage_source":"reported","cost_usd":"0.000000000123456","service_tier":"default","duration_seconds":0.9,"time_to_first_token_seconds":0.4,"overhead_seconds":0.00015,"request_bytes":210,"response_bytes":500,"retry_count":2}"#
    );
    assert_eq!(calls[2].findings.len(), 2);
    store.write([&at(full(), start())], false).unwrap();
    assert_eq!(reader.extent().unwrap().calls, 6);
    let connection = Connection::open(&path).unwrap();
    let whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
}

#[test]
fn steps_are_taken_once_and_all_or_none() {
    let mut connection = Connection::open_in_memory().unwrap();
    let version =
        |connection: &Connection| connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap();
    schema::migrate(&mut connection).unwrap();
    assert_eq!(version(&connection), VERSION);
    let second = "ALTER TABLE calls ADD COLUMN made_up INTEGER; UPDATE calls SET made_up = 1;";
    let first = include_str!("schema/v1.sql");
    assert!(schema::migrate_by(&mut connection, &[first, second, "CREATE TABLE calls (a)"]).is_err());
    assert_eq!(version(&connection), 1, "nothing of a failed step stays");
    for _ in 0..2 {
        schema::migrate_by(&mut connection, &[first, second]).unwrap();
        assert_eq!(version(&connection), 2);
    }
}

/// Calls of a few keys, models and outcomes, each used, priced and timed at random.
fn mixed(random: &mut Random, count: usize) -> Vec<CallRecord> {
    let outcomes = [Outcome::Ok, Outcome::RateLimitTokens, Outcome::ProviderError, Outcome::ClientCancelled];
    let sources = [UsageSource::Reported, UsageSource::Estimated, UsageSource::None];
    let unpriced =
        [None, Some(UnpricedReason::UnknownModel), Some(UnpricedReason::Free), Some(UnpricedReason::RepeatedUsage)];
    let mut call = || {
        let shape = [bare(), full(), refused()][random.below(3)].clone();
        // One name a key: of several, the newest stands for all its calls.
        let key = random.below(4);
        let cost = (random.below(3) > 0).then(|| Money::from_femto(i128::from(random.next() >> 8)));
        let mut call = CallRecord {
            model_label: format!("model-{}", random.below(4)).into(),
            key: Some(format!("openai:00000000000{key}").parse().unwrap()),
            key_name: Some(format!("key-{key}").into()),
            outcome: outcomes[random.below(4)],
            usage_source: sources[random.below(3)],
            cost,
            unpriced_reason: if cost.is_some() { None } else { unpriced[random.below(4)] },
            unpriced_tokens: random.next() % 50,
            retry_count: random.below(3) as u32,
            ..shape
        };
        call.usage.input_tokens = Some(random.next() % 100_000);
        call.usage.output_tokens = Some(random.next() % 100_000);
        call.timing.total = Duration::from_micros(random.next() % 90_000_000);
        at(call, start() + Duration::from_millis(random.next() % (3 * 86_400_000)))
    };
    (0..count).map(|_| call()).collect()
}

#[test]
fn any_order_and_any_batches_give_the_same_totals() {
    let mut random = Random(31);
    let mut calls = mixed(&mut random, 240);
    let ways: [&[Dimension]; 5] = [
        &[],
        &[Dimension::Key, Dimension::Model],
        &[Dimension::Outcome],
        &[Dimension::Day, Dimension::Provider],
        &[Dimension::Hour],
    ];
    let mut expected = None;
    for round in 0..8 {
        for i in (1..calls.len()).rev() {
            calls.swap(i, random.below(i + 1));
        }
        let (_dir, path) = file();
        let mut store = Store::open(&path).unwrap();
        let mut left = &calls[..];
        while !left.is_empty() {
            let (batch, rest) = left.split_at(left.len().min(1 + random.below(90)));
            store.write(batch, false).unwrap();
            left = rest;
        }
        let reader = Reader::open(&path).unwrap();
        let totals = ways.map(|by| reader.totals(&Query::default(), by).unwrap());
        let all = &totals[0][0].totals;
        assert_eq!(all.calls, 240);
        assert_eq!(all.cost, calls.iter().filter_map(|call| call.cost).sum::<Money>());
        for groups in &totals {
            let mut sum = Totals::default();
            groups.iter().for_each(|group| sum.add(&group.totals));
            assert_eq!(sum, *all, "round {round}: the parts are the whole");
        }
        assert_eq!(expected.get_or_insert_with(|| totals.clone()), &totals, "round {round}");
    }
}
