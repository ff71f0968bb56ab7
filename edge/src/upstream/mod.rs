//! The servers' side: one [`Pool`] per server, which sends a call over the connection that it may use, and returns
//! the server's answer.
//!
//! ```text
//! Pool ── whose connection? (key, pool/connection_table) ── none: open one (pool/open) ── over a link
//!   └──── Conn: mux, reader task, writer task ── link: TCP | unix socket | local process ── server
//! ```
//!
//! Guarantees: every call ends in one outcome within its deadline; a call of which nothing was written is tried on
//! another connection, any other is not; one connection is one process, used only by those whom the isolation allows;
//! everything is bounded. Must not know of clients' connections, the contents of sessions or public names.

mod completion;
mod conn;
mod control;
mod exclusive_client;
mod facts;
mod handshake;
mod key;
mod lease;
mod legacy;
mod link;
mod metrics;
mod modern;
mod pool;
mod session_settings;
mod settings;
mod settings_replay;
mod status;
mod subscriptions;
mod tasks;
#[cfg(test)]
mod tests;

pub use control::Changes;
pub use facts::Facts;
pub use link::address::{Address, BadAddress};
pub use metrics::Metrics;
pub use pool::{Environment, Pool};
pub use settings::{Config, EraChoice, Isolation, ServerConfig, Source};
pub use status::{ServerState, ServerStatus};
pub use tasks::{replica_of, server_of};
