//! MCP on the wire: framing, envelope scan, byte splicing, ids, codes and typed views of what a gateway must understand.
//!
//! No sockets, no runtime, no clock. A message is read once, into one `Bytes`, and stays there: the types below name parts
//! of it by byte range, and what is sent is the same bytes, except for the ranges that were edited.
//!
//! The path of a message: [`frame`] finds the line, [`envelope`] scans it once, [`mcp`] has the vocabulary to check it,
//! [`splice`] records the edits, and [`frame_io`] sends the rest as slices of what was received.
//!
//! | module | holds |
//! | --- | --- |
//! | [`limits`] | the limits, each with its reason |
//! | [`span`], [`object`] | byte ranges; the members of one JSON object |
//! | [`envelope`] | one JSON-RPC message: kind, id, method, params |
//! | [`splice`] | edits on byte ranges, and the message as slices |
//! | [`frame`], [`frame_io`] | newline framing, without and with I/O |
//! | [`id`], [`code`], [`error`] | request ids, error codes, why a message is refused |
//! | [`mcp`] | versions, methods, `_meta` keys, headers, and views of results |
//!
//! The checks that must hold for any bytes are in `fuzz/src`: `cargo test -p mcp-wire` runs them on seeds and generated
//! messages, and `fuzz/README.md` says how to run a fuzzer. `benches/README.md` has the figures.

pub mod code;
pub mod envelope;
pub mod error;
pub mod frame;
pub mod frame_io;
pub mod id;
mod id_finder;
pub mod limits;
pub mod mcp;
pub mod object;
mod scanner;
pub mod span;
pub mod splice;
mod text;

pub use envelope::{Kind, Message};
pub use error::ScanError;
pub use frame::Frame;
pub use mcp::version::Era;
