//! The legacy client against an official server's own HTTP mode: whoever judges has to be judged first.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a panic here is a failed test"
)]

use std::time::Duration;

use serde_json::{Value, json};
use testkit::client::Client;
use testkit::eventually;
use testkit::process::{Process, free_address, workspace};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

/// A call that takes so many seconds and reports so many steps.
fn long(duration: f64, steps: u32, token: Value) -> Value {
    json!({
        "name": "trigger-long-running-operation",
        "arguments": {"duration": duration, "steps": steps},
        "_meta": {"progressToken": token},
    })
}

#[tokio::test]
async fn a_legacy_client_goes_through_a_session_with_server_everything() {
    let script =
        workspace().join("testkit/real/node_modules/@modelcontextprotocol/server-everything/dist/index.js");
    assert!(script.exists(), "{} is missing; run `make real-deps` first", script.display());
    let address = free_address();
    let mut command = Command::new("node");
    command.arg(script).arg("streamableHttp").env("PORT", address.port().to_string());
    let _server = Process::start(command);
    eventually("the server to accept", async || TcpStream::connect(address).await.ok()).await;

    let client = Client::legacy(address, "2025-06-18").connect().await;
    assert_eq!(client.version(), "2025-06-18");
    assert!(client.session().is_some());
    assert!(client.tool_names().await.contains(&"echo".to_owned()));
    assert_eq!(client.call_tool("echo", json!({"message": "grüße"})).await.text(), "Echo: grüße");

    let mut stream = client.listen().await;
    assert!(stream.status == 200 && stream.is_stream());

    let answer = client.call("tools/call", long(0.2, 2, json!("a"))).await;
    let progress: Vec<_> =
        answer.events.iter().map(|event| event["params"]["progress"].as_u64().unwrap()).collect();
    assert_eq!(progress, [1, 2]);
    assert!(answer.text().contains("completed"));

    let mut call = client.open("tools/call", long(60.0, 600, json!(7))).await;
    assert_eq!(call.next().await.unwrap()["params"]["progressToken"], 7);
    assert_eq!(client.cancel(call.id).await, 202);
    drop(call);

    assert_eq!(client.end().await, 200);
    // The session's end closes its stream; whatever was on its way may come first.
    let closed = timeout(Duration::from_secs(20), async { while stream.message().await.is_some() {} }).await;
    assert!(closed.is_ok(), "the stream outlived its session");
    assert!(client.call("ping", json!({})).await.status >= 400);
}
