//! `tools/list` of 200 tools over ten servers, which the edge answers from its catalog.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Shared;
use super::calls::{bare_candidate, gateway_candidate};
use crate::candidate::{Group, Step};
use crate::plan::Plan;
use crate::testbed;

pub(super) async fn list(shared: &mut Shared, plan: &Plan) -> Result<Group> {
    let testbed = &mut shared.testbed;
    let mut config = "servers:\n".to_owned();
    for number in 0..10 {
        let prefix = format!("s{number}-");
        let server = testbed.bridge(&[], &["--tools", "16", "--prefix", &prefix]).await?;
        config.push_str(&format!("  s{number}: {{address: \"{}\"}}\n", server.address));
    }
    let edge = testbed.edge(&config).await?;
    let client = testbed::modern(edge.address);
    let tools = client.tool_names().await.len();
    ensure!(tools == 200, "the edge lists {tools} tools");
    let request = client.request(
        &json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": client.params(json!({}))}),
    );
    let tried = edge.try_out(&request).await?;
    let title = format!("tools/list of 200 tools over 10 servers, {} KB, 2026-07-28", tried.body.len() >> 10);
    let candidates = vec![
        bare_candidate(testbed, &tried, &request).await?,
        gateway_candidate(testbed, "edge", &edge, &request)?,
    ];
    Ok(Group { name: "list", title, steps: Step::closed(&plan.few()), candidates, base: "bare" })
}
