//! Subscriptions that a process dies of, that the server does not answer, or that exist when the gateway stops.

use super::subscriptions::{Client, LISTEN, SUBSCRIBE, refused, subscribed};
use super::*;
use crate::error::Kind;

fn subscribe(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": SUBSCRIBE, "params": {"uri": uri}})
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_a_process_dies_of_fails_and_is_not_tried_again() {
    for era in [EraChoice::Legacy, EraChoice::Modern] {
        let mut room = Setting::default().era(era).isolation(Isolation::Shared).build();
        let (key, _heard) = session_and_stream(1);
        let reply = room.dispatch_in(&key, subscribe("x://1"));
        if era == EraChoice::Legacy {
            room.accept_legacy().await.expect(SUBSCRIBE).await;
        } else {
            room.accept_modern().await.expect(LISTEN).await;
        }
        let error = failure(reply).await;
        assert_eq!(error.kind, Kind::Died, "{error}");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(room.dial.dialled(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn accepted_subscription_is_renewed_after_a_death_by_another() {
    let mut room = Setting::default().build();
    let mut client = Client::new("ann");
    let (good, deadly) = (client.subscribe(&room, "x://good"), client.subscribe(&room, "x://deadly"));
    let mut peer = room.accept_legacy().await;
    let first = peer.expect(SUBSCRIBE).await;
    assert_eq!(first["params"]["uri"], "x://deadly");
    peer.accept_request(SUBSCRIBE, "x://good").await;
    let _good = subscribed(good).await;
    drop(peer);
    assert_eq!(refused(deadly).await.kind, Kind::Died);
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://good").await;
    assert_eq!(client.next_update().await["uri"], "x://good");
    assert_eq!(room.dial.dialled(), 2);
}

#[tokio::test(start_paused = true)]
async fn only_the_subscription_that_kills_processes_is_given_up() {
    let mut room = Setting::default().build();
    let (mut one, mut two) = (Client::new("ann"), Client::new("ann"));
    let subscribing =
        [one.subscribe(&room, "x://a"), two.subscribe(&room, "x://deadly"), one.subscribe(&room, "x://z")];
    let mut peer = room.accept_legacy().await;
    let mut subscriptions = Vec::new();
    for (uri, subscribing) in ["x://a", "x://deadly", "x://z"].iter().zip(subscribing) {
        peer.accept_request(SUBSCRIBE, uri).await;
        subscriptions.push(subscribed(subscribing).await);
    }
    drop(peer);
    // All three are requested at once, and the process dies.
    let mut peer = room.accept_legacy().await;
    for _ in 0..3 {
        peer.expect(SUBSCRIBE).await;
    }
    drop(peer);
    // Then they are requested one by one.
    for _ in 0..2 {
        let mut peer = room.accept_legacy().await;
        peer.accept_request(SUBSCRIBE, "x://a").await;
        assert_eq!(one.next_update().await["uri"], "x://a");
        assert_eq!(peer.expect(SUBSCRIBE).await["params"]["uri"], "x://deadly");
        assert!(timeout(Duration::from_secs(1), peer.lines.fill_buf()).await.is_err(), "not beside another");
    }
    assert_eq!(two.next_update().await, "lost");
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://a").await;
    peer.accept_request(SUBSCRIBE, "x://z").await;
    assert_eq!(
        [one.next_update().await["uri"].clone(), one.next_update().await["uri"].clone()],
        ["x://a", "x://z"]
    );
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(room.dial.dialled(), 5);
    assert!(one.has_no_update() && two.has_no_update());
}

#[tokio::test(start_paused = true)]
async fn modern_server_that_dies_of_each_listen_gets_a_bounded_number() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let mut client = Client::new("ann");
    let subscribing = client.subscribe(&room, "x://1");
    let mut peer = room.accept_modern().await;
    peer.acknowledge(&["x://1"], &["x://1"]).await;
    let _held = subscribed(subscribing).await;
    drop(peer);
    for _ in 0..3 {
        room.accept_modern().await.expect(LISTEN).await;
    }
    assert_eq!(client.next_update().await, "lost");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(room.dial.dialled(), 4);
}

#[tokio::test(start_paused = true)]
async fn subscription_times_out_like_a_call() {
    let call_timeout = Duration::from_secs(3);
    let config = |config: &mut Config| config.call_timeout = call_timeout;
    let mut room = Setting::default().isolation(Isolation::Shared).config(config).build();
    let (key, _heard) = session_and_stream(1);
    let start = tokio::time::Instant::now();
    let reply = room.dispatch_in(&key, subscribe("x://1"));
    let mut peer = room.accept_legacy().await;
    peer.expect(SUBSCRIBE).await;
    assert_eq!(failure(reply).await.kind, Kind::Timeout);
    assert_eq!(start.elapsed().as_secs(), call_timeout.as_secs());
    assert_eq!(room.count("mcp_edge_upstream_call_timeouts_total{server=\"time\"}"), 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_gateway_opens_no_connection_for_subscriptions() {
    let mut room = Setting::default().build();
    let client = Client::new("ann");
    let subscribing = client.subscribe(&room, "x://1");
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://1").await;
    let _held = subscribed(subscribing).await;
    let reply = room.pool.dispatch(room.call_of("bea", echo("long")));
    let mut busy = room.accept_legacy().await;
    let request = busy.expect("tools/call").await;
    let drain = std::mem::take(&mut room.drain);
    let watch = drain.watch();
    let ended = tokio::spawn(drain.run(Duration::ZERO, Duration::from_secs(600)));
    watch.stopping().await;
    drop(peer);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(refused(client.subscribe(&room, "x://2")).await.kind, Kind::Draining);
    assert_eq!(room.dial.dialled(), 2);
    busy.answer(&request, json!({})).await;
    result(reply).await;
    drop(busy);
    timeout(GUARD, ended).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_comes_as_a_process_dies_does_not_wait_as_long_as_the_others() {
    let mut room = Setting::default().build();
    let client = Client::new("ann");
    let first = client.subscribe(&room, "x://1");
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://1").await;
    let _first = subscribed(first).await;
    for _ in 0..10 {
        drop(peer);
        peer = room.accept_legacy().await; // a little later each time
        peer.accept_request(SUBSCRIBE, "x://1").await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(peer);
    let (began, second) = (tokio::time::Instant::now(), client.subscribe(&room, "x://2"));
    let mut peer = room.accept_legacy().await;
    for uri in ["x://1", "x://2"] {
        peer.accept_request(SUBSCRIBE, uri).await;
    }
    subscribed(second).await;
    let waited = began.elapsed();
    assert!((Duration::from_millis(50)..Duration::from_secs(1)).contains(&waited), "{waited:?}");
}
