//! From what was seen to what it means: usage, price, outcome, findings, one [`crate::call::CallRecord`].

mod shape;

pub use shape::{KeyEntry, PriceOverride, RuleEntry};
