//! Subscriptions on shared connections: by requests on legacy servers, by listens on modern ones.

use super::*;
use crate::call::{Server, Subscriber, Subscription, UpdateSink};
use crate::error::Kind;
use tokio::task::JoinHandle;

pub(super) const SUBSCRIBE: &str = "resources/subscribe";
const UNSUBSCRIBE: &str = "resources/unsubscribe";
const UPDATED: &str = "notifications/resources/updated";
pub(super) const LISTEN: &str = "subscriptions/listen";
const KEY: &str = "io.modelcontextprotocol/subscriptionId";

/// Sends the params of each update to a channel.
struct ChannelSink(mpsc::UnboundedSender<Value>);

impl UpdateSink for ChannelSink {
    fn updated(&self, message: &Message) {
        let message: Value = serde_json::from_slice(message.bytes()).unwrap();
        assert_eq!(message["method"], UPDATED);
        let _ = self.0.send(message["params"].clone());
    }

    fn lost(&self) {
        let _ = self.0.send("lost".into());
    }
}

/// A client without a session that subscribes.
pub(super) struct Client {
    subscriber: Subscriber,
    heard: mpsc::UnboundedReceiver<Value>,
}

impl Client {
    pub(super) fn new(principal: &str) -> Self {
        let (sender, heard) = mpsc::unbounded_channel();
        let subscriber = Subscriber {
            caller: Caller::new(principal),
            client: Arc::default(),
            affinity: Affinity::Principal,
            sink: Arc::new(ChannelSink(sender)),
        };
        Self { subscriber, heard }
    }

    pub(super) fn subscribe(&self, room: &Room, uri: &str) -> JoinHandle<Result<Subscription, Error>> {
        tokio::spawn(room.pool.subscribe(self.subscriber.clone(), uri.to_owned()))
    }

    pub(super) async fn next_update(&mut self) -> Value {
        timeout(GUARD, self.heard.recv()).await.expect("news").unwrap()
    }

    pub(super) fn has_no_update(&mut self) -> bool {
        self.heard.try_recv().is_err()
    }
}

pub(super) async fn subscribed(subscribing: JoinHandle<Result<Subscription, Error>>) -> Subscription {
    timeout(GUARD, subscribing).await.expect("an answer").unwrap().unwrap()
}

pub(super) async fn refused(subscribing: JoinHandle<Result<Subscription, Error>>) -> Error {
    timeout(GUARD, subscribing).await.expect("an answer").unwrap().unwrap_err()
}

impl Peer {
    /// Accepts the next request about a resource.
    pub(super) async fn accept_request(&mut self, method: &str, uri: &str) {
        let request = self.expect(method).await;
        assert_eq!(request["params"]["uri"], uri, "{request}");
        self.answer(&request, json!({})).await;
    }

    /// Acknowledges the next listen, which must be for `asked`, with what is `accepted`; returns its id.
    pub(super) async fn acknowledge(&mut self, asked: &[&str], accepted: &[&str]) -> Value {
        let request = self.expect(LISTEN).await;
        assert_eq!(request["params"]["notifications"]["resourceSubscriptions"], json!(asked), "{request}");
        let id = request["id"].clone();
        let params = json!({"_meta": {KEY: id}, "notifications": {"resourceSubscriptions": accepted}});
        self.notify("notifications/subscriptions/acknowledged", params).await;
        id
    }

    async fn update(&mut self, listen: &Value, uri: &str) {
        self.notify(UPDATED, json!({"uri": uri, "_meta": {KEY: listen, "v/x": 1}})).await;
    }
}

