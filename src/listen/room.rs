//! How many connections of applications there is room for, and what is said when there is none.
//!
//! A connection is accepted only when its own descriptor and one for its way to a provider fit into the process's limit, so
//! that an accepted call does not fail for want of a descriptor. Where that allows fewer than `limits.connections`, a warning
//! says so at start. A further connection waits in the kernel's queue. Each time that accepting has to wait is counted; the
//! log says it at most once a minute.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::call::AcceptPause;

/// Descriptors for everything but calls: 64 connections of the admin port, exporters, ledger, log, look-ups.
const OWN: u64 = 128;
/// One of the application, one to the provider.
const PER_CONNECTION: u64 = 2;
/// Wait after the system could not give a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// At most one line of log in this time.
const QUIET: Duration = Duration::from_secs(60);
/// No use in more; a table of descriptors takes memory.
const MOST_DESCRIPTORS: u64 = 1 << 20;

/// Permits for connections, shared by all ports.
pub struct Room {
    permits: Arc<Semaphore>,
    most: usize,
    paused: Box<dyn Fn(AcceptPause) + Send + Sync>,
    told: Mutex<Option<Instant>>,
}

/// Raises this process's limit of descriptors as far as it may by itself. The usual limit is for programs that cannot have
/// more; children inherit what is raised, so this is not for a process that runs somebody else's program.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(MOST_DESCRIPTORS, |maximum| maximum.min(MOST_DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        // Whoever may not is no worse off than before.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

/// Connections that a limit of descriptors has room for.
fn fitting(descriptors: u64) -> usize {
    let own = OWN.min(descriptors / 2);
    usize::try_from((descriptors - own) / PER_CONNECTION).unwrap_or(usize::MAX).max(1)
}

impl Room {
    /// For `wanted` connections, or as many as fit. `paused` counts.
    pub fn new(wanted: usize, paused: impl Fn(AcceptPause) + Send + Sync + 'static) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current;
        let most = descriptors.map_or(wanted, |descriptors| wanted.min(fitting(descriptors)));
        if let Some(descriptors) = descriptors.filter(|_| most < wanted) {
            let needed = wanted as u64 * PER_CONNECTION + OWN;
            // No warning: it is the default that does not fit on most machines, and there it matters to nobody.
            tracing::info!(
                connections = most,
                wanted,
                descriptors,
                needed,
                "fewer connections than limits.connections fit into the limit of open files; raise the limit (ulimit -Hn, LimitNOFILE)"
            );
        }
        Self {
            permits: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            most,
            paused: Box::new(paused),
            told: Mutex::new(None),
        }
    }

    /// Connections served at a time.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Waits for room. Cancel safe: a permit that is not taken stays.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        (self.paused)(AcceptPause::Limit);
        if self.may_tell() {
            tracing::warn!(connections = self.most, "all connections are in use; further ones wait until one closes");
        }
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// The system gave no connection. Errors of a single connection are passed over; when the process is out of descriptors
    /// or memory, waits a little.
    pub(super) async fn failed(&self, error: &io::Error) {
        let of_one_connection = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
        );
        if of_one_connection {
            return;
        }
        let descriptors = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
        let out_of_descriptors = descriptors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
        (self.paused)(if out_of_descriptors { AcceptPause::Descriptors } else { AcceptPause::Failed });
        if self.may_tell() {
            tracing::warn!(%error, "cannot accept connections; trying again every 100 ms");
        }
        tokio::time::sleep(PAUSE).await;
    }

    fn may_tell(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let may = told.is_none_or(|told| told.elapsed() >= QUIET);
        if may {
            *told = Some(Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_has_a_second_descriptor_beside_the_process_s_own() {
        for (descriptors, connections) in [(0, 1), (64, 16), (256, 64), (1_024, 448), (65_536, 32_704)] {
            assert_eq!(fitting(descriptors), connections, "{descriptors}");
        }
        assert!(fitting(u64::MAX) > 1 << 40);
    }

    #[tokio::test]
    async fn the_last_permit_is_told_once() {
        let pauses = Arc::<Mutex<Vec<AcceptPause>>>::default();
        let seen = Arc::clone(&pauses);
        let room = Room::new(1, move |pause| seen.lock().unwrap().push(pause));
        let first = room.permit().await.unwrap();
        assert!(pauses.lock().unwrap().is_empty());
        let waits = tokio::time::timeout(Duration::from_millis(20), room.permit());
        assert!(waits.await.is_err(), "there is room for one");
        drop(first);
        assert!(room.permit().await.is_some());
        let aborted = io::Error::from(io::ErrorKind::ConnectionAborted);
        room.failed(&aborted).await;
        room.failed(&io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error())).await;
        assert_eq!(*pauses.lock().unwrap(), [AcceptPause::Limit, AcceptPause::Descriptors]);
        assert!(!room.may_tell(), "one line a minute");
    }
}
