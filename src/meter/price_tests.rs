//! Tests of pricing: by hand, and against the reference prices of recorded answers.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::meter::model::candidates;

/// Decoding takes long in a debug build: once for all tests.
static BOOK: LazyLock<PriceBook> = LazyLock::new(|| PriceBook::bundled(Vec::new()));

/// 2026-11-23T12:00:00Z.
const NOVEMBER: Duration = Duration::from_secs(1_795_435_200);

fn usage(input: u64, output: u64) -> Usage {
    Usage { input_tokens: Some(input), output_tokens: Some(output), ..Usage::default() }
}

fn input<'a>(price_as: &'a str, models: &'a [&'a str], usage: &'a Usage) -> PriceInput<'a> {
    PriceInput {
        provider: price_as,
        price_as: Some(price_as),
        local: false,
        models,
        usage,
        parts: &[],
        service_tier: None,
        batch: false,
        time: SystemTime::UNIX_EPOCH + NOVEMBER,
        stated_cost: None,
    }
}

fn cost(text: &str) -> Option<Money> {
    Some(Money::parse(text).unwrap())
}

fn rate(model: &str, per_mtok: &str) -> PriceOverride {
    PriceOverride {
        provider: None,
        model: model.into(),
        input_per_mtok: Money::parse(per_mtok).unwrap(),
        output_per_mtok: Money::parse(per_mtok).unwrap(),
        cache_read_per_mtok: None,
        cache_write_per_mtok: None,
        per_request: None,
    }
}

#[test]
fn order_of_truth() {
    let used = usage(1_000_000, 0);
    let mut call = input("openai", &["gpt-4o-mini"], &used);
    assert_eq!(BOOK.price(&call).cost, cost("0.15"));
    let mine = BOOK.with_overrides(vec![rate("gpt-4o*", "7")]);
    let priced = mine.price(&call);
    assert_eq!((priced.cost, priced.stated, priced.model_id.as_deref()), (cost("7"), false, Some("gpt-4o*")));
    call.stated_cost = cost("0.5");
    let priced = mine.price(&call);
    assert_eq!((priced.cost, priced.stated, priced.reason), (cost("0.5"), true, None));
}

#[test]
fn overrides_match_by_provider_and_name_and_count_in_integers() {
    let used = Usage { cache_read_tokens: Some(10), cache_write_tokens: Some(5), ..usage(100, 7) };
    let mut own = rate("My-Model", "0.123456789");
    own.provider = Some("vllm".into());
    own.cache_read_per_mtok = Money::parse("0.01");
    own.per_request = Money::parse("0.001");
    let book = BOOK.with_overrides(vec![own]);
    let call = PriceInput { price_as: None, local: true, provider: "vllm", ..input("", &["my-model"], &used) };
    // (85 + 5 + 7) × 0.123456789e-6 + 10 × 0.01e-6 + 0.001
    assert_eq!(book.price(&call).cost, cost("0.001012075308533"));
    assert_eq!(book.price(&PriceInput { provider: "other", ..call }).reason, Some(UnpricedReason::Free));
    let large = usage(u64::MAX, u64::MAX);
    assert!(book.price(&PriceInput { usage: &large, ..call }).cost.is_some());
}

#[test]
fn every_reason() {
    let used = usage(10, 10);
    let none = Usage::default();
    let reason = |call: PriceInput<'_>| {
        let priced = BOOK.price(&call);
        assert!(priced.cost.is_none(), "{priced:?}");
        priced.reason.unwrap()
    };
    assert_eq!(reason(input("openai", &["gpt-4o"], &none)), UnpricedReason::NoUsage);
    assert_eq!(reason(input("openai", &[], &used)), UnpricedReason::NoModel);
    assert_eq!(reason(input("openai", &["made-up"], &used)), UnpricedReason::UnknownModel);
    assert_eq!(reason(input("made-up-provider", &["x"], &used)), UnpricedReason::UnknownProvider);
    assert_eq!(reason(PriceInput { price_as: None, ..input("", &["x"], &used) }), UnpricedReason::UnknownProvider);
    assert_eq!(reason(PriceInput { local: true, ..input("openai", &["gpt-4o"], &used) }), UnpricedReason::Free);
    let pages = Usage { pages: Some(3), ..Usage::default() };
    assert_eq!(reason(input("openai", &["gpt-4o"], &pages)), UnpricedReason::NoRate);
}

