//! The table charges what the crate charges. For every model of the built-in book the tests of [`super::super::book`] call
//! [`compare`]; here are made-up models, and what the table leaves to the crate.

use std::time::Duration;

use fastrand::Rng;
use genai_prices::Calculator;

use super::super::book::Book;
use super::super::{PriceBook, PriceInput, cost_by_crate, counts};
use super::*;
use crate::call::Usage;

/// 27 November 2026, noon.
const NOON: u64 = 1_795_780_800;

/// The crate computes in `f64`: its sums of up to ten products are off by some 10⁻¹⁵ of the cost. A rate that the book
/// writes with more than 15 decimals is rounded here, by up to 10⁻¹³ of the smallest one.
const NOISE: f64 = 1e-12;

/// Asks both for random counts in every tier, on both sides of every change of rates. Returns how often the crate charged
/// something, and how often it refused.
pub(in crate::meter::price) fn compare(
    tariff: &Tariff,
    provider: &str,
    calculator: &Calculator,
    seed: u64,
) -> [u32; 2] {
    let mut random = Rng::with_seed(seed);
    let mut seen = [0, 0];
    for time in times(tariff) {
        for service_tier in [None].into_iter().chain(SERVICE_TIERS.map(Some)) {
            for batch in [false, true] {
                let terms = Terms { time, service_tier, batch };
                for sample in [0, 1, random.u8(2..5)] {
                    let counts = sampled(&mut random, tariff, sample);
                    let ours = tariff.rates(&terms, counts.get(Unit::Input)).cost(&counts);
                    let theirs = cost_by_crate(calculator, provider, &terms, &counts);
                    let same = match (ours, theirs) {
                        (Ok(Some(ours)), Ok(Some(theirs))) => {
                            seen[0] += u32::from(theirs > Money::ZERO);
                            let allowed = theirs.femto() as f64 * NOISE + 1.0;
                            ((ours.femto() - theirs.femto()) as f64).abs() <= allowed
                        }
                        (ours, theirs) => {
                            seen[1] += u32::from(theirs.is_err());
                            ours == theirs
                        }
                    };
                    assert!(same, "{terms:?} {counts:?}: {ours:?}, the crate {theirs:?}; {tariff:?}");
                }
            }
        }
    }
    seen
}

/// Now, long ago, and the last moment before and the first after each change.
fn times(tariff: &Tariff) -> Vec<SystemTime> {
    let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
    let mut times = vec![at(NOON), UNIX_EPOCH - Duration::from_millis(1_500)];
    for condition in tariff.all_sets().filter_map(|set| set.condition) {
        let starts = match condition {
            Condition::Since(start) => vec![at(start.unsigned_abs())],
            Condition::Daily { from, to } => {
                let midnight = at(NOON / 86_400 * 86_400);
                [from, to].map(|nanos| midnight + Duration::from_nanos(nanos)).to_vec()
            }
        };
        times.extend(starts.iter().flat_map(|&start| [start, start - Duration::from_nanos(1)]));
    }
    times.sort_unstable();
    times.dedup();
    times
}

/// Counts as answers have them, counts that contradict each other, none, some at the edge of a tier, and huge ones.
fn sampled(random: &mut Rng, tariff: &Tariff, sample: u8) -> Counts {
    let lengths = tariff.lengths();
    let edge = lengths[random.usize(..lengths.len())] + random.u64(0..2);
    let most = [1_000, 3_000_000][random.usize(..2)];
    let input = if random.bool() { edge } else { random.u64(..most) };
    match sample {
        0 => counts(&used(random, input, most)),
        1 => {
            // Whole eighths of a second, so that the crate's floats have no rounding of their own here.
            let mut counts = Counts::default();
            for kind in &KINDS {
                counts.set(kind.unit, random.u64(..most) / 125 * 125 * random.u64(..2));
            }
            counts.set(Unit::Request, 0);
            counts.set(Unit::Input, input);
            counts
        }
        2 => Counts::default(),
        3 => counts(&Usage { input_tokens: Some(edge), output_tokens: Some(random.u64(..most)), ..Usage::default() }),
        // Up to 2⁶⁴, with few digits, so that floats have them all.
        _ => {
            let mut counts = counts(&used(random, input, most));
            counts.0.iter_mut().for_each(|count| *count = (*count & 0xff_ffff) << 40);
            counts.set(Unit::AudioIn, 0);
            counts.set(Unit::Audio, 0);
            counts
        }
    }
}

