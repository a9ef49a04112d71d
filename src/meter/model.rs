//! Names that may become labels: bounded in number, never client text on its own word.
//!
//! In: a call's model names, what the price book knows of them, whether a 2xx answer confirmed them. Out: one label
//! value. [`BoundedNames`] is the cap itself, used for keys and accounts too. [`aliases`] is how a name on the wire
//! becomes a name that the price book may know. Nothing here expires: a label that comes and goes loses counts.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::HashSet;
use percent_encoding::percent_decode_str;

/// Longest label value; the longest id in the price book (October 2026) has 61.
pub const MAX_LABEL_BYTES: usize = 96;

/// At most `cap` different names; every further one is `other`, and counted.
#[derive(Debug)]
pub struct BoundedNames {
    cap: AtomicUsize,
    names: RwLock<HashSet<Arc<str>>>,
    overflow: AtomicU64,
    other: Arc<str>,
}

impl BoundedNames {
    /// Room for `cap` names. Memory: at most `cap` × (label length + about 50 bytes).
    pub fn new(cap: usize) -> Self {
        Self {
            cap: AtomicUsize::new(cap),
            names: RwLock::default(),
            overflow: AtomicU64::new(0),
            other: Arc::from("other"),
        }
    }

    /// Changes the cap. Names that are already in stay in, also when there are more of them than the new cap.
    pub fn set_cap(&self, cap: usize) {
        self.cap.store(cap, Ordering::Relaxed);
    }

    /// The name itself if it is in or there is room, else `other`.
    pub fn admit(&self, name: &str) -> Arc<str> {
        {
            let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = names.get(name) {
                return known.clone();
            }
            if names.len() >= self.cap.load(Ordering::Relaxed) {
                self.overflow.fetch_add(1, Ordering::Relaxed);
                return self.other.clone();
            }
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name) {
            return known.clone();
        }
        if names.len() >= self.cap.load(Ordering::Relaxed) {
            self.overflow.fetch_add(1, Ordering::Relaxed);
            return self.other.clone();
        }
        let name: Arc<str> = Arc::from(name);
        names.insert(name.clone());
        name
    }

    /// The name, if it is in as it is written here.
    fn known(&self, name: &str) -> Option<Arc<str>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// How often a name became `other`.
    pub fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    /// How many names are in.
    pub fn len(&self) -> usize {
        self.names.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// No name is in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The `model` label: see `docs/metrics.md`.
#[derive(Debug)]
pub struct ModelLabels {
    names: BoundedNames,
    unconfirmed: Arc<str>,
    none: Arc<str>,
}

impl ModelLabels {
    /// Room for `cap` models.
    pub fn new(cap: usize) -> Self {
        Self { names: BoundedNames::new(cap), unconfirmed: Arc::from("unconfirmed"), none: Arc::from("none") }
    }

    /// The cap and its counter.
    pub fn names(&self) -> &BoundedNames {
        &self.names
    }

    /// The label of a call that names the models `candidates` (the answering one first).
    ///
    /// `listed` is the price book's id of one of them, if it knows any. `confirmed`: a 2xx answer came. A call without
    /// any model name is `none`.
    pub fn label(&self, candidates: &[&str], listed: Option<&str>, confirmed: bool) -> Arc<str> {
        let Some(name) = candidates.first() else { return self.none.clone() };
        if let Some(base) = candidates.iter().find_map(|name| fine_tune_base(name)) {
            // A listed id may be that of the fine-tune itself (`ft:gpt-4o-…`) or of its base.
            if let Some(id) = listed {
                let id = id.strip_prefix("ft:").unwrap_or(id);
                return self.names.admit(&cut(&format!("ft:{}", without_trailing_dash(id))));
            }
            return if confirmed { self.names.admit(&cut(&format!("ft:{base}"))) } else { self.unconfirmed.clone() };
        }
        match listed {
            Some(id) => self.names.known(id).unwrap_or_else(|| self.names.admit(&cut(id))),
            None if confirmed => {
                let name = cut(name);
                if name.is_empty() { self.unconfirmed.clone() } else { self.names.admit(&name) }
            }
            None => self.unconfirmed.clone(),
        }
    }
}

/// Lower case, printable ASCII, at most [`MAX_LABEL_BYTES`]. Anything else is left out.
fn cut(name: &str) -> String {
    let printable = name.trim().bytes().filter(u8::is_ascii_graphic).take(MAX_LABEL_BYTES);
    printable.map(|byte| char::from(byte.to_ascii_lowercase())).collect()
}

fn without_trailing_dash(id: &str) -> &str {
    id.trim_end_matches('-')
}

/// The models by which a call may be priced and labelled, the best first.
///
/// When the answer names its model, that is the one: routers and providers answer with other models than asked for
/// (xAI serves `grok-3-mini` with `grok-4.3`, recorded answers), at other prices. The names of the request follow only if
/// they may be the same model under another name, as `davinci:2023-07-21-v2` for `davinci-002`. Without an answering
/// model: the body's, then the URL's.
pub fn candidates<'a>(answering: Option<&'a str>, body: Option<&'a str>, url: Option<&'a str>) -> Vec<&'a str> {
    let named = |name: &&str| !name.trim().is_empty();
    let answering = answering.filter(named);
    let asked = [body, url].into_iter().flatten().filter(named);
    let asked = asked.filter(|asked| answering.is_none_or(|answering| same_family(answering, asked)));
    answering.into_iter().chain(asked).collect()
}

