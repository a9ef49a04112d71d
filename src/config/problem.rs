//! What is wrong with a configuration: every problem at once, each with its place, and never a key in its text.
//!
//! Values are shown cut at [`SHOWN_CHARS`] and only when they do not look like a credential: people paste keys where
//! fingerprints belong.

use std::fmt;

/// Longest value that a message repeats, in characters; the rest is cut.
const SHOWN_CHARS: usize = 60;

/// Most problems that are listed; the rest is counted. A file of another kind would produce one problem a line.
const LISTED: usize = 50;

/// One thing that is wrong: where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line:column`, `file`, or `environment`.
    pub place: String,
    /// Path, value, what is wrong, what would be right.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Everything that is wrong with one configuration, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The problems.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// One problem that concerns the whole file.
    pub(super) fn of(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { problems: vec![Problem { place: place.into(), text: text.into() }] }
    }
}

/// One line a problem.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().take(LISTED).enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        match self.problems.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more problems"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Beginnings that only API keys have. Taken from the providers' key formats: OpenAI, Anthropic, OpenRouter and others
/// (`sk-`), Google (`AIza`, `AQ.`, `ya29.`), AWS, Groq, xAI, Perplexity, Cerebras, Fireworks, Together, Hugging Face,
/// GitHub, JSON Web Tokens.
const KEY_BEGINNINGS: &[&str] = &[
    "sk-",
    "ek_",
    "AIza",
    "AQ.",
    "ya29.",
    "AKIA",
    "ASIA",
    "ABSK",
    "bedrock-api-key-",
    "gsk_",
    "xai-",
    "pplx-",
    "csk-",
    "fw_",
    "tgp_v1_",
    "hf_",
    "api_org_",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "eyJ",
];

/// The text holds something that is most likely an API key: a key's beginning and 16 or more characters after it, or
/// 24 or more letters and digits in one run.
pub(super) fn is_key(text: &str) -> bool {
    holds_key(text, 16, 24)
}

fn holds_key(text: &str, after_beginning: usize, run: usize) -> bool {
    let separator = |c: char| c.is_whitespace() || "\"',;=(){}:/@?&".contains(c);
    text.split(separator).any(|token| {
        KEY_BEGINNINGS.iter().any(|b| token.strip_prefix(b).is_some_and(|rest| rest.len() >= after_beginning))
            || token.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| {
                part.len() >= run
                    && part.bytes().any(|b| b.is_ascii_digit())
                    && part.bytes().any(|b| b.is_ascii_alphabetic())
            })
    })
}

/// The value as a message may repeat it: quoted, escaped, cut, without credentials. Errs on the side of hiding.
pub(super) fn shown(value: &str) -> String {
    if holds_key(value, 4, 20) {
        return "(not shown: it looks like an API key)".to_owned();
    }
    let without_user = match (value.find("://"), value.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://…{}", &value[..scheme], &value[at..]),
        _ => value.to_owned(),
    };
    let mut text: String = without_user.chars().take(SHOWN_CHARS).collect();
    if text.len() < without_user.len() {
        text.push('…');
    }
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hidden_and_ordinary_values_are_not() {
        for key in [
            "sk-proj-made-up-0123456789",
            "Bearer sk-ant-api03-madeup",
            "\"AIzaMadeUpMadeUpMadeUp0123456789abcdefg\"",
            "0123456789abcdef0123456789abcdef",
            "madeupmadeupmadeupmadeup0123",
            "openai:0123456789abcdef0123456789abcdef",
            "AKIAMADEUPMADEUP0001",
        ] {
            assert_eq!(shown(key), "(not shown: it looks like an API key)", "{key}");
        }
        for plain in [
            "gpt-4o-mini-2024-07-18",
            "claude-3-5-sonnet-20241022",
            "openai:3f9a0c41b2d7",
            "/var/lib/keytally/calls.jsonl",
            "http://otel-collector.monitoring.svc.cluster.local:4318",
            "30 seconds",
            "sk-eu",
        ] {
            assert_eq!(shown(plain), format!("{plain:?}"));
            assert!(!is_key(plain), "{plain}");
        }
    }

    #[test]
    fn long_values_are_cut_and_passwords_in_urls_go() {
        assert_eq!(shown(&"ab ".repeat(100)).chars().count(), SHOWN_CHARS + 3);
        assert_eq!(shown("http://me:pass@host:1"), "\"http://…@host:1\"");
        assert_eq!(shown("a\nb\u{1b}[31m"), "\"a\\nb\\u{1b}[31m\"");
    }

    #[test]
    fn the_list_has_an_end() {
        let problem = Problem { place: "f:1:1".into(), text: "wrong".into() };
        let text = ConfigError { problems: vec![problem; 80] }.to_string();
        assert_eq!(text.lines().count(), LISTED + 1);
        assert!(text.ends_with("and 30 more problems"));
    }
}
