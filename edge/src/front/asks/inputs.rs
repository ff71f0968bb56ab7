//! The questions of a legacy server in a call, as a modern client sees them: `inputRequests` in a result,
//! `inputResponses` in the retry.
//!
//! Questions that come within a moment of the first are sent together. A question for which the client did not declare
//! the capability is refused to the server here.
// MCP 2026-07-28 basic/patterns/mrtr

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Sleep, sleep};
use wire::limits::Limits;
use wire::mcp::version::ProtocolVersion;
use wire::object::Object;
use wire::splice::{Parts, Splice};
use wire::{Message, code};

use super::questions::Edits;
use crate::call::{Answer, Ask, Capabilities, Client};
use crate::error::{Blame, Error, Kind};
use crate::front::refusal::{ErrorObject, Refusal};

/// The error of a server that would ask its client for ever; trying again would not help.
pub(super) fn too_many_rounds(max: usize) -> Error {
    let message = format!("the server asked for input more than {max} times in one call");
    Error::new(Kind::Protocol, Blame::Upstream, message)
}

/// The questions of one call.
pub(in crate::front) struct Inputs {
    client: Arc<Client>,
    /// By the key in `inputRequests`.
    open: Vec<(String, Ask)>,
    /// Questions so far, so that no key is used twice in a call.
    asked: u32,
    rounds: usize,
    /// While it lasts, more questions may join; then they are sent.
    window: Option<Pin<Box<Sleep>>>,
}

impl Inputs {
    /// No questions yet, in a call that `client` has made in so many rounds before.
    pub(super) fn new(client: Arc<Client>, rounds: usize) -> Self {
        Self { client, open: Vec::new(), asked: 0, rounds, window: None }
    }

    /// The client that is asked.
    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Keeps the capabilities of the client, and nothing of the request that declared them.
    pub(in crate::front) fn detach(&mut self) {
        let can = Bytes::from(Capabilities::of(&self.client).to_json());
        self.client = Arc::new(Client { capabilities: Some(can), ..Client::default() });
    }

    /// Rounds so far.
    pub(super) fn rounds(&self) -> usize {
        self.rounds
    }

    /// Takes a question for the next round, or refuses it.
    pub(in crate::front) fn put(&mut self, ask: Ask) {
        match self.keep(ask) {
            None => self.wait_for_more(),
            Some((ask, answer)) => ask.answer(answer),
        }
    }

    /// Takes a question until the client fetches it. A question that this client cannot be asked is returned with its
    /// refusal.
    pub(in crate::front) fn keep(&mut self, ask: Ask) -> Option<(Ask, Answer)> {
        if let Some(refusal) = refusal(&ask, &self.client) {
            return Some((ask, refusal));
        }
        self.asked += 1;
        self.open.push((format!("ask-{}", self.asked), ask));
        None
    }

    /// Whether any question waits for an answer.
    pub(in crate::front) fn are_open(&self) -> bool {
        self.open.iter().any(|(_, ask)| !ask.withdrawn.is_cancelled())
    }

    /// Takes out the questions that the server has withdrawn.
    pub(in crate::front) fn take_withdrawn(&mut self) -> Vec<(String, Ask)> {
        self.open.extract_if(.., |(_, ask)| ask.withdrawn.is_cancelled()).collect()
    }

    /// Takes out all questions that were not answered.
    pub(in crate::front) fn take_open(&mut self) -> Vec<(String, Ask)> {
        std::mem::take(&mut self.open)
    }

    /// Ready when the client is to be asked.
    pub(super) fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(window) = &mut self.window else { return Poll::Pending };
        std::task::ready!(window.as_mut().poll(context));
        self.window = None;
        self.open.retain(|(_, ask)| !ask.withdrawn.is_cancelled());
        if self.open.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Counts a round; `false` when there were `max` already.
    pub(super) fn next_round(&mut self, max: usize) -> bool {
        let more = self.rounds < max;
        self.rounds += usize::from(more);
        more
    }

