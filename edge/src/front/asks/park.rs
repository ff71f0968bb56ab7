//! Calls of modern clients that wait while their clients answer the questions of a legacy server.
//!
//! The server's call stays in flight; what the client holds is a `requestState` that leads back to it.
//!
//! ```text
//! asked ──▶ Parked ──retry with answers──▶ taken up ──▶ outcome │ asked again
//!              └────── age, the end of the process ──▶ given up: asks refused, call cancelled upstream
//! ```
//! Upstream a call may be given up too, because others need its place; then the retry gets the error.
//!
//! Guarantees: a state is valid for one retry of the same request by the same principal, at the same path, while the
//! call lives; parked calls are bounded in number and age. What is not here: questions and answers (`inputs`).
// MCP 2026-07-28 basic/patterns/mrtr

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use ring::digest::{SHA256, digest as hash};
use tokio::time::{Instant, MissedTickBehavior, Sleep, interval, sleep};
use wire::Message;
use wire::error::ScanError;
use wire::mcp::level::Level;
use wire::mcp::method::Method;
use wire::splice::Parts;

use super::digest::digest;
use super::inputs::{Inputs, too_many_rounds};
use super::reissue::{self, Verdict};
use super::rounds::{MultiRoundReply, Reissue, RoundContext};
use crate::call::{Call, Reply, ServerName};
use crate::error::{Blame, Error, Kind};
use crate::front::Front;
use crate::front::modern::tasks::{Place, SlowCall, Tasks};
use crate::front::reply::ResponseEncoding;
use crate::front::requester::Requester;
use crate::ops::drain::DrainWatch;
use crate::permit::{self, Bound};
use crate::seal::{self, Home, Sealer};

/// Bounds of parked calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Parked calls. 1,000: each holds a connection and with it a process, which run out long before.
    pub calls: usize,
    /// How long one waits for its client. 10 m: a person reads, looks something up and types.
    pub age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { calls: 1000, age: Duration::from_secs(600) }
    }
}

/// The parked calls. Cheap to clone.
#[derive(Clone)]
pub(in crate::front) struct Park {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    /// How often one call may ask its client.
    rounds: usize,
    sealer: Sealer,
    /// Distinguishes this process's numbers from those of others that have the same key.
    instance: [u8; INSTANCE_LEN],
    next_number: AtomicU64,
    refusals: permit::Metrics,
    count: Gauge,
    drain: DrainWatch,
    calls: Mutex<Calls>,
}

/// The calls by number.
#[derive(Default)]
struct Calls {
    waiting: HashMap<u64, Parked>,
    /// Calls that failed while they waited, such as those that were given up for others, until their clients have heard it.
    failed: HashMap<u64, Parked>,
}

/// Whose call it is, and which one: what a retry must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) requester: Requester,
    /// Of the request, by [`super::digest`].
    pub(super) digest: [u8; DIGEST_LEN],
}

/// A parked call.
pub(in crate::front) struct Parked {
    /// Dropped before the reply, so that the questions are refused before the call is cancelled.
    pub(in crate::front) inputs: Inputs,
    pub(in crate::front) reply: Reply,
    expires: Instant,
}

/// Why a call continues without its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::front) enum Detachment {
    /// The client has to answer something first.
    Park,
    /// The call takes long, and becomes a task that the client polls.
    Task,
}

/// What it takes to park the call of an exchange, or to make a task of it.
pub(in crate::front) struct Parking {
    park: Park,
    /// The whole message; scanned again only when it is needed.
    request: Bytes,
    requester: Requester,
    pub(in crate::front) inputs: Inputs,
    /// Runs out when the call is to become a task; `None` if it never does.
    slow: Option<Pin<Box<Sleep>>>,
    /// The place of the task, once it is due.
    place: Option<Place>,
    tasks: Tasks,
    round_context: Arc<RoundContext>,
}

impl Parking {
    /// For a call without questions so far, whose user was sent to URLs in so many `rounds` before.
    pub(in crate::front) fn new(front: &Front, call: &Call, rounds: usize) -> Self {
        let inputs = Inputs::new(call.client.clone(), rounds);
        let requester = Requester { caller: call.caller.clone(), scope: call.scope.clone() };
        Self::again(front, (call.request.bytes().clone(), call.method), requester, inputs)
    }

    /// For a call that was parked before, and the `request` that took it up.
    pub(in crate::front) fn again(
        front: &Front,
        (request, method): (Bytes, Method),
        requester: Requester,
        inputs: Inputs,
    ) -> Self {
        // What counts is the client of this request: it waits for this answer, and declares anew what it knows.
        let after = front.tasks.after(inputs.client()).filter(|_| method == Method::ToolsCall);
        let slow = after.map(|after| Box::pin(sleep(after)));
        Self {
            park: front.park.clone(),
            request,
            requester,
            inputs,
            slow,
            place: None,
            tasks: front.tasks.clone(),
            round_context: front.round_context.clone(),
        }
    }

