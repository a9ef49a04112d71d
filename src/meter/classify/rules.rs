//! Rules as data: reading, checking and compiling them, and finding the first that matches.
//!
//! In: `outcomes.json` (built in) and [`RuleEntry`]s (the user's, tried first). Out: [`Rules`], immutable, to be shared.
//! How patterns are matched: `patterns.rs`. They cannot backtrack, and their compiled sizes are capped.
//!
//! Words of `outcomes.json`: a rule holds when its `providers`, `not_providers`, `statuses`, `not_statuses` (`429`, `5xx`), `body`,
//! `credential`, `exhausted`, `headers`, `when` and `unless` allow it and one of its `codes` or one of its `messages` is
//! there. `codes` are compared by letters and digits alone (`rate_limit` = `RateLimit`), `*` stands for anything.
//! `messages` are regular expressions over the lower-case text of all messages, one message a line; a space in them also
//! matches `_`, `-` or nothing. `when` names an entry of `conditions`. `types` gives errors inside 2xx answers a status.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use crate::call::{Fault, Finding, KeptHeader, Outcome, Retry};
use crate::meter::RuleEntry;
use crate::meter::unwrap::{Kind, Unwrapped};

use super::patterns::{Candidates, Glob, Patterns, builder, squash};
use super::{Confidence, Ending, Evidence};

/// The built-in rules.
const OUTCOMES: &str = include_str!("../outcomes.json");
/// Most user rules, most patterns in one, longest pattern.
const USER_RULES: usize = 256;
const USER_PATTERNS: usize = 64;
const PATTERN_BYTES: usize = 1024;
/// What is wrong with a user's rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rules[{index}].{field}: {problem}")]
pub struct RuleError {
    /// Which entry, from 0.
    pub index: usize,
    /// Which field of it.
    pub field: &'static str,
    /// What is wrong and what to write.
    pub problem: String,
}

/// Compiled rules, immutable.
pub struct Rules {
    rules: Vec<Rule>,
    endings: HashMap<Ending, Rule>,
    unknown: Rule,
    fixes: HashMap<Arc<str>, String>,
    types: HashMap<String, u16>,
    messages: Patterns,
    /// Codes without `*`, squashed, and the others; both with their index.
    codes: HashMap<String, usize>,
    globs: Vec<(Glob, usize)>,
}

/// Shows the count only: a user's patterns may say more than a log should.
impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

/// One compiled rule.
pub(super) struct Rule {
    pub id: Arc<str>,
    pub outcome: Outcome,
    pub fault: Fault,
    pub retry: Retry,
    pub fix: Arc<str>,
    pub confidence: Confidence,
    pub also: Vec<Outcome>,
    guard: Guard,
    test: Test,
    unless: Test,
    when: Option<Arc<(Vec<Statuses>, Test)>>,
    /// Codes and messages must both hold (the user's rules), not one of them.
    both: bool,
}

#[derive(Default)]
struct Guard {
    providers: Vec<String>,
    not_providers: Vec<String>,
    statuses: Vec<Statuses>,
    not_statuses: Vec<Statuses>,
    kinds: Vec<Kind>,
    credential: Option<bool>,
    exhausted: Option<String>,
    headers: BTreeMap<String, String>,
}

/// Indexes into the pattern sets.
#[derive(Default)]
struct Test {
    codes: Vec<usize>,
    messages: Vec<usize>,
    /// A user's codes: compared whole, case-insensitively.
    exact: Vec<String>,
}

#[derive(Clone, Copy)]
enum Statuses {
    One(u16),
    Hundred(u16),
}

/// One error as the rules see it.
pub(super) struct Scope<'a> {
    evidence: &'a Evidence<'a>,
    status: Option<u16>,
    kind: Kind,
    raw_codes: &'a [String],
    codes: Vec<usize>,
    messages: Candidates<'a>,
}

/// What made a rule hold.
#[derive(Debug, Default)]
pub(super) struct Grounds<'a> {
    /// The status counted.
    pub status: Option<u16>,
    /// The rule is this provider's.
    pub provider: Option<&'a str>,
    /// Codes of the body that it names.
    pub codes: Vec<&'a str>,
    /// Lines of text that its patterns match.
    pub lines: Vec<&'a str>,
    /// Headers that it asks for.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The body is a web page.
    pub page: bool,
    /// The request carried no credential.
    pub no_credential: bool,
}

impl Grounds<'_> {
    /// Nothing but the status, and whose answer it is.
    pub(super) fn is_status_only(&self) -> bool {
        self.codes.is_empty() && self.lines.is_empty() && self.headers.is_empty() && !self.page && !self.no_credential
    }
}

