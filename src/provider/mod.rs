//! Providers as data: whose call is it, where does its key travel, which format do its bodies have.

mod shape;

pub use shape::ProviderOverride;
