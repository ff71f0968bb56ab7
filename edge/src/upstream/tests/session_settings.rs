//! Log levels and subscriptions of sessions, and their replay on new connections.

use super::*;
use crate::call::{Rename, Server};
use crate::error::Kind;
use wire::mcp::level::Level;

const SUBSCRIBE: &str = "resources/subscribe";
const UNSUBSCRIBE: &str = "resources/unsubscribe";
const UPDATED: &str = "notifications/resources/updated";

fn about(method: &str, uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": uri}})
}

fn subscriptions(key: &SessionHandle) -> Vec<String> {
    key.settings.now().subscriptions.into_iter().map(|(_, uri)| uri).collect()
}

#[tokio::test(start_paused = true)]
async fn subscription_is_kept_once_the_server_accepted_it() {
    let mut room = Setting::default().build();
    let (key, mut heard) = session_and_stream(1);
    let reply = room.dispatch_in(&key, about(SUBSCRIBE, "x://1"));
    let mut peer = room.accept_legacy().await;
    let request = peer.expect(SUBSCRIBE).await;
    assert_eq!(request["params"], json!({"uri": "x://1"}));
    assert!(subscriptions(&key).is_empty());
    peer.answer(&request, json!({})).await;
    result(reply).await;
    assert_eq!(subscriptions(&key), ["x://1"]);
    let reply = room.dispatch_in(&key, about(SUBSCRIBE, "x://2"));
    let request = peer.expect(SUBSCRIBE).await;
    peer.refuse(&request, -32602).await;
    assert!(matches!(end(reply).await, Outcome::Refused(_)));
    assert_eq!(subscriptions(&key), ["x://1"]);
    peer.notify(UPDATED, json!({"uri": "x://1"})).await;
    assert_eq!(next_notification(&mut heard).await.1["uri"], "x://1");
    let reply = room.dispatch_in(&key, about(UNSUBSCRIBE, "x://1"));
    let request = peer.expect(UNSUBSCRIBE).await;
    peer.answer(&request, json!({})).await;
    result(reply).await;
    assert!(subscriptions(&key).is_empty());
}