    /// The members of `inputRequests`, in slices of what the server sent.
    pub(in crate::front) fn requests(&self) -> Parts {
        let mut all = Parts::new();
        let mut lead = "";
        for (key, ask) in self.open.iter().filter(|(_, ask)| !ask.withdrawn.is_cancelled()) {
            let method = ask.kind.as_str();
            all.push(Bytes::from(format!(r#"{lead}"{key}":{{"method":"{method}","params":"#)));
            // `roots/list` may come without params; the Go SDK's client refuses a request that has none.
            all.extend(params(ask, &self.client).unwrap_or_else(|| Bytes::from_static(b"{}").into()));
            all.push(Bytes::from_static(b"}"));
            lead = ",";
        }
        all
    }

    /// Goes on with a retry of `client`. Its answers are passed on; answers to questions that were not asked are ignored.
    /// What it left out is asked again, unless the retry no longer declares the capability: then that is refused.
    // MCP 2026-07-28 basic, _meta: capabilities are those of the request, and none are inferred from an earlier one
    pub(super) fn resume(&mut self, client: Arc<Client>, answers: &Answers) {
        self.take_answered(answers).into_iter().for_each(|(ask, answer)| ask.answer(answer));
        self.client = client;
        for (key, ask) in std::mem::take(&mut self.open) {
            match refusal(&ask, &self.client) {
                None => self.open.push((key, ask)),
                Some(refusal) => ask.answer(refusal),
            }
        }
        if !self.open.is_empty() {
            self.wait_for_more();
        }
    }

    /// Takes out the questions that are answered. The caller passes the answers on, which may take other locks.
    pub(in crate::front) fn take_answered(&mut self, answers: &Answers) -> Vec<(Ask, Answer)> {
        self.open.retain(|(_, ask)| !ask.withdrawn.is_cancelled());
        let mut answered = Vec::new();
        for (key, ask) in std::mem::take(&mut self.open) {
            match answers.get(&key) {
                Some(answer) => answered.push((ask, Answer::Result(answer))),
                None => self.open.push((key, ask)),
            }
        }
        answered
    }

    fn wait_for_more(&mut self) {
        self.window.get_or_insert_with(|| Box::pin(sleep(WINDOW)));
    }
}

/// The refusal that the server gets if this client cannot be asked this; `None` if it can.
fn refusal(ask: &Ask, client: &Client) -> Option<Answer> {
    let why = edits(ask, client).err()?;
    let error = ErrorObject { code: code::INVALID_PARAMS, message: why.into(), data: None };
    Some(Answer::Refused(error.to_bytes()))
}

/// The edits that make a request fit for this client. A modern client's params are those of 2025-11-25 with fewer members.
fn edits(ask: &Ask, client: &Client) -> Result<Edits, &'static str> {
    Edits::of(ask.kind, &ask.request, ProtocolVersion::V2026_07_28, client)
}

// MCP 2026-07-28 schema, InputRequest: without `_meta`, and a URL has no elicitationId
fn params(ask: &Ask, client: &Client) -> Option<Parts> {
    let (request, edits) = (&ask.request, edits(ask, client).ok()?);
    let mut splice = Splice::within(request.bytes().clone(), request.params()?.span());
    edits.without(["_meta", "elicitationId"]).make(request, &mut splice, None);
    Some(splice.finish())
}

/// The `inputResponses` of a retry: objects by key.
pub(in crate::front) struct Answers {
    bytes: Bytes,
    object: Option<Object>,
}

impl Answers {
    /// Those in `request`, which may have none.
    ///
    /// # Errors
    /// When `inputResponses` is not an object of objects.
    pub(in crate::front) fn of(request: &Message, limits: &Limits) -> Result<Self, Refusal> {
        let bytes = request.bytes().clone();
        let Some(value) = request.param("inputResponses") else { return Ok(Self { bytes, object: None }) };
        let wrong = || {
            let message = "params.inputResponses must be an object that has an object for each key";
            Refusal::bad_request(code::INVALID_PARAMS, message)
        };
        let object = Object::scan(&bytes, value.span(), limits).map_err(|_| wrong())?;
        if object.members().any(|member| member.value.of(&bytes).first() != Some(&b'{')) {
            return Err(wrong());
        }
        Ok(Self { bytes, object: Some(object) })
    }

    /// The answer under `key`, a JSON object.
    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        Some(self.object.as_ref()?.get(&self.bytes, key)?.slice(&self.bytes))
    }
}

/// How long a question waits for others: longer than a server needs to write a second one, shorter than a person
/// notices.
const WINDOW: Duration = Duration::from_millis(10);
