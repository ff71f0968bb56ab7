//! `/mcp/call`: a tool called with curl.

use super::*;
use crate::error::{Blame, Error, Kind};

const ADD: &str = r#"{"method":"add","params":{"a":2,"b":3}}"#;

fn call(path: &str, body: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    request("POST", path, body, headers)
}

/// Status and error of a call that the gateway answers like this.
async fn refused(stage: &Stage, outcome: Outcome) -> (u16, Value) {
    stage.script.ready.lock().push_back(outcome);
    let response = stage.send(call("/mcp/call", ADD, &[])).await;
    let status = response.status().as_u16();
    (status, json(response).await["error"].take())
}

#[tokio::test]
async fn a_tool_answers_with_its_result_alone() {
    let stage = Stage::new();
    stage.answer_next(r#"{"content":[{"type":"text","text":"5"}]}"#);
    let response = stage.send(call("/mcp/call", ADD, &[("accept", "*/*")])).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(text(response).await, r#"{"content":[{"type":"text","text":"5"}]}"#);
    let sent =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":2,"b":3}}}"#;
    assert_eq!(*stage.script.seen.lock(), [sent]);
    assert_eq!(stage.metrics.calls(crate::front::CallClass::ToolsCall, crate::front::Ending::Ok), 1);

    let response = tokio::spawn(stage.front.clone().handle(call(
        "/servers/time/mcp/call",
        "{\n\"method\":\"now\"}",
        &[],
    )));
    until(|| stage.open_calls() > 0).await;
    let (call, responder) = stage.take_open();
    assert_eq!(call.scope.unwrap().as_str(), "time");
    responder.event(progress(1));
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(text(response.await.unwrap()).await, "{}");
}

#[tokio::test]
async fn a_script_can_tell_by_the_status_what_to_do() {
    let stage = Stage::new();
    let failed = |kind, blame| Outcome::Failed(Error::new(kind, blame, "why"));
    for (outcome, status, code) in [
        (failed(Kind::InvalidParams, Blame::Downstream), 400, -32602),
        (failed(Kind::Unreachable, Blame::Upstream), 502, -32603),
        (failed(Kind::Died, Blame::Upstream), 502, -32603),
        (failed(Kind::Timeout, Blame::Upstream), 504, -32603),
        (failed(Kind::Busy, Blame::Edge), 503, -32603),
        (failed(Kind::Busy, Blame::Downstream), 429, -32603),
        (failed(Kind::Draining, Blame::Edge), 503, -32603),
        (Outcome::Refused(Bytes::from_static(br#"{"code":-32602,"message":"why"}"#)), 400, -32602),
        (Outcome::Refused(Bytes::from_static(br#"{"code":-32002,"message":"why"}"#)), 400, -32602),
        (Outcome::Refused(Bytes::from_static(br#"{"code":-1,"message":"why"}"#)), 502, -1),
    ] {
        let (got, error) = refused(&stage, outcome).await;
        assert_eq!((got, error["code"].as_i64()), (status, Some(code)), "{error}");
        assert_eq!(error["message"], "why");
    }
    let (status, error) = refused(&stage, Outcome::Refused(Bytes::from_static(b"{}"))).await;
    assert_eq!((status, error["data"]["reason"].as_str()), (502, Some("protocol")));
}

#[tokio::test]
async fn it_is_a_door_like_any_other() {
    let stage = Stage::with(Setting { tokens: vec![("secret-token-1", "a")], ..Setting::default() });
    let good = ("authorization", "Bearer secret-token-1");
    let status = async |request| stage.send(request).await.status().as_u16();
    assert_eq!(status(call("/mcp/call", ADD, &[])).await, 401);
    assert_eq!(status(call("/mcp/call", ADD, &[good, ("origin", "https://evil.test")])).await, 403);
    assert_eq!(status(call("/servers/other/mcp/call", ADD, &[good])).await, 404);
    assert_eq!(status(call("/mcp/call", ADD, &[good, ("content-type", "text/plain")])).await, 415);
    for bad in ["", "not json", "{}", r#"{"method":"a","params":[]}"#] {
        assert_eq!(status(call("/mcp/call", bad, &[good])).await, 400, "{bad}");
    }
    for method in ["GET", "DELETE", "PUT"] {
        let response = stage.send(request(method, "/mcp/call", "", &[good])).await;
        assert_eq!(response.status(), 405, "{method}");
        assert_eq!(response.headers()["allow"], "POST");
    }
    assert!(stage.script.seen.lock().is_empty());
}

#[tokio::test]
async fn a_script_that_is_stopped_stops_its_call() {
    let stage = Stage::new();
    let running = tokio::spawn(stage.front.clone().handle(call("/mcp/call", ADD, &[])));
    until(|| stage.open_calls() > 0).await;
    let (_call, responder) = stage.take_open();
    running.abort();
    responder.cancelled().await;
    assert!(running.await.is_err());
    assert_eq!(stage.metrics.in_flight(), 0);
}

#[tokio::test]
async fn its_bounds_are_those_of_all_calls() {
    let permits = permit::Config { calls: 0, ..permit::Config::default() };
    let stage = Stage::with(Setting { permits, ..Setting::default() });
    let response = stage.send(call("/mcp/call", ADD, &[])).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}
