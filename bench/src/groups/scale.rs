//! Whether a call costs more where there is more of something: sessions, servers, tools.

use anyhow::{Result, ensure};
use testkit::client::Client;

use super::calls::{call, call_as, gateway_candidate};
use super::{BOTH, Shared};
use crate::candidate::{Candidate, Group, Step};
use crate::load::first::SESSION;
use crate::load::{self, REQUESTS};
use crate::plan::Plan;
use crate::testbed::{self, Gateway, LEGACY_VERSION, TOKEN, Testbed};

/// Sessions that are open, all of them used in turn, on a server they share.
pub(super) async fn sessions(shared: &mut Shared, _: &Plan) -> Result<Group> {
    let testbed = &mut shared.testbed;
    let behind = testbed.bridge(&[], &["--era", "legacy"]).await?;
    let config = format!(
        "servers:\n  legacy: {{address: \"{}\", isolation: shared}}\nlimits: {{sessions: 20000}}\n",
        behind.address
    );
    let mut candidates = Vec::new();
    for count in [10, 1_000, 10_000] {
        let edge = testbed.edge(&config).await?;
        let requests = session_requests(&edge, count).await?;
        let requests = testbed.requests(requests.iter().map(Vec::as_slice))?;
        candidates.push(Candidate::new(&named(count, "sessions"), edge.to(), requests, edge.family.clone()));
    }
    let title = "tools/call of 200 B in so many open sessions, each used in turn".to_owned();
    Ok(Group { name: "sessions", title, steps: Step::closed(&[32]), candidates, base: "10 sessions" })
}

/// Opens this many sessions and makes a call in each.
async fn session_requests(edge: &Gateway, count: usize) -> Result<Vec<Vec<u8>>> {
    let client = Client::legacy(edge.address, LEGACY_VERSION).token(TOKEN);
    let [initialize, initialized, ..] = super::first::steps(edge, "r200");
    let ids = load::open_sessions(
        edge.address,
        count,
        &[initialize.bytes("localhost"), initialized.bytes("localhost")],
    )
    .await?;
    // All sessions in turn, and enough requests that each connection has its own.
    let requests = count.next_multiple_of(REQUESTS);
    let one = |(number, session): (usize, &String)| {
        let request = call_as(&client, "r200", number + 1).set("MCP-Protocol-Version", LEGACY_VERSION);
        load::first::with_session(&request.set("Mcp-Session-Id", SESSION).bytes("localhost"), session)
    };
    Ok(ids.iter().cycle().take(requests).enumerate().map(one).collect())
}

/// Configured servers, each with a process, of which the last one is called.
pub(super) async fn servers(shared: &mut Shared, _: &Plan) -> Result<Group> {
    let testbed = &mut shared.testbed;
    let other = testbed.bridge(&[], &["--era", "legacy", "--prefix", "o-"]).await?;
    let called = testbed.bridge(&[], &BOTH).await?;
    let mut candidates = Vec::new();
    for count in [1, 10, 100] {
        let mut config = "servers:\n".to_owned();
        for number in 1..count {
            config.push_str(&format!("  o{number}: {{address: \"{}\", prefix: always}}\n", other.address));
        }
        config.push_str(&format!("  called: {{address: \"{}\"}}\n", called.address));
        candidates.push(call_candidate(testbed, &config, &named(count, "servers")).await?);
    }
    let title = "tools/call of 200 B with so many servers behind the edge".to_owned();
    Ok(Group { name: "servers", title, steps: Step::closed(&[32]), candidates, base: "1 server" })
}

/// Tools in the catalog, of which one is called.
pub(super) async fn tools(shared: &mut Shared, _: &Plan) -> Result<Group> {
    let testbed = &mut shared.testbed;
    let called = testbed.bridge(&[], &BOTH).await?;
    let mut candidates = Vec::new();
    for count in [10, 1_000, 10_000] {
        let more = (count - 8).to_string();
        let other = testbed.bridge(&[], &["--prefix", "o-", "--tools", &more]).await?;
        let config = format!(
            "servers:\n  other: {{address: \"{}\"}}\n  called: {{address: \"{}\"}}\n",
            other.address, called.address
        );
        let candidate = call_candidate(testbed, &config, &named(count, "tools")).await?;
        candidates.push(candidate);
    }
    let title = "tools/call of 200 B with so many tools in the catalog".to_owned();
    Ok(Group { name: "tools", title, steps: Step::closed(&[32]), candidates, base: "10 tools" })
}

/// Threads of the runtime: one, as many as there are cores here, and more. Work stealing has its price, and so has
/// a core that stands idle.
pub(super) async fn threads(shared: &mut Shared, plan: &Plan) -> Result<Group> {
    let testbed = &mut shared.testbed;
    let behind = testbed.bridge(&["--stdio", "handoff"], &BOTH).await?;
    let mut candidates = Vec::new();
    for count in [1, 2, 4] {
        let config = format!("threads: {count}\nservers:\n  both: {{address: \"{}\"}}\n", behind.address);
        let edge = testbed.edge(&config).await?;
        let request = call(&testbed::modern(edge.address), "m-r200");
        edge.try_out(&request).await?;
        candidates.push(gateway_candidate(testbed, &named(count, "threads"), &edge, &request)?);
    }
    let title = "tools/call of 200 B with so many threads of the edge's runtime".to_owned();
    Ok(Group { name: "threads", title, steps: Step::closed(&plan.connections), candidates, base: "1 thread" })
}

async fn call_candidate(testbed: &mut Testbed, config: &str, name: &str) -> Result<Candidate> {
    let edge = testbed.edge(config).await?;
    let client = testbed::modern(edge.address);
    let tools = client.tool_names().await;
    if let Some((count, "tools")) = name.split_once(' ') {
        ensure!(tools.len() == count.replace(',', "").parse::<usize>()?, "{} tools for {name}", tools.len());
    }
    let request = call(&client, "m-r200");
    edge.try_out(&request).await?;
    gateway_candidate(testbed, name, &edge, &request)
}

fn named(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {}", what.trim_end_matches('s')),
        1_000.. => format!("{},{:03} {what}", count / 1_000, count % 1_000),
        _ => format!("{count} {what}"),
    }
}
