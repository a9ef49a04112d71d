//! What one model costs: a table of its rates, and what counts cost by it.
//!
//! In: the prices of a model as the book writes them (JSON of genai-prices, format v2), read once. Out: the [`Rates`] in force
//! for a call, and the cost of its [`Counts`] by them. Everything is integers, so that a cost is the sum of the book's decimals, rounded
//! once, to femto-dollars.
//!
//! The rules are those of the crate `genai-prices` (0.2: `units.rs`, `model.rs`), and tests compare the two for every model:
//! each thing that is counted is charged once, by the most special unit that has a rate. Which names mean the model, and
//! whether a book is valid, is for the crate to say. What an entry says beyond what is known here, as books to come may,
//! leaves the tariff incomplete ([`Tariff::is_complete`]), and calls are then priced by the crate.

mod written;

use std::time::{SystemTime, UNIX_EPOCH};

use genai_prices::{Usage as CrateCounts, UsageKey};
use serde_json::value::RawValue;

use crate::call::Money;
use written::Reader;

/// What can be counted and have a rate; what is part of something stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Unit {
    CacheAudioRead,
    CacheImageRead,
    CacheWrite1h,
    CacheRead,
    CacheWrite,
    InputAudio,
    InputImage,
    Reasoning,
    OutputAudio,
    OutputImage,
    Input,
    Output,
    /// In milliseconds, as is [`Unit::Audio`].
    AudioIn,
    Audio,
    WebSearch,
    FileSearch,
    Rerank,
    Characters,
    Pages,
    /// One a call.
    Request,
    /// Whatever answers are not counted by, known ([`UNCOUNTED`]) or not; for telling that there is a rate at all.
    Uncounted,
}

struct Kind {
    unit: Unit,
    /// Of its rate in the book.
    price_key: &'static str,
    /// Of its count in the crate.
    usage_key: UsageKey,
    /// The rate is the price of so many.
    per: u32,
    /// All that it is part of.
    within: &'static [Unit],
}

const COUNTED: usize = Unit::Uncounted as usize;

/// By unit.
static KINDS: [Kind; COUNTED] = {
    use Unit as U;
    use UsageKey as K;
    const MTOK: u32 = 1_000_000;
    const K_COUNT: u32 = 1_000;
    const HOUR: u32 = 3_600_000;
    const fn kind(unit: Unit, price_key: &'static str, usage_key: UsageKey, per: u32, within: &'static [Unit]) -> Kind {
        Kind { unit, price_key, usage_key, per, within }
    }
    [
        kind(
            U::CacheAudioRead,
            "cache_audio_read_mtok",
            K::CACHE_AUDIO_READ_TOKENS,
            MTOK,
            &[U::CacheRead, U::InputAudio, U::Input],
        ),
        kind(
            U::CacheImageRead,
            "cache_image_read_mtok",
            K::CACHE_IMAGE_READ_TOKENS,
            MTOK,
            &[U::CacheRead, U::InputImage, U::Input],
        ),
        kind(U::CacheWrite1h, "cache_write_1h_mtok", K::CACHE_WRITE_1H_TOKENS, MTOK, &[U::CacheWrite, U::Input]),
        kind(U::CacheRead, "cache_read_mtok", K::CACHE_READ_TOKENS, MTOK, &[U::Input]),
        kind(U::CacheWrite, "cache_write_mtok", K::CACHE_WRITE_TOKENS, MTOK, &[U::Input]),
        kind(U::InputAudio, "input_audio_mtok", K::INPUT_AUDIO_TOKENS, MTOK, &[U::Input]),
        kind(U::InputImage, "input_image_mtok", K::INPUT_IMAGE_TOKENS, MTOK, &[U::Input]),
        kind(U::Reasoning, "output_reasoning_mtok", K::OUTPUT_REASONING_TOKENS, MTOK, &[U::Output]),
        kind(U::OutputAudio, "output_audio_mtok", K::OUTPUT_AUDIO_TOKENS, MTOK, &[U::Output]),
        kind(U::OutputImage, "output_image_mtok", K::OUTPUT_IMAGE_TOKENS, MTOK, &[U::Output]),
        kind(U::Input, "input_mtok", K::INPUT_TOKENS, MTOK, &[]),
        kind(U::Output, "output_mtok", K::OUTPUT_TOKENS, MTOK, &[]),
        kind(U::AudioIn, "input_audio_hours", K::INPUT_AUDIO_SECONDS, HOUR, &[U::Audio]),
        kind(U::Audio, "audio_hours", K::AUDIO_SECONDS, HOUR, &[]),
        kind(U::WebSearch, "web_searches_kcount", K::WEB_SEARCHES, K_COUNT, &[]),
        kind(U::FileSearch, "storage_searches_kcount", K::STORAGE_SEARCHES, K_COUNT, &[]),
        kind(U::Rerank, "rerank_searches_kcount", K::RERANK_SEARCHES, K_COUNT, &[]),
        kind(U::Characters, "input_mchars", K::INPUT_CHARACTERS, MTOK, &[]),
        kind(U::Pages, "input_document_kpages", K::INPUT_DOCUMENT_PAGES, K_COUNT, &[]),
        kind(U::Request, "requests_kcount", K::REQUESTS, K_COUNT, &[]),
    ]
};

