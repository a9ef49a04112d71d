//! What it takes to price one call: look the model up (remembered), find the rates in force, add up.
//!
//! `cargo bench --bench price`. The first call of a provider, which decodes what the book has of it, is not measured here.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use keytally::call::Usage;
use keytally::meter::{PriceBook, PriceInput};

/// 27 November 2026, noon.
const AT: Duration = Duration::from_secs(1_795_780_800);

fn price(c: &mut Criterion) {
    let book = PriceBook::bundled(Vec::new());
    let tokens = Usage { input_tokens: Some(12_345), output_tokens: Some(678), ..Usage::default() };
    let cached = Usage { cache_read_tokens: Some(10_240), reasoning_tokens: Some(512), ..tokens.clone() };
    let written = Usage { cache_write_tokens: Some(1_024), cache_write_1h_tokens: Some(256), ..cached.clone() };
    let long = Usage { input_tokens: Some(312_345), ..cached.clone() };
    let calls = [
        ("gpt-4o-mini, cache, reasoning", "openai", "gpt-4o-mini-2024-07-18", &cached, None),
        ("o3, flex", "openai", "o3", &cached, Some("flex")),
        ("claude-sonnet-4-5, cache writes", "anthropic", "claude-sonnet-4-5-20250929", &written, None),
        ("gemini-2.5-pro, long prompt", "google", "gemini-2.5-pro", &long, None),
        ("deepseek-chat", "deepseek", "deepseek-chat", &tokens, None),
        ("mistral-small, which the crate prices", "mistral", "mistral-small-latest", &tokens, None),
        ("a name that nobody lists", "openai", "made-up", &tokens, None),
    ];
    for (name, provider, model, usage, tier) in calls {
        let models = [model];
        let input = PriceInput {
            provider,
            price_as: Some(provider),
            local: false,
            models: &models,
            usage,
            parts: &[],
            service_tier: tier,
            batch: false,
            time: SystemTime::UNIX_EPOCH + AT,
            stated_cost: None,
        };
        let priced = book.price(&input);
        assert!(priced.cost.is_some() != (model == "made-up"), "{name}: {priced:?}");
        c.bench_function(name, |b| b.iter(|| book.price(black_box(&input))));
    }
}

criterion_group!(benches, price);
criterion_main!(benches);
