//! Limits and waits as providers spell them. Header sets and texts are those of recorded answers, ids left out.

use std::time::{Duration, SystemTime};

use super::*;
use crate::call::{KeptHeader, LimitResource as R, Limits, RateLimit};

/// 2026-05-15T12:00:00Z.
const NOON: u64 = 1_778_846_400;

/// Headers as (name, value).
type Pairs<'p> = &'p [(&'p str, &'p str)];

fn read(provider: &str, headers: Pairs, text: Option<&str>) -> Limits {
    let catalog = Catalog::embedded();
    let kept: Vec<KeptHeader> = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOON);
    read_limits(&catalog.provider(provider).expect(provider).limits, &kept, text, now)
}

fn one(resource: R, limit: Option<f64>, remaining: Option<f64>, reset_millis: Option<u64>) -> RateLimit {
    RateLimit { resource, limit, remaining, reset: reset_millis.map(Duration::from_millis) }
}

#[test]
fn header_formats() {
    let cases: &[(&str, Pairs, Vec<RateLimit>)] = &[
        (
            "openai",
            &[
                ("x-ratelimit-limit-requests", "10000"),
                ("x-ratelimit-remaining-requests", "9999"),
                ("x-ratelimit-reset-requests", "6ms"),
                ("x-ratelimit-limit-tokens", "30000000"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "1m0.052s"),
                ("x-ratelimit-limit-input-images", "250000"),
                ("x-ratelimit-remaining-input-images", "249999"),
                ("x-ratelimit-reset-input-images", "0s"),
                ("x-ratelimit-limit-project-tokens", "150000000"),
            ],
            vec![
                one(R::Requests, Some(10000.0), Some(9999.0), Some(6)),
                one(R::Tokens, Some(30e6), Some(0.0), Some(60_052)),
                one(R::Images, Some(250_000.0), Some(249_999.0), Some(0)),
            ],
        ),
        ("openai", &[("x-ratelimit-limit-project-tokens", "7")], vec![one(R::Tokens, Some(7.0), None, None)]),
        (
            "azure_openai",
            &[
                ("x-ratelimit-limit-requests", "120"),
                ("x-ratelimit-remaining-requests", "-1"),
                ("x-ratelimit-reset-requests", "500"),
                ("x-ratelimit-remaining-tokens", "-1"),
                ("x-ratelimit-reset-tokens", "7"),
            ],
            vec![one(R::Requests, Some(120.0), None, None)],
        ),
        (
            "anthropic",
            &[
                ("date", "Tue, 04 Nov 2025 22:50:52 GMT"),
                ("anthropic-ratelimit-requests-limit", "4000"),
                ("anthropic-ratelimit-requests-remaining", "3999"),
                ("anthropic-ratelimit-requests-reset", "2025-11-04T22:50:53Z"),
                ("anthropic-ratelimit-input-tokens-limit", "400000"),
                ("anthropic-ratelimit-input-tokens-reset", "2025-11-04T22:50:50Z"),
            ],
            vec![
                one(R::Requests, Some(4000.0), Some(3999.0), Some(1000)),
                one(R::InputTokens, Some(400_000.0), None, Some(0)),
            ],
        ),
        (
            "groq",
            &[
                ("x-ratelimit-limit-requests", "14400"),
                ("x-ratelimit-reset-requests", "2m59.56s"),
                ("x-ratelimit-limit-tokens", "30000"),
                ("x-ratelimit-reset-tokens", "17.399999999s"),
            ],
            vec![
                one(R::RequestsDay, Some(14400.0), None, Some(179_560)),
                RateLimit {
                    reset: Some(Duration::from_nanos(17_399_999_999)),
                    ..one(R::Tokens, Some(30000.0), None, None)
                },
            ],
        ),
        (
            "mistral",
            &[
                ("x-ratelimit-limit-req-10-second", "60"),
                ("x-ratelimit-remaining-req-10-second", "58"),
                ("x-ratelimit-limit-tokens-minute", "2000000"),
                ("x-ratelimit-limit-tokens-month", "10000000000"),
                ("x-ratelimit-remaining-tokens-month", "9999999829"),
            ],
            vec![
                one(R::Other, Some(60.0), Some(58.0), None),
                one(R::Tokens, Some(2e6), None, None),
                one(R::TokensMonth, Some(1e10), Some(9_999_999_829.0), None),
            ],
        ),
        (
            "mistral",
            &[
                ("ratelimitbysize-limit", "500000"),
                ("ratelimitbysize-remaining", "405270"),
                ("ratelimitbysize-reset", "59"),
            ],
            vec![one(R::Tokens, Some(500_000.0), Some(405_270.0), Some(59_000))],
        ),
        (
            "together",
            &[("x-ratelimit-limit", "2"), ("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", "2")],
            vec![one(R::Requests, Some(2.0), Some(1.0), Some(2000))],
        ),
        (
            "openrouter",
            &[
                ("date", "Fri, 08 Aug 2025 15:40:34 GMT"),
                ("x-ratelimit-limit", "1"),
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset", "1754667660000"),
            ],
            vec![one(R::Requests, Some(1.0), Some(0.0), Some(26_000))],
        ),
        (
            "cerebras",
            &[("x-ratelimit-remaining-tokens-minute", "0"), ("x-ratelimit-reset-tokens-minute", "36.4")],
            vec![one(R::Tokens, None, Some(0.0), Some(36_400))],
        ),
        (
            "cohere",
            &[
                ("x-trial-endpoint-call-limit", "40"),
                ("x-trial-endpoint-call-remaining", "38"),
                ("x-endpoint-monthly-call-limit", "1000"),
            ],
            vec![one(R::Requests, Some(40.0), Some(38.0), None), one(R::Other, Some(1000.0), None, None)],
        ),
        (
            "replicate",
            &[("ratelimit-remaining", "599"), ("ratelimit-reset", "1")],
            vec![one(R::Requests, None, Some(599.0), Some(1000))],
        ),
        (
            "fireworks",
            &[("x-ratelimit-limit-tokens-prompt", "60000"), ("x-ratelimit-remaining-tokens-generated", "5")],
            vec![one(R::InputTokens, Some(60000.0), None, None), one(R::OutputTokens, None, Some(5.0), None)],
        ),
        // Whatever is not a plain number of its unit is unknown, not zero.
        (
            "openai",
            &[
                ("x-ratelimit-limit-requests", "many"),
                ("x-ratelimit-remaining-requests", "NaN"),
                ("x-ratelimit-reset-requests", "60"),
                ("x-ratelimit-limit-tokens", "inf"),
                ("x-ratelimit-reset-tokens", "99999999h"),
            ],
            vec![],
        ),
        ("bedrock", &[("x-ratelimit-limit-requests", "1")], vec![]),
        ("anthropic", &[("anthropic-ratelimit-requests-reset", "9999-12-31T00:00:00Z")], vec![]),
    ];
    for (provider, headers, expected) in cases {
        assert_eq!(&read(provider, headers, None).limits, expected, "{provider} {headers:?}");
    }
}

