//! Resources whose URI a client spells in another way than the list.

use super::super::policy::tests::rule;
use super::session_overlay::{Stage, notice, session};
use super::*;

const NOTES: &str = "file:///vault/Meeting notes.md";
const AS_SENT: &str = "file:///vault/Meeting%20notes.md";

fn listing(uris: &[&str]) -> Part {
    let list: Vec<_> =
        uris.iter().map(|uri| serde_json::json!({"uri": uri, "name": "r"}).to_string()).collect();
    Part { resources: items("resources", &list.join(",")), completes: true, ..Part::default() }
}

fn about(who: &str, scope: Option<&str>, method: Method, uri: &str) -> Call {
    let params = match method {
        Method::Complete => format!(r#"{{"ref":{{"uri":"{uri}","type":"ref/resource"}},"argument":{{}}}}"#),
        _ => format!(r#"{{"_meta":{{}},"uri":"{uri}"}}"#),
    };
    in_session(7, call(who, scope, method, &params))
}

/// The server that answers, and the URI that it gets.
async fn led(router: &Router, call: Call) -> Result<[String; 2], Kind> {
    let answer = answer(router, call).await?;
    let params = &answer["params"];
    let uri = params.get("uri").unwrap_or(&params["ref"]["uri"]);
    Ok([&answer["server"], uri].map(|text| text.as_str().unwrap().to_owned()))
}

#[tokio::test]
async fn a_resource_is_found_in_every_spelling_and_its_server_gets_its_own() {
    let router = router(&["a", "b"]);
    router.shared.listed(ServerIndex::new(0), part("x"));
    let listed =
        [NOTES, "vault://Notes/My File.md", "https://Example.com", "file:///a/../b.txt", "x://q/\"\\ü"];
    router.shared.listed(ServerIndex::new(1), Part { templates: Vec::new(), ..listing(&listed) });
    let sent = [
        AS_SENT,
        "vault://Notes/My%20File.md",
        "https://example.com/",
        "file:///b.txt",
        "x://q/%22%5C%c3%bc",
    ];
    let methods =
        [Method::ResourcesRead, Method::ResourcesSubscribe, Method::ResourcesUnsubscribe, Method::Complete];
    for method in methods {
        for (sent, listed) in sent.iter().zip(listed) {
            for scope in [None, Some("b")] {
                let led = led(&router, about("me", scope, method, sent)).await;
                assert_eq!(led.unwrap(), ["b", listed], "{method:?} {sent} {scope:?}");
            }
        }
        let own = led(&router, about("me", Some("b"), method, "any://%7e")).await;
        assert_eq!(own.unwrap(), ["b", "any://%7e"], "one server alone gets what it does not list as it is");
        let none = led(&router, about("me", None, method, "file:///vault/Meeting%2520notes.md")).await;
        assert!(none.is_err(), "{method:?}");
    }
}

#[tokio::test]
async fn a_listed_spelling_and_no_ambiguous_one_goes_before_templates() {
    let router = router(&["a", "b", "c"]);
    let templates = items("resourceTemplates", r#"{"uriTemplate":"file:///vault/{name}","name":"t"}"#);
    router.shared.listed(ServerIndex::new(0), Part { templates, ..Part::default() });
    router.shared.listed(ServerIndex::new(1), listing(&[NOTES, "file:///vault/two words"]));
    router.shared.listed(ServerIndex::new(2), listing(&["file:///vault/./two words"]));
    let read = async |uri| led(&router, about("me", None, Method::ResourcesRead, uri)).await.unwrap();
    assert_eq!(read(AS_SENT).await, ["b", NOTES]);
    assert_eq!(read("file:///vault/two words").await, ["b", "file:///vault/two words"]);
    assert_eq!(read("file:///vault/./two words").await, ["c", "file:///vault/./two words"]);
    let third = "file:///vault/two%20words";
    assert_eq!(read(third).await, ["a", third], "two servers list it, so only the template counts");
    let twice = listing(&["file:///vault/./two words", "file:///vault/two words"]);
    router.shared.listed(ServerIndex::new(1), Part::default());
    router.shared.listed(ServerIndex::new(2), twice);
    assert_eq!(read(third).await, ["c", third], "one server lists it twice, and knows which is meant");
}

#[tokio::test]
async fn an_id_in_the_place_of_the_host_is_read_as_it_is() {
    let router = router(&["a"]);
    let templates = items("resourceTemplates", r#"{"uriTemplate":"note://{id}","name":"t"}"#);
    let part = listing(&["note://a", "memo://Foo", "https://Web.example"]);
    router.shared.listed(ServerIndex::new(0), Part { templates, ..part });
    for scope in [None, Some("a")] {
        for (sent, got) in [
            ("note://A", "note://A"),
            ("NOTE://a", "note://a"),
            ("note://a", "note://a"),
            ("memo://Foo", "memo://Foo"),
            ("MEMO://Foo", "memo://Foo"),
            ("https://web.example/", "https://Web.example"),
        ] {
            let led = led(&router, about("me", scope, Method::ResourcesRead, sent)).await;
            assert_eq!(led.unwrap(), ["a", got], "{sent} {scope:?}");
        }
    }
    for other in ["memo://foo", "memo://Foo/"] {
        assert!(led(&router, about("me", None, Method::ResourcesRead, other)).await.is_err(), "{other}");
    }
}

#[tokio::test]
async fn what_is_denied_is_unknown_in_every_spelling() {
    let entries = ["a", "b"].map(|name| entry(name, Levels::default(), Arc::default())).to_vec();
    let policy = Some(vec![rule("ci", &["a"], &["*"]), rule("root", &["*"], &["*"])]);
    let config = Config { policy, ..Config::default() };
    let router = Router::new(config, entries, Metrics::default(), DrainWatch::default());
    router.shared.listed(ServerIndex::new(0), listing(&["file:///vault/./Meeting notes.md"]));
    router.shared.listed(ServerIndex::new(1), listing(&[NOTES, "b://Own/a b"]));
    let read = async |who, uri| led(&router, about(who, None, Method::ResourcesRead, uri)).await;
    let denied = read("ci", "b://Own/a%20b").await.unwrap_err();
    assert_eq!(denied, Kind::UnknownResource("b://Own/a%20b".into()));
    assert_eq!(router.shared.metrics.policy_denied.get(), 1);
    assert_eq!(read("root", "b://Own/a%20b").await.unwrap(), ["b", "b://Own/a b"]);
    assert!(read("root", AS_SENT).await.is_err(), "they see two");
    let seen = read("ci", AS_SENT).await.unwrap();
    assert_eq!(
        seen,
        ["a", "file:///vault/./Meeting notes.md"],
        "what is denied is no second spelling either"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_reads_what_its_own_connection_lists_in_every_spelling() {
    let stage = Stage::new();
    let (one, mut heard) = session(1);
    stage.shows(listing(&[NOTES]));
    stage.changes_list(&one, Notice::ResourcesChanged);
    assert_eq!(notice(&mut heard).await, Some(Notice::ResourcesChanged));
    let read = async |affinity| {
        let call = about("me", None, Method::ResourcesRead, AS_SENT);
        led(&stage.router, Call { affinity, ..call }).await
    };
    assert_eq!(read(Affinity::Session(one)).await.unwrap(), ["b", NOTES]);
    assert!(read(Affinity::Principal).await.is_err(), "nobody else sees it");
}

/// Records what it is subscribed to.
struct Recorder(Echo, Arc<Mutex<Vec<String>>>);

impl Dispatch for Recorder {
    fn dispatch(&self, call: Call) -> Reply {
        self.0.dispatch(call)
    }
}

impl Server for Recorder {
    fn roots_changed(&self, _: &SessionHandle) {}

    fn revoke(&self, _: &dyn Fn(&str) -> bool) {}

    fn tell_level(&self, _: &SessionHandle) {}

    fn subscribe(&self, subscriber: Subscriber, uri: String) -> Subscribing {
        self.1.lock().push(uri.clone());
        self.0.subscribe(subscriber, uri)
    }

    fn list(&self, session: &SessionHandle, list: List) -> crate::call::Listing {
        self.0.list(session, list)
    }

    fn tasks(&self, session: &SessionHandle) -> Pin<Box<dyn Future<Output = Vec<Bytes>> + Send>> {
        self.0.tasks(session)
    }
}

#[tokio::test]
async fn a_listen_is_acknowledged_in_the_clients_spelling_and_kept_in_the_servers() {
    let subscribed = Arc::<Mutex<Vec<String>>>::default();
    let server = Arc::new(Recorder(Echo("a", Levels::default(), Arc::default()), subscribed.clone()));
    let entry = Entry { name: ServerName::parse("a").unwrap(), prefix: Prefix::Conflict, server };
    let router = Router::new(Config::default(), vec![entry], Metrics::default(), DrainWatch::default());
    router.shared.listed(ServerIndex::new(0), listing(&[NOTES]));
    for scope in [None, ServerName::parse("a")] {
        let subscriber = Subscriber {
            caller: me(),
            client: Arc::default(),
            affinity: Affinity::Principal,
            sink: Arc::new(Deaf),
        };
        let uris = vec![AS_SENT.to_owned(), NOTES.to_owned()];
        let accepted = router.subscribe(subscriber, scope, uris).await;
        let named: Vec<_> = accepted.iter().map(Subscription::uri).collect();
        assert_eq!(named, [AS_SENT, NOTES]);
        assert_eq!(std::mem::take(&mut *subscribed.lock()), [NOTES, NOTES]);
    }
}
