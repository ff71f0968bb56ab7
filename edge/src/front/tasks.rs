//! Slow calls that become tasks: the client gets a handle, and fetches the result when it is there. A connection that
//! breaks meanwhile loses nothing.
//!
//! ```text
//! call ──`tasks.after` without an outcome──▶ working ◀──▶ input_required
//!                                               │
//!                                               ├──▶ completed │ failed     (kept until `tasks.age`)
//!                                               └──▶ cancelled              (by the client, by age)
//! ```
//! Guarantees: only for a client that says in the very request that it knows tasks; a task is its principal's alone,
//! under an id that nobody can guess; tasks are bounded in number and age. What is not here: tasks of servers
//! (`upstream/tasks`).
// MCP extension io.modelcontextprotocol/tasks

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use prometheus_client::metrics::gauge::Gauge;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::splice::Parts;

use super::inputs::{Answers, Inputs};
use super::reply::Manner;
use super::rounds::{Rounds, Terms, Turn};
use super::timestamp::timestamp;
use crate::call::{Caller, Capabilities, Client, Event, Next, Outcome, Reply, ServerName};
use crate::error::{Blame, Error, Kind};
use crate::ops::drain::DrainWatch;
use crate::permit::{self, Bound};
use crate::seal::Sealer;

/// When calls become tasks, and how long those are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a call may take before it becomes a task; `None`: no call does.
    pub after: Option<Duration>,
    /// How long a task is kept from its start on. 1 h: as long as any call may take.
    pub age: Duration,
    /// Tasks at a time. 1,000: beyond that calls stay calls.
    pub tasks: usize,
    /// Bytes of the results of tasks that have ended, all together. 64 MiB: a quarter of what calls on their way may
    /// hold, which these must not take for an hour.
    pub result_bytes: usize,
    /// How often a client should ask for one. 2 s: soon enough for a person who waits.
    pub poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            after: None,
            age: Duration::from_secs(3600),
            tasks: 1000,
            result_bytes: 64 << 20,
            poll: Duration::from_secs(2),
        }
    }
}

/// The tasks of this process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    sealer: Sealer,
    refusals: permit::Metrics,
    count: Gauge,
    drain: DrainWatch,
    tasks: Mutex<HashMap<Box<str>, Arc<Task>>>,
    kept: Arc<AtomicUsize>,
}

struct Task {
    caller: Caller,
    scope: Option<ServerName>,
    created: SystemTime,
    expires: Instant,
    /// Nobody wants it any more.
    cancelled: CancellationToken,
    state: Mutex<State>,
}

struct State {
    inputs: Inputs,
    /// What the server's last progress said.
    said: Option<String>,
    updated: SystemTime,
    end: Option<End>,
}

enum End {
    /// The result, a JSON object.
    Completed(Kept),
    /// The error, a JSON object.
    Failed(Kept),
    Cancelled,
}

/// What came of a task. A copy with room of its own: what it came in counts among the bytes of calls on their way.
struct Kept {
    bytes: Bytes,
    all: Arc<AtomicUsize>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// A call that is about to become a task.
pub(super) struct Slow {
    pub(super) caller: Caller,
    pub(super) scope: Option<ServerName>,
    pub(super) inputs: Inputs,
    pub(super) reply: Reply,
    pub(super) manner: Manner,
    pub(super) terms: Arc<Terms>,
}

impl Tasks {
    /// No task yet. Starts the sweep as a task of `drain`, so it must be called inside a runtime.
    pub(super) fn new(
        config: Config,
        sealer: Sealer,
        (refusals, count): (permit::Metrics, Gauge),
        drain: &DrainWatch,
    ) -> Self {
        let (drain, tasks, kept) = (drain.clone(), Mutex::default(), Arc::default());
        let shared = Arc::new(Shared { config, sealer, refusals, count, drain, tasks, kept });
        shared.drain.spawn(sweep(shared.clone()));
        Self { shared }
    }

    /// After how long a call of `client` becomes a task, if it does.
    pub(super) fn after(&self, client: &Client) -> Option<Duration> {
        let after = self.shared.config.after?;
        knows_tasks(client).then_some(after)
    }

    /// Whether there may be one more. One that was cancelled makes room: nobody waits to hear more of it.
    pub(super) fn have_room(&self) -> bool {
        let mut tasks = self.shared.tasks();
        if tasks.len() < self.shared.config.tasks {
            return true;
        }
        let cancelled = tasks.iter().filter(|(_, task)| task.cancelled.is_cancelled());
        let oldest = cancelled.min_by_key(|(_, task)| task.expires).map(|(id, _)| id.clone());
        let Some(oldest) = oldest else {
            self.shared.refusals.hit(Bound::Tasks);
            return false;
        };
        tasks.remove(&oldest);
        true
    }

