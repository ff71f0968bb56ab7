//! Sends the settings of a legacy session to its connection, and again to the connection that replaces it; also that its
//! client's roots changed.

use std::time::Duration;

use tokio::time::Instant;
use wire::mcp::method::{Method, Notice};

use super::conn::Conn;
use super::facts::Facts;
use super::pool::PoolInner;
use super::session_settings::level_params;
use crate::call::{Outcome, SessionHandle, Settings};
use crate::permit::Bound;

impl PoolInner {
    /// Sends the session's log level to the connection that it has open, if any, ahead of all later calls.
    pub(super) fn send_level(&self, session: &SessionHandle) {
        let Some(level) = session.settings.level() else { return };
        let Some(conn) = self.session_conn(session).filter(|conn| conn.can("logging")) else { return };
        let timeout = self.config.handshake_timeout;
        if let Ok(reply) = conn.request(Method::SetLevel, &level_params(level), timeout) {
            // The answer does not matter, but dropping the reply would cancel the request.
            self.deps.tasks.spawn(tokio::time::timeout(timeout, reply.outcome()));
        }
    }

    /// Notifies the connection that the session has open, if any, that the roots of its client changed.
    pub(super) fn send_roots_changed(&self, session: &SessionHandle) {
        if let Some(conn) = self.session_conn(session) {
            conn.roots_changed();
        }
    }

    /// Sends the session's settings to a new connection, before the first call; returns what was sent.
    pub(super) async fn replay_settings(
        &self,
        conn: &Conn,
        session: &SessionHandle,
        facts: &Facts,
    ) -> Settings {
        self.sessions.note(session); // before its subscriptions are read
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

    /// A session's connection takes calls. Sends again what changed since `sent`, the level and that the roots did; if the
    /// session had another process here before, notifies its client that the lists may have changed.
    pub(super) fn session_connected(&self, session: &SessionHandle, facts: &Facts, sent: &Settings) {
        let (level, roots_changes, is_first) = session.settings.change(|wished| {
            (wished.level, wished.roots_changes, wished.servers.insert(self.server.name.clone()))
        });
        if roots_changes != sent.roots_changes {
            self.send_roots_changed(session);
        }
        if level != sent.level {
            self.send_level(session);
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
            // The client is notified in any case; the lists it reads then must be those of the new process.
            self.announced(session, notice);
            if !session.tell_changed(notice) {
                self.deps.environment.permits.metrics().hit(Bound::EventBytes);
            }
        }
    }
}