    /// Ready when the client has to be asked, or the call becomes a task.
    pub(in crate::front) fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<Detachment> {
        if self.inputs.poll_due(context).is_ready() {
            return Poll::Ready(Detachment::Park);
        }
        let Some(slow) = &mut self.slow else { return Poll::Pending };
        std::task::ready!(slow.as_mut().poll(context));
        self.slow = None;
        self.place = self.tasks.place(&self.requester.caller);
        if self.place.is_some() { Poll::Ready(Detachment::Task) } else { Poll::Pending }
    }

    /// Makes a task of the call, and returns the result that names the task to its client.
    ///
    /// # Errors
    /// When it cannot become one: then the call is over.
    pub(in crate::front) fn adopt(self, reply: Reply, encoding: ResponseEncoding) -> Result<Parts, Error> {
        // The call may be made anew, and a legacy server does not know the members of a retry.
        let request =
            reissue::without_answers(&self.request()?, &self.round_context.limits).map_err(unreadable)?;
        let Self { requester, inputs, place, round_context, .. } = self;
        let place = place.ok_or_else(|| Bound::Tasks.refusal())?;
        let (method, client) = (Method::ToolsCall, inputs.client().clone()); // no other call becomes a task
        let reissue = Reissue { requester: requester.clone(), client, method, request };
        let reply = MultiRoundReply::new(reply, round_context).with_reissue(reissue);
        Ok(Tasks::adopt(&place, SlowCall { requester, inputs, reply, encoding }))
    }

