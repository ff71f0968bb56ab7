//! Questions that stay open: what they hold, and what makes room for others.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wire::mcp::method;

use super::asks::{Server, answer, key, listen, next, open_call, session, silent};
use super::*;
use crate::call::{Answer, Answered, Ask, EVENT_BYTES, EventReader};

fn done() -> Outcome {
    Outcome::Result(Slices::from(Bytes::from_static(b"{}")))
}

/// A question whose text counts with `held`, and what withdraws it.
fn counted(server: &Arc<Server>, held: &Arc<()>) -> (Ask, CancellationToken) {
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#.to_owned();
    let request = Message::scan(watched(text, held), &wire::limits::Limits::default()).unwrap();
    let withdrawn = CancellationToken::new();
    (Ask::new(method::Ask::Roots, request, withdrawn.clone(), server.clone(), 1), withdrawn)
}

#[tokio::test(start_paused = true)]
async fn an_open_question_keeps_nothing_of_its_text() {
    let (stage, server, held) = (Stage::new(), Arc::new(Server::default()), Arc::new(()));
    let id = session(&stage, &[]).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    responder.event(Event::Ask(counted(&server, &held).0));
    let mut stream = sent.await.unwrap().into_body();
    let asked = next(&mut stream).await;
    responder.finish(done());
    assert_eq!(next(&mut stream).await["id"], 1);
    drop(stream);
    assert_eq!(Arc::strong_count(&held), 1);
    answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
    assert_eq!(server.heard(), [(1, "result {}".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_question_that_no_stream_can_report_is_dropped() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    let (ask, withdrawn) = server.asks(1);
    responder.event(Event::Ask(ask));
    let mut stream = sent.await.unwrap().into_body();
    next(&mut stream).await;
    responder.finish(done());
    next(&mut stream).await;
    drop(stream);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(server.heard(), [], "the client may still answer");
    withdrawn.cancel();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(server.heard(), [(1, "nobody".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_question_is_reported_whatever_is_asked_next() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let mut listening = listen(&stage, &id).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    let (ask, withdrawn) = server.asks(1);
    responder.event(Event::Ask(ask));
    let mut stream = sent.await.unwrap().into_body();
    let asked = next(&mut stream).await;
    responder.finish(done());
    next(&mut stream).await;
    drop(stream);
    // The session's own stream has not been polled since, and has not taken it over yet.
    withdrawn.cancel();
    let (sent, _call, responder) = open_call(&stage, &id).await;
    responder.event(Event::Ask(server.asks(2).0));
    sent.await.unwrap();
    let cancelled = next(&mut listening).await;
    assert_eq!(cancelled["params"]["requestId"], asked["id"], "{cancelled}");
    assert_eq!(server.heard(), [(1, "nobody".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn withdrawn_questions_of_a_stream_that_nobody_reads_make_room() {
    let sessions = session::Config { asks_per_session: 2, ..session::Config::default() };
    let stage = Stage::with(Setting { sessions, ..Setting::default() });
    let server = Arc::new(Server::default());
    let id = session(&stage, &[]).await;
    let (sent, call, responder) = open_call(&stage, &id).await;
    let mut listening = listen(&stage, &id).await;
    let mut withdrawn = Vec::new();
    for token in [1, 2] {
        let (ask, token) = server.asks(token);
        key(&call).unsolicited.event(Event::Ask(ask));
        next(&mut listening).await;
        withdrawn.push(token);
    }
    drop(listening);
    withdrawn.iter().for_each(CancellationToken::cancel);
    let mut asked = Vec::new();
    responder.event(Event::Ask(server.asks(3).0));
    let mut stream = sent.await.unwrap().into_body();
    asked.push(next(&mut stream).await);
    responder.event(Event::Ask(server.asks(4).0));
    asked.push(next(&mut stream).await);
    assert_eq!((server.heard().len(), stage.hits("asks")), (2, 0));
    responder.event(Event::Ask(server.asks(5).0));
    silent(&mut stream).await;
    assert_eq!(stage.hits("asks"), 1);
    assert_eq!(server.heard(), [(5, "nobody".to_owned())], "those that are not withdrawn stay");
    for (token, asked) in [3, 4].into_iter().zip(asked) {
        answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
        assert_eq!(server.heard(), [(token, "result {}".to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn questions_that_the_sessions_stream_has_no_room_for_are_counted() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    sent.abort();
    until(|| responder.reader() == EventReader::Gone).await;
    let message = format!(r#""message":"{}""#, "m".repeat(EVENT_BYTES / 2));
    for token in [1, 2] {
        responder.event(Event::Ask(server.asks_for(token, "elicitation/create", &message).0));
        tokio::time::sleep(Duration::from_millis(1)).await; // until nobody has anything left to do
    }
    assert_eq!(server.heard(), [(2, "nobody".to_owned())]);
    assert_eq!(stage.hits("event_bytes"), 1);
}

#[tokio::test(start_paused = true)]
async fn questions_of_a_batch_whose_client_left_go_to_the_sessions_stream() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let init = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{"roots":{}}}}"#;
    let response = stage.send(post(init, &[])).await;
    let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let call =
        |id: u64| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"a"}}}}"#);
    let body = format!("[{},{}]", call(1), call(2));
    let stream = stage.send(post(&body, &[("mcp-session-id", &id)])).await.into_body();
    until(|| stage.open_calls() >= 2).await;
    let (first, second) = (stage.take_open(), stage.take_open());
    drop(stream);
    until(|| first.1.reader() == EventReader::Gone && second.1.reader() == EventReader::Gone).await;
    assert!(!first.1.is_cancelled() && !second.1.is_cancelled(), "leaving cancels nothing");
    second.1.event(Event::Ask(server.asks(1).0));
    let response = stage.send(request("GET", "/mcp", "", &[("mcp-session-id", &id)])).await;
    let asked = next(&mut response.into_body()).await;
    answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
    assert_eq!(server.heard(), [(1, "result {}".to_owned())]);
    first.1.finish(done());
    second.1.finish(done());
    until(|| stage.metrics.in_flight() == 0).await;
}

/// A connection with another call that may have asked what it asks.
struct Connection {
    server: Arc<Server>,
    other: Option<Arc<Responder>>,
}

impl Answered for Connection {
    fn answered(&self, token: u64, answer: Answer) {
        self.server.answered(token, answer);
    }

    fn pass_on(&self, ask: Ask) -> Option<Ask> {
        let Some(other) = &self.other else { return Some(ask) };
        assert!(other.event(Event::Ask(ask)));
        None
    }
}

impl Connection {
    fn asks(self: &Arc<Self>, token: u64, padding: usize) -> (Event, CancellationToken) {
        let padding = "x".repeat(padding);
        let text =
            format!(r#"{{"jsonrpc":"2.0","id":{token},"method":"roots/list","params":{{"x":"{padding}"}}}}"#);
        let request = Message::scan(text.into(), &wire::limits::Limits::default()).unwrap();
        let withdrawn = CancellationToken::new();
        (Event::Ask(Ask::new(method::Ask::Roots, request, withdrawn.clone(), self.clone(), token)), withdrawn)
    }
}

/// A call whose client has lost its stream: the id of the stream's first event, and its server's side.
async fn broken_call(stage: &Stage, id: &str, number: u64) -> (String, Responder) {
    let call = format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"a"}}}}"#);
    let mut stream = stage.send(post(&call, &[("mcp-session-id", id)])).await.into_body();
    let (_, responder) = stage.take_open();
    let last = primed(&mut stream).await;
    drop(stream);
    assert_eq!(responder.reader(), EventReader::Absent);
    (last, responder)
}

async fn cancel(stage: &Stage, id: &str, number: u64) {
    let cancel = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number}}}}}"#
    );
    assert_eq!(stage.send(post(&cancel, &[("mcp-session-id", id)])).await.status(), 202);
}

