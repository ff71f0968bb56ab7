//! What must hold for any bytes whatever: one module for each parser that reads what a peer wrote. Fuzz targets call these
//! with made-up bytes, `tests/corpus.rs` with the seeds, `tests/laws.rs` with generated messages. A check panics when broken.

pub mod envelope;
pub mod frame;
pub mod header;
pub mod splice;
