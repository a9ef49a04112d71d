//! Holds a tree against the schema of what a user may write: every wrong name, type and value is noted, and what is
//! right comes out as JSON that [`super::file::File`] takes.
//!
//! Understands the part of JSON Schema that the file's schema uses: `type`, `properties`, `required`,
//! `additionalProperties`, `propertyNames`, `items`, `enum`, `format`, `minimum`, `maximum`. What is wrong is left out
//! of the JSON; items of lists keep their place in `@at`, so that later checks can still name it.

use std::fmt;

use serde_json::{Map, Value};

use super::problem::{Problem, is_key, shown};
use super::value;
use super::yaml::{Data, Node, Spot};

/// Furthest edit distance, as a share, at which a name is taken for a misspelt one.
const MISSPELT: f64 = 0.6;

/// One step into the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A setting or an entry by its name.
    Name(String),
    /// An item of a list, from 0.
    Item(usize),
}

/// Place of a setting: `keys[2].fingerprint`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    /// From `keys[2].fingerprint` without quoted names.
    pub(super) fn of(steps: &[&dyn ToStep]) -> Self {
        Self(steps.iter().map(|s| s.step()).collect())
    }

    fn name(&self, name: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Name(name.to_owned()));
        path
    }

    fn item(&self, n: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Item(n));
        path
    }
}

/// Something that can be a step of a path.
pub(super) trait ToStep {
    fn step(&self) -> Step;
}

impl ToStep for str {
    fn step(&self) -> Step {
        Step::Name(self.to_owned())
    }
}

impl ToStep for &str {
    fn step(&self) -> Step {
        Step::Name((*self).to_owned())
    }
}

impl ToStep for String {
    fn step(&self) -> Step {
        Step::Name(self.clone())
    }
}

