//! Recorded answers of real providers, as the demo replays them.

use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use keytally::demo::simulator::{Answer, AnswerEnd};
use serde_json::Value;

/// All of them.
pub fn all() -> Vec<Value> {
    include_str!("../../src/demo/recordings.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a recording is one JSON line"))
        .collect()
}

/// The recording of a provider's operation and case (`plain`, `stream`, `tool-plain`, `tool-stream`).
#[track_caller]
pub fn find(provider: &str, operation: &str, case: &str) -> Value {
    all()
        .into_iter()
        .find(|row| row["provider"] == provider && row["operation"] == operation && row["case"] == case)
        .unwrap_or_else(|| panic!("no recording of {provider} {operation} {case}"))
}

/// The body's bytes.
pub fn body(recording: &Value) -> Vec<u8> {
    match recording["body"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => {
            let text = recording["body_base64"].as_str().expect("a body");
            base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
        }
    }
}

/// As an answer; an event stream comes one event a piece.
pub fn answer(recording: &Value, pause: Duration, end: AnswerEnd) -> Answer {
    let bytes = body(recording);
    let is_sse =
        recording["headers"]["content-type"].as_str().is_some_and(|kind| kind.starts_with("text/event-stream"));
    let mut pieces = Vec::new();
    let mut rest = &bytes[..];
    while is_sse && !rest.is_empty() {
        let blank = |window: &[u8]| window == b"\n\n" || window == b"\n\r";
        let end = rest.windows(2).position(blank).map_or(rest.len(), |at| at + 2);
        pieces.push((pause, Bytes::copy_from_slice(&rest[..end])));
        rest = &rest[end..];
    }
    if !is_sse {
        pieces.push((Duration::ZERO, Bytes::from(bytes)));
    }
    let headers = recording["headers"].as_object().expect("headers");
    Answer {
        status: recording["status"].as_u64().expect("a status") as u16,
        headers: headers.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect(),
        pieces,
        trailers: Vec::new(),
        end,
        delay: Duration::ZERO,
    }
}
