//! MCP on the wire: framing, envelope scan, byte splicing, ids, codes and typed views of what a gateway must understand.
//!
//! No sockets, no runtime, no clock. A message is read once, into one `Bytes`, and stays there: everything below names
//! parts of it by byte range, and what leaves is the same bytes but for the ranges that were edited.
//!
//! The way of a message: [`frame`] finds the line, [`envelope`] scans it once, [`mcp`] has the words to judge it by,
//! [`splice`] names what changes, and [`frame_io`] sends the rest as slices of what came in.
//!
//! | module | holds |
//! | --- | --- |
//! | [`limits`] | how much of everything, and why that much |
//! | [`span`], [`object`] | byte ranges; the members of one JSON object |
//! | [`envelope`] | one JSON-RPC message: kind, id, method, params |
//! | [`splice`] | edits on byte ranges, and the message as slices |
//! | [`frame`], [`frame_io`] | newline framing, without and with I/O |
//! | [`id`], [`code`], [`error`] | request ids, error codes, why a message is refused |
//! | [`mcp`] | versions, methods, `_meta` keys, headers, and views of results |
//!
//! What must hold for any bytes is written down once, in `fuzz/src`: `cargo test -p mcp-wire` calls it with seeds and with
//! generated messages, and `fuzz/README.md` says how to let a fuzzer look for more. `benches/README.md` has the figures.

pub mod code;
pub mod envelope;
pub mod error;
pub mod frame;
pub mod frame_io;
pub mod id;
pub mod limits;
pub mod mcp;
pub mod object;
mod scanner;
mod seek;
pub mod span;
pub mod splice;
mod text;

pub use envelope::{Kind, Message};
pub use error::ScanError;
pub use frame::Frame;
pub use mcp::version::Era;
