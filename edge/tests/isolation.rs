//! Two principals with two sessions each on servers that keep state, and everything that might cross: nothing of
//! one session ever reaches another, and ids that were stolen, guessed or altered are refused. Release programs;
//! a bridge for each of `server-everything`, `server-memory` and a scripted server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use serde_json::{Value, json};
use testkit::client::Client;
use testkit::eventually;
use testkit::http::Request;
use testkit::peer::{Peer, Transport};
use testkit::process::{Bridge, Edge, Scratch, binary};
use testkit::real;
use tokio::process::Command;

struct Setup {
    edge: Edge,
    /// They end after the edge.
    _bridges: Vec<Bridge>,
    _scratch: Scratch,
}

const ALICE: &str = "the-token-of-alice";
const BOB: &str = "the-token-of-bob";
const ROOTS_CHANGED: &str = "notifications/roots/list_changed";

async fn setup() -> Setup {
    let scratch = Scratch::new();
    // A graph for each process, as the memory of a container is: the bridge gives each a name of its own.
    let memory = format!(
        "MEMORY_FILE_PATH={}/$DOCKER_MCP_BRIDGE_CONN.json exec node {}",
        scratch.path("").display(),
        real::server("memory")
    );
    let scripted = binary("scripted-server").display().to_string();
    let commands = [
        vec!["node".to_owned(), real::server("everything")],
        vec!["sh".to_owned(), "-c".to_owned(), memory],
        [&scripted, "--on", "tools/call:t0=flood:5,progress:3,answer", "--tools", "1"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let (mut bridges, mut servers) = (Vec::new(), String::new());
    for (name, command) in ["everything", "memory", "scripted"].iter().zip(commands) {
        let bridge = Bridge::start(&command).await;
        servers.push_str(&format!("  {name}: {{address: \"{}\"}}\n", bridge.address));
        bridges.push(bridge);
    }
    let tokens = "auth: {tokens: [{env: ALICE, principal: alice}, {env: BOB, principal: bob}]}";
    let config = scratch.write("edge.yaml", &format!("{tokens}\nservers:\n{servers}"));
    let mut command = Command::new(binary("mcp-edge"));
    command.arg("--config").arg(config).env("ALICE", ALICE).env("BOB", BOB);
    let edge = Edge::start_with(command).await;
    edge.ready().await;
    Setup { edge, _bridges: bridges, _scratch: scratch }
}

impl Setup {
    async fn peer(&self, token: &str, word: &str, transport: Transport) -> Peer {
        Peer::connect(self.edge.address, token, word, transport).await
    }

    /// The status of a request as it stands.
    async fn status(&self, request: &Request) -> u16 {
        request.send(self.edge.address).await.unwrap().status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_one_session_reaches_another() {
    let setup = setup().await;
    let who = [
        (ALICE, "word-of-alice-a", Transport::Streamable),
        (ALICE, "word-of-alice-b", Transport::Sse),
        (BOB, "word-of-bob-a", Transport::Streamable),
        (BOB, "word-of-bob-b", Transport::Sse),
    ];
    let mut peers = Vec::new();
    for (token, word, transport) in who {
        peers.push(setup.peer(token, word, transport).await);
    }
    // Clients without a session have their principal's process, and not that of one of its sessions.
    let modern = |token| Client::modern(setup.edge.address).token(token);
    tokio::join!(
        live(&peers[0]),
        live(&peers[1]),
        live(&peers[2]),
        live(&peers[3]),
        remember(modern(ALICE), "word-of-alice-m"),
        remember(modern(BOB), "word-of-bob-m"),
    );

    let words = who.map(|(_, word, _)| word).into_iter().chain(["word-of-alice-m", "word-of-bob-m"]);
    for word in words {
        for peer in peers.iter().filter(|peer| peer.word() != word) {
            let heard = peer.heard();
            let leaked = heard.iter().find(|heard| heard.message.to_string().contains(word));
            assert!(leaked.is_none(), "{} heard {leaked:?}", peer.word());
        }
    }
    peers.iter().for_each(all_of_its_own);
    assert_eq!(setup.edge.metric("mcp_edge_sessions").await, Some(4.0));
}

/// Makes the servers answer, ask, log and store something that contains the peer's own word.
async fn live(peer: &Peer) {
    let word = peer.word();
    let uri = format!("demo://resource/dynamic/text/{word}");
    let says = |text: &str| assert!(text.contains(word), "{word} heard: {text}");

    assert!(peer.request("logging/setLevel", json!({"level": "debug"})).await["result"].is_object());
    says(&peer.tool("trigger-sampling-request", json!({"prompt": word})).await);
    says(&peer.tool("trigger-elicitation-request", json!({})).await);
    says(&peer.tool("get-roots-list", json!({})).await);
    assert!(peer.request("resources/subscribe", json!({"uri": uri})).await["result"].is_object());
    // Of the URI of somebody else, only the name is the same: each process has its own.
    assert!(peer.request("resources/subscribe", json!({"uri": COMMON})).await["result"].is_object());
    peer.tool("toggle-subscriber-updates", json!({})).await;
    peer.tool("toggle-simulated-logging", json!({})).await;
    peer.tool("trigger-long-running-operation", json!({"duration": 0.5, "steps": 5})).await;

    let task = json!({"name": "simulate-research-query", "arguments": {"topic": word, "ambiguous": true}, "task": {}});
    let task = peer.request("tools/call", task).await["result"]["task"]["taskId"].clone();
    let result = peer.request("tasks/result", json!({"taskId": task})).await;
    says(&result["result"]["content"][0]["text"].to_string());
    let tasks = peer.request("tasks/list", json!({})).await["result"]["tasks"].clone();
    assert_eq!(tasks.as_array().unwrap().len(), 1, "{tasks}");
    assert_eq!(tasks[0]["taskId"], task);

    let entity = json!({"name": word, "entityType": "word", "observations": [word]});
    says(&peer.tool("create_entities", json!({"entities": [entity]})).await);
    says(&peer.tool("read_graph", json!({})).await);
    says(&peer.tool("t0", json!({"word": word})).await);

    // The last answer comes last, so when it is there, everything else is.
    let asked = peer.heard_of("roots/list").len();
    peer.notify(ROOTS_CHANGED, json!({})).await;
    eventually("the last question", async || (peer.heard_of("roots/list").len() > asked).then_some(())).await;
    eventually("an update", async || (!updates(peer).is_empty()).then_some(())).await;
}

/// Writes a word into the memory of a client without a session and reads the memory.
async fn remember(client: Client, word: &'static str) {
    let entity = json!({"name": word, "entityType": "word", "observations": []});
    client.call_tool("create_entities", json!({"entities": [entity]})).await;
    let graph = client.call_tool("read_graph", json!({})).await;
    let graph: Value = serde_json::from_str(graph.text()).unwrap();
    let entities = graph["entities"].as_array().unwrap();
    assert!(entities.len() == 1 && entities[0]["name"] == word, "{entities:?}");
}

fn updates(peer: &Peer) -> Vec<Value> {
    let updated = peer.heard_of("notifications/resources/updated");
    updated.into_iter().map(|message| message["params"]["uri"].clone()).collect()
}

/// Checks that the peer received each of its own messages exactly as often as it was sent, and none of another peer's.
fn all_of_its_own(peer: &Peer) {
    let (word, count) = (peer.word(), |method: &str| peer.heard_of(method).len());
    assert_eq!(count("sampling/createMessage"), 1, "{word}");
    assert_eq!(count("elicitation/create"), 2, "{word}: in a call, and for a task");
    assert_eq!(count("notifications/progress"), 5 + 3, "{word}");
    let logs = peer.heard_of("notifications/message");
    let flooded = logs.iter().filter(|log| log["params"]["logger"] == "flood").count();
    assert_eq!(flooded, 5, "{word}");
    let subscribed = logs.iter().filter(|log| log.to_string().contains("Received Subscribe")).count();
    assert_eq!(subscribed, 2, "{word}");
    let own = json!(format!("demo://resource/dynamic/text/{word}"));
    let updates = updates(peer);
    assert!(updates.contains(&own) && updates.iter().all(|uri| *uri == own || *uri == COMMON), "{updates:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stolen_guessed_and_altered_session_ids_are_refused() {
    let setup = setup().await;
    let alice = setup.peer(ALICE, "word-of-alice", Transport::Streamable).await;
    let channel = setup.peer(ALICE, "word-of-alice-on-sse", Transport::Sse).await;
    let ended = setup.peer(ALICE, "word-of-the-past", Transport::Streamable).await;
    assert_eq!(setup.status(&ended.dress(Request::new("DELETE", "/mcp"))).await, 204);

    let ping = json!({"jsonrpc": "2.0", "id": 77, "method": "tools/list", "params": {}});
    let get = || Request::new("GET", "/mcp").header("Accept", "text/event-stream");
    let every = || [alice.post(&ping), alice.dress(get()), alice.dress(Request::new("DELETE", "/mcp"))];
    let bearer = format!("Bearer {BOB}");
    for request in every() {
        let stolen = request.clone().set("Authorization", &bearer);
        assert_eq!(setup.status(&stolen).await, 404, "{stolen:?}");
        assert_eq!(setup.status(&request.clone().without("Authorization")).await, 401);
        let wrong = altered(alice.session())
            .into_iter()
            .chain([channel.session(), ended.session()].map(str::to_owned));
        for id in wrong {
            let request = request.clone().set("Mcp-Session-Id", &id);
            assert_eq!(setup.status(&request).await, 404, "{request:?}");
        }
    }
    // At the path of one server it is another session's.
    let elsewhere =
        alice.dress(Request::new("GET", "/servers/memory/mcp").header("Accept", "text/event-stream"));
    assert_eq!(setup.status(&elsewhere).await, 404);

    let message = |session: &str, token: &str| {
        Request::new("POST", &format!("/messages?sessionId={session}"))
            .header("Content-Type", "application/json")
            .header("Authorization", &format!("Bearer {token}"))
            .body(ping.to_string())
    };
    assert_eq!(setup.status(&message(channel.session(), BOB)).await, 404);
    for id in altered(channel.session()).into_iter().chain([alice.session().to_owned()]) {
        assert_eq!(setup.status(&message(&id, ALICE)).await, 404, "{id}");
    }

    // Nothing of it harmed the sessions.
    for peer in [&alice, &channel] {
        assert_eq!(peer.request("ping", json!({})).await["result"], json!({}));
        assert!(peer.heard().iter().all(|heard| heard.message["id"] != 77), "somebody's list came here");
    }
    assert_eq!(setup.edge.metric("mcp_edge_sessions").await, Some(2.0));
}

/// Ids that differ from this one a little, or more.
fn altered(id: &str) -> Vec<String> {
    let change = |at: usize| {
        let mut bytes = id.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let last = id.len() - 1;
    // The last letter of a base64 text may hold unused bits; the one before it never does.
    let changed = [0, 3, 8, last / 2, last - 1].map(change);
    let others =
        [&id[..last], &id[1..], &id.to_lowercase(), "guessed", "1", "00000000-0000-4000-8000-000000000000"];
    let longer = format!("{id}A");
    let all = changed.into_iter().chain(others.map(str::to_owned)).chain([longer]);
    all.filter(|altered| altered != id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_another_session_are_not_replayed() {
    let setup = setup().await;
    let alice = setup.peer(ALICE, "word-of-alice", Transport::Streamable).await;
    let others = [
        setup.peer(ALICE, "word-of-her-other", Transport::Streamable).await,
        setup.peer(BOB, "word-of-bob", Transport::Streamable).await,
    ];
    for peer in [&alice, &others[0], &others[1]] {
        peer.tool("get-roots-list", json!({})).await; // from then on its server asks it outside of calls
        peer.notify(ROOTS_CHANGED, json!({})).await;
        eventually("a question beside calls", async || own_events(peer).first().cloned()).await;
    }
    // A call of hers whose stream broke: its events wait for her.
    let call = json!({"name": "t0", "arguments": {"word": "word-of-alice"}, "_meta": {"progressToken": 1}});
    let call = alice.post(&json!({"jsonrpc": "2.0", "id": 900, "method": "tools/call", "params": call}));
    let mut broken = call.send(setup.edge.address).await.unwrap();
    let first = broken.event().await.unwrap().id.expect("a place to come back to");
    drop(broken);

    let places: Vec<_> = [first.clone()].into_iter().chain(own_events(&alice)).collect();
    for thief in &others {
        for place in &places {
            // It gets its own stream, and on it first of all its own next question.
            let mut stream = thief.get(Some(place)).await;
            assert_eq!(stream.status, 200, "{place}");
            thief.notify(ROOTS_CHANGED, json!({})).await;
            let message = stream.message().await.unwrap();
            assert_eq!(message["method"], "roots/list", "{place} gave {message}");
        }
        let stolen = alice.dress(Request::new("GET", "/mcp").header("Accept", "text/event-stream"));
        let stolen = stolen.set("Authorization", &format!("Bearer {BOB}")).header("Last-Event-ID", &first);
        assert_eq!(setup.status(&stolen).await, 404);
    }
    assert_eq!(setup.edge.metric("mcp_edge_resumptions_total{outcome=\"replayed\"}").await, None);

    // She herself finds it all.
    let mut stream = alice.get(Some(&first)).await;
    let mut missed = Vec::new();
    while let Some(message) = stream.message().await {
        missed.push(message);
    }
    let flooded = missed.iter().filter(|message| message["params"]["logger"] == "flood").count();
    let result = missed.last().expect("her answer")["result"].to_string();
    assert!(flooded == 5 && result.contains("word-of-alice"), "{missed:?}");
}

/// The ids of what came on the session's own stream.
fn own_events(peer: &Peer) -> Vec<String> {
    let heard = peer.heard().into_iter().filter(|heard| heard.message["method"] == "roots/list");
    // The second of the three numbers is the stream's; 0 is the session's own.
    heard.filter_map(|heard| heard.event).filter(|id| id.split('-').nth(1) == Some("0")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_and_calls_of_another_session_are_out_of_reach() {
    let setup = setup().await;
    let alice = setup.peer(ALICE, "word-of-alice", Transport::Streamable).await;
    let others = [
        setup.peer(ALICE, "word-of-her-other", Transport::Streamable).await,
        setup.peer(BOB, "word-of-bob", Transport::Sse).await,
    ];
    alice.keep_silent(true);
    let params = json!({"name": "trigger-sampling-request", "arguments": {"prompt": "word-of-alice"}});
    let call = alice.start("tools/call", params).await;
    let ask = eventually("the question", async || alice.heard_of("sampling/createMessage").pop()).await;

    let answer = |id: &Value, text: &str| {
        let content = json!({"type": "text", "text": text});
        let result = json!({"model": "a-model", "role": "assistant", "content": content});
        json!({"jsonrpc": "2.0", "id": id, "result": result})
    };
    let known = ask["id"].as_str().unwrap();
    let (mark, _) = known.rsplit_once('-').unwrap();
    let guesses =
        [known.to_owned(), format!("{mark}-2"), format!("{mark}-0"), "ask-1".to_owned(), "1".to_owned()];
    for thief in &others {
        for guess in &guesses {
            // Taken and ignored, as an answer that comes too late is.
            assert_eq!(thief.send(&answer(&json!(guess), "stolen")).await, 202);
        }
        assert_eq!(thief.send(&answer(&json!(1), "stolen")).await, 202);
        // The id is of a call in her session; in theirs there is no such call.
        let cancel = json!({"requestId": call, "reason": "stolen"});
        assert_eq!(thief.notify("notifications/cancelled", cancel).await, 202);
    }
    let stolen = alice.post(&answer(&ask["id"], "stolen")).set("Authorization", &format!("Bearer {BOB}"));
    assert_eq!(setup.status(&stolen).await, 404);
    for altered in altered(known) {
        assert_eq!(alice.send(&answer(&json!(altered), "guessed")).await, 202);
    }

    assert_eq!(alice.send(&answer(&ask["id"], "the answer of alice")).await, 202);
    assert_eq!(alice.send(&answer(&ask["id"], "a second answer")).await, 202);
    let result = alice.answer(call).await["result"].to_string();
    assert!(result.contains("the answer of alice"), "{result}");
    assert!(!["stolen", "guessed", "second"].iter().any(|word| result.contains(word)), "{result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_another_session_are_unknown() {
    let setup = setup().await;
    let alice = setup.peer(ALICE, "word-of-alice", Transport::Streamable).await;
    let others = [
        setup.peer(ALICE, "word-of-her-other", Transport::Sse).await,
        setup.peer(BOB, "word-of-bob", Transport::Streamable).await,
    ];
    let research =
        |topic: &str| json!({"name": "simulate-research-query", "arguments": {"topic": topic}, "task": {}});
    let begin = async |peer: &Peer| {
        let answer = peer.request("tools/call", research(peer.word())).await;
        answer["result"]["task"]["taskId"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let task = begin(&alice).await;
    let own = task.rsplit_once('.').unwrap().1;
    let refused = async |peer: &Peer, id: &str| {
        for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
            let answer = peer.request(method, json!({"taskId": id})).await;
            assert_eq!(answer["error"]["code"], -32602, "{method} of {id}: {answer}");
        }
    };
    for thief in &others {
        let theirs = begin(thief).await;
        let listed = thief.request("tasks/list", json!({})).await["result"]["tasks"].clone();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        // The seal of one and the id of the other, and each alone.
        let mixed = format!("{}.{own}", theirs.rsplit_once('.').unwrap().0);
        for id in [&task, &mixed, own, &format!("everything.{own}")] {
            refused(thief, id).await;
        }
    }
    for id in altered(&task) {
        refused(&alice, &id).await;
    }
    // Hers was neither cancelled nor taken.
    let result = alice.request("tasks/result", json!({"taskId": task})).await;
    assert!(result["result"]["content"][0]["text"].to_string().contains("word-of-alice"), "{result}");
}

/// A resource that every session subscribes to.
const COMMON: &str = "demo://resource/dynamic/text/1";
