//! Calls on a connection that works.

use super::*;
use crate::call::Rename;
use crate::error::Kind;

#[tokio::test(start_paused = true)]
async fn call_is_sent_after_the_handshake_and_its_result_completed() {
    let mut room = Setting::default().build();
    let reply = room.echo("hi");
    let mut peer = room.accept().await;
    let initialize = peer.handshake_legacy().await;
    assert_eq!(initialize["params"]["protocolVersion"], "2025-11-25");
    assert_eq!(initialize["params"]["capabilities"], json!({}), "nobody behind a call could answer an ask");
    assert_eq!(initialize["params"]["clientInfo"]["name"], "mcp-edge");
    let request = peer.serve_echo().await;
    assert_eq!(request["params"], echo("hi")["params"], "nothing is added");
    assert_eq!(result(reply).await, json!({"resultType": "complete", "content": ["hi"]}));
}

#[tokio::test(start_paused = true)]
async fn the_servers_own_name_takes_the_place_of_the_public_one() {
    let mut room = Setting::default().build();
    let mut call = room.call(echo("hi"));
    let span = call.request.param("name").unwrap().span();
    call.rename = Some(Rename { span, token: Bytes::from_static(br#""say\u00e9""#) });
    let reply = room.pool.dispatch(call);
    let request = room.accept_legacy().await.serve_echo().await;
    assert_eq!(request["params"], json!({"name": "say\u{e9}", "arguments": {"text": "hi"}}));
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn answers_may_come_in_any_order() {
    let mut room = Setting::default().build();
    let replies: Vec<_> = ["a", "b", "c"].map(|text| room.echo(text)).into();
    let mut peer = room.accept_legacy().await;
    let mut requests = Vec::new();
    for _ in 0..3 {
        requests.push(peer.expect("tools/call").await);
    }
    for request in requests.iter().rev() {
        peer.answer(request, json!({"content": [request["params"]["arguments"]["text"]]})).await;
    }
    for (reply, text) in replies.into_iter().zip(["a", "b", "c"]) {
        assert_eq!(result(reply).await["content"], json!([text]));
    }
    assert_eq!(room.dial.dialled(), 1, "one principal, one connection");
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_its_id_as_text_or_a_null_beside_it_is_taken() {
    let mut room = Setting::default().build();
    let replies = [room.echo("a"), room.echo("b"), room.echo("c")];
    let mut peer = room.accept_legacy().await;
    let calls = peer.calls(3).await;
    let id = |call: &str| calls[call]["id"].clone();
    peer.send(json!({"jsonrpc": "2.0", "id": id("a").to_string(), "result": {"n": 1}})).await;
    peer.send(json!({"jsonrpc": "2.0", "id": id("b"), "result": {"n": 2}, "error": null})).await;
    let error = json!({"code": -7, "message": "no"});
    peer.send(json!({"jsonrpc": "2.0", "id": id("c"), "result": null, "error": error})).await;
    let [a, b, c] = replies;
    assert_eq!((result(a).await["n"].clone(), result(b).await["n"].clone()), (1.into(), 2.into()));
    let Outcome::Refused(refused) = timeout(GUARD, c.outcome()).await.unwrap() else { panic!("an error") };
    assert_eq!(serde_json::from_slice::<Value>(&refused).unwrap(), error);
}

/// A server with this revision, which has one call.
pub(super) async fn agreed_on(room: &mut Room, version: &str) -> (Peer, Value) {
    let mut peer = room.accept().await;
    let request = peer.expect("initialize").await;
    let info = json!({"name": "m", "version": "1"});
    let agreed = json!({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info});
    peer.answer(&request, agreed).await;
    peer.expect("notifications/initialized").await;
    let request = peer.expect("tools/call").await;
    (peer, request)
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_taken_from_servers_of_the_revision_that_has_them() {
    for (version, is_taken) in [("2025-03-26", true), ("2025-06-18", false), ("2024-11-05", false)] {
        let mut room = Setting::default().build();
        let reply = room.echo("a");
        let (mut peer, request) = agreed_on(&mut room, version).await;
        let large = "x".repeat(20 << 10);
        let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": large}});
        let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": {"text": large}});
        let ping = json!({"jsonrpc": "2.0", "id": "p", "method": "ping"});
        peer.send(json!([log, [answer], 7, answer, ping])).await;
        if is_taken {
            assert_eq!(result(reply).await["text"], large);
            assert_eq!(peer.read().await.unwrap(), json!({"jsonrpc": "2.0", "id": "p", "result": {}}));
            assert_eq!(room.permits.held_bytes(), 0);
            assert_eq!(room.count(GARBAGE), 2, "an array in it, and a number");
        } else {
            peer.answer(&request, json!({"text": "alone"})).await;
            assert_eq!(result(reply).await["text"], "alone");
            assert_eq!(room.count(GARBAGE), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_too_many_messages_is_dropped() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let (mut peer, request) = agreed_on(&mut room, "2025-03-26").await;
    let batch = |messages: usize, text: &str| {
        let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": {"text": text}});
        let filler = json!({"jsonrpc": "2.0", "method": "x"});
        let mut all = vec![filler; messages - 1];
        all.push(answer);
        Value::from(all)
    };
    peer.send(json!([])).await;
    peer.send(batch(1025, "over")).await;
    peer.send(batch(1024, "within")).await;
    assert_eq!(result(reply).await["text"], "within");
    assert_eq!(room.count("mcp_edge_refused_total{bound=\"batch\"}"), 1);
    assert_eq!(room.count(GARBAGE), 2, "an empty one, too");
}

const GARBAGE: &str = "mcp_edge_upstream_skipped_total{server=\"time\",reason=\"garbage\"}";

#[tokio::test(start_paused = true)]
async fn null_structured_content_of_a_legacy_server_is_removed() {
    for (era, expected) in [
        (EraChoice::Legacy, json!({"content": [], "resultType": "complete"})),
        (EraChoice::Modern, json!({"content": [], "structuredContent": null})),
    ] {
        let mut room = Setting::default().era(era).build();
        let reply = room.echo("a");
        let mut peer = match era {
            EraChoice::Modern => room.accept_modern().await,
            _ => room.accept_legacy().await,
        };
        let request = peer.expect("tools/call").await;
        peer.answer(&request, json!({"content": [], "structuredContent": null})).await;
        assert_eq!(result(reply).await, expected);
        let reply = room.echo("b");
        let request = peer.expect("tools/call").await;
        peer.answer(&request, json!({"structuredContent": null})).await;
        assert_eq!(result(reply).await.get("structuredContent"), Some(&Value::Null), "it is all there is");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_reply_is_cancelled_upstream() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    drop(reply);
    let cancelled = peer.expect("notifications/cancelled").await;
    assert_eq!(cancelled["params"]["requestId"], request["id"]);
    // Its answer comes all the same, and is dropped.
    peer.answer(&request, json!({"late": true})).await;
    let next = room.echo("b");
    peer.serve_echo().await;
    assert_eq!(result(next).await["content"], json!(["b"]));
}

#[tokio::test(start_paused = true)]
async fn reply_dropped_before_it_is_written_is_not_sent() {
    let mut room = Setting::default().build();
    drop(room.echo("nobody"));
    let (dropped, kept) = (room.echo("a"), room.echo("b"));
    let mut peer = room.accept().await;
    drop(dropped);
    peer.handshake_legacy().await;
    let request = peer.serve_echo().await;
    assert_eq!(request["params"]["arguments"]["text"], "b");
    result(kept).await;
}

#[tokio::test(start_paused = true)]
async fn unanswered_call_times_out_and_is_cancelled() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let start = tokio::time::Instant::now();
    let ping = peer.expect("ping").await;
    peer.answer(&ping, json!({})).await;
    let error = failure(reply).await;
    assert_eq!(error.kind, Kind::Timeout);
    assert!(error.message.contains("`time`"), "{error}");
    let waited = start.elapsed().as_secs();
    assert!((300..=302).contains(&waited), "{waited} s");
    assert_eq!(peer.expect("notifications/cancelled").await["params"]["requestId"], request["id"]);
}

fn with_progress(token: Value) -> Value {
    let mut request = echo("slow");
    request["params"]["_meta"] = json!({"progressToken": token});
    request
}

async fn progress(peer: &mut Peer, token: &Value, progress: u64) {
    let params = json!({"progressToken": token, "progress": progress});
    peer.send(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})).await;
}

#[tokio::test(start_paused = true)]
async fn progress_reaches_the_call_and_extends_it() {
    let mut room = Setting::default().build();
    let mut reply = room.dispatch(with_progress(json!("mine")));
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let token = &request["params"]["_meta"]["progressToken"];
    assert_eq!(*token, request["id"], "a token of our own");
    let as_text = json!(token.to_string());
    for n in 1..=5 {
        tokio::time::sleep(Duration::from_secs(200)).await;
        // Some servers return the token as text.
        progress(&mut peer, if n % 2 == 0 { &as_text } else { token }, n).await;
        let Next::Event(Event::Progress(message)) = reply.next().await else { panic!("progress") };
        assert_eq!(message.param("progress").unwrap().as_u64(), Some(n));
    }
    peer.answer(&request, json!({"content": []})).await;
    result(reply).await;
    // Progress of a call that is over is dropped, and the connection lives.
    progress(&mut peer, token, 6).await;
    let next = room.echo("b");
    peer.serve_echo().await;
    result(next).await;
}

#[tokio::test(start_paused = true)]
async fn progress_that_is_no_number_is_dropped_and_extends_the_call() {
    let mut room = Setting::default().build();
    let mut reply = room.dispatch(with_progress(json!(7)));
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let token = &request["id"];
    for odd in [r#""x""#, "null", "[1]", "1e400"] {
        let params = format!(r#"{{"progressToken":{token},"progress":{odd}}}"#);
        peer.raw(&format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#))
            .await;
        peer.raw("\n").await;
        tokio::time::sleep(Duration::from_secs(200)).await; // the call goes on all the same
    }
    peer.notify("notifications/progress", json!({"progressToken": token})).await;
    for number in [json!(5), json!(5), json!(3.5), json!(-1), json!(1e308)] {
        peer.notify("notifications/progress", json!({"progressToken": token, "progress": number})).await;
        let Event::Progress(message) = event(&mut reply).await else { panic!("progress") };
        assert_eq!(message.param("progress").unwrap().parse::<Value>().unwrap(), number);
    }
    assert_eq!(room.count("mcp_edge_upstream_skipped_total{server=\"time\",reason=\"progress\"}"), 5);
}

#[tokio::test(start_paused = true)]
async fn progress_extends_a_call_up_to_its_limit() {
    let mut room = Setting::default().build();
    let reply = room.dispatch(with_progress(json!(7)));
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let waiting = tokio::spawn(failure(reply));
    for n in 0..40 {
        progress(&mut peer, &request["id"], n).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
    }
    assert!(waiting.is_finished(), "an hour has passed");
    assert_eq!(waiting.await.unwrap().kind, Kind::Timeout);
    assert_eq!(room.count("mcp_edge_upstream_call_timeouts_total{"), 1);
}

#[tokio::test(start_paused = true)]
async fn unexpected_messages_do_not_disturb_calls() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    peer.raw("npm notice: a new version is there\n\n[1, 2]\n{\"jsonrpc\":\"2.0\"\n").await;
    for id in [json!(1), json!("65536"), json!(1_u64 << 50), json!(null)] {
        peer.send(json!({"jsonrpc": "2.0", "id": id, "error": {"code": 1, "message": "wrong"}})).await;
    }
    peer.answer(&request, json!({"content": ["right"]})).await;
    peer.answer(&request, json!({"content": ["again"]})).await;
    assert_eq!(result(reply).await["content"], json!(["right"]));
    let next = room.echo("b");
    peer.serve_echo().await;
    assert_eq!(result(next).await["content"], json!(["b"]));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_ends_its_call() {
    let mut room = Setting::default().build();
    let replies = ["a", "b", "c", "d", "e"].map(|text| room.echo(text));
    let mut peer = room.accept_legacy().await;
    let (mut ids, start) = (Vec::new(), tokio::time::Instant::now());
    for _ in 0..5 {
        ids.push(peer.expect("tools/call").await["id"].clone());
    }
    peer.raw(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{\"a\":1,\"a\":2}}}}\n", ids[0])).await;
    peer.raw(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":[]}}\n", ids[1])).await;
    peer.raw(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":7}}\n", ids[2])).await;
    peer.raw(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{}}}\n", ids[3])).await;
    peer.raw(&format!("{{\"id\":{0},\"jsonrpc\":\"2.0\",\"result\":{{}},\"id\":{0}}}\n", ids[4])).await;
    for reply in replies {
        assert_eq!(failure(reply).await.kind, Kind::Protocol);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_the_limit_ends_its_call_and_no_other() {
    let mut room = Setting::default().config(|config| config.limits.frame_bytes = 2000).build();
    let (big, small) = (room.echo("big"), room.echo("small"));
    let mut peer = room.accept_legacy().await;
    let calls = peer.calls(2).await;
    let request = &calls["big"];
    // A request of the server with the same id is not the answer.
    let pad = "x".repeat(3000);
    peer.send(json!({"jsonrpc": "2.0", "id": request["id"], "method": pad})).await;
    peer.answer(&calls["small"], json!({"content": ["small"]})).await;
    assert_eq!(result(small).await["content"], json!(["small"]));
    peer.raw(&format!("{{\"result\":{{\"x\":\"{pad}\"}},\"jsonrpc\":\"2.0\",\"id\":{}}}\n", request["id"]))
        .await;
    let error = failure(big).await;
    assert_eq!(error.kind, Kind::TooLarge);
    assert!(error.message.contains("`time`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_fetches_are_bounded_in_bytes() {
    let mut setting = Setting::default();
    setting.permits.held_bytes = 60_000;
    let mut room = setting.build();
    let pad = json!({ "content": ["x".repeat(40_000)] });
    let (first, second, third) = (room.echo("first"), room.echo("second"), room.echo("third"));
    let mut peer = room.accept_legacy().await;
    let calls = peer.calls(3).await;
    peer.answer(&calls["first"], pad.clone()).await;
    let held = end(first).await;
    assert!(room.permits.held_bytes() > 40_000);
    peer.answer(&calls["second"], pad.clone()).await;
    let error = failure(second).await;
    assert_eq!((&error.kind, error.retry_after), (&Kind::TooLarge, None), "it was executed: no retry");
    assert_eq!(room.count("mcp_edge_refused_total{bound=\"held_bytes\"}"), 1);
    drop(held);
    assert_eq!(room.permits.held_bytes(), 0);
    peer.answer(&calls["third"], pad).await;
    assert!(matches!(end(third).await, Outcome::Result(_)));
}

#[tokio::test(start_paused = true)]
async fn ask_on_a_shared_connection_is_answered_at_once() {
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    for (id, method) in [(json!(1), "ping"), (json!("r"), "roots/list"), (json!(3), "sampling/createMessage")]
    {
        peer.send(json!({"jsonrpc": "2.0", "id": id, "method": method})).await;
    }
    assert_eq!(peer.read().await.unwrap(), json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    assert_eq!(peer.read().await.unwrap(), json!({"jsonrpc": "2.0", "id": "r", "result": {"roots": []}}));
    assert_eq!(peer.read().await.unwrap()["error"]["code"], -32602);
    peer.answer(&request, json!({})).await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn a_line_break_in_a_request_cannot_become_a_message() {
    let mut room = Setting::default().build();
    let text = echo("a").to_string().replace("{\"name\"", "\n{\r\n\"name\"");
    let mut call = room.call(echo("a"));
    call.request = Message::scan(text.into(), &Limits::default()).unwrap();
    let reply = room.pool.dispatch(call);
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    assert_eq!(result(reply).await["content"], json!(["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_log_line_in_json_is_no_answer_and_a_broken_answer_is_one() {
    let mut room = Setting::default().build();
    let (first, second) = (room.echo("a"), room.echo("b"));
    let mut peer = room.accept_legacy().await;
    let mut requests = [peer.expect("tools/call").await, peer.expect("tools/call").await];
    requests.sort_by_key(|request| request["params"]["arguments"]["text"].to_string());
    let [one, two] = requests;
    for line in [
        format!(r#"{{"level":"error","error":"boom","id":{}}}"#, one["id"]),
        format!(r#"{{"id":{},"method":"GET","path":"/"}}"#, one["id"]),
        format!(r#"{{"level":"info","msg":"done","id":{},"result":{{}}}}"#, one["id"]),
        format!(r#"{{"jsonrpc":"2.0","id":{},"msg":"received"}}"#, one["id"]),
        format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}},"id":99999}}"#, one["id"]), // whose it is nobody knows
        format!(r#"{{"id":{},"result":{{}},"result":{{}}}}"#, two["id"]),
    ] {
        peer.raw(&format!("{line}\n")).await;
    }
    assert_eq!(failure(second).await.kind, Kind::Protocol);
    peer.answer(&one, json!({"content": ["a"]})).await;
    assert_eq!(result(first).await["content"], json!(["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_request_of_a_server_that_cannot_be_read_gets_an_error() {
    let mut room = Setting::default().config(|config| config.limits.frame_bytes = 2000).build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let call = peer.expect("tools/call").await;
    let pad = "x".repeat(3000);
    for (request, code) in [
        (r#"{"jsonrpc":"2.0","id":"ask1","method":"elicitation/create","params":[1]}"#.to_owned(), -32600),
        (r#"{"jsonrpc":"2.0","id":"ask1","method":"ping","params":{"a":1,"a":2}}"#.to_owned(), -32600),
        (
            r#"{"jsonrpc":"2.0","id":"ask1","method":"sampling/createMessage","params":{]}}"#.to_owned(),
            -32700,
        ),
        (format!(r#"{{"jsonrpc":"2.0","id":"ask1","method":"ping","params":{{"a":"{pad}"}}}}"#), -32600),
    ] {
        peer.raw(&format!("{request}\n")).await;
        let answer = peer.read().await.unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("ask1"), &json!(code)), "{answer}");
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
    assert_eq!(room.count(GARBAGE), 3, "and one is counted as too long");
    // Nobody waits for an answer to these.
    for other in [
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":[1]}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.to_owned(),
        r#"{"id":7,"method":"GET","path":"/","params":[]}"#.to_owned(),
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"{pad}"}}}}"#),
    ] {
        peer.raw(&format!("{other}\n")).await;
    }
    peer.ask(json!("p"), "ping", json!({})).await;
    assert_eq!(peer.read().await.unwrap(), json!({"jsonrpc": "2.0", "id": "p", "result": {}}));
    peer.answer(&call, json!({"content": []})).await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn answer_without_jsonrpc_version_is_accepted() {
    let mut room = Setting::default().build();
    let (first, second, third) = (room.echo("a"), room.echo("b"), room.echo("c"));
    let mut peer = room.accept().await;
    let initialize = peer.expect("initialize").await;
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}});
    peer.send(json!({"id": initialize["id"], "result": hello})).await;
    peer.expect("notifications/initialized").await;
    let calls = peer.calls(3).await;
    peer.send(json!({"id": 1, "result": {}})).await; // nobody's
    peer.send(json!({"id": calls["a"]["id"], "result": {"content": ["a"]}})).await;
    peer.send(json!({"error": {"code": -7, "message": "no"}, "id": calls["b"]["id"]})).await;
    peer.send(json!({"id": calls["c"]["id"], "error": "no"})).await;
    assert_eq!(result(first).await, json!({"resultType": "complete", "content": ["a"]}), "the result alone");
    for (reply, error) in [(second, json!({"code": -7, "message": "no"})), (third, json!("no"))] {
        let Outcome::Refused(refused) = end(reply).await else { panic!("the server's own error") };
        assert_eq!(serde_json::from_slice::<Value>(&refused).unwrap(), error, "the error alone");
    }
}
