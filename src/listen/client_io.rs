//! The application's socket, with one addition: it tells a client that has gone from one that has only finished sending.
//!
//! HTTP/1 servers usually take the end of input in the middle of a call for a cancellation. That is right when the
//! application closed its socket and wrong when it shut down only its sending half and still waits for the answer. On
//! loopback the kernel knows the difference: a closed socket has no inode any more. Where nothing can be learnt, the
//! end of input counts as a cancellation, as it does with common HTTP servers.
//!
//! It also tells when all that was written has left: the server drops what it still holds when an answer breaks off, so
//! an answer breaks off only after a flush.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::caller::{Answer, socket};

/// Questions to the kernel a second: a storm of cancellations must stay cheap.
const LOOKUPS_A_SECOND: u64 = 10;

/// When the kernel is asked again about an application that has finished sending: first soon, since a socket that is being
/// closed tells its end before it has lost its inode, then now and then, since its close is told by nothing else.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Shared by a connection and the calls on it.
#[derive(Default)]
pub struct ClientState {
    answering: AtomicUsize,
    waker: Mutex<Option<Waker>>,
    /// How often everything written so far had left.
    flushes: AtomicU64,
    flush_awaited: AtomicBool,
    flush_wakers: Mutex<Vec<Waker>>,
    cut_off: AtomicBool,
    caller: Option<Answer>,
}

/// While one of these lives, a call has been received whole and its answer is not complete.
pub struct Answering(Arc<ClientState>);

/// The addresses of a connection's two ends.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The application's.
    pub peer: SocketAddr,
    /// The other one, as the application sees it.
    pub local: SocketAddr,
    /// The firewall of this machine, or pod, sent it here.
    pub redirected: bool,
}

/// The application's socket, or what is spoken over it.
pub struct ClientIo<S> {
    stream: S,
    /// The socket's own.
    ends: Ends,
    state: Arc<ClientState>,
    /// While the application has finished sending and still listens: when that is looked at again.
    half_closed: Option<Pin<Box<Sleep>>>,
    /// The end of input has been held back once, for the call that came just before it to be taken up.
    end_held: bool,
}

impl ClientState {
    /// Notes that a call has been received whole.
    pub fn answering(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Ordering::AcqRel);
        Answering(Arc::clone(self))
    }

    /// Flushes so far; for [`ClientState::poll_flushed_since`].
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    /// Waits for a flush after the one that [`ClientState::flushes`] told.
    pub fn poll_flushed_since(&self, flushes: u64, cx: &Context<'_>) -> Poll<()> {
        if self.flushes() == flushes {
            let mut wakers = self.flush_wakers.lock().unwrap_or_else(PoisonError::into_inner);
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            self.flush_awaited.store(true, Ordering::SeqCst);
        }
        // Looked at again: a flush may have come in between.
        if self.flushes() == flushes { Poll::Pending } else { Poll::Ready(()) }
    }

    fn flushed(&self) {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        if self.flush_awaited.load(Ordering::SeqCst) {
            let mut wakers = self.flush_wakers.lock().unwrap_or_else(PoisonError::into_inner);
            self.flush_awaited.store(false, Ordering::SeqCst);
            wakers.drain(..).for_each(Waker::wake);
        }
    }

    /// Who is at the other end, known or still looked up; `None` when nobody asked.
    pub fn caller(&self) -> Option<&Answer> {
        self.caller.as_ref()
    }

    /// From now on calls that are dropped were cut off by the sidecar's shutdown.
    pub fn cut_off(&self) {
        self.cut_off.store(true, Ordering::Release);
    }

    /// The sidecar, not the application, ends the calls.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Acquire)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::AcqRel);
        let waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Ends {
    /// The application is on this machine, or in the same pod.
    pub fn is_local(&self) -> bool {
        let (peer, local) = (self.peer.ip().to_canonical(), self.local.ip().to_canonical());
        self.redirected || peer.is_loopback() || peer == local
    }
}

impl<S> ClientIo<S> {
    /// Wraps an accepted socket, or what is spoken over it. `caller` is what is being found out about the application.
    pub fn new(stream: S, ends: Ends, caller: Option<Answer>) -> (Self, Arc<ClientState>) {
        let state = Arc::new(ClientState { caller, ..ClientState::default() });
        (Self { stream, ends, state: Arc::clone(&state), half_closed: None, end_held: false }, state)
    }

    /// The socket alone, once HTTP has ended on it.
    pub fn into_inner(self) -> S {
        self.stream
    }

    fn answering(&self) -> bool {
        self.state.answering.load(Ordering::Acquire) > 0
    }

    /// Waits until the answer is complete, or nobody is there for it; only then the end of input is told.
    fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        *self.state.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if !self.answering() {
            return Poll::Ready(());
        }
        if let Some(again) = &mut self.half_closed {
            while again.as_mut().poll(cx).is_ready() {
                if lookup_allowed() && socket::find(self.ends).is_none() {
                    self.half_closed = None;
                    return Poll::Ready(());
                }
                again.as_mut().reset(Instant::now() + ASK_AGAIN.1);
            }
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.half_closed.is_none() {
            let before = buf.filled().len();
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !self.answering() {
                if self.end_held {
                    return Poll::Ready(Ok(()));
                }
                // A request and the end of input can come in one piece; the call is taken up after this read.
                self.end_held = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !still_open(self.ends) {
                return Poll::Ready(Ok(()));
            }
            self.half_closed = Some(Box::pin(tokio::time::sleep(ASK_AGAIN.0)));
        }
        self.poll_answered(cx).map(Ok)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.state.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The application's socket still belongs to a process of this machine: only its sending half is shut.
fn still_open(ends: Ends) -> bool {
    ends.is_local() && lookup_allowed() && socket::find(ends).is_some()
}

fn lookup_allowed() -> bool {
    static SECOND_AND_COUNT: AtomicU64 = AtomicU64::new(0);
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let packed = |count: u64| second << 8 | count;
    let seen = SECOND_AND_COUNT.load(Ordering::Relaxed);
    let count = if seen >> 8 == second { seen & 0xff } else { 0 };
    if count >= LOOKUPS_A_SECOND {
        return false;
    }
    SECOND_AND_COUNT.store(packed(count + 1), Ordering::Relaxed);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shut_half_is_told_from_a_closed_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_server, peer) = listener.accept().await.unwrap();
        let ends = Ends { peer, local: listener.local_addr().unwrap(), redirected: false };
        let client = client.into_std().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(still_open(ends));
        drop(client);
        assert!(!still_open(ends));
    }
    #[tokio::test]
    async fn an_application_that_shut_its_half_is_missed_once_it_has_gone() {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        let ends = Ends { peer, local: listener.local_addr().unwrap(), redirected: false };
        let (mut io, state) = ClientIo::new(server, ends, None);
        let _answering = state.answering();
        let client = client.into_std().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut byte = [0];
        let waits = tokio::time::timeout(ASK_AGAIN.0 * 5, io.read(&mut byte)).await;
        assert!(waits.is_err(), "it waits for its answer");
        drop(client);
        let ended = tokio::time::timeout(ASK_AGAIN.1 * 3, io.read(&mut byte)).await;
        assert_eq!(ended.expect("nothing else tells that it has gone").unwrap(), 0);
    }
}
