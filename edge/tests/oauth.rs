//! The edge as a resource server, from outside: official clients that get their tokens of a real authorization server by
//! themselves, and tokens made by hand for what no honest one gives out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer as Authority, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use testkit::client::Client;
use testkit::http::{Request, Response};
use testkit::issuer::{Issuer, Signer, now, part as encoded};
use testkit::process::{Edge, Process, Scratch, binary, free_address};
use testkit::real::{self, node, part};
use testkit::script::Script;
use testkit::scripted::Listener;
use testkit::{GUARD, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const CONFIGURED: &str = "a-token-of-the-configuration";
/// The edge's public name in tokens, as behind a proxy; it does not depend on the listen address.
const PUBLIC: &str = "http://localhost:4711/mcp";

/// An edge in front of one scripted server; the rest of the configuration is the test's.
struct Stage {
    scratch: Scratch,
    edge: Edge,
    _server: Listener,
}

impl Stage {
    async fn start(text: &str) -> Self {
        Self::start_with(Scratch::new(), text, &[]).await
    }

    async fn start_with(scratch: Scratch, text: &str, env: &[(&str, &str)]) -> Self {
        let server = Listener::start(Script::from_flags(&["--tools", "2"])).await;
        let file = scratch
            .write("edge.yaml", &format!("{text}servers: {{time: {{address: \"{}\"}}}}\n", server.address()));
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--config").arg(file).env("MCP_GATEWAY_AUTH_TOKEN", CONFIGURED).envs(env.iter().copied());
        let edge = Edge::start_with(command).await;
        edge.ready().await;
        Self { scratch, edge, _server: server }
    }

    async fn status(&self, token: &str) -> u16 {
        self.list("/mcp", token).await.status
    }

    async fn list(&self, path: &str, token: &str) -> Response {
        let client = Client::modern(self.edge.address).at(path).token(token);
        client.open("tools/list", json!({})).await.response
    }

    async fn refused(&self, reason: &str) -> f64 {
        let series = format!("mcp_edge_auth_refused_total{{reason=\"{reason}\"}}");
        self.edge.metric(&series).await.unwrap_or_default()
    }

    /// Until tokens of the issuer are taken.
    async fn takes(&self, token: &str) {
        eventually("the token to be taken", async || (self.status(token).await == 200).then_some(())).await;
    }
}

fn oauth(issuer: &Issuer) -> String {
    format!("auth: {{oauth: {{resource: \"{PUBLIC}\", issuer: \"{}\", scopes: [mcp]}}}}\n", issuer.name())
}

/// Claims of a good token, with these changed.
fn claims(issuer: &Issuer, changes: Value) -> Value {
    let mut claims = issuer.claims(PUBLIC, "ann");
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn official_clients_get_their_tokens_by_themselves() {
    let (scratch, issuer, server) = (Scratch::new(), free_address(), binary("scripted-server"));
    let address = free_address();
    let url = |path: &str| format!("http://{address}{path}");
    let mut command = Command::new(node());
    command.current_dir(real::directory()).arg(part("authorization_server.mjs"));
    command.args(["--port", &issuer.port().to_string(), "--scope", "mcp", "--ttl", "60"]);
    for path in ["/mcp", "/servers/time/mcp", "/sse"] {
        command.args(["--resource", &url(path)]);
    }
    let authorization = Process::start(command);
    authorization.wrote("listening as").await;
    let text = format!(
        "auth: {{tokens: [], oauth: {{resource: \"{}\", issuer: \"http://{issuer}\", scopes: [mcp]}}}}\n\
         servers: {{time: {{command: [{}, --tools, \"2\"]}}}}\n",
        url("/mcp"),
        server.display()
    );
    let mut command = Command::new(binary("mcp-edge"));
    command.arg("--config").arg(scratch.write("edge.yaml", &text));
    let edge = Edge::start_at(command, address).await;
    edge.ready().await;
    let (python, v1, v2) =
        (&[".venv/bin/python", "oauth.py"], &["node", "oauth_v1.mjs"], &["node", "oauth_v2.mjs"]);
    let modern = ["--era", "2026-07-28"];
    let mut runs: Vec<(&[&str; 2], &str, &[&str])> = Vec::new();
    for path in ["/mcp", "/servers/time/mcp"] {
        runs.extend([(v1, path, &[][..]), (v2, path, &[]), (v2, path, &modern)]);
        runs.extend([(python, path, &["--era", "legacy"][..]), (python, path, &modern)]);
    }
    runs.extend([python, v1, v2].map(|program| (program, "/sse", &["--transport", "sse"][..])));
    let mut failures = Vec::new();
    for (program, path, flags) in &runs {
        let executable = if program[0].starts_with('.') { part(program[0]) } else { program[0].to_owned() };
        let mut command = Command::new(executable);
        command.current_dir(real::directory()).arg(program[1]).args(["--url", &url(path)]).args(*flags);
        let output = timeout(GUARD, command.env("NO_PROXY", "127.0.0.1").kill_on_drop(true).output()).await;
        let output = output.expect("the client ends in time").unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let went_well = report["refused"] == true
            && report["tools"] == json!(["t0", "t1"])
            && report["after"] == report["before"]
            && report["after"].is_string()
            && report["tokens"] == 2;
        if !went_well {
            failures.push(format!(
                "{program:?} {path} {flags:?}: {report}\n{}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Each came in by a person's consent once and by its refresh token once, for the very endpoint it went to.
    for path in ["/mcp", "/servers/time/mcp", "/sse"] {
        let count = runs.iter().filter(|run| run.1 == path).count();
        for kind in ["authorization_code", "refresh_token"] {
            let line = format!("granted by {kind} for {}\n", url(path));
            assert_eq!(authorization.output().matches(&line).count(), count, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_token_is_refused_with_a_reason_and_counted() {
    let (signer, stranger) = (Signer::new("k", "ES256"), Signer::new("k", "ES256"));
    let rsa = Signer::new("rsa", "RS256");
    let issuer = Issuer::start(&[&signer, &rsa]).await;
    let stage = Stage::start(&oauth(&issuer)).await;
    let with = |changes: Value| signer.token(&claims(&issuer, changes));
    stage.takes(&with(json!({}))).await;
    assert_eq!(stage.status(CONFIGURED).await, 200, "side by side");
    let good = claims(&issuer, json!({}));
    for (token, status, reason) in [
        (with(json!({"iss": "https://other.example"})), 401, "issuer"),
        (with(json!({"aud": "https://other.example/mcp"})), 401, "audience"),
        (with(json!({"exp": now() - 31})), 401, "expired"),
        (with(json!({"nbf": now() + 600})), 401, "not_yet"),
        (with(json!({"sub": ""})), 401, "principal"),
        (with(json!({"scope": "openid"})), 403, "scope"),
        (with(json!({"exp": null})), 401, "malformed"),
        (stranger.token(&good), 401, "signature"),
        (Signer::new("other", "ES256").token(&good), 401, "key"),
        (rsa.sign(&json!({"alg": "HS256", "kid": "rsa"}), &good), 401, "algorithm"),
        (format!("{}.{}.", encoded(&json!({"alg": "none"})), encoded(&good)), 401, "algorithm"),
        (signer.sign(&json!({"alg": "ES256", "kid": "k", "typ": "logout+jwt"}), &good), 401, "type"),
    ] {
        let before = stage.refused(reason).await;
        let response = stage.list("/mcp", &token).await;
        assert_eq!(response.status, status, "{reason}");
        assert_eq!(stage.refused(reason).await, before + 1.0, "{reason}");
        let challenge = response.header("www-authenticate").unwrap();
        let code = if status == 403 { "insufficient_scope" } else { "invalid_token" };
        assert!(challenge.contains(&format!("error=\"{code}\"")), "{challenge}");
        let metadata = "http://localhost:4711/.well-known/oauth-protected-resource/mcp";
        assert!(
            challenge.contains(&format!("resource_metadata=\"{metadata}\", scope=\"mcp\"")),
            "{challenge}"
        );
    }
    // One server's token at that server, and nowhere else.
    let one = with(json!({"aud": "http://localhost:4711/servers/time/mcp"}));
    assert_eq!(stage.list("/servers/time/mcp", &one).await.status, 200);
    assert_eq!(stage.status(&one).await, 401);
    let output = stage.edge.process.output();
    assert!(!output.contains(&one) && !output.contains("eyJ"), "tokens stay out of the log:\n{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_that_is_unreachable_at_start_blocks_no_other_credential() {
    let (signer, address) = (Signer::new("k", "EdDSA"), free_address());
    let resting = Issuer::start_at(address, &[]).await;
    resting.publish(&[]);
    let stage = Stage::start(&oauth(&resting)).await;
    let token = signer.token(&claims(&resting, json!({})));
    stage.edge.process.wrote("cannot be fetched").await;
    let refused = stage.list("/mcp", &token).await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (503, None), "no reason to log in anew");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(stage.status(CONFIGURED).await, 200);
    assert_eq!(
        stage.edge.readiness().await.0,
        200,
        "it is ready: nobody else could serve these clients better"
    );
    assert!(stage.edge.metric("mcp_edge_oauth_key_fetch_failures_total").await.unwrap() >= 1.0);
    assert_eq!(stage.edge.metric("mcp_edge_oauth_keys").await, Some(0.0));
    resting.publish(&[&signer]);
    stage.takes(&token).await;
    assert_eq!(stage.edge.metric("mcp_edge_oauth_keys").await, Some(1.0));
    let fetched = stage.edge.metric("mcp_edge_oauth_keys_fetched_timestamp_seconds").await.unwrap();
    assert!((fetched - now() as f64).abs() < 120.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_issuer_is_refused_while_serving_and_other_keys_are_taken() {
    let (one, other) = (Signer::new("one", "ES256"), Signer::new("other", "ES256"));
    let (first, second) = (Issuer::start(&[&one]).await, Issuer::start(&[&other]).await);
    let stage = Stage::start(&oauth(&first)).await;
    let before = one.token(&claims(&first, json!({})));
    stage.takes(&before).await;
    let client = Client::legacy(stage.edge.address, "2025-11-25").token(&before).connect().await;
    let mut stream = client.listen().await;
    let file = stage.scratch.path("edge.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    // Its users have other names: sessions of this process are not theirs.
    std::fs::write(&file, text.replace(&first.name(), &second.name())).unwrap();
    stage.edge.process.signal("HUP").await;
    stage.edge.process.wrote("stays in force: auth.oauth.issuer: ").await;
    assert_eq!(stage.status(&other.token(&claims(&second, json!({})))).await, 401);
    stage.takes(&before).await;
    // Keys in a file are looked at again like the configuration itself, and what a key has signed ends with it.
    let keys = |signers: &[&Signer]| {
        stage.scratch.write("keys.json", &testkit::issuer::key_set(signers).to_string());
    };
    keys(&[&other]);
    let name = first.name();
    let with_file = text
        .replace(&format!("issuer: \"{name}\""), &format!("issuer: \"{name}\", keys: {{file: keys.json}}"));
    assert_ne!(with_file, text);
    std::fs::write(&file, with_file).unwrap();
    stage.edge.process.signal("HUP").await;
    let of_file = other.token(&claims(&first, json!({})));
    stage.takes(&of_file).await;
    assert_eq!(stage.status(&before).await, 401);
    timeout(GUARD, async { while stream.event().await.is_some() {} }).await.expect("the stream ends");
    keys(&[&one]);
    stage.takes(&before).await;
    assert_eq!(stage.status(&of_file).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_at_the_replica_it_came_to() {
    let signer = Signer::new("k", "ES256");
    let issuer = Issuer::start(&[&signer]).await;
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let text = format!(
            "peers: {{listen: \"{}\"}}\nlimits: {{keep_alive: 1s}}\n{}",
            free_address(),
            oauth(&issuer)
        );
        let key = "k".repeat(32);
        replicas.push(Stage::start_with(Scratch::new(), &text, &[("MCP_EDGE_KEY", &key)]).await);
    }
    let token = signer.token(&claims(&issuer, json!({})));
    for replica in &replicas {
        replica.takes(&token).await;
    }
    let (holder, other) = (replicas[0].edge.address, replicas[1].edge.address);
    let client = Client::legacy(holder, "2025-11-25").token(&token).connect().await;
    let session = client.session().unwrap().to_owned();
    for address in [holder, other] {
        // It is valid as long as clocks may differ, and not much longer.
        let late = signer.token(&claims(&issuer, json!({"exp": now() - 20})));
        let mut stream = listen(address, &session, &late).await;
        assert_eq!(stream.status, 200);
        timeout(GUARD, async { while stream.event().await.is_some() {} }).await.expect("the stream ends");
        assert_eq!(listen(address, &session, &late).await.status, 401);
        let stream = listen(address, &session, &token).await;
        assert_eq!(stream.status, 200, "the session outlives the token");
    }
}

async fn listen(address: SocketAddr, session: &str, token: &str) -> Response {
    let request = Request::new("GET", "/mcp").header("Accept", "text/event-stream");
    let request = request.header("Mcp-Session-Id", session).header("MCP-Protocol-Version", "2025-11-25");
    request.header("Authorization", &format!("Bearer {token}")).send(address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_reports_the_keys_of_the_issuer() {
    let signer = Signer::new("k", "ES256");
    let issuer = Issuer::start(&[&signer]).await;
    let server = Listener::start(Script::from_flags(&["--tools", "1"])).await;
    let scratch = Scratch::new();
    let file = scratch.write(
        "edge.yaml",
        &format!("{}servers: {{time: {{address: \"{}\"}}}}\n", oauth(&issuer), server.address()),
    );
    let run = async || {
        let mut command = Command::new(binary("mcp-edge"));
        let output = command.arg("--dry-run").arg("--config").arg(&file).output().await.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (went_well, report) = run().await;
    assert!(
        went_well && report.contains(&format!("issuer {}: 1 keys (from http://", issuer.name())),
        "{report}"
    );
    issuer.publish(&[]);
    let (went_well, report) = run().await;
    assert!(!went_well && report.contains("no keys (") && report.contains("auth.oauth.keys.url"), "{report}");
}

/// An issuer under TLS: its name, and the file of the authority that made out its certificate.
async fn issuer_under_tls(scratch: &Scratch, keys: Value) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "an authority for the tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    scratch.write("ca.pem", &params.self_signed(&key).unwrap().pem());
    let authority = Authority::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &authority).unwrap().der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let name = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let issuer = name.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if !matches!(stream.read_buf(&mut request).await, Ok(bytes) if bytes > 0) {
                    break;
                }
            }
            let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
            let (status, more, body) = match path.as_str() {
                "/.well-known/oauth-authorization-server" => {
                    ("200 OK", "", json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks")}))
                }
                "/jwks" => ("200 OK", "", keys.clone()),
                "/moved" => ("302 Found", "Location: /jwks\r\n", keys.clone()),
                _ => ("404 Not Found", "", Value::Null),
            };
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_under_tls_from_trusted_hosts_alone() {
    let (signer, scratch) = (Signer::new("k", "ES384"), Scratch::new());
    let issuer = issuer_under_tls(&scratch, testkit::issuer::key_set(&[&signer])).await;
    let text = |more: &str| {
        format!(
            "auth: {{oauth: {{resource: \"{PUBLIC}\", issuer: \"{issuer}\"{more}}}}}\nservers: {{time: {{address: \"127.0.0.1:1\"}}}}\n"
        )
    };
    for (more, found) in [
        (", ca: ca.pem", "1 keys (from https://localhost:"),
        ("", "its certificate is from an authority that is not trusted"),
        (&format!(", ca: ca.pem, keys: {{url: \"{issuer}/moved\"}}"), "it answers 302 Found"),
        (
            &format!(", ca: ca.pem, keys: {{url: \"{}/jwks\"}}", issuer.replace("localhost", "127.0.0.1")),
            "not for 127.0.0.1",
        ),
    ] {
        let file = scratch.write("dry.yaml", &text(more));
        // Whatever this machine trusts, it is not the authority of the test.
        let output = Command::new(binary("mcp-edge"))
            .arg("--dry-run")
            .arg("--config")
            .arg(file)
            .output()
            .await
            .unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        assert!(report.contains(found), "{more}: {report}");
    }
    let stage =
        Stage::start_with(scratch, text(", ca: ca.pem").split_inclusive('\n').next().unwrap(), &[]).await;
    let claims = json!({"iss": issuer, "aud": PUBLIC, "sub": "ann", "exp": now() + 60});
    stage.takes(&signer.token(&claims)).await;
}
