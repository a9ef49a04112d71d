//! What a model costs at each provider that serves it, for people to compare.
//!
//! In: a model's name. Out: [`Offer`]s with their rates by service tier and length of prompt, at one moment. The book
//! does not show its rates; each is found by pricing a made-up call, as calls are priced, so that what is shown is what
//! would be charged. A name that only looks like the model's is no offer: names are compared as [`family`] has them.

use std::time::{Duration, SystemTime};

use genai_prices::{Calculator, PriceRequest, Usage as Counts, UsageKey};

use super::{PriceBook, Rates, pattern_fits};
use crate::call::label_enum;
use crate::meter::PriceOverride;

/// Longest prompt that is looked at for a change of rates.
const LONGEST_PROMPT: u64 = 4_000_000;
/// Prompts this short are in the first tier of every model in the book (October 2026: the first one ends at 32,000).
const SHORT_PROMPT: u64 = 1_000;
/// Rates that differ by less are the same: the crate computes in `f64`.
const SAME: f64 = 1e-9;
/// How finely the day is looked at for rates that depend on the hour.
const STEP: Duration = Duration::from_secs(15 * 60);

label_enum! {
    /// What is billed.
    RateKind {
        Input = "input",
        CacheRead = "cache_read",
        CacheWrite = "cache_write",
        CacheWrite1h = "cache_write_1h",
        Output = "output",
        Reasoning = "reasoning",
        InputAudio = "input_audio",
        CacheAudioRead = "cache_audio_read",
        OutputAudio = "output_audio",
        InputImage = "input_image",
        OutputImage = "output_image",
        WebSearch = "web_search",
        FileSearch = "file_search",
        Rerank = "rerank",
        AudioHour = "audio_hour",
        Characters = "characters",
        Pages = "pages",
        Request = "request",
    }
}

impl RateKind {
    /// Of how many of what the rate is the price.
    pub const fn per(self) -> &'static str {
        match self {
            RateKind::WebSearch | RateKind::FileSearch | RateKind::Rerank => "1,000 searches",
            RateKind::AudioHour => "hour of audio",
            RateKind::Characters => "1,000,000 characters",
            RateKind::Pages => "1,000 pages",
            RateKind::Request => "call",
            RateKind::Input
            | RateKind::CacheRead
            | RateKind::CacheWrite
            | RateKind::CacheWrite1h
            | RateKind::Output
            | RateKind::Reasoning
            | RateKind::InputAudio
            | RateKind::CacheAudioRead
            | RateKind::OutputAudio
            | RateKind::InputImage
            | RateKind::OutputImage => "1,000,000 tokens",
        }
    }
}

label_enum! {
    /// How a call is sent or served.
    Tier { Standard = "standard", Batch = "batch", Flex = "flex", Priority = "priority", Fast = "fast" }
}

/// A model at a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Id in the price book; for an override of the configuration the catalogue id, or `any`.
    pub provider: String,
    /// Id in the price book, or the pattern of the override.
    pub model: String,
    /// Largest context, tokens, if the book says.
    pub context_window: Option<u64>,
    /// The rates are the configuration's.
    pub overridden: bool,
    /// Standard rates first.
    pub cards: Vec<RateCard>,
    /// Spans of the day with rates of their own, from and to as UTC `HH:MM`, with the standard card of then; empty when
    /// rates are the same all day.
    pub hours: Vec<(String, String, RateCard)>,
}

/// Rates of one tier and length of prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct RateCard {
    /// How the call is sent or served.
    pub tier: Tier,
    /// For prompts of more tokens than this.
    pub above_input_tokens: u64,
    /// Dollars by kind; kinds that cost what they are part of are left out, as are those without a rate. None at all: the
    /// model is free, or part of a plan.
    pub rates: Vec<(RateKind, f64)>,
}

impl RateCard {
    /// Dollars for a kind, if it has a rate of its own.
    pub fn rate(&self, kind: RateKind) -> Option<f64> {
        self.rates.iter().find(|(known, _)| *known == kind).map(|(_, rate)| *rate)
    }

