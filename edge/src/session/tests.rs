use std::future::poll_fn;

use super::*;
use crate::ops::drain::Drain;
use crate::seal::{self, Sealer};

/// Says nothing, ever.
struct Silence;

impl Source for Silence {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Said> {
        Poll::Pending
    }
}

/// Says one thing.
struct Once(Option<wire::splice::Parts>);

impl Source for Once {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Said> {
        self.0
            .take()
            .map_or(Poll::Pending, |message| Poll::Ready(Said::Message(message, replay::Delivery::Required)))
    }
}

fn listen(session: &Arc<Session>) -> Reader {
    session.listen(|_| Box::new(Silence))
}

/// Waits for the end of a stream in which nothing is said.
async fn over(mut reader: Reader) {
    assert!(poll_fn(|context| reader.poll_next(context)).await.is_none());
}

fn params(principal: &str) -> SessionParams {
    SessionParams {
        caller: Caller::new(principal),
        scope: None,
        version: ProtocolVersion::V2025_11_25,
        client: Arc::new(Client::default()),
        changes: watch::channel(ListChanges::default()).1,
    }
}

fn table(config: Config, drain: &Drain) -> (Table, Metrics) {
    let metrics = Metrics::default();
    let sealer = Sealer::new(&seal::Config::default()).unwrap();
    (
        Table::new(config, metrics.clone(), permit::Metrics::default(), &drain.watch(), sealer).unwrap(),
        metrics,
    )
}

fn id(token: &str) -> RequestId {
    RequestId::parse(token.as_bytes()).unwrap()
}

#[tokio::test]
async fn ids_are_long_and_never_the_same() {
    let (table, _) = table(Config::default(), &Drain::new());
    let (one, two) = (table.open(params("p")).unwrap(), table.open(params("p")).unwrap());
    assert_ne!(one.id(), two.id());
    assert_ne!(one.handle().number, two.handle().number);
    // MCP 2025-11-25 basic/transports, Session Management: visible ASCII; short, for it is in every request
    assert!(one.id().len() < 200 && one.id().bytes().all(|byte| matches!(byte, 0x21..=0x7e)));
    assert_eq!(one.id().len(), two.id().len());
    assert!(!format!("{one:?}").contains(one.id()), "an id is as good as a credential");
    assert_eq!(one.version(), ProtocolVersion::V2025_11_25);
}

#[tokio::test]
async fn an_ended_session_starts_nothing_and_stays_ended() {
    let (table, metrics) = table(Config::default(), &Drain::new());
    let session = table.open(params("p")).unwrap();
    let mut call = session.begin(id("1")).unwrap();
    let stream = listen(&session);
    table.delete(&session);
    table.delete(&session);
    assert_eq!(metrics.open(), 0);
    poll_fn(|context| call.poll_cancelled(context)).await;
    over(stream).await;
    assert!(call.session_ended());
    session.initialized();
    assert_eq!(session.begin(id("2")).unwrap_err(), Refused::Ended);
    over(listen(&session)).await;
    assert_eq!(session.news(ListChanges { tools: 1, ..ListChanges::default() }), News::default());
}

