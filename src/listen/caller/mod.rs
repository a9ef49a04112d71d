//! Which process on this machine a connection comes from. Looked up once a connection, on a thread of its own.
//!
//! In: the two ends of a connection from this machine. Out: a [`Caller`], or nothing: the socket has gone, its process may not
//! be looked at (another user's, another PID namespace), or the machine is too busy. It is never an error, and no call
//! waits for it; only the record of a call does, for a moment.
//!
//! Cost: the kernel is asked for one socket (some 20 µs). Whose it is, only the descriptors of processes tell: those of
//! processes that were found before are looked at first, then, at most ten times a second and for a fifth of the time,
//! those of all. Bounds: [`QUEUE`] connections wait, further ones stay unknown; a scan looks at [`MAX_DESCRIPTORS`].

pub(super) mod process;
pub(super) mod socket;

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Ends;
use crate::call::Caller;
use socket::Socket;

/// Connections that wait to be looked up: one scan answers for all of them.
const QUEUE: usize = 1024;
/// Processes that are remembered: the applications of one sidecar are few.
const REMEMBERED: usize = 32;
/// Descriptors that one scan looks at, some 0.2 s.
const MAX_DESCRIPTORS: usize = 100_000;
/// Time from the beginning of one scan to the next.
const SCAN_EVERY: Duration = Duration::from_millis(100);
/// Users whose processes cannot be looked at are not tried again for this long.
const HIDDEN_FOR: Duration = Duration::from_secs(60);
/// Users that are remembered as such.
const MAX_HIDDEN: usize = 64;

/// Looks callers up until it is dropped.
#[derive(Clone)]
pub struct Callers(SyncSender<Asked>);

/// An answer that is there or will be.
#[derive(Clone)]
pub struct Answer(Arc<Slot>);

#[derive(Default)]
struct Slot {
    caller: OnceLock<Option<Arc<Caller>>>,
    filled: Notify,
}

/// A question; answered with nothing when it is dropped.
struct Asked {
    ends: Ends,
    slot: Arc<Slot>,
}

// === impl Callers ===

impl Callers {
    /// Starts the thread; `None` where the system refuses one.
    pub fn start() -> Option<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let started = std::thread::Builder::new().name("callers".to_owned()).spawn(move || work(&receiver));
        if let Err(error) = started {
            tracing::warn!(%error, "no thread to look callers up on; calls are recorded without client");
            return None;
        }
        Some(Self(sender))
    }

    /// Asks for the process at `ends.peer`. Returns at once.
    pub fn ask(&self, ends: Ends) -> Answer {
        let slot = Arc::<Slot>::default();
        match self.0.try_send(Asked { ends, slot: Arc::clone(&slot) }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                tracing::debug!("too many connections at once to look all their callers up");
            }
        }
        Answer(slot)
    }
}

// === impl Answer ===

impl Answer {
    /// What is known by now: `None` while it is still looked up.
    pub fn now(&self) -> Option<Option<Arc<Caller>>> {
        self.0.caller.get().cloned()
    }

    /// Waits until it is known whether anything is known.
    pub async fn known(&self) -> Option<Arc<Caller>> {
        loop {
            let filled = self.0.filled.notified();
            if let Some(caller) = self.now() {
                return caller;
            }
            filled.await;
        }
    }
}

// === impl Asked ===

impl Asked {
    fn answer(self, caller: Option<Arc<Caller>>) {
        let _ = self.slot.caller.set(caller);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.slot.caller.set(None);
        self.slot.filled.notify_waiters();
    }
}

// === the thread ===

/// What is remembered from one batch of questions to the next.
#[derive(Default)]
struct Memory {
    /// Processes that were found, the latest first.
    pids: VecDeque<u32>,
    /// Users whose processes showed no descriptors, and since when.
    hidden: HashMap<u32, Instant>,
    next_scan: Option<Instant>,
}

