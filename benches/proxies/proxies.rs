//! The proxies that take part: how each is started in front of the mock provider, and how it is called.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;

use crate::load::Target;
use crate::process::{Running, free_port, wait_for_port};

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// No proxy.
    Direct,
    /// A hyper proxy that looks at nothing, on one thread as keytally's calls are.
    Floor,
    /// The same on two threads.
    FloorThreads,
    /// Metrics and prices.
    Keytally,
    /// Also ledger, call log and spans to a collector.
    KeytallyAll,
    Nginx,
    Haproxy,
    Mitmproxy,
    Litellm,
    Portkey,
}

impl Proxy {
    pub const ALL: [Proxy; 10] = [
        Proxy::Direct,
        Proxy::Floor,
        Proxy::FloorThreads,
        Proxy::Keytally,
        Proxy::KeytallyAll,
        Proxy::Nginx,
        Proxy::Haproxy,
        Proxy::Mitmproxy,
        Proxy::Litellm,
        Proxy::Portkey,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Proxy::Direct => "direct",
            Proxy::Floor => "hyper floor",
            Proxy::FloorThreads => "hyper floor, 2 threads",
            Proxy::Keytally => "keytally",
            Proxy::KeytallyAll => "keytally, all on",
            Proxy::Nginx => "nginx",
            Proxy::Haproxy => "HAProxy",
            Proxy::Mitmproxy => "mitmproxy",
            Proxy::Litellm => "LiteLLM",
            Proxy::Portkey => "Portkey",
        }
    }

    /// What must be installed for it.
    fn program(self) -> Option<PathBuf> {
        let found = |name: &str| {
            let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-tools");
            let places = ["mitmproxy/bin", "litellm/bin", "portkey/node_modules/.bin"].map(|dir| tools.join(dir));
            let path = std::env::var_os("PATH").unwrap_or_default();
            let places = places.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
            places.map(|dir| dir.join(name)).find(|file| file.is_file())
        };
        match self {
            Proxy::Direct | Proxy::Floor | Proxy::FloorThreads => Some(std::env::current_exe().unwrap()),
            Proxy::Keytally | Proxy::KeytallyAll => Some(
                std::env::var_os("KEYTALLY_BINARY")
                    .map_or(PathBuf::from(env!("CARGO_BIN_EXE_keytally")), PathBuf::from),
            ),
            Proxy::Nginx => found("nginx"),
            Proxy::Haproxy => found("haproxy"),
            Proxy::Mitmproxy => found("mitmdump"),
            Proxy::Litellm => found("litellm"),
            Proxy::Portkey => found("gateway"),
        }
    }

    pub fn is_installed(self) -> bool {
        self.program().is_some()
    }

    /// 1,000 calls a second, or 10,000 events, are not more than it can do on one core.
    pub fn keeps_pace(self) -> bool {
        !matches!(self, Proxy::Litellm | Proxy::Portkey)
    }

    /// Ways to use it that make sense: most are not made to intercept.
    pub fn takes_part(self, way: Way) -> bool {
        match way {
            Way::Plain => !matches!(self, Proxy::Mitmproxy),
            Way::TlsUpstream => !matches!(self, Proxy::Direct | Proxy::Mitmproxy | Proxy::Litellm | Proxy::Portkey),
            Way::Intercept => matches!(self, Proxy::Keytally | Proxy::KeytallyAll | Proxy::Mitmproxy),
        }
    }
}

/// How the application reaches the proxy, and the proxy the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Plain HTTP on both sides.
    Plain,
    /// Plain HTTP to the proxy, TLS to the provider.
    TlsUpstream,
    /// CONNECT, and TLS that the proxy opens, on both sides.
    Intercept,
}

/// The mock provider in both forms, and the certificates of this run.
pub struct World {
    pub dir: tempfile::TempDir,
    pub plain: u16,
    pub tls: u16,
    pub collector: u16,
    _running: Vec<Running>,
}