fn used(random: &mut Rng, input: u64, most: u64) -> Usage {
    let mut some = |most: u64| random.bool().then(|| random.u64(..=most));
    Usage {
        input_tokens: Some(input),
        output_tokens: some(most),
        cache_read_tokens: some(input),
        cache_write_tokens: some(input),
        cache_write_1h_tokens: some(input),
        reasoning_tokens: some(most),
        input_audio_tokens: some(input),
        cache_audio_read_tokens: some(input),
        output_audio_tokens: some(most / 2),
        input_image_tokens: some(input),
        output_image_tokens: some(most / 2),
        web_searches: some(20),
        file_searches: some(20),
        search_units: some(20),
        input_audio_millis: some(most),
        input_characters: some(most),
        pages: some(300),
        ..Usage::default()
    }
}

/// A book of one model.
fn entry(prices: &str, variants: &str) -> String {
    format!(
        r#"[{{"id":"acme","name":"Acme","api_pattern":"acme","models":[{{"id":"m","match":{{"starts_with":""}},"prices":{prices},"price_variants":{variants}}}]}}]"#
    )
}

fn read(prices: &str, variants: &str) -> Tariff {
    Tariff::read(Some(serde_json::from_str(prices).unwrap()), Some(serde_json::from_str(variants).unwrap()))
}

