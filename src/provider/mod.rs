//! Providers as data: whose call is it, where does its key travel, which format do its bodies have.
//!
//! In: method and target of a request. Out: a [`Match`] with provider, operation, protocol and upstream target, or a
//! [`NotRecognized`] whose body is the 404 answer. Beside it: [`read_key`] (the one place that sees keys),
//! [`keep_response_headers`], [`read_limits`] and [`generated_error`]. Code here is per format; a provider is a row of
//! `catalog.json` or an entry of config. Nothing does I/O, and nothing that runs per call compiles or loads anything.
//!
//! Bounds: paths of more than 24 segments are no known route; captured texts are cut at 256 bytes.

mod catalog;
mod finding;
mod headers;
mod host;
mod key;
mod limits;
mod refusal;
mod route;
mod shape;

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use http::uri::Scheme;
use http::{Method, StatusCode};

use crate::call::{KeyFacts, Operation, Protocol};

pub use catalog::{CatalogError, Endpoint, EndpointHost, Provider, UsageInStream};
pub use headers::{keep_response_headers, request_id};
pub use host::HostPattern;
pub use key::{key_family, read_key, redact_query};
pub use limits::{LimitStyle, read_limits};
pub use refusal::{ErrorShape, generated_error};
pub use shape::ProviderOverride;

use catalog::one_loopback;
use route::{Kind, Path};

/// Longest captured text (model, account), bytes.
const MAX_TEXT_BYTES: usize = 256;

/// Every provider, as one immutable value: build it once, share it in an `Arc`, swap it whole on reload.
#[derive(Debug)]
pub struct Catalog {
    providers: Vec<Arc<Provider>>,
    /// First path segment → provider, endpoint.
    prefixes: HashMap<Box<str>, (usize, usize)>,
    /// Exact host → endpoints there.
    hosts: HashMap<Box<str>, Vec<At>>,
    /// Patterns, in catalogue order.
    patterns: Vec<(HostPattern, At)>,
    known: Arc<[Box<str>]>,
    /// See [`Catalog::other`].
    other: Arc<Provider>,
}

/// An endpoint of a provider, by index, on one port or on any.
#[derive(Clone, Copy, Debug)]
struct At {
    port: Option<u16>,
    provider: usize,
    endpoint: usize,
}

/// Whose call it is, what it asks for and where it goes.
#[derive(Clone)]
pub struct Match {
    /// The provider.
    pub provider: Arc<Provider>,
    /// What the call asks for; `Other` for a path that no route names.
    pub operation: Operation,
    /// Format of its bodies; `Opaque` for a path that no route names.
    pub protocol: Protocol,
    /// The provider charges for such calls.
    pub billed: bool,
    /// Usage in its answer belongs to an earlier call.
    pub repeats_usage: bool,
    /// The model that the URL names, percent-decoded.
    pub url_model: Option<String>,
    /// Whether the answer streams, when the URL tells.
    pub stream: Option<bool>,
    /// Account that host or path name: Azure resource host, Vertex project, account of a Bedrock ARN.
    pub account: Option<String>,
    /// Provider id in the price book.
    pub price_as: Option<Arc<str>>,
    /// Scheme of the upstream.
    pub scheme: Scheme,
    /// Host of the upstream, brackets around IPv6.
    pub host: Arc<str>,
    /// Port of the upstream.
    pub port: u16,
    /// What goes upstream as path and query: bytes as they came but for prefix and base path. It may hold a key:
    /// show it through [`redact_query`] only.
    pub path_and_query: String,
}

/// No provider takes this path. keytally answers 404 itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotRecognized {
    /// What is wrong and what would be right; holds no query and nothing that looks like a key.
    pub message: String,
    /// Prefixes that would do.
    pub known: Arc<[Box<str>]>,
}

// === impl Catalog ===

impl Catalog {
    /// The catalogue as shipped.
    pub fn embedded() -> Self {
        Self::build(&[]).expect("no overrides, no errors")
    }

