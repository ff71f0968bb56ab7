//! What a gateway must understand of MCP, and no more: words, and views of the few parts it reads.

pub mod header;
pub mod invoke;
pub mod level;
pub mod lifecycle;
pub mod list;
pub mod meta;
pub mod method;
pub mod mirror;
pub mod version;
