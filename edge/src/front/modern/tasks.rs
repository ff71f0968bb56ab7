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
//! under an id that nobody can guess; tasks are bounded in number and age. What is not here: which of them make room for
//! others (`tasks/book`), tasks of servers (`upstream/tasks`).
// MCP extension io.modelcontextprotocol/tasks

mod book;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::splice::Parts;

use super::timestamp::timestamp;
use crate::call::{Caller, Capabilities, Client, Event, Outcome, ServerName};
use crate::error::{Blame, Error, Kind};
use crate::front::asks::inputs::{Answers, Inputs};
use crate::front::asks::rounds::{MultiRoundReply, RoundEvent};
use crate::front::reply::ResponseEncoding;
use crate::ops::drain::DrainWatch;
use crate::permit::{self, NoRoom};
use crate::seal::{self, Home, Sealer};
use book::{Book, Bounds, Settled};

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
    /// hold, which these must not take for an hour. A principal takes at most as much of it as it leaves free.
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
pub(in crate::front) struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    sealer: Sealer,
    refusals: permit::Metrics,
    count: Gauge,
    drain: DrainWatch,
    book: Mutex<Book<Arc<Task>>>,
}

struct Task {
    id: Box<str>,
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
    /// The message of the server's last progress notification.
    progress: Option<String>,
    updated: SystemTime,
    end: Option<End>,
}

/// Results and errors are copies, counted in the book: what they came in counts among the bytes of calls on their way.
enum End {
    /// The result, a JSON object.
    Completed(Bytes),
    /// The error, a JSON object.
    Failed(Bytes),
    Cancelled,
}

/// Room for one more task. Dropping it gives the room back, if nothing became of it.
pub(in crate::front) struct Place {
    shared: Arc<Shared>,
    id: Box<str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.book(|book| book.give_back(&self.id));
    }
}

/// A call that is about to become a task.
pub(in crate::front) struct Slow {
    pub(in crate::front) caller: Caller,
    pub(in crate::front) scope: Option<ServerName>,
    pub(in crate::front) inputs: Inputs,
    pub(in crate::front) reply: MultiRoundReply,
    pub(in crate::front) encoding: ResponseEncoding,
}

impl Tasks {
    /// No task yet. Starts the sweep as a task of `drain`, so it must be called inside a runtime.
    pub(in crate::front) fn new(
        config: Config,
        sealer: Sealer,
        (refusals, count): (permit::Metrics, Gauge),
        drain: &DrainWatch,
    ) -> Self {
        let bounds = Bounds { tasks: config.tasks, bytes: config.result_bytes };
        let (drain, book) = (drain.clone(), Mutex::new(Book::new(bounds)));
        let shared = Arc::new(Shared { config, sealer, refusals, count, drain, book });
        shared.drain.spawn(sweep(shared.clone()));
        Self { shared }
    }

    /// After how long a call of `client` becomes a task, if it does.
    pub(in crate::front) fn after(&self, client: &Client) -> Option<Duration> {
        let after = self.shared.config.after?;
        knows_tasks(client).then_some(after)
    }

    /// Room for one more task of `caller`, also for a small result of it. What nobody waits for any more makes room: what
    /// was fetched, has failed or was cancelled.
    pub(in crate::front) fn place(&self, caller: &Caller) -> Option<Place> {
        // Without random numbers the call stays a call.
        let id = self.shared.new_id().ok()?;
        let reserved = self.shared.book(|book| book.reserve(id.clone(), caller));
        reserved.inspect_err(|bound| self.shared.refusals.hit(*bound)).ok()?;
        Some(Place { shared: self.shared.clone(), id })
    }

    /// Makes a task of a call; the result that hands it to the client.
    // MCP extension tasks, CreateTaskResult
    pub(in crate::front) fn adopt(place: &Place, slow: Slow) -> Parts {
        let Slow { caller, scope, mut inputs, reply, encoding } = slow;
        inputs.detach(); // the task is kept for longer than its call
        let Place { shared, id } = place;
        let now = SystemTime::now();
        let task = Arc::new(Task {
            id: id.clone(),
            caller,
            scope,
            created: now,
            expires: Instant::now() + shared.config.age,
            cancelled: CancellationToken::new(),
            state: Mutex::new(State { inputs, progress: None, updated: now, end: None }),
        });
        reply.park(); // nobody waits at a connection for it any more
        shared.drain.spawn(drive(shared.clone(), task.clone(), reply, encoding));
        let result = shared.render(&task, "task");
        shared.book(|book| book.fill(id, task));
        result
    }

