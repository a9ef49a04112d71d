//! The simulated provider's mind: from a request and the story's scene to an answer, at a human pace.
//!
//! It knows the demo's own keys, takes any other key that looks like one (so that a visitor may call too), and refuses
//! what a real provider would: no key, a variable's name, another provider's key. What it says is recorded.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use super::recordings::{LIBRARY, RecordedError, Recording, verb};
use super::simulator::{Answer, AnswerEnd, Received};
use super::story::{ACTORS, RETIRED_MODEL, Story, Trouble, made_up_key};

/// Pause between two pieces of a stream, at most.
const PIECE_PAUSE: Duration = Duration::from_millis(70);
/// All pauses of one stream together, about.
const STREAM_LENGTH: Duration = Duration::from_millis(3_200);
/// Wait before an answer, at least and at most.
const HEAD_MILLIS: std::ops::Range<u64> = 220..950;
/// Token counts of an ordinary call are multiplied by one of these.
const FACTORS: std::ops::RangeInclusive<u64> = 1..=9;
/// And those of a call in a spend spike by one of these.
const SPIKE_FACTORS: std::ops::RangeInclusive<u64> = 60..=140;

/// One provider of the demo.
#[derive(Debug)]
pub struct Provider {
    id: &'static str,
    story: Story,
    started: Instant,
    /// Keys of this provider's actors.
    keys: Vec<(String, &'static str)>,
}

impl Provider {
    /// The provider `id` in a story that began at `started`.
    pub fn new(id: &'static str, story: Story, started: Instant) -> Self {
        let own = ACTORS.iter().filter(|actor| actor.provider == id);
        let keys = own.filter_map(|actor| Some((made_up_key(actor)?, actor.name))).collect();
        Self { id, story, started, keys }
    }

    /// Answers one request.
    pub fn answer(&self, received: &Received) -> Answer {
        self.answer_at(received, self.started.elapsed())
    }

    fn answer_at(&self, received: &Received, elapsed: Duration) -> Answer {
        let path = received.head.uri.path();
        let body: Value = serde_json::from_slice(&received.body).unwrap_or(Value::Null);
        let model = body["model"].as_str();
        let key = presented_key(received);
        let error = |kind: &str| match LIBRARY.error(kind, self.id) {
            Some(error) => self.refuse(error, model, key.as_deref(), path),
            None => Answer::new(500, "application/json", "{}"),
        };
        let caller = key.as_deref().and_then(|key| self.keys.iter().find(|(own, _)| own == key)).map(|(_, name)| *name);
        if caller.is_none() && self.id != "ollama" {
            match &key {
                None => return error("key-missing"),
                Some(key) if !could_be_ours(self.id, key) => return error("key-refused"),
                Some(_) => {}
            }
        }
        let scene = self.story.at(elapsed);
        let trouble = if caller == Some(scene.now.victim) { scene.now.trouble } else { Trouble::None };
        match trouble {
            Trouble::Revoked => return error("key-refused"),
            Trouble::Leaked => return error("key-leaked"),
            Trouble::NoCredit => return error("no-credit"),
            Trouble::TokensPerMinute if fastrand::u8(..) < 190 => return error("tokens-per-minute"),
            _ if model == Some(RETIRED_MODEL) => return error("model-gone"),
            _ => {}
        }
        let stream = body["stream"].as_bool().unwrap_or(self.id == "ollama") || verb(path).contains("tream");
        let tools = !body["tools"].is_null() || !body["toolConfig"].is_null();
        let Some(recording) = LIBRARY.answer(self.id, path, stream, tools) else { return error("not-found") };
        self.repeat(recording, model.or_else(|| url_model(path)), trouble)
    }