#[test]
fn zero_is_a_price_only_where_the_book_says_so() {
    let used = usage(10, 10);
    let free = BOOK.price(&input("google", &["gemma-3-27b-it"], &used));
    assert_eq!((free.cost, free.reason, free.partial), (Some(Money::ZERO), None, false));
    // An embedding model has no rate for output.
    let odd = BOOK.price(&input("openai", &["text-embedding-3-small"], &used));
    assert_eq!((odd.cost, odd.partial, odd.unpriced_tokens), (cost("0.0000002"), true, 10));
    let plain = BOOK.price(&input("openai", &["text-embedding-3-small"], &usage(10, 0)));
    assert_eq!((plain.cost, plain.partial, plain.unpriced_tokens), (cost("0.0000002"), false, 0));
    let nothing = BOOK.price(&input("openai", &["gpt-4o"], &usage(0, 0)));
    assert_eq!((nothing.cost, nothing.reason), (Some(Money::ZERO), None));
}

#[test]
fn tiers_and_batch() {
    let used = usage(1_000_000, 0);
    let at = |tier: Option<&'static str>, batch| {
        let call = input("openai", &["o3"], &used);
        BOOK.price(&PriceInput { service_tier: tier, batch, ..call }).cost
    };
    assert_eq!(at(None, false), cost("2"));
    for standard in ["default", "auto", "scale", "é", "", "x"] {
        assert_eq!(at(Some(standard), false), cost("2"), "{standard}");
    }
    assert_eq!(at(Some("flex"), false), cost("1"));
    assert_eq!(at(Some("priority"), false), cost("3.5"));
    assert_eq!(at(None, true), cost("1"));
    assert_eq!(context(Some("ON_DEMAND_FLEX"), false), (Some("flex"), false));
    assert_eq!(context(Some("batch"), false), (None, true));
}

#[test]
fn rates_are_those_of_the_day() {
    // o3 became cheaper on 2025-06-10 (OpenAI pricing page).
    let used = usage(1_000_000, 0);
    let call = input("openai", &["o3"], &used);
    let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_747_000_000);
    assert_eq!(BOOK.price(&PriceInput { time: before, ..call }).cost, cost("10"));
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 40);
    assert!(BOOK.price(&PriceInput { time: before_1970, ..call }).cost.is_some());
}

#[test]
fn parts_are_priced_by_their_own_model() {
    let used = usage(1_000_000, 0);
    let parts = [
        UsagePart { model: Some("gpt-4o-mini".into()), usage: usage(1_000_000, 0) },
        UsagePart { model: None, usage: usage(1_000_000, 0) },
    ];
    let call = PriceInput { parts: &parts, ..input("openai", &["o3"], &used) };
    let priced = BOOK.price(&call);
    assert_eq!((priced.cost, priced.partial), (cost("4.15"), false));
    let parts = [UsagePart { model: Some("made-up".into()), usage: usage(1, 0) }];
    let priced = BOOK.price(&PriceInput { parts: &parts, ..call });
    assert_eq!((priced.cost, priced.partial, priced.unpriced_tokens), (cost("2"), true, 1));
    let parts = [UsagePart { model: Some("gpt-4o-mini".into()), usage: usage(1_000_000, 0) }];
    let turned = BOOK.price(&PriceInput { parts: &parts, ..input("openai", &["made-up"], &usage(7, 5)) });
    assert_eq!((turned.cost, turned.partial, turned.unpriced_tokens), (cost("0.15"), true, 12));
}

