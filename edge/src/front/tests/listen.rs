//! Listens of modern clients: acknowledged, filtered, tagged, bounded, and ended in good order.

use std::time::Duration;

use super::*;

/// A listen with the id `id`, wanting `notifications`.
fn ask(id: &str, notifications: &str) -> String {
    modern("subscriptions/listen", &format!(r#""notifications":{notifications},"#)).replacen(
        r#""id":7"#,
        &format!(r#""id":{id}"#),
        1,
    )
}

async fn send(stage: &Stage, path: &str, body: &str) -> Response<Body> {
    stage.send(request("POST", path, body, &modern_headers("subscriptions/listen", "ignored"))).await
}

async fn listen(stage: &Stage, id: &str, notifications: &str) -> Body {
    let response = send(stage, "/mcp", &ask(id, notifications)).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    response.into_body()
}

/// The next message of a stream.
async fn heard(body: &mut Body) -> Value {
    let event = event(body).await.expect("an event");
    let data = event.strip_prefix("event: message\ndata: ").and_then(|rest| rest.strip_suffix("\n\n"));
    serde_json::from_str(data.unwrap_or_else(|| panic!("no message: {event}"))).unwrap()
}

fn change(stage: &Stage, tools: u64, prompts: u64, resources: u64) {
    stage.script.changes.send_replace(ListChanges { tools, prompts, resources });
}

fn update(stage: &Stage, listen: usize, params: &str) {
    let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{params}}}"#);
    let message = Message::scan(text.into(), &wire::limits::Limits::default()).unwrap();
    let sink = stage.script.subscribers.lock()[listen].sink.clone();
    sink.updated(&message);
}

/// Subscriptions that are held.
fn held(stage: &Stage) -> usize {
    Arc::strong_count(&stage.script.held) - 1
}

const KEY: &str = "io.modelcontextprotocol/subscriptionId";
const ACK: &str = "notifications/subscriptions/acknowledged";

