//! The demo's script: who calls what with which key, and which key goes wrong in which minute.
//!
//! Pure data and one function of time, [`Story::at`]; the simulated provider and the traffic both ask it, the table never
//! does. Keys are made up at start ([`made_up_key`]): they have the shape of real ones and open nothing.

use std::time::Duration;

use sha2::{Digest, Sha256};

/// One application with its own key.
#[derive(Debug)]
pub struct Actor {
    /// Name of its key.
    pub name: &'static str,
    /// Team that owns the key; empty when it sends none.
    pub team: &'static str,
    /// Environment.
    pub env: &'static str,
    /// Whom it calls.
    pub provider: &'static str,
    /// What it does, picked at random.
    pub calls: &'static [Call],
    /// Mean time between two of its calls.
    pub every: Duration,
    /// How the key looks: first characters and whole length.
    pub key_shape: Option<(&'static str, usize)>,
    /// Key family of its fingerprint.
    pub family: &'static str,
}

/// One kind of call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Which of the provider's APIs.
    pub api: Api,
    /// Model asked for.
    pub model: &'static str,
    /// Asks for a stream.
    pub stream: bool,
    /// Offers a tool.
    pub tools: bool,
}

/// The APIs that the demo speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// OpenAI chat completions, also of the vendors that copy them.
    Chat,
    /// OpenAI responses.
    Responses,
    /// OpenAI embeddings.
    Embeddings,
    /// Anthropic messages.
    Messages,
    /// Gemini generateContent and streamGenerateContent.
    Generate,
    /// Bedrock converse and converse-stream.
    Converse,
    /// Cohere chat, version 2.
    CohereChat,
    /// Ollama's own chat.
    OllamaChat,
}

const fn call(api: Api, model: &'static str, stream: bool, tools: bool) -> Call {
    Call { api, model, stream, tools }
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Everyone in the demo. A call of the list is picked with equal chance; one that is twice in it, twice as often.
pub const ACTORS: &[Actor] = &[
    Actor {
        name: "search-prod",
        team: "search",
        env: "prod",
        provider: "openai",
        calls: &[
            call(Api::Embeddings, "text-embedding-3-small", false, false),
            call(Api::Embeddings, "text-embedding-3-small", false, false),
            call(Api::Chat, "gpt-4.1", false, false),
            call(Api::Chat, "gpt-4o-mini", true, false),
        ],
        every: millis(1_700),
        key_shape: Some(("sk-proj-", 164)),
        family: "openai",
    },
    Actor {
        name: "docs-prod",
        team: "search",
        env: "prod",
        provider: "cohere",
        calls: &[
            call(Api::CohereChat, "command-r-08-2024", false, false),
            call(Api::CohereChat, "command-r-08-2024", true, true),
        ],
        every: millis(4_500),
        key_shape: Some(("", 40)),
        family: "cohere",
    },
    Actor {
        name: "batch-nightly",
        team: "search",
        env: "batch",
        provider: "gemini",
        calls: &[
            call(Api::Generate, "gemini-2.5-flash", false, false),
            call(Api::Generate, "gemini-2.5-flash", true, false),
            call(Api::Generate, "gemini-2.5-flash", false, true),
        ],
        every: millis(2_600),
        key_shape: Some(("AIza", 39)),
        family: "google",
    },
    Actor {
        name: "chat-prod",
        team: "assistant",
        env: "prod",
        provider: "anthropic",
        calls: &[
            call(Api::Messages, "claude-sonnet-4-20250514", true, false),
            call(Api::Messages, "claude-sonnet-4-20250514", true, false),
            call(Api::Messages, "claude-sonnet-4-20250514", false, true),
            call(Api::Messages, "claude-haiku-4-5-20251001", true, true),
            call(Api::Messages, "claude-3-5-haiku-20241022", false, false),
        ],
        every: millis(1_900),
        key_shape: Some(("sk-ant-api03-", 108)),
        family: "anthropic",
    },
    Actor {
        name: "agent-prod",
        team: "assistant",
        env: "prod",
        provider: "bedrock",
        calls: &[
            call(Api::Converse, "us.anthropic.claude-sonnet-4-6", false, true),
            call(Api::Converse, "openai.gpt-oss-120b-1:0", false, false),
            call(Api::Converse, "amazon.titan-text-express-v1", true, false),
        ],
        every: millis(3_800),
        key_shape: Some(("ABSK", 132)),
        family: "aws",
    },
    Actor {
        name: "mail-prod",
        team: "assistant",
        env: "prod",
        provider: "mistral",
        calls: &[
            call(Api::Chat, "mistral-small-latest", true, false),
            call(Api::Chat, "mistral-small-latest", true, true),
            call(Api::Chat, "mistral-small-latest", false, false),
            call(Api::Chat, "mistral-large-latest", false, true),
        ],
        every: millis(3_100),
        key_shape: Some(("", 32)),
        family: "mistral",
    },
    Actor {
        name: "eval-ci",
        team: "platform",
        env: "ci",
        provider: "groq",
        calls: &[
            call(Api::Chat, "openai/gpt-oss-120b", true, true),
            call(Api::Chat, "llama-3.3-70b-versatile", false, false),
            call(Api::Chat, "llama-3.3-70b-versatile", true, false),
        ],
        every: millis(2_900),
        key_shape: Some(("gsk_", 56)),
        family: "groq",
    },
    Actor {
        name: "report-weekly",
        team: "platform",
        env: "batch",
        provider: "deepseek",
        calls: &[call(Api::Chat, "deepseek-reasoner", false, false), call(Api::Chat, "deepseek-chat", false, true)],
        every: millis(6_500),
        key_shape: Some(("sk-", 35)),
        family: "deepseek",
    },
    Actor {
        name: "laptop-bo",
        team: "platform",
        env: "dev",
        provider: "openrouter",
        calls: &[
            call(Api::Chat, "meta-llama/llama-3.2-3b-instruct", false, false),
            call(Api::Chat, "anthropic/claude-sonnet-4.5", false, true),
        ],
        every: millis(7_500),
        key_shape: Some(("sk-or-v1-", 73)),
        family: "openrouter",
    },
    Actor {
        name: "laptop-ana",
        team: "platform",
        env: "dev",
        provider: "openai",
        calls: &[
            call(Api::Responses, "gpt-4o", true, true),
            call(Api::Responses, "gpt-4o-mini", true, false),
            call(Api::Responses, "gpt-4o-mini", false, false),
            call(Api::Chat, "gpt-5", false, false),
            call(Api::Chat, "gpt-4o-mini", true, true),
        ],
        every: millis(2_300),
        key_shape: Some(("sk-proj-", 164)),
        family: "openai",
    },
    Actor {
        name: "local-notes",
        team: "",
        env: "",
        provider: "ollama",
        calls: &[call(Api::OllamaChat, "gemma3:1b", true, false), call(Api::OllamaChat, "gemma3:1b", false, false)],
        every: millis(8_000),
        key_shape: None,
        family: "ollama",
    },
];

/// A way for a key to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing is wrong.
    None,
    /// The provider no longer takes the key.
    Revoked,
    /// The key's tokens-per-minute limit is used up, most of the time.
    TokensPerMinute,
    /// The account has no money left.
    NoCredit,
    /// The application asks for a model that is gone.
    ModelGone,
    /// Streams begin well, then say that the provider is overloaded.
    Overloaded,
    /// Streams stop in the middle.
    Truncated,
    /// The application sends the name of a variable in place of its value.
    Unexpanded,
    /// The application sends its neighbor's key, which is of another provider.
    WrongProvider,
    /// The key was found in public and blocked.
    Leaked,
    /// Five times the calls, on a big model.
    SpendSpike,
}

