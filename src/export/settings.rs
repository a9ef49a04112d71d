//! What can be set of traces, and the `OTEL_*` variables that set it.
//!
//! Variables follow the OpenTelemetry specification (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>
//! and <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>, read 2026-09): empty is unset, a value that cannot be
//! read is told and ignored.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;

use super::trace_context::Propagation;
use super::traces::{Profile, Sampling, Semconv};

/// Spans that wait for their batch. More are dropped and counted: at 2 KiB a record this bounds the queue to 4 MiB.
const MAX_QUEUE: usize = 2_048;
/// Spans sent in one request: the SDKs' default.
const MAX_BATCH: usize = 512;
/// Longest wait for a batch to fill: the SDKs' default.
const DELAY: Duration = Duration::from_secs(5);
/// Longest time for one batch, retries included: the SDKs' default.
const BATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for one request: the specification's default.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// No setting may ask for a longer queue than this.
const QUEUE_CEILING: usize = 65_536;

/// How spans travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// Protobuf over HTTP/1.1.
    #[default]
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

/// Request headers. Values are often secrets: `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OtlpHeaders(pub Vec<(String, String)>);

impl std::fmt::Debug for OtlpHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Where spans go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSettings {
    /// Base address of the collector; `/v1/traces` is added for HTTP.
    pub endpoint: Option<String>,
    /// Address for traces alone, used as it is; wins over `endpoint`.
    pub traces_endpoint: Option<String>,
    /// How.
    pub protocol: OtlpProtocol,
    /// Sent with each request.
    pub headers: OtlpHeaders,
    /// For one request.
    pub timeout: Duration,
    /// Compress requests by gzip.
    pub gzip: bool,
    /// Without a scheme in a gRPC endpoint: no TLS.
    pub insecure: bool,
    /// Certificate authorities (PEM) on top of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain (PEM) to show to the collector.
    pub client_certificate: Option<PathBuf>,
    /// Its key (PEM).
    pub client_key: Option<PathBuf>,
}

impl Default for OtlpSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            traces_endpoint: None,
            protocol: OtlpProtocol::default(),
            headers: OtlpHeaders::default(),
            timeout: REQUEST_TIMEOUT,
            gzip: false,
            insecure: false,
            ca_file: None,
            client_certificate: None,
            client_key: None,
        }
    }
}

/// Everything that can be set of traces. The default has no endpoint: traces are off.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// Where spans go.
    pub otlp: OtlpSettings,
    /// Switched off by `OTEL_SDK_DISABLED` or `OTEL_TRACES_EXPORTER=none`, whatever else is set.
    pub disabled: bool,
    /// How much a span says.
    pub profile: Profile,
    /// Which names it says it in.
    pub semconv: Semconv,
    /// A `SERVER` span, for the hop from the application, is the parent of each call's span.
    pub server_span: bool,
    /// Which calls get a span.
    pub sampling: Sampling,
    /// Which context formats are read.
    pub propagation: Propagation,
    /// `service.name`; `keytally` by default.
    pub service_name: Option<String>,
    /// Further resource attributes.
    pub resource: Vec<(String, String)>,
    /// Spans that may wait.
    pub max_queue: usize,
    /// Spans in one request.
    pub max_batch: usize,
    /// Longest wait for a batch to fill.
    pub delay: Duration,
    /// Longest time for one batch, retries included.
    pub batch_timeout: Duration,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self {
            otlp: OtlpSettings::default(),
            disabled: false,
            profile: Profile::default(),
            semconv: Semconv::default(),
            server_span: false,
            sampling: Sampling::default(),
            propagation: Propagation::default(),
            service_name: None,
            resource: Vec::new(),
            max_queue: MAX_QUEUE,
            max_batch: MAX_BATCH,
            delay: DELAY,
            batch_timeout: BATCH_TIMEOUT,
        }
    }
}

