//! Why a verdict is what it is: the rule, what it found, and what else the same answer could mean.
//!
//! In: [`Evidence`], as for [`Rules::classify`], whose verdict this is: there is one mechanism. Out: [`Explained`], fit to be
//! shown: every text in it is taken from a redacted copy of the body, never from the body. At most [`REASONS`] reasons
//! and [`ALTERNATIVES`] alternatives. For people who paste an error; calls do not come here.

use std::sync::Arc;

use serde_json::Value;

use crate::call::{GeneratedError, Outcome};
use crate::meter::redact::redact;

use super::rules::{Grounds, Rule, Rules};
use super::{Ending, Evidence, Read, Verdict, read, shown};

/// Most reasons of one rule.
const REASONS: usize = 6;
/// Most further meanings.
const ALTERNATIVES: usize = 4;
/// Longest piece of a provider's text that is shown, characters.
const LINE_CHARS: usize = 200;

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// What [`Rules::classify`] says.
    pub verdict: Verdict,
    /// What made the rule hold, the most telling first. Never empty.
    pub reasons: Vec<Reason>,
    /// What else it could be, the likeliest first.
    pub alternatives: Vec<Alternative>,
    /// What the provider says, redacted, in lower case, cut.
    pub said: Option<String>,
}

/// One thing that a rule found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// `code`, `text`, `header`, `status`, `provider`, `body`, `request` or `ending`.
    pub kind: &'static str,
    /// What was found, redacted.
    pub found: String,
}

/// Another meaning of the same answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// What it would be.
    pub outcome: Outcome,
    /// Id of its first fix.
    pub first_fix: Arc<str>,
    /// The rule that holds as well, with a lower precedence; `None` when the deciding rule itself names this meaning.
    pub rule: Option<Arc<str>>,
}

impl Rules {
    /// As [`Rules::classify`], and why.
    pub fn explain(&self, evidence: &Evidence) -> Explained {
        let verdict = self.classify(evidence);
        let body = match read(evidence) {
            Read::Ending(ending) => {
                let reasons = vec![Reason { kind: "ending", found: told(ending).to_owned() }];
                let alternatives = self.named(&verdict);
                return Explained { verdict, reasons, alternatives, said: None };
            }
            Read::Error(body) => body,
        };
        let scope = self.scope(evidence, &body);
        let mut holding = self.matches(&scope);
        let rule = holding.next().unwrap_or(self.unknown());

        let mut alternatives = self.named(&verdict);
        let told_by_words = !self.grounds(rule, &scope).is_status_only();
        for other in holding {
            // A status that any error of its kind has says nothing beside words that were understood.
            let is_weaker = told_by_words && self.grounds(other, &scope).is_status_only();
            let is_known = other.outcome == verdict.outcome || alternatives.iter().any(|a| a.outcome == other.outcome);
            if !is_weaker && !is_known {
                let (outcome, first_fix) = (other.outcome, other.fix.clone());
                alternatives.push(Alternative { outcome, first_fix, rule: Some(other.id.clone()) });
            }
        }
        alternatives.truncate(ALTERNATIVES);

        let grounds = self.grounds(rule, &scope);
        let safe_bytes = evidence.error_body.map(redacted);
        let safe_evidence = Evidence { error_body: safe_bytes.as_deref(), ..*evidence };
        let safe_body = match read(&safe_evidence) {
            Read::Error(body) => body,
            Read::Ending(_) => Default::default(),
        };
        let safe_scope = self.scope(&safe_evidence, &safe_body);
        let reasons = reasons(rule, &grounds, &self.grounds(rule, &safe_scope));
        let said = safe_body.text.lines().max_by_key(|line| line.len()).map(cut).filter(|line| !line.is_empty());
        Explained { verdict, reasons, alternatives, said }
    }

    /// Text of the first fix when no answer came.
    pub fn generated_fix(&self, why: GeneratedError) -> &str {
        self.fix(&self.ending(Ending::Generated(why)).fix).unwrap_or_default()
    }

