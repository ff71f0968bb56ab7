//! The policy over HTTP, with a token for each principal: what is denied looks unknown.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::path::PathBuf;

use serde_json::{Value, json};
use testkit::client::Client;
use testkit::http::{Request, Response};
use testkit::process::{Edge, Scratch, binary};
use testkit::script::Script;
use testkit::scripted::Listener;
use testkit::{GUARD, eventually};
use tokio::process::Command;
use tokio::time::timeout;

/// An edge with two servers that offer some common names, and a token for each of three principals.
struct Stage {
    _scratch: Scratch,
    file: PathBuf,
    edge: Edge,
    quartz: Listener,
    vault: Listener,
}

/// Guests may use `quartz` except for one tool; only `root` may use `vault`.
const LIMITED: &str = "policy: {root: {}, 'g*': {servers: [quartz], tools: ['*', '!secret']}}\n";
const OPEN: &str = "policy: {'*': {}}\n";

impl Stage {
    async fn start(policy: &str) -> Self {
        let start = async |name: &str| {
            let flags = ["--name", name, "--tools", "1", "--tool", "secret", "--tool", name];
            Listener::start(Script::from_flags(&flags)).await
        };
        let (vault, quartz) = (start("vault").await, start("quartz").await);
        let scratch = Scratch::new();
        let file = scratch.write("edge.yaml", &Self::text((&vault, &quartz), policy));
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--config").arg(&file).env("MCP_EDGE_LOG", "edge=debug");
        for principal in ["root", "guest", "stray"] {
            command.env(principal.to_uppercase(), principal);
        }
        let edge = Edge::start_with(command).await;
        edge.ready().await;
        Self { _scratch: scratch, file, edge, quartz, vault }
    }

    fn text((vault, quartz): (&Listener, &Listener), policy: &str) -> String {
        let token = |name: &str| format!("{{env: {}, principal: {name}}}", name.to_uppercase());
        let tokens = ["root", "guest", "stray"].map(token).join(", ");
        let server =
            |name: &str, server: &Listener| format!("  {name}: {{address: \"{}\"}}\n", server.address());
        let servers = server("vault", vault) + &server("quartz", quartz);
        format!("auth: {{tokens: [{tokens}]}}\nservers:\n{servers}{policy}")
    }

    async fn policy(&self, policy: &str) {
        let taken = async || self.edge.metric("mcp_edge_config_reloads_total").await.unwrap();
        let before = taken().await;
        std::fs::write(&self.file, Self::text((&self.vault, &self.quartz), policy)).unwrap();
        self.edge.process.signal("HUP").await;
        eventually("the policy to be taken", async || (taken().await > before).then_some(())).await;
    }

    async fn modern(&self, who: &str) -> Client {
        Client::modern(self.edge.address).token(who).connect().await
    }

    async fn session(&self, who: &str) -> Client {
        Client::legacy(self.edge.address, "2025-11-25").token(who).connect().await
    }

    async fn denied(&self) -> f64 {
        self.edge.metric("mcp_edge_policy_denied_total").await.unwrap()
    }

    /// Status and message of a plain call.
    async fn plain(&self, who: &str, path: &str, tool: &str) -> (u16, String) {
        let body = json!({"method": tool, "params": {}}).to_string();
        let request = Request::new("POST", path)
            .header("content-type", "application/json")
            .header("authorization", &format!("Bearer {who}"));
        let mut answer = request.body(body).send(self.edge.address).await.unwrap();
        (answer.status, answer.text().await)
    }
}

