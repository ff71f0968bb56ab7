//! Fuzz target: see the check of the same name.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_wire_fuzz::frame::check(data));