fn work(asked: &Receiver<Asked>) {
    let mut memory = Memory::default();
    while let Ok(first) = asked.recv() {
        let mut open: HashMap<u64, (Socket, Vec<Asked>)> = HashMap::new();
        for one in std::iter::once(first).chain(asked.try_iter().take(QUEUE)) {
            if let Some(socket) = socket::find(one.ends) {
                open.entry(socket.inode).or_insert((socket, Vec::new())).1.push(one);
            }
        }
        let remembered: Vec<u32> = memory.pids.iter().copied().collect();
        for pid in remembered {
            memory.settle(pid, &mut open);
        }
        let now = Instant::now();
        memory.hidden.retain(|_, since| now.duration_since(*since) < HIDDEN_FOR);
        open.retain(|_, (socket, _)| !memory.hidden.contains_key(&socket.uid));
        if !open.is_empty() {
            memory.scan(&mut open);
        }
    }
}

impl Memory {
    /// Answers for the sockets that this process has.
    fn settle(&mut self, pid: u32, open: &mut HashMap<u64, (Socket, Vec<Asked>)>) {
        if open.is_empty() {
            return;
        }
        let found = process::sockets(pid, &mut MAX_DESCRIPTORS.clone(), |inode| open.contains_key(&inode));
        if found.is_empty() {
            return;
        }
        let caller = process::caller(pid).map(Arc::new);
        for inode in found {
            for asked in open.remove(&inode).into_iter().flat_map(|(_, asked)| asked) {
                asked.answer(caller.clone());
            }
        }
        self.pids.retain(|known| *known != pid);
        self.pids.push_front(pid);
        self.pids.truncate(REMEMBERED);
    }

    /// Looks at the descriptors of all processes.
    fn scan(&mut self, open: &mut HashMap<u64, (Socket, Vec<Asked>)>) {
        if let Some(wait) = self.next_scan.and_then(|next| next.checked_duration_since(Instant::now())) {
            std::thread::sleep(wait);
        }
        let begun = Instant::now();
        let mut left = MAX_DESCRIPTORS;
        let mut found = Vec::new();
        for pid in process::all() {
            let theirs = process::sockets(pid, &mut left, |inode| open.contains_key(&inode));
            if !theirs.is_empty() {
                found.push(pid);
            }
            if left == 0 || open.is_empty() {
                break;
            }
        }
        for pid in found {
            self.settle(pid, open);
        }
        // What is still there and was not found belongs to a process that may not be looked at.
        for (socket, asked) in open.values() {
            let is_there = asked.first().and_then(|asked| socket::find(asked.ends)).is_some();
            if is_there && left > 0 && self.hidden.len() < MAX_HIDDEN {
                self.hidden.insert(socket.uid, begun);
            }
        }
        self.next_scan = Some(begun + SCAN_EVERY.max(5 * begun.elapsed()));
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair(address: &str) -> (TcpStream, Ends) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ends = Ends { peer: client.local_addr().unwrap(), local: client.peer_addr().unwrap(), redirected: false };
        std::mem::forget(listener);
        (client, ends)
    }

    #[tokio::test]
    async fn this_process_is_found_over_both_families() {
        let callers = Callers::start().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (_client, ends) = pair(address);
            let caller = callers.ask(ends).known().await.unwrap();
            assert_eq!(caller.pid, std::process::id(), "{address}");
            let own = std::env::current_exe().unwrap();
            assert!(own.to_str().unwrap().contains(&caller.executable[..10]), "{caller:?}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_has_gone_is_nobody_s() {
        let callers = Callers::start().unwrap();
        let (client, ends) = pair("127.0.0.1:0");
        drop(client);
        assert_eq!(callers.ask(ends).known().await, None);
        let strange =
            Ends { peer: "192.0.2.1:9".parse().unwrap(), local: "192.0.2.2:9".parse().unwrap(), redirected: false };
        assert_eq!(callers.ask(strange).known().await, None);
    }

    #[tokio::test]
    async fn many_at_once_are_all_answered() {
        let callers = Callers::start().unwrap();
        let sockets: Vec<_> = (0..300).map(|_| pair("127.0.0.1:0")).collect();
        let answers: Vec<_> = sockets.iter().map(|(_, ends)| callers.ask(*ends)).collect();
        for answer in answers {
            assert_eq!(answer.known().await.unwrap().pid, std::process::id());
        }
        let beyond: Vec<_> = (0..5 * QUEUE).map(|_| callers.ask(sockets[0].1)).collect();
        for answer in beyond {
            answer.known().await;
        }
    }
}
