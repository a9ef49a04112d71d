//! Bad and good configurations, the schema and the documentation.

use std::path::Path;

use serde_json::Value;

use super::*;

/// Writes the generated documents instead of comparing them.
pub(crate) const WRITE_DOCS: &str = "KEYTALLY_WRITE_DOCS";

fn source(env: &[(&str, &str)]) -> Source {
    Source { path: Some("f.yaml".into()), env: Environment::of(env), ..Source::default() }
}

fn load(text: &str) -> Config {
    source(&[]).check(text).unwrap_or_else(|e| panic!("{e}")).config
}

fn problems(text: &str) -> Vec<String> {
    problems_with(text, &[])
}

fn problems_with(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    match source(env).check(text) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.iter().map(Problem::to_string).collect(),
    }
}

#[test]
fn without_a_file_the_defaults_hold() {
    let config = Config::default();
    assert_eq!(
        config.listen,
        Listen {
            proxy: LISTEN_PROXY,
            proxy_tls: None,
            admin: LISTEN_ADMIN,
            admin_hosts: Vec::new(),
            redirect: None,
            callers: true
        }
    );
    assert_eq!(config.trace.sample, 1.0);
    assert_eq!(config.trace.keep_usd, Money::parse("0.5").unwrap());
    assert_eq!(config.trace.keep_duration, Duration::from_secs(60));
    assert_eq!(config.metrics.birth_hold, Duration::from_secs(75));
    assert_eq!((config.limits.header_bytes, config.limits.keys), (256 << 10, 200));
    assert_eq!((config.usage.inject, config.usage.estimate), (false, true));
    assert_eq!((config.otlp.as_ref(), config.calls.as_ref()), (None, None));
    for empty in ["", "# nothing\n", "---\n", "{}", "~", "listen:\nkeys:\nproviders:\n", "\u{feff}", "listen: {}\n"] {
        assert_eq!(load(empty), config, "{empty:?}");
    }
}