#[tokio::test(start_paused = true)]
async fn what_is_heard_is_acknowledged_and_everything_carries_the_clients_id() {
    let stage = Stage::new();
    for (id, expected) in [("7", Value::from(7)), (r#""listen:0""#, "listen:0".into())] {
        let wanted = r#"{"toolsListChanged":true,"promptsListChanged":false,"later":{"x":1},
            "resourceSubscriptions":["a://1","unknown:2","a://1"]}"#;
        let mut stream = listen(&stage, id, wanted).await;
        let ack = heard(&mut stream).await;
        assert_eq!(ack["method"], ACK);
        let accepted = serde_json::json!({"toolsListChanged": true, "resourceSubscriptions": ["a://1"]});
        assert_eq!(ack["params"], serde_json::json!({"_meta": {KEY: expected}, "notifications": accepted}));
        assert_eq!(held(&stage), 1);

        let place = stage.script.subscribers.lock().len() - 1;
        update(&stage, place, r#"{"uri":"a://1"}"#);
        update(&stage, place, &format!(r#"{{"uri":"a://1/x","_meta":{{"{KEY}":99,"v/x":1}}}}"#));
        let first = heard(&mut stream).await;
        assert_eq!(first["method"], "notifications/resources/updated");
        assert_eq!(first["params"], serde_json::json!({"uri": "a://1", "_meta": {KEY: expected}}));
        let second = heard(&mut stream).await;
        assert_eq!(
            second["params"],
            serde_json::json!({"uri": "a://1/x", "_meta": {KEY: expected, "v/x": 1}})
        );

        let before = *stage.script.changes.borrow();
        change(&stage, before.tools + 1, before.prompts + 1, before.resources + 1);
        let changed = heard(&mut stream).await;
        let tools = "notifications/tools/list_changed";
        let expected =
            serde_json::json!({"jsonrpc": "2.0", "method": tools, "params": {"_meta": {KEY: expected}}});
        assert_eq!(changed, expected);
        change(&stage, before.tools + 1, before.prompts + 2, before.resources + 2);
        assert_eq!(
            event(&mut stream).await.as_deref(),
            Some(": keep-alive\n\n"),
            "the others are not wanted"
        );
        drop(stream);
        assert_eq!(held(&stage), 0, "closing the stream ends it");
    }
    assert_eq!(stage.metrics.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn many_listen_at_once_and_each_hears_its_own() {
    let stage = Stage::new();
    let mut one = listen(&stage, "1", r#"{"toolsListChanged":true,"resourcesListChanged":true}"#).await;
    let mut two = listen(&stage, "2", r#"{"promptsListChanged":true,"toolsListChanged":true}"#).await;
    for stream in [&mut one, &mut two] {
        assert_eq!(heard(stream).await["method"], ACK);
    }
    assert_eq!((stage.metrics.streams(), stage.permits.calls_in_flight()), (2, 0), "a listen is no call");
    change(&stage, 1, 1, 1);
    change(&stage, 2, 1, 1);
    for (stream, id, other) in [(&mut one, 1, "resources"), (&mut two, 2, "prompts")] {
        let got = [heard(stream).await, heard(stream).await];
        let methods = got.each_ref().map(|message| message["method"].as_str().unwrap());
        let changed = |list: &str| format!("notifications/{list}/list_changed");
        assert_eq!(methods.map(str::to_owned), [changed("tools"), changed(other)].map(String::from));
        assert!(got.iter().all(|message| message["params"]["_meta"][KEY] == id));
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_cannot_be_read_is_refused() {
    let stage = Stage::new();
    for odd in [
        "1",
        "[]",
        "null",
        r#"{"toolsListChanged":1}"#,
        r#"{"resourceSubscriptions":"a"}"#,
        r#"{"resourceSubscriptions":[1]}"#,
    ] {
        let response = send(&stage, "/mcp", &ask("7", odd)).await;
        assert_eq!(response.status(), 400, "{odd}");
        let answer = json(response).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&7.into(), &(-32602).into()), "{odd}");
    }
    let undeclared = send(&stage, "/mcp", &ask("7", r#"{"taskIds":["a"]}"#)).await;
    assert_eq!(undeclared.status(), 400);
    assert_eq!(json(undeclared).await["error"]["code"], -32021);
    let bare = send(&stage, "/mcp", &modern("subscriptions/listen", "")).await;
    assert_eq!(bare.status(), 400);
    let body = ask("7", "{}");
    let mut headers = modern_headers("tools/list", "");
    let mismatch = json(stage.send(post(&body, &headers)).await).await;
    assert_eq!(mismatch["error"]["code"], -32020, "headers are judged as for any request");
    headers = modern_headers("subscriptions/listen", "");
    headers.push(("accept", "application/json"));
    let response = stage.send(post(&body, &headers)).await;
    assert_eq!(response.status(), 406);
    assert_eq!(json(response).await["id"], 7);
    let mut empty = listen(&stage, "7", "{}").await;
    assert_eq!(heard(&mut empty).await["params"]["notifications"], serde_json::json!({}));
}

#[tokio::test(start_paused = true)]
async fn listens_of_one_principal_are_bounded() {
    let permits = permit::Config { listens: 2, ..permit::Config::default() };
    let stage = Stage::with(Setting { permits, ..Setting::default() });
    let one = listen(&stage, "1", "{}").await;
    let _two = listen(&stage, "2", "{}").await;
    let response = send(&stage, "/mcp", &ask("3", "{}")).await;
    assert_eq!(response.status(), 429);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(json(response).await["id"], 3);
    drop(one);
    listen(&stage, "3", "{}").await;
    let long: Vec<_> = (0..3).map(|n| format!("a://{n}/{}", "y".repeat(50 << 10))).collect();
    let wanted = serde_json::json!({ "resourceSubscriptions": long }).to_string();
    let response = send(&stage, "/mcp", &ask("4", &wanted)).await;
    assert_eq!(response.status(), 429);
    assert_eq!(held(&stage), 0);
}

#[tokio::test(start_paused = true)]
async fn a_listen_that_lags_is_ended() {
    let stage = Stage::new();
    let mut stream = listen(&stage, "7", r#"{"resourceSubscriptions":["a://1"]}"#).await;
    assert_eq!(heard(&mut stream).await["method"], ACK);
    let long = format!(r#"{{"uri":"a://1/{}"}}"#, "y".repeat(64 << 10));
    for _ in 0..4 {
        update(&stage, 0, &long);
    }
    let mut last = Value::Null;
    let mut updates = 0;
    while let Some(event) = event(&mut stream).await {
        let data = event.strip_prefix("event: message\ndata: ").unwrap();
        last = serde_json::from_str(data).unwrap();
        updates += usize::from(last["method"] == "notifications/resources/updated");
    }
    assert!(updates >= 2, "{updates}");
    assert_eq!((&last["id"], &last["error"]["data"]["reason"]), (&7.into(), &"lost".into()));
    assert_eq!(held(&stage), 0, "nothing is subscribed to for nobody");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_process_is_told() {
    let stage = Stage::new();
    let mut stream =
        listen(&stage, r#""l""#, r#"{"toolsListChanged":true,"resourceSubscriptions":["a://1"]}"#).await;
    assert_eq!(heard(&mut stream).await["method"], ACK);
    let Stage { drain, script, .. } = stage;
    let draining = tokio::spawn(drain.run(Duration::ZERO, Duration::from_secs(1)));
    let last = heard(&mut stream).await;
    let expected = serde_json::json!({"resultType": "complete", "_meta": {KEY: "l"}});
    assert_eq!((&last["id"], &last["result"]), (&"l".into(), &expected));
    assert_eq!(event(&mut stream).await, None);
    assert_eq!(Arc::strong_count(&script.held), 1);
    draining.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listen_keeps_nothing_of_its_request() {
    let (stage, held) = (Stage::new(), Arc::new(()));
    let body = watched(ask("7", r#"{"resourceSubscriptions":["a://1"]}"#), &held);
    let request = post("", &modern_headers("subscriptions/listen", "ignored")).map(|_| Full::from(body));
    let mut stream = stage.send(request).await.into_body();
    assert_eq!(heard(&mut stream).await["method"], ACK);
    assert_eq!(Arc::strong_count(&held), 1);
}
