use super::*;

fn budget(config: Config) -> (Arc<ReplayBudget>, Metrics) {
    let metrics = Metrics::default();
    (Arc::new(ReplayBudget::new(config, metrics.clone(), Arc::default())), metrics)
}

fn ring(config: Config) -> (Ring, Metrics) {
    let (budget, metrics) = budget(config);
    (Ring::new(budget), metrics)
}

/// Keeps `count` required events of `bytes` each.
fn fill(ring: &mut Ring, count: usize, bytes: usize) {
    for _ in 0..count {
        ring.push(&Bytes::from(vec![b'x'; bytes]).into(), Delivery::Required, Instant::now());
    }
}

fn since(ring: &Ring, seq: u64) -> Option<Vec<u64>> {
    match ring.since(seq) {
        Since::From(events) => Some(events.map(|(seq, _)| seq).collect()),
        Since::Gone => None,
    }
}

fn dropped(metrics: &Metrics, bound: Reason) -> u64 {
    metrics.dropped.get_or_create(&DropLabel { bound }).get()
}

#[test]
fn ids_are_read_as_they_are_written_and_nothing_else_is() {
    let id = EventId { session: 17, stream: 0, seq: u64::MAX };
    assert_eq!(EventId::parse(&id.to_string()), Some(id));
    for odd in ["", "1", "1-2", "1-2-3-4", "1--3", "1-2-+3", "g-1-2", "1-2-10000000000000000", " 1-2-3"] {
        assert_eq!(EventId::parse(odd), None, "{odd}");
    }
}

#[test]
fn nothing_is_allocated_before_the_first_event() {
    let (ring, _) = ring(Config::default());
    assert_eq!((ring.events.capacity(), ring.last()), (0, 0));
    assert_eq!(since(&ring, 0), Some(vec![]));
}

#[test]
fn what_comes_after_a_place_is_found() {
    let (mut ring, metrics) = ring(Config::default());
    fill(&mut ring, 3, 10);
    assert_eq!(since(&ring, 0), Some(vec![1, 2, 3]));
    assert_eq!(since(&ring, 2), Some(vec![3]));
    assert_eq!(since(&ring, 3), Some(vec![]));
    assert_eq!(metrics.bytes(), 30);
    drop(ring);
    assert_eq!(metrics.bytes(), 0);
}

#[test]
fn events_are_bounded_and_what_is_gone_is_said_to_be() {
    let (mut ring, metrics) = ring(Config { events: 4, ..Config::default() });
    fill(&mut ring, 6, 1);
    assert_eq!(since(&ring, 1), None);
    assert_eq!(since(&ring, 2), Some(vec![3, 4, 5, 6]));
    assert_eq!(dropped(&metrics, Reason::Events), 2);
}

#[test]
fn bytes_are_bounded_and_the_newest_event_is_kept_whatever_its_size() {
    let (mut ring, metrics) = ring(Config { stream_bytes: 100, ..Config::default() });
    fill(&mut ring, 3, 40);
    assert_eq!(since(&ring, 0), None);
    assert_eq!(since(&ring, 1), Some(vec![2, 3]));
    fill(&mut ring, 1, 500);
    assert_eq!(since(&ring, 2), None);
    assert_eq!(since(&ring, 3), Some(vec![4]));
    assert_eq!(dropped(&metrics, Reason::StreamBytes), 3);
    assert_eq!(metrics.bytes(), 500);
}

#[test]
fn a_session_has_its_share_and_all_have_theirs() {
    let config = Config { session_bytes: 60, bytes: 100, ..Config::default() };
    let (metrics, all) = (Metrics::default(), Arc::<AtomicUsize>::default());
    let budget = || Arc::new(ReplayBudget::new(config.clone(), metrics.clone(), all.clone()));
    let (one, two) = (budget(), budget());
    let (mut first, mut second, mut other) = (Ring::new(one.clone()), Ring::new(one), Ring::new(two));
    fill(&mut first, 1, 50);
    fill(&mut second, 1, 20);
    assert_eq!(since(&second, 0), None, "not kept: the session's other stream has the room");
    fill(&mut other, 1, 50);
    fill(&mut other, 1, 20);
    assert_eq!(since(&other, 1), Some(vec![2]), "its own oldest makes room");
    assert_eq!(dropped(&metrics, Reason::Bytes), 2);
    drop(first);
    fill(&mut second, 1, 50);
    assert_eq!(since(&second, 1), Some(vec![2]));
}

#[tokio::test(start_paused = true)]
async fn events_have_an_age() {
    let (mut ring, metrics) = ring(Config::default());
    fill(&mut ring, 1, 10);
    tokio::time::advance(Duration::from_secs(200)).await;
    fill(&mut ring, 1, 10);
    tokio::time::advance(Duration::from_secs(100)).await;
    ring.expire(Instant::now());
    assert_eq!(since(&ring, 0), None);
    assert_eq!(since(&ring, 1), Some(vec![2]));
    tokio::time::advance(Duration::from_secs(200)).await;
    ring.expire(Instant::now());
    assert!(ring.is_empty());
    assert_eq!(since(&ring, 2), Some(vec![]), "who has read everything has lost nothing");
    assert_eq!((dropped(&metrics, Reason::Age), metrics.bytes()), (2, 0));
}

#[test]
fn progress_goes_first_and_is_not_missed() {
    let (mut ring, _) = ring(Config { events: 3, ..Config::default() });
    fill(&mut ring, 1, 1);
    for _ in 0..5 {
        ring.push(&Bytes::from_static(b"p").into(), Delivery::BestEffort, Instant::now());
    }
    fill(&mut ring, 1, 1);
    assert_eq!(since(&ring, 0), Some(vec![1, 6, 7]));
}

#[test]
fn best_effort_event_never_displaces_a_required_one() {
    for config in [
        Config { events: 2, ..Config::default() },
        Config { stream_bytes: 20, ..Config::default() },
        Config { session_bytes: 20, ..Config::default() },
    ] {
        let (mut ring, metrics) = ring(config);
        fill(&mut ring, 2, 10);
        ring.push(&Bytes::from_static(b"p").into(), Delivery::BestEffort, Instant::now());
        assert_eq!((since(&ring, 0), ring.last()), (Some(vec![1, 2]), 3), "nothing is lost");
        assert_eq!(metrics.bytes(), 20);
    }
}