impl ToStep for usize {
    fn step(&self) -> Step {
        Step::Item(*self)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(item) => write!(f, "[{item}]")?,
                Step::Name(name) => {
                    if n > 0 {
                        f.write_str(".")?;
                    }
                    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
                    if name.len() <= 64 && !name.is_empty() && name.bytes().all(plain) && !is_key(name) {
                        f.write_str(name)?;
                    } else {
                        f.write_str(&shown(name))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Collects what is wrong, in the order of the tree.
pub(super) struct Walker<'a> {
    /// Name of the file, as problems show it.
    pub(super) file: &'a str,
    /// The schema of the whole file, for settings written in the wrong section.
    pub(super) schema: &'a Value,
    /// What was found.
    pub(super) problems: Vec<(Spot, Problem)>,
}

impl Walker<'_> {
    /// Notes a problem at a place in the file.
    pub(super) fn note(&mut self, spot: Spot, text: String) {
        let place = format!("{}:{}:{}", self.file, spot.line, spot.column);
        self.problems.push((spot, Problem { place, text }));
    }

    /// The part of `node` that fits `schema`; `None` when nothing does.
    pub(super) fn walk(&mut self, node: &Node, schema: &Value, path: &Path) -> Option<Value> {
        if schema.get("properties").is_some() || schema["additionalProperties"].is_object() {
            self.mapping(node, schema, path)
        } else if schema["type"] == "array" {
            self.list(node, schema, path)
        } else {
            self.scalar(node, schema, path)
        }
    }

    fn mapping(&mut self, node: &Node, schema: &Value, path: &Path) -> Option<Value> {
        let empty = Map::new();
        let known = schema["properties"].as_object().unwrap_or(&empty);
        let Data::Map(entries) = &node.data else {
            let names: Vec<&str> = known.keys().map(String::as_str).collect();
            let right = match names.as_slice() {
                [] => "write name: value below it".to_owned(),
                names => format!("write its settings as name: value ({})", names.join(", ")),
            };
            self.wrong(node, path, schema, "not a mapping", &right);
            return None;
        };
        let mut out = Map::new();
        let mut whole = true;
        for (key, child) in entries {
            let below = path.name(&key.text);
            let below_schema = match known.get(&key.text) {
                Some(schema) => schema,
                None if schema["additionalProperties"].is_object() => {
                    if let Some(format) = schema["propertyNames"]["format"].as_str()
                        && let Err(text) = value::check(format, &key.text)
                    {
                        self.note(key.spot, format!("{below}: {text}"));
                        continue;
                    }
                    &schema["additionalProperties"]
                }
                None => {
                    let text = self.unknown(&key.text, known, path);
                    self.note(key.spot, format!("{below}: {text}"));
                    continue;
                }
            };
            // A name with nothing after it is as good as none: its lines may be commented out.
            if child.is_null() {
                if !known.contains_key(&key.text) {
                    let is_section = below_schema.get("properties").is_some();
                    if is_section {
                        out.insert(key.text.clone(), Value::Object(Map::new()));
                    } else {
                        self.note(key.spot, format!("{below}: nothing; write a value"));
                    }
                }
                continue;
            }
            match self.walk(child, below_schema, &below) {
                Some(value) => {
                    out.insert(key.text.clone(), value);
                }
                None => whole &= !required(schema, &key.text),
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let given = node.child(name).is_some_and(|(_, child)| !child.is_null());
            if !given {
                whole = false;
                let about = known.get(name).and_then(|s| s["description"].as_str()).unwrap_or_default();
                let at = if path.0.is_empty() { String::new() } else { format!("{path}: ") };
                self.note(node.spot, format!("{at}{name} is missing; add it ({})", first_sentence(about)));
            }
        }
        whole.then_some(Value::Object(out))
    }

    fn list(&mut self, node: &Node, schema: &Value, path: &Path) -> Option<Value> {
        let Data::List(items) = &node.data else {
            self.wrong(node, path, schema, "not a list", "write one item a line, each after \"- \", or [a, b]");
            return None;
        };
        let mut out = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            let below = path.item(n);
            if item.is_null() {
                self.wrong(item, &below, &schema["items"], "nothing", "write a value or remove the line");
                continue;
            }
            if let Some(mut value) = self.walk(item, &schema["items"], &below) {
                if let Value::Object(fields) = &mut value {
                    fields.insert("@at".to_owned(), n.into());
                }
                out.push(value);
            }
        }
        Some(Value::Array(out))
    }

    fn scalar(&mut self, node: &Node, schema: &Value, path: &Path) -> Option<Value> {
        let Data::Scalar { text, plain } = &node.data else {
            let right = match schema["enum"].as_array() {
                Some(values) => format!("write one of {}", joined(values)),
                None => "write one value".to_owned(),
            };
            self.wrong(node, path, schema, "not a single value", &right);
            return None;
        };
        let accepts = |name: &str| match &schema["type"] {
            Value::String(only) => only == name,
            Value::Array(types) => types.iter().any(|t| t == name),
            _ => false,
        };
        if let Some(values) = schema["enum"].as_array() {
            if values.iter().any(|v| v == text.as_str()) {
                return Some(text.as_str().into());
            }
            let names: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            let right = match closest(text, &names) {
                Some(name) => format!("did you mean {name}? write one of {}", names.join(", ")),
                None => format!("write one of {}", names.join(", ")),
            };
            self.wrong(node, path, schema, "unknown", &right);
            return None;
        }
        if let Some(format) = schema["format"].as_str() {
            if let Err(why) = value::check(format, text) {
                // A value that does not even resemble a fingerprint may be the key itself.
                let hidden = format == "fingerprint" && why.contains("perhaps");
                let value = if hidden { String::new() } else { self.given(node, schema) };
                self.note(node.spot, format!("{path}{value}: {why}"));
                return None;
            }
            // A plain 12 or true is a number or a switch to YAML, and to the schema.
            if *plain && is_other_type(text, &accepts) {
                let right = format!("write it in quotes: {text:?}");
                self.wrong(node, path, schema, "a number or switch, not text", &right);
                return None;
            }
            return Some(text.as_str().into());
        }
        let whole = accepts("integer");
        if !whole && !accepts("number") {
            return Some(text.as_str().into());
        }
        let (low, high) = (&schema["minimum"], &schema["maximum"]);
        let right = match (low.as_f64(), high.as_f64()) {
            (Some(low), Some(high)) => {
                format!("write a {} from {low} to {high}", if whole { "whole number" } else { "number" })
            }
            _ => format!("write a {} number", if whole { "whole" } else { "plain" }),
        };
        let number = if !is_number(text) {
            None
        } else if whole {
            text.parse::<i64>().ok().map(Value::from)
        } else {
            text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from)
        };
        let Some(number) = number.filter(|_| *plain) else {
            let what = if whole { "not a whole number" } else { "not a number" };
            self.wrong(node, path, schema, what, &right);
            return None;
        };
        let n = number.as_f64().unwrap_or(f64::NAN);
        if low.as_f64().is_some_and(|low| n < low) || high.as_f64().is_some_and(|high| n > high) {
            self.wrong(node, path, schema, "out of range", &right);
            return None;
        }
        Some(number)
    }

    fn wrong(&mut self, node: &Node, path: &Path, schema: &Value, what: &str, right: &str) {
        let value = self.given(node, schema);
        let at = if path.0.is_empty() { "the file".to_owned() } else { path.to_string() };
        self.note(node.spot, format!("{at}{value}: {what}; {right}"));
    }

    /// ` = "value"` for messages, if there is one that may be shown.
    fn given(&self, node: &Node, schema: &Value) -> String {
        match &node.data {
            Data::Scalar { text, .. } if !node.is_null() => match schema["writeOnly"] == true {
                true => " = (not shown)".to_owned(),
                false => format!(" = {}", shown(text)),
            },
            _ => String::new(),
        }
    }

    /// What to say of a name that is not known here.
    fn unknown(&self, name: &str, known: &Map<String, Value>, path: &Path) -> String {
        if name == "<<" {
            return "merge keys are not supported; write the settings out".to_owned();
        }
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        if let Some(close) = closest(name, &names) {
            return format!("unknown setting; did you mean {}?", path.name(close));
        }
        let mut elsewhere = Vec::new();
        places(self.schema, name, &Path::default(), &mut elsewhere);
        match elsewhere.as_slice() {
            [place] => format!("unknown setting here; did you mean {place}?"),
            _ => format!("unknown setting; known here: {}", names.join(", ")),
        }
    }
}

/// Sections in which a setting of this name stands, lists and maps left out.
fn places(schema: &Value, name: &str, path: &Path, found: &mut Vec<Path>) {
    for (property, below) in schema["properties"].as_object().into_iter().flatten() {
        if property == name {
            found.push(path.name(property));
        }
        places(below, name, &path.name(property), found);
    }
}

fn required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name))
}

