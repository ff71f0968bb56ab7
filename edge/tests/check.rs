//! `mcp-edge check`: what it prints for a working endpoint, and which error it reports otherwise.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic here is a failed test")]

use std::net::SocketAddr;

use testkit::GUARD;
use testkit::process::{Bridge, Edge, Scratch, binary, free_address};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

const TOKEN: &str = "hunter2";

/// Runs `mcp-edge check` to the end: (exit code, stdout, stderr).
async fn check(args: &[&str], token: Option<(&str, &str)>) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-edge"));
    command.arg("check").args(args).env_remove("MCP_GATEWAY_AUTH_TOKEN").env_remove("SSL_CERT_FILE");
    if let Some((variable, token)) = token {
        command.env(variable, token);
    }
    let output = timeout(GUARD, command.kill_on_drop(true).output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The error that is reported for a URL.
async fn diagnosis(url: &str) -> String {
    let (code, _, stderr) = check(&[url], Some(("MCP_GATEWAY_AUTH_TOKEN", TOKEN))).await;
    assert_eq!(code, 1, "{stderr}");
    stderr
}

/// An edge with the demo server and one that is not there.
async fn edge(config: &str) -> (Edge, Bridge, Scratch) {
    let scratch = Scratch::new();
    let file = scratch.write("edge.yaml", &format!("limits: {{names_settle: 1s}}\n{config}"));
    let bridge = Bridge::start(&[binary("demo-server")]).await;
    let mut command = Command::new(binary("mcp-edge"));
    command.env("MCP_GATEWAY_AUTH_TOKEN", TOKEN).arg("--config").arg(&file);
    command
        .arg(format!("--server=demo={}", bridge.address))
        .arg(format!("--server=absent={}", free_address()));
    let edge = Edge::start_with(command).await;
    (edge, bridge, scratch)
}

#[tokio::test]
async fn working_endpoint_is_listed_and_timed() {
    let (edge, _bridge, _scratch) = edge("").await;
    edge.ready().await;
    let url = format!("http://{}", edge.address);
    let (code, stdout, stderr) = check(&[&url, "--token-env=OTHER"], Some(("OTHER", TOKEN))).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    for part in [
        &format!("{url}/mcp"),
        &edge.address.to_string(),
        "2026-07-28, mcp-edge",
        "tools",
        "echo, add",
        "No problem found.",
    ] {
        assert!(stdout.contains(part), "{part} is missing in\n{stdout}");
    }
    assert!(!stdout.contains(TOKEN));

    let admin = format!("http://{}", edge.admin);
    let (code, stdout, stderr) =
        check(&[&url, "--admin", &admin], Some(("MCP_GATEWAY_AUTH_TOKEN", TOKEN))).await;
    assert_eq!(code, 1);
    assert!(stdout.contains("demo up") && stderr.contains("not up: absent"), "{stdout}{stderr}");
}

#[tokio::test]
async fn wrong_token_path_and_port_are_reported_differently() {
    let (edge, _bridge, _scratch) = edge("").await;
    edge.ready().await;
    let url = format!("http://{}/mcp", edge.address);
    let (code, _, stderr) = check(&[&url], None).await;
    assert!(code == 1 && stderr.contains("set MCP_GATEWAY_AUTH_TOKEN"), "{stderr}");
    let (code, _, stderr) = check(&[&url], Some(("MCP_GATEWAY_AUTH_TOKEN", "wrong"))).await;
    assert!(code == 1 && stderr.contains("does not take the token"), "{stderr}");
    let (code, _, stderr) = check(&[&url], Some(("MCP_GATEWAY_AUTH_TOKEN", "two\nlines"))).await;
    assert!(code == 1 && stderr.contains("line break"), "{stderr}");
    assert!(
        diagnosis(&format!("http://{}/nowhere", edge.address))
            .await
            .contains("nothing is served at /nowhere")
    );
    assert!(diagnosis(&format!("http://{}", free_address())).await.contains("nobody listens at"));
    assert!(diagnosis("http://no-such-host.invalid/").await.contains("does not resolve"));
    assert!(diagnosis(&format!("https://{}", edge.address)).await.contains("does not speak TLS"));
    for wrong in ["edge:8811", "ftp://edge/", ""] {
        let (code, _, stderr) = check(&[wrong], None).await;
        assert!(code == 2 && stderr.contains("http://"), "{stderr}");
    }
}

#[tokio::test]
async fn certificate_that_is_not_trusted_is_explained() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = Scratch::new();
    let (cert, key) =
        (files.write("tls.crt", &made.cert.pem()), files.write("tls.key", &made.signing_key.serialize_pem()));
    let tls = format!("tls: {{cert: {}, key: {}}}\n", cert.display(), key.display());
    let (edge, _bridge, _scratch) = edge(&tls).await;
    edge.ready().await;
    let port = edge.address.port();
    let with = Some(("MCP_GATEWAY_AUTH_TOKEN", TOKEN));
    let ca = cert.to_str().unwrap();

    let (code, stdout, stderr) = check(&[&format!("https://localhost:{port}"), "--ca", ca], with).await;
    assert!(code == 0 && stdout.contains("TLSv1_3"), "{stdout}{stderr}");
    let (_, _, stderr) = check(&[&format!("https://127.0.0.1:{port}"), "--ca", ca], with).await;
    assert!(stderr.contains("certificate is not for 127.0.0.1"), "{stderr}");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = files.write("other.crt", &other.cert.pem());
    let (_, _, stderr) =
        check(&[&format!("https://localhost:{port}"), "--ca", other.to_str().unwrap()], with).await;
    assert!(stderr.contains("certificate is"), "{stderr}");
    assert!(diagnosis(&format!("http://localhost:{port}")).await.contains("write https://"));
}

