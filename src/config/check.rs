//! Text of a file and environment to [`Config`]: the checks that need more than one value, and the conversion.
//!
//! Problems of the walk, of these checks and of the environment are reported together. Files and variables that hold
//! secrets are read here, and their values are never repeated.

use std::collections::{BTreeMap, HashMap};
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::env::{self, Environment};
use super::file::{File, ForwardFile, HeaderFile, KeyFile, OtlpFile, PriceFile, ProviderFile, ReferenceFile, RuleFile};
use super::problem::{ConfigError, Problem, shown};
use super::walk::{Path, Step, Walker};
use super::yaml::{self, Data, Node, Spot};
use super::{
    CallsSink, Config, Contents, ForwardSettings, KeyDefaults, LedgerSettings, LimitSettings, Listen, Loaded,
    LogSettings, MetricsSettings, Misfit, OTLP_TIMEOUT, OtlpCompression, OtlpProtocol, OtlpSettings, Propagation,
    SHUTDOWN_LINGER_KUBERNETES, Secret, Semconv, ShutdownSettings, Source, TRACE_SAMPLE, TlsSettings, TraceSettings,
    Tunnels, UpstreamProxy, UpstreamSettings, UsageSettings, contents, value,
};
use crate::meter::{KeyEntry, PriceOverride, RuleEntry};
use crate::provider::ProviderOverride;

/// Labels of a record are repeated on every span; more than this is no longer a label.
const MAX_LABELS: usize = 16;

/// Names that the label `key` uses itself.
const RESERVED_NAMES: &[&str] = &["none", "other", "unknown"];

/// Shorter salts can be tried out.
const SALT_LEAST: usize = 8;

/// Largest secret that is read from a file.
const SECRET_BYTES: u64 = 64 * 1024;

/// Checks a text with everything else that the source names. The files are those that the text names, right or wrong.
pub(super) fn check(text: &str, source: &Source) -> (Contents, Result<Loaded, ConfigError>) {
    let name = source.path.as_deref().map_or_else(|| "defaults".into(), FsPath::to_string_lossy);
    let schema = super::file::schema();
    let mut walker = Walker { file: &name, schema: &schema, problems: Vec::new() };
    let (root, found) = yaml::parse(text);
    for (spot, text) in found {
        walker.note(spot, text);
    }
    // A text with a syntax error has no tree: whatever else could be said of it would be wrong.
    let unreadable = root.is_none() && !walker.problems.is_empty();
    let json = match &root {
        Some(root) if !root.is_null() => walker.walk(root, &schema, &Path::default()).unwrap_or_else(empty),
        _ => empty(),
    };
    let file: File = match serde_json::from_value(json) {
        Ok(file) => file,
        // The walk lets nothing through that does not fit; this says so instead of panicking, should it ever do.
        Err(error) => {
            walker.note(Spot { line: 1, column: 1 }, format!("cannot be used: {}", shown(&error.to_string())));
            File::default()
        }
    };
    let mut warnings = Vec::new();
    let mut environment = Vec::new();
    let own = env::own(&source.env, &mut environment);
    let otel = env::otel(&source.env, &mut warnings);
    let mut checker = Checker { walker, root: root.as_deref(), env: &source.env, warnings, environment };
    let config = checker.config(file, source, own, otel);
    // Before a room looks into them: what changes later than this is a change.
    let files = contents(config.files());
    for misfit in source.rooms.map(|ask| ask(&config)).unwrap_or_default() {
        checker.misfit(misfit);
    }
    let Checker { mut walker, warnings, environment, .. } = checker;
    if unreadable {
        walker.problems.truncate(1);
    }
    walker.problems.sort_by_key(|(spot, _)| (spot.line, spot.column));
    let mut problems: Vec<Problem> = walker.problems.into_iter().map(|(_, problem)| problem).collect();
    problems.extend(environment);
    let loaded = if problems.is_empty() { Ok(Loaded { config, warnings }) } else { Err(ConfigError { problems }) };
    (files, loaded)
}

fn empty() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

