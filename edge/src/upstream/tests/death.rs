//! Connections that end, servers that are not there, and bounds that are reached.

use super::*;
use crate::error::Kind;

#[tokio::test(start_paused = true)]
async fn a_death_fails_its_calls_at_once_and_the_next_call_works() {
    let mut room = Setting::default().build();
    let replies = [room.echo("a"), room.echo("b")];
    let mut peer = room.accept_legacy().await;
    for _ in 0..2 {
        peer.expect("tools/call").await;
    }
    let start = tokio::time::Instant::now();
    drop(peer);
    for reply in replies {
        let error = failure(reply).await;
        assert_eq!(error.kind, Kind::Died);
        assert!(error.message.contains("`time`"), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(1));
    let next = room.echo("c");
    room.accept_legacy().await.serve_echo().await;
    assert_eq!(result(next).await["content"], json!(["c"]));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_which_nothing_was_written_goes_to_the_next_connection() {
    let mut room = Setting::default().build();
    let first = room.echo(&"x".repeat(100 << 10)); // more than the duplex takes: the writer is stuck in it
    let mut peer = room.accept_legacy().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let second = room.echo("unsent");
    peer.sink.shutdown().await.unwrap();
    assert_eq!(failure(first).await.kind, Kind::Died, "some of it may have been read");
    room.accept_legacy().await.serve_echo().await;
    assert_eq!(result(second).await["content"], json!(["unsent"]));
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_reading_loses_its_connection() {
    let mut room = Setting::default().build();
    let reply = room.echo(&"x".repeat(100 << 10));
    let peer = room.accept_legacy().await;
    let start = tokio::time::Instant::now();
    assert_eq!(failure(reply).await.kind, Kind::Died);
    assert_eq!(start.elapsed().as_secs(), 30, "the write timeout");
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_connection_closed_before_the_handshake_is_tried_again() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    for _ in 0..3 {
        drop(room.accept().await);
    }
    room.accept_legacy().await.serve_echo().await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn another_endpoint_is_tried_first() {
    let mut room = Setting::default().build();
    let other = Fake::endpoint(2);
    room.dial.endpoints.lock().push(other);
    let start = tokio::time::Instant::now();
    let reply = room.echo("a");
    let busy = room.accept().await;
    let full = busy.endpoint.clone();
    drop(busy);
    let mut peer = room.accept_legacy().await;
    assert_ne!(peer.endpoint, full);
    assert!(start.elapsed() < Duration::from_millis(50), "without a pause");
    peer.serve_echo().await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_always_closes_is_busy_after_the_connect_timeout() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let start = tokio::time::Instant::now();
    let mut peers = std::mem::replace(&mut room.peers, mpsc::unbounded_channel().1);
    let closing = tokio::spawn(async move { while peers.recv().await.is_some() {} });
    let error = failure(reply).await;
    assert_eq!(error.kind, Kind::Busy);
    assert!(error.retry_after.is_some());
    assert!(error.message.contains("`time`"), "{error}");
    assert!((3..=5).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    closing.abort();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_full_while_it_serves_is_not_failing() {
    let mut room = Setting::default().isolation(Isolation::Principal).build();
    let served = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(served).await;
    let mut failed = Box::pin(failure(room.pool.dispatch(room.call_of("bob", echo("b")))));
    let error = loop {
        tokio::select! {
            error = &mut failed => break error,
            closed_at_once = room.peers.recv() => drop(closed_at_once),
        }
    };
    assert_eq!(error.kind, Kind::Busy);
    assert_eq!(room.pool.status().state, ServerState::Up);
    peer.ended().await; // idle
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(room.pool.status().state, ServerState::Sleeping);
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_last_connection_came_to_nothing_is_failing_until_one_opens() {
    let mut room = Setting::default().build();
    let mut failed = Box::pin(failure(room.echo("a")));
    loop {
        tokio::select! {
            _ = &mut failed => break,
            closed_at_once = room.peers.recv() => drop(closed_at_once),
        }
    }
    let status = room.pool.status();
    assert_eq!(status.state, ServerState::Failing);
    assert!(status.last_error.unwrap().contains("fails at start"));

    let reply = room.echo("b");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    assert_eq!(room.pool.status().state, ServerState::Up);
    drop(peer);
    while room.pool.status().connections > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(room.pool.status().state, ServerState::Sleeping, "the last connection had opened");
}

#[tokio::test(start_paused = true)]
async fn a_server_known_to_be_down_fails_at_once_until_it_is_back() {
    let mut room = Setting::default().build();
    let mut changes = room.pool.changes();
    room.dial.set_down(true);
    assert_eq!(failure(room.echo("a")).await.kind, Kind::Unreachable);
    assert!(changes.borrow_and_update().down);
    assert_eq!(room.pool.status().state, ServerState::Down);
    let (dialled, start) = (room.dial.dialled(), tokio::time::Instant::now());
    let error = failure(room.echo("b")).await;
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.message.contains("`time`"), "{error}");
    assert_eq!((room.dial.dialled(), start.elapsed()), (dialled, Duration::ZERO));

    room.dial.set_down(false);
    timeout(GUARD, changes.wait_for(|changes| !changes.down)).await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_secs(7));
    assert_eq!(room.pool.status().state, ServerState::Sleeping);
    let reply = room.echo("c");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    assert_eq!(room.pool.status().state, ServerState::Up);
}

#[tokio::test(start_paused = true)]
async fn the_last_error_of_a_server_that_stays_down_is_the_last() {
    let room = Setting::default().build();
    room.dial.set_down(true);
    let first = failure(room.echo("a")).await;
    assert_eq!(room.pool.status().last_error, Some(first.message.clone()));

    // Another reason, which only a check finds: while the server is down no call tries it.
    *room.dial.holes.lock() = vec![Fake::endpoint(1)];
    let is_news = async {
        while room.pool.status().last_error.as_ref() == Some(&first.message) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(GUARD, is_news).await.expect("the reason of the check");
    assert_eq!(room.pool.status().state, ServerState::Down);
    let second = failure(room.echo("b")).await;
    assert!(second.message.contains("no answer to the connection attempt"), "{second}");
    assert_eq!(room.pool.status().last_error, Some(second.message));
}

#[tokio::test(start_paused = true)]
async fn health_check_of_a_sleeping_server_sends_nothing() {
    let mut room = Setting::default().config(|config| config.idle_timeout = Duration::from_secs(60)).build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    peer.ended().await;
    room.dial.set_down(true);
    let mut changes = room.pool.changes();
    timeout(GUARD, changes.wait_for(|changes| changes.down)).await.unwrap().unwrap();
    assert!(room.dial.checked.load(Ordering::SeqCst) > 0);
    assert_eq!(room.dial.dialled(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_does_not_even_refuse_takes_no_server_down() {
    let idle = Duration::from_secs(60);
    let mut room = Setting::default().config(|config| config.idle_timeout = idle).build();
    // More endpoints than are checked concurrently, and the one that works comes last.
    let holes: Vec<_> = (2..15).map(Fake::endpoint).collect();
    *room.dial.holes.lock() = holes.clone();
    *room.dial.endpoints.lock() = [holes, vec![Fake::endpoint(1)]].concat();
    let mut changes = room.pool.changes();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    peer.ended().await;
    let looked_at = room.dial.checked.load(Ordering::SeqCst) + 14 * 10;
    while room.dial.checked.load(Ordering::SeqCst) < looked_at {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(!changes.borrow_and_update().down);
    assert_eq!(room.pool.status().state, ServerState::Sleeping);

    // While no endpoint works the server is down.
    let all = room.dial.endpoints.lock().clone();
    *room.dial.holes.lock() = all;
    timeout(GUARD, changes.wait_for(|changes| changes.down)).await.unwrap().unwrap();
    let error = failure(room.echo("b")).await;
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.message.contains("no answer to the connection attempt"), "{error}");
    room.dial.holes.lock().retain(|hole| *hole != Fake::endpoint(1));
    timeout(GUARD, changes.wait_for(|changes| !changes.down)).await.unwrap().unwrap();
    let reply = room.echo("c");
    room.accept_legacy().await.serve_echo().await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_took_no_connection_is_tried_last_for_a_while() {
    let mut room = Setting::default().build();
    *room.dial.endpoints.lock() = vec![Fake::endpoint(1), Fake::endpoint(2)];
    *room.dial.holes.lock() = vec![Fake::endpoint(2)];
    let slow = Duration::from_secs(2);
    let (mut waits, mut peers) = (Vec::new(), Vec::new());
    for number in 0..8 {
        // Each session has a process of its own, so there is a connection to open.
        let (start, reply) = (tokio::time::Instant::now(), room.echo_in(&session(number), "a"));
        let mut peer = room.accept_legacy().await;
        waits.push(start.elapsed());
        peer.serve_echo().await;
        result(reply).await;
        peers.push(peer);
    }
    assert_eq!(waits.iter().filter(|wait| **wait >= slow).count(), 1, "{waits:?}");
    // Later connections try it again.
    room.dial.holes.lock().clear();
    tokio::time::sleep(Duration::from_secs(31)).await;
    let reply = room.echo_in(&session(8), "a");
    let mut peer = room.accept_legacy().await;
    assert_eq!(peer.endpoint, Fake::endpoint(2));
    peer.serve_echo().await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_of_which_one_address_is_full_and_another_is_gone_is_not_down() {
    let mut room = Setting::default().build();
    *room.dial.endpoints.lock() = vec![Fake::endpoint(1), Fake::endpoint(2)];
    *room.dial.holes.lock() = vec![Fake::endpoint(2)];
    for call in ["a", "b"] {
        let reply = room.echo(call);
        let mut end = std::pin::pin!(failure(reply));
        let error = loop {
            tokio::select! {
                error = &mut end => break error,
                peer = room.accept() => drop(peer),
            }
        };
        assert_eq!(error.kind, Kind::Busy, "{error}");
        assert!(!room.pool.changes().borrow().down);
    }
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_for_a_health_check() {
    let mut room = Setting::default().build();
    room.dial.set_down(true);
    assert_eq!(failure(room.echo("a")).await.kind, Kind::Unreachable);
    *room.dial.holes.lock() = vec![Fake::endpoint(1)];
    let looks = room.dial.checked.load(Ordering::SeqCst);
    while room.dial.checked.load(Ordering::SeqCst) == looks {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let drain = std::mem::take(&mut room.drain);
    let start = tokio::time::Instant::now();
    drain.run(Duration::ZERO, Duration::from_secs(20)).await;
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn slots_and_queue_are_bounded_in_count_and_time() {
    let slots = SlotConfig { slots: 1, queue: 1, queue_timeout: Duration::from_secs(10) };
    let mut room = Setting::default().config(|config| config.slots = slots).build();
    let first = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let second = room.echo("b");
    tokio::task::yield_now().await;
    let start = tokio::time::Instant::now();
    assert_eq!(failure(room.echo("c")).await.kind, Kind::Busy);
    assert_eq!(start.elapsed(), Duration::ZERO, "over the queue's bound at once");
    assert_eq!(failure(second).await.kind, Kind::Busy);
    assert_eq!(start.elapsed().as_secs(), 10, "in the queue as long as it may");
    let third = room.echo("d");
    peer.answer(&request, json!({})).await;
    peer.serve_echo().await;
    assert_eq!(result(third).await["content"], json!(["d"]));
    result(first).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_the_handshake_is_given_up() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept().await;
    peer.expect("initialize").await;
    assert_eq!(failure(reply).await.kind, Kind::Timeout);
    assert_eq!(peer.read().await, None, "initialize is never cancelled; the connection ends");
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_calls_and_closes_connections() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let drain = std::mem::take(&mut room.drain);
    let ended = tokio::spawn(drain.run(Duration::from_secs(1), Duration::from_secs(20)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    peer.answer(&request, json!({})).await;
    result(reply).await;
    assert_eq!(peer.read().await, None);
    drop(peer);
    timeout(Duration::from_secs(2), ended).await.expect("nothing is left to wait for").unwrap();
    assert_eq!(failure(room.echo("b")).await.kind, Kind::Draining);
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_for_ever() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    let drain = std::mem::take(&mut room.drain);
    let ended = tokio::spawn(drain.run(Duration::from_secs(1), Duration::from_secs(20)));
    assert_eq!(failure(reply).await.kind, Kind::Draining);
    timeout(GUARD, ended).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn stop_ends_a_connection_in_its_handshake() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept().await;
    peer.expect("initialize").await;
    let drain = std::mem::take(&mut room.drain);
    let ended = tokio::spawn(drain.run(Duration::ZERO, Duration::from_secs(20)));
    assert_eq!(failure(reply).await.kind, Kind::Draining);
    assert_eq!(peer.read().await, None);
    assert_eq!(room.pool.status().last_error, None, "no fault of the server's");
    drop(peer);
    timeout(Duration::from_secs(1), ended).await.expect("nothing is left to wait for").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_dropped_takes_its_connections_with_it() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    drop(room.pool);
    assert_eq!(failure(reply).await.kind, Kind::Draining);
    assert_eq!(peer.read().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_floods_with_questions_gets_a_bounded_number_of_answers() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let pings = 10_000;
    for id in 0..pings {
        peer.send(json!({"jsonrpc": "2.0", "id": id, "method": "ping"})).await;
    }
    peer.answer(&request, json!({"content": ["done"]})).await;
    assert_eq!(result(reply).await["content"], json!(["done"]), "nobody waits for it to read");
    let next = room.echo("b");
    let mut answers = 0;
    while peer.read().await.unwrap()["method"].is_null() {
        answers += 1;
    }
    assert!((1000..pings / 2).contains(&answers), "{answers}");
    drop(next);
}
