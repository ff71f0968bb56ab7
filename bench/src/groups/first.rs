//! From `initialize` to the first answer: a new session for each measurement, with a process of its own behind it.

use anyhow::{Context, Result};
use testkit::client::Client;
use testkit::http::Request;

use super::calls::call;
use super::{LEGACY, Shared};
use crate::candidate::{Candidate, Group, Step};
use crate::load::first::SESSION;
use crate::testbed::{self, Gateway, LEGACY_VERSION, TOKEN, Testbed};
use crate::usage::Family;

pub(super) async fn first(shared: &mut Shared) -> Result<Group> {
    let testbed = &mut shared.testbed;
    let mut candidates = Vec::new();
    // As many as the load can use up while others are being made ready.
    for (name, options) in [("edge, cold process", &[][..]), ("edge, warm process", &["--warm", "8"])] {
        let behind = testbed.bridge(options, &LEGACY).await?;
        let edge =
            testbed.edge(&format!("servers:\n  legacy: {{address: \"{}\"}}\n", behind.address)).await?;
        if candidates.is_empty() {
            let client = testbed::legacy(edge.address).await;
            let tried = edge.try_out(&call(&client, "l-r200")).await.context("the edge")?;
            let bare = testbed.bare(&tried, false, false).await?;
            candidates.push(candidate(testbed, "bare", &bare, "l-r200")?);
        }
        let family = edge.family.and(&behind.family);
        candidates.push(Candidate { family, ..candidate(testbed, name, &edge, "l-r200")? });
    }
    for (name, gateway, tool) in shared.peers.with_sessions("r200") {
        candidates.push(candidate(testbed, &name, &gateway, &tool)?);
    }
    let title =
        "initialize, initialized and the first answer in a new session, one after the other".to_owned();
    Ok(Group { name: "first", title, steps: Step::closed(&[1]), candidates, base: "bare" })
}

fn candidate(testbed: &mut Testbed, side: &str, gateway: &Gateway, tool: &str) -> Result<Candidate> {
    let steps = steps(gateway, tool).map(|step| step.bytes("localhost"));
    let requests = testbed.requests(steps.iter().map(Vec::as_slice))?;
    let family: Family = gateway.family.clone();
    Ok(Candidate { sessions: true, ..Candidate::new(side, gateway.to(), requests, family) })
}

/// The steps of a session, its id left open.
pub(crate) fn steps(gateway: &Gateway, tool: &str) -> [Request; 4] {
    let client = Client::legacy(gateway.address, LEGACY_VERSION).token(TOKEN).at(&gateway.path);
    let info = serde_json::json!({"name": "bench", "version": "1"});
    let params =
        serde_json::json!({"protocolVersion": LEGACY_VERSION, "capabilities": {}, "clientInfo": info});
    let initialize = serde_json::json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    let initialized = serde_json::json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let of_session =
        |request: Request| request.set("Mcp-Session-Id", SESSION).set("MCP-Protocol-Version", LEGACY_VERSION);
    let end = Request::new("DELETE", &gateway.path).header("Authorization", &format!("Bearer {TOKEN}"));
    [
        client.request(&initialize),
        of_session(client.request(&initialized)),
        of_session(call(&client, tool)),
        of_session(end),
    ]
}
