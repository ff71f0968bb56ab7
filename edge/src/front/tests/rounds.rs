//! What a modern server wants first, of a client with a session: the same call again with the answers.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::asks::answer;
use super::*;
use crate::call::InputRequired;

const TOOL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1.0},"_meta":{"progressToken":"mine"}}}"#;

/// A call of a session, what answers it, and a client that reads all the time, as real ones do.
struct Played {
    stage: Stage,
    id: String,
    reading: tokio::task::JoinHandle<()>,
    messages: mpsc::UnboundedReceiver<Value>,
    /// What the client comes back with, once it was told.
    resumes_at: Option<String>,
}

impl Played {
    /// A session of a client that can be asked everything its revision knows, and one call of it.
    async fn new(version: &str, call: &str) -> Self {
        Self::with(Setting::default(), version, call).await
    }

    async fn with(setting: Setting, version: &str, call: &str) -> Self {
        let capabilities = r#"{"roots":{},"sampling":{},"elicitation":{"form":{},"url":{}}}"#;
        let stage = Stage::with(setting);
        let init = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities}}}}}"#
        );
        let response = stage.send(post(&init, &[])).await;
        let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        let (reading, messages) = read(&stage, post(call, &[("mcp-session-id", &id)]));
        Self { stage, id, reading, messages, resumes_at: None }
    }

    async fn next(&mut self) -> Value {
        loop {
            let message = timeout(GUARD, self.messages.recv()).await.expect("a message");
            match message.expect("not the end") {
                Value::String(id) => self.resumes_at = Some(id),
                message => return message,
            }
        }
    }

    /// The call as it reaches the server next.
    async fn called(&self) -> (Call, Responder) {
        let arrives = async {
            while self.stage.open_calls() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(GUARD, arrives).await.expect("a call");
        self.stage.take_open()
    }

    /// The server wants this first.
    async fn wants(&self, result: Value) -> Value {
        let (call, responder) = self.called().await;
        let params = params(&call);
        want(call, responder, result);
        params
    }

    /// The server answers for good.
    async fn finishes(&self) -> Value {
        let (call, responder) = self.called().await;
        let params = params(&call);
        drop(call);
        responder.finish(Outcome::Result(Slices::from(Bytes::from_static(br#"{"content":[]}"#))));
        params
    }

    async fn answer(&self, asked: &Value, what: &str) {
        answer(&self.stage, &self.id, &asked["id"], what).await;
    }
}

/// Sends a request and reads what comes, one message or a stream of them.
fn read(
    stage: &Stage,
    request: Request<Full<Bytes>>,
) -> (tokio::task::JoinHandle<()>, mpsc::UnboundedReceiver<Value>) {
    let (front, (sender, messages)) = (stage.front.clone(), mpsc::unbounded_channel());
    let reading = tokio::spawn(async move {
        let response = front.handle(request).await;
        if response.headers()["content-type"] == "application/json" {
            let _ = sender.send(json(response).await);
            return;
        }
        let mut body = response.into_body();
        while let Some(text) = event(&mut body).await {
            if let Some(id) = text.strip_suffix("\nretry: 1000\ndata:\n\n") {
                let _ = sender.send(id.strip_prefix("id: ").unwrap().into());
            }
            if let Some((_, data)) = text.split_once("event: message\ndata: ") {
                let _ = sender.send(serde_json::from_str(data).unwrap());
            }
        }
    });
    (reading, messages)
}

fn params(call: &Call) -> Value {
    serde_json::from_slice::<Value>(call.request.bytes()).unwrap()["params"].clone()
}

pub(super) fn want(call: Call, responder: Responder, result: Value) {
    want_text(call, responder, &result.to_string());
}

pub(super) fn want_text(call: Call, responder: Responder, result: &str) {
    let text = format!(r#"{{"jsonrpc":"2.0","id":3,"result":{result}}}"#);
    let message = Message::scan(text.into(), &wire::limits::Limits::default()).unwrap();
    assert!(crate::call::input::fits(&message), "a test sends what is valid");
    responder.finish(Outcome::InputRequired(Box::new(InputRequired::new(
        call,
        ServerName::parse("time").unwrap(),
        message,
    ))));
}

fn form(message: &str) -> Value {
    let schema = json!({"type": "object", "properties": {}});
    json!({"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}})
}

#[tokio::test(start_paused = true)]
async fn every_kind_is_asked_and_the_call_goes_out_again_with_the_answers() {
    let mut played = Played::new("2025-11-25", TOOL).await;
    let sampling = json!({"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}});
    let requests = json!({"a\"b": form("name?"), "s": sampling, "r": {"method": "roots/list"}});
    let first =
        json!({"resultType": "input_required", "inputRequests": requests, "requestState": "\u{e9}\\/\""});
    assert_eq!(played.wants(first).await["arguments"], json!({"a": 1.0}));
    let answers = [
        ("elicitation/create", r#""result":{"action":"accept","content":{"n": 1.50}}"#),
        ("roots/list", r#""result":{"roots":[]}"#),
        ("sampling/createMessage", r#""result":{"role":"assistant","model":"m"}"#),
    ];
    for _ in 0..3 {
        let asked = played.next().await;
        let method = asked["method"].as_str().unwrap();
        assert_eq!(played.stage.open_calls(), 0, "not before all is there");
        let (_, what) = answers.iter().find(|(kind, _)| *kind == method).unwrap();
        played.answer(&asked, what).await;
    }
    let (call, responder) = played.called().await;
    let text = String::from_utf8(call.request.bytes().to_vec()).unwrap();
    assert!(text.contains(r#""arguments":{"a":1.0}"#) && text.contains(r#""content":{"n": 1.50}"#), "{text}");
    let sent: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(sent["params"]["requestState"], "\u{e9}\\/\"");
    let responses = sent["params"]["inputResponses"].as_object().unwrap();
    assert_eq!(responses.len(), 3);
    assert_eq!(responses["r"], json!({"roots": []}));
    assert_eq!(responses["a\"b"]["action"], "accept");
    assert_eq!(responses["s"]["model"], "m");
    // Another round has other answers, and none of the state that is not asked back.
    want(call, responder, json!({"resultType": "input_required", "inputRequests": {"k": form("more?")}}));
    let asked = played.next().await;
    played.answer(&asked, r#""result":{"action":"decline"}"#).await;
    let params = played.finishes().await;
    assert_eq!(params["inputResponses"], json!({"k": {"action": "decline"}}));
    assert_eq!(params["requestState"], Value::Null);
    let last = played.next().await;
    assert_eq!((&last["id"], &last["result"]), (&json!(1), &json!({"content": []})));
    assert_eq!(played.stage.permits.calls_in_flight(), 0);
    assert_eq!(played.stage.permits.held_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_form_is_dismissed_and_the_call_goes_on() {
    let mut played = Played::new("2025-11-25", TOOL).await;
    played.wants(json!({"inputRequests": {"k": form("name?")}})).await;
    let asked = played.next().await;
    played.answer(&asked, r#""error":{"code":-32603,"message":"no"}"#).await;
    assert_eq!(played.finishes().await["inputResponses"], json!({"k": {"action": "cancel"}}));
    assert_eq!(played.next().await["result"], json!({"content": []}));
}

/// Seen: its stream ended without a word.
#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_client_when_the_process_ends_fails_as_draining() {
    let mut played = Played::new("2025-11-25", TOOL).await;
    played.wants(json!({"inputRequests": {"k": form("name?")}})).await;
    played.next().await;
    let Played { stage, reading, messages, .. } = &mut played;
    std::mem::take(&mut stage.drain).run(Duration::ZERO, Duration::from_secs(1)).await;
    let last = messages.recv().await.expect("an answer");
    assert_eq!((&last["id"], &last["error"]["data"]["reason"]), (&json!(1), &json!("draining")), "{last}");
    reading.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_sample_ends_the_call_and_takes_back_what_else_was_asked() {
    let prompt = r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p"}}"#;
    for (call, is_tool) in [(TOOL, true), (prompt, false)] {
        let mut played = Played::new("2025-11-25", call).await;
        let sampling = json!({"method": "sampling/createMessage", "params": {}});
        played.wants(json!({"inputRequests": {"a": form("name?"), "b": sampling}})).await;
        let (mut form, mut sample) = (Value::Null, Value::Null);
        for _ in 0..2 {
            let asked = played.next().await;
            if asked["method"] == "elicitation/create" { form = asked } else { sample = asked }
        }
        played.answer(&sample, r#""error":{"code":-1,"message":"no"}"#).await;
        let withdrawn = played.next().await;
        assert_eq!(withdrawn["method"], "notifications/cancelled");
        assert_eq!(withdrawn["params"]["requestId"], form["id"]);
        let last = played.next().await;
        if is_tool {
            assert_eq!(last["result"]["isError"], true);
            assert!(
                last["result"]["content"][0]["text"].as_str().unwrap().contains("sampling/createMessage")
            );
        } else {
            assert_eq!(last["error"]["code"], -32603);
            assert_eq!(last["error"]["data"]["reason"], "cancelled");
        }
        assert_eq!(played.stage.open_calls(), 0, "it was not sent again");
        assert_eq!(played.stage.permits.calls_in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_revision_cannot_say_is_not_asked() {
    // 2025-06-18 has forms and no other mode; 2025-11-25 wants an id with a URL, which modern servers do not send.
    let url = json!({"method": "elicitation/create", "params": {"mode": "url", "url": "https://x/", "message": "go"}});
    let mut played = Played::new("2025-06-18", TOOL).await;
    played.wants(json!({"inputRequests": {"f": form("name?"), "u": url}})).await;
    let asked = played.next().await;
    assert_eq!(asked["params"]["mode"], Value::Null);
    played.answer(&asked, r#""result":{"action":"decline"}"#).await;
    let expected = json!({"f": {"action": "decline"}, "u": {"action": "cancel"}});
    assert_eq!(played.finishes().await["inputResponses"], expected);

    let mut played = Played::new("2025-11-25", TOOL).await;
    played.wants(json!({"inputRequests": {"u": url, "v": url}})).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let asked = played.next().await;
        assert_eq!(asked["params"]["url"], "https://x/");
        ids.push(asked["params"]["elicitationId"].as_str().unwrap().to_owned());
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_stream_is_not_asked() {
    let mut played = Played::new("2025-11-25", TOOL).await;
    let (call, _) = played.called().await;
    drop(call);
    let headers = [("mcp-session-id", played.id.as_str()), ("accept", "application/json")];
    let again = TOOL.replace(r#""id":1"#, r#""id":2"#);
    (played.reading, played.messages) = read(&played.stage, post(&again, &headers));
    played.wants(json!({"inputRequests": {"r": {"method": "roots/list"}}})).await;
    assert_eq!(played.next().await["result"]["isError"], true);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_patience_alone_is_asked_again_with_pauses() {
    let mut played = Played::new("2025-11-25", TOOL).await;
    let start = tokio::time::Instant::now();
    let mut waited = Vec::new();
    for round in 0..7 {
        let params = played.wants(json!({"requestState": round.to_string()})).await;
        waited.push(start.elapsed().as_millis() / 250 * 250);
        let before = (round > 0).then(|| (round - 1).to_string());
        assert_eq!(params["requestState"].as_str(), before.as_deref());
        assert_eq!(params.get("inputResponses"), None);
    }
    assert_eq!(waited, [0, 250, 750, 1750, 3750, 7750, 12750]);
    let (call, responder) = played.called().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    want(call, responder, json!({"requestState": "s"}));
    assert_eq!(played.next().await["error"]["data"]["reason"], "timeout", "the time for all rounds is over");
}

#[tokio::test(start_paused = true)]
async fn rounds_are_bounded_in_number() {
    let setting = Setting { front: Config { rounds: 2, ..Config::default() }, ..Setting::default() };
    let mut played = Played::with(setting, "2025-11-25", TOOL).await;
    played.wants(json!({"inputRequests": {"k": form("1")}})).await;
    for round in ["2", "3"] {
        let asked = played.next().await;
        played.answer(&asked, r#""result":{"action":"accept","content":{}}"#).await;
        played.wants(json!({"inputRequests": {"k": form(round)}})).await;
    }
    let last = played.next().await;
    assert_eq!(
        (&last["error"]["code"], &last["error"]["data"]["reason"]),
        (&json!(-32603), &json!("protocol"))
    );
    assert_eq!(played.stage.hits("rounds"), 1);
}

#[tokio::test(start_paused = true)]
async fn questions_are_bounded_in_time() {
    let mut played = Played::new("2025-11-25", TOOL).await;
    played.wants(json!({"inputRequests": {"k": form("name?")}})).await;
    let asked = played.next().await;
    tokio::time::sleep(Duration::from_secs(601)).await;
    let withdrawn = played.next().await;
    assert_eq!(withdrawn["params"]["requestId"], asked["id"]);
    assert_eq!(played.finishes().await["inputResponses"], json!({"k": {"action": "cancel"}}));
    assert_eq!(played.next().await["result"], json!({"content": []}));
}

#[tokio::test(start_paused = true)]
async fn what_no_client_can_be_asked_fails_the_call() {
    for bad in [
        json!({"k": {"method": "ping"}}),
        json!({"k": {"method": "tools/call"}}),
        json!({"k": {"params": {}}}),
        json!({"k": {"method": "roots/list", "params": []}}),
        json!({"k": 7}),
    ] {
        let mut played = Played::new("2025-11-25", TOOL).await;
        played.wants(json!({"inputRequests": bad, "requestState": "s"})).await;
        let message = played.next().await;
        assert_eq!(message["error"]["data"]["reason"], "protocol", "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_no_answer_and_progress_rises_over_rounds() {
    let mut played = Played::new("2025-11-25", TOOL).await;
    let (call, responder) = played.called().await;
    responder.event(progress(3));
    assert_eq!(played.next().await["params"], json!({"progressToken": "mine", "progress": 3}));
    played.reading.abort();
    let _ = (&mut played.reading).await;
    want(call, responder, json!({"inputRequests": {"k": form("name?")}}));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(played.stage.open_calls(), 0, "leaving is no answer");
    let last = played.resumes_at.take().unwrap();
    let headers = [("mcp-session-id", played.id.as_str()), ("last-event-id", last.as_str())];
    (played.reading, played.messages) = read(&played.stage, request("GET", "/mcp", "", &headers));
    let asked = loop {
        let message = played.next().await;
        if message["method"] == "elicitation/create" {
            break message;
        }
    };
    played.answer(&asked, r#""result":{"action":"decline"}"#).await;
    let (_call, responder) = played.called().await;
    for (progressed, told) in [(0, None), (1, Some(4)), (1, None), (2, Some(5))] {
        responder.event(progress(progressed));
        if let Some(told) = told {
            assert_eq!(played.next().await["params"]["progress"], told);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_not_sent_again() {
    let mut played = Played::new("2025-11-25", TOOL).await;
    played.wants(json!({"inputRequests": {"k": form("name?")}})).await;
    let asked = played.next().await;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    played.stage.send(post(cancel, &[("mcp-session-id", &played.id)])).await;
    let ends = async { while played.messages.recv().await.is_some() {} };
    timeout(GUARD, ends).await.expect("the end of the stream");
    played.answer(&asked, r#""result":{"action":"accept","content":{}}"#).await;
    assert_eq!((played.stage.open_calls(), played.stage.permits.calls_in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_capability_that_is_missing_is_a_tools_result() {
    let missing = r#"{"code":-32021,"message":"m","data":{"requiredCapabilities":{"sampling":{}}}}"#;
    let prompt = r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p"}}"#;
    let answers = [
        (TOOL, missing, None),
        (prompt, missing, Some(-32603)),
        (TOOL, r#"{"code":-32020,"message":"m"}"#, Some(-32603)),
        (TOOL, r#"{"code":-32022,"message":"m"}"#, Some(-32603)),
    ];
    for (call, error, code) in answers {
        let mut played = Played::new("2025-11-25", call).await;
        let (_, responder) = played.called().await;
        responder.finish(Outcome::Refused(Bytes::from_static(error.as_bytes())));
        let message = played.next().await;
        match code {
            Some(code) => assert_eq!(message["error"]["code"], code),
            None => assert_eq!(message["result"]["isError"], true, "{message}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn structured_content_that_is_no_object_reaches_old_clients_as_a_text() {
    let mut played = Played::new("2025-06-18", TOOL).await;
    let (_, responder) = played.called().await;
    let result = br#"{"resultType":"complete","content":[],"structuredContent":[1]}"#;
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(result))));
    let expected = json!({"resultType": "complete", "content": [{"type": "text", "text": "[1]"}]});
    assert_eq!(played.next().await["result"], expected);
}