/// Why traces cannot be exported as they are set.
#[derive(Debug, Error)]
pub enum OtlpError {
    /// Not an address.
    #[error("otlp endpoint \"{endpoint}\": {reason}; write for instance http://127.0.0.1:4318")]
    Endpoint {
        /// As given, without user and password.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// A header that HTTP does not allow.
    #[error("otlp header \"{name}\": not allowed in HTTP; names are letters, digits and dashes, values visible ASCII")]
    Header {
        /// Its name; the value may be a secret.
        name: String,
    },
    /// A certificate or key file.
    #[error("{}: {reason}; give a PEM file that keytally may read", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not fit, or the exporter refused its settings.
    #[error("otlp exporter: {0}")]
    Exporter(String),
}

impl OtlpSettings {
    /// Where requests go. For gRPC the path is not used.
    ///
    /// # Errors
    /// When no endpoint is set or it is not an `http` or `https` address.
    pub fn url(&self) -> Result<Url, OtlpError> {
        let (given, is_base) = match (&self.traces_endpoint, &self.endpoint) {
            (Some(own), _) => (own.trim(), false),
            (None, base) => (base.as_deref().unwrap_or("").trim(), true),
        };
        let wrong = |reason: String| OtlpError::Endpoint { endpoint: without_user(given), reason };
        let with_scheme = match self.protocol {
            OtlpProtocol::Grpc if !given.is_empty() && !given.contains("://") => {
                format!("{}://{given}", if self.insecure { "http" } else { "https" })
            }
            _ => given.to_owned(),
        };
        let mut url = Url::parse(&with_scheme).map_err(|error| wrong(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong("not an http or https address".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("user and password are not sent; use an authorization header".to_owned()));
        }
        if is_base && self.protocol == OtlpProtocol::HttpProtobuf {
            let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Ok(url)
    }
}

/// The address without what may be a password before `@`.
fn without_user(endpoint: &str) -> String {
    match endpoint.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => endpoint.to_owned(),
    }
}

impl TraceSettings {
    /// Defaults and the process's `OTEL_*` variables; the second part tells what could not be read.
    pub fn from_env() -> (Self, Vec<String>) {
        Self::default().with_vars(|name| std::env::var(name).ok())
    }

    /// Spans are exported.
    pub fn enabled(&self) -> bool {
        !self.disabled
            && self.profile != Profile::Off
            && (self.otlp.endpoint.is_some() || self.otlp.traces_endpoint.is_some())
    }

    /// These settings with what the variables say on top; the second part tells what could not be read.
    pub fn with_vars(mut self, var: impl Fn(&str) -> Option<String>) -> (Self, Vec<String>) {
        let mut vars = Vars { var: &var, problems: Vec::new() };
        if vars.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            self.disabled = true;
        }
        self.read_otlp(&mut vars);
        self.read_exporter(&mut vars);
        self.read_sampler(&mut vars);
        self.read_resource(&mut vars);
        if let Some(list) = vars.get("OTEL_PROPAGATORS") {
            let named = |name: &str| list.split(',').any(|entry| entry.trim() == name);
            self.propagation = Propagation { w3c: named("tracecontext"), b3: named("b3") || named("b3multi") };
        }
        vars.number("OTEL_BSP_MAX_QUEUE_SIZE", |n: u64| self.max_queue = (n as usize).clamp(1, QUEUE_CEILING));
        vars.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", |n: u64| self.max_batch = (n as usize).max(1));
        vars.number("OTEL_BSP_SCHEDULE_DELAY", |n| self.delay = Duration::from_millis(n));
        vars.number("OTEL_BSP_EXPORT_TIMEOUT", |n| self.batch_timeout = Duration::from_millis(n));
        self.max_batch = self.max_batch.min(self.max_queue);
        (self, vars.problems)
    }

    fn read_otlp(&mut self, vars: &mut Vars) {
        let otlp = &mut self.otlp;
        if let Some(endpoint) = vars.get("OTEL_EXPORTER_OTLP_ENDPOINT") {
            otlp.endpoint = Some(endpoint);
            otlp.traces_endpoint = None;
        }
        if let Some(endpoint) = vars.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            otlp.traces_endpoint = Some(endpoint);
        }
        if let Some((name, protocol)) = vars.signal("PROTOCOL") {
            match protocol.as_str() {
                "grpc" => otlp.protocol = OtlpProtocol::Grpc,
                "http/protobuf" => otlp.protocol = OtlpProtocol::HttpProtobuf,
                _ => vars.problem(&name, &protocol, "not supported; write grpc or http/protobuf"),
            }
        }
        if let Some((name, list)) = vars.signal("HEADERS") {
            for (header, value) in vars.pairs(&name, &list) {
                otlp.headers.0.retain(|(known, _)| !known.eq_ignore_ascii_case(&header));
                otlp.headers.0.push((header, value));
            }
        }
        if let Some((name, text)) = vars.signal("TIMEOUT") {
            match text.parse() {
                Ok(millis) if millis > 0 => otlp.timeout = Duration::from_millis(millis),
                _ => vars.problem(&name, &text, "not a number of milliseconds"),
            }
        }
        if let Some((name, compression)) = vars.signal("COMPRESSION") {
            match compression.as_str() {
                "gzip" => otlp.gzip = true,
                "none" => otlp.gzip = false,
                _ => vars.problem(&name, &compression, "not supported; write gzip or none"),
            }
        }
        if let Some((_, insecure)) = vars.signal("INSECURE") {
            otlp.insecure = insecure.eq_ignore_ascii_case("true");
        }
        for (file, what) in [
            (&mut otlp.ca_file, "CERTIFICATE"),
            (&mut otlp.client_certificate, "CLIENT_CERTIFICATE"),
            (&mut otlp.client_key, "CLIENT_KEY"),
        ] {
            if let Some((_, path)) = vars.signal(what) {
                *file = Some(path.into());
            }
        }
    }

