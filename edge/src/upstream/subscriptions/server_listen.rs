//! Listens (`subscriptions/listen`) of the gateway on a modern server.
//!
//! One on the control connection follows the changes of lists; those for resources are opened by the reconciler of
//! their subscription group. A server that answers no other request while a listen is open gets no more of them.
// MCP 2026-07-28 basic/patterns/subscriptions

use std::collections::HashSet;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};
use wire::limits::Limits;
use wire::mcp::method::{Method, Notice};
use wire::{Era, Message};

use crate::call::{Event, Next, Outcome, Reply};
use crate::error::{Blame, Error, Kind};
use crate::upstream::conn::Conn;
use crate::upstream::facts::{NO_CAPABILITIES, all_capabilities};
use crate::upstream::modern;
use crate::upstream::pool::PoolInner;
use crate::upstream::pool::health::Backoff;

/// A listen that the server acknowledged. Dropping it ends it.
pub(super) struct ServerListen {
    reply: Reply,
    /// The resources that the server accepted.
    pub(super) accepted: HashSet<String>,
}

/// Whether a server answers other requests of a connection while a listen is open on it. Servers of mcp-go 1.0 do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::upstream) enum ListenConcurrency {
    /// No listen was acknowledged yet.
    #[default]
    NoListenYet,
    /// A listen was acknowledged, and no other request was made since.
    Untested,
    /// It answers other requests.
    Concurrent,
    /// It does not answer them.
    Blocked,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Acknowledged {
    #[serde(rename = "resourceSubscriptions")]
    uris: HashSet<String>,
}

impl ServerListen {
    async fn open(conn: &Conn, filter: &str, timeout: Duration) -> Result<Self, Error> {
        let capabilities =
            if conn.spec().is_control { all_capabilities(Era::Modern) } else { NO_CAPABILITIES };
        let params = modern::own_params(&format!(r#""notifications":{filter},"#), capabilities);
        let deadline = Instant::now() + timeout;
        let mut reply = conn.request(Method::Listen, &params, NO_TIMEOUT)?;
        loop {
            match timeout_at(deadline, reply.next()).await {
                Ok(Next::Event(Event::Notice(Notice::Acknowledged, message))) => {
                    let filter = message.param("notifications");
                    let accepted: Acknowledged =
                        filter.and_then(|filter| filter.parse().ok()).unwrap_or_default();
                    return Ok(Self { reply, accepted: accepted.uris });
                }
                // Nothing of a listen comes before its acknowledgement.
                Ok(Next::Event(_)) => {}
                Ok(Next::Outcome(Outcome::Failed(error))) => return Err(error),
                Ok(Next::Outcome(Outcome::Refused(_) | Outcome::InputRequired(_))) => {
                    return Err(refusal(conn, Kind::InvalidParams, "does not tell of changes"));
                }
                Ok(Next::Outcome(Outcome::Result(_))) => {
                    return Err(refusal(conn, Kind::Cancelled, "ended a listen at once"));
                }
                Err(_) => return Err(refusal(conn, Kind::Timeout, "did not acknowledge a listen in time")),
            }
        }
    }

    /// The next notification; `None` once the server or the connection has ended the listen. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(Notice, Message)> {
        loop {
            match self.reply.next().await {
                Next::Event(Event::Notice(notice, message)) => return Some((notice, message)),
                Next::Event(_) => {}
                Next::Outcome(_) => return None,
            }
        }
    }

    /// The notifications that have arrived already.
    pub(super) fn take_ready(&mut self) -> Vec<(Notice, Message)> {
        let mut ready = Vec::new();
        while self.reply.is_ready() {
            match now_or_never(&mut self.reply) {
                Some(Next::Event(Event::Notice(notice, message))) => ready.push((notice, message)),
                Some(Next::Event(_)) => {}
                Some(Next::Outcome(_)) | None => break,
            }
        }
        ready
    }
}

fn now_or_never(reply: &mut Reply) -> Option<Next> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match reply.poll_next(&mut context) {
        std::task::Poll::Ready(next) => Some(next),
        std::task::Poll::Pending => None,
    }
}

fn refusal(conn: &Conn, kind: Kind, clause: &str) -> Error {
    let message = format!("server `{}` {clause}", conn.spec().server);
    Error::new(kind, Blame::Upstream, message)
}

