//! A mixed run of more than 2,000 calls: every protocol family, errors, cuts on either side, many keys and none.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use keytally::call::ApiKey;
use keytally::demo::simulator::{Answer, AnswerEnd, Simulator};
use serde_json::{Value, json};

use crate::support::{client, recorded};

const ERRORS: [&str; 3] = [
    include_str!("../fixtures/errors/documented.jsonl"),
    include_str!("../fixtures/errors/extra.jsonl"),
    include_str!("../fixtures/errors/recorded.jsonl"),
];

/// Two keys with a name, one of each with an entry of its own in the configuration.
pub const NAMED: [(&str, &str, &str); 2] =
    [("search-prod", "openai", "sk-made-up-key-of-search"), ("chat-prod", "anthropic", "sk-ant-made-up-key-of-chat")];

/// One call to make.
struct Call {
    target: String,
    get: bool,
    key: Option<(&'static str, String)>,
    body: String,
    answer: usize,
    /// Leave after the first piece of the answer.
    leave: bool,
}

/// The calls and what the provider answers to each.
pub struct Mixed {
    calls: VecDeque<Call>,
    answers: Vec<Answer>,
    simulator: Option<Simulator>,
}

/// How many of some kinds are in it, to be found in the records again.
pub struct Expected {
    /// All calls.
    pub calls: usize,
    /// Calls to a prefix that is not there.
    pub unknown: usize,
    /// Calls to a provider that does not listen.
    pub dead: usize,
    /// Streams that the application left.
    pub left: usize,
    /// Streams that the provider broke off.
    pub cut: usize,
}

impl Mixed {
    /// Makes all calls ready and starts the provider.
    pub async fn ready() -> Self {
        let mut mixed = Self { calls: VecDeque::new(), answers: Vec::new(), simulator: None };
        mixed.recordings();
        mixed.errors();
        mixed.odd();
        let answers = std::mem::take(&mut mixed.answers);
        let script = move |received: keytally::demo::simulator::Received| {
            let wanted = received.head.headers["x-answer"].to_str().expect("ASCII").parse::<usize>();
            answers[wanted.expect("a number")].clone()
        };
        mixed.simulator = Some(Simulator::start(script).await.expect("a free port"));
        mixed
    }

    /// The configuration of providers and keys.
    pub fn config(&self) -> String {
        let address = self.simulator.as_ref().expect("it is ready").address();
        let mut text = "providers:\n".to_owned();
        for id in PROVIDERS {
            text.push_str(&format!("  {id}: {{ base_url: \"http://{address}\" }}\n"));
        }
        text.push_str(&format!("  openai-compatible: {{ protocol: openai-chat, base_url: \"http://{address}\" }}\n"));
        text.push_str(&format!(
            "  house-llm: {{ protocol: openai-chat, base_url: \"http://{address}\", price_as: openai }}\n"
        ));
        // Nothing listens on port 1.
        text.push_str("  dead: { protocol: openai-chat, base_url: \"http://127.0.0.1:1\" }\n");
        text.push_str("prices: { overrides: [{ provider: openai-compatible, model: house-model, input: 3, output: 15, per_request: 0.001 }] }\n");
        text.push_str("keys:\n");
        for (name, family, key) in NAMED {
            let fingerprint = ApiKey::new(key).fingerprint(family, b"");
            text.push_str(&format!(
                "  - {{ fingerprint: \"{fingerprint}\", name: {name}, team: a-team, env: prod }}\n"
            ));
        }
        text
    }

    /// Makes all calls through the sidecar, sixteen at a time.
    pub async fn run(mut self, proxy: SocketAddr) -> Expected {
        let count = |test: &dyn Fn(&Call) -> bool| self.calls.iter().filter(|call| test(call)).count();
        let expected = Expected {
            calls: self.calls.len(),
            unknown: count(&|call| call.target.starts_with("/nobody-knows-this")),
            dead: count(&|call| call.target.starts_with("/dead")),
            left: count(&|call| call.leave),
            cut: count(&|call| call.body.contains("cut off")),
        };
        let calls = Arc::new(Mutex::new(std::mem::take(&mut self.calls)));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let calls = Arc::clone(&calls);
            workers.spawn(async move {
                loop {
                    let Some(call) = calls.lock().unwrap().pop_front() else { break };
                    call.make(proxy).await;
                }
            });
        }
        workers.join_all().await;
        expected
    }