struct Checker<'a> {
    walker: Walker<'a>,
    root: Option<&'a Node>,
    env: &'a Environment,
    warnings: Vec<String>,
    environment: Vec<Problem>,
}

impl Checker<'_> {
    /// Notes a problem where the setting stands, or else at the nearest section around it. A text that begins with the
    /// value begins with `= `.
    fn wrong(&mut self, path: Path, text: impl AsRef<str>) {
        let mut spot = Spot { line: 1, column: 1 };
        let mut node = self.root;
        for step in &path.0 {
            let next = match (node.map(|n| &n.data), step) {
                (Some(Data::List(items)), Step::Item(n)) => items.get(*n).map(|item| (item.spot, &**item)),
                (Some(Data::Map(_)), Step::Name(name)) => node.and_then(|n| n.child(name)).map(|(key, child)| {
                    let nothing = child.is_null() || !matches!(child.data, Data::Scalar { .. });
                    (if nothing { key.spot } else { child.spot }, child)
                }),
                _ => None,
            };
            match next {
                Some((at, below)) => {
                    spot = at;
                    node = Some(below);
                }
                None => break,
            }
        }
        let text = text.as_ref();
        let colon = if text.starts_with("= ") { "" } else { ":" };
        self.walker.note(spot, format!("{path}{colon} {text}"));
    }

    /// Notes what a room cannot use, unless something is wrong with the same entry already: then it may be a consequence.
    fn misfit(&mut self, misfit: Misfit) {
        let in_list = matches!(misfit.path.get(1), Some(Step::Item(_)));
        let entry = Path(misfit.path.iter().take(if in_list { 1 } else { 2 }).cloned().collect()).to_string();
        let concerns_it = |text: &str| {
            let rest = text.strip_prefix(entry.as_str());
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || "_-".contains(c)))
        };
        if !self.walker.problems.iter().any(|(_, problem)| concerns_it(&problem.text)) {
            self.wrong(Path(misfit.path), misfit.text);
        }
    }

    fn config(&mut self, file: File, source: &Source, own: env::Own, otel: env::Otel) -> Config {
        let listen = Listen {
            proxy: source.listen.or(own.listen.map(|a| a.0)).unwrap_or(file.listen.proxy.0),
            proxy_tls: file.listen.proxy_tls.as_ref().map(|a| a.0),
            admin: source.admin.or(own.admin.map(|a| a.0)).unwrap_or(file.listen.admin.0),
            admin_hosts: file.listen.admin_hosts.into_iter().map(|host| host.0).collect(),
            redirect: file.listen.redirect.map(|a| a.0),
            callers: file.listen.callers.0,
        };
        for (other, address) in [("listen.proxy", listen.proxy), ("listen.admin", listen.admin)] {
            if listen.proxy_tls == Some(address) && address.port() != 0 {
                let text = format!("{} is also {other}; write another port", shown(&address.to_string()));
                self.wrong(Path::of(&[&"listen", &"proxy_tls"]), text);
            }
        }
        for (index, host) in listen.admin_hosts.iter().enumerate().filter(|(_, host)| host.contains([':', '*'])) {
            let text = format!(
                "= {}: the admin port is known by one name only; write it without port and asterisk",
                shown(host)
            );
            self.wrong(Path::of(&[&"listen", &"admin_hosts", &index]), text);
        }
        if listen.proxy == listen.admin && listen.proxy.port() != 0 {
            let text = format!("{} is also listen.proxy; write another port", shown(&listen.admin.to_string()));
            self.wrong(Path::of(&[&"listen", &"admin"]), text);
        }
        if !listen.proxy.ip().is_loopback() {
            let text =
                "listen.proxy is not a loopback address: whoever reaches it can send calls through, and keys cross";
            self.warnings.push(format!("{text} the network unencrypted ({})", listen.proxy));
        }
        if let Some(redirect) = listen.redirect {
            if !redirect.ip().is_loopback() {
                let text = format!("= \"{redirect}\": redirected connections arrive on loopback; write 127.0.0.1:4142");
                self.wrong(Path::of(&[&"listen", &"redirect"]), text);
            } else if redirect.port() != 0 && [listen.proxy.port(), listen.admin.port()].contains(&redirect.port()) {
                let text = format!("{} is taken by another listener; write another port", shown(&redirect.to_string()));
                self.wrong(Path::of(&[&"listen", &"redirect"]), text);
            }
        }
        let key_defaults = KeyDefaults {
            anomaly_ratio: file.key_defaults.anomaly_ratio,
            anomaly_min_usd_per_hour: file.key_defaults.anomaly_min_usd_per_hour,
            new_key_usd_per_hour: file.key_defaults.new_key_usd_per_hour,
        };
        let keys = self.keys(file.keys, &key_defaults);
        if keys.len() > file.limits.keys as usize {
            let text = format!("{} keys are named, but only {} get a label; raise it", keys.len(), file.limits.keys);
            self.wrong(Path::of(&[&"limits", &"keys"]), text);
        }
        let providers = self.providers(file.providers);
        let prices = self.prices(file.prices.overrides);
        let rules = self.rules(file.rules);
        let fingerprint_salt = self.salt(file.fingerprint.salt);
        let labels = self.labels(file.labels, own.labels);
        let forward = self.forward(file.forward);
        let own_ca = match (file.tls.ca_certificate, file.tls.ca_key) {
            (Some(certificate), Some(key)) => Some((certificate.0, key.0)),
            (None, None) => None,
            (certificate, _) => {
                let name = if certificate.is_some() { "ca_certificate" } else { "ca_key" };
                self.wrong(Path::of(&[&"tls", &name]), "ca_certificate and ca_key go together; write both");
                None
            }
        };
        if listen.proxy.ip().is_loopback() || forward.auth.is_some() {
        } else if forward.tunnels == Tunnels::Any {
            let text = "forward.tunnels is any and listen.proxy is not a loopback address: whoever reaches it can go on to any";
            self.warnings.push(format!("{text} host; set forward.auth"));
        }
        let headers = self.headers(&file.export.otlp);
        for (path, span) in [
            (["upstream", "connect_timeout"], &file.upstream.connect_timeout),
            (["upstream", "idle_timeout"], &file.upstream.idle_timeout),
        ] {
            self.positive(&path, Some(span));
        }
        self.positive(&["export", "otlp", "timeout"], file.export.otlp.timeout.as_ref());
        for (name, one, other) in [
            ("client_certificate", &file.export.otlp.client_certificate, otel.client_key.is_some()),
            ("client_key", &file.export.otlp.client_key, otel.client_certificate.is_some()),
        ] {
            let both = file.export.otlp.client_certificate.is_some() && file.export.otlp.client_key.is_some();
            if one.is_some() && !both && !other {
                let text = "client_certificate and client_key go together; write both";
                self.wrong(Path::of(&[&"export", &"otlp", &name]), text);
            }
        }
        let size = &file.limits.header_bytes;
        if !(8 << 10..=1 << 30).contains(&size.0) {
            let text = format!("= \"{size}\": out of range; write 8KiB to 1GiB");
            self.wrong(Path::of(&[&"limits", &"header_bytes"]), text);
        }
        if file.ledger.retention.0.is_zero() {
            self.wrong(Path::of(&[&"ledger", &"retention"]), "= \"0s\": nothing would be kept; write more than 0");
        }
        if !(1 << 20..=1 << 40).contains(&file.ledger.max_size.0) {
            let text = format!("= \"{}\": out of range; write 1MiB to 1024GiB", file.ledger.max_size);
            self.wrong(Path::of(&[&"ledger", &"max_size"]), text);
        }
        let trace = TraceSettings {
            sample: file.trace.sample.or(otel.sample).unwrap_or(TRACE_SAMPLE),
            parent_based: file.trace.parent_based.map(|s| s.0).or(otel.parent_based).unwrap_or(true),
            keep_notable: file.trace.sample.is_some() || otel.keep_notable,
            keep_usd: file.trace.keep_usd.0,
            keep_duration: Duration::try_from_secs_f64(file.trace.keep_seconds).unwrap_or(Duration::MAX),
            keep_unsampled_errors: file.trace.keep_unsampled_errors.0,
            strip_context: file.trace.strip_context.0,
            propagation: Propagation { b3: file.trace.b3.map_or(otel.propagation.b3, |s| s.0), ..otel.propagation },
            profile: file.trace.profile,
            semconv: file.trace.semconv.0.parse().unwrap_or(Semconv::Latest),
            url: file.trace.url.0,
            server_span: file.trace.server_span.0,
        };
        let linger = if own.kubernetes { SHUTDOWN_LINGER_KUBERNETES } else { Duration::ZERO };
        Config {
            listen,
            providers,
            keys,
            key_defaults,
            prices,
            price_book: file.prices.book.map(|p| p.0),
            rules,
            accounts: file.accounts.into_iter().map(|(hash, name)| (hash, Arc::from(name.0))).collect(),
            fingerprint_salt,
            labels,
            usage: UsageSettings { inject: file.usage.inject.0, estimate: file.usage.estimate.0 },
            calls: file.export.calls.path.map(|path| match path.0.to_str() {
                Some("-") => CallsSink::Stdout,
                _ => CallsSink::File(path.0),
            }),
            otlp: otlp(file.export.otlp, headers, otel),
            ledger: own.ledger.or(file.ledger.path).map(|path| LedgerSettings {
                path: path.0,
                retention: file.ledger.retention.0,
                max_bytes: file.ledger.max_size.0,
            }),
            trace,
            metrics: MetricsSettings {
                birth_hold: file.metrics.birth_hold.0,
                histograms: file.metrics.histograms.0,
                exemplars: file.metrics.exemplars.0,
                max_series: file.metrics.max_series,
            },
            limits: LimitSettings {
                keys: file.limits.keys,
                models: file.limits.models,
                accounts: file.limits.accounts,
                connections: file.limits.connections,
                header_bytes: file.limits.header_bytes.0,
            },
            upstream: UpstreamSettings {
                connect_timeout: file.upstream.connect_timeout.0,
                idle_timeout: file.upstream.idle_timeout.0,
                pool_idle_timeout: file.upstream.pool_idle_timeout.0,
                ca_file: file.upstream.ca_file.map(|p| p.0),
                proxy: match file.upstream.proxy {
                    None => UpstreamProxy::Environment,
                    Some(value::Proxy(None)) => UpstreamProxy::Off,
                    Some(value::Proxy(Some(url))) => UpstreamProxy::Through(url),
                },
                http2: file.upstream.http2.0,
            },
            tls: TlsSettings {
                intercept: file.tls.intercept,
                ca_dir: file.tls.ca_dir.map_or_else(|| env::state_dir(self.env).join("ca"), |dir| dir.0),
                own_ca,
            },
            forward,
            shutdown: ShutdownSettings {
                drain: file.shutdown.drain.0,
                linger: file.shutdown.linger.map_or(linger, |l| l.0),
            },
            log: LogSettings {
                format: own.log_format.unwrap_or(file.log.format),
                level: own.log_level.unwrap_or(file.log.level),
            },
        }
    }

    fn positive(&mut self, path: &[&str], span: Option<&value::Span>) {
        if span.is_some_and(|s| s.0.is_zero()) {
            let steps: Vec<Step> = path.iter().map(|s| Step::Name((*s).to_owned())).collect();
            self.wrong(Path(steps), "= \"0s\": no call could succeed; write more than 0");
        }
    }

    /// Every value of `items` is there once.
    fn unique<'k>(&mut self, list: &str, field: &str, items: impl Iterator<Item = (usize, &'k str)>) {
        let mut first: HashMap<&str, usize> = HashMap::new();
        for (at, item) in items {
            if let Some(before) = first.get(item) {
                let text = format!("{} is also {list}[{before}].{field}; write each once", shown(item));
                self.wrong(Path::of(&[&list, &at, &field]), text);
            } else {
                first.insert(item, at);
            }
        }
    }

    fn keys(&mut self, keys: Vec<KeyFile>, defaults: &KeyDefaults) -> Vec<KeyEntry> {
        self.unique("keys", "fingerprint", keys.iter().map(|k| (k.at, k.fingerprint.0.as_str())));
        self.unique("keys", "name", keys.iter().map(|k| (k.at, k.name.0.as_str())));
        for key in &keys {
            if RESERVED_NAMES.contains(&key.name.0.as_str()) {
                let text = format!("{} has a meaning of its own in metrics; write another name", shown(&key.name.0));
                self.wrong(Path::of(&[&"keys", &key.at, &"name"]), text);
            }
            if let (Some(day), Some(month)) = (key.budget_usd_day, key.budget_usd_month)
                && day > month
            {
                let text = format!("{day} is more than the budget of the month ({month}); write less");
                self.wrong(Path::of(&[&"keys", &key.at, &"budget_usd_day"]), text);
            }
        }
        let shared = |name: Option<value::Name>| name.map(|n| Arc::from(n.0));
        keys.into_iter()
            .map(|key| KeyEntry {
                fingerprint: key.fingerprint.0,
                name: key.name.0.into(),
                team: shared(key.team),
                env: shared(key.env),
                anomaly_ratio: key.anomaly_ratio.unwrap_or(defaults.anomaly_ratio),
                anomaly_min_usd_per_hour: key.anomaly_min_usd_per_hour.unwrap_or(defaults.anomaly_min_usd_per_hour),
                new_key_usd_per_hour: key.new_key_usd_per_hour.unwrap_or(defaults.new_key_usd_per_hour),
                budget_usd_day: key.budget_usd_day,
                budget_usd_month: key.budget_usd_month,
                pool: key.pool.is_some_and(|s| s.0),
            })
            .collect()
    }

    fn providers(&mut self, providers: BTreeMap<String, ProviderFile>) -> Vec<ProviderOverride> {
        let mut prefixes: HashMap<String, String> = HashMap::new();
        for (id, provider) in &providers {
            let prefix = provider.prefix.as_ref().map_or(id, |p| &p.0);
            if let Some(other) = prefixes.insert(prefix.clone(), id.clone()) {
                let text = format!("{} is also the prefix of provider {other}; write another", shown(prefix));
                self.wrong(Path::of(&[&"providers", &id.as_str(), &"prefix"]), text);
            }
            if provider.auth.as_ref().is_some_and(Vec::is_empty) {
                let text = "empty; name at least one place, or leave it out";
                self.wrong(Path::of(&[&"providers", &id.as_str(), &"auth"]), text);
            }
        }
        providers
            .into_iter()
            .map(|(id, provider)| ProviderOverride {
                id,
                base_url: provider.base_url.map(|l| l.0),
                prefix: provider.prefix.map(|p| p.0),
                protocol: provider.protocol,
                auth: provider.auth,
                price_as: provider.price_as.map(|p| (p.0 != "none").then_some(p.0)),
                hosts: provider.hosts.into_iter().map(|h| h.0).collect(),
                ca_file: provider.ca_file.map(|p| p.0),
            })
            .collect()
    }

    fn prices(&mut self, prices: Vec<PriceFile>) -> Vec<PriceOverride> {
        let mut first: HashMap<(Option<String>, String), usize> = HashMap::new();
        for price in &prices {
            let which = (price.provider.as_ref().map(|p| p.0.clone()), price.model.0.clone());
            if let Some(before) = first.insert(which, price.at) {
                let text = format!("{} has a price in overrides[{before}]; write each once", shown(&price.model.0));
                self.wrong(Path::of(&[&"prices", &"overrides", &price.at, &"model"]), text);
            }
        }
        prices
            .into_iter()
            .map(|price| PriceOverride {
                provider: price.provider.map(|p| p.0),
                model: price.model.0,
                input_per_mtok: price.input.0,
                output_per_mtok: price.output.0,
                cache_read_per_mtok: price.cache_read.map(|m| m.0),
                cache_write_per_mtok: price.cache_write.map(|m| m.0),
                per_request: price.per_request.map(|m| m.0),
            })
            .collect()
    }

    fn rules(&mut self, rules: Vec<RuleFile>) -> Vec<RuleEntry> {
        self.unique("rules", "id", rules.iter().map(|r| (r.at, r.id.0.as_str())));
        for rule in &rules {
            if rule.statuses.is_empty() && rule.codes.is_empty() && rule.messages.is_empty() {
                let text = "matches every answer; write at least one of statuses, codes, messages";
                self.wrong(Path::of(&[&"rules", &rule.at]), text);
            }
        }
        rules
            .into_iter()
            .map(|rule| RuleEntry {
                id: rule.id.0,
                providers: rule.providers.into_iter().map(|p| p.0).collect(),
                statuses: rule.statuses,
                codes: rule.codes.into_iter().map(|c| c.0).collect(),
                messages: rule.messages.into_iter().map(|m| m.0).collect(),
                outcome: rule.outcome,
                fault: rule.fault,
                retry: rule.retry,
                first_fix: rule.first_fix.map(|t| t.0),
            })
            .collect()
    }

    fn labels(&mut self, file: BTreeMap<String, value::Name>, env: Vec<(String, String)>) -> Arc<[(String, String)]> {
        let mut labels: BTreeMap<String, String> = file.into_iter().map(|(name, value)| (name, value.0)).collect();
        labels.extend(env);
        if labels.len() > MAX_LABELS {
            let text = format!("{} labels; write at most {MAX_LABELS}", labels.len());
            self.wrong(Path::of(&[&"labels"]), text);
        }
        labels.into_iter().collect()
    }

    fn salt(&mut self, salt: Option<ReferenceFile>) -> Secret {
        let Some(salt) = salt else { return Secret::default() };
        let path = Path::of(&[&"fingerprint", &"salt"]);
        let read = self.reference(&salt);
        match read {
            Ok(text) if text.chars().count() >= SALT_LEAST => Secret::new(text),
            Ok(_) => {
                self.wrong(path, format!("the salt is too short; make it at least {SALT_LEAST} characters"));
                Secret::default()
            }
            Err(text) => {
                self.wrong(path, text);
                Secret::default()
            }
        }
    }

    fn reference(&self, reference: &ReferenceFile) -> Result<String, String> {
        match (&reference.env, &reference.file) {
            (Some(name), None) => self.variable(&name.0),
            (None, Some(file)) => from_file(&file.0),
            _ => Err("names no place or two; write {env: VARIABLE} or {file: PATH}".to_owned()),
        }
    }

    fn forward(&mut self, file: ForwardFile) -> ForwardSettings {
        let auth = file.auth.and_then(|auth| {
            let user = auth.user.0;
            if user.contains(':') {
                let text = format!("{} has a colon, where the password begins; write another name", shown(&user));
                self.wrong(Path::of(&[&"forward", &"auth", &"user"]), text);
            }
            let password = self.reference(&auth.password).and_then(|password| {
                let wrong = "the password is empty; write one into the variable or file".to_owned();
                if password.is_empty() { Err(wrong) } else { Ok(password) }
            });
            match password {
                Ok(password) => Some((user, Secret::new(password))),
                Err(text) => {
                    self.wrong(Path::of(&[&"forward", &"auth", &"password"]), text);
                    None
                }
            }
        });
        ForwardSettings { tunnels: file.tunnels, auth }
    }

    fn headers(&mut self, otlp: &OtlpFile) -> Vec<(String, Secret)> {
        let mut headers: Vec<(String, Secret)> = Vec::new();
        for (name, header) in &otlp.headers {
            let path = Path::of(&[&"export", &"otlp", &"headers", &name.as_str()]);
            let lower = name.to_lowercase();
            match self.header(&lower, header) {
                Ok(_) if headers.iter().any(|(known, _)| *known == lower) => {
                    self.wrong(path, "the same header as another one; write each once");
                }
                Ok(value) => headers.push((lower, value)),
                Err(text) => self.wrong(path, text),
            }
        }
        headers
    }

    fn header(&self, name: &str, header: &HeaderFile) -> Result<Secret, String> {
        let read = match (&header.value, &header.env, &header.file) {
            (Some(_), None, None) if is_secret_header(name) => {
                return Err("a secret does not belong into this file; write {env: VARIABLE} or {file: PATH}".to_owned());
            }
            (Some(value), None, None) => value.0.clone(),
            (None, Some(name), None) => self.variable(&name.0)?,
            (None, None, Some(file)) => from_file(&file.0)?,
            _ => return Err("names no place or several; write one of value, env, file".to_owned()),
        };
        let prefix = header.prefix.as_ref().map_or("", |p| p.0.as_str());
        let text = format!("{prefix}{read}");
        match http::HeaderValue::from_str(&text) {
            Ok(_) if !read.is_empty() => Ok(Secret::new(text)),
            _ => Err("the value is empty or cannot be sent as a header; make it one line of plain ASCII".to_owned()),
        }
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        self.env
            .get(name)?
            .map(|v| v.trim().to_owned())
            .ok_or_else(|| format!("the variable {name} is not set; set it"))
    }
}

