//! What idle sessions cost: as many as asked, each with a stream that stays open and says nothing but that it is
//! alive, on the edge and on a bare hyper server, one after the other.
//!
//! ```text
//! idle (plan) ── starts ──▶ edge ──▶ bridge + demo server
//!      │                    idle bare         hyper: the same answers, the same comment every 15 s
//!      └─ for each ───────▶ idle hold         opens the sessions, one connection each, and reads what comes
//! ```
//! Black box: memory and CPU are those of the target's process as the kernel counts them, and the client is a
//! process of its own. All sessions count as one principal's.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testkit::process::{Bridge, Edge, Process, Scratch, binary, free_address};
use testkit::{eventually, http};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Interval, interval_at, sleep};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // The processes that are started get it too.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    match arguments.as_slice() {
        ["bare", address] => runtime.block_on(bare(address)),
        ["hold", address, sessions] => runtime.block_on(hold(address.parse()?, sessions.parse()?)),
        rest => runtime.block_on(Plan::parse(rest)?.run()),
    }
}

/// What is measured.
struct Plan {
    sessions: usize,
    runs: usize,
    /// How long the sessions are watched at rest.
    rest: Duration,
}

/// One target's figures in one run.
struct Figures {
    /// Resident memory for each session, in bytes.
    bytes: f64,
    /// CPU time at rest, in milliseconds for each second.
    cpu: f64,
    /// Comments that came while it was watched.
    comments: usize,
}

impl Plan {
    /// `--sessions N --runs N --seconds N`, all optional.
    fn parse(arguments: &[&str]) -> Result<Plan> {
        let mut plan = Plan { sessions: 10_000, runs: 3, rest: Duration::from_secs(30) };
        for pair in arguments.chunks(2) {
            let [flag, value] = pair else { bail!("{} needs a value", pair.join(" ")) };
            match *flag {
                "--sessions" => plan.sessions = value.parse()?,
                "--runs" => plan.runs = value.parse()?,
                "--seconds" => plan.rest = Duration::from_secs(value.parse()?),
                _ => bail!("{flag} is unknown; there are --sessions, --runs and --seconds"),
            }
        }
        Ok(plan)
    }

    async fn run(&self) -> Result<()> {
        let (sessions, seconds) = (self.sessions, self.rest.as_secs());
        print(&format!("{sessions} idle sessions with an open stream each, watched for {seconds} s\n"));
        print("| run | target | bytes a session | above bare | CPU ms/s at rest | comments heard |");
        print("| ---: | --- | ---: | ---: | ---: | ---: |");
        for run in 1..=self.runs {
            let bare = self.bare().await?;
            let edge = self.edge().await?;
            let row = |name: &str, figures: &Figures, above: &str| {
                let Figures { bytes, cpu, comments } = figures;
                print(&format!("| {run} | {name} | {bytes:.0} | {above} | {cpu:.2} | {comments} |"));
            };
            row("bare", &bare, "");
            row("edge", &edge, &format!("{:.0}", edge.bytes - bare.bytes));
        }
        Ok(())
    }

    async fn bare(&self) -> Result<Figures> {
        let address = free_address();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare").arg(address.to_string());
        let process = Process::start(command);
        eventually("the bare server to accept", async || TcpStream::connect(address).await.ok()).await;
        Ok(self.measure(process.pid(), address).await?.0)
    }

    async fn edge(&self) -> Result<Figures> {
        let bridge = Bridge::start(&[binary("demo-server")]).await;
        let scratch = Scratch::new();
        // Room for the few connections beside the streams.
        let (sessions, connections) = (self.sessions, self.sessions + 100);
        let config = format!(
            "servers: {{demo: {{address: \"{}\"}}}}\nlimits: {{sessions: {sessions}, connections: {connections}}}\n",
            bridge.address
        );
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--config").arg(scratch.write("edge.yaml", &config)).arg("--allow-unauthenticated");
        let edge = Edge::start_with(command).await;
        edge.ready().await;
        let (figures, _open) = self.measure(edge.process.pid(), edge.address).await?;
        for series in ["mcp_edge_sessions", "mcp_edge_streams{kind=\"session\"}"] {
            let open = edge.metric(series).await;
            ensure!(open == Some(sessions as f64), "{series} is {open:?} and not {sessions}");
        }
        Ok(figures)
    }

