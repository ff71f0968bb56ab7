use serde_json::Value;

use super::*;
use crate::error::Kind;
use crate::permit;

fn downgraded_within(
    held_bytes: usize,
    what: (Method, ProtocolVersion),
    result: Parts,
) -> (Outcome, Permits) {
    let config = permit::Config { held_bytes, ..permit::Config::default() };
    let permits = Permits::new(config, permit::Metrics::default());
    (downgrade(what, Outcome::Result(result), (&Limits::default(), (&permits, &"p".into()))), permits)
}

fn downgraded(version: ProtocolVersion, method: Method, result: &'static str) -> String {
    let (outcome, _) = downgraded_within(0, (method, version), Bytes::from_static(result.as_bytes()).into());
    let Outcome::Result(parts) = outcome else { panic!("a result") };
    String::from_utf8(parts.into_bytes().to_vec()).unwrap()
}

fn downgraded_latest(result: &'static str) -> String {
    downgraded(ProtocolVersion::V2025_11_25, Method::ToolsCall, result)
}

#[test]
fn what_is_structured_is_an_object_or_a_text() {
    for same in [
        r#"{"content":[],"structuredContent": {"a":[1]}}"#,
        r#"{"content":[{"type":"text","text":"\"structuredContent\":7"}]}"#,
        r#"{"content":[],"x":{"structuredContent":7}}"#,
        r#"{"content":[],"x":"structuredContent"}"#,
    ] {
        assert_eq!(downgraded_latest(same), same);
    }
    let table = [
        (
            r#"{"structuredContent" : [1, 2],"content":[ ]}"#,
            r#"{"content":[ {"text":"[1, 2]","type":"text"}]}"#,
        ),
        (
            r#"{"content":[{"type":"text","text":"a"}],"structuredContent":"b","isError":false}"#,
            r#"{"content":[{"type":"text","text":"a"},{"text":"\"b\"","type":"text"}],"isError":false}"#,
        ),
        (
            r#"{"content":[{"type":"text","text":"[1,2]"}],"structuredContent":[1, 2]}"#,
            r#"{"content":[{"type":"text","text":"[1,2]"}]}"#,
        ),
        (
            r#"{"content":[{"type":"text","text":"[\n  \"a b\",\n  \"\\\\\"\n]"}],"structuredContent":["a b","\\"]}"#,
            r#"{"content":[{"type":"text","text":"[\n  \"a b\",\n  \"\\\\\"\n]"}]}"#,
        ),
        (
            r#"{"content":[{"text":"[\"ab\"]"}],"structuredContent":["a b"]}"#,
            r#"{"content":[{"text":"[\"ab\"]"},{"text":"[\"a b\"]","type":"text"}]}"#,
        ),
        (
            r#"{"content":{},"structuredContent":7,"x":1}"#,
            r#"{"content":[{"text":"7","type":"text"}],"x":1}"#,
        ),
        (r#"{"structuredContent":null}"#, r#"{"content":[{"text":"null","type":"text"}]}"#),
    ];
    for (result, expected) in table {
        assert_eq!(downgraded_latest(result), expected);
    }
}

#[test]
fn content_of_later_revisions_is_said_in_older_words() {
    use ProtocolVersion::{V2024_11_05, V2025_03_26, V2025_06_18};
    let sound = r#"{"content":[{"type":"text","text":"a"},{"type":"audio","data":"AA==","mimeType":"audio/wav"}],"x":1}"#;
    let link = r#"{"content":[{"type":"resource_link","uri":"x://1","name":"n","description":"d"}]}"#;
    let said = r#"{"content":[{"text":"n <x://1>: d","type":"text"}]}"#;
    for (version, result, expected) in [
        (V2025_03_26, sound, sound),
        (V2025_06_18, link, link),
        (V2025_03_26, link, said),
        (V2024_11_05, link, said),
    ] {
        assert_eq!(downgraded(version, Method::ToolsCall, result), expected, "{version:?}");
    }
    let old: Value = serde_json::from_str(&downgraded(V2024_11_05, Method::ToolsCall, sound)).unwrap();
    let resource = json!({"uri": "attachment:audio", "mimeType": "audio/wav", "blob": "AA=="});
    assert_eq!((&old["content"][1]["resource"], &old["x"]), (&resource, &1.into()));
    let prompt =
        r#"{"messages":[{"role":"user","content":{"type":"resource_link","uri":"x://1","name":"n"}}]}"#;
    let old: Value = serde_json::from_str(&downgraded(V2024_11_05, Method::PromptsGet, prompt)).unwrap();
    assert_eq!(old["messages"][0]["content"], json!({"type": "text", "text": "n <x://1>"}));
    for odd in [r#"{"content":""audio""}"#, r#"{"content":[{"text":"the "audio" tag","type":"text"}]}"#] {
        assert_eq!(downgraded(V2024_11_05, Method::ToolsCall, odd), odd);
    }
}

#[test]
fn content_of_an_unknown_type_is_a_text_with_its_json() {
    use ProtocolVersion::{V2024_11_05, V2025_06_18, V2025_11_25};
    let known =
        r#"{"content":[{"type":"text","text":"a"},{"type" : "image"},{"type":"resource"}],"x":{"type":"y"}}"#;
    let escaped =
        r#"{"content":[{"type":"te\u0078t","text":"a"},{"text":"\"type\":\"video\"","type":"text"}]}"#;
    for version in [V2024_11_05, V2025_06_18, V2025_11_25] {
        assert_eq!(downgraded(version, Method::ToolsCall, known), known);
        assert_eq!(downgraded(version, Method::ToolsCall, escaped), escaped);
        for block in [r#"{"type": "video","uri":"x:\u00e9"}"#, r#"{"type":"tool_use"}"#, r#"{"type":7}"#] {
            let said = json!({"type": "text", "text": block});
            let result = format!(r#"{{"content":[{{"type":"text","text":"a"}},{block}]}}"#);
            let told = serde_json::from_str::<Value>(&downgraded(version, Method::ToolsCall, result.leak()));
            assert_eq!(told.unwrap()["content"], json!([{"type": "text", "text": "a"}, said]));
            let prompt = format!(r#"{{"messages":[{{"role":"user","content":{block}}}]}}"#);
            let told = serde_json::from_str::<Value>(&downgraded(version, Method::PromptsGet, prompt.leak()));
            assert_eq!(told.unwrap()["messages"][0]["content"], said);
        }
    }
}

#[test]
fn a_missing_capability_is_named_in_a_tools_result() {
    let error = |text: &'static str| Outcome::Refused(Bytes::from_static(text.as_bytes()));
    let missing = r#"{"code":-32021,"message":"m","data":{"requiredCapabilities":{"elicitation":{"url":{}},"sampling":{}}}}"#;
    let downgraded = |method, error| {
        downgrade(
            (method, ProtocolVersion::V2025_11_25),
            error,
            (&Limits::default(), (&Permits::default(), &"p".into())),
        )
    };
    let Outcome::Result(result) = downgraded(Method::ToolsCall, error(missing)) else { panic!("a result") };
    let result: Value = serde_json::from_slice(&result.into_bytes()).unwrap();
    assert_eq!(result["isError"], true);
    let text = result["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("elicitation.url, sampling"), "{text}");
    for (method, text) in
        [(Method::PromptsGet, missing), (Method::ToolsCall, r#"{"code":-32602,"message":"-32021"}"#)]
    {
        assert!(matches!(downgraded(method, error(text)), Outcome::Refused(_)));
    }
}

#[test]
fn both_are_mended_at_once() {
    let result =
        r#"{"structuredContent":[1],"content":[{"type":"resource_link","uri":"x:\u0031","name":"\"n\""}]}"#;
    let result = downgraded(ProtocolVersion::V2025_03_26, Method::ToolsCall, result);
    let said = r#"{"content":[{"text":"\"n\" <x:\u0031>","type":"text"},{"text":"[1]","type":"text"}]}"#;
    assert_eq!(result, said);
    let bare = r#"{"content":[{"type":"audio"},{"type":"resource_link"}]}"#;
    let value: Value =
        serde_json::from_str(&downgraded(ProtocolVersion::V2024_11_05, Method::ToolsCall, bare)).unwrap();
    assert_eq!(value["content"][0]["resource"], json!({"uri": "attachment:audio", "blob": ""}));
    assert_eq!(value["content"][1]["text"], "resource <>");
}

const OLDEST: (Method, ProtocolVersion) = (Method::ToolsCall, ProtocolVersion::V2024_11_05);

#[test]
fn what_is_large_stays_in_its_memory() {
    let data = "A".repeat(4 * COUNTED_FROM_BYTES);
    let result = Bytes::from(format!(
        r#"{{"content":[{{"type":"text","text":"{data}"}},{{"mimeType":"a/b","type":"audio","data":"{data}"}}]}}"#
    ));
    let memory = result.as_ptr_range();
    let (outcome, permits) = downgraded_within(0, OLDEST, result.clone().into());
    let Outcome::Result(parts) = outcome else { panic!("nothing is built that counts") };
    let of_ours: usize = parts.iter().filter(|part| !memory.contains(&part.as_ptr())).map(Bytes::len).sum();
    assert!(of_ours < 200, "{of_ours} bytes are new");
    let value: Value = serde_json::from_slice(&parts.into_bytes()).unwrap();
    assert_eq!(value["content"][0]["text"], data);
    let resource = json!({"uri": "attachment:audio", "mimeType": "a/b", "blob": data});
    assert_eq!(value["content"][1], json!({"type": "resource", "resource": resource}));
    assert_eq!(permits.held_bytes(), 0);
}

#[test]
fn what_is_built_counts_as_long_as_it_is_there() {
    let about = "d".repeat(COUNTED_FROM_BYTES);
    let link = format!(r#"{{"content":[{{"type":"resource_link","description":"{about}"}}]"#);
    let link = Bytes::from(link);
    let slices = [link.clone(), Bytes::from_static(b"}")];
    let structured = Bytes::from(format!(r#"{{"content":[],"structuredContent":"{about}"}}"#));
    let table: [Parts; 3] =
        [Bytes::from([&link[..], b"}"].concat()).into(), slices.into_iter().collect(), structured.into()];
    for result in table {
        let (outcome, permits) = downgraded_within(3 * COUNTED_FROM_BYTES, OLDEST, result.clone());
        let Outcome::Result(parts) = outcome else { panic!("a result") };
        assert!(permits.held_bytes() > COUNTED_FROM_BYTES);
        drop(parts);
        assert_eq!(permits.held_bytes(), 0);
        let (outcome, permits) = downgraded_within(COUNTED_FROM_BYTES, OLDEST, result);
        assert!(matches!(outcome, Outcome::Failed(error) if error.kind == Kind::TooLarge));
        assert_eq!(permits.held_bytes(), 0);
    }
}

#[test]
fn a_list_of_too_many_blocks_is_passed_over() {
    let result = |blocks: usize| format!(r#"{{"content":[{}{{"type":"audio"}}]}}"#, "{},".repeat(blocks - 1));
    for (blocks, is_told) in [(BLOCKS, true), (BLOCKS + 1, false)] {
        let (outcome, _) = downgraded_within(0, OLDEST, Bytes::from(result(blocks)).into());
        let Outcome::Result(parts) = outcome else { panic!("a result") };
        assert_eq!(parts.into_bytes() != result(blocks), is_told, "{blocks}");
    }
}
