//! One request to the provider over the connection that the sidecar would use: DNS, TCP, proxy, TLS, clock, and what answers.
//!
//! In: provider, config and, for a live request, a key. Out: [`Probe`]. It asks for the list of models, which no provider
//! charges for; without a key that is answered with a refusal, which shows as well that the provider is there. Bounds: the
//! time that is given, 16 KiB of answer, one try.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::proxy::matcher::Matcher;

use crate::call::{GeneratedError, KeyPlace, Operation};
use crate::config::{Config, UpstreamProxy};
use crate::meter::{Evidence, Rules, Verdict};
use crate::provider::{Catalog, Match, Provider, keep_response_headers};
use crate::upstream::{Opened, Upstream, UpstreamError};

/// Longest body that is looked at, bytes.
const BODY_BYTES: usize = 16 * 1024;
/// Paths of lists of models, as the formats have them. The first that is one at a provider is asked for.
const MODELS: &[&str] = &[
    "/api/v1/key",
    "/v1/models",
    "/models",
    "/v1beta/models",
    "/openai/v1/models",
    "/api/v1/models",
    "/inference/v1/models",
    "/compatible-mode/v1/models",
    "/api/paas/v4/models",
    "/api/tags",
    "/foundation-models",
];
/// Values for the part of the host that some providers want.
const PARTS: &[&str] = &["", "/us-east-1", "/global"];

/// What came of it.
pub(super) struct Probe {
    /// `host:port`.
    pub target: String,
    /// The path that was asked for.
    pub path: String,
    pub https: bool,
    /// `None` when a proxy looks the name up.
    pub addresses: Option<Result<Vec<IpAddr>, String>>,
    /// The forward proxy in between, without its password.
    pub proxy: Option<String>,
    /// What was answered, or why nothing was.
    pub answer: Result<Answered, UpstreamError>,
    /// How long it took.
    pub took: Duration,
}

/// An answer.
pub(super) struct Answered {
    pub status: u16,
    pub verdict: Verdict,
    /// This machine's clock minus the answer's `Date`, seconds.
    pub clock_ahead: Option<i64>,
    pub server: Option<String>,
}

/// Asks `provider`; with `key`, as the application would.
///
/// # Errors
/// The provider's address needs a part that nobody knows here, no key of this form can be sent, or the TLS settings of
/// config cannot be used.
pub(super) fn probe(
    provider: &Arc<Provider>,
    catalog: &Catalog,
    config: &Config,
    rules: &Rules,
    key: Option<&str>,
    timeout: Duration,
) -> anyhow::Result<Probe> {
    let found = target(provider, catalog).with_context(|| {
        format!(
            "{}: its host has a part that is yours (a resource or region); call it once and look again",
            provider.id
        )
    })?;
    let request = request(&found, key)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let answer = runtime.block_on(async {
        let mut settings = crate::app::upstream_settings(config, provider.ca_file.as_ref());
        settings.connect_timeout = settings.connect_timeout.min(timeout);
        let opened: Opened = Arc::new(|| Box::new(()));
        let upstream = Upstream::<Full<Bytes>>::new(&settings, &opened)?;
        anyhow::Ok(ask(&upstream, request, &found, rules, config, key.is_some(), timeout).await)
    });
    // A name look-up that hangs must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    answer
}

#[allow(clippy::too_many_arguments)]
async fn ask(
    upstream: &Upstream<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    found: &Match,
    rules: &Rules,
    config: &Config,
    with_key: bool,
    timeout: Duration,
) -> Probe {
    let started = std::time::Instant::now();
    let https = found.scheme == http::uri::Scheme::HTTPS;
    let proxy = proxy_for(config, request.uri());
    let addresses = match proxy {
        Some(_) => None,
        None => Some(addresses(&found.host, found.port, timeout).await),
    };
    let answer = match tokio::time::timeout(timeout, upstream.send(request, false)).await {
        Err(_) => Err(UpstreamError {
            kind: GeneratedError::ReadTimeout,
            detail: format!("no answer within {} s", timeout.as_secs_f64()),
        }),
        Ok(Err(error)) => Err(error),
        Ok(Ok((response, _))) => {
            let (head, mut body) = response.into_parts();
            let mut bytes = Vec::new();
            let reading = async {
                while bytes.len() < BODY_BYTES
                    && let Some(Ok(frame)) = body.frame().await
                {
                    bytes.extend(frame.data_ref().into_iter().flatten().take(BODY_BYTES - bytes.len()));
                }
            };
            let _ = tokio::time::timeout(timeout, reading).await;
            let headers = keep_response_headers(&found.provider, &head.headers);
            let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
            let evidence = Evidence {
                provider: &found.provider.id,
                status: Some(head.status.as_u16()),
                headers: &headers,
                error_body: Some(&bytes),
                credential_present: with_key,
                local: found.provider.local,
                ..Evidence::default()
            };
            Ok(Answered {
                status: head.status.as_u16(),
                verdict: rules.classify(&evidence),
                clock_ahead: text("date").and_then(clock_ahead),
                server: text("server").map(|server| crate::meter::redact(server).chars().take(40).collect()),
            })
        }
    };
    Probe {
        target: format!("{}:{}", found.host, found.port),
        path: crate::provider::redact_query(&found.path_and_query),
        https,
        addresses,
        proxy,
        answer,
        took: started.elapsed(),
    }
}

