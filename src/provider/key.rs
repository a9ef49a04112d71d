//! Reads credentials: the one file that sees them. In: method, headers and target of a request. Out: [`KeyFacts`], that is
//! fingerprint, place and findings; the key itself lives in an [`ApiKey`] until this file's function returns.
//!
//! Places are those of the provider first, then all others, so that a key in the wrong place is still seen. Values are
//! looked at up to 8 KiB; longer ones are fingerprinted whole.

use std::borrow::Cow;
use std::sync::LazyLock;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, Method};
use percent_encoding::percent_decode;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Match, finding};
use crate::call::{ApiKey, KeyFacts, KeyPlace};

/// Query parameters that carry credentials, lower case.
pub(super) const KEY_PARAMETERS: &[&str] = &["key", "api_key", "api-key", "subscription-key", "access_token"];

/// Query parameters whose values may be shown.
const HARMLESS_PARAMETERS: &[&str] = &[
    "after",
    "alt",
    "$alt",
    "api-version",
    "before",
    "beta",
    "deployment",
    "include",
    "include[]",
    "limit",
    "model",
    "order",
    "page",
    "pagesize",
    "purpose",
    "starting_after",
    "stream",
    "updatemask",
    "version",
    "webrtcfilter",
];

/// Values of one header that are looked at.
const MOST_OF_A_NAME: usize = 4;

/// Subprotocol that carries a key in browsers, see
/// <https://platform.openai.com/docs/guides/realtime-websocket> (2025).
const WEBSOCKET_KEY: &[u8] = b"openai-insecure-api-key.";

/// Base64 with or without padding.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// A known kind of key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Family {
    pub(super) family: Box<str>,
    pub(super) prefix: Box<str>,
    /// No other provider's keys open like this.
    #[serde(default = "yes")]
    pub(super) unique: bool,
    /// Shortest length of a whole key, where all have about the same.
    pub(super) length: Option<usize>,
    #[serde(default)]
    pub(super) short_lived: bool,
    /// Manages the account; not for model calls.
    #[serde(default)]
    pub(super) admin: bool,
}

fn yes() -> bool {
    true
}

/// Kinds of keys, longest prefix first.
static FAMILIES: LazyLock<Vec<Family>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct File {
        key_families: Vec<Family>,
    }
    let file: File =
        serde_json::from_str(include_str!("catalog.json")).expect("the embedded catalogue is valid; tested");
    let mut families = file.key_families;
    families.sort_by_key(|f| std::cmp::Reverse(f.prefix.len()));
    families
});

/// The kind of key that `key` opens like.
pub(super) fn kind_of(key: &[u8]) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| key.starts_with(f.prefix.as_bytes()))
}

/// The key family that a key's first characters prove, or `None`: then the provider decides.
pub fn key_family(key: &[u8]) -> Option<&'static str> {
    kind_of(key.trim_ascii()).filter(|f| f.unique).map(|f| &*f.family)
}

/// One credential of a request.
pub(super) struct Credential {
    pub(super) place: KeyPlace,
    /// Without scheme word; not trimmed.
    pub(super) key: ApiKey,
    /// Signed with session credentials (STS).
    pub(super) session: bool,
    /// What it opens like.
    pub(super) kind: Option<&'static Family>,
}

impl Credential {
    fn new(place: KeyPlace, key: &[u8], session: bool) -> Self {
        Self { place, key: ApiKey::new(key), session, kind: kind_of(key.trim_ascii()) }
    }

    /// The key family that its first characters prove.
    fn family(&self) -> Option<&'static str> {
        self.kind.filter(|kind| kind.unique).map(|kind| &*kind.family)
    }
}

