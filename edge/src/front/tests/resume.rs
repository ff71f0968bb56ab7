//! Clients whose connection breaks, and what they find when they come back.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::call::Affinity;
use crate::session::replay;

const LISTENED: &str = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;

fn call(id: u64) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","_meta":{{"progressToken":"tok"}}}}}}"#
    )
}

fn finish(responder: Responder, text: &'static str) {
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(text.as_bytes()))));
}

/// A call whose response has become a stream, and its server's side.
async fn streaming(stage: &Stage, session: &str, id: u64) -> (Body, Responder) {
    let response = stage.send(post(&call(id), &[("mcp-session-id", session)])).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    (response.into_body(), stage.take_open().1)
}

async fn resume(stage: &Stage, session: &str, last: &str) -> Response<Body> {
    let headers = [("mcp-session-id", session), ("last-event-id", last)];
    stage.send(request("GET", "/mcp", "", &headers)).await
}

/// Id and data of the next event that is no comment.
async fn message(stream: &mut Body) -> Option<(String, Value)> {
    loop {
        let text = event(stream).await?;
        if text.starts_with(':') {
            continue;
        }
        let (id, data) = text.split_once("\nevent: message\ndata: ").unwrap_or_else(|| panic!("{text}"));
        return Some((id["id: ".len()..].to_owned(), serde_json::from_str(data).unwrap()));
    }
}