    /// The catalogue with what config says of providers.
    ///
    /// # Errors
    /// Everything that is wrong, each with the index, id and field of its entry.
    pub fn build(overrides: &[ProviderOverride]) -> Result<Self, Vec<CatalogError>> {
        let providers: Vec<_> = catalog::providers(overrides)?.into_iter().map(Arc::new).collect();
        let mut catalog = Self {
            providers,
            prefixes: HashMap::new(),
            hosts: HashMap::new(),
            patterns: Vec::new(),
            known: [].into(),
            other: Arc::new(catalog::other()),
        };
        for (p, provider) in catalog.providers.iter().enumerate() {
            for (e, endpoint) in provider.endpoints.iter().enumerate() {
                for prefix in &endpoint.prefixes {
                    catalog.prefixes.insert(prefix.clone(), (p, e));
                }
                for (pattern, port) in &endpoint.hosts {
                    let at = At { port: *port, provider: p, endpoint: e };
                    if pattern.is_exact() {
                        catalog.hosts.entry(pattern.as_str().into()).or_default().push(at);
                    } else {
                        catalog.patterns.push((pattern.clone(), at));
                    }
                }
            }
        }
        let mut known: Vec<_> = catalog.prefixes.keys().cloned().collect();
        known.sort_unstable();
        catalog.known = known.into();
        Ok(catalog)
    }

    /// Every provider, in catalogue order, those of config last.
    pub fn providers(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.providers.iter()
    }

