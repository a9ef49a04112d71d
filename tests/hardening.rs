//! What an attacker would try, tried: words that terminals, browsers and spreadsheets obey, files that others may read,
//! places that nobody should be connected to, keys that are left in memory.

mod claims;
mod memory;
mod network;
mod process;
mod supply;
mod words;
