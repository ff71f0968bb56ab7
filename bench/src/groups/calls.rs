//! Calls of a tool: small, large and huge results, with and without a session, as JSON and as events.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::client::Client;
use testkit::http::Request;

use super::{Path, Shared};
use crate::candidate::{Candidate, Group, Step};
use crate::load::To;
use crate::plan::Plan;
use crate::server::{PROGRESS, PROGRESS_EVENTS};
use crate::testbed::{self, Gateway, Testbed, Tried, server_command};
use crate::usage::Family;

/// Stateless calls of 2026-07-28, on every way to the server.
pub(super) async fn modern(shared: &mut Shared, plan: &Plan) -> Result<Group> {
    let paths = [&shared.edge, &shared.handoff, &shared.unix, &shared.local].map(Clone::clone);
    let candidates = modern_candidates(&mut shared.testbed, &paths, "m-r200").await?;
    let title = "tools/call with a result of 200 B, 2026-07-28, closed loop".to_owned();
    Ok(Group { name: "call", title, steps: Step::closed(&plan.connections), candidates, base: "bare" })
}

/// Calls in one session, answered as JSON or as a stream as each side chooses, compared with the peers.
pub(super) async fn legacy(shared: &mut Shared, plan: &Plan) -> Result<Group> {
    let mut candidates = session_candidates(shared, "l-r200", "application/json, text/event-stream").await?;
    candidates.extend(shared.peers.candidates(&mut shared.testbed, "r200").await?);
    let title = "tools/call with a result of 200 B in one session of 2025-06-18, closed loop".to_owned();
    Ok(Group { name: "call-json", title, steps: Step::closed(&plan.connections), candidates, base: "bare" })
}

/// Calls in one session, answered as a stream of events.
pub(super) async fn legacy_events(shared: &mut Shared, plan: &Plan) -> Result<Group> {
    let candidates = session_candidates(shared, "l-r200", "text/event-stream").await?;
    let title = "the same for a client that takes events only".to_owned();
    Ok(Group { name: "call-sse", title, steps: Step::closed(&plan.few()), candidates, base: "bare" })
}