#[tokio::test]
async fn ids_of_calls_are_told_apart_by_type() {
    let (table, _) = table(Config::default(), &Drain::new());
    let session = table.open(params("p")).unwrap();
    let (number, mut text) = (session.begin(id("1")).unwrap(), session.begin(id(r#""1""#)).unwrap());
    assert_eq!(session.begin(id("1")).unwrap_err(), Refused::Duplicate);
    assert!(session.cancel(&id(r#""1""#)));
    poll_fn(|context| text.poll_cancelled(context)).await;
    assert!(!text.session_ended());
    drop(text);
    assert!(!session.cancel(&id(r#""1""#)));
    drop(number);
    assert!(session.begin(id("1")).is_ok());
}

#[tokio::test]
async fn a_stream_that_was_replaced_does_not_give_the_place_back() {
    let drain = Drain::new();
    let (table, _) = table(Config { idle: Duration::ZERO, ..Config::default() }, &drain);
    let session = table.open(params("p")).unwrap();
    let old = listen(&session);
    let new = listen(&session);
    over(old).await;
    assert!(session.idle_since().is_none(), "the new one is still there");
    drop(new);
    assert!(session.idle_since().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_session_with_a_call_is_not_idle() {
    let (table, metrics) = table(Config::default(), &Drain::new());
    let session = table.open(params("p")).unwrap();
    let caller = Caller::new("p");
    let call = session.begin(id("1")).unwrap();
    tokio::time::sleep(Duration::from_secs(2 * 60 * 60)).await;
    assert_eq!(metrics.open(), 1);
    drop(call);
    tokio::time::sleep(Duration::from_secs(29 * 60)).await;
    assert!(table.find(session.id(), &caller, None).is_some(), "a message counts");
    tokio::time::sleep(Duration::from_secs(29 * 60)).await;
    assert_eq!(metrics.open(), 1);
    tokio::time::sleep(Duration::from_secs(2 * 60)).await;
    assert_eq!(metrics.open(), 0, "the sweep found it");
    assert!(session.handle().ended.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn the_cut_ends_what_does_not_finish() {
    let drain = Drain::new();
    let (table, metrics) = table(Config::default(), &drain);
    let session = table.open(params("p")).unwrap();
    let mut call = session.begin(id("1")).unwrap();
    let idle = table.open(params("p")).unwrap();
    let drained = tokio::spawn(drain.run(Duration::ZERO, Duration::from_secs(20)));
    idle.handle().ended.cancelled().await;
    assert!(!session.handle().ended.is_cancelled());
    assert!(table.open(params("p")).is_err());
    poll_fn(|context| call.poll_cancelled(context)).await;
    drained.await.unwrap();
    assert_eq!(metrics.open(), 0);
}

fn sealed_with(letter: char) -> Sealer {
    let current = letter.to_string().repeat(32).parse().ok();
    Sealer::new(&seal::Config { current, ..seal::Config::default() }).unwrap()
}

/// A process with this key.
fn process(sealer: Sealer, drain: &Drain) -> Table {
    let (metrics, refusals) = (Metrics::default(), permit::Metrics::default());
    Table::new(Config::default(), metrics, refusals, &drain.watch(), sealer).unwrap()
}

#[tokio::test]
async fn an_id_of_another_process_principal_or_key_is_unknown() {
    let drain = Drain::new();
    let (one, same_key, other_key) = (
        process(sealed_with('a'), &drain),
        process(sealed_with('a'), &drain),
        process(sealed_with('b'), &drain),
    );
    let caller = Caller::new("p");
    let ids: Vec<_> = [&one, &same_key, &other_key].map(|table| table.open(params("p")).unwrap()).into();
    assert!(ids.iter().all(|session| session.handle().number == 1), "each has a first session");
    assert!(one.find(ids[0].id(), &caller, None).is_some());
    assert!(one.find(ids[1].id(), &caller, None).is_none(), "its number 1 is not our number 1");
    assert!(one.find(ids[2].id(), &caller, None).is_none());
    assert!(one.find(ids[0].id(), &Caller::new("q"), None).is_none());
    let server = ServerName::parse("time").unwrap();
    assert!(one.find(ids[0].id(), &caller, Some(&server)).is_none());
}

#[tokio::test]
async fn a_token_of_another_kind_is_no_session() {
    let drain = Drain::new();
    let sealer = sealed_with('a');
    let table = process(sealer.clone(), &drain);
    let session = table.open(params("p")).unwrap();
    let payload = sealer.open(ticket::KIND, session.id()).unwrap();
    let (ours, other) = (ticket::KIND, seal::Kind::new("other"));
    let find = |kind| table.find(&sealer.seal(kind, &payload).unwrap(), &Caller::new("p"), None);
    assert!(find(ours).is_some());
    assert!(find(other).is_none());
    let short = sealer.seal(ours, &payload[1..]).unwrap();
    assert!(table.find(&short, &Caller::new("p"), None).is_none());
}

#[tokio::test]
async fn what_goes_to_the_client_is_no_copy_and_what_is_kept_is_one() {
    let (table, _) = table(Config::default(), &Drain::new());
    let session = table.open(params("p")).unwrap();
    let said = Bytes::from(vec![b'x'; 100]);
    let source = Once(Some(said.clone().into()));
    let mut reader = session.listen(|_| Box::new(source));
    let place = |parts: &wire::splice::Parts| parts.iter().next().unwrap().as_ptr();
    let (id, live) = poll_fn(|context| reader.poll_next(context)).await.unwrap();
    assert_eq!(place(&live), said.as_ptr(), "so it counts until it is sent");
    let Resumed::From(mut again) = session.resume(EventId { seq: id.seq - 1, ..id }) else { panic!("kept") };
    let (_, kept) = poll_fn(|context| again.poll_next(context)).await.unwrap();
    assert!(place(&kept) != said.as_ptr() && kept.into_bytes() == said);
}

#[tokio::test]
async fn event_id_of_another_process_is_unknown() {
    let drain = Drain::new();
    let [one, two] = ['a', 'b'].map(|key| process(sealed_with(key), &drain).open(params("p")).unwrap());
    assert_eq!(one.handle().number, two.handle().number);
    let (first, second) = (listen(&one).position(), listen(&two).position());
    assert_eq!((first.stream, first.seq), (second.stream, second.seq));
    assert!(matches!(one.resume(first), Resumed::From(_)));
    assert!(matches!(two.resume(first), Resumed::Unknown), "as after a restart");
}
