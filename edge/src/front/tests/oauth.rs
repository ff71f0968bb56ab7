//! Tokens of an authorization server at the door: what is said without one, where they are to be had, and what becomes of
//! streams when they run out.

use http_body_util::BodyExt;
use testkit::issuer::{Signer, now};

use super::*;
use crate::auth::oauth::tests::{claims, with_keys};
use crate::front::Rules;

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const METADATA: &str = "https://edge.example/.well-known/oauth-protected-resource";

fn setting(signer: &Signer) -> Setting {
    Setting {
        tokens: vec![("configured", "default")],
        oauth: Some(with_keys(&[signer])),
        ..Setting::default()
    }
}

fn challenge(response: &Response<Body>) -> String {
    response.headers()["www-authenticate"].to_str().unwrap().to_owned()
}

/// A token that is valid for so long from now.
fn token(signer: &Signer, subject: &str, secs: i64) -> String {
    let mut claims = claims(subject);
    claims["exp"] = now().saturating_add_signed(secs).into();
    format!("Bearer {}", signer.token(&claims))
}

#[tokio::test]
async fn every_way_in_names_the_metadata_of_its_endpoint() {
    let stage = Stage::with(setting(&Signer::new("k", "ES256")));
    for (method, path, about) in [
        ("POST", "/mcp", "/mcp"),
        ("GET", "/mcp", "/mcp"),
        ("GET", "/mcp/", "/mcp"),
        ("POST", "/stream", "/stream"),
        ("POST", "/mcp/call", "/mcp"),
        ("GET", "/sse", "/sse"),
        ("POST", "/messages", "/sse"),
        ("POST", "/servers/time/mcp", "/servers/time/mcp"),
        ("POST", "/servers/nobody/mcp", "/servers/nobody/mcp"),
        ("POST", "/servers/time/mcp/call", "/servers/time/mcp"),
        ("GET", "/servers/time/sse", "/servers/time/sse"),
        ("POST", "/servers/time/messages", "/servers/time/sse"),
    ] {
        let response = stage.send(request(method, path, "", &[])).await;
        assert_eq!(response.status(), 401, "{method} {path}");
        let said = challenge(&response);
        assert!(
            said.contains(&format!("resource_metadata=\"{METADATA}{about}\"")),
            "{method} {path}: {said}"
        );
        assert!(json(response).await["error"]["message"].is_string());
        let found = stage
            .send(request("GET", &format!("/.well-known/oauth-protected-resource{about}"), "", &[]))
            .await;
        assert_eq!(json(found).await["resource"], format!("https://edge.example{about}"));
    }
    let known = [("authorization", "Bearer configured")];
    let response = stage.send(request("GET", "/mcp", "", &known)).await;
    assert_eq!(response.status(), 405, "to whoever may come in it is no stream without a session");
    assert_eq!(stage.send(request("PUT", "/mcp", "", &[])).await.status(), 405);
}

#[tokio::test]
async fn metadata_is_for_everybody_and_for_pages_of_any_origin() {
    let rules = Rules { hosts: vec!["edge.example".parse().unwrap()], ..Rules::default() };
    let front = Config { rules, sse: false, ..Config::default() };
    let stage = Stage::with(Setting { front, ..setting(&Signer::new("k", "ES256")) });
    let foreign =
        [("host", "whoever"), ("origin", "https://page.example"), ("access-control-request-method", "GET")];
    let at = |path: &str| format!("/.well-known/oauth-protected-resource{path}");
    for path in ["", "/", "/mcp", "/mcp/", "/servers/whoever/mcp"] {
        let response = stage.send(request("GET", &at(path), "", &foreign)).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert_eq!(response.headers()["content-type"], "application/json");
        assert!(response.headers()["cache-control"].to_str().unwrap().contains("max-age"));
        assert_eq!(json(response).await["authorization_servers"][0], "https://idp.example/realms/team");
    }
    let preflight = stage.send(request("OPTIONS", &at("/mcp"), "", &foreign)).await;
    assert_eq!(
        (preflight.status().as_u16(), &preflight.headers()["access-control-allow-headers"]),
        (204, &"*".parse().unwrap())
    );
    for path in [
        "x",
        "/nowhere",
        "/sse", // not served here
        "/servers/time/sse",
        "/mcp/call",
        "/messages",
        "/health",
        "/servers/No/mcp",
        "/servers//mcp",
        "/.well-known/oauth-protected-resource",
    ] {
        assert_eq!(stage.send(request("GET", &at(path), "", &foreign)).await.status(), 404, "{path}");
    }
    assert_eq!(stage.send(request("POST", &at("/mcp"), "", &foreign)).await.status(), 405);
    let without = Stage::with(Setting { tokens: vec![("configured", "default")], ..Setting::default() });
    assert_eq!(without.send(request("GET", &at("/mcp"), "", &foreign)).await.status(), 404);
    assert_eq!(
        without.send(request("GET", "/.well-known/oauth-authorization-server", "", &[])).await.status(),
        404
    );
}