/// One line: what is written, and the one problem that it is.
#[test]
fn each_mistake_says_where_what_and_what_would_be_right() {
    let table = [
        (
            "- a",
            "f.yaml:1:1: the file: not a mapping; write its settings as name: value (listen, providers, keys, \
                 key_defaults, prices, rules, accounts, fingerprint, labels, usage, export, ledger, trace, metrics, limits, \
                 upstream, tls, forward, shutdown, log)",
        ),
        ("lissten: {}", "f.yaml:1:1: lissten: unknown setting; did you mean listen?"),
        (
            "limits: {tap_bytes: 1MiB}",
            "f.yaml:1:10: limits.tap_bytes: unknown setting; known here: keys, models, accounts, connections, header_bytes",
        ),
        ("birth_hold: 5s", "f.yaml:1:1: birth_hold: unknown setting here; did you mean metrics.birth_hold?"),
        (
            "listen:\n  port: 1",
            "f.yaml:2:3: listen.port: unknown setting; known here: proxy, proxy_tls, admin, admin_hosts, redirect, callers",
        ),
        (
            "listen: { admin_hosts: [\"metrics.example.org:4140\"] }",
            "f.yaml:1:25: listen.admin_hosts[0] = \"metrics.example.org:4140\": the admin port is known by one name only; write it \
                 without port and asterisk",
        ),
        (
            "listen: [1]",
            "f.yaml:1:9: listen: not a mapping; write its settings as name: value (proxy, proxy_tls, admin, admin_hosts, redirect, callers)",
        ),
        (
            "listen: {proxy: 4141}",
            "f.yaml:1:17: listen.proxy = \"4141\": not an address; write IP address and port, for \
                                   instance 127.0.0.1:4141 or [::1]:4141",
        ),
        ("listen: {proxy: [a]}", "f.yaml:1:17: listen.proxy: not a single value; write one value"),
        (
            "listen: {admin: \"127.0.0.1:4141\"}",
            "f.yaml:1:17: listen.admin: \"127.0.0.1:4141\" is also listen.proxy; \
                                                write another port",
        ),
        ("listen: {}\nlisten: {}", "f.yaml:2:1: \"listen\" is given twice, first on line 1; keep one"),
        (
            "providers:\n  Open AI: {}",
            "f.yaml:2:3: providers.\"Open AI\": not an id; write 1 to 32 of a-z 0-9 _ -, \
                                       beginning with a letter or digit",
        ),
        (
            "providers: {x: {base_url: api.x.com}}",
            "f.yaml:1:27: providers.x.base_url = \"api.x.com\": not a web address; \
                                write http:// or https://, a host and no query, for instance https://api.example.com",
        ),
        (
            "providers: {x: {protocol: openai_chat}}",
            "f.yaml:1:27: providers.x.protocol = \"openai_chat\": unknown; did you \
            mean openai-chat? write one of openai-chat, openai-responses, openai-completions, openai-embeddings, \
            openai-images, openai-audio, openai-realtime, anthropic-messages, anthropic-complete, gemini, \
            gemini-interactions, vertex-predict, bedrock-converse, bedrock-invoke, bedrock-agent, cohere-v1, cohere-v2, \
            ollama, dashscope-native, watsonx, opaque",
        ),
        (
            "providers: {a: {prefix: x}, x: {}}",
            "f.yaml:1:29: providers.x.prefix: \"x\" is also the prefix of provider a; \
                                                write another",
        ),
        (
            "providers: {x: {auth: bearer}}",
            "f.yaml:1:23: providers.x.auth = \"bearer\": not a list; write one item a line, \
                                            each after \"- \", or [a, b]",
        ),
        ("keys: {a: b}", "f.yaml:1:7: keys: not a list; write one item a line, each after \"- \", or [a, b]"),
        ("keys:\n  -", "f.yaml:2:4: keys[0]: nothing; write a value or remove the line"),
        (
            "keys: [{name: a}]",
            "f.yaml:1:8: keys[0]: fingerprint is missing; add it (which key: what `keytally \
                               fingerprint` prints for it, never the key itself)",
        ),
        (
            "keys: [{fingerprint: \"openai:3f9\", name: a}]",
            "f.yaml:1:22: keys[0].fingerprint = \"openai:3f9\": not a \
            fingerprint; write <family>:<12 hex digits> as `keytally fingerprint` prints it",
        ),
        (
            "keys: [{fingerprint: \"openai:0123456789ab\", name: 5}]",
            "f.yaml:1:51: keys[0].name = \"5\": a number or \
            switch, not text; write it in quotes: \"5\"",
        ),
        (
            "keys: [{fingerprint: \"openai:0123456789ab\", name: other}]",
            "f.yaml:1:51: keys[0].name: \"other\" has a \
            meaning of its own in metrics; write another name",
        ),
        (
            "keys: [{fingerprint: \"openai:0123456789ab\", name: a, pool: yes}]",
            "f.yaml:1:60: keys[0].pool = \"yes\": \
            neither on nor off; write true or false",
        ),
        ("usage: {inject: 1}", "f.yaml:1:17: usage.inject = \"1\": neither on nor off; write true or false"),
        ("trace: {sample: 1.5}", "f.yaml:1:17: trace.sample = \"1.5\": out of range; write a number from 0 to 1"),
        ("trace: {sample: \"1\"}", "f.yaml:1:17: trace.sample = \"1\": not a number; write a number from 0 to 1"),
        ("trace: {sample: .nan}", "f.yaml:1:17: trace.sample = \".nan\": not a number; write a number from 0 to 1"),
        (
            "trace: {keep_usd: -1}",
            "f.yaml:1:19: trace.keep_usd = \"-1\": not an amount; write dollars as a plain number, \
                                   0 or more, for instance 2.50",
        ),
        (
            "limits: {keys: 1.5}",
            "f.yaml:1:16: limits.keys = \"1.5\": not a whole number; write a whole number from 1 to \
                                 10000",
        ),
        (
            "limits: {keys: 99999999999999999999}",
            "f.yaml:1:16: limits.keys = \"99999999999999999999\": not a whole \
                                 number; write a whole number from 1 to 10000",
        ),
        (
            "limits: {header_bytes: 1048576}",
            "f.yaml:1:24: limits.header_bytes = \"1048576\": not a size; write a number and a \
                                 unit (B, KB, MB, GB, KiB, MiB, GiB), for instance 1MiB",
        ),
        (
            "limits: {header_bytes: 1KiB}",
            "f.yaml:1:24: limits.header_bytes = \"1KiB\": out of range; write 8KiB to 1GiB",
        ),
        (
            "shutdown: {drain: 30}",
            "f.yaml:1:19: shutdown.drain = \"30\": not a duration; write a number and a unit (ms, \
                                   s, m, h, d), for instance 500ms, 30s or 1h",
        ),
        (
            "upstream: {idle_timeout: 0s}",
            "f.yaml:1:26: upstream.idle_timeout = \"0s\": no call could succeed; write more \
                                          than 0",
        ),
        (
            "fingerprint: {salt: {env: NO_SUCH}}",
            "f.yaml:1:15: fingerprint.salt: the variable NO_SUCH is not set; set it",
        ),
        (
            "fingerprint: {salt: {}}",
            "f.yaml:1:15: fingerprint.salt: names no place or two; write {env: VARIABLE} or \
                                     {file: PATH}",
        ),
        (
            "prices: {overrides: [{model: a, input: 1, output: 1}, {model: a, input: 2, output: 2}]}",
            "f.yaml:1:63: prices.overrides[1].model: \"a\" has a price in overrides[0]; write each once",
        ),
        (
            "rules: [{id: a, outcome: ok}]",
            "f.yaml:1:9: rules[0]: matches every answer; write at least one of statuses, \
                                           codes, messages",
        ),
        (
            "accounts: {abc: team}",
            "f.yaml:1:12: accounts.abc: not an account; write the 8 hex digits that the label \
                                   account shows",
        ),
        (
            "labels: {App: x}",
            "f.yaml:1:10: labels.App: not a label name; write 1 to 64 of a-z 0-9 _, beginning with a \
                              letter",
        ),
        ("labels: {app: }", "f.yaml:1:10: labels.app: nothing; write a value"),
        ("ledger: {retention: 0s}", "f.yaml:1:21: ledger.retention = \"0s\": nothing would be kept; write more than 0"),
        ("ledger: {max_size: 1KiB}", "f.yaml:1:20: ledger.max_size = \"1KiB\": out of range; write 1MiB to 1024GiB"),
        ("a: &x {b: 1}\n<<: *x", "f.yaml:2:1: \"<<\": merge keys are not supported; write the settings out"),
    ];
    for (text, problem) in table {
        let found = problems(text);
        let own: Vec<_> = found.iter().filter(|p| !p.starts_with("f.yaml:1:1: a: unknown setting")).collect();
        assert_eq!(own, [problem], "{text}");
    }
}

