//! The task that keeps the subscriptions of one isolation key alive on a connection of that key: by requests on a
//! legacy server, by a listen on a modern one, and anew on the next connection when one ends.
//!
//! ```text
//!        ┌──────────────── connection, or listen, ended: again with backoff ───────────────┐
//!        ▼                                                                                  │
//!  ──▶ Connecting ──▶ Telling what is wanted ──▶ Resting ── something else is wanted ──▶ Telling
//!                                                   └───── nothing is wanted ──▶ gone
//! ```

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout_at};
use wire::limits::Limits;
use wire::mcp::method::{Method, Notice};
use wire::splice::Splice;
use wire::{Era, Message};

use super::conn::{Conn, draining};
use super::health::Backoff;
use super::legacy;
use super::listen::{AGAIN_FIRST, AGAIN_LAST, LASTED, Listening};
use super::pool::Shared;
use super::roster::Key;
use super::subscriptions::{Standing, Tended};
use super::tenant::Tenant;
use crate::call::{Affinity, Next, Outcome, Reply, Subscriber, Subscription};
use crate::error::{Blame, Error, Kind};

/// Why a connection is left.
enum Left {
    /// It ended, or the listen on it did.
    Ended,
    /// Nothing is wanted any more.
    Idle,
}

impl Shared {
    /// Has `subscriber` hear of `uri`, once the server agreed.
    pub(super) async fn subscribe(
        self: Arc<Self>,
        subscriber: Subscriber,
        uri: String,
    ) -> Result<Subscription, Error> {
        let era = self.era().await?;
        let Subscriber { caller, client, affinity, ear } = subscriber;
        let key = Key::of_caller((caller.principal(), &affinity), self.server.isolation, era);
        let tenant = match (&key, &affinity) {
            (Key::Session(_), Affinity::Session(session)) => Some(Arc::new(Tenant::new(session, &client))),
            _ => None,
        };
        let tend = |tended: Arc<Tended>| {
            self.around.tasks.spawn(self.clone().tend(tended));
        };
        let (subscription, mut standing) = self.subscriptions.add((key, tenant), &uri, ear, tend);
        let answered = standing.wait_for(|standing| !matches!(standing, Standing::Asked));
        tokio::select! {
            answered = answered => match answered.map(|standing| standing.clone()) {
                Ok(Standing::Refused(error)) => Err(error),
                _ => Ok(subscription),
            },
            () = self.stop.cancelled() => Err(draining()),
        }
    }

    /// How the server is spoken to, found out if need be.
    pub(super) async fn era(&self) -> Result<Era, Error> {
        let era = self.lock().verdict.era();
        match era {
            Some(era) => Ok(era),
            None => Ok(self.facts().await?.era),
        }
    }

