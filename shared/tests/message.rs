//! One message from its bytes: kinds, parts, refusals, and the id that is echoed with them.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use wire::envelope::ScanErrorKind::{self, *};
use wire::id::RequestId;
use wire::limits::Limits;
use wire::{Kind, Message};

fn scan(text: &'static str) -> Message {
    Message::scan(Bytes::from_static(text.as_bytes()), &Limits::default()).expect(text)
}

fn refusal(text: &str) -> (ScanErrorKind, Option<String>) {
    let error = Message::scan(Bytes::copy_from_slice(text.as_bytes()), &Limits::default()).expect_err(text);
    (error.kind, error.id.map(|id| id.to_string()))
}

#[test]
fn a_request_shows_its_parts() {
    let text = r#" {"jsonrpc":"2.0","id":"a\u0062","method":"tools\/call","params":{"name":"e","arguments":{"x":[1,{}]},"_meta":{"progressToken":7}}} "#;
    let message = scan(text);
    assert_eq!(message.kind(), Kind::Request);
    assert_eq!(message.id().expect("id").to_string(), r#""a\u0062""#);
    assert_eq!(message.id_span().expect("span").of(text.as_bytes()), br#""a\u0062""#);
    assert_eq!(message.method(), "tools/call");
    assert_eq!(message.param("name").expect("name").as_str().as_deref(), Some("e"));
    assert_eq!(message.param("arguments").expect("arguments").raw(), br#"{"x":[1,{}]}"#);
    assert_eq!(message.meta_value("progressToken").expect("token").as_u64(), Some(7));
    assert!(message.result().is_none() && message.error().is_none() && message.result_object().is_none());
}

#[test]
fn line_breaks_become_spaces_between_tokens_and_are_refused_in_strings() {
    let text = "{\r\n\"id\":1,\n\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":{\"x\":\r[1,\n2]}}\n";
    let message = scan(text);
    assert_eq!(message.bytes(), text.replace(['\r', '\n'], " ").as_bytes());
    assert_eq!(message.param("x").expect("x").raw(), b"[1, 2]");
    for line_break in ["\n", "\r", "\r\n"] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"x":["1{line_break}2"]}}}}"#);
        assert_eq!(refusal(&text).0, Syntax, "{text:?}");
    }
}

