//! Servers that come, go and change while the process runs.

use super::*;

struct Stage {
    router: Router,
    entries: Vec<Entry>,
}

impl Stage {
    /// A router over `a` and `b`, and a `c` that may come.
    fn new() -> Self {
        let entries: Vec<_> =
            ["a", "b", "c"].map(|name| entry(name, Levels::default(), Arc::default())).to_vec();
        let drain = DrainWatch::default();
        let router = Router::new(Config::default(), entries[..2].to_vec(), Metrics::default(), drain);
        router.shared.listed(ServerIndex::new(0), part("x"));
        router.shared.listed(ServerIndex::new(1), part("y"));
        Self { router, entries }
    }

    fn serve(&self, servers: &[&Entry]) {
        self.router.reconfigure(servers.iter().copied().cloned().collect(), None);
    }

    async fn tools(&self) -> Vec<String> {
        let list = answer(&self.router, call("me", None, Method::ToolsList, "{}")).await.unwrap();
        let names = list["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    async fn use_tool(&self, name: &str) -> Result<serde_json::Value, Kind> {
        let params = format!(r#"{{"name":"{name}"}}"#);
        answer(&self.router, call("me", None, Method::ToolsCall, &params)).await
    }
}

fn scope(name: &str) -> Option<ServerName> {
    ServerName::parse(name)
}

#[tokio::test]
async fn what_stays_goes_on_and_what_comes_is_listed() {
    let stage = Stage::new();
    let [a, b, c] = &stage.entries[..] else { panic!("three") };
    let mut all = stage.router.changes(&me(), None);
    let mut of_a = stage.router.changes(&me(), scope("a").as_ref());
    let of_b = stage.router.changes(&me(), scope("b").as_ref());
    stage.serve(&[b, c]);
    assert_eq!(stage.tools().await, ["y"]);
    assert!(stage.router.server(&me(), "a").is_none() && stage.router.server(&me(), "c").is_some());
    assert_eq!(stage.use_tool("x").await.unwrap_err(), Kind::InvalidParams);
    assert!(all.has_changed().unwrap() && of_a.has_changed().unwrap(), "clients list again");
    all.mark_unchanged();
    of_a.mark_unchanged();
    assert!(!of_b.has_changed().unwrap());
    stage.router.shared.listed(ServerIndex::new(2), part("z"));
    assert_eq!(stage.tools().await, ["y", "z"]);
    assert_eq!(stage.use_tool("z").await.unwrap()["server"], "c");
    stage.router.shared.listed(ServerIndex::new(0), part("late"));
    assert_eq!(stage.tools().await, ["y", "z"], "what was asked before it went");
    stage.serve(&[b, c, a]);
    assert_eq!(stage.tools().await, ["y", "z"], "one that comes back is asked first");
    assert_eq!(stage.router.complaints(&a.name), Complaints::default());
}

#[tokio::test]
async fn names_are_given_out_anew() {
    let stage = Stage::new();
    let [a, b, _] = &stage.entries[..] else { panic!("three") };
    stage.router.shared.listed(ServerIndex::new(1), part("x"));
    assert_eq!(stage.use_tool("x").await.unwrap()["server"], "a");
    stage.serve(&[b, a]);
    assert_eq!(stage.use_tool("x").await.unwrap()["server"], "b");
    assert_eq!(stage.use_tool("a__x").await.unwrap()["server"], "a");
    let always = Entry { prefix: Prefix::Always, ..b.clone() };
    stage.serve(&[&always, a]);
    assert_eq!(stage.tools().await, ["b__x", "x"]);
}

#[tokio::test]
async fn a_server_that_is_another_one_shows_what_was_there_until_it_is_listed() {
    let stage = Stage::new();
    let [a, _, _] = &stage.entries[..] else { panic!("three") };
    let other = entry("b", Levels::default(), Arc::default());
    let of_b = stage.router.changes(&me(), scope("b").as_ref());
    answer(&stage.router, call("me", None, Method::ToolsCall, r#"{"name":"y"}"#)).await.unwrap();
    stage.serve(&[a, &other]);
    assert_eq!(stage.tools().await, ["x", "y"]);
    assert!(!of_b.has_changed().unwrap());
    let read = call("me", None, Method::ResourcesRead, r#"{"uri":"hidden://1"}"#);
    let gone = Kind::UnknownResource("hidden://1".into());
    assert_eq!(answer(&stage.router, read).await.unwrap_err(), gone, "the one that showed it is gone");
    stage.router.shared.listed(ServerIndex::new(2), part("new"));
    assert_eq!(stage.tools().await, ["x", "new"]);
    assert!(of_b.has_changed().unwrap(), "who follows the name follows the new one");
}

#[tokio::test]
async fn the_same_again_changes_nothing() {
    let stage = Stage::new();
    let [a, b, _] = &stage.entries[..] else { panic!("three") };
    stage.router.shared.listed(ServerIndex::new(1), part("x"));
    stage.router.shared.listed(ServerIndex::new(0), part("away for a moment"));
    stage.serve(&[a, b]);
    assert_eq!(stage.use_tool("x").await.unwrap_err(), Kind::InvalidParams, "it is still a's");
    stage.router.shared.listed(ServerIndex::new(0), part("x"));
    assert_eq!(stage.use_tool("x").await.unwrap()["server"], "a");
}

#[tokio::test(start_paused = true)]
async fn names_are_given_out_when_new_servers_have_answered_or_the_time_is_up() {
    let stage = Stage::new();
    let [a, b, c] = &stage.entries[..] else { panic!("three") };
    stage.serve(&[c, a, b]);
    assert_eq!(stage.tools().await, ["x", "y"]);
    stage.router.shared.listed(ServerIndex::new(2), part("x"));
    assert_eq!(stage.tools().await, ["x", "a__x", "y"], "c is first, also as a new one");
    assert_eq!(stage.use_tool("x").await.unwrap()["server"], "c");
    let (silent, late) =
        (entry("s", Levels::default(), Arc::default()), entry("l", Levels::default(), Arc::default()));
    stage.serve(&[&silent, &late, a]);
    stage.router.shared.listed(ServerIndex::new(4), part("late"));
    assert_eq!(stage.tools().await, ["x"], "c and b are gone, and the others are waited for");
    assert_eq!(stage.use_tool("x").await.unwrap()["server"], "a");
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(stage.tools().await, ["late", "x"]);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_earlier_change_is_not_that_of_a_later_one() {
    let stage = Stage::new();
    let [a, b, c] = &stage.entries[..] else { panic!("three") };
    stage.serve(&[c, a, b]);
    stage.router.shared.listed(ServerIndex::new(2), part("z"));
    tokio::time::sleep(Duration::from_secs(14)).await;
    let slow = entry("s", Levels::default(), Arc::default());
    stage.serve(&[&slow, a, b]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.router.shared.listed(ServerIndex::new(3), part("x"));
    assert_eq!(stage.use_tool("x").await.unwrap()["server"], "s", "it was waited for");
}

#[tokio::test]
async fn what_a_server_of_that_name_said_is_not_said_by_the_next() {
    let stage = Stage::new();
    let [_, b, _] = &stage.entries[..] else { panic!("three") };
    stage.router.shared.listed(ServerIndex::new(1), part("x"));
    let other = entry("a", Levels::default(), Arc::default());
    stage.serve(&[&other, b]);
    assert_eq!(stage.router.complaints(&other.name), Complaints::default(), "it has said nothing yet");
    assert_eq!(stage.tools().await, ["x", "b__x"]);
    stage.router.shared.listed(ServerIndex::new(2), part("other"));
    assert_eq!(stage.tools().await, ["other", "x"], "as after a start");
    let dead = entry("a", Levels::default(), Arc::default());
    stage.serve(&[&dead, b]);
    stage
        .router
        .shared
        .failed(ServerIndex::new(3), Error::new(Kind::Unreachable, Blame::Upstream, "nobody there"));
    assert_eq!(stage.tools().await, ["x"]);
    let complaints = stage.router.complaints(&dead.name);
    assert!(!complaints.listed && complaints.all.concat().contains("nobody there"));
}

#[tokio::test]
async fn nothing_is_kept_of_servers_that_are_gone() {
    let stage = Stage::new();
    for number in 2..50 {
        let a = entry("a", Levels::default(), Arc::default());
        stage.serve(&[&a]);
        stage.router.shared.listed(ServerIndex::new(number), part("x"));
    }
    let held = stage.router.shared.state.lock().parts();
    assert_eq!(held.iter().filter(|(_, part)| part.is_some()).count(), 1);
    let catalog = stage.router.catalog();
    assert!(Arc::ptr_eq(&catalog.views.alone[0], &catalog.views.alone[10]), "one empty view for all of them");
}

#[tokio::test]
async fn when_the_last_that_is_waited_for_goes_names_are_given_out() {
    let entries: Vec<_> = ["a", "b"].map(|name| entry(name, Levels::default(), Arc::default())).to_vec();
    let drain = DrainWatch::default();
    let router = Router::new(Config::default(), entries.clone(), Metrics::default(), drain);
    router.shared.listed(ServerIndex::new(0), part("x"));
    router.reconfigure(entries[..1].to_vec(), None);
    assert!(*router.settled().borrow());
}

#[tokio::test]
async fn a_change_before_names_are_given_out_waits_for_the_new_servers() {
    let entries: Vec<_> = ["a", "b"].map(|name| entry(name, Levels::default(), Arc::default())).to_vec();
    let drain = DrainWatch::default();
    let router = Router::new(Config::default(), entries[..1].to_vec(), Metrics::default(), drain);
    router.reconfigure(entries, None);
    router.shared.listed(ServerIndex::new(0), part("x"));
    assert!(!*router.settled().borrow());
    router.shared.listed(ServerIndex::new(1), part("y"));
    assert!(*router.settled().borrow());
}
