//! Calls on a connection that works.

use super::*;
use crate::call::{Event, Next};
use crate::error::Kind;

#[tokio::test(start_paused = true)]
async fn a_call_goes_out_after_the_handshake_and_comes_back_complete() {
    let mut room = Setting::default().build();
    let reply = room.echo("hi");
    let mut peer = room.accept().await;
    let initialize = peer.shake_legacy().await;
    assert_eq!(initialize["params"]["protocolVersion"], "2025-11-25");
    assert_eq!(initialize["params"]["capabilities"], json!({}), "nobody behind a call could answer an ask");
    assert_eq!(initialize["params"]["clientInfo"]["name"], "mcp-edge");
    let request = peer.serve_echo().await;
    assert_eq!(request["params"], echo("hi")["params"], "nothing is added");
    assert_eq!(result(reply).await, json!({"resultType": "complete", "content": ["hi"]}));
}

#[tokio::test(start_paused = true)]
async fn answers_may_come_in_any_order() {
    let mut room = Setting::default().build();
    let replies: Vec<_> = ["a", "b", "c"].map(|text| room.echo(text)).into();
    let mut peer = room.accept_legacy().await;
    let mut requests = Vec::new();
    for _ in 0..3 {
        requests.push(peer.expect("tools/call").await);
    }
    for request in requests.iter().rev() {
        peer.answer(request, json!({"content": [request["params"]["arguments"]["text"]]})).await;
    }
    for (reply, text) in replies.into_iter().zip(["a", "b", "c"]) {
        assert_eq!(result(reply).await["content"], json!([text]));
    }
    assert_eq!(room.dial.dialled(), 1, "one principal, one connection");
}
