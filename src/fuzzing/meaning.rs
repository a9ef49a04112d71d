//! What answers mean: outcomes, explanations, prices.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use super::Input;
use super::heads::CATALOG;
use crate::call::{End, GeneratedError, KeptHeader, Money, Usage, UsagePart};
use crate::cli::explain::{Known, explain as explained};
use crate::meter::{AccountNames, Evidence, Meter, MeterConfig, PriceBook, PriceInput, RuleEntry, Rules};

pub(super) static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| Arc::new(Rules::embedded()));
static PRICES: LazyLock<Arc<PriceBook>> = LazyLock::new(|| Arc::new(PriceBook::bundled(Vec::new())));
pub(super) static METER: LazyLock<Meter> = LazyLock::new(|| {
    Meter::new(MeterConfig {
        keys: Vec::new(),
        prices: PRICES.clone(),
        rules: RULES.clone(),
        estimate: false,
        labels: Arc::from([]),
        client: None,
        accounts: AccountNames { salt: b"salt".to_vec(), ..AccountNames::default() },
        max_models: 200,
    })
});

pub(super) const PROVIDERS: [&str; 12] = [
    "openai",
    "anthropic",
    "gemini",
    "azure_openai",
    "bedrock",
    "vertex",
    "mistral",
    "groq",
    "cohere",
    "openrouter",
    "xai",
    "my-server",
];
pub(super) const ENDS: [End; 6] =
    [End::Complete, End::ErrorEvent, End::Truncated, End::BodyError, End::IdleTimeout, End::ClientCancelled];

/// An outcome for any answer, with codes fit to be shown; the explanation agrees.
pub(super) fn judged(provider: &str, status: Option<u16>, headers: &[KeptHeader], body: &[u8]) {
    agree(&RULES, &Evidence { provider, status, headers, error_body: Some(body), ..Evidence::default() });
}

fn agree(rules: &Rules, evidence: &Evidence<'_>) {
    let verdict = rules.classify(evidence);
    for code in [&verdict.error_type, &verdict.error_code].into_iter().flatten() {
        assert!(code.chars().count() <= 64, "{code}");
    }
    let explained = rules.explain(evidence);
    assert_eq!(explained.verdict, verdict);
    assert!(rules.fix(&verdict.first_fix).is_some());
}

