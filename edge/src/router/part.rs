//! What one server offers, and what is shown of it: read once, whoever sees how much of it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use wire::limits::Limits;
use wire::mcp::list::Item;
use wire::mcp::mirror::Mirrored;

use super::mend::Faults;
use super::render;
use super::template::TEMPLATES;
use crate::call::List;
use crate::error::Error;

/// What one server offers, as its control connection listed it.
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
    /// What the server tells a model about its use.
    pub instructions: Option<String>,
    /// Whether it completes arguments.
    pub completes: bool,
    /// It declares nothing that could be listed, so it is asked for no list.
    pub lists_nothing: bool,
    /// Which of its lists could not be read when they were last asked for, and why.
    pub unread: Vec<(List, Error)>,
    /// What is not shown as the server sent it, by list.
    pub faults: BTreeMap<List, Faults>,
    /// What is shown of its tools.
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

    /// The same, to be changed.
    pub(super) fn items_mut(&mut self, list: List) -> &mut Vec<Item> {
        self.shown = Shown::default();
        match list {
            List::Tools => &mut self.tools,
            List::Prompts => &mut self.prompts,
            List::Resources => &mut self.resources,
            List::Templates => &mut self.templates,
        }
    }

    /// How many of its templates no URI is held against, if any.
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
    /// Its `outputSchema` is none that clients with a session take.
    pub(super) has_odd_output: bool,
}

/// The tools that can be shown of a part, made when somebody looks first. A copy of the part, which may be changed, makes
/// its own.
#[derive(Debug, Default)]
pub(super) struct Shown(OnceLock<Vec<Tool>>);

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// It says nothing that the part does not.
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
