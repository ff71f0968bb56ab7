//! What each [`Step`] puts on the wire.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::Peer;
use crate::script::Step;

impl Step {
    /// Whether other messages must be read while this step is taken.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Step::Delay(_) | Step::Ask(_) | Step::Hang)
    }
}

impl Peer {
    /// Takes the steps for one message; `Null` stands for the start of the connection.
    pub(super) async fn play(&self, message: &Value, steps: &[Step]) {
        let mut told = Vec::new();
        for step in steps {
            match step {
                Step::Delay(length) => tokio::time::sleep(*length).await,
                Step::Ask(method) => told.push(self.ask(method).await),
                Step::Hang => std::future::pending().await,
                Step::Stall => self.stalled.store(true, Ordering::Relaxed),
                Step::Die => return self.died.notify_one(),
                Step::Answer
                | Step::Big(_)
                | Step::IdLast(_)
                | Step::Error(_)
                | Step::Half
                | Step::Slowly => {
                    self.answer(message, step, &told).await;
                }
                _ => self.disturb(message, step).await,
            }
        }
    }

    async fn answer(&self, message: &Value, step: &Step, told: &[Value]) {
        let id = &message["id"];
        let line = match step {
            Step::Error(code) => {
                let data =
                    json!({"supported": ["2026-07-28"], "requested": "", "uri": message["params"]["uri"]});
                let error = json!({"code": code, "message": "the script says so", "data": data});
                format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
            }
            Step::Big(bytes) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}}}"#, self.big(*bytes)),
            Step::IdLast(bytes) => format!(r#"{{"jsonrpc":"2.0","result":{},"id":{id}}}"#, self.big(*bytes)),
            _ => match self.result(message, told) {
                Ok(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
                Err(error) => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#),
            },
        } + "\n";
        match step {
            Step::Half => self.write(&line.as_bytes()[..line.len() / 2]).await,
            Step::Slowly => {
                for piece in line.as_bytes().chunks(7) {
                    self.write(piece).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            _ => self.write(line.as_bytes()).await,
        }
    }

    /// The steps that answer nothing.
    async fn disturb(&self, message: &Value, step: &Step) {
        match step {
            Step::Progress(count) => {
                let token = &message["params"]["_meta"]["progressToken"];
                for done in (1..=*count).filter(|_| !token.is_null()) {
                    let params =
                        json!({"progressToken": token, "progress": done, "total": count, "message": "on it"});
                    self.notify("notifications/progress", params).await;
                }
            }
            Step::Flood(count) => {
                for number in 0..*count {
                    let params =
                        json!({"level": "info", "logger": "flood", "data": format!("line {number}")});
                    self.notify("notifications/message", params).await;
                }
            }
            Step::Garbage => self.write(GARBAGE).await,
            Step::WrongId => {
                for id in [json!(987_654_321_u64), json!("nobody"), Value::Null] {
                    self.send(&json!({"jsonrpc": "2.0", "id": id, "result": {"content": []}})).await;
                }
            }
            Step::Notify(method) => self.notify(method, json!({})).await,
            Step::ListChanged(count) => {
                for kind in ["tools", "prompts", "resources"].iter().cycle().take(*count) {
                    self.notify(&format!("notifications/{kind}/list_changed"), json!({})).await;
                }
            }
            Step::Grow => {
                self.server.grow();
                self.notify("notifications/tools/list_changed", json!({})).await;
            }
            Step::LongLine(bytes) => {
                let params = json!({"level": "info", "data": "x".repeat(*bytes)});
                self.notify("notifications/message", params).await;
            }
            _ => unreachable!("play takes the others"),
        }
    }

    async fn notify(&self, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }
}

/// A banner, an empty line, half a message, bytes that are not UTF-8, JSON that is no message, a batch.
const GARBAGE: &[u8] = b"npm notice: a new version is there\n\n{\"jsonrpc\":\"2.0\",\"id\":\n\
    \"\xff\xfe\"\n{\"jsonrpc\":\"2.0\"}\n42\n[]\n";
