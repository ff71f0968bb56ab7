//! Detection of a server's era, and requests in either era.

use super::*;
use wire::Era;

fn auto() -> Room {
    Setting::default().era(EraChoice::Auto).build()
}

/// Opens the control connection, which detects the era, in the background.
fn facts(room: &Room) -> tokio::task::JoinHandle<Result<Arc<Facts>, Error>> {
    let pool = room.pool.clone();
    tokio::spawn(async move { pool.facts().await })
}

#[tokio::test(start_paused = true)]
async fn probe_result_means_modern_and_its_connection_is_kept() {
    let mut room = auto();
    let facts = facts(&room);
    let mut control = room.accept().await;
    let probe = control.handshake_modern().await;
    let meta = &probe["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(
        meta["io.modelcontextprotocol/clientCapabilities"]["sampling"],
        json!({"context": {}, "tools": {}})
    );
    let facts = facts.await.unwrap().unwrap();
    assert_eq!(
        (facts.era, facts.info.as_deref()),
        (Era::Modern, Some(&br#"{"name":"m","version":"2"}"#[..]))
    );
    assert_eq!(room.pool.status().era, Some(Era::Modern));
    assert_eq!(room.dial.dialled(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_ordinary_error_means_legacy_on_a_new_connection() {
    let mut room = auto();
    let facts = facts(&room);
    let mut probe = room.accept().await;
    let request = probe.expect("server/discover").await;
    probe.refuse(&request, -32601).await;
    assert_eq!(probe.read().await, None, "thrown away");
    drop(probe);
    let initialize = room.accept().await.handshake_legacy().await;
    assert_eq!(initialize["params"]["capabilities"]["roots"], json!({"listChanged": true}));
    let facts = facts.await.unwrap().unwrap();
    assert_eq!((facts.era, facts.instructions.as_deref()), (Era::Legacy, Some("be kind")));
    assert!(facts.can("tools") && !facts.can("prompts") && facts.can_list());
    let of_none =
        Facts { capabilities: Bytes::from_static(br#"{"logging":{},"completions":{}}"#), ..(*facts).clone() };
    assert!(!of_none.can_list());
}

#[tokio::test(start_paused = true)]
async fn a_modern_error_means_modern() {
    for code in [-32022, -32020, -32021] {
        let mut room = auto();
        let facts = facts(&room);
        let mut probe = room.accept().await;
        let request = probe.expect("server/discover").await;
        probe.refuse(&request, code).await;
        drop(probe);
        room.accept_modern().await;
        assert_eq!(facts.await.unwrap().unwrap().era, Era::Modern);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_at_the_question_is_legacy_if_a_handshake_works() {
    let mut room = auto();
    let facts = facts(&room);
    for _ in 0..2 {
        let mut probe = room.accept().await;
        probe.expect("server/discover").await;
    }
    // Its bridge is full for a moment; that causes no further probe.
    drop(room.accept().await);
    room.accept_legacy().await;
    assert_eq!(facts.await.unwrap().unwrap().era, Era::Legacy);
    assert_eq!(room.pool.status().era, Some(Era::Legacy));
}

#[tokio::test(start_paused = true)]
async fn unanswered_probe_is_not_remembered() {
    let mut room = Setting::default()
        .era(EraChoice::Auto)
        .config(|config| config.idle_timeout = Duration::from_secs(60))
        .build();
    let first = facts(&room);
    let mut probe = room.accept().await;
    probe.expect("server/discover").await;
    let mut control = room.accept_legacy().await;
    assert_eq!(first.await.unwrap().unwrap().era, Era::Legacy);
    // A session that began meanwhile goes on after the end of the control connection, and so of the assumption.
    let key = session(1);
    let reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    control.ended().await;
    assert_eq!(room.pool.status().era, None, "never remembered");
    let reply = room.echo_in(&key, "b");
    peer.serve_echo().await;
    result(reply).await;
    let second = facts(&room);
    room.accept_modern().await;
    assert_eq!(second.await.unwrap().unwrap().era, Era::Modern);
}

#[tokio::test(start_paused = true)]
async fn modern_request_carries_meta_and_results_pass_untouched() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let mut call = room.call(with_meta());
    let (info, capabilities) =
        (Bytes::from_static(br#"{"name":"c"}"#), Bytes::from_static(br#"{"roots":{}}"#));
    call.client = Arc::new(Client { info: Some(info), capabilities: Some(capabilities), offer: None });
    let reply = room.pool.dispatch(call);
    let mut peer = room.accept_modern().await;
    let request = peer.expect("tools/call").await;
    let expected = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "c"},
        "io.modelcontextprotocol/clientCapabilities": {"roots": {}},
        "io.modelcontextprotocol/logLevel": "info", "progressToken": request["id"], "traceparent": "00-1",
    });
    assert_eq!(request["params"]["_meta"], expected);
    let untouched = json!({"resultType": "complete", "content": [], "_meta": {"x": 1}, "unheard": [1.0]});
    peer.answer(&request, untouched.clone()).await;
    assert_eq!(result(reply).await, untouched);

    let bare = room.dispatch(json!({"jsonrpc": "2.0", "id": "x", "method": "tools/call"}));
    let request = peer.expect("tools/call").await;
    let expected = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {},
    });
    assert_eq!(request["params"], json!({"_meta": expected}));
    drop(bare);
}

#[tokio::test(start_paused = true)]
async fn modern_server_gets_the_sessions_capabilities_and_log_level() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let mut call = room.call(echo("a"));
    let key = session(1);
    call.affinity = Affinity::Session(key.clone());
    let capabilities = Some(Bytes::from_static(br#"{"roots":{"listChanged":true},"tasks":{}}"#));
    let offer = Some(Bytes::from_static(br#"{"roots":{}}"#));
    call.client = Arc::new(Client { info: None, capabilities: capabilities.clone(), offer });
    let reply = room.pool.dispatch(call);
    let mut peer = room.accept_modern().await;
    let meta = peer.expect("tools/call").await["params"]["_meta"].clone();
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({"roots": {}}));
    assert_eq!(meta["io.modelcontextprotocol/logLevel"], Value::Null);
    drop(reply);
    peer.expect("notifications/cancelled").await;
    key.settings.change(|wished| wished.level = Some(wire::mcp::level::Level::Warning));
    let mut call = room.call(with_meta());
    call.affinity = Affinity::Session(key);
    call.client = Arc::new(Client { info: None, capabilities, offer: None });
    let reply = room.pool.dispatch(call);
    let meta = peer.expect("tools/call").await["params"]["_meta"].clone();
    assert_eq!(
        meta["io.modelcontextprotocol/clientCapabilities"],
        json!({}),
        "nobody said what it can be asked"
    );
    assert_eq!(meta["io.modelcontextprotocol/logLevel"], "warning");
    drop(reply);
}

#[tokio::test(start_paused = true)]
async fn modern_server_without_logging_gets_no_log_level() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let reply = room.dispatch(with_meta());
    let mut peer = room.accept().await;
    peer.handshake_modern_with(json!({"tools": {}})).await;
    let meta = peer.expect("tools/call").await["params"]["_meta"].clone();
    assert_eq!((&meta["traceparent"], meta.get(LOG_LEVEL)), (&json!("00-1"), None));
    let key = session(1);
    key.settings.change(|wished| wished.level = Some(wire::mcp::level::Level::Warning));
    let in_session = [with_meta(), echo("a")].map(|request| room.dispatch_in(&key, request));
    for _ in &in_session {
        let meta = peer.expect("tools/call").await["params"]["_meta"].clone();
        assert_eq!(meta.get(LOG_LEVEL), None, "{meta}");
    }
    drop(reply);
}

const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

fn with_meta() -> Value {
    let mut request = echo("a");
    request["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2025-11-25", "io.modelcontextprotocol/logLevel": "info",
        "progressToken": "mine", "traceparent": "00-1",
    });
    request
}

#[tokio::test(start_paused = true)]
async fn a_legacy_server_sees_no_modern_key() {
    let mut room = Setting::default().build();
    let reply = room.dispatch(with_meta());
    let mut peer = room.accept_legacy().await;
    peer.expect("logging/setLevel").await; // a level for the whole connection is what it knows instead
    let request = peer.serve_echo().await;
    assert_eq!(request["params"]["_meta"], json!({"progressToken": request["id"], "traceparent": "00-1"}));
    result(reply).await;
    let mut request = echo("a");
    request["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let reply = room.dispatch(request);
    assert_eq!(peer.serve_echo().await["params"], echo("a")["params"], "and no empty _meta");
    result(reply).await;
}

/// The server's own error.
async fn refusal(reply: Reply) -> Value {
    match end(reply).await {
        Outcome::Refused(error) => serde_json::from_slice(&error).unwrap(),
        other => panic!("a server's error, not {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_is_not_there_is_one_error_in_both_eras() {
    let read = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "a:\u{e9}"}});
    let mut room = Setting::default().build();
    let reply = room.dispatch(read.clone());
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("resources/read").await;
    let error = json!({"code": -32002, "message": "no file", "data": {"uri": "x", "why": [1]}});
    peer.send(json!({"jsonrpc": "2.0", "id": request["id"], "error": error})).await;
    let kept = json!({"code": -32002, "message": "no file", "data": {"uri": "a:\u{e9}", "why": [1]}});
    assert_eq!(refusal(reply).await, kept);
    for data in [Value::Null, json!("no object")] {
        let reply = room.dispatch(read.clone());
        let request = peer.expect("resources/read").await;
        let error = json!({"code": -32002, "message": "gone", "data": data});
        peer.send(json!({"jsonrpc": "2.0", "id": request["id"], "error": error})).await;
        let named = json!({"code": -32002, "message": "gone", "data": {"uri": "a:\u{e9}"}});
        assert_eq!(refusal(reply).await, named);
    }
    let reply = room.dispatch(read.clone());
    let request = peer.expect("resources/read").await;
    peer.answer(&request, json!({"contents": []})).await;
    let expected = json!({"contents": [], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
    assert_eq!(result(reply).await, expected);

    let mut room = Setting::default().era(EraChoice::Modern).build();
    let reply = room.dispatch(read);
    let mut peer = room.accept_modern().await;
    let request = peer.expect("resources/read").await;
    let error = json!({"code": -32602, "message": "no file", "data": {"uri": "a:\u{e9}", "why": [1]}});
    peer.send(json!({"jsonrpc": "2.0", "id": request["id"], "error": error})).await;
    assert_eq!(refusal(reply).await, kept);
}

#[tokio::test(start_paused = true)]
async fn results_for_a_session_have_the_members_of_its_era() {
    let read = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "a:b"}});
    let plain = json!({"contents": [], "_meta": {"x": 1}, "unheard": [1.0]});
    for era in [EraChoice::Legacy, EraChoice::Modern] {
        let mut room = Setting::default().era(era).build();
        let reply = room.dispatch_in(&session(1), read.clone());
        let is_modern = era == EraChoice::Modern;
        let mut peer = if is_modern { room.accept_modern().await } else { room.accept_legacy().await };
        let request = peer.expect("resources/read").await;
        let mut said = plain.clone();
        if is_modern {
            let members = json!({"resultType": "complete", "ttlMs": 5, "cacheScope": "public"});
            said.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        }
        peer.answer(&request, said).await;
        assert_eq!(result(reply).await, plain, "{era:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_completion_has_at_most_100_values() {
    let complete = json!({"jsonrpc": "2.0", "id": 1, "method": "completion/complete", "params": {}});
    let values = |count: usize| (0..count).map(|n| format!("v{n}")).collect::<Vec<_>>();
    for (era, is_session) in [
        (EraChoice::Legacy, false),
        (EraChoice::Legacy, true),
        (EraChoice::Modern, false),
        (EraChoice::Modern, true),
    ] {
        let mut room = Setting::default().era(era).build();
        let ask = |room: &Room| match is_session {
            true => room.dispatch_in(&session(1), complete.clone()),
            false => room.dispatch(complete.clone()),
        };
        let first = ask(&room);
        let mut peer = match era {
            EraChoice::Modern => room.accept_modern().await,
            _ => room.accept_legacy().await,
        };
        let request = peer.expect("completion/complete").await;
        let said = json!({"completion": {"values": values(101), "hasMore": false, "total": 101}});
        peer.answer(&request, said).await;
        let told = json!({"values": values(100), "hasMore": true, "total": 101});
        assert_eq!(result(first).await["completion"], told, "{era:?} {is_session}");
        for completion in [json!({"values": values(100)}), json!({"values": [], "hasMore": false})] {
            let reply = ask(&room);
            let request = peer.expect("completion/complete").await;
            peer.answer(&request, json!({ "completion": completion })).await;
            assert_eq!(result(reply).await["completion"], completion, "{era:?} {is_session}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_of_the_modern_era_means_nothing_from_a_legacy_server() {
    for (era, code, expected) in [
        (EraChoice::Legacy, -32021, -32603),
        (EraChoice::Legacy, -32042, -32042),
        (EraChoice::Legacy, -32000, -32000),
        (EraChoice::Modern, -32021, -32021),
    ] {
        let mut room = Setting::default().era(era).build();
        let reply = room.echo("a");
        let mut peer = match era {
            EraChoice::Modern => room.accept_modern().await,
            _ => room.accept_legacy().await,
        };
        let request = peer.expect("tools/call").await;
        let error = json!({"code": code, "message": "m", "data": {"requiredCapabilities": {"roots": {}}}});
        peer.send(json!({"jsonrpc": "2.0", "id": request["id"], "error": error})).await;
        let Outcome::Refused(refused) = end(reply).await else { panic!("the server's own error") };
        let told = json!({"code": expected, "message": "m", "data": error["data"]});
        assert_eq!(serde_json::from_slice::<Value>(&refused).unwrap(), told, "{era:?} {code}");
    }
}

#[tokio::test(start_paused = true)]
async fn changed_era_of_a_server_is_detected_again() {
    let mut room = auto();
    let first = facts(&room);
    let control = room.accept_modern().await;
    first.await.unwrap().unwrap();
    drop(control);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let second = facts(&room);
    let mut peer = room.accept().await;
    let request = peer.expect("server/discover").await;
    peer.refuse(&request, -32601).await;
    let mut probe = room.accept().await;
    let request = probe.expect("server/discover").await;
    probe.refuse(&request, -32601).await;
    drop(probe);
    room.accept_legacy().await;
    assert_eq!(second.await.unwrap().unwrap().era, Era::Legacy);
}
