//! Made-up calls for benchmarks that begin with finished ones.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keytally::call::{
    CallId, CallRecord, End, Fault, Limits, Money, Operation, Outcome, Protocol, Timing, TraceContext, Usage,
    UsageSource, Way,
};

/// The call of this number, which began at `time`: one of 40 keys, 12 models and 4 providers; one in 50 failed.
pub fn call(n: u64, time: SystemTime) -> CallRecord {
    let key = n * 7 % 40;
    let (model, provider) = (n * 13 % 12, n * 13 % 4);
    let failed = n.is_multiple_of(50);
    let id = CallId::new(time);
    CallRecord {
        time,
        call_id: id,
        trace: TraceContext { trace_id: id.0.rotate_left(40), span_id: id.0 as u64 | 1, ..TraceContext::default() },
        way: Way::BaseUrl,
        provider: ["openai", "anthropic", "gemini", "openrouter"][provider as usize].into(),
        operation: Operation::Chat,
        protocol: Protocol::OpenaiChat,
        server_address: "api.example.com".into(),
        server_port: 443,
        method: "POST".to_owned(),
        url: None,
        request_model: Some(format!("model-{model}")),
        response_model: Some(format!("model-{model}-2026-08-07")),
        priced_model: Some(format!("model-{model}")),
        model_label: format!("model-{model}").into(),
        key: format!("openai:{key:012x}").parse().ok(),
        key_name: Some(format!("key-{key}").into()),
        team: Some(format!("team-{}", key % 8).into()),
        env: Some("prod".into()),
        client: Some("search-api".into()),
        caller: None,
        labels: Arc::new([]),
        account: None,
        status: Some(if failed { 401 } else { 200 }),
        outcome: if failed { Outcome::AuthInvalid } else { Outcome::Ok },
        fault: if failed { Fault::Key } else { Fault::None },
        retryable: false,
        first_fix: failed.then(|| "auth_invalid".into()),
        error_type: failed.then(|| "invalid_request_error".to_owned()),
        error_code: failed.then(|| "invalid_api_key".to_owned()),
        provider_request_id: Some(format!("req_{:032x}", id.0)),
        response_id: None,
        conversation_id: None,
        finish_reasons: Vec::new(),
        stream: n.is_multiple_of(2),
        end: End::Complete,
        usage: Usage {
            input_tokens: (!failed).then_some(400 + n * 31 % 9_000),
            output_tokens: (!failed).then_some(n * 17 % 900),
            cache_read_tokens: (!failed).then_some(n * 5 % 400),
            ..Usage::default()
        },
        usage_source: if failed { UsageSource::None } else { UsageSource::Reported },
        cost: (!failed).then(|| Money::from_femto(i128::from(n % 10_000) * 137_500_000_000)),
        cost_stated: false,
        partly_priced: false,
        unpriced_tokens: 0,
        unpriced_reason: None,
        service_tier: Some("default".to_owned()),
        request_service_tier: None,
        max_tokens: None,
        temperature: None,
        top_p: None,
        reasoning_effort: None,
        choice_count: None,
        timing: Timing {
            total: Duration::from_micros(300_000 + n * 7_919 % 9_000_000),
            first_output: n.is_multiple_of(2).then(|| Duration::from_micros(200_000 + n * 31 % 500_000)),
            overhead_request: Duration::from_micros(100 + n % 300),
            ..Timing::default()
        },
        request_bytes: 900 + n * 31 % 20_000,
        response_bytes: 700 + n * 17 % 9_000,
        retry_count: 0,
        findings: Vec::new(),
        limits: Limits::default(),
        unreadable: None,
    }
}