    /// The provider with this id.
    pub fn provider(&self, id: &str) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|p| *p.id == *id)
    }

    /// The provider whose SDKs take their key from this variable.
    pub fn provider_of_variable(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|p| p.key_variables.iter().any(|own| **own == *name))
    }

    /// What a key says by itself, as if a model call brought it in the provider's usual place.
    pub fn check_key(&self, provider: &Provider, key: &[u8], salt: &[u8]) -> KeyFacts {
        let prefix = provider.prefixes().next().unwrap_or_default();
        // Hosts of some providers have a part of their own.
        let found = ["", "/resource", "/us-east-1", "/global"]
            .iter()
            .find_map(|part| self.recognize_base_url(&Method::POST, &format!("/{prefix}{part}/v1")).ok());
        found.map_or_else(KeyFacts::default, |found| key::check_key(&found, key, salt))
    }

    /// Every first path segment that is a provider, sorted.
    pub fn prefixes(&self) -> &Arc<[Box<str>]> {
        &self.known
    }

    /// Reads a request on the proxy port: `/<prefix>[/<parameter>]/<provider's own path>?<query>`.
    ///
    /// # Errors
    /// [`NotRecognized`] when no provider has that prefix, or its host parameter is missing or no DNS label.
    pub fn recognize_base_url(&self, method: &Method, path_and_query: &str) -> Result<Match, NotRecognized> {
        let (path, query) = split_query(path_and_query);
        let Some((first, rest)) = split_segment(path) else { return Err(self.no_prefix(method, path)) };
        let Some(&(p, e)) = self.prefixes.get(first) else { return Err(self.no_prefix(method, path)) };
        let (provider, endpoint) = (&self.providers[p], &self.providers[p].endpoints[e]);
        let (host, rest) = match &endpoint.host {
            EndpointHost::Fixed(host) => (host.clone(), rest),
            EndpointHost::Parameter { name, .. } => {
                let (value, rest) = split_segment(rest).unwrap_or(("", ""));
                let is_path = value.is_empty() || provider.mounts.iter().any(|mount| mount.opens_with(value));
                match endpoint.host.with(value).filter(|_| !is_path) {
                    Some(host) => (host, rest),
                    None => return Err(self.no_parameter(first, name)),
                }
            }
        };
        let target = (endpoint.scheme.clone(), host, endpoint.port);
        Ok(recognize(provider, endpoint, method, rest, query, target, &endpoint.base_path))
    }

    /// The provider whose host this is.
    pub fn of_host(&self, host: &str, port: u16) -> Option<&Arc<Provider>> {
        self.at_host(&plain_host(host), port).map(|at| &self.providers[at.provider])
    }

    fn at_host(&self, lower: &str, port: u16) -> Option<&At> {
        let name = one_loopback(lower);
        let is_port = |at: &At| at.port.is_none_or(|own| own == port);
        let exact = self.hosts.get(name).and_then(|found| found.iter().find(|at| is_port(at)));
        let by_pattern =
            || self.patterns.iter().find(|(pattern, at)| is_port(at) && pattern.matches(name)).map(|(_, at)| at);
        exact.or_else(by_pattern)
    }

    /// Reads a request whose host is known (forward proxy, redirect). The path goes upstream as it is.
    pub fn recognize_host(&self, host: &str, port: u16, method: &Method, path_and_query: &str) -> Option<Match> {
        let lower = plain_host(host);
        let at = self.at_host(&lower, port)?;
        let provider = &self.providers[at.provider];
        let endpoint = &provider.endpoints[at.endpoint];
        let scheme = match port {
            443 => Scheme::HTTPS,
            80 => Scheme::HTTP,
            _ => endpoint.scheme.clone(),
        };
        let host = match &endpoint.host {
            EndpointHost::Fixed(own) if **own == *lower => own.clone(),
            _ => Arc::from(&*lower),
        };
        let (path, query) = split_query(path_and_query);
        let below = path.strip_prefix(&*endpoint.base_path).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let mut found = recognize(provider, endpoint, method, below.unwrap_or(path), query, (scheme, host, port), "");
        path_and_query.clone_into(&mut found.path_and_query);
        Some(found)
    }

    /// Stands for every host that is no provider's: passed on, and not looked into.
    pub fn other(&self, (scheme, host, port): (Scheme, Arc<str>, u16), path_and_query: &str) -> Match {
        Match {
            provider: Arc::clone(&self.other),
            operation: Operation::Other,
            protocol: Protocol::Opaque,
            billed: false,
            repeats_usage: false,
            url_model: None,
            stream: None,
            account: None,
            price_as: None,
            scheme,
            host,
            port,
            path_and_query: path_and_query.to_owned(),
        }
    }

    /// The path on the proxy port that stands for `url`, `/<prefix>[/<parameter>]<path>`, without a final slash: a request
    /// below it goes to the same scheme, host and port as one below `url`. `None` when no provider is there.
    pub fn base_path(&self, url: &url::Url) -> Option<String> {
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        let path = url.path().trim_end_matches('/');
        let endpoints = self.providers.iter().flat_map(|provider| &provider.endpoints);
        let mut there = endpoints.filter(|endpoint| endpoint.scheme == *url.scheme() && endpoint.port == port);
        there.find_map(|endpoint| {
            let value = endpoint.host.value_of(host)?;
            let below =
                path.strip_prefix(&*endpoint.base_path).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
            let prefix = endpoint.prefixes.first()?;
            let parameter = if value.is_empty() { String::new() } else { format!("/{value}") };
            let base = format!("/{prefix}{parameter}{below}");
            // A parameter that reads like a path of the provider would be taken for one.
            let found = self.recognize_base_url(&Method::GET, &base).ok()?;
            (one_loopback(&found.host) == one_loopback(host) && found.port == port).then_some(base)
        })
    }

    fn no_prefix(&self, method: &Method, path: &str) -> NotRecognized {
        let first = split_segment(path).map_or("", |(first, _)| first);
        // The first route table is OpenAI's: a path of its API without a prefix is the usual mistake.
        let is_openai = self
            .provider("openai")
            .zip(Path::new([path, ""]))
            .is_some_and(|(openai, parts)| openai.mounts.iter().any(|mount| mount.hit(method, &parts, "").is_some()));
        let message = if is_openai {
            format!(
                "keytally: the path names no provider; set the base URL to http://<this address>/openai{}, or \
                     another provider's prefix in place of openai",
                if first == "v1" { "/v1" } else { "" }
            )
        } else if first.is_empty() {
            "keytally: the path names no provider; write /<prefix>/<path of the provider's API>".to_owned()
        } else if first.len() <= 24 && is_plain(first) && key_family(first.as_bytes()).is_none() {
            format!(
                "keytally: \"{first}\" is no known provider; use a known prefix or add it under providers: in config"
            )
        } else {
            "keytally: the first part of the path is no known provider; use a known prefix or add it under \
             providers: in config"
                .to_owned()
        };
        NotRecognized { message, known: self.known.clone() }
    }

    fn no_parameter(&self, prefix: &str, name: &str) -> NotRecognized {
        let message = format!(
            "keytally: /{prefix} needs the {name} as next part of the path: /{prefix}/<{name}>/<path of the provider's \
             API>, where <{name}> has only letters, digits and hyphens"
        );
        NotRecognized { message, known: self.known.clone() }
    }
}

