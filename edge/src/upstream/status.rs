//! The status of a server, for people and health probes.

use tokio::time::Instant;
use wire::Era;

use super::pool::Pool;

/// The status of a server.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// Its state.
    pub state: ServerState,
    /// Its era, if that is known.
    pub era: Option<Era>,
    /// Open connections.
    pub connections: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// The last error, if there ever was one.
    pub last_error: Option<String>,
    /// When the present state of its health began.
    pub since: Instant,
}

/// The state of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// It has a connection.
    Up,
    /// It can be reached, and has no connection.
    Sleeping,
    /// Has none, and the last one that it accepted came to nothing: it crashes at start, or does not speak MCP.
    Failing,
    /// Takes no connections.
    Down,
    /// No connection was tried yet.
    Unknown,
}

impl Pool {
    /// Whether no call is in flight or waits.
    pub fn is_idle(&self) -> bool {
        self.inner().slots.is_idle()
    }

    /// The status of the server.
    pub fn status(&self) -> ServerStatus {
        let state = self.inner().state.lock();
        let connections = state.connections.iter().count();
        let word = match connections {
            _ if state.health.is_down() => ServerState::Down,
            1.. => ServerState::Up,
            0 if state.fails_to_open => ServerState::Failing,
            0 if state.health.is_up() => ServerState::Sleeping,
            0 => ServerState::Unknown,
        };
        ServerStatus {
            state: word,
            era: state.era.get(),
            connections,
            in_flight: state.connections.iter().map(|(_, conn, _)| conn.in_flight()).sum(),
            last_error: state.last_error.clone(),
            since: state.health.since(),
        }
    }
}
