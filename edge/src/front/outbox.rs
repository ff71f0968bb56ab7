//! The way to a client that has one stream for everything: answers, progress and what belongs to no call.
//!
//! Messages wait in a bounded queue, and whoever has one more waits for a place in it; so a client that reads
//! slowly slows its own calls down, whose events are bounded in their replies, and nothing else.

use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use wire::splice::Parts;

use super::arrival::Begun;
use super::refusal::Refusal;
use crate::session::replay::Weight;
use crate::session::{Reader, Said, Source};

/// The producers' end. Cheap to clone; the stream ends when all of them are gone.
#[derive(Clone)]
pub(super) struct Outbox {
    messages: mpsc::Sender<Parts>,
}

/// The end that the client's stream is fed from.
pub(super) struct Messages(mpsc::Receiver<Parts>);

/// A new queue.
pub(super) fn outbox() -> (Outbox, Messages) {
    let (messages, stream) = mpsc::channel(WAITING);
    (Outbox { messages }, Messages(stream))
}

impl Outbox {
    /// Sends all that comes of a message.
    pub(super) async fn deliver(&self, begun: Result<Option<Begun>, Refusal>) {
        match begun {
            Ok(None) => {}
            Ok(Some(Begun::Answered(message))) => self.send(message).await,
            Ok(Some(Begun::Call(exchange))) => self.relay(exchange).await,
            Ok(Some(Begun::Listen(listen))) => self.relay(*listen).await,
            Err(refusal) => self.send(refusal.into_message()).await,
        }
    }

    /// Sends what a call or a listen yields, to its end or the client's.
    async fn relay(&self, mut source: impl Source) {
        loop {
            match poll_fn(|context| source.poll_next(context)).await {
                Said::Message(message, _) => {
                    if self.messages.send(message).await.is_err() {
                        return;
                    }
                }
                Said::Last(message) => return self.send(message).await,
                Said::End => return,
            }
        }
    }

    /// Sends what belongs to no call, to the end of the session or the client's.
    pub(super) async fn listen(&self, mut reader: Reader) {
        while let Some((_, message)) = poll_fn(|context| reader.poll_next(context)).await {
            if self.messages.send(message.into()).await.is_err() {
                return;
            }
        }
    }

    /// Resolves when nobody takes messages any more.
    pub(super) async fn closed(&self) {
        self.messages.closed().await;
    }

    async fn send(&self, message: Parts) {
        // A client that is gone wants no answer.
        let _ = self.messages.send(message).await;
    }
}

impl Messages {
    /// The next message; `None` when nobody has one any more. Cancel-safe: what was not returned stays queued.
    pub(super) async fn next(&mut self) -> Option<Parts> {
        self.0.recv().await
    }
}

impl Source for Messages {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Said> {
        self.0.poll_recv(context).map(|message| match message {
            // Nothing is kept for resumption, so nothing has to be weighed.
            Some(message) => Said::Message(message, Weight::Passing),
            None => Said::End,
        })
    }
}

/// Messages that wait for a slow client. 64: a burst of progress; each may be as large as an answer, and those
/// are held against the byte budget already.
const WAITING: usize = 64;
