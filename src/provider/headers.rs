//! Which response headers are kept: an allow-list, since headers carry cookies and internals. Everything else is dropped.

use compact_str::CompactString;
use http::HeaderMap;

use super::Provider;
use crate::call::KeptHeader;

/// Most headers that are kept of one answer.
const MAX_HEADERS: usize = 64;
/// Longest value, bytes; longer ones are cut.
const MAX_VALUE_BYTES: usize = 256;

/// Kept of every answer, whoever sends it.
const NAMES: &[&str] = &[
    "apim-request-id",
    "cf-error-details",
    "cf-mitigated",
    "cf-ray",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "inference-id",
    "openai-model",
    "openai-processing-ms",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "server",
    "via",
    "www-authenticate",
    "x-amz-request-id",
    "x-amzn-errortype",
    "x-amzn-requestid",
    "x-correlation-id",
    "x-envoy-upstream-service-time",
    "x-generation-id",
    "x-litellm-call-id",
    "x-litellm-model-id",
    "x-litellm-response-cost",
    "x-ms-served-model",
    "x-openai-authorization-error",
    "x-provider-name",
    "x-request-id",
    "x-service-tier",
    "x-should-retry",
];

/// For each length (up to 31) the [`NAMES`] of that length, one bit each.
const OF_LENGTH: [u32; 32] = {
    let mut table = [0; 32];
    let mut at = 0;
    while at < NAMES.len() {
        table[NAMES[at].len()] |= 1 << at;
        at += 1;
    }
    table
};

fn is_named(name: &str) -> bool {
    let mut left = OF_LENGTH.get(name.len()).copied().unwrap_or_default();
    while left != 0 {
        if NAMES[left.trailing_zeros() as usize] == name {
            return true;
        }
        left &= left - 1;
    }
    false
}

/// Kept of every answer when a name opens like this.
const PREFIXES: &[&str] = &[
    "anthropic-priority-",
    "anthropic-ratelimit-",
    "ratelimit",
    "x-amzn-bedrock-",
    "x-ratelimit-",
    "x-ratelimitbysize-",
];

/// The headers of an answer worth keeping, names in lower case, first value of each; at most 64 of at most 256 bytes.
///
/// Ids, limits, accounts, error class, tier, served model and stated cost are kept; cookies and the rest are not.
pub fn keep_response_headers(provider: &Provider, headers: &HeaderMap) -> Vec<KeptHeader> {
    let named = |name: &str| {
        is_named(name)
            || provider.request_id_headers.iter().chain(&provider.account_headers).any(|own| **own == *name)
            || provider.keep_headers.iter().any(|own| **own == *name)
    };
    let prefixed = |name: &str| {
        (name.starts_with(['a', 'r', 'x']) && PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
            || provider.keep_headers.iter().any(|own| own.strip_suffix('*').is_some_and(|p| name.starts_with(p)))
    };
    let (mut kept, mut rest) = (Vec::with_capacity(16), Vec::new());
    let mut last = "";
    for (name, value) in headers {
        let name = name.as_str();
        // The values of one name follow each other.
        if name == std::mem::replace(&mut last, name) {
            continue;
        }
        let place = match () {
            () if named(name) => &mut kept,
            () if prefixed(name) => &mut rest,
            () => continue,
        };
        if place.len() < MAX_HEADERS {
            place.push((name.into(), cut(value.as_bytes())));
        }
    }
    // Named headers first, so that a flood of prefixed ones cannot push them out.
    rest.truncate(MAX_HEADERS - kept.len());
    kept.append(&mut rest);
    kept
}

/// The provider's id of the exchange, from kept headers: the provider's own header first, then the common ones.
pub fn request_id<'h>(provider: &Provider, kept: &'h [KeptHeader]) -> Option<&'h str> {
    const COMMON: &[&str] =
        &["x-request-id", "request-id", "apim-request-id", "x-amzn-requestid", "x-correlation-id", "cf-ray"];
    let value = |wanted: &str| kept.iter().find(|(name, _)| **name == *wanted).map(|(_, value)| &**value);
    let own = provider.request_id_headers.iter().map(|name| &**name);
    own.chain(COMMON.iter().copied()).filter_map(value).find(|id| !id.is_empty())
}

fn cut(value: &[u8]) -> CompactString {
    if let Ok(text) = std::str::from_utf8(value)
        && text.len() <= MAX_VALUE_BYTES
    {
        return text.into();
    }
    let text = String::from_utf8_lossy(&value[..value.len().min(MAX_VALUE_BYTES)]);
    text[..text.floor_char_boundary(MAX_VALUE_BYTES)].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Catalog;

    #[test]
    fn names_are_found_and_others_are_not() {
        for name in NAMES {
            assert!(is_named(name), "{name}");
            assert!(!is_named(&name[1..]) && !is_named(&format!("{name}-")), "{name}");
        }
        assert!(!is_named("") && !is_named(&"x".repeat(1000)));
    }

    #[test]
    fn keeps_what_matters_and_nothing_else() {
        let catalog = Catalog::embedded();
        let mut headers = HeaderMap::new();
        for name in
            ["x-request-id", "openai-organization", "x-ratelimit-limit-requests", "retry-after-ms", "x-should-retry"]
        {
            headers.insert(name, "kept".parse().expect("value"));
        }
        for name in ["set-cookie", "openai-version", "x-ms-region", "strict-transport-security", "location"] {
            headers.insert(name, "dropped".parse().expect("value"));
        }
        headers.append("x-request-id", "second".parse().expect("value"));
        let kept = keep_response_headers(catalog.provider("openai").expect("openai"), &headers);
        assert_eq!(kept.len(), 5, "{kept:?}");
        assert!(kept.iter().all(|(_, value)| **value == *"kept"));
        let azure = keep_response_headers(catalog.provider("azure_openai").expect("azure"), &headers);
        assert!(azure.iter().any(|(name, _)| **name == *"x-ms-region"));
        assert!(!azure.iter().any(|(name, _)| **name == *"openai-organization"));
    }

    #[test]
    fn floods_and_long_values_are_cut() {
        let catalog = Catalog::embedded();
        let openai = catalog.provider("openai").expect("openai");
        let mut headers = HeaderMap::new();
        for i in 0..500 {
            let name = http::HeaderName::from_bytes(format!("x-ratelimit-flood-{i}").as_bytes()).expect("name");
            headers.insert(name, "1".parse().expect("value"));
        }
        let long = http::HeaderValue::from_bytes("ä".repeat(4000).as_bytes()).expect("value");
        headers.insert("x-request-id", long);
        let bytes = http::HeaderValue::from_bytes(&[0xff; 600]).expect("value");
        headers.insert("content-type", bytes);
        let kept = keep_response_headers(openai, &headers);
        assert_eq!(kept.len(), MAX_HEADERS);
        assert!(kept.iter().all(|(_, value)| value.len() <= MAX_VALUE_BYTES));
        assert!(request_id(openai, &kept).is_some_and(|id| id.len() == MAX_VALUE_BYTES));
        assert!(kept.iter().any(|(name, _)| **name == *"content-type"));
    }
}