    /// Where it stands.
    ///
    /// # Errors
    /// When this caller has no such task.
    // MCP extension tasks, tasks/get
    pub(super) fn get(&self, id: &str, whom: (&Caller, Option<&ServerName>)) -> Result<Parts, Error> {
        let task = self.shared.find(id, whom)?;
        let over = task.state.lock().end.is_some();
        let shown = self.shared.render(&task, "complete");
        if over {
            self.shared.book(|book| book.spend(id, false));
        }
        Ok(shown)
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
        let answered = task.state.lock().inputs.take_answered(answers);
        answered.into_iter().for_each(|(ask, answer)| ask.answer(answer));
        Ok(ACK.into())
    }

    /// Cancels it; one that has ended stays as it is.
    ///
    /// # Errors
    /// When this caller has no such task.
    // MCP extension tasks, tasks/cancel: acknowledged in any case
    pub(super) fn cancel(&self, id: &str, whom: (&Caller, Option<&ServerName>)) -> Result<Parts, Error> {
        let first = self.shared.find(id, whom)?.cancel();
        self.shared.book(|book| book.spend(id, first));
        Ok(ACK.into())
    }
}

impl Tasks {
    /// Where the task of that id is, if that is in another process.
    pub(in crate::front) fn elsewhere(&self, id: &str) -> Option<Home> {
        let sealer = &self.shared.sealer;
        let payload = sealer.open(KIND, token(id))?;
        let home = Home::decode(*payload.last_chunk()?);
        (home != sealer.home()).then_some(home)
    }
}

/// What says where the task of an id of ours is.
pub(in crate::front) fn token(id: &str) -> &str {
    id.strip_prefix(OWN).unwrap_or_default()
}

/// Whether an id is one of ours, and no server's.
pub(in crate::front) fn is_own(id: &str) -> bool {
    id.starts_with(OWN)
}

/// Whether a client says that it knows tasks.
pub(super) fn knows_tasks(client: &Client) -> bool {
    Capabilities::of(client).has(Capabilities::TASKS)
}

impl Shared {
    fn find(&self, id: &str, (caller, scope): (&Caller, Option<&ServerName>)) -> Result<Arc<Task>, Error> {
        let task = self.book(|book| book.get(id).cloned());
        let mine = task.filter(|task| task.caller == *caller && task.scope.as_ref() == scope);
        mine.ok_or_else(|| {
            let message = "there is no such task; it was never there, is somebody else's, or has expired";
            Error::new(Kind::InvalidParams, Blame::Downstream, message)
        })
    }

