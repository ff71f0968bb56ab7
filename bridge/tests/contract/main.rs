//! The bridge's contract, sentence by sentence, on the real binary.
//!
//! Servers are shells and coreutils, so that what they do to their descriptors is in plain sight. Every wait is for a
//! condition, under a guard that only a broken bridge reaches.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "this is a test; clippy sees only the functions marked #[test]"
)]

mod bounds;
mod cli;
mod delivery;
mod drain;
mod faults;
mod languages;
mod listen;
mod start;
mod stderr;
mod stop;
mod support;
mod vanish;
mod warm;
