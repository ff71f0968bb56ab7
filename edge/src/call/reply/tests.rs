use super::*;
use parking_lot::Mutex;
use wire::limits::Limits;

fn progress(n: usize) -> Event {
    let text = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":1,"progress":{n}}}}}"#
    );
    Event::Progress(Message::scan(text.into(), &Limits::default()).unwrap())
}

#[tokio::test]
async fn events_come_before_the_outcome() {
    let (responder, mut reply) = reply();
    assert!(responder.event(progress(1)));
    responder.finish(Outcome::Refused(Bytes::from_static(b"{}")));
    assert!(matches!(reply.next().await, Next::Event(Event::Progress(_))));
    assert!(matches!(reply.next().await, Next::Outcome(Outcome::Refused(_))));
}

#[tokio::test]
async fn unread_events_are_bounded_and_the_newest_wins() {
    let (responder, mut reply) = reply();
    let mut sent = 0;
    while responder.event(progress(sent)) {
        sent += 1;
    }
    assert!(!responder.event(progress(sent + 1)));
    responder.finish(Outcome::Refused(Bytes::new()));
    let (mut bytes, mut last) = (0, None);
    while let Next::Event(event) = reply.next().await {
        bytes += event.bytes();
        let Event::Progress(message) = event else { panic!("progress") };
        last = message.param("progress").and_then(|v| v.as_u64());
    }
    assert!(bytes <= EVENT_BYTES && bytes > EVENT_BYTES - 1000, "{bytes}");
    assert_eq!(last, Some(sent as u64 + 1));
}

fn notice(notice: Notice, text: &str) -> Event {
    let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/x","params":{{"text":"{text}"}}}}"#);
    Event::Notice(notice, Message::scan(text.into(), &Limits::default()).unwrap())
}

#[tokio::test]
async fn what_makes_a_client_read_again_goes_last() {
    let (responder, mut reply) = reply();
    assert!(responder.event(notice(Notice::ToolsChanged, "")));
    assert!(responder.event(notice(Notice::ResourceUpdated, "")));
    let fill = || (0..).find(|n| !responder.event(progress(*n)));
    fill();
    let long = "x".repeat(EVENT_BYTES / 4);
    for _ in 0..10 {
        responder.event(notice(Notice::Message, &long));
    }
    fill();
    assert!(!responder.event(notice(Notice::PromptsChanged, &long)), "it takes the place of something");
    assert!(reply.take_lost());
    responder.finish(Outcome::Refused(Bytes::new()));
    let (mut logs, mut told) = (0, Vec::new());
    while let Next::Event(event) = reply.next().await {
        match event {
            Event::Notice(Notice::Message, _) => logs += 1,
            Event::Notice(notice, _) => told.push(notice),
            Event::Progress(_) | Event::Ask(_) => {}
        }
    }
    assert_eq!(told, [Notice::ToolsChanged, Notice::ResourceUpdated, Notice::PromptsChanged]);
    assert_eq!(logs, 2, "of three that fit, one made room for news, and none for progress");
}

#[tokio::test]
async fn nothing_goes_for_what_finds_no_room_all_the_same() {
    let (responder, mut reply) = reply();
    let most = "x".repeat(EVENT_BYTES * 3 / 4);
    assert!(responder.event(notice(Notice::ToolsChanged, &most)));
    assert!(responder.event(notice(Notice::Message, "")));
    assert!(responder.event(progress(1)));
    assert!(responder.offer(notice(Notice::Message, &"x".repeat(EVENT_BYTES / 2))).is_err());
    assert!(reply.take_lost());
    responder.finish(Outcome::Refused(Bytes::new()));
    let mut events = 0;
    while let Next::Event(_) = reply.next().await {
        events += 1;
    }
    assert_eq!(events, 3);
}

#[tokio::test]
async fn a_dropped_responder_fails_the_call() {
    let (responder, reply) = reply();
    drop(responder);
    let Outcome::Failed(error) = reply.outcome().await else { panic!("a failure") };
    assert_eq!(error.kind, Kind::Lost);
}

#[tokio::test]
async fn a_dropped_reply_wakes_the_producer() {
    let (responder, reply) = reply();
    let waiting = tokio::spawn(async move {
        responder.cancelled().await;
        responder.is_cancelled()
    });
    tokio::task::yield_now().await;
    drop(reply);
    assert!(waiting.await.unwrap());
}

#[derive(Default)]
struct Recorder(Mutex<Vec<u64>>);

impl Cancel for Recorder {
    fn cancel(&self, token: u64) {
        self.0.lock().push(token);
    }

    fn park(&self, token: u64) {
        self.0.lock().push(token + 100);
    }

    fn resume(&self, token: u64, _: Option<Level>) {
        self.0.lock().push(token + 300);
    }

    fn detach(&self, token: u64) {
        self.0.lock().push(token + 200);
    }
}

#[test]
fn a_dropped_reply_cancels_at_its_connection() {
    let connection = Arc::new(Recorder::default());
    let (responder, gone) = reply();
    assert!(responder.on_cancel(connection.clone(), 7));
    drop(gone);
    assert!(!responder.on_cancel(connection.clone(), 8), "the consumer is gone already");
    let (finished, kept) = reply();
    assert!(finished.on_cancel(connection.clone(), 9));
    kept.park();
    assert!(!finished.is_detached());
    kept.detach();
    assert!(finished.is_detached());
    finished.finish(Outcome::Refused(Bytes::new()));
    kept.park();
    kept.resume(None);
    kept.detach();
    drop(kept);
    assert_eq!(
        *connection.0.lock(),
        [7, 109, 209],
        "what has ended is neither parked, resumed, detached nor cancelled"
    );
}

#[test]
fn a_forwarded_reply_has_the_reader_of_the_one_it_is_forwarded_to() {
    let ((inner, from), (to, outer)) = (reply(), reply());
    assert_eq!(inner.reader(), EventReader::Present);
    outer.set_reader(EventReader::Absent);
    from.follow(&to);
    assert_eq!(inner.reader(), EventReader::Absent);
    outer.set_reader(EventReader::Gone);
    assert_eq!(inner.reader(), EventReader::Gone);
}

#[tokio::test]
async fn the_connection_of_a_forwarded_reply_is_that_of_both() {
    let connection = Arc::new(Recorder::default());
    let ((inner, from), (to, outer)) = (reply(), reply());
    from.follow(&to);
    tokio::spawn(async move { to.cancelled().await });
    tokio::task::yield_now().await;
    assert!(!outer.is_under_way());
    outer.park();
    assert!(inner.on_cancel(connection.clone(), 7));
    assert!(outer.is_under_way());
    outer.park();
    outer.resume(None);
    outer.detach();
    assert!(inner.is_detached());
    assert_eq!(*connection.0.lock(), [107, 307, 207]);
    inner.finish(Outcome::Refused(Bytes::new()));
    assert!(!outer.is_under_way());
}

#[test]
fn what_is_detached_stays_so_when_it_is_forwarded_later() {
    let connection = Arc::new(Recorder::default());
    for has_connection in [false, true] {
        let ((inner, from), (to, outer)) = (reply(), reply());
        outer.detach();
        if has_connection {
            inner.on_cancel(connection.clone(), 7);
        }
        from.follow(&to);
        assert!(inner.is_detached());
        inner.finish(Outcome::Refused(Bytes::new()));
    }
    assert_eq!(*connection.0.lock(), [207]);
}
