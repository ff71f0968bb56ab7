//! Ids of servers' tasks as clients see them, those of 2025-11-25 and of the tasks extension:
//! `<slug>.<seal>.<the server's own id>`.
//!
//! The slug leads back to the server. The seal binds the id to its owner, and to one of several processes that the owner
//! shares with others. So no table is needed: an id that was shown to somebody else, or guessed, is unknown. For the task
//! of a session the seal is a keyed hash of 16 hex digits and the number of the process, because requests of a session
//! reach its replica anyway. For the task of a principal without a session it is a sealed token, which also tells every
//! replica which of them the task's process is connected to.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;

use bytes::Bytes;
use wire::Message;
use wire::limits::Limits;
use wire::mcp::list::Item;
use wire::mcp::method::{Method, Notice};
use wire::object::Object;
use wire::span::Span;
use wire::splice::{Parts, Splice};

use super::exclusive_client::ExclusiveClient;
use super::modern::{COMPLETE, RESULT_TYPE};
use super::pool::PoolInner;
use crate::call::{Affinity, Call, Rename, ServerName, SessionHandle};
use crate::error::{Blame, Error, Kind};
use crate::seal::{self, Home, Sealer};

/// Makes and reads the ids of one server.
pub(super) struct TaskIds {
    server: ServerName,
    /// Keyed anew in each process, as sessions are numbered anew and processes of servers start anew.
    sealing: RandomState,
    sealer: Sealer,
    limits: Limits,
}

/// The ids of the tasks of one process, as its connection shows them.
#[derive(Clone, Copy)]
pub(super) struct ShownIds<'t> {
    ids: &'t TaskIds,
    process: Process,
}

/// The process that a task runs in: the number of its connection, of several that clients share; 0 where the owner has
/// one of its own.
type Process = u64;

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

/// The other replica in whose process the task of that id runs, and the token in the id that says so. `None` for a
/// task of this process or of a session, and for what is no id.
pub fn replica_of<'i>(sealer: &Sealer, id: &'i str) -> Option<(Home, &'i str)> {
    let (_, rest) = id.split_once('.')?;
    let (token, _) = token_and_own(rest)?;
    let home = Home::decode(*sealer.open(KIND, token)?.last_chunk()?);
    (home != sealer.home()).then_some((home, token))
}

/// Splits what follows the slug. A token has one dot in it, behind its version; the server's own id may have any.
fn token_and_own(rest: &str) -> Option<(&str, &str)> {
    let (dot, _) = rest.match_indices('.').nth(1)?;
    let (token, own) = rest.split_at_checked(dot)?;
    Some((token, own.strip_prefix('.')?))
}

impl TaskIds {
    pub(super) fn new(server: ServerName, limits: Limits, sealer: Sealer) -> Self {
        Self { server, sealing: RandomState::new(), sealer, limits }
    }

    /// The ids of tasks in a process that its owner has to itself (`None`), or that is one of several.
    pub(super) fn of_process(&self, shared: Option<u64>) -> ShownIds<'_> {
        ShownIds { ids: self, process: shared.unwrap_or_default() }
    }

    /// Binds a server's own id to its owner and its process.
    fn binding(&self, owner: Owner<'_>, own: &str, process: Process) -> u64 {
        self.sealing.hash_one((owner, own, process))
    }

    fn session_prefix(&self, owner: Owner<'_>, own: &str, process: Process) -> String {
        let binding = self.binding(owner, own, process);
        let process = if process == 0 { String::new() } else { format!("{process:x}") };
        format!("{}.{binding:016x}{process}.", self.server)
    }

    /// What is put before the server's own id; `None` when the system gives out no random numbers.
    fn prefix(&self, owner: Owner<'_>, own: &str, process: Process) -> Option<String> {
        match owner {
            Owner::Session(_) => Some(self.session_prefix(owner, own, process)),
            Owner::Principal(_) => {
                let binding = self.binding(owner, own, process).to_be_bytes();
                let payload = [&binding[..], &process.to_be_bytes(), &self.sealer.home().encode()].concat();
                Some(format!("{}.{}.", self.server, self.sealer.seal(KIND, &payload).ok()?))
            }
        }
    }

    /// The server's own id, and the process; `None` unless it was shown to this owner.
    fn own<'i>(&self, owner: Owner<'_>, id: &'i str) -> Option<(&'i str, Process)> {
        let (slug, rest) = id.split_once('.')?;
        match owner {
            Owner::Session(_) => {
                let (seal, own) = rest.split_once('.')?;
                let (_, process) = seal.split_at_checked(HASH_DIGITS)?;
                let process = if process.is_empty() { 0 } else { u64::from_str_radix(process, 16).ok()? };
                (id.strip_suffix(own)? == self.session_prefix(owner, own, process)).then_some((own, process))
            }
            Owner::Principal(_) => {
                let (token, own) = token_and_own(rest)?;
                let payload = self.sealer.open(KIND, token)?;
                let (binding, payload) = payload.split_first_chunk()?;
                let process = Process::from_be_bytes(*payload.first_chunk()?);
                let is_ours = *binding == self.binding(owner, own, process).to_be_bytes();
                (is_ours && slug == self.server.as_str()).then_some((own, process))
            }
        }
    }

    /// Puts the server's own id into a call that names a task. Returned is the number of the connection that leads to the
    /// task's process, where that is one of several.
    ///
    /// # Errors
    /// When this client has no such task.
    // MCP 2025-11-25 basic/utilities/tasks, Error Handling: −32602 for an unknown task; so has the extension
    pub(super) fn resolve(&self, call: &mut Call) -> Result<Option<u64>, Error> {
        if !OF_TASKS.contains(&call.method) {
            return Ok(None);
        }
        let unknown = || Error::new(Kind::InvalidParams, Blame::Downstream, "this client has no such task");
        let value = call.request.param("taskId").ok_or_else(unknown)?;
        let id = value.as_str().ok_or_else(unknown)?;
        let (own, process) = self.own(Owner::of(call), &id).ok_or_else(unknown)?;
        let token = serde_json::Value::from(own).to_string().into();
        call.rename = Some(Rename { span: value.span(), token });
        Ok(Some(process).filter(|process| *process != 0))
    }

    /// Puts the server's own id into a client's answer to a request that names a task.
    pub(super) fn own_in_answer(&self, session: u64, answer: Bytes) -> Bytes {
        let within = |span: Span, key: &str| {
            let object = Object::scan(&answer, span, &self.limits).ok()?;
            object.get(&answer, key)
        };
        let whole = Span { start: 0, end: answer.len() };
        let task = within(whole, "_meta").and_then(|meta| within(meta, RELATED));
        let Some(span) = task.and_then(|task| within(task, "taskId")) else { return answer };
        let id = serde_json::from_slice::<String>(span.of(&answer)).unwrap_or_default();
        let Some((own, _)) = self.own(Owner::Session(session), &id) else { return answer };
        let mut splice = Splice::new(answer.clone());
        splice.replace(span, serde_json::Value::from(own).to_string());
        splice.finish().into_bytes()
    }
}

