//! Where a client of the forward proxy may be connected to: not to link-local and metadata addresses, not to keytally
//! itself, and to loopback only from this machine.
//!
//! The check is on the address that is connected to, after the name was resolved, so that a name cannot point elsewhere
//! a moment later. Where another proxy on the way resolves the name, only names and literal addresses can be checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// Names of metadata services. Source: documentation of the clouds, November 2026.
const METADATA_NAMES: [&str; 6] = [
    "metadata.google.internal",
    "metadata.goog",
    "metadata",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
];

/// Metadata addresses that are not link-local: Alibaba Cloud, Azure's platform, Oracle's older one.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

/// The same over IPv6: AWS (instance metadata, containers), Google, Oracle.
const METADATA_V6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// What one client may be connected to.
#[derive(Clone, Debug)]
pub struct Reach {
    listeners: Arc<[SocketAddr]>,
    loopback: bool,
    anywhere: bool,
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} {why}")]
pub struct Forbidden {
    place: String,
    why: &'static str,
}

const LINK_LOCAL: &str = "is a link-local address, where clouds keep credentials";
const METADATA: &str = "is a cloud's metadata service";
const ITSELF: &str = "is keytally itself";
const LOOPBACK: &str = "is a loopback address, and only clients on this machine may reach those";
const NO_HOST: &str = "is no address of a single host";

impl Reach {
    /// `listeners` are keytally's own; `loopback`: the client is on this machine.
    pub fn new(listeners: Arc<[SocketAddr]>, loopback: bool) -> Self {
        Self { listeners, loopback, anywhere: false }
    }

    /// Everywhere but to keytally itself: for connections that would have gone there anyway, and were led here.
    pub fn anywhere(listeners: Arc<[SocketAddr]>) -> Self {
        Self { listeners, loopback: true, anywhere: true }
    }

    /// Checks an address that is about to be connected to.
    ///
    /// # Errors
    /// Why it is not.
    pub fn address(&self, address: SocketAddr) -> Result<(), Forbidden> {
        let refuse = |why| Err(Forbidden { place: address.to_string(), why });
        let ip = plain(address.ip());
        let (link_local, metadata, no_host) = match ip {
            IpAddr::V4(v4) => (v4.is_link_local(), METADATA_V4.contains(&v4), v4.is_multicast() || v4.is_broadcast()),
            IpAddr::V6(v6) => (v6.is_unicast_link_local(), METADATA_V6.contains(&v6), v6.is_multicast()),
        };
        let forbidden = [(link_local, LINK_LOCAL), (metadata, METADATA), (no_host, NO_HOST)];
        if let Some((_, why)) = forbidden.iter().find(|(is, _)| *is && !self.anywhere) {
            return refuse(*why);
        }
        // Connecting to the unspecified address reaches this machine.
        let loopback = ip.is_loopback() || ip.is_unspecified();
        let is_own = |listener: &SocketAddr| {
            listener.port() == address.port() && (loopback || listener.ip() == ip || is_own_address(ip))
        };
        if self.listeners.iter().any(is_own) {
            return refuse(ITSELF);
        }
        if loopback && !self.loopback {
            return refuse(LOOPBACK);
        }
        Ok(())
    }

    /// Checks what can be checked of a host before, or without, resolving it: a literal address or a name.
    ///
    /// # Errors
    /// Why it is not connected to.
    pub fn host(&self, host: &str, port: u16) -> Result<(), Forbidden> {
        let name = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        if let Ok(ip) = name.parse::<IpAddr>() {
            return self.address(SocketAddr::new(ip, port));
        }
        if METADATA_NAMES.contains(&name.as_str()) && !self.anywhere {
            return Err(Forbidden { place: name, why: METADATA });
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return self.address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        Ok(())
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, or of a NAT64 gateway's well-known prefix.
fn plain(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else { return ip.to_canonical() };
    let segments = v6.segments();
    let last = |[high, low]: [u16; 2]| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => IpAddr::V6(v6),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => last([high, low]),
        _ => IpAddr::V6(v6),
    }
}

/// One of this machine's interfaces has it: only then can a socket be bound to it.
fn is_own_address(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(loopback: bool) -> Reach {
        Reach::new(["127.0.0.1:4141".parse().unwrap(), "0.0.0.0:4140".parse().unwrap()].into(), loopback)
    }

    #[test]
    fn metadata_and_link_local_in_every_spelling() {
        for text in [
            "169.254.169.254:80",
            "169.254.170.2:80",
            "100.100.100.200:80",
            "168.63.129.16:80",
            "[fd00:ec2::254]:80",
            "[fd20:ce::254]:80",
            "[fe80::1]:443",
            "[::ffff:169.254.169.254]:80",
            "[::169.254.169.254]:80",
            "[64:ff9b::169.254.169.254]:80",
            "224.0.0.1:443",
            "255.255.255.255:443",
            "[ff02::1]:443",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            assert!(reach(true).address(address).is_err(), "{text}");
            assert!(reach(true).host(&address.ip().to_string(), address.port()).is_err(), "{text}");
        }
        for name in ["metadata.google.internal", "METADATA.google.internal.", "instance-data"] {
            let error = reach(true).host(name, 80).unwrap_err();
            assert!(error.to_string().ends_with("is a cloud's metadata service"), "{error}");
        }
    }

    #[test]
    fn keytally_itself_by_any_address() {
        for text in
            ["127.0.0.1:4141", "[::1]:4141", "0.0.0.0:4141", "[::]:4140", "127.9.9.9:4140", "[::ffff:127.0.0.1]:4141"]
        {
            let error = reach(true).address(text.parse().unwrap()).unwrap_err();
            assert_eq!(error.to_string(), format!("{text} is keytally itself"));
        }
        assert!(reach(true).host("localhost", 4141).is_err() && reach(true).host("x.localhost", 4141).is_err());
    }

    #[test]
    fn loopback_is_for_this_machine() {
        let ollama = "127.0.0.1:11434".parse().unwrap();
        assert!(reach(true).address(ollama).is_ok() && reach(true).host("localhost", 11434).is_ok());
        assert!(reach(false).address(ollama).is_err() && reach(false).host("[::1]", 11434).is_err());
        for text in ["10.0.0.7:443", "192.168.1.1:4141", "[2001:db8::1]:443", "203.0.113.9:4141"] {
            assert_eq!(reach(false).address(text.parse().unwrap()), Ok(()), "{text}");
        }
        assert_eq!(reach(false).host("api.openai.com", 443), Ok(()));
        let led = Reach::anywhere(reach(true).listeners);
        assert!(led.address("169.254.170.23:443".parse().unwrap()).is_ok());
        assert!(led.address("127.0.0.1:4141".parse().unwrap()).is_err());
    }
}
