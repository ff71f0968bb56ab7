//! One operation, so many times, and nothing else: what the script `instructions` runs under callgrind to count the
//! instructions of each. They are the same on a busy machine, so a change can be held against those on record.

use std::hint::black_box;

use bytes::Bytes;
use wire::Message;
use wire::frame::FrameDecoder;
use wire::id::RequestId;
use wire::limits::Limits;
use wire::splice::Splice;

// The id map is the edge's own and needs nothing of it.
#[allow(dead_code, unused_imports, reason = "the bench needs a part of it, and none of its tests")]
#[path = "../../edge/src/upstream/conn/mux.rs"]
mod mux;

/// Name, and what runs it so many times.
type Operation = (&'static str, fn(usize));

const OPERATIONS: [Operation; 10] = [
    ("scan-call", |count| scan(&Bytes::from_static(CALL), count)),
    ("scan-result", |count| scan(&Bytes::from_static(include_bytes!("data/call_result.json")), count)),
    ("scan-list", |count| scan(&Bytes::from_static(include_bytes!("data/tools_list_result.json")), count)),
    ("scan-200k", |count| scan(&large(), count)),
    ("splice-call", splice),
    ("splice-200k", splice_large),
    ("frame-lines", frame),
    ("id-parse", |count| repeat(count, || RequestId::parse(black_box(b"123456")))),
    ("id-number", |count| repeat(count, || RequestId::number(black_box(123_456)))),
    ("id-map", id_map),
];

#[expect(clippy::print_stdout, reason = "the list of names is for the script")]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (name, count) = (arguments.get(1).map_or("", String::as_str), arguments.get(2));
    match (OPERATIONS.iter().find(|(known, _)| *known == name), count.and_then(|count| count.parse().ok())) {
        (Some((_, operation)), Some(count)) => operation(count),
        _ => OPERATIONS.iter().for_each(|(name, _)| println!("{name}")),
    }
}

fn repeat<T>(count: usize, mut operation: impl FnMut() -> T) {
    for _ in 0..count {
        black_box(operation());
    }
}

fn scan(message: &Bytes, count: usize) {
    let limits = Limits::default();
    repeat(count, || Message::scan(message.clone(), &limits).is_ok());
}

/// What the edge does to a request: another id, and one member of `_meta`.
fn splice(count: usize) {
    let Ok(message) = Message::scan(Bytes::from_static(CALL), &Limits::default()) else { return };
    repeat(count, || {
        let mut splice = Splice::new(message.bytes().clone());
        if let (Some(id), Some(meta)) = (message.id_span(), message.meta()) {
            splice.replace(id, Bytes::from_static(b"65537"));
            splice.object(meta).set("progressToken", Bytes::from_static(b"65537"));
        }
        splice.finish()
    });
}

/// What the edge does to a large result of a legacy server: one more member, and no copy.
fn splice_large(count: usize) {
    let Ok(message) = Message::scan(large(), &Limits::default()) else { return };
    repeat(count, || {
        let mut splice = Splice::new(message.bytes().clone());
        if let Some(result) = message.result_object() {
            splice.object(result).set("resultType", Bytes::from_static(b"\"complete\""));
        }
        splice.finish()
    });
}

/// 32 lines that came in one read.
fn frame(count: usize) {
    let lines = [include_bytes!("data/call_result.json").trim_ascii(), b"\n"].concat().repeat(32);
    let mut decoder = FrameDecoder::new(1 << 20);
    repeat(count, || {
        decoder.buffer().extend_from_slice(&lines);
        while let Some(frame) = decoder.next() {
            black_box(frame);
        }
    });
}

/// A call in and out while 31 others are on their way.
fn id_map(count: usize) {
    let mut map = mux::Mux::new(1024);
    for _ in 0..31 {
        if let Some(vacant) = map.vacant() {
            vacant.fill(7_u64);
        }
    }
    repeat(count, || {
        let vacant = map.vacant()?;
        let id = vacant.id();
        vacant.fill(7_u64);
        map.close(mux::WireId::from_number(id.number()))
    });
}

fn large() -> Bytes {
    let text: String = include_str!("../src/scanner.rs").chars().cycle().take(190_000).collect();
    let result = serde_json::json!({"content": [{"type": "text", "text": text}]});
    Bytes::from(serde_json::json!({"id": 12, "jsonrpc": "2.0", "result": result}).to_string())
}

const CALL: &[u8] = concat!(
    r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"get-structured-content","#,
    r#""arguments":{"location":"New York"},"_meta":{"progressToken":3,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}}"#
)
.as_bytes();
