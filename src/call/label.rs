//! Closed sets of label values: each variant has one stable spelling, used in metrics, spans, records and config alike.

/// Declares an enum whose variants each have one stable text form: `as_str`, `ALL`, `Display`, `FromStr`, serde.
macro_rules! label_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* #[doc = concat!("`", $text, "`")] $variant),+ }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The stable text form.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok($name::$variant),)+
                    _ => Err(format!(
                        "\"{text}\": unknown; write one of {}",
                        Self::ALL.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", ")
                    )),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use label_enum;

label_enum! {
    /// How the call reached the sidecar.
    Way { BaseUrl = "base_url", Forward = "forward", Redirect = "redirect" }
}

label_enum! {
    /// What the call asks the provider to do, the same word for every provider.
    Operation {
        Chat = "chat",
        Responses = "responses",
        Messages = "messages",
        GenerateContent = "generate_content",
        TextCompletion = "text_completion",
        Embeddings = "embeddings",
        Image = "image",
        Speech = "speech",
        Transcription = "transcription",
        Moderation = "moderation",
        Rerank = "rerank",
        Realtime = "realtime",
        Batch = "batch",
        Files = "files",
        Models = "models",
        CountTokens = "count_tokens",
        Other = "other",
    }
}

label_enum! {
    /// The wire format of a call's body: code exists per protocol, not per provider.
    Protocol {
        OpenaiChat = "openai-chat",
        OpenaiResponses = "openai-responses",
        OpenaiCompletions = "openai-completions",
        OpenaiEmbeddings = "openai-embeddings",
        OpenaiImages = "openai-images",
        OpenaiAudio = "openai-audio",
        OpenaiRealtime = "openai-realtime",
        AnthropicMessages = "anthropic-messages",
        AnthropicComplete = "anthropic-complete",
        Gemini = "gemini",
        GeminiInteractions = "gemini-interactions",
        VertexPredict = "vertex-predict",
        BedrockConverse = "bedrock-converse",
        BedrockInvoke = "bedrock-invoke",
        BedrockAgent = "bedrock-agent",
        CohereV1 = "cohere-v1",
        CohereV2 = "cohere-v2",
        Ollama = "ollama",
        DashscopeNative = "dashscope-native",
        Watsonx = "watsonx",
        /// Counted by outcome only; error bodies are still read.
        Opaque = "opaque",
    }
}

label_enum! {
    /// Where a call's token counts come from.
    UsageSource { Reported = "reported", Injected = "injected", Estimated = "estimated", None = "none" }
}

label_enum! {
    /// The disjoint kinds of tokens that `keytally_tokens_total` counts; every token is in exactly one.
    TokenType {
        InputUncached = "input_uncached",
        InputCacheRead = "input_cache_read",
        InputCacheWrite = "input_cache_write",
        InputAudio = "input_audio",
        InputImage = "input_image",
        OutputText = "output_text",
        OutputReasoning = "output_reasoning",
        OutputAudio = "output_audio",
        OutputImage = "output_image",
    }
}

label_enum! {
    /// What a provider's limit counts; plain names are the provider's main window, usually a minute.
    LimitResource {
        Requests = "requests",
        Tokens = "tokens",
        InputTokens = "input_tokens",
        OutputTokens = "output_tokens",
        Images = "images",
        RequestsSecond = "requests_second",
        RequestsDay = "requests_day",
        TokensDay = "tokens_day",
        TokensMonth = "tokens_month",
        Other = "other",
    }
}
