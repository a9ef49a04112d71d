//! The catalogue's rows and how they become providers: `catalog.json` (embedded) plus what config says of providers.
//!
//! All work happens once, when config is loaded; nothing here runs per call. A wrong override is reported with its place,
//! all of them at once; a wrong row of the embedded file cannot ship, since every test loads it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use http::uri::Scheme;
use serde::Deserialize;
use url::Url;

use super::ProviderOverride;
use super::host::{HostPattern, is_dns_label};
use super::limits::LimitStyle;
use super::refusal::ErrorShape;
use super::route::{Mount, Route};
use crate::call::{KeyPlace, Operation, Protocol};

const EMBEDDED: &str = include_str!("catalog.json");

/// One provider, complete.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Catalogue id, the `provider` label.
    pub id: Arc<str>,
    /// Name for people.
    pub name: Arc<str>,
    /// `gen_ai.provider.name`: the well-known value of the OpenTelemetry GenAI conventions, else the id.
    pub otel_name: Arc<str>,
    /// Provider id in the price book where neither endpoint nor route has its own (see [`super::Match::price_as`]).
    pub price_as: Option<Arc<str>>,
    /// Family of its keys: the first part of their fingerprints.
    pub family: Arc<str>,
    /// Where its keys travel, usual place first.
    pub auth: Vec<KeyPlace>,
    /// Variables from which SDKs read its key, the one that wins first.
    pub key_variables: Vec<Box<str>>,
    /// Its documentation takes keys in the query (`?key=`).
    pub query_key: bool,
    /// Runs on the owner's own machines: no key is needed and calls are free.
    pub local: bool,
    /// Stands before other providers: its keys may look like anything.
    pub gateway: bool,
    /// A catalogued host on the internet: it refuses calls without a key. `false` once config gives another `base_url`.
    pub cloud: bool,
    /// Whether streams in OpenAI's chat format carry usage unasked.
    pub usage_in_stream: UsageInStream,
    /// Response headers that identify the exchange, best first, lower case.
    pub request_id_headers: Vec<Box<str>>,
    /// Response headers that name the account that pays, lower case.
    pub account_headers: Vec<Box<str>>,
    /// Request headers that name an account, lower case.
    pub account_request_headers: Vec<Box<str>>,
    /// Further response headers worth keeping: names, or prefixes that end in `*`.
    pub keep_headers: Vec<Box<str>>,
    /// How it states rate limits.
    pub limits: Arc<LimitStyle>,
    /// Shape of its error bodies, for answers that keytally makes.
    pub error_shape: ErrorShape,
    /// Documentation of its errors and limits.
    pub docs: Box<str>,
    /// Extra certificate authority of its upstream.
    pub ca_file: Option<PathBuf>,
    /// Its endpoints; the first is the usual one.
    pub endpoints: Vec<Endpoint>,
    /// The host itself names the account (Azure resources).
    pub(super) account_is_host: bool,
    pub(super) mounts: Vec<Mount>,
    /// Put before a path that is a route only with it (the SDK's base URL lacked it).
    pub(super) implied_base: Box<str>,
    /// What a POST on an unknown path is, when config says so.
    pub(super) fallback: Option<(Operation, Protocol)>,
}

/// Whether usage comes in streams of OpenAI's chat format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageInStream {
    /// Always.
    #[default]
    Always,
    /// Only with `stream_options.include_usage`.
    OnRequest,
}

/// One place where a provider answers.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// First path segments on the proxy port.
    pub prefixes: Vec<Box<str>>,
    /// Provider id in the price book, when it differs from the provider's.
    pub price_as: Option<Arc<str>>,
    /// Hosts that are this endpoint, with a port when only that port is.
    pub hosts: Vec<(HostPattern, Option<u16>)>,
    /// Scheme of the upstream.
    pub scheme: Scheme,
    /// Port of the upstream.
    pub port: u16,
    /// Host of the upstream.
    pub host: EndpointHost,
    /// Path of the base URL, empty or without final slash.
    pub base_path: Box<str>,
}