    fn render(&self, task: &Task, result_type: &str) -> Parts {
        let state = task.state.lock();
        let (status, member) = match &state.end {
            Some(End::Completed(result)) => ("completed", Some(("result", Parts::from(result.clone())))),
            Some(End::Failed(error)) => ("failed", Some(("error", Parts::from(error.clone())))),
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
            "taskId": task.id,
            "status": status,
            "createdAt": timestamp(task.created),
            "lastUpdatedAt": timestamp(state.updated),
            "ttlMs": millis(self.config.age),
            "pollIntervalMs": millis(self.config.poll),
        });
        if let (Some(progress), Some(head)) = (&state.progress, head.as_object_mut()) {
            head.insert("statusMessage".to_owned(), progress.as_str().into());
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

    fn ended(&self, task: &Task, encoding: &ResponseEncoding, outcome: Outcome) -> End {
        let (what, failed) = match outcome {
            Outcome::Result(result) => (result, false),
            Outcome::Refused(error) => (encoding.refusal(error).into(), true),
            Outcome::Failed(error) => return self.failed(task, encoding, &error),
            // It never is: its rounds are made before.
            Outcome::InputRequired(_) => return End::Cancelled,
        };
        let size = what.len_bytes();
        match self.book(|book| book.settle(&task.id, size, failed)) {
            Settled::Kept => {
                let mut copy = BytesMut::with_capacity(size);
                what.iter().for_each(|slice| copy.put_slice(slice));
                if failed { End::Failed(copy.freeze()) } else { End::Completed(copy.freeze()) }
            }
            Settled::Full => {
                self.refusals.hit(NoRoom::TaskBytes);
                End::Failed(encoding.error(&NoRoom::TaskBytes.refusal()))
            }
            Settled::Unwanted => End::Cancelled,
        }
    }

    /// One that nobody can guess. Where other processes can be asked for the task, it says to them where it is.
    fn new_id(&self) -> Result<Box<str>, Error> {
        let random: [u8; 16] = self.sealer.random()?;
        let home = self.sealer.home();
        let id = match home.address() {
            None => format!("{:032x}", u128::from_be_bytes(random)).into(),
            Some(_) => self.sealer.seal(KIND, &[&random[..], &home.encode()].concat())?,
        };
        Ok(format!("{OWN}{id}").into())
    }

    /// Errors of our own are a sentence: as many as tasks are bound enough.
    fn failed(&self, task: &Task, encoding: &ResponseEncoding, error: &Error) -> End {
        self.book(|book| book.spend(&task.id, true));
        End::Failed(encoding.error(error))
    }

    /// Looks into the book. What had to make room is dropped after the lock, for it may want others.
    fn book<T>(&self, act: impl FnOnce(&mut Book<Arc<Task>>) -> T) -> T {
        let (done, _gone) = {
            let mut book = self.book.lock();
            let done = act(&mut book);
            self.count.set(i64::try_from(book.len()).unwrap_or(i64::MAX));
            (done, book.take_gone())
        };
        done
    }
}

impl Task {
    /// Keeps what a client that asks for the task is shown of an event.
    fn record(&self, event: Event) {
        let refused = {
            let mut state = self.state.lock();
            state.updated = SystemTime::now();
            match event {
                Event::Ask(ask) => state.inputs.keep(ask),
                Event::Progress(message) => {
                    state.progress = progress_message(&message).or(state.progress.take());
                    None
                }
                Event::Notice(..) => None, // a task has no stream for it
            }
        };
        if let Some((ask, answer)) = refused {
            ask.answer(answer);
        }
    }

    fn drop_withdrawn(&self) {
        let withdrawn = self.state.lock().inputs.take_withdrawn();
        drop(withdrawn); // after the lock: dropping a question answers it
    }

    /// `false`: it had ended before.
    fn cancel(&self) -> bool {
        let first = self.end(End::Cancelled);
        self.cancelled.cancel();
        first
    }

    /// The first end counts; whether this is it.
    fn end(&self, end: End) -> bool {
        let (first, unanswered) = {
            let mut state = self.state.lock();
            let first = state.end.is_none();
            if first {
                (state.end, state.updated) = (Some(end), SystemTime::now());
            }
            (first, state.inputs.take_open())
        };
        drop(unanswered); // which refuses them, and wants other locks
        first
    }
}

/// Takes what the server sends until it has answered, or nobody wants the answer.
async fn drive(shared: Arc<Shared>, task: Arc<Task>, mut reply: MultiRoundReply, encoding: ResponseEncoding) {
    let end = loop {
        // All arms are cancel-safe: what was not returned stays queued.
        let event = tokio::select! {
            event = reply.next() => event,
            () = task.cancelled.cancelled() => return,
            () = shared.drain.cut() => {
                let message = "this gateway is stopping, and its tasks with it";
                break shared.failed(&task, &encoding, &Error::new(Kind::Draining, Blame::Edge, message));
            }
        };
        match event {
            RoundEvent::Event(event) => task.record(event),
            RoundEvent::Withdrawn => task.drop_withdrawn(),
            RoundEvent::Redispatched => {}
            RoundEvent::Outcome(outcome) => break shared.ended(&task, &encoding, outcome),
        }
    };
    task.end(end);
}

/// The part of a progress notification that a person reads.
fn progress_message(progress: &Message) -> Option<String> {
    Some(progress.param("message")?.as_str()?.chars().take(PROGRESS_CHARS).collect())
}

/// Cancels what is too old, and forgets it.
async fn sweep(shared: Arc<Shared>) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            now = tick.tick() => {
                for task in shared.book(|book| book.take(|task| task.expires <= now)) {
                    task.cancel();
                }
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
/// The kind of token that such an id holds where there are other processes.
const KIND: seal::Kind = seal::Kind::new("task");
/// What says that it was heard.
const ACK: Bytes = Bytes::from_static(br#"{"resultType":"complete"}"#);
/// How much of a progress message is kept of each task.
const PROGRESS_CHARS: usize = 256;
/// How exact the age is; it is minutes.
const SWEEP: Duration = Duration::from_secs(1);
