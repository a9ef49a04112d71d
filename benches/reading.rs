//! What reading costs: bytes of answers and requests as they pass, and errors as they are classified.
//! `cargo bench --bench reading`, or with a name after `--` only those that match.

// A benchmark that cannot go on has nobody to tell but its reader.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keytally::call::Protocol;
use keytally::meter::{Evidence, Rules};
use keytally::protocol::{Decoder, ReplyHint, family};
use keytally::tap::RequestTap;

/// Bodies pass in pieces of about this size.
const PIECE: usize = 16 * 1024;

const TEXT: &str = "All work and no play makes a dull benchmark. ";

fn chat() -> String {
    let text = TEXT.repeat(12);
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1760000000,"model":"gpt-4o-mini-2024-07-18","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":120,"completion_tokens":140,"total_tokens":260,"prompt_tokens_details":{{"cached_tokens":0,"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}},"service_tier":"default","system_fingerprint":"fp_bench"}}"#
    )
}

fn embeddings() -> String {
    let numbers = "0.012345678,-0.012345678,".repeat(40_000);
    format!(
        r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":[{numbers}0]}}],"model":"text-embedding-3-large","usage":{{"prompt_tokens":8,"total_tokens":8}}}}"#
    )
}

/// An image as base64: a long string.
fn image() -> String {
    let data = "iVBORw0KGgoAAAANSUhEUgAA".repeat(40_000);
    format!(
        r#"{{"created":1760000000,"data":[{{"b64_json":"{data}"}}],"usage":{{"input_tokens":10,"output_tokens":4160}}}}"#
    )
}

fn openai_stream(events: usize) -> String {
    let event = |delta: &str, rest: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_bench\",\"choices\":{delta}{rest}}}\n\n"
        )
    };
    let word = event(
        r#"[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]"#,
        r#","usage":null,"obfuscation":"a1B2c3D4""#,
    );
    let last = event("[]", r#","usage":{"prompt_tokens":120,"completion_tokens":500,"total_tokens":620}"#);
    format!("{}{last}data: [DONE]\n\n", word.repeat(events))
}

fn anthropic_stream(events: usize) -> String {
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-sonnet-4-5-20250929\",\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":30,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":1}}}\n\n";
    let word = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" word\"}}\n\n";
    let end = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":500}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    format!("{start}{}{end}", word.repeat(events))
}

/// Few large events, as of models that send paragraphs.
fn gemini_stream(events: usize) -> String {
    let text = TEXT.repeat(40);
    let event = format!(
        "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{text}\"}}],\"role\":\"model\"}},\"index\":0}}],\"usageMetadata\":{{\"promptTokenCount\":8,\"candidatesTokenCount\":400,\"totalTokenCount\":408}},\"modelVersion\":\"gemini-2.5-flash\",\"responseId\":\"r1\"}}\r\n\r\n"
    );
    event.repeat(events)
}

fn answers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("answer");
    for (name, protocol, content_type, body) in [
        ("chat, 1 KB", Protocol::OpenaiChat, "application/json", chat()),
        ("embeddings, 1 MB", Protocol::OpenaiEmbeddings, "application/json", embeddings()),
        ("image, 1 MB", Protocol::OpenaiImages, "application/json", image()),
        ("openai stream, 500 words", Protocol::OpenaiChat, "text/event-stream", openai_stream(500)),
        ("anthropic stream, 500 words", Protocol::AnthropicMessages, "text/event-stream", anthropic_stream(500)),
        ("gemini stream, 100 paragraphs", Protocol::Gemini, "text/event-stream", gemini_stream(100)),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let hint = ReplyHint { status: 200, content_type: Some(content_type), protocol };
                let mut decoder = Decoder::new(family(protocol), hint);
                for piece in body.as_bytes().chunks(PIECE) {
                    decoder.feed(piece);
                }
                let reply = decoder.finish(true);
                assert!(reply.usage.is_some(), "{name}");
                black_box(reply)
            });
        });
    }
    group.finish();
}

fn requests(criterion: &mut Criterion) {
    let small = format!(
        r#"{{"model":"gpt-4o-mini","messages":[{{"role":"system","content":"You are a benchmark."}},{{"role":"user","content":"{}"}}],"max_tokens":200,"temperature":0.2}}"#,
        TEXT.repeat(12)
    );
    let long = format!(
        r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"{}"}}],"stream":true}}"#,
        TEXT.repeat(20_000)
    );
    let mut group = criterion.benchmark_group("request");
    for (name, body) in [("chat, 700 bytes", small), ("prompt of 900 KB", long)] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut tap = RequestTap::new(Protocol::OpenaiChat, Some("application/json"), None);
                for piece in body.as_bytes().chunks(PIECE) {
                    tap.feed(piece);
                }
                let facts = tap.finish();
                assert!(facts.model.is_some(), "{name}");
                black_box(facts)
            });
        });
    }
    group.finish();
}

fn classify(criterion: &mut Criterion) {
    let rules = Rules::embedded();
    let mut group = criterion.benchmark_group("classify");
    for (name, status, body) in [
        ("200", 200, ""),
        (
            "wrong key",
            401,
            r#"{"error":{"message":"Incorrect API key provided: sk-made-*****here. You can find your API key at https://platform.openai.com/account/api-keys.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
        ),
        (
            "rate limit",
            429,
            r#"{"error":{"message":"Rate limit reached for gpt-4o-mini in organization org-made-up on tokens per min (TPM): Limit 200000, Used 199000, Requested 2000. Please try again in 300ms.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
        ),
    ] {
        let evidence = Evidence {
            provider: "openai",
            status: Some(status),
            error_body: (!body.is_empty()).then_some(body.as_bytes()),
            ..Evidence::default()
        };
        group.bench_function(name, |bencher| bencher.iter(|| black_box(rules.classify(black_box(&evidence)))));
    }
    group.finish();
}

criterion_group!(benches, answers, requests, classify);
criterion_main!(benches);
