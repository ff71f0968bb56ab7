//! Each bound, hit.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use wire::envelope::batch;
use wire::error::ScanErrorKind;
use wire::frame::FrameDecoder;
use wire::limits::Limits;
use wire::mcp::{invoke, list};
use wire::object::Object;
use wire::span::Span;
use wire::{Frame, Message};

fn kind(text: &str, limits: &Limits) -> Option<ScanErrorKind> {
    Message::scan(Bytes::copy_from_slice(text.as_bytes()), limits).err().map(|error| error.kind)
}

fn nested(depth: usize) -> String {
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"a":{open}{close}}}}}"#)
}

#[test]
fn depth() {
    let limits = Limits::default();
    assert_eq!(kind(&nested(limits.depth - 2), &limits), None);
    assert_eq!(kind(&nested(limits.depth - 1), &limits), Some(ScanErrorKind::TooDeep));
    let most = Limits { depth: usize::MAX, ..Limits::default() };
    assert_eq!(kind(&nested(Limits::MAX_DEPTH - 2), &most), None);
    assert_eq!(kind(&nested(Limits::MAX_DEPTH - 1), &most), Some(ScanErrorKind::TooDeep));
    assert_eq!(kind(&"[".repeat(1 << 20), &most), Some(ScanErrorKind::Batch));
}

#[test]
fn members() {
    let limits = Limits::default();
    let object = |count: usize| {
        let members: Vec<_> = (0..count).map(|n| format!("\"{n}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    let message = |object: String| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{object}}}"#);
    assert_eq!(kind(&message(object(limits.members)), &limits), None);
    assert_eq!(kind(&message(object(limits.members + 1)), &limits), Some(ScanErrorKind::TooManyMembers));
    // An object that is only passed on may have any number.
    assert_eq!(kind(&message(format!(r#"{{"arguments":{}}}"#, object(10_000))), &limits), None);
}

#[test]
fn elements_of_a_batch() {
    let limits = Limits::default();
    let bytes = Bytes::from_static(br#" [{"id":1}, 2 ] "#);
    assert_eq!(batch(&bytes, &limits, 2).expect("two elements"), [r#"{"id":1}"#, "2"]);
    assert_eq!(batch(&bytes, &limits, 1).map_err(|error| error.kind), Err(ScanErrorKind::TooManyMembers));
    for wrong in ["[1,]", "[1", "{}", "[] 1", "[\"\u{0}\"]"] {
        let bytes = Bytes::copy_from_slice(wrong.as_bytes());
        assert_eq!(
            batch(&bytes, &limits, 9).map_err(|error| error.kind),
            Err(ScanErrorKind::Syntax),
            "{wrong}"
        );
    }
    assert_eq!(batch(&Bytes::from_static(b"[]"), &limits, 0).expect("empty"), Vec::<Bytes>::new());
}

#[test]
fn line_over_the_limit_takes_no_memory_beyond_the_limit() {
    const LIMIT: usize = 100_000;
    let mut decoder = FrameDecoder::new(LIMIT);
    let piece = [b' '; 10_000];
    decoder.buffer().extend_from_slice(b"{\"a\":\"");
    for _ in 0..1_000 {
        decoder.buffer().extend_from_slice(&piece);
        assert!(decoder.next().is_none());
        assert!(decoder.buffer().capacity() <= 3 * LIMIT);
    }
    decoder.buffer().extend_from_slice(b"\",\"id\":9}\n");
    let Some(Frame::TooLong { id, bytes, .. }) = decoder.next() else { unreachable!("the line is too long") };
    assert_eq!((id.map(|id| id.to_string()).as_deref(), bytes), (Some("9"), 10_000_015));
    assert!(decoder.buffer().capacity() < LIMIT, "what the long line needed is given back");
}

#[test]
fn a_line_of_just_the_limit_is_taken() {
    let mut decoder = FrameDecoder::new(4);
    decoder.buffer().extend_from_slice(b"1234\r\n12345\n");
    assert!(matches!(decoder.next(), Some(Frame::Line(line)) if line == "1234"));
    assert!(matches!(decoder.next(), Some(Frame::TooLong { bytes: 5, .. })));
}

#[test]
fn items_of_a_page_and_links_of_a_result() {
    let limits = Limits::default();
    let page = |count: usize| {
        let items = vec![r#"{"name":"a"}"#; count].join(",");
        list::ListPage::scan(&format!("{{\"tools\":[{items}]}}").into(), "tools", &limits)
    };
    assert_eq!(page(list::PAGE_ITEMS).expect("fits").items.len(), list::PAGE_ITEMS);
    let over = page(list::PAGE_ITEMS + 1);
    assert!(matches!(over, Err(list::PageError::TooManyItems(key)) if key == "tools"));
    let links = |count: usize| {
        let blocks = vec![r#"{"type":"resource_link","uri":"a:b"}"#; count].join(",");
        invoke::links(&format!("{{\"content\":[{blocks}]}}").into(), &limits).len()
    };
    assert_eq!(links(invoke::LINKS + 1), invoke::LINKS);
    assert_eq!(links(invoke::BLOCKS), invoke::LINKS);
    assert_eq!(links(invoke::BLOCKS + 1), 0);
}

#[test]
fn an_object_stands_alone_in_its_span() {
    let text = br#"x {"a":1} {"b":2}"#;
    let object = Object::scan(text, Span { start: 1, end: 10 }, &Limits::default()).expect("one object");
    assert_eq!(object.span(), Span { start: 2, end: 9 });
    assert_eq!(object.get(text, "a"), Some(Span { start: 7, end: 8 }));
    assert!(Object::scan(text, Span { start: 1, end: 17 }, &Limits::default()).is_err());
    assert!(Object::scan(text, Span { start: 1, end: 90 }, &Limits::default()).is_err());
}
