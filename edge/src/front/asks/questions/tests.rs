use super::*;
use wire::limits::Limits;

fn edited(
    kind: &str,
    params: &str,
    version: ProtocolVersion,
    capabilities: &str,
) -> Result<Value, &'static str> {
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{kind}","params":{{{params}}}}}"#);
    let request = Message::scan(text.into(), &Limits::default()).unwrap();
    let capabilities = Some(Bytes::copy_from_slice(capabilities.as_bytes()));
    let client = Client { capabilities, ..Client::default() };
    let edits = Edits::of(Kind::parse(kind), &request, version, &client)?;
    let mut splice = Splice::new(request.bytes().clone());
    edits.make(&request, &mut splice, Some(&Bytes::from_static(b"\"own\"")));
    let message: Value = serde_json::from_slice(&splice.finish().into_bytes()).unwrap();
    Ok(message["params"].clone())
}

const OLD: ProtocolVersion = ProtocolVersion::V2025_06_18;
const NEW: ProtocolVersion = ProtocolVersion::V2025_11_25;
const ALL: &str = r#"{"roots":{},"sampling":{"tools":{},"context":{}},"elicitation":{"form":{},"url":{}}}"#;

#[test]
fn a_client_is_asked_what_it_offered() {
    for (kind, params, enough, too_little) in [
        ("roots/list", "", r#"{"roots":{}}"#, "{}"),
        ("sampling/createMessage", "", r#"{"sampling":{}}"#, r#"{"roots":{}}"#),
        ("sampling/createMessage", r#""tools":[]"#, r#"{"sampling":{"tools":{}}}"#, r#"{"sampling":{}}"#),
        ("elicitation/create", "", r#"{"elicitation":{}}"#, "{}"),
        ("elicitation/create", "", r#"{"elicitation":{"form":{}}}"#, r#"{"elicitation":{"url":{}}}"#),
        ("elicitation/create", r#""mode":"url""#, r#"{"elicitation":{"url":{}}}"#, r#"{"elicitation":{}}"#),
    ] {
        assert!(edited(kind, params, NEW, enough).is_ok(), "{kind} {params} {enough}");
        assert!(edited(kind, params, NEW, too_little).is_err(), "{kind} {params} {too_little}");
    }
    assert!(edited("ping", "", NEW, ALL).is_err());
}

#[test]
fn an_older_client_is_asked_in_its_own_words() {
    let form = r#""mode":"form","message":"m","requestedSchema":{"type":"object","properties":{"a":{"type":"string"}}}"#;
    let asked = edited("elicitation/create", form, OLD, ALL).unwrap();
    assert!(asked.get("mode").is_none());
    assert_eq!(asked["requestedSchema"]["properties"]["a"]["type"], "string");
    assert_eq!(edited("elicitation/create", form, NEW, ALL).unwrap()["mode"], "form");

    let titled = r#""requestedSchema":{"properties":{"c":{"type":"string","oneOf":[{"const":"r","title":"Red"},{"const":"g","title":"Green"}]}}}"#;
    let asked = edited("elicitation/create", titled, OLD, ALL).unwrap();
    let choice = &asked["requestedSchema"]["properties"]["c"];
    assert_eq!(*choice, json!({"type":"string","enum":["r","g"],"enumNames":["Red","Green"]}));

    let several = r#""requestedSchema":{"properties":{"c":{"type":"array","items":{"enum":["a"]}}}}"#;
    for (kind, params) in [
        ("elicitation/create", r#""mode":"url","url":"https://x""#),
        ("elicitation/create", several),
        ("sampling/createMessage", r#""tools":[]"#),
        ("sampling/createMessage", r#""toolChoice":{}"#),
    ] {
        assert!(edited(kind, params, OLD, ALL).is_err(), "{kind} {params}");
        assert!(edited(kind, params, NEW, ALL).is_ok(), "{kind} {params}");
    }
    assert!(edited("elicitation/create", "", ProtocolVersion::V2025_03_26, ALL).is_err());
}

#[test]
fn an_older_client_gets_one_block_of_content_in_a_message() {
    let ask = |messages: &str, version| {
        edited("sampling/createMessage", &format!(r#""messages":{messages},"maxTokens":1"#), version, ALL)
    };
    let several = r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
        {"role":"assistant","content":{"type":"text","text":"c"}},{"role":"user","content":[]},{"role":"user"},7]"#;
    let text = |text: &str| json!({"type": "text", "text": text});
    let expected = json!([
        {"role": "user", "content": text("a")},
        {"role": "user", "content": text("b")},
        {"role": "assistant", "content": text("c")},
        {"role": "user"},
        7,
    ]);
    assert_eq!(ask(several, OLD).unwrap()["messages"], expected);
    let unchanged: Value = serde_json::from_str(several).unwrap();
    assert_eq!(ask(several, NEW).unwrap()["messages"], unchanged);
    let tools = r#"[{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"n","input":{}}]}]"#;
    assert!(ask(tools, OLD).is_err());
    assert!(ask(tools, NEW).is_ok());
}

#[test]
fn context_is_asked_of_clients_that_give_it() {
    let params = r#""includeContext":"thisServer","maxTokens":1"#;
    let asked = edited("sampling/createMessage", params, NEW, r#"{"sampling":{}}"#).unwrap();
    assert_eq!(asked, json!({"maxTokens":1}));
    for (version, capabilities) in [(NEW, ALL), (OLD, r#"{"sampling":{}}"#)] {
        let asked = edited("sampling/createMessage", params, version, capabilities).unwrap();
        assert_eq!(asked["includeContext"], "thisServer");
    }
}

#[test]
fn what_a_session_can_be_asked_is_offered_in_modern_words() {
    use ProtocolVersion as V;
    let all = r#"{"roots":{"listChanged":true},"sampling":{"tools":{},"context":{}},"elicitation":{"form":{},"url":{}},
        "tasks":{"list":{}},"extensions":{"a/b":{}},"experimental":{"x":{}}}"#;
    let table = [
        (all, V::V2024_11_05, json!({"roots": {}, "sampling": {}})),
        (all, V::V2025_03_26, json!({"roots": {}, "sampling": {}})),
        (all, V::V2025_06_18, json!({"roots": {}, "sampling": {}, "elicitation": {"form": {}}})),
        (
            all,
            V::V2025_11_25,
            json!({"roots": {}, "sampling": {"tools": {}, "context": {}}, "elicitation": {"form": {}, "url": {}}}),
        ),
        (r#"{"elicitation":{}}"#, V::V2025_11_25, json!({"elicitation": {"form": {}}})),
        (r#"{"elicitation":{"url":{}}}"#, V::V2025_11_25, json!({"elicitation": {"url": {}}})),
        (r#"{"sampling":null,"roots":true,"elicitation":[]}"#, V::V2025_11_25, json!({})),
        ("[]", V::V2025_11_25, json!({})),
    ];
    for (declared, version, offered) in table {
        let offer = offer(Capabilities::read(declared.as_bytes()), version);
        assert_eq!(serde_json::from_slice::<Value>(&offer).unwrap(), offered, "{declared} {version:?}");
    }
}
