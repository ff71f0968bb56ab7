//! A byte stream in both directions to one process of a server, whatever carries it: TCP, a unix socket, the
//! pipes of a local process, or a duplex in a test. It must not know what the bytes mean.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::address::Endpoint;
use super::process::{Command, Process};
use super::settings::Source;

/// What a server sends.
pub(super) type Incoming = Box<dyn AsyncRead + Send + Unpin>;

/// What is sent to a server.
pub(super) type Outgoing = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection as its two halves.
pub(super) struct Link {
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    /// The process behind it, if it is ours to end.
    pub(super) process: Option<Process>,
}

/// A future of [`Dial`], boxed: connections are opened rarely.
pub(super) type Pending<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// How a server is reached. The pool decides when, where to and how often.
pub(super) trait Dial: Send + Sync {
    /// Where it can be reached now.
    fn endpoints(&self) -> Pending<'_, Vec<Endpoint>>;

    /// Opens a link, which is a process once something is sent.
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> Pending<'a, Link>;

    /// Whether it takes connections, without starting a process; `None` when that cannot be known.
    fn check<'a>(&'a self, endpoint: &'a Endpoint) -> Option<Pending<'a, ()>>;
}

impl Link {
    pub(super) fn new(
        incoming: impl AsyncRead + Send + Unpin + 'static,
        outgoing: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        Self { incoming: Box::new(incoming), outgoing: Box::new(outgoing), process: None }
    }
}

/// The way to a configured server.
pub(super) struct Dialer {
    source: Source,
    command: Command,
}

impl Dialer {
    pub(super) fn new(source: Source, command: Command) -> Self {
        Self { source, command }
    }

    async fn resolve(&self) -> io::Result<Vec<Endpoint>> {
        let Source::Endpoints(addresses) = &self.source else { return Ok(vec![Endpoint::Process]) };
        let (mut found, mut failure) = (Vec::new(), None);
        for address in addresses {
            match address.resolve().await {
                Ok(endpoints) => found.extend(endpoints),
                Err(error) => failure = Some(error),
            }
        }
        // One name that is gone says nothing of the other addresses.
        match failure {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    async fn open(&self, endpoint: &Endpoint) -> io::Result<Link> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                tune(&stream)?;
                let (incoming, outgoing) = stream.into_split();
                Ok(Link::new(incoming, outgoing))
            }
            Endpoint::Unix(path) => {
                let (incoming, outgoing) = UnixStream::connect(path).await?.into_split();
                Ok(Link::new(incoming, outgoing))
            }
            Endpoint::Process => self.command.start(),
        }
    }
}

impl Dial for Dialer {
    fn endpoints(&self) -> Pending<'_, Vec<Endpoint>> {
        Box::pin(self.resolve())
    }

    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> Pending<'a, Link> {
        Box::pin(self.open(endpoint))
    }

    // A bridge starts its process at the first byte, so a connection that sends nothing costs none.
    fn check<'a>(&'a self, endpoint: &'a Endpoint) -> Option<Pending<'a, ()>> {
        match endpoint {
            Endpoint::Process => None,
            Endpoint::Tcp(_) | Endpoint::Unix(_) => {
                Some(Box::pin(async { self.open(endpoint).await.map(drop) }))
            }
        }
    }
}

/// Small messages go out at once, and a peer that vanished without a word is noticed.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// Below the 350 s after which cloud networks forget an idle connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// With the interval: a silent peer is given up after 30 s, as one that does not read.
const KEEPALIVE_RETRIES: u32 = 3;
/// What was sent and not acknowledged for so long was sent to nobody.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
