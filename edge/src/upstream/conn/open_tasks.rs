//! The tasks that calls on one connection became and that have not ended: they run in its process, so an idle
//! connection stays open for them.
// MCP extension tasks; MCP 2025-11-25 basic/utilities/tasks

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use wire::Message;
use wire::mcp::method::Method;

use crate::call::Call;

/// By the server's own id: until when each keeps the connection open.
#[derive(Debug, Default)]
pub(super) struct OpenTasks {
    until: HashMap<String, Instant>,
}

/// What is read of a task in an answer; a legacy server answers a call with it under `task`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Task {
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
    pub(super) fn of(call: &Call, answer: &Message) -> Option<Self> {
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
    /// Notes what an answer says of a task.
    pub(super) fn note(&mut self, task: Task, now: Instant) {
        if task.has_ended() {
            self.until.remove(&task.task_id);
        } else if self.until.len() < TASKS {
            let ttl = task.ttl_ms.or(task.ttl).map_or(HOLD, |ms| Duration::from_millis(ms).min(HOLD));
            self.until.entry(task.task_id).or_insert(now + ttl);
        }
    }

    /// Whether a task may still run; forgets those whose time is over.
    pub(super) fn any(&mut self, now: Instant) -> bool {
        self.until.retain(|_, until| *until > now);
        !self.until.is_empty()
    }
}

/// How long one task keeps an idle connection open at most. 1 h: as long as this gateway keeps tasks of its own.
const HOLD: Duration = Duration::from_secs(60 * 60);
/// Tasks of one connection that are followed; with more it may close when idle. 1,024: as many as a server may have
/// calls.
const TASKS: usize = 1024;
