//! Answers over HTTP/2 to clients that do not take them.

use parking_lot::Mutex;

use super::*;
use crate::listen::activity::TimeoutPhase;
use ::http::HeaderMap;

/// A handler whose answers share bytes that record when the last reference is dropped.
struct Held {
    bytes: Bytes,
    alive: Arc<()>,
}

impl Held {
    fn new(size: usize) -> Self {
        struct Owner(Vec<u8>, #[expect(dead_code, reason = "what counts is how long it lives")] Arc<()>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let alive = Arc::new(());
        let content = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        Self { bytes: Bytes::from_owner(Owner(content, alive.clone())), alive }
    }

    /// Answers the first request with them and others with a word.
    async fn served(&self, write_timeout: Duration) -> Served {
        let first = Mutex::new(Some(self.bytes.clone()));
        let first = Arc::new(first);
        let handler = move |_: Request<Incoming>| {
            let bytes = first.lock().take().unwrap_or(Bytes::from_static(b"word"));
            async move { Response::new(Full::<Bytes>::from(bytes)) }
        };
        let http = http::Config { write_timeout, ..http::Config::default() };
        serve(Config { http, ..Config::default() }, permit::Config::default(), handler).await
    }

    fn given_up(self) -> impl Fn() -> bool {
        let alive = self.alive;
        drop(self.bytes);
        move || Arc::strong_count(&alive) == 1
    }
}

async fn client(address: SocketAddr, window: u32) -> http2::SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window).initial_connection_window_size(1 << 20);
    let (client, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

fn get() -> Request<Empty<Bytes>> {
    Request::get("http://edge/").body(Empty::new()).unwrap()
}

#[tokio::test]
async fn long_answer_that_is_not_read_is_reset_and_its_connection_goes_on() {
    // No room at all; room for a part of what h2 buffers; room for all but the end. A short one with no room.
    for (size, window) in [(100 << 10, 0), (100 << 10, 20 << 10), (100 << 10, (100 << 10) - 1), (10 << 10, 0)]
    {
        let held = Held::new(size);
        let served = held.served(Duration::from_millis(200)).await;
        let mut client = client(served.address, window).await;
        let stuck = client.send_request(get()).await.unwrap();
        eventually(held.given_up()).await;
        assert_eq!(served.metrics.timed_out_times(TimeoutPhase::Answer), 1, "{window}");
        let mut body = stuck.into_body();
        let error = loop {
            match body.frame().await.expect("it does not end well") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
        if window > 0 {
            let other = client.send_request(get()).await.unwrap().into_body().collect().await.unwrap();
            assert_eq!(other.to_bytes(), "word");
        }
        assert_eq!(served.metrics.connections.get(), 1);
    }
}

#[tokio::test]
async fn short_answer_that_is_not_read_ends_its_connection() {
    let held = Held::new(10 << 10);
    let served = held.served(Duration::from_millis(200)).await;
    let mut client = client(served.address, 1 << 10).await;
    let mut stuck = client.send_request(get()).await.unwrap().into_body();
    eventually(held.given_up()).await;
    eventually(|| served.metrics.connections.get() == 0).await;
    assert_eq!(served.metrics.timed_out_times(TimeoutPhase::Answer), 1);
    while guarded(stuck.frame()).await.expect("it does not end well").is_ok() {}
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte() {
    for size in [10 << 10, 17 << 10, 64 << 10, 300 << 10] {
        let held = Held::new(size);
        let served = held.served(GUARD).await;
        let response = client(served.address, 5_000).await.send_request(get()).await.unwrap();
        assert_eq!(length(response.headers()), Some(size));
        let whole = response.into_body().collect().await.unwrap().to_bytes();
        assert!(whole == held.bytes, "{size}");
        eventually(held.given_up()).await;
    }
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get("content-length")?.to_str().ok()?.parse().ok()
}