    /// The sessions are open for as long as the client is there, which comes back too.
    async fn measure(&self, pid: u32, address: SocketAddr) -> Result<(Figures, Holder)> {
        let empty = resident_bytes(pid)?;
        let mut holder = Holder::start(address, self.sessions).await?;
        // Until what opening left behind is gone: one round of comments.
        sleep(KEEP_ALIVE).await;
        let (heard, cpu) = (holder.comments(self.sessions).await?, cpu_time(pid)?);
        sleep(self.rest).await;
        let cpu = cpu_time(pid)?.saturating_sub(cpu);
        let comments = holder.comments(self.sessions).await? - heard;
        let bytes = resident_bytes(pid)?.saturating_sub(empty) as f64 / self.sessions as f64;
        let cpu = cpu.as_secs_f64() * 1000.0 / self.rest.as_secs_f64();
        Ok((Figures { bytes, cpu, comments }, holder))
    }
}

/// The only place that prints.
#[expect(clippy::print_stdout, reason = "a bench talks to people, and a client process to its parent")]
fn print(line: &str) {
    println!("{line}");
}

/// Resident memory of a process.
fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// CPU time of all threads of a process, by the scheduler's own nanoseconds: ticks would be too coarse.
fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += stat.split_whitespace().next().context("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The client process, as the plan sees it.
struct Holder {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    /// Starts it and waits until all sessions are open.
    async fn start(address: SocketAddr, sessions: usize) -> Result<Holder> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hold").arg(address.to_string()).arg(sessions.to_string()).kill_on_drop(true);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut process = command.spawn()?;
        let input = process.stdin.take().context("piped")?;
        let output = BufReader::new(process.stdout.take().context("piped")?).lines();
        let mut holder = Holder { _process: process, input, output };
        let ready = holder.output.next_line().await?;
        ensure!(ready.as_deref() == Some("open"), "the client said {ready:?}");
        Ok(holder)
    }

    /// How many comments came so far. All sessions must still be open.
    async fn comments(&mut self, sessions: usize) -> Result<usize> {
        self.input.write_all(b"\n").await?;
        let line = self.output.next_line().await?.context("the client is gone")?;
        let (open, comments) = line.split_once(' ').context("OPEN COMMENTS")?;
        ensure!(open.parse::<usize>()? == sessions, "{open} of {sessions} streams are open");
        Ok(comments.parse()?)
    }
}

/// What the streams of the client process count together.
#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    comments: AtomicUsize,
}

/// Opens the sessions and holds them until the input ends; each line of input is answered with the counts.
async fn hold(address: SocketAddr, sessions: usize) -> Result<()> {
    let counts = Arc::<Counts>::default();
    let (mut opening, at_once) = (JoinSet::new(), Arc::new(Semaphore::new(OPENING)));
    for _ in 0..sessions {
        let place = at_once.clone().acquire_owned().await?;
        opening.spawn(async move {
            let stream = open(address).await;
            drop(place);
            stream
        });
    }
    let mut held = JoinSet::new();
    while let Some(opened) = opening.join_next().await {
        held.spawn(listen(opened??, counts.clone()));
    }
    eventually("all streams to be read", async || {
        (counts.open.load(Ordering::Relaxed) == sessions).then_some(())
    })
    .await;
    print("open");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while input.next_line().await?.is_some() {
        let (open, comments) = (counts.open.load(Ordering::Relaxed), counts.comments.load(Ordering::Relaxed));
        print(&format!("{open} {comments}"));
    }
    Ok(())
}

