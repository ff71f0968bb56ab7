//! Resource subscriptions of legacy sessions. A session with a process of its own subscribes there by an ordinary
//! call; on a connection that several clients share, its subscription joins those of the others (`registry`,
//! `reconciler`).

pub(super) mod reconciler;
pub(super) mod registry;
pub(super) mod server_listen;

use std::sync::Arc;

use bytes::Bytes;
use wire::mcp::method::{Method, Notice};
use wire::{Era, Message};

use super::conn::{Conn, Job, timed_out};
use super::key::Key;
use super::pool::PoolInner;
use super::session_settings::{has_room, is_subscription, note_accepted, uri};
use crate::call::{Affinity, Call, Event, Outcome, SessionHandle, Subscriber, UpdateSink};
use crate::error::{Blame, Error, Kind};
use crate::permit::{self, Bound};

impl PoolInner {
    /// Checks that a session has room for the subscription that `call` asks for. Any other call passes.
    ///
    /// # Errors
    /// When the session's subscriptions take all the room they may.
    pub(super) fn check_subscription(&self, call: &Call) -> Result<(), Error> {
        match &call.affinity {
            Affinity::Session(session) if is_subscription(call.method) => self.check_room(call, session),
            _ => Ok(()),
        }
    }

    /// Takes a subscribe or unsubscribe request of a session.
    pub(super) fn take_subscription(&self, job: Box<Job>) {
        let (Ok(place), Some(this)) = (self.slots.queue(), self.this()) else {
            return job.responder.fail(Bound::Queue.refusal());
        };
        self.deps.tasks.spawn(async move {
            let era = match this.era().await {
                Ok(era) => era,
                Err(error) => return job.responder.fail(error),
            };
            let key = Key::of(&job.call, this.server.isolation, era);
            if matches!((key, era), (Key::Session(_), Era::Legacy)) {
                drop(place);
                return this.enqueue(job, None);
            }
            let timeout = this.config.call_timeout.min(this.config.call_timeout_max);
            let done = tokio::select! {
                () = job.responder.cancelled() => return,
                done = tokio::time::timeout(timeout, this.subscribe_session(&job.call)) => done,
            };
            match done {
                Ok(Ok(())) => job.responder.finish(Outcome::Result(Bytes::from_static(DONE).into())),
                Ok(Err(error)) => job.responder.fail(error),
                Err(_) => {
                    this.deps.metrics.timeouts.inc();
                    job.responder.fail(timed_out(&this.server.name));
                }
            }
        });
    }

    /// Checks that the server of `conn` takes the subscription that `call` asks for. Any other call passes.
    ///
    /// # Errors
    /// When it did not declare that it takes any. It might accept and never send an update.
    pub(super) fn check_can_subscribe(&self, call: &Call, conn: &Conn) -> Result<(), Error> {
        let asks_legacy = call.method == Method::ResourcesSubscribe && conn.spec().era == Era::Legacy;
        if asks_legacy && !conn.can_subscribe() { Err(self.no_subscriptions()) } else { Ok(()) }
    }

    /// The refusal of a server that takes no subscriptions. The gateway itself declares them, so to its clients the method
    /// exists, and the parameter is wrong.
    fn no_subscriptions(&self) -> Error {
        let message = format!("server `{}` takes no subscriptions to its resources", self.server.name);
        Error::new(Kind::InvalidParams, Blame::Downstream, message)
    }

    async fn subscribe_session(self: &Arc<Self>, call: &Call) -> Result<(), Error> {
        let invalid = |kind, why: &str| Error::new(kind, Blame::Downstream, why);
        let Affinity::Session(session) = &call.affinity else {
            return Err(invalid(Kind::UnknownMethod, "this method belongs to revisions with a session"));
        };
        let uri = uri(call).ok_or_else(|| invalid(Kind::InvalidParams, "params.uri must be a string"))?;
        if call.method == Method::ResourcesUnsubscribe {
            self.subscriptions.release(session.number, &uri);
        } else {
            self.check_room(call, session)?;
            let sink = SessionSink {
                session: session.clone(),
                refusals: self.deps.environment.permits.metrics().clone(),
            };
            let (caller, client, affinity) =
                (call.caller.clone(), call.client.clone(), call.affinity.clone());
            let subscriber = Subscriber { caller, client, affinity, sink: Arc::new(sink) };
            let subscription = self.clone().subscribe(subscriber, uri).await?;
            if self.subscriptions.keep(session, subscription) {
                self.deps.tasks.spawn(self.clone().release_at_end(session.clone()));
            }
        }
        self.sessions.note(session);
        note_accepted(call, &self.server.name);
        Ok(())
    }

    async fn release_at_end(self: Arc<Self>, session: SessionHandle) {
        tokio::select! {
            () = session.ended.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
        self.subscriptions.release_all(session.number);
    }

    fn check_room(&self, call: &Call, session: &SessionHandle) -> Result<(), Error> {
        let Some(uri) = uri(call) else { return Ok(()) };
        let fits = call.method == Method::ResourcesUnsubscribe
            || session.settings.change(|wished| has_room(wished, &self.server.name, &uri));
        if fits {
            return Ok(());
        }
        self.deps.environment.permits.metrics().hit(Bound::Subscriptions);
        Err(Bound::Subscriptions.refusal())
    }
}

/// Delivers updates to a session, outside its calls.
struct SessionSink {
    session: SessionHandle,
    refusals: permit::Metrics,
}

impl UpdateSink for SessionSink {
    fn updated(&self, message: &Message) {
        if !self.session.unsolicited.event(Event::Notice(Notice::ResourceUpdated, message.clone())) {
            self.refusals.hit(Bound::EventBytes);
        }
    }

    /// Notifies the client that resources changed: the server is another one now, so it has to subscribe again.
    fn lost(&self) {
        if !self.session.tell_changed(Notice::ResourcesChanged) {
            self.refusals.hit(Bound::EventBytes);
        }
    }
}

const DONE: &[u8] = br#"{"resultType":"complete"}"#;
