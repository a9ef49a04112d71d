//! The price book, decoded only as far as it is used.
//!
//! In: a book in the JSON format of genai-prices (v2), the one that is built in or a file. Out: where a model is listed
//! ([`Place`]), a [`Card`] that prices this model alone, and a list of all models. Which name means which provider and model,
//! and whether a file is a book, is for the crate `genai-prices` to say: it is given pieces of the book, and each piece is made
//! so that it answers as the whole would (a test asks both for every model). What a model costs is read from the book
//! itself ([`Tariff`]).
//!
//! Bounds: the text stays as it is (built in) or compressed (a file: some 80 kB). The finder of a provider is made when one of
//! its models is first looked for, and kept, one a provider: below 1 MB but for those of OpenAI (1.1 MB, compiled regular
//! expressions) and OpenRouter (2.5 MB, 900 models). Decoded at once, the whole book keeps 15 MB.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use genai_prices::{Calculator, ErrorKind, PriceRequest, Usage as Counts};
use serde_json::Value;
use serde_json::value::RawValue;

use super::PriceBookError;
use super::bundled::DATE;
use super::tariff::Tariff;

/// The book that is built in; what it was made from is told in `bundled.rs`, and how in `renew.py`.
const BUNDLED: &str = include_str!("book.json");

/// Read when first used (2 ms).
static BUNDLED_BOOK: LazyLock<Book> = LazyLock::new(|| {
    let mut providers = Vec::new();
    for fields in parse(BUNDLED).expect("the built-in book is a JSON array of objects: tests read it") {
        let models = fields.get("models").map_or("[]", |models| models.get());
        providers.push(Provider::new(&fields, Models::BuiltIn(models)));
    }
    Book::new(providers).expect("the providers of the built-in book are valid: tests read it")
});

/// What the crate requires of a provider and is not used here: providers are named by their id.
const UNUSED: &str = r#""name":"-","api_pattern":"-""#;
/// Models of a file that are checked together.
const CHECKED_AT_ONCE: usize = 32;
/// Matches every name.
const ANY: &str = r#"{"starts_with":""}"#;

/// Fields of a JSON object, their values as they are written. The last of two with one name counts, as in the crate.
type Fields<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Providers and their models.
#[derive(Debug)]
pub(super) struct Book {
    providers: Vec<Provider>,
    /// Knows all providers, and of each one model with any name; the model's id is the provider's index.
    selector: Calculator,
}

struct Provider {
    id: Box<str>,
    /// Its JSON fields without models.
    head: Box<str>,
    /// Indexes of providers whose models are looked through when none of its own fits.
    fallbacks: Box<[usize]>,
    models: Models,
    /// Knows the names of its models and of its fallbacks' models, and no prices; a model's id is its [`Place`]'s text.
    finder: OnceLock<Option<Calculator>>,
}

/// A JSON array.
enum Models {
    BuiltIn(&'static str),
    /// zstd, and its size when unpacked.
    Packed(Box<[u8]>, usize),
}

/// Where a model is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// Index of the provider that was asked for.
    provider: usize,
    /// Index of the provider that lists the model: the same one, or one of its fallbacks.
    owner: usize,
    /// Index of the model there.
    model: usize,
}

/// What was looked for and is not in the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    Provider,
    Model,
}

/// One model at one provider.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) provider: Box<str>,
    pub(super) id: Arc<str>,
    pub(super) tariff: Tariff,
    /// Where the tariff is incomplete. It prices every request for this provider as this model, whatever the name.
    pub(super) calculator: Option<Calculator>,
}

/// A provider and what the book lists of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shelf {
    pub(super) provider: Box<str>,
    /// Ids of its models, and how many tokens their context takes, if the book says.
    pub(super) models: Vec<(Box<str>, Option<u64>)>,
}

/// Groq bills transcriptions for at least ten seconds (console.groq.com/docs/speech-to-text). It is a rule of the crate's, not
/// of its data.
const LEAST_AUDIO: (&str, [&str; 2], u64) = ("groq", ["whisper-large-v3", "whisper-large-v3-turbo"], 10_000);

/// Date of the built-in book.
pub(super) fn bundled_date() -> Option<std::time::SystemTime> {
    let date: jiff::civil::Date = DATE.parse().ok()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().into())
}

fn parse(text: &str) -> Result<Vec<Fields<'_>>, serde_json::Error> {
    serde_json::from_str(text)
}

/// `"name":value` for each of `names` that there is.
fn written(fields: &Fields<'_>, names: &[&str]) -> String {
    let known = names.iter().filter_map(|name| Some((name, fields.get(*name)?)));
    let texts: Vec<_> = known.map(|(name, value)| format!("\"{name}\":{}", value.get())).collect();
    texts.join(",")
}

