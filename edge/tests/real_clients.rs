//! Official clients with official servers, through the release binaries: TLS and a token in front, one bridge
//! for each of five stdio servers behind, all at once. What the clients do is in `testkit/real`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::Value;
use testkit::process::{Bridge, Edge, Scratch, binary};
use testkit::real::{self, part};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinHandle;

/// Five servers behind bridges, and the edge in front of them.
struct Setup {
    scratch: Scratch,
    edge: Edge,
    page: Page,
    /// They end after the edge.
    _bridges: Vec<Bridge>,
}

/// One client program in one of its eras.
struct Run {
    program: &'static [&'static str],
    era: Option<&'static str>,
    version: &'static str,
}

const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
const PYTHON: &[&str] = &[".venv/bin/python", "client.py"];
const TYPESCRIPT_1: &[&str] = &["node", "client_v1.mjs"];
const TYPESCRIPT_2: &[&str] = &["node", "client_v2.mjs"];
const RUNS: [Run; 7] = [
    Run { program: PYTHON, era: None, version: MODERN },
    Run { program: PYTHON, era: Some(MODERN), version: MODERN },
    Run { program: PYTHON, era: Some("legacy"), version: LEGACY },
    Run { program: TYPESCRIPT_1, era: None, version: LEGACY },
    Run { program: TYPESCRIPT_2, era: None, version: LEGACY },
    Run { program: TYPESCRIPT_2, era: Some("auto"), version: MODERN },
    Run { program: TYPESCRIPT_2, era: Some(MODERN), version: MODERN },
];

/// What `server-everything` registers for a client that can do everything; for one that can do nothing it
/// hides four.
const EVERYTHING: [&str; 17] = [
    "echo",
    "get-annotated-message",
    "get-env",
    "get-resource-links",
    "get-resource-reference",
    "get-roots-list",
    "get-structured-content",
    "get-sum",
    "get-tiny-image",
    "gzip-file-as-resource",
    "simulate-research-query",
    "toggle-simulated-logging",
    "toggle-subscriber-updates",
    "trigger-elicitation-request",
    "trigger-long-running-operation",
    "trigger-sampling-request",
    "trigger-url-elicitation",
];
const OTHER_TOOLS: [&str; 6] = [
    "read_text_file",
    "list_allowed_directories",
    "create_entities",
    "read_graph",
    "get_current_time",
    "fetch",
];
const TOKEN: &str = "a-token-for-the-tests";

