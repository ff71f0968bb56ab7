//! The source of a session's own stream: changed lists, and notifications and asks of its servers that belong to no
//! call.
//!
//! What happens while no stream is open is kept, bounded, and sent first when one is opened. What is not here: the
//! readers, and what is kept for resumption (`session/stream`).

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
use crate::front::list_changes::{Changes, ListUpdate};
use crate::ops::drain::DrainWatch;
use crate::router::ListChanges;
use crate::session::replay::Delivery;
use crate::session::{Said, Session, Source};

/// The source of one session's own stream.
pub(super) struct Listening {
    session: Arc<Session>,
    /// Events of the session's connections that belong to no call.
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

    /// Queues notifications of what has changed since the last ones, also while no stream was open.
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
            let settings = self.session.handle().settings.now();
            self.waiting.extend(settings.subscriptions.iter().map(|(_, uri)| updated(uri)));
        }
    }

    /// Whether events were lost since the last call of this; then everything is reported as changed.
    fn notice_loss(&self) -> bool {
        let lost = self.unsolicited_events.as_ref().is_some_and(Reply::take_lost);
        if lost {
            self.session.lost_track();
        }
        lost
    }

    fn poll_unsolicited(&mut self, context: &mut Context<'_>) -> Poll<Parts> {
        self.questions.take_over_orphaned(context);
        if let Poll::Ready(message) = self.questions.poll_withdrawn(context) {
            return Poll::Ready(message);
        }
        while let Some(unsolicited_events) = &mut self.unsolicited_events {
            let message = match std::task::ready!(unsolicited_events.poll_next(context)) {
                Next::Event(Event::Notice(_, message)) => Some(Parts::from(message.bytes().clone())),
                Next::Event(Event::Ask(ask)) => self.questions.put(ask),
                // Progress belongs to a call.
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
                return Poll::Ready(Said::Message(notice.into(), Delivery::Required));
            }
            if let Poll::Ready(message) = self.poll_unsolicited(context) {
                return Poll::Ready(Said::Message(message, Delivery::Required));
            }
            // Events that were lost before the waker was set woke nobody.
            if self.notice_loss() {
                continue;
            }
            match std::task::ready!(self.changes.poll_update(context)) {
                ListUpdate::Changed => {}
                ListUpdate::End => return Poll::Ready(Said::End),
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
