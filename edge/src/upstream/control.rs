//! Facts, lists and list changes of a server, over the control connection, which belongs to no client. This is what
//! the catalog uses of a pool.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use wire::mcp::list::{Item, ListPage};
use wire::mcp::method::{Method, Notice};
use wire::{Era, code};

use super::conn::{Conn, unneeded};
use super::facts::{Facts, all_capabilities};
use super::key::{Key, Target};
use super::modern;
use super::pool::{Pool, PoolInner};
use crate::call::{List, Listing, Outcome, SessionHandle};
use crate::error::{Error, Kind};

/// Counts of events on the control connection. A count that changed means that something should be listed again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// `notifications/tools/list_changed`
    pub tools: u64,
    /// `notifications/prompts/list_changed`
    pub prompts: u64,
    /// `notifications/resources/list_changed`
    pub resources: u64,
    /// How many control connections were opened.
    pub connected: u64,
    /// How often notifications may have been missed, because the server ended a control connection or a listen: what
    /// comes back may be another version of it.
    pub lost: u64,
    /// Whether the server is down.
    pub down: bool,
}

impl Changes {
    /// Counts a notification of a changed list; `false` for any other notification.
    pub(super) fn count(&mut self, notice: Notice) -> bool {
        match notice {
            Notice::ToolsChanged => self.tools += 1,
            Notice::PromptsChanged => self.prompts += 1,
            Notice::ResourcesChanged => self.resources += 1,
            _ => return false,
        }
        true
    }
}

impl Pool {
    /// What the server declared in its handshake; opens the control connection if there is none.
    ///
    /// # Errors
    /// When the server cannot be reached, or its handshake fails.
    pub async fn facts(&self) -> Result<Arc<Facts>, Error> {
        self.inner().facts().await
    }

    /// All items of a list, from all of its pages. Empty if the server has no such list.
    ///
    /// # Errors
    /// When the server cannot be reached, or its list cannot be read to the end.
    pub async fn list(&self, list: List) -> Result<Vec<Item>, Error> {
        let inner = self.inner();
        let (conn, facts) = inner.control().await?;
        if !facts.can(list.capability()) {
            return Ok(Vec::new());
        }
        inner.pages(&conn, list.method(), list.key()).await
    }

    /// Sessions whose own connections announced a changed list, each once until its lists were read. Only the first
    /// caller gets the receiver.
    pub fn announcing(&self) -> Option<mpsc::UnboundedReceiver<SessionHandle>> {
        self.announcing.lock().take()
    }

    /// Changes of the server's lists and of its connection.
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.inner().changes.subscribe()
    }
}

impl PoolInner {
    pub(super) async fn facts(&self) -> Result<Arc<Facts>, Error> {
        self.control().await.map(|(_, facts)| facts)
    }

    async fn control(&self) -> Result<(Arc<Conn>, Arc<Facts>), Error> {
        let conn = self.connection(&Target::shared(Key::Control)).await?;
        let facts = self.state.lock().facts.clone().ok_or_else(|| self.busy())?;
        Ok((conn, facts))
    }

    /// A list as the session's open connection shows it; waits for a connection that is being opened. `None` without
    /// one.
    pub(super) fn list_of(&self, session: &SessionHandle, list: List) -> Listing {
        let (this, session) = (self.this(), session.clone());
        Box::pin(async move {
            let this = this?;
            let opening = this.state.lock().connections.opening(&Key::Session(session.number));
            if let Some(mut opening) = opening.filter(|_| this.session_conn(&session).is_none()) {
                // `session_conn` shows how it ended.
                let _ = opening.wait_for(Option::is_some).await;
            }
            let conn = this.session_conn(&session)?;
            if !conn.can(list.capability()) {
                return Some(Ok(Vec::new()));
            }
            Some(this.pages(&conn, list.method(), list.key()).await)
        })
    }

