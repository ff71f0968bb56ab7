use super::*;
use wire::limits::Limits;

const MODERN: Clues<'_> = Clues { version: Some("2026-07-28"), session: false };
const FUTURE: Clues<'_> = Clues { version: Some("2031-01-01"), session: true };
const LEGACY: Clues<'_> = Clues { version: Some("2025-11-25"), session: true };
const BARE: Clues<'_> = Clues { version: None, session: false };
const SESSION: Clues<'_> = Clues { version: None, session: true };
const CLAIM: &str = r#""params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
const OLD_CLAIM: &str = r#""params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2025-11-25"}}"#;
const ODD_CLAIM: &str = r#""params":{"_meta":{"io.modelcontextprotocol/protocolVersion":null}}"#;

fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}",{params}}}"#)
}

fn notification(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled",{params}}}"#)
}

/// The class, or status and code of the refusal.
fn verdict(text: &str, clues: Clues<'_>) -> Result<Class, (u16, String)> {
    let message = Message::scan(text.to_owned().into(), &Limits::default()).unwrap();
    classify(&message, clues).map_err(|refusal| told(&refusal))
}

fn told(refusal: &Refusal) -> (u16, String) {
    let text = format!("{refusal:?}");
    let code = text.split("code: ").nth(1).unwrap().split(',').next().unwrap();
    (refusal.status().as_u16(), code.to_owned())
}

#[test]
fn the_ladder() {
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned();
    let refused = |status: u16, code: &str| Err((status, code.to_owned()));
    let empty = r#""params":{}"#;
    let table = [
        // Responses belong to sessions.
        (response.clone(), SESSION, Ok(Class::Legacy)),
        (response.clone(), BARE, Ok(Class::Legacy)),
        (response, MODERN, refused(400, "-32600")),
        // Notifications go by their claim, then by the header.
        (notification(CLAIM), BARE, Ok(Class::ModernNotice)),
        (notification(CLAIM), LEGACY, Ok(Class::ModernNotice)),
        (notification(empty), MODERN, Ok(Class::ModernNotice)),
        (notification(empty), FUTURE, Ok(Class::ModernNotice)),
        (notification(empty), LEGACY, Ok(Class::Legacy)),
        (notification(empty), BARE, Ok(Class::Legacy)),
        // Requests with a claim are modern, whatever else they carry.
        (request("tools/call", CLAIM), BARE, Ok(Class::Modern)),
        (request("tools/call", CLAIM), LEGACY, Ok(Class::Modern)),
        (request("initialize", CLAIM), MODERN, Ok(Class::Modern)),
        (request("initialize", CLAIM), BARE, Ok(Class::Modern)),
        (request("tools/list", OLD_CLAIM), LEGACY, Ok(Class::Modern)),
        (request("tools/list", ODD_CLAIM), SESSION, Ok(Class::Modern)),
        // A modern header without a claim is never silently legacy.
        (request("tools/call", empty), MODERN, refused(400, "-32602")),
        (request("tools/call", empty), FUTURE, refused(400, "-32602")),
        (request("server/discover", empty), MODERN, refused(400, "-32602")),
        (request("initialize", empty), MODERN, refused(400, "-32020")),
        // The handshake.
        (request("initialize", empty), BARE, Ok(Class::Initialize)),
        (request("initialize", empty), LEGACY, Ok(Class::Initialize)),
        // A probe without any mark of its era.
        (request("server/discover", empty), BARE, refused(404, "-32601")),
        (request("server/discover", empty), SESSION, Ok(Class::Legacy)),
        // Everything else wants a session.
        (request("tools/call", empty), SESSION, Ok(Class::Legacy)),
        (request("tools/call", empty), BARE, Ok(Class::Legacy)),
        (request("no/such", empty), LEGACY, Ok(Class::Legacy)),
        (request("tools/call", empty), Clues { version: Some("nonsense"), session: true }, Ok(Class::Legacy)),
        (request("tools/call", empty), Clues { version: Some("9999"), session: true }, Ok(Class::Legacy)),
    ];
    for (text, clues, expected) in table {
        assert_eq!(verdict(&text, clues), expected, "{text} {clues:?}");
    }
}

#[test]
fn what_is_no_message_is_refused_with_its_code_and_id() {
    let table = [
        ("{", "-32700", None),
        ("", "-32700", None),
        ("[]", "-32600", None),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, "-32600", None),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "-32600", None),
        (r#"{"jsonrpc":"2.0","id":4,"id":4,"method":"ping"}"#, "-32600", None),
        (r#"{"jsonrpc":"1.0","id":"a","method":"ping"}"#, "-32600", Some(r#""a""#)),
        (r#"{"jsonrpc":"2.0","id":4,"method":"ping","params":[]}"#, "-32600", Some("4")),
    ];
    for (text, code, id) in table {
        let error = Message::scan(text.into(), &Limits::default()).unwrap_err();
        let refusal = uncounted_refusal(&error);
        assert_eq!(told(&refusal), (400, code.to_owned()), "{text}");
        if let Some(id) = id {
            assert_eq!(error.id.unwrap().as_bytes(), id.as_bytes(), "{text}");
        }
    }
}