#[tokio::test(flavor = "multi_thread")]
async fn official_clients_use_five_official_servers_at_once() {
    let setup = setup().await;
    let mut failures = Vec::new();
    for run in &RUNS {
        if let Err(failure) = setup.drive(run).await {
            failures.push(format!(
                "{} --era {}: {failure}",
                run.program.join(" "),
                run.era.unwrap_or("default")
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    drain(setup).await;
}

async fn setup() -> Setup {
    let scratch = Scratch::new();
    scratch.write("file.txt", "a file for the tests\n");
    let bridges = bridges(&scratch).await;
    let names = ["everything", "filesystem", "memory", "time", "fetch"];
    certificates(&scratch);
    let config = scratch.write(
        "edge.yaml",
        &format!(
            "tls: {{cert: {}, key: {}}}\n",
            scratch.path("edge.pem").display(),
            scratch.path("edge.key").display()
        ),
    );
    let mut command = Command::new(binary("mcp-edge"));
    command.arg("--config").arg(config).env("MCP_GATEWAY_AUTH_TOKEN", TOKEN);
    for (name, bridge) in names.iter().zip(&bridges) {
        command.arg("--server").arg(format!("{name}={}", bridge.address));
    }
    let edge = Edge::start_with(command).await;
    edge.ready().await;
    Setup { scratch, edge, page: Page::serve().await, _bridges: bridges }
}

/// In the order of their names above.
async fn bridges(scratch: &Scratch) -> Vec<Bridge> {
    let node = |server: &str| {
        let script = format!("node_modules/@modelcontextprotocol/server-{server}/dist/index.js");
        vec!["node".to_owned(), part(&script)]
    };
    let with = |variable: String, command: Vec<String>| [vec!["env".to_owned(), variable], command].concat();
    let files = scratch.path("").display().to_string();
    let memory = format!("MEMORY_FILE_PATH={}", scratch.path("memory.json").display());
    let fetch = vec![part(".venv/bin/mcp-server-fetch"), "--allow-private-ips".to_owned()];
    let commands = [
        node("everything"),
        [node("filesystem"), vec![files]].concat(),
        with(memory, node("memory")),
        vec![part(".venv/bin/mcp-server-time")],
        with("NO_PROXY=127.0.0.1".to_owned(), fetch),
    ];
    let mut bridges = Vec::new();
    for command in commands {
        bridges.push(Bridge::start(&command).await);
    }
    bridges
}

/// An authority that lives as long as the test, and what it signed: `ca.pem`, `edge.pem`, `edge.key`.
fn certificates(scratch: &Scratch) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    // Issuer and subject must differ, or the certificate of the edge counts as self-signed.
    params.distinguished_name.push(DnType::CommonName, "an authority for the tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    scratch.write("ca.pem", &params.self_signed(&key).unwrap().pem());
    let authority = Issuer::new(params, key);
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    scratch.write("edge.pem", &params.signed_by(&key, &authority).unwrap().pem());
    scratch.write("edge.key", &key.serialize_pem());
}

impl Setup {
    /// Runs one client to its end and judges its report.
    async fn drive(&self, run: &Run) -> Result<(), String> {
        let (program, script) = (run.program[0], run.program[1]);
        let program = if program.starts_with('.') { part(program) } else { program.to_owned() };
        let mut command = Command::new(program);
        command.current_dir(real::directory()).arg(script).env("NO_PROXY", "127.0.0.1").kill_on_drop(true);
        command.args(["--url", &format!("https://127.0.0.1:{}/mcp", self.edge.address.port())]);
        command.args(["--servers", "everything,filesystem,memory,time,fetch", "--token", TOKEN]);
        command.args(["--page", &self.page.url]);
        command.arg("--ca").arg(self.scratch.path("ca.pem")).arg("--file").arg(self.scratch.path("file.txt"));
        command.args(run.era.iter().flat_map(|era| ["--era", era]));
        let output = tokio::time::timeout(CLIENT_GUARD, command.output()).await;
        let output =
            output.map_err(|_| "did not end in time".to_owned())?.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let report: Value =
            serde_json::from_slice(&output.stdout).map_err(|_| format!("no report: {said}"))?;
        match report["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None if !output.status.success() => Err(format!("{}: {said}", output.status)),
            None => judge(run, &report),
        }
    }
}

fn judge(run: &Run, report: &Value) -> Result<(), String> {
    let check =
        |holds: bool, sentence: &str| if holds { Ok(()) } else { Err(format!("{sentence}: {report}")) };
    check(report["protocolVersion"] == run.version, "another protocol version was agreed on")?;
    let tools: Vec<_> = report["tools"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for tool in EVERYTHING.iter().chain(&OTHER_TOOLS) {
        check(tools.iter().filter(|name| *name == tool).count() == 1, &format!("{tool} is not listed once"))?;
    }
    check(report["calls"].as_object().unwrap().len() == 5, "not every server was called")?;
    check(report["templates"].as_array().unwrap().len() >= 2, "templates are missing")?;
    check(
        report["prompts"].as_array().unwrap().iter().any(|name| name == "args-prompt"),
        "prompts are missing",
    )?;
    check(!report["progress"].as_array().unwrap().is_empty(), "no progress was seen")?;
    check(report["cancelledAfter"].as_f64().is_some_and(|seconds| seconds < 10.0), "the cancel took long")
}

/// A running edge ends properly with clients gone, within its own deadline for it.
async fn drain(mut setup: Setup) {
    setup.edge.process.signal("TERM").await;
    let status = setup.edge.process.ended().await;
    assert!(status.success(), "the edge ended with {status}:\n{}", setup.edge.process.output());
}

/// A web site of one page of plain text (on HTML, mcp-server-fetch installs packages at its first call), open
/// to robots because it has no robots.txt.
struct Page {
    url: String,
    serving: JoinHandle<()>,
}

impl Page {
    async fn serve() -> Page {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/page", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    if !matches!(stream.read_buf(&mut request).await, Ok(bytes) if bytes > 0) {
                        break;
                    }
                }
                let (status, body) = if request.starts_with(b"GET /page") {
                    ("200 OK", "a page for the tests")
                } else {
                    ("404 Not Found", "")
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\n\
                     Connection: close\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        Page { url, serving }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A client needs 2 to 4 s on an idle machine.
const CLIENT_GUARD: Duration = Duration::from_secs(120);
