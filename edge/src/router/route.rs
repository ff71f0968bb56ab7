//! One call, one table look-up, one server.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use memchr::memmem::Finder;
use wire::envelope::Value;
use wire::mcp::invoke;
use wire::mcp::method::Method;
use wire::object::Object;
use wire::span::Span;

use super::catalog::{Catalog, Route, Surface};
use super::{Shared, abridged, unknown};
use crate::call::{Affinity, Call, Caller, List, Outcome, Rename, Reply, ServerName};
use crate::error::{Blame, Error, Kind};

/// What a result that holds a URI has in it.
static RESOURCE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"resource"));

impl Shared {
    /// Sends a call where it belongs, or answers it.
    pub(super) fn route(&self, call: Call) -> Reply {
        let catalog = self.catalog_of(&call.caller, &call.affinity);
        let Some(sight) = catalog.sight(call.scope.as_ref()) else {
            self.note_denied(&call, &catalog);
            return Reply::failed(unknown("a server named", scope_name(&call), "the configuration"));
        };
        let routed = match call.method {
            Method::ToolsList => return list(&call, sight.surface, List::Tools),
            Method::PromptsList => return list(&call, sight.surface, List::Prompts),
            Method::ResourcesList => return list(&call, sight.surface, List::Resources),
            Method::ResourceTemplatesList => return list(&call, sight.surface, List::Templates),
            Method::SetLevel => return self.set_level(&call, &sight),
            Method::TasksList => return self.list_tasks(&call, &sight),
            _ => self.target(&call, &sight),
        };
        if let (Method::Complete, Ok(target)) = (call.method, &routed)
            && catalog.completes.get(target.server) == Some(&false)
        {
            return nothing_to_complete();
        }
        match routed {
            Ok(target) => self.send(call, target, &catalog),
            Err(error) => {
                self.note_denied(&call, &catalog);
                Reply::failed(error)
            }
        }
    }

    /// Tells the operator of a call that only the policy keeps from where it would lead. Its caller is told what everybody
    /// is told of what is not there.
    fn note_denied(&self, call: &Call, catalog: &Catalog) {
        if catalog.grant().is_none() {
            return;
        }
        let whole = self.catalog();
        let Some(sight) = whole.sight(call.scope.as_ref()) else { return };
        let target = self.target(call, &sight).ok();
        let Some(entry) = target.and_then(|target| whole.lineup.get(target.server)) else { return };
        let named = matches!(call.method, Method::ToolsCall | Method::PromptsGet).then(|| name_of(call).ok());
        let name = named.flatten().map(|(name, _)| abridged(&name));
        self.denied(&call.caller, (&entry.name, name.as_deref()));
    }

    /// The same of a resource that somebody wants to hear of.
    pub(super) fn note_denied_resource(
        &self,
        caller: &Caller,
        catalog: &Catalog,
        (scope, uri): (Option<&ServerName>, &str),
    ) {
        if catalog.grant().is_none() {
            return;
        }
        let whole = self.catalog();
        let owner = whole.sight(scope).and_then(|sight| self.owner(&sight, (caller.principal(), uri)));
        if let Some(entry) = owner.and_then(|owner| whole.lineup.get(owner)) {
            self.denied(caller, (&entry.name, None));
        }
    }

    /// The policy keeps `caller` from something of this server.
    pub(super) fn denied(&self, caller: &Caller, (server, name): (&ServerName, Option<&str>)) {
        self.metrics.policy_denied.inc();
        tracing::debug!(caller = &**caller.principal(), %server, name, "denied by policy");
    }

    /// Where a call leads by the name or URI in it.
    fn target(&self, call: &Call, sight: &Sight<'_>) -> Result<Target, Error> {
        match call.method {
            Method::ToolsCall => self.named(sight, sight.surface.tool_named(call)),
            Method::PromptsGet => self.named(sight, sight.surface.prompt_named(call)),
            Method::ResourcesRead | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => {
                self.resource(call, sight)
            }
            Method::Complete => self.completion(call, sight),
            Method::TasksGet | Method::TasksResult | Method::TasksUpdate | Method::TasksCancel => {
                Self::task(call, sight)
            }
            _ => Err(Error::new(
                Kind::UnknownMethod,
                Blame::Downstream,
                "no server behind this gateway has this method",
            )),
        }
    }

