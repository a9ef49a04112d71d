//! (to come)

use crate::cli::DemoArgs;

/// Shows what keytally does.
pub fn run(_args: DemoArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
