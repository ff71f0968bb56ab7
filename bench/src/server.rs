//! The stdio server behind everything that is measured: as little work for each call as a server can do, so
//! that what lies in front of it is what costs.
//!
//! Speaks both eras, or the legacy one alone. Its texts are pieces of source code, with the quotes and line ends
//! that real results have, rendered once at start. Answers to lines that arrived together leave in one write.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// What it offers.
pub(crate) struct Server {
    legacy_only: bool,
    /// Before each of its tools' names.
    prefix: String,
    /// Results by tool, without the ending of their era.
    texts: HashMap<String, String>,
    tools: String,
}

impl Server {
    /// `--era legacy|both --prefix TEXT --tools N`, all optional; N tools more than the four that answer.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Server> {
        let (mut legacy_only, mut prefix, mut more) = (false, String::new(), 0);
        for pair in arguments.chunks(2) {
            match *pair {
                ["--era", era] => legacy_only = era == "legacy",
                ["--prefix", text] => text.clone_into(&mut prefix),
                ["--tools", count] => more = count.parse()?,
                _ => bail!("the bench server does not know {}", pair.join(" ")),
            }
        }
        let texts = TEXTS.iter().map(|(name, bytes)| (format!("{prefix}{name}"), text_result(*bytes)));
        let tools = tools(&prefix, more);
        Ok(Server { legacy_only, texts: texts.collect(), tools, prefix })
    }

    /// Serves until its input ends.
    pub(crate) fn serve(&self) -> io::Result<()> {
        let mut input = BufReader::with_capacity(INPUT_BYTES, io::stdin().lock());
        let mut output = io::stdout().lock();
        let (mut line, mut waiting) = (Vec::new(), Vec::new());
        let mut modern = false;
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if let Ok(message) = serde_json::from_slice::<Message<'_>>(&line) {
                modern |= message.params.as_ref().is_some_and(|params| params.meta.version.is_some());
                self.answer(&message, modern, &mut waiting);
            }
            if !input.buffer().contains(&b'\n') {
                output.write_all(&waiting)?;
                output.flush()?;
                waiting.clear();
            }
        }
    }

    fn answer(&self, message: &Message<'_>, modern: bool, waiting: &mut Vec<u8>) {
        let (Some(id), Some(method)) = (message.id, message.method.as_deref()) else { return };
        let params = message.params.as_ref();
        let name = params.and_then(|params| params.name.as_deref()).unwrap_or_default();
        let opening: Cow<'_, str> = match method {
            "tools/call" if name.strip_prefix(self.prefix.as_str()) == Some(PROGRESS) => {
                if let Some(token) = params.and_then(|params| params.meta.progress_token) {
                    progress(token.get(), waiting);
                }
                r#"{"content":[{"type":"text","text":"done"}]"#.into()
            }
            "tools/call" => match self.texts.get(name) {
                Some(result) => result.into(),
                None => return refuse(id, -32602, waiting),
            },
            "tools/list" => (&self.tools).into(),
            "initialize" => open(&initialized(params)).into(),
            "server/discover" if !self.legacy_only => open(&discovered()).into(),
            "ping" => "{".into(),
            _ => return refuse(id, -32601, waiting),
        };
        let empty = opening == "{";
        // MCP 2026-07-28: every result carries `resultType`; those a client may keep, `ttlMs` and `cacheScope`
        let ending = match (modern, method) {
            (true, "tools/list" | "server/discover") => {
                r#","resultType":"complete","ttlMs":60000,"cacheScope":"public"}}"#
            }
            (true, _) if !empty => r#","resultType":"complete"}}"#,
            _ => "}}",
        };
        let parts = [r#"{"jsonrpc":"2.0","id":"#, id.get(), r#","result":"#, &opening, ending, "\n"];
        parts.iter().for_each(|part| waiting.extend_from_slice(part.as_bytes()));
    }
}

/// What is read of a message, borrowed from its line.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "protocolVersion")]
    version: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Meta<'a>,
}

#[derive(Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<Cow<'a, str>>,
}

