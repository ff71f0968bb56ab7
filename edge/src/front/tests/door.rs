//! What is decided before a message is looked at: paths, methods, names, pages, credentials, media types.

use super::*;
use crate::front::Rules;

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// Every refusal is JSON-RPC; its status and code.
async fn refusal(stage: &Stage, request: Request<Full<Bytes>>) -> (u16, i64) {
    let response = stage.send(request).await;
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = json(response).await;
    assert_eq!(body["jsonrpc"], "2.0");
    (status, body["error"]["code"].as_i64().unwrap())
}

#[tokio::test]
async fn paths_lead_somewhere_or_nowhere() {
    let stage = Stage::new();
    let init = |path: &str| {
        let body =
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
        request("POST", path, body, &[])
    };
    for path in ["/mcp", "/mcp/", "/stream", "/servers/time/mcp"] {
        assert_eq!(stage.send(init(path)).await.status(), 200, "{path}");
    }
    for path in ["/", "/mcpx", "/servers/other/mcp", "/servers//mcp", "/servers/time", "/mcp/calls", "/call"]
    {
        assert_eq!(refusal(&stage, init(path)).await, (404, -32600), "{path}");
    }
    let narrow =
        Setting { front: Config { streaming: false, sse: false, ..Config::default() }, ..Setting::default() };
    let stage = Stage::with(narrow);
    assert_eq!(refusal(&stage, init("/mcp")).await.0, 404);
    assert_eq!(stage.send(request("GET", "/health", "", &[])).await.status(), 200);
}

#[tokio::test]
async fn methods_are_few() {
    let stage = Stage::with(Setting { tokens: vec![("secret-token-1", "a")], ..Setting::default() });
    let response = stage.send(request("GET", "/mcp", "", &[])).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["allow"]),
        (405, &"GET, POST, DELETE".parse().unwrap())
    );
    assert!(text(response).await.contains("GET requires an active session"), "before authentication");
    for method in ["PUT", "PATCH", "HEAD", "TRACE"] {
        assert_eq!(refusal(&stage, request(method, "/mcp", "", &[])).await.0, 405, "{method}");
    }
    let modern = [("mcp-protocol-version", "2026-07-28")];
    assert_eq!(refusal(&stage, request("DELETE", "/mcp", "", &modern)).await.0, 405);
    assert_eq!(refusal(&stage, request("GET", "/mcp", "", &modern)).await.0, 405);
}

#[tokio::test]
async fn credentials_come_before_everything_in_the_body() {
    let stage = Stage::with(Setting { tokens: vec![("secret-token-1", "a")], ..Setting::default() });
    for (method, headers) in [
        ("POST", vec![]),
        ("POST", vec![("authorization", "Bearer wrong")]),
        ("POST", vec![("content-type", "text/plain")]),
        ("GET", vec![("mcp-session-id", "x")]),
        ("DELETE", vec![("mcp-session-id", "x")]),
    ] {
        let response = stage.send(request(method, "/mcp", "not json", &headers)).await;
        assert_eq!(response.status(), 401, "{method} {headers:?}");
        assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        assert!(json(response).await["error"]["message"].is_string());
    }
    assert_eq!(
        refusal(&stage, request("POST", "/servers/other/mcp", PING, &[])).await.0,
        401,
        "names stay hidden"
    );
    let good = [("authorization", "Bearer secret-token-1")];
    assert_eq!(refusal(&stage, post("not json", &good)).await, (400, -32700));
}

#[tokio::test]
async fn foreign_pages_are_turned_away_and_listed_ones_may_read() {
    let rules = Rules { origins: vec!["https://app.example.com".parse().unwrap()], ..Rules::default() };
    let stage = Stage::with(Setting { front: Config { rules, ..Config::default() }, ..Setting::default() });
    let foreign = [("origin", "https://evil.example")];
    assert_eq!(refusal(&stage, post(PING, &foreign)).await, (403, -32600));
    let listed = [("origin", "https://app.example.com"), ("access-control-request-method", "POST")];
    let preflight = stage.send(request("OPTIONS", "/mcp", "", &listed)).await;
    assert_eq!(preflight.status(), 204);
    assert_eq!(preflight.headers()["access-control-allow-origin"], "https://app.example.com");
    let refused = stage.send(post("not json", &listed)).await;
    assert_eq!(refused.status(), 400);
    assert_eq!(refused.headers()["access-control-allow-origin"], "https://app.example.com", "errors too");
    assert_eq!(refusal(&stage, request("OPTIONS", "/mcp", "", &[])).await.0, 405);
}