/// A `notifications/resources/updated` for `uri`, as a legacy server would send it.
pub(super) fn update_notification(uri: &str) -> Option<Message> {
    let params = serde_json::json!({ "uri": uri });
    let text =
        format!(r#"{{"jsonrpc":"2.0","method":"{}","params":{params}}}"#, Notice::ResourceUpdated.as_str());
    Message::scan(text.into(), &Limits::default()).ok()
}

impl PoolInner {
    /// Opens a listen; `filter` is a JSON object.
    ///
    /// # Errors
    /// When the server does not acknowledge it, or is known to answer nothing else while a listen is open.
    pub(super) async fn open_listen(
        &self,
        conn: &Conn,
        filter: &str,
        timeout: Duration,
    ) -> Result<ServerListen, Error> {
        if self.state.lock().listen_concurrency == ListenConcurrency::Blocked {
            return Err(refusal(conn, Kind::InvalidParams, BLOCKED));
        }
        let listen = ServerListen::open(conn, filter, timeout).await?;
        let mut state = self.state.lock();
        if state.listen_concurrency == ListenConcurrency::NoListenYet {
            state.listen_concurrency = ListenConcurrency::Untested;
        }
        Ok(listen)
    }

    /// The outcome of a request of the gateway's own on a connection that may have an open listen. It fails early if
    /// the server turns out to answer nothing else meanwhile.
    pub(in crate::upstream) async fn ask_during_listen(
        &self,
        conn: &Conn,
        asked: impl Future<Output = Outcome>,
    ) -> Outcome {
        let before = self.state.lock().listen_concurrency;
        if conn.spec().era == Era::Legacy
            || matches!(before, ListenConcurrency::Concurrent | ListenConcurrency::Blocked)
        {
            return asked.await;
        }
        let mut asked = pin!(asked);
        let outcome = tokio::select! {
            biased;
            outcome = asked.as_mut() => outcome,
            () = no_answer(conn) => match self.is_blocked_by_listen() {
                true => return Outcome::Failed(refusal(conn, Kind::Timeout, BLOCKED)),
                false => return asked.await, // no listen is open: the server is slow
            },
        };
        if before == ListenConcurrency::Untested && !matches!(outcome, Outcome::Failed(_)) {
            self.state.lock().listen_concurrency = ListenConcurrency::Concurrent;
        }
        outcome
    }

    /// Concludes, after a request without an answer, whether an open listen is the cause.
    fn is_blocked_by_listen(&self) -> bool {
        {
            let mut state = self.state.lock();
            if state.listen_concurrency != ListenConcurrency::Untested {
                return false;
            }
            state.listen_concurrency = ListenConcurrency::Blocked;
        }
        tracing::warn!(
            server = %self.server.name,
            "server {BLOCKED}, so none is opened any more and its changes are not heard; `era: legacy` brings them"
        );
        true
    }

    /// Follows the changes of lists on a modern control connection, until that ends.
    pub(in crate::upstream) fn follow_lists(&self, conn: &Arc<Conn>) {
        let Some(this) = self.this().filter(|_| conn.spec().era == Era::Modern) else { return };
        let conn = conn.clone();
        self.deps.tasks.spawn(async move {
            tokio::select! {
                () = conn.ending() => {}
                () = this.watch_lists(&conn) => {}
            }
        });
    }

    /// Keeps a listen for changed lists open, until the server shows that it does not support that.
    async fn watch_lists(&self, conn: &Conn) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST, self.seed);
        let mut is_again = false;
        loop {
            let began = Instant::now();
            match self.open_listen(conn, ALL_LISTS, self.config.handshake_timeout).await {
                Ok(mut listen) => {
                    if is_again {
                        // Changes between the two listens were missed.
                        self.changes.send_modify(|changes| changes.lost += 1);
                    }
                    while let Some((notice, _)) = listen.next().await {
                        self.changes.send_if_modified(|changes| changes.count(notice));
                    }
                    is_again = true;
                }
                Err(error) if error.kind == Kind::InvalidParams => {
                    return tracing::info!(server = %self.server.name, "server does not tell of changed lists");
                }
                Err(_) => {}
            }
            if began.elapsed() >= STABLE_AFTER {
                backoff.reset();
            }
            sleep(backoff.next()).await;
        }
    }
}

/// Resolves when the server has answered nothing for a while, not even `server/discover`, which takes no work.
async fn no_answer(conn: &Conn) {
    sleep(ANSWER_TIMEOUT).await;
    let params = modern::own_params("", all_capabilities(Era::Modern));
    match conn.ask(Method::Discover, &params, ANSWER_TIMEOUT).await {
        Outcome::Failed(error) if error.kind == Kind::Timeout => {}
        _ => pending().await,
    }
}

/// A clause that follows the server's name.
const BLOCKED: &str = "answers nothing while a listen is open";
/// How long a request, and then `server/discover`, may go without an answer. 5 s: twice this is well under
/// `names_settle`, and every server can say by then what it is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const ALL_LISTS: &str = r#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}"#;
/// The timeout of a listen, which has none. Ten years, because an `Instant` has an end.
const NO_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The first pause before a listen or a subscription group starts again. 200 ms: as good as at once, but no busy loop
/// with a server that ends it at once.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(200);
/// The longest such pause. 15 s: as between attempts to list a server.
pub(super) const RETRY_LAST: Duration = Duration::from_secs(15);
/// A listen or connection that lasted this long resets the backoff.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(30);
