//! One local client on a pair of pipes.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::asks::Server;
use super::*;
use crate::front::stdio;

/// The client's ends.
struct Local {
    input: DuplexStream,
    output: Lines<BufReader<DuplexStream>>,
    left: CancellationToken,
    served: JoinHandle<()>,
}

impl Local {
    fn start(stage: &Stage) -> Self {
        let (input, theirs) = tokio::io::duplex(1 << 16);
        let (output, ours) = tokio::io::duplex(1 << 16);
        let left = CancellationToken::new();
        let served = tokio::spawn(stdio::serve(stage.front.clone(), (theirs, output), left.clone()));
        Self { input, output: BufReader::new(ours).lines(), left, served }
    }

    async fn say(&mut self, line: &str) {
        self.input.write_all(line.replace('\n', " ").as_bytes()).await.unwrap();
        self.input.write_all(b"\n").await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let line = self.output.next_line().await.unwrap().expect("a line");
        serde_json::from_str(&line).unwrap()
    }

    async fn initialize(&mut self) -> Value {
        self.say(
            r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}"#,
        )
        .await;
        let answer = self.hear().await;
        self.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        answer
    }

    async fn code(&mut self, line: &str) -> (Value, i64) {
        self.say(line).await;
        let answer = self.hear().await;
        (answer["id"].clone(), answer["error"]["code"].as_i64().unwrap_or_default())
    }

    /// Closes the input; what is still said, until everything has ended.
    async fn leave(mut self) -> Vec<String> {
        drop(self.input);
        let mut rest = Vec::new();
        while let Some(line) = self.output.next_line().await.unwrap() {
            rest.push(line);
        }
        self.served.await.unwrap();
        rest
    }
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

async fn open_call(stage: &Stage) -> (Call, Responder) {
    until(|| stage.open_calls() > 0).await;
    stage.take_open()
}

/// A line ends with a newline; a carriage return may stand in it.
#[tokio::test(start_paused = true)]
async fn a_carriage_return_inside_a_string_is_refused() {
    let stage = Stage::new();
    let mut client = Local::start(&stage);
    client.initialize().await;
    let bad = LIST.replace("}", ",\"params\":{\"text\":\"a\rb\"}}");
    assert_eq!(client.code(&bad).await, (1.into(), -32700));
    stage.answer_next("{}");
    assert_eq!(client.code(&LIST.replace(':', ":\r")).await, (1.into(), 0));
    assert!(!stage.script.seen.lock().iter().any(|seen| seen.contains('\r')));
}

#[tokio::test(start_paused = true)]
async fn a_legacy_client_is_served_on_one_session() {
    let stage = Stage::new();
    let mut client = Local::start(&stage);
    assert_eq!(client.code(LIST).await, (1.into(), -32600), "initialize comes first");
    client.say(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).await;
    assert_eq!(
        client.hear().await,
        serde_json::json!({"jsonrpc": "2.0", "id": "p", "result": {}}),
        "but a ping"
    );
    let answer = client.initialize().await;
    assert_eq!((&answer["id"], &answer["result"]["protocolVersion"]), (&0.into(), &"2025-11-25".into()));
    stage.answer_next(r#"{"tools":[]}"#);
    client.say(LIST).await;
    assert_eq!(client.hear().await["result"]["tools"], serde_json::json!([]));
    client.say(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).await;
    assert_eq!(client.hear().await, serde_json::json!({"jsonrpc":"2.0","id":"p","result":{}}));

    stage.script.changes.send_replace(ListChanges { tools: 1, ..ListChanges::default() });
    assert_eq!(client.hear().await["method"], "notifications/tools/list_changed");

    let again = r#"{"jsonrpc":"2.0","id":5,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    assert_eq!(client.code(again).await, (5.into(), -32600));
    assert_eq!(stage.sessions.open(), 1);
    let seen = stage.script.seen.lock().len();
    assert_eq!(seen, 1);
    assert!(client.leave().await.is_empty());
    assert_eq!(stage.sessions.open(), 0, "the session ends with the pipe");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_taken_where_its_revision_has_them() {
    let stage = Stage::new();
    let mut client = Local::start(&stage);
    let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
    assert_eq!(client.code(&format!("[{ping}]")).await, (Value::Null, -32600), "no revision yet");
    client
        .say(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{}}}"#)
        .await;
    assert_eq!(client.hear().await["result"]["protocolVersion"], "2025-03-26");
    client.say(&format!("[{LIST},{ping},1]")).await;
    let mut heard = [client.hear().await, client.hear().await];
    heard.sort_by_key(|answer| answer["id"].is_null());
    assert_eq!(
        (&heard[0]["id"], &heard[1]["error"]["code"]),
        (&"p".into(), &(-32600).into()),
        "the call goes on"
    );
    open_call(&stage).await.1.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(client.hear().await, serde_json::json!({"jsonrpc":"2.0","id":1,"result":{}}));
    for bad in ["[]".to_owned(), format!("[{}]", [ping; 65].join(","))] {
        assert_eq!(client.code(&bad).await, (Value::Null, -32600), "{bad}");
    }
    assert_eq!(stage.hits("batch"), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_run_side_by_side_with_progress_and_are_cancelled_by_a_notification() {
    let stage = Stage::new();
    let mut client = Local::start(&stage);
    client.initialize().await;
    for id in ["1", "2"] {
        client
            .say(&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"a","_meta":{{"progressToken":"t{id}"}}}}}}"#
            ))
            .await;
    }
    let (_call, slow) = open_call(&stage).await;
    let (_call, quick) = open_call(&stage).await;
    slow.event(progress(1));
    assert_eq!(client.hear().await["params"]["progressToken"], "t1");
    quick.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(client.hear().await["id"], 2);
    client.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#).await;
    slow.cancelled().await;
    assert!(client.leave().await.is_empty(), "what is cancelled is not answered");
}

