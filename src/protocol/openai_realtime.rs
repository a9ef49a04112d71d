//! OpenAI Realtime: JSON messages over a WebSocket (<https://platform.openai.com/docs/guides/realtime-costs>).
//!
//! One connection is one call here. Each `response.done` has the usage of one response; they add up. Transcriptions of
//! what the user said are billed apart, by a model of their own. `error` events do not end a session: one stays only
//! until a response completes after it.

use serde_json::json;

use super::json::Value;
use super::openai_usage::{self, Context};
use super::read::{add, any_output, at, clip, deep, finish, get, keep, set, set_error, str_at};
use super::{Family, Interest, Seen};
use crate::call::{Reply, UsagePart};

/// Realtime.
#[derive(Debug, Default)]
pub(super) struct OpenaiRealtime {
    transcription_model: Option<String>,
}

const OPENAI_REALTIME: &[Interest] = &[
    keep("type"),
    deep("delta"),
    keep("session.id"),
    keep("session.model"),
    keep("session.input_audio_transcription.model"),
    keep("session.audio.input.transcription.model"),
    keep("response.id"),
    keep("response.status"),
    keep("response.status_details"),
    keep("response.conversation_id"),
    keep("response.usage"),
    keep("usage"),
    keep("error"),
];

impl Family for OpenaiRealtime {
    fn interests(&self) -> &'static [Interest] {
        OPENAI_REALTIME
    }

    fn read(&mut self, _event: Option<&str>, _streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        let kind = str_at(doc, "type").unwrap_or_default();
        match kind {
            "session.created"
            | "session.updated"
            | "transcription_session.created"
            | "transcription_session.updated" => {
                let session = doc.get("session").unwrap_or(&Value::Null);
                set(&mut reply.id, session.get("id"));
                set(&mut reply.model, session.get("model"));
                set(
                    &mut self.transcription_model,
                    at(session, &["audio", "input", "transcription", "model"])
                        .or_else(|| at(session, &["input_audio_transcription", "model"])),
                );
            }
            "response.done" => {
                let response = doc.get("response").unwrap_or(&Value::Null);
                set(&mut reply.conversation_id, response.get("conversation_id"));
                if let Some(usage) =
                    get(response, "usage").and_then(|usage| openai_usage::usage(usage, Context::default()))
                {
                    add(reply, &usage);
                }
                let status = str_at(response, "status").unwrap_or_default();
                reply.finish_reasons.clear();
                finish(reply, 0, at(response, &["status_details", "reason"]).and_then(Value::as_str).unwrap_or(status));
                match status {
                    "completed" => reply.error = None,
                    "failed" => {
                        let error = at(response, &["status_details", "error"]).cloned();
                        set_error(
                            reply,
                            &json!({ "error": error.unwrap_or_else(|| json!({ "type": "failed" }).into()) }),
                        );
                    }
                    _ => {}
                }
            }
            "conversation.item.input_audio_transcription.completed" => {
                if let Some(usage) = get(doc, "usage").and_then(|usage| openai_usage::usage(usage, Context::default()))
                {
                    match reply.parts.first_mut() {
                        Some(part) => part.usage.add(&usage),
                        None => {
                            let model = self.transcription_model.as_deref().unwrap_or("gpt-4o-transcribe");
                            reply.parts.push(UsagePart { model: Some(clip(model).to_owned()), usage });
                        }
                    }
                }
            }
            "error" => {
                if let Some(error) = get(doc, "error") {
                    reply.error = None;
                    set_error(reply, &json!({ "error": error }));
                }
            }
            _ if kind.starts_with("response.") && kind.ends_with(".delta") => {
                return Seen { output: any_output(doc.get("delta")) || kind.contains("audio"), terminal: false };
            }
            _ => {}
        }
        Seen::default()
    }

    fn has_terminal_event(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::events;
    use super::*;
    use crate::call::Protocol;

    #[test]
    fn responses_of_a_session_add_up() {
        let done = |input: u64| {
            json!({ "type": "response.done", "response": { "id": "r", "conversation_id": "conv_1", "status": "completed",
            "usage": { "total_tokens": input + 20, "input_tokens": input, "output_tokens": 20,
                       "input_token_details": { "text_tokens": 30, "audio_tokens": 70, "cached_tokens": 64, "cached_tokens_details": { "text_tokens": 20, "audio_tokens": 44 } },
                       "output_token_details": { "text_tokens": 5, "audio_tokens": 15 } } } })
        };
        let reply = events(
            Protocol::OpenaiRealtime,
            &[
                json!({ "type": "session.created", "session": { "id": "sess_1", "model": "gpt-realtime", "audio": { "input": { "transcription": { "model": "whisper-1" } } } } }),
                json!({ "type": "response.output_audio.delta", "delta": "AAAA" }),
                json!({ "type": "response.output_audio_transcript.delta", "delta": "hi" }),
                json!({ "type": "error", "error": { "type": "invalid_request_error", "message": "no" } }),
                done(100),
                json!({ "type": "conversation.item.input_audio_transcription.completed", "transcript": "hi", "usage": { "type": "duration", "seconds": 2 } }),
                json!({ "type": "conversation.item.input_audio_transcription.completed", "transcript": "ho", "usage": { "type": "duration", "seconds": 3.5 } }),
                done(200),
            ],
        );
        let usage = reply.usage.expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(300), Some(40)));
        assert_eq!(
            (usage.input_audio_tokens, usage.cache_read_tokens, usage.cache_audio_read_tokens),
            (Some(140), Some(128), Some(88))
        );
        assert_eq!(reply.model.as_deref(), Some("gpt-realtime"));
        assert_eq!(reply.parts.len(), 1);
        assert_eq!(
            (reply.parts[0].model.as_deref(), reply.parts[0].usage.input_audio_millis),
            (Some("whisper-1"), Some(5500))
        );
        assert_eq!((reply.error, reply.output_events), (None, 2));
        assert_eq!(reply.finish_reasons, ["completed"]);
    }

    #[test]
    fn a_session_that_only_failed_has_its_error() {
        let failed = events(
            Protocol::OpenaiRealtime,
            &[
                json!({ "type": "response.done", "response": { "status": "failed", "status_details": { "type": "failed", "error": { "code": "insufficient_quota" } } } }),
            ],
        );
        assert!(failed.error.is_some());
        let refused = events(
            Protocol::OpenaiRealtime,
            &[
                json!({ "type": "response.done", "response": { "status": "incomplete", "status_details": { "reason": "content_filter" } } }),
            ],
        );
        assert!(refused.blocked);
    }
}
