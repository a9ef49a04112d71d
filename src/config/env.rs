//! What the environment says: `KEYTALLY_*` for what differs by pod, `OTEL_*` as the OpenTelemetry specification has it,
//! and the variables that the file refers to.
//!
//! A wrong `KEYTALLY_*` variable is an error, a wrong `OTEL_*` variable a warning, as that specification asks. Values of
//! variables that may hold secrets are never repeated.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::problem::{Problem, shown};
use super::value::{Address, FilePath, LabelName, Link, Name};
use super::{
    LogFormat, LogLevel, OTLP_BATCH_DELAY, OTLP_BATCH_SPANS, OTLP_BATCH_TIMEOUT, OTLP_QUEUE_SPANS, OtlpCompression,
    OtlpProtocol, Propagation, Secret,
};

type Lookup = dyn Fn(&str) -> Option<OsString> + Send + Sync;

/// Variables by name, looked up when they are needed and kept nowhere.
#[derive(Clone)]
pub struct Environment(Arc<Lookup>);

/// The process's own.
impl Default for Environment {
    fn default() -> Self {
        Self::from_fn(|name| std::env::var_os(name))
    }
}

/// Names and values are nobody's business.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

impl Environment {
    /// Variables as this function tells them.
    pub fn from_fn(lookup: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static) -> Self {
        Self(Arc::new(lookup))
    }

    /// Only these variables, for tests and for tools.
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let variables: HashMap<String, OsString> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(*value))).collect();
        Self::from_fn(move |name| variables.get(name).cloned())
    }

    /// The value; `None` when it is unset or empty.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn get(&self, name: &str) -> Result<Option<String>, String> {
        match (self.0)(name) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => {
                value.into_string().map(Some).map_err(|_| format!("{name}: not UTF-8; set it to plain text"))
            }
        }
    }
}

/// Where keytally keeps what it must find again: `$STATE_DIRECTORY` (systemd), `$XDG_STATE_HOME/keytally`,
/// `~/.local/state/keytally`, else `/var/lib/keytally`.
pub(super) fn state_dir(env: &Environment) -> PathBuf {
    let get = |name| env.get(name).ok().flatten();
    let absolute =
        |path: String| Some(PathBuf::from(path)).filter(|path| path.is_absolute() && path.parent().is_some());
    // Several are separated by colons; the first is the service's own.
    let systemd =
        get("STATE_DIRECTORY").and_then(|list| absolute(list.split(':').next().unwrap_or_default().to_owned()));
    systemd
        .or_else(|| get("XDG_STATE_HOME").and_then(absolute).map(|path| path.join("keytally")))
        .or_else(|| get("HOME").and_then(absolute).map(|home| home.join(".local/state/keytally")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/keytally"))
}

/// The `KEYTALLY_*` variables.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) listen: Option<Address>,
    pub(super) admin: Option<Address>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) ledger: Option<FilePath>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) log_level: Option<LogLevel>,
    /// Of a process in Kubernetes, which sets this variable in every container.
    pub(super) kubernetes: bool,
}

/// Reads the `KEYTALLY_*` variables.
pub(super) fn own(env: &Environment, problems: &mut Vec<Problem>) -> Own {
    let mut own = Own::default();
    let mut wrong = |text: String| problems.push(Problem { place: "environment".to_owned(), text });
    for name in [
        "KEYTALLY_LISTEN",
        "KEYTALLY_ADMIN",
        "KEYTALLY_LEDGER",
        "KEYTALLY_LOG_FORMAT",
        "KEYTALLY_LOG",
        "KEYTALLY_LABELS",
    ] {
        let value = match env.get(name) {
            Ok(Some(value)) => value,
            Ok(None) => continue,
            Err(text) => {
                wrong(text);
                continue;
            }
        };
        let read = match name {
            "KEYTALLY_LISTEN" => value.parse().map(|address| own.listen = Some(address)),
            "KEYTALLY_ADMIN" => value.parse().map(|address| own.admin = Some(address)),
            "KEYTALLY_LEDGER" => value.parse().map(|path| own.ledger = Some(path)),
            "KEYTALLY_LOG_FORMAT" => value
                .parse()
                .map(|format| own.log_format = Some(format))
                .map_err(|_| "write auto, text or json".to_owned()),
            "KEYTALLY_LOG" => value
                .parse()
                .map(|level| own.log_level = Some(level))
                .map_err(|_| "write error, warn, info, debug or trace".to_owned()),
            _ => labels(&value).map(|labels| own.labels = labels),
        };
        if let Err(why) = read {
            wrong(format!("{name} = {}: {why}", shown(&value)));
        }
    }
    own.kubernetes = matches!(env.get("KUBERNETES_SERVICE_HOST"), Ok(Some(_)));
    own
}

