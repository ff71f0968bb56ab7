//! Every bound of this room, hit, and what is still served when it is.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::*;

const INIT: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;

fn call(id: usize) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#)
}

/// A call that stays open.
async fn open_call(stage: &Stage, session: &str, id: usize) -> JoinHandle<Response<Body>> {
    let before = stage.open_calls();
    let request = post(&call(id), &[("mcp-session-id", session)]);
    let sent = tokio::spawn(stage.front.clone().handle(request));
    until(|| stage.open_calls() != before).await;
    sent
}

/// Status and reason; a client that may come back is told when.
async fn refusal(stage: &Stage, request: Request<Full<Bytes>>) -> (u16, String) {
    let response = stage.send(request).await;
    let status = response.status().as_u16();
    assert_eq!(response.headers().contains_key("retry-after"), matches!(status, 429 | 503));
    let message = json(response).await;
    (status, message["error"]["data"]["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_body_has_a_size() {
    let mut front = Config::default();
    front.limits.body_bytes = 100;
    let stage = Stage::with(Setting { front, ..Setting::default() });
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping"}}{}"#, " ".repeat(100));
    assert_eq!(refusal(&stage, post(&large, &[])).await, (413, "too_large".to_owned()));
    assert_eq!(stage.hits("body"), 1);
}

#[tokio::test]
async fn bodies_in_all_have_a_size() {
    let permits = permit::Config { held_bytes: 100, ..permit::Config::default() };
    let stage = Stage::with(Setting { permits, ..Setting::default() });
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping"}}{}"#, " ".repeat(100));
    assert_eq!(refusal(&stage, post(&large, &[])).await, (503, "busy".to_owned()));
    assert_eq!(stage.hits("held_bytes"), 1);
}

#[tokio::test]
async fn messages_have_a_depth_and_objects_a_number_of_members() {
    let stage = Stage::new();
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":{open}{close}}}}}"#)
    };
    let id = stage.session("2025-11-25").await;
    let header = [("mcp-session-id", id.as_str())];
    assert_eq!(stage.send(post(&nested(126), &header)).await.status(), 200, "128 with the two around it");
    assert_eq!(stage.send(post(&nested(127), &header)).await.status(), 400);
    assert_eq!((stage.hits("depth"), stage.hits("members")), (1, 0));
    let members: String = (0..257).map(|n| format!(r#","x{n}":1"#)).collect();
    let wide = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping"{members}}}"#);
    assert_eq!(stage.send(post(&wide, &header)).await.status(), 400);
    assert_eq!((stage.hits("depth"), stage.hits("members")), (1, 1));
    // The other ways in count as well.
    let deep = format!(r#"{{"method":"a","params":{{"x":{}{}}}}}"#, "[".repeat(127), "]".repeat(127));
    assert_eq!(stage.send(request("POST", "/mcp/call", &deep, &[])).await.status(), 400);
    let older = stage.session("2025-03-26").await;
    let batch = format!("[{}]", nested(127));
    assert_eq!(stage.send(post(&batch, &[("mcp-session-id", &older)])).await.status(), 400);
    assert_eq!((stage.hits("depth"), stage.hits("members")), (3, 1));
}

#[tokio::test]
async fn an_id_longer_than_any_of_ours_is_unknown() {
    let stage = Stage::new();
    let long = "x".repeat(513);
    assert_eq!(stage.send(post(&call(1), &[("mcp-session-id", &long)])).await.status(), 404);
    assert_eq!(stage.count("http_responses_total{status=\"404\"}"), 1);
}

#[tokio::test]
async fn sessions_are_counted_in_all_and_per_principal() {
    let sessions = session::Config { sessions: 3, principal_sessions: 2, ..session::Config::default() };
    let tokens = vec![("secret-token-1", "a"), ("secret-token-2", "b")];
    let stage = Stage::with(Setting { sessions, tokens, ..Setting::default() });
    let (a, b) = (("authorization", "Bearer secret-token-1"), ("authorization", "Bearer secret-token-2"));
    let first = stage.send(post(INIT, &[a])).await;
    let id = first.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    assert_eq!(stage.send(post(INIT, &[a])).await.status(), 200);
    assert_eq!(refusal(&stage, post(INIT, &[a])).await, (429, "busy".to_owned()));
    assert_eq!(stage.send(post(INIT, &[b])).await.status(), 200);
    assert_eq!(refusal(&stage, post(INIT, &[b])).await, (503, "busy".to_owned()));
    assert_eq!(stage.hits("sessions"), 2);
    stage.send(request("DELETE", "/mcp", "", &[a, ("mcp-session-id", &id)])).await;
    assert_eq!(stage.send(post(INIT, &[b])).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_session_are_counted_and_have_different_ids() {
    let sessions = session::Config { session_calls: 2, ..session::Config::default() };
    let stage = Stage::with(Setting { sessions, ..Setting::default() });
    let id = stage.session("2025-11-25").await;
    let header = [("mcp-session-id", id.as_str())];
    let (first, _second) = (open_call(&stage, &id, 1).await, open_call(&stage, &id, 2).await);
    assert_eq!(refusal(&stage, post(&call(2), &header)).await, (400, String::new()), "twice the same id");
    let message = json(stage.send(post(&call(2), &header)).await).await["error"]["message"].clone();
    assert_eq!(message, "a request of this id is still in flight; use another id");
    assert_eq!(refusal(&stage, post(&call(3), &header)).await, (429, "busy".to_owned()));
    assert_eq!(stage.hits("session_calls"), 1);
    let other = stage.session("2025-11-25").await;
    let _other = open_call(&stage, &other, 1).await;
    let (_call, responder) = stage.take_open();
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    first.await.unwrap();
    let _third = open_call(&stage, &id, 3).await;
}

#[tokio::test(start_paused = true)]
async fn calls_in_all_are_counted_and_small_messages_pass_nevertheless() {
    let permits = permit::Config { calls: 1, ..permit::Config::default() };
    let stage = Stage::with(Setting { permits, ..Setting::default() });
    let id = stage.session("2025-11-25").await;
    let header = [("mcp-session-id", id.as_str())];
    let open = open_call(&stage, &id, 1).await;
    assert_eq!(refusal(&stage, post(&call(2), &header)).await, (503, "busy".to_owned()));
    let list = modern("tools/list", "");
    assert_eq!(refusal(&stage, post(&list, &modern_headers("tools/list", ""))).await.0, 503);
    assert_eq!(stage.hits("calls"), 2);
    let ping = r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#;
    assert_eq!(stage.send(post(ping, &header)).await.status(), 200);
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    assert_eq!(stage.send(post(cancel, &header)).await.status(), 202);
    assert_eq!(text(open.await.unwrap()).await, "");
    assert_eq!(stage.send(request("DELETE", "/mcp", "", &header)).await.status(), 204);
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_principal_are_counted() {
    let permits = permit::Config { principal_calls: 1, ..permit::Config::default() };
    let stage = Stage::with(Setting { permits, ..Setting::default() });
    let id = stage.session("2025-11-25").await;
    let _open = open_call(&stage, &id, 1).await;
    let refused = refusal(&stage, post(&call(2), &[("mcp-session-id", &id)])).await;
    assert_eq!(refused, (429, "busy".to_owned()));
    assert_eq!(stage.hits("principal_calls"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_has_an_age() {
    let sessions = session::Config { age: Duration::from_secs(60), ..session::Config::default() };
    let stage = Stage::with(Setting { sessions, ..Setting::default() });
    let id = stage.session("2025-11-25").await;
    let stream = stage.send(request("GET", "/mcp", "", &[("mcp-session-id", &id)])).await;
    let mut stream = stream.into_body();
    let mut events = 0;
    while event(&mut stream).await.is_some() {
        events += 1;
    }
    assert!(events >= 3, "alive until its age");
    assert_eq!(stage.send(post(&call(1), &[("mcp-session-id", &id)])).await.status(), 404);
}