    /// A recorded answer, changed by `trouble`.
    fn repeat(&self, recording: &Recording, model: Option<&str>, trouble: Trouble) -> Answer {
        let factor = fastrand::u64(if trouble == Trouble::SpendSpike { SPIKE_FACTORS } else { FACTORS });
        let (headers, mut pieces) = recording.repeat(model, factor);
        let mut end = AnswerEnd::Clean;
        match trouble {
            Trouble::Overloaded if recording.stream => {
                pieces.truncate(pieces.len() / 2);
                if let Some(error) = LIBRARY.error("overloaded", self.id) {
                    pieces.push(Bytes::from_static(error.body.as_bytes()));
                }
            }
            Trouble::Truncated if recording.stream => {
                pieces.truncate((pieces.len() / 2).max(1));
                end = if fastrand::bool() { AnswerEnd::Clean } else { AnswerEnd::Broken };
            }
            _ => {}
        }
        let pause = PIECE_PAUSE.min(STREAM_LENGTH / u32::try_from(pieces.len()).unwrap_or(u32::MAX).max(1));
        let pace = self.story.pace();
        let pieces = pieces.into_iter().enumerate().map(|(index, piece)| {
            let wait = if index == 0 { Duration::ZERO } else { pause.mul_f64(pace * (0.4 + 1.2 * fastrand::f64())) };
            (wait, piece)
        });
        Answer {
            status: recording.status,
            headers,
            pieces: pieces.collect(),
            trailers: Vec::new(),
            end,
            delay: self.head_delay(),
        }
    }

    fn refuse(&self, error: &RecordedError, model: Option<&str>, key: Option<&str>, path: &str) -> Answer {
        let body = error.body.replace("{model}", &in_json(model.unwrap_or("")));
        let body = body.replace("{key}", &in_json(&masked(key.unwrap_or("")))).replace("{path}", &in_json(path));
        Answer {
            status: error.status,
            headers: error.headers(),
            pieces: vec![(Duration::ZERO, Bytes::from(body))],
            trailers: Vec::new(),
            end: AnswerEnd::Clean,
            delay: self.head_delay() / 3,
        }
    }

    fn head_delay(&self) -> Duration {
        Duration::from_millis(fastrand::u64(HEAD_MILLIS)).mul_f64(self.story.pace())
    }
}

/// The credential, wherever it travels. An empty one counts as none.
fn presented_key(received: &Received) -> Option<String> {
    let header = |name: &str| received.head.headers.get(name)?.to_str().ok();
    let bearer = header("authorization").map(|value| value.strip_prefix("Bearer").unwrap_or(value));
    let key = bearer.or_else(|| header("x-api-key")).or_else(|| header("x-goog-api-key")).map(str::to_owned).or_else(
        || {
            let query = received.head.uri.query().unwrap_or("");
            form_urlencoded::parse(query.as_bytes())
                .find(|(name, _)| name == "key")
                .map(|(_, value)| value.into_owned())
        },
    )?;
    let key = key.trim();
    (!key.is_empty()).then(|| key.to_owned())
}

/// A stranger's key that a provider would look up at all: no variable, no quotes, no other provider's prefix.
fn could_be_ours(provider: &str, key: &str) -> bool {
    let plain =
        key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'=' | b'+' | b'/' | b':'));
    let stranger = ACTORS.iter().filter(|actor| actor.provider != provider).filter_map(|actor| actor.key_shape);
    let of_other = stranger.filter(|(prefix, _)| prefix.len() > 3).any(|(prefix, _)| key.starts_with(prefix));
    plain && !of_other
}

/// As OpenAI echoes a key that it refuses: the first eight and the last four characters (recorded answers).
fn masked(key: &str) -> Cow<'_, str> {
    let chars: Vec<char> = key.chars().collect();
    if chars.len() <= 12 {
        return Cow::Borrowed(key);
    }
    let (head, tail) = (&chars[..8], &chars[chars.len() - 4..]);
    Cow::Owned(head.iter().chain(&['*'; 12]).chain(tail).collect())
}

