//! The task that reads a connection, and handles each message of the server. It waits for nothing but the server:
//! outcomes and events go to places that always have room.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::yield_now;
use tokio::time::Instant;
use wire::envelope::{self, ScanErrorKind, Value};
use wire::frame_io::FrameReader;
use wire::id::RequestId;
use wire::mcp::method::{Ask, Notice};
use wire::mcp::version::ProtocolVersion;
use wire::{Era, Frame, Kind as MessageKind, Message, ScanError};

use super::liveness::CountingReader;
use super::mux::{IdState, WireId};
use super::pending::{Pending, Work};
use super::turn::{InTurns, Turn};
use super::{
    CLOSE_GRACE, Conn, Job, NOTES, asks, draining, listens, notifications, outgoing, session_over, writer,
};
use crate::call::{Call, Event, InputRequired, Outcome};
use crate::error::{Blame, Error, Kind};
use crate::permit::{Bound, Held};
use crate::upstream::link::Link;
use crate::upstream::link::process::{Process, outlived};
use crate::upstream::metrics::Skip;
use crate::upstream::modern::{self, Judged};
use crate::upstream::{legacy, session_settings};

/// Reads until the connection ends; then ends its writer and its process.
pub(super) async fn run(conn: Arc<Conn>, link: Link) {
    let end = End(conn.clone());
    let writer = conn.context.tasks.spawn(writer::run(conn.clone(), link.outgoing));
    let mut reader = Reader {
        frames: FrameReader::new(
            CountingReader { incoming: InTurns::new(link.incoming), conn: conn.clone() },
            conn.context.config.limits.frame_bytes,
        ),
        conn: conn.clone(),
        turn: Turn::of_messages(),
        quiet_until: None,
        unlogged: 0,
    };
    let pid = link.process.as_ref().and_then(Process::pid);
    // A bridge has a stop ladder of its own, which an early end of the connection would cut short.
    let grace = link.process.as_ref().map_or(CLOSE_GRACE, Process::grace);
    let is_overdue = tokio::select! {
        () = reader.read() => false,
        () = outlived(pid) => false, // cancel-safe, as below
        is_overdue = reader_closing(&conn, grace) => is_overdue, // cancel-safe: what was read is dropped
    };
    drop(reader);
    conn.die();
    let _ = writer.await; // the cut ends it; a panic in it was counted where it happened
    match link.process {
        Some(process) if is_overdue => process.stop_overdue().await,
        Some(process) => process.stop().await,
        None => {}
    }
    drop(end);
}

/// Ends a connection when it is dropped, also by a panic of the reader: its calls must not wait for answers that
/// nobody reads.
struct End(Arc<Conn>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.die();
        self.0.context.metrics.connections.dec();
        self.0.done.cancel();
    }
}

/// Waits until the gateway closes the connection, and then for the end of `grace`. `true` if the server used all of
/// it up; `false` if the connection was cut before.
async fn reader_closing(conn: &Conn, grace: Duration) -> bool {
    tokio::select! {
        () = conn.spec.until.cancelled() => conn.close(&session_over()),
        () = conn.context.stop.cancelled() => conn.close(&draining()),
        () = conn.closing.cancelled() => {}
    }
    tokio::select! {
        () = conn.cut.cancelled() => false,
        () = tokio::time::sleep(grace) => true,
    }
}

struct Reader {
    conn: Arc<Conn>,
    frames: FrameReader<CountingReader>,
    turn: Turn,
    /// Until when dropped messages are only counted.
    quiet_until: Option<Instant>,
    /// How many dropped messages were not logged since the last log line.
    unlogged: u64,
}

impl Reader {
    async fn read(&mut self) {
        loop {
            match self.frames.next().await {
                Ok(Some(Frame::Line(line))) => {
                    self.conn.context.metrics.received(line.len() as u64 + 1);
                    self.line(line);
                }
                Ok(Some(Frame::TooLong { id, kind, bytes })) => {
                    self.conn.context.metrics.received(bytes);
                    self.too_long(id.as_ref(), kind);
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(server = %self.conn.spec.server, conn = self.conn.spec.number, %error, "read failed");
                    return;
                }
            }
            self.turn.take(1);
            if self.turn.ends() {
                yield_now().await;
            }
        }
    }

    fn line(&mut self, line: Bytes) {
        if envelope::is_batch(&line) && self.conn.sends_batches() {
            self.batch(&line);
        } else {
            self.message(line);
        }
    }

