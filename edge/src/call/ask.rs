//! A server's own request to the client: sampling, elicitation, roots.
//!
//! It is an event of the call it belongs to, answered in place while the call stays in flight. However it
//! ends, the server gets exactly one answer: an [`Ask`] that is dropped unanswered is refused.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::mcp::method;

/// One request of a server that waits for its answer.
pub struct Ask {
    /// The method.
    pub kind: method::Ask,
    /// The request as the server sent it; the id in it is the server's own.
    pub request: Message,
    /// Cancelled when the server withdraws its request, its timeout passes, or its connection ends: the client need not
    /// answer any more.
    pub withdrawn: CancellationToken,
    reply_to: ReplyTo,
}

/// A question that was sent to the client: what is needed to answer it, and none of its bytes.
#[derive(Debug)]
pub struct Unanswered {
    /// As of the [`Ask`].
    pub withdrawn: CancellationToken,
    reply_to: ReplyTo,
}

/// Where the one answer goes; dropped without one, it refuses.
struct ReplyTo(Option<(Arc<dyn Answered>, u64)>);

/// What a client answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The `result` value, a JSON object, verbatim.
    Result(Bytes),
    /// The client's own `error` value, a JSON object, verbatim.
    Refused(Bytes),
    /// There will be no answer: the client has left, or cannot be asked.
    Nobody,
}

/// Who waits for the answer: the connection that the request came on.
pub trait Answered: Send + Sync {
    /// The answer to the request that was registered under `token`. Called without a lock held; unknown
    /// tokens are ignored, because the request may have been withdrawn meanwhile.
    fn answered(&self, token: u64, answer: Answer);

    /// Forwards the client's progress on that request (`notifications/progress`). Called without a lock held. Does nothing
    /// for a server that asked in a way without progress.
    fn progressed(&self, token: u64, notice: &Message) {
        let _ = (token, notice);
    }

    /// Sends the question with another call that may ask, or on another stream that the client reads, because
    /// the call that it came with has ended. Returned if there is none. Called without a lock of the connection held.
    fn pass_on(&self, ask: Ask) -> Option<Ask> {
        Some(ask)
    }
}

/// The asker, as the receiver of progress.
pub struct Asker {
    whom: Arc<dyn Answered>,
    token: u64,
}

impl Asker {
    /// Forwards progress. Must not be called with a lock held.
    pub fn progressed(&self, notice: &Message) {
        self.whom.progressed(self.token, notice);
    }
}

impl Ask {
    /// A request whose answer goes to `whom`.
    pub fn new(
        kind: method::Ask,
        request: Message,
        withdrawn: CancellationToken,
        whom: Arc<dyn Answered>,
        token: u64,
    ) -> Self {
        Self { kind, request, withdrawn, reply_to: ReplyTo(Some((whom, token))) }
    }

    /// Answers the server.
    pub fn answer(mut self, answer: Answer) {
        self.reply_to.end(answer);
    }

    /// Gives the question to another call that may ask. Returned if there is none; dropped if it is withdrawn.
    pub fn pass_on(self) -> Option<Self> {
        if self.withdrawn.is_cancelled() {
            return None;
        }
        match self.reply_to.0.as_ref().map(|(whom, _)| whom.clone()) {
            Some(whom) => whom.pass_on(self),
            None => None,
        }
    }

    /// Gives up the request, once the client has it.
    // Its bytes are a slice of what was read from the server, and hold a part of `held_bytes` until they are dropped.
    pub fn without_request(self) -> Unanswered {
        Unanswered { withdrawn: self.withdrawn, reply_to: self.reply_to }
    }
}

impl Unanswered {
    /// Who asked.
    pub fn asker(&self) -> Option<Asker> {
        self.reply_to.0.as_ref().map(|(whom, token)| Asker { whom: whom.clone(), token: *token })
    }

    /// Answers the server.
    pub fn answer(mut self, answer: Answer) {
        self.reply_to.end(answer);
    }
}

impl ReplyTo {
    fn end(&mut self, answer: Answer) {
        if let Some((whom, token)) = self.0.take() {
            whom.answered(token, answer);
        }
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        self.end(Answer::Nobody);
    }
}

impl fmt::Debug for ReplyTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplyTo({:?})", self.0.as_ref().map(|(_, token)| token))
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use wire::limits::Limits;

    #[derive(Default)]
    struct Answers(Mutex<Vec<(u64, Answer)>>);

    impl Answered for Answers {
        fn answered(&self, token: u64, answer: Answer) {
            self.0.lock().push((token, answer));
        }
    }

    #[test]
    fn a_server_gets_one_answer_whatever_becomes_of_its_request() {
        let answers = Arc::new(Answers::default());
        let ask = |token| {
            let request = Message::scan(
                Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#),
                &Limits::default(),
            );
            Ask::new(method::Ask::Roots, request.unwrap(), CancellationToken::new(), answers.clone(), token)
        };
        ask(1).answer(Answer::Result(Bytes::from_static(b"{}")));
        drop(ask(2));
        drop(ask(3).without_request());
        let answers = answers.0.lock();
        assert_eq!(answers.len(), 3);
        assert!(matches!(answers[0], (1, Answer::Result(_))));
        assert!(matches!(answers[1..], [(2, Answer::Nobody), (3, Answer::Nobody)]));
    }
}
