//! The load, in a process of its own: it shares no runtime with what it measures. One thread, prepared requests,
//! and read loops that look for no more than the end of the answer, so that little of the machine goes into
//! measuring.
//!
//! - closed loop: each connection sends its next request when the answer to the last one is there. That finds
//!   what a side can do and what a request costs; it hides queueing.
//! - open loop (`open`): requests fall due at the times of a Poisson process, whatever came of those before, and
//!   a latency counts from when its request was due. So a side that stalls pays for all it kept waiting.
//! - `pipe`: both, on the pipes of a server itself · `first`: a new session up to its first answer
//! - `pulse`: how fast the machine is meanwhile

mod channel;
pub(crate) mod first;
mod http1;
mod http2;
mod open;
mod pipe;
mod pulse;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::slices::Slices;
use crate::stat::Outcome;
use channel::Channel;

/// One measurement to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) to: To,
    /// The file of requests; connections take them in turn.
    pub(crate) requests: PathBuf,
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    /// Requests per second of an open loop; a closed one without.
    pub(crate) rate: Option<f64>,
    /// The requests are the steps of a session.
    pub(crate) sessions: bool,
}

/// Where to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum To {
    Http {
        address: SocketAddr,
        /// HTTP/2: all requests are streams of one connection.
        http2: bool,
        /// The certificate to trust.
        tls: Option<PathBuf>,
    },
    /// The pipes of a process.
    Pipe { command: Vec<String> },
}

/// What all connections, on one thread, count together.
pub(crate) struct Counted {
    pub(crate) slices: Slices,
    pub(crate) with_warm_up: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
}

pub(crate) type Counting = Rc<RefCell<Counted>>;

impl Load {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let requests = read_requests(&std::fs::read(&self.requests).context("the file of requests")?)?;
        let requests: Rc<[Vec<u8>]> = requests.into();
        let counted = LocalSet::new().run_until(self.measure(requests)).await?;
        let counted = counted.borrow();
        Ok(Outcome::new(&counted))
    }

    async fn measure(&self, requests: Rc<[Vec<u8>]>) -> Result<Counting> {
        let To::Http { address, http2, tls } = &self.to else { return pipe::run(self, &requests).await };
        let mut channels = Channel::open(*address, *http2, tls.as_deref(), self.connections).await?;
        let counted = self.counted();
        let until = counted.borrow().until();
        let _pulse = pulse::feel(&counted);
        let mut loops = JoinSet::new();
        if let Some(rate) = self.rate {
            open::run(channels, requests, rate, counted.clone()).await?;
            return Ok(counted);
        }
        for (number, channel) in channels.drain(..).enumerate() {
            let (requests, counted) = (requests.clone(), counted.clone());
            if self.sessions {
                loops.spawn_local(first::keep_opening(channel, requests, counted));
            } else {
                let which = (number, self.connections);
                loops.spawn_local(keep_asking(channel, requests, which, (until, counted)));
            }
        }
        while loops.join_next().await.is_some() {}
        Ok(counted)
    }

    fn counted(&self) -> Counting {
        let from = Instant::now() + WARM_UP;
        let slices = Slices::new(from, Duration::from_secs_f64(self.seconds));
        Rc::new(RefCell::new(Counted { slices, with_warm_up: 0, failed: 0, first_failure: None }))
    }
}

impl Counted {
    /// When the measurement ends.
    pub(crate) fn until(&self) -> Instant {
        self.slices.until()
    }

    /// Records an answer of `body_bytes` to a request sent at `began`.
    pub(crate) fn answered(&mut self, began: Instant, body_bytes: usize) {
        let ended = Instant::now();
        self.count(ended, ended - began, body_bytes);
    }

    /// An answer to what was due at `began`. All that fell due in the window counts, also when its answer comes
    /// after it: the slowest would be missing otherwise.
    pub(crate) fn answered_due(&mut self, began: Instant, body_bytes: usize) {
        self.count(began, began.elapsed(), body_bytes);
    }

