//! The tasks that calls on one connection became and that have not ended: they run in its process, so an idle
//! connection stays open for them.
// MCP extension tasks; MCP 2025-11-25 basic/utilities/tasks

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use wire::Message;
use wire::mcp::method::Method;

use super::Conn;
use crate::call::Call;
use crate::permit::Bound;

/// By the server's own id: until when each keeps the connection open.
#[derive(Debug, Default)]
pub(super) struct OpenTasks {
    until: HashMap<String, Instant>,
}

/// What is read of a task in an answer; a legacy server answers a call with it under `task`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    task_id: String,
    status: String,
    /// Of 2025-11-25: how long the task is kept, in milliseconds; null is for ever.
    ttl: Option<u64>,
    /// The tasks extension's name for it.
    ttl_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Created {
    task: Task,
}

impl Task {
    /// `None` for an answer without a task.
    fn of(call: &Call, answer: &Message) -> Option<Self> {
        let result = answer.result_object()?;
        let (bytes, whole) = (answer.bytes(), result.span().of(answer.bytes()));
        match call.method {
            // Parsed only where the key is there: nearly all answers are no tasks, and may be large.
            Method::ToolsCall if result.get(bytes, "taskId").is_some() => serde_json::from_slice(whole).ok(),
            Method::ToolsCall if result.get(bytes, "task").is_some() => {
                serde_json::from_slice(whole).ok().map(|Created { task }| task)
            }
            Method::TasksGet | Method::TasksCancel => serde_json::from_slice(whole).ok(),
            _ => None,
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "cancelled")
    }
}

impl OpenTasks {
    /// Notes what an answer says of a task; `false` for one that cannot be followed.
    #[must_use]
    fn note(&mut self, task: Task, now: Instant) -> bool {
        if task.has_ended() {
            self.until.remove(&task.task_id);
            return true;
        }
        if self.until.contains_key(&task.task_id) {
            return true;
        }
        if self.until.len() >= TASKS {
            // `any` is asked of idle connections alone: on a busy one, abandoned tasks would stay for good.
            self.forget_over(now);
        }
        if self.until.len() >= TASKS || task.task_id.len() > ID_BYTES {
            return false;
        }
        let ttl = task.ttl_ms.or(task.ttl).map_or(HOLD, |ms| Duration::from_millis(ms).min(HOLD));
        self.until.insert(task.task_id, now + ttl);
        true
    }

    /// Whether a task may still run; forgets those whose time is over.
    pub(super) fn any(&mut self, now: Instant) -> bool {
        self.forget_over(now);
        !self.until.is_empty()
    }

    fn forget_over(&mut self, now: Instant) {
        self.until.retain(|_, until| *until > now);
    }
}

impl Conn {
    /// Notes what the answer to a call says of a task.
    pub(super) fn note_task(&self, call: &Call, answer: &Message) {
        let Some(task) = Task::of(call, answer) else { return };
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
    use super::*;

    fn task(id: &str, status: &str, ttl_ms: Option<u64>) -> Task {
        Task { task_id: id.to_owned(), status: status.to_owned(), ttl: None, ttl_ms }
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
