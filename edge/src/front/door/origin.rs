//! The checks of `Host` and `Origin`: the names of this gateway, and the web pages that may use it.
//!
//! A page of a foreign site can make a browser send requests here, under a name that its owner points at
//! 127.0.0.1 (DNS rebinding). So `Host` and `Origin` are checked before anything else of a request
//! (ARCHITECTURE, security). What is not here: who the caller is.

mod listed;

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, Uri};
use http::{Response, StatusCode, Version};
use wire::code;
use wire::mcp::header::{LAST_EVENT_ID, METHOD, NAME, PARAM_PREFIX, PROTOCOL_VERSION, SESSION_ID};

use super::headers::single;
use crate::front::body::Body;
use crate::front::refusal::Refusal;

pub use self::listed::{Host, Origin};

/// The names and origins that are admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Names of this gateway. Empty: on loopback the names of loopback, elsewhere any, because only the operator knows the
    /// names of a deployment.
    pub hosts: Vec<Host>,
    /// Origins of web pages on other hosts that may use this gateway.
    pub origins: Vec<Origin>,
    /// Whether the listener is reachable only from this machine.
    pub loopback: bool,
}

/// An admitted request, and the page whose browser needs CORS headers in the response.
#[derive(Debug)]
pub(in crate::front) struct Admission {
    /// The page's origin when it is a listed one.
    listed: Option<HeaderValue>,
}

impl Rules {
    /// Checks `Host` and `Origin`.
    // MCP 2025-11-25 basic/transports, Security Warning: a present and invalid Origin is a 403
    pub(in crate::front) fn admit(
        &self,
        (version, uri): (Version, &Uri),
        headers: &HeaderMap,
    ) -> Result<Admission, Refusal> {
        let host = host(version, uri, headers)?;
        if !self.answers_to(&host) {
            return Err(forbidden("this gateway does not answer to that Host; add it to `hosts`"));
        }
        let Ok(origin) = single(headers, header::ORIGIN) else {
            return Err(forbidden("send one Origin header"));
        };
        let Some(origin) = origin else { return Ok(Admission { listed: None }) };
        if self.lists(origin) {
            return Ok(Admission { listed: Some(origin.clone()) });
        }
        let page = Place::of_origin(origin);
        if page.is_some_and(|page| page.is_same(&host) || (self.loopback && page.is_loopback())) {
            return Ok(Admission { listed: None });
        }
        Err(forbidden(FOREIGN_PAGE))
    }

    fn answers_to(&self, host: &Place<'_>) -> bool {
        if self.hosts.is_empty() {
            return !self.loopback || host.is_loopback();
        }
        let is_of = |port: u16| host.port == Some(port) || host.port.is_none() && is_default(port);
        self.hosts.iter().any(|listed| listed.name == host.name && listed.port.is_none_or(is_of))
    }

    fn lists(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|listed| listed.is(origin.as_bytes()))
    }
}

impl Admission {
    /// Answers a CORS preflight.
    // Fetch Standard §4.8, CORS-preflight fetch
    pub(in crate::front) fn preflight(&self, asked: &HeaderMap) -> Result<Response<Body>, Refusal> {
        if !asked.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return Err(Refusal::method_not_allowed(
                "GET, POST, DELETE",
                "OPTIONS is for the preflight requests of browsers",
            ));
        }
        if self.listed.is_none() {
            return Err(forbidden(FOREIGN_PAGE));
        }
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE"));
        if let Some(allowed) = allowed_headers(asked) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECS));
        headers.append(header::VARY, header::ACCESS_CONTROL_REQUEST_HEADERS.into());
        Ok(response)
    }

    /// Lets the listed page read the response.
    pub(in crate::front) fn open_to_page(&self, headers: &mut HeaderMap) {
        let Some(origin) = &self.listed else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("Mcp-Session-Id, WWW-Authenticate, Retry-After"),
        );
        headers.append(header::VARY, header::ORIGIN.into());
    }
}

/// Those of the headers that a page wants to send that the gateway reads.
fn allowed_headers(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS)?.to_str().ok()?;
    let known = |name: &&str| {
        let name = name.to_ascii_lowercase();
        ALLOWED.contains(&name.as_str()) || name.starts_with(PARAM_PREFIX)
    };
    let allowed: Vec<&str> = wanted.split(',').map(str::trim).filter(known).collect();
    HeaderValue::from_str(&allowed.join(", ")).ok()
}

