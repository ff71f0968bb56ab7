//! The release binary on SIGTERM and SIGINT: calls in flight are answered, and new clients are sent elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::sync::Arc;

use serde_json::{Value, json};
use testkit::client::Client;
use testkit::demo::DemoEdge;
use testkit::eventually;
use testkit::http::Response;
use testkit::process::{Edge, Scratch, binary, children, is_gone};
use tokio::process::Command;

/// One `tools/list` of a modern client, with the response's head.
async fn list(client: &Client) -> Response {
    let params = client.params(json!({}));
    client
        .send(&client.request(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params})))
        .await
}

async fn in_flight(edge: &Edge, calls: f64) {
    eventually("the calls to be in flight", async || {
        (edge.metric("mcp_edge_upstream_in_flight{server=\"demo\"}").await? == calls).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_with_calls_in_flight_answers_them_and_closes_connections() {
    let mut edge = DemoEdge::start("{drain_delay: 2s, drain: 20s}", &[], "both").await;
    let modern = Arc::new(Client::modern(edge.address).connect().await);
    let legacy = Arc::new(Client::legacy(edge.address, "2025-06-18").connect().await);
    let sleepers = [modern.clone(), legacy.clone()]
        .map(|client| tokio::spawn(async move { client.call_tool("sleep", json!({"ms": 4000})).await }));
    in_flight(&edge, 2.0).await;
    assert_eq!(list(&modern).await.header("connection"), None);

    edge.process.signal("TERM").await;
    eventually("not ready", async || (edge.readiness().await.0 == 503).then_some(())).await;
    let report: Value = serde_json::from_str(&edge.readiness().await.1).unwrap();
    assert_eq!((&report["ready"], &report["draining"]), (&json!(false), &json!(true)));
    // Endpoints are removed asynchronously: a client that comes in the meantime is served on a connection that then closes.
    let late = list(&modern).await;
    assert_eq!((late.status, late.header("connection")), (200, Some("close")));

    for sleeper in sleepers {
        assert_eq!(sleeper.await.unwrap().text(), "slept 4000 ms");
    }
    assert!(edge.process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_with_an_open_listen_ends_it_with_its_result() {
    let mut edge = DemoEdge::start("{drain_delay: 0s, drain: 60s}", &[], "both").await;
    let client = Client::modern(edge.address).connect().await;
    let params = client.params(json!({"notifications": {"toolsListChanged": true, "later": {}}}));
    let listen = json!({"jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": params});
    let mut stream = client.send(&client.request(&listen)).await;
    assert!(stream.is_stream() && stream.header("x-accel-buffering") == Some("no"));
    let id = json!({"io.modelcontextprotocol/subscriptionId": "l"});
    let ack = stream.message().await.unwrap();
    assert_eq!(ack["params"], json!({"_meta": id, "notifications": {"toolsListChanged": true}}));
    assert_eq!(edge.metric("mcp_edge_streams{kind=\"listen\"}").await, Some(1.0));

    edge.process.signal("TERM").await;
    let last = stream.message().await.unwrap();
    assert_eq!(
        (&last["id"], &last["result"]),
        (&json!("l"), &json!({"resultType": "complete", "_meta": id}))
    );
    assert!(stream.event().await.is_none());
    assert!(edge.process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_that_times_out_answers_calls_with_an_error() {
    let mut edge = DemoEdge::start("{drain_delay: 0s, drain: 1s}", &[], "both").await;
    let client = Arc::new(Client::modern(edge.address).connect().await);
    let sleeper = {
        let client = client.clone();
        tokio::spawn(async move { client.call_tool("sleep", json!({"seconds": 600})).await })
    };
    in_flight(&edge, 1.0).await;
    edge.process.signal("TERM").await;
    let answer = sleeper.await.unwrap();
    assert_eq!((answer.code(), answer.reason()), (-32603, Some("draining")), "{answer:?}");
    assert!(edge.process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_skips_the_drain_delay() {
    let mut edge = DemoEdge::start("{drain_delay: 500s, drain: 600s}", &[], "both").await;
    edge.process.signal("INT").await;
    assert!(edge.process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn local_server_that_does_not_exit_is_killed_at_the_end_of_the_drain() {
    let scratch = Scratch::new();
    let script = format!("'{}'; exec sleep 600", binary("demo-server").display());
    let file = scratch.write(
        "edge.yaml",
        &format!(
            "servers: {{demo: {{command: [sh, -c, \"{script}\"]}}}}\nlimits: {{drain_delay: 0s, drain: 1s}}\n"
        ),
    );
    let mut command = Command::new(binary("mcp-edge"));
    command.arg("--config").arg(file).arg("--allow-unauthenticated");
    let mut edge = Edge::start_with(command).await;
    edge.ready().await;
    let servers = children(edge.process.pid());
    assert!(!servers.is_empty(), "a server that was listed runs");
    edge.process.signal("TERM").await;
    assert!(edge.process.ended().await.success());
    eventually("the servers to be gone", async || servers.iter().all(|pid| is_gone(*pid)).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_signal_ends_the_edge_and_its_local_servers_at_once() {
    for signal in ["TERM", "INT"] {
        let scratch = Scratch::new();
        let script = "trap '' TERM; while :; do sleep 1; done";
        let file = scratch.write(
            "edge.yaml",
            &format!("servers: {{stubborn: {{command: [sh, -c, \"{script}\"]}}}}\nlimits: {{drain_delay: 500s, drain: 600s}}\n"),
        );
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--config").arg(file).arg("--allow-unauthenticated");
        let mut edge = Edge::start_with(command).await;
        let pid = edge.process.pid();
        let servers =
            eventually("a server", async || Some(children(pid)).filter(|pids| !pids.is_empty())).await;
        edge.process.signal("TERM").await;
        edge.process.wrote("draining").await;
        // The first of these may still be taken for an echo.
        let ended = eventually("the end", async || {
            edge.process.signal(signal).await;
            edge.process.status()
        });
        assert!(ended.await.success());
        eventually("the servers to be gone", async || servers.iter().all(|pid| is_gone(*pid)).then_some(()))
            .await;
    }
}
