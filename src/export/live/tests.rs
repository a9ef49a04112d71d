//! The live view over made-up records: sums, bounds, periods, filters.

use std::time::Duration;

use super::*;
use crate::call::{CallId, Fault};
use crate::export::tests::bare;

/// Noon of 30 November 2026.
const NOON: Duration = Duration::from_secs(1_796_040_000);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + NOON + Duration::from_secs(seconds)
}

fn call(key: &str, cost: &str, outcome: Outcome) -> CallRecord {
    CallRecord {
        key_name: Some(key.into()),
        cost: Money::parse(cost),
        call_id: CallId::new(at(0)),
        time: at(0),
        outcome,
        fault: if outcome.is_failure() { Fault::Key } else { Fault::None },
        ..bare()
    }
}

fn usd(money: Money) -> String {
    money.to_string()
}

#[test]
fn sums_by_key_model_outcome_and_minute() {
    let live = Live::new(at(0));
    for (second, record) in [
        (0, call("a", "0.5", Outcome::Ok)),
        (61, call("a", "0.25", Outcome::Ok)),
        (62, call("b", "0", Outcome::AuthInvalid)),
    ] {
        live.observe(&Arc::new(record), at(second));
    }
    let view = live.view(&Filter::default(), at(63));
    assert_eq!((view.total.calls, view.total.failures, usd(view.total.spend_usd)), (3, 1, "0.75".to_owned()));
    let minutes: Vec<_> = view.minutes.iter().rev().take(3).map(|m| (m.calls, m.failures, m.usd)).collect();
    assert_eq!(minutes, [(2, 1, 0.25), (1, 0, 0.5), (0, 0, 0.0)]);
    assert_eq!(view.minutes.len(), MINUTES);
    assert_eq!((view.last_minute.calls, view.last_minute.usd), (2, 0.25));
    let keys: Vec<_> = view.keys.iter().map(|row| (&*row.key, row.sum.calls, usd(row.sum.spend_usd))).collect();
    assert_eq!(keys, [("a", 2, "0.75".to_owned()), ("b", 1, "0".to_owned())], "the dearest first");
    assert_eq!(view.keys[0].models[0].calls, 2);
    assert_eq!(view.keys[1].outcomes[0].outcome, "auth_invalid");
    assert_eq!(view.keys[1].last_10_minutes.failures, 1);
    let outcomes: Vec<_> = view.outcomes.iter().map(|row| (&*row.outcome, row.calls, &*row.fault)).collect();
    assert_eq!(outcomes, [("ok", 2, "none"), ("auth_invalid", 1, "key")]);
    assert_eq!((view.models.len(), view.models[0].sum.calls, &*view.clients[0].client), (1, 3, "none"));
}

#[test]
fn days_and_months_end_and_say_how_much_of_them_is_known() {
    let live = Live::new(at(0));
    let say = |view: &LiveView| {
        let total = &view.total;
        let complete = (view.periods.today_complete, view.periods.month_complete);
        (usd(total.today_usd), usd(total.month_usd), complete)
    };
    live.observe(&Arc::new(call("a", "1", Outcome::Ok)), at(0));
    let view = live.view(&Filter::default(), at(1));
    assert_eq!(say(&view), ("1".to_owned(), "1".to_owned(), (false, false)));
    assert_eq!(
        (&*view.periods.month_since, &*view.periods.today_since),
        ("2026-11-30T12:00:00.000Z", "2026-11-30T12:00:00.000Z")
    );
    // Half a day later it is December: of that day and month this process saw all.
    let half_a_day = 12 * 3_600;
    let view = live.view(&Filter::default(), at(half_a_day));
    assert_eq!(say(&view), ("0".to_owned(), "0".to_owned(), (true, true)));
    assert_eq!(view.periods.month_since, "2026-12-01T00:00:00.000Z");
    live.observe(&Arc::new(call("a", "2", Outcome::Ok)), at(half_a_day));
    // The clock goes back: nothing is lost, and nothing moves to the day before.
    live.observe(&Arc::new(call("a", "3", Outcome::Ok)), at(half_a_day - 5));
    let view = live.view(&Filter::default(), at(half_a_day + 1));
    assert_eq!(say(&view), ("5".to_owned(), "5".to_owned(), (true, true)));
    assert_eq!(usd(view.keys[0].sum.today_usd), "5");
    assert_eq!(usd(view.total.spend_usd), "6");
}

