//! One TCP socket of this machine by its two ends: user and inode, from the kernel's socket diagnostics (sock_diag(7)),
//! or from proc_net_tcp(5) where a kernel has none (gVisor). Both tell of the own network namespace only.

use crate::listen::Ends;

/// A socket that some process has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Names it in `/proc/PID/fd`; never 0.
    pub inode: u64,
    /// Its owner.
    pub uid: u32,
}

/// The socket at `ends.peer`; `None` when it is closed, or on another machine.
pub fn find(ends: Ends) -> Option<Socket> {
    let found = match diag::find(ends) {
        Ok(found) => found,
        Err(_) => ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|path| std::fs::read_to_string(path).ok())
            .find_map(|table| table::find(&table, ends)),
    };
    found.filter(|socket| socket.inode != 0)
}

#[cfg(target_os = "linux")]
mod diag {
    use std::io;
    use std::net::IpAddr;
    use std::time::Duration;

    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

    use super::{Ends, Socket};

    /// `linux/netlink.h`, `linux/sock_diag.h`, `linux/inet_diag.h`.
    const HEADER_BYTES: usize = 16;
    const REQUEST_BYTES: usize = HEADER_BYTES + 56;
    const MESSAGE_BYTES: usize = HEADER_BYTES + 72;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const NLMSG_ERROR: u16 = 2;
    const IPPROTO_TCP: u8 = 6;
    const TCP_LISTEN: u8 = 10;
    const ENOENT: i32 = -2;

    /// Asks for exactly this socket: the kernel looks it up as it does for a packet.
    ///
    /// # Errors
    /// The kernel has no socket diagnostics, or forbids them.
    pub fn find(ends: Ends) -> io::Result<Option<Socket>> {
        let flags = SocketFlags::CLOEXEC;
        let kernel = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
        set_socket_timeout(&kernel, Timeout::Recv, Some(Duration::from_secs(1)))?;
        send(&kernel, &request(ends), SendFlags::empty())?;
        let mut answer = [0; 512];
        let (length, _) = recv(&kernel, &mut answer, RecvFlags::empty())?;
        read(&answer[..length])
    }

    fn request(ends: Ends) -> [u8; REQUEST_BYTES] {
        let (own, to) = (ends.peer.ip().to_canonical(), ends.local.ip().to_canonical());
        let is_v4 = own.is_ipv4() && to.is_ipv4();
        let family = if is_v4 { AddressFamily::INET } else { AddressFamily::INET6 };
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0..4].copy_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
        bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        bytes[16] = family.as_raw() as u8;
        bytes[17] = IPPROTO_TCP;
        // States: all. Then ports and addresses, the socket's own first.
        bytes[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        bytes[24..26].copy_from_slice(&ends.peer.port().to_be_bytes());
        bytes[26..28].copy_from_slice(&ends.local.port().to_be_bytes());
        put(&mut bytes[28..44], own, is_v4);
        put(&mut bytes[44..60], to, is_v4);
        // The interface stays 0; this cookie stands for none.
        bytes[64..72].copy_from_slice(&u64::MAX.to_ne_bytes());
        bytes
    }

