//! What one server offers, and how its tools are shown. The tools are rendered once for all catalogs that show them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use wire::limits::Limits;
use wire::mcp::list::Item;
use wire::mcp::mirror::Mirrored;

use super::render;
use super::repair::ItemDefects;
use super::template::TEMPLATES;
use crate::call::List;
use crate::error::Error;

/// What one server offers, as listed over its control connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// `tools/list`, every page.
    pub tools: Vec<Item>,
    /// `prompts/list`, every page.
    pub prompts: Vec<Item>,
    /// `resources/list`, every page.
    pub resources: Vec<Item>,
    /// `resources/templates/list`, every page.
    pub templates: Vec<Item>,
    /// The server's instructions to models.
    pub instructions: Option<String>,
    /// Whether it completes arguments.
    pub completes: bool,
    /// Its capabilities declare nothing that could be listed, so no list is requested.
    pub lists_nothing: bool,
    /// The lists that could not be read the last time, and why.
    pub unread: Vec<(List, Error)>,
    /// The items that are not shown as the server sent them, by list.
    pub defects: BTreeMap<List, ItemDefects>,
    /// Its tools as they are shown.
    pub(super) shown: Shown,
}

impl Part {
    /// The items of one list.
    pub(super) fn items(&self, list: List) -> &Vec<Item> {
        match list {
            List::Tools => &self.tools,
            List::Prompts => &self.prompts,
            List::Resources => &self.resources,
            List::Templates => &self.templates,
        }
    }

    /// The items of one list, to be changed. Tools are rendered anew afterwards.
    pub(super) fn items_mut(&mut self, list: List) -> &mut Vec<Item> {
        self.shown = Shown::default();
        match list {
            List::Tools => &mut self.tools,
            List::Prompts => &mut self.prompts,
            List::Resources => &mut self.resources,
            List::Templates => &mut self.templates,
        }
    }

    /// How many of its templates no URI is matched against, if any.
    pub(super) fn unmatched(&self) -> Option<usize> {
        self.templates.len().checked_sub(TEMPLATES).filter(|more| *more > 0)
    }
}

/// A tool as it is shown.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) item: Item,
    /// The parameters that modern clients repeat in headers.
    pub(super) mirrored: Arc<[Mirrored]>,
    /// Clients with a session do not accept its `outputSchema`.
    pub(super) has_odd_output: bool,
}

/// The rendered tools of a part, made when they are first needed. A clone starts empty, because the cloned part may be
/// changed.
#[derive(Debug, Default)]
pub(super) struct Shown(OnceLock<Vec<Tool>>);

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Always equal: it is derived from the other members of the part.
impl PartialEq for Shown {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Shown {}

impl Part {
    /// Its tools as they are shown.
    pub(super) fn tools(&self, limits: &Limits) -> &[Tool] {
        let show = |item: &Item| {
            let (item, mirrored) = render::tool(item, limits)?;
            let has_odd_output = render::without_odd_output(&item.raw, limits).is_some();
            Some(Tool { item, mirrored: mirrored.into(), has_odd_output })
        };
        self.shown.0.get_or_init(|| self.tools.iter().filter_map(show).collect())
    }
}
