//! Tokens estimated from the text that passed, where the provider said nothing of them.
//!
//! In: the facts of a call. Out: usage with every count that the provider did state left as it is. What cannot be seen
//! in text (hidden reasoning, images, tool definitions that were not kept) is missing, so estimates are low rather than
//! high. One vocabulary (`o200k_base`) stands for all models: for English it is within some 15 % of the others'.
//!
//! The vocabulary is unpacked when first needed: some 10 ms once, then 2.1 MB stay (to give them back after a while would
//! take a lock and a clock on each estimate, and the time again). At most the 16 KiB that the two samples keep are counted,
//! in 1 to 2 ms.

mod pieces;
mod vocabulary;

use std::sync::LazyLock;

use self::vocabulary::Vocabulary;
use crate::call::{CallFacts, End, Operation, TextSample, Usage};

/// Tokens of a chat around its text: role and separators of a message (4) and the start of the answer (3), from
/// OpenAI's cookbook "How to count tokens with tiktoken".
const CHAT_OVERHEAD: u64 = 7;

/// Bytes of a token where no text was kept: the rule of thumb in OpenAI's help center.
const BYTES_PER_TOKEN: u64 = 4;

/// Usage of a call whose answer should carry usage and does not, or was cut off before it came; `None` when the
/// provider's own word stands, or when there is nothing to estimate from.
pub fn estimate(facts: &CallFacts) -> Option<Usage> {
    estimate_with(facts, &count)
}

fn estimate_with(facts: &CallFacts, count: &dyn Fn(&str) -> u64) -> Option<Usage> {
    let status = facts.response.as_ref()?.status;
    let generates = match facts.operation {
        Operation::Chat
        | Operation::Responses
        | Operation::Messages
        | Operation::GenerateContent
        | Operation::TextCompletion => true,
        Operation::Embeddings | Operation::Speech => false,
        _ => return None,
    };
    let reply = &facts.reply;
    if !(200..300).contains(&status)
        || reply.repeats_usage
        || facts.generated.is_some()
        || facts.request.method == "GET"
    {
        return None;
    }
    let cut_off = !reply.terminal && facts.end != End::Complete;
    let stated = reply.usage.clone().unwrap_or_default();
    if !stated.is_empty() && !tokens_expected(&stated) {
        return None;
    }
    let no_output_seen = reply.output.total_bytes() == 0 && reply.output_events == 0;
    if generates && no_output_seen && !cut_off {
        // Queued, refused or empty: nothing says that anything was generated.
        return None;
    }

    let prompt = &facts.request.prompt;
    if facts.operation == Operation::Speech {
        // Speech is billed by the characters sent, and the answer is sound without any usage (recorded answers).
        let characters = scaled(prompt, prompt.kept().chars().count() as u64);
        let usage = Usage { input_characters: Some(characters), ..Usage::default() };
        return (stated.is_empty() && characters > 0).then_some(usage);
    }
    let mut usage = stated.clone();
    let mut estimated = false;
    if usage.input_tokens.is_none() && prompt.total_bytes() > 0 {
        let overhead = if generates { CHAT_OVERHEAD } else { 0 };
        usage.input_tokens = Some(tokens(prompt, count) + overhead);
        estimated = true;
    }
    if generates {
        // Counted only when needed: it costs milliseconds.
        let text = || tokens(&reply.output, count).max(reply.output_events.min(1));
        usage.output_tokens = match stated.output_tokens {
            Some(first) if cut_off => {
                // A first count (Anthropic's `message_start` has 1 or so) is no count of what followed. A running count is.
                let counted = text();
                let outgrown = counted > first.saturating_mul(2).saturating_add(8);
                estimated |= outgrown;
                Some(if outgrown { counted } else { first })
            }
            Some(count) => Some(count),
            None => {
                estimated = true;
                Some(text())
            }
        };
    }
    estimated.then_some(usage)
}

/// Usage in searches, seconds or pages needs no tokens beside it.
fn tokens_expected(usage: &Usage) -> bool {
    usage.input_tokens.is_some() || usage.output_tokens.is_some()
}

static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(Vocabulary::unpack);

/// Estimating this call may unpack the vocabulary.
pub(super) fn may_load(facts: &CallFacts) -> bool {
    let whole = facts.reply.usage.as_ref().is_some_and(|u| u.input_tokens.is_some() && u.output_tokens.is_some());
    let cut_off = !facts.reply.terminal && facts.end != End::Complete;
    (!whole || cut_off) && facts.reply.output.total_bytes() > 0 && LazyLock::get(&VOCABULARY).is_none()
}

/// Tokens of the whole text.
fn tokens(sample: &TextSample, count: &dyn Fn(&str) -> u64) -> u64 {
    match sample.kept() {
        "" => sample.total_bytes().div_ceil(BYTES_PER_TOKEN),
        kept => scaled(sample, count(kept)),
    }
}

