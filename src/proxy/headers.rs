//! Which headers belong to one hop only (RFC 9110 section 7.6.1) and are not passed on. Nothing else is removed.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};

/// Removes the headers of this hop. `TE: trailers` stays: it tells the next hop what the far end can take.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most requests and answers have none of them: one look at each name instead of a search for each that may be there.
    let is_of_hop = |name: &HeaderName| {
        *name == CONNECTION
            || *name == TRANSFER_ENCODING
            || *name == UPGRADE
            || *name == TE
            || matches!(name.as_str(), "keep-alive" | "proxy-connection")
    };
    if !headers.keys().any(is_of_hop) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| name != TE)
        .collect();
    for name in named {
        headers.remove(name);
    }
    // Chunks override a length (RFC 9112 section 6.3); passed on alone, the length would cut the body.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    let takes_trailers = has_token(headers, &TE, "trailers");
    headers.remove(TE);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The protocol that an `Upgrade` asks for (request) or agrees to (101 answer), if `Connection` names it.
pub(super) fn upgrade_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    has_token(headers, &CONNECTION, "upgrade").then(|| headers.get(UPGRADE).cloned()).flatten()
}

/// Puts the headers of an upgrade back after [`strip_hop_by_hop`].
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// A comma-separated header holds the token, in any case; parameters after `;` are passed over.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap())).collect()
    }

    #[test]
    fn only_this_hop_s_headers_go() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Local, te"),
            ("keep-alive", "timeout=5"),
            ("x-local", "1"),
            ("te", "trailers, deflate"),
            ("transfer-encoding", "chunked"),
            ("proxy-connection", "keep-alive"),
            ("authorization", "Bearer made-up"),
            ("trailer", "x-checksum"),
            ("accept-encoding", "gzip"),
        ]);
        strip_hop_by_hop(&mut headers);
        let want = map(&[
            ("te", "trailers"),
            ("authorization", "Bearer made-up"),
            ("trailer", "x-checksum"),
            ("accept-encoding", "gzip"),
        ]);
        assert_eq!(headers, want);
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(upgrade_protocol(&map(&[("connection", "Upgrade"), ("upgrade", "websocket")])).is_some());
        assert!(upgrade_protocol(&map(&[("connection", "keep-alive"), ("upgrade", "websocket")])).is_none());
        assert!(upgrade_protocol(&map(&[("connection", "upgrade")])).is_none());
    }
}
