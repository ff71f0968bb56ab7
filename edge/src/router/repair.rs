//! Repairs list items so that official clients accept them. An item that violates a client's schema makes that client
//! reject the whole list, and with it the items of all other servers.
//!
//! An optional member that violates the schema is removed. A required member is supplied where there is only one way to do
//! so; otherwise the item is left out. Each repaired item is reported as an [`ItemDefect`], for the author of the server to
//! fix. Everything else stays as the server wrote it, byte for byte.
//
// MCP 2025-11-25 and 2026-07-28 schema: Tool, Prompt, Resource, ResourceTemplate; stricter where an SDK is.

mod rfc3339;
mod uri;

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use serde_json::Value as Json;
use wire::envelope::Value;
use wire::limits::Limits;
use wire::mcp::list::{Item, ListPage};
use wire::object::{self, Member as Found};
use wire::span::Span;
use wire::splice::Splice;

use self::rfc3339::is_date_time;
use self::uri::is_uri;
use super::NAME_CHARS;
use crate::call::List;

/// An item that is not shown as its server sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemDefect {
    /// The list it is in.
    pub list: List,
    /// Its name, URI or template, abridged.
    pub item: String,
    /// What is wrong, and what was done about it.
    pub what: String,
}

impl fmt::Display for ItemDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.list.method().as_str(), self.item.escape_debug(), self.what)
    }
}

/// The defects of one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemDefects {
    /// The first of them.
    pub first: Vec<ItemDefect>,
    /// How many more there are.
    pub more: usize,
}

impl ItemDefects {
    fn add(&mut self, defect: ItemDefect) {
        if self.first.len() < DEFECTS_KEPT { self.first.push(defect) } else { self.more += 1 }
    }
}

/// The items of one list as they can be shown, and the defects that were found. Yields to other tasks now and then.
pub(super) async fn repair(list: List, items: Vec<Item>, limits: &Limits) -> (Vec<Item>, ItemDefects) {
    let (mut shown, mut defects) = (Vec::with_capacity(items.len()), ItemDefects::default());
    let mut keys = HashSet::new();
    for (n, item) in items.into_iter().enumerate() {
        if n % AT_A_TIME == AT_A_TIME - 1 {
            tokio::task::yield_now().await;
        }
        let key = item.key.clone();
        let repaired = if keys.insert(key.clone()) { repair_item(list, item, limits) } else { Err(TWICE) };
        let what = match repaired {
            Ok((item, what)) => {
                // Detached from the line it came in: the item is kept for long, and would keep the whole line in memory.
                shown.push(item.detached());
                what
            }
            Err(why) => Some(format!("{why}; left out")),
        };
        if let Some(what) = what {
            defects.add(ItemDefect { list, item: key.chars().take(NAME_CHARS).collect(), what });
        }
    }
    (shown, defects)
}

/// The item, repaired where necessary, with what was wrong with it; or why it cannot be shown.
fn repair_item(list: List, item: Item, limits: &Limits) -> Result<(Item, Option<String>), &'static str> {
    if !serde_json::from_slice::<Json>(&item.raw).is_ok_and(|json| json.is_object()) {
        return Err("it is not JSON that every client can parse");
    }
    let mut repairer = Repairer::new(item.raw.clone(), limits);
    match list {
        List::Tools => repairer.supply_type()?,
        List::Resources | List::Templates => repairer.supply_name(item.key_span),
        List::Prompts => {}
    }
    if list == List::Resources && !is_uri(&item.key) {
        return Err("some clients reject its URI: its scheme, host or port");
    }
    let mut repairer = repairer.restarted();
    repairer.fit_members(Span::all(&repairer.raw), shape(list), "");
    let Some(what) = repairer.repairs.summary() else { return Ok((item, None)) };
    let repaired = repairer.splice.finish().into_bytes();
    let page = [b"{\"", list.key().as_bytes(), b"\":[", &repaired, b"]}"].concat();
    let page = ListPage::scan(&page.into(), list.key(), limits).ok();
    let item = page.and_then(|page| page.items.into_iter().next());
    item.map(|item| (item, Some(what))).ok_or("it cannot be repaired within `limits`")
}

