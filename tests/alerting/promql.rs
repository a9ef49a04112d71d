//! As much of PromQL as it takes to list what an expression names: metrics, labels, and the values that it matches them with.
//! Whether it is valid is promtool's business.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// A label matcher of a selector.
#[derive(Clone, Debug, PartialEq)]
pub struct Matcher {
    /// Label name.
    pub label: String,
    /// `=`, `!=`, `=~` or `!~`.
    pub op: String,
    /// Value or pattern.
    pub value: String,
}

/// What an expression names.
#[derive(Debug, Default)]
pub struct Named {
    /// Metrics with their matchers, one entry a selector.
    pub selectors: Vec<(String, Vec<Matcher>)>,
    /// Labels in `by`, `on` and so on.
    pub labels: BTreeSet<String>,
}

const WORDS: &[&str] =
    &["and", "or", "unless", "bool", "offset", "atan2", "start", "end", "inf", "nan", "true", "false"];
const LABEL_LISTS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Reads one expression. Strings, numbers and durations are skipped, functions are those with an opening parenthesis.
pub fn named(expression: &str) -> Named {
    let text: Vec<char> = expression.chars().collect();
    let mut named = Named::default();
    let mut at = 0;
    while at < text.len() {
        let c = text[at];
        if c == '"' || c == '\'' || c == '`' {
            at = string(&text, at).1;
        } else if c == '[' {
            // A range: durations only.
            while at < text.len() && text[at] != ']' {
                at += 1;
            }
        } else if c.is_ascii_digit() {
            while at < text.len() && (text[at].is_ascii_alphanumeric() || text[at] == '.') {
                at += 1;
            }
        } else if c.is_ascii_alphabetic() || c == '_' || c == ':' || c == '$' {
            let start = at;
            while at < text.len() && (text[at].is_ascii_alphanumeric() || matches!(text[at], '_' | ':' | '$')) {
                at += 1;
            }
            let word: String = text[start..at].iter().collect();
            let next = text[at..].iter().position(|c| !c.is_whitespace()).map(|skip| at + skip);
            let following = next.map(|next| text[next]);
            if LABEL_LISTS.contains(&word.as_str()) {
                if let Some(open) = next.filter(|_| following == Some('(')) {
                    let close = text[open..].iter().position(|c| *c == ')').map_or(text.len(), |skip| open + skip);
                    let list: String = text[open + 1..close].iter().collect();
                    named
                        .labels
                        .extend(list.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()));
                    at = close;
                }
            } else if following == Some('(') || WORDS.contains(&word.to_ascii_lowercase().as_str()) {
                // A function, an aggregation or an operator. An aggregation may have its labels first: `sum by (…) (…)`.
            } else if following == Some('{') {
                let (matchers, end) = matchers(&text, next.unwrap_or(at));
                named.selectors.push((word, matchers));
                at = end;
            } else if !["sum", "max", "min", "avg", "count", "group", "topk", "bottomk", "quantile"]
                .contains(&word.as_str())
            {
                named.selectors.push((word, Vec::new()));
            }
        } else if c == '{' {
            let (matchers, end) = matchers(&text, at);
            named.selectors.push((String::new(), matchers));
            at = end;
        } else {
            at += 1;
        }
    }
    named
}

/// A quoted text and the place after it.
fn string(text: &[char], start: usize) -> (String, usize) {
    let quote = text[start];
    let mut value = String::new();
    let mut at = start + 1;
    while at < text.len() && text[at] != quote {
        if text[at] == '\\' && quote != '`' {
            value.push('\\');
            at += 1;
        }
        value.extend(text.get(at));
        at += 1;
    }
    (value.replace("\\\\", "\\"), at + 1)
}

fn matchers(text: &[char], open: usize) -> (Vec<Matcher>, usize) {
    let mut found = Vec::new();
    let mut at = open + 1;
    let mut head = String::new();
    while at < text.len() && text[at] != '}' {
        if matches!(text[at], '"' | '\'' | '`') {
            let (value, end) = string(text, at);
            let split = head.find(['=', '!']).unwrap_or(head.len());
            let label = head[..split].trim_matches([',', ' ', '\n']).to_owned();
            found.push(Matcher { label, op: head[split..].trim().to_owned(), value });
            head.clear();
            at = end;
        } else {
            head.push(text[at]);
            at += 1;
        }
    }
    (found, at + 1)
}

/// A program of the system.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

#[test]
fn an_expression_is_read() {
    let read = named(
        "sum by (key, provider) (increase(a_total{x=\"1\", y=~\"b|c\"}[1h] offset 1d)) > 0.5 * on (z) group_left () b:c:d{q!=\"\"} \
         unless label_replace(e, \"l\", \"$1\", \"\", \"\") and topk(3, f)",
    );
    let names: Vec<&str> = read.selectors.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a_total", "b:c:d", "e", "f"]);
    assert_eq!(read.selectors[0].1[1], Matcher { label: "y".into(), op: "=~".into(), value: "b|c".into() });
    assert_eq!(read.labels.iter().map(String::as_str).collect::<Vec<_>>(), ["key", "provider", "z"]);
}
