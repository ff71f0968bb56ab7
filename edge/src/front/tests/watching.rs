//! What an operator sees: the books balance, labels are words, and a log event never holds arguments.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tracing::field::{Field, Visit};
use tracing::span;

use super::*;
use crate::error::{Blame, Error, Kind};
use crate::front::{CallClass, Ending};

const CALL: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"sesame","arguments":{"a":"hush"}}}"#;

#[tokio::test(start_paused = true)]
async fn what_goes_in_comes_out_or_is_on_its_way() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let header = [("mcp-session-id", id.as_str())];
    for outcome in [
        Outcome::Result(Slices::from(Bytes::from_static(b"{}"))),
        Outcome::Refused(Bytes::from_static(br#"{"code":-32602,"message":"no"}"#)),
        Outcome::Failed(Error::new(Kind::TooLarge, Blame::Upstream, "too large")),
    ] {
        stage.script.ready.lock().push_back(outcome);
        stage.send(post(CALL, &header)).await;
    }
    let mut stream = stage.send(post(CALL, &header)).await.into_body();
    for ending in [Ending::Ok, Ending::Refused, Ending::TooLarge] {
        assert_eq!(stage.metrics.calls(CallClass::ToolsCall, ending), 1, "{ending:?}");
    }
    assert_eq!((stage.metrics.in_flight(), stage.metrics.streams()), (1, 1));
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    stage.send(post(cancel, &header)).await;
    primed(&mut stream).await;
    assert_eq!(event(&mut stream).await, None);
    drop(stream);
    assert_eq!(stage.metrics.calls(CallClass::ToolsCall, Ending::Cancelled), 1);
    assert_eq!((stage.metrics.in_flight(), stage.metrics.streams()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn labels_are_words_of_closed_sets() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let failed = Outcome::Failed(Error::new(Kind::TooLarge, Blame::Upstream, "too large"));
    stage.script.ready.lock().push_back(failed);
    stage.send(post(CALL, &[("mcp-session-id", &id)])).await;
    stage.send(request("DELETE", "/mcp", "", &[("mcp-session-id", &id)])).await;
    let mut registry = Registry::with_prefix("mcp_edge");
    stage.metrics.register(&mut registry);
    stage.sessions.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        r#"mcp_edge_calls_total{method="tools/call",era="legacy",outcome="too_large"} 1"#,
        r#"mcp_edge_call_duration_seconds_count{method="tools/call"} 1"#,
        "mcp_edge_calls_in_flight 0",
        r#"mcp_edge_http_responses_total{status="204"} 1"#,
        r#"mcp_edge_sessions_ended_total{cause="deleted"} 1"#,
        "mcp_edge_sessions_opened_total 1",
        "mcp_edge_sessions 0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_logged_once_and_without_its_arguments() {
    let stage =
        Stage::with(Setting { front: Config { log_calls: true, ..Config::default() }, ..Setting::default() });
    let journal = Journal::default();
    let lines = journal.lines.clone();
    let _guard = tracing::subscriber::set_default(journal);
    let body = modern("tools/call", r#""name":"sesame","arguments":{"a":"hush"},"#);
    stage.answer_next(r#"{"content":"hush"}"#);
    let headers = modern_headers("tools/call", "sesame");
    let response = stage.send(request("POST", "/servers/time/mcp", &body, &headers)).await;
    assert_eq!(response.status(), 200);
    let lines = lines.lock();
    let calls: Vec<_> = lines.iter().filter(|line| line.contains("message=call")).collect();
    assert_eq!(calls.len(), 1, "{lines:?}");
    for field in
        ["server=\"time\"", "method=\"tools/call\"", "era=\"modern\"", "outcome=\"ok\"", "elapsed_ms=0"]
    {
        assert!(calls[0].contains(field), "{field} in {}", calls[0]);
    }
    assert!(lines.iter().all(|line| !line.contains("hush")), "{lines:?}");
}

/// Keeps events as text.
#[derive(Default)]
struct Journal {
    lines: Arc<Mutex<Vec<String>>>,
    spans: AtomicU64,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl tracing::Subscriber for Journal {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.lines.lock().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
