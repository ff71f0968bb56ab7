//! Clients that leave before they are answered.

use super::*;
use crate::listen::http::ClientStream;

/// Never answers; knows how many requests there are.
#[derive(Default)]
pub(super) struct Never(Arc<()>);

impl Never {
    pub(super) fn handler(&self) -> impl Handler<Body = Empty<Bytes>> {
        let requests = Arc::downgrade(&self.0);
        move |_: Request<Incoming>| {
            let held = requests.upgrade();
            async move {
                pending::<()>().await;
                drop(held);
                Response::new(Empty::<Bytes>::new())
            }
        }
    }

    pub(super) async fn requests(&self, count: usize) {
        eventually(|| Arc::strong_count(&self.0) == count + 1).await;
    }
}

#[tokio::test]
async fn request_is_cancelled_when_its_client_leaves() {
    let never = Never::default();
    let served = serve(Config::default(), permit::Config::default(), never.handler()).await;
    let mut one = http1_over(TcpStream::connect(served.address).await.unwrap()).await;
    let mut two = http2_over(TcpStream::connect(served.address).await.unwrap()).await;
    let requests = [
        tokio::spawn(async move { one.send_request(get("/")).await.is_ok() }),
        tokio::spawn(async move { two.send_request(get("/")).await.is_ok() }),
    ];
    never.requests(2).await;
    requests.iter().for_each(JoinHandle::abort);
    never.requests(0).await;
}

/// Seen as calls that went on to their end: hyper does not look for the end of what it has not read to the end.
#[tokio::test]
async fn request_is_cancelled_when_a_client_with_unread_bytes_leaves() {
    let never = Never::default();
    let served = serve(Config::default(), permit::Config::default(), never.handler()).await;
    let request = "GET / HTTP/1.1\r\nhost: edge\r\n\r\n";
    for more in ["\r\n", request, &request.repeat(3000)] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        never.requests(1).await;
        stream.write_all(more.as_bytes()).await.unwrap();
        drop(stream);
        never.requests(0).await;
    }
}

#[tokio::test]
async fn end_of_stream_is_seen_after_unread_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    client.write_all(&[b'x'; 10_000]).await.unwrap();
    guarded(stream.readable()).await.unwrap();
    assert!(!stream.has_ended());
    client.shutdown().await.unwrap();
    eventually(|| stream.has_ended()).await;
}

#[tokio::test(start_paused = true)]
async fn client_check_runs_only_during_a_request_without_reads() {
    let activity = Activity::new(&http::Config::default(), false);
    let mut expired = pin!(activity.expired());
    let mut looks = async |seconds: u64| {
        let mut looks = 0;
        for _ in 0..seconds {
            assert!(timeout(Duration::from_secs(1), expired.as_mut()).await.is_err());
            looks += u64::from(activity.take_client_check());
        }
        looks
    };
    activity.received();
    let request = activity.request(Version::HTTP_11);
    assert!(looks(10).await >= 9);
    activity.waits_for_bytes();
    looks(2).await;
    assert_eq!(looks(10).await, 0);
    activity.received();
    drop(request);
    assert_eq!(looks(5).await, 0);
    let _request = activity.request(Version::HTTP_2);
    activity.received();
    assert_eq!(looks(10).await, 0);
}
