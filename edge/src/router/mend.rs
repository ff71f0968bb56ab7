//! Items as official clients take them: an item that a client's schema refuses costs that client the whole list, and
//! so all other servers.
//!
//! A member that may be absent and is not what the schema says is taken out. What is required is supplied where there
//! is one way to do so; else the item is left out. Each mended item is a [`Fault`], for the server's author to mend.
//
// MCP 2025-11-25 and 2026-07-28 schema: Tool, Prompt, Resource, ResourceTemplate; stricter where an SDK is.

mod moment;
mod uri;

use std::collections::HashSet;
use std::fmt;

use serde_json::{Map, Value as Json, json};
use wire::limits::Limits;
use wire::mcp::list::{Item, ListPage};

use self::moment::is_moment;
use self::uri::is_uri;
use super::NAME_CHARS;
use crate::call::List;

/// An item that is not shown as its server sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The list it is in.
    pub list: List,
    /// Its name, URI or template, as far as one needs it to recognise it.
    pub item: String,
    /// What is wrong, and what was done.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.list.method().as_str(), self.item.escape_debug(), self.what)
    }
}

/// The faults of one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The first of them.
    pub first: Vec<Fault>,
    /// How many there are beside.
    pub more: usize,
}

impl Faults {
    fn add(&mut self, fault: Fault) {
        if self.first.len() < FAULTS_KEPT { self.first.push(fault) } else { self.more += 1 }
    }
}

/// The items of one list as they may be shown, and what was wrong with the others. Gives way to calls now and then.
pub(super) async fn mend(list: List, items: Vec<Item>, limits: &Limits) -> (Vec<Item>, Faults) {
    let (mut mended, mut faults) = (Vec::with_capacity(items.len()), Faults::default());
    let mut keys = HashSet::new();
    for (n, item) in items.into_iter().enumerate() {
        if n % AT_A_TIME == AT_A_TIME - 1 {
            tokio::task::yield_now().await;
        }
        let key = item.key.clone();
        let judged = if keys.insert(key.clone()) { judge(list, item, limits) } else { Err(TWICE) };
        let what = match judged {
            Ok((item, what)) => {
                // It stays for long, and the line it came in is the server's to fill and counted with the calls.
                mended.push(item.detached());
                what
            }
            Err(why) => Some(format!("{why}; left out")),
        };
        if let Some(what) = what {
            faults.add(Fault { list, item: key.chars().take(NAME_CHARS).collect(), what });
        }
    }
    (mended, faults)
}

/// The item, mended where need be, with what was wrong with it; or why it cannot be shown.
fn judge(list: List, item: Item, limits: &Limits) -> Result<(Item, Option<String>), &'static str> {
    let Ok(Json::Object(mut members)) = serde_json::from_slice(&item.raw) else {
        return Err("it is no JSON that every client can read");
    };
    let mut taken = Taken::default();
    match list {
        List::Tools => input_schema(&mut members, &mut taken)?,
        List::Resources | List::Templates if !members.get("name").is_some_and(Json::is_string) => {
            members.insert("name".to_owned(), item.key.clone().into());
            taken.note("name");
        }
        _ => {}
    }
    if list == List::Resources && !is_uri(&item.key) {
        return Err("its URI is none to every client: scheme, host or port");
    }
    fit_members(&mut members, shape(list), "", &mut taken);
    let Some(what) = taken.said() else { return Ok((item, None)) };
    let page = json!({ list.key(): [members] }).to_string();
    let page = ListPage::scan(&page.into(), list.key(), limits).ok();
    let item = page.and_then(|page| page.items.into_iter().next());
    item.map(|item| (item, Some(what))).ok_or("it cannot be mended within `limits`")
}

