//! Newline framing without I/O: bytes go in as they come, whole lines come out. Memory is bounded by the limit, however
//! long a line is; of a line over the limit only the id is looked for.

// MCP 2025-11-25 transports, stdio: messages are delimited by newlines and must not contain embedded newlines.

use bytes::{Buf, Bytes, BytesMut};

use crate::envelope::Kind;
use crate::id::RequestId;
use crate::seek::Seek;

/// What was found between two newlines.
#[derive(Debug)]
pub enum Frame {
    /// A line, without its line ending, never blank. What is in it is for the scan to judge.
    Line(Bytes),
    /// A line over the limit, skipped.
    TooLong {
        /// The id at its top level, wherever it stood.
        id: Option<RequestId>,
        /// What it was, as far as its top-level keys tell.
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
    /// So much of the buffer holds no newline.
    searched: usize,
    skipped: Option<Skipped>,
}

/// A line that went over the limit and has not ended yet.
#[derive(Debug, Default)]
struct Skipped {
    seek: Seek,
    bytes: u64,
    /// The last byte was a carriage return: held back, as it belongs to the line ending if that comes next.
    carriage_return: bool,
}

/// A buffer that grew beyond this for a line that is then skipped is given back.
const KEEP_BYTES: usize = 64 << 10;

impl FrameDecoder {
    /// Takes lines of up to `limit_bytes`, line ending not counted.
    pub fn new(limit_bytes: usize) -> Self {
        FrameDecoder { buffer: BytesMut::new(), limit_bytes, searched: 0, skipped: None }
    }

    /// Where to put what was read. Only ever append to it.
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
            let line = self.buffer.split_to(self.searched + newline);
            self.buffer.advance(1);
            self.searched = 0;
            if let Some(frame) = self.end_line(line.freeze()) {
                return Some(frame);
            }
        }
    }

    /// The stream has ended: the last line, if it had no newline.
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
        self.seek.feed(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn end(self) -> Frame {
        Frame::TooLong { kind: self.seek.kind(), id: self.seek.id(), bytes: self.bytes }
    }
}

/// Makes a JSON text fit on one line. Valid JSON has raw line breaks only between tokens, where a space means the same: so
/// it is scanned first, or what is no JSON becomes some.
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
