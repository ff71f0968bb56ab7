//! One document of another service, by one GET: bounded in bytes and time, and from nowhere else than was asked for.

use std::path::PathBuf;
use std::time::Duration;

use http::{Request, StatusCode, Uri};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::Trouble;
use super::line::Line;

/// What came back.
#[derive(Clone, Debug)]
pub struct Document {
    /// The status; redirects are not followed.
    pub status: StatusCode,
    /// `Null` if it is no JSON.
    pub body: Value,
}

/// Fetches a document within `timeout` in all. `authorities` are trusted beside this machine's own.
///
/// # Errors
/// What is wrong on the way; not what the status says.
pub async fn fetch(
    url: &Uri,
    authorities: Option<PathBuf>,
    timeout: Duration,
    largest: usize,
) -> Result<Document, Trouble> {
    let of_url = url.clone();
    // A bundle of authorities is some hundred kilobytes of text to read and parse.
    let line = spawn_blocking(move || Line::new(of_url, timeout, authorities.as_deref())).await;
    let mut line = line.map_err(|error| Trouble::Ours(error.to_string()))??.reading_at_most(largest);
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let fetching = async {
        line.open().await?;
        line.send(Request::get(target), &Value::Null).await
    };
    let silent = |_| Trouble::Silent { what: "the whole answer", seconds: timeout.as_secs() };
    let answer = tokio::time::timeout(timeout, fetching).await.map_err(silent)??;
    Ok(Document { status: answer.status, body: answer.body })
}
