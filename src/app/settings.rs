//! From configuration to what the rooms are started with, and which of it no room can use.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use zeroize::Zeroizing;

use crate::config::{CallsSink, Config, Misfit, OtlpCompression, Step};
use crate::export::metrics::{Metrics, MetricsConfig, Side};
use crate::export::{ExportSettings, LedgerSettings, LogTarget, OtlpHeaders, OtlpSettings, Sampling, TraceSettings};
use crate::files::{self, FileError};
use crate::ledger::Retention;
use crate::listen::ca::Authority;
use crate::listen::permitted;
use crate::listen::tls::Interception;
use crate::meter::{AccountNames, MeterConfig, PriceBook, PriceOverride, Rules};
use crate::provider::Catalog;
use crate::proxy::forward::ProxyPassword;
use crate::proxy::{Snapshot, Upstreams};
use crate::upstream::{Opened, Reach, Roots, Upstream, UpstreamSettings};

/// What the rooms cannot use of a configuration whose values are right one by one. Nothing is kept of what is built here.
pub fn misfits(config: &Config) -> Vec<Misfit> {
    let name = |name: &str| Step::Name(name.to_owned());
    let mut misfits = Vec::new();
    if !config.providers.is_empty() {
        misfits.extend(Catalog::build(&config.providers).err().into_iter().flatten().map(|error| Misfit {
            path: vec![name("providers"), name(&error.id), name(error.field)],
            text: error.message,
        }));
    }
    if !config.rules.is_empty() {
        misfits.extend(Rules::build(&config.rules).err().into_iter().flatten().map(|error| Misfit {
            path: vec![name("rules"), Step::Item(error.index), name(error.field)],
            text: error.problem,
        }));
    }
    let mut file = |path: Vec<Step>, used: anyhow::Result<()>| {
        if let Err(error) = used {
            misfits.push(Misfit { path, text: format!("{error:#}") });
        }
    };
    if let Some(path) = &config.price_book {
        file(vec![name("prices"), name("book")], price_book(path, &[], files::read).map(drop));
    }
    if let Some(path) = &config.upstream.ca_file {
        file(vec![name("upstream"), name("ca_file")], Roots::check(path));
    }
    for provider in &config.providers {
        if let Some(path) = &provider.ca_file {
            file(vec![name("providers"), name(&provider.id), name("ca_file")], Roots::check(path));
        }
    }
    if let Some((certificate, key)) = &config.tls.own_ca {
        file(vec![name("tls"), name("ca_certificate")], Authority::from_files(certificate, key).map(drop));
    }
    if let Some(path) = config.otlp.as_ref().and_then(|otlp| otlp.ca_file.as_ref()) {
        file(vec![name("export"), name("otlp"), name("ca_file")], Roots::check(path));
    }
    misfits
}

/// All providers, those of the configuration too.
///
/// # Errors
/// Every provider of the configuration that cannot be used.
pub(crate) fn catalog(config: &Config) -> anyhow::Result<Catalog> {
    Catalog::build(&config.providers).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("providers: {}", lines.join("; "))
    })
}

/// A book of its own, instead of the embedded one; `read` is [`files::read`] or [`files::read_any`].
///
/// # Errors
/// The file cannot be read, or is no price book.
pub(crate) fn price_book(
    path: &Path,
    overrides: &[PriceOverride],
    read: impl Fn(&Path, u64) -> Result<Zeroizing<Vec<u8>>, FileError>,
) -> anyhow::Result<PriceBook> {
    let shown = path.display();
    let bytes = read(path, files::MAX_PRICE_BOOK_BYTES).with_context(|| shown.to_string())?;
    let written = std::fs::metadata(path).and_then(|about| about.modified()).ok();
    PriceBook::from_json(&bytes, written, overrides.to_vec()).with_context(|| shown.to_string())
}

/// How connections to providers are made; `own` is a provider's own certificate authority.
pub fn upstream_settings(config: &Config, own: Option<&std::path::PathBuf>) -> UpstreamSettings {
    UpstreamSettings {
        connect_timeout: config.upstream.connect_timeout,
        pool_idle_timeout: config.upstream.pool_idle_timeout,
        http2: config.upstream.http2,
        ca_files: config.upstream.ca_file.iter().chain(own).cloned().collect(),
        proxy: config.upstream.proxy.clone(),
        header_bytes: usize::try_from(config.limits.header_bytes).unwrap_or(usize::MAX),
    }
}