    /// For putting offers in order: three tokens in for each out, as chat has it; one without rates comes last.
    pub fn mixed(&self) -> f64 {
        if self.rates.is_empty() {
            return f64::INFINITY;
        }
        let rate = |kind| self.rate(kind).unwrap_or(0.0);
        3.0 * rate(RateKind::Input) + rate(RateKind::Output) + rate(RateKind::Request) * 1_000.0
    }
}

impl Offer {
    /// The book has no rate for it: it is free, or part of a plan.
    pub fn is_without_rates(&self) -> bool {
        self.cards.iter().all(|card| card.rates.is_empty())
    }

    /// Another way of being served under a name of its own (`…:batch`, `…:free`), with limits of its own. The `:0` of
    /// Bedrock is a version.
    pub fn is_variant(&self) -> bool {
        let variant = self.model.rsplit_once(':').map(|(_, variant)| variant);
        !self.overridden && variant.is_some_and(|variant| !variant.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

/// A model family in the book and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFamily {
    /// As [`family`] has it.
    pub name: String,
    /// Ids of providers in the book.
    pub providers: Vec<String>,
}

/// The name that a model has whoever serves it: lower case, without vendor, region, version of the host, date and routing
/// variant. `us.anthropic.claude-sonnet-4-5-20250929-v1:0`, `anthropic/claude-sonnet-4.5` and `claude-sonnet-4-5` are one.
pub fn family(name: &str) -> String {
    let lower = name.trim().to_ascii_lowercase();
    let mut rest = lower.rsplit('/').next().unwrap_or(&lower);
    // `global.`, `us.`, `anthropic.`: a word without digits, a dot, and a letter (not the dot of `v3.1`).
    while let Some((word, after)) = rest.split_once('.') {
        let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        if !is_word || !after.starts_with(|c: char| c.is_ascii_lowercase()) {
            break;
        }
        rest = after;
    }
    // `-v1:0` and `-1:0` are Bedrock's; `:free`, `:batch` and the like are variants.
    let (base, variant) = rest.split_once(':').unwrap_or((rest, ""));
    let base = match base.rsplit_once('-') {
        Some((start, version)) if !variant.is_empty() && variant.bytes().all(|b| b.is_ascii_digit()) => {
            let number = version.strip_prefix('v').unwrap_or(version);
            if number.len() == 1 && number.bytes().all(|b| b.is_ascii_digit()) { start } else { base }
        }
        _ => base,
    };
    let base = base.replace(['@', '.', '_'], "-");
    without_date(base.trim_end_matches("-latest").trim_end_matches("-default")).to_owned()
}

fn without_date(name: &str) -> &str {
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((start, day)) = name.rsplit_once('-') {
        if digits(day, 8) && day.starts_with("20") {
            return start;
        }
        if digits(day, 2)
            && let Some((start, month)) = start.rsplit_once('-')
            && digits(month, 2)
            && let Some((start, year)) = start.rsplit_once('-')
            && digits(year, 4)
        {
            return start;
        }
    }
    name
}

// === impl PriceBook ===

impl PriceBook {
    /// What `model` costs at each provider that serves it, the cheapest first; overrides of the configuration before
    /// everything. Empty when nobody serves a model of this name.
    pub fn offers(&self, model: &str, at: SystemTime) -> Vec<Offer> {
        let wanted = family(model);
        let Some(calculator) = self.whole() else { return Vec::new() };
        let offer = |provider: &str, name: &str, window| offer(calculator, provider, name, window, at);
        let mut offers = Vec::new();
        for provider in calculator.providers() {
            let mut own = 0;
            for listed in provider.models().filter(|listed| family(listed.id()) == wanted) {
                // The book may find another model by this id first: only what it would charge counts.
                if let Some(offer) = offer(provider.id(), listed.id(), listed.context_window())
                    && !offers
                        .iter()
                        .any(|known: &Offer| known.provider == offer.provider && known.model == offer.model)
                {
                    offers.push(offer);
                    own += 1;
                }
            }
            // Azure lists few models of its own and serves OpenAI's at their prices.
            if own == 0
                && let Some(offer) = offer(provider.id(), model.rsplit('/').next().unwrap_or(model), None)
                && family(&offer.model) == wanted
            {
                offers.push(offer);
            }
        }
        offers.sort_by(|a, b| {
            let mixed = |offer: &Offer| offer.cards.first().map_or(f64::INFINITY, RateCard::mixed);
            mixed(a).total_cmp(&mixed(b)).then_with(|| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)))
        });
        let names: Vec<&str> = std::iter::once(model).chain(offers.iter().map(|offer| &*offer.model)).collect();
        let overridden = self.overrides.iter().filter(|rate| names.iter().any(|name| pattern_fits(&rate.model, name)));
        let mut all: Vec<Offer> = overridden.map(of_override).collect();
        all.append(&mut offers);
        all
    }

