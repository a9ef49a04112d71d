//! The answer's body on its way down: every frame as it came, a look at its bytes on the side.
//!
//! The end is told once, on whichever comes first: last data frame, end of body, error, idle timeout, drop.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::inject::HideUsage;
use super::{BodyError, Decompressor, OpenCall, RequestBody, guarded};
use crate::call::{End, Reply, Unreadable};
use crate::listen::ClientState;
use crate::protocol::{Decoder, cost_from_headers, usage_from_headers};
use crate::upstream::Received;

/// A stream that paused for longer than this is noted on its span.
const STALL: Duration = Duration::from_secs(10);

/// A body of the provider's, watched; or one of keytally's own.
pub struct AnswerBody {
    inner: Inner,
}

enum Inner {
    Watched(Box<Watched>),
    Own(Option<Bytes>),
}

struct Watched {
    body: Received<RequestBody>,
    call: Arc<OpenCall>,
    /// `None` once the end has been told.
    decoder: Option<Decoder>,
    unpack: Decompressor,
    /// Reading panicked: nothing more is read.
    blind: bool,
    /// Takes out the usage chunk that keytally asked for.
    hide: Option<HideUsage>,
    bytes: u64,
    first_byte: Option<Duration>,
    first_output: Option<Duration>,
    last_output: Option<Duration>,
    last_frame: Instant,
    stalled: Option<Duration>,
    overhead: Duration,
    idle_timeout: Duration,
    idle: Pin<Box<Sleep>>,
    client: Arc<ClientState>,
    /// Flushes towards the application before the last part was handed over.
    flushes: u64,
    /// The provider broke off: told once the parts before it have left.
    broken: Option<BodyError>,
}

impl AnswerBody {
    /// Watches the body of a provider's answer whose head has just been noted on `call`.
    pub fn watched(
        body: Received<RequestBody>,
        call: Arc<OpenCall>,
        decoder: Decoder,
        unpack: Decompressor,
        hide: Option<HideUsage>,
        idle_timeout: Duration,
        client: Arc<ClientState>,
    ) -> Self {
        let mut watched = Box::new(Watched {
            body,
            call,
            decoder: Some(decoder),
            unpack,
            blind: false,
            hide,
            bytes: 0,
            first_byte: None,
            first_output: None,
            last_output: None,
            last_frame: Instant::now(),
            stalled: None,
            overhead: Duration::ZERO,
            idle_timeout,
            idle: Box::pin(tokio::time::sleep(idle_timeout)),
            flushes: client.flushes(),
            client,
            broken: None,
        });
        if watched.body.is_end_stream() {
            watched.end(Ended::Whole);
        }
        Self { inner: Inner::Watched(watched) }
    }

    /// A body that keytally made.
    pub fn own(bytes: impl Into<Bytes>) -> Self {
        Self { inner: Inner::Own(Some(bytes.into())) }
    }
}

/// How the bytes stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Whole,
    Broken,
    Idle,
    Dropped,
}

impl Watched {
    fn data(&mut self, data: &[u8]) {
        let now = Instant::now();
        let pause = now - self.last_frame;
        if pause > STALL && self.first_byte.is_some() {
            self.stalled = Some(self.stalled.map_or(pause, |longest| longest.max(pause)));
        }
        self.last_frame = now;
        self.flushes = self.client.flushes();
        self.bytes += data.len() as u64;
        let at = self.call.elapsed();
        self.first_byte.get_or_insert(at);
        if let Some(decoder) = &mut self.decoder {
            let (unpack, mut output) = (&mut self.unpack, false);
            if !self.blind {
                let read = guarded("answer", data, || {
                    unpack.feed(data, &mut |plain| output |= decoder.feed(plain).output);
                });
                self.blind = read.is_none();
            }
            if output {
                self.first_output.get_or_insert(at);
                self.last_output = Some(at);
            }
        }
        self.overhead += now.elapsed();
    }

    /// All of the body has come. An HTTP/2 provider may tell the end in a frame of its own, after the last of the bytes that
    /// `content-length` promised; by then the application has its answer, and nobody asks for that frame.
    fn is_whole(&self) -> bool {
        self.body.is_end_stream() || (self.bytes > 0 && self.body.size_hint().exact() == Some(0))
    }