/// What the schema wants of a value.
enum Shape {
    Text,
    Flag,
    /// A number of bytes. Clients in some languages accept only 64-bit integers, not even `1.0`.
    Size,
    /// A number from 0 to 1.
    Share,
    /// A date and time with an offset.
    DateTime,
    OneOf(&'static [&'static str]),
    /// An object. These of its members have a shape; others may be anything.
    Object(&'static [Member]),
    /// An array. Elements of another shape are removed.
    Each(&'static Shape),
    /// A JSON Schema.
    Schema,
}

struct Member {
    key: &'static str,
    shape: Shape,
    /// Whether an object without it violates the schema.
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
    may("lastModified", Shape::DateTime),
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

/// One item, and the edits that repair it.
struct Repairer<'l> {
    raw: Bytes,
    limits: &'l Limits,
    splice: Splice,
    repairs: Repairs,
}

impl<'l> Repairer<'l> {
    fn new(raw: Bytes, limits: &'l Limits) -> Self {
        Self { splice: Splice::new(raw.clone()), raw, limits, repairs: Repairs::default() }
    }

    /// Applies the edits made so far and starts again with the result.
    fn restarted(self) -> Self {
        if self.repairs.0.is_empty() {
            return self;
        }
        let repairs = self.repairs;
        Self { repairs, ..Self::new(self.splice.finish().into_bytes(), self.limits) }
    }

    fn value(&self, span: Span) -> Value<'_> {
        Value::new(&self.raw, span)
    }

    fn begins(&self, span: Span, with: u8) -> bool {
        self.value(span).raw().first() == Some(&with)
    }

    /// The members of an object that was scanned before.
    fn members(&self, span: Span) -> Vec<Found> {
        object::members(&self.raw, span, self.limits).unwrap_or_default()
    }

    /// The value of `key`. Of equal keys the last one counts, as it does for clients.
    fn get(&self, members: &[Found], key: &str) -> Option<Span> {
        members.iter().rfind(|member| member.key_text(&self.raw) == key).map(|member| member.value)
    }

    /// Sets `key` of the object at `at` with these members to the JSON text `value`.
    fn supply(&mut self, (at, members): (Span, &[Found]), key: &str, value: &[u8]) {
        match self.get(members, key) {
            Some(span) => self.splice.replace(span, Bytes::copy_from_slice(value)),
            None => {
                let comma: &[u8] = if members.is_empty() { b"" } else { b"," };
                let member = [b"\"", key.as_bytes(), b"\":", value, comma].concat();
                self.splice.insert(at.start + 1, member);
            }
        }
    }

    /// Gives an item without a name that of its URI or template: the schema does not require a name, but clients do.
    fn supply_name(&mut self, known_by: Span) {
        let whole = Span::all(&self.raw);
        let members = self.members(whole);
        if self.get(&members, "name").is_some_and(|name| self.begins(name, b'"')) {
            return;
        }
        let name = known_by.slice(&self.raw);
        self.supply((whole, &members), "name", &name);
        self.repairs.note("name");
    }

    /// Adds `type: object` to an `inputSchema` without a type. Clients require it, and no other type is possible. A tool
    /// without an `inputSchema` gets one that says no more than that.
    // MCP 2025-11-25 schema, Tool.inputSchema: `type: "object"`
    fn supply_type(&mut self) -> Result<(), &'static str> {
        const OBJECT: &[u8] = br#""object""#;
        let whole = Span::all(&self.raw);
        let tool = self.members(whole);
        let schema = self.get(&tool, "inputSchema").filter(|schema| !self.value(*schema).is_null());
        let Some(schema) = schema else {
            self.supply((whole, &tool), "inputSchema", br#"{"type":"object"}"#);
            self.repairs.note("inputSchema");
            return Ok(());
        };
        if !self.begins(schema, b'{') {
            return Err("its inputSchema is not an object");
        }
        let members = self.members(schema);
        match self.get(&members, "type").map(|kind| self.value(kind)) {
            None => {}
            Some(kind) if kind.as_str().is_some_and(|kind| kind == "object") => return Ok(()),
            Some(kind) if kind.is_null() => {}
            Some(kind) if kind.parse::<Vec<Json>>().is_ok_and(|kinds| kinds.contains(&"object".into())) => {}
            Some(_) => return Err("its inputSchema does not describe an object"),
        }
        self.supply((schema, &members), "type", OBJECT);
        self.repairs.note("inputSchema.type");
        Ok(())
    }

    /// Whether the value at `span` has the shape, once optional members that violate it are removed. `at` is its path.
    // The recursion is bounded: no shape contains itself.
    fn fits(&mut self, span: Span, shape: &Shape, at: &str) -> bool {
        let value = self.value(span);
        let is_flag = matches!(value.raw(), b"true" | b"false");
        match shape {
            Shape::Text => self.begins(span, b'"'),
            Shape::Flag => is_flag,
            Shape::Size => value.parse::<i64>().is_ok(),
            Shape::Share => value.parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share)),
            Shape::DateTime => value.as_str().is_some_and(|text| is_date_time(text.as_bytes())),
            Shape::OneOf(words) => value.as_str().is_some_and(|text| words.contains(&text.as_ref())),
            Shape::Object(members) => self.begins(span, b'{') && self.fit_members(span, members, at),
            Shape::Each(shape) => self.begins(span, b'[') && self.fit_each(span, shape, at),
            Shape::Schema => is_flag || self.begins(span, b'{') && self.fit_schema(span, at),
        }
    }

    /// Removes elements of another shape. The rest always fits.
    fn fit_each(&mut self, span: Span, shape: &Shape, at: &str) -> bool {
        let elements = object::elements(&self.raw, span, self.limits, usize::MAX).unwrap_or_default();
        let stays: Vec<bool> = elements.iter().map(|element| self.fits(*element, shape, at)).collect();
        if stays.contains(&false) {
            self.repairs.note(at);
        }
        self.keep(&elements, &stays);
        true
    }

    /// Removes optional members of another shape. Returns false if a required member is missing or has another shape: then
    /// the whole object has to go, whatever was edited in it.
    fn fit_members(&mut self, span: Span, wanted: &[Member], at: &str) -> bool {
        let (raw, members) = (self.raw.clone(), self.members(span));
        let mut missing: Vec<&str> =
            wanted.iter().filter(|wanted| wanted.required).map(|it| it.key).collect();
        let mut stays = vec![true; members.len()];
        for (member, stays) in members.iter().zip(&mut stays) {
            let key = member.key_text(&raw);
            let Some(wanted) = wanted.iter().find(|wanted| wanted.key == key) else { continue };
            missing.retain(|missing| *missing != wanted.key);
            let at = if at.is_empty() { key.into_owned() } else { format!("{at}.{key}") };
            *stays = self.fits(member.value, &wanted.shape, &at);
            if *stays {
                continue;
            }
            if wanted.required {
                return false;
            }
            self.repairs.note(&at);
        }
        let places: Vec<Span> =
            members.iter().map(|member| Span { start: member.key.start, end: member.value.end }).collect();
        self.keep(&places, &stays);
        missing.is_empty()
    }

    /// SDK clients accept only objects as schemas of properties, where JSON Schema also allows `true` and `false`, and only
    /// names in `required`. Replaces or removes everything else, so the rest always fits.
    fn fit_schema(&mut self, span: Span, at: &str) -> bool {
        const NAMES: &[Member] =
            &[may("properties", Shape::Object(&[])), may("required", Shape::Each(&Shape::Text))];
        self.fit_members(span, NAMES, at);
        for member in self.members(span) {
            if member.key_text(&self.raw) != "properties" || !self.begins(member.value, b'{') {
                continue;
            }
            for property in self.members(member.value) {
                if self.begins(property.value, b'{') {
                    continue;
                }
                let is_never = self.value(property.value).raw() == b"false";
                let schema: &[u8] = if is_never { br#"{"not":{}}"# } else { b"{}" };
                self.splice.replace(property.value, schema);
                self.repairs.note(&format!("{at}.properties"));
            }
        }
        true
    }

    /// Removes the members or elements at `places` that do not stay: each with the comma before it, or with the comma after
    /// it while none before it stays.
    fn keep(&mut self, places: &[Span], stay: &[bool]) {
        let mut is_any_kept = false;
        for (n, (place, stays)) in places.iter().zip(stay).enumerate() {
            is_any_kept |= stays;
            if *stays {
                continue;
            }
            let before = n.checked_sub(1).and_then(|before| places.get(before)).filter(|_| is_any_kept);
            self.splice.remove(match before {
                Some(before) => Span { start: before.end, end: place.end },
                None => {
                    let end = places.get(n + 1).map_or(place.end, |next| next.start);
                    Span { start: place.start, end }
                }
            });
        }
    }
}

/// What was removed from one item or supplied.
#[derive(Default)]
struct Repairs(Vec<String>);

impl Repairs {
    fn note(&mut self, what: &str) {
        if !self.0.iter().any(|noted| noted == what) {
            self.0.push(what.to_owned());
        }
    }

    fn summary(self) -> Option<String> {
        let all = self.0.join(", ");
        (!all.is_empty()).then(|| format!("removed or repaired: {all}"))
    }
}

/// Defects of one list that are kept and shown at `/ready`. 100: more than anybody fixes at a time.
const DEFECTS_KEPT: usize = 100;
/// Items that are repaired without yielding. 50: at most a millisecond.
const AT_A_TIME: usize = 50;
const TWICE: &str = "an earlier item of the list has the same name";

#[cfg(test)]
mod tests;