    /// Parks the call, and returns the result that asks its client.
    ///
    /// # Errors
    /// When it cannot be parked: then the call is over.
    // MCP 2026-07-28 schema, InputRequiredResult
    pub(in crate::front) fn park(self, reply: Reply) -> Result<Parts, Error> {
        let subject = self.subject()?;
        let requests = self.inputs.requests();
        let state = self.park.put(&subject, self.inputs, reply)?;
        let mut result =
            Parts::from(Bytes::from_static(br#"{"resultType":"input_required","inputRequests":{"#));
        result.extend(requests);
        result.push(Bytes::from(format!(r#"}},"requestState":"{state}"}}"#)));
        Ok(result)
    }

    /// What becomes of a server's error that sends the user to URLs (−32042); `None` for any other error.
    pub(in crate::front) fn visits(&self, error: &Bytes) -> Option<Verdict> {
        let visits = reissue::urls(error)?;
        let shared = &self.park.shared;
        let rounds = (self.inputs.rounds(), shared.rounds);
        if rounds.0 >= rounds.1 {
            shared.refusals.hit(Bound::Rounds);
        }
        Some(match self.subject() {
            Ok(subject) => reissue::ask(&shared.sealer, (&subject, self.inputs.client()), rounds, &visits),
            Err(error) => Verdict::Failed(error),
        })
    }

    fn request(&self) -> Result<Message, Error> {
        Message::scan(self.request.clone(), &self.round_context.limits).map_err(unreadable)
    }

    fn subject(&self) -> Result<Subject, Error> {
        let request = self.request()?;
        Ok(Subject { requester: self.requester.clone(), digest: digest(&request) })
    }
}

fn unreadable(_: ScanError) -> Error {
    Error::new(Kind::Lost, Blame::Edge, "the call's own request could not be read again")
}

impl Park {
    /// An empty park. Starts the sweep as a task of `drain`, so it must be called inside a runtime.
    ///
    /// # Errors
    /// When the system provides no random numbers.
    pub(in crate::front) fn new(
        (config, rounds): (Config, usize),
        sealer: Sealer,
        (refusals, count): (permit::Metrics, Gauge),
        drain: &DrainWatch,
    ) -> Result<Self, Error> {
        let (instance, next_number, calls) = (sealer.random()?, AtomicU64::new(1), Mutex::default());
        let drain = drain.clone();
        let shared =
            Arc::new(Shared { config, rounds, sealer, instance, next_number, refusals, count, drain, calls });
        shared.drain.spawn(sweep(shared.clone()));
        Ok(Self { shared })
    }

    /// Parks a call, and returns the state for the retry.
    ///
    /// # Errors
    /// When the bound of parked calls is reached, or that of the rounds of this call, or the process is stopping.
    pub(super) fn put(&self, subject: &Subject, mut inputs: Inputs, reply: Reply) -> Result<Box<str>, Error> {
        let shared = &self.shared;
        if !inputs.next_round(shared.rounds) {
            shared.refusals.hit(Bound::Rounds);
            return Err(too_many_rounds(shared.rounds));
        }
        let number = shared.next_number.fetch_add(1, Ordering::Relaxed);
        let home = shared.sealer.home();
        let state = shared.sealer.seal(KIND, &encode((shared.instance, home), number, subject))?;
        reply.park();
        let parked = Parked { inputs, reply, expires: Instant::now() + shared.config.age };
        let mut calls = shared.calls.lock();
        // Under the lock, so that no call is put after the last sweep: no retry can reach it any more, and it would hold up
        // the end of the process.
        if shared.drain.is_stopping() {
            drop(calls); // as below
            let message = "this gateway is stopping; make the call again";
            return Err(Error::new(Kind::Draining, Blame::Edge, message));
        }
        if calls.waiting.len() >= shared.config.calls {
            drop(calls); // before the call is cancelled, which takes locks of its connection
            shared.refusals.hit(Bound::Parked);
            return Err(Bound::Parked.refusal());
        }
        calls.waiting.insert(number, parked);
        shared.count(&calls);
        Ok(state)
    }

    /// Where the call that `state` leads to is parked, if that is in another process.
    pub(in crate::front) fn elsewhere(&self, state: &str) -> Option<Home> {
        let payload = self.shared.sealer.open(KIND, state)?;
        let (_, home, ..) = decode(&payload)?;
        self.shared.sealer.elsewhere(home)
    }

    /// Takes out the call that `state` leads to, for a request that gets log messages of `level` or worse, or none. `None`: the
    /// state is not of this kind.
    ///
    /// # Errors
    /// Why this request cannot continue it.
    pub(super) fn take(
        &self,
        state: &str,
        subject: &Subject,
        level: Option<Level>,
    ) -> Option<Result<Parked, Error>> {
        let payload = self.shared.sealer.open(KIND, state)?;
        let (instance, _, number, rest) = decode(&payload)?;
        Some(if rest != encode_subject(subject) {
            let message =
                "this requestState belongs to another request; send it back with the request it came for";
            Err(Error::new(Kind::InvalidParams, Blame::Downstream, message))
        } else if instance != self.shared.instance {
            let message =
                "the process that held this call is gone, and the call with it; make the call again";
            Err(Error::new(Kind::Lost, Blame::Edge, message))
        } else {
            self.shared.remove(number, level).ok_or_else(|| {
                let message = "this requestState was used already, or has expired; make the call again";
                Error::new(Kind::InvalidParams, Blame::Downstream, message)
            })
        })
    }
}

impl Shared {
    fn remove(&self, number: u64, level: Option<Level>) -> Option<Parked> {
        let mut calls = self.calls.lock();
        let parked = calls.waiting.remove(&number).or_else(|| calls.failed.remove(&number));
        self.count(&calls);
        drop(calls);
        let parked = parked.filter(|parked| parked.expires > Instant::now())?;
        parked.reply.resume(level);
        Some(parked)
    }

    fn count(&self, calls: &Calls) {
        self.count.set(i64::try_from(calls.waiting.len()).unwrap_or(i64::MAX));
    }

    /// Drops the calls that are `over`.
    fn give_up(&self, over: impl Fn(&Parked) -> bool) {
        let mut calls = self.calls.lock();
        let mut gone: Vec<_> = calls.waiting.extract_if(|_, parked| over(parked)).collect();
        gone.extend(calls.failed.extract_if(|_, parked| over(parked)));
        self.count(&calls);
        drop(calls); // before the calls are cancelled, which takes locks of their connections
        drop(gone);
    }

    /// Moves failed calls out of `waiting` so that they do not use its bound; keeps at most `config.calls`, since a call that
    /// is no longer known fails all the same.
    fn set_failed_aside(&self) {
        let mut calls = self.calls.lock();
        let failed: Vec<_> = calls.waiting.extract_if(|_, parked| parked.reply.has_failed()).collect();
        let (mut asks, mut forgotten) = (Vec::new(), Vec::new());
        for (number, mut parked) in failed {
            asks.push(parked.inputs.take_open());
            if calls.failed.len() < self.config.calls {
                calls.failed.insert(number, parked);
            } else {
                forgotten.push(parked);
            }
        }
        self.count(&calls);
        drop(calls); // before questions are dropped, which answers them
        drop((asks, forgotten));
    }
}

/// Drops calls that are too old, and at the end of the process all: no retry can reach them any more.
async fn sweep(shared: Arc<Shared>) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            now = tick.tick() => {
                shared.give_up(|parked| parked.expires <= now);
                shared.set_failed_aside();
            }
            () = shared.drain.stopping() => return shared.give_up(|_| true),
        }
    }
}

fn encode((instance, home): ([u8; INSTANCE_LEN], Home), number: u64, subject: &Subject) -> Vec<u8> {
    [&instance[..], &home.encode(), &number.to_be_bytes(), &encode_subject(subject)].concat()
}

/// Fixed-length fields, so that none can run into the next.
pub(super) fn encode_subject(subject: &Subject) -> Vec<u8> {
    let scope = subject.requester.scope.as_ref().map_or("", ServerName::as_str);
    let (principal, scope) = (subject.requester.caller.principal_hash(), hash(&SHA256, scope.as_bytes()));
    [&principal[..], scope.as_ref(), &subject.digest].concat()
}

fn decode(payload: &[u8]) -> Option<([u8; INSTANCE_LEN], Home, u64, &[u8])> {
    let (instance, rest) = payload.split_first_chunk()?;
    let (home, rest) = rest.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    Some((*instance, Home::decode(*home), u64::from_be_bytes(*number), rest))
}

/// The kind of sealed token that the state of a parked call is.
const KIND: seal::Kind = seal::Kind::new("parked");
const INSTANCE_LEN: usize = 8;
const DIGEST_LEN: usize = 32;
/// How late an old call may be dropped; the age is minutes.
const SWEEP: Duration = Duration::from_secs(1);