/// Reads `name=value,name=value`.
fn labels(text: &str) -> Result<Vec<(String, String)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let label = |part: &str| {
        let (name, value) = part.split_once('=').ok_or("no \"=\"; write name=value,name=value")?;
        Ok((name.trim().parse::<LabelName>()?.0, value.trim().parse::<Name>()?.0))
    };
    parts.map(label).collect()
}

/// The `OTEL_*` variables that concern spans. `None` and empty where a variable is unset or unreadable.
#[derive(Debug)]
pub(super) struct Otel {
    /// `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none`.
    pub(super) off: bool,
    /// The whole address of spans.
    pub(super) endpoint: Option<Url>,
    /// The base address, to which the transport adds its path.
    pub(super) base: Option<Url>,
    /// `OTEL_TRACES_EXPORTER=otlp` asks for spans without naming an endpoint.
    pub(super) wanted: bool,
    pub(super) protocol: Option<OtlpProtocol>,
    pub(super) headers: Vec<(String, Secret)>,
    pub(super) timeout: Option<Duration>,
    pub(super) compression: Option<OtlpCompression>,
    pub(super) ca_file: Option<std::path::PathBuf>,
    pub(super) client_certificate: Option<std::path::PathBuf>,
    pub(super) client_key: Option<std::path::PathBuf>,
    pub(super) service_name: Option<String>,
    pub(super) resource: Vec<(String, String)>,
    /// Ratio, if one is named.
    pub(super) sample: Option<f64>,
    pub(super) parent_based: Option<bool>,
    /// `always_off` keeps no failures either.
    pub(super) keep_notable: bool,
    pub(super) propagation: Propagation,
    pub(super) queue_spans: usize,
    pub(super) batch_spans: usize,
    pub(super) batch_delay: Duration,
    pub(super) batch_timeout: Duration,
}