#[test]
fn what_came_before_is_added_once_and_only_to_periods_that_run() {
    let now = SystemTime::now();
    let (day, month) = Live::period_starts(now);
    let before = |spend: &str| {
        let spend = Money::parse(spend).unwrap();
        [Before { key: "a".to_owned(), named: true, provider: "openai".into(), calls: 7, spend }]
    };
    let live = Live::new(now);
    live.observe(&Arc::new(call("a", "1", Outcome::Ok)), now);
    live.seed(&before("2"), &before("30"), month, now);
    live.seed(&before("2"), &before("30"), month, now);
    let view = live.view(&Filter::default(), now);
    assert_eq!((usd(view.total.today_usd), usd(view.total.month_usd)), ("3".to_owned(), "31".to_owned()));
    assert_eq!((view.keys[0].sum.today_calls, view.keys[0].sum.calls), (8, 1), "since start is since start");
    assert!(view.periods.today_complete && view.periods.month_complete);

    // A ledger that begins this very moment knows nothing of what came before it.
    let young = Live::new(now);
    young.seed(&[], &[], now, now);
    let periods = young.view(&Filter::default(), now).periods;
    assert_eq!((periods.today_complete, periods.month_complete), (now <= day, now <= month));

    let late = Live::new(now);
    late.seed(&before("2"), &before("30"), month, now - Duration::from_secs(70 * 86_400));
    let view = late.view(&Filter::default(), now);
    assert_eq!((usd(view.total.month_usd), view.periods.month_complete), ("0".to_owned(), now <= month));
}

#[test]
fn a_flood_of_names_is_bounded_and_named_keys_keep_their_place() {
    let live = Live::new(at(0));
    for n in 0..MAX_KEYS as u64 * 2 {
        let mut record = call("x", "1", Outcome::Ok);
        record.key_name = None;
        record.key = Some(format!("openai:{n:012x}").parse().unwrap());
        record.model_label = format!("model-{n}").into();
        record.client = Some(format!("client-{n}").into());
        live.observe(&Arc::new(record), at(n));
    }
    live.observe(&Arc::new(call("mine", "1", Outcome::Ok)), at(1));
    let view = live.view(&Filter::default(), at(2));
    assert_eq!(view.keys.len(), MAX_KEYS + 2);
    let of = |name: &str| view.keys.iter().find(|row| &*row.key == name).map(|row| row.sum.calls);
    assert_eq!((of("mine"), of("other")), (Some(1), Some(MAX_KEYS as u64)));
    assert_eq!((view.models.len(), view.clients.len()), (MAX_MODELS + 1, MAX_CLIENTS + 1));
    assert_eq!(view.calls.len(), LAST_CALLS);
    assert_eq!(view.total.calls, MAX_KEYS as u64 * 2 + 1);
    let sum: Money = view.keys.iter().map(|row| row.sum.spend_usd).sum();
    assert_eq!(sum, view.total.spend_usd, "what has no row of its own is in `other`");
}

/// An application may send each key that it makes up to every provider.
#[test]
fn a_key_has_a_row_at_each_provider_only_while_there_is_room() {
    let live = Live::new(at(0));
    let providers: Vec<Arc<str>> = (0..48).map(|n| format!("provider-{n}").into()).collect();
    let made = 20;
    for n in 0..made {
        for provider in &providers {
            let mut record = call("x", "1", Outcome::Ok);
            record.key_name = None;
            record.key = Some(format!("openai:{n:012x}").parse().unwrap());
            record.provider = provider.clone();
            live.observe(&Arc::new(record), at(0));
        }
    }
    let mut mine = call("mine", "1", Outcome::Ok);
    for provider in &providers[..2] {
        mine.provider = provider.clone();
        live.observe(&Arc::new(mine.clone()), at(1));
    }
    let view = live.view(&Filter::default(), at(2));
    let calls =
        |name: &str| -> Vec<_> { view.keys.iter().filter(|row| &*row.key == name).map(|row| row.sum.calls).collect() };
    assert_eq!(view.keys.len(), MAX_KEYS + 1 + 2);
    assert_eq!((calls("other"), calls("mine")), (vec![made * 48 - MAX_KEYS as u64], vec![1, 1]));
}