/// Provider, status, end, flags, headers, a rule of the user's; then the body.
pub(super) fn rules(data: &[u8]) {
    let mut input = Input(data);
    let provider = input.pick(&PROVIDERS);
    let status = Some(input.word() % 1000).filter(|status| *status >= 100);
    let end = input.pick(&ENDS);
    let flags = input.byte();
    let mut headers = Vec::new();
    for _ in 0..input.byte() % 8 {
        let (name, value) = (input.short(), input.short());
        headers.push((
            String::from_utf8_lossy(name).to_lowercase().into(),
            String::from_utf8_lossy(value).into_owned().into(),
        ));
    }
    let (code, message) = (input.short(), input.short());
    let body = input.rest();
    let evidence = Evidence {
        provider,
        status,
        headers: &headers,
        error_body: (flags & 1 == 0).then_some(body),
        in_stream: flags & 2 != 0,
        end,
        generated: (flags & 4 != 0).then(|| GeneratedError::ALL[usize::from(flags >> 4) % GeneratedError::ALL.len()]),
        blocked: flags & 8 != 0,
        credential_present: flags & 16 == 0,
        local: flags & 32 != 0,
        unreadable: flags & 64 != 0,
    };
    agree(&RULES, &evidence);
    // Compiling all rules takes as long as trying thousands of answers.
    if flags & 128 == 0 {
        return;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let entry = RuleEntry {
        id: "own".into(),
        providers: Vec::new(),
        statuses: Vec::new(),
        codes: Some(text(code)).filter(|code| !code.is_empty()).into_iter().collect(),
        messages: Some(text(message)).filter(|message| !message.is_empty()).into_iter().collect(),
        outcome: crate::call::Outcome::ProviderOverloaded,
        fault: None,
        retry: None,
        first_fix: None,
    };
    match Rules::build(&[entry]) {
        Ok(rules) => agree(&rules, &evidence),
        Err(problems) => assert!(!problems.is_empty() && problems.iter().all(|problem| problem.index == 0)),
    }
}

/// What is known beside the text; then the text.
pub(super) fn explain(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let known = Known {
        provider: (flags & 1 != 0).then(|| input.pick(&PROVIDERS).to_owned()),
        status: (flags & 2 != 0).then(|| input.word()),
        headers: (flags & 4 != 0).then(|| String::from_utf8_lossy(input.long()).into_owned()),
    };
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    let found = explained(&text, &known, &CATALOG, &RULES);
    let shown = found.text();
    let told = found.json().to_string();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert!(shown.len() <= 64 * 1024 && told.len() <= 64 * 1024, "{} {}", shown.len(), told.len());
}

pub(super) const MODELS: [(&str, &str); 14] = [
    ("openai", "gpt-4o-mini"),
    ("openai", "gpt-5"),
    ("openai", "gpt-4o-transcribe"),
    ("openai", "gpt-4o-realtime-preview"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-3-5-haiku-latest"),
    ("google", "gemini-2.5-flash"),
    ("google", "gemini-2.5-pro"),
    ("aws", "anthropic.claude-3-5-sonnet-20241022-v2:0"),
    ("azure", "gpt-4.1"),
    ("cohere", "command-r-plus"),
    ("deepseek", "deepseek-chat"),
    ("perplexity", "sonar-pro"),
    ("x-ai", "grok-4"),
];

/// Model, tier, time; then the counts, each with a bit that says whether it is there.
pub(super) fn price(data: &[u8]) {
    let mut input = Input(data);
    let (provider, model) = input.pick(&MODELS);
    let tier = input.pick(&[None, Some("flex"), Some("priority"), Some("batch"), Some("standard"), Some("x")]);
    let flags = input.byte();
    let seconds = 1_600_000_000 + u64::from(input.word()) * 4000;
    let (usage, part) = (usage(&mut input), usage(&mut input));
    let stated = (flags & 1 != 0).then(|| f64::from_bits(input.number())).and_then(Money::from_f64);
    let own = String::from_utf8_lossy(input.rest()).into_owned();
    let models = if own.is_empty() { vec![model] } else { vec![&*own, model] };
    let parts = [UsagePart { model: None, usage: part.clone() }];
    let priced = PRICES.price(&PriceInput {
        provider,
        price_as: (flags & 2 == 0).then_some(provider),
        local: flags & 4 != 0,
        models: &models,
        usage: &usage,
        parts: if flags & 8 != 0 { &parts } else { &[] },
        service_tier: tier,
        batch: flags & 16 != 0,
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        stated_cost: stated,
    });
    assert!(priced.cost.is_some() != priced.reason.is_some(), "{priced:?}");
    assert!(priced.cost.is_none_or(|cost| cost >= Money::default() || stated.is_some()), "{priced:?}");
    if let Some(cost) = priced.cost {
        let _ = (cost.to_string(), cost.as_f64());
    }
    let mut sum = usage;
    sum.add(&part);
    sum.split();
}

fn usage(input: &mut Input<'_>) -> Usage {
    let there = u32::from(input.word()) << 8 | u32::from(input.byte());
    let mut bit = 0;
    let mut count = || {
        bit += 1;
        (there >> (bit - 1) & 1 == 1).then(|| input.number())
    };
    Usage {
        input_tokens: count(),
        output_tokens: count(),
        cache_read_tokens: count(),
        cache_write_tokens: count(),
        cache_write_1h_tokens: count(),
        reasoning_tokens: count(),
        input_audio_tokens: count(),
        cache_audio_read_tokens: count(),
        output_audio_tokens: count(),
        input_image_tokens: count(),
        output_image_tokens: count(),
        tool_input_tokens: count(),
        web_searches: count(),
        file_searches: count(),
        search_units: count(),
        images: count(),
        input_audio_millis: count(),
        input_characters: count(),
        pages: count(),
    }
}
