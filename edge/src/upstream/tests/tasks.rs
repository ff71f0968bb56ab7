//! Tasks of servers: their ids can be used only by the session that they were shown to, or the principal if it has no session.

use super::*;
use crate::call::Server;
use crate::error::Kind;

const STATUS: &str = "notifications/tasks/status";

fn task_call() -> Value {
    let params = json!({"name": "slow", "arguments": {}, "task": {"ttl": 1000}});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
}

fn on(method: &str, id: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"taskId": id}})
}

/// A call of a principal whose client knows the tasks extension.
fn of_principal(room: &Room, principal: &str, request: Value) -> Reply {
    let knows = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
    let client = Client { capabilities: Some(Bytes::from_static(knows.as_bytes())), ..Client::default() };
    room.pool.dispatch(Call { client: Arc::new(client), ..room.call_of(principal, request) })
}

/// Starts a task whose own id is `t1`; what the client is shown.
async fn start(room: &mut Room, key: &SessionHandle) -> (Peer, String) {
    let reply = room.dispatch_in(key, task_call());
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    assert_eq!(request["params"]["task"], json!({"ttl": 1000}));
    peer.answer(&request, json!({"task": {"taskId": "t1", "status": "working"}})).await;
    let shown = result(reply).await;
    assert_eq!(shown["task"]["status"], "working");
    (peer, shown["task"]["taskId"].as_str().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_tasks_id_leads_its_session_back_to_it() {
    let mut room = Setting::default().build();
    let (key, mut heard) = session_and_stream(1);
    let (mut peer, id) = start(&mut room, &key).await;
    assert!(id.starts_with("time.") && id.ends_with(".t1"), "{id}");
    for method in ["tasks/get", "tasks/cancel"] {
        let reply = room.dispatch_in(&key, on(method, &id));
        let request = peer.expect(method).await;
        assert_eq!(request["params"], json!({"taskId": "t1"}));
        peer.answer(&request, json!({"taskId": "t1", "status": "working"})).await;
        assert_eq!(result(reply).await["taskId"], *id);
    }
    let related = json!({"io.modelcontextprotocol/related-task": {"taskId": "t1"}, "x": 1});
    let mut reply = room.dispatch_in(&key, on("tasks/result", &id));
    let request = peer.expect("tasks/result").await;
    peer.ask(json!(1), "elicitation/create", json!({"message": "m", "_meta": related})).await;
    let ask = next_ask(&mut reply).await;
    let meta: Value =
        ask.request.meta_value("io.modelcontextprotocol/related-task").unwrap().parse().unwrap();
    assert_eq!(meta, json!({"taskId": id}));
    let decline =
        json!({"action": "decline", "_meta": {"io.modelcontextprotocol/related-task": {"taskId": id}}});
    ask.answer(Answer::Result(decline.to_string().into()));
    let answer = peer.read().await.unwrap();
    let own = json!({"io.modelcontextprotocol/related-task": {"taskId": "t1"}});
    assert_eq!(answer["result"], json!({"action": "decline", "_meta": own}));
    peer.answer(&request, json!({"content": [], "_meta": related})).await;
    let last = result(reply).await;
    assert_eq!(last["_meta"], json!({"io.modelcontextprotocol/related-task": {"taskId": id}, "x": 1}));
    peer.notify(STATUS, json!({"taskId": "t1", "status": "completed"})).await;
    assert_eq!(
        next_notification(&mut heard).await,
        (STATUS.to_owned(), json!({"taskId": id, "status": "completed"}))
    );
}

#[tokio::test(start_paused = true)]
async fn task_param_of_a_client_without_these_tasks_is_left_out() {
    let mut room = Setting::default().isolation(Isolation::Principal).build();
    let (key, _heard) = session_and_stream(1);
    let older = SessionHandle { version: ProtocolVersion::V2025_06_18, ..key.clone() };
    let with_meta = json!({"_meta": {"x": 1}, "task": {"ttl": 1}, "name": "slow"});
    let with_meta = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": with_meta});
    let slow = json!({"name": "slow", "arguments": {}});
    let mut peer = None;
    for (session, call, expected) in [
        (None, task_call(), slow.clone()),
        (Some(&older), task_call(), slow),
        (None, with_meta.clone(), json!({"_meta": {"x": 1}, "name": "slow"})),
        (Some(&key), with_meta.clone(), with_meta["params"].clone()),
    ] {
        let reply = match session {
            None => room.dispatch(call),
            Some(session) => room.pool.dispatch(Call {
                caller: Caller::new("ann"),
                affinity: Affinity::Session(session.clone()),
                ..room.call(call)
            }),
        };
        let peer = match &mut peer {
            None => peer.insert(room.accept_legacy().await),
            Some(peer) => peer,
        };
        let request = peer.expect("tools/call").await;
        assert_eq!(request["params"], expected, "{session:?}");
        peer.answer(&request, json!({"content": []})).await;
        result(reply).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_of_another_session_is_unknown() {
    for isolation in [Isolation::Session, Isolation::Principal] {
        let mut room = Setting::default().isolation(isolation).build();
        let ((one, _), (two, _)) = (session_and_stream(1), session_and_stream(2));
        let (_peer, id) = start(&mut room, &one).await;
        let dialled = room.dial.dialled();
        for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
            for id in [id.as_str(), "t1", "time.0000000000000000.t1"] {
                let error = failure(room.dispatch_in(&two, on(method, id))).await;
                assert_eq!(error.kind, Kind::InvalidParams, "{method}");
            }
            let error = failure(room.dispatch(on(method, &id))).await;
            assert_eq!(error.kind, Kind::InvalidParams, "no session at all");
        }
        assert_eq!(room.dial.dialled(), dialled, "no server was asked");
    }
}

#[tokio::test(start_paused = true)]
async fn the_tasks_of_a_session_are_those_of_its_own_connection() {
    let mut room = Setting::default().build();
    let ((one, _), (two, _)) = (session_and_stream(1), session_and_stream(2));
    assert!(room.pool.tasks(&one).await.is_empty());
    let (mut peer, id) = start(&mut room, &one).await;
    let listing = tokio::spawn(room.pool.tasks(&one));
    let request = peer.expect("tasks/list").await;
    peer.answer(&request, json!({"tasks": [{"taskId": "t1"}], "nextCursor": "2"})).await;
    let request = peer.expect("tasks/list").await;
    assert_eq!(request["params"], json!({"cursor": "2"}));
    peer.answer(&request, json!({"tasks": [{"taskId": "t2", "status": "failed"}]})).await;
    let tasks: Vec<Value> =
        listing.await.unwrap().iter().map(|task| serde_json::from_slice(task).unwrap()).collect();
    assert_eq!(tasks[0], json!({"taskId": id}));
    assert!(tasks[1]["taskId"].as_str().unwrap().ends_with(".t2") && tasks.len() == 2);
    assert!(room.pool.tasks(&two).await.is_empty());
    assert_eq!(room.dial.dialled(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_of_the_extension_is_its_principals() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let reply = of_principal(&room, "ann", echo("a"));
    let mut peer = room.accept_modern().await;
    let request = peer.expect("tools/call").await;
    assert_eq!(
        request["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]["extensions"],
        json!({"io.modelcontextprotocol/tasks": {}})
    );
    peer.answer(&request, json!({"resultType": "task", "taskId": "t1", "status": "working"})).await;
    let shown = result(reply).await;
    let id = shown["taskId"].as_str().unwrap().to_owned();
    assert!(id.starts_with("time.") && id.ends_with(".t1"), "{shown}");
    let reply = of_principal(&room, "ann", on("tasks/get", &id));
    let request = peer.expect("tasks/get").await;
    assert_eq!(request["params"]["taskId"], "t1");
    peer.answer(&request, json!({"resultType": "complete", "taskId": "t1", "status": "working"})).await;
    assert_eq!(result(reply).await["taskId"], *id);
    let reply = of_principal(&room, "ann", on("tasks/update", &id));
    let request = peer.expect("tasks/update").await;
    peer.answer(&request, json!({"resultType": "complete"})).await;
    result(reply).await;
    let error = failure(of_principal(&room, "bob", on("tasks/get", &id))).await;
    assert_eq!(error.kind, Kind::InvalidParams);

    // Nobody else is answered with a task.
    let reply = room.pool.dispatch(room.call_of("ann", echo("b")));
    let request = peer.expect("tools/call").await;
    peer.answer(&request, json!({"resultType": "task", "taskId": "t2", "status": "working"})).await;
    assert_eq!(failure(reply).await.kind, Kind::Protocol);
}

#[tokio::test(start_paused = true)]
async fn idle_connection_stays_open_while_a_task_of_it_runs() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let reply = of_principal(&room, "ann", echo("a"));
    let mut peer = room.accept_modern().await;
    let request = peer.expect("tools/call").await;
    let two_hours = json!({"resultType": "task", "taskId": "t1", "status": "working", "ttlMs": 7_200_000});
    peer.answer(&request, two_hours).await;
    let id = result(reply).await["taskId"].as_str().unwrap().to_owned();
    tokio::time::sleep(Duration::from_secs(50 * 60)).await;
    let reply = of_principal(&room, "ann", on("tasks/get", &id));
    let request = peer.expect("tasks/get").await;
    peer.answer(&request, json!({"resultType": "task", "taskId": "t1", "status": "working"})).await;
    assert_eq!(result(reply).await["resultType"], "complete", "as it should have been");
    let start = tokio::time::Instant::now();
    peer.ended().await;
    let held = start.elapsed();
    assert!(held < Duration::from_secs(11 * 60), "no longer than an hour in all, then idle: {held:?}");
    assert_eq!(room.dial.dialled(), 1);

    let reply = of_principal(&room, "ann", echo("b"));
    let mut peer = room.accept_modern().await;
    let request = peer.expect("tools/call").await;
    peer.answer(&request, json!({"resultType": "task", "taskId": "t2", "status": "working"})).await;
    let id = result(reply).await["taskId"].as_str().unwrap().to_owned();
    let reply = of_principal(&room, "ann", on("tasks/get", &id));
    let request = peer.expect("tasks/get").await;
    let done = json!({"resultType": "complete", "taskId": "t2", "status": "completed", "result": {}});
    peer.answer(&request, done).await;
    result(reply).await;
    let start = tokio::time::Instant::now();
    peer.ended().await;
    assert!(start.elapsed() < Duration::from_secs(11 * 60), "one that has ended holds nothing");
}

#[tokio::test(start_paused = true)]
async fn a_task_with_an_id_that_is_too_long_holds_no_connection_and_is_counted() {
    let mut room = Setting::default().build();
    let reply = room.dispatch_in(&session(1), task_call());
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let id = "i".repeat(1025);
    peer.answer(&request, json!({"task": {"taskId": id, "status": "working"}})).await;
    assert!(
        result(reply).await["task"]["taskId"].as_str().unwrap().ends_with(&id),
        "the client has its task"
    );
    assert_eq!(room.count("mcp_edge_refused_total{bound=\"server_tasks\"}"), 1);
}

#[tokio::test(start_paused = true)]
async fn of_several_shared_processes_a_task_is_asked_of_its_own() {
    let mut room = Setting::default().era(EraChoice::Modern).isolation(Isolation::Shared).build();
    let task = |status: &str| json!({"resultType": "task", "taskId": "t1", "status": status});
    let reply = of_principal(&room, "ann", echo("a"));
    let mut first = room.accept_modern().await;
    let request = first.expect("tools/call").await;
    first.answer(&request, task("working")).await;
    let of_first = result(reply).await["taskId"].as_str().unwrap().to_owned();
    let _busy: Vec<Reply> = (0..9).map(|_| room.echo("b")).collect();
    first.calls(9).await;
    let mut second = room.accept_modern().await;
    tokio::time::sleep(Duration::from_millis(1)).await;

    let reply = of_principal(&room, "ann", echo("c"));
    let request = second.expect("tools/call").await;
    second.answer(&request, task("working")).await; // the same id by chance: they are numbers
    let of_second = result(reply).await["taskId"].as_str().unwrap().to_owned();
    for (status, in_first) in [
        ("working", true),
        ("working", false),
        ("completed", true),
        ("completed", true),
        ("completed", false),
    ] {
        let (peer, id) = if in_first { (&mut first, &of_first) } else { (&mut second, &of_second) };
        let reply = of_principal(&room, "ann", on("tasks/get", id));
        let request = peer.expect("tasks/get").await;
        peer.answer(&request, json!({"resultType": "complete", "taskId": "t1", "status": status})).await;
        assert_eq!(result(reply).await["status"], status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_tasks_is_read_within_the_bounds_of_lists() {
    let mut room = Setting::default().config(|config| config.list_bytes = 1000).build();
    let (key, _) = session_and_stream(1);
    let (mut peer, _) = start(&mut room, &key).await;
    let listing = tokio::spawn(room.pool.tasks(&key));
    for task in ["t1", "t2"] {
        let request = peer.expect("tasks/list").await;
        peer.answer(
            &request,
            json!({"tasks": [{"taskId": task}, {"status": "no id"}], "nextCursor": "again"}),
        )
        .await;
    }
    assert_eq!(listing.await.unwrap().len(), 2, "to where a cursor comes again");

    let listing = tokio::spawn(room.pool.tasks(&key));
    let request = peer.expect("tasks/list").await;
    let pad = "x".repeat(400);
    let tasks =
        json!([{"taskId": "t1", "pad": pad}, {"taskId": "t2", "pad": pad}, {"taskId": "t3", "pad": pad}]);
    peer.answer(&request, json!({"tasks": tasks, "nextCursor": "more"})).await;
    assert_eq!(listing.await.unwrap().len(), 2, "the bytes of a list");

    let listing = tokio::spawn(room.pool.tasks(&key));
    let request = peer.expect("tasks/list").await;
    peer.answer(&request, json!({"tasks": [{"taskId": "t1"}], "nextCursor": "2"})).await;
    let request = peer.expect("tasks/list").await;
    peer.refuse(&request, -32603).await;
    assert!(listing.await.unwrap().is_empty(), "a part would look like all");
}
