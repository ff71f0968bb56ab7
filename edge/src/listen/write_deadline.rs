//! The write deadline of answers over HTTP/2: an answer ends when its client has taken nothing of it for `write_timeout`.
//!
//! A client that opens no window but answers pings could hold an answer, and the bytes it draws from the process, for as
//! long as it likes. hyper polls a body only when there is room for more of it, so a body cannot end itself. Here the task
//! that sends the body is watched from outside:
//!
//! ```text
//!            data handed to hyper                    nothing taken in time
//!  at rest ───────────────────────▶ stalled since … ─────────────────────▶ the task is dropped: RST_STREAM
//!     ▲                               │
//!     └── hyper polls for more ───────┘
//! ```
//! h2 may still hold what hyper has taken. So a long answer, or one that arrives bit by bit, is handed over in pieces, and
//! its end waits until h2 has written all of them; the connection's other streams go on. A short answer is handed over at
//! once, together with its end. While h2 has no room for it, the deadline above holds; once h2 has it, there is no stream
//! left to reset, and if it stays unwritten the connection ends ([`UnwrittenAnswer`]). HTTP/1 needs none of this: its
//! writes fail by themselves.

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::{InFlight, TimeoutPhase, UnwrittenAnswer};
use super::http::StreamContext;

tokio::task_local! {
    /// The progress of the answer that the running task sends.
    static PROGRESS: Arc<WriteProgress>;
}

/// How far the client has taken one answer.
#[derive(Debug, Default)]
pub(super) struct WriteProgress {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// hyper was handed data and has not polled for more since.
    is_handed_over: bool,
    /// How many pieces hyper or h2 hold.
    unwritten: usize,
    /// When data was last handed over or taken.
    last_progress: Option<Instant>,
    /// The task that waits until the last piece is written.
    all_written: Option<Waker>,
    /// Set when the answer has ended before its last piece was written.
    ended: Option<UnwrittenAnswer>,
}

impl WriteProgress {
    /// The progress of the running task's answer; `None` over HTTP/1.
    fn current() -> Option<Arc<Self>> {
        PROGRESS.try_with(Arc::clone).ok()
    }

    /// Data is handed over to hyper. The guard goes with it until it is written or given up.
    fn hand_over(self: &Arc<Self>) -> Unwritten {
        let mut state = self.state.lock();
        state.is_handed_over = true;
        state.unwritten += 1;
        state.last_progress = Some(Instant::now());
        Unwritten(self.clone())
    }

    /// Some of what was handed over is written.
    fn wrote_some(&self) {
        self.state.lock().last_progress = Some(Instant::now());
    }

    /// The answer ends. From then on the connection watches what h2 still holds of it.
    fn answer_ended(&self, in_flight: &InFlight) {
        let mut state = self.state.lock();
        if state.unwritten > 0 {
            state.ended = Some(in_flight.end_unwritten());
        }
    }

    /// hyper polls for more: it had room for what it was handed.
    fn polled_for_more(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.is_handed_over) {
            state.last_progress = Some(Instant::now());
        }
    }

    /// Since when the client has taken nothing of what is handed over; `None` if nothing waits for it.
    fn stalled_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.last_progress.filter(|_| state.is_handed_over || state.unwritten > 0)
    }

    /// Ready when everything that was handed over is written.
    fn poll_written(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.unwritten == 0 {
            return Poll::Ready(());
        }
        state.all_written = Some(context.waker().clone());
        Poll::Pending
    }
}