#[tokio::test]
async fn a_session_stays_with_its_principal_over_a_new_token() {
    let signer = Signer::new("k", "ES256");
    let stage = Stage::with(setting(&signer));
    let init = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    let first = token(&signer, "ann", 60);
    let opened = stage.send(post(init, &[("authorization", &first)])).await;
    let id = opened.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let status = async |authorization: &str| {
        let headers = [("authorization", authorization), ("mcp-session-id", id.as_str())];
        stage.send(post(PING, &headers)).await.status().as_u16()
    };
    assert_eq!(status(&first).await, 200);
    assert_eq!(status(&token(&signer, "ann", 90)).await, 200);
    assert_eq!(status(&token(&signer, "eve", 60)).await, 404, "it is somebody else's");
    assert_eq!(status("Bearer configured").await, 404);
    let gone = stage.send(post(PING, &[("authorization", &token(&signer, "ann", -31))])).await;
    assert_eq!(gone.status(), 401);
    let said = challenge(&gone);
    assert!(said.contains("invalid_token") && said.contains("expired"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_soon_after_its_token_and_a_call_does_not() {
    let signer = Signer::new("k", "ES256");
    let stage = Stage::with(setting(&signer));
    let init = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#;
    let (authorization, began) = (token(&signer, "ann", 60), tokio::time::Instant::now());
    let opened = stage.send(post(init, &[("authorization", &authorization)])).await;
    let id = opened.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let headers = [("authorization", authorization.as_str()), ("mcp-session-id", &id)];
    let mut stream = stage.send(request("GET", "/mcp", "", &headers)).await.into_body();
    let call = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}"#;
    let mut running = stage.send(post(call, &headers)).await.into_body();
    while stream.frame().await.is_some() {}
    let secs = began.elapsed().as_secs();
    // A minute, half of one for clocks that differ, and the pause between two comments.
    assert!((85..=106).contains(&secs), "{secs}");
    stage.take_open().1.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{\"content\":[]}"))));
    let mut answer = String::new();
    while let Some(event) = event(&mut running).await {
        answer.push_str(&event);
    }
    assert!(answer.contains("content"), "{answer}");
}

/// A channel of HTTP+SSE that was opened with this token and is initialized: its stream, and where its messages go.
async fn channel(stage: &Stage, authorization: &str) -> (Body, String) {
    let headers = [("authorization", authorization)];
    let mut stream = stage.send(request("GET", "/sse", "", &headers)).await.into_body();
    let endpoint = event(&mut stream).await.unwrap();
    let path = format!("/{}", endpoint.split("data: ").nth(1).unwrap().trim());
    let init = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}"#;
    assert_eq!(send(stage, (&path, authorization), init).await, 202);
    (stream, path)
}

async fn send(stage: &Stage, (path, authorization): (&str, &str), body: &str) -> u16 {
    let headers = [("authorization", authorization), ("content-type", "application/json")];
    stage.send(request("POST", path, body, &headers)).await.status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn a_channel_of_http_sse_stays_open_for_whoever_brings_a_new_token() {
    let signer = Signer::new("k", "ES256");
    let stage = Stage::with(setting(&signer));
    let (mut stream, path) = channel(&stage, &token(&signer, "ann", 60)).await;
    let began = tokio::time::Instant::now();
    // A minute and half of one for clocks that differ: it has run out, and another minute is for who has a new one.
    while began.elapsed().as_secs() < 120 {
        event(&mut stream).await.unwrap();
    }
    assert_eq!(send(&stage, (&path, &token(&signer, "eve", 600)), PING).await, 404);
    assert_eq!(send(&stage, (&path, &token(&signer, "ann", 600)), PING).await, 202);
    while began.elapsed().as_secs() < 300 {
        event(&mut stream).await.expect("it stands by the new token");
    }
    while stream.frame().await.is_some() {}
    assert!((720..=850).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_channel_end_as_they_would_have_and_then_the_channel() {
    let signer = Signer::new("k", "ES256");
    let stage = Stage::with(setting(&signer));
    let authorization = token(&signer, "ann", 60);
    let (mut stream, path) = channel(&stage, &authorization).await;
    let call = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}"#;
    assert_eq!(send(&stage, (&path, &authorization), call).await, 202);
    let began = tokio::time::Instant::now();
    while began.elapsed().as_secs() < 240 {
        event(&mut stream).await.expect("its call is in flight");
    }
    stage.take_open().1.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{\"content\":[]}"))));
    let mut said = String::new();
    while let Some(event) = event(&mut stream).await {
        said.push_str(&event);
    }
    assert!(said.contains("content"), "{said}");
    assert!((300..=330).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    drop(stream);
    until(|| stage.hits("renewal") == 1).await;
}
