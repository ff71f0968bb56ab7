//! The end of the process, as connections see it.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::*;

/// Answers when a permit is added.
fn gated(gate: Arc<Semaphore>) -> impl Handler<Body = Full<Bytes>> {
    move |request: Request<Incoming>| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            hello(request).await
        }
    }
}

async fn serve_gated() -> (Served, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    (serve(Config::default(), permit::Config::default(), gated(gate.clone())).await, gate)
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn drain_answers_the_next_request_and_closes() {
    let (served, gate) = serve_gated().await;
    let mut old = http1_over(TcpStream::connect(served.address).await.unwrap()).await;
    gate.add_permits(1);
    text(guarded(old.send_request(get("/before"))).await.unwrap()).await;

    let watch = served.drain.watch();
    let run = tokio::spawn(served.drain.run(LONG, LONG));
    guarded(watch.leaving()).await;
    gate.add_permits(3);
    let mut new = http1_over(TcpStream::connect(served.address).await.unwrap()).await;
    for client in [&mut old, &mut new] {
        let response = guarded(client.send_request(get("/while"))).await.unwrap();
        assert_eq!(response.headers()["connection"], "close");
        text(response).await;
    }
    // HTTP/2 gets a GOAWAY: requests in flight are answered, then none can be sent.
    let mut new = http2_over(TcpStream::connect(served.address).await.unwrap()).await;
    text(guarded(new.send_request(get("/while"))).await.unwrap()).await;
    guarded(async {
        while new.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    eventually(|| served.metrics.connections.get() == 0).await;
    run.abort();
}

#[tokio::test]
async fn stop_finishes_requests_in_flight_and_accepts_no_more() {
    let (served, gate) = serve_gated().await;
    let mut one = http1_over(TcpStream::connect(served.address).await.unwrap()).await;
    let mut two = http2_over(TcpStream::connect(served.address).await.unwrap()).await;
    let _silent = TcpStream::connect(served.address).await.unwrap();
    let one = tokio::spawn(async move { one.send_request(get("/one")).await.unwrap() });
    let two = tokio::spawn(async move { two.send_request(get("/two")).await.unwrap() });
    eventually(|| served.metrics.connections_total.get() == 3).await;

    let run = tokio::spawn(served.drain.run(Duration::ZERO, LONG));
    guarded(async {
        while TcpStream::connect(served.address).await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    gate.add_permits(2);
    assert_eq!(text(guarded(one).await.unwrap()).await, "HTTP/1.1 /one");
    assert_eq!(text(guarded(two).await.unwrap()).await, "HTTP/2.0 /two");
    guarded(run).await.unwrap();
    assert_eq!(served.metrics.connections.get(), 0);
}

#[tokio::test]
async fn cut_ends_connections_with_requests_in_flight() {
    let (served, _gate) = serve_gated().await;
    let mut one = http1_over(TcpStream::connect(served.address).await.unwrap()).await;
    let mut two = http2_over(TcpStream::connect(served.address).await.unwrap()).await;
    let one = tokio::spawn(async move { one.send_request(get("/")).await.is_err() });
    let two = tokio::spawn(async move { two.send_request(get("/")).await.is_err() });
    eventually(|| served.metrics.connections_total.get() == 2).await;
    guarded(served.drain.run(Duration::ZERO, Duration::from_millis(50))).await;
    assert!(guarded(one).await.unwrap() && guarded(two).await.unwrap());
    assert_eq!(served.metrics.connections.get(), 0);
}