    /// Makes a task of a call; the result that hands it to the client.
    ///
    /// # Errors
    /// When the system gives out no random numbers.
    // MCP extension tasks, CreateTaskResult
    pub(super) fn adopt(&self, slow: Slow) -> Result<Parts, Error> {
        let Slow { caller, scope, inputs, reply, manner, terms } = slow;
        let shared = &self.shared;
        let random: [u8; 16] = shared.sealer.random()?;
        let id: Box<str> = format!("{OWN}{:032x}", u128::from_be_bytes(random)).into();
        let now = SystemTime::now();
        let task = Arc::new(Task {
            caller,
            scope,
            created: now,
            expires: Instant::now() + shared.config.age,
            cancelled: CancellationToken::new(),
            state: Mutex::new(State { inputs, said: None, updated: now, end: None }),
        });
        reply.park(); // nobody waits at a connection for it any more
        let rounds = Rounds::new(terms);
        shared.drain.spawn(drive(shared.clone(), task.clone(), (reply, rounds), manner));
        let result = shared.render(&id, &task, "task");
        let mut tasks = shared.tasks();
        tasks.insert(id, task);
        shared.count.set(i64::try_from(tasks.len()).unwrap_or(i64::MAX));
        Ok(result)
    }

    /// Where it stands.
    ///
    /// # Errors
    /// When this caller has no such task.
    // MCP extension tasks, tasks/get
    pub(super) fn get(&self, id: &str, whom: (&Caller, Option<&ServerName>)) -> Result<Parts, Error> {
        let task = self.shared.find(id, whom)?;
        Ok(self.shared.render(id, &task, "complete"))
    }

    /// Passes answers on; keys that nobody asked for are ignored.
    ///
    /// # Errors
    /// When this caller has no such task.
    // MCP extension tasks, tasks/update
    pub(super) fn update(
        &self,
        id: &str,
        whom: (&Caller, Option<&ServerName>),
        answers: &Answers,
    ) -> Result<Parts, Error> {
        let task = self.shared.find(id, whom)?;
        let answered = task.state().inputs.take_answered(answers);
        answered.into_iter().for_each(|(ask, answer)| ask.answer(answer));
        Ok(ACK.into())
    }

    /// Cancels it; one that has ended stays as it is.
    ///
    /// # Errors
    /// When this caller has no such task.
    // MCP extension tasks, tasks/cancel: acknowledged in any case
    pub(super) fn cancel(&self, id: &str, whom: (&Caller, Option<&ServerName>)) -> Result<Parts, Error> {
        self.shared.find(id, whom)?.cancel();
        Ok(ACK.into())
    }
}

/// Whether an id is one of ours, and no server's.
pub(super) fn is_own(id: &str) -> bool {
    id.starts_with(OWN)
}

/// Whether a client says that it knows tasks.
pub(super) fn knows_tasks(client: &Client) -> bool {
    Capabilities::of(client).has(Capabilities::TASKS)
}

impl Shared {
    fn find(&self, id: &str, (caller, scope): (&Caller, Option<&ServerName>)) -> Result<Arc<Task>, Error> {
        let task = self.tasks().get(id).cloned();
        let mine = task.filter(|task| task.caller == *caller && task.scope.as_ref() == scope);
        mine.ok_or_else(|| {
            let message = "there is no such task; it was never there, is somebody else's, or has expired";
            Error::new(Kind::InvalidParams, Blame::Downstream, message)
        })
    }

