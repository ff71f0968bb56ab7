//! The tasks that calls on one connection became and that have not ended: they run in its process, so an idle
//! connection stays open for them.
// MCP extension tasks; MCP 2025-11-25 basic/utilities/tasks

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use wire::Message;
use wire::envelope::Value;
use wire::limits::Limits;
use wire::mcp::method::Method;
use wire::object::Object;

use super::Conn;
use crate::call::Call;
use crate::permit::Bound;

/// By the server's own id: until when each keeps the connection open.
#[derive(Debug, Default)]
pub(super) struct OpenTasks {
    until: HashMap<String, Instant>,
}

/// What is read of a task in an answer; a legacy server answers a call with it under `task`.
struct Task<'a> {
    id: Cow<'a, str>,
    status: Cow<'a, str>,
    /// How long the task is kept, in milliseconds; none for one that is kept for ever.
    ttl: Option<u64>,
}

impl<'a> Task<'a> {
    /// `None` for an answer without a task.
    fn of(call: &Call, answer: &'a Message, limits: &Limits) -> Option<Self> {
        let (bytes, result) = (answer.bytes(), answer.result_object()?);
        match call.method {
            Method::ToolsCall if result.get(bytes, "taskId").is_none() => {
                Self::read(bytes, &Object::scan(bytes, result.get(bytes, "task")?, limits).ok()?)
            }
            Method::ToolsCall | Method::TasksGet | Method::TasksCancel => Self::read(bytes, result),
            _ => None,
        }
    }

    /// Reads these members alone: an answer to tasks/get has the whole result of the task in it.
    fn read(bytes: &'a [u8], task: &Object) -> Option<Self> {
        let value = |key| task.get(bytes, key).map(|span| Value::new(bytes, span));
        let (id, status) = (value("taskId")?.as_str()?, value("status")?.as_str()?);
        // The tasks extension's name for it, and that of 2025-11-25.
        let ttl = value("ttlMs").or_else(|| value("ttl")).and_then(|ttl| ttl.as_u64());
        Some(Self { id, status, ttl })
    }

    fn has_ended(&self) -> bool {
        matches!(&*self.status, "completed" | "failed" | "cancelled")
    }
}

impl OpenTasks {
    /// Notes what an answer says of a task; `false` for one that cannot be followed.
    #[must_use]
    fn note(&mut self, task: Task<'_>, now: Instant) -> bool {
        if task.has_ended() {
            self.until.remove(&*task.id);
            return true;
        }
        if self.until.contains_key(&*task.id) {
            return true;
        }
        if self.until.len() >= TASKS {
            // `any` is asked of idle connections alone: on a busy one, abandoned tasks would stay for good.
            self.until.retain(|_, until| *until > now);
        }
        if self.until.len() >= TASKS || task.id.len() > ID_BYTES {
            return false;
        }
        let hold = task.ttl.map_or(HOLD, |ms| Duration::from_millis(ms).min(HOLD));
        self.until.insert(task.id.into_owned(), now + hold);
        true
    }

    /// Whether a task may still run; forgets those whose time is over.
    pub(super) fn any(&mut self, now: Instant) -> bool {
        self.until.retain(|_, until| *until > now);
        !self.until.is_empty()
    }
}

impl Conn {
    /// Notes what the answer to a call says of a task.
    pub(super) fn note_task(&self, call: &Call, answer: &Message) {
        let Some(task) = Task::of(call, answer, &self.context.config.limits) else { return };
        let is_followed = self.state.lock().open_tasks.note(task, Instant::now());
        if !is_followed {
            self.context.permits.metrics().hit(Bound::ServerTasks);
        }
    }
}

/// How long one task keeps an idle connection open at most. 1 h: as long as this gateway keeps tasks of its own.
const HOLD: Duration = Duration::from_secs(60 * 60);
/// Tasks of one connection that are followed; with more it may close when idle. 1,024: as many as a server may have
/// calls.
const TASKS: usize = 1024;
/// The longest id of a task that is followed. 1 KiB: servers make UUIDs, and 1,024 ids take 1 MiB at most.
const ID_BYTES: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use wire::span::Span;

    use super::*;

    fn task<'a>(id: &'a str, status: &'a str, ttl: Option<u64>) -> Task<'a> {
        Task { id: id.into(), status: status.into(), ttl }
    }

    #[test]
    fn a_task_is_read_from_its_members_alone() {
        let read = |json: &str| {
            let (bytes, limits) = (json.as_bytes(), Limits::default());
            let object = Object::scan(bytes, Span { start: 0, end: bytes.len() }, &limits).unwrap();
            Task::read(bytes, &object).map(|task| (task.id.into_owned(), task.status.into_owned(), task.ttl))
        };
        let task = |id: &str, ttl| Some((id.to_owned(), "working".to_owned(), ttl));
        assert_eq!(
            read(r#"{"taskId":"a","status":"working","ttlMs":5,"result":{"ttl":1}}"#),
            task("a", Some(5))
        );
        assert_eq!(read(r#"{"status":"working","ttl":7,"taskId":"\u0061"}"#), task("a", Some(7)));
        assert_eq!(read(r#"{"taskId":"a","status":"working","ttl":null}"#), task("a", None));
        assert_eq!(read(r#"{"taskId":"a","status":"working","ttl":-1}"#), task("a", None), "the bound holds");
        assert_eq!(read(r#"{"taskId":"a"}"#), None);
        assert_eq!(read(r#"{"taskId":1,"status":"working"}"#), None);
    }

    #[test]
    fn tasks_are_bounded_and_those_that_are_over_make_room() {
        let (mut tasks, start) = (OpenTasks::default(), Instant::now());
        let minute = Duration::from_secs(60);
        assert!(tasks.note(task("long", "working", None), start));
        for n in 1..TASKS {
            assert!(tasks.note(task(&n.to_string(), "working", Some(60_000)), start), "{n}");
        }
        assert!(!tasks.note(task("more", "working", None), start), "full");
        assert!(tasks.note(task("1", "working", None), start), "known, and still followed");
        assert!(tasks.note(task("more", "completed", None), start), "nothing to follow");
        assert_eq!(tasks.until.len(), TASKS);
        assert!(tasks.note(task("1", "failed", None), start));
        assert_eq!(tasks.until.len(), TASKS - 1);
        assert!(tasks.note(task("more", "working", None), start), "one has ended");

        assert!(tasks.note(task("later", "working", None), start + minute), "abandoned tasks are over");
        assert_eq!(tasks.until.len(), 3, "long, more, later");
        assert!(tasks.any(start + HOLD) && !tasks.any(start + HOLD + minute));
    }

    #[test]
    fn an_id_that_is_too_long_is_not_kept() {
        let (mut tasks, now) = (OpenTasks::default(), Instant::now());
        assert!(tasks.note(task(&"i".repeat(ID_BYTES), "working", None), now));
        assert!(!tasks.note(task(&"i".repeat(ID_BYTES + 1), "working", None), now));
        assert_eq!(tasks.until.len(), 1);
    }
}
