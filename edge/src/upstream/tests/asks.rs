//! Requests of servers to the client of a session: with the right call, answered once, and bounded in time.

use super::*;
use tokio::time::Instant;

use crate::call::EventReader;

const ELICIT: &str = "elicitation/create";
const SAMPLE: &str = "sampling/createMessage";

pub(super) fn form() -> Value {
    json!({"message": "your name?", "requestedSchema": {"type": "object", "properties": {}}})
}

#[tokio::test(start_paused = true)]
async fn initialize_declares_the_sessions_client() {
    let mut room = Setting::default().build();
    let reply = room.echo_in(&session(1), "a");
    let hello = room.accept_legacy_initialize().await;
    let (params, mut peer) = (&hello.0["params"], hello.1);
    assert_eq!(params["clientInfo"], json!({"name": "c", "version": "7"}));
    assert_eq!(
        params["capabilities"],
        json!({"roots": {"listChanged": true}, "sampling": {}, "elicitation": {}}),
        "and no tasks, which nobody would answer"
    );
    peer.serve_echo().await;
    result(reply).await;
}

#[tokio::test(start_paused = true)]
async fn an_ask_goes_to_the_oldest_call_that_may_ask_and_its_answer_back() {
    let mut room = Setting::default().build();
    let (key, _heard) = session_and_stream(1);
    let complete = json!({"jsonrpc": "2.0", "id": 1, "method": "completion/complete", "params": {}});
    let mut silent = room.dispatch_in(&key, complete);
    let mut peer = room.accept_legacy().await;
    peer.expect("completion/complete").await;
    let mut first = room.echo_in(&key, "first");
    let request = peer.expect("tools/call").await;
    let mut second = room.echo_in(&key, "second");
    peer.expect("tools/call").await;

    peer.ask(json!("q\u{e9}"), SAMPLE, json!({"messages": [], "maxTokens": 1})).await;
    let ask = next_ask(&mut first).await;
    assert_eq!(ask.kind, wire::mcp::method::Ask::Sampling);
    assert_eq!(ask.request.method(), SAMPLE);
    // A line break in the client's answer must not become a message of its own.
    ask.answer(Answer::Result(Bytes::from_static(b"{\"role\":\n\"assistant\"}")));
    let answer = peer.read().await.unwrap();
    assert_eq!(answer, json!({"jsonrpc": "2.0", "id": "q\u{e9}", "result": {"role": "assistant"}}));

    peer.ask(json!(1), ELICIT, form()).await;
    next_ask(&mut first).await.answer(Answer::Refused(Bytes::from_static(br#"{"code":-1,"message":"no"}"#)));
    assert_eq!(peer.read().await.unwrap()["error"], json!({"code": -1, "message": "no"}));

    peer.answer(&request, json!({})).await;
    result(first).await;
    peer.ask(json!(2), "roots/list", json!({})).await;
    next_ask(&mut second).await.answer(Answer::Result(Bytes::from_static(br#"{"roots":[]}"#)));
    assert_eq!(peer.read().await.unwrap()["result"], json!({"roots": []}));
    assert!(!silent.is_ready(), "a completion asks nothing");
    drop(second);
    let _ = &mut silent;
}

#[tokio::test(start_paused = true)]
async fn a_sample_of_several_blocks_is_one_for_an_older_server() {
    let mut room = Setting::default().build();
    let mut reply = room.echo_in(&session(1), "a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    let image = json!({"type": "image", "data": "AA==", "mimeType": "a/b"});
    let text = |text: &str| json!({"type": "text", "text": text});
    for (method, content, expected) in [
        (SAMPLE, text("a"), Some(text("a"))),
        (SAMPLE, json!([image]), Some(image.clone())),
        (SAMPLE, json!([text("a\"\n"), text("\u{e9}")]), Some(text("a\"\n\n\u{e9}"))),
        (SAMPLE, json!([text("a"), image]), None),
        (SAMPLE, json!([]), None),
        (ELICIT, json!(["a", "b"]), Some(json!(["a", "b"]))),
    ] {
        let params = if method == SAMPLE { json!({"messages": [], "maxTokens": 1}) } else { form() };
        peer.ask(json!(1), method, params).await;
        let sample = json!({"role": "assistant", "model": "m", "content": content});
        next_ask(&mut reply).await.answer(Answer::Result(sample.to_string().into()));
        let answer = peer.read().await.unwrap();
        match expected {
            Some(content) => {
                let told = json!({"role": "assistant", "model": "m", "content": content});
                assert_eq!(answer["result"], told);
            }
            None => assert_eq!(answer["error"]["code"], -32603, "{answer}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_ask_goes_to_a_stream_that_is_read() {
    let mut room = Setting::default().build();
    let (key, mut own_stream) = session_and_stream(1);
    let mut first = room.echo_in(&key, "first");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    let mut second = room.echo_in(&key, "second");
    peer.expect("tools/call").await;
    for (readers, place) in [
        ([EventReader::Present, EventReader::Present, EventReader::Present], 0),
        ([EventReader::Absent, EventReader::Present, EventReader::Present], 1),
        ([EventReader::Gone, EventReader::Absent, EventReader::Present], 2),
        ([EventReader::Gone, EventReader::Absent, EventReader::Absent], 1),
        ([EventReader::Gone, EventReader::Gone, EventReader::Absent], 2),
        ([EventReader::Unwanted, EventReader::Gone, EventReader::Absent], 2),
        ([EventReader::Unwanted, EventReader::Absent, EventReader::Absent], 1),
        ([EventReader::Unwanted, EventReader::Unwanted, EventReader::Present], 2),
        ([EventReader::Unwanted, EventReader::Unwanted, EventReader::Absent], 0),
    ] {
        let replies = [&mut first, &mut second, &mut own_stream];
        for (reply, reader) in replies.iter().zip(readers) {
            reply.set_reader(reader);
        }
        peer.ask(json!(1), ELICIT, form()).await;
        let ask = next_ask(replies.into_iter().nth(place).unwrap()).await;
        ask.answer(Answer::Result(Bytes::from_static(b"{}")));
        assert_eq!(peer.read().await.unwrap()["id"], 1, "{readers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ask_of_a_call_that_ended_is_passed_on_to_a_stream_that_may_be_read() {
    let mut room = Setting::default().build();
    let (key, mut own_stream) = session_and_stream(1);
    let mut first = room.echo_in(&key, "first");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    let mut second = room.echo_in(&key, "second");
    peer.expect("tools/call").await;
    for (second_reader, own_reader, place) in [
        (EventReader::Present, EventReader::Present, Some(0)),
        (EventReader::Absent, EventReader::Present, Some(1)),
        (EventReader::Absent, EventReader::Absent, Some(0)),
        (EventReader::Gone, EventReader::Present, Some(1)),
        (EventReader::Gone, EventReader::Absent, None),
        (EventReader::Unwanted, EventReader::Absent, None),
    ] {
        for (reply, reader) in [(&second, EventReader::Gone), (&own_stream, EventReader::Absent)] {
            reply.set_reader(reader);
        }
        first.set_reader(EventReader::Present);
        peer.ask(json!(1), ELICIT, form()).await;
        let ask = next_ask(&mut first).await;
        first.set_reader(EventReader::Gone);
        second.set_reader(second_reader);
        own_stream.set_reader(own_reader);
        let returned = ask.pass_on();
        assert_eq!(returned.is_none(), place.is_some(), "{second_reader:?} {own_reader:?}");
        let ask = match (returned, place) {
            (None, Some(0)) => next_ask(&mut second).await,
            (None, _) => next_ask(&mut own_stream).await,
            (Some(ask), _) => ask,
        };
        ask.answer(Answer::Result(Bytes::from_static(b"{}")));
        assert_eq!(peer.read().await.unwrap()["result"], json!({}));
    }
}

#[tokio::test(start_paused = true)]
async fn an_ask_ends_with_the_last_cancelled_call_that_may_have_asked_it() {
    let mut room = Setting::default().build();
    let (key, _own_stream) = session_and_stream(1);
    let mut first = room.echo_in(&key, "first");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    let second = room.echo_in(&key, "second");
    peer.expect("tools/call").await;
    peer.ask(json!("q"), ELICIT, form()).await;
    let ask = next_ask(&mut first).await;
    let third = room.echo_in(&key, "third");
    peer.expect("tools/call").await;
    drop(first);
    peer.expect("notifications/cancelled").await;
    assert!(!ask.withdrawn.is_cancelled(), "the second call may have asked it");
    drop(second);
    peer.expect("notifications/cancelled").await;
    assert_eq!(peer.read().await.unwrap()["id"], "q", "the third came later");
    assert!(ask.withdrawn.is_cancelled());
    drop(third);
}

#[tokio::test(start_paused = true)]
async fn an_ask_gives_time_to_all_calls_that_may_have_asked_it() {
    let mut room = Setting::default().build();
    let (key, _own_stream) = session_and_stream(1);
    let mut first = room.echo_in(&key, "first");
    let mut peer = room.accept_legacy().await;
    let first_request = peer.expect("tools/call").await;
    let second = room.echo_in(&key, "second");
    let second_request = peer.expect("tools/call").await;
    peer.ask(json!("q"), ELICIT, form()).await;
    let ask = next_ask(&mut first).await;
    peer.answer(&first_request, json!({})).await;
    result(first).await;
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert!(!ask.withdrawn.is_cancelled());
    ask.answer(Answer::Result(Bytes::from_static(b"{}")));
    assert_eq!(peer.read().await.unwrap()["id"], "q");
    peer.answer(&second_request, json!({"content": ["late"]})).await;
    assert_eq!(result(second).await["content"], json!(["late"]));
}

#[tokio::test(start_paused = true)]
async fn an_ask_gives_no_time_to_a_call_that_the_server_has_not_read() {
    let mut room = Setting::default().config(|config| config.call_timeout = Duration::from_secs(10)).build();
    let me = session(1);
    let mut first = room.echo_in(&me, "a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    let _long = room.echo_in(&me, &"x".repeat(300 << 10)); // fills the pipe
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    let waits = room.echo_in(&me, "b");
    peer.ask(json!(1), ELICIT, form()).await;
    let _ask = next_ask(&mut first).await;
    assert_eq!(failure(waits).await.kind, crate::error::Kind::Timeout);
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_ask_ends_although_a_later_call_has_been_read_since() {
    let mut room = Setting::default().build();
    let me = session(1);
    let mut first = room.echo_in(&me, "a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    let long = room.echo_in(&me, &"x".repeat(300 << 10)); // fills the pipe
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _later = room.echo_in(&me, "b");
    peer.ask(json!(1), ELICIT, form()).await;
    let ask = next_ask(&mut first).await;
    peer.calls(2).await;
    drop(first);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!ask.withdrawn.is_cancelled(), "the long one may have asked");
    drop(long);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(ask.withdrawn.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn asks_of_two_sessions_never_cross() {
    let mut room = Setting::default().build();
    let ((one, mut heard_one), (two, mut heard_two)) = (session_and_stream(1), session_and_stream(2));
    let mut first = room.echo_in(&one, "a");
    let mut peer_one = room.accept_legacy().await;
    let request_one = peer_one.expect("tools/call").await;
    let mut second = room.echo_in(&two, "b");
    let mut peer_two = room.accept_legacy().await;
    let request_two = peer_two.expect("tools/call").await;
    // Both servers number their requests alike.
    peer_two.ask(json!(0), ELICIT, json!({"message": "of two"})).await;
    peer_one.ask(json!(0), ELICIT, json!({"message": "of one"})).await;
    let (ask_one, ask_two) = (next_ask(&mut first).await, next_ask(&mut second).await);
    assert_eq!(ask_one.request.param("message").unwrap().as_str().unwrap(), "of one");
    assert_eq!(ask_two.request.param("message").unwrap().as_str().unwrap(), "of two");
    ask_two.answer(Answer::Result(Bytes::from_static(br#"{"action":"accept","content":{"by":"two"}}"#)));
    ask_one.answer(Answer::Result(Bytes::from_static(br#"{"action":"accept","content":{"by":"one"}}"#)));
    assert_eq!(peer_one.read().await.unwrap()["result"]["content"], json!({"by": "one"}));
    assert_eq!(peer_two.read().await.unwrap()["result"]["content"], json!({"by": "two"}));
    // The same outside calls.
    for (peer, request) in [(&mut peer_one, &request_one), (&mut peer_two, &request_two)] {
        peer.answer(request, json!({})).await;
    }
    result(first).await;
    result(second).await;
    peer_two.ask(json!(1), "roots/list", json!({"of": "two"})).await;
    peer_one.ask(json!(1), "roots/list", json!({"of": "one"})).await;
    for (heard, of) in [(&mut heard_one, "one"), (&mut heard_two, "two")] {
        assert_eq!(next_ask(heard).await.request.param("of").unwrap().as_str().unwrap(), of);
        assert!(!heard.is_ready());
    }
}

#[tokio::test(start_paused = true)]
async fn undeclared_ask_is_refused_at_once() {
    let mut room = Setting::default().build();
    let affinity = Affinity::Session(session(1));
    let reply = room.pool.dispatch(Call { affinity, ..room.call(echo("a")) });
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    for (method, code) in [("roots/list", -32601), (SAMPLE, -32601), (ELICIT, -32602), ("odd", -32601)] {
        peer.ask(json!(method), method, json!({})).await;
        let answer = peer.read().await.unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(method), &json!(code)));
    }
    assert!(!reply.is_ready());
}

#[tokio::test(start_paused = true)]
async fn ask_without_a_client_is_answered() {
    let mut room = Setting::default().build();
    let key = session(1); // nobody listens beside its calls
    let mut reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    peer.ask(json!(1), ELICIT, form()).await;
    drop(next_ask(&mut reply).await);
    assert_eq!(peer.read().await.unwrap()["result"], json!({"action": "cancel"}));
    peer.answer(&request, json!({})).await;
    result(reply).await;
    for method in [SAMPLE, "roots/list"] {
        peer.ask(json!(2), method, json!({})).await;
        assert_eq!(peer.read().await.unwrap()["error"]["code"], -32603, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn ask_extends_its_call_and_times_out() {
    let mut room = Setting::default().build();
    let (key, _heard) = session_and_stream(1);
    let mut reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    tokio::time::sleep(Duration::from_secs(280)).await;
    let start = Instant::now();
    peer.ask(json!(1), ELICIT, form()).await;
    let ask = next_ask(&mut reply).await;
    timeout(GUARD, ask.withdrawn.cancelled()).await.unwrap();
    assert!((600..=602).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(peer.read().await.unwrap()["result"], json!({"action": "cancel"}));
    assert_eq!(room.count("mcp_edge_refused_total{bound=\"ask_timeout\"}"), 1);
    ask.answer(Answer::Result(Bytes::from_static(b"{}")));
    tokio::time::sleep(Duration::from_secs(290)).await;
    peer.expect("ping").await;
    peer.answer(&request, json!({"content": ["late"]})).await;
    assert_eq!(result(reply).await["content"], json!(["late"]), "the call had its time after the ask");
    // The answer that came too late is dropped.
    let next = room.echo_in(&key, "b");
    peer.serve_echo().await;
    result(next).await;
}

#[tokio::test(start_paused = true)]
async fn asks_extend_a_call_up_to_its_limit() {
    let mut room =
        Setting::default().config(|config| config.call_timeout_max = Duration::from_secs(400)).build();
    let (key, _heard) = session_and_stream(1);
    let mut reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    peer.ask(json!(1), ELICIT, form()).await;
    let ask = next_ask(&mut reply).await;
    assert_eq!(failure(reply).await.kind, crate::error::Kind::Timeout);
    assert!(ask.withdrawn.is_cancelled());
    peer.expect("notifications/cancelled").await;
    assert_eq!(peer.read().await.unwrap()["result"], json!({"action": "cancel"}));
}

#[tokio::test(start_paused = true)]
async fn ask_is_withdrawn_when_cancelled_or_its_process_dies() {
    let mut room = Setting::default().build();
    let (key, mut heard) = session_and_stream(1);
    let mut reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    // Cancelled by the server: it gets no answer.
    peer.ask(json!("x"), ELICIT, form()).await;
    let ask = next_ask(&mut reply).await;
    peer.notify("notifications/cancelled", json!({"requestId": "x"})).await;
    timeout(GUARD, ask.withdrawn.cancelled()).await.unwrap();
    drop(ask);
    // Cancelled with its call: the server gets an answer.
    peer.ask(json!("y"), ELICIT, form()).await;
    let ask = next_ask(&mut reply).await;
    drop(reply);
    timeout(GUARD, ask.withdrawn.cancelled()).await.unwrap();
    peer.expect("notifications/cancelled").await;
    assert_eq!(peer.read().await.unwrap()["id"], "y");
    // Withdrawn by the end of the process.
    peer.ask(json!("z"), ELICIT, form()).await;
    let ask = next_ask(&mut heard).await;
    drop(peer);
    timeout(GUARD, ask.withdrawn.cancelled()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn asks_are_bounded() {
    let mut room = Setting::default().config(|config| config.asks = 2).build();
    let (key, _heard) = session_and_stream(1);
    let mut reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    for id in 1..=3 {
        peer.ask(json!(id), ELICIT, form()).await;
    }
    let refused = peer.read().await.unwrap();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(3), &json!(-32603)));
    assert_eq!(room.count("mcp_edge_refused_total{bound=\"asks\"}"), 1);
    drop(next_ask(&mut reply).await);
    assert_eq!(peer.read().await.unwrap()["id"], 1);
    peer.ask(json!(4), ELICIT, form()).await;
    drop(next_ask(&mut reply).await);
    assert_eq!(next_ask(&mut reply).await.request.id().unwrap().as_u64(), Some(4), "there is room again");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_progress_drops_no_ask() {
    let mut room = Setting::default().build();
    let (key, _heard) = session_and_stream(1);
    let mut request = echo("a");
    request["params"]["_meta"] = json!({"progressToken": 1});
    let mut reply = room.dispatch_in(&key, request);
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    peer.ask(json!(1), ELICIT, form()).await;
    let pad = "x".repeat(8 << 10);
    for n in 0..64 {
        let params = json!({"progressToken": request["id"], "progress": n, "message": pad});
        peer.notify("notifications/progress", params).await;
    }
    peer.answer(&request, json!({})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    next_ask(&mut reply).await;
    assert!(room.count("mcp_edge_refused_total{bound=\"event_bytes\"}") > 0);
}

/// A progress notification of a client.
fn progressed(members: &str) -> Message {
    let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{{members}}}}}"#);
    Message::scan(text.into(), &Limits::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn progress_of_the_client_reaches_the_server_that_asked_and_gives_time() {
    let mut room = Setting::default().build();
    let (key, mut heard) = session_and_stream(1);
    let mut reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    peer.ask(json!(1), SAMPLE, json!({"messages": [], "_meta": {"progressToken": "p"}})).await;
    let ask = next_ask(&mut reply).await.without_request();
    // The session maps the token that the client knows.
    let message = progressed(r#""progressToken":"ask-1","progress":1"#);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(200)).await;
        ask.asker().unwrap().progressed(&message);
        assert_eq!(peer.expect("notifications/progress").await["params"]["progressToken"], "p");
    }
    assert!(!ask.withdrawn.is_cancelled());
    let asker = ask.asker().unwrap();
    ask.answer(Answer::Result(Bytes::from_static(b"{}")));
    assert_eq!(peer.read().await.unwrap()["id"], 1);
    asker.progressed(&message);
    peer.answer(&request, json!({})).await;
    result(reply).await;
    // Progress extends it up to its limit.
    peer.ask(json!(2), SAMPLE, json!({"messages": [], "_meta": {"progressToken": "p"}})).await;
    let ask = next_ask(&mut heard).await.without_request();
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_secs(100)).await;
        ask.asker().unwrap().progressed(&message);
    }
    while peer.read().await.unwrap()["id"] != 2 {}
}

#[tokio::test(start_paused = true)]
async fn client_progress_is_rebuilt_and_bounded() {
    let mut room = Setting::default().build();
    let (key, _heard) = session_and_stream(1);
    let mut reply = room.echo_in(&key, "a");
    let mut peer = room.accept_legacy().await;
    peer.expect("tools/call").await;
    peer.ask(json!(1), SAMPLE, json!({"messages": [], "_meta": {"progressToken": "p"}})).await;
    let ask = next_ask(&mut reply).await.without_request();
    let tell = |members: &str| ask.asker().unwrap().progressed(&progressed(members));
    let (long, digits) = ("ü\\n".repeat(1 << 20), "1".repeat(1 << 20));
    for wrong in [r#""progress":"1""#, r#""total":1"#, &format!(r#""progress":{digits}"#)] {
        tell(wrong);
    }
    tell(&format!(r#""progress":1.5,"total":{digits},"message":"{long}","_meta":{{"x":"{digits}"}}"#));
    let told = peer.expect("notifications/progress").await;
    let said: String = "ü\n".repeat(500);
    assert_eq!(told["params"], json!({"progressToken": "p", "progress": 1.5, "message": said}));
    for n in 0..100 {
        tell(&format!(r#""progress":{n},"total":100"#));
    }
    assert_eq!(room.count("mcp_edge_refused_total{bound=\"outbox\"}"), 36);
    for n in 0..64 {
        let told = peer.expect("notifications/progress").await;
        assert_eq!(told["params"], json!({"progressToken": "p", "progress": n, "total": 100}));
    }
    // A token that is too long gets no progress.
    let token = "p".repeat(300);
    peer.ask(json!(2), SAMPLE, json!({"messages": [], "_meta": {"progressToken": token}})).await;
    let ask = next_ask(&mut reply).await.without_request();
    ask.asker().unwrap().progressed(&progressed(r#""progress":1"#));
    ask.answer(Answer::Result(Bytes::from_static(b"{}")));
    assert_eq!(peer.read().await.unwrap()["id"], 2);
}
