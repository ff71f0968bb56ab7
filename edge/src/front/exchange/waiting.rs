//! A call whose client waits: what comes of its reply, message by message.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use wire::Message;
use wire::mcp::meta;
use wire::splice::{Parts, Splice};

use super::{Step, Tie, Waiting};
use crate::call::{Ask, Event, EventReader, Next, Outcome};
use crate::error::{Blame, Error, Kind};
use crate::front::asks::park::Due;
use crate::front::asks::reissue::Verdict;
use crate::front::asks::relay;
use crate::front::asks::rounds::{Rounds, Turn};
use crate::front::downgrade;
use crate::front::reply::Answer;
use crate::session::replay::Weight;

impl Waiting {
    /// Whether the client takes what comes before the outcome. Nothing can be asked on a response that is one message.
    pub(super) fn hear(&mut self, heard: bool) {
        self.heard = heard;
        self.set_reader(if heard { EventReader::Present } else { EventReader::Absent });
    }

    pub(super) fn set_reader(&mut self, reader: EventReader) {
        self.reader = reader;
        self.reply.set_reader(reader);
    }

    pub(super) fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        if let Tie::Session(in_flight, _) = &mut self.tie
            && in_flight.poll_cancelled(context).is_ready()
        {
            return Poll::Ready(self.cancelled());
        }
        loop {
            if let Some(questions) = &mut self.questions
                && let Poll::Ready(message) = questions.poll_withdrawn(context)
            {
                return Poll::Ready(Step::Message(message, Weight::Lasting));
            }
            let next = match self.rounds.as_mut().filter(|rounds| !rounds.is_calling()) {
                Some(rounds) => match ready!(rounds.poll(context)) {
                    Turn::Ask(ask) => Next::Event(Event::Ask(ask)),
                    Turn::Over(outcome) => Next::Outcome(outcome),
                    Turn::Again(reply) => {
                        self.reply = reply;
                        self.reply.set_reader(self.reader);
                        self.steps.restart();
                        continue;
                    }
                    Turn::Withdrawn => continue,
                },
                None => match self.reply.poll_next(context) {
                    Poll::Ready(next) => next,
                    Poll::Pending => {
                        let due = self.parking.as_mut().map(|parking| parking.poll_due(context));
                        return due.unwrap_or(Poll::Pending).map(Step::Leave);
                    }
                },
            };
            let message = match (next, &self.tie) {
                (Next::Event(event), _) => self.event(event),
                (Next::Outcome(Outcome::InputRequired(input)), Tie::Session(..)) => {
                    let rounds = self.rounds.get_or_insert_with(|| Box::new(Rounds::new(self.terms.clone())));
                    rounds.begin(*input);
                    continue;
                }
                (Next::Outcome(Outcome::InputRequired(input)), Tie::Response(_)) => {
                    let outcome = relay::wrap(&self.terms.sealer, &input);
                    drop(input); // and the room of its call: the next round is another request
                    let Outcome::Result(result) = outcome else { return Poll::Ready(self.end(outcome)) };
                    let answer = self.manner.asking(&self.id, result);
                    self.record.end(answer.ending);
                    return Poll::Ready(Step::End(answer));
                }
                (Next::Outcome(outcome), _) => return Poll::Ready(self.end(outcome)),
            };
            if let Some((message, weight)) = message {
                return Poll::Ready(Step::Message(message, weight));
            }
        }
    }

    fn end(&mut self, outcome: Outcome) -> Step {
        let outcome = match outcome {
            Outcome::Result(_) if self.empty => Outcome::Result(Bytes::from_static(b"{}").into()),
            other => match self.tie.version() {
                Some(version) => downgrade::outcome((self.record.method(), version), other, &self.terms),
                None => other,
            },
        };
        let answer = self.answer(outcome);
        self.record.end(answer.ending);
        Step::End(answer)
    }

    fn answer(&self, outcome: Outcome) -> Answer {
        let (id, manner) = (&self.id, &self.manner);
        let visits = match (&outcome, &self.parking) {
            (Outcome::Refused(error), Some(parking)) => parking.visits(error),
            _ => None,
        };
        match visits {
            None => manner.answer(id, outcome),
            Some(Verdict::Ask(result)) => manner.asking(id, result),
            Some(Verdict::Told(error)) => manner.answer(id, Outcome::Refused(error.to_bytes())),
            Some(Verdict::Failed(error)) => manner.failed(id, &error),
        }
    }

    /// What the client hears of it. A question that cannot go out with the call goes out beside it.
    fn event(&mut self, event: Event) -> Option<(Parts, Weight)> {
        let event = match (event, &mut self.parking) {
            (Event::Ask(ask), Some(parking)) => {
                parking.inputs.put(ask);
                return None;
            }
            (event, _) => event,
        };
        if !self.heard {
            if let Event::Ask(ask) = event {
                self.ask_beside(ask);
            }
            return None;
        }
        match event {
            Event::Progress(message) => Some((self.progress(&message)?, Weight::Passing)),
            Event::Notice(_, message) => Some((message.bytes().clone().into(), Weight::Lasting)),
            Event::Ask(ask) => Some((self.questions.as_mut()?.put(ask)?, Weight::Lasting)),
        }
    }

    /// Puts a question on the session's own stream. It waits there for a client that has left; one that takes no stream
    /// with this call is only asked if it reads that one, else the question is dropped, which refuses it.
    fn ask_beside(&self, ask: Ask) {
        let Tie::Session(in_flight, _) = &self.tie else { return };
        let own_stream = &in_flight.session().key().unsolicited;
        if self.reader == EventReader::Gone || own_stream.reader() == EventReader::Present {
            own_stream.event(Event::Ask(ask));
        }
    }

    /// Saves the questions that wait in the reply of a cancelled call, for another call may have asked them. The
    /// connection withdraws those that none can have asked.
    fn save_asks(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Next::Event(event)) = self.reply.poll_next(&mut context) {
            if let Event::Ask(ask) = event {
                self.ask_beside(ask);
            }
        }
    }

    /// The client knows only its own token.
    // MCP 2025-11-25 basic/utilities/progress: the token comes back as it was sent
    fn progress(&mut self, message: &Message) -> Option<Parts> {
        let token = self.progress_token.clone()?;
        let span = message.param(meta::PROGRESS_TOKEN)?.span();
        let mut splice = Splice::new(message.bytes().clone());
        splice.replace(span, token);
        let rises = self.questions.is_none() || self.steps.edit(message, &mut splice);
        rises.then(|| splice.finish())
    }

    /// Lets the call go on without a client that waits; the answer that tells it how to come back.
    pub(super) fn leave(self, due: Due) -> Answer {
        let Self { reply, id, manner, mut record, parking, .. } = self;
        let lost = || Error::new(Kind::Lost, Blame::Edge, "the call cannot wait for its client");
        let left = parking.ok_or_else(lost).and_then(|parking| match due {
            Due::Park => parking.park(reply),
            Due::Task => parking.adopt(reply, manner.clone()),
        });
        let answer = match (left, due) {
            (Ok(result), Due::Park) => manner.asking(&id, result),
            (Ok(result), Due::Task) => manner.answer(&id, Outcome::Result(result)),
            (Err(error), _) => manner.failed(&id, &error),
        };
        record.end(answer.ending);
        answer
    }

    /// The client has cancelled the call, or its session has ended before it did, which the client has to hear.
    fn cancelled(&mut self) -> Step {
        let ended = match &self.tie {
            Tie::Session(in_flight, drain) if in_flight.session_ended() => Some(drain.is_cut()),
            Tie::Session(..) | Tie::Response(_) => None,
        };
        let error = match ended {
            None => Error::new(Kind::Cancelled, Blame::Downstream, "the client cancelled the call"),
            Some(false) => {
                Error::new(Kind::Cancelled, Blame::Downstream, "the session ended before the call did")
            }
            Some(true) => Error::new(Kind::Draining, Blame::Edge, "this gateway is stopping; connect again"),
        };
        if ended.is_none() {
            self.set_reader(EventReader::Gone);
            self.save_asks();
        }
        let answer = self.manner.failed(&self.id, &error);
        self.record.end(answer.ending);
        if ended.is_some() { Step::End(answer) } else { Step::Cancelled(answer) }
    }

    /// What a client hears that comes back too late. An answer, because SDK clients do not take the refusal of
    /// a resumption as the end of their request, but wait on until their own time-out.
    pub(super) fn lost(&self) -> Bytes {
        let message = "the connection broke, and what came meanwhile is no longer kept";
        self.manner.failed(&self.id, &Error::new(Kind::Lost, Blame::Downstream, message)).message.into_bytes()
    }

    /// The client has left before there was anything to come back to; the call goes on.
    pub(super) async fn finish_alone(mut self: Box<Self>) {
        let Tie::Session(_, drain) = &self.tie else { return };
        let drain = drain.clone();
        self.heard = false;
        self.set_reader(EventReader::Gone);
        let to_its_end =
            async { while let Step::Message(..) = poll_fn(|context| self.poll_step(context)).await {} };
        tokio::select! {
            () = to_its_end => {}
            () = drain.cut() => {}
        }
    }
}
