//! One local client on a pair of byte streams: the edge as a stdio server, in both eras.
//!
//! ```text
//! lines in ─▶ era ─▶ modern │ legacy ─▶ a task for each answer ─▶ outbox ─▶ lines out
//! ```
//! The adapters are those of HTTP; only the transport differs. There is at most one session, which belongs to the
//! pipe, and both end together. Guarantees: reading goes on while calls are in flight, and stops when `ANSWERS`
//! immediate answers have not been read; after the end of the input, calls in flight are finished.
// MCP 2025-11-25 basic/transports, stdio; MCP 2026-07-28 basic/transports/stdio

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use wire::code;
use wire::envelope::is_batch;
use wire::frame::Frame;
use wire::frame_io::{FrameReader, FrameWriter};
use wire::id::RequestId;
use wire::mcp::method::{Method, Notice};
use wire::{Kind, Message};

use super::door::classify::{Class, Clues, classify};
use super::door::inbound::{InboundMessage, Started};
use super::legacy::outbox::{Messages, Outbox, outbox};
use super::legacy::{self, batch};
use super::refusal::Refusal;
use super::requester::Requester;
use super::{Front, modern};
use crate::call::Caller;
use crate::ops::drain::DrainWatch;
use crate::permit::Bound;
use crate::session::Session;

/// The principal of the client that started the process.
pub const LOCAL: &str = "local";

/// Serves until the input ends, nobody reads the output, or the process stops. Then `left` is cancelled, and calls in
/// flight are finished, or cut with the process.
pub async fn serve<R, W>(front: Arc<Front>, (input, output): (R, W), left: CancellationToken)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let drain = front.rooms.drain.clone();
    let (outbox, messages) = outbox(front.rooms.permits.metrics());
    let writing = drain.spawn(write(output, messages, drain.clone()));
    let mut pipe = Pipe::new(front, outbox);
    pipe.read(input).await;
    left.cancel();
    tokio::select! {
        () = pipe.finish() => {}
        () = drain.cut() => {}
    }
    drop(pipe);
    // It ends with the last message, or the cut.
    let _ = writing.await;
}