    /// Passes on to the router that a session's own connection announced a changed list, which concerns that session
    /// alone.
    pub(super) fn announced(&self, session: &SessionHandle, notice: Notice) {
        // The receiver of a server that is no longer configured is closed, and its name may be another server's.
        if !self.announce.is_closed()
            && session.pending_list_changes.note(&self.server.name, notice)
            && self.announce.send(session.clone()).is_err()
        {
            session.pending_list_changes.forget(&self.server.name);
        }
    }

    /// The items that all pages of a list have under `key`, which are slices of the pages. Empty if the server does not know
    /// the method.
    // MCP 2025-11-25 server/utilities/pagination
    pub(super) async fn pages(&self, conn: &Conn, method: Method, key: &str) -> Result<Vec<Item>, Error> {
        let (mut items, mut seen, mut cursor) = (Vec::new(), HashSet::new(), None::<String>);
        let (mut bytes, most) = (0, self.config.list_bytes);
        let (server, name) = (&self.server.name, method.as_str());
        for _ in 0..self.config.list_pages {
            let Some(result) = self.page(conn, method, cursor.as_deref()).await? else { return Ok(items) };
            let page = ListPage::scan(&result, key, &self.config.limits)
                .map_err(|error| self.protocol(&format!("its answer to {name} cannot be read: {error}")))?;
            if page.left_out > 0 {
                let left_out = page.left_out;
                tracing::warn!(%server, method = name, left_out, "items of a list left out: no name or id, or not an object");
            }
            let mut room = |item: &Item| {
                bytes += item.bytes();
                bytes <= most
            };
            let (before, on_page) = (items.len(), page.items.len());
            items.extend(page.items.into_iter().take_while(|item| room(item)));
            if items.len() < before + on_page {
                tracing::warn!(%server, method = name, most_bytes = most, "list is too long: items left out from its end");
                return Ok(items);
            }
            match page.next_cursor {
                None => return Ok(items),
                Some(next) if !seen.insert(next.clone()) => {
                    tracing::warn!(%server, method = name, "list goes in circles: read to where a cursor came again");
                    return Ok(items);
                }
                next => cursor = next,
            }
        }
        let pages = self.config.list_pages;
        tracing::warn!(%server, method = name, pages, "list has more pages than are read: the others are left out");
        Ok(items)
    }

    /// One page; `None` if the server does not know the method.
    async fn page(&self, conn: &Conn, method: Method, cursor: Option<&str>) -> Result<Option<Bytes>, Error> {
        let cursor = cursor.map(|cursor| serde_json::to_string(cursor).unwrap_or_default());
        let member = cursor.map(|token| format!(r#""cursor":{token}"#)).unwrap_or_default();
        let params = match conn.spec().era {
            Era::Legacy => format!("{{{member}}}"),
            Era::Modern => {
                let comma = if member.is_empty() { "" } else { "," };
                modern::own_params(&format!("{member}{comma}"), all_capabilities(Era::Modern))
            }
        };
        // A page may take as long as a handshake.
        let asked = conn.ask(method, &params, self.config.handshake_timeout);
        match self.ask_during_listen(conn, asked).await {
            Outcome::Result(result) => Ok(Some(result.into_bytes())),
            Outcome::Refused(error) if is_unknown_method(&error) => Ok(None),
            Outcome::Refused(error) => {
                let (method, code) = (method.as_str(), code::of_error(&error));
                let code = code.map(|code| format!(" with code {code}")).unwrap_or_default();
                Err(self.protocol(&format!("it refused {method}{code}")))
            }
            Outcome::InputRequired(_) => {
                Err(self.protocol(&format!("it wants input for {}", method.as_str())))
            }
            Outcome::Failed(error) => {
                // A stuck process would be asked again and again, so the next list gets another one. But a session's
                // process may be busy with a call.
                if error.kind == Kind::Timeout && conn.spec().is_control {
                    conn.close(&unneeded());
                }
                Err(error)
            }
        }
    }
}

fn is_unknown_method(error: &Bytes) -> bool {
    code::of_error(error) == Some(i64::from(code::METHOD_NOT_FOUND))
}
