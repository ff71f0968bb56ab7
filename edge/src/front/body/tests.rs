use super::*;
use crate::permit::{Config, Metrics, Permits};
use http_body_util::Full;
use std::collections::VecDeque;

const PATIENCE: Duration = Duration::from_secs(30);

/// A body of unknown length that comes in these pieces; `None` breaks it, and after the last it stalls.
struct Pieces {
    left: VecDeque<Option<&'static str>>,
    stall: bool,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        match self.left.pop_front() {
            Some(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
            Some(None) => Poll::Ready(Some(Err("reset"))),
            None if self.stall => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

fn pieces(pieces: &[&'static str]) -> Pieces {
    Pieces { left: pieces.iter().map(|&piece| Some(piece)).collect(), stall: false }
}

fn permits(held_bytes: usize) -> Permits {
    Permits::new(Config { held_bytes, ..Config::default() }, Metrics::default())
}

fn permit(permits: &Permits) -> Result<CallPermit, Bound> {
    permits.call(&"p".into())
}

#[tokio::test]
async fn one_piece_is_not_copied_and_several_are_joined() {
    let bytes = Bytes::from_static(b"abcdef");
    let permits = permits(6);
    let whole = read(Full::new(bytes.clone()), 6, PATIENCE, &mut permit(&permits)).await.unwrap();
    assert_eq!(whole.as_ptr(), bytes.as_ptr());
    let joined = read(pieces(&["ab", "", "cd", "ef"]), 6, PATIENCE, &mut permit(&permits)).await.unwrap();
    assert_eq!(joined, bytes);
    assert_eq!(permits.held_bytes(), 0, "given back with the permit");
}

#[tokio::test]
async fn a_body_over_its_bound_is_refused_as_declared_and_as_it_comes() {
    let permits = permits(100);
    let refused = read(Full::new(Bytes::from_static(b"abc")), 2, PATIENCE, &mut permit(&permits)).await;
    assert_eq!(refused, Err(ReadError::TooLarge(2)));
    let refused = read(pieces(&["ab", "c"]), 2, PATIENCE, &mut permit(&permits)).await;
    assert_eq!(refused, Err(ReadError::TooLarge(2)));
}

#[tokio::test]
async fn bytes_are_held_while_the_permit_lives() {
    let permits = permits(5);
    let mut held = permit(&permits);
    read(pieces(&["ab", "c"]), 10, PATIENCE, &mut held).await.unwrap();
    assert_eq!(permits.held_bytes(), 3);
    let refused = read(Full::new(Bytes::from_static(b"abc")), 10, PATIENCE, &mut permit(&permits)).await;
    assert_eq!(refused, Err(ReadError::Full(Bound::HeldBytes)));
    let refused = read(pieces(&["ab", "c"]), 10, PATIENCE, &mut permit(&permits)).await;
    assert_eq!(refused, Err(ReadError::Full(Bound::HeldBytes)));
    drop(held);
    assert_eq!(permits.held_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_were_announced_and_did_not_come_hold_nothing() {
    struct Announced;
    impl HttpBody for Announced {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Pending
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(100)
        }
    }
    let permits = permits(100);
    let waiting = permits.clone();
    let reading = tokio::spawn(async move { read(Announced, 100, PATIENCE, &mut permit(&waiting)).await });
    tokio::time::sleep(PATIENCE / 2).await;
    assert_eq!((permits.held_bytes(), permits.calls_in_flight()), (0, 1));
    assert_eq!(reading.await.unwrap(), Err(ReadError::Slow));
}

#[tokio::test]
async fn without_a_permit_only_a_small_body_is_read() {
    let mut none = Err(Bound::Calls);
    assert_eq!(read(pieces(&["ab"]), 10_000, PATIENCE, &mut none).await.unwrap(), "ab");
    let large = Full::new(Bytes::from(vec![b' '; SMALL_BYTES + 1]));
    assert_eq!(read(large, 10_000, PATIENCE, &mut none).await, Err(ReadError::Full(Bound::Calls)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_not_waited_for_and_a_broken_one_is_told() {
    let permits = permits(100);
    let stalled = Pieces { stall: true, ..pieces(&["ab"]) };
    assert_eq!(read(stalled, 10, PATIENCE, &mut permit(&permits)).await, Err(ReadError::Slow));
    let broken = Pieces { left: [Some("ab"), None].into(), stall: false };
    assert_eq!(read(broken, 10, PATIENCE, &mut permit(&permits)).await, Err(ReadError::Broken));
}
