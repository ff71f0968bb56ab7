//! What clients of one endpoint see: lookup tables and rendered lists, of all servers together or of a single one.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use wire::mcp::mirror::Mirrored;

use super::listed_uris::{ListedUris, Located};
use super::render::Rendered;
use super::server_set::ServerIndex;
use super::template::{Candidate, Reading, Template};
use crate::call::List;

/// Where a public name leads.
#[derive(Clone, Debug)]
pub struct Route {
    /// The server that has it.
    pub server: ServerIndex,
    /// The server's own name as a JSON string token, where it differs from the public one.
    pub rename: Option<Bytes>,
    /// The tool's parameters that modern clients repeat in headers.
    pub mirrored: Arc<[Mirrored]>,
}

/// The tables and lists of all servers together, or of a single server.
#[derive(Debug, Default)]
pub struct View {
    pub(super) tools: HashMap<String, Route>,
    pub(super) prompts: HashMap<String, Route>,
    pub(super) resources: ListedUris,
    /// The templates that URIs are matched against.
    pub(super) templates: Vec<(Template, ServerIndex)>,
    /// All templates, as their servers wrote them.
    pub(super) template_texts: HashMap<String, ServerIndex>,
    pub(super) lists: [Rendered; 4],
    pub(super) instructions: Option<String>,
}

impl View {
    /// Where a tool's public name leads. Does not allocate.
    pub fn tool(&self, name: &str) -> Option<&Route> {
        self.tools.get(name)
    }

    /// Where a prompt's public name leads.
    pub fn prompt(&self, name: &str) -> Option<&Route> {
        self.prompts.get(name)
    }

    /// The server that lists `uri`, in this spelling or else in another one, or has a template that matches it. A strict
    /// match (RFC 6570) goes before a loose one.
    // A template matches nearly every spelling, so a listed one would never be found after it.
    pub fn resource(&self, uri: &str) -> Option<Located<'_>> {
        self.resources.find(uri).or_else(|| self.matching(uri).map(Located::at))
    }

    /// The server's own spelling of `uri`, if it lists the resource in another one.
    pub(super) fn respelled(&self, uri: &str) -> Option<&str> {
        self.resources.find(uri)?.listed
    }

    /// A strict match is also a loose one, so most templates are matched once.
    fn matching(&self, uri: &str) -> Option<ServerIndex> {
        let (mut candidate, mut loosely) = (Candidate::new(uri), None);
        for (template, server) in &self.templates {
            // The first loose match is enough; after it only a strict match counts.
            let may_match = loosely.is_some() || candidate.fits(template, Reading::Loose);
            if may_match && candidate.fits(template, Reading::Strict) {
                return Some(*server);
            }
            loosely = loosely.or(may_match.then_some(*server));
        }
        loosely
    }

    /// The server that offers exactly this template: a completion names it unexpanded.
    pub fn template(&self, template: &str) -> Option<ServerIndex> {
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

    /// About the bytes that it holds.
    pub fn bytes(&self) -> usize {
        // The tables hold the names once more.
        2 * self.lists.iter().map(Rendered::size).sum::<usize>() + self.resources.form_bytes()
    }

    /// Lists that equal those of `others` share their memory. Returns about the bytes that are not shared.
    pub(super) fn share<'o>(&mut self, others: impl Iterator<Item = &'o Self> + Clone) -> usize {
        let lists = self.lists.iter_mut().enumerate();
        let own: usize = lists
            .map(|(place, own)| {
                let mut others = others.clone().filter_map(|other| other.lists.get(place));
                if others.any(|other| own.share(other)) { 0 } else { own.size() }
            })
            .sum();
        let names = self.tools.keys().chain(self.prompts.keys()).chain(self.resources.iter());
        own + self.resources.form_bytes() + names.map(|name| name.len() + NAME_COST).sum::<usize>()
    }

    /// What the servers tell a model about their use.
    pub fn instructions(&self) -> Option<&str> {
        self.instructions.as_deref()
    }
}

/// Bytes of a table entry beside its name: the route, and the prefixed alias.
const NAME_COST: usize = 256;
