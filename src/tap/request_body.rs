//! The request's body on its way up: every frame as it came, seen by the request tap.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use super::{BodyError, OpenCall};
use crate::listen::ClientState;

/// How long a body waits for `100 Continue` before it is sent all the same (RFC 9110 section 10.1.1: a client must not
/// wait forever; curl waits as long).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// What is read of a body that nobody wants any more: the largest requests that providers take, and not for ever.
const DRAIN_BYTES: u64 = 128 << 20;
const DRAIN_WAIT: Duration = Duration::from_secs(30);

/// Holds a body back until the provider has asked for it (`Expect: 100-continue`).
#[derive(Default)]
pub struct ContinueGate {
    open: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl ContinueGate {
    /// The provider said `100 Continue`.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        if self.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if self.open.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

enum Inner {
    /// `None` once it was taken to be drained.
    AsItComes(Option<Incoming>),
    /// Read whole and changed (`usage.inject`), with the room that it takes; what the application sent has been tapped.
    Changed { bytes: Option<Bytes>, _room: OwnedSemaphorePermit },
}

/// Why a body was not read whole.
pub enum Broken {
    /// The application broke it off.
    Off,
    /// The application sent nothing for too long.
    Silent,
}

/// Reads a request's body whole, seen by the request tap. `room` is of its length.
pub async fn read_whole(
    mut body: Incoming,
    room: &OwnedSemaphorePermit,
    call: &OpenCall,
    idle_timeout: Duration,
) -> Result<Bytes, Broken> {
    let mut whole = BytesMut::with_capacity(room.num_permits());
    loop {
        match tokio::time::timeout(idle_timeout, body.frame()).await {
            Err(_) => return Err(Broken::Silent),
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(_))) => return Err(Broken::Off),
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    call.request_data(data);
                    whole.extend_from_slice(data);
                }
            }
        }
    }
}

/// A request body that is watched by an [`OpenCall`]. Small: each connection to a provider has room for 32 requests in its
/// queue, of which it uses one.
pub struct RequestBody(Box<Parts>);

struct Parts {
    inner: Inner,
    call: Arc<OpenCall>,
    client: Arc<ClientState>,
    gate: Option<(Arc<ContinueGate>, Pin<Box<Sleep>>)>,
    ended: bool,
}

impl RequestBody {
    /// Wraps `inner`; `gate` holds it back.
    pub fn new(
        inner: Incoming,
        call: Arc<OpenCall>,
        client: Arc<ClientState>,
        gate: Option<Arc<ContinueGate>>,
    ) -> Self {
        let gate = gate.map(|gate| (gate, Box::pin(tokio::time::sleep(CONTINUE_WAIT))));
        let whole = inner.is_end_stream();
        let mut parts = Parts { inner: Inner::AsItComes(Some(inner)), call, client, gate, ended: false };
        if whole {
            parts.complete();
        }
        Self(Box::new(parts))
    }

    /// A body that came whole and is sent as `changed`; gives `room` back when it has been.
    pub fn changed(changed: Bytes, room: OwnedSemaphorePermit, call: Arc<OpenCall>, client: Arc<ClientState>) -> Self {
        let mut parts = Parts {
            inner: Inner::Changed { bytes: Some(changed), _room: room },
            call,
            client,
            gate: None,
            ended: false,
        };
        parts.complete();
        Self(Box::new(parts))
    }
}

impl Parts {
    fn complete(&mut self) {
        if !self.ended {
            self.ended = true;
            self.call.request_complete(&self.client);
        }
    }
}

/// A provider that cannot be reached takes nothing of the body. An application that is still sending must be let finish,
/// or its socket breaks before it has seen the answer that says why.
impl Drop for Parts {
    fn drop(&mut self) {
        // Reading on would ask for a body that `100 Continue` has not been said for.
        let (Inner::AsItComes(incoming), None) = (&mut self.inner, &self.gate) else { return };
        let Some(mut incoming) = incoming.take().filter(|incoming| !self.ended && !incoming.is_end_stream()) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(DRAIN_WAIT, async move {
                let mut left = DRAIN_BYTES;
                while let Some(Ok(frame)) = incoming.frame().await {
                    left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                    if left == 0 {
                        return;
                    }
                }
            }));
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let parts = &mut *self.0;
        if let Some((gate, wait)) = &mut parts.gate {
            if gate.poll_open(cx).is_pending() {
                ready!(wait.as_mut().poll(cx));
            }
            parts.gate = None;
        }
        let incoming = match &mut parts.inner {
            Inner::AsItComes(Some(incoming)) => incoming,
            Inner::AsItComes(None) => return Poll::Ready(None),
            Inner::Changed { bytes, .. } => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        };
        match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let last = incoming.is_end_stream();
                if let Some(data) = frame.data_ref() {
                    parts.call.request_data(data);
                }
                if last {
                    parts.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                parts.call.request_failed();
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                parts.complete();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0.inner {
            Inner::AsItComes(incoming) => incoming.as_ref().is_none_or(Body::is_end_stream),
            Inner::Changed { bytes, .. } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0.inner {
            Inner::AsItComes(incoming) => incoming.as_ref().map_or_else(SizeHint::default, Body::size_hint),
            Inner::Changed { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}