    async fn tend(self: Arc<Self>, tended: Arc<Tended>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.tend_on(&tended) => {}
        }
    }

    /// From connection to connection, until nothing is wanted.
    async fn tend_on(&self, tended: &Arc<Tended>) {
        let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_LAST, self.seed);
        loop {
            let began = Instant::now();
            match self.connection(&tended.key, tended.tenant.clone()).await {
                Ok(conn) => {
                    let number = conn.spec().number;
                    self.subscriptions.settle(number, tended);
                    let left = tokio::select! {
                        left = self.tell(&conn, tended) => left,
                        () = conn.ending() => Left::Ended,
                    };
                    self.subscriptions.leave(number);
                    if matches!(left, Left::Idle) {
                        if self.subscriptions.forget(tended) {
                            return;
                        }
                        continue;
                    }
                }
                Err(error) => tended.refuse_all(&error),
            }
            if began.elapsed() >= LASTED {
                backoff.reset();
            }
            if self.rest(tended, backoff.next()).await {
                return;
            }
        }
    }

    /// Waits before the next attempt, unless somebody is waiting for it; whether it is of no use any more.
    async fn rest(&self, tended: &Tended, pause: Duration) -> bool {
        let mut changes = tended.changes();
        let until = Instant::now() + pause;
        loop {
            if self.subscriptions.forget(tended) {
                return true;
            }
            // The sender is in `tended`, so it never ends.
            match timeout_at(until, changes.changed()).await {
                Ok(_) if tended.is_awaited() => return false,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    async fn tell(&self, conn: &Conn, tended: &Tended) -> Left {
        match conn.spec().era {
            Era::Legacy => self.tell_legacy(conn, tended).await,
            Era::Modern => self.tell_modern(conn, tended).await,
        }
    }

    // MCP 2025-11-25 server/resources, Subscriptions
    async fn tell_legacy(&self, conn: &Conn, tended: &Tended) -> Left {
        let mut changes = tended.changes();
        let (mut told, mut asked) = (BTreeSet::new(), Vec::new());
        loop {
            changes.borrow_and_update();
            let wanted: BTreeSet<String> = tended.uris().into_iter().collect();
            if tended.is_unwanted() && told.is_empty() && asked.is_empty() {
                return Left::Idle;
            }
            let news = wanted.difference(&told).map(|uri| (uri.clone(), Method::ResourcesSubscribe));
            let old = told.difference(&wanted).map(|uri| (uri.clone(), Method::ResourcesUnsubscribe));
            let all: Vec<_> = old.chain(news).take(AT_ONCE.saturating_sub(asked.len())).collect();
            for (uri, method) in all {
                let params = json!({ "uri": uri }).to_string();
                let Ok(reply) = conn.request(method, &params, PATIENCE) else { return Left::Ended };
                if method == Method::ResourcesSubscribe {
                    told.insert(uri.clone())
                } else {
                    told.remove(&uri)
                };
                asked.push(Asked { uri, method, reply });
            }
            // Given up and wanted again before the server heard of it.
            let still = |uri: &&String| told.contains(*uri) && !asked.iter().any(|asked| asked.uri == **uri);
            wanted.iter().filter(still).for_each(|uri| tended.agreed(uri, false));
            tokio::select! {
                (uri, outcome) = subscribed(&mut asked) => match self.judge(outcome) {
                    Ok(()) => tended.agreed(&uri, true),
                    Err(error) if error.kind == Kind::Died => return Left::Ended,
                    Err(error) => {
                        // One that may still take effect is taken back.
                        if error.kind != Kind::Timeout {
                            told.remove(&uri);
                        }
                        self.refused(tended, &uri, &error);
                    }
                },
                _ = changes.changed() => {}
            }
        }
    }

    fn judge(&self, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Result(_) => Ok(()),
            Outcome::Failed(error) => Err(error),
            Outcome::Refused(_) => Err(self.unwilling()),
        }
    }

    fn unwilling(&self) -> Error {
        let message = format!("server `{}` does not take a subscription to this resource", self.server.name);
        Error::new(Kind::InvalidParams, Blame::Upstream, message)
    }

    /// Whether the subscription is over; one that the server once agreed to is not, and is tried again on the next
    /// connection.
    fn refused(&self, tended: &Tended, uri: &str, error: &Error) -> bool {
        let is_over = tended.refused(uri, error);
        if !is_over {
            tracing::warn!(server = %self.server.name, "subscription not taken up again");
        }
        is_over
    }

    /// One listen for all: its filter cannot be changed, so another one takes its place.
    async fn tell_modern(&self, conn: &Conn, tended: &Tended) -> Left {
        let mut changes = tended.changes();
        let (mut listening, mut tried) = (None::<Listening>, Vec::new());
        loop {
            changes.borrow_and_update();
            let wanted = tended.uris();
            if tended.is_unwanted() {
                return Left::Idle;
            }
            if wanted.is_empty() {
                // Who was refused is about to leave.
                (listening, tried) = (None, Vec::new());
                if changes.changed().await.is_err() {
                    return Left::Idle;
                }
                continue;
            }
            for uri in listening.iter().flat_map(|listening| &listening.uris) {
                tended.agreed(uri, false);
            }
            if listening.is_none() || tried != wanted || tended.is_awaited() {
                let missed = listening.is_none();
                let next = self.listen_for(conn, tended, (&wanted, missed)).await;
                tried = tended.uris().into_iter().filter(|uri| wanted.contains(uri)).collect();
                match next {
                    Ok(Some(next)) => listening = Some(replaced(listening.take(), next, tended)),
                    Ok(None) if !missed => {}
                    Ok(None) => return Left::Ended,
                    Err(left) => return left,
                }
                continue;
            }
            let Some(listening) = &mut listening else { return Left::Ended };
            tokio::select! {
                heard = listening.next() => match heard {
                    Some((notice, message)) => tell_of(tended, notice, message),
                    None => return Left::Ended,
                },
                _ = changes.changed() => {}
            }
        }
    }

    /// A listen for `wanted`; what the server does not take is refused, and all of it if there is none.
    async fn listen_for(
        &self,
        conn: &Conn,
        tended: &Tended,
        (wanted, missed): (&[String], bool),
    ) -> Result<Option<Listening>, Left> {
        let filter = json!({ "resourceSubscriptions": wanted }).to_string();
        match Listening::open(conn, &filter, PATIENCE).await {
            Ok(listening) => {
                for uri in wanted {
                    if listening.uris.contains(uri) {
                        tended.agreed(uri, missed);
                    } else {
                        self.refused(tended, uri, &self.unwilling());
                    }
                }
                Ok(Some(listening))
            }
            Err(error) if error.kind == Kind::Died => Err(Left::Ended),
            Err(error) => {
                for uri in wanted {
                    tended.refused(uri, &error);
                }
                Ok(None)
            }
        }
    }
}

/// A request to a legacy server that waits for its answer.
struct Asked {
    uri: String,
    method: Method,
    reply: Reply,
}

/// The next answer to a subscription. What a server says to the end of one helps nobody.
async fn subscribed(asked: &mut Vec<Asked>) -> (String, Outcome) {
    poll_fn(|context| {
        let mut at = 0;
        while let Some(one) = asked.get_mut(at) {
            match one.reply.poll_next(context) {
                Poll::Pending => at += 1,
                Poll::Ready(Next::Event(_)) => {}
                Poll::Ready(Next::Outcome(outcome)) => {
                    let Asked { uri, method, .. } = asked.swap_remove(at);
                    if method == Method::ResourcesSubscribe {
                        return Poll::Ready((uri, outcome));
                    }
                }
            }
        }
        Poll::Pending
    })
    .await
}

/// Hands over from one listen to the next. What both told is told once.
fn replaced(old: Option<Listening>, mut next: Listening, tended: &Tended) -> Listening {
    let Some(mut old) = old else { return next };
    let mut told = Vec::new();
    for (notice, message) in old.said() {
        told.extend(message.param("uri").map(|uri| uri.raw().to_vec()));
        tell_of(tended, notice, message);
    }
    for (notice, message) in next.said() {
        let uri = message.param("uri").map(|uri| uri.raw().to_vec());
        match told.iter().position(|told| Some(told) == uri.as_ref()) {
            Some(at) => drop(told.swap_remove(at)),
            None => tell_of(tended, notice, message),
        }
    }
    next
}

/// Passes an update on as one that belongs to nobody yet.
fn tell_of(tended: &Tended, notice: Notice, message: Message) {
    if notice == Notice::ResourceUpdated
        && let Some(message) = untagged(message)
    {
        tended.updated(&message);
    }
}

fn untagged(message: Message) -> Option<Message> {
    let mut splice = Splice::new(message.bytes().clone());
    legacy::edit_meta(&mut splice, &message, None);
    Message::scan(splice.finish().into_bytes(), &Limits::default()).ok()
}

/// Requests at a time on one connection: half of what it has room for beside calls.
const AT_ONCE: usize = 8;
/// The answer of a server to a subscription. 10 s: twice what a client waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
