//! Log messages of legacy servers for calls of clients without a session.

use super::*;
use crate::error::Kind;
use crate::upstream::key::{Key, Target};
use wire::mcp::level::Level;
use wire::mcp::meta::LOG_LEVEL;

const LOG: &str = "notifications/message";
const DROPPED: &str = "mcp_edge_upstream_skipped_total{server=\"time\",reason=\"log\"}";
/// A client whose calls are leased a connection.
const FORMS: &str = r#"{"elicitation":{"form":{}}}"#;

fn loud(text: &str, level: &str) -> Value {
    let mut request = echo(text);
    request["params"]["_meta"] = json!({ LOG_LEVEL: level });
    request
}

async fn log(peer: &mut Peer, level: &str) {
    peer.notify(LOG, json!({"level": level, "data": level})).await;
}

async fn ends_without_events(mut reply: Reply) {
    let next = timeout(GUARD, reply.next()).await.unwrap();
    assert!(matches!(next, Next::Outcome(Outcome::Result(_))), "{next:?}");
}

/// The level is set before the call. A call that wants less leaves it, and what it does not want is left out.
#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_asked_gets_its_log_messages_on_the_common_connection() {
    let mut room = Setting::default().build();
    let mut first = room.dispatch_as("{}", loud("a", "warning"));
    let mut peer = room.accept_legacy().await;
    assert_eq!(peer.expect("logging/setLevel").await["params"]["level"], "warning");
    let request = peer.expect("tools/call").await;
    assert!(request["params"]["_meta"].is_null(), "a legacy server knows no such key");
    let silent = room.dispatch_as("{}", echo("b")); // names no level, so it is not in doubt whose they are
    let other = peer.expect("tools/call").await;
    for level in ["info", "error", "loud"] {
        log(&mut peer, level).await;
    }
    assert_eq!(
        next_notification(&mut first).await,
        (LOG.to_owned(), json!({"level": "error", "data": "error"}))
    );
    assert_eq!(next_notification(&mut first).await.1["data"], "loud");
    peer.answer(&request, json!({})).await;
    ends_without_events(first).await;
    log(&mut peer, "emergency").await;
    peer.answer(&other, json!({})).await;
    ends_without_events(silent).await;
    assert_eq!(room.count(DROPPED), 1, "nobody wanted it");

    let mut second = room.dispatch_as("{}", loud("c", "debug"));
    assert_eq!(peer.expect("logging/setLevel").await["params"]["level"], "debug");
    let request = peer.expect("tools/call").await;
    log(&mut peer, "debug").await;
    peer.answer(&request, json!({})).await;
    assert_eq!(next_notification(&mut second).await.1["data"], "debug");
    result(second).await;

    let mut third = room.dispatch(loud("d", "error"));
    let request = peer.expect("tools/call").await; // the level stays as it is
    for level in ["debug", "error"] {
        log(&mut peer, level).await;
    }
    peer.answer(&request, json!({})).await;
    assert_eq!(next_notification(&mut third).await.1["data"], "error");
    ends_without_events(third).await;
    assert_eq!((room.dial.dialled(), room.count(DROPPED)), (1, 1));

    // The next process has a level of its own.
    drop(peer);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let reply = room.dispatch(loud("e", "error"));
    let mut peer = room.accept_legacy().await;
    assert_eq!(peer.expect("logging/setLevel").await["params"]["level"], "error");
    peer.serve_echo().await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_want_log_messages_at_the_same_time_share_a_process() {
    let mut room = Setting::default().config(|config| config.principal_connections = 2).build();
    let replies: Vec<_> = (0..100).map(|n| room.dispatch_as("{}", loud(&n.to_string(), "debug"))).collect();
    let mut peer = room.accept_legacy().await;
    peer.expect("logging/setLevel").await; // once, and not answered: the calls do not wait for it
    let calls = peer.calls(100).await;
    log(&mut peer, "error").await;
    for call in calls.values() {
        peer.answer(call, json!({})).await;
    }
    for reply in replies {
        ends_without_events(reply).await;
    }
    assert_eq!((room.dial.dialled(), room.count(DROPPED)), (1, 1), "it may be any of these calls'");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_the_level_or_cannot_log_serves_the_call() {
    let mut room = Setting::default().build();
    let reply = room.dispatch(loud("a", "debug"));
    let mut peer = room.accept_legacy().await;
    let level = peer.expect("logging/setLevel").await;
    peer.refuse(&level, -32601).await;
    peer.serve_echo().await;
    result(reply).await;
    drop(peer);
    tokio::time::sleep(Duration::from_secs(1)).await;

    let mut reply = room.dispatch(loud("b", "debug"));
    let mut peer = room.accept().await;
    let request = peer.expect("initialize").await;
    let result_of = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
        "serverInfo": {"name": "t", "version": "1"}});
    peer.answer(&request, result_of).await;
    peer.expect("notifications/initialized").await;
    let request = peer.expect("tools/call").await; // its level is not set
    log(&mut peer, "info").await; // some servers log without saying so
    peer.answer(&request, json!({})).await;
    assert_eq!(next_notification(&mut reply).await.1["data"], "info");
    result(reply).await;
}

