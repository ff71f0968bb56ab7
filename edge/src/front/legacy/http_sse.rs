//! The HTTP+SSE transport of 2024-11-05: a stream that the client opens first, and an address for its messages.
//!
//! ```text
//! GET /sse ──▶ channel ──▶ event: endpoint ──▶ POST /messages?sessionId=… ──▶ 202
//!                 ▲                                       │
//!                 └────── everything said to the client ──┘   (outbox)
//! ```
//! Any legacy revision may be negotiated over it. Guarantees: a channel serves the principal that opened it,
//! at its path; it carries one session, and they end together; what waits for a slow client is bounded.
//! There is no resumption, because the transport has none.
// MCP 2024-11-05 basic/transports, HTTP with SSE

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, Uri};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use wire::Kind;
use wire::code;
use wire::mcp::method::Method;

use super::batch;
use super::outbox::{Outbox, outbox};
use super::stream_lease::StreamLease;
use crate::error::{Blame, Error, Kind as ErrorKind};
use crate::front::body::Body;
use crate::front::door::classify;
use crate::front::door::inbound::{InboundMessage, Started};
use crate::front::metrics::StreamKind;
use crate::front::refusal::{self, Refusal};
use crate::front::requester::Requester;
use crate::front::sse;
use crate::front::sse::Feed;
use crate::front::{Front, legacy};
use crate::permit::Bound;
use crate::seal::{self, Home, Sealer};
use crate::session::Session;

/// The open channels.
pub(in crate::front) struct Channels {
    sealer: Sealer,
    /// Distinguishes the channel numbers of this process from those of others that have the same key.
    instance: [u8; 8],
    next_number: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Channel>>>,
}

/// One client.
struct Channel {
    number: u64,
    requester: Requester,
    lease: StreamLease,
    outbox: Outbox,
    /// For answers on the spot that are not written yet.
    answers: Arc<Semaphore>,
    state: Mutex<State>,
    initialized: Notify,
}

/// `Opening → Open → Closed`, or straight to the end when no `initialize` comes.
enum State {
    Opening,
    Open(Arc<Session>),
    /// Terminal.
    Closed,
}

impl Channels {
    /// None is open.
    ///
    /// # Errors
    /// When the system gives out no random numbers.
    pub(in crate::front) fn new(sealer: Sealer) -> Result<Self, Error> {
        let (instance, next_number) = (sealer.random()?, AtomicU64::new(1));
        Ok(Self { sealer, instance, next_number, open: Mutex::default() })
    }

    /// The token of a channel in its address; all have one length.
    fn token(&self, number: u64) -> Result<Box<str>, Error> {
        let mut payload = [self.instance, number.to_be_bytes()].concat();
        payload.extend(self.sealer.home().encode());
        self.sealer.seal(KIND, &payload)
    }

    /// The channel of that token, if `requester` opened it.
    fn find(&self, token: &str, requester: &Requester) -> Option<Arc<Channel>> {
        let payload = self.sealer.open(KIND, token)?;
        let (instance, rest) = payload.split_first_chunk::<8>()?;
        let number = u64::from_be_bytes(*rest.first_chunk()?);
        let channel = self.open.lock().get(&number).filter(|_| *instance == self.instance).cloned()?;
        (channel.requester == *requester).then_some(channel)
    }

    /// The replica that has the channel of that token, if it is another one.
    fn elsewhere(&self, token: &str) -> Option<Home> {
        let payload = self.sealer.open(KIND, token)?;
        self.sealer.elsewhere(Home::decode(*payload.last_chunk()?))
    }

    #[cfg(test)]
    pub(in crate::front) fn count(&self) -> usize {
        self.open.lock().len()
    }
}

/// Opens a channel and returns its stream, which starts with the `endpoint` event.
pub(in crate::front) fn open(
    front: &Arc<Front>,
    uri: &Uri,
    requester: Requester,
) -> Result<Response<Body>, Refusal> {
    let (channels, drain) = (&front.channels, &front.rooms.drain);
    if drain.is_stopping() {
        let message = "this gateway is stopping; connect again";
        return Err(Error::new(ErrorKind::Draining, Blame::Edge, message).into());
    }
    let number = channels.next_number.fetch_add(1, Ordering::Relaxed);
    let token = channels.token(number)?;
    let (outbox, messages) = outbox(front.rooms.permits.metrics());
    let lease = StreamLease::of(requester.caller.clone());
    let channel = Arc::new(Channel {
        number,
        requester,
        lease: lease.clone(),
        outbox,
        answers: Arc::new(Semaphore::new(ANSWERS)),
        state: Mutex::new(State::Opening),
        initialized: Notify::new(),
    });
    {
        let mut open = channels.open.lock();
        if open.len() >= front.config.channels {
            front.rooms.permits.metrics().hit(Bound::Sessions);
            return Err(Bound::Sessions.refusal().into());
        }
        open.insert(number, channel.clone());
    }
    drain.spawn(attend(front.clone(), channel));
    // Relative, so that a path prefix put before us by a proxy stays. RFC 3986 §5.2: the last segment of the
    // stream's own path is replaced.
    let up = if uri.path().ends_with('/') { "../" } else { "" };
    let endpoint = Bytes::from(format!("event: endpoint\ndata: {up}messages?{SESSION}={token}\n\n"));
    let count = front.rooms.metrics.stream(StreamKind::Sse);
    let feed = Feed::Plain(Box::new(messages));
    Ok(sse::long_lived(lease, (Some(endpoint.into()), feed), front.config.keep_alive, count))
}

