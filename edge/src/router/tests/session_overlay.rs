//! What single sessions see.

use std::time::Duration;

use super::super::session_relist::{MAX_WAIT, follow};
use super::*;
use crate::call::Event;
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A router over `a` and `b`, where the sessions' own connections are to `b`.
pub(super) struct Stage {
    pub(super) router: Router,
    own: Arc<Mutex<Own>>,
    announce: UnboundedSender<SessionHandle>,
    gone: CancellationToken,
}

impl Stage {
    pub(super) fn new() -> Self {
        let own = Arc::<Mutex<Own>>::default();
        let router = router_with(&["a", "b"], Levels::default(), own.clone());
        router.shared.listed(ServerIndex::new(0), part("x"));
        router.shared.listed(ServerIndex::new(1), part("y"));
        let (announce, announcing) = unbounded_channel();
        let gone = CancellationToken::new();
        tokio::spawn(follow(router.clone(), (ServerIndex::new(1), name_of_b()), (announcing, gone.clone())));
        Self { router, own, announce, gone }
    }

    pub(super) fn shows(&self, part: Part) {
        *self.own.lock() = Own::Lists(Box::new(part));
    }

    /// The session's connection to `b` announces a change, as a pool does it.
    fn changes(&self, session: &SessionHandle) {
        self.changes_list(session, Notice::ToolsChanged);
    }

    pub(super) fn changes_list(&self, session: &SessionHandle, list: Notice) {
        if session.pending_list_changes.note(&name_of_b(), list) {
            self.announce.send(session.clone()).unwrap();
        }
    }

