use super::*;
use crate::front::door::classify;
use http::HeaderName;
use wire::mcp::method::Method;
use wire::mcp::mirror::mirrored;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn message(method: &str, params: &str) -> Message {
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    Message::scan(text.into(), &Limits::default()).unwrap()
}

#[test]
fn a_modern_version_counts_among_several() {
    assert_eq!(version(&headers(&[])), None);
    let twice = [("mcp-protocol-version", "2025-11-25"), ("mcp-protocol-version", " 2026-07-28 ")];
    assert_eq!(version(&headers(&twice)), Some("2026-07-28"));
    assert!(check_version(&headers(&twice), "2026-07-28").is_err());
    assert!(check_version(&headers(&twice[1..]), "2026-07-28").is_ok());
    assert!(check_version(&headers(&twice[..1]), "2026-07-28").is_err());
    assert!(check_version(&headers(&[]), "2026-07-28").is_err());
}

#[test]
fn a_method_is_compared_as_it_stands() {
    for (pairs, good) in [
        (&[("mcp-method", "tools/call")][..], true),
        (&[("mcp-method", "\ttools/call ")], true),
        (&[("mcp-method", "Tools/Call")], false),
        (&[("mcp-method", "=?base64?dG9vbHMvY2FsbA==?=")], false),
        (&[("mcp-method", "tools/call"), ("mcp-method", "tools/call")], false),
        (&[], false),
    ] {
        assert_eq!(check_method(&headers(pairs), "tools/call").is_ok(), good, "{pairs:?}");
    }
}

#[test]
fn a_name_is_compared_after_decoding() {
    let facts = Method::ToolsCall.facts();
    let plain = message("tools/call", r#"{"name":"grüße"}"#);
    for (value, good) in [
        ("=?base64?Z3LDvMOfZQ==?=", true),
        ("=?base64?Z3LDvMOfZQ?=", false),
        ("=?BASE64?Z3LDvMOfZQ==?=", false),
        ("grüße", false),
        ("=?base64?b3RoZXI=?=", false),
    ] {
        assert_eq!(check_name(&headers(&[("mcp-name", value)]), &plain, facts).is_ok(), good, "{value}");
    }
    // Text that looks encoded must be encoded to be meant literally.
    let literal = message("tools/call", r#"{"name":"=?base64?abc"}"#);
    assert!(check_name(&headers(&[("mcp-name", "=?base64?abc")]), &literal, facts).is_ok());
    // Escapes in the body are JSON's business.
    let escaped = message("tools/call", r#"{"name":"\u0065cho"}"#);
    assert!(check_name(&headers(&[("mcp-name", " echo")]), &escaped, facts).is_ok());
    let twice = headers(&[("mcp-name", "echo"), ("mcp-name", "echo")]);
    assert!(check_name(&twice, &escaped, facts).is_err());
    assert!(check_name(&headers(&[]), &escaped, facts).is_err());
}

#[test]
fn a_name_is_asked_for_where_there_is_one() {
    let read = message("resources/read", r#"{"uri":"file:///a"}"#);
    let named = headers(&[("mcp-name", "file:///a")]);
    assert!(check_name(&named, &read, Method::ResourcesRead.facts()).is_ok());
    let list = message("tools/list", "{}");
    assert!(check_name(&headers(&[]), &list, Method::ToolsList.facts()).is_ok());
    assert!(check_name(&named, &list, Method::ToolsList.facts()).is_ok(), "ignored");
    let nameless = message("tools/call", r#"{"name":7}"#);
    let refusal = check_name(&named, &nameless, Method::ToolsCall.facts()).unwrap_err();
    assert!(format!("{refusal:?}").contains("-32602"));
}

#[test]
fn mirrored_arguments_agree_with_their_headers() {
    let schema = r#"{"type":"object","properties":{
        "region":{"type":"string","x-mcp-header":"Region"},
        "page":{"type":"object","properties":{"size":{"type":"integer","x-mcp-header":"Size"}}}}}"#;
    let mirrored = mirrored(schema.as_bytes()).unwrap();
    let check = |arguments: &str, pairs: &[(&str, &str)]| {
        let message = message("tools/call", &format!(r#"{{"name":"t","arguments":{arguments}}}"#));
        let unreadable = |error| classify::uncounted_refusal(&error);
        check_params(&headers(pairs), &message, &mirrored, (&Limits::default(), unreadable)).is_ok()
    };
    let (region, size) = (("mcp-param-region", "eu"), ("mcp-param-size", "42"));
    assert!(check(r#"{"region":"eu","page":{"size":42.0}}"#, &[region, size]));
    assert!(check(r#"{"region":"eu"}"#, &[region]));
    assert!(check(r#"{"region":null,"page":{}}"#, &[("mcp-param-other", "x")]));
    assert!(check("{}", &[]));
    assert!(check(r#"{"region":"eu","page":[]}"#, &[region]), "no object, so nothing in it");
    assert!(!check(r#"{"region":"eu"}"#, &[]), "missing");
    assert!(!check(r#"{"x":1,"x":2,"region":"eu"}"#, &[]), "missing, in what a server may read all the same");
    assert!(!check(r#"{"region":"us","region":"eu"}"#, &[region]), "two values");
    let many: String = (0..300).map(|n| format!(r#""m{n}":0,"#)).collect();
    assert!(!check(&format!(r#"{{{many}"region":"eu"}}"#), &[]), "missing among many");
    assert!(!check(r#"{"region":"us"}"#, &[region]), "different");
    assert!(!check(r#"{"page":{"size":41}}"#, &[size]), "different number");
    assert!(!check("{}", &[region]), "of nothing");
    assert!(!check(r#"{"region":"eu"}"#, &[region, region]), "twice");
    assert!(!check(r#"{"region":"eu"}"#, &[("mcp-param-region", "=?base64?!!?=")]), "malformed");
}

#[test]
fn a_notification_needs_no_headers_but_right_ones() {
    let notice = message("notifications/cancelled", "{}");
    assert!(check_notice(&headers(&[]), &notice, None).is_ok());
    assert!(check_notice(&headers(&[]), &notice, Some("2026-07-28")).is_ok());
    let version = [("mcp-protocol-version", "2026-07-28")];
    assert!(check_notice(&headers(&version), &notice, Some("2026-07-28")).is_ok());
    assert!(check_notice(&headers(&version), &notice, Some("2027-01-01")).is_err());
    assert!(check_notice(&headers(&[("mcp-method", "tools/call")]), &notice, None).is_err());
}
