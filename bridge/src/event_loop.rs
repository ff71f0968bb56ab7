//! What connections and processes share while they handle an event: the poller, the deadlines, the log, the time, the
//! settings. The loop itself is in `serve`.

use crate::args::Settings;
use crate::clock::{Deadlines, Moment};
use crate::files::OpenFiles;
use crate::log::Log;
use crate::orphan::Nonce;
use crate::poller::Poller;

/// The state of the event loop that every connection and process uses.
pub(crate) struct EventLoop {
    pub(crate) settings: Settings,
    /// The limit of open files that the bridge was started with; children get it back.
    pub(crate) open_files: OpenFiles,
    pub(crate) nonce: Nonce,
    pub(crate) poller: Poller,
    pub(crate) deadlines: Deadlines,
    pub(crate) log: Log,
    /// When the present turn of the event loop began.
    pub(crate) now: Moment,
    /// The read buffer; nothing stays in it between two events.
    pub(crate) scratch: Vec<u8>,
}

impl EventLoop {
    /// # Errors
    /// The kernel's error when it was asked for an epoll instance.
    pub(crate) fn new(settings: Settings, open_files: OpenFiles) -> nix::Result<Self> {
        Ok(Self {
            settings,
            open_files,
            nonce: Nonce::new(),
            poller: Poller::new()?,
            deadlines: Deadlines::default(),
            log: Log::default(),
            now: crate::clock::now(),
            scratch: vec![0; SCRATCH_BYTES],
        })
    }
}

/// The size of our pipes, so that one read empties a full one.
const SCRATCH_BYTES: usize = 256 * 1024;
