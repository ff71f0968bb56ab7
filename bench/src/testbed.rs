//! The programs of a run: servers behind bridges, edges in front of them, and bare servers for comparison. All are release
//! builds on loopback. They run for all cells, and end when the testbed is dropped.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use testkit::client::Client;
use testkit::eventually;
use testkit::http::{Request, Response};
use testkit::process::{Bridge, Edge, Process, Scratch, binary, free_address};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;

use crate::bare::{Bare, EVENTS};
use crate::load::{REQUESTS, To, write_requests};
use crate::tls;
use crate::usage::Family;

/// The running programs.
pub(crate) struct Testbed {
    scratch: Scratch,
    /// The files of certificate and key.
    pub(crate) tls: (PathBuf, PathBuf),
    running: Vec<Running>,
    files: usize,
}

#[expect(dead_code, reason = "they are kept until they are dropped, which ends their processes")]
enum Running {
    Bridge(Bridge),
    Edge(Edge),
    Process(Process),
}

/// A bridge: where it listens, and its process.
#[derive(Clone)]
pub(crate) struct Behind {
    pub(crate) address: String,
    pub(crate) family: Family,
}

/// An HTTP side that runs.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    /// Of its MCP endpoint.
    pub(crate) path: String,
    pub(crate) family: Family,
}

/// A request that was tried, and what came back: a side answers it, and a bare server can repeat it.
pub(crate) struct Tried {
    pub(crate) body: Vec<u8>,
    pub(crate) content_type: String,
}

impl Testbed {
    pub(crate) fn new() -> Result<Testbed> {
        let scratch = Scratch::new();
        let tls = tls::certificate(&scratch.path(""))?;
        Ok(Testbed { scratch, tls, running: Vec::new(), files: 0 })
    }

    /// A path of a file that is new.
    pub(crate) fn file(&mut self, name: &str) -> PathBuf {
        self.files += 1;
        self.scratch.path(&format!("{}-{name}", self.files))
    }

    /// A file of requests.
    pub(crate) fn requests<'a>(&mut self, requests: impl IntoIterator<Item = &'a [u8]>) -> Result<PathBuf> {
        let path = self.file("requests");
        std::fs::write(&path, write_requests(requests))?;
        Ok(path)
    }

    /// A file of one request under many ids.
    pub(crate) fn many(&mut self, request: impl Fn(usize) -> Request) -> Result<PathBuf> {
        let requests: Vec<_> = (1..=REQUESTS).map(|id| request(id).bytes("localhost")).collect();
        self.requests(requests.iter().map(Vec::as_slice))
    }

    /// A bridge on TCP in front of a bench server.
    pub(crate) async fn bridge(&mut self, options: &[&str], server: &[&str]) -> Result<Behind> {
        let bridge = Bridge::start_at(free_address(), options, &server_command(server)?).await;
        let behind =
            Behind { address: bridge.address.to_string(), family: Family::new([bridge.process.pid()]) };
        self.running.push(Running::Bridge(bridge));
        Ok(behind)
    }

    /// Starts a bridge on a unix socket.
    pub(crate) async fn unix_bridge(&mut self, options: &[&str], server: &[&str]) -> Result<Behind> {
        let socket = self.file("socket");
        let mut command = Command::new(binary("docker-mcp-bridge"));
        let address = format!("unix:{}", socket.display());
        command.args(["--listen", &address]).args(options).arg("--").args(server_command(server)?);
        let process = Process::start(command);
        eventually("the bridge to accept", async || UnixStream::connect(&socket).await.ok()).await;
        let behind = Behind { address, family: Family::new([process.pid()]) };
        self.running.push(Running::Process(process));
        Ok(behind)
    }

    /// An edge with this configuration, ready.
    pub(crate) async fn edge(&mut self, config: &str) -> Result<Gateway> {
        let path = self.file("edge.yaml");
        std::fs::write(&path, config)?;
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--config").arg(path).env("MCP_GATEWAY_AUTH_TOKEN", TOKEN);
        let edge = Edge::start_with(command).await;
        edge.ready().await;
        let family = Family::new([edge.process.pid()]);
        let gateway = Gateway { family, ..Gateway::unowned(edge.address) };
        self.running.push(Running::Edge(edge));
        Ok(gateway)
    }

    /// A bare server that answers as `tried` was answered.
    pub(crate) async fn bare(&mut self, tried: &Tried, http2: bool, over_tls: bool) -> Result<Gateway> {
        let body = self.file("body");
        std::fs::write(&body, &tried.body)?;
        let bare = Bare {
            address: free_address(),
            body,
            content_type: tried.content_type.clone(),
            http2,
            tls: over_tls.then(|| self.tls.clone()),
        };
        let address = bare.address;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare").arg(serde_json::to_string(&bare)?);
        self.process(command, address, "the bare server").await
    }

    /// A program that listens on this address.
    pub(crate) async fn process(
        &mut self,
        command: Command,
        address: SocketAddr,
        name: &str,
    ) -> Result<Gateway> {
        self.process_until(command, address, name, || true).await
    }

    /// Starts a process and waits until `ready` returns true and it accepts connections.
    pub(crate) async fn process_until(
        &mut self,
        command: Command,
        address: SocketAddr,
        name: &str,
        ready: impl Fn() -> bool,
    ) -> Result<Gateway> {
        let mut process = Process::start(command);
        for _ in 0..START_TRIES {
            if ready() && TcpStream::connect(address).await.is_ok() {
                let family = Family::new([process.pid()]);
                self.running.push(Running::Process(process));
                return Ok(Gateway { family, ..Gateway::unowned(address) });
            }
            let ended = process.status();
            ensure!(ended.is_none(), "{name} ended with {ended:?}: {}", process.output());
            tokio::time::sleep(START_PAUSE).await;
        }
        anyhow::bail!("{name} does not listen: {}", process.output())
    }
}

