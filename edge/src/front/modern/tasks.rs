//! Slow calls that become tasks: the client gets a handle, and fetches the result when it is ready. A connection that
//! breaks meanwhile loses nothing.
//!
//! ```text
//! call ──`tasks.after` without an outcome──▶ working ◀──▶ input_required
//!                                               │
//!                                               ├──▶ completed │ failed     (kept until `tasks.age`)
//!                                               └──▶ cancelled              (by the client, by age)
//! ```
//! Guarantees: only for a client that declares the extension in the request itself; a task belongs to its principal
//! alone, under an id that nobody can guess; tasks are bounded in number and age. What is not here: which of them make
//! room for others (`tasks/book`), tasks of servers (`upstream/tasks`).
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
use crate::call::{Caller, Capabilities, Client, Event, Outcome};
use crate::error::{Blame, Error, Kind};
use crate::front::asks::inputs::{Answers, Inputs};
use crate::front::asks::rounds::{MultiRoundReply, RoundEvent};
use crate::front::reply::ResponseEncoding;
use crate::front::requester::Requester;
use crate::ops::drain::DrainWatch;
use crate::permit::{self, Bound};
use crate::seal::{self, Home, Sealer};
use book::{Book, Bounds, Settled};

/// When calls become tasks, and how long those are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a call may take before it becomes a task; `None`: no call does.
    pub after: Option<Duration>,
    /// How long a task is kept, from its start. 1 h: as long as any call may take.
    pub age: Duration,
    /// Tasks at a time. 1,000: beyond that calls stay calls.
    pub tasks: usize,
    /// Bytes of the results of all tasks that have ended. 64 MiB: a quarter of what calls in flight may hold, which
    /// results must not occupy for an hour. A principal takes at most as much of it as it leaves free.
    pub result_bytes: usize,
    /// How often a client should poll a task. 2 s: soon enough for a person who waits.
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
    requester: Requester,
    created: SystemTime,
    expires: Instant,
    /// By the client, or by age.
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

/// How a task ended. Results and errors are copies, counted in the book: the buffers they came in count among the bytes of
/// calls in flight.
enum End {
    /// The result, a JSON object.
    Completed(Bytes),
    /// The error, a JSON object.
    Failed(Bytes),
    Cancelled,
}

/// Room for one more task. Dropping it gives the room back, unless a task has taken it.
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
pub(in crate::front) struct SlowCall {
    pub(in crate::front) requester: Requester,
    pub(in crate::front) inputs: Inputs,
    pub(in crate::front) reply: MultiRoundReply,
    pub(in crate::front) encoding: ResponseEncoding,
}

impl Tasks {
    /// Without tasks so far. Starts the sweep as a task of `drain`, so it must be called inside a runtime.
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

    /// How long a call of `client` may take before it becomes a task; `None` if it never does.
    pub(in crate::front) fn after(&self, client: &Client) -> Option<Duration> {
        let after = self.shared.config.after?;
        knows_tasks(client).then_some(after)
    }

    /// Room for one more task of `caller`, and for a small result of it. Tasks that nobody waits for make room: those that
    /// were fetched, have failed or were cancelled.
    pub(in crate::front) fn place(&self, caller: &Caller) -> Option<Place> {
        // Without random numbers the call stays a call.
        let id = self.shared.new_id().ok()?;
        let reserved = self.shared.book(|book| book.reserve(id.clone(), caller));
        reserved.inspect_err(|bound| self.shared.refusals.hit(*bound)).ok()?;
        Some(Place { shared: self.shared.clone(), id })
    }

    /// Makes a task of a call, and returns the result that names it to the client.
    // MCP extension tasks, CreateTaskResult
    pub(in crate::front) fn adopt(place: &Place, slow: SlowCall) -> Parts {
        let SlowCall { requester, mut inputs, mut reply, encoding } = slow;
        inputs.detach(); // the task outlives its call
        let Place { shared, id } = place;
        let now = SystemTime::now();
        let task = Arc::new(Task {
            id: id.clone(),
            requester,
            created: now,
            expires: Instant::now() + shared.config.age,
            cancelled: CancellationToken::new(),
            state: Mutex::new(State { inputs, progress: None, updated: now, end: None }),
        });
        reply.park(); // no client connection waits for it
        reply.detach();
        shared.drain.spawn(drive(shared.clone(), task.clone(), reply, encoding));
        let result = shared.render(&task, "task");
        shared.book(|book| book.fill(id, task));
        result
    }

    /// The status of a task, and its result once it has ended.
    ///
    /// # Errors
    /// When this caller has no such task.
    // MCP extension tasks, tasks/get
    pub(super) fn get(&self, id: &str, requester: &Requester) -> Result<Parts, Error> {
        let task = self.shared.find(id, requester)?;
        let over = task.state.lock().end.is_some();
        let shown = self.shared.render(&task, "complete");
        if over {
            self.shared.book(|book| book.spend(id, false));
        }
        Ok(shown)
    }

