//! Routes calls: one table lookup leads to one server.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use memchr::memmem::Finder;
use wire::envelope::Value;
use wire::mcp::invoke;
use wire::mcp::method::Method;
use wire::object::Object;
use wire::span::Span;

use super::catalog::Catalog;
use super::listed_uris::Located;
use super::render::string_token;
use super::server_set::ServerIndex;
use super::view::{Route, View};
use super::{Shared, abridged, unknown};
use crate::call::{Affinity, Call, Caller, List, Outcome, Rename, Reply, ServerName};
use crate::error::{Blame, Error, Kind};

/// Occurs in every result that holds a URI.
static RESOURCE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"resource"));

impl Shared {
    /// Sends a call to the server that its name or URI leads to, or answers it here.
    pub(super) fn route(self: &Arc<Self>, call: Call) -> Reply {
        let catalog = self.catalog_of(&call.caller, &call.affinity);
        let Some(scoped) = catalog.scoped(call.scope.as_ref()) else {
            self.note_denied(&call, &catalog);
            return Reply::failed(unknown("a server named", scope_name(&call), "the configuration"));
        };
        if is_list(call.method)
            && let Some(renewed) = self.renew(&scoped, self.config.fresh)
        {
            return self.clone().after_renewal(call, renewed);
        }
        let routed = match call.method {
            Method::ToolsList => return list(&call, scoped.view, List::Tools),
            Method::PromptsList => return list(&call, scoped.view, List::Prompts),
            Method::ResourcesList => return list(&call, scoped.view, List::Resources),
            Method::ResourceTemplatesList => return list(&call, scoped.view, List::Templates),
            Method::SetLevel => return self.set_level(&call, &scoped),
            Method::TasksList => return self.list_tasks(&call, &scoped),
            _ => self.target(&call, &scoped),
        };
        if let (Method::Complete, Ok(target)) = (call.method, &routed)
            && catalog.views.completes.get(target.server) == Some(&false)
        {
            return nothing_to_complete(&call.affinity);
        }
        match routed {
            Ok(target) => self.send(call, target, &catalog),
            Err(error) => {
                let renewed = names_something(call.method).then(|| self.renew(&scoped, Duration::ZERO));
                if let Some(renewed) = renewed.flatten() {
                    // Called again, this finds the lists too new to be read once more.
                    return self.clone().after_renewal(call, renewed);
                }
                self.note_denied(&call, &catalog);
                Reply::failed(error)
            }
        }
    }

    /// Counts and logs a call that only the policy keeps from its server. Its caller gets the answer for what does not
    /// exist.
    fn note_denied(&self, call: &Call, catalog: &Catalog) {
        if catalog.grant().is_none() {
            return;
        }
        let whole = self.catalog();
        let Some(scoped) = whole.scoped(call.scope.as_ref()) else { return };
        let target = self.target(call, &scoped).ok();
        let Some(entry) = target.and_then(|target| whole.shown.get(target.server)) else { return };
        let named = matches!(call.method, Method::ToolsCall | Method::PromptsGet).then(|| name_of(call).ok());
        let name = named.flatten().map(|(name, _)| abridged(&name));
        self.denied(&call.caller, (&entry.name, name.as_deref()));
    }

