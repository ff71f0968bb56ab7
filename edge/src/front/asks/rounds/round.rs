//! One round of a call: what is asked of the client, and the answers as they come.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::mcp::method::Ask as Kind;

use crate::call::{Answer, Answered, Ask, Call, Question};
use crate::front::asks::reissue::is_accepted;

/// One round that asks something.
pub(super) struct Round {
    /// Sent again when all is answered.
    pub(super) call: Call,
    pub(super) purpose: Purpose,
    wanted: Vec<Wanted>,
    /// Not yielded yet.
    asks: VecDeque<Ask>,
    answers: Arc<Answers>,
    /// Withdraws all questions, also when the round is dropped.
    withdrawn: DropGuard,
    /// `None` once it was ready.
    timeout: Option<Pin<Box<Sleep>>>,
}

/// What the answers are for.
pub(super) enum Purpose {
    /// A modern server gets them, with its own state or none.
    Input(Option<Bytes>),
    /// The user visits URLs before a legacy server can answer. It gets the call anew, and no answers.
    Visit,
}

/// What is wanted under one key.
struct Wanted {
    /// The server's own, a JSON string as it stands.
    key: Bytes,
    kind: Kind,
}

/// What comes of a round next.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once; a box would cost an allocation each"
)]
pub(super) enum Step {
    Ask(Ask),
    Withdrawn,
    /// There will be no answer, and the protocol has no way to report that to the server.
    Refused(Kind),
    /// `inputResponses`, a JSON object.
    Answered(Bytes),
}

impl Round {
    /// Asks `questions` until `timeout`.
    pub(super) fn new(call: Call, purpose: Purpose, questions: Vec<Question>, timeout: Sleep) -> Self {
        let answers = Arc::new(Answers::new(questions.len()));
        let withdrawn = CancellationToken::new();
        let (mut wanted, mut asks) = (Vec::new(), VecDeque::new());
        for (Question { key, kind, request }, token) in questions.into_iter().zip(0..) {
            wanted.push(Wanted { key, kind });
            asks.push_back(Ask::new(kind, request, withdrawn.clone(), answers.clone(), token));
        }
        let (withdrawn, timeout) = (withdrawn.drop_guard(), Some(Box::pin(timeout)));
        Self { call, purpose, wanted, asks, answers, withdrawn, timeout }
    }

    /// Whether the client accepted everything.
    pub(super) fn is_accepted(&self) -> bool {
        let answers = self.answers.0.lock();
        answers
            .given
            .iter()
            .all(|answer| matches!(answer, Some(Answer::Result(result)) if is_accepted(result)))
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        if let Some(ask) = self.asks.pop_front() {
            return Poll::Ready(Step::Ask(ask));
        }
        if let Some(timeout) = &mut self.timeout
            && timeout.as_mut().poll(context).is_ready()
        {
            self.timeout = None;
            self.withdrawn.token().cancel();
            // Whoever holds the questions may notice late that they are withdrawn, or never.
            self.answers.give_up();
            return Poll::Ready(Step::Withdrawn);
        }
        let mut answers = self.answers.0.lock();
        let given = self.wanted.iter().zip(&answers.given);
        for (Wanted { kind, .. }, answer) in given.clone() {
            if let (Some(Answer::Refused(_) | Answer::Nobody), true) = (answer, *kind != Kind::Elicitation) {
                return Poll::Ready(Step::Refused(*kind));
            }
        }
        if answers.given.iter().any(Option::is_none) {
            answers.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut object = vec![b'{'];
        for (Wanted { key, .. }, answer) in given {
            if object.len() > 1 {
                object.push(b',');
            }
            object.extend_from_slice(key);
            object.push(b':');
            match answer {
                Some(Answer::Result(result)) => object.extend_from_slice(result),
                // MCP 2025-11-25 client/elicitation, Response Actions: dismissed without a choice
                _ => object.extend_from_slice(br#"{"action":"cancel"}"#),
            }
        }
        object.push(b'}');
        Poll::Ready(Step::Answered(object.into()))
    }
}

/// The answers of one round, as they come.
struct Answers(Mutex<Given>);

struct Given {
    given: Vec<Option<Answer>>,
    waker: Option<Waker>,
}

impl Answers {
    fn new(count: usize) -> Self {
        Self(Mutex::new(Given { given: vec![None; count], waker: None }))
    }

    /// Nobody answers what is still open.
    fn give_up(&self) {
        for place in self.0.lock().given.iter_mut().filter(|place| place.is_none()) {
            *place = Some(Answer::Nobody);
        }
    }
}

impl Answered for Answers {
    fn answered(&self, token: u64, answer: Answer) {
        let waker = {
            let mut answers = self.0.lock();
            if let Some(place) = usize::try_from(token).ok().and_then(|token| answers.given.get_mut(token)) {
                *place = Some(answer);
            }
            answers.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
