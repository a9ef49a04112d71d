//! Lines of the log that every call or connection would write again while the same is wrong: one a minute each, with how
//! many were left out since the one before. A provider that is down fails as many calls as there are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;

const INTERVAL: Duration = Duration::from_secs(60);

/// Lines by whom they are about and why. Bound: what may be named is the configuration's and the program's own.
#[derive(Default)]
pub struct Repeated(Mutex<HashMap<(Arc<str>, &'static str), Told>>);

struct Told {
    at: Instant,
    left_out: u64,
}

impl Repeated {
    /// How many lines were left out before this one; `None` when this one is left out as well.
    pub fn tell(&self, about: &Arc<str>, why: &'static str) -> Option<u64> {
        self.tell_at(about, why, Instant::now())
    }

    fn tell_at(&self, about: &Arc<str>, why: &'static str, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = lines.get_mut(&(Arc::clone(about), why)) else {
            lines.insert((Arc::clone(about), why), Told { at: now, left_out: 0 });
            return Some(0);
        };
        if now.duration_since(told.at) < INTERVAL {
            told.left_out += 1;
            return None;
        }
        told.at = now;
        Some(std::mem::take(&mut told.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_says_how_many_were_left_out() {
        let lines = Repeated::default();
        let (one, other): (Arc<str>, Arc<str>) = ("openai".into(), "mistral".into());
        let start = Instant::now();
        let at = |about, why, secs| lines.tell_at(about, why, start + Duration::from_secs(secs));
        assert_eq!([at(&one, "connect", 0), at(&one, "dns", 0), at(&other, "connect", 1)], [Some(0); 3]);
        assert_eq!([at(&one, "connect", 1), at(&one, "connect", 59)], [None; 2]);
        assert_eq!([at(&one, "connect", 60), at(&one, "connect", 61)], [Some(2), None]);
        assert_eq!([at(&one, "connect", 200), at(&other, "connect", 200)], [Some(1), Some(0)]);
    }
}
