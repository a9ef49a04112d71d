//! A plain successful call to start tests from.

use std::time::{Duration, SystemTime};

use crate::call::*;

/// A whole chat answer of `gpt-4o-mini` with 1,000,000 input tokens, $0.15.
pub(crate) fn facts() -> CallFacts {
    CallFacts {
        call_id: CallId(1),
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_435_200),
        trace: TraceContext::default(),
        way: Way::BaseUrl,
        provider: "openai".into(),
        price_as: Some("openai".into()),
        local: false,
        billed: true,
        operation: Operation::Chat,
        protocol: Protocol::OpenaiChat,
        server_address: "api.openai.com".into(),
        server_port: 443,
        client: None,
        caller: None,
        key: KeyFacts {
            fingerprint: Some("openai:3f9a0c41b2d7".parse().unwrap()),
            place: Some(KeyPlace::Bearer),
            ..KeyFacts::default()
        },
        request: RequestFacts {
            method: "POST".into(),
            model: Some("gpt-4o-mini".into()),
            hash: 99,
            ..RequestFacts::default()
        },
        response: Some(ResponseFacts { status: 200, ..ResponseFacts::default() }),
        reply: Reply {
            usage: Some(Usage { input_tokens: Some(1_000_000), output_tokens: Some(0), ..Usage::default() }),
            model: Some("gpt-4o-mini-2024-07-18".into()),
            id: Some("chatcmpl-made-up-0001".into()),
            terminal: true,
            ..Reply::default()
        },
        end: End::Complete,
        generated: None,
        timing: Timing::default(),
    }
}
