//! The metadata document that tells clients where to get a token (RFC 9728).
//!
//! Everybody may read it, pages of any origin too: no token, `Host` or `Origin` is checked. It contains only what the
//! configuration makes public, and the answer does not depend on whether a server of that name exists.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, HeaderValue,
};
use http::{Method, Response, StatusCode};
use wire::splice::Parts;

use super::route;
use crate::front::body::Body;
use crate::front::refusal::{self, Refusal};
use crate::front::{Front, not_found};

/// The document about the endpoint at this path, or about the whole gateway if it is empty.
pub(in crate::front) fn answer(front: &Front, method: &Method, about: &str) -> Response<Body> {
    let is_served = |path: &str| route::endpoint(path).is_some_and(|door| front.config.serves(door));
    let Some(document) = front.rooms.auth.metadata(about, is_served) else {
        return open(not_found("there is no metadata of this path").into_response());
    };
    match *method {
        Method::GET | Method::HEAD => {
            let mut response = refusal::json(Parts::from(Bytes::from(document)));
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(FRESH));
            open(response)
        }
        // Clients send MCP-Protocol-Version with the request, so browsers send a preflight.
        Method::OPTIONS => {
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD"));
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
            open(response)
        }
        _ => open(Refusal::method_not_allowed("GET, HEAD, OPTIONS", "use GET").into_response()),
    }
}

/// Lets pages of every origin read the response.
fn open(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// How long the document may be cached. 5 min: it changes only with the configuration, and then clients should see it soon.
const FRESH: &str = "public, max-age=300";
