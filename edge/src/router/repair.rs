//! Items as official clients take them: an item that a client's schema refuses costs that client the whole list, and
//! so all other servers.
//!
//! A member that may be absent and is not what the schema says is taken out. What is required is supplied where there
//! is one way to do so; else the item is left out. Each mended item is a [`Fault`], for the server's author to mend. What
//! is right stays as the server wrote it, byte for byte.
//
// MCP 2025-11-25 and 2026-07-28 schema: Tool, Prompt, Resource, ResourceTemplate; stricter where an SDK is.

mod moment;
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
    if !serde_json::from_slice::<Json>(&item.raw).is_ok_and(|json| json.is_object()) {
        return Err("it is not JSON that every client can parse");
    }
    let mut mender = Mender::new(item.raw.clone(), limits);
    match list {
        List::Tools => mender.supply_type()?,
        List::Resources | List::Templates => mender.supply_name(item.key_span),
        List::Prompts => {}
    }
    if list == List::Resources && !is_uri(&item.key) {
        return Err("some clients reject its URI: its scheme, host or port");
    }
    let mut mender = mender.again();
    mender.fit_members(Span::all(&mender.raw), shape(list), "");
    let Some(what) = mender.taken.said() else { return Ok((item, None)) };
    let mended = mender.splice.finish().into_bytes();
    let page = [b"{\"", list.key().as_bytes(), b"\":[", &mended, b"]}"].concat();
    let page = ListPage::scan(&page.into(), list.key(), limits).ok();
    let item = page.and_then(|page| page.items.into_iter().next());
    item.map(|item| (item, Some(what))).ok_or("it cannot be repaired within `limits`")
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

/// One item, and what is to become of it.
struct Mender<'l> {
    raw: Bytes,
    limits: &'l Limits,
    splice: Splice,
    taken: Taken,
}

impl<'l> Mender<'l> {
    fn new(raw: Bytes, limits: &'l Limits) -> Self {
        Self { splice: Splice::new(raw.clone()), raw, limits, taken: Taken::default() }
    }

    /// As it is with the edits made so far.
    fn again(self) -> Self {
        if self.taken.0.is_empty() {
            return self;
        }
        let taken = self.taken;
        Self { taken, ..Self::new(self.splice.finish().into_bytes(), self.limits) }
    }

    fn value(&self, span: Span) -> Value<'_> {
        Value::new(&self.raw, span)
    }

    fn begins(&self, span: Span, with: u8) -> bool {
        self.value(span).raw().first() == Some(&with)
    }

    /// The members of what is scanned already.
    fn members(&self, span: Span) -> Vec<Found> {
        object::members(&self.raw, span, self.limits).unwrap_or_default()
    }

    /// Of equal keys the last one counts, as it does for clients.
    fn get(&self, members: &[Found], key: &str) -> Option<Span> {
        members.iter().rfind(|member| member.key_text(&self.raw) == key).map(|member| member.value)
    }

    /// Gives `key` of an object with these members the JSON text `value`.
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

    /// What need not have a name, but for clients, has the one it is known by.
    fn supply_name(&mut self, known_by: Span) {
        let whole = Span::all(&self.raw);
        let members = self.members(whole);
        if self.get(&members, "name").is_some_and(|name| self.begins(name, b'"')) {
            return;
        }
        let name = known_by.slice(&self.raw);
        self.supply((whole, &members), "name", &name);
        self.taken.note("name");
    }

    /// Clients take a tool only with a schema of an object. One that does not say so means it, for nothing else can be.
    // MCP 2025-11-25 schema, Tool.inputSchema: `type: "object"`
    fn supply_type(&mut self) -> Result<(), &'static str> {
        const OBJECT: &[u8] = br#""object""#;
        let schema = self.get(&self.members(Span::all(&self.raw)), "inputSchema");
        let Some(schema) = schema.filter(|schema| self.begins(*schema, b'{')) else {
            return Err("its inputSchema is missing or not an object");
        };
        let members = self.members(schema);
        match self.get(&members, "type").map(|kind| self.value(kind)) {
            None => {}
            Some(kind) if kind.as_str().is_some_and(|kind| kind == "object") => return Ok(()),
            Some(kind) if kind.is_null() => {}
            Some(kind) if kind.parse::<Vec<Json>>().is_ok_and(|kinds| kinds.contains(&"object".into())) => {}
            Some(_) => return Err("its inputSchema does not describe an object"),
        }
        self.supply((schema, &members), "type", OBJECT);
        self.taken.note("inputSchema.type");
        Ok(())
    }

    /// Whether the value at `span` is what it has to be once what need not be in it is taken out. `at` says where it stands.
    // Depth is bounded: shapes do not contain themselves.
    fn fits(&mut self, span: Span, shape: &Shape, at: &str) -> bool {
        let value = self.value(span);
        let is_flag = matches!(value.raw(), b"true" | b"false");
        match shape {
            Shape::Text => self.begins(span, b'"'),
            Shape::Flag => is_flag,
            Shape::Size => value.parse::<i64>().is_ok(),
            Shape::Share => value.parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share)),
            Shape::Moment => value.as_str().is_some_and(|text| is_moment(text.as_bytes())),
            Shape::OneOf(words) => value.as_str().is_some_and(|text| words.contains(&text.as_ref())),
            Shape::Object(members) => self.begins(span, b'{') && self.fit_members(span, members, at),
            Shape::Each(shape) => self.begins(span, b'[') && self.fit_each(span, shape, at),
            Shape::Schema => is_flag || self.begins(span, b'{') && self.fit_schema(span, at),
        }
    }

    /// Always, for what does not fit goes.
    fn fit_each(&mut self, span: Span, shape: &Shape, at: &str) -> bool {
        let elements = object::elements(&self.raw, span, self.limits, usize::MAX).unwrap_or_default();
        let stays: Vec<bool> = elements.iter().map(|element| self.fits(*element, shape, at)).collect();
        if stays.contains(&false) {
            self.taken.note(at);
        }
        self.keep(&elements, &stays);
        true
    }

    /// Not where a required member does not; then the object goes as a whole, whatever was done in it.
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
            self.taken.note(&at);
        }
        let places: Vec<Span> =
            members.iter().map(|member| Span { start: member.key.start, end: member.value.end }).collect();
        self.keep(&places, &stays);
        missing.is_empty()
    }

    /// SDK clients want objects for the schemas of properties, where JSON Schema also knows `true` and `false`, and names
    /// in `required`. Always, for what does not fit goes.
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
                self.taken.note(&format!("{at}.properties"));
            }
        }
        true
    }

    /// Takes out those of the members or elements at `places` that do not stay: with the comma before it, or while none
    /// before it stays, with the comma after it.
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
        (!all.is_empty()).then(|| format!("removed or repaired: {all}"))
    }
}

/// Faults of one list that are kept, and told at `/ready`. 100: more than anybody mends at a time.
const FAULTS_KEPT: usize = 100;
/// Items that are looked at without a pause. 50: a millisecond or less.
const AT_A_TIME: usize = 50;
const TWICE: &str = "an earlier item of the list has the same name";

#[cfg(test)]
mod tests;
