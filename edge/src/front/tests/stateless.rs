//! The modern era: what a request must say, what is answered here, and what has no place in it.

use super::*;

/// Status, code, and the id, which every error of a readable request repeats.
async fn refusal(stage: &Stage, body: &str, headers: &[(&str, &str)]) -> (u16, i64) {
    let response = stage.send(post(body, headers)).await;
    let status = response.status().as_u16();
    let message = json(response).await;
    assert_eq!(message["id"], 7, "{message}");
    (status, message["error"]["code"].as_i64().unwrap())
}

const VERSION: (&str, &str) = ("mcp-protocol-version", "2026-07-28");

#[tokio::test]
async fn discover_is_answered_here() {
    let stage = Stage::new();
    let body = modern("server/discover", "");
    let response = stage.send(post(&body, &modern_headers("server/discover", ""))).await;
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("mcp-session-id"));
    let result = &json(response).await["result"];
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result["supportedVersions"], serde_json::json!(["2026-07-28"]));
    assert_eq!(result["cacheScope"], "private");
    assert!(result["ttlMs"].is_u64() && result["capabilities"]["tools"]["listChanged"] == true);
    assert_eq!(
        result["capabilities"]["resources"],
        serde_json::json!({"listChanged": true, "subscribe": true})
    );
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "mcp-edge");
    assert!(result.get("instructions").is_none());

    let headers = modern_headers("server/discover", "");
    let response = stage.send(request("POST", "/servers/time/mcp", &body, &headers)).await;
    assert_eq!(json(response).await["result"]["instructions"], "use time well");
    assert!(stage.script.seen.lock().is_empty());
}

#[tokio::test]
async fn methods_that_are_gone_or_unknown_are_404_with_the_id() {
    let stage = Stage::new();
    for method in [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/list",
        "no/such",
    ] {
        let got = refusal(&stage, &modern(method, ""), &modern_headers(method, "")).await;
        assert_eq!(got, (404, -32601), "{method}");
    }
    let bare = r#"{"jsonrpc":"2.0","id":7,"method":"server/discover","params":{}}"#;
    assert_eq!(refusal(&stage, bare, &[]).await, (404, -32601), "a probe without its marks");
}

