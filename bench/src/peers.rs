//! The peers: other programs that put a stdio server behind HTTP, each in the fastest setting its documentation
//! has (`bench/peers/README.md`), in front of the same server. `bench/peers/install` brings those of the package
//! registries; a peer that is not installed is left out, with a message.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;
use testkit::client::Client;
use testkit::process::{free_address, workspace};
use tokio::process::Command;

use crate::candidate::Candidate;
use crate::groups::call_as;
use crate::plan::Plan;
use crate::report;
use crate::testbed::{Gateway, LEGACY_VERSION, TOKEN, Testbed, server_command};
use crate::usage::Family;

/// Those that run.
pub(crate) struct Peers(Vec<Peer>);

struct Peer {
    name: String,
    gateway: Gateway,
    /// Before the names of tools.
    prefix: String,
    /// A process of its own for each session, as the edge has it.
    isolates: bool,
    token: String,
    /// How much longer it is measured, so that there is something to count.
    stretch: f64,
}

impl Peer {
    fn new(name: &str, gateway: Gateway) -> Peer {
        let (prefix, token) = (String::new(), TOKEN.to_owned());
        Peer { name: name.to_owned(), gateway, prefix, isolates: false, token, stretch: 1.0 }
    }
}

impl Peers {
    /// Starts what is wanted and there.
    pub(crate) async fn start(testbed: &mut Testbed, plan: &Plan) -> Result<Peers> {
        let mut peers = Vec::new();
        if !plan.peers {
            return Ok(Peers(peers));
        }
        let folder = workspace().join("bench/peers");
        // ContextForge takes as long to start as a quick run may take in all.
        let names = ["mcp-proxy", "supergateway", "contextforge"];
        for name in names.into_iter().take(if plan.quick { 2 } else { 3 }) {
            match registry_peer(testbed, &folder, name).await {
                Ok(Some(peer)) => peers.push(peer),
                Ok(None) => report::note(&format!("{name} is left out: run bench/peers/install")),
                Err(error) => report::note(&format!("{name} is left out: {error:#}")),
            }
        }
        match &plan.agentgateway {
            Some(program) => peers.push(agentgateway(testbed, program).await?),
            None => report::note("agentgateway is left out: give its program with --agentgateway"),
        }
        match &plan.docker_gateway {
            Some(program) => peers.push(docker_gateway(testbed, program).await?),
            None => report::note("Docker's gateway is left out: give its program with --docker-gateway"),
        }
        for (name, url) in &plan.running {
            let (url, pid) = url.rsplit_once('@').map_or((url.as_str(), None), |(url, pid)| (url, Some(pid)));
            let (address, path) = url.split_once('/').context("a peer is NAME=ADDRESS:PORT/PATH[@PID]")?;
            let address = address.parse().context("the address of a peer")?;
            let pid = pid.map(str::parse).transpose().context("after @ comes the process id of a peer")?;
            let (path, family) = (format!("/{path}"), Family::new(pid));
            let gateway = Gateway { path, family, ..Gateway::unowned(address) };
            peers.push(Peer::new(name, gateway));
        }
        Ok(Peers(peers))
    }

    /// A candidate for each, with a call in one session. One that fails is left out of this group alone.
    pub(crate) async fn candidates(&self, testbed: &mut Testbed, tool: &str) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        for peer in &self.0 {
            let gateway = &peer.gateway;
            let client = Client::legacy(gateway.address, LEGACY_VERSION).token(&peer.token).at(&gateway.path);
            // It panics where a peer does not do as a test's server must; here that is no more than a gap.
            let Ok(client) = tokio::spawn(client.connect()).await else {
                report::note(&format!("{} is left out for {tool}: no session", peer.name));
                continue;
            };
            let tool = format!("{}{tool}", peer.prefix);
            let request = |id: usize| call_as(&client, &tool, id);
            if let Err(error) = gateway.try_out(&request(1)).await {
                report::note(&format!("{} is left out for {tool}: {error:#}", peer.name));
                continue;
            }
            let requests = testbed.many(request)?;
            let candidate = Candidate::new(&peer.name, gateway.to(), requests, gateway.family.clone());
            candidates.push(Candidate { stretch: peer.stretch, ..candidate });
        }
        Ok(candidates)
    }

    /// Name, side and tool of those that start a process for each session.
    pub(crate) fn with_sessions(&self, tool: &str) -> Vec<(String, Gateway, String)> {
        let isolating = self.0.iter().filter(|peer| peer.isolates);
        isolating
            .map(|peer| (peer.name.clone(), peer.gateway.clone(), format!("{}{tool}", peer.prefix)))
            .collect()
    }
}

async fn registry_peer(testbed: &mut Testbed, folder: &Path, name: &str) -> Result<Option<Peer>> {
    let program = match name {
        "mcp-proxy" => folder.join(".mcp-proxy/bin/mcp-proxy"),
        "supergateway" => folder.join("node_modules/supergateway/dist/index.js"),
        _ => folder.join(".contextforge/bin/python"),
    };
    if !program.exists() {
        return Ok(None);
    }
    match name {
        "mcp-proxy" => mcp_proxy(testbed, &program).await.map(Some),
        "supergateway" => supergateway(testbed, &program).await.map(Some),
        _ => contextforge(testbed, &program, &folder.join("contextforge.py")).await.map(Some),
    }
}

