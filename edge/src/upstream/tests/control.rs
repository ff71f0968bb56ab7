//! Facts, lists and their changes.

use super::*;
use crate::error::Kind;

fn list(room: &Room, list: List) -> tokio::task::JoinHandle<Result<Vec<String>, Error>> {
    let pool = room.pool.clone();
    tokio::spawn(async move {
        let items = pool.list(list).await?;
        Ok(items.into_iter().map(|item| item.key).collect())
    })
}

async fn page(peer: &mut Peer, names: &[&str], next: Option<&str>) -> Value {
    let request = peer.expect("tools/list").await;
    let tools: Vec<_> = names.iter().map(|name| json!({"name": name, "inputSchema": {}})).collect();
    let result = match next {
        Some(next) => json!({"tools": tools, "nextCursor": next}),
        None => json!({"tools": tools}),
    };
    peer.answer(&request, result).await;
    request
}

#[tokio::test(start_paused = true)]
async fn every_page_of_a_list_is_followed() {
    let mut room = Setting::default().build();
    let listing = list(&room, List::Tools);
    let mut peer = room.accept_legacy().await;
    assert_eq!(page(&mut peer, &["a", "b"], Some("")).await["params"], json!({}));
    assert_eq!(page(&mut peer, &["c"], Some("x\"y")).await["params"], json!({"cursor": ""}));
    assert_eq!(page(&mut peer, &["d"], None).await["params"], json!({"cursor": "x\"y"}));
    assert_eq!(listing.await.unwrap().unwrap(), ["a", "b", "c", "d"]);
    assert_eq!(room.dial.dialled(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_never_ends_is_read_up_to_a_bound() {
    let mut room = Setting::default().config(|config| config.list_pages = 3).build();
    let listing = list(&room, List::Tools);
    let mut peer = room.accept_legacy().await;
    page(&mut peer, &["a"], Some("1")).await;
    page(&mut peer, &["a"], Some("1")).await;
    assert_eq!(listing.await.unwrap().unwrap(), ["a", "a"], "to where a cursor comes again");
    let listing = list(&room, List::Tools);
    for cursor in ["1", "2", "3"] {
        page(&mut peer, &[cursor], Some(cursor)).await;
    }
    assert_eq!(listing.await.unwrap().unwrap(), ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_too_long_is_cut() {
    let mut room = Setting::default().config(|config| config.list_bytes = 1000).build();
    let listing = list(&room, List::Tools);
    let mut peer = room.accept_legacy().await;
    let (one, two) = ("1".repeat(300), "2".repeat(300));
    page(&mut peer, &["a", &one], Some("1")).await;
    page(&mut peer, &["b", &two, "c"], Some("2")).await;
    assert_eq!(listing.await.unwrap().unwrap(), ["a".to_owned(), one, "b".to_owned()]);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_a_session_waits_for_its_connection_to_open() {
    let mut room = Setting::default().build();
    let (key, _heard) = session_and_stream(1);
    assert!(room.pool.inner().list_of(&key, List::Tools).await.is_none(), "it has none");
    key.settings.change(|wished| wished.level = Some(wire::mcp::level::Level::Error));
    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    let level = peer.expect("logging/setLevel").await;
    let listing = tokio::spawn(room.pool.inner().list_of(&key, List::Tools));
    tokio::task::yield_now().await;
    peer.answer(&level, json!({})).await;
    for _ in 0..2 {
        let request = peer.read().await.unwrap();
        let result =
            if request["method"] == "tools/list" { json!({"tools": [{"name": "own"}]}) } else { json!({}) };
        peer.answer(&request, result).await;
    }
    result(reply).await;
    assert_eq!(listing.await.unwrap().unwrap().unwrap()[0].key, "own");
}

#[tokio::test(start_paused = true)]
async fn unanswered_list_closes_the_control_connection() {
    let mut room = Setting::default().build();
    let listing = list(&room, List::Tools);
    let mut stuck = room.accept_legacy().await;
    stuck.expect("tools/list").await;
    assert_eq!(listing.await.unwrap().unwrap_err().kind, Kind::Timeout);
    stuck.ended().await;
    let listing = list(&room, List::Tools);
    page(&mut room.accept_legacy().await, &["a"], None).await;
    assert_eq!(listing.await.unwrap().unwrap(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn list_of_an_undeclared_capability_is_empty() {
    let mut room = Setting::default().build();
    let (prompts, templates) = (list(&room, List::Prompts), list(&room, List::Templates));
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("resources/templates/list").await;
    peer.refuse(&request, -32601).await;
    assert!(prompts.await.unwrap().unwrap().is_empty(), "no such capability: it is not even asked");
    assert!(templates.await.unwrap().unwrap().is_empty());
    let resources = list(&room, List::Resources);
    let request = peer.expect("resources/list").await;
    peer.refuse(&request, -32603).await;
    assert_eq!(resources.await.unwrap().unwrap_err().kind, Kind::Protocol);
}

#[tokio::test(start_paused = true)]
async fn modern_list_request_carries_the_required_meta() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let listing = list(&room, List::Tools);
    let mut peer = room.accept_modern().await;
    page(&mut peer, &["a"], Some("n")).await;
    let request = page(&mut peer, &["b"], None).await;
    assert_eq!(request["params"]["cursor"], "n");
    assert_eq!(request["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(listing.await.unwrap().unwrap(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn changes_are_counted_from_the_control_connection_alone() {
    let mut room = Setting::default().build();
    let mut changes = room.pool.changes();
    let listing = list(&room, List::Tools);
    let mut control = room.accept_legacy().await;
    page(&mut control, &[], None).await;
    listing.await.unwrap().unwrap();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    for which in ["tools", "prompts"] {
        let method = format!("notifications/{which}/list_changed");
        peer.send(json!({"jsonrpc": "2.0", "method": method})).await;
    }
    peer.serve_echo().await;
    result(reply).await;
    let expected = Changes { connected: 1, ..Changes::default() };
    assert_eq!(*changes.borrow_and_update(), expected);
    for which in ["tools", "tools", "prompts", "resources"] {
        let method = format!("notifications/{which}/list_changed");
        control.send(json!({"jsonrpc": "2.0", "method": method})).await;
    }
    let seen = timeout(GUARD, changes.wait_for(|changes| changes.resources > 0)).await.unwrap().unwrap();
    assert_eq!(*seen, Changes { tools: 2, prompts: 1, resources: 1, ..expected });
    drop(seen);
    drop(control);
    timeout(GUARD, changes.wait_for(|changes| changes.lost == 1)).await.unwrap().unwrap();
}

/// Acknowledges the gateway's own listen; returns its request, and the `_meta` of its notifications.
async fn acknowledged(control: &mut Peer) -> (Value, Value) {
    let request = control.expect("subscriptions/listen").await;
    let wanted = json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true});
    assert_eq!(request["params"]["notifications"], wanted);
    let meta = json!({"io.modelcontextprotocol/subscriptionId": request["id"]});
    let params = json!({"_meta": meta, "notifications": wanted});
    control.notify("notifications/subscriptions/acknowledged", params).await;
    (request, meta)
}

/// A modern server whose list was read, with an open listen.
async fn listened() -> (Room, Peer) {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let listing = list(&room, List::Prompts);
    let mut control = room.accept_modern().await;
    assert!(listing.await.unwrap().unwrap().is_empty());
    acknowledged(&mut control).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // the time stands still until it was heard
    (room, control)
}

#[tokio::test(start_paused = true)]
async fn server_that_answers_nothing_during_a_listen_gets_no_more_listens() {
    let (mut room, mut control) = listened().await;
    let listing = list(&room, List::Tools);
    control.expect("tools/list").await;
    control.expect("server/discover").await;
    let error = listing.await.unwrap().unwrap_err();
    assert!(error.message.contains("`time` answers nothing while a listen is open"), "{error}");
    control.ended().await;
    for _ in 0..2 {
        let listing = list(&room, List::Tools);
        let mut next = room.accept_modern().await;
        let request = next.read().await.unwrap();
        assert_eq!(request["method"], "tools/list", "and no listen");
        next.answer(&request, json!({"tools": []})).await;
        assert!(listing.await.unwrap().unwrap().is_empty());
        drop(next);
        // The result is remembered, so a new process gets no listen either.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    room.dial.set_down(true);
    assert_eq!(list(&room, List::Tools).await.unwrap().unwrap_err().kind, Kind::Unreachable);
    room.dial.set_down(false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let listing = list(&room, List::Prompts);
    let mut back = room.accept_modern().await;
    assert!(listing.await.unwrap().unwrap().is_empty());
    acknowledged(&mut back).await; // it may be another version of the server
}

#[tokio::test(start_paused = true)]
async fn slow_list_during_a_listen_is_waited_for() {
    let (room, mut control) = listened().await;
    let listing = list(&room, List::Tools);
    let slow = control.expect("tools/list").await;
    control.handshake_modern().await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    control.answer(&slow, json!({"tools": [{"name": "a", "inputSchema": {}}]})).await;
    assert_eq!(listing.await.unwrap().unwrap(), ["a"]);
    let again = list(&room, List::Tools);
    tokio::time::sleep(Duration::from_secs(15)).await;
    page(&mut control, &["b"], None).await;
    assert_eq!(again.await.unwrap().unwrap(), ["b"], "it was shown once that it answers");
}

#[tokio::test(start_paused = true)]
async fn changed_lists_of_a_modern_server_come_in_a_listen() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let mut changes = room.pool.changes();
    let listing = list(&room, List::Prompts);
    let mut control = room.accept_modern().await;
    assert!(listing.await.unwrap().unwrap().is_empty());
    let (request, meta) = acknowledged(&mut control).await;
    for which in ["tools", "tools", "resources"] {
        control.notify(&format!("notifications/{which}/list_changed"), json!({"_meta": meta})).await;
    }
    let seen = timeout(GUARD, changes.wait_for(|changes| changes.resources > 0)).await.unwrap().unwrap();
    assert_eq!(*seen, Changes { connected: 1, tools: 2, resources: 1, ..Changes::default() });
    drop(seen);
    control.answer(&request, json!({"resultType": "complete", "_meta": meta})).await;
    acknowledged(&mut control).await;
    timeout(GUARD, changes.wait_for(|changes| changes.lost == 1)).await.unwrap().unwrap();
    control.ended().await; // a listen of our own keeps no process that nobody uses

    let listing = list(&room, List::Prompts);
    let mut control = room.accept_modern().await;
    let request = control.expect("subscriptions/listen").await;
    control.refuse(&request, -32601).await;
    assert!(listing.await.unwrap().unwrap().is_empty());
    let quiet = timeout(Duration::from_secs(300), control.read()).await;
    assert!(quiet.is_err(), "who does not know it is not asked again: {quiet:?}");
}