/// One stretch of the story.
#[derive(Debug, PartialEq, Eq)]
pub struct Chapter {
    /// What goes wrong.
    pub trouble: Trouble,
    /// Whose calls it hits.
    pub victim: &'static str,
    /// The narrator's words for it.
    pub text: &'static str,
}

const HEALTHY: Chapter = Chapter { trouble: Trouble::None, victim: "", text: "every key works" };

/// One chapter a minute, then from the start again.
pub const CHAPTERS: &[Chapter] = &[
    Chapter {
        trouble: Trouble::Revoked,
        victim: "laptop-ana",
        text: "somebody deleted laptop-ana's key in the provider's console",
    },
    Chapter {
        trouble: Trouble::TokensPerMinute,
        victim: "search-prod",
        text: "search-prod runs into its tokens-per-minute limit",
    },
    Chapter {
        trouble: Trouble::NoCredit,
        victim: "laptop-ana",
        text: "laptop-ana has a new key, but its account has run out of credit",
    },
    Chapter { trouble: Trouble::ModelGone, victim: "eval-ci", text: "eval-ci asks for a model that was retired" },
    Chapter {
        trouble: Trouble::Overloaded,
        victim: "chat-prod",
        text: "chat-prod's streams begin with 200, then say \"overloaded\" in the middle",
    },
    Chapter {
        trouble: Trouble::Truncated,
        victim: "mail-prod",
        text: "mail-prod's streams are cut off on the way, without a word",
    },
    Chapter {
        trouble: Trouble::Unexpanded,
        victim: "laptop-ana",
        text: "laptop-ana's start script sends ${OPENAI_API_KEY} as it is written",
    },
    Chapter {
        trouble: Trouble::WrongProvider,
        victim: "laptop-ana",
        text: "laptop-ana calls OpenAI with chat-prod's Anthropic key",
    },
    Chapter {
        trouble: Trouble::Leaked,
        victim: "batch-nightly",
        text: "batch-nightly's key was pushed to a public repository, and its provider blocked it",
    },
    Chapter {
        trouble: Trouble::SpendSpike,
        victim: "report-weekly",
        text: "report-weekly loops: far more calls than usual, each with a huge prompt",
    },
];