/// Host of an endpoint.
#[derive(Clone, Debug)]
pub enum EndpointHost {
    /// One host.
    Fixed(Arc<str>),
    /// The path segment after the prefix is a part of the host.
    Parameter {
        /// What it is, for instance `region`.
        name: Box<str>,
        /// Host before and after it.
        around: (Box<str>, Box<str>),
        /// Values that stand for another host altogether.
        special: HashMap<Box<str>, Arc<str>>,
    },
}

/// What is wrong with one entry of `providers:`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("providers[{index}] {id}.{field}: {message}")]
pub struct CatalogError {
    /// Index of the entry.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// Which field.
    pub field: &'static str,
    /// The value, what is wrong, and what would be right.
    pub message: String,
}

/// The shape of `catalog.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    dialects: HashMap<String, Vec<String>>,
    limit_styles: HashMap<String, LimitStyle>,
    /// Read by `key.rs`.
    key_families: serde::de::IgnoredAny,
    providers: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: Arc<str>,
    name: Arc<str>,
    otel_name: Option<Arc<str>>,
    price_as: Option<Arc<str>>,
    family: Option<Arc<str>>,
    endpoints: Vec<EndpointRow>,
    #[serde(default)]
    mounts: Vec<MountRow>,
    #[serde(default)]
    own: Vec<String>,
    #[serde(default)]
    implied_base: Box<str>,
    #[serde(default = "bearer")]
    auth: Vec<KeyPlace>,
    #[serde(default)]
    key_variables: Vec<Box<str>>,
    #[serde(default)]
    query_key: bool,
    #[serde(default)]
    local: bool,
    #[serde(default)]
    gateway: bool,
    #[serde(default)]
    account_is_host: bool,
    #[serde(default)]
    request_id: Vec<Box<str>>,
    #[serde(default)]
    account: Vec<Box<str>>,
    #[serde(default)]
    account_request: Vec<Box<str>>,
    #[serde(default)]
    keep: Vec<Box<str>>,
    limits: String,
    #[serde(default)]
    usage_in_stream: UsageInStream,
    #[serde(default)]
    error_shape: ErrorShape,
    docs: Box<str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointRow {
    prefixes: Vec<Box<str>>,
    base_url: String,
    #[serde(default)]
    param_hosts: HashMap<Box<str>, Arc<str>>,
    hosts: Vec<String>,
    price_as: Option<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MountRow {
    dialect: String,
    at: Vec<String>,
    price_as: Option<Arc<str>>,
}

fn bearer() -> Vec<KeyPlace> {
    vec![KeyPlace::Bearer]
}

/// The catalogue's tables that rows refer to by name.
struct Tables {
    dialects: HashMap<String, Arc<[Route]>>,
    limit_styles: HashMap<String, Arc<LimitStyle>>,
}

/// The embedded rows with `overrides` applied, or everything that is wrong with `overrides`.
pub(super) fn providers(overrides: &[ProviderOverride]) -> Result<Vec<Provider>, Vec<CatalogError>> {
    let (tables, mut providers) = embedded().expect("the embedded catalogue loads; a unit test proves it");
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (index, change) in overrides.iter().enumerate() {
        let mut report = |field, message| errors.push(CatalogError { index, id: change.id.clone(), field, message });
        if !is_id(&change.id) {
            report("id", format!("\"{}\": write 1 to 32 of a-z, 0-9, - and _", shown(&change.id)));
            continue;
        }
        if !seen.insert(&change.id) {
            report("id", format!("\"{}\": a second entry for this provider; write one", change.id));
            continue;
        }
        let known = providers.iter_mut().find(|p| *p.id == *change.id);
        let provider = match known {
            Some(provider) => provider,
            None if change.base_url.is_none() => {
                let message = format!("\"{}\" is not in the catalogue; a new provider needs base_url", change.id);
                report("base_url", message);
                continue;
            }
            None => {
                let limits = tables.limit_styles.get("generic").cloned().unwrap_or_default();
                providers.push(new_provider(limits, &change.id, change.protocol.unwrap_or(Protocol::OpenaiChat)));
                providers.last_mut().expect("just pushed")
            }
        };
        change_provider(provider, change, &tables, &mut report);
    }
    check_prefixes(&providers, overrides, &mut errors);
    check_hosts(&providers, overrides, &mut errors);
    if errors.is_empty() { Ok(providers) } else { Err(errors) }
}

fn embedded() -> Result<(Tables, Vec<Provider>), String> {
    let file: File = serde_json::from_str(EMBEDDED).map_err(|e| e.to_string())?;
    let serde::de::IgnoredAny = file.key_families;
    let routes = |lines: &[String]| lines.iter().map(|line| Route::parse(line)).collect::<Result<Arc<[Route]>, _>>();
    let mut tables = Tables { dialects: HashMap::new(), limit_styles: HashMap::new() };
    for (name, lines) in &file.dialects {
        tables.dialects.insert(name.clone(), routes(lines)?);
    }
    tables.limit_styles.extend(file.limit_styles.into_iter().map(|(name, style)| (name, Arc::new(style))));
    let mut providers = Vec::with_capacity(file.providers.len());
    for row in file.providers {
        let unknown = |what: &str, name: &str| format!("{}: {what} \"{name}\": unknown", row.id);
        let mut mounts = vec![Mount::parse("", routes(&row.own)?, None)?];
        for mount in &row.mounts {
            let dialect = tables.dialects.get(&mount.dialect).ok_or_else(|| unknown("dialect", &mount.dialect))?;
            for base in &mount.at {
                mounts.push(Mount::parse(base, dialect.clone(), mount.price_as.clone())?);
            }
        }
        let limits = tables.limit_styles.get(&row.limits).ok_or_else(|| unknown("limits", &row.limits))?.clone();
        let endpoints = row.endpoints.into_iter().map(Endpoint::of_row).collect::<Result<Vec<_>, _>>()?;
        providers.push(Provider {
            otel_name: row.otel_name.unwrap_or_else(|| row.id.clone()),
            family: row.family.unwrap_or_else(|| row.id.clone()),
            cloud: endpoints.iter().all(|e| !e.host.is_loopback()),
            id: row.id,
            name: row.name,
            price_as: row.price_as,
            auth: row.auth,
            key_variables: row.key_variables,
            query_key: row.query_key,
            local: row.local,
            gateway: row.gateway,
            usage_in_stream: row.usage_in_stream,
            request_id_headers: row.request_id,
            account_headers: row.account,
            account_request_headers: row.account_request,
            keep_headers: row.keep,
            limits,
            error_shape: row.error_shape,
            docs: row.docs,
            ca_file: None,
            endpoints,
            account_is_host: row.account_is_host,
            mounts,
            implied_base: row.implied_base,
            fallback: None,
        });
    }
    Ok((tables, providers))
}

/// Stands for every host that is no provider's.
pub(super) fn other() -> Provider {
    Provider { name: "the server".into(), ..new_provider(Arc::default(), "other", Protocol::Opaque) }
}

/// A provider that only config knows, without its endpoint.
fn new_provider(limits: Arc<LimitStyle>, id: &str, protocol: Protocol) -> Provider {
    let id: Arc<str> = id.into();
    Provider {
        name: id.clone(),
        otel_name: id.clone(),
        price_as: None,
        family: id.clone(),
        id,
        auth: match protocol {
            Protocol::AnthropicMessages | Protocol::AnthropicComplete => vec![KeyPlace::XApiKey, KeyPlace::Bearer],
            Protocol::Gemini | Protocol::GeminiInteractions => vec![KeyPlace::XGoogApiKey, KeyPlace::Bearer],
            Protocol::BedrockConverse | Protocol::BedrockInvoke | Protocol::BedrockAgent => {
                vec![KeyPlace::SigV4, KeyPlace::Bearer]
            }
            _ => vec![KeyPlace::Bearer, KeyPlace::XApiKey],
        },
        key_variables: Vec::new(),
        query_key: false,
        local: false,
        gateway: true,
        cloud: false,
        usage_in_stream: UsageInStream::OnRequest,
        request_id_headers: Vec::new(),
        account_headers: Vec::new(),
        account_request_headers: Vec::new(),
        keep_headers: Vec::new(),
        limits,
        error_shape: ErrorShape::of_protocol(protocol).unwrap_or_default(),
        docs: "".into(),
        ca_file: None,
        endpoints: Vec::new(),
        account_is_host: false,
        mounts: Vec::new(),
        implied_base: "".into(),
        fallback: None,
    }
}

fn change_provider(
    provider: &mut Provider,
    change: &ProviderOverride,
    tables: &Tables,
    report: &mut impl FnMut(&'static str, String),
) {
    if let Some(url) = &change.base_url {
        match Endpoint::of_url(url) {
            Ok(endpoint) => {
                // A host that config itself declares to be this provider is no stand-in for it.
                let mut own = change.hosts.iter().filter_map(|host| host_entry(host).ok());
                let declared = own.any(|host| endpoint.hosts.contains(&host));
                provider.move_to(endpoint, declared);
            }
            Err(message) => {
                let place = (url.scheme(), url.host_str().unwrap_or(""), url.path());
                let text = format!("{}://{}{}", place.0, place.1, place.2); // without user, password and query
                report("base_url", format!("\"{}\": {message}", shown(&text)));
            }
        }
    }
    if provider.endpoints.is_empty() {
        return; // a new provider whose base_url was wrong: already reported
    }
    if let Some(protocol) = change.protocol {
        provider.fallback = fallback(protocol);
    }
    if provider.mounts.is_empty() || change.protocol.is_some() {
        for (dialect, base) in mounts_of(change.protocol.unwrap_or(Protocol::OpenaiChat)) {
            let routes = tables.dialects.get(*dialect).cloned().unwrap_or_default();
            provider.mounts.extend(Mount::parse(base, routes, None));
        }
    }
    if let Some(prefix) = &change.prefix {
        if is_prefix(prefix) {
            provider.endpoints[0].prefixes = vec![prefix.as_str().into()];
        } else {
            let right = "write one path segment of 1 to 64 letters, digits, -, _ and . (not . or ..)";
            report("prefix", format!("\"{}\": {right}", shown(prefix)));
        }
    }
    if let Some(auth) = &change.auth {
        if auth.is_empty() {
            report("auth", "no place is named; leave the field out or name at least one".to_owned());
        }
        provider.auth.clone_from(auth);
    }
    match &change.price_as {
        None => {}
        Some(None) => {
            provider.local = true;
            provider.price_as = None;
            provider.endpoints.iter_mut().for_each(|e| e.price_as = None);
        }
        Some(Some(id)) if !id.is_empty() => {
            provider.price_as = Some(id.as_str().into());
            provider.endpoints.iter_mut().for_each(|e| e.price_as = None);
        }
        Some(Some(_)) => report("price_as", "empty; write an id of the price book, or `none` for free".to_owned()),
    }
    for host in &change.hosts {
        match host_entry(host) {
            Ok(entry) => provider.endpoints[0].hosts.push(entry),
            Err(message) => report("hosts", message),
        }
    }
    if change.ca_file.is_some() {
        provider.ca_file.clone_from(&change.ca_file);
    }
}

/// Route tables of a provider that config describes by one protocol.
fn mounts_of(protocol: Protocol) -> &'static [(&'static str, &'static str)] {
    match protocol {
        Protocol::OpenaiChat
        | Protocol::OpenaiResponses
        | Protocol::OpenaiCompletions
        | Protocol::OpenaiEmbeddings
        | Protocol::OpenaiImages
        | Protocol::OpenaiAudio
        | Protocol::OpenaiRealtime
        | Protocol::Opaque => &[("openai", "/v1"), ("openai", ""), ("anthropic", "/v1")],
        Protocol::AnthropicMessages | Protocol::AnthropicComplete => &[("anthropic", "/v1"), ("anthropic", "")],
        Protocol::Gemini | Protocol::GeminiInteractions => {
            &[("gemini", "/v1beta"), ("gemini", "/v1"), ("gemini", ""), ("openai", "/v1beta/openai")]
        }
        Protocol::VertexPredict => &[
            ("vertex", "/v1/projects/{account}/locations/{}"),
            ("vertex", "/v1beta1/projects/{account}/locations/{}"),
            ("vertex", "/v1"),
            ("vertex", "/v1beta1"),
        ],
        Protocol::BedrockConverse | Protocol::BedrockInvoke | Protocol::BedrockAgent => {
            &[("bedrock", ""), ("openai", "/openai/v1")]
        }
        Protocol::CohereV1 | Protocol::CohereV2 => &[("cohere", ""), ("openai", "/compatibility/v1")],
        Protocol::Ollama => &[("ollama", ""), ("openai", "/v1"), ("anthropic", "/v1")],
        Protocol::DashscopeNative => &[("dashscope", "/api/v1"), ("openai", "/compatible-mode/v1")],
        Protocol::Watsonx => &[("watsonx", "")],
    }
}

/// What a POST on an unknown path is when config names `protocol`. The general ones say nothing of unknown paths.
fn fallback(protocol: Protocol) -> Option<(Operation, Protocol)> {
    let operation = match protocol {
        Protocol::OpenaiResponses => Operation::Responses,
        Protocol::OpenaiCompletions | Protocol::AnthropicComplete => Operation::TextCompletion,
        Protocol::OpenaiEmbeddings => Operation::Embeddings,
        Protocol::OpenaiImages => Operation::Image,
        Protocol::OpenaiAudio => Operation::Transcription,
        _ => return None,
    };
    Some((operation, protocol))
}

fn check_prefixes(providers: &[Provider], overrides: &[ProviderOverride], errors: &mut Vec<CatalogError>) {
    let mut owner: HashMap<&str, &Provider> = HashMap::new();
    for provider in providers {
        for prefix in provider.endpoints.iter().flat_map(|e| &e.prefixes) {
            let Some(first) = owner.insert(prefix, provider) else { continue };
            // The entry that is to blame: the later provider's, else the earlier one's.
            let (index, other) = match (index_of(overrides, provider), index_of(overrides, first)) {
                (Some(index), _) => (index, first),
                (None, Some(index)) => (index, provider),
                (None, None) => continue,
            };
            let message = format!("\"{prefix}\" is already a prefix of {}; write another one", other.id);
            errors.push(CatalogError { index, id: overrides[index].id.clone(), field: "prefix", message });
        }
    }
}

fn check_hosts(providers: &[Provider], overrides: &[ProviderOverride], errors: &mut Vec<CatalogError>) {
    for (index, change) in overrides.iter().enumerate() {
        for host in &change.hosts {
            let Ok(entry) = host_entry(host) else { continue };
            let other =
                providers.iter().find(|p| *p.id != *change.id && p.endpoints.iter().any(|e| e.hosts.contains(&entry)));
            if let Some(other) = other {
                let message = format!("\"{host}\" already belongs to {}; write it once", other.id);
                errors.push(CatalogError { index, id: change.id.clone(), field: "hosts", message });
            }
        }
    }
}

fn index_of(overrides: &[ProviderOverride], provider: &Provider) -> Option<usize> {
    overrides.iter().position(|o| o.id == *provider.id)
}

fn is_id(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn is_prefix(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !matches!(text, "." | "..")
}

/// A value in an error message, cut.
fn shown(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}

/// `host` or `host:port`. The names of the loopback interface are one.
fn host_entry(text: &str) -> Result<(HostPattern, Option<u16>), String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => return Err(format!("\"{}\": not a host; write host or host:port", shown(text))),
        },
        None => (text, None),
    };
    Ok((HostPattern::parse(one_loopback(host))?, port))
}

