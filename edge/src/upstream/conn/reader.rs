//! The task that reads, and what each message of a server means. It waits for nobody but the server: answers
//! and events go to places that are always free.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use wire::envelope::{self, ScanErrorKind, Value};
use wire::frame_io::FrameReader;
use wire::id::RequestId;
use wire::mcp::method::{Ask, Notice};
use wire::mcp::version::ProtocolVersion;
use wire::{Era, Frame, Kind as MessageKind, Message, ScanError};

use super::mux::{Standing, WireId};
use super::open_tasks::Task;
use super::pending::{Pending, Work};
use super::silence::Counted;
use super::{CLOSE_GRACE, Conn, Job, NOTES, asks, draining, listens, news, outgoing, session_over, writer};
use crate::call::{Call, Event, InputRequired, Outcome};
use crate::error::{Blame, Error, Kind};
use crate::permit::Bound;
use crate::upstream::link::Link;
use crate::upstream::link::process::{Process, outlived};
use crate::upstream::metrics::Skip;
use crate::upstream::modern::{self, Judged};
use crate::upstream::{legacy, wishes};

/// Reads until the connection ends, then sees to it that everything of it is gone.
pub(super) async fn run(conn: Arc<Conn>, link: Link) {
    let end = End(conn.clone());
    let writer = conn.around.tasks.spawn(writer::run(conn.clone(), link.outgoing));
    let mut reader = Reader {
        frames: FrameReader::new(
            Counted { incoming: link.incoming, conn: conn.clone() },
            conn.around.config.limits.frame_bytes,
        ),
        conn: conn.clone(),
        quiet_until: None,
        unsaid: 0,
    };
    let pid = link.process.as_ref().and_then(Process::pid);
    // Behind a bridge there is another ladder, and the end of the connection would cut it short.
    let grace = link.process.as_ref().map_or(CLOSE_GRACE, Process::grace);
    let is_overdue = tokio::select! {
        () = reader.read() => false,
        () = outlived(pid) => false, // cancel-safe, as below
        is_overdue = reader_closing(&conn, grace) => is_overdue, // cancel-safe: what was read is not wanted any more
    };
    drop(reader);
    conn.die();
    let _ = writer.await; // it ends by the cut, if not before; a panic in it was counted where it happened
    match link.process {
        Some(process) if is_overdue => process.stop_overdue().await,
        Some(process) => process.stop().await,
        None => {}
    }
    drop(end);
}

/// The end of a connection, also when it comes by a panic: its calls must not wait for an answer that nobody
/// reads.
struct End(Arc<Conn>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.die();
        self.0.around.metrics.connections.dec();
        self.0.done.cancel();
    }
}

/// Resolves when the server had `grace` to end, after an end from our side; `false` if it is of no use any more before.
async fn reader_closing(conn: &Conn, grace: Duration) -> bool {
    tokio::select! {
        () = conn.spec.until.cancelled() => conn.close(&session_over()),
        () = conn.around.stop.cancelled() => conn.close(&draining()),
        () = conn.closing.cancelled() => {}
    }
    tokio::select! {
        () = conn.cut.cancelled() => false,
        () = tokio::time::sleep(grace) => true,
    }
}

struct Reader {
    conn: Arc<Conn>,
    frames: FrameReader<Counted>,
    /// Until when dropped messages are counted and not logged one by one.
    quiet_until: Option<Instant>,
    unsaid: u64,
}

