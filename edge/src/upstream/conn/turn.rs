//! How much a connection's reader takes in before other tasks get their turn. What has come in is there to be read
//! without waiting, so a server that writes without a pause would keep the thread that serves everybody.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::yield_now;

/// Counts what is taken in, up to the end of a turn.
#[derive(Debug)]
pub(super) struct Turn {
    taken: usize,
    most: usize,
}

impl Turn {
    /// Turns of [`TURN_MESSAGES`].
    pub(super) fn of_messages() -> Self {
        Self { taken: 0, most: TURN_MESSAGES }
    }

    pub(super) fn take(&mut self, more: usize) {
        self.taken += more;
    }

    /// Whether the turn is over; the next one then begins.
    pub(super) fn ends(&mut self) -> bool {
        let ends = self.taken >= self.most;
        if ends {
            self.taken = 0;
        }
        ends
    }
}

/// A byte stream that is read in turns of [`TURN_BYTES`]: blank lines, and parts of a long one, make no message that
/// could be counted.
pub(super) struct InTurns<R> {
    incoming: R,
    turn: Turn,
}

impl<R> InTurns<R> {
    pub(super) fn new(incoming: R) -> Self {
        Self { incoming, turn: Turn { taken: 0, most: TURN_BYTES } }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for InTurns<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn.ends() {
            // It leaves the waker with the runtime, which wakes it once all that is ready had its turn, and after
            // looking for events. Woken by itself this task would be ready at once, and while a task is ready events
            // are seldom looked for.
            let _: Poll<()> = pin!(yield_now()).poll(context);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.incoming).poll_read(context, buffer);
        self.turn.take(buffer.filled().len() - before);
        polled
    }
}

/// The messages of one turn. 64: small ones take a tenth of a millisecond together, which another call may have to wait
/// at each of its steps; letting others run costs little more than one message does.
const TURN_MESSAGES: usize = 64;
/// The bytes of one turn. 128 KiB: they too take about a tenth of a millisecond, and a large answer gets through in few
/// turns.
const TURN_BYTES: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use wire::frame_io::FrameReader;

    use super::*;

    /// A stream that always has more, and counts what was read.
    struct Endless(u8, Arc<AtomicUsize>);

    impl AsyncRead for Endless {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let bytes = buffer.remaining();
            buffer.initialize_unfilled().fill(self.0);
            buffer.advance(bytes);
            self.1.fetch_add(bytes, Ordering::Relaxed);
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_makes_no_message_is_read_in_turns_too() {
        for byte in [b'\n', b' ', b'x'] {
            let read = Arc::new(AtomicUsize::new(0));
            let mut frames = FrameReader::new(InTurns::new(Endless(byte, read.clone())), 1 << 20);
            let task = tokio::spawn(async move { frames.next().await.map(drop) });
            for _ in 0..20 {
                let before = read.load(Ordering::Relaxed);
                yield_now().await;
                let now = read.load(Ordering::Relaxed);
                // The last read of a turn may begin just before its end, and takes at most a megabyte.
                assert!(now - before < TURN_BYTES + (1 << 20), "{} bytes in one turn", now - before);
            }
            assert!(read.load(Ordering::Relaxed) > 10 * TURN_BYTES, "and it goes on");
            task.abort();
        }
    }
}
