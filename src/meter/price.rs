//! Usage + model + time → money, or a named reason why there is none.
//!
//! Order of truth: the cost that the provider stated, else a rate from config ([`PriceOverride`]), else the price book
//! (the one of genai-prices that is built in, or a newer book file in its format). Prices are those in force when the call
//! was made. All rates are integers; a cost is rounded once, to femto-dollars. Zero is a price (the book lists free models);
//! what has no price is said to have none.
//!
//! Bounds: of the book, what is used is decoded (see [`book`]). Name look-ups are remembered for at most [`MAX_LOOKUPS`]
//! (provider, model) pairs with the models that they found; pricing a call then allocates nothing.

mod book;
mod bundled;
mod rates;
mod tariff;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use foldhash::HashMap;
use genai_prices::{Calculator, ErrorKind, PriceRequest};

use super::PriceOverride;
use super::model::aliases;
use crate::call::{Money, UnpricedReason, Usage, UsagePart};
use book::{Absent, Book, Card, Place, Shelf};
use tariff::{Contradicting, Counts, Rates, Terms, Unit};

pub use rates::{ListedFamily, Offer, RateCard, RateKind, Tier, family};

/// Remembered look-ups. A process uses tens of models; the cap is for names that a client makes up. When it is reached
/// everything is forgotten and looked up again (some 10 µs each): simpler than an order of use, and as good here.
pub const MAX_LOOKUPS: usize = 1024;

/// Rates by provider, model and date, with the user's own on top.
#[derive(Debug)]
pub struct PriceBook {
    source: Source,
    overrides: Vec<PriceOverride>,
    timestamp: Option<SystemTime>,
    lookups: Mutex<Lookups>,
    /// All models of the book, for those who list them: read when asked for, then kept.
    shelves: OnceLock<Vec<Shelf>>,
}

#[derive(Clone, Debug)]
enum Source {
    Bundled,
    File(Arc<Book>),
}

/// By provider id, then by model name. Two maps, so that a hit needs no allocation.
#[derive(Debug, Default)]
struct Lookups {
    by_provider: HashMap<Box<str>, HashMap<Box<str>, Lookup>>,
    /// What they found; many names may mean one model.
    cards: HashMap<Place, Arc<Card>>,
    count: usize,
}

type Lookup = Result<Arc<Card>, UnpricedReason>;

/// A book file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PriceBookError {
    /// By the rules of the format.
    #[error("price book: {0}; use the data.json of genai-prices, format v2")]
    Invalid(#[source] genai_prices::Error),
    /// It keeps the rules and cannot be taken to pieces.
    #[error("price book: not UTF-8, or no array of objects; use the data.json of genai-prices, format v2")]
    Unreadable,
}

/// What is to be priced.
#[derive(Clone, Copy, Debug)]
pub struct PriceInput<'a> {
    /// Catalogue id of the provider, for overrides.
    pub provider: &'a str,
    /// Its id in the book; `None` when the book cannot price it.
    pub price_as: Option<&'a str>,
    /// Runs on the owner's own machines.
    pub local: bool,
    /// Model names, the best first: answering model, model of the body, model of the URL.
    pub models: &'a [&'a str],
    /// Usage of the answer.
    pub usage: &'a Usage,
    /// Usage of further models in the answer, on top.
    pub parts: &'a [UsagePart],
    /// The tier that served the call, else the one asked for, as on the wire.
    pub service_tier: Option<&'a str>,
    /// Sent through a batch API.
    pub batch: bool,
    /// When the call was made.
    pub time: SystemTime,
    /// The cost that the answer states.
    pub stated_cost: Option<Money>,
}

/// A price, or why there is none: exactly one of `cost` and `reason` is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Priced {
    /// Id in the price book (or the model pattern of the override) that the cost was computed with.
    pub model_id: Option<Arc<str>>,
    /// The cost.
    pub cost: Option<Money>,
    /// The provider stated it.
    pub stated: bool,
    /// At least one kind of unit had no rate and is missing in `cost`.
    pub partial: bool,
    /// Tokens among them.
    pub unpriced_tokens: u64,
    /// Why there is no cost.
    pub reason: Option<UnpricedReason>,
}

impl Priced {
    /// No cost, and why.
    pub fn unpriced(reason: UnpricedReason) -> Self {
        Self { reason: Some(reason), ..Self::default() }
    }
}

// === impl PriceBook ===

