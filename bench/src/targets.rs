//! What is measured: the edge in front of a bridge in front of the demo server, and a bare hyper server that
//! answers the same bytes. Both are release programs on loopback, and both stay up for all cells.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use testkit::client::Client;
use testkit::eventually;
use testkit::http::Request;
use testkit::process::{Bridge, Edge, Process, Scratch, binary, free_address};
use tokio::net::TcpStream;
use tokio::process::Command;

/// One of the two, as the plan sees it.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pid: u32,
}

/// Both, and the request that both are asked.
pub(crate) struct Targets {
    pub(crate) bare: Target,
    pub(crate) edge: Target,
    scratch: Scratch,
    _programs: (Edge, Bridge, Process),
}

impl Targets {
    pub(crate) async fn start(text_bytes: usize) -> Result<Targets> {
        let demo = binary("demo-server");
        let bridge = Bridge::start(&[demo]).await;
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--server").arg(format!("demo={}", bridge.address)).env("MCP_GATEWAY_AUTH_TOKEN", TOKEN);
        let edge = Edge::start_with(command).await;
        edge.ready().await;

        let scratch = Scratch::new();
        let request = request(edge.address, text_bytes);
        std::fs::write(scratch.path("request"), request.bytes("localhost"))?;
        // What the edge answers is what the bare server will answer: same bytes on both ways.
        let mut response = request.send(edge.address).await.context("the edge does not answer")?;
        let body = response.bytes().await;
        let text = "x".repeat(text_bytes);
        ensure!(
            response.status == 200 && !response.is_stream() && String::from_utf8_lossy(&body).contains(&text),
            "the edge answered {} {}",
            response.status,
            String::from_utf8_lossy(&body)
        );
        std::fs::write(scratch.path("body"), body)?;
        let (bare, bare_address) = start_bare(&scratch).await?;

        Ok(Targets {
            bare: Target { name: "bare", address: bare_address, pid: bare.pid() },
            edge: Target { name: "edge", address: edge.address, pid: edge.process.pid() },
            scratch,
            _programs: (edge, bridge, bare),
        })
    }

    /// The file that holds the request as it goes over the wire.
    pub(crate) fn request(&self) -> PathBuf {
        self.scratch.path("request")
    }
}

impl Target {
    /// CPU time of the process so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // proc(5): the name may hold spaces, so fields are counted from its closing parenthesis; utime is the
        // 12th after it and stime the 13th.
        let (_, fields) = stat.rsplit_once(')').context("an odd stat file")?;
        let mut fields = fields.split_whitespace().skip(11);
        let (Some(user), Some(system)) = (fields.next(), fields.next()) else { bail!("a short stat file") };
        let ticks: u64 = user.parse::<u64>()? + system.parse::<u64>()?;
        Ok(Duration::from_millis(ticks * TICK_MS))
    }
}

fn request(address: SocketAddr, text_bytes: usize) -> Request {
    let client = Client::modern(address).token(TOKEN);
    let params = client.params(json!({"name": "echo", "arguments": {"text": "x".repeat(text_bytes)}}));
    client.request(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))
}

async fn start_bare(scratch: &Scratch) -> Result<(Process, SocketAddr)> {
    let address = free_address();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("bare").arg(address.to_string()).arg(scratch.path("body"));
    let process = Process::start(command);
    eventually("the bare server to accept", async || TcpStream::connect(address).await.ok()).await;
    Ok((process, address))
}

const TOKEN: &str = "a-token-for-the-bench";
/// `sysconf(_SC_CLK_TCK)` is 100 on every Linux that matters here.
const TICK_MS: u64 = 10;
