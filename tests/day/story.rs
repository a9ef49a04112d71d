//! What happens on the scripted day: keys and their usual traffic, the trouble, and what the simulated provider answers to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use keytally::call::ApiKey;
use keytally::demo::recordings::LIBRARY;
use keytally::demo::simulator::{Answer, AnswerEnd, Received};
use serde_json::{Value, json};

/// Input tokens of every call; with output and the prices of [`config`] the cost of a call is [`KeyPlan::usd_a_call`].
const INPUT: u64 = 1_000;
const OUTPUT: u64 = 40;

/// A key and what it does on an ordinary day.
#[derive(Clone, Copy, Debug)]
pub struct KeyPlan {
    /// Name in the configuration.
    pub name: &'static str,
    /// Team in the configuration.
    pub team: &'static str,
    /// Provider: the first part of the path, and the label.
    pub provider: &'static str,
    /// Model, one of [`MODELS`].
    pub model: &'static str,
    /// Calls in an hour of the day, which is a minute.
    pub calls_an_hour: f64,
    /// Its answers are streams.
    pub stream: bool,
    /// Budget of the month.
    pub budget: Option<u64>,
}

/// Models and what one call to them costs, dollars.
pub const MODELS: &[(&str, f64)] = &[
    ("gpt-4.1-mini", 0.02),
    ("gpt-4.1", 0.20),
    ("mistral-small-latest", 0.01),
    ("llama-3.3-70b-versatile", 0.01),
    ("deepseek-chat", 0.005),
];

const fn key(
    name: &'static str,
    team: &'static str,
    provider: &'static str,
    model: &'static str,
    calls_an_hour: f64,
) -> KeyPlan {
    KeyPlan { name, team, provider, model, calls_an_hour, stream: false, budget: None }
}

/// The keys that have been there for days.
pub const KEYS: &[KeyPlan] = &[
    key("search-prod", "search", "openai", "gpt-4.1-mini", 60.0),
    KeyPlan { budget: Some(2_300), ..key("batch-nightly", "search", "openai", "gpt-4.1", 15.0) },
    key("agent-prod", "agents", "openai", "gpt-4.1-mini", 120.0),
    key("chat-prod", "chat", "openai", "gpt-4.1-mini", 150.0),
    key("mail-prod", "chat", "mistral", "mistral-small-latest", 120.0),
    KeyPlan { budget: Some(600), ..key("docs-prod", "docs", "groq", "llama-3.3-70b-versatile", 90.0) },
    key("eval-ci", "docs", "groq", "llama-3.3-70b-versatile", 90.0),
    KeyPlan { stream: true, ..key("support-bot", "chat", "deepseek", "deepseek-chat", 300.0) },
];

/// Used until eight days ago, never since; only in the history.
pub const IDLE: &str = "legacy-report";
/// After a rotation: refused by the provider, still held by one process.
pub const OLD: &str = "search-old";
/// The model that no price book knows.
pub const UNPRICED: &str = "house-model-9";
/// The name by which the key that nobody named goes: its fingerprint.
pub fn stranger() -> String {
    ApiKey::new(secret("stranger")).fingerprint("openai", b"").to_string()
}

/// A made-up key.
pub fn secret(name: &str) -> String {
    format!("sk-made-up-{name}-0000000000000000000000000000")
}

impl KeyPlan {
    /// Dollars.
    pub fn usd_a_call(&self) -> f64 {
        MODELS.iter().find(|(model, _)| *model == self.model).expect("a model of the list").1
    }
}

/// The troubles, in the order in which they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// `batch-nightly` calls twenty times as often.
    Spike,
    /// `mail-prod` is revoked.
    Revoked,
    /// The old key of a rotation is used once more.
    Stale,
    /// The account of `agent-prod` has no credit left.
    Quota,
    /// Four of five calls of `chat-prod` are limited, while most of the limit is free.
    Bursts,
    /// Groq answers 500.
    Outage,
    /// Streams of `support-bot` break off.
    Truncated,
    /// And are slow to start.
    Slow,
    /// A model without a price is called.
    Unpriced,
    /// A key that nobody named spends.
    Stranger,
    /// A key is used from a web page.
    Browser,
    /// The second sidecar restarts three times.
    Restarts,
    /// Its configuration file is broken.
    BadConfig,
    /// The third sidecar goes away.
    Gone,
}