    fn read_exporter(&mut self, vars: &mut Vars) {
        let Some(list) = vars.get("OTEL_TRACES_EXPORTER") else { return };
        let mut names = list.split(',').map(str::trim);
        if names.clone().any(|name| name == "otlp") {
            if self.otlp.endpoint.is_none() && self.otlp.traces_endpoint.is_none() {
                let port = if self.otlp.protocol == OtlpProtocol::Grpc { 4317 } else { 4318 };
                self.otlp.endpoint = Some(format!("http://localhost:{port}"));
            }
        } else if names.any(|name| name == "none") {
            self.disabled = true;
        } else {
            vars.problem("OTEL_TRACES_EXPORTER", &list, "not supported; write otlp or none");
        }
    }

    fn read_sampler(&mut self, vars: &mut Vars) {
        let Some(sampler) = vars.get("OTEL_TRACES_SAMPLER") else { return };
        let (parent_based, kind) = match sampler.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, sampler.as_str()),
        };
        let (ratio, keep_notable) = match kind {
            "always_on" => (1.0, true),
            "always_off" => (0.0, false),
            "traceidratio" => {
                let mut ratio = 1.0;
                if let Some(text) = vars.get("OTEL_TRACES_SAMPLER_ARG") {
                    match text.parse() {
                        Ok(share) if (0.0..=1.0).contains(&share) => ratio = share,
                        _ => vars.problem("OTEL_TRACES_SAMPLER_ARG", &text, "not a number from 0 to 1"),
                    }
                }
                (ratio, self.sampling.keep_notable)
            }
            _ => {
                let known = "not supported; write always_on, always_off or traceidratio, alone or after parentbased_";
                return vars.problem("OTEL_TRACES_SAMPLER", &sampler, known);
            }
        };
        self.sampling = Sampling { parent_based, ratio, keep_notable, ..self.sampling.clone() };
    }

    fn read_resource(&mut self, vars: &mut Vars) {
        if let Some(list) = vars.get("OTEL_RESOURCE_ATTRIBUTES") {
            for (name, value) in vars.pairs("OTEL_RESOURCE_ATTRIBUTES", &list) {
                if name == "service.name" {
                    self.service_name = Some(value);
                } else {
                    self.resource.retain(|(known, _)| *known != name);
                    self.resource.push((name, value));
                }
            }
        }
        if let Some(name) = vars.get("OTEL_SERVICE_NAME") {
            self.service_name = Some(name);
        }
    }
}

