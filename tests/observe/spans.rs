//! Spans as collectors read them.