impl Gateway {
    /// A side at this address whose processes are not known.
    pub(crate) fn unowned(address: SocketAddr) -> Gateway {
        Gateway { address, path: "/mcp".to_owned(), family: Family::default() }
    }

    /// How the load reaches it.
    pub(crate) fn to(&self) -> To {
        To::Http { address: self.address, http2: false, tls: None }
    }

    /// Sends a request and keeps what comes back, which must hold a result.
    pub(crate) async fn try_out(&self, request: &Request) -> Result<Tried> {
        let mut response = request.send(self.address).await.context("no answer")?;
        let stream = response.is_stream();
        let content_type = if stream { EVENTS } else { "application/json" }.to_owned();
        let body = read(&mut response).await;
        let text = String::from_utf8_lossy(&body);
        let excerpt: String = text.chars().take(400).collect();
        ensure!(response.status == 200 && text.contains("\"result\""), "{}: {excerpt}", response.status);
        // MCP 2025-11-25 server/tools: a tool's own failure is a result
        ensure!(!text.contains("\"isError\":true"), "the tool failed: {excerpt}");
        Ok(Tried { body, content_type })
    }
}

/// The body; of a stream that a side leaves open, up to the answer.
async fn read(response: &mut Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = response.piece().await {
        body.extend(piece);
    }
    body
}

/// A modern client of a side.
pub(crate) fn modern(address: SocketAddr) -> Client {
    Client::modern(address).token(TOKEN)
}

/// A client of a side with a session.
pub(crate) async fn legacy(address: SocketAddr) -> Client {
    Client::legacy(address, LEGACY_VERSION).token(TOKEN).connect().await
}

/// The command of a bench server.
pub(crate) fn server_command(arguments: &[&str]) -> Result<Vec<String>> {
    let program = std::env::current_exe()?.display().to_string();
    Ok([program, "server".to_owned()]
        .into_iter()
        .chain(arguments.iter().map(|&word| word.to_owned()))
        .collect())
}

/// The revision that every side and peer speaks.
pub(crate) const LEGACY_VERSION: &str = "2025-06-18";
pub(crate) const TOKEN: &str = "a-token-for-the-bench";
/// Three minutes in all: interpreters with many modules start slowly on a machine that is busy.
const START_TRIES: usize = 900;
const START_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