#[tokio::test(start_paused = true)]
async fn legacy_server_is_subscribed_once_for_all_and_unsubscribed_after_the_last() {
    let mut room = Setting::default().build();
    let (mut one, mut two) = (Client::new("ann"), Client::new("ann"));
    let subscribing = [one.subscribe(&room, "x://1"), two.subscribe(&room, "x://1")];
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://1").await;
    let [first, second] = subscribing;
    let (first, second) = (subscribed(first).await, subscribed(second).await);
    let third = subscribed(two.subscribe(&room, "x://1")).await;
    for (uri, of_it) in [("x://1", true), ("x://1/part", true), ("x://11", false), ("x://", false)] {
        peer.notify(UPDATED, json!({"uri": uri, "other": 1})).await;
        if of_it {
            assert_eq!(one.next_update().await, json!({"uri": uri, "other": 1}));
            assert_eq!(two.next_update().await["uri"], uri);
        }
    }
    // Calls of the principal and its subscriptions share a process.
    let reply = room.echo("a");
    peer.serve_echo().await;
    result(reply).await;
    assert!(one.has_no_update() && two.has_no_update(), "each hears of a change once, and of its own");
    drop((first, second));
    peer.notify(UPDATED, json!({"uri": "x://1"})).await;
    assert_eq!(two.next_update().await["uri"], "x://1");
    assert!(one.has_no_update());
    drop(third);
    peer.accept_request(UNSUBSCRIBE, "x://1").await;
    let again = two.subscribe(&room, "x://1");
    peer.accept_request(SUBSCRIBE, "x://1").await;
    subscribed(again).await;

    let other = Client::new("bob").subscribe(&room, "x://1");
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://1").await;
    subscribed(other).await;
    assert_eq!(room.dial.dialled(), 2, "another principal has another process");
}