    /// Whether its answer depends on lists: it asks for one, or for what is in none that is known.
    pub(super) fn is_about_what_may_have_changed(&self, call: &Call) -> bool {
        match call.method {
            Method::ToolsList
            | Method::PromptsList
            | Method::ResourcesList
            | Method::ResourceTemplatesList => true,
            Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead | Method::Complete => {
                let catalog = self.catalog_of(&call.caller, &call.affinity);
                let sight = catalog.sight(call.scope.as_ref());
                sight.is_some_and(|sight| self.target(call, &sight).is_err())
            }
            _ => false,
        }
    }

    fn send(&self, mut call: Call, target: Target, catalog: &Catalog) -> Reply {
        let Some(entry) = catalog.lineup.get(target.server) else {
            return Reply::failed(Error::new(Kind::Lost, Blame::Edge, "the server is no longer configured"));
        };
        if call.pin.as_ref().is_some_and(|pin| *pin != entry.name) {
            let message = "this name now leads to another server than the one that asked for input";
            return Reply::failed(Error::new(Kind::InvalidParams, Blame::Edge, message));
        }
        call.rename = target.rename;
        let (method, principal) = (call.method, call.caller.principal().clone());
        let reply = entry.server.dispatch(call).from_server(entry.name.clone());
        if !matches!(method, Method::ToolsCall | Method::PromptsGet) {
            return reply;
        }
        let (seen, server, limits) = (self.seen.clone(), target.server, self.config.limits.clone());
        reply.inspect(move |outcome| {
            let Outcome::Result(parts) = outcome else { return };
            // Few results hold a URI; the others cost one search for the word, and no copy.
            if parts.iter().any(|part| RESOURCE.find(part).is_some()) {
                for uri in invoke::links(&parts.clone().into_bytes(), &limits) {
                    seen.remember(&principal, &uri, server);
                }
            }
        })
    }

    fn named(&self, sight: &Sight<'_>, named: Result<Named<'_>, Error>) -> Result<Target, Error> {
        let Named { name, span, route, list } = named?;
        if let Some(route) = route {
            let rename = route.rename.clone().map(|token| Rename { span, token });
            return Ok(Target { server: route.server, rename });
        }
        let what = if list == List::Tools { "a tool named" } else { "a prompt named" };
        let unknown = || unknown(what, &name, list.method().as_str());
        // One server alone knows best what it has, also what its lists did not show; unless the operator
        // named the only tools there are.
        let is_open =
            self.config.tools.is_none() && (list != List::Tools || sight.catalog.takes_unlisted_tools());
        match sight.only {
            Some(server) if is_open => Ok(Target { server, rename: None }),
            Some(_) => Err(unknown()),
            None => {
                let mut error = unknown();
                // Of whom the caller's name may be.
                let unheard = self.unheard(&sight.catalog.lineup);
                if !unheard.is_empty() {
                    let names: Vec<_> = unheard.iter().map(ServerName::as_str).collect();
                    error.message += &format!(" (servers not listed yet: {})", names.join(", "));
                }
                Err(error)
            }
        }
    }

    /// The server of a resource: by the lists, then by template, then by who showed the URI to this principal.
    pub(super) fn owner(&self, sight: &Sight<'_>, (principal, uri): (&Arc<str>, &str)) -> Option<usize> {
        let lineup = &sight.catalog.lineup;
        let seen = || self.seen.server(principal, uri).filter(|server| lineup.get(*server).is_some());
        sight.only.or_else(|| sight.surface.resource(uri)).or_else(seen)
    }

    fn resource(&self, call: &Call, sight: &Sight<'_>) -> Result<Target, Error> {
        let uri = call.request.param("uri").and_then(|value| value.as_str());
        let uri = uri.ok_or_else(|| missing("uri", "the resource to read"))?;
        match self.owner(sight, (call.caller.principal(), &uri)) {
            Some(server) => Ok(Target { server, rename: None }),
            None => Err(Error::new(
                Kind::UnknownResource(uri.into_owned()),
                Blame::Downstream,
                "no server behind this gateway has this resource",
            )),
        }
    }

