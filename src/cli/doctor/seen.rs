//! What has been seen of a key: by a running sidecar, asked on its admin port, or by a single live request. In: the JSON of
//! `/status`. Out: [`Seen`], and [`Seen::pick`], the key that a diagnosis is about. Unknown fields are ignored, missing ones are
//! empty, so that another version's sidecar can be asked. At most 16 MiB are read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::call::{Fault, Finding, Fingerprint, Outcome};

/// Longest answer of `/status`: some 2 KiB a key, and every key that can be a label.
const STATUS_BYTES: u64 = 16 << 20;

/// What a sidecar tells.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    /// Where it takes calls.
    pub listeners: Vec<Listener>,
    /// Every key.
    pub keys: Vec<Key>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Listener {
    pub name: String,
    pub address: SocketAddr,
}

/// One key at one provider.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Key {
    /// Name, fingerprint, `none` or `other`.
    pub key: String,
    pub provider: String,
    pub fingerprint: Option<Fingerprint>,
    pub accounts: Vec<String>,
    pub calls: u64,
    pub failures: u64,
    pub retries: u64,
    pub last_success: Option<String>,
    pub last: Option<Call>,
    pub last_failure: Option<Call>,
    pub limits: Vec<Limit>,
    /// Findings and on how many calls each held.
    pub findings: serde_json::Map<String, serde_json::Value>,
    /// Applications that use it, where the kernel or config tells.
    pub clients: Vec<Client>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Client {
    pub client: String,
}

/// How one call went.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Call {
    pub time: String,
    #[serde(default)]
    pub call_id: String,
    #[serde(default)]
    pub operation: String,
    #[serde(default)]
    pub model: String,
    pub status: Option<u16>,
    pub outcome: Outcome,
    pub fault: Fault,
    #[serde(default)]
    pub retryable: bool,
    pub error_type: Option<String>,
    pub error_code: Option<String>,
    #[serde(default)]
    pub retry_count: u32,
    #[serde(default)]
    pub request_bytes: u64,
    pub retry_after_seconds: Option<f64>,
    pub fix: Option<String>,
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// A limit as the provider stated it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Limit {
    pub resource: String,
    pub limit: Option<f64>,
    pub remaining: Option<f64>,
    pub reset: Option<String>,
}

/// Asks the sidecar whose admin port is `admin`.
///
/// # Errors
/// Nobody is there, or it is no sidecar.
pub(super) fn ask(admin: SocketAddr, timeout: Duration) -> anyhow::Result<Seen> {
    let to = super::super::health::reachable(admin);
    let whole = get_status(to, timeout).with_context(|| format!("http://{to}/status"))?;
    let end = whole.windows(4).position(|part| part == b"\r\n\r\n").map(|at| at + 4);
    let Some(end) = end.filter(|_| whole.starts_with(b"HTTP/1.1 200")) else {
        bail!("http://{to}/status: no answer of keytally's; is it its admin port?");
    };
    serde_json::from_slice(&whole[end..]).with_context(|| format!("http://{to}/status: not what keytally answers"))
}

fn get_status(to: SocketAddr, timeout: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET /status HTTP/1.1\r\nHost: {to}\r\nUser-Agent: keytally-doctor\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(STATUS_BYTES).read_to_end(&mut answer)?;
    Ok(answer)
}

// === impl Seen ===

impl Seen {
    /// The key to look at: the wanted one, else the one that failed last, else one with findings, else the one used last.
    pub(super) fn pick(&self, provider: Option<&str>, wanted: Option<&str>) -> Option<&Key> {
        let is_wanted = |key: &&Key| {
            provider.is_none_or(|id| key.provider == id)
                && wanted.is_none_or(|name| {
                    key.key == name || key.fingerprint.as_ref().is_some_and(|own| own.as_str() == name)
                })
        };
        let used = |key: &&Key| key.last.as_ref().map(|call| call.time.clone());
        let failed = |key: &&Key| key.error().map(|call| call.time.clone());
        let mine = || self.keys.iter().filter(is_wanted);
        mine()
            .filter(|key| failed(key).is_some())
            .max_by_key(failed)
            .or_else(|| mine().filter(|key| !key.findings.is_empty()).max_by_key(used))
            .or_else(|| mine().max_by_key(used))
    }

    /// Where calls go to.
    pub(super) fn proxy(&self) -> Option<SocketAddr> {
        self.listeners.iter().find(|listener| listener.name == "proxy").map(|listener| listener.address)
    }
}

impl Key {
    /// The last call that did not go well: the very last one if it did not, else the last failure.
    pub(super) fn error(&self) -> Option<&Call> {
        let last = self.last.as_ref().filter(|call| call.outcome != Outcome::Ok);
        last.or(self.last_failure.as_ref())
    }

    /// Findings of earlier calls, in their order.
    pub(super) fn earlier(&self) -> impl Iterator<Item = Finding> {
        Finding::ALL.iter().copied().filter(|finding| self.findings.contains_key(finding.as_str()))
    }
}
