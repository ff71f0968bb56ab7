//! The URIs under which authorization servers know this gateway and its endpoints: the audience of tokens, and the subject
//! of the metadata of RFC 9728.
//!
//! A token for the gateway is valid at all endpoints, a token for a server only at that server's endpoint. It must not know
//! which servers exist, because nobody may find that out before authentication.

use std::str::FromStr;

use http::Uri;

use crate::call::ServerName;

/// The canonical URI of the gateway.
// RFC 8707 §2, MCP 2025-11-25 basic/authorization, Canonical Server URI
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// As configured.
    text: String,
    /// In the normal form that is compared.
    canonical: String,
    /// Scheme and authority, in lower case and without a default port.
    origin: String,
    /// What a reverse proxy puts before our own paths.
    prefix: String,
}

/// The endpoints that a token is valid at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// All endpoints of the gateway.
    All,
    /// Those of these servers.
    Servers(Vec<ServerName>),
}

impl Reach {
    /// Whether it includes the endpoint of `server`, or without one that of all servers.
    pub(super) fn covers(&self, server: Option<&str>) -> bool {
        match (self, server) {
            (Self::All, _) => true,
            (Self::Servers(_), None) => false,
            (Self::Servers(names), Some(server)) => names.iter().any(|name| name.as_str() == server),
        }
    }
}

impl FromStr for Resource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (origin, path) = split(text).ok_or_else(|| {
            format!(
                "`{text}` is not a URI of this gateway as its clients write it: https://, a host, perhaps a path, and no \
                 query, fragment or user; for example https://edge.example/mcp"
            )
        })?;
        is_secure(text).map_err(|why| format!("`{text}` {why}"))?;
        if let Some((_, server)) = path.rsplit_once("/servers/")
            && matches!(server.split_once('/'), Some((_, "mcp" | "sse")))
        {
            return Err(format!(
                "`{text}` is one server of this gateway; name the gateway: what ends in /mcp without it"
            ));
        }
        let prefix = DOORS.iter().find_map(|door| path.strip_suffix(door)).unwrap_or(&path);
        Ok(Self {
            text: text.to_owned(),
            canonical: format!("{origin}{path}"),
            prefix: prefix.to_owned(),
            origin,
        })
    }
}

impl Resource {
    /// As configured.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The URI of the endpoint at this path. For the configured endpoint it is the configured text, to the letter.
    // RFC 9728 §3.3: clients compare it with what they were given
    pub(super) fn endpoint(&self, path: &str) -> String {
        let uri = format!("{}{}{path}", self.origin, self.prefix);
        if uri == self.canonical { self.text.clone() } else { uri }
    }

    /// The URL of the metadata of the endpoint at this path.
    // RFC 9728 §3.1: the well-known string goes between host and path
    pub(in crate::auth) fn metadata_url(&self, path: &str) -> String {
        format!("{}{WELL_KNOWN}{}{path}", self.origin, self.prefix)
    }

    /// Our own path in a path that metadata is requested for; empty for the gateway itself.
    pub(in crate::auth) fn own_path<'p>(&self, path: &'p str) -> &'p str {
        path.strip_prefix(self.prefix.as_str())
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
            .unwrap_or(path)
    }

    /// What an audience of a token stands for; `None` for another service.
    pub(super) fn reach(&self, audience: &str) -> Option<Reach> {
        let (origin, path) = split(audience)?;
        if format!("{origin}{path}") == self.canonical {
            return Some(Reach::All);
        }
        let own = (origin == self.origin).then_some(path.strip_prefix(self.prefix.as_str())?)?;
        if DOORS.contains(&own) {
            return Some(Reach::All);
        }
        let (server, door) = own.strip_prefix("/servers/")?.split_once('/')?;
        let server = ServerName::parse(server).filter(|_| matches!(door, "mcp" | "sse"))?;
        Some(Reach::Servers(vec![server]))
    }
}

/// Origin and path in normal form: scheme and host in lower case, no default port, no trailing slash.
// MCP 2025-11-25 basic/authorization, Canonical Server URI: with and without a slash at the end
fn split(text: &str) -> Option<(String, String)> {
    if text.contains(['?', '#', '@', '"', '\\']) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let uri: Uri = text.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?.to_ascii_lowercase(), uri.host()?.to_ascii_lowercase());
    let default = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = uri.authority()?.as_str();
    // Something that is not a port in its place must not be ignored.
    let port = uri.port_u16();
    if host.is_empty() || (port.is_none() && authority.len() != host.len()) {
        return None;
    }
    let origin = match port.filter(|port| *port != default) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    };
    Some((origin, uri.path().strip_suffix('/').unwrap_or(uri.path()).to_owned()))
}

/// Whether what is sent to `url` is encrypted or stays on this machine.
// OAuth 2.1 §1.5; RFC 9728 §1.2
pub(super) fn is_secure(url: &str) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => Ok(()),
        Some("http") if is_loopback => Ok(()),
        _ => Err("must begin with https://; http:// is for this machine alone"),
    }
}