    /// Handles several messages in one line. Each is copied: a slice would keep the whole line alive, while only the
    /// slice's bytes are counted.
    fn batch(&mut self, line: &Bytes) {
        match envelope::batch(line, &self.conn.context.config.limits, BATCH_MESSAGES) {
            Ok(messages) if messages.is_empty() => self.skip(Skip::Garbage), // JSON-RPC 2.0 §6
            Ok(messages) => {
                self.turn.take(messages.len());
                messages.iter().for_each(|message| self.message(Bytes::copy_from_slice(message)));
            }
            Err(error) => {
                // The members of an array are its elements.
                if error.kind == ScanErrorKind::TooManyMembers {
                    self.conn.context.permits.metrics().hit(Bound::Batch);
                }
                self.unreadable(&error);
            }
        }
    }

    /// Handles one message. Small answers are bounded by the number of calls; larger messages draw on the byte budget until
    /// their client has taken them.
    fn message(&mut self, text: Bytes) {
        let (text, held) = match text.len() {
            ..COUNTED_FROM_BYTES => (text, Ok(None)),
            _ => match self.conn.context.permits.hold(text) {
                Ok((text, held)) => (text, Ok(Some(held))),
                Err((text, bound)) => (text, Err(bound)),
            },
        };
        match Message::scan_of_server(text, &self.conn.context.config.limits) {
            Ok(message) => self.take(message, held),
            Err(error) => self.unreadable(&error),
        }
    }

    /// A call has one answer, which is passed on as a slice of what was read. Of other messages many may wait for a client, and
    /// each would keep all that was read with it, while only its own bytes are counted: so these are copied.
    fn take(&mut self, message: Message, held: Result<Option<Held>, Bound>) {
        let own = |held: Option<Held>, message: Message| {
            let copy = match held {
                Some(held) => held.copy(message.bytes()),
                None => Bytes::copy_from_slice(message.bytes()),
            };
            message.moved_to(copy)
        };
        match (message.kind(), held) {
            (MessageKind::Response, held) => self.answer(message, held),
            (_, Err(_)) => self.no_room(&message),
            (MessageKind::Notification, Ok(held)) => self.notice(own(held, message)),
            (MessageKind::Request, Ok(held)) => self.asked(own(held, message)),
        }
    }

    /// Drops a message other than an answer, for which the byte budget has no room. It shows that the server works on.
    fn no_room(&mut self, message: &Message) {
        if let Some(id) = message.id() {
            self.conn.queue_note(outgoing::answer(id, NO_ROOM), NOTES); // counted below, written or not
        } else if Notice::parse(message.method()) == Notice::Progress
            && let Some(token) = message.param("progressToken").and_then(|token| ours(&token))
        {
            self.conn.progressed(token, None);
        }
        self.skip(Skip::NoRoom);
    }

    fn answer(&mut self, message: Message, held: Result<Option<Held>, Bound>) {
        let pending = self.conn.close_answered(message.id());
        let fits = held.and_then(|held| match (held, &pending) {
            (Some(held), Ok(Pending { work: Work::Call { job, .. }, .. })) => {
                held.attribute(job.call.caller.principal())
            }
            _ => Ok(()),
        });
        match pending {
            Ok(pending) if let Err(bound) = fits => pending.work.fail(bound.no_room_for_answer()),
            Ok(Pending { work: Work::Call { job, slot }, missing, .. }) => {
                let Job { call, responder, lease, .. } = *job;
                let outcome = match missing.filter(|_| message.error().is_some()) {
                    Some(required) => Some(Outcome::Failed(required.missing_at(&self.conn.spec.server))),
                    None => self.outcome(&call, &message),
                };
                let Some(outcome) = outcome else {
                    drop((slot, lease));
                    let input = Box::new(InputRequired::new(call, self.conn.spec.server.clone(), message));
                    return responder.finish(Outcome::InputRequired(input));
                };
                if matches!(outcome, Outcome::Result(_)) {
                    self.conn.note_task(&call, &message);
                    session_settings::note_accepted(&call, &self.conn.spec.server);
                }
                // The caller may send its next call at once, so what this one held must be free before.
                drop((call, slot, lease));
                responder.finish(outcome);
            }
            Ok(Pending { work: Work::Own { responder, .. }, .. }) => {
                let outcome = match (message.result(), message.error()) {
                    (Some(result), _) => Outcome::Result(result.span().slice(message.bytes()).into()),
                    (None, Some(error)) => Outcome::Refused(error.span().slice(message.bytes())),
                    (None, None) => Outcome::Failed(self.broken()),
                };
                responder.finish(outcome);
            }
            Err(IdState::Closed) => self.late(),
            Err(_) => self.skip(Skip::UnknownId),
        }
    }