    async fn tools(&self, session: Option<&SessionHandle>, scope: Option<&str>) -> Vec<String> {
        let mut call = call("me", scope, Method::ToolsList, "{}");
        if let Some(session) = session {
            call.affinity = Affinity::Session(session.clone());
        }
        let list = answer(&self.router, call).await.unwrap();
        let names = list["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    async fn use_tool(&self, session: &SessionHandle, name: &str) -> Result<serde_json::Value, Kind> {
        let params = format!(r#"{{"name":"{name}"}}"#);
        let call = call("me", None, Method::ToolsCall, &params);
        answer(&self.router, Call { affinity: Affinity::Session(session.clone()), ..call }).await
    }
}

fn name_of_b() -> ServerName {
    ServerName::parse("b").unwrap()
}

pub(super) fn session(number: u64) -> (SessionHandle, Reply) {
    let (unsolicited, heard) = reply();
    let ended = CancellationToken::new();
    let (settings, pending_list_changes) = (Arc::default(), Arc::default());
    (
        SessionHandle {
            number,
            caller: me(),
            version: ProtocolVersion::V2025_11_25,
            ended,
            unsolicited: Arc::new(unsolicited),
            settings,
            pending_list_changes,
        },
        heard,
    )
}

fn tools(names: &[&str]) -> Part {
    let tools: Vec<_> = names
        .iter()
        .map(|name| format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#))
        .collect();
    Part { tools: items("tools", &tools.join(",")), ..part("y") }
}

pub(super) async fn notice(heard: &mut Reply) -> Option<Notice> {
    match tokio::time::timeout(Duration::from_secs(600), heard.next()).await {
        Ok(Next::Event(Event::Notice(notice, _))) => Some(notice),
        Ok(_) => panic!("only notices"),
        Err(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_sees_what_its_own_connection_lists_and_nobody_else_does() {
    let stage = Stage::new();
    let ((one, mut heard), (other, mut never_listed)) = (session(1), session(2));
    stage.shows(tools(&["y", "unlocked", "x"]));
    for _ in 0..5 {
        stage.changes(&one);
    }
    assert_eq!(notice(&mut heard).await, Some(Notice::ToolsChanged));
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y", "unlocked", "b__x"]);
    assert_eq!(stage.tools(Some(&one), Some("b")).await, ["y", "unlocked", "x"]);
    assert_eq!(stage.use_tool(&one, "unlocked").await.unwrap()["server"], "b");
    assert_eq!(stage.use_tool(&one, "x").await.unwrap()["server"], "a");
    for all in [stage.tools(Some(&other), None).await, stage.tools(None, None).await] {
        assert_eq!(all, ["x", "y"]);
    }
    assert_eq!(stage.use_tool(&other, "unlocked").await.unwrap_err(), Kind::InvalidParams);
    assert_eq!((notice(&mut heard).await, notice(&mut never_listed).await), (None, None), "once, and one");

    stage.router.shared.listed(ServerIndex::new(0), part("z"));
    assert_eq!(stage.tools(Some(&one), None).await, ["z", "y", "unlocked", "b__x"], "what is common goes on");
    stage.shows(tools(&["y"]));
    stage.changes(&one);
    assert_eq!(notice(&mut heard).await, Some(Notice::ToolsChanged));
    assert_eq!(stage.tools(Some(&one), None).await, ["z", "y"]);
    assert_eq!(stage.router.shared.overlays.bytes(), 0, "what is as everybody's is not kept");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_differ_is_not_announced() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(part("y"));
    stage.changes(&one);
    assert_eq!(notice(&mut heard).await, None);
    assert!(!one.pending_list_changes.any());
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
        while one.pending_list_changes.any() {
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
    *stage.own.lock() = Own::Closed;
    stage.changes(&one);
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y"], "its connection is gone");
    assert_eq!(began.elapsed(), Duration::ZERO);

    *stage.own.lock() = Own::Silent;
    stage.changes(&one);
    assert_eq!(stage.use_tool(&one, "y").await.unwrap()["server"], "b");
    assert_eq!(began.elapsed(), Duration::ZERO, "a name that is known does not wait");
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y"]);
    assert_eq!(began.elapsed(), MAX_WAIT);
    assert!(one.pending_list_changes.any(), "it is listed later");
    stage.shows(tools(&["y", "later"]));
    for _ in 0..3 {
        assert_eq!(notice(&mut heard).await, Some(Notice::ToolsChanged), "unlocked, closed, later");
    }
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y", "later"]);
}

#[tokio::test(start_paused = true)]
async fn views_end_with_their_sessions() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(tools(&["y", "unlocked"]));
    stage.changes(&one);
    notice(&mut heard).await;
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y", "unlocked"]);
    assert!(stage.router.shared.overlays.bytes() > 0);
    one.ended.cancel();
    while stage.router.shared.overlays.bytes() > 0 {
        tokio::task::yield_now().await;
    }
}

/// A list of one tool of this many bytes.
fn large(name: &str, bytes: usize) -> Part {
    let tool = format!(
        r#"{{"name":"{name}","description":"{}","inputSchema":{{"type":"object"}}}}"#,
        "d".repeat(bytes)
    );
    Part { tools: items("tools", &tool), ..part("y") }
}

#[tokio::test(start_paused = true)]
async fn views_are_bounded_in_bytes() {
    let stage = Stage::new();
    let mut sessions: Vec<_> = (1..=5).map(session).collect();
    let mut see_it = Vec::new();
    for (one, heard) in &mut sessions {
        let name = format!("large_{}", one.number);
        stage.shows(large(&name, VIEW_BYTES / 16));
        stage.changes(one);
        notice(heard).await;
        see_it.push(stage.tools(Some(one), None).await.contains(&name));
        assert!(stage.router.shared.overlays.bytes() <= VIEW_BYTES);
    }
    assert!(see_it.contains(&true) && see_it.contains(&false), "{see_it:?}");
    assert!(stage.router.shared.metrics.session_lists_refused.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_view_that_outgrows_the_room_with_the_common_lists_is_given_up_and_its_client_told() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(tools(&["y", "unlocked"]));
    stage.changes(&one);
    assert_eq!(notice(&mut heard).await, Some(Notice::ToolsChanged));
    stage.router.shared.listed(ServerIndex::new(0), large("x", VIEW_BYTES / 2));
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y"]);
    assert_eq!(notice(&mut heard).await, Some(Notice::ToolsChanged));
    assert_eq!(stage.router.shared.overlays.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_room_costs_the_session_no_other_list() {
    let stage = Stage::new();
    let ((one, _heard), shared) = (session(1), &stage.router.shared);
    let overlay = shared.overlay(&one);
    let relisted = |server: usize, part: Part| {
        let server = ServerIndex::new(server);
        (server, vec![(List::Tools, shared.compare_list(server, List::Tools, part.tools))])
    };
    assert!(shared.change(&one, &overlay, relisted(0, tools(&["x", "unlocked"]))));
    assert!(
        !shared.change(&one, &overlay, relisted(1, large("y", VIEW_BYTES / 2))),
        "the list fits, the view does not"
    );
    assert!(!shared.change(&one, &overlay, relisted(1, large("y", VIEW_BYTES))), "not even the list fits");
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "unlocked", "y"]);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_see_the_same_share_it() {
    let stage = Stage::new();
    let mut sessions: Vec<_> = (1..=50).map(session).collect();
    let mut bytes = Vec::new();
    stage.shows(large("unlocked", VIEW_BYTES / 20));
    for (one, heard) in &mut sessions {
        stage.changes(one);
        notice(heard).await;
        assert_eq!(stage.tools(Some(one), None).await, ["x", "unlocked"]);
        bytes.push(stage.router.shared.overlays.bytes());
    }
    bytes.dedup();
    assert_eq!(bytes.len(), 1, "{bytes:?}");
    for (one, _) in &sessions {
        one.ended.cancel();
    }
    while stage.router.shared.overlays.bytes() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_list_that_cannot_be_read_costs_no_other_and_is_looked_at_again_by_one_task() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    let shown = Part { prompts: items("prompts", r#"{"name":"own"}"#), ..tools(&["y", "unlocked"]) };
    *stage.own.lock() = Own::Refuses(Box::new(shown.clone()), List::Tools);
    let begun = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let server = ServerName::parse("b").unwrap();
    for notice in [Notice::ToolsChanged, Notice::PromptsChanged] {
        if one.pending_list_changes.note(&server, notice) {
            stage.announce.send(one.clone()).unwrap();
        }
    }
    assert_eq!(notice(&mut heard).await, Some(Notice::PromptsChanged));
    for _ in 0..20 {
        stage.changes(&one);
        tokio::time::sleep(Duration::from_secs(31)).await;
    }
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(alive, begun + 2, "who follows, and who waits for the session's end");
    assert!(one.pending_list_changes.any());
    stage.shows(shown);
    assert_eq!(notice(&mut heard).await, Some(Notice::ToolsChanged));
    assert!(!one.pending_list_changes.any());
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_once_for_a_server_that_does_not_answer() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    *stage.own.lock() = Own::Silent;
    let began = Instant::now();
    stage.changes(&one);
    for _ in 0..5 {
        assert_eq!(stage.tools(Some(&one), None).await, ["x", "y"]);
    }
    assert_eq!(began.elapsed(), MAX_WAIT);
    stage.shows(tools(&["y", "late"]));
    assert_eq!(notice(&mut heard).await, Some(Notice::ToolsChanged));
    stage.shows(tools(&["y", "later"]));
    stage.changes(&one);
    assert_eq!(
        stage.tools(Some(&one), None).await,
        ["x", "y", "later"],
        "it answers again, so it is waited for"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_holds_up_no_other() {
    let stage = Stage::new();
    let (one, _heard) = session(1);
    let (announce, announcing) = unbounded_channel();
    let a = (ServerIndex::new(0), ServerName::parse("a").unwrap());
    one.pending_list_changes.note(&a.1, Notice::ToolsChanged);
    tokio::spawn(follow(stage.router.clone(), a, (announcing, CancellationToken::new())));
    *stage.own.lock() = Own::Silent;
    announce.send(one.clone()).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await; // it is being listed, which takes long
    stage.shows(tools(&["y", "unlocked"]));
    for _ in 0..2 {
        stage.changes(&one);
        let began = Instant::now();
        assert_eq!(stage.use_tool(&one, "unlocked").await.unwrap()["server"], "b");
        assert!(began.elapsed() <= MAX_WAIT);
    }
    let began = Instant::now();
    assert_eq!(stage.use_tool(&one, "unknown").await.unwrap_err(), Kind::InvalidParams);
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits twice for the silent one");
}

#[tokio::test(start_paused = true)]
async fn only_the_lists_that_changed_are_the_sessions_own() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(tools(&["y", "unlocked"]));
    stage.changes(&one);
    notice(&mut heard).await;
    let prompts = items("prompts", r#"{"name":"new"}"#);
    stage.router.shared.listed(ServerIndex::new(1), Part { prompts, completes: false, ..part("y") });
    let list = call("me", Some("b"), Method::PromptsList, "{}");
    let list = Call { affinity: Affinity::Session(one.clone()), ..list };
    assert_eq!(answer(&stage.router, list).await.unwrap()["prompts"][0]["name"], "new");
    let catalog = stage.router.shared.catalog_of(&me(), &Affinity::Session(one.clone()));
    assert_eq!((catalog.views.completes[0], catalog.views.completes[1]), (true, false));
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y", "unlocked"]);
}

#[tokio::test(start_paused = true)]
async fn in_a_view_a_name_does_not_move() {
    let stage = Stage::new();
    let ((one, mut heard), (other, _)) = (session(1), session(2));
    stage.shows(tools(&["y", "unlocked"]));
    stage.changes(&one);
    notice(&mut heard).await;
    assert_eq!(stage.use_tool(&one, "unlocked").await.unwrap()["server"], "b");
    stage.router.shared.listed(ServerIndex::new(0), tools(&["x", "unlocked"]));
    assert_eq!(stage.use_tool(&one, "unlocked").await.unwrap()["server"], "b", "as its client knows it");
    assert_eq!(stage.use_tool(&one, "a__unlocked").await.unwrap()["server"], "a");
    assert_eq!(stage.use_tool(&other, "unlocked").await.unwrap()["server"], "a");
}

#[tokio::test(start_paused = true)]
async fn who_follows_a_server_that_is_gone_ends_with_it() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(tools(&["y", "unlocked"]));
    stage.changes(&one);
    let a = stage.router.shared.servers().get(ServerIndex::new(0)).cloned().unwrap();
    let before = Arc::downgrade(&stage.router.shared.servers().get(ServerIndex::new(1)).unwrap().server);
    let (announce, announcing) = unbounded_channel();
    let b = entry("b", Levels::default(), stage.own.clone());
    stage.router.reconfigure(vec![a, b], None);
    stage.gone.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!one.pending_list_changes.any());
    tokio::spawn(follow(
        stage.router.clone(),
        (ServerIndex::new(2), name_of_b()),
        (announcing, CancellationToken::new()),
    ));
    assert!(
        one.pending_list_changes.note(&ServerName::parse("b").unwrap(), Notice::ToolsChanged),
        "the new one is followed"
    );
    announce.send(one.clone()).unwrap();
    assert_eq!(notice(&mut heard).await, Some(Notice::ToolsChanged));
    stage.router.shared.listed(ServerIndex::new(2), part("y"));
    stage.tools(Some(&one), None).await;
    assert!(before.upgrade().is_none(), "nothing holds the one before");
}

#[tokio::test(start_paused = true)]
async fn a_view_of_a_server_that_is_gone_goes_with_it_and_its_client_is_told() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(tools(&["y", "unlocked"]));
    stage.changes(&one);
    notice(&mut heard).await;
    let a = stage.router.shared.servers().get(ServerIndex::new(0)).cloned().unwrap();
    let c = entry("c", Levels::default(), Arc::default());
    stage.router.reconfigure(vec![a.clone(), entry("b", Levels::default(), Arc::default()), c], None);
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y"]);
    assert_eq!(notice(&mut heard).await, Some(Notice::ToolsChanged), "though nothing changed for everybody");
    // A name that was given in the view is anybody's after it.
    stage.router.shared.listed(ServerIndex::new(2), part("y"));
    stage.router.shared.listed(ServerIndex::new(3), part("unlocked"));
    assert_eq!(stage.use_tool(&one, "unlocked").await.unwrap()["server"], "c");
}

#[tokio::test(start_paused = true)]
async fn names_given_in_a_view_are_the_views_no_longer_when_servers_change() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    let shared = &stage.router.shared;
    let relisted = |server: usize, part: Part| {
        let server = ServerIndex::new(server);
        (server, vec![(List::Tools, shared.compare_list(server, List::Tools, part.tools))])
    };
    assert!(shared.change(&one, &shared.overlay(&one), relisted(0, tools(&["x", "kept"]))));
    assert!(shared.change(&one, &shared.overlay(&one), relisted(1, tools(&["y", "unlocked"]))));
    let a = shared.servers().get(ServerIndex::new(0)).cloned().unwrap();
    stage.router.reconfigure(vec![a], None);
    shared.listed(ServerIndex::new(0), tools(&["x", "unlocked"]));
    assert!(notice(&mut heard).await.is_some());
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "kept"], "its own list of what stays");
    assert_eq!(stage.use_tool(&one, "x").await.unwrap()["server"], "a");
}

#[tokio::test(start_paused = true)]
async fn a_view_knows_no_more_of_new_servers_than_everybody() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(tools(&["y", "unlocked"]));
    stage.changes(&one);
    notice(&mut heard).await;
    let [a, b] =
        [0, 1].map(|number| stage.router.shared.servers().get(ServerIndex::new(number)).cloned().unwrap());
    let [slow, fast] = ["s", "f"].map(|name| entry(name, Levels::default(), Arc::default()));
    stage.router.reconfigure(vec![slow, a, b, fast], None);
    stage.router.shared.listed(ServerIndex::new(3), part("search"));
    assert_eq!(stage.tools(Some(&one), None).await, ["x", "y", "unlocked"]);
    stage.router.shared.listed(ServerIndex::new(2), part("search"));
    assert_eq!(stage.use_tool(&one, "search").await.unwrap()["server"], "s", "as for everybody");
}
