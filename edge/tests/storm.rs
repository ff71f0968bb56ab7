//! The release binaries when servers misbehave: list changes at every start, a process killed with calls in
//! flight, a server that comes late.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::time::Duration;

use serde_json::{Value, json};
use testkit::client::{Answer, Client};
use testkit::eventually;
use testkit::process::{Bridge, Edge, Scratch, binary, free_address, is_gone, signal, workspace};
use testkit::record::Record;
use testkit::tap::Tap;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

const CLIENTS: usize = 50;
const CALLS: usize = 8;
/// How long a listing that must not happen is looked out for: several times the edge's wait after a list
/// change.
const LOOKOUT: Duration = Duration::from_secs(2);

/// A bridge in front of a scripted server, and what all its processes saw.
struct Scripted {
    bridge: Bridge,
    record: Record,
    _scratch: Scratch,
}

impl Scripted {
    async fn start(name: &str, flags: &[&str]) -> Scripted {
        Scripted::start_at(free_address(), name, flags).await
    }

    async fn start_at(address: std::net::SocketAddr, name: &str, flags: &[&str]) -> Scripted {
        Scripted::start_as(address, &[], (name, flags)).await
    }

    async fn start_as(
        address: std::net::SocketAddr,
        options: &[&str],
        (name, flags): (&str, &[&str]),
    ) -> Scripted {
        let scratch = Scratch::new();
        let path = scratch.path("record");
        let program = binary("scripted-server");
        let mut command = vec![program.to_str().unwrap(), "--name", name, "--record", path.to_str().unwrap()];
        command.extend(flags);
        let bridge = Bridge::start_at(address, options, &command).await;
        Scripted { bridge, record: Record::in_file(&path), _scratch: scratch }
    }

    /// The process that got this many calls of a tool, once it has.
    async fn process_with(&self, calls: usize) -> u32 {
        eventually("the calls to arrive", async || {
            let entries = self.record.entries();
            let calls_seen: Vec<_> =
                entries.iter().filter(|entry| entry["message"]["method"] == "tools/call").collect();
            (calls_seen.len() == calls).then(|| calls_seen[0]["process"].as_u64().unwrap() as u32)
        })
        .await
    }
}

/// Half of them legacy, half modern.
async fn client(edge: &Edge, number: usize) -> Client {
    match number % 2 {
        0 => Client::modern(edge.address).connect().await,
        _ => Client::legacy(edge.address, "2025-11-25").connect().await,
    }
}

/// Connects `CLIENTS` clients at once, each of which asks for every list.
async fn connect_many(edge: &Edge) -> Vec<Vec<String>> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let address = edge.address;
        clients.spawn(async move {
            let client = match number % 2 {
                0 => Client::modern(address).connect().await,
                _ => Client::legacy(address, "2025-11-25").connect().await,
            };
            client.list("prompts/list", "prompts").await;
            client.list("resources/list", "resources").await;
            client.list("resources/templates/list", "resourceTemplates").await;
            client.tool_names().await
        });
    }
    clients.join_all().await
}

