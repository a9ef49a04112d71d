//! The slow, obvious form of the pruner, for tests: a parsed document in, the same result out, one recursion a rule.

use serde_json::{Map, Value};

use super::super::{Interest, Take};
use super::paths::split;
use super::text::is_blob;
use super::{MAX_DEPTH, MAX_STRING};
use crate::call::TextSample;

/// Prunes a parsed document; text goes to `sample` in document order.
pub(crate) fn prune_value(document: &Value, interests: &[Interest], sample: &mut TextSample) -> Value {
    let paths: Vec<Vec<&str>> = interests.iter().map(|i| split(i.path)).collect();
    let mut reference = Reference { interests, paths, sample };
    match reference.prune(document, &mut Vec::new(), false) {
        Some(value) => value,
        None if document.is_object() => Value::Object(Map::new()),
        None if document.is_array() => Value::Array(Vec::new()),
        None => Value::Null,
    }
}

struct Reference<'a> {
    interests: &'a [Interest],
    paths: Vec<Vec<&'a str>>,
    sample: &'a mut TextSample,
}

/// One step from the root: a key, or `None` for an array element.
type Step = Option<String>;

impl Reference<'_> {
    /// What the interests say of the value at `at`: the most literal path wins, then the first.
    fn take(&self, at: &[Step]) -> Option<Take> {
        let stars = |path: &[&str]| path.iter().map(|s| *s == "*").collect::<Vec<_>>();
        (0..self.paths.len())
            .filter(|i| self.paths[*i].len() == at.len() && self.matches(*i, at))
            .min_by_key(|i| (stars(&self.paths[*i]), *i))
            .map(|i| self.interests[i].take)
    }

    /// Some interest names something below `at`.
    fn leads_on(&self, at: &[Step]) -> bool {
        (0..self.paths.len()).any(|i| self.paths[i].len() > at.len() && self.matches(i, at))
    }

    fn matches(&self, path: usize, at: &[Step]) -> bool {
        self.paths[path].iter().zip(at).all(|(segment, step)| *segment == "*" || step.as_deref() == Some(*segment))
    }

    fn prune(&mut self, value: &Value, at: &mut Vec<Step>, keep: bool) -> Option<Value> {
        let take = self.take(at).or(keep.then_some(Take::Keep));
        match (value, take) {
            (Value::Null, Some(Take::Presence)) => None,
            (Value::Object(_) | Value::Array(_), Some(Take::DeepText)) if at.len() < MAX_DEPTH => {
                Some(self.deep(value, at).into())
            }
            (Value::Object(_) | Value::Array(_), _) => {
                if at.len() >= MAX_DEPTH {
                    return None;
                }
                let keep = take == Some(Take::Keep);
                let inner = match keep || self.leads_on(at) {
                    true => self.inner(value, at, keep),
                    false => None,
                };
                match take {
                    Some(Take::Keep) => inner,
                    Some(Take::Presence) => Some(inner.filter(|v| !is_empty(v)).unwrap_or(Value::Bool(true))),
                    _ => inner.filter(|v| !is_empty(v) || !at.contains(&None)),
                }
            }
            (_, Some(Take::Presence)) => Some(Value::Bool(true)),
            (Value::String(text), Some(Take::Keep)) => {
                let end = (0..=text.len().min(MAX_STRING)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
                Some(text[..end].into())
            }
            (Value::String(text), Some(Take::Text)) => {
                self.sample.push(text);
                Some(text.len().into())
            }
            (Value::String(_), Some(Take::DeepText)) => Some(self.deep(value, at).into()),
            (_, Some(_)) => Some(value.clone()),
            (_, None) => None,
        }
    }

    fn inner(&mut self, value: &Value, at: &mut Vec<Step>, keep: bool) -> Option<Value> {
        match value {
            Value::Object(map) => {
                let mut kept = Map::new();
                for (key, member) in map {
                    at.push(Some(key.clone()));
                    if let Some(member) = self.prune(member, at, keep) {
                        kept.insert(key.clone(), member);
                    }
                    at.pop();
                }
                Some(kept.into())
            }
            Value::Array(list) => {
                let mut kept = Vec::new();
                for element in list {
                    at.push(None);
                    kept.push(self.prune(element, at, keep));
                    at.pop();
                }
                while kept.last() == Some(&None) {
                    kept.pop();
                }
                Some(kept.into_iter().map(Option::unwrap_or_default).collect())
            }
            _ => None,
        }
    }

    fn deep(&mut self, value: &Value, at: &mut Vec<Step>) -> u64 {
        let members: Vec<(Step, &Value)> = match value {
            Value::String(text) if is_blob(head(text)) => return 0,
            Value::String(text) => {
                self.sample.push(text);
                return text.len() as u64;
            }
            _ if at.len() >= MAX_DEPTH => return 0,
            Value::Object(map) => map.iter().map(|(key, member)| (Some(key.clone()), member)).collect(),
            Value::Array(list) => list.iter().map(|element| (None, element)).collect(),
            _ => return 0,
        };
        let mut sum = 0;
        for (step, member) in members {
            at.push(step);
            if self.take(at) != Some(Take::Presence) {
                sum += self.deep(member, at);
            }
            at.pop();
        }
        sum
    }
}

fn head(text: &str) -> &str {
    let end = (256..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    &text[..end]
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}