/// What a value has to be.
enum Shape {
    Text,
    Flag,
    /// A number of bytes. Clients of some languages take integers of 64 bits and no others, not even `1.0`.
    Size,
    /// A number from 0 to 1.
    Share,
    /// A date and time, with an offset.
    Moment,
    OneOf(&'static [&'static str]),
    /// An object with these among its members.
    Object(&'static [Member]),
    /// An array; elements that are something else are taken out.
    Each(&'static Shape),
    /// A JSON Schema.
    Schema,
}

struct Member {
    key: &'static str,
    shape: Shape,
    /// An object without it is not what it has to be.
    required: bool,
}

const fn may(key: &'static str, shape: Shape) -> Member {
    Member { key, shape, required: false }
}

const fn must(key: &'static str, shape: Shape) -> Member {
    Member { key, shape, required: true }
}

const ICON: Shape = Shape::Object(&[
    must("src", Shape::Text),
    may("mimeType", Shape::Text),
    may("sizes", Shape::Each(&Shape::Text)),
    may("theme", Shape::OneOf(&["light", "dark"])),
]);
const ARGUMENT: Shape = Shape::Object(&[
    must("name", Shape::Text),
    may("title", Shape::Text),
    may("description", Shape::Text),
    may("required", Shape::Flag),
]);
const ANNOTATIONS: Shape = Shape::Object(&[
    may("audience", Shape::Each(&Shape::OneOf(&["user", "assistant"]))),
    may("priority", Shape::Share),
    may("lastModified", Shape::Moment),
]);
const HINTS: Shape = Shape::Object(&[
    may("title", Shape::Text),
    may("readOnlyHint", Shape::Flag),
    may("destructiveHint", Shape::Flag),
    may("idempotentHint", Shape::Flag),
    may("openWorldHint", Shape::Flag),
]);
const EXECUTION: Shape =
    Shape::Object(&[may("taskSupport", Shape::OneOf(&["required", "optional", "forbidden"]))]);

const TOOL: &[Member] = &[
    may("title", Shape::Text),
    may("description", Shape::Text),
    may("icons", Shape::Each(&ICON)),
    may("inputSchema", Shape::Schema),
    may("outputSchema", Shape::Schema),
    may("annotations", HINTS),
    may("execution", EXECUTION),
    may("_meta", Shape::Object(&[])),
];
const PROMPT: &[Member] = &[
    may("title", Shape::Text),
    may("description", Shape::Text),
    may("icons", Shape::Each(&ICON)),
    may("arguments", Shape::Each(&ARGUMENT)),
    may("_meta", Shape::Object(&[])),
];
const RESOURCE: &[Member] = &[
    may("title", Shape::Text),
    may("description", Shape::Text),
    may("icons", Shape::Each(&ICON)),
    may("mimeType", Shape::Text),
    may("size", Shape::Size),
    may("annotations", ANNOTATIONS),
    may("_meta", Shape::Object(&[])),
];

fn shape(list: List) -> &'static [Member] {
    match list {
        List::Tools => TOOL,
        List::Prompts => PROMPT,
        List::Resources | List::Templates => RESOURCE,
    }
}

/// Whether `value` is what it has to be once what need not be in it is taken out. `at` is where it stands.
// Depth is bounded: shapes do not contain themselves.
fn fits(value: &mut Json, shape: &Shape, at: &str, taken: &mut Taken) -> bool {
    match (shape, value) {
        (Shape::Text, Json::String(_)) | (Shape::Flag, Json::Bool(_)) => true,
        (Shape::Size, Json::Number(size)) => size.is_i64(),
        (Shape::Share, Json::Number(share)) => {
            share.as_f64().is_some_and(|share| (0.0..=1.0).contains(&share))
        }
        (Shape::Moment, Json::String(text)) => is_moment(text.as_bytes()),
        (Shape::OneOf(words), Json::String(text)) => words.contains(&text.as_str()),
        (Shape::Object(members), Json::Object(object)) => fit_members(object, members, at, taken),
        (Shape::Each(shape), Json::Array(elements)) => {
            let before = elements.len();
            elements.retain_mut(|element| fits(element, shape, at, taken));
            if elements.len() < before {
                taken.note(at);
            }
            true
        }
        (Shape::Schema, Json::Bool(_)) => true,
        (Shape::Schema, Json::Object(schema)) => {
            properties(schema, at, taken);
            true
        }
        _ => false,
    }
}

fn fit_members(object: &mut Map<String, Json>, members: &[Member], at: &str, taken: &mut Taken) -> bool {
    members.iter().all(|Member { key, shape, required }| {
        let Some(value) = object.get_mut(*key) else { return !required };
        let at = if at.is_empty() { (*key).to_owned() } else { format!("{at}.{key}") };
        if fits(value, shape, &at, taken) {
            return true;
        }
        if !required {
            object.remove(*key);
            taken.note(&at);
        }
        !required
    })
}

/// Clients take a tool only with a schema of an object. One that does not say so means it, for nothing else can be.
// MCP 2025-11-25 schema, Tool.inputSchema: `type: "object"`
fn input_schema(tool: &mut Map<String, Json>, taken: &mut Taken) -> Result<(), &'static str> {
    let Some(Json::Object(schema)) = tool.get_mut("inputSchema") else {
        return Err("its inputSchema is missing or no object");
    };
    let is_object = |kind: &Json| kind == "object";
    match schema.get("type") {
        Some(kind) if is_object(kind) => return Ok(()),
        None | Some(Json::Null) => {}
        Some(Json::Array(kinds)) if kinds.iter().any(is_object) => {}
        Some(_) => return Err("its inputSchema is not that of an object"),
    }
    schema.insert("type".to_owned(), "object".into());
    taken.note("inputSchema.type");
    Ok(())
}

/// SDK clients want objects for the schemas of properties, where JSON Schema also knows `true` and `false`, and names
/// in `required`.
fn properties(schema: &mut Map<String, Json>, at: &str, taken: &mut Taken) {
    const NAMES: &[Member] =
        &[may("properties", Shape::Object(&[])), may("required", Shape::Each(&Shape::Text))];
    fit_members(schema, NAMES, at, taken);
    let Some(Json::Object(properties)) = schema.get_mut("properties") else { return };
    for (_, property) in properties.iter_mut().filter(|(_, property)| !property.is_object()) {
        *property = if *property == Json::Bool(false) { json!({"not": {}}) } else { json!({}) };
        taken.note(&format!("{at}.properties"));
    }
}