#[test]
fn contradicting_counts_still_have_a_price() {
    let max = Some(u64::MAX);
    let odd = [
        Usage { reasoning_tokens: Some(99), ..usage(1, 2) },
        Usage { cache_read_tokens: Some(99), cache_write_tokens: Some(99), ..usage(1, 2) },
        Usage { cache_read_tokens: Some(5), ..Usage::default() },
        Usage {
            cache_read_tokens: Some(9),
            input_audio_tokens: Some(9),
            cache_audio_read_tokens: Some(3),
            ..usage(10, 1)
        },
        Usage { cache_read_tokens: Some(9), input_image_tokens: Some(9), input_audio_tokens: Some(4), ..usage(10, 1) },
        Usage { cache_write_1h_tokens: Some(9), cache_write_tokens: Some(3), ..usage(10, 1) },
        Usage {
            output_audio_tokens: Some(9),
            output_image_tokens: Some(9),
            reasoning_tokens: Some(9),
            ..usage(10, 10)
        },
        Usage {
            cache_read_tokens: max,
            cache_write_tokens: max,
            cache_write_1h_tokens: max,
            reasoning_tokens: max,
            input_audio_tokens: max,
            input_image_tokens: max,
            cache_audio_read_tokens: max,
            output_audio_tokens: max,
            output_image_tokens: max,
            ..usage(1000, 1000)
        },
    ];
    let models = [
        ("openai", "gpt-realtime"),
        ("openai", "gpt-image-1.5"),
        ("openai", "gpt-4o"),
        ("google", "gemini-2.5-flash"),
        ("google", "gemini-2.5-flash-image"),
        ("anthropic", "claude-sonnet-4-6"),
        ("perplexity", "sonar-deep-research"),
    ];
    for (provider, model) in models {
        for used in &odd {
            let priced = BOOK.price(&input(provider, &[model], used));
            assert!(priced.cost.is_some(), "{model} {used:?}: {priced:?}");
            assert!(!priced.partial || used.input_tokens.is_none(), "{model} {used:?}: {priced:?}");
        }
    }
}

#[test]
fn units_other_than_tokens() {
    let seconds = Usage { input_audio_millis: Some(3_600_000), ..Usage::default() };
    assert_eq!(BOOK.price(&input("openai", &["whisper-1"], &seconds)).cost, cost("0.36"));
    // Groq bills at least ten seconds (console.groq.com/docs/speech-to-text).
    let short = Usage { input_audio_millis: Some(1_000), ..Usage::default() };
    let ten = Usage { input_audio_millis: Some(10_000), ..Usage::default() };
    let groq = |used: &Usage| BOOK.price(&input("groq", &["whisper-large-v3"], used)).cost;
    assert_eq!(groq(&short), groq(&ten));
    let characters = Usage { input_characters: Some(1_000_000), ..Usage::default() };
    assert_eq!(BOOK.price(&input("openai", &["tts-1"], &characters)).cost, cost("15"));
    let searched = Usage { web_searches: Some(2), ..usage(0, 0) };
    assert_eq!(BOOK.price(&input("anthropic", &["claude-sonnet-4-6"], &searched)).cost, cost("0.02"));
    let unrated =
        BOOK.price(&input("groq", &["llama-3.3-70b-versatile"], &Usage { web_searches: Some(2), ..usage(9, 9) }));
    assert!(unrated.cost.is_some() && unrated.partial && unrated.unpriced_tokens == 0, "{unrated:?}");
    // Perplexity charges each request, whatever it used.
    assert_eq!(BOOK.price(&input("perplexity", &["sonar"], &usage(0, 0))).cost, cost("0.012"));
}