#[tokio::test(start_paused = true)]
async fn a_modern_client_needs_no_session() {
    let stage = Stage::new();
    let mut client = Local::start(&stage);
    client.say(&modern("server/discover", "")).await;
    let found = client.hear().await;
    assert_eq!((&found["id"], &found["result"]["supportedVersions"][0]), (&7.into(), &"2026-07-28".into()));
    stage.answer_next(r#"{"content":[]}"#);
    client.say(&modern("tools/call", r#""name":"echo","#)).await;
    assert_eq!(client.hear().await["result"]["content"], serde_json::json!([]));

    let call = modern("tools/call", r#""name":"slow","#);
    client.say(&call).await;
    let (_call, responder) = open_call(&stage).await;
    assert_eq!(client.code(&call).await, (7.into(), -32600), "the id is taken");
    client.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#).await;
    responder.cancelled().await;
    stage.answer_next("{}");
    client.say(&call).await;
    assert_eq!(client.hear().await["result"], serde_json::json!({}), "the id is free again");
    assert_eq!(client.code(&modern("ping", "")).await, (7.into(), -32601));
    let probe = r#"{"jsonrpc":"2.0","id":9,"method":"server/discover"}"#;
    assert_eq!(client.code(probe).await, (9.into(), -32601), "a probe without its marks");
    assert_eq!(stage.sessions.open(), 0);
    assert!(client.leave().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_listen_ends_by_a_notification_or_with_the_pipe() {
    let stage = Stage::new();
    let mut client = Local::start(&stage);
    let wanted = r#""notifications":{"toolsListChanged":true,"resourceSubscriptions":["a://1"]},"#;
    let listen = modern("subscriptions/listen", wanted);
    client.say(&listen).await;
    let ack = client.hear().await;
    assert_eq!(ack["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(ack["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
    assert_eq!(client.code(&listen).await, (7.into(), -32600), "the id is taken");
    stage.script.changes.send_replace(ListChanges { tools: 1, ..ListChanges::default() });
    assert_eq!(client.hear().await["method"], "notifications/tools/list_changed");
    client.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#).await;
    until(|| Arc::strong_count(&stage.script.held) <= 1).await;
    stage.script.changes.send_replace(ListChanges { tools: 2, ..ListChanges::default() });
    client.say(&listen).await;
    assert_eq!(
        client.hear().await["method"],
        "notifications/subscriptions/acknowledged",
        "the id is free again"
    );
    assert!(client.leave().await.is_empty(), "to a client that has left nothing is said");
    assert_eq!(Arc::strong_count(&stage.script.held), 1);
}

#[tokio::test(start_paused = true)]
async fn a_listen_hears_of_the_end_of_the_process() {
    let stage = Stage::new();
    let mut client = Local::start(&stage);
    client.say(&modern("subscriptions/listen", r#""notifications":{},"#)).await;
    assert_eq!(client.hear().await["method"], "notifications/subscriptions/acknowledged");
    let draining = tokio::spawn(stage.drain.run(Duration::ZERO, Duration::from_secs(5)));
    let last = client.hear().await;
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&7.into(), &"complete".into()));
    draining.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn lines_are_judged_as_bodies_are() {
    let mut front = Config::default();
    front.limits.body_bytes = 200;
    let stage = Stage::with(Setting { front, ..Setting::default() });
    let mut client = Local::start(&stage);
    assert_eq!(client.code("not json").await, (Value::Null, -32700));
    assert_eq!(client.code("[]").await.1, -32600);
    assert_eq!(client.code(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#).await.1, -32600);
    let long = format!(r#"{{"jsonrpc":"2.0","method":"ping","x":"{}","id":"long"}}"#, "y".repeat(300));
    assert_eq!(client.code(&long).await, ("long".into(), -32600));
    let notice = format!(r#"{{"jsonrpc":"2.0","method":"notifications/x","x":"{}"}}"#, "y".repeat(300));
    client.say(&notice).await;
    client.say("").await;
    assert_eq!(client.code(LIST).await, (1.into(), -32600), "the pipe lives, and nothing was said before");
    assert!(client.leave().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_input_ends_it_when_calls_are_finished() {
    let stage = Stage::new();
    let mut client = Local::start(&stage);
    client.initialize().await;
    client.say(LIST).await;
    let (_call, responder) = open_call(&stage).await;
    let left = client.left.clone();
    let rest = tokio::spawn(client.leave());
    left.cancelled().await;
    assert!(!responder.is_cancelled() && stage.sessions.open() == 1);
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(rest.await.unwrap(), [r#"{"jsonrpc":"2.0","id":1,"result":{}}"#]);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_input_refuses_what_nobody_can_answer_any_more() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let mut client = Local::start(&stage);
    let init = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{}}}}"#;
    client.say(init).await;
    client.hear().await;
    client.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#).await;
    let (_call, responder) = open_call(&stage).await;
    responder.event(Event::Ask(server.asks(1).0));
    assert_eq!(client.hear().await["method"], "roots/list");
    assert_eq!(server.heard(), []);
    let left = client.left.clone();
    let rest = tokio::spawn(client.leave());
    left.cancelled().await;
    until(|| !server.0.lock().is_empty()).await;
    responder.event(Event::Ask(server.asks(2).0));
    until(|| server.0.lock().len() > 1).await;
    assert_eq!(server.heard(), [1, 2].map(|token| (token, "nobody".to_owned())), "this one was too late");
    assert!(!responder.is_cancelled(), "the call is finished");
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(rest.await.unwrap(), [r#"{"jsonrpc":"2.0","id":1,"result":{}}"#]);
    assert_eq!(stage.hits("asks"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_end_is_cut_with_the_process() {
    let stage = Stage::new();
    let mut client = Local::start(&stage);
    client.initialize().await;
    client.say(LIST).await;
    let (_call, _responder) = open_call(&stage).await;
    let left = client.left.clone();
    let rest = tokio::spawn(client.leave());
    left.cancelled().await;
    stage.drain.run(Duration::ZERO, Duration::from_secs(20)).await;
    rest.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_stops_being_read() {
    let stage = Stage::new();
    let mut client = Local::start(&stage);
    client.initialize().await;
    let ping = format!("{}\n", r#"{"jsonrpc":"2.0","id":"0123456789","method":"ping"}"#);
    // Far more than both pipes, the outbox and the answers on their way can hold.
    let flood = tokio::time::timeout(Duration::from_secs(60), async {
        for _ in 0..100_000 {
            client.input.write_all(ping.as_bytes()).await.unwrap();
        }
    });
    assert!(flood.await.is_err(), "the pressure is felt");
    assert!(stage.hits("answers") > 0 && stage.hits("outbox") > 0);
    drop(client.output);
    client.left.cancelled().await;
    client.served.await.unwrap();
}
