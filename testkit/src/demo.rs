//! An edge in front of a bridge with the demo server: what most whole-process tests need.

use std::ops::{Deref, DerefMut};

use tokio::process::Command;

use crate::process::{Bridge, Edge, Scratch, binary, free_address};

/// A ready edge with one server, `demo`. Dereferences to the edge; ends all processes when dropped.
pub struct DemoEdge {
    edge: Edge,
    _bridge: Bridge,
    _scratch: Scratch,
}

impl DemoEdge {
    /// Starts the demo server of this `era` behind a bridge with these options, and an edge with these `limits` (YAML).
    ///
    /// # Panics
    /// A program does not start.
    pub async fn start(limits: &str, bridge_options: &[&str], era: &str) -> DemoEdge {
        let (address, server) = (free_address(), binary("demo-server"));
        let command = [server.to_str().unwrap(), "--era", era];
        let bridge = Bridge::start_at(address, bridge_options, &command).await;
        let scratch = Scratch::new();
        let config = format!("servers: {{demo: {{address: \"{address}\"}}}}\nlimits: {limits}\n");
        let file = scratch.write("edge.yaml", &config);
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--config").arg(file).arg("--allow-unauthenticated");
        let edge = Edge::start_with(command).await;
        edge.ready().await;
        DemoEdge { edge, _bridge: bridge, _scratch: scratch }
    }
}

impl Deref for DemoEdge {
    type Target = Edge;

    fn deref(&self) -> &Edge {
        &self.edge
    }
}

impl DerefMut for DemoEdge {
    fn deref_mut(&mut self) -> &mut Edge {
        &mut self.edge
    }
}
