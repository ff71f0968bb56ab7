//! A server's answer in the words of the client's revision: what would break the client, and no more, for members that
//! nobody knows break none.

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Value, json};
use wire::code;
use wire::limits::Limits;
use wire::mcp::method::Method;
use wire::mcp::version::ProtocolVersion;
use wire::object::Object;
use wire::span::Span;
use wire::splice::{Parts, Splice};

use crate::call::Outcome;

/// The end of a call of `method`, as its client understands it.
pub(super) fn outcome(
    (method, version): (Method, ProtocolVersion),
    outcome: Outcome,
    limits: &Limits,
) -> Outcome {
    match outcome {
        Outcome::Result(result) if method == Method::ToolsCall => {
            Outcome::Result(blocks(method, version, structured(result, limits), limits))
        }
        Outcome::Result(result) if method == Method::PromptsGet => {
            Outcome::Result(blocks(method, version, result, limits))
        }
        Outcome::Refused(error) if method == Method::ToolsCall => match missing(&error) {
            Some(result) => Outcome::Result(result),
            None => Outcome::Refused(error),
        },
        other => other,
    }
}

/// A capability that the client did not declare. A tool's caller is a model, which can act on it.
// MCP 2026-07-28 basic, Error Codes: −32021 is unknown to earlier revisions
fn missing(error: &Bytes) -> Option<Parts> {
    let number = code::MISSING_CAPABILITY.to_string();
    memmem::find(error, number.as_bytes())?;
    let error: Value = serde_json::from_slice(error).ok()?;
    if error.get("code")? != code::MISSING_CAPABILITY {
        return None;
    }
    let required = error.pointer("/data/requiredCapabilities").and_then(Value::as_object);
    let mut names = Vec::new();
    for (name, flags) in required.into_iter().flatten() {
        match flags.as_object().filter(|flags| !flags.is_empty()) {
            Some(flags) => names.extend(flags.keys().map(|flag| format!("{name}.{flag}"))),
            None => names.push(name.clone()),
        }
    }
    let what = if names.is_empty() { "something that it did not name".to_owned() } else { names.join(", ") };
    let message = format!("this tool needs a client that declares {what}; this one does not");
    let result = json!({ "content": [{ "type": "text", "text": message }], "isError": true });
    Some(Bytes::from(result.to_string()).into())
}

/// Until 2025-11-25 `structuredContent` is an object; official clients refuse a result where it is not. Then it goes,
/// and what it says is said in a text.
// MCP 2025-11-25 schema, CallToolResult; MCP 2026-07-28 changelog: any JSON value
fn structured(result: Parts, limits: &Limits) -> Parts {
    // Members of a server's result are never cut in two, so a key stands in one slice.
    if !result.iter().any(|slice| has_other_than_object(slice)) {
        return result;
    }
    let bytes = result.into_bytes();
    let Some(edited) = unstructured(&bytes, limits) else { return bytes.into() };
    edited
}

/// Whether the key may stand there with another value than an object: a search, and no parse.
fn has_other_than_object(slice: &[u8]) -> bool {
    memmem::find_iter(slice, KEY).any(|at| {
        let after = slice.get(at + KEY.len()..).unwrap_or_default().trim_ascii_start();
        let value = after.strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        value.is_some_and(|value| value.first() != Some(&b'{'))
    })
}

fn unstructured(bytes: &Bytes, limits: &Limits) -> Option<Parts> {
    let result = Object::scan(bytes, Span::all(bytes), limits).ok()?;
    let span = result.get(bytes, "structuredContent").filter(|span| span.of(bytes).first() != Some(&b'{'))?;
    let value: Value = serde_json::from_slice(span.of(bytes)).ok()?;
    let said = |block: &Value| {
        let text = block.get("text").and_then(Value::as_str);
        text.is_some_and(|text| serde_json::from_str::<Value>(text).is_ok_and(|said| said == value))
    };
    let text = std::str::from_utf8(span.of(bytes)).ok()?;
    let block = json!({ "type": "text", "text": text }).to_string();
    let mut splice = Splice::new(bytes.clone());
    let content = result.get(bytes, "content");
    let blocks = content.and_then(|content| serde_json::from_slice::<Vec<Value>>(content.of(bytes)).ok());
    let mut edit = splice.object(&result);
    edit.remove("structuredContent");
    if blocks.is_none() {
        edit.set("content", format!("[{block}]"));
    }
    edit.done();
    if let (Some(content), Some(blocks)) = (content, blocks)
        && !blocks.iter().any(said)
    {
        let comma = if blocks.is_empty() { "" } else { "," };
        splice.insert(content.end - 1, format!("{comma}{block}"));
    }
    Some(splice.finish())
}

