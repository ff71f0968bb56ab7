//! An answer, and what it means.

use http::StatusCode;
use http::header::HeaderValue;
use serde_json::Value;

use super::{Trouble, Visit};

/// What came back for one request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: String,
    /// Where a redirect leads.
    pub(super) location: Option<String>,
    pub(super) session: Option<HeaderValue>,
    /// `Null` if it is no JSON.
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn result(&self) -> Option<&Value> {
        self.body.get("result").filter(|_| self.status.is_success())
    }

    fn error(&self) -> Option<&Value> {
        self.body.get("error").filter(|error| error.is_object())
    }

    fn code(&self) -> Option<i64> {
        self.error()?.get("code")?.as_i64()
    }

    pub(super) fn is_unknown_method(&self) -> bool {
        self.code() == Some(-32601)
    }

    /// Whether this is how an endpoint that knows only sessions refuses `server/discover`.
    pub(super) fn may_be_legacy(&self) -> bool {
        let refused = self.status.is_success() || matches!(self.status.as_u16(), 400 | 404 | 405 | 422);
        // At a path where nothing is served, mcp-edge answers -32600 with 404.
        self.error().is_some()
            && refused
            && !(self.status == StatusCode::NOT_FOUND && self.code() == Some(-32600))
    }

    /// Why this is not the answer that was wanted.
    pub(super) fn trouble(&self, visit: &Visit) -> Trouble {
        let said =
            self.error().and_then(|error| error.get("message")).and_then(Value::as_str).map(str::to_owned);
        let variable = visit.token_variable.clone();
        match self.status.as_u16() {
            401 if visit.token.is_empty() => Trouble::NoToken { variable },
            401 => Trouble::WrongToken { variable },
            403 => Trouble::Forbidden(said),
            404 => Trouble::NotHere { path: visit.url.path().to_owned() },
            429 | 503 => Trouble::Busy(said),
            502 | 504 => Trouble::Proxy(self.status),
            300..=399 => Trouble::Elsewhere(self.location.clone().unwrap_or_default()),
            _ => match said {
                Some(said) => Trouble::Refused(said),
                None => Trouble::NotMcp(format!("it answers {} with {}", self.status, self.kind())),
            },
        }
    }

    fn kind(&self) -> &str {
        if self.content_type.is_empty() { "no content type" } else { &self.content_type }
    }
}

/// The names of a list's members; of resources their URIs.
pub(super) fn names(result: &Value, kind: &str) -> Vec<String> {
    let members = result.get(kind).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let key = if kind == "resources" { "uri" } else { "name" };
    members.iter().filter_map(|one| one.get(key)?.as_str().map(str::to_owned)).collect()
}

/// The JSON of a body. In an event stream, the first message that answers a request.
pub(super) fn json(content_type: &str, body: &[u8]) -> Option<Value> {
    if !content_type.starts_with("text/event-stream") {
        return serde_json::from_slice(body).ok();
    }
    let text = std::str::from_utf8(body).ok()?;
    text.lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok())
        .find(|message: &Value| message.get("result").is_some() || message.get("error").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn visit(token: &str) -> Visit {
        Visit {
            url: "http://edge.example/nowhere".parse().unwrap(),
            token_variable: "TOKEN".to_owned(),
            token: token.to_owned(),
            authorities: None,
            admin: None,
            timeout: Duration::from_secs(1),
        }
    }

    fn answer(status: u16, content_type: &str, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            content_type: content_type.to_owned(),
            location: None,
            session: None,
            body: json(content_type, body.as_bytes()).unwrap_or_default(),
        }
    }

    #[test]
    fn each_refusal_has_words_of_its_own() {
        let json = "application/json";
        for (status, body, token, words) in [
            (401, "", "", "set TOKEN"),
            (401, "", "a", "does not take the token in TOKEN"),
            (403, r#"{"error":{"code":1,"message":"this origin"}}"#, "a", "this origin"),
            (404, "", "a", "/nowhere"),
            (405, "", "a", "not MCP"),
            (502, "", "a", "in front"),
            (503, "", "a", "busy"),
            (200, r#"{"error":{"code":1,"message":"no such thing"}}"#, "a", "no such thing"),
            (200, "{}", "a", "not MCP"),
        ] {
            let sentence = answer(status, json, body).trouble(&visit(token)).to_string();
            assert!(sentence.contains(words), "{status} {body}: {sentence}");
        }
    }

    #[test]
    fn a_refused_discover_is_told_from_a_wrong_path() {
        let refusal = r#"{"error":{"code":-32601,"message":"m"}}"#;
        assert!(answer(404, "application/json", refusal).may_be_legacy());
        assert!(answer(200, "application/json", refusal).may_be_legacy());
        assert!(
            !answer(404, "application/json", r#"{"error":{"code":-32600,"message":"m"}}"#).may_be_legacy()
        );
        assert!(!answer(404, "text/html", "<html>").may_be_legacy());
        assert!(!answer(401, "application/json", refusal).may_be_legacy());
    }

    #[test]
    fn the_answer_is_found_in_an_event_stream() {
        let stream = "id: 1\ndata:\n\ndata: {\"method\":\"notifications/message\"}\n\ndata: {\"id\":1,\"result\":{\"a\":1}}\n\n";
        let found = json("text/event-stream; charset=utf-8", stream.as_bytes()).unwrap();
        assert_eq!(found.pointer("/result/a"), Some(&Value::from(1)));
        assert_eq!(json("text/html", b"<html>"), None);
    }
}
