//! The ways in besides the base URL: forward proxy, opened TLS, the local certificate authority, the TLS face.

/// The authority: files, constraints, rotation, and what verifiers say of certificates made with its key.
mod ca;
/// `listen.proxy_tls`.
mod face;
/// Absolute form, CONNECT, tunnels, refusals.
mod forward;
/// Opened TLS, and every kind of connection that cannot be opened.
mod intercept;
/// The simulated internet: providers behind TLS under their real names, reached through a proxy.
mod internet;
