//! What is wrong with keys, in the process's log: whoever reads nothing else learns of a failing key from it.
//!
//! A line for each key, provider and what is wrong, once an hour, with the first fix; at most [`MOST`] lines a minute. Writing
//! it may wait for whoever reads the log, so that it is left to the caller when and where ([`Notice::tell`]).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::call::{CallRecord, Fault, Finding, Outcome};
use crate::recent::Recent;

/// The same is told again after this time.
const AGAIN: Duration = Duration::from_secs(3_600);
/// What was told last is remembered of so many.
const REMEMBERED: usize = 1_024;
/// Lines a minute. What does not come through is told by a later call.
const MOST: u32 = 10;

/// What was told, and when.
#[derive(Debug)]
pub struct Notices {
    told: Recent<u64, Instant>,
    hasher: RandomState,
    minute: Instant,
    lines: u32,
}

/// A line.
#[derive(Debug)]
pub struct Notice {
    key: String,
    provider: Arc<str>,
    status: Option<u16>,
    what: What,
    first_fix: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Fails(Outcome),
    Found(Finding),
}

impl Notice {
    /// Writes it to the log.
    pub fn tell(self) {
        let (key, provider, status, first_fix) = (self.key, &*self.provider, self.status, self.first_fix);
        match self.what {
            What::Fails(outcome) => {
                tracing::warn!(
                    key,
                    provider,
                    outcome = outcome.as_str(),
                    status,
                    first_fix,
                    "calls with this key fail"
                );
            }
            What::Found(finding) => {
                tracing::warn!(
                    key,
                    provider,
                    finding = finding.as_str(),
                    first_fix,
                    "something is wrong with this key"
                );
            }
        }
    }
}

impl Notices {
    /// Nothing was told.
    pub fn new(now: Instant) -> Self {
        Self { told: Recent::new(REMEMBERED), hasher: RandomState::new(), minute: now, lines: 0 }
    }

    /// What one record gives reason to tell; `fix` has the text of a first fix by its id.
    pub fn of(&mut self, record: &CallRecord, now: Instant, fix: impl Fn(&str) -> Option<String>) -> Vec<Notice> {
        let fails = record.outcome.is_failure() && matches!(record.fault, Fault::Key | Fault::Account | Fault::Config);
        let fails = fails.then_some(What::Fails(record.outcome));
        let mut notices = Vec::new();
        for what in fails.into_iter().chain(record.findings.iter().copied().map(What::Found)) {
            let (word, id) = match what {
                What::Fails(outcome) => (outcome.as_str(), record.first_fix.as_deref()),
                What::Found(finding) => (finding.as_str(), Some(finding.as_str())),
            };
            if self.is_due((record.key_label(), &record.provider, word), now) {
                notices.push(Notice {
                    key: record.key_label().to_owned(),
                    provider: Arc::clone(&record.provider),
                    status: record.status,
                    what,
                    first_fix: id.and_then(&fix),
                });
            }
        }
        notices
    }

    fn is_due(&mut self, what: (&str, &str, &str), now: Instant) -> bool {
        let what = self.hasher.hash_one(what);
        if self.told.get(&what).is_some_and(|told| now.saturating_duration_since(*told) < AGAIN) {
            return false;
        }
        if now.saturating_duration_since(self.minute) >= Duration::from_secs(60) {
            (self.minute, self.lines) = (now, 0);
        }
        if self.lines >= MOST {
            return false;
        }
        self.lines += 1;
        self.told.put(what, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_an_hour_and_ten_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut notices = Notices::new(start);
        let mut due = |key: &str, seconds| notices.is_due((key, "openai", "auth_invalid"), at(seconds));
        assert!(due("a", 0));
        assert!(!due("a", 3_599));
        assert!(due("b", 3_599), "another key");
        assert!(due("a", 3_600));
        let keys: Vec<String> = (0..30).map(|n| format!("made-up-{n}")).collect();
        assert_eq!(keys.iter().filter(|key| due(key, 7_000)).count(), 10, "of 30 in a minute");
        assert_eq!(keys.iter().filter(|key| due(key, 7_060)).count(), 10, "the next ones");
        assert_eq!(keys.iter().filter(|key| due(key, 7_120)).count(), 10);
        assert_eq!(keys.iter().filter(|key| due(key, 7_180)).count(), 0, "all were told");
    }
}
