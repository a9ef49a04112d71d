//! One binary for all tests that drive the real sidecar.

mod support;

/// `keytally demo`, the whole story.
mod demo;
/// The SDKs that people use, unchanged.
mod sdks;
/// What arrives is what was sent: bodies, headers, trailers, upgrades, ends.
mod transparency;