    fn end(&mut self, ended: Ended) {
        let Some(decoder) = self.decoder.take() else { return };
        let started = Instant::now();
        let read = (!self.blind).then(|| guarded("", &[], || decoder.finish(ended == Ended::Whole))).flatten();
        let mut reply = read.unwrap_or_else(|| Reply {
            unreadable: Some(Unreadable::DecodeError),
            terminal: ended == Ended::Whole,
            ..Reply::default()
        });
        if reply.unreadable.is_none() {
            reply.unreadable = self.unpack.unreadable();
        }
        reply.injected = self.hide.is_some() && reply.usage.is_some();
        let end = match how_it_ended(ended, &reply) {
            End::ClientCancelled if reply.stream => self.call.dropped(End::Truncated),
            End::ClientCancelled => self.call.dropped(End::BodyError),
            end => end,
        };
        let overhead = self.overhead + started.elapsed();
        self.call.finish(end, reply, |facts| {
            if let Some(response) = &mut facts.response {
                response.bytes = self.bytes;
                if facts.reply.usage.is_none() {
                    facts.reply.usage = usage_from_headers(response);
                }
                if facts.reply.stated_cost.is_none() && !facts.reply.stream {
                    facts.reply.stated_cost = cost_from_headers(response);
                }
            }
            facts.timing.first_byte = self.first_byte;
            if facts.reply.stream {
                facts.timing.first_output = self.first_output;
                facts.timing.last_output = self.last_output;
                facts.timing.stalled = self.stalled;
            }
            facts.timing.overhead_response += overhead;
        });
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if self.broken.is_some() {
                std::task::ready!(self.client.poll_flushed_since(self.flushes, cx));
                return Poll::Ready(self.broken.take().map(Err));
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.data(data);
                    }
                    if self.is_whole() {
                        self.end(Ended::Whole);
                    }
                    match (&mut self.hide, frame.data_ref()) {
                        (Some(hide), Some(data)) => {
                            let shown = hide.feed(data);
                            if !shown.is_empty() {
                                return Poll::Ready(Some(Ok(Frame::data(shown))));
                            }
                        }
                        _ => return Poll::Ready(Some(Ok(frame))),
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end(Ended::Broken);
                    self.broken = Some(error.into());
                }
                Poll::Ready(None) => {
                    self.end(Ended::Whole);
                    let left = self.hide.take().map(|mut hide| hide.finish()).filter(|left| !left.is_empty());
                    return Poll::Ready(left.map(|left| Ok(Frame::data(left))));
                }
                Poll::Pending => return self.poll_idle(cx),
            }
        }
    }

    /// The timer is set anew only when it fires, not on every frame.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while self.idle.as_mut().poll(cx).is_ready() {
            let deadline = self.last_frame + self.idle_timeout;
            if deadline <= Instant::now() {
                self.end(Ended::Idle);
                let secs = self.idle_timeout.as_secs_f64();
                return Poll::Ready(Some(Err(format!("nothing came from the provider for {secs} s").into())));
            }
            self.idle.as_mut().reset(deadline.into());
        }
        Poll::Pending
    }
}

fn how_it_ended(ended: Ended, reply: &Reply) -> End {
    let in_stream_error = reply.error.as_ref().is_some_and(|error| error.in_stream);
    match ended {
        // An application may well leave after the terminal event without waiting for the end of the body.
        _ if reply.stream && in_stream_error => End::ErrorEvent,
        _ if reply.stream && reply.terminal => End::Complete,
        Ended::Idle => End::IdleTimeout,
        Ended::Dropped => End::ClientCancelled,
        Ended::Broken if !reply.stream => End::BodyError,
        Ended::Broken => End::Truncated,
        Ended::Whole if reply.stream && !reply.terminal => End::Truncated,
        Ended::Whole => End::Complete,
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let whole = self.is_whole();
        self.end(if whole { Ended::Whole } else { Ended::Dropped });
        self.call.release();
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.inner {
            Inner::Watched(watched) => watched.poll_frame(cx),
            Inner::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Watched(watched) => watched.hide.is_none() && watched.body.is_end_stream(),
            Inner::Own(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Watched(watched) if watched.hide.is_some() => SizeHint::default(),
            Inner::Watched(watched) => watched.body.size_hint(),
            Inner::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}