#[tokio::test]
async fn meta_comes_before_headers_and_headers_before_the_version() {
    let stage = Stage::new();
    let list = modern("tools/list", "");
    let method = ("mcp-method", "tools/list");
    let other = ("mcp-protocol-version", "2027-01-01");
    let future = list.replace("2026-07-28", "2027-01-01");
    let old = list.replace("2026-07-28", "2025-11-25");
    let no_capabilities = list.replace("clientCapabilities", "other");
    let odd_capabilities = list.replace(r#"Capabilities":{}"#, r#"Capabilities":[]"#);
    let odd_info = list.replace(r#""progressToken":"tok","#, r#""io.modelcontextprotocol/clientInfo":1,"#);
    let no_meta = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#.to_owned();
    let table = [
        ("no _meta", &no_meta, vec![VERSION, method], -32602),
        ("no capabilities, wrong header", &no_capabilities, vec![other], -32602),
        ("capabilities no object", &odd_capabilities, vec![VERSION, method], -32602),
        ("info no object", &odd_info, vec![VERSION, method], -32602),
        ("no version header", &list, vec![method], -32020),
        ("another version in the header", &list, vec![other, method], -32020),
        ("unknown version, not in the header", &future, vec![VERSION, method], -32020),
        ("unknown version", &future, vec![other], -32022),
        ("legacy version", &old, vec![("mcp-protocol-version", "2025-11-25")], -32022),
        ("no method header", &list, vec![VERSION], -32020),
        ("another method in the header", &list, vec![VERSION, ("mcp-method", "tools/call")], -32020),
    ];
    for (what, body, headers, code) in table {
        assert_eq!(refusal(&stage, body, &headers).await, (400, code), "{what}");
    }
    let response = stage.send(post(&future, &[other])).await;
    let data = json(response).await["error"]["data"].clone();
    assert_eq!(data, serde_json::json!({ "supported": ["2026-07-28"], "requested": "2027-01-01" }));
    assert!(stage.script.seen.lock().is_empty());
}

#[tokio::test]
async fn names_and_mirrored_arguments_must_agree() {
    let stage = Stage::new();
    let call = modern("tools/call", r#""name":"echo","arguments":{"region":"eu"},"#);
    let headers = |name| [VERSION, ("mcp-method", "tools/call"), ("mcp-name", name)];
    assert_eq!(refusal(&stage, &call, &headers("other")).await, (400, -32020));
    assert_eq!(refusal(&stage, &call, &headers("echo")[..2]).await, (400, -32020));
    assert_eq!(refusal(&stage, &modern("tools/call", ""), &headers("echo")).await, (400, -32602));
    let schema = br#"{"properties":{"region":{"type":"string","x-mcp-header":"Region"}}}"#;
    *stage.script.mirrored.lock() = Some(wire::mcp::mirror::mirrored(schema).unwrap().into());
    assert_eq!(refusal(&stage, &call, &headers("echo")).await, (400, -32020), "no Mcp-Param-Region");
    stage.script.settled.send_replace(false);
    let early = tokio::spawn(stage.front.clone().handle(post(&call, &headers("echo"))));
    tokio::task::yield_now().await;
    assert!(!early.is_finished(), "until names are given out nobody knows what headers the tool has");
    stage.script.settled.send_replace(true);
    assert_eq!(early.await.unwrap().status(), 400);
    stage.answer_next("{}");
    let mut all = headers("echo").to_vec();
    all.push(("mcp-param-region", "=?base64?ZXU=?="));
    assert_eq!(stage.send(post(&call, &all)).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_names_no_longer_than_they_may_take() {
    let stage = Stage::new();
    stage.script.settled.send_replace(false);
    let call = modern("tools/call", r#""name":"echo","arguments":{},"#);
    let headers = [VERSION, ("mcp-method", "tools/call"), ("mcp-name", "echo")];
    let response =
        tokio::time::timeout(GUARD, stage.send(post(&call, &headers))).await.expect("it has a deadline");
    assert_eq!(
        (response.status(), response.headers().contains_key("retry-after")),
        (503.try_into().unwrap(), true)
    );
    assert!(stage.script.seen.lock().is_empty());
}

#[tokio::test]
async fn notifications_are_taken_and_sessions_ignored() {
    let stage = Stage::new();
    let notice = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    let response = stage.send(post(notice, &[VERSION])).await;
    assert_eq!(response.status(), 202, "without Mcp-Method, as SDK clients send it");
    assert_eq!(text(response).await, "");
    let wrong = stage.send(post(notice, &[VERSION, ("mcp-method", "ping")])).await;
    assert_eq!(wrong.status(), 400);
    stage.answer_next("{}");
    let mut headers = modern_headers("tools/list", "");
    headers.push(("mcp-session-id", "whatever"));
    headers.push(("last-event-id", "4"));
    assert_eq!(stage.send(post(&modern("tools/list", ""), &headers)).await.status(), 200);
    let response = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
    assert_eq!(stage.send(post(response, &[VERSION])).await.status(), 400);
}

#[tokio::test]
async fn a_marked_header_without_a_claim_is_never_legacy() {
    let stage = Stage::new();
    let id = stage.session("2025-11-25").await;
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;
    assert_eq!(refusal(&stage, call, &[VERSION, ("mcp-session-id", &id)]).await, (400, -32602));
    let init = r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2026-07-28"}}"#;
    assert_eq!(refusal(&stage, init, &[VERSION]).await, (400, -32020));
}

#[tokio::test]
async fn what_a_client_says_of_itself_is_bounded() {
    let stage = Stage::new();
    let send = |info: &str, can: &str| {
        let body = modern("tools/list", "")
            .replace(r#""progressToken":"tok","#, &format!(r#""io.modelcontextprotocol/clientInfo":{info},"#))
            .replace(r#"clientCapabilities":{}"#, &format!(r#"clientCapabilities":{can}"#));
        tokio::spawn(stage.front.clone().handle(post(&body, &[VERSION, ("mcp-method", "tools/list")])))
    };
    let long = |size: usize| format!(r#"{{"name":"n","version":"1","x":"{}"}}"#, "x".repeat(size - 33));
    assert_eq!(send("{}", &long((16 << 10) + 1)).await.unwrap().status(), 400);
    for (size, short) in [(64 << 10, false), ((64 << 10) + 1, true)] {
        let sent = send(&long(size), &long(16 << 10));
        until(|| stage.open_calls() > 0).await;
        let client = stage.take_open().0.client.clone();
        assert_eq!(client.capabilities.as_ref().unwrap().len(), 16 << 10);
        let info = client.info.as_deref().unwrap();
        assert_eq!(info == br#"{"name":"n","version":"1"}"#, short, "{size}");
        assert!(short || info.len() == size);
        sent.await.unwrap();
    }
    assert_eq!((stage.hits("capabilities"), stage.hits("client_info")), (1, 1));
}
