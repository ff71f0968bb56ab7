use serde_json::json;

use super::*;

async fn repaired(list: List, items: &Json) -> (Vec<Json>, Vec<String>) {
    let page = json!({ list.key(): items }).to_string();
    let items = ListPage::scan(&page.into(), list.key(), &Limits::default()).unwrap().items;
    let (items, defects) = repair(list, items, &Limits::default()).await;
    for item in &items {
        let key: String = serde_json::from_slice(item.key_span.of(&item.raw)).unwrap();
        assert_eq!(key, item.key);
    }
    let items = items.iter().map(|item| serde_json::from_slice(&item.raw).unwrap()).collect();
    (items, defects.first.into_iter().map(|defect| format!("{}: {}", defect.item, defect.what)).collect())
}

#[tokio::test]
async fn what_clients_take_stays_byte_for_byte() {
    let text = r#"{"tools":[{ "name":"t", "title":"T","inputSchema":{"$schema":"x","type":"object","properties":{"a":{"type":["string","null"]}},"required":["a"]},"outputSchema":{"anyOf":[]},"annotations":{"readOnlyHint":true,"own":1},"icons":[{"src":"data:,"}],"execution":{"taskSupport":"optional"},"_meta":{"n":1e2},"more":null}]}"#;
    let items = ListPage::scan(&text.into(), "tools", &Limits::default()).unwrap().items;
    let (after, defects) = repair(List::Tools, items.clone(), &Limits::default()).await;
    assert_eq!((after, defects), (items, ItemDefects::default()));
}

#[tokio::test]
async fn a_tool_without_the_schema_of_an_object_is_repaired_or_left_out() {
    let tool = |name: &str, schema: Json| json!({"name": name, "inputSchema": schema});
    let (tools, defects) = repaired(
        List::Tools,
        &json!([
            {"name": "none"},
            tool("null", Json::Null),
            tool("true", true.into()),
            tool("array", json!([])),
            tool("word", "object".into()),
            tool("text", json!({"type": "string"})),
            tool("empty", json!({})),
            tool("several", json!({"type": ["null", "object"]})),
            tool("plain", json!({"type": "object"})),
            tool("plain", json!({"type": "object", "properties": {}})),
        ]),
    )
    .await;
    let object = json!({"type": "object"});
    let shown = ["none", "null", "empty", "several", "plain"].map(|name| tool(name, object.clone()));
    assert_eq!(tools, shown);
    let named: Vec<_> = defects.iter().map(|defect| defect.split_once(':').unwrap().0).collect();
    assert_eq!(named, ["none", "null", "true", "array", "word", "text", "empty", "several", "plain"]);
    let (repaired, left_out): (Vec<_>, Vec<_>) =
        defects.iter().partition(|defect| defect.contains("repaired: inputSchema"));
    assert_eq!((repaired.len(), left_out.len()), (4, 5), "{defects:?}");
    assert!(left_out.iter().all(|defect| defect.ends_with("left out")), "{defects:?}");
}

#[tokio::test]
async fn members_that_clients_refuse_are_taken_out_and_others_stay() {
    let (tools, defects) = repaired(
        List::Tools,
        &json!([{
            "name": "t", "title": null, "description": 7, "own": null,
            "inputSchema": {"type": "object", "properties": {"a": true, "b": false, "c": null, "d": {}},
                            "required": ["a", 1]},
            "outputSchema": null,
            "annotations": {"title": null, "readOnlyHint": "yes", "openWorldHint": false},
            "icons": [{"src": "data:,", "theme": "blue"}, {"mimeType": "image/png"}],
            "execution": {"taskSupport": "sometimes"}, "_meta": [],
        }]),
    )
    .await;
    let expected = json!([{
        "name": "t", "own": null,
        "inputSchema": {"type": "object", "properties": {"a": {}, "b": {"not": {}}, "c": {}, "d": {}},
                        "required": ["a"]},
        "annotations": {"openWorldHint": false},
        "icons": [{"src": "data:,"}],
        "execution": {},
    }]);
    assert_eq!(Json::from(tools), expected);
    for member in ["title", "description", "inputSchema.properties", "annotations.readOnlyHint", "_meta"] {
        assert!(defects[0].contains(member), "{member}: {defects:?}");
    }
    let (prompts, _) = repaired(
        List::Prompts,
        &json!([{"name": "p", "arguments": [{"name": "a", "required": null}, {"description": "no name"}]}]),
    )
    .await;
    assert_eq!(Json::from(prompts), json!([{"name": "p", "arguments": [{"name": "a"}]}]));
}