    fn put(to: &mut [u8], ip: IpAddr, is_v4: bool) {
        match ip {
            IpAddr::V4(ip) if is_v4 => to[..4].copy_from_slice(&ip.octets()),
            IpAddr::V4(ip) => to.copy_from_slice(&ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => to.copy_from_slice(&ip.octets()),
        }
    }

    pub(super) fn read(answer: &[u8]) -> io::Result<Option<Socket>> {
        let word = |at: usize| answer.get(at..at + 4).and_then(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)));
        let kind = answer.get(4..6).and_then(|kind| Some(u16::from_ne_bytes(kind.try_into().ok()?)));
        match kind {
            Some(SOCK_DIAG_BY_FAMILY) if answer.len() >= MESSAGE_BYTES => {
                let (Some(uid), Some(inode)) = (word(HEADER_BYTES + 64), word(HEADER_BYTES + 68)) else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                // Without such a connection the kernel tells of a listener at that address.
                let is_listener = answer[HEADER_BYTES + 1] == TCP_LISTEN;
                Ok(Some(Socket { inode: inode.into(), uid }).filter(|_| !is_listener))
            }
            Some(NLMSG_ERROR) => match word(HEADER_BYTES).map(u32::cast_signed) {
                Some(ENOENT) => Ok(None),
                code => Err(io::Error::from_raw_os_error(code.unwrap_or_default().wrapping_neg())),
            },
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Reads `bytes` as the kernel's answer and as its table.
#[cfg(all(target_os = "linux", any(test, fuzzing)))]
pub fn read_any(bytes: &[u8], ends: Ends) {
    let _ = (diag::read(bytes), table::find(&String::from_utf8_lossy(bytes), ends));
}

#[cfg(not(target_os = "linux"))]
mod diag {
    use std::io;

    use super::{Ends, Socket};

    pub fn find(_: Ends) -> io::Result<Option<Socket>> {
        Ok(None)
    }
}

mod table {
    use std::net::{IpAddr, SocketAddr};

    use super::{Ends, Socket};

    /// Looks the socket up in a table in the format of proc_net_tcp(5).
    pub fn find(table: &str, ends: Ends) -> Option<Socket> {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (from, to) = (canonical(ends.peer), canonical(ends.local));
        table.lines().skip(1).find_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (own, other) = (fields.next()?, fields.next()?);
            // After the two addresses: state, queues, timers, retransmits, uid, timeout, inode.
            let (uid, inode) = (fields.nth(4)?, fields.nth(1)?);
            let is_it = address(own) == Some(from) && address(other) == Some(to);
            is_it.then_some(Socket { inode: inode.parse().ok()?, uid: uid.parse().ok()? })
        })
    }

    /// `0100007F:1F90` or its IPv6 form: 32-bit words in host byte order, then the port.
    pub(super) fn address(text: &str) -> Option<SocketAddr> {
        let (ip, port) = text.split_once(':')?;
        let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
        let ip = if ip.len() == 8 {
            IpAddr::from(word(0)?)
        } else {
            let mut bytes = [0; 16];
            for part in 0..4 {
                bytes[part * 4..part * 4 + 4].copy_from_slice(&word(part * 8)?);
            }
            IpAddr::from(bytes).to_canonical()
        };
        Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn reads_both_forms_of_address() {
        use table::address;
        assert_eq!(address("0100007F:1F90"), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(address("0000000000000000FFFF00000100007F:0050"), Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(address("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
        for bad in ["", "xyz", "0100007F", "01:zz", "0100007F:"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    /// The kernel's diagnostics and its table tell the same, over both families and for a mapped address.
    #[test]
    fn the_kernel_and_its_table_agree() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let ends =
                Ends { peer: client.local_addr().unwrap(), local: client.peer_addr().unwrap(), redirected: false };
            let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap());
            let in_table = tables.iter().find_map(|text| table::find(text, ends)).expect("in the table");
            assert_eq!(in_table.uid, rustix::process::getuid().as_raw());
            assert_eq!(diag::find(ends).expect("diagnostics"), Some(in_table), "{address}");
            let nobody = Ends { peer: ends.peer, local: "192.0.2.1:9".parse().unwrap(), redirected: false };
            assert_eq!(diag::find(nobody).unwrap(), None);
            let listening =
                Ends { peer: listener.local_addr().unwrap(), local: "192.0.2.1:9".parse().unwrap(), redirected: false };
            assert_eq!(find(listening), None, "a listener is no connection");
        }
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (_, seen) = listener.accept().unwrap();
        assert!(seen.is_ipv6(), "a mapped address");
        let found = find(Ends {
            peer: seen,
            local: ("::ffff:127.0.0.1".parse::<std::net::IpAddr>().unwrap(), port).into(),
            redirected: false,
        });
        assert!(found.is_some());
        drop(client);
    }
}
