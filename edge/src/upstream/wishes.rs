//! What a legacy client set once for its session, level and subscriptions: told to the session's connection, and
//! told again to the one that takes its place.

pub(super) mod listen;
pub(super) mod subscriptions;
mod tender;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use wire::mcp::level::Level;
use wire::mcp::method::{Method, Notice};
use wire::{Era, Message};

use super::conn::{Conn, Job, silent};
use super::facts::Facts;
use super::pool::Shared;
use super::pool::roster::Key;
use crate::call::{
    Affinity, Call, Event, Hear, Outcome, SUBSCRIPTIONS_BYTES, ServerName, SessionHandle, Settings,
    Subscriber, subscription_bytes,
};
use crate::error::{Blame, Error, Kind};
use crate::permit::{self, Bound};

impl Shared {
    /// Whether there is room for what a call wants to be kept in mind.
    pub(super) fn check(&self, call: &Call) -> Result<(), Error> {
        match &call.affinity {
            Affinity::Session(session) if is_subscription(call.method) => self.check_room(call, session),
            _ => Ok(()),
        }
    }

    /// Takes a session's subscription: to its own process it goes as any call, on a connection that others use too
    /// it is one of the subscriptions there.
    pub(super) fn take_subscription(&self, job: Box<Job>) {
        let (Ok(place), Some(this)) = (self.slots.queue(), self.this()) else {
            return job.responder.fail(Bound::Queue.refusal());
        };
        self.around.tasks.spawn(async move {
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
            let kept = tokio::select! {
                () = job.responder.cancelled() => return,
                kept = tokio::time::timeout(timeout, this.subscribe_session(&job.call)) => kept,
            };
            match kept {
                Ok(Ok(())) => job.responder.finish(Outcome::Result(Bytes::from_static(AGREED).into())),
                Ok(Err(error)) => job.responder.fail(error),
                Err(_) => {
                    this.around.metrics.timeouts.inc();
                    job.responder.fail(silent(&this.server.name));
                }
            }
        });
    }

    async fn subscribe_session(self: &Arc<Self>, call: &Call) -> Result<(), Error> {
        let wrong = |kind, why: &str| Error::new(kind, Blame::Downstream, why);
        let Affinity::Session(session) = &call.affinity else {
            return Err(wrong(Kind::UnknownMethod, "this method belongs to revisions with a session"));
        };
        let uri = uri(call).ok_or_else(|| wrong(Kind::InvalidParams, "params.uri must be a string"))?;
        if call.method == Method::ResourcesUnsubscribe {
            self.subscriptions.release(session.number, &uri);
        } else {
            self.check_room(call, session)?;
            let ear =
                Arc::new(Ear { session: session.clone(), refusals: self.around.permits.metrics().clone() });
            let (caller, client, affinity) =
                (call.caller.clone(), call.client.clone(), call.affinity.clone());
            let subscription =
                self.clone().subscribe(Subscriber { caller, client, affinity, ear }, uri).await?;
            if self.subscriptions.keep(session, subscription) {
                self.around.tasks.spawn(self.clone().release_at_end(session.clone()));
            }
        }
        agreed(call, &self.server.name);
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
        self.around.permits.metrics().hit(Bound::Subscriptions);
        Err(Bound::Subscriptions.refusal())
    }

    /// The client wishes another level: the session's connection hears of it before any later call.
    pub(super) fn tell_level(&self, session: &SessionHandle) {
        let Some(level) = session.settings.level() else { return };
        let Some(conn) = self.session_conn(session).filter(|conn| conn.can("logging")) else { return };
        let timeout = self.config.handshake_timeout;
        if let Ok(reply) = conn.request(Method::SetLevel, &level_params(level), timeout) {
            // What it says to that helps nobody, but a dropped reply would be a cancellation.
            self.around.tasks.spawn(tokio::time::timeout(timeout, reply.outcome()));
        }
    }

