//! The thread on which all calls are served, from accepting to recording.
//!
//! One thread: a call then never wakes another thread, which costs more than all that is done for it here, and one core
//! moves more bytes than an application's LLM calls amount to. Scrapes, exporters, reloads and everything else that may
//! take a while run elsewhere, so that no call waits for them.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A name look-up that hangs must not hold the process.
const SHUTDOWN: Duration = Duration::from_millis(200);

/// Runs what is spawned on it until it is dropped; what still runs then is dropped as well.
pub struct DataThread {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl DataThread {
    /// Starts it.
    ///
    /// # Errors
    /// The system refuses a thread or an event queue.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        std::thread::Builder::new().name("calls".to_owned()).spawn(move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(SHUTDOWN);
        })?;
        Ok(Self { handle, _stop: stop })
    }

    /// What spawns on it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}