    /// Passes answers on; unknown keys are ignored.
    ///
    /// # Errors
    /// When this caller has no such task.
    // MCP extension tasks, tasks/update
    pub(super) fn update(&self, id: &str, requester: &Requester, answers: &Answers) -> Result<Parts, Error> {
        let task = self.shared.find(id, requester)?;
        let answered = task.state.lock().inputs.take_answered(answers);
        answered.into_iter().for_each(|(ask, answer)| ask.answer(answer));
        Ok(ACK.into())
    }

    /// Cancels a task; one that has ended stays as it is.
    ///
    /// # Errors
    /// When this caller has no such task.
    // MCP extension tasks, tasks/cancel: acknowledged in any case
    pub(super) fn cancel(&self, id: &str, requester: &Requester) -> Result<Parts, Error> {
        let first = self.shared.find(id, requester)?.cancel();
        self.shared.book(|book| book.spend(id, first));
        Ok(ACK.into())
    }
}

impl Tasks {
    /// The process that has the task of that id, if it is another one.
    pub(in crate::front) fn elsewhere(&self, id: &str) -> Option<Home> {
        let sealer = &self.shared.sealer;
        let payload = sealer.open(KIND, token(id))?;
        sealer.elsewhere(Home::decode(*payload.last_chunk()?))
    }
}

/// The sealed part of an id of this gateway, which names the process of the task.
pub(in crate::front) fn token(id: &str) -> &str {
    id.strip_prefix(OWN).unwrap_or_default()
}

/// Whether an id is one of this gateway, and no server's.
pub(in crate::front) fn is_own(id: &str) -> bool {
    id.starts_with(OWN)
}

/// Whether a client declares the tasks extension.
pub(super) fn knows_tasks(client: &Client) -> bool {
    Capabilities::of(client).has(Capabilities::TASKS)
}

impl Shared {
    fn find(&self, id: &str, requester: &Requester) -> Result<Arc<Task>, Error> {
        let task = self.book(|book| book.get(id).cloned());
        let mine = task.filter(|task| task.requester == *requester);
        mine.ok_or_else(|| {
            let message = "no such task: it never existed, belongs to another principal, or has expired";
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
        head.pop(); // the closing brace, for what may follow
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
            // Impossible: `MultiRoundReply` makes the rounds.
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
                self.refusals.hit(Bound::TaskBytes);
                End::Failed(encoding.error(&Bound::TaskBytes.refusal()))
            }
            Settled::Unwanted => End::Cancelled,
        }
    }

    /// An id that nobody can guess. Where there are other replicas, it names the process of the task to them.
    fn new_id(&self) -> Result<Box<str>, Error> {
        let random: [u8; 16] = self.sealer.random()?;
        let home = self.sealer.home();
        let id = match home.address() {
            None => format!("{:032x}", u128::from_be_bytes(random)).into(),
            Some(_) => self.sealer.seal(KIND, &[&random[..], &home.encode()].concat())?,
        };
        Ok(format!("{OWN}{id}").into())
    }

    /// Fails a task with an error of the gateway. Such errors are short, so their number bounds them.
    fn failed(&self, task: &Task, encoding: &ResponseEncoding, error: &Error) -> End {
        self.book(|book| book.spend(&task.id, true));
        End::Failed(encoding.error(error))
    }

    /// Runs `act` on the book. Tasks that had to make room are dropped after the lock, because that may take others.
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
    /// Keeps the part of an event that the client gets with `tasks/get`.
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

    /// Cancels it; `false` if it had ended before.
    fn cancel(&self) -> bool {
        let first = self.end(End::Cancelled);
        self.cancelled.cancel();
        first
    }

    /// Ends it, unless it has ended; whether it did.
    fn end(&self, end: End) -> bool {
        let (first, unanswered) = {
            let mut state = self.state.lock();
            let first = state.end.is_none();
            if first {
                (state.end, state.updated) = (Some(end), SystemTime::now());
            }
            (first, state.inputs.take_open())
        };
        drop(unanswered); // after the lock: dropping questions refuses them
        first
    }
}

/// Runs a task until the server has answered, or the task is cancelled.
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

/// Cancels and forgets tasks that are too old.
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
/// The prefix of this gateway's ids; no slug contains `~`.
const OWN: &str = "edge~";
/// The kind of sealed token in an id where there are other replicas.
const KIND: seal::Kind = seal::Kind::new("task");
/// The acknowledgement.
const ACK: Bytes = Bytes::from_static(br#"{"resultType":"complete"}"#);
/// How much of a progress message is kept of each task.
const PROGRESS_CHARS: usize = 256;
/// How late an old task may be forgotten; the age is minutes.
const SWEEP: Duration = Duration::from_secs(1);
