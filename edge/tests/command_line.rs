//! The program from the outside: what it prints, where, and with which code it ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::net::SocketAddr;
use std::process::Output;

use testkit::GUARD;
use testkit::http::Request;
use testkit::process::{Edge, Scratch, binary, free_address};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

const TOKEN: &str = "hunter2";

fn edge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-edge"));
    command.args(args).env_remove("MCP_GATEWAY_AUTH_TOKEN").env_remove("MCP_EDGE_LOG").kill_on_drop(true);
    command
}

/// Runs to the end: (exit code, stdout, stderr).
async fn run(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = timeout(GUARD, command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test]
async fn wrong_settings_end_with_2_and_a_sentence() {
    let scratch = Scratch::new();
    let file = scratch.write("edge.yaml", "limits: {boddy: 4MiB}\n");
    let file = file.to_str().unwrap();
    let list = scratch.write("list.yaml", "servers: [{name: a}]\n");
    let list = list.to_str().unwrap();
    for (args, said) in [
        (&["--sevrers=a"][..], "--servers"),
        (&["--servers=a"], "MCP_GATEWAY_AUTH_TOKEN"),
        (&["--host=127.0.0.1"], "no server is configured"),
        (&["--host=127.0.0.1", "--config", list], "`name: {…}`"),
        (&["--servers=a", "--host=127.0.0.1", "--block-secrets"], "not supported yet"),
        (&["--servers=a", "--host=127.0.0.1", "--transport=http"], "`stdio`"),
        (&["--servers=a", "--host=127.0.0.1", "--config", file], "limits.boddy"),
        (&["--servers=a", "--host=127.0.0.1", "--config", file], "`limits.body`"),
    ] {
        let (code, stdout, stderr) = run(edge(args)).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
        let servers_are_told = !args.contains(&list) || !stderr.contains("no server is configured");
        assert!(servers_are_told, "{stderr}");
    }
}

#[tokio::test]
async fn help_and_version_are_no_errors() {
    for (flag, said) in [("--help", "--servers"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let (code, stdout, stderr) = run(edge(&[flag])).await;
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.contains(said), "{stdout}");
    }
}

#[tokio::test]
async fn what_cannot_be_started_ends_with_1_and_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(edge(&["--servers=a", "--admin=127.0.0.1:0", "--listen", &address])).await;
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("cannot listen on {address}")), "{stderr}");

    let scratch = Scratch::new();
    let file = scratch.write("edge.yaml", "tls: {cert: no.crt, key: no.key}\n");
    let args =
        ["--servers=a", "--admin=127.0.0.1:0", "--listen=127.0.0.1:0", "--config", file.to_str().unwrap()];
    let (code, _, stderr) = run(edge(&args)).await;
    assert_eq!(code, 1);
    assert!(stderr.contains(scratch.path("no.crt").to_str().unwrap()), "{stderr}");
}

#[tokio::test]
async fn a_dry_run_names_the_server_that_does_not_answer() {
    let nobody = format!("absent={}", free_address());
    let (code, stdout, _) = run(edge(&["--dry-run", "--listen=127.0.0.1:0", "--server", &nobody])).await;
    assert_eq!(code, 1);
    assert!(stdout.contains("absent"), "{stdout}");
}

#[tokio::test]
async fn a_dry_run_shows_why_a_command_does_not_start() {
    let scratch = Scratch::new();
    let servers = "servers: {gone: {command: [/no/such/program]}, torn: {command: [sh, -c, 'echo the reason >&2; exit 3']}, deaf: {command: [cat]}}\n";
    let file = scratch.write("edge.yaml", servers);
    let args = ["--dry-run", "--listen=127.0.0.1:0", "--config", file.to_str().unwrap()];
    let (code, stdout, stderr) = run(edge(&args)).await;
    assert_eq!(code, 1);
    assert!(stdout.contains("`/no/such/program` does not start: No such file"), "{stdout}");
    assert!(stderr.contains("the reason"), "{stderr}");
    for server in ["torn", "deaf"] {
        assert!(stdout.contains(&format!("server {server}: failing (server `{server}`")), "{stdout}");
    }
}

