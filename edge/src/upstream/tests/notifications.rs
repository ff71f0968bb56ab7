//! Notifications of servers to the client of a session, and of the client to its servers.

use super::*;
use crate::call::Server;
use wire::mcp::level::Level;
use wire::mcp::method::Notice;

const LOG: &str = "notifications/message";

#[tokio::test(start_paused = true)]
async fn log_goes_to_the_oldest_call_and_the_rest_outside_calls() {
    let mut room = Setting::default().build();
    let (key, mut heard) = session_and_stream(1);
    let mut first = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let second = room.echo_in(&key, "b");
    peer.expect("tools/call").await;
    peer.notify(LOG, json!({"level": "info", "data": 1})).await;
    assert_eq!(next_notification(&mut first).await, (LOG.to_owned(), json!({"level": "info", "data": 1})));
    for method in [
        "notifications/resources/updated",
        "notifications/elicitation/complete",
        "notifications/tasks/status",
    ] {
        peer.notify(method, json!({"uri": "x://1"})).await;
        assert_eq!(next_notification(&mut heard).await, (method.to_owned(), json!({"uri": "x://1"})));
    }
    peer.notify("notifications/prompts/list_changed", json!({})).await;
    peer.notify("notifications/unheard_of", json!({})).await;
    drop(second);
    peer.expect("notifications/cancelled").await;
    peer.answer(&request, json!({})).await;
    result(first).await;
    peer.notify(LOG, json!({"level": "info", "data": 2})).await;
    assert_eq!(next_notification(&mut heard).await.1["data"], 2, "no call is in flight");
    let name = room.pool.name().clone();
    assert_eq!(
        key.pending_list_changes.take(&name).notices(),
        [Notice::PromptsChanged],
        "told when it has been looked at"
    );
    let who = room.pool.announcing().unwrap().recv().await.unwrap();
    assert_eq!(who.number, key.number);
}

#[tokio::test(start_paused = true)]
async fn notifications_of_two_sessions_never_cross() {
    let mut room = Setting::default().build();
    let ((one, mut heard_one), (two, mut heard_two)) = (session_and_stream(1), session_and_stream(2));
    let mut calls = Vec::new();
    for key in [&one, &two] {
        let reply = room.echo_in(key, "a");
        let mut peer = room.accept_legacy().await;
        let request = peer.expect("tools/call").await;
        calls.push((reply, peer, request));
    }
    // Nothing on principals' connections and the control connection reaches a session.
    let other = room.echo("b");
    let mut common = room.accept_legacy().await;
    common.expect("tools/call").await;
    for method in [LOG, "notifications/resources/updated", "notifications/tasks/status"] {
        common.notify(method, json!({"of": "nobody"})).await;
        for (number, (_, peer, _)) in calls.iter_mut().enumerate() {
            peer.notify(method, json!({"of": number})).await;
        }
    }
    for (number, heard) in [&mut heard_one, &mut heard_two].into_iter().enumerate() {
        assert_eq!(next_notification(&mut calls[number].0).await.1["of"], number);
        assert_eq!(next_notification(heard).await.1["of"], number);
        assert_eq!(next_notification(heard).await.1["of"], number);
        let (reply, peer, request) = &mut calls[number];
        peer.answer(request, json!({})).await;
        assert!(matches!(reply.next().await, Next::Outcome(Outcome::Result(_))), "nothing else came");
        assert!(!heard.is_ready());
    }
    assert!(!other.is_ready());
}

#[tokio::test(start_paused = true)]
async fn logs_below_the_wished_level_are_left_out() {
    let mut room = Setting::default().build();
    let (key, mut heard) = session_and_stream(1);
    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    key.settings.change(|wished| wished.level = Some(Level::Warning));
    for level in ["debug", "notice", "warning", "emergency", "loud"] {
        peer.notify(LOG, json!({"level": level})).await;
    }
    for level in ["warning", "emergency", "loud"] {
        assert_eq!(next_notification(&mut heard).await.1["level"], level);
    }
    assert!(!heard.is_ready());
}

#[tokio::test(start_paused = true)]
async fn unread_notifications_are_bounded() {
    let mut room = Setting::default().build();
    let (key, heard) = session_and_stream(1);
    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    for _ in 0..40 {
        peer.notify(LOG, json!({"level": "info", "data": "x".repeat(8 << 10)})).await;
    }
    let next = room.echo_in(&key, "b");
    peer.serve_echo().await;
    result(next).await;
    assert!(room.count("mcp_edge_refused_total{bound=\"event_bytes\"}") > 5);
    drop(heard);
}

#[tokio::test(start_paused = true)]
async fn changed_roots_reach_the_sessions_own_connection_and_no_other() {
    let mut room = Setting::default().build();
    let (one, two) = (session(1), session(2));
    let mut peers = Vec::new();
    for key in [&one, &two] {
        let reply = room.echo_in(key, "a");
        let mut peer = room.accept_legacy().await;
        peer.serve_echo().await;
        result(reply).await;
        peers.push(peer);
    }
    room.pool.roots_changed(&one);
    peers[0].expect("notifications/roots/list_changed").await;
    room.pool.roots_changed(&session(3));
    let next = room.echo_in(&two, "b");
    peers[1].serve_echo().await;
    result(next).await;
    assert_eq!(room.dial.dialled(), 2, "a notification opens nothing");
}

#[tokio::test(start_paused = true)]
async fn at_most_one_roots_notification_waits() {
    let mut room = Setting::default().build();
    let key = session(1);
    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    for _ in 0..3 {
        for _ in 0..100 {
            room.pool.roots_changed(&key);
        }
        peer.expect("notifications/roots/list_changed").await;
    }
    let next = room.echo_in(&key, "b");
    peer.serve_echo().await;
    result(next).await;
}

#[tokio::test(start_paused = true)]
async fn roots_that_change_while_a_connection_opens_are_not_lost() {
    let mut room = Setting::default().build();
    let key = session(1);
    key.settings.change(|wished| wished.level = Some(Level::Error));
    for has_changed in [true, false] {
        let reply = room.echo_in(&key, "a");
        let mut peer = room.accept_legacy().await;
        let level = peer.expect("logging/setLevel").await; // it may have asked for the roots by now
        if has_changed {
            room.pool.roots_changed(&key);
        }
        peer.answer(&level, json!({})).await;
        let mut seen = Vec::new();
        for _ in 0..if has_changed { 2 } else { 1 } {
            let message = peer.read().await.unwrap();
            if message["method"] == "tools/call" {
                peer.answer(&message, json!({})).await;
            }
            seen.push(message["method"].as_str().unwrap().to_owned());
        }
        result(reply).await;
        assert_eq!(seen.iter().any(|method| method == "notifications/roots/list_changed"), has_changed);
        drop(peer);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