    /// Every model family of the book, by name.
    pub fn families(&self) -> Vec<ListedFamily> {
        let mut families = std::collections::BTreeMap::<String, Vec<String>>::new();
        for provider in self.whole().into_iter().flat_map(Calculator::providers) {
            for model in provider.models() {
                let providers = families.entry(family(model.id())).or_default();
                if providers.last().is_none_or(|last| last != provider.id()) {
                    providers.push(provider.id().to_owned());
                }
            }
        }
        families.into_iter().map(|(name, providers)| ListedFamily { name, providers }).collect()
    }
}

fn offer(
    calculator: &Calculator,
    provider: &str,
    name: &str,
    context_window: Option<u64>,
    at: SystemTime,
) -> Option<Offer> {
    let probe = Probe { calculator, provider, name, tier: Tier::Standard, at };
    let model = probe.model()?;
    let rates = Rates::of(calculator, provider, name);
    let standard = probe.cards(rates);
    let mut cards = standard.clone();
    for &tier in &Tier::ALL[1..] {
        let own = Probe { tier, ..probe }.cards(rates);
        let differs = |card: &RateCard| {
            !standard
                .iter()
                .any(|known| known.above_input_tokens == card.above_input_tokens && same(&known.rates, &card.rates))
        };
        if own.iter().any(differs) {
            cards.extend(own);
        }
    }
    let hours = probe.hours(rates);
    Some(Offer { provider: provider.to_owned(), model, context_window, overridden: false, cards, hours })
}

fn same(left: &[(RateKind, f64)], right: &[(RateKind, f64)]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() <= SAME)
}

fn of_override(rate: &PriceOverride) -> Offer {
    let rates = [
        (RateKind::Input, Some(rate.input_per_mtok)),
        (RateKind::CacheRead, rate.cache_read_per_mtok),
        (RateKind::CacheWrite, rate.cache_write_per_mtok),
        (RateKind::Output, Some(rate.output_per_mtok)),
        (RateKind::Request, rate.per_request),
    ];
    let rates = rates.into_iter().filter_map(|(kind, rate)| Some((kind, rate?.as_f64()))).collect();
    Offer {
        provider: rate.provider.clone().unwrap_or_else(|| "any".to_owned()),
        model: rate.model.clone(),
        context_window: None,
        overridden: true,
        cards: vec![RateCard { tier: Tier::Standard, above_input_tokens: 0, rates }],
        hours: Vec::new(),
    }
}

/// Prices made-up calls of one model.
#[derive(Clone, Copy)]
struct Probe<'a> {
    calculator: &'a Calculator,
    provider: &'a str,
    name: &'a str,
    tier: Tier,
    at: SystemTime,
}