/// The channel that a message is for.
pub(in crate::front) struct Addressee(Arc<Channel>);

/// Finds the channel in the query of a message's address.
pub(in crate::front) fn addressee(
    front: &Front,
    uri: &Uri,
    requester: &Requester,
) -> Result<Addressee, Refusal> {
    let Some(token) = token(uri) else {
        let message = "post to the address that the endpoint event of GET /sse names";
        return Err(Refusal::bad_request(code::INVALID_REQUEST, message));
    };
    let channel = front.channels.find(token, requester).ok_or_else(unknown)?;
    // Fresh credentials keep the stream open that older ones opened: the client cannot open a second one.
    channel.lease.renew(&requester.caller);
    Ok(Addressee(channel))
}

/// The replica that has the channel of a message's address, if it is another one, and the token that names it.
pub(in crate::front) fn elsewhere<'u>(front: &Front, uri: &'u Uri) -> Option<(Home, &'u str)> {
    let token = token(uri)?;
    Some((front.channels.elsewhere(token)?, token))
}

fn token(uri: &Uri) -> Option<&str> {
    let mut pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == SESSION).map(|(_, token)| token)
}

fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, code::INVALID_REQUEST, "unknown session; open a new stream")
}

/// Takes one message; its answer is sent on the stream.
pub(in crate::front) fn take(
    front: &Front,
    to: &Addressee,
    inbound: InboundMessage,
) -> Result<Response<Body>, Refusal> {
    let Addressee(channel) = to;
    let id = (inbound.message.kind() == Kind::Request).then(|| inbound.message.id().cloned()).flatten();
    let started = channel.message(front, inbound).map_err(|refusal| refusal.answering(id.as_ref()));
    // Checked afterwards, because the channel may end while the message is read, or while it is taken. Then nobody would
    // hear on the stream that nothing came of it.
    if matches!(started, Ok(None) | Err(_)) && channel.is_closed() {
        return Err(unknown());
    }
    let (place, running) = match &started {
        Ok(None) => return Ok(refusal::accepted()),
        // The session bounds its calls; cancels and answers to what servers ask must come through beside them.
        Ok(Some(Started::Call(_))) => (None, Some(channel.lease.call())),
        Ok(Some(Started::Listen(_))) => (None, None), // of another era; it has no end that could be waited for
        Ok(Some(Started::Answered(_) | Started::Greeting(_))) | Err(_) => (Some(channel.place(front)?), None),
    };
    let outbox = channel.outbox.clone();
    front.rooms.drain.spawn(async move {
        outbox.deliver(started).await;
        drop((place, running));
    });
    Ok(refusal::accepted())
}

/// Takes a batch of `session`; the answers are sent on the stream.
pub(in crate::front) fn take_batch(
    front: &Front,
    Addressee(channel): &Addressee,
    session: &Arc<Session>,
    body: &Bytes,
) -> Result<Response<Body>, Refusal> {
    // One place for all answers on the spot, and before anything has begun: calls must not run when the client hears
    // that nothing was taken.
    let place = channel.place(front)?;
    let batch = batch::take(front, &channel.requester, session, body)?;
    let (answers, calls): (Vec<_>, Vec<_>) =
        batch.into_iter().partition(|started| matches!(started, Started::Answered(_)));
    for call in calls {
        let (outbox, running) = (channel.outbox.clone(), channel.lease.call());
        front.rooms.drain.spawn(async move {
            outbox.deliver(Ok(Some(call))).await;
            drop(running);
        });
    }
    let outbox = channel.outbox.clone();
    front.rooms.drain.spawn(async move {
        for answer in answers {
            outbox.deliver(Ok(Some(answer))).await;
        }
        drop(place);
    });
    Ok(refusal::accepted())
}