    /// Counts and logs a subscription to a resource that only the policy denies.
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
        let scoped = whole.scoped(scope);
        let owner = scoped.as_ref().and_then(|scoped| self.owner(scoped, (caller.principal(), uri)));
        if let Some(entry) = owner.and_then(|owner| whole.shown.get(owner.server)) {
            self.denied(caller, (&entry.name, None));
        }
    }

    /// Counts and logs that the policy denied `caller` something of this server.
    pub(super) fn denied(&self, caller: &Caller, (server, name): (&ServerName, Option<&str>)) {
        self.metrics.policy_denied.inc();
        tracing::debug!(caller = &**caller.principal(), %server, name, "denied by policy");
    }

    /// Where the name or URI in a call leads.
    fn target(&self, call: &Call, scoped: &ScopedView<'_>) -> Result<Target, Error> {
        match call.method {
            Method::ToolsCall => self.named(scoped, scoped.view.tool_named(call)),
            Method::PromptsGet => self.named(scoped, scoped.view.prompt_named(call)),
            Method::ResourcesRead | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => {
                self.resource(call, scoped)
            }
            Method::Complete => self.completion(call, scoped),
            Method::TasksGet | Method::TasksResult | Method::TasksUpdate | Method::TasksCancel => {
                Self::task(call, scoped)
            }
            _ => Err(Error::new(
                Kind::UnknownMethod,
                Blame::Downstream,
                "no server behind this gateway has this method",
            )),
        }
    }

    /// Whether the answer to a call may depend on a changed list: it asks for one, or for something that no known list has.
    pub(super) fn is_about_what_may_have_changed(&self, call: &Call) -> bool {
        if !names_something(call.method) {
            return is_list(call.method);
        }
        let catalog = self.catalog_of(&call.caller, &call.affinity);
        let scoped = catalog.scoped(call.scope.as_ref());
        scoped.is_some_and(|scoped| self.target(call, &scoped).is_err())
    }

    fn send(&self, mut call: Call, target: Target, catalog: &Catalog) -> Reply {
        let Some(entry) = catalog.shown.get(target.server) else {
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
        let (shown_uris, server, limits) =
            (self.shown_uris.clone(), target.server, self.config.limits.clone());
        reply.inspect(move |outcome| {
            let Outcome::Result(parts) = outcome else { return };
            // Few results hold a URI. The others cost one search for the word, and no copy.
            if parts.iter().any(|part| RESOURCE.find(part).is_some()) {
                for uri in invoke::links(&parts.clone().into_bytes(), &limits) {
                    shown_uris.remember(&principal, &uri, server);
                }
            }
        })
    }

    fn named(&self, scoped: &ScopedView<'_>, named: Result<Named<'_>, Error>) -> Result<Target, Error> {
        let Named { name, span, route, list } = named?;
        if let Some(route) = route {
            let rename = route.rename.clone().map(|token| Rename { span, token });
            return Ok(Target { server: route.server, rename });
        }
        let what = if list == List::Tools { "a tool named" } else { "a prompt named" };
        let unknown = || unknown(what, &name, list.method().as_str());
        // At the endpoint of a single server that server decides, also about names that its lists did not show; unless
        // the operator named the only tools to show.
        let is_open =
            self.config.tools.is_none() && (list != List::Tools || scoped.catalog.takes_unlisted_tools());
        match scoped.only {
            Some(server) if is_open => Ok(Target { server, rename: None }),
            Some(_) => Err(unknown()),
            None => {
                let mut error = unknown();
                // The name may be one of theirs.
                let never_listed = self.never_listed(&scoped.catalog.shown);
                if !never_listed.is_empty() {
                    let names: Vec<_> = never_listed.iter().map(ServerName::as_str).collect();
                    error.message += &format!(" (servers not listed yet: {})", names.join(", "));
                }
                Err(error)
            }
        }
    }

    /// The server of a resource: by the lists, then by template, then by the server that showed the URI to this principal.
    /// At the endpoint of a single server it is that one, whatever its lists show.
    pub(super) fn owner<'c>(
        &self,
        scoped: &ScopedView<'c>,
        (principal, uri): (&Arc<str>, &str),
    ) -> Option<Located<'c>> {
        if let Some(server) = scoped.only {
            return Some(Located { server, listed: scoped.view.respelled(uri) });
        }
        let shown = &scoped.catalog.shown;
        let remembered =
            || self.shown_uris.server(principal, uri).filter(|server| shown.get(*server).is_some());
        scoped.view.resource(uri).or_else(|| remembered().map(Located::at))
    }

    fn resource(&self, call: &Call, scoped: &ScopedView<'_>) -> Result<Target, Error> {
        let text = call.request.param("uri").and_then(|value| Some((value.span(), value.as_str()?)));
        let (span, uri) = text.ok_or_else(|| missing("uri", "the resource to read"))?;
        match self.owner(scoped, (call.caller.principal(), &uri)) {
            Some(located) => Ok(Target::resource(located, span)),
            None => Err(Error::new(
                Kind::UnknownResource(uri.into_owned()),
                Blame::Downstream,
                "no server behind this gateway has this resource",
            )),
        }
    }

    /// The server of what is to be completed: a prompt's name, or a template's URI.
    // MCP 2025-11-25 server/utilities/completion
    fn completion(&self, call: &Call, scoped: &ScopedView<'_>) -> Result<Target, Error> {
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
                let route = scoped.view.prompt(&name);
                let named = Named { route, name: name.into(), span, list: List::Prompts };
                return self.named(scoped, Ok(named));
            }
            Some("ref/resource") => {}
            _ => return Err(missing("ref.type", "what to complete: ref/prompt or ref/resource")),
        }
        let (span, uri) = text("uri").ok_or_else(|| missing("ref.uri", "the template"))?;
        let ScopedView { view, only, .. } = scoped;
        let template = only.filter(|_| view.respelled(&uri).is_none()).or_else(|| view.template(&uri));
        let located = template.map(Located::at).or_else(|| view.resource(&uri));
        let located = located.ok_or_else(|| unknown("a template", &uri, "resources/templates/list"))?;
        Ok(Target::resource(located, span))
    }
}

