//! One binary for all tests that drive the real sidecar.

// The kit of the tests fails by panicking, as the tests themselves do.
#![allow(clippy::unwrap_used)]

mod support;

/// The shipped alert rules, what is made from them, and what they are built on.
mod alerting;
/// Hostile and broken bytes from either side: the call goes on, memory stays flat.
mod bad_input;
/// Who calls: the process at the other end.
mod callers;
/// Recorded exchanges of all providers: same bytes, the provider's tokens, the reference's spend.
mod corpus;
/// The shipped dashboards.
mod dashboards;
/// A scripted day of trouble, with real Prometheus and Alertmanager: the alerts arrive, the panels have data.
mod day;
/// Every format's decoder: recorded answers cut at every byte, and compressed four ways.
mod decoders;
/// `keytally demo`, the whole story.
mod demo;
/// What is in `deploy/`: image, Compose, Kubernetes, Helm, systemd.
mod deploy;
/// `keytally doctor`: every cause planted, and named first.
mod doctor;
/// `keytally explain`: every known error, pasted.
mod explain;
/// Faults around the sidecar while calls go on: no call fails for it, nothing is lost uncounted, all comes back.
mod faults;
/// What an attacker would try.
mod hardening;
/// `usage.inject`: requests that are read whole.
mod inject;
/// The ledger: commands, kills, full disks, restarts.
mod ledger;
/// Signals, drain, reload, exit codes.
mod lifecycle;
/// What the sidecar says of its calls: metrics, spans, status.
mod observe;
/// The built-in price book is what its source makes it.
mod prices;
/// Canaries in every place of a call, then a search of every sink.
mod privacy;
/// Redirected connections, in a network namespace.
mod redirect;
/// Settings and files that change while calls go on.
mod reload;
/// `keytally run`: a command with a sidecar of its own.
mod run;
/// The SDKs that people use, unchanged.
mod sdks;
/// Mixed traffic for a while, or for as long as asked: nothing grows, nothing is lost.
mod soak;
/// The status page in a browser, and the live view behind it.
mod status_page;
/// `keytally top` in a terminal; completions in a shell.
mod top;
/// What arrives is what was sent: bodies, headers, trailers, upgrades, ends.
mod transparency;
/// Providers that cannot be reached, and the ways to those that can.
mod upstream_failures;
/// Calls that share HTTP/2 connections to a provider.
mod upstream_http2;
/// Forward proxy, opened TLS, the local authority.
mod ways;
