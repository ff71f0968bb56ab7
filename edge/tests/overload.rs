//! The release binary over each bound that a client can reach: it refuses at once with a reason, and leaks nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::io::{Read, pipe};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use serde_json::json;
use testkit::client::{Answer, Client};
use testkit::demo::DemoEdge;
use testkit::eventually;
use testkit::process::{Bridge, Edge, binary, free_address};
use tokio::process::Command;
use tokio::task::JoinSet;

/// Makes `calls` calls of 300 ms at once.
async fn call_at_once(client: Client, calls: usize) -> Vec<Answer> {
    let client = Arc::new(client);
    let mut running = JoinSet::new();
    for _ in 0..calls {
        let client = client.clone();
        running.spawn(async move { client.call_tool("sleep", json!({"ms": 300})).await });
    }
    running.join_all().await
}

fn count_refusals(answers: &[Answer], status: u16) -> usize {
    let (served, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!(served.iter().all(|answer| answer.text() == "slept 300 ms"), "{served:?}");
    for answer in &refused {
        assert_eq!(
            (answer.status, answer.code(), answer.reason()),
            (status, -32603, Some("busy")),
            "{answer:?}"
        );
    }
    refused.len()
}

/// Waits until no call is in flight, by every gauge that counts them.
async fn wait_until_idle(edge: &Edge) {
    for gauge in ["calls_held", "held_bytes", "calls_in_flight", "upstream_in_flight{server=\"demo\"}"] {
        let series = format!("mcp_edge_{gauge}");
        eventually(&format!("{series} to be 0"), async || (edge.metric(&series).await? == 0.0).then_some(()))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_the_queue_of_a_server_are_refused_with_503() {
    let edge = DemoEdge::start("{slots: 4, queue: 8, queue_timeout: 10s}", &[], "both").await;
    let client = Client::modern(edge.address).connect().await;
    client.call_tool("add", json!({"a": 1, "b": 2})).await; // so that no call waits for a connection
    let answers = call_at_once(client, 40).await;
    let refused = count_refusals(&answers, 503);
    // At least the slots and the queue are served; how many more depends on when each call came.
    assert!((1..=28).contains(&refused), "{refused} refused");
    assert_eq!(edge.metric("mcp_edge_refused_total{bound=\"queue\"}").await, Some(refused as f64));
    wait_until_idle(&edge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_the_bound_of_a_principal_are_refused_with_429() {
    let edge = DemoEdge::start("{calls: 100, principal_calls: 5}", &[], "both").await;
    let answers = call_at_once(Client::modern(edge.address).connect().await, 30).await;
    assert!(count_refusals(&answers, 429) >= 1);
    wait_until_idle(&edge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn call_to_a_full_bridge_is_refused_as_busy_until_there_is_room() {
    // One process for the control connection, one for clients; each session wants its own.
    let edge = DemoEdge::start("{connect_timeout: 1s}", &["--max-connections", "2"], "legacy").await;
    let sum = async |client: &Client| client.call_tool("add", json!({"a": 1, "b": 2})).await;
    let first = Client::legacy(edge.address, "2025-11-25").connect().await;
    let second = Client::legacy(edge.address, "2025-11-25").connect().await;
    assert_eq!(sum(&first).await.text(), "3");
    let refused = sum(&second).await;
    assert_eq!(
        (refused.status, refused.code(), refused.reason()),
        (503, -32603, Some("busy")),
        "{refused:?}"
    );
    assert!(refused.message["error"]["message"].as_str().unwrap().contains("demo"));
    assert_eq!(first.end().await, 204);
    eventually("the place to be free", async || (sum(&second).await.status == 200).then_some(())).await;
    wait_until_idle(&edge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_clients_that_vanish_are_cancelled() {
    let edge = DemoEdge::start("{}", &[], "both").await;
    let client = Arc::new(Client::modern(edge.address).connect().await);
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let client = client.clone();
        calls.spawn(async move { client.call_tool("sleep", json!({"seconds": 600})).await });
    }
    eventually("the calls to be in flight", async || {
        (edge.metric("mcp_edge_upstream_in_flight{server=\"demo\"}").await? == 200.0).then_some(())
    })
    .await;
    calls.abort_all(); // each drops its socket
    wait_until_idle(&edge).await;
    assert_eq!(client.call_tool("add", json!({"a": 1, "b": 2})).await.text(), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_is_not_read_drops_lines_and_delays_no_call() {
    let (address, server) = (free_address(), binary("demo-server"));
    let _bridge = Bridge::start_at(address, &[], &[server.to_str().unwrap()]).await;
    // Its standard error is a pipe that the test holds.
    let (mut unread, log) = pipe().unwrap();
    let log_path = format!("/proc/{}/fd/{}", std::process::id(), log.as_raw_fd());
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>\"$LOG\"", "sh"]).env("LOG", log_path).arg(binary("mcp-edge"));
    command.args(["--server", &format!("demo={address}"), "--allow-unauthenticated", "--log-calls"]);
    let mut edge = Edge::start_with(command).await;
    drop(log);
    edge.ready().await;
    let client = Arc::new(Client::modern(edge.address).connect().await);
    let dropped = async || edge.metric("mcp_edge_log_lines_dropped_total").await.unwrap();
    eventually("the log to drop lines", async || {
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            let client = client.clone();
            calls.spawn(async move {
                for _ in 0..100 {
                    assert_eq!(client.call_tool("add", json!({"a": 1, "b": 2})).await.text(), "3");
                }
            });
        }
        calls.join_all().await;
        (dropped().await > 0.0).then_some(())
    })
    .await;
    let read = Arc::new(Mutex::new(String::new()));
    let reading = {
        let read = read.clone();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(bytes @ 1..) = unread.read(&mut piece) {
                read.lock().push_str(&String::from_utf8_lossy(&piece[..bytes]));
            }
        })
    };
    eventually("the number of dropped lines to be logged", async || {
        read.lock().contains(" lines dropped, stderr was not read\n").then_some(())
    })
    .await;
    edge.process.signal("INT").await;
    assert!(edge.process.ended().await.success());
    reading.join().unwrap();
    assert!(read.lock().trim_end().ends_with("stopped"), "the last lines are written");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_is_not_read_does_not_keep_the_process_from_exiting() {
    let (unread, log) = pipe().unwrap();
    let log_path = format!("/proc/{}/fd/{}", std::process::id(), log.as_raw_fd());
    let mut command = Command::new("sh");
    // The pipe is full before the edge starts.
    let fill = "head -c 65536 /dev/zero >\"$LOG\"; exec \"$@\" 2>\"$LOG\"";
    command.args(["-c", fill, "sh"]).env("LOG", log_path).arg(binary("mcp-edge"));
    command.args(["--server", &format!("demo={}", free_address()), "--allow-unauthenticated"]);
    let mut edge = Edge::start_with(command).await;
    edge.process.signal("INT").await;
    assert!(edge.process.ended().await.success());
    drop((unread, log));
}
