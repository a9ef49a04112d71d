//! `usage.inject`: the one file that may change bytes. Off by default.
//!
//! OpenAI-format chat and completion streams carry usage only when the request asks for it
//! (<https://platform.openai.com/docs/api-reference/chat/create>, `stream_options.include_usage`, read 2026-09). With the
//! option on, [`ask_for_usage`] adds the request's field, and [`HideUsage`] takes the one extra chunk that answers it out
//! of the stream again. What else changes for the application: other chunks carry `"usage":null`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Largest request that is changed; larger ones pass as they are. Prompts of a million tokens are below it.
pub const MAX_REQUEST_BYTES: u32 = 8 << 20;

/// Bytes of all requests that are held at one time; those beyond it pass as they are.
const MAX_HELD_BYTES: usize = 64 << 20;

/// Longest event that is held until its end to see whether it is the extra chunk, which is a few hundred bytes long.
const MAX_EVENT_BYTES: usize = 16 * 1024;

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<IgnoredAny>,
}

/// Room for the requests that are held to be changed.
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_HELD_BYTES)))
    }
}

impl Room {
    /// Room for a request of this length; `None` when it is used up.
    pub fn take(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_many_owned(bytes).ok()
    }
}

/// The request with `stream_options.include_usage` added; `None` when it is no stream, already says what it wants, or is
/// not JSON.
pub fn ask_for_usage(body: &[u8]) -> Option<Bytes> {
    let wanted: Wanted = serde_json::from_slice(body).ok()?;
    if wanted.stream != Some(true) || wanted.stream_options.is_some() {
        return None;
    }
    let open = body.iter().position(|byte| *byte == b'{')? + 1;
    let mut changed = BytesMut::with_capacity(body.len() + 48);
    changed.extend_from_slice(&body[..open]);
    changed.extend_from_slice(br#""stream_options":{"include_usage":true},"#);
    changed.extend_from_slice(&body[open..]);
    Some(changed.freeze())
}

/// Takes the extra usage chunk out of a server-sent event stream; everything else comes out as it went in.
#[derive(Default)]
pub struct HideUsage {
    /// The event underway, from its first byte.
    event: BytesMut,
    /// The event underway is too long to be the extra chunk: its bytes pass at once.
    passing: bool,
}

#[derive(Deserialize)]
struct Chunk {
    choices: Vec<IgnoredAny>,
    usage: Option<IgnoredAny>,
}

impl HideUsage {
    /// Takes bytes as they arrive; returns those that may go on.
    pub fn feed(&mut self, data: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(data.len() + self.event.len());
        let mut rest = data;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            self.event.extend_from_slice(line);
            if ends_with_blank_line(&self.event) {
                if self.passing || !is_usage_chunk(&self.event) {
                    out.extend_from_slice(&self.event);
                }
                self.event.clear();
                self.passing = false;
            }
        }
        self.event.extend_from_slice(rest);
        if self.passing || self.event.len() > MAX_EVENT_BYTES {
            self.passing = true;
            // The last two bytes stay, so that a blank line is still recognised.
            let keep = self.event.len().saturating_sub(2);
            out.extend_from_slice(&self.event.split_to(keep));
        }
        out.freeze()
    }

    /// The end of the stream: what is left of an event that was never closed.
    pub fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.event).freeze()
    }
}

/// The line that ends here is empty. Looks at the bytes before it too: a cut may stand anywhere, also inside CRLF.
fn ends_with_blank_line(event: &[u8]) -> bool {
    let before = event.strip_suffix(b"\n").unwrap_or(event);
    let before = before.strip_suffix(b"\r").unwrap_or(before);
    before.is_empty() || before.ends_with(b"\n")
}

fn is_usage_chunk(event: &[u8]) -> bool {
    let data = event.trim_ascii();
    let Some(json) = data.strip_prefix(b"data:") else { return false };
    serde_json::from_slice::<Chunk>(json).is_ok_and(|chunk| chunk.choices.is_empty() && chunk.usage.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_streams_that_say_nothing_are_changed() {
        let changed = ask_for_usage(br#" {"model":"m","stream":true,"messages":[]}"#).unwrap();
        assert_eq!(
            changed,
            br#" {"stream_options":{"include_usage":true},"model":"m","stream":true,"messages":[]}"#[..]
        );
        for unchanged in [
            &br#"{"model":"m"}"#[..],
            br#"{"stream":false}"#,
            br#"{"stream":true,"stream_options":{"include_usage":false}}"#,
            br#"{"stream":"#,
            b"[]",
            b"",
        ] {
            assert_eq!(ask_for_usage(unchanged), None, "{}", String::from_utf8_lossy(unchanged));
        }
    }

    /// Found by fuzzing: a cut inside the CRLF of the empty line let the chunk through.
    #[test]
    fn the_extra_chunk_with_crlf_is_taken_out_however_the_stream_is_cut() {
        let long = format!("data: {}\r\n\r\n", "x".repeat(MAX_EVENT_BYTES + 1));
        for before in ["data: {\"choices\":[]}\r\n\r\n", &long] {
            let wire = [before, "data: {\"choices\":[],\"usage\":{}}\r\n\r\n", "data: [DONE]\r\n\r\n"].concat();
            let want = [before, "data: [DONE]\r\n\r\n"].concat();
            for cut in [1, 2, 3, before.len() - 1, before.len() + 1, wire.len() - 17, wire.len()] {
                let mut hide = HideUsage::default();
                let mut out = Vec::new();
                wire.as_bytes().chunks(cut).for_each(|piece| out.extend_from_slice(&hide.feed(piece)));
                out.extend_from_slice(&hide.finish());
                assert_eq!(String::from_utf8(out).unwrap(), want, "cut at {cut}");
            }
        }
    }

    #[test]
    fn only_the_extra_chunk_is_taken_out_however_the_stream_is_cut() {
        let kept = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\r\n\r\n: comment\n\n";
        let extra = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";
        let filter_results = "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n";
        let long = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(20_000));
        let done = "data: [DONE]\n\nleft over";
        let wire = [kept, filter_results, &long, extra, done].concat();
        let want = [kept, filter_results, &long, done].concat();
        for cut in [1, 2, 3, 7, 100, 17_000, wire.len()] {
            let mut hide = HideUsage::default();
            let mut out = Vec::new();
            for piece in wire.as_bytes().chunks(cut) {
                out.extend_from_slice(&hide.feed(piece));
            }
            out.extend_from_slice(&hide.finish());
            assert_eq!(String::from_utf8(out).unwrap(), want, "cut at {cut}");
        }
    }
}