#[test]
fn limits_in_the_body() {
    let text = r#"{"error":{"message":"Rate limit exceeded: free-models-per-day.","code":429,"metadata":{"headers":{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1778850000000"}}}}"#;
    let limits = read("openrouter", &[], Some(text)).limits;
    assert_eq!(limits, [one(R::RequestsDay, Some(50.0), Some(0.0), Some(3_600_000))]);
    assert_eq!(read("openai", &[], Some(text)).limits, []);
}

#[test]
fn waits() {
    let text = |message: &str| format!("{{\"error\":{{\"message\":{message:?}}}}}");
    let cases: &[(&str, Pairs, String, Option<f64>)] = &[
        ("openai", &[("retry-after", "1"), ("retry-after-ms", "494")], String::new(), Some(0.494)),
        ("azure_openai", &[("retry-after", "1"), ("retry-after-ms", "0")], String::new(), Some(1.0)),
        ("azure_openai", &[("retry-after", "86400")], String::new(), None),
        ("azure_openai", &[], text("Please retry after 86400 seconds. Please go here"), None),
        ("openai", &[("retry-after", "86400")], String::new(), Some(86_400.0)),
        ("azure_openai", &[], text("Rate limit is exceeded. Try again in 2 seconds."), Some(2.0)),
        ("anthropic", &[("retry-after", "31")], String::new(), Some(31.0)),
        ("openai", &[("retry-after", "1.5")], String::new(), Some(1.5)),
        ("openai", &[("retry-after", "Fri, 15 May 2026 12:00:30 GMT")], String::new(), Some(30.0)),
        ("openai", &[("retry-after", "Fri, 15 May 2026 11:00:30 GMT")], String::new(), Some(0.0)),
        ("openai", &[("retry-after", "-5")], String::new(), None),
        ("openai", &[("retry-after", "soon")], text("Please try again in 6ms. Contact us"), Some(0.006)),
        ("groq", &[], text("Please try again in 9m38.016s. Need more tokens?"), Some(578.016)),
        ("openai", &[], text("Please try again in 1.574s. Visit"), Some(1.574)),
        (
            "github-models",
            &[],
            text("Rate limit of 50 per 86400s exceeded. Please wait 5631 seconds before retrying."),
            Some(5631.0),
        ),
        ("moonshot", &[], text("max request: 3, please try again after 1 seconds"), Some(1.0)),
        ("bedrock", &[], text("If you recently fixed this issue, try again after 5 minutes."), Some(300.0)),
        ("gemini", &[], "{\"@type\":\"…RetryInfo\",\n  \"retryDelay\": \"48s\"\n}".to_owned(), Some(48.0)),
        ("gemini", &[], "{\\\"retryDelay\\\": \\\"0.5s\\\"}".to_owned(), Some(0.5)),
        ("gemini", &[], text("Please retry in 48.939935699s."), Some(48.939935699)),
        ("anthropic", &[], text("You will regain access on 2026-06-01 at 00:00 UTC."), Some(1_425_600.0)),
        (
            "minimax",
            &[],
            text("5-hour usage limit reached (0/0 used), resets at 2026-05-15T15:00:00Z (2056)"),
            Some(10_800.0),
        ),
        ("litellm", &[], text("Free quota used (30 requests / 5h). Resets at 10:00 UTC. Top up"), Some(79_200.0)),
        // No wait is named.
        ("azure_openai", &[], text("created within the last 5 minutes, please wait a moment and try again."), None),
        ("openai", &[], text("Please try again in 20"), None),
        ("bedrock", &[], text("Too many tokens per day, please wait before trying again."), None),
        ("moonshot", &[], text("request reached project TPM rate limit, current: 1410, limit: 100"), None),
        ("openai", &[], text("resets at 99:99 UTC"), None),
        ("openai", &[], text("try again in 99999999999999999999999999s"), None),
    ];
    for (provider, headers, text, expected) in cases {
        let text = (!text.is_empty()).then_some(text.as_str());
        let wait = read(provider, headers, text).retry_after.map(|wait| wait.as_secs_f64());
        let same = match (wait, expected) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-6,
            (a, b) => a.is_none() && b.is_none(),
        };
        assert!(same, "{provider} {headers:?} {text:?}: {wait:?}, expected {expected:?}");
    }
}

#[test]
fn hostile_texts_do_no_harm() {
    let long = "try again in ".repeat(100_000);
    let half = format!("{}é", "a".repeat(16 * 1024 - 1));
    let texts = [
        "",
        "\"",
        "x-ratelimit-limit",
        "\"x-ratelimit-limit\"",
        "\"x-ratelimit-limit\":\"İ",
        "retryDelay\": \"s",
        &long,
        &half,
    ];
    for provider in Catalog::embedded().providers() {
        for text in texts {
            let values = ["", "-", ".", "s", "1.2.3s", "0x1p3", "1e400", "é", "١s", "999999999999999999999999", "-0"];
            for value in values {
                let kept: Vec<KeptHeader> = [
                    "x-ratelimit-reset",
                    "retry-after",
                    "retry-after-ms",
                    "date",
                    "x-ratelimit-reset-requests",
                    "anthropic-ratelimit-tokens-reset",
                ]
                .iter()
                .map(|name| ((*name).into(), value.into()))
                .collect();
                let limits = read_limits(&provider.limits, &kept, Some(text), SystemTime::UNIX_EPOCH);
                assert!(limits.retry_after.is_none_or(|wait| wait.as_secs() <= 400 * 86_400));
            }
        }
    }
}
