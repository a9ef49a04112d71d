//! Many message patterns and code patterns, matched at little cost.
//!
//! Each message pattern is a regular expression over bytes. Literals that a match must contain are taken from it when it
//! is added; one Aho-Corasick pass over a text then tells which patterns can match at all. Only those that a rule really
//! asks for are compiled, on first use, and run. (One `RegexSet` of all would be simpler, but its lazy DFA outgrows any
//! sensible cache with 500 patterns: measured 1.5 ms an error at 4 MiB.) Codes are compared without regular expressions.

use std::collections::HashMap;
use std::sync::OnceLock;

use aho_corasick::AhoCorasick;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind};

/// Compiled size of one pattern, bytes.
const PATTERN_SIZE: usize = 256 * 1024;
/// Lazy DFA cache of one pattern, bytes.
const DFA_SIZE: usize = 128 * 1024;
/// Shortest literal worth a search, bytes, and most of them for one pattern.
const LITERAL_BYTES: usize = 3;
const LITERALS: usize = 64;

/// Message patterns, each known by its index.
#[derive(Default)]
pub(super) struct Patterns {
    list: Vec<Pattern>,
    known: HashMap<String, usize>,
    literals: Vec<Vec<u8>>,
    /// Patterns of each literal.
    owners: Vec<Vec<usize>>,
    search: Option<AhoCorasick>,
}

struct Pattern {
    source: String,
    /// No literal is certain: it may match any text.
    always: bool,
    compiled: OnceLock<Option<Regex>>,
}

/// Which patterns can match one text.
pub(super) struct Candidates<'a> {
    patterns: &'a Patterns,
    text: &'a str,
    possible: Vec<bool>,
}

/// A code pattern: letters and digits in lower case, `*` for anything.
pub(super) struct Glob {
    parts: Vec<String>,
}

// === impl Patterns ===

impl Patterns {
    /// Adds a pattern that is known to be valid; the same one has the same index.
    pub(super) fn add(&mut self, source: String) -> usize {
        if let Some(index) = self.known.get(&source) {
            return *index;
        }
        let index = self.list.len();
        let literals = literals(&source);
        for literal in literals.iter().flatten() {
            let at = self.literals.iter().position(|known| known == literal).unwrap_or_else(|| {
                self.literals.push(literal.clone());
                self.owners.push(Vec::new());
                self.literals.len() - 1
            });
            self.owners[at].push(index);
        }
        self.known.insert(source.clone(), index);
        self.list.push(Pattern { source, always: literals.is_none(), compiled: OnceLock::new() });
        index
    }

    /// To be called once, after the last [`Patterns::add`].
    pub(super) fn finish(&mut self) {
        self.known = HashMap::new();
        self.search = AhoCorasick::new(&self.literals).ok();
    }

    pub(super) fn candidates<'a>(&'a self, text: &'a str) -> Candidates<'a> {
        let mut possible: Vec<bool> = self.list.iter().map(|pattern| pattern.always || self.search.is_none()).collect();
        for found in self.search.iter().flat_map(|search| search.find_overlapping_iter(text)) {
            for index in &self.owners[found.pattern().as_usize()] {
                possible[*index] = true;
            }
        }
        Candidates { patterns: self, text, possible }
    }

    /// Sources that do not compile.
    #[cfg(test)]
    pub(super) fn broken(&self) -> Vec<&str> {
        self.list.iter().filter(|pattern| pattern.regex().is_none()).map(|pattern| pattern.source.as_str()).collect()
    }
}

impl Pattern {
    fn regex(&self) -> Option<&Regex> {
        self.compiled.get_or_init(|| builder(&self.source).build().ok()).as_ref()
    }
}

impl Candidates<'_> {
    pub(super) fn matched(&self, index: usize) -> bool {
        self.possible[index]
            && self.patterns.list[index].regex().is_some_and(|regex| regex.is_match(self.text.as_bytes()))
    }

    /// The line of the text in which a pattern's first match begins.
    pub(super) fn line(&self, index: usize) -> Option<&str> {
        let regex = self.patterns.list[index].regex().filter(|_| self.possible[index])?;
        let at = regex.find(self.text.as_bytes())?.start();
        // A pattern of bytes may match from the middle of a character.
        let at = self.text.floor_char_boundary(at);
        let start = self.text[..at].rfind('\n').map_or(0, |end| end + 1);
        self.text[start..].lines().next()
    }
}

/// How every pattern is compiled.
pub(super) fn builder(source: &str) -> RegexBuilder {
    let mut builder = RegexBuilder::new(source);
    builder.unicode(false).size_limit(PATTERN_SIZE).dfa_size_limit(DFA_SIZE);
    builder
}

/// Literals of which at least one is in every match; `None` when there are none that are long enough.
fn literals(source: &str) -> Option<Vec<Vec<u8>>> {
    let hir = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(source).ok()?;
    required(&hir)
}

fn required(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let shortest = |set: &Vec<Vec<u8>>| set.iter().map(Vec::len).min().unwrap_or(0);
    match hir.kind() {
        HirKind::Literal(literal) if literal.0.len() >= LITERAL_BYTES => Some(vec![literal.0.to_vec()]),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Concat(parts) => {
            parts.iter().filter_map(required).max_by_key(|set| (shortest(set), usize::MAX - set.len()))
        }
        HirKind::Alternation(branches) => {
            let sets = branches.iter().map(required).collect::<Option<Vec<_>>>()?;
            let all: Vec<_> = sets.into_iter().flatten().collect();
            (all.len() <= LITERALS).then_some(all)
        }
        _ => None,
    }
}

// === impl Glob ===

impl Glob {
    pub(super) fn new(pattern: &str) -> Self {
        Self { parts: pattern.split('*').map(squash).collect() }
    }

    /// `code` is squashed.
    pub(super) fn matches(&self, code: &str) -> bool {
        let (Some(first), Some(last)) = (self.parts.first(), self.parts.last()) else { return false };
        if self.parts.len() == 1 {
            return code == first;
        }
        let Some(mut rest) = code.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
            return false;
        };
        self.parts[1..self.parts.len() - 1].iter().all(|part| match rest.find(part.as_str()) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
    }
}

/// Letters and digits, lower case: `RATE_LIMIT`, `rateLimit` and `rate-limit` are one code.
pub(super) fn squash(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, code, expected) in [
            ("rate_limit*", "RateLimitExceeded", true),
            ("*_rate_limit*", "rpm_rate_limit_exceeded", true),
            ("Throttling.RateQuota", "throttling-ratequota", true),
            ("*capacity_exceeded*", "flex_capacity_exceeded", true),
            ("rate_limit*", "a_rate_limit", false),
            ("ab*ba", "aba", false),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "axc", false),
            ("1113", "11130", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(&squash(code)), expected, "{pattern} {code}");
        }
    }

    #[test]
    fn literals_never_hide_a_match() {
        for (pattern, text) in [
            ("rate[ _-]?limit", "the ratelimit"),
            ("(not|un)supported (country|region)", "unsupported region"),
            ("(tokens?|requests?) per", "token per"),
            (r"\brp[ms]\b", "3 rpm"),
            ("(?u:欠费|余额(不足|为))", "您的余额不足"),
            ("(ab|xyzw)+ q", "ab q"),
            ("(model )?gone", "gone"),
        ] {
            let mut patterns = Patterns::default();
            let index = patterns.add(pattern.into());
            patterns.add("never there".into());
            patterns.finish();
            assert!(patterns.candidates(text).matched(index), "{pattern} in {text}");
            assert!(!patterns.candidates("").matched(index), "{pattern}");
        }
    }
}