/// Seconds after the start, and how long; hours of the day are minutes.
pub const SCRIPT: &[(Trouble, u64, u64)] = &[
    (Trouble::Spike, 70, 160),
    (Trouble::Revoked, 72, 400),
    (Trouble::Stale, 74, 20),
    (Trouble::Quota, 76, 60),
    (Trouble::Bursts, 78, 60),
    (Trouble::Outage, 80, 50),
    (Trouble::Truncated, 82, 32),
    (Trouble::Slow, 82, 90),
    (Trouble::Unpriced, 84, 10),
    (Trouble::Stranger, 86, 60),
    (Trouble::Browser, 88, 1),
    (Trouble::Restarts, 90, 40),
    (Trouble::BadConfig, 150, 400),
    (Trouble::Gone, 160, 400),
];

/// How long the day is.
pub const LENGTH: Duration = Duration::from_secs(235);

/// When a trouble begins, seconds after the start.
pub fn onset(trouble: Trouble) -> u64 {
    SCRIPT.iter().find(|(one, ..)| *one == trouble).expect("it is in the script").1
}

/// Whether a trouble is there at this time.
pub fn there(trouble: Trouble, at: Duration) -> bool {
    SCRIPT.iter().any(|(one, from, length)| *one == trouble && (*from..from + length).contains(&at.as_secs()))
}

/// The providers, each at an address of its own.
pub const PROVIDERS: [&str; 4] = ["openai", "mistral", "groq", "deepseek"];

/// Config of a sidecar; the simulated providers are at these addresses.
pub fn config(addresses: &[std::net::SocketAddr]) -> String {
    let mut text = "providers:\n".to_owned();
    for (id, address) in PROVIDERS.iter().zip(addresses) {
        // Keys of one host and client are taken for each other's successors, so the revoked one has a host of its own.
        let host = if *id == "mistral" { "localhost" } else { "127.0.0.1" };
        let port = address.port();
        text.push_str(&format!(
            "  {id}: {{ base_url: \"http://{host}:{port}/{id}\", hosts: [\"{id}.provider.test\"] }}
"
        ));
    }
    text.push_str("prices:\n  overrides:\n");
    for (model, usd) in MODELS {
        // All of the cost on the input: dollars for a million tokens.
        text.push_str(&format!("    - {{ model: \"{model}\", input: {}, output: 0 }}\n", usd * 1e6 / INPUT as f64));
    }
    text.push_str("keys:\n");
    let old = KeyPlan { name: OLD, ..KEYS[0] };
    for plan in KEYS.iter().chain([&old]) {
        let fingerprint = ApiKey::new(secret(plan.name)).fingerprint(plan.provider, b"");
        let budget = plan.budget.map_or_else(String::new, |usd| format!(", budget_usd_month: {usd}"));
        text.push_str(&format!(
            "  - {{ fingerprint: \"{fingerprint}\", name: {}, team: {}, env: prod{budget} }}\n",
            plan.name, plan.team
        ));
    }
    // One application, whatever process makes the calls: a rotation is seen within an application.
    text.push_str("labels: { app: made-up-app }\n");
    // As short as a scrape interval may be long, divided like everything else.
    text.push_str("metrics: { birth_hold: 1250ms }\nshutdown: { drain: 2s, linger: 0s }\n");
    text
}

/// One call to make.
pub struct Outgoing {
    /// Path on the proxy port.
    pub path: String,
    /// Key.
    pub key: String,
    /// Body.
    pub body: String,
    /// It comes from a web page.
    pub browser: bool,
}

