//! The task that keeps the subscriptions of one isolation key alive on a connection of that key: by requests on a
//! legacy server, by a listen on a modern one, and anew on the next connection when one ends.
//!
//! ```text
//!        ┌──────────────── connection, or listen, ended: again with backoff ───────────────┐
//!        ▼                                                                                  │
//!  ──▶ Connecting ──▶ Telling what is wanted ──▶ Resting ── something else is wanted ──▶ Telling
//!                                                   └───── nothing is wanted ──▶ gone
//! ```

use std::collections::{BTreeSet, VecDeque};
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

use super::listen::{AGAIN_FIRST, AGAIN_LAST, LASTED, Listening};
use super::subscriptions::{Standing, Tended};
use crate::call::{Affinity, Next, Outcome, Reply, Subscriber, Subscription};
use crate::error::{Blame, Error, Kind};
use crate::upstream::conn::{Conn, draining};
use crate::upstream::legacy;
use crate::upstream::pool::health::Backoff;
use crate::upstream::pool::roster::Key;
use crate::upstream::pool::tenant::Tenant;
use crate::upstream::pool::{Shared, lease};

/// Why a connection is left.
enum Left {
    /// It ended, or the listen on it did.
    Ended,
    /// Nothing is wanted any more.
    Idle,
}

impl Shared {
    /// Has `subscriber` hear of `uri`, once the server agreed.
    pub(in crate::upstream) async fn subscribe(
        self: Arc<Self>,
        subscriber: Subscriber,
        uri: String,
    ) -> Result<Subscription, Error> {
        let era = self.era().await?;
        let Subscriber { caller, client, affinity, ear } = subscriber;
        let key = Key::of_caller((caller.principal(), &affinity), self.server.isolation, era);
        let (key, profile) = lease::home(&self.seats, key, (&client, &affinity), era);
        let tenant = match (&key, &affinity, profile) {
            (Key::Session(_), Affinity::Session(session), _) => Some(Tenant::of_session(session, &client)),
            (Key::Seat(..), _, Some(profile)) => Some(Tenant::of_lease(profile)),
            _ => None,
        };
        let tenant = tenant.map(Arc::new);
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
        let era = self.state.lock().verdict.era();
        match era {
            Some(era) => Ok(era),
            None => Ok(self.facts().await?.era),
        }
    }

    async fn tend(self: Arc<Self>, tended: Arc<Tended>) {
        tokio::select! {
            () = self.stop.cancelled() => if !self.around.drain.is_stopping() {
                tended.lose();
            },
            () = self.tend_on(&tended) => {}
        }
    }

