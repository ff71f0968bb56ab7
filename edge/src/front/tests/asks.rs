//! What servers ask and say: on which stream it reaches the client, who answers, and what becomes of answers
//! that are late, doubled, foreign or missing.

use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use wire::mcp::method;

use super::*;
use crate::call::{Affinity, Answer, Answered, Ask, EventReader};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
const READY: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// The server's side of questions.
#[derive(Default)]
pub(super) struct Server(pub(super) Mutex<Vec<(u64, String)>>);

impl Answered for Server {
    fn answered(&self, token: u64, answer: Answer) {
        let text = match answer {
            Answer::Result(result) => format!("result {}", String::from_utf8(result.to_vec()).unwrap()),
            Answer::Refused(error) => format!("error {}", String::from_utf8(error.to_vec()).unwrap()),
            Answer::Nobody => "nobody".to_owned(),
        };
        self.0.lock().push((token, text));
    }

    fn progressed(&self, token: u64, notice: &Message) {
        let text = format!("at {}", notice.param("progress").unwrap().as_u64().unwrap());
        self.0.lock().push((token, text));
    }
}

impl Server {
    pub(super) fn asks(self: &Arc<Self>, token: u64) -> (Ask, CancellationToken) {
        self.asks_for(token, "roots/list", "")
    }