#[test]
fn several_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = "\
listen:
  proxy: nowhere
keys:
  - fingerprint: sk-proj-made-up-0123456789abcdef
    name: a
  - { fingerprint: \"openai:0123456789ab\", name: b }
  - { fingerprint: \"openai:0123456789ab\", name: b, colour: red }
shutdown: { drain: soon }
trace:
  sample: lots
";
    let found = problems_with(text, &[("KEYTALLY_ADMIN", "x"), ("KEYTALLY_LOG", "loud")]);
    let places: Vec<_> = found.iter().map(|p| p.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        places,
        [
            "f.yaml:2:10: listen.proxy = \"nowhere\"",
            "f.yaml:4:18: keys[0].fingerprint",
            "f.yaml:7:20: keys[2].fingerprint",
            "f.yaml:7:49: keys[2].name",
            "f.yaml:7:52: keys[2].colour",
            "f.yaml:8:20: shutdown.drain = \"soon\"",
            "f.yaml:10:11: trace.sample = \"lots\"",
            "environment: KEYTALLY_ADMIN = \"x\"",
            "environment: KEYTALLY_LOG = \"loud\"",
        ],
        "{found:#?}"
    );
}

/// Wherever a key or another secret is pasted, no message repeats it.
#[test]
fn secrets_are_never_repeated() {
    let keys =
        ["sk-proj-CanaryCanary-Canary1", "AIzaCanary0123456789abcdefghijklmnopqrs", "0123456789abcdef0canary123456789"];
    for key in keys {
        for text in [
            "keys: [{fingerprint: KEY, name: a}]",
            "keys: [{fingerprint: \"openai:KEY\", name: a}]",
            "keys: [{fingerprint: \"openai:0123456789ab\", name: KEY}]",
            "keys: [{fingerprint: \"openai:0123456789ab\", name: a, key: KEY}]",
            "keys: {KEY: a}",
            "keys: KEY",
            "KEY: a",
            "KEY",
            "providers: {KEY: {}}",
            "providers: {openai: KEY}",
            "providers: {openai: {base_url: \"https://KEY@x.com\"}}",
            "providers: {openai: {base_url: \"https://x.com?key=KEY\"}}",
            "providers: {openai: {prefix: \"KEY/\"}}",
            "listen: {proxy: KEY}",
            "labels: {app: KEY}",
            "labels: {KEY: a}",
            "accounts: {KEY: a}",
            "fingerprint: {salt: KEY}",
            "fingerprint: {salt: {env: KEY}}",
            "fingerprint: {salt: {file: /nowhere/KEY}}",
            "export: {otlp: {headers: {KEY: {value: a}, KEY: {value: b}}}}",
            "export: {otlp: {headers: {x-tenant: {value: KEY}}}}",
            "export: {otlp: {headers: {x-tenant: {env: KEY}}}}",
            "KEY: 1\nKEY: 2",
            "a: *KEY",
            "a: !KEY b",
            "a: {KEY\nb: c",
        ] {
            let text = text.replace("KEY", key);
            let found = problems(&text);
            assert!(!found.is_empty(), "{text}");
            assert!(found.iter().all(|p| !p.to_lowercase().contains("canary")), "{text}: {found:#?}");
        }
    }
    // Secrets of no particular form, where only secrets belong.
    for text in [
        "export: {otlp: {headers: {authorization: {value: canary}}}}",
        "export: {otlp: {headers: {authorization: canary}}}",
        "export: {otlp: {headers: \"authorization=canary\"}}",
        "export: {otlp: {headers: {authorization: {env: \"canary 1\"}}}}",
        "export: {otlp: {headers: {x-tenant: {value: \"canary\\n\"}}}}",
        "export: {otlp: {headers: {x-tenant: {value: a, env: CANARY, prefix: canary}}}}",
        "fingerprint: {salt: canary}",
        "fingerprint: {salt: {env: \"canary!\"}}",
        "upstream: {proxy: \"http://me:canary@proxy:1\"}",
        "upstream: {proxy: \"ftp://me:canary@proxy:1\"}",
    ] {
        let found = problems(text);
        assert!(!found.is_empty(), "{text}");
        assert!(found.iter().all(|p| !p.to_lowercase().contains("canary")), "{text}: {found:#?}");
    }
    let config = source(&[("SALT", "canary-salt"), ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=canary")])
        .check("fingerprint: {salt: {env: SALT}}\nexport: {otlp: {endpoint: 'http://c:4318'}}")
        .unwrap();
    assert_eq!(config.config.fingerprint_salt.expose(), "canary-salt");
    assert!(!format!("{config:?}").contains("canary"));
}

#[test]
fn files_that_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let problem = |path: PathBuf| {
        let place = path.display().to_string();
        let error = Source { path: Some(path), ..Source::default() }.load().unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        assert_eq!(error.problems[0].place, place);
        error.problems[0].text.clone()
    };
    assert_eq!(problem(path("none.yaml")), "no such file; check the path");
    assert_eq!(problem(directory.path().to_owned()), "a directory; name the file in it");
    std::fs::write(path("large.yaml"), "# ".repeat(5 << 19)).unwrap();
    assert_eq!(problem(path("large.yaml")), "larger than 4 MiB; is it the right file?");
    std::fs::write(path("latin.yaml"), b"labels:\n  app: caf\xe9\n").unwrap();
    assert_eq!(problem(path("latin.yaml")), "not UTF-8 (line 2); save it as UTF-8");
    #[cfg(unix)]
    {
        let status = std::process::Command::new("mkfifo").arg(path("pipe.yaml")).status();
        if status.is_ok_and(|s| s.success()) {
            assert_eq!(problem(path("pipe.yaml")), "not a regular file; write its content to one");
        }
        std::os::unix::fs::symlink(path("loop.yaml"), path("loop.yaml")).unwrap();
        assert!(problem(path("loop.yaml")).starts_with("cannot be read: "));
    }
    // 4 MiB of a valid, wide file end in bounded time with one problem.
    std::fs::write(path("wide.yaml"), format!("keys:\n{}", "- {}\n".repeat(800_000))).unwrap();
    let error = Source { path: Some(path("wide.yaml")), ..Source::default() }.load().unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
}

#[test]
fn names_are_limited_to_what_gets_a_label() {
    let keys: String = (0..3).map(|n| format!("- {{fingerprint: 'a:00000000000{n}', name: k{n}}}\n")).collect();
    let found = problems(&format!("limits: {{keys: 2}}\nkeys:\n{keys}"));
    assert_eq!(found, ["f.yaml:1:16: limits.keys: 3 keys are named, but only 2 get a label; raise it"]);
    let labels: String = (0..17).map(|n| format!("  l{n}: x\n")).collect();
    assert_eq!(problems(&format!("labels:\n{labels}")), ["f.yaml:1:1: labels: 17 labels; write at most 16"]);
}

#[test]
fn flags_win_over_variables_over_file() {
    let file = "listen: {proxy: '127.0.0.1:1', admin: '127.0.0.1:2'}\nlog: {level: error}\nlabels: {app: a, tier: b}\n";
    let env = [
        ("KEYTALLY_ADMIN", "127.0.0.1:3"),
        ("KEYTALLY_LISTEN", "127.0.0.1:4"),
        ("KEYTALLY_LOG", "debug"),
        ("KEYTALLY_LOG_FORMAT", "json"),
        ("KEYTALLY_LABELS", "app=b, pod=p-1"),
    ];
    let mut source = source(&env);
    source.listen = Some("127.0.0.1:5".parse().unwrap());
    let config = source.check(file).unwrap().config;
    assert_eq!((config.listen.proxy.port(), config.listen.admin.port()), (5, 3));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Json));
    let labels: Vec<_> = config.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(labels, [("app", "b"), ("pod", "p-1"), ("tier", "b")]);
    assert_eq!(config.app(), Some("b"));
    assert_eq!(config.shutdown.linger, Duration::ZERO);
    let found = problems_with("", &[("KEYTALLY_LABELS", "app"), ("KEYTALLY_LISTEN", "4141")]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1], "environment: KEYTALLY_LABELS = \"app\": no \"=\"; write name=value,name=value");
    let pod = self::source(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]).check("").unwrap().config;
    assert_eq!(pod.shutdown.linger, SHUTDOWN_LINGER_KUBERNETES);
}