/// What was counted in the kept beginning, scaled to the whole text.
fn scaled(sample: &TextSample, counted: u64) -> u64 {
    let kept = sample.kept().len().max(1) as u128;
    let whole = u128::from(counted) * u128::from(sample.total_bytes()) / kept;
    u64::try_from(whole).unwrap_or(u64::MAX)
}

/// Tokens of a text, which has at most [`TextSample::CAPACITY`] bytes.
fn count(text: &str) -> u64 {
    let mut tokens = 0;
    VOCABULARY.encode(text, |piece| tokens += piece.len() as u64);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::ResponseFacts;
    use crate::meter::fixture::facts;

    #[test]
    fn nothing_is_counted_where_the_provider_has_counted() {
        let mut facts = stream(End::Complete);
        facts.reply.usage = Some(Usage { input_tokens: Some(9), output_tokens: Some(7), ..Usage::default() });
        assert_eq!(estimate_with(&facts, &|_| panic!("the tokenizer was asked")), None);
    }

    fn sample(text: &str) -> TextSample {
        let mut sample = TextSample::default();
        sample.push(text);
        sample
    }

    fn stream(end: End) -> CallFacts {
        let mut facts = facts();
        facts.end = end;
        facts.reply.stream = true;
        facts.reply.terminal = end == End::Complete;
        facts.reply.usage = None;
        facts.reply.output = sample("hello world, this is a test");
        facts.reply.output_events = 3;
        facts.request.prompt = sample("say something");
        facts
    }

    /// One token a byte, so that sums can be checked by hand.
    fn bytes(text: &str) -> u64 {
        text.len() as u64
    }

    #[test]
    fn tokens_are_counted() {
        // From OpenAI's tokenizer page for o200k_base.
        assert_eq!(count("hello world"), 2);
        assert_eq!(count(""), 0);
        let usage = estimate(&stream(End::Complete)).unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(2 + CHAT_OVERHEAD), Some(7)));
    }

    #[test]
    fn long_texts_are_scaled() {
        let mut facts = stream(End::Complete);
        for _ in 0..10 {
            facts.reply.output.push(&"x".repeat(8192));
        }
        let usage = estimate_with(&facts, &bytes).unwrap();
        assert_eq!(usage.output_tokens, Some(10 * 8192 + 27));
    }

    #[test]
    fn the_providers_word_stands() {
        let mut whole = stream(End::Complete);
        whole.reply.usage = Some(Usage { input_tokens: Some(5), output_tokens: Some(1), ..Usage::default() });
        assert_eq!(estimate_with(&whole, &bytes), None);
        // Anthropic's first event states the input and a first output token; then the application goes away.
        let mut cut = stream(End::ClientCancelled);
        cut.reply.usage = Some(Usage {
            input_tokens: Some(5),
            cache_read_tokens: Some(4),
            output_tokens: Some(1),
            ..Usage::default()
        });
        let usage = estimate_with(&cut, &bytes).unwrap();
        assert_eq!((usage.input_tokens, usage.cache_read_tokens, usage.output_tokens), (Some(5), Some(4), Some(27)));
        // A running count stands.
        cut.reply.usage = Some(Usage { input_tokens: Some(5), output_tokens: Some(20), ..Usage::default() });
        assert_eq!(estimate_with(&cut, &bytes), None);
    }

    #[test]
    fn only_what_may_have_been_billed() {
        let mut failed = stream(End::Complete);
        failed.response = Some(ResponseFacts { status: 400, ..ResponseFacts::default() });
        assert_eq!(estimate_with(&failed, &bytes), None);
        let mut none = stream(End::NoAnswer);
        none.response = None;
        assert_eq!(estimate_with(&none, &bytes), None);
        let mut queued = stream(End::Complete);
        queued.reply.output = TextSample::default();
        queued.reply.output_events = 0;
        assert_eq!(estimate_with(&queued, &bytes), None);
        let mut early = stream(End::ClientCancelled);
        early.reply.output = TextSample::default();
        early.reply.output_events = 0;
        let usage = estimate_with(&early, &bytes).unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(13 + CHAT_OVERHEAD), Some(0)));
        let mut models = stream(End::Complete);
        models.operation = Operation::Models;
        assert_eq!(estimate_with(&models, &bytes), None);
        let mut embeddings = stream(End::Complete);
        embeddings.operation = Operation::Embeddings;
        let usage = estimate_with(&embeddings, &bytes).unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(13), None));
        let mut speech = stream(End::Complete);
        speech.operation = Operation::Speech;
        speech.request.prompt = sample("grüße");
        assert_eq!(estimate_with(&speech, &bytes).unwrap().input_characters, Some(5));
        let mut again = stream(End::Complete);
        again.reply.repeats_usage = true;
        assert_eq!(estimate_with(&again, &bytes), None);
    }
}