/// On connections of its own and on those that a session shares.
#[tokio::test(start_paused = true)]
async fn a_subscription_is_kept_under_the_servers_spelling() {
    for isolation in [Isolation::Session, Isolation::Shared] {
        let mut room = Setting::default().isolation(isolation).build();
        let (key, mut heard) = session_and_stream(1);
        let ask = |room: &Room, method: &str| {
            let mut call = room.call(about(method, "x://a%20b"));
            let span = call.request.param("uri").unwrap().span();
            call.rename = Some(Rename { span, token: Bytes::from_static(br#""x://a b""#) });
            room.pool.dispatch(Call { affinity: Affinity::Session(key.clone()), ..call })
        };
        let reply = ask(&room, SUBSCRIBE);
        let mut peer = room.accept_legacy().await;
        peer.accept_request(SUBSCRIBE, "x://a b").await;
        result(reply).await;
        assert_eq!(subscriptions(&key), ["x://a b"]);
        peer.notify(UPDATED, json!({"uri": "x://a b"})).await;
        assert_eq!(next_notification(&mut heard).await.1["uri"], "x://a b");
        let reply = ask(&room, UNSUBSCRIBE);
        peer.accept_request(UNSUBSCRIBE, "x://a b").await;
        result(reply).await;
        assert!(subscriptions(&key).is_empty());
    }
}

/// On connections of its own and on those that a session shares.
#[tokio::test(start_paused = true)]
async fn a_server_that_declares_no_subscriptions_is_not_asked_for_any() {
    for isolation in [Isolation::Session, Isolation::Shared] {
        for resources in [json!({}), json!({"subscribe": false})] {
            let mut room = Setting::default().isolation(isolation).build();
            let key = session(1);
            let reply = room.dispatch_in(&key, about(SUBSCRIBE, "x://1"));
            let mut peer = room.accept().await;
            peer.greet_with(json!({"tools": {}, "resources": resources})).await;
            peer.expect("notifications/initialized").await;
            let error = failure(reply).await;
            assert_eq!(error.kind, Kind::InvalidParams, "{isolation:?}");
            assert!(error.message.contains("takes no subscriptions"), "{error}");
            assert!(subscriptions(&key).is_empty());
            let reply = room.echo_in(&key, "a");
            peer.serve_echo().await; // and nothing was sent before
            result(reply).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_bounded() {
    let mut room = Setting::default().build();
    let (key, _heard) = session_and_stream(1);
    let long = |n: usize| format!("x://{n}/{}", "y".repeat(60 << 10));
    let first = room.dispatch_in(&key, about(SUBSCRIBE, &long(1)));
    let mut peer = room.accept_legacy().await;
    let request = peer.expect(SUBSCRIBE).await;
    peer.answer(&request, json!({})).await;
    result(first).await;
    // Each of two concurrent subscriptions fits alone, but not both.
    let replies = [2, 3].map(|n| room.dispatch_in(&key, about(SUBSCRIBE, &long(n))));
    for _ in 0..2 {
        let request = peer.expect(SUBSCRIBE).await;
        peer.answer(&request, json!({})).await;
    }
    for reply in replies {
        result(reply).await;
    }
    assert_eq!(subscriptions(&key).len(), 2);
    let error = failure(room.dispatch_in(&key, about(SUBSCRIBE, &long(4)))).await;
    assert_eq!(error.kind, Kind::Busy);
    assert_eq!(room.count("mcp_edge_refused_total{bound=\"subscriptions\"}"), 1);
    let again = room.dispatch_in(&key, about(SUBSCRIBE, &long(1)));
    peer.expect(SUBSCRIBE).await;
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn level_is_sent_to_open_connections_only() {
    let mut room = Setting::default().build();
    let ((one, _heard), (two, _)) = (session_and_stream(1), session_and_stream(2));
    one.settings.change(|wished| wished.level = Some(Level::Error));
    room.pool.tell_level(&one);
    assert_eq!(room.dial.dialled(), 0);
    let other = room.echo_in(&two, "other");
    let mut apart = room.accept_legacy().await;
    apart.serve_echo().await;
    result(other).await;
    // A connection that is opened later gets the level before its first call.
    let reply = room.echo_in(&one, "a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("logging/setLevel").await;
    assert_eq!(request["params"], json!({"level": "error"}));
    // A level that is set while it opens is not lost.
    one.settings.change(|wished| wished.level = Some(Level::Debug));
    room.pool.tell_level(&one);
    peer.answer(&request, json!({})).await;
    let request = peer.read().await.unwrap();
    let (level, call) = if request["method"] == "logging/setLevel" {
        (request, peer.expect("tools/call").await)
    } else {
        (peer.expect("logging/setLevel").await, request)
    };
    assert_eq!(level["params"], json!({"level": "debug"}));
    peer.answer(&call, json!({})).await;
    result(reply).await;
    peer.refuse(&level, -32603).await;
    one.settings.change(|wished| wished.level = Some(Level::Alert));
    room.pool.tell_level(&one);
    let next = room.echo_in(&one, "b");
    assert_eq!(peer.expect("logging/setLevel").await["params"], json!({"level": "alert"}));
    peer.serve_echo().await;
    result(next).await;
    let other = room.echo_in(&two, "other");
    apart.serve_echo().await;
    result(other).await;
}

#[tokio::test(start_paused = true)]
async fn new_process_gets_the_session_settings_and_the_client_is_notified() {
    let mut room = Setting::default().build();
    let (key, mut heard) = session_and_stream(1);
    let reply = room.dispatch_in(&key, about(SUBSCRIBE, "x://\"1\""));
    let mut peer = room.accept_legacy().await;
    let request = peer.expect(SUBSCRIBE).await;
    peer.answer(&request, json!({})).await;
    result(reply).await;
    key.settings.change(|wished| {
        wished.level = Some(Level::Info);
        wished.subscriptions.insert((ServerName::parse("another").unwrap(), "not://here".into()));
    });
    assert!(!heard.is_ready(), "the first process is no news");
    drop(peer);
    tokio::time::sleep(Duration::from_secs(1)).await;

    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    let level = peer.expect("logging/setLevel").await;
    assert_eq!(level["params"], json!({"level": "info"}));
    peer.answer(&level, json!({})).await;
    let again = peer.expect(SUBSCRIBE).await;
    assert_eq!(again["params"], json!({"uri": "x://\"1\""}));
    peer.refuse(&again, -32602).await;
    peer.serve_echo().await;
    result(reply).await;
    for list in ["tools", "resources"] {
        assert_eq!(next_notification(&mut heard).await.0, format!("notifications/{list}/list_changed"));
    }
    assert!(!heard.is_ready());
}

#[tokio::test(start_paused = true)]
async fn updates_reach_only_the_session_that_subscribed() {
    let mut room = Setting::default().build();
    let ((one, mut heard_one), (two, mut heard_two)) = (session_and_stream(1), session_and_stream(2));
    for (key, heard, other) in [(&one, &mut heard_one, false), (&two, &mut heard_two, true)] {
        let reply = room.dispatch_in(key, about(SUBSCRIBE, "x://same"));
        let mut peer = room.accept_legacy().await;
        let request = peer.expect(SUBSCRIBE).await;
        peer.answer(&request, json!({})).await;
        result(reply).await;
        peer.notify(UPDATED, json!({"uri": "x://same", "other": other})).await;
        assert_eq!(next_notification(heard).await.1["other"], other);
        std::mem::forget(peer); // its connection stays open
    }
    assert!(!heard_one.is_ready() && !heard_two.is_ready());
}

#[tokio::test(start_paused = true)]
async fn session_is_notified_when_its_subscriptions_are_lost() {
    let mut room = Setting::default().isolation(Isolation::Shared).build();
    let (key, mut heard) = session_and_stream(1);
    let reply = room.dispatch_in(&key, about(SUBSCRIBE, "x://1"));
    let mut peer = room.accept_legacy().await;
    let request = peer.expect(SUBSCRIBE).await;
    peer.answer(&request, json!({})).await;
    result(reply).await;
    room.pool.stop();
    assert_eq!(next_notification(&mut heard).await.0, "notifications/resources/list_changed");
}