/// Headers that clients send, besides `Mcp-Param-*`.
const ALLOWED: [&str; 8] =
    ["authorization", "content-type", "accept", PROTOCOL_VERSION, SESSION_ID, METHOD, NAME, LAST_EVENT_ID];

/// How long a browser may cache the answer. Two hours: Chromium's maximum.
const PREFLIGHT_SECS: &str = "7200";

const FOREIGN_PAGE: &str = "pages of that Origin may not use this gateway; add it to `cors.origins`";

fn forbidden(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, code::INVALID_REQUEST, message)
}

/// A host and its port, in a form that can be compared.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    name: Cow<'a, str>,
    port: Option<u16>,
}

impl<'a> Place<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        Self::plain(text).or_else(|| Place::of(&text.parse().ok()?))
    }

    /// Parses a name in lower case with an optional port, as nearly all clients write it, without an allocation.
    fn plain(text: &'a str) -> Option<Self> {
        let (name, port) = match text.split_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (name, Some(port.parse().ok()?))
            }
            Some(_) => return None,
            None => (text, None),
        };
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
        let fits = !name.is_empty() && name.bytes().all(is_plain);
        fits.then_some(Self { name: Cow::Borrowed(name), port })
    }

    fn of(authority: &Authority) -> Option<Place<'static>> {
        let (text, name) = (authority.as_str(), authority.host());
        let port = authority.port_u16();
        // Neither header may have a user name, and parsers disagree on where the host begins after one. An invalid port
        // is refused as well.
        if text.contains('@') || name.is_empty() || (port.is_none() && text.len() != name.len()) {
            return None;
        }
        Some(Place { name: Cow::Owned(name.to_ascii_lowercase()), port })
    }

    /// `None` also for `null`, the origin of pages that hide theirs.
    fn of_origin(origin: &HeaderValue) -> Option<Place<'static>> {
        let uri: Uri = origin.to_str().ok()?.parse().ok()?;
        uri.scheme()?;
        Place::of(uri.authority()?)
    }

    // MCP conformance, dns-rebinding-protection: these three, with any port
    fn is_loopback(&self) -> bool {
        matches!(self.name.as_ref(), "localhost" | "127.0.0.1" | "[::1]")
    }

    /// Schemes are ignored, because TLS may end at a proxy; so the default port of either scheme counts as none.
    fn is_same(&self, other: &Place<'_>) -> bool {
        let port = |place: &Place<'_>| place.port.filter(|port| !is_default(*port));
        self.name == other.name && port(self) == port(other)
    }
}

/// Whether it is the default port of a scheme, which clients leave out.
fn is_default(port: u16) -> bool {
    matches!(port, 80 | 443)
}

/// The host that the request was sent to.
///
/// # Errors
/// 400 when it is missing, invalid, or given twice with different values.
fn host<'a>(version: Version, uri: &Uri, headers: &'a HeaderMap) -> Result<Place<'a>, Refusal> {
    let bad = |message| Refusal::bad_request(code::INVALID_REQUEST, message);
    let named = || {
        let host = single(headers, header::HOST).ok()??;
        Place::parse(host.to_str().ok()?)
    };
    let Some(authority) = uri.authority() else { return named().ok_or_else(|| bad(ONE_HOST)) };
    let place = Place::of(authority).ok_or_else(|| bad(ONE_HOST))?;
    match version {
        // RFC 9113 §8.3.1: a Host that names another one than :authority makes the request malformed
        Version::HTTP_2
            if headers.contains_key(header::HOST) && !named().is_some_and(|host| host.is_same(&place)) =>
        {
            Err(bad("`:authority` and Host name different hosts; leave Host out"))
        }
        // RFC 9112 §3.2, §3.2.2: Host has to be there, and then a target in absolute form counts, whatever it says
        Version::HTTP_11 if named().is_none() => Err(bad(ONE_HOST)),
        _ => Ok(place),
    }
}

const ONE_HOST: &str = "send one valid Host header";

#[cfg(test)]
mod tests;
