//! The binary as it starts without any setting, watched by strace in a network namespace with its default ports free: where
//! it listens, whom it asks for names, where it connects to, what it writes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keytally::demo::simulator::{Answer, Simulator};
use tokio::net::{TcpListener, UdpSocket};

use crate::support::netns::Namespace;
use crate::support::wire::{Authority, serve_names};
use crate::support::{Sidecar, post_json, skip};

const PROVIDER: &str = "api.openai.com";
const OK: &str = r#"{"object":"chat.completion","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;

/// Ends with the test, and the traced process with it.
struct Traced(Child);

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A resolver that knows one name, and remembers what it was asked.
async fn resolver(address: IpAddr) -> Arc<Mutex<BTreeSet<String>>> {
    let socket = UdpSocket::bind((address, 53)).await.expect("an address of this test's own");
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let names = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut query = [0_u8; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query).await {
            if let Some((name, answer)) = answer(&query[..length], address) {
                names.lock().unwrap().insert(name);
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    });
    asked
}

/// RFC 1035, section 4: the question comes back, with one address where the name is the provider's and IPv4 is asked for.
fn answer(query: &[u8], address: IpAddr) -> Option<(String, Vec<u8>)> {
    let mut labels = Vec::new();
    let mut at = 12;
    while *query.get(at)? > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..end)?).into_owned());
        at = end;
    }
    let kind = u16::from_be_bytes(*query.get(at + 1..)?.first_chunk()?);
    let question = query.get(12..at + 5)?;
    let (name, IpAddr::V4(address)) = (labels.join("."), address) else { return None };
    let known = name == PROVIDER;
    let answers = u8::from(known && kind == 1);
    // Response, recursion available; NXDOMAIN for names that are not known.
    let mut all = vec![query[0], query[1], 0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, answers, 0, 0, 0, 0];
    all.extend(question);
    if answers == 1 {
        all.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        all.extend(address.octets());
    }
    Some((name, all))
}