/// The inside of a JSON string.
fn in_json(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The model that a Gemini path names; Bedrock's answers name none.
fn url_model(path: &str) -> Option<&str> {
    path.split_once("/models/")?.1.split_once(':').map(|(model, _)| model)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::demo::story::{CHAPTERS, actor};
    use crate::demo::traffic;

    fn provider(id: &'static str) -> Provider {
        Provider::new(id, Story { minute: Duration::from_secs(60) }, Instant::now())
    }

    fn when(trouble: Trouble) -> Duration {
        let index = CHAPTERS.iter().position(|chapter| chapter.trouble == trouble).expect("it is in the story");
        Duration::from_secs(index as u64 * 60 + 40)
    }

    /// What the traffic sends for the call number `call` of an actor, at that time.
    fn sent(name: &str, call: usize, elapsed: Duration) -> Received {
        let actor = actor(name).expect("it is in the story");
        let scene = Story { minute: Duration::from_secs(60) }.at(elapsed);
        let request = traffic::request("http://127.0.0.1:1", actor, &actor.calls[call], &scene, 7).expect("a request");
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().expect("a path").as_str();
        head.uri = path.strip_prefix(&format!("/{}", actor.provider)).expect("its prefix").parse().expect("a path");
        Received { head: Arc::new(head), body: Bytes::from(body) }
    }

    fn text(answer: &Answer) -> String {
        String::from_utf8_lossy(&answer.pieces.iter().map(|(_, piece)| piece.clone()).collect::<Vec<_>>().concat())
            .into()
    }

    #[test]
    fn every_actor_gets_its_answers_while_all_is_well() {
        for actor in ACTORS {
            for call in 0..actor.calls.len() {
                let answer =
                    provider(actor.provider).answer_at(&sent(actor.name, call, Duration::ZERO), Duration::ZERO);
                assert_eq!(answer.status, 200, "{} {call}: {}", actor.name, text(&answer));
                assert_eq!(answer.end, AnswerEnd::Clean);
            }
        }
    }

    #[test]
    fn each_trouble_shows_as_the_provider_shows_it() {
        let cases = [
            (Trouble::Revoked, "laptop-ana", 1, 401, "invalid_api_key"),
            (Trouble::NoCredit, "laptop-ana", 1, 429, "insufficient_quota"),
            (Trouble::ModelGone, "eval-ci", 1, 404, "model_not_found"),
            (Trouble::Overloaded, "chat-prod", 0, 200, "overloaded_error"),
            (Trouble::Unexpanded, "laptop-ana", 1, 401, "${OPENAI"),
            (Trouble::WrongProvider, "laptop-ana", 1, 401, "sk-ant-a*"),
            (Trouble::Leaked, "batch-nightly", 0, 403, "reported as leaked"),
        ];
        for (trouble, name, call, status, says) in cases {
            let id = actor(name).expect("it is in the story").provider;
            let answer = provider(id).answer_at(&sent(name, call, when(trouble)), when(trouble));
            assert_eq!(answer.status, status, "{trouble:?}");
            assert!(text(&answer).contains(says), "{trouble:?}: {}", text(&answer));
        }
    }

    #[test]
    fn limits_say_so_in_headers_and_only_for_their_key() {
        let at = when(Trouble::TokensPerMinute);
        let answers: Vec<_> = (0..64).map(|_| provider("openai").answer_at(&sent("search-prod", 2, at), at)).collect();
        let limited = answers.iter().find(|answer| answer.status == 429).expect("most are limited");
        assert!(limited.headers.contains(&("x-ratelimit-remaining-tokens".to_owned(), "0".to_owned())));
        assert!(text(limited).contains("gpt-4.1 in organization"), "{}", text(limited));
        assert_eq!(provider("openai").answer_at(&sent("laptop-ana", 1, at), at).status, 200);
    }

    #[test]
    fn truncated_streams_lack_their_last_event() {
        let at = when(Trouble::Truncated);
        let answer = provider("mistral").answer_at(&sent("mail-prod", 0, at), at);
        assert_eq!(answer.status, 200);
        assert!(!text(&answer).contains("[DONE]"));
        assert!(
            text(&provider("mistral").answer_at(&sent("mail-prod", 0, Duration::ZERO), Duration::ZERO))
                .contains("[DONE]")
        );
    }

    #[test]
    fn strangers_may_call_with_anything_that_looks_like_a_key() {
        assert!(could_be_ours("openai", "any-key"));
        for bad in ["${OPENAI_API_KEY}", "\"quoted\"", "two words", "sk-ant-api03-abc", "gsk_abc"] {
            assert!(!could_be_ours("openai", bad), "{bad}");
        }
    }

    #[test]
    fn a_path_that_nobody_knows_is_not_found_and_bad_bodies_do_no_harm() {
        let mut received = sent("laptop-ana", 1, Duration::ZERO);
        received.body = Bytes::from_static(b"\xff not json");
        assert_eq!(provider("openai").answer_at(&received, Duration::ZERO).status, 200);
        let head = http::Request::post("/v1/\"nothing\"").header("authorization", "Bearer any-key").body(());
        let Ok(head) = head else { return };
        received.head = Arc::new(head.into_parts().0);
        let answer = provider("openai").answer_at(&received, Duration::ZERO);
        assert_eq!(answer.status, 404);
        assert!(serde_json::from_str::<Value>(&text(&answer)).is_ok(), "{}", text(&answer));
    }
}
