//! (to come)

pub mod decompress;
pub mod request;