async fn write<W: AsyncWrite + Unpin>(output: W, mut messages: Messages, drain: DrainWatch) {
    let mut writer = FrameWriter::new(output);
    let writing = async {
        while let Some(message) = messages.next().await {
            if let Err(error) = writer.write(message).await {
                return tracing::info!(%error, "the client reads no more");
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = drain.cut() => {}
    }
}

struct Pipe {
    front: Arc<Front>,
    requester: Requester,
    outbox: Outbox,
    session: Option<Arc<Session>>,
    /// Immediate answers: to pings and invalid messages.
    answers: JoinSet<()>,
    /// Calls in flight, bounded by their permits and their session, and answers that wait for names, of which one has no
    /// permit, that to `initialize`. Each returns the id of its modern request.
    calls: JoinSet<Option<RequestId>>,
    /// Modern requests in flight, to be cancelled by id.
    modern: HashMap<RequestId, AbortHandle>,
    /// Listens of a modern client; they end with the pipe.
    listens: JoinSet<Option<RequestId>>,
    /// The session's own stream; ends with the pipe.
    listening: JoinSet<()>,
}

impl Pipe {
    fn new(front: Arc<Front>, outbox: Outbox) -> Self {
        Self {
            front,
            requester: Requester { caller: Caller::new(LOCAL), scope: None },
            outbox,
            session: None,
            answers: JoinSet::new(),
            calls: JoinSet::new(),
            modern: HashMap::new(),
            listens: JoinSet::new(),
            listening: JoinSet::new(),
        }
    }

    async fn read(&mut self, input: impl AsyncRead + Unpin) {
        let (drain, outbox) = (self.front.rooms.drain.clone(), self.outbox.clone());
        let mut reader = FrameReader::new(input, self.front.config.limits.body_bytes);
        loop {
            if self.answers.len() >= ANSWERS {
                self.front.rooms.permits.metrics().hit(Bound::Answers);
            }
            // All arms are cancel-safe: what the reader has stays in it.
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = outbox.closed() => return,
                Some(ended) = self.calls.join_next(), if !self.calls.is_empty() => self.forget(ended.ok()),
                Some(ended) = self.listens.join_next(), if !self.listens.is_empty() => self.forget(ended.ok()),
                Some(_) = self.answers.join_next(), if !self.answers.is_empty() => {}
                frame = reader.next(), if self.answers.len() < ANSWERS => match frame {
                    Ok(Some(frame)) => self.take(frame),
                    Ok(None) => return tracing::info!("the client has closed its output"),
                    Err(error) => return tracing::warn!(%error, "the client cannot be read"),
                }
            }
        }
    }

    fn forget(&mut self, answered: Option<Option<RequestId>>) {
        if let Some(id) = answered.flatten() {
            self.modern.remove(&id);
        }
    }

    /// Waits for the calls that are still in flight.
    async fn finish(&mut self) {
        // Nothing is read any more, so no answer can come; a call that waits for one would last as long as its timeout.
        if let Some(session) = &self.session {
            session.close_asks();
        }
        while self.calls.join_next().await.is_some() || self.answers.join_next().await.is_some() {}
        if let Some(session) = self.session.take() {
            self.front.rooms.sessions.delete(&session);
        }
        self.listening.shutdown().await;
        // When the process stops, listens end with a message; a client that has left needs none.
        if self.front.rooms.drain.is_stopping() {
            while self.listens.join_next().await.is_some() {}
        }
        self.listens.shutdown().await;
    }

    fn take(&mut self, frame: Frame) {
        let limits = &self.front.config.limits;
        let (refusal, id) = match frame {
            Frame::Line(line) => match self.line(line) {
                Ok(()) => return,
                Err(refusal) => (refusal, None),
            },
            // Messages that are never answered are skipped.
            Frame::TooLong { kind: Some(Kind::Notification | Kind::Response), .. } => return self.too_long(),
            Frame::TooLong { id, .. } => {
                self.too_long();
                let limit_bytes = limits.body_bytes;
                let text = format!("the message is larger than {limit_bytes} bytes (limits.body)");
                let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, code::INVALID_REQUEST, text);
                (refusal.with_data(json!({ "reason": "too_large" })), id)
            }
        };
        self.answer(None, Err(refusal.answering(id.as_ref())));
    }

    fn line(&mut self, line: Bytes) -> Result<(), Refusal> {
        let session = self.session.clone().filter(|session| batch::is_known_to(session));
        if let Some(session) = session.filter(|_| is_batch(&line)) {
            let batch = batch::take(&self.front, &self.requester, &session, &line)?;
            batch.into_iter().for_each(|started| self.answer(None, Ok(Some(started))));
            return Ok(());
        }
        let message = Message::scan(line, &self.front.config.limits);
        self.message(message.map_err(|error| self.front.unreadable(&error))?);
        Ok(())
    }

    fn too_long(&self) {
        self.front.rooms.permits.metrics().hit(Bound::Body);
    }

    fn message(&mut self, message: Message) {
        let id = (message.kind() == Kind::Request).then(|| message.id().cloned()).flatten();
        let clues = Clues { version: None, session: self.session.is_some() };
        let class = match classify(&message, clues) {
            Ok(class) => class,
            Err(refusal) => return self.answer(None, Err(refusal.answering(id.as_ref()))),
        };
        if message.kind() == Kind::Notification && self.cancels(&message) {
            return;
        }
        let started = match class {
            Class::Modern => self.modern(message),
            // Only the cancellation is defined for clients.
            Class::ModernNotice => Ok(None),
            Class::Initialize => self.initialize(message).map(Some),
            Class::Legacy => self.legacy(message),
        };
        let modern = id.clone().filter(|_| class == Class::Modern);
        self.answer(modern, started.map_err(|refusal| refusal.answering(id.as_ref())));
    }

    /// Whether this cancels a modern request, which is then not answered.
    // MCP 2026-07-28 basic/patterns/cancellation: over stdio by a notification
    fn cancels(&mut self, notice: &Message) -> bool {
        if Notice::parse(notice.method()) != Notice::Cancelled {
            return false;
        }
        let id = notice.param("requestId").and_then(|value| RequestId::parse(value.raw()));
        let call = id.and_then(|id| self.modern.remove(&id));
        call.inspect(AbortHandle::abort).is_some()
    }

    fn modern(&self, message: Message) -> Result<Option<Started>, Refusal> {
        // MCP 2026-07-28 basic, Requests: no two requests in flight have the same id
        if message.id().is_some_and(|id| self.modern.contains_key(id)) {
            return Err(invalid("a request of this id is still in flight; use another id"));
        }
        modern::start(&self.front, self.inbound(message)).map(Some)
    }

    fn initialize(&mut self, message: Message) -> Result<Started, Refusal> {
        // MCP 2025-11-25 basic/lifecycle: the first interaction, and the only one of its kind
        if self.session.is_some() {
            return Err(invalid("this connection is initialized already"));
        }
        let (session, greeting) = legacy::open(&self.front, &self.inbound(message))?;
        let (outbox, reader) = (self.outbox.clone(), legacy::listen(&self.front, &session));
        self.listening.spawn(async move { outbox.listen(reader).await });
        self.session = Some(session);
        Ok(greeting.started())
    }

    fn legacy(&self, message: Message) -> Result<Option<Started>, Refusal> {
        match &self.session {
            Some(session) => legacy::take(&self.front, self.inbound(message), session),
            None if Method::parse(message.method()) == Method::Ping && message.kind() == Kind::Request => {
                Ok(Some(legacy::pong(&message)))
            }
            None if message.kind() == Kind::Request => Err(invalid("send initialize first")),
            None => Ok(None),
        }
    }

    fn inbound(&self, message: Message) -> InboundMessage {
        let mut permit = self.front.rooms.permits.call(self.requester.caller.principal());
        if let Ok(held) = &mut permit
            && let Err(bound) = held.hold_bytes(message.bytes().len())
        {
            permit = Err(bound);
        }
        InboundMessage { requester: self.requester.clone(), permit, message }
    }

    fn answer(&mut self, modern: Option<RequestId>, started: Result<Option<Started>, Refusal>) {
        let outbox = self.outbox.clone();
        match started {
            Ok(None) => {}
            Ok(Some(Started::Call(_) | Started::Listen(_) | Started::Greeting(_))) => {
                let id = modern.clone();
                let set = if matches!(started, Ok(Some(Started::Listen(_)))) {
                    &mut self.listens
                } else {
                    &mut self.calls
                };
                let call = set.spawn(async move {
                    outbox.deliver(started).await;
                    id
                });
                if let Some(id) = modern {
                    self.modern.insert(id, call);
                }
            }
            Ok(Some(Started::Answered(_))) | Err(_) => {
                self.answers.spawn(async move { outbox.deliver(started).await });
            }
        }
    }
}

fn invalid(message: &'static str) -> Refusal {
    Refusal::bad_request(code::INVALID_REQUEST, message)
}

/// Immediate answers that are not written yet; beyond this number, and those of one batch, the input is not read. 256: as
/// many as calls.
const ANSWERS: usize = 256;
