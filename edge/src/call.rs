//! What all rooms share: a [`Call`] is dispatched, and its [`Reply`] yields events and then exactly one
//! [`Outcome`].
//!
//! The form is the modern, stateless one (MCP 2026-07-28): what a legacy client declared once in its handshake
//! is sent along with each call as [`Client`]. Adapters at both sides translate; nothing between them knows of
//! eras.
//!
//! Guarantees: a [`Responder`] never waits and never fails for lack of room (events are bounded by
//! [`EVENT_BYTES`], the outcome has a place of its own); a `Reply` always ends in an outcome, even when the
//! `Responder` is dropped by a panic; dropping a `Reply` cancels the call.

mod ask;
mod caller;
mod capability;
pub mod input;
mod list;
mod pending_list_changes;
mod reply;
mod subscription;

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::limits::Limits;
use wire::mcp::level::Level;
use wire::mcp::list::Item;
use wire::mcp::method::{Method, Notice};
use wire::mcp::version::ProtocolVersion;
use wire::span::Span;

use crate::error::Error;
use crate::permit::CallPermit;

pub use ask::{Answer, Answered, Ask, Unanswered};
pub use caller::{Caller, CredentialStatus, Revocation, StreamCredentials};
pub use capability::Capabilities;
pub use input::{InputRequired, Question};
pub use list::List;
pub use pending_list_changes::{PendingListChanges, TakenListChanges};
pub use reply::{Cancel, EVENT_BYTES, Event, EventReader, Next, Outcome, Reply, Responder, reply};
pub use subscription::{SUBSCRIPTIONS_BYTES, Subscriber, Subscription, UpdateSink, subscription_bytes};

/// Anything that answers calls: the router, the pool of one server, a fake in a test.
///
/// Neither async nor fallible: errors are an [`Outcome`], and waiting happens behind the `Reply`.
pub trait Dispatch: Send + Sync {
    /// Starts the call. Must not block.
    fn dispatch(&self, call: Call) -> Reply;
}

/// One server, as the router sees it.
pub trait Server: Dispatch {
    /// Notifies the connection that the session has open, if any, that the roots of its client changed.
    fn roots_changed(&self, session: &SessionHandle);

    /// Ends what belongs only to principals that may no longer use the server: their connections take no
    /// more calls, and close when their last one ends.
    fn revoke(&self, is_denied: &dyn Fn(&str) -> bool);

    /// Notifies the connection that the session has open, if any, that the session wants another log level.
    fn tell_level(&self, session: &SessionHandle);

    /// Reads a list over the connection that the session has open; `None` without such a connection.
    fn list(&self, session: &SessionHandle, list: List) -> Listing;

    /// The tasks that run on the connection that the session has open, each as a JSON object.
    fn tasks(&self, session: &SessionHandle) -> Pin<Box<dyn Future<Output = Vec<Bytes>> + Send>>;

    /// Subscribes to a resource for `subscriber`, over the connection that its calls would use; an error when the server
    /// refuses. Dropping the future withdraws the subscription.
    fn subscribe(&self, subscriber: Subscriber, uri: String) -> Subscribing;
}

/// What [`Server::list`] returns.
pub type Listing = Pin<Box<dyn Future<Output = Option<Result<Vec<Item>, Error>>> + Send>>;

/// What [`Server::subscribe`] returns.
pub type Subscribing = Pin<Box<dyn Future<Output = Result<Subscription, Error>> + Send>>;

/// One client request, to be answered by a server.
#[derive(Debug)]
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// What the client declared of itself.
    pub client: Arc<Client>,
    /// Whose connections the call uses.
    pub affinity: Affinity,
    /// The only server that may answer (`/servers/{slug}/mcp`); `None` lets the router choose.
    pub scope: Option<ServerName>,
    /// The request's method.
    pub method: Method,
    /// The only server that may continue it, whatever its name leads to by now: the one that asked for input.
    pub pin: Option<ServerName>,
    /// The request as the client sent it, scanned. Id, name and `_meta` are replaced later by splicing.
    pub request: Message,
    /// The name or URI to write upstream where the client's differs; set by the router.
    pub rename: Option<Rename>,
    /// The permit of this call; released when the call ends.
    pub permit: CallPermit,
}

