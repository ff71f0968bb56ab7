//! Methods of legacy sessions that concern all servers at once (`logging/setLevel`, `tasks/list`) or the server of a task.

use bytes::Bytes;
use wire::mcp::level::Level;
use wire::splice::Parts;

use super::Shared;
use super::route::{ScopedView, Target, has_cursor};
use super::server_set::{Entry, ServerIndex};
use crate::call::{Affinity, Call, Outcome, Reply, reply};
use crate::error::{Blame, Error, Kind};
use crate::upstream::server_of;

impl Shared {
    /// Sets the log level of the session and sends it on its open connections. A connection that opens later gets it then.
    // MCP 2025-11-25 server/utilities/logging, Setting Log Level
    pub(super) fn set_level(&self, call: &Call, scoped: &ScopedView<'_>) -> Reply {
        let Affinity::Session(session) = &call.affinity else { return Reply::failed(of_sessions()) };
        let level = call.request.param("level").and_then(|level| Level::parse(&level.as_str()?));
        let Some(level) = level else {
            let message =
                "params.level must be one of debug, info, notice, warning, error, critical, alert, emergency";
            return Reply::failed(Error::new(Kind::InvalidParams, Blame::Downstream, message));
        };
        session.settings.change(|wished| wished.level = Some(level));
        for entry in within(scoped) {
            entry.server.tell_level(session);
        }
        Reply::ready(Outcome::Result(Bytes::from_static(br#"{"resultType":"complete"}"#).into()))
    }

    /// Answers with all tasks of the session on all servers: no cursor is ever given out.
    // MCP 2025-11-25 basic/utilities/tasks, Listing Tasks
    pub(super) fn list_tasks(&self, call: &Call, scoped: &ScopedView<'_>) -> Reply {
        let Affinity::Session(session) = &call.affinity else { return Reply::failed(of_sessions()) };
        if has_cursor(call) {
            let message = "unknown cursor; list again without one";
            return Reply::failed(Error::new(Kind::InvalidParams, Blame::Downstream, message));
        }
        let (responder, answer) = reply();
        let lists: Vec<_> = within(scoped).map(|entry| entry.server.tasks(session)).collect();
        self.drain.spawn(async move {
            // Asking in parallel would be no faster: only servers with tasks of this session are asked.
            let merge = async {
                let mut tasks = Vec::new();
                for list in lists {
                    tasks.extend(list.await);
                }
                tasks
            };
            tokio::select! {
                () = responder.cancelled() => {}
                tasks = merge => responder.finish(Outcome::Result(rendered(&tasks))),
            }
        });
        answer
    }

    /// The server of the task. Whether the task is this client's is checked by that server's connections.
    pub(super) fn task(call: &Call, scoped: &ScopedView<'_>) -> Result<Target, Error> {
        let id = call.request.param("taskId").and_then(|id| id.as_str());
        let slug = id.as_deref().and_then(server_of);
        let server = slug.and_then(|slug| scoped.catalog.shown.index_of(slug));
        match server.filter(|server| scoped.only.is_none_or(|only| only == *server)) {
            Some(server) => Ok(Target { server, rename: None }),
            None => Err(Error::new(Kind::InvalidParams, Blame::Downstream, "this client has no such task")),
        }
    }
}

fn within<'c>(scoped: &ScopedView<'c>) -> impl Iterator<Item = &'c Entry> + use<'c> {
    let (only, shown) = (scoped.only, &scoped.catalog.shown);
    let is_in = move |(index, _): &(ServerIndex, &Entry)| only.is_none_or(|only| only == *index);
    shown.iter().filter(is_in).map(|(_, entry)| entry)
}

fn rendered(tasks: &[Bytes]) -> Parts {
    let mut parts = Parts::new();
    parts.push(Bytes::from_static(br#"{"tasks":["#));
    for (n, task) in tasks.iter().enumerate() {
        if n > 0 {
            parts.push(Bytes::from_static(b","));
        }
        parts.push(task.clone());
    }
    parts.push(Bytes::from_static(b"]}"));
    parts
}

/// A client without a session sends its log level with each request, and has another kind of tasks.
fn of_sessions() -> Error {
    Error::new(
        Kind::UnknownMethod,
        Blame::Downstream,
        "this method exists only in protocol revisions with sessions",
    )
}
