//! The scan: agrees with serde_json on what is JSON and on where the parts stand, and is stricter only where it says so.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::value::RawValue;
use wire::error::ScanErrorKind;
use wire::id::RequestId;
use wire::limits::Limits;
use wire::mcp::{invoke, list::ListPage, list::PAGE_ITEMS};
use wire::object::Object;
use wire::span::Span;
use wire::{Frame, Kind, Message, ScanError};

/// Small, so that short inputs reach the bounds.
fn limits() -> Limits {
    Limits { depth: 8, members: 12, ..Limits::default() }
}

/// `data` is one message.
pub fn check(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let json = std::str::from_utf8(data).ok().filter(|text| serde_json::from_str::<&RawValue>(text).is_ok());
    let of_server = Message::scan_of_server(bytes.clone(), &limits());
    match Message::scan(bytes, &limits()) {
        Ok(message) => {
            assert_eq!(of_server.expect("taken from anybody").kind(), message.kind());
            let line = json.expect("what is accepted is JSON").replace(['\r', '\n'], " ");
            assert!(message.bytes() == &line, "nothing but its line breaks has changed");
            accepted(&message, &line);
        }
        Err(error) => {
            if let Ok(message) = of_server {
                assert_eq!((error.kind, message.kind()), (ScanErrorKind::NotAMessage, Kind::Response));
                assert!(
                    error.is_response
                        && error.id.as_ref() == message.id().filter(|id| id.as_bytes().len() <= 256)
                );
            }
            refused(&error, data, json);
        }
    }
    as_object(data, json);
}

fn accepted(message: &Message, json: &str) {
    let members: HashMap<String, &RawValue> = serde_json::from_str(json).expect("an object");
    let raw = |key: &str| members.get(key).map(|value| value.get().as_bytes());
    assert_eq!(
        members.len(),
        Object::scan(message.bytes(), Span::all(message.bytes()), &limits())
            .expect("scanned")
            .members()
            .count()
    );
    let kind = match (members.contains_key("method"), message.id()) {
        (true, Some(_)) => Kind::Request,
        (true, None) => Kind::Notification,
        (false, _) => Kind::Response,
    };
    assert_eq!(message.kind(), kind);
    assert_eq!(message.id().map(RequestId::as_bytes), raw("id").filter(|id| id != b"null"));
    assert_eq!(message.id_span().map(|span| span.of(message.bytes())), message.id().map(RequestId::as_bytes));
    let method: Option<String> =
        raw("method").map(|method| serde_json::from_slice(method).expect("a string"));
    assert_eq!(message.method(), method.unwrap_or_default());
    assert_eq!(message.params().map(|params| params.span().of(message.bytes())), raw("params"));
    assert_eq!(message.result().map(|result| result.raw()), raw("result"));
    assert_eq!(message.error().map(|error| error.raw()), raw("error"));
    payload(message);
    too_long(message);
    if let Some(result) = message.result() {
        views(&result.span().slice(message.bytes()));
    }
}

/// `params` or `result`, and `_meta` in there.
fn payload(message: &Message) {
    let payload = message.params().or(message.result_object());
    let Some(payload) = payload else { return assert!(message.meta().is_none()) };
    let members: HashMap<String, &RawValue> =
        serde_json::from_slice(payload.span().of(message.bytes())).expect("an object");
    assert_eq!(members.len(), payload.members().count());
    for (key, value) in &members {
        assert_eq!(
            payload.get(message.bytes(), key).map(|span| span.of(message.bytes())),
            Some(value.get().as_bytes())
        );
    }
    let meta = members.get("_meta").map(|meta| meta.get()).filter(|meta| meta.starts_with('{'));
    assert_eq!(message.meta().map(|meta| meta.span().of(message.bytes())), meta.map(str::as_bytes));
}

/// Had the message been too long, its id would have been found all the same, and its kind.
fn too_long(message: &Message) {
    let mut decoder = wire::frame::FrameDecoder::new(0);
    decoder.buffer().extend_from_slice(message.bytes());
    match decoder.finish() {
        Some(Frame::TooLong { id, kind, .. }) => {
            assert_eq!(id.as_ref(), message.id().filter(|id| id.as_bytes().len() <= 256));
            assert_eq!(kind, Some(message.kind()));
        }
        other => unreachable!("a message over the limit gave {other:?}"),
    }
}

/// What is refused deserves it.
fn refused(error: &ScanError, data: &[u8], json: Option<&str>) {
    assert!(error.at <= data.len());
    assert!(!error.to_string().is_empty());
    match error.kind {
        ScanErrorKind::Syntax => assert!(json.is_none(), "JSON refused as none"),
        ScanErrorKind::NotUtf8 => assert!(
            std::str::from_utf8(data).is_err() || data.windows(3).any(|w| w.eq_ignore_ascii_case(b"\\ud"))
        ),
        ScanErrorKind::BadId | ScanErrorKind::NotAMessage => {
            assert!(json.is_some(), "judged before it was read");
        }
        ScanErrorKind::TooDeep => {
            let open = data[..=error.at].iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
            assert!(open > limits().depth);
        }
        ScanErrorKind::TooManyMembers => {
            assert!(data.iter().filter(|&&byte| byte == b',').count() >= limits().members);
        }
        ScanErrorKind::DuplicateKey => assert_eq!(data[error.at], b'"'),
        ScanErrorKind::Batch => assert_eq!(data.trim_ascii_start().first(), Some(&b'[')),
    }
    // A key with half a surrogate pair is one that serde_json cannot hold.
    let members = json.and_then(|json| serde_json::from_str::<HashMap<String, &RawValue>>(json).ok());
    if let (Some(id), Some(members)) = (&error.id, members) {
        let token = members.get("id").expect("has an id").get();
        assert_eq!(RequestId::parse(token.as_bytes()).as_ref(), Some(id));
    }
}

/// Any JSON at all, as the value of a member that is only passed on: refused only for depth.
fn as_object(data: &[u8], json: Option<&str>) {
    let Some(json) = json else { return };
    let text = format!("{{\"k\":{json}}}");
    match Object::scan(text.as_bytes(), Span::all(text.as_bytes()), &limits()) {
        Ok(object) => assert_eq!(
            object.get(text.as_bytes(), "k").map(|span| span.of(text.as_bytes())),
            Some(json.trim_ascii().as_bytes())
        ),
        Err(error) => assert_eq!(error.kind, ScanErrorKind::TooDeep, "{data:?}"),
    }
}

/// Views of results take anything, and what they show is in there.
fn views(result: &Bytes) {
    for key in ["tools", "resources", "resourceTemplates"] {
        let Ok(page) = ListPage::scan(result, key, &limits()) else { continue };
        assert!(page.items.len() + page.left_out <= PAGE_ITEMS);
        for item in page.items {
            let key: String = serde_json::from_slice(item.key_span.of(&item.raw)).expect("a string");
            assert_eq!(item.key, key);
        }
    }
    assert!(invoke::links(result, &limits()).len() <= invoke::LINKS);
}
