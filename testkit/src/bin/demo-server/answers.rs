//! What the demo server offers: its lists, resources, tools and prompt.
//!
//! Every answer here is the JSON of a `result` without its closing brace: `session` adds what only the modern
//! era has, and the braces of result and message.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::message::{AddArguments, EchoArguments, GreetArguments};

pub(crate) static TOOLS: LazyLock<String> = LazyLock::new(|| {
    let number = |what: &str| json!({"type": "number", "minimum": 0, "description": what});
    open(&json!({"tools": [
        {
            "name": "echo",
            "title": "Echo",
            "description": "Returns the text it was given.",
            "inputSchema": {
                "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"],
            },
            "annotations": {"readOnlyHint": true},
        },
        {
            "name": "add",
            "title": "Add",
            "description": "Adds two numbers.",
            "inputSchema": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
            "annotations": {"readOnlyHint": true},
        },
        {
            "name": "sleep",
            "title": "Sleep",
            "description": "Waits, reports progress in ten steps when asked to, and can be cancelled.",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "seconds": number("How long, if ms is absent"),
                    "ms": number("How long, in milliseconds"),
                },
            },
            "annotations": {"readOnlyHint": true},
        },
    ]}))
});

pub(crate) static RESOURCES: LazyLock<String> = LazyLock::new(|| {
    open(&json!({"resources": [
        {"uri": README_URI, "name": "readme", "title": "About the demo server", "mimeType": "text/plain"},
    ]}))
});

pub(crate) static TEMPLATES: LazyLock<String> = LazyLock::new(|| {
    let template = format!("{GREETING_URI}{{name}}");
    open(&json!({"resourceTemplates": [
        {"uriTemplate": template, "name": "greeting", "title": "A greeting", "mimeType": "text/plain"},
    ]}))
});

pub(crate) static PROMPTS: LazyLock<String> = LazyLock::new(|| {
    open(&json!({"prompts": [{
        "name": "greet",
        "title": "Greet",
        "description": "Asks for a greeting.",
        "arguments": [{"name": "name", "description": "Who is greeted", "required": true}],
    }]}))
});

/// The result of `initialize`.
pub(crate) fn initialized(version: &str) -> String {
    open(&json!({
        "protocolVersion": version,
        "capabilities": capabilities(),
        "serverInfo": server_info(),
        "instructions": INSTRUCTIONS,
    }))
}

/// The result of `server/discover`.
pub(crate) fn discovered(version: &str) -> String {
    open(&json!({
        "supportedVersions": [version],
        "capabilities": capabilities(),
        "instructions": INSTRUCTIONS,
        "_meta": {"io.modelcontextprotocol/serverInfo": server_info()},
    }))
}

/// The tools that are answered on the spot; `None` for a name that is not one of them.
pub(crate) fn tool(name: &str, arguments: &str) -> Option<String> {
    match name {
        "echo" => Some(echo(arguments)),
        "add" => Some(add(arguments)),
        _ => None,
    }
}

/// A tool's result that says what is wrong with its arguments: the model, not the protocol, made the mistake.
// MCP 2025-11-25 server/tools, Error Handling
pub(crate) fn tool_error(sentence: &str) -> String {
    open(&json!({"content": [{"type": "text", "text": sentence}], "isError": true}))
}

/// A tool's result that is one text.
pub(crate) fn text_result(text: &str) -> String {
    open(&json!({"content": [{"type": "text", "text": text}]}))
}

pub(crate) fn resource(uri: &str) -> Option<String> {
    let text = match uri.strip_prefix(GREETING_URI) {
        _ if uri == README_URI => README.to_owned(),
        Some(name) if !name.is_empty() => format!("Hello, {name}!"),
        _ => return None,
    };
    Some(open(&json!({"contents": [{"uri": uri, "mimeType": "text/plain", "text": text}]})))
}

pub(crate) fn prompt(name: &str, arguments: &str) -> Option<String> {
    if name != "greet" {
        return None;
    }
    let arguments: GreetArguments<'_> = serde_json::from_str(arguments).unwrap_or_default();
    let text = format!("Please greet {} warmly.", arguments.name.as_deref().unwrap_or("the reader"));
    let content = json!({"type": "text", "text": text});
    Some(open(
        &json!({"description": "Asks for a greeting", "messages": [{"role": "user", "content": content}]}),
    ))
}

/// The names that start with what was typed so far.
pub(crate) fn completion(typed: &str) -> String {
    let values: Vec<_> = NAMES.iter().filter(|name| name.starts_with(typed)).collect();
    open(&json!({"completion": {"values": values, "total": values.len(), "hasMore": false}}))
}

/// The text is neither decoded nor encoded: as it came, so it goes.
fn echo(arguments: &str) -> String {
    match serde_json::from_str::<EchoArguments<'_>>(arguments) {
        Ok(echo) if echo.text.get().starts_with('"') => {
            format!(r#"{{"content":[{{"type":"text","text":{}}}]"#, echo.text.get())
        }
        _ => tool_error("echo needs the argument \"text\", a string"),
    }
}

fn add(arguments: &str) -> String {
    match serde_json::from_str::<AddArguments>(arguments) {
        Ok(AddArguments { a, b }) => text_result(&(a + b).to_string()),
        Err(_) => tool_error("add needs the arguments \"a\" and \"b\", both numbers"),
    }
}

fn capabilities() -> Value {
    json!({"tools": {}, "resources": {}, "prompts": {}, "completions": {}})
}

fn server_info() -> Value {
    json!({"name": "demo-server", "title": "Demo server", "version": env!("CARGO_PKG_VERSION")})
}

/// The object without its closing brace.
fn open(object: &Value) -> String {
    let mut text = object.to_string();
    text.pop();
    text
}

const INSTRUCTIONS: &str = "A demo server: echo a text, add two numbers, sleep a while.";
const README: &str = "This server is bundled for trying things out. Tools: echo, add, sleep.";
const README_URI: &str = "demo://readme";
const GREETING_URI: &str = "demo://greeting/";
/// In the order in which a completion lists them.
const NAMES: [&str; 5] = ["Ada", "Alan", "Barbara", "Edsger", "Grace"];
