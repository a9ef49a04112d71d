//! What a user may say in config of keys, prices and rules.

use std::sync::Arc;

use crate::call::{Fault, Fingerprint, Money, Outcome, Retry};

/// One entry of `keys:`.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyEntry {
    /// Which key.
    pub fingerprint: Fingerprint,
    /// Name shown instead of the fingerprint; unique.
    pub name: Arc<str>,
    /// Owning team.
    pub team: Option<Arc<str>>,
    /// Environment, for instance `prod`.
    pub env: Option<Arc<str>>,
    /// Threshold of the anomaly rules: ratio to the usual spend.
    pub anomaly_ratio: f64,
    /// Spend below this, dollars per hour, is never an anomaly.
    pub anomaly_min_usd_per_hour: f64,
    /// A key that is new may spend this much, dollars per hour.
    pub new_key_usd_per_hour: f64,
    /// Budget of a day, dollars.
    pub budget_usd_day: Option<f64>,
    /// Budget of a month, dollars.
    pub budget_usd_month: Option<f64>,
    /// Belongs to a pool of keys that are used in turn: rotation findings are off.
    pub pool: bool,
}

/// One entry of `prices:`: rates that replace the book's for one model.
#[derive(Clone, Debug, PartialEq)]
pub struct PriceOverride {
    /// Catalogue id of the provider; `None` for any.
    pub provider: Option<String>,
    /// Model name as requested or answered; `*` at the end matches any rest.
    pub model: String,
    /// Dollars per million input tokens.
    pub input_per_mtok: Money,
    /// Dollars per million output tokens.
    pub output_per_mtok: Money,
    /// Dollars per million input tokens read from a cache; the input rate by default.
    pub cache_read_per_mtok: Option<Money>,
    /// Dollars per million input tokens written to a cache; the input rate by default.
    pub cache_write_per_mtok: Option<Money>,
    /// Dollars per call on top.
    pub per_request: Option<Money>,
}

/// One entry of `rules:`: tried before the built-in rules. All conditions that are given must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleEntry {
    /// Name, shown as the reason.
    pub id: String,
    /// Catalogue ids; empty for any.
    pub providers: Vec<String>,
    /// HTTP (effective) statuses; empty for any.
    pub statuses: Vec<u16>,
    /// One of the error's codes, types or statuses equals one of these (case-insensitive).
    pub codes: Vec<String>,
    /// The error's text matches one of these regular expressions (case-insensitive).
    pub messages: Vec<String>,
    /// What it is.
    pub outcome: Outcome,
    /// Whose side must act; the outcome's usual one by default.
    pub fault: Option<Fault>,
    /// Retry advice; the outcome's usual one by default.
    pub retry: Option<Retry>,
    /// What to do first; the outcome's usual fix by default.
    pub first_fix: Option<String>,
}
