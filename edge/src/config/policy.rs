//! `policy`: who may use what. Entries by principal, in the order in which they are looked through.
//!
//! It may be a list of such maps, for tools that sort the keys of a map. Nothing that is missing by mistake may open anything: an entry or a list without a value is refused, and so is a list
//! that takes away before it gives.

use super::draft::Draft;
use super::reader::{At, Key, Reader};
use super::yaml::Value;
use crate::router::policy::{Choice, ENTRIES, GLOBS, Grant, Rule, Step};

/// Reads the section.
pub(super) fn read(r: &mut Reader<'_>, at: &At<'_>, draft: &mut Draft) {
    let before = r.problems.len();
    let entries = match &at.node.value {
        Value::List(_) => r.list(at).iter().flat_map(|item| r.entries(item)).collect(),
        _ => r.entries(at),
    };
    if entries.is_empty() && r.problems.len() == before {
        let text =
            "nobody could use anything; leave it out, or say who may use what: `alice: {servers: [time]}`";
        r.problem(at, text);
    }
    if entries.len() > ENTRIES {
        r.problem(at, format!("there are {} entries, and at most {ENTRIES} are taken", entries.len()));
    }
    draft.router.policy = Some(entries.iter().filter_map(|entry| rule(r, entry)).collect());
}

const ENTRY: &[Key<Grant>] = &[
    ("servers", |r, at, grant| grant.servers = choice(r, at)),
    ("tools", |r, at, grant| grant.tools = choice(r, at)),
];

fn rule(r: &mut Reader<'_>, at: &At<'_>) -> Option<Rule> {
    let mut grant = Grant { servers: Choice::all(), tools: Choice::all() };
    if at.node.value == Value::Null {
        r.problem(at, "say what it may use, `{servers: [time]}` for example; `{}` is everything");
    }
    r.section(at, ENTRY, &mut grant);
    match at.key.parse() {
        Ok(principals) => Some(Rule { principals, grant }),
        Err(error) => {
            r.problem(at, format!("{error}"));
            None
        }
    }
}

fn choice(r: &mut Reader<'_>, at: &At<'_>) -> Choice {
    if at.node.value == Value::Null {
        r.problem(at, "globs belong here; `[]` is none, and without the key it is all");
    }
    let items = r.list(at);
    if items.len() > GLOBS {
        r.problem(at, format!("there are {} globs, and at most {GLOBS} are taken", items.len()));
    }
    let steps: Vec<Step> = items.iter().take(GLOBS).filter_map(|item| step(r, item)).collect();
    if let (Some(Step { allows: false, .. }), Some(first)) = (steps.first(), items.first()) {
        r.problem(first, "a list that begins with `!` takes away from nothing; begin with what is allowed, `\"*\"` for all");
    }
    Choice::of(steps)
}

fn step(r: &mut Reader<'_>, at: &At<'_>) -> Option<Step> {
    let text = r.text(at)?;
    let (allows, glob) = text.strip_prefix('!').map_or((true, text.as_str()), |denied| (false, denied));
    match glob.parse() {
        Ok(glob) => Some(Step { allows, glob }),
        Err(error) => {
            r.problem(at, format!("{error}"));
            None
        }
    }
}
