//! Framing: what comes out depends on the bytes alone, not on how they were split, and never on more memory than the limit.

use wire::Frame;
use wire::frame::FrameDecoder;

/// The first byte is the limit, the second seeds the split, the rest is the stream.
pub fn check(data: &[u8]) {
    let [limit, seed, stream @ ..] = data else { return };
    let limit = usize::from(*limit);
    let expected = by_lines(stream, limit);
    assert_eq!(decode(stream, limit, |_| stream.len().max(1)), expected);
    assert_eq!(decode(stream, limit, |_| 1), expected);
    let mut state = u32::from(*seed);
    let uneven = |limit: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + (state >> 16) as usize % (limit + 2)
    };
    assert_eq!(decode(stream, limit, uneven), expected);
}

/// A frame in a form that can be compared.
#[derive(PartialEq, Debug)]
enum Seen {
    Line(Vec<u8>),
    TooLong { id: Option<String>, bytes: u64 },
}

fn decode(mut stream: &[u8], limit: usize, mut step: impl FnMut(usize) -> usize) -> Vec<Seen> {
    let mut decoder = FrameDecoder::new(limit);
    let mut seen = Vec::new();
    while !stream.is_empty() {
        let (read, rest) = stream.split_at(step(limit).min(stream.len()));
        decoder.buffer().extend_from_slice(read);
        stream = rest;
        while let Some(frame) = decoder.next() {
            seen.push(Seen::from(frame));
        }
        assert!(decoder.buffer().len() <= limit + 1, "holds more than a line and its ending");
    }
    while let Some(frame) = decoder.finish() {
        seen.push(Seen::from(frame));
    }
    seen
}

/// The same by the shortest way, with the whole stream at hand.
fn by_lines(stream: &[u8], limit: usize) -> Vec<Seen> {
    let mut lines: Vec<&[u8]> = stream.split(|&byte| byte == b'\n').collect();
    let unfinished = lines.pop().filter(|last| !last.is_empty());
    let lines = lines.into_iter().chain(unfinished);
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines
        .filter_map(|line| match line.len() <= limit {
            true if line.trim_ascii().is_empty() => None,
            true => Some(Seen::Line(line.to_vec())),
            false => Some(Seen::TooLong { id: top_level_id(line), bytes: line.len() as u64 }),
        })
        .collect()
}

/// What a decoder that may hold nothing finds in the line alone.
fn top_level_id(line: &[u8]) -> Option<String> {
    let mut decoder = FrameDecoder::new(0);
    decoder.buffer().extend_from_slice(line);
    decoder.buffer().extend_from_slice(b"\r\n");
    match decoder.next() {
        Some(Frame::TooLong { id, .. }) => id.map(|id| id.to_string()),
        other => unreachable!("a line longer than the limit gave {other:?}"),
    }
}

impl From<Frame> for Seen {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Line(line) => Seen::Line(line.to_vec()),
            Frame::TooLong { id, bytes, .. } => Seen::TooLong { id: id.map(|id| id.to_string()), bytes },
        }
    }
}