/// A call of one principal may have made the server log while another's waits.
#[tokio::test(start_paused = true)]
async fn log_messages_of_a_shared_process_reach_nobody() {
    let mut room = Setting::default().isolation(Isolation::Shared).build();
    let ann = room.dispatch(loud("a", "debug"));
    let mut peer = room.accept_legacy().await;
    let of_ann = peer.expect("tools/call").await;
    let bob = room.pool.dispatch(room.call_of("bob", echo("b")));
    let of_bob = peer.expect("tools/call").await;
    log(&mut peer, "error").await;
    for request in [of_ann, of_bob] {
        peer.answer(&request, json!({})).await;
    }
    ends_without_events(ann).await;
    ends_without_events(bob).await;
    assert_eq!((room.dial.dialled(), room.count(DROPPED)), (1, 1));
}

/// Its process is nobody else's meanwhile, so the messages are its own, and the level is exactly its own.
#[tokio::test(start_paused = true)]
async fn a_leased_connection_has_the_level_of_its_call() {
    let mut room = Setting::default().build();
    let mut reply = room.dispatch_as(FORMS, loud("a", "warning"));
    let mut peer = room.accept_legacy().await;
    assert_eq!(peer.expect("logging/setLevel").await["params"]["level"], "warning");
    let request = peer.expect("tools/call").await;
    for level in ["info", "error"] {
        log(&mut peer, level).await;
    }
    assert_eq!(next_notification(&mut reply).await.1["data"], "error");
    peer.answer(&request, json!({})).await;
    ends_without_events(reply).await;

    // The same level is not set again, and a call without a level gets no log messages.
    let reply = room.dispatch_as(FORMS, loud("b", "warning"));
    peer.serve_echo().await;
    result(reply).await;
    let reply = room.dispatch_as(FORMS, echo("c"));
    let request = peer.expect("tools/call").await;
    log(&mut peer, "error").await;
    peer.answer(&request, json!({})).await;
    ends_without_events(reply).await;
    let reply = room.dispatch_as(FORMS, loud("d", "error"));
    assert_eq!(peer.expect("logging/setLevel").await["params"]["level"], "error");
    peer.serve_echo().await;
    result(reply).await;
}

/// A call whose client came back with an answer is served by the request that brought it.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_continued_has_the_level_of_the_request_that_continues_it() {
    let mut room = Setting::default().build();
    let mut reply = room.dispatch_as(FORMS, loud("a", "warning"));
    let mut peer = room.accept_legacy().await;
    assert_eq!(peer.expect("logging/setLevel").await["params"]["level"], "warning");
    let request = peer.expect("tools/call").await;
    log(&mut peer, "error").await;
    assert_eq!(next_notification(&mut reply).await.1["data"], "error");

    reply.park();
    reply.resume(Some(Level::Debug));
    assert_eq!(peer.expect("logging/setLevel").await["params"]["level"], "debug");
    log(&mut peer, "info").await;
    assert_eq!(next_notification(&mut reply).await.1["data"], "info");

    reply.park();
    reply.resume(Some(Level::Error));
    assert_eq!(peer.expect("logging/setLevel").await["params"]["level"], "error");
    for level in ["info", "critical"] {
        log(&mut peer, level).await;
    }
    assert_eq!(next_notification(&mut reply).await.1["data"], "critical");

    reply.park();
    reply.resume(None);
    log(&mut peer, "emergency").await;
    peer.answer(&request, json!({})).await;
    ends_without_events(reply).await;
}

#[tokio::test(start_paused = true)]
async fn a_level_is_written_although_there_is_no_room_for_its_call() {
    let mut room = Setting::default().config(|config| config.slots.slots = 1).build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    let conn = room.pool.inner().connection(&Target::shared(Key::Principal("ann".into()))).await.unwrap();
    // One place is left, which the level takes.
    let timeout = Duration::from_secs(100);
    let _others: Vec<_> = (0..16).map(|_| conn.request(Method::Ping, "{}", timeout).unwrap()).collect();
    for _ in 0..16 {
        peer.expect("ping").await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await; // the writer waits again
    assert_eq!(failure(room.dispatch(loud("b", "debug"))).await.kind, Kind::Busy);
    assert_eq!(peer.expect("logging/setLevel").await["params"]["level"], "debug");
}
