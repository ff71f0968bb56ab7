//! Newline framing without I/O: bytes go in as they arrive, whole lines come out. Memory is bounded by the limit: a line over
//! the limit is skipped, and only its id is kept.

// MCP 2025-11-25 transports, stdio: messages are delimited by newlines and must not contain embedded newlines.

use bytes::{Buf, Bytes, BytesMut};

use crate::envelope::Kind;
use crate::id::RequestId;
use crate::id_finder::IdFinder;

/// What is between two newlines.
#[derive(Debug)]
pub enum Frame {
    /// A line without its line ending, never blank, not scanned yet.
    Line(Bytes),
    /// A line over the limit, skipped.
    TooLong {
        /// The id at its top level, wherever in the line it was.
        id: Option<RequestId>,
        /// Its kind, as far as its top-level keys show it.
        kind: Option<Kind>,
        /// Its length without the line ending.
        bytes: u64,
    },
}

/// Cuts a byte stream into lines. The result does not depend on how the stream was split into reads.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    limit_bytes: usize,
    /// How many bytes of the buffer are known to hold no newline.
    searched: usize,
    skipped: Option<Skipped>,
}

/// A line over the limit that has not ended yet.
#[derive(Debug, Default)]
struct Skipped {
    finder: IdFinder,
    bytes: u64,
    /// The last byte was a carriage return. It is held back, because it belongs to the line ending if a newline follows.
    carriage_return: bool,
}

/// A buffer that grew beyond this for a line that is then skipped is freed.
const KEEP_BYTES: usize = 64 << 10;

impl FrameDecoder {
    /// Accepts lines of up to `limit_bytes`, not counting the line ending.
    pub fn new(limit_bytes: usize) -> Self {
        FrameDecoder { buffer: BytesMut::new(), limit_bytes, searched: 0, skipped: None }
    }

    /// The buffer to read into. Must only be appended to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole line, if there is one.
    #[expect(clippy::should_implement_trait, reason = "more bytes may come after None")]
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            let newline = memchr::memchr(b'\n', self.buffer.get(self.searched..).unwrap_or_default());
            let Some(newline) = newline else {
                self.searched = self.buffer.len();
                if self.skipped.is_some() || self.over_limit() {
                    self.skip();
                }
                return None;
            };
            if newline == 0 && self.searched == 0 && self.skipped.is_none() {
                self.buffer.advance(1); // blank: most of what this costs would be the slice
                continue;
            }
            let line = self.buffer.split_to(self.searched + newline);
            self.buffer.advance(1);
            self.searched = 0;
            if let Some(frame) = self.end_line(line.freeze()) {
                return Some(frame);
            }
        }
    }

    /// Drops the whole lines that have come, for the price of finding their ends. Returns their number, blank ones included.
    pub fn discard(&mut self) -> u64 {
        let (mut lines, mut end) = (0, 0);
        for newline in memchr::memchr_iter(b'\n', &self.buffer) {
            (lines, end) = (lines + 1, newline + 1);
        }
        if end > 0 {
            self.buffer.advance(end);
            (self.searched, self.skipped) = (0, None);
        }
        let next = self.next(); // of what is left, only the start is kept if it is over the limit
        debug_assert!(next.is_none(), "no newline is left");
        lines
    }

    /// The last line, if it has no newline. To be called when the stream has ended.
    pub fn finish(&mut self) -> Option<Frame> {
        if let Some(frame) = self.next() {
            return Some(frame);
        }
        self.searched = 0;
        let line = self.buffer.split();
        self.end_line(line.freeze())
    }

    /// A carriage return may turn out to belong to the line ending.
    fn over_limit(&self) -> bool {
        let ending = usize::from(self.buffer.last() == Some(&b'\r'));
        self.buffer.len() - ending > self.limit_bytes
    }

    fn skip(&mut self) {
        let skipped = self.skipped.get_or_insert_default();
        skipped.feed(&self.buffer);
        self.searched = 0;
        if self.buffer.capacity() > KEEP_BYTES {
            self.buffer = BytesMut::new();
        } else {
            self.buffer.clear();
        }
    }

    /// A line ends with what is in `rest`.
    fn end_line(&mut self, rest: Bytes) -> Option<Frame> {
        let line = rest.strip_suffix(b"\r").unwrap_or(&rest);
        let skipped = self.skipped.take();
        if skipped.is_some() || line.len() > self.limit_bytes {
            let mut skipped = skipped.unwrap_or_default();
            skipped.feed(&rest);
            return Some(skipped.end());
        }
        let line = rest.slice_ref(line);
        (!line.trim_ascii().is_empty()).then_some(Frame::Line(line))
    }
}

impl Skipped {
    fn feed(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.carriage_return) {
            self.count(b"\r");
        }
        let held = bytes.strip_suffix(b"\r");
        self.carriage_return = held.is_some();
        self.count(held.unwrap_or(bytes));
    }

    fn count(&mut self, bytes: &[u8]) {
        self.finder.feed(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn end(self) -> Frame {
        Frame::TooLong { kind: self.finder.kind(), id: self.finder.id(), bytes: self.bytes }
    }
}

/// Replaces raw line breaks by spaces. The text must have been scanned: valid JSON has raw line breaks only between tokens,
/// where a space means the same, but in other texts the change could make valid JSON of them.
pub fn one_line(body: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &body).is_none() {
        return body;
    }
    let mut line = BytesMut::from(body);
    for byte in line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    line.freeze()
}
