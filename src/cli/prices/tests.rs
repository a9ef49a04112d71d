//! Prices as they are shown, and traffic of a ledger priced elsewhere.

use super::*;
use crate::call::{CallId, CallRecord, Money, Operation, Outcome, Usage, UsageSource};
use crate::export::tests::bare;
use crate::ledger::Store;

/// 27 November 2026, noon.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_780_800)
}

fn args(model: Option<&str>, format: Format) -> PricesArgs {
    PricesArgs {
        model: model.map(str::to_owned),
        search: None,
        like_last: None,
        ledger: None,
        book: None,
        format,
        config: ConfigArgs::default(),
    }
}

fn ask(args: PricesArgs) -> String {
    run(args, now()).unwrap_or_else(|error| panic!("{error:#}"))
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_model_costs_this_at_each_provider() {
    let text = ask(args(Some("anthropic/claude-sonnet-4.5"), Format::Table));
    for wanted in [
        "price book of 2026-11-09",
        "PROVIDER",
        "anthropic ",
        "aws ",
        "google ",
        "openrouter ",
        "standard, >200k",
        "batch",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    let own = text.lines().find(|line| line.starts_with("anthropic ")).unwrap();
    assert_eq!(own.split_whitespace().collect::<Vec<_>>()[2..], ["standard", "3", "0.3", "3.75", "6", "15"], "{text}");

    let whole = json(&ask(args(Some("gpt-5.4"), Format::Json)));
    let offers = whole["offers"].as_array().unwrap();
    let own = offers.iter().find(|offer| offer["provider"] == "openai").unwrap();
    assert_eq!(
        own["terms"][0]["rates"][0],
        serde_json::json!({ "kind": "input", "usd": "2.5", "per": "1,000,000 tokens" })
    );
    assert!(own["reached_as"].as_array().unwrap().iter().any(|id| id == "openai"), "{own}");

    let table = ask(args(Some("gpt-5.4"), Format::Csv));
    let mut rows = csv::Reader::from_reader(table.as_bytes());
    let head = rows.headers().unwrap().clone();
    assert_eq!((&head[0], &head[5], &head[9]), ("provider", "input", "output"));
    assert!(rows.records().all(|row| row.is_ok()));
}

#[test]
fn a_name_that_nobody_knows_brings_proposals() {
    let error = run(args(Some("claude-sonet-4-5"), Format::Table), now()).unwrap_err().to_string();
    assert!(error.contains("not in the price book; did you mean claude-sonnet-4-5"), "{error}");
    let error = run(args(Some("\u{1b}[2Jzzzzzzzz"), Format::Table), now()).unwrap_err().to_string();
    assert!(error.contains("keytally prices --search TEXT") && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn a_model_without_a_price_is_not_proposed_to_whoever_asked_for_it() {
    let listed = ListedFamily { name: "made-up-1".to_owned(), providers: vec!["somebody".to_owned()] };
    let told = unknown("made-up-1", &[listed]);
    assert_eq!(told, "\"made-up-1\": in the price book (somebody), but without a price; prices.overrides sets one");
}

#[test]
fn models_are_listed_and_looked_for() {
    let all = ask(args(None, Format::Table));
    assert!(all.lines().count() > 500 && all.contains("\ngpt-4o-mini "), "{}", &all[..500]);
    let found = ask(PricesArgs { search: Some("gpt-4o".to_owned()), ..args(None, Format::Table) });
    assert!(found.contains("CHEAPEST AT") && found.lines().all(|line| !line.starts_with("claude")), "{found}");
    let list = json(&ask(PricesArgs { search: Some("sonnet".to_owned()), ..args(None, Format::Json) }));
    assert!(list["models"].as_array().unwrap().iter().all(|model| model["model"].as_str().unwrap().contains("sonnet")));
    assert!(run(PricesArgs { search: Some("no such".to_owned()), ..args(None, Format::Table) }, now()).is_err());
}

#[test]
fn another_book_and_the_configuration_go_before_the_built_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let (book, config) = (dir.path().join("book.json"), dir.path().join("keytally.yaml"));
    let prices = r#"[{"id":"testing","name":"Testing","api_pattern":"https://testing\\.example","models":[{"id":"gpt-4o","match":{"equals":"gpt-4o"},"prices":{"input_mtok":7,"output_mtok":9}}]}]"#;
    std::fs::write(&book, prices).unwrap();
    std::fs::write(&config, "prices: { overrides: [{ provider: openai, model: gpt-4o, input: 1.25, output: 2 }] }\n")
        .unwrap();
    let text = ask(PricesArgs {
        book: Some(book),
        config: ConfigArgs { config: Some(config) },
        ..args(Some("gpt-4o"), Format::Table)
    });
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["openai", "(config)", "gpt-4o", "standard", "1.25", "2"]), "{text}");
    assert!(rows.contains(&vec!["testing", "gpt-4o", "standard", "7", "9"]), "{text}");
    assert!(!text.contains("azure"), "only what this book has\n{text}");

    let broken = dir.path().join("broken.json");
    std::fs::write(&broken, "{}").unwrap();
    let error = run(PricesArgs { book: Some(broken), ..args(Some("gpt-4o"), Format::Table) }, now()).unwrap_err();
    assert!(format!("{error:#}").contains("broken.json: price book: "), "{error:#}");
}

/// A call of `seconds` ago, priced as the sidecar priced it.
fn call(seconds: u64, model: &str, usage: Usage, paid: &str) -> CallRecord {
    let time = now() - Duration::from_secs(seconds);
    CallRecord {
        time,
        call_id: CallId::new(time),
        outcome: Outcome::Ok,
        request_model: Some(model.to_owned()),
        response_model: Some(format!("{model}-20250929")),
        priced_model: Some(model.to_owned()),
        provider: "anthropic".into(),
        operation: Operation::Messages,
        status: Some(200),
        usage,
        usage_source: UsageSource::Reported,
        cost: Money::parse(paid),
        ..bare()
    }
}

#[test]
fn one_s_own_traffic_is_priced_call_by_call_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.db");
    let usage = |input, cached, output| Usage {
        input_tokens: Some(input),
        cache_read_tokens: Some(cached),
        output_tokens: Some(output),
        ..Usage::default()
    };
    let model = "claude-sonnet-4-5";
    Store::open(&ledger)
        .unwrap()
        .write(
            &[
                // $3 for fresh, $0.30 for cached, $15 for output tokens, a million each.
                call(60, model, usage(1_000_000 / 10, 50_000, 10_000), "0.315"),
                // Longer than 200,000: twice the rate for input, one and a half for output.
                call(120, model, usage(300_000, 0, 10_000), "2.025"),
                call(180, "no-model-of-the-book", usage(5, 0, 5), "0"),
                // Before the time that is asked for.
                call(90_000, model, usage(1_000_000, 0, 0), "3"),
                CallRecord { usage: Usage::default(), ..call(30, model, Usage::default(), "0") },
            ],
            false,
        )
        .unwrap();
    let day = PricesArgs {
        like_last: Some(Duration::from_secs(86_400)),
        ledger: Some(ledger),
        ..args(Some("claude-sonnet-4.5"), Format::Json)
    };
    let whole = json(&ask(day.clone()));
    let compared = &whole["models"][0];
    assert_eq!(
        (&compared["provider"], &compared["calls"], &compared["paid_usd"]),
        (&"anthropic".into(), &2.into(), &"2.34".into())
    );
    let at = |provider: &str| {
        let all = compared["alternatives"].as_array().unwrap();
        all.iter().find(|it| it["provider"] == provider).unwrap_or_else(|| panic!("{provider}: {compared}")).clone()
    };
    assert_eq!((&at("anthropic")["cost_usd"], &at("anthropic")["difference_percent"]), (&"2.34".into(), &0.0.into()));
    assert_eq!(at("google")["cost_usd"], "2.34", "the same rates, both sides of 200,000");
    let costs: Vec<f64> = compared["alternatives"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["unpriced_calls"] == 0)
        .map(|it| it["cost_usd"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(costs.is_sorted() && costs.len() >= 3, "the cheapest first: {costs:?}");

    let text = ask(PricesArgs { format: Format::Table, ..day.clone() });
    assert!(
        text.contains("claude-sonnet-4-5 at anthropic: 2 calls, 400k tokens in (50.0k cached), 20.0k out: $2.34 paid"),
        "{text}"
    );
    assert!(text.contains("+0.0 %"), "{text}");
    let all = json(&ask(PricesArgs { model: None, ..day.clone() }));
    assert_eq!(all["models"].as_array().unwrap().len(), 2, "also the one that the book does not know");
    assert!(ask(PricesArgs { format: Format::Csv, ..day.clone() }).lines().count() > 3);
    let error = run(PricesArgs { model: Some("gpt-4o".to_owned()), ..day }, now()).unwrap_err();
    assert!(error.to_string().contains("no call of gpt-4o with usage in the last 1 d"), "{error}");
}
