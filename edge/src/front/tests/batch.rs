//! Arrays of messages: for sessions of 2025-03-26 alone.

use super::*;

async fn send(stage: &Stage, id: &str, body: &str) -> Response<Body> {
    stage.send(post(body, &[("mcp-session-id", id)])).await
}

#[tokio::test]
async fn answers_that_are_there_at_once_come_in_one_array() {
    let stage = Stage::new();
    let id = stage.session("2025-03-26").await;
    let body = r#"[{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","id":1,"method":"ping"},
        {"jsonrpc":"2.0","id":"i","method":"initialize","params":{}},{"jsonrpc":"2.0","id":null,"method":"ping"},
        {"jsonrpc":"2.0","id":2,"method":"no/such"}]"#;
    let answers = json(send(&stage, &id, body).await).await;
    let answers = answers.as_array().unwrap();
    assert_eq!(answers[0], serde_json::json!({"jsonrpc":"2.0","id":1,"result":{}}));
    let codes: Vec<_> = answers[1..].iter().map(|answer| (&answer["id"], &answer["error"]["code"])).collect();
    let (invalid, unknown) = ((-32600).into(), (-32601).into());
    assert_eq!(codes, [(&"i".into(), &invalid), (&Value::Null, &invalid), (&2.into(), &unknown)]);
    let quiet =
        r#"[{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","id":9,"result":{}}]"#;
    assert_eq!(send(&stage, &id, quiet).await.status(), 202);
}

#[tokio::test(start_paused = true)]
async fn calls_run_side_by_side_and_answer_on_one_stream_or_in_one_array() {
    let stage = Stage::new();
    let id = stage.session("2025-03-26").await;
    let body =
        r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"},{"jsonrpc":"2.0","id":2,"method":"tools/list"}]"#;
    for accept in ["application/json, text/event-stream", "application/json"] {
        let headers = [("mcp-session-id", id.as_str()), ("accept", accept)];
        let sent = tokio::spawn(stage.front.clone().handle(post(body, &headers)));
        until(|| stage.open_calls() >= 2).await;
        let (first, second) = (stage.take_open().1, stage.take_open().1);
        for responder in [second, first] {
            responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
            tokio::task::yield_now().await;
        }
        let response = sent.await.unwrap();
        assert_eq!(response.status(), 200);
        let answers = text(response).await;
        for id in [1, 2] {
            let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            assert_eq!(answers.matches(&answer).count(), 1, "{answers}");
        }
        assert_eq!(answers.starts_with('['), accept == "application/json", "{answers}");
    }
    assert_eq!((stage.metrics.in_flight(), stage.permits.calls_in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_one_array_is_asked_nothing() {
    let stage = Stage::new();
    let init = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{"roots":{}}}}"#;
    let response = stage.send(post(init, &[])).await;
    let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let body = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}]"#;
    let headers = [("mcp-session-id", id.as_str()), ("accept", "application/json")];
    let sent = tokio::spawn(stage.front.clone().handle(post(body, &headers)));
    until(|| stage.open_calls() > 0).await;
    let (call, responder) = stage.take_open();
    rounds::want_text(call, responder, r#"{"inputRequests":{"k":{"method":"roots/list"}}}"#);
    let began = tokio::time::Instant::now();
    assert_eq!(json(sent.await.unwrap()).await[0]["result"]["isError"], true);
    assert!(began.elapsed() < Duration::from_secs(1), "at once");
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_calls_are_cancelled_has_no_answer() {
    let stage = Stage::new();
    let id = stage.session("2025-03-26").await;
    let body = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}]"#;
    let headers = [("mcp-session-id", id.as_str()), ("accept", "application/json")];
    let sent = tokio::spawn(stage.front.clone().handle(post(body, &headers)));
    until(|| stage.open_calls() > 0).await;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    assert_eq!(send(&stage, &id, cancel).await.status(), 202);
    let response = sent.await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(text(response).await, "");
}

#[tokio::test(start_paused = true)]
async fn later_call_of_one_array_is_cancelled_while_an_earlier_one_runs() {
    let stage = Stage::new();
    let id = stage.session("2025-03-26").await;
    let call =
        |id: u64| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"a"}}}}"#);
    let headers = [("mcp-session-id", id.as_str()), ("accept", "application/json")];
    let body = format!("[{},{}]", call(1), call(2));
    let sent = tokio::spawn(stage.front.clone().handle(post(&body, &headers)));
    until(|| stage.open_calls() >= 2).await;
    let mut open = [stage.take_open(), stage.take_open()];
    open.sort_by_key(|(call, _)| call.request.id().map(|id| id.as_bytes().to_vec()));
    let [(_, first), (_, second)] = open;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#;
    assert_eq!(send(&stage, &id, cancel).await.status(), 202);
    let cancelled = tokio::time::timeout(Duration::from_secs(60), second.cancelled()).await;
    assert!(cancelled.is_ok(), "the server hears of it while the first call runs");
    first.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    let answers = json(sent.await.unwrap()).await;
    assert_eq!(answers, serde_json::json!([{"jsonrpc":"2.0","id":1,"result":{}}]));
}

#[tokio::test]
async fn batch_with_a_modern_request_is_refused_as_a_whole() {
    let stage = Stage::new();
    let id = stage.session("2025-03-26").await;
    let modern = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let body = format!(r#"[{{"jsonrpc":"2.0","id":1,"method":"tools/list"}},{modern}]"#);
    let response = send(&stage, &id, &body).await;
    assert_eq!(response.status(), 400);
    assert_eq!(json(response).await["error"]["code"], -32600);
    assert_eq!(stage.open_calls(), 0, "none of it was started");
}

#[tokio::test]
async fn a_batch_is_bounded_and_of_one_revision() {
    let stage = Stage::new();
    let id = stage.session("2025-03-26").await;
    let of = |count: usize| {
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        format!("[{}]", vec![ping; count].join(","))
    };
    assert_eq!(send(&stage, &id, &of(64)).await.status(), 200);
    for bad in [of(65).as_str(), "[]", "[", "[1]{}"] {
        assert_eq!(send(&stage, &id, bad).await.status(), 400, "{bad}");
    }
    assert_eq!((stage.hits("batch"), stage.hits("members")), (1, 0));
    for version in ["2024-11-05", "2025-06-18", "2025-11-25"] {
        let other = stage.session(version).await;
        assert_eq!(send(&stage, &other, &of(1)).await.status(), 400, "{version}");
    }
    assert_eq!(stage.send(post(&of(1), &[])).await.status(), 400);
    assert_eq!(send(&stage, "guess", &of(1)).await.status(), 400);
}
