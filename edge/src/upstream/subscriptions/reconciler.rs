//! The reconciler of one subscription group: a task that keeps what the server is subscribed to equal to what is
//! wanted. On a legacy server it sends subscribe and unsubscribe requests, on a modern one it keeps a listen open,
//! and on the next connection it starts again.
//!
//! ```text
//!        ┌────────── the connection or the listen ended: again, with backoff ──────────┐
//!        ▼                                                                              │
//!  ──▶ Connecting ──▶ Reconciling ──▶ Waiting ── the wanted set changed ──▶ Reconciling ┘
//!                                        └────── nothing is wanted ──▶ (ends)
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

use super::registry::{SubscriptionGroup, SubscriptionState};
use super::server_listen::{RETRY_FIRST, RETRY_LAST, STABLE_AFTER, ServerListen};
use crate::call::{Affinity, Next, Outcome, Reply, Subscriber, Subscription};
use crate::error::{Blame, Error, Kind};
use crate::upstream::conn::{Conn, draining};
use crate::upstream::exclusive_client::ExclusiveClient;
use crate::upstream::key::{Key, Target};
use crate::upstream::pool::PoolInner;
use crate::upstream::pool::health::Backoff;
use crate::upstream::{lease, legacy};

/// Why the reconciler is done with a connection.
enum Exit {
    /// The connection ended, or the listen on it.
    ConnectionEnded,
    /// Nothing is wanted any more.
    Unused,
}

impl PoolInner {
    /// Subscribes to `uri`, over the connection that the subscriber's calls would use. Waits for the server's answer.
    pub(in crate::upstream) async fn subscribe(
        self: Arc<Self>,
        subscriber: Subscriber,
        uri: String,
    ) -> Result<Subscription, Error> {
        let era = self.era().await?;
        let Subscriber { caller, client, affinity, sink } = subscriber;
        let key = Key::of_caller(caller.principal(), &affinity, self.server.isolation, era);
        let (key, profile) = lease::home(&self.seats, key, &client, &affinity, era);
        let target = match (&key, &affinity, profile) {
            (Key::Session(_), Affinity::Session(session), _) => {
                Target::exclusive(key, ExclusiveClient::of_session(session, &client))
            }
            (Key::Seat(..), _, Some(profile)) => Target::exclusive(key, ExclusiveClient::of_lease(profile)),
            _ => Target::shared(key),
        };
        let start = |group: Arc<SubscriptionGroup>| {
            self.deps.tasks.spawn(self.clone().run_group(group));
        };
        let (subscription, mut state) = self.subscriptions.add(target, &uri, sink, start);
        let answered = state.wait_for(|state| !matches!(state, SubscriptionState::Pending));
        tokio::select! {
            answered = answered => match answered.map(|state| state.clone()) {
                Ok(SubscriptionState::Refused(error)) => Err(error),
                _ => Ok(subscription),
            },
            () = self.stop.cancelled() => Err(draining()),
        }
    }

    async fn run_group(self: Arc<Self>, group: Arc<SubscriptionGroup>) {
        tokio::select! {
            () = self.stop.cancelled() => if !self.deps.environment.drain.is_stopping() {
                group.end_all();
            },
            () = self.reconcile_until_unused(&group) => {}
        }
    }