#[test]
fn failures_outlive_busy_keys_and_filters_choose() {
    let live = Live::new(at(0));
    let mut refused = call("quiet", "0", Outcome::AuthInvalid);
    refused.key = Some("openai:3f9a0c41b2d7".parse().unwrap());
    refused.findings = vec![Finding::KeyWhitespace];
    live.observe(&Arc::new(refused), at(0));
    for n in 0..LAST_CALLS as u64 + 50 {
        let mut record = call("busy", "0", Outcome::Ok);
        record.time = at(n + 1);
        live.observe(&Arc::new(record), at(n + 1));
    }
    let ask = |key: Option<&str>, outcome: Option<&str>| {
        let filter = Filter { key: key.map(str::to_owned), outcome: outcome.map(str::to_owned), ..Filter::default() };
        live.view(&filter, at(500)).calls.len()
    };
    assert_eq!(ask(None, None), LAST_CALLS + 1);
    assert_eq!((ask(Some("quiet"), None), ask(Some("openai:3f9a0c41b2d7"), None)), (1, 1));
    assert_eq!((ask(None, Some("failed")), ask(None, Some("auth_invalid")), ask(None, Some("ok"))), (1, 1, LAST_CALLS));
    assert_eq!((ask(Some("busy"), Some("failed")), ask(Some("nobody"), None)), (0, 0));
    let view = live.view(&Filter::default(), at(500));
    assert_eq!(view.calls.last().map(|call| &*call.key), Some("quiet"), "newest first");
    assert_eq!((&*view.findings[0].finding, &*view.findings[0].last_key), ("key_whitespace", "quiet"));
    // What is written can be read back.
    let text = serde_json::to_string(&view).unwrap();
    let back: LiveView = serde_json::from_str(&text).unwrap();
    assert_eq!((back.calls.len(), back.total.spend_usd), (view.calls.len(), view.total.spend_usd));
}

#[test]
fn any_order_of_calls_gives_the_same_sums() {
    let mut random = crate::protocol::random::Random(37);
    let outcomes = [Outcome::Ok, Outcome::AuthInvalid, Outcome::ContentBlocked];
    let mut calls: Vec<_> = (0..200)
        .map(|n| {
            let cost = format!("0.{:06}", random.below(1_000_000));
            let mut record = call(["a", "b", "c"][random.below(3)], &cost, outcomes[random.below(3)]);
            record.model_label = ["m1", "m2"][random.below(2)].into();
            record.client = Some(["x", "y"][random.below(2)].into());
            record.usage.input_tokens = Some(random.next() % 10_000);
            record.call_id = CallId(n);
            Arc::new(record)
        })
        .collect();
    let mut expected = None;
    for round in 0..10 {
        for i in (1..calls.len()).rev() {
            calls.swap(i, random.below(i + 1));
        }
        let live = Live::new(at(0));
        calls.iter().for_each(|record| live.observe(record, at(1)));
        let view = live.view(&Filter::default(), at(2));
        let json = |rows: Vec<serde_json::Value>| {
            let mut rows: Vec<_> = rows
                .into_iter()
                .map(|mut row| {
                    // Of the last call, not of all.
                    for name in ["last_time", "last_key", "last_provider"] {
                        row.as_object_mut().unwrap().shift_remove(name);
                    }
                    row.to_string()
                })
                .collect();
            rows.sort();
            rows
        };
        let value = serde_json::to_value(&view).unwrap();
        let rows = |name: &str| json(value[name].as_array().unwrap().clone());
        let mut sums = ["models", "clients", "outcomes"].map(rows).concat();
        // Floats of minutes are sums too, in the order of the calls; the sums of money beside them are exact.
        sums.extend(view.keys.iter().map(|row| format!("{} {}", row.key, serde_json::to_string(&row.sum).unwrap())));
        sums.push(serde_json::to_string(&view.total).unwrap());
        sums.sort();
        assert_eq!(expected.get_or_insert_with(|| sums.clone()), &sums, "round {round}");
    }
}
