//! The transport of 2024-11-05: a stream first, then messages beside it.

use std::time::Duration;

use super::asks::Server;
use super::rounds::want_text;
use super::*;

const INIT: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{}}}"#;
const READY: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

/// A client: its stream, and where its messages go.
struct Client<'a> {
    stage: &'a Stage,
    stream: Body,
    endpoint: String,
}

impl<'a> Client<'a> {
    async fn open(stage: &'a Stage, path: &str) -> Self {
        let response = stage.send(request("GET", path, "", &[("accept", "text/event-stream")])).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut stream = response.into_body();
        let first = event(&mut stream).await.unwrap();
        let reference = first.strip_prefix("event: endpoint\ndata: ").unwrap().trim_end().to_owned();
        let folder = &path[..=path.rfind('/').unwrap()];
        Self { stage, stream, endpoint: format!("{folder}{reference}") }
    }

    async fn post(&self, body: &str) -> u16 {
        self.stage.send(request("POST", &self.endpoint, body, &[])).await.status().as_u16()
    }

    /// The next message on the stream.
    async fn hear(&mut self) -> Value {
        loop {
            let event = event(&mut self.stream).await.expect("the stream goes on");
            if let Some(data) = event.strip_prefix("event: message\ndata: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }

    async fn ask(&mut self, body: &str) -> Value {
        assert_eq!(self.post(body).await, 202, "{body}");
        self.hear().await
    }

    async fn initialize(&mut self) {
        assert_eq!(self.ask(INIT).await["result"]["protocolVersion"], "2024-11-05");
        assert_eq!(self.post(READY).await, 202);
    }
}

async fn open_call(stage: &Stage) -> (Call, Responder) {
    until(|| stage.open_calls() > 0).await;
    stage.take_open()
}

fn channels(front: &Front) -> usize {
    front.channels.count()
}

/// Waits until the tasks behind the streams have seen what happened.
async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn everything_comes_over_the_one_stream() {
    let stage = Stage::new();
    let mut client = Client::open(&stage, "/sse").await;
    assert!(client.endpoint.starts_with("/messages?sessionId=v1."), "{}", client.endpoint);
    client.initialize().await;
    stage.answer_next(r#"{"tools":[]}"#);
    assert_eq!(client.ask(LIST).await["result"]["tools"], serde_json::json!([]));
    assert_eq!(client.ask(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).await["id"], "p");

    let call = r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"a","_meta":{"progressToken":"t"}}}"#;
    assert_eq!(client.post(call).await, 202, "before the answer");
    let (call, responder) = open_call(&stage).await;
    assert!(matches!(call.affinity, crate::call::Affinity::Session(_)));
    responder.event(progress(1));
    assert_eq!(client.hear().await["params"]["progressToken"], "t");
    stage.script.changes.send_replace(ListChanges { tools: 1, ..ListChanges::default() });
    assert_eq!(client.hear().await["method"], "notifications/tools/list_changed");
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(client.hear().await, serde_json::json!({"jsonrpc":"2.0","id":3,"result":{}}));
    assert_eq!((stage.metrics.streams(), stage.sessions.open()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_instructions_come_when_they_are_known() {
    let stage = Stage::new();
    *stage.script.instructions.lock() = Some("be kind".to_owned());
    stage.script.settled.send_replace(false);
    let mut client = Client::open(&stage, "/sse").await;
    assert_eq!(client.post(INIT).await, 202);
    assert_eq!(client.ask(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).await["id"], "p");
    stage.script.changes.send_replace(ListChanges { tools: 1, ..ListChanges::default() });
    stage.script.settled.send_replace(true);
    assert_eq!(client.hear().await["result"]["instructions"], "be kind", "and nothing before");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_taken_where_its_revision_has_them() {
    let stage = Stage::new();
    let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
    let mut client = Client::open(&stage, "/sse").await;
    client.ask(&INIT.replace("2024-11-05", "2025-03-26")).await;
    assert_eq!(client.post(&format!("[{READY},{LIST},{ping}]")).await, 202);
    assert_eq!(client.hear().await["id"], "p", "the call goes on");
    open_call(&stage).await.1.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(client.hear().await, serde_json::json!({"jsonrpc":"2.0","id":1,"result":{}}));
    let full = format!("[{}]", [ping; 64].join(","));
    assert_eq!(client.post(&full).await, 202);
    for _ in 0..64 {
        assert_eq!(client.hear().await["id"], "p");
    }
    for bad in ["[]".to_owned(), format!("[{}]", [ping; 65].join(","))] {
        assert_eq!(client.post(&bad).await, 400, "{bad}");
    }
    assert_eq!(stage.hits("batch"), 1);

    // A client that reads no answers: the batch is refused before its call has begun.
    let lone = format!("[{ping},{LIST}]");
    let mut taken = 0;
    while client.post(&full).await == 202 {
        taken += 1;
    }
    assert!(taken >= 256, "{taken}");
    assert_eq!((client.post(&lone).await, stage.open_calls()), (429, 0));

    let mut other = Client::open(&stage, "/sse").await;
    other.initialize().await;
    assert_eq!(other.post(&format!("[{ping}]")).await, 400);
}

#[tokio::test(start_paused = true)]
async fn a_server_asks_over_the_stream_and_is_answered_beside_it() {
    let (stage, server) = (Stage::new(), Arc::new(Server::default()));
    let mut client = Client::open(&stage, "/sse").await;
    assert!(
        client.ask(&INIT.replace(r#""capabilities":{}"#, r#""capabilities":{"roots":{}}"#)).await["result"]
            .is_object()
    );
    assert_eq!(client.post(LIST).await, 202);
    let (_call, responder) = open_call(&stage).await;
    assert!(responder.event(Event::Ask(server.asks(9).0)));
    let ask = client.hear().await;
    assert_eq!(ask["method"], "roots/list");
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"roots":[]}}}}"#, ask["id"]);
    assert_eq!(client.post(&answer).await, 202);
    assert_eq!(server.heard(), [(9, r#"result {"roots":[]}"#.to_owned())]);
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(client.hear().await["id"], 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_modern_server_wants_first_is_asked_over_the_stream() {
    let stage = Stage::new();
    let mut client = Client::open(&stage, "/sse").await;
    client.ask(&INIT.replace(r#""capabilities":{}"#, r#""capabilities":{"roots":{}}"#)).await;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#;
    assert_eq!(client.post(call).await, 202);
    let (call, responder) = open_call(&stage).await;
    want_text(call, responder, r#"{"inputRequests":{"k":{"method":"roots/list"}},"requestState":"s"}"#);
    let ask = client.hear().await;
    assert_eq!(ask["method"], "roots/list");
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"roots":[]}}}}"#, ask["id"]);
    assert_eq!(client.post(&answer).await, 202);
    let (call, responder) = open_call(&stage).await;
    let sent: Value = serde_json::from_slice(call.request.bytes()).unwrap();
    assert_eq!(sent["params"]["inputResponses"], serde_json::json!({"k": {"roots": []}}));
    assert_eq!(sent["params"]["requestState"], "s");
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(client.hear().await["id"], 1);
}

#[tokio::test(start_paused = true)]
async fn closing_the_stream_ends_the_session_and_its_calls() {
    let stage = Stage::new();
    let mut client = Client::open(&stage, "/sse").await;
    client.initialize().await;
    assert_eq!(client.post(LIST).await, 202);
    let (_call, responder) = open_call(&stage).await;
    let Client { stream, endpoint, .. } = client;
    drop(stream);
    responder.cancelled().await;
    until(|| stage.sessions.open() == 0 && stage.metrics.streams() == 0).await;
    until(|| channels(&stage.front) == 0).await;
    assert_eq!(stage.send(request("POST", &endpoint, LIST, &[])).await.status(), 404);
}

/// A body that is sent when the test says so.
struct Late(tokio::sync::oneshot::Receiver<&'static str>);

impl http_body::Body for Late {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        if self.0.is_terminated() {
            return std::task::Poll::Ready(None);
        }
        let text = std::task::ready!(std::pin::pin!(&mut self.0).poll(context));
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from(text.unwrap())))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_channel_ends_while_it_is_read_hears_that_it_is_gone() {
    let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
    for (version, body) in [
        ("2024-11-05", LIST),
        ("2024-11-05", ping),
        ("2024-11-05", READY),
        ("2025-03-26", r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]"#),
    ] {
        let stage = Stage::new();
        let mut client = Client::open(&stage, "/sse").await;
        client.ask(&INIT.replace("2024-11-05", version)).await;
        assert_eq!(client.post(READY).await, 202);
        let (write, read) = tokio::sync::oneshot::channel();
        let posted = request("POST", &client.endpoint, "", &[]).map(|_| Late(read));
        let posted = tokio::spawn(stage.front.clone().handle(posted));
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(client);
        until(|| channels(&stage.front) == 0).await;
        write.send(body).unwrap();
        assert_eq!(posted.await.unwrap().status(), 404, "{body}");
        assert!(stage.script.seen.lock().is_empty(), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_for_the_modern_era_is_answered_with_no() {
    let stage = Stage::new();
    let mut client = Client::open(&stage, "/sse").await;
    for probe in [modern("server/discover", ""), modern("tools/list", "")] {
        let answer = client.ask(&probe).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&7.into(), &(-32601).into()));
    }
    assert_eq!(client.ask(LIST).await["error"]["code"], -32600, "initialize comes first");
    let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
    assert_eq!(client.ask(ping).await["result"], serde_json::json!({}), "but a ping");
    client.initialize().await;
    let bare = r#"{"jsonrpc":"2.0","id":8,"method":"server/discover"}"#;
    assert_eq!(client.ask(bare).await["error"]["code"], -32601);
    assert_eq!(client.ask(INIT).await["error"]["code"], -32600, "once is enough");
}

#[tokio::test(start_paused = true)]
async fn a_channel_serves_its_principal_at_its_path() {
    let tokens = vec![("secret-token-1", "a"), ("secret-token-2", "b")];
    let stage = Stage::with(Setting { tokens, ..Setting::default() });
    let (a, b) = (("authorization", "Bearer secret-token-1"), ("authorization", "Bearer secret-token-2"));
    assert_eq!(stage.send(request("GET", "/sse", "", &[])).await.status(), 401);
    let mut stream = stage.send(request("GET", "/servers/time/sse", "", &[a])).await.into_body();
    let first = event(&mut stream).await.unwrap();
    let reference = first.strip_prefix("event: endpoint\ndata: ").unwrap().trim_end();
    let status = async |path: &str, headers: &[(&str, &str)], body: &str| {
        stage.send(request("POST", path, body, headers)).await.status().as_u16()
    };
    let endpoint = format!("/servers/time/{reference}");
    assert_eq!(status(&endpoint, &[], INIT).await, 401, "an address is no credential");
    assert_eq!(status(&endpoint, &[b], INIT).await, 404);
    assert_eq!(status(&format!("/{reference}"), &[a], INIT).await, 404);
    assert_eq!(status(&format!("{endpoint}A"), &[a], INIT).await, 404);
    assert_eq!(status("/servers/time/messages?sessionId=guess", &[a], INIT).await, 404);
    assert_eq!(status("/servers/time/messages", &[a], INIT).await, 400);
    assert_eq!(status(&endpoint, &[a], "not json").await, 400);
    assert_eq!(status(&endpoint, &[a, ("content-type", "text/plain")], INIT).await, 415);
    assert_eq!(status(&endpoint, &[a], INIT).await, 202);
    let answer = event(&mut stream).await.unwrap();
    assert!(answer.contains("use time well"), "one server alone: {answer}");
    let token = reference.split('=').nth(1).unwrap();
    assert_eq!(status("/mcp", &[a, ("mcp-session-id", token)], LIST).await, 404, "of another kind");
    for (method, path) in [("POST", "/sse"), ("DELETE", "/sse"), ("GET", "/messages"), ("PUT", "/messages")] {
        assert_eq!(stage.send(request(method, path, "", &[a])).await.status(), 405, "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_endpoint_is_beside_the_stream_also_behind_a_slash() {
    let stage = Stage::new();
    let response = stage.send(request("GET", "/sse/", "", &[])).await;
    let first = event(&mut response.into_body()).await.unwrap();
    assert!(first.starts_with("event: endpoint\ndata: ../messages?sessionId="), "{first}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_never_initialized_ends() {
    let stage = Stage::new();
    let mut client = Client::open(&stage, "/sse").await;
    let mut kept_alive = 0;
    while event(&mut client.stream).await.is_some() {
        kept_alive += 1;
    }
    assert!(kept_alive <= 2, "30 s at 15 s each");
    assert_eq!(client.post(INIT).await, 404);
    assert_eq!(stage.hits("initialize"), 1);
}

#[tokio::test(start_paused = true)]
async fn streams_are_bounded_and_their_places_come_back() {
    let front = Config { channels: 2, ..Config::default() };
    let stage = Stage::with(Setting { front, ..Setting::default() });
    let (one, _two) = (Client::open(&stage, "/sse").await, Client::open(&stage, "/sse").await);
    let refused = stage.send(request("GET", "/sse", "", &[])).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(stage.hits("sessions"), 1);
    drop(one);
    until(|| channels(&stage.front) == 1).await;
    Client::open(&stage, "/sse").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_told_to_stop() {
    let stage = Stage::new();
    let mut client = Client::open(&stage, "/sse").await;
    client.initialize().await;
    let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
    let mut taken = 0;
    while client.post(ping).await == 202 {
        taken += 1;
        tokio::task::yield_now().await;
        assert!(taken < 1000, "it is bounded");
    }
    assert_eq!(client.post(ping).await, 429);
    assert_eq!(stage.hits("answers"), 2);
    assert!(stage.hits("outbox") > 0, "and before that they waited for a place");
    for _ in 0..taken {
        assert_eq!(client.hear().await["id"], "p", "what was taken is answered");
    }
    assert_eq!(client.ask(ping).await["id"], "p", "and then there is room again");
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_calls_finish_and_then_ends_the_stream() {
    let stage = Stage::new();
    let mut client = Client::open(&stage, "/sse").await;
    client.initialize().await;
    assert_eq!(client.post(LIST).await, 202);
    let (_call, responder) = open_call(&stage).await;
    let front = stage.front.clone();
    let Client { mut stream, .. } = client;
    let drained = tokio::spawn(stage.drain.run(Duration::ZERO, Duration::from_secs(20)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert!(event(&mut stream).await.unwrap().contains(r#""id":1,"result":{}"#));
    assert_eq!(event(&mut stream).await, None);
    drained.await.unwrap();
    assert_eq!(channels(&front), 0);
}

#[tokio::test]
async fn a_transport_that_was_not_asked_for_is_not_there() {
    for (streaming, sse) in [(true, false), (false, true)] {
        let front = Config { streaming, sse, ..Config::default() };
        let stage = Stage::with(Setting { front, ..Setting::default() });
        let status = async |request| stage.send(request).await.status();
        assert_eq!(status(request("GET", "/sse", "", &[])).await == 404, !sse);
        assert_eq!(status(request("POST", "/messages", INIT, &[])).await == 404, !sse);
        assert_eq!(status(post(INIT, &[])).await == 404, !streaming);
        assert_eq!(status(request("POST", "/mcp/call", "{}", &[])).await == 404, !streaming);
    }
}
