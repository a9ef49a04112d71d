//! Every piece of the book answers as the whole book does, and every table of a model's rates as the crate.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use genai_prices::{PriceCalculation, UsageKey};

use super::super::tariff;
use super::*;

/// When calls are made: today, at night (hours with rates of their own), before most changes of rates.
const TIMES: [u64; 3] = [1_795_780_800, 1_795_737_600, 1_747_000_000];
const CONTEXTS: [Option<(&str, &str)>; 5] = [
    None,
    Some(("service_tier", "flex")),
    Some(("service_tier", "priority")),
    Some(("service_tier", "fast")),
    Some(("processing", "batch")),
];

fn usages() -> [Counts; 4] {
    use UsageKey as K;
    let tokens = [
        (K::INPUT_TOKENS, 310_007.0),
        (K::OUTPUT_TOKENS, 2_003.0),
        (K::CACHE_READ_TOKENS, 100_001.0),
        (K::CACHE_WRITE_TOKENS, 50_021.0),
        (K::CACHE_WRITE_1H_TOKENS, 20_011.0),
        (K::OUTPUT_REASONING_TOKENS, 1_009.0),
    ];
    [
        Counts::from([(K::INPUT_TOKENS, 1_234.0), (K::OUTPUT_TOKENS, 567.0)]),
        Counts::from(tokens),
        Counts::from([(K::INPUT_AUDIO_SECONDS, 3.0), (K::AUDIO_SECONDS, 3.0), (K::WEB_SEARCHES, 2.0)]),
        // Refused where output has a rate: a part without its total.
        Counts::from([(K::OUTPUT_REASONING_TOKENS, 5.0)]),
    ]
}

/// What can be told from an answer of the crate.
fn told(result: genai_prices::Result<PriceCalculation>) -> Result<(String, String, u64), ErrorKind> {
    result.map(|found| (found.provider_id, found.model_id, found.total_price.to_bits())).map_err(|error| error.kind())
}

/// Literals in match rules: names and parts of names.
fn literals(rule: &Value, into: &mut BTreeSet<String>) {
    match rule {
        Value::Object(fields) => fields.values().for_each(|rule| literals(rule, into)),
        Value::Array(rules) => rules.iter().for_each(|rule| literals(rule, into)),
        Value::String(text) => drop(into.insert(text.clone())),
        _ => {}
    }
}

fn models(provider: &Value) -> &[Value] {
    provider["models"].as_array().map_or(&[], Vec::as_slice)
}

/// Names to ask a provider for: its models', and those of whom it falls back to.
fn names(json: &[Value], provider: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["", "-", "made-up", "openai/gpt-4o", "made-up/gpt-4o"].map(str::to_owned));
    let fallbacks: Vec<&str> =
        provider["fallback_model_providers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for owner in
        json.iter().filter(|owner| **owner == *provider || fallbacks.contains(&owner["id"].as_str().unwrap_or("")))
    {
        for model in models(owner) {
            let id = model["id"].as_str().unwrap_or("-");
            names.extend([id.to_owned(), id.to_uppercase(), format!("{id}-20251211")]);
            literals(&model["match"], &mut names);
        }
    }
    names
}

/// What prices the calls of a model whose tariff is incomplete; made here for any.
fn calculator(book: &Book, place: Place) -> Calculator {
    let text = book.providers[place.owner].models.text().unwrap();
    let models: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
    book.calculator(place, &serde_json::from_str(models[place.model].get()).unwrap()).unwrap()
}

/// How many models were found, how many of them can cost something by their table, and how many only the crate prices.
#[derive(Debug, Default)]
struct Compared {
    found: usize,
    by_table: usize,
    by_crate: usize,
}

/// Asks the whole and the pieces for every provider and every name, and prices whatever is found.
fn compare(text: &str, book: &Book, wanted: impl Fn(&Value) -> bool) -> Compared {
    let whole = Calculator::from_json(text).unwrap();
    let json: Vec<Value> = serde_json::from_str(text).unwrap();
    let (none, usages) = (Counts::new(), usages());
    let mut cards = std::collections::HashMap::new();
    let mut compared = Compared::default();
    for provider in json.iter().filter(|provider| wanted(provider)) {
        let id = provider["id"].as_str().unwrap();
        for name in names(&json, provider) {
            let expected = told(whole.calculate(&PriceRequest::new(&name, &none).with_provider_id(id)));
            let place = match (book.find(id, &name), &expected) {
                (Ok(place), Ok(_)) => place,
                (Err(Absent::Model), Err(kind)) if *kind != ErrorKind::ProviderNotFound => continue,
                (found, _) => panic!("{id} {name:?}: {found:?}, expected {expected:?}"),
            };
            let known = cards.contains_key(&place);
            let (card, calculator) =
                cards.entry(place).or_insert_with(|| (book.card(place).unwrap(), calculator(book, place)));
            let calls = usages.iter().flat_map(|usage| CONTEXTS.map(|context| (usage, context)));
            if !known {
                compared.found += 1;
                if card.calculator.is_some() {
                    compared.by_crate += 1;
                } else {
                    let [charged, _] =
                        tariff::tests::compare(&card.tariff, &card.provider, calculator, place.model as u64);
                    compared.by_table += usize::from(charged > 0);
                }
            }
            // Every name's model; of every model every kind of call.
            for ((usage, context), time) in
                calls.flat_map(|call| TIMES.map(|time| (call, time))).take(if known { 1 } else { 99 })
            {
                let at = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
                let request = |name, provider| {
                    let request = PriceRequest::new(name, usage).with_provider_id(provider).with_timestamp(at);
                    context.into_iter().fold(request, |request, (key, value)| request.with_price_context(key, value))
                };
                let expected = told(whole.calculate(&request(&name, id)));
                let found = told(calculator.calculate(&request("-", &card.provider)));
                assert_eq!(found, expected, "{id} {name:?} {usage:?} {context:?} {time}");
                if let Ok((provider, model, _)) = found {
                    assert_eq!((&*card.provider, &*card.id), (&*provider, &*model));
                }
            }
        }
    }
    compared
}

