//! From what was seen to what it means: usage, price, outcome, findings, one [`crate::call::CallRecord`].

mod shape;

pub use shape::{KeyEntry, PriceOverride, RuleEntry};

// Outcome classification.
mod classify;
mod redact;
mod unwrap;

pub use classify::{Confidence, Evidence, RuleError, Rules, Verdict};
pub use redact::redact;
