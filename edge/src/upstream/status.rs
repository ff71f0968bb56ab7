//! How a server is doing, for people and probes.

use tokio::time::Instant;
use wire::Era;

use super::pool::Pool;

/// How a server is doing.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// In a word.
    pub state: ServerState,
    /// How it is spoken to, as far as that is known.
    pub era: Option<Era>,
    /// Connections open.
    pub connections: usize,
    /// Calls it works on.
    pub in_flight: usize,
    /// What went wrong last, if anything ever did.
    pub last_error: Option<String>,
    /// When it was first reached, or first not reached, in a row.
    pub since: Instant,
}

/// A server's state in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Has a connection.
    Up,
    /// Has none, and takes one when it is needed.
    Sleeping,
    /// Has none, and the last one that it accepted came to nothing: it crashes at start, or does not speak MCP.
    Failing,
    /// Takes no connections.
    Down,
    /// Nobody has tried yet.
    Unknown,
}

impl Pool {
    /// Whether no call is on its way through here, waiting ones included.
    pub fn is_idle(&self) -> bool {
        self.shared().slots.is_idle()
    }

    /// How the server is doing.
    pub fn status(&self) -> ServerStatus {
        let state = self.shared().state.lock();
        let connections = state.roster.iter().count();
        let word = match connections {
            _ if state.health.is_down() => ServerState::Down,
            1.. => ServerState::Up,
            0 if state.fails_to_open => ServerState::Failing,
            0 if state.health.is_up() => ServerState::Sleeping,
            0 => ServerState::Unknown,
        };
        ServerStatus {
            state: word,
            era: state.verdict.era(),
            connections,
            in_flight: state.roster.iter().map(|(_, conn, _)| conn.in_flight()).sum(),
            last_error: state.last_error.clone(),
            since: state.health.since(),
        }
    }
}
