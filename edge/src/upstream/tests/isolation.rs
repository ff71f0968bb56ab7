//! Which clients share a connection, and how long it lives.

use super::*;
use crate::error::Kind;

#[tokio::test(start_paused = true)]
async fn each_session_of_a_legacy_server_has_its_own_connection() {
    let mut room = Setting::default().build();
    let (one, two) = (session(1), session(2));
    let first = room.echo_in(&one, "a");
    let mut peer_one = room.accept_legacy().await;
    peer_one.serve_echo().await;
    let second = room.echo_in(&two, "b");
    let mut peer_two = room.accept_legacy().await;
    peer_two.serve_echo().await;
    let third = room.echo_in(&one, "c");
    peer_one.serve_echo().await;
    for reply in [first, second, third] {
        result(reply).await;
    }
    assert_eq!(room.pool.status().connections, 2);
}

#[tokio::test(start_paused = true)]
async fn end_of_a_session_ends_its_connection_and_calls() {
    let mut room = Setting::default().build();
    let key = session(1);
    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    key.ended.cancel();
    assert_eq!(failure(reply).await.kind, Kind::Cancelled);
    assert_eq!(peer.read().await, None);
    assert_eq!(failure(room.echo_in(&key, "b")).await.kind, Kind::Cancelled, "and opens no other");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_during_the_handshake_leaves_nothing() {
    let mut room = Setting::default().build();
    let key = session(1);
    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept().await;
    peer.expect("initialize").await;
    key.ended.cancel();
    assert_eq!(failure(reply).await.kind, Kind::Cancelled);
    assert_eq!(peer.read().await, None);
    let status = room.pool.status();
    assert_eq!((status.connections, status.last_error), (0, None), "no fault of the server's");
}

#[tokio::test(start_paused = true)]
async fn a_live_session_whose_process_died_gets_a_new_one() {
    let mut room = Setting::default().build();
    let key = session(1);
    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    drop(peer);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let reply = room.echo_in(&key, "b");
    room.accept_legacy().await.serve_echo().await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn principal_isolation_shares_a_connection_among_its_sessions() {
    let mut room = Setting::default().isolation(Isolation::Principal).build();
    let replies = [room.echo_in(&session(1), "a"), room.echo_in(&session(2), "b")];
    let mut ann = room.accept_legacy().await;
    ann.serve_echo().await;
    ann.serve_echo().await;
    let other = room.pool.dispatch(room.call_of("bob", echo("c")));
    room.accept_legacy().await.serve_echo().await;
    for reply in replies {
        result(reply).await;
    }
    result(other).await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_server_grows_to_a_few_connections() {
    let mut room = Setting::default().isolation(Isolation::Shared).build();
    let mut replies = vec![room.pool.dispatch(room.call_of("p0", echo("a")))];
    let mut peers = vec![room.accept_legacy().await];
    tokio::time::sleep(Duration::from_millis(1)).await;
    for n in 1..60 {
        replies.push(room.pool.dispatch(room.call_of(&format!("p{n}"), echo("a"))));
        tokio::time::sleep(Duration::from_millis(1)).await;
        while let Ok(mut peer) = room.peers.try_recv() {
            peer.handshake_legacy().await;
            peers.push(peer);
        }
    }
    assert_eq!(peers.len(), 4);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let busy = room.pool.status().in_flight;
    assert_eq!(busy, 60);
    for peer in &mut peers {
        peer.serve_echo().await;
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_bounded_without_the_control_connection() {
    let mut setting = Setting::default();
    setting.server.connections = 1;
    let mut room = setting.build();
    let held = room.echo_in(&session(1), "a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(held).await;
    assert_eq!(failure(room.echo_in(&session(2), "b")).await.kind, Kind::Busy);
    let pool = room.pool.clone();
    let facts = tokio::spawn(async move { pool.facts().await });
    room.accept_legacy().await;
    facts.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_but_not_those_of_sessions() {
    let mut room = Setting::default().build();
    let (own, common) = (room.echo_in(&session(1), "a"), room.echo("b"));
    let mut peers = [room.accept_legacy().await, room.accept_legacy().await];
    for peer in &mut peers {
        peer.serve_echo().await;
    }
    result(own).await;
    result(common).await;
    tokio::time::sleep(Duration::from_secs(599)).await;
    assert_eq!(room.pool.status().connections, 2);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(room.pool.status().connections, 1);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(room.pool.status().connections, 1, "the session's own");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_resolve_for_a_moment_ends_nothing() {
    let mut room = Setting::default().build();
    let key = session(1);
    let reply = room.echo_in(&key, "before");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    // Its other name still resolves.
    *room.dial.endpoints.lock() = vec![Fake::endpoint(9)];
    *room.dial.unsure.lock() = vec![Fake::endpoint(1)];
    tokio::time::sleep(Duration::from_secs(60)).await;
    let reply = room.echo_in(&key, "meanwhile");
    peer.serve_echo().await;
    result(reply).await;
    // Now the name leads to another address.
    room.dial.unsure.lock().clear();
    peer.ended().await;
}

#[tokio::test(start_paused = true)]
async fn connection_to_a_removed_address_closes_after_its_calls() {
    let mut room = Setting::default().build();
    let key = session(1);
    let long = room.echo_in(&key, "long");
    let mut old = room.accept_legacy().await;
    let request = old.expect("tools/call").await;
    *room.dial.endpoints.lock() = vec![Fake::endpoint(9)];
    tokio::time::sleep(Duration::from_secs(10)).await;
    let next = room.echo_in(&key, "next");
    let mut new = room.accept_legacy().await;
    assert_ne!(new.endpoint, old.endpoint);
    new.serve_echo().await;
    result(next).await;
    old.answer(&request, json!({"content": ["done"]})).await;
    assert_eq!(result(long).await["content"], json!(["done"]));
    assert_eq!(old.read().await, None);
    assert_eq!(room.pool.status().connections, 1);
}
