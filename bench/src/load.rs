//! The load: a closed loop over keep-alive connections. One prepared request, one read loop that looks for no
//! more than the end of the answer, so that little of the machine goes into measuring.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::stat::{Histogram, Outcome};

/// One measurement to be made.
pub(crate) struct Load {
    address: SocketAddr,
    connections: usize,
    length: Duration,
    request: Vec<u8>,
}

/// What the connections, all on one thread, count together.
#[derive(Default)]
struct Counted {
    latencies: Histogram,
    with_warm_up: u64,
    failed: u64,
}

impl Load {
    /// `ADDRESS CONNECTIONS SECONDS REQUEST_FILE`
    pub(crate) fn parse(arguments: &[&str]) -> Result<Load> {
        let &[address, connections, seconds, request] = arguments else {
            bail!("usage: bench load ADDRESS CONNECTIONS SECONDS REQUEST_FILE")
        };
        Ok(Load {
            address: address.parse()?,
            connections: connections.parse()?,
            length: Duration::from_secs(seconds.parse()?),
            request: std::fs::read(request).context("the request file")?,
        })
    }

    pub(crate) async fn run(self) -> Result<Outcome> {
        let mut streams = Vec::new();
        for _ in 0..self.connections {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let request: Rc<[u8]> = self.request.into();
        let counted = Rc::new(RefCell::new(Counted::default()));
        let from = Instant::now() + WARM_UP;
        let until = from + self.length;
        let local = LocalSet::new();
        let mut loops = JoinSet::new();
        for stream in streams {
            loops
                .spawn_local_on(keep_asking(stream, request.clone(), counted.clone(), (from, until)), &local);
        }
        local.run_until(async { while loops.join_next().await.is_some() {} }).await;
        let counted = counted.borrow();
        Ok(Outcome::new(&counted.latencies, self.length, counted.with_warm_up, counted.failed))
    }
}

/// Asks over one connection until the time is up. A failure ends the connection's part and is counted.
async fn keep_asking(
    mut stream: TcpStream,
    request: Rc<[u8]>,
    counted: Rc<RefCell<Counted>>,
    (from, until): (Instant, Instant),
) {
    let mut waiting = Vec::with_capacity(64 * 1024);
    loop {
        let began = Instant::now();
        if began >= until {
            return;
        }
        let answered = tokio::time::timeout(ANSWER_GUARD, ask(&mut stream, &request, &mut waiting)).await;
        let ended = Instant::now();
        let mut counted = counted.borrow_mut();
        if !matches!(answered, Ok(Ok(()))) {
            counted.failed += 1;
            return;
        }
        counted.with_warm_up += 1;
        if ended >= from && ended < until {
            counted.latencies.add(ended - began);
        }
    }
}

async fn ask(stream: &mut TcpStream, request: &[u8], waiting: &mut Vec<u8>) -> Result<()> {
    stream.write_all(request).await?;
    waiting.clear();
    loop {
        ensure!(stream.read_buf(waiting).await? > 0, "the connection ended");
        if let Some(length) = answer_length(waiting)?
            && waiting.len() >= length
        {
            ensure!(waiting.len() == length, "more than one answer came");
            return Ok(());
        }
    }
}

/// Bytes of the whole answer, once its head is there. Only what the two targets send is understood.
fn answer_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(bytes.get(..head).unwrap_or_default())?;
    ensure!(text.starts_with("HTTP/1.1 200"), "the answer is {}", text.lines().next().unwrap_or_default());
    for line in text.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return Ok(Some(head + 4 + value.trim().parse::<usize>()?));
        }
    }
    bail!("the answer has no length")
}

/// Until connections are up, caches warm and the upstream connection is made.
const WARM_UP: Duration = Duration::from_millis(700);
/// Far beyond any latency that is still a figure.
const ANSWER_GUARD: Duration = Duration::from_secs(10);
