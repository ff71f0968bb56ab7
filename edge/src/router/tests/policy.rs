//! What principals see who may not use everything: what is denied is to them as if it were not there.

use super::super::policy::Rule;
use super::super::policy::tests::rule;
use super::session_overlay::notice;
use super::*;
use std::collections::BTreeSet;
use tokio::sync::watch::Receiver;

/// `clock` and `vault`, which offer one name in common, and `forge`; the policy is of whoever asks.
pub(super) struct Stage {
    pub(super) router: Router,
    pub(super) entries: Vec<Entry>,
    told: Levels,
}

pub(super) fn clock_user() -> Rule {
    rule("ci-*", &["clock", "f*"], &["*", "!reset", "!forge__melt"])
}

pub(super) fn vault_user() -> Rule {
    rule("eve", &["vault"], &["open"])
}

pub(super) fn admin() -> Rule {
    rule("root", &["*"], &["*"])
}

pub(super) fn whole(tools: &[&str], server: &str) -> Part {
    let tools: Vec<_> = tools
        .iter()
        .map(|name| {
            let header = r#""properties":{"p":{"type":"string","x-mcp-header":"P"}}"#;
            format!(r#"{{"name":"{name}","inputSchema":{{"type":"object",{header}}}}}"#)
        })
        .collect();
    let template = format!(r#"{{"uriTemplate":"{server}://t/{{id}}","name":"t"}}"#);
    let resource = format!(r#"{{"uri":"{server}://r","name":"r"}},{{"uri":"both://r","name":"b"}}"#);
    Part {
        tools: items("tools", &tools.join(",")),
        prompts: items("prompts", &format!(r#"{{"name":"{server}_hello"}},{{"name":"greet"}}"#)),
        resources: items("resources", &resource),
        templates: items("resourceTemplates", &template),
        instructions: Some(format!("about {server}")),
        completes: true,
        ..Part::default()
    }
}

impl Stage {
    pub(super) fn new(rules: Option<Vec<Rule>>) -> Self {
        let told = Levels::default();
        let entries: Vec<_> =
            ["vault", "clock", "forge"].map(|name| entry(name, told.clone(), Arc::default())).to_vec();
        let config = Config { policy: rules, view_bytes: VIEW_BYTES, ..Config::default() };
        let router = Router::new(config, entries.clone(), Metrics::default(), DrainWatch::default());
        router.shared.listed(ServerIndex::new(0), whole(&["open", "now", "seal"], "vault"));
        router.shared.listed(ServerIndex::new(1), whole(&["now", "tick", "reset"], "clock"));
        router.shared.listed(ServerIndex::new(2), whole(&["melt", "cast"], "forge"));
        Self { router, entries, told }
    }

    pub(super) fn limited() -> Self {
        Self::new(Some(vec![admin(), clock_user(), vault_user()]))
    }

    pub(super) fn rules(&self, rules: Vec<Rule>) {
        self.router.reconfigure(self.entries.clone(), Some(&rules));
    }

    async fn ask(
        &self,
        who: &str,
        scope: Option<&str>,
        (method, params): (Method, &str),
    ) -> Result<serde_json::Value, Error> {
        match self.router.dispatch(call(who, scope, method, params)).outcome().await {
            Outcome::Result(parts) => Ok(serde_json::from_slice(&parts.into_bytes()).unwrap()),
            Outcome::Failed(error) => Err(error),
            Outcome::Refused(_) | Outcome::InputRequired(_) => panic!("the fake only answers"),
        }
    }

    async fn list(&self, who: &str, scope: Option<&str>, list: List) -> Vec<String> {
        let listed = self.ask(who, scope, (list.method(), "{}")).await.unwrap();
        let key = match list {
            List::Tools | List::Prompts => "name",
            List::Resources => "uri",
            List::Templates => "uriTemplate",
        };
        let items = listed[list.key()].as_array().unwrap();
        items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
    }

    /// The server that a tool leads to.
    pub(super) async fn tool(&self, who: &str, scope: Option<&str>, name: &str) -> Result<String, Error> {
        let params = format!(r#"{{"name":"{name}"}}"#);
        let answer = self.ask(who, scope, (Method::ToolsCall, &params)).await?;
        Ok(format!("{} {}", answer["server"].as_str().unwrap(), answer["params"]["name"].as_str().unwrap()))
    }

    fn denied(&self) -> u64 {
        self.router.shared.metrics.policy_denied.get()
    }

    pub(super) fn changes(&self, who: &str, scope: Option<&str>) -> Receiver<ListChanges> {
        self.router.changes(&Caller::new(who), scope.and_then(ServerName::parse).as_ref())
    }
}

/// The same error, but for the name in it.
fn same(denied: Result<String, Error>, name: &str, unknown: Result<String, Error>, other: &str) {
    let (mut denied, unknown) = (denied.unwrap_err(), unknown.unwrap_err());
    denied.message = denied.message.replace(name, other);
    assert_eq!(denied, unknown, "{name}");
}

#[tokio::test]
async fn lists_show_what_may_be_used() {
    let stage = Stage::limited();
    let all = ["open", "now", "seal", "clock__now", "tick", "reset", "melt", "cast"];
    assert_eq!(stage.list("root", None, List::Tools).await, all);
    assert_eq!(stage.list("ci-7", None, List::Tools).await, ["clock__now", "tick", "cast"]);
    assert_eq!(stage.list("ci-7", Some("clock"), List::Tools).await, ["now", "tick"]);
    assert_eq!(stage.list("eve", None, List::Tools).await, ["open"]);
    assert_eq!(
        stage.list("ci-7", None, List::Prompts).await,
        ["clock_hello", "clock__greet", "forge_hello", "forge__greet"]
    );
    assert_eq!(stage.list("ci-7", None, List::Resources).await, ["clock://r", "both://r", "forge://r"]);
    assert_eq!(stage.list("ci-7", None, List::Templates).await, ["clock://t/{id}", "forge://t/{id}"]);
    for list in List::ALL {
        assert!(stage.list("stranger", None, list).await.is_empty(), "{list:?}");
    }
    let instructions = |who: &str| stage.router.instructions(&Caller::new(who), None);
    assert_eq!(instructions("eve").unwrap(), "## vault\nabout vault");
    assert!(instructions("stranger").is_none() && instructions("root").unwrap().contains("forge"));
}

#[tokio::test]
async fn a_tool_that_is_denied_is_unknown_by_every_name() {
    let stage = Stage::limited();
    for (who, scope, name, server) in [
        ("root", None, "now", "vault now"),
        ("ci-7", None, "clock__now", "clock now"),
        ("ci-7", Some("clock"), "now", "clock now"),
        ("ci-7", None, "clock__tick", "clock tick"),
        ("eve", None, "vault__open", "vault open"),
        ("eve", Some("vault"), "open", "vault open"),
    ] {
        assert_eq!(stage.tool(who, scope, name).await.as_deref(), Ok(server), "{who} {name}");
    }
    assert_eq!(stage.denied(), 0);
    let mut denied = 0;
    for (who, scope, name) in [
        ("ci-7", None, "now"), // vault's, which keeps it
        ("ci-7", None, "vault__now"),
        ("ci-7", None, "reset"),
        ("ci-7", None, "clock__reset"),
        ("ci-7", Some("clock"), "reset"),
        ("ci-7", None, "melt"),
        ("ci-7", None, "forge__melt"),
        ("ci-7", Some("forge"), "melt"),
        ("eve", None, "seal"),
        ("eve", Some("vault"), "seal"),
        ("stranger", None, "open"),
        // As no list shows it, the server alone knows what it means by it.
        ("ci-7", Some("clock"), "RESET"),
    ] {
        let (found, unknown) = (stage.tool(who, scope, name).await, stage.tool(who, scope, "zzz").await);
        same(found, name, unknown, "zzz");
        denied += 1 + u64::from(scope.is_some()); // whether it has `zzz`, the server alone knows
        assert_eq!(stage.denied(), denied, "{who} {name}");
    }
    assert_eq!(stage.tool("root", Some("clock"), "unlisted").await.as_deref(), Ok("clock unlisted"));
}

#[tokio::test]
async fn a_server_that_is_denied_is_unknown_at_its_path() {
    let stage = Stage::limited();
    let server = |who: &str, slug: &str| stage.router.server(&Caller::new(who), slug).is_some();
    assert!(server("root", "vault") && server("ci-7", "clock") && server("eve", "vault"));
    assert_eq!(stage.denied(), 0);
    assert!(!server("ci-7", "vault") && !server("eve", "clock") && !server("stranger", "clock"));
    assert_eq!(stage.denied(), 3);
    assert!(!server("root", "zzz") && !server("eve", "zzz"));
    assert_eq!(stage.denied(), 3);
    // A call on its way while the policy changed.
    let (found, unknown) =
        (stage.tool("ci-7", Some("vault"), "open").await, stage.tool("ci-7", Some("zzz"), "open").await);
    same(found, "vault", unknown, "zzz");
    assert!(stage.router.mirrored(&Caller::new("eve"), None, "open").is_some());
    for (who, scope, tool) in
        [("eve", None, "seal"), ("ci-7", Some("vault"), "open"), ("ci-7", Some("clock"), "reset")]
    {
        let scope = scope.and_then(ServerName::parse);
        assert!(stage.router.mirrored(&Caller::new(who), scope.as_ref(), tool).is_none(), "{tool}");
    }
}

#[tokio::test]
async fn prompts_resources_and_completions_go_with_their_server() {
    let stage = Stage::limited();
    let get = async |who: &str, name: &str| {
        let params = format!(r#"{{"name":"{name}"}}"#);
        stage.ask(who, None, (Method::PromptsGet, &params)).await.map(|got| got["server"].to_string())
    };
    assert_eq!(get("ci-7", "clock__greet").await.unwrap(), "\"clock\"");
    for name in ["greet", "vault__greet", "vault_hello"] {
        same(get("ci-7", name).await, name, get("ci-7", "zzz").await, "zzz");
    }
    let read = async |who: &str, method, uri: &str| {
        let params = format!(r#"{{"uri":"{uri}"}}"#);
        stage.ask(who, None, (method, &params)).await.map(|got| got["server"].to_string())
    };
    for method in [Method::ResourcesRead, Method::ResourcesSubscribe, Method::ResourcesUnsubscribe] {
        assert_eq!(read("ci-7", method, "clock://t/1").await.unwrap(), "\"clock\"");
        assert_eq!(read("ci-7", method, "both://r").await.unwrap(), "\"clock\"", "the first that is seen");
        assert_eq!(read("root", method, "both://r").await.unwrap(), "\"vault\"");
        for uri in ["vault://r", "vault://t/1"] {
            let unknown = Kind::UnknownResource(uri.into());
            assert_eq!(read("ci-7", method, uri).await.unwrap_err().kind, unknown);
        }
    }
    let complete = async |who: &str, reference: &str| {
        let params = format!(r#"{{"ref":{reference},"argument":{{"name":"n","value":""}}}}"#);
        stage.ask(who, None, (Method::Complete, &params)).await.map(|got| got["server"].to_string())
    };
    let template = |server: &str| format!(r#"{{"type":"ref/resource","uri":"{server}://t/{{id}}"}}"#);
    assert_eq!(complete("ci-7", &template("clock")).await.unwrap(), "\"clock\"");
    same(
        complete("ci-7", &template("vault")).await,
        "vault",
        complete("ci-7", &template("zzz")).await,
        "zzz",
    );
    let prompt = |name: &str| format!(r#"{{"type":"ref/prompt","name":"{name}"}}"#);
    same(complete("ci-7", &prompt("greet")).await, "greet", complete("ci-7", &prompt("zzz")).await, "zzz");
    assert_eq!(stage.denied(), 3 + 6 + 2);
}

#[tokio::test]
async fn what_a_denied_server_calls_its_tools_takes_no_name_away() {
    let stage = Stage::new(Some(vec![rule("ci", &["clock"], &["*"])]));
    stage.router.shared.listed(ServerIndex::new(0), whole(&["clock__now", "now"], "vault"));
    assert_eq!(stage.list("ci", None, List::Tools).await, ["clock__now", "tick", "reset"]);
    assert_eq!(stage.tool("ci", None, "clock__now").await.as_deref(), Ok("clock now"));
    for denied in ["now", "vault__now", "vault__clock__now"] {
        assert_eq!(stage.tool("ci", None, denied).await.map_err(|e| e.kind), Err(Kind::InvalidParams));
    }
    stage.router.shared.listed(ServerIndex::new(2), whole(&["clock__tick"], "forge"));
    assert_eq!(stage.tool("ci", None, "clock__tick").await.as_deref(), Ok("clock tick"));
}

#[tokio::test]
async fn a_uri_that_was_shown_is_no_way_to_a_server_that_is_denied_by_now() {
    let stage = Stage::limited();
    let read = async |who| {
        let read = (Method::ResourcesRead, r#"{"uri":"hidden://1"}"#);
        stage
            .ask(who, None, read)
            .await
            .map(|answer| answer["server"].to_string())
            .map_err(|error| error.kind)
    };
    stage.tool("eve", None, "open").await.unwrap();
    assert_eq!(read("eve").await.unwrap(), "\"vault\"");
    stage.rules(vec![rule("eve", &["clock"], &["*"])]);
    assert_eq!(read("eve").await, Err(Kind::UnknownResource("hidden://1".into())));
}

#[tokio::test]
async fn what_is_wished_of_all_servers_reaches_those_that_may_be_used() {
    let stage = Stage::limited();
    let level = call("ci-7", None, Method::SetLevel, r#"{"level":"debug"}"#);
    let level = in_session(7, level);
    let Affinity::Session(session) = level.affinity.clone() else { panic!("a session") };
    answer(&stage.router, level).await.unwrap();
    assert_eq!(stage.told.lock().len(), 2, "clock and forge");
    stage.router.roots_changed(&session);
    assert_eq!(stage.told.lock().len(), 4);

    let tasks = in_session(7, call("ci-7", None, Method::TasksList, "{}"));
    let tasks = answer(&stage.router, tasks).await.unwrap();
    assert_eq!(tasks["tasks"], serde_json::json!([{"taskId": "clock.7"}, {"taskId": "forge.7"}]));
    let task = async |method, id: &str| {
        let params = format!(r#"{{"taskId":"{id}"}}"#);
        match stage.router.dispatch(in_session(7, call("ci-7", None, method, &params))).outcome().await {
            Outcome::Failed(error) => Err(error),
            _ => Ok(String::new()),
        }
    };
    for method in [Method::TasksGet, Method::TasksResult, Method::TasksCancel, Method::TasksUpdate] {
        assert!(task(method, "clock.s.1").await.is_ok());
        same(task(method, "vault.s.1").await, "vault", task(method, "zzz.s.1").await, "zzz");
    }
    assert_eq!(stage.denied(), 4);
}

#[tokio::test]
async fn an_unknown_name_says_nothing_of_servers_that_are_denied() {
    let entries: Vec<_> =
        ["vault", "clock"].map(|name| entry(name, Levels::default(), Arc::default())).to_vec();
    let config = Config { policy: Some(vec![rule("ci", &["clock"], &["*"])]), ..Config::default() };
    let router = Router::new(config, entries, Metrics::default(), DrainWatch::default());
    let dead = || Error::new(Kind::Unreachable, Blame::Upstream, "nobody there");
    router.shared.failed(ServerIndex::new(0), dead());
    router.shared.failed(ServerIndex::new(1), dead());
    let unknown = call("ci", None, Method::ToolsCall, r#"{"name":"zzz"}"#);
    let Outcome::Failed(error) = router.dispatch(unknown).outcome().await else { panic!("it is nobody's") };
    assert!(error.message.ends_with("(servers not listed yet: clock)"), "{}", error.message);
    router.shared.listed(ServerIndex::new(1), part("now"));
    let fresh = |who: &str| {
        let list = router.dispatch(call(who, None, Method::ToolsList, "{}"));
        async { list.outcome().await }
    };
    let Outcome::Result(list) = fresh("ci").await else { panic!("a list") };
    let list: serde_json::Value = serde_json::from_slice(&list.into_bytes()).unwrap();
    assert_eq!(list["ttlMs"], 30_000, "nothing that is seen is missing");
}

#[tokio::test]
async fn lists_are_made_once_for_all_who_see_the_same_and_only_for_those_who_look() {
    let stage = Stage::new(Some(vec![clock_user(), vault_user(), rule("t*", &["vault"], &["open"])]));
    let seen = |who: &str| stage.router.shared.catalog_for(&Caller::new(who));
    assert!(Arc::ptr_eq(&seen("ci-1"), &seen("ci-2")) && Arc::ptr_eq(&seen("eve"), &seen("tom")));
    assert!(Arc::ptr_eq(&seen("x"), &seen("y")) && !Arc::ptr_eq(&seen("ci-1"), &seen("eve")));
    let open = Stage::new(None);
    let catalog = open.router.catalog();
    assert!(Arc::ptr_eq(&open.router.shared.catalog_for(&me()), &catalog));
}

#[tokio::test]
async fn those_who_follow_are_forgotten_when_they_leave() {
    let stage = Stage::limited();
    let kept = stage.changes("ci-1", None);
    for n in 0..1000 {
        drop(stage.changes(&format!("ci-{n}"), None));
    }
    assert!(stage.router.shared.list_watchers.followed_by() < 200);
    stage.router.shared.listed(ServerIndex::new(1), whole(&["now"], "clock"));
    assert_eq!((stage.router.shared.list_watchers.followed_by(), kept.borrow().tools), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_sees_of_its_own_lists_what_it_may() {
    let stage = Stage::limited();
    let ((one, mut heard), (other, mut never_listed)) = (session_of("ci-1", 1), session_of("root", 2));
    let shared = &stage.router.shared;
    let look = |server: usize, tools: &[&str]| {
        let tools = whole(tools, "x").tools;
        let server = ServerIndex::new(server);
        (server, vec![(List::Tools, shared.compare_list(server, List::Tools, tools))])
    };
    let see = async |session: &SessionHandle| {
        let list = call(session.caller.principal(), None, Method::ToolsList, "{}");
        let list = Call { affinity: Affinity::Session(session.clone()), ..list };
        let list = answer(&stage.router, list).await.unwrap();
        let names = list["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap());
        names.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (limited, open) = (shared.overlay(&one), shared.overlay(&other));
    // Of a server that it may not use, and of a tool that it may not use.
    assert!(!shared.change(&one, &limited, look(0, &["open", "unlocked"])));
    assert!(!shared.change(&one, &limited, look(1, &["now", "tick", "reset"])));
    assert!(shared.change(&other, &open, look(0, &["open", "unlocked"])));
    assert_eq!(notice(&mut never_listed).await, Some(Notice::ToolsChanged));
    assert_eq!(notice(&mut heard).await, None);
    assert!(see(&other).await.contains("unlocked"));
    assert_eq!(see(&one).await, ["cast", "clock__now", "tick"].map(str::to_owned).into());
    // What it may use of what it alone is shown.
    assert!(shared.change(&one, &limited, look(1, &["now", "reset", "chime", "forge__melt"])));
    assert_eq!(notice(&mut heard).await, Some(Notice::ToolsChanged));
    assert_eq!(see(&one).await, ["cast", "chime", "clock__now"].map(str::to_owned).into());
    let use_it = async |name: &str| {
        let params = format!(r#"{{"name":"{name}"}}"#);
        let used = call("ci-1", None, Method::ToolsCall, &params);
        answer(&stage.router, Call { affinity: Affinity::Session(one.clone()), ..used }).await
    };
    assert_eq!(use_it("chime").await.unwrap()["server"], "clock");
    assert_eq!(use_it("reset").await.unwrap_err(), Kind::InvalidParams);
    assert_eq!(use_it("unlocked").await.unwrap_err(), Kind::InvalidParams);
    // A changed policy counts for it as well.
    stage.rules(vec![rule("ci-1", &["clock"], &["*", "!chime"]), admin()]);
    assert_eq!(see(&one).await, ["clock__forge__melt", "clock__now", "reset"].map(str::to_owned).into());
}

pub(super) fn session_of(principal: &str, number: u64) -> (SessionHandle, Reply) {
    let (key, heard) = session_overlay::session(number);
    (SessionHandle { caller: Caller::new(principal), ..key }, heard)
}
