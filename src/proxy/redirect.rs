//! Redirected connections: taken over for where they were going to.
//!
//! A provider's host, told by the server name in TLS or by `Host`, is served as by the forward proxy, and connected to by
//! its name. Every other connection passes unread to the very address that it was made to. Loops are impossible: what was
//! made to one of keytally's own listeners, or by keytally itself, is closed at once.

use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::Proxy;
use super::intercept::Target;
use crate::call::Way;
use crate::listen::{Arrival, Callers, redirect};
use crate::upstream::Reach;

impl Proxy {
    /// Serves a connection of the redirect port to its end.
    pub async fn redirected(self: Arc<Self>, stream: TcpStream, mut arrival: Arrival, callers: Option<Callers>) {
        let peer = arrival.ends.peer;
        let tell = |why| self.lines.tell(&Arc::from("listen.redirect"), why);
        let original = match redirect::original_destination(&stream) {
            Ok(original) => original,
            Err(error) => {
                let Some(left_out) = tell("not redirected") else { return };
                return tracing::warn!(
                    %peer, %error, left_out,
                    "a connection to listen.redirect that no firewall redirected is closed; base URLs and HTTPS_PROXY take \
                     listen.proxy"
                );
            }
        };
        if let Err(refused) = Reach::anywhere(Arc::clone(&self.listeners)).address(original) {
            let Some(left_out) = tell("refused") else { return };
            return tracing::warn!(%peer, error = %refused, left_out, "a connection to listen.redirect is closed");
        }
        arrival.ends.local = original;
        arrival.ends.redirected = true;
        if redirect::is_own(arrival.ends).await {
            let Some(left_out) = tell("own") else { return };
            let uid = rustix::process::geteuid().as_raw();
            return tracing::error!(
                %original, left_out,
                "the firewall redirects keytally's own connections, which are closed: exempt its user, as keytally redirect \
                 install --uid {uid} does"
            );
        }
        arrival.caller = callers.map(|callers| callers.ask(arrival.ends));
        self.take(Box::new(stream), Bytes::new(), Target::Address(original), Way::Redirect, arrival).await;
    }
}