/// Sockets of the namespace that wait for somebody: local addresses of listening TCP, and all UDP.
fn waiting(namespace: &Namespace) -> BTreeSet<String> {
    let output = namespace.run(&["ss", "--no-header", "--numeric", "--listening", "--tcp", "--udp", "--raw"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| line.split_whitespace().nth(4).expect("an address").to_owned()).collect()
}

/// Address and port of a `connect`, `sendto` or `bind` to an Internet address, as strace writes them.
fn internet_address(call: &str) -> Option<SocketAddr> {
    let after = |name: &str| call.split_once(name).map(|(_, rest)| rest);
    let port = after("port=htons(")?.split(')').next()?.parse().ok()?;
    let address = match after("inet_addr(\"") {
        Some(rest) => rest.split('"').next()?,
        None => after("inet_pton(AF_INET6, \"")?.split('"').next()?,
    };
    Some(SocketAddr::new(address.parse().ok()?, port))
}

#[test]
fn addresses_are_read_as_strace_writes_them() {
    let v4 = r#"connect(9, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("10.0.0.1")}, 16) = 0"#;
    assert_eq!(internet_address(v4), "10.0.0.1:443".parse().ok());
    let v6 = r#"connect(9, {sa_family=AF_INET6, sin6_port=htons(53), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "fd00::1", &sin6_addr), sin6_scope_id=0}, 28) = -1"#;
    assert_eq!(internet_address(v6), "[fd00::1]:53".parse().ok());
    assert_eq!(internet_address(r#"connect(9, {sa_family=AF_UNIX, sun_path="/x"}, 110) = -1 ENOENT"#), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_it_reaches_the_provider_and_nobody_else() {
    let Some(namespace) = Namespace::new(0) else { return };
    for tool in ["strace", "ss"] {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return skip(tool);
        }
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let outside = IpAddr::from(namespace.outside);
    let authority = Arc::new(Authority::new());
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, &authority.pem).expect("written");
    let provider = Simulator::start(|_| Answer::new(200, "application/json", OK)).await.expect("a free port");
    let listener = TcpListener::bind((outside, 443)).await.expect("an address of this test's own");
    tokio::spawn(serve_names(listener, authority, vec![(PROVIDER, provider.address())]));
    let asked = resolver(outside).await;
    namespace.resolver(outside);

    // No configuration, no variable but where the provider's authority is: the machine's roots do not vouch for a test.
    let trace = dir.path().join("trace");
    let mut command = namespace.command(None, "strace");
    let child = command
        .args(["--follow-forks", "--trace=network,execve,openat,open,creat", "--output"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_keytally"))
        .env("SSL_CERT_FILE", &roots)
        .env("HOME", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.path().join("log")).expect("made"))
        .spawn();
    let mut traced = Traced(child.expect("strace starts"));
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let curl = |arguments: &[&str]| {
        let output = namespace.run(&[&["curl", "--silent", "--fail", "--max-time", "60"], arguments].concat());
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while curl(&["http://127.0.0.1:4140/readyz"]).is_none() {
        assert!(Instant::now() < deadline, "it does not start: {}", log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waiting(&namespace), BTreeSet::from(["127.0.0.1:4140".to_owned(), "127.0.0.1:4141".to_owned()]));
    assert!(asked.lock().unwrap().is_empty(), "nobody is looked up before there is a call");

    let key = "authorization: Bearer sk-made-up-key-for-one-call";
    let answer = curl(&["--header", key, "--json", "{}", "http://127.0.0.1:4141/openai/v1/chat/completions"]);
    assert_eq!(answer.as_deref(), Some(OK), "{}", log());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !curl(&["http://127.0.0.1:4140/metrics"]).is_some_and(|text| text.contains("keytally_requests_total{")) {
        assert!(Instant::now() < deadline, "the call is not counted: {}", log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waiting(&namespace).len(), 2, "a call opens no further port");
    let pid = std::fs::read_to_string(&trace).expect("a trace");
    let pid = pid.split_whitespace().next().expect("the first line begins with the process").to_owned();
    assert!(Command::new("kill").arg("-TERM").arg(&pid).status().expect("kill runs").success());
    let deadline = Instant::now() + Duration::from_secs(60);
    while traced.0.try_wait().expect("wait").is_none() {
        assert!(Instant::now() < deadline, "it does not end: {}", log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let trace = std::fs::read_to_string(&trace).expect("a trace");
    let mut connected = BTreeSet::new();
    for call in trace.lines().filter(|call| call.contains("connect(") || call.contains("sendto(")) {
        connected.extend(internet_address(call));
    }
    // The C library's resolver picks source addresses by connecting a datagram socket, which sends nothing.
    connected.retain(|address| *address != SocketAddr::new(outside, 0));
    assert_eq!(connected, BTreeSet::from([SocketAddr::new(outside, 53), SocketAddr::new(outside, 443)]), "{trace}");
    assert_eq!(*asked.lock().unwrap(), BTreeSet::from([PROVIDER.to_owned()]), "{trace}");
    let started = trace.lines().filter(|call| call.contains("execve(")).count();
    assert_eq!(started, 1, "it starts no other program: {trace}");
    let written: Vec<_> = trace
        .lines()
        .filter(|call| ["O_WRONLY", "O_RDWR", "O_CREAT", "creat("].iter().any(|word| call.contains(word)))
        .filter(|call| !call.contains("\"/dev/null\""))
        .collect();
    assert!(written.is_empty(), "it writes to no file: {written:?}");
}

/// Where an answer sends the client is the client's matter: a proxy that followed would bring the key along.
#[tokio::test]
async fn a_redirect_is_for_the_application_to_follow() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let elsewhere = Simulator::start(move |_| {
        *count.lock().unwrap() += 1;
        Answer::new(200, "application/json", OK)
    });
    let elsewhere = elsewhere.await.expect("a free port");
    let place = format!("http://{}/v1/chat/completions", elsewhere.address());
    let location = place.clone();
    let provider =
        Simulator::start(move |_| Answer::new(307, "text/plain", "over there").header("location", &location));
    let provider = provider.await.expect("a free port");
    let sidecar =
        Sidecar::start(&format!("providers: {{ openai: {{ base_url: \"http://{}\" }} }}", provider.address()));
    let answer = post_json(sidecar.proxy, "/openai/v1/chat/completions", "sk-made-up-key", "{}").await;
    assert_eq!(answer.head.status, 307);
    assert_eq!(answer.head.headers["location"], place.as_str());
    sidecar.wait_for_records(1).await;
    assert_eq!(*asked.lock().unwrap(), 0, "the sidecar followed");
}