/// Reads every credential place of a request.
///
/// The fingerprint is that of the first filled place, the provider's own places first. A short-lived credential (OAuth, STS,
/// JWT with an expiry) is no lasting identity: where host or path name an account, the fingerprint is the account's, with
/// the family `<family>-account`.
pub fn read_key(found: &Match, method: &Method, headers: &HeaderMap, path_and_query: &str, salt: &[u8]) -> KeyFacts {
    let query = path_and_query.split_once('?').map_or("", |(_, query)| query);
    let credentials = credentials(found, headers, query);
    let mut all_filled = credentials.iter().filter(|c| !c.key.bytes().trim_ascii().is_empty());
    let filled = all_filled.next();
    let account_header = |name: &str| header_text(headers, name);
    let account = found.account.clone().or_else(|| {
        found.provider.account_request_headers.iter().find_map(|name| account_header(name)).map(str::to_owned)
    });
    let id_header =
        |name: &str, prefix: &str| account_header(name).filter(|id| id.starts_with(prefix)).map(str::to_owned);
    let mut facts = KeyFacts {
        findings: finding::findings(&finding::Request { found, method, headers, credentials: &credentials }),
        organization: id_header("openai-organization", "org-"),
        project: id_header("openai-project", "proj_"),
        account,
        place: filled.map(|c| c.place),
        ..KeyFacts::default()
    };
    if let Some(credential) = filled {
        let bytes = credential.key.bytes().trim_ascii();
        facts.length = bytes.len();
        facts.short_lived = is_short_lived(credential);
        if facts.account.is_none() && matches!(credential.place, KeyPlace::SigV4 | KeyPlace::PresignedQuery) {
            facts.account = aws_account(bytes);
        }
        let own = |c: &Credential| c.key.fingerprint(c.family().unwrap_or(&found.provider.family), salt);
        let stands_for_it = facts.account.as_ref().filter(|_| facts.short_lived);
        facts.fingerprint = Some(match stands_for_it {
            Some(account) => {
                ApiKey::new(account.as_bytes()).fingerprint(&format!("{}-account", found.provider.family), salt)
            }
            None => own(credential),
        });
        let others = stands_for_it.map(|_| credential).into_iter().chain(all_filled).take(KeyFacts::MAX_OTHERS);
        facts.others = others.map(|c| (own(c), c.key.bytes().trim_ascii().len())).collect();
    }
    facts
}

/// As [`super::Catalog::check_key`].
pub(super) fn check_key(found: &Match, key: &[u8], salt: &[u8]) -> KeyFacts {
    let place = found.provider.auth.first().copied().unwrap_or(KeyPlace::Bearer);
    let credentials = [Credential::new(place, key, false)];
    let found = Match { billed: true, ..found.clone() };
    let (method, headers) = (Method::POST, HeaderMap::new());
    let request = finding::Request { found: &found, method: &method, headers: &headers, credentials: &credentials };
    let trimmed = key.trim_ascii();
    let family = credentials[0].family().unwrap_or(&found.provider.family);
    KeyFacts {
        findings: finding::findings(&request),
        length: trimmed.len(),
        fingerprint: (!trimmed.is_empty()).then(|| credentials[0].key.fingerprint(family, salt)),
        place: Some(place),
        short_lived: is_short_lived(&credentials[0]),
        ..KeyFacts::default()
    }
}

/// Every place that is filled, or present and empty; the provider's own places first.
fn credentials(found: &Match, headers: &HeaderMap, query: &str) -> Vec<Credential> {
    let mut all = Vec::with_capacity(2);
    let mut add = |place, key: &[u8], session| {
        all.push(Credential::new(place, key, session));
    };
    // One look at each name is cheaper than a look-up for each that may be there. The values of one name follow each other.
    let (mut last, mut count) = ("", 0);
    for (name, value) in headers {
        let (name, value) = (name.as_str(), value.as_bytes());
        count = if name == last { count + 1 } else { 0 };
        last = name;
        match name {
            _ if count >= MOST_OF_A_NAME => {}
            "authorization" => authorization(value, headers, &mut add),
            "x-api-key" => add(KeyPlace::XApiKey, value, false),
            "api-key" => add(KeyPlace::ApiKey, value, false),
            "x-goog-api-key" => add(KeyPlace::XGoogApiKey, value, false),
            "ocp-apim-subscription-key" => add(KeyPlace::SubscriptionKey, value, false),
            "sec-websocket-protocol" => {
                for protocol in value.split(|&b| b == b',') {
                    if let Some(key) = protocol.trim_ascii().strip_prefix(WEBSOCKET_KEY) {
                        add(KeyPlace::WebSocketProtocol, key, false);
                    }
                }
            }
            _ => {}
        }
    }
    for (name, value) in parameters(query) {
        if KEY_PARAMETERS.contains(&&*name) {
            add(KeyPlace::Query, &decoded(value), false);
        } else if name == "x-amz-credential" {
            let value = decoded(value);
            let access_key = value.split(|&b| b == b'/').next().unwrap_or_default();
            let session = parameters(query).any(|(name, _)| name == "x-amz-security-token");
            add(KeyPlace::PresignedQuery, access_key, session);
        }
    }
    let rank = |place: KeyPlace| found.provider.auth.iter().position(|&p| p == place).unwrap_or(usize::MAX);
    all.sort_by_key(|c| (rank(c.place), c.place));
    all
}

