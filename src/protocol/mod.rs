//! Protocol families: where usage, model, error and end stand in each format. Pure: bytes in, [`Reply`] out.

mod anthropic;
mod bedrock;
mod cohere;
#[cfg(test)]
pub(crate) mod corpus_tests;
mod dashscope;
pub mod decoder;
mod eventstream;
mod families;
mod gemini;
mod gemini_interactions;
pub mod json;
mod ollama;
mod openai_chat;
mod openai_other;
mod openai_realtime;
mod openai_responses;
mod openai_usage;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code))]
pub(crate) mod random;
mod read;
mod sse;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod testing;
mod watsonx;

pub use bedrock::usage_from_headers;
pub use decoder::{Decoder, ReplyHint};
#[cfg(any(test, fuzzing))]
pub(crate) use eventstream::message;
pub use families::family;
pub use read::cost_from_headers;

use json::Value;

use crate::call::Reply;

/// One path inside a JSON document and what a tap does with what stands there.
///
/// `path` is dot-separated; `*` matches any array index or object key. Example: `choices.*.delta.content`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Where.
    pub path: &'static str,
    /// What to do.
    pub take: Take,
}

/// What a tap does with a value that an [`Interest`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Keep the whole value (each string cut at 1 KiB).
    Keep,
    /// Generated or prompt text: a string is pushed to the sample and replaced by its length in bytes (a number);
    /// any other scalar is kept as it is.
    Text,
    /// As `Text` for every string at any depth below; the value itself is replaced by the sum of their lengths.
    /// Strings that are long runs of base64 or `data:` URLs are not text and are not pushed.
    DeepText,
    /// Only note that a non-null value stands there: `true`.
    Presence,
}

/// What one JSON document (a whole answer, or one event of a stream) was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It carried generated output of any kind: text, tool call, reasoning, audio.
    pub output: bool,
    /// It was the protocol's terminal event.
    pub terminal: bool,
}

/// One protocol family: reads pruned documents, keeps what little state the protocol needs.
pub trait Family: Send {
    /// Paths that are looked at in answers; everything else is skipped without being stored.
    fn interests(&self) -> &'static [Interest];

    /// Reads one document that was pruned to [`Family::interests`]. `event` is the SSE `event:` name or the event-stream
    /// `:event-type`/`:exception-type`; `None` for whole answers and NDJSON lines. `streaming` tells events from answers.
    fn read(&mut self, event: Option<&str>, streaming: bool, doc: &Value, reply: &mut Reply) -> Seen;

    /// Reading `doc` again, with another text of some length, would change nothing that this family keeps or writes: no
    /// count is added up. Asked of events with output only.
    fn may_repeat(&self, _doc: &Value) -> bool {
        false
    }

    /// A stream of this protocol ends with a terminal event (else a clean end of body is enough).
    fn has_terminal_event(&self) -> bool;

    /// The body ended (cleanly or not): last chance to settle usage from kept state.
    fn end(&mut self, _reply: &mut Reply) {}
}
