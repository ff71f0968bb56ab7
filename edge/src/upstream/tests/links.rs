//! Real links: a TCP socket, a unix socket, a local command.

use std::collections::BTreeMap;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::upstream::{Address, Environment};

/// A legacy server for calls of Ann's, over a socket that was accepted.
async fn serve(mut socket: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static) {
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let (lines, sink) = tokio::io::split(far);
    let mut peer = Peer { endpoint: Endpoint::Process, lines: BufReader::new(lines), sink };
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut socket, &mut near).await });
    peer.handshake_legacy().await;
    peer.serve_echo().await;
    peer.ended().await;
}

fn pool(source: Source, drain: &Drain) -> Arc<Pool> {
    pool_with(source, Config::default(), drain)
}

fn pool_with(source: Source, config: Config, drain: &Drain) -> Arc<Pool> {
    let name = ServerName::parse("time").unwrap();
    let server = ServerConfig { era: EraChoice::Legacy, ..ServerConfig::new(name, source) };
    let sealer = Sealer::new(&seal::Config::default()).unwrap();
    let environment = Environment { permits: Permits::default(), drain: drain.watch(), sealer };
    Pool::new(server, config, &Metrics::default(), environment)
}

/// An address at which attempts to connect are neither taken nor refused: the queue of what it has not accepted is
/// full. It lasts as long as the sockets.
fn hole() -> (Address, Vec<Socket>) {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let listener = socket();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let port = address.as_socket().unwrap().port();
    let mut sockets = vec![listener];
    for _ in 0..6 {
        let waiting = socket();
        waiting.set_nonblocking(true).unwrap();
        let _ = waiting.connect(&address); // in progress
        sockets.push(waiting);
    }
    (Address::Tcp { host: "127.0.0.1".into(), port }, sockets)
}

/// Makes one call, then stops the gateway: the server sees the end of its input.
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

#[tokio::test]
async fn unresponsive_host_does_not_hide_the_working_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ((hole, _sockets), good) = (hole(), Address::Tcp { host: "127.0.0.1".into(), port });
    let (idle_timeout, health_interval) = (Duration::ZERO, Duration::ZERO);
    let config = Config { idle_timeout, health_interval, ..Config::default() };
    let drain = Drain::new();
    let pool = pool_with(Source::Endpoints(vec![hole, good]), config, &drain);
    let room = Setting::default().build(); // for its permits
    let reply = pool.dispatch(room.call(echo("hi")));
    let served = serve(listener.accept().await.unwrap().0); // it closes when it is idle
    let (answer, ()) = tokio::join!(result(reply), served);
    assert_eq!(answer["content"], json!(["hi"]));
    let mut changes = pool.changes();
    for _ in 0..3 {
        tokio::select! {
            looked = listener.accept() => drop(looked.unwrap()),
            _ = changes.wait_for(|changes| changes.down) => panic!("it is taken for down"),
        }
    }
    drain.run(Duration::ZERO, Duration::from_secs(30)).await;
}
