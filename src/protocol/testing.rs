//! Test kit: interests applied to a parsed document, and a driver that is as simple as can be.
//!
//! Pruning here is the plain form of what the push parser does: where a `Text` path is also the beginning of longer
//! paths, it holds for strings and scalars and the longer ones for containers; containers of which nothing is kept are
//! left out, also among the elements of an array.

use serde_json::{Map, Value};

use super::{Family, Interest, Take, family};
use crate::call::{Protocol, Reply, TextSample};

/// Longest string that [`Take::Keep`] keeps, bytes.
const KEEP_LIMIT: usize = 1024;

/// The segments of a path and what to do at its end.
type Paths = Vec<(Vec<&'static str>, Take)>;

fn paths(interests: &[Interest]) -> Paths {
    interests.iter().map(|interest| (interest.path.split('.').collect(), interest.take)).collect()
}

/// Prunes `doc` to `paths`; texts go to `sample`.
fn prune(doc: &Value, paths: &Paths, sample: &mut TextSample) -> Value {
    let active: Vec<(&[&str], Take)> = paths.iter().map(|(path, take)| (path.as_slice(), *take)).collect();
    node(doc, &active, sample).unwrap_or_else(|| match doc {
        Value::Array(_) => Value::Array(Vec::new()),
        Value::Object(_) => Value::Object(Map::new()),
        _ => Value::Null,
    })
}

fn node(value: &Value, active: &[(&[&str], Take)], sample: &mut TextSample) -> Option<Value> {
    if let Some((_, take)) = active.iter().find(|(path, _)| path.is_empty()) {
        match take {
            Take::Keep => return Some(cut(value)),
            Take::Presence => return (!value.is_null()).then_some(Value::Bool(true)),
            Take::DeepText => return Some(Value::from(deep(value, sample))),
            Take::Text => match value {
                Value::String(text) => {
                    sample.push(text);
                    return Some(Value::from(text.len()));
                }
                Value::Object(_) | Value::Array(_) => {}
                scalar => return Some(scalar.clone()),
            },
        }
    }
    let below = |key: Option<&str>| -> Vec<(&[&str], Take)> {
        let matches = |segment: &str| segment == "*" || key == Some(segment);
        let longer = active.iter().filter(|(path, _)| path.first().is_some_and(|segment| matches(segment)));
        longer.map(|(path, take)| (&path[1..], *take)).collect()
    };
    match value {
        Value::Object(fields) => {
            let mut kept = Map::new();
            for (key, field) in fields {
                let active = below(Some(key));
                if !active.is_empty()
                    && let Some(field) = node(field, &active, sample)
                {
                    kept.insert(key.clone(), field);
                }
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            let active = below(None);
            let kept: Vec<Value> = items.iter().filter_map(|item| node(item, &active, sample)).collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        _ => None,
    }
}

fn cut(value: &Value) -> Value {
    match value {
        Value::String(text) => {
            let mut end = text.len().min(KEEP_LIMIT);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            Value::from(&text[..end])
        }
        Value::Array(items) => items.iter().map(cut).collect(),
        Value::Object(fields) => fields.iter().map(|(key, field)| (key.clone(), cut(field))).collect(),
        scalar => scalar.clone(),
    }
}

fn deep(value: &Value, sample: &mut TextSample) -> u64 {
    match value {
        Value::String(text) => {
            sample.push(text);
            text.len() as u64
        }
        Value::Array(items) => items.iter().map(|item| deep(item, sample)).sum(),
        Value::Object(fields) => fields.values().map(|field| deep(field, sample)).sum(),
        _ => 0,
    }
}

/// One family and the reply that it fills.
pub(super) struct Driver {
    pub(super) family: Box<dyn Family>,
    paths: Paths,
    pub(super) reply: Reply,
}

impl Driver {
    pub(super) fn new(protocol: Protocol) -> Self {
        let family = family(protocol);
        Self { paths: paths(family.interests()), family, reply: Reply::default() }
    }

    pub(super) fn document(&mut self, event: Option<&str>, streaming: bool, doc: &Value) {
        let pruned = prune(doc, &self.paths, &mut self.reply.output);
        let seen = self.family.read(event, streaming, &pruned.into(), &mut self.reply);
        self.reply.output_events += u64::from(seen.output);
        self.reply.terminal |= seen.terminal;
    }

    pub(super) fn finish(mut self) -> Reply {
        self.family.end(&mut self.reply);
        self.reply
    }
}

/// A whole answer.
pub(super) fn whole(protocol: Protocol, doc: Value) -> Reply {
    let mut driver = Driver::new(protocol);
    driver.document(None, false, &doc);
    driver.finish()
}

/// A stream of documents without event names.
pub(super) fn events(protocol: Protocol, docs: &[Value]) -> Reply {
    let mut driver = Driver::new(protocol);
    for doc in docs {
        driver.document(None, true, doc);
    }
    driver.finish()
}

/// A stream of named events.
pub(super) fn named(protocol: Protocol, docs: &[(&str, Value)]) -> Reply {
    let mut driver = Driver::new(protocol);
    for (event, doc) in docs {
        driver.document(Some(event), true, doc);
    }
    driver.finish()
}
