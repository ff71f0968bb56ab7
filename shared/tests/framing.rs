//! Lines from a byte stream, however it was split.

use bytes::Bytes;
use wire::frame::{FrameDecoder, one_line};
use wire::frame_io::{FrameReader, FrameWriter};
use wire::id::RequestId;
use wire::splice::Parts;
use wire::{Frame, Kind};

#[test]
fn lines_are_returned_without_endings_and_blank_lines_skipped() {
    let mut decoder = FrameDecoder::new(5);
    decoder.buffer().extend_from_slice(b"\n \r\n12345\r\n{}\nlast");
    let lines: Vec<Bytes> = std::iter::from_fn(|| decoder.next().or_else(|| decoder.finish()))
        .map(|frame| match frame {
            Frame::Line(line) => line,
            Frame::TooLong { .. } => panic!("nothing is too long here"),
        })
        .collect();
    assert_eq!(lines, ["12345", "{}", "last"]);
}

#[test]
fn id_of_a_skipped_line_is_found_at_any_position() {
    let filler = format!(r#""result":{{"id":1,"t":"{}\",\"id\":2"}}"#, "x".repeat(100));
    for text in [format!(r#"{{"id": 77 ,{filler}}}"#), format!(r#"{{{filler},"jsonrpc":"2.0","id":77}}"#)] {
        let mut decoder = FrameDecoder::new(20);
        let mut frames = Vec::new();
        for byte in text.bytes().chain(*b"\r\n{}\n") {
            decoder.buffer().extend_from_slice(&[byte]);
            frames.extend(decoder.next());
            assert!(decoder.buffer().len() <= 21);
        }
        let Frame::TooLong { id, kind, bytes } = &frames[0] else { panic!("{frames:?}") };
        assert_eq!(id.as_ref().and_then(RequestId::as_u64), Some(77));
        assert_eq!((*kind, *bytes), (Some(Kind::Response), text.len() as u64));
        assert!(matches!(&frames[1], Frame::Line(line) if line == "{}"));
    }
}

#[test]
fn discarded_lines_are_counted_and_the_start_of_the_next_is_kept() {
    let mut decoder = FrameDecoder::new(10);
    assert_eq!(decoder.discard(), 0);
    decoder.buffer().extend_from_slice(b"{}\n\n[]\nlas");
    assert!(matches!(decoder.next(), Some(Frame::Line(line)) if line == "{}"));
    assert_eq!(decoder.discard(), 2);
    decoder.buffer().extend_from_slice(b"t\n");
    assert!(matches!(decoder.next(), Some(Frame::Line(line)) if line == "last"));
    // Of a line over the limit nothing is kept, and its end ends it here too.
    for _ in 0..3 {
        decoder.buffer().extend_from_slice(&[b'x'; 100]);
        assert_eq!(decoder.discard(), 0);
        assert!(decoder.buffer().is_empty());
    }
    decoder.buffer().extend_from_slice(b"x\n[1]");
    assert_eq!(decoder.discard(), 1);
    assert!(matches!(decoder.finish(), Some(Frame::Line(line)) if line == "[1]"));
}

#[test]
fn line_breaks_between_tokens_become_spaces() {
    assert_eq!(one_line(Bytes::from_static(b"{\r\n}")), "{  }");
}

#[tokio::test]
async fn what_is_written_is_read() {
    let (near, far) = tokio::io::duplex(7);
    let writing = async {
        let mut writer = FrameWriter::new(near);
        let message = Parts::from_iter([Bytes::from_static(b"{\"a\":"), Bytes::from_static(b"1}")]);
        writer.write_all([message, Parts::from(Bytes::from_static(b"[]"))]).await.expect("write");
        writer.shutdown().await.expect("shutdown");
    };
    let reading = async {
        let mut reader = FrameReader::new(far, 100);
        let mut lines = Vec::new();
        while let Some(frame) = reader.next().await.expect("read") {
            match frame {
                Frame::Line(line) => lines.push(line),
                Frame::TooLong { .. } => panic!("too long"),
            }
        }
        lines
    };
    let ((), lines) = tokio::join!(writing, reading);
    assert_eq!(lines, ["{\"a\":1}", "[]"]);
}

#[tokio::test]
async fn write_that_was_dropped_is_finished_by_the_next() {
    let (near, far) = tokio::io::duplex(3);
    let mut writer = FrameWriter::new(near);
    let first = Parts::from_iter([Bytes::from_static(b"[12345"), Bytes::from_static(b"6789]")]);
    tokio::select! {
        biased;
        result = writer.write(first) => panic!("nobody reads, yet {result:?}"),
        () = std::future::ready(()) => {}
    }
    let mut reader = FrameReader::new(far, 100);
    let writing = async {
        writer.write(Parts::from(Bytes::from_static(b"{}"))).await.expect("write");
        writer.shutdown().await.expect("shutdown");
    };
    let reading = async {
        let mut lines = Vec::new();
        loop {
            // Dropped and called again as often as it waits.
            let frame = tokio::select! {
                biased;
                frame = reader.next() => frame.expect("read"),
                () = tokio::task::yield_now() => continue,
            };
            match frame {
                Some(Frame::Line(line)) => lines.push(line),
                Some(other) => panic!("{other:?}"),
                None => return lines,
            }
        }
    };
    let ((), lines) = tokio::join!(writing, reading);
    assert_eq!(lines, ["[123456789]", "{}"]);
}
