//! From a public name to the server that has it: what the front needs to know of the servers behind.
//!
//! [`Gateway`] is the whole view: a downstream adapter dispatches calls through it and asks it what the
//! servers offer together. It must not know of HTTP, sessions or eras.

use std::sync::Arc;

use tokio::sync::watch;
use wire::mcp::mirror::Mirrored;

use crate::call::{Dispatch, ServerName};

/// All configured servers as one. Answers the four list methods itself, routes tools, prompts, resources
/// and completions; every other method is its caller's business.
pub trait Gateway: Dispatch {
    /// The configured server of this slug, for `/servers/{slug}/…`.
    fn server(&self, slug: &str) -> Option<ServerName>;

    /// Whether public names have been given out; before that no list is the truth.
    fn is_settled(&self) -> bool;

    /// What the servers (or the one in scope) tell a model about their use.
    fn instructions(&self, scope: Option<&ServerName>) -> Option<String>;

    /// The parameters of this public tool that a modern client repeats in `Mcp-Param-*` headers. `None` when
    /// the tool is unknown.
    fn mirrored(&self, scope: Option<&ServerName>, tool: &str) -> Option<Arc<[Mirrored]>>;

    /// How often the rendered lists changed.
    fn changes(&self) -> watch::Receiver<ListChanges>;
}

/// Counts of changes of the rendered lists; a count that moved means that clients should list again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListChanges {
    /// Of `tools/list`.
    pub tools: u64,
    /// Of `prompts/list`.
    pub prompts: u64,
    /// Of `resources/list` and `resources/templates/list`.
    pub resources: u64,
}