/// Units that have rates in the book and no counts in [`Counts`], so that they cost nothing. A unit may stand here only if
/// no two that are counted overlap in it: the crate refuses such counts (cached audio without a count of its own).
const UNCOUNTED: [&str; 12] = [
    "cache_text_read_mtok",
    "cache_video_read_mtok",
    "code_executions_kcount",
    "input_annotated_document_kpages",
    "input_gpixels",
    "input_text_messages_kcount",
    "input_text_mtok",
    "input_video_mtok",
    "output_citation_mtok",
    "output_text_mtok",
    "output_video_mtok",
    "social_searches_kcount",
];

/// Every `per` divides it.
const COMMON: u32 = 18_000_000;
const _: () = {
    let mut index = 0;
    while index < COUNTED {
        assert!(COMMON.is_multiple_of(KINDS[index].per) && KINDS[index].unit as usize == index);
        index += 1;
    }
};

/// What the book's price variants ask of a call, as far as calls are told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// When it was made.
    pub(super) time: SystemTime,
    /// One of [`SERVICE_TIERS`], or the standard one.
    pub(super) service_tier: Option<&'static str>,
    /// Sent through a batch API.
    pub(super) batch: bool,
}

/// Service tiers that calls are told apart by.
pub(super) const SERVICE_TIERS: [&str; 3] = ["flex", "priority", "fast"];

/// What one model costs.
#[derive(Debug)]
pub(super) struct Tariff {
    /// The first whose condition holds is in force.
    sets: Box<[Set]>,
    /// On top of it; of those that hold, the first with a rate for a unit.
    variants: Box<[Variant]>,
    /// Audio of any length costs as much as this.
    least_audio_millis: u64,
    complete: bool,
}

#[derive(Debug)]
struct Set {
    condition: Option<Condition>,
    rows: Box<[Row]>,
}

#[derive(Debug)]
struct Variant {
    service_tier: Option<&'static str>,
    batch: bool,
    set: Set,
}

/// In place of a rate that was not understood.
const UNREADABLE: u64 = u64::MAX;

/// Rate of a unit in prompts of at least this length. Rows of one unit stand together, the shortest prompts first.
#[derive(Clone, Copy, Debug)]
struct Row {
    unit: Unit,
    from_input_tokens: u64,
    femto: u64,
}

/// In UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// Seconds since 1970.
    Since(i64),
    /// Nanoseconds since midnight, the end not included; over midnight when it ends before it starts.
    Daily { from: u64, to: u64 },
}

pub(super) const NANOS_A_DAY: u64 = 86_400_000_000_000;

/// How much there is of each unit; none for what is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts([u64; COUNTED]);

