//! Modern clients and what legacy servers ask in their calls: parked, taken up once, by the same request alone.

use std::time::Duration;

use serde_json::json as value;
use tokio::time::timeout;
use wire::mcp::level::Level;

use super::asks::Server;
use super::*;
use crate::call::Cancel;
use crate::error::{Blame, Error, Kind};
use crate::front::ParkConfig;

const ALL: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;
const FORM: &str = r#""mode":"form","message":"name?","requestedSchema":{"type":"object","properties":{}},"_meta":{"progressToken":1}"#;

/// A call of a tool by a client that can be asked `capabilities`; `extra` goes into its params.
fn call_of(id: u64, capabilities: &str, extra: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"a":[1,2]}},{extra}"_meta":{{
        "progressToken":"t{id}","io.modelcontextprotocol/protocolVersion":"2026-07-28",
        "io.modelcontextprotocol/clientCapabilities":{capabilities}}}}}}}"#
    )
}

fn call(id: u64, extra: &str) -> String {
    call_of(id, ALL, extra)
}

fn retry(id: u64, state: &str, responses: &Value) -> String {
    call(id, &format!(r#""inputResponses":{responses},"requestState":"{state}","#))
}

fn sent(stage: &Stage, body: &str, token: Option<&str>) -> tokio::task::JoinHandle<(u16, Value)> {
    let mut headers = modern_headers("tools/call", "echo");
    let bearer = token.map(|token| format!("Bearer {token}"));
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    let response = stage.front.clone().handle(post(body, &headers));
    let answer = async move {
        let response = response.await;
        (response.status().as_u16(), json(response).await)
    };
    tokio::spawn(async move { timeout(GUARD, answer).await.expect("an answer") })
}

async fn opened(stage: &Stage) -> (Call, Responder) {
    until(|| stage.open_calls() > 0).await;
    stage.take_open()
}

fn ask(responder: &Responder, server: &Arc<Server>, token: u64, method: &str, params: &str) {
    assert!(responder.event(Event::Ask(server.asks_for(token, method, params).0)));
}

fn state_of(message: &Value) -> String {
    assert_eq!(message["result"]["resultType"], "input_required", "{message}");
    message["result"]["requestState"].as_str().unwrap().to_owned()
}

fn result(text: &'static str) -> Outcome {
    Outcome::Result(Slices::from(Bytes::from_static(text.as_bytes())))
}

/// A call that is parked with one question; its state, and what holds the server's side.
async fn parked(stage: &Stage, server: &Arc<Server>) -> (String, Responder) {
    let first = sent(stage, &call(1, ""), None);
    let (_, responder) = opened(stage).await;
    ask(&responder, server, 1, "elicitation/create", FORM);
    let (status, message) = first.await.unwrap();
    assert_eq!(status, 200);
    (state_of(&message), responder)
}

#[tokio::test(start_paused = true)]
async fn questions_come_as_a_result_and_answers_with_the_retry() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let first = sent(&stage, &call(1, ""), None);
    let (_, responder) = opened(&stage).await;
    ask(&responder, &server, 1, "elicitation/create", FORM);
    ask(
        &responder,
        &server,
        2,
        "sampling/createMessage",
        r#""messages":[],"maxTokens":5,"includeContext":"thisServer""#,
    );
    ask(
        &responder,
        &server,
        3,
        "elicitation/create",
        r#""mode":"url","message":"go","url":"https://a.example/","elicitationId":"e1""#,
    );
    ask(&responder, &server, 4, "roots/list", "");
    let (status, message) = first.await.unwrap();
    assert_eq!((status, &message["id"]), (200, &value!(1)));
    let form =
        value!({"mode": "form", "message": "name?", "requestedSchema": {"type": "object", "properties": {}}});
    assert_eq!(
        message["result"]["inputRequests"],
        value!({
            "ask-1": {"method": "elicitation/create", "params": form},
            "ask-2": {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 5}},
            "ask-3": {"method": "elicitation/create", "params": {"mode": "url", "message": "go", "url": "https://a.example/"}},
            "ask-4": {"method": "roots/list", "params": {}},
        }),
        "no _meta, no id of a URL, no context that was not declared"
    );
    assert!(server.heard().is_empty());

    let answers = value!({
        "ask-1": {"action": "accept", "content": {"n": 1.5}}, "ask-2": {"role": "assistant"}, "ask-3": {"action": "accept"},
        "ask-4": {"roots": []}, "never-asked": {}
    });
    let second = sent(&stage, &retry(2, &state_of(&message), &answers), None);
    until(|| server.0.lock().len() >= 4).await;
    let heard: Vec<_> = server.heard().into_iter().map(|(_, text)| text).collect();
    assert_eq!(heard[0], r#"result {"action":"accept","content":{"n":1.5}}"#);
    assert_eq!(heard[3], r#"result {"roots":[]}"#);
    responder.finish(result(r#"{"resultType":"complete","content":[]}"#));
    let (status, message) = second.await.unwrap();
    assert_eq!((status, &message["id"], &message["result"]["content"]), (200, &value!(2), &value!([])));
    assert_eq!(stage.script.seen.lock().len(), 1, "one call for the server");
}

#[tokio::test(start_paused = true)]
async fn progress_goes_on_under_the_token_of_the_retry() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let (state, responder) = parked(&stage, &server).await;
    let body = retry(2, &state, &value!({"ask-1": {"action": "decline"}}));
    let response =
        tokio::spawn(stage.front.clone().handle(post(&body, &modern_headers("tools/call", "echo"))));
    until(|| !server.0.lock().is_empty()).await;
    responder.event(progress(1));
    let mut stream = response.await.unwrap().into_body();
    assert!(event(&mut stream).await.unwrap().contains(r#""progressToken":"t2""#));
    responder.finish(result(r#"{"resultType":"complete"}"#));
    assert!(event(&mut stream).await.unwrap().contains(r#""id":2,"result""#));
}

#[tokio::test(start_paused = true)]
async fn a_state_is_good_once_and_for_its_own_request_alone() {
    let tokens = vec![("secret-of-ann", "ann"), ("secret-of-bob", "bob")];
    let stage = Stage::with(Setting { tokens, ..Setting::default() });
    let server = Arc::new(Server::default());
    let first = sent(&stage, &call(1, ""), Some("secret-of-ann"));
    let (_, responder) = opened(&stage).await;
    ask(&responder, &server, 1, "elicitation/create", FORM);
    let state = state_of(&first.await.unwrap().1);
    let answers = value!({"ask-1": {"action": "accept"}});
    let mine = Some("secret-of-ann");
    let refused = async |body: String, token| {
        let (status, message) = sent(&stage, &body, token).await.unwrap();
        assert_eq!((status, &message["error"]["code"]), (400, &value!(-32602)), "{message}");
        assert_eq!(message["id"], 2);
        message["error"]["message"].as_str().unwrap().to_owned()
    };
    let other = if state[20..].starts_with('x') { "y" } else { "x" };
    let altered = format!("{}{other}{}", &state[..20], &state[21..]);
    assert!(refused(retry(2, &altered, &answers), mine).await.contains("gave you"));
    assert!(refused(retry(2, "", &answers), mine).await.contains("gave you"));
    assert!(refused(retry(2, &state, &answers), Some("secret-of-bob")).await.contains("another request"));
    let other = retry(2, &state, &answers).replace("[1,2]", "[1,3]");
    assert!(refused(other, mine).await.contains("another request"));
    for bad in [value!([]), value!({"ask-1": 1}), value!(null)] {
        assert!(refused(retry(2, &state, &bad), mine).await.contains("inputResponses"));
    }
    let number = retry(2, "x", &answers).replace(r#""requestState":"x""#, r#""requestState":1"#);
    assert!(refused(number, mine).await.contains("string"));
    assert!(server.heard().is_empty() && !responder.is_cancelled(), "nothing of it did any harm");

    let good = sent(&stage, &retry(2, &state, &answers), mine);
    until(|| !server.0.lock().is_empty()).await;
    assert!(refused(retry(2, &state, &answers), mine).await.contains("already"));
    responder.finish(result(r#"{"resultType":"complete"}"#));
    assert_eq!(good.await.unwrap().1["result"]["resultType"], "complete");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_out_is_asked_again_and_rounds_are_bounded() {
    let front = Config { rounds: 3, ..Config::default() };
    let stage = Stage::with(Setting { front, ..Setting::default() });
    let server = Arc::new(Server::default());
    let first = sent(&stage, &call(1, ""), None);
    let (_, responder) = opened(&stage).await;
    ask(&responder, &server, 1, "elicitation/create", FORM);
    ask(&responder, &server, 2, "roots/list", "");
    let state = state_of(&first.await.unwrap().1);
    let (_, message) =
        sent(&stage, &retry(2, &state, &value!({"ask-2": {"roots": []}})), None).await.unwrap();
    let keys: Vec<_> = message["result"]["inputRequests"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["ask-1"]);
    assert_eq!(server.heard(), [(2, r#"result {"roots":[]}"#.to_owned())]);
    let (_, message) =
        sent(&stage, &call(3, &format!(r#""requestState":"{}","#, state_of(&message))), None).await.unwrap();
    let state = state_of(&message);
    // A new question of the same call has a key of its own.
    let third = sent(&stage, &retry(4, &state, &value!({"ask-1": {"action": "accept"}})), None);
    until(|| !server.0.lock().is_empty()).await;
    ask(&responder, &server, 3, "roots/list", "");
    let (status, message) = third.await.unwrap();
    assert_eq!(
        (status, &message["error"]["code"], &message["error"]["data"]["reason"]),
        (200, &value!(-32603), &value!("protocol"))
    );
    assert!(responder.is_cancelled());
    assert_eq!(stage.hits("rounds"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_while_nobody_looks_is_answered_at_the_retry() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let (state, responder) = parked(&stage, &server).await;
    responder.finish(result(r#"{"resultType":"complete","content":["early"]}"#));
    let (_, message) = sent(&stage, &retry(2, &state, &value!({})), None).await.unwrap();
    assert_eq!(message["result"]["content"], value!(["early"]));

    let (state, responder) = parked(&stage, &server).await;
    let died = Error::new(Kind::Died, Blame::Upstream, "it died");
    responder.fail(died);
    let (_, message) = sent(&stage, &retry(2, &state, &value!({})), None).await.unwrap();
    assert_eq!(
        (&message["error"]["code"], &message["error"]["data"]["reason"]),
        (&value!(-32603), &value!("died"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_withdrawn_is_not_asked() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let first = sent(&stage, &call(1, ""), None);
    let (_, responder) = opened(&stage).await;
    let (question, withdrawn) = server.asks(1);
    responder.event(Event::Ask(question));
    tokio::task::yield_now().await;
    withdrawn.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    responder.finish(result(r#"{"resultType":"complete"}"#));
    assert_eq!(first.await.unwrap().1["result"]["resultType"], "complete");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_returns_is_given_up_after_ten_minutes() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let (state, responder) = parked(&stage, &server).await;
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert!(!responder.is_cancelled());
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(responder.is_cancelled());
    assert_eq!(server.heard(), [(1, "nobody".to_owned())]);
    let (status, message) = sent(&stage, &retry(2, &state, &value!({})), None).await.unwrap();
    assert_eq!((status, &message["error"]["code"]), (400, &value!(-32602)));
}

#[tokio::test(start_paused = true)]
async fn parked_calls_are_bounded_and_count_as_no_call_on_its_way() {
    let front = Config { park: ParkConfig { calls: 1, ..ParkConfig::default() }, ..Config::default() };
    let stage = Stage::with(Setting { front, ..Setting::default() });
    let server = Arc::new(Server::default());
    let (_, kept) = parked(&stage, &server).await;
    let second = sent(&stage, &call(2, ""), None);
    let (_, responder) = opened(&stage).await;
    ask(&responder, &server, 2, "elicitation/create", FORM);
    let (status, message) = second.await.unwrap();
    assert_eq!((status, &message["error"]["data"]["reason"]), (503, &value!("busy")));
    assert!(responder.is_cancelled() && !kept.is_cancelled());
    assert_eq!(stage.hits("parked"), 1);
    assert_eq!(stage.metrics.in_flight(), 0);
}

/// Upstream it may be given up for another call. It takes no place any more, and its client hears why.
#[tokio::test(start_paused = true)]
async fn a_parked_call_that_failed_takes_no_place_and_its_retry_gets_the_error() {
    let front = Config { park: ParkConfig { calls: 1, ..ParkConfig::default() }, ..Config::default() };
    let stage = Stage::with(Setting { front, ..Setting::default() });
    let server = Arc::new(Server::default());
    let (state, responder) = parked(&stage, &server).await;
    let why = "it was given up; make the call again";
    responder.fail(Error::new(Kind::Lost, Blame::Downstream, why));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (_other, kept) = parked(&stage, &server).await;
    assert_eq!((stage.hits("parked"), kept.is_cancelled()), (0, false));

    let answers = value!({"ask-1": {"action": "accept", "content": {}}});
    let (status, message) = sent(&stage, &retry(3, &state, &answers), None).await.unwrap();
    assert_eq!((status, &message["error"]["data"]["reason"]), (200, &value!("lost")));
    assert_eq!(message["error"]["message"], why);
    let (status, _) = sent(&stage, &retry(4, &state, &answers), None).await.unwrap();
    assert_eq!(status, 400, "once");
}

#[tokio::test(start_paused = true)]
async fn what_the_client_did_not_offer_is_refused_to_the_server() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let first = sent(&stage, &call_of(1, r#"{"elicitation":{}}"#, ""), None);
    let (_, responder) = opened(&stage).await;
    for (token, method, params) in [
        (1, "roots/list", ""),
        (2, "sampling/createMessage", ""),
        (3, "elicitation/create", r#""mode":"url""#),
    ] {
        ask(&responder, &server, token, method, params);
    }
    until(|| server.0.lock().len() >= 3).await;
    assert!(server.heard().iter().all(|(_, text)| text.starts_with(r#"error {"code":-32602"#)));
    responder.finish(result(r#"{"resultType":"complete"}"#));
    assert_eq!(first.await.unwrap().1["result"]["resultType"], "complete");
}

#[tokio::test(start_paused = true)]
async fn a_parked_call_does_not_hold_up_the_end_of_the_process() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let (_, responder) = parked(&stage, &server).await;
    let Stage { drain, .. } = stage;
    let start = tokio::time::Instant::now();
    drain.run(Duration::ZERO, Duration::from_secs(25)).await;
    assert!(responder.is_cancelled() && start.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_asked_after_the_end_began_fails_instead_of_waiting_for_a_retry() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let asked = sent(&stage, &call(1, ""), None);
    let (_, responder) = opened(&stage).await;
    let (watch, ended) = (stage.drain.watch(), Arc::new(responder));
    let Stage { drain, front, .. } = stage;
    let upstream = ended.clone();
    watch.spawn(async move { upstream.cancelled().await });
    let start = tokio::time::Instant::now();
    let stopping = tokio::spawn(drain.run(Duration::ZERO, Duration::from_secs(25)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    ask(&ended, &server, 1, "elicitation/create", FORM);
    let (status, message) = asked.await.unwrap();
    assert_eq!((status, &message["error"]["data"]["reason"]), (503, &value!("draining")), "{message}");
    stopping.await.unwrap();
    assert!(ended.is_cancelled() && start.elapsed() < Duration::from_secs(5));
    assert_eq!(server.heard(), [(1, "nobody".to_owned())]);
    drop(front);
}

const GO: &str = r#"{"code":-32042,"message":"first log in","data":{"elicitations":[
    {"mode":"url","elicitationId":"e1","url":"https://a.example/1","message":"log in"}]}}"#;

#[tokio::test(start_paused = true)]
async fn a_url_that_must_be_visited_first_is_asked_for_and_the_call_made_again() {
    let stage = Stage::new();
    let required = || Outcome::Refused(Bytes::from_static(GO.as_bytes()));
    stage.script.ready.lock().push_back(required());
    let (_, message) = sent(&stage, &call(1, ""), None).await.unwrap();
    assert_eq!(
        message["result"]["inputRequests"]["url-0"],
        value!({"method": "elicitation/create", "params": {"mode": "url", "url": "https://a.example/1", "message": "log in"}})
    );
    let state = state_of(&message);
    stage.answer_next(r#"{"resultType":"complete","content":["in"]}"#);
    let went = value!({"url-0": {"action": "accept"}});
    let (_, message) = sent(&stage, &retry(2, &state, &went), None).await.unwrap();
    assert_eq!(message["result"]["content"], value!(["in"]));
    let calls = std::mem::take(&mut *stage.script.seen.lock());
    assert!(calls.len() == 2 && !calls[1].contains("inputResponses") && !calls[1].contains("requestState"));

    let (_, message) =
        sent(&stage, &retry(3, &state, &value!({"url-0": {"action": "decline"}})), None).await.unwrap();
    assert_eq!(message["result"]["isError"], true);
    let other = retry(4, &state, &went).replace("[1,2]", "[2]");
    assert_eq!(sent(&stage, &other, None).await.unwrap().0, 400);
    assert!(stage.script.seen.lock().is_empty());

    // A server that never has enough.
    let mut state = state;
    for round in 2..=10 {
        stage.script.ready.lock().push_back(required());
        let (_, message) = sent(&stage, &retry(round, &state, &went), None).await.unwrap();
        state = state_of(&message);
    }
    stage.script.ready.lock().push_back(required());
    let (_, message) = sent(&stage, &retry(11, &state, &went), None).await.unwrap();
    assert_eq!(message["error"]["data"]["reason"], "protocol", "{message}");
    assert_eq!(stage.hits("rounds"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_cannot_be_sent_to_a_url_hears_which_capability_is_missing() {
    let stage = Stage::new();
    stage.script.ready.lock().push_back(Outcome::Refused(Bytes::from_static(GO.as_bytes())));
    let (status, message) =
        sent(&stage, &call_of(1, r#"{"elicitation":{"form":{}}}"#, ""), None).await.unwrap();
    assert_eq!((status, &message["error"]["code"]), (400, &value!(-32021)));
    assert_eq!(message["error"]["data"]["requiredCapabilities"], value!({"elicitation": {"url": {}}}));
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_asked_what_it_declares_itself() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let (state, responder) = parked(&stage, &server).await;
    ask(&responder, &server, 2, "elicitation/create", FORM);
    ask(&responder, &server, 3, "roots/list", "");
    let answers = value!({"ask-1": {"action": "accept"}});
    let extra = format!(r#""inputResponses":{answers},"requestState":"{state}","#);
    let second = sent(&stage, &call_of(2, r#"{"roots":{}}"#, &extra), None);
    until(|| !server.0.lock().is_empty()).await;
    let (_, message) = second.await.unwrap();
    let asked = message["result"]["inputRequests"].as_object().unwrap();
    assert_eq!(asked.values().map(|asked| &asked["method"]).collect::<Vec<_>>(), ["roots/list"]);
    let heard = server.heard();
    assert_eq!(heard[0], (1, r#"result {"action":"accept"}"#.to_owned()), "its answers count in any case");
    assert!(heard[1].0 == 2 && heard[1].1.contains("-32602"), "{heard:?}");
    assert_eq!(heard.len(), 2);

    // What was open when the client came back, too.
    let extra = format!(r#""inputResponses":{{}},"requestState":"{}","#, state_of(&message));
    let third = sent(&stage, &call_of(3, "{}", &extra), None);
    until(|| !server.0.lock().is_empty()).await;
    let heard = server.heard();
    assert!(heard[0].0 == 3 && heard[0].1.contains("-32602"), "{heard:?}");
    responder.finish(result(r#"{"resultType":"complete","content":[]}"#));
    assert_eq!(third.await.unwrap().1["result"]["resultType"], "complete");
}

/// The connection of a call; keeps the levels that continued it.
#[derive(Default)]
struct Levels(Mutex<Vec<Option<Level>>>);

impl Cancel for Levels {
    fn cancel(&self, _: u64) {}
    fn park(&self, _: u64) {}
    fn detach(&self, _: u64) {}

    fn resume(&self, _: u64, level: Option<Level>) {
        self.0.lock().push(level);
    }
}

fn logged(level: &str) -> Event {
    let text = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1}}}}"#
    );
    Event::Notice(Notice::Message, Message::scan(text.into(), &wire::limits::Limits::default()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_retry_gets_the_log_messages_that_it_asks_for_itself() {
    for (level, expected) in [(None, &[][..]), (Some(Level::Error), &["error", "alert"])] {
        let (stage, server, levels) = (Stage::new(), Arc::new(Server::default()), Arc::default());
        let (state, responder) = parked(&stage, &server).await;
        let connection: Arc<Levels> = Arc::clone(&levels);
        assert!(responder.on_cancel(connection, 1));
        // For the first request, or for nobody: its client is away.
        for level in ["info", "error"] {
            responder.event(logged(level));
        }
        let mut body = retry(2, &state, &value!({"ask-1": {"action": "accept"}}));
        if let Some(level) = level {
            let named = format!(r#""_meta":{{"io.modelcontextprotocol/logLevel":"{}","#, level.as_str());
            body = body.replace(r#""_meta":{"#, &named);
        }
        let response = stage.front.clone().handle(post(&body, &modern_headers("tools/call", "echo")));
        let answer = tokio::spawn(async move { text(response.await).await });
        until(|| !server.0.lock().is_empty()).await;
        assert_eq!(*levels.0.lock(), [level]);
        for level in ["notice", "alert"] {
            responder.event(logged(level));
        }
        responder.finish(result(r#"{"resultType":"complete"}"#));
        let answer = answer.await.unwrap();
        let heard: Vec<_> = ["info", "error", "notice", "alert"]
            .into_iter()
            .filter(|level| answer.contains(&format!(r#""level":"{level}""#)))
            .collect();
        assert_eq!(heard, expected, "{answer}");
        assert!(answer.contains(r#""resultType":"complete""#), "{answer}");
    }
}
