//! The task that writes a connection: all that is queued goes out in one vectored write.

use std::sync::Arc;

use tokio::task::yield_now;
use wire::frame_io::FrameWriter;

use super::{Conn, Phase};
use crate::upstream::link::Outgoing;

/// Writes until the connection ends.
pub(super) async fn run(conn: Arc<Conn>, outgoing: Outgoing) {
    let mut writer = FrameWriter::new(outgoing);
    let _watch = PanicWatch(&conn);
    tokio::select! {
        () = conn.cut.cancelled() => {} // may cut a line, whose rest nobody reads
        () = write(&conn, &mut writer) => {}
    }
}

/// Ends the connection if its writer panics; what is queued on it would wait for its deadline otherwise.
struct PanicWatch<'c>(&'c Conn);

impl Drop for PanicWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.die();
        }
    }
}

async fn write(conn: &Conn, writer: &mut FrameWriter<Outgoing>) {
    let timeout = conn.context.config.write_timeout;
    loop {
        match conn.next_batch(writer) {
            Batch::Lines { bytes } => {
                conn.context.metrics.sent.inc_by(bytes);
                match tokio::time::timeout(timeout, writer.write_put()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(server = %conn.spec.server, conn = conn.spec.number, %error, "write failed");
                        return conn.die();
                    }
                    Err(_) => {
                        tracing::warn!(server = %conn.spec.server, conn = conn.spec.number, "server stopped reading");
                        return conn.die();
                    }
                }
            }
            Batch::Nothing => {
                conn.wake.notified().await;
                // While other calls are in flight a call seldom comes alone: other ready tasks may queue theirs first.
                // Together they cost one write here, and one wake-up at every process downstream of it.
                if conn.in_flight() > 1 {
                    yield_now().await;
                }
            }
            Batch::End => {
                let _ = tokio::time::timeout(timeout, writer.shutdown()).await; // the reader sees the result
                return;
            }
        }
    }
}

enum Batch {
    /// Lines were put into the writer.
    Lines {
        bytes: u64,
    },
    Nothing,
    End,
}

impl Conn {
    /// Puts the next messages into the writer. From here on a request among them counts as written.
    fn next_batch(&self, writer: &mut FrameWriter<Outgoing>) -> Batch {
        let (reads, mut state) = (self.reads(), self.state.lock());
        if state.phase != Phase::Open {
            return Batch::End;
        }
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(queued) = state.outbox.pop_front()
        {
            match queued.id {
                Some(id) => {
                    if let Some(pending) = state.mux.get_mut(id) {
                        pending.written = true;
                        if pending.work.is_call() {
                            let deadline = pending.liveness_deadline(self.context.config.call_timeout);
                            state.liveness.call_written(reads, deadline);
                        }
                    }
                }
                None => state.notes = state.notes.saturating_sub(1),
            }
            bytes += queued.line.len_bytes() + 1;
            writer.put(queued.line);
        }
        if bytes == 0 { Batch::Nothing } else { Batch::Lines { bytes: bytes as u64 } }
    }
}

/// Bytes of one write, not counting the last message in it. 256 KiB: enough to fill a pipe and a socket buffer, and
/// little enough for a server that reads at all to take within the write timeout.
const BATCH_BYTES: usize = 256 << 10;