async fn tools(client: &Client) -> Vec<String> {
    let mut tools = client.tool_names().await;
    tools.sort();
    tools
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_two_principals_see_and_use_what_they_may() {
    let stage = Stage::start(LIMITED).await;
    let all = ["quartz", "quartz__secret", "quartz__t0", "secret", "t0", "vault"];
    let (processes, opened) = (stage.vault.record().starts(), stage.vault.open());
    for guest in [stage.modern("guest").await, stage.session("guest").await] {
        let root =
            if guest.session().is_some() { stage.session("root").await } else { stage.modern("root").await };
        assert_eq!(tools(&root).await, all);
        assert_eq!(tools(&guest).await, ["quartz", "quartz__t0"], "vault has had `t0` first");
        assert!(guest.call_tool("quartz__t0", json!({})).await.text().contains("quartz"));
        let before = stage.denied().await;
        let unknown = guest.call_tool("zzz", json!({})).await.message["error"].clone();
        let names = ["t0", "vault", "vault__vault", "secret", "quartz__secret"];
        for name in names {
            let denied = guest.call_tool(name, json!({})).await;
            let denied: Value =
                serde_json::from_str(&denied.message["error"].to_string().replace(name, "zzz")).unwrap();
            assert_eq!(denied, unknown, "{name}");
        }
        assert!(stage.denied().await >= before + 5.0, "the operator is told");
        let read = guest.call("resources/read", json!({"uri": "test://r0"})).await;
        assert!(read.message["result"].to_string().contains("quartz"), "{read:?}");
        assert_eq!(guest.list("prompts/list", "prompts").await.len(), 1);
    }
    assert_eq!((stage.vault.record().starts(), stage.vault.open()), (processes, opened), "none for a guest");
    stage.edge.process.wrote("denied by policy").await;
    let stray = stage.modern("stray").await;
    assert!(tools(&stray).await.is_empty());
    assert!(stage.edge.process.output().contains("no entry matches the principal `stray`"));

    let at = |who: &str, path: &str| Client::modern(stage.edge.address).token(who).at(path);
    let status = async |who, path| at(who, path).call("tools/list", json!({})).await;
    assert_eq!(status("root", "/servers/vault/mcp").await.status, 200);
    let (denied, unknown) =
        (status("guest", "/servers/vault/mcp").await, status("guest", "/servers/zzz/mcp").await);
    assert_eq!((denied.status, &denied.message), (404, &unknown.message));
    let scoped = at("guest", "/servers/quartz/mcp");
    assert!(scoped.call_tool("t0", json!({})).await.text().contains("quartz"));
    assert!(scoped.call_tool("secret", json!({})).await.message["error"].is_object());

    assert_eq!(stage.plain("guest", "/mcp/call", "quartz").await.0, 200);
    let (denied, unknown) =
        (stage.plain("guest", "/mcp/call", "vault").await, stage.plain("guest", "/mcp/call", "zzz").await);
    assert_eq!((denied.0, denied.1.replace("vault", "zzz")), unknown);
    assert_eq!(stage.plain("guest", "/servers/vault/mcp/call", "vault").await.0, 404);
    assert_eq!(stage.plain("root", "/servers/vault/mcp/call", "vault").await.0, 200);
    assert_eq!(stage.vault.record().count("tools/call"), 1, "root's");
}

async fn listen(client: &Client) -> Response {
    let wanted = json!({"notifications": {
        "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true, "resourceSubscriptions": ["test://r0"]}});
    let listen =
        json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": client.params(wanted)});
    let mut stream = client.send(&client.request(&listen)).await;
    let held = stream.message().await.unwrap();
    assert_eq!(held["params"]["notifications"]["resourceSubscriptions"], json!(["test://r0"]), "{held}");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_policy_counts_in_sessions_and_listens_that_are_open() {
    let stage = Stage::start(OPEN).await;
    let (session, other) = (stage.session("guest").await, stage.session("root").await);
    let (mut heard, mut unheard) = (session.listen().await, other.listen().await);
    let (guest, root) = (stage.modern("guest").await, stage.modern("root").await);
    let (mut of_guest, mut of_root) = (listen(&guest).await, listen(&root).await);
    assert!(session.call_tool("vault", json!({})).await.text().contains("vault"));
    assert!(session.call_tool("quartz", json!({})).await.text().contains("quartz"));
    let (starts, open) = (stage.quartz.record().starts(), stage.vault.open());

    stage.policy(LIMITED).await;
    let refused = session.call_tool("vault", json!({})).await;
    assert!(refused.message["error"].is_object(), "{refused:?}");
    assert_eq!(tools(&session).await, ["quartz", "quartz__t0"], "the session stays");
    assert!(session.call_tool("quartz", json!({})).await.text().contains("quartz"));
    assert_eq!(stage.quartz.record().starts(), starts, "what may still be used is not touched");
    let told = timeout(GUARD, heard.message()).await.expect("news in time").unwrap();
    assert_eq!(told["method"], "notifications/tools/list_changed");
    eventually(
        "what is a guest's of it to end: its session's process, and the one that it listens to",
        async || (stage.vault.open() + 2 == open).then_some(()),
    )
    .await;
    let end = async {
        loop {
            let message = of_guest.message().await.expect("an end that says why");
            if message.get("error").is_some() {
                return message;
            }
        }
    };
    let end = timeout(GUARD, end).await.expect("an end in time");
    assert_eq!(
        end["error"]["data"]["reason"], "lost",
        "its resource is of a server that it may not use: {end}"
    );
    assert_eq!(tools(&root).await.len(), 6);

    stage.policy(OPEN).await;
    assert_eq!(tools(&session).await.len(), 6);
    assert!(session.call_tool("vault", json!({})).await.text().contains("vault"));

    // Not a word of what changed for others, and all of what changes for it.
    stage.policy("policy: {root: {servers: [vault]}}\n").await;
    for stream in [&mut unheard, &mut of_root] {
        for kind in ["tools", "prompts", "resources"] {
            let told = timeout(GUARD, stream.message()).await.expect("news in time").unwrap();
            assert_eq!(told["method"], format!("notifications/{kind}/list_changed"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_gone_opens_nothing() {
    let stage = Stage::start(LIMITED).await;
    let guest = stage.modern("guest").await;
    assert_eq!(stage.edge.metric("mcp_edge_policy_entries").await, Some(2.0));
    std::fs::write(&stage.file, Stage::text((&stage.vault, &stage.quartz), "")).unwrap();
    stage.edge.process.signal("HUP").await;
    stage.edge.process.wrote("without one every principal may use everything").await;
    assert_eq!(stage.edge.metric("mcp_edge_config_stale").await, Some(1.0));
    assert_eq!(tools(&guest).await, ["quartz", "quartz__t0"]);
    stage.policy(OPEN).await;
    assert_eq!(tools(&guest).await.len(), 6);
}
