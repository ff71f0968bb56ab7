//! Official clients of the session era and all that goes from server to client: client × transport × feature,
//! each cell judged by what the client itself saw. `server-everything` is behind the release bridge, the release
//! edge before it, alone or as two replicas of which each connection gets the next, and a fault proxy before that which breaks
//! streams on command. What the clients do is in
//! `testkit/real/features.*`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::balancer::Balancer;
use testkit::fault_proxy::FaultProxy;
use testkit::process::{Bridge, Edge, Scratch, binary, free_address};
use testkit::real::{self, node, part};
use testkit::tap::Tap;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// One client program over one transport.
#[derive(Clone, Copy)]
struct Run {
    client: &'static str,
    program: &'static [&'static str],
    transport: Transport,
}

#[derive(Clone, Copy, PartialEq)]
enum Transport {
    Http,
    Sse,
    Stdio,
    /// `mcp-remote`: stdio for the client, and one of the others from there on.
    RemoteHttp,
    RemoteSse,
}

/// What one run reported, or why it did not.
struct Column {
    run: Run,
    report: Result<Value, String>,
}

struct Setup {
    edges: Vec<Edge>,
    /// Before several edges.
    balancer: Option<Balancer>,
    tap: Tap,
    scratch: Scratch,
    /// It ends after the edge.
    _bridge: Bridge,
}

const PYTHON: &[&str] = &[".venv/bin/python", "features.py"];
const TYPESCRIPT_1: &[&str] = &["node", "features_v1.mjs"];
const TYPESCRIPT_2: &[&str] = &["node", "features_v2.mjs"];
const FEATURES: [&str; 13] = [
    "tools",
    "sampling",
    "elicitation",
    "roots",
    "subscription",
    "logging",
    "progress",
    "cancel",
    "completion",
    "ping",
    "task",
    "resumedCall",
    "resumedListen",
];
/// What `server-everything` registers for a client of these capabilities alone.
const CONDITIONAL: [&str; 4] =
    ["get-roots-list", "trigger-elicitation-request", "trigger-sampling-request", "trigger-url-elicitation"];
const VERSION: &str = "2025-11-25";
const TOKEN: &str = "a-token-for-the-tests";

