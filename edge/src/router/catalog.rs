//! What all servers offer together: lookup tables from public names to servers, and the rendered lists.
//!
//! A [`Catalog`] is immutable; each change builds a new one. Nothing here waits or knows of connections.
//!
//! ```text
//! Basis (servers, their parts, names) ── build ──▶ Catalog of everybody
//!                                                    │ limited to a grant of the policy (`policy_view`)
//!                                                    │ with the lists of one session    (`session_overlay`)
//!                                                    ▼
//!                                         Catalog with other views of the same basis
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use wire::limits::Limits;
use wire::mcp::list::Item;

use super::listed_uris::ListedUri;
use super::names::{self, Names, Offer, Prefix};
use super::part::{Part, Tool};
use super::policy::{Grant, Policy};
use super::policy_view::Access;
use super::render::{self, Rendered};
use super::server_set::{Entry, PerServer, ServerIndex, ServerSet};
use super::template::{TEMPLATES, Template};
use super::view::{Route, View};
use crate::call::{List, ServerName};

/// One server in the configured order.
#[derive(Debug)]
pub struct Member<'a> {
    /// What routes and views refer to it by.
    pub index: ServerIndex,
    /// Its slug.
    pub name: &'a ServerName,
    /// How its names become public.
    pub prefix: Prefix,
    /// What it offers; `None` until it was listed once.
    pub part: Option<&'a Part>,
}

impl Member<'_> {
    fn offer<'i>(&'i self, items: impl IntoIterator<Item = &'i Item>) -> Offer<'i> {
        let names = items.into_iter().map(|item| item.key.as_str()).collect();
        Offer { server: self.name, prefix: self.prefix, names }
    }
}

/// The names given out so far. They outlive single catalogs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenNames {
    tools: Names,
    prompts: Names,
}

impl GivenNames {
    /// Keeps the names of servers for which `keeps` returns true.
    pub(super) fn retain(&mut self, keeps: impl Fn(&ServerName) -> bool) {
        self.tools.retain(&keeps);
        self.prompts.retain(&keeps);
    }

    /// These names, overridden by those of `own`.
    pub(super) fn with(&self, own: &Self) -> Self {
        Self { tools: self.tools.with(&own.tools), prompts: self.prompts.with(&own.prompts) }
    }

    /// The names that `common` does not have, or gave to another server.
    pub(super) fn beyond(&self, common: &Self) -> Self {
        Self { tools: self.tools.beyond(&common.tools), prompts: self.prompts.beyond(&common.prompts) }
    }

    /// About the bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.tools.bytes() + self.prompts.bytes()
    }
}

/// The state of the servers that catalogs are built from.
#[derive(Debug, Default)]
pub(super) struct Basis {
    /// All configured servers. Names are given out among them.
    pub(super) servers: Arc<ServerSet>,
    /// What each server listed last.
    pub(super) parts: PerServer<Option<Arc<Part>>>,
    /// The names given out so far.
    pub(super) names: Arc<GivenNames>,
    /// How often names were given out anew.
    pub(super) naming_round: u64,
}

impl Basis {
    /// The configured servers with their parts.
    pub(super) fn members(&self) -> Vec<Member<'_>> {
        members(&self.servers, &self.parts)
    }
}

/// The configured servers with these parts.
pub(super) fn members<'a>(
    servers: &'a ServerSet,
    parts: &'a PerServer<Option<Arc<Part>>>,
) -> Vec<Member<'a>> {
    let member = |(index, entry): (ServerIndex, &'a Entry)| Member {
        index,
        name: &entry.name,
        prefix: entry.prefix,
        part: parts.get(index).and_then(Option::as_deref),
    };
    servers.iter().map(member).collect()
}

/// What a group of callers sees.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Shared by all catalogs that differ only in who sees them.
    pub(super) basis: Arc<Basis>,
    /// The servers that it shows: all, or those that its grant allows.
    pub(super) shown: Arc<ServerSet>,
    /// Who may see it, and the catalogs for those who may see less.
    pub(super) access: Access,
    /// The tables and lists.
    pub views: Views,
}

