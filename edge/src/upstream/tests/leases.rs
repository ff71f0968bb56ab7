//! Leases: connections for one call of a client without a session that can be asked.

use super::*;

const FORMS: &str = r#"{"elicitation":{"form":{}}}"#;

impl Room {
    fn filling(&self, text: &str) -> Reply {
        self.dispatch_as(FORMS, echo(text))
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_goes_to_the_call_that_has_the_connection_to_itself() {
    let mut room = Setting::default().build();
    let mut first = room.filling("a");
    let (hello, mut peer) = room.accept_legacy_initialize().await;
    assert_eq!(hello["params"]["capabilities"], json!({"elicitation": {"form": {}}}));
    assert_eq!(hello["params"]["clientInfo"]["name"], "mcp-edge", "others take turns on it");
    let request = peer.expect("tools/call").await;
    let mut second = room.filling("b");
    let mut other = room.accept_legacy().await;
    let other_request = other.expect("tools/call").await;

    peer.ask(json!(7), "elicitation/create", json!({"message": "of a"})).await;
    other.ask(json!(7), "elicitation/create", json!({"message": "of b"})).await;
    for (reply, peer, of) in [(&mut first, &mut peer, "of a"), (&mut second, &mut other, "of b")] {
        let ask = next_ask(reply).await;
        assert_eq!(ask.request.param("message").unwrap().as_str().unwrap(), of);
        ask.answer(Answer::Result(Bytes::from(format!(
            r#"{{"action":"accept","content":{{"by":"{of}"}}}}"#
        ))));
        assert_eq!(peer.read().await.unwrap()["result"]["content"]["by"], of);
    }
    peer.answer(&request, json!({})).await;
    other.answer(&other_request, json!({})).await;
    result(first).await;
    result(second).await;

    let third = room.filling("c");
    peer.serve_echo().await;
    result(third).await;
}

#[tokio::test(start_paused = true)]
async fn ask_without_a_leasing_call_is_answered_at_once() {
    let mut room = Setting::default().build();
    let reply = room.dispatch_as(r#"{"roots":{},"sampling":{}}"#, echo("a"));
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    peer.ask(json!(1), "roots/list", json!({})).await;
    assert_eq!(peer.read().await.unwrap()["result"], json!({"roots": []}));
    peer.ask(json!(2), "sampling/createMessage", json!({})).await;
    assert_eq!(peer.read().await.unwrap()["error"]["code"], -32602);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_cannot_be_asked_shares_its_principals_connection() {
    let mut room = Setting::default().build();
    let (first, second) = (room.dispatch_as("{}", echo("a")), room.echo("b"));
    let mut peer = room.accept_legacy().await;
    let calls = peer.calls(2).await;
    peer.ask(json!(1), "elicitation/create", json!({"message": "?"})).await;
    assert_eq!(peer.read().await.unwrap()["error"]["code"], -32602);
    for (_, call) in calls {
        peer.answer(&call, json!({})).await;
    }
    result(first).await;
    result(second).await;
}

#[tokio::test(start_paused = true)]
async fn calls_beyond_the_seats_wait() {
    let mut room = Setting::default().config(|config| config.principal_connections = 2).build();
    let held = [room.filling("a"), room.filling("b")];
    let mut peers = [room.accept_legacy().await, room.accept_legacy().await];
    for peer in &mut peers {
        peer.expect("tools/call").await;
    }
    let error = failure(room.filling("c")).await;
    assert_eq!((error.kind, error.blame), (crate::error::Kind::Busy, crate::error::Blame::Downstream));
    assert_eq!(room.count("mcp_edge_refused_total{bound=\"principal_connections\"}"), 1);

    let waiting = room.filling("d");
    tokio::task::yield_now().await;
    let [first, second] = held;
    drop(first); // which cancels it
    drop(second);
    let mut served = false;
    for peer in &mut peers {
        peer.expect("notifications/cancelled").await;
    }
    for peer in &mut peers {
        // The call that waited has one of the two connections.
        if let Ok(Some(message)) = timeout(Duration::from_secs(1), peer.read()).await {
            assert_eq!(message["method"], "tools/call");
            peer.answer(&message, json!({})).await;
            served = true;
        }
    }
    assert!(served);
    result(waiting).await;
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_seats_whose_process_still_starts() {
    let mut room = Setting::default().config(|config| config.principal_connections = 1).build();
    for start in [9, 25] {
        let reply = room.filling("a");
        let waiting = room.filling("b");
        let mut peer = room.accept().await;
        tokio::time::sleep(Duration::from_secs(start)).await;
        peer.handshake_legacy().await;
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(4)).await; // each call takes its time
            peer.serve_echo().await;
        }
        assert_eq!(result(reply).await["content"], json!(["a"]));
        assert_eq!(result(waiting).await["content"], json!(["b"]));
        drop(peer);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn calls_do_not_wait_longer_for_a_seat_than_one_start_takes() {
    let mut room = Setting::default().config(|config| config.principal_connections = 1).build();
    let held = room.filling("a");
    let mut peer = room.accept().await;
    for (start, refused) in [(25, 35), (0, 10)] {
        let began = tokio::time::Instant::now();
        let waiting = room.filling("b");
        tokio::time::sleep(Duration::from_secs(start)).await;
        if start > 0 {
            peer.handshake_legacy().await;
            peer.expect("tools/call").await;
        }
        assert_eq!(failure(waiting).await.kind, crate::error::Kind::Busy);
        assert_eq!(began.elapsed().as_secs(), refused, "`queue_timeout` from the start of the process on");
    }
    drop(held);

    let mut room = Setting::default().config(|config| config.principal_connections = 1).build();
    room.dial.failures.lock().extend([io::ErrorKind::ConnectionRefused; 5]); // more than a second
    let (held, began) = (room.filling("a"), tokio::time::Instant::now());
    let waiting = room.filling("b");
    let mut peer = room.accept().await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    peer.handshake_legacy().await;
    assert!(began.elapsed().as_secs() >= 30);
    assert_eq!(failure(waiting).await.kind, crate::error::Kind::Busy);
    assert_eq!(began.elapsed().as_secs(), 40, "however long it took to start");
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn seat_of_another_profile_gets_a_new_connection() {
    let mut room = Setting::default().config(|config| config.principal_connections = 1).build();
    let reply = room.filling("a");
    let mut before = room.accept_legacy().await;
    before.serve_echo().await;
    result(reply).await;
    let reply = room.dispatch_as(r#"{"roots":{}}"#, echo("b"));
    assert!(before.read().await.is_none(), "its input ends");
    let (hello, mut peer) = room.accept_legacy_initialize().await;
    assert_eq!(hello["params"]["capabilities"], json!({"roots": {}}));
    peer.serve_echo().await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn a_seat_is_free_again_when_its_process_dies() {
    let mut room = Setting::default().config(|config| config.principal_connections = 1).build();
    let reply = room.filling("a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    drop(peer);
    assert_eq!(failure(reply).await.kind, crate::error::Kind::Died);
    let reply = room.filling("b");
    room.accept_legacy().await.serve_echo().await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn failed_call_names_the_missing_capability() {
    use crate::error::Kind;
    let mut room = Setting::default().build();
    let reply = room.filling("a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    peer.ask(json!(1), "sampling/createMessage", json!({"messages": [], "tools": []})).await;
    assert_eq!(peer.read().await.unwrap()["error"]["code"], -32601);
    peer.refuse(&request, -32000).await;
    assert_eq!(failure(reply).await.kind, Kind::MissingCapability(r#"{"sampling":{"tools":{}}}"#.into()));

    // A call that succeeds without it is not affected.
    let reply = room.echo("b");
    let mut shared = room.accept_legacy().await;
    let request = shared.expect("tools/call").await;
    shared.ask(json!(1), "elicitation/create", json!({"mode": "url"})).await;
    shared.read().await.unwrap();
    shared.answer(&request, json!({"content": []})).await;
    result(reply).await;

    // With two calls in flight the ask cannot be attributed.
    let replies = [room.echo("c"), room.echo("d")];
    let calls = shared.calls(2).await;
    shared.ask(json!(2), "elicitation/create", json!({})).await;
    shared.read().await.unwrap();
    for (_, call) in calls {
        shared.refuse(&call, -32000).await;
    }
    for reply in replies {
        assert!(matches!(end(reply).await, Outcome::Refused(_)));
    }
}

/// A call whose question is with its client; its server's end, and what its client holds.
async fn parked(room: &mut Room, text: &str) -> (Peer, Reply, Ask) {
    let mut reply = room.filling(text);
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    peer.ask(json!(7), "elicitation/create", json!({"message": "?"})).await;
    let ask = next_ask(&mut reply).await;
    reply.park();
    (peer, reply, ask)
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_seat_gets_that_of_the_call_parked_longest() {
    const RECLAIMED: &str = "mcp_edge_refused_total{bound=\"parked_seat\"}";
    let mut room = Setting::default().config(|config| config.principal_connections = 2).build();
    let began = tokio::time::Instant::now();
    let (mut first, of_first, ask) = parked(&mut room, "a").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut second, of_second, _ask) = parked(&mut room, "b").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let error = failure(room.filling("c")).await;
    assert_eq!(
        (error.kind, began.elapsed().as_secs()),
        (crate::error::Kind::Busy, 22),
        "both may still answer"
    );

    tokio::time::sleep(Duration::from_secs(30)).await;
    let waiting = room.filling("d");
    first.ended().await; // what it still says is of the call that was given up
    assert_eq!(began.elapsed().as_secs(), 60);
    let mut first = room.accept_legacy().await;
    assert_eq!(first.serve_echo().await["params"]["arguments"]["text"], "d");
    result(waiting).await;
    ask.answer(Answer::Result(Bytes::from_static(b"{}"))); // too late
    let error = failure(of_first).await;
    assert_eq!(error.kind, crate::error::Kind::Lost);
    assert!(error.message.contains("make the call again"), "{error}");
    assert_eq!(room.count(RECLAIMED), 1);

    // Both seats are in use; the one by a call that works, however long.
    let held = room.filling("e");
    first.expect("tools/call").await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let replies = [room.filling("f"), room.filling("g")];
    second.ended().await;
    assert_eq!(failure(of_second).await.kind, crate::error::Kind::Lost);
    let mut second = room.accept_legacy().await;
    for _ in &replies {
        second.serve_echo().await;
    }
    for reply in replies {
        result(reply).await;
    }
    assert_eq!(room.count(RECLAIMED), 2, "two calls waited, and one was parked");
    assert!(!held.is_ready());
}

#[tokio::test(start_paused = true)]
async fn calls_whose_clients_came_back_and_tasks_keep_their_seats() {
    let mut room = Setting::default().config(|config| config.principal_connections = 2).build();
    let (_first, resumed, _ask) = parked(&mut room, "a").await;
    let (_second, task, _other) = parked(&mut room, "b").await;
    tokio::time::sleep(Duration::from_secs(55)).await;
    resumed.resume(None);
    task.detach();
    task.park();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(failure(room.filling("c")).await.kind, crate::error::Kind::Busy);
    resumed.park(); // it is asked again, and its time begins anew
    assert_eq!(failure(room.filling("d")).await.kind, crate::error::Kind::Busy);
    assert!(!resumed.is_ready() && !task.is_ready());
}

/// Several calls may wait at once: each gets a seat, and none is given up in vain.
#[tokio::test(start_paused = true)]
async fn each_call_that_waits_takes_one_seat_of_a_parked_call() {
    let mut room = Setting::default().config(|config| config.principal_connections = 4).build();
    let mut held = Vec::new();
    for text in ["a", "b", "c", "d"] {
        held.push(parked(&mut room, text).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    let waiting = [room.filling("e"), room.filling("f"), room.filling("g")];
    for (peer, _, _) in &mut held[..3] {
        peer.ended().await;
    }
    for _ in &waiting {
        room.accept_legacy().await.serve_echo().await;
    }
    for reply in waiting {
        result(reply).await;
    }
    let ended: Vec<_> = held.iter().map(|(_, reply, _)| reply.has_failed()).collect();
    assert_eq!(ended, [true, true, true, false], "the oldest ones");
}
