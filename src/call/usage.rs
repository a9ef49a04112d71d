//! Token and unit counts of one answer, in one normal form whatever the protocol's own convention.

use serde::{Deserialize, Serialize};

use super::TokenType;

/// What one answer used. `None` means that the provider did not say; it is never "zero".
///
/// Normal form: `input_tokens` is all of the prompt, cached, audio, image and tool-use parts included; `output_tokens`
/// is all of the output, reasoning and audio included. The other counts are parts of those two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Usage {
    /// The whole prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// The whole output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Part of the prompt that was read from a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<u64>,
    /// Part of the prompt that was written to a cache, all lifetimes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    /// Part of `cache_write_tokens` written for an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_1h_tokens: Option<u64>,
    /// Part of the output that was hidden or shown reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
    /// Audio part of the prompt, its cached share included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_audio_tokens: Option<u64>,
    /// Audio part of `cache_read_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_audio_read_tokens: Option<u64>,
    /// Audio part of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_audio_tokens: Option<u64>,
    /// Image part of the prompt, its cached share included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_image_tokens: Option<u64>,
    /// Image part of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_image_tokens: Option<u64>,
    /// Part of the prompt that the provider's own tools brought in (Gemini `toolUsePromptTokenCount`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_input_tokens: Option<u64>,
    /// Web searches billed on top of the tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_searches: Option<u64>,
    /// File or vector-store searches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_searches: Option<u64>,
    /// Rerank or retrieval search units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search_units: Option<u64>,
    /// Images made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<u64>,
    /// Milliseconds of audio in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_audio_millis: Option<u64>,
    /// Characters of text in (speech).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_characters: Option<u64>,
    /// Document pages in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<u64>,
}

impl Usage {
    /// No count at all is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Fields of `later` replace those of `self`; fields that `later` lacks stay. This is how cumulative usage in
    /// streams is merged: never by adding.
    pub fn merge_later(&mut self, later: &Usage) {
        macro_rules! take { ($($field:ident),+) => { $(if later.$field.is_some() { self.$field = later.$field; })+ } }
        take!(
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            reasoning_tokens,
            input_audio_tokens,
            cache_audio_read_tokens,
            output_audio_tokens,
            input_image_tokens,
            output_image_tokens,
            tool_input_tokens,
            web_searches,
            file_searches,
            search_units,
            images,
            input_audio_millis,
            input_characters,
            pages
        );
    }

    /// Adds `other` field by field, for the few protocols whose usage really is a sum over steps.
    pub fn add(&mut self, other: &Usage) {
        macro_rules! sum { ($($field:ident),+) => {
            $(self.$field = match (self.$field, other.$field) {
                (Some(a), Some(b)) => Some(a.saturating_add(b)),
                (a, b) => a.or(b),
            };)+
        } }
        sum!(
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            reasoning_tokens,
            input_audio_tokens,
            cache_audio_read_tokens,
            output_audio_tokens,
            input_image_tokens,
            output_image_tokens,
            tool_input_tokens,
            web_searches,
            file_searches,
            search_units,
            images,
            input_audio_millis,
            input_characters,
            pages
        );
    }

    /// Splits the totals into disjoint kinds whose sum is `input_tokens + output_tokens`; zero kinds are left out.
    ///
    /// Cached audio and images count as cached. Parts that exceed their total (seen from several providers) are cut.
    pub fn split(&self) -> Vec<(TokenType, u64)> {
        let mut split = Vec::with_capacity(5);
        let mut take = |left: &mut u64, kind: TokenType, wanted: u64| {
            let taken = wanted.min(*left);
            *left -= taken;
            if taken > 0 {
                split.push((kind, taken));
            }
        };
        let mut input = self.input_tokens.unwrap_or(0);
        take(&mut input, TokenType::InputCacheRead, self.cache_read_tokens.unwrap_or(0));
        take(&mut input, TokenType::InputCacheWrite, self.cache_write_tokens.unwrap_or(0));
        let fresh_audio =
            self.input_audio_tokens.unwrap_or(0).saturating_sub(self.cache_audio_read_tokens.unwrap_or(0));
        take(&mut input, TokenType::InputAudio, fresh_audio);
        take(&mut input, TokenType::InputImage, self.input_image_tokens.unwrap_or(0));
        let rest = input;
        take(&mut input, TokenType::InputUncached, rest);
        let mut output = self.output_tokens.unwrap_or(0);
        take(&mut output, TokenType::OutputReasoning, self.reasoning_tokens.unwrap_or(0));
        take(&mut output, TokenType::OutputAudio, self.output_audio_tokens.unwrap_or(0));
        take(&mut output, TokenType::OutputImage, self.output_image_tokens.unwrap_or(0));
        let rest = output;
        take(&mut output, TokenType::OutputText, rest);
        split
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_is_disjoint_and_complete() {
        let usage = Usage {
            input_tokens: Some(100),
            cache_read_tokens: Some(60),
            input_audio_tokens: Some(30),
            cache_audio_read_tokens: Some(10),
            output_tokens: Some(50),
            reasoning_tokens: Some(70),
            ..Usage::default()
        };
        let split = usage.split();
        assert_eq!(split.iter().map(|(_, n)| n).sum::<u64>(), 150);
        assert!(split.contains(&(TokenType::InputAudio, 20)));
        assert!(split.contains(&(TokenType::InputUncached, 20)));
        assert!(split.contains(&(TokenType::OutputReasoning, 50)), "more reasoning than output is cut: {split:?}");
    }

    #[test]
    fn later_replaces_and_never_adds() {
        let mut usage = Usage { input_tokens: Some(10), output_tokens: Some(1), ..Usage::default() };
        usage.merge_later(&Usage { output_tokens: Some(25), ..Usage::default() });
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(10), Some(25)));
    }
}