impl Probe<'_> {
    fn model(&self) -> Option<String> {
        let none = Counts::new();
        let request = PriceRequest::new(self.name, &none).with_provider_id(self.provider);
        self.calculator.calculate(&request).ok().map(|calculation| calculation.model_id)
    }

    /// Dollars of a call with these counts; `None` when they cannot be together.
    fn price(&self, counts: &[(UsageKey, u64)]) -> Option<f64> {
        let counts: Counts = counts.iter().map(|(key, count)| (key.clone(), *count as f64)).collect();
        let request = PriceRequest::new(self.name, &counts).with_provider_id(self.provider).with_timestamp(self.at);
        let request = match self.tier {
            Tier::Standard => request,
            Tier::Batch => request.with_price_context("processing", "batch"),
            tier => request.with_price_context("service_tier", tier.as_str()),
        };
        self.calculator.calculate(&request).ok().map(|calculation| calculation.total_price)
    }

    /// A card for each length of prompt with rates of its own, the shortest first.
    fn cards(&self, rates: Rates) -> Vec<RateCard> {
        let fee = self.price(&[]).unwrap_or(0.0);
        let mut cards = vec![self.card(rates, fee, 0)];
        let mut from = SHORT_PROMPT;
        // Each change of rates by halving; the book has at most two.
        while cards.len() < 8 && !self.alike(from, LONGEST_PROMPT) {
            let (mut low, mut high) = (from, LONGEST_PROMPT);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if self.alike(from, middle) { low = middle } else { high = middle }
            }
            cards.push(self.card(rates, fee, low));
            from = high;
        }
        cards
    }

    /// A token in and a token out cost the same in prompts of these two lengths.
    fn alike(&self, left: u64, right: u64) -> bool {
        let per_token = |input: u64| {
            let counts = [(UsageKey::INPUT_TOKENS, input), (UsageKey::OUTPUT_TOKENS, input)];
            self.price(&counts).map(|price| (price - self.price(&[]).unwrap_or(0.0)) / input as f64 * 1e6)
        };
        match (per_token(left), per_token(right)) {
            (Some(left), Some(right)) => (left - right).abs() <= 1e-7,
            // Without a price for tokens there are no lengths to tell apart.
            _ => true,
        }
    }

    fn card(&self, rates: Rates, fee: f64, above: u64) -> RateCard {
        use UsageKey as K;
        let input = (above + 1).max(SHORT_PROMPT);
        let million = 1_000_000;
        let mut card = RateCard { tier: self.tier, above_input_tokens: above, rates: Vec::new() };
        // All of the input is of this kind, or all of a million tokens of output.
        let of_input = |parts: &[K]| {
            let mut counts = vec![(K::INPUT_TOKENS, input)];
            counts.extend(parts.iter().map(|part| (part.clone(), input)));
            self.price(&counts).map(|price| (price - fee) / input as f64 * 1e6)
        };
        let of_output = |parts: &[K]| {
            let mut counts = vec![(K::INPUT_TOKENS, input), (K::OUTPUT_TOKENS, million)];
            counts.extend(parts.iter().map(|part| (part.clone(), million)));
            let alone = self.price(&[(K::INPUT_TOKENS, input)])?;
            self.price(&counts).map(|price| price - alone)
        };
        let mut add = |kind: RateKind, rate: Option<f64>, whole: Option<f64>| {
            if let Some(rate) = rate.filter(|rate| whole.is_none_or(|whole| (rate - whole).abs() > SAME)) {
                card.rates.push((kind, tidy(rate)));
            }
        };
        let whole_input = rates.input_tokens.then(|| of_input(&[])).flatten();
        let whole_output = rates.output_tokens.then(|| of_output(&[])).flatten();
        if let Some(whole) = whole_input {
            add(RateKind::Input, Some(whole), None);
            let write = of_input(&[K::CACHE_WRITE_TOKENS]);
            let audio = of_input(&[K::INPUT_AUDIO_TOKENS]);
            add(RateKind::CacheRead, of_input(&[K::CACHE_READ_TOKENS]), Some(whole));
            add(RateKind::CacheWrite, write, Some(whole));
            add(
                RateKind::CacheWrite1h,
                of_input(&[K::CACHE_WRITE_TOKENS, K::CACHE_WRITE_1H_TOKENS]),
                write.or(Some(whole)),
            );
            add(RateKind::InputAudio, audio, Some(whole));
            let cached_audio = [K::INPUT_AUDIO_TOKENS, K::CACHE_READ_TOKENS, K::CACHE_AUDIO_READ_TOKENS];
            if audio.is_some_and(|audio| (audio - whole).abs() > SAME) {
                add(RateKind::CacheAudioRead, of_input(&cached_audio), audio);
            }
            add(RateKind::InputImage, of_input(&[K::INPUT_IMAGE_TOKENS]), Some(whole));
        }
        if let Some(whole) = whole_output {
            add(RateKind::Output, Some(whole), None);
            add(RateKind::Reasoning, of_output(&[K::OUTPUT_REASONING_TOKENS]), Some(whole));
            add(RateKind::OutputAudio, of_output(&[K::OUTPUT_AUDIO_TOKENS]), Some(whole));
            add(RateKind::OutputImage, of_output(&[K::OUTPUT_IMAGE_TOKENS]), Some(whole));
        }
        let per =
            |key: K, count: u64| self.price(&[(key, count)]).map(|price| price - fee).filter(|price| *price > SAME);
        for (kind, key) in [
            (RateKind::WebSearch, K::WEB_SEARCHES),
            (RateKind::FileSearch, K::STORAGE_SEARCHES),
            (RateKind::Rerank, K::RERANK_SEARCHES),
            (RateKind::Pages, K::INPUT_DOCUMENT_PAGES),
        ] {
            add(kind, per(key, 1_000), None);
        }
        add(RateKind::Characters, per(K::INPUT_CHARACTERS, million), None);
        let hour = [(K::AUDIO_SECONDS, 3_600), (K::INPUT_AUDIO_SECONDS, 3_600)];
        add(RateKind::AudioHour, self.price(&hour).map(|price| price - fee).filter(|price| *price > SAME), None);
        add(RateKind::Request, Some(fee).filter(|fee| *fee > 0.0), None);
        card
    }

    /// The spans of the day of `at` that have rates of their own; empty when it has one.
    fn hours(&self, rates: Rates) -> Vec<(String, String, RateCard)> {
        let day = 86_400 / STEP.as_secs();
        let midnight =
            self.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400 * 86_400);
        let at = |step: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(midnight + step * STEP.as_secs());
        let price = |step: u64| {
            let probe = Probe { at: at(step), ..*self };
            let counts = [(UsageKey::INPUT_TOKENS, SHORT_PROMPT), (UsageKey::OUTPUT_TOKENS, SHORT_PROMPT)];
            probe.price(&counts).unwrap_or(0.0)
        };
        let clock =
            |step: u64| format!("{:02}:{:02}", step * STEP.as_secs() / 3_600 % 24, step * STEP.as_secs() / 60 % 60);
        let mut spans = Vec::new();
        let mut from = 0;
        for step in 1..=day {
            if step == day || (price(step) - price(from)).abs() > 1e-15 {
                let card = Probe { at: at(from), ..*self }.card(rates, 0.0, 0);
                spans.push((clock(from), clock(step), card));
                from = step;
            }
        }
        if spans.len() > 1 { spans } else { Vec::new() }
    }
}

