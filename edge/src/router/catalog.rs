//! What all servers offer together: tables from public names to servers, and the rendered lists.
//!
//! A [`Catalog`] is immutable; each change builds a new one. Nothing here waits or knows of connections.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use wire::limits::Limits;
use wire::mcp::list::Item;
use wire::mcp::mirror::Mirrored;

use super::granted::Access;
use super::lineup::Lineup;
use super::names::{self, Names, Offer, Prefix};
use super::part::{Part, Tool};
use super::policy::Grant;
use super::render::{self, Rendered};
use super::template::{Candidate, Reading, TEMPLATES, Template};
use crate::call::{List, ServerName};

/// One server in the configured order.
#[derive(Debug)]
pub struct Member<'a> {
    /// The number it goes by in routes and views.
    pub number: usize,
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

/// Names given so far; they outlive single catalogs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenNames {
    tools: Names,
    prompts: Names,
}

impl GivenNames {
    /// Keeps those of servers that `keeps` says yes to.
    pub(super) fn retain(&mut self, keeps: impl Fn(&ServerName) -> bool) {
        self.tools.retain(&keeps);
        self.prompts.retain(&keeps);
    }

    /// These, but where `own` has others.
    pub(super) fn with(&self, own: &Self) -> Self {
        Self { tools: self.tools.with(&own.tools), prompts: self.prompts.with(&own.prompts) }
    }

    /// Those that `common` does not have, or gave to others.
    pub(super) fn beyond(&self, common: &Self) -> Self {
        Self { tools: self.tools.beyond(&common.tools), prompts: self.prompts.beyond(&common.prompts) }
    }

    /// About what they take.
    pub(super) fn bytes(&self) -> usize {
        self.tools.bytes() + self.prompts.bytes()
    }
}

/// Where a public name leads.
#[derive(Clone, Debug)]
pub struct Route {
    /// The number of the server.
    pub server: usize,
    /// The server's own name as a JSON string token, where it differs from the public one.
    pub rename: Option<Bytes>,
    /// The tool's parameters that modern clients repeat in headers.
    pub mirrored: Arc<[Mirrored]>,
}

/// One view: of all servers together, or of one alone.
#[derive(Debug, Default)]
pub struct Surface {
    tools: HashMap<String, Route>,
    prompts: HashMap<String, Route>,
    resources: HashMap<String, usize>,
    /// What URIs are held against.
    templates: Vec<(Template, usize)>,
    /// The same and more as their servers wrote them.
    template_texts: HashMap<String, usize>,
    lists: [Rendered; 4],
    instructions: Option<String>,
}

/// All views.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The servers that it shows.
    pub(super) lineup: Arc<Lineup>,
    /// What it shows to whom.
    pub(super) access: Access,
    /// What it is built from, by number.
    pub(super) parts: Vec<Option<Arc<Part>>>,
    /// The names as they were given out by then, and how often they were given out anew.
    pub(super) given: Arc<GivenNames>,
    pub(super) given_out: u64,
    /// Of all servers together, names made unique.
    pub all: Surface,
    /// Of each server alone, by its number, its names as they are.
    pub alone: Vec<Arc<Surface>>,
    /// By number, whether the server completes arguments; true while it is not known.
    pub completes: Vec<bool>,
    /// Names that are not shown as they are, because they lead elsewhere.
    pub contested: usize,
    /// URIs that more than one server lists: (URI, owner, other).
    pub doubled: Vec<(String, usize, usize)>,
    /// Servers with more templates than URIs are held against, and how many more.
    pub unmatched: Vec<(usize, usize)>,
}

/// How a catalog is built.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The only tools to show, by own or public name; `None` shows all (`--tools`).
    pub tools: Option<HashSet<String>>,
    /// How long a client may keep a list while every server is there.
    pub fresh_ms: u32,
    /// Bounds for scanning items.
    pub(super) limits: Limits,
    /// Bytes of the lists that are made for those who may not use everything.
    pub policy_bytes: usize,
}

