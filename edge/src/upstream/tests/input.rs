//! Modern servers that require input of the client before they answer.

use super::*;
use crate::call::InputRequired;
use crate::error::Kind;

fn ask(method: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "a", "uri": "a:b"}})
}

async fn input(reply: Reply) -> InputRequired {
    match timeout(GUARD, reply.outcome()).await.expect("an outcome") {
        Outcome::InputRequired(input) => *input,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_requires_input_comes_back_with_its_permits() {
    let slots = SlotConfig { slots: 1, ..SlotConfig::default() };
    let mut room = Setting::default().era(EraChoice::Modern).config(|config| config.slots = slots).build();
    let reply = room.dispatch(ask("tools/call"));
    let mut peer = room.accept_modern().await;
    for method in ["tools/call", "prompts/get", "resources/read"] {
        let reply = if method == "tools/call" { None } else { Some(room.dispatch(ask(method))) };
        let request = peer.expect(method).await;
        let requests = json!({"k": {"method": "roots/list"}});
        let wanted =
            json!({"resultType": "input_required", "inputRequests": requests, "requestState": "\u{e9}\""});
        peer.answer(&request, wanted).await;
        let Some(reply) = reply else { continue };
        let input = input(reply).await;
        assert_eq!(input.call.method.as_str(), method);
        assert_eq!(input.requests().unwrap().parse::<Value>().unwrap(), requests);
        assert_eq!(serde_json::from_slice::<String>(&input.state().unwrap()).unwrap(), "\u{e9}\"");
    }
    let input = input(reply).await;
    assert_eq!(room.permits.calls_in_flight(), 1, "the room of a call that may go on, and no slot");
    let again = room.pool.dispatch(input.call);
    let request = peer.expect("tools/call").await;
    peer.answer(&request, json!({"content": []})).await;
    assert_eq!(result(again).await, json!({"content": []}));
    assert_eq!(room.permits.calls_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn results_of_no_known_type_are_not_passed_on() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let first = room.dispatch(ask("completion/complete"));
    let mut peer = room.accept_modern().await;
    let wants = |members: Value| {
        let mut result = json!({"resultType": "input_required"});
        result.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        result
    };
    let request = peer.expect("completion/complete").await;
    peer.answer(&request, wants(json!({"requestState": "s"}))).await;
    assert_eq!(failure(first).await.kind, Kind::Protocol, "this method cannot want input");
    for bad in [
        json!({"resultType": "task", "taskId": "1"}),
        json!({"resultType": 7}),
        json!({"resultType": null}),
        wants(json!({})),
        wants(json!({"inputRequests": []})),
        wants(json!({"inputRequests": {}, "requestState": 7})),
        wants(json!({"inputRequests": null, "requestState": "s"})),
    ] {
        let reply = room.dispatch(ask("tools/call"));
        let request = peer.expect("tools/call").await;
        peer.answer(&request, bad.clone()).await;
        assert_eq!(failure(reply).await.kind, Kind::Protocol, "{bad}");
    }
    assert_eq!(room.permits.calls_in_flight(), 0);
}

const LOG: &str = "notifications/message";

fn with_level(level: Option<&str>) -> Value {
    let mut request = ask("tools/call");
    request["params"]["_meta"] = json!({"io.modelcontextprotocol/logLevel": level});
    request
}

#[tokio::test(start_paused = true)]
async fn log_goes_to_the_only_call_that_asked_for_logs() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let mut first = room.dispatch(with_level(Some("warning")));
    let mut peer = room.accept_modern().await;
    let request = peer.expect("tools/call").await;
    let silent = room.dispatch(with_level(None));
    peer.expect("tools/call").await;
    for level in ["debug", "warning", "loud"] {
        peer.notify(LOG, json!({"level": level, "data": 1})).await;
    }
    for level in ["warning", "loud"] {
        assert_eq!(next_notification(&mut first).await, (LOG.to_owned(), json!({"level": level, "data": 1})));
    }
    let dropped = "mcp_edge_upstream_skipped_total{server=\"time\",reason=\"log\"}";
    assert_eq!(room.count(dropped), 0, "what is below the level was not lost");
    let second = room.dispatch(with_level(Some("debug")));
    let other = peer.expect("tools/call").await;
    peer.notify(LOG, json!({"level": "error", "data": 2})).await;
    peer.answer(&request, json!({})).await;
    assert!(matches!(first.next().await, Next::Outcome(Outcome::Result(_))), "it may be the other call's");
    assert_eq!(room.count(dropped), 1);
    peer.answer(&other, json!({})).await;
    result(second).await;
    peer.notify(LOG, json!({"level": "error", "data": 3})).await;
    peer.notify("notifications/unheard_of", json!({})).await;
    drop(silent);
    peer.expect("notifications/cancelled").await;
    while room.count(dropped) < 2 {
        tokio::task::yield_now().await;
    }
}
