//! The legacy era: handshake, session, its stream, its end.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wire::mcp::method;

use super::asks::next;
use super::*;
use crate::call::{Affinity, Answer, Answered, Ask};

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const READY: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// Status and code of an error answer, whose id must be the request's.
async fn refusal(stage: &Stage, body: &str, headers: &[(&str, &str)]) -> (u16, i64) {
    let response = stage.send(post(body, headers)).await;
    let status = response.status().as_u16();
    let message = json(response).await;
    assert_eq!(message["id"], 1, "{message}");
    (status, message["error"]["code"].as_i64().unwrap())
}

#[tokio::test]
async fn the_servers_hear_of_changed_roots() {
    let stage = Stage::new();
    let (one, two) = (stage.session("2025-11-25").await, stage.session("2025-11-25").await);
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
    for id in [&two, &one] {
        let response = stage.send(post(changed, &[("mcp-session-id", id.as_str())])).await;
        assert_eq!(response.status(), 202);
    }
    let roots = stage.script.roots.lock();
    assert!(roots.len() == 2 && roots[0] > roots[1], "each from its own session");
}

#[tokio::test]
async fn what_a_client_says_of_itself_is_bounded() {
    let stage = Stage::new();
    let open = |more: String| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2025-11-25",{more}}}}}"#
        );
        stage.send(post(&body, &[]))
    };
    for (size, status) in [(16 << 10, 200), ((16 << 10) + 1, 400)] {
        let value = format!(r#"{{"x":"{}"}}"#, "x".repeat(size - 8));
        assert_eq!(open(format!(r#""capabilities":{value}"#)).await.status(), status, "{size}");
    }
    let info =
        |size: usize, words: &str| format!(r#"{{{words}"x":"{}"}}"#, "x".repeat(size - 8 - words.len()));
    let words = format!(r#""name":"n\u00fc","version":"{}","title":7,"#, "1".repeat(300));
    let (fits, over) = (64 << 10, (64 << 10) + 1);
    let kept = format!(r#"{{"name":"nü","version":"{}"}}"#, "1".repeat(256));
    for (said, kept) in [
        (info(fits, &words), Some(info(fits, &words))),
        (info(over, &words), Some(kept)),
        (
            info(over, r#""version":"1","name":"n","title":"t","#),
            Some(r#"{"name":"n","title":"t","version":"1"}"#.to_owned()),
        ),
        (info(over, r#""name":"n","#), None),
    ] {
        let response = open(format!(r#""clientInfo":{said}"#)).await;
        assert_eq!(response.status(), 200);
        let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        let sent = tokio::spawn(stage.front.clone().handle(post(LIST, &[("mcp-session-id", id.as_str())])));
        until(|| stage.open_calls() > 0).await;
        let client = stage.take_open().0.client.clone();
        assert_eq!(client.info.as_deref(), kept.as_deref().map(str::as_bytes));
        sent.await.unwrap();
    }
}

/// What has no room beside calls, and is lost.
fn too_much() -> Event {
    let big = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"{}"}}}}"#,
        "x".repeat(crate::call::EVENT_BYTES)
    );
    Event::Notice(Notice::Message, Message::scan(big.into(), &wire::limits::Limits::default()).unwrap())
}

/// The session of `id` as its servers know it.
async fn key(stage: &Stage, id: &str) -> SessionHandle {
    let headers = [("mcp-session-id", id)];
    stage.send(post(READY, &headers)).await;
    let sent = tokio::spawn(stage.front.clone().handle(post(LIST, &headers)));
    until(|| stage.open_calls() > 0).await;
    let Affinity::Session(key) = stage.take_open().0.affinity else { panic!("it is of a session") };
    sent.await.unwrap();
    key
}

#[tokio::test]
async fn what_is_lost_beside_calls_is_told_as_changed() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let key = key(&stage, &id).await;
    let mut stream = listen(&stage, &id).await;
    assert!(!key.unsolicited.event(too_much()));
    for list in ["tools", "prompts", "resources"] {
        assert_eq!(next(&mut stream).await["method"], format!("notifications/{list}/list_changed"));
    }
}

/// A server that says too much as soon as it hears that its question was refused: while the stream is being read, and
/// nobody is there to be woken.
struct Rash(SessionHandle);

impl Answered for Rash {
    fn answered(&self, _: u64, _: Answer) {
        let Self(key) = self;
        assert!(!key.unsolicited.event(too_much()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_while_the_stream_is_read_is_told_too() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let key = key(&stage, &id).await;
    let mut stream = listen(&stage, &id).await;
    let reading = tokio::spawn(async move { next(&mut stream).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
    let request = Message::scan(text.into(), &wire::limits::Limits::default()).unwrap();
    let server = Arc::new(Rash(key.clone()));
    key.unsolicited.event(Event::Ask(Ask::new(
        method::Ask::Roots,
        request,
        CancellationToken::new(),
        server,
        1,
    )));
    // Sooner than the stream is looked at again to say that it is alive.
    let told = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("told in time").unwrap();
    assert_eq!(told["method"], "notifications/tools/list_changed");
}

async fn listen(stage: &Stage, id: &str) -> Body {
    let response = stage.send(request("GET", "/mcp", "", &[("mcp-session-id", id)])).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut stream = response.into_body();
    primed(&mut stream).await;
    stream
}

fn changed(stage: &Stage, tools: u64, prompts: u64, resources: u64) {
    stage.script.changes.send_replace(ListChanges { tools, prompts, resources });
}

#[tokio::test]
async fn versions_are_negotiated() {
    let stage = Stage::new();
    for (asked, answered) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1.0", "2025-11-25"),
    ] {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"i","method":"initialize","params":{{"protocolVersion":"{asked}","capabilities":{{}}}}}}"#
        );
        let response = stage.send(request("POST", "/servers/time/mcp", &body, &[])).await;
        let id = response.headers()["mcp-session-id"].as_bytes().to_vec();
        assert!(id.len() >= 32 && id.iter().all(|byte| matches!(byte, 0x21..=0x7e)));
        let message = json(response).await;
        assert_eq!(message["id"], "i");
        assert_eq!(message["result"]["protocolVersion"], answered, "{asked}");
        assert_eq!(message["result"]["capabilities"]["tools"]["listChanged"], true);
        assert_eq!(message["result"]["serverInfo"]["name"], "mcp-edge");
        assert_eq!(message["result"]["instructions"], "use time well");
    }
    assert_eq!(stage.sessions.open(), 6);
    let no_version = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
    assert_eq!(refusal(&stage, no_version, &[]).await, (400, -32602));
    let odd = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":1}}"#;
    assert_eq!(refusal(&stage, odd, &[]).await, (400, -32602));
}

#[tokio::test]
async fn a_session_is_needed_known_and_of_a_spoken_version() {
    let stage = Stage::new();
    let id = stage.session("2025-06-18").await;
    let session = ("mcp-session-id", id.as_str());
    assert_eq!(refusal(&stage, LIST, &[]).await, (400, -32600));
    assert_eq!(refusal(&stage, LIST, &[("mcp-session-id", "guess")]).await, (404, -32600));
    assert_eq!(refusal(&stage, LIST, &[session, session]).await, (400, -32600));
    let version = |version| [session, ("mcp-protocol-version", version)];
    assert_eq!(refusal(&stage, LIST, &version("2025-13-99")).await, (400, -32600));
    assert_eq!(refusal(&stage, LIST, &version("nonsense")).await, (400, -32600));
    for good in ["2025-06-18", "2025-03-26", "2025-11-25"] {
        stage.answer_next("{}");
        assert_eq!(stage.send(post(LIST, &version(good))).await.status(), 200, "{good}");
    }
    let delete = request("DELETE", "/mcp", "", &[]);
    assert_eq!(stage.send(delete).await.status(), 400);
}

#[tokio::test]
async fn what_is_no_call_is_answered_here() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let session = [("mcp-session-id", id.as_str())];
    let ping = stage.send(post(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#, &session)).await;
    assert_eq!(text(ping).await, r#"{"jsonrpc":"2.0","id":"p","result":{}}"#);
    for method in ["no/such", "server/discover", "tasks/update", "subscriptions/listen"] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
        assert_eq!(refusal(&stage, &body, &session).await, (200, -32601), "{method}");
    }
    for taken in [
        READY,
        r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":3,"result":{}}"#,
    ] {
        let response = stage.send(post(taken, &session)).await;
        assert_eq!((response.status().as_u16(), text(response).await.as_str()), (202, ""), "{taken}");
    }
    assert!(stage.script.seen.lock().is_empty());
}

#[tokio::test]
async fn what_holds_for_a_session_goes_to_the_servers() {
    let stage = Stage::new();
    for (version, tasks) in [("2025-06-18", false), ("2025-11-25", true)] {
        let id = stage.session(version).await;
        let session = [("mcp-session-id", id.as_str())];
        for method in ["logging/setLevel", "resources/subscribe", "resources/unsubscribe"] {
            stage.answer_next(r#"{"resultType":"complete"}"#);
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{}}}}"#);
            let response = stage.send(post(&body, &session)).await;
            assert_eq!(text(response).await, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "{method}");
        }
        for method in ["tasks/list", "tasks/get", "tasks/result", "tasks/cancel"] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{}}}}"#);
            if tasks {
                stage.answer_next(r#"{"tasks":[]}"#);
                let message = json(stage.send(post(&body, &session)).await).await;
                assert!(message["result"]["tasks"].is_array(), "{method}");
            } else {
                assert_eq!(refusal(&stage, &body, &session).await, (200, -32601), "{method}");
            }
        }
        let init = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{version}"}}}}"#
        );
        let message = json(stage.send(post(&init, &[])).await).await;
        let can = &message["result"]["capabilities"];
        assert_eq!(can["resources"]["subscribe"], true);
        assert!(can["logging"].is_object());
        assert_eq!(can["tasks"]["requests"]["tools"]["call"].is_object(), tasks);
    }
}

#[tokio::test]
async fn a_session_serves_its_principal_at_its_path() {
    let tokens = vec![("secret-token-1", "a"), ("secret-token-2", "b")];
    let stage = Stage::with(Setting { tokens, ..Setting::default() });
    let (a, b) = (("authorization", "Bearer secret-token-1"), ("authorization", "Bearer secret-token-2"));
    let init = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    let response = stage.send(post(init, &[a])).await;
    let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let session = ("mcp-session-id", id.as_str());
    assert_eq!(refusal(&stage, LIST, &[b, session]).await, (404, -32600));
    for method in ["GET", "DELETE"] {
        let foreign = stage.send(request(method, "/mcp", "", &[b, session])).await;
        assert_eq!(foreign.status(), 404, "{method}");
    }
    let elsewhere = stage.send(request("POST", "/servers/time/mcp", LIST, &[a, session])).await;
    assert_eq!(elsewhere.status(), 404);
    stage.answer_next("{}");
    assert_eq!(stage.send(post(LIST, &[a, session])).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_stream_tells_of_changed_lists_once() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let mut stream = listen(&stage, &id).await;
    changed(&stage, 1, 0, 0);
    assert_eq!(event(&mut stream).await.unwrap(), ": keep-alive\n\n", "the client is not ready yet");
    stage.send(post(READY, &[("mcp-session-id", &id)])).await;
    changed(&stage, 2, 0, 5);
    assert!(event(&mut stream).await.unwrap().contains("notifications/tools/list_changed"));
    assert!(event(&mut stream).await.unwrap().contains("notifications/resources/list_changed"));
    assert_eq!(event(&mut stream).await.unwrap(), ": keep-alive\n\n");
    drop(stream);
    changed(&stage, 2, 1, 5);
    let mut stream = listen(&stage, &id).await;
    assert!(
        event(&mut stream).await.unwrap().contains("notifications/prompts/list_changed"),
        "missed meanwhile"
    );
    assert_eq!(event(&mut stream).await.unwrap(), ": keep-alive\n\n");
}

#[tokio::test(start_paused = true)]
async fn a_session_has_one_stream_and_the_newest_wins() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let mut old = listen(&stage, &id).await;
    let mut new = listen(&stage, &id).await;
    assert_eq!(event(&mut old).await, None);
    drop(old);
    assert_eq!(event(&mut new).await.unwrap(), ": keep-alive\n\n");
    assert_eq!(stage.metrics.streams(), 1);
}

#[tokio::test(start_paused = true)]
async fn delete_ends_the_session_its_stream_and_its_calls() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let session = [("mcp-session-id", id.as_str())];
    let mut stream = listen(&stage, &id).await;
    let call = tokio::spawn(stage.front.clone().handle(post(LIST, &session)));
    until(|| stage.open_calls() > 0).await;
    let deleted = stage.send(request("DELETE", "/mcp", "", &session)).await;
    assert_eq!(deleted.status(), 204);
    assert_eq!(event(&mut stream).await, None);
    let message = json(call.await.unwrap()).await;
    assert_eq!(message["error"]["data"]["reason"], "cancelled");
    let (call, responder) = stage.take_open();
    assert!(responder.is_cancelled());
    let Affinity::Session(key) = call.affinity else { panic!("a session's call") };
    assert!(key.ended.is_cancelled(), "its connections close");
    assert_eq!(refusal(&stage, LIST, &session).await, (404, -32600));
    assert_eq!(stage.send(request("DELETE", "/mcp", "", &session)).await.status(), 404);
    assert_eq!(stage.sessions.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_and_one_with_a_stream_does_not() {
    let stage = Stage::new();
    let (idle, kept) = (stage.session("2025-11-25").await, stage.session("2025-11-25").await);
    let stream = listen(&stage, &kept).await;
    tokio::time::sleep(Duration::from_secs(31 * 60)).await;
    assert_eq!(refusal(&stage, LIST, &[("mcp-session-id", &idle)]).await, (404, -32600));
    assert_eq!(stage.sessions.open(), 1);
    drop(stream);
    stage.answer_next("{}");
    assert_eq!(stage.send(post(LIST, &[("mcp-session-id", &kept)])).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_streams_and_waits_for_calls() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let mut stream = listen(&stage, &id).await;
    let call = tokio::spawn(stage.front.clone().handle(post(LIST, &[("mcp-session-id", &id)])));
    until(|| stage.open_calls() > 0).await;
    let (_call, responder) = stage.take_open();
    let (sessions, drain) = (stage.sessions.clone(), stage.drain);
    let drained = tokio::spawn(drain.run(Duration::from_secs(5), Duration::from_secs(20)));
    assert_eq!(event(&mut stream).await, None);
    assert_eq!(sessions.open(), 1, "its call is not finished");
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(call.await.unwrap().status(), 200);
    drained.await.unwrap();
    assert_eq!(sessions.open(), 0);
}

/// Seen: they were told that their session had ended.
#[tokio::test(start_paused = true)]
async fn calls_that_outlast_the_drain_fail_as_draining() {
    let stage = Stage::new();
    let id = stage.session("2025-06-18").await;
    let call = tokio::spawn(stage.front.clone().handle(post(LIST, &[("mcp-session-id", &id)])));
    until(|| stage.open_calls() > 0).await;
    let _unfinished = stage.take_open();
    stage.drain.run(Duration::ZERO, Duration::from_secs(1)).await;
    let response = call.await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(json(response).await["error"]["data"]["reason"], "draining");
}
