//! Masks whatever looks like a credential in a short foreign text.
//!
//! In: a text that came from a provider (error code, error type, message). Out: the same text with every key-shaped part
//! replaced by `***`. Providers echo keys: Google prints the whole key in `CONSUMER_SUSPENDED`, OpenAI prints what was
//! sent when it is short. Too much is masked rather than too little: model names with long dates may go too.
//! Linear in the text's length; no state.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

const MASK: &str = "***";
/// Where in a name a key may begin: at most this many places are tried.
const MAX_PARTS: usize = 8;
/// Shorter parts are not tried.
const SHORTEST_KEY: usize = 12;
/// A part of a name with fewer capitals is no key, unless it begins with `sk-`.
const MIN_CAPITALS: usize = 3;
/// Shorter parts of a name are not masked for how they begin.
const SHORTEST_PREFIXED: usize = 20;

/// Prefixes of key families, each followed by anything up to white space or a closing quote or bracket. Shapes: the
/// providers' own key pages (OpenAI, Anthropic, Google, AWS, Groq, xAI, Perplexity, Hugging Face, GitHub …).
static PREFIXED: LazyLock<Regex> = LazyLock::new(|| {
    compiled(concat!(
        r#"(^|[^A-Za-z0-9])("#,
        r#"(?:sk|rk|pk|api|key)-[A-Za-z0-9*_.-][^\s"'`<>,;)\]}]*"#,
        r#"|(?:AIza|ya29\.|github_pat_|bedrock-api-key-|ABSK|eyJ|xai-|gsk_|pplx-|csk-|tgp_v1_|nvapi-|AKIA|ASIA)[^\s"'`<>,;)\]}]*"#,
        r#"|(?:AQ\.|ek_|fw_|hf_|api_org_|r8_|gh[pousr]_|sk_)[A-Za-z0-9*_-]{8}[^\s"'`<>,;)\]}]*"#,
        r#")"#
    ))
});

/// `key=value`, `token: value`, `Bearer value`.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    compiled(
        r#"(?i)((?:api[ _-]?key|key|token|secret|password|credential|signature|authorization)s?["']?\s?[=:]\s?["']?(?:bearer |basic )?|\b(?:bearer|basic)\s+)([^\s"'`<>,;)\]}&]+)"#,
    )
});

static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"));

/// Candidates for keys without a prefix (Mistral 32, Cohere 40, Together 64, Azure 32 or 84 characters).
static RUN: LazyLock<Regex> = LazyLock::new(|| compiled(r"[A-Za-z0-9+/_=.-]{16,}"));

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("built-in pattern, compiled in tests")
}

/// Masks keys, tokens, long random runs and e-mail addresses. What [`printable`] takes out becomes `?`, but for the ends of
/// lines and tabs.
///
/// ```
/// # use keytally::meter::redact;
/// assert_eq!(redact("api_key:AIzaSyMadeUpMadeUpMadeUpMadeUpMadeUp000 has been suspended"), "api_key:*** has been suspended");
/// assert_eq!(redact("organization_usage_limit_exceeded"), "organization_usage_limit_exceeded");
/// ```
pub fn redact(text: &str) -> String {
    let text = text.replace(|c| is_hidden(c) && !matches!(c, '\n' | '\r' | '\t'), "?");
    let text = PREFIXED.replace_all(&text, |found: &Captures| format!("{}{MASK}", &found[1]));
    let text = NAMED.replace_all(&text, |found: &Captures| format!("{}{MASK}", &found[1])).into_owned();
    let text = EMAIL.replace_all(&text, MASK).into_owned();
    let masked = RUN.replace_all(&text, |found: &Captures| match looks_random(&found[0]) {
        true => Cow::Borrowed(MASK),
        false => Cow::Owned(found[0].to_string()),
    });
    masked.into_owned()
}

