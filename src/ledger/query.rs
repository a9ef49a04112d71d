//! Which calls are meant, and by what they are added up.

use std::time::{Duration, SystemTime};

use super::row::{Caller, Found, Summed, Target, millis};
use crate::call::{Money, Outcome, label_enum};

label_enum! {
    /// What totals are told apart by.
    Dimension {
        Key = "key",
        Model = "model",
        Provider = "provider",
        Team = "team",
        Client = "client",
        Operation = "operation",
        Outcome = "outcome",
        Day = "day",
        Hour = "hour",
    }
}

/// Which calls are meant: all conditions hold; of a list, one entry is enough; an empty list says nothing.
///
/// A name may end in `*` for any rest. Calls without a key, team or client have the name `none`.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Started at or after this time.
    pub since: Option<SystemTime>,
    /// Started before this time.
    pub until: Option<SystemTime>,
    /// Names or fingerprints.
    pub keys: Vec<String>,
    /// As totals show it, as asked for, or as answered.
    pub models: Vec<String>,
    /// Ids.
    pub providers: Vec<String>,
    /// Teams of keys.
    pub teams: Vec<String>,
    /// Applications.
    pub clients: Vec<String>,
    /// Outcomes.
    pub outcomes: Vec<Outcome>,
    /// Only failures, in the sense of [`Outcome::is_failure`].
    pub failures: bool,
    /// Took longer than this.
    pub slower_than: Option<Duration>,
    /// Cost more than this.
    pub costlier_than: Option<Money>,
}

impl Query {
    pub(super) fn time_range(&self) -> (i64, i64) {
        (self.since.map_or(i64::MIN, millis), self.until.map_or(i64::MAX, millis))
    }

    /// `label` is the name that the key goes by now.
    pub(super) fn takes_caller(&self, caller: &Caller, label: &str) -> bool {
        let key = caller.key.as_ref().map_or("none", |key| key.as_str());
        let named = caller.key_name.as_deref().unwrap_or("none");
        one_of(&self.keys, &[label, named, key])
            && one_of(&self.teams, &[caller.team.as_deref().unwrap_or("none")])
            && one_of(&self.clients, &[caller.client.as_deref().unwrap_or("none")])
    }

    pub(super) fn takes_target(&self, target: &Target) -> bool {
        let known = [target.model.as_deref(), target.request_model.as_deref(), target.response_model.as_deref()];
        one_of(&self.providers, &[&target.provider]) && one_of(&self.models, &known.map(|name| name.unwrap_or("none")))
    }

    pub(super) fn takes_result(&self, found: &Found) -> bool {
        (self.outcomes.is_empty() || self.outcomes.contains(&found.outcome))
            && (!self.failures || found.outcome.is_failure())
    }

    pub(super) fn takes(&self, call: &Summed) -> bool {
        self.slower_than.is_none_or(|least| u128::from(call.duration_us) > least.as_micros())
            && self.costlier_than.is_none_or(|least| call.cost.is_some_and(|cost| cost > least))
    }
}

fn one_of(wanted: &[String], names: &[&str]) -> bool {
    let fits = |wanted: &String| match wanted.strip_suffix('*') {
        Some(start) => names.iter().any(|name| name.starts_with(start)),
        None => names.contains(&wanted.as_str()),
    };
    wanted.is_empty() || wanted.iter().any(fits)
}
