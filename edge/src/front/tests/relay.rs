//! What a modern server wants first, of a modern client: everything as it is, and the state sealed.

use serde_json::json;

use super::rounds::want_text;
use super::*;

const A: (&str, &str) = ("authorization", "Bearer secret-token-1");
const B: (&str, &str) = ("authorization", "Bearer secret-token-2");
const ARGUMENTS: &str = r#""name":"t","arguments":{"a":1,"b":[2]},"#;

const FORMS: &str = r#"{"elicitation":{}}"#;

fn stage() -> Stage {
    let tokens = vec![("secret-token-1", "a"), ("secret-token-2", "b")];
    Stage::with(Setting { tokens, ..Setting::default() })
}

/// A call of a client that declares `capabilities`.
fn body(params: &str, capabilities: &str) -> String {
    let none = r#"clientCapabilities":{}"#;
    modern("tools/call", params).replace(none, &format!(r#"clientCapabilities":{capabilities}"#))
}

/// Sends a request at `/servers/time/mcp`, so that one server alone answers; the server wants `wanted` first.
async fn first(stage: &Stage, wanted: &str) -> Value {
    let answering = async {
        until(|| stage.open_calls() > 0).await;
        let (call, responder) = stage.take_open();
        want_text(call, responder, wanted);
    };
    let response = send(stage, A, ARGUMENTS);
    let (response, ()) = tokio::join!(response, answering);
    assert_eq!(response.status(), 200);
    json(response).await
}

async fn send(stage: &Stage, who: (&str, &str), params: &str) -> Response<Body> {
    let mut headers = modern_headers("tools/call", "t");
    headers.push(who);
    stage.send(request("POST", "/servers/time/mcp", &body(params, FORMS), &headers)).await
}

/// The retry with answers, as it reaches the server.
async fn retried(stage: &Stage, params: &str) -> (Call, Value) {
    let front = stage.front.clone();
    let mut headers = modern_headers("tools/call", "t");
    headers.push(A);
    let sent =
        tokio::spawn(front.handle(request("POST", "/servers/time/mcp", &body(params, FORMS), &headers)));
    while stage.open_calls() == 0 {
        assert!(!sent.is_finished(), "{}", text(sent.await.unwrap()).await);
        tokio::task::yield_now().await;
    }
    let (call, responder) = stage.take_open();
    responder.finish(Outcome::Result(Slices::from(Bytes::from_static(b"{}"))));
    assert_eq!(sent.await.unwrap().status(), 200);
    let params = serde_json::from_slice::<Value>(call.request.bytes()).unwrap()["params"].clone();
    (call, params)
}

async fn refused(stage: &Stage, who: (&str, &str), params: &str) -> String {
    let response = send(stage, who, params).await;
    assert_eq!(response.status(), 400);
    let message = json(response).await;
    assert_eq!((&message["id"], &message["error"]["code"]), (&json!(7), &json!(-32602)));
    assert_eq!(stage.open_calls(), 0);
    message["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_state_is_sealed_and_comes_back_to_its_server_as_it_was() {
    let stage = stage();
    let requests = r#"{"k":{"method":"elicitation/create","params":{"message":"m"}}}"#;
    for own in [Some(r#""\u00e9\/x""#), Some(r#""""#), None] {
        let state = own.map(|own| format!(r#","requestState":{own}"#)).unwrap_or_default();
        let wanted = format!(
            r#"{{"resultType":"input_required","inputRequests":{requests}{state},"_meta":{{"x":1}}}}"#
        );
        let result = first(&stage, &wanted).await["result"].clone();
        let token = result["requestState"].as_str().unwrap().to_owned();
        assert!(token.starts_with("v1."));
        assert_eq!(result["inputRequests"], serde_json::from_str::<Value>(requests).unwrap());
        assert_eq!(result["_meta"], json!({"x": 1}));
        let params = format!(
            r#""requestState":"{token}","inputResponses":{{"k":{{"action":"accept"}}}},"arguments":{{"b": [2],"a":1}},"name":"t","#
        );
        let (call, params) = retried(&stage, &params).await;
        assert_eq!(call.pin.as_ref().map(ServerName::as_str), Some("time"));
        assert_eq!(params["inputResponses"], json!({"k": {"action": "accept"}}));
        let expected = own.map(|own| serde_json::from_str::<Value>(own).unwrap());
        assert_eq!(params.get("requestState"), expected.as_ref());
        if let Some(own) = own {
            let sent = String::from_utf8(call.request.bytes().to_vec()).unwrap();
            assert!(sent.contains(&format!(r#""requestState":{own},"#)), "byte for byte: {sent}");
        }
    }
    assert_eq!(stage.permits.held_bytes(), 0);
}

#[tokio::test]
async fn a_state_counts_for_its_request_and_its_caller_alone() {
    let stage = stage();
    let result =
        first(&stage, r#"{"resultType":"input_required","requestState":"s"}"#).await["result"].clone();
    let token = result["requestState"].as_str().unwrap();
    let with = |state: &str| format!(r#""requestState":{state},{ARGUMENTS}"#);
    let whole = with(&format!("\"{token}\""));
    let mut changed = token.to_owned().into_bytes();
    let middle = changed.len() / 2;
    changed[middle] = if changed[middle] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    for (state, why) in [
        (format!("\"{changed}\""), "not one that this gateway gave"),
        ("\"s\"".to_owned(), "not one that this gateway gave"),
        ("\"\"".to_owned(), "not one that this gateway gave"),
        ("null".to_owned(), "must be a string"),
        ("7".to_owned(), "must be a string"),
    ] {
        assert!(refused(&stage, A, &with(&state)).await.contains(why), "{state}");
    }
    assert!(refused(&stage, B, &whole).await.contains("not one that this gateway gave"));
    assert!(refused(&stage, A, &whole.replace("[2]", "[3]")).await.contains("another request"));
    assert_eq!(retried(&stage, &whole).await.1["requestState"], "s");
}

#[tokio::test]
async fn a_state_has_a_size() {
    let stage = stage();
    let wanted = format!(r#"{{"resultType":"input_required","requestState":"{}"}}"#, "x".repeat(49_100));
    let message = first(&stage, &wanted).await;
    assert_eq!(
        (&message["error"]["code"], &message["error"]["data"]["reason"]),
        (&json!(-32603), &json!("too_large"))
    );
    let wanted = format!(r#"{{"resultType":"input_required","requestState":"{}"}}"#, "x".repeat(48_000));
    assert!(first(&stage, &wanted).await["result"]["requestState"].is_string());
}

#[tokio::test]
async fn where_nobody_can_be_asked_the_call_fails() {
    let stage = stage();
    let sent = tokio::spawn(stage.front.clone().handle(request(
        "POST",
        "/mcp/call",
        r#"{"method":"t"}"#,
        &[A, ("content-type", "application/json")],
    )));
    until(|| stage.open_calls() > 0).await;
    let (call, responder) = stage.take_open();
    want_text(call, responder, r#"{"resultType":"input_required","requestState":"s"}"#);
    let response = sent.await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(json(response).await["error"]["data"]["reason"], "protocol");
}

#[tokio::test]
async fn nobody_is_asked_for_what_it_did_not_declare() {
    const FORM: &str = r#"{"method":"elicitation/create","params":{"message":"m"}}"#;
    const URL: &str = r#"{"method":"elicitation/create","params":{"mode":"url","url":"https://e.example"}}"#;
    const ROOTS: &str = r#"{"method":"roots/list"}"#;
    const TOOLS: &str = r#"{"method":"sampling/createMessage","params":{"messages":[],"tools":[]}}"#;
    let stage = stage();
    let code = json!(-32021);
    for (can, asked, refused) in [
        ("{}", format!(r#"{{"k":{FORM}}}"#), Some((&code, json!({"elicitation": {"form": {}}})))),
        (FORMS, format!(r#"{{"k":{FORM},"l":{URL}}}"#), Some((&code, json!({"elicitation": {"url": {}}})))),
        (
            r#"{"sampling":{}}"#,
            format!(r#"{{"k":{TOOLS},"l":{ROOTS}}}"#),
            Some((&code, json!({"sampling": {"tools": {}}, "roots": {}}))),
        ),
        (FORMS, r#"{"k":7}"#.to_owned(), Some((&json!(-32603), Value::Null))),
        (r#"{"roots":{},"elicitation":{"url":{}}}"#, format!(r#"{{"k":{ROOTS},"l":{URL}}}"#), None),
        ("{}", r#"{"k":{"method":"x/of-an-extension","params":{}}}"#.to_owned(), None),
    ] {
        let mut headers = modern_headers("tools/call", "t");
        headers.push(A);
        let call = request("POST", "/servers/time/mcp", &body(ARGUMENTS, can), &headers);
        let sent = tokio::spawn(stage.front.clone().handle(call));
        until(|| stage.open_calls() > 0).await;
        let (call, responder) = stage.take_open();
        want_text(call, responder, &format!(r#"{{"resultType":"input_required","inputRequests":{asked}}}"#));
        let message = json(sent.await.unwrap()).await;
        let error = &message["error"];
        match refused {
            Some((code, needed)) => {
                assert_eq!(
                    (&error["code"], &error["data"]["requiredCapabilities"]),
                    (code, &needed),
                    "{asked}"
                );
            }
            None => assert_eq!(message["result"]["resultType"], "input_required", "{message}"),
        }
    }
    assert_eq!(stage.permits.calls_in_flight(), 0);
}