/// What a call at one endpoint sees.
pub(super) struct ScopedView<'c> {
    pub(super) catalog: &'c Catalog,
    /// The view of the endpoint.
    pub(super) view: &'c View,
    /// The server of the endpoint, if it is that of a single server.
    pub(super) only: Option<ServerIndex>,
}

impl Catalog {
    /// What a call sees at the endpoint of `scope`, or at that of all servers; `None` if there is no such server.
    pub(super) fn scoped(&self, scope: Option<&ServerName>) -> Option<ScopedView<'_>> {
        let Some(scope) = scope else {
            return Some(ScopedView { catalog: self, view: &self.views.all, only: None });
        };
        let index = self.shown.index_of(scope.as_str())?;
        Some(ScopedView { catalog: self, view: self.views.alone.get(index)?, only: Some(index) })
    }
}

/// Where a call goes.
pub(super) struct Target {
    pub(super) server: ServerIndex,
    pub(super) rename: Option<Rename>,
}

impl Target {
    /// The server of the resource that a call names at `span`. It gets its own spelling of the URI.
    fn resource(located: Located<'_>, span: Span) -> Self {
        let rename = located.listed.map(|listed| Rename { span, token: string_token(listed) });
        Self { server: located.server, rename }
    }
}

/// A name in a call, and where it leads.
struct Named<'s> {
    name: Cow<'s, str>,
    span: Span,
    route: Option<&'s Route>,
    /// The list that would show it.
    list: List,
}

impl View {
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

fn is_list(method: Method) -> bool {
    List::ALL.into_iter().any(|list| list.method() == method)
}

/// Whether calls of this method lead to what a list shows.
fn names_something(method: Method) -> bool {
    matches!(method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead | Method::Complete)
}

/// Whether a call asks for a further page. Some clients always send a cursor, empty at first.
pub(super) fn has_cursor(call: &Call) -> bool {
    let cursor = call.request.param("cursor");
    cursor.is_some_and(|cursor| !cursor.is_null() && cursor.as_str().as_deref() != Some(""))
}

/// Answers with the whole list: no cursor is ever given out, so none can come back.
fn list(call: &Call, view: &View, list: List) -> Reply {
    if has_cursor(call) {
        let message = "unknown cursor; list again without one";
        return Reply::failed(Error::new(Kind::InvalidParams, Blame::Downstream, message));
    }
    let rendered = view.list(list);
    Reply::ready(Outcome::Result(match call.affinity {
        Affinity::Session(_) => rendered.for_sessions(),
        Affinity::Principal => rendered.bytes().into(),
    }))
}

/// A server without completions has nothing to suggest, which is not an error.
fn nothing_to_complete(affinity: &Affinity) -> Reply {
    let nothing: &[u8] = match affinity {
        Affinity::Session(_) => br#"{"completion":{"values":[]}}"#,
        Affinity::Principal => br#"{"resultType":"complete","completion":{"values":[]}}"#,
    };
    Reply::ready(Outcome::Result(Bytes::from_static(nothing).into()))
}

fn missing(key: &str, what: &str) -> Error {
    let message = format!("params.{key} must be a string that names {what}");
    Error::new(Kind::InvalidParams, Blame::Downstream, message)
}
