//! Answers over HTTP/2 that their client does not take: each ends when nothing of it was taken for `write_timeout`.
//!
//! A client that opens no window but answers pings would hold an answer for as long as it likes, and with it the bytes
//! of the process. hyper looks at a body only when there is room for more of it, so a body cannot end itself. Here the
//! task that sends it is watched from outside:
//!
//! ```text
//!            data handed to hyper                    nothing taken in time
//!  at rest ───────────────────────▶ owed since … ────────────────────────▶ the task is dropped: RST_STREAM
//!     ▲                               │
//!     └── hyper asks for more ────────┘
//! ```
//! What hyper has taken h2 may still hold. So an answer that is long or comes bit by bit goes over in pieces, and its end
//! waits until h2 has written all of them; the connection's other streams go on. A short one goes over at once, with its
//! end. If there was no room for it the same holds; once h2 has it nothing is left to reset, and if it stays there the
//! connection ends ([`Debt`]). HTTP/1 needs none of this: its writes fail by themselves.

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::{Debt, InFlight, Phase};
use super::http::Terms;

tokio::task_local! {
    /// That of the answer which the running task sends.
    static PACE: Arc<Pace>;
}

/// What the client has to take of one answer.
#[derive(Debug, Default)]
pub(super) struct Pace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// hyper was handed data and has not asked for more since.
    handed: bool,
    /// Pieces that hyper or h2 hold.
    unwritten: usize,
    /// When something was handed over, or any of it taken, last.
    moved: Option<Instant>,
    /// Waits for the last piece to be written.
    end: Option<Waker>,
    /// The answer has ended before its last piece was written.
    debt: Option<Debt>,
}

impl Pace {
    /// That of the running task; `None` where writes fail by themselves.
    fn current() -> Option<Arc<Self>> {
        PACE.try_with(Arc::clone).ok()
    }

    /// Data is handed over; the guard goes with it until it is written or given up.
    fn hand(self: &Arc<Self>) -> Unwritten {
        let mut state = self.state.lock();
        state.handed = true;
        state.unwritten += 1;
        state.moved = Some(Instant::now());
        Unwritten(self.clone())
    }

    /// Some of what was handed over is written.
    fn taken(&self) {
        self.state.lock().moved = Some(Instant::now());
    }

    /// The answer ends. What h2 holds of it then is the connection's to look after.
    fn leave(&self, in_flight: &InFlight) {
        let mut state = self.state.lock();
        if state.unwritten > 0 {
            state.debt = Some(in_flight.owe());
        }
    }

    /// hyper asks for more: it has found room for what it was handed.
    fn asked(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.handed) {
            state.moved = Some(Instant::now());
        }
    }

    /// Since when the client has taken nothing of what it could take.
    fn owed_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.moved.filter(|_| state.handed || state.unwritten > 0)
    }

    /// Ready when everything that counts has been written.
    fn poll_written(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.unwritten == 0 {
            return Poll::Ready(());
        }
        state.end = Some(context.waker().clone());
        Poll::Pending
    }
}

