//! What the demo server offers: the texts of its lists, resources and prompt, as JSON.
//!
//! Everything here is the `result` of a request without its closing brace and without what only the modern era
//! adds; `session` puts those around it.

use crate::message::{AddArguments, EchoArguments, GreetArguments};

/// Opens the result of `initialize`; the version follows.
pub(crate) const CAPABILITIES: &str = r#""capabilities":{"tools":{},"resources":{},"prompts":{},"completions":{}},"instructions":"A demo server: echo a text, add two numbers, sleep a while.""#;
pub(crate) const SERVER_INFO: &str =
    concat!(r#"{"name":"demo-server","title":"Demo server","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

pub(crate) const TOOLS: &str = r#"{"tools":[{"name":"echo","title":"Echo","description":"Returns the text it was given.","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]},"annotations":{"readOnlyHint":true}},{"name":"add","title":"Add","description":"Adds two numbers.","inputSchema":{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}},"required":["a","b"]},"annotations":{"readOnlyHint":true}},{"name":"sleep","title":"Sleep","description":"Waits, reports progress in ten steps when asked to, and can be cancelled.","inputSchema":{"type":"object","properties":{"seconds":{"type":"number","minimum":0},"ms":{"type":"number","minimum":0}}},"annotations":{"readOnlyHint":true}}]"#;

pub(crate) const RESOURCES: &str = r#"{"resources":[{"uri":"demo://readme","name":"readme","title":"About the demo server","mimeType":"text/plain"}]"#;

pub(crate) const TEMPLATES: &str = r#"{"resourceTemplates":[{"uriTemplate":"demo://greeting/{name}","name":"greeting","title":"A greeting","mimeType":"text/plain"}]"#;

pub(crate) const PROMPTS: &str = r#"{"prompts":[{"name":"greet","title":"Greet","description":"Asks for a greeting.","arguments":[{"name":"name","description":"Who is greeted","required":true}]}]"#;

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
    format!(r#"{{"content":[{{"type":"text","text":{}}}],"isError":true"#, quoted(sentence))
}

pub(crate) fn text_result(text: &str) -> String {
    format!(r#"{{"content":[{{"type":"text","text":{}}}]"#, quoted(text))
}

pub(crate) fn resource(uri: &str) -> Option<String> {
    let text = match uri {
        "demo://readme" => README.to_owned(),
        _ => format!("Hello, {}!", uri.strip_prefix("demo://greeting/").filter(|name| !name.is_empty())?),
    };
    let (uri, text) = (quoted(uri), quoted(&text));
    Some(format!(r#"{{"contents":[{{"uri":{uri},"mimeType":"text/plain","text":{text}}}]"#))
}

pub(crate) fn prompt(name: &str, arguments: &str) -> Option<String> {
    if name != "greet" {
        return None;
    }
    let arguments: GreetArguments<'_> = serde_json::from_str(arguments).unwrap_or_default();
    let text = quoted(&format!("Please greet {} warmly.", arguments.name.as_deref().unwrap_or("the reader")));
    Some(format!(
        r#"{{"description":"Asks for a greeting","messages":[{{"role":"user","content":{{"type":"text","text":{text}}}}}]"#
    ))
}

/// The names that start with what was typed so far.
pub(crate) fn completion(typed: &str) -> String {
    let values: Vec<_> =
        NAMES.iter().filter(|name| name.starts_with(typed)).map(|name| quoted(name)).collect();
    let (total, values) = (values.len(), values.join(","));
    format!(r#"{{"completion":{{"values":[{values}],"total":{total},"hasMore":false}}"#)
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

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

const README: &str = "This server is bundled for trying things out. Tools: echo, add, sleep.";
/// Already in the order in which a completion lists them.
const NAMES: [&str; 5] = ["Ada", "Alan", "Barbara", "Edsger", "Grace"];
