//! (to come)

use crate::config::ConfigHandle;

/// Serves until it is told to stop.
pub fn serve(_config: ConfigHandle) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
