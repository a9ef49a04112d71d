//! What still differs from the provider's own word or from the reference, by cause: the same table as
//! `docs/corpus-differences.md`. A difference that is not here fails the test, and so does a line that no longer occurs.

use super::Kind::{self, Facts, Reference, Spend, Tokens};

/// One cause, and the exchanges in which it shows.
pub(super) struct Difference {
    /// As in the documentation.
    pub(super) cause: &'static str,
    /// In which comparisons.
    pub(super) kinds: &'static [Kind],
    /// Ids of exchanges, with blanks between them.
    pub(super) ids: &'static str,
}

const HALF_STATED: &str = "The answer states one of the two totals only; the other is estimated, and the call is marked \
    `estimated`";
const THINKING_IN_TOTAL: &str = "Gemini behind OpenAI's format says the tokens of its thinking in `total_tokens` alone; they are \
    billed as output, so they are counted as output and reasoning";
const AUDIO_BY_SECOND: &str = "Mistral's Voxtral states audio tokens beside the prompt and bills audio by the second: counted as \
    `input_audio_millis`, priced by the second; the reference leaves audio out";
const ITERATIONS: &str = "Anthropic's `usage.iterations` holds calls that the totals leave out (compaction, advisor), some to \
    another model; all are counted and priced, the reference has the totals alone";
const TITAN_STREAM: &str =
    "Amazon Titan states its output count in the last event of a stream; the reference read the first";
const OPENAI_SEARCH: &str = "OpenAI bills web searches at $10 and file searches at $2.50 for 1,000; the reference has tokens \
    alone";
const GOOGLE_SEARCH: &str = "Google bills search grounding at $35 for 1,000 prompts up to Gemini 2.5 and $14 for 1,000 searches \
    from Gemini 3 on; the reference has tokens alone";
const AGENT_MODEL: &str = "A Bedrock agent's answer names its models inside of its trace; the reference found no model and no \
    price";
const TOTAL_ALONE: &str = "Voyage states `total_tokens` alone; the reference has no price for it";
const STREAM_ELSEWHERE: &str =
    "Replicate was asked for a stream and answers with the address of one; the answer itself is whole";

pub(super) const DIFFERENCES: &[Difference] = &[
    Difference {
        cause: HALF_STATED,
        kinds: &[Tokens, Reference, Spend],
        ids: "google-011877973970 google-3667f4bb71cf",
    },
    Difference {
        cause: HALF_STATED,
        kinds: &[Tokens, Reference],
        ids: "google-8a53a4132d13 ollama-0c71863b03ba ollama-4bb2f35689ef ollama-ed2b1529cb63",
    },
    Difference { cause: HALF_STATED, kinds: &[Tokens, Spend], ids: "bedrock-345c9bff7ae4 bedrock-e4954483cc8a" },
    Difference {
        cause: THINKING_IN_TOTAL,
        kinds: &[Tokens, Reference, Spend],
        ids: "google-c5c110a01f90 google-dcf32a37f89b",
    },
    Difference { cause: AUDIO_BY_SECOND, kinds: &[Tokens, Spend], ids: "mistral-9d8d5a8bc9fc mistral-fa6e8043268b" },
    Difference {
        cause: ITERATIONS,
        kinds: &[Reference, Spend],
        ids: "anthropic-1e6c026160f3 anthropic-2e2c00a15eed anthropic-4c6ac595fb5f anthropic-9356b31175aa \
              anthropic-b6403bfb67a9",
    },
    Difference { cause: TITAN_STREAM, kinds: &[Tokens, Reference, Spend], ids: "bedrock-4c0791db420f" },
    Difference {
        cause: OPENAI_SEARCH,
        kinds: &[Spend],
        ids: "openai-12d890a3a210 openai-146133b1bb96 openai-1af91e6275ea openai-1f9e581b1395 \
              openai-224238f35c5e openai-267632f50576 openai-2c9bcac421a9 openai-371eb8451545 \
              openai-3b00662fa894 openai-49fb244cefca openai-4dc80542392d openai-4e5949e4f3ec \
              openai-59e0a8efcd2c openai-617c40c319be openai-642c0b824301 openai-714de9fa50d9 \
              openai-750e8c5adc38 openai-96a6bc9e45db openai-a59be7fc3e32 openai-ad7169e623c5 \
              openai-b35a586c6933 openai-c1c17e8b8eeb openai-c32ac15beb40 openai-d87f0d320b3b \
              openai-d8a63db71efc openai-d8da0a910497 openai-dca9ff9a77fd openai-fbc5bed90997 \
              openai-fbc88c03d6e3",
    },
    Difference {
        cause: GOOGLE_SEARCH,
        kinds: &[Spend],
        ids: "google-0bf61fe0118d google-0d2a0aabb91c google-38cab683131a google-49dd9c88613f \
              google-75c4db30edec google-910998d8e20f google-a4eb11c58f66 google-b3ae67fa65b6 \
              google-c1f2a559ca00 vertex-53d7a7b2ba7a",
    },
    Difference {
        cause: AGENT_MODEL,
        kinds: &[Spend],
        ids: "bedrock-0bdd71a2a0a6 bedrock-3db6a4d7a9b0 bedrock-44c475c2e6ea bedrock-87051b38657d \
              bedrock-9bf1d36eb263 bedrock-a8606554ada9 bedrock-df4211ba3293 bedrock-fac26e2f0e98",
    },
    Difference {
        cause: TOTAL_ALONE,
        kinds: &[Spend],
        ids: "voyageai-4bf7063f2d88 voyageai-a4e31ab6a452 voyageai-b30f8c13159f voyageai-b906909dacfc \
              voyageai-ea1743232422 voyageai-f942b57630d9",
    },
    Difference { cause: STREAM_ELSEWHERE, kinds: &[Facts], ids: "replicate-5e8877f66629" },
];