// === the file ===

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "about")]
    _about: String,
    outcomes: BTreeMap<Outcome, OutcomeEntry>,
    fixes: BTreeMap<String, String>,
    findings: BTreeMap<Finding, String>,
    endings: BTreeMap<String, RuleFile>,
    types: BTreeMap<String, u16>,
    conditions: BTreeMap<String, Condition>,
    rules: Vec<RuleFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutcomeEntry {
    fault: Fault,
    retry: Retry,
    fix: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Condition {
    statuses: Vec<String>,
    codes: Vec<String>,
    messages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    id: String,
    outcome: Outcome,
    #[serde(default)]
    providers: Vec<String>,
    #[serde(default)]
    not_providers: Vec<String>,
    #[serde(default)]
    statuses: Vec<String>,
    #[serde(default)]
    not_statuses: Vec<String>,
    #[serde(default)]
    body: Vec<String>,
    credential: Option<bool>,
    exhausted: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    when: Option<String>,
    #[serde(default)]
    codes: Vec<String>,
    #[serde(default)]
    messages: Vec<String>,
    #[serde(default)]
    unless: Vec<String>,
    #[serde(default)]
    unless_codes: Vec<String>,
    fault: Option<Fault>,
    retry: Option<Retry>,
    fix: Option<String>,
    confidence: Option<String>,
    #[serde(default)]
    also: Vec<Outcome>,
}

// === impl Rules ===

impl Rules {
    /// The built-in rules alone.
    pub fn embedded() -> Self {
        Self::build(&[]).expect("outcomes.json is checked by tests")
    }

    /// The user's rules, then the built-in ones.
    ///
    /// # Errors
    /// Everything that is wrong with `user`, all at once.
    pub fn build(user: &[RuleEntry]) -> Result<Self, Vec<RuleError>> {
        let file: File = serde_json::from_str(OUTCOMES).expect("outcomes.json is checked by tests");
        let mut builder = Builder {
            outcomes: &file.outcomes,
            conditions: HashMap::new(),
            fixes: HashMap::new(),
            messages: Patterns::default(),
            codes: HashMap::new(),
        };
        for (id, entry) in &file.outcomes {
            builder.fixes.insert(id.as_str().into(), entry.fix.clone());
        }
        for (id, text) in &file.fixes {
            builder.fixes.insert(id.as_str().into(), text.clone());
        }
        for (finding, text) in &file.findings {
            builder.fixes.insert(finding.as_str().into(), text.clone());
        }
        let mut rules = builder.user(user)?;
        for (name, condition) in &file.conditions {
            let test = builder.test(&condition.codes, &condition.messages);
            builder.conditions.insert(name.clone(), Arc::new((statuses(&condition.statuses), test)));
        }
        rules.extend(file.rules.iter().map(|rule| builder.rule(&rule.id, rule)));
        let endings = Ending::all()
            .map(|ending| {
                let id = ending.id();
                let entry = file.endings.get(&id).expect("outcomes.json is checked by tests");
                (ending, builder.rule(&id, entry))
            })
            .collect();
        let unknown = builder.plain_rule("unknown", Outcome::UnknownError);
        builder.messages.finish();
        Ok(Self {
            rules,
            endings,
            unknown,
            types: file.types.iter().map(|(name, status)| (squash(name), *status)).collect(),
            messages: builder.messages,
            globs: builder
                .codes
                .iter()
                .filter(|(code, _)| code.contains('*'))
                .map(|(code, at)| (Glob::new(code), *at))
                .collect(),
            codes: builder
                .codes
                .iter()
                .filter(|(code, _)| !code.contains('*'))
                .map(|(code, at)| (code.clone(), *at))
                .collect(),
            fixes: builder.fixes,
        })
    }

    /// Text of a first fix. Every outcome's and every finding's own name is an id, too.
    pub fn fix(&self, id: &str) -> Option<&str> {
        self.fixes.get(id).map(String::as_str)
    }

    pub(super) fn unknown(&self) -> &Rule {
        &self.unknown
    }

    pub(super) fn ending(&self, ending: Ending) -> &Rule {
        self.endings.get(&ending).unwrap_or(&self.unknown)
    }

    pub(super) fn scope<'a>(&'a self, evidence: &'a Evidence<'a>, body: &'a Unwrapped) -> Scope<'a> {
        let squashed: Vec<String> = body.codes.iter().map(|code| squash(code)).collect();
        let mut codes = Vec::new();
        for code in &squashed {
            codes.extend(self.codes.get(code));
            codes.extend(self.globs.iter().filter(|(glob, _)| glob.matches(code)).map(|(_, at)| at));
        }
        // Only an error inside a 2xx answer needs a status of its own: a named one, else the one its type stands for.
        let http = evidence.status.filter(|status| *status >= 400);
        let named = || body.status.or_else(|| squashed.iter().find_map(|code| self.types.get(code).copied()));
        Scope {
            evidence,
            status: http.or_else(named).or(evidence.status.filter(|_| body.kind == Kind::Html)),
            kind: body.kind,
            raw_codes: &body.codes,
            codes,
            messages: self.messages.candidates(&body.text),
        }
    }

    pub(super) fn first_match(&self, scope: &Scope) -> &Rule {
        self.rules.iter().find(|rule| rule.holds(scope)).unwrap_or(&self.unknown)
    }

    /// Every rule that holds, in order of precedence: the first one decides.
    pub(super) fn matches<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(|rule| rule.holds(scope))
    }

    /// What of `scope` makes `rule` hold. Codes and header values are as they came, lines in lower case: show none of
    /// them unless what `scope` was made from is redacted.
    pub(super) fn grounds<'a>(&self, rule: &'a Rule, scope: &'a Scope) -> Grounds<'a> {
        let tests = || std::iter::once(&rule.test).chain(rule.when.as_deref().map(|(_, test)| test));
        let hits = |code: &str| {
            let squashed = squash(code);
            let named = self.codes.get(&squashed).copied();
            tests().any(|test| {
                named.is_some_and(|index| test.codes.contains(&index))
                    || self.globs.iter().any(|(glob, at)| test.codes.contains(at) && glob.matches(&squashed))
                    || test.exact.iter().any(|exact| exact.eq_ignore_ascii_case(code))
            })
        };
        let mut lines: Vec<&str> =
            tests().flat_map(|test| &test.messages).filter_map(|index| scope.messages.line(*index)).collect();
        lines.dedup();
        let guard = &rule.guard;
        let left_over = |name: &str| guard.exhausted.as_deref().is_some_and(|word| name.contains(word));
        let headers = scope.evidence.headers.iter().filter(|(name, value)| {
            guard.headers.contains_key(&**name)
                || (left_over(name)
                    && exhausted(&[(name.clone(), value.clone())], guard.exhausted.as_deref().unwrap_or("")))
        });
        let by_status =
            rule.when.as_deref().is_some_and(|(statuses, _)| statuses.iter().any(|s| s.has(scope.status, false)));
        Grounds {
            status: scope.status.filter(|_| by_status || !guard.statuses.is_empty()),
            provider: (!guard.providers.is_empty()).then_some(scope.evidence.provider),
            codes: scope.raw_codes.iter().filter(|code| hits(code)).map(String::as_str).collect(),
            lines,
            headers: headers.map(|(name, value)| (&**name, &**value)).collect(),
            page: !guard.kinds.is_empty() && scope.kind == Kind::Html,
            no_credential: guard.credential == Some(false),
        }
    }

    #[cfg(test)]
    pub(super) fn fixes_missing(&self) -> Vec<String> {
        let all = self.rules.iter().chain(self.endings.values());
        all.filter(|rule| self.fix(&rule.fix).is_none()).map(|rule| rule.id.to_string()).collect()
    }

    #[cfg(test)]
    pub(super) fn broken_patterns(&self) -> Vec<&str> {
        self.messages.broken()
    }

    #[cfg(test)]
    pub(super) fn ids(&self) -> Vec<&str> {
        self.rules.iter().map(|rule| &*rule.id).collect()
    }
}

