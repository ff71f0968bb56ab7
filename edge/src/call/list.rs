//! What a server can be asked to list.

use wire::mcp::method::{Method, Notice};

/// One of the four lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum List {
    /// `tools/list`
    Tools,
    /// `prompts/list`
    Prompts,
    /// `resources/list`
    Resources,
    /// `resources/templates/list`
    Templates,
}

impl List {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// The method that asks for it.
    pub fn method(self) -> Method {
        match self {
            Self::Tools => Method::ToolsList,
            Self::Prompts => Method::PromptsList,
            Self::Resources => Method::ResourcesList,
            Self::Templates => Method::ResourceTemplatesList,
        }
    }

    /// The member of the result that holds it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Templates => "resourceTemplates",
            other => other.capability(),
        }
    }

    /// The capability of servers that have it.
    pub fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources | Self::Templates => "resources",
        }
    }

    /// What says that it changed. Templates have no notification of their own.
    // MCP 2025-11-25 server/resources, List Changed Notification
    pub fn changed(self) -> Notice {
        match self {
            Self::Tools => Notice::ToolsChanged,
            Self::Prompts => Notice::PromptsChanged,
            Self::Resources | Self::Templates => Notice::ResourcesChanged,
        }
    }
}