async fn quiet(stage: &Stage) {
    until(|| stage.metrics.in_flight() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_lost_its_connection_finds_its_answer() {
    for version in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let stage = Stage::new();
        let session = stage.session(version).await;
        let (mut stream, responder) = streaming(&stage, &session, 1).await;
        if version == "2025-11-25" {
            primed(&mut stream).await;
        }
        responder.event(progress(1));
        let (last, first) = message(&mut stream).await.unwrap();
        assert_eq!(first["params"]["progress"], 1);
        drop(stream);
        responder.event(progress(2));
        finish(responder, r#"{"a":1}"#);
        quiet(&stage).await;
        let resumed = resume(&stage, &session, &last).await;
        assert_eq!(
            (resumed.status().as_u16(), &resumed.headers()["x-accel-buffering"]),
            (200, &"no".parse().unwrap())
        );
        let mut stream = resumed.into_body();
        assert_eq!(message(&mut stream).await.unwrap().1["params"]["progress"], 2);
        let (last, answer) = message(&mut stream).await.unwrap();
        assert_eq!((&answer["id"], &answer["result"]["a"]), (&1.into(), &1.into()));
        assert!(event(&mut stream).await.is_none());
        assert_eq!(resume(&stage, &session, &last).await.status(), 204, "nothing more will come");
    }
}

#[tokio::test(start_paused = true)]
async fn a_primed_client_resumes_before_the_first_event_and_goes_on_live() {
    let stage = Stage::new();
    let session = stage.session("2025-11-25").await;
    let (mut stream, responder) = streaming(&stage, &session, 1).await;
    let last = primed(&mut stream).await;
    drop(stream);
    responder.event(progress(1));
    let mut stream = resume(&stage, &session, &last).await.into_body();
    assert_eq!(message(&mut stream).await.unwrap().1["params"]["progress"], 1);
    responder.event(progress(2));
    assert_eq!(message(&mut stream).await.unwrap().1["params"]["progress"], 2);
    assert_eq!(stage.metrics.in_flight(), 1);
    finish(responder, "{}");
    assert_eq!(message(&mut stream).await.unwrap().1["id"], 1);
    assert!(event(&mut stream).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_newest_reader_of_a_stream_wins() {
    let stage = Stage::new();
    let session = stage.session("2025-11-25").await;
    let (mut old, responder) = streaming(&stage, &session, 1).await;
    let last = primed(&mut old).await;
    let mut new = resume(&stage, &session, &last).await.into_body();
    assert!(event(&mut old).await.is_none());
    drop(old);
    finish(responder, "{}");
    assert_eq!(message(&mut new).await.unwrap().1["id"], 1);
}

#[tokio::test(start_paused = true)]
async fn each_stream_has_its_own_events() {
    let stage = Stage::new();
    let session = stage.session("2025-11-25").await;
    stage
        .send(post(
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            &[("mcp-session-id", &session)],
        ))
        .await;
    let (mut one, first) = streaming(&stage, &session, 1).await;
    let (mut two, second) = streaming(&stage, &session, 2).await;
    let listening = stage.send(request("GET", "/mcp", "", &[("mcp-session-id", &session)])).await;
    let mut listening = listening.into_body();
    let ids = [primed(&mut one).await, primed(&mut two).await, primed(&mut listening).await];
    drop((one, two));
    stage.script.changes.send_replace(ListChanges { tools: 1, ..ListChanges::default() });
    assert_eq!(message(&mut listening).await.unwrap().1, serde_json::from_str::<Value>(LISTENED).unwrap());
    drop(listening);
    finish(first, "{}");
    finish(second, "{}");
    quiet(&stage).await;
    for (last, expected) in ids.iter().zip([Some(1), Some(2), None]) {
        let mut stream = resume(&stage, &session, last).await.into_body();
        let (_, got) = message(&mut stream).await.unwrap();
        assert_eq!(got["id"].as_u64(), expected, "{last}: {got}");
        if expected.is_some() {
            assert!(event(&mut stream).await.is_none());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_means_nothing_in_another_session() {
    let stage = Stage::new();
    let (mine, other) = (stage.session("2025-11-25").await, stage.session("2025-11-25").await);
    let (mut stream, responder) = streaming(&stage, &mine, 1).await;
    let last = primed(&mut stream).await;
    drop(stream);
    finish(responder, r#"{"secret":1}"#);
    quiet(&stage).await;
    let own = stage.send(request("GET", "/mcp", "", &[("mcp-session-id", &other)])).await;
    let own = primed(&mut own.into_body()).await;
    let (_, rest) = last.split_once('-').unwrap();
    let stolen = format!("{}-{rest}", own.split_once('-').unwrap().0);
    for odd in [last.as_str(), stolen.as_str(), "nonsense", "", "1-1-1-1"] {
        let resumed = resume(&stage, &other, odd).await;
        assert_eq!(resumed.status(), 200, "{odd}");
        let mut fresh = resumed.into_body();
        primed(&mut fresh).await;
        assert_eq!(event(&mut fresh).await.unwrap(), ": keep-alive\n\n", "{odd}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_refused_and_never_passed_over() {
    let replay = replay::Config { age: Duration::from_secs(60), ..replay::Config::default() };
    let sessions = session::Config { replay, ..session::Config::default() };
    let stage = Stage::with(Setting { sessions, ..Setting::default() });
    let session = stage.session("2025-11-25").await;
    let (mut stream, responder) = streaming(&stage, &session, 1).await;
    let last = primed(&mut stream).await;
    drop(stream);
    finish(responder, "{}");
    quiet(&stage).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let kept = resume(&stage, &session, &last).await;
    assert_eq!(kept.status(), 200);
    drop(kept);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_lost(resume(&stage, &session, &last).await, 1).await;
}

/// The request of that id is answered with the error `lost`.
async fn assert_lost(resumed: Response<Body>, id: u64) {
    assert_eq!(resumed.status(), 200);
    let answer = text(resumed).await;
    let data = answer.strip_prefix("event: message\ndata: ").unwrap();
    let message: Value = serde_json::from_str(data).unwrap();
    assert_eq!((&message["id"], &message["error"]["code"]), (&id.into(), &(-32603).into()));
    assert_eq!(message["error"]["data"]["reason"], "lost");
}

#[tokio::test(start_paused = true)]
async fn stream_read_to_its_end_is_gone_when_its_events_are_too_old() {
    let stage = Stage::new();
    let session = stage.session("2025-11-25").await;
    let (mut stream, responder) = streaming(&stage, &session, 1).await;
    let last = primed(&mut stream).await;
    finish(responder, "{}");
    message(&mut stream).await.unwrap();
    tokio::time::sleep(Duration::from_secs(310)).await;
    let refused = resume(&stage, &session, &last).await;
    assert_eq!(refused.status(), 410);
    assert_eq!(json(refused).await["error"]["data"]["reason"], "lost");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_events_are_lost_is_answered_with_an_error() {
    let replay = replay::Config { stream_bytes: 100, bytes: 200, ..replay::Config::default() };
    let sessions = session::Config { replay, ..session::Config::default() };
    let stage = Stage::with(Setting { sessions, ..Setting::default() });
    let session = stage.session("2025-11-25").await;
    let (mut stream, responder) = streaming(&stage, &session, 7).await;
    let last = primed(&mut stream).await;
    drop(stream);
    finish(responder, Box::leak(format!(r#"{{"a":"{}"}}"#, "x".repeat(300)).into_boxed_str()));
    quiet(&stage).await;
    assert_lost(resume(&stage, &session, &last).await, 7).await;
    tokio::time::sleep(Duration::from_secs(60 * 20)).await;
    assert_lost(resume(&stage, &session, &last).await, 7).await;
}

fn with_ended_streams(ended_streams: usize) -> Stage {
    let replay = replay::Config { ended_streams, ..replay::Config::default() };
    let sessions = session::Config { replay, ..session::Config::default() };
    Stage::with(Setting { sessions, ..Setting::default() })
}

/// A call that ends when its client has left; the id of its first event, and its server's side.
async fn left(stage: &Stage, session: &str, id: u64) -> (String, Responder) {
    let (mut stream, responder) = streaming(stage, session, id).await;
    (primed(&mut stream).await, responder)
}

#[tokio::test(start_paused = true)]
async fn ended_streams_make_room_in_the_order_in_which_they_ended() {
    let stage = with_ended_streams(1);
    let session = stage.session("2025-11-25").await;
    let (first, long) = left(&stage, &session, 1).await;
    let (second, short) = left(&stage, &session, 2).await;
    finish(short, "{}");
    until(|| stage.metrics.in_flight() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    finish(long, "{}");
    quiet(&stage).await;
    let _third = streaming(&stage, &session, 3).await;
    assert_eq!(resume(&stage, &session, &second).await.status(), 410);
    assert_eq!(resume(&stage, &session, &first).await.status(), 200, "its answer came last");
}

#[tokio::test(start_paused = true)]
async fn ended_streams_that_were_read_make_room_first() {
    let stage = with_ended_streams(1);
    let session = stage.session("2025-11-25").await;
    let (unread, responder) = left(&stage, &session, 1).await;
    finish(responder, "{}");
    quiet(&stage).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut stream, responder) = streaming(&stage, &session, 2).await;
    let read = primed(&mut stream).await;
    finish(responder, "{}");
    message(&mut stream).await.unwrap();
    let _third = streaming(&stage, &session, 3).await;
    assert_eq!(resume(&stage, &session, &read).await.status(), 410);
    assert_eq!(resume(&stage, &session, &unread).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn who_missed_too_much_is_told_that_everything_changed() {
    let replay = replay::Config { age: Duration::from_secs(60), ..replay::Config::default() };
    let sessions = session::Config { replay, ..session::Config::default() };
    let stage = Stage::with(Setting { sessions, ..Setting::default() });
    let session = stage.session("2025-11-25").await;
    let header = [("mcp-session-id", session.as_str())];
    stage.send(post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, &header)).await;
    let mut stream = stage.send(request("GET", "/mcp", "", &header)).await.into_body();
    let last = primed(&mut stream).await;
    stage.script.changes.send_replace(ListChanges { tools: 1, ..ListChanges::default() });
    message(&mut stream).await.unwrap();
    drop(stream);
    tokio::time::sleep(Duration::from_secs(70)).await;
    let sent = tokio::spawn(stage.front.clone().handle(post(&call(1), &header)));
    until(|| stage.open_calls() > 0).await;
    let (open, responder) = stage.take_open();
    let Affinity::Session(key) = &open.affinity else { panic!("a session's call") };
    let server = ServerName::parse("time").unwrap();
    key.settings.change(|settings| settings.subscriptions.insert((server, "file:///a\"b".to_owned())));
    finish(responder, "{}");
    sent.await.unwrap();
    let mut stream = resume(&stage, &session, &last).await.into_body();
    primed(&mut stream).await;
    for list in ["tools", "prompts", "resources"] {
        let (_, told) = message(&mut stream).await.unwrap();
        assert_eq!(told["method"], format!("notifications/{list}/list_changed"));
    }
    let (_, told) = message(&mut stream).await.unwrap();
    assert_eq!(told["method"], "notifications/resources/updated");
    assert_eq!(told["params"]["uri"], "file:///a\"b");
    assert_eq!(event(&mut stream).await.unwrap(), ": keep-alive\n\n");
}

#[tokio::test(start_paused = true)]
async fn streams_that_ended_are_counted() {
    let replay = replay::Config { ended_streams: 1, ..replay::Config::default() };
    let sessions = session::Config { replay, ..session::Config::default() };
    let stage = Stage::with(Setting { sessions, ..Setting::default() });
    let session = stage.session("2025-11-25").await;
    let mut lasts = Vec::new();
    for id in 1..=3 {
        let (mut stream, responder) = streaming(&stage, &session, id).await;
        lasts.push(primed(&mut stream).await);
        finish(responder, "{}");
        assert!(message(&mut stream).await.is_some());
    }
    let statuses = [410, 200, 200];
    for (last, status) in lasts.iter().zip(statuses) {
        assert_eq!(resume(&stage, &session, last).await.status(), status, "{last}");
    }
    assert_eq!(stage.count("replay_dropped_total{bound=\"ended_streams\"}"), 1);
    assert_eq!(stage.count("resumptions_total{outcome=\"gone\"}"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_ends_what_goes_on_alone() {
    let stage = Stage::new();
    let session = stage.session("2025-11-25").await;
    let (stream, responder) = streaming(&stage, &session, 1).await;
    drop(stream);
    tokio::task::yield_now().await;
    assert!(!responder.is_cancelled());
    stage.send(request("DELETE", "/mcp", "", &[("mcp-session-id", &session)])).await;
    responder.cancelled().await;
    quiet(&stage).await;
    assert_eq!(stage.sessions.replay_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_cut_ends_what_goes_on_alone() {
    let stage = Stage::new();
    let session = stage.session("2025-11-25").await;
    let (stream, responder) = streaming(&stage, &session, 1).await;
    drop(stream);
    let start = Instant::now();
    stage.drain.run(Duration::ZERO, Duration::from_secs(20)).await;
    assert!(start.elapsed() < Duration::from_secs(22));
    assert!(responder.is_cancelled());
}

/// What happens at each step of a call.
#[derive(Clone, Debug)]
enum Act {
    Progress,
    /// The client reads this many events.
    Read(usize),
    /// The connection breaks, and this many of the events that were read never arrived.
    Break(usize),
    Wait,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => Just(Act::Progress),
        3 => (1..4usize).prop_map(Act::Read),
        2 => (0..3usize).prop_map(Act::Break),
        1 => Just(Act::Wait),
    ];
    proptest::collection::vec(act, 0..60)
}

/// Plays `acts`; what arrived at the client, in order.
async fn play(acts: Vec<Act>) -> (u64, Vec<Value>) {
    let stage = Stage::new();
    let session = stage.session("2025-11-25").await;
    let (mut stream, responder) = streaming(&stage, &session, 1).await;
    let mut arrived = vec![(primed(&mut stream).await, Value::Null)];
    let mut sent = 0;
    for act in acts {
        match act {
            Act::Progress => {
                sent += 1;
                responder.event(progress(sent));
            }
            Act::Read(count) => {
                for _ in 0..count {
                    let next = message(&mut stream);
                    if let Ok(next) = tokio::time::timeout(Duration::from_millis(1), next).await {
                        arrived.push(next.unwrap());
                    }
                }
            }
            Act::Break(lost) => {
                arrived.truncate(arrived.len().saturating_sub(lost).max(1));
                let last = arrived.last().unwrap().0.clone();
                drop(stream);
                tokio::task::yield_now().await;
                stream = resume(&stage, &session, &last).await.into_body();
            }
            Act::Wait => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
    finish(responder, "{}");
    while let Some(next) = message(&mut stream).await {
        arrived.push(next);
    }
    (sent, arrived.into_iter().skip(1).map(|(_, message)| message).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn wherever_a_connection_breaks_no_event_is_lost_or_doubled(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let (sent, arrived) = runtime.unwrap().block_on(play(acts));
        let (answer, progress) = arrived.split_last().unwrap();
        let numbers: Vec<_> = progress.iter().map(|m| m["params"]["progress"].as_u64().unwrap()).collect();
        prop_assert_eq!(numbers, (1..=sent).collect::<Vec<_>>());
        prop_assert_eq!(&answer["id"], &Value::from(1));
    }
}
