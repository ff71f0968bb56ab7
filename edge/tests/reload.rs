//! Reload of the configuration while the program serves: on SIGHUP, and when a file changed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::path::PathBuf;

use serde_json::json;
use testkit::client::Client;
use testkit::http::{Request, Response};
use testkit::process::{Edge, Process, Scratch, binary, free_address};
use testkit::script::Script;
use testkit::scripted::Listener;
use testkit::{GUARD, eventually};
use tokio::process::Command;
use tokio::time::timeout;

/// An edge with a configuration file that tests rewrite.
struct Stage {
    scratch: Scratch,
    file: PathBuf,
    edge: Edge,
}

impl Stage {
    async fn start(scratch: Scratch, text: &str) -> Self {
        let file = scratch.write("edge.yaml", text);
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--config").arg(&file).arg("--allow-unauthenticated");
        let edge = Edge::start_with(command).await;
        edge.ready().await;
        Self { scratch, file, edge }
    }

    /// Writes the file, and waits until the edge has reloaded it.
    async fn change(&self, text: &str) {
        let taken = self.taken().await;
        std::fs::write(&self.file, text).unwrap();
        self.edge.process.signal("HUP").await;
        eventually("the change to be taken", async || (self.taken().await > taken).then_some(())).await;
    }

    async fn taken(&self) -> f64 {
        self.edge.metric("mcp_edge_config_reloads_total").await.unwrap()
    }

    async fn is_stale(&self) -> bool {
        self.edge.metric("mcp_edge_config_stale").await == Some(1.0)
    }
}

async fn server(flags: &[&str]) -> Listener {
    Listener::start(Script::from_flags(flags)).await
}

fn servers(all: &[(&str, &Listener)]) -> String {
    let lines = all.iter().map(|(name, server)| format!("  {name}: {{address: \"{}\"}}\n", server.address()));
    format!("servers:\n{}", lines.collect::<String>())
}

