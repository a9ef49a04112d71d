//! Moves the wall clock of one process while it runs (Debian package libfaketime). Its monotonic clock stays.

use std::path::PathBuf;
use std::process::Command;

/// A clock of the test's own.
pub struct Clock(tempfile::TempDir);

impl Clock {
    /// Right at first; `None`, said, without the library.
    pub fn new() -> Option<Self> {
        if !library().exists() {
            super::skip("libfaketime");
            return None;
        }
        let clock = Self(tempfile::tempdir().expect("temporary directory"));
        clock.set("+0s");
        Some(clock)
    }

    /// Away from the true time by this: `+20m`, `-1d`.
    pub fn set(&self, offset: &str) {
        let new = self.0.path().join("clock.new");
        std::fs::write(&new, format!("{offset}\n")).expect("written");
        std::fs::rename(&new, self.0.path().join("clock")).expect("in place");
    }

    /// Gives it to a command.
    pub fn rule(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", library())
            .env("FAKETIME_TIMESTAMP_FILE", self.0.path().join("clock"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

fn library() -> PathBuf {
    format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH).into()
}
