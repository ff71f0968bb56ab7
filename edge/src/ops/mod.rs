//! Operating the process: stopping it, and letting people see into it.

pub mod bind;
pub mod drain;