fn authorization(value: &[u8], headers: &HeaderMap, add: &mut impl FnMut(KeyPlace, &[u8], bool)) {
    let end = value.iter().position(|&b| b == b' ' || b == b'\t').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end);
    let rest = rest.get(1..).unwrap_or_default();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        add(KeyPlace::Bearer, rest, false);
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        let pair = decode_base64(&STANDARD, rest.trim_ascii()).unwrap_or_default();
        let colon = pair.iter().position(|&b| b == b':').unwrap_or(pair.len());
        let (user, password) = (&pair[..colon], pair.get(colon + 1..).unwrap_or_default());
        add(KeyPlace::Basic, if password.is_empty() { user } else { password }, false);
    } else if scheme.len() > 5 && scheme[..5].eq_ignore_ascii_case(b"aws4-") {
        let session = headers.contains_key("x-amz-security-token");
        let part = rest.split(|&b| b == b',' || b == b' ').find_map(|part| part.strip_prefix(b"Credential="));
        let access_key = part.unwrap_or(rest).split(|&b| b == b'/').next().unwrap_or_default();
        add(KeyPlace::SigV4, access_key, session);
    } else if rest.is_empty() || !scheme.iter().all(u8::is_ascii_alphabetic) {
        add(KeyPlace::RawAuthorization, value, false);
    } else {
        add(KeyPlace::RawAuthorization, rest, false);
    }
}

/// Parameters of a query: lower-case decoded name, value as it came. At most 64.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    query.split('&').take(64).filter(|p| !p.is_empty()).map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let plain = name.bytes().all(|b| b != b'%' && !b.is_ascii_uppercase());
        let name = match plain {
            true => Cow::Borrowed(name),
            false => Cow::Owned(percent_decode(name.as_bytes()).decode_utf8_lossy().to_ascii_lowercase()),
        };
        (name, value)
    })
}

fn decoded(value: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(percent_decode(value.as_bytes()).collect())
}

fn header_text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty() && text.len() <= 256)
}

fn is_short_lived(credential: &Credential) -> bool {
    let bytes = credential.key.bytes().trim_ascii();
    credential.session || credential.kind.is_some_and(|kind| kind.short_lived) || is_expiring_jwt(bytes)
}

/// A JSON Web Token whose payload has an `exp`, or whose payload cannot be read. Some providers gave out keys that are
/// JWTs without an expiry (MiniMax): those are lasting.
fn is_expiring_jwt(key: &[u8]) -> bool {
    if !key.starts_with(b"eyJ") {
        return false;
    }
    let mut parts = key.split(|&b| b == b'.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some(payload) = decode_base64(&URL_SAFE, payload) else { return true };
    #[derive(Deserialize)]
    struct Claims {
        exp: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Claims>(&payload).map_or(true, |claims| claims.exp.is_some())
}

/// Decodes at most 8 KiB.
fn decode_base64(engine: &GeneralPurpose, text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    (text.len() <= 8192).then(|| engine.decode(text).ok()).flatten().map(Zeroizing::new)
}

/// The account that an AWS access key id belongs to: its 12 digits are encoded in the id itself
/// (<https://medium.com/@TalBeerySec/a-short-note-on-aws-key-id-f88cc4317489>, 2023).
fn aws_account(access_key: &[u8]) -> Option<String> {
    let letters = access_key.strip_prefix(b"AKIA").or_else(|| access_key.strip_prefix(b"ASIA"))?;
    if access_key.len() != 20 {
        return None;
    }
    // Ten letters of five bits are the first 50 bits: one that is set since 2019, when ids began to hold the account, then
    // 40 of the account.
    let bits = letters[..10].iter().try_fold(0_u64, |bits, letter| {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'2'..=b'7' => letter - b'2' + 26,
            _ => return None,
        };
        Some(bits << 5 | u64::from(value))
    })?;
    let account = bits >> 9 & 0xff_ffff_ffff;
    (bits >> 49 == 1 && account < 1_000_000_000_000).then(|| format!("{account:012}"))
}

/// A target fit for logs: every query value but a few harmless ones is `REDACTED`, so is a path segment that looks like a
/// key. Names of parameters stay.
pub fn redact_query(path_and_query: &str) -> String {
    let (path, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    let mut text = String::with_capacity(path_and_query.len());
    for (i, segment) in path.split('/').enumerate() {
        if i > 0 {
            text.push('/');
        }
        let plain: Cow<'_, [u8]> = percent_decode(segment.as_bytes()).into();
        let secret =
            plain.len() >= 20 && (kind_of(&plain).is_some() || plain.starts_with(b"sk-") || is_expiring_jwt(&plain));
        text.push_str(if secret { "REDACTED" } else { segment });
    }
    for (i, parameter) in query.into_iter().flat_map(|q| q.split('&')).enumerate() {
        text.push(if i == 0 { '?' } else { '&' });
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        let plain = percent_decode(name.as_bytes()).decode_utf8_lossy().to_ascii_lowercase();
        if name.len() == parameter.len() {
            // A lone word may be a value; parameters without one are rare and short.
            text.push_str(if name.len() > 20 || kind_of(name.as_bytes()).is_some() { "REDACTED" } else { name });
        } else if HARMLESS_PARAMETERS.contains(&&*plain) {
            text.push_str(parameter);
        } else {
            text.push_str(name);
            text.push_str("=REDACTED");
        }
    }
    text
}