impl ShownIds<'_> {
    /// Replaces the server's task ids in the result of a call by those that its client is shown.
    pub(super) fn show_result(self, splice: &mut Splice, call: &Call, answer: &Message) {
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

    /// The result of a modern server with the task id that the client is shown: of a call that became a task, or of
    /// tasks/get.
    // MCP extension tasks, CreateTaskResult and tasks/get
    pub(super) fn show_task(self, call: &Call, answer: &Message) -> Option<Parts> {
        let result = answer.result_object()?;
        let mut splice = Splice::within(answer.bytes().clone(), result.span());
        // No two tokens of a task are alike, and clients compare ids.
        let known = call.request.param("taskId").filter(|_| call.method == Method::TasksGet);
        match (known, result.get(answer.bytes(), "taskId")) {
            (Some(known), Some(span)) => splice.replace(span, Bytes::copy_from_slice(known.raw())),
            _ => self.show(&mut splice, Owner::of(call), answer.bytes(), result),
        }
        if call.method == Method::TasksGet {
            // MCP extension tasks, tasks/get: some servers say "task", or nothing, and clients refuse both.
            splice.object(result).set(RESULT_TYPE, COMPLETE);
        }
        Some(splice.finish())
    }

    /// Makes the ids in what a server says or asks those that its client may see. Only sessions have such tasks.
    pub(super) fn show_to(
        self,
        client: &ExclusiveClient,
        notice: Option<Notice>,
        message: Message,
    ) -> Message {
        match client.session() {
            Some(session) => self.show_message(session.number, notice, message),
            None => message,
        }
    }

    pub(super) fn show_message(self, session: u64, notice: Option<Notice>, message: Message) -> Message {
        let names_task = notice == Some(Notice::TaskStatus);
        if !names_task && message.meta_value(RELATED).is_none() {
            return message;
        }
        let (mut splice, session) = (Splice::new(message.bytes().clone()), Owner::Session(session));
        if let Some(params) = message.params().filter(|_| names_task) {
            self.show(&mut splice, session, message.bytes(), params);
        }
        self.show_related(&mut splice, session, &message);
        Message::scan(splice.finish().into_bytes(), &self.ids.limits).unwrap_or(message)
    }

    fn show_related(self, splice: &mut Splice, owner: Owner<'_>, message: &Message) {
        if let Some(related) = message.meta_value(RELATED) {
            self.show_within(splice, owner, message.bytes(), related.span());
        }
    }

    fn show_within(self, splice: &mut Splice, owner: Owner<'_>, bytes: &Bytes, object: Span) {
        if let Ok(object) = Object::scan(bytes, object, &self.ids.limits) {
            self.show(splice, owner, bytes, &object);
        }
    }

    /// An item of a list of tasks, in memory of its own.
    fn show_item(self, owner: Owner<'_>, task: Item) -> Bytes {
        let task = task.detached();
        let mut splice = Splice::new(task.raw);
        if let Some(prefix) = self.ids.prefix(owner, &task.key, self.process) {
            splice.insert(task.key_span.start + 1, prefix); // behind the quote
        }
        splice.finish().into_bytes()
    }

    fn show(self, splice: &mut Splice, owner: Owner<'_>, bytes: &Bytes, object: &Object) {
        let Some(span) = object.get(bytes, "taskId") else { return };
        let Ok(own) = serde_json::from_slice::<String>(span.of(bytes)) else { return };
        if let Some(prefix) = self.ids.prefix(owner, &own, self.process) {
            splice.insert(span.start + 1, prefix); // behind the quote
        }
    }
}

