use tokio::net::TcpListener;

use super::*;
use crate::seal;

/// Peers with so many places, and another process that takes connections and never answers.
async fn stage(places: usize) -> (Peers, permit::Metrics, TcpListener) {
    let seal = seal::Config { current: Some("k".repeat(32).parse().unwrap()), ..seal::Config::default() };
    let (sealer, bounds) = (Sealer::new(&seal).unwrap(), permit::Metrics::default());
    let config = Config { answer_timeout: Duration::from_millis(200), ..Config::default() };
    let peers = Peers::new(&config, sealer, Metrics::default(), (places, bounds.clone()));
    (peers, bounds, TcpListener::bind("127.0.0.1:0").await.unwrap())
}

async fn forward(peers: &Peers, to: SocketAddr) -> Unanswered {
    let request = ForwardedRequest {
        method: Method::POST,
        uri: Uri::from_static("/mcp"),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        token: String::new(),
    };
    peers.forward(to, request, &Caller::new("ann")).await.expect_err("nobody answers")
}

fn kind(unanswered: Unanswered) -> Option<Kind> {
    match unanswered {
        Unanswered::Gone => None,
        Unanswered::Failed(error) => Some(error.kind),
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    let (peers, _, silent) = stage(1).await;
    let to = silent.local_addr().unwrap();
    assert_eq!(kind(forward(&peers, to).await), Some(Kind::Timeout));
    drop(silent);
    assert_eq!(kind(forward(&peers, to).await), None, "now nobody is there");
}

#[tokio::test]
async fn requests_on_their_way_elsewhere_are_bounded() {
    let (peers, bounds, silent) = stage(0).await;
    assert_eq!(kind(forward(&peers, silent.local_addr().unwrap()).await), Some(Kind::Busy));
    let mut registry = Registry::default();
    bounds.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("refused_total{bound=\"connections\"} 1"), "{text}");
}
