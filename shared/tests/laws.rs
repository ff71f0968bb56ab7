//! Laws that hold for any message: the checks of the fuzz targets on generated JSON, whole and damaged.

#[path = "../fuzz/src/lib.rs"]
#[allow(clippy::expect_used, clippy::indexing_slicing, reason = "a check fails by panicking")]
#[allow(unreachable_pub, reason = "the fuzz targets' own crate exports them")]
mod checks;

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use proptest::sample::select;

/// JSON texts of every shape: odd numbers, escapes, equal keys, and space wherever it may stand.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(vec!["null", "true", "false", "0", "-0", "1.5e-3", "-12E+7", "9007199254740993", "{}", "[ ]"])
            .prop_map(str::to_owned),
        string(),
    ];
    leaf.prop_recursive(7, 40, 5, |inner| {
        prop_oneof![
            (vec(inner.clone(), 0..5), space())
                .prop_map(|(items, space)| format!("[{space}{}{space}]", items.join(&format!("{space},")))),
            (vec((string(), inner), 0..5), space()).prop_map(|(members, space)| object(&members, &space)),
        ]
    })
}

fn object(members: &[(String, String)], space: &str) -> String {
    let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}{space}:{space}{value}")).collect();
    format!("{{{space}{}{space}}}", members.join(&format!("{space},")))
}

fn string() -> impl Strategy<Value = String> {
    let pieces = vec![
        "a",
        "id",
        "method",
        "é",
        "語",
        "😀",
        "\\n",
        "\\\"",
        "\\/",
        "\\u0069",
        "\\uD83D\\uDE00",
        "\\ud800",
        "long enough for whole blocks ",
    ];
    vec(select(pieces), 0..12).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn space() -> impl Strategy<Value = String> {
    select(vec!["", "", "", " ", "\r\n", "\t "]).prop_map(str::to_owned)
}

/// What looks like a message: the members one kind has, in any order, now and then with a value or a member it may not have.
fn message() -> impl Strategy<Value = String> {
    let id = prop_oneof![
        8 => select(vec!["1", "-7", "\"x\"", "\"\\u0061\""]),
        1 => select(vec!["null", "1.0", "{}", "\"\\ud800\""]),
    ];
    let method = prop_oneof![8 => select(vec!["\"ping\"", "\"tools\\/call\""]), 1 => Just("7")];
    let extra = prop_oneof![3 => Just(None), 1 => (string(), json()).prop_map(Some)];
    (select(KINDS.to_vec()), id, method, payload(), extra)
        .prop_map(|(keys, id, method, payload, extra)| {
            let value = |key: &&str| match *key {
                "jsonrpc" => "\"2.0\"",
                "id" => id,
                "method" => method,
                _ => &payload,
            };
            let members = keys.iter().map(|key| (format!("\"{key}\""), value(key).to_owned()));
            members.chain(extra).collect::<Vec<_>>()
        })
        .prop_shuffle()
        .prop_flat_map(|members| space().prop_map(move |space| object(&members, &space)))
}

/// Keys of each kind of message, and of some that are none.
const KINDS: [&[&str]; 8] = [
    &["jsonrpc", "id", "method", "params"],
    &["jsonrpc", "id", "method"],
    &["jsonrpc", "method", "params"],
    &["jsonrpc", "id", "result"],
    &["jsonrpc", "id", "error"],
    &["jsonrpc", "error"],
    &["jsonrpc", "id", "method", "result"],
    &["id", "method", "jsonrpc", "id"],
];

/// What `params`, `result` or `error` may hold, with equal keys now and then.
fn payload() -> impl Strategy<Value = String> {
    let named = |keys: Vec<&'static str>| (select(keys).prop_map(|key| format!("\"{key}\"")), json());
    let meta = vec(named(vec!["progressToken", "k", "\\u006b"]), 0..3);
    let meta = (meta, space()).prop_map(|(members, space)| object(&members, &space));
    let meta = prop_oneof![3 => meta, 1 => json()].prop_map(|meta| ("\"_meta\"".to_owned(), meta));
    let members = (vec(named(vec!["name", "uri", "content", "tools"]), 0..3), vec(meta, 0..=1));
    let payload =
        (members, space()).prop_map(|((members, meta), space)| object(&[members, meta].concat(), &space));
    prop_oneof![6 => payload, 1 => json()]
}

/// A text with some bytes changed, removed or cut off.
fn damaged(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let bytes = select(b"{}[]\",:\\u0e-. \n\r\x00\x1f\x7f\x80\xc3\xff".to_vec());
    (text, vec((any::<proptest::sample::Index>(), bytes, 0..3u8), 0..3)).prop_map(|(text, hits)| {
        let mut text = text.into_bytes();
        for (at, byte, how) in hits.into_iter() {
            if text.is_empty() {
                break;
            }
            let at = at.index(text.len());
            match how {
                0 => text.insert(at, byte),
                1 => drop(text.remove(at)),
                _ => text.truncate(at),
            }
        }
        text
    })
}

proptest! {
    // A failure is kept as a seed of the fuzz target, not in a file beside the test.
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lines_do_not_depend_on_how_the_stream_was_split(
        limit: u8, seed: u8, lines in vec((message(), select(vec!["\n", "\r\n", "\n\n", " \r\n", "\r\r\n"])), 0..4)
    ) {
        let mut data = vec![limit, seed];
        lines.iter().for_each(|(line, ending)| {
            data.extend_from_slice(line.as_bytes());
            data.extend_from_slice(ending.as_bytes());
        });
        checks::frame::check(&data);
    }

    #[test]
    fn the_scan_agrees_with_serde_json(message in message()) {
        checks::envelope::check(message.as_bytes());
    }

    #[test]
    fn the_scan_agrees_with_serde_json_on_what_is_no_message(data in damaged(prop_oneof![message(), json()])) {
        checks::envelope::check(&data);
    }

    #[test]
    fn edits_touch_only_what_they_name(edits in vec(any::<[u8; 3]>(), 0..16), source in prop_oneof![message(), json()]) {
        let mut data = vec![edits.len() as u8];
        data.extend(edits.into_iter().flat_map(|[a, b, c]| [a, b % 12, c]));
        data.extend_from_slice(source.as_bytes());
        checks::splice::check(&data);
    }

    #[test]
    fn header_values_stand_for_one_text(data in prop_oneof![".*".prop_map(String::into_bytes), vec(any::<u8>(), 0..40)]) {
        checks::header::check(&data);
    }
}
