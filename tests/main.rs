//! One binary for all tests that drive the real sidecar.

mod support;

/// Recorded exchanges of all providers: same bytes, the provider's tokens, the reference's spend.
mod corpus;
/// Every format's decoder: recorded answers cut at every byte, and compressed four ways.
mod decoders;
/// `keytally demo`, the whole story.
mod demo;
/// What the sidecar says of its calls: metrics, spans, status.
mod observe;
/// `keytally run`: a command with a sidecar of its own.
mod run;
/// The SDKs that people use, unchanged.
mod sdks;
/// What arrives is what was sent: bodies, headers, trailers, upgrades, ends.
mod transparency;