impl PriceBook {
    /// The book that is built in. Read when first asked for a price.
    pub fn bundled(overrides: Vec<PriceOverride>) -> Self {
        Self::new(Source::Bundled, overrides, book::bundled_date())
    }

    /// A newer book, checked at once. `timestamp` is its date, for instance the file's.
    ///
    /// # Errors
    /// The bytes are no `genai-prices` book of format v2.
    pub fn from_json(
        bytes: &[u8],
        timestamp: Option<SystemTime>,
        overrides: Vec<PriceOverride>,
    ) -> Result<Self, PriceBookError> {
        Ok(Self::new(Source::File(Arc::new(Book::from_json(bytes)?)), overrides, timestamp))
    }

    /// The same book with other overrides; nothing is decoded again.
    pub fn with_overrides(&self, overrides: Vec<PriceOverride>) -> Self {
        Self::new(self.source.clone(), overrides, self.timestamp)
    }

    fn new(source: Source, overrides: Vec<PriceOverride>, timestamp: Option<SystemTime>) -> Self {
        Self { source, overrides, timestamp, lookups: Mutex::default(), shelves: OnceLock::new() }
    }

    /// Date of the book, if known.
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.timestamp
    }

    /// Id of the first of `models` that the book lists for this provider.
    pub fn listed(&self, provider: &str, price_as: Option<&str>, models: &[&str]) -> Option<Arc<str>> {
        let price_as = book_id(provider, price_as)?;
        models.iter().find_map(|model| self.lookup(price_as, model).ok()).map(|card| card.id.clone())
    }

    /// Prices one call.
    pub fn price(&self, input: &PriceInput<'_>) -> Priced {
        if let Some(cost) = input.stated_cost {
            return Priced { cost: Some(cost), stated: true, ..Priced::default() };
        }
        if input.usage.is_empty() && input.parts.iter().all(|part| part.usage.is_empty()) {
            return Priced::unpriced(UnpricedReason::NoUsage);
        }
        let mut whole = self.price_one(input, input.models, input.usage);
        let mut seen = tokens(input.usage);
        for part in input.parts.iter().filter(|part| !part.usage.is_empty()) {
            let priced = match &part.model {
                Some(model) => self.price_one(input, &[model.as_str()], &part.usage),
                None => self.price_one(input, input.models, &part.usage),
            };
            whole = match (whole.cost, priced.cost) {
                (Some(cost), Some(more)) => Priced {
                    cost: Some(cost + more),
                    partial: whole.partial || priced.partial,
                    unpriced_tokens: whole.unpriced_tokens.saturating_add(priced.unpriced_tokens),
                    ..whole
                },
                // A part that has no price makes the whole partial; it does not take the price away from the rest.
                (Some(_), None) => {
                    let unpriced_tokens = whole.unpriced_tokens.saturating_add(tokens(&part.usage));
                    Priced { partial: true, unpriced_tokens, ..whole }
                }
                (None, Some(_)) => {
                    let unpriced_tokens = seen.saturating_add(priced.unpriced_tokens);
                    Priced { partial: true, unpriced_tokens, ..priced }
                }
                (None, None) => whole,
            };
            seen = seen.saturating_add(tokens(&part.usage));
        }
        whole
    }

    fn price_one(&self, input: &PriceInput<'_>, models: &[&str], usage: &Usage) -> Priced {
        if let Some(rate) = self.find_override(input.provider, models) {
            return price_by_override(rate, usage);
        }
        if input.local {
            return Priced::unpriced(UnpricedReason::Free);
        }
        let Some(price_as) = book_id(input.provider, input.price_as) else {
            return Priced::unpriced(UnpricedReason::UnknownProvider);
        };
        let mut reason = UnpricedReason::NoModel;
        for model in models {
            match self.lookup(price_as, model) {
                Ok(card) => return price_by_book(input, &card, usage),
                Err(why) => reason = why,
            }
        }
        Priced::unpriced(reason)
    }

    fn find_override(&self, provider: &str, models: &[&str]) -> Option<&PriceOverride> {
        if self.overrides.is_empty() {
            return None;
        }
        models.iter().find_map(|model| {
            self.overrides.iter().find(|rate| {
                let provider_fits = rate.provider.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(provider));
                provider_fits && pattern_fits(&rate.model, model)
            })
        })
    }

    fn book(&self) -> &Book {
        match &self.source {
            Source::Bundled => Book::bundled(),
            Source::File(book) => book,
        }
    }

    /// Pricing a call of this provider may do what is done once: read the book, and what it has of the provider (2 to 15 ms
    /// together).
    pub fn may_load(&self, provider: &str, price_as: Option<&str>) -> bool {
        let Some(price_as) = book_id(provider, price_as) else { return false };
        !self.lookups().by_provider.contains_key(price_as)
    }

    fn lookups(&self) -> MutexGuard<'_, Lookups> {
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lookup(&self, price_as: &str, model: &str) -> Lookup {
        if let Some(found) = self.lookups().by_provider.get(price_as).and_then(|models| models.get(model)) {
            return found.clone();
        }
        let found = self.search(price_as, model);
        let mut lookups = self.lookups();
        if lookups.count >= MAX_LOOKUPS {
            *lookups = Lookups::default();
        }
        lookups.count += 1;
        lookups.by_provider.entry(price_as.into()).or_default().insert(model.into(), found.clone());
        found
    }

    fn search(&self, price_as: &str, model: &str) -> Lookup {
        let mut reason = UnpricedReason::UnknownModel;
        let mut tries: Vec<(String, String)> =
            aliases(model).into_iter().map(|name| (price_as.to_owned(), name)).collect();
        // The router's callers say in the model's name who is to serve it: `org/name:provider`. Each has its own prices.
        if price_as == HUGGING_FACE
            && let Some((name, provider)) = model.rsplit_once(':')
        {
            tries.insert(0, (format!("huggingface_{provider}"), name.to_owned()));
        }
        for (provider, name) in tries {
            match self.book().find(&provider, &name) {
                Ok(place) => return self.card_at(place).ok_or(UnpricedReason::UnknownModel),
                Err(Absent::Provider) => reason = UnpricedReason::UnknownProvider,
                Err(Absent::Model) => {}
            }
        }
        Err(reason)
    }

    fn card_at(&self, place: Place) -> Option<Arc<Card>> {
        if let Some(known) = self.lookups().cards.get(&place) {
            return Some(Arc::clone(known));
        }
        let card = Arc::new(self.book().card(place)?);
        self.lookups().cards.insert(place, Arc::clone(&card));
        Some(card)
    }

    fn shelves(&self) -> &[Shelf] {
        self.shelves.get_or_init(|| self.book().shelves())
    }
}

