//! Slow calls of modern clients that know tasks.

use std::time::Duration;

use serde_json::json as value;

use super::asks::Server;
use super::rounds::want;
use super::*;
use crate::call::Caller;
use crate::front::TasksConfig;

const KNOWS: &str = r#"{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

fn stage(tasks: TasksConfig) -> Stage {
    let tokens = vec![("secret-of-ann", "ann"), ("secret-of-bob", "bob")];
    Stage::with(Setting { front: Config { tasks, ..Config::default() }, tokens, ..Setting::default() })
}

fn slow() -> TasksConfig {
    TasksConfig { after: Some(Duration::from_secs(5)), ..TasksConfig::default() }
}

fn body(method: &str, params: &str, capabilities: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{{params},"_meta":{{
        "io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{capabilities}}}}}}}"#
    )
}

async fn of(stage: &Stage, token: &str, (method, name): (&str, &str), body: &str) -> (u16, Value) {
    let mut headers = modern_headers(method, name);
    let bearer = format!("Bearer {token}");
    headers.push(("authorization", &bearer));
    let response = stage.send(post(body, &headers)).await;
    let status = response.status().as_u16();
    let text = text(response).await;
    let message = text.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&text);
    (status, serde_json::from_str(message).unwrap())
}

async fn ask(stage: &Stage, token: &str, method: &str, id: &str, more: &str) -> (u16, Value) {
    let params = format!(r#""taskId":"{id}"{more}"#);
    of(stage, token, (method, id), &body(method, &params, KNOWS)).await
}

/// A call that became a task: what its client got, and the server's side.
async fn task(stage: &Stage) -> (Value, Responder) {
    let call = body("tools/call", r#""name":"echo""#, KNOWS);
    let (_, message) = of(stage, "secret-of-ann", ("tools/call", "echo"), &call).await;
    (message["result"].clone(), stage.take_open().1)
}

async fn until(stage: &Stage, id: &str, status: &str) -> Value {
    for _ in 0..100 {
        let (code, message) = ask(stage, "secret-of-ann", "tasks/get", id, "").await;
        assert_eq!((code, &message["result"]["resultType"]), (200, &value!("complete")), "{message}");
        if message["result"]["status"] == status {
            return message["result"].clone();
        }
        tokio::task::yield_now().await;
    }
    panic!("never {status}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_is_handed_over_and_its_result_fetched() {
    let stage = stage(slow());
    let (handle, responder) = task(&stage).await;
    let id = handle["taskId"].as_str().unwrap();
    assert_eq!((&handle["resultType"], &handle["status"]), (&value!("task"), &value!("working")));
    assert_eq!((&handle["ttlMs"], &handle["pollIntervalMs"]), (&value!(3_600_000), &value!(2000)));
    assert!(handle["createdAt"].as_str().unwrap().ends_with('Z') && handle["lastUpdatedAt"].is_string());
    assert_eq!(stage.count("tasks"), 1);
    let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1,"message":"half"}}"#;
    responder.event(Event::Progress(Message::scan(text.into(), &wire::limits::Limits::default()).unwrap()));
    let working = until(&stage, id, "working").await;
    assert!(working.get("result").is_none());
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(
        br#"{"resultType":"complete","content":[1.50]}"#,
    ))));
    let done = until(&stage, id, "completed").await;
    assert_eq!(done["result"], value!({"resultType": "complete", "content": [1.5]}));
    assert_eq!(done["statusMessage"], "half");
    assert_eq!(until(&stage, id, "completed").await, done, "as often as it likes");
    assert_eq!(
        ask(&stage, "secret-of-ann", "tasks/cancel", id, "").await.1["result"],
        value!({"resultType": "complete"})
    );
    until(&stage, id, "completed").await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_ended_keeps_nothing_of_its_request() {
    let stage = stage(slow());
    let held = Arc::new(());
    let call = body("tools/call", r#""name":"echo""#, KNOWS);
    let mut headers = modern_headers("tools/call", "echo");
    headers.push(("authorization", "Bearer secret-of-ann"));
    let request = post("", &headers).map(|_| Full::from(watched(call, &held)));
    let handle = json(stage.send(request).await).await["result"].clone();
    let (call, responder) = stage.take_open();
    drop(call); // as a server does that has answered
    responder.finish(result(100));
    until(&stage, handle["taskId"].as_str().unwrap(), "completed").await;
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test(start_paused = true)]
async fn questions_of_a_task_wait_for_its_client() {
    let (stage, server) = (stage(slow()), Arc::new(Server::default()));
    let (handle, responder) = task(&stage).await;
    let id = handle["taskId"].as_str().unwrap();
    responder.event(Event::Ask(
        server.asks_for(1, "elicitation/create", r#""message":"?","requestedSchema":{}"#).0,
    ));
    responder.event(Event::Ask(server.asks_for(2, "roots/list", "").0));
    let waiting = until(&stage, id, "input_required").await;
    let params = value!({"message": "?", "requestedSchema": {}});
    assert_eq!(
        waiting["inputRequests"],
        value!({"ask-1": {"method": "elicitation/create", "params": params}})
    );
    assert!(server.heard()[0].1.contains("-32602"), "roots were not offered");
    for (responses, status) in
        [("{\"x\":{}}", "input_required"), (r#"{"ask-1":{"action":"decline"}}"#, "working")]
    {
        let more = format!(r#","inputResponses":{responses}"#);
        let (code, message) = ask(&stage, "secret-of-ann", "tasks/update", id, &more).await;
        assert_eq!((code, &message["result"]), (200, &value!({"resultType": "complete"})));
        until(&stage, id, status).await;
    }
    assert_eq!(server.heard(), [(1, r#"result {"action":"decline"}"#.to_owned())]);
    responder.finish(Outcome::Refused(Bytes::from_static(br#"{"code":-32002,"message":"no"}"#)));
    assert_eq!(until(&stage, id, "failed").await["error"], value!({"code": -32602, "message": "no"}));
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_input_does_not_come_in_time_goes_on_without() {
    let tokens = vec![("secret-of-ann", "ann")];
    let front = Config { tasks: slow(), rounds_time: Duration::from_secs(60), ..Config::default() };
    let stage = Stage::with(Setting { front, tokens, ..Setting::default() });
    let call = body("tools/call", r#""name":"echo""#, KNOWS);
    let (_, handle) = of(&stage, "secret-of-ann", ("tools/call", "echo"), &call).await;
    let id = handle["result"]["taskId"].as_str().unwrap();
    let (call, responder) = stage.take_open();
    let form = value!({"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}});
    want(call, responder, value!({"inputRequests": {"k": form}}));
    until(&stage, id, "input_required").await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    let again = stage.script.seen.lock().last().unwrap().clone();
    assert!(again.contains(r#""inputResponses":{"k":{"action":"cancel"}}"#), "{again}");
    let working = until(&stage, id, "working").await;
    assert!(working.get("inputRequests").is_none());
    stage.take_open().1.finish(result(100));
    until(&stage, id, "completed").await;
}

/// A legacy server's error that sends the user somewhere first.
const GO: &[u8] = br#"{"code":-32042,"message":"go","data":{"elicitations":[
    {"mode":"url","elicitationId":"e","url":"https://a.example/","message":"log in"}]}}"#;

#[tokio::test(start_paused = true)]
async fn a_task_whose_user_has_to_visit_a_url_asks_for_it_and_calls_again() {
    const URLS: &str = r#"{"elicitation":{"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
    let stage = stage(slow());
    for (action, status) in [("accept", "working"), ("decline", "completed")] {
        let call = body("tools/call", r#""name":"echo""#, URLS);
        let (_, handle) = of(&stage, "secret-of-ann", ("tools/call", "echo"), &call).await;
        let id = handle["result"]["taskId"].as_str().unwrap().to_owned();
        let first = stage.script.seen.lock().last().unwrap().clone();
        stage.take_open().1.finish(Outcome::Refused(Bytes::from_static(GO)));
        let waiting = until(&stage, &id, "input_required").await;
        assert_eq!(stage.permits.calls_in_flight(), 0, "nothing runs while the user thinks");
        let asked = waiting["inputRequests"]["ask-1"].clone();
        let params = value!({"mode": "url", "message": "log in", "url": "https://a.example/"});
        assert_eq!(asked, value!({"method": "elicitation/create", "params": params}));
        let more = format!(r#","inputResponses":{{"ask-1":{{"action":"{action}"}}}}"#);
        ask(&stage, "secret-of-ann", "tasks/update", &id, &more).await;
        let shown = until(&stage, &id, status).await;
        if action == "decline" {
            assert_eq!((&shown["result"]["isError"], stage.open_calls()), (&value!(true), 0));
            continue;
        }
        super::until(|| stage.open_calls() > 0).await;
        assert_eq!(*stage.script.seen.lock().last().unwrap(), first, "the call as it was");
        let (again, responder) = stage.take_open();
        assert_eq!(stage.permits.calls_in_flight(), 0, "as of every task");
        assert_eq!(stage.permits.held_bytes(), again.request.bytes().len());
        responder.finish(result(100));
        until(&stage, &id, "completed").await;
    }

    let (handle, responder) = task(&stage).await;
    responder.finish(Outcome::Refused(Bytes::from_static(GO)));
    let failed = until(&stage, handle["taskId"].as_str().unwrap(), "failed").await;
    assert_eq!(failed["error"]["code"], -32021, "it does not declare URLs");
}

#[tokio::test(start_paused = true)]
async fn a_slow_retry_becomes_a_task_and_its_own_members_do_not_reach_the_server() {
    const KNOWS_URLS: &str =
        r#"{"elicitation":{"form":{},"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
    let (stage, server) = (stage(slow()), Arc::new(Server::default()));
    let call = |more: &str| body("tools/call", &format!(r#""name":"echo"{more}"#), KNOWS_URLS);
    let plain = call("");
    let sent = of(&stage, "secret-of-ann", ("tools/call", "echo"), &plain);
    let asked = async {
        super::until(|| stage.open_calls() > 0).await;
        let (_, responder) = stage.take_open();
        responder.event(Event::Ask(
            server.asks_for(1, "elicitation/create", r#""message":"?","requestedSchema":{}"#).0,
        ));
        responder
    };
    let ((_, parked), responder) = tokio::join!(sent, asked);
    let state = parked["result"]["requestState"].as_str().unwrap();
    let more = format!(r#","requestState":"{state}","inputResponses":{{"ask-1":{{"action":"accept"}}}}"#);
    let (_, handle) = of(&stage, "secret-of-ann", ("tools/call", "echo"), &call(&more)).await;
    assert_eq!(handle["result"]["resultType"], "task", "{handle}");
    assert_eq!(server.heard(), [(1, r#"result {"action":"accept"}"#.to_owned())]);
    let id = handle["result"]["taskId"].as_str().unwrap();
    responder.finish(Outcome::Refused(Bytes::from_static(GO)));
    let waiting = until(&stage, id, "input_required").await;
    let key = waiting["inputRequests"].as_object().unwrap().keys().next().unwrap();
    let more = format!(r#","inputResponses":{{"{key}":{{"action":"accept"}}}}"#);
    ask(&stage, "secret-of-ann", "tasks/update", id, &more).await;
    super::until(|| stage.open_calls() > 0).await;
    let (again, responder) = stage.take_open();
    assert!(again.request.param("name").is_some());
    assert!(again.request.param("requestState").or(again.request.param("inputResponses")).is_none());
    responder.finish(result(100));
    until(&stage, id, "completed").await;
}

#[tokio::test(start_paused = true)]
async fn a_task_is_its_principals_alone_and_ends_when_cancelled_or_old() {
    let stage = stage(slow());
    let (handle, responder) = task(&stage).await;
    let id = handle["taskId"].as_str().unwrap().to_owned();
    for (token, id) in [("secret-of-bob", id.as_str()), ("secret-of-ann", "edge~0")] {
        for method in ["tasks/get", "tasks/cancel", "tasks/update"] {
            let (_, message) = ask(&stage, token, method, id, "").await;
            assert_eq!(message["error"]["code"], -32602, "{method}");
        }
    }
    assert!(!responder.is_cancelled());
    ask(&stage, "secret-of-ann", "tasks/cancel", &id, "").await;
    until(&stage, &id, "cancelled").await;
    responder.cancelled().await;

    let (handle, responder) = task(&stage).await;
    let id = handle["taskId"].as_str().unwrap().to_owned();
    tokio::time::sleep(Duration::from_secs(3602)).await;
    assert!(responder.is_cancelled());
    assert_eq!(ask(&stage, "secret-of-ann", "tasks/get", &id, "").await.1["error"]["code"], -32602);
    assert_eq!(stage.count("tasks"), 0);
}

/// A result of so many bytes.
fn result(bytes: usize) -> Outcome {
    const FRAME: &str = r#"{"content":""}"#;
    let text = format!(r#"{{"content":"{}"}}"#, "x".repeat(bytes - FRAME.len()));
    Outcome::Result(Slices::from(Bytes::from(text)))
}

/// A task of so large a result; its id, and how it ended.
async fn ended(stage: &Stage, bytes: usize) -> (String, Value) {
    let (handle, responder) = task(stage).await;
    responder.finish(result(bytes));
    let id = handle["taskId"].as_str().unwrap_or_else(|| panic!("{handle}")).to_owned();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    (id, handle)
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_makes_room_the_oldest_first_and_what_was_not_is_kept() {
    let stage = stage(TasksConfig { result_bytes: 4000, ..slow() });
    let mut ids = Vec::new();
    for (bytes, fetched) in [(1500, true), (1500, true), (1500, false), (400, false)] {
        let (id, _) = ended(&stage, bytes).await;
        if fetched {
            until(&stage, &id, "completed").await;
        }
        ids.push(id);
    }
    assert!(ask(&stage, "secret-of-ann", "tasks/get", &ids[0], "").await.1["error"].is_object());
    for id in &ids[1..] {
        until(&stage, id, "completed").await;
    }
    assert_eq!(stage.hits("task_bytes"), 0);
}

#[tokio::test(start_paused = true)]
async fn without_room_calls_stay_calls_and_one_principal_leaves_some_to_others() {
    let stage = stage(TasksConfig { result_bytes: 4000, age: Duration::from_secs(60), ..slow() });
    let (first, _) = ended(&stage, 1970).await;
    let call = body("tools/call", r#""name":"echo""#, KNOWS);
    let mut headers = modern_headers("tools/call", "echo");
    headers.push(("authorization", "Bearer secret-of-ann"));
    let sent = tokio::spawn(stage.front.clone().handle(post(&call, &headers)));
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(stage.hits("task_bytes"), 1);
    stage.take_open().1.finish(result(3000));
    assert!(json(sent.await.unwrap()).await["result"]["content"].is_string(), "nothing is lost");

    let (_, handle) = of(&stage, "secret-of-bob", ("tools/call", "echo"), &call).await;
    stage.take_open().1.finish(result(900));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let id = handle["result"]["taskId"].as_str().unwrap();
    assert_eq!(ask(&stage, "secret-of-bob", "tasks/get", id, "").await.1["result"]["status"], "completed");

    until(&stage, &first, "completed").await;
    let (second, _) = ended(&stage, 1900).await;
    until(&stage, &second, "completed").await;
    let (third, _) = ended(&stage, 2500).await;
    assert_eq!(
        until(&stage, &third, "failed").await["error"]["data"]["reason"],
        "busy",
        "more than anybody may"
    );
    assert_eq!(stage.hits("task_bytes"), 2);
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert_eq!(stage.count("tasks"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_place_is_taken_before_the_call_is_a_task() {
    let stage = stage(TasksConfig { tasks: 1, ..slow() });
    let (ann, bob) = (Caller::new("ann"), Caller::new("bob"));
    let place = stage.front.tasks.place(&ann);
    assert!(place.is_some() && stage.front.tasks.place(&bob).is_none());
    assert_eq!((stage.count("tasks"), stage.hits("tasks")), (1, 1));
    drop(place);
    assert!(stage.front.tasks.place(&bob).is_some());
    assert_eq!(stage.count("tasks"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_makes_room_for_another() {
    let stage = stage(TasksConfig { tasks: 2, ..slow() });
    let (first, second) = (task(&stage).await, task(&stage).await);
    let id = second.0["taskId"].as_str().unwrap();
    ask(&stage, "secret-of-ann", "tasks/cancel", id, "").await;
    let third = task(&stage).await;
    for (handle, _) in [&first, &third] {
        until(&stage, handle["taskId"].as_str().unwrap(), "working").await;
    }
    assert!(ask(&stage, "secret-of-ann", "tasks/get", id, "").await.1["error"].is_object());
    assert_eq!(stage.hits("tasks"), 0);
}

#[tokio::test(start_paused = true)]
async fn calls_stay_calls_without_the_setting_the_extension_or_room() {
    let plain = r#"{"elicitation":{}}"#;
    for (tasks, capabilities) in
        [(TasksConfig::default(), KNOWS), (slow(), plain), (TasksConfig { tasks: 0, ..slow() }, KNOWS)]
    {
        let full = tasks.tasks == 0;
        let stage = stage(tasks);
        let front = stage.front.clone();
        let call = body("tools/call", r#""name":"echo""#, capabilities);
        let mut headers = modern_headers("tools/call", "echo");
        headers.push(("authorization", "Bearer secret-of-ann"));
        let sent = tokio::spawn(front.handle(post(&call, &headers)));
        tokio::time::sleep(Duration::from_secs(7)).await;
        stage
            .take_open()
            .1
            .finish(Outcome::Result(Slices::from(Bytes::from_static(b"{\"resultType\":\"complete\"}"))));
        assert_eq!(json(sent.await.unwrap()).await["result"]["resultType"], "complete");
        assert_eq!(stage.hits("tasks"), usize::from(full));
    }
    let stage = stage(slow());
    let get = body("tasks/get", r#""taskId":"edge~1""#, plain);
    let (status, message) = of(&stage, "secret-of-ann", ("tasks/get", "edge~1"), &get).await;
    assert_eq!((status, &message["error"]["code"]), (400, &value!(-32021)));
    let needed = value!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    assert_eq!(message["error"]["data"]["requiredCapabilities"], needed);
}
