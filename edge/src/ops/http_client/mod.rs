//! A small HTTP/1.1 client for what the process itself has to ask: an issuer's documents, its own health, an endpoint
//! under diagnosis. Requests of clients and servers do not pass here.
//!
//! Every step has a deadline and every response a bound. Redirects are not followed. It knows nothing of MCP.

mod connection;
mod document;
mod error;
mod trust;

pub use connection::{HttpConnection, HttpResponse, Opened, Options};
pub use document::{Document, fetch};
pub use error::FetchError;
pub use trust::Trust;
