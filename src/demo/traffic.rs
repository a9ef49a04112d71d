//! The demo's applications: each actor calls its provider through the sidecar, over real sockets, at its own rate.
//!
//! The traffic follows the script where the application is at fault (wrong key, wrong model, too many calls) and now and
//! then walks away from a stream. It reads answers to their end and looks at nothing in them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::story::{ACTORS, Actor, Api, Call, RETIRED_MODEL, SPIKE_RATE, Scene, Story, Trouble, made_up_key};

/// Calls of one actor that may be under way at once; a further one waits for its turn.
const CALLS_AT_ONCE: usize = 24;
/// One stream in so many is left by its application.
const CANCEL_ONE_IN: u32 = 18;
/// Longest that one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

const PROMPTS: &[&str] = &[
    "Summarize the last release notes in two sentences.",
    "Which of these tickets are duplicates?",
    "Translate the greeting into Portuguese.",
    "Write a subject line for the weekly mail.",
    "What is the weather in Tokyo?",
];

/// All actors at work; they stop when this is dropped.
#[derive(Debug)]
pub struct Traffic {
    _tasks: JoinSet<()>,
}

impl Traffic {
    /// Sets every actor to work against the sidecar at `base` (`http://host:port`).
    pub fn start(base: String, story: Story, started: Instant) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut tasks = JoinSet::new();
        for actor in ACTORS {
            tasks.spawn(work(client.clone(), base.clone(), actor, story, started));
        }
        Self { _tasks: tasks }
    }
}

async fn work(
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    actor: &'static Actor,
    story: Story,
    started: Instant,
) {
    let mut calls = JoinSet::new();
    for number in 0.. {
        let scene = story.at(started.elapsed());
        let spike = scene.now.trouble == Trouble::SpendSpike && scene.now.victim == actor.name;
        let mean = actor.every.mul_f64(story.pace()) / if spike { SPIKE_RATE } else { 1 };
        // The first calls come soon, so that every key is in the table at once.
        let wait =
            if number == 0 { mean.mul_f64(0.4 * fastrand::f64()) } else { mean.mul_f64(0.4 + 1.2 * fastrand::f64()) };
        tokio::time::sleep(wait).await;
        while calls.len() >= CALLS_AT_ONCE {
            calls.join_next().await;
        }
        while calls.try_join_next().is_some() {}
        let Some(call) = fastrand::choice(actor.calls) else { return };
        let scene = story.at(started.elapsed());
        let Ok(request) = request(&base, actor, call, &scene, number) else { continue };
        let leaves = call.stream && fastrand::u32(..CANCEL_ONE_IN) == 0;
        let client = client.clone();
        calls.spawn(async move {
            let _ = tokio::time::timeout(CALL_TIMEOUT, exchange(&client, request, leaves)).await;
        });
    }
}

/// One call. `leaves`: the application goes away after a few pieces of the answer.
async fn exchange(
    client: &Client<HttpConnector, Full<Bytes>>,
    request: Request<String>,
    leaves: bool,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut body = client.request(request.map(|body| Full::new(Bytes::from(body)))).await?.into_body();
    let mut left = if leaves { 4 } else { usize::MAX };
    while left > 0 {
        let Some(frame) = body.frame().await else { break };
        frame?;
        left -= 1;
    }
    Ok(())
}

/// The request that an actor sends for `call` in this scene. `number` makes each prompt its own.
pub(super) fn request(
    base: &str,
    actor: &Actor,
    call: &Call,
    scene: &Scene,
    number: usize,
) -> Result<Request<String>, http::Error> {
    let trouble = if scene.now.victim == actor.name { scene.now.trouble } else { Trouble::None };
    let model = if trouble == Trouble::ModelGone { RETIRED_MODEL } else { call.model };
    let call = Call { model, ..*call };
    let key = match trouble {
        Trouble::Unexpanded => Some("${OPENAI_API_KEY}".to_owned()),
        Trouble::WrongProvider => super::story::actor("chat-prod").and_then(made_up_key),
        _ => made_up_key(actor),
    };
    let request = Request::post(format!("{base}/{}{}", actor.provider, path(actor.provider, &call)))
        .header("content-type", "application/json")
        .header("user-agent", "keytally-demo");
    let request = match (key, call.api) {
        (None, _) => request,
        (Some(key), Api::Messages) => request.header("x-api-key", key).header("anthropic-version", "2023-06-01"),
        (Some(key), Api::Generate) => request.header("x-goog-api-key", key),
        (Some(key), _) => request.header("authorization", format!("Bearer {key}")),
    };
    let prompt = format!("{} ({}-{number})", PROMPTS[number % PROMPTS.len()], actor.name);
    request.body(body(&call, &prompt).to_string())
}