/// A name or an id as a record may show it: model, request id. Such texts are long and random by nature, so only two things
/// are masked: what has the beginning and the looks of a key, and a part that `is_key` says is the call's own key.
///
/// `None`: nothing to mask.
pub(super) fn redact_name(text: &str, is_key: impl Fn(&str) -> bool) -> Option<String> {
    let boundaries = text.char_indices().filter(|(_, c)| !c.is_ascii_alphanumeric()).map(|(at, c)| at + c.len_utf8());
    let mut parts = std::iter::once(0).chain(boundaries).take(MAX_PARTS).map(|at| &text[at..]);
    if parts.any(|part| part.len() >= SHORTEST_KEY && is_key(part)) {
        return Some(MASK.to_owned());
    }
    // What is masked below has either.
    let has_capitals = || text.bytes().filter(u8::is_ascii_uppercase).count() >= MIN_CAPITALS;
    if text.len() < SHORTEST_PREFIXED || !(has_capitals() || text.contains("sk-")) {
        return None;
    }
    let mut masked = false;
    let shown = PREFIXED.replace_all(text, |found: &Captures| {
        let word = ["api-", "key-", "pk-", "rk-"].iter().any(|word| found[2].starts_with(word));
        // Names have dates and sizes, but no capitals among them; `sk-` begins no name.
        let capitals = found[2].bytes().filter(u8::is_ascii_uppercase).count() >= MIN_CAPITALS;
        let random =
            !word && found[2].len() >= SHORTEST_PREFIXED && (looks_random(&found[2]) || changes(&found[2]) >= 6);
        let random = random && (capitals || found[2].starts_with("sk-"));
        masked |= random;
        if random { format!("{}{MASK}", &found[1]) } else { found[0].to_owned() }
    });
    masked.then(|| shown.into_owned())
}

/// A name without what a terminal, a log viewer or a person could take for something else: control characters (C0, C1, DEL),
/// line separators, marks of direction and characters without width become `?`.
///
/// `None`: there is none of them.
pub(super) fn printable(text: &str) -> Option<String> {
    // Nearly all names are.
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return None;
    }
    text.contains(is_hidden).then(|| text.replace(is_hidden, "?"))
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Words joined by `_`, `-` or capitals have few digits and few changes of case; keys have many of either.
fn looks_random(run: &str) -> bool {
    let digits = run.bytes().filter(u8::is_ascii_digit).count();
    let upper = run.bytes().filter(u8::is_ascii_uppercase).count();
    let lower = run.bytes().filter(u8::is_ascii_lowercase).count();
    let hex = run.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let mixed_case = upper * 10 >= run.len() * 3 && lower * 10 >= run.len() * 3;
    (hex && digits >= 2) || (run.len() >= 20 && digits >= 3) || (run.len() >= 24 && mixed_case)
}

