//! Calls of both eras: what is dispatched, what comes back, in which form, and what ends a call.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::call::{Affinity, EVENT_BYTES};
use crate::error::{Blame, Error, Kind};
use crate::front::{CallClass, Ending};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","_meta":{"progressToken":"tok"}}}"#;

fn cancel(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#)
}

/// Sends in a task of its own, so that the test can act meanwhile.
fn sending(stage: &Stage, request: Request<Full<Bytes>>) -> JoinHandle<Response<Body>> {
    tokio::spawn(stage.front.clone().handle(request))
}

/// Waits until a call is open.
async fn opened(stage: &Stage, calls: usize) {
    until(|| stage.open_calls() >= calls).await;
}

fn result(text: &'static str) -> Outcome {
    Outcome::Result(Slices::from(Bytes::from_static(text.as_bytes())))
}

#[tokio::test(start_paused = true)]
async fn a_legacy_client_calls_a_tool() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    stage.answer_next(r#"{"content":[]}"#);
    let response = stage.send(post(CALL, &[("mcp-session-id", &id)])).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(text(response).await, r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#);
    assert_eq!(stage.script.seen.lock().as_slice(), [CALL]);
    assert_eq!(stage.metrics.calls(CallClass::ToolsCall, Ending::Ok), 1);
    assert_eq!((stage.metrics.in_flight(), stage.permits.calls_in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_modern_client_calls_a_tool() {
    let stage = Stage::new();
    stage.answer_next(r#"{"resultType":"complete","content":[]}"#);
    let body = modern("tools/call", r#""name":"echo","#);
    let response = stage.send(post(&body, &modern_headers("tools/call", "echo"))).await;
    assert_eq!(response.status(), 200);
    let expected = r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","content":[]}}"#;
    assert_eq!(text(response).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_call_carries_what_its_client_said_of_itself() {
    let stage = Stage::new();
    let id = stage.session("2025-06-18").await;
    let legacy = sending(&stage, request("POST", "/mcp", CALL, &[("mcp-session-id", &id)]));
    opened(&stage, 1).await;
    let (call, responder) = stage.take_open();
    assert!(matches!(call.affinity, Affinity::Session(_)));
    assert_eq!(call.client.info.as_deref(), Some(&br#"{"name":"t","version":"1"}"#[..]));
    responder.finish(result("{}"));
    legacy.await.unwrap();

    let body = modern("tools/call", r#""name":"echo","#);
    let path = "/servers/time/mcp";
    let modern = sending(&stage, request("POST", path, &body, &modern_headers("tools/call", "echo")));
    opened(&stage, 1).await;
    let (call, responder) = stage.take_open();
    assert!(matches!(call.affinity, Affinity::Principal));
    assert_eq!(call.client.capabilities.as_deref(), Some(&b"{}"[..]));
    assert_eq!(call.scope.unwrap().as_str(), "time");
    responder.finish(result("{}"));
    assert_eq!(modern.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn progress_turns_the_response_into_a_stream_with_the_clients_token() {
    let stage = Stage::new();
    let body = modern("tools/call", r#""name":"echo","#);
    let response = sending(&stage, post(&body, &modern_headers("tools/call", "echo")));
    opened(&stage, 1).await;
    let (call, responder) = stage.take_open();
    responder.event(progress(1));
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert_eq!(stage.metrics.streams(), 1);
    let mut stream = response.into_body();
    let first = event(&mut stream).await.unwrap();
    assert_eq!(
        first,
        "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":\"tok\",\"progress\":1}}\n\n"
    );
    responder.finish(result("{\"a\":\r1}"));
    drop(call);
    let last = event(&mut stream).await.unwrap();
    assert_eq!(last, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"a\": 1}}\n\n");
    assert_eq!(event(&mut stream).await, None);
    drop(stream);
    assert_eq!((stage.metrics.streams(), stage.metrics.in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_long_silence_begins_a_stream_that_says_it_is_alive() {
    let stage = Stage::new();
    // One that tells where to resume is worth having early.
    for (version, silence) in
        [("2025-06-18", Duration::from_secs(10)), ("2025-11-25", Duration::from_millis(500))]
    {
        let id = stage.session(version).await;
        let start = Instant::now();
        let response = sending(&stage, post(CALL, &[("mcp-session-id", &id)]));
        opened(&stage, 1).await;
        stage.script.open.lock()[0].1.on_cancel(Arc::new(Nobody), 1);
        let response = response.await.unwrap();
        assert_eq!(start.elapsed(), silence);
        let mut stream = response.into_body();
        if version == "2025-11-25" {
            primed(&mut stream).await;
        }
        assert_eq!(event(&mut stream).await.unwrap(), ": keep-alive\n\n");
        assert_eq!(start.elapsed(), silence + Duration::from_secs(15));
        died_in(&stage, &mut stream).await;
    }
}

/// A server's connection.
struct Nobody;

impl crate::call::Cancel for Nobody {
    fn cancel(&self, _: u64) {}
    fn park(&self, _: u64) {}
    fn resume(&self, _: u64, _: Option<wire::mcp::level::Level>) {}
    fn detach(&self, _: u64) {}
}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_server_has_yet_keeps_its_status() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let response = sending(&stage, post(CALL, &[("mcp-session-id", &id)]));
    opened(&stage, 1).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    stage.take_open().1.fail(permit::Bound::QueueTimeout.refusal());
    assert_eq!(response.await.unwrap().status(), 503);
}

async fn died_in(stage: &Stage, stream: &mut Body) {
    let (_call, responder) = stage.take_open();
    responder.fail(Error::new(Kind::Died, Blame::Upstream, "the process of time ended"));
    let last = event(stream).await.unwrap();
    assert!(last.contains(r#""code":-32603"#) && last.contains(r#""reason":"died""#), "{last}");
    assert_eq!(event(stream).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_json_only_gets_json_however_long_it_takes() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let headers = [("mcp-session-id", id.as_str()), ("accept", "application/json")];
    let response = sending(&stage, post(CALL, &headers));
    opened(&stage, 1).await;
    let (_call, responder) = stage.take_open();
    responder.event(progress(1));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!response.is_finished());
    responder.finish(result("{}"));
    assert_eq!(response.await.unwrap().headers()["content-type"], "application/json");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_events_only_gets_one() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    stage.answer_next("{}");
    let headers = [("mcp-session-id", id.as_str()), ("accept", "text/event-stream")];
    let response = stage.send(post(CALL, &headers)).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(
        text(response).await,
        "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_modern_client_cancels_by_closing_before_and_after_the_stream_begins() {
    let stage = Stage::new();
    let body = modern("tools/call", r#""name":"echo","#);
    let headers = modern_headers("tools/call", "echo");
    let response = sending(&stage, post(&body, &headers));
    opened(&stage, 1).await;
    response.abort();
    let (_call, responder) = stage.take_open();
    responder.cancelled().await;

    let response = sending(&stage, post(&body, &headers)).await.unwrap();
    let (_call, responder) = stage.take_open();
    assert!(!responder.is_cancelled());
    drop(response);
    responder.cancelled().await;
    assert_eq!(stage.metrics.calls(CallClass::ToolsCall, Ending::Cancelled), 2);
    assert_eq!(stage.metrics.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_legacy_client_that_leaves_does_not_cancel() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let headers = [("mcp-session-id", id.as_str())];
    let response = sending(&stage, post(CALL, &headers));
    opened(&stage, 1).await;
    response.abort();
    assert!(response.await.is_err());
    let (_call, responder) = stage.take_open();
    assert!(!responder.is_cancelled());
    assert_eq!(stage.send(post(CALL, &headers)).await.status(), 400, "its id is still in use");
    responder.finish(result("{}"));
    until(|| stage.metrics.in_flight() == 0).await;
    assert_eq!(stage.metrics.calls(CallClass::ToolsCall, Ending::Ok), 1);
    stage.answer_next("{}");
    assert_eq!(stage.send(post(CALL, &headers)).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_legacy_client_cancels_by_a_message_with_ids_of_both_types() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let headers = [("mcp-session-id", id.as_str())];
    let number = sending(&stage, post(CALL, &headers));
    let text_id = sending(&stage, post(&CALL.replace(r#""id":1"#, r#""id":"1""#), &headers));
    opened(&stage, 2).await;
    assert_eq!(stage.send(post(&cancel("99"), &headers)).await.status(), 202);
    assert_eq!(stage.send(post(&cancel(r#""1""#), &headers)).await.status(), 202);
    assert_eq!(text(text_id.await.unwrap()).await, "");
    assert!(!number.is_finished());
    assert_eq!(stage.send(post(&cancel("1"), &headers)).await.status(), 202);
    assert_eq!(text(number.await.unwrap()).await, "");
    for _ in 0..2 {
        let (_call, responder) = stage.take_open();
        assert!(responder.is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_cancelled_before_its_stream_began_gets_an_empty_one_or_json_where_that_alone_is_taken() {
    let stage = Stage::new();
    let id = stage.session("2025-06-18").await;
    let headers = [("mcp-session-id", id.as_str())];
    let json_alone = [("mcp-session-id", id.as_str()), ("accept", "application/json")];
    let both = sending(&stage, post(CALL, &headers));
    let one = sending(&stage, post(&CALL.replace(r#""id":1"#, r#""id":2"#), &json_alone));
    opened(&stage, 2).await;
    for call in ["1", "2"] {
        assert_eq!(stage.send(post(&cancel(call), &headers)).await.status(), 202);
    }
    let (both, one) = (both.await.unwrap(), one.await.unwrap());
    assert_eq!(both.status(), 200);
    assert_eq!(both.headers()["content-type"], "text/event-stream");
    assert_eq!(text(both).await, "", "no response to a cancelled request");
    assert_eq!(json(one).await["error"]["data"]["reason"], "cancelled");
    assert_eq!(stage.metrics.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_cancelled_after_its_stream_began_gets_no_response() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let headers = [("mcp-session-id", id.as_str())];
    let mut stream = sending(&stage, post(CALL, &headers)).await.unwrap().into_body();
    primed(&mut stream).await;
    stage.send(post(&cancel("1"), &headers)).await;
    assert_eq!(event(&mut stream).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_gets_the_newest_progress_and_the_outcome() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let mut stream = sending(&stage, post(CALL, &[("mcp-session-id", &id)])).await.unwrap().into_body();
    let (_call, responder) = stage.take_open();
    let sent = (EVENT_BYTES / 50) as u64;
    for n in 0..sent {
        responder.event(progress(n));
    }
    responder.finish(result("{}"));
    let (mut bytes, mut events) = (0, Vec::new());
    while let Some(event) = event(&mut stream).await {
        bytes += event.len();
        events.push(event);
    }
    assert!(bytes < 2 * EVENT_BYTES);
    assert!(events.last().unwrap().contains(r#""result":{}"#));
    assert!(events[events.len() - 2].contains(&format!(r#""progress":{}"#, sent - 1)));
}