/// The environment, and what could not be read in it.
struct Vars<'a> {
    var: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl Vars<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.var)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The variable for traces, else the general one, with its name.
    fn signal(&self, what: &str) -> Option<(String, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")];
        names.into_iter().find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str, set: impl FnOnce(T)) {
        if let Some(text) = self.get(name) {
            match text.parse() {
                Ok(number) => set(number),
                Err(_) => self.problem(name, &text, "not a whole number of 0 or more"),
            }
        }
    }

    /// `a=1,b=2` with percent-encoded values.
    fn pairs(&mut self, variable: &str, list: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let pair = entry.split_once('=').and_then(|(name, value)| {
                let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
                (!name.trim().is_empty()).then(|| (name.trim().to_owned(), value.into_owned()))
            });
            match pair {
                Some(pair) => pairs.push(pair),
                // The entry may be a secret without its name.
                None => self.problems.push(format!("{variable}: an entry is not name=value and was ignored")),
            }
        }
        pairs
    }

    fn problem(&mut self, name: &str, value: &str, reason: &str) {
        self.problems.push(format!("{name}=\"{value}\": {reason}; ignored"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)]) -> (TraceSettings, Vec<String>) {
        TraceSettings::default()
            .with_vars(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    fn settings(vars: &[(&str, &str)]) -> TraceSettings {
        let (settings, problems) = with(vars);
        assert_eq!(problems, Vec::<String>::new());
        settings
    }

    #[test]
    fn nothing_set_is_off() {
        assert!(!settings(&[]).enabled());
        assert_eq!(settings(&[("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_SERVICE_NAME", " ")]), Default::default());
    }

    #[test]
    fn endpoints_follow_the_specification() {
        const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        const PROTOCOL: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
        let url = |vars: &[(&str, &str)]| settings(vars).otlp.url().unwrap().to_string();
        assert_eq!(url(&[(BASE, "http://c:4318")]), "http://c:4318/v1/traces");
        assert_eq!(url(&[(BASE, "http://c:4318/")]), "http://c:4318/v1/traces");
        assert_eq!(url(&[(BASE, "https://c/my/base/")]), "https://c/my/base/v1/traces");
        assert_eq!(url(&[(OWN, "http://c:4318")]), "http://c:4318/");
        assert_eq!(url(&[(OWN, "http://c:4318/x"), (BASE, "http://d:1")]), "http://c:4318/x");
        assert_eq!(url(&[(BASE, "http://c:4317"), PROTOCOL]), "http://c:4317/");
        assert_eq!(url(&[(BASE, "c:4317"), PROTOCOL]), "https://c:4317/");
        assert_eq!(url(&[(BASE, "c:4317"), PROTOCOL, insecure]), "http://c:4317/");
        assert_eq!(url(&[("OTEL_TRACES_EXPORTER", "otlp")]), "http://localhost:4318/v1/traces");
        assert_eq!(url(&[("OTEL_TRACES_EXPORTER", "otlp"), PROTOCOL]), "http://localhost:4317/");
        let env_wins = TraceSettings {
            otlp: OtlpSettings { traces_endpoint: Some("http://file:1/x".to_owned()), ..Default::default() },
            ..Default::default()
        };
        let (env_wins, _) = env_wins.with_vars(|name| (name == BASE).then(|| "http://env:2".to_owned()));
        assert_eq!(env_wins.otlp.url().unwrap().as_str(), "http://env:2/v1/traces");
        for bad in ["c:4318", "ftp://c", "http://", "127.0.0.1:4318", "http://user:made-up-secret@c:4318"] {
            let error = settings(&[(BASE, bad)]).otlp.url().unwrap_err().to_string();
            assert!(error.contains("write for instance") && !error.contains("made-up-secret"), "{error}");
        }
    }

    #[test]
    fn switches() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        assert!(settings(&[endpoint]).enabled());
        assert!(!settings(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]).enabled());
        assert!(settings(&[endpoint, ("OTEL_SDK_DISABLED", "1")]).enabled(), "only true means true");
        assert!(!settings(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).enabled());
        assert!(settings(&[endpoint, ("OTEL_TRACES_EXPORTER", "console, otlp")]).enabled());
        let (console, problems) = with(&[endpoint, ("OTEL_TRACES_EXPORTER", "console")]);
        assert!(console.enabled() && problems.len() == 1);
        let propagation = settings(&[("OTEL_PROPAGATORS", "b3, baggage")]).propagation;
        assert_eq!(propagation, Propagation { w3c: false, b3: true });
    }

    #[test]
    fn everything_else() {
        let set = settings(&[
            ("OTEL_EXPORTER_OTLP_HEADERS", "x=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Basic%20bWFkZQ%3D%3D, x-scope = a=b ,"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "900"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,k8s.pod.name=a%2Cb,k8s.pod.name=c"),
            ("OTEL_SERVICE_NAME", "llm-sidecar"),
        ]);
        let headers = [("authorization", "Basic bWFkZQ=="), ("x-scope", "a=b")];
        assert_eq!(set.otlp.headers.0, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(!format!("{set:?}").contains("bWFkZQ"), "header values are secrets");
        assert_eq!((set.otlp.timeout, set.otlp.gzip), (Duration::from_millis(2500), true));
        assert_eq!(set.otlp.ca_file.as_deref(), Some("/ca.pem".as_ref()));
        assert_eq!((set.sampling.parent_based, set.sampling.ratio, set.sampling.keep_notable), (true, 0.25, true));
        assert_eq!((set.max_queue, set.max_batch), (100, 100));
        assert_eq!((set.delay, set.batch_timeout), (Duration::from_millis(50), Duration::from_millis(900)));
        assert_eq!(set.service_name.as_deref(), Some("llm-sidecar"));
        assert_eq!(set.resource, [("k8s.pod.name".to_owned(), "c".to_owned())]);
        let off = settings(&[("OTEL_TRACES_SAMPLER", "always_off")]).sampling;
        assert_eq!((off.parent_based, off.ratio, off.keep_notable), (false, 0.0, false));
    }

    #[test]
    fn what_cannot_be_read_is_told_and_ignored() {
        let (set, problems) = with(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "made-up-secret"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ]);
        assert_eq!(set, TraceSettings::default());
        assert_eq!(problems.len(), 6, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.contains("OTEL_") && !problem.contains("made-up-secret")));
        let (_, problems) = with(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "7")]);
        assert_eq!(problems.len(), 1);
    }
}