    /// Tells a new connection what its session wishes, before the first call; returns what it was told.
    pub(super) async fn replay(&self, conn: &Conn, session: &SessionHandle, facts: &Facts) -> Settings {
        let wished = session.settings.now();
        let deadline = Instant::now() + self.config.handshake_timeout;
        let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        if let Some(level) = wished.level.filter(|_| facts.can("logging")) {
            conn.ask(Method::SetLevel, &level_params(level), left()).await;
        }
        for (_, uri) in wished.subscriptions.iter().filter(|(server, _)| *server == self.server.name) {
            let params = format!(r#"{{"uri":{}}}"#, serde_json::Value::from(uri.as_str()));
            let outcome = conn.ask(Method::ResourcesSubscribe, &params, left()).await;
            if !matches!(outcome, Outcome::Result(_)) {
                tracing::warn!(server = %self.server.name, conn = conn.spec().number, "subscription not taken up again");
            }
        }
        wished
    }

    /// A session's connection is there. What was wished meanwhile is told now; and a client whose server had
    /// another process before is told to look at its lists again.
    pub(super) fn moved_in(&self, session: &SessionHandle, facts: &Facts, told: &Settings) {
        let (level, is_first) =
            session.settings.change(|wished| (wished.level, wished.servers.insert(self.server.name.clone())));
        if level != told.level {
            self.tell_level(session);
        }
        if is_first {
            return;
        }
        let lists = [
            ("tools", Notice::ToolsChanged),
            ("prompts", Notice::PromptsChanged),
            ("resources", Notice::ResourcesChanged),
        ];
        for (_, notice) in lists.into_iter().filter(|(capability, _)| facts.can(capability)) {
            // It is told so in any case; what it sees then is what the new process shows.
            self.announced(session, notice);
            if !session.tell_changed(notice) {
                self.around.permits.metrics().hit(Bound::EventBytes);
            }
        }
    }
}

/// Keeps a subscription in mind that the server agreed to, or forgets it. What finds no room by now holds as
/// long as the connection.
pub(super) fn agreed(call: &Call, server: &ServerName) {
    let Affinity::Session(session) = &call.affinity else { return };
    let Some(uri) = uri(call).filter(|_| is_subscription(call.method)) else { return };
    session.settings.change(|wished| {
        if call.method == Method::ResourcesUnsubscribe {
            wished.subscriptions.remove(&(server.clone(), uri));
        } else if has_room(wished, server, &uri) {
            wished.subscriptions.insert((server.clone(), uri));
        }
    });
}

/// Whether it is about a subscription to a resource.
pub(super) fn is_subscription(method: Method) -> bool {
    matches!(method, Method::ResourcesSubscribe | Method::ResourcesUnsubscribe)
}

/// Where a session hears of its resources: beside all its calls.
struct Ear {
    session: SessionHandle,
    refusals: permit::Metrics,
}

impl Hear for Ear {
    fn updated(&self, message: &Message) {
        if !self.session.unsolicited.event(Event::Notice(Notice::ResourceUpdated, message.clone())) {
            self.refusals.hit(Bound::EventBytes);
        }
    }

    /// What it subscribed to is another server's now, and nobody has subscribed there: the client has to, if it still wants.
    fn lost(&self) {
        if !self.session.tell_changed(Notice::ResourcesChanged) {
            self.refusals.hit(Bound::EventBytes);
        }
    }
}

fn uri(call: &Call) -> Option<String> {
    Some(call.request.param("uri")?.as_str()?.into_owned())
}

fn has_room(wished: &Settings, server: &ServerName, uri: &str) -> bool {
    let held: usize = wished.subscriptions.iter().map(|(_, uri)| subscription_bytes(uri)).sum();
    held + subscription_bytes(uri) <= SUBSCRIPTIONS_BYTES
        || wished.subscriptions.contains(&(server.clone(), uri.to_owned()))
}

pub(super) fn level_params(level: Level) -> String {
    format!(r#"{{"level":"{}"}}"#, level.as_str())
}

const AGREED: &[u8] = br#"{"resultType":"complete"}"#;