#[tokio::test(flavor = "multi_thread")]
async fn every_session_client_has_every_feature_over_every_transport() {
    every_feature(Arc::new(setup(1).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_client_has_every_feature_across_replicas() {
    let setup = Arc::new(setup(2).await);
    every_feature(setup.clone()).await;
    assert!(setup.metric("mcp_edge_peer_requests_passed_total").await > 0.0);
    assert_eq!(setup.metric("mcp_edge_peer_failures_total").await, 0.0);
    assert_eq!(setup.metric("mcp_edge_peer_gone_total").await, 0.0);
}

async fn every_feature(setup: Arc<Setup>) {
    let (mut running, room) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for (number, run) in runs().into_iter().enumerate() {
        let (setup, room) = (setup.clone(), room.clone());
        running.spawn(async move {
            let _room = room.acquire().await;
            (number, Column { run, report: setup.drive(number, run).await })
        });
    }
    let mut columns = running.join_all().await;
    columns.sort_by_key(|(number, _)| *number);
    let columns: Vec<_> = columns.into_iter().map(|(_, column)| column).collect();
    let failures: Vec<_> = columns.iter().flat_map(Column::failures).collect();
    // Not by `eprintln!`: that is shown for failed tests only.
    std::io::stderr().write_all(table(&columns).as_bytes()).unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));

    // The server's side of what clients cannot see: each cancel reached it, and each broken stream was replayed.
    assert_eq!(setup.tap.record().count("notifications/cancelled"), columns.len());
    let resumed = columns.iter().filter(|column| column.run.transport == Transport::Http).count() * 2;
    let replayed = setup.metric("mcp_edge_resumptions_total{outcome=\"replayed\"}").await;
    assert!(replayed >= resumed as f64, "{replayed} of {resumed}");
    for outcome in ["gone", "stale", "unknown"] {
        let series = format!("mcp_edge_resumptions_total{{outcome=\"{outcome}\"}}");
        assert_eq!(setup.metric(&series).await, 0.0, "{series}");
    }
}

/// The Inspector's command line, in each way that it connects.
#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_lists_and_calls() {
    let setup = setup(1).await;
    let ways: [(&str, &[&str]); 4] = [
        ("/mcp", &["--transport", "http"]),
        ("/mcp", &["--transport", "http", "--protocol-era", "legacy"]),
        ("/mcp", &["--transport", "http", "--protocol-era", "modern"]),
        ("/sse", &["--transport", "sse"]),
    ];
    for (path, options) in ways {
        let tools = setup.inspect(path, options, &["--method", "tools/list"]).await;
        let tools: Vec<_> = tools["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
        assert!(tools.contains(&&json!("echo")), "{options:?}: {tools:?}");
        let call = ["--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=hello"];
        let called = setup.inspect(path, options, &call).await;
        assert_eq!(called["content"], json!([{"type": "text", "text": "Echo: hello"}]), "{options:?}");
    }
}

fn runs() -> Vec<Run> {
    let clients = [("Python", PYTHON), ("TypeScript 1", TYPESCRIPT_1), ("TypeScript 2", TYPESCRIPT_2)];
    let of = |transport| clients.map(|(client, program)| Run { client, program, transport });
    let direct = [Transport::Http, Transport::Sse, Transport::Stdio].map(of).concat();
    let remote = [Transport::RemoteHttp, Transport::RemoteSse];
    let remote = remote.map(|transport| Run { client: "TypeScript 1", program: TYPESCRIPT_1, transport });
    direct.into_iter().chain(remote).collect()
}

async fn setup(replicas: usize) -> Setup {
    let bridge = Bridge::start(&["node", &real::server("everything")]).await;
    let tap = Tap::start(bridge.address).await;
    let mut edges = Vec::new();
    for _ in 0..replicas {
        let mut command = Command::new(binary("mcp-edge"));
        command.arg(format!("--server=everything={}", tap.address())).env("MCP_GATEWAY_AUTH_TOKEN", TOKEN);
        if replicas > 1 {
            command.arg(format!("--peers={}", free_address())).env("MCP_EDGE_KEY", "k".repeat(32));
        }
        edges.push(Edge::start_with(command).await);
    }
    for edge in &edges {
        edge.ready().await;
    }
    let balancer = match &edges[..] {
        [_] => None,
        all => Some(Balancer::start(all.iter().map(|edge| edge.address).collect()).await),
    };
    Setup { edges, balancer, tap, scratch: Scratch::new(), _bridge: bridge }
}

impl Setup {
    /// Where clients connect.
    fn address(&self) -> SocketAddr {
        self.balancer.as_ref().map_or(self.edges[0].address, Balancer::address)
    }

    /// A line of the metrics, of all replicas together.
    async fn metric(&self, series: &str) -> f64 {
        let mut all = 0.0;
        for edge in &self.edges {
            all += edge.metric(series).await.unwrap_or(0.0);
        }
        all
    }

    /// Runs one client to its end.
    async fn drive(&self, number: usize, run: Run) -> Result<Value, String> {
        let fault_proxy = FaultProxy::start(self.address()).await;
        let url = |path: &str| format!("http://{}{path}", fault_proxy.address());
        let program =
            if run.program[0].starts_with('.') { part(run.program[0]) } else { run.program[0].to_owned() };
        let mut command = Command::new(program);
        command
            .current_dir(real::directory())
            .arg(run.program[1])
            .env("NO_PROXY", "127.0.0.1")
            .kill_on_drop(true);
        command
            .env("MCP_REMOTE_CONFIG_DIR", self.scratch.path("mcp-remote"))
            .env_remove("MCP_GATEWAY_AUTH_TOKEN");
        command.args(["--nonce", &nonce(number), "--token", TOKEN, "--transport", run.transport.word()]);
        let remote = part("node_modules/mcp-remote/dist/proxy.js");
        let remote = |path: &str, kind: &str| {
            let header = format!("Authorization: Bearer {TOKEN}");
            [&["--", "node", &remote], &[&url(path), "--transport", kind, "--header", &header][..]]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        match run.transport {
            Transport::Http => {
                command.args(["--url", &url("/mcp"), "--control", &fault_proxy.control().to_string()]);
            }
            Transport::Sse => {
                command.args(["--url", &url("/sse")]);
            }
            Transport::Stdio => {
                command.arg("--").arg(binary("mcp-edge")).args(["--transport", "stdio", "--server"]);
                command.arg(format!("everything={}", self.tap.address()));
            }
            Transport::RemoteHttp => {
                command.args(remote("/mcp", "http-only"));
            }
            Transport::RemoteSse => {
                command.args(remote("/sse", "sse-only"));
            }
        }
        let output = tokio::time::timeout(CLIENT_GUARD, command.output()).await;
        let output =
            output.map_err(|_| "did not end in time".to_owned())?.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let report: Value =
            serde_json::from_slice(&output.stdout).map_err(|_| format!("no report: {said}"))?;
        match report["error"].as_str() {
            Some(error) => Err(format!("{error}\n{said}")),
            None if report["version"] != VERSION => Err(format!("agreed on {}", report["version"])),
            None if run.transport == Transport::Http && fault_proxy.cuts() != 2 => {
                Err(format!("{} cuts", fault_proxy.cuts()))
            }
            None => Ok(report),
        }
    }

    /// What the Inspector prints.
    async fn inspect(&self, path: &str, options: &[&str], what: &[&str]) -> Value {
        let mut command = Command::new(node());
        command.arg(part("node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"));
        command.args(["--cli", &format!("http://{}{path}", self.address())]).args(options).args(what);
        command.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
        // Its catalog of servers would be made in the home directory.
        command.env("HOME", self.scratch.path("")).env("NO_PROXY", "127.0.0.1").kill_on_drop(true);
        let output = tokio::time::timeout(CLIENT_GUARD, command.output()).await;
        let output = output.expect("the Inspector ends").expect("the Inspector starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{options:?} {what:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{options:?} {what:?}: {said}"))
    }
}

impl Transport {
    /// As the client knows it.
    fn word(self) -> &'static str {
        match self {
            Transport::Http => "http",
            Transport::Sse => "sse",
            Transport::Stdio | Transport::RemoteHttp | Transport::RemoteSse => "stdio",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Transport::Http => "HTTP",
            Transport::Sse => "HTTP+SSE",
            Transport::Stdio => "stdio",
            Transport::RemoteHttp => "mcp-remote",
            Transport::RemoteSse => "remote, SSE",
        }
    }
}

