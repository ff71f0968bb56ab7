//! An endpoint's answer to one request, and what it means.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use serde_json::Value;

use super::{Diagnose, Diagnosis};
use crate::ops::http_client::HttpResponse;

/// The answer to one request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: String,
    /// The target of a redirect.
    pub(super) location: Option<String>,
    pub(super) session: Option<HeaderValue>,
    /// The JSON-RPC message; `Null` if the body holds none.
    pub(super) body: Value,
}

impl From<HttpResponse> for Answer {
    fn from(response: HttpResponse) -> Self {
        let header = |name| response.headers.get(name).and_then(|value| value.to_str().ok());
        let content_type = header(CONTENT_TYPE).unwrap_or_default().to_owned();
        let location = header(LOCATION).map(str::to_owned);
        let session = response.headers.get("mcp-session-id").cloned();
        let body = json(&content_type, &response.body).unwrap_or_default();
        Self { status: response.status, content_type, location, session, body }
    }
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

    /// Whether this may be how an endpoint that knows only sessions refuses `server/discover`.
    pub(super) fn may_be_legacy(&self) -> bool {
        let refused = self.status.is_success() || matches!(self.status.as_u16(), 400 | 404 | 405 | 422);
        // At a path where nothing is served, mcp-edge answers -32600 with 404.
        self.error().is_some()
            && refused
            && !(self.status == StatusCode::NOT_FOUND && self.code() == Some(-32600))
    }

    /// What is wrong, given that this answer holds no result.
    pub(super) fn diagnosis(&self, request: &Diagnose) -> Diagnosis {
        let said =
            self.error().and_then(|error| error.get("message")).and_then(Value::as_str).map(str::to_owned);
        let variable = request.token_variable.clone();
        match self.status.as_u16() {
            401 if request.token.is_empty() => Diagnosis::NoToken { variable },
            401 => Diagnosis::WrongToken { variable },
            403 => Diagnosis::Forbidden(said),
            404 => Diagnosis::NotHere { path: request.url.path().to_owned() },
            429 | 503 => Diagnosis::Busy(said),
            502 | 504 => Diagnosis::Proxy(self.status),
            300..=399 => Diagnosis::Elsewhere(self.location.clone().unwrap_or_default()),
            _ => match said {
                Some(said) => Diagnosis::Refused(said),
                None => Diagnosis::NotMcp(format!("it answers {} with {}", self.status, self.kind())),
            },
        }
    }

    fn kind(&self) -> &str {
        if self.content_type.is_empty() { "no content type" } else { &self.content_type }
    }
}

/// The names of a list's members; for resources, their URIs.
pub(super) fn names(result: &Value, kind: &str) -> Vec<String> {
    let members = result.get(kind).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let key = if kind == "resources" { "uri" } else { "name" };
    members.iter().filter_map(|one| one.get(key)?.as_str().map(str::to_owned)).collect()
}

/// The JSON of a body; in an event stream, the first message that answers a request.
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
    use std::time::Duration;

    use super::*;

    fn diagnose(token: &str) -> Diagnose {
        Diagnose {
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
    fn each_refusal_has_its_own_message() {
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
            let sentence = answer(status, json, body).diagnosis(&diagnose(token)).to_string();
            assert!(sentence.contains(words), "{status} {body}: {sentence}");
        }
    }

    #[test]
    fn refused_discover_differs_from_a_wrong_path() {
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