/// Answers requests with these responses in turn, whatever they ask.
async fn answering(answers: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in answers.iter().cycle() {
            let mut stream = listener.accept().await.unwrap().0;
            let mut head = [0; 4096];
            assert_ne!(stream.read(&mut head).await.unwrap(), 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn endpoint_that_is_not_an_edge_is_recognised() {
    for (answer, words) in [
        ("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>", "that is not MCP"),
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "cannot reach the edge"),
        (
            "HTTP/1.1 308 Moved\r\nlocation: https://else.example/\r\ncontent-length: 0\r\n\r\n",
            "https://else.example/",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "does not answer in HTTP"),
    ] {
        let address = answering(std::slice::from_ref(Box::leak(Box::new(answer)))).await;
        let said = diagnosis(&format!("http://{address}")).await;
        assert!(said.contains(words), "{answer}: {said}");
    }
}

#[tokio::test]
async fn endpoint_with_sessions_only_is_diagnosed_over_a_session() {
    const CLOSE: &str = "connection: close\r\ncontent-type:";
    let refused = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"unknown"}}"#;
    let opened = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","serverInfo":{"name":"old","version":"7"}}}"#;
    let tools = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"dig"}]}}"#;
    let script = [
        format!("HTTP/1.1 400 Bad\r\n{CLOSE} application/json\r\n\r\n{refused}"),
        format!(
            "HTTP/1.1 200 OK\r\nmcp-session-id: s\r\n{CLOSE} text/event-stream\r\n\r\ndata: {opened}\n\n"
        ),
        format!("HTTP/1.1 202 Accepted\r\n{CLOSE} text/plain\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{CLOSE} text/event-stream\r\n\r\ndata: {tools}\n\n"),
        format!("HTTP/1.1 200 OK\r\n{CLOSE} application/json\r\n\r\n{refused}"),
        format!("HTTP/1.1 200 OK\r\n{CLOSE} application/json\r\n\r\n{refused}"),
        format!("HTTP/1.1 204 No Content\r\n{CLOSE} text/plain\r\n\r\n"),
    ];
    let script: Vec<&'static str> = script.into_iter().map(|answer| &*answer.leak()).collect();
    let address = answering(script.leak()).await;
    let (code, stdout, stderr) = check(&[&format!("http://{address}")], None).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    for part in ["2025-06-18, old 7", "1 (", ": dig", "prompts    not offered"] {
        assert!(stdout.contains(part), "{part} is missing in\n{stdout}");
    }
}
