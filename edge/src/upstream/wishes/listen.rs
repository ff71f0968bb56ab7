//! A listen of ours on a modern server: opened, acknowledged, heard, and opened again when the server ends it.
//!
//! The gateway's own one, on the control connection, hears of changed lists; those for resources are opened by the
//! tender of their connection. A server that answers nothing else while a listen is open gets no more of them.
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
use crate::upstream::pool::Shared;
use crate::upstream::pool::health::Backoff;

/// A listen that the server acknowledged. Dropping it ends it.
pub(super) struct Listening {
    reply: Reply,
    /// The resources that the server agreed to tell of.
    pub(super) uris: HashSet<String>,
}

/// Whether a server answers other requests of a connection while a listen is open on it. Those of mcp-go 1.0 do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::upstream) enum Beside {
    /// No listen was acknowledged yet.
    #[default]
    Unopened,
    /// One was.
    Untried,
    /// It does.
    Answers,
    /// It does not.
    Silent,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Acknowledged {
    #[serde(rename = "resourceSubscriptions")]
    uris: HashSet<String>,
}

impl Listening {
    async fn open(conn: &Conn, filter: &str, timeout: Duration) -> Result<Self, Error> {
        let capabilities =
            if conn.spec().is_control { all_capabilities(Era::Modern) } else { NO_CAPABILITIES };
        let params = modern::own_params(&format!(r#""notifications":{filter},"#), capabilities);
        let deadline = Instant::now() + timeout;
        let mut reply = conn.request(Method::Listen, &params, NO_END)?;
        loop {
            match timeout_at(deadline, reply.next()).await {
                Ok(Next::Event(Event::Notice(Notice::Acknowledged, message))) => {
                    let filter = message.param("notifications");
                    let accepted: Acknowledged =
                        filter.and_then(|filter| filter.parse().ok()).unwrap_or_default();
                    return Ok(Self { reply, uris: accepted.uris });
                }
                // Not before the acknowledgement, and so not of this listen.
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

    /// The next it says; `None` once the server has ended it, or the connection has. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(Notice, Message)> {
        loop {
            match self.reply.next().await {
                Next::Event(Event::Notice(notice, message)) => return Some((notice, message)),
                Next::Event(_) => {}
                Next::Outcome(_) => return None,
            }
        }
    }

    /// What it has said already.
    pub(super) fn said(&mut self) -> Vec<(Notice, Message)> {
        let mut said = Vec::new();
        while self.reply.is_ready() {
            match now_or_never(&mut self.reply) {
                Some(Next::Event(Event::Notice(notice, message))) => said.push((notice, message)),
                Some(Next::Event(_)) => {}
                Some(Next::Outcome(_)) | None => break,
            }
        }
        said
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

/// News of a resource as a legacy server would tell it.
pub(super) fn updated(uri: &str) -> Option<Message> {
    let params = serde_json::json!({ "uri": uri });
    let text =
        format!(r#"{{"jsonrpc":"2.0","method":"{}","params":{params}}}"#, Notice::ResourceUpdated.as_str());
    Message::scan(text.into(), &Limits::default()).ok()
}

impl Shared {
    /// Opens a listen, `filter` being a JSON object.
    ///
    /// # Errors
    /// When the server does not acknowledge it, or is known to answer nothing beside one.
    pub(super) async fn listen(
        &self,
        conn: &Conn,
        filter: &str,
        timeout: Duration,
    ) -> Result<Listening, Error> {
        if self.state.lock().beside_listen == Beside::Silent {
            return Err(refusal(conn, Kind::InvalidParams, SILENT));
        }
        let listening = Listening::open(conn, filter, timeout).await?;
        let mut state = self.state.lock();
        if state.beside_listen == Beside::Unopened {
            state.beside_listen = Beside::Untried;
        }
        Ok(listening)
    }

    /// The outcome of a request of our own that goes out beside a listen. It fails early on a server that turns out to
    /// answer nothing there.
    pub(in crate::upstream) async fn ask_beside_listen(
        &self,
        conn: &Conn,
        asked: impl Future<Output = Outcome>,
    ) -> Outcome {
        let before = self.state.lock().beside_listen;
        if conn.spec().era == Era::Legacy || matches!(before, Beside::Answers | Beside::Silent) {
            return asked.await;
        }
        let mut asked = pin!(asked);
        let outcome = tokio::select! {
            biased;
            outcome = asked.as_mut() => outcome,
            () = silence(conn) => match self.is_silent_beside_listen() {
                true => return Outcome::Failed(refusal(conn, Kind::Timeout, SILENT)),
                false => return asked.await, // nothing is open: it is slow
            },
        };
        if before == Beside::Untried && !matches!(outcome, Outcome::Failed(_)) {
            self.state.lock().beside_listen = Beside::Answers;
        }
        outcome
    }

    fn is_silent_beside_listen(&self) -> bool {
        {
            let mut state = self.state.lock();
            if state.beside_listen != Beside::Untried {
                return false;
            }
            state.beside_listen = Beside::Silent;
        }
        tracing::warn!(
            server = %self.server.name,
            "server {SILENT}, so none is opened any more and its changes are not heard; `era: legacy` brings them"
        );
        true
    }

    /// Hears of changed lists on a modern control connection, as long as it lasts.
    pub(in crate::upstream) fn follow_lists(&self, conn: &Arc<Conn>) {
        let Some(this) = self.this().filter(|_| conn.spec().era == Era::Modern) else { return };
        let conn = conn.clone();
        self.around.tasks.spawn(async move {
            tokio::select! {
                () = conn.ending() => {}
                () = this.hear_of_lists(&conn) => {}
            }
        });
    }

    /// Until the server shows that it does not know how.
    async fn hear_of_lists(&self, conn: &Conn) {
        let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_LAST, self.seed);
        let mut is_again = false;
        loop {
            let began = Instant::now();
            match self.listen(conn, ALL_LISTS, self.config.handshake_timeout).await {
                Ok(mut listening) => {
                    if is_again {
                        // What changed in between was told to nobody.
                        self.changes.send_modify(|changes| changes.lost += 1);
                    }
                    while let Some((notice, _)) = listening.next().await {
                        self.changes.send_if_modified(|changes| changes.count(notice));
                    }
                    is_again = true;
                }
                Err(error) if error.kind == Kind::InvalidParams => {
                    return tracing::info!(server = %self.server.name, "server does not tell of changed lists");
                }
                Err(_) => {}
            }
            if began.elapsed() >= LASTED {
                backoff.reset();
            }
            sleep(backoff.next()).await;
        }
    }
}

/// Over when a server has answered nothing for a time, not even what takes no work.
async fn silence(conn: &Conn) {
    sleep(SILENCE).await;
    let params = modern::own_params("", all_capabilities(Era::Modern));
    match conn.ask(Method::Discover, &params, SILENCE).await {
        Outcome::Failed(error) if error.kind == Kind::Timeout => {}
        _ => pending().await,
    }
}

/// After the server's name.
const SILENT: &str = "answers nothing while a listen is open";
/// Twice this is well under the time in which names are given out, and any server has written down who it is by then.
const SILENCE: Duration = Duration::from_secs(5);
const ALL_LISTS: &str = r#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}"#;
/// A listen has no deadline. Ten years, because time cannot be added to for ever.
const NO_END: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The first pause before what ended is opened again: at once, but for a server that ends it at once.
pub(super) const AGAIN_FIRST: Duration = Duration::from_millis(200);
/// The longest pause. 15 s: as between attempts to list a server.
pub(super) const AGAIN_LAST: Duration = Duration::from_secs(15);
/// What held this long was no failure.
pub(super) const LASTED: Duration = Duration::from_secs(30);
