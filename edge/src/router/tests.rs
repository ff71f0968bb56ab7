mod policy;
mod policy_view;
mod reconfigure;
mod repolicy;
mod session_overlay;
mod spellings;

use super::names::Prefix;
use super::part::Part;
use super::template::TEMPLATES;
use super::*;
use crate::call::{Affinity, Caller, Cancel, Client, List, Outcome, Server, Subscribing, Subscription};
use crate::ops::drain::Drain;
use crate::permit::Permits;
use bytes::Bytes;
use parking_lot::Mutex;
use wire::Message;
use wire::mcp::level::Level;
use wire::mcp::list::{Item, ListPage};
use wire::mcp::method::{Method, Notice};
use wire::mcp::version::ProtocolVersion;

/// A server that answers every call with its own name and the bytes that would reach it.
struct Echo(&'static str, Levels, Arc<Mutex<Own>>);

/// What a session's own connection to every server lists.
#[derive(Default)]
enum Own {
    /// There is none.
    #[default]
    Closed,
    Lists(Box<Part>),
    /// It lists all but one.
    Refuses(Box<Part>, List),
    /// It is busy.
    Silent,
}

/// Who wished what level.
type Levels = Arc<Mutex<Vec<(u64, Option<Level>)>>>;

impl Dispatch for Echo {
    fn dispatch(&self, call: Call) -> Reply {
        let mut splice = wire::splice::Splice::new(call.request.bytes().clone());
        if let Some(rename) = call.rename {
            splice.replace(rename.span, rename.token);
        }
        let request: serde_json::Value = serde_json::from_slice(&splice.finish().into_bytes()).unwrap();
        let link = r#"{"type":"resource_link","uri":"hidden://1","name":"h"}"#;
        let result =
            format!(r#"{{"server":"{}","params":{},"content":[{link}]}}"#, self.0, request["params"]);
        Reply::ready(Outcome::Result(Bytes::from(result).into()))
    }
}

impl Server for Echo {
    fn roots_changed(&self, session: &SessionHandle) {
        self.1.lock().push((session.number, None));
    }

    fn revoke(&self, _: &dyn Fn(&str) -> bool) {}

    fn tell_level(&self, session: &SessionHandle) {
        let mut levels = self.1.lock();
        levels.push((session.number, session.settings.now().level));
    }

    fn subscribe(&self, _: Subscriber, uri: String) -> Subscribing {
        if self.0 == "slow" {
            return Box::pin(std::future::pending());
        }
        Box::pin(std::future::ready(Ok(Subscription::new(uri, ()))))
    }

    fn list(&self, _: &SessionHandle, list: List) -> crate::call::Listing {
        match &*self.2.lock() {
            Own::Closed => Box::pin(std::future::ready(None)),
            Own::Refuses(_, refused) if *refused == list => {
                let error = Error::new(Kind::Protocol, Blame::Upstream, "refused");
                Box::pin(std::future::ready(Some(Err(error))))
            }
            Own::Lists(part) | Own::Refuses(part, _) => {
                let items = std::mem::take(Part::clone(part).items_mut(list));
                Box::pin(std::future::ready(Some(Ok(items))))
            }
            Own::Silent => Box::pin(async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Some(Err(Error::new(Kind::Timeout, Blame::Upstream, "busy")))
            }),
        }
    }

    fn tasks(&self, session: &SessionHandle) -> Pin<Box<dyn Future<Output = Vec<Bytes>> + Send>> {
        let task = format!(r#"{{"taskId":"{}.{}"}}"#, self.0, session.number);
        Box::pin(std::future::ready(vec![task.into()]))
    }
}

fn me() -> Caller {
    Caller::new("me")
}

fn router(names: &[&'static str]) -> Router {
    router_and_levels(names).0
}

fn router_and_levels(names: &[&'static str]) -> (Router, Levels) {
    let levels = Levels::default();
    (router_with(names, levels.clone(), Arc::default()), levels)
}

/// A room that can be filled in a moment.
const VIEW_BYTES: usize = 1 << 20;

fn router_with(names: &[&'static str], levels: Levels, own: Arc<Mutex<Own>>) -> Router {
    let entries = names.iter().map(|name| entry(name, levels.clone(), own.clone()));
    let drain = DrainWatch::default();
    let config = Config { view_bytes: VIEW_BYTES, ..Config::default() };
    Router::new(config, entries.collect(), Metrics::default(), drain)
}

fn entry(name: &'static str, levels: Levels, own: Arc<Mutex<Own>>) -> Entry {
    let server = Arc::new(Echo(name, levels, own));
    Entry { name: ServerName::parse(name).unwrap(), prefix: Prefix::Conflict, server }
}

fn items(list_key: &str, items: &str) -> Vec<Item> {
    let page = format!(r#"{{"{list_key}":[{items}]}}"#);
    ListPage::scan(&page.into(), list_key, &Limits::default()).unwrap().items
}

fn part(tool: &str) -> Part {
    Part {
        tools: items("tools", &format!(r#"{{"name":"{tool}","inputSchema":{{"type":"object"}}}}"#)),
        prompts: items("prompts", r#"{"name":"greet"}"#),
        templates: items("resourceTemplates", r#"{"uriTemplate":"t://{id}","name":"t"}"#),
        completes: true,
        ..Part::default()
    }
}

fn call(principal: &str, scope: Option<&str>, method: Method, params: &str) -> Call {
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}","params":{params}}}"#, method.as_str());
    let caller = Caller::new(principal);
    let permit = Permits::default().call(caller.principal()).unwrap();
    Call {
        caller,
        client: Arc::new(Client::default()),
        affinity: Affinity::Principal,
        scope: scope.map(|scope| ServerName::parse(scope).unwrap()),
        method,
        request: Message::scan(text.into(), &Limits::default()).unwrap(),
        pin: None,
        rename: None,
        permit,
    }
}

async fn answer(router: &Router, call: Call) -> Result<serde_json::Value, Kind> {
    match router.dispatch(call).outcome().await {
        Outcome::Result(parts) => Ok(serde_json::from_slice(&parts.into_bytes()).unwrap()),
        Outcome::Failed(error) => Err(error.kind),
        Outcome::Refused(_) | Outcome::InputRequired(_) => panic!("the fake only answers"),
    }
}

#[tokio::test]
async fn calls_go_to_the_server_that_has_the_name() {
    let router = router(&["a", "b"]);
    router.shared.listed(ServerIndex::new(0), part("x"));
    router.shared.listed(ServerIndex::new(1), part("x"));
    let tool = async |scope, name: &str| {
        let params = format!(r#"{{"name":"{name}","arguments":{{"q":1}}}}"#);
        answer(&router, call("me", scope, Method::ToolsCall, &params)).await
    };
    assert_eq!(tool(None, "x").await.unwrap()["server"], "a");
    let renamed = tool(None, "b__x").await.unwrap();
    assert_eq!((&renamed["server"], &renamed["params"]["name"]), (&"b".into(), &"x".into()));
    assert_eq!(renamed["params"]["arguments"]["q"], 1);
    assert_eq!(tool(Some("b"), "x").await.unwrap()["server"], "b");
    assert_eq!(tool(Some("b"), "unlisted").await.unwrap()["server"], "b");
    assert_eq!(tool(None, "unlisted").await.unwrap_err(), Kind::InvalidParams);
    let nameless = answer(&router, call("me", None, Method::ToolsCall, "{}")).await;
    assert_eq!(nameless.unwrap_err(), Kind::InvalidParams);
    let other = answer(&router, call("me", None, Method::TasksList, "{}")).await;
    assert_eq!(other.unwrap_err(), Kind::UnknownMethod);
}

#[tokio::test]
async fn completions_go_by_what_they_complete() {
    let router = router(&["a", "b"]);
    router.shared.listed(ServerIndex::new(0), Part { completes: false, ..part("x") });
    router.shared.listed(
        ServerIndex::new(1),
        Part {
            templates: items("resourceTemplates", r#"{"uriTemplate":"u://{id}","name":"u"}"#),
            ..part("y")
        },
    );
    let complete = async |reference: &str| {
        let params = format!(r#"{{"ref":{reference},"argument":{{"name":"n","value":""}}}}"#);
        answer(&router, call("me", None, Method::Complete, &params)).await
    };
    let prompt = complete(r#"{"type":"ref/prompt","name":"b__greet"}"#).await.unwrap();
    assert_eq!((&prompt["server"], &prompt["params"]["ref"]["name"]), (&"b".into(), &"greet".into()));
    assert_eq!(complete(r#"{"type":"ref/resource","uri":"u://{id}"}"#).await.unwrap()["server"], "b");
    let none = complete(r#"{"type":"ref/prompt","name":"greet"}"#).await.unwrap();
    assert_eq!(none["completion"]["values"], serde_json::json!([]), "a completes nothing, and is not asked");
    for wrong in [
        "{}",
        r#"{"name":"b__greet"}"#,
        r#"{"type":"ref/tool","name":"b__greet"}"#,
        r#"{"type":"ref/prompt","uri":"u://{id}"}"#,
        r#"{"type":"ref/resource","uri":"v://{id}"}"#,
    ] {
        assert_eq!(complete(wrong).await.unwrap_err(), Kind::InvalidParams, "{wrong}");
    }
}

#[tokio::test]
async fn a_uri_that_a_result_showed_is_read_where_it_came_from() {
    let router = router(&["a", "b"]);
    router.shared.listed(ServerIndex::new(0), part("x"));
    router.shared.listed(ServerIndex::new(1), part("y"));
    let read = async |who: &str, uri: &str| {
        answer(&router, call(who, None, Method::ResourcesRead, &format!(r#"{{"uri":"{uri}"}}"#))).await
    };
    assert_eq!(read("me", "t://1").await.unwrap()["server"], "a");
    let unknown = read("me", "hidden://1").await.unwrap_err();
    assert_eq!(unknown, Kind::UnknownResource("hidden://1".into()));
    answer(&router, call("me", None, Method::ToolsCall, r#"{"name":"y"}"#)).await.unwrap();
    assert_eq!(read("me", "hidden://1").await.unwrap()["server"], "b");
    assert!(read("you", "hidden://1").await.is_err(), "it was not shown to them");
}

#[tokio::test]
async fn a_call_that_waited_for_names_is_detached_at_its_connection() {
    struct Nobody;
    impl Cancel for Nobody {
        fn cancel(&self, _: u64) {}
        fn park(&self, _: u64) {}
        fn resume(&self, _: u64, _: Option<Level>) {}
        fn detach(&self, _: u64) {}
    }
    let ((to, early), (connection, from)) = (reply(), reply());
    tokio::spawn(forward(from, to));
    tokio::task::yield_now().await;
    assert!(!early.is_under_way());
    connection.on_cancel(Arc::new(Nobody), 1);
    assert!(early.is_under_way());
    early.detach();
    assert!(connection.is_detached());
    drop(early);
    tokio::task::yield_now().await;
    assert!(connection.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_names_and_no_longer_than_allowed() {
    let router = router(&["a", "b"]);
    let early = router.dispatch(call("me", None, Method::ToolsList, "{}"));
    router.shared.listed(ServerIndex::new(0), part("x"));
    assert!(!*router.settled().borrow() && !early.is_ready());
    router.shared.failed(ServerIndex::new(1), Error::busy(Blame::Upstream, RETRY_AFTER, "later"));
    assert!(*router.settled().borrow());
    assert!(matches!(early.outcome().await, Outcome::Result(_)));
    let unknown = call("me", None, Method::ToolsCall, r#"{"name":"of-b"}"#);
    let Outcome::Failed(error) = router.dispatch(unknown).outcome().await else { panic!("it is nobody's") };
    assert!(error.message.ends_with("(servers not listed yet: b)"), "{}", error.message);
    router.shared.listed(ServerIndex::new(1), part("y"));
    let unknown = call("me", None, Method::ToolsCall, r#"{"name":"of-c"}"#);
    let Outcome::Failed(error) = router.dispatch(unknown).outcome().await else { panic!("it is nobody's") };
    assert!(!error.message.contains("not heard"), "{}", error.message);

    let never = tests::router(&["a"]);
    let refused = answer(&never, call("me", None, Method::ToolsList, "{}")).await;
    assert_eq!(refused.unwrap_err(), Kind::Busy);
    assert_eq!(
        never.settling().await.unwrap_err().kind,
        Kind::Busy,
        "who asks for names alone is told the same"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_names_that_a_process_which_leaves_does_not_give_out() {
    let drain = Drain::new();
    let start = tokio::time::Instant::now();
    let entries = vec![entry("a", Levels::default(), Arc::default())];
    let router = Router::new(Config::default(), entries, Metrics::default(), drain.watch());
    refresh::settle(&router);
    let waiting = router.dispatch(call("me", None, Method::ToolsList, "{}"));
    let names = router.settling();
    let ladder = tokio::spawn(drain.run(Duration::from_secs(5), Duration::from_secs(20)));
    assert_eq!(names.await.unwrap_err().kind, Kind::Draining);
    let Outcome::Failed(error) = waiting.outcome().await else { panic!("there are no names") };
    assert_eq!((error.kind, start.elapsed()), (Kind::Draining, Duration::ZERO));
    ladder.abort();
}

#[tokio::test]
async fn clients_hear_of_a_change_only_if_what_they_read_differs() {
    let router = router(&["a", "b"]);
    let mut changes = router.changes(&me(), None);
    router.shared.listed(ServerIndex::new(0), part("x"));
    router.shared.listed(ServerIndex::new(1), part("y"));
    assert!(!changes.has_changed().unwrap(), "the first lists are no change");
    router.shared.listed(ServerIndex::new(0), part("x"));
    let why = Error::busy(Blame::Upstream, RETRY_AFTER, "later");
    router.shared.failed(ServerIndex::new(1), why);
    assert!(!changes.has_changed().unwrap());
    router.shared.listed(ServerIndex::new(0), part("z"));
    assert_eq!(*changes.borrow_and_update(), ListChanges { tools: 1, prompts: 0, resources: 0 });
    let list = answer(&router, call("me", None, Method::ToolsList, "{}")).await.unwrap();
    assert_eq!(list["tools"].as_array().unwrap().len(), 2, "the server that failed keeps its last word");
}

#[tokio::test]
async fn a_cursor_nobody_gave_out_is_refused() {
    let router = router(&["a"]);
    router.shared.listed(ServerIndex::new(0), part("x"));
    let list = async |params| answer(&router, call("me", None, Method::ToolsList, params)).await;
    assert_eq!(list(r#"{"cursor":"2"}"#).await.unwrap_err(), Kind::InvalidParams);
    for none in [r#"{"cursor":null}"#, r#"{"cursor":""}"#] {
        assert!(list(none).await.is_ok());
    }
}

#[tokio::test]
async fn each_view_changes_with_what_it_shows() {
    let router = router(&["a", "b"]);
    let views = [None, Some("a"), Some("b")]
        .map(|scope| router.changes(&me(), scope.and_then(|slug| router.server(&me(), slug)).as_ref()));
    router.shared.listed(ServerIndex::new(0), part("x"));
    router.shared.listed(ServerIndex::new(1), part("y"));
    let counts = || views.each_ref().map(|view| view.borrow().tools);
    assert_eq!(counts(), [0, 0, 0]);
    router.shared.listed(ServerIndex::new(1), part("z"));
    assert_eq!(counts(), [1, 0, 1]);
    // A name that is hidden from all is seen by its server's own clients.
    router.shared.listed(ServerIndex::new(1), Part { tools: Vec::new(), ..part("") });
    assert_eq!(counts(), [2, 0, 2]);
}

struct Deaf;

impl crate::call::UpdateSink for Deaf {
    fn updated(&self, _: &Message) {}
}

#[tokio::test(start_paused = true)]
async fn subscribers_hear_from_the_servers_that_have_the_resources() {
    let router = router(&["a", "b", "slow"]);
    let subscribe = |scope: Option<&str>, uris: &[&str]| {
        let subscriber = Subscriber {
            caller: me(),
            client: Arc::default(),
            affinity: Affinity::Principal,
            sink: Arc::new(Deaf),
        };
        let uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
        router.subscribe(subscriber, scope.and_then(|slug| router.server(&me(), slug)), uris)
    };
    let early = subscribe(None, &["t://1"]);
    router.shared.listed(ServerIndex::new(0), part("x"));
    router.shared.listed(ServerIndex::new(1), part("y"));
    router.shared.listed(
        ServerIndex::new(2),
        Part { resources: items("resources", r#"{"uri":"slow://1","name":"s"}"#), ..Part::default() },
    );
    let uris = async |accepted: Accepted| -> Vec<String> {
        accepted.await.iter().map(|subscription| subscription.uri().to_owned()).collect()
    };
    assert_eq!(uris(early).await, ["t://1"]);
    let began = tokio::time::Instant::now();
    let some = uris(subscribe(None, &["slow://1", "none://1", "t://1", "a:refused"])).await;
    assert_eq!((some, began.elapsed().as_secs()), (vec!["t://1".to_owned()], 5), "who is slow is left out");
    assert_eq!(uris(subscribe(Some("b"), &["any://1"])).await, ["any://1"], "one server alone knows best");
    answer(&router, call("me", None, Method::ToolsCall, r#"{"name":"y"}"#)).await.unwrap();
    assert_eq!(uris(subscribe(None, &["hidden://1"])).await, ["hidden://1"]);
    assert!(uris(subscribe(None, &[])).await.is_empty());
}

fn in_session(number: u64, call: Call) -> Call {
    let (unsolicited, _) = reply();
    let ended = tokio_util::sync::CancellationToken::new();
    let key = SessionHandle {
        number,
        caller: call.caller.clone(),
        version: ProtocolVersion::V2025_11_25,
        ended,
        unsolicited: Arc::new(unsolicited),
        settings: Arc::default(),
        pending_list_changes: Arc::default(),
    };
    Call { affinity: Affinity::Session(key), ..call }
}

#[tokio::test]
async fn a_level_is_the_sessions_on_every_server() {
    let (router, levels) = router_and_levels(&["a", "b"]);
    router.shared.listed(ServerIndex::new(0), part("x"));
    router.shared.listed(ServerIndex::new(1), part("y"));
    let level = |scope, level: &str| {
        let params = format!(r#"{{"level":{level}}}"#);
        in_session(7, call("me", scope, Method::SetLevel, &params))
    };
    assert!(answer(&router, level(None, r#""warning""#)).await.is_ok());
    assert!(answer(&router, level(Some("b"), r#""debug""#)).await.is_ok());
    let heard = [Level::Warning, Level::Warning, Level::Debug].map(|level| (7, Some(level)));
    assert_eq!(*levels.lock(), heard);
    for odd in [r#""loud""#, "1", "null"] {
        assert_eq!(answer(&router, level(None, odd)).await.unwrap_err(), Kind::InvalidParams);
    }
    let bare = answer(&router, call("me", None, Method::SetLevel, r#"{"level":"info"}"#)).await;
    assert_eq!(bare.unwrap_err(), Kind::UnknownMethod);
}

#[tokio::test]
async fn subscriptions_go_where_reading_goes_and_tasks_where_their_ids_lead() {
    let router = router(&["a", "b"]);
    router.shared.listed(ServerIndex::new(0), part("x"));
    router.shared.listed(ServerIndex::new(1), part("y"));
    let ask = async |scope, method, params: &str| {
        answer(&router, in_session(7, call("me", scope, method, params))).await
    };
    for method in [Method::ResourcesSubscribe, Method::ResourcesUnsubscribe] {
        assert_eq!(ask(None, method, r#"{"uri":"t://1"}"#).await.unwrap()["server"], "a");
        let unknown = ask(None, method, r#"{"uri":"none://1"}"#).await.unwrap_err();
        assert_eq!(unknown, Kind::UnknownResource("none://1".into()));
    }
    for method in [Method::TasksGet, Method::TasksResult, Method::TasksCancel] {
        assert_eq!(ask(None, method, r#"{"taskId":"b.0.1"}"#).await.unwrap()["server"], "b");
        for (scope, id) in [(Some("a"), "b.0.1"), (None, "c.0.1"), (None, "1"), (None, "")] {
            let unknown = ask(scope, method, &format!(r#"{{"taskId":"{id}"}}"#)).await;
            assert_eq!(unknown.unwrap_err(), Kind::InvalidParams, "{id}");
        }
    }
    let all = ask(None, Method::TasksList, "{}").await.unwrap();
    assert_eq!(all["tasks"], serde_json::json!([{"taskId": "a.7"}, {"taskId": "b.7"}]));
    let one = ask(Some("b"), Method::TasksList, "{}").await.unwrap();
    assert_eq!(one["tasks"], serde_json::json!([{"taskId": "b.7"}]));
    let cursor = ask(None, Method::TasksList, r#"{"cursor":"1"}"#).await;
    assert_eq!(cursor.unwrap_err(), Kind::InvalidParams);
}

#[tokio::test]
async fn a_call_that_goes_on_goes_to_its_server_and_no_other() {
    let router = router(&["a", "b"]);
    router.shared.listed(ServerIndex::new(0), part("x"));
    router.shared.listed(ServerIndex::new(1), part("x"));
    let pinned = |tool: &str, server: &str| {
        let params = format!(r#"{{"name":"{tool}"}}"#);
        let pin = ServerName::parse(server);
        let call = Call { pin, ..call("p", None, Method::ToolsCall, &params) };
        let router = router.clone();
        async move { answer(&router, call).await }
    };
    assert_eq!(pinned("x", "a").await.unwrap()["server"], "a");
    assert_eq!(pinned("b__x", "b").await.unwrap()["server"], "b");
    assert_eq!(pinned("x", "b").await.unwrap_err(), Kind::InvalidParams);
}

#[test]
fn more_templates_than_uris_are_held_against_are_counted_and_said() {
    let router = router(&["a"]);
    let many: Vec<_> = (0..TEMPLATES + 2).map(|n| format!(r#"{{"uriTemplate":"t://{n}/{{id}}"}}"#)).collect();
    router.shared.listed(
        ServerIndex::new(0),
        Part { templates: items("resourceTemplates", &many.join(",")), ..part("x") },
    );
    assert_eq!(router.shared.metrics.templates_unmatched.get(), 2);
    let said = router.complaints(&ServerName::parse("a").unwrap()).all.concat();
    assert!(said.contains("2 templates too many"), "{said}");
    router.shared.listed(ServerIndex::new(0), part("x"));
    assert_eq!(router.shared.metrics.templates_unmatched.get(), 0);
    assert_eq!(router.complaints(&ServerName::parse("a").unwrap()).all, Vec::<String>::new());
}

#[test]
fn a_server_that_declares_no_list_is_complained_of() {
    let router = router(&["a"]);
    let complaints = || router.complaints(&ServerName::parse("a").unwrap()).all;
    router.shared.listed(ServerIndex::new(0), Part { lists_nothing: true, ..Part::default() });
    assert_eq!(complaints(), [refresh::LISTS_NOTHING]);
    router.shared.listed(ServerIndex::new(0), Part::default());
    assert_eq!(complaints(), Vec::<String>::new(), "one that declares tools may have none");
}
