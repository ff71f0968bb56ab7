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

#[tokio::test(start_paused = true)]
async fn a_large_event_keeps_nothing_of_what_was_read_with_it() {
    let mut room = Setting::default().build();
    let (key, mut heard) = session_and_stream(1);
    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    let updated = json!({"uri": "a:b", "x": "x".repeat(20_000)});
    let line =
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": updated}).to_string();
    peer.raw(&format!("{line}\n").repeat(2)).await;
    let mut messages = Vec::new();
    for _ in 0..2 {
        let Event::Notice(_, message) = event(&mut heard).await else { panic!("a notification") };
        messages.push(message);
    }
    assert_eq!(room.permits.held_bytes(), 2 * line.len());
    let [one, two] = [0, 1].map(|at| messages[at].bytes().as_ptr() as usize);
    assert_ne!(one + line.len() + 1, two, "slices of one read buffer");
    drop(messages);
    assert_eq!(room.permits.held_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn large_events_and_asks_take_no_more_than_the_byte_budget() {
    let mut setting = Setting::default();
    setting.permits.held_bytes = 100_000;
    let mut room = setting.build();
    let (key, mut heard) = session_and_stream(1);
    let mut request = echo("a");
    request["params"]["_meta"] = json!({"progressToken": 1});
    let reply = room.dispatch_in(&key, request);
    let mut peer = room.accept_legacy().await;
    let call = peer.expect("tools/call").await;
    let large = "x".repeat(40_000);
    let updated = json!({"uri": "a:b", "x": large});
    for _ in 0..3 {
        peer.notify("notifications/resources/updated", updated.clone()).await;
    }
    peer.ask(json!(1), "elicitation/create", json!({"message": large, "requestedSchema": {}})).await;
    let refusal = peer.read().await.unwrap();
    assert!(
        refusal["id"] == 1 && refusal["error"]["message"].as_str().unwrap().contains("held_bytes"),
        "{refusal}"
    );
    assert!((80_000..100_000).contains(&room.permits.held_bytes()), "two notifications");
    assert_eq!(room.count("mcp_edge_upstream_skipped_total{server=\"time\",reason=\"no_room\"}"), 2);
    assert_eq!(room.count("mcp_edge_refused_total{bound=\"held_bytes\"}"), 2);
    // Progress that cannot be kept gives time all the same.
    for n in 0..3 {
        tokio::time::sleep(Duration::from_secs(200)).await;
        let params = json!({"progressToken": call["id"], "progress": n, "message": large});
        peer.notify("notifications/progress", params).await;
    }
    peer.answer(&call, json!({"content": []})).await;
    result(reply).await;
    for _ in 0..2 {
        next_notification(&mut heard).await;
    }
    assert!(!heard.is_ready());
    assert_eq!(room.permits.held_bytes(), 0);
}
