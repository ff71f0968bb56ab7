//! What a legacy client wants of all servers of its session at once, and of the one that runs a task.

use bytes::Bytes;
use wire::mcp::level::Level;
use wire::splice::Parts;

use super::Shared;
use super::lineup::Entry;
use super::route::{Sight, Target, has_cursor};
use crate::call::{Affinity, Call, Outcome, Reply, reply};
use crate::error::{Blame, Error, Kind};
use crate::upstream::server_of;

impl Shared {
    /// Takes a level for the session. Its connections hear of it; none is opened for it, for a new one is told
    /// when it is.
    // MCP 2025-11-25 server/utilities/logging, Setting Log Level
    pub(super) fn set_level(&self, call: &Call, sight: &Sight<'_>) -> Reply {
        let Affinity::Session(session) = &call.affinity else { return Reply::failed(of_sessions()) };
        let level = call.request.param("level").and_then(|level| Level::parse(&level.as_str()?));
        let Some(level) = level else {
            let message =
                "params.level must be one of debug, info, notice, warning, error, critical, alert, emergency";
            return Reply::failed(Error::new(Kind::InvalidParams, Blame::Downstream, message));
        };
        session.settings.change(|wished| wished.level = Some(level));
        for entry in within(sight) {
            entry.server.tell_level(session);
        }
        Reply::ready(Outcome::Result(Bytes::from_static(br#"{"resultType":"complete"}"#).into()))
    }

    /// The tasks of the session on all servers, at once: no cursor is ever given out.
    // MCP 2025-11-25 basic/utilities/tasks, Listing Tasks
    pub(super) fn list_tasks(&self, call: &Call, sight: &Sight<'_>) -> Reply {
        let Affinity::Session(session) = &call.affinity else { return Reply::failed(of_sessions()) };
        if has_cursor(call) {
            let message = "unknown cursor; list again without one";
            return Reply::failed(Error::new(Kind::InvalidParams, Blame::Downstream, message));
        }
        let (responder, answer) = reply();
        let lists: Vec<_> = within(sight).map(|entry| entry.server.tasks(session)).collect();
        self.drain.spawn(async move {
            // All at once would be no faster: only servers with tasks of this session are asked.
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

    /// The server whose task it is; whether it is this client's is for that server's connections to say.
    pub(super) fn task(call: &Call, sight: &Sight<'_>) -> Result<Target, Error> {
        let id = call.request.param("taskId").and_then(|id| id.as_str());
        let slug = id.as_deref().and_then(server_of);
        let server = slug.and_then(|slug| sight.catalog.lineup.number(slug));
        match server.filter(|server| sight.only.is_none_or(|only| only == *server)) {
            Some(server) => Ok(Target { server, rename: None }),
            None => Err(Error::new(Kind::InvalidParams, Blame::Downstream, "this client has no such task")),
        }
    }
}

fn within<'c>(sight: &Sight<'c>) -> impl Iterator<Item = &'c Entry> + use<'c> {
    let (only, lineup) = (sight.only, &sight.catalog.lineup);
    let is_in = move |(number, _): &(usize, &Entry)| only.is_none_or(|only| only == *number);
    lineup.iter().filter(is_in).map(|(_, entry)| entry)
}

fn rendered(tasks: &[Bytes]) -> Parts {
    let mut parts = Parts::new();
    parts.push(Bytes::from_static(br#"{"resultType":"complete","tasks":["#));
    for (n, task) in tasks.iter().enumerate() {
        if n > 0 {
            parts.push(Bytes::from_static(b","));
        }
        parts.push(task.clone());
    }
    parts.push(Bytes::from_static(b"]}"));
    parts
}

/// A client without a session has its level in each request, and another kind of tasks.
fn of_sessions() -> Error {
    Error::new(Kind::UnknownMethod, Blame::Downstream, "this method belongs to revisions with a session")
}
