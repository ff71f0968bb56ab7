//! The program as a local stdio server: what it writes where, in both eras, and how it ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::process::{Scratch, binary, children, is_gone, signal};
use testkit::script::Script;
use testkit::scripted::Listener;
use testkit::{GUARD, eventually};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

struct Local {
    process: Child,
    /// Open until the client leaves.
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    _server: Option<Listener>,
}

impl Local {
    async fn start() -> Self {
        Self::start_at(&["--name", "only", "--tools", "2"]).await
    }

    /// At a scripted server.
    async fn start_at(flags: &[&str]) -> Self {
        let server = Listener::start(Script::from_flags(flags)).await;
        let address = format!("--server=only={}", server.address());
        Self { _server: Some(server), ..Self::start_with(&[address]) }
    }

    /// With these arguments.
    fn start_with(arguments: &[impl AsRef<OsStr>]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-edge"));
        command.arg("--transport=stdio").args(arguments);
        command.env_remove("MCP_GATEWAY_AUTH_TOKEN").env_remove("MCP_EDGE_LOG").env_remove("MCP_EDGE_KEY");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, input, output, _server: None }
    }

    async fn say(&mut self, message: Value) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn ask(&mut self, message: Value) -> Value {
        self.say(message).await;
        let line = timeout(GUARD, self.output.next_line()).await.expect("an answer in time").unwrap();
        serde_json::from_str(&line.expect("an answer")).unwrap()
    }

    async fn initialize(&mut self) -> Value {
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let answer =
            self.ask(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})).await;
        self.say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        answer
    }

    /// Ends it as the SDKs' clients do, each step after the timeout that they have.
    // TypeScript SDK 1.32 client/stdio, close; Python SDK 2.3 mcp/client/stdio
    async fn ended_by_an_sdk(mut self) {
        self.input = None;
        for step in ["TERM", "KILL"] {
            if timeout(Duration::from_secs(2), self.process.wait()).await.is_ok() {
                return;
            }
            signal(self.process.id().unwrap(), step).await;
        }
        self.process.wait().await.unwrap();
    }

    /// Waits for the end: the exit code, what was still written, and the log.
    async fn ended(mut self) -> (i32, Vec<String>, String) {
        let (mut rest, mut log) = (Vec::new(), String::new());
        let status = timeout(GUARD, self.process.wait()).await.expect("it ends").unwrap();
        while let Some(line) = self.output.next_line().await.unwrap() {
            rest.push(line);
        }
        self.process.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
        (status.code().unwrap(), rest, log)
    }
}

#[tokio::test]
async fn a_legacy_client_is_served_until_it_closes_its_output() {
    let mut client = Local::start().await;
    assert_eq!(client.initialize().await["result"]["protocolVersion"], "2025-06-18");
    let listed = client.ask(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).await;
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 2, "{listed}");
    let call = json!({"jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": {"name": "t0", "arguments": {}}});
    let called = client.ask(call).await;
    assert_eq!(called["id"], "c");
    assert!(called["result"]["content"].is_array(), "{called}");

    client.input = None;
    let (code, rest, log) = client.ended().await;
    assert_eq!((code, rest.as_slice()), (0, &[][..]), "{log}");
    assert!(log.contains("serving standard input") && log.contains("stopped"), "{log}");
}

#[tokio::test]
async fn modern_client_is_served_until_a_signal() {
    let mut client = Local::start().await;
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let ask = |id: i64, method: &str, name: Option<&str>| {
        let mut params = json!({ "_meta": meta });
        if let Some(name) = name {
            params["name"] = name.into();
        }
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
    };
    let found = client.ask(ask(1, "server/discover", None)).await;
    assert_eq!(found["result"]["supportedVersions"], json!(["2026-07-28"]));
    let listed = client.ask(ask(2, "tools/list", None)).await;
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 2, "{listed}");
    let called = client.ask(ask(3, "tools/call", Some("t1"))).await;
    assert!(called["result"]["content"].is_array(), "{called}");

    let mut listen = ask(4, "subscriptions/listen", None);
    listen["params"]["notifications"] = json!({"toolsListChanged": true});
    let ack = client.ask(listen).await;
    assert_eq!(ack["method"], "notifications/subscriptions/acknowledged", "{ack}");

    // The input stays open: a read that waits must not hold the process.
    signal(client.process.id().unwrap(), "TERM").await;
    let (code, rest, log) = client.ended().await;
    assert_eq!((code, rest.len()), (0, 1), "{rest:?} {log}");
    let last: Value = serde_json::from_str(&rest[0]).unwrap();
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(4), &json!("complete")), "{last}");
}

/// A local server that goes on after the end of its input, and at SIGTERM.
fn stubborn(scratch: &Scratch) -> String {
    let script = format!("trap '' TERM; '{}'; while :; do sleep 1; done", binary("demo-server").display());
    let file =
        scratch.write("edge.yaml", &format!("servers: {{stubborn: {{command: [sh, -c, \"{script}\"]}}}}\n"));
    format!("--config={}", file.display())
}

#[tokio::test]
async fn local_server_that_does_not_exit_is_killed_when_the_client_closes() {
    let scratch = Scratch::new();
    let mut client = Local::start_with(&[stubborn(&scratch)]);
    client.initialize().await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add", "arguments": {"a": 1, "b": 2}}});
    client.ask(call).await;
    let servers = children(client.process.id().unwrap());
    assert!(!servers.is_empty());
    client.ended_by_an_sdk().await;
    eventually("the servers to be gone", async || servers.iter().all(|pid| is_gone(*pid)).then_some(()))
        .await;
}

#[tokio::test]
async fn client_that_sends_everything_at_once_and_closes_is_answered() {
    // Names are not given out yet when the input ends.
    let mut client = Local::start_at(&["--name", "only", "--tools", "2", "--start-delay", "700"]).await;
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    client.say(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})).await;
    client.say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    client.say(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).await;
    let params = json!({"name": "t0", "arguments": {}});
    client.say(json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})).await;
    client.input = None;
    let (code, said, log) = client.ended().await;
    let answers = said.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let answers: Vec<_> = answers.filter(|message| message.get("id").is_some()).collect();
    assert_eq!((code, answers.len()), (0, 3), "{said:#?} {log}");
    assert!(answers.iter().all(|answer| answer.get("result").is_some()), "{answers:#?}");
}

#[tokio::test]
async fn client_that_closes_during_a_call_ends_its_server() {
    let scratch = Scratch::new();
    let mut client = Local::start_with(&[stubborn(&scratch)]);
    client.initialize().await;
    let params = json!({"name": "sleep", "arguments": {"ms": 600_000}, "_meta": {"progressToken": 1}});
    client.say(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})).await;
    let pid = client.process.id().unwrap();
    // The gateway's own process, and the session's.
    let servers =
        eventually("both servers", async || Some(children(pid)).filter(|pids| pids.len() > 1)).await;
    client.ended_by_an_sdk().await;
    eventually("the servers to be gone", async || servers.iter().all(|pid| is_gone(*pid)).then_some(()))
        .await;
}