/// Without the last digits, which are noise of the arithmetic.
fn tidy(rate: f64) -> f64 {
    (rate * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Money, Usage};
    use crate::meter::PriceInput;

    /// 27 November 2026, noon.
    const AT: Duration = Duration::from_secs(1_795_780_800);

    fn at() -> SystemTime {
        SystemTime::UNIX_EPOCH + AT
    }

    #[test]
    fn one_model_has_one_name_whoever_serves_it() {
        for (names, expected) in [
            (
                &[
                    "claude-sonnet-4-5",
                    "anthropic/claude-sonnet-4.5",
                    "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
                    "claude-sonnet-4-5@20250929",
                    "anthropic/claude-sonnet-4.5:batch",
                ][..],
                "claude-sonnet-4-5",
            ),
            (&["gpt-4o", "openai/gpt-4o", "gpt-4o-2024-08-06", "GPT-4o", "openai/gpt-4o:extended"], "gpt-4o"),
            (&["openai.gpt-oss-120b-1:0", "openai/gpt-oss-120b", "@cf/openai/gpt-oss-120b"], "gpt-oss-120b"),
            (&["deepseek-ai/DeepSeek-V3.2", "deepseek/deepseek-v3.2"], "deepseek-v3-2"),
            (&["mistral-large-latest"], "mistral-large"),
            (&["gpt-4o-mini", "azure/gpt-4o-mini-2024-07-18"], "gpt-4o-mini"),
        ] {
            for name in names {
                assert_eq!(family(name), expected, "{name}");
            }
        }
    }

    /// What is shown is what would be charged, in every tier and on both sides of every length.
    #[test]
    fn rates_are_what_calls_are_charged() {
        let book = PriceBook::bundled(Vec::new());
        let mut seen = std::collections::HashSet::new();
        for model in ["gpt-5.4", "claude-sonnet-4-5", "gemini-2.5-pro", "gpt-4o"] {
            let offers = book.offers(model, at());
            assert!(offers.len() >= 2, "{model}: {offers:?}");
            for offer in &offers {
                for card in &offer.cards {
                    let input = card.above_input_tokens + 5_000;
                    let (cached, output) = (2_000, 700);
                    let usage = Usage {
                        input_tokens: Some(input),
                        cache_read_tokens: Some(cached),
                        output_tokens: Some(output),
                        ..Usage::default()
                    };
                    let rate = |kind| card.rate(kind);
                    // What is billed by the call or not at all has no such rates.
                    let (Some(whole), Some(out)) = (rate(RateKind::Input), rate(RateKind::Output)) else { continue };
                    seen.insert((card.tier, card.above_input_tokens > 0));
                    let read = rate(RateKind::CacheRead).unwrap_or(whole);
                    let expected = ((input - cached) as f64 * whole + cached as f64 * read + output as f64 * out) / 1e6;
                    let priced = book.price(&PriceInput {
                        provider: "x",
                        price_as: Some(&offer.provider),
                        local: false,
                        models: &[&offer.model],
                        usage: &usage,
                        parts: &[],
                        service_tier: Some(card.tier.as_str()),
                        batch: card.tier == Tier::Batch,
                        time: at(),
                        stated_cost: None,
                    });
                    let cost = priced.cost.map_or(f64::NAN, Money::as_f64);
                    assert!((cost - expected).abs() < 1e-9, "{offer:?} {card:?}: {cost} {expected}");
                }
            }
        }
        for wanted in [(Tier::Standard, true), (Tier::Batch, false), (Tier::Flex, false), (Tier::Priority, false)] {
            assert!(seen.contains(&wanted), "{wanted:?} is in none of them: {seen:?}");
        }
    }

    #[test]
    fn known_rates_and_lengths() {
        let book = PriceBook::bundled(Vec::new());
        let offers = book.offers("claude-sonnet-4-5", at());
        let own = offers.iter().find(|offer| offer.provider == "anthropic").unwrap();
        let standard = &own.cards[0];
        // https://platform.claude.com/docs/en/about-claude/pricing
        assert_eq!(
            standard.rates[..5],
            [
                (RateKind::Input, 3.0),
                (RateKind::CacheRead, 0.3),
                (RateKind::CacheWrite, 3.75),
                (RateKind::CacheWrite1h, 6.0),
                (RateKind::Output, 15.0)
            ]
        );
        assert_eq!((own.cards[1].above_input_tokens, own.cards[1].rate(RateKind::Input)), (200_000, Some(6.0)));
        let batch = own.cards.iter().find(|card| card.tier == Tier::Batch).unwrap();
        assert_eq!((batch.rate(RateKind::Input), batch.rate(RateKind::Output)), (Some(1.5), Some(7.5)));
        assert!(offers.iter().any(|offer| offer.model.ends_with(":batch") && offer.is_variant()));
        assert!(offers.iter().any(|offer| offer.model.ends_with("-v1:0") && !offer.is_variant()));
        for provider in ["aws", "google", "openrouter"] {
            assert!(offers.iter().any(|offer| offer.provider == provider), "{provider}");
        }
        // Azure serves OpenAI's models without listing them.
        assert!(book.offers("gpt-4.1", at()).iter().any(|offer| offer.provider == "azure"));
        assert!(book.offers("no-such-model", at()).is_empty());
        assert!(book.families().len() > 500);
    }

    #[test]
    fn overrides_stand_first_and_say_so() {
        let rate = |text: &str| Money::parse(text).unwrap();
        let own = PriceOverride {
            provider: Some("openai".to_owned()),
            model: "gpt-4o*".to_owned(),
            input_per_mtok: rate("1"),
            output_per_mtok: rate("2"),
            cache_read_per_mtok: None,
            cache_write_per_mtok: None,
            per_request: Some(rate("0.01")),
        };
        let offers = PriceBook::bundled(vec![own]).offers("gpt-4o", at());
        assert!(offers[0].overridden && offers[1..].iter().all(|offer| !offer.overridden));
        assert_eq!(
            offers[0].cards[0].rates,
            [(RateKind::Input, 1.0), (RateKind::Output, 2.0), (RateKind::Request, 0.01)]
        );
    }
}