/// The cheapest call of a provider: the list of models, else the root of its API.
fn target(provider: &Provider, catalog: &Catalog) -> Option<Match> {
    let prefix = provider.prefixes().next()?;
    let recognize =
        |part: &str, path: &str| catalog.recognize_base_url(&Method::GET, &format!("/{prefix}{part}{path}")).ok();
    for part in PARTS {
        // OpenRouter lists its models to everybody, and tells of a key here.
        let is_fit = |path: &str, found: &Match| match path {
            "/api/v1/key" => &*provider.id == "openrouter",
            _ => found.operation == Operation::Models,
        };
        let found = MODELS.iter().find_map(|path| recognize(part, path).filter(|found| is_fit(path, found)));
        if let Some(found) = found.or_else(|| recognize(part, "/")) {
            return Some(found);
        }
    }
    None
}

fn request(found: &Match, key: Option<&str>) -> anyhow::Result<Request<Full<Bytes>>> {
    let uri = format!("{}://{}:{}{}", found.scheme, found.host, found.port, found.path_and_query);
    let mut request = Request::get(uri).header("accept", "application/json").header("user-agent", "keytally-doctor");
    if &*found.provider.family == "anthropic" {
        request = request.header("anthropic-version", "2023-06-01");
    }
    if let Some(key) = key {
        let key = key.trim();
        let (name, value) = match found.provider.auth.first() {
            Some(KeyPlace::Bearer) | None => ("authorization", format!("Bearer {key}")),
            Some(
                place @ (KeyPlace::XApiKey | KeyPlace::ApiKey | KeyPlace::XGoogApiKey | KeyPlace::SubscriptionKey),
            ) => (place.as_str(), key.to_owned()),
            Some(place) => {
                anyhow::bail!("{}: a live request cannot be made where the key goes ({place})", found.provider.id)
            }
        };
        let mut value = http::HeaderValue::try_from(value)
            .map_err(|_| anyhow::anyhow!("the key holds characters that no header can: it cannot be sent as it is"))?;
        value.set_sensitive(true);
        request = request.header(name, value);
    }
    request.body(Full::default()).context("the provider's address")
}

async fn addresses(host: &str, port: u16, timeout: Duration) -> Result<Vec<IpAddr>, String> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    match tokio::time::timeout(timeout, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(found)) => Ok(found.map(|address: SocketAddr| address.ip()).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer of the resolver within {} s", timeout.as_secs_f64())),
    }
}

/// As [`crate::upstream`] chooses it.
fn proxy_for(config: &Config, uri: &http::Uri) -> Option<String> {
    let matcher = match &config.upstream.proxy {
        UpstreamProxy::Off => return None,
        UpstreamProxy::Environment => Matcher::from_env(),
        UpstreamProxy::Through(proxy) => {
            let except = ["NO_PROXY", "no_proxy"].iter().find_map(|name| std::env::var(name).ok());
            Matcher::builder().all(proxy.as_str()).no(except.unwrap_or_default()).build()
        }
    };
    let through = matcher.intercept(uri)?;
    let authority = through.uri().authority()?;
    Some(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

fn clock_ahead(date: &str) -> Option<i64> {
    let stated = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    let now = jiff::Timestamp::try_from(SystemTime::now()).ok()?;
    Some(now.as_second() - stated.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_call_of_each_provider_is_known() {
        let catalog = Catalog::embedded();
        let path = |id: &str| target(catalog.provider(id).expect("known"), &catalog).map(|found| found.path_and_query);
        for (id, expected) in [
            ("openai", "/v1/models"),
            ("anthropic", "/v1/models"),
            ("gemini", "/v1/models"),
            ("groq", "/openai/v1/models"),
            ("openrouter", "/api/v1/key"),
            ("mistral", "/v1/models"),
            ("cohere", "/v1/models"),
        ] {
            assert_eq!(path(id).as_deref(), Some(expected), "{id}");
        }
        let without: Vec<_> = catalog.providers().filter(|provider| target(provider, &catalog).is_none()).collect();
        assert!(
            without.iter().all(|provider| &*provider.id == "azure_openai" || without.len() < 4),
            "{}",
            without.len()
        );
    }

    #[test]
    fn a_key_that_cannot_be_sent_is_not_shown() {
        let catalog = Catalog::embedded();
        let found = target(catalog.provider("openai").expect("known"), &catalog).expect("a target");
        let error = request(&found, Some("made\nup")).expect_err("no header");
        assert!(!format!("{error:#}").contains("made"), "{error:#}");
        let fine = request(&found, Some(" sk-made-up ")).expect("a header");
        assert!(!format!("{:?}", fine.headers()).contains("made-up"));
    }

    #[test]
    fn clocks_are_compared() {
        assert_eq!(clock_ahead("not a date"), None);
        let hour = SystemTime::now() - Duration::from_secs(3600);
        let stated = jiff::Timestamp::try_from(hour).expect("in range");
        let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&stated).expect("a date");
        assert!((3599..3610).contains(&clock_ahead(&text).expect("read")));
    }
}
