//! Decides what each principal may use: servers and tools, by glob. Pure: entries and a caller in, a grant out.
//!
//! The first entry that matches a principal counts; a principal without an entry may use nothing. Entries that allow the
//! same share a [`Grant`], so catalogs are made once for all their principals. A principal is looked up once for each
//! [`Caller`], which keeps the result together with the edition of the policy. The catalogs of grants are made in
//! `policy_view`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::glob::{Glob, fits};
use crate::call::Caller;

/// One entry of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The principals that it applies to.
    pub principals: Glob,
    /// What they may use.
    pub grant: Grant,
}

/// What the principals of an entry may use. Prompts, resources and everything else are allowed with their server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Slugs.
    pub servers: Choice,
    /// Tools of these servers.
    pub tools: Choice,
}

/// A list of globs. The last glob that matches decides; what no glob matches is denied.
#[derive(Clone, PartialEq, Eq)]
pub struct Choice(Vec<Step>);

/// One glob of a list.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// Whether it allows; `false` if it was written with a leading `!`.
    pub allows: bool,
    /// The names that it applies to.
    pub glob: Glob,
}

/// The policy in force.
#[derive(Debug, Default)]
pub struct Policy {
    /// Distinguishes it from every other policy of this process.
    edition: u32,
    /// As configured; `None` lets everybody use everything.
    rules: Option<Vec<Rule>>,
    /// For each rule what [`Caller::grant_number`] keeps: 0 for everything, else a place in `grants`, counted from 1.
    standings: Vec<u32>,
    /// The grants that do not allow everything. The last one allows nothing, for principals without an entry.
    grants: Vec<Arc<Grant>>,
}

impl Policy {
    /// A policy of these rules; without rules everybody may use everything.
    pub fn new(rules: Option<Vec<Rule>>) -> Self {
        let Some(configured) = &rules else { return Self::default() };
        let (mut grants, mut standings) = (Vec::<Arc<Grant>>::new(), Vec::new());
        let mut place = |grant: &Grant| {
            if grant.is_everything() {
                return 0;
            }
            let known = grants.iter().position(|known| **known == *grant);
            let place = known.unwrap_or_else(|| {
                grants.push(Arc::new(grant.clone()));
                grants.len() - 1
            });
            // There are at most as many as rules.
            u32::try_from(place + 1).unwrap_or(u32::MAX)
        };
        standings.extend(configured.iter().map(|rule| place(&rule.grant)));
        standings.push(place(&Grant::nothing()));
        Self { edition: EDITIONS.fetch_add(1, Ordering::Relaxed), rules, standings, grants }
    }

    /// As it was configured.
    pub fn rules(&self) -> Option<&[Rule]> {
        self.rules.as_deref()
    }

    /// The place of the caller's grant among the [`grants`](Self::grants); `None` if it may use everything.
    pub(super) fn place(&self, caller: &Caller) -> Option<usize> {
        let rules = self.rules.as_deref()?;
        let found = |principal: &str| {
            let rule = rules.iter().position(|rule| rule.is_about(principal)).unwrap_or(rules.len());
            self.standings.get(rule).copied().unwrap_or(u32::MAX)
        };
        usize::try_from(caller.grant_number(self.edition, found)).ok()?.checked_sub(1)
    }

    /// Whether `caller` may use this server.
    pub(super) fn allows(&self, caller: &Caller, slug: &str) -> bool {
        self.place(caller)
            .is_none_or(|place| self.grants.get(place).is_some_and(|grant| grant.servers.has_server(slug)))
    }

    /// The principals of the first entry with this grant; `None` for the grant of principals without an entry.
    pub(super) fn principals(&self, place: usize) -> Option<&str> {
        let entry = self.standings.iter().position(|standing| usize::try_from(*standing) == Ok(place + 1))?;
        self.rules()?.get(entry).map(|rule| rule.principals.as_str())
    }

    /// The grants that do not allow everything.
    pub(super) fn grants(&self) -> &[Arc<Grant>] {
        &self.grants
    }
}

impl Rule {
    /// Whether it applies to this principal. It never does to one with an overlong name.
    pub fn is_about(&self, principal: &str) -> bool {
        principal.len() <= NAME_BYTES && self.principals.fits(principal)
    }

    /// Whether it can apply to a principal whose name begins with `prefix`.
    pub fn may_be_about_prefix(&self, prefix: &str) -> bool {
        self.principals.may_fit_prefix(prefix)
    }
}

impl Grant {
    pub(super) fn nothing() -> Self {
        Self { servers: Choice(Vec::new()), tools: Choice(Vec::new()) }
    }

    fn is_everything(&self) -> bool {
        self.servers.is_all() && self.tools.is_all()
    }