    pub(super) fn asks_for(
        self: &Arc<Self>,
        token: u64,
        method: &str,
        params: &str,
    ) -> (Ask, CancellationToken) {
        let withdrawn = CancellationToken::new();
        // As SDK servers write it: without `params` where there is nothing to say.
        let params = if params.is_empty() { String::new() } else { format!(r#","params":{{{params}}}"#) };
        let text = format!(r#"{{"jsonrpc":"2.0","id":{token},"method":"{method}"{params}}}"#);
        let request = Message::scan(text.into(), &wire::limits::Limits::default()).unwrap();
        let kind = method::Ask::parse(method);
        (Ask::new(kind, request, withdrawn.clone(), self.clone(), token), withdrawn)
    }

    pub(super) fn heard(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Opens a session of a client that can be asked everything; its id.
pub(super) async fn session(stage: &Stage, headers: &[(&str, &str)]) -> String {
    let init = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25",
        "capabilities":{"roots":{},"sampling":{},"elicitation":{}}}}"#;
    let response = stage.send(post(init, headers)).await;
    let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let mut all = vec![("mcp-session-id", id.as_str())];
    all.extend(headers);
    stage.send(post(READY, &all)).await;
    id
}

/// A call that is open at its server.
pub(super) async fn open_call(
    stage: &Stage,
    id: &str,
) -> (tokio::task::JoinHandle<Response<Body>>, Call, Responder) {
    let sent = tokio::spawn(stage.front.clone().handle(post(CALL, &[("mcp-session-id", id)])));
    until(|| stage.open_calls() > 0).await;
    let (call, responder) = stage.take_open();
    (sent, call, responder)
}

pub(super) fn key(call: &Call) -> SessionHandle {
    let Affinity::Session(key) = &call.affinity else { panic!("a session's call") };
    key.clone()
}

fn notice(text: &str) -> Event {
    let message = Message::scan(text.to_owned().into(), &wire::limits::Limits::default()).unwrap();
    Event::Notice(Notice::parse(message.method()), message)
}

/// The next message of a stream.
pub(super) async fn next(stream: &mut Body) -> Value {
    loop {
        let text = event(stream).await.unwrap();
        if let Some((_, data)) = text.split_once("event: message\ndata: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

pub(super) async fn silent(stream: &mut Body) {
    let waited = tokio::time::timeout(Duration::from_secs(5), event(stream)).await;
    assert!(waited.is_err(), "{waited:?}");
}

pub(super) async fn listen(stage: &Stage, id: &str) -> Body {
    let response = stage.send(request("GET", "/mcp", "", &[("mcp-session-id", id)])).await;
    let mut stream = response.into_body();
    primed(&mut stream).await;
    stream
}

pub(super) async fn answer(stage: &Stage, id: &str, to: &Value, what: &str) {
    let body = format!(r#"{{"jsonrpc":"2.0","id":{to},{what}}}"#);
    assert_eq!(stage.send(post(&body, &[("mcp-session-id", id)])).await.status(), 202);
}

#[tokio::test(start_paused = true)]
async fn an_ask_goes_on_its_calls_stream_and_the_answer_goes_back_once() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let mut listening = listen(&stage, &id).await;
    let (sent, call, responder) = open_call(&stage, &id).await;
    responder.event(Event::Ask(server.asks(7).0));
    let mut stream = sent.await.unwrap().into_body();
    primed(&mut stream).await;
    let asked = next(&mut stream).await;
    assert_eq!(asked["method"], "roots/list");
    assert!(asked["id"].is_string(), "an id of our own: {asked}");
    silent(&mut listening).await;
    answer(&stage, &id, &asked["id"], r#""result":{"roots": []}"#).await;
    answer(&stage, &id, &asked["id"], r#""result":{"roots":[1]}"#).await;
    assert_eq!(server.heard(), [(7, r#"result {"roots": []}"#.to_owned())]);
    responder.event(Event::Ask(server.asks(8).0));
    let asked = next(&mut stream).await;
    answer(&stage, &id, &asked["id"], r#""error":{"code":-1,"message":"no"}"#).await;
    assert_eq!(server.heard(), [(8, r#"error {"code":-1,"message":"no"}"#.to_owned())]);
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(next(&mut stream).await["id"], 1);
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn an_ask_outside_calls_waits_for_the_sessions_stream() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (sent, call, responder) = open_call(&stage, &id).await;
    let key = key(&call);
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    sent.await.unwrap();
    key.unsolicited.event(Event::Ask(server.asks(1).0));
    let (late, withdrawn) = server.asks(2);
    key.unsolicited.event(Event::Ask(late));
    withdrawn.cancel();
    key.unsolicited
        .event(notice(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":1}}"#));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(server.heard().is_empty());
    let mut stream = listen(&stage, &id).await;
    let asked = next(&mut stream).await;
    assert_eq!(
        next(&mut stream).await["method"],
        "notifications/message",
        "in order, and what was withdrawn is not asked"
    );
    answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
    assert_eq!(server.heard(), [(2, "nobody".to_owned()), (1, "result {}".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_withdraws_the_client_need_not_answer() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    let (ask, withdrawn) = server.asks(1);
    responder.event(Event::Ask(ask));
    let mut stream = sent.await.unwrap().into_body();
    let asked = next(&mut stream).await;
    withdrawn.cancel();
    let cancelled = next(&mut stream).await;
    assert_eq!(cancelled["method"], "notifications/cancelled");
    assert_eq!(cancelled["params"]["requestId"], asked["id"]);
    answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
    assert_eq!(server.heard(), [(1, "nobody".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn an_ask_survives_a_broken_connection() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    responder.event(Event::Ask(server.asks(1).0));
    let mut stream = sent.await.unwrap().into_body();
    let last = primed(&mut stream).await;
    drop(stream);
    responder.event(Event::Ask(server.asks(2).0));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(server.heard().is_empty());
    let headers = [("mcp-session-id", id.as_str()), ("last-event-id", last.as_str())];
    let mut stream = stage.send(request("GET", "/mcp", "", &headers)).await.into_body();
    for token in [1, 2] {
        let asked = next(&mut stream).await;
        answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
        assert_eq!(server.heard(), [(token, "result {}".to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_be_asked_is_not() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = stage.session("2025-11-25").await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    responder.event(Event::Ask(server.asks(1).0));
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(sent.await.unwrap().headers()["content-type"], "application/json");
    assert!(server.heard()[0].1.starts_with(r#"error {"code":-32602"#), "it declared nothing");

    let id = session(&stage, &[]).await;
    let headers = [("mcp-session-id", id.as_str()), ("accept", "application/json")];
    let sent = tokio::spawn(stage.front.clone().handle(post(CALL, &headers)));
    until(|| stage.open_calls() > 0).await;
    let (_call, responder) = stage.take_open();
    assert_eq!(responder.reader(), EventReader::Unwanted);
    responder.event(Event::Ask(server.asks(2).0));
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(sent.await.unwrap().status(), 200);
    assert_eq!(server.heard(), [(2, "nobody".to_owned())], "it takes no stream");
}

#[tokio::test(start_paused = true)]
async fn an_ask_outlives_the_call_that_it_was_delivered_with() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    responder.event(Event::Ask(server.asks(1).0));
    let (withdrawn_late, withdrawn) = server.asks(2);
    responder.event(Event::Ask(withdrawn_late));
    let mut stream = sent.await.unwrap().into_body();
    let asked = [next(&mut stream).await, next(&mut stream).await];
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(next(&mut stream).await["id"], 1);
    assert_eq!(event(&mut stream).await, None);
    drop(stream);
    assert_eq!(server.heard(), [], "nobody answers in the user's place");

    let mut listening = listen(&stage, &id).await;
    silent(&mut listening).await;
    withdrawn.cancel();
    let cancelled = next(&mut listening).await;
    assert_eq!(cancelled["method"], "notifications/cancelled");
    assert_eq!(cancelled["params"]["requestId"], asked[1]["id"]);
    answer(&stage, &id, &asked[0]["id"], r#""result":{"by":"user"}"#).await;
    assert_eq!(server.heard(), [(2, "nobody".to_owned()), (1, r#"result {"by":"user"}"#.to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn an_ask_outlives_the_cancelled_call_that_it_was_delivered_with() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    responder.event(Event::Ask(server.asks(1).0));
    let mut stream = sent.await.unwrap().into_body();
    let asked = next(&mut stream).await;
    // The client has not read this one yet.
    responder.event(Event::Ask(server.asks(2).0));
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    stage.send(post(cancel, &[("mcp-session-id", &id)])).await;
    assert_eq!(event(&mut stream).await, None);
    let mut listening = listen(&stage, &id).await;
    let unread = next(&mut listening).await;
    for (token, asked) in [(1, asked), (2, unread)] {
        answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
        assert_eq!(server.heard(), [(token, "result {}".to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn asks_of_a_call_whose_client_left_go_to_the_sessions_stream() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    assert_eq!(responder.reader(), EventReader::Present);
    sent.abort();
    until(|| responder.reader() == EventReader::Gone).await;
    responder.event(Event::Ask(server.asks(1).0));
    let mut listening = listen(&stage, &id).await;
    let asked = next(&mut listening).await;
    answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
    assert_eq!(server.heard(), [(1, "result {}".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn connections_know_which_streams_are_read() {
    let stage = Stage::new();
    let id = session(&stage, &[]).await;
    let (sent, call, responder) = open_call(&stage, &id).await;
    let own_stream = key(&call).unsolicited;
    assert_eq!(own_stream.reader(), EventReader::Absent);
    let listening = listen(&stage, &id).await;
    assert_eq!(own_stream.reader(), EventReader::Present);
    drop(listening);
    assert_eq!(own_stream.reader(), EventReader::Absent);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut stream = sent.await.unwrap().into_body();
    let last = primed(&mut stream).await;
    assert_eq!(responder.reader(), EventReader::Present);
    drop(stream);
    assert_eq!(responder.reader(), EventReader::Absent);
    let headers = [("mcp-session-id", id.as_str()), ("last-event-id", last.as_str())];
    let _resumed = stage.send(request("GET", "/mcp", "", &headers)).await.into_body();
    assert_eq!(responder.reader(), EventReader::Present);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_ends_its_asks() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (sent, call, responder) = open_call(&stage, &id).await;
    responder.event(Event::Ask(server.asks(1).0));
    let mut stream = sent.await.unwrap().into_body();
    next(&mut stream).await;
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(next(&mut stream).await["id"], 1);

    let mut listening = listen(&stage, &id).await;
    key(&call).unsolicited.event(Event::Ask(server.asks(2).0));
    next(&mut listening).await;
    drop(listening);
    key(&call).unsolicited.event(Event::Ask(server.asks(3).0));
    assert!(server.heard().is_empty());
    stage.send(request("DELETE", "/mcp", "", &[("mcp-session-id", &id)])).await;
    let mut heard = server.heard();
    heard.sort();
    assert_eq!(heard, [1, 2, 3].map(|token| (token, "nobody".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn asks_of_a_session_are_counted() {
    let sessions = session::Config { asks_per_session: 1, ..session::Config::default() };
    let stage = Stage::with(Setting { sessions, ..Setting::default() });
    let server = Arc::new(Server::default());
    let id = session(&stage, &[]).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    responder.event(Event::Ask(server.asks(1).0));
    responder.event(Event::Ask(server.asks(2).0));
    let mut stream = sent.await.unwrap().into_body();
    let asked = next(&mut stream).await;
    silent(&mut stream).await;
    assert_eq!(server.heard(), [(2, "nobody".to_owned())]);
    assert_eq!(stage.hits("asks"), 1);
    answer(&stage, &id, &asked["id"], r#""result":{}"#).await;
    let (third, withdrawn) = server.asks(3);
    responder.event(Event::Ask(third));
    next(&mut stream).await;
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    next(&mut stream).await;
    server.heard();
    let (sent, _call, responder) = open_call(&stage, &id).await;
    responder.event(Event::Ask(server.asks(4).0));
    until(|| !server.0.lock().is_empty()).await;
    assert_eq!(server.heard(), [(4, "nobody".to_owned())], "one is open, though its call has ended");
    withdrawn.cancel();
    responder.event(Event::Ask(server.asks(5).0));
    next(&mut sent.await.unwrap().into_body()).await;
    assert_eq!(server.heard(), [(3, "nobody".to_owned())], "what is withdrawn makes room");
}

#[tokio::test(start_paused = true)]
async fn nothing_crosses_from_one_session_to_another() {
    let tokens = vec![("secret-token-1", "a"), ("secret-token-2", "b")];
    let stage = Stage::with(Setting { tokens, ..Setting::default() });
    let server = Arc::new(Server::default());
    let (a, b) = (("authorization", "Bearer secret-token-1"), ("authorization", "Bearer secret-token-2"));
    let (mine, other) = (session(&stage, &[a]).await, session(&stage, &[b]).await);
    let call = post(CALL, &[a, ("mcp-session-id", &mine)]);
    let sent = tokio::spawn(stage.front.clone().handle(call));
    until(|| stage.open_calls() > 0).await;
    let (call, responder) = stage.take_open();
    let mut foreign =
        stage.send(request("GET", "/mcp", "", &[b, ("mcp-session-id", &other)])).await.into_body();
    primed(&mut foreign).await;
    key(&call).unsolicited.event(Event::Ask(server.asks(1).0));
    key(&call).unsolicited.event(notice(r#"{"jsonrpc":"2.0","method":"notifications/resources/updated"}"#));
    responder.event(Event::Ask(server.asks(2).0));
    responder.event(notice(r#"{"jsonrpc":"2.0","method":"notifications/message"}"#));
    let mut stream = sent.await.unwrap().into_body();
    let last = primed(&mut stream).await;
    let asked = next(&mut stream).await;
    assert_eq!(next(&mut stream).await["method"], "notifications/message");
    // The other principal has learned the id of the question and of the event.
    let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"evil":1}}}}"#, asked["id"]);
    for session in [&other, &mine] {
        let status = stage.send(post(&body, &[b, ("mcp-session-id", session)])).await.status();
        assert_eq!(status, if session == &other { 202 } else { 404 });
    }
    let headers = [b, ("mcp-session-id", other.as_str()), ("last-event-id", last.as_str())];
    let mut resumed = stage.send(request("GET", "/mcp", "", &headers)).await.into_body();
    primed(&mut resumed).await;
    silent(&mut resumed).await;
    assert!(server.heard().is_empty());
}

#[tokio::test(start_paused = true)]
async fn progress_of_an_answer_reaches_the_one_server_that_asked() {
    let (stage, one, two) = (Stage::new(), Arc::new(Server::default()), Arc::new(Server::default()));
    let id = session(&stage, &[]).await;
    let (sent, _call, responder) = open_call(&stage, &id).await;
    // As SDK servers write it: each counts for itself.
    let params = r#""messages":[],"maxTokens":1,"_meta":{"progressToken":3,"v/x":1}"#;
    let mut asked = Vec::new();
    for server in [&one, &two] {
        responder.event(Event::Ask(server.asks_for(1, "sampling/createMessage", params).0));
    }
    let mut stream = sent.await.unwrap().into_body();
    for _ in 0..2 {
        asked.push(next(&mut stream).await);
    }
    let tell = async |token: &Value, progress: u64| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{progress}}}}}"#
        );
        assert_eq!(stage.send(post(&body, &[("mcp-session-id", &id)])).await.status(), 202);
    };
    let tokens: Vec<_> =
        asked.iter().map(|asked| asked["params"]["_meta"]["progressToken"].clone()).collect();
    assert_ne!(tokens[0], tokens[1]);
    assert_eq!(asked[0]["params"]["_meta"]["v/x"], 1);
    tell(&tokens[1], 7).await;
    tell(&Value::from(3), 8).await;
    assert_eq!((one.heard(), two.heard()), (vec![], vec![(1, "at 7".to_owned())]));
    answer(&stage, &id, &asked[1]["id"], r#""result":{}"#).await;
    tell(&tokens[1], 9).await;
    tell(&tokens[0], 4).await;
    assert_eq!(two.heard(), [(1, "result {}".to_owned())]);
    assert_eq!(one.heard(), [(1, "at 4".to_owned())]);
}
