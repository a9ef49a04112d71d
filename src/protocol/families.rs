//! Which reader a protocol has.

use super::anthropic::AnthropicMessages;
use super::bedrock::{BedrockAgent, BedrockConverse, BedrockInvoke};
use super::cohere::Cohere;
use super::dashscope::Dashscope;
use super::gemini::{Gemini, VertexPredict};
use super::gemini_interactions::GeminiInteractions;
use super::json::Value;
use super::ollama::Ollama;
use super::openai_chat::OpenaiChat;
use super::openai_other::{OpenaiAudio, OpenaiEmbeddings, OpenaiImages};
use super::openai_realtime::OpenaiRealtime;
use super::openai_responses::OpenaiResponses;
use super::read::{exception, keep, set, wrapped_error};
use super::watsonx::Watsonx;
use super::{Family, Interest, Seen};
use crate::call::{Protocol, Reply};

/// A fresh reader for one answer in `protocol`.
pub fn family(protocol: Protocol) -> Box<dyn Family> {
    match protocol {
        Protocol::OpenaiChat | Protocol::OpenaiCompletions => Box::<OpenaiChat>::default(),
        Protocol::OpenaiResponses => Box::<OpenaiResponses>::default(),
        Protocol::OpenaiEmbeddings => Box::<OpenaiEmbeddings>::default(),
        Protocol::OpenaiImages => Box::<OpenaiImages>::default(),
        Protocol::OpenaiAudio => Box::<OpenaiAudio>::default(),
        Protocol::OpenaiRealtime => Box::<OpenaiRealtime>::default(),
        Protocol::AnthropicMessages | Protocol::AnthropicComplete => Box::<AnthropicMessages>::default(),
        Protocol::Gemini => Box::<Gemini>::default(),
        Protocol::GeminiInteractions => Box::<GeminiInteractions>::default(),
        Protocol::VertexPredict => Box::<VertexPredict>::default(),
        Protocol::BedrockConverse => Box::<BedrockConverse>::default(),
        Protocol::BedrockInvoke => Box::<BedrockInvoke>::default(),
        Protocol::BedrockAgent => Box::<BedrockAgent>::default(),
        Protocol::CohereV1 | Protocol::CohereV2 => Box::<Cohere>::default(),
        Protocol::Ollama => Box::<Ollama>::default(),
        Protocol::DashscopeNative => Box::<Dashscope>::default(),
        Protocol::Watsonx => Box::<Watsonx>::default(),
        Protocol::Opaque => Box::<Opaque>::default(),
    }
}

/// Everything else: no usage is read.
#[derive(Debug, Default)]
struct Opaque;

const OPAQUE: &[Interest] = &[keep("id"), keep("model"), keep("error"), keep("message")];

impl Family for Opaque {
    fn interests(&self) -> &'static [Interest] {
        OPAQUE
    }

    fn read(&mut self, event: Option<&str>, _streaming: bool, doc: &Value, reply: &mut Reply) -> Seen {
        set(&mut reply.id, doc.get("id"));
        set(&mut reply.model, doc.get("model"));
        // Files, batches and the like are objects that may hold the error of something done long ago; only an answer
        // that is nothing but an error is one.
        if !exception(event, doc, reply) && doc.get("id").is_none() {
            wrapped_error(doc, reply);
        }
        Seen::default()
    }

    fn has_terminal_event(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Driver, whole};
    use super::*;

    #[test]
    fn no_document_makes_any_family_panic() {
        let odd = [
            json!(null),
            json!([]),
            json!("text"),
            json!(7),
            json!({ "usage": [], "choices": {}, "message": [], "delta": "x", "response": 1, "error": 0, "candidates": "x",
                    "usageMetadata": [], "trace": [], "results": {}, "type": 5, "event_type": [], "interaction": "x" }),
            json!({ "usage": { "prompt_tokens": u64::MAX, "completion_tokens": u64::MAX, "total_tokens": 1,
                    "input_tokens": u64::MAX, "output_tokens": u64::MAX, "cache_read_input_tokens": u64::MAX,
                    "cost": 1e300, "cost_in_usd_ticks": i64::MAX, "iterations": [null, 1, { "type": "x" }],
                    "inputTokens": u64::MAX, "cacheReadInputTokens": u64::MAX },
                    "choices": [null, 1, { "index": u64::MAX, "finish_reason": 3, "delta": [], "usage": 1 }],
                    "usageMetadata": { "promptTokenCount": u64::MAX, "toolUsePromptTokenCount": u64::MAX },
                    "type": "message_start", "message": 3 }),
            json!({ "type": "response.done", "response": { "usage": { "input_tokens": u64::MAX } } }),
        ];
        for protocol in Protocol::ALL {
            for streaming in [false, true] {
                let mut driver = Driver::new(*protocol);
                for event in [None, Some("error"), Some("throttlingException"), Some("message_start")] {
                    for doc in &odd {
                        driver.document(event, streaming, doc);
                        driver.document(event, streaming, doc);
                    }
                }
                driver.finish();
            }
        }
    }

    #[test]
    fn paths_are_well_formed_and_listed_once() {
        for protocol in Protocol::ALL {
            let interests = family(*protocol).interests();
            for (i, interest) in interests.iter().enumerate() {
                assert!(
                    !interest.path.is_empty() && !interest.path.split('.').any(str::is_empty),
                    "{protocol}: {interest:?}"
                );
                assert!(
                    !interests[..i].iter().any(|other| other.path == interest.path),
                    "{protocol}: {interest:?} twice"
                );
            }
        }
    }

    #[test]
    fn opaque_answers_tell_their_errors_only() {
        assert!(whole(Protocol::Opaque, json!({ "error": { "message": "no" } })).error.is_some());
        let job = whole(
            Protocol::Opaque,
            json!({ "id": "ftjob-1", "error": { "message": "old" }, "usage": { "prompt_tokens": 5 } }),
        );
        assert_eq!((job.error, job.usage), (None, None));
    }
}