/// Lower case, without a final dot.
fn plain_host(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

/// Fills in a [`Match`] for `rest`, the path below prefix or base path.
fn recognize(
    provider: &Arc<Provider>,
    endpoint: &Endpoint,
    method: &Method,
    rest: &str,
    query: Option<&str>,
    (scheme, host, port): (Scheme, Arc<str>, u16),
    base_path: &str,
) -> Match {
    let find = |implied: &str| {
        let path = Path::new([implied, rest])?;
        provider.mounts.iter().find_map(|mount| mount.hit(method, &path, query.unwrap_or("")))
    };
    let mut implied = "";
    let mut hit = find("");
    if hit.is_none() && !provider.implied_base.is_empty() {
        hit = find(&provider.implied_base);
        if hit.is_some() {
            implied = &provider.implied_base;
        }
    }
    let fallback = provider.fallback.filter(|_| hit.is_none() && method == Method::POST);
    let unknown = fallback.map_or(Kind::OTHER, |(operation, protocol)| Kind::of(operation, protocol, true));
    let (kind, price_as, model, account) = match hit {
        Some(hit) => (hit.kind, hit.price_as, hit.model, hit.account),
        None => (&unknown, None, None, None),
    };
    let account = match account {
        None if provider.account_is_host => Some(host.to_string()),
        None => model.as_deref().and_then(arn_account).map(str::to_owned),
        found => found,
    };
    Match {
        operation: kind.operation,
        protocol: kind.protocol,
        billed: kind.billed,
        repeats_usage: kind.repeats_usage,
        stream: kind.stream,
        url_model: model.map(|text| cut(text, MAX_TEXT_BYTES)),
        account: account.map(|text| cut(text, MAX_TEXT_BYTES)),
        price_as: price_as.or(endpoint.price_as.as_ref()).or(provider.price_as.as_ref()).cloned(),
        path_and_query: join(base_path, implied, rest, query),
        scheme,
        host,
        port,
        provider: provider.clone(),
    }
}

/// Joins the parts of an upstream target. A version that both sides name (`…/v1` and `/v1/…`) is written once.
fn join(base_path: &str, implied: &str, rest: &str, query: Option<&str>) -> String {
    let version = base_path.rsplit('/').next().filter(|last| is_version(last)).unwrap_or("");
    let twice = !version.is_empty()
        && split_segment(if implied.is_empty() { rest } else { implied }).is_some_and(|(first, _)| first == version);
    let base_path = if twice { &base_path[..base_path.len() - version.len() - 1] } else { base_path };
    let mut target =
        String::with_capacity(base_path.len() + implied.len() + rest.len() + query.map_or(0, str::len) + 2);
    target.push_str(base_path);
    target.push_str(implied);
    target.push_str(rest);
    if target.is_empty() {
        target.push('/');
    }
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// `v1`, `v1beta`, `v4`.
fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_digit()) && rest.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

fn split_query(path_and_query: &str) -> (&str, Option<&str>) {
    match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    }
}

/// First segment of a path that opens with one slash, and what follows it, slash included.
fn split_segment(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    Some(path.find('/').map_or((path, ""), |end| path.split_at(end)))
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Account of `arn:aws:bedrock:us-east-1:123456789012:…`.
fn arn_account(model: &str) -> Option<&str> {
    let account = model.strip_prefix("arn:")?.split(':').nth(3)?;
    (account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit())).then_some(account)
}

/// `text` cut to at most `max` bytes, at a character's edge.
fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}

// === impl Match ===

/// Shows no query: it may hold a key.
impl std::fmt::Debug for Match {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Match")
            .field("provider", &self.provider.id)
            .field("operation", &self.operation)
            .field("protocol", &self.protocol)
            .field("billed", &self.billed)
            .field("repeats_usage", &self.repeats_usage)
            .field("stream", &self.stream)
            .field("url_model", &self.url_model)
            .field("account", &self.account)
            .field("price_as", &self.price_as)
            .field("scheme", &self.scheme)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("path_and_query", &redact_query(&self.path_and_query))
            .finish()
    }
}

// === impl NotRecognized ===

impl NotRecognized {
    /// Status of the answer.
    pub const STATUS: StatusCode = StatusCode::NOT_FOUND;

    /// Body of the answer: JSON in OpenAI's error shape, with the list of known prefixes.
    pub fn body(&self) -> Vec<u8> {
        let known: Vec<&str> = self.known.iter().map(|p| &**p).collect();
        serde_json::json!({
            "error": {
                "message": self.message, "type": "keytally_error", "param": null, "code": "unknown_prefix",
                "known_prefixes": known,
            },
            "keytally": { "generated": true, "reason": "unknown_prefix" },
        })
        .to_string()
        .into_bytes()
    }
}

#[cfg(test)]
mod tests;