#[tokio::test(start_paused = true)]
async fn new_process_is_subscribed_again_and_sinks_get_an_update() {
    let mut room = Setting::default().build();
    let mut client = Client::new("ann");
    let (one, two) = (client.subscribe(&room, "x://1"), client.subscribe(&room, "x://2"));
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://1").await;
    peer.accept_request(SUBSCRIBE, "x://2").await;
    let (_one, two) = (subscribed(one).await, subscribed(two).await);
    drop(peer);
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://1").await;
    assert_eq!(client.next_update().await, json!({"uri": "x://1"}));
    let request = peer.expect(SUBSCRIBE).await;
    peer.refuse(&request, -32602).await;
    // A subscription that is refused now is tried again with the next process.
    drop(peer);
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://1").await;
    peer.accept_request(SUBSCRIBE, "x://2").await;
    assert_eq!(
        [client.next_update().await, client.next_update().await],
        [json!({"uri": "x://1"}), json!({"uri": "x://2"})]
    );
    drop(two);
    peer.accept_request(UNSUBSCRIBE, "x://2").await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_a_subscription_does_not_close_for_idleness() {
    let mut room = Setting::default().build();
    let client = Client::new("ann");
    let subscribing = client.subscribe(&room, "x://1");
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://1").await;
    let subscription = subscribed(subscribing).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let reply = room.echo("a");
    peer.serve_echo().await;
    result(reply).await;
    drop(subscription);
    peer.accept_request(UNSUBSCRIBE, "x://1").await;
    peer.ended().await;
}

#[tokio::test(start_paused = true)]
async fn refused_subscription_delays_no_other() {
    let mut room = Setting::default().build();
    let client = Client::new("ann");
    let (no, never, yes) = (
        client.subscribe(&room, "x://a"),
        client.subscribe(&room, "x://b"),
        client.subscribe(&room, "x://c"),
    );
    let mut peer = room.accept_legacy().await;
    for uri in ["x://a", "x://b", "x://c"] {
        let request = peer.expect(SUBSCRIBE).await;
        assert_eq!(request["params"], json!({"uri": uri}));
        match uri {
            "x://a" => peer.refuse(&request, -32601).await,
            "x://c" => peer.answer(&request, json!({})).await,
            _ => {}
        }
    }
    subscribed(yes).await;
    peer.accept_request(UNSUBSCRIBE, "x://c").await;
    assert_eq!(refused(no).await.kind, Kind::InvalidParams);
    assert_eq!(refused(never).await.kind, Kind::Timeout);
    peer.expect("notifications/cancelled").await;
    peer.accept_request(UNSUBSCRIBE, "x://b").await;
    room.dial.set_down(true);
    drop(peer);
    assert_eq!(refused(client.subscribe(&room, "x://a")).await.kind, Kind::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_share_a_process_get_their_own_updates() {
    let about = |method: &str, uri: &str| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": uri}});
    for isolation in [Isolation::Principal, Isolation::Shared] {
        let mut room = Setting::default().isolation(isolation).build();
        let ((one, mut heard_one), (two, mut heard_two)) = (session_and_stream(1), session_and_stream(2));
        let mut replies =
            [&one, &two].map(|key| room.dispatch_in(key, about(SUBSCRIBE, "x://1"))).into_iter();
        let mut peer = room.accept_legacy().await;
        peer.accept_request(SUBSCRIBE, "x://1").await;
        for reply in replies.by_ref() {
            result(reply).await;
        }
        let reply = room.dispatch_in(&two, about(SUBSCRIBE, "x://2"));
        peer.accept_request(SUBSCRIBE, "x://2").await;
        result(reply).await;
        peer.notify(UPDATED, json!({"uri": "x://2"})).await;
        peer.notify(UPDATED, json!({"uri": "x://1"})).await;
        assert_eq!(next_notification(&mut heard_two).await.1, json!({"uri": "x://2"}));
        assert_eq!(next_notification(&mut heard_two).await.1, json!({"uri": "x://1"}));
        assert_eq!(next_notification(&mut heard_one).await.1, json!({"uri": "x://1"}));
        assert_eq!(one.settings.now().subscriptions.len(), 1);

        result(room.dispatch_in(&one, about(UNSUBSCRIBE, "x://1"))).await;
        peer.notify(UPDATED, json!({"uri": "x://1"})).await;
        assert_eq!(next_notification(&mut heard_two).await.1, json!({"uri": "x://1"}));
        assert!(!heard_one.is_ready() && one.settings.now().subscriptions.is_empty());
        two.ended.cancel();
        peer.accept_request(UNSUBSCRIBE, "x://1").await;
        peer.accept_request(UNSUBSCRIBE, "x://2").await;
        let reply = room.dispatch_in(&one, about(SUBSCRIBE, "x://3"));
        let request = peer.expect(SUBSCRIBE).await;
        peer.refuse(&request, -32602).await;
        assert_eq!(failure(reply).await.kind, Kind::InvalidParams);
        assert_eq!(room.dial.dialled(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn revoked_principal_loses_its_subscriptions_alone() {
    let about = |method: &str, uri: &str| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": uri}});
    let of = |principal: &str, number| {
        let (key, heard) = session_and_stream(number);
        (SessionHandle { caller: Caller::new(principal), ..key }, heard)
    };
    let ((ann, heard_ann), (bea, mut heard_bea)) = (of("ann", 1), of("bea", 2));
    let mut room = Setting::default().isolation(Isolation::Shared).build();
    let replies = [&ann, &bea].map(|key| room.dispatch_in(key, about(SUBSCRIBE, "x://1")));
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://1").await;
    for reply in replies {
        result(reply).await;
    }
    room.pool.revoke(&|principal| principal == "ann");
    assert_eq!([&ann, &bea].map(|key| key.settings.now().subscriptions.len()), [0, 1]);
    peer.notify(UPDATED, json!({"uri": "x://1"})).await;
    assert_eq!(next_notification(&mut heard_bea).await.1, json!({"uri": "x://1"}));
    assert!(!heard_ann.is_ready() && room.dial.dialled() == 1);
    let reply = room.dispatch_in(&ann, about(SUBSCRIBE, "x://2"));
    peer.accept_request(SUBSCRIBE, "x://2").await;
    result(reply).await; // it may be given back

    let mut room = Setting::default().build();
    let (ann, _heard) = of("ann", 3);
    let reply = room.dispatch_in(&ann, echo("under way"));
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let subscribing = room.dispatch_in(&ann, about(SUBSCRIBE, "x://1"));
    peer.accept_request(SUBSCRIBE, "x://1").await;
    result(subscribing).await;
    room.pool.revoke(&|principal| principal == "bea");
    assert_eq!(ann.settings.now().subscriptions.len(), 1);
    room.pool.revoke(&|principal| principal == "ann");
    assert!(ann.settings.now().subscriptions.is_empty(), "no later connection takes it up again");
    peer.answer(&request, json!({"content": []})).await;
    result(reply).await;
    peer.ended().await;
}

#[tokio::test(start_paused = true)]
async fn changed_resources_replace_the_listen() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let mut client = Client::new("ann");
    let first = client.subscribe(&room, "x://1");
    let mut peer = room.accept_modern().await;
    let one = peer.acknowledge(&["x://1"], &["x://1"]).await;
    let first = subscribed(first).await;
    peer.update(&one, "x://1/a").await;
    assert_eq!(
        client.next_update().await,
        json!({"uri": "x://1/a", "_meta": {"v/x": 1}}),
        "the tag is of that listen"
    );
    peer.update(&json!(4711), "x://1").await;

    let (second, third) = (client.subscribe(&room, "x://2"), client.subscribe(&room, "x://3"));
    tokio::time::sleep(Duration::from_millis(1)).await;
    let request = peer.expect(LISTEN).await;
    let two = request["id"].clone();
    assert_eq!(
        request["params"]["notifications"]["resourceSubscriptions"],
        json!(["x://1", "x://2", "x://3"])
    );
    let meta = &request["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    peer.update(&one, "x://1/b").await;
    let accepted =
        json!({"_meta": {KEY: two}, "notifications": {"resourceSubscriptions": ["x://1", "x://2"]}});
    peer.notify("notifications/subscriptions/acknowledged", accepted).await;
    let second = subscribed(second).await;
    assert_eq!(refused(third).await.kind, Kind::InvalidParams);
    let cancel = peer.expect("notifications/cancelled").await;
    assert_eq!(cancel["params"]["requestId"], one);
    peer.update(&two, "x://2").await;
    assert_eq!(
        [client.next_update().await["uri"].clone(), client.next_update().await["uri"].clone()],
        ["x://1/b", "x://2"]
    );
    assert!(client.has_no_update());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    drop(first);
    let last = peer.acknowledge(&["x://2"], &["x://2"]).await;
    assert_eq!(peer.expect("notifications/cancelled").await["params"]["requestId"], two);
    drop(second);
    assert_eq!(peer.expect("notifications/cancelled").await["params"]["requestId"], last);
    peer.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_listen_that_the_server_ends_is_opened_again() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let mut client = Client::new("ann");
    let subscribing = client.subscribe(&room, "x://1");
    let mut peer = room.accept_modern().await;
    let first = peer.acknowledge(&["x://1"], &["x://1"]).await;
    let _held = subscribed(subscribing).await;
    let result = json!({"resultType": "complete", "_meta": {KEY: first}});
    peer.send(json!({"jsonrpc": "2.0", "id": first, "result": result})).await;
    let second = peer.acknowledge(&["x://1"], &["x://1"]).await;
    assert_eq!(client.next_update().await, json!({"uri": "x://1"}), "nobody knows what came in between");
    peer.notify("notifications/cancelled", json!({"requestId": second})).await;
    peer.acknowledge(&["x://1"], &["x://1"]).await;
    assert_eq!(client.next_update().await, json!({"uri": "x://1"}));
    drop(peer);
    let mut peer = room.accept_modern().await;
    let last = peer.acknowledge(&["x://1"], &["x://1"]).await;
    assert_eq!(client.next_update().await, json!({"uri": "x://1"}));
    peer.update(&last, "x://1").await;
    assert_eq!(client.next_update().await["uri"], "x://1");
}

#[tokio::test(start_paused = true)]
async fn modern_server_without_listens_refuses_subscriptions() {
    let mut room = Setting::default().era(EraChoice::Modern).build();
    let subscribing = Client::new("ann").subscribe(&room, "x://1");
    let mut peer = room.accept_modern().await;
    let request = peer.expect(LISTEN).await;
    peer.refuse(&request, -32601).await;
    assert_eq!(refused(subscribing).await.kind, Kind::InvalidParams);
    let (key, mut heard) = session_and_stream(1);
    let subscribe = json!({"jsonrpc": "2.0", "id": 1, "method": SUBSCRIBE, "params": {"uri": "x://2"}});
    let reply = room.dispatch_in(&key, subscribe);
    let id = peer.acknowledge(&["x://2"], &["x://2"]).await;
    result(reply).await;
    peer.update(&id, "x://2").await;
    assert_eq!(next_notification(&mut heard).await.1, json!({"uri": "x://2", "_meta": {"v/x": 1}}));
    key.ended.cancel();
    assert_eq!(peer.expect("notifications/cancelled").await["params"]["requestId"], id);
}

#[tokio::test(start_paused = true)]
async fn subscriptions_move_from_a_removed_address() {
    for era in [EraChoice::Legacy, EraChoice::Modern] {
        let mut room = Setting::default().era(era).build();
        let mut client = Client::new("ann");
        let subscribing = client.subscribe(&room, "x://1");
        let serve = async |room: &mut Room| match era {
            EraChoice::Modern => {
                let mut peer = room.accept_modern().await;
                peer.acknowledge(&["x://1"], &["x://1"]).await;
                peer
            }
            _ => {
                let mut peer = room.accept_legacy().await;
                peer.accept_request(SUBSCRIBE, "x://1").await;
                peer
            }
        };
        let mut old = serve(&mut room).await;
        let _held = subscribed(subscribing).await;
        *room.dial.endpoints.lock() = vec![Fake::endpoint(2)];
        let new = serve(&mut room).await;
        assert_ne!(old.endpoint, new.endpoint);
        old.ended().await;
        assert_eq!(client.next_update().await, json!({"uri": "x://1"}));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sessions_own_connection_to_a_modern_server_ends_with_it() {
    let mut room = Setting::default().era(EraChoice::Modern).isolation(Isolation::Session).build();
    let (key, mut heard) = session_and_stream(1);
    let subscribe = json!({"jsonrpc": "2.0", "id": 1, "method": SUBSCRIBE, "params": {"uri": "x://1"}});
    let reply = room.dispatch_in(&key, subscribe);
    let mut peer = room.accept_modern().await;
    let id = peer.acknowledge(&["x://1"], &["x://1"]).await;
    result(reply).await;
    let reply = room.echo_in(&key, "a");
    peer.serve_echo().await;
    result(reply).await;
    peer.update(&id, "x://1").await;
    assert_eq!(next_notification(&mut heard).await.1["uri"], "x://1");
    assert_eq!(room.count("mcp_edge_upstream_in_flight{server=\"time\"}"), 0, "a listen is no call");
    key.ended.cancel();
    peer.ended().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(room.dial.dialled(), 1, "and is not opened again");
}

#[tokio::test(start_paused = true)]
async fn subscribe_requests_are_sent_a_few_at_a_time() {
    let mut room = Setting::default().build();
    let client = Client::new("ann");
    let uris: Vec<_> = (10..40).map(|n| format!("x://{n}")).collect();
    let subscribing: Vec<_> = uris.iter().map(|uri| client.subscribe(&room, uri)).collect();
    let mut peer = room.accept_legacy().await;
    let mut asked = Vec::new();
    for _ in 0..8 {
        asked.push(peer.expect(SUBSCRIBE).await);
    }
    assert!(
        timeout(Duration::from_secs(1), peer.lines.fill_buf()).await.is_err(),
        "no more before an answer"
    );
    for _ in 8..uris.len() {
        let request = asked.remove(0);
        peer.answer(&request, json!({})).await;
        asked.push(peer.expect(SUBSCRIBE).await);
    }
    for request in &asked {
        peer.answer(request, json!({})).await;
    }
    let mut subscriptions = Vec::new();
    for one in subscribing {
        subscriptions.push(subscribed(one).await);
    }
    drop(subscriptions);
    for _ in &uris {
        let request = peer.expect(UNSUBSCRIBE).await;
        peer.answer(&request, json!({})).await;
    }
}

#[tokio::test(start_paused = true)]
async fn calls_and_subscriptions_of_an_askable_client_share_a_process() {
    let mut room = Setting::default().build();
    let capabilities = Some(Bytes::from_static(br#"{"elicitation":{"form":{}}}"#));
    let able = Arc::new(crate::call::Client { capabilities, ..crate::call::Client::default() });
    let mut client = Client::new("ann");
    client.subscriber.client = able.clone();
    let call = |room: &Room, request: Value| {
        room.pool.dispatch(Call { client: able.clone(), ..room.call_of("ann", request) })
    };
    let subscribing = client.subscribe(&room, "x://1");
    let mut peer = room.accept_legacy().await;
    peer.accept_request(SUBSCRIBE, "x://1").await;
    let _held = subscribed(subscribing).await;

    // A call that may be asked leases the same process, and its changes cause updates.
    let reply = call(&room, echo("a"));
    let request = peer.expect("tools/call").await;
    peer.notify(UPDATED, json!({"uri": "x://1"})).await;
    assert_eq!(client.next_update().await["uri"], "x://1");
    let complete = json!({"jsonrpc": "2.0", "id": 1, "method": "completion/complete", "params": {}});
    let completion = call(&room, complete);
    let completed = peer.expect("completion/complete").await;
    peer.answer(&completed, json!({})).await;
    result(completion).await;
    peer.answer(&request, json!({})).await;
    result(reply).await;
    assert_eq!(room.count("mcp_edge_upstream_connections{server=\"time\"}"), 1);

    // A client with other capabilities gets another seat.
    let other = room.dispatch_as(r#"{"roots":{}}"#, echo("b"));
    let mut beside = room.accept_legacy().await;
    beside.serve_echo().await;
    result(other).await;
    peer.notify(UPDATED, json!({"uri": "x://1"})).await;
    assert_eq!(client.next_update().await["uri"], "x://1");
}