pub(super) fn snapshot(config: &Config, metrics: &Metrics, listeners: &Arc<[SocketAddr]>) -> anyhow::Result<Snapshot> {
    let connections = metrics.clone();
    let opened: Opened = Arc::new(move || Box::new(connections.connection(Side::Upstream)));
    let catalog = catalog(config)?;
    let settings = |own: Option<&std::path::PathBuf>| upstream_settings(config, own);
    let mut own = Vec::new();
    for provider in catalog.providers().filter(|provider| provider.ca_file.is_some()) {
        own.push((Arc::clone(&provider.id), Arc::new(Upstream::new(&settings(provider.ca_file.as_ref()), &opened)?)));
    }
    let shared = Upstream::new(&settings(None), &opened)?;
    let within = |loopback| shared.within(&Arc::new(Reach::new(Arc::clone(listeners), loopback)));
    let upstream = Upstreams { local: within(true), remote: within(false), shared: Arc::new(shared), own };
    let with_tls_port = config.listen.proxy_tls.is_some();
    let intercept = Interception::new(&config.tls, &catalog, with_tls_port)?;
    if let Some(mint) = intercept.mint().filter(|_| with_tls_port) {
        let localhost = mint.server(permitted::LOCALHOST, SystemTime::now());
        localhost.map_err(|error| anyhow::anyhow!("listen.proxy_tls: {error}"))?;
    }
    let password = config.forward.auth.as_ref();
    Ok(Snapshot {
        catalog,
        upstream,
        intercept: Arc::new(intercept),
        tunnels: config.forward.tunnels,
        password: password.map(|(user, password)| ProxyPassword::new(user, password.expose())).transpose()?,
        idle_timeout: config.upstream.idle_timeout,
        salt: config.fingerprint_salt.expose().as_bytes().to_vec(),
        client: config.app().map(Arc::from),
        inject_usage: config.usage.inject,
        propagation: config.trace.propagation,
        strip_context: config.trace.strip_context,
        keep_url: config.trace.url,
    })
}

pub(super) fn meter_config(config: &Config) -> anyhow::Result<MeterConfig> {
    let prices = match &config.price_book {
        Some(path) => price_book(path, &config.prices, files::read).context("prices.book")?,
        None => PriceBook::bundled(config.prices.clone()),
    };
    let rules = Rules::build(&config.rules).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("rules: {}", lines.join("; "))
    })?;
    Ok(MeterConfig {
        keys: config.keys.clone(),
        prices: Arc::new(prices),
        rules: Arc::new(rules),
        estimate: config.usage.estimate,
        labels: Arc::clone(&config.labels),
        client: config.app().map(Arc::from),
        accounts: AccountNames {
            names: config.accounts.iter().map(|(hash, name)| (hash.clone(), Arc::clone(name))).collect(),
            salt: config.fingerprint_salt.expose().as_bytes().to_vec(),
        },
        max_models: config.limits.models as usize,
    })
}

pub(super) fn metrics_config(config: &Config) -> MetricsConfig {
    MetricsConfig {
        birth_hold: config.metrics.birth_hold,
        histograms: config.metrics.histograms,
        max_series: config.metrics.max_series as usize,
        max_keys: config.limits.keys as usize,
        max_models: config.limits.models as usize,
        max_accounts: config.limits.accounts as usize,
        exemplars: config.metrics.exemplars,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: crate::REVISION.to_owned(),
    }
}

pub(super) fn export_settings(config: &Config) -> ExportSettings {
    let log = config.calls.as_ref().map(|sink| match sink {
        CallsSink::Stdout => LogTarget::Stdout,
        CallsSink::File(path) => LogTarget::Path(path.clone()),
    });
    let ledger = ledger_settings(config);
    let Some(otlp) = &config.otlp else { return ExportSettings { log, ledger, ..ExportSettings::default() } };
    let trace = &config.trace;
    let traces = TraceSettings {
        otlp: OtlpSettings {
            endpoint: Some(otlp.endpoint.clone()),
            protocol: otlp.protocol,
            headers: OtlpHeaders(
                otlp.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect(),
            ),
            timeout: otlp.timeout,
            gzip: otlp.compression == OtlpCompression::Gzip,
            ca_file: otlp.ca_file.clone(),
            client_certificate: otlp.client_certificate.clone(),
            client_key: otlp.client_key.clone(),
        },
        profile: trace.profile,
        semconv: trace.semconv,
        server_span: trace.server_span,
        sampling: Sampling {
            parent_based: trace.parent_based,
            ratio: trace.sample,
            keep_notable: trace.keep_notable,
            keep_cost: trace.keep_usd,
            keep_duration: trace.keep_duration,
            keep_unsampled_errors: trace.keep_unsampled_errors,
        },
        service_name: Some(otlp.service_name.clone()),
        resource: otlp.resource.clone(),
        max_queue: otlp.queue_spans,
        max_batch: otlp.batch_spans,
        delay: otlp.batch_delay,
        batch_timeout: otlp.batch_timeout,
    };
    ExportSettings { log, traces, ledger }
}

pub(super) fn ledger_settings(config: &Config) -> Option<LedgerSettings> {
    config.ledger.as_ref().map(|ledger| LedgerSettings {
        path: ledger.path.clone(),
        retention: Retention { age: ledger.retention, max_bytes: ledger.max_bytes },
    })
}
