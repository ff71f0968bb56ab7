//! The fault proxy breaks the connections that it is armed for, and no others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic here is a failed test")]

use std::net::SocketAddr;

use testkit::fault_proxy::FaultProxy;
use testkit::http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Answers each request with a stream, and says an event on all of them whenever the test does.
async fn server() -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (say, mut words) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut streams = Vec::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (mut stream, _) = accepted.unwrap();
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        stream.read_buf(&mut request).await.unwrap();
                    }
                    stream.write_all(HEAD).await.unwrap();
                    streams.push(stream);
                }
                Some(()) = words.recv() => {
                    for stream in &mut streams {
                        let _ = stream.write_all(b"event: message\ndata: {}\n\n").await;
                    }
                }
            }
        }
    });
    (address, say)
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata:\n\n";

#[tokio::test]
async fn armed_proxy_breaks_the_stream_of_the_method_and_no_other() {
    let (address, say) = server().await;
    let fault_proxy = FaultProxy::start(address).await;
    let open = async |method: &str| {
        let mut response = Request::new(method, "/")
            .header("Content-Length", "0")
            .send(fault_proxy.address())
            .await
            .unwrap();
        assert_eq!(response.event().await.unwrap().data, "");
        response
    };
    let (mut call, mut listen) = (open("POST").await, open("GET").await);

    say.send(()).await.unwrap();
    assert_eq!(call.event().await.unwrap().data, "{}");
    let mut cut = fault_proxy.arm("POST", 2);
    for _ in 0..2 {
        assert!(cut.try_recv().is_err(), "cut too early");
        say.send(()).await.unwrap();
    }
    cut.await.unwrap();
    assert_eq!(call.event().await, None);
    for _ in 0..3 {
        assert_eq!(listen.event().await.unwrap().data, "{}");
    }
    assert_eq!(fault_proxy.cuts(), 1);
}