/// Asks the crate whether it takes this provider. All at once would need some 20 MB for a moment, which the process might keep.
fn check(item: &RawValue, fields: &Fields<'_>, models: &[Fields<'_>]) -> Result<(), PriceBookError> {
    let valid = |text: String| Calculator::from_json(text).map(drop).map_err(PriceBookError::Invalid);
    let ids: HashSet<_> = models.iter().filter_map(|model| string(model, "id")).collect();
    if ids.len() < models.len() {
        // A model without an id of its own; which one, the crate tells.
        return valid(format!("[{}]", item.get()));
    }
    let all = |fields: &Fields<'_>, but: &str| {
        let known = fields.iter().filter(|(name, _)| *name != but);
        let texts: Vec<_> = known.map(|(name, value)| format!("{}:{}", Value::from(&**name), value.get())).collect();
        texts.join(",")
    };
    valid(format!("[{{{}}}]", all(fields, "models")))?;
    for some in models.chunks(CHECKED_AT_ONCE) {
        let some: Vec<_> = some.iter().map(|model| format!("{{{}}}", all(model, ""))).collect();
        valid(format!(r#"[{{{UNUSED},{},"models":[{}]}}]"#, written(fields, &["id"]), some.join(",")))?;
    }
    Ok(())
}

fn string(fields: &Fields<'_>, name: &str) -> Option<String> {
    serde_json::from_str(fields.get(name)?.get()).ok()
}

// === impl Book ===

impl Book {
    /// The one that is built in.
    pub(super) fn bundled() -> &'static Self {
        &BUNDLED_BOOK
    }

    /// Checks all of a file, a few models at a time, and keeps what prices need.
    ///
    /// # Errors
    /// It is no book of format v2.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, PriceBookError> {
        // Whatever cannot be taken to pieces, the crate explains best.
        let parsed = std::str::from_utf8(bytes).ok().and_then(|text| serde_json::from_str::<Vec<&RawValue>>(text).ok());
        let Some(items) = parsed else {
            Calculator::from_json(bytes).map_err(PriceBookError::Invalid)?;
            return Err(PriceBookError::Unreadable);
        };
        let mut providers = Vec::new();
        for item in items {
            let fields: Fields<'_> = serde_json::from_str(item.get()).unwrap_or_default();
            let models = fields.get("models").map_or("null", |models| models.get());
            let Ok(models) = serde_json::from_str::<Option<Vec<Fields<'_>>>>(models) else {
                Calculator::from_json(format!("[{}]", item.get())).map_err(PriceBookError::Invalid)?;
                return Err(PriceBookError::Unreadable);
            };
            // `null` stands for none.
            let models = models.unwrap_or_default();
            check(item, &fields, &models)?;
            let models = models.iter().map(|model| {
                format!("{{{}}}", written(model, &["id", "match", "context_window", "prices", "price_variants"]))
            });
            let text = format!("[{}]", models.collect::<Vec<_>>().join(","));
            let packed = zstd::encode_all(text.as_bytes(), 0).map_err(|_| PriceBookError::Unreadable)?;
            providers.push(Provider::new(&fields, Models::Packed(packed.into(), text.len())));
        }
        Self::new(providers)
    }

    fn new(mut providers: Vec<Provider>) -> Result<Self, PriceBookError> {
        let heads = providers
            .iter()
            .enumerate()
            .map(|(index, provider)| format!(r#"{{{},"models":[{{"id":"{index}","match":{ANY}}}]}}"#, provider.head));
        let heads = heads.collect::<Vec<_>>().join(",");
        let selector = Calculator::from_json(format!("[{heads}]")).map_err(PriceBookError::Invalid)?;
        for index in 0..providers.len() {
            let head = format!("{{{}}}", providers[index].head);
            let fields: Fields<'_> = serde_json::from_str(&head).map_err(|_| PriceBookError::Unreadable)?;
            let names = fields.get("fallback_model_providers").map_or("null", |names| names.get());
            let names: Option<Vec<String>> = serde_json::from_str(names).map_err(|_| PriceBookError::Unreadable)?;
            let mut fallbacks = Vec::new();
            for name in names.unwrap_or_default() {
                let fallback = providers.iter().position(|provider| *provider.id == *name);
                fallbacks.extend(fallback.filter(|found| *found != index && !fallbacks.contains(found)));
            }
            providers[index].fallbacks = fallbacks.into();
        }
        Ok(Self { providers, selector })
    }

    /// Where the book lists this model for this provider, by any of its names.
    pub(super) fn find(&self, provider: &str, name: &str) -> Result<Place, Absent> {
        let none = Counts::new();
        let request = PriceRequest::new(name, &none).with_provider_id(provider);
        let selected = self.selector.calculate(&request).map_err(|error| match error.kind() {
            ErrorKind::ProviderNotFound => Absent::Provider,
            _ => Absent::Model,
        })?;
        let selected = selected.model_id.parse().map_err(|_| Absent::Provider)?;
        let found = self.finder(selected).and_then(|finder| finder.calculate(&request).ok()).ok_or(Absent::Model)?;
        Place::parse(selected, &found.model_id).ok_or(Absent::Model)
    }

    fn finder(&self, selected: usize) -> Option<&Calculator> {
        let provider = self.providers.get(selected)?;
        let made = provider.finder.get_or_init(|| {
            let mut pieces = Vec::new();
            for owner in std::iter::once(selected).chain(provider.fallbacks.iter().copied()) {
                let text = self.providers[owner].models.text()?;
                let models = parse(&text).ok()?;
                let models = models
                    .iter()
                    .enumerate()
                    .map(|(model, fields)| format!(r#"{{"id":"{owner} {model}",{}}}"#, written(fields, &["match"])));
                let models = models.collect::<Vec<_>>().join(",");
                pieces.push(format!(r#"{{{},"models":[{models}]}}"#, self.providers[owner].head));
            }
            Calculator::from_json(format!("[{}]", pieces.join(","))).ok()
        });
        made.as_ref()
    }

    /// The card of a model that was found; it is not kept here.
    pub(super) fn card(&self, place: Place) -> Option<Card> {
        let text = self.providers.get(place.owner)?.models.text()?;
        let models = serde_json::from_str::<Vec<&RawValue>>(&text).ok()?;
        self.card_of(place, &serde_json::from_str(models.get(place.model)?.get()).ok()?)
    }

    fn card_of(&self, place: Place, fields: &Fields<'_>) -> Option<Card> {
        let provider = &self.providers.get(place.provider)?.id;
        let id = string(fields, "id")?;
        let field = |name: &str| fields.get(name).copied();
        // Variants are prices of who lists the model; others who serve it have its standard prices.
        let variants = if place.provider == place.owner { field("price_variants") } else { None };
        let mut tariff = Tariff::read(field("prices"), variants);
        let (billing, models, least) = LEAST_AUDIO;
        if **provider == *billing && models.contains(&&*id) {
            tariff = tariff.with_least_audio(least);
        }
        let calculator = match tariff.is_complete() {
            true => None,
            false => Some(self.calculator(place, fields)?),
        };
        Some(Card { provider: provider.clone(), id: id.into(), tariff, calculator })
    }

    /// Knows this model by any name, and nothing else.
    fn calculator(&self, place: Place, fields: &Fields<'_>) -> Option<Calculator> {
        let (provider, owner) = (self.providers.get(place.provider)?, self.providers.get(place.owner)?);
        let model = format!(r#"{{"match":{ANY},{}}}"#, written(fields, &["id", "prices", "price_variants"]));
        let pieces = match place.provider == place.owner {
            true => format!(r#"[{{{},"models":[{model}]}}]"#, provider.head),
            false => format!(r#"[{{{}}},{{{},"models":[{model}]}}]"#, provider.head, owner.head),
        };
        Calculator::from_json(pieces).ok()
    }

    /// Every model, in the book's order.
    pub(super) fn shelves(&self) -> Vec<Shelf> {
        let shelves = self.providers.iter().map(|provider| {
            let text = provider.models.text().unwrap_or_default();
            let models = parse(&text).unwrap_or_default().into_iter().filter_map(|fields| {
                let context_window = fields.get("context_window").and_then(|tokens| tokens.get().parse().ok());
                Some((string(&fields, "id")?.into(), context_window))
            });
            Shelf { provider: provider.id.clone(), models: models.collect() }
        });
        shelves.collect()
    }
}

// === impl Provider ===

impl Provider {
    fn new(fields: &Fields<'_>, models: Models) -> Self {
        let head = written(fields, &["id", "model_match", "provider_match", "fallback_model_providers"]);
        Self {
            id: string(fields, "id").unwrap_or_default().into(),
            head: format!("{UNUSED},{head}").into(),
            fallbacks: Box::default(),
            models,
            finder: OnceLock::new(),
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("id", &self.id).field("finder", &self.finder).finish_non_exhaustive()
    }
}

// === impl Models ===

impl Models {
    fn text(&self) -> Option<Cow<'static, str>> {
        match self {
            Models::BuiltIn(text) => Some(Cow::Borrowed(text)),
            Models::Packed(packed, bytes) => {
                let text = zstd::bulk::decompress(packed, *bytes).ok()?;
                String::from_utf8(text).ok().map(Cow::Owned)
            }
        }
    }
}

// === impl Place ===

impl Place {
    /// From the id of a model in a finder.
    fn parse(provider: usize, id: &str) -> Option<Self> {
        let (owner, model) = id.split_once(' ')?;
        Some(Self { provider, owner: owner.parse().ok()?, model: model.parse().ok()? })
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