pin_project_lite::pin_project! {
    /// A task that sends one answer, as long as the client takes it.
    pub(super) struct Paced<F> {
        #[pin]
        task: Option<F>,
        pace: Arc<Pace>,
        terms: Arc<Terms>,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F> Paced<F> {
    pub(super) fn new(task: F, terms: Arc<Terms>) -> Self {
        Self { task: Some(task), pace: Arc::default(), terms, timer: None }
    }
}

impl<F: Future> Future for Paced<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(task) = this.task.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        if PACE.sync_scope(this.pace.clone(), || task.poll(context)).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let Some(since) = this.pace.owed_since() else { return Poll::Pending };
            let until = since + this.terms.write_timeout;
            let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            // It follows when it fires, not before.
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if timer.deadline() >= until {
                tracing::debug!("an answer that its client does not take is reset");
                this.terms.metrics.timed_out(Phase::Answer);
                this.task.set(None);
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

pin_project_lite::pin_project! {
    /// A body that keeps its connection busy until it is dropped.
    pub(super) struct Answer<B: Body> {
        // None: an empty one.
        #[pin]
        body: Option<B>,
        // Only over HTTP/2.
        sending: Option<Box<Sending<B::Data>>>,
        in_flight: InFlight,
    }

    impl<B: Body> PinnedDrop for Answer<B> {
        fn drop(this: Pin<&mut Self>) {
            if let Some(sending) = &this.sending {
                sending.pace.leave(&this.in_flight);
            }
        }
    }
}

struct Sending<D> {
    pace: Arc<Pace>,
    /// Of what the body yielded last.
    rest: Option<D>,
    /// Pieces have gone over, so the end waits for them.
    in_pieces: bool,
}

impl<B: Body> Answer<B> {
    pub(super) fn new(body: B, in_flight: InFlight) -> Self {
        let sending = Pace::current().map(|pace| Box::new(Sending { pace, rest: None, in_pieces: false }));
        Self { body: Some(body), sending, in_flight }
    }

    /// Nothing but a head.
    pub(super) fn empty(in_flight: InFlight) -> Self {
        Self { body: None, sending: None, in_flight }
    }
}

impl<B: Body> Body for Answer<B> {
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
        sending.pace.asked();
        if sending.rest.is_none() {
            let frame = match ready!(body.as_mut().poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return sending.pace.poll_written(context).map(|()| None),
            };
            let is_short = frame.data_ref().is_none_or(|data| data.remaining() <= SHORT_BYTES);
            sending.in_pieces |= !is_short || !body.is_end_stream();
            if is_short {
                let unwritten = Some(sending.pace.hand());
                return Poll::Ready(Some(Ok(frame.map_data(|data| Piece::whole(data, unwritten)))));
            }
            sending.rest = frame.into_data().ok();
        }
        Poll::Ready(sending.piece().map(|piece| Ok(Frame::data(piece))))
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
    /// The next piece; within one slice, so that nothing is copied.
    fn piece(&mut self) -> Option<Piece<D>> {
        let rest = self.rest.as_mut()?;
        let piece = rest.copy_to_bytes(rest.chunk().len().min(PIECE_BYTES));
        self.rest.take_if(|rest| !rest.has_remaining());
        Some(Piece { data: Data::Part(piece), unwritten: Some(self.pace.hand()) })
    }
}

/// Data on its way: all that a body yielded at once, or a piece of it.
pub(super) struct Piece<D> {
    data: Data<D>,
    /// Told when this is written or given up.
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
        // Of 256 answers on a slow connection each gets a part of a piece at a time.
        if let Some(Unwritten(pace)) = &self.unwritten {
            pace.taken();
        }
        match &mut self.data {
            Data::Whole(data) => data.advance(count),
            Data::Part(data) => data.advance(count),
        }
    }
}

/// A piece of an answer that hyper or h2 hold.
struct Unwritten(Arc<Pace>);

impl Drop for Unwritten {
    fn drop(&mut self) {
        let (end, _debt) = {
            let mut state = self.0.state.lock();
            state.unwritten -= 1;
            state.moved = Some(Instant::now());
            if state.unwritten == 0 { (state.end.take(), state.debt.take()) } else { (None, None) }
        };
        if let Some(end) = end {
            end.wake();
        }
    }
}

/// What goes over at once. 16 KiB: from there on what a server said counts for as long as it is kept, and a connection
/// that has to end for an answer holds no more than this for each of its streams.
const SHORT_BYTES: usize = 16 << 10;
/// Bytes handed to h2 at a time. 64 KiB: what it buffers of one stream.
const PIECE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_of_a_piece_that_is_taken_is_progress() {
        let pace = Arc::new(Pace::default());
        let mut sending =
            Sending { pace: pace.clone(), rest: Some(Bytes::from_static(b"abc")), in_pieces: true };
        let mut piece = sending.piece().unwrap();
        let began = Instant::now();
        assert_eq!(pace.owed_since(), Some(began));
        advance(Duration::from_secs(20)).await;
        assert_eq!(pace.owed_since(), Some(began));
        piece.advance(1);
        assert_eq!(pace.owed_since(), Some(Instant::now()));
        piece.advance(2);
        drop(piece);
        pace.asked();
        assert_eq!(pace.owed_since(), None);
    }
}
