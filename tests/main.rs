//! One binary for all tests that drive the real sidecar.

mod support;

/// What the sidecar says of its calls: metrics, spans, status.
mod observe;
/// The SDKs that people use, unchanged.
mod sdks;
/// What arrives is what was sent: bodies, headers, trailers, upgrades, ends.
mod transparency;