impl Reader {
    async fn read(&mut self) {
        loop {
            match self.frames.next().await {
                Ok(Some(Frame::Line(line))) => {
                    self.conn.around.metrics.received(line.len() as u64 + 1);
                    self.line(line);
                }
                Ok(Some(Frame::TooLong { id, kind, bytes })) => {
                    self.conn.around.metrics.received(bytes);
                    self.too_long(id.as_ref(), kind);
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(server = %self.conn.spec.server, conn = self.conn.spec.number, %error, "read failed");
                    return;
                }
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

    /// Several messages in one line. Copies, for a slice would keep the whole line for as long as one of them is kept, and
    /// only its own bytes count.
    fn batch(&mut self, line: &Bytes) {
        match envelope::batch(line, &self.conn.around.config.limits, BATCH_MESSAGES) {
            Ok(messages) if messages.is_empty() => self.skip(Skip::Garbage), // JSON-RPC 2.0 §6
            Ok(messages) => messages.iter().for_each(|message| self.message(Bytes::copy_from_slice(message))),
            Err(error) => {
                // Of an array, its elements are the members.
                if error.kind == ScanErrorKind::TooManyMembers {
                    self.conn.around.permits.metrics().hit(Bound::Batch);
                }
                self.unreadable(&error);
            }
        }
    }

    /// Small messages are bounded by the number of calls; larger ones count for as long as a client, however
    /// slow, has not taken them.
    fn message(&mut self, text: Bytes) {
        let (text, full) = match text.len() {
            ..COUNTED_FROM_BYTES => (text, None),
            _ => match self.conn.around.permits.hold(text) {
                Ok(text) => (text, None),
                Err((text, bound)) => (text, Some(bound)),
            },
        };
        match (Message::scan_of_server(text, &self.conn.around.config.limits), full) {
            (Ok(message), Some(bound)) if message.kind() == MessageKind::Response => {
                if let Ok(pending) = self.conn.close_answered(message.id()) {
                    pending.work.fail(bound.refusal());
                }
            }
            (Ok(message), _) => self.take(message),
            (Err(error), _) => self.unreadable(&error),
        }
    }

    fn take(&mut self, message: Message) {
        match message.kind() {
            MessageKind::Response => self.answer(message),
            MessageKind::Notification => self.notice(message),
            MessageKind::Request => self.asked(message),
        }
    }

    fn answer(&mut self, message: Message) {
        match self.conn.close_answered(message.id()) {
            Ok(Pending { work: Work::Call { job, slot }, missing, .. }) => {
                let Job { call, responder, lease, .. } = *job;
                let outcome = match missing.filter(|_| message.error().is_some()) {
                    Some(required) => Some(Outcome::Failed(self.lacking(required))),
                    None => self.outcome(&call, &message),
                };
                let Some(outcome) = outcome else {
                    drop((slot, lease));
                    let input = Box::new(InputRequired::new(call, self.conn.spec.server.clone(), message));
                    return responder.finish(Outcome::InputRequired(input));
                };
                if matches!(outcome, Outcome::Result(_)) {
                    if let Some(task) = Task::of(&call, &message) {
                        self.conn.state.lock().open_tasks.note(task, Instant::now());
                    }
                    wishes::agreed(&call, &self.conn.spec.server);
                }
                // The caller may send its next call at once: what this one held is free by then.
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
            Err(Standing::Over) => self.late(),
            Err(_) => self.skip(Skip::UnknownId),
        }
    }

    /// `None` when the server wants input first.
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
            Era::Legacy => legacy::result(call, message, &self.conn.around.task_ids),
            Era::Modern => match modern::judge(call, message, &self.conn.around.task_ids) {
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
            if !self.conn.heard(id, notice, message) {
                self.late();
            }
            return;
        }
        match (notice, &self.conn.spec.tenant) {
            (Notice::Progress, _) => self.progress(message),
            (Notice::Cancelled, Some(_)) => self.conn.ask_cancelled(&message),
            (Notice::Cancelled, None) => self.conn.listen_cancelled(&message),
            (_, Some(tenant)) if news::is_told_by(tenant, notice) => {
                if !self.conn.pass_on(tenant, notice, message) {
                    self.conn.around.permits.metrics().hit(Bound::EventBytes);
                }
            }
            (Notice::Message, None) if self.conn.spec.era == Era::Modern => {
                if !self.conn.pass_log(message) {
                    self.conn.around.metrics.skipped(Skip::Log); // no fault of the server's
                }
            }
            _ => {
                if let Some(owner) = self.conn.around.owner.upgrade() {
                    owner.notice(&self.conn, notice, &message);
                }
            }
        }
    }

    fn progress(&mut self, message: Message) {
        let message = match &self.conn.spec.tenant {
            Some(tenant) => self.conn.around.task_ids.show_to(tenant, None, message),
            None => message,
        };
        let standing = match message.param("progressToken").and_then(|token| ours(&token)) {
            Some(token) => self.conn.progressed(token, message),
            None => Standing::Unknown,
        };
        match standing {
            Standing::Open => {}
            Standing::Over => self.late(),
            Standing::Unknown => self.skip(Skip::Progress),
        }
    }

    fn asked(&mut self, message: Message) {
        let Some(id) = message.id().cloned() else { return };
        let kind = Ask::parse(message.method());
        let (outcome, lacks) = match (kind, &self.conn.spec.tenant) {
            (Ask::Ping, _) => (asks::PONG, false),
            (_, Some(tenant)) => match tenant.refusal(kind, &message) {
                Some(refusal) => (refusal, tenant.session().is_none()),
                None => return self.conn.relay(tenant, kind, (id, message)),
            },
            (kind, None) => (asks::unattributed(kind), kind != Ask::Roots),
        };
        if lacks {
            self.conn.lacks(kind, &message);
        }
        if !self.conn.note(outgoing::answer(&id, outcome), NOTES) {
            self.skip(Skip::Flood);
        }
    }

    /// A line that is no message. If it was meant as the answer of a call of ours, there will be no other.
    fn unreadable(&mut self, error: &ScanError) {
        match self.conn.close_answered(error.id.as_ref().filter(|_| error.is_response)) {
            Ok(pending) => pending.work.fail(self.broken()),
            Err(_) => self.skip(Skip::Garbage),
        }
    }

    fn too_long(&mut self, id: Option<&RequestId>, kind: Option<MessageKind>) {
        self.conn.around.permits.metrics().hit(Bound::Frame);
        // A request of the server's has an id of its own numbering.
        let ours = id.filter(|_| !matches!(kind, Some(MessageKind::Request | MessageKind::Notification)));
        if let Ok(pending) = self.conn.close_answered(ours) {
            let server = &self.conn.spec.server;
            let message = format!("the answer of server `{server}` is larger than this gateway takes");
            pending.work.fail(Error::new(Kind::TooLarge, Blame::Upstream, message));
        }
        self.skip(Skip::TooLong);
    }

    fn lacking(&self, required: &'static str) -> Error {
        let server = &self.conn.spec.server;
        let message =
            format!("server `{server}` needs a client that can be asked for more than this one declared");
        Error::new(Kind::MissingCapability(required), Blame::Downstream, message)
    }

    fn broken(&self) -> Error {
        let message =
            format!("server `{}` sent an answer that is no valid MCP message", self.conn.spec.server);
        Error::new(Kind::Protocol, Blame::Upstream, message)
    }

    /// Counts an answer, progress, or news of a listen, that nobody waits for any more. Nearly all of them crossed our saying so, which
    /// is no fault of the server's and worth no warning.
    fn late(&self) {
        self.conn.around.metrics.skipped(Skip::Late);
    }

    /// Counts a dropped message; says so at most once in a while, and never what was in it.
    fn skip(&mut self, reason: Skip) {
        self.conn.around.metrics.skipped(reason);
        let now = Instant::now();
        if self.quiet_until.is_some_and(|until| now < until) {
            self.unsaid += 1;
            return;
        }
        let (server, conn, unsaid) = (&self.conn.spec.server, self.conn.spec.number, self.unsaid);
        tracing::warn!(%server, conn, ?reason, unsaid, "message of a server dropped");
        self.quiet_until = Some(now + QUIET);
        self.unsaid = 0;
    }
}

impl Conn {
    // MCP 2025-03-26 basic, Batching: receiving must be supported; removed in 2025-06-18
    fn sends_batches(&self) -> bool {
        self.facts.get().is_some_and(|facts| facts.version == ProtocolVersion::V2025_03_26)
    }

    /// What waited for the answer of this id.
    fn close_answered(&self, id: Option<&RequestId>) -> Result<Pending, Standing> {
        // Some servers keep ids as text; official clients take their answers too.
        let id = id.and_then(RequestId::as_u64_or_digits).map(WireId::from_number);
        let id = id.ok_or(Standing::Unknown)?;
        let mut state = self.state.lock();
        // What was not written cannot have been answered: the id was guessed.
        if state.mux.get_mut(id).is_some_and(|pending| !pending.written) {
            return Err(Standing::Unknown);
        }
        let Some(pending) = state.mux.close(id) else { return Err(state.mux.standing(id)) };
        state.last_used = Instant::now();
        drop(state);
        self.answered(&pending.work);
        Ok(pending)
    }

    /// Passes progress on and gives its call more time, if one waits under the token.
    fn progressed(&self, id: WireId, message: Message) -> Standing {
        let mut state = self.state.lock();
        let Some(pending) = state.mux.get_mut(id) else { return state.mux.standing(id) };
        // A request of ours asks for no progress.
        let Work::Call { job, .. } = &pending.work else { return Standing::Unknown };
        pending.deadline = (Instant::now() + self.around.config.call_timeout).min(pending.limit);
        if !job.responder.event(Event::Progress(message)) {
            self.around.permits.metrics().hit(Bound::EventBytes);
        }
        Standing::Open
    }
}

/// An id that we gave out, as a server brings it back: some make a text of it, which is nobody else's either.
pub(super) fn ours(value: &Value<'_>) -> Option<WireId> {
    RequestId::parse(value.raw())?.as_u64_or_digits().map(WireId::from_number)
}

/// Messages from this size on draw on the byte budget: below it, counting would cost more than the bytes.
const COUNTED_FROM_BYTES: usize = 16 << 10;
/// Messages of one batch. 1,024: as many answers as a server may have calls.
const BATCH_MESSAGES: usize = 1024;
/// A flood of broken messages makes one log line per connection in this time.
const QUIET: Duration = Duration::from_secs(10);