/// A replacement inside [`Call::request`]: the server's own name in place of the public one, or its own spelling of a URI.
#[derive(Clone, Debug)]
pub struct Rename {
    /// Where the name or URI stands in the request.
    pub span: Span,
    /// The server's name or URI as a JSON string token.
    pub token: Bytes,
}

/// What a client declared of itself: per request in the modern era, once per session in the legacy one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// `clientInfo` as a JSON object, verbatim; `None` when it was not sent.
    pub info: Option<Bytes>,
    /// `capabilities` as a JSON object, verbatim; `None` when it was not sent.
    pub capabilities: Option<Bytes>,
    /// The capabilities in the modern form, as far as a client with a session can be asked; `None` for a modern client,
    /// which declares them in that form itself.
    pub offer: Option<Bytes>,
}

impl Client {
    /// A copy in memory of its own: a slice would keep the whole request in memory.
    pub fn copied(&self) -> Self {
        let copy = |said: &Option<Bytes>| said.as_deref().map(Bytes::copy_from_slice);
        Self { info: copy(&self.info), capabilities: copy(&self.capabilities), offer: copy(&self.offer) }
    }
}

/// Which connections a call may use, apart from the isolation configured for the server.
#[derive(Clone, Debug)]
pub enum Affinity {
    /// The calls of one legacy session share a connection of their own.
    Session(SessionHandle),
    /// No session: connections belong to the principal.
    Principal,
}

/// A legacy session as the upstream side sees it.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    /// Unique in this process for its whole life.
    pub number: u64,
    /// Who opened it; it serves nobody else.
    pub caller: Caller,
    /// The revision that was negotiated when it was opened.
    pub version: ProtocolVersion,
    /// Cancelled when the session ends; its connections close then.
    pub ended: CancellationToken,
    /// Takes notifications and asks of the session's own connections that belong to no call. Its other end feeds the
    /// session's own stream.
    pub unsolicited: Arc<Responder>,
    /// What is set again on each new connection of the session.
    pub settings: Arc<SessionSettings>,
    /// Lists that the session's connections announced as changed and that have not been read again.
    pub pending_list_changes: Arc<PendingListChanges>,
}

impl SessionHandle {
    /// Notifies the client that a list changed; `false` when that was dropped for lack of room.
    pub fn tell_changed(&self, list: Notice) -> bool {
        let message = Message::scan(list_changed(list), &Limits::default());
        message.is_ok_and(|message| self.unsolicited.event(Event::Notice(list, message)))
    }
}

/// The notification that a list changed.
pub fn list_changed(list: Notice) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, list.as_str()).into()
}

/// What a legacy client has set for its session. It is set again on every connection of the session.
#[derive(Debug, Default)]
pub struct SessionSettings {
    inner: Mutex<Settings>,
}

/// The settings of one session at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The lowest level of log messages that the client wants; without one the server decides.
    pub level: Option<Level>,
    /// How often its roots were announced as changed, once for each server: what is being opened meanwhile may know the old.
    pub roots_changes: u64,
    /// Resources that it is subscribed to, each with its server.
    pub subscriptions: BTreeSet<(ServerName, String)>,
    /// Servers that had a connection of this session before: on a later one the settings are set again.
    pub servers: BTreeSet<ServerName>,
}

impl SessionSettings {
    /// A copy of the current settings.
    pub fn now(&self) -> Settings {
        self.inner.lock().clone()
    }

    /// The lowest level of log messages that the client wants now.
    pub fn level(&self) -> Option<Level> {
        self.inner.lock().level
    }

    /// Changes the settings, and returns what `change` returns.
    pub fn change<T>(&self, change: impl FnOnce(&mut Settings) -> T) -> T {
        change(&mut self.inner.lock())
    }
}

/// The slug of a configured server: `[a-z0-9-]{1,20}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Arc<str>);

impl ServerName {
    /// The longest slug; a public name `<slug>__<tool>` must stay below the 64 characters that LLM APIs take.
    pub const MAX_CHARS: usize = 20;

    /// `None` unless `name` is 1 to 20 of `a-z`, `0-9` and `-`.
    pub fn parse(name: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_CHARS).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        fits.then(|| Self(name.into()))
    }

    /// The slug.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