// === impl Rule ===

impl Rule {
    fn holds(&self, scope: &Scope) -> bool {
        self.guard.allows(scope, !self.by_status_only())
            && self.when.as_deref().is_none_or(|(statuses, test)| {
                statuses.iter().any(|s| s.has(scope.status, false)) || test.code(scope) || test.message(scope)
            })
            && match (self.test.has_codes(), self.test.has_messages()) {
                (false, false) => true,
                (true, true) if self.both => self.test.code(scope) && self.test.message(scope),
                _ => self.test.code(scope) || self.test.message(scope),
            }
            && !self.unless.code(scope)
            && !self.unless.message(scope)
    }

    /// No word of the error was looked at.
    pub(super) fn by_status_only(&self) -> bool {
        !self.test.has_codes() && !self.test.has_messages() && self.when.is_none()
    }
}

impl Guard {
    /// `words`: the rule looks at codes or messages, too.
    fn allows(&self, scope: &Scope, words: bool) -> bool {
        let provider = scope.evidence.provider;
        (self.providers.is_empty() || self.providers.iter().any(|p| p == provider))
            && !self.not_providers.iter().any(|p| p == provider)
            && (self.statuses.is_empty() || self.statuses.iter().any(|s| s.has(scope.status, words)))
            && !self.not_statuses.iter().any(|s| s.has(scope.status, false))
            && (self.kinds.is_empty() || self.kinds.contains(&scope.kind))
            && self.credential.is_none_or(|credential| credential == scope.evidence.credential_present)
            && self.exhausted.as_deref().is_none_or(|word| exhausted(scope.evidence.headers, word))
            && self.headers.iter().all(|(name, part)| {
                scope.evidence.headers.iter().any(|(known, value)| **known == **name && value.contains(part.as_str()))
            })
    }
}