    /// The outcome of a call that was answered; `None` if the server requires input first.
    fn outcome(&self, call: &Call, message: &Message) -> Option<Outcome> {
        let era = self.conn.spec.era;
        if let Some(error) = message.error() {
            let uri = call.request.param("uri").and_then(|uri| uri.as_str());
            return Some(match era {
                Era::Legacy => legacy::refusal(call.method, uri.as_deref(), error),
                Era::Modern => modern::refusal(call.method, uri.as_deref(), error),
            });
        }
        let result = match era {
            Era::Legacy => legacy::result(call, message, self.conn.task_ids()),
            Era::Modern => match modern::judge(call, message, self.conn.task_ids()) {
                Some(Judged::Input) => return None,
                Some(Judged::Complete(result)) => Some(result),
                None => None,
            },
        };
        Some(result.map_or_else(|| Outcome::Failed(self.broken()), Outcome::Result))
    }

    fn notice(&mut self, message: Message) {
        let notice = Notice::parse(message.method());
        if let Some(id) = listens::named(&message).filter(|_| self.conn.spec.era == Era::Modern) {
            if !self.conn.deliver_to_listen(id, notice, message) {
                self.late();
            }
            return;
        }
        match (notice, &self.conn.spec.client) {
            (Notice::Progress, _) => self.progress(message),
            (Notice::Cancelled, Some(_)) => self.conn.ask_cancelled(&message),
            (Notice::Cancelled, None) => self.conn.listen_cancelled(&message),
            (_, Some(client)) if notifications::is_for_client(client, notice) => {
                if !self.conn.deliver(client, notice, message) {
                    self.conn.context.permits.metrics().hit(Bound::EventBytes);
                }
            }
            (Notice::Message, None) => {
                if !self.conn.deliver_log(message) {
                    self.conn.context.metrics.skipped(Skip::Log); // no fault of the server's
                }
            }
            _ => {
                if let Some(owner) = self.conn.context.owner.upgrade() {
                    owner.notice(&self.conn, notice, &message);
                }
            }
        }
    }

    fn progress(&mut self, message: Message) {
        // MCP 2025-11-25 schema, ProgressNotificationParams; official clients fail on anything else. Not on numbers that do not
        // rise, whose messages are of use.
        let is_valid = message.param("progress").is_some_and(|progress| progress.parse::<f64>().is_ok());
        let message = match &self.conn.spec.client {
            Some(client) => self.conn.task_ids().show_to(client, None, message),
            None => message,
        };
        let id_state = match message.param("progressToken").and_then(|token| ours(&token)) {
            Some(token) => self.conn.progressed(token, Some(message).filter(|_| is_valid)),
            None => IdState::Unknown,
        };
        match id_state {
            IdState::Open if is_valid => {}
            IdState::Open => self.skip(Skip::Progress),
            IdState::Closed => self.late(),
            IdState::Unknown => self.skip(Skip::Progress),
        }
    }

    fn asked(&mut self, message: Message) {
        let Some(id) = message.id().cloned() else { return };
        let kind = Ask::parse(message.method());
        let (outcome, lacks) = match (kind, &self.conn.spec.client) {
            (Ask::Ping, _) => (asks::PONG, false),
            (_, Some(client)) => match client.refusal(kind, &message) {
                Some(refusal) => (refusal, client.session().is_none()),
                None => return self.conn.relay(client, kind, (id, message)),
            },
            (kind, None) => (asks::unattributed(kind), kind != Ask::Roots),
        };
        if lacks {
            self.conn.lacks(kind, &message);
        }
        if !self.conn.queue_note(outgoing::answer(&id, outcome), NOTES) {
            self.skip(Skip::Flood);
        }
    }

    /// Handles a line that is no valid message. If it was meant as a response, its request fails, because no other
    /// will come. If it was meant as a request, the server gets an error, because it may wait for an answer.
    fn unreadable(&mut self, error: &ScanError) {
        if let Some(id) = error.id.as_ref().filter(|_| error.is_request) {
            let was_queued = self.conn.queue_note(outgoing::unreadable(id, error), NOTES);
            return self.skip(if was_queued { Skip::Garbage } else { Skip::Flood });
        }
        match self.conn.close_answered(error.id.as_ref().filter(|_| error.is_response)) {
            Ok(pending) => pending.work.fail(self.broken()),
            Err(_) => self.skip(Skip::Garbage),
        }
    }

