//! The queue to a client that has one stream for everything: answers, progress and notifications.
//!
//! The queue is bounded, and producers wait for a place in it. So a client that reads slowly slows down only its own
//! calls, whose events are bounded in their replies.

use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use wire::splice::Parts;

use crate::front::door::inbound::Started;
use crate::front::refusal::Refusal;
use crate::permit::{self, Bound};
use crate::session::replay::Delivery;
use crate::session::{Reader, Said, Source};

/// The producers' end. Cheap to clone; the stream ends when all of them are gone.
#[derive(Clone)]
pub(in crate::front) struct Outbox {
    messages: mpsc::Sender<Parts>,
    bounds: permit::Metrics,
}

/// The end that the client's stream is fed from.
pub(in crate::front) struct Messages(mpsc::Receiver<Parts>);

/// A new queue; `bounds` counts how often a producer had to wait for a place.
pub(in crate::front) fn outbox(bounds: &permit::Metrics) -> (Outbox, Messages) {
    let (messages, stream) = mpsc::channel(WAITING);
    (Outbox { messages, bounds: bounds.clone() }, Messages(stream))
}

impl Outbox {
    /// Sends all that a message has started.
    pub(in crate::front) async fn deliver(&self, started: Result<Option<Started>, Refusal>) {
        match started {
            Ok(None) => {}
            Ok(Some(Started::Answered(message))) => self.send(message).await,
            Ok(Some(Started::Greeting(greeting))) => self.send(greeting.ready().await).await,
            Ok(Some(Started::Call(exchange))) => self.relay(exchange).await,
            Ok(Some(Started::Listen(listen))) => self.relay(*listen).await,
            Err(refusal) => self.send(refusal.into_message()).await,
        }
    }

    /// Sends the messages of a call or a listen, until it ends or the client leaves.
    async fn relay(&self, mut source: impl Source) {
        loop {
            match poll_fn(|context| source.poll_next(context)).await {
                Said::Message(message, _) => {
                    if !self.put(message).await {
                        return;
                    }
                }
                Said::Last(message) => return self.send(message).await,
                Said::End => return,
            }
        }
    }

    /// Sends the messages of the session's own stream, until the session ends or the client leaves.
    pub(in crate::front) async fn listen(&self, mut reader: Reader) {
        while let Some((_, message)) = poll_fn(|context| reader.poll_next(context)).await {
            if !self.put(message).await {
                return;
            }
        }
    }

    /// Resolves when the client has left.
    pub(in crate::front) async fn closed(&self) {
        self.messages.closed().await;
    }

    async fn send(&self, message: Parts) {
        // A client that has left needs no answer.
        let _ = self.put(message).await;
    }

    /// Waits for a place in the queue; `false`: the client has left.
    async fn put(&self, message: Parts) -> bool {
        match self.messages.try_send(message) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(message)) => {
                self.bounds.hit(Bound::Outbox);
                self.messages.send(message).await.is_ok()
            }
        }
    }
}

impl Messages {
    /// The next message; `None` when all producers are gone. Cancel-safe: what was not returned stays queued.
    pub(in crate::front) async fn next(&mut self) -> Option<Parts> {
        self.0.recv().await
    }
}

impl Source for Messages {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Said> {
        self.0.poll_recv(context).map(|message| match message {
            // Nothing is kept for resumption, so the delivery does not matter.
            Some(message) => Said::Message(message, Delivery::BestEffort),
            None => Said::End,
        })
    }
}

/// Messages that wait for a slow client. 64: a burst of progress; each may be as large as an answer, and those
/// are held against the byte budget already.
const WAITING: usize = 64;