/// The paths of the endpoints of all servers.
const DOORS: [&str; 3] = ["/mcp", "/stream", "/sse"];
/// Where the metadata is.
// RFC 9728 §3
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(text: &str) -> Resource {
        text.parse().unwrap()
    }

    #[test]
    fn an_audience_is_the_gateway_or_one_of_its_servers() {
        let edge = resource("https://Edge.example/mcp");
        let one = |name: &str| Some(Reach::Servers(vec![ServerName::parse(name).unwrap()]));
        for (audience, reach) in [
            ("https://edge.example/mcp", Some(Reach::All)),
            ("https://edge.example/mcp/", Some(Reach::All)),
            ("HTTPS://EDGE.example:443/mcp", Some(Reach::All)),
            ("https://edge.example/sse", Some(Reach::All)),
            ("https://edge.example/stream", Some(Reach::All)),
            ("https://edge.example/servers/time/mcp", one("time")),
            ("https://edge.example/servers/time/sse/", one("time")),
            ("https://edge.example", None),
            ("https://edge.example/", None),
            ("https://edge.example/MCP", None),
            ("https://edge.example/mcp//", None),
            ("https://edge.example/mcp?x=1", None),
            ("https://edge.example/mcp#x", None),
            ("https://edge.example/servers/Time/mcp", None),
            ("https://edge.example/servers//mcp", None),
            ("https://edge.example/servers/time/mcp/call", None),
            ("https://edge.example/servers/time", None),
            ("https://edge.example:8443/mcp", None),
            ("https://edge.example:/mcp", None),
            ("http://edge.example/mcp", None),
            ("https://user@edge.example/mcp", None),
            ("https://edge.example.evil.example/mcp", None),
            ("edge.example/mcp", None),
            ("mcp", None),
            ("", None),
        ] {
            assert_eq!(edge.reach(audience), reach, "{audience}");
        }
    }

    #[test]
    fn a_proxy_may_put_a_prefix_before_all_paths() {
        for (text, audience) in [
            ("https://edge.example/gate/mcp", "https://edge.example/gate/mcp"),
            ("https://edge.example/gate", "https://edge.example/gate"),
        ] {
            let edge = resource(text);
            assert_eq!(edge.reach(audience), Some(Reach::All));
            assert_eq!(edge.reach("https://edge.example/gate/sse"), Some(Reach::All));
            assert_eq!(edge.reach("https://edge.example/mcp"), None, "somebody else's");
            assert_eq!(edge.endpoint("/servers/time/mcp"), "https://edge.example/gate/servers/time/mcp");
            let url = "https://edge.example/.well-known/oauth-protected-resource/gate/sse";
            assert_eq!(edge.metadata_url("/sse"), url);
            assert_eq!((edge.own_path("/gate/sse"), edge.own_path("/sse")), ("/sse", "/sse"));
            assert_eq!((edge.own_path("/gate"), edge.own_path("/gatemcp")), ("", "/gatemcp"));
        }
        let bare = resource("https://edge.example:8443/");
        assert_eq!(bare.reach("https://edge.example:8443"), Some(Reach::All));
        assert_eq!(bare.endpoint("/mcp"), "https://edge.example:8443/mcp");
    }

    #[test]
    fn the_endpoint_that_is_configured_has_its_name_to_the_letter() {
        for text in
            ["https://Edge.example:443/mcp/", "https://edge.example:443/mcp", "https://EDGE.example/mcp"]
        {
            let edge = resource(text);
            assert_eq!(edge.endpoint("/mcp"), text);
            assert_eq!(edge.endpoint("/sse"), "https://edge.example/sse");
        }
        assert_eq!(resource("https://edge.example/").endpoint("/mcp"), "https://edge.example/mcp");
    }

    #[test]
    fn a_token_for_one_server_reaches_no_other() {
        let reach = resource("https://edge.example/mcp").reach("https://edge.example/servers/a/mcp").unwrap();
        assert!(reach.covers(Some("a")));
        assert!(!reach.covers(Some("b")) && !reach.covers(None));
    }

    #[test]
    fn what_is_no_name_of_a_gateway_is_refused() {
        for text in [
            "",
            "edge.example",
            "/mcp",
            "ftp://edge.example/mcp",
            "https://edge.example/mcp?tenant=1",
            "https://edge.example/mcp#x",
            "https://a:b@edge.example/mcp",
            "https:///mcp",
            "https://edge.example/a\"b",
            "https://edge.example/a b",
        ] {
            assert!(Resource::from_str(text).unwrap_err().contains("not a URI"), "{text}");
        }
        let one = Resource::from_str("https://edge.example/servers/time/mcp").unwrap_err();
        assert!(one.contains("one server"), "{one}");
        assert!(Resource::from_str("http://edge.example/mcp").unwrap_err().contains("https://"));
        for text in ["http://127.0.0.1:8811/mcp", "http://localhost/mcp", "http://[::1]:1/mcp"] {
            assert_eq!(resource(text).as_str(), text);
        }
    }
}
