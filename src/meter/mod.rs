//! From what was seen to what it means: usage, price, outcome, findings, one [`crate::call::CallRecord`].

mod model;
mod price;
mod recent;
mod shape;

pub use shape::{KeyEntry, PriceOverride, RuleEntry};