/// Path and query below the provider's prefix, as each provider documents it.
pub(super) fn path(provider: &str, call: &Call) -> String {
    match (call.api, call.stream) {
        (Api::Chat, _) => match provider {
            "groq" => "/openai/v1/chat/completions",
            "deepseek" => "/chat/completions",
            "openrouter" => "/api/v1/chat/completions",
            _ => "/v1/chat/completions",
        }
        .to_owned(),
        (Api::Responses, _) => "/v1/responses".to_owned(),
        (Api::Embeddings, _) => "/v1/embeddings".to_owned(),
        (Api::Messages, _) => "/v1/messages".to_owned(),
        (Api::Generate, false) => format!("/v1beta/models/{}:generateContent", call.model),
        (Api::Generate, true) => format!("/v1beta/models/{}:streamGenerateContent?alt=sse", call.model),
        (Api::Converse, stream) => {
            let verb = if stream { "converse-stream" } else { "converse" };
            format!("/model/{}/{verb}", call.model.replace(':', "%3A"))
        }
        (Api::CohereChat, _) => "/v2/chat".to_owned(),
        (Api::OllamaChat, _) => "/api/chat".to_owned(),
    }
}

fn body(call: &Call, prompt: &str) -> Value {
    let messages = json!([{ "role": "user", "content": prompt }]);
    let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    let (name, what) = ("get_weather", "Weather of a city");
    let mut body = match call.api {
        Api::Chat | Api::CohereChat | Api::OllamaChat => json!({ "model": call.model, "messages": messages }),
        Api::Messages => json!({ "model": call.model, "max_tokens": 1024, "messages": messages }),
        Api::Responses | Api::Embeddings => json!({ "model": call.model, "input": prompt }),
        Api::Generate => json!({ "contents": [{ "role": "user", "parts": [{ "text": prompt }] }] }),
        Api::Converse => json!({ "messages": [{ "role": "user", "content": [{ "text": prompt }] }] }),
    };
    if !matches!(call.api, Api::Generate | Api::Converse | Api::Embeddings) {
        body["stream"] = call.stream.into();
    }
    if call.api == Api::Chat && call.stream {
        body["stream_options"] = json!({ "include_usage": true });
    }
    if call.tools {
        let tool = match call.api {
            Api::Messages => json!({ "name": name, "description": what, "input_schema": schema }),
            Api::Responses => json!({ "type": "function", "name": name, "description": what, "parameters": schema }),
            Api::Generate => {
                json!({ "functionDeclarations": [{ "name": name, "description": what, "parameters": schema }] })
            }
            Api::Converse => {
                json!({ "toolSpec": { "name": name, "description": what, "inputSchema": { "json": schema } } })
            }
            _ => json!({ "type": "function", "function": { "name": name, "description": what, "parameters": schema } }),
        };
        match call.api {
            Api::Converse => body["toolConfig"] = json!({ "tools": [tool] }),
            _ => body["tools"] = json!([tool]),
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::story::{CHAPTERS, actor};

    #[test]
    fn paths_are_the_providers_own() {
        let path_of = |name: &str, call: usize| {
            let actor = actor(name).expect("in the story");
            path(actor.provider, &actor.calls[call])
        };
        assert_eq!(path_of("eval-ci", 0), "/openai/v1/chat/completions");
        assert_eq!(path_of("report-weekly", 0), "/chat/completions");
        assert_eq!(path_of("laptop-bo", 0), "/api/v1/chat/completions");
        assert_eq!(path_of("agent-prod", 1), "/model/openai.gpt-oss-120b-1%3A0/converse");
        assert_eq!(path_of("batch-nightly", 1), "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse");
    }

    #[test]
    fn the_script_changes_only_the_victims_requests() {
        let story = Story { minute: Duration::from_secs(60) };
        for (index, chapter) in CHAPTERS.iter().enumerate() {
            let scene = story.at(Duration::from_secs(index as u64 * 60 + 30));
            assert_eq!(&scene.now, &chapter);
            for actor in ACTORS {
                let sent = request("http://127.0.0.1:1", actor, &actor.calls[0], &scene, 3).expect("a request");
                let key = made_up_key(actor).unwrap_or_default();
                let own = sent.headers().values().any(|value| value.to_str().is_ok_and(|text| text.ends_with(&key)));
                let changed = matches!(chapter.trouble, Trouble::Unexpanded | Trouble::WrongProvider);
                assert_eq!(own, !(changed && chapter.victim == actor.name), "{} in {:?}", actor.name, chapter.trouble);
                let retired = sent.body().contains(RETIRED_MODEL);
                assert_eq!(retired, chapter.trouble == Trouble::ModelGone && chapter.victim == actor.name);
            }
        }
    }
}
