//! Host patterns: which provider a host name belongs to. A pattern has at most one `*`: as first label it stands for one
//! or more labels, elsewhere for one or more letters, digits and hyphens inside a label.

/// One pattern, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    text: Box<str>,
    /// Byte index of `*`.
    star: Option<usize>,
}

impl HostPattern {
    /// Checks a pattern such as `api.openai.com` or `bedrock-runtime.*.amazonaws.com`.
    ///
    /// # Errors
    /// What is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let wrong = |what| Err(format!("\"{text}\": {what}; write a host such as api.example.com or *.example.com"));
        if lower.is_empty() || lower.len() > 253 {
            return wrong("a host has 1 to 253 characters");
        }
        if lower.matches('*').count() > 1 {
            return wrong("more than one `*`");
        }
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'*'))
        };
        if !lower.split('.').all(label_ok) {
            return wrong("not a host name");
        }
        let star = lower.find('*');
        if star.is_some() && lower.rsplit('.').take(2).any(|label| label.contains('*')) {
            return wrong("`*` must leave at least the last two labels fixed");
        }
        Ok(Self { text: lower.into(), star })
    }

    /// A host that is taken as it is (it comes from a parsed URL).
    pub(super) fn exact(host: &str) -> Self {
        Self { text: host.to_ascii_lowercase().into(), star: None }
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it names exactly one host.
    pub fn is_exact(&self) -> bool {
        self.star.is_none()
    }

    /// Whether `host` (lower case, no port, no final dot) belongs to it.
    pub fn matches(&self, host: &str) -> bool {
        let Some(star) = self.star else { return *self.text == *host };
        let (before, after) = (&self.text[..star], &self.text[star + 1..]);
        let Some(middle) = host.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)) else { return false };
        let labels = before.is_empty() && after.starts_with('.');
        !middle.is_empty()
            && !middle.starts_with('.')
            && middle.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_') || (labels && b == b'.'))
    }
}

/// Whether `text` is one DNS label: 1 to 63 letters, digits and inner hyphens.
pub(super) fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars() {
        let yes = |pattern: &str, host: &str| HostPattern::parse(pattern).expect(pattern).matches(host);
        assert!(yes("API.openai.com", "api.openai.com"));
        assert!(yes("*.endpoints.huggingface.cloud", "a1.us-east-1.aws.endpoints.huggingface.cloud"));
        assert!(!yes("*.openai.azure.com", "openai.azure.com"));
        assert!(!yes("*.openai.azure.com", "openai.azure.com.evil.example"));
        assert!(yes("bedrock-runtime.*.amazonaws.com", "bedrock-runtime.us-east-1.amazonaws.com"));
        assert!(!yes("bedrock-runtime.*.amazonaws.com", "bedrock-runtime.a.b.amazonaws.com"));
        assert!(yes("*-aiplatform.googleapis.com", "us-central1-aiplatform.googleapis.com"));
        assert!(!yes("*-aiplatform.googleapis.com", "x.us-aiplatform.googleapis.com"));
        assert!(!yes("*.a.com", ".a.com"));
    }

    #[test]
    fn wrong_patterns() {
        for text in ["", "*", "*.com", "a.*", "a b.com", "*.*.a.com", "http://a.com", "a.com/", "a..com", "a.com:443"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
        assert!(is_dns_label("us-east-1") && !is_dns_label("a.b") && !is_dns_label("-a") && !is_dns_label(""));
    }
}
