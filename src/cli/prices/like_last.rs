//! One's own traffic at other providers: each call of the ledger priced again wherever its model is served.
//!
//! In: calls of the last so long. Out: for each provider and model that was used, what was paid, and what the same usage
//! would cost at every offer of the same model, in the same tier, at the rates of now (the provider that was used is among
//! them: rates may have changed). Calls without usage cost nothing anywhere and are left out. Each call is priced on its
//! own, since rates depend on the length of its prompt: some 10 µs a call and offer.
//! Bounds: [`MAX_MODELS`] pairs of provider and model; further ones are counted and told.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use serde_json::json;

use super::show::aligned;
use super::{Format, Shelf};
use crate::admin::text::{grouped, short, span, usd};
use crate::call::{CallRecord, Money, Operation};
use crate::cli::sheet::Sheet;
use crate::ledger::{Query, Reader};
use crate::meter::{Offer, PriceInput, family};

/// Pairs of provider and model; a ledger has tens.
const MAX_MODELS: usize = 200;

/// Everything that was compared.
pub(super) struct Compared {
    models: Vec<Model>,
    /// Calls of pairs beyond [`MAX_MODELS`].
    left_out: u64,
}

/// One model at the provider that was paid.
struct Model {
    provider: String,
    name: String,
    calls: u64,
    input_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    paid: Money,
    /// Calls that had no price.
    unpriced: u64,
    alternatives: Vec<Alternative>,
}

/// The same usage elsewhere.
struct Alternative {
    offer: Offer,
    cost: Money,
    /// Calls that this offer has no price for.
    unpriced: u64,
}

/// Prices what the ledger holds since `last` before `now`; of one model family, or of all.
pub(super) fn compare(
    shelf: &Shelf,
    ledger: &Path,
    wanted: Option<&str>,
    last: Duration,
    now: SystemTime,
) -> anyhow::Result<Compared> {
    let reader = Reader::open(ledger)?;
    let since = now.checked_sub(last).unwrap_or(SystemTime::UNIX_EPOCH);
    let query = Query { since: Some(since), until: Some(now), ..Query::default() };
    let mut models = BTreeMap::<(String, String), Model>::new();
    let (mut left_out, mut calls) = (0, 0u64);
    reader.calls(&query, |call| {
        let named = [&call.priced_model, &call.response_model, &call.request_model];
        let Some(name) = named.into_iter().flatten().next() else { return ControlFlow::Continue(()) };
        let name = family(name);
        if call.usage.is_empty() || wanted.is_some_and(|wanted| wanted != name) {
            return ControlFlow::Continue(());
        }
        calls += 1;
        let pair = (call.provider.to_string(), name.clone());
        if models.len() >= MAX_MODELS && !models.contains_key(&pair) {
            left_out += 1;
            return ControlFlow::Continue(());
        }
        models.entry(pair).or_insert_with(|| Model::new(&call, &name, shelf, now)).add(&call, shelf, now);
        ControlFlow::Continue(())
    })?;
    if calls == 0 {
        let of = wanted.map_or_else(String::new, |wanted| format!(" of {wanted}"));
        bail!("{}: no call{of} with usage in the last {}", ledger.display(), span(last.as_secs()));
    }
    let mut models: Vec<Model> = models.into_values().collect();
    for model in &mut models {
        model.alternatives.sort_by_key(|it| (it.unpriced, it.cost));
    }
    models.sort_by_key(|model| Reverse((model.paid, model.calls)));
    Ok(Compared { models, left_out })
}

// === impl Model ===

impl Model {
    fn new(call: &CallRecord, name: &str, shelf: &Shelf, now: SystemTime) -> Self {
        let mut offers = shelf.book.offers(name, now);
        let book_id = shelf.book_id(&call.provider);
        let is_own = |offer: &Offer| offer.provider == book_id && call.priced_model.as_deref() == Some(&offer.model);
        // Of several ids of one provider (dated ones, variants) the one that was used, else each.
        let own = offers.iter().any(is_own);
        // What has no rate, or is served otherwise, is nothing to compare with.
        offers.retain(|offer| match offer.provider == book_id && !offer.overridden {
            true => !own || is_own(offer),
            false => !offer.is_variant() && !offer.is_without_rates(),
        });
        let alternatives = offers.into_iter().map(|offer| Alternative { offer, cost: Money::ZERO, unpriced: 0 });
        Self {
            provider: call.provider.to_string(),
            name: name.to_owned(),
            calls: 0,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            paid: Money::ZERO,
            unpriced: 0,
            alternatives: alternatives.collect(),
        }
    }

    fn add(&mut self, call: &CallRecord, shelf: &Shelf, now: SystemTime) {
        let usage = &call.usage;
        self.calls += 1;
        self.input_tokens = self.input_tokens.saturating_add(usage.input_tokens.unwrap_or(0));
        self.cached_tokens = self.cached_tokens.saturating_add(usage.cache_read_tokens.unwrap_or(0));
        self.output_tokens = self.output_tokens.saturating_add(usage.output_tokens.unwrap_or(0));
        self.paid += call.cost.unwrap_or(Money::ZERO);
        self.unpriced += u64::from(call.cost.is_none());
        for alternative in &mut self.alternatives {
            let offer = &alternative.offer;
            // An override is found by its provider's catalogue id, a rate of the book by the book's.
            let provider = if offer.overridden { &*offer.provider } else { "" };
            let priced = shelf.book.price(&PriceInput {
                provider,
                price_as: Some(&offer.provider),
                local: false,
                models: &[&offer.model],
                usage,
                parts: &[],
                service_tier: call.service_tier.as_deref(),
                batch: call.operation == Operation::Batch,
                time: now,
                stated_cost: None,
            });
            match priced.cost {
                Some(cost) => {
                    alternative.cost += cost;
                    alternative.unpriced += u64::from(priced.partial);
                }
                None => alternative.unpriced += 1,
            }
        }
    }
}

