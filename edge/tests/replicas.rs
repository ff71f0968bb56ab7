//! Several edges before one server: what one of them sealed counts at each that has the same key.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use serde_json::{Value, json};
use testkit::client::Client;
use testkit::process::{Bridge, Edge, binary};
use testkit::real::part;
use tokio::process::Command;

/// Three replicas in front of one server, the third with another key.
#[tokio::test(flavor = "multi_thread")]
async fn any_replica_of_the_same_key_takes_the_retry() {
    let bridge = Bridge::start(&["node", &part("fixture/server_v2.mjs")]).await;
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

const TOKEN: &str = "a-token-for-the-tests";