async fn shows(client: &Client, names: &[&str]) {
    eventually(&format!("{names:?} to be listed"), async || {
        let mut listed = client.tool_names().await;
        listed.sort();
        (listed == names).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_come_and_go_while_clients_stay() {
    let waits = ["--name", "alpha", "--tools", "1", "--on", "tools/call:t0=delay:1500,answer"];
    let (a, b) = (server(&waits).await, server(&["--name", "beta", "--tools", "2"]).await);
    let stage = Stage::start(Scratch::new(), &servers(&[("a", &a)])).await;
    let session = Client::legacy(stage.edge.address, "2025-11-25").connect().await;
    let modern = Client::modern(stage.edge.address).connect().await;
    shows(&session, &["t0"]).await;
    let mut heard = session.listen().await;
    let under_way = session.open("tools/call", json!({"name": "t0", "arguments": {}})).await;
    eventually("the call to arrive", async || (a.record().count("tools/call") == 1).then_some(())).await;
    let processes = a.record().starts();

    stage.change(&servers(&[("a", &a), ("b", &b)])).await;
    shows(&session, &["b__t0", "t0", "t1"]).await;
    shows(&modern, &["b__t0", "t0", "t1"]).await;
    let told = timeout(GUARD, heard.message()).await.expect("news in time").unwrap();
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(a.record().starts(), processes, "whoever stays is not touched");

    stage.change(&servers(&[("b", &b)])).await;
    shows(&session, &["t0", "t1"]).await;
    let answer = under_way.answer().await;
    assert!(answer.text().contains("alpha"), "a call that was under way comes to its end: {answer:?}");
    eventually("the server that is gone to be left alone", async || (a.open() == 0).then_some(())).await;
    let alarm = "mcp_edge_upstream_down{server=\"a\"}";
    eventually("no gauge of it to stay", async || stage.edge.metric(alarm).await.is_none().then_some(()))
        .await;
    assert_eq!(stage.edge.metric("mcp_edge_upstream_down{server=\"b\"}").await, Some(0.0));
    for client in [&session, &modern] {
        let answer = client.call_tool("t0", json!({})).await;
        assert!(answer.text().contains("beta"), "{answer:?}");
    }
    let gone = Client::modern(stage.edge.address).at("/servers/a/mcp");
    assert_eq!(gone.call("tools/list", json!({})).await.status, 404);
    let (_, ready) = stage.edge.readiness().await;
    assert!(ready.contains("\"b\":") && !ready.contains("\"a\":"), "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_at_another_address_takes_the_place_of_the_one_before() {
    let (old, new) =
        (server(&["--name", "old", "--tools", "1"]).await, server(&["--name", "new", "--tools", "2"]).await);
    let stage = Stage::start(Scratch::new(), &servers(&[("a", &old)])).await;
    let session = Client::legacy(stage.edge.address, "2025-06-18").connect().await;
    assert!(session.call_tool("t0", json!({})).await.text().contains("old"));
    stage.change(&servers(&[("a", &new)])).await;
    shows(&session, &["t0", "t1"]).await;
    assert!(session.call_tool("t0", json!({})).await.text().contains("new"));
    eventually("the old one to be left alone", async || (old.open() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_file_leaves_the_one_before_in_force_and_is_told() {
    let a = server(&["--name", "alpha", "--tools", "1"]).await;
    let stage = Stage::start(Scratch::new(), &servers(&[("a", &a)])).await;
    let client = Client::modern(stage.edge.address).connect().await;
    for (faulty, why) in [
        ("servers: {a: {addres: 'x:1'}}\n", "the nearest is `servers.a.address`"),
        ("servers: [", "unclosed bracket"),
        ("servers: {}\n", "no server is configured"),
    ] {
        std::fs::write(&stage.file, faulty).unwrap();
        stage.edge.process.signal("HUP").await;
        stage.edge.process.wrote(why).await;
        assert!(stage.is_stale().await, "{why}");
        assert!(client.call_tool("t0", json!({})).await.text().contains("alpha"));
    }
    std::fs::remove_file(&stage.file).unwrap();
    stage.edge.process.signal("HUP").await;
    stage.edge.process.wrote("cannot be read").await;
    std::fs::write(&stage.file, format!("limits: {{depth: 64}}\n{}", servers(&[("a", &a)]))).unwrap();
    stage.edge.process.signal("HUP").await;
    stage.edge.process.wrote("take effect at the next start keys=[\"limits\"]").await;
    assert!(!stage.is_stale().await);
}

/// As the kubelet does: the files are behind a symbolic link, which is swapped. No signal is sent.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_replaced_with_their_files() {
    let a = server(&["--name", "alpha", "--tools", "1"]).await;
    let scratch = Scratch::new();
    for (n, token) in ["first-token", "second-token"].iter().enumerate() {
        std::fs::create_dir(scratch.path(&format!("mount-{n}"))).unwrap();
        scratch.write(&format!("mount-{n}/token"), &format!("{token}\n"));
    }
    let link = scratch.path("data");
    std::os::unix::fs::symlink(scratch.path("mount-0"), &link).unwrap();
    scratch.write("kept", "kept-token\n");
    let tokens = "auth: {tokens: [{file: data/token}, {file: kept, principal: kept}]}";
    let text = format!("{tokens}\nlimits: {{keep_alive: 500ms}}\n{}", servers(&[("a", &a)]));
    let stage = Stage::start(scratch, &text).await;
    let status = async |token: &str| {
        Client::modern(stage.edge.address).token(token).call("tools/list", json!({})).await.status
    };
    let session = Client::legacy(stage.edge.address, "2025-11-25").token("first-token").connect().await;
    assert_eq!((status("first-token").await, status("second-token").await), (200, 401));
    let mut streams = [session.listen().await, listen(&stage, "first-token").await];
    let mut kept = listen(&stage, "kept-token").await;
    let next = stage.scratch.path("next");
    std::os::unix::fs::symlink(stage.scratch.path("mount-1"), &next).unwrap();
    std::fs::rename(&next, &link).unwrap();
    eventually("the new token to hold", async || (status("second-token").await == 200).then_some(())).await;
    assert_eq!(status("first-token").await, 401);
    assert_eq!(session.call("tools/list", json!({})).await.status, 401, "also in a session that is open");
    for stream in &mut streams {
        let end = async { while stream.message().await.is_some() {} };
        timeout(GUARD, end).await.expect("what stands open ends");
    }
    let seen = kept.comments();
    assert_eq!(kept.message().await.unwrap()["method"], "notifications/subscriptions/acknowledged");
    stage.change(&format!("{text}  b: {{address: \"{}\"}}\n", a.address())).await;
    assert_eq!(kept.message().await.unwrap()["method"], "notifications/tools/list_changed");
    assert!(kept.comments() > seen, "who stays goes on");
}

async fn listen(stage: &Stage, token: &str) -> Response {
    let client = Client::modern(stage.edge.address).token(token).connect().await;
    let params = client.params(json!({"notifications": {"toolsListChanged": true}}));
    let listen = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params});
    client.send(&client.request(&listen)).await
}

/// The listen address takes effect at the next start, and so does whether the process may be open there.
#[tokio::test(flavor = "multi_thread")]
async fn a_public_listener_is_never_opened_to_everybody() {
    let a = server(&["--name", "alpha", "--tools", "1"]).await;
    let (scratch, place, admin) = (Scratch::new(), free_address(), free_address());
    let listen = |host: &str| format!("listen: \"{host}:{}\"\n{}", place.port(), servers(&[("a", &a)]));
    let file = scratch.write("edge.yaml", &format!("auth: {{tokens: [{{env: A}}]}}\n{}", listen("0.0.0.0")));
    let mut command = Command::new(binary("mcp-edge"));
    command.arg("--config").arg(&file).arg("--admin").arg(admin.to_string()).env("A", "a-token");
    command.env_remove("MCP_GATEWAY_AUTH_TOKEN");
    let edge = Edge { process: Process::start(command), address: place, admin };
    eventually("the edge to be alive", async || {
        let answer = Request::new("GET", "/ready").send(admin).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    std::fs::write(&file, listen("127.0.0.1")).unwrap();
    edge.process.signal("HUP").await;
    edge.process.wrote("no token is left, and this process can be reached from other machines").await;
    let status = async |token| Client::modern(place).token(token).call("tools/list", json!({})).await.status;
    assert_eq!((status("a-token").await, status("another").await), (200, 401));
    assert_eq!(edge.metric("mcp_edge_config_stale").await, Some(1.0));
}

/// A ConfigMap and a Secret may be updated up to a minute apart.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_tried_again_by_itself() {
    let a = server(&["--name", "alpha", "--tools", "1"]).await;
    let stage = Stage::start(Scratch::new(), &servers(&[("a", &a)])).await;
    let text = format!("auth: {{tokens: [{{file: late}}]}}\n{}", servers(&[("a", &a)]));
    std::fs::write(&stage.file, text).unwrap();
    stage.edge.process.signal("HUP").await;
    stage.edge.process.wrote("cannot be read").await;
    assert!(stage.is_stale().await);
    stage.scratch.write("late", "late-token\n");
    eventually("the token to hold", async || {
        let client = Client::modern(stage.edge.address).token("late-token");
        (client.call("tools/list", json!({})).await.status == 200 && !stage.is_stale().await).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_to_a_server_that_is_replaced_hears_that_it_has_to_listen_again() {
    let a = server(&["--resources", "1", "--tools", "1"]).await;
    let stage = Stage::start(Scratch::new(), &servers(&[("a", &a)])).await;
    let client = Client::modern(stage.edge.address).connect().await;
    let params = client.params(json!({"notifications": {"resourceSubscriptions": ["test://r0"]}}));
    let listen = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params});
    let mut stream = client.send(&client.request(&listen)).await;
    let held = stream.message().await.unwrap();
    assert_eq!(held["params"]["notifications"]["resourceSubscriptions"], json!(["test://r0"]), "{held}");
    let text = servers(&[("a", &a)]).replace('}', ", connections: 9}");
    stage.change(&text).await;
    let end = timeout(GUARD, stream.message()).await.expect("an end in time").unwrap();
    assert_eq!(end["error"]["data"]["reason"], "lost", "{end}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_a_hangup_ends_it() {
    let a = server(&["--name", "alpha"]).await;
    let mut edge = Edge::start(&[("a", a.address())]).await;
    edge.ready().await;
    edge.process.signal("HUP").await;
    assert!(edge.process.ended().await.success(), "{}", edge.process.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_that_was_ignored_at_the_start_stays_so() {
    let a = server(&["--name", "alpha"]).await;
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(binary("mcp-edge"));
    command.arg("--server").arg(format!("a={}", a.address())).arg("--allow-unauthenticated");
    let edge = Edge::start_with(command).await;
    edge.ready().await;
    edge.process.signal("HUP").await;
    edge.process.wrote("there is no configuration file to read again").await;
    assert_eq!(edge.readiness().await.0, 200);
}

/// Which variables hold tokens may change, and no server may see any of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_local_server_never_inherits_a_token_that_a_change_brings() {
    let scratch = Scratch::new();
    let seen = scratch.path("seen");
    let script = format!("env >> {}; exec {} --tools 1", seen.display(), binary("scripted-server").display());
    let text = |variable: &str| {
        let command = serde_json::to_string(&["sh", "-c", &script]).unwrap();
        format!("auth: {{tokens: [{{env: {variable}}}]}}\nservers: {{a: {{command: {command}}}}}\n")
    };
    let file = scratch.write("edge.yaml", &text("TOKEN_A"));
    let mut command = Command::new(binary("mcp-edge"));
    command.arg("--config").arg(&file).env("TOKEN_A", "first-token").env("TOKEN_B", "second-token");
    let edge = Edge::start_with(command).await;
    edge.ready().await;
    let stage = Stage { scratch, file, edge };
    stage.change(&text("TOKEN_B")).await;
    std::fs::write(&seen, "").unwrap();
    let client = Client::legacy(stage.edge.address, "2025-11-25").token("second-token").connect().await;
    assert!(client.call_tool("t0", json!({})).await.message["result"].is_object());
    let inherited = std::fs::read_to_string(&seen).unwrap();
    assert!(inherited.contains("first-token") && !inherited.contains("second-token"), "{inherited}");
}