/// A session, and its own stream on the same connection.
async fn open(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let post = |body: &str| {
        http::Request::new("POST", "/mcp")
            .header("Content-Type", "application/json")
            .header("Accept", "application/json, text/event-stream")
            .body(body)
    };
    let (_, head) = exchange(&mut stream, &post(INITIALIZE)).await?;
    let session =
        head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).context("no session")?;
    let session = session.to_owned();
    let (status, _) = exchange(&mut stream, &post(INITIALIZED).header("Mcp-Session-Id", &session)).await?;
    ensure!(status == 202, "initialized was answered {status}");
    let get = http::Request::new("GET", "/mcp").header("Accept", "text/event-stream");
    let (status, head) = exchange(&mut stream, &get.header("Mcp-Session-Id", &session)).await?;
    ensure!(status == 200 && head.contains("text/event-stream"), "{head}");
    Ok(stream)
}

/// Sends a request and reads the head of its answer, and its body if it says how long that is.
async fn exchange(stream: &mut TcpStream, request: &http::Request) -> Result<(u16, String)> {
    stream.write_all(&request.bytes("localhost")).await?;
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(stream.read_buf(&mut read).await? > 0, "the connection ended");
    };
    let head = String::from_utf8_lossy(read.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let whole = end + length.map_or(Ok(0), str::parse)?;
    while read.len() < whole {
        ensure!(stream.read_buf(&mut read).await? > 0, "the connection ended");
    }
    // Session ids tell large letters from small ones.
    let head = String::from_utf8_lossy(read.get(..end).unwrap_or_default()).into_owned();
    let lines = head.lines().map(|line| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}\n", name.to_ascii_lowercase()),
        None => format!("{line}\n"),
    });
    Ok((status, lines.collect()))
}

/// Reads a stream to its end; the buffer is small, for there are many.
async fn listen(mut stream: TcpStream, counts: Arc<Counts>) {
    counts.open.fetch_add(1, Ordering::Relaxed);
    let mut piece = [0; 512];
    while let Ok(bytes @ 1..) = stream.read(&mut piece).await {
        let comments = piece.get(..bytes).unwrap_or_default().windows(3).filter(|at| *at == b"\n: ").count();
        counts.comments.fetch_add(comments, Ordering::Relaxed);
    }
    counts.open.fetch_sub(1, Ordering::Relaxed);
}

/// The bare limit: answers the same three requests and keeps the third one's stream alive in the same way.
async fn bare(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let _ = stream.set_nodelay(true);
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
                connections.spawn(connection);
            }
            Some(_) = connections.join_next() => {} // cancel-safe; only makes room
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Either<Full<Bytes>, Alive>>, Infallible> {
    if request.method() == Method::GET {
        let mut response = Response::new(Either::Right(Alive::new()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        return Ok(response);
    }
    let first = !request.headers().contains_key(SESSION);
    // A client that breaks off is not this server's concern.
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Either::Left(Full::from(if first { INITIALIZE } else { "" })));
    if first {
        response.headers_mut().insert(SESSION, HeaderValue::from_static("a-session"));
    } else {
        *response.status_mut() = hyper::StatusCode::ACCEPTED;
    }
    Ok(response)
}

/// A stream of comments.
struct Alive {
    ticks: Pin<Box<Interval>>,
    first: Option<&'static [u8]>,
}

impl Alive {
    fn new() -> Alive {
        let ticks = interval_at(tokio::time::Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        Alive { ticks: Box::pin(ticks), first: Some(b"id: 1-0-0\nretry: 1000\ndata:\n\n") }
    }
}

impl Body for Alive {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match self.first.take() {
            Some(first) => first,
            None => {
                std::task::ready!(self.ticks.poll_tick(context));
                b": keep-alive\n\n"
            }
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(bytes)))))
    }
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"idle","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const SESSION: &str = "mcp-session-id";
/// What the edge does by default.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Sessions that are opened at a time: fewer than a listener's backlog.
const OPENING: usize = 64;
