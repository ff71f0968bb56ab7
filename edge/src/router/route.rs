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
use super::{Shared, unknown};
use crate::call::{Affinity, Call, List, Outcome, Rename, Reply, ServerName};
use crate::error::{Blame, Error, Kind};

/// What a result that holds a URI has in it.
static RESOURCE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"resource"));

impl Shared {
    /// Sends a call where it belongs, or answers it.
    pub(super) fn route(&self, call: Call) -> Reply {
        let catalog = self.catalog_of(&call.affinity);
        let Some((surface, only)) = self.surface(&catalog, call.scope.as_ref()) else {
            return Reply::failed(unknown("a server named", scope_name(&call), "the configuration"));
        };
        let routed = match call.method {
            Method::ToolsList => return list(&call, surface, List::Tools),
            Method::PromptsList => return list(&call, surface, List::Prompts),
            Method::ResourcesList => return list(&call, surface, List::Resources),
            Method::ResourceTemplatesList => return list(&call, surface, List::Templates),
            Method::SetLevel => return self.set_level(&call, only),
            Method::TasksList => return self.list_tasks(&call, only),
            Method::TasksGet | Method::TasksResult | Method::TasksUpdate | Method::TasksCancel => {
                self.task(&call, only)
            }
            _ => self.target(&call, surface, only),
        };
        if let (Method::Complete, Ok(target)) = (call.method, &routed)
            && catalog.completes.get(target.server) == Some(&false)
        {
            return nothing_to_complete();
        }
        match routed {
            Ok(target) => self.send(call, target, &catalog),
            Err(error) => Reply::failed(error),
        }
    }

    /// Where a call leads by the name or URI in it.
    fn target(&self, call: &Call, surface: &Surface, only: Option<usize>) -> Result<Target, Error> {
        match call.method {
            Method::ToolsCall => self.named(call, surface.tool_named(call), "a tool named", "tools/list"),
            Method::PromptsGet => {
                self.named(call, surface.prompt_named(call), "a prompt named", "prompts/list")
            }
            Method::ResourcesRead | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => {
                self.resource(call, surface, only)
            }
            Method::Complete => self.completion(call, surface, only),
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
                let catalog = self.catalog_of(&call.affinity);
                let surface = self.surface(&catalog, call.scope.as_ref());
                surface.is_some_and(|(surface, only)| self.target(call, surface, only).is_err())
            }
            _ => false,
        }
    }

    fn send(&self, mut call: Call, target: Target, catalog: &Catalog) -> Reply {
        let Some(entry) = catalog.lineup.get(target.server) else {
            return Reply::failed(Error::new(Kind::Lost, Blame::Edge, "the server is no longer configured"));
        };
        if call.pin.as_ref().is_some_and(|pin| *pin != entry.name) {
            let message = "the server that wanted input first is not the one that this name leads to now";
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

    fn named(
        &self,
        call: &Call,
        named: Result<Named<'_>, Error>,
        what: &str,
        list: &str,
    ) -> Result<Target, Error> {
        let Named { name, span, route } = named?;
        if let Some(route) = route {
            let rename = route.rename.clone().map(|token| Rename { span, token });
            return Ok(Target { server: route.server, rename });
        }
        // One server alone knows best what it has, also what its lists did not show; unless the operator
        // named the only tools there are.
        match call.scope.as_ref().and_then(|scope| self.index(scope)) {
            Some(server) if self.config.tools.is_none() => Ok(Target { server, rename: None }),
            Some(_) => Err(unknown(what, &name, list)),
            None => {
                let mut error = unknown(what, &name, list);
                // Of whom the caller's name may be.
                let unheard = self.unheard();
                if !unheard.is_empty() {
                    let names: Vec<_> = unheard.iter().map(ServerName::as_str).collect();
                    error.message += &format!(" (servers not heard from yet: {})", names.join(", "));
                }
                Err(error)
            }
        }
    }

    /// The server of a resource: by the lists, then by template, then by who showed the URI to this principal.
    pub(super) fn owner(
        &self,
        surface: &Surface,
        only: Option<usize>,
        (principal, uri): (&Arc<str>, &str),
    ) -> Option<usize> {
        let seen = || self.seen.server(principal, uri).filter(|server| self.lineup().get(*server).is_some());
        only.or_else(|| surface.resource(uri)).or_else(seen)
    }

    fn resource(&self, call: &Call, surface: &Surface, only: Option<usize>) -> Result<Target, Error> {
        let uri = call.request.param("uri").and_then(|value| value.as_str());
        let uri = uri.ok_or_else(|| missing("uri", "the resource to read"))?;
        match self.owner(surface, only, (call.caller.principal(), &uri)) {
            Some(server) => Ok(Target { server, rename: None }),
            None => Err(Error::new(
                Kind::UnknownResource(uri.into_owned()),
                Blame::Downstream,
                "no server behind this gateway has this resource",
            )),
        }
    }

    /// By what is completed: a prompt's name, or a template's URI (MCP 2025-11-25 server/utilities/completion).
    fn completion(&self, call: &Call, surface: &Surface, only: Option<usize>) -> Result<Target, Error> {
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
                let named = Named { route: surface.prompt(&name), name: name.into(), span };
                return self.named(call, Ok(named), "a prompt named", "prompts/list");
            }
            Some("ref/resource") => {}
            _ => return Err(missing("ref.type", "what to complete: ref/prompt or ref/resource")),
        }
        let (_, uri) = text("uri").ok_or_else(|| missing("ref.uri", "the template"))?;
        let server = only.or_else(|| surface.template(&uri)).or_else(|| surface.resource(&uri));
        let server = server.ok_or_else(|| unknown("a template", &uri, "resources/templates/list"))?;
        Ok(Target { server, rename: None })
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
}

impl Surface {
    fn tool_named<'s>(&'s self, call: &'s Call) -> Result<Named<'s>, Error> {
        name_of(call).map(|(name, span)| Named { route: self.tool(&name), name, span })
    }

    fn prompt_named<'s>(&'s self, call: &'s Call) -> Result<Named<'s>, Error> {
        name_of(call).map(|(name, span)| Named { route: self.prompt(&name), name, span })
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