/// `localhost` for every name of the loopback interface, else `host` itself.
pub(super) fn one_loopback(host: &str) -> &str {
    if matches!(host, "127.0.0.1" | "[::1]" | "::1") { "localhost" } else { host }
}

// === impl Provider ===

impl Provider {
    /// Every prefix of every endpoint.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().flat_map(|e| &e.prefixes).map(|p| &**p)
    }

    /// Whether `host` (lower case, no final dot) with `port` is this provider.
    pub fn has_host(&self, host: &str, port: u16) -> bool {
        let hosts = self.endpoints.iter().flat_map(|e| &e.hosts);
        hosts.into_iter().any(|(pattern, own)| own.is_none_or(|own| own == port) && pattern.matches(host))
    }

    /// Makes `to` the upstream of the first endpoint; the hosts known before stay known. `declared`: config says that its
    /// host is this provider.
    fn move_to(&mut self, to: Endpoint, declared: bool) {
        self.cloud &= declared || matches!(&to.host, EndpointHost::Fixed(host) if self.has_host(host, to.port));
        match self.endpoints.first_mut() {
            None => self.endpoints.push(Endpoint { prefixes: vec![(*self.id).into()], ..to }),
            Some(first) => {
                first.hosts.extend(to.hosts);
                first.scheme = to.scheme;
                first.port = to.port;
                first.host = to.host;
                first.base_path = to.base_path;
            }
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// An endpoint without prefix for a base URL that config gives.
    fn of_url(url: &Url) -> Result<Self, String> {
        let scheme = match url.scheme() {
            "https" => Scheme::HTTPS,
            "http" => Scheme::HTTP,
            _ => return Err("write an http:// or https:// URL".to_owned()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user or password; keys travel with the calls, not in config".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("has a query or fragment; write scheme, host, port and path only".to_owned());
        }
        let host = url.host_str().filter(|host| !host.contains(['{', '}', '*', '%']));
        let host = host.ok_or("names no host; write one such as https://api.example.com")?;
        let port = url.port_or_known_default().unwrap_or(443);
        Ok(Self {
            prefixes: Vec::new(),
            price_as: None,
            hosts: vec![(HostPattern::exact(one_loopback(host)), url.port())],
            scheme,
            port,
            host: EndpointHost::Fixed(host.into()),
            base_path: url.path().trim_end_matches('/').into(),
        })
    }

    fn of_row(row: EndpointRow) -> Result<Self, String> {
        const PLACE: &str = "parameter";
        let (text, name) = match row.base_url.split_once('{').and_then(|(a, rest)| Some((a, rest.split_once('}')?))) {
            Some((before, (name, after))) => (format!("{before}{PLACE}{after}"), Some(name)),
            None => (row.base_url.clone(), None),
        };
        let url = Url::parse(&text).map_err(|e| format!("{text}: {e}"))?;
        let mut endpoint = Self::of_url(&url).map_err(|e| format!("{text}: {e}"))?;
        if let (Some(name), Some((before, after))) = (name, url.host_str().and_then(|h| h.split_once(PLACE))) {
            let around = (before.into(), after.into());
            endpoint.host = EndpointHost::Parameter { name: name.into(), around, special: row.param_hosts };
            endpoint.hosts.clear();
        }
        for host in &row.hosts {
            endpoint.hosts.push(host_entry(host)?);
        }
        endpoint.prefixes = row.prefixes;
        endpoint.price_as = row.price_as;
        Ok(endpoint)
    }
}

// === impl EndpointHost ===

impl EndpointHost {
    /// The host for one value of the parameter, or `None` when the value is no DNS label.
    pub(super) fn with(&self, value: &str) -> Option<Arc<str>> {
        match self {
            Self::Fixed(host) => Some(host.clone()),
            Self::Parameter { around: (before, after), special, .. } => match special.get(value) {
                Some(host) => Some(host.clone()),
                None => is_dns_label(value).then(|| format!("{before}{value}{after}").into()),
            },
        }
    }

    /// The value of the parameter for which this is `host` (lower case); empty for a fixed host. `None`: it never is.
    pub(super) fn value_of<'h>(&'h self, host: &'h str) -> Option<&'h str> {
        match self {
            Self::Fixed(own) => (one_loopback(own) == one_loopback(host)).then_some(""),
            Self::Parameter { around: (before, after), special, .. } => {
                let named = special.iter().find(|(_, own)| ***own == *host).map(|(value, _)| &**value);
                let cut = || host.strip_prefix(&**before)?.strip_suffix(&**after).filter(|value| is_dns_label(value));
                named.or_else(cut)
            }
        }
    }

    fn is_loopback(&self) -> bool {
        matches!(self, Self::Fixed(host) if one_loopback(host) == "localhost")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_catalogue_loads_and_is_consistent() {
        let (tables, providers) = embedded().expect("loads");
        assert!(providers.len() >= 40 && tables.dialects.len() >= 9);
        let mut ids = HashSet::new();
        let mut prefixes = HashSet::new();
        let mut hosts = HashMap::new();
        for provider in &providers {
            assert!(is_id(&provider.id) && ids.insert(provider.id.clone()), "{}", provider.id);
            assert!(provider.endpoints[0].prefixes.iter().any(|p| **p != *""), "{}", provider.id);
            assert!(
                provider
                    .prefixes()
                    .any(|p| p.replace('_', "-") == provider.id.replace('_', "-") || provider.account_is_host),
                "{}: its id is no prefix",
                provider.id
            );
            assert!(provider.docs.starts_with("https://"), "{}", provider.id);
            for prefix in provider.prefixes() {
                assert!(is_prefix(prefix) && prefixes.insert(prefix.to_owned()), "{prefix}");
            }
            for (pattern, port) in provider.endpoints.iter().flat_map(|e| &e.hosts) {
                let first = hosts.insert((pattern.as_str().to_owned(), *port), provider.id.clone());
                assert!(first.is_none() || *provider.id == *"mistralrs", "{} twice", pattern.as_str());
            }
            for name in
                provider.request_id_headers.iter().chain(&provider.account_headers).chain(&provider.keep_headers)
            {
                let name = name.trim_end_matches('*');
                assert_eq!(http::HeaderName::from_bytes(name.as_bytes()).expect(name).as_str(), name);
            }
        }
    }

    #[test]
    fn price_ids_are_in_the_price_book() {
        let families = crate::meter::PriceBook::bundled(Vec::new()).families();
        let known: HashSet<_> = families.into_iter().flat_map(|family| family.providers).collect();
        let (_, providers) = embedded().expect("loads");
        for provider in &providers {
            for id in provider.price_as.iter().chain(provider.endpoints.iter().filter_map(|e| e.price_as.as_ref())) {
                assert!(known.contains(&**id), "{}: \"{id}\" is not in the price book", provider.id);
            }
        }
        let file: serde_json::Value = serde_json::from_str(EMBEDDED).expect("JSON");
        for mount in file["providers"].as_array().into_iter().flatten().filter_map(|p| p["mounts"].as_array()).flatten()
        {
            if let Some(id) = mount["price_as"].as_str() {
                assert!(known.contains(id), "\"{id}\" is not in the price book");
            }
        }
    }
}
