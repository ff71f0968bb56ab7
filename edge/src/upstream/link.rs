//! A byte stream in both directions to one process of a server, over TCP, a unix socket, the pipes of a local
//! process, or a duplex in a test. It must not know what the bytes mean.

pub(super) mod address;
pub(super) mod process;
mod stderr;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use self::address::{Address, Endpoint};
use self::process::{Command, Process};
use super::settings::Source;

/// The bytes that a server sends.
pub(super) type Incoming = Box<dyn AsyncRead + Send + Unpin>;

/// The bytes that are sent to a server.
pub(super) type Outgoing = Box<dyn AsyncWrite + Send + Unpin>;

/// The two halves of a byte stream.
pub(super) struct Link {
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    /// The local process behind it, if there is one.
    pub(super) process: Option<Process>,
}

/// The endpoints at which a server can be reached.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) endpoints: Vec<Endpoint>,
    /// Endpoints of names that were not resolved this time. They get no new connections, but keep those they have: a
    /// failing name server does not mean that they are gone.
    pub(super) unsure: Vec<Endpoint>,
    /// Why a name was not resolved, if that happened.
    pub(super) failure: Option<io::Error>,
}

/// The future of [`Dial::endpoints`].
pub(super) type Finding<'a> = Pin<Box<dyn Future<Output = Found> + Send + 'a>>;

/// A future of [`Dial`]. Boxed, because connections are opened rarely.
pub(super) type Pending<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// How a server is reached. The pool decides when, at which endpoint and how often.
pub(super) trait Dial: Send + Sync {
    /// The endpoints that are resolved by the deadline.
    fn endpoints(&self, deadline: Instant) -> Finding<'_>;

    /// Opens a link. Its process starts when something is sent.
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> Pending<'a, Link>;

    /// Checks whether an endpoint takes connections, without starting a process; `None` if that is impossible.
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

/// Dials a configured server.
pub(super) struct Dialer {
    source: Source,
    command: Command,
    /// The endpoints of each name when it was last resolved, and when that was.
    known: Mutex<HashMap<Address, (Vec<Endpoint>, Instant)>>,
}

impl Dialer {
    pub(super) fn new(source: Source, command: Command) -> Self {
        Self { source, command, known: Mutex::default() }
    }

    /// Resolves all names concurrently: one whose name server does not answer delays no other.
    async fn resolve(&self, deadline: Instant) -> Found {
        let Source::Endpoints(addresses) = &self.source else {
            return Found { endpoints: vec![Endpoint::Process], ..Found::default() };
        };
        let mut lookups = JoinSet::new();
        let (mut answers, mut until, mut failure) = (HashMap::new(), deadline, None);
        for (at, address) in addresses.iter().cloned().enumerate() {
            // Without a task, which a busy process may not get to by the deadline: then a missing name would be the reason.
            match address.literal() {
                Some(endpoint) => drop(answers.insert(at, vec![endpoint])),
                None => drop(lookups.spawn(async move { (at, address.resolve().await) })),
            }
        }
        if !answers.is_empty() {
            until = until.min(Instant::now() + OTHER_NAMES);
        }
        loop {
            match timeout_at(until, lookups.join_next()).await {
                Ok(Some(Ok((at, Ok(endpoints))))) => {
                    answers.insert(at, endpoints);
                    until = until.min(Instant::now() + OTHER_NAMES);
                }
                Ok(Some(Ok((_, Err(error))))) => failure = Some(error),
                Ok(Some(Err(error))) => failure = Some(error.into()),
                Ok(None) => break,
                Err(_) => {
                    let late = io::Error::new(io::ErrorKind::TimedOut, "its name was not resolved in time");
                    failure = Some(late);
                    break;
                }
            }
        }
        let mut known = self.known.lock();
        let mut found = Found { failure, ..Found::default() };
        for (at, address) in addresses.iter().enumerate() {
            match answers.remove(&at) {
                Some(endpoints) => {
                    found.endpoints.extend_from_slice(&endpoints);
                    known.insert(address.clone(), (endpoints, Instant::now()));
                }
                None => {
                    let lately = known.get(address).filter(|(_, when)| when.elapsed() < KNOWN);
                    found.unsure.extend(lately.into_iter().flat_map(|(endpoints, _)| endpoints).cloned());
                }
            }
        }
        found
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
    fn endpoints(&self, deadline: Instant) -> Finding<'_> {
        Box::pin(self.resolve(deadline))
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

/// Makes small messages go out at once, and a peer that vanished be noticed.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// How long the other names of a server may take once one is resolved. 1 s: a working name server needs milliseconds,
/// and a caller may be waiting.
const OTHER_NAMES: Duration = Duration::from_secs(1);
/// How long the endpoints of a name that is no longer resolved are kept, in case only its name server fails. 60 s: a
/// restarted name server is back by then, and the name of a pod that is gone does not keep its connections for good.
const KNOWN: Duration = Duration::from_secs(60);
/// When the first keepalive is sent. 60 s: below the 350 s after which cloud networks forget an idle connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// 3: with the interval, a peer that does not answer is given up after 30 s, as one that does not read.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent bytes may stay unacknowledged. 30 s: as the write timeout.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::call::ServerName;
    use crate::upstream::metrics::Metrics;
    use crate::upstream::settings::{Config, ServerConfig};

    #[tokio::test]
    async fn unresolved_name_keeps_its_endpoints_and_delays_no_other() {
        // Too long for a name, so no name server is asked.
        let nowhere = Address::Tcp { host: "x".repeat(64), port: 1 };
        let literal: Address = "127.0.0.1:1".parse().unwrap();
        let source = Source::Endpoints(vec![nowhere.clone(), literal]);
        let server = ServerConfig::new(ServerName::parse("time").unwrap(), source.clone());
        let metrics = Metrics::default().server(&server.name);
        let command = Command::new(&server, &Config::default(), metrics, TaskTracker::new());
        let dialer = Dialer::new(source, command);
        let before = Endpoint::Tcp(([127, 0, 0, 7], 1).into());
        dialer.known.lock().insert(nowhere, (vec![before.clone()], Instant::now()));
        let found = dialer.resolve(Instant::now() + Duration::from_secs(600)).await;
        assert_eq!(found.endpoints, [Endpoint::Tcp(([127, 0, 0, 1], 1).into())]);
        assert_eq!(found.unsure, [before]);
        assert!(found.failure.is_some());

        // A name that is gone does not keep them for good.
        tokio::time::pause();
        tokio::time::advance(KNOWN).await;
        let found = dialer.resolve(Instant::now() + Duration::from_secs(600)).await;
        assert_eq!(found.unsure, []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_name_is_there_also_when_the_time_is_over() {
        let addresses = ["127.0.0.1:1", "[::1]:1", "unix:/run/a.sock"].map(|text| text.parse().unwrap());
        let source = Source::Endpoints(addresses.to_vec());
        let server = ServerConfig::new(ServerName::parse("time").unwrap(), source.clone());
        let metrics = Metrics::default().server(&server.name);
        let command = Command::new(&server, &Config::default(), metrics, TaskTracker::new());
        let found = Dialer::new(source, command).resolve(Instant::now()).await;
        let found_now = found.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found_now, ["127.0.0.1:1", "[::1]:1", "unix:/run/a.sock"]);
        assert!(found.failure.is_none(), "{:?}", found.failure);
    }
}