/// Catalogue id of the Hugging Face router. The book has no such provider, but one for each that it routes to.
const HUGGING_FACE: &str = "huggingface";

fn book_id<'a>(provider: &'a str, price_as: Option<&'a str>) -> Option<&'a str> {
    price_as.or_else(|| (provider == HUGGING_FACE).then_some(HUGGING_FACE))
}

// === By the book ===

fn price_by_book(input: &PriceInput<'_>, card: &Card, usage: &Usage) -> Priced {
    let (service_tier, batch) = context(input.service_tier, input.batch);
    let terms = Terms { time: input.time, service_tier, batch };
    let rates = card.tariff.rates(&terms, usage.input_tokens.unwrap_or(0));
    let missing = rates.missing(usage);
    if missing == Missing::All {
        return Priced { model_id: Some(card.id.clone()), ..Priced::unpriced(UnpricedReason::NoRate) };
    }
    let mut partial = missing == Missing::Some;
    let cost = match cost(card, &rates, &terms, &counts(usage)) {
        Ok(cost) => cost,
        // Counts that contradict each other beyond what `counts` settles: price the totals alone.
        Err(Contradicting) => {
            partial = true;
            cost(card, &rates, &terms, &totals(usage)).unwrap_or(None)
        }
    };
    let unpriced_tokens = if missing == Missing::Some { rates.missing_tokens(usage) } else { 0 };
    match cost {
        Some(cost) => {
            Priced { model_id: Some(card.id.clone()), cost: Some(cost), partial, unpriced_tokens, ..Priced::default() }
        }
        None => Priced { model_id: Some(card.id.clone()), ..Priced::unpriced(UnpricedReason::NoRate) },
    }
}

/// By the table, or by the crate where the table is incomplete.
fn cost(card: &Card, rates: &Rates, terms: &Terms, counts: &Counts) -> Result<Option<Money>, Contradicting> {
    match &card.calculator {
        None => rates.cost(counts),
        Some(calculator) => cost_by_crate(calculator, &card.provider, terms, counts),
    }
}

