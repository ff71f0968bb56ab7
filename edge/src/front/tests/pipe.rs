//! The same over real HTTP/1.1 on an in-memory pipe: what a client's leaving looks like from below, and how
//! responses are framed.

use std::convert::Infallible;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

/// The client's end of a connection.
fn connect(stage: &Stage) -> DuplexStream {
    let (client, server) = tokio::io::duplex(1 << 16);
    let front = stage.front.clone();
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let front = front.clone();
            async move { Ok::<_, Infallible>(front.handle(request).await) }
        });
        // A client that leaves is an error here; what it means is what the tests ask.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(server), service).await;
    });
    client
}

fn written(request: Request<Full<Bytes>>, body: &str) -> String {
    let mut text = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    text + &format!("content-length: {}\r\n\r\n{body}", body.len())
}

async fn read_until(client: &mut DuplexStream, end: &str) -> String {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(end) {
        assert_ne!(client.read_buf(&mut got).await.unwrap(), 0, "{}", String::from_utf8_lossy(&got));
    }
    String::from_utf8(got).unwrap()
}

async fn open_call(stage: &Stage) -> (Call, Responder) {
    until(|| stage.open_calls() > 0).await;
    stage.take_open()
}

#[tokio::test(start_paused = true)]
async fn a_modern_client_that_disconnects_cancels_before_any_byte_was_sent() {
    let stage = Stage::new();
    let body = modern("tools/call", r#""name":"echo","#);
    let mut client = connect(&stage);
    let request = post(&body, &modern_headers("tools/call", "echo"));
    client.write_all(written(request, &body).as_bytes()).await.unwrap();
    let (_call, responder) = open_call(&stage).await;
    assert!(!responder.is_cancelled());
    drop(client);
    responder.cancelled().await;
}

#[tokio::test(start_paused = true)]
async fn a_modern_client_that_disconnects_cancels_in_mid_stream() {
    let stage = Stage::new();
    let body = modern("tools/call", r#""name":"echo","#);
    let mut client = connect(&stage);
    let request = post(&body, &modern_headers("tools/call", "echo"));
    client.write_all(written(request, &body).as_bytes()).await.unwrap();
    let (_call, responder) = open_call(&stage).await;
    responder.event(progress(1));
    let head = read_until(&mut client, "\"progress\":1}}\n\n").await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    drop(client);
    responder.cancelled().await;
}

#[tokio::test(start_paused = true)]
async fn a_legacy_client_that_disconnects_leaves_its_call_running() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    for streaming in [false, true] {
        let mut client = connect(&stage);
        let body = body.replace("\"id\":1", if streaming { "\"id\":2" } else { "\"id\":1" });
        let request = post(&body, &[("mcp-session-id", &id)]);
        client.write_all(written(request, &body).as_bytes()).await.unwrap();
        let (_call, responder) = open_call(&stage).await;
        if streaming {
            read_until(&mut client, ": keep-alive\n\n").await;
        }
        drop(client);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!responder.is_cancelled(), "streaming: {streaming}");
        assert_eq!(stage.metrics.in_flight(), 1);
        responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
        until(|| stage.metrics.in_flight() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_json_response_has_a_length_and_the_connection_serves_again() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let mut client = connect(&stage);
    for (body, answer) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        (r#"{"jsonrpc":"2.0","id":"b","method":"ping"}"#, r#"{"jsonrpc":"2.0","id":"b","result":{}}"#),
    ] {
        let request = written(post(body, &[("mcp-session-id", &id)]), body);
        client.write_all(request.as_bytes()).await.unwrap();
        let got = read_until(&mut client, answer).await;
        assert!(got.contains(&format!("content-length: {}\r\n", answer.len())), "{got}");
    }
}