/// Results of another size: stateless, in a session as JSON and as events, and the peers.
pub(super) async fn sized(
    shared: &mut Shared,
    plan: &Plan,
    (name, tool, size): (&'static str, &str, &str),
) -> Result<Vec<Group>> {
    let paths = [&shared.edge, &shared.handoff, &shared.unix].map(Clone::clone);
    let candidates = modern_candidates(&mut shared.testbed, &paths, &format!("m-{tool}")).await?;
    let title = format!("tools/call with a result of {size}, 2026-07-28, closed loop");
    let mut groups = vec![Group { name, title, steps: Step::closed(&plan.few()), candidates, base: "bare" }];
    if !plan.quick {
        let legacy_tool = format!("l-{tool}");
        let mut candidates =
            session_candidates(shared, &legacy_tool, "application/json, text/event-stream").await?;
        candidates.extend(shared.peers.candidates(&mut shared.testbed, tool).await?);
        let title = format!("tools/call with a result of {size} in one session of 2025-06-18");
        groups.push(Group { name, title, steps: Step::closed(&[32]), candidates, base: "bare" });
        let candidates = session_candidates(shared, &legacy_tool, "text/event-stream").await?;
        let title = "the same for a client that takes events only".to_owned();
        groups.push(Group { name, title, steps: Step::closed(&[32]), candidates, base: "bare" });
    }
    Ok(groups)
}

/// The open loop: every side at the same rates, shares of the edge's own peak.
pub(super) async fn open(shared: &mut Shared) -> Result<Group> {
    let paths = [&shared.edge, &shared.handoff, &shared.unix].map(Clone::clone);
    let candidates = modern_candidates(&mut shared.testbed, &paths, "m-r200").await?;
    let title =
        "tools/call with a result of 200 B, 2026-07-28, open loop at shares of the edge's peak".to_owned();
    Ok(Group { name: "open", title, steps: shares(), candidates, base: "pipe" })
}

/// The open loop with the peers, each at shares of its own peak.
pub(super) async fn open_peers(shared: &mut Shared) -> Result<Group> {
    let mut candidates = session_candidates(shared, "l-r200", "application/json, text/event-stream").await?;
    candidates.extend(shared.peers.candidates(&mut shared.testbed, "r200").await?);
    candidates.iter_mut().for_each(|candidate| candidate.own_peak = true);
    let title =
        "tools/call with a result of 200 B in one session, open loop at shares of each side's own peak";
    Ok(Group { name: "open-peers", title: title.to_owned(), steps: shares(), candidates, base: "bare" })
}

/// Calls that report progress, which makes their answers streams.
pub(super) async fn progress(shared: &mut Shared, plan: &Plan) -> Result<Group> {
    let paths = [&shared.edge, &shared.handoff].map(Clone::clone);
    let name = format!("m-{PROGRESS}");
    let candidates = modern_candidates(&mut shared.testbed, &paths, &name).await?;
    let title = format!("a call with {PROGRESS_EVENTS} progress notifications, streamed, 2026-07-28");
    Ok(Group { name: "progress", title, steps: Step::closed(&plan.few()), candidates, base: "bare" })
}

/// Bare, pipe and these ways of ours, for stateless calls of one tool.
async fn modern_candidates(testbed: &mut Testbed, paths: &[Path], tool: &str) -> Result<Vec<Candidate>> {
    let first = paths.first().context("no way to the server")?;
    let request = call(&testbed::modern(first.gateway.address), tool);
    let tried = first.gateway.try_out(&request).await.context("the edge")?;
    let mut candidates =
        vec![bare_candidate(testbed, &tried, &request).await?, pipe_candidate(testbed, tool)?];
    for path in paths {
        path.gateway.try_out(&request).await.context(path.name)?;
        candidates.push(candidate(testbed, path, &request)?);
    }
    Ok(candidates)
}

/// Bare and our two ways with a legacy server behind them, for calls in one session.
async fn session_candidates(shared: &mut Shared, tool: &str, accept: &str) -> Result<Vec<Candidate>> {
    let paths = [&shared.edge, &shared.handoff, &shared.unix, &shared.local].map(Clone::clone);
    let mut candidates = Vec::new();
    for path in &paths {
        let client = testbed::legacy(path.gateway.address).await;
        let request = |id: usize| call_as(&client, tool, id).set("Accept", accept);
        let tried = path.gateway.try_out(&request(1)).await.context(path.name)?;
        if candidates.is_empty() {
            candidates.push(bare_candidate(&mut shared.testbed, &tried, &request(1)).await?);
        }
        let requests = shared.testbed.many(request)?;
        candidates.push(Candidate::new(path.name, path.gateway.to(), requests, path.family.clone()));
    }
    Ok(candidates)
}

pub(super) async fn bare_candidate(
    testbed: &mut Testbed,
    tried: &Tried,
    request: &Request,
) -> Result<Candidate> {
    let bare = testbed.bare(tried, false, false).await?;
    gateway_candidate(testbed, "bare", &bare, request)
}

pub(super) fn gateway_candidate(
    testbed: &mut Testbed,
    side: &str,
    gateway: &Gateway,
    request: &Request,
) -> Result<Candidate> {
    let requests = testbed.requests([request.bytes("localhost").as_slice()])?;
    Ok(Candidate::new(side, gateway.to(), requests, gateway.family.clone()))
}

fn candidate(testbed: &mut Testbed, path: &Path, request: &Request) -> Result<Candidate> {
    let candidate = gateway_candidate(testbed, path.name, &path.gateway, request)?;
    Ok(Candidate { family: path.family.clone(), ..candidate })
}

/// The pipes of a server of its own.
fn pipe_candidate(testbed: &mut Testbed, tool: &str) -> Result<Candidate> {
    let client = testbed::modern(([127, 0, 0, 1], 1).into());
    let line = format!("{}\n", message(&client, tool, 1));
    let requests = testbed.requests([line.as_bytes()])?;
    let command = server_command(&super::BOTH)?;
    Ok(Candidate::new("pipe", To::Pipe { command }, requests, Family::default()))
}

/// A call of a tool as this client sends it.
pub(super) fn call(client: &Client, tool: &str) -> Request {
    call_as(client, tool, 1)
}

/// A call of a tool with this id.
pub(crate) fn call_as(client: &Client, tool: &str, id: usize) -> Request {
    client.request(&message(client, tool, id))
}

fn message(client: &Client, tool: &str, id: usize) -> Value {
    let arguments = json!({"place": "Weimar", "kind": "library"});
    let params = if tool.ends_with(PROGRESS) {
        json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "a-token"}})
    } else {
        json!({"name": tool, "arguments": arguments})
    };
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": client.params(params)})
}

fn shares() -> Vec<Step> {
    [25, 50, 75].map(|percent| Step::Open { percent }).to_vec()
}