/// The same first word, and the same first small number if both have one.
fn same_family(left: &str, right: &str) -> bool {
    fn family(name: &str) -> (&str, Option<&str>) {
        let last = name.rsplit('/').next().unwrap_or(name);
        // `us.anthropic.claude-…`: Bedrock puts the region and the vendor in front, with dots.
        let start = last.as_bytes().windows(6).position(|part| part.eq_ignore_ascii_case(b"claude")).unwrap_or(0);
        let last = &last[start..];
        let word = last.bytes().take_while(u8::is_ascii_alphabetic).count();
        let mut numbers = last.split(|c: char| !c.is_ascii_digit());
        (&last[..word], numbers.find(|number| (1..=2).contains(&number.len())))
    }
    if left == right {
        return true;
    }
    let ((left_word, left_number), (right_word, right_number)) = (family(left), family(right));
    left_word.eq_ignore_ascii_case(right_word)
        && (left_number == right_number || left_number.is_none() || right_number.is_none())
}

/// The base model of an OpenAI-style fine-tune `ft:<base>:<organization>:<suffix>:<id>`, without its date.
pub fn fine_tune_base(name: &str) -> Option<&str> {
    let base = name.strip_prefix("ft:")?.split(':').next()?;
    (!base.is_empty()).then(|| without_date(base).unwrap_or(base))
}

/// Other names of the model that `name` names on the wire, best first, `name` itself first of all.
///
/// | on the wire | also tried |
/// |---|---|
/// | `models/gemini-2.5-flash`, `publishers/google/models/…`, `projects/…/models/…` | the last part |
/// | `arn:aws:bedrock:…:inference-profile/us.anthropic.…` | the part after the last `/` |
/// | `us.anthropic.…`, `global.…` (Bedrock inference profiles) | without the prefix |
/// | `claude-sonnet-4@20250514`, `…@default` (Vertex) | `-` for `@`, and without it |
/// | `vendor/model:nitro` (OpenRouter routing variants), `org/name:provider` (Hugging Face) | without the suffix |
/// | `google/gemini-2.5-flash` (OpenAI mode of Vertex) | without the vendor |
/// | `gpt-9-2027-01-31`, `claude-9-20270131` | without the date |
///
/// `:free`, `:batch` and `ft:` are never cut: they are other prices. An application inference profile or a deployment name says
/// nothing about the model and has no other name.
pub fn aliases(name: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::with_capacity(4);
    let mut add = |name: &str| {
        if !name.is_empty() && !found.iter().any(|known| known == name) {
            found.push(name.to_owned());
        }
    };
    let name = name.trim();
    add(name);
    let decoded = if name.contains('%') { percent_decode_str(name).decode_utf8_lossy() } else { Cow::Borrowed(name) };
    add(&decoded);
    if decoded.starts_with("ft:") {
        // Never the base: a fine-tuned model costs more than it. The book knows the dear ones by their `ft:` names.
        return found;
    }
    let mut rest: &str = &decoded;
    if rest.starts_with("arn:") || rest.starts_with("models/") || rest.contains("/models/") {
        rest = rest.rsplit('/').next().unwrap_or(rest);
        add(rest);
    }
    if let Some((region, model)) = rest.split_once('.')
        && matches!(region, "us" | "eu" | "apac" | "global" | "us-gov" | "jp" | "au" | "ca" | "sa" | "me" | "af")
        && model.contains('.')
    {
        add(model);
        rest = model;
    }
    let at;
    if let Some((model, version)) = rest.split_once('@') {
        at = format!("{model}-{version}");
        add(&at);
        add(model);
        rest = model;
    }
    if let Some((model, variant)) = rest.rsplit_once(':')
        && rest.contains('/')
        && !matches!(variant, "free" | "batch")
    {
        add(model);
        rest = model;
    }
    if let Some(("google" | "anthropic" | "openai" | "meta" | "mistralai", model)) = rest.split_once('/')
        && !model.contains('/')
    {
        add(model);
        rest = model;
    }
    if let Some(undated) = without_date(rest) {
        add(undated);
    }
    found
}

