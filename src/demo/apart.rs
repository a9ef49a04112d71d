//! The demo around a sidecar that somebody else runs: its applications and simulated providers alone.
//!
//! For a sidecar in a container or a pod, without any account: the sidecar is started with [`config`], then [`run`] calls
//! through it. The providers take consecutive loopback ports from [`FIRST_PORT`], in the sidecar's own network namespace,
//! since that configuration must be a file. What became of the calls is the sidecar's to tell.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Instant;

use url::Url;

use super::story::Story;
use super::traffic::Traffic;
use super::{DemoOptions, PROVIDERS, interrupted, key_entries, simulated_providers, sleep_until};

/// Port of the first simulated provider.
pub const FIRST_PORT: u16 = 4181;

/// The configuration file that the sidecar needs.
pub fn config() -> String {
    let mut text = String::from(
        "# The simulated providers of `keytally demo --sidecar URL`, and the names of its keys; `keytally demo --print-config`\n\
         # writes this. Every key is made up.\nproviders:\n",
    );
    for (id, port) in PROVIDERS.iter().zip(FIRST_PORT..) {
        let _ = writeln!(text, "  {id}: {{ base_url: \"http://127.0.0.1:{port}\" }}");
    }
    text.push_str("keys:\n");
    for key in key_entries() {
        let _ = writeln!(
            text,
            "  - {{ fingerprint: \"{}\", name: {}, team: {}, env: {}, anomaly_ratio: {}, new_key_usd_per_hour: {} }}",
            key.fingerprint.as_str(),
            key.name,
            key.team.as_deref().unwrap_or_default(),
            key.env.as_deref().unwrap_or_default(),
            key.anomaly_ratio,
            key.new_key_usd_per_hour,
        );
    }
    text
}

/// Calls through the sidecar at `sidecar` until Ctrl-C, SIGTERM or the end of `options.duration`; a line of the script
/// goes to standard output each minute.
///
/// # Errors
/// When a port of the simulated providers is taken, or standard output is closed.
pub async fn run(options: DemoOptions, sidecar: &Url) -> anyhow::Result<()> {
    // Before anything is started, so that an early Ctrl-C ends it in good order.
    let mut interrupted = std::pin::pin!(interrupted());
    let story = Story { minute: options.minute };
    let started = Instant::now();
    let (simulators, _) = simulated_providers(story, started, Some(FIRST_PORT)).await?;
    let traffic = Traffic::start(sidecar.as_str().trim_end_matches('/').to_owned(), story, started);
    let mut out = io::stdout();
    writeln!(out, "keytally demo: made-up keys and recorded answers, through {sidecar}")?;
    let deadline = options.duration.map(|duration| tokio::time::Instant::now() + duration);
    let mut ends = std::pin::pin!(sleep_until(deadline));
    let mut last = None;
    loop {
        let scene = story.at(started.elapsed());
        if last.replace(scene.now) != Some(scene.now) {
            writeln!(out, "script minute {}: {}", scene.minute, scene.now.text)?;
        }
        tokio::select! {
            () = tokio::time::sleep(scene.next_in) => {}
            () = &mut ends => break,
            () = &mut interrupted => break,
        }
    }
    drop(traffic);
    // Last: a provider that vanished would be a network error in the sidecar's eyes.
    drop(simulators);
    Ok(())
}
