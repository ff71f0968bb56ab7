//! The proper answers of a scripted server, and the parameters of what it asks.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Peer;

impl Peer {
    /// The result of a request, or its error object.
    pub(super) fn result(&self, message: &Value, told: &[Value]) -> Result<Value, Value> {
        let params = &message["params"];
        let method = message["method"].as_str().unwrap_or_default();
        let mut result = match method {
            "initialize" => self.initialized(params),
            "server/discover" => json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities()}),
            "tools/list" => self.page(params, "tools", self.tools())?,
            "prompts/list" => self.page(params, "prompts", self.prompts())?,
            "resources/list" => self.page(params, "resources", self.resources())?,
            "resources/templates/list" => self.page(params, "resourceTemplates", self.templates())?,
            "tools/call" => self.called(params, told),
            "prompts/get" => {
                let text =
                    format!("{}: {}", self.server.script.name, params["name"].as_str().unwrap_or_default());
                json!({"messages": [{"role": "user", "content": {"type": "text", "text": text}}]})
            }
            "resources/read" => {
                json!({"contents": [{"uri": params["uri"], "text": self.server.script.name}]})
            }
            "completion/complete" => json!({"completion": {"values": [self.server.script.name]}}),
            "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => json!({}),
            _ => return Err(json!({"code": -32601, "message": "no such method"})),
        };
        self.finish(method, &mut result);
        Ok(result)
    }

    /// A tool's result of about this many bytes.
    pub(super) fn big(&self, bytes: usize) -> Value {
        let mut result = json!({"content": [{"type": "text", "text": "x".repeat(bytes)}]});
        self.finish("tools/call", &mut result);
        result
    }

    /// Adds what only modern results carry.
    fn finish(&self, method: &str, result: &mut Value) {
        if !self.modern.load(Ordering::Relaxed) {
            return;
        }
        result["resultType"] = json!("complete");
        if method.ends_with("list") || ["server/discover", "resources/read"].contains(&method) {
            result["ttlMs"] = json!(1000);
            result["cacheScope"] = json!("private");
        }
    }

    fn initialized(&self, params: &Value) -> Value {
        let asked = &params["protocolVersion"];
        let known =
            ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"].iter().any(|version| asked == version);
        let version = if known { asked.clone() } else { json!("2025-11-25") };
        let info = json!({"name": self.server.script.name, "version": "1"});
        json!({"protocolVersion": version, "capabilities": capabilities(), "serverInfo": info})
    }

    /// Names the server and its process, so that a test can see which one answered.
    fn called(&self, params: &Value, told: &[Value]) -> Value {
        let text = json!({
            "server": self.server.script.name,
            "process": self.process,
            "tool": params["name"],
            "arguments": params["arguments"],
            "told": told,
        });
        json!({"content": [{"type": "text", "text": text.to_string()}]})
    }

    fn tools(&self) -> Vec<Value> {
        let script = &self.server.script;
        let grown = self.server.grown.load(Ordering::Relaxed);
        let names = (0..script.tools).map(|number| format!("t{number}"));
        let names = names.chain((0..grown).map(|number| format!("grown{number}")));
        let schema = json!({"type": "object"});
        names
            .chain(script.named_tools.iter().cloned())
            .map(|name| json!({"name": name, "description": script.name, "inputSchema": schema}))
            .collect()
    }

    fn prompts(&self) -> Vec<Value> {
        (0..self.server.script.prompts).map(|number| json!({"name": format!("p{number}")})).collect()
    }

    fn resources(&self) -> Vec<Value> {
        let count = self.server.script.resources;
        (0..count)
            .map(|number| json!({"uri": format!("test://r{number}"), "name": format!("r{number}")}))
            .collect()
    }

    fn templates(&self) -> Vec<Value> {
        let count = self.server.script.templates;
        (0..count)
            .map(|number| (format!("test://x{number}/{{id}}"), format!("x{number}")))
            .map(|(template, name)| json!({"uriTemplate": template, "name": name}))
            .collect()
    }

    /// The page that the cursor names; a cursor is the number of its first item.
    fn page(&self, params: &Value, member: &str, items: Vec<Value>) -> Result<Value, Value> {
        let from = match &params["cursor"] {
            Value::Null => 0,
            cursor => cursor
                .as_str()
                .and_then(|cursor| cursor.parse().ok())
                .filter(|from| *from < items.len())
                .ok_or_else(|| json!({"code": -32602, "message": "no such cursor"}))?,
        };
        let to = (from + self.server.script.page).min(items.len());
        let mut result = json!({ member: items[from..to] });
        if to < items.len() {
            result["nextCursor"] = json!(to.to_string());
        }
        Ok(result)
    }
}

fn capabilities() -> Value {
    let list = json!({"listChanged": true});
    json!({
        "tools": list, "prompts": list, "resources": {"listChanged": true, "subscribe": true},
        "completions": {}, "logging": {},
    })
}

/// Valid parameters for what a server may ask of a client.
pub(super) fn ask_params(method: &str) -> Value {
    match method {
        "sampling/createMessage" => {
            let content = json!({"type": "text", "text": "think"});
            json!({"messages": [{"role": "user", "content": content}], "maxTokens": 10})
        }
        "elicitation/create" => json!({
            "message": "which one?",
            "requestedSchema": {"type": "object", "properties": {"choice": {"type": "string"}}},
        }),
        _ => json!({}),
    }
}
