//! Splicing: bytes outside the named ranges stay, and edits of an object leave an object with just the members meant.

use bytes::{Buf, Bytes};
use serde_json::value::RawValue;
use wire::limits::Limits;
use wire::object::Object;
use wire::span::Span;
use wire::splice::{Parts, Splice};

/// The first byte is a number of edits, three bytes for each follow, the rest is the source.
pub fn check(data: &[u8]) {
    let Some((&count, data)) = data.split_first() else { return };
    let Some((edits, source)) = data.split_at_checked(usize::from(count % 16) * 3) else { return };
    let (edits, _) = edits.as_chunks::<3>();
    let source = Bytes::copy_from_slice(source);
    ranges(edits, &source);
    members(edits, &source);
}

/// Start, length, and what comes there.
fn ranges(edits: &[[u8; 3]], source: &Bytes) {
    let mut splice = Splice::new(source.clone());
    let mut named: Vec<(usize, usize, Vec<u8>)> = Vec::new();
    for &[start, len, with] in edits {
        let (start, end) = (usize::from(start), usize::from(start) + usize::from(len % 8));
        let with = vec![with; usize::from(with % 4)];
        splice.replace(Span { start, end }, with.clone());
        named.push((start, end, with));
    }
    // Byte by byte: what is inserted before it, and whether it stays.
    named.sort_by_key(|(start, end, _)| (*start, start != end));
    let mut expected = Vec::new();
    let mut done = 0;
    for (start, end, with) in named {
        if start >= done && end <= source.len() {
            expected.extend_from_slice(&source[done..start]);
            expected.extend(with);
            done = end;
        }
    }
    expected.extend_from_slice(&source[done..]);
    same_bytes(splice.finish(), &expected);
}

/// However it is read, it is the same message.
fn same_bytes(parts: Parts, expected: &[u8]) {
    assert_eq!(parts.len_bytes(), expected.len());
    assert!(parts.iter().all(|slice| !slice.is_empty()));
    let mut slowly = parts.clone();
    let mut read = Vec::new();
    while slowly.has_remaining() {
        let step = slowly.chunk().len().div_ceil(2);
        read.extend_from_slice(&slowly.chunk()[..step]);
        slowly.advance(step);
    }
    assert_eq!(read, expected);
    assert_eq!(parts.into_bytes(), expected);
}

/// What to do, and to which key.
fn members(edits: &[[u8; 3]], source: &Bytes) {
    let limits = Limits::default();
    let Ok(object) = Object::scan(source, Span::all(source), &limits) else { return };
    let mut expected: Vec<(String, String)> = object
        .members()
        .map(|member| {
            let value = String::from_utf8(member.value.of(source).to_vec()).expect("checked by the scan");
            (member.key_text(source).into_owned(), value)
        })
        .collect();
    let mut splice = Splice::within(source.clone(), object.span());
    let mut edit = splice.object(&object);
    let own = expected.len();
    for &[what, which, value] in edits {
        let key = match expected.get(usize::from(which)) {
            Some((key, _)) => key.clone(),
            None => ["", "a", "\"\\\n", "é"][usize::from(which % 4)].to_owned(),
        };
        let present = expected.iter_mut().find(|(other, _)| *other == key);
        match (what % 3, present) {
            (0, _) => {
                edit.remove(&key);
                expected.retain(|(other, _)| *other != key);
            }
            (1, _) => {
                edit.remove_where(|other| other.len() % 2 == 1);
                expected.retain(|(other, _)| other.len() % 2 == 0);
            }
            (_, Some((_, old))) => {
                edit.set(&key, value.to_string());
                *old = value.to_string();
            }
            (_, None) => {
                edit.set(&key, value.to_string());
                expected.push((key, value.to_string()));
            }
        }
    }
    drop(edit);
    same_members(splice.finish().into_bytes(), expected, own);
}

/// A member that is removed and set again stands where it stood, which the model does not follow: order counts only for
/// members that were never removed, so both are compared sorted.
fn same_members(bytes: Bytes, mut expected: Vec<(String, String)>, own: usize) {
    let limits = Limits { members: own + 64, ..Limits::default() };
    let object = Object::scan(&bytes, Span::all(&bytes), &limits).expect("an object");
    assert!(serde_json::from_slice::<&RawValue>(&bytes).is_ok());
    let mut members: Vec<_> = object
        .members()
        .map(|member| {
            (
                member.key_text(&bytes).into_owned(),
                String::from_utf8_lossy(member.value.of(&bytes)).into_owned(),
            )
        })
        .collect();
    members.sort();
    expected.sort();
    assert_eq!(members, expected);
}