/// How often capitals follow small letters and digits touch letters: keys of few digits have as many as others.
fn changes(run: &str) -> usize {
    let changed = |pair: &&[u8]| {
        let rises = pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase();
        let both = pair[0].is_ascii_alphanumeric() && pair[1].is_ascii_alphanumeric();
        rises || both && pair[0].is_ascii_digit() != pair[1].is_ascii_digit()
    };
    run.as_bytes().windows(2).filter(changed).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_looks_and_lose_keys() {
        let key = "PlainMadeUpKeyWithoutPrefix";
        let shown = |text: &str| redact_name(text, |part| part == key).unwrap_or_else(|| text.to_owned());
        for name in [
            "gpt-4o-mini-2024-07-18",
            "claude-sonnet-4-5-20250929",
            "ft:gpt-4o-mini-2024-07-18:made-up::AbCdEf12",
            "accounts/fireworks/models/llama-v3p1-405b-instruct",
            "my-api-gateway-model-2024-07-18",
            "xai-grok-4-fast-reasoning-0709",
            "req_011CSHoEeqs5C35K2UUqR7Fy",
            "550e8400-e29b-41d4-a716-446655440000",
        ] {
            assert_eq!(shown(name), name);
        }
        assert_eq!(shown(key), MASK);
        assert_eq!(shown(&format!("req-{key}")), MASK);
        assert_eq!(shown("sk-proj-aB3dE5fG7hJ9kL1mN3pQ5"), MASK);
        assert_eq!(shown("req-sk-proj-aB3dE5fG7hJ9kL1mN3pQ5"), "req-***");
        assert_eq!(shown("AKIAMADEUP00000EXAMPLE"), MASK);
        // Found by fuzzing: two digits, and too few capitals.
        assert_eq!(shown("a nvapi-ZBrnTFTpgk5qSHiCVgLmwedxnbd8thpG , b"), "a *** , b");
        assert_eq!(shown("xai-Grok-4-Fast-Reasoning-Preview"), "xai-Grok-4-Fast-Reasoning-Preview");
    }

    #[test]
    fn nothing_that_is_obeyed_or_not_seen_is_left_in_a_name() {
        for name in ["gpt-4o", "", "модель-é 日本", "a b"] {
            assert_eq!(printable(name), None, "{name}");
        }
        let shown = |text: &str| printable(text).expect("it had something");
        assert_eq!(shown("a\x1b[2Jb\r\n\0\x7f"), "a?[2Jb????");
        assert_eq!(shown("a\u{9b}2Jé\u{85}"), "a?2Jé?");
        assert_eq!(redact("a\x1b[2J\u{9b}b\n\tc"), "a?[2J?b\n\tc");
        assert_eq!(shown("a\u{202e}b\u{200b}\u{2028}\u{feff}\u{e0041}"), "a?b????");
    }

    #[test]
    fn every_family_is_masked() {
        let run = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7d";
        for key in [
            format!("sk-proj-{run}T3BlbkFJ{run}"),
            format!("sk-{run}"),
            "sk-short".into(),
            "sk-proj-****MxYA".into(),
            format!("sk-ant-api03-{run}AA"),
            format!("sk-ant-oat01-{run}"),
            format!("sk-or-v1-{}", "0a1b".repeat(16)),
            format!("ek_{run}"),
            format!("AIza{}", &run[..35]),
            format!("AQ.{run}"),
            format!("ya29.{run}"),
            format!("gsk_{run}"),
            format!("xai-{run}"),
            format!("pplx-{run}"),
            format!("csk-{run}"),
            format!("fw_{run}"),
            format!("tgp_v1_{run}"),
            format!("hf_{run}"),
            format!("api_org_{run}"),
            format!("ghp_{run}"),
            format!("github_pat_{run}"),
            "AKIAMADEUPMADEUP0000".into(),
            format!("ABSK{run}=="),
            format!("bedrock-api-key-{run}"),
            format!("eyJhbGciOiJIUzI1NiJ9.{run}.{run}"),
            "0123456789abcdef0123456789abcdef".into(),
            "0123456789abcdef0123456789abcdef.aB3dE5fG7hJ9kL1m".into(),
            run.into(),
            "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeF".into(),
            "00000000-1111-2222-3333-444444444444".into(),
            "somebody@example.com".into(),
        ] {
            for around in [key.clone(), format!("wrong key '{key}' given"), format!("consumer api_key:{key}")] {
                let masked = redact(&around);
                assert!(!masked.contains(&key[..key.len().min(12)]), "{around} -> {masked}");
                assert!(!masked.contains(&key[key.len() - 4..]), "{around} -> {masked}");
                assert!(masked.contains(MASK), "{around} -> {masked}");
            }
        }
    }

    #[test]
    fn named_values_are_masked_whatever_their_shape() {
        assert_eq!(redact("https://h/v1?key=abc&alt=sse"), "https://h/v1?key=***&alt=sse");
        assert_eq!(redact("Authorization: Bearer x"), "Authorization: Bearer ***");
        assert_eq!(redact("sent Bearer tok"), "sent Bearer ***");
    }

    #[test]
    fn codes_and_types_stay_readable() {
        for code in [
            "insufficient_quota",
            "organization_usage_limit_exceeded",
            "AllocationQuota.FreeTierOnly",
            "InvalidEndpointOrModel.NotFound",
            "ResponsibleAIPolicyViolation",
            "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
            "MissingAuthenticationTokenException",
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
            "1113",
            "API_KEY_HTTP_REFERRER_BLOCKED",
        ] {
            assert_eq!(redact(code), code);
        }
    }
}