/// The known name that was most likely meant.
fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    if name.len() > 64 {
        return None;
    }
    let likeness = |k: &str| strsim::normalized_damerau_levenshtein(&name, &k.replace('-', "_"));
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= MISSPELT).then_some(best)
}

fn joined(values: &[Value]) -> String {
    values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn first_sentence(text: &str) -> String {
    let text = text.split(". ").next().unwrap_or(text).trim_end_matches('.').replace('\n', " ");
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// A number in YAML's sense (1.2 core schema, decimal).
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'.')
        && digits.bytes().any(|b| b.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.parse::<f64>().is_ok()
}

/// An unquoted scalar that YAML reads as a number or switch where neither is accepted.
fn is_other_type(text: &str, accepts: &dyn Fn(&str) -> bool) -> bool {
    if !accepts("string") {
        return false;
    }
    let number = is_number(text) && !accepts("number") && !(accepts("integer") && text.parse::<i64>().is_ok());
    let switch = matches!(text, "true" | "false" | "True" | "False" | "TRUE" | "FALSE") && !accepts("boolean");
    number || switch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_short_and_never_hold_a_key() {
        assert_eq!(Path::of(&[&"keys", &2usize, &"fingerprint"]).to_string(), "keys[2].fingerprint");
        assert_eq!(Path::of(&[&"providers", &"a b"]).to_string(), "providers.\"a b\"");
        let key = "sk-proj-MadeUpMadeUpMadeUp";
        assert_eq!(Path::of(&[&"keys", &key]).to_string(), "keys.(not shown: it looks like an API key)");
    }

    #[test]
    fn misspelt_names_are_found_and_others_are_not_guessed() {
        let known = ["fingerprint", "name", "team", "env", "budget_usd_day"];
        assert_eq!(closest("fingerprnt", &known), Some("fingerprint"));
        assert_eq!(closest("Name", &known), Some("name"));
        assert_eq!(closest("budget-usd-day", &known), Some("budget_usd_day"));
        assert_eq!(closest("colour", &known), None);
    }
}
