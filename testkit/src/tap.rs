//! A tap on the wire between edge and bridge: hands every byte on, and keeps the messages that went up. For real
//! servers, which keep no record of their own.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::record::Record;

/// Closes its connections when dropped.
pub struct Tap {
    address: SocketAddr,
    record: Record,
    accepting: JoinHandle<()>,
}

impl Tap {
    /// Listens on a free loopback port, in the place of what listens at `target`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(target: SocketAddr) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().unwrap();
        let record = Record::in_memory();
        let accepting = tokio::spawn(accept(listener, target, record.clone()));
        Tap { address, record, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What went up, each connection as a process.
    pub fn record(&self) -> &Record {
        &self.record
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, record: Record) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    for number in 1.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.spawn(join(stream, target, record.clone(), number));
    }
}

async fn join(client: TcpStream, target: SocketAddr, record: Record, number: u64) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut lines = BufReader::new(from_client);
        let mut line = Vec::new();
        while matches!(lines.read_until(b'\n', &mut line).await, Ok(bytes) if bytes > 0) {
            if let Ok(message) = serde_json::from_slice(&line) {
                record.message(number, &message);
            }
            if to_server.write_all(&line).await.is_err() {
                return;
            }
            line.clear();
        }
        let _ = to_server.shutdown().await;
    };
    let down = async {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::join!(up, down);
}