impl Alternative {
    /// How much more (or less) than was paid, in percent; `None` where one of them is not known.
    fn difference(&self, model: &Model) -> Option<f64> {
        let paid = model.paid.as_f64();
        (paid > 0.0 && model.unpriced == 0 && self.unpriced == 0).then(|| (self.cost.as_f64() / paid - 1.0) * 100.0)
    }
}

/// As text of the form that was asked for.
pub(super) fn show(compared: &Compared, shelf: &Shelf, last: Duration, format: Format) -> anyhow::Result<String> {
    match format {
        Format::Table => Ok(table(compared, shelf, last)),
        Format::Json => Ok(format!("{}\n", serde_json::to_string_pretty(&as_json(compared, shelf, last))?)),
        Format::Csv => as_csv(compared),
    }
}

fn table(compared: &Compared, shelf: &Shelf, last: Duration) -> String {
    let date = shelf.date().map_or_else(String::new, |date| format!(" of {date}"));
    let mut text = format!("the calls of the last {}, at the rates of now, price book{date}\n", span(last.as_secs()));
    for model in &compared.models {
        let _ = write!(
            text,
            "\n{} at {}: {} calls, {} tokens in ({} cached), {} out: {} paid{}\n",
            model.name,
            model.provider,
            grouped(model.calls),
            short(model.input_tokens),
            short(model.cached_tokens),
            short(model.output_tokens),
            usd(model.paid),
            if model.unpriced > 0 {
                format!(", {} calls without a price", grouped(model.unpriced))
            } else {
                String::new()
            }
        );
        if model.alternatives.is_empty() {
            text += "  the price book knows no other provider, and this one has no price\n";
            continue;
        }
        let rows = model.alternatives.iter().map(|alternative| {
            let offer = &alternative.offer;
            let own = if offer.overridden { " (config)" } else { "" };
            vec![
                format!("{}{own}", offer.provider),
                offer.model.clone(),
                usd(alternative.cost),
                alternative.difference(model).map_or_else(String::new, |percent| format!("{percent:+.1} %")),
                if alternative.unpriced > 0 { grouped(alternative.unpriced) } else { String::new() },
            ]
        });
        let titles =
            [("PROVIDER", false), ("MODEL", false), ("WOULD COST", true), ("AGAINST PAID", true), ("UNPRICED", true)];
        text += &aligned(&titles, &rows.collect::<Vec<_>>());
    }
    if compared.left_out > 0 {
        let _ = write!(text, "\n{} calls of further models are left out; name the model\n", grouped(compared.left_out));
    }
    text += "\nSame usage, same tier. Other providers may count tokens otherwise, cache less, and have other limits.\n";
    text
}

fn as_json(compared: &Compared, shelf: &Shelf, last: Duration) -> serde_json::Value {
    let models: Vec<_> = compared
        .models
        .iter()
        .map(|model| {
            let alternatives: Vec<_> = model
                .alternatives
                .iter()
                .map(|it| {
                    json!({
                        "provider": it.offer.provider,
                        "reached_as": shelf.reached_as(&it.offer.provider),
                        "model": it.offer.model,
                        "source": if it.offer.overridden { "config" } else { "book" },
                        "cost_usd": it.cost,
                        "unpriced_calls": it.unpriced,
                        "difference_percent": it.difference(model).map(|percent| (percent * 10.0).round() / 10.0),
                    })
                })
                .collect();
            json!({
                "provider": model.provider,
                "model": model.name,
                "calls": model.calls,
                "input_tokens": model.input_tokens,
                "cache_read_tokens": model.cached_tokens,
                "output_tokens": model.output_tokens,
                "paid_usd": model.paid,
                "unpriced_calls": model.unpriced,
                "alternatives": alternatives,
            })
        })
        .collect();
    json!({ "price_book_date": shelf.date(), "last_seconds": last.as_secs(), "models": models, "calls_left_out": compared.left_out })
}

fn as_csv(compared: &Compared) -> anyhow::Result<String> {
    let mut out = Sheet::new([
        "paid_provider",
        "model",
        "calls",
        "input_tokens",
        "cache_read_tokens",
        "output_tokens",
        "paid_usd",
        "provider",
        "offered_model",
        "cost_usd",
        "unpriced_calls",
    ])?;
    for model in &compared.models {
        for it in &model.alternatives {
            out.row([
                &model.provider,
                &model.name,
                &model.calls.to_string(),
                &model.input_tokens.to_string(),
                &model.cached_tokens.to_string(),
                &model.output_tokens.to_string(),
                &model.paid.to_string(),
                &it.offer.provider,
                &it.offer.model,
                &it.cost.to_string(),
                &it.unpriced.to_string(),
            ])?;
        }
    }
    out.finish()
}