#[test]
fn names_on_the_wire() {
    let used = usage(1, 1);
    let id = |provider: &str, model: &str| {
        let priced = BOOK.price(&input(provider, &[model], &used));
        priced.model_id.map(|id| id.to_string()).unwrap_or_else(|| format!("{:?}", priced.reason))
    };
    assert_eq!(id("openai", "gpt-4o-mini-2024-07-18"), "gpt-4o-mini");
    assert_eq!(id("openai", "GPT-4o-Mini"), "gpt-4o-mini");
    assert_eq!(id("openai", "openai/gpt-4o-mini"), "gpt-4o-mini");
    assert_eq!(id("openai", "ft:gpt-4o-mini-2024-07-18:made-up::id"), "ft:gpt-4o-mini");
    assert_eq!(id("openai", "ft:gpt-4.1-2025-04-14:made-up::id"), "Some(UnknownModel)", "never the base's price");
    assert_eq!(id("azure", "gpt-4o-mini-2024-07-18"), "gpt-4o-mini");
    assert_eq!(id("azure", "my-deployment"), "Some(UnknownModel)");
    assert_eq!(id("aws", "us.anthropic.claude-sonnet-4-6"), "regional.anthropic.claude-sonnet-4-6-v1:0");
    assert_eq!(id("aws", "global.anthropic.claude-sonnet-4-6"), "global.anthropic.claude-sonnet-4-6-v1:0");
    assert_eq!(id("aws", "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0"), "amazon.nova-lite-v1:0");
    assert_eq!(
        id("aws", "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"),
        "Some(UnknownModel)"
    );
    assert_eq!(id("google", "models/gemini-2.5-flash"), "gemini-2.5-flash");
    assert_eq!(id("google", "google/gemini-2.5-flash"), "gemini-2.5-flash");
    assert_eq!(id("google", "claude-sonnet-4@20250514"), id("google", "claude-sonnet-4"));
    assert_eq!(id("openrouter", "openai/gpt-4o-mini:nitro"), "openai/gpt-4o-mini");
    assert_eq!(id("openrouter", "made-up/model:free"), "Some(UnknownModel)");
    assert_eq!(id("huggingface", "deepseek-ai/DeepSeek-R1:together"), "deepseek-ai/DeepSeek-R1");
    let routed = PriceInput { price_as: None, ..input("huggingface", &["deepseek-ai/DeepSeek-R1:together"], &used) };
    assert!(BOOK.price(&routed).cost.is_some(), "the router itself is not in the book");
    for odd in ["", " ", "\0", "é", "ft:", "arn:", &"x".repeat(10_000)] {
        id("openai", odd);
    }
}

#[test]
fn lookups_stay_bounded() {
    let book = PriceBook::from_json(
        br#"[{"id":"acme","name":"Acme","api_pattern":"acme","models":[
            {"id":"m","match":{"starts_with":"m"},"prices":{"input_mtok":1}}]}]"#,
        None,
        Vec::new(),
    )
    .unwrap();
    let used = usage(1_000_000, 0);
    for n in 0..3 * MAX_LOOKUPS {
        assert_eq!(book.price(&input("acme", &[&format!("m{n}")], &used)).cost, cost("1"));
        assert!(book.lookups.lock().unwrap().count <= MAX_LOOKUPS);
    }
    assert_eq!(book.timestamp(), None);
    let error = PriceBook::from_json(b"[{}]", None, Vec::new()).unwrap_err();
    assert!(error.to_string().contains("genai-prices"), "{error}");
}

// === Reference prices ===

