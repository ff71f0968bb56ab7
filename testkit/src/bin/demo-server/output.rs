//! stdout, shared by the reading thread and the timer thread.
//!
//! Guarantees that lines never mix and that what was put before a flush leaves in one write.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Cheap to clone; all clones are one stdout.
#[derive(Clone)]
pub(crate) struct Output {
    waiting: Arc<Mutex<Vec<u8>>>,
}

impl Output {
    pub(crate) fn stdout() -> Self {
        Output { waiting: Arc::default() }
    }

    /// Puts one message after those that wait, as the concatenation of `parts`.
    pub(crate) fn put(&self, parts: &[&str]) {
        let mut waiting = self.lock();
        for part in parts {
            waiting.extend_from_slice(part.as_bytes());
        }
        waiting.push(b'\n');
    }

    /// Writes what waits.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut waiting = self.lock();
        if waiting.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(&waiting).and_then(|()| stdout.flush());
        waiting.clear();
        if waiting.capacity() > KEPT_BYTES {
            *waiting = Vec::new();
        }
        written
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer that one large answer blew up past this is given back.
const KEPT_BYTES: usize = 4 * 1024 * 1024;