/// Cuts `-2025-08-07` or `-20250807` from the end.
fn without_date(name: &str) -> Option<&str> {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (head, last) = name.rsplit_once('-')?;
    if last.len() == 8 && digits(last) && last.starts_with("20") && !head.is_empty() {
        return Some(head);
    }
    let (head, month) = head.rsplit_once('-')?;
    let (head, year) = head.rsplit_once('-')?;
    let date = year.len() == 4 && month.len() == 2 && last.len() == 2 && year.starts_with("20");
    (date && digits(year) && digits(month) && digits(last) && !head.is_empty()).then_some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_names_stay_under_the_cap_and_are_counted() {
        let labels = ModelLabels::new(200);
        for n in 0..10_000 {
            labels.label(&[&format!("made-up-{n}")], None, true);
        }
        assert_eq!(labels.names().len(), 200);
        assert_eq!(labels.names().overflow(), 9_800);
        assert_eq!(&*labels.label(&["made-up-7"], None, true), "made-up-7", "names that are in stay in");
        assert_eq!(&*labels.label(&["made-up-9999"], None, true), "other");
    }

    #[test]
    fn client_text_needs_an_answer() {
        let labels = ModelLabels::new(10);
        assert_eq!(&*labels.label(&["anything the client says"], None, false), "unconfirmed");
        assert_eq!(labels.names().len(), 0);
        assert_eq!(&*labels.label(&["My-Model\n{x=\"y\"}é"], None, true), "my-model{x=\"y\"}");
        assert_eq!(&*labels.label(&["gpt-5-2025-08-07", "gpt-5"], Some("gpt-5"), false), "gpt-5");
        assert_eq!(&*labels.label(&[], None, true), "none");
        assert!(labels.label(&[&"x".repeat(5000)], None, true).len() <= MAX_LABEL_BYTES);
    }

    #[test]
    fn fine_tunes_collapse_to_their_base() {
        let labels = ModelLabels::new(10);
        let name = "ft:gpt-4o-mini-2024-07-18:made-up-org:suffix:AbC123";
        assert_eq!(&*labels.label(&[name], None, true), "ft:gpt-4o-mini");
        assert_eq!(&*labels.label(&[name], Some("ft:gpt-4o-mini"), true), "ft:gpt-4o-mini");
        assert_eq!(&*labels.label(&[name], None, false), "unconfirmed");
    }

    #[test]
    fn lowering_the_cap_keeps_what_is_in() {
        let names = BoundedNames::new(2);
        names.admit("a");
        names.admit("b");
        names.set_cap(1);
        assert_eq!((&*names.admit("b"), &*names.admit("c")), ("b", "other"));
    }

    #[test]
    fn the_answering_model_comes_first_and_another_one_never_stands_in_for_it() {
        assert_eq!(candidates(Some("grok-4.3"), Some("grok-3-mini"), None), ["grok-4.3"]);
        assert_eq!(candidates(Some("x-ai/grok-4"), Some("google/gemini-2.5-flash"), None), ["x-ai/grok-4"]);
        assert_eq!(
            candidates(Some("davinci:2023-07-21-v2"), Some("davinci-002"), None),
            ["davinci:2023-07-21-v2", "davinci-002"]
        );
        assert_eq!(
            candidates(Some("claude-3-haiku-48k-20240307"), None, Some("us.anthropic.claude-3-haiku-20240307-v1:0"))
                .len(),
            2
        );
        assert_eq!(candidates(Some(""), Some("a"), Some("b")), ["a", "b"]);
        assert!(candidates(None, Some(" "), None).is_empty());
    }

    #[test]
    fn other_names() {
        let also = |name: &str, wanted: &str| {
            let found = aliases(name);
            assert_eq!(found[0], name);
            assert!(found.iter().any(|alias| alias == wanted), "{name}: {found:?} lacks {wanted}");
        };
        also("models/gemini-2.5-flash", "gemini-2.5-flash");
        also("publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash");
        also("us.anthropic.claude-haiku-4-5-20251001-v1:0", "anthropic.claude-haiku-4-5-20251001-v1:0");
        also(
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/eu.amazon.nova-lite-v1:0",
            "eu.amazon.nova-lite-v1:0",
        );
        also("amazon.nova-lite-v1%3A0", "amazon.nova-lite-v1:0");
        also("claude-sonnet-4@20250514", "claude-sonnet-4-20250514");
        also("claude-sonnet-4@20250514", "claude-sonnet-4");
        also("z-ai/glm-4.7:nitro", "z-ai/glm-4.7");
        also("google/gemini-2.5-flash", "gemini-2.5-flash");
        also("gpt-9-2027-01-31", "gpt-9");
        also("claude-9-20270131", "claude-9");
        assert!(!aliases("ft:gpt-4o:made-up::id").contains(&"gpt-4o".to_owned()), "a fine-tune is dearer");
        assert_eq!(aliases("minimax/minimax-m2:free"), ["minimax/minimax-m2:free"], "another price");
        assert_eq!(aliases("gpt-4.1"), ["gpt-4.1"]);
        for odd in ["", "-", "@", ":", "/", "ft:", "ft::", "%", "arn:", "us.", "é@é", "-20250101", "--"] {
            aliases(odd);
            fine_tune_base(odd);
        }
    }
}