/// The views of a catalog.
#[derive(Debug, Default)]
pub struct Views {
    /// Of all servers together, with unique names.
    pub all: View,
    /// Of each server alone, with its own names.
    pub alone: PerServer<Arc<View>>,
    /// Whether each server completes arguments; true while that is not known.
    pub completes: PerServer<bool>,
    /// How many names are shown with a prefix because the bare name leads elsewhere.
    pub contested_names: usize,
    /// URIs that more than one server lists, in the views of everybody, for the log.
    pub contested_uris: Vec<ContestedUri>,
    /// Servers with more templates than URIs are matched against.
    pub unmatched: Vec<UnmatchedTemplates>,
}

/// A URI that two servers list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContestedUri {
    /// The URI.
    pub uri: String,
    /// The server that reads of all servers go to.
    pub owner: ServerIndex,
    /// The other server; it is reached at its own endpoint.
    pub other: ServerIndex,
}

/// The templates of one server that no URI is matched against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmatchedTemplates {
    /// The server.
    pub server: ServerIndex,
    /// How many there are.
    pub count: usize,
}

/// How catalogs are built.
#[derive(Clone, Debug)]
pub struct CatalogOptions {
    /// The only tools to show, by own or public name; `None` shows all (`--tools`).
    pub tools: Option<HashSet<String>>,
    /// How long a client may keep a list that is complete.
    pub fresh_ms: u32,
    /// Bounds for scanning items.
    pub(super) limits: Limits,
    /// Bytes of the lists made for callers who may not use everything.
    pub policy_bytes: usize,
}

impl CatalogOptions {
    fn may_show(&self, server: &ServerName, tool: &str) -> bool {
        let Some(only) = &self.tools else { return true };
        only.contains(tool) || only.contains(&names::prefixed(server, tool))
    }
}

/// Which views are built, and which exist already.
#[derive(Default)]
pub struct BuildScope<'a> {
    /// Only what it allows is shown; `None` shows everything.
    pub grant: Option<&'a Grant>,
    /// Views of single servers that are reused.
    pub existing: PerServer<Option<Arc<View>>>,
}

impl BuildScope<'_> {
    fn allows(&self, member: &Member<'_>) -> bool {
        self.grant.is_none_or(|grant| grant.servers.has_server(member.name.as_str()))
    }

    /// Whether it is of the catalog that everybody's views come from.
    fn is_everybodys(&self) -> bool {
        self.grant.is_none() && self.existing.len() == 0
    }

    fn has(&self, index: ServerIndex) -> bool {
        self.existing.get(index).is_some_and(Option::is_some)
    }
}

impl Catalog {
    /// The catalog of everybody. Gives out the names that `basis` lacks.
    pub(super) fn build(mut basis: Basis, policy: Arc<Policy>, options: &CatalogOptions) -> Self {
        let members = members(&basis.servers, &basis.parts);
        let names = Arc::make_mut(&mut basis.names);
        let views = Views::build(&members, names, options, BuildScope::default());
        Self { shown: basis.servers.clone(), basis: Arc::new(basis), access: Access::new(policy), views }
    }

    /// What calls see while they wait for names: the servers, and no name.
    pub(super) fn without_names(servers: Arc<ServerSet>, policy: Arc<Policy>) -> Self {
        let basis = Arc::new(Basis { servers: servers.clone(), ..Basis::default() });
        Self { basis, shown: servers, access: Access::new(policy), views: Views::default() }
    }
}

impl Views {
    /// Builds all views. `names` are given out among all members, whatever the scope; new ones are added.
    pub fn build(
        members: &[Member<'_>],
        names: &mut GivenNames,
        options: &CatalogOptions,
        scope: BuildScope<'_>,
    ) -> Self {
        let mut builder = Builder::new(members, options, scope);
        builder.tools(&mut names.tools);
        builder.prompts(&mut names.prompts);
        builder.resources();
        builder.instructions();
        builder.render()
    }
}

/// The views while they are built.
struct Builder<'a> {
    members: &'a [Member<'a>],
    slugs: PerServer<Option<&'a ServerName>>,
    options: &'a CatalogOptions,
    scope: BuildScope<'a>,
    all: Draft,
    alone: PerServer<Draft>,
    /// The views themselves are still empty here; everything else grows as items are added.
    views: Views,
}

/// One view while it is built: its tables, and the items of its lists.
#[derive(Default)]
struct Draft {
    view: View,
    items: [Vec<Bytes>; 4],
    /// The places of the tools that must be rendered otherwise for clients with a session.
    odd: Vec<usize>,
}

