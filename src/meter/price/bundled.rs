//! Where the prices in `book.json` are from: genai-prices 0.2.3 on PyPI (MIT, see `LICENSE.genai-prices`).
//! Written by `renew.py`, with the book.

/// Newest date on which one of its rates came into force, when the book was made.
pub(super) const DATE: &str = "2026-11-09";