    fn too_long(&mut self, id: Option<&RequestId>, kind: Option<MessageKind>) {
        self.conn.context.permits.metrics().hit(Bound::Frame);
        // The id of a request of the server is not one of ours.
        let ours = id.filter(|_| !matches!(kind, Some(MessageKind::Request | MessageKind::Notification)));
        if let Ok(pending) = self.conn.close_answered(ours) {
            let server = &self.conn.spec.server;
            let message = format!("the answer of server `{server}` is larger than this gateway takes");
            pending.work.fail(Error::new(Kind::TooLarge, Blame::Upstream, message));
        }
        if let (Some(id), Some(MessageKind::Request)) = (id, kind) {
            self.conn.queue_note(outgoing::answer(id, TOO_LARGE), NOTES); // counted below, written or not
        }
        self.skip(Skip::TooLong);
    }

    fn broken(&self) -> Error {
        let message =
            format!("server `{}` sent an answer that is no valid MCP message", self.conn.spec.server);
        Error::new(Kind::Protocol, Blame::Upstream, message)
    }

    /// Counts a response or notification whose request is closed. Nearly all of these crossed its cancellation, which
    /// is no fault of the server and worth no warning.
    fn late(&self) {
        self.conn.context.metrics.skipped(Skip::Late);
    }

    /// Counts a dropped message. Logs it at most once per [`QUIET`], and never its content.
    fn skip(&mut self, reason: Skip) {
        self.conn.context.metrics.skipped(reason);
        let now = Instant::now();
        if self.quiet_until.is_some_and(|until| now < until) {
            self.unlogged += 1;
            return;
        }
        let (server, conn, unsaid) = (&self.conn.spec.server, self.conn.spec.number, self.unlogged);
        tracing::warn!(%server, conn, ?reason, unsaid, "message of a server dropped");
        self.quiet_until = Some(now + QUIET);
        self.unlogged = 0;
    }
}

impl Conn {
    // MCP 2025-03-26 basic, Batching: receiving must be supported; removed in 2025-06-18
    fn sends_batches(&self) -> bool {
        self.facts.get().is_some_and(|facts| facts.version == ProtocolVersion::V2025_03_26)
    }

    /// Removes the request that a response with this id answers.
    fn close_answered(&self, id: Option<&RequestId>) -> Result<Pending, IdState> {
        // Some servers return ids as text; official clients accept that too.
        let id = id.and_then(RequestId::as_u64_or_digits).map(WireId::from_number);
        let id = id.ok_or(IdState::Unknown)?;
        let mut state = self.state.lock();
        // A request that was not written cannot have been answered: the server made up the id.
        if state.mux.get_mut(id).is_some_and(|pending| !pending.written) {
            return Err(IdState::Unknown);
        }
        let Some(pending) = state.mux.close(id) else { return Err(state.mux.state_of(id)) };
        state.last_used = Instant::now();
        drop(state);
        self.count_closed(&pending.work);
        Ok(pending)
    }

    /// Restarts the timeout of a call, and delivers its progress if there is something to deliver.
    fn progressed(&self, id: WireId, message: Option<Message>) -> IdState {
        let mut state = self.state.lock();
        let Some(pending) = state.mux.get_mut(id) else { return state.mux.state_of(id) };
        // The gateway's own requests ask for no progress.
        if !pending.work.is_call() {
            return IdState::Unknown;
        }
        pending.renew(self.context.config.call_timeout);
        let Some(message) = message else { return IdState::Open };
        let was_taken = pending.work.events().is_none_or(|events| events.event(Event::Progress(message)));
        if !was_taken {
            self.context.permits.metrics().hit(Bound::EventBytes);
        }
        IdState::Open
    }
}

/// The id of a request, as a server sends it back; some servers make a text of it.
pub(super) fn ours(value: &Value<'_>) -> Option<WireId> {
    RequestId::parse(value.raw())?.as_u64_or_digits().map(WireId::from_number)
}

// JSON-RPC 2.0 §5.1
const TOO_LARGE: &str =
    r#","error":{"code":-32600,"message":"the request is larger than `limits.frame` of this gateway"}}"#;
const NO_ROOM: &str = r#","error":{"code":-32603,"message":"there is no room for the request in `limits.held_bytes` of this gateway"}}"#;
/// Messages from this size on draw on the byte budget. 16 KiB: below it, counting would cost more than the bytes.
const COUNTED_FROM_BYTES: usize = 16 << 10;
/// Messages of one batch. 1,024: as many responses as a server may have calls.
const BATCH_MESSAGES: usize = 1024;
/// How often a connection logs dropped messages at most. 10 s: a flood of them must not flood the log.
const QUIET: Duration = Duration::from_secs(10);