impl PoolInner {
    /// The tasks of a session, each as an object; none where the server has no list of them. A list that cannot be read to its
    /// end is left out as a whole and named in the log, as other servers' tasks must not be missing for it.
    pub(super) fn list_tasks(
        &self,
        session: &SessionHandle,
    ) -> Pin<Box<dyn Future<Output = Vec<Bytes>> + Send + 'static>> {
        let conn = self.session_conn(session).filter(|conn| conn.can("tasks"));
        let (Some(conn), Some(this), session) = (conn, self.this(), session.number) else {
            return Box::pin(std::future::ready(Vec::new()));
        };
        Box::pin(async move {
            let tasks = this.pages(&conn, Method::TasksList, "tasks").await.unwrap_or_else(|error| {
                let server = &this.server.name;
                tracing::warn!(%server, %error, "tasks of a session left out: their list cannot be read");
                Vec::new()
            });
            let shown = conn.task_ids();
            tasks.into_iter().map(|task| shown.show_item(Owner::Session(session), task)).collect()
        })
    }
}

/// The calls that name a task.
const OF_TASKS: [Method; 4] =
    [Method::TasksGet, Method::TasksResult, Method::TasksUpdate, Method::TasksCancel];

/// The digits of the hash in the id of a session's task; the number of the process follows.
const HASH_DIGITS: usize = 16;
/// The kind of token in the id of a principal's task: a hash of owner, own id and process, the process, and where it is
/// reached.
const KIND: seal::Kind = seal::Kind::new("server-task");

// MCP 2025-11-25 basic/utilities/tasks, Related Task
const RELATED: &str = "io.modelcontextprotocol/related-task";

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(server: &str) -> TaskIds {
        TaskIds::new(ServerName::parse(server).unwrap(), Limits::default(), sealer_at("10.0.0.1:4445"))
    }

    fn sealer_at(address: &str) -> Sealer {
        let (current, home) = ("k".repeat(32).parse().ok(), Home::at(address.parse().unwrap()));
        Sealer::new(&seal::Config { current, home, ..seal::Config::default() }).unwrap()
    }

    #[test]
    fn id_of_a_principal_names_its_replica_and_is_known_to_its_process_alone() {
        let (ids, other) = (ids("a-1"), sealer_at("10.0.0.2:4445"));
        for (own, process) in [("1", 0), ("", 1), ("x.y.z", 255), ("\u{e9}\"", u64::MAX)] {
            let shown = format!("{}{own}", ids.prefix(Owner::Principal("ann"), own, process).unwrap());
            assert_eq!(server_of(&shown), Some("a-1"));
            assert_eq!(ids.own(Owner::Principal("ann"), &shown), Some((own, process)));
            assert_eq!(ids.own(Owner::Principal("bob"), &shown), None);
            assert_eq!(ids.own(Owner::Session(7), &shown), None);
            assert_eq!(ids.own(Owner::Principal("ann"), &format!("{shown}0")), None);
            assert_eq!(ids.own(Owner::Principal("ann"), &shown.replacen("a-1", "a-2", 1)), None);
            assert_eq!(self::ids("a-1").own(Owner::Principal("ann"), &shown), None, "another process");
            let (home, token) = replica_of(&other, &shown).unwrap();
            assert_eq!(home.address(), "10.0.0.1:4445".parse().ok());
            assert!(shown.contains(token) && token.starts_with("v1."));
            assert!(replica_of(&ids.sealer, &shown).is_none(), "it runs here");
        }
        for guessed in ["", "1", "a-1.1", "a-1.v1.1", "a-1.v1.AAAA.1", "a-1.0000000000000000.1"] {
            assert_eq!(ids.own(Owner::Principal("ann"), guessed), None);
            assert!(replica_of(&other, guessed).is_none());
        }
    }

    #[test]
    fn an_id_leads_back_for_its_session_alone() {
        let ids = ids("a-1");
        for (own, process) in [("1", 0), ("", 1), ("x.y.z", 255), ("\u{e9}\"", u64::MAX)] {
            let shown = format!("{}{own}", ids.prefix(Owner::Session(7), own, process).unwrap());
            assert_eq!(server_of(&shown), Some("a-1"));
            assert_eq!(ids.own(Owner::Session(7), &shown), Some((own, process)));
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