    fn render(&self, id: &str, task: &Task, result_type: &str) -> Parts {
        let state = task.state();
        let (status, member) = match &state.end {
            Some(End::Completed(result)) => {
                ("completed", Some(("result", Parts::from(result.bytes.clone()))))
            }
            Some(End::Failed(error)) => ("failed", Some(("error", Parts::from(error.bytes.clone())))),
            Some(End::Cancelled) => ("cancelled", None),
            None if state.inputs.are_open() => {
                let mut requests = Parts::from(Bytes::from_static(b"{"));
                requests.extend(state.inputs.requests());
                requests.push(Bytes::from_static(b"}"));
                ("input_required", Some(("inputRequests", requests)))
            }
            None => ("working", None),
        };
        let mut head = json!({
            "resultType": result_type,
            "taskId": id,
            "status": status,
            "createdAt": timestamp(task.created),
            "lastUpdatedAt": timestamp(state.updated),
            "ttlMs": millis(self.config.age),
            "pollIntervalMs": millis(self.config.poll),
        });
        if let (Some(said), Some(head)) = (&state.said, head.as_object_mut()) {
            head.insert("statusMessage".to_owned(), said.as_str().into());
        }
        drop(state);
        let mut head = head.to_string();
        head.pop(); // the brace, for what may follow
        let mut whole = Parts::from(Bytes::from(head));
        if let Some((key, value)) = member.filter(|_| result_type != "task") {
            whole.push(Bytes::from(format!(r#","{key}":"#)));
            whole.extend(value);
        }
        whole.push(Bytes::from_static(b"}"));
        whole
    }

    fn ended(&self, manner: &Manner, outcome: Outcome) -> End {
        let kept = match outcome {
            Outcome::Result(result) => self.keep(result).map(End::Completed),
            Outcome::Refused(error) => self.keep(manner.refusal(error).into()).map(End::Failed),
            Outcome::Failed(error) => return self.failed(manner, &error),
            // It never is: its rounds are made before.
            Outcome::InputRequired(_) => Ok(End::Cancelled),
        };
        kept.unwrap_or_else(|bound| self.failed(manner, &bound.refusal()))
    }

    /// Errors of our own are a sentence: they are counted, and not refused.
    fn failed(&self, manner: &Manner, error: &Error) -> End {
        let bytes = manner.error(error);
        self.kept.fetch_add(bytes.len(), Ordering::Relaxed);
        End::Failed(Kept { bytes, all: self.kept.clone() })
    }

    fn keep(&self, what: Parts) -> Result<Kept, Bound> {
        let size = what.len_bytes();
        if self.kept.fetch_add(size, Ordering::Relaxed) + size > self.config.result_bytes {
            self.kept.fetch_sub(size, Ordering::Relaxed);
            self.refusals.hit(Bound::TaskBytes);
            return Err(Bound::TaskBytes);
        }
        let mut copy = BytesMut::with_capacity(size);
        what.iter().for_each(|slice| copy.put_slice(slice));
        Ok(Kept { bytes: copy.freeze(), all: self.kept.clone() })
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Task>>> {
        // Every state inside is valid at any point, so a poisoned lock carries no news.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    fn cancel(&self) {
        self.end(End::Cancelled);
        self.cancelled.cancel();
    }

    /// The first end counts.
    fn end(&self, end: End) {
        let unanswered = {
            let mut state = self.state();
            if state.end.is_none() {
                (state.end, state.updated) = (Some(end), SystemTime::now());
            }
            state.inputs.take_open()
        };
        drop(unanswered); // which refuses them, and wants other locks
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every state inside is valid at any point, so a poisoned lock carries no news.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what the server says until it has answered, or nobody wants the answer.
async fn drive(
    shared: Arc<Shared>,
    task: Arc<Task>,
    (mut reply, mut rounds): (Reply, Rounds),
    manner: Manner,
) {
    loop {
        // All arms are cancel-safe: what was not returned stays queued.
        let next = tokio::select! {
            next = next(&mut reply, &mut rounds) => next,
            () = task.cancelled.cancelled() => return,
            () = shared.drain.cut() => {
                let message = "this gateway is stopping, and its tasks with it";
                return task.end(shared.failed(&manner, &Error::new(Kind::Draining, Blame::Edge, message)));
            }
        };
        match next {
            Next::Event(event) => heard(&task, event),
            Next::Outcome(Outcome::InputRequired(input)) => rounds.begin(*input),
            Next::Outcome(outcome) => return task.end(shared.ended(&manner, outcome)),
        }
    }
}

/// The next thing that happens, be the call at its server or between two rounds.
async fn next(reply: &mut Reply, rounds: &mut Rounds) -> Next {
    loop {
        if rounds.is_calling() {
            return reply.next().await;
        }
        match poll_fn(|context| rounds.poll(context)).await {
            Turn::Ask(ask) => return Next::Event(Event::Ask(ask)),
            Turn::Over(outcome) => return Next::Outcome(outcome),
            Turn::Again(next) => *reply = next,
            Turn::Withdrawn => {}
        }
    }
}

fn heard(task: &Task, event: Event) {
    let refused = {
        let mut state = task.state();
        state.updated = SystemTime::now();
        match event {
            Event::Ask(ask) => state.inputs.keep(ask),
            Event::Progress(message) => {
                state.said = said(&message).or(state.said.take());
                None
            }
            Event::Notice(..) => None, // a task has no stream for it
        }
    };
    if let Some((ask, answer)) = refused {
        ask.answer(answer);
    }
}

/// What a person may read of progress.
fn said(progress: &Message) -> Option<String> {
    let said = progress.param("message")?.as_str()?.chars().take(SAID_CHARS).collect();
    Some(said)
}

/// Cancels what is too old, and forgets it.
async fn sweep(shared: Arc<Shared>) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            now = tick.tick() => {
                let gone: Vec<_> = {
                    let mut tasks = shared.tasks();
                    let gone = tasks.extract_if(|_, task| task.expires <= now).collect();
                    shared.count.set(i64::try_from(tasks.len()).unwrap_or(i64::MAX));
                    gone
                };
                gone.iter().for_each(|(_, task): &(Box<str>, Arc<Task>)| task.cancel());
            }
            () = shared.drain.stopping() => return,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The extension's name.
pub(super) const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// What ids of ours begin with; no slug has such a character.
const OWN: &str = "edge~";
/// What says that it was heard.
const ACK: Bytes = Bytes::from_static(br#"{"resultType":"complete"}"#);
/// How much of a server's words is kept of each task.
const SAID_CHARS: usize = 256;
/// How exact the age is; it is minutes.
const SWEEP: Duration = Duration::from_secs(1);