    /// Runs on one connection after the other, until nothing is wanted.
    async fn reconcile_until_unused(&self, group: &Arc<SubscriptionGroup>) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST, self.seed);
        loop {
            let began = Instant::now();
            match self.group_connection(group).await {
                Ok(conn) => {
                    let number = conn.spec().number;
                    self.subscriptions.attach(number, group);
                    let exit = self.reconcile(&conn, group).await;
                    self.subscriptions.detach(number);
                    if matches!(exit, Exit::Unused) {
                        if self.subscriptions.remove_if_unused(group) {
                            return;
                        }
                        continue;
                    }
                }
                Err(error) => group.refuse_all(&error),
            }
            if began.elapsed() >= STABLE_AFTER {
                backoff.reset();
            }
            if self.pause(group, backoff.next()).await {
                return;
            }
        }
    }

    /// The connection of the group's key, opened if need be. A gateway that is stopping opens none.
    async fn group_connection(&self, group: &SubscriptionGroup) -> Result<Arc<Conn>, Error> {
        if self.deps.environment.drain.is_stopping() {
            return Err(draining());
        }
        self.connection(&group.target).await
    }

    /// Waits before the next attempt, or until a subscriber waits for it; `true` if the group is not used any more. For one
    /// that waits already it is short, but a pause all the same: it may be what the connection ends of.
    async fn pause(&self, group: &SubscriptionGroup, pause: Duration) -> bool {
        let mut changes = group.changes();
        let pause = if group.has_pending() { pause.min(RETRY_FIRST) } else { pause };
        let until = Instant::now() + pause;
        loop {
            if self.subscriptions.remove_if_unused(group) {
                return true;
            }
            // The sender is in `group`, so it is never dropped here.
            match timeout_at(until, changes.changed()).await {
                Ok(_) if group.has_pending() => return false,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    async fn reconcile(&self, conn: &Conn, group: &SubscriptionGroup) -> Exit {
        match conn.spec().era {
            Era::Legacy => self.reconcile_legacy(conn, group).await,
            Era::Modern => self.reconcile_modern(conn, group).await,
        }
    }

    // MCP 2025-11-25 server/resources, Subscriptions
    async fn reconcile_legacy(&self, conn: &Conn, group: &SubscriptionGroup) -> Exit {
        let (mut changes, mut state, mut is_stale) = (group.changes(), LegacyState::default(), true);
        loop {
            if std::mem::take(&mut is_stale) {
                changes.borrow_and_update();
                state.plan(group);
                if !conn.can_subscribe() {
                    let error = self.no_subscriptions();
                    for (uri, _) in state.queue.drain(..) {
                        self.refused(group, &uri, &error);
                    }
                }
            }
            // Requests in flight still get an outcome, which decides about their subscriptions.
            let is_over = state.send(conn).is_err() && state.in_flight.is_empty();
            if is_over {
                return Exit::ConnectionEnded;
            }
            if state.is_empty() && group.is_unused() {
                return Exit::Unused;
            }
            tokio::select! {
                biased; // answers that have arrived come first
                (uri, method, outcome) = state.next_answer() => match self.accepted(outcome) {
                    // The answer to an unsubscribe changes nothing.
                    _ if method == Method::ResourcesUnsubscribe => {}
                    Ok(()) => group.accepted(&uri, true),
                    Err(error) if error.kind == Kind::Died => self.died(group, &uri, &error),
                    Err(error) => {
                        // After a timeout the request may still take effect, so it is taken back by an unsubscribe.
                        is_stale = error.kind == Kind::Timeout || !state.subscribed.remove(&uri);
                        self.refused(group, &uri, &error);
                    }
                },
                _ = changes.changed() => is_stale = true,
                () = conn.ending(), if state.in_flight.is_empty() => return Exit::ConnectionEnded,
            }
        }
    }

    fn accepted(&self, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Result(_) => Ok(()),
            Outcome::Failed(error) => Err(error),
            Outcome::Refused(_) | Outcome::InputRequired(_) => Err(self.refusal()),
        }
    }

    fn refusal(&self) -> Error {
        let message = format!("server `{}` does not take a subscription to this resource", self.server.name);
        Error::new(Kind::InvalidParams, Blame::Upstream, message)
    }

    /// The server refused `uri`; `true` if that ends the subscription. One that was accepted before is renewed on the
    /// next connection.
    fn refused(&self, group: &SubscriptionGroup, uri: &str, error: &Error) -> bool {
        let is_over = group.refused(uri, error);
        if !is_over {
            tracing::warn!(server = %self.server.name, "subscription not taken up again");
        }
        is_over
    }

    /// The process died at a request for `uri`.
    fn died(&self, group: &SubscriptionGroup, uri: &str, error: &Error) {
        if group.died(uri, error) {
            tracing::warn!(server = %self.server.name, "subscription given up: its process ended at it again and again");
        }
    }

    /// Keeps one listen for all resources. Its filter cannot be changed, so a new listen replaces it when the wanted
    /// set changes.
    async fn reconcile_modern(&self, conn: &Conn, group: &SubscriptionGroup) -> Exit {
        let (mut changes, mut is_stale) = (group.changes(), true);
        let (mut listen, mut tried) = (None::<ServerListen>, Vec::new());
        loop {
            if std::mem::take(&mut is_stale) {
                changes.borrow_and_update();
                if group.is_unused() {
                    return Exit::Unused;
                }
                let wanted = group.wanted();
                // Unsubscribed and subscribed again while the listen covered it: still accepted.
                for uri in listen.iter().flat_map(|listen| &listen.accepted) {
                    group.accepted(uri, false);
                }
                if wanted.is_empty() {
                    (listen, tried) = (None, Vec::new());
                } else if listen.is_none() || tried != wanted || group.has_pending() {
                    let next = self.listen_to(conn, group, &wanted, listen.is_none()).await;
                    tried = wanted;
                    tried.retain(|uri| group.is_open(uri));
                    match next {
                        Ok(Some(next)) => listen = Some(hand_over(listen.take(), next, group)),
                        Ok(None) if listen.is_some() => {}
                        Ok(None) => return Exit::ConnectionEnded,
                        Err(exit) => return exit,
                    }
                }
            }
            let next = async {
                match &mut listen {
                    Some(listen) => listen.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // notifications that have arrived come first
                notification = next => match notification {
                    Some((notice, message)) => publish_update(group, notice, message),
                    None => return Exit::ConnectionEnded,
                },
                () = conn.ending() => return Exit::ConnectionEnded,
                _ = changes.changed() => is_stale = true,
            }
        }
    }

    /// Opens a listen for `wanted`, and refuses the resources that the server does not accept; all of them if it
    /// opens none. `missed`: updates may have been missed since an earlier listen.
    async fn listen_to(
        &self,
        conn: &Conn,
        group: &SubscriptionGroup,
        wanted: &[String],
        missed: bool,
    ) -> Result<Option<ServerListen>, Exit> {
        if !conn.is_open() {
            return Err(Exit::ConnectionEnded); // the server was not asked, so nothing is refused
        }
        let filter = json!({ "resourceSubscriptions": wanted }).to_string();
        match self.open_listen(conn, &filter, ANSWER_TIMEOUT).await {
            Ok(listen) => {
                for uri in wanted {
                    if listen.accepted.contains(uri) {
                        group.accepted(uri, missed);
                    } else {
                        self.refused(group, uri, &self.refusal());
                    }
                }
                Ok(Some(listen))
            }
            Err(error) if error.kind == Kind::Died => {
                // A new subscription is the likelier cause, if there is one.
                let new = wanted.iter().filter(|uri| group.refused(uri, &error)).count();
                if new == 0 {
                    wanted.iter().for_each(|uri| self.died(group, uri, &error));
                }
                Err(Exit::ConnectionEnded)
            }
            Err(error) => {
                for uri in wanted {
                    group.refused(uri, &error);
                }
                Ok(None)
            }
        }
    }
}

/// What a legacy server is subscribed to on one connection.
#[derive(Default)]
struct LegacyState {
    /// Resources that it was asked to subscribe to, and may send updates of.
    subscribed: BTreeSet<String>,
    /// Requests that are still to be sent.
    queue: VecDeque<(String, Method)>,
    in_flight: Vec<InFlight>,
    /// Requests in flight at a time.
    concurrency: usize,
}

/// A request that waits for its answer.
struct InFlight {
    uri: String,
    method: Method,
    reply: Reply,
}

impl LegacyState {
    /// Queues the requests that make the server's subscriptions equal to what is wanted.
    fn plan(&mut self, group: &SubscriptionGroup) {
        let wanted: BTreeSet<String> = group.wanted().into_iter().collect();
        let added = wanted.difference(&self.subscribed).map(|uri| (uri.clone(), Method::ResourcesSubscribe));
        let removed =
            self.subscribed.difference(&wanted).map(|uri| (uri.clone(), Method::ResourcesUnsubscribe));
        self.queue = removed.chain(added).collect();
        // One by one after a death, to find out which subscription causes it.
        self.concurrency = if group.has_killed() { 1 } else { CONCURRENT_REQUESTS };
        // Unsubscribed and subscribed again before the server was asked: still accepted.
        let answered = |uri: &&String| !self.in_flight.iter().any(|request| request.uri == **uri);
        wanted.intersection(&self.subscribed).filter(answered).for_each(|uri| group.accepted(uri, false));
    }

    /// Sends the next requests of the queue.
    fn send(&mut self, conn: &Conn) -> Result<(), Error> {
        while self.in_flight.len() < self.concurrency
            && let Some((uri, method)) = self.queue.front().cloned()
        {
            let reply = conn.request(method, &json!({ "uri": uri }).to_string(), ANSWER_TIMEOUT)?;
            self.queue.pop_front();
            if method == Method::ResourcesSubscribe {
                self.subscribed.insert(uri.clone());
            } else {
                self.subscribed.remove(&uri);
            }
            self.in_flight.push(InFlight { uri, method, reply });
        }
        Ok(())
    }

    /// Whether the server has no subscription, and none is on its way.
    fn is_empty(&self) -> bool {
        self.subscribed.is_empty() && self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// The next answer; pending for ever while nothing is in flight. Cancel-safe: a request is removed only with its
    /// answer.
    async fn next_answer(&mut self) -> (String, Method, Outcome) {
        poll_fn(|context| {
            for at in 0..self.in_flight.len() {
                while let Some(Poll::Ready(next)) =
                    self.in_flight.get_mut(at).map(|request| request.reply.poll_next(context))
                {
                    if let Next::Outcome(outcome) = next {
                        let InFlight { uri, method, .. } = self.in_flight.swap_remove(at);
                        return Poll::Ready((uri, method, outcome));
                    }
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Replaces one listen by the next. An update that both of them delivered is published once.
fn hand_over(old: Option<ServerListen>, mut next: ServerListen, group: &SubscriptionGroup) -> ServerListen {
    let Some(mut old) = old else { return next };
    let mut published = Vec::new();
    for (notice, message) in old.take_ready() {
        published.extend(message.param("uri").map(|uri| uri.raw().to_vec()));
        publish_update(group, notice, message);
    }
    for (notice, message) in next.take_ready() {
        let uri = message.param("uri").map(|uri| uri.raw().to_vec());
        match published.iter().position(|published| Some(published) == uri.as_ref()) {
            Some(at) => drop(published.swap_remove(at)),
            None => publish_update(group, notice, message),
        }
    }
    next
}

/// Publishes an update that came on a listen, without that listen's subscription id.
fn publish_update(group: &SubscriptionGroup, notice: Notice, message: Message) {
    if notice == Notice::ResourceUpdated
        && let Some(message) = without_subscription_id(message)
    {
        group.publish(&message);
    }
}

fn without_subscription_id(message: Message) -> Option<Message> {
    let mut splice = Splice::new(message.bytes().clone());
    legacy::edit_meta(&mut splice, &message);
    Message::scan(splice.finish().into_bytes(), &Limits::default()).ok()
}

/// Requests in flight on one connection. 8: half of the gateway's own requests that it has room for.
const CONCURRENT_REQUESTS: usize = 8;
/// How long a server has to answer a subscription. 10 s: twice as long as clients wait for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
