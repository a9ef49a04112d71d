//! What is billed at all, and what was billed before.
//!
//! In: the facts of a call. Out: whether its usage counts, or the reason why it has no price. [`Billed`] remembers the
//! last [`MAX_ANSWERS`] answers by id for [`ANSWER_LIFE`], so that an answer that is fetched again is not spend again, and that one
//! that was first fetched without its usage (a background response) is billed when its usage comes.

use std::hash::BuildHasher;
use std::time::{Duration, SystemTime};

use foldhash::quality::RandomState;

use crate::call::{CallFacts, End, GeneratedError, Operation, Protocol, UnpricedReason, Usage, UsagePart};
use crate::recent::Recent;

/// Answers that are remembered: at 50 a second those of the last five minutes, in about 1 MiB.
pub const MAX_ANSWERS: usize = 16_384;

/// The same id later than this is another answer. OpenAI keeps a background response for about ten minutes (its guide
/// "Background mode"), but applications poll for hours.
pub const ANSWER_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Shorter ids are not unique: Ollama's OpenAI mode makes `chatcmpl-` and a number under 1,000 (its source).
const MIN_ID_BYTES: usize = 16;

/// Answers by id: see the file's header.
#[derive(Debug)]
pub struct Billed {
    answers: Recent<u64, Answer>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    seen: SystemTime,
    /// Its usage; `None` while it was seen without.
    usage: Option<(Option<u64>, Option<u64>)>,
}

impl Default for Billed {
    fn default() -> Self {
        Self { answers: Recent::new(MAX_ANSWERS), hasher: RandomState::default() }
    }
}

impl Billed {
    /// Takes one call and says whether its usage was billed with an earlier one.
    ///
    /// A fetched answer ([`crate::call::Reply::repeats_usage`]) counts as billed earlier, unless its making was seen
    /// here and had no usage yet. A made answer does not, unless one with the same id and the same usage was seen.
    pub fn repeats(&mut self, facts: &CallFacts, confirmed: bool) -> bool {
        let reply = &facts.reply;
        let id = reply.id.as_deref().filter(|id| confirmed && id.len() >= MIN_ID_BYTES);
        let Some(id) = id else { return reply.repeats_usage };
        let key = self.hasher.hash_one((&*facts.provider, id));
        let usage = reply.usage.as_ref().filter(|usage| !usage.is_empty());
        let counts = usage.map(|usage| (usage.input_tokens, usage.output_tokens));
        let known = self.answers.get(&key).filter(|known| {
            let age = facts.started.duration_since(known.seen).unwrap_or_default();
            age <= ANSWER_LIFE
        });
        match known {
            Some(known) => match (known.usage, counts) {
                (Some(billed), Some(again)) => reply.repeats_usage || billed == again,
                (None, Some(first)) => {
                    known.usage = Some(first);
                    false
                }
                (_, None) => reply.repeats_usage,
            },
            None => {
                if !reply.repeats_usage {
                    let answer = Answer { seen: facts.started, usage: counts };
                    self.answers.put(key, answer);
                }
                reply.repeats_usage
            }
        }
    }
}

/// The answer's usage is that of this call: not of an earlier one, not of a count that was only asked for.
pub fn usage_counts(facts: &CallFacts, repeated: bool) -> bool {
    !repeated && !matches!(facts.operation, Operation::CountTokens | Operation::Models | Operation::Files)
}

/// Why a call has no price before any price is looked up; `None` if it is to be priced.
pub fn why_not_billed(facts: &CallFacts, repeated: bool, usage: &Usage, parts: &[UsagePart]) -> Option<UnpricedReason> {
    if repeated {
        return Some(UnpricedReason::RepeatedUsage);
    }
    if !usage_counts(facts, repeated) {
        return Some(UnpricedReason::NotBilled);
    }
    if facts.reply.stated_cost.is_some() || !usage.is_empty() || !parts.is_empty() {
        return None;
    }
    // Without usage: what the providers do not charge for is told from what they may have charged for.
    // Making a realtime session or its short-lived key costs nothing; what is said in the session does.
    let sets_up = facts.operation == Operation::Realtime
        && facts.protocol == Protocol::Opaque
        && facts.request.stream != Some(true);
    // Looking at something is free; a session over a WebSocket begins with GET.
    let looks = facts.request.method == "GET"
        && !(facts.operation == Operation::Realtime && facts.request.stream == Some(true));
    let unlisted =
        matches!(facts.operation, Operation::Moderation | Operation::Batch | Operation::Other) && !facts.billed;
    let free_operation = unlisted || looks || sets_up;
    let status = facts.response.as_ref().map(|response| response.status);
    let refused = status.is_some_and(|status| !(200..300).contains(&status)) || facts.end == End::Refused;
    let never_sent = facts.generated.is_some_and(|error| match error {
        GeneratedError::Reset | GeneratedError::ReadTimeout => false,
        GeneratedError::Dns
        | GeneratedError::Connect
        | GeneratedError::ConnectTimeout
        | GeneratedError::Tls
        | GeneratedError::Proxy
        | GeneratedError::BadRequest
        | GeneratedError::UnknownPrefix
        | GeneratedError::Forbidden
        | GeneratedError::Overloaded
        | GeneratedError::Internal => true,
    });
    Some(match () {
        () if facts.local => UnpricedReason::Free,
        () if free_operation || refused || never_sent => UnpricedReason::NotBilled,
        () => UnpricedReason::NoUsage,
    })
}
