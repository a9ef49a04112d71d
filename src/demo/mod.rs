//! `keytally demo`: a simulated provider, traffic through the sidecar, a live table; no account needed.

pub mod simulator;
