//! What single sessions see.

use std::time::Duration;

use super::super::own::{PATIENCE, VIEW_BYTES, follow};
use super::*;
use crate::call::Event;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

/// A router over `a` and `b`, where the sessions' own connections are to `b`.
struct Stage {
    router: Router,
    own: Arc<Mutex<Own>>,
    announce: UnboundedSender<SessionKey>,
}

impl Stage {
    fn new() -> Self {
        let own = Arc::<Mutex<Own>>::default();
        let router = router_with(&["a", "b"], Told::default(), own.clone());
        router.shared.listed(0, part("x"));
        router.shared.listed(1, part("y"));
        let (announce, announcing) = unbounded_channel();
        tokio::spawn(follow(router.clone(), 1, announcing));
        Self { router, own, announce }
    }

    fn shows(&self, part: Part) {
        *self.own.lock().unwrap() = Own::Lists(Box::new(part));
    }

    /// The session's connection to `b` announces a change, as a pool does it.
    fn changes(&self, session: &SessionKey) {
        if session.announced.note(&ServerName::parse("b").unwrap(), Notice::ToolsChanged) {
            self.announce.send(session.clone()).unwrap();
        }
    }

    async fn tools(&self, session: Option<&SessionKey>, scope: Option<&str>) -> Vec<String> {
        let mut call = call("me", scope, Method::ToolsList, "{}");
        if let Some(session) = session {
            call.affinity = Affinity::Session(session.clone());
        }
        let list = answer(&self.router, call).await.unwrap();
        let names = list["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    async fn use_tool(&self, session: &SessionKey, name: &str) -> Result<serde_json::Value, Kind> {
        let params = format!(r#"{{"name":"{name}"}}"#);
        let call = call("me", None, Method::ToolsCall, &params);
        answer(&self.router, Call { affinity: Affinity::Session(session.clone()), ..call }).await
    }
}

fn session(number: u64) -> (SessionKey, Reply) {
    let (strays, heard) = reply();
    let ended = tokio_util::sync::CancellationToken::new();
    let (wishes, announced) = (Arc::default(), Arc::default());
    (SessionKey { number, ended, strays: Arc::new(strays), wishes, announced }, heard)
}

fn tools(names: &[&str]) -> Part {
    let tools: Vec<_> = names
        .iter()
        .map(|name| format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#))
        .collect();
    Part { tools: items("tools", &tools.join(",")), ..part("y") }
}

async fn told(heard: &mut Reply) -> Option<Notice> {
    match tokio::time::timeout(Duration::from_secs(600), heard.next()).await {
        Ok(Next::Event(Event::Notice(notice, _))) => Some(notice),
        Ok(_) => panic!("only notices"),
        Err(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_sees_what_its_own_connection_lists_and_nobody_else_does() {
    let stage = Stage::new();
    let ((one, mut heard), (other, mut unheard)) = (session(1), session(2));
    stage.shows(tools(&["y", "unlocked", "x"]));
    for _ in 0..5 {
        stage.changes(&one);
    }
    assert_eq!(told(&mut heard).await, Some(Notice::ToolsChanged));
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y", "unlocked", "b__x"]);
    assert_eq!(stage.tools(Some(&one), Some("b")).await, ["y", "unlocked", "x"]);
    assert_eq!(stage.use_tool(&one, "unlocked").await.unwrap()["server"], "b");
    assert_eq!(stage.use_tool(&one, "x").await.unwrap()["server"], "a");
    for all in [stage.tools(Some(&other), None).await, stage.tools(None, None).await] {
        assert_eq!(all, ["x", "y"]);
    }
    assert_eq!(stage.use_tool(&other, "unlocked").await.unwrap_err(), Kind::InvalidParams);
    assert_eq!((told(&mut heard).await, told(&mut unheard).await), (None, None), "once, and one");

    stage.router.shared.listed(0, part("z"));
    assert_eq!(stage.tools(Some(&one), None).await, ["z", "y", "unlocked", "b__x"], "what is common goes on");
    stage.shows(tools(&["y"]));
    stage.changes(&one);
    assert_eq!(told(&mut heard).await, Some(Notice::ToolsChanged));
    assert_eq!(stage.tools(Some(&one), None).await, ["z", "y"]);
    assert_eq!(stage.router.shared.views.bytes(), 0, "what is as everybody's is not kept");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_differ_is_not_told() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(part("y"));
    stage.changes(&one);
    assert_eq!(told(&mut heard).await, None);
    assert!(!one.announced.any());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_announces_changes_all_the_time_is_looked_at_ever_less() {
    let stage = Stage::new();
    let (one, _heard) = session(1);
    stage.shows(part("y"));
    let began = Instant::now();
    let mut looks = Vec::new();
    for _ in 0..4 {
        stage.changes(&one);
        while one.announced.any() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        looks.push(began.elapsed().as_secs());
    }
    // After half a second, and then one, two and four more.
    assert_eq!(looks, [0, 1, 3, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_list_and_an_unknown_name_wait_for_the_look_and_not_for_a_busy_server() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(tools(&["y", "unlocked"]));
    let began = Instant::now();
    stage.changes(&one);
    assert_eq!(stage.use_tool(&one, "unlocked").await.unwrap()["server"], "b");
    *stage.own.lock().unwrap() = Own::Closed;
    stage.changes(&one);
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y"], "its connection is gone");
    assert_eq!(began.elapsed(), Duration::ZERO);

    *stage.own.lock().unwrap() = Own::Silent;
    stage.changes(&one);
    assert_eq!(stage.use_tool(&one, "y").await.unwrap()["server"], "b");
    assert_eq!(began.elapsed(), Duration::ZERO, "a name that is known does not wait");
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y"]);
    assert_eq!(began.elapsed(), PATIENCE);
    assert!(one.announced.any(), "it is looked at later");
    stage.shows(tools(&["y", "later"]));
    for _ in 0..3 {
        assert_eq!(told(&mut heard).await, Some(Notice::ToolsChanged), "unlocked, closed, later");
    }
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y", "later"]);
}

#[tokio::test(start_paused = true)]
async fn views_end_with_their_sessions() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(tools(&["y", "unlocked"]));
    stage.changes(&one);
    told(&mut heard).await;
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y", "unlocked"]);
    assert!(stage.router.shared.views.bytes() > 0);
    one.ended.cancel();
    while stage.router.shared.views.bytes() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn views_are_bounded_in_bytes() {
    let stage = Stage::new();
    let big = "d".repeat(VIEW_BYTES / 16);
    let tool = format!(r#"{{"name":"big","description":"{big}","inputSchema":{{"type":"object"}}}}"#);
    stage.shows(Part { tools: items("tools", &tool), ..Part::default() });
    let mut sessions: Vec<_> = (1..=5).map(session).collect();
    let mut see_it = Vec::new();
    for (one, heard) in &mut sessions {
        stage.changes(one);
        told(heard).await;
        see_it.push(stage.tools(Some(one), None).await.contains(&"big".to_owned()));
        assert!(stage.router.shared.views.bytes() <= VIEW_BYTES);
    }
    assert!(see_it.contains(&true) && see_it.contains(&false), "{see_it:?}");
    assert!(stage.router.shared.metrics.session_lists_refused.get() > 0);
}
