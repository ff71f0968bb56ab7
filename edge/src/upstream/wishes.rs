//! What a legacy client set once for its session, level and subscriptions: told to the session's connection, and
//! told again to the one that takes its place.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use wire::limits::Limits;
use wire::mcp::level::Level;
use wire::mcp::method::{Method, Notice};
use wire::{Era, Message};

use super::conn::Conn;
use super::facts::Facts;
use super::pool::Shared;
use super::roster::Key;
use crate::call::{Affinity, Call, Event, Outcome, ServerName, SessionKey, Wished};
use crate::error::{Blame, Error, Kind};
use crate::permit::Bound;

impl Shared {
    /// Whether a call may go to a connection of `key`; only subscriptions may not go to every one.
    pub(super) fn check(&self, call: &Call, key: &Key, era: Era) -> Result<(), Error> {
        if !is_subscription(call.method) {
            return Ok(());
        }
        let refuse = |why: &str| {
            let message = format!("server `{}` {why}", self.server.name);
            Err(Error::new(Kind::InvalidParams, Blame::Edge, message))
        };
        match (key, era, &call.affinity) {
            (Key::Session(_), Era::Legacy, Affinity::Session(session)) => self.check_room(call, session),
            (_, Era::Modern, _) => {
                refuse("is a modern one; subscriptions to its resources are not there yet")
            }
            _ => refuse("has no process for each session; its `isolation` allows no subscriptions"),
        }
    }

    fn check_room(&self, call: &Call, session: &SessionKey) -> Result<(), Error> {
        let Some(uri) = uri(call) else { return Ok(()) };
        let fits = call.method == Method::ResourcesUnsubscribe
            || session.wishes.change(|wished| has_room(wished, &self.server.name, &uri));
        if fits {
            return Ok(());
        }
        self.around.permits.metrics().hit(Bound::Subscriptions);
        Err(Error { blame: Blame::Downstream, ..Bound::Subscriptions.refusal() })
    }

    /// The client wishes another level: the session's connection hears of it before any later call.
    pub(super) fn tell_level(&self, session: &SessionKey) {
        let Some(level) = session.wishes.change(|wished| wished.level) else { return };
        let Some(conn) = self.session_conn(session).filter(|conn| conn.can("logging")) else { return };
        let patience = self.config.handshake_timeout;
        if let Ok(reply) = conn.request(Method::SetLevel, &level_params(level), patience) {
            // What it says to that helps nobody, but a dropped reply would be a cancellation.
            self.around.tasks.spawn(timeout(patience, reply.outcome()));
        }
    }

    /// Tells a new connection what its session wishes, before the first call; returns what it was told.
    pub(super) async fn replay(&self, conn: &Conn, session: &SessionKey, facts: &Facts) -> Wished {
        let wished = session.wishes.now();
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
    pub(super) fn moved_in(&self, session: &SessionKey, facts: &Facts, told: &Wished) {
        let (level, is_first) =
            session.wishes.change(|wished| (wished.level, wished.servers.insert(self.server.name.clone())));
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
            let text = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, notice.as_str());
            let Ok(message) = Message::scan(text.into(), &Limits::default()) else { continue };
            if !session.strays.event(Event::Notice(notice, message)) {
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
    session.wishes.change(|wished| {
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

fn uri(call: &Call) -> Option<String> {
    Some(call.request.param("uri")?.as_str()?.into_owned())
}

fn has_room(wished: &Wished, server: &ServerName, uri: &str) -> bool {
    let cost = |uri: &str| uri.len() + SUBSCRIPTION_COST;
    let held: usize = wished.subscriptions.iter().map(|(_, uri)| cost(uri)).sum();
    held + cost(uri) <= SUBSCRIPTION_BYTES || wished.subscriptions.contains(&(server.clone(), uri.to_owned()))
}

pub(super) fn level_params(level: Level) -> String {
    format!(r#"{{"level":"{}"}}"#, level.as_str())
}

/// Subscriptions of one session, in bytes of their URIs. 128 KiB: a thousand of the usual length, and with
/// 10,000 sessions that all do their worst still within the memory of a large pod.
const SUBSCRIPTION_BYTES: usize = 128 << 10;
/// What a subscription takes beside its URI.
const SUBSCRIPTION_COST: usize = 64;
