//! The exporters from record to receiver: what a span and a line say, and what happens when nobody takes them.

mod collector;
mod delivery;
mod lines;
mod receivers;
mod spans;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::queue::tests::Counted;
use super::*;
use crate::call::*;

/// The smallest record: a call that got no answer.
pub(crate) fn bare() -> CallRecord {
    CallRecord {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_678),
        call_id: CallId(0x0194_2f6e_5a2b_7c3d_8e4f_5061_7283_94a5),
        trace: TraceContext { trace_id: 0xabcd, span_id: 0x1234, ..TraceContext::default() },
        way: Way::BaseUrl,
        provider: "openai".into(),
        operation: Operation::Chat,
        protocol: Protocol::OpenaiChat,
        server_address: "api.openai.com".into(),
        server_port: 443,
        method: "POST".to_owned(),
        url: None,
        request_model: None,
        response_model: None,
        priced_model: None,
        model_label: "unconfirmed".into(),
        key: None,
        key_name: None,
        team: None,
        env: None,
        client: None,
        caller: None,
        labels: Arc::new([]),
        account: None,
        status: None,
        outcome: Outcome::NetworkError,
        fault: Fault::Network,
        retryable: true,
        first_fix: None,
        error_type: None,
        error_code: None,
        provider_request_id: None,
        response_id: None,
        conversation_id: None,
        finish_reasons: Vec::new(),
        stream: false,
        end: End::NoAnswer,
        usage: Usage::default(),
        usage_source: UsageSource::None,
        cost: None,
        cost_stated: false,
        partly_priced: false,
        unpriced_tokens: 0,
        unpriced_reason: None,
        service_tier: None,
        request_service_tier: None,
        max_tokens: None,
        temperature: None,
        top_p: None,
        reasoning_effort: None,
        choice_count: None,
        timing: Timing { total: Duration::from_millis(1_500), ..Timing::default() },
        request_bytes: 210,
        response_bytes: 0,
        retry_count: 0,
        findings: Vec::new(),
        limits: Limits::default(),
        unreadable: None,
    }
}

/// A good streamed call with everything that one can have.
pub(crate) fn full() -> CallRecord {
    CallRecord {
        trace: TraceContext {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0x1122_3344_5566_7788,
            parent_span_id: Some(0xb7ad_6b71_6920_3331),
            parent_sampled: Some(true),
            trace_state: Some("vendor=opaque".to_owned()),
            malformed: false,
        },
        url: Some("https://api.openai.com/v1/chat/completions".to_owned()),
        request_model: Some("gpt-5".to_owned()),
        response_model: Some("gpt-5-2025-08-07".to_owned()),
        priced_model: Some("gpt-5".to_owned()),
        key: Some("openai:3f9a0c41b2d7".parse().unwrap()),
        key_name: Some("search-prod".into()),
        team: Some("search".into()),
        env: Some("prod".into()),
        client: Some("search-api".into()),
        labels: Arc::new([("region".to_owned(), "eu".to_owned())]),
        account: Some("0c41b2d7".into()),
        status: Some(200),
        outcome: Outcome::Ok,
        fault: Fault::None,
        retryable: false,
        provider_request_id: Some("req_made_up".to_owned()),
        response_id: Some("chatcmpl-made-up".to_owned()),
        conversation_id: Some("conv_made_up".to_owned()),
        finish_reasons: vec!["stop".to_owned()],
        stream: true,
        end: End::Complete,
        usage: Usage {
            input_tokens: Some(1_200),
            output_tokens: Some(340),
            cache_read_tokens: Some(1_000),
            cache_write_tokens: Some(100),
            reasoning_tokens: Some(300),
            input_audio_tokens: Some(11),
            output_audio_tokens: Some(12),
            input_image_tokens: Some(13),
            output_image_tokens: Some(14),
            ..Usage::default()
        },
        usage_source: UsageSource::Reported,
        cost: Some(Money::parse("0.003775").unwrap()),
        service_tier: Some("default".to_owned()),
        request_service_tier: Some("auto".to_owned()),
        max_tokens: Some(4_096),
        temperature: Some(0.5),
        top_p: Some(0.9),
        reasoning_effort: Some("high".to_owned()),
        choice_count: Some(2),
        timing: Timing {
            total: Duration::from_micros(12_345_678),
            head: Some(Duration::from_millis(400)),
            first_byte: Some(Duration::from_millis(500)),
            first_output: Some(Duration::from_millis(750)),
            last_output: Some(Duration::from_secs(12)),
            connect: Some(Duration::from_millis(35)),
            overhead_request: Duration::from_micros(120),
            overhead_response: Duration::from_micros(80),
            stalled: Some(Duration::from_secs(11)),
        },
        response_bytes: 9_876,
        retry_count: 2,
        findings: vec![Finding::OrgHeaderSet, Finding::SharedKey],
        limits: Limits {
            limits: vec![
                RateLimit {
                    resource: LimitResource::Requests,
                    limit: Some(500.0),
                    remaining: Some(499.0),
                    reset: None,
                },
                RateLimit { resource: LimitResource::Tokens, limit: None, remaining: Some(-5.0), reset: None },
            ],
            retry_after: None,
        },
        ..bare()
    }
}

/// A call that the provider refused.
pub(crate) fn refused() -> CallRecord {
    CallRecord {
        status: Some(429),
        outcome: Outcome::RateLimitTokens,
        fault: Fault::Traffic,
        first_fix: Some("rate_limit_tokens".into()),
        error_type: Some("tokens".to_owned()),
        error_code: Some("rate_limit_exceeded".to_owned()),
        end: End::Complete,
        unpriced_reason: Some(UnpricedReason::NoUsage),
        limits: Limits {
            limits: vec![RateLimit {
                resource: LimitResource::Tokens,
                limit: Some(30_000.0),
                remaining: Some(0.0),
                reset: None,
            }],
            retry_after: Some(Duration::from_millis(8_640)),
        },
        ..bare()
    }
}

/// The second column of the tables whose first column is a name in back quotes: what a document lists.
fn documented(text: &str) -> Vec<(String, String)> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    rows.map(|(name, rest)| (name.to_owned(), rest.split('|').next().unwrap_or("").trim().to_owned())).collect()
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
