//! Sockets that systemd has bound and hands over (socket activation, `sd_listen_fds(3)`), so that a restart refuses no
//! connection: calls wait in the kernel's queue for the new process.
//!
//! A socket is used for the setting that names its address. At most [`MOST`]; a socket that no setting names is an error, since
//! nobody would ever answer on it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;

/// Far more than there are ports.
const MOST: usize = 16;

/// The sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(SocketAddr, TcpListener)>);

impl Inherited {
    /// Takes over what `LISTEN_FDS` announces to this process, and removes the variable. To be called once, before the process
    /// has threads: they could read the environment at that moment.
    ///
    /// # Errors
    /// A descriptor that is no TCP socket.
    pub fn from_env() -> anyhow::Result<Self> {
        let announced = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
        if announced == 0 {
            return Ok(Self::default());
        }
        anyhow::ensure!(announced <= MOST, "LISTEN_FDS: {announced}: more than {MOST} sockets");
        let mut handed = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..handed.len() {
            let taken = handed.take_tcp_listener(index).and_then(|socket| {
                let Some(socket) = socket else { return Ok(None) };
                socket.set_nonblocking(true)?;
                Ok(Some((socket.local_addr()?, socket)))
            });
            let which = || format!("socket {} of {announced} that was handed over", index + 1);
            sockets.extend(taken.with_context(which)?);
        }
        Ok(Self(sockets))
    }

    /// The socket that is bound to exactly this address.
    pub fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|(bound, _)| *bound == address)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Whether every socket has been taken.
    ///
    /// # Errors
    /// Names the first that was not.
    pub fn all_taken(&self) -> io::Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((address, _)) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a socket on {address} was handed over, and no setting of `listen` names that address; \
                     ListenStream= must be the same as the setting"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_goes_to_the_setting_with_its_address_once() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("its address");
        let mut inherited = Inherited(vec![(address, socket)]);
        let other = SocketAddr::new(address.ip(), address.port() ^ 1);
        assert!(inherited.take(other).is_none());
        let refused = inherited.all_taken().expect_err("it is left over").to_string();
        assert!(refused.contains(&address.to_string()), "{refused}");
        assert!(inherited.take(address).is_some());
        assert!(inherited.take(address).is_none());
        assert!(inherited.all_taken().is_ok());
    }
}