/// Headers whose value is nobody's business.
fn is_secret_header(name: &str) -> bool {
    ["auth", "key", "token", "secret", "cookie", "password", "credential"].iter().any(|part| name.contains(part))
}

/// Reads a secret; the error says what is wrong and names the file.
fn from_file(path: &FsPath) -> Result<String, String> {
    let wrong = |what: &dyn std::fmt::Display| format!("the file {}: {what}", shown(&path.to_string_lossy()));
    let bytes = crate::files::read(path, SECRET_BYTES).map_err(|error| wrong(&error))?;
    let text = str::from_utf8(&bytes).map_err(|_| wrong(&"not UTF-8; save it as UTF-8"))?;
    Ok(text.trim().to_owned())
}

/// File before `OTEL_*` before default; `None` when nobody asked for spans or the environment forbids them.
fn otlp(file: OtlpFile, file_headers: Vec<(String, Secret)>, otel: env::Otel) -> Option<OtlpSettings> {
    if otel.off {
        return None;
    }
    let protocol = file.protocol.or(otel.protocol).unwrap_or(OtlpProtocol::HttpProtobuf);
    let with_path = |mut base: Url| {
        if protocol == OtlpProtocol::HttpProtobuf && !base.path().ends_with("/v1/traces") {
            let path = format!("{}/v1/traces", base.path().trim_end_matches('/'));
            base.set_path(&path);
        }
        base
    };
    let default = || match protocol {
        OtlpProtocol::HttpProtobuf => Url::parse("http://localhost:4318/v1/traces").ok(),
        OtlpProtocol::Grpc => Url::parse("http://localhost:4317").ok(),
    };
    let endpoint = file
        .endpoint
        .map(|l| with_path(l.0))
        .or(otel.endpoint)
        .or_else(|| otel.base.map(with_path))
        .or_else(|| otel.wanted.then(default).flatten())?;
    let mut headers = file_headers;
    for (name, value) in otel.headers {
        if headers.iter().all(|(known, _)| *known != name) {
            headers.push((name, value));
        }
    }
    Some(OtlpSettings {
        endpoint,
        protocol,
        headers,
        timeout: file.timeout.map(|t| t.0).or(otel.timeout).unwrap_or(OTLP_TIMEOUT),
        batch_timeout: otel.batch_timeout,
        compression: file.compression.or(otel.compression).unwrap_or(OtlpCompression::None),
        ca_file: file.ca_file.map(|p| p.0).or(otel.ca_file),
        client_certificate: file.client_certificate.map(|p| p.0).or(otel.client_certificate),
        client_key: file.client_key.map(|p| p.0).or(otel.client_key),
        service_name: otel.service_name.unwrap_or_else(|| "keytally".to_owned()),
        resource: otel.resource,
        queue_spans: otel.queue_spans,
        batch_spans: otel.batch_spans,
        batch_delay: otel.batch_delay,
    })
}
