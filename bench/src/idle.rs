//! What idle sessions cost: as many as asked, each with a stream that stays open and says nothing but that it is
//! alive, on the edge and on a bare hyper server, one after the other; with TLS 1.3 or without.
//!
//! ```text
//! bench idle ── starts ──▶ edge ──▶ bridge + demo server
//!      │                   bench idle bare       hyper: the same answers, the same comment every 15 s
//!      └─ for each ──────▶ bench idle hold       opens the sessions, one connection each, and reads what comes
//! ```
//! Black box: memory and CPU are those of the target's process as the kernel counts them, and the client is a
//! process of its own. All sessions count as one principal's.

mod bare;
mod hold;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testkit::eventually;
use testkit::process::{Bridge, Edge, Process, Scratch, binary, free_address};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use self::bare::Sessions;
use crate::bare::accept;
use crate::report::print;
use crate::tls;

/// `bench idle` and its two other processes.
pub(crate) async fn run(arguments: &[&str]) -> Result<()> {
    // The processes that are started get it too.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    match *arguments {
        ["bare", address] => accept(address.parse()?, None, Sessions).await,
        ["bare", address, certificate, key] => {
            accept(address.parse()?, Some(tls::server(certificate.as_ref(), key.as_ref())?), Sessions).await
        }
        ["hold", address, sessions] => hold::hold(address.parse()?, sessions.parse()?, None).await,
        ["hold", address, sessions, certificate] => {
            let trusted = tls::client(certificate.as_ref(), false)?;
            hold::hold(address.parse()?, sessions.parse()?, Some(trusted)).await
        }
        _ => Plan::parse(arguments)?.run().await,
    }
}

/// What is measured.
struct Plan {
    sessions: usize,
    runs: usize,
    /// How long the sessions are watched at rest.
    rest: Duration,
    tls: bool,
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

/// Where the files of a run lie.
struct Files {
    scratch: Scratch,
    /// Certificate and key, where TLS is on.
    tls: Option<(PathBuf, PathBuf)>,
}

impl Plan {
    /// `--sessions N --runs N --seconds N --tls`, all optional.
    fn parse(arguments: &[&str]) -> Result<Plan> {
        let mut plan = Plan { sessions: 10_000, runs: 3, rest: Duration::from_secs(30), tls: false };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().with_context(|| format!("{word} needs a value"));
            match *word {
                "--sessions" => plan.sessions = value()?.parse()?,
                "--runs" => plan.runs = value()?.parse()?,
                "--seconds" => plan.rest = Duration::from_secs(value()?.parse()?),
                "--tls" => plan.tls = true,
                _ => bail!("{word} is unknown; there are --sessions, --runs, --seconds and --tls"),
            }
        }
        Ok(plan)
    }

    async fn run(&self) -> Result<()> {
        let scratch = Scratch::new();
        let tls = if self.tls { Some(tls::certificate(&scratch.path(""))?) } else { None };
        let files = Files { scratch, tls };
        let (sessions, seconds) = (self.sessions, self.rest.as_secs());
        let over = if self.tls { " over TLS 1.3" } else { "" };
        print(&format!("{sessions} idle sessions with an open stream each{over}, watched for {seconds} s\n"));
        print("| run | target | bytes a session | above bare | CPU ms/s at rest | comments heard |");
        print("| ---: | --- | ---: | ---: | ---: | ---: |");
        for run in 1..=self.runs {
            let bare = self.bare(&files).await?;
            let edge = self.edge(&files).await?;
            let row = |name: &str, figures: &Figures, above: &str| {
                let Figures { bytes, cpu, comments } = figures;
                print(&format!("| {run} | {name} | {bytes:.0} | {above} | {cpu:.2} | {comments} |"));
            };
            row("bare", &bare, "");
            row("edge", &edge, &format!("{:.0}", edge.bytes - bare.bytes));
        }
        Ok(())
    }

    async fn bare(&self, files: &Files) -> Result<Figures> {
        let address = free_address();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["idle", "bare", &address.to_string()]);
        command.args(files.tls.iter().flat_map(|(certificate, key)| [certificate, key]));
        let process = Process::start(command);
        eventually("the bare server to accept", async || TcpStream::connect(address).await.ok()).await;
        Ok(self.measure(process.pid(), address, files).await?.0)
    }

    async fn edge(&self, files: &Files) -> Result<Figures> {
        let bridge = Bridge::start(&[binary("demo-server")]).await;
        // Room for the few connections beside the streams.
        let (sessions, connections) = (self.sessions, self.sessions + 100);
        let mut config = format!(
            "servers: {{demo: {{address: \"{}\"}}}}\nlimits: {{sessions: {sessions}, connections: {connections}}}\n",
            bridge.address
        );
        if let Some((certificate, key)) = &files.tls {
            let (certificate, key) = (certificate.display(), key.display());
            config.push_str(&format!("tls: {{cert: \"{certificate}\", key: \"{key}\"}}\n"));
        }
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--config").arg(files.scratch.write("edge.yaml", &config)).arg("--allow-unauthenticated");
        let edge = Edge::start_with(command).await;
        edge.ready().await;
        let (figures, _open) = self.measure(edge.process.pid(), edge.address, files).await?;
        for series in ["mcp_edge_sessions", "mcp_edge_streams{kind=\"session\"}"] {
            let open = edge.metric(series).await;
            ensure!(open == Some(sessions as f64), "{series} is {open:?} and not {sessions}");
        }
        Ok(figures)
    }

    /// The sessions are open for as long as the client is there, which comes back too.
    async fn measure(&self, pid: u32, address: SocketAddr, files: &Files) -> Result<(Figures, Holder)> {
        let certificate = files.tls.as_ref().map(|(certificate, _)| certificate.as_path());
        let empty = resident_bytes(pid)?;
        let mut holder = Holder::start(address, self.sessions, certificate).await?;
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
    async fn start(address: SocketAddr, sessions: usize, certificate: Option<&Path>) -> Result<Holder> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["idle", "hold", &address.to_string(), &sessions.to_string()]).args(certificate);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let input = process.stdin.take().context("piped")?;
        let output = BufReader::new(process.stdout.take().context("piped")?).lines();
        let mut holder = Holder { _process: process, input, output };
        let ready = holder.line(OPEN_GUARD).await?;
        ensure!(ready == "open", "the client said {ready}");
        Ok(holder)
    }

    /// How many comments came so far. All sessions must still be open.
    async fn comments(&mut self, sessions: usize) -> Result<usize> {
        self.input.write_all(b"\n").await?;
        let line = self.line(ANSWER_GUARD).await?;
        let (open, comments) = line.split_once(' ').context("OPEN COMMENTS")?;
        ensure!(open.parse::<usize>()? == sessions, "{open} of {sessions} streams are open");
        Ok(comments.parse()?)
    }

    async fn line(&mut self, guard: Duration) -> Result<String> {
        let line = timeout(guard, self.output.next_line()).await.context("the client says nothing")??;
        line.context("the client is gone")
    }
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"idle","version":"1"}}}"#;
const SESSION: &str = "mcp-session-id";
/// What the edge does by default.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// For all sessions to open: 10,000 over TLS take half a minute on two busy cores.
const OPEN_GUARD: Duration = Duration::from_secs(300);
/// For two numbers.
const ANSWER_GUARD: Duration = Duration::from_secs(10);