/// In three parts, which run side by side.
#[test]
fn every_model_of_openrouter_costs_the_same_by_its_card() {
    let compared = compare(BUNDLED, Book::bundled(), |provider| provider["id"] == "openrouter");
    assert!(compared.found > 800 && compared.by_table > 700 && compared.by_crate < 10, "{compared:?}");
}

#[test]
fn every_model_of_every_other_provider_costs_the_same_by_its_card() {
    let falls_back = |provider: &Value| provider.get("fallback_model_providers").is_some();
    let wanted = |provider: &Value| provider["id"] != "openrouter" && !falls_back(provider);
    let compared = compare(BUNDLED, Book::bundled(), wanted);
    assert!(compared.found > 1_200 && compared.by_table > 1_000 && compared.by_crate < 10, "{compared:?}");
}

#[test]
fn every_model_of_a_fallback_costs_the_same_by_its_card() {
    let falls_back = |provider: &Value| provider.get("fallback_model_providers").is_some();
    let compared = compare(BUNDLED, Book::bundled(), falls_back);
    assert!(compared.found > 200 && compared.by_table > 200 && compared.by_crate < 10, "{compared:?}");
}

#[test]
fn providers_are_found_by_every_name_as_in_the_whole() {
    let whole = Calculator::from_json(BUNDLED).unwrap();
    let json: Vec<Value> = serde_json::from_str(BUNDLED).unwrap();
    let mut ids = BTreeSet::from(["", " ", "made-up", "litellm", "LiteLLM ", "my-azure-host", "é"].map(str::to_owned));
    for provider in &json {
        let id = provider["id"].as_str().unwrap();
        ids.extend([id.to_owned(), format!(" {} ", id.to_uppercase()), format!("my-{id}-host")]);
        literals(&provider["provider_match"], &mut ids);
        literals(&provider["model_match"], &mut ids);
    }
    let none = Counts::new();
    let mut found = 0;
    for id in ids {
        for name in
            ["gpt-4o", "anthropic/claude-sonnet-4-5", "claude-sonnet-4-5", "google/gemini-2.5-pro", "made-up/x", ""]
        {
            let expected = told(whole.calculate(&PriceRequest::new(name, &none).with_provider_id(&id)));
            let got = Book::bundled().find(&id, name).map(|place| Book::bundled().card(place).unwrap());
            match (got, expected) {
                (Ok(card), Ok((provider, model, _))) => {
                    assert_eq!((&*card.provider, &*card.id), (&*provider, &*model), "{id} {name}");
                    found += 1;
                }
                (Err(absent), Err(kind)) => {
                    assert_eq!(absent == Absent::Provider, kind == ErrorKind::ProviderNotFound, "{id} {name}");
                }
                (got, expected) => panic!("{id} {name}: {got:?}, expected {expected:?}"),
            }
        }
    }
    assert!(found > 25, "{found}");
}

/// What people may write and the format allows.
const ODD: &str = r#"[
  {"id":"first","name":"F","api_pattern":"f(","api_pattern":"f","provider_match":{"regex":"^(one|1st)$"},
   "fallback_model_providers":["first","nobody","second","second","third"],"description":null,
   "models":[{"id":"own","id":"m\u0065ga","match":{"equals":"no"},"match":{"starts_with":"Mega"},
              "prices":{"input_mtok":{"base":1,"tiers":[{"start":300000,"price":5},{"start":100,"price":3}]},"unknown_unit":4},
              "price_variants":[{"when":{"service_tier":"flex"},"prices":{"input_mtok":0.5,"output_mtok":null}},
                                {"when":{"processing":"batch"},"prices":{"cache_read_mtok":1}}]},
             {"id":"free","match":{"and":[{"contains":"free"},{"ends_with":"e"}]}}]},
  {"id":"\u0073econd","name":"S","api_pattern":"s","fallback_model_providers":["third"],"models":
     [{"id":"0 1","match":{"or":[{"equals":"shared"},{"regex":"^x\\d+$"}]},
       "prices":[{"prices":{"input_mtok":2}},{"constraint":{"start_time":"23:00:00Z","end_time":"01:00:00Z"},"prices":{"input_mtok":1}},
                 {"constraint":{"start_date":"2026-11-27"},"prices":{"input_mtok":7}}],
       "price_variants":[{"when":{"service_tier":"flex"},"prices":{"input_mtok":0.1}}]}]},
  {"id":"third","name":"T","api_pattern":"t","models":[
      {"id":"shared","match":{"equals":"shared"},"prices":{"input_mtok":9}},
      {"id":"dated","match":{"equals":"dated-2025-12-11"},"prices":{"requests_kcount":1}}]},
  {"id":"litellm","name":"L","api_pattern":"l","models":[{"id":"a/b","match":{"contains":"b"},"prices":{"input_mtok":1}}]},
  {"id":"empty","name":"E","api_pattern":"e","models":null},
  {"id":"none","name":"N","api_pattern":"n","extractors":[]}
]"#;