impl World {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let ca_cert = ca.self_signed(&issuer_key).unwrap();
        let issuer = rcgen::Issuer::new(ca, issuer_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut leaf = rcgen::CertificateParams::new(names).unwrap();
        // OpenSSL takes a certificate for self-signed when its name is its issuer's, as it is by default.
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca_cert.pem()).unwrap();
        std::fs::write(dir.path().join("leaf.pem"), leaf.pem()).unwrap();
        std::fs::write(dir.path().join("leaf.key"), key.serialize_pem()).unwrap();
        let (plain, tls, collector) = (free_port(), free_port(), free_port());
        let itself = || Command::new(std::env::current_exe().unwrap());
        let mut running = Vec::new();
        for port in [plain, collector] {
            let mut command = itself();
            command.args(["role:upstream", &port.to_string()]);
            running.push(Running::start(command));
        }
        let mut command = itself();
        command.args(["role:upstream", &tls.to_string()]).arg(dir.path().join("leaf.pem"));
        command.arg(dir.path().join("leaf.key"));
        running.push(Running::start(command));
        for port in [plain, tls, collector] {
            assert!(wait_for_port(loopback(port), Duration::from_secs(10)), "the mock provider does not start");
        }
        Self { dir, plain, tls, collector, _running: running }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.dir.path().join(name), text).unwrap();
        self.file(name)
    }

    /// Starts `proxy`; `None` for no proxy. The target's head has `{path}` where the scenario puts its own.
    pub fn start_proxy(&self, proxy: Proxy, way: Way) -> (Option<Running>, Target) {
        let port = free_port();
        let upstream_port = if way == Way::Plain { self.plain } else { self.tls };
        let scheme = if way == Way::Plain { "http" } else { "https" };
        let program = proxy.program().expect("it is installed");
        let mut command = Command::new(&program);
        let mut prefix = "";
        match proxy {
            Proxy::Direct => {}
            Proxy::Floor | Proxy::FloorThreads => {
                let upstream = format!("{scheme}://localhost:{upstream_port}");
                let threads = if proxy == Proxy::Floor { "1" } else { "2" };
                command.args(["role:floor", &port.to_string(), &upstream, &self.file("ca.pem"), threads]);
            }
            Proxy::Keytally | Proxy::KeytallyAll => {
                prefix = "/openai";
                let config = self.write("keytally.yaml", &self.keytally(proxy, way, port, upstream_port));
                command.args(["serve", "--config", &config]);
            }
            Proxy::Nginx => {
                let config = self.write("nginx.conf", &self.nginx(scheme, port, upstream_port));
                command.args(["-c", &config, "-e", &self.file("nginx.log"), "-g", "daemon off;"]);
            }
            Proxy::Haproxy => {
                let config = self.write("haproxy.cfg", &self.haproxy(way, port, upstream_port));
                command.args(["-W", "-f", &config]);
            }
            Proxy::Mitmproxy => {
                let confdir = format!("confdir={}", self.file("mitmproxy"));
                command.args(["-q", "--listen-host", "127.0.0.1", "-p", &port.to_string(), "--set", &confdir]);
                command.args(["--set", "flow_detail=0", "--set", "connection_strategy=lazy"]);
                command.args(["--set", &format!("ssl_verify_upstream_trusted_ca={}", self.file("ca.pem"))]);
            }
            Proxy::Litellm => {
                let config = format!(
                    "model_list:\n  - model_name: gpt-4o-mini\n    litellm_params: {{ model: openai/gpt-4o-mini, api_base: \"http://127.0.0.1:{upstream_port}/v1\", api_key: sk-made-up-for-the-benchmark }}\n"
                );
                let config = self.write("litellm.yaml", &config);
                command.args(["--config", &config, "--host", "127.0.0.1", "--port", &port.to_string()]);
                command.env("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true");
            }
            Proxy::Portkey => {
                command.args([format!("--port={port}"), "--headless".to_owned()]);
            }
        }
        if proxy == Proxy::Direct {
            return (None, target(upstream_port, "", None, ""));
        }
        let running = Running::start(command);
        assert!(wait_for_port(loopback(port), Duration::from_secs(90)), "{} does not start", proxy.name());
        let extra = match proxy {
            Proxy::Portkey => {
                format!("x-portkey-provider: openai\r\nx-portkey-custom-host: http://127.0.0.1:{upstream_port}/v1\r\n")
            }
            _ => String::new(),
        };
        let through = (way == Way::Intercept).then(|| {
            let ca = match proxy {
                Proxy::Mitmproxy => self.file("mitmproxy/mitmproxy-ca-cert.pem"),
                _ => self.file("ca/ca.pem"),
            };
            assert!(wait_for_file(Path::new(&ca)), "{} makes no {ca}", proxy.name());
            (upstream_port, Arc::new(client_tls(Path::new(&ca))))
        });
        let prefix = if way == Way::Intercept { "" } else { prefix };
        (Some(running), target(port, prefix, through, &extra))
    }

    fn keytally(&self, proxy: Proxy, way: Way, port: u16, upstream_port: u16) -> String {
        let scheme = if way == Way::Plain { "http" } else { "https" };
        let host = if way == Way::Plain { "127.0.0.1" } else { "localhost" };
        let hosts =
            if way == Way::Intercept { format!(", hosts: [\"localhost:{upstream_port}\"]") } else { String::new() };
        let mut text = format!(
            "listen: {{ proxy: \"127.0.0.1:{port}\", admin: \"127.0.0.1:{}\" }}\nproviders: {{ openai: {{ base_url: \"{scheme}://{host}:{upstream_port}\", ca_file: \"{}\"{hosts} }} }}\nshutdown: {{ linger: 0s }}\n",
            free_port(),
            self.file("ca.pem"),
        );
        if way == Way::Intercept {
            text.push_str(&format!("tls: {{ intercept: on, ca_dir: \"{}\" }}\n", self.file("ca")));
        }
        if proxy == Proxy::KeytallyAll {
            text.push_str(&format!(
                "export: {{ otlp: {{ endpoint: \"http://127.0.0.1:{}\" }} }}\nledger: {{ path: \"{}\" }}\n",
                self.collector,
                self.file("ledger.db"),
            ));
        }
        text
    }

    fn nginx(&self, scheme: &str, port: u16, upstream_port: u16) -> String {
        format!(
            "worker_processes 2;\npid {pid};\nevents {{ worker_connections 9000; }}\nhttp {{\n  access_log off;\n  client_body_temp_path {tmp}; proxy_temp_path {tmp}; fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp}; scgi_temp_path {tmp};\n  keepalive_requests 100000000;\n  upstream provider {{ server 127.0.0.1:{upstream_port}; keepalive 128; keepalive_requests 100000000; }}\n  server {{\n    listen 127.0.0.1:{port};\n    location / {{ proxy_pass {scheme}://provider; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host localhost; proxy_buffering off; proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_server_name on; }}\n  }}\n}}\n",
            pid = self.file("nginx.pid"),
            tmp = self.file("nginx-tmp"),
            ca = self.file("ca.pem"),
        )
    }

    fn haproxy(&self, way: Way, port: u16, upstream_port: u16) -> String {
        let tls = match way {
            Way::Plain => String::new(),
            _ => {
                format!(" ssl verify required ca-file {} verifyhost localhost sni str(localhost)", self.file("ca.pem"))
            }
        };
        format!(
            "global\n  nbthread 2\n  maxconn 9000\ndefaults\n  mode http\n  timeout client 1h\n  timeout server 1h\n  timeout connect 5s\nlisten proxy\n  bind 127.0.0.1:{port}\n  http-reuse always\n  server provider 127.0.0.1:{upstream_port}{tls}\n"
        )
    }
}

fn target(port: u16, prefix: &str, through: Option<(u16, Arc<rustls::ClientConfig>)>, extra: &str) -> Target {
    let host = through.as_ref().map_or("localhost".to_owned(), |(port, _)| format!("localhost:{port}"));
    let head = format!(
        "POST {prefix}/v1/{{path}} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer sk-made-up-for-the-benchmark\r\ncontent-type: application/json\r\naccept: application/json\r\nuser-agent: bench/1\r\n{extra}"
    );
    Target { address: loopback(port), head, through, stream: false }
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Waits for something to be in a file: mitmproxy listens before it has written its certificate.
fn wait_for_file(path: &Path) -> bool {
    let is_there = || std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
    (0..100).any(|_| {
        is_there() || {
            std::thread::sleep(Duration::from_millis(100));
            false
        }
    })
}

fn client_tls(ca: &Path) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
