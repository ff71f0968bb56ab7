//! Edits on byte ranges and on the members of objects.

use bytes::{Buf, Bytes};
use wire::id::RequestId;
use wire::limits::Limits;
use wire::object::Object;
use wire::span::Span;
use wire::splice::{COPIED_BYTES, ObjectEdit, Parts, Splice};

/// Edits the object that `text` is.
fn edited(text: &'static str, edit: impl FnOnce(&mut ObjectEdit<'_>)) -> String {
    let source = Bytes::from_static(text.as_bytes());
    let object = Object::scan(&source, Span::all(&source), &Limits::default())
        .unwrap_or_else(|error| unreachable!("{error}"));
    let mut splice = Splice::new(source);
    edit(&mut splice.object(&object));
    String::from_utf8_lossy(&splice.finish().into_bytes()).into_owned()
}

#[test]
fn members_are_set_in_place_or_at_the_end() {
    assert_eq!(edited("{}", |o| o.set("a", "1")), r#"{"a":1}"#);
    assert_eq!(edited("{ }", |o| o.set("a", "1")), r#"{"a":1 }"#);
    assert_eq!(edited(r#"{"a" : 1 , "b":2}"#, |o| o.set("a", "{}")), r#"{"a" : {} , "b":2}"#);
    assert_eq!(edited(r#"{"a":1 }"#, |o| o.set("b\"", "2")), r#"{"a":1,"b\"":2 }"#);
    assert_eq!(edited(r#"{"\u0061":1}"#, |o| o.set("a", "2")), r#"{"\u0061":2}"#);
    assert_eq!(
        edited("{}", |o| ["a", "b", "a"].into_iter().for_each(|key| o.set(key, "3"))),
        r#"{"a":3,"b":3}"#
    );
}

#[test]
fn removed_member_takes_one_comma() {
    let text = r#"{ "a":1 , "b":2 , "c":3 }"#;
    assert_eq!(edited(text, |o| o.remove("a")), r#"{ "b":2 , "c":3 }"#);
    assert_eq!(edited(text, |o| o.remove("b")), r#"{ "a":1 , "c":3 }"#);
    assert_eq!(edited(text, |o| o.remove("c")), r#"{ "a":1 , "b":2 }"#);
    assert_eq!(edited(text, |o| o.remove_where(|key| key != "c")), r#"{ "c":3 }"#);
    assert_eq!(edited(text, |o| o.remove_where(|_| true)), r#"{  }"#);
    assert_eq!(edited(text, |o| o.remove("d")), text);
}

#[test]
fn last_edit_of_a_key_wins() {
    let set_and_remove = |o: &mut ObjectEdit<'_>| {
        o.set("a", "5");
        o.remove("a");
        o.set("z", "6");
        o.remove("z");
    };
    assert_eq!(edited(r#"{"a":1}"#, set_and_remove), "{}");
    let remove_and_set = |o: &mut ObjectEdit<'_>| {
        o.remove_where(|_| true);
        o.set("z", "6");
        o.set("a", "5");
    };
    assert_eq!(edited(r#"{"a":1,"b":2}"#, remove_and_set), r#"{"a":5,"z":6}"#);
    assert_eq!(edited(r#"{"b":2}"#, remove_and_set), r#"{"z":6,"a":5}"#);
}

#[test]
fn edit_inside_a_replaced_range_is_ignored() {
    let mut splice = Splice::new(Bytes::from_static(b"0123456789"));
    splice.insert(5, "inside");
    splice.remove(Span { start: 4, end: 6 });
    splice.replace(Span { start: 5, end: 8 }, "overlaps");
    splice.replace(Span { start: 9, end: 11 }, "beyond");
    splice.replace(Span { start: 8, end: 7 }, "backwards");
    assert_eq!(splice.finish().into_bytes(), "01236789");
}

#[test]
fn inserts_come_before_what_replaces_the_bytes_there() {
    let mut splice = Splice::within(Bytes::from_static(b"0123456789"), Span { start: 2, end: 6 });
    splice.replace(Span { start: 4, end: 5 }, "<");
    splice.insert(4, "a");
    splice.insert(4, "b");
    splice.insert(2, "first ");
    splice.insert(6, " last");
    splice.insert(1, "outside");
    assert_eq!(splice.finish().into_bytes(), "first 23ab<5 last");
}

#[test]
fn parts_of_a_large_message_are_slices_of_the_source() {
    let source = Bytes::from("0123456789".repeat(COPIED_BYTES / 10 + 1));
    let mut splice = Splice::new(source.clone());
    splice.replace(Span { start: 3, end: 4 }, "x");
    let parts = splice.finish();
    let slices: Vec<&Bytes> = parts.iter().collect();
    assert_eq!(slices.len(), 3);
    assert_eq!(
        (slices[0], slices[1], &slices[2][..6]),
        (&Bytes::from("012"), &Bytes::from("x"), &b"456789"[..])
    );
    assert_eq!(slices[0].as_ptr(), source.as_ptr());
    let mut io = [std::io::IoSlice::new(&[]); 2];
    assert_eq!(parts.chunks_vectored(&mut io), 2);
    assert_eq!((io[0].len(), io[1].len()), (3, 1));
    assert_eq!(Parts::from(source.clone()).into_bytes().as_ptr(), source.as_ptr());
}

#[test]
fn a_small_message_is_one_part() {
    let mut splice = Splice::new(Bytes::from_static(b"0123456789"));
    splice.replace(Span { start: 3, end: 4 }, "x");
    splice.remove(Span { start: 8, end: 10 });
    let parts = splice.finish();
    assert_eq!(parts.iter().collect::<Vec<_>>(), ["012x4567"]);
}

#[test]
fn parts_end_where_their_slices_do() {
    let mut parts: Parts = ["ab", "", "cd", "e"].map(Bytes::from).into_iter().collect();
    assert_eq!((parts.len_bytes(), parts.iter().count()), (5, 3));
    parts.advance(3);
    assert_eq!((parts.chunk(), parts.remaining()), (&b"d"[..], 2));
    let mut all = Parts::new();
    all.extend(Parts::new());
    all.extend(parts);
    all.extend(Parts::from(Bytes::from("f")));
    assert_eq!((all.remaining(), all.clone().into_bytes()), (3, Bytes::from("def")));
    all.advance(3);
    assert_eq!((all.remaining(), all.chunk(), all.iter().count()), (0, &b""[..], 0));
    all.push("g");
    assert_eq!(all.into_bytes(), "g");
}

#[test]
fn an_id_takes_the_place_of_another() {
    for (source, copied) in [("[7]".to_owned(), true), (format!("[7{}]", " ".repeat(COPIED_BYTES)), false)] {
        let mut splice = Splice::new(Bytes::from(source.clone()));
        splice.replace_id(Span { start: 1, end: 2 }, RequestId::number(65_537));
        let parts = splice.finish();
        assert_eq!(parts.iter().count() == 1, copied);
        assert_eq!(parts.into_bytes(), source.replacen('7', "65537", 1));
    }
}

#[test]
fn a_member_that_is_the_same_already_is_left_alone() {
    let source = Bytes::from_static(br#"{"a":1,"b":2}"#);
    let object = Object::scan(&source, Span { start: 0, end: source.len() }, &Limits::default()).unwrap();
    let edited = |edit: fn(&mut ObjectEdit<'_>)| {
        let mut splice = Splice::new(source.clone());
        let mut editing = splice.object(&object);
        edit(&mut editing);
        editing.done();
        splice.finish().into_bytes()
    };
    assert_eq!(edited(|edit| edit.set("a", "1")), source);
    assert_eq!(edited(|edit| (edit.set("a", "3"), edit.set("a", "1")).1), source);
    assert_eq!(edited(|edit| (edit.remove("a"), edit.set("a", "1")).1), source);
    assert_eq!(edited(|edit| (edit.set("b", "2"), edit.set("c", "3")).1), r#"{"a":1,"b":2,"c":3}"#);
}

#[test]
fn a_part_is_taken_without_a_copy_where_one_slice_has_it() {
    let (first, last) = (Bytes::from_static(b"0123456789"), Bytes::from_static(b"abc"));
    let mut parts: Parts = [first.clone(), last.clone()].into_iter().collect();
    assert_eq!(parts.copy_to_bytes(4).as_ptr(), first.as_ptr());
    assert_eq!((parts.remaining(), parts.chunk()), (9, &b"456789"[..]));
    assert_eq!(parts.copy_to_bytes(7), "456789a");
    assert_eq!(parts.copy_to_bytes(2).as_ptr(), last[1..].as_ptr());
    assert!(!parts.has_remaining() && parts.copy_to_bytes(0).is_empty());
}