    fn add(&mut self, target: &str, key: Option<(&'static str, String)>, body: Value, answer: Answer) -> &mut Call {
        let call = Call {
            target: target.to_owned(),
            get: false,
            key,
            body: body.to_string(),
            answer: self.answers.len(),
            leave: false,
        };
        self.answers.push(answer);
        self.calls.push_back(call);
        self.calls.back_mut().expect("it was just added")
    }

    /// Every recorded answer many times, with five keys; each id comes twice, which is a repeated answer.
    fn recordings(&mut self) {
        for round in 0..16 {
            for (at, row) in recorded::all().iter().enumerate() {
                let provider = row["provider"].as_str().expect("a provider");
                let mut answer = recorded::answer(row, Duration::ZERO, AnswerEnd::Clean);
                rename(&mut answer, at * 100 + round / 2);
                let target = format!("/{provider}{}", row["path"].as_str().expect("a path"));
                let key = key_of(provider, at + round);
                self.add(&target, key, ask(row, &format!("round {round}")), answer);
            }
        }
    }

    /// Every error that a provider is known to answer with.
    fn errors(&mut self) {
        let rows = ERRORS.iter().flat_map(|text| text.lines()).filter(|line| !line.trim().is_empty());
        for (at, line) in rows.enumerate() {
            let row: Value = serde_json::from_str(line).expect("a fixture is one JSON line");
            let provider = row["provider"].as_str().expect("a provider");
            let in_stream = row["in_stream"].as_bool() == Some(true);
            let kind = if in_stream { "text/event-stream" } else { "application/json" };
            let body = row["body"].as_str().expect("a body").to_owned();
            let mut answer = Answer::new(row["status"].as_u64().expect("a status") as u16, kind, body);
            for (name, value) in row["headers"].as_object().into_iter().flatten() {
                if !matches!(name.as_str(), "content-type" | "content-length" | "content-encoding") {
                    answer = answer.header(name, value.as_str().unwrap_or_default());
                }
            }
            let (path, model) = match provider {
                "anthropic" => ("/v1/messages", "claude-3-5-haiku-20241022"),
                "gemini" => ("/v1beta/models/gemini-2.0-flash-001:generateContent", "gemini-2.0-flash-001"),
                "vertex" => (
                    "/v1/projects/made-up/locations/us-central1/publishers/google/models/gemini-2.0-flash-001:generateContent",
                    "gemini-2.0-flash-001",
                ),
                "bedrock" => ("/model/amazon.titan-text-express-v1/converse", "amazon.titan-text-express-v1"),
                "azure_openai" => ("/openai/deployments/made-up/chat/completions", "gpt-4o-mini"),
                "cohere" => ("/v2/chat", "command-r"),
                "ollama" => ("/api/chat", "gemma3:1b"),
                "openrouter" => ("/api/v1/chat/completions", "anthropic/claude-sonnet-4.5"),
                "groq" => ("/openai/v1/chat/completions", "llama3-8b-8192"),
                "openai" => ("/v1/chat/completions", "gpt-4o-mini"),
                _ => ("/v1/chat/completions", "made-up-model"),
            };
            let body = json!({"model": model, "stream": in_stream, "messages": [{"role": "user", "content": format!("error {at}")}]});
            let key = if row["no_credential"] == true { None } else { key_of(provider, at) };
            self.add(&format!("/{provider}{path}"), key, body, answer);
        }
    }

    /// What ends otherwise or cannot be priced.
    fn odd(&mut self) {
        let stream = recorded::find("openai", "chat", "stream");
        let target = "/openai/v1/chat/completions";
        for n in 0..60 {
            let key = || key_of("openai", n);
            let mut answer = recorded::answer(&stream, Duration::from_millis(5), AnswerEnd::Silent);
            rename(&mut answer, 900_000 + n);
            answer.pieces.truncate(4);
            self.add(target, key(), ask(&stream, &format!("left alone {n}")), answer).leave = true;

            // With a pause, so that head and first pieces are sent before the break.
            let mut answer = recorded::answer(&stream, Duration::from_millis(5), AnswerEnd::Broken);
            rename(&mut answer, 910_000 + n);
            answer.pieces.truncate(3);
            answer.pieces.push((Duration::from_millis(5), Bytes::from_static(b": a comment\n\n")));
            self.add(target, key(), ask(&stream, &format!("cut off {n}")), answer);

            // No usage in the whole stream.
            let events = ["Hello", " there,", " this is a longer answer", " of several words."].map(|text| {
                json!({"id": format!("chatcmpl-no-usage-{n:08}"), "object": "chat.completion.chunk", "model": "gpt-4o-mini-2024-07-18", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
            });
            let mut text: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
            text.push_str("data: [DONE]\n\n");
            let answer = Answer::new(200, "text/event-stream", text);
            self.add(target, key(), ask(&stream, &format!("no usage {n}")), answer);

            let plain = |model: &str, stated: Option<f64>| {
                let mut body = json!({"id": format!("chatcmpl-plain-{model}-{n:08}"), "object": "chat.completion", "model": model, "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1000 + n, "completion_tokens": 20 + n, "total_tokens": 1020 + 2 * n, "prompt_tokens_details": {"cached_tokens": 512}, "completion_tokens_details": {"reasoning_tokens": 10}}});
                if let Some(stated) = stated {
                    body["usage"]["cost"] = json!(stated);
                }
                Answer::new(200, "application/json", body.to_string())
            };
            let ask =
                |model: &str| json!({"model": model, "messages": [{"role": "user", "content": format!("odd {n}")}]});
            self.add(target, key(), ask("made-up-model-without-price"), plain("made-up-model-without-price", None));
            let house = "/openai-compatible/v1/chat/completions";
            self.add(house, key(), ask("house-model"), plain("house-model", None));
            self.add("/house-llm/v1/chat/completions", None, ask("gpt-4o-mini"), plain("gpt-4o-mini", None));
            let router = "/openrouter/api/v1/chat/completions";
            self.add(
                router,
                key_of("openrouter", n),
                ask("openai/gpt-4o-mini"),
                plain("openai/gpt-4o-mini", Some(0.001)),
            );
            self.add("/vllm/v1/chat/completions", None, ask("local-model"), plain("local-model", None));

            // A model without a rate for output: half of its tokens have a price.
            let half = "text-embedding-3-small";
            self.add(target, key(), ask(half), plain(half, None));
            let images = r#"{"created":1767323045,"data":[{"b64_json":"bWFkZSB1cA=="},{"b64_json":"bWFkZSB1cA=="}]}"#;
            let body = json!({"model": "dall-e-3", "prompt": format!("picture {n}"), "n": 2});
            let answer = Answer::new(200, "application/json", images);
            self.add("/openai/v1/images/generations", key(), body, answer);

            let body = json!({"model": "gpt-4o-mini"});
            let answer = || Answer::new(200, "application/json", "{}");
            self.add("/nobody-knows-this/v1/chat/completions", key(), body.clone(), answer());
            self.add("/dead/v1/chat/completions", key(), body, answer());
            self.add("/openai/v1/models", key(), json!(null), Answer::new(200, "application/json", r#"{"data":[]}"#))
                .get = true;
            let stored = recorded::find("openai", "responses", "plain");
            let stored = recorded::answer(&stored, Duration::ZERO, AnswerEnd::Clean);
            self.add("/openai/v1/responses/resp_made_up", key(), json!(null), stored).get = true;
        }
        for n in 0..40 {
            // Faults of the key that need no answer to be seen.
            let refused = r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","code":"invalid_api_key"}}"#;
            let keys = ["\"sk-made-up-quoted\"", "$OPENAI_API_KEY", "YOUR_API_KEY", "Bearer sk-made-up-twice"];
            let key = Some(("authorization", format!("Bearer {}", keys[n % keys.len()])));
            let body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "always the same"}]});
            self.add(target, key, body, Answer::new(401, "application/json", refused));
        }
    }
}

impl Call {
    async fn make(self, proxy: SocketAddr) {
        let mut request = Request::builder().uri(&self.target).header("x-answer", self.answer.to_string());
        request = if self.get { request.method("GET") } else { request.method("POST") };
        if !self.get {
            request = request.header("content-type", "application/json");
        }
        if let Some((name, value)) = self.key {
            request = request.header(name, value);
        }
        let body = if self.get { Bytes::new() } else { Bytes::from(self.body) };
        let request = request.body(Full::new(body)).expect("a request");
        if self.leave {
            return client::leave(proxy, request, 1).await;
        }
        let mut answer = client::open(proxy, request).await.expect("an answer");
        // A stream that breaks off is an error here; the records tell it.
        while let Some(Ok(_)) = answer.body_mut().frame().await {}
    }
}

/// Catalogue providers that the errors and recordings name.
const PROVIDERS: [&str; 25] = [
    "openai",
    "anthropic",
    "bedrock",
    "gemini",
    "azure_openai",
    "openrouter",
    "zhipu",
    "dashscope",
    "groq",
    "vertex",
    "vllm",
    "cohere",
    "moonshot",
    "minimax",
    "huggingface",
    "ollama",
    "mistral",
    "deepseek",
    "xai",
    "github-models",
    "cerebras",
    "together",
    "fireworks",
    "perplexity",
    "lmstudio",
];

/// One of five: none, a named one where there is one, three others.
fn key_of(provider: &str, n: usize) -> Option<(&'static str, String)> {
    let named = NAMED.iter().find(|(_, family, _)| *family == provider).map(|(_, _, key)| (*key).to_owned());
    let key = match n % 5 {
        0 => return None,
        1 | 2 => named.unwrap_or_else(|| format!("made-up-key-of-{provider}")),
        n => format!("made-up-key-{n}-for-all"),
    };
    Some(match provider {
        "anthropic" => ("x-api-key", key),
        "gemini" => ("x-goog-api-key", key),
        "azure_openai" => ("api-key", key),
        _ => ("authorization", format!("Bearer {key}")),
    })
}

/// A request that fits the recording.
fn ask(row: &Value, text: &str) -> Value {
    let stream = row["case"].as_str().is_some_and(|case| case.ends_with("stream"));
    let model = &row["model"];
    match row["provider"].as_str() {
        Some("gemini") => json!({"contents": [{"role": "user", "parts": [{"text": text}]}]}),
        Some("bedrock") => json!({"messages": [{"role": "user", "content": [{"text": text}]}]}),
        _ if row["operation"] == "responses" => json!({"model": model, "input": text, "stream": stream}),
        _ if row["operation"] == "embeddings" => json!({"model": model, "input": text}),
        _ => json!({"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}),
    }
}

/// Gives the answer an id of its own, of the same length.
fn rename(answer: &mut Answer, n: usize) {
    let is_text = answer.pieces.iter().all(|(_, piece)| std::str::from_utf8(piece).is_ok());
    if !is_text {
        return;
    }
    let whole: Vec<u8> = answer.pieces.iter().flat_map(|(_, piece)| piece.to_vec()).collect();
    let whole = String::from_utf8(whole).expect("text");
    for name in ["\"id\":", "\"responseId\":"] {
        let Some((_, rest)) = whole.split_once(name) else { continue };
        let id = rest.trim_start().trim_start_matches('"').split('"').next().unwrap_or_default().to_owned();
        let number = format!("{n:08}");
        if id.len() <= number.len() || !id.is_ascii() {
            continue;
        }
        let new = format!("{}{number}", &id[..id.len() - number.len()]);
        for (_, piece) in &mut answer.pieces {
            *piece = Bytes::from(String::from_utf8_lossy(piece).replace(&id, &new));
        }
    }
}