/// Looks out for what must not happen, for as long as it would take to happen.
async fn never(what: &str, mut happened: impl FnMut() -> bool) {
    let until = Instant::now() + LOOKOUT;
    while Instant::now() < until {
        assert!(!happened(), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_cost_at_most_one_listing() {
    let noisy = Scripted::start(
        "noisy",
        &["--at-start", "ask:roots/list,list-changed:5", "--tools", "5", "--page", "2"],
    )
    .await;
    let edge = Edge::start(&[("noisy", noisy.bridge.address)]).await;
    edge.ready().await;
    let (listings, starts) = (noisy.record.listings(), noisy.record.starts());
    for tools in connect_many(&edge).await {
        assert_eq!(tools, ["t0", "t1", "t2", "t3", "t4"]);
    }
    never("connecting started a process", || noisy.record.starts() > starts).await;
    let more = noisy.record.listings() - listings;
    assert!(more <= 1, "{CLIENTS} clients cost {more} listings after {listings} at the start");
}

/// Tools are listed before prompts, and the server's second list comes in between.
#[tokio::test(flavor = "multi_thread")]
async fn tool_added_during_a_listing_is_not_missed() {
    let late = Scripted::start("late", &["--on", "prompts/list=grow"]).await;
    let edge = Edge::start(&[("late", late.bridge.address)]).await;
    edge.ready().await;
    let client = client(&edge, 0).await;
    let grown = async || client.tool_names().await.contains(&"grown0".to_owned()).then_some(());
    eventually("the tool that was added", grown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_everything_shows_all_its_tools_without_a_storm() {
    let script =
        workspace().join("testkit/real/node_modules/@modelcontextprotocol/server-everything/dist/index.js");
    assert!(script.exists(), "{} is missing; run `make real-deps` first", script.display());
    let bridge = Bridge::start(&["node", script.to_str().unwrap()]).await;
    let tap = Tap::start(bridge.address).await;
    let edge = Edge::start(&[("everything", tap.address())]).await;
    edge.ready().await;
    let listings = || tap.record().listings();
    // Its list changes come within its first seconds; what they cause belongs to the start and not to the
    // clients.
    eventually("its tools", async || (client(&edge, 0).await.tool_names().await.len() == 17).then_some(()))
        .await;
    let before = listings();
    for tools in connect_many(&edge).await {
        assert_eq!(tools.len(), 17);
    }
    never("more than one listing", || listings() > before + 1).await;
    assert!(before <= 2, "{before} listings at the start");
}

/// Starts `CALLS` calls that hang, kills their process, and returns the answers with how long each took from
/// the kill.
async fn kill_under_way(server: &Scripted, client: Client) -> Vec<(Duration, Answer)> {
    let client = std::sync::Arc::new(client);
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let client = client.clone();
        calls.spawn(async move {
            let answer = client.call_tool("t0", json!({})).await;
            (Instant::now(), answer)
        });
    }
    let process = server.process_with(CALLS).await;
    let killed = Instant::now();
    signal(process, "KILL").await;
    let answers = calls.join_all().await;
    // The next client is served by another process.
    let next = client.call_tool("t1", json!({})).await;
    let answered: Value = serde_json::from_str(next.text()).unwrap();
    assert_ne!(answered["process"], process);
    answers.into_iter().map(|(at, answer)| (at - killed, answer)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_fail_at_once_when_their_process_is_killed() {
    for number in 0..2 {
        let victim = Scripted::start("victim", &["--on", "tools/call:t0=hang"]).await;
        let other = Scripted::start("other", &["--tool", "unharmed", "--tools", "0"]).await;
        let edge = Edge::start(&[("victim", victim.bridge.address), ("other", other.bridge.address)]).await;
        edge.ready().await;
        for (took, answer) in kill_under_way(&victim, client(&edge, number).await).await {
            assert!(took < Duration::from_secs(1), "an answer took {took:?}: {answer:?}");
            assert_eq!((answer.code(), answer.reason()), (-32603, Some("died")), "{answer:?}");
            let message = answer.message["error"]["message"].as_str().unwrap();
            assert!(message.contains("victim"), "the server is not named: {message}");
        }
        let unharmed = client(&edge, number).await.call_tool("unharmed", json!({})).await;
        assert!(unharmed.text().contains("other"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_hangs_is_replaced_and_ended() {
    for (number, options) in [&[][..], &["--stdio", "handoff"]].into_iter().enumerate() {
        let server = Scripted::start_as(free_address(), options, ("frozen", &["--tools", "1"])).await;
        let scratch = Scratch::new();
        let address = server.bridge.address;
        let text = format!("servers: {{frozen: {{address: \"{address}\"}}}}\nlimits: {{call_timeout: 5s}}\n");
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--config").arg(scratch.write("edge.yaml", &text)).arg("--allow-unauthenticated");
        let edge = Edge::start_with(command).await;
        edge.ready().await;
        let client = client(&edge, number).await;
        client.call_tool("t0", json!({})).await;
        let process = server.process_with(1).await;
        signal(process, "STOP").await;
        assert_eq!(client.call_tool("t0", json!({})).await.reason(), Some("timeout"));

        let next = client.call_tool("t0", json!({})).await;
        let answered: Value = serde_json::from_str(next.text()).unwrap();
        assert_ne!(answered["process"], process, "whoever comes next has another process");
        eventually("the old one to be gone", async || is_gone(process).then_some(())).await;
        edge.process.wrote("server says nothing any more").await;
        let body: Value = serde_json::from_str(&edge.readiness().await.1).unwrap();
        let last = body["servers"]["frozen"]["last_error"].as_str().unwrap_or_default();
        assert!(last.contains("did not answer in time"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_starts_late_is_served_without_a_restart() {
    let here = Scripted::start("here", &["--tools", "1", "--on", "prompts/list=error:-32000"]).await;
    let later = free_address();
    let edge = Edge::start(&[("here", here.bridge.address), ("late", later)]).await;
    edge.ready().await;
    assert_eq!(state(&edge, "late").await, "down");
    unread(&edge, "here", 1.0).await;
    unread(&edge, "late", 4.0).await;
    let early = client(&edge, 1).await;
    assert_eq!(early.tool_names().await, ["t0"]);

    let _late = Scripted::start_at(later, "late", &["--tools", "0", "--tool", "came"]).await;
    eventually("the late server's tool", async || {
        early.tool_names().await.contains(&"came".to_owned()).then_some(())
    })
    .await;
    assert_eq!(state(&edge, "late").await, "up");
    unread(&edge, "late", 0.0).await;
    for number in 0..2 {
        let answer = client(&edge, number).await.call_tool("came", json!({})).await;
        assert!(answer.text().contains("late"), "{answer:?}");
    }
    assert_eq!(edge.readiness().await.0, 200);
}

/// Waits until so many lists of a server could not be read.
async fn unread(edge: &Edge, server: &str, lists: f64) {
    let series = format!("mcp_edge_upstream_lists_unread{{server=\"{server}\"}}");
    eventually("the lists that are read", async || (edge.metric(&series).await == Some(lists)).then_some(()))
        .await;
}

/// The admin port's report of one server.
async fn state(edge: &Edge, server: &str) -> String {
    let (_, body) = edge.readiness().await;
    let body: Value = serde_json::from_str(&body).unwrap();
    body["servers"][server]["state"]
        .as_str()
        .unwrap_or_else(|| panic!("{server} is not in {body}"))
        .to_owned()
}