/// Content that the revision does not know, in what it does: its clients refuse the whole result over one block.
// MCP 2025-03-26 changelog: audio; MCP 2025-06-18 changelog: resource links
fn blocks(method: Method, version: ProtocolVersion, result: Parts, limits: &Limits) -> Parts {
    let unknown: &[&[u8]] = match version {
        ProtocolVersion::V2024_11_05 => &[br#""audio""#, br#""resource_link""#],
        ProtocolVersion::V2025_03_26 => &[br#""resource_link""#],
        _ => return result,
    };
    if !result.iter().any(|slice| unknown.iter().any(|word| memmem::find(slice, word).is_some())) {
        return result;
    }
    let bytes = result.into_bytes();
    let Some((span, mut content)) = content(method, &bytes, limits) else { return bytes.into() };
    let old = content.clone();
    match (method, &mut content) {
        (Method::ToolsCall, Value::Array(blocks)) => blocks.iter_mut().for_each(|block| say(block, version)),
        (_, Value::Array(messages)) => messages
            .iter_mut()
            .filter_map(|message| message.get_mut("content"))
            .for_each(|block| say(block, version)),
        _ => {}
    }
    if content == old {
        return bytes.into();
    }
    let mut splice = Splice::new(bytes);
    splice.replace(span, Bytes::from(content.to_string()));
    splice.finish()
}

/// The blocks of a tool's result, or the messages of a prompt.
fn content(method: Method, bytes: &Bytes, limits: &Limits) -> Option<(Span, Value)> {
    let key = if method == Method::ToolsCall { "content" } else { "messages" };
    let span = Object::scan(bytes, Span::all(bytes), limits).ok()?.get(bytes, key)?;
    Some((span, serde_json::from_slice(span.of(bytes)).ok()?))
}

/// One block in older words: a sound as the resource that it could be, a link as a text with its address.
fn say(block: &mut Value, version: ProtocolVersion) {
    let text = |key: &str| block.get(key).and_then(Value::as_str);
    *block = match text("type") {
        Some("audio") if version < ProtocolVersion::V2025_03_26 => json!({
            "type": "resource",
            "resource": { "uri": "attachment:audio", "mimeType": block["mimeType"], "blob": block["data"] },
        }),
        Some("resource_link") => {
            let about = text("description").map(|about| format!(": {about}")).unwrap_or_default();
            let (name, uri) = (text("name").unwrap_or("resource"), text("uri").unwrap_or_default());
            json!({ "type": "text", "text": format!("{name} <{uri}>{about}") })
        }
        _ => return,
    };
}

const KEY: &[u8] = br#""structuredContent""#;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(result: &'static str) -> String {
        told_to(ProtocolVersion::V2025_11_25, Method::ToolsCall, result)
    }

    fn told_to(version: ProtocolVersion, method: Method, result: &'static str) -> String {
        let outcome = outcome(
            (method, version),
            Outcome::Result(Bytes::from_static(result.as_bytes()).into()),
            &Limits::default(),
        );
        let Outcome::Result(parts) = outcome else { panic!("a result") };
        String::from_utf8(parts.into_bytes().to_vec()).unwrap()
    }

    #[test]
    fn what_is_structured_is_an_object_or_a_text() {
        for same in [
            r#"{"content":[],"structuredContent": {"a":[1]}}"#,
            r#"{"content":[{"type":"text","text":"\"structuredContent\":7"}]}"#,
            r#"{"content":[],"x":{"structuredContent":7}}"#,
            r#"{"content":[],"x":"structuredContent"}"#,
        ] {
            assert_eq!(told(same), same);
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
            (r#"{"structuredContent":null}"#, r#"{"content":[{"text":"null","type":"text"}]}"#),
        ];
        for (result, expected) in table {
            assert_eq!(told(result), expected);
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
            assert_eq!(told_to(version, Method::ToolsCall, result), expected, "{version:?}");
        }
        let old: Value = serde_json::from_str(&told_to(V2024_11_05, Method::ToolsCall, sound)).unwrap();
        let resource = json!({"uri": "attachment:audio", "mimeType": "audio/wav", "blob": "AA=="});
        assert_eq!((&old["content"][1]["resource"], &old["x"]), (&resource, &1.into()));
        let prompt =
            r#"{"messages":[{"role":"user","content":{"type":"resource_link","uri":"x://1","name":"n"}}]}"#;
        let old: Value = serde_json::from_str(&told_to(V2024_11_05, Method::PromptsGet, prompt)).unwrap();
        assert_eq!(old["messages"][0]["content"], json!({"type": "text", "text": "n <x://1>"}));
        for odd in [r#"{"content":""audio""}"#, r#"{"content":[{"text":"the "audio" tag","type":"text"}]}"#] {
            assert_eq!(told_to(V2024_11_05, Method::ToolsCall, odd), odd);
        }
    }

    #[test]
    fn a_missing_capability_is_named_in_a_tools_result() {
        let error = |text: &'static str| Outcome::Refused(Bytes::from_static(text.as_bytes()));
        let missing = r#"{"code":-32021,"message":"m","data":{"requiredCapabilities":{"elicitation":{"url":{}},"sampling":{}}}}"#;
        let Outcome::Result(result) =
            outcome((Method::ToolsCall, ProtocolVersion::V2025_11_25), error(missing), &Limits::default())
        else {
            panic!("a result")
        };
        let result: Value = serde_json::from_slice(&result.into_bytes()).unwrap();
        assert_eq!(result["isError"], true);
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("elicitation.url, sampling"), "{text}");
        for (method, text) in
            [(Method::PromptsGet, missing), (Method::ToolsCall, r#"{"code":-32602,"message":"-32021"}"#)]
        {
            assert!(matches!(
                outcome((method, ProtocolVersion::V2025_11_25), error(text), &Limits::default()),
                Outcome::Refused(_)
            ));
        }
    }
}
