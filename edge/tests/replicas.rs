//! Several edges before one server: what one of them sealed counts at each that has the same key, and what one of them
//! holds can be asked for at each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::net::SocketAddr;

use serde_json::{Value, json};
use testkit::balancer::Balancer;
use testkit::client::{Answer, Client};
use testkit::http::{Request, Response};
use testkit::peer::{Peer, Transport};
use testkit::process::{Bridge, Edge, Scratch, binary, free_address};
use testkit::real::part;
use testkit::script::Script;
use testkit::scripted::Listener;
use testkit::{GUARD, eventually};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

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

/// Replicas that know of each other, and a load balancer that knows of nothing.
struct Replicas {
    edges: Vec<Edge>,
    peers: Vec<SocketAddr>,
    balancer: Balancer,
    server: Listener,
    _scratch: Scratch,
}

impl Replicas {
    async fn start(flags: &[&str], more: &str) -> Self {
        let server = Listener::start(Script::from_flags(flags)).await;
        let (scratch, mut edges, mut peers) = (Scratch::new(), Vec::new(), Vec::new());
        for replica in ["a", "b"] {
            let peer = free_address();
            let text = format!("peers: {{listen: \"{peer}\"}}\n{more}");
            let mut command = Command::new(binary("mcp-edge"));
            command.arg("--config").arg(scratch.write(replica, &text));
            command.arg("--server").arg(format!("only={}", server.address()));
            command.env("MCP_GATEWAY_AUTH_TOKEN", TOKEN).env("MCP_EDGE_KEY", "k".repeat(32));
            edges.push(Edge::start_with(command).await);
            peers.push(peer);
        }
        for edge in &edges {
            edge.ready().await;
        }
        let balancer = Balancer::start(edges.iter().map(|edge| edge.address).collect()).await;
        Self { edges, peers, balancer, server, _scratch: scratch }
    }

    async fn passed(&self) -> f64 {
        let mut passed = 0.0;
        for edge in &self.edges {
            passed += edge.metric("mcp_edge_peer_requests_passed_total").await.unwrap();
        }
        passed
    }
}