#[test]
fn notifications_and_responses_are_told_apart() {
    assert_eq!(scan(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).kind(), Kind::Notification);
    let response = scan(r#"{"result":{"_meta":{"a":1}},"jsonrpc":"2.0","id":4}"#);
    assert_eq!((response.kind(), response.id().and_then(RequestId::as_u64)), (Kind::Response, Some(4)));
    assert_eq!(response.meta_value("a").expect("a").raw(), b"1");
    assert!(response.params().is_none() && response.result_object().is_some());
    for id in [r#","id":null"#, ""] {
        let text = format!(r#"{{"jsonrpc":"2.0"{id},"error":{{"code":-32700,"message":"no"}}}}"#);
        let message = Message::scan(text.into(), &Limits::default()).expect("error response");
        assert!(message.id().is_none() && message.error().is_some_and(|error| error.is_object()));
    }
}

#[test]
fn refusals_name_the_cause_and_the_id() {
    let cases = [
        ("", Syntax, None),
        ("7", NotAMessage, None),
        ("[]", Batch, None),
        ("{}", NotAMessage, None),
        (r#"{"jsonrpc":"2.0","id":3,"method":"a","params":{"x":]}}"#, Syntax, Some("3")),
        (r#"{"jsonrpc":"2.0","method":"a","params":{"x":1,"x":2},"id":3}"#, DuplicateKey, Some("3")),
        (r#"{"jsonrpc":"2.0","method":"a","params":{"x":1,"\u0078":2},"id":3}"#, DuplicateKey, Some("3")),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"_meta":{"x":1,"x":2}},"id":3}"#,
            DuplicateKey,
            Some("3"),
        ),
        (r#"{"jsonrpc":"2.0","method":"a","id":3,"id":4}"#, DuplicateKey, None),
        (r#"{"jsonrpc":"2.0","method":"a","id":3,"i\u0064":4}"#, DuplicateKey, None),
        (r#"{"jsonrpc":"2.0","method":"a","id":3,"\ud800":4}"#, NotUtf8, Some("3")),
        (r#"{"jsonrpc":"2.0","method":"a","id":null}"#, BadId, None),
        (r#"{"jsonrpc":"2.0","method":"a","id":1.5}"#, BadId, None),
        (r#"{"jsonrpc":"2.0","method":"a","id":{}}"#, BadId, None),
        (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, BadId, None),
        (r#"{"jsonrpc":"2.0","result":{}}"#, NotAMessage, None),
        (r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#, NotAMessage, Some("1")),
        (r#"{"id":1,"method":"a"}"#, NotAMessage, Some("1")),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, NotAMessage, Some("1")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[]}"#, NotAMessage, Some("1")),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","result":{}}"#, NotAMessage, Some("1")),
        (r#"{"jsonrpc":"2.0","id":1,"error":{},"result":{}}"#, NotAMessage, Some("1")),
    ];
    for (text, kind, id) in cases {
        assert_eq!(refusal(text), (kind, id.map(str::to_owned)), "{text}");
    }
}

#[test]
fn response_of_a_server_without_jsonrpc_is_accepted() {
    let of_server =
        |text: &'static str| Message::scan_of_server(Bytes::from_static(text.as_bytes()), &Limits::default());
    for text in [r#"{"id":4,"result":{"_meta":{"a":1}}}"#, r#"{"error":{"code":1,"message":"m"},"id":4}"#] {
        let message = of_server(text).expect(text);
        assert_eq!((message.kind(), message.id().and_then(RequestId::as_u64)), (Kind::Response, Some(4)));
        assert!(message.result().is_some() != message.error().is_some());
        assert_eq!(refusal(text), (NotAMessage, Some("4".to_owned())), "of a client");
    }
    for (text, is_result) in [
        (r#"{"jsonrpc":"2.0","id":4,"result":{},"error":null}"#, true),
        (r#"{"error":null,"id":4,"result":[]}"#, true),
        (r#"{"jsonrpc":"2.0","id":4,"result":null,"error":{"code":1}}"#, false),
    ] {
        let message = of_server(text).expect(text);
        assert_eq!(
            (message.result().is_some(), message.error().is_some()),
            (is_result, !is_result),
            "{text}"
        );
        assert_eq!(refusal(text).0, NotAMessage, "of a client");
    }
    for text in [
        r#"{"id":4,"result":null,"error":null}"#,
        r#"{"id":4,"method":"m","error":null,"result":null}"#,
        r#"{"id":4,"error":{},"level":"error"}"#,
        r#"{"id":4,"method":"m"}"#,
        r#"{"method":"m"}"#,
        r#"{"id":4}"#,
        r#"{"error":{}}"#,
        r#"{"id":4,"result":{},"error":{}}"#,
        r#"{"jsonrpc":"1.0","id":4,"result":{}}"#,
    ] {
        assert_eq!(of_server(text).expect_err(text).kind, NotAMessage, "{text}");
    }
    assert_eq!(of_server(r#"{"id":null,"result":{}}"#).expect_err("no id").kind, BadId);
}

#[test]
fn string_is_accepted_exactly_if_serde_json_accepts_it() {
    let good = [r"\n", r#"\""#, r"\\", r#"\\\""#, r"\u00e9", r"\\\\n", "é"];
    let bad = [r"\", r"\x", r"\u12g4", r"\u", r#"\u00""#, "\n", "\\\n", "\0"];
    for (piece, before) in
        good.iter().chain(&bad).flat_map(|piece| (0..140).map(move |before| (*piece, before)))
    {
        for after in [0, 1, 70] {
            let string = format!(r"\t{}{piece}{}", "a".repeat(before), "-".repeat(after));
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"text":"{string}"}}}}"#);
            let scanned = Message::scan(text.clone().into(), &Limits::default());
            assert_eq!(scanned.is_ok(), serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text:?}");
            assert_eq!(scanned.is_ok(), good.contains(&piece), "{text:?}");
        }
    }
}

#[test]
fn a_message_moves_to_a_copy_of_itself_alone() {
    let message = scan(r#"{"jsonrpc":"2.0","method":"a","params":{"b":1}}"#);
    let (copy, other) = (Bytes::copy_from_slice(message.bytes()), Bytes::from_static(b"{}"));
    let moved = message.moved_to(copy.clone());
    assert_eq!(moved.bytes().as_ptr(), copy.as_ptr());
    assert_eq!((moved.method(), moved.param("b").unwrap().raw()), ("a", &b"1"[..]));
    assert_eq!(moved.moved_to(other).bytes(), &copy);
}
