//! A policy that changes while calls, sessions and listens go on.

use parking_lot::Mutex;

use super::super::policy::tests::rule;
use super::policy::{Stage, admin, clock_user, vault_user, whole};
use super::*;
use crate::call::UpdateSink;

#[tokio::test]
async fn who_listens_hears_of_what_changes_in_what_is_seen() {
    let stage = Stage::limited();
    let listeners =
        [("root", None), ("ci-7", None), ("ci-8", Some("clock")), ("eve", None), ("stranger", None)];
    let views = listeners.map(|(who, scope)| stage.changes(who, scope));
    let counts = || views.each_ref().map(|view| view.borrow().tools);
    stage.router.shared.listed(ServerIndex::new(0), whole(&["open", "now", "seal", "more"], "vault"));
    assert_eq!(counts(), [1, 0, 0, 0, 0], "eve may not use it");
    stage.router.shared.listed(ServerIndex::new(1), whole(&["now", "tick"], "clock"));
    assert_eq!(counts(), [2, 0, 0, 0, 0], "a tool went that only root could use");
    stage.router.shared.listed(ServerIndex::new(1), whole(&["now"], "clock"));
    assert_eq!(counts(), [3, 1, 1, 0, 0]);
    stage.router.shared.listed(ServerIndex::new(0), whole(&["now"], "vault"));
    assert_eq!(counts(), [4, 1, 1, 1, 0]);
    stage.rules(vec![admin(), rule("ci-7", &["forge"], &["*"]), clock_user(), vault_user()]);
    assert_eq!(counts(), [4, 2, 1, 1, 0], "what is seen is what counts");
    assert_eq!(views.each_ref().map(|view| view.borrow().prompts), [0, 1, 0, 0, 0]);
    stage.router.reconfigure(stage.entries.clone(), None);
    assert_eq!(counts(), [4, 3, 1, 2, 1], "everybody sees everything; clock is as it was");
}

/// Hears whether it was told, and of the end.
#[derive(Default)]
struct Listener(Mutex<(usize, usize)>);

impl UpdateSink for Listener {
    fn updated(&self, _: &Message) {
        self.0.lock().0 += 1;
    }

    fn lost(&self) {
        self.0.lock().1 += 1;
    }
}

/// Keeps the resource_listeners of who subscribes.
#[derive(Default)]
struct Speaker(Mutex<Vec<Arc<dyn UpdateSink>>>, Mutex<Vec<String>>);

impl Dispatch for Speaker {
    fn dispatch(&self, _: Call) -> Reply {
        panic!("it only speaks")
    }
}

impl Server for Speaker {
    fn roots_changed(&self, _: &SessionHandle) {}
    fn tell_level(&self, _: &SessionHandle) {}

    fn revoke(&self, is_denied: &dyn Fn(&str) -> bool) {
        let denied = ["ci-1", "eve"].iter().filter(|principal| is_denied(principal));
        self.1.lock().extend(denied.map(|principal| (*principal).to_owned()));
    }

    fn subscribe(&self, subscriber: Subscriber, uri: String) -> Subscribing {
        self.0.lock().push(subscriber.sink);
        Box::pin(std::future::ready(Ok(Subscription::new(uri, ()))))
    }

    fn list(&self, _: &SessionHandle, _: List) -> crate::call::Listing {
        Box::pin(std::future::ready(None))
    }

    fn tasks(&self, _: &SessionHandle) -> Pin<Box<dyn Future<Output = Vec<Bytes>> + Send>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

#[tokio::test(start_paused = true)]
async fn news_of_a_server_end_when_it_is_denied() {
    let speaker = Arc::new(Speaker::default());
    let name = ServerName::parse("vault").unwrap();
    let entries = vec![Entry { name, prefix: Prefix::Conflict, server: speaker.clone() }];
    let open = rule("*", &["*"], &["*"]);
    let config = Config { policy: Some(vec![open]), ..Config::default() };
    let router = Router::new(config, entries.clone(), Metrics::default(), DrainWatch::default());
    router.shared.listed(ServerIndex::new(0), whole(&["open"], "vault"));
    let listeners = ["ci-1", "eve"].map(|who| (who, Arc::new(Listener::default())));
    for (who, ear) in &listeners {
        let (caller, affinity) = (Caller::new(*who), Affinity::Principal);
        let subscriber = Subscriber { caller, client: Arc::default(), affinity, sink: ear.clone() };
        let uris = ["vault://r", "vault://t/1"].map(str::to_owned).to_vec();
        assert_eq!(router.subscribe(subscriber, None, uris).await.len(), 2);
    }
    let update =
        r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"vault://r"}}"#;
    let update = Message::scan(update.into(), &Limits::default()).unwrap();
    let say = || {
        let resource_listeners = speaker.0.lock().clone();
        assert!(
            Arc::ptr_eq(&resource_listeners[0], &resource_listeners[1]),
            "one ear hears of each message once"
        );
        [&resource_listeners[0], &resource_listeners[2]].into_iter().for_each(|ear| ear.updated(&update));
        listeners.each_ref().map(|(_, ear)| *ear.0.lock())
    };
    assert_eq!(say(), [(1, 0), (1, 0)]);
    router.reconfigure(entries.clone(), Some(&[vault_user()]));
    assert_eq!(say(), [(1, 1), (2, 0)], "and the one that may not use it any more is told so");
    assert_eq!(*speaker.1.lock(), ["ci-1"]);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(*speaker.1.lock(), ["ci-1", "ci-1"], "what was on its way is looked after");
    let again = Subscriber {
        caller: Caller::new("ci-1"),
        client: Arc::default(),
        affinity: Affinity::Principal,
        sink: listeners[0].1.clone(),
    };
    let denied = || router.shared.metrics.policy_denied.get();
    let before = denied();
    let uris = ["vault://r", "nobody://r"].map(str::to_owned).to_vec();
    assert!(router.subscribe(again, None, uris).await.is_empty());
    assert_eq!(denied(), before + 1, "the operator sees what was denied");
}

#[tokio::test]
async fn a_policy_counts_from_the_next_call_on_and_moves_no_name() {
    let stage = Stage::new(None);
    assert_eq!(stage.tool("eve", None, "now").await.as_deref(), Ok("vault now"));
    stage.rules(vec![rule("eve", &["clock"], &["*"])]);
    assert_eq!(stage.tool("eve", None, "now").await.map_err(|e| e.kind), Err(Kind::InvalidParams));
    assert_eq!(stage.tool("eve", None, "clock__now").await.as_deref(), Ok("clock now"));
    assert_eq!(stage.tool("other", None, "cast").await.map_err(|e| e.kind), Err(Kind::InvalidParams));
    stage.router.reconfigure(stage.entries.clone(), None);
    assert_eq!(stage.tool("other", None, "now").await.as_deref(), Ok("vault now"));
}

#[tokio::test]
async fn a_policy_holds_before_names_are_given_out() {
    let entries: Vec<_> =
        ["vault", "clock"].map(|name| entry(name, Levels::default(), Arc::default())).to_vec();
    let router = Router::new(Config::default(), entries.clone(), Metrics::default(), DrainWatch::default());
    let server = |slug| router.server(&Caller::new("eve"), slug).is_some();
    assert!(server("vault") && server("clock"));
    router.reconfigure(entries, Some(&[vault_user()]));
    assert!(server("vault") && !server("clock"));
    router.shared.listed(ServerIndex::new(0), part("open"));
    router.shared.listed(ServerIndex::new(1), part("now"));
    assert!(server("vault") && !server("clock"));
}