    /// Meanings that the deciding rule names itself.
    fn named(&self, verdict: &Verdict) -> Vec<Alternative> {
        let of =
            |outcome: &Outcome| Alternative { outcome: *outcome, first_fix: Arc::from(outcome.as_str()), rule: None };
        verdict.also_possible.iter().take(ALTERNATIVES).map(of).collect()
    }
}

/// `found` is what there is, `safe` the same of the redacted body: only the latter is shown.
fn reasons(rule: &Rule, found: &Grounds, safe: &Grounds) -> Vec<Reason> {
    let mut all = Vec::new();
    let mut add = |kind, found: String| all.push(Reason { kind, found });
    for code in found.codes.iter().take(3) {
        add("code", shown((*code).to_owned()));
    }
    for line in safe.lines.iter().take(2) {
        add("text", cut(line));
    }
    if !found.lines.is_empty() && safe.lines.is_empty() {
        add("text", "words that stand beside a credential and are not shown".to_owned());
    }
    for (name, value) in found.headers.iter().take(2) {
        add("header", format!("{name}: {}", cut(&redact(value))));
    }
    if found.page {
        add("body", "a web page instead of an API's answer".to_owned());
    }
    if found.no_credential {
        add("request", "it carried no credential".to_owned());
    }
    if let Some(provider) = found.provider {
        add("provider", provider.to_owned());
    }
    if let Some(status) = found.status {
        let alone = if rule.by_status_only() && !found.page && found.headers.is_empty() {
            ", which no words explain"
        } else {
            ""
        };
        add("status", format!("{status}{alone}"));
    }
    if all.is_empty() {
        all.push(Reason { kind: "body", found: "no rule knows its words or its status".to_owned() });
    }
    all.truncate(REASONS);
    all
}

/// The body with every text in it redacted. JSON stays JSON.
fn redacted(body: &[u8]) -> Vec<u8> {
    fn walk(value: &mut Value, level: u8) {
        match value {
            Value::String(text) => *text = redact(text),
            // Deeper than rules look: nothing of it is needed.
            Value::Array(_) | Value::Object(_) if level == 0 => *value = Value::Null,
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, level - 1)),
            Value::Object(map) => map.values_mut().for_each(|item| walk(item, level - 1)),
            _ => {}
        }
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(mut value) => {
            walk(&mut value, 16);
            value.to_string().into_bytes()
        }
        Err(_) => redact(&String::from_utf8_lossy(body)).into_bytes(),
    }
}

fn cut(line: &str) -> String {
    let mut text: String = line.chars().filter(|c| !c.is_control()).take(LINE_CHARS).collect();
    if line.chars().count() > LINE_CHARS {
        text.push('…');
    }
    text
}

fn told(ending: Ending) -> &'static str {
    use GeneratedError as E;
    match ending {
        Ending::Ok => "no error in it",
        Ending::Blocked => "the answer was refused or cut for policy",
        Ending::Cancelled => "the application went away first",
        Ending::Truncated => "the stream ended without its last event",
        Ending::NoAnswer => "no HTTP answer came",
        Ending::SilentError => "an error event that says nothing",
        Ending::Generated(why) => match why {
            E::Dns => "no HTTP answer: the host name was not found",
            E::Connect => "no HTTP answer: no connection",
            E::ConnectTimeout => "no HTTP answer: connecting took too long",
            E::Tls => "no HTTP answer: the TLS handshake failed",
            E::Reset => "no HTTP answer: the connection broke",
            E::ReadTimeout => "no HTTP answer in time",
            E::Proxy => "no HTTP answer: the proxy on the way refused",
            E::BadRequest => "the request is no valid HTTP",
            E::UnknownPrefix => "keytally knows no provider for this path",
            E::Forbidden => "nobody is connected there through keytally",
            E::Overloaded => "keytally is at its connection limit",
            E::Internal => "keytally failed itself",
        },
    }
}
