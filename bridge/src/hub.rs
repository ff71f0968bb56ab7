//! What all connections share while they handle an event: the poller, the deadlines, the log, the time, the settings.

use crate::args::Settings;
use crate::clock::{Deadlines, Moment};
use crate::files::OpenFiles;
use crate::log::Log;
use crate::orphan::Nonce;
use crate::poller::Poller;

pub(crate) struct Hub {
    pub(crate) settings: Settings,
    /// The limit of open files the bridge was started with, for its children.
    pub(crate) open_files: OpenFiles,
    pub(crate) nonce: Nonce,
    pub(crate) poller: Poller,
    pub(crate) deadlines: Deadlines,
    pub(crate) log: Log,
    /// When this turn of the event loop began.
    pub(crate) now: Moment,
    /// Where bytes are read to before they go on; nothing stays in it between two events.
    pub(crate) scratch: Vec<u8>,
}

impl Hub {
    /// # Errors
    /// What the kernel said when asked for an epoll instance.
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

/// What a pipe of ours holds: one read of a full pipe.
const SCRATCH_BYTES: usize = 256 * 1024;
