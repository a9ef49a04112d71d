//! Reads a model's prices as the book writes them.
//!
//! Nothing is refused: whatever is not known here is left out or marked, and [`Reader::complete`] says that there was some.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{Condition, NANOS_A_DAY, Row, SERVICE_TIERS, Set, UNREADABLE, Unit, Variant};
use crate::call::Money;

type Prices<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSet<'a> {
    constraint: Option<WrittenCondition<'a>>,
    #[serde(borrow)]
    prices: Prices<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenVariant<'a> {
    when: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    constraint: Option<WrittenCondition<'a>>,
    #[serde(borrow)]
    prices: Prices<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCondition<'a> {
    start_date: Option<Cow<'a, str>>,
    start_time: Option<Cow<'a, str>>,
    end_time: Option<Cow<'a, str>>,
    #[serde(rename = "type")]
    _type: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTiers<'a> {
    #[serde(borrow)]
    base: &'a RawValue,
    #[serde(borrow)]
    tiers: Vec<WrittenTier<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTier<'a> {
    start: u64,
    #[serde(borrow)]
    price: &'a RawValue,
}

/// Notes whether it knew everything that it read.
pub(super) struct Reader {
    pub(super) complete: bool,
}

impl Reader {
    /// What was read, if all of it is known.
    fn known<T>(&mut self, read: Option<T>) -> Option<T> {
        self.complete &= read.is_some();
        read
    }

    /// The sets, and the price keys that are in each of them.
    pub(super) fn sets<'a>(&mut self, text: &'a str) -> (Vec<Set>, Vec<Cow<'a, str>>) {
        let written: Vec<WrittenSet<'a>> = match serde_json::from_str::<Prices<'a>>(text) {
            Ok(prices) => vec![WrittenSet { constraint: None, prices }],
            Err(_) => {
                let items: Vec<&RawValue> = self.known(serde_json::from_str(text).ok()).unwrap_or_default();
                items.into_iter().filter_map(|item| self.known(serde_json::from_str(item.get()).ok())).collect()
            }
        };
        let mut keys: Vec<_> = written.first().map_or_else(Vec::new, |set| set.prices.keys().cloned().collect());
        keys.retain(|key| written.iter().all(|set| set.prices.contains_key(key)));
        // Of several that hold, the book means the last.
        let sets = written.iter().rev().filter_map(|set| self.set(set.constraint.as_ref(), &set.prices));
        (sets.collect(), keys)
    }

    pub(super) fn variants(&mut self, text: &str, keys: &[Cow<'_, str>]) -> Vec<Variant> {
        let items: Option<Vec<&RawValue>> = self.known(serde_json::from_str(text).ok()).flatten();
        let mut variants = Vec::new();
        for item in items.unwrap_or_default() {
            let Some(written) = self.known(serde_json::from_str::<WrittenVariant<'_>>(item.get()).ok()) else {
                continue;
            };
            let (mut service_tier, mut batch, mut asked) = (None, false, true);
            for (key, value) in &written.when {
                match (&**key, &**value) {
                    ("processing", "batch") => batch = true,
                    ("service_tier", tier) => {
                        service_tier = SERVICE_TIERS.into_iter().find(|known| *known == tier);
                        asked &= service_tier.is_some();
                    }
                    // Regions, kinds of search: calls are not told apart by them.
                    _ => asked = false,
                }
            }
            if !asked {
                continue;
            }
            let mut prices = written.prices;
            prices.retain(|_, value| value.get() != "null");
            // Whether a unit may get a rate here that it has not otherwise is for the crate to say: parts need rates for
            // what they are part of.
            self.complete &= prices.keys().all(|key| keys.contains(key));
            if let Some(set) = self.set(written.constraint.as_ref(), &prices) {
                variants.push(Variant { service_tier, batch, set });
            }
        }
        variants
    }

    fn set(&mut self, condition: Option<&WrittenCondition<'_>>, prices: &Prices<'_>) -> Option<Set> {
        let condition = match condition {
            Some(written) => Some(self.known(written.read())?),
            None => None,
        };
        let mut rows = Vec::new();
        for (key, price) in prices {
            let unit = self.known(Unit::named(key)).unwrap_or(Unit::Uncounted);
            let unreadable = || vec![Row { unit, from_input_tokens: 0, femto: UNREADABLE }];
            rows.extend(self.known(rates(unit, price.get())).unwrap_or_else(unreadable));
        }
        Some(Set { condition, rows: rows.into() })
    }
}

/// A number, or one for the shortest prompts and more for those longer than some length.
fn rates(unit: Unit, text: &str) -> Option<Vec<Row>> {
    let row = |from_input_tokens: u64, text: &str| {
        let femto = u64::try_from(Money::parse(text)?.femto()).ok().filter(|femto| *femto != UNREADABLE)?;
        Some(Row { unit, from_input_tokens, femto })
    };
    if let Some(flat) = row(0, text) {
        return Some(vec![flat]);
    }
    let mut written: WrittenTiers<'_> = serde_json::from_str(text).ok()?;
    written.tiers.sort_by_key(|tier| tier.start);
    let tiers = written.tiers.iter().map(|tier| row(tier.start.saturating_add(1), tier.price.get()));
    std::iter::once(row(0, written.base.get())).chain(tiers).collect()
}

impl WrittenCondition<'_> {
    fn read(&self) -> Option<Condition> {
        let instant = |date: &str, time: &str| format!("{date}T{time}").parse::<jiff::Timestamp>().ok();
        let of_day = |time: &str| {
            let since = instant("1970-01-02", time)?.as_nanosecond().rem_euclid(NANOS_A_DAY.into());
            u64::try_from(since).ok()
        };
        match (self.start_date.as_deref(), self.start_time.as_deref(), self.end_time.as_deref()) {
            (Some(date), None, None) => Some(Condition::Since(instant(date, "00:00:00Z")?.as_second())),
            (None, Some(from), Some(to)) => Some(Condition::Daily { from: of_day(from)?, to: of_day(to)? }),
            _ => None,
        }
    }
}