#[tokio::test]
async fn dry_run_with_an_unreadable_list_names_it_and_shows_the_others() {
    let scratch = Scratch::new();
    let refuses = format!(
        "servers: {{odd: {{command: [{:?}, --tools, \"2\", --resources, \"1\", --on, \"prompts/list=error:-32000\"]}}}}\n",
        binary("scripted-server")
    );
    let file = scratch.write("edge.yaml", &refuses);
    let args = ["--dry-run", "--listen=127.0.0.1:0", "--config", file.to_str().unwrap()];
    let (code, stdout, _) = run(edge(&args)).await;
    assert_eq!(code, 0, "{stdout}");
    for line in
        ["warning: prompts/list: ", "refused prompts/list with code -32000", "tools: 2", "resources: 1"]
    {
        assert!(stdout.contains(line), "{line}: {stdout}");
    }
}

#[tokio::test]
async fn a_dry_run_says_what_is_odd_about_a_policy() {
    let scratch = Scratch::new();
    let text = format!(
        "auth: {{tokens: [{{env: A, principal: ann}}, {{env: B, principal: bea}}]}}\n\
         policy: {{ann: {{servers: [quartz, quarz, '!v*']}}, 'a*': {{tools: ['*', '!tol_0', '!quartz__*']}}, bea-2: {{}}}}\n\
         servers: {{quartz: {{command: [{:?}, --tools, \"1\"]}}}}\n",
        binary("scripted-server")
    );
    let file = scratch.write("edge.yaml", &text);
    let mut command = edge(&["--dry-run", "--listen=127.0.0.1:0", "--config", file.to_str().unwrap()]);
    command.env("A", "a-token").env("B", "b-token");
    let (code, stdout, _) = run(command).await;
    assert_eq!(code, 0, "{stdout}");
    let odd: Vec<_> = stdout.lines().filter_map(|line| line.strip_prefix("policy: warning: ")).collect();
    let all = [
        "no entry matches the principal `bea`, which may use nothing",
        "`quarz` in the servers of `ann` matches no server",
        "`!v*` in the servers of `ann` matches no server",
        "`!tol_0` in the tools of `a*` matches no tool of its servers, so it has no effect",
    ];
    assert_eq!(odd, all, "{stdout}");
}

/// Status and challenge of a ping with this `Authorization`.
async fn status(address: SocketAddr, authorization: Option<&str>) -> (u16, Option<String>) {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let request = Request::new("POST", "/mcp")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(body);
    let request = match authorization {
        Some(value) => request.header("authorization", value),
        None => request,
    };
    let response = request.send(address).await.unwrap();
    (response.status, response.header("www-authenticate").map(str::to_owned))
}

#[tokio::test]
async fn running_edge_passes_health_checks_and_requires_its_token() {
    let scratch = Scratch::new();
    let file = scratch.write("edge.yaml", "limits: {drain_delay: 0s, drain: 5s, names_settle: 1s}\n");
    let nobody = format!("absent={}", free_address());
    let mut command = edge(&["--verbose", "--server", &nobody, "--config", file.to_str().unwrap()]);
    command.env("MCP_GATEWAY_AUTH_TOKEN", TOKEN);
    let mut running = Edge::start_with(command).await;

    let admin = running.admin.to_string();
    let (code, stdout, _) = run(edge(&["--check-health", "--admin", &admin])).await;
    assert_eq!((code, stdout.trim()), (0, format!("http://{admin}/health answers 200 OK").as_str()));
    let url = format!("http://{}/health", running.address);
    assert_eq!(run(edge(&["--check-health", &url])).await.0, 0, "the public port answers too");

    let (refused, challenge) = status(running.address, None).await;
    assert_eq!((refused, challenge.as_deref()), (401, Some(r#"Bearer realm="mcp-edge""#)));
    let (refused, challenge) = status(running.address, Some("Bearer hunter")).await;
    assert!(refused == 401 && challenge.unwrap().contains("invalid_token"));
    assert_ne!(status(running.address, Some(&format!("Bearer {TOKEN}"))).await.0, 401);

    running.process.signal("TERM").await;
    assert_eq!(running.process.ended().await.code(), Some(0));
    assert!(!running.process.output().contains(TOKEN), "{}", running.process.output());
    assert_eq!(run(edge(&["--check-health", "--admin", &admin])).await.0, 1, "nobody is there any more");
}
