//! What a model costs at each provider that serves it, for people to compare.
//!
//! In: a model's name. Out: [`Offer`]s with their rates by service tier and length of prompt, at one moment. They are read from
//! the tables that calls are priced by, so that what is shown is what would be charged. A name that only looks like the
//! model's is no offer: names are compared as [`family`] has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::tariff::{NANOS_A_DAY, Rates, Tariff, Terms, Unit};
use super::{PriceBook, pattern_fits};
use crate::call::label_enum;
use crate::meter::PriceOverride;

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
        let offer = |provider: &str, name: &str, window| self.offer(provider, name, window, at);
        let mut offers: Vec<Offer> = Vec::new();
        for shelf in self.shelves() {
            let provider = &*shelf.provider;
            let before = offers.len();
            for (id, context_window) in shelf.models.iter().filter(|(id, _)| family(id) == wanted) {
                // The book may find another model by this id first: only what it would charge counts.
                if let Some(offer) = offer(provider, id, *context_window)
                    && !offers[before..].iter().any(|known| known.model == offer.model)
                {
                    offers.push(offer);
                }
            }
            // Azure lists few models of its own and serves OpenAI's at their prices.
            if offers.len() == before
                && let Some(offer) = offer(provider, model.rsplit('/').next().unwrap_or(model), None)
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
        for shelf in self.shelves() {
            for (id, _) in &shelf.models {
                let providers = families.entry(family(id)).or_default();
                if providers.last().is_none_or(|last| **last != *shelf.provider) {
                    providers.push(shelf.provider.to_string());
                }
            }
        }
        families.into_iter().map(|(name, providers)| ListedFamily { name, providers }).collect()
    }

    fn offer(&self, provider: &str, name: &str, context_window: Option<u64>, at: SystemTime) -> Option<Offer> {
        let card = self.card_at(self.book().find(provider, name).ok()?)?;
        let mut cards = cards(&card.tariff, Tier::Standard, at);
        let standard = cards.len();
        for &tier in &Tier::ALL[1..] {
            let own = self::cards(&card.tariff, tier, at);
            let is_standard = |card: &RateCard| {
                let mut known = cards[..standard].iter();
                known.any(|known| known.above_input_tokens == card.above_input_tokens && known.rates == card.rates)
            };
            if !own.iter().all(is_standard) {
                cards.extend(own);
            }
        }
        let hours = hours(&card.tariff, at);
        let (provider, model) = (provider.to_owned(), card.id.to_string());
        Some(Offer { provider, model, context_window, overridden: false, cards, hours })
    }
}

/// A card for each length of prompt with rates of its own, the shortest first.
fn cards(tariff: &Tariff, tier: Tier, at: SystemTime) -> Vec<RateCard> {
    let mut cards: Vec<RateCard> = Vec::new();
    for above_input_tokens in tariff.lengths() {
        let rates = shown(&tariff.rates(&terms(tier, at), above_input_tokens.saturating_add(1)));
        if cards.last().is_none_or(|last| last.rates != rates) {
            cards.push(RateCard { tier, above_input_tokens, rates });
        }
    }
    cards
}

fn terms(tier: Tier, time: SystemTime) -> Terms {
    match tier {
        Tier::Standard => Terms { time, service_tier: None, batch: false },
        Tier::Batch => Terms { time, service_tier: None, batch: true },
        Tier::Flex | Tier::Priority | Tier::Fast => Terms { time, service_tier: Some(tier.as_str()), batch: false },
    }
}

fn shown(rates: &Rates) -> Vec<(RateKind, f64)> {
    let mut shown = Vec::new();
    let of = |unit| rates.femto(unit);
    let mut add = |kind, rate: Option<u64>, whole: Option<u64>| {
        if let Some(femto) = rate.filter(|_| rate != whole) {
            // The book has the price of 1,000 calls, people think of one.
            let per_dollar = if kind == RateKind::Request { 1e18 } else { 1e15 };
            shown.push((kind, femto as f64 / per_dollar));
        }
    };
    let (input, output) = (of(Unit::Input), of(Unit::Output));
    let (write, audio) = (of(Unit::CacheWrite), of(Unit::InputAudio));
    add(RateKind::Input, input, None);
    add(RateKind::CacheRead, of(Unit::CacheRead), input);
    add(RateKind::CacheWrite, write, input);
    add(RateKind::CacheWrite1h, of(Unit::CacheWrite1h), write.or(input));
    add(RateKind::InputAudio, audio, input);
    add(RateKind::CacheAudioRead, of(Unit::CacheAudioRead).filter(|_| audio != input), audio);
    add(RateKind::InputImage, of(Unit::InputImage), input);
    add(RateKind::Output, output, None);
    add(RateKind::Reasoning, of(Unit::Reasoning), output);
    add(RateKind::OutputAudio, of(Unit::OutputAudio), output);
    add(RateKind::OutputImage, of(Unit::OutputImage), output);
    add(RateKind::WebSearch, of(Unit::WebSearch), None);
    add(RateKind::FileSearch, of(Unit::FileSearch), None);
    add(RateKind::Rerank, of(Unit::Rerank), None);
    add(RateKind::Pages, of(Unit::Pages), None);
    add(RateKind::Characters, of(Unit::Characters), None);
    add(RateKind::AudioHour, of(Unit::AudioIn).or(of(Unit::Audio)), None);
    add(RateKind::Request, of(Unit::Request), None);
    shown
}

/// The spans of the day of `at` that have rates of their own; empty when it has one.
fn hours(tariff: &Tariff, at: SystemTime) -> Vec<(String, String, RateCard)> {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let midnight = UNIX_EPOCH + Duration::from_secs(seconds / 86_400 * 86_400);
    let mut starts = tariff.hours();
    starts.push(0);
    starts.sort_unstable();
    starts.dedup();
    let mut spans: Vec<(u64, RateCard)> = Vec::new();
    for start in starts {
        let rates = shown(&tariff.rates(&terms(Tier::Standard, midnight + Duration::from_nanos(start)), 0));
        if spans.last().is_none_or(|(_, last)| last.rates != rates) {
            spans.push((start, RateCard { tier: Tier::Standard, above_input_tokens: 0, rates }));
        }
    }
    if spans.len() < 2 {
        return Vec::new();
    }
    let clock = |nanos: u64| {
        let minutes = nanos / 60_000_000_000;
        format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
    };
    let ends: Vec<u64> = spans.iter().skip(1).map(|(start, _)| *start).chain([NANOS_A_DAY]).collect();
    spans.into_iter().zip(ends).map(|((start, card), end)| (clock(start), clock(end), card)).collect()
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
