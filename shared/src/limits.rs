//! How much of a message is taken before it is refused. Every bound has one default here, with its reason.

/// Bounds on what one peer may send in one message.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest line of a byte stream, without its line ending. A longer one is skipped.
    pub frame_bytes: usize,
    /// Longest request body over HTTP.
    pub body_bytes: usize,
    /// Most objects and arrays open at once. At most [`Limits::MAX_DEPTH`].
    pub depth: usize,
    /// Most members of one object at the levels that are read; objects that are only passed on have no such bound.
    pub members: usize,
}

impl Limits {
    /// The scanner's memory of open brackets is one bit each in a fixed array, and this is its size.
    pub const MAX_DEPTH: usize = 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // A server's answer may carry an image or a file in base64; servers of the field stay below 10 MiB.
            frame_bytes: 16 << 20,
            // The largest body the official TypeScript SDK's server takes.
            body_bytes: 4 << 20,
            // What parsers of other languages take at least; real messages stay below 20.
            depth: 128,
            // Duplicate keys are found by comparing all pairs, so this also bounds that work.
            members: 256,
        }
    }
}