/// One process of the server for everybody.
async fn mcp_proxy(testbed: &mut Testbed, program: &Path) -> Result<Peer> {
    let address = free_address();
    let mut command = Command::new(program);
    command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--pass-environment", "--log-level", "CRITICAL", "--"]).args(server_command(&[])?);
    let gateway = testbed.process(command, address, "mcp-proxy").await?;
    let gateway = Gateway { path: "/mcp/".to_owned(), ..gateway };
    Ok(Peer::new("mcp-proxy", gateway))
}

/// `--stateful`: a process for each session; without it, one for each request.
async fn supergateway(testbed: &mut Testbed, program: &Path) -> Result<Peer> {
    let address = free_address();
    let mut command = Command::new("node");
    command.env("NODE_ENV", "production").arg(program).args(["--stdio", &server_command(&[])?.join(" ")]);
    command.args(["--outputTransport", "streamableHttp", "--stateful", "--logLevel", "none"]);
    command.args(["--port", &address.port().to_string()]);
    let gateway = testbed.process(command, address, "supergateway").await?;
    Ok(Peer { isolates: true, ..Peer::new("supergateway", gateway) })
}

/// The line that its start script prints once the server is registered.
#[derive(Deserialize)]
struct Registered {
    path: String,
    prefix: String,
    token: String,
}

/// Its own translation of stdio, registered with the gateway as its documentation has it.
async fn contextforge(testbed: &mut Testbed, python: &Path, starter: &Path) -> Result<Peer> {
    let (address, told) = (free_address(), testbed.file("contextforge.json"));
    let state = testbed.file("contextforge");
    std::fs::create_dir_all(&state)?;
    let mut command = Command::new(python);
    command.arg(starter).arg(address.port().to_string()).arg(free_address().port().to_string());
    command.arg(&told).arg(server_command(&[])?.join(" ")).current_dir(&state);
    let gateway = testbed.process_until(command, address, "contextforge", || told.exists()).await?;
    let registered: Registered = serde_json::from_slice(&std::fs::read(&told)?)?;
    let gateway = Gateway { path: registered.path.clone(), ..gateway };
    let Registered { prefix, token, .. } = registered;
    Ok(Peer { prefix, token, stretch: 6.0, ..Peer::new("contextforge", gateway) })
}

async fn agentgateway(testbed: &mut Testbed, program: &PathBuf) -> Result<Peer> {
    let (address, config) = (free_address(), testbed.file("agentgateway.yaml"));
    let server = server_command(&[])?;
    let (command, arguments) = server.split_first().context("no server")?;
    let target = json!({"name": "bench", "stdio": {"cmd": command, "args": arguments}});
    let route = json!({"backends": [{"mcp": {"targets": [target]}}]});
    // JSON is YAML.
    let text = json!({"binds": [{"port": address.port(), "listeners": [{"routes": [route]}]}]});
    std::fs::write(&config, text.to_string())?;
    let mut command = Command::new(program);
    command.arg("-f").arg(config).env("RUST_LOG", "error");
    let gateway = testbed.process(command, address, "agentgateway").await?;
    Ok(Peer { isolates: true, ..Peer::new("agentgateway", gateway) })
}

/// In static mode, where it reaches each server by a `socat` that it starts for each session: here that is the server
/// itself, which spares it a hop.
async fn docker_gateway(testbed: &mut Testbed, program: &PathBuf) -> Result<Peer> {
    let (address, home) = (free_address(), testbed.file("docker-gateway"));
    let (catalogs, programs) = (home.join(".docker/mcp/catalogs"), home.join("bin"));
    std::fs::create_dir_all(&catalogs)?;
    std::fs::create_dir_all(&programs)?;
    let bench = json!({"title": "bench", "description": "bench", "type": "server", "image": "bench"});
    let catalog = json!({"registry": {"bench": bench}}).to_string();
    std::fs::write(catalogs.join("bench.yaml"), catalog)?;
    let socat = programs.join("socat");
    std::fs::write(&socat, format!("#!/bin/sh\nexec {}\n", server_command(&[])?.join(" ")))?;
    std::fs::set_permissions(&socat, std::fs::Permissions::from_mode(0o755))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("HOME", &home).env("PATH", format!("{}:{path}", programs.display()));
    command.env("DOCKER_MCP_IN_CONTAINER", "1").env("MCP_GATEWAY_AUTH_TOKEN", TOKEN);
    command.args([
        "gateway",
        "run",
        "--static",
        "--long-lived",
        "--servers",
        "bench",
        "--catalog",
        "bench.yaml",
    ]);
    command.args([
        "--log-calls=false",
        "--verbose=false",
        "--block-secrets=false",
        "--verify-signatures=false",
    ]);
    command.args(["--transport", "streaming", "--host", "127.0.0.1", "--port", &address.port().to_string()]);
    let gateway = testbed.process(command, address, "Docker's gateway").await?;
    Ok(Peer { isolates: true, ..Peer::new("docker gateway", gateway) })
}
