//! One connection: which era it speaks, what may be asked in it, and the way of a request to its answer.
//!
//! ```text
//!              discover, or any request with a valid envelope
//! Undecided ───────────────────────────────────────────────▶ Modern   (initialize → -32022)
//!     └──────────── initialize ──────────▶ Legacy                     (an envelope → -32600)
//! ```
//! The first request that is let in pins the connection to it, as SDK servers that speak both do.

use std::time::Duration;

use serde_json::Value;

use crate::answers;
use crate::message::{Message, Params, SleepArguments};
use crate::output::Output;
use crate::sleep::{Sleep, Sleeps};

/// Which eras the server was told to speak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    Legacy,
    Modern,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Era {
    Undecided,
    Legacy,
    Modern,
}

/// The state of the connection.
pub(crate) struct Session {
    offered: Offered,
    era: Era,
    output: Output,
    sleeps: Sleeps,
}

/// An error answer: code, sentence, and `data` as JSON if there is some.
struct Refusal {
    code: i32,
    message: &'static str,
    data: Option<String>,
}

/// A request on its way.
struct Asked<'a> {
    id: &'a str,
    method: &'a str,
    params: Params<'a>,
}

impl Session {
    pub(crate) fn new(offered: Offered, output: Output, sleeps: Sleeps) -> Self {
        Session { offered, era: Era::Undecided, output, sleeps }
    }

