//! The closed sets of methods and notifications, and what a gateway must know of each.

/// A request a client makes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "each is the method it is named after; see `as_str`")]
pub enum Method {
    Initialize,
    Discover,
    Ping,
    ToolsList,
    ToolsCall,
    PromptsList,
    PromptsGet,
    ResourcesList,
    ResourceTemplatesList,
    ResourcesRead,
    ResourcesSubscribe,
    ResourcesUnsubscribe,
    Complete,
    SetLevel,
    Listen,
    TasksGet,
    TasksResult,
    TasksCancel,
    TasksList,
    TasksUpdate,
    /// Any other: passed by no one, answered with "method not found".
    Other,
}

/// What is true of a method whoever calls it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// As it stands on the wire.
    pub name: &'static str,
    /// Exists in some revision with a handshake.
    pub legacy: bool,
    /// Exists in the stateless revisions.
    pub modern: bool,
    /// The member of `params` that the `Mcp-Name` header mirrors.
    // MCP 2026-07-28 streamable-http, Standard Request Headers; tasks extension
    pub header_name: Option<&'static str>,
    /// Goes to every server, and the answers are merged.
    pub fan_out: bool,
    /// The server may need answers of the client before it can answer.
    // MCP 2026-07-28 basic/patterns/mrtr: InputRequiredResult
    pub may_ask: bool,
}

impl Method {
    /// The method of that name.
    pub fn parse(name: &str) -> Method {
        TABLE.iter().find(|(_, facts)| facts.name == name).map_or(Method::Other, |(method, _)| *method)
    }

    /// As it stands on the wire; empty for [`Method::Other`].
    pub fn as_str(self) -> &'static str {
        self.facts().name
    }

    /// What is known of it.
    pub fn facts(self) -> &'static Facts {
        TABLE.iter().find(|(method, _)| *method == self).map_or(&UNKNOWN, |(_, facts)| facts)
    }
}

const UNKNOWN: Facts = legacy_only("").neither();

const fn both(name: &'static str) -> Facts {
    Facts { name, legacy: true, modern: true, header_name: None, fan_out: false, may_ask: false }
}

const fn legacy_only(name: &'static str) -> Facts {
    Facts { modern: false, ..both(name) }
}

const fn modern_only(name: &'static str) -> Facts {
    Facts { legacy: false, ..both(name) }
}

impl Facts {
    const fn neither(self) -> Facts {
        Facts { legacy: false, modern: false, ..self }
    }

    const fn named_by(self, param: &'static str) -> Facts {
        Facts { header_name: Some(param), ..self }
    }

    const fn fan_out(self) -> Facts {
        Facts { fan_out: true, ..self }
    }

    const fn may_ask(self) -> Facts {
        Facts { may_ask: true, ..self }
    }
}

static TABLE: [(Method, Facts); 20] = [
    (Method::ToolsCall, both("tools/call").named_by("name").may_ask()),
    (Method::ToolsList, both("tools/list").fan_out()),
    (Method::ResourcesRead, both("resources/read").named_by("uri").may_ask()),
    (Method::PromptsGet, both("prompts/get").named_by("name").may_ask()),
    (Method::PromptsList, both("prompts/list").fan_out()),
    (Method::ResourcesList, both("resources/list").fan_out()),
    (Method::ResourceTemplatesList, both("resources/templates/list").fan_out()),
    (Method::Complete, both("completion/complete")),
    (Method::Ping, legacy_only("ping")),
    (Method::Initialize, legacy_only("initialize")),
    (Method::Discover, modern_only("server/discover")),
    (Method::ResourcesSubscribe, legacy_only("resources/subscribe")),
    (Method::ResourcesUnsubscribe, legacy_only("resources/unsubscribe")),
    (Method::SetLevel, legacy_only("logging/setLevel").fan_out()),
    (Method::Listen, modern_only("subscriptions/listen").fan_out()),
    (Method::TasksGet, both("tasks/get").named_by("taskId")),
    (Method::TasksCancel, both("tasks/cancel").named_by("taskId")),
    (Method::TasksUpdate, modern_only("tasks/update").named_by("taskId")),
    (Method::TasksResult, legacy_only("tasks/result").may_ask()),
    (Method::TasksList, legacy_only("tasks/list").fan_out()),
];

/// A closed set of names, and one for all others.
macro_rules! names {
    ($(#[$doc:meta])* $set:ident { $($(#[$note:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[expect(missing_docs, reason = "each is the method it is named after; see `as_str`")]
        pub enum $set {
            $($(#[$note])* $variant,)*
            /// Any other.
            Other,
        }

        impl $set {
            /// The one of that name.
            pub fn parse(name: &str) -> Self {
                match name {
                    $($name => $set::$variant,)*
                    _ => $set::Other,
                }
            }

            /// As it stands on the wire; empty for `Other`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($set::$variant => $name,)*
                    $set::Other => "",
                }
            }
        }
    };
}

names! {
    /// A notification, in either direction.
    Notice {
        Initialized = "notifications/initialized",
        Cancelled = "notifications/cancelled",
        Progress = "notifications/progress",
        Message = "notifications/message",
        ToolsChanged = "notifications/tools/list_changed",
        PromptsChanged = "notifications/prompts/list_changed",
        ResourcesChanged = "notifications/resources/list_changed",
        ResourceUpdated = "notifications/resources/updated",
        RootsChanged = "notifications/roots/list_changed",
        ElicitationComplete = "notifications/elicitation/complete",
        TaskStatus = "notifications/tasks/status",
        Tasks = "notifications/tasks",
        Acknowledged = "notifications/subscriptions/acknowledged",
    }
}

names! {
    /// A request a server makes; legacy only.
    Ask {
        Sampling = "sampling/createMessage",
        Roots = "roots/list",
        Elicitation = "elicitation/create",
        Ping = "ping",
    }
}

#[cfg(test)]
mod tests {
    use super::{Ask, Method, Notice, TABLE};

    #[test]
    fn every_method_is_known_by_its_name() {
        for (method, facts) in &TABLE {
            assert_eq!((Method::parse(facts.name), method.as_str()), (*method, facts.name));
            assert!(facts.legacy || facts.modern);
        }
        assert_eq!(Method::parse("tools/Call"), Method::Other);
        let other = Method::Other.facts();
        assert!(!other.legacy && !other.modern && other.name.is_empty());
    }

    #[test]
    fn names_for_the_header_come_from_the_parameter_that_routes() {
        // MCP 2026-07-28 streamable-http, Standard Request Headers
        let named: Vec<_> =
            TABLE.iter().filter_map(|(method, facts)| Some((method.as_str(), facts.header_name?))).collect();
        let expected = [
            ("tools/call", "name"),
            ("resources/read", "uri"),
            ("prompts/get", "name"),
            ("tasks/get", "taskId"),
            ("tasks/cancel", "taskId"),
            ("tasks/update", "taskId"),
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn notifications_and_asks_are_known_by_their_names() {
        assert_eq!(Notice::parse(Notice::Progress.as_str()), Notice::Progress);
        assert_eq!(Notice::parse("notifications/none"), Notice::Other);
        assert_eq!(Ask::parse("roots/list").as_str(), "roots/list");
        assert_eq!((Ask::parse("tools/call"), Ask::Other.as_str()), (Ask::Other, ""));
    }
}
