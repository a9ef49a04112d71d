//! `keytally health`: one `GET /livez` to the admin port, for container health checks without a shell or curl.
//!
//! Bounds: one timeout for connecting, writing and reading each; 1 KiB of answer.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// The status line is in the first bytes.
const ANSWER_BYTES: u64 = 1024;

/// Asks the sidecar whose admin port listens on `admin`.
pub(super) fn ask(admin: SocketAddr, timeout: Duration) -> anyhow::Result<()> {
    let to = reachable(admin);
    let timeout = timeout.max(Duration::from_millis(1));
    let answer = exchange(to, timeout).with_context(|| format!("http://{to}/livez"))?;
    let line = String::from_utf8_lossy(answer.split(|b| *b == b'\r' || *b == b'\n').next().unwrap_or_default());
    match line.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(()),
        Some(status) => bail!("http://{to}/livez: answered {status:.3}"),
        None => bail!("http://{to}/livez: no HTTP answer; is it keytally's admin port?"),
    }
}

fn exchange(to: SocketAddr, timeout: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // In one piece: a server that answers the first piece and closes would reset what is still under way.
    let request =
        format!("GET /livez HTTP/1.1\r\nHost: {to}\r\nUser-Agent: keytally-health\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 256];
    while !answer.contains(&b'\n') && (answer.len() as u64) < ANSWER_BYTES {
        match stream.read(&mut part)? {
            0 => break,
            n => answer.extend_from_slice(&part[..n]),
        }
    }
    Ok(answer)
}

/// An address to listen on everywhere is no address to connect to.
pub(super) fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection with these bytes.
    fn answer(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let n = stream.read(&mut request).unwrap();
            assert!(request[..n].starts_with(b"GET /livez HTTP/1.1\r\n"));
            stream.write_all(bytes).unwrap();
        });
        address
    }

    #[test]
    fn alive_is_200_and_nothing_else() {
        let wait = Duration::from_secs(5);
        assert!(ask(answer(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"), wait).is_ok());
        for (bytes, text) in [
            (&b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..], "answered 503"),
            (b"", "no HTTP answer"),
            (b"SSH-2.0-OpenSSH\r\n", "no HTTP answer"),
        ] {
            let error = ask(answer(bytes), wait).unwrap_err();
            assert!(format!("{error:#}").contains(text), "{error:#}");
        }
    }

    #[test]
    fn nobody_there_and_nobody_answering() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let error = ask(address, Duration::from_millis(50)).unwrap_err();
        assert!(format!("{error:#}").contains(&format!("http://{address}/livez: ")), "{error:#}");
        drop(listener);
        assert!(ask(address, Duration::from_secs(1)).is_err());
    }

    #[test]
    fn everywhere_is_reached_on_loopback() {
        assert_eq!(reachable("0.0.0.0:4140".parse().unwrap()).to_string(), "127.0.0.1:4140");
        assert_eq!(reachable("[::]:4140".parse().unwrap()).to_string(), "[::1]:4140");
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()).to_string(), "10.0.0.1:1");
    }
}