    /// From connection to connection, until nothing is wanted.
    async fn tend_on(&self, tended: &Arc<Tended>) {
        let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_LAST, self.seed);
        loop {
            let began = Instant::now();
            match self.home(tended).await {
                Ok(conn) => {
                    let number = conn.spec().number;
                    self.subscriptions.settle(number, tended);
                    let left = self.tell(&conn, tended).await;
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

    /// The connection that they are on from now on; a process that stops opens none.
    async fn home(&self, tended: &Tended) -> Result<Arc<Conn>, Error> {
        if self.around.drain.is_stopping() {
            return Err(draining());
        }
        self.connection(&tended.key, tended.tenant.clone()).await
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
        let (mut changes, mut told, mut is_stale) = (tended.changes(), Told::default(), true);
        loop {
            if std::mem::take(&mut is_stale) {
                changes.borrow_and_update();
                told.line_up(tended);
            }
            // As long as it owes answers, they say what becomes of the subscriptions that it was asked for.
            let is_over = told.ask(conn).is_err() && told.asked.is_empty();
            if is_over {
                return Left::Ended;
            }
            if told.is_empty() && tended.is_unwanted() {
                return Left::Idle;
            }
            tokio::select! {
                biased; // what was still said is heard
                (uri, method, outcome) = told.answered() => match self.judge(outcome) {
                    // What it says to the end of one helps nobody.
                    _ if method == Method::ResourcesUnsubscribe => {}
                    Ok(()) => tended.agreed(&uri, true),
                    Err(error) if error.kind == Kind::Died => self.died(tended, &uri, &error),
                    Err(error) => {
                        // One that may still take effect is taken back.
                        is_stale = error.kind == Kind::Timeout || !told.uris.remove(&uri);
                        self.refused(tended, &uri, &error);
                    }
                },
                _ = changes.changed() => is_stale = true,
                () = conn.ending(), if told.asked.is_empty() => return Left::Ended,
            }
        }
    }

    fn judge(&self, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Result(_) => Ok(()),
            Outcome::Failed(error) => Err(error),
            Outcome::Refused(_) | Outcome::InputRequired(_) => Err(self.unwilling()),
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

    /// The process died at a request for `uri`.
    fn died(&self, tended: &Tended, uri: &str, error: &Error) {
        if tended.died(uri, error) {
            tracing::warn!(server = %self.server.name, "subscription given up: its process ended at it again and again");
        }
    }

    /// One listen for all: its filter cannot be changed, so another one takes its place.
    async fn tell_modern(&self, conn: &Conn, tended: &Tended) -> Left {
        let (mut changes, mut is_stale) = (tended.changes(), true);
        let (mut listening, mut tried) = (None::<Listening>, Vec::new());
        loop {
            if std::mem::take(&mut is_stale) {
                changes.borrow_and_update();
                if tended.is_unwanted() {
                    return Left::Idle;
                }
                let wanted = tended.uris();
                // Given up and wanted again before the server heard of it.
                for uri in listening.iter().flat_map(|listening| &listening.uris) {
                    tended.agreed(uri, false);
                }
                if wanted.is_empty() {
                    (listening, tried) = (None, Vec::new());
                } else if listening.is_none() || tried != wanted || tended.is_awaited() {
                    let next = self.listen_for(conn, tended, (&wanted, listening.is_none())).await;
                    tried = wanted;
                    tried.retain(|uri| tended.is_open(uri));
                    match next {
                        Ok(Some(next)) => listening = Some(replaced(listening.take(), next, tended)),
                        Ok(None) if listening.is_some() => {}
                        Ok(None) => return Left::Ended,
                        Err(left) => return left,
                    }
                }
            }
            let next = async {
                match &mut listening {
                    Some(listening) => listening.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // what was still said is heard
                heard = next => match heard {
                    Some((notice, message)) => tell_of(tended, notice, message),
                    None => return Left::Ended,
                },
                () = conn.ending() => return Left::Ended,
                _ = changes.changed() => is_stale = true,
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
        if !conn.is_open() {
            return Err(Left::Ended); // it was not asked
        }
        let filter = json!({ "resourceSubscriptions": wanted }).to_string();
        match self.listen(conn, &filter, PATIENCE).await {
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
            Err(error) if error.kind == Kind::Died => {
                // Most likely of what was new, if there was something.
                let new = wanted.iter().filter(|uri| tended.refused(uri, &error)).count();
                if new == 0 {
                    wanted.iter().for_each(|uri| self.died(tended, uri, &error));
                }
                Err(Left::Ended)
            }
            Err(error) => {
                for uri in wanted {
                    tended.refused(uri, &error);
                }
                Ok(None)
            }
        }
    }
}

/// What a legacy server was told on one connection.
#[derive(Default)]
struct Told {
    /// What it was asked to tell of, and may tell of.
    uris: BTreeSet<String>,
    /// What it has to be told still.
    queue: VecDeque<(String, Method)>,
    asked: Vec<Asked>,
    /// Requests at a time.
    at_once: usize,
}

/// A request that waits for its answer.
struct Asked {
    uri: String,
    method: Method,
    reply: Reply,
}

impl Told {
    /// Lines up what makes the server tell of what is wanted, and of nothing else.
    fn line_up(&mut self, tended: &Tended) {
        let wanted: BTreeSet<String> = tended.uris().into_iter().collect();
        let news = wanted.difference(&self.uris).map(|uri| (uri.clone(), Method::ResourcesSubscribe));
        let old = self.uris.difference(&wanted).map(|uri| (uri.clone(), Method::ResourcesUnsubscribe));
        self.queue = old.chain(news).collect();
        // One by one, so that the one that it dies of shows.
        self.at_once = if tended.is_deadly() { 1 } else { AT_ONCE };
        // Given up and wanted again before the server heard of it.
        let answered = |uri: &&String| !self.asked.iter().any(|asked| asked.uri == **uri);
        wanted.intersection(&self.uris).filter(answered).for_each(|uri| tended.agreed(uri, false));
    }

    /// Asks for the next few.
    fn ask(&mut self, conn: &Conn) -> Result<(), Error> {
        while self.asked.len() < self.at_once
            && let Some((uri, method)) = self.queue.front().cloned()
        {
            let reply = conn.request(method, &json!({ "uri": uri }).to_string(), PATIENCE)?;
            self.queue.pop_front();
            if method == Method::ResourcesSubscribe {
                self.uris.insert(uri.clone());
            } else {
                self.uris.remove(&uri);
            }
            self.asked.push(Asked { uri, method, reply });
        }
        Ok(())
    }

    /// Whether the server has nothing to tell of, and nothing to answer.
    fn is_empty(&self) -> bool {
        self.uris.is_empty() && self.queue.is_empty() && self.asked.is_empty()
    }

    /// The next answer; never, where none is waited for. Cancel-safe: one is taken out with its answer.
    async fn answered(&mut self) -> (String, Method, Outcome) {
        poll_fn(|context| {
            for at in 0..self.asked.len() {
                while let Some(Poll::Ready(next)) =
                    self.asked.get_mut(at).map(|one| one.reply.poll_next(context))
                {
                    if let Next::Outcome(outcome) = next {
                        let Asked { uri, method, .. } = self.asked.swap_remove(at);
                        return Poll::Ready((uri, method, outcome));
                    }
                }
            }
            Poll::Pending
        })
        .await
    }
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
    legacy::edit_meta(&mut splice, &message);
    Message::scan(splice.finish().into_bytes(), &Limits::default()).ok()
}

/// Requests at a time on one connection: half of what it has room for beside calls.
const AT_ONCE: usize = 8;
/// The answer of a server to a subscription. 10 s: twice what a client waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