/// Random prices of units that the crate takes together.
fn made_up(random: &mut Rng, keys: &[&str]) -> String {
    let decimal = |random: &mut Rng| {
        let digits = random.u32(..100_000);
        [format!("{}", f64::from(digits) / 1e4), format!("{digits}e-5"), format!("{}", digits % 7)][random.usize(..3)]
            .clone()
    };
    let price = |random: &mut Rng| {
        let base = decimal(random);
        if random.bool() {
            return base;
        }
        let tiers: Vec<String> = (0..random.u8(..4))
            .map(|_| format!(r#"{{"price":{},"start":{}}}"#, decimal(random), random.u8(..4) as u32 * 100_000))
            .collect();
        format!(r#"{{"base":{base},"tiers":[{}]}}"#, tiers.join(","))
    };
    let prices: Vec<String> = keys.iter().map(|key| format!(r#""{key}":{}"#, price(random))).collect();
    format!("{{{}}}", prices.join(","))
}

fn keys(random: &mut Rng) -> Vec<&'static str> {
    let mut keys: Vec<&str> = Vec::new();
    let mut add = |key: &'static str| {
        if !keys.contains(&key) {
            keys.push(key);
        }
    };
    for kind in KINDS.iter().filter(|_| random.u8(..4) == 0) {
        add(kind.price_key);
        kind.within.iter().for_each(|whole| add(KINDS[*whole as usize].price_key));
    }
    for (left, right, both) in [
        ("cache_read_mtok", "input_audio_mtok", "cache_audio_read_mtok"),
        ("cache_read_mtok", "input_image_mtok", "cache_image_read_mtok"),
    ] {
        if keys.contains(&left) && keys.contains(&right) && !keys.contains(&both) {
            keys.push(both);
        }
    }
    if random.u8(..8) == 0 {
        keys.push(UNCOUNTED[random.usize(..UNCOUNTED.len())]);
    }
    keys
}

#[test]
fn made_up_models_cost_what_the_crate_charges() {
    let mut random = Rng::with_seed(7);
    let conditions = [
        r#"{"start_date":"2026-02-28"}"#,
        r#"{"start_date":"2026-11-27","type":"start_date"}"#,
        r#"{"start_time":"23:00:00Z","end_time":"01:30:00+01:00"}"#,
        r#"{"start_time":"22:15:30.25Z","end_time":"04:00:00-02:30"}"#,
        r#"{"end_time":"10:00:00Z","start_time":"10:00:00Z"}"#,
    ];
    let whens = [
        r#"{"service_tier":"flex"}"#,
        r#"{"service_tier":"priority","processing":"batch"}"#,
        r#"{"processing":"batch"}"#,
        r#"{"service_tier":"default"}"#,
        r#"{"service_tier":"fast","speed":"fast"}"#,
    ];
    let (mut models, mut seen, mut units) = (0, [0, 0], std::collections::BTreeSet::new());
    for seed in 0..600 {
        let keys = keys(&mut random);
        let mut sets = vec![format!(r#"{{"prices":{}}}"#, made_up(&mut random, &keys))];
        for condition in conditions {
            if random.u8(..5) > 0 {
                continue;
            }
            let set = format!(r#"{{"prices":{},"constraint":{condition}}}"#, made_up(&mut random, &keys));
            sets.insert(random.usize(..=sets.len()), set);
        }
        let mut variants = Vec::new();
        for when in whens {
            if random.u8(..3) > 0 {
                continue;
            }
            let own: Vec<&str> = keys.iter().copied().filter(|_| random.bool()).collect();
            let prices = made_up(&mut random, &own);
            let condition = random.bool().then(|| format!(r#","constraint":{}"#, conditions[random.usize(..4)]));
            variants.push(format!(r#"{{"when":{when},"prices":{prices}{}}}"#, condition.unwrap_or_default()));
        }
        let (sets, variants) = (format!("[{}]", sets.join(",")), format!("[{}]", variants.join(",")));
        // Most of what it refuses lacks a rate for an overlap, cached writes of audio for instance.
        let Ok(calculator) = Calculator::from_json(entry(&sets, &variants)) else { continue };
        let tariff = read(&sets, &variants);
        assert!(tariff.is_complete(), "{sets} {variants}");
        let found = compare(&tariff, "acme", &calculator, seed);
        seen = [seen[0] + found[0], seen[1] + found[1]];
        models += 1;
        units.extend(keys);
    }
    assert!(models > 100 && seen[0] > 4_000 && seen[1] > 400, "{models} {seen:?}");
    let unseen: Vec<_> =
        KINDS.iter().filter(|kind| !units.contains(kind.price_key)).map(|kind| kind.price_key).collect();
    assert!(unseen.is_empty(), "in no model: {unseen:?}");
}

fn price(book: &PriceBook, usage: &Usage, batch: bool) -> super::super::Priced {
    book.price(&PriceInput {
        provider: "acme",
        price_as: Some("acme"),
        local: false,
        models: &["m"],
        usage,
        parts: &[],
        service_tier: None,
        batch,
        time: UNIX_EPOCH + Duration::from_secs(NOON),
        stated_cost: None,
    })
}

fn dollars(text: &str) -> Option<Money> {
    Some(Money::parse(text).unwrap())
}

#[test]
fn what_is_not_known_is_left_to_the_crate() {
    let used = Usage {
        input_tokens: Some(1_000_000),
        output_tokens: Some(1_000_000),
        cache_write_tokens: Some(500_000),
        input_audio_tokens: Some(500_000),
        ..Usage::default()
    };
    let written_audio =
        r#"{"input_mtok":1,"cache_write_mtok":2,"input_audio_mtok":3,"cache_audio_write_mtok":4,"output_mtok":1}"#;
    for (prices, variants, batch, cost, partial) in [
        // A unit of a later book.
        (r#"{"input_mtok":1,"output_mtok":2,"smell_mtok":9}"#, "[]", false, "3", false),
        // More said of a tier or a variant.
        (
            r#"{"input_mtok":{"base":1,"tiers":[{"start":5,"price":7,"end":100}]},"output_mtok":2}"#,
            "[]",
            false,
            "9",
            false,
        ),
        (
            r#"{"input_mtok":1,"output_mtok":2}"#,
            r#"[{"when":{"processing":"batch"},"until":"2026","prices":{"input_mtok":0.5}}]"#,
            true,
            "2.5",
            false,
        ),
        // A rate that only a variant has, and one whose whole has none.
        (
            r#"{"input_mtok":1,"output_mtok":2}"#,
            r#"[{"when":{"processing":"batch"},"prices":{"cache_write_mtok":4,"input_mtok":2}}]"#,
            true,
            "5",
            false,
        ),
        // No count says how much of the audio was written to a cache.
        (written_audio, "[]", false, "2", true),
        // More than an integer of femto-dollars holds.
        (r#"{"input_mtok":20000,"output_mtok":0}"#, "[]", false, "20000", false),
    ] {
        let text = entry(prices, variants);
        let book = Book::from_json(text.as_bytes()).unwrap();
        let card = book.card(book.find("acme", "m").unwrap()).unwrap();
        assert!(!card.tariff.is_complete() && card.calculator.is_some(), "{prices} {variants}");
        let priced = price(&PriceBook::from_json(text.as_bytes(), None, Vec::new()).unwrap(), &used, batch);
        assert_eq!((priced.cost, priced.partial), (dollars(cost), partial), "{prices} {variants}");
    }
    let invalid = entry(r#"{"output_mtok":2}"#, r#"[{"when":{"processing":"batch"},"prices":{"cache_write_mtok":4}}]"#);
    let book = PriceBook::from_json(invalid.as_bytes(), None, Vec::new()).unwrap();
    assert_eq!(price(&book, &used, true).cost, None, "a part has a rate and its whole has none");
}

#[test]
fn costs_are_exact_decimals() {
    let tariff = read(r#"{"input_mtok":0.15,"output_mtok":1.1e-3,"cache_read_mtok":0.049999999999999996}"#, "[]");
    assert!(tariff.is_complete());
    let terms = Terms { time: UNIX_EPOCH, service_tier: None, batch: false };
    let cost = |input, read, output| {
        let mut counts = Counts::default();
        counts.set(Unit::Input, input);
        counts.set(Unit::CacheRead, read);
        counts.set(Unit::Output, output);
        tariff.rates(&terms, input).cost(&counts).unwrap()
    };
    assert_eq!(cost(1, 0, 0), dollars("0.00000015"));
    assert_eq!(cost(0, 0, 1), dollars("0.0000000011"));
    // What the book writes with the noise of floats is meant as five cents.
    assert_eq!(cost(3, 3, 0), dollars("0.00000015"));
    assert_eq!(cost(123_456_789_012_345, 0, 0), dollars("18518518.35185175"), "17 digits");
    assert_eq!(cost(123_456_789_012_345, 0, 3), dollars("18518518.3518517533"));
    // Half a femto-dollar a token: what is rounded is the sum.
    let smallest = read(r#"{"input_mtok":0.0000000005}"#, "[]");
    for (tokens, femto) in [(1, 1), (2, 1), (3, 2), (1_000_000, 500_000)] {
        let counts = counts(&Usage { input_tokens: Some(tokens), ..Usage::default() });
        let cost = smallest.rates(&terms, tokens).cost(&counts);
        assert_eq!(cost, Ok(Some(Money::from_femto(femto))), "{tokens}");
    }
    // Over 10⁹ dollars there is none.
    assert_eq!(cost(6_666_666_666_666_666, 0, 0), dollars("999999999.9999999"));
    assert_eq!(cost(6_666_666_666_666_667, 0, 0), None);
    assert_eq!(cost(u64::MAX, 0, u64::MAX), None);
}

#[test]
fn a_model_takes_little_memory() {
    assert_eq!(size_of::<Row>(), 24);
    assert!(size_of::<Tariff>() <= 48 && size_of::<Variant>() <= 64);
}