/// What is known of the views before they are built.
#[derive(Default)]
pub struct Known<'a> {
    /// Only what it allows is in them; `None`: everything.
    pub grant: Option<&'a Grant>,
    /// By number, the views of single servers that are there already.
    pub alone: Vec<Option<Arc<Surface>>>,
}

impl Known<'_> {
    fn sees(&self, member: &Member<'_>) -> bool {
        self.grant.is_none_or(|grant| grant.servers.has_server(member.name.as_str()))
    }

    fn has(&self, number: usize) -> bool {
        self.alone.get(number).is_some_and(Option::is_some)
    }
}

impl Surface {
    /// Where a tool's public name leads. Does not allocate.
    pub fn tool(&self, name: &str) -> Option<&Route> {
        self.tools.get(name)
    }

    /// Where a prompt's public name leads.
    pub fn prompt(&self, name: &str) -> Option<&Route> {
        self.prompts.get(name)
    }

    /// The server that lists `uri`, or has a template for it: rather one that fits as RFC 6570 has it.
    pub fn resource(&self, uri: &str) -> Option<usize> {
        self.resources.get(uri).copied().or_else(|| self.fitting(uri))
    }

    /// What fits strictly fits loosely too, so most templates are read once.
    fn fitting(&self, uri: &str) -> Option<usize> {
        let (mut candidate, mut loosely) = (Candidate::new(uri), None);
        for (template, server) in &self.templates {
            // The first that fits loosely is enough; a later one counts only if it fits strictly.
            let comes_close = loosely.is_some() || candidate.fits(template, Reading::Loose);
            if comes_close && candidate.fits(template, Reading::Strict) {
                return Some(*server);
            }
            loosely = loosely.or(comes_close.then_some(*server));
        }
        loosely
    }

    /// The server that offers exactly this template (a completion names it unexpanded).
    pub fn template(&self, template: &str) -> Option<usize> {
        self.template_texts.get(template).copied()
    }

    /// A rendered list.
    pub fn list(&self, list: List) -> &Rendered {
        let [tools, prompts, resources, templates] = &self.lists;
        match list {
            List::Tools => tools,
            List::Prompts => prompts,
            List::Resources => resources,
            List::Templates => templates,
        }
    }

    /// About what it holds.
    pub fn bytes(&self) -> usize {
        // Tables hold the names again.
        2 * self.lists.iter().map(Rendered::size).sum::<usize>()
    }

    /// The same lists share the memory of those of others; about what is held beside them.
    pub(super) fn share<'o>(&mut self, others: impl Iterator<Item = &'o Self> + Clone) -> usize {
        let lists = self.lists.iter_mut().enumerate();
        let own: usize = lists
            .map(|(place, own)| {
                let mut others = others.clone().filter_map(|other| other.lists.get(place));
                if others.any(|other| own.share(other)) { 0 } else { own.size() }
            })
            .sum();
        let names = self.tools.keys().chain(self.prompts.keys()).chain(self.resources.keys());
        own + names.map(|name| name.len() + NAME_COST).sum::<usize>()
    }

    /// What the servers tell a model about their use.
    pub fn instructions(&self) -> Option<&str> {
        self.instructions.as_deref()
    }
}

impl Terms {
    fn may_show(&self, server: &ServerName, tool: &str) -> bool {
        let Some(only) = &self.tools else { return true };
        only.contains(tool) || only.contains(&names::prefixed(server, tool))
    }
}

impl Catalog {
    /// Builds all views. `given` learns the names that this round gives out, among all in any case.
    pub fn build(members: &[Member<'_>], given: &mut GivenNames, terms: &Terms, known: Known<'_>) -> Self {
        let mut catalog = Self { completes: vec![true; numbers(members)], ..Self::default() };
        for member in members {
            if let Some(completes) = catalog.completes.get_mut(member.number) {
                *completes = member.part.is_none_or(|part| part.completes);
            }
        }
        let mut builder = Builder::new(members, terms, known);
        builder.tools(&mut given.tools, &mut catalog);
        builder.prompts(&mut given.prompts, &mut catalog);
        builder.resources(&mut catalog);
        builder.instructions();
        (catalog.all, catalog.alone) = builder.render();
        catalog
    }
}

/// Places for the views of single servers, by their numbers.
fn numbers(members: &[Member<'_>]) -> usize {
    members.iter().map(|member| member.number + 1).max().unwrap_or(0)
}

/// The views while they grow: per view, tables and the items of each list.
struct Builder<'a> {
    members: &'a [Member<'a>],
    /// The slugs by number.
    slugs: Vec<Option<&'a ServerName>>,
    terms: &'a Terms,
    known: Known<'a>,
    all: Draft,
    alone: Vec<Draft>,
}