    fn count(&mut self, at: Instant, latency: Duration, body_bytes: usize) {
        self.with_warm_up += 1;
        self.slices.answer(at, latency, body_bytes);
    }

    pub(crate) fn failed(&mut self, why: &str) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| why.to_owned());
    }
}

/// Asks over one connection until the time is up. A failure ends the connection's part and is counted.
async fn keep_asking(
    mut channel: Channel,
    requests: Rc<[Vec<u8>]>,
    (number, connections): (usize, usize),
    (until, counted): (Instant, Counting),
) {
    for request in own_share(&requests, number, connections) {
        let began = Instant::now();
        if began >= until {
            return;
        }
        match within(channel.ask(request)).await {
            Ok(body_bytes) => counted.borrow_mut().answered(began, body_bytes),
            Err(error) => return counted.borrow_mut().failed(&format!("{error:#}")),
        }
    }
}

/// The requests of one connection, over and over: every so many-th, so that no two connections send the same one at
/// a time. In a session an id may be in use once.
fn own_share(requests: &[Vec<u8>], number: usize, connections: usize) -> impl Iterator<Item = &Vec<u8>> {
    requests.iter().cycle().skip(number % requests.len().max(1)).step_by(connections.max(1))
}

async fn within<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ANSWER_GUARD, step).await.context("no answer in time")?
}

/// Opens this many sessions over one connection and returns their ids.
pub(crate) async fn open_sessions(
    address: SocketAddr,
    count: usize,
    [initialize, initialized]: &[Vec<u8>; 2],
) -> Result<Vec<String>> {
    let mut channels = Channel::open(address, false, None, 1).await?;
    let channel = channels.first_mut().context("no connection")?;
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = channel.step(initialize).await?.context("a session without an id")?;
        channel.step(&first::with_session(initialized, &id)).await?;
        ids.push(id);
    }
    Ok(ids)
}

/// Requests in one file: each after a line with its length.
pub(crate) fn write_requests<'a>(requests: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut file = Vec::new();
    for request in requests {
        file.extend_from_slice(format!("{}\n", request.len()).as_bytes());
        file.extend_from_slice(request);
    }
    file
}

fn read_requests(mut file: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut requests = Vec::new();
    while !file.is_empty() {
        let end = memchr::memchr(b'\n', file).context("a length without an end")?;
        let (length, rest) = file.split_at(end);
        let length: usize = std::str::from_utf8(length)?.parse()?;
        let rest = rest.get(1..).unwrap_or_default();
        requests.push(rest.get(..length).context("a request is cut short")?.to_vec());
        file = rest.get(length..).unwrap_or_default();
    }
    Ok(requests)
}

/// Requests that differ in their id, in one file: a multiple of every number of connections that is measured.
pub(crate) const REQUESTS: usize = 512;
/// Until connections are up, caches warm and the upstream connection is made.
pub(crate) const WARM_UP: Duration = Duration::from_millis(250);
/// Far beyond any latency that is still a figure.
const ANSWER_GUARD: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_do_not_share_requests() {
        let requests: Vec<Vec<u8>> = (0..REQUESTS).map(|n| n.to_string().into_bytes()).collect();
        for connections in [1, 8, 32, 64, 256] {
            let mut all: Vec<_> = (0..connections)
                .flat_map(|number| {
                    let share: std::collections::HashSet<_> =
                        own_share(&requests, number, connections).take(3 * REQUESTS).collect();
                    share
                })
                .collect();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), REQUESTS);
            let first: std::collections::HashSet<_> =
                own_share(&requests, 0, connections).take(REQUESTS).collect();
            assert!(
                connections == 1
                    || !own_share(&requests, 1, connections).take(REQUESTS).any(|r| first.contains(r))
            );
        }
    }

    #[test]
    fn requests_come_back_from_their_file() {
        let requests: [&[u8]; 3] = [b"one\n", b"", b"3\nthree"];
        assert_eq!(read_requests(&write_requests(requests)).unwrap(), requests);
        assert!(read_requests(b"5\nfour").is_err());
    }
}
