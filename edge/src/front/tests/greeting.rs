//! What the gateway says of itself to clients that begin before its servers have been listed.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::front::stdio;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}"#;

/// A stage whose servers have not been listed yet.
fn unsettled(setting: Setting) -> Stage {
    let stage = Stage::with(setting);
    *stage.script.instructions.lock() = Some("be kind".to_owned());
    stage.script.settled.send_replace(false);
    stage
}

/// The result of a request that is sent now.
fn sent(stage: &Stage, body: &str, headers: &[(&str, &str)]) -> JoinHandle<Value> {
    let response = stage.front.clone().handle(post(body, headers));
    tokio::spawn(async move {
        let answer = json(tokio::time::timeout(GUARD, response).await.expect("it has a deadline")).await;
        answer["result"].clone()
    })
}

#[tokio::test(start_paused = true)]
async fn instructions_are_waited_for_in_both_eras() {
    let stage = unsettled(Setting::default());
    let headers = modern_headers("server/discover", "");
    let old = sent(&stage, INITIALIZE, &[]);
    let new = sent(&stage, &modern("server/discover", ""), &headers);
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert!(!old.is_finished() && !new.is_finished());
    assert_eq!(stage.sessions.open(), 0, "a client that leaves meanwhile leaves no session behind");
    stage.script.settled.send_replace(true);
    let (old, new) = (old.await.unwrap(), new.await.unwrap());
    assert_eq!((&old["instructions"], &new["instructions"]), (&"be kind".into(), &"be kind".into()));
}

#[tokio::test(start_paused = true)]
async fn without_them_a_client_is_answered_all_the_same() {
    let stage = unsettled(Setting::default());
    let headers = modern_headers("server/discover", "");
    let old = sent(&stage, INITIALIZE, &[]).await.unwrap();
    let new = sent(&stage, &modern("server/discover", ""), &headers).await.unwrap();
    assert_eq!((&old["protocolVersion"], &old["instructions"]), (&"2025-11-25".into(), &Value::Null));
    assert_eq!((&new["resultType"], &new["instructions"]), (&"complete".into(), &Value::Null));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_them_takes_the_place_of_a_call() {
    let permits = permit::Config { calls: 1, ..permit::Config::default() };
    let stage = unsettled(Setting { permits, ..Setting::default() });
    let discover = modern("server/discover", "");
    let headers = modern_headers("server/discover", "");
    let first = sent(&stage, &discover, &headers);
    until(|| stage.permits.calls_in_flight() > 0).await;
    assert_eq!(stage.send(post(&discover, &headers)).await.status(), 503);
    assert_eq!(stage.send(post(INITIALIZE, &[])).await.status(), 503);
    stage.script.settled.send_replace(true);
    assert_eq!(first.await.unwrap()["instructions"], "be kind");
}

#[tokio::test(start_paused = true)]
async fn a_local_client_gets_them_and_nothing_before() {
    let stage = unsettled(Setting::default());
    let (mut input, theirs) = tokio::io::duplex(1 << 16);
    let (output, ours) = tokio::io::duplex(1 << 16);
    let served = stdio::serve(stage.front.clone(), (theirs, output), CancellationToken::new());
    let served = tokio::spawn(served);
    let mut lines = BufReader::new(ours).lines();
    let mut hear = async || -> Value {
        serde_json::from_str(&lines.next_line().await.unwrap().expect("a line")).unwrap()
    };
    let cancelled = modern("server/discover", "").replace('\n', " ");
    let discover = cancelled.replace(r#""id":7"#, r#""id":8"#);
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for line in [&cancelled, cancel, &discover, INITIALIZE, ping] {
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }
    assert_eq!(hear().await["id"], 1, "others are answered meanwhile");
    stage.script.changes.send_replace(ListChanges { tools: 1, ..ListChanges::default() });
    stage.script.settled.send_replace(true);
    let mut answers = [hear().await, hear().await];
    answers.sort_by_key(|answer| answer["id"].as_u64());
    for (answer, id) in answers.iter().zip([0, 8]) {
        assert_eq!((&answer["id"], &answer["result"]["instructions"]), (&id.into(), &"be kind".into()));
    }
    drop(input);
    served.await.unwrap();
}