impl Run {
    /// Whether there is something to see: only one transport resumes, and only one SDK makes tasks.
    fn has(self, feature: &str) -> bool {
        match feature {
            "task" => self.program == TYPESCRIPT_1,
            "resumedCall" | "resumedListen" => self.transport == Transport::Http,
            _ => true,
        }
    }
}

impl Column {
    fn failures(&self) -> Vec<String> {
        let whose = format!("{} over {}", self.run.client, self.run.transport.title());
        let report = match &self.report {
            Ok(report) => report,
            Err(error) => return vec![format!("{whose}: {error}")],
        };
        let of = |feature: &&str| {
            let error = self.judge(report, feature).err()?;
            Some(format!("{whose}: {feature}: {error}"))
        };
        FEATURES.iter().filter(|feature| self.run.has(feature)).filter_map(of).collect()
    }

    fn judge(&self, report: &Value, feature: &str) -> Result<(), String> {
        let cell = &report["cells"][feature];
        let nonce = report["cells"]["cancel"]["saw"]["next"].as_str().unwrap_or_default();
        let nonce = nonce.strip_prefix("Echo: ").unwrap_or("no nonce");
        match (&cell["saw"], &cell["error"]) {
            (Value::Null, error) => Err(error.as_str().unwrap_or("not reported").to_owned()),
            (saw, _) if holds(feature, saw, nonce) => Ok(()),
            (saw, _) => Err(format!("saw {:.1500}", saw.to_string())),
        }
    }
}

