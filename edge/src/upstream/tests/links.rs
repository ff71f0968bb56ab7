//! Real links: a TCP socket, a unix socket, a local command.

use std::collections::BTreeMap;

use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::upstream::Address;

/// A legacy server for calls of Ann's, over a socket that was accepted.
async fn serve(mut socket: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static) {
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let (lines, sink) = tokio::io::split(far);
    let mut peer = Peer { endpoint: Endpoint::Process, lines: BufReader::new(lines), sink };
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut socket, &mut near).await });
    peer.shake_legacy().await;
    peer.serve_echo().await;
    peer.ended().await;
}

fn pool(source: Source, drain: &Drain) -> Arc<Pool> {
    let name = ServerName::parse("time").unwrap();
    let server = ServerConfig { era: EraChoice::Legacy, ..ServerConfig::new(name, source) };
    Pool::new(server, Config::default(), &Metrics::default(), Permits::default(), drain.watch())
}

/// One call, then the end of the process: the server sees the end of its input.
async fn call_and_drain(pool: Arc<Pool>, drain: Drain) -> Value {
    let room = Setting::default().build(); // for its permits
    let answer = result(pool.dispatch(room.call(echo("hi")))).await;
    drain.run(Duration::ZERO, Duration::from_secs(30)).await;
    assert_eq!(pool.status().connections, 0);
    answer
}

#[tokio::test]
async fn a_name_is_resolved_and_its_socket_carries_calls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    let drain = Drain::new();
    let address = Address::Tcp { host: "localhost".into(), port };
    let pool = pool(Source::Endpoints(vec![address]), &drain);
    assert_eq!(call_and_drain(pool, drain).await["content"], json!(["hi"]));
    timeout(GUARD, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_unix_socket_carries_calls() {
    let path = std::env::temp_dir().join(format!("mcp-edge-{}-{}.sock", std::process::id(), line!()));
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    let drain = Drain::new();
    let pool = pool(Source::Endpoints(vec![Address::Unix(path.clone())]), &drain);
    assert_eq!(call_and_drain(pool, drain).await["content"], json!(["hi"]));
    timeout(GUARD, server).await.unwrap().unwrap();
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_local_command_serves_and_ends_with_its_input() {
    let info =
        r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#;
    // The first two ids of a connection are the same each time.
    let script = format!(
        r#"read a; echo '{{"jsonrpc":"2.0","id":65536,"result":{info}}}'
        read b; read c; echo '{{"jsonrpc":"2.0","id":131072,"result":{{"content":["sh"]}}}}'
        echo done >&2; cat >/dev/null"#
    );
    let source =
        Source::Command { program: "sh".into(), args: vec!["-c".into(), script], env: BTreeMap::new() };
    let drain = Drain::new();
    let pool = pool(source, &drain);
    assert_eq!(call_and_drain(pool, drain).await["content"], json!(["sh"]));
}
