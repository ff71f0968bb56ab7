//! Servers of both eras that ask, and official clients of both eras that answer, through bridge and edge: forms,
//! samples and roots, one at a time, several at once, and over several rounds; and a list and a result that only the
//! modern era may write so. What the clients do is in `testkit/real/asked.*`, what the servers ask in
//! `testkit/real/fixture/rounds.mjs` and `asks.mjs`.

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
use testkit::process::{Bridge, Edge, binary, workspace};
use tokio::process::Command;

/// One client program in one of its eras, and the version it agrees on.
const RUNS: [(&[&str], &str, &str); 5] = [
    (&["node", "asked_v1.mjs"], "legacy", LEGACY),
    (&["node", "asked_v2.mjs"], "legacy", LEGACY),
    (&[".venv/bin/python", "asked.py"], "legacy", LEGACY),
    (&["node", "asked_v2.mjs"], MODERN, MODERN),
    (&[".venv/bin/python", "asked.py"], MODERN, MODERN),
];

const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
const TOKEN: &str = "a-token-for-the-tests";

#[tokio::test(flavor = "multi_thread")]
async fn official_clients_of_both_eras_answer_what_a_modern_server_asks() {
    ask_all("fixture/server_v2.mjs", "Client exposed 1 root(s): file:///a-root", json!([1, 2, 3])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn official_clients_of_both_eras_answer_what_a_legacy_server_asks() {
    ask_all("fixture/server_v1.mjs", "Client exposed file:///a-root", Value::Null).await;
}

/// All clients, one after the other; `roots` and `structured` are what servers of the two eras say in different ways.
async fn ask_all(server: &str, roots: &str, structured: Value) {
    let bridge = Bridge::start(&["node".to_owned(), part(server)]).await;
    let mut command = Command::new(binary("mcp-edge"));
    command.arg("--server").arg(format!("fixture={}", bridge.address)).env("MCP_GATEWAY_AUTH_TOKEN", TOKEN);
    let edge = Edge::start_with(command).await;
    edge.ready().await;
    let expected = json!({
        "elicitation": "Hello, Ada!",
        "sampling": "Sampling response: Paris",
        "list_roots": roots,
        "request_state": "state-ok: it came back",
        "multiple_inputs": "Paris Ada, 1 root(s)",
        "multi_round": "Ada likes green",
        "structured": structured,
        "prompt": "Use the following context: the tests",
    });
    for (program, era, version) in RUNS {
        let report = drive(&edge, program, era).await;
        assert_eq!(report["error"], Value::Null, "{program:?} {era}: {report}");
        assert_eq!(report["protocolVersion"], version, "{program:?} {era}");
        assert_eq!(report["calls"], expected, "{program:?} {era}");
    }
}

/// Three replicas in front of one server, the third with another key.
#[tokio::test(flavor = "multi_thread")]
async fn any_replica_of_the_same_key_takes_the_retry() {
    let bridge = Bridge::start(&["node".to_owned(), part("fixture/server_v2.mjs")]).await;
    let mut edges = Vec::new();
    for letter in ["a", "a", "b"] {
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--server").arg(format!("fixture={}", bridge.address));
        command.env("MCP_GATEWAY_AUTH_TOKEN", TOKEN).env("MCP_EDGE_KEY", letter.repeat(32));
        edges.push(Edge::start_with(command).await);
    }
    let mut clients = Vec::new();
    for edge in &edges {
        edge.ready().await;
        let can = json!({"elicitation": {"form": {}}});
        clients.push(Client::modern(edge.address).token(TOKEN).capabilities(can));
    }
    let call = async |at: usize, extra: Value| {
        let mut params = json!({"name": "test_input_required_result_multi_round", "arguments": {}});
        params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        clients[at].call("tools/call", params).await
    };
    let given = |key: &str, content: Value, of: &Value| {
        let answer = json!({"action": "accept", "content": content});
        json!({"inputResponses": {key: answer}, "requestState": of["requestState"]})
    };
    let first = call(0, json!({})).await;
    assert!(first.result()["inputRequests"]["step1"].is_object(), "{first:?}");
    let answered = given("step1", json!({"name": "Ada"}), first.result());
    let foreign = call(2, answered.clone()).await;
    assert_eq!((foreign.status, foreign.code()), (400, -32602));
    let second = call(1, answered).await;
    assert!(second.result()["inputRequests"]["step2"].is_object(), "{second:?}");
    let last = call(0, given("step2", json!({"color": "green"}), second.result())).await;
    assert_eq!(last.text(), "Ada likes green");
}

/// Runs one client to its end; its report.
async fn drive(edge: &Edge, program: &[&str], era: &str) -> Value {
    let interpreter = if program[0].starts_with('.') { part(program[0]) } else { program[0].to_owned() };
    let mut command = Command::new(interpreter);
    command.current_dir(real()).arg(program[1]).env("NO_PROXY", "127.0.0.1").kill_on_drop(true);
    command.args(["--url", &format!("http://127.0.0.1:{}/mcp", edge.address.port())]);
    command.args(["--token", TOKEN, "--era", era]);
    let output = tokio::time::timeout(CLIENT_GUARD, command.output()).await;
    let output = output.expect("the client ends in time").expect("the client starts");
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {said}"))
}

/// A file of `testkit/real`.
fn part(name: &str) -> String {
    let path = real().join(name);
    assert!(path.exists(), "{} is missing; run `make real-deps` first", path.display());
    path.display().to_string()
}

fn real() -> PathBuf {
    workspace().join("testkit/real")
}

/// A client needs 1 to 3 s on an idle machine.
const CLIENT_GUARD: Duration = Duration::from_secs(120);