fn cost_by_crate(
    calculator: &Calculator,
    provider: &str,
    terms: &Terms,
    counts: &Counts,
) -> Result<Option<Money>, Contradicting> {
    let counts = counts.to_crate();
    // Any name will do with the calculator of one model.
    let mut request = PriceRequest::new("-", &counts).with_provider_id(provider).with_timestamp(terms.time);
    if let Some(tier) = terms.service_tier {
        request = request.with_price_context("service_tier", tier);
    }
    if terms.batch {
        request = request.with_price_context("processing", "batch");
    }
    match calculator.calculate(&request) {
        Ok(calculation) => Ok(Money::from_f64(calculation.total_price)),
        Err(error) if error.kind() == ErrorKind::InvalidUsage => Err(Contradicting),
        Err(_) => Ok(None),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    None,
    Some,
    All,
}

impl Rates {
    /// Which of the counts in `usage` have no rate.
    ///
    /// One answer may count the same input twice, in tokens and in seconds, characters, pages or searches; it is billed
    /// in the unit that has a rate. A model without any rate is how the book lists a free one.
    fn missing(&self, usage: &Usage) -> Missing {
        if self.is_empty() {
            return Missing::None;
        }
        let any = |count: Option<u64>| count.is_some_and(|count| count > 0);
        let (input, output) = (self.has(Unit::Input), self.has(Unit::Output));
        let by_unit = self.by_unit(usage);
        let other_unit_billed = by_unit.iter().any(|&(count, rate)| any(count) && rate);
        let tokens_billed = any(usage.input_tokens) && input || any(usage.output_tokens) && output;
        let per_request = self.has(Unit::Request);
        let mut missing = false;
        let mut found = other_unit_billed || tokens_billed || per_request;
        missing |= any(usage.input_tokens) && !input && !other_unit_billed;
        missing |= any(usage.output_tokens) && !output && !other_unit_billed;
        missing |= by_unit.iter().any(|&(count, rate)| any(count) && !rate) && !tokens_billed && !other_unit_billed;
        for (used, rate) in [
            (any(usage.web_searches), self.has(Unit::WebSearch) || per_request),
            (any(usage.file_searches), self.has(Unit::FileSearch)),
        ] {
            missing |= used && !rate;
            found |= used && rate;
        }
        match (missing, found) {
            (false, _) => Missing::None,
            (true, true) => Missing::Some,
            (true, false) => Missing::All,
        }
    }

    /// Tokens without a rate.
    fn missing_tokens(&self, usage: &Usage) -> u64 {
        if self.by_unit(usage).iter().any(|&(count, rate)| rate && count.is_some_and(|count| count > 0)) {
            return 0;
        }
        let of = |count: Option<u64>, unit| if self.has(unit) { 0 } else { count.unwrap_or(0) };
        of(usage.input_tokens, Unit::Input).saturating_add(of(usage.output_tokens, Unit::Output))
    }

    /// Counts of what is not tokens and may be billed instead, and whether it has a rate.
    fn by_unit(&self, usage: &Usage) -> [(Option<u64>, bool); 4] {
        [
            (usage.search_units, self.has(Unit::Rerank)),
            (usage.input_audio_millis, self.has(Unit::Audio)),
            (usage.input_characters, self.has(Unit::Characters)),
            (usage.pages, self.has(Unit::Pages)),
        ]
    }
}

/// What the book's tiers are called: `flex`, `priority`, `fast`; batch is a way of sending, not a tier.
///
/// OpenAI says `flex` or `priority`, Vertex `ON_DEMAND_FLEX` or `ON_DEMAND_PRIORITY` (recorded answers), Anthropic `batch`.
/// `default`, `standard`, `on_demand`, `auto`, `provisioned` and everything unknown are standard prices.
fn context(tier: Option<&str>, batch: bool) -> (Option<&'static str>, bool) {
    let Some(tier) = tier else { return (None, batch) };
    let is = |name: &str| {
        let start = tier.len().checked_sub(name.len());
        start.and_then(|start| tier.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(name))
    };
    match () {
        () if is("flex") => (Some("flex"), batch),
        () if is("priority") => (Some("priority"), batch),
        () if tier.eq_ignore_ascii_case("fast") => (Some("fast"), batch),
        () if is("batch") => (None, true),
        () => (None, batch),
    }
}

/// The counts as the book wants them: parts never exceed their total, and overlaps of parts are named.
fn counts(usage: &Usage) -> Counts {
    let input = usage.input_tokens.unwrap_or(0);
    let output = usage.output_tokens.unwrap_or(0);
    let mut counts = totals(usage);

    // Parts of the input by modality, then what of each was read from a cache: the provider's word, then as little
    // overlap as the numbers allow.
    let audio = usage.input_audio_tokens.unwrap_or(0).min(input);
    let image = usage.input_image_tokens.unwrap_or(0).min(input - audio);
    let text = input - audio - image;
    let read = usage.cache_read_tokens.unwrap_or(0).min(input);
    let write = usage.cache_write_tokens.unwrap_or(0).min(input - read);
    let mut audio_read = usage.cache_audio_read_tokens.unwrap_or(0).min(audio).min(read);
    let overflow = (read - audio_read + write).saturating_sub(text);
    let image_read = overflow.min(image).min(read - audio_read);
    audio_read += (overflow - image_read).min(audio - audio_read).min(read - audio_read - image_read);
    let output_audio = usage.output_audio_tokens.unwrap_or(0).min(output);
    for (unit, count) in [
        (Unit::CacheRead, read),
        (Unit::CacheWrite, write),
        (Unit::CacheWrite1h, usage.cache_write_1h_tokens.unwrap_or(0).min(write)),
        (Unit::InputAudio, audio),
        (Unit::InputImage, image),
        (Unit::CacheAudioRead, audio_read),
        (Unit::CacheImageRead, image_read),
        (Unit::OutputAudio, output_audio),
        (Unit::OutputImage, usage.output_image_tokens.unwrap_or(0).min(output - output_audio)),
        (Unit::Reasoning, usage.reasoning_tokens.unwrap_or(0).min(output)),
    ] {
        counts.set(unit, count);
    }
    counts
}

/// All tokens of an answer.
fn tokens(usage: &Usage) -> u64 {
    usage.input_tokens.unwrap_or(0).saturating_add(usage.output_tokens.unwrap_or(0))
}

/// The counts that have no parts.
fn totals(usage: &Usage) -> Counts {
    let mut counts = Counts::default();
    for (unit, count) in [
        (Unit::Input, usage.input_tokens),
        (Unit::Output, usage.output_tokens),
        (Unit::WebSearch, usage.web_searches),
        (Unit::FileSearch, usage.file_searches),
        (Unit::Rerank, usage.search_units),
        (Unit::Characters, usage.input_characters),
        (Unit::Pages, usage.pages),
        (Unit::Audio, usage.input_audio_millis),
        (Unit::AudioIn, usage.input_audio_millis),
    ] {
        counts.set(unit, count.unwrap_or(0));
    }
    counts
}

/// Exact, or a beginning followed by `*`; case does not matter.
fn pattern_fits(pattern: &str, model: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => model.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
        None => model.eq_ignore_ascii_case(pattern),
    }
}