/// The rates of one call.
#[derive(Clone, Debug)]
pub(super) struct Rates {
    /// Femto-dollars by unit.
    femto: [u64; COUNTED + 1],
    /// A bit for each unit that has a rate.
    known: u32,
    least_audio_millis: u64,
}

/// Parts are more than what they are part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contradicting;

// === impl Unit ===

impl Unit {
    fn named(price_key: &str) -> Option<Self> {
        let counted = KINDS.iter().find(|kind| kind.price_key == price_key).map(|kind| kind.unit);
        counted.or_else(|| UNCOUNTED.contains(&price_key).then_some(Unit::Uncounted))
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

// === impl Tariff ===

impl Tariff {
    /// Reads a model's `prices` and `price_variants`. Nothing fails here: what is not known is left out, and told by
    /// [`Self::is_complete`].
    pub(super) fn read(prices: Option<&RawValue>, variants: Option<&RawValue>) -> Self {
        let mut reader = Reader { complete: true };
        let (sets, keys) = prices.map_or_else(Default::default, |prices| reader.sets(prices.get()));
        let variants = variants.map_or_else(Vec::new, |variants| reader.variants(variants.get(), &keys));
        Self { sets: sets.into(), variants: variants.into(), least_audio_millis: 0, complete: reader.complete }
    }

    /// The provider bills at least so much audio a call.
    pub(super) fn with_least_audio(self, least_audio_millis: u64) -> Self {
        Self { least_audio_millis, ..self }
    }

    /// Everything that the book says of the model is in here. If not, only the crate prices its calls.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// What is in force for a call with a prompt of this length.
    pub(super) fn rates(&self, terms: &Terms, input_tokens: u64) -> Rates {
        let mut rates = Rates { femto: [0; COUNTED + 1], known: 0, least_audio_millis: self.least_audio_millis };
        let moment = Moment::from(terms.time);
        if let Some(set) = self.sets.iter().find(|set| set.holds(moment)) {
            rates.take(&set.rows, input_tokens, 0);
        }
        let mut taken = 0;
        for variant in &self.variants {
            let asked = variant.service_tier.is_none_or(|tier| terms.service_tier == Some(tier))
                && (terms.batch || !variant.batch);
            if asked && variant.set.holds(moment) {
                taken |= rates.take(&variant.set.rows, input_tokens, taken);
            }
        }
        rates
    }

    /// Lengths of prompts above which rates may be others, the shortest first; 0 is one of them.
    pub(super) fn lengths(&self) -> Vec<u64> {
        let rows = self.all_sets().flat_map(|set| &set.rows);
        let mut lengths: Vec<u64> = rows.map(|row| row.from_input_tokens.saturating_sub(1)).chain([0]).collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }

    /// Nanoseconds of the day at which rates may become others, in no order.
    pub(super) fn hours(&self) -> Vec<u64> {
        let conditions = self.all_sets().filter_map(|set| set.condition);
        let hours = conditions.flat_map(|condition| match condition {
            Condition::Daily { from, to } => vec![from, to],
            Condition::Since(_) => Vec::new(),
        });
        hours.collect()
    }

    fn all_sets(&self) -> impl Iterator<Item = &Set> {
        self.sets.iter().chain(self.variants.iter().map(|variant| &variant.set))
    }
}

// === impl Set ===

impl Set {
    fn holds(&self, moment: Moment) -> bool {
        match self.condition {
            None => true,
            Some(Condition::Since(start)) => moment.seconds >= start,
            Some(Condition::Daily { from, to }) => {
                let now = moment.nanos_of_day();
                if to < from { now >= from || now < to } else { now >= from && now < to }
            }
        }
    }
}

/// Whole seconds since 1970, downwards, and the rest.
#[derive(Clone, Copy)]
struct Moment {
    seconds: i64,
    nanos: u32,
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self { seconds: whole(after.as_secs()), nanos: after.subsec_nanos() },
            Err(error) => {
                let before = error.duration();
                match before.subsec_nanos() {
                    0 => Self { seconds: -whole(before.as_secs()), nanos: 0 },
                    nanos => Self { seconds: -whole(before.as_secs()) - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl Moment {
    fn nanos_of_day(self) -> u64 {
        self.seconds.rem_euclid(86_400).unsigned_abs() * 1_000_000_000 + u64::from(self.nanos)
    }
}

// === impl Counts ===

impl Counts {
    pub(super) fn get(&self, unit: Unit) -> u64 {
        self.0.get(unit as usize).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, unit: Unit, count: u64) {
        if let Some(known) = self.0.get_mut(unit as usize) {
            *known = count;
        }
    }

    /// As the crate has them. Zero is said: what the crate has to infer it may refuse.
    pub(super) fn to_crate(&self) -> CrateCounts {
        let counts = KINDS.iter().filter(|kind| kind.unit != Unit::Request).map(|kind| {
            let count = self.get(kind.unit) as f64;
            let is_audio = matches!(kind.unit, Unit::Audio | Unit::AudioIn);
            (kind.usage_key.clone(), if is_audio { count / 1000.0 } else { count })
        });
        counts.collect()
    }
}

// === impl Rates ===

impl Rates {
    /// Takes these rates, but for units that are in `but`. Returns which it took.
    fn take(&mut self, rows: &[Row], input_tokens: u64, but: u32) -> u32 {
        let mut taken = 0;
        for row in rows {
            let bit = row.unit.bit();
            if row.from_input_tokens <= input_tokens && but & bit == 0 {
                self.femto[row.unit as usize] = row.femto;
                taken |= bit;
            }
        }
        self.known |= taken;
        taken
    }

    /// Femto-dollars for as many as the unit's rate is for; `None` also when only the crate knows its rate.
    pub(super) fn femto(&self, unit: Unit) -> Option<u64> {
        self.has(unit).then(|| self.femto[unit as usize]).filter(|femto| *femto != UNREADABLE)
    }

    pub(super) fn has(&self, unit: Unit) -> bool {
        self.known & unit.bit() != 0
    }

    /// The model has no rate at all: that is how the book lists a free one.
    pub(super) fn is_empty(&self) -> bool {
        self.known == 0
    }

    /// What these counts cost by a complete tariff; `None` when it is over 10⁹ dollars.
    ///
    /// # Errors
    /// Parts are more than what they are part of.
    pub(super) fn cost(&self, counts: &Counts) -> Result<Option<Money>, Contradicting> {
        const MOST: u128 = 1_000_000_000 * 1_000_000_000_000_000;
        // What of each unit is not charged by a more special one.
        let mut rest = counts.0;
        rest[Unit::Request as usize] = 1;
        if self.least_audio_millis > 0 {
            let (part, whole) = (rest[Unit::AudioIn as usize], rest[Unit::Audio as usize]);
            let millis = if whole > 0 { whole } else { part };
            let billed = if millis > 0 { self.least_audio_millis.max(millis) } else { 0 };
            rest[Unit::AudioIn as usize] = billed;
            rest[Unit::Audio as usize] = billed;
        }
        let mut sum = Some(0u128);
        let mut left = self.known & !Unit::Uncounted.bit();
        while left != 0 {
            // Parts come before what they are part of.
            let index = left.trailing_zeros() as usize;
            left &= left - 1;
            let (own, kind) = (rest[index], &KINDS[index]);
            if own == 0 {
                continue;
            }
            for &whole in kind.within {
                let rest = &mut rest[whole as usize];
                *rest = rest.checked_sub(own).ok_or(Contradicting)?;
            }
            let price = (u128::from(own) * u128::from(self.femto[index])).checked_mul(u128::from(COMMON / kind.per));
            sum = sum.and_then(|sum| sum.checked_add(price?));
        }
        let femto = sum.map(|sum| sum.saturating_add(u128::from(COMMON / 2)) / u128::from(COMMON));
        Ok(femto.filter(|femto| *femto <= MOST).map(|femto| Money::from_femto(femto as i128)))
    }
}

#[cfg(test)]
#[path = "tariff_tests.rs"]
pub(super) mod tests;
