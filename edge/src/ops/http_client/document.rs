//! One JSON document of another service, fetched by one GET.

use bytes::Bytes;
use http::header::ACCEPT;
use http::{Request, StatusCode, Uri};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{FetchError, HttpConnection, Options};

/// A fetched document.
#[derive(Clone, Debug)]
pub struct Document {
    /// The status; redirects are not followed.
    pub status: StatusCode,
    /// `Null` if the body is not JSON.
    pub body: Value,
}

/// Fetches a document. `options.timeout` bounds the whole exchange.
///
/// # Errors
/// No response arrived. A response with any status is a document.
pub async fn fetch(url: &Uri, options: Options) -> Result<Document, FetchError> {
    let (of_url, timeout) = (url.clone(), options.timeout);
    // A bundle of authorities is some hundred kilobytes of text to read and parse.
    let connection = spawn_blocking(move || HttpConnection::new(of_url, &options)).await;
    let mut connection = connection.map_err(|error| FetchError::Local(error.to_string()))??;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let request = Request::get(target)
        .header(ACCEPT, "application/json")
        .body(Bytes::new())
        .map_err(|error| FetchError::Local(error.to_string()))?;
    let too_slow = |_| FetchError::Timeout { what: "the whole answer", seconds: timeout.as_secs() };
    let response = tokio::time::timeout(timeout, connection.exchange(request)).await.map_err(too_slow)??;
    let body = serde_json::from_slice(&response.body).unwrap_or_default();
    Ok(Document { status: response.status, body })
}