impl Addressee {
    /// Its session, if that may send batches.
    ///
    /// # Errors
    /// When the channel has ended.
    pub(in crate::front) fn batching(&self) -> Result<Option<Arc<Session>>, Refusal> {
        match &*self.0.state.lock() {
            State::Open(session) => Ok(Some(session.clone()).filter(|session| batch::is_known_to(session))),
            State::Opening => Ok(None),
            State::Closed => Err(unknown()),
        }
    }
}

impl Channel {
    fn message(&self, front: &Front, inbound: InboundMessage) -> Result<Option<Started>, Refusal> {
        let (kind, method) = (inbound.message.kind(), Method::parse(inbound.message.method()));
        // Under the lock, so that one session is opened however many ask for it at once.
        let mut state = self.state.lock();
        match &*state {
            State::Open(_) if method == Method::Initialize => {
                let message = "this stream is initialized already";
                Err(Refusal::bad_request(code::INVALID_REQUEST, message))
            }
            State::Open(session) => {
                // Without the lock, so that other messages need not wait: those that are in flight at once have no order.
                // If the session ends meanwhile, it refuses the message itself.
                let session = session.clone();
                drop(state);
                legacy::take(front, inbound, &session)
            }
            State::Opening if method == Method::Initialize && kind == Kind::Request => {
                let (session, greeting) = legacy::open(front, &inbound)?;
                *state = State::Open(session);
                self.initialized.notify_one();
                Ok(Some(greeting.started()))
            }
            // Clients look for the modern era here as well; with a result they would go on in it, where a
            // stream of this transport has no place.
            State::Opening if kind == Kind::Request && classify::is_modern(&inbound.message) => {
                Err(Refusal::unknown_method(inbound.message.method()))
            }
            State::Opening if kind == Kind::Request && method == Method::Ping => {
                Ok(Some(legacy::pong(&inbound.message)))
            }
            State::Opening if kind == Kind::Request => {
                Err(Refusal::bad_request(code::INVALID_REQUEST, "send initialize first"))
            }
            State::Opening | State::Closed => Ok(None),
        }
    }

    fn is_closed(&self) -> bool {
        matches!(*self.state.lock(), State::Closed)
    }

    /// A place for answers on the spot.
    fn place(&self, front: &Front) -> Result<OwnedSemaphorePermit, Refusal> {
        self.answers.clone().try_acquire_owned().map_err(|_| {
            front.rooms.permits.metrics().hit(Bound::Answers);
            Bound::Answers.refusal().into()
        })
    }

    /// Its session, if it has one; without one it never will.
    fn settle(&self) -> Option<Arc<Session>> {
        let mut state = self.state.lock();
        match &*state {
            State::Open(session) => Some(session.clone()),
            State::Opening | State::Closed => {
                *state = State::Closed;
                None
            }
        }
    }
}

/// Runs as long as the channel is open; only this task ends it.
async fn attend(front: Arc<Front>, channel: Arc<Channel>) {
    let drain = &front.rooms.drain;
    // All arms are cancel-safe: each waits for something that stays as it is.
    tokio::select! {
        () = channel.initialized.notified() => {}
        () = channel.outbox.closed() => {}
        () = drain.stopping() => {}
        () = tokio::time::sleep(INITIALIZE_WITHIN) => front.rooms.permits.metrics().hit(Bound::Initialize),
    }
    if let Some(session) = channel.settle() {
        let reader = legacy::listen(&front, &session);
        let to_the_end = async {
            channel.outbox.listen(reader).await;
            session.handle().ended.cancelled().await;
        };
        tokio::select! {
            () = to_the_end => {}
            () = channel.outbox.closed() => {
                if channel.lease.has_lapsed() {
                    front.rooms.permits.metrics().hit(Bound::Renewal);
                }
            }
            () = drain.cut() => {}
        }
        // Before the session ends, so that a message that it refuses finds the channel closed.
        *channel.state.lock() = State::Closed;
        front.rooms.sessions.delete(&session);
    }
    // Once the last answer was sent the outbox ends, and the stream with it.
    front.channels.open.lock().remove(&channel.number);
}

/// The kind of these tokens: they are no session ids at `/mcp`, and session ids are no tokens here.
const KIND: seal::Kind = seal::Kind::new("sse");
/// The name that SDK servers use in the query, too.
const SESSION: &str = "sessionId";
/// From the opening of a stream to its `initialize`. 30 s: clients send it at once; without it a stream holds a
/// place for nothing.
const INITIALIZE_WITHIN: Duration = Duration::from_secs(30);
/// Answers on the spot (to pings, to mistakes) of one channel that are not written yet; those of a batch count as one. 256:
/// as many as calls.
const ANSWERS: usize = 256;