    /// By what is completed: a prompt's name, or a template's URI (MCP 2025-11-25 server/utilities/completion).
    fn completion(&self, call: &Call, sight: &Sight<'_>) -> Result<Target, Error> {
        let reference = call.request.param("ref").filter(Value::is_object);
        let reference = reference.ok_or_else(|| {
            let message = "params.ref must be an object that names what to complete";
            Error::new(Kind::InvalidParams, Blame::Downstream, message)
        })?;
        let bytes = call.request.bytes();
        let object = Object::scan(bytes, reference.span(), &self.config.limits).map_err(|error| {
            Error::new(Kind::InvalidParams, Blame::Downstream, format!("params.ref: {error}"))
        })?;
        let text = |key: &str| {
            let span = object.get(bytes, key)?;
            Some((span, serde_json::from_slice::<String>(span.of(bytes)).ok()?))
        };
        match text("type").as_ref().map(|(_, kind)| kind.as_str()) {
            Some("ref/prompt") => {
                let (span, name) = text("name").ok_or_else(|| missing("ref.name", "the prompt"))?;
                let route = sight.surface.prompt(&name);
                let named = Named { route, name: name.into(), span, list: List::Prompts };
                return self.named(sight, Ok(named));
            }
            Some("ref/resource") => {}
            _ => return Err(missing("ref.type", "what to complete: ref/prompt or ref/resource")),
        }
        let (_, uri) = text("uri").ok_or_else(|| missing("ref.uri", "the template"))?;
        let Sight { surface, only, .. } = sight;
        let server = only.or_else(|| surface.template(&uri)).or_else(|| surface.resource(&uri));
        let server = server.ok_or_else(|| unknown("a template", &uri, "resources/templates/list"))?;
        Ok(Target { server, rename: None })
    }
}

/// What a call sees.
pub(super) struct Sight<'c> {
    pub(super) catalog: &'c Catalog,
    /// The view it came by.
    pub(super) surface: &'c Surface,
    /// The number of the only server it may reach.
    pub(super) only: Option<usize>,
}

impl Catalog {
    /// What a call sees in this scope; `None` if there is no such server.
    pub(super) fn sight(&self, scope: Option<&ServerName>) -> Option<Sight<'_>> {
        let Some(scope) = scope else { return Some(Sight { catalog: self, surface: &self.all, only: None }) };
        let number = self.lineup.number(scope.as_str())?;
        Some(Sight { catalog: self, surface: self.alone.get(number)?, only: Some(number) })
    }
}

/// Where a call goes.
pub(super) struct Target {
    pub(super) server: usize,
    pub(super) rename: Option<Rename>,
}

/// A name that a call carries, and where it leads.
struct Named<'s> {
    name: Cow<'s, str>,
    span: Span,
    route: Option<&'s Route>,
    /// Where it would be shown.
    list: List,
}

impl Surface {
    fn tool_named<'s>(&'s self, call: &'s Call) -> Result<Named<'s>, Error> {
        name_of(call).map(|(name, span)| Named { route: self.tool(&name), name, span, list: List::Tools })
    }

    fn prompt_named<'s>(&'s self, call: &'s Call) -> Result<Named<'s>, Error> {
        name_of(call).map(|(name, span)| Named { route: self.prompt(&name), name, span, list: List::Prompts })
    }
}

fn name_of(call: &Call) -> Result<(Cow<'_, str>, Span), Error> {
    let value = call.request.param("name").ok_or_else(|| missing("name", "what to use"))?;
    let name = value.as_str().ok_or_else(|| missing("name", "what to use"))?;
    Ok((name, value.span()))
}

fn scope_name(call: &Call) -> &str {
    call.scope.as_ref().map_or("", |scope| scope.as_str())
}

/// Whether a call goes on with a list. Some clients always send the member, empty at first.
pub(super) fn has_cursor(call: &Call) -> bool {
    let cursor = call.request.param("cursor");
    cursor.is_some_and(|cursor| !cursor.is_null() && cursor.as_str().as_deref() != Some(""))
}

/// The whole list at once: no cursor is ever given out, so none can come back.
fn list(call: &Call, surface: &Surface, list: List) -> Reply {
    if has_cursor(call) {
        let message = "unknown cursor; list again without one";
        return Reply::failed(Error::new(Kind::InvalidParams, Blame::Downstream, message));
    }
    let rendered = surface.list(list);
    let bytes: Bytes = match call.affinity {
        Affinity::Session(_) => rendered.bytes_for_sessions(),
        Affinity::Principal => rendered.bytes(),
    };
    Reply::ready(Outcome::Result(bytes.into()))
}

/// A server without completions has nothing to suggest; that is no error.
fn nothing_to_complete() -> Reply {
    let nothing = br#"{"resultType":"complete","completion":{"values":[]}}"#;
    Reply::ready(Outcome::Result(Bytes::from_static(nothing).into()))
}

fn missing(key: &str, what: &str) -> Error {
    let message = format!("params.{key} must be a string that names {what}");
    Error::new(Kind::InvalidParams, Blame::Downstream, message)
}