/// The model that [`Trouble::ModelGone`] asks for; it was retired in truth.
pub const RETIRED_MODEL: &str = "llama3.1-405b";

/// How many times its usual rate [`Trouble::SpendSpike`] calls.
pub const SPIKE_RATE: u32 = 5;

/// Where the story stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Minutes begun, from 1.
    pub minute: u64,
    /// What happens now.
    pub now: &'static Chapter,
    /// What happens next.
    pub next: &'static Chapter,
    /// How long until then.
    pub next_in: Duration,
}

/// The story's clock.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// Length of one minute of it.
    pub minute: Duration,
}

impl Story {
    /// The scene `elapsed` after the start. The first quarter of the very first minute is quiet.
    pub fn at(&self, elapsed: Duration) -> Scene {
        let minute_nanos = self.minute.as_nanos().max(1);
        let index = elapsed.as_nanos() / minute_nanos;
        let into = Duration::from_nanos(u64::try_from(elapsed.as_nanos() % minute_nanos).unwrap_or(0));
        let chapter = |index: u128| &CHAPTERS[(index % CHAPTERS.len() as u128) as usize];
        let minute = u64::try_from(index + 1).unwrap_or(u64::MAX);
        let quiet = self.minute / 4;
        if index == 0 && into < quiet {
            return Scene { minute, now: &HEALTHY, next: chapter(0), next_in: quiet - into };
        }
        Scene { minute, now: chapter(index), next: chapter(index + 1), next_in: self.minute.saturating_sub(into) }
    }

    /// How much slower than real time this story runs: 1 for minutes of 60 seconds, less for shorter ones.
    pub fn pace(&self) -> f64 {
        (self.minute.as_secs_f64() / 60.0).clamp(0.01, 1.0)
    }
}

/// The actor whose key this is.
pub fn actor(name: &str) -> Option<&'static Actor> {
    ACTORS.iter().find(|actor| actor.name == name)
}

/// A key of the right shape that opens nothing; `None` for an actor without one. The same in every run.
pub fn made_up_key(actor: &Actor) -> Option<String> {
    let (prefix, length) = actor.key_shape?;
    let mut key = format!("{prefix}madeup");
    let mut block = Sha256::digest(format!("keytally demo {}", actor.name));
    while key.len() < length {
        for byte in block {
            key.push_str(&format!("{byte:02x}"));
        }
        block = Sha256::digest(block);
    }
    key.truncate(length);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_quarter_minute_is_quiet_then_a_new_trouble_every_minute() {
        let story = Story { minute: Duration::from_secs(60) };
        let scene = story.at(Duration::from_secs(10));
        assert_eq!((scene.minute, scene.now.trouble, scene.next_in), (1, Trouble::None, Duration::from_secs(5)));
        assert_eq!(scene.next.trouble, Trouble::Revoked);
        let scene = story.at(Duration::from_secs(15));
        assert_eq!((scene.now.trouble, scene.next.trouble), (Trouble::Revoked, Trouble::TokensPerMinute));
        assert_eq!(scene.next_in, Duration::from_secs(45));
        let mut seen = Vec::new();
        for minute in 0..CHAPTERS.len() as u64 {
            seen.push(story.at(Duration::from_secs(minute * 60 + 30)).now.trouble);
        }
        let expected: Vec<_> = CHAPTERS.iter().map(|chapter| chapter.trouble).collect();
        assert_eq!(seen, expected);
        let again = story.at(Duration::from_secs(CHAPTERS.len() as u64 * 60));
        assert_eq!(again.now.trouble, Trouble::Revoked, "the loop has no quiet start");
    }

    #[test]
    fn a_minute_of_no_length_does_not_divide_by_zero() {
        let scene = Story { minute: Duration::ZERO }.at(Duration::from_secs(1));
        assert!(scene.minute > 1);
    }

    #[test]
    fn every_victim_is_an_actor_and_names_are_unique() {
        for chapter in CHAPTERS {
            assert!(actor(chapter.victim).is_some(), "{}", chapter.victim);
            assert!(chapter.text.contains(chapter.victim), "{}", chapter.text);
        }
        for (index, one) in ACTORS.iter().enumerate() {
            assert!(ACTORS[..index].iter().all(|other| other.name != one.name), "{} twice", one.name);
        }
    }

    #[test]
    fn made_up_keys_have_their_shape_and_differ() {
        let mut all = Vec::new();
        for one in ACTORS {
            let Some((prefix, length)) = one.key_shape else {
                assert!(made_up_key(one).is_none());
                continue;
            };
            let key = made_up_key(one).expect("it has a shape");
            assert!(key.starts_with(prefix) && key.len() == length && key.contains("madeup"), "{}", one.name);
            assert!(!all.contains(&key));
            all.push(key);
        }
    }
}