impl Test {
    fn has_codes(&self) -> bool {
        !self.codes.is_empty() || !self.exact.is_empty()
    }

    fn has_messages(&self) -> bool {
        !self.messages.is_empty()
    }

    fn code(&self, scope: &Scope) -> bool {
        self.codes.iter().any(|index| scope.codes.contains(index))
            || self.exact.iter().any(|exact| scope.raw_codes.iter().any(|code| code.eq_ignore_ascii_case(exact)))
    }

    fn message(&self, scope: &Scope) -> bool {
        self.messages.iter().any(|index| scope.messages.matched(*index))
    }
}

impl Statuses {
    /// An error inside a 2xx answer that names no status may be of any hundred, where words decide.
    fn has(self, status: Option<u16>, words: bool) -> bool {
        match (self, status) {
            (Self::One(one), Some(status)) => one == status,
            (Self::Hundred(hundred), Some(status)) => status / 100 == hundred,
            (Self::One(_), None) => false,
            (Self::Hundred(_), None) => words,
        }
    }
}

/// A `…remaining…` header that names `word` is zero.
fn exhausted(headers: &[KeptHeader], word: &str) -> bool {
    headers.iter().any(|(name, value)| {
        name.contains("remaining") && name.contains(word) && value.trim().parse::<f64>().is_ok_and(|left| left == 0.0)
    })
}

fn statuses(list: &[String]) -> Vec<Statuses> {
    list.iter()
        .filter_map(|text| match text.strip_suffix("xx") {
            Some(hundred) => hundred.parse().ok().map(Statuses::Hundred),
            None => text.parse().ok().map(Statuses::One),
        })
        .collect()
}

// === building ===

struct Builder<'a> {
    outcomes: &'a BTreeMap<Outcome, OutcomeEntry>,
    conditions: HashMap<String, Arc<(Vec<Statuses>, Test)>>,
    fixes: HashMap<Arc<str>, String>,
    messages: Patterns,
    codes: HashMap<String, usize>,
}

