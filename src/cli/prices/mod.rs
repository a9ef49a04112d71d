//! `keytally prices`: what a model costs at each provider that serves it, and what one's own traffic would cost there.
//!
//! In: the price book (built in, `prices.book`, or `--book`) with the overrides of the configuration; with `--like-last`
//! the ledger. Out: a table, JSON or CSV. Sends nothing anywhere, and needs no sidecar.

mod like_last;
mod show;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::{ConfigArgs, span};
use crate::app::{catalog, price_book};
use crate::files;
use crate::meter::{ListedFamily, PriceBook, family};
use crate::provider::Catalog;

/// Names that are proposed for one that nobody knows.
const PROPOSALS: usize = 8;
/// Names less alike than this (0 to 1) are no proposal.
const ALIKE: f64 = 0.82;

/// Flags of `prices`.
#[derive(Args, Clone, Debug)]
pub struct PricesArgs {
    /// Model, by any provider's name for it; without one, all models are listed
    model: Option<String>,
    /// List only models with this text in their name
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["model", "like_last"])]
    search: Option<String>,
    /// Price the calls that the ledger has of this last time (7d, 24h) at every provider that serves the same model, at the
    /// rates of now, and compare with what was paid; of one model, or of all
    #[arg(long, value_name = "DURATION", value_parser = span)]
    like_last: Option<Duration>,
    /// The ledger, instead of the configured one (variable: KEYTALLY_LEDGER)
    #[arg(long, value_name = "FILE", requires = "like_last")]
    ledger: Option<PathBuf>,
    /// Another price book, instead of the one that is built in or configured: data.json of genai-prices, format v2
    #[arg(long, value_name = "FILE")]
    book: Option<PathBuf>,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// For spreadsheets
    Csv,
}

/// The book, its date, and through which of keytally's providers its own are reached.
struct Shelf {
    book: PriceBook,
    catalog: Catalog,
}

/// The answer, as text.
pub(super) fn run(args: PricesArgs, now: SystemTime) -> anyhow::Result<String> {
    let config = super::source(args.config, None, None).load()?.config;
    let book = match (&args.book, &config.price_book) {
        (Some(path), _) => price_book(path, &config.prices, files::read_any)?,
        (None, Some(path)) => price_book(path, &config.prices, files::read)?,
        (None, None) => PriceBook::bundled(config.prices.clone()),
    };
    let catalog = catalog(&config)?;
    let shelf = Shelf { book, catalog };
    if let Some(last) = args.like_last {
        let ledger = args.ledger.or_else(|| config.ledger.as_ref().map(|ledger| ledger.path.clone()));
        let ledger =
            ledger.context("no ledger: name the file with --ledger FILE, or a configuration that has ledger.path")?;
        let wanted = args.model.as_deref().map(family);
        let compared = like_last::compare(&shelf, &ledger, wanted.as_deref(), last, now)?;
        return like_last::show(&compared, &shelf, last, args.format);
    }
    let Some(model) = &args.model else {
        let mut families = shelf.book.families();
        if let Some(text) = &args.search {
            let text = family(text);
            families.retain(|listed| listed.name.contains(&text));
            if families.is_empty() {
                bail!("\"{text}\": no model of the price book has this in its name; `keytally prices` lists all");
            }
        }
        return show::families(&families, &shelf, now, args.format);
    };
    let offers = shelf.book.offers(model, now);
    if offers.is_empty() {
        bail!("{}", unknown(model, &shelf.book.families()));
    }
    show::offers(model, &offers, &shelf, args.format)
}

/// What to say of a model that is not in the book, with names that may have been meant.
fn unknown(model: &str, families: &[ListedFamily]) -> String {
    let wanted = family(model);
    let shown: String = model.chars().filter(|c| !c.is_control()).take(80).collect();
    if let Some(listed) = families.iter().find(|listed| listed.name == wanted) {
        let providers = listed.providers.join(", ");
        return format!("\"{shown}\": in the price book ({providers}), but without a price; prices.overrides sets one");
    }
    let mut near: Vec<(f64, &str)> = families
        .iter()
        .map(|listed| {
            let within = wanted.len() >= 3 && (listed.name.contains(&wanted) || wanted.contains(&listed.name));
            let alike = strsim::jaro_winkler(&listed.name, &wanted);
            (if within { 1.0 + alike } else { alike }, &*listed.name)
        })
        .filter(|(alike, _)| *alike >= ALIKE)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    let names: Vec<&str> = near.into_iter().take(PROPOSALS).map(|(_, name)| name).collect();
    let hint = match names.is_empty() {
        true => "`keytally prices --search TEXT` looks for one".to_owned(),
        false => format!("did you mean {}?", names.join(", ")),
    };
    format!("\"{shown}\": not in the price book; {hint}")
}

// === impl Shelf ===

impl Shelf {
    /// `2026-10-20`, if it is known.
    fn date(&self) -> Option<String> {
        let date = jiff::Timestamp::try_from(self.book.timestamp()?).ok()?;
        Some(date.to_string().chars().take(10).collect())
    }

    /// Ids of keytally's providers whose calls are priced as those of `book_id`.
    fn reached_as(&self, book_id: &str) -> Vec<String> {
        let fits = |id: &Option<std::sync::Arc<str>>| id.as_deref() == Some(book_id);
        let providers = self.catalog.providers().filter(|provider| {
            fits(&provider.price_as) || provider.endpoints.iter().any(|endpoint| fits(&endpoint.price_as))
        });
        providers.map(|provider| provider.id.to_string()).collect()
    }

    /// The catalogue id of a provider stands for the book's.
    fn book_id<'a>(&'a self, provider: &'a str) -> &'a str {
        let known = self.catalog.providers().find(|known| *known.id == *provider);
        known.and_then(|known| known.price_as.as_deref()).unwrap_or(provider)
    }
}

#[cfg(test)]
mod tests;
