//! A server that writes without a pause leaves other tasks their turns.

use super::calls::agreed_on;
use super::*;

impl Room {
    /// Lets others run until `count` is at least `until`. Returns the most that was counted from one turn to the next.
    async fn most_in_a_turn(&self, count: impl Fn(&Self) -> u64, until: u64) -> u64 {
        let (mut before, mut most) = (count(self), 0);
        while before < until {
            tokio::task::yield_now().await;
            let now = count(self);
            (most, before) = (most.max(now - before), now);
        }
        most
    }
}

#[tokio::test(start_paused = true)]
async fn few_of_many_messages_are_handled_in_one_turn() {
    const GARBAGE: &str = "mcp_edge_upstream_skipped_total{server=\"time\",reason=\"garbage\"}";
    let mut room = Setting::default().build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    peer.raw(&"y\n".repeat(2000)).await;
    let most = room.most_in_a_turn(|room| room.count(GARBAGE), 2000).await;
    assert!(most <= 64, "{most} lines in one turn");
}

#[tokio::test(start_paused = true)]
async fn messages_of_batches_count_one_by_one() {
    const UNKNOWN: &str = "mcp_edge_upstream_skipped_total{server=\"time\",reason=\"unknown_id\"}";
    let mut room = Setting::default().build();
    let _reply = room.echo("a");
    let (mut peer, _) = agreed_on(&mut room, "2025-03-26").await;
    let batch = format!("[{}]\n", vec!["{\"jsonrpc\":\"2.0\",\"id\":999999999,\"result\":{}}"; 64].join(","));
    peer.raw(&batch.repeat(20)).await;
    let most = room.most_in_a_turn(|room| room.count(UNKNOWN), 20 * 64).await;
    assert!(most <= 64, "{most} messages in one turn");
}