impl Builder<'_> {
    fn test(&mut self, codes: &[String], messages: &[String]) -> Test {
        // Bytes are enough, and make smaller automata, where a pattern is ASCII.
        let message = |text: &String| {
            let text = text.replace(' ', "[ _-]?");
            if text.is_ascii() { text } else { format!("(?u:{text})") }
        };
        let mut code = |text: &String| {
            let text = text.split('*').map(squash).collect::<Vec<_>>().join("*");
            let next = self.codes.len();
            *self.codes.entry(text).or_insert(next)
        };
        Test {
            codes: codes.iter().map(&mut code).collect(),
            messages: messages.iter().map(|text| self.messages.add(message(text))).collect(),
            exact: Vec::new(),
        }
    }

    fn plain_rule(&self, id: &str, outcome: Outcome) -> Rule {
        let usual = self.outcomes.get(&outcome).expect("outcomes.json is checked by tests");
        Rule {
            id: id.into(),
            outcome,
            fault: usual.fault,
            retry: usual.retry,
            fix: outcome.as_str().into(),
            confidence: Confidence::Low,
            also: Vec::new(),
            guard: Guard::default(),
            test: Test::default(),
            unless: Test::default(),
            when: None,
            both: false,
        }
    }

    fn rule(&mut self, id: &str, entry: &RuleFile) -> Rule {
        let mut rule = self.plain_rule(id, entry.outcome);
        rule.guard = Guard {
            providers: entry.providers.clone(),
            not_providers: entry.not_providers.clone(),
            statuses: statuses(&entry.statuses),
            not_statuses: statuses(&entry.not_statuses),
            kinds: entry.body.iter().map(|name| kind(name)).collect(),
            credential: entry.credential,
            exhausted: entry.exhausted.clone(),
            headers: entry.headers.clone(),
        };
        rule.test = self.test(&entry.codes, &entry.messages);
        rule.unless = self.test(&entry.unless_codes, &entry.unless);
        rule.when = entry.when.as_ref().map(|name| self.conditions.get(name).expect("checked by tests").clone());
        rule.fault = entry.fault.unwrap_or(rule.fault);
        rule.retry = entry.retry.unwrap_or(rule.retry);
        rule.fix = entry.fix.as_deref().map_or(rule.fix, Arc::from);
        rule.also = entry.also.clone();
        rule.confidence = match entry.confidence.as_deref() {
            Some("low") => Confidence::Low,
            Some("medium") => Confidence::Medium,
            Some(_) => Confidence::High,
            None if rule.by_status_only() => Confidence::Low,
            None => Confidence::High,
        };
        rule
    }

    fn user(&mut self, entries: &[RuleEntry]) -> Result<Vec<Rule>, Vec<RuleError>> {
        let mut errors = Vec::new();
        let mut rules: Vec<Rule> = Vec::new();
        if entries.len() > USER_RULES {
            let problem = format!("{} rules; write at most {USER_RULES}", entries.len());
            return Err(vec![RuleError { index: USER_RULES, field: "id", problem }]);
        }
        for (index, entry) in entries.iter().enumerate() {
            let mut wrong = |field, problem: String| errors.push(RuleError { index, field, problem });
            if entry.id.trim().is_empty() || entry.id.len() > 64 {
                wrong("id", format!("\"{}\": write a name of 1 to 64 bytes", short(&entry.id)));
            } else if rules.iter().any(|rule| *rule.id == *entry.id) {
                wrong("id", format!("\"{}\": used twice; names are unique", entry.id));
            }
            if entry.statuses.is_empty() && entry.codes.is_empty() && entry.messages.is_empty() {
                wrong("statuses", "no condition; give at least one of statuses, codes, messages".into());
            }
            for status in entry.statuses.iter().filter(|status| !(400..=599).contains(*status)) {
                wrong("statuses", format!("{status}: not an error status; write 400 to 599"));
            }
            if entry.codes.len() > USER_PATTERNS {
                wrong("codes", format!("{} codes; write at most {USER_PATTERNS}", entry.codes.len()));
            }
            if entry.codes.iter().any(|code| code.trim().is_empty()) {
                wrong("codes", "\"\": empty; write a code as the provider sends it".into());
            }
            if entry.messages.len() > USER_PATTERNS {
                wrong("messages", format!("{} patterns; write at most {USER_PATTERNS}", entry.messages.len()));
                continue;
            }
            let mut test = Test { exact: entry.codes.clone(), ..Test::default() };
            for text in &entry.messages {
                match checked(text) {
                    Ok(pattern) => test.messages.push(self.messages.add(pattern)),
                    Err(problem) => wrong("messages", format!("\"{}\": {problem}", short(text))),
                }
            }
            if entry.first_fix.as_ref().is_some_and(|fix| fix.trim().is_empty() || fix.len() > 512) {
                wrong("first_fix", "write 1 to 512 bytes, or leave it out".into());
            }
            let mut rule = self.plain_rule(&entry.id, entry.outcome);
            rule.guard.providers = entry.providers.clone();
            rule.guard.statuses = entry.statuses.iter().map(|status| Statuses::One(*status)).collect();
            rule.test = test;
            rule.both = true;
            rule.fault = entry.fault.unwrap_or(rule.fault);
            rule.retry = entry.retry.unwrap_or(rule.retry);
            rule.confidence = Confidence::High;
            if let Some(fix) = &entry.first_fix {
                rule.fix = format!("rule:{}", entry.id).into();
                self.fixes.insert(rule.fix.clone(), fix.clone());
            }
            rules.push(rule);
        }
        if errors.is_empty() { Ok(rules) } else { Err(errors) }
    }
}

fn kind(name: &str) -> Kind {
    match name {
        "html" => Kind::Html,
        "text" => Kind::Text,
        "empty" => Kind::Empty,
        _ => Kind::Structured,
    }
}

/// A user's pattern, compiled alone first so that one bad or huge pattern is named.
fn checked(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > PATTERN_BYTES {
        return Err(format!("{} bytes; write 1 to {PATTERN_BYTES}", text.len()));
    }
    match builder(text).case_insensitive(true).unicode(true).build() {
        Ok(regex) if regex.is_match(b"") => Err("matches every text; write something that must be there".into()),
        Ok(_) => Ok(format!("(?iu:{text})")),
        Err(regex::Error::CompiledTooBig(limit)) => {
            Err(format!("larger than {limit} bytes when compiled; write a shorter one"))
        }
        Err(error) => Err(error.to_string().lines().last().unwrap_or("not a regular expression").trim().to_string()),
    }
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}