#[tokio::test]
async fn media_types_are_checked() {
    let stage = Stage::new();
    assert_eq!(refusal(&stage, post(PING, &[("content-type", "text/plain")])).await.0, 415);
    assert_eq!(refusal(&stage, post(PING, &[("accept", "text/html")])).await.0, 406);
    let id = stage.session("2025-11-25").await;
    let stream = [("mcp-session-id", id.as_str()), ("accept", "application/json")];
    assert_eq!(refusal(&stage, request("GET", "/mcp", "", &stream)).await.0, 406);
}

#[tokio::test]
async fn unreadable_bodies_are_refused_with_the_id_when_there_is_one() {
    let stage = Stage::new();
    for (body, code, id) in [
        ("", -32700, Value::Null),
        ("{", -32700, Value::Null),
        ("\u{feff}{}", -32700, Value::Null),
        ("[]", -32600, Value::Null),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600, Value::Null),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600, Value::Null),
        (r#"{"jsonrpc":"2.0","id":"q","method":"ping","params":[]}"#, -32600, "q".into()),
    ] {
        let response = stage.send(post(body, &[])).await;
        assert_eq!(response.status(), 400, "{body}");
        let message = json(response).await;
        assert_eq!(message["error"]["code"], code, "{body}");
        assert_eq!(message["id"], id, "{body}");
    }
}

#[tokio::test]
async fn an_indented_message_becomes_one_line() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    stage.answer_next("{}");
    let body = "{\r\n \"jsonrpc\":\"2.0\",\n\"id\":1,\n\"method\":\"tools/list\"}\n";
    assert_eq!(stage.send(post(body, &[("mcp-session-id", &id)])).await.status(), 200);
    assert!(!stage.script.seen.lock()[0].contains(['\r', '\n']));
}

/// Seen as another string than the client's: its line breaks had become spaces before anybody looked.
#[tokio::test]
async fn a_line_break_inside_a_string_is_refused_and_changes_nothing() {
    let stage = Stage::new();
    let id = stage.session("2025-03-26").await;
    let session = [("mcp-session-id", id.as_str())];
    for line_break in ["\n", "\r", "\r\n"] {
        let text = format!(r#"{{"text":"a{line_break}b"}}"#);
        let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{text}}}"#);
        let plain = format!(r#"{{"method":"echo","params":{text}}}"#);
        for request in [
            post(&call, &session),
            post(&format!("[{call}]"), &session),
            request("POST", "/mcp/call", &plain, &[]),
        ] {
            assert_eq!(refusal(&stage, request).await, (400, -32700), "{line_break:?}");
        }
    }
    assert!(stage.script.seen.lock().is_empty());
}

#[tokio::test]
async fn health_and_readiness_are_told_in_a_word() {
    let stage = Stage::new();
    stage.script.settled.send_replace(false);
    let ask = |path| stage.send(request("GET", path, "", &[("host", "whoever")]));
    let health = ask("/health").await;
    assert_eq!((health.status().as_u16(), text(health).await.as_str()), (200, "ok"));
    let early = ask("/ready").await;
    assert_eq!((early.status().as_u16(), text(early).await.as_str()), (503, "starting"));
    stage.script.settled.send_replace(true);
    let ready = ask("/ready").await;
    assert_eq!((ready.status().as_u16(), text(ready).await.as_str()), (200, "ready"));
    assert_eq!(refusal(&stage, request("POST", "/ready", "", &[])).await.0, 405);
}

#[tokio::test(start_paused = true)]
async fn a_leaving_process_is_not_ready() {
    let stage = Stage::new();
    let front = stage.front.clone();
    stage.drain.run(Duration::ZERO, Duration::ZERO).await;
    let response = front.clone().handle(request("GET", "/ready", "", &[])).await;
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (503, "draining"));
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    let refused = front.handle(post(body, &[])).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(json(refused).await["error"]["data"]["reason"], "draining");
}
