//! A scripted server on TCP inside the test, in the place of bridge and process: one connection, one
//! "process", started at its first byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};

use super::Server;
use crate::record::Record;
use crate::script::Script;

/// Stops listening and closes its connections when dropped.
pub struct Listener {
    address: SocketAddr,
    server: Arc<Server>,
    accepting: JoinHandle<()>,
    connections: Connections,
}

type Connections = Arc<Mutex<Vec<AbortHandle>>>;

impl Listener {
    /// Listens on a free loopback port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start(script: Script) -> Listener {
        Listener::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    /// Listens on this address: a server that comes back, or comes late.
    ///
    /// # Panics
    /// When the address is taken.
    pub async fn start_at(address: SocketAddr, script: Script) -> Listener {
        let socket = TcpListener::bind(address).await.expect("the address is free");
        let address = socket.local_addr().unwrap();
        let server = Server::new(script, Record::in_memory());
        let connections = Connections::default();
        let accepting = tokio::spawn(accept(socket, server.clone(), connections.clone()));
        Listener { address, server, accepting, connections }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it saw.
    pub fn record(&self) -> &Record {
        self.server.record()
    }

    /// Adds one tool from the next list on, without a notification.
    pub fn grow(&self) {
        self.server.grow();
    }

    /// Closes every connection, as the death of all its processes would.
    pub fn kill(&self) {
        self.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.connections.lock().unwrap().iter().filter(|connection| !connection.is_finished()).count()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
        self.kill();
    }
}

async fn accept(socket: TcpListener, server: Arc<Server>, connections: Connections) {
    let processes = Arc::new(AtomicU64::new(1));
    while let Ok((stream, _)) = socket.accept().await {
        let task = tokio::spawn(serve(stream, server.clone(), processes.clone()));
        connections.lock().unwrap().push(task.abort_handle());
    }
}

async fn serve(stream: TcpStream, server: Arc<Server>, processes: Arc<AtomicU64>) {
    // The bridge starts a process at the first byte, so that a probe costs none.
    if !matches!(stream.peek(&mut [0]).await, Ok(bytes) if bytes > 0) {
        return;
    }
    let _ = stream.set_nodelay(true);
    let process = processes.fetch_add(1, Ordering::Relaxed);
    let (reader, writer) = stream.into_split();
    server.serve(reader, writer, process).await;
}
