//! Ids of servers' tasks as clients see them, those of 2025-11-25 and of the tasks extension:
//! `<slug>.<seal>.<the server's own id>`.
//!
//! The slug leads back to the server, and the seal binds the id to the session that it was shown to, or to the
//! principal without one, so that no table is needed: what others were shown, and what was guessed, is unknown.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use wire::Message;
use wire::limits::Limits;
use wire::mcp::method::{Method, Notice};
use wire::object::Object;
use wire::span::Span;
use wire::splice::{Parts, Splice};

use super::exclusive_client::ExclusiveClient;
use super::pool::PoolInner;
use crate::call::{Affinity, Call, Outcome, Rename, ServerName, SessionHandle};
use crate::error::{Blame, Error, Kind};

/// Makes and reads the ids of one server.
pub(super) struct TaskIds {
    server: ServerName,
    /// Keyed anew in each process, as sessions are numbered anew.
    sealing: RandomState,
    limits: Limits,
}

/// Whose tasks they are.
#[derive(Clone, Copy, Hash)]
pub(super) enum Owner<'a> {
    /// A legacy session's.
    Session(u64),
    /// A client's without a session.
    Principal(&'a str),
}

impl<'a> Owner<'a> {
    fn of(call: &'a Call) -> Self {
        match &call.affinity {
            Affinity::Session(session) => Self::Session(session.number),
            Affinity::Principal => Self::Principal(call.caller.principal()),
        }
    }
}

/// The slug in an id that a client was shown.
pub fn server_of(id: &str) -> Option<&str> {
    id.split_once('.').map(|(slug, _)| slug)
}

impl TaskIds {
    pub(super) fn new(server: ServerName, limits: Limits) -> Self {
        Self { server, sealing: RandomState::new(), limits }
    }

    fn prefix(&self, owner: Owner<'_>, own: &str) -> String {
        format!("{}.{:016x}.", self.server, self.sealing.hash_one((owner, own)))
    }

    /// The server's own id; `None` unless it was shown to this owner.
    fn own<'i>(&self, owner: Owner<'_>, id: &'i str) -> Option<&'i str> {
        let (_, rest) = id.split_once('.')?;
        let (_, own) = rest.split_once('.')?;
        (id.strip_suffix(own)? == self.prefix(owner, own)).then_some(own)
    }

    /// Puts the server's own id into a call that names a task.
    ///
    /// # Errors
    /// When this client knows of no such task.
    // MCP 2025-11-25 basic/utilities/tasks, Error Handling: −32602 for an unknown task; so has the extension
    pub(super) fn resolve(&self, call: &mut Call) -> Result<(), Error> {
        let of_tasks = [Method::TasksGet, Method::TasksResult, Method::TasksUpdate, Method::TasksCancel];
        if !of_tasks.contains(&call.method) {
            return Ok(());
        }
        let unknown = || Error::new(Kind::InvalidParams, Blame::Downstream, "this client has no such task");
        let value = call.request.param("taskId").ok_or_else(unknown)?;
        let id = value.as_str().ok_or_else(unknown)?;
        let own = self.own(Owner::of(call), &id).ok_or_else(unknown)?;
        let token = serde_json::Value::from(own).to_string().into();
        call.rename = Some(Rename { span: value.span(), token });
        Ok(())
    }

    /// Makes the ids in the result of a call those that its client may see.
    pub(super) fn show_result(&self, splice: &mut Splice, call: &Call, answer: &Message) {
        let Affinity::Session(session) = &call.affinity else { return };
        let (bytes, session) = (answer.bytes(), Owner::Session(session.number));
        let Some(result) = answer.result_object() else { return };
        match call.method {
            Method::ToolsCall if call.request.param("task").is_some() => {
                if let Some(task) = result.get(bytes, "task") {
                    self.show_within(splice, session, bytes, task);
                }
            }
            Method::TasksGet | Method::TasksCancel => self.show(splice, session, bytes, result),
            _ => {}
        }
        self.show_related(splice, session, answer);
    }

    /// The result of a modern server with the id of its task as the client may see it: of a call that became one, or
    /// of a look at it.
    // MCP extension tasks, CreateTaskResult and tasks/get
    pub(super) fn show_task(&self, call: &Call, answer: &Message) -> Option<Parts> {
        let result = answer.result_object()?;
        let mut splice = Splice::within(answer.bytes().clone(), result.span());
        self.show(&mut splice, Owner::of(call), answer.bytes(), result);
        Some(splice.finish())
    }

    /// Makes the ids in what a server says or asks those that its client may see. Only sessions have such tasks.
    pub(super) fn show_to(
        &self,
        tenant: &ExclusiveClient,
        notice: Option<Notice>,
        message: Message,
    ) -> Message {
        match tenant.session() {
            Some(session) => self.show_message(session.number, notice, message),
            None => message,
        }
    }

