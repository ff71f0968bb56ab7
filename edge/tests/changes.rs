//! What clients of both eras hear of changes through the release binaries. The official ones: at `server-everything` and
//! at a legacy and a modern server whose tools are the lines of a file; what they do is in `testkit/real`. A client of
//! our own: of a process that dies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::client::Client;
use testkit::eventually;
use testkit::process::{Bridge, Edge, Scratch, binary};
use testkit::real::{self, part};
use tokio::process::Command;

/// One client program; each is a principal of its own.
struct Run {
    program: [&'static str; 2],
    token: &'static str,
    version: &'static str,
}

const RUNS: [Run; 3] = [
    Run { program: ["node", "changes_v2.mjs"], token: "a-token-of-the-first", version: "2026-07-28" },
    Run {
        program: [".venv/bin/python", "changes.py"],
        token: "a-token-of-the-second",
        version: "2026-07-28",
    },
    Run { program: ["node", "changes_v1.mjs"], token: "a-token-of-the-third", version: "2025-11-25" },
];

#[tokio::test(flavor = "multi_thread")]
async fn official_clients_hear_of_changes_at_servers_of_both_eras() {
    let scratch = Scratch::new();
    let lists = [scratch.write("tools-1", "first\n"), scratch.write("tools-2", "second\n")];
    let everything = part("node_modules/@modelcontextprotocol/server-everything/dist/index.js");
    let changing = |version: &str, list: &PathBuf| {
        ["node", &part("fixture/changing.mjs"), version, &list.display().to_string()].map(str::to_owned)
    };
    let bridges = [
        Bridge::start(&["node".to_owned(), everything]).await,
        Bridge::start(&changing("1", &lists[0])).await,
        Bridge::start(&changing("2", &lists[1])).await,
    ];
    let mut command = Command::new(binary("mcp-edge"));
    let mut tokens = String::from("auth:\n  tokens:\n");
    for (n, run) in RUNS.iter().enumerate() {
        tokens.push_str(&format!("    - {{env: TOKEN_{n}, principal: client-{n}}}\n"));
        command.env(format!("TOKEN_{n}"), run.token);
    }
    command.arg("--config").arg(scratch.write("edge.yaml", &tokens));
    for (name, bridge) in ["everything", "legacy", "modern"].iter().zip(&bridges) {
        command.arg("--server").arg(format!("{name}={}", bridge.address));
    }
    let mut edge = Edge::start_with(command).await;
    edge.ready().await;
    for run in &RUNS {
        let report = run.drive(&edge, &lists).await;
        assert!(report["error"].is_null(), "{}: {report}\n{}", run.program[1], edge.process.output());
        assert_eq!(report["protocolVersion"], run.version, "{report}");
    }
    edge.process.signal("TERM").await;
    assert!(edge.process.ended().await.success(), "{}", edge.process.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_goes_on_hearing_when_its_process_was_replaced() {
    let flags = ["--tools", "1", "--resources", "2", "--on", "tools/call:t0=die"];
    let server = binary("scripted-server").display().to_string();
    let command: Vec<_> = std::iter::once(server.as_str()).chain(flags).collect();
    let bridge = Bridge::start(&command).await;
    let mut command = Command::new(binary("mcp-edge"));
    command.arg("--server").arg(format!("only={}", bridge.address)).arg("--allow-unauthenticated");
    let edge = Edge::start_with(command).await;
    edge.ready().await;
    let client = Client::modern(edge.address).connect().await;
    let wanted = json!({"resourceSubscriptions": ["test://r1", "test://r0", "test://nobody"]});
    let params = client.params(json!({ "notifications": wanted }));
    let listen = json!({"jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": params});
    let mut stream = client.send(&client.request(&listen)).await;
    let ack = stream.message().await.unwrap();
    let mut accepted: Vec<String> =
        serde_json::from_value(ack["params"]["notifications"]["resourceSubscriptions"].clone()).unwrap();
    accepted.sort();
    assert_eq!(accepted, ["test://r0", "test://r1"]);

    let died = client.call_tool("t0", json!({})).await;
    assert_eq!(died.reason(), Some("died"), "{died:?}");
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let message = stream.message().await.unwrap();
        assert_eq!(message["method"], "notifications/resources/updated", "{message}");
        assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l");
        heard.push(message["params"]["uri"].as_str().unwrap().to_owned());
    }
    heard.sort();
    assert_eq!(heard, ["test://r0", "test://r1"], "what came in between is unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_sees_and_calls_what_its_own_process_has_come_to_offer() {
    let server = binary("scripted-server").display().to_string();
    let start = async |name: &str, flags: &[&str]| {
        let named = [server.as_str(), "--name", name];
        Bridge::start(&named.iter().chain(flags).collect::<Vec<_>>()).await
    };
    let bridges = [
        start("first", &["--tools", "0"]).await,
        start("grows", &["--tools", "1", "--on", "tools/call:t0=grow"]).await,
    ];
    let mut command = Command::new(binary("mcp-edge"));
    command.arg("--allow-unauthenticated");
    for (name, bridge) in ["first", "grows"].iter().zip(&bridges) {
        command.arg("--server").arg(format!("{name}={}", bridge.address));
    }
    let edge = Edge::start_with(command).await;
    edge.ready().await;
    let [one, other] = [
        Client::legacy(edge.address, "2025-11-25").connect().await,
        Client::legacy(edge.address, "2025-11-25").connect().await,
    ];
    let mut stream = one.listen().await;
    let tools = async |client: &Client| client.tool_names().await.len();
    assert_eq!(one.call_tool("grown0", json!({})).await.code(), -32602);
    for client in [&one, &other] {
        assert_eq!(tools(client).await, 1);
        client.call_tool("t0", json!({})).await;
        // Without waiting for the news of it.
        assert!(client.call_tool("grown0", json!({})).await.text().contains("grows"));
        assert_eq!(tools(client).await, 2);
    }
    let heard = stream.message().await.unwrap();
    assert_eq!(heard["method"], "notifications/tools/list_changed");
    let third = Client::legacy(edge.address, "2025-11-25").connect().await;
    assert_eq!(tools(&third).await, 1, "it is theirs alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_never_announced_is_found_by_whoever_knows_its_name() {
    let scratch = Scratch::new();
    let lists = [scratch.write("tools-1", "first\n"), scratch.write("tools-2", "second\n")];
    let quiet = |version: &str, list: &PathBuf| {
        ["node", &part("fixture/changing.mjs"), version, &list.display().to_string(), "quiet"]
            .map(str::to_owned)
    };
    let bridges = [Bridge::start(&quiet("1", &lists[0])).await, Bridge::start(&quiet("2", &lists[1])).await];
    let edge = Edge::start(&[("legacy", bridges[0].address), ("modern", bridges[1].address)]).await;
    edge.ready().await;
    let modern = Client::modern(edge.address).connect().await;
    let session = Client::legacy(edge.address, "2025-11-25").connect().await;
    for (list, client) in [(0, &modern), (0, &session), (1, &modern), (1, &session)] {
        let name = format!("new_{list}_{}", std::fs::read_to_string(&lists[list]).unwrap().lines().count());
        assert_eq!(client.call_tool(&name, json!({"uri": "note://1"})).await.code(), -32602);
        let before = client.tool_names().await;
        assert!(!before.contains(&name), "{before:?}");
        std::fs::write(&lists[list], std::fs::read_to_string(&lists[list]).unwrap() + &name + "\n").unwrap();
        // The server has a pause after each reading.
        eventually("the new tool to be called", async || {
            let called = client.call_tool(&name, json!({"uri": "note://1"})).await;
            called.message["result"]["content"][0]["text"].as_str().map(|text| assert_eq!(text, "touched"))
        })
        .await;
        assert!(client.tool_names().await.contains(&name), "who uses it sees it from then on");
    }
}

impl Run {
    async fn drive(&self, edge: &Edge, lists: &[PathBuf]) -> Value {
        let [program, script] = self.program;
        let program = if program.starts_with('.') { part(program) } else { program.to_owned() };
        let lists: Vec<_> = lists.iter().map(|list| list.display().to_string()).collect();
        let mut command = Command::new(program);
        command.current_dir(real::directory()).arg(script).env("NO_PROXY", "127.0.0.1").kill_on_drop(true);
        command.args(["--url", &format!("http://{}/mcp", edge.address), "--token", self.token]);
        command.args(["--lists", &lists.join(",")]);
        let output = tokio::time::timeout(CLIENT_GUARD, command.output()).await;
        let output = output.expect("the client ends in time").expect("the client starts");
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("no report of {script}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Each client waits up to a minute for each notification.
const CLIENT_GUARD: Duration = Duration::from_secs(180);
