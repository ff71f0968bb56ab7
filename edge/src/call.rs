//! The vocabulary every room shares: a [`Call`] goes in, a [`Reply`] yields events and then exactly one
//! [`Outcome`].
//!
//! The form is the modern, stateless one (MCP 2026-07-28): whatever a legacy client said once in its
//! handshake travels with each call in [`Client`]. Adapters at both sides translate; nothing between them
//! knows of eras.
//!
//! Guarantees: a [`Responder`] never waits and never fails for lack of room (events are bounded by
//! [`EVENT_BYTES`], the outcome has a place of its own); a `Reply` always ends in an outcome, even when the
//! `Responder` is dropped by a panic; dropping a `Reply` cancels the call.

mod announced;
mod ask;
mod caller;
mod capability;
pub mod input;
mod list;
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

pub use announced::{Announced, Look};
pub use ask::{Answer, Answered, Ask};
pub use caller::{Caller, Hold, Revocation, Standing};
pub use capability::Capabilities;
pub use input::InputRequired;
pub use list::List;
pub use reply::{Cancel, EVENT_BYTES, Event, EventReader, Next, Outcome, Reply, Responder, reply};
pub use subscription::{SUBSCRIPTIONS_BYTES, Subscriber, Subscription, UpdateSink, subscription_bytes};

/// Anything that answers calls: the router, the pool of one server, a fake in a test.
///
/// Not async and infallible: errors are an [`Outcome`], waiting happens behind the `Reply`.
pub trait Dispatch: Send + Sync {
    /// Takes the call on its way. Must not block.
    fn dispatch(&self, call: Call) -> Reply;
}

/// One server, as its neighbours see it.
pub trait Server: Dispatch {
    /// The roots of a session's client changed: tells the connection that the session has open, if any.
    fn roots_changed(&self, session: &SessionHandle);

    /// These principals may use it no longer: what is theirs alone ends, connections with the calls that they have.
    fn revoke(&self, is_denied: &dyn Fn(&str) -> bool);

    /// The session wishes another level of log messages: tells the connection that it has open, if any.
    fn tell_level(&self, session: &SessionHandle);

    /// A list as the connection shows it that the session has open; `None` without such a connection.
    fn list(&self, session: &SessionHandle, list: List) -> Listing;

    /// The tasks that run on the connection that the session has open, each as a JSON object.
    fn tasks(&self, session: &SessionHandle) -> Pin<Box<dyn Future<Output = Vec<Bytes>> + Send>>;

    /// Has `subscriber` hear of a resource, over the connection that its calls would use; an error when the server
    /// does not agree. Dropping the future takes the wish back.
    fn subscribe(&self, subscriber: Subscriber, uri: String) -> Subscribing;
}

/// See [`Server::list`].
pub type Listing = Pin<Box<dyn Future<Output = Option<Result<Vec<Item>, Error>>> + Send>>;

/// See [`Server::subscribe`].
pub type Subscribing = Pin<Box<dyn Future<Output = Result<Subscription, Error>> + Send>>;

/// One client request on its way to a server.
#[derive(Debug)]
pub struct Call {
    /// Who asks.
    pub caller: Caller,
    /// What the client said of itself.
    pub client: Arc<Client>,
    /// Which connections are the call's own.
    pub affinity: Affinity,
    /// The only server that may answer (`/servers/{slug}/mcp`); `None` lets the router choose.
    pub scope: Option<ServerName>,
    /// The request's method.
    pub method: Method,
    /// The only server that may take it up again, whatever its name leads to by now: the one that wanted input
    /// first.
    pub pin: Option<ServerName>,
    /// The request as the client sent it, scanned. Id, name and `_meta` are replaced on the way by splicing.
    pub request: Message,
    /// The name to write upstream where the public one differs; set by the router.
    pub rename: Option<Rename>,
    /// Room taken for this call; given back when it ends.
    pub permit: CallPermit,
}

/// A replacement inside [`Call::request`]: the server's own name in place of the public one.
#[derive(Clone, Debug)]
pub struct Rename {
    /// Where the public name stands in the request.
    pub span: Span,
    /// The server's name as a JSON string token.
    pub token: Bytes,
}

/// What a client said of itself: per request in the modern era, once per session in the legacy one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// `clientInfo` as a JSON object, verbatim; `None` when it was not sent.
    pub info: Option<Bytes>,
    /// `capabilities` as a JSON object, verbatim; `None` when it was not sent.
    pub capabilities: Option<Bytes>,
    /// The same in the words of the stateless form, as far as a client with a session can be asked; `None` for
    /// a client that speaks them itself.
    pub offer: Option<Bytes>,
}

impl Client {
    /// The same in memory of its own: a slice keeps all of the request alive that it was said in.
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
    /// Who opened it, and the only one it serves.
    pub caller: Caller,
    /// The revision that was negotiated when it was opened.
    pub version: ProtocolVersion,
    /// Cancelled when the session ends; its connections close then.
    pub ended: CancellationToken,
    /// Takes what the session's own connections say outside any call, and what they ask then. Its other end
    /// feeds the stream that the client opens for it.
    pub unsolicited: Arc<Responder>,
    /// What the session's connections must be told again when one of them is opened anew.
    pub wishes: Arc<Wishes>,
    /// Lists that the session's connections announced as changed, until somebody looks.
    pub announced: Arc<Announced>,
}

impl SessionHandle {
    /// Has the client hear that a list changed. `false` when that had to be dropped for want of room.
    pub fn tell_changed(&self, list: Notice) -> bool {
        let message = Message::scan(list_changed(list), &Limits::default());
        message.is_ok_and(|message| self.unsolicited.event(Event::Notice(list, message)))
    }
}

/// What a session's client hears of a changed list.
pub fn list_changed(list: Notice) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, list.as_str()).into()
}

/// What a legacy client set once and expects to hold on every connection of its session.
#[derive(Debug, Default)]
pub struct Wishes {
    inner: Mutex<Wished>,
}

/// See [`Wishes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wished {
    /// Log messages below it are not wanted; without one the server decides.
    pub level: Option<Level>,
    /// Resources it wants to hear of, and the server that has each.
    pub subscriptions: BTreeSet<(ServerName, String)>,
    /// Servers that had a connection of this session: what a later one is told, it is told again.
    pub servers: BTreeSet<ServerName>,
}

impl Wishes {
    /// What is wished now.
    pub fn now(&self) -> Wished {
        self.inner.lock().clone()
    }

    /// The lowest level of log messages that is wished now.
    pub fn level(&self) -> Option<Level> {
        self.inner.lock().level
    }

    /// Changes what is wished; what `change` returns is passed on.
    pub fn change<T>(&self, change: impl FnOnce(&mut Wished) -> T) -> T {
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
