//! Small readers over pruned documents, shared by the families.
//!
//! Documents come from anybody: every reader takes `null`, a wrong type or an absurd number as "absent" and never
//! panics. Texts that are kept are cut at [`TEXT_LIMIT`] bytes, error bodies at [`ERROR_LIMIT`].

use serde_json::json;

use super::json::Value;
use super::{Interest, Take};
use crate::call::{ErrorFacts, Money, Reply, ResponseFacts, Usage};

/// Longest model name, id or finish reason that is kept, bytes.
const TEXT_LIMIT: usize = 256;
/// Longest error body that is kept, bytes.
const ERROR_LIMIT: usize = 16 * 1024;
/// Most finish reasons that are kept.
const CHOICES: usize = 16;

pub(super) const fn keep(path: &'static str) -> Interest {
    Interest { path, take: Take::Keep }
}

pub(super) const fn text(path: &'static str) -> Interest {
    Interest { path, take: Take::Text }
}

pub(super) const fn deep(path: &'static str) -> Interest {
    Interest { path, take: Take::DeepText }
}

pub(super) const fn presence(path: &'static str) -> Interest {
    Interest { path, take: Take::Presence }
}

/// What stands at `key`; `null` is absent.
pub(super) fn get<'a>(doc: &'a Value, key: &str) -> Option<&'a Value> {
    doc.get(key).filter(|value| !value.is_null())
}

/// What stands at the end of `path`; `null` is absent.
pub(super) fn at<'a>(doc: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(doc, |value, key| get(value, key))
}

/// A count. Amazon Titan writes counts as floats now and then (recorded answers), some gateways as strings.
pub(super) fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => {
            number.as_u64().or_else(|| number.as_f64().filter(|n| (0.0..9e15).contains(n)).map(|n| n.round() as u64))
        }
        Value::String(digits) if digits.len() <= 16 => digits.parse().ok(),
        _ => None,
    }
}

/// The count at the end of `path`.
pub(super) fn count_at(doc: &Value, path: &[&str]) -> Option<u64> {
    at(doc, path).and_then(count)
}

/// The string at `key`.
pub(super) fn str_at<'a>(doc: &'a Value, key: &str) -> Option<&'a str> {
    doc.get(key).and_then(Value::as_str)
}

/// `text` cut at [`TEXT_LIMIT`].
pub(super) fn clip(text: &str) -> &str {
    let mut end = text.len().min(TEXT_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Puts a non-empty string into `slot`; allocates only when it changes, as every chunk repeats id and model.
pub(super) fn set(slot: &mut Option<String>, value: Option<&Value>) {
    if let Some(text) = value.and_then(Value::as_str).map(clip).filter(|text| !text.is_empty())
        && slot.as_deref() != Some(text)
    {
        *slot = Some(text.to_owned());
    }
}

/// Dollars, exact to the digits that were written.
pub(super) fn dollars(value: &Value) -> Option<Money> {
    match value {
        Value::Number(number) => Money::parse(&number.to_string()),
        Value::String(digits) => Money::parse(digits),
        _ => None,
    }
}

/// Cost of a whole answer that a gateway states in a header: LiteLLM's (docs.litellm.ai/docs/proxy/response_headers). It
/// writes 0 and `None` where it does not know.
pub fn cost_from_headers(head: &ResponseFacts) -> Option<Money> {
    head.header("x-litellm-response-cost").and_then(Money::parse).filter(|cost| *cost > Money::ZERO)
}

/// Milliseconds from seconds.
pub(super) fn millis(seconds: &Value) -> Option<u64> {
    seconds.as_f64().filter(|s| (0.0..1e9).contains(s)).map(|s| (s * 1000.0).round() as u64)
}

/// Generated output stands below: a text of some length, or something whose presence was noted.
pub(super) fn any_output(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Number(length)) => length.as_u64() != Some(0),
        Some(Value::Bool(present)) => *present,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => items.iter().any(|item| any_output(Some(item))),
        Some(Value::Object(fields)) => fields.values().any(|field| any_output(Some(field))),
        Some(Value::Null) | None => false,
    }
}

/// Notes an error; the first one stays, since later ones are its echo (`error`, then `response.failed`).
pub(super) fn set_error(reply: &mut Reply, error: &serde_json::Value) {
    if reply.error.is_some() {
        return;
    }
    let mut body = serde_json::to_vec(error).unwrap_or_default();
    body.truncate(ERROR_LIMIT);
    reply.error = Some(ErrorFacts { body, in_stream: true });
    if error.get("error").unwrap_or(error).get("code").is_some_and(|code| code == "content_filter") {
        reply.blocked = true;
    }
}