#[derive(Default)]
struct Draft {
    surface: Surface,
    items: [Vec<Bytes>; 4],
    /// Which of the tools clients with a session do not take as they are.
    odd: Vec<usize>,
}

impl<'a> Builder<'a> {
    fn new(members: &'a [Member<'a>], terms: &'a Terms, known: Known<'a>) -> Self {
        let (mut alone, mut slugs) = (Vec::new(), vec![None; numbers(members)]);
        alone.resize_with(slugs.len(), Draft::default);
        for member in members {
            if let Some(slug) = slugs.get_mut(member.number) {
                *slug = Some(member.name);
            }
        }
        Self { members, slugs, terms, known, all: Draft::default(), alone }
    }

    /// The view of a single server, unless it is there already.
    fn alone(&mut self, number: usize) -> Option<&mut Draft> {
        self.alone.get_mut(number).filter(|_| !self.known.has(number))
    }

    fn all_slugs(&self) -> HashSet<&'a str> {
        self.members.iter().map(|member| member.name.as_str()).collect()
    }

    fn parts(&self) -> impl Iterator<Item = (usize, &'a Member<'a>, &'a Part)> + use<'a> {
        self.members.iter().filter_map(|member| Some((member.number, member, member.part?)))
    }

    fn tools(&mut self, names: &mut Names, catalog: &mut Catalog) {
        let mut shown = Vec::new();
        for (server, member, part) in self.parts() {
            let tools = part.tools(&self.terms.limits).iter();
            let tools: Vec<&Tool> =
                tools.filter(|tool| self.terms.may_show(member.name, &tool.item.key)).collect();
            shown.push((server, member, tools));
        }
        let offers: Vec<_> = shown
            .iter()
            .map(|(_, member, tools)| member.offer(tools.iter().map(|tool| &tool.item)))
            .collect();
        let assigned = names.assign(&offers, &self.all_slugs());
        catalog.contested += assigned.contested;
        for ((server, member, tools), public) in shown.iter().zip(assigned.public) {
            for (tool, public) in tools.iter().zip(public) {
                let (item, slug) = (&tool.item, member.name.as_str());
                if self.known.grant.is_some_and(|grant| !grant.has_tool(slug, &item.key)) {
                    continue;
                }
                if tool.has_odd_output {
                    self.all.next_is_odd(public.is_some());
                    self.alone(*server).into_iter().for_each(|alone| alone.next_is_odd(true));
                }
                let route = Route { server: *server, rename: None, mirrored: tool.mirrored.clone() };
                self.add(List::Tools, item, public, &route);
            }
        }
    }

    fn prompts(&mut self, names: &mut Names, catalog: &mut Catalog) {
        let parts: Vec<_> = self.parts().collect();
        let offers: Vec<_> = parts.iter().map(|(_, member, part)| member.offer(&part.prompts)).collect();
        let assigned = names.assign(&offers, &self.all_slugs());
        catalog.contested += assigned.contested;
        for ((server, member, part), public) in parts.iter().zip(assigned.public) {
            let route = Route { server: *server, rename: None, mirrored: Arc::default() };
            let sees = self.known.sees(member);
            for (item, public) in part.prompts.iter().zip(public).filter(|_| sees) {
                self.add(List::Prompts, item, public, &route);
            }
        }
    }

    /// Enters one named item: under its public name for all, under its own for its server alone. The
    /// prefixed name always leads to it too; nothing else is shown under that.
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

    fn resources(&mut self, catalog: &mut Catalog) {
        for (n, member, part) in self.parts() {
            if !self.known.sees(member) {
                continue;
            }
            for item in &part.resources {
                if let Some(alone) = self.alone(n) {
                    alone.surface.resources.insert(item.key.clone(), n);
                    alone.items(List::Resources).push(item.raw.clone());
                }
                match self.all.surface.resources.get(&item.key) {
                    Some(owner) if *owner != n => catalog.doubled.push((item.key.clone(), *owner, n)),
                    Some(_) => {}
                    None => {
                        self.all.surface.resources.insert(item.key.clone(), n);
                        self.all.items(List::Resources).push(item.raw.clone());
                    }
                }
            }
            for (nth, item) in part.templates.iter().enumerate() {
                let Some(template) = Template::parse(&item.key) else { continue };
                let alone = self.alone.get_mut(n).filter(|_| !self.known.has(n));
                for draft in [Some(&mut self.all), alone].into_iter().flatten() {
                    if nth < TEMPLATES {
                        draft.surface.templates.push((template.clone(), n));
                    }
                    draft.surface.template_texts.entry(item.key.clone()).or_insert(n);
                    draft.items(List::Templates).push(item.raw.clone());
                }
            }
            catalog.unmatched.extend(part.unmatched().map(|more| (n, more)));
        }
    }

    fn instructions(&mut self) {
        let mut all = String::new();
        for (n, member, part) in self.parts() {
            if !self.known.sees(member) {
                continue;
            }
            let Some(own) = part.instructions.as_deref().filter(|text| !text.is_empty()) else { continue };
            if let Some(alone) = self.alone(n) {
                alone.surface.instructions = Some(own.to_owned());
            }
            let room = INSTRUCTION_BYTES.saturating_sub(all.len());
            let section = format!("## {}\n{own}\n\n", member.name);
            all.push_str(section.get(..section.floor_char_boundary(room)).unwrap_or(&section));
        }
        self.all.surface.instructions = Some(all.trim_end().to_owned()).filter(|text| !text.is_empty());
    }

    fn render(self) -> (Surface, Vec<Arc<Surface>>) {
        // A list that lacks a server, or a part of one, is asked for again soon.
        let is_whole = |member: &Member<'_>| member.part.is_some_and(|part| part.unread.is_empty());
        let fresh_ms = |is_whole: bool| if is_whole { self.terms.fresh_ms } else { 0 };
        let finish = |draft: Draft, fresh_ms: u32| {
            let Draft { mut surface, items, odd, .. } = draft;
            for ((rendered, items), list) in surface.lists.iter_mut().zip(&items).zip(List::ALL) {
                *rendered = match list {
                    List::Tools => Rendered::tools((items, &odd), fresh_ms, &self.terms.limits),
                    list => Rendered::list(list.key(), items, fresh_ms),
                };
            }
            surface
        };
        let whole = self.members.iter().filter(|member| self.known.sees(member)).all(is_whole);
        let nobody = Arc::new(finish(Draft::default(), 0));
        let mut alone = vec![nobody; self.alone.len()];
        let mut drafts: Vec<_> = self.alone.into_iter().map(Some).collect();
        for member in self.members {
            let Some(view) = alone.get_mut(member.number) else { continue };
            let known = self.known.alone.get(member.number).cloned().flatten();
            let draft =
                drafts.get_mut(member.number).and_then(Option::take).filter(|_| self.known.sees(member));
            let made = || draft.map(|draft| Arc::new(finish(draft, fresh_ms(is_whole(member)))));
            *view = known.or_else(made).unwrap_or_else(|| view.clone());
        }
        (finish(self.all, fresh_ms(whole)), alone)
    }
}

impl Draft {
    fn table(&mut self, list: List) -> &mut HashMap<String, Route> {
        match list {
            List::Tools => &mut self.surface.tools,
            _ => &mut self.surface.prompts,
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

/// What a name takes in a table beside its text: the route, and the alias.
const NAME_COST: usize = 256;
/// Bytes of instructions of all servers together: they enter the context of a model with every session.
const INSTRUCTION_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests;
