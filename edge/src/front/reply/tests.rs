use wire::splice::COPIED_BYTES;

use super::*;
use wire::limits::Limits;

fn encoding(era: Era) -> ResponseEncoding {
    ResponseEncoding { era, server: ServerName::parse("time") }
}

fn text(answer: Answer) -> String {
    String::from_utf8(answer.message.into_bytes().to_vec()).unwrap()
}

#[test]
fn a_result_is_framed_and_not_touched() {
    let result = Bytes::from_static(b"{\"b\" : 1e0,\"a\":\"\\u00e4\"}");
    let id = RequestId::parse(br#""x""#).unwrap();
    let answer = encoding(Era::Modern).answer(&id, Outcome::Result(result.into()));
    assert_eq!(answer.message.iter().count(), 1, "a small answer is one piece");
    assert_eq!(text(answer), r#"{"jsonrpc":"2.0","id":"x","result":{"b" : 1e0,"a":"\u00e4"}}"#);
    let large = Bytes::from(format!("{{\"a\":\"{}\"}}", "x".repeat(COPIED_BYTES)));
    let answer = encoding(Era::Modern).answer(&id, Outcome::Result(large.clone().into()));
    assert!(answer.message.iter().any(|slice| slice.as_ptr() == large.as_ptr()), "no copy of a large one");
    let whole = format!(r#"{{"jsonrpc":"2.0","id":"x","result":{}}}"#, String::from_utf8_lossy(&large));
    assert_eq!(text(answer), whole);
}

#[test]
fn what_a_server_left_out_of_its_envelope_is_in_ours() {
    let id = RequestId::number(7);
    let answer = |text: &'static str| {
        let message = wire::Message::scan_of_server(text.into(), &Limits::default()).unwrap();
        let outcome = match (message.result(), message.error()) {
            (Some(result), _) => Outcome::Result(result.span().slice(message.bytes()).into()),
            (_, error) => Outcome::Refused(error.unwrap().span().slice(message.bytes())),
        };
        self::text(encoding(Era::Legacy).answer(&id, outcome))
    };
    assert_eq!(answer(r#"{"id":65536,"result":{}}"#), r#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
    let refused = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-7,"message":"no"}}"#;
    assert_eq!(answer(r#"{"id":65536,"error":{"code":-7,"message":"no"}}"#), refused);
}

#[test]
fn failures_become_status_code_and_reason() {
    let id = RequestId::number(1);
    let uri = || Kind::UnknownResource("file:///x".to_owned());
    let table = [
        (Kind::Unreachable, (200, 200), (-32603, -32603), Some("unreachable")),
        (Kind::Died, (200, 200), (-32603, -32603), Some("died")),
        (Kind::Timeout, (200, 200), (-32603, -32603), Some("timeout")),
        (Kind::TooLarge, (200, 200), (-32603, -32603), Some("too_large")),
        (Kind::Protocol, (200, 200), (-32603, -32603), Some("protocol")),
        (Kind::Cancelled, (200, 200), (-32603, -32603), Some("cancelled")),
        (Kind::Lost, (200, 200), (-32603, -32603), Some("lost")),
        (Kind::Busy, (503, 503), (-32603, -32603), Some("busy")),
        (Kind::Draining, (503, 503), (-32603, -32603), Some("draining")),
        (Kind::InvalidRequest, (200, 200), (-32600, -32600), None),
        (Kind::InvalidParams, (200, 200), (-32602, -32602), None),
        (Kind::UnknownMethod, (200, 404), (-32601, -32601), None),
        (uri(), (200, 200), (-32002, -32602), None),
    ];
    for (kind, statuses, codes, reason) in table {
        let error = Error::new(kind.clone(), Blame::Upstream, "what happened");
        for (era, status, code) in [(Era::Legacy, statuses.0, codes.0), (Era::Modern, statuses.1, codes.1)] {
            let answer = encoding(era).answer(&id, Outcome::Failed(error.clone()));
            assert_eq!(answer.status.as_u16(), status, "{kind:?} {era:?}");
            let message: Value = serde_json::from_str(&text(answer)).unwrap();
            assert_eq!(message["error"]["code"], code, "{kind:?} {era:?}");
            assert_eq!(message["error"]["message"], "what happened");
            let data = &message["error"]["data"];
            assert_eq!(data["reason"].as_str(), reason, "{kind:?}");
            assert_eq!(data["server"].as_str(), reason.map(|_| "time"), "{kind:?}");
            assert_eq!(data["uri"].as_str(), (kind == uri()).then_some("file:///x"));
        }
    }
}

#[test]
fn a_busy_answer_says_when_to_come_back() {
    let id = RequestId::number(1);
    for (blame, status) in [(Blame::Downstream, 429), (Blame::Edge, 503)] {
        for (after, secs) in [(Duration::ZERO, "1"), (Duration::from_millis(1500), "2"), (RETRY_AFTER, "1")] {
            let error = Error::busy(blame, after, "full");
            let response = encoding(Era::Legacy).failed(&id, &error).into_json();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["retry-after"], secs);
            let refused = Refusal::from(error).into_response();
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["retry-after"]),
                (status, &secs.parse().unwrap())
            );
        }
    }
    let draining = Error::new(Kind::Draining, Blame::Edge, "stopping");
    assert_eq!(encoding(Era::Modern).failed(&id, &draining).into_json().headers()["retry-after"], "1");
}

#[test]
fn a_servers_error_keeps_all_but_a_foreign_code() {
    let id = RequestId::number(1);
    let table = [
        (-32602, (200, -32602), (200, -32602)),
        (-32601, (200, -32601), (404, -32601)),
        (-32002, (200, -32002), (200, -32602)),
        (-32042, (200, -32042), (200, -32603)),
        (-32021, (200, -32603), (200, -32603)), // not with these data
        (-32020, (200, -32603), (200, -32603)),
        (-32022, (200, -32603), (200, -32603)),
        (-32099, (200, -32603), (200, -32603)),
        (-1, (200, -1), (200, -1)),
        (5_000_000_000_i64, (200, -32603), (200, -32603)),
    ];
    for (code, legacy, modern) in table {
        let error = Bytes::from(format!(r#"{{"message":"m", "code" :{code},"data":[ 1 ]}}"#));
        for (era, (status, told)) in [(Era::Legacy, legacy), (Era::Modern, modern)] {
            let answer = encoding(era).answer(&id, Outcome::Refused(error.clone()));
            assert_eq!(answer.status.as_u16(), status, "{code} {era:?}");
            let expected = format!(
                r#"{{"jsonrpc":"2.0","id":1,"error":{{"message":"m", "code" :{told},"data":[ 1 ]}}}}"#
            );
            assert_eq!(text(answer), expected);
        }
    }
}

#[test]
fn a_missing_capability_that_a_server_names_is_told_to_modern_clients() {
    let id = RequestId::number(1);
    let table = [
        (r#"{"requiredCapabilities":{"sampling":{}}}"#, (400, -32021)),
        (r#"{"requiredCapabilities":[]}"#, (200, -32603)),
        (r#"{"requiredCapabilities":null}"#, (200, -32603)),
        (r#"{"sampling":{}}"#, (200, -32603)),
        (r#"[{"requiredCapabilities":{}}]"#, (200, -32603)),
        ("7", (200, -32603)),
    ];
    for (data, modern) in table {
        let error = Bytes::from(format!(r#"{{"code":-32021,"message":"m","data":{data}}}"#));
        for (era, (status, told)) in [(Era::Legacy, (200, -32603)), (Era::Modern, modern)] {
            let answer = encoding(era).answer(&id, Outcome::Refused(error.clone()));
            assert_eq!(answer.status.as_u16(), status, "{data} {era:?}");
            let expected = format!(
                r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{told},"message":"m","data":{data}}}}}"#
            );
            assert_eq!(text(answer), expected);
        }
    }
    let bare = encoding(Era::Modern).answer(&id, Outcome::Refused(r#"{"code":-32021,"message":"m"}"#.into()));
    assert_eq!(bare.status, 200);
}

#[test]
fn an_error_without_a_message_gets_one_on_every_way_out() {
    let id = RequestId::number(1);
    let said = r#""message":"server `time` gave no message with its error""#;
    let table = [
        (r#"{"code":-32000}"#, format!(r#"{{"code":-32000,{said}}}"#)),
        (
            r#"{ "message" : null,"code":-32042,"data":{"a":[1e0]} }"#,
            format!(r#"{{ {},"code":-32603,"data":{{"a":[1e0]}} }}"#, said.replacen(':', " : ", 1)),
        ),
        (r#"{"code":-1,"message":["m"]}"#, format!(r#"{{"code":-1,{said}}}"#)),
        (r#"{"code":-1,"message":""}"#, r#"{"code":-1,"message":""}"#.to_owned()),
    ];
    for (error, expected) in table {
        let modern = encoding(Era::Modern);
        let answer = text(modern.answer(&id, Outcome::Refused(error.into())));
        assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":1,"error":{expected}}}"#));
        assert_eq!(modern.refusal(error.into()), expected, "of a task");
        let plain = text(modern.plain(Outcome::Refused(error.into())));
        assert_eq!(plain, refusal::message(None, "error", Bytes::from(expected).into()).into_bytes());
    }
    let nobody = ResponseEncoding { era: Era::Modern, server: None };
    assert!(
        nobody.refusal(r#"{"code":1}"#.into()).ends_with(br#""the server gave no message with its error"}"#)
    );
}

#[test]
fn what_is_no_error_object_is_the_servers_fault() {
    for odd in ["[]", "null", r#"{"message":"no code"}"#, r#"{"code":"x"}"#, r#"{"code":1.5}"#] {
        let answer = encoding(Era::Modern).answer(&RequestId::number(1), Outcome::Refused(odd.into()));
        assert_eq!(answer.ending, Ending::Protocol, "{odd}");
    }
}