/// Reads the `OTEL_*` variables.
///
/// Source: OpenTelemetry specification, "Environment Variable Specification" and "OTLP Exporter Configuration".
pub(super) fn otel(env: &Environment, warnings: &mut Vec<String>) -> Otel {
    let mut reader = Reader { env, warnings };
    let truthy = |value: Option<String>| value.is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let disabled = truthy(reader.get("OTEL_SDK_DISABLED"));
    let exporter = reader.get("OTEL_TRACES_EXPORTER");
    let exporters: Vec<&str> = exporter.as_deref().unwrap_or_default().split(',').map(str::trim).collect();
    let none = exporters.contains(&"none");
    let wanted = exporters.contains(&"otlp");
    for other in exporters.iter().filter(|e| !matches!(**e, "" | "none" | "otlp")) {
        reader.warn("OTEL_TRACES_EXPORTER", other, "not supported and ignored; write otlp or none");
    }
    let protocol = reader.first(
        &["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"],
        |v| v.parse().ok(),
        "not supported and ignored; write http/protobuf or grpc",
    );
    // A gRPC endpoint may come without a scheme: TLS, unless the environment says otherwise.
    let insecure = ["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"]
        .into_iter()
        .find_map(|name| reader.get(name));
    let scheme = if truthy(insecure) { "http" } else { "https" };
    let link = |v: &str| match protocol {
        Some(OtlpProtocol::Grpc) if !v.contains("://") => format!("{scheme}://{v}").parse::<Link>().ok().map(|l| l.0),
        _ => v.parse::<Link>().ok().map(|l| l.0),
    };
    let not_url = "not a web address and ignored; write http:// or https://, host and port";
    let endpoint = reader.first(&["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], link, not_url);
    let base = reader.first(&["OTEL_EXPORTER_OTLP_ENDPOINT"], link, not_url);
    let millis = |v: &str| v.parse::<u64>().ok().filter(|n| *n > 0).map(Duration::from_millis);
    let not_millis = "not a number of milliseconds and ignored";
    let timeout =
        reader.first(&["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"], millis, not_millis);
    let mut file = |what: &str| {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")];
        reader.first(&names.each_ref().map(String::as_str), |v| Some(v.into()), "")
    };
    let ca_file = file("CERTIFICATE");
    let (client_certificate, client_key) = (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY"));
    let compression = reader.first(
        &["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"],
        |v| v.parse().ok(),
        "not supported and ignored; write gzip or none",
    );
    let propagation = reader.get("OTEL_PROPAGATORS").map_or_else(Propagation::default, |list| {
        let named = |name: &str| list.split(',').any(|entry| entry.trim() == name);
        Propagation { w3c: named("tracecontext"), b3: named("b3") || named("b3multi") }
    });
    let mut headers: Vec<(String, Secret)> = Vec::new();
    for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
        for (header, value) in reader.pairs(name) {
            let header = header.to_lowercase();
            if http::HeaderName::from_bytes(header.as_bytes()).is_err() || http::HeaderValue::from_str(&value).is_err()
            {
                reader
                    .warnings
                    .push(format!("{name}: a header that cannot be sent is ignored; write name=value,name=value"));
                continue;
            }
            headers.retain(|(known, _)| *known != header);
            headers.push((header, Secret::new(value)));
        }
    }
    let mut resource = reader.pairs("OTEL_RESOURCE_ATTRIBUTES");
    let from_resource = resource.iter().position(|(name, _)| name == "service.name").map(|at| resource.remove(at).1);
    resource.retain(|(name, _)| name != "service.name");
    let service_name = reader.get("OTEL_SERVICE_NAME").or(from_resource);
    let (sample, parent_based, keep_notable) = reader.sampler();
    let count = |v: &str| v.parse::<usize>().ok().filter(|n| (1..=1_000_000).contains(n));
    let not_count = "not a number from 1 to 1000000 and ignored";
    let queue_spans = reader.first(&["OTEL_BSP_MAX_QUEUE_SIZE"], count, not_count).unwrap_or(OTLP_QUEUE_SPANS);
    let batch_spans = reader.first(&["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"], count, not_count).unwrap_or(OTLP_BATCH_SPANS);
    let batch_delay = reader.first(&["OTEL_BSP_SCHEDULE_DELAY"], millis, not_millis).unwrap_or(OTLP_BATCH_DELAY);
    let batch_timeout = reader.first(&["OTEL_BSP_EXPORT_TIMEOUT"], millis, not_millis).unwrap_or(OTLP_BATCH_TIMEOUT);
    Otel {
        off: disabled || none,
        endpoint,
        base,
        wanted,
        protocol,
        headers,
        timeout,
        compression,
        ca_file,
        client_certificate,
        client_key,
        service_name,
        resource,
        sample,
        parent_based,
        keep_notable,
        propagation,
        queue_spans,
        batch_spans: batch_spans.min(queue_spans),
        batch_delay,
        batch_timeout,
    }
}

struct Reader<'a> {
    env: &'a Environment,
    warnings: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn get(&mut self, name: &str) -> Option<String> {
        self.env.get(name).unwrap_or_else(|text| {
            self.warnings.push(text);
            None
        })
    }

    fn warn(&mut self, name: &str, value: &str, what: &str) {
        self.warnings.push(format!("{name} = {}: {what}", shown(value)));
    }

    /// The first variable that is set; a warning when it cannot be read.
    fn first<T>(&mut self, names: &[&str], read: impl Fn(&str) -> Option<T>, what: &str) -> Option<T> {
        for name in names {
            if let Some(value) = self.get(name) {
                let value = value.trim();
                if let Some(read) = read(value) {
                    return Some(read);
                }
                self.warn(name, value, what);
            }
        }
        None
    }

    /// `name=value,name=value`, values percent-encoded (W3C Baggage).
    fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        let Some(text) = self.get(name) else { return Vec::new() };
        let mut pairs = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let decoded = pair.split_once('=').and_then(|(key, value)| {
                let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?;
                (!key.trim().is_empty()).then(|| (key.trim().to_owned(), value.into_owned()))
            });
            match decoded {
                Some(pair) => pairs.push(pair),
                None => {
                    self.warnings.push(format!("{name}: a part without \"=\" is ignored; write name=value,name=value"))
                }
            }
        }
        pairs
    }

    /// Ratio, whether a parent's decision counts, and whether notable calls are kept all the same.
    fn sampler(&mut self) -> (Option<f64>, Option<bool>, bool) {
        let Some(sampler) = self.get("OTEL_TRACES_SAMPLER") else { return (None, None, true) };
        let (kind, parent_based) = match sampler.trim().strip_prefix("parentbased_") {
            Some(kind) => (kind, true),
            None => (sampler.trim(), false),
        };
        let ratio = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                let ratio = |v: &str| v.parse::<f64>().ok().filter(|r| (0.0..=1.0).contains(r));
                self.first(&["OTEL_TRACES_SAMPLER_ARG"], ratio, "not a number from 0 to 1 and ignored").unwrap_or(1.0)
            }
            _ => {
                let what = "not supported and ignored; write always_on, always_off, traceidratio, or one of them after parentbased_";
                self.warn("OTEL_TRACES_SAMPLER", &sampler, what);
                return (None, None, true);
            }
        };
        (Some(ratio), Some(parent_based), kind != "always_off")
    }
}