    pub(super) fn show_message(&self, session: u64, notice: Option<Notice>, message: Message) -> Message {
        let names_task = notice == Some(Notice::TaskStatus);
        if !names_task && message.meta_value(RELATED).is_none() {
            return message;
        }
        let (mut splice, session) = (Splice::new(message.bytes().clone()), Owner::Session(session));
        if let Some(params) = message.params().filter(|_| names_task) {
            self.show(&mut splice, session, message.bytes(), params);
        }
        self.show_related(&mut splice, session, &message);
        Message::scan(splice.finish().into_bytes(), &self.limits).unwrap_or(message)
    }

    /// Puts the server's own id into a client's answer to a question that came with a task.
    pub(super) fn own_in_answer(&self, session: u64, answer: Bytes) -> Bytes {
        let within = |span: Span, key: &str| {
            let object = Object::scan(&answer, span, &self.limits).ok()?;
            object.get(&answer, key)
        };
        let whole = Span { start: 0, end: answer.len() };
        let task = within(whole, "_meta").and_then(|meta| within(meta, RELATED));
        let Some(span) = task.and_then(|task| within(task, "taskId")) else { return answer };
        let id = serde_json::from_slice::<String>(span.of(&answer)).unwrap_or_default();
        let Some(own) = self.own(Owner::Session(session), &id) else { return answer };
        let mut splice = Splice::new(answer.clone());
        splice.replace(span, serde_json::Value::from(own).to_string());
        splice.finish().into_bytes()
    }

    fn show_related(&self, splice: &mut Splice, owner: Owner<'_>, message: &Message) {
        if let Some(related) = message.meta_value(RELATED) {
            self.show_within(splice, owner, message.bytes(), related.span());
        }
    }

    fn show_within(&self, splice: &mut Splice, owner: Owner<'_>, bytes: &Bytes, object: Span) {
        if let Ok(object) = Object::scan(bytes, object, &self.limits) {
            self.show(splice, owner, bytes, &object);
        }
    }

    fn show(&self, splice: &mut Splice, owner: Owner<'_>, bytes: &Bytes, object: &Object) {
        let Some(span) = object.get(bytes, "taskId") else { return };
        if let Ok(own) = serde_json::from_slice::<String>(span.of(bytes)) {
            splice.insert(span.start + 1, self.prefix(owner, &own)); // behind the quote
        }
    }
}

impl PoolInner {
    /// The tasks of a session, each as an object; none where the server has no list of them.
    pub(super) fn list_tasks(
        &self,
        session: &SessionHandle,
    ) -> Pin<Box<dyn Future<Output = Vec<Bytes>> + Send + 'static>> {
        let conn = self.session_conn(session).filter(|conn| conn.can("tasks"));
        let (Some(conn), Some(this), session) = (conn, self.this(), session.number) else {
            return Box::pin(std::future::ready(Vec::new()));
        };
        Box::pin(async move {
            let (mut tasks, mut params) = (Vec::new(), String::from("{}"));
            for _ in 0..this.config.list_pages {
                let asked = conn.ask(Method::TasksList, &params, this.config.handshake_timeout).await;
                let Outcome::Result(page) = asked else { break };
                let page = page.into_bytes();
                let Ok(page) = serde_json::from_slice::<Page<'_>>(&page) else { break };
                for task in page.tasks {
                    let bytes = Bytes::copy_from_slice(task.get().as_bytes());
                    let mut splice = Splice::new(bytes.clone());
                    this.task_ids.show_within(
                        &mut splice,
                        Owner::Session(session),
                        &bytes,
                        Span { start: 0, end: bytes.len() },
                    );
                    tasks.push(splice.finish().into_bytes());
                }
                let Some(cursor) = page.next_cursor else { break };
                params = format!(r#"{{"cursor":{}}}"#, serde_json::Value::from(cursor));
            }
            tasks
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(borrow)]
    tasks: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

// MCP 2025-11-25 basic/utilities/tasks, Related Task
const RELATED: &str = "io.modelcontextprotocol/related-task";

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(server: &str) -> TaskIds {
        TaskIds::new(ServerName::parse(server).unwrap(), Limits::default())
    }

    #[test]
    fn an_id_leads_back_for_its_session_alone() {
        let ids = ids("a-1");
        for own in ["1", "", "x.y.z", "\u{e9}\""] {
            let shown = format!("{}{own}", ids.prefix(Owner::Session(7), own));
            assert_eq!(server_of(&shown), Some("a-1"));
            assert_eq!(ids.own(Owner::Session(7), &shown), Some(own));
            assert_eq!(ids.own(Owner::Session(8), &shown), None);
            assert_eq!(ids.own(Owner::Principal("7"), &shown), None);
            assert_eq!(self::ids("a-1").own(Owner::Session(7), &shown), None, "another process");
            assert_eq!(ids.own(Owner::Session(7), &format!("{shown}0")), None);
        }
        for guessed in ["", "1", "a-1.1", "a-1..1", "a-1.0000000000000000.1"] {
            assert_eq!(ids.own(Owner::Session(7), guessed), None);
        }
    }
}
