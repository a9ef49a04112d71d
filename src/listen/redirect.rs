//! Connections that a firewall sent here: where they were going, and whether they are the sidecar's own.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::Ends;
use super::caller::{process, socket};

/// Where the application connected to, before the firewall (NAT) changed it.
///
/// # Errors
/// The connection was not redirected, or the system cannot tell.
#[cfg(target_os = "linux")]
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
    Ok(match stream.local_addr()? {
        SocketAddr::V4(_) => ip_original_dst(stream)?.into(),
        SocketAddr::V6(_) => ipv6_original_dst(stream)?.into(),
    })
}

/// See the other one.
///
/// # Errors
/// Always: connections are redirected on Linux only.
#[cfg(not(target_os = "linux"))]
pub fn original_destination(_: &TcpStream) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The connection comes from this very process: the firewall does not exempt its user.
///
/// The kernel tells the user at once; only where it is this one's the process's own descriptors are looked through.
pub async fn is_own(ends: Ends) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let Some(socket) = socket::find(ends).filter(|socket| socket.uid == own) else { return false };
    let looked = tokio::task::spawn_blocking(move || {
        let mut left = usize::MAX;
        !process::sockets(std::process::id(), &mut left, |inode| inode == socket.inode).is_empty()
    });
    looked.await.unwrap_or(false)
}
