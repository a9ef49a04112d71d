//! The command as a child process: it has keytally's own standard streams, terminal and process group.
//!
//! Signals reach it as if it had been started alone. TERM, HUP, USR1 and USR2 are passed on. What a terminal sends (INT,
//! QUIT) it sends to the whole process group, so the child has it already; when no terminal can have sent it, it is passed
//! on too. keytally itself outlives them all and ends when the child does. A signal that was ignored when keytally
//! started (`nohup`) stays ignored, for the child too.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that keytally takes, and whether a terminal sends them.
const SIGNALS: [(Signal, SignalKind, bool); 6] = [
    (Signal::TERM, SignalKind::terminate(), false),
    (Signal::HUP, SignalKind::hangup(), false),
    (Signal::USR1, SignalKind::user_defined1(), false),
    (Signal::USR2, SignalKind::user_defined2(), false),
    (Signal::INT, SignalKind::interrupt(), true),
    (Signal::QUIT, SignalKind::quit(), true),
];

/// Signals that came.
pub(super) struct Signals(mpsc::UnboundedReceiver<(Signal, bool)>);

impl Signals {
    /// Takes signals from now on.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub(super) fn new() -> io::Result<Self> {
        let ignored = ignored();
        // The kernel holds one of each kind at most, so this never grows.
        let (sender, receiver) = mpsc::unbounded_channel();
        for (which, kind, from_terminal) in SIGNALS {
            if ignored & (1 << (kind.as_raw_value() - 1)) != 0 {
                continue;
            }
            let mut came = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(
                async move { while came.recv().await.is_some() && sender.send((which, from_terminal)).is_ok() {} },
            );
        }
        Ok(Self(receiver))
    }

    /// The next one. Never, when all are ignored.
    pub(super) async fn next(&mut self) -> (Signal, bool) {
        match self.0.recv().await {
            Some(came) => came,
            None => std::future::pending().await,
        }
    }
}

/// Starts the command.
///
/// # Errors
/// As [`std::process::Command::spawn`].
pub(super) fn start(command: std::process::Command) -> io::Result<Child> {
    Command::from(command).spawn()
}

/// Waits for the command's end and passes signals on meanwhile.
///
/// # Errors
/// The system does not tell of its end.
pub(super) async fn wait(child: &mut Child, signals: &mut Signals) -> io::Result<ExitStatus> {
    loop {
        // Both can be dropped at any time: neither an end nor a signal is lost.
        let (which, from_terminal) = tokio::select! {
            ended = child.wait() => return ended,
            came = signals.next() => came,
        };
        let has_it_already = from_terminal && is_in_foreground();
        // The id is there until the child has been waited for, so no other process can have it.
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let (Some(pid), false) = (pid, has_it_already) {
            let _ = kill_process(pid, which);
        }
    }
}

/// The exit code that a shell would tell: the command's own, or 128 and the signal that killed it.
pub(super) fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// This process group is the one that the terminal's keys are for. Where nobody tells, it is taken to be.
fn is_in_foreground() -> bool {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return true };
    foreground(&stat).unwrap_or(true)
}

/// proc_pid_stat(5): `pid (name) state ppid pgrp session tty_nr tpgid …`; the name may hold anything.
fn foreground(stat: &str) -> Option<bool> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(2);
    let (group, _, terminal, foreground) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(terminal != "0" && group == foreground)
}

/// Signals that this process was started to ignore, one bit each; none where nobody tells.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_terminal_s_own_group_is_in_the_foreground() {
        assert_eq!(foreground("7 (a) b) S 1 40 30 34816 40 4194304"), Some(true));
        assert_eq!(foreground("7 (keytally) S 1 41 30 34816 40 4194304"), Some(false), "in the background");
        assert_eq!(foreground("7 (keytally) S 1 40 30 0 -1 4194304"), Some(false), "no terminal");
        assert_eq!(foreground("nonsense"), None);
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
        assert_eq!(code(ExitStatus::from_raw(15 | 0x80)), 143, "with a core dump");
    }
}
