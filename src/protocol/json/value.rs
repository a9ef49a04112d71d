//! JSON values as the pruner keeps them: few members each, read once, thrown away. Members stand in a list, since
//! looking through a handful of names is cheaper than hashing one.

use compact_str::CompactString;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Number;

/// Up to this many members a repeated name replaces the earlier value; in longer lists both stay and the later one is
/// found. No provider's object is longer.
const REPLACED: usize = 64;

/// A JSON value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// `null`.
    #[default]
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A number as it was written.
    Number(Number),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Members),
}

/// The members of an object, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    list: Vec<(CompactString, Value)>,
    /// A bit for each name, by its length and its ends: most names that are asked for are not there.
    present: u64,
}

/// The bit of [`Members::present`] that stands for this name.
fn bit(name: &str) -> u64 {
    let end = |byte: Option<&u8>| byte.map_or(0, |byte| usize::from(*byte));
    let bytes = name.as_bytes();
    1 << ((bytes.len() + 5 * end(bytes.first()) + 3 * end(bytes.last())) % 64)
}

// === impl Members ===

impl Members {
    /// None yet, with room for some.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { list: Vec::with_capacity(capacity), present: 0 }
    }

    /// No member.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a member, or gives the one of this name another value.
    pub fn insert(&mut self, name: CompactString, value: Value) {
        let known = match self.present & bit(&name) != 0 && self.list.len() <= REPLACED {
            true => self.list.iter_mut().find(|(known, _)| *known == name),
            false => None,
        };
        match known {
            Some((_, old)) => *old = value,
            None => {
                self.present |= bit(&name);
                self.list.push((name, value));
            }
        }
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        if self.present & bit(name) == 0 {
            return None;
        }
        self.list.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.list.iter().map(|(_, value)| value)
    }
}

// === impl Value ===

impl Value {
    /// The member of this name, if this is an object that has it.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.as_object()?.get(name)
    }

    /// `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// An object.
    pub fn is_object(&self) -> bool {
        matches!(self, Value::Object(_))
    }

    /// The members of an object.
    pub fn as_object(&self) -> Option<&Members> {
        match self {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn as_array(&self) -> Option<&Vec<Value>> {
        match self {
            Value::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// `true` or `false`.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Number(number) => number.as_u64(),
            _ => None,
        }
    }

    /// A whole number.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Number(number) => number.as_i64(),
            _ => None,
        }
    }

    /// A number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Number(number) => number.as_f64(),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Value::Number(number.into())
    }
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => Value::Number(number),
            serde_json::Value::String(text) => Value::String(text),
            serde_json::Value::Array(elements) => Value::Array(elements.into_iter().map(Value::from).collect()),
            serde_json::Value::Object(members) => {
                let mut object = Members::with_capacity(members.len());
                members.into_iter().for_each(|(name, value)| object.insert(name.into(), value.into()));
                Value::Object(object)
            }
        }
    }
}

impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> Self {
        serde_json::to_value(value).unwrap_or_default()
    }
}

/// As serde_json's: names in any order.
impl PartialEq<serde_json::Value> for Value {
    fn eq(&self, other: &serde_json::Value) -> bool {
        serde_json::to_value(self).is_ok_and(|value| value == *other)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(number) => number.serialize(serializer),
            Value::String(text) => serializer.serialize_str(text),
            Value::Array(elements) => elements.serialize(serializer),
            Value::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.list.len()))?;
                for (name, value) in &members.list {
                    map.serialize_entry(name.as_str(), value)?;
                }
                map.end()
            }
        }
    }
}
