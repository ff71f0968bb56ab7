//! The limits of a message. Each has its default here, with the reason.

/// Bounds on what one peer may send in one message.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest line of a byte stream, without its line ending. A longer one is skipped.
    pub frame_bytes: usize,
    /// The longest request body over HTTP.
    pub body_bytes: usize,
    /// The most objects and arrays open at once. At most [`Limits::MAX_DEPTH`].
    pub depth: usize,
    /// The most members of one object at the levels that are read; objects that are only passed on have no such bound.
    pub members: usize,
}

impl Limits {
    /// The scanner keeps one bit for each open bracket in a fixed array of this size.
    pub const MAX_DEPTH: usize = 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // A server's answer may carry an image or a file in base64; servers in use stay below 10 MiB.
            frame_bytes: 16 << 20,
            // The largest body that a server of the official TypeScript SDK accepts.
            body_bytes: 4 << 20,
            // The least that parsers of other languages accept; real messages stay below 20.
            depth: 128,
            // Duplicate keys are found by comparing all pairs, so this also bounds that work.
            members: 256,
        }
    }
}
