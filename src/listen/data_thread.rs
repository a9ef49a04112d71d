//! The thread on which all calls are served, from accepting to recording.
//!
//! One thread: a call then never wakes another thread, which costs more than all that is done for it here, and one core
//! moves more bytes than an application's LLM calls amount to. Scrapes, exporters, reloads and everything else that may
//! take a while run elsewhere, so that no call waits for them.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A name look-up that hangs must not hold the process.
const SHUTDOWN: Duration = Duration::from_millis(200);

/// How often the thread looks whether it has become quieter.
const LOOK: Duration = Duration::from_secs(1);
/// Fewer tasks than this (one a connection) have left nothing behind that is worth a look.
const FEW_TASKS: usize = 32;

/// Gives the memory back that the allocator keeps for this thread.
static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Names the allocator's way to give memory back that it keeps for the calling thread. It is asked when the calls have
/// become much fewer: an allocator does so by itself only as long as it is used.
pub fn give_back_by(collect: fn()) {
    // The first one stays; there is one allocator.
    let _ = GIVE_BACK.set(collect);
}

/// Runs what is spawned on it until it is dropped; what still runs then is dropped as well.
pub struct DataThread {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

/// Gives memory back whenever a quarter of the tasks there were have gone. Not half: applications close their connections
/// after their calls, those to providers are kept for the next ones.
async fn tidy() {
    let metrics = Handle::current().metrics();
    let mut most = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let tasks = metrics.num_alive_tasks();
        most = most.max(tasks);
        if most >= FEW_TASKS && tasks < most - most / 4 {
            if let Some(give_back) = GIVE_BACK.get() {
                give_back();
            }
            most = tasks;
        }
    }
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
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = tidy() => {}
                }
            });
            runtime.shutdown_timeout(SHUTDOWN);
        })?;
        Ok(Self { handle, _stop: stop })
    }

    /// What spawns on it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}