fn price_by_override(rate: &PriceOverride, usage: &Usage) -> Priced {
    let input = usage.input_tokens.unwrap_or(0);
    let read = usage.cache_read_tokens.unwrap_or(0).min(input);
    let write = usage.cache_write_tokens.unwrap_or(0).min(input - read);
    let femto_per_mtok = [
        (input - read - write, rate.input_per_mtok),
        (read, rate.cache_read_per_mtok.unwrap_or(rate.input_per_mtok)),
        (write, rate.cache_write_per_mtok.unwrap_or(rate.input_per_mtok)),
        (usage.output_tokens.unwrap_or(0), rate.output_per_mtok),
    ]
    .into_iter()
    .fold(0i128, |sum, (count, rate)| sum.saturating_add(i128::from(count).saturating_mul(rate.femto())));
    let tokens = Money::from_femto(femto_per_mtok.saturating_add(500_000) / 1_000_000);
    let any = |count: Option<u64>| count.is_some_and(|count| count > 0);
    let other_units = any(usage.web_searches)
        || any(usage.file_searches)
        || any(usage.search_units)
        || any(usage.images)
        || any(usage.input_audio_millis)
        || any(usage.input_characters)
        || any(usage.pages);
    Priced {
        model_id: Some(Arc::from(rate.model.as_str())),
        cost: Some(tokens + rate.per_request.unwrap_or(Money::ZERO)),
        partial: other_units && rate.per_request.is_none(),
        ..Priced::default()
    }
}

#[cfg(test)]
#[path = "price_tests.rs"]
mod tests;
