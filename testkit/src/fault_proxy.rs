//! A TCP proxy between a client and the edge that breaks connections on command. It discards events of an event stream and
//! then closes the connection; so the edge has sent what the client never received, as when a network breaks.
//!
//! Clients in other languages use the control port: they send `METHOD EVENTS\n` and receive `armed\n`, then `cut\n` when the
//! connection is broken. `METHOD` is the method of the request whose stream is to break.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// Closes its connections when dropped.
pub struct FaultProxy {
    address: SocketAddr,
    control: SocketAddr,
    orders: Arc<Orders>,
    accepting: Vec<JoinHandle<()>>,
}

/// The connection to break next; one order at a time.
#[derive(Default)]
struct Orders {
    open: Mutex<Option<Order>>,
    done: Mutex<usize>,
}

struct Order {
    method: String,
    /// How many events are still to be discarded.
    events: usize,
    done: oneshot::Sender<()>,
}

impl FaultProxy {
    /// Listens on free loopback ports; connections go on to `target`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(target: SocketAddr) -> FaultProxy {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (ways, controls) = (bind().await, bind().await);
        let (address, control) = (ways.local_addr().unwrap(), controls.local_addr().unwrap());
        let orders = Arc::<Orders>::default();
        let accepting = vec![
            tokio::spawn(carry(ways, target, orders.clone())),
            tokio::spawn(obey(controls, orders.clone())),
        ];
        FaultProxy { address, control, orders, accepting }
    }

    /// Where the client connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The control port, for clients in other languages.
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// From now on the streams that answer this method are swallowed; with this many events the one that they
    /// came on is cut, and what is returned resolves.
    pub fn arm(&self, method: &str, events: usize) -> oneshot::Receiver<()> {
        self.orders.arm(method, events)
    }

    /// How many streams were cut so far.
    pub fn cuts(&self) -> usize {
        *self.orders.done.lock().unwrap()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

impl Orders {
    fn arm(&self, method: &str, events: usize) -> oneshot::Receiver<()> {
        let (done, cut) = oneshot::channel();
        *self.open.lock().unwrap() = Some(Order { method: method.to_owned(), events, done });
        cut
    }

    fn judge(&self, method: &str, bytes: &[u8]) -> Verdict {
        let mut open = self.open.lock().unwrap();
        let Some(order) = open.as_mut().filter(|order| order.method == method) else { return Verdict::Pass };
        order.events =
            order.events.saturating_sub(bytes.windows(EVENT.len()).filter(|at| *at == EVENT).count());
        if order.events > 0 {
            return Verdict::Swallow;
        }
        *self.done.lock().unwrap() += 1;
        let _ = open.take().expect("there is one").done.send(()); // nobody need wait for it
        Verdict::Cut
    }
}

enum Verdict {
    Pass,
    Swallow,
    Cut,
}

async fn carry(listener: TcpListener, target: SocketAddr, orders: Arc<Orders>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let orders = orders.clone();
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            join(client, server, &orders).await;
        });
    }
}

/// Hands bytes on until either side ends, or the connection is to be cut. Clients of HTTP/1.1 send a request when
/// they have the answer to the one before, so heads begin where a read begins.
async fn join(mut client: TcpStream, mut server: TcpStream, orders: &Orders) {
    let (mut up, mut down) = (vec![0; PIECE], vec![0; PIECE]);
    let (mut method, mut streams) = (String::new(), false);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(1..) = read else { return };
                let piece = &up[..read.unwrap()];
                if let Some(known) = ["GET", "POST"].iter().find(|known| piece.starts_with(known.as_bytes())) {
                    (method, streams) = ((*known).to_owned(), false);
                }
                if server.write_all(piece).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(1..) = read else { return };
                let piece = &down[..read.unwrap()];
                // The head passes, and what came with it: where the client is to come back to.
                let verdict = if streams { orders.judge(&method, piece) } else { Verdict::Pass };
                if piece.starts_with(b"HTTP/1.1 ") {
                    streams = String::from_utf8_lossy(piece).contains("text/event-stream");
                }
                match verdict {
                    Verdict::Pass if client.write_all(piece).await.is_ok() => {}
                    Verdict::Swallow => {}
                    Verdict::Pass | Verdict::Cut => return,
                }
            }
        }
    }
}

async fn obey(listener: TcpListener, orders: Arc<Orders>) {
    let mut clients = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let orders = orders.clone();
        clients.spawn(async move {
            let (reader, mut writer) = client.into_split();
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let (method, events) = line.split_once(' ').expect("an order is METHOD EVENTS");
                let cut = orders.arm(method, events.parse().expect("a number of events"));
                let _ = writer.write_all(b"armed\n").await;
                if cut.await.is_ok() {
                    let _ = writer.write_all(b"cut\n").await;
                }
            }
        });
    }
}

/// The beginning of a message in a stream; priming events and comments are none.
const EVENT: &[u8] = b"\ndata: {";
const PIECE: usize = 64 << 10;