    /// The tool globs that match none of `tools`, pairs of slug and own name. Tools of servers that it denies do not count.
    pub(super) fn idle<'a>(&'a self, tools: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Step> {
        let tools: Vec<_> = tools
            .iter()
            .filter(|(slug, _)| self.servers.has_server(slug))
            .map(|(slug, own_name)| (*slug, *own_name, format!("{slug}__{own_name}")))
            .collect();
        let steps = self.tools.steps().iter().filter(|step| !step.glob.is_any());
        steps.filter(move |step| !tools.iter().any(|(slug, own, shown)| step.is_about_tool(slug, own, shown)))
    }

    /// Whether the tool with this own name may be used, under whatever public name it appears.
    pub(super) fn has_tool(&self, slug: &str, own_name: &str) -> bool {
        self.servers.has_server(slug) && self.tools.has_tool(slug, own_name)
    }
}

impl Choice {
    /// These globs, in their order.
    pub fn of(steps: Vec<Step>) -> Self {
        Self(steps)
    }

    /// Allows everything.
    pub fn all() -> Self {
        let any = "*".parse().ok().map(|glob| Step { allows: true, glob });
        Self(any.into_iter().collect())
    }

    /// Whether it allows everything.
    pub fn is_all(&self) -> bool {
        self.0.last().is_some_and(|step| step.allows && step.glob.is_any())
    }

    /// The globs, in their order.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether it allows the server with this slug.
    pub fn has_server(&self, slug: &str) -> bool {
        self.last(|step| step.glob.fits(slug))
    }

    fn has_tool(&self, slug: &str, own_name: &str) -> bool {
        if self.is_all() || own_name.len() > NAME_BYTES {
            return self.is_all();
        }
        let shown = format!("{slug}__{own_name}");
        self.last(|step| step.is_about_tool(slug, own_name, &shown))
    }

    fn last(&self, fits: impl Fn(&Step) -> bool) -> bool {
        self.0.iter().rev().find(|step| fits(step)).is_some_and(|step| step.allows)
    }
}

impl Step {
    /// Whether it applies to this tool, which lists may show as `shown`. A glob that allows is read narrowly: with `__` in it
    /// as `server__tool`, else as the own name of a tool. So a server cannot get a tool allowed by naming it `other__tool`,
    /// and an allowing `t*` does not apply to a server `time`. A glob that denies is read in both ways, and is also matched
    /// against `shown` as a whole.
    fn is_about_tool(&self, slug: &str, own_name: &str, shown: &str) -> bool {
        let is_named = match self.glob.as_str().split_once("__") {
            None => self.glob.fits(own_name),
            Some((server, tool)) => fits(server, slug) && fits(tool, own_name),
        };
        is_named || (!self.allows && (self.glob.fits(own_name) || self.glob.fits(shown)))
    }

    /// Whether this step, placed after `denial`, cancels it for all servers.
    pub fn covers_servers(&self, denial: &Self) -> bool {
        self.glob.covers(&denial.glob)
    }

