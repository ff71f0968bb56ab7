//! Turns a stdio server into a listener.
fn main() {}