#[test]
fn open_addresses_are_warned_of() {
    let loaded = source(&[]).check("listen: {proxy: '0.0.0.0:4141'}").unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(source(&[]).check("listen: {admin: '0.0.0.0:4140'}").unwrap().warnings.is_empty());
}

#[test]
fn otel_variables_fill_in_what_the_file_leaves_out() {
    let otlp = |file: &str, env: &[(&str, &str)]| source(env).check(file).unwrap();
    let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    let endpoint = |file: &str, env: &[(&str, &str)]| otlp(file, env).config.otlp.map(|o| o.endpoint.to_string());
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(endpoint("", &[]), None);
    assert_eq!(endpoint("", &[base]), some("http://collector:4318/v1/traces"));
    assert_eq!(endpoint("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c/otlp/")]), some("http://c/otlp/v1/traces"));
    assert_eq!(endpoint("", &[base, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:1/x")]), some("http://t:1/x"));
    assert_eq!(endpoint("", &[base, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), some("http://collector:4318/"));
    assert_eq!(endpoint("export: {otlp: {endpoint: 'http://f:1'}}", &[base]), some("http://f:1/v1/traces"));
    assert_eq!(endpoint("export: {otlp: {endpoint: 'http://f:1/v1/traces'}}", &[]), some("http://f:1/v1/traces"));
    assert_eq!(endpoint("export: {otlp: {endpoint: 'http://f:1'}}", &[("OTEL_SDK_DISABLED", "TRUE")]), None);
    assert_eq!(endpoint("", &[base, ("OTEL_TRACES_EXPORTER", "none")]), None);
    assert_eq!(endpoint("", &[("OTEL_TRACES_EXPORTER", "otlp")]), some("http://localhost:4318/v1/traces"));

    let loaded = otlp(
        "export: {otlp: {headers: {X-Tenant: {value: \"1\"}, authorization: {env: TOKEN, prefix: \"Bearer \"}}}}",
        &[
            base,
            ("TOKEN", "made-up\n"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=2,x-more=a%20b"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
            ("OTEL_SERVICE_NAME", "llm"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=no,k8s.pod.name=p-1"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "250"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ],
    );
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let settings = loaded.config.otlp.unwrap();
    let headers: Vec<_> = settings.headers.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
    assert_eq!(headers, [("x-tenant", "1"), ("authorization", "Bearer made-up"), ("x-more", "a b")]);
    assert_eq!((settings.timeout, settings.batch_delay), (Duration::from_secs(3), Duration::from_millis(250)));
    assert_eq!((settings.queue_spans, settings.batch_spans), (100, 100));
    assert_eq!(settings.service_name, "llm");
    assert_eq!(settings.resource, [("k8s.pod.name".to_owned(), "p-1".to_owned())]);
    assert_eq!((loaded.config.trace.sample, loaded.config.trace.parent_based), (0.25, false));
}

#[test]
fn otel_variables_of_transport_and_context() {
    let config = |vars: &[(&str, &str)]| {
        let loaded = source(vars).check("").unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        loaded.config
    };
    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let endpoint = |vars: &[(&str, &str)]| config(vars).otlp.unwrap().endpoint.to_string();
    assert_eq!(endpoint(&[(BASE, "c:4317"), grpc]), "https://c:4317/");
    assert_eq!(endpoint(&[(BASE, "c:4317"), grpc, ("OTEL_EXPORTER_OTLP_INSECURE", "true")]), "http://c:4317/");
    assert_eq!(endpoint(&[(BASE, "http://c:4317"), grpc]), "http://c:4317/");
    let otlp = config(&[
        (BASE, "https://c"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/c.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k.pem"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "900"),
    ])
    .otlp
    .unwrap();
    assert_eq!((otlp.compression, otlp.endpoint.as_str()), (OtlpCompression::Gzip, "https://c/v1/traces"));
    assert_eq!(otlp.client_certificate.as_deref(), Some(Path::new("/c.pem")));
    assert_eq!(otlp.client_key.as_deref(), Some(Path::new("/k.pem")));
    assert_eq!((otlp.timeout, otlp.batch_timeout), (Duration::from_millis(2500), Duration::from_millis(900)));
    assert_eq!(config(&[]).trace.propagation, Propagation { w3c: true, b3: false });
    let both = config(&[("OTEL_PROPAGATORS", "b3, baggage")]).trace.propagation;
    assert_eq!(both, Propagation { w3c: false, b3: true });
    let off = config(&[("OTEL_TRACES_SAMPLER", "always_off")]).trace;
    assert_eq!((off.sample, off.parent_based, off.keep_notable), (0.0, false, false));
    let file = source(&[("OTEL_PROPAGATORS", "tracecontext"), ("OTEL_TRACES_SAMPLER", "always_off")])
        .check("trace: {b3: true, sample: 0.5}")
        .unwrap()
        .config
        .trace;
    assert!(file.propagation.b3 && file.propagation.w3c && file.keep_notable);
    let alone = problems("export: {otlp: {endpoint: 'https://c', client_key: /k.pem}}");
    assert!(alone.len() == 1 && alone[0].contains("go together"), "{alone:?}");
    let wrong = source(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli")]).check("").unwrap();
    assert_eq!(wrong.warnings.len(), 1);
}

#[test]
fn wrong_otel_variables_are_warnings_and_the_file_wins() {
    let loaded = source(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "canary"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
    ])
    .check("trace: {sample: 0.5}\nexport: {otlp: {endpoint: 'http://f:1', protocol: grpc}}")
    .unwrap();
    assert_eq!(loaded.warnings.len(), 7, "{:#?}", loaded.warnings);
    assert!(!loaded.warnings.concat().contains("canary"));
    assert!(
        loaded.warnings.contains(
            &"OTEL_EXPORTER_OTLP_PROTOCOL = \"http/json\": not supported and ignored; write http/protobuf or grpc"
                .to_owned()
        )
    );
    let otlp = loaded.config.otlp.unwrap();
    assert_eq!(
        (otlp.protocol, otlp.endpoint.as_str(), otlp.timeout),
        (OtlpProtocol::Grpc, "http://f:1/", OTLP_TIMEOUT)
    );
    assert_eq!(loaded.config.trace.sample, 0.5);
}

/// The example of the documentation, all sections in it.
fn example() -> String {
    let text = std::fs::read_to_string(docs("configuration.md")).unwrap();
    let (_, rest) = text.split_once("```yaml\n").expect("an example");
    rest.split_once("```").unwrap().0.to_owned()
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

#[test]
fn the_documented_example_means_what_it_says() {
    let env = [("KEYTALLY_SALT", "made-up-salt"), ("OTLP_TOKEN", "made-up")];
    let config = source(&env).check(&example()).unwrap_or_else(|e| panic!("{e}")).config;
    assert_eq!(config.providers.len(), 2);
    let vllm = config.providers.iter().find(|p| p.id == "my-vllm").unwrap();
    assert_eq!(vllm.base_url.as_ref().unwrap().as_str(), "http://vllm:8000/");
    assert_eq!((vllm.protocol, vllm.price_as.clone()), (Some(crate::call::Protocol::OpenaiChat), Some(None)));
    let key = &config.keys[0];
    assert_eq!(
        (key.fingerprint.as_str(), &*key.name, key.budget_usd_month),
        ("openai:3f9a0c41b2d7", "search-prod", Some(500.0))
    );
    assert_eq!((key.anomaly_ratio, key.new_key_usd_per_hour), (4.0, NEW_KEY_USD_PER_HOUR));
    assert_eq!(config.prices[0].input_per_mtok, Money::parse("0.15").unwrap());
    assert_eq!(config.rules[0].outcome, crate::call::Outcome::RateLimitOther);
    assert_eq!(config.calls, Some(CallsSink::Stdout));
    assert_eq!(config.accounts["3f9a0c41"].as_ref(), "research");
    assert!(config.otlp.is_some() && !config.fingerprint_salt.is_empty());
}

/// A validator that is not ours agrees: the schema is a schema, takes the example, and refuses what we refuse.
#[test]
fn the_schema_is_one() {
    let schema = file::schema();
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("keytally.json", schema.clone()).unwrap();
    let mut schemas = boon::Schemas::new();
    let index = compiler.compile("keytally.json", &mut schemas).unwrap_or_else(|e| panic!("{e:#}"));
    let valid = |text: &str| schemas.validate(&json(text), index).map_err(|e| format!("{e:#}"));
    valid(&example()).unwrap_or_else(|e| panic!("{e}"));
    valid("{}").unwrap();
    for text in [
        "lissten: {}",
        "listen: [1]",
        "keys: [{name: a}]",
        "keys: [{fingerprint: sk-made-up, name: a}]",
        "providers: {x: {protocol: openai_chat}}",
        "providers: {Open AI: {}}",
        "trace: {sample: 2}",
        "limits: {keys: 1.5}",
        "limits: {header_bytes: 12}",
        "shutdown: {drain: 30}",
        "accounts: {abc: team}",
    ] {
        assert!(valid(text).is_err(), "{text}");
        assert!(!problems(text).is_empty(), "{text}");
    }
    let defaults: Value =
        serde_json::from_value(schema["properties"]["listen"]["properties"]["proxy"]["default"].clone()).unwrap();
    assert_eq!(defaults, "127.0.0.1:4141");
    assert_eq!(schema["properties"]["trace"]["properties"]["keep_usd"]["default"], "0.5");
}

/// YAML as JSON, by YAML's own rules.
fn json(text: &str) -> Value {
    fn convert(node: &yaml::Node) -> Value {
        match &node.data {
            yaml::Data::Scalar { .. } if node.is_null() => Value::Null,
            yaml::Data::Scalar { text, plain: true } => {
                serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into())
            }
            yaml::Data::Scalar { text, .. } => text.as_str().into(),
            yaml::Data::List(items) => items.iter().map(|i| convert(i)).collect(),
            yaml::Data::Map(entries) => entries.iter().map(|(k, v)| (k.text.clone(), convert(v))).collect(),
        }
    }
    let (root, problems) = yaml::parse(text);
    assert!(problems.is_empty(), "{problems:?}");
    convert(&root.unwrap())
}

/// Every setting of the schema stands in the documentation as the schema has it. With `KEYTALLY_WRITE_DOCS=1` it is
/// written.
#[test]
fn the_documentation_lists_every_setting() {
    let mut table = String::new();
    for (name, section) in file::schema()["properties"].as_object().unwrap() {
        table += &format!("### `{name}`\n\n{}", section["description"].as_str().unwrap());
        if section["x-restart"] == true {
            table += " Read at start only.";
        }
        if let Some(env) = section["x-env"].as_str() {
            table += &format!(" Environment: {}.", code(env));
        }
        table += "\n\n";
        let mut rows = Vec::new();
        settings(section, name, &mut rows);
        if rows.is_empty() {
            continue;
        }
        table += "| setting | type | default | meaning |\n|---|---|---|---|\n";
        table += &rows.concat();
        table.push('\n');
    }
    compare_docs("configuration.md", &table);
}

/// Names in code spans.
fn code(names: &str) -> String {
    names.split(", ").map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

/// One row a setting.
fn settings(schema: &Value, path: &str, rows: &mut Vec<String>) {
    let required: Vec<&Value> = schema["required"].as_array().into_iter().flatten().collect();
    if let Some(properties) = schema["properties"].as_object() {
        for (name, below) in properties {
            let path = format!("{path}.{name}");
            let mut about =
                below["description"].as_str().unwrap_or_else(|| panic!("{path} has no text")).replace('\n', " ");
            if let Some(env) = below["x-env"].as_str() {
                about += &format!(" Environment: {}.", code(env));
            }
            let section = below.get("properties").is_some() || below["additionalProperties"].is_object();
            let list = below["type"] == "array" && below["items"].get("properties").is_some();
            if !section || below["additionalProperties"].is_object() || list {
                let default = match &below["default"] {
                    Value::Null if required.iter().any(|r| *r == name) => "required".to_owned(),
                    Value::Null => "–".to_owned(),
                    Value::String(text) => format!("`{text}`"),
                    Value::Number(n) => format!("`{}`", n.as_f64().unwrap()),
                    other => format!("`{other}`"),
                };
                rows.push(format!("| `{path}` | {} | {default} | {} |\n", kind(below), about.replace('|', "\\|")));
            }
            settings(below, &path, rows);
        }
    }
    if schema["additionalProperties"].is_object() {
        settings(
            &schema["additionalProperties"],
            &format!("{path}.<{}>", schema["propertyNames"]["format"].as_str().unwrap_or("name")),
            rows,
        );
    }
    if schema["items"].is_object() {
        settings(&schema["items"], &format!("{path}[]"), rows);
    }
}

/// The type in words.
fn kind(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(|v| format!("`{}`", v.as_str().unwrap())).collect::<Vec<_>>().join(" ");
    }
    let range = match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some(low), Some(high)) => format!(", {low} to {high}"),
        _ => String::new(),
    };
    match (schema["format"].as_str(), schema["type"].as_str()) {
        _ if schema["type"] == "array" => format!("list of {}", kind(&schema["items"])),
        _ if schema["additionalProperties"].is_object() => "mapping".to_owned(),
        _ if schema.get("properties").is_some() => "mappings".to_owned(),
        (Some(format), _) => match format {
            "span" => "duration",
            "byte-size" => "size",
            "http-url" => "URL",
            "usd" => "dollars",
            "switch" => "`true` `false`",
            "regex-ci" => "regular expression",
            "env-name" => "name of a variable",
            "semconv" => "`latest` `1.41`",
            "price-id" => "id or `none`",
            "proxy" => "URL or `off`",
            other => return other.replace('-', " "),
        }
        .to_owned(),
        (None, Some("integer")) => format!("whole number{range}"),
        (None, Some("number")) => format!("number{range}"),
        (None, other) => panic!("{other:?} has no words"),
    }
}

/// Compares the generated part of a document, which stands after a marker, with what it should be.
pub(crate) fn compare_docs(name: &str, generated: &str) {
    const MARKER: &str = "<!-- generated from here on; KEYTALLY_WRITE_DOCS=1 cargo test docum -->\n\n";
    let path = docs(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let (written, old) = text.split_once(MARKER).unwrap_or_else(|| panic!("{name} has no marker"));
    let generated = format!("{}\n", generated.trim_end());
    if std::env::var_os(WRITE_DOCS).is_some() {
        std::fs::write(&path, format!("{written}{MARKER}{generated}")).unwrap();
        return;
    }
    assert!(old == generated, "docs/{name} is stale: run {WRITE_DOCS}=1 cargo test docum");
}

/// A setting that nothing reads is a promise that is not kept.
#[test]
fn every_field_of_the_configuration_is_read_elsewhere() {
    fn read(dir: &Path, text: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            match entry.is_dir() {
                true if !["config", "tests"].contains(&&*name) => read(&entry, text),
                false if name.ends_with(".rs") && !name.ends_with("tests.rs") => {
                    text.push_str(&std::fs::read_to_string(&entry).unwrap());
                }
                _ => {}
            }
        }
    }
    let mut code = String::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    let fields: Vec<_> = include_str!("mod.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("    pub ")?.split_once(": "))
        .filter(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .map(|(name, _)| name)
        .collect();
    assert!(fields.len() > 60, "{fields:?}");
    for field in fields {
        let used = format!(".{field}");
        let whole =
            |(at, _): (usize, _)| !code[at + used.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        assert!(code.match_indices(&used).any(whole), "{field} is set and never read");
    }
}