fn refuse(id: &RawValue, code: i32, waiting: &mut Vec<u8>) {
    let error =
        format!(r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":{code},"message":"not here"}}}}"#, id.get());
    waiting.extend_from_slice(error.as_bytes());
    waiting.push(b'\n');
}

fn progress(token: &str, waiting: &mut Vec<u8>) {
    for done in 1..=PROGRESS_EVENTS {
        let line = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{done},"total":{PROGRESS_EVENTS}}}}}"#
        );
        waiting.extend_from_slice(line.as_bytes());
        waiting.push(b'\n');
    }
}

fn initialized(params: Option<&Params<'_>>) -> Value {
    let version = params.and_then(|params| params.version.as_deref()).unwrap_or("2025-11-25");
    let info = json!({"name": "bench-server", "version": "1"});
    json!({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
}

fn discovered() -> Value {
    json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
}

fn text_result(bytes: usize) -> String {
    let text: String = include_str!("server.rs").chars().cycle().take(bytes).collect();
    open(&json!({"content": [{"type": "text", "text": text}]}))
}

/// About 500 bytes a tool, as real ones have.
fn tools(prefix: &str, more: usize) -> String {
    let names = TEXTS.iter().map(|(name, _)| (*name).to_owned()).chain([PROGRESS.to_owned()]);
    let names = names.chain((0..more).map(|number| format!("t{number}")));
    let field =
        |what: &str| json!({"type": "string", "description": format!("{what} of the thing to be found")});
    let tools: Vec<_> = names
        .map(|name| {
            json!({
                "name": format!("{prefix}{name}"),
                "title": format!("Tool {name}"),
                "description": "Answers with a text of a fixed size, whatever it was asked, as fast as it can.",
                "inputSchema": {
                    "type": "object",
                    "properties": {"place": field("The place"), "kind": field("The kind"), "since": field("The age")},
                    "additionalProperties": true,
                },
                "annotations": {"readOnlyHint": true},
            })
        })
        .collect();
    open(&json!({ "tools": tools }))
}

/// The object without its closing brace.
fn open(object: &Value) -> String {
    let mut text = object.to_string();
    text.pop();
    text
}

/// The tool that reports progress.
pub(crate) const PROGRESS: &str = "progress";
/// How often it does.
pub(crate) const PROGRESS_EVENTS: usize = 20;
/// The tools that answer with a text, and its characters.
const TEXTS: [(&str, usize); 3] = [("r200", 200), ("r13k", 13 << 10), ("r200k", 200 << 10)];
/// Large enough that the lines of many clients on one connection are taken up in one read.
const INPUT_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_the_era_it_is_asked_in() {
        let server = Server::parse(&["--prefix", "m-"]).unwrap();
        let mut waiting = Vec::new();
        let line = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"m-r200"}}"#;
        server.answer(&serde_json::from_str(line).unwrap(), true, &mut waiting);
        let answer: Value = serde_json::from_slice(&waiting).unwrap();
        assert_eq!((&answer["id"], &answer["result"]["resultType"]), (&json!(7), &json!("complete")));
        assert_eq!(answer["result"]["content"][0]["text"].as_str().unwrap().chars().count(), 200);
        waiting.clear();
        server.answer(&serde_json::from_str(line).unwrap(), false, &mut waiting);
        assert!(serde_json::from_slice::<Value>(&waiting).unwrap()["result"]["resultType"].is_null());
    }

    #[test]
    fn progress_comes_before_the_answer() {
        let server = Server::parse(&[]).unwrap();
        let line =
            r#"{"id":1,"method":"tools/call","params":{"name":"progress","_meta":{"progressToken":"t"}}}"#;
        let mut waiting = Vec::new();
        server.answer(&serde_json::from_str(line).unwrap(), false, &mut waiting);
        let lines: Vec<Value> = String::from_utf8(waiting)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), PROGRESS_EVENTS + 1);
        assert_eq!(lines[0]["params"]["progressToken"], "t");
        assert!(lines[PROGRESS_EVENTS]["result"].is_object());
    }
}
