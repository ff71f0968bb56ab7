use super::*;

fn hits(metrics: &Metrics, bound: Bound) -> u64 {
    metrics.hits(bound)
}

/// ARCHITECTURE, Bounds: nobody should have to look a label up in the code.
#[test]
fn every_bound_that_is_counted_is_explained() {
    let (code, book) = (include_str!("bound.rs"), include_str!("../../../ARCHITECTURE.md"));
    let words = code.split_once("words!(Bound {").unwrap().1.split_once("});").unwrap().0;
    let words: Vec<_> = words.split('"').skip(1).step_by(2).collect();
    assert!(words.contains(&"queue") && words.len() > 10, "{words:?}");
    let bounds = book.split_once("## Bounds").unwrap().1.split_once("\n## ").unwrap().0;
    for word in words {
        assert!(bounds.contains(&format!("`{word}`")), "`{word}` is not under Bounds in ARCHITECTURE.md");
    }
}

fn permits(calls: usize, own: usize, held_bytes: usize) -> Permits {
    let config = Config { calls, principal_calls: own, held_bytes, ..Config::default() };
    Permits::new(config, Metrics::default())
}

#[test]
fn calls_are_bounded_per_principal_and_in_all() {
    let permits = permits(3, 2, 100);
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    let first = permits.call(&a).unwrap();
    let _second = permits.call(&a).unwrap();
    assert_eq!(permits.call(&a).unwrap_err(), Bound::PrincipalCalls);
    let _third = permits.call(&b).unwrap();
    assert_eq!(permits.call(&b).unwrap_err(), Bound::Calls);
    let metrics = permits.metrics();
    assert_eq!((hits(metrics, Bound::PrincipalCalls), hits(metrics, Bound::Calls)), (1, 1));
    assert_eq!(permits.calls_in_flight(), 3);
    drop(first);
    assert!(permits.call(&b).is_ok());
}

#[test]
fn bytes_come_back_with_the_permit() {
    let permits = permits(3, 3, 100);
    let mut call = permits.call(&"a".into()).unwrap();
    call.hold_bytes(60).unwrap();
    assert_eq!(call.hold_bytes(60).unwrap_err(), Bound::HeldBytes);
    assert_eq!(permits.held_bytes(), 60);
    drop(call);
    assert_eq!(permits.held_bytes(), 0);
}

#[test]
fn slices_hold_their_bytes_until_the_last_one_is_gone() {
    let permits = permits(3, 3, 100);
    let (held, _) = permits.hold(Bytes::from(vec![b'x'; 60])).unwrap();
    let (back, bound) = permits.hold(Bytes::from(vec![b'y'; 60])).err().unwrap();
    assert_eq!((back.len(), bound), (60, Bound::HeldBytes));
    let slice = held.slice(10..20);
    drop(held);
    assert_eq!(permits.held_bytes(), 60);
    drop(slice);
    assert_eq!(permits.held_bytes(), 0);
}

#[test]
fn one_principal_holds_its_share_and_leaves_the_rest_to_others() {
    let permits = permits(9, 9, 400 << 10);
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    let mut body = permits.call(&a).unwrap();
    body.hold_bytes(FREE_BYTES).unwrap();
    body.hold_bytes(200 << 10).unwrap();
    let (answer, held) = permits.hold(Bytes::from(vec![b'x'; 100 << 10])).unwrap();
    held.attribute(&a).unwrap();
    let mut more = permits.call(&a).unwrap();
    more.hold_bytes(FREE_BYTES).unwrap();
    assert_eq!(more.hold_bytes(1).unwrap_err(), Bound::PrincipalBytes);
    let (_, over) = permits.hold(Bytes::from_static(b"x")).unwrap();
    assert_eq!(over.attribute(&a).unwrap_err(), Bound::PrincipalBytes);
    permits.call(&b).unwrap().hold_bytes(90 << 10).unwrap();
    assert_eq!(hits(permits.metrics(), Bound::PrincipalBytes), 2);

    drop((answer, held));
    more.hold_bytes(99 << 10).unwrap();
    body.release();
    assert_eq!(
        more.hold_bytes(FREE_BYTES).unwrap_err(),
        Bound::PrincipalBytes,
        "a released call still holds"
    );
    drop((body, more, over));
    assert_eq!(permits.held_bytes(), 0);
    assert!(permits.shared.principals.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_in_count_and_time() {
    let config = SlotConfig { slots: 1, queue: 1, queue_timeout: Duration::from_secs(10) };
    let metrics = Metrics::default();
    let slots = Slots::new(config, metrics.clone());
    let held = slots.try_take().unwrap();
    assert!(slots.try_take().is_none());
    assert_eq!(hits(&metrics, Bound::Slots), 1);
    let queued = slots.queue().unwrap();
    assert_eq!(slots.queue().unwrap_err(), Bound::Queue);
    assert_eq!(queued.slot().await.unwrap_err(), Bound::QueueTimeout);
    let waiting = tokio::spawn(async move { queued.slot().await.map(|slot| (queued, slot)) });
    tokio::task::yield_now().await;
    drop(held);
    assert!(slots.try_take().is_none(), "nobody overtakes the queue");
    let (queued, slot) = waiting.await.unwrap().unwrap();
    assert!(!slots.is_idle());
    drop((queued, slot));
    assert!(slots.is_idle());
    assert!(slots.try_take().is_some());
}

#[tokio::test]
async fn connections_wait_for_room() {
    let permits = Permits::new(Config { connections: 1, ..Config::default() }, Metrics::default());
    let held = permits.connection().await.unwrap();
    assert_eq!(hits(permits.metrics(), Bound::Connections), 0);
    let other = permits.clone();
    let waiting = tokio::spawn(async move { other.connection().await.is_some() });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    assert_eq!(hits(permits.metrics(), Bound::Connections), 1);
    drop(held);
    assert!(waiting.await.unwrap());
}
