//! What a session's client hears that belongs to no call: changed lists, and what its servers say and ask
//! beside calls.
//!
//! What happens while no stream is open waits, bounded, and is told first when one is. What is not here: who
//! reads it and what is kept for resumption (`session/stream`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use serde_json::json;
use tokio::sync::watch;
use wire::mcp::method::Notice;
use wire::splice::Parts;

use crate::call::{Event, Next, Reply, list_changed};
use crate::front::asks::questions::Questions;
use crate::front::list_changes::{Changes, News};
use crate::ops::drain::DrainWatch;
use crate::router::ListChanges;
use crate::session::replay::Weight;
use crate::session::{Said, Session, Source};

/// See the module.
pub(super) struct Listening {
    session: Arc<Session>,
    /// What the session's own connections say.
    unsolicited_events: Option<Reply>,
    questions: Questions,
    changes: Changes,
    /// Notifications not yet sent; at most one for each list and subscription.
    waiting: VecDeque<Bytes>,
}

impl Listening {
    pub(super) fn new(
        session: Arc<Session>,
        unsolicited_events: Option<Reply>,
        changes: watch::Receiver<ListChanges>,
        drain: DrainWatch,
    ) -> Self {
        let questions = Questions::new(session.clone());
        let changes = Changes::new(changes, drain);
        Self { session, unsolicited_events, questions, changes, waiting: VecDeque::new() }
    }

    /// What changed since the client was last told, also while no stream was open.
    fn catch_up(&mut self) {
        let news = self.session.news(self.changes.now());
        let all = [
            (news.tools, Notice::ToolsChanged),
            (news.prompts, Notice::PromptsChanged),
            (news.resources, Notice::ResourcesChanged),
        ];
        let changed = all.into_iter().filter(|(changed, _)| *changed);
        self.waiting.extend(changed.map(|(_, list)| list_changed(list)));
        if news.subscriptions {
            let wished = self.session.key().wishes.now();
            self.waiting.extend(wished.subscriptions.iter().map(|(_, uri)| updated(uri)));
        }
    }

    /// Whether something was lost since this was asked last: the client is told of everything as changed then.
    fn notice_loss(&self) -> bool {
        let lost = self.unsolicited_events.as_ref().is_some_and(Reply::take_lost);
        if lost {
            self.session.lost_track();
        }
        lost
    }

    fn poll_strayed(&mut self, context: &mut Context<'_>) -> Poll<Parts> {
        self.questions.take_over_orphaned(context);
        if let Poll::Ready(message) = self.questions.poll_withdrawn(context) {
            return Poll::Ready(message);
        }
        while let Some(unsolicited_events) = &mut self.unsolicited_events {
            let message = match std::task::ready!(unsolicited_events.poll_next(context)) {
                Next::Event(Event::Notice(_, message)) => Some(Parts::from(message.bytes().clone())),
                Next::Event(Event::Ask(ask)) => self.questions.put(ask),
                // Progress belongs to a call, and this is none.
                Next::Event(Event::Progress(_)) => None,
                Next::Outcome(_) => {
                    self.unsolicited_events = None;
                    None
                }
            };
            if let Some(message) = message {
                // A question just put is polled for its withdrawal with the next message.
                return Poll::Ready(message);
            }
        }
        Poll::Pending
    }
}

impl Source for Listening {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Said> {
        loop {
            self.notice_loss();
            if self.waiting.is_empty() {
                self.catch_up();
            }
            if let Some(notice) = self.waiting.pop_front() {
                return Poll::Ready(Said::Message(notice.into(), Weight::Lasting));
            }
            if let Poll::Ready(message) = self.poll_strayed(context) {
                return Poll::Ready(Said::Message(message, Weight::Lasting));
            }
            // What was lost before the waker stood there woke nobody.
            if self.notice_loss() {
                continue;
            }
            match std::task::ready!(self.changes.poll_news(context)) {
                News::Changed => {}
                News::End => return Poll::Ready(Said::End),
            }
        }
    }
}

// MCP 2025-11-25 server/resources, Subscriptions
fn updated(uri: &str) -> Bytes {
    let notice = json!({
        "jsonrpc": "2.0",
        "method": Notice::ResourceUpdated.as_str(),
        "params": { "uri": uri },
    });
    notice.to_string().into()
}