/// Sends a call of this client to another address.
async fn call_at(address: SocketAddr, client: &Client, method: &str, params: Value) -> Answer {
    let message = json!({"jsonrpc": "2.0", "id": 77, "method": method, "params": client.params(params)});
    let mut response: Response = client.request(&message).send(address).await.unwrap();
    let (status, mut events) = (response.status, Vec::new());
    if !response.is_stream() {
        return Answer { status, events, message: response.json().await };
    }
    while let Some(message) = response.message().await {
        if message["id"] == 77 {
            return Answer { status, events, message };
        }
        events.push(message);
    }
    Answer { status, events, message: Value::Null }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_whichever_replica_its_requests_come_to() {
    let asks = [
        "--name",
        "iota",
        "--tools",
        "2",
        "--on",
        "tools/call:t1=ask:elicitation/create,progress:2,grow,answer",
    ];
    let replicas = Replicas::start(&asks, "").await;
    let client = Client::legacy(replicas.balancer.address(), "2025-11-25").token(TOKEN);
    let client = client.capabilities(json!({"elicitation": {}})).connect().await;
    for _ in 0..6 {
        assert_eq!(client.tool_names().await, ["t0", "t1"]);
        assert!(client.call_tool("t0", json!({})).await.text().contains("iota"));
    }
    let (what, count) = ("two control connections, and one process of the session", 3);
    eventually(what, async || (replicas.server.open() == count).then_some(())).await;
    // The stream, a call, its question and the answer, each on a connection of its own.
    let mut streams = [client.listen().await, client.listen().await];
    let params = json!({"name": "t1", "arguments": {}, "_meta": {"progressToken": "p"}});
    let mut asking = client.open("tools/call", params).await;
    let question = asking.next().await.unwrap();
    assert_eq!(question["method"], "elicitation/create");
    assert_eq!(client.reply(&question["id"], json!({"action": "decline"})).await, 202);
    let answer = timeout(GUARD, asking.answer()).await.expect("an answer in time");
    assert!(answer.text().contains("decline"), "{answer:?}");
    assert_eq!(answer.events.len(), 2, "its progress came through: {answer:?}");
    let [old, new] = &mut streams;
    let told = async {
        tokio::select! {
            Some(told) = old.message() => told,
            Some(told) = new.message() => told,
        }
    };
    let told = timeout(GUARD, told).await.expect("news in time");
    assert_eq!(told["method"], "notifications/tools/list_changed");
    let stranger = Client::legacy(replicas.balancer.address(), "2025-11-25")
        .header("Mcp-Session-Id", client.session().unwrap());
    assert_eq!(stranger.call("tools/list", json!({})).await.status, 401);
    assert!(replicas.passed().await >= 6.0);
    assert_eq!(client.end().await, 204);
    for edge in &replicas.edges {
        assert_eq!(call_at(edge.address, &client, "tools/list", json!({})).await.status, 404);
    }
    eventually("its process to end", async || (replicas.server.open() == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_the_older_transport_find_their_stream() {
    let replicas = Replicas::start(&["--name", "iota", "--tools", "1"], "").await;
    let peer = Peer::connect(replicas.balancer.address(), TOKEN, "word", Transport::Sse).await;
    for _ in 0..6 {
        assert!(peer.tool("t0", json!({})).await.contains("iota"));
    }
    assert!(replicas.passed().await >= 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_and_tasks_are_found_at_every_replica() {
    let flags = [
        "--tools",
        "2",
        "--on",
        "tools/call:t0=ask:elicitation/create,answer",
        "--on",
        "tools/call:t1=delay:1500,answer",
    ];
    let replicas = Replicas::start(&flags, "tasks: {after: 200ms}\n").await;
    let [a, b] = [0, 1].map(|n| replicas.edges[n].address);
    let extension = json!({"io.modelcontextprotocol/tasks": {}});
    let can = json!({"elicitation": {"form": {}}, "extensions": extension});
    let client = Client::modern(a).token(TOKEN).capabilities(can);
    let first = call_at(a, &client, "tools/call", json!({"name": "t0", "arguments": {}})).await;
    let (key, _) = first.result()["inputRequests"].as_object().unwrap().iter().next().unwrap();
    let retry = json!({
        "name": "t0", "arguments": {}, "requestState": first.result()["requestState"],
        "inputResponses": {key: {"action": "decline"}},
    });
    let last = call_at(b, &client, "tools/call", retry.clone()).await;
    assert!(last.text().contains("decline"), "{last:?}");
    let again = call_at(b, &client, "tools/call", retry).await;
    assert!(
        again.code() != 0 && again.message["error"]["message"].as_str().unwrap().contains("used already")
    );

    let created = call_at(a, &client, "tools/call", json!({"name": "t1", "arguments": {}})).await;
    let id = created.result()["taskId"].as_str().unwrap().to_owned();
    let done = eventually("the task to be done", async || {
        let now = call_at(b, &client, "tasks/get", json!({"taskId": id})).await;
        (now.result()["status"] == "completed").then_some(now)
    })
    .await;
    assert!(done.result()["result"]["content"].is_array(), "{done:?}");
    let other = Client::modern(b).token("no-token");
    assert_eq!(call_at(b, &other, "tasks/get", json!({"taskId": id})).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_replica_ends_its_sessions_and_parked_calls_at_once() {
    let asks = ["--tools", "1", "--on", "tools/call:t0=ask:elicitation/create,answer"];
    let mut replicas = Replicas::start(&asks, "").await;
    let [a, b] = [0, 1].map(|n| replicas.edges[n].address);
    let session = Client::legacy(a, "2025-06-18").token(TOKEN).connect().await;
    let can = json!({"elicitation": {"form": {}}});
    let modern = Client::modern(a).token(TOKEN).capabilities(can);
    let parked = call_at(a, &modern, "tools/call", json!({"name": "t0", "arguments": {}})).await;
    assert_eq!(call_at(b, &session, "tools/list", json!({})).await.status, 200);
    replicas.edges[0].process.signal("KILL").await;
    replicas.edges[0].process.ended().await;
    let begun = Instant::now();
    assert_eq!(call_at(b, &session, "tools/list", json!({})).await.status, 404);
    let retry = json!({
        "name": "t0", "arguments": {}, "requestState": parked.result()["requestState"], "inputResponses": {},
    });
    let lost = call_at(b, &modern, "tools/call", retry).await;
    assert_eq!((lost.status, lost.reason()), (200, Some("lost")), "{lost:?}");
    assert_eq!(lost.message["id"], 77, "it is the call's own outcome");
    assert!(begun.elapsed() < GUARD, "no time-out had to pass");
    let info = json!({"name": "t", "version": "1"});
    let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info});
    let anew = call_at(b, &session, "initialize", hello).await;
    assert_eq!(anew.status, 200, "with the id of what is gone in its header");
    let next = Client::legacy(b, "2025-06-18").token(TOKEN).connect().await;
    assert_eq!(next.tool_names().await, ["t0"]);
}

/// The order of a rollout: replicas with both keys accept what was sealed with the old one, while others still have only that.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_under_sessions() {
    let server = Listener::start(Script::from_flags(&["--tools", "1"])).await;
    let (old, new) = ("o".repeat(32), "n".repeat(32));
    let mut edges = Vec::new();
    for keys in [old.clone(), format!("{new},{old}")] {
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--server").arg(format!("only={}", server.address()));
        command.arg(format!("--peers={}", free_address()));
        command.env("MCP_GATEWAY_AUTH_TOKEN", TOKEN).env("MCP_EDGE_KEY", keys);
        edges.push(Edge::start_with(command).await);
    }
    for edge in &edges {
        edge.ready().await;
    }
    let session = Client::legacy(edges[0].address, "2025-11-25").token(TOKEN).connect().await;
    assert_eq!(call_at(edges[1].address, &session, "tools/list", json!({})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ends_ends_the_streams_that_it_passes_on() {
    let mut replicas = Replicas::start(&["--tools", "1"], "").await;
    let [a, b] = [0, 1].map(|n| replicas.edges[n].address);
    let session = Client::legacy(a, "2025-11-25").token(TOKEN).connect().await;
    let through_b = Client::legacy(b, "2025-11-25").token(TOKEN);
    let mut stream = through_b.header("Mcp-Session-Id", session.session().unwrap()).listen().await;
    assert_eq!(stream.status, 200);
    replicas.edges[1].process.signal("INT").await;
    let end = async { while stream.message().await.is_some() {} };
    timeout(GUARD, end).await.expect("the stream ends");
    assert!(replicas.edges[1].process.ended().await.success());
    assert!(!replicas.edges[1].process.output().contains("drain ran out of time"));
    assert_eq!(call_at(a, &session, "tools/list", json!({})).await.status, 200, "its session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_port_refuses_clients_that_are_not_replicas() {
    let replicas = Replicas::start(&["--tools", "1"], "").await;
    let session = Client::legacy(replicas.edges[0].address, "2025-11-25").token(TOKEN).connect().await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    for proof in [None, Some("v1.x"), session.session()] {
        let mut request = session.request(&list);
        if let Some(proof) = proof {
            request = request.header("mcp-edge-peer", proof);
        }
        let response = request.send(replicas.peers[0]).await.unwrap();
        assert_eq!(response.status, 403, "{proof:?}");
    }
    let health = Request::new("GET", "/health").send(replicas.peers[0]).await.unwrap();
    assert_eq!(health.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_other_replicas_are_bounded() {
    let replicas = Replicas::start(&["--tools", "1"], "limits: {connections: 2}\n").await;
    let series = "mcp_edge_refused_total{bound=\"connections\"}";
    let hits = async || replicas.edges[0].metric(series).await.unwrap_or(0.0);
    let before = hits().await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(replicas.peers[0]).await.unwrap());
    }
    eventually("the bound to be hit", async || (hits().await > before).then_some(())).await;
    let health = Request::new("GET", "/health");
    let third = tokio::spawn(async move { health.send(replicas.peers[0]).await.unwrap().status });
    held.clear();
    assert_eq!(timeout(GUARD, third).await.expect("it comes to its turn").unwrap(), 403);
}

const TOKEN: &str = "a-token-for-the-tests";