#[tokio::test]
async fn resources_have_a_name_and_a_uri() {
    let (resources, defects) = repaired(
        List::Resources,
        &json!([
            {"uri": "a:b", "mimeType": null, "size": "7"},
            {"uri": "not a uri", "name": "n"},
            {"uri": "https://", "name": "n"},
            {"uri": "http://host:99999/", "name": "n"},
            {"uri": "a:1", "name": "n", "size": 1.5, "annotations": {"lastModified": "2026-07-28T09:30:00Z05:30"}},
            {"uri": "a:2", "name": "n", "size": 1e30, "annotations": {"lastModified": "2026-07-28T09:30Z"}},
            {"uri": "a:3", "name": "n", "size": i64::MAX as u64 + 1},
            {"uri": "a:4", "name": "n", "size": i64::MAX},
            {"uri": "file:///x", "name": "n", "annotations": {
                "audience": ["user", "god"], "priority": 3, "lastModified": "yesterday"}},
        ]),
    )
    .await;
    let expected = json!([
        {"uri": "a:b", "name": "a:b"},
        {"uri": "a:1", "name": "n", "annotations": {}},
        {"uri": "a:2", "name": "n", "annotations": {}},
        {"uri": "a:3", "name": "n"},
        {"uri": "a:4", "name": "n", "size": i64::MAX},
        {"uri": "file:///x", "name": "n", "annotations": {"audience": ["user"]}},
    ]);
    assert_eq!((Json::from(resources), defects.len()), (expected, 8));
    let (templates, _) = repaired(List::Templates, &json!([{"uriTemplate": "{+any}"}])).await;
    assert_eq!(templates, [json!({"uriTemplate": "{+any}", "name": "{+any}"})]);
}

#[tokio::test]
async fn what_is_right_of_a_repaired_item_stays_byte_for_byte() {
    let properties: Vec<_> = (0..300).map(|n| format!(r#""p{n}" : {{"default":{n}.10}}"#)).collect();
    let properties = properties.join(",");
    let table = [
        (
            format!(r#"{{"title":null,"name":"\u0074", "inputSchema":{{"properties":{{{properties}}}}},"n":[1E+2,{{"z":1,"a":-0,"z":2}}]}}"#),
            format!(r#"{{"name":"\u0074", "inputSchema":{{"type":"object","properties":{{{properties}}}}},"n":[1E+2,{{"z":1,"a":-0,"z":2}}]}}"#),
        ),
        (
            r#"{ "name":"t" , "icons":[ {"x":1}, {"src":"b","theme":1,"sizes":[0,"1x1" , 2]}, 7 ],"title":0,"description" : 1, "inputSchema":{"required" : null} , "_meta":1}"#.to_owned(),
            r#"{ "name":"t" , "icons":[ {"src":"b","sizes":["1x1"]} ], "inputSchema":{"type":"object"}}"#.to_owned(),
        ),
        (
            r#"{"name":"t","inputSchema":{"type":["null","object"],"properties":{"b":false,"a":{"maximum":123456789012345678901234567890,"type" : "integer"}},"required":[1]}}"#.to_owned(),
            r#"{"name":"t","inputSchema":{"type":"object","properties":{"b":{"not":{}},"a":{"maximum":123456789012345678901234567890,"type" : "integer"}},"required":[]}}"#.to_owned(),
        ),
        (
            r#"{ "name":"t" , "n":1e2 }"#.to_owned(),
            r#"{"inputSchema":{"type":"object"}, "name":"t" , "n":1e2 }"#.to_owned(),
        ),
        (
            r#"{"name":"t","inputSchema" : null,"title":0, "n":1e2}"#.to_owned(),
            r#"{"name":"t","inputSchema" : {"type":"object"}, "n":1e2}"#.to_owned(),
        ),
        (
            r#"{"name":"t","inputSchema":{"type":"object"},"annotations":{"title":1,"title":"t","title":2}}"#.to_owned(),
            r#"{"name":"t","inputSchema":{"type":"object"},"annotations":{"title":"t"}}"#.to_owned(),
        ),
    ];
    for (item, expected) in table {
        let page = format!(r#"{{"tools":[{item}]}}"#);
        let items = ListPage::scan(&page.into(), "tools", &Limits::default()).unwrap().items;
        let (items, defects) = repair(List::Tools, items, &Limits::default()).await;
        let shown = items.iter().map(|item| String::from_utf8_lossy(&item.raw)).collect::<Vec<_>>();
        assert_eq!(shown, [expected.as_str()], "{defects:?}");
        assert_eq!((items[0].key.as_str(), items[0].key_span.of(&items[0].raw)[0]), ("t", b'"'));
    }
    let page = r#"{"resources":[{"uri":"a:\u0062","size":1.0},{"uri":"a:c","name":7,"size":7}]}"#;
    let items = ListPage::scan(&page.into(), "resources", &Limits::default()).unwrap().items;
    let (items, _) = repair(List::Resources, items, &Limits::default()).await;
    let shown: Vec<_> = items.iter().map(|item| String::from_utf8_lossy(&item.raw)).collect();
    assert_eq!(shown, [r#"{"name":"a:\u0062","uri":"a:\u0062"}"#, r#"{"uri":"a:c","name":"a:c","size":7}"#]);
}

#[tokio::test]
async fn of_many_faults_some_are_kept() {
    let tools: Vec<_> = (0..150).map(|n| json!({"name": format!("{n}{}", "x".repeat(500))})).collect();
    let page = json!({"tools": tools}).to_string();
    let items = ListPage::scan(&page.into(), "tools", &Limits::default()).unwrap().items;
    let (_, defects) = repair(List::Tools, items, &Limits::default()).await;
    assert_eq!((defects.first.len(), defects.more), (DEFECTS_KEPT, 50));
    assert_eq!(defects.first[0].item.len(), NAME_CHARS);
}