/// A call of a key; every body differs, so that no call is a repetition.
pub fn call(provider: &str, name: &str, model: &str, stream: bool) -> Outgoing {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let prefix = if provider == "groq" { "groq/openai" } else { provider };
    let version = if provider == "deepseek" { "" } else { "/v1" };
    let mut body =
        json!({"model": model, "messages": [{"role": "user", "content": format!("made-up question {number}")}]});
    if stream {
        body["stream"] = Value::Bool(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    Outgoing {
        path: format!("/{prefix}{version}/chat/completions"),
        key: secret(name),
        body: body.to_string(),
        browser: false,
    }
}

/// The simulated provider: answers by key and by what the script has at this time.
pub struct Provider {
    started: Instant,
    count: AtomicU64,
}

impl Provider {
    /// A day that began at `started`.
    pub fn new(started: Instant) -> Self {
        Self { started, count: AtomicU64::new(0) }
    }

    /// Answers a call.
    pub fn answer(&self, received: &Received) -> Answer {
        let at = self.started.elapsed();
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let key = received.head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
        let model = body["model"].as_str().unwrap_or_default();
        let of = |name: &str| key.ends_with(&secret(name));
        let organization = if of("agent-prod") { "org-made-up-agents" } else { "org-made-up-main" };
        if of(OLD) || of("mail-prod") && there(Trouble::Revoked, at) {
            return recorded("key-refused");
        }
        if of("agent-prod") && there(Trouble::Quota, at) {
            return recorded("no-credit").header("openai-organization", organization);
        }
        if of("chat-prod") && there(Trouble::Bursts, at) && !number.is_multiple_of(5) {
            let message = "Rate limit reached for gpt-4.1-mini in organization org-made-up-main on requests per min (RPM): Limit 1000, Used 1000, Requested 1. Please try again in 60ms.";
            let error = json!({"error": {"message": message, "type": "requests", "param": null, "code": "rate_limit_exceeded"}});
            return limits(Answer::new(429, "application/json", error.to_string()))
                .header("openai-organization", "org-made-up-chat");
        }
        if received.head.uri.path().starts_with("/groq") && there(Trouble::Outage, at) {
            let error = json!({"error": {"message": "Internal Server Error", "type": "internal_server_error"}});
            return Answer::new(500, "application/json", error.to_string());
        }
        let id = format!("chatcmpl-made-up-{number:012}");
        let usage = json!({"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT});
        if body["stream"] == Value::Bool(true) {
            return stream(&id, model, &usage, at);
        }
        let answer = json!({
            "id": id, "object": "chat.completion", "created": 1_794_000_000, "model": model, "usage": usage,
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "made-up answer"}}],
        });
        let mut answer = Answer::new(200, "application/json", answer.to_string());
        answer.delay = Duration::from_millis(150);
        if of("chat-prod") {
            return limits(answer).header("openai-organization", "org-made-up-chat");
        }
        if received.head.uri.path().starts_with("/openai") {
            answer.header("openai-organization", organization)
        } else {
            answer
        }
    }
}

fn limits(answer: Answer) -> Answer {
    answer
        .header("x-ratelimit-limit-requests", "1000")
        .header("x-ratelimit-remaining-requests", "800")
        .header("x-ratelimit-reset-requests", "12s")
}

fn recorded(kind: &str) -> Answer {
    let error = LIBRARY.error(kind, "openai").expect("it was recorded");
    Answer::new(error.status, "application/json", error.body.replace("{key}", "sk-made-*******0000"))
}

/// Nine tokens, 70 ms apart; every ninth breaks off while streams do.
fn stream(id: &str, model: &str, usage: &Value, at: Duration) -> Answer {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let chunk = |delta: Value, finish: Value, usage: Value| {
        let event = json!({
            "id": id, "object": "chat.completion.chunk", "created": 1_794_000_000, "model": model, "usage": usage,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        });
        Bytes::from(format!("data: {event}\n\n"))
    };
    let mut pieces =
        vec![(Duration::ZERO, chunk(json!({"role": "assistant", "content": ""}), Value::Null, Value::Null))];
    let first = Duration::from_millis(if there(Trouble::Slow, at) { 800 } else { 150 });
    for word in 0..9 {
        let pause = if word == 0 { first } else { Duration::from_millis(70) };
        pieces.push((pause, chunk(json!({"content": "word "}), Value::Null, Value::Null)));
    }
    let mut answer = Answer::new(200, "text/event-stream", "");
    if there(Trouble::Truncated, at) && COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(9) {
        answer.end = AnswerEnd::Broken;
    } else {
        // Ten visible tokens, so that the time for each is that of the pauses.
        let mut usage = usage.clone();
        usage["completion_tokens"] = json!(10);
        pieces.push((Duration::ZERO, chunk(json!({}), json!("stop"), usage)));
        pieces.push((Duration::ZERO, Bytes::from_static(b"data: [DONE]\n\n")));
    }
    answer.pieces = pieces;
    answer
}