/// What was wrong with one item.
#[derive(Default)]
struct Taken(Vec<String>);

impl Taken {
    fn note(&mut self, what: &str) {
        if !self.0.iter().any(|noted| noted == what) {
            self.0.push(what.to_owned());
        }
    }

    fn said(self) -> Option<String> {
        let all = self.0.join(", ");
        (!all.is_empty()).then(|| format!("taken out or mended: {all}"))
    }
}

/// Faults of one list that are kept, and told at `/ready`. 100: more than anybody mends at a time.
const FAULTS_KEPT: usize = 100;
/// Items that are looked at without a pause. 50: a millisecond or less.
const AT_A_TIME: usize = 50;
const TWICE: &str = "the list has another one of that name before it";

#[cfg(test)]
mod tests {
    use super::*;

    async fn mended(list: List, items: &Json) -> (Vec<Json>, Vec<String>) {
        let page = json!({ list.key(): items }).to_string();
        let items = ListPage::scan(&page.into(), list.key(), &Limits::default()).unwrap().items;
        let (items, faults) = mend(list, items, &Limits::default()).await;
        for item in &items {
            let key: String = serde_json::from_slice(item.key_span.of(&item.raw)).unwrap();
            assert_eq!(key, item.key);
        }
        let items = items.iter().map(|item| serde_json::from_slice(&item.raw).unwrap()).collect();
        (items, faults.first.into_iter().map(|fault| format!("{}: {}", fault.item, fault.what)).collect())
    }

    #[tokio::test]
    async fn what_clients_take_stays_byte_for_byte() {
        let text = r#"{"tools":[{ "name":"t", "title":"T","inputSchema":{"$schema":"x","type":"object","properties":{"a":{"type":["string","null"]}},"required":["a"]},"outputSchema":{"anyOf":[]},"annotations":{"readOnlyHint":true,"own":1},"icons":[{"src":"data:,"}],"execution":{"taskSupport":"optional"},"_meta":{"n":1e2},"more":null}]}"#;
        let items = ListPage::scan(&text.into(), "tools", &Limits::default()).unwrap().items;
        let (after, faults) = mend(List::Tools, items.clone(), &Limits::default()).await;
        assert_eq!((after, faults), (items, Faults::default()));
    }

    #[tokio::test]
    async fn a_tool_without_the_schema_of_an_object_is_mended_or_left_out() {
        let tool = |name: &str, schema: Json| json!({"name": name, "inputSchema": schema});
        let (tools, faults) = mended(
            List::Tools,
            &json!([
                {"name": "none"},
                tool("null", Json::Null),
                tool("text", json!({"type": "string"})),
                tool("empty", json!({})),
                tool("several", json!({"type": ["null", "object"]})),
                tool("plain", json!({"type": "object"})),
                tool("plain", json!({"type": "object", "properties": {}})),
            ]),
        )
        .await;
        let object = json!({"type": "object"});
        let shown = ["empty", "several", "plain"].map(|name| tool(name, object.clone()));
        assert_eq!(tools, shown);
        let named: Vec<_> = faults.iter().map(|fault| fault.split_once(':').unwrap().0).collect();
        assert_eq!(named, ["none", "null", "text", "empty", "several", "plain"]);
        assert!(faults[0].ends_with("left out") && faults[3].contains("mended"), "{faults:?}");
    }

    #[tokio::test]
    async fn members_that_clients_refuse_are_taken_out_and_others_stay() {
        let (tools, faults) = mended(
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
        for member in ["title", "description", "inputSchema.properties", "annotations.readOnlyHint", "_meta"]
        {
            assert!(faults[0].contains(member), "{member}: {faults:?}");
        }
        let (prompts, _) = mended(
            List::Prompts,
            &json!([{"name": "p", "arguments": [{"name": "a", "required": null}, {"description": "no name"}]}]),
        ).await;
        assert_eq!(Json::from(prompts), json!([{"name": "p", "arguments": [{"name": "a"}]}]));
    }

    #[tokio::test]
    async fn resources_have_a_name_and_a_uri() {
        let (resources, faults) = mended(
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
        assert_eq!((Json::from(resources), faults.len()), (expected, 8));
        let (templates, _) = mended(List::Templates, &json!([{"uriTemplate": "{+any}"}])).await;
        assert_eq!(templates, [json!({"uriTemplate": "{+any}", "name": "{+any}"})]);
    }

    #[tokio::test]
    async fn of_many_faults_some_are_kept() {
        let tools: Vec<_> = (0..150).map(|n| json!({"name": format!("{n}{}", "x".repeat(500))})).collect();
        let page = json!({"tools": tools}).to_string();
        let items = ListPage::scan(&page.into(), "tools", &Limits::default()).unwrap().items;
        let (_, faults) = mend(List::Tools, items, &Limits::default()).await;
        assert_eq!((faults.first.len(), faults.more), (FAULTS_KEPT, 50));
        assert_eq!(faults.first[0].item.len(), NAME_CHARS);
    }
}