#[test]
fn a_file_in_any_order_and_spelling_is_the_same_in_pieces() {
    let book = Book::from_json(ODD.as_bytes()).unwrap();
    let compared = compare(ODD, &book, |_| true);
    assert!(compared.found >= 8 && compared.by_crate >= 1, "{compared:?}");
    let whole = Calculator::from_json(ODD).unwrap();
    let none = Counts::new();
    for provider in ["one", "1ST", "first", "second", "litellm", "third"] {
        for name in ["mega-1", "x12", "shared", "dated-20251211", "SHARED", "first/mega", "b", "third/shared", "none/b"]
        {
            let expected = told(whole.calculate(&PriceRequest::new(name, &none).with_provider_id(provider)));
            let found = book.find(provider, name).map(|place| book.card(place).unwrap());
            let found = found.map(|card| (card.provider.to_string(), card.id.to_string()));
            assert_eq!(found.ok(), expected.ok().map(|(provider, model, _)| (provider, model)), "{provider} {name}");
        }
    }
    // In pieces as a file and built in: the same list.
    let shelves = |calculator: &Calculator| -> Vec<Shelf> {
        let shelves = calculator.providers().map(|provider| {
            let models = provider.models().map(|model| (model.id().into(), model.context_window()));
            Shelf { provider: provider.id().into(), models: models.collect() }
        });
        shelves.collect()
    };
    assert_eq!(book.shelves(), shelves(&whole));
    let bundled = Book::from_json(BUNDLED.as_bytes()).unwrap();
    let whole = shelves(&Calculator::from_json(BUNDLED).unwrap());
    assert_eq!(bundled.shelves(), whole);
    assert_eq!(Book::bundled().shelves(), whole);
    let kept = bundled.providers.iter().map(|provider| match &provider.models {
        Models::Packed(packed, _) => packed.len() + provider.head.len(),
        Models::BuiltIn(_) => usize::MAX / 64,
    });
    let kept: usize = kept.sum();
    assert!(kept < 100_000, "{kept} bytes of a book of {}", BUNDLED.len());
}

#[test]
fn a_file_that_is_no_book_is_refused_with_what_is_wrong() {
    for (text, wanted) in [
        ("", "decode provider JSON"),
        ("{}", "expected a provider array, got mapping"),
        ("[", "decode provider JSON"),
        ("[null]", "provider id, name, and api_pattern are required"),
        (
            r#"[{"id":"a","name":"A","api_pattern":"a"},{"id":"a","name":"A","api_pattern":"a"}]"#,
            "duplicate provider ID",
        ),
        (r#"[{"id":"a","name":"A","api_pattern":"("}]"#, "API pattern"),
        (r#"[{"id":"a","name":"A","api_pattern":"a","models":[{"id":"m"}]}]"#, "exactly one operation"),
        (
            r#"[{"id":"a","name":"A","api_pattern":"a","models":[{"id":"m","match":{"equals":"m"},"prices":{"input_mtok":-1}}]}]"#,
            "finite non-negative",
        ),
        (
            r#"[{"id":"a","name":"A","api_pattern":"a","models":[{"id":"m","match":{"equals":"m"}},{"id":"m","match":{"equals":"n"}}]}]"#,
            "duplicate model ID",
        ),
    ] {
        let error = Book::from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("use the data.json of genai-prices"), "{text}: {error}");
    }
    assert!(Book::from_json(b"\xff").is_err());
    assert!(Book::from_json("[".repeat(100_000).as_bytes()).is_err());
    let deep =
        format!(r#"[{{"id":"a","name":"A","api_pattern":"a","x":{}1{}}}]"#, "[".repeat(5_000), "]".repeat(5_000));
    assert_eq!(Book::from_json(deep.as_bytes()).is_ok(), Calculator::from_json(&deep).is_ok());
}

#[test]
fn the_built_in_book_says_when_it_was_made() {
    let date = bundled_date().unwrap();
    assert!(date > SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    assert!(BUNDLED.contains(&format!(r#""start_date":"{DATE}""#)));
}