async fn resume(stage: &Stage, id: &str, last: &str) -> Body {
    let headers = [("mcp-session-id", id), ("last-event-id", last)];
    stage.send(request("GET", "/mcp", "", &headers)).await.into_body()
}

#[tokio::test(start_paused = true)]
async fn a_question_that_waits_for_a_client_goes_to_the_call_that_it_resumes() {
    for is_cancelled in [true, false] {
        let (stage, server) = (Stage::new(), Arc::new(Server::default()));
        let id = session(&stage, &[]).await;
        let (_, first) = broken_call(&stage, &id, 1).await;
        let (last, second) = broken_call(&stage, &id, 2).await;
        let other = Some(Arc::new(second));
        let connection = Arc::new(Connection { server: server.clone(), other });
        first.event(connection.asks(1, 0).0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if is_cancelled {
            cancel(&stage, &id, 1).await;
        } else {
            first.finish(done());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut listening = listen(&stage, &id).await;
        let mut stream = resume(&stage, &id, &last).await;
        let asked = next(&mut stream).await;
        silent(&mut stream).await;
        silent(&mut listening).await;
        assert_eq!(server.heard(), [], "nobody has answered yet");
        answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
        assert_eq!(server.heard(), [(1, "result {}".to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_that_waits_is_not_lost_where_no_other_call_may_have_asked_it() {
    for is_cancelled in [true, false] {
        let (stage, server) = (Stage::new(), Arc::new(Server::default()));
        let id = session(&stage, &[]).await;
        let (last, first) = broken_call(&stage, &id, 1).await;
        let connection = Arc::new(Connection { server: server.clone(), other: None });
        let (late, withdrawn) = connection.asks(2, 0);
        first.event(late);
        first.event(connection.asks(1, 0).0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        withdrawn.cancel();
        let mut stream = if is_cancelled {
            cancel(&stage, &id, 1).await;
            listen(&stage, &id).await
        } else {
            first.finish(done());
            resume(&stage, &id, &last).await
        };
        let asked = next(&mut stream).await;
        assert_eq!(asked["method"], "roots/list");
        if !is_cancelled {
            assert_eq!(next(&mut stream).await["id"], 1, "what was withdrawn is not asked");
        }
        answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
        assert_eq!(server.heard(), [(2, "nobody".to_owned()), (1, "result {}".to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn questions_that_wait_for_a_client_are_bounded() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (last, first) = broken_call(&stage, &id, 1).await;
    let connection = Arc::new(Connection { server: server.clone(), other: None });
    for token in 1..=200 {
        let (ask, withdrawn) = connection.asks(token, EVENT_BYTES / 2);
        first.event(ask);
        tokio::time::sleep(Duration::from_secs(1)).await;
        withdrawn.cancel();
    }
    // The latest stays until another comes, or the client.
    assert_eq!(server.heard().len(), 199, "what is withdrawn does not wait");
    for token in 201..=202 {
        first.event(connection.asks(token, EVENT_BYTES * 2 / 3).0);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(server.heard().len(), 1, "the stream keeps the second");
    let mut stream = resume(&stage, &id, &last).await;
    for token in [202, 201] {
        let asked = next(&mut stream).await;
        answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
        assert_eq!(server.heard(), [(token, "result {}".to_owned())]);
    }
}