impl<'a> Builder<'a> {
    fn new(members: &'a [Member<'a>], options: &'a CatalogOptions, scope: BuildScope<'a>) -> Self {
        let servers = members.iter().map(|member| member.index.count()).max().unwrap_or(0);
        let mut slugs = PerServer::filled(servers, || None);
        let mut completes = PerServer::filled(servers, || true);
        for member in members {
            if let (Some(slug), Some(completes)) =
                (slugs.get_mut(member.index), completes.get_mut(member.index))
            {
                *slug = Some(member.name);
                *completes = member.part.is_none_or(|part| part.completes);
            }
        }
        let alone = PerServer::filled(servers, Draft::default);
        let views = Views { completes, ..Views::default() };
        Self { members, slugs, options, scope, all: Draft::default(), alone, views }
    }

    /// The view of a single server, unless an existing one is reused.
    fn alone(&mut self, index: ServerIndex) -> Option<&mut Draft> {
        self.alone.get_mut(index).filter(|_| !self.scope.has(index))
    }

    fn all_slugs(&self) -> HashSet<&'a str> {
        self.members.iter().map(|member| member.name.as_str()).collect()
    }

    fn parts(&self) -> impl Iterator<Item = (&'a Member<'a>, &'a Part)> + use<'a> {
        self.members.iter().filter_map(|member| Some((member, member.part?)))
    }

    fn tools(&mut self, names: &mut Names) {
        let mut shown = Vec::new();
        for (member, part) in self.parts() {
            let tools = part.tools(&self.options.limits).iter();
            let tools: Vec<&Tool> =
                tools.filter(|tool| self.options.may_show(member.name, &tool.item.key)).collect();
            shown.push((member, tools));
        }
        let offers: Vec<_> =
            shown.iter().map(|(member, tools)| member.offer(tools.iter().map(|tool| &tool.item))).collect();
        let assigned = names.assign(&offers, &self.all_slugs());
        self.views.contested_names += assigned.contested;
        for ((member, tools), public) in shown.iter().zip(assigned.public) {
            for (tool, public) in tools.iter().zip(public) {
                let (item, slug) = (&tool.item, member.name.as_str());
                if self.scope.grant.is_some_and(|grant| !grant.has_tool(slug, &item.key)) {
                    continue;
                }
                if tool.has_odd_output {
                    self.all.next_is_odd(public.is_some());
                    self.alone(member.index).into_iter().for_each(|alone| alone.next_is_odd(true));
                }
                let route = Route { server: member.index, rename: None, mirrored: tool.mirrored.clone() };
                self.add(List::Tools, item, public, &route);
            }
        }
    }

    fn prompts(&mut self, names: &mut Names) {
        let parts: Vec<_> = self.parts().collect();
        let offers: Vec<_> = parts.iter().map(|(member, part)| member.offer(&part.prompts)).collect();
        let assigned = names.assign(&offers, &self.all_slugs());
        self.views.contested_names += assigned.contested;
        for ((member, part), public) in parts.iter().zip(assigned.public) {
            let route = Route { server: member.index, rename: None, mirrored: Arc::default() };
            let is_allowed = self.scope.allows(member);
            for (item, public) in part.prompts.iter().zip(public).filter(|_| is_allowed) {
                self.add(List::Prompts, item, public, &route);
            }
        }
    }

    /// Adds a named item: to the view of all servers under its public name, to that of its server under its own name. The
    /// prefixed name always leads to it as well, and nothing else is ever shown under that.
    fn add(&mut self, list: List, item: &Item, public: Option<String>, route: &Route) {
        let to = |rename| Route { rename, ..route.clone() };
        if let Some(alone) = self.alone(route.server) {
            alone.table(list).insert(item.key.clone(), to(None));
            alone.items(list).push(item.raw.clone());
        }
        let own_name = || Some(render::string_token(&item.key));
        if let Some(Some(slug)) = self.slugs.get(route.server) {
            let alias = names::prefixed(slug, &item.key);
            self.all.table(list).entry(alias).or_insert_with(|| to(own_name()));
        }
        if let Some(public) = public {
            self.all.items(list).push(render::renamed(item, &public));
            let rename = if public == item.key { None } else { own_name() };
            self.all.table(list).insert(public, to(rename));
        }
    }

    fn resources(&mut self) {
        for (member, part) in self.parts() {
            let index = member.index;
            if !self.scope.allows(member) {
                continue;
            }
            for item in &part.resources {
                let listed = ListedUri::new(&item.key);
                if let Some(alone) = self.alone(index) {
                    alone.view.resources.add(&listed, index);
                    alone.items(List::Resources).push(item.raw.clone());
                }
                match self.all.view.resources.add(&listed, index) {
                    Some(owner) if owner != index && self.scope.is_everybodys() => {
                        let contested = ContestedUri { uri: item.key.clone(), owner, other: index };
                        self.views.contested_uris.push(contested);
                    }
                    Some(_) => {}
                    None => self.all.items(List::Resources).push(item.raw.clone()),
                }
            }
            for (nth, item) in part.templates.iter().enumerate() {
                let Some(template) = Template::parse(&item.key) else { continue };
                let alone = self.alone.get_mut(index).filter(|_| !self.scope.has(index));
                for draft in [Some(&mut self.all), alone].into_iter().flatten() {
                    if nth < TEMPLATES {
                        draft.view.templates.push((template.clone(), index));
                    }
                    draft.view.template_texts.entry(item.key.clone()).or_insert(index);
                    draft.items(List::Templates).push(item.raw.clone());
                }
            }
            let unmatched = part.unmatched().map(|count| UnmatchedTemplates { server: index, count });
            self.views.unmatched.extend(unmatched);
        }
    }

    fn instructions(&mut self) {
        let mut all = String::new();
        for (member, part) in self.parts() {
            if !self.scope.allows(member) {
                continue;
            }
            let Some(own) = part.instructions.as_deref().filter(|text| !text.is_empty()) else { continue };
            if let Some(alone) = self.alone(member.index) {
                alone.view.instructions = Some(own.to_owned());
            }
            let room = INSTRUCTION_BYTES.saturating_sub(all.len());
            let section = format!("## {}\n{own}\n\n", member.name);
            all.push_str(section.get(..section.floor_char_boundary(room)).unwrap_or(&section));
        }
        self.all.view.instructions = Some(all.trim_end().to_owned()).filter(|text| !text.is_empty());
    }

    fn render(mut self) -> Views {
        // Clients ask again soon for a list that lacks a server, or a part of one.
        let is_whole = |member: &Member<'_>| member.part.is_some_and(|part| part.unread.is_empty());
        let fresh_ms = |is_whole: bool| if is_whole { self.options.fresh_ms } else { 0 };
        let limits = &self.options.limits;
        let whole = self.members.iter().filter(|member| self.scope.allows(member)).all(is_whole);
        let nothing = Arc::new(Draft::default().finish(0, limits));
        let mut alone = PerServer::filled(self.alone.len(), || nothing.clone());
        for member in self.members {
            let Some(view) = alone.get_mut(member.index) else { continue };
            let existing = self.scope.existing.get(member.index).cloned().flatten();
            let draft = self.alone.get_mut(member.index).filter(|_| self.scope.allows(member));
            let finish = |draft| Arc::new(Draft::finish(draft, fresh_ms(is_whole(member)), limits));
            if let Some(made) = existing.or_else(|| draft.map(std::mem::take).map(finish)) {
                *view = made;
            }
        }
        Views { all: self.all.finish(fresh_ms(whole), limits), alone, ..self.views }
    }
}

impl Draft {
    fn finish(self, fresh_ms: u32, limits: &Limits) -> View {
        let Self { mut view, items, odd } = self;
        for ((rendered, items), list) in view.lists.iter_mut().zip(&items).zip(List::ALL) {
            *rendered = match list {
                List::Tools => Rendered::tools((items, &odd), fresh_ms, limits),
                list => Rendered::list(list.key(), items, fresh_ms),
            };
        }
        view
    }

    fn table(&mut self, list: List) -> &mut HashMap<String, Route> {
        match list {
            List::Tools => &mut self.view.tools,
            _ => &mut self.view.prompts,
        }
    }

    fn next_is_odd(&mut self, is_shown: bool) {
        let tools = self.items(List::Tools).len();
        self.odd.extend(is_shown.then_some(tools));
    }

    fn items(&mut self, list: List) -> &mut Vec<Bytes> {
        let [tools, prompts, resources, templates] = &mut self.items;
        match list {
            List::Tools => tools,
            List::Prompts => prompts,
            List::Resources => resources,
            List::Templates => templates,
        }
    }
}

/// Bytes of the instructions of all servers together. 16 KiB: they enter the context of a model with every session.
const INSTRUCTION_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests;
