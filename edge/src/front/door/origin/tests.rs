use super::*;
use http::Request;
use http::request::Parts as Head;

fn head(pairs: &[(&str, &str)]) -> Head {
    let mut request = Request::builder().method("POST").uri("/mcp");
    for (name, value) in pairs {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn admit(rules: &Rules, head: &Head) -> Result<Admission, Refusal> {
    rules.admit((head.version, &head.uri), &head.headers)
}

fn rules(hosts: &[&str], origins: &[&str], loopback: bool) -> Rules {
    let hosts = hosts.iter().map(|text| text.parse().unwrap()).collect();
    let origins = origins.iter().map(|text| text.parse().unwrap()).collect();
    Rules { hosts, origins, loopback }
}

/// The status of the refusal, or 200.
fn status(rules: &Rules, host: &str, origin: Option<&str>) -> u16 {
    let mut pairs = vec![("host", host)];
    pairs.extend(origin.map(|origin| ("origin", origin)));
    admit(rules, &head(&pairs)).map_or_else(|refusal| refusal.status().as_u16(), |_| 200)
}

#[test]
fn hosts() {
    let loopback = rules(&[], &[], true);
    for good in ["localhost", "LOCALHOST:8811", "127.0.0.1:1", "[::1]", "[::1]:8811"] {
        assert_eq!(status(&loopback, good, None), 200, "{good}");
    }
    for bad in ["evil.example", "localhost.evil.example", "127.0.0.2", "evil.example:8811"] {
        assert_eq!(status(&loopback, bad, None), 403, "{bad}");
    }
    for odd in ["", "user@localhost", "localhost:port", "a b", "localhost:99999"] {
        assert_eq!(status(&loopback, odd, None), 400, "{odd}");
    }
    let open = rules(&[], &[], false);
    assert_eq!(status(&open, "anything.example", None), 200);
    let named = rules(&["mcp.example.com", "other.example:8443", "tls.example:443"], &[], true);
    for (host, expected) in [
        ("MCP.example.com:1234", 200),
        ("other.example:8443", 200),
        ("other.example", 403),
        ("tls.example:443", 200),
        ("tls.example", 200), // clients leave the port of their scheme out
        ("tls.example:8443", 403),
        ("localhost", 403),
    ] {
        assert_eq!(status(&named, host, None), expected, "{host}");
    }
}

#[test]
fn origins() {
    let open = rules(&[], &["https://app.example.com", "http://localhost:6274/"], false);
    for (host, origin, expected) in [
        ("mcp.example.com", "https://mcp.example.com", 200),
        ("mcp.example.com:443", "https://mcp.example.com", 200),
        ("mcp.example.com", "http://mcp.example.com", 200),
        ("mcp.example.com:8811", "http://mcp.example.com:8811", 200),
        ("mcp.example.com:8811", "http://mcp.example.com:3000", 403),
        ("mcp.example.com", "https://app.example.com", 200),
        ("mcp.example.com", "HTTPS://APP.example.com", 200),
        ("mcp.example.com", "https://app.example.com:444", 403),
        ("mcp.example.com", "http://localhost:6274", 200),
        ("mcp.example.com", "http://localhost:1", 403),
        ("mcp.example.com", "https://evil.example", 403),
        ("mcp.example.com", "null", 403),
        ("mcp.example.com", "mcp.example.com", 403),
        ("mcp.example.com", "", 403),
    ] {
        assert_eq!(status(&open, host, Some(origin)), expected, "{host} {origin}");
    }
    let loopback = rules(&[], &[], true);
    for (origin, expected) in [
        ("http://localhost:6274", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:5", 200),
        ("http://evil.example", 403),
    ] {
        assert_eq!(status(&loopback, "127.0.0.1:8811", Some(origin)), expected, "{origin}");
    }
}

#[test]
fn what_comes_twice_is_refused() {
    let open = rules(&[], &["https://a.example"], false);
    let twice = head(&[("host", "h"), ("origin", "https://a.example"), ("origin", "https://a.example")]);
    assert_eq!(admit(&open, &twice).unwrap_err().status(), 403);
    assert_eq!(admit(&open, &head(&[("host", "h"), ("host", "h")])).unwrap_err().status(), 400);
    assert_eq!(admit(&open, &head(&[])).unwrap_err().status(), 400);
}

#[test]
fn a_target_in_absolute_form_counts_more_than_host() {
    let loopback = rules(&[], &[], true);
    let mut head = head(&[("host", "localhost")]);
    head.uri = "http://evil.example/mcp".parse().unwrap();
    assert_eq!(admit(&loopback, &head).unwrap_err().status(), 403);
    let target = |version, hosts: &[&str]| {
        let mut head = self::head(&hosts.iter().map(|&host| ("host", host)).collect::<Vec<_>>());
        head.uri = "http://localhost:8811/mcp".parse().unwrap();
        head.version = version;
        admit(&loopback, &head).map_or_else(|refusal| refusal.status().as_u16(), |_| 200)
    };
    for (hosts, expected) in
        [(&["localhost:8811"][..], 200), (&["evil.example"], 200), (&[], 400), (&["a", "a"], 400)]
    {
        assert_eq!(target(Version::HTTP_11, hosts), expected, "{hosts:?}");
    }
    assert_eq!(target(Version::HTTP_10, &[]), 200);
}

/// Seen served by what `:authority` said alone.
#[test]
fn over_http_2_a_host_beside_the_authority_names_the_same() {
    let open = rules(&[], &[], false);
    for (authority, hosts, expected) in [
        ("edge.example", &[][..], 200),
        ("edge.example", &["Edge.example:443"], 200),
        ("edge.example:8811", &["edge.example:8811"], 200),
        ("edge.example:8811", &["edge.example"], 400),
        ("edge.example", &["other.example"], 400),
        ("edge.example", &[""], 400),
        ("edge.example", &["edge.example", "edge.example"], 400),
    ] {
        let mut head = head(&hosts.iter().map(|&host| ("host", host)).collect::<Vec<_>>());
        (head.version, head.uri) = (Version::HTTP_2, format!("http://{authority}/mcp").parse().unwrap());
        let status = admit(&open, &head).map_or_else(|refusal| refusal.status().as_u16(), |_| 200);
        assert_eq!(status, expected, "{authority} {hosts:?}");
    }
}

#[test]
fn preflights_are_answered_for_listed_pages_only() {
    let rules = rules(&[], &["https://app.example.com"], true);
    let ask = |origin: &str, method: Option<&str>| {
        let mut pairs = vec![
            ("host", "localhost"),
            ("origin", origin),
            ("access-control-request-headers", "content-type, Mcp-Param-Region, x-secret, mcp-session-id"),
        ];
        pairs.extend(method.map(|method| ("access-control-request-method", method)));
        let head = head(&pairs);
        let admission = admit(&rules, &head)?;
        let mut response = admission.preflight(&head.headers)?;
        admission.open_to_page(response.headers_mut());
        Ok::<_, Refusal>(response)
    };
    let response = ask("https://app.example.com", Some("POST")).unwrap();
    assert_eq!(response.status(), 204);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("access-control-allow-origin"), "https://app.example.com");
    assert_eq!(header("access-control-allow-methods"), "GET, POST, DELETE");
    assert_eq!(header("access-control-allow-headers"), "content-type, Mcp-Param-Region, mcp-session-id");
    assert!(header("access-control-expose-headers").contains("Mcp-Session-Id"));
    let vary: Vec<_> = response.headers().get_all("vary").iter().collect();
    assert_eq!(vary, ["access-control-request-headers", "origin"]);
    let refused = |origin, method| ask(origin, method).unwrap_err().status().as_u16();
    assert_eq!(refused("http://localhost:5", Some("POST")), 403, "let in, but not listed");
    assert_eq!(refused("https://evil.example", Some("POST")), 403);
    assert_eq!(refused("https://app.example.com", None), 405);
}