    /// Takes one line and puts the answer into the output, if there is one by now.
    pub(crate) fn take_line(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        let Ok(message) = serde_json::from_slice::<Message<'_>>(line) else {
            return self.refuse("null", &Refusal::new(PARSE_ERROR, "not a JSON-RPC message"));
        };
        let params =
            message.params.map_or(Ok(Params::default()), |params| serde_json::from_str(params.get()));
        match (message.id, message.method, params) {
            (Some(id), Some(method), Ok(params)) => {
                self.answer(&Asked { id: id.get(), method: &method, params });
            }
            (Some(id), Some(_), Err(_)) => {
                self.refuse(id.get(), &Refusal::new(INVALID_PARAMS, "params are malformed"));
            }
            (None, Some(method), Ok(params)) if method == "notifications/cancelled" => {
                self.sleeps.cancel(params.request_id.map_or("", |id| id.get()));
            }
            // Other notifications, and responses to questions that were never asked.
            _ => {}
        }
    }

    fn answer(&mut self, asked: &Asked<'_>) {
        let result = match self.enter(asked) {
            Ok(()) => self.result(asked),
            Err(refusal) => Err(refusal),
        };
        match result {
            Ok(Some(opening)) => {
                let parts = [
                    r#"{"jsonrpc":"2.0","id":"#,
                    asked.id,
                    r#","result":"#,
                    &opening,
                    self.ending(asked.method),
                ];
                self.output.put(&parts);
            }
            Ok(None) => {} // `sleep` answers later
            Err(refusal) => self.refuse(asked.id, &refusal),
        }
    }

    /// Lets the request in, or says why not; the first one that comes in pins the era.
    fn enter(&mut self, asked: &Asked<'_>) -> Result<(), Refusal> {
        let enveloped = asked.params.meta.as_ref().is_some_and(|meta| meta.protocol_version.is_some());
        match (asked.method, self.era) {
            ("initialize", Era::Modern) => Err(unsupported(asked.params.protocol_version.as_deref())),
            ("initialize", _) if self.offered == Offered::Modern => {
                Err(unsupported(asked.params.protocol_version.as_deref()))
            }
            ("initialize", Era::Legacy) => Err(Refusal::new(INVALID_REQUEST, "already initialized")),
            ("initialize", Era::Undecided) => {
                self.era = Era::Legacy;
                Ok(())
            }
            ("server/discover", _) if self.offered == Offered::Legacy => Err(Refusal::unknown_method()),
            (_, Era::Legacy) if enveloped && self.offered == Offered::Both => {
                Err(Refusal::new(INVALID_REQUEST, "this connection was opened by initialize"))
            }
            (_, Era::Legacy) => Ok(()),
            ("ping", Era::Undecided) if !enveloped => Ok(()),
            (_, Era::Undecided) if self.offered == Offered::Legacy => {
                Err(Refusal::new(INVALID_REQUEST, "initialize first"))
            }
            (_, Era::Undecided | Era::Modern) => {
                check_envelope(&asked.params)?;
                self.era = Era::Modern;
                Ok(())
            }
        }
    }

    /// The result without its ending; `None` when it comes later.
    fn result(&self, asked: &Asked<'_>) -> Result<Option<String>, Refusal> {
        let params = &asked.params;
        let modern = self.era == Era::Modern;
        let result = match asked.method {
            "tools/call" => return self.call_tool(asked),
            "initialize" => answers::initialized(negotiated(params.protocol_version.as_deref())),
            "server/discover" if modern => answers::discovered(MODERN_VERSION),
            "ping" if !modern => "{".to_owned(),
            "tools/list" => answers::TOOLS.clone(),
            "resources/list" => answers::RESOURCES.clone(),
            "resources/templates/list" => answers::TEMPLATES.clone(),
            "prompts/list" => answers::PROMPTS.clone(),
            "resources/read" => {
                let uri = params.uri.as_deref().unwrap_or_default();
                answers::resource(uri).ok_or_else(|| no_resource(uri, modern))?
            }
            "prompts/get" => {
                let arguments = params.arguments.map_or("{}", |arguments| arguments.get());
                answers::prompt(params.name.as_deref().unwrap_or_default(), arguments)
                    .ok_or(Refusal::new(INVALID_PARAMS, "no such prompt"))?
            }
            "completion/complete" => {
                answers::completion(params.argument.as_ref().map_or("", |argument| &argument.value))
            }
            _ => return Err(Refusal::unknown_method()),
        };
        Ok(Some(result))
    }

    fn call_tool(&self, asked: &Asked<'_>) -> Result<Option<String>, Refusal> {
        let name = asked.params.name.as_deref().unwrap_or_default();
        let arguments = asked.params.arguments.map_or("{}", |arguments| arguments.get());
        if name != "sleep" {
            // MCP 2025-11-25 server/tools, Error Handling: an unknown tool is a protocol error
            return answers::tool(name, arguments)
                .map(Some)
                .ok_or(Refusal::new(INVALID_PARAMS, "no such tool"));
        }
        let Some(length) = serde_json::from_str(arguments).ok().and_then(|arguments| length(&arguments))
        else {
            return Ok(Some(answers::tool_error("sleep needs \"ms\" or \"seconds\", from 0 to an hour")));
        };
        let progress_token = asked.params.meta.as_ref().and_then(|meta| meta.progress_token);
        let begun = self.sleeps.begin(Sleep {
            id: asked.id.to_owned(),
            progress_token: progress_token.map(|token| token.get().to_owned()),
            length,
            ending: self.ending(asked.method),
        });
        if begun {
            Ok(None)
        } else {
            Err(Refusal::new(INTERNAL_ERROR, "too many calls sleep, or one has this id"))
        }
    }

    /// The members that only the modern era has, and the braces of result and message.
    // MCP 2026-07-28: every result carries `resultType`; those a client may keep, `ttlMs` and `cacheScope`
    fn ending(&self, method: &str) -> &'static str {
        let cacheable = matches!(
            method,
            "server/discover"
                | "tools/list"
                | "resources/list"
                | "resources/templates/list"
                | "prompts/list"
                | "resources/read"
        );
        match (self.era, cacheable) {
            (Era::Modern, true) => r#","resultType":"complete","ttlMs":60000,"cacheScope":"public"}}"#,
            (Era::Modern, false) => r#","resultType":"complete"}}"#,
            _ => "}}",
        }
    }

    fn refuse(&self, id: &str, refusal: &Refusal) {
        let message = quoted(refusal.message);
        let data = refusal.data.as_ref().map(|data| format!(r#","data":{data}"#)).unwrap_or_default();
        let error = format!(r#","error":{{"code":{},"message":{message}{data}}}}}"#, refusal.code);
        self.output.put(&[r#"{"jsonrpc":"2.0","id":"#, id, &error]);
    }
}

impl Refusal {
    fn new(code: i32, message: &'static str) -> Self {
        Refusal { code, message, data: None }
    }

    fn unknown_method() -> Self {
        Refusal::new(METHOD_NOT_FOUND, "no such method")
    }
}

// MCP 2026-07-28 basic, Request Metadata
fn check_envelope(params: &Params<'_>) -> Result<(), Refusal> {
    let Some(meta) = &params.meta else {
        return Err(Refusal::new(INVALID_PARAMS, "params._meta is missing"));
    };
    match (meta.protocol_version.as_deref(), meta.client_capabilities) {
        (Some(MODERN_VERSION), Some(capabilities)) if capabilities.get().starts_with('{') => Ok(()),
        (Some(version), Some(_)) if version != MODERN_VERSION => Err(unsupported(Some(version))),
        _ => Err(Refusal::new(INVALID_PARAMS, "_meta needs protocolVersion and clientCapabilities")),
    }
}

/// The version asked for if we speak it, else our latest.
// MCP 2025-11-25 lifecycle, Version Negotiation
fn negotiated(requested: Option<&str>) -> &str {
    requested.filter(|version| LEGACY_VERSIONS.contains(version)).unwrap_or(LATEST_LEGACY_VERSION)
}

fn unsupported(requested: Option<&str>) -> Refusal {
    let requested = quoted(requested.unwrap_or_default());
    let data = format!(r#"{{"supported":["{MODERN_VERSION}"],"requested":{requested}}}"#);
    Refusal { code: UNSUPPORTED_VERSION, message: "unsupported protocol version", data: Some(data) }
}

fn no_resource(uri: &str, modern: bool) -> Refusal {
    // MCP 2026-07-28 server/resources, Error Handling; legacy revisions have a code of their own for it
    let code = if modern { INVALID_PARAMS } else { RESOURCE_NOT_FOUND };
    Refusal { code, message: "no such resource", data: Some(format!(r#"{{"uri":{}}}"#, quoted(uri))) }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn length(arguments: &SleepArguments) -> Option<Duration> {
    let seconds = arguments.ms.map(|ms| ms / 1000.0).or(arguments.seconds)?;
    Duration::try_from_secs_f64(seconds).ok().filter(|length| *length <= LONGEST_SLEEP)
}

/// Nobody tests a wait longer than the edge's longest call deadline.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
const MODERN_VERSION: &str = "2026-07-28";
const LATEST_LEGACY_VERSION: &str = "2025-11-25";
const LEGACY_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LATEST_LEGACY_VERSION];
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const INTERNAL_ERROR: i32 = -32603;
const RESOURCE_NOT_FOUND: i32 = -32002;
const UNSUPPORTED_VERSION: i32 = -32022;
