//! Servers that hang: nothing is read of them, or read and not answered.

use super::*;
use crate::call::Server;
use crate::error::Kind;

/// The metric of connections that were given up.
const SILENT: &str = "mcp_edge_upstream_connections_silent_total{";

/// Lets the keeper look `seconds` long.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn hanging_server_is_replaced_when_its_call_times_out() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    let start = tokio::time::Instant::now();
    assert_eq!(failure(reply).await.kind, Kind::Timeout);
    assert_eq!(start.elapsed().as_secs() / 10, 30, "the call has its time: {:?}", start.elapsed());
    peer.expect("ping").await;

    let again = room.echo("b");
    let mut other = room.accept_legacy().await;
    other.serve_echo().await;
    assert_eq!(result(again).await["content"], json!(["b"]), "it goes to another process at once");
    assert_eq!(room.count(SILENT), 1);
    let said = room.pool.status().last_error.unwrap();
    assert!(said.contains("did not answer in time"), "{said}");
    peer.ended().await;
    pass(10).await;
    assert_eq!(room.count("mcp_edge_upstream_connections{"), 1);
    assert_eq!(room.count("mcp_edge_upstream_call_timeouts_total{"), 1, "a sign of life is no call");
}

#[tokio::test(start_paused = true)]
async fn liveness_probe_of_a_modern_server_is_discover() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    for _ in 0..2 {
        let reply = room.echo("a");
        let mut peer = room.accept_modern().await;
        peer.expect("tools/call").await;
        assert_eq!(failure(reply).await.kind, Kind::Timeout);
        let asked = peer.expect("server/discover").await;
        assert_eq!(asked["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    }
    assert_eq!(room.count(SILENT), 2);
    assert_eq!(room.count("mcp_edge_upstream_call_timeouts_total{"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_only_slow_keeps_its_connection() {
    let mut room = Setting::default().build();
    let reply = room.echo("slow");
    let mut peer = room.accept_legacy().await;
    let call = peer.expect("tools/call").await;
    let ping = peer.expect("ping").await;
    peer.refuse(&ping, -32601).await; // whatever it says
    assert_eq!(failure(reply).await.kind, Kind::Timeout);
    peer.expect("notifications/cancelled").await;
    peer.answer(&call, json!({})).await;
    let next = room.echo("b");
    peer.serve_echo().await;
    assert_eq!(result(next).await["content"], json!(["b"]), "the same process");
    assert_eq!(room.count(SILENT), 0);
}

#[tokio::test(start_paused = true)]
async fn a_detached_call_may_take_as_long_as_any_call_may() {
    let mut room = Setting::default().build();
    // Once on its way, once before it is sent.
    let mut reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let first = peer.expect("tools/call").await;
    reply.detach();
    let second = room.echo("b");
    second.detach();
    let second_call = peer.expect("tools/call").await;
    let ping = peer.expect("ping").await;
    peer.answer(&ping, json!({})).await;
    pass(1000).await;
    peer.notify("notifications/progress", json!({"progressToken": first["id"], "progress": 1})).await;
    assert!(matches!(event(&mut reply).await, Event::Progress(_)));
    pass(1000).await; // progress does not shorten its time
    peer.answer(&first, json!({"content": ["a"]})).await;
    assert_eq!(result(reply).await["content"], json!(["a"]));
    assert_eq!(failure(second).await.kind, Kind::Timeout, "after `call_timeout_max`");
    assert_eq!(peer.expect("notifications/cancelled").await["params"]["requestId"], second_call["id"]);
}

#[tokio::test(start_paused = true)]
async fn a_detached_call_keeps_its_time_when_its_client_has_answered() {
    let mut room = Setting::default().build();
    let mut reply = room.dispatch_as(r#"{"elicitation":{}}"#, echo("a"));
    let mut peer = room.accept_legacy().await;
    let call = peer.expect("tools/call").await;
    reply.detach();
    peer.ask(json!("q"), "elicitation/create", json!({"message": "?"})).await;
    next_ask(&mut reply).await.answer(Answer::Result(Bytes::from_static(br#"{"action":"decline"}"#)));
    peer.read().await.expect("the client's answer");
    let ping = peer.expect("ping").await;
    peer.answer(&ping, json!({})).await;
    pass(1000).await;
    peer.answer(&call, json!({"content": ["a"]})).await;
    assert_eq!(result(reply).await["content"], json!(["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_detached_call_of_a_server_that_hangs_fails_after_twice_the_time_of_a_call() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    reply.detach();
    let start = tokio::time::Instant::now();
    assert_eq!(failure(reply).await.kind, Kind::Timeout);
    assert_eq!(start.elapsed().as_secs() / 10, 60, "{:?}", start.elapsed());
    peer.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_detached_before_it_is_written_does_not_hide_a_server_that_hangs() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    let detached = room.echo("b"); // as the later rounds of a task are
    detached.detach();
    peer.expect("tools/call").await;
    let beside = room.echo("c");
    let start = tokio::time::Instant::now();
    assert_eq!(failure(beside).await.kind, Kind::Timeout);
    let again = room.echo("d");
    room.accept_legacy().await.serve_echo().await;
    assert_eq!(result(again).await["content"], json!(["d"]), "another process, as without a task");
    assert_eq!(room.count(SILENT), 1);
    assert_eq!(failure(detached).await.kind, Kind::Timeout);
    assert_eq!(start.elapsed().as_secs() / 10, 60, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn part_of_a_line_counts_as_sign_of_life() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let call = peer.expect("tools/call").await;
    peer.expect("ping").await;
    peer.raw(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"#, call["id"])).await;
    assert_eq!(failure(reply).await.kind, Kind::Timeout);
    peer.raw("}}\n").await;
    let next = room.echo("b");
    for _ in 0..2 {
        peer.expect("notifications/cancelled").await; // the call, the ping
    }
    peer.serve_echo().await;
    result(next).await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_leave_early_do_not_hide_a_server_that_hangs() {
    let mut room = Setting::default().build();
    let mut peer = None;
    for n in 0..5 {
        let reply = room.echo("a");
        let peer = match &mut peer {
            None => peer.insert(room.accept_legacy().await),
            Some(peer) => peer,
        };
        peer.expect("tools/call").await;
        assert!(timeout(Duration::from_secs(60), reply.outcome()).await.is_err(), "{n}");
        peer.expect("notifications/cancelled").await;
        if n == 3 {
            pass(49).await; // the ping is on its way before the last one
            peer.expect("ping").await;
        }
    }
    pass(1).await;
    let next = room.echo("b");
    room.accept_legacy().await.serve_echo().await;
    result(next).await;
}

#[tokio::test(start_paused = true)]
async fn server_that_waits_for_its_client_is_not_unresponsive() {
    let mut room = Setting::default().config(|config| config.call_timeout = Duration::from_secs(60)).build();
    let me = session(1);
    let mut reply = room.echo_in(&me, "a");
    let mut peer = room.accept_legacy().await;
    let call = peer.expect("tools/call").await;
    peer.ask(json!("q"), "elicitation/create", json!({"message": "?"})).await;
    let ask = next_ask(&mut reply).await;
    let beside = room.echo_in(&me, "b"); // the server reads it when it has its answer
    peer.expect("tools/call").await;
    assert_eq!(failure(beside).await.kind, Kind::Timeout);
    pass(120).await;
    ask.answer(Answer::Result(Bytes::from_static(br#"{"action":"decline"}"#)));
    peer.expect("notifications/cancelled").await;
    peer.read().await.expect("the client's answer");
    peer.answer(&call, json!({"content": ["done"]})).await;
    assert_eq!(result(reply).await["content"], json!(["done"]));
    assert_eq!(room.count(SILENT), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_after_its_clients_answer_is_replaced_when_its_call_times_out() {
    for client_thinks in [0, 400] {
        let mut room = Setting::default().build();
        let me = session(1);
        let mut reply = room.echo_in(&me, "a");
        let mut peer = room.accept_legacy().await;
        peer.expect("tools/call").await;
        pass(5).await;
        peer.ask(json!("q"), "elicitation/create", json!({"message": "?"})).await;
        let ask = next_ask(&mut reply).await;
        pass(client_thinks).await;
        ask.answer(Answer::Result(Bytes::from_static(br#"{"action":"decline"}"#)));
        let start = tokio::time::Instant::now();
        peer.read().await.expect("the client's answer");
        assert_eq!(failure(reply).await.kind, Kind::Timeout);
        assert_eq!(start.elapsed().as_secs() / 10, 30, "the call has its time again: {:?}", start.elapsed());
        peer.expect("ping").await;
        let again = room.echo_in(&me, "b");
        room.accept_legacy().await.serve_echo().await;
        assert_eq!(result(again).await["content"], json!(["b"]), "another process");
        assert_eq!(room.count(SILENT), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_that_outlived_its_call_does_not_hide_a_server_that_hangs() {
    let mut room = Setting::default().config(|config| config.call_timeout = Duration::from_secs(60)).build();
    let me = session(1);
    let mut reply = room.echo_in(&me, "a");
    let mut peer = room.accept_legacy().await;
    let call = peer.expect("tools/call").await;
    peer.ask(json!("q"), "elicitation/create", json!({"message": "?"})).await;
    let ask = next_ask(&mut reply).await;
    peer.answer(&call, json!({})).await; // it does not wait for the client
    result(reply).await;
    let unanswered = room.echo_in(&me, "b");
    peer.expect("tools/call").await;
    assert_eq!(failure(unanswered).await.kind, Kind::Timeout);
    assert!(!ask.withdrawn.is_cancelled(), "the client may still answer");
    let again = room.echo_in(&me, "c");
    room.accept_legacy().await.serve_echo().await;
    assert_eq!(result(again).await["content"], json!(["c"]), "another process");
    assert_eq!(room.count(SILENT), 1);
}

#[tokio::test(start_paused = true)]
async fn other_calls_of_an_unresponsive_server_keep_their_time() {
    let mut room = Setting::default().build();
    let first = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    pass(100).await;
    let second = room.echo("b");
    let call = peer.expect("tools/call").await;
    assert_eq!(failure(first).await.kind, Kind::Timeout);
    pass(50).await; // it has come to itself
    peer.answer(&call, json!({"content": ["late"]})).await;
    assert_eq!(result(second).await["content"], json!(["late"]));
    assert_eq!(room.count(SILENT), 1);
}

#[tokio::test(start_paused = true)]
async fn recovered_server_keeps_its_connection() {
    let mut room = Setting::default().build();
    let me = session(1);
    let reply = room.echo_in(&me, "a");
    let mut peer = room.accept_legacy().await;
    let call = peer.expect("tools/call").await;
    let ping = peer.expect("ping").await;
    assert_eq!(failure(reply).await.kind, Kind::Timeout);
    pass(200).await; // nobody waits for it any more
    peer.answer(&call, json!({"content": ["late"]})).await;
    peer.answer(&ping, json!({})).await;
    pass(2).await;
    for _ in 0..2 {
        peer.expect("notifications/cancelled").await;
    }
    let next = room.echo_in(&me, "b");
    peer.serve_echo().await;
    assert_eq!(result(next).await["content"], json!(["b"]), "the same process");
    assert_eq!(room.count(SILENT), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_a_revoked_principal_does_not_come_back() {
    let mut room = Setting::default().build();
    let key = SessionHandle { caller: Caller::new("ann"), ..session(1) };
    let wished = (room.pool.name().clone(), "x://1".to_owned());
    let subscribed = || key.settings.change(|settings| settings.subscriptions.insert(wished.clone()));
    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    let call = peer.expect("tools/call").await;
    assert_eq!(failure(reply).await.kind, Kind::Timeout);
    subscribed();
    room.pool.revoke(&|principal| principal == "ann");
    assert!(key.settings.now().subscriptions.is_empty(), "of a connection that takes no calls");
    peer.answer(&call, json!({"content": ["late"]})).await;
    peer.ended().await;
    pass(2).await;
    assert_eq!(room.pool.status().connections, 0);
    subscribed();
    room.pool.revoke(&|principal| principal == "ann");
    assert!(key.settings.now().subscriptions.is_empty(), "without a connection");
}

#[tokio::test(start_paused = true)]
async fn recovered_server_that_was_replaced_ends() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let call = peer.expect("tools/call").await;
    assert_eq!(failure(reply).await.kind, Kind::Timeout);
    let next = room.echo("b");
    let mut other = room.accept_legacy().await;
    other.serve_echo().await;
    result(next).await;
    peer.answer(&call, json!({"content": ["late"]})).await;
    peer.ended().await;
    let last = room.echo("c");
    other.serve_echo().await;
    result(last).await;
}

#[tokio::test(start_paused = true)]
async fn hanging_connection_does_not_count_against_the_bound() {
    let mut setting = Setting::default();
    setting.server.connections = 1;
    let mut room = setting.build();
    let mut peers = Vec::new();
    for text in ["a", "b"] {
        let reply = room.echo(text);
        let mut peer = room.accept_legacy().await;
        peer.expect("tools/call").await;
        assert_eq!(failure(reply).await.kind, Kind::Timeout);
        peers.push(peer); // it does not even see the end of its input
    }
    assert_eq!(room.count(SILENT), 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_process_hangs_goes_on_with_another_one() {
    let mut room = Setting::default().build();
    let (me, mut heard) = session_and_stream(1);
    let reply = room.echo_in(&me, "a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    assert_eq!(failure(reply).await.kind, Kind::Timeout);
    let again = room.echo_in(&me, "b");
    room.accept_legacy().await.serve_echo().await;
    result(again).await;
    let (method, _) = next_notification(&mut heard).await;
    assert_eq!(method, "notifications/tools/list_changed", "as after a death");
    peer.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_leased_connection_that_hangs_frees_its_seat() {
    let mut room = Setting::default().config(|config| config.principal_connections = 1).build();
    for text in ["a", "b"] {
        let reply = room.dispatch_as(r#"{"elicitation":{}}"#, echo(text));
        let mut peer = room.accept_legacy().await;
        peer.expect("tools/call").await;
        assert_eq!(failure(reply).await.kind, Kind::Timeout);
    }
    assert_eq!(room.count(SILENT), 2);
}
