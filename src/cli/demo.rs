//! `keytally demo`: the real sidecar in this process, between simulated applications and simulated providers.
//!
//! The sidecar takes its usual ports, or free ones when those are taken. No file and no variable is read: whatever is
//! configured on this machine, the demo is the same and sends nothing anywhere. Logs are for `RUST_LOG` only. With
//! `--sidecar` the sidecar is one that somebody else runs.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;

use crate::app::App;
use crate::config::{Config, ConfigHandle};
use crate::demo::{DemoOptions, DemoSidecar, StartConfig};
use crate::meter::Rules;

use super::DemoArgs;

/// Finished calls that wait for the table at most.
const RECORDS: usize = 4_096;

/// Runs until Ctrl-C or the end of `--duration`.
pub(super) fn run(args: DemoArgs) -> anyhow::Result<()> {
    if args.print_config {
        return Ok(std::io::stdout().write_all(crate::demo::apart::config().as_bytes())?);
    }
    if std::env::var_os("RUST_LOG").is_some() {
        super::log::init(&Config::default().log);
    }
    let color = args.no_color.then_some(false);
    let options = DemoOptions { duration: args.duration, color, minute: args.minute };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let shown = match &args.sidecar {
        None => runtime.block_on(crate::demo::run(options, start)),
        Some(sidecar) => runtime.block_on(crate::demo::apart::run(options, sidecar)),
    };
    runtime.shutdown_timeout(Duration::from_millis(200));
    shown
}

async fn start(demo: StartConfig) -> anyhow::Result<DemoSidecar> {
    let mut config = Config { providers: demo.providers, keys: demo.keys, ..Config::default() };
    config.shutdown.drain = Duration::from_secs(1);
    config.shutdown.linger = Duration::ZERO;
    let app = match App::start(ConfigHandle::fixed(config.clone())).await {
        Err(error) if is_taken(&error) => {
            let free = SocketAddr::from(([127, 0, 0, 1], 0));
            (config.listen.proxy, config.listen.admin) = (free, free);
            App::start(ConfigHandle::fixed(config)).await?
        }
        started => started?,
    };
    let rules = Rules::build(&[]).map_err(|_| anyhow::anyhow!("the embedded rules cannot be read"))?;
    Ok(DemoSidecar {
        proxy: app.proxy,
        admin: app.admin,
        records: app.records(RECORDS),
        fix: Box::new(move |id| rules.fix(id).map(str::to_owned)),
        stop: Box::pin(app.stop()),
    })
}

fn is_taken(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::AddrInUse))
}