/// The recorded exchanges, where they are.
fn corpus() -> Option<PathBuf> {
    let shared = std::env::var_os("KEYTALLY_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let corpus = shared.join("corpus");
    corpus.join("MANIFEST.json").exists().then_some(corpus)
}

/// Id in the price book of a provider as the corpus names it.
fn book_provider(provider: &str, extractor: &str) -> Option<String> {
    Some(match provider {
        "vertex" => "google".into(),
        "bedrock" | "bedrock_mantle" => "aws".into(),
        "chatgpt" => "openai".into(),
        "copilot" => "github-copilot".into(),
        "xai" => "x-ai".into(),
        // Routers: the recorded extractor names who served the call.
        "huggingface" | "portkey" | "pydantic_gateway" => extractor.split_once('/')?.0.into(),
        _ => provider.into(),
    })
}

/// What is needed of a recorded exchange; the bodies are skipped.
#[derive(serde::Deserialize)]
struct Exchange {
    id: String,
    provider: String,
    model: Value,
    #[serde(rename = "ref")]
    reference: Value,
}

/// The reference's counts in our normal form.
fn from_reference(counts: &Value) -> Usage {
    // Amazon's Titan counts are written with decimals (`28.0`).
    let count = |key: &str| counts.get(key).and_then(Value::as_f64).map(|count| count as u64);
    Usage {
        input_tokens: count("input_tokens"),
        output_tokens: count("output_tokens"),
        cache_read_tokens: count("cache_read_tokens"),
        cache_write_tokens: count("cache_write_tokens"),
        cache_write_1h_tokens: count("cache_write_1h_tokens"),
        reasoning_tokens: count("output_reasoning_tokens"),
        input_audio_tokens: count("input_audio_tokens"),
        cache_audio_read_tokens: count("cache_audio_read_tokens"),
        output_audio_tokens: count("output_audio_tokens"),
        input_image_tokens: count("input_image_tokens"),
        output_image_tokens: count("output_image_tokens"),
        tool_input_tokens: count("input_tool_tokens"),
        web_searches: count("web_searches"),
        ..Usage::default()
    }
}

#[test]
fn spend_equals_the_reference() {
    let Some(corpus) = corpus() else {
        println!("skipped: no recorded exchanges here; set KEYTALLY_SHARED");
        return;
    };
    let manifest: Value = serde_json::from_slice(&std::fs::read(corpus.join("MANIFEST.json")).unwrap()).unwrap();
    assert_eq!(manifest["reference_libraries"]["price_time"], "2026-11-23T12:00:00+00:00");
    let (mut same, mut different) = (0, Vec::new());
    let mut only_ours = BTreeMap::<String, u32>::new();
    let mut names: Vec<_> = manifest["files"].as_object().unwrap().keys().cloned().collect();
    names.sort();
    for name in names {
        let file = std::fs::File::open(corpus.join(&name)).unwrap();
        for line in std::io::BufReader::new(flate2::read::MultiGzDecoder::new(file)).lines() {
            let exchange: Exchange = serde_json::from_str(&line.unwrap()).unwrap();
            let reference = &exchange.reference["genai_prices"];
            let Some(counts) = reference.get("usage").filter(|counts| counts.is_object()) else { continue };
            let extractor = reference["extractor"].as_str().unwrap_or("");
            let Some(price_as) = book_provider(&exchange.provider, extractor) else { continue };
            let used = from_reference(counts);
            let name = |key: &str| exchange.model[key].as_str();
            let models = candidates(name("response"), name("request"), name("url"));
            let tier = exchange.reference["native"]["service_tier"].as_str();
            let priced = BOOK.price(&PriceInput { service_tier: tier, ..input(&price_as, &models, &used) });
            match (reference["cost_usd"].as_f64(), priced.cost) {
                (Some(wanted), Some(cost)) if (cost.as_f64() - wanted).abs() <= 1e-9 * wanted.abs() => same += 1,
                (Some(wanted), _) => different.push(format!(
                    "{} {models:?} tier {tier:?}: reference {wanted} ({}), got {priced:?} {counts}",
                    exchange.id, reference["model"]
                )),
                (None, Some(_)) => *only_ours.entry(format!("{price_as} {}", models[0])).or_default() += 1,
                (None, None) => {}
            }
        }
    }
    println!("spend: {same} same; priced by us alone: {only_ours:?}");
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    assert!(same > 5_000, "{same}");
}
