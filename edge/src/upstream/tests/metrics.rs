//! Metrics: everything that began is counted at its end.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use testkit::eventually;

use super::*;

impl Room {
    /// The value of one line of the metrics, by what it starts with.
    pub(super) fn count(&self, name: &str) -> u64 {
        let mut registry = Registry::with_prefix("mcp_edge");
        self.metrics.register(&mut registry);
        self.permits.metrics().register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn counters_balance_after_all_calls_ended() {
    let mut room = Setting::default().build();
    let replies = [room.echo("answered"), room.echo("cancelled"), room.echo("late"), room.echo("died")];
    let mut peer = room.accept_legacy().await;
    peer.raw("no message\n").await;
    let (open, close) = ("[".repeat(200), "]".repeat(200));
    peer.raw(&format!("{{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":{{\"x\":{open}{close}}}}}\n")).await;
    let calls = peer.calls(4).await;
    peer.answer(&calls["answered"], json!({})).await;
    assert_eq!(room.count("mcp_edge_upstream_connections{"), 1);
    assert_eq!(room.count("mcp_edge_upstream_era{server=\"time\",era=\"legacy\""), 1);
    let [answered, gone, late, died] = replies;
    result(answered).await;
    drop(gone);
    peer.expect("notifications/cancelled").await;
    peer.answer(&calls["cancelled"], json!({})).await;
    // Progress may cross the end of its call, as a response may.
    for token in [&calls["answered"]["id"], &calls["cancelled"]["id"], &json!(9 << 16), &json!("x")] {
        peer.notify("notifications/progress", json!({"progressToken": token, "progress": 1})).await;
    }
    assert_eq!(room.count("mcp_edge_upstream_in_flight{"), 2);
    failure(late).await;
    drop(peer);
    failure(died).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    for (name, count) in [
        ("in_flight{", 0),
        ("connections{", 0),
        ("connections_opened_total{", 1),
        ("call_timeouts_total{", 2),
        ("skipped_total{server=\"time\",reason=\"garbage\"}", 2),
        ("skipped_total{server=\"time\",reason=\"late\"}", 3),
        ("skipped_total{server=\"time\",reason=\"progress\"}", 2),
        ("handshakes_total{server=\"time\",outcome=\"done\"}", 1),
    ] {
        assert_eq!(room.count(&format!("mcp_edge_upstream_{name}")), count, "{name}");
    }
    assert!(room.count("mcp_edge_upstream_sent_bytes_total{") > 500);
    assert!(room.count("mcp_edge_upstream_received_bytes_total{") > 200);
    assert_eq!(room.pool.status().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn each_bound_that_is_hit_is_counted() {
    let mut setting = Setting::default().config(|config| {
        config.slots = SlotConfig { slots: 1, queue: 1, queue_timeout: Duration::from_secs(1) };
        config.limits.frame_bytes = 1000;
    });
    setting.server.connections = 1;
    let mut room = setting.build();
    let first = room.echo("a");
    let mut peer = room.accept_legacy().await;
    let request = peer.expect("tools/call").await;
    let queued = room.echo("b");
    failure(room.echo("c")).await;
    failure(queued).await;
    peer.answer(&request, json!({"pad": "x".repeat(2000)})).await;
    failure(first).await;
    failure(room.echo_in(&session(1), "d")).await;
    for bound in ["queue", "queue_timeout", "frame", "server_connections"] {
        assert_eq!(room.count(&format!("mcp_edge_refused_total{{bound=\"{bound}\"}}")), 1, "{bound}");
    }
    // A call that finds no place in the queue has found no slot before.
    assert_eq!(room.count("mcp_edge_refused_total{bound=\"slots\"}"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_crosses_the_end_of_its_connection_is_no_flood() {
    let mut room = Setting::default().config(|config| config.idle_timeout = Duration::from_secs(60)).build();
    let reply = room.echo("a");
    let mut peer = room.accept_legacy().await;
    peer.serve_echo().await;
    result(reply).await;
    peer.ended().await;
    peer.ask(json!(1), "roots/list", json!({})).await;
    drop(peer);
    eventually("the connection to be gone", async || {
        (room.count("mcp_edge_upstream_connections{") == 0).then_some(())
    })
    .await;
    assert_eq!(room.count("mcp_edge_upstream_skipped_total{server=\"time\",reason=\"flood\"}"), 0);
}
