//! Shows records: metrics in place, spans and log lines over bounded queues.
pub mod metrics;
