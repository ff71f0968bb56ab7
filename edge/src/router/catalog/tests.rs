use proptest::prelude::*;
use proptest::{array, collection, option};

use super::*;

fn items(key: &str, list: &[&str]) -> Vec<Item> {
    let limits = Limits::default();
    let (list_key, with) = match key {
        "name" => ("tools", r#","inputSchema":{"type":"object"}"#),
        "uri" => ("resources", ""),
        _ => ("resourceTemplates", ""),
    };
    let items: Vec<_> = list.iter().map(|value| format!(r#"{{"{key}":"{value}"{with}}}"#)).collect();
    let page = format!(r#"{{"{list_key}":[{}]}}"#, items.join(","));
    wire::mcp::list::ListPage::scan(&page.into(), list_key, &limits).unwrap().items
}

fn part(tools: &[&str], resources: &[&str], templates: &[&str]) -> Part {
    Part {
        tools: items("name", tools),
        resources: items("uri", resources),
        templates: items("uriTemplate", templates),
        ..Part::default()
    }
}

fn server(index: usize) -> ServerIndex {
    ServerIndex::new(index)
}

fn options(tools: Option<&[&str]>) -> CatalogOptions {
    let tools = tools.map(|tools| tools.iter().map(|&tool| tool.to_owned()).collect());
    CatalogOptions { tools, fresh_ms: 30_000, limits: Limits::default(), policy_bytes: 0 }
}

fn build(parts: &[(&str, Option<&Part>)], options: &CatalogOptions) -> Views {
    let names: Vec<_> = parts.iter().map(|(name, _)| ServerName::parse(name).unwrap()).collect();
    let members: Vec<_> = names
        .iter()
        .zip(parts)
        .enumerate()
        .map(|(index, (name, (_, part)))| {
            let index = ServerIndex::new(index);
            Member { index, name, prefix: Prefix::Conflict, part: *part }
        })
        .collect();
    Views::build(&members, &mut GivenNames::default(), options, BuildScope::default())
}

fn owner(view: &View, uri: &str) -> Option<ServerIndex> {
    view.resource(uri).map(|located| located.server)
}

fn shown(view: &View, list: List, member: &str, key: &str) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_slice(&view.list(list).bytes()).unwrap();
    list[member].as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

#[test]
fn contested_tools_are_renamed_for_all_and_not_for_one_alone() {
    let (a, b) = (part(&["x", "y"], &[], &[]), part(&["y"], &[], &[]));
    let views = build(&[("a", Some(&a)), ("b", Some(&b))], &options(None));
    assert_eq!(shown(&views.all, List::Tools, "tools", "name"), ["x", "y", "b__y"]);
    assert_eq!(shown(&views.alone[1], List::Tools, "tools", "name"), ["y"]);
    assert_eq!(views.contested_names, 1);

    let renamed = views.all.tool("b__y").unwrap();
    assert_eq!((renamed.server, renamed.rename.as_deref()), (server(1), Some(&b"\"y\""[..])));
    let bare = views.all.tool("y").unwrap();
    assert_eq!((bare.server, bare.rename.as_deref()), (server(0), None));
    let alias = views.all.tool("a__y").unwrap();
    assert_eq!(
        (alias.server, alias.rename.as_deref()),
        (server(0), Some(&b"\"y\""[..])),
        "the prefixed name always leads there"
    );
    assert!(views.all.tool("c__y").is_none());
}

proptest! {
    /// Whatever servers call their tools, in whatever order they come.
    #[test]
    fn a_prefixed_name_leads_to_its_servers_own_tool_and_each_tool_is_listed_once(
        rounds in collection::vec(
            array::uniform3(option::of(collection::vec("((a|b|c)__){0,3}[xy_]{0,2}", 0..7))), 1..4
        ),
        always in array::uniform3(any::<bool>()),
    ) {
        let names = ["a", "b", "c"].map(|name| ServerName::parse(name).unwrap());
        let mut given = GivenNames::default();
        for round in rounds {
            let parts = round.map(|tools| {
                tools.map(|tools| part(&tools.iter().map(String::as_str).collect::<Vec<_>>(), &[], &[]))
            });
            let members: Vec<_> = (0..3)
                .map(|number| {
                    let prefix = if always[number] { Prefix::Always } else { Prefix::Conflict };
                    Member { index: ServerIndex::new(number), name: &names[number], prefix, part: parts[number].as_ref() }
                })
                .collect();
            let views = Views::build(&members, &mut given, &options(None), BuildScope::default());
            let mut tools = HashSet::new();
            for (number, part) in parts.iter().enumerate() {
                for tool in part.iter().flat_map(|part| &part.tools) {
                    let route = views.all.tool(&names::prefixed(&names[number], &tool.key)).unwrap();
                    prop_assert_eq!(route.server, server(number));
                    prop_assert_eq!(&route.rename, &Some(render::string_token(&tool.key)));
                    tools.insert((server(number), render::string_token(&tool.key)));
                }
            }
            let listed = shown(&views.all, List::Tools, "tools", "name");
            let leads = |name: &String| {
                let route = views.all.tool(name).unwrap();
                (route.server, route.rename.clone().unwrap_or_else(|| render::string_token(name)))
            };
            prop_assert_eq!(listed.len(), tools.len());
            prop_assert_eq!(listed.iter().map(leads).collect::<HashSet<_>>(), tools);
        }
    }
}

#[test]
fn lists_of_missing_servers_are_asked_for_again_at_once() {
    let a = part(&["x"], &[], &[]);
    let whole = build(&[("a", Some(&a))], &options(None));
    let lacking = build(&[("a", Some(&a)), ("b", None)], &options(None));
    let ttl = |views: &Views| {
        let list: serde_json::Value = serde_json::from_slice(&views.all.list(List::Tools).bytes()).unwrap();
        (list["ttlMs"].as_u64().unwrap(), list["cacheScope"].as_str().unwrap().to_owned())
    };
    assert_eq!(ttl(&whole), (30_000, "private".to_owned()));
    assert_eq!(ttl(&lacking).0, 0);
    assert!(whole.all.list(List::Tools).same_items(lacking.all.list(List::Tools)));
}

#[test]
fn the_first_server_owns_a_doubled_uri() {
    let (a, b) = (part(&[], &["x://1"], &[]), part(&[], &["x://1", "x://2"], &["y://{id}"]));
    let views = build(&[("a", Some(&a)), ("b", Some(&b))], &options(None));
    assert_eq!(shown(&views.all, List::Resources, "resources", "uri"), ["x://1", "x://2"]);
    assert_eq!(
        views.contested_uris,
        [ContestedUri { uri: "x://1".to_owned(), owner: server(0), other: server(1) }]
    );
    assert_eq!(owner(&views.all, "x://1"), Some(server(0)));
    assert_eq!(owner(&views.all, "x://2"), Some(server(1)));
    assert_eq!(owner(&views.all, "y://7"), Some(server(1)));
    assert_eq!(owner(&views.all, "z://7"), None);
    assert_eq!(views.all.template("y://{id}"), Some(server(1)));
    assert_eq!(owner(&views.alone[1], "x://1"), Some(server(1)));
}

#[test]
fn spellings_of_one_uri_are_contested_between_servers_only() {
    let (a, b) = (part(&[], &["x://1/%7e", "x://1/./b c"], &[]), part(&[], &["x://1/~", "x://1/d e"], &[]));
    let own = part(&[], &["x://2/%7e", "x://2/~"], &[]);
    let views = build(&[("a", Some(&a)), ("b", Some(&b)), ("c", Some(&own))], &options(None));
    let contested: Vec<_> = views.all.resources.contested_forms().collect();
    assert_eq!(contested, [(&"x://1/~".to_owned(), [server(1), server(0)])]);
    assert_eq!(owner(&views.all, "x://1/%7E"), None);
    assert_eq!(owner(&views.all, "x://2/%7E"), Some(server(2)));
    assert_eq!(owner(&views.alone[1], "x://1/%7E"), Some(server(1)));
}

#[test]
fn only_the_tools_an_operator_names_are_shown() {
    let (a, b) = (part(&["x", "y"], &[], &[]), part(&["y", "z"], &[], &[]));
    let views = build(&[("a", Some(&a)), ("b", Some(&b))], &options(Some(&["x", "b__y"])));
    assert_eq!(shown(&views.all, List::Tools, "tools", "name"), ["x", "y"]);
    assert_eq!(views.all.tool("y").unwrap().server, server(1));
    assert!(views.all.tool("z").is_none());
}

#[test]
fn tools_that_would_break_clients_are_repaired_or_left_out() {
    let page = br#"{"tools":[
        {"name":"none"},
        {"name":"bad","inputSchema":{"type":"object","properties":{"n":{"type":"number","x-mcp-header":"N","maximum":1.10,"b":1,"a":[]}}}},
        {"name":"good","inputSchema":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}}}]}"#;
    let page = Bytes::from_static(page);
    let tools = wire::mcp::list::ListPage::scan(&page, "tools", &Limits::default()).unwrap().items;
    let own = Part { tools, ..Part::default() };
    let views = build(&[("a", Some(&own))], &options(None));
    assert_eq!(shown(&views.all, List::Tools, "tools", "name"), ["bad", "good"]);
    assert!(views.all.tool("bad").unwrap().mirrored.is_empty());
    assert_eq!(views.all.tool("good").unwrap().mirrored.len(), 1);
    let bytes = views.all.list(List::Tools).bytes();
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(text.matches("x-mcp-header").count(), 1);
    assert!(
        text.contains(r#"{"n":{"type":"number","maximum":1.10,"b":1,"a":[]}}"#),
        "all else stays: {text}"
    );
}

#[test]
fn instructions_are_joined_under_their_servers_names_within_a_bound() {
    let a = Part { instructions: Some("be kind".into()), ..Part::default() };
    let b = Part { instructions: Some("é".repeat(INSTRUCTION_BYTES)), ..Part::default() };
    let views = build(&[("a", Some(&a)), ("b", Some(&b))], &options(None));
    let all = views.all.instructions().unwrap();
    assert!(all.starts_with("## a\nbe kind\n\n## b\né") && all.len() <= INSTRUCTION_BYTES);
    assert_eq!(views.alone[0].instructions(), Some("be kind"));
}

#[test]
fn old_clients_see_no_output_schema_that_they_refuse() {
    let tool = |name: &str, output: &str| {
        format!(
            r#"{{"name":"{name}","inputSchema":{{"type":"object"}},"outputSchema":{output},"title":"t"}}"#
        )
    };
    let odd = [r#"{"type":"array"}"#, r#"{"anyOf":[]}"#, "true", r#"{"type":["object"]}"#];
    let mut tools = vec![tool("plain", r#"{"type":"object"}"#)];
    tools.extend(odd.iter().zip(0..).map(|(output, n)| tool(&format!("odd{n}"), output)));
    let page = format!(r#"{{"tools":[{}]}}"#, tools.join(","));
    let listed = wire::mcp::list::ListPage::scan(&page.into(), "tools", &Limits::default()).unwrap();
    let views = build(&[("a", Some(&Part { tools: listed.items, ..Part::default() }))], &options(None));
    let list = views.all.list(List::Tools);
    let outputs = |bytes: Bytes| {
        let list: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let tools = list["tools"].as_array().unwrap().clone();
        assert!(tools.iter().all(|tool| tool["title"] == "t"));
        tools.into_iter().map(|tool| tool.get("outputSchema").cloned()).collect::<Vec<_>>()
    };
    assert!(outputs(list.bytes()).iter().all(Option::is_some), "others see what the server said");
    let older = outputs(list.for_sessions().into_bytes());
    assert_eq!(older[0], Some(serde_json::json!({"type": "object"})));
    assert!(older[1..].iter().all(Option::is_none) && older.len() == 5);
    let plain = build(&[("a", Some(&part(&["x"], &[], &[])))], &options(None));
    let list = plain.all.list(List::Tools);
    let (whole, listed) = (list.bytes(), list.for_sessions().iter().nth(1).unwrap().clone());
    assert!(whole.as_ptr_range().contains(&listed.as_ptr()), "one list, where none differs");
    let whole: serde_json::Value = serde_json::from_slice(&whole).unwrap();
    let older: serde_json::Value = serde_json::from_slice(&list.for_sessions().into_bytes()).unwrap();
    assert_eq!((older.as_object().unwrap().len(), &older["tools"]), (1, &whole["tools"]));
}

#[test]
fn a_uri_is_held_against_so_many_templates_of_a_server() {
    let many: Vec<_> = (0..=TEMPLATES).map(|n| format!("a://{n}/{{id}}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let (a, b) = (part(&[], &[], &many), part(&[], &[], &["b://{id}"]));
    let views = build(&[("a", Some(&a)), ("b", Some(&b))], &options(None));
    for view in [&views.all, &*views.alone[0]] {
        assert_eq!(owner(view, &format!("a://{}/x", TEMPLATES - 1)), Some(server(0)));
        assert_eq!(owner(view, &format!("a://{TEMPLATES}/x")), None);
        assert_eq!(view.template(many[TEMPLATES]), Some(server(0)), "as it is, it is known");
        assert_eq!(shown(view, List::Templates, "resourceTemplates", "uriTemplate")[..=TEMPLATES], many);
    }
    assert_eq!(owner(&views.all, "b://x"), Some(server(1)), "another server has as many");
    assert_eq!(views.unmatched, [UnmatchedTemplates { server: server(0), count: 1 }]);
}

#[test]
fn a_template_that_fits_strictly_goes_before_one_that_fits_loosely() {
    let (a, b) = (part(&[], &[], &["x://{id*}", "x://{a}/{b*}"]), part(&[], &[], &["x://{a}/{b}"]));
    let views = build(&[("a", Some(&a)), ("b", Some(&b))], &options(None));
    assert_eq!(owner(&views.all, "x://1/2/3"), Some(server(0)));
    let views = build(&[("b", Some(&b)), ("a", Some(&a))], &options(None));
    assert_eq!(owner(&views.all, "x://1/2/3"), Some(server(1)));
    let (a, b) = (part(&[], &[], &["x://{id*}"]), part(&[], &[], &["x://{a}/{b}"]));
    let views = build(&[("a", Some(&a)), ("b", Some(&b))], &options(None));
    assert_eq!(
        (owner(&views.all, "x://1/2"), owner(&views.all, "x://1/2/3")),
        (Some(server(1)), Some(server(0)))
    );
}
