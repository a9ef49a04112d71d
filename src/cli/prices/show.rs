//! Offers and lists as a table, JSON or CSV.

use std::fmt::Write;
use std::time::SystemTime;

use serde_json::json;
use unicode_width::UnicodeWidthStr;

use super::{Format, Shelf};
use crate::cli::sheet::Sheet;
use crate::meter::{ListedFamily, Offer, RateCard, RateKind};

/// Kinds with a column of their own; the others stand under the table.
const COLUMNS: [(RateKind, &str); 5] = [
    (RateKind::Input, "INPUT"),
    (RateKind::CacheRead, "CACHED"),
    (RateKind::CacheWrite, "WRITE"),
    (RateKind::CacheWrite1h, "WRITE 1H"),
    (RateKind::Output, "OUTPUT"),
];

/// What a model costs where.
pub(super) fn offers(model: &str, offers: &[Offer], shelf: &Shelf, format: Format) -> anyhow::Result<String> {
    match format {
        Format::Table => Ok(table(model, offers, shelf)),
        Format::Json => Ok(format!("{}\n", serde_json::to_string_pretty(&as_json(model, offers, shelf))?)),
        Format::Csv => as_csv(offers),
    }
}

/// Dollars without noise: `3`, `0.075`, `0.00125`.
pub(super) fn dollars(rate: f64) -> String {
    let text = format!("{rate:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Texts in columns as wide as they need to be; `right` ones are numbers.
pub(super) fn aligned(titles: &[(&str, bool)], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = titles
        .iter()
        .enumerate()
        .map(|(at, (title, _))| {
            rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.width()).max().unwrap_or(0).max(title.width())
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: Vec<&str>| {
        let mut whole = String::new();
        for ((cell, (_, right)), width) in cells.iter().zip(titles).zip(&widths) {
            let space = " ".repeat(width.saturating_sub(cell.width()));
            let _ = if *right { write!(whole, "{space}{cell}  ") } else { write!(whole, "{cell}{space}  ") };
        }
        text.push_str(whole.trim_end());
        text.push('\n');
    };
    line(titles.iter().map(|(title, _)| *title).collect());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
    text
}

/// How a call is sent, and from which length of prompt on.
fn terms(card: &RateCard) -> String {
    match card.above_input_tokens {
        0 => card.tier.to_string(),
        tokens => format!("{}, >{}k", card.tier, dollars(tokens as f64 / 1_000.0)),
    }
}

fn table(model: &str, offers: &[Offer], shelf: &Shelf) -> String {
    let date = shelf.date().map_or_else(|| "without a date".to_owned(), |date| format!("of {date}"));
    let mut text = format!("{model}: dollars per million tokens, price book {date}\n\n");
    let mut notes = Vec::new();
    let mut rows = Vec::new();
    for offer in offers {
        for (at, card) in offer.cards.iter().enumerate() {
            let first = |text: &str| if at == 0 { text.to_owned() } else { String::new() };
            let own = if offer.overridden { " (config)" } else { "" };
            let mut row = vec![first(&format!("{}{own}", offer.provider)), first(&offer.model), terms(card)];
            if card.rates.is_empty() {
                row.push("no rate".to_owned());
                row.extend(std::iter::repeat_n(String::new(), COLUMNS.len() - 1));
            } else {
                row.extend(COLUMNS.iter().map(|(kind, _)| card.rate(*kind).map_or_else(String::new, dollars)));
            }
            rows.push(row);
            if at == 0 {
                let others = card.rates.iter().filter(|(kind, _)| COLUMNS.iter().all(|(column, _)| column != kind));
                let others: Vec<String> = others
                    .map(|(kind, rate)| format!("{} {} per {}", words(*kind), dollars(*rate), kind.per()))
                    .collect();
                if !others.is_empty() {
                    notes.push(format!("{} {}: {}", offer.provider, offer.model, others.join(", ")));
                }
            }
        }
        for (from, to, card) in &offer.hours {
            let rates: Vec<String> =
                card.rates.iter().map(|(kind, rate)| format!("{} {}", words(*kind), dollars(*rate))).collect();
            notes.push(format!("{} {}: {from} to {to} UTC {}", offer.provider, offer.model, rates.join(", ")));
        }
    }
    let mut titles = vec![("PROVIDER", false), ("MODEL", false), ("TIER", false)];
    titles.extend(COLUMNS.map(|(_, title)| (title, true)));
    text += &aligned(&titles, &rows);
    if !notes.is_empty() {
        let _ = write!(text, "\n{}\n", notes.join("\n"));
    }
    if offers.iter().any(|offer| offer.overridden) {
        text += "\n(config): from prices.overrides of the configuration; it goes before the book's rate\n";
    }
    if offers.iter().any(Offer::is_without_rates) {
        text += "\nno rate: free, or part of a plan\n";
    }
    text += "\nThe cheapest first, at three tokens in for one out. What is not listed costs what it is part of.\n";
    text
}

fn words(kind: RateKind) -> String {
    kind.as_str().replace('_', " ")
}

fn as_json(model: &str, offers: &[Offer], shelf: &Shelf) -> serde_json::Value {
    let card = |card: &RateCard| {
        let rates: Vec<_> = card
            .rates
            .iter()
            .map(|(kind, rate)| json!({ "kind": kind, "usd": dollars(*rate), "per": kind.per() }))
            .collect();
        json!({ "tier": card.tier, "above_input_tokens": card.above_input_tokens, "rates": rates })
    };
    let offers: Vec<_> = offers
        .iter()
        .map(|offer| {
            let hours: Vec<_> = offer
                .hours
                .iter()
                .map(|(from, to, rates)| json!({ "from": from, "to": to, "rates": card(rates)["rates"] }))
                .collect();
            json!({
                "provider": offer.provider,
                "reached_as": shelf.reached_as(&offer.provider),
                "model": offer.model,
                "context_window": offer.context_window,
                "source": if offer.overridden { "config" } else { "book" },
                "terms": offer.cards.iter().map(card).collect::<Vec<_>>(),
                "hours_utc": hours,
            })
        })
        .collect();
    json!({ "model": model, "price_book_date": shelf.date(), "offers": offers })
}

fn as_csv(offers: &[Offer]) -> anyhow::Result<String> {
    let mut head = vec!["provider", "model", "source", "tier", "above_input_tokens"];
    head.extend(RateKind::ALL.iter().map(|kind| kind.as_str()));
    let mut out = Sheet::new(head)?;
    for offer in offers {
        for card in &offer.cards {
            let source = if offer.overridden { "config" } else { "book" };
            let mut row = vec![offer.provider.clone(), offer.model.clone(), source.to_owned(), card.tier.to_string()];
            row.push(card.above_input_tokens.to_string());
            row.extend(RateKind::ALL.iter().map(|kind| card.rate(*kind).map_or_else(String::new, dollars)));
            out.row(&row)?;
        }
    }
    out.finish()
}

/// All models, or those that were looked for.
pub(super) fn families(
    families: &[ListedFamily],
    shelf: &Shelf,
    now: SystemTime,
    format: Format,
) -> anyhow::Result<String> {
    let cheapest = |listed: &ListedFamily| {
        let offers = shelf.book.offers(&listed.name, now);
        let offer = offers.iter().find(|offer| !offer.is_without_rates() && !offer.is_variant())?;
        Some((offer.provider.clone(), offer.cards[0].clone()))
    };
    let date = shelf.date();
    match format {
        Format::Json => {
            let all: Vec<_> =
                families.iter().map(|listed| json!({ "model": listed.name, "providers": listed.providers })).collect();
            let whole = json!({ "price_book_date": date, "models": all });
            Ok(format!("{}\n", serde_json::to_string_pretty(&whole)?))
        }
        Format::Csv => {
            let mut out = Sheet::new(["model", "providers"])?;
            for listed in families {
                out.row([&listed.name, &listed.providers.join(" ")])?;
            }
            out.finish()
        }
        Format::Table => {
            // Rates take a moment each: they are for a list that somebody reads.
            let with_rates = families.len() <= 60;
            let rows: Vec<Vec<String>> = families
                .iter()
                .map(|listed| {
                    let mut row = vec![listed.name.clone(), listed.providers.len().to_string()];
                    if with_rates {
                        let (provider, card) =
                            cheapest(listed).map_or((String::new(), None), |(p, card)| (p, Some(card)));
                        let rate =
                            |kind| card.as_ref().and_then(|card| card.rate(kind)).map_or_else(String::new, dollars);
                        row.extend([rate(RateKind::Input), rate(RateKind::Output), provider]);
                    } else {
                        row.push(listed.providers.iter().take(4).cloned().collect::<Vec<_>>().join(" "));
                    }
                    row
                })
                .collect();
            let titles: &[(&str, bool)] = match with_rates {
                true => {
                    &[("MODEL", false), ("PROVIDERS", true), ("INPUT", true), ("OUTPUT", true), ("CHEAPEST AT", false)]
                }
                false => &[("MODEL", false), ("PROVIDERS", true), ("AMONG THEM", false)],
            };
            let date = date.map_or_else(String::new, |date| format!(" of {date}"));
            let count = families.len();
            let mut text = aligned(titles, &rows);
            let _ = write!(text, "\n{count} models in the price book{date}");
            text += if with_rates {
                ", dollars per million tokens\n"
            } else {
                "; `keytally prices MODEL` shows what one costs where\n"
            };
            Ok(text)
        }
    }
}
