//! `keytally demo`: a simulated provider, traffic through the sidecar, a live table; no account needed.

pub mod simulator;

use crate::cli::DemoArgs;

/// Shows what keytally does.
pub fn run(_args: DemoArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
