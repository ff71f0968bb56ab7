//! Three ways to find kind, id, method and the members that are read, on messages of the sizes that occur.
//! How to run it, and what it said: `README.md` beside this file.

use std::borrow::Cow;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;
use wire::Message;
use wire::limits::Limits;

/// Long enough to outlast the timer, short enough that some runs are left alone by the machine's other work.
const RUN: Duration = Duration::from_millis(5);
const RUNS: usize = 200;

#[expect(clippy::print_stdout, reason = "the table is the product")]
fn main() {
    let limits = Limits::default();
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    println!("| message | bytes | own | serde_json RawValue | simd-json tape |");
    println!("| --- | --- | --- | --- | --- |");
    for (name, message) in messages() {
        if !name.contains(&filter) {
            continue;
        }
        let mut own = Contender::new(|| Message::scan(message.clone(), &limits).is_ok());
        let mut raw = Contender::new(|| raw_value(&message).is_ok());
        let mut tape = Contender::new(|| simd_json::to_tape(&mut message.to_vec()).is_ok());
        for _ in 0..RUNS {
            // In turn, so that all meet the same disturbances.
            own.run();
            raw.run();
            tape.run();
        }
        let bytes = message.len();
        println!(
            "| {name} | {bytes} | {} | {} | {} |",
            own.speed(bytes),
            raw.speed(bytes),
            tape.speed(bytes)
        );
    }
}

struct Contender<F> {
    once: F,
    /// Nanoseconds for one message, by run.
    nanos: Vec<f64>,
}

impl<F: FnMut() -> bool> Contender<F> {
    fn new(mut once: F) -> Self {
        assert!(once(), "the message is valid");
        Contender { once, nanos: Vec::new() }
    }

    #[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
    fn run(&mut self) {
        let start = Instant::now();
        let mut count = 0u32;
        while start.elapsed() < RUN {
            for _ in 0..4 {
                black_box((self.once)());
            }
            count += 4;
        }
        self.nanos.push(start.elapsed().as_nanos() as f64 / f64::from(count));
    }

    /// By the fastest run, as other work on the machine can only slow a run down; and how far off the median is.
    fn speed(&mut self, bytes: usize) -> String {
        self.nanos.sort_by(f64::total_cmp);
        let (Some(best), Some(median)) = (self.nanos.first(), self.nanos.get(RUNS / 2)) else {
            return String::new();
        };
        format!("{best:.0} ns, {:.2} GB/s (+{:.0} %)", bytes as f64 / best, (median / best - 1.0) * 100.0)
    }
}

/// Captured from real servers where they fit in the repository; larger ones are built in the shape servers send them in.
fn messages() -> Vec<(&'static str, Bytes)> {
    let source = include_str!("../src/scanner.rs");
    let text = |bytes: usize| source.chars().cycle().take(bytes).collect::<String>();
    let call = |result: serde_json::Value| {
        Bytes::from(serde_json::json!({"result": result, "jsonrpc": "2.0", "id": 12}).to_string())
    };
    let content = |text: &str| call(serde_json::json!({"content": [{"type": "text", "text": text}]}));
    let rows: Vec<_> = (0..2800)
        .map(|i| serde_json::json!({"id": i, "name": format!("item-{i}"), "price": f64::from(i) * 1.25, "tags": ["a", "b"], "in": i % 3 == 0}))
        .collect();
    let image = "iVBORw0KGgoAAAANSUhEUgAAABQAAAAUCAYAAACNiR0NAAAA".repeat(2 << 20 >> 6);
    vec![
        ("call of a tool", Bytes::from_static(CALL.as_bytes())),
        ("its result", Bytes::from_static(include_bytes!("data/call_result.json"))),
        ("result of initialize", Bytes::from_static(include_bytes!("data/initialize_result.json"))),
        ("list of tools", Bytes::from_static(include_bytes!("data/tools_list_result.json"))),
        ("source file as text", content(&text(190_000))),
        ("rows of a table", call(serde_json::json!({"content": [], "structuredContent": {"rows": rows}}))),
        ("Chinese text", content(&"協議的每一方都說同一種語言。".repeat(4_800))),
        ("2 MB source file", content(&text(1_900_000))),
        (
            "2 MB image",
            call(serde_json::json!({"content": [{"type": "image", "data": image, "mimeType": "image/png"}]})),
        ),
    ]
}

const CALL: &str = concat!(
    r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"get-structured-content","#,
    r#""arguments":{"location":"New York"},"_meta":{"progressToken":3,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}}"#
);

/// The same answer from serde_json: each level that is read as key and raw value, equal keys refused.
fn raw_value(bytes: &[u8]) -> Result<usize, serde_json::Error> {
    let message: Members<'_> = serde_json::from_slice(bytes)?;
    let payload = message.get("params").or(message.get("result"));
    let Some(payload) = payload.filter(|payload| payload.get().starts_with('{')) else { return Ok(0) };
    let payload: Members<'_> = serde_json::from_str(payload.get())?;
    let meta =
        payload.get("_meta").map(|meta| serde_json::from_str::<Members<'_>>(meta.get())).transpose()?;
    Ok(message.0.len() + payload.0.len() + meta.map_or(0, |meta| meta.0.len()))
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(other, _)| other == key).map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members(Vec::new());
        while let Some(Key(key)) = map.next_key()? {
            if members.get(&key).is_some() {
                return Err(A::Error::custom("equal keys"));
            }
            members.0.push((key, map.next_value()?));
        }
        Ok(members)
    }
}

/// Borrowed unless it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}