    /// Whether this step, placed after `denial`, certainly cancels it for all tools. A glob that denies is read more widely
    /// than one that allows, so not every case is found.
    pub fn covers_tools(&self, denial: &Self) -> bool {
        let is_plain = |glob: &str| !glob.contains(['*', '?']) && !glob.contains("__");
        let (own, denied) = (self.glob.as_str(), denial.glob.as_str());
        self.glob.is_any() || (is_plain(denied) && !own.contains("__") && self.glob.fits(denied))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.allows { "" } else { "!" };
        write!(f, "{sign}{}", self.glob.as_str())
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

/// The next edition; 0 is that of the default policy.
static EDITIONS: AtomicU32 = AtomicU32::new(1);

/// Entries of a policy. 256: each different grant may get rendered lists of its own.
pub const ENTRIES: usize = 256;
/// Globs of one list of an entry. 256: where more are needed, patterns are better than names. Each is matched against each
/// tool of the entry's servers, at most twice each time its lists are made.
pub const GLOBS: usize = 256;
/// Bytes of a name that globs are matched against. 1 KiB: eight times what MCP recommends for tools. A longer name matches
/// no entry and is not allowed by any list of globs, so that overlong names of a server cost no time.
// MCP 2025-11-25 server/tools, Tool Names: at most 128 characters
const NAME_BYTES: usize = 1024;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choice(globs: &[&str]) -> Choice {
        let step = |text: &&str| {
            let (allows, glob) = text.strip_prefix('!').map_or((true, *text), |rest| (false, rest));
            Step { allows, glob: glob.parse().unwrap() }
        };
        Choice::of(globs.iter().map(step).collect())
    }

    pub(in crate::router) fn rule(principals: &str, servers: &[&str], tools: &[&str]) -> Rule {
        let grant = Grant { servers: choice(servers), tools: choice(tools) };
        Rule { principals: principals.parse().unwrap(), grant }
    }

    #[test]
    fn the_first_entry_that_fits_counts_and_without_one_there_is_nothing() {
        let rules = vec![
            rule("ci-root", &["*"], &["*"]),
            rule("ci-*", &["time"], &["*"]),
            rule("ci-??", &["*"], &["*"]),
            rule("twin", &["time"], &["*"]),
        ];
        let policy = Policy::new(Some(rules));
        let place = |principal: &str| policy.place(&Caller::new(principal));
        assert_eq!(place("ci-root"), None, "everything");
        assert_eq!((place("ci-7"), place("ci-ab"), place("twin")), (Some(0), Some(0), Some(0)), "one grant");
        let nobody = place("somebody else").unwrap();
        assert_eq!(place(&format!("ci-{}", "x".repeat(NAME_BYTES))), Some(nobody));
        assert_eq!(policy.grants().len(), 2);
        assert!(!policy.grants()[nobody].has_tool("time", "now"));
        assert!(policy.allows(&Caller::new("ci-1"), "time") && !policy.allows(&Caller::new("ci-1"), "git"));
        assert!(Policy::new(None).allows(&Caller::new("anybody"), "git"));
        assert!(!Policy::new(Some(Vec::new())).allows(&Caller::new("anybody"), "git"));
    }

    #[test]
    fn a_caller_is_looked_up_once_in_each_policy() {
        let caller = Caller::new("alice");
        let (one, other) =
            (Policy::new(Some(vec![rule("alice", &["a"], &["*"])])), Policy::new(Some(vec![])));
        for _ in 0..2 {
            assert!(one.allows(&caller, "a") && !other.allows(&caller, "a"));
        }
        assert_eq!(caller.grant_number(u32::MAX, |_| 7), 7);
        assert_eq!(caller.grant_number(u32::MAX, |_| panic!("it is known")), 7);
    }

    #[test]
    fn the_last_glob_that_fits_decides() {
        let tools = choice(&["get_*", "!get_secret", "get_secret_of_day"]);
        let has = |name| tools.has_tool("time", name);
        assert!(has("get_time") && has("get_secret_of_day"));
        assert!(!has("get_secret") && !has("set_time") && !has("GET_TIME"));
        assert!(choice(&["!x", "*"]).is_all() && !choice(&["*", "!x"]).is_all() && !choice(&[]).is_all());
    }

    #[test]
    fn what_allows_is_read_narrowly_and_what_denies_widely() {
        let allowed = |globs: &[&str], slug, name| choice(globs).has_tool(slug, name);
        assert!(allowed(&["git__*"], "git", "push") && allowed(&["g*__p*"], "git", "push"));
        assert!(
            !allowed(&["git__*"], "evil", "git__push"),
            "a name that another server chose allows nothing"
        );
        assert!(!allowed(&["t*"], "time", "delete"), "it is about tools, not about servers");
        assert!(
            !allowed(&["db__query"], "pg", "db__query") && allowed(&["pg__db__query"], "pg", "db__query")
        );
        assert!(!allowed(&["*", "!git__push"], "git", "push"));
        assert!(!allowed(&["*", "!db__query"], "pg", "db__query"), "as its list shows it");
        for denied in ["!git_*", "!git*push", "!g*", "!*__push", "!?it__push"] {
            assert!(!allowed(&["*", denied], "git", "push"), "as lists may show it: {denied}");
        }
        assert!(allowed(&["*", "!t_*", "!*time"], "time", "now"));
        let endless = "x".repeat(NAME_BYTES + 1);
        assert!(allowed(&["*"], "a", &endless) && !allowed(&["*", "!y"], "a", &endless));
    }

    proptest! {
        /// Whatever the globs before say, a denial at the end holds for every form of the tool's name.
        #[test]
        fn a_last_denial_always_holds(
            before in prop::collection::vec("!?[a-c_*?]{1,6}", 0..4),
            slug in "[a-c]{1,3}",
            own in "[a-c_]{1,6}",
        ) {
            let with = |last: String| {
                let mut globs: Vec<&str> = before.iter().map(String::as_str).collect();
                globs.push(&last);
                choice(&globs).has_tool(&slug, &own)
            };
            let (bare, whole) = (format!("!{own}"), format!("{slug}__{own}"));
            let denied = format!("!{whole}");
            prop_assert!(!with(bare) && !with(denied) && with(whole));
        }
    }
}