/// Notes the error in `doc.error`, whatever its shape. True if there was one.
///
/// A false, empty or zero `error` is none: some servers always write the field.
pub(super) fn wrapped_error(doc: &Value, reply: &mut Reply) -> bool {
    let error = match doc.get("error") {
        Some(error @ (Value::Object(_) | Value::Array(_))) => error,
        Some(error @ Value::String(text)) if !text.is_empty() => error,
        Some(error @ Value::Bool(true)) => error,
        _ => return false,
    };
    set_error(reply, &json!({ "error": error }));
    true
}

/// Notes an AWS event-stream exception: its name is the event's, its text the document's.
pub(super) fn exception(event: Option<&str>, doc: &Value, reply: &mut Reply) -> bool {
    let Some(name) = event.filter(|name| name.ends_with("Exception")) else { return false };
    let message = get(doc, "message").or_else(|| get(doc, "Message"));
    set_error(reply, &json!({ "error": { "type": name, "message": message } }));
    true
}

/// Notes why choice `index` ended, at most [`CHOICES`] of them.
pub(super) fn finish(reply: &mut Reply, index: usize, reason: &str) {
    if reason.is_empty() || index >= CHOICES {
        return;
    }
    if reply.finish_reasons.len() <= index {
        reply.finish_reasons.resize(index + 1, String::new());
    }
    let reason = clip(reason);
    if reply.finish_reasons[index] != reason {
        reason.clone_into(&mut reply.finish_reasons[index]);
    }
    reply.blocked |= is_block(reason);
}

/// Words that providers use for "refused or cut for policy".
///
/// OpenAI and Azure `content_filter`; Anthropic `refusal`; Gemini and Vertex `SAFETY`, `RECITATION` and the rest of
/// their `FinishReason`; Bedrock `guardrail_intervened`, `content_filtered`; Cohere `ERROR_TOXIC`; Zhipu `sensitive`.
fn is_block(reason: &str) -> bool {
    const WORDS: &[&str] = &[
        "content_filter",
        "content_filtered",
        "refusal",
        "safety",
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "image_safety",
        "image_prohibited_content",
        "image_recitation",
        "model_armor",
        "guardrail_intervened",
        "error_toxic",
        "sensitive",
    ];
    WORDS.iter().any(|word| reason.eq_ignore_ascii_case(word))
}

/// Merges what a later document says over what is known.
pub(super) fn merge(reply: &mut Reply, usage: Usage) {
    if usage.is_empty() {
        return;
    }
    match &mut reply.usage {
        Some(known) => known.merge_later(&usage),
        none => *none = Some(usage),
    }
}

/// Adds usage that is a step's or an answer's own, in protocols that carry several.
pub(super) fn add(reply: &mut Reply, usage: &Usage) {
    if !usage.is_empty() {
        reply.usage.get_or_insert_with(Usage::default).add(usage);
    }
}

/// `a + b` where at least one is known.
pub(super) fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_what_providers_write() {
        for (written, read) in [
            (json!(5), Some(5)),
            (json!(5.0), Some(5)),
            (json!("12"), Some(12)),
            (json!(-1), None),
            (json!(1e300), None),
            (json!(null), None),
            (json!("twelve"), None),
            (json!([5]), None),
        ] {
            assert_eq!(count(&written.clone().into()), read, "{written}");
        }
    }

    #[test]
    fn an_error_is_an_error_only_when_it_says_something() {
        for (doc, found) in [
            (json!({ "error": { "message": "x" } }), true),
            (json!({ "error": "x" }), true),
            (json!({ "error": null }), false),
            (json!({ "error": "" }), false),
            (json!({ "error": false }), false),
            (json!({}), false),
        ] {
            let mut reply = Reply::default();
            assert_eq!(wrapped_error(&doc.clone().into(), &mut reply), found, "{doc}");
            assert_eq!(reply.error.is_some(), found, "{doc}");
        }
    }

    #[test]
    fn the_first_error_stays_and_is_bounded() {
        let mut reply = Reply::default();
        set_error(&mut reply, &json!({ "error": "a".repeat(100_000) }));
        set_error(&mut reply, &json!({ "error": "second" }));
        let error = reply.error.expect("set");
        assert_eq!(error.body.len(), ERROR_LIMIT);
        assert!(error.in_stream);
    }

    #[test]
    fn finish_reasons_are_bounded_and_cut_at_a_character() {
        let mut reply = Reply::default();
        finish(&mut reply, 1, &"é".repeat(1000));
        finish(&mut reply, usize::MAX, "stop");
        assert_eq!(reply.finish_reasons.len(), 2);
        assert_eq!(reply.finish_reasons[1].len(), TEXT_LIMIT);
        assert!(!reply.blocked);
        finish(&mut reply, 0, "SAFETY");
        assert!(reply.blocked);
    }
}