/// Whether what a client saw of a feature is all there is to see, and nothing else.
fn holds(feature: &str, saw: &Value, nonce: &str) -> bool {
    match feature {
        "tools" => {
            let tools: Vec<_> = saw["tools"].as_array().into_iter().flatten().collect();
            CONDITIONAL.iter().all(|tool| tools.iter().filter(|name| **name == tool).count() == 1)
        }
        "sampling" | "elicitation" | "task" => asked(feature, saw, nonce),
        "roots" => {
            let (one, two) = (format!("file:///{nonce}/1"), format!("file:///{nonce}/2"));
            text(&saw["before"], &["(1 total)", &one]) && text(&saw["after"], &["(2 total)", &one, &two])
        }
        "subscription" => {
            let only = |list: &Value, number: u32| {
                let uri = json!(format!("demo://resource/dynamic/text/{number}"));
                list.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(|seen| *seen == uri))
            };
            only(&saw["first"], 1) && only(&saw["then"], 2)
        }
        "logging" => saw["counts"] == json!([1, 0, 1]) && saw["levels"] == json!(["info"]),
        "progress" => counted(saw, 5) && text(&saw["answer"], &["completed"]),
        "cancel" => saw["seconds"].as_f64().is_some_and(|seconds| seconds < 30.0),
        "completion" => {
            (&saw["departments"], &saw["names"], &saw["template"])
                == (&json!(["Sales", "Support"]), &json!(["Eve"]), &json!(["7"]))
        }
        "ping" => saw["answer"] == json!({}),
        "resumedCall" => counted(saw, 20) && text(&saw["answer"], &["completed", "Steps: 20"]),
        "resumedListen" => (&saw["asked"], &saw["logged"]) == (&json!(4), &json!([3, 1])),
        _ => false,
    }
}

/// The same of what the server asked the client in the middle of a call.
fn asked(feature: &str, saw: &Value, nonce: &str) -> bool {
    let asked = saw["asked"].as_array().map_or(&[][..], Vec::as_slice);
    match (feature, asked) {
        ("sampling", [ask]) => {
            text(&ask["messages"][0]["content"]["text"], &[nonce])
                && ask["maxTokens"] == 17
                && text(&saw["answer"], &[&format!("{nonce} samples")])
        }
        ("elicitation", [form, _, url]) => {
            form["requestedSchema"]["properties"]["name"].is_object()
                && (&url["mode"], &url["elicitationId"]) == (&json!("url"), &json!(nonce))
                && text(&saw["accepted"], &[&format!("- Name: {nonce}"), "- Favorite Integer: 7"])
                && text(&saw["declined"], &["User declined"])
                && text(&saw["visited"], &["User completed", &format!("https://example.org/{nonce}")])
        }
        ("task", [ask]) => {
            let created = saw["created"].as_str().unwrap_or_default();
            created.starts_with("everything.")
                && saw["known"] == json!([created])
                && text(&ask["message"], &[nonce])
                && text(&saw["answer"], &[nonce, "(technical)"])
        }
        _ => false,
    }
}

fn text(value: &Value, parts: &[&str]) -> bool {
    value.as_str().is_some_and(|text| parts.iter().all(|part| text.contains(part)))
}

/// Each progress up to the last came, once and in order; and the SDK handed them on. TypeScript's keeps one to
/// itself that comes in one read with the answer.
fn counted(saw: &Value, last: u32) -> bool {
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
    };
    let all: Vec<_> = (1..=last).map(f64::from).collect();
    let heard = numbers(&saw["heard"]);
    numbers(&saw["seen"]) == all && (heard == all || heard == all[..all.len() - 1])
}

fn table(columns: &[Column]) -> String {
    let mut table = format!("\n{:14}", "feature");
    for line in [|run: &Run| run.client, |run: &Run| run.transport.title()] {
        columns.iter().for_each(|column| table.push_str(&format!(" {:>12}", line(&column.run))));
        table.push_str(&format!("\n{:14}", ""));
    }
    for feature in FEATURES {
        table.push_str(&format!("\n{feature:14}"));
        for column in columns {
            let word = match &column.report {
                _ if !column.run.has(feature) => "–",
                Ok(report) if column.judge(report, feature).is_ok() => "ok",
                _ => "FAILED",
            };
            table.push_str(&format!(" {word:>12}"));
        }
    }
    table.push('\n');
    table
}

/// A word that no other client uses.
fn nonce(number: usize) -> String {
    format!("client{number}x")
}

/// Each client runs a process of the server in addition to its own.
const AT_ONCE: usize = 4;
/// A client needs 3 to 12 s on an idle machine.
const CLIENT_GUARD: Duration = Duration::from_secs(150);
