//! `policy`: who may use what. A map of entries by principal, in the order in which they are matched.
//!
//! It may also be a list of such maps, for tools that sort the keys of a map. Something that is missing by mistake must not
//! allow anything: an entry or a list without a value is refused, and so is a list that denies before it allows. Entries
//! and globs that can never apply are refused as well.

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
    let mut rules: Vec<Rule> = Vec::new();
    for entry in entries.iter().take(ENTRIES) {
        let Some(rule) = rule(r, entry) else { continue };
        if let Some(earlier) = rules.iter().find(|earlier| earlier.principals.covers(&rule.principals)) {
            let text = format!("it never applies, because `{}` comes before it", earlier.principals.as_str());
            r.problem(entry, text);
        }
        rules.push(rule);
    }
    draft.router.policy = Some(rules);
}

const ENTRY: &[Key<Grant>] = &[
    ("servers", |r, at, grant| grant.servers = choice(r, at, (Step::covers_servers, is_slug_like))),
    ("tools", |r, at, grant| grant.tools = choice(r, at, (Step::covers_tools, is_trimmed))),
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

/// A kind of globs: whether a step cancels an earlier denial, and which globs are valid.
type Kind = (fn(&Step, &Step) -> bool, fn(&str) -> bool);

/// Servers have no white space in their names: such a glob would match nothing, and a denial would silently fail.
fn is_slug_like(glob: &str) -> bool {
    !glob.contains(char::is_whitespace)
}

/// A tool may have white space within its name.
fn is_trimmed(glob: &str) -> bool {
    glob.trim() == glob
}

fn choice(r: &mut Reader<'_>, at: &At<'_>, (covers, may_be): Kind) -> Choice {
    if at.node.value == Value::Null {
        r.problem(at, "globs belong here; `[]` is none, and without the key it is all");
    }
    let items = r.list(at);
    if items.len() > GLOBS {
        r.problem(at, format!("there are {} globs, and at most {GLOBS} are taken", items.len()));
    }
    let steps: Vec<_> = items.iter().take(GLOBS).map(|item| step(r, item, may_be)).collect();
    if let (Some(Some(Step { allows: false, .. })), Some(first)) = (steps.first(), items.first()) {
        r.problem(first, "a list that begins with `!` takes away from nothing; begin with what is allowed, `\"*\"` for all");
    }
    for (place, (item, denial)) in items.iter().zip(&steps).enumerate() {
        let Some(denial) = denial.as_ref().filter(|step| !step.allows) else { continue };
        let mut later = steps.iter().skip(place + 1).flatten();
        if let Some(later) = later.find(|later| later.allows && covers(later, denial)) {
            r.problem(
                item,
                format!(
                    "it denies nothing, because `{later}` comes after it, and the last one that matches decides"
                ),
            );
        }
    }
    Choice::of(steps.into_iter().flatten().collect())
}

fn step(r: &mut Reader<'_>, at: &At<'_>, may_be: fn(&str) -> bool) -> Option<Step> {
    let text = r.text(at)?;
    let (allows, glob) = text.strip_prefix('!').map_or((true, text.as_str()), |denied| (false, denied));
    if !may_be(glob) || glob.starts_with('!') {
        r.problem(
            at,
            format!(
                "`{text}` matches no name; write each glob as its own item, without spaces, after at most one `!`"
            ),
        );
        return None;
    }
    match glob.parse() {
        Ok(glob) => Some(Step { allows, glob }),
        Err(error) => {
            r.problem(at, format!("{error}"));
            None
        }
    }
}