pin_project_lite::pin_project! {
    /// A task that sends one answer and ends when the client has taken nothing for `write_timeout`.
    pub(super) struct WriteDeadline<F> {
        #[pin]
        task: Option<F>,
        progress: Arc<WriteProgress>,
        context: Arc<StreamContext>,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F> WriteDeadline<F> {
    pub(super) fn new(task: F, context: Arc<StreamContext>) -> Self {
        Self { task: Some(task), progress: Arc::default(), context, timer: None }
    }
}

impl<F: Future> Future for WriteDeadline<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(task) = this.task.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        if PROGRESS.sync_scope(this.progress.clone(), || task.poll(context)).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let Some(since) = this.progress.stalled_since() else { return Poll::Pending };
            let until = since + this.context.write_timeout;
            let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            // Progress moves the deadline to later. The timer follows when it fires, not before.
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if timer.deadline() >= until {
                tracing::debug!("an answer that its client does not take is reset");
                this.context.metrics.timed_out(TimeoutPhase::Answer);
                this.task.set(None);
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

pin_project_lite::pin_project! {
    /// The body of an answer. Its request is in flight until it is dropped.
    pub(super) struct AnswerBody<B: Body> {
        // None: an empty body.
        #[pin]
        body: Option<B>,
        // Only over HTTP/2.
        sending: Option<Box<Sending<B::Data>>>,
        in_flight: InFlight,
    }

    impl<B: Body> PinnedDrop for AnswerBody<B> {
        fn drop(this: Pin<&mut Self>) {
            if let Some(sending) = &this.sending {
                sending.progress.answer_ended(&this.in_flight);
            }
        }
    }
}

struct Sending<D> {
    progress: Arc<WriteProgress>,
    /// What remains of the body's last frame.
    rest: Option<D>,
    /// The answer is handed over in pieces, so its end waits for them.
    in_pieces: bool,
}

impl<B: Body> AnswerBody<B> {
    pub(super) fn new(body: B, in_flight: InFlight) -> Self {
        let sending = WriteProgress::current()
            .map(|progress| Box::new(Sending { progress, rest: None, in_pieces: false }));
        Self { body: Some(body), sending, in_flight }
    }

    /// An answer without a body.
    pub(super) fn empty(in_flight: InFlight) -> Self {
        Self { body: None, sending: None, in_flight }
    }
}

impl<B: Body> Body for AnswerBody<B> {
    type Data = Piece<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let this = self.project();
        let Some(mut body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
        let Some(sending) = this.sending else {
            let frame = ready!(body.poll_frame(context));
            return Poll::Ready(
                frame.map(|frame| frame.map(|frame| frame.map_data(|data| Piece::whole(data, None)))),
            );
        };
        sending.progress.polled_for_more();
        if sending.rest.is_none() {
            let frame = match ready!(body.as_mut().poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return sending.progress.poll_written(context).map(|()| None),
            };
            let is_short = frame.data_ref().is_none_or(|data| data.remaining() <= SHORT_BYTES);
            sending.in_pieces |= !is_short || !body.is_end_stream();
            if is_short {
                let unwritten = Some(sending.progress.hand_over());
                return Poll::Ready(Some(Ok(frame.map_data(|data| Piece::whole(data, unwritten)))));
            }
            sending.rest = frame.into_data().ok();
        }
        Poll::Ready(sending.next_piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.sending.as_ref().is_none_or(|sending| !sending.in_pieces)
            && self.body.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), B::size_hint)
    }
}

impl<D: Buf> Sending<D> {
    /// The next piece, within one slice so that nothing is copied.
    fn next_piece(&mut self) -> Option<Piece<D>> {
        let rest = self.rest.as_mut()?;
        let piece = rest.copy_to_bytes(rest.chunk().len().min(PIECE_BYTES));
        self.rest.take_if(|rest| !rest.has_remaining());
        Some(Piece { data: Data::Part(piece), unwritten: Some(self.progress.hand_over()) })
    }
}

/// Data handed to hyper: a whole frame of a body, or a piece of one.
pub(super) struct Piece<D> {
    data: Data<D>,
    /// Dropped with the piece, when it is written or given up.
    unwritten: Option<Unwritten>,
}

enum Data<D> {
    Whole(D),
    Part(Bytes),
}

impl<D> Piece<D> {
    fn whole(data: D, unwritten: Option<Unwritten>) -> Self {
        Self { data: Data::Whole(data), unwritten }
    }
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        match &self.data {
            Data::Whole(data) => data.remaining(),
            Data::Part(data) => data.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match &self.data {
            Data::Whole(data) => data.chunk(),
            Data::Part(data) => data.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [IoSlice<'a>]) -> usize {
        match &self.data {
            Data::Whole(data) => data.chunks_vectored(to),
            Data::Part(data) => data.chunks_vectored(to),
        }
    }

    fn advance(&mut self, count: usize) {
        // On a slow connection with 256 answers, each is written a part of a piece at a time: that is progress, too.
        if let Some(Unwritten(progress)) = &self.unwritten {
            progress.wrote_some();
        }
        match &mut self.data {
            Data::Whole(data) => data.advance(count),
            Data::Part(data) => data.advance(count),
        }
    }
}

/// Counts a piece that hyper or h2 holds.
struct Unwritten(Arc<WriteProgress>);

impl Drop for Unwritten {
    fn drop(&mut self) {
        let (all_written, _ended) = {
            let mut state = self.0.state.lock();
            state.unwritten -= 1;
            state.last_progress = Some(Instant::now());
            if state.unwritten == 0 { (state.all_written.take(), state.ended.take()) } else { (None, None) }
        };
        if let Some(task) = all_written {
            task.wake();
        }
    }
}

/// The longest answer that is handed over at once. 16 KiB: larger results of servers draw on the byte budget for as long as
/// they are held, and a connection that must end because of an unwritten answer holds no more than this for each stream.
const SHORT_BYTES: usize = 16 << 10;
/// Bytes handed to h2 at a time. 64 KiB: what h2 buffers of one stream.
const PIECE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn piece_that_is_written_in_part_counts_as_progress() {
        let progress = Arc::new(WriteProgress::default());
        let mut sending =
            Sending { progress: progress.clone(), rest: Some(Bytes::from_static(b"abc")), in_pieces: true };
        let mut piece = sending.next_piece().unwrap();
        let began = Instant::now();
        assert_eq!(progress.stalled_since(), Some(began));
        advance(Duration::from_secs(20)).await;
        assert_eq!(progress.stalled_since(), Some(began));
        piece.advance(1);
        assert_eq!(progress.stalled_since(), Some(Instant::now()));
        piece.advance(2);
        drop(piece);
        progress.polled_for_more();
        assert_eq!(progress.stalled_since(), None);
    }
}
