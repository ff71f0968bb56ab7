//! What waits for a slow client takes no more memory than is counted.

use super::asks::form;
use super::*;

/// A line that brings the rest of a read buffer with it.
fn filler() -> String {
    format!("{}\n", json!({"jsonrpc": "2.0", "id": 999_999_999, "result": {"x": "x".repeat(8 << 10)}}))
}

#[tokio::test(start_paused = true)]
async fn an_event_keeps_nothing_of_what_was_read_with_it() {
    let mut room = Setting::default().build();
    let (key, mut heard) = session_and_stream(1);
    let mut request = echo("a");
    request["params"]["_meta"] = json!({"progressToken": 1});
    let mut reply = room.dispatch_in(&key, request);
    let mut peer = room.accept_legacy().await;
    let id = peer.expect("tools/call").await["id"].clone();
    let lines = [
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": id, "progress": 1}}),
        json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": form()}),
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "a:b"}}),
    ];
    peer.raw(&lines.map(|line| format!("{line}\n{}", filler())).concat()).await;
    for is_of_call in [true, true, true, false] {
        let is_alone = match event(if is_of_call { &mut reply } else { &mut heard }).await {
            Event::Progress(message) | Event::Notice(_, message) => message.bytes().is_unique(),
            Event::Ask(ask) => ask.request.bytes().is_unique(),
        };
        assert!(is_alone, "a slice of the read buffer");
    }
}
