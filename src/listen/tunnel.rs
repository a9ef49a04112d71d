//! A blind tunnel: bytes both ways, unread and uncounted but for their number.
//!
//! A tunnel that waits holds no buffer: bytes are read onto the stack and written at once, and only what the other side does
//! not take yet is kept, at most [`CHUNK`] a direction. Ends when both sides have ended, when one fails, or when nothing has
//! moved for the idle limit. Cancel: dropping it closes both sides.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// Most bytes that are moved in one step, and held when the other side is slow.
pub const CHUNK: usize = 16 * 1024;

/// Takes note of bytes as they pass.
pub trait Count: Send + Sync {
    /// `up` from the application, `down` to it.
    fn bytes(&self, up: u64, down: u64);
}

/// Copies both ways to the end.
///
/// # Errors
/// The first failure of either side; `TimedOut` when nothing has moved for `idle`.
pub async fn copy<A, B>(application: A, server: B, idle: Duration, count: &dyn Count) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut application, mut server) = (application, server);
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut moved_at = Instant::now();
    let mut timer = pin!(sleep_until(moved_at + idle));
    poll_fn(|cx| {
        let (mut up_bytes, mut down_bytes) = (0, 0);
        let upward = up.poll(Pin::new(&mut application), Pin::new(&mut server), cx, &mut up_bytes);
        let downward = down.poll(Pin::new(&mut server), Pin::new(&mut application), cx, &mut down_bytes);
        if up_bytes + down_bytes > 0 {
            moved_at = Instant::now();
            count.bytes(up_bytes, down_bytes);
        }
        match (upward?, downward?) {
            (Poll::Ready(()), Poll::Ready(())) => return Poll::Ready(Ok(())),
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        while timer.as_mut().poll(cx).is_ready() {
            if moved_at + idle <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            // Set anew only when it has run out: bytes that pass cost no timer.
            timer.as_mut().reset(moved_at + idle);
        }
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Read and not yet taken by the other side.
    left: Vec<u8>,
    written: usize,
    input_ended: bool,
    ended: bool,
}

impl Direction {
    /// Moves what can be moved; `Ready` once the end of input has been passed on.
    fn poll<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
        cx: &mut Context<'_>,
        moved: &mut u64,
    ) -> Poll<io::Result<()>> {
        while !self.ended {
            while self.written < self.left.len() {
                let taken = ready!(to.as_mut().poll_write(cx, &self.left[self.written..]))?;
                if taken == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += taken;
            }
            if self.written > 0 {
                (self.left, self.written) = (Vec::new(), 0);
            }
            if self.input_ended {
                ready!(to.as_mut().poll_shutdown(cx))?;
                self.ended = true;
                break;
            }
            let mut space = [MaybeUninit::uninit(); CHUNK];
            let mut buffer = ReadBuf::uninit(&mut space);
            if from.as_mut().poll_read(cx, &mut buffer)?.is_pending() {
                // Whatever buffers, TLS for instance, must not wait for more.
                let _ = to.as_mut().poll_flush(cx)?;
                return Poll::Pending;
            }
            let bytes = buffer.filled();
            *moved += bytes.len() as u64;
            if bytes.is_empty() {
                self.input_ended = true;
                continue;
            }
            let taken = match to.as_mut().poll_write(cx, bytes)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(taken) => taken,
                Poll::Pending => 0,
            };
            if taken < bytes.len() {
                self.left = bytes[taken..].to_vec();
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicU64, AtomicU64);

    impl Count for Counted {
        fn bytes(&self, up: u64, down: u64) {
            self.0.fetch_add(up, Ordering::Relaxed);
            self.1.fetch_add(down, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn bytes_and_ends_pass_both_ways() {
        // Pipes far smaller than a chunk, so that writes are taken in part and have to wait.
        let (mut app, inside) = duplex(700);
        let (outside, mut server) = duplex(900);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let counted = Counted::default();
        let application = async {
            let (mut read, mut write) = tokio::io::split(&mut app);
            let mut answer = Vec::new();
            let (written, got) = tokio::join!(
                async {
                    write.write_all(&sent).await.expect("written");
                    write.shutdown().await
                },
                read.read_to_end(&mut answer)
            );
            written.expect("shut down");
            got.expect("read");
            answer
        };
        let echo = async {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.expect("the end of input passes on while the other way is open");
            server.write_all(&got[..100_000]).await.expect("written");
            server.shutdown().await.expect("shut down");
            got
        };
        let (copied, answer, got) =
            tokio::join!(copy(inside, outside, Duration::from_secs(60), &counted), application, echo);
        copied.expect("a clean end");
        assert!(got == expected && answer == expected[..100_000]);
        assert_eq!((counted.0.into_inner(), counted.1.into_inner()), (300_000, 100_000));
    }

    #[tokio::test]
    async fn silence_ends_it_and_bytes_keep_it() {
        const IDLE: Duration = Duration::from_secs(2);
        let (mut app, inside) = duplex(64);
        let (outside, _server) = duplex(64);
        let tunnel = tokio::spawn(async move {
            copy(inside, outside, IDLE, &Counted::default()).await.map_err(|error| error.kind())
        });
        let began = Instant::now();
        while began.elapsed() < IDLE + IDLE / 4 {
            tokio::time::sleep(IDLE / 8).await;
            app.write_all(b"x").await.expect("still open");
        }
        let last = Instant::now();
        assert_eq!(tunnel.await.expect("no panic"), Err(io::ErrorKind::TimedOut));
        assert!(last.elapsed() >= IDLE / 2, "{:?}", last.elapsed());
    }
}
