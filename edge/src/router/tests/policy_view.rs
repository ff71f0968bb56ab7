//! What the lists of those cost who may not use everything.

use super::super::policy::tests::rule;
use super::policy::{Stage, admin, clock_user, session_of, whole};
use super::*;

#[tokio::test]
async fn a_listing_that_brings_nothing_new_has_nothing_made_anew() {
    let stage = Stage::limited();
    let (before, follower) = (stage.router.catalog(), stage.changes("ci-7", None));
    stage.router.shared.listed(ServerIndex::new(1), whole(&["now", "tick", "reset"], "clock"));
    assert!(Arc::ptr_eq(&before, &stage.router.catalog()) && !follower.has_changed().unwrap());
    stage.router.shared.listed(ServerIndex::new(1), whole(&["now", "tick"], "clock"));
    assert!(!Arc::ptr_eq(&before, &stage.router.catalog()));
    let mut again = whole(&["now", "tick"], "clock");
    again.unread.push((List::Prompts, Error::new(Kind::Timeout, Blame::Upstream, "late")));
    let before = stage.router.catalog();
    stage.router.shared.listed(ServerIndex::new(1), again);
    assert!(!Arc::ptr_eq(&before, &stage.router.catalog()), "how fresh it is differs");
}

#[tokio::test]
async fn what_a_grant_sees_as_everybody_does_is_there_once() {
    let rules = vec![rule("ci", &["*"], &["*", "!melt"]), rule("eve", &["*"], &["*", "!cast"]), admin()];
    let stage = Stage::new(Some(rules));
    let all = stage.router.catalog();
    let seen = stage.router.shared.catalog_for(&Caller::new("ci"));
    let other = stage.router.shared.catalog_for(&Caller::new("eve"));
    let is_shared = |n: usize| Arc::ptr_eq(&seen.views.alone[n], &all.views.alone[n]);
    assert_eq!([0, 1, 2].map(is_shared), [true, true, false], "of `forge` it sees less");
    let at = |catalog: &Catalog, list| catalog.views.all.list(list).bytes().as_ptr();
    for list in [List::Prompts, List::Resources, List::Templates] {
        assert_eq!(at(&seen, list), at(&all, list));
    }
    assert_ne!(at(&seen, List::Tools), at(&all, List::Tools));
    assert_ne!(at(&seen, List::Tools), at(&other, List::Tools));
    assert_eq!(all.access.grants_made(), 2);
}

#[tokio::test]
async fn a_grant_without_room_for_its_lists_may_use_nothing() {
    let rules = vec![admin(), clock_user(), rule("eve", &["vault"], &["*"])];
    let entries: Vec<_> =
        ["vault", "clock"].map(|name| entry(name, Levels::default(), Arc::default())).to_vec();
    let router = |policy_bytes| {
        let config = Config { policy: Some(rules.clone()), policy_bytes, ..Config::default() };
        let router = Router::new(config, entries.clone(), Metrics::default(), DrainWatch::default());
        router.shared.listed(ServerIndex::new(0), whole(&["open"], "vault"));
        router.shared.listed(ServerIndex::new(1), whole(&["now"], "clock"));
        router
    };
    let measured = router(usize::MAX);
    measured.shared.catalog_for(&Caller::new("ci-7"));
    // Enough for the first that looks.
    let router = router(measured.catalog().access.bytes() * 3 / 2);
    let lists = |who: &str| {
        let seen = router.shared.catalog_for(&Caller::new(who));
        List::ALL.map(|list| seen.views.all.list(list).bytes().len() > 90)
    };
    assert_eq!((lists("root"), lists("ci-7")), ([true; 4], [true; 4]));
    assert_eq!(router.shared.metrics.policy_lists_refused.get(), 0);
    let eve = Caller::new("eve");
    assert_eq!(lists("eve"), [false; 4]);
    assert!(router.server(&eve, "vault").is_none() && router.server(&Caller::new("root"), "vault").is_some());
    for (scope, tool) in [(None, "open"), (Some("vault"), "open"), (None, "vault__open")] {
        let asked = call("eve", scope, Method::ToolsCall, &format!(r#"{{"name":"{tool}"}}"#));
        assert_eq!(answer(&router, asked).await.unwrap_err(), Kind::InvalidParams);
    }
    assert_eq!(router.shared.metrics.policy_lists_refused.get(), 1, "once for all that come of it");
    // The next lists may find room.
    router.shared.listed(ServerIndex::new(0), whole(&["seal"], "vault"));
    assert_eq!((lists("eve"), lists("ci-7")), ([true; 4], [false; 4]));
}

#[tokio::test]
async fn many_who_follow_are_told_in_turns() {
    let stage = Stage::new(Some(vec![rule("p*", &["*"], &["*", "!melt"])]));
    let mut followers: Vec<_> = (0..40).map(|n| stage.changes(&format!("p{n}"), None)).collect();
    stage.router.shared.listed(ServerIndex::new(1), whole(&["now"], "clock"));
    let told = followers.iter().filter(|follower| follower.borrow().tools == 1).count();
    assert_eq!(told, 8, "the serving thread has other things to do as well");
    for follower in &mut followers {
        assert_eq!(follower.wait_for(|changes| changes.tools > 0).await.unwrap().tools, 1);
    }
}

#[tokio::test]
async fn what_is_listed_while_a_change_is_told_is_put_in_place_at_once_after_it() {
    let stage = Stage::limited();
    let (before, mut follower) = (stage.router.catalog(), stage.changes("ci-7", None));
    let guard = stage.router.shared.notify_guard();
    for tools in [&["now"], &["tick"], &["reset"]] {
        stage.router.shared.listed(ServerIndex::new(1), whole(tools, "clock"));
    }
    assert!(Arc::ptr_eq(&before, &stage.router.catalog()));
    drop(guard);
    assert!(!Arc::ptr_eq(&before, &stage.router.catalog()));
    assert_eq!(follower.wait_for(|changes| changes.tools > 0).await.unwrap().tools, 1, "once for all three");
}

#[tokio::test]
async fn lists_that_two_grants_see_alike_count_once() {
    let rules = [("ci", "!melt"), ("eve", "!mel?"), ("pat", "!cast")];
    let stage = Stage::new(Some(rules.map(|(who, denied)| rule(who, &["*"], &["*", denied])).to_vec()));
    let [first, second, third] = rules.map(|(who, _)| {
        let before = stage.router.catalog().access.bytes();
        stage.router.shared.catalog_for(&Caller::new(who));
        stage.router.catalog().access.bytes() - before
    });
    assert_eq!(first, third);
    assert!(second < first, "the tables of names are its own, the list is not: {first} {second}");
}

#[tokio::test]
async fn sessions_of_two_grants_share_their_views_within_each() {
    let stage =
        Stage::new(Some(vec![rule("a-*", &["clock"], &["*"]), rule("b-*", &["clock", "f*"], &["*"])]));
    let shared = &stage.router.shared;
    let mut held = Vec::new();
    let mut heard = Vec::new();
    for n in 0..10 {
        for (who, number) in [("a-1", 2 * n), ("b-1", 2 * n + 1)] {
            let (session, hears) = session_of(who, number);
            let lists = whole(&["now", "tick", "reset", "unlocked"], "clock").tools;
            let lists = vec![(List::Tools, shared.compare_list(ServerIndex::new(1), List::Tools, lists))];
            assert!(shared.change(&session, &shared.overlay(&session), (ServerIndex::new(1), lists)));
            heard.push((session, hears));
        }
        held.push(shared.overlays.bytes());
    }
    assert_eq!(held[0], held[9], "{held:?}");
}
